"""Matrix registers as LLVM intrinsics: Intel's AMX, whose eight registers hold 16 rows of 64 bytes each.

Knows instructions.  Must not know what is multiplied.  Source: Intel 64 and IA-32 Architectures Software Developer's
Manual, volume 1, chapter 18, and TDPBF16PS in volume 2.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Function, Value

REGISTERS = 8


def configure(f: Function) -> None:
    """From here on all registers have 16 rows of 64 bytes."""
    # byte 0: palette; 16 words from byte 16: bytes of a row; 16 bytes from byte 48: rows
    layout = [1, *[0] * 15, *[64, 0] * REGISTERS, *[0] * 16, *[16] * REGISTERS, *[0] * 8]
    _call(f, "ldtilecfg", [f.module.table(layout, "i8")])


def release(f: Function) -> None:
    """The registers are empty again; a context switch need not save them."""
    _call(f, "tilerelease", [])


def zero(f: Function, register: int) -> None:
    _call(f, "tilezero", [_number(register)])


def load(f: Function, register: int, pointer: Value, stride: Value) -> None:
    """16 rows of 64 bytes, `stride` bytes apart."""
    _call(f, "tileloadd64", [_number(register), pointer, stride])


def store(f: Function, register: int, pointer: Value, stride: Value) -> None:
    _call(f, "tilestored64", [_number(register), pointer, stride])


def multiply_add(f: Function, sums: int, a: int, b: int) -> None:
    """``sums[r, j] += sum over lanes l and both halves h of a[r, l, h] * b[l, j, h]``, bfloat16 into float32."""
    _call(f, "tdpbf16ps", [_number(sums), _number(a), _number(b)])


def _number(register: int) -> Value:
    return Value(str(register), "i8")


def _call(f: Function, name: str, arguments: list[Value]) -> None:
    full = f"llvm.x86.{name}"
    f.module.declare(full, "void", [v.type for v in arguments])
    f.call(full, arguments)
