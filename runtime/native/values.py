"""LLVM's types and values as text.

Types are LLVM's own spelling (``"float"``, ``"i64"``, ``"<16 x float>"``), so that a `Value` can be read in a dump.  Knows that
spelling, and how numbers are written.  Must not know instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

Number = int | float | bool
SIZES = {"float": 4, "double": 8, "i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "ptr": 8}
SUFFIXES = {"float": "f32", "double": "f64", "ptr": "p0"}


@lru_cache(maxsize=1024)
def lanes(type_: str) -> int:
    """Number of lanes of a vector type; 0 for a scalar type."""
    return int(type_[1 : type_.index(" ")]) if type_.startswith("<") else 0


@lru_cache(maxsize=1024)
def element(type_: str) -> str:
    """The scalar type of a vector type, or the type itself."""
    return type_[type_.rindex(" ") + 1 : -1] if type_.startswith("<") else type_


@lru_cache(maxsize=1024)
def vector(count: int, scalar: str) -> str:
    """``<count x scalar>``, or the scalar type itself where count is 0."""
    return f"<{count} x {scalar}>" if count else scalar


@lru_cache(maxsize=1024)
def mangled(type_: str) -> str:
    """The suffix that an overloaded intrinsic carries for this type, for example ``v16f32``."""
    scalar = SUFFIXES.get(element(type_), element(type_))
    return f"v{lanes(type_)}{scalar}" if lanes(type_) else scalar


def literal(value: Number, scalar: str) -> str:
    """A constant in LLVM's spelling; floats as the hexadecimal bits of the double that holds them exactly."""
    if scalar in ("float", "double"):
        number = float(value)
        if scalar == "float":  # LLVM wants a double whose value a float can hold
            try:
                number = struct.unpack("<f", struct.pack("<f", number))[0]
            except OverflowError:
                number = float("inf") if number > 0 else float("-inf")
        return "0x" + struct.pack(">d", number).hex().upper()
    if scalar == "i1":
        return "true" if value else "false"
    bits = 8 * SIZES[scalar]
    number = int(value) & ((1 << bits) - 1)
    return str(number - (1 << bits) if number >> (bits - 1) else number)


class Value(NamedTuple):
    """An SSA value or a constant: its spelling (``%12``, ``7``) and its LLVM type."""

    name: str
    type: str

    @property
    def lanes(self) -> int:
        return lanes(self.type)

    @property
    def element(self) -> str:
        return element(self.type)

    @property
    def number(self) -> int | None:
        """The value of an integer constant, None of anything else."""
        name = self.name
        return None if name[0] == "%" or not name.lstrip("-").isdigit() else int(name)

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


def constant(value: Number, type_: str) -> Value:
    """A constant; for a vector type every lane holds it."""
    spelled = literal(value, element(type_))
    if lanes(type_):
        spelled = f"splat ({element(type_)} {spelled})"
    return Value(spelled, type_)


@lru_cache(maxsize=1024)
def i64(value: int) -> Value:
    return Value(str(value), "i64")


def numbers(each: Sequence[int], scalar: str = "i64") -> Value:
    """A vector constant of these integers."""
    return Value("<" + ", ".join(f"{scalar} {i}" for i in each) + ">", vector(len(each), scalar))


def lane_numbers(count: int, scalar: str = "i64") -> Value:
    """The vector constant 0, 1, 2, ... count-1."""
    return numbers(range(count), scalar)
