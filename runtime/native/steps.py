"""The steps of a plan as code: kernels are called, loops and branches are written around the steps inside them.

Knows buffers' addresses, who runs what, and where threads meet.  Must not know what a kernel computes: that is `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import takewhile

from graphc.plan import ALIGNMENT, Branch, Buffer, Carry, Kernel, Loop, Plan, Role, align
from graphc.records import NamedTuple

from .emit import Function, Module, Value, i64
from .kernels import NOBODY, element_operations, emit_kernel
from .meetings import EVERYBODY, FIRST, LAST, Turn, function_key, plan_scratch, step_takes_turns, turns
from .passing import passed_on, written_past
from .sharing import HALF, SLOT_BYTES, balanced, share
from .target import Target
from .threads import emit_barrier
from .workers import TICKETS

AHEAD = 1 << 16  # bytes of parameters that are fetched before a step's first kernel


class Team(NamedTuple):
    """The threads that run a plan together, and the memory they have beside its buffers."""

    thread: Value
    threads: Value
    barrier: Value
    private: Value  # scratch of this thread
    shared: Value  # scratch of the team

    @property
    def alone(self) -> bool:
        return self.threads.number == 1

    def single(self, private: Value | None = None, shared: Value | None = None) -> Team:
        """This thread by itself."""
        return Team(i64(0), i64(1), NOBODY, private or self.private, shared or self.shared)


class Places:
    """Addresses of a plan's buffers at one point of the code, each computed once.

    arena    the address of the plan's temporaries
    outside  the address of a buffer that is no temporary
    """

    def __init__(self, f: Function, plan: Plan, arena: Callable[[], Value], outside: Callable[[Buffer], Value]) -> None:
        self.f, self.plan, self.arena, self.outside = f, plan, arena, outside
        self.known: dict[Buffer, Value] = {}

    def address(self, buffer: Buffer) -> Value:
        home = self.plan.home(buffer)
        value = self.known.get(home)
        if value is None:
            if home.role is Role.TEMPORARY:
                value = self.f.offset(self.arena(), i64(self.plan.offsets[home]), "i8")
            else:
                value = self.outside(home)
            self.known[home] = value
        return value


class StepWriter:
    """Writes the steps of a plan, and of the plans inside it, at the end of a function's current block.

    constant   the address of a large constant, of whichever plan it is
    written    is called when the function of another kernel is complete
    known      of a step that no other thread shares: the functions of kernels that other steps have
    few        operations, beside which the others are so many that kernels of no more are worth no care
    several    more than one thread may run the step
    """

    def __init__(self, module: Module, f: Function, target: Target, constant: Callable[[Buffer], Value],
                 written: Callable[[], None] = lambda: None, known: dict[tuple, str] | None = None, few: int = 0,
                 several: bool = True) -> None:
        self.module, self.f, self.target, self.constant = module, f, target, constant
        self.written, self.alone, self.few = written, known is not None, few
        self.several = several and not self.alone
        self.outermost: Plan | None = None
        self.passed_on: Mapping[Kernel, frozenset[int]] = {}  # results that are written past the caches, and their homes
        self.passed_homes: set[Buffer] = set()
        self.barrier = "" if self.alone else emit_barrier(module, target)
        self.functions = {} if known is None else known

    def whole(self, plan: Plan, places: Places, team: Team) -> None:
        """The plan that no other holds: all that a thread does in one step."""
        self.outermost = plan
        if self.several and self.target.passes_on:
            self.passed_on = passed_on(plan)
            self.passed_homes = {plan.home(k.writes[w]) for k, results in self.passed_on.items() for w in results}
            self.fetch_passed(plan, places)
        self.plan(plan, places, team)

    def fetch_passed(self, plan: Plan, places: Places) -> None:
        """Begins to fetch what the step before has written past the caches: it comes while the first kernels run."""
        left = AHEAD
        for home in plan.cells:
            if home in self.passed_homes and home.bytes <= left:
                left -= home.bytes
                with self.f.loop(i64(0), i64(-(-home.bytes // ALIGNMENT))) as line:
                    self.f.prefetch(self.f.offset(places.address(home), self.f.mul(line, i64(ALIGNMENT)), "i8"))

    def plan(self, plan: Plan, places: Places, team: Team) -> None:
        """All steps in order; where the team is several threads they have met when this ends."""
        order = turns(plan, self.target)
        for place, turn in enumerate(order):
            if turn.meet:
                self.meet(team)
                self.fetch_written(order[place:], plan, places, team)
            self.step(turn, plan, places, team)
        self.meet(team)
        if plan.copies:
            self.on_first(team, lambda: self.copies(plan, places))
            self.meet(team)

    def meet(self, team: Team) -> None:
        if not team.alone:
            self.f.call(self.barrier, [team.barrier, team.threads])

    def counters(self, team: Team) -> Value:
        """The address behind which the counters lie by which threads take turns."""
        return team.barrier

    def fetch_written(self, order: Sequence[Turn], plan: Plan, places: Places, team: Team) -> None:
        """Fetches what steps write in place before threads meet again, and others have read, into the caches of those who will.

        Otherwise stores wait until the others' copies are given up, one after the other.
        """
        f = self.f
        until = list(takewhile(lambda turn: not turn.meet, order[1:]))
        written = [(turn.who, b) for turn in (order[0], *until) for b in turn.shared if plan.home(b) not in self.passed_homes]
        if team.alone or not written:
            return
        addresses = [places.address(buffer) for _, buffer in written]
        with f.when(f.compare("icmp sgt", team.threads, i64(1))):
            for (who, buffer), address in zip(written, addresses, strict=True):
                lines = -(-buffer.bytes // ALIGNMENT)
                low, high = share(f, lines, team.thread, team.threads)
                if who != EVERYBODY:
                    low, high = i64(0), f.select(f.compare("icmp eq", self.number(team, who), i64(0)), i64(lines), i64(0))
                with f.loop(low, high) as line:
                    f.prefetch(f.offset(address, f.mul(line, i64(ALIGNMENT)), "i8"), write=True)

    def on_one(self, team: Team, who: int, write: Callable[[], None]) -> None:
        """One thread alone does it."""
        if team.alone:
            write()
            return
        with self.f.when(self.f.compare("icmp eq", self.number(team, who), i64(0))):
            write()

    def on_first(self, team: Team, write: Callable[[], None]) -> None:
        """Thread 0 alone does it."""
        self.on_one(team, FIRST, write)

    def number(self, team: Team, who: int) -> Value:
        """A thread's number in a step: 0 for whom it belongs to, if it belongs to one."""
        if who != LAST or team.alone:
            return team.thread
        return self.f.sub(self.f.sub(team.threads, i64(1)), team.thread)

    def copies(self, plan: Plan, places: Places) -> None:
        for source, target in plan.copies:
            self.copy(places.address(source), places.address(target), source.bytes)

    def copy(self, source: Value, target: Value, size: int) -> None:
        self.module.declare("llvm.memmove.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1"])
        self.f.call("llvm.memmove.p0.p0.i64", [target, source, i64(size), Value("false", "i1")])

    def step(self, turn: Turn, plan: Plan, places: Places, team: Team) -> None:
        step, who = turn.step, turn.who
        tickets = NOBODY
        if step_takes_turns(step) and not team.alone:
            tickets = self.f.offset(self.counters(team), i64(TICKETS + turn.slot * SLOT_BYTES), "i8")
        if isinstance(step, Kernel):
            self.kernel(step, plan, places, team, self.number(team, who), tickets)
            return
        outside = {b: places.address(b) for b in (*step.reads, *step.writes, *step.workspace)}

        def write(team: Team) -> None:
            if isinstance(step, Loop):
                self.loop(step, outside, team, tickets)
            else:
                self.branch(step, outside, team)

        if who != EVERYBODY:
            self.on_one(team, who, lambda: write(team.single()))
        else:
            write(team)

    def kernel(self, kernel: Kernel, plan: Plan, places: Places, team: Team, thread: Value, tickets: Value) -> None:
        care = 0 if plan is self.outermost and element_operations(kernel) <= self.few else 2
        passed = self.passed_on.get(kernel, frozenset())
        key = *function_key(plan, kernel), passed, care
        name = self.functions.get(key)
        if name is None:
            name = self.functions[key] = f"k{len(self.functions)}_{kernel.form.value}"
            past = written_past(plan).get(kernel, frozenset()) | passed
            emit_kernel(self.module, name, kernel, self.target, self.alone, past, care)
            self.written()
        arguments = [places.address(b) for b in (*kernel.reads, *kernel.writes)]
        arguments += [team.private, team.shared]
        if not self.alone:
            arguments += [thread, team.threads, team.barrier, *([tickets] if step_takes_turns(kernel) else [])]
        self.f.call(name, arguments)

    # -- loops -------------------------------------------------------------------------------------------------

    def loop(self, loop: Loop, outside: dict[Buffer, Value], team: Team, tickets: Value) -> None:
        f, body, count = self.f, loop.body, loop.count or 0
        if not count:
            self.on_first(team, lambda: self.hand_out(loop, outside, lambda c: outside[c.start]))
            return
        shared: AbstractContextManager[tuple[Value, Value]] = nullcontext((i64(0), i64(count)))
        if loop.parallel:
            if step_takes_turns(loop) and not team.alone:
                shared = balanced(f, count, team.thread, team.threads, tickets, HALF, 0)
            else:
                shared = nullcontext(share(f, count, team.thread, team.threads))
            common = f.offset(team.private, i64(align(body.arena_bytes)), "i8")
            own = f.offset(common, i64(plan_scratch(body, self.target)[1]), "i8")
            arena, team_inside = team.private, team.single(own, common)
        else:
            arena = outside[loop.workspace[0]] if body.arena_bytes else NOBODY
            team_inside = team
        with shared as bounds, f.loop(*bounds) as run:
            place = f.sub(i64(count - 1), run) if loop.reverse else run
            given = {inside: self.entry(outside[whole], inside, place) for whole, inside in loop.sliced}
            given |= {inside: outside[whole] for whole, inside in loop.shared}
            for carry in loop.carried:
                self.carry(loop, carry, outside, given, run, place)
            self.run(loop, place, Places(f, body, lambda: arena, self.within(given)), team_inside)
        final = i64(0 if loop.reverse else count - 1)
        self.on_first(team, lambda: self.hand_out(loop, outside, lambda c: self.stacked(loop, c, outside, final)))

    def run(self, loop: Loop, place: Value, places: Places, team: Team) -> None:
        """One run of a loop.  place: of the entries that it reads and writes."""
        self.plan(loop.body, places, team)

    def within(self, given: dict[Buffer, Value]) -> Callable[[Buffer], Value]:
        return lambda buffer: self.constant(buffer) if buffer.role is Role.CONSTANT else given[buffer]

    def entry(self, whole: Value, inside: Buffer, place: Value) -> Value:
        return self.f.offset(whole, self.f.mul(place, i64(inside.bytes)), "i8")

    def stacked(self, loop: Loop, carry: Carry, outside: dict[Buffer, Value], place: Value) -> Value | None:
        """Where the stack has a carry's value after the run at `place`; None where it is in no stack."""
        stack = loop.stack_of(carry.write)
        return None if stack is None else self.entry(outside[stack], carry.write, place)

    def carry(self, loop: Loop, carry: Carry, outside: dict[Buffer, Value], given: dict[Buffer, Value], run: Value,
              place: Value) -> None:
        """Where one run reads and writes a carry: entries of the stack, or two places in turn, `last` in the last run."""
        f = self.f
        first = f.compare("icmp eq", run, i64(0))
        before = self.stacked(loop, carry, outside, f.add(place, i64(1 if loop.reverse else -1)))
        if before is None:
            assert carry.last is not None and carry.spare is not None
            odd = f.binary("and", f.sub(i64((loop.count or 0) - 1), run), i64(1))
            ends_here = f.compare("icmp eq", odd, i64(0))
            last, spare = outside[carry.last], outside[carry.spare]
            given[carry.write], before = f.select(ends_here, last, spare), f.select(ends_here, spare, last)
        given[carry.read] = f.select(first, outside[carry.start], before)

    def hand_out(self, loop: Loop, outside: dict[Buffer, Value], source: Callable[[Carry], Value | None]) -> None:
        """Copies final carries that are not at their place yet."""
        for carry in loop.carried:
            found = source(carry)
            if found is not None and carry.last is not None:
                self.copy(found, outside[carry.last], carry.last.bytes)

    # -- branches ----------------------------------------------------------------------------------------------

    def branch(self, branch: Branch, outside: dict[Buffer, Value], team: Team) -> None:
        f = self.f
        arena = outside[branch.workspace[0]] if branch.workspace else NOBODY
        flag = f.compare("icmp ne", f.load(outside[branch.flag], "i8"), Value("0", "i8"))
        operands, writes = [outside[b] for b in branch.operands], [outside[b] for b in branch.writes]

        def side(plan: Plan) -> None:
            given = {**dict(zip(plan.inputs, operands, strict=True)), **dict(zip(plan.outputs, writes, strict=True))}
            self.plan(plan, Places(f, plan, lambda: arena, self.within(given)), team)

        with f.when(flag):
            side(branch.then)
        with f.when(f.emit(f"xor {flag}, true", "i1")):
            side(branch.otherwise)
