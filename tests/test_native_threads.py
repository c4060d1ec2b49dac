"""The worker pool: jobs, barriers, sleeping and waking, cancelling, forks, the end of the process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from graphc.runtime.native import codegen, jit, launching, memory, threads
from graphc.runtime.native.choice import ALONE, PAUSE, STEPS, TOGETHER, WAY, Choice
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.running import PATIENCE
from graphc.runtime.native.target import describe, host
from graphc.runtime.native.values import Value, constant, i64

import graphc
from graphc.specialized import Options, getting_ready

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = [("argument", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")]
LINE = 8  # int64 numbers in a cache line


def jobs() -> jit.Code:
    """status: 10 + thread.  mark: argument[8 t] += 1, argument[8 t + 1] = threads.  meet: see `emit_meet`.
    until_cancelled: argument[8 t] counts rounds until cancelled."""
    module = Module()
    barrier = threads.emit_barrier(module, host())

    def job(name: str) -> tuple[Function, list[Value], Value]:
        f = module.function(name, PARAMETERS, returns="i32", internal=False)
        line = f.offset(f.parameters[0], f.mul(f.parameters[1], i64(LINE)), "i64")
        return f, f.parameters, line

    f, (_, thread, _, _), _ = job("status")
    f.ret(f.convert("trunc", f.add(thread, i64(10)), "i32"))

    f, (_, _, count, _), line = job("mark")
    f.store(f.add(f.load(line, "i64"), i64(1)), line)
    f.store(count, f.offset(line, i64(1), "i64"))
    f.ret(constant(0, "i32"))

    emit_meet(job("meet"), barrier)

    f, (_, _, count, meeting), line = job("until_cancelled")
    again, done = f.label("again"), f.label("done")
    f.branch(again)
    f.block(again)
    f.call(barrier, [meeting, count])
    f.store(f.add(f.load(line, "i64"), i64(1)), line)
    f.branch_if(threads.emit_cancelled(f, meeting, count), done, again)
    f.block(done)
    f.ret(constant(0, "i32"))
    return jit.compile_module(module.text(), target=host(), name="jobs")


def emit_meet(job: tuple[Function, list[Value], Value], barrier: str) -> None:
    """argument[256] rounds: each thread writes the round into its line, meets the others, adds up everybody's lines
    into its own second word, and meets them again.  A barrier that lets one thread through early gives another sum."""
    f, (argument, _, count, meeting), line = job
    rounds = f.load(f.offset(argument, i64(256), "i64"), "i64")
    with f.loop(i64(0), rounds) as index:
        f.store(index, line)
        f.call(barrier, [meeting, count])
        with f.loop(i64(0), count) as other:
            theirs = f.load(f.offset(argument, f.mul(other, i64(LINE)), "i64"), "i64")
            total = f.offset(line, i64(1), "i64")
            f.store(f.add(f.load(total, "i64"), theirs), total)
        f.call(barrier, [meeting, count])
    f.ret(constant(0, "i32"))


@pytest.fixture(scope="module")
def code() -> jit.Code:
    return jobs()


@pytest.fixture
def area() -> memory.Block:
    return memory.allocate(8 * 512)


@pytest.fixture(params=[1, 2, 3, 4])
def pool(request):
    pool = threads.Pool(request.param)
    yield pool
    pool.close()


def numbers(area: memory.Block) -> np.ndarray:
    return area.array((512,), np.int64)


def test_every_thread_runs_once(pool, code, area):
    cells = numbers(area)
    for _ in range(300):
        assert pool.run(code.address("mark"), area.address, pool.count) == 0
    assert cells[: pool.count * LINE : LINE].tolist() == [300] * pool.count
    assert cells[1 : pool.count * LINE : LINE].tolist() == [pool.count] * pool.count
    assert not cells[pool.count * LINE :].any()


def test_status_is_the_largest(pool, code, area):
    for count in range(1, pool.count + 1):
        assert pool.run(code.address("status"), area.address, count) == 9 + count
    assert pool.run(code.address("status"), area.address, 99) == 9 + pool.count
    assert pool.run(code.address("status"), area.address, 0) == 10


def test_barriers_hold_everybody(pool, code, area):
    cells, rounds = numbers(area), 1000
    cells[256] = rounds
    call = pool.bind(code.address("meet"), area.address, pool.count, keep=code)
    expected = pool.count * rounds * (rounds - 1) // 2
    seconds = []
    for _ in range(5):  # the least counts: while others use the cores, waiting is paid in processor time
        cells[1 : pool.count * LINE : LINE] = 0
        start = time.process_time()  # not the wall's: other processes may take the slices that are given up
        assert call() == 0
        seconds.append(time.process_time() - start)
        assert cells[1 : pool.count * LINE : LINE].tolist() == [expected] * pool.count
    # Per thread, since the process's time is that of all its threads; a time slice is 3 ms and more.
    assert min(seconds) / pool.count < 2000 * 0.5e-3


@pytest.mark.skipif(sys.platform != "linux", reason="affinity")
def test_barriers_on_one_core_give_up_their_slices(code, area):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    pool = threads.Pool(2)
    try:
        numbers(area)[256] = 500
        start = time.process_time()
        pool.run(code.address("meet"), area.address, 2)
        assert time.process_time() - start < 1000 * 0.5e-3
        assert numbers(area)[1] == 500 * 499
    finally:
        pool.close()
        os.sched_setaffinity(0, before)


def test_idle_workers_sleep_and_wake(code, area):
    pool = threads.Pool(2, idle_seconds=50e-6)
    assert not pool.ready() and pool.ready(1)
    for _ in range(20):
        assert pool.run(code.address("status"), area.address, 2) == 11
        wait_until_asleep(pool)
    spent = time.process_time()
    time.sleep(0.05)
    assert time.process_time() - spent < 0.02  # nobody spins
    pool.close()


def wait_until_asleep(pool: threads.Pool) -> None:
    end = time.monotonic() + 5
    while pool.ready() and time.monotonic() < end:
        time.sleep(0.001)
    assert not pool.ready()


def test_impatient_job_does_not_wait_for_sleepers(code, area):
    pool = threads.Pool(2, idle_seconds=2.0)
    pool.start()
    worker = pool.bind(code.address("status"), area.address, 2, patient=False)
    assert worker() in (10, 11)  # the worker may not be there yet
    end = time.monotonic() + 5
    while worker() != 11 and time.monotonic() < end:
        time.sleep(0.001)
    assert worker() == 11
    pool.close()

    short = threads.Pool(2, idle_seconds=1e-6)
    short.start()
    wait_until_asleep(short)
    assert short.run(code.address("status"), area.address, 2, patient=False) == 10
    wait_until_asleep(short)
    assert short.run(code.address("status"), area.address, 2) == 11
    short.close()


def test_of_impatient_jobs_in_a_row_few_wake_a_sleeper(code, area):
    """Calls that come seldom would pay for waking somebody who sleeps again before the next."""
    pool = threads.Pool(2, idle_seconds=0.02)
    pool.start()
    woken = []
    for _ in range(2 * launching.NUDGE):
        wait_until_asleep(pool)
        assert pool.run(code.address("status"), area.address, 2, patient=False) == 10
        woken.append(pool.ready())
    assert woken == [k % launching.NUDGE == 0 for k in range(2 * launching.NUDGE)]
    pool.close()


@pytest.mark.parametrize("bound", [False, True])
def test_a_job_goes_the_way_that_is_chosen(code, area, bound):
    pool = threads.Pool(2)
    for way, status in ((TOGETHER, 11), (ALONE, 10), (TOGETHER, 11)):
        known = Choice(16e3)
        known.words[[WAY, PAUSE]] = way, 1 << 60
        call = pool.bind(code.address("status"), area.address, 2, choice=known) if bound else \
            lambda known=known: pool.run(code.address("status"), area.address, 2, choice=known)
        assert [call() for _ in range(3)] == [status] * 3
        assert known.words[STEPS + way] == 3 and known.words[STEPS + 1 - way] == 0
    pool.close()


def test_a_short_step_does_not_wait_for_sleepers() -> None:
    """Of one step the caller alone is quicker than who sleeps wakes; many steps in one call are worth waiting for."""
    x, w = graphc.placeholder("x", (256, 4)), graphc.parameter("w", np.ones((4, 32)) * 0.1)
    step = graphc.train_step(((x @ w).tanh() ** 2).mean(), graphc.optim.Adam([w]), threads=2)
    running = step.specialize().executable
    if threads.available_parallelism() > 1:
        assert running.threads == 2
    assert 0 < running.needs.nanoseconds < PATIENCE and not running.patient(1) and running.patient(100)
    long = graphc.function([x], (x @ graphc.parameter("v", np.ones((4, 4096)))).exp().sum(), threads=2)
    assert long.specialize().executable.patient(1)


@pytest.mark.parametrize("rows", [32, 256])
def test_bound_calls_of_one_program_come_one_after_the_other(rows: int) -> None:
    """From as many threads of Python as there are: they share the memory between inputs and results."""
    random = np.random.default_rng(0)
    model = graphc.nn.Sequential(graphc.nn.Linear(64, 128), graphc.nn.ReLU(), graphc.nn.Linear(128, 10))
    x, y = graphc.placeholder("x", ("batch", 64)), graphc.placeholder("y", ("batch",), "int64")
    optimizer = graphc.optim.Adam(model.parameters())
    step = graphc.train_step(graphc.nn.functional.cross_entropy(model(x), y), optimizer, threads=2)
    values = random.standard_normal((rows, 64)).astype(np.float32), random.integers(0, 10, rows)
    bound, calls = [step.bind(*values) for _ in range(3)], 2000

    def work(call):
        for _ in range(calls):
            call()

    callers = [threading.Thread(target=work, args=(call,)) for call in bound]
    for caller in callers:
        caller.start()
    for _ in range(20):
        step.run(10, *values)
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert optimizer.counter.item() == 3 * calls + 200 and np.isfinite(float(bound[0]()))


def test_two_callers_at_once(code):
    pool, wrong = threads.Pool(2), []

    def work() -> None:
        mine = memory.allocate(8 * 512)
        numbers(mine)[256] = 20
        for _ in range(200):
            numbers(mine)[:256] = 0
            pool.run(code.address("meet"), mine.address, 2)
            counts = numbers(mine)[1 : 2 * LINE : LINE].tolist()
            if counts not in ([380, 380], [190, 0]):  # together, or alone
                wrong.append(counts)

    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert not wrong and not any(caller.is_alive() for caller in callers)
    pool.close()


@pytest.mark.parametrize("count", [1, 2])
def test_cancelled_run_ends_in_the_same_round_everywhere(count, code, area):
    pool = threads.Pool(2)
    call = pool.bind(code.address("until_cancelled"), area.address, count)
    runner = threading.Thread(target=call)
    runner.start()
    time.sleep(0.02)
    assert runner.is_alive()
    pool.cancel()
    runner.join(5)
    assert not runner.is_alive()
    pool.cancel(False)
    cells = numbers(area)
    assert cells[0] > 1 and cells[LINE] == (cells[0] if count == 2 else 0)
    pool.close()


def test_closed_pool_runs_on_the_caller(code, area):
    pool = threads.Pool(2)
    call = pool.bind(code.address("status"), area.address, 2)
    assert call() == 11
    pool.close()
    pool.close()
    assert call() == 10 and pool.run(code.address("status"), area.address, 2) == 10


def test_workers_end_with_their_pool(code, area):
    before = threading.active_count()
    pool = threads.Pool(3)
    pool.run(code.address("status"), area.address, 3)
    assert threading.active_count() > before
    del pool
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.001)
    assert threading.active_count() == before


def test_without_semaphores_the_caller_works_alone(code, area, monkeypatch):
    monkeypatch.setattr(threads, "_services", lambda: threads.Services(0, 0, 0, 0, lambda _: 0))
    assert threads.Pool(2).run(code.address("status"), area.address, 2) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_forked_child_gets_its_own_workers():
    result = run_program("""
        pool = threads.Pool(2)
        call = pool.bind(code.address("status"), area.address, 2)
        assert call() == 11
        child = os.fork()
        if child == 0:
            alone = call()
            again = pool.run(code.address("status"), area.address, 2)
            os._exit(0 if (alone, again, call()) == (10, 11, 11) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert call() == 11
        print("both")
    """)
    assert result == "both"


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)", "time.sleep(0.01)", "os._exit(0)"])
def test_process_ends_while_workers_wait(end):
    start = time.monotonic()
    assert run_program(f"""
        pool = threads.Pool(3, idle_seconds=60.0)
        pool.run(code.address("status"), area.address, 3)
        print("ran", flush=True)
        {end}
    """) == "ran"
    assert time.monotonic() - start < 20


def run_program(body: str) -> str:
    head = "import os, sys, time\nsys.path.insert(0, 'tests')\nfrom test_native_threads import *\n"
    program = head + "code, area = jobs(), memory.allocate(4096)\n" + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_shared_pool_fits_the_machine():
    assert threads.shared() is threads.shared()
    assert 1 <= threads.shared().count <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity")
def test_workers_are_pinned_to_different_cores_and_the_caller_is_not(code, area, monkeypatch):
    monkeypatch.delenv("GRAPHC_PIN", raising=False)
    before = os.sched_getaffinity(0)
    count = min(2, threads.available_parallelism())
    pool = threads.Pool(count)
    pool.run(code.address("status"), area.address, count)
    identifiers = [t.native_id for t in pool._threads if t.native_id]
    cores = [tuple(os.sched_getaffinity(identifier)) for identifier in identifiers]
    assert all(len(core) == 1 for core in cores) and len(set(cores)) == len(cores)
    assert os.sched_getaffinity(0) == before
    pool.close()


@pytest.mark.parametrize("triple", ["x86_64-pc-windows-msvc", "aarch64-apple-macosx", "riscv64-unknown-linux-gnu"])
def test_pool_assembles_for_other_machines(triple):
    target, module = describe(triple, "", "+a" if triple.startswith("riscv") else ""), Module()
    launching.emit_pool(module, target)
    module_text = codegen.assembly_for(module.text(), target)
    assert all(name in module_text for name in ("launch", "worker", "shut_down"))


def test_a_pool_needs_a_thread():
    with pytest.raises(ValueError, match="at least one"):
        threads.Pool(0)


def test_launch_is_cheap_while_workers_spin(code, area):
    pool = threads.Pool(2, idle_seconds=0.05)
    call = pool.bind(code.address("status"), area.address, 2)
    best = 1.0
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(100):
            call()
        best = min(best, (time.perf_counter() - start) / 100)
    pool.close()
    assert ctypes.sizeof(ctypes.c_void_p) == 8 and best < 50e-6


FIRST_CALLS = """
import threading
import numpy as np
import graphc

x = graphc.placeholder("x", (200, 64))
programs = [graphc.function([x], x @ x.transpose(0, 1) + k) for k in range(6)]
values = np.ones((200, 64), np.float32)
for program in programs:
    program.specialize()
ready, wrong = threading.Barrier(len(programs)), []

def work(program, k):
    ready.wait()
    call = program.bind(values)
    wrong.extend(k for _ in range(50) if not (call() == 64 + k).all())

threads = [threading.Thread(target=work, args=pair) for pair in zip(programs, range(6))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
"""


def test_first_bound_calls_of_several_threads_at_once() -> None:
    """What is made once for the process is made once: code of the loser of a race would be freed while others call it."""
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr or done.returncode


@pytest.mark.parametrize("rows, early", [(8, False), (4096, True)])
def test_the_pools_code_begins_early_where_a_step_is_large(rows: int, early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(threads, "prepare", lambda count=1: begun.append(1) or (lambda: None))
    monkeypatch.setattr(threads, "available_parallelism", lambda: 2)
    x, w = graphc.placeholder("x", ("batch", rows)), graphc.parameter("w", np.broadcast_to(0.0, (rows, 64)))
    graph = graphc.train_step((x @ w).sum(), graphc.optim.SGD([w], lr=0.1)).graph
    for backend, most in (("native", 2), ("native", 1), ("numpy", 2)):
        with getting_ready(graph, Options(backend, most, None, "highest")):
            pass
    assert len(begun) == early
