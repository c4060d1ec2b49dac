"""Row algorithms: the builder that `Op.routine` speaks to, as LLVM code, and the loop over the batch around it.

Knows loops, what is done for many lanes at once, and scratch memory (the protocol is `op.RoutineBuilder`).
Must not know any algorithm.  Each member of the batch is computed by one thread from beginning to end, so results do not
depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from graphc.garbage import remembered
from graphc.ir import Node
from graphc.op import Kind
from graphc.plan import Kernel, align
from graphc.types import TensorType, as_dtype, count, least

from .addresses import LLVM
from .emit import Carried, Function, Module
from .loops import Work, across_lanes
from .routine_values import Array, Number, Plain, Variable
from .scalar import NativeScalar
from .scopes import LoweringError
from .target import Target
from .values import SIZES, Value, constant, i64, vector

Join = Callable[[Value, Value], Value]
PARTIAL = 4  # partial results of a sum: as many additions are under way at once


class Routine:
    """Writes one member's algorithm into `f`.

    scratch   where this thread's own memory begins
    used      bytes of it that the algorithm has asked for
    lanes     of the innermost `each`, 0 outside; `mask` says which of them exist, None for all
    """

    def __init__(self, f: Function, target: Target, width: int, private: Value) -> None:
        self.f, self.s, self.target, self.width, self.private = f, NativeScalar(f), target, width, private
        self.used, self.lanes = 0, 0
        self.mask: Value | None = None

    # -- numbers -----------------------------------------------------------------------------------------------

    def number(self, value: Number | Plain, like: Number) -> Number:
        return value if isinstance(value, Number) else Number(self, constant(value, like.value.element))

    def index(self, value: Number | int) -> Number:
        return value if isinstance(value, Number) else Number(self, i64(value))

    def constant(self, value: Plain, dtype: str) -> Number:
        return Number(self, constant(value, LLVM[dtype]))

    def strides(self, step: int) -> Value:
        return Value("<" + ", ".join(f"i64 {k * step}" for k in range(self.lanes)) + ">", vector(self.lanes, "i64"))

    def apply(self, name: str, *operands: Any) -> Number:
        """A method of the scalar builder; Python's numbers take the type of the last number given."""
        numbers = [o for o in operands if isinstance(o, Number)]
        values = [o if isinstance(o, str) else self.number(o, numbers[-1]).whole() for o in operands]
        lanes = max((v.lanes for v in values if isinstance(v, Value)), default=0)
        aligned = [self.f.broadcast(v, lanes) if isinstance(v, Value) and not v.lanes else v for v in values]
        return Number(self, getattr(self.s, name)(*aligned))

    def __getattr__(self, name: str) -> Callable[..., Number]:
        if name.startswith("_") or not hasattr(NativeScalar, name):
            raise AttributeError(name)
        return lambda *operands: self.apply(name, *operands)

    # -- memory ------------------------------------------------------------------------------------------------

    def variable(self, value: Number | int) -> Variable:
        return Variable(self, self.index(value) if isinstance(value, int) else value)

    def scratch(self, dtype: str, *shape: int) -> Array:
        scalar = LLVM[dtype]
        pointer = self.f.offset(self.private, i64(self.used), "i8")
        self.used += align(prod(shape) * SIZES[scalar])
        return Array(self, pointer, scalar, shape)

    # -- control -----------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, low: Number | int, high: Number | int, step: int = 1, reverse: bool = False) -> Iterator[Number]:
        start, stop = self.index(low), self.index(high)
        with self.f.loop(start.value, stop.value, step) as counted:
            index = Number(self, counted)
            yield start + stop - 1 - index if reverse else index

    @contextmanager
    def loop_while(self, condition: Callable[[], Number]) -> Iterator[None]:
        f = self.f
        body, done = f.label("while"), f.label("end")
        f.branch_if(self._scalar(condition()), body, done)
        f.block(body)
        yield
        f.branch_if(self._scalar(condition()), body, done)  # asked at the end: see `Function.loop`
        f.block(done)

    @contextmanager
    def when(self, condition: Number) -> Iterator[None]:
        with self.f.when(self._scalar(condition)):
            yield

    def _scalar(self, condition: Number) -> Value:
        value = condition.whole()
        if value.lanes:
            raise LoweringError("a condition must be the same for all lanes: choose with select")
        return value

    @contextmanager
    def _inside(self, lanes: int, mask: Value | None = None) -> Iterator[None]:
        if self.lanes:
            raise LoweringError("neither `each` nor a sum can stand inside `each`")
        self.lanes, self.mask = lanes, mask
        yield
        self.lanes, self.mask = 0, None

    def each(self, low: Number | int, high: Number | int, body: Callable[[Number], None], vectors: int = 1) -> None:
        start, stop = self.index(low).value, self.index(high).value
        length = stop.number - start.number if start.number is not None and stop.number is not None else None
        lanes = self.width
        while length is not None and lanes > 2 and lanes // 2 >= length:
            lanes //= 2
        while vectors > 1 and length is not None and length < vectors * lanes:
            vectors -= 1

        def sweep(first: Value, width: int) -> Value:
            """All whole blocks of this width; returns where they end."""
            blocks = self.f.binary("sdiv", self.f.sub(stop, first), i64(width))
            end = self.f.add(first, self.f.mul(blocks, i64(width)))
            with self.f.loop(first, end, width) as base, self._inside(width):
                body(Number(self, base, 1))
            return end

        rest = sweep(start, vectors * lanes) if vectors > 1 else start
        if length is not None and (start.number or 0) + length // (vectors * lanes) * (vectors * lanes) == stop.number:
            if vectors == 1:
                sweep(rest, lanes)
            return
        rest = sweep(rest, lanes)
        if self.target.has_masks:
            with self.f.when(self.f.compare("icmp slt", rest, stop)):
                mask = self.f.lane_mask(self.f.sub(stop, rest), lanes)
                with self._inside(lanes, mask):
                    body(Number(self, rest, 1))
        else:
            with self.f.loop(rest, stop) as single:
                body(Number(self, single))

    def sum(self, low: Number | int, high: Number | int, dtype: str, term: Callable[[Number], Number]) -> Number:
        return self._fold(low, high, LLVM[dtype], term, self.s.add, 0)

    def greatest(self, low: Number | int, high: Number | int, dtype: str, term: Callable[[Number], Number]) -> Number:
        return self._fold(low, high, LLVM[dtype], term, self.s.maximum, least(as_dtype(dtype)))

    def _fold(self, low: Number | int, high: Number | int, scalar: str, term: Callable[[Number], Number], join: Join,
              neutral: Plain) -> Number:
        """Several partial results at once, joined in an order that depends on the number of terms alone."""
        f, lanes = self.f, self.width
        start, stop = self.index(low).value, self.index(high).value
        block = PARTIAL * lanes
        end = f.add(start, f.mul(f.binary("sdiv", f.sub(stop, start), i64(block)), i64(block)))

        def more(total: Value, index: Number, lanes: int) -> Value:
            value = term(index).whole()
            return join(total, f.broadcast(value, lanes) if lanes and not value.lanes else value)

        totals = Carried([constant(neutral, vector(lanes, scalar))] * PARTIAL)
        with f.loop(start, end, block, totals) as base, self._inside(lanes):
            totals.next = [more(t, Number(self, f.add(base, i64(k * lanes)), 1), lanes)
                           for k, t in enumerate(totals.values)]
        total = totals.results
        while len(total) > 1:
            total = [join(a, b) for a, b in zip(total[::2], total[1::2], strict=True)]
        if self.target.has_masks:
            tail = Carried(total)
            with f.loop(end, stop, lanes, tail) as base:
                mask = f.lane_mask(f.sub(stop, base), lanes)
                with self._inside(lanes, mask):
                    joined = more(tail.values[0], Number(self, base, 1), lanes)
                tail.next = [f.select(mask, joined, tail.values[0])]
            return Number(self, self._across(tail.results[0], join))
        single = Carried([constant(neutral, scalar)])
        with f.loop(end, stop, 1, single) as base:
            single.next = [more(single.values[0], Number(self, base), 0)]
        return Number(self, join(self._across(total[0], join), single.results[0]))

    def _across(self, value: Value, join: Join) -> Value:
        """All lanes joined, halves first."""
        return across_lanes(self.f, [value], lambda low, high: [join(low[0], high[0])])[0]


# -- kernels ---------------------------------------------------------------------------------------------------------


def routine_of(kernel: Kernel) -> Node:
    """The kernel's one routine."""
    nodes = [n for n in kernel.body.nodes if n.op.kind is Kind.ROUTINE]
    if len(nodes) != 1:
        raise LoweringError(f"{kernel!r}: one routine is needed, there are {len(nodes)}")
    if any(i not in kernel.body.inputs for i in nodes[0].inputs):
        raise LoweringError(f"{kernel!r}: a routine's operands lie in memory")
    return nodes[0]


def _batch(node: Node) -> int:
    """How many leading axes are the batch."""
    return node.types[0].ndim - node.op.core


def _write(r: Routine, kernel: Kernel, node: Node, reads: Sequence[Value], writes: Sequence[Value], member: Value) -> None:
    """One member of the batch; results that nobody wants go to scratch memory."""
    cut = _batch(node)
    f = r.f

    def sizes(type_: TensorType) -> tuple[int, ...]:
        return tuple(int(s) for s in type_.shape[cut:])

    def part(pointer: Value, type_: TensorType) -> Array:
        scalar, shape = LLVM[type_.dtype.name], sizes(type_)
        offset = f.mul(member, i64(prod(shape)))
        return Array(r, f.offset(pointer, offset, "i8" if scalar == "i1" else scalar), scalar, shape)

    places = dict(zip(kernel.body.inputs, reads, strict=True))
    inputs = [part(places[i], i.type) for i in node.inputs]
    wanted = {n.attributes.get("item", 0): w for n, w in zip(kernel.body.outputs, writes, strict=True)}
    outputs = [part(wanted[k], t) if k in wanted else r.scratch(t.dtype.name, *sizes(t))
               for k, t in enumerate(node.types)]
    node.op.routine(r, inputs, outputs, [i.type for i in node.inputs], **node.attributes)


@remembered
def routine_scratch(kernel: Kernel, target: Target, lanes: int) -> int:
    """Bytes of private memory, found by writing the routine once into a function that nobody keeps."""
    f = Module().function("spare", [("private", "ptr")])
    r = Routine(f, target, lanes, f.parameters[0])
    pointer = f.parameters[0]
    _write(r, kernel, routine_of(kernel), [pointer] * len(kernel.reads), [pointer] * len(kernel.writes), i64(0))
    return r.used


def emit_routine(w: Work) -> None:
    """A loop over this thread's members of the batch, each computed from beginning to end."""
    node = routine_of(w.kernel)
    members = int(count(node.types[0].shape[:_batch(node)]))
    if members == 0 or all(int(t.size) == 0 for t in node.types):
        return
    reads = [w.elements.memory[i].pointer for i in w.kernel.body.inputs]

    def run(low: Value, high: Value) -> None:
        with w.f.loop(low, high) as member:
            r = Routine(w.f, w.target, w.full_lanes, w.private)
            _write(r, w.kernel, node, reads, w.writes, member)

    if members == 1 and not w.threads.alone:
        with w.f.when(w.f.compare("icmp eq", w.threads.thread, i64(0))):
            run(i64(0), i64(1))
    else:
        with w.ranges(members) as bounds:
            run(*bounds)


__all__ = ["Array", "Number", "Routine", "Variable", "emit_routine", "routine_scratch"]
