"""Index expressions as LLVM code.

One loop variable may be the *lane* variable: what depends on it is a vector whose lane i belongs to the variable's value
plus i; everything else stays scalar until a vector meets it.  Knows index expressions, guards and scopes; each value is
emitted once per scope.  Must not know nodes or memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.index import Divided, Index, Remainder, Term, Variable

from .emit import Function
from .scopes import LoweringError, Scopes
from .values import Value, constant, lane_numbers, numbers, vector

GuardKey = tuple[tuple[Index, int, int], ...]


class Indices(Scopes):
    """Emits the values of indices and guards at the end of the function's current block.

    lanes    of a vector; meaningful while a scope binds a lane variable
    """

    def __init__(self, f: Function, lanes: int) -> None:
        super().__init__()
        self.f, self.lanes = f, lanes

    # -- scalars and vectors -----------------------------------------------------------------------------------

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        condition, a, b = self.aligned([condition, a, b])
        return self.f.select(condition, a, b)

    def aligned(self, values: Sequence[Value]) -> list[Value]:
        """The values with scalars broadcast where one of them is a vector."""
        if all(v.lanes for v in values) or not any(v.lanes for v in values):
            return list(values)
        return [v if v.lanes else self.broadcast(v) for v in values]

    def broadcast(self, value: Value) -> Value:
        """A scalar in every lane, once per scope."""
        if value.lanes:
            return value
        key = ("broadcast", value.name, value.type)
        known = self.recall(key)
        return known if known is not None else self.remember(key, self.f.broadcast(value, self.lanes))

    # -- indices -----------------------------------------------------------------------------------------------

    def is_vector(self, index: Index) -> bool:
        return self.slope(index) != 0

    def slope(self, index: Index) -> int | None:
        """How far apart neighbouring lanes of an index are; None where that is not one number."""
        total = 0
        for term, factor in index.terms:
            step = self._slope(term)
            if step is None:
                return None
            total += step * factor
        return total

    def _slope(self, term: Term) -> int | None:
        if isinstance(term, Variable):
            if term == self.lane:
                return 1
            value = self.bound(term)
            return None if value is not None and value.lanes else 0
        step = self.slope(term.of)
        if step == 1 and self.even and term.by % self.lanes == 0 and self._starts_even(term.of):
            return 0 if isinstance(term, Divided) else 1  # the lanes lie between two multiples of the divisor
        return 0 if step == 0 else None

    def offsets(self, index: Index) -> tuple[int, ...] | None:
        """How far each lane of an index is from lane 0, where the code knows."""
        total = [0] * self.lanes
        for term, factor in index.terms:
            step = self._slope(term)
            lanes = [step * i for i in range(self.lanes)] if step is not None else self._pattern(term) or self._numbers(term)
            if lanes is None:
                return None
            total = [t + factor * (lane - lanes[0]) for t, lane in zip(total, lanes, strict=True)]
        return tuple(total)

    def values(self, index: Index) -> tuple[int, ...] | None:
        """Each lane's value of an index, where the code knows."""
        total = [index.constant] * self.lanes
        for term, factor in index.terms:
            lanes = self._numbers(term)
            if lanes is None:
                return None
            total = [t + factor * lane for t, lane in zip(total, lanes, strict=True)]
        return tuple(total)

    def _numbers(self, term: Term) -> Sequence[int] | None:
        """Each lane's value of a term, where the code knows."""
        if isinstance(term, Variable):
            value = self.bound(term)
            first = None if value is None or value.lanes else value.number
            return None if first is None else [first + i * (term == self.lane) for i in range(self.lanes)]
        inside = self.values(term.of)
        if inside is None:
            return self._pattern(term) if isinstance(term, Remainder) else None
        return [v // term.by if isinstance(term, Divided) else v % term.by for v in inside]

    def _pattern(self, term: Term) -> list[int] | None:
        """Each lane's remainder, or how far its quotient is above the quotient of lane 0, where the code knows."""
        if isinstance(term, Variable) or self.lanes % term.by or self.slope(term.of) != 1:
            return None
        start = self._residue(term.of, term.by)
        if start is None:
            return None
        return [(start + i) // term.by if isinstance(term, Divided) else (start + i) % term.by for i in range(self.lanes)]

    def _residue(self, index: Index, by: int) -> int | None:
        """Lane 0 modulo `by`, a divisor of the number of lanes, where the code knows."""
        total = index.constant
        for term, factor in index.terms:
            if factor % by == 0 or (term == self.lane and self.even):
                continue
            rest = self._residue(term.of, by) if isinstance(term, Remainder) and term.by % by == 0 else None
            if rest is None:
                return None
            total += factor * rest
        return total % by

    def _starts_even(self, index: Index) -> bool:
        """Whether lane 0 is a multiple of the number of lanes, as the lane variable's lane 0 is."""
        return index.constant % self.lanes == 0 and all(
            factor % self.lanes == 0 or term == self.lane
            or (isinstance(term, Remainder) and term.by % self.lanes == 0 and self._starts_even(term.of))
            for term, factor in index.terms)

    def index(self, index: Index) -> Value:
        """The value of an index: i64, or a vector of i32 (where all parts fit) or i64."""
        key = ("index", index)
        known = self.recall(key)
        if known is not None:
            return known
        if not self.is_vector(index):
            return self.first(index)
        scalar = "i32" if _fits(index) else "i64"
        return self.remember(key, self._vector_index(index, scalar))

    def first(self, index: Index) -> Value:
        """The value of an index in lane 0, as i64."""
        key = ("first", index)
        known = self.recall(key)
        if known is not None:
            return known
        total = Value("0", "i64")
        for term, factor in index.terms:
            total = self.f.add(total, self.f.mul(self._term(term, ""), Value(str(factor), "i64")))
        return self.remember(key, self.f.add(total, Value(str(index.constant), "i64")))

    def _vector_index(self, index: Index, scalar: str) -> Value:
        type_ = vector(self.lanes, scalar)
        still = Index(tuple((t, f) for t, f in index.terms if not self.is_vector(Index.of(t))), index.constant)
        total: Value | None = None
        if still.terms:
            base = self.index(still)
            total = self.broadcast(self.f.convert("trunc", base, scalar) if scalar != "i64" else base)
        elif still.constant:
            total = constant(still.constant, type_)
        for term, factor in index.terms:
            if not self.is_vector(Index.of(term)):
                continue
            part = self._term(term, scalar)
            if factor != 1:
                part = self.f.emit(f"mul {type_} {part.name}, {constant(factor, type_).name}", type_)
            total = part if total is None else self.f.emit(f"add {type_} {total.name}, {part.name}", type_)
        assert total is not None
        return total

    def _term(self, term: Term, scalar: str) -> Value:
        """A term's value: i64 for an empty `scalar`, else a vector of it."""
        if isinstance(term, Variable):
            value = self.bound(term)
            if value is None:
                raise LoweringError(f"the variable {term} is not bound")
            if not scalar:
                return value
            if value.lanes:
                return value if value.element == scalar else self.f.convert("trunc", value, scalar)
            known = self.recall(("lanes", term, scalar))
            if known is not None:
                return known
            base = self.broadcast(self.f.convert("trunc", value, scalar) if scalar != "i64" else value)
            result = self.f.emit(f"add {base.type} {base.name}, {lane_numbers(self.lanes, scalar).name}", base.type)
            return self.remember(("lanes", term, scalar), result)
        if scalar:
            known = self._known(term, scalar)
            if known is not None:
                return known
        value = self._vector_index(term.of, scalar) if scalar else self.first(term.of)
        shift = -(-max(0, -term.of.range[0]) // term.by)  # whole periods that make it non-negative
        by = constant(term.by, value.type)
        if shift:
            value = self.f.emit(f"add {value.type} {value.name}, {constant(shift * term.by, value.type).name}", value.type)
        if isinstance(term, Divided):
            if value.number is not None:
                return Value(str(value.number // term.by - shift), "i64")
            result = self.f.emit(f"udiv {value.type} {value.name}, {by.name}", value.type)
            if shift:
                result = self.f.emit(f"sub {value.type} {result.name}, {constant(shift, value.type).name}", value.type)
            return result
        if value.number is not None:
            return Value(str(value.number % term.by), "i64")
        return self.f.emit(f"urem {value.type} {value.name}, {by.name}", value.type)

    def _known(self, term: Divided | Remainder, scalar: str) -> Value | None:
        """A quotient or remainder as a vector of which the code knows how lanes differ: none of them divides."""
        pattern = range(self.lanes) if self._slope(term) == 1 else self._pattern(term)
        if pattern is None:
            return None
        more = numbers(pattern, scalar)
        if isinstance(term, Remainder) and self.lanes % term.by == 0:
            return more
        first = self._term(term, "")
        base = self.broadcast(self.f.convert("trunc", first, scalar) if scalar != "i64" else first)
        return self.f.emit(f"add {base.type} {base.name}, {more.name}", base.type)

    def holds(self, guard: GuardKey) -> Value:
        """Whether all conditions hold: i1, or a vector of it."""
        key = ("holds", guard)
        known = self.recall(key)
        if known is not None:
            return known
        total: Value | None = None
        for index, low, high in guard:
            each = self.values(index) if self.is_vector(index) else None
            if each is not None:
                test = numbers([int(low <= v < high) for v in each], "i1")
            else:
                value = self.index(index)
                if low:
                    value = self.f.emit(f"sub {value.type} {value.name}, {constant(low, value.type).name}", value.type)
                test = self.f.compare("icmp ult", value, constant(high - low, value.type))
            if total is not None:
                total, test = self.aligned([total, test])
                test = self.f.emit(f"and {test.type} {total.name}, {test.name}", test.type)
            total = test
        return self.remember(key, total or Value("true", "i1"))


def _fits(index: Index) -> bool:
    """Whether every intermediate result fits 32 bits."""
    limit = 1 << 30
    low, high = index.range
    if low < -limit or high > limit or abs(index.constant) > limit:
        return False
    for term, factor in index.terms:
        a, b = term.range()
        if max(abs(a * factor), abs(b * factor)) > limit:
            return False
        if not isinstance(term, Variable) and (not _fits(term.of) or term.by > limit):
            return False
    return True
