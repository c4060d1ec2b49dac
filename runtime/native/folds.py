"""Folds over axes: which a kernel has, the passes they take, how long ones are cut, and how states are combined.

A fold that depends on another one is a later *level*, a further pass over the same space.  Knows folds and their scratch
memory.  Must not know the loops around them (`rows`, `columns`), op names, buffers or how threads are made.

The order of every fold is fixed when the code is written: long ones are cut into chunks of a fixed size, whose partial results
meet in shared memory and are joined in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from graphc.garbage import remembered
from graphc.index import Index, linear, unravel
from graphc.ir import Node
from graphc.op import Fold, Kind
from graphc.plan import Form, Kernel, align
from graphc.records import NamedTuple, record

from .addresses import LLVM, row_major
from .loops import State, Work, across_lanes
from .recipes import Key
from .scopes import LoweringError
from .target import Target
from .values import Value, constant, vector

CHUNK = 4096  # elements of a row that one partial result covers, at least
ROW_CHUNK = 256  # rows that one partial result of columns covers, at least
PARTS = 128  # partial results at most
FEW_ROWS = 32  # rows that are too few to be shared among threads
NARROW = 4  # rows up to this long are vectorised across rows
SCRATCH_LIMIT = 128 << 10  # bytes of row scratch
KEPT_VALUES = 4  # values of a row that scratch holds, at most
BLOCK_LANES = 16  # rows of a block, at most
BLOCK_ROW = 64  # elements of a row that is finished with others, at most
BLOCK_POSITIONED = 1024  # of one whose positions are asked for and nothing else: joining two of its lanes is ten instructions
LEAST_POSITIONED = 128  # of such rows
LARGE = 1 << 16  # elements of a space whose loops are worth more code, and the time to compile it
LEAST_BLOCK = 4  # rows that are worth a block
LEAST_GROUP, MOST_GROUPS = 16, 64  # rows whose columns are summed up together; groups of them
INVARIANTS = 12  # numbers of whole rows that a block keeps, at most


class Reduction(NamedTuple):
    """One REDUCE node: its fold and the state's types."""

    node: Node
    fold: Fold
    types: tuple[str, ...]
    neutral: tuple[float | int | bool, ...]

    @property
    def positioned(self) -> bool:
        """Whether the fold asks for positions."""
        return len(self.types) > 1


class Passes(NamedTuple):
    """What each pass over the space does: pass p runs when p levels of folds are finished."""

    reductions: tuple[tuple[Reduction, ...], ...]
    full: tuple[tuple[tuple[int, Node], ...], ...]  # outputs over the whole space, by pass
    kept: tuple[tuple[int, Node], ...]  # outputs over the kept space
    kept_axes: tuple[int, ...]
    axes: tuple[int, ...]
    kept_count: int
    reduced_count: int
    across: tuple[tuple[Reduction, ...], ...]  # folds down the columns of rows, by the pass that has what they take
    summed: tuple[tuple[int, Node], ...]  # outputs of these

    @property
    def all(self) -> tuple[Reduction, ...]:
        return tuple(r for level in self.reductions for r in level)


def reduction_of(node: Node) -> Reduction:
    fold, dtype = node.op.fold, node.inputs[0].dtype
    types = [LLVM[d] for d in fold.state_dtypes(dtype)]
    if int(node.inputs[0].type.size) < 1 << 31:  # positions beside floats: as many of them fill a vector
        types[1:] = ["i32" if t == "i64" else t for t in types[1:]]
    return Reduction(node, fold, tuple(types), tuple(fold.identity(dtype)))


@remembered
def passes_of(kernel: Kernel) -> Passes:
    space, axes = kernel.space, tuple(kernel.axes)
    kept_axes = tuple(a for a in range(len(space)) if a not in axes)
    kept_count, reduced_count = prod(space[a] for a in kept_axes), prod(space[a] for a in axes)
    depth: dict[Node, int] = {}
    levels: dict[int, list[Reduction]] = {}
    down: dict[Node, int] = {}
    for node in kernel.body.nodes:
        depth[node] = max((depth[i] for i in node.inputs), default=0)
        if node.op.kind is Kind.REDUCE and goes_across(kernel, node):
            down[node] = depth[node]
        elif node.op.kind is Kind.REDUCE:
            if int(node.type.size) != kept_count or int(node.inputs[0].type.size) != kept_count * reduced_count:
                raise LoweringError(f"{kernel!r}: {node!r} folds another space")
            levels.setdefault(depth[node], []).append(reduction_of(node))
            depth[node] += 1
    summed = tuple((w, n) for w, n in enumerate(kernel.body.outputs) if n in down)
    outputs = [(w, n) for w, n in enumerate(kernel.body.outputs) if n not in down]
    is_kept = [int(n.type.size) == kept_count for _, n in outputs]
    full = [(w, n) for (w, n), k in zip(outputs, is_kept, strict=True) if not k]
    count = max([*(d + 1 for d in (*levels, *down.values())), *(depth[n] + 1 for _, n in full)], default=0)
    in_place = {w for w, _ in kernel.in_place}
    by_pass = {w: count - 1 if w in in_place else depth[n] for w, n in full}
    return Passes(tuple(tuple(levels.get(p, ())) for p in range(count)),
                  tuple(tuple((w, n) for w, n in full if by_pass[w] == p) for p in range(count)),
                  tuple((w, n) for (w, n), k in zip(outputs, is_kept, strict=True) if k),
                  kept_axes, axes, kept_count, reduced_count,
                  tuple(tuple(reduction_of(n) for n, at in down.items() if at == p) for p in range(count)), summed)


def goes_across(kernel: Kernel, node: Node) -> bool:
    """Whether a fold of a ROWS kernel goes down its columns."""
    return (kernel.form is Form.ROWS and node.inputs[0].shape == kernel.space and node.attributes["axes"] != kernel.axes
            and sorted((*kernel.axes, *node.attributes["axes"])) == list(range(len(kernel.space))))


def row_group(passes: Passes) -> int:
    """Rows that add to one partial result of their columns: the same for any number of threads, and whole blocks of rows."""
    least = max(LEAST_GROUP, -(-passes.kept_count // MOST_GROUPS))
    return -(-least // BLOCK_LANES) * BLOCK_LANES


@record(frozen=True)
class Chunks:
    """How a long reduction is cut: the same for any number of threads."""

    size: int
    count: int


def row_chunks(passes: Passes) -> Chunks | None:
    """The chunks of few long rows; None where whole rows are shared among threads."""
    rows, length = passes.kept_count, passes.reduced_count
    if not 0 < rows < FEW_ROWS or length < 2 * CHUNK:
        return None
    size = max(CHUNK, -(-rows * length // PARTS))
    size = -(-size // 256) * 256
    return Chunks(size, -(-length // size))


def column_chunks(passes: Passes) -> Chunks | None:
    """The chunks of rows where there are too few columns to share among threads."""
    if passes.kept_count >= 1024 or passes.reduced_count < 2 * ROW_CHUNK:
        return None
    size = max(ROW_CHUNK, -(-passes.reduced_count // 32))
    return Chunks(size, -(-passes.reduced_count // size))


def across_rows(kernel: Kernel, passes: Passes) -> bool:
    """Rows so short that vectors run across them."""
    return bool(passes.kept_axes) and passes.reduced_count <= NARROW and passes.kept_count > 2 * passes.reduced_count


def block_rows(kernel: Kernel, passes: Passes) -> int:
    """How many rows are finished together; 1 where rows are so long, or so simple, that their ends do not matter."""
    positioned = (passes.kept_count >= LEAST_POSITIONED and len(passes.reductions) == 1
                  and any(r.positioned for r in passes.all))
    if (kernel.form is not Form.ROWS or not passes.kept_axes
            or not 1 < passes.reduced_count <= (BLOCK_POSITIONED if positioned else BLOCK_ROW)
            or not any(len(passes.reductions) > 1 or not r.fold.joins_at_once(r.node.inputs[0].dtype)
                       for r in passes.all)):
        return 1
    rows = BLOCK_LANES
    while rows > 1 and rows * 4 > passes.kept_count:
        rows //= 2
    return rows if rows >= LEAST_BLOCK else 1


def numbers_bytes(count: int) -> int:
    """Bytes of an array of so many numbers of any type."""
    return align(8 * count)


def reduction_scratch(kernel: Kernel, target: Target, serial: bool) -> tuple[int, int]:
    """(private, shared) bytes."""
    passes = passes_of(kernel)
    private, shared = scratch_along(kernel, passes, serial)
    return private, shared + sum(len(level) for level in passes.across) * group_bytes(passes)


def group_bytes(passes: Passes) -> int:
    """Bytes of one number for each column of each group of rows."""
    return numbers_bytes(-(-passes.kept_count // row_group(passes)) * passes.reduced_count)


def scratch_along(kernel: Kernel, passes: Passes, serial: bool) -> tuple[int, int]:
    """(private, shared) bytes of the folds over the kernel's axes."""
    rows = kernel.form is Form.CONTRACT or (kernel.form is Form.ROWS and not across_rows(kernel, passes))
    chunks = None if serial else row_chunks(passes) if rows else column_chunks(passes)
    components = sum(len(r.types) for r in passes.all)
    if chunks is not None:
        partials = components * numbers_bytes(passes.kept_count * chunks.count)
        results = len(passes.all) * numbers_bytes(passes.kept_count)
        return (results, partials) if rows else (0, partials + results)
    row_bytes = numbers_bytes(passes.reduced_count)
    if rows and (block := block_rows(kernel, passes)) > 1:
        numbers = (components * BLOCK_LANES + len(passes.all) + INVARIANTS) * 8 * BLOCK_LANES
        return numbers + (KEPT_VALUES * block * row_bytes if len(passes.reductions) > 1 else 0), 0
    along = kernel.form in (Form.ROWS, Form.CONTRACT)
    if along and len(passes.reductions) > 1 and KEPT_VALUES * row_bytes <= 4 * SCRATCH_LIMIT:
        return KEPT_VALUES * row_bytes, 0
    return 0, 0


class Folding:
    """The states of the reductions of one level, side by side in one list of values."""

    def __init__(self, w: Work, reductions: Sequence[Reduction], keys: Sequence[Key], position: Index) -> None:
        self.w, self.reductions, self.keys, self.position = w, reductions, keys, position
        self.types = [t for r in reductions for t in r.types]

    def initial(self, lanes: int) -> State:
        return [constant(v, vector(lanes, t)) for r in self.reductions for v, t in zip(r.neutral, r.types, strict=True)]

    def lifted(self) -> State:
        """The states of the current element; neutral in lanes that do not exist."""
        e = self.w.elements
        result: State = []
        for r, x in zip(self.reductions, e.emit(self.keys), strict=True):
            position = Value("0", "i64")
            if r.positioned:
                position = e.s.cast(e.index(self.position), "int32" if r.types[1] == "i32" else "int64")
            parts = list(r.fold.lift(e.s, x, position))
            result += [e.broadcast(p) for p in parts] if e.lane is not None else parts
        return result

    def combine(self, p: State, q: State) -> State:
        """Two states of elements in any order."""
        return self._join(p, q, [r.fold.combine for r in self.reductions])

    def append(self, p: State, q: State) -> State:
        """The state `p` with that of an element behind all of its own."""
        return self._join(p, q, [r.fold.append or r.fold.combine for r in self.reductions])

    def _join(self, p: State, q: State, bodies: Sequence[Callable[..., tuple]]) -> State:
        result: State = []
        place = 0
        for r, body in zip(self.reductions, bodies, strict=True):
            end = place + len(r.types)
            result += body(self.w.elements.s, tuple(p[place:end]), tuple(q[place:end]))
            place = end
        return result

    def tree(self, states: list[State]) -> State:
        while len(states) > 1:
            states = [self.combine(*states[i:i + 2]) if i + 1 < len(states) else states[i]
                      for i in range(0, len(states), 2)]
        return states[0]

    def finish(self, states: list[State]) -> State:
        """All partial states of a row as one scalar state."""
        vectors = [s for s in states if s and s[0].lanes]
        scalars = [s for s in states if s and not s[0].lanes]
        total = [across_lanes(self.w.f, self.tree(vectors), self.combine)] if vectors else []
        return self.tree([*total, *scalars])

    def results(self, state: State) -> dict[Node, Value]:
        values, place = {}, 0
        for r in self.reductions:
            value = state[place + r.fold.result]
            if r.node.dtype.name == "int64" and value.element == "i32":
                value = self.w.f.convert("sext", value, "i64")
            values[r.node] = value
            place += len(r.types)
        return values


class Space:
    """Symbolic positions of a reduction's space: kept position k, reduced position r."""

    def __init__(self, w: Work, passes: Passes, kept: Index, reduced: Index) -> None:
        self.w, self.passes, self.kept, self.reduced = w, passes, kept, reduced
        space = w.kernel.space
        indices: list[Index] = [Index((), 0)] * len(space)
        for axes, place in ((passes.kept_axes, kept), (passes.axes, reduced)):
            for axis, index in zip(axes, unravel(place, [space[a] for a in axes]), strict=True):
                indices[axis] = index
        self.indices = tuple(indices)
        self.position = linear(self.indices, space)

    def operand(self, r: Reduction) -> Key:
        """The element that a fold takes at (k, r)."""
        operand, axes = r.node.inputs[0], r.node.attributes["axes"]
        if operand.shape == self.w.kernel.space and tuple(axes) == self.passes.axes:
            return self.w.elements.key(operand, self.indices)
        shape = operand.shape
        kept = [a for a in range(len(shape)) if a not in axes]
        indices: list[Index] = [Index((), 0)] * len(shape)
        for group, place in ((kept, self.kept), (axes, self.reduced)):
            for axis, index in zip(group, unravel(place, [shape[a] for a in group]), strict=True):
                indices[axis] = index
        return self.w.elements.key(operand, indices)

    def full(self, node: Node) -> Key:
        indices = self.indices if node.shape == self.w.kernel.space else unravel(self.position, node.shape)
        return self.w.elements.key(node, indices)

    def kept_key(self, node: Node) -> Key:
        return self.w.elements.key(node, unravel(self.kept, node.shape))

    def declare(self) -> None:
        """The folds' results are values that scopes hold, one per kept position."""
        for r in self.passes.all:
            self.w.elements.folded[r.node] = self.kept

    def settle(self, results: Mapping[Node, Value]) -> None:
        """The folds' results lie in memory from now on: what was asked for before is asked for anew."""
        e = self.w.elements
        for node, pointer in results.items():
            del e.folded[node]
            e.memory[node] = row_major(node, pointer)
        e.steps.clear()

    def roots(self, p: int) -> list[Key]:
        """Everything that pass p computes: what its folds take, outputs, and what folds down columns take."""
        return [*(self.operand(r) for r in self.passes.reductions[p]), *(self.full(n) for _, n in self.passes.full[p]),
                *(self.full(r.node.inputs[0]) for r in self.passes.across[p])]
