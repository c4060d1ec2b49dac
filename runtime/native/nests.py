"""Loop nests of fused kernels: one pass over a space (MAP), folds along rows (ROWS) and along columns (COLUMNS).

Knows which loops are parallel, where the lanes lie, and the fixed order of every fold.  Must not know op names or buffers'
places.

The order in which a fold joins its elements depends on sizes alone, never on the number of threads, so results are the same
bits for any number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from graphc.index import Index, linear, unravel
from graphc.ir import Node
from graphc.op import Fold, Kind
from graphc.plan import Form, Kernel

from .element import LLVM, Elements, Key, Override, hoist, only_variable
from .emit import Carried, Function, Value, constant, i64, vector
from .target import Target

SERIAL = 1 << 15  # scalar operations below which one thread is quicker than two
CHUNK = 8192  # elements of a full reduction that are folded in one go
UNROLLED = 4  # independent accumulators
CHEAP = 8  # operations per element up to which a loop is unrolled


@dataclass
class Context:
    """What a kernel's function has at hand."""

    f: Function
    kernel: Kernel
    target: Target
    elements: Elements
    outputs: list[Value]  # addresses
    private: Value
    shared: Value
    thread: Value
    threads: Value
    barrier: Callable[[], None]
    lanes: int


def lanes_of(kernel: Kernel, target: Target) -> int:
    """Lanes of a vector: as many as the widest float in the body allows (64-bit integers then take two registers)."""
    floats = [n.dtype.itemsize for n in kernel.body.nodes if n.dtype.is_float]
    return target.lanes(max(floats, default=max((n.dtype.itemsize for n in kernel.body.nodes), default=4)))


def operations(kernel: Kernel) -> int:
    """Scalar operations of one run, for the choice between one thread and several."""
    return max(kernel.flops, 2 * sum(int(b.type.size) for b in (*kernel.reads, *kernel.writes)))


def share(f: Function, items: Value, thread: Value, threads: Value, block: int = 1) -> tuple[Value, Value]:
    """This thread's range of `items`, cut at multiples of `block`."""
    blocks = f.binary("udiv", f.add(items, i64(block - 1)), i64(block)) if block > 1 else items
    low = f.mul(f.binary("udiv", f.mul(thread, blocks), threads), i64(block))
    high = f.mul(f.binary("udiv", f.mul(f.add(thread, i64(1)), blocks), threads), i64(block))
    return low, f.minimum(high, items)


@contextmanager
def on_one_thread(context: Context) -> Iterator[None]:
    f = context.f
    with f.when(f.compare("icmp eq", context.thread, i64(0))):
        yield


# -- which axes can be one loop --------------------------------------------------------------------------------------


def collapse(elements: Elements, roots: Sequence[Node], shape: Sequence[int]) -> tuple[int, ...]:
    """A shape of equal size with neighbouring axes joined wherever every access allows it."""
    if len(shape) <= 1 or prod(shape) == 0:
        return tuple(shape)
    sizes = [s for s in shape if s != 1] or [1]
    variables = tuple(Index.variable(f"c{a}", s) for a, s in enumerate(sizes))
    accesses = list(access_indices(elements, roots, linear(variables, sizes)))
    axis = len(sizes) - 1
    result = [sizes[-1]]
    while axis > 0:
        left, right = only_variable(variables[axis - 1]), only_variable(variables[axis])
        assert left is not None and right is not None
        joined = all(steps_match(a, left, right, sizes[axis]) for a in accesses)
        if joined:
            result[0] *= sizes[axis - 1]
        else:
            result.insert(0, sizes[axis - 1])
        axis -= 1
    return tuple(result)


def steps_match(access: Index, left: object, right: object, size: int) -> bool:
    outer, inner = access.factor(left), access.factor(right)  # type: ignore[arg-type]
    return outer is not None and inner is not None and outer == inner * size


def access_indices(elements: Elements, roots: Sequence[Node], flat: Index) -> Iterator[Index]:
    """Every index that matters for memory or value: places in slots and tables, guards, positions, gathers' axes."""
    seen: set[Key] = set()
    stack: list[Key] = [(r, unravel(flat, r.shape), ()) for r in roots]
    while stack:
        key = stack.pop()
        if key in seen:
            continue
        seen.add(key)
        node, indices, guards = key
        yield from (g for g, _, _ in guards)
        if node in elements.slots:
            yield linear(indices, node.shape)
        elif node in elements.overrides or node.op.kind is Kind.REDUCE:
            yield from indices  # known by the time it is read
        elif node.op.kind is Kind.SOURCE:
            if "axis" in node.attributes:
                yield indices[node.attributes["axis"]]
            elif int(node.type.size) > 1:
                yield linear(indices, node.shape)
        else:
            if node.op.kind is Kind.GATHER:
                yield from (i for a, i in enumerate(indices) if a != node.attributes["axis"])
            stack.extend(elements.needs(key))


# -- the vector loop -------------------------------------------------------------------------------------------------


def vector_loop(context: Context, variable: Index, start: Value, stop: Value, body: Callable[[Carried], None],
                carried: Carried | None = None, *, copies: int = 1) -> None:
    """Runs `body` over [start, stop) in vectors, `copies` of them per round, then over the rest.

    `body(carried)` emits one vector; `carried` holds one set of values per copy.  The rest is one masked vector where the
    target has masks, else single elements.
    """
    f, elements, lanes = context.f, context.elements, context.lanes
    carried = carried or Carried([])
    per_copy = len(carried.values) // copies if copies else 0
    known = start.number is not None and stop.number is not None
    length = stop.number - start.number if known else None  # type: ignore[operator]
    here = start

    def rounds(step: int, count: int) -> None:
        nonlocal here
        span = f.sub(stop, start) if not known else i64(length or 0)
        whole = i64((length or 0) // step * step) if known else f.sub(span, f.binary("urem", span, i64(step)))
        end = f.add(start, whole)
        if known and here.number == end.number:
            return
        with f.loop(here, end, step, carried) as base:
            inside = list(carried.values)
            for copy in range(count):
                part = Carried(inside[copy * per_copy:(copy + 1) * per_copy])
                with elements.lane_loop(variable, f.add(base, i64(copy * lanes)), lanes):
                    body(part)
                inside[copy * per_copy:(copy + 1) * per_copy] = part.next
            carried.next = inside
        carried.values = list(carried.results)
        here = end

    if copies > 1:
        rounds(lanes * copies, copies)
    rounds(lanes, 1)
    if known and here.number == stop.number:
        carried.results = list(carried.values)
        return
    if context.target.has_masks:
        rest = f.sub(stop, here)
        masked = Carried(carried.values)
        if known:
            with elements.lane_loop(variable, here, lanes, f.lane_mask(rest, lanes)):
                part = Carried(carried.values[:per_copy])
                body(part)
            carried.values = [*part.next, *carried.values[per_copy:]]
        else:
            with f.loop(here, stop, lanes, masked) as base:  # at most once
                with elements.lane_loop(variable, base, lanes, f.lane_mask(f.sub(stop, base), lanes)):
                    part = Carried(masked.values[:per_copy])
                    body(part)
                masked.next = [*part.next, *masked.values[per_copy:]]
            carried.values = list(masked.results)
    else:
        scalar_rest(context, variable, here, stop, body)
    carried.results = list(carried.values)


def scalar_rest(context: Context, variable: Index, start: Value, stop: Value, body: Callable[[Carried], None]) -> None:
    """The elements that fill no vector, one by one."""
    with context.f.loop(start, stop) as position, context.elements.lane_loop(variable, position, 0):
        body(Carried([]))


# -- MAP -------------------------------------------------------------------------------------------------------------


def emit_map(context: Context) -> None:
    """One pass over the space, outermost or longest axis shared among threads."""
    elements, kernel = context.elements, context.kernel
    roots = kernel.body.outputs
    total = prod(kernel.space)
    if total == 0:
        return
    sizes = collapse(elements, roots, kernel.space)
    variables = tuple(Index.variable(f"i{a}", s) for a, s in enumerate(sizes))
    flat = linear(variables, sizes)
    pairs = [(root, unravel(flat, root.shape)) for root in roots]
    if total == 1:
        with on_one_thread(context):
            store_all(context, pairs, flat)
        return
    if operations(kernel) < SERIAL:
        with on_one_thread(context):
            map_loops(context, sizes, variables, flat, pairs, None)
        return
    parallel = max(range(len(sizes)), key=lambda a: (sizes[a] if a < len(sizes) - 1 else sizes[a] // 16, -a))
    map_loops(context, sizes, variables, flat, pairs, parallel)


def store_all(context: Context, pairs: Sequence[tuple[Node, tuple[Index, ...]]], place: Index) -> None:
    elements = context.elements
    values = [elements.value(node, indices) for node, indices in pairs]
    for (node, _), value, pointer in zip(pairs, values, context.outputs, strict=True):
        elements.store(value, pointer, node.dtype, place)


def map_loops(context: Context, sizes: tuple[int, ...], variables: tuple[Index, ...], flat: Index,
              pairs: Sequence[tuple[Node, tuple[Index, ...]]], parallel: int | None) -> None:
    f, elements = context.f, context.elements

    def nest(axis: int) -> None:
        low, high = i64(0), i64(sizes[axis])
        if axis == parallel:
            block = 4 * context.lanes if axis == len(sizes) - 1 else 1
            low, high = share(f, high, context.thread, context.threads, block)
        if axis == len(sizes) - 1:
            hoist(elements, pairs, [variables[axis]])
            vector_loop(context, variables[axis], low, high, lambda _: store_all(context, pairs, flat))
            return
        with elements.scope():
            hoist(elements, pairs, variables[axis:])
            with f.loop(low, high) as position, elements.scope():
                elements.bind(variables[axis], position)
                nest(axis + 1)

    with elements.scope():
        nest(0)


# -- folds -----------------------------------------------------------------------------------------------------------


def identities(fold: Fold, node: Node, lanes: int) -> list[Value]:
    dtype = node.inputs[0].dtype
    return [constant(v, vector(lanes, LLVM[d]))
            for v, d in zip(fold.identity(dtype), fold.state_dtypes(dtype), strict=True)]


def fold_of(node: Node) -> Fold:
    assert node.op.fold is not None
    return node.op.fold


def fold_element(context: Context, node: Node, indices: tuple[Index, ...], position: Index, state: Sequence[Value]
                 ) -> list[Value]:
    """The state after one more element (or vector of elements); masked-off lanes stay as they were."""
    elements, fold = context.elements, fold_of(node)
    value = elements.wide(node.inputs[0], indices)
    place = elements._spread(elements.integer(position), elements.lanes)
    new = fold.combine(elements.s, tuple(state), fold.lift(elements.s, value, place))
    if elements.mask is None:
        return list(new)
    return [context.f.select(elements.mask, n, o) for n, o in zip(new, state, strict=True)]


def fold_lanes(context: Context, node: Node, state: Sequence[Value]) -> list[Value]:
    """Joins the lanes of vector states, halves by halves."""
    f, fold = context.f, fold_of(node)
    now = list(state)
    while now[0].lanes > 1:
        half = now[0].lanes // 2
        parts = []
        for start in (0, half):
            order = ", ".join(f"i32 {start + i}" for i in range(half))
            parts.append(tuple(f.emit(f"shufflevector {v}, {v.type} poison, <{half} x i32> <{order}>",
                                      vector(half, v.element)) for v in now))
        now = list(fold.combine(context.elements.s, *parts))
    return [f.extract(v, 0) if v.lanes else v for v in now]


def levels_of(kernel: Kernel) -> dict[Node, int]:
    """For every node, how many folds must be finished before it can be computed."""
    level: dict[Node, int] = {}
    for node in kernel.body.nodes:
        below = max((level[i] for i in node.inputs), default=0)
        level[node] = below + 1 if node.op.kind is Kind.REDUCE else below
    return level


def known_value(value: Value) -> Override:
    """An override by a value that is there already."""
    return lambda elements, indices, guards: value


class Rows:
    """ROWS: for each kept position, one loop over the reduced axes per level of folds."""

    def __init__(self, context: Context) -> None:
        kernel = context.kernel
        self.context, self.kernel = context, kernel
        space, axes = kernel.space, kernel.axes
        self.kept_sizes = [s for a, s in enumerate(space) if a not in axes]
        self.inner_sizes = [s for a, s in enumerate(space) if a in axes]
        self.rows, self.length = prod(self.kept_sizes), prod(self.inner_sizes)
        self.row = Index.variable("r", self.rows)
        kept = iter(unravel(self.row, self.kept_sizes))
        self.kept_place = linear(unravel(self.row, self.kept_sizes), self.kept_sizes)
        self.loops = self.inner_loops(space, axes, list(kept))
        self.position = linear(self.loops, self.loop_sizes)
        inner = iter(unravel(self.position, self.inner_sizes))
        kept = iter(unravel(self.row, self.kept_sizes))
        self.indices = tuple(next(inner) if a in axes else next(kept) for a in range(len(space)))
        self.flat = linear(self.indices, space)
        self.level = levels_of(kernel)
        self.folds = [n for n in kernel.body.nodes if n.op.kind is Kind.REDUCE]
        full, kept_count = prod(space), self.rows
        self.full_outputs = [(k, o) for k, o in enumerate(kernel.body.outputs)
                             if int(o.type.size) == full and not (kept_count == full and self.is_kept(o))]
        self.kept_outputs = [(k, o) for k, o in enumerate(kernel.body.outputs)
                             if (k, o) not in self.full_outputs]

    def is_kept(self, node: Node) -> bool:
        return self.level[node] > 0

    def inner_loops(self, space: tuple[int, ...], axes: tuple[int, ...], kept: list[Index]) -> list[Index]:
        """Loop variables over the reduced axes, neighbours joined where every access allows."""
        sizes = [s for s in self.inner_sizes if s != 1] or [1]
        trial = [Index.variable(f"c{a}", s) for a, s in enumerate(sizes)]
        inner = iter(unravel(linear(trial, sizes), self.inner_sizes))
        rest = iter(kept)
        indices = tuple(next(inner) if a in axes else next(rest) for a in range(len(space)))
        roots = [n.inputs[0] for n in self.kernel.body.nodes if n.op.kind is Kind.REDUCE]
        accesses = list(access_indices(self.context.elements, roots, linear(indices, space)))
        result = [sizes[-1]]
        for axis in range(len(sizes) - 1, 0, -1):
            left, right = only_variable(trial[axis - 1]), only_variable(trial[axis])
            if all(steps_match(a, left, right, sizes[axis]) for a in accesses):
                result[0] *= sizes[axis - 1]
            else:
                result.insert(0, sizes[axis - 1])
        self.loop_sizes = result
        return [Index.variable(f"k{a}", s) for a, s in enumerate(result)]

    def pairs(self, level: int) -> tuple[list[Node], list[tuple[int, Node]]]:
        """The folds and the full outputs that this level's loop computes."""
        return ([n for n in self.folds if self.level[n] == level + 1],
                [(k, o) for k, o in self.full_outputs if self.level[o] == level])

    def emit(self) -> None:
        context, f = self.context, self.context.f
        if self.rows == 0:
            return
        if self.rows == 1 and len(self.loop_sizes) == 1 and self.length > CHUNK:
            self.emit_chunked()
            return
        if operations(self.kernel) < SERIAL or self.rows == 1:
            with on_one_thread(context):
                self.emit_rows(i64(0), i64(self.rows))
            return
        low, high = share(f, i64(self.rows), context.thread, context.threads)
        self.emit_rows(low, high)

    def emit_rows(self, low: Value, high: Value) -> None:
        f, elements = self.context.f, self.context.elements
        with f.loop(low, high) as row, elements.scope():
            elements.bind(self.row, row)
            for level in range(max(self.level.values(), default=0) + 1):
                folds, outputs = self.pairs(level)
                if folds or outputs:
                    states = self.level_loop(folds, outputs, i64(0), i64(self.loop_sizes[-1]))
                    self.finish(folds, states)
            self.store_kept()

    def finish(self, folds: Sequence[Node], states: Sequence[Sequence[Value]]) -> None:
        """From here on the folds' results are known values."""
        for node, state in zip(folds, states, strict=True):
            result = state[fold_of(node).result]
            if node.dtype.name != self.dtype_of_result(node):
                result = self.context.elements.s.cast(result, node.dtype.name)
            self.context.elements.overrides[node] = known_value(result)

    def dtype_of_result(self, node: Node) -> str:
        fold = fold_of(node)
        return fold.state_dtypes(node.inputs[0].dtype)[fold.result]

    def store_kept(self) -> None:
        context, elements = self.context, self.context.elements
        ready = [(k, elements.value(o, unravel(self.kept_place, o.shape))) for k, o in self.kept_outputs]
        for (k, value), (_, node) in zip(ready, self.kept_outputs, strict=True):
            elements.store(value, context.outputs[k], node.dtype, self.kept_place)

    def operand_indices(self, node: Node) -> tuple[Index, ...]:
        shape = node.inputs[0].shape
        return self.indices if tuple(shape) == tuple(self.kernel.space) else unravel(self.flat, shape)

    def level_loop(self, folds: Sequence[Node], outputs: Sequence[tuple[int, Node]], low: Value, high: Value
                   ) -> list[list[Value]]:
        """One pass over the reduced axes (over [low, high) of the last loop); the folds' states, lanes joined."""
        context, f, elements = self.context, self.context.f, self.context.elements
        lanes = context.lanes
        pairs = [(o, unravel(self.flat, o.shape)) for _, o in outputs]
        work = [*pairs, *((n.inputs[0], self.operand_indices(n)) for n in folds)]
        cost = sum(1 for n in self.kernel.body.nodes if n.op.kind is Kind.MAP)
        copies = UNROLLED if folds and cost <= CHEAP and self.loop_sizes[-1] >= 2 * UNROLLED * lanes else 1
        if not context.target.has_masks:
            return self.level_loop_unmasked(folds, outputs, low, high, pairs, work)
        narrow = [identities(fold_of(n), n, lanes) for n in folds]
        initial = [v for _ in range(copies) for state in narrow for v in state]
        carried = Carried(initial)

        def body(part: Carried) -> None:
            values = [elements.value(o, i) for o, i in pairs]
            part.next = self.fold_all(folds, part.values)
            for (k, node), value in zip(outputs, values, strict=True):
                elements.store(value, context.outputs[k], node.dtype, self.flat)

        def nest(axis: int, held: Carried) -> None:
            if axis == len(self.loops) - 1:
                hoist(elements, work, [self.loops[axis]])
                vector_loop(context, self.loops[axis], low, high, body, held, copies=copies)
                return
            with f.loop(0, self.loop_sizes[axis], 1, held) as position, elements.scope():
                elements.bind(self.loops[axis], position)
                inner = Carried(held.values)
                nest(axis + 1, inner)
                held.next = inner.results
        with elements.scope():
            hoist(elements, work, self.loops)
            nest(0, carried)
        return self.join_copies(folds, carried.results, copies)

    def level_loop_unmasked(self, folds: Sequence[Node], outputs: Sequence[tuple[int, Node]], low: Value, high: Value,
                            pairs: list, work: list) -> list[list[Value]]:
        """As level_loop for targets without masks: whole vectors, then single elements into a scalar state."""
        context, f, elements = self.context, self.context.f, self.context.elements
        lanes = context.lanes
        wide = [v for n in folds for v in identities(fold_of(n), n, lanes)]
        single = [v for n in folds for v in identities(fold_of(n), n, 0)]
        carried = Carried([*wide, *single])
        k = len(wide)

        def step() -> None:
            values = [elements.value(o, i) for o, i in pairs]
            for (place, node), value in zip(outputs, values, strict=True):
                elements.store(value, context.outputs[place], node.dtype, self.flat)

        def nest(axis: int, held: Carried) -> None:
            if axis < len(self.loops) - 1:
                with f.loop(0, self.loop_sizes[axis], 1, held) as position, elements.scope():
                    elements.bind(self.loops[axis], position)
                    inner = Carried(held.values)
                    nest(axis + 1, inner)
                    held.next = inner.results
                return
            variable = self.loops[axis]
            hoist(elements, work, [variable])
            span = f.sub(high, low)
            middle = f.add(low, f.sub(span, f.binary("urem", span, i64(lanes))))
            first = Carried(held.values[:k])
            with f.loop(low, middle, lanes, first) as base, elements.lane_loop(variable, base, lanes):
                new = self.fold_all(folds, first.values)
                step()
                first.next = new
            second = Carried(held.values[k:])
            with f.loop(middle, high, 1, second) as base, elements.lane_loop(variable, base, 0):
                new = self.fold_all(folds, second.values)
                step()
                second.next = new
            held.results = [*first.results, *second.results]

        with elements.scope():
            hoist(elements, work, self.loops)
            nest(0, carried)
        joined = self.join_copies(folds, carried.results[:k], 1)
        rest = iter(carried.results[k:])
        result = []
        for node, state in zip(folds, joined, strict=True):
            extra = tuple(next(rest) for _ in state)
            result.append(list(fold_of(node).combine(elements.s, tuple(state), extra)))
        return result

    def fold_all(self, folds: Sequence[Node], states: Sequence[Value]) -> list[Value]:
        new: list[Value] = []
        rest = iter(states)
        for node in folds:
            width = len(fold_of(node).identity(node.inputs[0].dtype))
            state = [next(rest) for _ in range(width)]
            new += fold_element(self.context, node, self.operand_indices(node), self.position, state)
        return new

    def join_copies(self, folds: Sequence[Node], values: Sequence[Value], copies: int) -> list[list[Value]]:
        """The accumulators of all copies, then all lanes, joined in a fixed order."""
        per_copy = len(values) // copies if copies else 0
        result = []
        place = 0
        for node in folds:
            width = len(fold_of(node).identity(node.inputs[0].dtype))
            states = [list(values[c * per_copy + place:c * per_copy + place + width]) for c in range(copies)]
            while len(states) > 1:
                states = [list(fold_of(node).combine(self.context.elements.s, tuple(states[i]), tuple(states[i + 1])))
                          for i in range(0, len(states), 2)]
            result.append(fold_lanes(self.context, node, states[0]))
            place += width
        return result

    # -- one long row ------------------------------------------------------------------------------------------

    def emit_chunked(self) -> None:
        """A full reduction: threads fold fixed chunks into shared partial states, which all join in one order."""
        context, f, elements = self.context, self.context.f, self.context.elements
        elements.bind(self.row, i64(0))
        chunks = -(-self.length // CHUNK)
        low, high = share(f, i64(chunks), context.thread, context.threads)
        for level in range(max(self.level.values(), default=0) + 1):
            folds, outputs = self.pairs(level)
            if not folds and not outputs:
                continue
            with f.loop(low, high) as chunk, elements.scope():
                first = f.mul(chunk, i64(CHUNK))
                states = self.level_loop(folds, outputs, first, f.minimum(f.add(first, i64(CHUNK)), i64(self.length)))
                for _, values, start in zip(folds, states, partial_offsets(folds, chunks), strict=True):
                    for component, value in enumerate(values):
                        base = f.offset(context.shared, i64(start + component * chunks * 8), "i8")
                        f.store(as_memory(f, value), f.offset(base, f.mul(chunk, i64(8)), "i8"))
            if not folds:
                continue
            context.barrier()
            self.finish(folds, [self.join_chunks(n, start, chunks)
                                for n, start in zip(folds, partial_offsets(folds, chunks), strict=True)])
            if level + 1 <= max(self.level.values()):
                context.barrier()  # the partials' memory serves the next level too
        with on_one_thread(context), elements.scope():
            self.store_kept()

    def join_chunks(self, node: Node, start: int, chunks: int) -> list[Value]:
        f, fold = self.context.f, fold_of(node)
        initial = identities(fold, node, 0)
        carried = Carried(initial)
        with f.loop(0, chunks, 1, carried) as chunk:
            parts = []
            for component, like in enumerate(initial):
                base = f.offset(self.context.shared, i64(start + component * chunks * 8), "i8")
                parts.append(from_memory(f, f.offset(base, f.mul(chunk, i64(8)), "i8"), like.type))
            carried.next = list(fold.combine(self.context.elements.s, tuple(carried.values), tuple(parts)))
        return carried.results


def partial_offsets(folds: Sequence[Node], chunks: int) -> list[int]:
    """Bytes from the start of shared memory to each fold's partial states; 8 bytes per state component and chunk."""
    offsets, place = [], 0
    for node in folds:
        offsets.append(place)
        place += 8 * chunks * len(fold_of(node).identity(node.inputs[0].dtype))
    return offsets


def as_memory(f: Function, value: Value) -> Value:
    return f.convert("zext", value, "i8") if value.type == "i1" else value


def from_memory(f: Function, pointer: Value, type_: str) -> Value:
    if type_ != "i1":
        return f.load(pointer, type_)
    return f.compare("icmp ne", f.load(pointer, "i8"), Value("0", "i8"))


# -- COLUMNS ---------------------------------------------------------------------------------------------------------


class Columns(Rows):
    """COLUMNS: lanes along the last kept axis, the reduced axes inside, sums in registers."""

    def emit(self) -> None:
        context, f, elements, kernel = self.context, self.context.f, self.context.elements, self.kernel
        if self.rows == 0:
            return
        last = max((a for a in kernel.axes if kernel.space[a] != 1), default=-1)
        behind = sum(1 for a in range(last + 1, len(kernel.space)) if a not in kernel.axes)  # kept axes after it
        count = 1  # of those that the lanes run along: as many as fill a vector
        while count < behind and prod(self.kept_sizes[-count:]) < context.lanes:
            count += 1
        column_sizes, outer_sizes = self.kept_sizes[-count:], self.kept_sizes[:-count]
        width = prod(column_sizes)
        outer, column = Index.variable("o", prod(outer_sizes)), Index.variable("j", width)
        kept = [*unravel(outer, outer_sizes), *unravel(column, column_sizes)]
        self.kept_place = linear(kept, self.kept_sizes)
        inner_sizes = self.inner_sizes
        loops = tuple(Index.variable(f"k{a}", s) for a, s in enumerate(inner_sizes))
        self.position = linear(loops, inner_sizes)
        of_kept, of_inner = iter(kept), iter(loops)
        self.indices = tuple(next(of_inner) if a in kernel.axes else next(of_kept) for a in range(len(kernel.space)))
        self.flat = linear(self.indices, kernel.space)
        block = 4 * context.lanes
        blocks = -(-width // block)
        serial = operations(kernel) < SERIAL

        def work(low: Value, high: Value) -> None:
            with f.loop(low, high) as item, elements.scope():
                elements.bind(outer, f.binary("udiv", item, i64(blocks)))
                first = f.mul(f.binary("urem", item, i64(blocks)), i64(block))
                last = f.minimum(f.add(first, i64(block)), i64(width))
                vector_columns(first, last)

        def vector_columns(first: Value, last: Value) -> None:
            whole = f.sub(f.sub(last, first), f.binary("urem", f.sub(last, first), i64(context.lanes)))
            middle = f.add(first, whole)
            full = f.compare("icmp eq", f.sub(last, first), i64(block))
            together, apart, done = f.label("together"), f.label("apart"), f.label("joined")
            f.branch_if(full, together, apart)
            f.block(together)
            with elements.scope():
                self.fold_columns(column, first, loops, 4, None)
            f.branch(done)
            f.block(apart)
            with elements.scope():
                with f.loop(first, middle, context.lanes) as base:
                    self.fold_columns(column, base, loops, 1, None)
                if context.target.has_masks:
                    with f.loop(middle, last, context.lanes) as base:
                        self.fold_columns(column, base, loops, 1, f.lane_mask(f.sub(last, base), context.lanes))
                else:
                    with f.loop(middle, last) as base:
                        self.fold_columns(column, base, loops, 0, None)
            f.branch(done)
            f.block(done)

        items = prod(outer_sizes) * blocks
        if serial:
            with on_one_thread(context):
                work(i64(0), i64(items))
        else:
            work(*share(f, i64(items), context.thread, context.threads))

    def fold_columns(self, column: Index, first: Value, loops: tuple[Index, ...], copies: int, mask: Value | None
                     ) -> None:
        """One block of columns from top to bottom: `copies` vectors side by side (0: a single element)."""
        context, f, elements = self.context, self.context.f, self.context.elements
        lanes = context.lanes if copies else 0
        vectors = max(copies, 1)
        width = [len(fold_of(n).identity(n.inputs[0].dtype)) for n in self.folds]
        initial = [v for _ in range(vectors) for n in self.folds for v in identities(fold_of(n), n, lanes)]
        carried = Carried(initial)

        def at(copy: int) -> Value:
            return f.add(first, i64(copy * context.lanes))

        def nest(axis: int, held: Carried) -> None:
            if axis == len(loops):
                new: list[Value] = []
                for copy in range(vectors):
                    values = held.values[copy * sum(width):(copy + 1) * sum(width)]
                    with elements.lane_loop(column, at(copy), lanes, mask):
                        results = [(k, o, elements.value(o, unravel(self.flat, o.shape)))
                                   for k, o in self.full_outputs]
                        new += self.fold_all(self.folds, values)
                        for k, o, value in results:
                            elements.store(value, context.outputs[k], o.dtype, self.flat)
                held.next = new
                held.results = new
                return
            size = self.inner_sizes[axis]
            with f.loop(0, size, 1, held) as position, elements.scope():
                elements.bind(loops[axis], position)
                inner = Carried(held.values)
                nest(axis + 1, inner)
                held.next = inner.results
        nest(0, carried)
        saved = dict(elements.overrides)
        for copy in range(vectors):
            values = iter(carried.results[copy * sum(width):(copy + 1) * sum(width)])
            with elements.lane_loop(column, at(copy), lanes, mask):
                states = [[next(values) for _ in range(w)] for w in width]
                self.finish(self.folds, states)
                self.store_kept()
            elements.overrides = dict(saved)

    def operand_indices(self, node: Node) -> tuple[Index, ...]:
        shape = node.inputs[0].shape
        return self.indices if tuple(shape) == tuple(self.kernel.space) else unravel(self.flat, shape)


def shared_bytes(kernel: Kernel) -> int:
    """Shared memory for the partial states of a full reduction."""
    if kernel.form is not Form.ROWS:
        return 0
    length = prod(s for a, s in enumerate(kernel.space) if a in kernel.axes)
    folds = [n for n in kernel.body.nodes if n.op.kind is Kind.REDUCE]
    return partial_total(folds, -(-length // CHUNK)) if length > CHUNK else 0


def partial_total(folds: Sequence[Node], chunks: int) -> int:
    return sum(8 * chunks * len(fold_of(n).identity(n.inputs[0].dtype)) for n in folds)


__all__ = ["CHUNK", "SERIAL", "Columns", "Context", "Rows", "emit_map", "lanes_of", "map_loops", "operations", "share",
           "shared_bytes", "store_all", "vector_loop"]
