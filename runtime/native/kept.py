"""Code that this machine has kept: found without LLVM, without passes, and without the text that it was made of.

Knows keys of the disk cache, images, and what tells one machine from another.  Must not know how code is made.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from . import cache
from .image import LOADS_HERE, Addresses, Loaded, LoadError, unpack
from .target import cache_sizes

if TYPE_CHECKING:
    from .jit import Code

CPU = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")  # what the system says of a processor
HEAD = 16 << 10  # bytes of the system's list of processors that have the first one
DAMAGED = (LoadError, LookupError, TypeError, ValueError)  # what an entry that makes no sense raises


@lru_cache(maxsize=1)
def machine() -> bytes | None:
    """What code for this processor depends on; None where the system does not tell, or images are not loaded."""
    if not LOADS_HERE:
        return None
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read(HEAD).partition("\n\n")[0].splitlines()
    except OSError:
        return None
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if not all(told.get(name) for name in CPU):
        return None
    return repr([*(told[name] for name in CPU), cache_sizes()]).encode()


def keeping() -> tuple[cache.Cache, bytes] | None:
    """The cache, and what keys of images begin with; None where none are kept."""
    if cache.wanted() != "programs":
        return None
    store, here = cache.default(), machine()
    if store is None or here is None:
        return None
    return store, here + f" matrix unit: {os.environ.get('GRAPHC_MATRIX_UNIT')}".encode()


def code(name: str, make: Callable[[], Code]) -> Addresses:
    """Code of the runtime's own, kept, or else made: `make` imports what it needs itself."""
    found = keeping()
    if found is None:
        return make()
    store, here = found
    key = cache.joint_key(b"code", name.encode(), here, repr(sys.version_info).encode())
    entry = store.lookup(key)
    if entry is not None:
        with contextlib.suppress(*DAMAGED):
            return Loaded(unpack(entry.data, entry.meta))
    fresh = make()
    if fresh.image is not None:
        store.store(key, *fresh.image.pack())
    return fresh
