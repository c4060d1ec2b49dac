"""About how long nodes take on one thread: what decides whether a batch is cut, and into how many chunks.

Knows kinds, sizes and what a core does in a nanosecond.  Must not know chunks or threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType

from graphc.ir import Node
from graphc.labels import labels_of
from graphc.op import Kind

from .cost import cost_per_element

FLOPS_PER_NS, OPERATIONS_PER_NS = 250.0, 20.0  # in float32; half as many in float64
READ_PER_NS, VIEWED_PER_NS = 16.0, 4.0  # elements of a contraction's operand: of a tensor, through an index map
TILE = 12, 32  # rows and columns that a contraction computes at a time


def nanoseconds(node: Node) -> float:
    """About how long one thread takes."""
    if node.op.kind is Kind.LOOP:
        return float(node.attributes["length"]) * sum(map(nanoseconds, node.graphs[0].nodes))
    return contraction_nanoseconds(node) if node.op.kind is Kind.CONTRACT else element_nanoseconds(node)


def element_nanoseconds(node: Node) -> float:
    if node.op.kind in (Kind.VIEW, Kind.SOURCE, Kind.ITEM):
        return 0.0
    first = (node.inputs or (node,))[0].types[0]
    return prod(map(int, first.shape)) * cost_per_element(node) * first.dtype.width / OPERATIONS_PER_NS


def contraction_nanoseconds(node: Node, cut: Mapping[str, int] = MappingProxyType({})) -> float:
    """Products in whole tiles, and operands read, through an index map for views.

    cut   labels whose sizes are divided
    """
    labels = labels_of(node.attributes["spec"])
    operands = node.inputs[::-1] if labels.turned else node.inputs
    pairs = zip(labels.left + labels.right, (*operands[0].shape, *operands[1].shape), strict=True)
    sizes = {label: -(-int(size) // cut.get(label, 1)) for label, size in pairs}
    batch, m, n, k = (prod(sizes[x] for x in group) for group in (labels.batch, labels.m, labels.n, labels.k))
    rows, columns = TILE
    tiles = min(in_tiles(m, rows) * in_tiles(n, columns), in_tiles(m, columns) * in_tiles(n, rows))
    if min(m, n) == 1:
        tiles = max(m, n)  # a product of a matrix and a vector, which has roads of its own
    read = sum(size * k / (VIEWED_PER_NS if i.op.kind is Kind.VIEW else READ_PER_NS)
               for size, i in zip((m, n), operands, strict=True))
    return batch * (tiles * k * 2 / FLOPS_PER_NS + read) * node.dtype.width


def in_tiles(size: int, tile: int) -> int:
    return -(-size // tile) * tile
