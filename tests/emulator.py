"""Object files for AArch64 and RISC-V, linked and run in an emulated processor.

Linking fails for a relocation or a symbol that should not be there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import unicorn

from .exported import Exported

CODE, ROOM, STACK, MEGABYTE = 0x100000, 0x10000000, 0x7F000000, 1 << 20
AARCH64, RISCV64 = 183, 243
HELPERS = {"memcpy": CODE - 64, "memmove": CODE - 48, "memset": CODE - 32}  # what stands there is done here
STOP = CODE - 16


class Section(NamedTuple):
    """A row of an ELF file's table of sections."""

    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


def bits(value: int, shift: int, count: int) -> int:
    """Some bits of a number, at the place 0."""
    return value >> shift & (1 << count) - 1


def patch(image: bytearray, at: int, mask: int, value: int) -> None:
    word, = struct.unpack_from("<I", image, at)
    struct.pack_into("<I", image, at, word & ~mask | value)


def linked(data: bytes) -> tuple[int, bytes, dict[str, int]]:
    """The machine of an object file, its bytes as they lie in memory from CODE on, and where its functions are.

    Formats: ELF-64; ELF for the Arm 64-bit architecture, 5.7; RISC-V ELF psABI, 8.
    """
    machine, = struct.unpack_from("<H", data, 18)
    table, = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    sections = [Section(r[1], r[2], *r[4:9]) for r in rows]
    image, places = bytearray(), {}
    for number, s in enumerate(sections):
        if s.flags & 2:
            assert not s.flags & 1, "a section that is written to"
            image += bytes(-len(image) % max(1, s.alignment))
            places[number] = CODE + len(image)
            image += data[s.offset:s.offset + s.size]
    symbols: list[int | None] = []
    functions = {}
    (names,) = (s for s in sections if s.kind == 2)
    text = sections[names.link].offset
    for at in range(names.offset, names.offset + names.size, 24):
        start, _, _, section, value = struct.unpack_from("<IBBHQ", data, at)
        name = data[text + start:data.index(b"\0", text + start)].decode()
        symbols.append(places[section] + value if section in places else HELPERS.get(name))
        if section in places:
            functions[name] = places[section] + value
    relocations = [(s.info, *struct.unpack_from("<QQq", data, at)) for s in sections if s.kind == 4
                   for at in range(s.offset, s.offset + s.size, 24)]
    pages: dict[int, int] = {}  # of RISC-V's upper halves: how far it is from there
    for section, offset, info, addend in sorted(relocations, key=lambda r: r[2] & 0xFFFFFFFF):  # upper halves come first
        symbol, here = symbols[info >> 32], places[section] + offset
        assert symbol is not None, "a symbol that nobody defines"
        RELOCATIONS[machine][info & 0xFFFFFFFF](image, here - CODE, symbol + addend, here, pages)
    return machine, bytes(image), functions


def _call26(image: bytearray, at: int, to: int, here: int, _: Any) -> None:
    patch(image, at, 0x3FFFFFF, bits(to - here >> 2, 0, 26))


def _page(image: bytearray, at: int, to: int, here: int, _: Any) -> None:
    pages = (to >> 12) - (here >> 12)
    patch(image, at, 0x60FFFFE0, bits(pages, 0, 2) << 29 | bits(pages, 2, 19) << 5)


def _low(shift: int) -> Callable[..., None]:
    return lambda image, at, to, here, _: patch(image, at, 0x3FFC00, bits(to, shift, 12 - shift) << 10)


def _upper(image: bytearray, at: int, to: int, here: int, pages: dict[int, int]) -> None:
    pages[here] = to - here
    patch(image, at, 0xFFFFF000, bits(to - here + 0x800, 12, 20) << 12)


def _lower(image: bytearray, at: int, to: int, here: int, pages: dict[int, int]) -> None:
    patch(image, at, 0xFFF00000, bits(pages[to], 0, 12) << 20)


def _pair(image: bytearray, at: int, to: int, here: int, pages: dict[int, int]) -> None:
    _upper(image, at, to, here, pages)
    _lower(image, at + 4, here, here + 4, pages)


RELOCATIONS: dict[int, dict[int, Callable[..., None]]] = {
    AARCH64: {282: _call26, 283: _call26, 275: _page, 277: _low(0), 278: _low(0), 284: _low(1), 285: _low(2), 286: _low(3),
              299: _low(4)},
    RISCV64: {19: _pair, 23: _upper, 24: _lower}}


class Processor:
    """An emulated processor with an object file in its memory."""

    def __init__(self, data: bytes, room: int) -> None:
        machine, image, self.functions = linked(data)
        arm = machine == AARCH64
        constants = unicorn.arm64_const if arm else unicorn.riscv_const
        register = (lambda n: getattr(constants, f"UC_ARM64_REG_{n}")) if arm else (
            lambda n: getattr(constants, f"UC_RISCV_REG_{n}"))
        self.given = [register(f"{'X' if arm else 'A'}{i}") for i in range(8)]
        self.pc, self.sp, self.back = register("PC"), register("SP"), register("LR" if arm else "RA")
        self.u = unicorn.Uc(unicorn.UC_ARCH_ARM64 if arm else unicorn.UC_ARCH_RISCV,
                            unicorn.UC_MODE_ARM if arm else unicorn.UC_MODE_RISCV64)
        for start, size in ((CODE - 4096, len(image) + 4096), (ROOM, room), (STACK, MEGABYTE)):
            self.u.mem_map(start, -(-size // 4096) * 4096)
        self.u.mem_write(CODE, image)
        self.u.reg_write(*((register("CPACR_EL1"), 3 << 20) if arm else (register("MSTATUS"), 3 << 13)))  # floating point is on
        self.u.hook_add(unicorn.UC_HOOK_CODE, self._help, begin=CODE - 64, end=CODE - 17)

    def _help(self, u: Any, at: int, *_: Any) -> None:
        to, source, size = (u.reg_read(r) for r in self.given[:3])
        u.mem_write(to, bytes([source & 0xFF]) * size if at == HELPERS["memset"] else bytes(u.mem_read(source, size)))
        u.reg_write(self.pc, u.reg_read(self.back))

    def call(self, name: str, *arguments: int) -> None:
        top = STACK + MEGABYTE - 512
        for register, value in zip(self.given, arguments, strict=False):
            self.u.reg_write(register, value)
        self.u.mem_write(top, struct.pack(f"<{len(arguments[8:])}q", *arguments[8:]))
        self.u.reg_write(self.sp, top)
        self.u.reg_write(self.back, STOP)
        self.u.emu_start(self.functions[name], STOP, timeout=60_000_000)
        assert self.u.reg_read(self.pc) == STOP, "it did not end"
        assert self.u.reg_read(self.sp) == top, "its stack is not as it was"


def train(found: Exported, name: str, feeds: Sequence[np.ndarray], outputs: Sequence[tuple[tuple[int, ...], str]],
          one_by_one: int, together: int) -> tuple[list[np.ndarray], bytes]:
    """As `Exported.train`."""
    results = [np.zeros((one_by_one + together, *shape), dtype) for shape, dtype in outputs]
    arrays = [*feeds, *results]
    size, scratch = found.number("STATE_BYTES"), found.number("SCRATCH_BYTES")
    starts = np.cumsum([ROOM + size + scratch, *(-(-a.nbytes // 64) * 64 for a in arrays)]).tolist()
    processor = Processor(found.data, starts[-1] - ROOM)
    processor.u.mem_write(ROOM, b"\xFF" * (size + scratch))
    for array, start in zip(feeds, starts, strict=False):
        processor.u.mem_write(start, array.tobytes())

    def at(step: int) -> list[int]:
        return [start + step * a[0].nbytes for start, a in zip(starts, arrays, strict=False)]

    processor.call(f"{found.prefix}_init", ROOM)
    for step in range(one_by_one):
        processor.call(name, ROOM, ROOM + size, *at(step))
    moving = [v for place, a in zip(at(one_by_one), arrays, strict=True) for v in (place, a[0].size)]
    processor.call(f"{name}_run", ROOM, ROOM + size, together, *moving)
    for array, start in zip(arrays[len(feeds):], starts[len(feeds):], strict=False):
        array.reshape(-1)[:] = np.frombuffer(bytes(processor.u.mem_read(start, array.nbytes)), array.dtype)
    return results, bytes(processor.u.mem_read(ROOM, size))
