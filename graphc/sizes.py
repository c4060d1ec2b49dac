"""Sizes: numbers, and polynomials of named sizes that stay open until a program is specialised.

Knows their arithmetic, and shapes.  Must not know dtypes, ops or graphs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any, ClassVar, Union

import numpy as np

from .errors import GraphError, ShapeError

Atom = Union[str, "Quotient"]
Monomial = tuple[Atom, ...]


class Dim:
    """A size that is not known until a program is specialised: a polynomial in named sizes and floor quotients.

    Made by ``Dim.named("batch")`` and arithmetic; equal when equal as polynomials.  ``int()`` of it raises.  With floats, and
    divided by whatever it may be, it is a number of each step: a symbol, float32 and 0-d.
    """

    __slots__ = ("_hash", "terms")

    symbol: ClassVar[Callable[[Dim], Any]]  # what makes that; symbols know it

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = tuple(sorted(terms.items(), key=lambda item: (len(item[0]), str(item[0]))))
        self._hash = hash(self.terms)

    @staticmethod
    def named(name: str) -> Dim:
        return Dim({(name,): 1})

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __add__(self, other: Size) -> Size:
        if not isinstance(other, WHOLE):
            return self._real(other, operator.add)
        total = dict(self.terms)
        for monomial, factor in _terms(other):
            total[monomial] = total.get(monomial, 0) + factor
        return _simplest(total)

    __radd__ = __add__

    def __mul__(self, other: Size) -> Size:
        if type(other) is int and other:
            return self._times(other)
        if not isinstance(other, WHOLE):
            return self._real(other, operator.mul)
        total: dict[Monomial, int] = {}
        for m1, f1 in self.terms:
            for m2, f2 in _terms(other):
                monomial = tuple(sorted(m1 + m2, key=str))
                total[monomial] = total.get(monomial, 0) + f1 * f2
        return _simplest(total)

    __rmul__ = __mul__

    def _times(self, factor: int) -> Dim:
        """Its product with a number other than zero, whose terms have the same order."""
        if factor == 1:
            return self
        new = Dim.__new__(Dim)
        new.terms = tuple([(monomial, f * factor) for monomial, f in self.terms])
        new._hash = hash(new.terms)
        return new

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + other * -1

    def __rsub__(self, other: Size) -> Size:
        return other + self * -1

    def __floordiv__(self, other: Size) -> Size:
        exact = _exact_quotient(self, other)
        return exact if exact is not None else Dim({(Quotient(self, other),): 1})

    def __rfloordiv__(self, other: int) -> Size:
        return Dim({(Quotient(other, self),): 1})

    def _real(self, other: Any, operation: Callable[[Any, Any], Any]) -> Any:
        """With a number that need not be whole; whatever else may know what to do with a size."""
        if isinstance(other, Dim):
            other = Dim.symbol(other)
        elif not isinstance(other, (int, float, np.number)):
            return NotImplemented
        return operation(Dim.symbol(self), other)

    def __truediv__(self, other: Any) -> Any:
        return self._real(other, operator.truediv)

    def __rtruediv__(self, other: Any) -> Any:
        return self._real(other, lambda size, number: number / size)

    def __pow__(self, other: Any) -> Any:
        return self._real(other, operator.pow)

    def __int__(self) -> int:
        raise GraphError(f"the size '{self}' is open: it is known only when the program runs. "
                         "Use it in shapes (+ - * // work), or give the placeholder a fixed size")

    __index__ = __int__
    __float__ = __int__

    def __bool__(self) -> bool:
        return True  # an open size is never zero at build time; empty feeds are checked at the call

    def _ordered(self, other: object) -> bool:
        raise GraphError(f"the open size '{self}' cannot be compared with {other!r} while the graph is built")

    __lt__ = __le__ = __gt__ = __ge__ = _ordered

    def __str__(self) -> str:
        parts = []
        for monomial, factor in self.terms:
            name = "*".join(map(str, monomial))
            parts.append(str(factor) if not monomial else name if factor == 1 else f"{factor}*{name}")
        return "+".join(parts).replace("+-", "-")

    __repr__ = __str__

    def names(self) -> set[str]:
        """The named sizes it depends on."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                found |= {atom} if isinstance(atom, str) else atom.names()
        return found

    def substitute(self, sizes: Mapping[str, int]) -> Size:
        """The size with names replaced by numbers; names that are not in `sizes` stay open."""
        total: Size = 0
        for monomial, factor in self.terms:
            product: Size = factor
            for atom in monomial:
                value = sizes.get(atom, Dim.named(atom)) if isinstance(atom, str) else atom.substitute(sizes)
                product = product * value
            total = total + product
        return total


Size = Union[int, Dim]
WHOLE = int, np.integer, Dim  # what sizes are counted in
Shape = tuple[Size, ...]


class Quotient:
    """``numerator // denominator`` where it does not divide exactly: an atom of a Dim.  Immutable."""

    __slots__ = ("denominator", "numerator")

    def __init__(self, numerator: Size, denominator: Size) -> None:
        self.numerator, self.denominator = numerator, denominator

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Quotient) and self.numerator == other.numerator
                and self.denominator == other.denominator)

    def __hash__(self) -> int:
        return hash((self.numerator, self.denominator))

    def names(self) -> set[str]:
        return set().union(*(d.names() for d in (self.numerator, self.denominator) if isinstance(d, Dim)))

    def substitute(self, sizes: Mapping[str, int]) -> Size:
        return substitute(self.numerator, sizes) // substitute(self.denominator, sizes)

    def __str__(self) -> str:
        return f"(({self.numerator})//({self.denominator}))"


def _terms(size: Size) -> Iterable[tuple[Monomial, int]]:
    return size.terms if isinstance(size, Dim) else (((), int(size)),)


def _simplest(terms: Mapping[Monomial, int]) -> Size:
    left = {monomial: factor for monomial, factor in terms.items() if factor}
    if not left:
        return 0
    if set(left) == {()}:
        return left[()]
    return Dim(left)


def _exact_quotient(numerator: Dim, denominator: Size) -> Size | None:
    """numerator / denominator where every term divides exactly by a single-term denominator, else None."""
    terms = tuple(_terms(denominator))
    if len(terms) != 1:
        return 1 if numerator == denominator else None
    (monomial, factor), = terms
    result: dict[Monomial, int] = {}
    for m, f in numerator.terms:
        rest = list(m)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if factor == 0 or f % factor:
            return None
        result[tuple(rest)] = f // factor
    return _simplest(result)


def substitute(size: Size, sizes: Mapping[str, int]) -> Size:
    return size.substitute(sizes) if isinstance(size, Dim) else size


def as_size(like: Size | str) -> Size:
    """An int, a Dim, or a string that names an open dimension."""
    if isinstance(like, str):
        if not like.isidentifier():
            raise ShapeError(f"an open dimension needs a name like 'batch', got {like!r}")
        return Dim.named(like)
    if isinstance(like, Dim):
        return like if type(like) is Dim else Dim(dict(like.terms))
    if isinstance(like, (bool, float)) or not hasattr(like, "__index__"):
        raise ShapeError(f"a size is an integer or the name of an open dimension, got {like!r}")
    size = int(like)
    if size < 0:
        raise ShapeError(f"a size cannot be negative, got {size}")
    return size


def as_shape(like: Iterable[Size | str] | Size | str) -> Shape:
    """A shape from sizes and names; a single size or name gives one dimension."""
    if isinstance(like, str) or not isinstance(like, Iterable):
        return (as_size(like),)
    return tuple(as_size(s) for s in like)


def count(shape: Iterable[Size]) -> Size:
    """The number of elements."""
    number, open_ = 1, list[Dim]()
    for size in shape:
        if isinstance(size, Dim):
            open_.append(size)
        else:
            number *= size
    return prod(open_, start=number) if open_ else number


def broadcast_shapes(*shapes: Shape) -> Shape:
    """numpy's broadcasting; an open size equals only itself and stretches a 1."""
    if shapes and all(shape is shapes[0] for shape in shapes):
        return shapes[0]
    rank = max((len(s) for s in shapes), default=0)
    result: list[Size] = [1] * rank
    for shape in shapes:
        for position, size in enumerate(shape, start=rank - len(shape)):
            if result[position] == 1:
                result[position] = size
            elif size not in (1, result[position]):
                raise ShapeError(f"shapes {format_shapes(shapes)} do not broadcast ({result[position]} != {size})")
    return tuple(result)


def format_shapes(shapes: Iterable[Shape]) -> str:
    return " and ".join("[" + ",".join(map(str, s)) + "]" for s in shapes)
