"""Pages of the system: zeroed memory that begins at a large page.

Knows the operating system's pages.  Must not know what lies in them.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading
from itertools import count

import numpy as np

LINE = 64  # bytes: a cache line, which is the widest vector
PAGE = 4 << 10  # bytes: the sets of first-level caches repeat after so many
APART = 5 * LINE  # between the beginnings of arrays, as processors see them: see `mapped_apart`
HUGE_PAGE = 2 << 20  # bytes; the size on x86-64 and, with 4-KiB pages, on AArch64
MOST_FILLED = 3 << 19  # bytes that the last large page must have to be one


def mapped(size: int) -> np.ndarray:
    """At least `size` bytes (uint8) from the start of a large page on: zeros, in no memory before somebody touches them.

    Asks for large pages (matrix kernels with row-major weights lose a fifth without); where the system has none to give,
    nothing else changes.
    Raises: MemoryError where there is not so much memory.
    """
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE
    try:
        if sys.platform == "win32":
            pages = mmap.mmap(-1, whole + HUGE_PAGE)
        else:  # private: mmap's default would share the memory with forked processes
            pages = mmap.mmap(-1, whole + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"cannot map {size} bytes: {error}") from error
    room = np.frombuffer(pages, np.uint8)
    start = -room.ctypes.data % HUGE_PAGE
    if sys.platform == "linux":
        large = (size + HUGE_PAGE - MOST_FILLED) // HUGE_PAGE * HUGE_PAGE  # a page is resident as a whole
        with contextlib.suppress(OSError):  # a kernel without large pages
            pages.madvise(mmap.MADV_HUGEPAGE, start, large)
    return room[start:]


_arrays = count()


def mapped_apart(size: int) -> np.ndarray:
    """As `mapped`, but each array begins at another cache line of a small page.

    An optimizer reads and writes a weight and its slots at the same place at the same time.  Where all of them begin alike,
    the rows of a tile share a few sets of the caches and drive each other out before they are used, and a load waits for a
    store to the same place of another array: an AdamW of 2048 x 2048 weights beside its gradient took a quarter longer.
    """
    start = next(_arrays) * APART % PAGE
    return mapped(start + size)[start:]


class Slab:
    """Large pages that arrays share: those of 512 KiB to some MiB need so many small ones that processors forget their places.

    Memory is given out once, and goes back to the system when no array holds a slab any more.
    """

    SIZE = 4 * HUGE_PAGE

    def __init__(self) -> None:
        self._room: np.ndarray | None = None
        self._used = 0
        self._taking = threading.Lock()

    def take(self, size: int) -> np.ndarray:
        """`size` bytes of zeros (uint8, at most SIZE) from the start of a cache line on.

        Raises: MemoryError as `mapped`.
        """
        with self._taking:
            if self._room is None or self._used + size > self.SIZE:
                self._room, self._used = mapped_apart(self.SIZE), 0
            start, self._used = self._used, self._used + -(-size // LINE) * LINE + APART
            return self._room[start : start + size]


slab = Slab()
