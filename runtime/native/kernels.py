"""One kernel of a plan as one LLVM function: the forms, and which kernels stay on one thread.

``void name(ptr reads..., ptr writes..., ptr private, ptr shared, i64 thread, i64 threads, ptr barrier)``: every thread
calls it and does its share; the caller puts a barrier after it.  Where `takes_turns` says so a last argument, ptr tickets, is
counters by which threads take turns, which nothing else uses until they have met again.  Knows the forms' emitters and what a
kernel costs.
Must not know op names, or where buffers are.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from graphc.garbage import remembered
from graphc.ir import Graph, Node
from graphc.op import Kind, Moves
from graphc.plan import Form, Kernel

from .addresses import Memory, apart, row_major
from .contraction_kernels import contraction_scratch, emit_contract
from .elements import Elements
from .emit import Function, Module
from .epilogues import contraction_of
from .folds import reduction_scratch
from .loops import Threads, Work, emit_map, scalar_cost, vector_lanes
from .passing import can_pass, emit_fence
from .scopes import LoweringError
from .target import Target
from .threads import emit_barrier
from .transposes import emit_turned, turned
from .values import Value, i64


def emit_any_map(w: Work) -> None:
    """A map along the axis that it writes; in tiles where it reads along another one."""
    found = turned(w) if prod(w.kernel.space) else None
    if found is None:
        emit_map(w)
    else:
        emit_turned(w, found)


NOBODY = Value("null", "ptr")  # whom a thread by itself meets

SERIAL = 1 << 16  # element operations, one to two microseconds: less is not worth a second thread
TURNS = 1 << 20  # element operations, ten microseconds of two threads: in less, taking turns costs more than it gains
MOVED = 4  # instructions to find an element that lies elsewhere than its neighbours, or is not there
PARTIAL_SUMS = 16  # up to so many terms a sum down columns is one of what threads have left: half of it is far from any of them


def emitter_of(form: Form) -> Callable[[Work], None] | None:
    """What writes kernels of a form, loaded with the first of them; None where a form has no loops."""
    match form:
        case Form.MAP:
            return emit_any_map
        case Form.CONTRACT:
            return emit_contract
        case Form.ROWS:
            from .rows import emit_rows

            return emit_rows
        case Form.COLUMNS:
            from .columns import emit_columns

            return emit_columns
        case Form.PREFIX:
            from .scans import emit_prefix

            return emit_prefix
        case Form.SCATTER:
            from .scans import emit_scatter

            return emit_scatter
        case Form.ROUTINE:
            from .routines import emit_routine

            return emit_routine
    return None


def element_operations(kernel: Kernel) -> int:
    """About how many scalar instructions on float32 the kernel takes: a core does 30 to 60 of them in a nanosecond.

    A product with its sum counts as half of one.  On float64 each is two.
    """
    return body_operations(kernel.body) + sum(b.bytes // 4 for b in (*kernel.reads, *kernel.writes))


@remembered
def body_operations(body: Graph) -> int:
    total = 0
    for node in body.nodes:
        size = int(node.types[0].size) * node.types[0].dtype.width
        match node.op.kind:
            case Kind.MAP:
                total += size * scalar_cost(node)
            case Kind.VIEW if node.op.moves in (Moves.AXES, Moves.OTHERWISE):
                total += size * MOVED
            case Kind.REDUCE:
                total += int(node.inputs[0].type.size) * node.inputs[0].dtype.width
            case Kind.PREFIX | Kind.SCATTER:
                total += 4 * int(node.inputs[-1].type.size)
            case Kind.ROUTINE:
                total += node.op.operations(*(i.type for i in node.inputs), **node.attributes)
            case Kind.CONTRACT:
                c = contraction_of(node)[0]
                total += prod(c.batch) * prod(c.m) * prod(c.n) * prod(c.k) * node.dtype.width // 2
    return total


@remembered
def is_serial(kernel: Kernel) -> bool:
    """Whether thread 0 does the whole kernel; such kernels in a row need no barrier between them."""
    if kernel.dealt is not None:
        return False
    few = kernel.form is Form.COLUMNS and prod(kernel.space[axis] for axis in kernel.axes) <= PARTIAL_SUMS
    return element_operations(kernel) < SERIAL // (8 if few else 4 if kernel.left else 1)


@remembered
def takes_turns(kernel: Kernel) -> bool:
    """Whether the last part of every thread's share goes to whoever is free, by the kernel's `tickets`.

    Contractions have counters of their own.  Who adds at places that data tells is told by the places.
    """
    return kernel.form not in (Form.CONTRACT, Form.SCATTER) and not is_serial(kernel) and element_operations(kernel) >= TURNS


@remembered
def scratch_sizes(kernel: Kernel, target: Target) -> tuple[int, int]:
    """(bytes of private memory per thread, bytes shared by all threads) that the kernel needs, 64-byte aligned."""
    if kernel.form is Form.CONTRACT:
        return contraction_scratch(kernel, target)
    if kernel.form in (Form.ROWS, Form.COLUMNS):
        return reduction_scratch(kernel, target, is_serial(kernel))
    if kernel.form is Form.ROUTINE:
        from .routines import routine_scratch

        return routine_scratch(kernel, target, vector_lanes(kernel, target)), 0
    return 0, 0


def memory_of_slot(kernel: Kernel, place: int, slot: Node, pointer: Value) -> Memory:
    """Where the elements of a buffer lie that a kernel reads."""
    deal = kernel.dealt
    if deal is None or place not in deal.apart:
        return row_major(slot, pointer)
    return apart(slot, pointer, deal.reads[place], deal.items)


def emit_kernel(module: Module, name: str, kernel: Kernel, target: Target, alone: bool = False,
                past: frozenset[int] = frozenset(), care: int = 2) -> Function:
    """Writes the function of a kernel.

    past    results that are written past the caches, where the target can
    alone   for a step that no other thread shares: the last parameters are private and shared; results are the same bits
    care    how much of LLVM's time its code is worth: see `emit.Function`; the same bits with any
    Raises: LoweringError where the body breaks the rules of the kernel's form.
    """
    emitter = emitter_of(kernel.form)
    if emitter is None:
        raise LoweringError(f"{kernel!r}: no loops for the form {kernel.form.value}")
    reads, writes = len(kernel.reads), len(kernel.writes)
    team = [("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")]
    counters = [("tickets", "ptr")] if takes_turns(kernel) else []
    f = module.function(name, [*((f"r{i}", "ptr") for i in range(reads)), *((f"w{i}", "ptr") for i in range(writes)),
                               ("private", "ptr"), ("shared", "ptr"), *([] if alone else [*team, *counters])],
                        attributes="nounwind noinline", care=care)
    pointers = f.parameters[:reads + writes]
    private, shared, *rest = f.parameters[reads + writes:]

    def emit(share: Threads) -> None:
        lanes = vector_lanes(kernel, target)
        elements = Elements(f, lanes)
        for place, (node, pointer) in enumerate(zip(kernel.body.inputs, pointers[:reads], strict=True)):
            elements.memory[node] = memory_of_slot(kernel, place, node, pointer)
        elements.past = frozenset(pointers[reads + write].name for write in past)

        def meet() -> None:
            if past:
                emit_fence(f)
            if not share.alone and kernel.dealt is None:  # what is dealt, nobody else waits for
                f.call(emit_barrier(module, target), [share.barrier, share.count])

        emitter(Work(f, kernel, target, elements, tuple(pointers[reads:]), private, shared, share, meet, lanes))
        if past:
            emit_fence(f)

    past = past if can_pass(target) else frozenset()
    if alone:
        emit(Threads(i64(0), i64(1), NOBODY, serial=is_serial(kernel)))
        return f
    thread, threads, barrier, *tickets = rest
    if is_serial(kernel):
        with f.when(f.compare("icmp eq", thread, i64(0))):
            emit(Threads(i64(0), i64(1), barrier, serial=True))
    else:
        emit(Threads(thread, threads, barrier, tickets[0] if tickets else None))
    return f
