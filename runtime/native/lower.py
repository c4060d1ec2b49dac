"""Lowers a Plan to one LLVM module whose function `run` is the whole training step, repeated.

Knows the table of addresses and the runs of a step.  Must not know how steps are written: that is `steps`.

``i32 run(ptr table, i64 thread, i64 threads, ptr barrier)`` is what every thread of the pool executes.  The table holds
addresses and the number of steps, so that the code itself holds none and can be kept on disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext

from graphc.ir import Graph
from graphc.plan import Buffer, Kernel, Loop, Plan

from .codegen import Unit
from .denormals import restore_denormal_mode, set_denormal_mode
from .emit import Function, Module, Value, i64
from .kernels import element_operations
from .meetings import plan_scratch
from .steps import Places, StepWriter, Team
from .table import ARENA, COUNT, PRIVATE, PRIVATE_STRIDE, SHARED, Layout, table_layout
from .target import Target
from .texts import Text, Texts
from .unroll import emit_unrolled_run

UNIT = 48_000  # characters of text, about 25 ms of LLVM's time
LONG_STEP = 16_000  # characters of a step's calls, about 30 kernels
LONG_RUN = 1 << 21  # operations of a step, about 100 microseconds: what calls its kernels need not be fast
BESIDE = 1 << 15  # times as many operations has a step than a kernel that is worth no care

UNROLLED = "unrolled step"  # the only part of a step that has no kernels

LANES_DIVIDED = re.compile(r"= [us](div|rem) <")

Give = Callable[[Unit], None]


def remaining(texts: Texts) -> list[Unit]:
    """What is left of a module that is complete: its last kernels, and what calls kernels."""
    if "step" not in texts.module.functions:
        return [Unit(texts.module.text(), level=3)]  # unrolled: one long row of scalar instructions
    return [*map(unit, texts.rest())]


def unit(text: Text) -> Unit:
    """A text of kernels, or of what calls them.

    Instructions are combined where places are computed lane by lane: what views and windows divide.  What mostly calls takes
    no time worth mentioning when it runs, and four times as long to compile if LLVM allots registers with care.
    """
    return Unit(text.text, level=0 if text.quick else 3 if LANES_DIVIDED.search(text.text) else 2)


def lower_unrolled(graph: Graph, plan: Plan, target: Target, flush_denormals: bool = True,
                   give: Give | None = None, *, marked: bool = False) -> tuple[Texts, Layout]:
    """The module of a step so small that it needs no kernels: see `unroll`.  marked: as `lower`; the whole run is one part."""
    layout = table_layout(plan, marked)
    module = Module(lookups=target.has_lookups, rounds=target.has_rounding)
    run = module.function("run", [("table", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                          returns="i32", internal=False)
    table, thread, _, barrier = run.parameters
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
        marks = None
        if marked:
            from .marks import Marks  # loads when somebody asks for a timeline

            marks = Marks(module, run, target, word(layout.marks))
        with marks.step(barrier, UNROLLED) if marks else nullcontext():
            emit_unrolled_run(run, graph, word(COUNT, "i64"), lambda node, step: moving(by_node[node], step),
                              lambda position, step: moving(plan.outputs[position], step), lambda cell: by_cell[cell])
        if flush_denormals:
            restore_denormal_mode(run, target, saved)
    run.ret(Value("0", "i32"))
    emit_alone(module)
    return Texts(module, UNIT), layout._replace(parts=tuple(marks.parts)) if marks else layout


def lower(loop: Loop, target: Target, flush_denormals: bool = True, give: Give | None = None, *,
          marked: bool = False, several: bool = True) -> tuple[Texts, Layout]:
    """The module of a step that is run as often as the table says.

    give     is handed texts of kernels as soon as they are complete, so that others may compile them meanwhile
    marked   the step keeps a record of itself: see `marks`
    several  more than one thread may run it
    """
    plan = loop.body
    layout = table_layout(plan, marked)
    module = Module(lookups=target.has_lookups, rounds=target.has_rounding)
    texts = Texts(module, UNIT, ("run", "alone", "step"))
    step = module.function("step", [("table", "ptr"), ("index", "i64"), ("thread", "i64"), ("threads", "i64"),
                                    ("barrier", "ptr")], attributes="nounwind alwaysinline")
    table, index, thread, threads, barrier = step.parameters
    words = Words(step, layout, table, index)
    private = step.offset(words.word(PRIVATE), step.mul(thread, words.word(PRIVATE_STRIDE, "i64")), "i8")
    team = Team(thread, threads, barrier, private, words.word(SHARED))
    constants = {b: words.address(b) for inner in plan.each_plan() for b in inner.constants}  # before any loop begins

    def written() -> None:
        if give is not None:
            for text in texts.ready():
                give(unit(text))

    total = operations(plan)
    few = total // BESIDE
    arena, address = words.word(ARENA), constants.__getitem__
    places = Places(step, plan, lambda: arena, words.address)
    if marked:
        from .marks import MarkingWriter, Marks

        first, stride = words.word(layout.marks), words.word(layout.marks + 1, "i64")
        marks = Marks(module, step, target, step.offset(first, step.mul(thread, stride), "i8"))
        MarkingWriter(module, step, target, address, written, marks, barrier, few, several).whole(plan, places, team)
        layout = layout._replace(parts=tuple(marks.parts))
    else:
        StepWriter(module, step, target, address, written, few=few, several=several).whole(plan, places, team)
    emit_run(module, target, flush_denormals, 0 if total >= LONG_RUN or step.characters >= LONG_STEP else 2)
    private_bytes, shared_bytes = plan_scratch(plan, target)  # last: it would keep the first texts waiting
    return texts, layout._replace(private_bytes=private_bytes, shared_bytes=shared_bytes)


class Words:
    """What `step` reads from the table, each word once."""

    def __init__(self, f: Function, layout: Layout, table: Value, index: Value) -> None:
        self.f, self.layout, self.table, self.index = f, layout, table, index
        self.known: dict[tuple[int, str], Value] = {}

    def word(self, place: int, type_: str = "ptr") -> Value:
        value = self.known.get((place, type_))
        if value is None:
            value = self.f.load(self.f.offset(self.table, i64(place), "i64"), type_, align=8)
            self.known[place, type_] = value
        return value

    def address(self, buffer: Buffer) -> Value:
        """Of an input or output: this step's entry, where the caller's array has one per step."""
        value = self.word(self.layout.words[buffer])
        if buffer in self.layout.strides:
            moved = self.f.mul(self.index, self.word(self.layout.strides[buffer], "i64"))
            value = self.f.offset(value, moved, "i8")
        return value


def operations(plan: Plan) -> int:
    """Rough number of vector operations of a step."""
    return sum(element_operations(step) if isinstance(step, Kernel) else
               (step.count or 0) * operations(step.body) if isinstance(step, Loop) else 0 for step in plan.steps)


def emit_run(module: Module, target: Target, flush_denormals: bool, care: int) -> None:
    """The exported function: `count` steps, denormals flushed, stopping early when the pool is told to cancel."""
    run = module.function("run", [("table", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                          returns="i32", internal=False, care=care)
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
