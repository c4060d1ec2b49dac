"""Linked code as bytes that run wherever they are loaded, and the loading.

Knows pages, and words that hold addresses.  Must not know object files, LLVM or what the code computes: of code that is kept on
disk nothing else is needed to run it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

from graphc.records import record

MEMORY_FUNCTIONS = ("memcpy", "memmove", "memset", "bzero", "__bzero", "__chkstk")
WORD = 8

LOADS_HERE = sys.platform == "linux" and platform.machine() == "x86_64"  # where `linking` makes images


class Addresses(Protocol):
    """Code in memory; addresses are valid as long as the object lives."""

    def address(self, symbol: str) -> int:
        """Of a function."""
        ...


class LoadError(Exception):
    """The system does not load the image."""


@record(frozen=True)
class Image:
    """One block: instructions and constants, which are read and executed, then, on pages of their own, what is written.

    code      the first part, whole pages
    data      the beginning of the second part, whose other bytes are zero
    size      of both parts
    pointers  (place, what is there) of words that hold addresses: an offset in the block, or the name of a function outside
    symbols   offsets of functions, by name
    """

    code: bytes
    data: bytes
    size: int
    pointers: tuple[tuple[int, int | str], ...]
    symbols: Mapping[str, int]

    def pack(self) -> tuple[bytes, dict[str, Any]]:
        """The image as bytes and JSON values."""
        return self.code + self.data, {"code": len(self.code), "size": self.size, "pointers": [*map(list, self.pointers)],
                                       "symbols": dict(self.symbols)}


def unpack(content: bytes, meta: Mapping[str, Any]) -> Image:
    """The image that `pack` gave."""
    split = meta["code"]
    return Image(content[:split], content[split:], meta["size"], tuple((place, what) for place, what in meta["pointers"]),
                 meta["symbols"])


@lru_cache(maxsize=1)
def runtime_symbols() -> dict[str, int]:
    """The addresses of what LLVM may call without being asked: block copies and fills, stack probes on Windows."""
    address = {"memset": ctypes.memset, "memmove": ctypes.memmove, "memcpy": ctypes.memmove}
    found = {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in address.items()}
    library = "ntdll" if sys.platform == "win32" else None  # the C library of this process
    with contextlib.suppress(OSError):
        handle = ctypes.CDLL(library)
        for name in MEMORY_FUNCTIONS:
            if name not in found and hasattr(handle, name):
                found[name] = ctypes.cast(getattr(handle, name), ctypes.c_void_p).value or 0
    return found


class Loaded:
    """An image in memory.  The addresses are valid as long as this object lives.

    Raises: LoadError where the system has no such memory, or does not let it be executed.
    """

    def __init__(self, image: Image) -> None:
        try:
            self._memory = mmap.mmap(-1, image.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError, OverflowError) as error:
            raise LoadError(f"no memory for {image.size} bytes of code: {error}") from error
        self._view = ctypes.c_char.from_buffer(self._memory)
        self.base, self.symbols = ctypes.addressof(self._view), image.symbols
        content = image.code + image.data
        self._memory[: len(content)] = content
        for place, what in image.pointers:
            address = runtime_symbols()[what] if isinstance(what, str) else self.base + what
            self._memory[place : place + WORD] = address.to_bytes(WORD, sys.byteorder)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if protect(self.base, len(image.code), mmap.PROT_READ | mmap.PROT_EXEC):
            raise LoadError(f"memory cannot be made executable: error {ctypes.get_errno()}")

    def __getitem__(self, symbol: str) -> int:
        return self.base + self.symbols[symbol]

    def address(self, symbol: str) -> int:
        """Of a function."""
        return self[symbol]
