"""Comparisons of positions in 32 bits: twice as many fit a vector, and a mask is half as much work.

Positions and counts are of 64 bits, as PyTorch's are; where sizes are known, so is what they can be.  Knows maps and views of
fixed numbers.  Must not know op names.
"""

from __future__ import annotations

from graphc.ir import Node, make
from graphc.op import Kind
from graphc.ops.sources import as_int32
from graphc.types import int64

DEPTH = 4  # maps and views between a comparison and what is fixed
LARGEST = 1 << 24  # of fixed numbers: what a few sums and differences of such make fits 32 bits


def narrow_comparison(node: Node) -> Node | None:
    """A comparison of 64-bit integers as one of 32-bit integers, where all that they can be fits."""
    if not node.dtype.is_bool or len(node.inputs) != 2 or any(i.dtype != int64 for i in node.inputs):
        return None
    return on_narrowed(node, DEPTH)


def on_narrowed(node: Node, depth: int) -> Node | None:
    """The node on 32-bit operands; None where one of them has to have 64."""
    found: list[Node] = []
    for i in node.inputs:
        new = narrowed(i, depth)
        if new is None:
            return None
        found.append(new)
    return make(node.op, found, node.attributes)


def narrowed(node: Node, depth: int) -> Node | None:
    """The same numbers in 32 bits; None where they come from outside, or may be too large."""
    if node.op.kind is Kind.SOURCE:
        return as_int32(node, LARGEST)
    plain = node.op.kind is Kind.VIEW or (node.op.kind is Kind.MAP and bool(node.op.linear) and len(node.op.linear[0]) == 2)
    if not plain or depth == 0 or any(i.dtype != int64 for i in node.inputs):
        return None
    return on_narrowed(node, depth - 1)
