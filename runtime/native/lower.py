"""Lowers a Plan to one LLVM module whose function `run` is the whole training step, repeated.

Knows buffers, their places and the order of kernels.  Must not know what a kernel computes: that is `kernels`.

``i32 run(ptr table, i64 thread, i64 threads, ptr barrier)`` is what every thread of the pool executes.  The table holds
addresses and the number of steps, so that the code itself holds none and can be kept on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir import Graph
from graphc.plan import Buffer, Kernel, Loop, Plan, Role, align, body_key

from .denormals import restore_denormal_mode, set_denormal_mode
from .emit import Function, Module, Value, i64
from .kernels import emit_kernel, is_serial, scratch_sizes
from .target import Target
from .threads import emit_barrier
from .unroll import emit_unrolled_run

COUNT, ARENA, SHARED, PRIVATE, PRIVATE_STRIDE, FIRST = range(6)  # words of the table


@dataclass(frozen=True)
class Layout:
    """Where the table has each buffer: (address word, stride word) of inputs and outputs, address word of the rest."""

    words: dict[Buffer, int]
    strides: dict[Buffer, int]
    size: int
    private_bytes: int
    shared_bytes: int


def table_layout(plan: Plan, target: Target, unrolled: bool = False) -> Layout:
    """The table of a plan: five words, then per input and output an address and a stride, then cells and constants."""
    words: dict[Buffer, int] = {}
    strides: dict[Buffer, int] = {}
    place = FIRST
    for buffer in (*plan.inputs, *plan.outputs):
        words[buffer], strides[buffer] = place, place + 1
        place += 2
    for buffer in (*plan.cells, *plan.constants):
        words[buffer] = place
        place += 1
    sizes = [] if unrolled else [scratch_sizes(k, target) for k in plan.kernels]
    return Layout(words, strides, place, align(max((p for p, _ in sizes), default=0)),
                  align(max((s for _, s in sizes), default=0)))


def lower_unrolled(graph: Graph, plan: Plan, target: Target, flush_denormals: bool = True) -> tuple[Module, Layout]:
    """The module of a step so small that it needs no kernels: see `unroll`."""
    layout = table_layout(plan, target, unrolled=True)
    module = Module()
    run = module.function("run", [("table", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                          returns="i32", internal=False)
    table, thread, _, _ = run.parameters
    with run.when(run.compare("icmp eq", thread, i64(0))):
        saved = set_denormal_mode(run, target) if flush_denormals else None

        def word(place: int, type_: str = "ptr") -> Value:
            return run.load(run.offset(table, i64(place), "i64"), type_, align=8)

        addresses = {b: word(p) for b, p in layout.words.items()}
        strides = {b: word(p, "i64") for b, p in layout.strides.items()}
        by_cell = {b.cell: addresses[b] for b in plan.cells}

        def moving(buffer: Buffer, step: Value) -> Value:
            return run.offset(addresses[buffer], run.mul(step, strides[buffer]), "i8")

        by_node = dict(zip(graph.inputs, plan.inputs, strict=True))
        emit_unrolled_run(run, graph, word(COUNT, "i64"), lambda node, step: moving(by_node[node], step),
                          lambda position, step: moving(plan.outputs[position], step), lambda cell: by_cell[cell])
        if flush_denormals:
            restore_denormal_mode(run, target, saved)
    run.ret(Value("0", "i32"))
    emit_alone(module)
    return module, layout


def lower(loop: Loop, target: Target, flush_denormals: bool = True) -> tuple[Module, Layout]:
    """The module of a step that is run as often as the table says."""
    plan = loop.body
    layout = table_layout(plan, target)
    module = Module()
    barrier_name = emit_barrier(module, target)
    functions: dict[tuple, str] = {}
    step = module.function("step", [("table", "ptr"), ("index", "i64"), ("thread", "i64"), ("threads", "i64"),
                                    ("barrier", "ptr")], attributes="nounwind alwaysinline")
    table, index, thread, threads, barrier = step.parameters
    places = Places(step, plan, layout, table, index)
    private = step.offset(places.word(PRIVATE), step.mul(thread, places.number(PRIVATE_STRIDE)), "i8")
    shared = places.word(SHARED)
    steps = plan.kernels
    for position, kernel in enumerate(steps):
        aliased = shared_memory(plan, kernel)
        key = body_key(kernel, aliased)
        name = functions.get(key)
        if name is None:
            name = functions[key] = f"k{len(functions)}_{kernel.form.value}"
            emit_kernel(module, name, kernel, target)
        arguments = [places.address(b) for b in (*kernel.reads, *kernel.writes)]
        serial = is_serial(kernel)
        step.call(name, [*arguments, private, shared, thread, threads, barrier])
        following = steps[position + 1] if position + 1 < len(steps) else None
        if following is None or not (serial and is_serial(following)):
            step.call(barrier_name, [barrier, threads])  # thread 0's serial kernels in a row need none between them
    emit_copies(step, plan, places, thread)
    if plan.copies:
        step.call(barrier_name, [barrier, threads])
    emit_run(module, target, flush_denormals)
    return module, layout


def shared_memory(plan: Plan, kernel: Kernel) -> tuple[tuple[int, int], ...]:
    """Pairs (write, read) of a kernel that the plan put in one place."""
    return tuple((w, r) for w, new in enumerate(kernel.writes) for r, old in enumerate(kernel.reads)
                 if plan.home(new) is plan.home(old))


class Places:
    """Addresses of buffers inside `step`, each computed once."""

    def __init__(self, f: Function, plan: Plan, layout: Layout, table: Value, index: Value) -> None:
        self.f, self.plan, self.layout, self.table, self.index = f, plan, layout, table, index
        self.known: dict[Buffer, Value] = {}
        self.words: dict[tuple[int, str], Value] = {}

    def word(self, place: int, type_: str = "ptr") -> Value:
        value = self.words.get((place, type_))
        if value is None:
            value = self.f.load(self.f.offset(self.table, i64(place), "i64"), type_, align=8)
            self.words[place, type_] = value
        return value

    def number(self, place: int) -> Value:
        return self.word(place, "i64")

    def address(self, buffer: Buffer) -> Value:
        home = self.plan.home(buffer)
        value = self.known.get(home)
        if value is None:
            if home.role is Role.TEMPORARY:
                value = self.f.offset(self.word(ARENA), i64(self.plan.offsets[home]), "i8")
            else:
                value = self.word(self.layout.words[home])
                if home in self.layout.strides:
                    moved = self.f.mul(self.index, self.number(self.layout.strides[home]))
                    value = self.f.offset(value, moved, "i8")
            self.known[home] = value
        return value


def emit_copies(f: Function, plan: Plan, places: Places, thread: Value) -> None:
    """Copies after all kernels, on thread 0."""
    if not plan.copies:
        return
    with f.when(f.compare("icmp eq", thread, i64(0))):
        f.module.declare("llvm.memmove.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1"])
        for source, target in plan.copies:
            f.call("llvm.memmove.p0.p0.i64", [places.address(target), places.address(source), i64(source.bytes),
                                              Value("false", "i1")])


def emit_run(module: Module, target: Target, flush_denormals: bool) -> None:
    """The exported function: `count` steps, denormals flushed, stopping early when the pool is told to cancel."""
    run = module.function("run", [("table", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                          returns="i32", internal=False)
    table, thread, threads, barrier = run.parameters
    saved = set_denormal_mode(run, target) if flush_denormals else None
    count = run.load(run.offset(table, i64(COUNT), "i64"), "i64")
    with run.loop(0, count) as index:
        run.call("step", [table, index, thread, threads, barrier])
    if flush_denormals:
        restore_denormal_mode(run, target, saved)
    run.ret(Value("0", "i32"))
    emit_alone(module)


def emit_alone(module: Module) -> None:
    """``i32 alone(ptr table)``: the whole run on the calling thread."""
    alone = module.function("alone", [("table", "ptr")], returns="i32", internal=False)
    alone.ret(alone.call("run", [alone.parameters[0], i64(0), i64(1), Value("null", "ptr")], "i32"))
