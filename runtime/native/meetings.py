"""Where the threads that run a plan must meet, and which of them does a step that only one does.

Knows which memory steps touch: two steps need a meeting between them only where one writes what the other touches and another
thread may do so.  Must not know what kernels compute, or how code is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from graphc.garbage import remembered
from graphc.plan import Buffer, Form, Kernel, Loop, Plan, Role, Step, align, bodies, body_key
from graphc.records import NamedTuple, field, record

from .kernels import SERIAL, element_operations, is_serial, scratch_sizes, takes_turns
from .passing import written_past
from .places import Place, memory_of, overlap
from .sharing import SLOTS
from .target import Target

FIRST, LAST, EVERYBODY = 0, 1, 2  # who does a step: thread 0, the last thread, all together

MANY = 200  # places written since threads met, from which they meet in any case: who looks through them takes time, too

LEAST_RUNS = 4  # of a loop, of which whoever is free takes the last

FETCHED = 1 << 16  # bytes of what a step updates that threads fetch before: more waits beside other work
LINE = 64


class Turn(NamedTuple):
    """A step, who does it, and whether all threads meet before it.

    shared   what the step writes in place and other threads have read, where that is not much
    slot     the counters by which the step's threads take turns, where they do
    """

    step: Step
    who: int
    meet: bool
    shared: tuple[Buffer, ...] = ()
    slot: int = 0


class Touched(NamedTuple):
    """Some memory that a step reads or writes.

    items   (bytes that follow each other, how many items) where threads touch only what is in items of their own
    """

    place: Place
    items: tuple[int, int] | None = None

    def meets(self, other: Touched) -> bool:
        """Whether one thread may touch what another one does."""
        return overlap(self.place, other.place) and (self.items is None or self != other)


@record()
class Open:
    """What was done since threads last met."""

    reads: list[tuple[Touched, int]] = field(default_factory=list)
    writes: list[tuple[Touched, int]] = field(default_factory=list)
    load: list[int] = field(default_factory=lambda: [0, 0])  # of the first and of the last thread, in element operations
    slots: int = 0  # of counters

    def others(self, reads: list[Touched], writes: list[Touched]) -> set[int]:
        """Who touched what a step writes, or wrote what it reads."""
        return {who for place, who in self.writes if any(place.meets(p) for p in (*reads, *writes))} | {
            who for place, who in self.reads if any(place.meets(p) for p in writes)}


@remembered
def step_is_serial(step: Step) -> bool:
    """Whether one thread does the whole step."""
    if isinstance(step, Kernel):
        return is_serial(step)
    if isinstance(step, Loop) and step.parallel:
        return step_operations(step) < SERIAL
    return all(step_is_serial(s) for plan in bodies(step) for s in plan.steps)


def step_takes_turns(step: Step) -> bool:
    """Whether threads take turns at what the step itself does, which needs a slot of counters."""
    if isinstance(step, Kernel):
        return takes_turns(step)
    return isinstance(step, Loop) and step.parallel and (step.count or 0) >= LEAST_RUNS and not step_is_serial(step)


def counters_of(plan: Plan, step: Step, slot: int | None) -> list[Place]:
    """The counters of tickets that a step uses, as memory that it writes: a slot of them, None for any of the slots.

    Contractions that are calls of one function give their shares out by one counter.
    """
    if step_is_serial(step):
        return []
    if isinstance(step, Kernel) and step.form is Form.CONTRACT:
        return [] if step.dealt else [(("contraction", function_key(plan, step)), 0, 1)]
    if step_takes_turns(step):
        return [("tickets", 0, SLOTS) if slot is None else ("tickets", slot, slot + 1)]
    if isinstance(step, Loop) and step.parallel:
        return []
    return list(dict.fromkeys(place for inner in bodies(step) for s in inner.steps for place in counters_of(inner, s, None)))


def step_operations(step: Step) -> int:
    """About how many scalar instructions a step takes."""
    if isinstance(step, Kernel):
        return element_operations(step)
    times = step.count or 0 if isinstance(step, Loop) else 1
    return times * sum(element_operations(kernel) * runs for plan in bodies(step) for kernel, runs in plan.runs)


def plan_scratch(plan: Plan, target: Target) -> tuple[int, int]:
    """(bytes of private memory per thread, bytes shared by the team) that the steps of a plan need."""
    private = shared = 0
    for step in plan.steps:
        own, common = step_scratch(step, target)
        private, shared = max(private, own), max(shared, common)
    return align(private), align(shared)


def step_scratch(step: Step, target: Target) -> tuple[int, int]:
    """The same of one step."""
    if isinstance(step, Kernel):
        return scratch_sizes(step, target)
    inner = [plan_scratch(p, target) for p in bodies(step)]
    own, common = max(p for p, _ in inner), max(s for _, s in inner)
    if isinstance(step, Loop) and step.parallel:
        return align(step.body.arena_bytes) + align(common) + align(own), 0
    return own, common


def shared_memory(plan: Plan, kernel: Kernel) -> tuple[tuple[int, int], ...]:
    """Pairs (write, read) of a kernel that the plan put in one place."""
    return tuple((w, r) for w, new in enumerate(kernel.writes) for r, old in enumerate(kernel.reads)
                 if plan.home(new) is plan.home(old))


def function_key(plan: Plan, kernel: Kernel) -> tuple:
    """Kernels of one key are calls of one function."""
    return (*body_key(kernel, shared_memory(plan, kernel)), written_past(plan).get(kernel))


def turns(plan: Plan, target: Target) -> list[Turn]:
    """The steps in order.  Before the first of them and after the last all threads have met.

    A step for one thread goes to one that it does not have to wait for, and to the last thread where the first has more
    to do.
    """
    if all(map(step_is_serial, plan.steps)):
        return [Turn(step, FIRST, False) for step in plan.steps]
    result = []
    done = Open()
    readers = Counter(plan.home(b) for step in plan.steps if not step_is_serial(step) for b in dict.fromkeys(step.reads))
    for step in plan.steps:
        reads, writes = touched(plan, step)
        serial, slot = step_is_serial(step), done.slots % SLOTS
        if step_scratch(step, target)[1]:
            writes.append(Touched(("scratch", 0, 1)))
        writes += map(Touched, counters_of(plan, step, slot))
        others = done.others(reads, writes)
        cost = step_operations(step)
        who = EVERYBODY
        if serial:
            who = next(iter(others)) if len(others) == 1 else LAST if done.load[LAST] + cost <= done.load[FIRST] else FIRST
            if who == EVERYBODY:
                who = FIRST
        meet = bool(others - {who}) or (who == EVERYBODY and bool(others)) or len(done.writes) > MANY
        if meet:
            done = Open(slots=slot)
            who = FIRST if serial else EVERYBODY
        if serial:
            done.load[who] += cost
        done.reads += [(place, who) for place in reads]
        done.writes += [(place, who) for place in writes]
        done.slots += step_takes_turns(step)
        result.append(Turn(step, who, meet, read_by_others(step, plan, readers), slot))
    return result


def touched(plan: Plan, step: Step) -> tuple[list[Touched], list[Touched]]:
    """What a step reads, and what it writes."""
    written = (*step.writes, *step.workspace)
    dealt = step.dealt if isinstance(step, Kernel) else None
    if dealt is None:
        return [Touched(memory_of(plan, b)) for b in step.reads], [Touched(memory_of(plan, b)) for b in written]

    def of(buffers: Sequence[Buffer], runs: Sequence[int], first: int) -> list[Touched]:
        found = []
        for place, (buffer, run) in enumerate(zip(buffers, runs, strict=True), first):
            together = buffer.bytes // dealt.items if place in dealt.apart else run * buffer.type.dtype.itemsize
            found.append(Touched(memory_of(plan, buffer), (together, dealt.items) if run else None))
        return found

    return of(step.reads, dealt.reads, 0), of(written, dealt.writes, len(step.reads))


def read_by_others(step: Step, plan: Plan, readers: Mapping[Buffer, int]) -> tuple[Buffer, ...]:
    """Small cells that a step updates in place and other steps read.  readers: how many shared steps read a buffer."""
    own = 0 if step_is_serial(step) else 1
    homes = dict.fromkeys(plan.home(step.writes[write]) for write, _ in sorted(step.in_place))
    found = tuple(home for home in homes if home.role is Role.CELL and readers[home] > own)
    return found if LINE < sum(home.bytes for home in found) <= FETCHED else ()
