"""Whether a step is worth more than one thread.

A short step is slowed down by a second thread, though some of its kernels can be shared: threads meet after every kernel, and
what one core has written another must fetch.  Knows about how long kernels take, where threads meet, and which buffers cross
from core to core.  Must not know how threads work, or what a kernel computes.

The numbers were fitted to steps of 7 to 2,000 microseconds on two cores of a server; results do not depend on them.  They are
those of cores that are near and free: whether these are at a time, the clock tells while the step runs (`choice`).
"""

from __future__ import annotations

from graphc.plan import Buffer, Form, Kernel, Loop, Plan, Step, bodies
from graphc.records import NamedTuple

from .kernels import element_operations
from .meetings import step_is_serial

MEETING = 100.0  # nanoseconds until threads have met, where cores are near
BYTES_PER_NS = 12.0  # from one of them to another
OPERATIONS_PER_NS = 40.0  # of one thread, in the measure of `element_operations`
CERTAIN = 2e5  # nanoseconds on one thread from which several are always worth it
LEAST = 6e3  # nanoseconds on one thread up to which more are not worth it
GAIN = 0.8  # of the time on one thread: less is not worth another core


class Estimate(NamedTuple):
    """Nanoseconds of some steps on one thread, and on several."""

    alone: float
    shared: float

    def times(self, count: int) -> Estimate:
        return Estimate(self.alone * count, self.shared * count)


def estimate(plan: Plan, threads: int) -> Estimate:
    """About how long a plan takes."""
    alone = shared = 0.0
    writers: dict[Buffer, Step] = {}
    for position, step in enumerate(plan.steps):
        serial = step_is_serial(step)
        one = estimate_step(step, threads)
        alone += one.alone
        shared += one.alone if serial else one.shared
        shared += sum(crossing(writers[home], step, home) for home in dict.fromkeys(plan.home(b) for b in step.reads)
                      if home in writers) * (1 - 1 / threads) / BYTES_PER_NS
        following = plan.steps[position + 1] if position + 1 < len(plan.steps) else None
        if following is None or not ((serial and step_is_serial(following)) or (is_dealt(step) and is_dealt(following))):
            shared += MEETING
        writers.update({plan.home(b): step for b in step.writes})
    return Estimate(alone, shared)


def estimate_step(step: Step, threads: int) -> Estimate:
    if isinstance(step, Kernel):
        alone = element_operations(step) / OPERATIONS_PER_NS
        return Estimate(alone, alone / threads)
    inner = [estimate(plan, threads) for plan in bodies(step)]
    if isinstance(step, Loop):
        alone = inner[0].alone * (step.count or 1)
        return Estimate(alone, alone / threads) if step.parallel else inner[0].times(step.count or 1)
    return max(inner, key=lambda e: e.shared)


def is_dealt(step: Step) -> bool:
    return isinstance(step, Kernel) and step.dealt is not None


def crossing(writer: Step, reader: Step, buffer: Buffer) -> int:
    """Bytes of a buffer of which another core than the reader's holds a share."""
    if step_is_serial(writer) and step_is_serial(reader):
        return 0
    if isinstance(writer, Kernel) and isinstance(reader, Kernel) and writer.space == reader.space \
            and writer.form is reader.form is Form.MAP:
        return 0  # shared alike
    if is_dealt(writer) and is_dealt(reader):
        return 0  # nearly always the same items
    return buffer.bytes


def team_of(plan: Plan, threads: int) -> tuple[int, float]:
    """Up to so many threads where that may pay, else one; about how many nanoseconds a step takes one of several alone."""
    if threads < 2:
        return 1, 0.0
    time = estimate(plan, threads)
    return threads if may_pay(plan, threads, time) else 1, time.alone


def may_pay(plan: Plan, threads: int, time: Estimate) -> bool:
    """Whether a plan that takes this is enough faster on several threads than on one, where cores are near and free.

    Loops whose runs are shared were made for that.
    """
    loops = sum(estimate_step(s, threads).alone for s in plan.steps
                if isinstance(s, Loop) and s.parallel and not step_is_serial(s))
    return time.alone >= CERTAIN or loops >= time.alone / 2 or (time.alone >= LEAST and time.shared < GAIN * time.alone)
