"""States that `forward` assigns: `self.mean = 0.9 * self.mean + 0.1 * now` is what each step does.

In PyTorch such a line runs in each step.  Here it is written down once: the new value is what the attribute is from there on,
and what the outermost module returns carries it (`updating`).  What was read before is read in its turn (`reading`): where a
step calls a module twice, the second call begins with what the first one left, which is a constant for gradients.
Knows states and structures of results.  Must not know modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..cells import Cell
from ..errors import GraphError, ShapeError
from ..ir import substitute, topological
from ..ops import elementwise as e
from ..ops.control import Turn
from ..ops.overwriting import in_body
from ..origins import at, user_origin
from ..structures import flatten
from ..symbols import Parameter, Tensor

_given: ContextVar[dict[Cell, Tensor] | None] = ContextVar("given", default=None)  # new values of states, inside a forward


@contextmanager
def giving() -> Iterator[dict[Cell, Tensor]]:
    """What is inside may give states new values; it gets the table of them."""
    table: dict[Cell, Tensor] = {}
    token = _given.set(table)
    try:
        yield table
    finally:
        _given.reset(token)


def give(state: Parameter | None, value: Any) -> bool:
    """Gives a state a new value, which must be of its shape; False where nothing would carry it."""
    table = _given.get()
    if table is None or state is None or not isinstance(value, Tensor):
        return False
    if value.shape != state.shape:
        raise ShapeError(f"'{state.cell.name}' is {state.type}, the value that forward assigns to it {value.type}"
                         f"{at(user_origin())}")
    table[state.cell] = e.cast(value, state.dtype)
    return True


def now(state: Any) -> Any:
    """What a state is at this place of a forward."""
    table = _given.get()
    return table.get(state.cell, state) if table and isinstance(state, Parameter) else state


def carrying(result: Any, table: dict[Cell, Tensor], given: Any) -> Any:
    """The result, of which every symbol carries the new values, and reads old ones as calls before in the same step left them.

    given   what forward was given: what is computed there was read before
    """
    if not table:
        return result
    leaves, structure = flatten(result)
    symbols = [leaf for _, leaf in leaves if isinstance(leaf, Tensor)]
    if not symbols:
        raise GraphError(f"forward gives '{next(iter(table)).name}' a new value, and returns no symbol that could carry it"
                         f"{at(user_origin())}")
    turn, values = Turn(), list(table.values())
    roots = [s.node for s in (*symbols, *values)]
    known = {leaf.node: leaf.node for _, leaf in flatten(given)[0] if isinstance(leaf, Tensor)}
    for node in () if in_body() else topological(roots, known):  # in a loop, states advance once for all of its steps
        cell = node.attributes.get("cell")
        if cell in table and not cell.trainable:
            known[node] = turn.read(Tensor(node), cell).node
    moved = [Tensor(node) for node in substitute(roots, known)]
    new = iter(turn.updating(moved[:len(symbols)], list(table), moved[len(symbols):]))
    return structure.build(next(new) if isinstance(leaf, Tensor) else leaf for _, leaf in leaves)
