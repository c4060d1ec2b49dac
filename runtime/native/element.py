"""One element, or one vector of elements, of any node of a kernel's body.

Knows how index expressions become addresses, and how values are pulled from slots through views, gathers and maps.  Must
not know loop structures or op names.

A loop variable has an LLVM value; the *lane* variable stands for `lanes` neighbouring positions at once.  What is computed is
remembered for the current block, so shared subexpressions are emitted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count as counter

import numpy as np

from graphc.index import Divided, Guard, Index, Remainder, Variable, linear
from graphc.ir import Node
from graphc.op import Kind
from graphc.types import DType

from .emit import Function, Value, constant, i64, lane_numbers, vector
from .scalar import NativeScalar

LLVM = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64", "bool": "i1"}
Guards = tuple[tuple[Index, int, int], ...]
Key = tuple[Node, tuple[Index, ...], Guards]
Override = Callable[["Elements", tuple[Index, ...], Guards], Value]
_dynamic = counter()


def memory_type(dtype: DType) -> str:
    """How an element lies in memory: bools are bytes."""
    return "i8" if dtype.is_bool else LLVM[dtype.name]


class Elements:
    """Emits elements at the end of the function's current block.

    slots      address of each slot of the body
    overrides  nodes whose value comes from elsewhere: a contraction's tile, a finished reduction
    """

    def __init__(self, f: Function, slots: dict[Node, Value], overrides: dict[Node, Override] | None = None) -> None:
        self.f, self.s, self.slots = f, NativeScalar(f), slots
        self.overrides = dict(overrides or {})
        self.pinned: frozenset[Node] = frozenset()  # what depends on a place inside a tile: never hoisted
        self.values: dict[Variable, Value] = {}  # loop variables; vectors of i64 for data-dependent ones
        self.lane: Variable | None = None
        self.lanes = 0
        self.mask: Value | None = None  # of the last, partial vector
        self.memo: list[dict[object, Value]] = [{}]

    # -- scopes ------------------------------------------------------------------------------------------------

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is computed inside is forgotten after: it does not dominate what follows."""
        self.memo.append({})
        yield
        self.memo.pop()

    @contextmanager
    def lane_loop(self, variable: Index, base: Value, lanes: int, mask: Value | None = None) -> Iterator[None]:
        """Inside, the variable stands for base, base + 1, ...; with no lanes it is one position."""
        before = self.lane, self.lanes, self.mask
        name = only_variable(variable)
        with self.scope():
            if name is not None:
                self.values[name] = base
            self.lane, self.lanes, self.mask = (name if lanes else None), lanes, mask
            yield
        self.lane, self.lanes, self.mask = before

    def bind(self, variable: Index, value: Value) -> None:
        name = only_variable(variable)
        if name is not None:
            self.values[name] = value

    def known(self, key: object) -> Value | None:
        for memo in reversed(self.memo):
            if key in memo:
                return memo[key]
        return None

    def remember(self, key: object, value: Value) -> Value:
        self.memo[-1][key] = value
        return value

    # -- indices -----------------------------------------------------------------------------------------------

    def is_vector(self, index: Index) -> bool:
        return any(v == self.lane or self.values[v].lanes for v in index.variables())

    def integer(self, index: Index) -> Value:
        """The index as an i64, or as a vector of them where it differs from lane to lane."""
        key = ("index", index)
        found = self.known(key)
        return found if found is not None else self.remember(key, self._integer(index))

    def _integer(self, index: Index) -> Value:
        f, wide = self.f, self.lanes if self.is_vector(index) else 0
        total = self._spread(i64(index.constant), wide)
        for term, factor in index.terms:
            value = self._spread(self._term(term), wide)
            if factor != 1:
                value = f.binary("mul", value, self._spread(i64(factor), wide))
            total = value if total.name in ("0", "splat (i64 0)") else f.binary("add", total, value)
        return total

    def _term(self, term: Variable | Divided | Remainder) -> Value:
        f = self.f
        if isinstance(term, Variable):
            value = self.values[term]
            if term == self.lane:
                return f.binary("add", f.broadcast(value, self.lanes), lane_numbers(self.lanes))
            return value
        inside = self.integer(term.of)
        by = self._spread(i64(term.by), inside.lanes)
        if term.of.range[0] >= 0:
            return f.binary("udiv" if isinstance(term, Divided) else "urem", inside, by)
        method = self.s.floordiv if isinstance(term, Divided) else self.s.mod
        return method(inside, by)

    def _spread(self, value: Value, lanes: int) -> Value:
        return self.f.broadcast(value, lanes) if lanes and not value.lanes else value

    def condition(self, guards: Guards, *, tail: bool = True) -> Value | None:
        """Whether every guard holds (and the lane is inside); i1 or a vector, None where nothing can fail."""
        f, result = self.f, None
        for index, low, high in guards:
            lowest, highest = index.range
            value = self.integer(index)
            for predicate, limit, needed in (("icmp sge", low, lowest < low), ("icmp slt", high, highest >= high)):
                if needed:
                    test = f.compare(predicate, value, constant(limit, value.type))
                    result = test if result is None else self._both(result, test)
        if tail and self.mask is not None:
            result = self.mask if result is None else self._both(result, self.mask)
        return result

    def _both(self, a: Value, b: Value) -> Value:
        wide = max(a.lanes, b.lanes)
        return self.f.binary("and", self._spread(a, wide), self._spread(b, wide))

    # -- values ------------------------------------------------------------------------------------------------

    def value(self, node: Node, indices: Sequence[Index], guards: Guards = ()) -> Value:
        """The node's element at these indices: a vector where they hold the lane variable, else possibly a scalar."""
        stack: list[Key] = [(node, tuple(indices), guards)]
        while stack:
            key = stack[-1]
            if self.known(key) is not None:
                stack.pop()
                continue
            missing = [k for k in self.needs(key) if self.known(k) is None]
            if missing:
                stack.extend(missing)
            else:
                self.remember(key, self.compute(key))
                stack.pop()
        result = self.known((node, tuple(indices), guards))
        assert result is not None
        return result

    def wide(self, node: Node, indices: Sequence[Index]) -> Value:
        """The element with all lanes, also where every lane has the same."""
        return self._spread(self.value(node, indices), self.lanes)

    def needs(self, key: Key) -> list[Key]:
        node, indices, guards = key
        if node in self.overrides or node in self.slots or node.op.kind is Kind.SOURCE:
            return []
        if node.op.kind is Kind.VIEW:
            inner, guard = self.mapped(node, indices)
            return [(node.inputs[0], inner, guards + tuple(guard))]
        if node.op.kind is Kind.GATHER:
            return [(node.inputs[1], indices, guards)]
        return [(i, indices, guards) for i in node.inputs]

    def mapped(self, node: Node, indices: tuple[Index, ...]) -> tuple[tuple[Index, ...], Guard]:
        return node.op.index(indices, node.inputs[0].type, **node.attributes)  # type: ignore[misc]

    def compute(self, key: Key) -> Value:
        node, indices, guards = key
        if node in self.overrides:
            return self.overrides[node](self, indices, guards)
        if node in self.slots:
            return self.load(self.slots[node], node.dtype, linear(indices, node.shape), guards)
        kind = node.op.kind
        if kind is Kind.SOURCE:
            return self.source(node, indices)
        if kind is Kind.VIEW:
            return self.view(node, indices, guards)
        if kind is Kind.GATHER:
            return self.gathered(node, indices, guards)
        arguments = [self.value(i, indices, guards) for i in node.inputs]
        wide = max((a.lanes for a in arguments), default=0)
        return node.op.scalar(self.s, *(self._spread(a, wide) for a in arguments), **node.attributes)  # type: ignore[misc]

    def source(self, node: Node, indices: tuple[Index, ...]) -> Value:
        """A small constant, or an element's own position."""
        scalar = LLVM[node.dtype.name]
        if "value" in node.attributes:
            array = np.asarray(node.attributes["value"])
            if array.size == 1 or (array == array.flat[0]).all():
                return constant(array.flat[0].item(), scalar)
            table = self.f.module.table([v.item() for v in array.reshape(-1)], memory_type(node.dtype))
            return self.load(table, node.dtype, linear(indices, node.shape), ())
        place = self.integer(indices[node.attributes["axis"]])
        return self.s.cast(place, node.dtype.name)

    def view(self, node: Node, indices: tuple[Index, ...], guards: Guards) -> Value:
        inner, guard = self.mapped(node, indices)
        value = self.value(node.inputs[0], inner, guards + tuple(guard))
        if not guard:
            return value
        inside = self.condition(tuple(guard), tail=False)
        if inside is None:
            return value
        wide = max(value.lanes, inside.lanes)
        value = self._spread(value, wide)
        return self.f.select(self._spread(inside, wide), value, constant(node.attributes["fill"], value.type))

    def gathered(self, node: Node, indices: tuple[Index, ...], guards: Guards) -> Value:
        data, axis = node.inputs[0], node.attributes["axis"]
        place = self.value(node.inputs[1], indices, guards)
        size = int(data.shape[axis])
        inside = self.f.compare("icmp ult", place, constant(size, place.type))
        safe = self.f.select(inside, place, constant(0, place.type))
        variable = Variable(f"g{next(_dynamic)}", max(size, 2))
        self.values[variable] = safe
        where = tuple(Index.of(variable) if a == axis else i for a, i in enumerate(indices))
        if size == 0:
            value = constant(0, LLVM[node.dtype.name])
        else:
            value = self.value(data, where, guards)
        wide = max(value.lanes, inside.lanes)
        missing = float("nan") if node.dtype.is_float else 0
        value = self._spread(value, wide)
        return self.f.select(self._spread(inside, wide), value, constant(missing, value.type))

    # -- memory ------------------------------------------------------------------------------------------------

    def load(self, pointer: Value, dtype: DType, place: Index, guards: Guards) -> Value:
        """The element of a row-major buffer; nothing outside it is touched, whatever the guards and the tail say."""
        value = self._load(pointer, memory_type(dtype), place, guards)
        if dtype.is_bool:
            return self.f.compare("icmp ne", value, constant(0, value.type))
        return value

    def _load(self, pointer: Value, scalar: str, place: Index, guards: Guards) -> Value:
        f = self.f
        if not self.is_vector(place):
            condition = self.condition(guards, tail=False)
            at = self.integer(place)
            if condition is not None:
                if condition.lanes:  # the place is valid if any lane is; masked-off lanes do not look at the value
                    f.module.declare(f"llvm.vector.reduce.or.v{condition.lanes}i1", "i1", [condition.type])
                    condition = f.call(f"llvm.vector.reduce.or.v{condition.lanes}i1", [condition], "i1")
                at = f.select(condition, at, i64(0))
            return f.load(f.offset(pointer, at, scalar), scalar)
        step = place.factor(self.lane) if self.lane is not None else None
        uniform = step is not None and not any(self.values[v].lanes for v in place.variables())
        mask = self.condition(guards)
        mask = self._spread(mask, self.lanes) if mask is not None else None
        type_ = vector(self.lanes, scalar)
        if uniform and step == 1:
            address = f.offset(pointer, self._first(place), scalar)
            return f.load(address, type_) if mask is None else f.masked_load(address, type_, mask)
        if uniform and step == -1 and mask is None:
            address = f.offset(pointer, f.sub(self._first(place), i64(self.lanes - 1)), scalar)
            loaded = f.load(address, type_)
            order = ", ".join(f"i32 {i}" for i in reversed(range(self.lanes)))
            return f.emit(f"shufflevector {loaded}, {type_} poison, <{self.lanes} x i32> <{order}>", type_)
        return f.gather(pointer, self._spread(self.integer(place), self.lanes), scalar, mask)

    def _first(self, place: Index) -> Value:
        """The place of lane 0: the lane variable counted as a scalar."""
        key = ("first", place)
        found = self.known(key)
        if found is None:
            lane, self.lane = self.lane, None
            found = self.remember(key, self._integer(place))
            self.lane = lane
        return found

    def store(self, value: Value, pointer: Value, dtype: DType, place: Index) -> None:
        """Writes the element; under a tail mask only the lanes inside."""
        f, scalar = self.f, memory_type(dtype)
        if dtype.is_bool:
            value = f.convert("zext", value, "i8")
        if not self.is_vector(place):
            assert not value.lanes, "many lanes for one place"
            f.store(value, f.offset(pointer, self.integer(place), scalar))
            return
        value = self._spread(value, self.lanes)
        if (self.lane is not None and place.factor(self.lane) == 1
                and not any(self.values[v].lanes for v in place.variables())):
            address = f.offset(pointer, self._first(place), scalar)
            if self.mask is None:
                f.store(value, address)
            else:
                f.masked_store(value, address, self.mask)
            return
        f.scatter(value, pointer, self.integer(place), self.mask)


def only_variable(index: Index) -> Variable | None:
    """The variable that a bare loop index stands for; None of an axis of size 1."""
    if not index.terms:
        return None
    term = index.terms[0][0]
    assert isinstance(term, Variable)
    return term


def invariant_keys(elements: Elements, roots: Sequence[tuple[Node, tuple[Index, ...]]], inner: set[Variable]
                   ) -> list[Key]:
    """The largest subexpressions of the roots that do not change with the inner variables."""
    found: list[Key] = []
    seen: set[Key] = set()
    stack: list[Key] = [(node, indices, ()) for node, indices in roots]
    while stack:
        key = stack.pop()
        if key in seen:
            continue
        seen.add(key)
        node, indices, guards = key
        used = {v for i in indices for v in i.variables()} | {v for i, _, _ in guards for v in i.variables()}
        if used & inner or node in elements.pinned:
            stack.extend(elements.needs(key))
        elif not (node.op.kind is Kind.SOURCE and node not in elements.slots) and node not in elements.overrides:
            found.append(key)
    return found


def hoist(elements: Elements, roots: Sequence[tuple[Node, tuple[Index, ...]]], inner: Sequence[Index]) -> None:
    """Computes here, once, what the loops over `inner` would compute in every round."""
    variables = {v for i in inner if (v := only_variable(i)) is not None}
    for node, indices, guards in reversed(invariant_keys(elements, roots, variables)):
        if not guards:
            elements.value(node, indices)
