"""A step whose code keeps a record of itself: which thread ran which kernel, from when to when, and where it waited.

Knows where marks stand, and the memory that they are written to.  Must not know what a kernel computes, who reads the records,
or what a tick is.

Every thread has a region of memory of its own, so marks share nothing: a head, then records of three words, (part, begin, end),
as kernels end.  Kernels are called with the region's address in place of the barrier's, and a barrier that keeps records stands
under the name of the ordinary one, so that waiting inside kernels is recorded while their code stays what it is, letter by
letter.  The cursor moves on where the region is full, so that the reader learns how much room is needed.

    0 BARRIER ptr   8 CURSOR ptr   16 LIMIT ptr   24 BEGIN i64   32 END i64   40 CLOCK, four words of `clock.emit_read`
    128 records
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphc.runtime.trace import COPIES, WAIT

from graphc.plan import Buffer, Carry, Kernel, Loop, Plan

from .clock import counter_of, emit_read
from .emit import Function, Module, Value, i64
from .kernels import is_serial
from .steps import Places, StepWriter, Team
from .target import Target
from .workers import BARRIER_NAME, emit_barrier

BARRIER, CURSOR, LIMIT, BEGIN, END, CLOCK, HEAD_BYTES = 0, 8, 16, 24, 32, 40, 128
RECORD_BYTES = 24
PART_BITS = 32  # of a record's first word; the rest is the number of the kernel's run

WAITING = 0  # the number of WAIT

Part = Kernel | str


class Marks:
    """Writes marks of one thread at the end of a function's current block.

    region   the address of the thread's region
    parts    what may take time, in the order in which numbers were given out
    """

    def __init__(self, module: Module, f: Function, target: Target, region: Value) -> None:
        self.f, self.region = f, region
        self.parts: dict[Part, int] = {WAIT: WAITING}
        self.counter = counter_of(target)
        write_now(module, self.counter)
        write_mark(module)
        write_barrier(module, target)

    def number(self, part: Part) -> int:
        return self.parts.setdefault(part, len(self.parts))

    @contextmanager
    def step(self, barrier: Value, part: Part | None = None) -> Iterator[None]:
        """What is written inside is all of a step, and one span if it is one part."""
        self.f.store(barrier, self.word(BARRIER))
        self.f.store(self.f.offset(self.region, i64(HEAD_BYTES), "i8"), self.word(CURSOR))
        start = self.now()
        self.f.store(start, self.word(BEGIN))
        yield
        if part is not None:
            self.f.call("graphc.mark", [self.region, i64(self.number(part)), start])
        self.f.store(self.now(), self.word(END))

    @contextmanager
    def around(self, part: Part, run: Value) -> Iterator[None]:
        """What is written inside is a span of this part."""
        start = self.now()
        yield
        number = i64(self.number(part))
        what = number if run.number == 0 else self.f.binary(
            "or", self.f.binary("shl", run, i64(PART_BITS)), number)
        self.f.call("graphc.mark", [self.region, what, start])

    def now(self) -> Value:
        return self.f.call("graphc.now", [self.region], "i64")

    def word(self, offset: int) -> Value:
        return self.f.offset(self.region, i64(offset), "i8")


def write_now(module: Module, counter: str | None) -> None:
    """``i64 graphc.now(ptr region)``"""
    f = module.function("graphc.now", [("region", "ptr")], returns="i64", attributes="nounwind noinline")
    f.ret(emit_read(f, counter, f.offset(f.parameters[0], i64(CLOCK), "i8")))


def write_mark(module: Module) -> None:
    """``void graphc.mark(ptr region, i64 what, i64 begin)``: a record that ends now."""
    f = module.function("graphc.mark", [("region", "ptr"), ("what", "i64"), ("begin", "i64")], attributes="nounwind noinline")
    region, what, begin = f.parameters
    end = f.call("graphc.now", [region], "i64")
    place = f.offset(region, i64(CURSOR), "i8")
    cursor, limit = f.load(place, "ptr"), f.load(f.offset(region, i64(LIMIT), "i8"), "ptr")
    with f.when(f.compare("icmp ult", cursor, limit)):
        for word, value in enumerate((what, begin, end)):
            f.store(value, f.offset(cursor, i64(word), "i64"))
    f.store(f.offset(cursor, i64(RECORD_BYTES), "i8"), place)


def write_barrier(module: Module, target: Target) -> None:
    """``void barrier(ptr region, i64 threads)``: the ordinary one, and a record of how long it took."""
    plain = emit_barrier(module, target, "graphc.meet")
    f = module.function(BARRIER_NAME, [("region", "ptr"), ("threads", "i64")], attributes="nounwind noinline")
    region, threads = f.parameters
    with f.when(f.compare("icmp sgt", threads, i64(1))):  # a thread by itself has no barrier, and may have no region
        start = f.call("graphc.now", [region], "i64")
        f.call(plain, [f.load(f.offset(region, i64(BARRIER), "i8"), "ptr"), threads])
        f.call("graphc.mark", [region, i64(WAITING), start])


class MarkingWriter(StepWriter):
    """Writes a step with marks around its kernels and copies.

    barrier   the address of the pool's
    """

    def __init__(self, module: Module, f: Function, target: Target, constant: Callable[[Buffer], Value],
                 written: Callable[[], None], marks: Marks, barrier: Value, few: int, several: bool) -> None:
        super().__init__(module, f, target, constant, written, few=few, several=several)
        self.marks, self.tickets = marks, barrier
        self.now = i64(0)  # the number of the run that is written, through all loops around it

    def whole(self, plan: Plan, places: Places, team: Team) -> None:
        with self.marks.step(self.tickets):
            super().whole(plan, places, team._replace(barrier=self.marks.region))

    def counters(self, team: Team) -> Value:
        return self.tickets

    def kernel(self, kernel: Kernel, plan: Plan, places: Places, team: Team, thread: Value, tickets: Value) -> None:
        def write() -> None:
            with self.marks.around(kernel, self.now):
                super(MarkingWriter, self).kernel(kernel, plan, places, team, thread, tickets)

        if not is_serial(kernel) or team.alone:
            write()
            return
        for buffer in (*kernel.reads, *kernel.writes):
            places.address(buffer)  # known on all roads, not only on that of the thread that has something to do
        with self.f.when(self.f.compare("icmp eq", thread, i64(0))):
            write()

    def run(self, loop: Loop, place: Value, places: Places, team: Team) -> None:
        around, self.now = self.now, self.f.add(self.f.mul(self.now, i64(loop.count or 0)), place)
        super().run(loop, place, places, team)
        self.now = around

    def copies(self, plan: Plan, places: Places) -> None:
        with self.marks.around(COPIES, self.now):
            super().copies(plan, places)

    def hand_out(self, loop: Loop, outside: dict[Buffer, Value], source: Callable[[Carry], Value | None]) -> None:
        copied = [c for c in loop.carried if c.last is not None and (not loop.count or loop.stack_of(c.write) is not None)]
        if copied:
            with self.marks.around(COPIES, self.now):
                super().hand_out(loop, outside, source)
