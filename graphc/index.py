"""Index expressions: which element of an operand an element of a result reads.

Knows affine arithmetic over loop variables with floor division and remainder, and simplifies by ranges.
Must not know ops, buffers or code.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import gcd
from typing import Union


class Variable(namedtuple("Variable", "name extent")):
    """A loop variable: 0 <= value < extent."""

    __slots__ = ()
    name: str
    extent: int

    def range(self) -> tuple[int, int]:
        return 0, max(0, self.extent - 1)

    def __str__(self) -> str:
        return self.name


class Divided(namedtuple("Divided", "of by kind", defaults=("/",))):
    """floor(of / by).  Its kind tells it from a remainder, as tuples of equal parts are equal."""

    __slots__ = ()
    of: Index
    by: int

    def range(self) -> tuple[int, int]:
        low, high = self.of.range
        return low // self.by, high // self.by

    def __str__(self) -> str:
        return f"({self.of})/{self.by}"


class Remainder(namedtuple("Remainder", "of by kind", defaults=("%",))):
    """of modulo by, never negative."""

    __slots__ = ()
    of: Index
    by: int

    def range(self) -> tuple[int, int]:
        return 0, self.by - 1

    def __str__(self) -> str:
        return f"({self.of})%{self.by}"


Term = Union[Variable, Divided, Remainder]


class Index:
    """constant + sum of factor * term.  Immutable."""

    __slots__ = ("_hash", "_range", "constant", "terms")

    def __init__(self, terms: tuple[tuple[Term, int], ...], constant: int) -> None:
        self.terms, self.constant = terms, constant
        self._hash: int | None = None
        self._range: tuple[int, int] | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Index) and self.constant == other.constant and self.terms == other.terms)

    def __hash__(self) -> int:
        found = self._hash
        if found is None:
            found = self._hash = hash((self.terms, self.constant))
        return found

    def __repr__(self) -> str:
        return f"<index {self}>"

    @staticmethod
    def of(value: Index | Term | int) -> Index:
        if isinstance(value, Index):
            return value
        if isinstance(value, int):
            return Index((), value)
        return Index(((value, 1),), 0)

    @staticmethod
    def variable(name: str, extent: int) -> Index:
        """A loop variable; one that takes a single value is the constant 0."""
        return Index((), 0) if extent == 1 else Index(((Variable(name, extent), 1),), 0)

    @property
    def range(self) -> tuple[int, int]:
        """The least and greatest value it can take (bounds, not always reached)."""
        if self._range is None:
            low = high = self.constant
            for term, factor in self.terms:
                a, b = term.range()
                low, high = low + min(a * factor, b * factor), high + max(a * factor, b * factor)
            self._range = low, high
        return self._range

    @property
    def number(self) -> int | None:
        """Its value where it is a constant."""
        return None if self.terms else self.constant

    def __add__(self, other: Index | int) -> Index:
        other = Index.of(other)
        if not other.terms:
            return Index(self.terms, self.constant + other.constant) if other.constant else self
        total = dict(self.terms)
        for term, factor in other.terms:
            total[term] = total.get(term, 0) + factor
        return _join(total, self.constant + other.constant)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Index:
        if factor == 1:
            return self
        if factor == 0:
            return Index((), 0)
        return Index(tuple((t, f * factor) for t, f in self.terms), self.constant * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Index:
        return self * -1

    def __sub__(self, other: Index | int) -> Index:
        return self + Index.of(other) * -1

    def __rsub__(self, other: int) -> Index:
        return Index.of(other) - self

    def _split(self, by: int) -> tuple[Index, Index]:
        """(q, r) with self == by*q + r, q as large a part as divides term by term, r's constant in [0, by)."""
        whole = tuple((t, f // by) for t, f in self.terms if f % by == 0)
        rest = tuple((t, f) for t, f in self.terms if f % by)
        return Index(whole, self.constant // by), Index(rest, self.constant % by)

    def __floordiv__(self, by: int) -> Index:
        return self if by == 1 else _divided(self, by)

    def _divided(self, by: int) -> Index:
        whole, rest = self._split(by)
        low, high = rest.range
        if low // by == high // by:
            return whole + low // by
        shared = gcd(by, *(f for _, f in rest.terms))
        if shared > 1:  # floor((g*x + c) / (g*d)) == floor((x + floor(c/g)) / d)
            rest = Index(tuple((t, f // shared) for t, f in rest.terms), rest.constant // shared)
            return whole + rest // (by // shared)
        if len(rest.terms) == 1 and rest.terms[0][1] == 1 and not rest.constant:
            term = rest.terms[0][0]
            if isinstance(term, Divided):
                return whole + Index.of(Divided(term.of, term.by * by))
        return whole + Index.of(Divided(rest, by))

    def __mod__(self, by: int) -> Index:
        return Index((), 0) if by == 1 else _remainder(self, by)

    def _remainder(self, by: int) -> Index:
        _, rest = self._split(by)
        low, high = rest.range
        if low // by == high // by:
            return rest - (low // by) * by
        return Index.of(Remainder(rest, by))

    def variables(self) -> set[Variable]:
        found: set[Variable] = set()
        for term, _ in self.terms:
            found |= {term} if isinstance(term, Variable) else term.of.variables()
        return found

    def factor(self, variable: Variable) -> int | None:
        """The factor of a variable where the expression is affine in it, else None."""
        result = 0
        for term, factor in self.terms:
            if term == variable:
                result = factor
            elif not isinstance(term, Variable) and variable in term.of.variables():
                return None
        return result

    def substitute(self, values: Mapping[Term, Index]) -> Index:
        """With other values for some variables, quotients or remainders."""
        total = Index((), self.constant)
        for term, factor in self.terms:
            part = values.get(term)
            if part is None:
                if isinstance(term, Variable):
                    part = Index.of(term)
                else:
                    inner = term.of.substitute(values)
                    part = inner // term.by if isinstance(term, Divided) else inner % term.by
            total = total + part * factor
        return total

    def __str__(self) -> str:
        parts = [f"{f}*{t}" if f != 1 else str(t) for t, f in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return "+".join(parts).replace("+-", "-")


@lru_cache(maxsize=4096)  # a view of many elements asks the same again and again
def _divided(index: Index, by: int) -> Index:
    return index._divided(by)


@lru_cache(maxsize=4096)
def _remainder(index: Index, by: int) -> Index:
    return index._remainder(by)


def _join(total: dict[Term, int], constant: int) -> Index:
    """Drops zeros and puts (x//d)*d*f + (x%d)*f back together as x*f."""
    for term in [t for t in total if isinstance(t, Remainder)]:
        factor = total.get(term, 0)
        quotient = term.of // term.by  # of a quotient: x//d//e is kept as x//(d*e)
        whole = quotient.terms[0][0] if len(quotient.terms) == 1 else Divided(term.of, term.by)
        if factor and total.get(whole) == factor * term.by and quotient == Index.of(whole):
            del total[term], total[whole]
            return _join(total, constant) + term.of * factor
    terms = [(t, f) for t, f in total.items() if f]
    if len(terms) > 1:
        terms.sort(key=_order)
    return Index(tuple(terms), constant)


def _order(item: tuple[Term, int]) -> tuple[str, str]:
    return _spelled(item[0])


@lru_cache(maxsize=4096)
def _spelled(term: Term) -> tuple[str, str]:
    return type(term).__name__, str(term)


Guard = list[tuple[Index, int, int]]


def narrowed(index: Index, conditions: Iterable[tuple[Index, int, int]]) -> Index:
    """What is the same where the conditions hold, and simpler: a quotient, say, that is one number there."""
    waiting = [*conditions]
    for condition, low, high in waiting:  # grows
        if len(condition.terms) != 1 or condition.terms[0][1] != 1 or low >= high:
            continue
        term, first = condition.terms[0][0], low - condition.constant
        if isinstance(term, Divided):  # what is divided is in a range, too
            waiting.append((term.of, first * term.by, (first + high - low) * term.by))
        inside = Index.variable("inside", high - low)
        index = index.substitute({term: inside + first})
        index = index.substitute({variable: Index.of(term) - first for variable, _ in inside.terms})
    return index


def linear(indices: Sequence[Index], shape: Sequence[int]) -> Index:
    """The row-major position of an element."""
    return _linear(tuple(indices), tuple(shape))


@lru_cache(maxsize=4096)  # equal layers ask the same
def _linear(indices: tuple[Index, ...], shape: tuple[int, ...]) -> Index:
    total, step = Index((), 0), 1
    for index, size in zip(reversed(indices), reversed(shape), strict=True):
        total = total + index * step
        step *= size
    return total


def unravel(position: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The indices of the element at a row-major position."""
    return _unravel(position, tuple(shape))


@lru_cache(maxsize=4096)
def _unravel(position: Index, shape: tuple[int, ...]) -> tuple[Index, ...]:
    result: list[Index] = []
    for size in reversed(shape):
        if size <= 1:  # of an axis without elements nothing is ever read
            result.append(Index((), 0))
            continue
        low, high = position.range
        inside = low >= 0 and high < size
        result.append(position if inside else position % size)
        position = Index((), 0) if inside else position // size
    return tuple(reversed(result))


def variables_for(shape: Iterable[int], prefix: str = "i") -> tuple[Index, ...]:
    """One loop variable per axis."""
    return _variables_for(tuple(shape), prefix)


@lru_cache(maxsize=1024)
def _variables_for(shape: tuple[int, ...], prefix: str) -> tuple[Index, ...]:
    return tuple(Index.variable(f"{prefix}{axis}", size) for axis, size in enumerate(shape))
