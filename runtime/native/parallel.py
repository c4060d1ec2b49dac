"""Work of the compiler that needs no interpreter, done by several Python threads at once.

Knows threads alone.  Must not know what the jobs do; theirs are the results, whoever computed them.
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

STACK_BYTES = 8 << 20  # code generation recurses, and kernels have scratch of their own; macOS would give 512 KiB
TURN_SECONDS = 2e-4  # how long a thread of Python keeps the interpreter's lock from others, while jobs run beside it


class Jobs(Generic[T]):
    """Jobs that are given out while others still come; up to so many threads, the caller among them, do them.

    The longest that waits goes first.  Results are in the order in which the jobs came, whoever computed them.
    """

    def __init__(self, threads: int) -> None:
        self._most = threads - 1
        self._helpers: list[threading.Thread] = []
        self._waiting: list[tuple[float, int, Callable[[], T]]] = []  # a heap
        self._count, self._closed = 0, False
        self._results: dict[int, T] = {}
        self._errors: dict[int, BaseException] = {}
        self._changed = threading.Condition()
        self._turns = contextlib.ExitStack()

    def __enter__(self) -> Jobs[T]:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody begins another job; returns when none runs any more."""
        with self._changed:
            self._waiting.clear()
        self._end()

    def add(self, job: Callable[[], T], size: float = 0, *, begin: bool = True) -> None:
        """A job, to be done at once if a thread is free; where it need not `begin` yet, no thread starts for it."""
        with self._changed:
            heapq.heappush(self._waiting, (-size, self._count, job))
            self._count += 1
            self._changed.notify()
            waiting = len(self._waiting)
        if begin and len(self._helpers) < min(self._most, self._count) and waiting:
            self._help(1)

    def results(self) -> list[T]:
        """The results of all jobs, in their order, when the caller has helped with what was left.

        Raises what the first job in order that failed has raised.
        """
        self._help(min(self._most - len(self._helpers), len(self._waiting) - 1))
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._work()
        self._end()
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._results[place] for place in range(self._count)]

    def _help(self, count: int) -> None:
        if count > 0 and not self._helpers:
            self._turns.enter_context(_short_turns())
        self._helpers += _started(self._work, count)

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for helper in self._helpers:
            helper.join()
        self._turns.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._closed or self._errors):
                    self._changed.wait()
                if self._errors or not self._waiting:
                    return
                _, place, job = heapq.heappop(self._waiting)
            try:
                self._results[place] = job()
            except BaseException as error:  # an interrupt, too, must wait until the others have ended
                with self._changed:
                    self._errors[place] = error
                    self._changed.notify_all()
            del job


def at_once(jobs: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """The results of all jobs, in their order; up to so many threads, the caller among them, take them from the front.

    Raises what the first job in order that failed has raised, when no job runs any more.
    """
    with Jobs[T](threads) as all_of_them:
        for job in jobs:
            all_of_them.add(job, begin=False)
        return all_of_them.results()


_turns = 0  # how many ask for short turns now
_turns_before = 0.0
_turns_lock = threading.Lock()


@contextmanager
def _short_turns() -> Iterator[None]:
    """Who runs Python gives way soon to threads whose jobs are native but for a few calls between.

    The interpreter lets a thread that wants its lock wait for 5 ms otherwise, at each of those calls.
    """
    global _turns, _turns_before
    with _turns_lock:
        _turns += 1
        if _turns == 1:
            _turns_before = sys.getswitchinterval()
            sys.setswitchinterval(min(TURN_SECONDS, _turns_before))
    try:
        yield
    finally:
        with _turns_lock:
            _turns -= 1
            if not _turns:
                sys.setswitchinterval(_turns_before)


def beside(job: Callable[[], object]) -> Callable[[], None]:
    """The job on a thread of its own, at once; a function that waits for its end.

    For what is made once (`once`): whoever needs it does the job again where it failed, and meets the error.
    """

    def work() -> None:
        with contextlib.suppress(Exception):
            job()

    helpers = _started(work, 1)

    def wait() -> None:
        for helper in helpers:
            helper.join()

    return wait


def _started(work: Callable[[], None], count: int) -> list[threading.Thread]:
    """Up to `count` threads that work; fewer where the system has no more to give."""
    if count < 1:
        return []
    started: list[threading.Thread] = []
    with deep_stacks(), contextlib.suppress(RuntimeError):
        for index in range(count):
            helper = threading.Thread(target=work, name=f"graphc-compiler-{index}")
            helper.start()
            started.append(helper)
    return started


_stacks = threading.Lock()


@contextmanager
def deep_stacks() -> Iterator[None]:
    """Threads that are started meanwhile have stacks of STACK_BYTES, whatever Python gives others."""
    with _stacks:  # the setting is the process's
        previous = threading.stack_size(STACK_BYTES)
        try:
            yield
        finally:
            threading.stack_size(previous)
