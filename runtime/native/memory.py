"""Memory for native code: aligned, in large pages where they help, with addresses.

Knows numpy and the operating system's pages.  Must not know what lies in the memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINE = 64  # bytes; also the widest vector register
MOST_FILLED = 3 << 19  # bytes that the last large page must have to be one
HUGE_PAGE = 2 << 20  # bytes; the size on x86-64 and, with 4-KiB pages, on AArch64

_view: Any = ctypes.c_char.from_buffer


class Block:
    """Zeroed memory that lives as long as this object, or as an array over `data`.

    data: uint8 array over it.  address: of its first byte, a multiple of 64, and of 2 MiB from 2 MiB on.
    """

    __slots__ = ("address", "data", "size")

    def __init__(self, room: NDArray[np.uint8], size: int, alignment: int) -> None:
        base = address_of(room)
        start = -base % alignment
        self.data = room[start : start + size]
        self.size = size
        self.address = base + start

    def array(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> NDArray[Any]:
        """A C-contiguous array over the bytes from `offset` on."""
        return np.ndarray(shape, dtype, self.data, offset)


def allocate(size: int, huge: bool = True) -> Block:
    """`size` bytes of zeros.

    huge: ask for large pages for blocks that fill one (matrix kernels with row-major weights lose a fifth without);
    where the system has none to give, nothing else changes.
    Raises: MemoryError where there is not so much memory.
    """
    if size < 0:
        raise ValueError(f"negative size {size}")
    if huge and size >= HUGE_PAGE:
        return Block(_mapped(size), size, HUGE_PAGE)
    room: NDArray[np.uint8] = np.zeros(size + LINE, np.uint8)
    return Block(room, size, LINE)


def _mapped(size: int) -> NDArray[np.uint8]:
    """Pages of its own, enough to start at a large page; what lies before that is never touched."""
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE
    try:
        if sys.platform == "win32":
            pages = mmap.mmap(-1, whole + HUGE_PAGE)
        else:  # private: mmap's default would share the memory with forked processes
            pages = mmap.mmap(-1, whole + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"cannot map {size} bytes: {error}") from error
    room = np.frombuffer(pages, np.uint8)
    start = -address_of(room) % HUGE_PAGE
    if sys.platform == "linux":
        large = (size + HUGE_PAGE - MOST_FILLED) // HUGE_PAGE * HUGE_PAGE  # a page is resident as a whole
        with contextlib.suppress(OSError):  # a kernel without large pages
            pages.madvise(mmap.MADV_HUGEPAGE, start, large)
    return room


@lru_cache(maxsize=1)
def _trimming() -> Any:
    """glibc's function that hands free pages back; None elsewhere."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def give_back() -> None:
    """Hand memory that was freed back to the system, where allocators keep it: what a compiler needed, a step does not."""
    trim = _trimming()
    if trim is not None:
        trim(ctypes.c_size_t(0))


def address_of(array: NDArray[Any]) -> int:
    """The address of an array's first element, of any layout; the array must stay alive while it is used.

    About 0.3 us for writable contiguous arrays, where ``array.ctypes.data`` takes over 1.
    """
    try:
        return ctypes.addressof(_view(array))
    except (TypeError, ValueError, BufferError):  # read-only, empty or strided
        return int(array.__array_interface__["data"][0])
