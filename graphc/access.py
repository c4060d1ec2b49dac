"""How a chain of views reads the tensor under it.

Knows how to follow VIEW nodes down with index expressions.  Must not know buffers or code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .index import Guard, Index, Variable, linear, variables_for
from .ir import Node
from .op import Kind

SHARED = 1.3  # times as large as the smallest may be what several views of it read


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


def smallest_cut(operand: Node, forced: set[Node], users: Mapping[Node, Sequence[Node]]) -> Node:
    """The view to put into memory so that strides describe the operand: the smallest of the chain that will do.

    Windows of a padded image are as many elements as there are taps times larger than the padded image itself.  One that
    several read may be somewhat larger: the phases of a convolution's gradient see parts of one padded image.
    """
    best = view = operand
    while view.op.kind is Kind.VIEW:
        most = int(best.type.size) * (SHARED if len(users[view]) > 1 else 1)
        if view is not best and int(view.type.size) < most and strided(operand, {*forced, view}.__contains__) is not None:
            best = view
        view = view.inputs[0]
    return best
