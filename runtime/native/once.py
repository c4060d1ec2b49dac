"""Values that a process makes once, whichever of its threads asks first.

`functools.lru_cache` runs its function twice when two threads ask at once, and drops one of the results.  Where a result is
code or memory that others have taken the address of meanwhile, it must not go.  Must not know what is made.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def once(make: Callable[[], T]) -> Callable[[], T]:
    """`make`, run by the first call alone; all calls give its result.  Where it raises, the next call tries again."""
    lock = threading.RLock()
    made: list[T] = []

    @functools.wraps(make)
    def get() -> T:
        if not made:
            with lock:
                if not made:
                    made.append(make())
        return made[0]

    return get
