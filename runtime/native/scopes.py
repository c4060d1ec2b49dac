"""Scopes: what the code of a block knows.

A scope mirrors one block of the function that is written: which values its variables have, which lanes exist, and what has
been emitted there.  All of it is visible in the block and in those inside it.  Knows variables and values.  Must not know
what the values mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphc.index import Term, Variable
from graphc.ir import Node
from graphc.records import field, record

from .values import Value


class LoweringError(RuntimeError):
    """A kernel that breaks the rules of its form: a fault of fusion, never of the user's graph."""


@record(eq=False)
class Scope:
    """One block's knowledge: what variables are, the tail mask, and what has been emitted.

    even   whether the lane variable's value in lane 0 is known to be a multiple of the number of lanes
    """

    bindings: dict[Variable, Value] = field(default_factory=dict)
    lane: Variable | None = None
    mask: Value | None = None  # of the lanes that exist; None where all do
    values: dict[Node, Value] = field(default_factory=dict)
    memo: dict[Any, Value] = field(default_factory=dict)
    even: bool = False


class Scopes:
    """The scopes of the current block, innermost last."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = [Scope()]
        self.known: dict[Any, Value] = {}  # what the scopes remember, inner ones before outer ones

    @contextmanager
    def inside(self, scope: Scope) -> Iterator[Scope]:
        self.scopes.append(scope)
        known = self.known
        hidden = {key: known[key] for key in scope.memo if key in known}
        known.update(scope.memo)
        try:
            yield scope
        finally:
            self.scopes.pop()
            for key in scope.memo:
                del known[key]
            known.update(hidden)

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

    @property
    def even(self) -> bool:
        for scope in reversed(self.scopes):
            if scope.lane is not None:
                return scope.even
        return False

    def recall(self, key: Any) -> Value | None:
        return self.known.get(key)

    def remember(self, key: Any, value: Value) -> Value:
        """Notes what was not known; it is forgotten where the scope ends, and known again where it is entered again."""
        self.known[key] = self.scopes[-1].memo[key] = value
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
