"""Elements: the value of any node of a kernel's body at symbolic indices, as LLVM code.

Knows how each action of a recipe is written, each value once per scope.  `hoist` emits, before a loop is entered, all that
does not depend on the loop.  Must not know loop structures, folds, op names or threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.index import Index

from .addresses import LLVM, Addresses
from .emit import Function
from .recipes import Action, Key, Recipes, Step, variables_of
from .scalar import NativeScalar
from .scopes import LoweringError, Scope
from .values import Value, constant


class Elements(Recipes, Addresses):
    """Emits elements at the end of the function's current block.

    lanes    of a vector; meaningful while a scope binds a lane variable
    """

    def __init__(self, f: Function, lanes: int) -> None:
        Addresses.__init__(self, f, lanes)
        Recipes.__init__(self, f.module)
        self.s = NativeScalar(f)

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
        values: list[Any] = [self.recall(k) for k in roots]
        return values

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
                              if all(self.bound(v) is not None for v in variables_of(t)))
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
                return node.op.scalar(self.s, *values, **node.attributes)
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
        found, fill = step.payload
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
            value = self.load(step.base, source.pointer, step.place, step.guard, source.size)
            if step.guard:
                value = self.select(self.holds(step.guard), value, constant(fill, LLVM[node.dtype.name]))
        return self.select(inside, value, missing)
