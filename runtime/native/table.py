"""The table of addresses that a step's code reads: which word holds what.

Knows buffers and their roles.  Must not know code, or whether a plan was made here or kept on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.plan import Buffer, Plan
from graphc.records import NamedTuple

if TYPE_CHECKING:
    from .marks import Part

COUNT, ARENA, SHARED, PRIVATE, PRIVATE_STRIDE, FIRST = range(6)  # words of the table


class Layout(NamedTuple):
    """Where the table has each buffer: (address word, stride word) of inputs and outputs, address word of the rest.

    marks   of a step that keeps a record of itself: the word of the first thread's region, behind it that of regions' stride
    parts   what its records' numbers stand for
    """

    words: dict[Buffer, int]
    strides: dict[Buffer, int]
    size: int
    private_bytes: int = 0
    shared_bytes: int = 0
    marks: int = 0
    parts: tuple[Part, ...] = ()


def table_layout(plan: Plan, marked: bool = False) -> Layout:
    """The table of a plan: five words, then per input and output an address and a stride, then cells and constants.

    marked   two more words come last
    """
    words: dict[Buffer, int] = {}
    strides: dict[Buffer, int] = {}
    place = FIRST
    for buffer in (*plan.inputs, *plan.outputs):
        words[buffer], strides[buffer] = place, place + 1
        place += 2
    for buffer in (*plan.cells, *constants_of(plan)):
        words[buffer] = place
        place += 1
    return Layout(words, strides, place + 2, marks=place) if marked else Layout(words, strides, place)


class Given(NamedTuple):
    """An input or output: the word of its address, behind which its stride is, and its type."""

    word: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class Needs(NamedTuple):
    """All that a step's code needs to run: words of the table, and memory.

    cells, constants  words of their addresses, in the plan's order
    words             of the table
    arena             bytes of temporaries
    shared, private   bytes of scratch of the team, and of each thread
    nanoseconds       about how long a step takes on one thread
    """

    inputs: tuple[Given, ...]
    outputs: tuple[Given, ...]
    cells: tuple[int, ...]
    constants: tuple[int, ...]
    words: int
    arena: int
    shared: int
    private: int
    nanoseconds: int


def needs_of(plan: Plan, layout: Layout, nanoseconds: float) -> Needs:
    """What a plan's code needs; a step takes about so long on one thread."""

    def given(buffers: tuple[Buffer, ...]) -> tuple[Given, ...]:
        return tuple(Given(layout.words[b], tuple(map(int, b.type.shape)), b.type.dtype.name) for b in buffers)

    return Needs(given(plan.inputs), given(plan.outputs), tuple(layout.words[b] for b in plan.cells),
                 tuple(layout.words[b] for b in constants_of(plan)), layout.size, plan.arena_bytes, layout.shared_bytes,
                 layout.private_bytes, int(nanoseconds))


def constants_of(plan: Plan) -> list[Buffer]:
    """The large constants of a plan and of the plans inside it, each once."""
    return list(dict.fromkeys(b for inner in plan.each_plan() for b in inner.constants))


def unpack(fields: Sequence[Any]) -> Needs:
    """The needs that these JSON values say, which a needs itself becomes as JSON."""
    inputs, outputs, cells, constants, *sizes = fields

    def given(values: Sequence[Any]) -> tuple[Given, ...]:
        return tuple(Given(word, tuple(shape), dtype) for word, shape, dtype in values)

    return Needs(given(inputs), given(outputs), tuple(cells), tuple(constants), *sizes)
