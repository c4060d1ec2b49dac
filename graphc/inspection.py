"""Looking at a program: dumps at every stage, a report of what was done and why, times per kernel.

Knows stages and how to show them.  Must not change anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .cells import kept
from .errors import GraphError
from .garbage import kept_waiting
from .ir import Graph, Node, topological
from .op import Kind
from .origins import at, user_origin
from .plan import Form, Kernel, Loop, Plan, Role
from .text import format_graph, format_json, format_plan

if TYPE_CHECKING:
    from .passes.recompute import Recomputed
    from .program import Program
    from .specialized import Specialized

STAGES = ("forward", "gradient", "update", "simplified", "plan", "llvm", "asm")
SHOWN_VALUES = 12  # kinds of recomputed values that a report lists
FORMATS = ("text", "dot", "svg", "png", "html", "json")


def stage_graph(program: Program, stage: str) -> Graph:
    """The graph at one of the first four stages.

    forward     what the outputs need
    gradient    and the gradients that updates are made of
    update      the whole step, as it was built
    simplified  after expansion and simplification
    """
    graph = program.graph
    if stage == "simplified":
        return program.simplified
    if stage == "update":
        return graph
    if stage == "forward":
        return Graph(graph.inputs, graph.outputs, (), graph.output_names)
    if stage == "gradient":
        gradients = gradients_of(graph)
        names = graph.output_names or ("",) * len(graph.outputs)
        return Graph(graph.inputs, (*graph.outputs, *gradients), (),
                     (*names, *(f"gradient{i}" for i in range(len(gradients)))))
    raise GraphError(f"unknown stage {stage!r}; stages are {', '.join(STAGES)}{at(user_origin())}")


def gradients_of(graph: Graph) -> list[Node]:
    """The results of differentiation: gradient nodes that something other than a gradient reads."""
    found: dict[Node, None] = {}
    for root in graph.roots:
        if root.phase == "gradient":
            found[root] = None
    for node in topological(graph.roots):
        if node.phase != "gradient":
            found.update({i: None for i in node.inputs if i.phase == "gradient" and i.op.kind is not Kind.SOURCE})
    return list(found)


@kept_waiting()
def dump(program: Program, stage: str, format: str, sizes: Mapping[str, int] | None) -> Any:
    """Text (or bytes, of a PNG) of a program at a stage.

    stage   forward, gradient, update, simplified, plan, llvm, asm
    format  text, dot, svg, png, html or json; plan, llvm and asm are text only
    sizes   of open dimensions, for plan and later; 32 where not given
    """
    from .program import sizes_for

    if stage not in STAGES:
        raise GraphError(f"unknown stage {stage!r}; stages are {', '.join(STAGES)}{at(user_origin())}")
    if format not in FORMATS:
        raise GraphError(f"unknown format {format!r}; formats are {', '.join(FORMATS)}{at(user_origin())}")
    if stage in ("plan", "llvm", "asm"):
        if format != "text":
            raise GraphError(f"the stage '{stage}' is text only{at(user_origin())}")
        special = program.specialize(**sizes_for(program, sizes))
        if stage == "plan":
            return format_plan(special.plan)
        executable: Any = special.compiled.executable
        if not hasattr(executable, "code"):
            raise GraphError(f"the numpy backend has no {stage}; build the program with backend='native'"
                             f"{at(user_origin())}")
        return executable.text if stage == "llvm" else executable.code.assembly()
    return show_graph(stage_graph(program, stage), format)


def show_graph(graph: Graph, format: str) -> Any:
    """A graph in any of the formats."""
    if format == "text":
        return format_graph(graph, comments=True)
    if format == "json":
        return format_json(graph)
    from . import viz

    if format == "dot":
        return viz.dot(graph)
    if format == "html":
        from .html import page

        return page(graph)
    drawn = viz.draw(graph, format)
    return drawn if format == "png" else drawn.decode() if isinstance(drawn, bytes) else drawn


# -- report ----------------------------------------------------------------------------------------------------------


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return ""


def why_unfused(plan: Plan, kernel: Kernel) -> str:
    """For a contraction whose result reaches memory: who reads it there."""
    contraction = next((n for n in kernel.body.nodes if n.op.kind is Kind.CONTRACT), None)
    if contraction is None or contraction not in kernel.body.outputs:
        return ""
    buffer = kernel.writes[kernel.body.outputs.index(contraction)]
    home = plan.home(buffer)
    if home.role is Role.OUTPUT:
        return "its result is an output"
    readers = [k.name for k in plan.kernels if buffer in k.reads]
    return f"its result is stored: read by {', '.join(readers)}" if readers else ""


def recomputed_lines(cost: Recomputed, budget: int | None) -> list[str]:
    """What is computed again to meet the memory budget, and what that costs."""
    (before, after), (arena, now) = cost.operations, cost.arena
    lines = [f"  to fit {_bytes(budget or now)}, {len(cost.values)} values are computed again instead of kept: temporaries "
             f"{_bytes(arena)} -> {_bytes(now)}, {after - before:,} operations more ({after / before:.2f} x)"]
    kinds: dict[str, list[int]] = {}
    for what, size in cost.values:
        kinds.setdefault(what, []).append(size)
    for what, found in sorted(kinds.items(), key=lambda item: -sum(item[1]))[:SHOWN_VALUES]:
        many = f"{len(found)} x " if len(found) > 1 else ""
        lines.append(f"    {many}{what} ({_bytes(sum(found))})")
    if len(kinds) > SHOWN_VALUES:
        lines.append(f"    and {len(kinds) - SHOWN_VALUES} more")
    return lines


def threads_used(special: Specialized) -> str:
    """Words about the threads that run a step; none of the interpreter's."""
    executable = special.compiled.executable
    count = getattr(executable, "threads", 0)
    if count < 2:
        return "on one thread" if count else ""
    choice = getattr(executable, "choice", None)
    if choice is None:
        return f"on {count} threads"
    return f"on {count} threads or one, by the clock as it runs; lately on {'one' if choice.alone else count}"


@kept_waiting()
def report(program: Program, sizes: Mapping[str, int]) -> str:
    """What the compiler did with the program, kernel by kernel, and why."""
    from .program import sizes_for

    chosen = sizes_for(program, sizes)
    special = program.specialize(**chosen)
    plan = special.plan
    given = ", ".join(f"{k}={v}" for k, v in chosen.items()) or "no open sizes"
    lines = [f"{program.name} on {program.backend} ({given})",
             f"  {len(program.graph.nodes)} nodes as built, {len(special.graph.nodes)} simplified, "
             f"{len(plan.kernels)} kernels, {plan.flops:,} operations a step"]
    ratio = plan.arena_bytes / plan.live_bytes if plan.live_bytes else 1.0
    memory = special.memory
    lines.append(f"  temporaries {_bytes(plan.arena_bytes)} ({ratio:.2f} x the largest live set), "
                 f"parameters and states {_bytes(memory.cells)}")
    lines.append(f"  inputs and outputs {_bytes(memory.inputs + memory.outputs)}, constants {_bytes(memory.constants)}, "
                 f"scratch {_bytes(memory.scratch)}: {_bytes(memory.total)} in all")
    if special.recomputed is not None:
        lines += recomputed_lines(special.recomputed, program.memory_budget)
    in_place = sum(1 for b, home in plan.aliases.items() if home.role is Role.CELL)
    lines.append(f"  {in_place} of {len(special.graph.updates)} updates in place, {len(plan.copies)} copies")
    if getattr(special.compiled.executable, "unrolled", False):
        lines.append("  the step is so small that it is unrolled: no loops, cells in registers across steps")
    if words := threads_used(special):
        lines.append(f"  {words}")
    if special.planned.batch:
        lines.append(f"  {special.planned.batch}")
    if program.matmul_precision != "highest":
        contractions = [kernel for kernel, _ in plan.runs if kernel.form is Form.CONTRACT]
        made = [how for kernel in contractions if (how := multiplied_in_pieces(program, special, kernel))]
        lines.append(f"  {len(made)} of {len(contractions)} contractions are of {program.matmul_precision} precision"
                     + "".join(f", {how}" for how in dict.fromkeys(made)) + "; the others are float32")
    for step in plan.steps:
        if isinstance(step, Loop):
            how = "shared by the threads" if step.parallel else "one after the other"
            lines.append(f"  {step.name}: {step.count} runs of {len(step.body.kernels)} kernels, {how}")
    for kernel, runs in plan.runs:
        targets = [plan.home(b) for b in kernel.writes]
        cells = [t.name for t in targets if t.role is Role.CELL]
        what = f"  {kernel.name:20} {kernel.form.value:8} {list(kernel.space)!s:18} {kernel.flops:>14,} ops  "
        what += f"{_bytes(kernel.bytes):>10}  {kernel.phase}"
        if runs != 1:
            what += f"  {runs} times a step"
        if cells:
            what += f"  updates {', '.join(cells)} in place"
        if how := multiplied_in_pieces(program, special, kernel):
            what += f"  {how}"
        lines.append(what + (f"  [{kernel.scope}]" if kernel.scope else ""))
        if kernel.form is Form.CONTRACT and (reason := why_unfused(plan, kernel)):
            lines.append(f"{'':23}{reason}")
        lines.extend(f"{'':23}{note}" for note in kernel.notes)
    times = {**program.seconds, **special.seconds}
    if special.kept:
        lines.append(f"  kept on disk by an earlier process and ready in {special.kept * 1e3:.1f} ms; compiled again for this")
    lines.append("  compiled in " + ", ".join(f"{k} {v * 1e3:.1f} ms" for k, v in times.items()))
    return "\n".join(lines) + "\n"


def multiplied_in_pieces(program: Program, special: Specialized, kernel: Kernel) -> str:
    """How a kernel's products are made where that is less precise than float32."""
    if program.backend != "native" or kernel.form is not Form.CONTRACT or not hasattr(special.compiled.executable, "target"):
        return ""
    from .runtime.native.contraction_kernels import multiplies_pieces

    return multiplies_pieces(kernel, special.compiled.executable.target)


# -- profile ---------------------------------------------------------------------------------------------------------


@kept_waiting()
def profile(program: Program, special: Specialized, arrays: Sequence[np.ndarray], repeat: int) -> str:
    """Time per kernel: each kernel compiled alone and run on the memory it has in the step, least of `repeat` runs."""
    if program.backend != "native":
        return _profile_interpreted(special, arrays, repeat)
    from .runtime.native.profile import time_kernels

    often = dict(special.plan.runs)
    rows = [(k, s * often[k]) for k, s in time_kernels(special.plan, arrays, repeat)]
    total = sum(seconds for _, seconds in rows) or 1.0
    lines = [f"{'kernel':24} {'time':>10} {'share':>6} {'GFLOP/s':>8} {'GB/s':>7}"]
    for kernel, seconds in sorted(rows, key=lambda r: -r[1]):
        rate = often[kernel] / max(seconds, 1e-12) / 1e9
        lines.append(f"{kernel.name:24} {seconds * 1e6:8.1f}us {seconds / total:6.1%} {rate * kernel.flops:8.1f} "
                     f"{rate * kernel.bytes:7.1f}" + (f"  {often[kernel]} times" if often[kernel] != 1 else ""))
    with kept(program.graph.cells()):
        start = time.perf_counter()
        special.executable.run(arrays, repeat, [False] * len(arrays))
        step = (time.perf_counter() - start) / repeat
    lines.append(f"{'the whole step':24} {step * 1e6:8.1f}us   (kernels one by one on one thread: {total * 1e6:.1f}us)")
    return "\n".join(lines) + "\n"


def _profile_interpreted(special: Specialized, arrays: Sequence[np.ndarray], repeat: int) -> str:
    from .runtime.interpreter import compute

    spent: dict[str, float] = {}
    for _ in range(repeat):
        values: dict[Node, Any] = dict(zip(special.graph.inputs, arrays, strict=True))
        for node in special.graph.nodes:
            if node not in values:
                start = time.perf_counter()
                values[node] = compute(node, [values[i] for i in node.inputs], {})
                spent[node.op.name] = spent.get(node.op.name, 0.0) + (time.perf_counter() - start) / repeat
    rows = sorted(spent.items(), key=lambda r: -r[1])
    return "\n".join(f"{name:24} {seconds * 1e6:8.1f}us" for name, seconds in rows) + "\n"
