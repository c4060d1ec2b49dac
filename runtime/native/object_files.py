"""What an object file says of itself: the names that it defines, and those that it wants from others.

Knows the three formats of 64-bit machines: ELF, Mach-O and COFF.  Must not know how objects are made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from . import elf

COFF_MACHINES = (0x8664, 0xAA64)  # x86-64, AArch64
MACH_O_64 = 0xFEEDFACF

Symbols = tuple[set[str], set[str]]


def external_symbols(data: bytes) -> tuple[str, ...]:
    """The names that an object file leaves for others to define, as a C program spells them."""
    return tuple(sorted(symbol_table(data)[1]))


def symbol_table(data: bytes) -> Symbols:
    """The names that an object file defines, and those that it wants; none for formats that are not known.

    Formats: `elf`; Apple, mach-o/loader.h and nlist.h; Microsoft, PE and COFF specification, 4 and 5.4.
    """
    defined: set[str] = set()
    wanted: set[str] = set()
    for name, is_defined in _symbols(data):
        if name:
            (defined if is_defined else wanted).add(name)
    return defined, wanted


def _symbols(data: bytes) -> Iterator[tuple[str, bool]]:
    """(name, whether it is defined) of each symbol."""
    if data[: len(elf.HEADER)] == elf.HEADER:
        yield from ((s.name, s.section != elf.UNDEFINED) for s in elf.symbols(data, elf.sections(data)))
    elif len(data) >= 32 and struct.unpack_from("<I", data)[0] == MACH_O_64:
        yield from _mach_o(data)
    elif len(data) >= 20 and struct.unpack_from("<H", data)[0] in COFF_MACHINES:
        yield from _coff(data)


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def _mach_o(data: bytes) -> Iterator[tuple[str, bool]]:
    commands, = struct.unpack_from("<I", data, 16)
    place = 32
    for _ in range(commands):
        kind, size = struct.unpack_from("<II", data, place)
        if kind == 2:  # LC_SYMTAB
            symbols, count, names, _ = struct.unpack_from("<IIII", data, place + 8)
            for at in range(symbols, symbols + 16 * count, 16):
                start, type_ = struct.unpack_from("<IB", data, at)
                yield _text(data, names + start).removeprefix("_"), type_ & 0x0E != 0
        place += size


def _coff(data: bytes) -> Iterator[tuple[str, bool]]:
    table, count = struct.unpack_from("<II", data, 8)
    names = table + 18 * count
    place, end = table, names
    while place < end:
        short, _, section, _, storage, further = struct.unpack_from("<8sIhHBB", data, place)
        if storage == 2:  # external
            long = short[:4] == bytes(4)
            name = _text(data, names + struct.unpack("<I", short[4:])[0]) if long else short.rstrip(b"\0").decode()
            yield name, section != 0
        place += 18 * (1 + further)
