"""Results that are written past the caches: where none holds their lines when they are written, or another core's does.

A store to a line that no cache holds reads it from memory first, and drives out another one.  Past the caches it does neither.
Whoever reads the result next finds it in memory, which costs less than what was saved.

A store to a line that another core has read waits until that one has given it up.  Stores are done in order, so few such lines
are asked for at once, and fewer where other stores lie between: beside the two slots of an Adam, one takes 17 to 70 ns.  Where
a core is like that, small parameters that the runs of a shared loop read are written past the caches as well.

Knows which memory the steps of a plan touch, and in which order.  Must not know what kernels compute, or how they store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.garbage import remembered
from graphc.op import Kind
from graphc.plan import Form, Kernel, Loop, Plan, Role

from .addresses import HALF_LINE
from .emit import Function
from .places import Place, memory_of, overlap
from .target import Target

LARGE = 8 << 20  # bytes of a result: a smaller one may be read from a cache that is near
FAR = 32 << 20  # bytes touched since a line was, after which it is in no cache that a program can count on
LEAST_PASSED, MOST_PASSED = 4 << 10, 1 << 20  # bytes of a parameter that threads pass on
FORMS = (Form.MAP, Form.ROWS, Form.COLUMNS)
ALIGNED = (Role.TEMPORARY, Role.CELL)  # memory that begins with a line


@remembered
def written_past(plan: Plan) -> dict[Kernel, frozenset[int]]:
    """Of each kernel, the results that lie where nothing was touched for so long that no cache holds it.

    Steps follow each other: before the first kernel came the last one.  Kernels inside loops are not asked for.
    """
    touched = [[memory_of(plan, b) for b in (*s.reads, *s.writes, *s.workspace)] for s in plan.steps]
    if count_bytes(place for places in touched for place in places) < FAR:
        return {}
    found = {}
    for number, step in enumerate(plan.steps):
        if isinstance(step, Kernel) and writes_once(step):
            read, homes = {plan.home(b) for b in step.reads}, list(map(plan.home, step.writes))
            past = frozenset(w for w, home in enumerate(homes) if home.bytes >= LARGE and home not in read
                             and home.role in ALIGNED and is_far(memory_of(plan, home), number, touched))
            if past:
                found[step] = past
    return found


@remembered
def passed_on(plan: Plan) -> dict[Kernel, frozenset[int]]:
    """Of each kernel, the cells it writes that all runs of a loop read whose runs threads share."""
    loops = [s for s in plan.steps if isinstance(s, Loop) and s.parallel]
    read = {plan.home(whole) for loop in loops for whole, _ in loop.shared}
    found = {}
    for step in plan.steps:
        if isinstance(step, Kernel) and step.form in FORMS:
            past = frozenset(w for w, b in enumerate(step.writes) if plan.home(b).role is Role.CELL and plan.home(b) in read
                             and LEAST_PASSED <= b.bytes <= MOST_PASSED)
            if past:
                found[step] = past
    return found


def writes_once(kernel: Kernel) -> bool:
    """Whether elements are written as fast as memory takes them, and not read again.

    What finishes tiles of a contraction is not: stores that wait for memory hold up the loads of the next tile.
    """
    outputs = kernel.body.outputs
    return kernel.form in FORMS or (kernel.form is Form.CONTRACT and len(outputs) == 1 and outputs[0].op.kind is Kind.CONTRACT)


def is_far(place: Place, number: int, touched: Sequence[Sequence[Place]]) -> bool:
    """Whether FAR bytes are touched from the last step that touches a place to step `number`, which writes there."""
    since = list(touched[number])
    for back in range(1, len(touched)):
        before = touched[number - back]
        if any(overlap(p, place) for p in before):
            break
        since += before
    return count_bytes(since) >= FAR


def count_bytes(places: Iterable[Place]) -> int:
    """The bytes of some memory, each counted once."""
    memory: object = None
    total = end = 0
    for of, low, high in sorted(set(places), key=lambda place: (id(place[0]), place[1])):
        if of is not memory:
            memory, end = of, 0
        total += max(0, high - max(low, end))
        end = max(end, high)
    return total


def can_pass(target: Target) -> bool:
    """Whether there are stores of at least half a line past the caches, and it is known here how they are put in order."""
    return target.triple.startswith(("x86_64", "amd64")) and target.vector_bytes >= HALF_LINE


def emit_fence(f: Function) -> None:
    """Who sees what is written from here on also sees what was written past the caches."""
    f.module.declare("llvm.x86.sse.sfence", "void", [])
    f.do("call void @llvm.x86.sse.sfence()")
