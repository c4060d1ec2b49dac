"""Programs that this machine has kept: a second process that builds the same graph runs it at once.

Knows what an entry of the disk cache holds: linked code, what it needs to run, and constants that passes computed.  Must not
know passes, plans or LLVM, none of which a kept program loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from graphc.identity import Unspoken

from . import cache, table
from .image import Loaded, unpack
from .kept import DAMAGED, keeping
from .permission import permitted
from .running import Running

if TYPE_CHECKING:
    from graphc.assumed import Assumed
    from graphc.built import Built

    from .executable import Native

MOST_CONSTANTS = 16 << 20  # bytes of large constants that passes have computed, which are kept with a program


def key_of(built: Built, sizes: Mapping[str, int], threads: int, memory_budget: int | None, precision: str, assumed: Assumed
           ) -> bytes | None:
    """Under which a program of this graph, as it was built, is kept; None where it is not.

    assumed  what it relies on about its cells
    """
    found = keeping()
    if found is None:
        return None
    try:
        said = built.digest
    except Unspoken:
        return None
    numbers = [(name, int(size)) for name, size in sorted(sizes.items())]
    options = repr((numbers, threads, None if memory_budget is None else int(memory_budget), precision,
                    assumed.told(built.cells())))
    return cache.joint_key(b"program", found[1], said, options.encode())


def load(key: bytes, built: Built) -> Running | None:
    """The program that is kept under this key, on the cells of this graph, ready to run; None where there is none."""
    found = keeping()
    entry = found[0].lookup(key) if found is not None else None
    if entry is None:
        return None
    try:
        meta, cells = entry.meta, built.cells()
        if meta["matrix_unit"] and not permitted():
            return None
        code, rest = entry.data[: meta["bytes"]], entry.data[meta["bytes"] :]
        constants = []
        for said in meta["constants"]:
            if isinstance(said, int):
                array = np.ascontiguousarray(built.constant(said))
            else:
                array = np.frombuffer(rest, said[0], prod(said[1])).reshape(said[1]).copy()
                rest = rest[array.nbytes :]
            constants.append(array)
        return Running(Loaded(unpack(code, meta["image"])), table.unpack(meta["needs"]), [cells[k] for k in meta["cells"]],
                       constants, meta["threads"])
    except DAMAGED:
        return None


def store(key: bytes, built: Built, native: Native) -> None:
    """Keeps what a graph was compiled to, where it is an image and what passes have computed beforehand is not too large.

    Constants of the graph's own are not written to the disk: who finds the program has them.
    """
    places = {id(node.attributes["value"]): place for place, node in enumerate(built.graph.nodes) if "value" in node.attributes}
    made = [a for a in native.constants if id(a) not in places]
    found, image = keeping(), native.code.image
    if found is None or image is None or sum(a.nbytes for a in made) > MOST_CONSTANTS:
        return
    cells = {cell: place for place, cell in enumerate(built.cells())}
    code, meta = image.pack()
    found[0].store(key, b"".join((code, *(a.tobytes() for a in made))), {
        "image": meta, "bytes": len(code), "needs": native.needs, "cells": [cells[cell] for cell in native.cells],
        "constants": [places.get(id(a), (a.dtype.str, a.shape)) for a in native.constants], "threads": native.threads,
        "matrix_unit": native.target.pieces > 0 and native.target.has_matrix_unit})
