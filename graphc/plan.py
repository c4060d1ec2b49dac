"""The Plan: kernels over buffers, in order, with every buffer placed.

A Plan is a tree of `Kernel`, `Loop` and `Branch`.  Memory exists only here.  A kernel's body is a Graph whose inputs are
slots, one per buffer that it reads, and whose outputs are what it writes: so printer, interpreter and verifier work inside
kernels unchanged.  Must not know how a kernel is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from .cells import Cell
from .ir import Graph, Node, make
from .op import REGISTRY
from .records import NamedTuple, field, record
from .types import TensorType

ALIGNMENT = 64  # bytes: one cache line, and the widest vector


class Role(Enum):
    """Whose memory a buffer is."""

    INPUT = "input"  # the caller's array
    CELL = "cell"  # a parameter or state
    OUTPUT = "output"  # an array that the call returns
    CONSTANT = "constant"  # a large constant
    TEMPORARY = "temporary"  # a place in the arena


@record(frozen=True, eq=False)
class Buffer:
    """Row-major memory of one type.  Identity is the object."""

    name: str
    type: TensorType
    role: Role
    cell: Cell | None = None
    array: np.ndarray | None = None  # of a constant
    position: int = 0  # among the inputs or outputs

    @cached_property
    def bytes(self) -> int:
        return self.type.bytes

    def __repr__(self) -> str:
        return f"<{self.role.value} {self.name}: {self.type}>"


class Form(Enum):
    """The loop structure of a kernel."""

    MAP = "map"  # one pass over a space, all axes parallel
    ROWS = "rows"  # kept axes outside, reduced axes inside, vectorised along the last reduced axis
    COLUMNS = "columns"  # reduced axes inside, vectorised along the last kept axis
    CONTRACT = "contract"  # a contraction, with maps and folds over its result
    PREFIX = "prefix"  # a running fold along one axis
    SCATTER = "scatter"  # additions at data-dependent places
    ROUTINE = "routine"  # a row algorithm


class End(NamedTuple):
    """One side of a diagonal where a kernel's folds take nothing in, and its outputs over the space are known numbers.

    index[first] - index[second] > offset, of two axes of the space; numbers: (write, what it is there), behind a contraction
    only of outputs that anybody reads there
    """

    first: int
    second: int
    offset: int
    numbers: tuple[tuple[int, float], ...]


class Deal(NamedTuple):
    """How a kernel is dealt out: threads take whole items of an axis of its space, the same in all kernels that are dealt.

    reads, writes   of each buffer, its run, how many elements of an item follow each other: element p belongs to item
                    (p // run) % items.  0 where items do not have it each for themselves
    apart           the buffers, reads first and then writes, in which each item's elements lie together: memory that nobody
                    else reads.  Side by side, a core that fetches ahead takes lines away from the one that writes them
    """

    axis: int
    items: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    apart: frozenset[int] = frozenset()


@record(frozen=True, eq=False)
class Kernel:
    """One pass over memory.

    body      inputs are slots, one per buffer in `reads`; outputs one per buffer in `writes`
    space     sizes of the iteration space (of a contraction: of its result)
    axes      of that space, the reduced ones (ROWS, COLUMNS; of a contraction: those of the folds behind it)
    in_place  pairs (write, read) that may share memory: each element is read before it is written, by the same iteration
    ends      where a mask ends rows, or hides tiles: nothing has to be computed beyond
    dealt     how threads share it, where it goes together with others
    left      whether it reads what threads leave that others are dealt to: half of that is far from any of them
    """

    name: str
    form: Form
    body: Graph
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    space: tuple[int, ...]
    axes: tuple[int, ...] = ()
    in_place: frozenset[tuple[int, int]] = frozenset()
    ends: tuple[End, ...] = ()
    flops: int = 0
    phase: str = "forward"
    scope: str = ""
    notes: tuple[str, ...] = ()  # what was fused, and why something was not
    dealt: Deal | None = None
    left: bool = False

    workspace: ClassVar[tuple[Buffer, ...]] = ()

    @property
    def bytes(self) -> int:
        """Bytes read and written if each buffer moves once."""
        return sum(b.bytes for b in (*self.reads, *self.writes))

    def __repr__(self) -> str:
        return f"<kernel {self.name} {self.form.value}{list(self.space)}>"


@record(frozen=True, eq=False)
class Carry:
    """What each run of a loop hands to the next.

    start   outside: what the first run reads
    read    inside: the value before a run
    write   inside: the value after it
    last    outside: what the last run handed on; None where nobody asks
    spare   outside: runs write here and at `last` in turn.  None where `write` is an entry of a stack: then the next run
            reads that entry, and `last` is copied from the final one
    """

    start: Buffer
    read: Buffer
    write: Buffer
    last: Buffer | None
    spare: Buffer | None = None


@record(frozen=True, eq=False)
class Loop:
    """`count` runs of a plan, None where the caller says how many.  Cells hand their values from run to run.

    body       what one run does; its inputs and outputs are `sliced`, `shared` and `carried`
    sliced     pairs (whole outside, entry inside): arrays of which each run reads or writes its own entry
    shared     pairs (outside, inside): what every run reads
    carried    memory other than cells that each run hands to the next
    reverse    the last entry first
    workspace  memory outside that only the runs use: the body's arena first, where they share one
    """

    name: str
    count: int | None
    body: Plan
    reads: tuple[Buffer, ...] = ()
    writes: tuple[Buffer, ...] = ()
    sliced: tuple[tuple[Buffer, Buffer], ...] = ()
    shared: tuple[tuple[Buffer, Buffer], ...] = ()
    carried: tuple[Carry, ...] = ()
    reverse: bool = False
    workspace: tuple[Buffer, ...] = ()
    phase: str = "forward"
    scope: str = ""
    notes: tuple[str, ...] = ()

    in_place: ClassVar[frozenset[tuple[int, int]]] = frozenset()

    @property
    def parallel(self) -> bool:
        """Whether no run waits for another: then threads share the runs, each with an arena of its own."""
        return not self.carried and self.count is not None and self.count > 1

    @property
    def flops(self) -> int:
        return (self.count or 1) * self.body.flops

    def stack_of(self, entry: Buffer) -> Buffer | None:
        """The whole outside of which `entry` is a part."""
        return next((whole for whole, inside in self.sliced if inside is entry), None)


@record(frozen=True, eq=False)
class Branch:
    """One of two plans, by a bool buffer.  The operands are the inputs of both, the writes the outputs of both."""

    name: str
    flag: Buffer
    then: Plan
    otherwise: Plan
    operands: tuple[Buffer, ...] = ()
    writes: tuple[Buffer, ...] = ()
    workspace: tuple[Buffer, ...] = ()  # the arena of whichever runs
    phase: str = "forward"
    scope: str = ""
    notes: tuple[str, ...] = ()

    in_place: ClassVar[frozenset[tuple[int, int]]] = frozenset()

    @property
    def reads(self) -> tuple[Buffer, ...]:
        return (self.flag, *self.operands)

    @property
    def flops(self) -> int:
        return max(self.then.flops, self.otherwise.flops)


Step = Kernel | Loop | Branch


def bodies(step: Step) -> tuple[Plan, ...]:
    """The plans inside a step."""
    if isinstance(step, Loop):
        return (step.body,)
    return (step.then, step.otherwise) if isinstance(step, Branch) else ()


def repeated(plan: Plan) -> Loop:
    """What `run(n)` executes: the step as often as the caller says, outputs stacked, inputs the same or one per step."""
    return Loop("run", None, plan, sliced=tuple((b, b) for b in (*plan.inputs, *plan.outputs)))


@record(frozen=True, eq=False)
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
        return tuple(kernel for kernel, _ in self.runs)

    @cached_property
    def runs(self) -> tuple[tuple[Kernel, int], ...]:
        """All kernels, each with how often one step runs it (both sides of a branch count)."""
        found: list[tuple[Kernel, int]] = []
        for step in self.steps:
            if isinstance(step, Kernel):
                found.append((step, 1))
            times = step.count or 0 if isinstance(step, Loop) else 1
            found.extend((kernel, times * often) for inner in bodies(step) for kernel, often in inner.runs)
        return tuple(found)

    def each_plan(self) -> Iterator[Plan]:
        """The plan and all plans nested in it."""
        yield self
        for step in self.steps:
            for inner in bodies(step):
                yield from inner.each_plan()

    def home(self, buffer: Buffer) -> Buffer:
        """The buffer whose memory this one shares, itself where it has its own."""
        while buffer in self.aliases:
            buffer = self.aliases[buffer]
        return buffer

    @property
    def flops(self) -> int:
        return sum(step.flops for step in self.steps)


@lru_cache(maxsize=4096)
def slot(position: int, type_: TensorType) -> Node:
    """The body's view of a kernel's n-th buffer.  Equal slots are one node, so equal bodies are equal graphs."""
    return make(REGISTRY["input"], (), {"name": f"r{position}", "type": type_, "symbol": "slot"})


def body_key(kernel: Kernel, aliased: tuple[tuple[int, int], ...]) -> tuple:
    """Kernels of one key compile to one function; bodies are interned, so identity of the roots is enough."""
    return (kernel.form, kernel.space, kernel.axes, kernel.ends, kernel.dealt, kernel.left,
            tuple(n.number for n in kernel.body.roots),
            tuple(b.type for b in kernel.reads), tuple(b.type for b in kernel.writes), aliased)


def align(size: int) -> int:
    """size rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT
