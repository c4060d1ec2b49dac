"""Memory for native code: aligned, in large pages where they help, with addresses.

Knows numpy and the allocator's free memory.  Must not know what lies in the memory.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.pages import HUGE_PAGE, LINE, mapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

    huge: ask for large pages for blocks that fill one: see `pages`.
    Raises: MemoryError where there is not so much memory.
    """
    if size < 0:
        raise ValueError(f"negative size {size}")
    if huge and size >= HUGE_PAGE:
        return Block(mapped(size), size, HUGE_PAGE)
    room: NDArray[np.uint8] = np.zeros(size + LINE, np.uint8)
    return Block(room, size, LINE)


def allocate_together(*sizes: int) -> list[Block]:
    """Blocks of zeros, one behind the other: together they fill large pages that each of them would not.

    In small ones it depends on where the system puts them how fast a process is.
    """
    room = [max(LINE, -(-size // LINE) * LINE) for size in sizes]
    whole = allocate(sum(room))
    ends = list(accumulate(room))
    return [Block(whole.data[end - length : end], size, LINE) for end, length, size in zip(ends, room, sizes, strict=True)]


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
