"""Running folds and additions at data-dependent places.

Knows that positions along one axis are taken in order, and that all other positions are independent.  Must not know op
names, buffers or how threads are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from graphc.index import Index, linear, unravel
from graphc.ir import Node
from graphc.op import Kind

from .addresses import LLVM
from .emit import Carried
from .loops import CHEAP, LINE, CountingScalar, State, Work, bind, output_key, variable_of
from .recipes import Key
from .scopes import LoweringError, Scope
from .sharing import share
from .values import Value, constant, i64, numbers, vector

MOST_VECTORS = 8  # whose running folds go on side by side
LEAST_LINE = 4  # elements of a line that are worth a vector
LEAST_LINE_BYTES = 64  # of a line that is added as a whole
PAGE, LEAST_BLOCKS = 4096, 16  # bytes of neighbouring places that belong to one thread; of which there are so many
SPREAD = 40503  # 2^16 over the golden ratio: multiples of it are spread evenly


def emit_prefix(w: Work) -> None:
    """A running fold along one axis: vectors across lines where the axis is not last, else along each line."""
    f, e, kernel = w.f, w.elements, w.kernel
    space = kernel.space
    if prod(space) == 0:
        return
    nodes = [n for n in kernel.body.nodes if n.op.kind is Kind.PREFIX]
    if len(nodes) != 1:
        raise LoweringError(f"{kernel!r}: one running fold is needed, there are {len(nodes)}")
    node = nodes[0]
    axis, reverse, fold = node.attributes["axis"], node.attributes["reverse"], node.op.fold
    dtype = node.inputs[0].dtype
    size = space[axis]
    outer_count, inner_count = prod(space[:axis]), prod(space[axis + 1:])
    outer, inner = Index.variable("outer", outer_count), Index.variable("inner", inner_count)
    step = Index.variable("step", size)
    place = (size - 1) - step if reverse else step
    indices = (*unravel(outer, space[:axis]), place, *unravel(inner, space[axis + 1:]))
    position = linear(indices, space)
    outputs = list(enumerate(kernel.body.outputs))
    operand = e.key(node.inputs[0], indices)
    e.folded[node] = linear(indices, node.shape)
    roots = [output_key(e, n, indices, space) for _, n in outputs]
    types = [LLVM[d] for d in fold.state_dtypes(dtype)]
    if inner_count == 1 and size >= LEAST_LINE and len(types) == 1:
        Along(w, node, outer, step, position, operand, roots).emit()
        return
    w.limit_lanes(inner_count)
    e.hoist([operand])

    def scan(scopes: Sequence[Scope]) -> None:
        """One line, or one line per lane of each scope; side by side, so that none waits for the additions of another."""
        lanes = 0 if scopes[0].lane is None and e.lane is None else e.lanes
        for scope in scopes:
            with e.inside(scope):
                e.hoist([operand])
        start = [constant(v, vector(lanes, t)) for v, t in zip(fold.identity(dtype), types, strict=True)]
        carried = Carried([v for _ in scopes for v in start])
        with f.loop(0, size, 1, carried) as index, e.inside(Scope(bind(step, index))):
            new: list[Value] = []
            for i, scope in enumerate(scopes):
                with e.inside(scope), e.inside(Scope()):
                    x = e.emit([operand])[0]
                    x = e.broadcast(x) if lanes else x
                    counted = e.index(step)
                    lifted = fold.lift(e.s, x, e.broadcast(counted) if lanes else counted)
                    before = carried.values[i * len(start):(i + 1) * len(start)]
                    state = fold.combine(e.s, tuple(before), tuple(lifted))
                    e.scopes[-1].values[node] = state[fold.result]
                    w.store_all(outputs, roots, position)
                    new += state
            carried.next = new

    def single(state: State) -> State:
        scan([Scope()])
        return state

    def lines(low: Value, high: Value) -> None:
        """Vectors side by side, as many as there are whole ones, and what is left of a line."""
        if not cheap or inner_count < 2 * e.lanes:
            w.sweep(inner, low, high, 100, single)
            return
        lane, rest, masks = variable_of(inner), vectors, w.target.has_masks
        if vectors > MOST_VECTORS or not masks:
            width = min(MOST_VECTORS, inner_count // e.lanes)
            whole = width * e.lanes
            if low.number is not None and high.number is not None:
                end = i64(low.number + (high.number - low.number) // whole * whole)
            else:
                end = f.add(low, f.mul(f.binary("udiv", f.sub(high, low), i64(whole)), i64(whole)))
            with f.loop(low, end, whole) as base:
                scan([Scope({lane: f.add(base, i64(u * e.lanes))}, lane, even=True) for u in range(width)])
            low, rest = end, vectors % width
        if not masks or not rest:
            w.sweep(inner, low, high, 100, single)
            return
        with f.loop(low, high, rest * e.lanes) as base:
            scopes = []
            for u in range(rest):
                start = f.add(base, i64(u * e.lanes))
                exact = by_outer and (u < rest - 1 or inner_count % e.lanes == 0)
                scopes.append(Scope({lane: start}, lane, None if exact else w.tail_mask(f.sub(high, start)), even=True))
            scan(scopes)

    counter = CountingScalar()
    fold.combine(counter, *[(counter,) * len(types)] * 2)
    cheap = counter.total + w.body_cost([operand, *(k for k in roots if k[0] is not node)]) <= CHEAP
    vectors = -(-inner_count // e.lanes)
    by_outer = outer_count >= 16 or inner_count == 1
    whole = (i64(0), i64(outer_count)), (i64(0), i64(inner_count))
    with w.ranges(outer_count) if by_outer else w.ranges(inner_count, LINE) as bounds:
        outer_range, inner_range = (bounds, whole[1]) if by_outer else (whole[0], bounds)
        with f.loop(*outer_range) as line, e.inside(Scope(bind(outer, line))):
            lines(*inner_range)


class Along:
    """A running fold along neighbouring elements: a vector's own running fold, in as many steps as it halves, behind a carry.

    The carry takes a vector's total and does not wait for what is stored, so that one operation lies between two vectors.
    """

    def __init__(self, w: Work, node: Node, outer: Index, step: Index, position: Index, operand: Key, roots: list[Key]) -> None:
        self.w, self.node, self.outer, self.step = w, node, outer, step
        self.position, self.operand, self.roots = position, operand, roots
        self.outputs = list(enumerate(w.kernel.body.outputs))
        self.fold = node.op.fold
        dtype = node.inputs[0].dtype
        self.type, self.neutral = LLVM[self.fold.state_dtypes(dtype)[0]], self.fold.identity(dtype)[0]

    def emit(self) -> None:
        w, f, e = self.w, self.w.f, self.w.elements
        size = w.kernel.space[self.node.attributes["axis"]]
        outer_count = prod(w.kernel.space) // size
        w.limit_lanes(size)
        lanes = e.lanes
        variable = next(iter(self.step.variables()))
        whole = size // lanes * lanes
        e.hoist([self.operand])
        with w.ranges(outer_count) as bounds, f.loop(*bounds) as line, e.inside(Scope(bind(self.outer, line))):
            e.hoist([self.operand])
            carried = Carried([constant(self.neutral, vector(lanes, self.type))])
            with f.loop(0, whole, lanes, carried) as index, e.inside(Scope({variable: index}, variable)):
                carried.next = [self.piece(carried.values[0])]
            if whole == size:
                return
            carry = carried.results[0]
            if w.target.has_masks:
                with e.inside(Scope({variable: i64(whole)}, variable, w.tail_mask(i64(size - whole)))):
                    self.piece(carry)
                return
            single = Carried([f.extract(carry, 0)])
            with f.loop(whole, size, 1, single) as index, e.inside(Scope({variable: index})):
                single.next = [self.stored(single.values[0], self.lifted())]

    def lifted(self) -> Value:
        e = self.w.elements
        return self.fold.lift(e.s, e.emit([self.operand])[0], e.index(self.step))[0]

    def combine(self, p: Value, q: Value) -> Value:
        return self.fold.combine(self.w.elements.s, (p,), (q,))[0]

    def stored(self, carry: Value, own: Value) -> Value:
        """Everything up to here, which is stored."""
        e = self.w.elements
        result = self.combine(carry, own)
        e.scopes[-1].values[self.node] = result
        self.w.store_all(self.outputs, self.roots, self.position)
        return result

    def piece(self, carry: Value) -> Value:
        """One vector; the carry behind it, in every lane."""
        f, e = self.w.f, self.w.elements
        lanes = e.lanes
        own = e.broadcast(self.lifted())
        distance = 1
        while distance < lanes:  # lanes are turned round, and those that came from behind stay as they are
            before = f.shuffle(own, [(i - distance) % lanes for i in range(lanes)])
            own = f.select(numbers([int(i >= distance) for i in range(lanes)], "i1"), self.combine(before, own), own)
            distance *= 2
        total = f.shuffle(own, [lanes - 1] * lanes)
        self.stored(carry, own)
        return self.combine(carry, total)


def emit_scatter(w: Work) -> None:
    """Zeros, to which values are added in the order of the index.

    Threads share the positions of the axes in front or, where whole lines are added, the places that they are added to: each
    reads all indices and takes those of its own places.  Halves of every line would be shared worse: what is fetched ahead
    of one half is the other thread's.
    """
    f, e, kernel = w.f, w.elements, w.kernel
    node = kernel.body.outputs[0]
    if len(kernel.body.outputs) != 1 or node.op.kind is not Kind.SCATTER:
        raise LoweringError(f"{kernel!r}: a scattering kernel writes what it scatters, and nothing else")
    index_node, updates_node = node.inputs
    axis, size = node.attributes["axis"], int(node.shape[node.attributes["axis"]])
    shape = updates_node.shape
    if int(node.type.size) == 0:
        return
    outer_count, count, inner_count = prod(shape[:axis]), shape[axis], prod(shape[axis + 1:])
    outer, inner = Index.variable("outer", outer_count), Index.variable("inner", inner_count)
    source, target = Index.variable("source", count), Index.variable("target", size)
    indices = (*unravel(outer, shape[:axis]), source, *unravel(inner, shape[axis + 1:]))
    index_key, updates_key = e.key(index_node, indices), e.key(updates_node, indices)
    to = w.writes[0]
    dtype = LLVM[node.dtype.name]
    w.limit_lanes(inner_count)
    e.hoist([index_key, updates_key])
    alone = outer_count < 16 and inner_count == 1
    by_outer = outer_count >= 16

    def zero(state: State) -> State:
        e.store(node, constant(0, dtype), to, outer * (size * inner_count) + target * inner_count + inner)
        return state

    def add(state: State) -> State:
        index, value = e.emit([index_key, updates_key])
        inside = f.compare("icmp ult", index, constant(size, index.type))
        if not index.lanes:
            with f.when(inside):
                add_at(index, value)
        else:
            safe = f.select(inside, index, constant(0, index.type))
            mask = e.mask
            hit = inside if mask is None else f.emit(f"and {mask.type} {mask.name}, {inside.name}", mask.type)
            scope = Scope(dict(e.scopes[-1].bindings), e.lane, hit)
            with e.inside(scope):
                add_at(safe, value)
        return state

    def add_at(index: Value, value: Value) -> None:
        with e.inside(Scope(bind(target, index))):
            place = outer * (size * inner_count) + target * inner_count + inner
            before = e.load(node, to, place, ())
            total = e.s.add(*e.aligned([before, value]))
            e.store(node, total, to, place)

    def owned() -> Callable[[Value], Value]:
        """Whether a place is this thread's: blocks of about a page, spread evenly by a multiplicative hash."""
        bits = max(0, (PAGE // line_bytes).bit_length() - 1)
        while bits and size >> bits < LEAST_BLOCKS:
            bits -= 1
        low, high = share(f, 1 << 16, w.threads.thread, w.threads.count)
        width = f.sub(high, low)

        def own(place: Value) -> Value:
            block = f.binary("lshr", place, i64(bits)) if bits else place
            spread = f.binary("and", f.mul(block, i64(SPREAD)), i64(0xFFFF))
            return f.compare("icmp ult", f.sub(spread, low), width)

        return own

    def whole_lines() -> None:
        """The index is one number for a whole line."""
        own = None if w.threads.alone else owned()
        cost = w.body_cost([updates_key]) + 2

        def add_line(state: State) -> State:
            place = outer * (size * inner_count) + target * inner_count + inner
            value, before = e.emit([updates_key])[0], e.load(node, to, place, ())
            e.store(node, e.s.add(*e.aligned([before, value])), to, place)
            return state

        with f.loop(0, outer_count) as line, e.inside(Scope(bind(outer, line))):
            with (f.loop(0, size) as row, f.when(own(row) if own else Value("true", "i1")),
                  e.inside(Scope(bind(target, row)))):
                w.sweep(inner, i64(0), i64(inner_count), 1, zero)
            with f.loop(0, count) as row, e.inside(Scope(bind(source, row))):
                index = e.emit([index_key])[0]
                hit = f.compare("icmp ult", index, constant(size, index.type))
                if own is not None:
                    hit = f.binary("and", hit, own(index))
                with f.when(hit), e.inside(Scope(bind(target, index))):
                    w.sweep(inner, i64(0), i64(inner_count), cost, add_line)

    line_bytes = inner_count * node.dtype.itemsize
    if not by_outer and line_bytes >= LEAST_LINE_BYTES and e.step(index_key).variables.isdisjoint(inner.variables()):
        whole_lines()
        return

    def lines() -> None:
        outer_range = w.share(outer_count) if by_outer else (i64(0), i64(outer_count))
        inner_range = (i64(0), i64(inner_count)) if by_outer or alone else w.share(inner_count, min(LINE, 4 * e.lanes))
        with f.loop(*outer_range) as line, e.inside(Scope(bind(outer, line))):
            with f.loop(0, size) as row, e.inside(Scope(bind(target, row))):
                w.sweep(inner, *inner_range, 100, zero)
            with f.loop(0, count) as row, e.inside(Scope(bind(source, row))):
                e.hoist([index_key, updates_key])
                w.sweep(inner, *inner_range, 100, add)

    if alone and not w.threads.alone:
        with f.when(f.compare("icmp eq", w.threads.thread, i64(0))):
            lines()
    else:
        lines()
