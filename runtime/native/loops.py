"""Loops over an iteration space: vector sweeps with tails, unrolling, and the share of each thread; maps.

Knows how a space is cut into an outer loop and a vectorised inner one.  Must not know folds, contractions or op names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from graphc.index import Index, Variable, linear, unravel
from graphc.ir import Node
from graphc.op import Kind
from graphc.plan import Kernel
from graphc.records import NamedTuple, record

from .addresses import place_apart
from .elements import Elements
from .emit import Carried, Function
from .recipes import Action, Key
from .scopes import Scope
from .sharing import LEAST_SHARED, balanced, share
from .target import Target
from .values import Value, i64, lane_numbers, vector

State = list[Value]
CHEAP, MODERATE, HEAVY = 8, 30, 60  # operations of a loop body that is unrolled 4 times, twice, written only once
OF_LOAD, MOST_VECTORS, MOST_CODE = 4, 4, 700  # instructions of a load of near lanes; of a line that is written straight on
LINE = 64  # elements: threads' ranges start at multiples of it
PARTS = 128  # of a kernel's work, in which threads share it out where they take turns


class CountingScalar:
    """A scalar builder that only counts: about how many instructions an op's body takes."""

    CHEAP = frozenset({"const", "constant", "table"})
    SLOW = frozenset({"div", "reciprocal", "sqrt"})
    SIMPLE = frozenset({"add", "sub", "mul", "neg", "abs", "fma", "select", "cast", "minimum", "maximum", "and_", "or_",
                        "xor", "not_", "lt", "le", "gt", "ge", "eq", "ne", "shl", "shr", "is_nan", "is_inf", "is_finite",
                        "floor", "ceil", "round", "trunc", "sign", "copysign", "clamp_above", "clamp_below", "as_int",
                        "as_float", "arithmetic_shr"})

    def __init__(self) -> None:
        self.total = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def count(*_: Any, **__: Any) -> Any:
            self.total += 0 if name in self.CHEAP else 1 if name in self.SIMPLE else 6 if name in self.SLOW else 16
            return self

        return count


def scalar_cost(node: Node) -> int:
    """About how many instructions one element of a map takes."""
    if node.op.kind is not Kind.MAP:
        return 0
    counter = CountingScalar()
    node.op.scalar(counter, *[counter] * len(node.inputs), **node.attributes)
    return max(1, counter.total)


def vector_lanes(kernel: Kernel, target: Target) -> int:
    """Lanes of the kernel's vectors: the widest float that varies decides, without floats the widest integer."""
    varying = [t.dtype for n in kernel.body.nodes if n.op.kind not in (Kind.VIEW, Kind.SOURCE)
               for t in n.types if int(t.size) > 1]
    varying += [n.dtype for n in kernel.body.inputs if int(n.type.size) > 1]
    floats = [d.itemsize for d in varying if d.is_float]
    return target.lanes(max(floats or [d.itemsize for d in varying] or [4]))


@record(frozen=True)
class Threads:
    """Which share of the work a call does; constants where one thread does everything.

    tickets   counters by which threads take turns; None where each keeps to its share
    serial    whether one thread does the kernel however many there are: then its sums are not cut for others
    """

    thread: Value
    count: Value
    barrier: Value
    tickets: Value | None = None
    serial: bool = False

    @property
    def alone(self) -> bool:
        return self.count.number == 1


@record(eq=False)
class Work:
    """One kernel while it is written."""

    f: Function
    kernel: Kernel
    target: Target
    elements: Elements
    writes: tuple[Value, ...]
    private: Value
    shared: Value
    threads: Threads
    barrier: Callable[[], None]  # writes a barrier
    full_lanes: int = 0
    took_turns: bool = False  # since threads last met

    # -- small helpers -----------------------------------------------------------------------------------------

    def meet(self) -> None:
        """All threads wait for each other."""
        self.barrier()
        self.took_turns = False

    @property
    def beyond_cache(self) -> bool:
        """Whether the kernel reads and writes more than the second-level cache holds."""
        return sum(b.bytes for b in (*self.kernel.reads, *self.kernel.writes)) > self.target.l2_bytes

    @contextmanager
    def ranges(self, items: int, block: int = 1) -> Iterator[tuple[Value, Value]]:
        """This thread's ranges of items, cut at multiples of `block`, one after the other: its share, and where threads take
        turns what it is the first to take of the rest.  At most once between two meetings.
        """
        t, f = self.threads, self.f
        blocks = -(-items // block)
        if t.tickets is None or t.alone or blocks < LEAST_SHARED:
            yield self.share(items, block)
            return
        assert not self.took_turns
        self.took_turns = True
        size = -(-blocks // PARTS) * block
        with balanced(f, -(-items // size), t.thread, t.count, t.tickets) as (low, high):
            yield f.mul(low, i64(size)), f.minimum(f.mul(high, i64(size)), i64(items))

    def share(self, items: int, block: int = 1) -> tuple[Value, Value]:
        """This thread's range of items, cut at multiples of `block`; the same whenever it is asked for."""
        f, t = self.f, self.threads
        if t.alone:
            return i64(0), i64(items)
        dealt = self.kernel.dealt
        if dealt is not None:
            low, high = share(f, dealt.items, t.thread, t.count)
            return f.mul(low, i64(items // dealt.items)), f.mul(high, i64(items // dealt.items))
        low, high = share(f, -(-items // block), t.thread, t.count)
        if block > 1:
            low, high = f.mul(low, i64(block)), f.minimum(f.mul(high, i64(block)), i64(items))
        return low, high

    def limit_lanes(self, extent: int) -> None:
        """Shorter vectors where a line is shorter than one."""
        lanes = self.full_lanes
        while lanes > 2 and lanes // 2 >= extent:
            lanes //= 2
        self.elements.lanes = lanes

    def body_cost(self, roots: Sequence[Key]) -> int:
        """Instructions per element of everything that varies along the lane or an inner loop."""
        e = self.elements
        return sum(scalar_cost(k[0]) for k in e.reachable(roots) if k not in e.saved and e.step(k).action is Action.SCALAR)

    def store_all(self, nodes: Sequence[tuple[int, Node]], keys: Sequence[Key], place: Index) -> None:
        """Computes all values, then writes them: an in-place write must follow every read."""
        e = self.elements
        values = e.emit(keys)
        for (write, node), value in zip(nodes, values, strict=True):
            e.store(node, value, self.writes[write], self.place_of(write, node, place))

    def place_of(self, write: int, node: Node, place: Index) -> Index:
        """Where an element of a result lies."""
        deal = self.kernel.dealt
        if deal is None or len(self.kernel.reads) + write not in deal.apart:
            return place
        return place_apart(place, deal.writes[write], deal.items, int(node.type.size))

    # -- sweeps ------------------------------------------------------------------------------------------------

    def tail_mask(self, remaining: Value) -> Value:
        """The lanes below `remaining`."""
        lanes = self.elements.lanes
        if remaining.number is not None:
            bits = ", ".join(f"i1 {'true' if i < remaining.number else 'false'}" for i in range(lanes))
            return Value(f"<{bits}>", vector(lanes, "i1"))
        low = self.f.convert("trunc", self.f.minimum(remaining, i64(lanes)), "i32")
        return self.f.compare("icmp sgt", self.f.broadcast(low, lanes), lane_numbers(lanes, "i32"))

    def merge(self, mask: Value | None, new: State, old: State) -> State:
        if mask is None:
            return new
        return [self.f.select(mask, n, o) for n, o in zip(new, old, strict=True)]

    def sweep(self, variable: Index, low: Value, high: Value, cost: int, body: Callable[[State], State],
              initial: Callable[[int], State] = lambda lanes: [], aligned: bool = False,
              even: bool = False, straight: bool = False) -> list[State]:
        """Runs `body` over low <= variable < high, a vector at a time; returns partial states in a fixed order.

        body(state) is called inside the lane's scope and returns the new state.  initial(lanes) is the neutral state, of
        scalars for 0 lanes.  aligned: the range's length is a multiple of a vector.  even: so is its start.  straight: vectors
        are written one after the other, so that the code knows which lanes a guard holds for, if the range is known.
        """
        f, e = self.f, self.elements
        lanes = e.lanes
        if low.number is not None and low.number == high.number:
            return [initial(0)]
        if variable.number is not None:  # a range of one element
            with e.inside(Scope()):
                return [body(initial(0))]
        loop_variable = variable_of(variable)
        even = even or (low.number is not None and low.number % lanes == 0)

        def piece(base: Value, mask: Value | None, state: State) -> State:
            with e.inside(Scope({loop_variable: base}, loop_variable, mask, even=even)):
                return self.merge(mask, body(state), state)

        length = high.number - low.number if high.number is not None and low.number is not None else None
        masks = self.target.has_masks
        if length is not None and (length == lanes or (length < lanes and masks)):
            return [piece(low, None if length == lanes else self.tail_mask(i64(length)), initial(lanes))]
        if length is not None:
            aligned = length % lanes == 0
        if straight and length is not None and (masks or aligned):
            state = initial(lanes)
            for begin in range(0, length, lanes):
                mask = None if begin + lanes <= length else self.tail_mask(i64(length - begin))
                state = piece(f.add(low, i64(begin)), mask, state)
            return [state]
        unroll = 4 if cost <= CHEAP else 2 if cost <= MODERATE else 1
        if not masks and not aligned:
            unroll = 1
        while length is not None and unroll > 1 and length < 2 * unroll * lanes:
            unroll //= 2
        step = unroll * lanes
        if masks and not aligned and cost > HEAVY:
            states = Carried(initial(lanes))
            with f.loop(low, high, lanes, states) as base:
                states.next = piece(base, self.tail_mask(f.sub(high, base)), states.values)
            return [states.results]
        rest: int | None = None
        if length is not None:
            rest = length % step
            main_end = i64((low.number or 0) + length - rest)
        else:
            span = f.sub(high, low)
            main_end = f.add(low, f.mul(f.binary("udiv", span, i64(step)), i64(step)))
        width = len(initial(lanes))
        states = Carried([v for _ in range(unroll) for v in initial(lanes)])
        with f.loop(low, main_end, step, states) as base:
            new: State = []
            for u in range(unroll):
                new += piece(f.add(base, i64(u * lanes)), None, states.values[u * width:(u + 1) * width])
            states.next = new
        results = [states.results[u * width:(u + 1) * width] for u in range(unroll)]
        if rest == 0 or (aligned and unroll == 1):
            return results
        tail = Carried(results[0])
        if masks or aligned:
            with f.loop(main_end, high, lanes, tail) as base:
                mask = None if aligned else self.tail_mask(f.sub(high, base))
                tail.next = piece(base, mask, tail.values)
            return [tail.results, *results[1:]]
        single = Carried(initial(0))
        with f.loop(main_end, high, 1, single) as base, e.inside(Scope({loop_variable: base})):
            single.next = body(single.values)
        return [*results, single.results]


def across_lanes(f: Function, state: State, join: Callable[[State, State], State]) -> State:
    """Scalars from vectors: halves are joined until one lane is left."""
    lanes = state[0].lanes
    while lanes > 1:
        half = lanes // 2
        low, high = ([f.shuffle(v, range(start, start + half)) for v in state] for start in (0, half))
        state, lanes = join(low, high), half
    return [f.extract(v, 0) if v.lanes else v for v in state]


def variable_of(index: Index) -> Variable:
    variable = index.terms[0][0]
    assert isinstance(variable, Variable)
    return variable


def bind(index: Index, value: Value) -> dict[Variable, Value]:
    """The binding of a loop variable; none where it is the constant 0."""
    return {} if index.number is not None else {variable_of(index): value}


def affine_in(e: Elements, roots: Sequence[Key], lane: Index) -> bool:
    """Whether every load's place is affine in the lane variable."""
    if lane.number is not None:
        return True
    variable = variable_of(lane)
    for key in e.reachable(roots):
        step = e.step(key)
        if step.action is Action.LOAD and step.place.factor(variable) is None:
            return False
    return True


def near_in(e: Elements, roots: Sequence[Key], lane: Index) -> bool:
    """Whether every load's place is affine in the lane variable but for quotients and remainders that the code knows."""
    if lane.number is not None:
        return False
    variable = variable_of(lane)
    return all(isinstance(term, Variable) or variable not in term.of.variables()
               or (e.lanes % term.by == 0 and term.of.factor(variable) == 1)
               for key in e.reachable(roots) if e.step(key).action is Action.LOAD for term, _ in e.step(key).place.terms)


def is_straight(w: Work, roots: Sequence[Key], extent: int) -> bool:
    """Whether a line is written straight on, vector by vector: few of them, some of whose lanes guards leave out."""
    e = w.elements
    steps = [e.step(key) for key in e.reachable(roots)]
    code = sum(OF_LOAD if s.action is Action.LOAD else scalar_cost(s.node) for s in steps)
    vectors = -(-extent // e.lanes)
    return vectors <= MOST_VECTORS and code * vectors <= MOST_CODE and any(s.guard for s in steps)


def output_key(e: Elements, node: Node, indices: tuple[Index, ...], space: tuple[int, ...]) -> Key:
    """An output's element at a position of the space: the same position of its own shape."""
    if node.shape == space:
        return e.key(node, indices)
    return e.key(node, unravel(linear(indices, space), node.shape))


class Split(NamedTuple):
    """A space as outer * inner: flat variables of both, and the indices that they stand for."""

    outer: Index
    inner: Index
    outer_count: int
    inner_count: int
    indices: tuple[Index, ...]

    @property
    def position(self) -> Index:
        return self.outer * self.inner_count + self.inner


def split_space(space: tuple[int, ...], depth: int, prefix: str = "") -> Split:
    """The last `depth` axes inside, the others outside."""
    cut = len(space) - depth
    outer_count, inner_count = prod(space[:cut]), prod(space[cut:])
    outer, inner = Index.variable(prefix + "outer", outer_count), Index.variable(prefix + "inner", inner_count)
    return Split(outer, inner, outer_count, inner_count, (*unravel(outer, space[:cut]), *unravel(inner, space[cut:])))


def emit_map(w: Work) -> None:
    """One pass over a space, every element by itself."""
    f, e, kernel = w.f, w.elements, w.kernel
    outputs = list(enumerate(kernel.body.outputs))
    space = kernel.space
    if prod(space) == 0:
        return

    def roots_of(split: Split) -> list[Key]:
        return [output_key(e, node, split.indices, space) for _, node in outputs]

    split = split_space(space, len(space))
    for depth in range(len(space), 0, -1):
        candidate = split_space(space, depth)
        if candidate.inner_count < 4 and candidate.outer_count > 1:
            break
        if affine_in(e, roots_of(candidate), candidate.inner) or (depth == 1 and near_in(e, roots_of(candidate),
                                                                                        candidate.inner)):
            split = candidate
            break
    roots = roots_of(split)
    w.limit_lanes(split.inner_count)
    cost = w.body_cost(roots)
    e.hoist(roots)
    by_outer = w.threads.alone or split.outer_count >= 16
    whole = (i64(0), i64(split.outer_count)), (i64(0), i64(split.inner_count))
    straight = is_straight(w, roots, split.inner_count)

    def body(state: State) -> State:
        w.store_all(outputs, roots, split.position)
        return state

    def lines(outer_range: tuple[Value, Value], inner_range: tuple[Value, Value]) -> None:
        with f.loop(*outer_range) as outer, e.inside(Scope(bind(split.outer, outer))):
            if split.outer.number is None:
                e.hoist(roots)
            even = LINE % e.lanes == 0
            w.sweep(split.inner, *inner_range, cost, body, aligned=split.inner_count % e.lanes == 0 and even, even=even,
                    straight=straight)

    if by_outer and split.outer_count > 1:
        with w.ranges(split.outer_count) as bounds:
            lines(bounds, whole[1])
    else:
        with w.ranges(split.inner_count, LINE) as bounds:
            lines(whole[0], bounds)

