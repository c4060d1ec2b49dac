"""Recipes: what an element of a node of a kernel's body consists of, at symbolic indices.

Knows the kinds: views are looked through, guards become conditions, small constants become numbers or tables.  Must not know
code: a recipe says what is to be done on which other elements, and on which variables that depends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from graphc.index import Guard, Index, Term, Variable, linear, narrowed
from graphc.ir import Node
from graphc.op import Kind
from graphc.walk import operands_first

from .addresses import Memory, memory_type, row_major
from .emit import Module
from .indices import GuardKey
from .scopes import LoweringError
from .values import Value

ZERO = Index((), 0)


class Element(NamedTuple):
    """Of which node, at which place, read where which guard holds."""

    node: Node
    indices: tuple[Index, ...]
    guard: GuardKey


class Key(Element):
    """An element, of which equal ones are one object (`Recipes.key`): it is found by identity."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


class Action(Enum):
    """How an element comes to be."""

    LOAD = "load"  # from memory
    VALUE = "value"  # set by the loop structure: a finished fold
    NUMBER = "number"  # a constant
    POSITION = "position"  # an index as a number
    SCALAR = "scalar"  # the op's scalar body
    GUARDED = "guarded"  # the operand where the guard holds, else a fill
    GATHER = "gather"  # from memory at an index that is data


class Step(NamedTuple):
    """One element: what to do, on which other elements, and the variables that it depends on.

    base      LOAD, GATHER: the node in memory, whose element `place` is read where `guard` holds
    payload   NUMBER: it; GUARDED: the fill; GATHER: the variable that stands for the index, and the fill
    """

    action: Action
    node: Node
    operands: tuple[Key, ...] = ()
    base: Node | None = None
    place: Index = ZERO
    guard: GuardKey = ()
    payload: Any = None
    variables: frozenset[Variable] = frozenset()


class Recipes:
    """The steps of all elements that were asked for.

    memory   the nodes that lie in memory: slots, and whatever the loop structure puts there
    saved    elements that an earlier pass kept in row scratch: where
    folded   nodes whose value a scope holds: the position that it is for
    """

    def __init__(self, module: Module) -> None:
        self.module = module  # receives tables of constants
        self.memory: dict[Node, Memory] = {}
        self.saved: dict[Key, tuple[Value, Index]] = {}
        self.folded: dict[Node, Index] = {}
        self.steps: dict[Key, Step] = {}
        self.gathered = 0
        self._keys: dict[tuple[Node, tuple[Index, ...], GuardKey], Key] = {}

    def key(self, node: Node, indices: Sequence[Index], guard: GuardKey = ()) -> Key:
        """The element's identity: plain views are looked through."""
        place = tuple(indices)
        while node.op.kind is Kind.VIEW and node not in self.memory:
            inner, conditions = node.op.index(place, node.inputs[0].type, **node.attributes)
            if conditions:
                break
            node, place = node.inputs[0], inner
        known = self._keys.get((node, place, guard))
        if known is None:
            known = self._keys[node, place, guard] = Key(node, place, guard)
        return known

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
            if step.action is Action.GATHER:  # the place that is found is no loop variable
                variables.discard(step.payload[0])
            self.steps[current] = Step(step.action, step.node, step.operands, step.base, step.place, step.guard,
                                       step.payload, frozenset(variables))
            pending.pop()
        return self.steps[key]

    def _expand(self, key: Key) -> Step:
        node, indices, guard = key
        if node in self.memory:
            at = self.memory[node].place(indices)
            return Step(Action.LOAD, node, base=node, place=narrowed(at, guard) if guard else at, guard=guard)
        if node in self.folded:
            if linear(indices, node.shape) != self.folded[node]:
                raise LoweringError(f"{node!r} is read at {linear(indices, node.shape)}, not at its own position "
                                    f"{self.folded[node]}")
            return Step(Action.VALUE, node, place=self.folded[node])
        match node.op.kind:
            case Kind.MAP:
                return Step(Action.SCALAR, node, tuple(self.key(i, indices, guard) for i in node.inputs))
            case Kind.VIEW:
                place, conditions = behind_view(node, indices)
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
        if node.op.is_given:
            raise LoweringError(f"{node!r} is not among the kernel's slots")
        flat = np.asarray(node.op.numpy(**node.attributes)).reshape(-1)
        if flat.size and (flat.size == 1 or bool(np.all(flat == flat[0]))):
            return Step(Action.NUMBER, node, payload=flat[0].item())
        return Step(Action.LOAD, node, base=node, place=self.tabulated(node).place(indices), guard=guard)

    def tabulated(self, node: Node) -> Memory:
        """Where a constant lies: in a table of the module, if not in a slot."""
        known = self.memory.get(node)
        if known is None:
            flat = np.asarray(node.op.numpy(**node.attributes)).reshape(-1)
            table = self.module.table([v.item() for v in flat] or [0], memory_type(node))
            known = self.memory[node] = row_major(node, table)
        return known

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
            place, conditions = behind_view(base, place)
            if conditions and read_guard:
                raise LoweringError(f"{node!r} gathers from a doubly guarded view")
            if conditions:
                read_guard, fill = conditions, base.attributes.get("fill", 0)
            base = base.inputs[0]
        if base not in self.memory and (base.op.kind is not Kind.SOURCE or base.op.is_given):
            raise LoweringError(f"{node!r} gathers from {base!r}, which is not in memory")
        where = self.tabulated(base).place(place)  # equal numbers and positions too
        return Step(Action.GATHER, node, (self.key(index, indices, guard),), base, where, tuple(read_guard), (found, fill))

    def reachable(self, roots: Iterable[Key]) -> list[Key]:
        """Everything that the roots need, operands first; what is saved is not looked into."""
        return operands_first(roots, lambda key: () if key in self.saved else reversed(self.step(key).operands))


def behind_view(view: Node, indices: Sequence[Index]) -> tuple[tuple[Index, ...], Guard]:
    """Where a view reads its operand, as simple as that is where its conditions hold; the conditions."""
    place, conditions = view.op.index(indices, view.inputs[0].type, **view.attributes)
    return tuple([narrowed(index, conditions) for index in place]), conditions


def variables_of(term: Term) -> set[Variable]:
    return {term} if isinstance(term, Variable) else term.of.variables()
