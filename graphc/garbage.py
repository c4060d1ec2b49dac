"""What a compile leaves behind: Python's collector of cyclic garbage is told to wait, and what was remembered is forgotten.

Knows that collector and such memories alone.  Must not know what is being made meanwhile.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])

REMEMBERED = 512  # answers of each function

_forget: list[Callable[[], None]] = []
_lock = threading.Lock()
_waiting = 0  # how many ask for it now
_was_enabled = False


def remembered(function: F) -> F:
    """The function, asked once for the same arguments, until a compile ends.

    For what is asked of nodes and kernels: remembered for longer, they would keep the memory of their parameters.
    """
    found = lru_cache(maxsize=REMEMBERED)(function)
    _forget.append(found.cache_clear)
    return cast(F, found)


@contextmanager
def kept_waiting() -> Iterator[None]:
    """No collection begins inside, on any thread.

    A compiler makes objects by the ten thousand that stay for a while and refer to each other in one direction.  The
    collector takes that for a reason to walk through everything that the process has, again and again: a tenth of the
    time.  What has no cycles is freed as always.  What was made inside counts as old afterwards, as it stays, too: as
    young objects the collector would walk through all of them at once.
    """
    global _waiting, _was_enabled
    with _lock:
        _waiting += 1
        if _waiting == 1:
            _was_enabled = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with _lock:
            _waiting -= 1
            if not _waiting:
                for forget in _forget:
                    forget()
            if not _waiting and _was_enabled:
                if hasattr(gc, "freeze") and not gc.get_freeze_count():  # else what others have frozen would thaw
                    gc.freeze()
                    gc.unfreeze()  # into the oldest generation
                gc.enable()
