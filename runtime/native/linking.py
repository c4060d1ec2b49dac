"""Object files become one block of code that runs wherever it is loaded: relative addresses are settled here, once.

Knows 64-bit ELF for x86-64: sections, symbols, and the relocations of position-independent code in the small model.  Must not
know LLVM, or where the code will be.  What it does not know it leaves to a loader that does.

Formats: System V ABI, ELF-64 object file format 1.5; psABI x86-64 1.0, section 4.4 (relocations).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence

from .elf import ADDENDS, CONTENT, HEADER, RESERVED, UNDEFINED, ZEROS, Symbol, sections, symbols
from .image import WORD, Image, runtime_symbols

RELOCATION = struct.Struct("<QQq")
RELOCATABLE, X86_64 = 1, 62
UNWINDING = 0x70000001  # a kind of section that nobody needs: nothing is thrown
WRITTEN, LOADED, OF_THREADS = 1, 2, 0x400  # flags of sections
ABSOLUTE, RELATIVE, CALL = 1, 2, 4
BY_TABLE = frozenset((9, 41, 42))  # relative to a word that holds the address: GOTPCREL, GOTPCRELX, REX_GOTPCRELX

JUMP = b"\xff\x25"  # jmp [rip + distance], which the next four bytes say
JUMP_BYTES = 8
MOST = 1 << 28  # bytes of a section: distances must fit 32 bits


class Unknown(Exception):
    """Something in an object file that is not known here."""


class Object:
    """An object file, read; `places` says where in the block its sections are."""

    def __init__(self, data: bytes) -> None:
        kind, machine = struct.unpack_from("<HH", data, 16)
        if data[:7] != HEADER or (kind, machine) != (RELOCATABLE, X86_64):
            raise Unknown("not an object file for x86-64")
        self.data, self.sections = data, sections(data)
        self.loaded = [(n, s) for n, s in enumerate(self.sections) if s.flags & LOADED and s.size and s.kind != UNWINDING]
        if any(s.flags & OF_THREADS or s.kind not in (CONTENT, ZEROS) for _, s in self.loaded):
            raise Unknown("memory of each thread's own, or a section of another kind")
        if any(s.size > MOST or s.align > mmap.PAGESIZE or (s.kind == CONTENT and s.offset + s.size > len(data))
               for _, s in self.loaded):
            raise Unknown("sections that are not in the file, or too large")
        self.symbols = [s if s.shared else s._replace(name="") for s in symbols(data, self.sections)]
        self.places: dict[int, int] = {}

    def relocations(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(section, offset in it, kind, number of a symbol, what is added) of every place that depends on an address."""
        wanted = {number for number, _ in self.loaded}
        for section in self.sections:
            if section.kind == ADDENDS and section.info in wanted:
                for offset, info, addend in RELOCATION.iter_unpack(self.data[section.offset : section.offset + section.size]):
                    yield section.info, offset, info & 0xFFFFFFFF, info >> 32, addend


class Linker:
    """The block while it is being laid out: code, jumps to functions outside; on new pages words of addresses, data, zeros."""

    def __init__(self, objects: Sequence[bytes]) -> None:
        self.files = [Object(data) for data in objects]
        self.relocations = [(file, *r) for file in self.files for r in file.relocations()]
        self.end = 0
        self._sections(written=False)
        self.defined = {s.name: (file, s) for file in self.files for s in file.symbols
                        if s.name and UNDEFINED < s.section < RESERVED}
        outside = {s.name for file in self.files for s in file.symbols if s.name and s.section == UNDEFINED} - set(self.defined)
        if not outside <= runtime_symbols().keys():
            raise Unknown(f"functions that nobody has: {', '.join(sorted(outside))}")
        self.jumps = {name: self._take(JUMP_BYTES, JUMP_BYTES) for name in sorted(outside)}
        self.code_bytes = self._take(0, mmap.PAGESIZE)
        self.words: dict[tuple, int] = {}  # of the table of addresses, by what they hold
        for name in self.jumps:
            self._word((name,))
        for file, _, _, kind, symbol, _ in self.relocations:
            if kind in BY_TABLE:
                self._word(self._identity(file, symbol))
        self._sections(written=True)
        self.content = bytearray(self.end)
        self._sections(written=True, kind=ZEROS)
        self.pointers: list[tuple[int, int | str]] = []

    def _take(self, size: int, align: int) -> int:
        start = -(-self.end // align) * align
        self.end = start + size
        return start

    def _sections(self, written: bool, kind: int = CONTENT) -> None:
        for file in self.files:
            for number, section in file.loaded:
                if bool(section.flags & WRITTEN) == written and section.kind == kind:
                    file.places[number] = self._take(section.size, section.align)

    def _word(self, what: tuple) -> None:
        if what not in self.words:
            self.words[what] = self._take(WORD, WORD)

    def _identity(self, file: Object, number: int) -> tuple:
        """Of a symbol: all names of one place outside a file are one."""
        name = file.symbols[number].name
        return (name,) if name else (id(file), number)

    def _place(self, file: Object, symbol: Symbol) -> int | str:
        """Where a symbol is in the block; the name of a function outside."""
        if symbol.name in self.jumps:
            return symbol.name
        if symbol.section == UNDEFINED:
            file, symbol = self.defined[symbol.name]
        if symbol.section not in file.places:
            raise Unknown("a symbol without memory")
        return file.places[symbol.section] + symbol.offset

    def settle(self) -> None:
        """Fills the block."""
        for file in self.files:
            for index, section in file.loaded:
                if section.kind == CONTENT:
                    start = file.places[index]
                    self.content[start : start + section.size] = file.data[section.offset : section.offset + section.size]
        for name, place in self.jumps.items():
            self.content[place : place + 2] = JUMP
            self._relative(place + 2, self.words[name,] - 4)
            self.pointers.append((self.words[name,], name))
        for file, target, offset, kind, number, addend in self.relocations:
            place, what = file.places[target] + offset, self._place(file, file.symbols[number])
            if kind in BY_TABLE:
                word = self.words[self._identity(file, number)]
                self._relative(place, word + addend)
                if not isinstance(what, str):
                    self.pointers.append((word, what))
            elif kind in (RELATIVE, CALL):
                self._relative(place, addend + (self.jumps[what] if isinstance(what, str) else what))
            elif kind == ABSOLUTE and place >= self.code_bytes and not isinstance(what, str):
                self.pointers.append((place, what + addend))
            else:
                raise Unknown(f"a relocation of kind {kind}")

    def _relative(self, place: int, target: int) -> None:
        self.content[place : place + 4] = (target - place).to_bytes(4, "little", signed=True)


def link(objects: Sequence[bytes], exports: Sequence[str]) -> Image:
    """The block of all objects, with the addresses of the functions that are wanted.

    Raises: Unknown for what is not known here; that need not be a fault of the objects.
    """
    try:
        linker = Linker(objects)
        linker.settle()
        places = {name: linker._place(*linker.defined[name]) for name in exports}
    except (struct.error, LookupError, ValueError, OverflowError) as error:
        raise Unknown(f"damaged, or calls what is not there: {error!r}") from error
    symbols = {name: place for name, place in places.items() if isinstance(place, int)}
    split = linker.code_bytes
    return Image(bytes(linker.content[:split]), bytes(linker.content[split:]), -(-linker.end // mmap.PAGESIZE) * mmap.PAGESIZE,
                 tuple(dict.fromkeys(linker.pointers)), symbols)
