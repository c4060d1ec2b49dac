"""What a row algorithm handles: numbers, variables and arrays, each an LLVM value or an address.

A number may stand for the lanes of a vector; Python's operators on numbers write instructions.  Knows the builder that made
them (`routines.Routine`) and its scalar operations.  Must not know loops, kernels or any algorithm.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from .scopes import LoweringError
from .values import Value, constant, element, i64, lane_numbers, lanes, vector

if TYPE_CHECKING:
    from .routines import Routine

Plain = float | int | bool


class Number:
    """A value known when the program runs; with a `step`, an index whose lane k is `value + k * step`."""

    __slots__ = ("r", "step", "value")

    def __init__(self, r: Routine, value: Value, step: int = 0) -> None:
        self.r, self.value, self.step = r, value, step

    @property
    def is_index(self) -> bool:
        return self.value.type == "i64"

    def whole(self) -> Value:
        """The value, every lane spelled out."""
        if not self.step:
            return self.value
        f, lanes = self.r.f, self.r.lanes
        steps = lane_numbers(lanes)
        if self.step != 1:
            steps = f.emit(f"mul {steps.type} {steps.name}, {constant(self.step, steps.type).name}", steps.type)
        base = f.broadcast(self.value, lanes)
        return f.emit(f"add {base.type} {base.name}, {steps.name}", base.type)

    def _apply(self, name: str, *others: Number | Plain) -> Number:
        return self.r.apply(name, self, *others)

    def __add__(self, other: Number | Plain) -> Number:
        b = self.r.number(other, self)
        if self.is_index and b.is_index:
            return Number(self.r, self.r.f.add(self.value, b.value), self.step + b.step)
        return self._apply("add", b)

    def __sub__(self, other: Number | Plain) -> Number:
        b = self.r.number(other, self)
        if self.is_index and b.is_index:
            return Number(self.r, self.r.f.sub(self.value, b.value), self.step - b.step)
        return self._apply("sub", b)

    def __mul__(self, other: Number | Plain) -> Number:
        b = self.r.number(other, self)
        if self.is_index and b.is_index:
            a = self if not b.step else b
            b = b if a is self else self
            factor = b.value.number
            if not b.step and (not a.step or factor is not None):
                return Number(self.r, self.r.f.mul(a.value, b.value), a.step * (factor or 0) if a.step else 0)
        return self._apply("mul", b)

    def __rsub__(self, other: Plain) -> Number:
        return self.r.number(other, self) - self

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Number | Plain) -> Number: return self._apply("div", other)
    def __rtruediv__(self, other: Plain) -> Number: return self.r.number(other, self) / self
    def __floordiv__(self, other: Number | Plain) -> Number: return self._apply("floordiv", other)
    def __mod__(self, other: Number | Plain) -> Number: return self._apply("mod", other)
    def __neg__(self) -> Number: return self._apply("neg")
    def __and__(self, other: Number | Plain) -> Number: return self._apply("and_", other)
    def __or__(self, other: Number | Plain) -> Number: return self._apply("or_", other)
    def __xor__(self, other: Number | Plain) -> Number: return self._apply("xor", other)
    def __invert__(self) -> Number: return self._apply("not_")
    def __eq__(self, other: Any) -> Any: return self._apply("eq", other)  # a Number, where object says bool
    def __ne__(self, other: Any) -> Any: return self._apply("ne", other)
    def __lt__(self, other: Number | Plain) -> Number: return self._apply("lt", other)
    def __le__(self, other: Number | Plain) -> Number: return self._apply("le", other)
    def __gt__(self, other: Number | Plain) -> Number: return self._apply("gt", other)
    def __ge__(self, other: Number | Plain) -> Number: return self._apply("ge", other)


class Variable:
    """A number that changes: stack memory that becomes a register."""

    def __init__(self, r: Routine, first: Number) -> None:
        self.r = r
        initial = first.whole()
        if not initial.lanes:
            initial = r.f.broadcast(initial, r.lanes)
        self.type = initial.type
        self.place = r.f.stack(initial.element, max(1, initial.lanes))
        r.f.store(initial, self.place)

    @property
    def value(self) -> Number:
        return Number(self.r, self.r.f.load(self.place, self.type))

    @value.setter
    def value(self, new: Number | Plain) -> None:
        value = new.whole() if isinstance(new, Number) else constant(new, element(self.type))
        if lanes(self.type) and not value.lanes:
            value = self.r.f.broadcast(value, lanes(self.type))
        if value.type != self.type:
            raise LoweringError(f"a variable of {self.type} cannot become {value.type}")
        self.r.f.store(value, self.place)


class Array:
    """Row-major memory of known shape."""

    def __init__(self, r: Routine, pointer: Value, scalar: str, shape: tuple[int, ...]) -> None:
        self.r, self.pointer, self.scalar, self.shape = r, pointer, scalar, shape
        self.stored = "i8" if scalar == "i1" else scalar  # bools are bytes in memory

    def place(self, indices: Any) -> Number:
        """The element's position in memory."""
        given = indices if isinstance(indices, tuple) else (indices,)
        if len(given) != len(self.shape):
            raise LoweringError(f"{len(given)} indices for an array of {len(self.shape)} axes")
        total = Number(self.r, i64(0))
        for k, index in enumerate(given):
            total = total + self.r.index(index) * prod(self.shape[k + 1:])
        return total

    def row(self, index: Number | int) -> Array:
        """The array of the remaining axes at a scalar index of the first."""
        offset = self.r.index(index) * prod(self.shape[1:])
        if offset.step or offset.value.lanes:
            raise LoweringError("a row needs one index, not a vector of them")
        return Array(self.r, self.r.f.offset(self.pointer, offset.value, self.stored), self.scalar, self.shape[1:])

    def __getitem__(self, indices: Any) -> Number:
        f, lanes, mask = self.r.f, self.r.lanes, self.r.mask
        place = self.place(indices)
        if place.value.lanes:
            loaded = f.gather(self.pointer, place.value, self.stored, mask)
        else:
            start = f.offset(self.pointer, place.value, self.stored)
            if not place.step:
                loaded = f.load(start, self.stored)
            elif place.step == 1:
                type_ = vector(lanes, self.stored)
                loaded = f.load(start, type_) if mask is None else f.masked_load(start, type_, mask)
            else:
                loaded = f.gather(start, self.r.strides(place.step), self.stored, mask)
        if self.scalar == "i1":
            loaded = f.compare("icmp ne", loaded, constant(0, loaded.type))
        return Number(self.r, loaded)

    def __setitem__(self, indices: Any, new: Number | Plain) -> None:
        f, lanes, mask = self.r.f, self.r.lanes, self.r.mask
        place = self.place(indices)
        value = new.whole() if isinstance(new, Number) else constant(new, self.scalar)
        if value.element != self.scalar:
            raise LoweringError(f"an array of {self.scalar} cannot hold {value.type}")
        if self.scalar == "i1":
            value = f.convert("zext", value, "i8")
        if not place.value.lanes and not place.step:
            f.store(value, f.offset(self.pointer, place.value, self.stored))
            return
        value = f.broadcast(value, lanes) if not value.lanes else value
        if place.value.lanes:
            f.scatter(value, self.pointer, place.value, mask)
            return
        start = f.offset(self.pointer, place.value, self.stored)
        if place.step != 1:
            f.scatter(value, start, self.r.strides(place.step), mask)
        elif mask is None:
            f.store(value, start)
        else:
            f.masked_store(value, start, mask)
