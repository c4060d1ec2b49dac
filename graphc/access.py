"""How a chain of views reads the tensor under it.

Knows how to follow VIEW nodes down with index expressions.  Must not know buffers or code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .index import Guard, Index, Variable, linear, variables_for
from .ir import Node
from .op import Kind


class Read(NamedTuple):
    """Element `indices` of `base`, where every guard holds; else `fill`."""

    base: Node
    indices: tuple[Index, ...]
    guard: Guard
    fill: Any = 0


def follow(node: Node, indices: Sequence[Index], stop: Callable[[Node], bool] = lambda node: False) -> Read:
    """The read that an element of `node` stands for: views are followed until one is guarded or `stop` says so.

    A guarded view (padding) ends the walk one step below it, so that its fill value stays with its guard.
    """
    place = tuple(indices)
    while node.op.kind is Kind.VIEW and not stop(node):
        place, guard = node.op.index(place, node.inputs[0].type, **node.attributes)
        fill = node.attributes.get("fill", 0)
        node = node.inputs[0]
        if guard:
            return Read(node, place, guard, fill)
    return Read(node, place, [])


class Strided(NamedTuple):
    """A read that is affine in every axis: element offset and one stride per axis, into row-major `base`."""

    base: Node
    offset: int
    strides: tuple[int, ...]


def strided(node: Node, stop: Callable[[Node], bool] = lambda node: False) -> Strided | None:
    """How `node` reads its base with strides alone; None where a guard or a division is in the way."""
    variables = variables_for(node.shape)
    read = follow(node, variables, stop)
    if read.guard:
        return None
    place = linear(read.indices, read.base.shape)
    strides = []
    for variable in variables:
        if not variable.terms:  # an axis of size 1
            strides.append(0)
            continue
        term = variable.terms[0][0]
        assert isinstance(term, Variable)
        factor = place.factor(term)
        if factor is None:
            return None
        strides.append(factor)
    return Strided(read.base, place.constant, tuple(strides))
