"""What each thread of a step did, kernel by kernel: as data, a table, trace events and a picture.

Knows the formats in which people and programs read it.  Must not know how it was measured, or added up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import GraphError
from .lanes import Box, draw
from .lanes_page import page
from .origins import at, user_origin

FORMATS = {".json": "trace events", ".svg": "a picture", ".html": "a page"}
SORTS = ("time", "step")
SHOWN_THREADS = 4  # that have columns of their own in a table
MANY_THREADS = ("fastest", "mean", "slowest")  # the columns where there are more


class KernelTime(NamedTuple):
    """One kernel's part of a step.

    kernel    its name in reports, with a number where others have it, too; with backend="numpy" an op, all nodes together
    form      its loop structure ("op" with backend="numpy", "" of what no kernel does)
    space     the sizes that it runs through
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
    """What each thread of a step did, kernel by kernel.  Print it for a table, `save` it for a picture.

    All times are microseconds.  Steps that the system disturbed say nothing, so means are those of the faster half of the
    steps; `events`, `waits` and `bounds_us` show the one of these that is nearest to the mean, whose first thread begins at 0.

    name          the program's
    backend       "native", or "numpy": then there is one thread, and `kernels` are ops of the interpreter
    kernels       a KernelTime of each kernel, in the plan's order; of a step so small that it has none, "unrolled step"
    events        each run of a kernel: a record array with the fields kernel, thread, run (its number, counted through all
                  loops around it), start_us and end_us, by thread and then in time
    waits         each time a thread waited for others: kernel (inside which it waited, "" between kernels), thread,
                  start_us and end_us
    bounds_us     when each thread began and ended, float64 [threads, 2]
    steps_us      of each step that was watched, from the first thread's begin to the last one's end
    plain_us      of each of as many steps that were not, measured around the call, in turns with the others
    step_us       the mean of steps_us, as said
    computing_us  of it what each thread spent in kernels, float64 [threads]
    waiting_us    and waiting for others.  The rest is `outside_us`: until threads are awake, and between kernels
    """

    name: str
    backend: str
    kernels: tuple[KernelTime, ...]
    events: np.recarray
    waits: np.recarray
    bounds_us: np.ndarray
    steps_us: np.ndarray
    plain_us: np.ndarray
    step_us: float
    computing_us: np.ndarray
    waiting_us: np.ndarray

    @property
    def threads(self) -> int:
        """How many took part."""
        return len(self.bounds_us)

    @property
    def outside_us(self) -> np.ndarray:
        """What each thread spent neither in kernels nor waiting, float64 [threads]: with these it is step_us."""
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
        columns = "".join(f"{head:>11}" for head in heads)
        lines = [self.summary(), f"{'kernel':{width}} {'share':>6} {columns}  GFLOP/s    GB/s  phase"]
        for kernel in kernels[:rows]:
            waiting = self._time(sum(kernel.waits)) if self.threads > 1 else ""
            line = (f"{kernel.kernel:{width}} {kernel.share:6.1%} {self._columns(kernel.times)}{waiting}"
                    f"{_rate(kernel.gflops, 9)}{_rate(kernel.gbytes, 8)}  {kernel.phase:8}")
            if kernel.runs != 1:
                line += f"  {kernel.runs} times" if kernel.runs else "  not taken"
            lines.append(line + (f"  [{kernel.scope}]" if kernel.scope else ""))
        if rows is not None and len(kernels) > rows:
            lines.append(f"and {len(kernels) - rows} more")
        lines += [f"{name:{width}} {times.mean() / self.step_us:6.1%} {self._columns(times)}"
                  for name, times in self._totals() if self.threads > 1 or times is not self.waiting_us]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def summary(self) -> str:
        """One line: how long a step takes, and what watching it cost."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        text = (f"{self.name} on {self.backend}, {threads}: {self._time(self.step_us).strip()} a step, the mean of the faster "
                f"half of {len(self.steps_us)}")
        return f"{text}; a call that is not watched {self._time(faster_half(self.plain_us)).strip()}"

    def _totals(self) -> list[tuple[str, np.ndarray]]:
        return [("computing", self.computing_us), ("waiting for others", self.waiting_us), ("outside kernels", self.outside_us)]

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
        .html   the same to zoom into, with the table; it loads nothing from elsewhere
        Raises: GraphError for another suffix, OSError where the file cannot be written.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in FORMATS:
            raise GraphError(f"a timeline is saved as {' or '.join(f'{s} ({w})' for s, w in FORMATS.items())}, "
                             f"not as '{Path(path).name}'{at(user_origin())}")
        text = {".json": lambda: json.dumps(self.trace_events()) + "\n", ".svg": self.svg, ".html": self.html}[suffix]()
        Path(path).write_text(text, encoding="utf-8")

    def trace_events(self) -> dict[str, Any]:
        """The step in the trace-event format, ready for `json.dumps`.

        Format: "Trace Event Format" of the Chromium project: complete events (ph "X") with ts and dur in microseconds, and
        metadata events (ph "M") that name the process and its threads.  Waiting inside a kernel lies on the kernel.
        """
        known = {k.kernel: k for k in self.kernels}
        events: list[dict[str, Any]] = [_named("process_name", 0, f"{self.name} on {self.backend}")]
        events += [_named("thread_name", t, f"thread {t}") for t in range(self.threads)]
        for name, thread, run, start, end in self.events.tolist():
            kernel = known[name]
            about = {"run": run, "form": kernel.form, "space": list(kernel.space), "scope": kernel.scope,
                     "flops a step": kernel.flops, "bytes a step": kernel.bytes, "runs a step": kernel.runs}
            events.append(_complete(name, kernel.phase, thread, start, end, about))
        events += [_complete("waiting", "wait", thread, start, end, {"inside": name})
                   for name, thread, start, end in self.waits.tolist()]
        return {"traceEvents": events, "displayTimeUnit": "ns",
                "otherData": {"step_us": round(self.step_us, 3), "threads": self.threads, "steps": len(self.steps_us)}}

    def svg(self) -> str:
        """The step as a picture: a lane per thread, colours for forward, gradient, update and waiting."""
        return draw(self._title(), self._lanes(), self._boxes(), float(self.bounds_us.max()))

    def html(self) -> str:
        """The step as a page: the picture, to zoom into, and the table."""
        return page(self._title(), self._lanes(), self._boxes(), float(self.bounds_us.max()), self.table())

    def _title(self) -> str:
        shares = ", ".join(f"{what} {times.mean() / self.step_us:.1%}" for what, times in self._totals())
        return f"{self.name}: {self._time(self.step_us).strip().replace('us', ' µs')} a step ({shares})"

    def _lanes(self) -> list[str]:
        return [f"thread {t}" for t in range(self.threads)]

    def _boxes(self) -> list[Box]:
        """Kernels, and waits above them."""
        known = {k.kernel: k for k in self.kernels}
        boxes = []
        for name, thread, run, start, end in self.events.tolist():
            kernel = known[name]
            label = f"{name} [{kernel.scope}]" if kernel.scope else name
            note = f"{label} {kernel.form}{list(kernel.space) or ''}, run {run}: {_range(start, end)}"
            boxes.append(Box(thread, start, end, label, kernel.phase, note))
        for name, thread, start, end in self.waits.tolist():
            note = f"waiting{' in ' + name if name else ''}: {_range(start, end)}"
            boxes.append(Box(thread, start, end, "", "waiting", note))
        return boxes


def faster_half(times: np.ndarray) -> float:
    """The mean of the faster half: what the system took away from the others says nothing about the step."""
    return float(np.sort(times)[:(len(times) + 1) // 2].mean())


def _rate(value: float, width: int) -> str:
    """Nothing where there is none."""
    return f"{value:{width}.1f}" if value > 0 else " " * width


def _range(start: float, end: float) -> str:
    return f"{start:.1f} to {end:.1f} µs ({end - start:.1f})"


def _named(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": 1, "tid": thread, "args": {"name": name}}


def _complete(name: str, category: str, thread: int, start: float, end: float, about: dict[str, Any]) -> dict[str, Any]:
    start, end = round(start, 3), round(end, 3)
    return {"name": name, "cat": category, "ph": "X", "ts": start, "dur": round(end - start, 3), "pid": 1, "tid": thread,
            "args": about}
