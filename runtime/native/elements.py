"""Elements: the value of any node of a kernel's body at symbolic indices, as LLVM code.

Knows views, loads, guards, gathers and scalar bodies, each value emitted once per scope.  One loop variable may be the
*lane* variable: what depends on it is a vector whose lane i belongs to the variable's value plus i; everything else stays
scalar until a vector meets it.  Must not know loop structures, folds, op names or threads.

Scopes mirror the blocks of the function: what was emitted in a scope is visible in it and in those inside it.  `hoist`
emits, before a loop is entered, all that does not depend on the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from graphc.index import Divided, Guard, Index, Term, Variable, linear
from graphc.ir import Node
from graphc.op import Kind

from .emit import Function, Value, constant, lane_numbers, vector
from .scalar import NativeScalar

LLVM = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64", "bool": "i1"}
GuardKey = tuple[tuple[Index, int, int], ...]
Key = tuple[Node, tuple[Index, ...], GuardKey]
ZERO = Index((), 0)


class LoweringError(RuntimeError):
    """A kernel that breaks the rules of its form: a fault of fusion, never of the user's graph."""


class Action(Enum):
    """How an element comes to be."""

    LOAD = "load"  # from memory
    VALUE = "value"  # set by the loop structure: a finished fold
    NUMBER = "number"  # a constant
    POSITION = "position"  # an index as a number
    SCALAR = "scalar"  # the op's scalar body
    GUARDED = "guarded"  # the operand where the guard holds, else a fill
    GATHER = "gather"  # from memory at an index that is data


@dataclass(frozen=True, eq=False)
class Step:
    """One element: what to do, on which other elements, and the variables that it depends on."""

    action: Action
    node: Node
    operands: tuple[Key, ...] = ()
    base: Node | None = None
    place: Index = ZERO
    guard: GuardKey = ()
    payload: Any = None
    variables: frozenset[Variable] = frozenset()


@dataclass(eq=False)
class Scope:
    """One block's knowledge: what variables are, the tail mask, and what has been emitted."""

    bindings: dict[Variable, Value] = field(default_factory=dict)
    lane: Variable | None = None
    mask: Value | None = None  # of the lanes that exist; None where all do
    values: dict[Node, Value] = field(default_factory=dict)
    memo: dict[Any, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """Where a node's elements lie: element `place(indices)` of an array of the node's dtype."""

    pointer: Value
    place: Callable[[tuple[Index, ...]], Index]
    size: int


def row_major(node: Node, pointer: Value) -> Memory:
    shape = node.shape
    return Memory(pointer, lambda indices: linear(indices, shape), int(node.type.size))


def memory_type(node: Node) -> str:
    """The LLVM type of an element in memory: bools are bytes."""
    return "i8" if node.dtype.is_bool else LLVM[node.dtype.name]


class Elements:
    """Emits elements at the end of the function's current block.

    memory   the nodes that lie in memory: slots, and whatever the loop structure puts there
    lanes    lanes of a vector; meaningful while a scope binds a lane variable
    """

    def __init__(self, f: Function, lanes: int) -> None:
        self.f, self.s, self.lanes = f, NativeScalar(f), lanes
        self.memory: dict[Node, Memory] = {}
        self.saved: dict[Key, tuple[Value, Index]] = {}  # kept in row scratch by an earlier pass
        self.folded: dict[Node, Index] = {}  # nodes whose value a scope holds -> the position that it is for
        self.scopes: list[Scope] = [Scope()]
        self.steps: dict[Key, Step] = {}
        self.gathered = 0

    # -- scopes ------------------------------------------------------------------------------------------------

    @contextmanager
    def inside(self, scope: Scope) -> Iterator[Scope]:
        self.scopes.append(scope)
        try:
            yield scope
        finally:
            self.scopes.pop()

    @property
    def lane(self) -> Variable | None:
        for scope in reversed(self.scopes):
            if scope.lane is not None:
                return scope.lane
        return None

    @property
    def mask(self) -> Value | None:
        for scope in reversed(self.scopes):
            if scope.lane is not None:
                return scope.mask
        return None

    def recall(self, key: Any) -> Value | None:
        for scope in reversed(self.scopes):
            value = scope.memo.get(key)
            if value is not None:
                return value
        return None

    def remember(self, key: Any, value: Value) -> Value:
        self.scopes[-1].memo[key] = value
        return value

    def bound(self, variable: Variable) -> Value | None:
        for scope in reversed(self.scopes):
            value = scope.bindings.get(variable)
            if value is not None:
                return value
        return None

    def depth(self, term: Term) -> int:
        """The innermost scope that a term depends on."""
        variables = {term} if isinstance(term, Variable) else term.of.variables()
        level = 0
        for variable in variables:
            for place in range(len(self.scopes) - 1, -1, -1):
                if variable in self.scopes[place].bindings:
                    level = max(level, place)
                    break
        return level

    # -- what an element consists of ---------------------------------------------------------------------------

    def key(self, node: Node, indices: Sequence[Index], guard: GuardKey = ()) -> Key:
        """The element's identity: plain views are looked through."""
        place = tuple(indices)
        while node.op.kind is Kind.VIEW and node not in self.memory:
            inner, conditions = node.op.index(place, node.inputs[0].type, **node.attributes)  # type: ignore[misc]
            if conditions:
                break
            node, place = node.inputs[0], inner
        return node, place, guard

    def step(self, key: Key) -> Step:
        known = self.steps.get(key)
        if known is not None:
            return known
        pending = [key]
        while pending:
            current = pending[-1]
            if current in self.steps:
                pending.pop()
                continue
            step = self._expand(current)
            missing = [k for k in step.operands if k not in self.steps]
            if missing:
                pending.extend(missing)
                continue
            variables = set(step.place.variables())
            for index, _, _ in step.guard:
                variables |= index.variables()
            for operand in step.operands:
                variables |= self.steps[operand].variables
            self.steps[current] = Step(step.action, step.node, step.operands, step.base, step.place, step.guard,
                                       step.payload, frozenset(variables))
            pending.pop()
        return self.steps[key]

    def _expand(self, key: Key) -> Step:
        node, indices, guard = key
        if node in self.memory:
            return Step(Action.LOAD, node, base=node, place=self.memory[node].place(indices), guard=guard)
        if node in self.folded:
            if linear(indices, node.shape) != self.folded[node]:
                raise LoweringError(f"{node!r} is read at {linear(indices, node.shape)}, not at its own position "
                                    f"{self.folded[node]}")
            return Step(Action.VALUE, node, place=self.folded[node])
        match node.op.kind:
            case Kind.MAP:
                return Step(Action.SCALAR, node, tuple(self.key(i, indices, guard) for i in node.inputs))
            case Kind.VIEW:
                place, conditions = node.op.index(indices, node.inputs[0].type,  # type: ignore[misc]
                                                  **node.attributes)
                inner = self.key(node.inputs[0], place, (*guard, *conditions))
                return Step(Action.GUARDED, node, (inner,), guard=tuple(conditions),
                            payload=node.attributes.get("fill", 0))
            case Kind.GATHER:
                return self._expand_gather(node, indices, guard)
            case Kind.SOURCE:
                return self._expand_source(node, indices, guard)
        raise LoweringError(f"{node!r} has no element by itself")

    def _expand_source(self, node: Node, indices: tuple[Index, ...], guard: GuardKey) -> Step:
        if "axis" in node.attributes:
            return Step(Action.POSITION, node, place=indices[node.attributes["axis"]])
        if node.op.numpy is None:
            raise LoweringError(f"{node!r} is not among the kernel's slots")
        array = np.asarray(node.op.numpy(**node.attributes))
        flat = array.reshape(-1)
        if flat.size and (flat.size == 1 or bool(np.all(flat == flat[0]))):
            return Step(Action.NUMBER, node, payload=flat[0].item())
        scalar = memory_type(node)
        table = self.f.module.table([v.item() for v in flat] or [0], scalar)
        self.memory[node] = row_major(node, table)
        return Step(Action.LOAD, node, base=node, place=self.memory[node].place(indices), guard=guard)

    def _expand_gather(self, node: Node, indices: tuple[Index, ...], guard: GuardKey) -> Step:
        data, index = node.inputs
        axis = node.attributes["axis"]
        self.gathered += 1
        found = Variable(f"gathered{self.gathered}", int(data.shape[axis]))
        place = tuple(Index.of(found) if a == axis else i for a, i in enumerate(indices))
        read_guard: Guard = []
        fill: Any = 0
        base = data
        while base.op.kind is Kind.VIEW and base not in self.memory:
            place, conditions = base.op.index(place, base.inputs[0].type, **base.attributes)  # type: ignore[misc]
            if conditions and read_guard:
                raise LoweringError(f"{node!r} gathers from a doubly guarded view")
            if conditions:
                read_guard, fill = conditions, base.attributes.get("fill", 0)
            base = base.inputs[0]
        if base not in self.memory:
            if base.op.kind is not Kind.SOURCE:
                raise LoweringError(f"{node!r} gathers from {base!r}, which is not in memory")
            self._expand_source(base, place, ())
            if base not in self.memory:  # equal numbers, or positions: through memory all the same
                values = np.asarray(base.op.numpy(**base.attributes)).reshape(-1)  # type: ignore[misc]
                table = self.f.module.table([v.item() for v in values] or [0], memory_type(base))
                self.memory[base] = row_major(base, table)
        where = self.memory[base].place(place)
        step = Step(Action.GATHER, node, (self.key(index, indices, guard),), base, where, tuple(read_guard),
                    (found, fill, where))
        # the gathered variable is no loop variable: what the element depends on comes from the index and the rest
        rest = Index(tuple((t, f) for t, f in where.terms if found not in _variables(t)), where.constant)
        hidden = [Index.of(v) for t, _ in where.terms if found in _variables(t) for v in _variables(t) - {found}]
        for condition, _, _ in step.guard:
            hidden += [Index.of(v) for v in condition.variables() - {found}]
        for index_ in hidden:
            rest = rest + index_ * 1
        return Step(step.action, node, step.operands, base, rest, (), (found, fill, where, tuple(read_guard)))

    def reachable(self, roots: Iterable[Key]) -> list[Key]:
        """Everything that the roots need, operands first; what is saved is not looked into."""
        order: list[Key] = []
        seen: set[Key] = set()
        stack: list[tuple[Key, bool]] = [(k, False) for k in reversed(list(roots))]
        while stack:
            key, done = stack.pop()
            if done:
                order.append(key)
                continue
            if key in seen:
                continue
            seen.add(key)
            stack.append((key, True))
            if key not in self.saved:
                stack.extend((k, False) for k in self.step(key).operands)
        return order

    # -- emission ----------------------------------------------------------------------------------------------

    def emit(self, roots: Sequence[Key]) -> list[Value]:
        """The values of some elements; each a vector where it depends on the lane variable, else a scalar."""
        stack: list[tuple[Key, bool]] = [(k, False) for k in reversed(roots)]
        while stack:
            key, ready = stack.pop()
            if ready:
                if self.recall(key) is None:
                    self.remember(key, self._emit(key))
            elif self.recall(key) is None:
                stack.append((key, True))
                if key not in self.saved:
                    stack.extend((k, False) for k in reversed(self.step(key).operands))
        return [self.recall(k) for k in roots]  # type: ignore[misc]

    def hoist(self, roots: Sequence[Key]) -> None:
        """Emits now what the roots need and what depends only on variables that are bound already."""
        late: set[Key] = set()  # what waits for a fold
        for key in self.reachable(roots):
            if key in self.saved:
                continue
            step = self.step(key)
            if step.action is Action.VALUE:
                if not any(key[0] in scope.values for scope in self.scopes):
                    late.add(key)
                continue
            if any(k in late for k in step.operands):
                late.add(key)
                continue
            if step.action is Action.NUMBER:
                continue
            if all(self.bound(v) is not None for v in step.variables):
                self.emit([key])
            elif step.action is Action.LOAD:
                known = tuple((t, f) for t, f in step.place.terms
                              if all(self.bound(v) is not None for v in _variables(t)))
                assert step.base is not None
                self.address(step.base, self.memory[step.base].pointer, Index(known, step.place.constant))

    def _emit(self, key: Key) -> Value:
        saved = self.saved.get(key)
        if saved is not None:
            return self.load(key[0], saved[0], saved[1], ())
        step = self.step(key)
        node = step.node
        match step.action:
            case Action.LOAD:
                assert step.base is not None
                source = self.memory[step.base]
                return self.load(node, source.pointer, step.place, step.guard, source.size)
            case Action.NUMBER:
                return constant(step.payload, LLVM[node.dtype.name])
            case Action.VALUE:
                for scope in reversed(self.scopes):
                    if node in scope.values:
                        return scope.values[node]
                raise LoweringError(f"{node!r} is read before it is folded")
            case Action.POSITION:
                return self.s.cast(self.index(step.place), node.dtype.name)
            case Action.SCALAR:
                values = self.aligned([self.emit([k])[0] for k in step.operands])
                return node.op.scalar(self.s, *values, **node.attributes)  # type: ignore[misc]
            case Action.GUARDED:
                condition = self.holds(step.guard)
                inner = self.emit([step.operands[0]])[0]
                if self._reads_zero_outside(step):
                    return inner
                fill = constant(step.payload, LLVM[node.dtype.name])
                return self.select(condition, inner, fill)
            case Action.GATHER:
                return self._emit_gather(step)
        raise AssertionError(step.action)

    def _reads_zero_outside(self, step: Step) -> bool:
        """Whether the lanes outside a guard hold its fill already: masked loads give zero there."""
        (inner,) = step.operands
        below = self.step(inner)
        return (below.action is Action.LOAD and inner not in self.saved and self.is_vector(below.place)
                and set(step.guard) <= set(below.guard) and step.payload == 0 and str(step.payload)[0] != "-")

    def _emit_gather(self, step: Step) -> Value:
        found, fill, place, guard = step.payload
        node = step.node
        missing = constant(float("nan") if node.dtype.is_float else 0, LLVM[node.dtype.name])
        if found.extent == 0:
            return missing
        index = self.emit([step.operands[0]])[0]
        inside = self.f.compare("icmp ult", index, constant(found.extent, index.type))
        safe = self.f.select(inside, index, constant(0, index.type))
        assert step.base is not None
        source = self.memory[step.base]
        with self.inside(Scope({found: safe})):
            value = self.load(step.base, source.pointer, place, guard, source.size)
            if guard:
                value = self.select(self.holds(guard), value, constant(fill, LLVM[node.dtype.name]))
        return self.select(inside, value, missing)

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
        lane = self.lane
        for variable in index.variables():
            if variable == lane:
                return True
            value = self.bound(variable)
            if value is not None and value.lanes:
                return True
        return False

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

    def holds(self, guard: GuardKey) -> Value:
        """Whether all conditions hold: i1, or a vector of it."""
        key = ("holds", guard)
        known = self.recall(key)
        if known is not None:
            return known
        total: Value | None = None
        for index, low, high in guard:
            value = self.index(index)
            if low:
                value = self.f.emit(f"sub {value.type} {value.name}, {constant(low, value.type).name}", value.type)
            test = self.f.compare("icmp ult", value, constant(high - low, value.type))
            if total is not None:
                total, test = self.aligned([total, test])
                test = self.f.emit(f"and {test.type} {total.name}, {test.name}", test.type)
            total = test
        return self.remember(key, total or Value("true", "i1"))

    # -- memory ------------------------------------------------------------------------------------------------

    def address(self, node: Node, pointer: Value, place: Index) -> Value:
        """The address of an element at a scalar place, built up scope by scope so that outer parts are shared."""
        key = ("address", pointer.name, place)
        known = self.recall(key)
        if known is not None:
            return known
        scalar = memory_type(node)
        if not place.terms:
            if not place.constant:
                return pointer
            return self.remember(key, self.f.emit(f"getelementptr {scalar}, {pointer}, i64 {place.constant}", "ptr"))
        depths = [self.depth(t) for t, _ in place.terms]
        deepest = max(depths)
        inner = Index(tuple(t for t, d in zip(place.terms, depths, strict=True) if d == deepest), 0)
        outer = Index(tuple(t for t, d in zip(place.terms, depths, strict=True) if d != deepest), place.constant)
        base = self.address(node, pointer, outer)
        offset = self.first(inner)
        if offset.number == 0:
            return base
        return self.remember(key, self.f.emit(f"getelementptr {scalar}, {base}, {offset}", "ptr"))

    def lane_mask(self, guard: GuardKey) -> Value | None:
        """The lanes that exist and where the guard holds; None for all."""
        mask = self.mask
        if not guard:
            return mask
        condition = self.broadcast(self.holds(guard))
        if mask is None:
            return condition
        key = ("mask", guard)
        known = self.recall(key)
        if known is not None:
            return known
        return self.remember(key, self.f.emit(f"and {mask.type} {mask.name}, {condition.name}", mask.type))

    def load(self, node: Node, pointer: Value, place: Index, guard: GuardKey, size: int = 1) -> Value:
        """An element in memory; never touches what no lane asks for."""
        scalar = memory_type(node)
        if size == 0:
            return constant(0, LLVM[node.dtype.name])
        if not self.is_vector(place):
            value = self.f.load(self._safe_address(node, pointer, place, guard, size), scalar)
        else:
            value = self._load_vector(node, pointer, place, guard)
        if node.dtype.is_bool:
            return self.f.compare("icmp ne", value, constant(0, value.type))
        return value

    def _safe_address(self, node: Node, pointer: Value, place: Index, guard: GuardKey, size: int) -> Value:
        low, high = place.range
        if not guard or (low >= 0 and high < size):
            return self.address(node, pointer, place)
        offset = self.index(place)
        inside = self.f.compare("icmp ult", offset, Value(str(size), "i64"))
        return self.f.offset(pointer, self.f.select(inside, offset, Value("0", "i64")), memory_type(node))

    def lane_factor(self, place: Index) -> int | None:
        """How far apart neighbouring lanes are; None where that is not one number."""
        lane = self.lane
        for variable in place.variables():
            value = self.bound(variable)
            if variable != lane and value is not None and value.lanes:
                return None
        return place.factor(lane) if lane is not None else 0

    def _load_vector(self, node: Node, pointer: Value, place: Index, guard: GuardKey) -> Value:
        scalar = memory_type(node)
        type_ = vector(self.lanes, scalar)
        mask = self.lane_mask(guard)
        factor = self.lane_factor(place)
        if factor is None:
            return self.f.gather(pointer, self.index(place), scalar, mask)
        start = self.address(node, pointer, place)
        if factor == 1:
            return self.f.load(start, type_) if mask is None else self.f.masked_load(start, type_, mask)
        if factor == -1:
            start = self.f.emit(f"getelementptr {scalar}, {start}, i64 {1 - self.lanes}", "ptr")
            loaded = (self.f.load(start, type_) if mask is None
                      else self.f.masked_load(start, type_, self.reverse(mask)))
            return self.reverse(loaded)
        return self.f.gather(start, self._strides(factor), scalar, mask)

    def reverse(self, value: Value) -> Value:
        order = ", ".join(f"i32 {i}" for i in reversed(range(self.lanes)))
        return self.f.emit(f"shufflevector {value}, {value.type} poison, <{self.lanes} x i32> <{order}>", value.type)

    def _strides(self, factor: int) -> Value:
        scalar = "i32" if abs(factor) * self.lanes < 1 << 31 else "i64"
        numbers = ", ".join(f"{scalar} {i * factor}" for i in range(self.lanes))
        return Value(f"<{numbers}>", vector(self.lanes, scalar))

    def store(self, node: Node, value: Value, pointer: Value, place: Index) -> None:
        """Writes an element; with a lane variable the lanes that exist, side by side or scattered."""
        if value.element == "i1":
            value = self.f.convert("zext", value, "i8")
        if not self.is_vector(place):
            self.f.store(value, self.address(node, pointer, place))
            return
        value, mask = self.broadcast(value), self.mask
        factor = self.lane_factor(place)
        if factor == 1:
            start = self.address(node, pointer, place)
            if mask is None:
                self.f.store(value, start)
            else:
                self.f.masked_store(value, start, mask)
            return
        if factor == -1:
            start = self.address(node, pointer, place)
            start = self.f.emit(f"getelementptr {value.element}, {start}, i64 {1 - self.lanes}", "ptr")
            if mask is None:
                self.f.store(self.reverse(value), start)
            else:
                self.f.masked_store(self.reverse(value), start, self.reverse(mask))
            return
        if factor is None:
            self.f.scatter(value, pointer, self.index(place), mask)
        else:
            self.f.scatter(value, self.address(node, pointer, place), self._strides(factor), mask)


def _variables(term: Term) -> set[Variable]:
    return {term} if isinstance(term, Variable) else term.of.variables()


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
