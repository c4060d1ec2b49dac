"""What workers do: they wait for jobs, meet at a barrier, and sleep, as LLVM text.

Knows atomics and the memory layout that workers share.  Must not know Python threads, or what is computed.

All operating system services (yield, sleep, wake, which core) are called through addresses that lie in the shared
memory: the text names no symbol, so one cached object serves every process and system.

Layout, in bytes.  A *barrier* is 4 lines of 64: words that different threads write lie in different lines.

    0 ARRIVED i64       64 PHASE i64       72 CANCELLED i32      128 CANCEL i32      192 YIELD ptr      200 SPINS i64

A *control block* is 4 lines, then the barrier, then two lines for each worker, the first of which is all that passes
between caller and worker when a job starts:

    0 BUSY i32        64 PENDING i64   72 STATUS i32      128 CLOCK ptr      136 (which clock) i32
    192 LIMIT i64     200 WORKERS i64   208 POST ptr        216 CORE ptr        224 MISSES i64
    256 the barrier, and behind it counters by which threads take turns, zero between jobs (`sharing`)
    256 + 256 + TICKET_BYTES + 128 k:
                  +0 STATE i32   +4 STOP i32   +8 RANK i64   +16 FUNCTION ptr   +24 ARGUMENT ptr   +32 THREADS i64
                  +64 HANDLE ptr   +72 PINNED i32   +80 WAIT ptr   +88 PARK i64

Worker states: IDLE (spinning, or about to), POSTED (there is a job for it), PARKED (it sleeps on its semaphore).
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.runtime.native.atomics import Rounds, exchange, is_number, load, pause, store, update
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.sharing import TICKET_BYTES
from graphc.runtime.native.target import Target
from graphc.runtime.native.values import Value, constant, i64

ARRIVED, PHASE, CANCELLED, CANCEL, YIELD, SPINS, BARRIER_BYTES = 0, 64, 72, 128, 192, 200, 256
BUSY, PENDING, STATUS, CLOCK, LIMIT, WORKERS, POST, CORE, MISSES = 0, 64, 72, 128, 192, 200, 208, 216, 224
BARRIER, TICKETS, WORKER_BYTES = 256, BARRIER_BYTES, 128  # TICKETS: from the barrier on
FIRST_WORKER = BARRIER + TICKETS + TICKET_BYTES
STATE, STOP, RANK, FUNCTION, ARGUMENT, THREADS, HANDLE, PINNED, WAIT, PARK = 0, 4, 8, 16, 24, 32, 64, 72, 80, 88
IDLE, POSTED, PARKED = 0, 1, 2
BARRIER_NAME = "graphc.barrier"


def emit_barrier(module: Module, target: Target, name: str = BARRIER_NAME) -> str:
    """Put ``void barrier(ptr barrier, i64 threads)`` into the module, if it has no function of that name; the name.

    Returns in a thread when all `threads` threads have called it; what any of them wrote before is then visible to
    all.  With one thread it returns at once and touches nothing.  Waiting threads spin for a bounded time and then
    give up their time slices, so that more threads than cores still make progress.
    """
    if name in module.functions:
        return name
    f = module.function(name, [("barrier", "ptr"), ("threads", "i64")], attributes="nounwind noinline")
    barrier, threads = f.parameters
    with f.when(f.compare("icmp sgt", threads, i64(1))):
        phase = load(f, barrier, PHASE, "i64", "monotonic")
        before = update(f, "add", barrier, ARRIVED, i64(1), "acq_rel")
        last, wait, done = f.label("last"), f.label("wait"), f.label("met")
        f.branch_if(f.compare("icmp eq", f.add(before, i64(1)), threads), last, wait)
        f.block(last)
        store(f, barrier, ARRIVED, i64(0), "monotonic")
        # One thread decides whether this phase was cancelled: all must see the same answer, or they part ways.
        store(f, barrier, CANCELLED, load(f, barrier, CANCEL, "i32", "monotonic"), "monotonic")
        store(f, barrier, PHASE, f.add(phase, i64(1)), "release")
        f.branch(done)
        f.block(wait)
        spin_while(f, target, barrier,
                    lambda: f.compare("icmp eq", load(f, barrier, PHASE, "i64", "acquire"), phase))
        f.branch(done)
        f.block(done)
    return name


def emit_cancelled(function: Function, barrier: Value, threads: Value) -> Value:
    """Whether the run is to stop (i1), the same in all threads; to be asked after a barrier and before the next."""
    alone = load(function, barrier, CANCEL, "i32", "monotonic")
    together = load(function, barrier, CANCELLED, "i32", "monotonic")
    flag = function.select(function.compare("icmp eq", threads, i64(1)), alone, together)
    return function.compare("icmp ne", flag, constant(0, "i32"))


# -- functions -------------------------------------------------------------------------------------------------


def emit_worker(module: Module, target: Target) -> None:
    """``void worker(ptr control, i64 index)``: a worker's whole life; returns when the pool shuts down."""
    f = module.function("worker", [("control", "ptr"), ("index", "i64")], internal=False, care=1)
    control, index = f.parameters
    me = f.offset(control, f.add(f.mul(index, i64(WORKER_BYTES)), i64(FIRST_WORKER)), "i8")
    limit = load(f, me, PARK, "i64")
    idle, again, look, work, sleep, wake, end = map(f.label, ("idle", "again", "look", "work", "sleep", "wake", "end"))
    f.branch(idle)

    f.block(idle)
    spins = Rounds(f, again)
    f.branch_if(is_number(f, load(f, me, STATE, "i32", "acquire"), POSTED), work, look)
    f.block(look)
    f.branch_if(is_number(f, load(f, me, STOP, "i32", "acquire"), 0), again, end)
    f.block(again)
    pause(f, target)
    spins.advance()
    f.branch_if(f.compare("icmp slt", spins.value, limit), spins.header, sleep)

    f.block(work)
    function, argument = load(f, me, FUNCTION, "ptr"), load(f, me, ARGUMENT, "ptr")
    threads, rank = load(f, me, THREADS, "i64"), load(f, me, RANK, "i64")
    barrier = f.offset(control, i64(BARRIER), "i8")
    status = f.emit(f"call i32 {function.name}({argument}, {rank}, {threads}, {barrier})", "i32")
    with f.when(f.compare("icmp ne", status, constant(0, "i32"))):
        update(f, "umax", control, STATUS, status, "monotonic")
    store(f, me, STATE, constant(IDLE, "i32"), "monotonic")  # before the count: after it a new job may come
    update(f, "sub", control, PENDING, i64(1), "release")
    f.branch(idle)

    f.block(sleep)  # announce it, then look once more: whoever sets STOP or posts after this sees PARKED
    took = f.label("parked")
    f.branch_if(exchange(f, me, STATE, IDLE, PARKED), took, idle)
    f.block(took)
    check = f.label("check")
    leave = f.label("leave")
    f.branch_if(is_number(f, load(f, me, STOP, "i32", "seq_cst"), 0), wake, leave)
    f.block(leave)
    f.branch_if(exchange(f, me, STATE, PARKED, IDLE), end, wake)
    f.block(wake)
    f.do(f"call i32 {load(f, me, WAIT, 'ptr').name}({load(f, me, HANDLE, 'ptr')}, i64 -1)")
    f.branch(check)
    f.block(check)  # a signal may end the sleep early
    f.branch_if(is_number(f, load(f, me, STATE, "i32", "acquire"), PARKED), wake, idle)
    f.block(end)


def emit_shut_down(module: Module) -> None:
    """``i32 shut_down(ptr control)``: let the workers return; 0 when they will, 1 where a job is running."""
    f = module.function("shut_down", [("control", "ptr")], returns="i32", internal=False, care=1)
    control = f.parameters[0]
    stop, busy = f.label("stop"), f.label("busy")
    f.branch_if(exchange(f, control, BUSY, 0, 1), stop, busy)
    f.block(busy)
    f.do("ret i32 1")
    f.block(stop)
    workers = load(f, control, WORKERS, "i64")
    store(f, control, LIMIT, i64(1))
    store(f, control, WORKERS, i64(0))
    with f.loop(0, workers) as index:
        worker = f.offset(control, f.add(f.mul(index, i64(WORKER_BYTES)), i64(FIRST_WORKER)), "i8")
        store(f, worker, STOP, constant(1, "i32"), "seq_cst")
        with f.when(exchange(f, worker, STATE, PARKED, IDLE)):
            post(f, control, worker)
    store(f, control, BUSY, constant(0, "i32"), "release")
    f.ret(constant(0, "i32"))


# -- pieces -----------------------------------------------------------------------------------------------------------


def post(f: Function, control: Value, worker: Value) -> None:
    f.do(f"call i32 {load(f, control, POST, 'ptr').name}({load(f, worker, HANDLE, 'ptr')}, i64 1, ptr null)")


def spin_while(f: Function, target: Target, barrier: Value, waiting: Callable[[], Value]) -> None:
    """Wait until waiting() (i1) is false: first spin, then give up time slices."""
    again, more, rest, done = f.label("again"), f.label("more"), f.label("rest"), f.label("waited")
    join = f.label("join")
    limit, service = load(f, barrier, SPINS, "i64"), load(f, barrier, YIELD, "ptr")
    spins = Rounds(f, join)
    f.branch_if(waiting(), again, done)
    f.block(again)
    f.branch_if(f.compare("icmp slt", spins.phi, limit), more, rest)
    f.block(rest)
    with f.when(f.compare("icmp ne", service, Value("null", "ptr"))):
        f.do(f"call i32 {service.name}()")
    f.branch(join)
    f.block(more)
    pause(f, target)
    f.branch(join)
    f.block(join)
    spins.advance()
    f.branch(spins.header)
    f.block(done)
