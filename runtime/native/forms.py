"""One LLVM function per kernel.

Knows the kernel's form, and hands it to the loop nest or the contraction that computes it.  Must not know op names, plans, or
where buffers lie: every address is an argument.

``void name(ptr read..., ptr write..., ptr private, ptr shared, i64 thread, i64 threads, ptr barrier)`` runs on every thread;
the caller puts a barrier after it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from graphc.access import strided
from graphc.index import Index, Variable, linear, unravel
from graphc.op import Kind
from graphc.plan import Form, Kernel

from .contract import Contraction, Tile, emit_contraction, scratch_bytes
from .element import LLVM, Elements, hoist, memory_type
from .emit import Carried, Function, Module, Value, constant, i64
from .nests import (
    SERIAL,
    Columns,
    Context,
    Rows,
    emit_map,
    fold_of,
    identities,
    lanes_of,
    on_one_thread,
    operations,
    share,
    shared_bytes,
)
from .target import Target

BARRIER = "graphc.barrier"
SERIAL_CONTRACTION = 1 << 20  # operations below which a contraction stays on one thread


def is_serial(kernel: Kernel) -> bool:
    """Whether thread 0 does all of it."""
    if kernel.form is Form.CONTRACT:
        return kernel.flops < SERIAL_CONTRACTION
    return operations(kernel) < SERIAL


def scratch_sizes(kernel: Kernel, target: Target) -> tuple[int, int]:
    """(bytes of scratch for each thread, bytes that all share)."""
    private = 0
    if kernel.form is Form.CONTRACT:
        private = scratch_bytes(Contracted(kernel).problem, target)
    return private, shared_bytes(kernel)


def emit_kernel(module: Module, name: str, kernel: Kernel, target: Target) -> Function:
    """Writes the kernel's function into the module."""
    parameters = [(f"r{i}", "ptr") for i in range(len(kernel.reads))]
    parameters += [(f"w{i}", "ptr") for i in range(len(kernel.writes))]
    parameters += [("private", "ptr"), ("shared", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")]
    f = module.function(name, parameters)
    pointers = f.parameters[:len(kernel.reads)]
    outputs = f.parameters[len(kernel.reads):-5]
    private, shared, thread, threads, barrier = f.parameters[-5:]
    elements = Elements(f, dict(zip(kernel.body.inputs, pointers, strict=True)))
    context = Context(f, kernel, target, elements, outputs, private, shared, thread, threads,
                      lambda: void(f.call(BARRIER, [barrier, threads])), lanes_of(kernel, target))
    FORMS[kernel.form](context)
    return f


def void(_: object) -> None:
    """Drops the result of an instruction that has none."""


# -- contractions ----------------------------------------------------------------------------------------------------


class Contracted:
    """A CONTRACT kernel seen as one contraction over groups of axes."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.node = node = next(n for n in kernel.body.nodes if n.op.kind is Kind.CONTRACT)
        left, rest = node.attributes["spec"].split(",")
        right, out = rest.split("->")
        a, b = node.inputs
        lane = next((x for x, size in zip(reversed(out), reversed(node.shape), strict=True) if size != 1), "")
        if lane in left and lane not in right:
            left, right, a, b = right, left, b, a  # the lanes run along the result's last axis: make it one of n
        self.out = out
        self.a, self.b = strided(a), strided(b)
        assert self.a is not None and self.b is not None, "fusion stores operands that strides cannot describe"
        sizes = dict(zip(left + right, (*a.shape, *b.shape), strict=True))
        self.groups = {"batch": [x for x in out if x in left and x in right],
                       "m": [x for x in out if x in left and x not in right],
                       "n": [x for x in out if x in right and x not in left],
                       "k": [x for x in left if x in right and x not in out]}
        self.sizes = {g: tuple(int(sizes[x]) for x in labels) for g, labels in self.groups.items()}
        strides = {"a": dict(zip(left, self.a.strides, strict=True)), "b": dict(zip(right, self.b.strides, strict=True)),
                   "c": {}}
        step = 1
        for label in reversed(out):
            strides["c"][label] = step
            step *= int(sizes[label])

        def of(operand: str, group: str) -> tuple[int, ...]:
            return tuple(strides[operand][x] for x in self.groups[group])

        scalar = LLVM[node.dtype.name]
        self.problem = Contraction(
            dtype=scalar, batch=self.sizes["batch"], m=self.sizes["m"], n=self.sizes["n"], k=self.sizes["k"],
            a_batch=of("a", "batch"), a_m=of("a", "m"), a_k=of("a", "k"),
            b_batch=of("b", "batch"), b_k=of("b", "k"), b_n=of("b", "n"),
            c_batch=of("c", "batch"), c_m=of("c", "m"), c_n=of("c", "n"))

    def indices(self, batch: Index, i: Index, j: Index) -> tuple[Index, ...]:
        """The result's indices for flattened positions of the groups."""
        place: dict[str, Index] = {}
        for group, flat in (("batch", batch), ("m", i), ("n", j)):
            place.update(zip(self.groups[group], unravel(flat, self.sizes[group]), strict=True))
        return tuple(place[label] for label in self.out)


def emit_contract(context: Context) -> None:
    """The contraction; other outputs than its own result are computed from each finished tile."""
    f, kernel, elements = context.f, context.kernel, context.elements
    contracted = Contracted(kernel)
    c = contracted.problem
    pointers = []
    for read in (contracted.a, contracted.b):
        assert read is not None
        pointers.append(f.offset(elements.slots[read.base], i64(read.offset), c.dtype))
    only_result = kernel.body.outputs == (contracted.node,)
    options = {"c_pointer": context.outputs[0]} if only_result else {"finish": epilogue(context, contracted)}
    if is_serial(kernel):
        with on_one_thread(context):
            emit_contraction(f, context.target, c, *pointers, scratch=context.private, thread=i64(0), threads=i64(1),
                             **options)
    else:
        emit_contraction(f, context.target, c, *pointers, scratch=context.private, thread=context.thread,
                         threads=context.threads, **options)


def epilogue(context: Context, contracted: Contracted) -> Callable[[Function, Tile], None]:
    """What is done with a finished tile: every output of the kernel, element by element."""
    kernel = context.kernel

    def finish(f: Function, tile: Tile) -> None:
        # The finish may be written into another function than the kernel's only by inlining: f is the same.
        elements = Elements(f, context.elements.slots)
        batch, i, j = (Index.variable(name, max(2, prod(contracted.sizes[group])))
                       for name, group in (("b", "batch"), ("i", "m"), ("j", "n")))
        if prod(contracted.sizes["batch"]) == 1:
            batch = Index.of(0)
        row, column = Variable("tile_row", 1 << 30), Variable("tile_column", 1 << 30)
        scalar = contracted.problem.dtype
        indices = contracted.indices(batch, i, j)
        place = linear(indices, kernel.space)
        pairs = [(o, unravel(place, o.shape)) for o in kernel.body.outputs]

        def from_tile(e: Elements, _: tuple[Index, ...], __: object) -> Value:
            at = f.add(f.mul(e.values[row], i64(tile.stride)), e.values[column])
            address = f.offset(tile.pointer, at, scalar)
            if not e.lanes:
                return f.load(address, scalar)
            type_ = f"<{e.lanes} x {scalar}>"
            return f.load(address, type_) if e.mask is None else f.masked_load(address, type_, e.mask)

        elements.overrides[contracted.node] = from_tile
        pinned = {contracted.node}
        for node in kernel.body.nodes:
            if any(operand in pinned for operand in node.inputs):
                pinned.add(node)
        elements.pinned = frozenset(pinned)
        elements.bind(batch, tile.batch)
        rows = tile.rows if isinstance(tile.rows, Value) else i64(tile.rows)
        columns = tile.columns if isinstance(tile.columns, Value) else i64(tile.columns)
        with elements.scope():
            hoist(elements, pairs, [i, j])
            with f.loop(i64(0), rows) as r, elements.scope():
                elements.values[row] = r
                elements.bind(i, f.add(tile.i0, r))
                hoist(elements, pairs, [j])

                def one(base: Value, lanes: int, mask: Value | None) -> None:
                    elements.values[column] = base
                    with elements.lane_loop(j, f.add(tile.j0, base), lanes, mask):
                        values = [elements.value(o, at) for o, at in pairs]
                        for (o, _), value, pointer in zip(pairs, values, context.outputs, strict=True):
                            elements.store(value, pointer, o.dtype, place)

                if prod(contracted.sizes["n"]) == 1:
                    one(i64(0), 0, None)
                elif context.target.has_masks:
                    with f.loop(i64(0), columns, context.lanes) as base:
                        one(base, context.lanes, f.lane_mask(f.sub(columns, base), context.lanes))
                else:
                    whole = f.sub(columns, f.binary("urem", columns, i64(context.lanes)))
                    with f.loop(i64(0), whole, context.lanes) as base:
                        one(base, context.lanes, None)
                    with f.loop(whole, columns) as base:
                        one(base, 0, None)

    return finish


# -- running folds ---------------------------------------------------------------------------------------------------


def emit_prefix(context: Context) -> None:
    """One pass along the axis for every line; lanes across lines where the axis is not the last."""
    f, kernel, elements = context.f, context.kernel, context.elements
    node = next(n for n in kernel.body.nodes if n.op.kind is Kind.PREFIX)
    axis, reverse, space = node.attributes["axis"], node.attributes["reverse"], kernel.space
    if prod(space) == 0:
        return
    fold, size = fold_of(node), space[axis]
    before, after = Index.variable("o", prod(space[:axis])), Index.variable("t", prod(space[axis + 1:]))
    along = Index.variable("p", size)
    place = (i64_index(size - 1) - along) if reverse else along
    indices = (*unravel(before, space[:axis]), place, *unravel(after, space[axis + 1:]))
    flat = linear(indices, space)
    trailing = prod(space[axis + 1:])

    def line(lanes: int) -> None:
        state = Carried(identities(fold, node, lanes))
        with f.loop(0, size, 1, state) as position, elements.scope():
            elements.bind(along, position)
            value = elements.wide(node.inputs[0], indices) if lanes else elements.value(node.inputs[0], indices)
            at = elements._spread(position, lanes)
            new = fold.combine(elements.s, tuple(state.values), fold.lift(elements.s, value, at))
            elements.store(new[fold.result], context.outputs[0], node.dtype, flat)
            state.next = list(new)

    def lines(low: Value, high: Value) -> None:
        with f.loop(low, high) as outer, elements.scope():
            elements.bind(before, outer)
            if trailing == 1:
                line(0)
                return
            whole = trailing // context.lanes * context.lanes
            with f.loop(0, whole, context.lanes) as base, elements.lane_loop(after, base, context.lanes):
                line(context.lanes)
            if whole < trailing and context.target.has_masks:
                mask = f.lane_mask(i64(trailing - whole), context.lanes)
                with elements.lane_loop(after, i64(whole), context.lanes, mask):
                    line(context.lanes)
            elif whole < trailing:
                with f.loop(whole, trailing) as base, elements.lane_loop(after, base, 0):
                    line(0)

    count = prod(space[:axis])
    if is_serial(kernel):
        with on_one_thread(context):
            lines(i64(0), i64(count))
    else:
        lines(*share(f, i64(count), context.thread, context.threads))


def i64_index(value: int) -> Index:
    return Index.of(value)


# -- scatter ---------------------------------------------------------------------------------------------------------


def emit_scatter(context: Context) -> None:
    """Zeros, then additions in the order of the index; threads own different columns or different outer rows."""
    f, kernel, elements = context.f, context.kernel, context.elements
    node = next(n for n in kernel.body.nodes if n.op.kind is Kind.SCATTER)
    index, updates = node.inputs
    axis, size = node.attributes["axis"], int(node.attributes["size"])
    shape = updates.shape
    count, trailing, leading = int(shape[axis]), prod(shape[axis + 1:]), prod(shape[:axis])
    if prod(kernel.space) == 0:
        return
    outer, inner = Index.variable("o", leading), Index.variable("t", trailing)
    target, source = Index.variable("z", size), Index.variable("p", count)
    out_place = linear((*unravel(outer, shape[:axis]), target, *unravel(inner, shape[axis + 1:])), kernel.space)
    at = (*unravel(outer, shape[:axis]), source, *unravel(inner, shape[axis + 1:]))
    scalar = memory_type(node.dtype)
    pointer = context.outputs[0]

    def clear() -> None:
        with f.loop(0, size) as z, elements.scope():
            elements.bind(target, z)
            elements.store(constant(0, scalar), pointer, node.dtype, out_place)

    def add(lanes: int) -> None:
        with f.loop(0, count) as p, elements.scope():
            elements.bind(source, p)
            where = elements.value(index, at)
            value = elements.wide(updates, at)
            inside = f.compare("icmp ult", where, constant(size, where.type))
            safe = f.select(inside, where, constant(0, where.type))
            landing = Variable("landing", max(size, 2))
            elements.values[landing] = safe
            place = linear((*unravel(outer, shape[:axis]), Index.of(landing), *unravel(inner, shape[axis + 1:])),
                           kernel.space)
            old = elements.load(pointer, node.dtype, place, ())
            total = elements.s.add(elements._spread(old, lanes), value)
            kept = f.select(elements._spread(inside, lanes) if lanes else inside, total, elements._spread(old, lanes))
            elements.store(kept, pointer, node.dtype, place)

    def block(lanes: int, base: Value, mask: Value | None) -> None:
        with elements.lane_loop(inner, base, lanes, mask):
            clear()
        with elements.lane_loop(inner, base, lanes, mask):
            add(lanes)

    def columns(low: Value, high: Value) -> None:
        if trailing < context.lanes:
            with f.loop(low, high) as base:
                block(0, base, None)
            return
        middle = f.add(low, f.sub(f.sub(high, low), f.binary("urem", f.sub(high, low), i64(context.lanes))))
        with f.loop(low, middle, context.lanes) as base:
            block(context.lanes, base, None)
        with f.loop(middle, high) as base:
            block(0, base, None)

    def everything(low: Value, high: Value, first: Value, last: Value) -> None:
        with f.loop(low, high) as o, elements.scope():
            elements.bind(outer, o)
            columns(first, last)

    whole = (i64(0), i64(leading)), (i64(0), i64(trailing))
    if is_serial(kernel):
        with on_one_thread(context):
            everything(*whole[0], *whole[1])
    elif trailing >= 2 * context.lanes:
        everything(*whole[0], *share(f, i64(trailing), context.thread, context.threads, context.lanes))
    else:
        everything(*share(f, i64(leading), context.thread, context.threads), *whole[1])


FORMS: dict[Form, Callable[[Context], None]] = {
    Form.MAP: emit_map,
    Form.ROWS: lambda context: Rows(context).emit(),
    Form.COLUMNS: lambda context: Columns(context).emit(),
    Form.CONTRACT: emit_contract,
    Form.PREFIX: emit_prefix,
    Form.SCATTER: emit_scatter,
}

__all__ = ["emit_kernel", "is_serial", "scratch_sizes"]
