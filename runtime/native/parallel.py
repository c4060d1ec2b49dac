"""Work of the compiler that needs no interpreter, done by several Python threads at once.

Knows threads alone.  Must not know what the jobs do; theirs are the results, whoever computed them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

STACK_BYTES = 8 << 20  # code generation recurses; macOS would give 512 KiB


def at_once(jobs: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """The results of all jobs, in their order; up to so many threads, the caller among them, take them from the front.

    Raises what the first job in order that failed has raised, when no job runs any more.
    """
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    remaining = iter(range(len(jobs)))
    lock = threading.Lock()

    def work() -> None:
        while not errors:
            with lock:
                place = next(remaining, None)
            if place is None:
                return
            try:
                results[place] = jobs[place]()
            except BaseException as error:  # an interrupt, too, must wait until the others have ended
                errors[place] = error

    helpers = _started(work, min(threads, len(jobs)) - 1)
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[min(errors)]
    return [results[place] for place in range(len(jobs))]


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
    previous = threading.stack_size(STACK_BYTES)
    started: list[threading.Thread] = []
    try:
        for index in range(count):
            helper = threading.Thread(target=work, name=f"graphc-compiler-{index}")
            helper.start()
            started.append(helper)
    except RuntimeError:
        pass
    finally:
        threading.stack_size(previous)
    return started
