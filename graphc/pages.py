"""Pages of the system: zeroed memory that begins at a large page.

Knows the operating system's pages.  Must not know what lies in them.
"""

from __future__ import annotations

import contextlib
import mmap
import sys

import numpy as np

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
