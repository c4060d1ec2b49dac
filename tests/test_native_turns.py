"""Rests of shares that whoever is free takes: real threads, one of which is late; what is done twice, or not at all, shows."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from graphc.runtime.native import sharing
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.jit import Code, compile_module
from graphc.runtime.native.sharing import HALF, QUARTER, SLOT_BYTES, SLOTS, TICKET_BYTES, balanced
from graphc.runtime.native.target import host
from graphc.runtime.native.threads import Pool, emit_barrier
from graphc.runtime.native.values import Value, i64
from graphc.runtime.native.workers import TICKETS

THREADS = 3
NOBODY = 99
UNITS = (1, 2, 3, 7, 8, 9, 16, 31, 64, 100, 128, 1000)
WAYS = [(units, rest, kept) for units in UNITS for rest in (HALF, QUARTER) for kept in (0, 2)]
ROUNDS = 3  # in one job


def emit_job(module: Module, name: str, units: int, rest: int, kept: int) -> None:
    """Rounds of `units` pieces of work, each an addition to a number of its own that is not atomic, and a note of who did it.

    One thread is late: in its first range it waits until the others have done all that they find.
    """
    f = module.function(name, [("argument", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                        returns="i32", internal=False)
    argument, thread, threads, barrier = f.parameters
    late, done, counts, who = (f.load(f.offset(argument, i64(i), "i64"), t) for i, t in enumerate(("i64", "ptr", "ptr", "ptr")))
    for number in range(ROUNDS):
        place = f.offset(done, i64(number), "i64")
        tickets = f.offset(barrier, i64(TICKETS + number % 2 * SLOT_BYTES), "i8")  # two rounds, then threads meet
        with balanced(f, units, thread, threads, tickets, rest, kept) as (low, high):
            with f.when(f.compare("icmp eq", thread, late)):
                wait_for(f, place, f.sub(threads, i64(1)))
            with f.loop(low, high) as unit:
                mine = f.add(unit, i64(number * units))  # of this round: another thread may do the unit in the next one
                count = f.offset(counts, mine, "i64")
                f.store(f.add(f.load(count, "i64"), i64(1)), count)
                f.store(thread, f.offset(who, mine, "i64"))
        f.emit(f"atomicrmw add {place}, i64 1 seq_cst, align 8", "i64")
        if number % 2:
            f.call(emit_barrier(module, host()), [barrier, threads])
    f.do("ret i32 0")
    f.finished = True


def wait_for(f: Function, place: Value, value: Value) -> None:
    again, on = f.label("again"), f.label("on")
    f.branch(again)
    f.block(again)
    seen = f.emit(f"load atomic i64, {place} seq_cst, align 8", "i64")
    f.branch_if(f.compare("icmp sge", seen, value), on, again)
    f.block(on)


@pytest.fixture(scope="module")
def code() -> Code:
    module = Module()
    for number, way in enumerate(WAYS):
        emit_job(module, f"job{number}", *way)
    return compile_module(module.text(), target=host(), name="turns")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    found = Pool(THREADS)
    yield found
    found.close()


def counters(pool: Pool) -> bytes:
    return ctypes.string_at(pool.barrier_address + TICKETS, TICKET_BYTES)


def run_job(pool: Pool, code: Code, number: int, threads: int, late: int) -> np.ndarray:
    """Who did which unit, round by round.  Fails where one was done twice, or by nobody."""
    units = WAYS[number][0]
    counts, done = np.zeros((ROUNDS, units), np.int64), np.zeros(ROUNDS, np.int64)
    who = np.full((ROUNDS, units), NOBODY, np.int64)
    words = (ctypes.c_int64 * 4)(late, done.ctypes.data, counts.ctypes.data, who.ctypes.data)
    pool.run(code.address(f"job{number}"), ctypes.addressof(words), threads)
    assert (who != NOBODY).all(), (WAYS[number], threads)
    assert (counts == 1).all(), (WAYS[number], threads)
    assert not any(counters(pool)), "a counter was not set back"
    return who


def test_each_unit_is_done_once_by_whoever_is_free(pool: Pool, code: Code) -> None:
    """For any number of threads in turn, with the same counters; the late one finds its rest done."""
    taken = 0
    for number, (units, rest, kept) in enumerate(WAYS):
        for threads in (2, 3, 1, 3, 2):
            for late in range(threads):
                who = run_job(pool, code, number, threads, late)
                low, high = (units * (late + i) // threads for i in (0, 1))
                length, left = high - low, (high - low) >> rest
                pieces = max(1, (-(-units // 2) >> rest).bit_length() - kept)
                mine = set(range(low, high - left)) | set(range(high - (left >> pieces), high))
                if threads == 1:
                    mine = set(range(units))
                for row in who if length else ():
                    assert set(np.flatnonzero(row == late)) == mine, (WAYS[number], threads, late)
                taken += length - len(mine)
    assert taken > 1000, "nobody takes anything of another's"


def test_without_threads_to_wait_for(pool: Pool, code: Code) -> None:
    """Everybody as fast as it can, many times."""
    for number in range(0, len(WAYS), 3):
        for threads in (2, 3):
            for _ in range(20):
                run_job(pool, code, number, threads, NOBODY)


def test_many_threads_keep_to_their_shares(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    """There are counters for so many owners, and for one more no rest is left."""
    monkeypatch.setattr(sharing, "OWNERS", 2)
    module = Module()
    emit_job(module, f"job{len(WAYS) - 1}", *WAYS[-1])
    again = compile_module(module.text(), target=host(), name="turns")
    for threads, others in ((2, True), (3, False)):
        who = run_job(pool, again, len(WAYS) - 1, threads, 0)
        share = WAYS[-1][0] // threads
        assert bool((who[:, :share] != 0).any()) == others
    assert TICKET_BYTES == SLOTS * SLOT_BYTES
