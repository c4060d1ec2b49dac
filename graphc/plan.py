"""The Plan: kernels over buffers, in order, with every buffer placed.

A Plan is a tree of `Kernel`, `Loop` and `Branch`.  Memory exists only here.  A kernel's body is a Graph whose inputs are
slots, one per buffer that it reads, and whose outputs are what it writes: so printer, interpreter and verifier work inside
kernels unchanged.  Must not know how a kernel is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache

import numpy as np

from .ir import Cell, Graph, Node, make
from .op import REGISTRY
from .types import TensorType

ALIGNMENT = 64  # bytes: one cache line, and the widest vector


class Role(Enum):
    """Whose memory a buffer is."""

    INPUT = "input"  # the caller's array
    CELL = "cell"  # a parameter or state
    OUTPUT = "output"  # an array that the call returns
    CONSTANT = "constant"  # a large constant
    TEMPORARY = "temporary"  # a place in the arena


@dataclass(frozen=True, eq=False)
class Buffer:
    """Row-major memory of one type.  Identity is the object."""

    name: str
    type: TensorType
    role: Role
    cell: Cell | None = None
    array: np.ndarray | None = None  # of a constant
    position: int = 0  # among the inputs or outputs

    @property
    def bytes(self) -> int:
        return self.type.bytes

    def __repr__(self) -> str:
        return f"<{self.role.value} {self.name}: {self.type}>"


class Form(Enum):
    """The loop structure of a kernel."""

    MAP = "map"  # one pass over a space, all axes parallel
    ROWS = "rows"  # kept axes outside, reduced axes inside, vectorised along the last reduced axis
    COLUMNS = "columns"  # reduced axes inside, vectorised along the last kept axis
    CONTRACT = "contract"  # a contraction, and maps over its result
    PREFIX = "prefix"  # a running fold along one axis
    SCATTER = "scatter"  # additions at data-dependent places
    ROUTINE = "routine"  # a row algorithm


@dataclass(frozen=True, eq=False)
class Kernel:
    """One pass over memory.

    body      inputs are slots, one per buffer in `reads`; outputs one per buffer in `writes`
    space     sizes of the iteration space (of a contraction: of its result)
    axes      of that space, the reduced ones (ROWS, COLUMNS)
    in_place  pairs (write, read) that may share memory: each element is read before it is written, by the same iteration
    """

    name: str
    form: Form
    body: Graph
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    space: tuple[int, ...]
    axes: tuple[int, ...] = ()
    in_place: frozenset[tuple[int, int]] = frozenset()
    flops: int = 0
    phase: str = "forward"
    scope: str = ""
    notes: tuple[str, ...] = ()  # what was fused, and why something was not

    @property
    def bytes(self) -> int:
        """Bytes read and written if each buffer moves once."""
        return sum(b.bytes for b in (*self.reads, *self.writes))

    def __repr__(self) -> str:
        return f"<kernel {self.name} {self.form.value}{list(self.space)}>"


@dataclass(frozen=True, eq=False)
class Loop:
    """`count` runs of a plan, None where the caller says how many.  Cells hand their values from run to run.

    sliced   pairs (whole outside, one step inside): arrays of which each run reads or writes its own entry
    carried  pairs (from, to): memory other than cells that each run hands to the next
    """

    count: int | None
    body: Plan
    sliced: tuple[tuple[Buffer, Buffer], ...] = ()  # (whole outside, one step inside): inputs and outputs per step
    carried: tuple[tuple[Buffer, Buffer], ...] = ()
    reverse: bool = False


@dataclass(frozen=True, eq=False)
class Branch:
    """One of two plans, by a bool buffer."""

    flag: Buffer
    then: Plan
    otherwise: Plan


Step = Kernel | Loop | Branch


def repeated(plan: Plan) -> Loop:
    """What `run(n)` executes: the step as often as the caller says, outputs stacked, inputs the same or one per step."""
    return Loop(None, plan, sliced=tuple((b, b) for b in (*plan.inputs, *plan.outputs)))


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps in order, and where each temporary lives."""

    steps: tuple[Step, ...]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    cells: tuple[Buffer, ...]
    constants: tuple[Buffer, ...]
    copies: tuple[tuple[Buffer, Buffer], ...] = ()  # (from, to) after all steps: updates that could not be in place
    offsets: dict[Buffer, int] = field(default_factory=dict)  # bytes from the arena's start
    arena_bytes: int = 0
    live_bytes: int = 0  # the largest sum of temporaries alive at once: the lower bound of arena_bytes
    aliases: dict[Buffer, Buffer] = field(default_factory=dict)  # a temporary that lives in a cell, output or other

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """All kernels, those inside loops and branches too."""
        return tuple(self._kernels())

    def _kernels(self) -> Iterator[Kernel]:
        for step in self.steps:
            if isinstance(step, Kernel):
                yield step
            elif isinstance(step, Loop):
                yield from step.body.kernels
            else:
                yield from step.then.kernels
                yield from step.otherwise.kernels

    def home(self, buffer: Buffer) -> Buffer:
        """The buffer whose memory this one shares, itself where it has its own."""
        while buffer in self.aliases:
            buffer = self.aliases[buffer]
        return buffer

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.kernels)


@lru_cache(maxsize=4096)
def slot(position: int, type_: TensorType) -> Node:
    """The body's view of a kernel's n-th buffer.  Equal slots are one node, so equal bodies are equal graphs."""
    return make(REGISTRY["input"], (), {"name": f"r{position}", "type": type_, "symbol": "slot"})


def body_key(kernel: Kernel, aliased: tuple[tuple[int, int], ...]) -> tuple:
    """Kernels of one key compile to one function; bodies are interned, so identity of the roots is enough."""
    return (kernel.form, kernel.space, kernel.axes, tuple(n.number for n in kernel.body.roots),
            tuple(b.type for b in kernel.reads), tuple(b.type for b in kernel.writes), aliased)


def align(size: int) -> int:
    """size rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT
