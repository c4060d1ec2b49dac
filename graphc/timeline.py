"""What each thread of a step did, kernel by kernel: measured inside the step, as table, data, trace events and picture.

Knows how spans add up, and the formats in which others read them.  Must not know how a backend takes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import FeedError, GraphError
from .garbage import kept_waiting
from .ir import Node
from .lanes import Box, draw
from .origins import at, user_origin
from .plan import Kernel
from .runtime.trace import Trace

if TYPE_CHECKING:
    from .program import Program
    from .specialized import Specialized

FORMATS = {".json": "trace events", ".svg": "a picture"}
SORTS = ("time", "step")
SHOWN_THREADS = 4  # that have columns of their own in a table
MANY_THREADS = ("fastest", "mean", "slowest")  # the columns where there are more


class KernelTime(NamedTuple):
    """One kernel's part of a step: means over the faster half of the steps.

    kernel    its name in reports; with backend="numpy" an op, all of its nodes together
    form      its loop structure, and `space` the sizes that it runs through
    phase     forward, gradient or update
    scope     the module that it belongs to
    runs      how often one step runs it; 0 for the side of a branch that was not taken
    flops     operations of all its runs
    bytes     that all its runs read and write, if each buffer moves once
    times     microseconds on each thread, without waiting
    waits     microseconds that each thread waited inside it, and after it until its next kernel
    share     of the time of all threads, 0 to 1
    """

    kernel: str
    form: str
    space: tuple[int, ...]
    phase: str
    scope: str
    runs: int
    flops: int
    bytes: int
    times: tuple[float, ...]
    waits: tuple[float, ...]
    share: float

    @property
    def time_us(self) -> float:
        """Of the thread that took longest."""
        return max(self.times)

    @property
    def gflops(self) -> float:
        """10**9 operations a second, all threads together; nan where it did not run."""
        return self.flops / self.time_us / 1e3 if self.time_us else float("nan")

    @property
    def gbytes(self) -> float:
        """10**9 bytes a second, read and written by all threads together; nan where it did not run."""
        return self.bytes / self.time_us / 1e3 if self.time_us else float("nan")


@dataclass(frozen=True, eq=False)
class Timeline:
    """A step under a magnifying glass.  `print` it for a table, `save` it for a picture.

    name        the program's, and its `backend`
    threads     that took part
    kernels     what each kernel took, in the plan's order
    events      every run of a kernel in one step, the one that is nearest to the mean: a record array with the fields
                kernel, thread, run (its number, counted through all loops around it), start_us, end_us; by thread, then time
    waits       every time a thread waited for others in that step: thread, kernel (inside which it waited, or "" between
                kernels), start_us, end_us
    bounds_us   when each thread began and ended that step, [threads, 2]
    steps_us    of each step that was watched, from the first thread's begin to the last one's end
    plain_us    of steps that were not watched, in turns with the others, with the call
    step_us     mean of the faster half of steps_us, and of one thread in these, on the mean, microseconds in kernels
                (`computing_us`), waiting for others (`waiting_us`), and neither: `outside_us`.  The three add up to step_us
    computing   of each thread, microseconds in kernels, and `waiting`

    All times are microseconds; those of events begin with the step.
    """

    name: str
    backend: str
    kernels: tuple[KernelTime, ...]
    events: np.recarray
    waits: np.recarray
    bounds_us: np.ndarray
    steps_us: np.ndarray
    plain_us: np.ndarray
    computing: np.ndarray
    waiting: np.ndarray
    step_us: float

    @property
    def threads(self) -> int:
        return len(self.bounds_us)

    @property
    def computing_us(self) -> float:
        return float(self.computing.mean())

    @property
    def waiting_us(self) -> float:
        return float(self.waiting.mean())

    @property
    def outside_us(self) -> float:
        return self.step_us - self.computing_us - self.waiting_us

    def __repr__(self) -> str:
        return (f"<Timeline of {self.name}: {self.step_us:.1f} us a step, {len(self.kernels)} kernels, "
                f"{self.threads} thread{'s' if self.threads != 1 else ''}>")

    def __str__(self) -> str:
        return self.table()

    # -- as text -----------------------------------------------------------------------------------------------

    def table(self, sort: str = "time", rows: int | None = None) -> str:
        """A line per kernel, then where the step's time went.

        sort   "time": what takes longest comes first; "step": the plan's order
        rows   the most lines of kernels; all by default
        Raises: GraphError for another order.
        """
        if sort not in SORTS:
            raise GraphError(f"a timeline is sorted by {' or '.join(map(repr, SORTS))}, not {sort!r}{at(user_origin())}")
        kernels = sorted(self.kernels, key=lambda k: -k.share) if sort == "time" else list(self.kernels)
        width = max(len("waiting for others"), *(len(k.kernel) for k in kernels), 0)
        heads = [f"thread {t}" for t in range(self.threads)] if self.threads <= SHOWN_THREADS else list(MANY_THREADS)
        heads += ["waiting"] if self.threads > 1 else []
        lines = [self.summary(), f"{'kernel':{width}} {'share':>6} {''.join(f'{h:>11}' for h in heads)}  GFLOP/s    GB/s"]
        for kernel in kernels[:rows]:
            waiting = self._time(sum(kernel.waits)) if self.threads > 1 else ""
            line = (f"{kernel.kernel:{width}} {kernel.share:6.1%} {self._columns(kernel.times)}{waiting}"
                    f"{_rate(kernel.gflops, 9)}{_rate(kernel.gbytes, 8)}")
            if kernel.runs != 1:
                line += f"  {kernel.runs} times" if kernel.runs else "  not taken"
            lines.append(line + (f"  [{kernel.scope}]" if kernel.scope else ""))
        if rows is not None and len(kernels) > rows:
            lines.append(f"and {len(kernels) - rows} more")
        totals = [("computing", self.computing)] + ([("waiting for others", self.waiting)] if self.threads > 1 else [])
        totals.append(("outside kernels", self.step_us - self.computing - self.waiting))
        lines += [f"{name:{width}} {times.mean() / self.step_us:6.1%} {self._columns(times)}" for name, times in totals]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def summary(self) -> str:
        """One line: how long a step takes, and what watching it cost."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        text = (f"{self.name} on {self.backend}, {threads}: {self._time(self.step_us).strip()} a step, the mean of the faster "
                f"half of {len(self.steps_us)}")
        return f"{text}; a call that is not watched {self._time(faster_half(self.plain_us)).strip()}"

    def _time(self, time: float) -> str:
        """With as many digits as a step of this length has any use for."""
        return f"{time:9,.{1 if self.step_us >= 100 else 2 if self.step_us >= 1 else 3}f}us"

    def _columns(self, times: Sequence[float] | np.ndarray) -> str:
        shown = list(times) if len(times) <= SHOWN_THREADS else [min(times), float(np.mean(times)), max(times)]
        return "".join(map(self._time, shown))

    # -- as files ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the step that `events` holds to a file, whose suffix says what it becomes.

        .json   trace events, for https://ui.perfetto.dev and chrome://tracing
        .svg    a picture, a lane per thread; hovering tells the rest
        Raises: GraphError for another suffix, OSError where the file cannot be written.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in FORMATS:
            raise GraphError(f"a timeline is saved as {' or '.join(f'{s} ({w})' for s, w in FORMATS.items())}, "
                             f"not as '{Path(path).name}'{at(user_origin())}")
        Path(path).write_text(self.svg() if suffix == ".svg" else json.dumps(self.trace_events()) + "\n", encoding="utf-8")

    def trace_events(self) -> dict[str, Any]:
        """The step in the trace-event format, ready for `json.dumps`.

        Format: "Trace Event Format" of the Chromium project: complete events (ph "X") with ts and dur in microseconds, and
        metadata events (ph "M") that name the process and its threads.  Waiting inside a kernel lies on the kernel.
        """
        known = {k.kernel: k for k in self.kernels}
        events: list[dict[str, Any]] = [_named("process_name", 0, f"{self.name} on {self.backend}")]
        events += [_named("thread_name", t, f"thread {t}") for t in range(self.threads)]
        for event in self.events:
            kernel = known[event.kernel]
            about = {"run": int(event.run), "form": kernel.form, "space": list(kernel.space), "scope": kernel.scope,
                     "flops a step": kernel.flops, "bytes a step": kernel.bytes, "runs a step": kernel.runs}
            events.append(_complete(event.kernel, kernel.phase, event, about))
        events += [_complete("waiting", "wait", wait, {"inside": str(wait.kernel)}) for wait in self.waits]
        return {"traceEvents": events, "displayTimeUnit": "ns",
                "otherData": {"step_us": round(self.step_us, 3), "threads": self.threads, "steps": len(self.steps_us)}}

    def svg(self) -> str:
        """The step as a picture: a lane per thread, colours for forward, gradient, update and waiting."""
        known = {k.kernel: k for k in self.kernels}
        boxes = []
        for event in self.events:
            kernel = known[event.kernel]
            label = f"{event.kernel} [{kernel.scope}]" if kernel.scope else str(event.kernel)
            note = f"{label} {kernel.form}{list(kernel.space) or ''}, run {event.run}: {_range(event)}"
            boxes.append(Box(int(event.thread), event.start_us, event.end_us, label, kernel.phase, note))
        for wait in self.waits:
            note = f"waiting{' in ' + wait.kernel if wait.kernel else ''}: {_range(wait)}"
            boxes.append(Box(int(wait.thread), wait.start_us, wait.end_us, "", "waiting", note))
        shares = ", ".join(f"{what} {time / self.step_us:.0%}" for what, time in (
            ("computing", self.computing_us), ("waiting", self.waiting_us), ("outside kernels", self.outside_us)))
        return draw(f"{self.name}: {self.step_us:,.1f} µs a step ({shares})", [f"thread {t}" for t in range(self.threads)],
                    boxes, float(self.bounds_us.max()))


def _rate(value: float, width: int) -> str:
    """Nothing where there is none."""
    return f"{value:{width}.1f}" if value > 0 else " " * width


def _range(span: Any) -> str:
    return f"{span.start_us:.1f} to {span.end_us:.1f} µs ({span.end_us - span.start_us:.1f})"


def _named(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": 1, "tid": thread, "args": {"name": name}}


def _complete(name: str, category: str, span: Any, about: dict[str, Any]) -> dict[str, Any]:
    start, end = round(float(span.start_us), 3), round(float(span.end_us), 3)
    return {"name": str(name), "cat": category, "ph": "X", "ts": start, "dur": round(end - start, 3), "pid": 1,
            "tid": int(span.thread), "args": about}


# -- how it is made --------------------------------------------------------------------------------------------------


@kept_waiting()
def measure(program: Program, special: Specialized, arrays: Sequence[np.ndarray], repeat: int) -> Timeline:
    """Runs `repeat` steps that are watched, and gives parameters and states their values back.

    Raises: FeedError where `repeat` is no positive number.
    """
    if not isinstance(repeat, (int, np.integer)) or isinstance(repeat, bool) or repeat < 1:
        raise FeedError(f"timeline needs a positive number of steps, got {repeat!r}{at(user_origin())}")
    before = {c: c.array.copy() for c in program.graph.cells()}
    try:
        trace = special.executable.trace(arrays, int(repeat))
    finally:
        for cell, value in before.items():
            cell.array[...] = value
    return timeline_of(program.name, program.backend, trace, special)


def faster_half(times: np.ndarray) -> float:
    """The mean of the faster half: what the system took away from the others says nothing about the step."""
    return float(np.sort(times)[:(len(times) + 1) // 2].mean())


class Row(NamedTuple):
    """What a kernel is, before anything was timed."""

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
        runs = len(np.unique(events.run[events.kernel == row.kernel])) if backend == "native" else \
            np.count_nonzero(events.kernel == row.kernel)
        often = runs if backend == "native" else 1  # a row of ops has the operations of all its nodes
        kernels.append(KernelTime(*row[:5], int(runs), row.flops * often, row.bytes * often, tuple(times[place].tolist()),
                                  tuple(waits[place].tolist()), float(times[place].sum() / (threads * step_us))))
    return Timeline(name, backend, tuple(kernels), events, pauses, trace.bounds[typical], steps, trace.plain, times.sum(0),
                    waits.sum(0) + idle, step_us)


def rows_of(trace: Trace, special: Specialized) -> tuple[list[Row], np.ndarray]:
    """A row for each kernel that there is, or op; and of each part its row, -1 of waiting."""
    found: dict[Any, int] = {kernel: i for i, kernel in enumerate(special.plan.kernels)} if any(
        isinstance(part, Kernel) for part in trace.parts) else {}
    rows: list[Row] = []
    names: dict[str, int] = {}
    for kernel in found:
        names[kernel.name] = often = names.get(kernel.name, 0) + 1
        rows.append(Row(kernel.name if often == 1 else f"{kernel.name}#{often}", kernel.form.value, kernel.space, kernel.phase,
                        kernel.scope, kernel.flops, kernel.bytes))
    row_of = np.full(len(trace.parts), -1)
    for number, part in enumerate(trace.parts[1:], 1):
        key = part.op.name if isinstance(part, Node) else part
        if key not in found:
            found[key] = len(rows)
            phase = part.phase if isinstance(part, Node) else "update"
            rows.append(Row(str(key), "op" if isinstance(part, Node) else "", (), phase, "", 0, 0))
        place = row_of[number] = found[key]
        if isinstance(part, Node):
            rows[place] = rows[place]._replace(**costs(rows[place], part))
    return rows, row_of


def costs(row: Row, node: Node) -> dict[str, int]:
    """Operations and bytes of a row of nodes with one more."""
    from .passes.cost import flops

    moved = sum(t.bytes for t in (*(i.types[0] for i in node.inputs), *node.types))
    return {"flops": row.flops + flops(node), "bytes": row.bytes + moved}


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
    names = np.array([r.kernel for r in rows] or [""])
    kernels, pauses = records[records["part"] != 0], records[records["part"] == 0]
    inside = np.full(len(pauses), "", names.dtype)
    for thread in np.unique(pauses["thread"]):
        mine = pauses["thread"] == thread
        own = kernels[kernels["thread"] == thread]
        before, within = places_of(pauses[mine], own)
        found = np.full(len(before), "", names.dtype)
        found[within] = names[row_of[own["part"][before[within]]]]
        inside[mine] = found
    fields = ("run", "start", "end")
    events = np.rec.fromarrays([names[row_of[kernels["part"]]], kernels["thread"], *(kernels[f] for f in fields)],
                               names=["kernel", "thread", "run", "start_us", "end_us"])
    waits = np.rec.fromarrays([inside, pauses["thread"], pauses["start"], pauses["end"]],
                              names=["kernel", "thread", "start_us", "end_us"])
    return events, waits
