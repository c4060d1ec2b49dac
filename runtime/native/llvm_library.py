"""LLVM's library: opened beside what other threads do, and its pages given back when nobody compiles.

Knows where llvmlite has it, and how the system opens and maps libraries.  Must not know what it is for.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator
from importlib.util import find_spec

RTLD_NOW = 2
LOADED, WRITABLE = 1, 2  # PT_LOAD and PF_W of the ELF-64 format's program headers
SEGMENT = struct.Struct("<IIQQQQQQ")  # kind, flags, offset, ...


def library_path() -> str:
    """Where the library is a file; loads neither it nor what calls it."""
    from llvmlite.utils import get_library_name

    spec = find_spec("llvmlite")
    assert spec is not None and spec.origin is not None
    return os.path.join(os.path.dirname(spec.origin), "binding", get_library_name())


def open_library() -> None:
    """Opens the library where it is a file, without Python's lock.

    It has 180 MB, and opening it takes ten milliseconds.  llvmlite keeps all other threads from running Python meanwhile;
    if it is open already, only for a moment.  Whatever fails here, llvmlite will say.
    """
    with contextlib.suppress(Exception):
        opens = ctypes.CDLL(None).dlopen  # functions that are called like this one give the lock away
        opens.argtypes, opens.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
        opens(os.fsencode(library_path()), RTLD_NOW)


def give_back_pages() -> None:
    """Gives the system the library's pages back, some 60 MB, which come from the file again when somebody compiles.

    Only those that nothing can have written to.  On Linux; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(Exception):  # they may stay
        path = os.path.realpath(library_path())
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for start, end in unwritten(path, written_from(path)):
            madvise(start, end - start, mmap.MADV_DONTNEED)


def written_from(path: str) -> int:
    """The offset in an ELF file from which on its pages may be written to, if only by the loader."""
    with open(path, "rb") as file:
        head = file.read(4096)
    table, = struct.unpack_from("<Q", head, 0x20)
    count, = struct.unpack_from("<H", head, 0x38)
    segments = [SEGMENT.unpack_from(head, table + place * SEGMENT.size) for place in range(count)]
    return min(offset for kind, flags, offset, *_ in segments if kind == LOADED and flags & WRITABLE)


def unwritten(path: str, end: int) -> Iterator[tuple[int, int]]:
    """The addresses where this process has a file's pages that lie before an offset and are as in the file."""
    with open("/proc/self/maps") as file:
        found = re.findall(rf"^(\w+)-(\w+) .-.p (\w+) \S+ \d+ +{re.escape(path)}$", file.read(), re.MULTILINE)
    for numbers in found:
        first, last, offset = (int(number, 16) for number in numbers)
        if offset + last - first <= end:
            yield first, last
