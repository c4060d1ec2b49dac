"""Reductions: folds over axes, several of one space in one pass, maps before, between and after them.

Knows two loop structures: *rows* (vectors run along the reduced axes, a row after the other) and *columns* (vectors run
across results, the reduced axes are the loop).  A fold that depends on another one is a later *level*, a further pass
over the same row.  Must not know op names, buffers or how threads are made.

The order of every fold is fixed when the code is written: few long rows are cut into chunks of a fixed size, whose
partial results meet in shared memory and are joined in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from graphc.index import Index, linear, unravel
from graphc.ir import Node
from graphc.op import Fold, Kind
from graphc.plan import Form, Kernel, align

from .elements import LLVM, Action, Key, LoweringError, Memory, Scope, row_major
from .emit import Carried, Value, constant, i64, vector
from .loops import State, Work, affine_in, bind, scalar_cost
from .target import Target
from .tiles import quotient

CHUNK = 4096  # elements of a row that one partial result covers, at least
ROW_CHUNK = 256  # rows that one partial result of columns covers, at least
PARTS = 128  # partial results at most
FEW_ROWS = 32  # rows that are too few to be shared among threads
NARROW = 4  # rows up to this long are vectorised across rows
EXPENSIVE = 8  # operations that are worth a trip through row scratch
SCRATCH_LIMIT = 128 << 10  # bytes of row scratch
KEPT_VALUES = 4  # values of a row that scratch holds, at most
CHEAP_COLUMNS = 8  # operations per element up to which a block is four vectors wide
STRAIGHT = 4  # vectors of a row that stay in registers between levels


@dataclass(frozen=True, eq=False)
class Reduction:
    """One REDUCE node: its fold and the state's types."""

    node: Node
    fold: Fold
    types: tuple[str, ...]
    neutral: tuple[float | int | bool, ...]

    @property
    def positioned(self) -> bool:
        """Whether the fold asks for positions."""
        return len(self.types) > 1


@dataclass(frozen=True, eq=False)
class Passes:
    """What each pass over the space does: pass p runs when p levels of folds are finished."""

    reductions: tuple[tuple[Reduction, ...], ...]
    full: tuple[tuple[tuple[int, Node], ...], ...]  # outputs over the whole space, by pass
    kept: tuple[tuple[int, Node], ...]  # outputs over the kept space
    kept_axes: tuple[int, ...]
    axes: tuple[int, ...]
    kept_count: int
    reduced_count: int

    @property
    def all(self) -> tuple[Reduction, ...]:
        return tuple(r for level in self.reductions for r in level)


def reduction_of(node: Node) -> Reduction:
    fold, dtype = node.op.fold, node.inputs[0].dtype
    assert fold is not None
    return Reduction(node, fold, tuple(LLVM[d] for d in fold.state_dtypes(dtype)), tuple(fold.identity(dtype)))


@lru_cache(maxsize=256)
def passes_of(kernel: Kernel) -> Passes:
    space, axes = kernel.space, tuple(kernel.axes)
    kept_axes = tuple(a for a in range(len(space)) if a not in axes)
    kept_count, reduced_count = prod(space[a] for a in kept_axes), prod(space[a] for a in axes)
    depth: dict[Node, int] = {}
    levels: dict[int, list[Reduction]] = {}
    for node in kernel.body.nodes:
        depth[node] = max((depth[i] for i in node.inputs), default=0)
        if node.op.kind is Kind.REDUCE:
            if int(node.type.size) != kept_count or int(node.inputs[0].type.size) != kept_count * reduced_count:
                raise LoweringError(f"{kernel!r}: {node!r} folds another space")
            levels.setdefault(depth[node], []).append(reduction_of(node))
            depth[node] += 1
    outputs = list(enumerate(kernel.body.outputs))
    is_kept = [int(n.type.size) == kept_count for _, n in outputs]
    full = [(w, n) for (w, n), k in zip(outputs, is_kept, strict=True) if not k]
    count = max([*(d + 1 for d in levels), *(depth[n] + 1 for _, n in full)], default=0)
    in_place = {w for w, _ in kernel.in_place}
    by_pass = {w: count - 1 if w in in_place else depth[n] for w, n in full}
    return Passes(tuple(tuple(levels.get(p, ())) for p in range(count)),
                  tuple(tuple((w, n) for w, n in full if by_pass[w] == p) for p in range(count)),
                  tuple((w, n) for (w, n), k in zip(outputs, is_kept, strict=True) if k),
                  kept_axes, axes, kept_count, reduced_count)


@dataclass(frozen=True)
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
    return passes.reduced_count <= NARROW and passes.kept_count > 2 * passes.reduced_count


def reduction_scratch(kernel: Kernel, target: Target, serial: bool) -> tuple[int, int]:
    """(private, shared) bytes."""
    passes = passes_of(kernel)
    rows = kernel.form is Form.CONTRACT or (kernel.form is Form.ROWS and not across_rows(kernel, passes))
    chunks = None if serial else row_chunks(passes) if rows else column_chunks(passes)
    components = sum(len(r.types) for r in passes.all)
    if chunks is not None:
        partials = components * align(8 * passes.kept_count * chunks.count)
        results = len(passes.all) * align(8 * passes.kept_count)
        return (results, partials) if rows else (0, partials + results)
    row_bytes = align(8 * passes.reduced_count)
    if rows and len(passes.reductions) > 1 and KEPT_VALUES * row_bytes <= 4 * SCRATCH_LIMIT:
        return KEPT_VALUES * row_bytes, 0
    return 0, 0


class Folding:
    """The states of the reductions of one level, side by side in one list of values."""

    def __init__(self, w: Work, reductions: Sequence[Reduction], keys: Sequence[Key], position: Index) -> None:
        self.w, self.reductions, self.keys, self.position = w, reductions, keys, position

    def initial(self, lanes: int) -> State:
        return [constant(v, vector(lanes, t)) for r in self.reductions for v, t in zip(r.neutral, r.types, strict=True)]

    def lifted(self) -> State:
        """The states of the current element; neutral in lanes that do not exist."""
        e = self.w.elements
        result: State = []
        for r, x in zip(self.reductions, e.emit(self.keys), strict=True):
            position = Value("0", "i64")
            if r.positioned:
                position = e.s.cast(e.index(self.position), "int64")
            parts = list(r.fold.lift(e.s, x, position))
            result += [e.broadcast(p) for p in parts] if e.lane is not None else parts
        return result

    def combine(self, p: State, q: State) -> State:
        result: State = []
        place = 0
        for r in self.reductions:
            end = place + len(r.types)
            result += r.fold.combine(self.w.elements.s, tuple(p[place:end]), tuple(q[place:end]))
            place = end
        return result

    def tree(self, states: list[State]) -> State:
        while len(states) > 1:
            states = [self.combine(*states[i:i + 2]) if i + 1 < len(states) else states[i]
                      for i in range(0, len(states), 2)]
        return states[0]

    def across_lanes(self, state: State) -> State:
        """One scalar state from a vector of them: halves are joined until one lane is left."""
        f = self.w.f
        lanes = state[0].lanes
        while lanes > 1:
            half = lanes // 2
            parts = []
            for start in (0, half):
                order = ", ".join(f"i32 {start + i}" for i in range(half))
                parts.append([f.emit(f"shufflevector {v}, {v.type} poison, <{half} x i32> <{order}>",
                                     vector(half, v.element)) for v in state])
            state = self.combine(*parts)
            lanes = half
        return [f.extract(v, 0) if v.lanes else v for v in state]

    def finish(self, states: list[State]) -> State:
        """All partial states of a row as one scalar state."""
        vectors = [s for s in states if s and s[0].lanes]
        scalars = [s for s in states if s and not s[0].lanes]
        total = [self.across_lanes(self.tree(vectors))] if vectors else []
        return self.tree([*total, *scalars])

    def results(self, state: State) -> dict[Node, Value]:
        values, place = {}, 0
        for r in self.reductions:
            values[r.node] = state[place + r.fold.result]
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

    def roots(self, p: int) -> list[Key]:
        """Everything that pass p computes."""
        return [*(self.operand(r) for r in self.passes.reductions[p]), *(self.full(n) for _, n in self.passes.full[p])]


def emit_rows(w: Work) -> None:
    """Folds along rows."""
    passes = passes_of(w.kernel)
    if passes.kept_count == 0:
        return
    if across_rows(w.kernel, passes):
        emit_columns(w)
        return
    Rows(w, passes).emit()


class Rows:
    """Vectors along the reduced axes."""

    def __init__(self, w: Work, passes: Passes) -> None:
        self.w, self.passes = w, passes
        self.k = Index.variable("k", passes.kept_count)
        sizes = [w.kernel.space[a] for a in passes.axes]
        for depth in range(len(sizes), 0, -1):
            self.outer_count, self.inner_count = prod(sizes[:len(sizes) - depth]), prod(sizes[len(sizes) - depth:])
            self.outer = Index.variable("ro", self.outer_count)
            self.inner = Index.variable("ri", self.inner_count)
            self.place = self.outer * self.inner_count + self.inner
            self.space = Space(w, passes, self.k, self.place)
            w.elements.steps.clear()
            self.space.declare()
            self.roots = [self.space.roots(p) for p in range(len(passes.reductions))]
            if all(affine_in(w.elements, roots, self.inner) for roots in self.roots):
                break
        w.limit_lanes(self.inner_count)
        self.costs = [w.body_cost(roots) + 2 * len(level)
                      for roots, level in zip(self.roots, passes.reductions, strict=True)]
        self.chunks = None if w.threads.alone else row_chunks(passes)
        if self.outer_count > 1:
            self.chunks = None

    def emit(self) -> None:
        w, f, e = self.w, self.w.f, self.w.elements
        for roots in self.roots:
            e.hoist(roots)
        if self.chunks is not None:
            self.emit_chunked(self.chunks)
            return
        with f.loop(*w.share(self.passes.kept_count)) as row:
            self.emit_row(row)

    def emit_row(self, row: Value) -> None:
        """One row: all its folds and outputs."""
        w, e = self.w, self.w.elements
        lanes = e.lanes
        vectors = -(-self.inner_count // lanes)
        whole = self.inner_count % lanes == 0
        straight = (self.outer_count == 1 and vectors <= STRAIGHT and (w.target.has_masks or whole)
                    and sum(self.costs) * vectors <= 160 and self.passes.reduced_count > 0)
        with e.inside(Scope(bind(self.k, row))):
            if straight:
                self.straight_row(vectors)
            else:
                self.looped_row()
            self.store_kept()

    def store_kept(self) -> None:
        w, kept = self.w, self.passes.kept
        if kept:
            w.store_all(kept, [self.space.kept_key(n) for _, n in kept], self.k)

    def folding(self, p: int) -> Folding:
        level = self.passes.reductions[p]
        return Folding(self.w, level, self.roots[p][:len(level)], self.place)

    def store_full(self, p: int) -> None:
        level, full = self.passes.reductions[p], self.passes.full[p]
        self.w.store_all(full, self.roots[p][len(level):], self.space.position)

    def straight_row(self, vectors: int) -> None:
        """A row that fits a few registers: no loop, and values stay from level to level."""
        w, e = self.w, self.w.elements
        lanes = e.lanes
        scopes = []
        for v in range(vectors):
            left = self.inner_count - v * lanes
            lane = None if self.inner.number is not None else next(iter(self.inner.variables()))
            mask = None if left >= lanes or lane is None else w.tail_mask(i64(left))
            scopes.append(Scope(bind(self.inner, i64(v * lanes)), lane, mask))
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            e.hoist(self.roots[p])
            states = []
            for scope in scopes:
                with e.inside(scope):
                    e.emit(self.roots[p])
                    if level:
                        lifted = folding.lifted()
                        states.append(w.merge(scope.mask, lifted, folding.initial(lanes)))
                    self.store_full(p)
            if level:
                e.scopes[-1].values.update(folding.results(folding.finish(states)))

    def looped_row(self) -> None:
        """One loop per level; expensive values that a later level needs again are kept in row scratch."""
        w, e = self.w, self.w.elements
        plan = self.values_to_save()
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            e.hoist(self.roots[p])
            saves = [(key, pointer) for first, key, pointer in plan if first == p]

            def body(state: State, p: int = p, folding: Folding = folding, saves: list = saves) -> State:
                e.emit(self.roots[p])
                new = folding.combine(state, folding.lifted()) if folding.reductions else []
                for key, pointer in saves:
                    e.store(key[0], e.emit([key])[0], pointer, self.place)
                self.store_full(p)
                return new

            if self.outer_count == 1:
                states = w.sweep(self.inner, i64(0), i64(self.inner_count), self.costs[p], body, folding.initial)
            else:
                states = self.outer_sweep(folding, p, body)
            for key, pointer in saves:
                e.saved[key] = (pointer, self.place)
            if level:
                e.scopes[-1].values.update(folding.results(folding.finish(states)))
        e.saved.clear()

    def outer_sweep(self, folding: Folding, p: int, body: Callable[[State], State]) -> list[State]:
        """The sweep inside a loop over the outer reduced axes: one state goes through all of it."""
        w, f, e = self.w, self.w.f, self.w.elements
        carried = Carried(folding.initial(0))
        with f.loop(0, self.outer_count, 1, carried) as line, e.inside(Scope(bind(self.outer, line))):
            e.hoist(self.roots[p])
            states = w.sweep(self.inner, i64(0), i64(self.inner_count), self.costs[p], body, folding.initial)
            if folding.reductions:
                carried.next = folding.combine(carried.values, folding.finish(states))
        return [carried.results]

    def values_to_save(self) -> list[tuple[int, Key, Value]]:
        """(pass that computes it, element, where it is kept) of expensive values that a later pass reads."""
        w, e = self.w, self.w.elements
        row_bytes = align(8 * self.passes.reduced_count)
        if len(self.roots) < 2 or KEPT_VALUES * row_bytes > 4 * SCRATCH_LIMIT:
            return []
        varying = self.outer.variables() | self.inner.variables()
        computed: dict[Key, int] = {}
        chosen: dict[Key, int] = {}
        for p, roots in enumerate(self.roots):
            stack, seen = list(roots), set()
            while stack:
                key = stack.pop()
                if key in seen:
                    continue
                seen.add(key)
                step = e.step(key)
                if (key in computed and step.action is Action.SCALAR and step.variables & varying
                        and self.cone_cost(key) >= EXPENSIVE):
                    chosen.setdefault(key, computed[key])
                    continue
                stack.extend(step.operands)
            for key in e.reachable(roots):
                computed.setdefault(key, p)
        result = []
        for i, (key, first) in enumerate(list(chosen.items())[:KEPT_VALUES]):
            result.append((first, key, w.f.offset(w.private, i64(i * row_bytes), "i8")))
        return result

    def cone_cost(self, key: Key) -> int:
        return sum(scalar_cost(k[0]) for k in self.w.elements.reachable([key]))

    # -- few long rows -----------------------------------------------------------------------------------------

    def emit_chunked(self, chunks: Chunks) -> None:
        """Chunks of rows to all threads; their partial results are joined by every thread for itself, in order."""
        w, f, e = self.w, self.w.f, self.w.elements
        rows, length = self.passes.kept_count, self.passes.reduced_count
        private = shared = 0
        results: dict[Node, Memory] = {}
        for p, level in enumerate(self.passes.reductions):
            if not level and not self.passes.full[p]:
                continue
            folding = self.folding(p)
            pointers: list[Value] = []
            for r in level:
                for _ in r.types:
                    pointers.append(f.offset(w.shared, i64(shared), "i8"))
                    shared += align(8 * rows * chunks.count)
            self.swept_chunks(p, folding, chunks, pointers, length)
            if not level:
                continue
            w.meet()
            for r in level:
                results[r.node] = row_major(r.node, f.offset(w.private, i64(private), "i8"))
                private += align(8 * rows)
            self.join_chunks(folding, chunks, pointers, results)
            for r in level:
                del e.folded[r.node]
                e.memory[r.node] = results[r.node]
            e.steps.clear()
            self.roots = [self.space.roots(q) for q in range(len(self.passes.reductions))]
        if self.passes.kept:
            with f.when(f.compare("icmp eq", w.threads.thread, i64(0))), f.loop(0, rows) as row, e.inside(
                    Scope(bind(self.k, row))):
                self.store_kept()

    def swept_chunks(self, p: int, folding: Folding, chunks: Chunks, pointers: list[Value], length: int) -> None:
        w, f, e = self.w, self.w.f, self.w.elements

        def body(state: State) -> State:
            e.emit(self.roots[p])
            new = folding.combine(state, folding.lifted()) if folding.reductions else []
            self.store_full(p)
            return new

        with f.loop(*w.share(self.passes.kept_count * chunks.count)) as item:
            row, chunk = quotient(f, item, chunks.count)
            low = f.mul(chunk, i64(chunks.size))
            high = f.minimum(f.add(low, i64(chunks.size)), i64(length))
            with e.inside(Scope(bind(self.k, row))):
                e.hoist(self.roots[p])
                states = w.sweep(self.inner, low, high, self.costs[p], body, folding.initial,
                                 aligned=length % e.lanes == 0 and chunks.size % e.lanes == 0)
                if folding.reductions:
                    for value, pointer in zip(folding.finish(states), pointers, strict=True):
                        self.store_part(value, pointer, item)

    def store_part(self, value: Value, pointer: Value, place: Value) -> None:
        f = self.w.f
        if value.type == "i1":
            value = f.convert("zext", value, "i8")
        f.store(value, f.offset(pointer, place, value.type))

    def load_part(self, type_: str, pointer: Value, place: Value) -> Value:
        f = self.w.f
        if type_ == "i1":
            return f.compare("icmp ne", f.load(f.offset(pointer, place, "i8"), "i8"), Value("0", "i8"))
        return f.load(f.offset(pointer, place, type_), type_)

    def join_chunks(self, folding: Folding, chunks: Chunks, pointers: list[Value], results: dict[Node, Memory]) -> None:
        f = self.w.f
        types = [t for r in folding.reductions for t in r.types]
        with f.loop(0, self.passes.kept_count) as row:
            carried = Carried(folding.initial(0))
            first = f.mul(row, i64(chunks.count))
            with f.loop(0, chunks.count, 1, carried) as chunk:
                part = [self.load_part(t, p, f.add(first, chunk)) for t, p in zip(types, pointers, strict=True)]
                carried.next = folding.combine(carried.values, part)
            for node, value in folding.results(carried.results).items():
                self.store_part(value, results[node].pointer, row)


def emit_columns(w: Work) -> None:
    """Folds across rows."""
    passes = passes_of(w.kernel)
    if passes.kept_count == 0:
        return
    Columns(w, passes).emit()


class Columns:
    """Vectors along kept axes, the reduced axes as a loop inside; a block of columns at a time."""

    def __init__(self, w: Work, passes: Passes) -> None:
        self.w, self.passes = w, passes
        e = w.elements
        self.r = Index.variable("r", passes.reduced_count)
        sizes = [w.kernel.space[a] for a in passes.kept_axes]
        for depth in range(len(sizes), 0, -1):
            cut = len(sizes) - depth
            self.outer_count, self.inner_count = prod(sizes[:cut]), prod(sizes[cut:])
            self.outer = Index.variable("ko", self.outer_count)
            self.inner = Index.variable("ki", self.inner_count)
            self.k = self.outer * self.inner_count + self.inner
            self.space = Space(w, passes, self.k, self.r)
            e.steps.clear()
            self.space.declare()
            self.roots = [self.space.roots(p) for p in range(len(passes.reductions))]
            keys = [*(k for roots in self.roots for k in roots), *(self.space.kept_key(n) for _, n in passes.kept)]
            if affine_in(e, keys, self.inner):
                break
        w.limit_lanes(self.inner_count)
        self.cost = max((w.body_cost(roots) + 2 for roots in self.roots), default=0)
        self.chunks = None if w.threads.alone else column_chunks(passes)
        lanes = e.lanes
        masks = w.target.has_masks
        vectors = -(-self.inner_count // lanes) if masks else self.inner_count // lanes
        most = 4 if self.cost <= CHEAP_COLUMNS else 2 if self.cost <= 3 * CHEAP_COLUMNS else 1
        if masks:
            blocks = max(1, -(-vectors // most))
            self.width = -(-vectors // blocks)
            self.blocks = -(-vectors // max(1, self.width))
        else:
            self.width = max((b for b in range(1, most + 1) if vectors % b == 0), default=1)
            self.blocks = vectors // self.width
        self.rest = 0 if masks else self.inner_count - vectors * lanes  # columns that no vector covers

    def emit(self) -> None:
        e = self.w.elements
        for roots in self.roots:
            e.hoist(roots)
        if self.chunks is not None:
            self.emit_chunked(self.chunks)
            return
        self.for_columns(1, self.emit_block)

    def for_columns(self, parts: int, block: Callable[[list[Scope], Value], None]) -> None:
        """Calls block(scopes, part) for this thread's blocks of columns, `parts` times each."""
        w, f, e = self.w, self.w.f, self.w.elements
        lanes = e.lanes
        if self.inner.number is not None:
            with f.loop(*w.share(self.outer_count * parts)) as item:
                outer, part = quotient(f, item, parts)
                with e.inside(Scope(bind(self.outer, outer))):
                    block([Scope()], part)
            return
        lane = next(iter(self.inner.variables()))
        if self.blocks:
            with f.loop(*w.share(self.outer_count * self.blocks * parts)) as item:
                rest, part = quotient(f, item, parts)
                outer, number = quotient(f, rest, self.blocks)
                low = f.mul(number, i64(self.width * lanes))
                exact = self.inner_count % (self.width * lanes) == 0 or self.rest
                scopes = []
                for u in range(self.width):
                    base = f.add(low, i64(u * lanes))
                    mask = None if exact else w.tail_mask(f.sub(i64(self.inner_count), base))
                    scopes.append(Scope(bind(self.inner, base), lane, mask))
                with e.inside(Scope(bind(self.outer, outer))):
                    block(scopes, part)
        if self.rest:
            with f.loop(*w.share(self.outer_count * self.rest * parts)) as item:
                rest, part = quotient(f, item, parts)
                outer, number = quotient(f, rest, self.rest)
                scope = Scope(bind(self.inner, f.add(number, i64(self.inner_count - self.rest))))
                with e.inside(Scope(bind(self.outer, outer))):
                    block([scope], part)

    def emit_block(self, scopes: list[Scope], part: Value) -> None:
        """All levels of a block of columns."""
        w, e = self.w, self.w.elements
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            for scope, state in zip(scopes, self.fold(p, folding, scopes, i64(0), i64(self.passes.reduced_count)),
                                    strict=True):
                if level:
                    scope.values.update(folding.results(state))
        if self.passes.kept:
            for scope in scopes:
                with e.inside(scope):
                    w.store_all(self.passes.kept, [self.space.kept_key(n) for _, n in self.passes.kept], self.k)

    def folding(self, p: int) -> Folding:
        level = self.passes.reductions[p]
        return Folding(self.w, level, self.roots[p][:len(level)], self.r)

    def fold(self, p: int, folding: Folding, scopes: list[Scope], low: Value, high: Value) -> list[State]:
        """One state per scope, over rows low to high; stores the outputs of pass p on the way."""
        f, e = self.w.f, self.w.elements
        for scope in scopes:
            with e.inside(scope):
                e.hoist(self.roots[p])
        lanes = e.lanes if scopes[0].lane is not None else 0
        length = self.passes.reduced_count
        unroll = max(1, 4 // len(scopes)) if self.cost <= CHEAP_COLUMNS and length >= 16 else 1
        width = len(folding.initial(lanes))

        def rows(start: Value, stop: Value, step: int, states: list[State]) -> list[State]:
            """states: for each unrolled row one per scope."""
            carried = Carried([v for s in states for v in s])
            with f.loop(start, stop, step, carried) as index:
                new: State = []
                for u in range(step):
                    with e.inside(Scope(bind(self.r, f.add(index, i64(u))))):
                        e.hoist(self.roots[p])
                        for i, scope in enumerate(scopes):
                            at = (u * len(scopes) + i) * width
                            with e.inside(scope), e.inside(Scope()):
                                new += self.one(p, folding, carried.values[at:at + width])
                carried.next = new
            flat = carried.results
            return [flat[i * width:(i + 1) * width] for i in range(len(flat) // width)] if width else states

        states = [folding.initial(lanes) for _ in range(unroll * len(scopes))]
        if unroll == 1:
            states = rows(low, high, 1, states)
        else:
            end = f.add(low, f.mul(f.binary("udiv", f.sub(high, low), i64(unroll)), i64(unroll)))
            states = rows(low, end, unroll, states)
            count = len(scopes)
            if not (low.number is not None and high.number is not None and (high.number - low.number) % unroll == 0):
                states[:count] = rows(end, high, 1, states[:count])
        return [folding.tree([states[u * len(scopes) + i] for u in range(unroll)]) if width else []
                for i in range(len(scopes))]

    def one(self, p: int, folding: Folding, state: State) -> State:
        """One row of one vector of columns."""
        w, e = self.w, self.w.elements
        e.emit(self.roots[p])
        new = folding.combine(state, folding.lifted()) if folding.reductions else []
        w.store_all(self.passes.full[p], self.roots[p][len(folding.reductions):], self.space.position)
        return new

    # -- many rows, few columns --------------------------------------------------------------------------------

    def emit_chunked(self, chunks: Chunks) -> None:
        """Chunks of rows to all threads; partial results are joined column by column, in order."""
        w, f, e = self.w, self.w.f, self.w.elements
        kept, length = self.passes.kept_count, self.passes.reduced_count
        shared = 0
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            parts: list[Value] = []
            for r in level:
                for _ in r.types:
                    parts.append(f.offset(w.shared, i64(shared), "i8"))
                    shared += align(8 * kept * chunks.count)

            def block(scopes: list[Scope], part: Value, p: int = p, folding: Folding = folding,
                      parts: list[Value] = parts) -> None:
                low = f.mul(part, i64(chunks.size))
                high = f.minimum(f.add(low, i64(chunks.size)), i64(length))
                for scope, state in zip(scopes, self.fold(p, folding, scopes, low, high), strict=True):
                    with e.inside(scope):
                        self.store_parts(folding, state, parts, part)

            self.for_columns(chunks.count, block)
            if not level:
                continue
            w.meet()
            results = {r.node: f.offset(w.shared, i64(shared + i * align(8 * kept)), "i8") for i, r in enumerate(level)}
            shared += len(level) * align(8 * kept)
            last = p == len(self.passes.reductions) - 1

            def joined(scopes: list[Scope], _: Value, folding: Folding = folding, parts: list[Value] = parts,
                       results: dict[Node, Value] = results) -> None:
                self.join(folding, scopes, parts, results, chunks)

            self.for_columns(1, joined)
            if not last or self.passes.kept:
                for r in level:
                    del e.folded[r.node]
                    pointer, node = results[r.node], r.node
                    e.memory[node] = row_major(node, pointer)
                e.steps.clear()
                self.roots = [self.space.roots(q) for q in range(len(self.passes.reductions))]
            if not last:
                w.meet()
        if self.passes.kept:
            def store(scopes: list[Scope], _: Value) -> None:
                for scope in scopes:
                    with e.inside(scope):
                        w.store_all(self.passes.kept, [self.space.kept_key(n) for _, n in self.passes.kept], self.k)

            self.for_columns(1, store)  # each thread's own columns: no barrier is needed

    def store_parts(self, folding: Folding, state: State, parts: list[Value], part: Value) -> None:
        """Partial states of a vector of columns, at [part, column]."""
        f = self.w.f
        place = 0
        for r in folding.reductions:
            for type_ in r.types:
                self.store_vector(state[place], f.offset(parts[place], f.mul(part, i64(self.passes.kept_count)),
                                                         "i8" if type_ == "i1" else type_))
                place += 1

    def store_vector(self, value: Value, pointer: Value) -> None:
        """Stores at the kept position of the current scope."""
        f, e = self.w.f, self.w.elements
        if value.element == "i1":
            value = f.convert("zext", value, "i8")
        address = f.offset(pointer, self.kept_offset(), value.element)
        if value.lanes and e.mask is not None:
            f.masked_store(value, address, e.mask)
        else:
            f.store(value, address)

    def kept_offset(self) -> Value:
        """The scalar kept position: of the first lane where there are lanes."""
        f, e = self.w.f, self.w.elements
        total = i64(0)
        for index, factor in ((self.outer, self.inner_count), (self.inner, 1)):
            if index.number is None:
                value = e.bound(next(iter(index.variables())))
                assert value is not None
                total = f.add(total, f.mul(value, i64(factor)))
        return total

    def join(self, folding: Folding, scopes: list[Scope], parts: list[Value], results: dict[Node, Value],
             chunks: Chunks) -> None:
        f, e = self.w.f, self.w.elements
        types = [t for r in folding.reductions for t in r.types]
        for scope in scopes:
            with e.inside(scope):
                lanes = e.lanes if scope.lane is not None else 0
                carried = Carried(folding.initial(lanes))
                with f.loop(0, chunks.count, 1, carried) as chunk:
                    read = []
                    for type_, pointer in zip(types, parts, strict=True):
                        memory = "i8" if type_ == "i1" else type_
                        start = f.offset(pointer, f.mul(chunk, i64(self.passes.kept_count)), memory)
                        start = f.offset(start, self.kept_offset(), memory)
                        wide = vector(lanes, memory)
                        value = f.masked_load(start, wide, e.mask) if lanes and e.mask is not None else f.load(start, wide)
                        read.append(f.compare("icmp ne", value, constant(0, value.type)) if type_ == "i1" else value)
                    carried.next = folding.combine(carried.values, read)
                for node, value in folding.results(carried.results).items():
                    self.store_vector(value, results[node])

