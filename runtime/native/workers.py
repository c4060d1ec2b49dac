"""The native part of the worker pool: a barrier, the workers' loop and the launch, as LLVM text.

Knows atomics and the memory layout that workers share.  Must not know Python threads, or what is computed.

All operating system services (yield, sleep, wake, which core) are called through addresses that lie in the shared
memory: the text names no symbol, so one cached object serves every process and system.

Layout, in bytes.  A *barrier* is 4 lines of 64: words that different threads write lie in different lines.

    0 ARRIVED i64       64 PHASE i64       72 CANCELLED i32      128 CANCEL i32      192 YIELD ptr      200 SPINS i64

A *control block* is 4 lines, then the barrier, then two lines for each worker, the first of which is all that passes
between caller and worker when a job starts:

    0 BUSY i32        64 PENDING i64   72 STATUS i32     192 LIMIT i64   200 WORKERS i64   208 POST ptr   216 CORE ptr
    224 MISSES i64
    256 the barrier, and behind it counters by which threads take turns, zero between jobs (`sharing`)
    256 + 256 + TICKET_BYTES + 128 k:
                  +0 STATE i32   +4 STOP i32   +8 RANK i64   +16 FUNCTION ptr   +24 ARGUMENT ptr   +32 THREADS i64
                  +64 HANDLE ptr   +72 PINNED i32   +80 WAIT ptr   +88 PARK i64

Worker states: IDLE (spinning, or about to), POSTED (there is a job for it), PARKED (it sleeps on its semaphore).
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.runtime.native.denormals import architecture
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.sharing import TICKET_BYTES
from graphc.runtime.native.target import Target
from graphc.runtime.native.values import Value, constant, i64

ARRIVED, PHASE, CANCELLED, CANCEL, YIELD, SPINS, BARRIER_BYTES = 0, 64, 72, 128, 192, 200, 256
BUSY, PENDING, STATUS, LIMIT, WORKERS, POST, CORE, MISSES = 0, 64, 72, 192, 200, 208, 216, 224
BARRIER, TICKETS, WORKER_BYTES = 256, BARRIER_BYTES, 128  # TICKETS: from the barrier on
FIRST_WORKER = BARRIER + TICKETS + TICKET_BYTES
STATE, STOP, RANK, FUNCTION, ARGUMENT, THREADS, HANDLE, PINNED, WAIT, PARK = 0, 4, 8, 16, 24, 32, 64, 72, 80, 88
CALL_CONTROL, CALL_FUNCTION, CALL_ARGUMENT, CALL_THREADS, CALL_PATIENT = 0, 8, 16, 24, 32
IDLE, POSTED, PARKED = 0, 1, 2
NUDGE = 16  # impatient jobs in a row that find a worker asleep: the first wakes it, the others do not, for it would sleep again
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
        phase = _load(f, barrier, PHASE, "i64", "monotonic")
        before = _update(f, "add", barrier, ARRIVED, i64(1), "acq_rel")
        last, wait, done = f.label("last"), f.label("wait"), f.label("met")
        f.branch_if(f.compare("icmp eq", f.add(before, i64(1)), threads), last, wait)
        f.block(last)
        _store(f, barrier, ARRIVED, i64(0), "monotonic")
        # One thread decides whether this phase was cancelled: all must see the same answer, or they part ways.
        _store(f, barrier, CANCELLED, _load(f, barrier, CANCEL, "i32", "monotonic"), "monotonic")
        _store(f, barrier, PHASE, f.add(phase, i64(1)), "release")
        f.branch(done)
        f.block(wait)
        _spin_while(f, target, barrier,
                    lambda: f.compare("icmp eq", _load(f, barrier, PHASE, "i64", "acquire"), phase))
        f.branch(done)
        f.block(done)
    return name


def emit_cancelled(function: Function, barrier: Value, threads: Value) -> Value:
    """Whether the run is to stop (i1), the same in all threads; to be asked after a barrier and before the next."""
    alone = _load(function, barrier, CANCEL, "i32", "monotonic")
    together = _load(function, barrier, CANCELLED, "i32", "monotonic")
    flag = function.select(function.compare("icmp eq", threads, i64(1)), alone, together)
    return function.compare("icmp ne", flag, constant(0, "i32"))


def emit_pool(module: Module, target: Target) -> None:
    """Put the pool's own functions into the module: `worker`, `launch`, `shut_down`, `spin`, `meet`."""
    _emit_worker(module, target)
    _emit_launch(module, target)
    _emit_shut_down(module)
    _emit_meet(module, target)
    f = module.function("spin", [("count", "i64")], internal=False)
    with f.loop(0, f.parameters[0]):
        pause(f, target)


def pause(f: Function, target: Target) -> None:
    """Tell the processor that this thread only waits."""
    match architecture(target):
        case "x86_64":
            f.module.declare("llvm.x86.sse2.pause", "void", [])
            f.call("llvm.x86.sse2.pause", [])
        case "aarch64":  # isb waits some 10 ns; the yield hint does nothing on most cores
            f.module.declare("llvm.aarch64.isb", "void", ["i32"])
            f.call("llvm.aarch64.isb", [constant(15, "i32")])


# -- the functions ---------------------------------------------------------------------------------------------


def _emit_worker(module: Module, target: Target) -> None:
    """``void worker(ptr control, i64 index)``: a worker's whole life; returns when the pool shuts down."""
    f = module.function("worker", [("control", "ptr"), ("index", "i64")], internal=False, care=1)
    control, index = f.parameters
    me = f.offset(control, f.add(f.mul(index, i64(WORKER_BYTES)), i64(FIRST_WORKER)), "i8")
    limit = _load(f, me, PARK, "i64")
    idle, again, look, work, sleep, wake, end = map(f.label, ("idle", "again", "look", "work", "sleep", "wake", "end"))
    f.branch(idle)

    f.block(idle)
    spins = _Rounds(f, again)
    f.branch_if(_is(f, _load(f, me, STATE, "i32", "acquire"), POSTED), work, look)
    f.block(look)
    f.branch_if(_is(f, _load(f, me, STOP, "i32", "acquire"), 0), again, end)
    f.block(again)
    pause(f, target)
    spins.advance()
    f.branch_if(f.compare("icmp slt", spins.value, limit), spins.header, sleep)

    f.block(work)
    function, argument = _load(f, me, FUNCTION, "ptr"), _load(f, me, ARGUMENT, "ptr")
    threads, rank = _load(f, me, THREADS, "i64"), _load(f, me, RANK, "i64")
    barrier = f.offset(control, i64(BARRIER), "i8")
    status = f.emit(f"call i32 {function.name}({argument}, {rank}, {threads}, {barrier})", "i32")
    with f.when(f.compare("icmp ne", status, constant(0, "i32"))):
        _update(f, "umax", control, STATUS, status, "monotonic")
    _store(f, me, STATE, constant(IDLE, "i32"), "monotonic")  # before the count: after it a new job may come
    _update(f, "sub", control, PENDING, i64(1), "release")
    f.branch(idle)

    f.block(sleep)  # announce it, then look once more: whoever sets STOP or posts after this sees PARKED
    took = f.label("parked")
    f.branch_if(_exchange(f, me, IDLE, PARKED), took, idle)
    f.block(took)
    check = f.label("check")
    leave = f.label("leave")
    f.branch_if(_is(f, _load(f, me, STOP, "i32", "seq_cst"), 0), wake, leave)
    f.block(leave)
    f.branch_if(_exchange(f, me, PARKED, IDLE), end, wake)
    f.block(wake)
    f.do(f"call i32 {_load(f, me, WAIT, 'ptr').name}({_load(f, me, HANDLE, 'ptr')}, i64 -1)")
    f.branch(check)
    f.block(check)  # a signal may end the sleep early
    f.branch_if(_is(f, _load(f, me, STATE, "i32", "acquire"), PARKED), wake, idle)
    f.block(end)


def _emit_launch(module: Module, target: Target) -> None:
    """``i32 launch(ptr call)``: run a job and wait for its end; the largest status, as an unsigned number."""
    f = module.function("launch", [("call", "ptr")], returns="i32", internal=False, care=1)
    call = f.parameters[0]
    control, function = _load(f, call, CALL_CONTROL, "ptr"), _load(f, call, CALL_FUNCTION, "ptr")
    argument, wanted = _load(f, call, CALL_ARGUMENT, "ptr"), _load(f, call, CALL_THREADS, "i64")
    barrier = f.offset(control, i64(BARRIER), "i8")
    result, asleep = f.stack("i32", 1, 4), f.stack("i64", 1, 8)  # asleep: whether there is somebody to wake for the next job
    f.store(i64(0), asleep)

    def team() -> tuple[Value, Value, Value]:
        """How many workers there are, how many of them are wanted, and the caller's core."""
        threads = f.minimum(wanted, _load(f, control, LIMIT, "i64"))
        return _load(f, control, WORKERS, "i64"), f.sub(threads, i64(1)), _current_core(f, control)

    alone, ask, owned, release, done = map(f.label, ("alone", "ask", "owned", "release", "done"))
    f.branch_if(f.compare("icmp sgt", wanted, i64(1)), ask, alone)

    f.block(ask)  # one job at a time; whoever comes second does its work alone, with the same result
    f.branch_if(_exchange(f, control, 0, 1, BUSY), owned, alone)

    f.block(owned)
    workers, others, here = team()
    threads = f.add(others, i64(1))
    impatient, count, publish, solo, nudge = map(f.label, ("impatient", "count", "publish", "solo", "nudge"))
    f.branch_if(f.compare("icmp sgt", others, i64(0)), impatient, solo)

    f.block(impatient)
    f.branch_if(_is(f, _load(f, call, CALL_PATIENT, "i64"), 0), count, publish)
    f.block(count)

    def look(worker: Value, _rank: Value) -> None:
        with f.when(_is(f, _load(f, worker, STATE, "i32", "monotonic"), PARKED)):
            f.store(i64(1), asleep)

    _for_chosen(f, control, workers, others, here, look)
    misses = _load(f, control, MISSES, "i64")
    none = _is(f, f.load(asleep, "i64"), 0)
    _store(f, control, MISSES, f.select(none, i64(0), f.add(misses, i64(1))))
    with f.when(f.compare("icmp ne", f.binary("urem", misses, i64(NUDGE)), i64(0))):
        f.store(i64(0), asleep)
    f.branch_if(none, publish, solo)

    f.block(publish)
    _store(f, control, STATUS, constant(0, "i32"))
    _store(f, control, PENDING, others, "monotonic")

    def assign(worker: Value, rank: Value) -> None:
        for offset, value in ((RANK, rank), (FUNCTION, function), (ARGUMENT, argument), (THREADS, threads)):
            _store(f, worker, offset, value)
        before = _update(f, "xchg", worker, STATE, constant(POSTED, "i32"), "seq_cst")
        with f.when(_is(f, before, PARKED)):
            _post(f, control, worker)

    _for_chosen(f, control, workers, others, here, assign)
    own = f.emit(f"call i32 {function.name}({argument}, i64 0, {threads}, {barrier})", "i32")
    _spin_while(f, target, barrier,
                lambda: f.compare("icmp ne", _load(f, control, PENDING, "i64", "acquire"), i64(0)))
    theirs = _load(f, control, STATUS, "i32", "monotonic")
    f.store(f.select(f.compare("icmp ugt", own, theirs), own, theirs), result)
    f.branch(release)

    f.block(release)
    _store(f, control, BUSY, constant(0, "i32"), "release")
    f.branch(done)

    f.block(solo)
    _store(f, control, BUSY, constant(0, "i32"), "release")
    f.branch(alone)
    f.block(alone)
    f.store(f.emit(f"call i32 {function.name}({argument}, i64 0, i64 1, {barrier})", "i32"), result)
    f.branch_if(_is(f, f.load(asleep, "i64"), 0), done, nudge)

    f.block(nudge)  # at the end, so that who wakes still spins when the next job comes

    def wake(worker: Value, _rank: Value) -> None:
        with f.when(_exchange(f, worker, PARKED, IDLE)):
            _post(f, control, worker)

    _for_chosen(f, control, *team(), wake)
    f.branch(done)
    f.block(done)
    f.ret(f.load(result, "i32"))


def _emit_shut_down(module: Module) -> None:
    """``i32 shut_down(ptr control)``: let the workers return; 0 when they will, 1 where a job is running."""
    f = module.function("shut_down", [("control", "ptr")], returns="i32", internal=False, care=1)
    control = f.parameters[0]
    stop, busy = f.label("stop"), f.label("busy")
    f.branch_if(_exchange(f, control, 0, 1, BUSY), stop, busy)
    f.block(busy)
    f.do("ret i32 1")
    f.block(stop)
    workers = _load(f, control, WORKERS, "i64")
    _store(f, control, LIMIT, i64(1))
    _store(f, control, WORKERS, i64(0))
    with f.loop(0, workers) as index:
        worker = f.offset(control, f.add(f.mul(index, i64(WORKER_BYTES)), i64(FIRST_WORKER)), "i8")
        _store(f, worker, STOP, constant(1, "i32"), "seq_cst")
        with f.when(_exchange(f, worker, PARKED, IDLE)):
            _post(f, control, worker)
    _store(f, control, BUSY, constant(0, "i32"), "release")
    f.ret(constant(0, "i32"))


def _emit_meet(module: Module, target: Target) -> None:
    """``i32 meet(ptr count, i64 thread, i64 threads, ptr barrier)``: a job that does nothing but meet; how many threads did."""
    f = module.function("meet", [("count", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")], returns="i32",
                        internal=False)
    count, _, threads, barrier = f.parameters
    name = emit_barrier(module, target)
    with f.loop(0, f.load(count, "i64")):
        f.call(name, [barrier, threads])
    f.ret(f.convert("trunc", threads, "i32"))


# -- pieces ----------------------------------------------------------------------------------------------------


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
        same = f.compare("icmp eq", _load(f, worker, PINNED, "i32"), here)
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
    service = _load(f, control, CORE, "ptr")
    with f.when(f.compare("icmp ne", service, Value("null", "ptr"))):
        f.store(f.emit(f"call i32 {service.name}()", "i32"), cell)
    return f.load(cell, "i32")


def _post(f: Function, control: Value, worker: Value) -> None:
    f.do(f"call i32 {_load(f, control, POST, 'ptr').name}({_load(f, worker, HANDLE, 'ptr')}, i64 1, ptr null)")


class _Rounds:
    """A loop counter from zero; `advance` at the end of a round, then branch to `header` for the next."""

    def __init__(self, f: Function, latch: str) -> None:
        self.f, self.latch = f, latch
        before, self.header = f.current, f.label("round")
        f.branch(self.header)
        f.block(self.header)
        self.phi, self.value = Value(f.fresh(), "i64"), Value("", "i64")
        self.place = len(f.lines)
        self.start = before
        f.lines.append("")

    def advance(self) -> None:
        self.value = self.f.add(self.phi, i64(1))
        self.f.lines[self.place] = (f"  {self.phi.name} = phi i64 [ 0, %{self.start} ], "
                                    f"[ {self.value.name}, %{self.latch} ]")


def _spin_while(f: Function, target: Target, barrier: Value, waiting: Callable[[], Value]) -> None:
    """Wait until waiting() (i1) is false: first spin, then give up time slices."""
    again, more, rest, done = f.label("again"), f.label("more"), f.label("rest"), f.label("waited")
    join = f.label("join")
    limit, service = _load(f, barrier, SPINS, "i64"), _load(f, barrier, YIELD, "ptr")
    spins = _Rounds(f, join)
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


def _at(f: Function, base: Value, offset: int) -> Value:
    return f.offset(base, i64(offset), "i8")


def _load(f: Function, base: Value, offset: int, type_: str, order: str = "") -> Value:
    place = _at(f, base, offset)
    align = 4 if type_ == "i32" else 8
    if not order:
        return f.load(place, type_, align=align)
    return f.emit(f"load atomic {type_}, {place} {order}, align {align}", type_)


def _store(f: Function, base: Value, offset: int, value: Value, order: str = "") -> None:
    place = _at(f, base, offset)
    align = 4 if value.type == "i32" else 8
    f.do(f"store {'atomic ' if order else ''}{value}, {place}{' ' + order if order else ''}, align {align}")


def _update(f: Function, operation: str, base: Value, offset: int, value: Value, order: str) -> Value:
    """An atomic read-modify-write; the value before it."""
    return f.emit(f"atomicrmw {operation} {_at(f, base, offset)}, {value} {order}", value.type)


def _exchange(f: Function, base: Value, before: int, after: int, offset: int = STATE) -> Value:
    """Replace the i32 at base + offset by `after` if it is `before`, atomically; whether it was (i1)."""
    place = _at(f, base, offset)
    pair = f.emit(f"cmpxchg {place}, i32 {before}, i32 {after} seq_cst seq_cst", "{ i32, i1 }")
    return f.emit(f"extractvalue {pair.type} {pair.name}, 1", "i1")


def _is(f: Function, value: Value, number: int) -> Value:
    return f.compare("icmp eq", value, constant(number, value.type))
