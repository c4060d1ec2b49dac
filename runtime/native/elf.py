"""ELF object files of 64-bit little-endian machines, as far as others ask: sections and symbols.

Must not know what is done with them.  Format: System V ABI, ELF-64 object file format, version 1.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from graphc.records import NamedTuple

HEADER = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
SECTION, SYMBOL = struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ")
CONTENT, SYMBOLS, ADDENDS, ZEROS = 1, 2, 4, 8  # kinds of sections
UNDEFINED, RESERVED = 0, 0xFF00  # sections of symbols that are elsewhere, or nowhere


class Section(NamedTuple):
    """kind, flags, where it is in the file, its bytes, its alignment; link and info mean what the kind says."""

    kind: int
    flags: int
    offset: int
    size: int
    align: int
    link: int
    info: int


class Symbol(NamedTuple):
    """A place in a section; `shared` says whether other files see its name."""

    name: str
    section: int
    offset: int
    shared: bool


def sections(data: bytes) -> list[Section]:
    """The sections of a file that begins with HEADER, by number."""
    table, = struct.unpack_from("<Q", data, 0x28)
    count, = struct.unpack_from("<H", data, 0x3C)
    return [Section(kind, flags, offset, size, max(align, 1), link, info) for
            _, kind, flags, _, offset, size, link, info, align, _ in
            SECTION.iter_unpack(data[table : table + count * SECTION.size])]


def symbols(data: bytes, parts: Sequence[Section]) -> Iterator[Symbol]:
    """The symbols of a file with these sections, by number."""
    for table in parts:
        if table.kind == SYMBOLS:
            names = parts[table.link].offset
            for name, info, _, section, value, _ in SYMBOL.iter_unpack(data[table.offset : table.offset + table.size]):
                start = names + name
                yield Symbol(data[start : data.index(b"\0", start)].decode(), section, value, info >> 4 > 0)
