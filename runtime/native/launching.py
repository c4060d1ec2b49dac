"""How a job starts and ends: on several threads, or on the caller alone.

Knows the memory that workers share, and choices.  Must not know Python threads, or what a job computes.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.runtime.native.atomics import exchange, is_number, load, pause, store, update
from graphc.runtime.native.choice import ALONE, emit_choice
from graphc.runtime.native.clock import counter_of, emit_read
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.target import Target
from graphc.runtime.native.values import Value, constant, i64
from graphc.runtime.native.workers import (
    ARGUMENT,
    BARRIER,
    BUSY,
    CLOCK,
    CORE,
    FIRST_WORKER,
    FUNCTION,
    IDLE,
    LIMIT,
    MISSES,
    PARKED,
    PENDING,
    PINNED,
    POSTED,
    RANK,
    STATE,
    STATUS,
    THREADS,
    WORKER_BYTES,
    WORKERS,
    emit_shut_down,
    emit_worker,
    post,
    spin_while,
)

CALL_CONTROL, CALL_FUNCTION, CALL_ARGUMENT, CALL_THREADS, CALL_PATIENT, CALL_CHOICE, CALL_STEPS = range(0, 56, 8)
NUDGE = 16  # impatient jobs in a row that find a worker asleep: the first wakes it, the others do not, for it would sleep again


def emit_pool(module: Module, target: Target) -> None:
    """Put the pool's own functions into the module: `worker`, `launch`, `shut_down`, `spin`."""
    emit_worker(module, target)
    _emit_together(module, target)
    _emit_launch(module, counter_of(target))
    emit_shut_down(module)
    f = module.function("spin", [("count", "i64")], internal=False)
    with f.loop(0, f.parameters[0]):
        pause(f, target)


def _emit_launch(module: Module, counter: str | None) -> None:
    """``i32 launch(ptr call)``: run a job and wait for its end; the largest status, as an unsigned number.

    Where the call has a choice, the job runs on the caller alone if that has been quicker lately, and is timed either way.
    """
    f = module.function("launch", [("call", "ptr")], returns="i32", internal=False, care=1)
    call = f.parameters[0]
    pick, took = emit_choice(module)
    choice = load(f, call, CALL_CHOICE, "ptr")
    control, result, way = load(f, call, CALL_CONTROL, "ptr"), f.stack("i32", 1, 4), f.stack("i64", 1, 8)
    words = f.stack("i64", 4, 8)

    def now() -> Value:
        if counter is None:
            for k in range(2):
                f.store(load(f, control, CLOCK + 8 * k, "i64"), f.offset(words, i64(k), "i64"))
        return emit_read(f, counter, words)

    timed, plain = f.label("timed"), f.label("plain")
    f.branch_if(f.compare("icmp ne", choice, Value("null", "ptr")), timed, plain)
    f.block(plain)
    f.ret(f.call("together", [call, way], "i32"))

    f.block(timed)
    alone, together, done = f.label("alone"), f.label("together"), f.label("done")
    picked = f.call(pick, [choice], "i64")
    f.store(picked, way)
    begin = now()
    f.branch_if(is_number(f, picked, ALONE), alone, together)
    f.block(alone)
    function, argument = load(f, call, CALL_FUNCTION, "ptr"), load(f, call, CALL_ARGUMENT, "ptr")
    barrier = f.offset(control, i64(BARRIER), "i8")
    f.store(f.emit(f"call i32 {function.name}({argument}, i64 0, i64 1, {barrier})", "i32"), result)
    f.branch(done)
    f.block(together)
    f.store(f.call("together", [call, way], "i32"), result)
    f.branch(done)
    f.block(done)
    f.call(took, [choice, f.load(way, "i64"), f.sub(now(), begin), load(f, call, CALL_STEPS, "i64")])
    f.ret(f.load(result, "i32"))


def _emit_together(module: Module, target: Target) -> None:
    """``i32 together(ptr call, ptr way)``: run a job on several threads, or on the caller where they cannot be had now.

    Writes ALONE to `way` then.
    """
    f = module.function("together", [("call", "ptr"), ("way", "ptr")], returns="i32", care=1)
    call, way = f.parameters
    control, function = load(f, call, CALL_CONTROL, "ptr"), load(f, call, CALL_FUNCTION, "ptr")
    argument, wanted = load(f, call, CALL_ARGUMENT, "ptr"), load(f, call, CALL_THREADS, "i64")
    barrier = f.offset(control, i64(BARRIER), "i8")
    result, asleep = f.stack("i32", 1, 4), f.stack("i64", 1, 8)  # asleep: whether there is somebody to wake for the next job
    f.store(i64(0), asleep)

    def team() -> tuple[Value, Value, Value]:
        """How many workers there are, how many of them are wanted, and the caller's core."""
        threads = f.minimum(wanted, load(f, control, LIMIT, "i64"))
        return load(f, control, WORKERS, "i64"), f.sub(threads, i64(1)), _current_core(f, control)

    alone, ask, owned, release, done = map(f.label, ("alone", "ask", "owned", "release", "done"))
    f.branch_if(f.compare("icmp sgt", wanted, i64(1)), ask, alone)

    f.block(ask)  # one job at a time; whoever comes second does its work alone, with the same result
    f.branch_if(exchange(f, control, BUSY, 0, 1), owned, alone)

    f.block(owned)
    workers, others, here = team()
    threads = f.add(others, i64(1))
    impatient, count, publish, solo, nudge = map(f.label, ("impatient", "count", "publish", "solo", "nudge"))
    f.branch_if(f.compare("icmp sgt", others, i64(0)), impatient, solo)

    f.block(impatient)
    f.branch_if(is_number(f, load(f, call, CALL_PATIENT, "i64"), 0), count, publish)
    f.block(count)

    def look(worker: Value, _rank: Value) -> None:
        with f.when(is_number(f, load(f, worker, STATE, "i32", "monotonic"), PARKED)):
            f.store(i64(1), asleep)

    _for_chosen(f, control, workers, others, here, look)
    misses = load(f, control, MISSES, "i64")
    none = is_number(f, f.load(asleep, "i64"), 0)
    store(f, control, MISSES, f.select(none, i64(0), f.add(misses, i64(1))))
    with f.when(f.compare("icmp ne", f.binary("urem", misses, i64(NUDGE)), i64(0))):
        f.store(i64(0), asleep)
    f.branch_if(none, publish, solo)

    f.block(publish)
    store(f, control, STATUS, constant(0, "i32"))
    store(f, control, PENDING, others, "monotonic")

    def assign(worker: Value, rank: Value) -> None:
        for offset, value in ((RANK, rank), (FUNCTION, function), (ARGUMENT, argument), (THREADS, threads)):
            store(f, worker, offset, value)
        before = update(f, "xchg", worker, STATE, constant(POSTED, "i32"), "seq_cst")
        with f.when(is_number(f, before, PARKED)):
            post(f, control, worker)

    _for_chosen(f, control, workers, others, here, assign)
    own = f.emit(f"call i32 {function.name}({argument}, i64 0, {threads}, {barrier})", "i32")
    spin_while(f, target, barrier,
               lambda: f.compare("icmp ne", load(f, control, PENDING, "i64", "acquire"), i64(0)))
    theirs = load(f, control, STATUS, "i32", "monotonic")
    f.store(f.select(f.compare("icmp ugt", own, theirs), own, theirs), result)
    f.branch(release)

    f.block(release)
    store(f, control, BUSY, constant(0, "i32"), "release")
    f.branch(done)

    f.block(solo)
    store(f, control, BUSY, constant(0, "i32"), "release")
    f.branch(alone)
    f.block(alone)
    f.store(i64(ALONE), way)
    f.store(f.emit(f"call i32 {function.name}({argument}, i64 0, i64 1, {barrier})", "i32"), result)
    f.branch_if(is_number(f, f.load(asleep, "i64"), 0), done, nudge)

    f.block(nudge)  # at the end, so that who wakes still spins when the next job comes

    def wake(worker: Value, _rank: Value) -> None:
        with f.when(exchange(f, worker, STATE, PARKED, IDLE)):
            post(f, control, worker)

    _for_chosen(f, control, *team(), wake)
    f.branch(done)
    f.block(done)
    f.ret(f.load(result, "i32"))


def _for_chosen(f: Function, control: Value, workers: Value, others: Value, here: Value,
                 act: Callable[[Value, Value], None]) -> None:
    """Call act(worker, rank) for `others` workers, passing over the one pinned to this thread's core if it can."""
    rank = f.stack("i64", 1, 8)
    f.store(i64(1), rank)
    with f.loop(0, workers) as index:
        worker = f.offset(control, f.add(f.mul(index, i64(WORKER_BYTES)), i64(FIRST_WORKER)), "i8")
        now = f.load(rank, "i64")
        needed = f.sub(others, f.sub(now, i64(1)))
        spare = f.compare("icmp sgt", f.sub(workers, index), needed)
        same = f.compare("icmp eq", load(f, worker, PINNED, "i32"), here)
        skip = f.binary("and", spare, same)
        take = f.binary("and", f.compare("icmp sgt", needed, i64(0)),
                        f.binary("xor", skip, constant(True, "i1")))
        with f.when(take):
            act(worker, now)
            f.store(f.add(now, i64(1)), rank)


def _current_core(f: Function, control: Value) -> Value:
    """The core that this thread runs on (i32); -2, which no worker has, where the system does not tell."""
    cell = f.stack("i32", 1, 4)
    f.store(constant(-2, "i32"), cell)
    service = load(f, control, CORE, "ptr")
    with f.when(f.compare("icmp ne", service, Value("null", "ptr"))):
        f.store(f.emit(f"call i32 {service.name}()", "i32"), cell)
    return f.load(cell, "i32")
