"""How tensors are handed to the runs of a loop in parts, and put together from parts.

Knows axes that are cut.  Must not know why something is cut, or what runs compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphc.ir import Node, inherit, make
from graphc.ops.views import expand_to, moveaxis, reshape
from graphc.symbols import Tensor

from .batch_axis import Split

Axes = tuple[int | None, ...]  # for each axis that is cut, where a tensor has it


def is_counted(split: Split, node: Node) -> bool:
    """Whether a chunk's part of a source depends on which chunk it is."""
    return bool(node.attributes["axis"] == split.inside[node])


def counted(split: Split, node: Node, chunk: Node) -> Node:
    """A chunk's part of a source that counts."""
    part = make(node.op, (), split.parts[node].attributes)
    if not is_counted(split, node):
        return part
    start = (Tensor(chunk) * int(part.shape[split.inside[node]])).astype(part.dtype)
    return inherit((Tensor(part) + expand_to(start, part.shape)).node, node)


def sequence(node: Node, places: Axes, counts: Sequence[int]) -> Node:
    """A tensor as the parts of all blocks, along a first axis; what lacks an axis is repeated for it."""
    at = {k: 0 for k in range(len(counts))}
    missing = [k for k in at if places[k] is None]
    shape, part = [1] * len(missing), list[int]()
    at.update({k: position for position, k in enumerate(missing)})
    for axis, size in enumerate(map(int, node.shape)):
        if axis in places[:len(counts)]:
            k = places.index(axis)
            at[k] = len(shape)
            shape.append(counts[k])
            size //= counts[k]
        shape.append(size)
        part.append(size)
    apart = moveaxis(reshape(Tensor(node), tuple(shape)), list(at.values()), list(at))
    return reshape(expand_to(apart, (*counts, *part)), (prod(counts), *part)).node


def joined(parts: Tensor, node: Node, places: Axes, counts: Sequence[int]) -> Node:
    """The parts of all blocks, along a first axis, as what they are parts of."""
    apart = reshape(parts, (*counts, *parts.shape[1:]))
    order: list[int] = []
    for axis in range(node.type.ndim):
        if axis in places:
            order.append(places.index(axis))
        order.append(len(counts) + axis)
    return reshape(apart.permute(order), node.shape).node
