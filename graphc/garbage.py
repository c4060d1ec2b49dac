"""Python's collector of cyclic garbage, told to wait.

Knows that collector alone.  Must not know what is being made meanwhile.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_waiting = 0  # how many ask for it now
_was_enabled = False


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
            if not _waiting and _was_enabled:
                if hasattr(gc, "freeze") and not gc.get_freeze_count():  # else what others have frozen would thaw
                    gc.freeze()
                    gc.unfreeze()  # into the oldest generation
                gc.enable()
