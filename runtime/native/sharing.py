"""How threads share work: even shares, and a rest for whoever is free.

Cores are not equally fast where others use them too: a thread that only does its even share waits for the slowest.
Knows ranges and tickets.  Must not know what the work is; who does it never changes a result.

Two ways of taking the rest.  `take_turns` has one counter for all, which is what contractions need: what they read has been
packed by each thread for itself.  `balanced` has a counter for each thread's rest, and a thread takes its own first: what it
reads there it often wrote itself, and from another core's cache it would come at a tenth of the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from graphc.runtime.native.emit import Function, Value, i64

from graphc.plan import ALIGNMENT

MOST_BALANCED = 256  # threads; with more of them every one keeps to its share

OWNERS = 16  # threads whose rests have counters of their own; with more of them every one keeps to its share
SLOTS = 4  # of such counters, for as many kernels between two meetings
SLOT_BYTES = OWNERS * ALIGNMENT  # threads count in lines of their own
TICKET_BYTES = SLOTS * SLOT_BYTES
LEAST_SHARED = 8  # units that are worth a rest
HALF, QUARTER = 1, 2  # of its share that a thread leaves as a rest, as shifts
KEPT = 2  # last pieces of its rest that a thread does itself: to bring them to another core takes longer than to wait for them


def share(f: Function, work: int, thread: Value, threads: Value) -> tuple[Value, Value]:
    """The contiguous range of `work` items that belongs to this thread."""
    if threads.number == 1:
        return i64(0), i64(work)
    low = f.binary("udiv", f.mul(thread, i64(work)), threads)
    return low, f.binary("udiv", f.mul(f.add(thread, i64(1)), i64(work)), threads)


def quotient(f: Function, a: Value, b: int, below: int = 0) -> tuple[Value, Value]:
    """(a // b, a % b) of a non-negative i64, which is known to be less than `below` if that is given."""
    if b == 1:
        return a, i64(0)
    if 0 < below <= b:
        return i64(0), a
    if a.number is not None:
        return i64(a.number // b), i64(a.number % b)
    high = f.binary("udiv", a, i64(b))
    return high, f.sub(a, f.mul(high, i64(b)))


def grid_parts(f: Function, threads: Value, long: int, short: int) -> Value:
    """In how many parts threads share out the `short` side of a grid: the `long` side gets more, unless it has not so many."""
    name = "share.parts"
    if name not in f.module.functions:
        own = f.module.function(name, (("threads", "i64"), ("long", "i64"), ("short", "i64")), returns="i64",
                                care=0)
        count, long_, short_ = own.parameters
        parts = i64(1)
        for p in (2, 4, 8):
            divides = own.compare("icmp eq", own.binary("urem", count, i64(p)), i64(0))
            fits = own.compare("icmp ule", i64(p * p), count)
            few = own.compare("icmp ult", long_, own.binary("udiv", own.mul(count, i64(2)), i64(p)))
            enough = own.binary("and", divides, own.compare("icmp ule", i64(p), short_))
            parts = own.select(own.binary("and", enough, own.binary("or", fits, few)), i64(p), parts)
        own.ret(parts)
    return f.call(name, [threads, i64(long), i64(short)], "i64")


def maximum(f: Function, a: Value, b: Value) -> Value:
    return b if a.name == f.minimum(a, b).name else f.select(f.compare("icmp sgt", a, b), a, b)


def within(f: Function, batch: int, units: int, low: Value, high: Value, threads: Value,
           body: Callable[[Value, Value, Value], None]) -> None:
    """`body(item, low, high)` for the parts of a range of batch * units that lie in one item each."""
    if batch == 1:
        body(i64(0), low, high)
        return
    first = quotient(f, low, units)[0]
    last = quotient(f, f.add(high, i64(units - 1)), units)[0]
    with f.loop(first, last) as item:
        if units == 1 or threads.number == 1:
            body(item, i64(0), i64(units))
        else:
            begin = f.mul(item, i64(units))
            body(item, maximum(f, f.sub(low, begin), i64(0)), f.minimum(f.sub(high, begin), i64(units)))


class Rest:
    """The last part of every thread's share of some units, in pieces that whoever is free takes.

    portion: a quarter of a share is left, in pieces of so many units.  0: an eighth is, and each piece has half of what
    is left of it, for units that are better done many at a time.
    """

    def __init__(self, f: Function, units: int, threads: Value, portion: int) -> None:
        self.f, self.units, self.threads, self.portion = f, units, threads, portion
        least = f.binary("udiv", i64(units), threads)
        if portion:
            self.own = f.binary("udiv", f.mul(least, i64(3)), i64(4))
            left = f.sub(f.binary("udiv", f.sub(f.add(i64(units), threads), i64(1)), threads), self.own)
            pieces = f.binary("udiv", f.add(left, i64(portion - 1)), i64(portion))
        else:
            self.own = f.sub(least, maximum(f, f.binary("lshr", least, i64(3)), i64(1)))
            pieces = i64((max(units // 16, 1) + 1).bit_length())  # the largest share may have a unit more
        self.pieces = f.mul(pieces, threads)

    def piece(self, number: Value) -> tuple[Value, Value]:
        """The range of units of a piece: threads take turns as owners.  It may be empty, where shares are unequal."""
        f = self.f
        low, high = share(f, self.units, f.binary("urem", number, self.threads), self.threads)
        low, place = f.add(low, self.own), f.binary("udiv", number, self.threads)
        if self.portion:
            begin = f.add(low, f.mul(place, i64(self.portion)))
            return begin, f.minimum(f.add(begin, i64(self.portion)), high)
        left = f.sub(high, low)
        return f.sub(high, f.binary("lshr", left, place)), f.sub(high, f.binary("lshr", left, f.add(place, i64(1))))


def takes_turns(f: Function, threads: Value, most: int = MOST_BALANCED) -> Value:
    """Whether there is a rest (i1): one thread has nobody to share with, and very many keep to their shares."""
    return f.binary("and", f.compare("icmp sgt", threads, i64(1)), f.compare("icmp sle", threads, i64(most)))


def take_turns(f: Function, threads: Value, turns: Value, own: Sequence[Value], units: Value,
               unit: Callable[[Value], Sequence[Value]], body: Callable[[Sequence[Value], Value], None],
               rounds: int = 1, this_round: Value | None = None) -> None:
    """`body(bounds, shared)` once with a thread's own bounds, then with those of each unit that it is the first to take.

    turns   `takes_turns(threads)`; where it does not hold, `own` must be all there is to do
    unit    the bounds of one of the `units` of the rest
    shared  whether the bounds are a unit's (i1)
    rounds  how many times threads do this between two meetings; this_round is the number of this time

    Tickets come from a counter that nobody resets: a run takes as many as there are units, and one more for each thread,
    so that the remainder starts anew by itself.  There is a counter for each number of threads and each round: a thread
    may be rounds ahead of another.
    """
    counters = f.module.counters((MOST_BALANCED + 1) * rounds)
    counter = f.offset(counters, f.add(f.mul(this_round or i64(0), i64(MOST_BALANCED + 1)), threads), "i64")
    header, after, done = f.label("turn"), f.label("next"), f.label("balanced")
    before = f.current
    f.branch(header)
    f.block(header)
    bounds, shared = [Value(f.fresh(), "i64") for _ in own], Value(f.fresh(), "i1")
    place = len(f.lines)
    f.lines.append("")  # the phis, written when the latch is known
    body(bounds, shared)
    f.branch_if(turns, after, done)
    f.block(after)
    ticket = f.emit(f"atomicrmw add {counter}, i64 1 monotonic, align 8", "i64")
    ticket = f.binary("urem", ticket, f.add(units, threads))
    following = unit(ticket)
    latch = f.current
    phis = [f"  {value.name} = phi i64 [ {first.name}, %{before} ], [ {second.name}, %{latch} ]"
            for value, first, second in zip(bounds, own, following, strict=True)]
    f.lines[place] = "\n".join([*phis, f"  {shared.name} = phi i1 [ false, %{before} ], [ true, %{latch} ]"])
    f.branch_if(f.compare("icmp slt", ticket, units), header, done)
    f.block(done)


def owners_take_turns(f: Function, threads: Value) -> Value:
    """Whether `balanced` leaves a rest (i1)."""
    return takes_turns(f, threads, OWNERS)


@contextmanager
def balanced(f: Function, units: int, thread: Value, threads: Value, tickets: Value, rest: int = QUARTER,
             kept: int = KEPT) -> Iterator[tuple[Value, Value]]:
    """Ranges of `units`, one after the other: most of a thread's share, then pieces of the rest of its share that nobody has
    taken, and what is left of it; then pieces of the others' rests.  Each unit is in one range of one thread.

    tickets   a slot of counters, zero before; zero again when all threads have ended, which they know when they have met
    rest      the shift that gives the rest of a share
    kept      how many of its last pieces a thread does itself in any case

    Each piece has half of what is left.  Whoever finds no piece left in a rest is counted there, too: the last of the threads
    to do so sets the counter back.
    """
    pieces = max(1, (-(-units // 2) >> rest).bit_length() - kept)  # for two threads; with more of them the last ones are empty
    low, high = share(f, units, thread, threads)
    turns = owners_take_turns(f, threads)
    left = f.binary("lshr", f.sub(high, low), i64(rest))
    end = f.select(turns, f.sub(high, left), high)
    header, look, take, after, tail, on, done = map(f.label, ("range", "look", "take", "after", "tail", "on", "balanced"))
    before = f.current
    f.branch(header)
    f.block(header)
    begin, stop, next_ = (Value(f.fresh(), "i64") for _ in range(3))  # next_: in whose rest to look for a piece afterwards
    ranges = len(f.lines)
    f.lines.append("")  # the phis, written when the other ends are known
    yield begin, stop
    latch = f.current
    f.branch_if(turns, look, done)
    f.block(look)
    owner = Value(f.fresh(), "i64")
    owners = len(f.lines)
    f.lines.append("")
    counter = f.offset(tickets, f.mul(owner, i64(ALIGNMENT)), "i8")
    ticket = f.emit(f"atomicrmw add {counter}, i64 1 monotonic, align 8", "i64")
    f.branch_if(f.compare("icmp slt", ticket, i64(pieces)), take, after)
    f.block(take)
    first, last = share(f, units, owner, threads)
    others = f.binary("lshr", f.sub(last, first), i64(rest))
    piece = [f.sub(last, f.binary("lshr", others, n)) for n in (ticket, f.add(ticket, i64(1)))]
    f.branch(header)
    f.block(after)
    with f.when(f.compare("icmp eq", ticket, f.add(threads, i64(pieces - 1)))):
        f.do(f"store atomic i64 0, {counter} monotonic, align 8")
    following = f.add(owner, i64(1))
    following = f.select(f.compare("icmp eq", following, threads), i64(0), following)
    f.branch_if(f.compare("icmp eq", owner, thread), tail, on)
    f.block(tail)
    kept_low = f.sub(high, f.binary("lshr", left, i64(pieces)))
    f.branch(header)
    f.block(on)
    f.branch_if(f.compare("icmp eq", following, thread), done, look)
    f.block(done)
    f.lines[ranges] = "\n".join(
        f"  {v.name} = phi i64 [ {x.name}, %{before} ], [ {y.name}, %{take} ], [ {z.name}, %{tail} ]" for v, x, y, z in
        ((begin, low, piece[0], kept_low), (stop, end, piece[1], high), (next_, thread, owner, following)))
    f.lines[owners] = f"  {owner.name} = phi i64 [ {next_.name}, %{latch} ], [ {following.name}, %{on} ]"


def spread(f: Function, batch: int, units: int, thread: Value, threads: Value,
           body: Callable[[Value, Value, Value], None], portion: int = 0, dealt: bool = False) -> None:
    """Give each thread its share of batch * units; `body(item, low, high)` does a range of one item's units.

    portion: the last quarter of each share is taken so many units at a time by whoever is free; 0: never.  What a thread
    begins with is of its own share, since it often wrote what it now reads.

    dealt: whole items, the same in everything that has so many of them.
    """
    if dealt:
        with f.loop(*share(f, batch, thread, threads)) as one:
            body(one, i64(0), i64(units))
        return
    total = batch * units
    low, high = share(f, total, thread, threads)
    if not portion or threads.number == 1 or total < 8 * portion:
        within(f, batch, units, low, high, threads, body)
        return
    turns, rest = takes_turns(f, threads), Rest(f, total, threads, portion)
    take_turns(f, threads, turns, (low, f.select(turns, f.add(low, rest.own), high)), rest.pieces, rest.piece,
               lambda bounds, _: within(f, batch, units, bounds[0], bounds[1], threads, body))
