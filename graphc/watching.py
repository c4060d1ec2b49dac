"""From a step that was watched to a timeline: who runs it, and how spans add up.

Knows kernels, ops and spans of time.  Must not know how a backend takes spans, or how a timeline is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .cells import kept
from .errors import FeedError
from .garbage import kept_waiting
from .ir import Node
from .origins import at, user_origin
from .plan import Kernel
from .runtime.trace import Trace
from .timeline import KernelTime, Timeline

if TYPE_CHECKING:
    from .program import Program
    from .specialized import Specialized

OP = "op"  # the form of a row that is no kernel: all nodes of an op together


@kept_waiting()
def measure(program: Program, special: Specialized, arrays: Sequence[np.ndarray], repeat: int) -> Timeline:
    """Runs `repeat` steps that are watched, and gives parameters and states their values back.

    Raises: FeedError where `repeat` is no positive number.
    """
    if not isinstance(repeat, (int, np.integer)) or isinstance(repeat, bool) or repeat < 1:
        raise FeedError(f"timeline needs a positive number of steps, got {repeat!r}{at(user_origin())}")
    with kept(program.graph.cells()):
        trace = special.compiled.executable.trace(arrays, int(repeat))
    return timeline_of(program.name, program.backend, trace, special)


class Row(NamedTuple):
    """What a line of the table stands for, before anything was timed; flops and bytes of one run."""

    kernel: str
    form: str
    space: tuple[int, ...]
    phase: str
    scope: str
    flops: int
    bytes: int


def timeline_of(name: str, backend: str, trace: Trace, special: Specialized) -> Timeline:
    """What was measured, added up."""
    rows, row_of = rows_of(trace, special)
    threads = trace.bounds.shape[1]
    steps = trace.bounds[:, :, 1].max(1)
    chosen = np.argsort(steps, kind="stable")[:(len(steps) + 1) // 2]
    step_us = float(steps[chosen].mean())
    sums = [added_up(trace.steps[i], row_of, len(rows), threads) for i in chosen]
    times, waits, idle = (np.mean([s[k] for s in sums], axis=0) for k in range(3))
    typical = int(chosen[np.argmin(np.abs(steps[chosen] - step_us))])
    events, pauses = named(trace.steps[typical], rows, row_of)
    kernels = []
    for place, row in enumerate(rows):
        own = events.run[events.kernel == row.kernel]
        runs, often = (len(np.unique(own)), len(np.unique(own))) if row.form != OP else (len(own), 1)
        kernels.append(KernelTime(row.kernel, row.form, row.space, row.phase, row.scope, runs, row.flops * often,
                                  row.bytes * often, tuple(times[place].tolist()), tuple(waits[place].tolist()),
                                  float(times[place].sum() / (threads * step_us))))
    return Timeline(name, backend, tuple(kernels), events, pauses, trace.bounds[typical], steps, trace.plain, step_us,
                    times.sum(0), waits.sum(0) + idle)


def rows_of(trace: Trace, special: Specialized) -> tuple[list[Row], np.ndarray]:
    """A row for each kernel that there is, or op; and of each part its row, -1 of waiting."""
    found: dict[Any, int] = {}
    rows: list[Row] = []
    names: dict[str, int] = {}
    for kernel in special.plan.kernels if any(isinstance(part, Kernel) for part in trace.parts) else ():
        names[kernel.name] = often = names.get(kernel.name, 0) + 1
        name = kernel.name if often == 1 else f"{kernel.name}#{often}"  # each plan inside a plan counts anew
        found[kernel] = len(rows)
        rows.append(Row(name, kernel.form.value, kernel.space, kernel.phase, kernel.scope, kernel.flops, kernel.bytes))
    row_of = np.full(len(trace.parts), -1)
    for number, part in enumerate(trace.parts[1:], 1):
        key: Any = part.op.name if isinstance(part, Node) else part
        if key not in found:
            found[key] = len(rows)
            rows.append(Row(key, OP, (), part.phase, "", 0, 0) if isinstance(part, Node) else
                        Row(str(key), "", (), "update", "", 0, 0))
        row_of[number] = found[key]
        if isinstance(part, Node):
            rows[found[key]] = with_node(rows[found[key]], part)
    return rows, row_of


def with_node(row: Row, node: Node) -> Row:
    """A row of an op's nodes with one more."""
    from .passes.cost import flops

    moved = sum(t.bytes for t in (*(i.types[0] for i in node.inputs), *node.types))
    return row._replace(flops=row.flops + flops(node), bytes=row.bytes + moved)


def added_up(records: np.ndarray, row_of: np.ndarray, rows: int, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one step, microseconds [rows, threads] in kernels and waiting inside and behind them, and [threads] of other waits."""
    times, waits, idle = np.zeros((rows, threads)), np.zeros((rows, threads)), np.zeros(threads)
    for thread in range(threads):
        own = records[records["thread"] == thread]
        kernels, pauses = own[own["part"] != 0], own[own["part"] == 0]
        spent, paused = kernels["end"] - kernels["start"], pauses["end"] - pauses["start"]
        before, inside = places_of(pauses, kernels)
        np.subtract.at(spent, before[inside], paused[inside])
        np.add.at(times[:, thread], row_of[kernels["part"]], spent)
        np.add.at(waits[:, thread], row_of[kernels["part"][before[before >= 0]]], paused[before >= 0])
        idle[thread] = paused[before < 0].sum()
    return times, waits, idle


def places_of(pauses: np.ndarray, kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each wait of a thread the number of its kernel that began last, -1 for none, and whether it waited inside that."""
    before = np.searchsorted(kernels["start"], pauses["start"], side="right") - 1
    if not len(kernels):
        return before, np.zeros(len(pauses), bool)
    return before, (before >= 0) & (pauses["end"] <= kernels["end"][before])


def named(records: np.ndarray, rows: Sequence[Row], row_of: np.ndarray) -> tuple[np.recarray, np.recarray]:
    """Events and waits of one step, as users see them."""
    names = np.array([r.kernel for r in rows])
    kernels, pauses = records[records["part"] != 0], records[records["part"] == 0]
    events = spans(kernels, names[row_of[kernels["part"]]], "run")
    waits = spans(pauses, np.full(len(pauses), "", names.dtype))
    for thread in np.unique(pauses["thread"]):
        own = kernels[kernels["thread"] == thread]
        mine = np.flatnonzero(pauses["thread"] == thread)
        before, inside = places_of(pauses[mine], own)
        waits.kernel[mine[inside]] = names[row_of[own["part"][before[inside]]]]
    return events, waits


def spans(records: np.ndarray, kernels: np.ndarray, *more: str) -> np.recarray:
    """Records with names in place of numbers.  more: fields that come along."""
    fields = ("thread", *more)
    types = [("kernel", kernels.dtype), *((f, records.dtype[f]) for f in fields), ("start_us", float), ("end_us", float)]
    found = np.zeros(len(records), types).view(np.recarray)
    for field in fields:
        found[field] = records[field]
    found["kernel"], found["start_us"], found["end_us"] = kernels, records["start"], records["end"]
    return found
