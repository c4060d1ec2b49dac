"""Regions of a tensor: one side of a diagonal of two of its axes, and how views carry them.

Knows index maps of views.  Must not know masks, contractions or op names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.index import Index, variables_for
from graphc.ir import Node
from graphc.op import Kind, Moves
from graphc.records import NamedTuple
from graphc.types import Size

from .cost import beyond

LEAST = 10  # one in so many elements lies in a region that counts, at least


class Region(NamedTuple):
    """Elements beyond a diagonal: index[first] - index[second] > offset, of two axes."""

    first: int
    second: int
    offset: int


Facts = Mapping[Region, Any]  # what all elements of a region are


def is_worth_it(first: int, second: int, offset: int) -> bool:
    """Whether a region of axes of these sizes is large enough to be left out."""
    return LEAST * beyond(first, second, offset) >= first * second


def through_view(node: Node, facts: Facts) -> Facts:
    """The facts about a view's operand as facts about the view."""
    if not facts or guarded(node):
        return {}
    place, axes, found = read_place(node), axes_of(node), {}
    for region, value in facts.items():
        first, second = moved(place[region.first], axes), moved(place[region.second], axes)
        if first is not None and second is not None:
            found[Region(first[0], second[0], region.offset - first[1] + second[1])] = value
    return found


def read_place(node: Node) -> tuple[Index, ...]:
    """The place in its operand that a view reads for a place of its own."""
    return tuple(node.op.index(variables_for(node.shape), node.inputs[0].type, **node.attributes)[0])


def guarded(node: Node) -> bool:
    """Whether a view has elements that are not its operand's."""
    return bool(node.op.index(variables_for(node.shape), node.inputs[0].type, **node.attributes)[1])


def axes_of(node: Node) -> dict[Index, int]:
    """The axis of each variable of a node's place; axes of size 1 have none."""
    return {variable: axis for axis, variable in enumerate(variables_for(node.shape)) if node.shape[axis] != 1}


def moved(index: Index, axes: Mapping[Index, int]) -> tuple[int, int] | None:
    """(axis, distance) of a place along one axis; None where it is something else."""
    axis = axes.get(index - index.constant)
    return None if axis is None else (axis, index.constant)


def long_axes(shape: Sequence[Size]) -> list[int]:
    """The axes that are not of size 1."""
    return [a for a, size in enumerate(shape) if size != 1]


def core(node: Node) -> Node:
    """What a tensor is but for axes of size 1."""
    while node.op.kind is Kind.VIEW and node.op.moves is Moves.NOTHING and \
            [node.shape[a] for a in long_axes(node.shape)] == [s for s in node.inputs[0].shape if s != 1]:
        node = node.inputs[0]
    return node
