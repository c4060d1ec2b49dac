"""The process-wide pool of worker threads that run one native function together (SPMD).

Knows Python threads, cores and the operating system's few services.  Must not know what is computed.

A worker is a Python daemon thread that spends its life inside one native call with the interpreter's lock released:
it spins for a moment after each job, then sleeps on a semaphore.  It never needs that lock again, so a launch is one
native call that never waits for Python, whatever other Python threads do.  Semaphores and the rest are reached
through addresses (`_services`); where a system offers none, the pool has one thread, and results are the same.

A job is ``i32 f(ptr argument, i64 thread, i64 threads, ptr barrier)``; every thread runs it, thread 0 is the caller.
All threads must meet at the same barriers.  Statuses combine to the largest, as unsigned numbers.  `threads` is what
the launch got, which may be less than was asked: the partition must be computed from it, and the result must not
depend on it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from graphc.runtime.native import calls, kept, memory
from graphc.runtime.native import workers as layout
from graphc.runtime.native.clock import system_clock
from graphc.runtime.native.once import once
from graphc.runtime.native.parallel import beside, deep_stacks
from graphc.runtime.native.workers import emit_barrier, emit_cancelled

from graphc.records import NamedTuple

if TYPE_CHECKING:
    from .choice import Choice
    from .image import Addresses
    from .jit import Code

__all__ = ["Pool", "available_parallelism", "emit_barrier", "emit_cancelled", "shared"]

IDLE_SECONDS = 100e-6  # how long a worker spins after a job before it sleeps
BARRIER_SECONDS = 20e-6  # how long a thread spins at a barrier before it gives up its time slice
CROWDED_SECONDS = 1e-6  # the same where there are more threads than cores
CLOSE_SECONDS = 1.0  # how long `close` waits for a running job

_CALL = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
_CALL_WORDS = ctypes.c_uint64 * 7
_SPIN = ctypes.CFUNCTYPE(None, ctypes.c_int64)


class Services(NamedTuple):
    """Addresses of the system's functions; 0 where there is none."""

    give_up: int  # int f(void): give up the time slice
    wait: int  # int f(handle, forever)
    post: int  # int f(handle, 1, null)
    core: int  # int f(void): the core that runs this thread
    create: Callable[[int], int]  # a new semaphore, in the given memory if it needs some; its handle, 0 for none


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@once
def _services() -> Services:
    """POSIX semaphores, dispatch semaphores on macOS (it has no unnamed POSIX ones), kernel objects on Windows.

    All three are called alike, (handle, -1) and (handle, 1, null): in the calling conventions of x86-64 and AArch64 a
    function does not mind arguments that it does not know.
    """
    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32")
        kernel.CreateSemaphoreW.restype = ctypes.c_void_p
        kernel.CreateSemaphoreW.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
        return Services(_address(kernel.SwitchToThread), _address(kernel.WaitForSingleObject),
                        _address(kernel.ReleaseSemaphore), 0,
                        lambda _: kernel.CreateSemaphoreW(None, 0, 1 << 20, None) or 0)
    library = ctypes.CDLL(None)
    give_up = _address(library.sched_yield)
    if sys.platform == "darwin":
        library.dispatch_semaphore_create.restype = ctypes.c_void_p
        library.dispatch_semaphore_create.argtypes = [ctypes.c_long]
        return Services(give_up, _address(library.dispatch_semaphore_wait),
                        _address(library.dispatch_semaphore_signal), 0,
                        lambda _: library.dispatch_semaphore_create(0) or 0)
    core = _address(library.sched_getcpu) if hasattr(library, "sched_getcpu") else 0
    if not all(hasattr(library, name) for name in ("sem_init", "sem_wait", "sem_post")):
        return Services(give_up, 0, 0, core, lambda _: 0)
    library.sem_init.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint]
    return Services(give_up, _address(library.sem_wait), _address(library.sem_post), core,
                    lambda place: place if library.sem_init(place, 0, 0) == 0 else 0)


def available_parallelism() -> int:
    """The cores that this process may use: its affinity, and on Linux its control group's quota."""
    cores = len(_ordered_cores()) or os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # cgroup v2: "quota period" in microseconds, or "max period"
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def _ordered_cores() -> list[int]:
    """The cores of this process's affinity, one of each physical core first; empty where the system has no such."""
    if sys.platform != "linux":
        return []
    first: list[int] = []
    siblings: list[int] = []
    seen: set[str] = set()
    for core in sorted(os.sched_getaffinity(0)):
        try:
            with open(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list") as file:
                group = file.read()
        except OSError:
            group = str(core)
        (siblings if group in seen else first).append(core)
        seen.add(group)
    return first + siblings


def _compiled() -> Code:
    from . import cache, jit
    from .emit import Module
    from .launching import emit_pool
    from .target import host

    module, target = Module(), host()
    emit_pool(module, target)
    return jit.compile_module(module.text(), target=target, level=0, name="workers", cache=cache.default())


@once
def _runtime() -> Addresses:
    return kept.code("workers", _compiled)


def prepare(count: int = 1) -> Callable[[], None]:
    """Makes the pool's own code, and that of bound calls, beside what the caller does next; a function that waits for it.

    count: for how many threads workers are started as well.
    It is to be called soon: a process that forks meanwhile would leave its child a lock that nobody releases.
    """
    def make() -> None:
        from .llvm_library import open_library  # loads with the first step that is compiled

        open_library()
        _runtime()
        calls.prepare()
        shared().start(count)

    return beside(make)


@once
def _launch() -> Callable[[int], int]:
    return _CALL(_runtime().address("launch"))


@once
def _pauses_per_second() -> float:
    """How often the native spin loop pauses in a second; a pause takes 10 to 140 cycles, by processor."""
    spin = _SPIN(_runtime().address("spin"))
    best, count = 0.0, 200
    for _ in range(5):
        start = time.perf_counter()
        spin(count)
        best = max(best, count / max(time.perf_counter() - start, 1e-9))
    return best


class Pool:
    """Up to `count` threads, the caller among them.  Workers start with the first job that needs them.

    On Linux each worker is pinned to a core of its own (unpinned spinners were seen sharing one core for whole time
    slices), the caller never: there is one worker for every core, and a launch passes over the one on whose core the
    caller runs.  GRAPHC_PIN=0 leaves the workers to the scheduler, for many processes on few cores.

    A second Python thread that launches while a job runs does its own alone.  A forked child starts without workers
    and gets its own at its next `run` or `bind`.
    """

    def __init__(self, count: int, *, idle_seconds: float = IDLE_SECONDS) -> None:
        if count < 1:
            raise ValueError(f"a pool needs at least one thread, not {count}")
        self.count = count
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._asked = 1  # threads that workers were started for, whether or not all of them could be
        # Lines of the control block, then 64 bytes for each worker's semaphore.
        semaphores = layout.FIRST_WORKER + count * layout.WORKER_BYTES
        self._block = memory.allocate(semaphores + 64 * count, huge=False)
        self._semaphores = self._block.address + semaphores
        _pools.add(self)

    # -- running -----------------------------------------------------------------------------------------------

    def run(self, function_address: int, argument: int, threads: int, *, patient: bool = True, choice: Choice | None = None,
            steps: int = 1) -> int:
        """Run a job on up to `threads` threads and return when all are done; the largest status.

        patient  wait for workers to wake up, some 10 to 50 us; otherwise a job that finds one asleep runs on the caller
                 alone, and the first of some such jobs in a row wakes it for the next
        choice   where the caller alone may be quicker: what is known of that so far
        steps    how many a job with a choice has
        """
        self.start(threads)
        call = self._call(function_address, argument, threads, patient, choice, steps)
        return int(_launch()(ctypes.addressof(call)))

    def bind(self, function_address: int, argument: int, threads: int, *, patient: bool = True, choice: Choice | None = None,
             keep: Any = None) -> Callable[[], int]:
        """A function of no arguments that does what `run` would, at the least cost; keeps `keep` alive."""
        self.start(threads)
        call = self._call(function_address, argument, threads, patient, choice)
        return calls.bind_call(_runtime().address("launch"), ctypes.addressof(call), keep=(self, call, choice, keep))

    def ready(self, threads: int | None = None) -> bool:
        """Whether a launch now would find its workers awake."""
        wanted = min(threads or self.count, self.count)
        awake = sum(1 for i in range(len(self._threads)) if self._worker(i, layout.STATE, np.int32) != layout.PARKED)
        return wanted <= 1 or awake >= wanted - 1

    @property
    def barrier_address(self) -> int:
        """The address of the barrier that jobs get."""
        return self._block.address + layout.BARRIER

    def cancel(self, on: bool = True) -> None:
        """Set or clear the flag that native run loops poll between steps (`workers.emit_cancelled`)."""
        self._word(layout.BARRIER + layout.CANCEL, np.int32)[0] = int(on)

    # -- threads -----------------------------------------------------------------------------------------------

    def start(self, threads: int | None = None) -> None:
        """Make sure that workers for this many threads exist; `run` and `bind` do it on their own."""
        wanted = min(self.count, threads or self.count)
        if wanted <= 1 or self._closed or self._asked >= wanted:
            return
        with self._lock:
            services = _services()
            if self._closed or not services.wait or self._asked >= wanted:
                return
            rate = _pauses_per_second()
            cores = _ordered_cores() if os.environ.get("GRAPHC_PIN", "1") != "0" else []
            crowded = wanted > available_parallelism()
            self._word(layout.POST, np.uint64)[0] = services.post
            self._word(layout.CORE, np.uint64)[0] = services.core
            for k, word in enumerate(system_clock()):
                self._word(layout.CLOCK + 8 * k, np.uint64)[0] = word
            self._word(layout.BARRIER + layout.YIELD, np.uint64)[0] = services.give_up
            spins = int(rate * (CROWDED_SECONDS if crowded else BARRIER_SECONDS))
            self._word(layout.BARRIER + layout.SPINS, np.int64)[0] = spins
            # With pinned workers one more than needed, so that the caller's own core can be passed over.
            needed = wanted if cores and not crowded else wanted - 1
            with deep_stacks():
                for index in range(len(self._threads), needed):
                    if not self._start_worker(index, services, rate, cores[index] if index < len(cores) else -1):
                        break
            self._word(layout.WORKERS, np.int64)[0] = len(self._threads)
            self._word(layout.LIMIT, np.int64)[0] = min(wanted, len(self._threads) + 1)
            self._asked = wanted  # last: whoever sees it may launch

    def _start_worker(self, index: int, services: Services, rate: float, core: int) -> bool:
        handle = services.create(self._semaphores + 64 * index)
        if not handle:
            return False
        for offset, dtype, value in ((layout.STATE, np.int32, layout.IDLE), (layout.HANDLE, np.uint64, handle),
                                     (layout.PINNED, np.int32, core), (layout.WAIT, np.uint64, services.wait),
                                     (layout.PARK, np.int64, int(rate * self._idle_seconds))):
            self._word(self._worker_offset(index) + offset, dtype)[0] = value
        # The thread keeps the memory and the code alive, not the pool: an unused pool can go.
        body = _WORKER(_runtime().address("worker"))
        thread = threading.Thread(target=_work, args=(body, self._block, index, core), daemon=True,
                                  name=f"graphc-worker-{index}")
        try:
            thread.start()
        except RuntimeError:  # no more threads to have
            return False
        self._threads.append(thread)
        return True

    def close(self) -> None:
        """End the workers.  Later launches run on the caller alone."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        if threads:
            _shut_down(self._block, threads)

    def __del__(self) -> None:
        if getattr(self, "_threads", None):
            _shut_down(self._block, [])

    def _forget(self) -> None:
        """In a forked child: no worker came along, and a job that another thread ran is not ours."""
        self._lock = threading.Lock()
        self._threads, self._asked = [], 1
        self._block.data[:] = 0

    # -- memory ------------------------------------------------------------------------------------------------

    def _call(self, function: int, argument: int, threads: int, patient: bool, choice: Choice | None,
              steps: int = 1) -> ctypes.Array[ctypes.c_uint64]:
        known = choice.address if choice is not None and self.count > 1 else 0
        return _CALL_WORDS(self._block.address, function, argument, max(1, threads), int(patient), known, steps)

    def _word(self, offset: int, dtype: Any) -> Any:
        return self._block.array((1,), dtype, offset)

    def _worker_offset(self, index: int) -> int:
        return layout.FIRST_WORKER + index * layout.WORKER_BYTES

    def _worker(self, index: int, offset: int, dtype: Any) -> int:
        return int(self._word(self._worker_offset(index) + offset, dtype)[0])


def _work(body: Callable[[int, int], None], block: memory.Block, index: int, core: int) -> None:
    if core >= 0 and sys.platform == "linux":
        try:
            os.sched_setaffinity(threading.get_native_id(), {core})
        except OSError:  # the core went away; this worker is as good unpinned
            block.array((1,), np.int32, layout.FIRST_WORKER + index * layout.WORKER_BYTES + layout.PINNED)[0] = -1
    body(block.address, index)


def _shut_down(block: memory.Block, threads: list[threading.Thread]) -> None:
    shut_down = _CALL(_runtime().address("shut_down"))
    end = time.monotonic() + CLOSE_SECONDS
    while shut_down(block.address) and time.monotonic() < end:
        time.sleep(0.001)
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared() -> Pool:
    """The pool of this process, for as many threads as it has cores."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool(available_parallelism())
        return _shared


def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


def _forget_all() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in list(_pools):
        pool._forget()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
