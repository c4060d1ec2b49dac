"""Whether a step is worth more than one thread.

A short step is slowed down by a second thread, though some of its kernels can be shared: threads meet after every kernel, and
what one core has written another must fetch.  Knows about how long kernels take, where threads meet, and which buffers cross
from core to core.  Must not know how threads work, or what a kernel computes.

The numbers were fitted to steps of 7 to 2,000 microseconds on two cores of a server; results do not depend on them.  Where it
depends on the machine whether a step gains, the machine is asked how long its threads take to meet.
"""

from __future__ import annotations

from graphc.plan import Buffer, Form, Kernel, Loop, Plan, Step, bodies
from graphc.records import NamedTuple

from . import threads as pool
from .kernels import element_operations
from .meetings import step_is_serial


class Cores(NamedTuple):
    """What it costs to work on several: nanoseconds until threads have met, bytes a nanosecond from one to another."""

    meet: float
    bytes_per_ns: float


SLOW, QUICK = Cores(1500.0, 5.0), Cores(200.0, 12.0)  # what to expect of them, at worst and at best
FETCHED = 4 * 10 * 64  # bytes: a meeting is four lines from core to core, one after the other; of others ten are on their way
OPERATIONS_PER_NS = 40.0  # of one thread, in the measure of `element_operations`
CERTAIN = 2e5  # nanoseconds on one thread from which more threads are always worth it
SHORT = 25e3  # and up to which even cores that are far apart must not be slower: a host may move them apart at any time
LEAST = 8e3  # and up to which it is not worth asking
GAIN = 0.8  # of the time on one thread: less is not worth another core


class Estimate(NamedTuple):
    """Nanoseconds of some steps on one thread, and on several."""

    alone: float
    shared: float

    def times(self, count: int) -> Estimate:
        return Estimate(self.alone * count, self.shared * count)


def estimate(plan: Plan, threads: int, cores: Cores = SLOW) -> Estimate:
    """About how long a plan takes."""
    alone = shared = 0.0
    writers: dict[Buffer, Step] = {}
    for position, step in enumerate(plan.steps):
        serial = step_is_serial(step)
        one = estimate_step(step, threads, cores)
        alone += one.alone
        shared += one.alone if serial else one.shared
        shared += sum(crossing(writers[home], step, home) for home in dict.fromkeys(plan.home(b) for b in step.reads)
                      if home in writers) * (1 - 1 / threads) / cores.bytes_per_ns
        following = plan.steps[position + 1] if position + 1 < len(plan.steps) else None
        if following is None or not (serial and step_is_serial(following)):
            shared += cores.meet
        writers.update({plan.home(b): step for b in step.writes})
    return Estimate(alone, shared)


def estimate_step(step: Step, threads: int, cores: Cores = SLOW) -> Estimate:
    if isinstance(step, Kernel):
        alone = element_operations(step) / OPERATIONS_PER_NS
        return Estimate(alone, alone / threads)
    inner = [estimate(plan, threads, cores) for plan in bodies(step)]
    if isinstance(step, Loop):
        alone = inner[0].alone * (step.count or 1)
        return Estimate(alone, alone / threads) if step.parallel else inner[0].times(step.count or 1)
    return max(inner, key=lambda e: e.shared)


def crossing(writer: Step, reader: Step, buffer: Buffer) -> int:
    """Bytes of a buffer of which another core than the reader's holds a share."""
    if step_is_serial(writer) and step_is_serial(reader):
        return 0
    if isinstance(writer, Kernel) and isinstance(reader, Kernel) and writer.space == reader.space \
            and writer.form is reader.form is Form.MAP:
        return 0  # shared alike
    return buffer.bytes


def team_of(plan: Plan, threads: int) -> tuple[int, float]:
    """Up to so many threads where that pays, else one; about how many nanoseconds a step takes one of several alone."""
    if threads < 2:
        return 1, 0.0
    time = estimate(plan, threads)
    return threads if pays(plan, threads, time) else 1, time.alone


def pays(plan: Plan, threads: int, time: Estimate) -> bool:
    """Whether a plan, of which this was estimated for SLOW cores, is enough faster on several threads than on one.

    Loops whose runs are shared were made for that.
    """
    loops = sum(estimate_step(s, threads).alone for s in plan.steps
                if isinstance(s, Loop) and s.parallel and not step_is_serial(s))
    if time.alone >= CERTAIN or loops >= time.alone / 2 or time.shared < GAIN * time.alone:
        return True
    if time.alone < LEAST or (time.alone < SHORT and time.shared > time.alone):
        return False
    if estimate(plan, threads, QUICK).shared >= GAIN * time.alone:
        return False
    return estimate(plan, threads, these_cores()).shared < GAIN * time.alone


def these_cores() -> Cores:
    """What this machine's cost."""
    seconds = pool.meeting_seconds()
    if seconds is None:
        return SLOW
    meet = max(QUICK.meet, seconds * 1e9)
    return Cores(meet, min(QUICK.bytes_per_ns, max(SLOW.bytes_per_ns, FETCHED / meet)))
