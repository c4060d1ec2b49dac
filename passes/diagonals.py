"""What large masks are beyond a diagonal, without their elements: comparisons of numbers that grow with the place.

A mask of a long sequence compares positions, [queries, keys].  Each side is a sum of places and a number, so their difference
tells on which side of a diagonal an element lies, and the comparison itself is asked what it gives there.  Knows sources that
count, views, and maps that say that they are linear.  Must not know op names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.index import Index, Term, variables_for
from graphc.ir import Node
from graphc.op import Kind

from .regions import Facts, Region, guarded, is_worth_it, read_place

DEPTH = 8  # maps and views between a comparison and what counts
FAR, NEAR = 1 << 20, 4  # differences that a comparison is asked about: all of the near ones, and two far ones
STARTS = (0, 3, 1000)  # numbers that are compared with others at these differences


def beyond_diagonals(node: Node) -> Facts:
    """What a comparison of counts is beyond a diagonal, on both sides; nothing of any other node."""
    if node.op.kind is not Kind.MAP or not node.dtype.is_bool or len(node.inputs) != 2:
        return {}
    sides = [counted(i, DEPTH) for i in node.inputs]
    if sides[0] is None or sides[1] is None:
        return {}
    difference = sides[0] - sides[1]
    variables = variables_for(node.shape)
    factors = {axis: difference.factor(v) for axis, index in enumerate(variables) for v in index.variables()}
    moving = {axis: factor for axis, factor in factors.items() if factor != 0}
    if sorted(f or 0 for f in moving.values()) != [-1, 1]:
        return {}
    grows, falls = (next(a for a, f in moving.items() if f == sign) for sign in (1, -1))
    found: dict[Region, Any] = {}
    near = {d: outcome(node, d) for d in range(-NEAR, NEAR + 1)}
    above, below = outcome(node, FAR), outcome(node, -FAR)
    if above is not None and near[NEAR] == above:
        least = min(d for d in near if all(near[x] == above for x in range(d, NEAR + 1)))
        found[Region(grows, falls, least - 1 - difference.constant)] = above
    if below is not None and near[-NEAR] == below:
        most = max(d for d in near if all(near[x] == below for x in range(-NEAR, d + 1)))
        found[Region(falls, grows, difference.constant - 1 - most)] = below
    return {r: v for r, v in found.items() if is_worth_it(node.shape[r.first], node.shape[r.second], r.offset)}


def counted(node: Node, depth: int) -> Index | None:
    """An integer tensor as a sum of its places, each some times, and a number; None where it is something else."""
    if node.op.kind is Kind.SOURCE:
        if (axis := node.attributes.get("axis")) is not None:
            return variables_for(node.shape)[axis]
        value = node.attributes.get("value")
        return Index.of(int(value.reshape(-1)[0])) if value is not None and value.size == 1 else None
    if node.op.kind not in (Kind.MAP, Kind.VIEW) or not node.dtype.is_integer or depth == 0:
        return None
    operands = [counted(i, depth - 1) for i in node.inputs]
    if node.op.kind is Kind.VIEW and not guarded(node) and operands[0] is not None:
        axes = zip(variables_for(node.inputs[0].shape), read_place(node), strict=True)
        places: dict[Term, Index] = {v: place for index, place in axes for v in index.variables()}
        return operands[0].substitute(places)
    if not node.op.linear or None in operands:
        return None
    total = Index.of(0)
    for k, operand in enumerate(operands):
        assert operand is not None
        together = next((held for held in node.op.linear if k in held), ())
        others = [o.number for j, o in enumerate(operands) if j not in together and o is not None]
        if not together or None in others:
            continue
        ones = iter(others)
        arguments = [np.array(int(j == k) if j in together else next(ones), i.dtype.numpy) for j, i in enumerate(node.inputs)]
        total = total + operand * int(node.op.numpy(*arguments, **node.attributes))
        if len(together) == 1:
            return total
    return total if len(node.op.linear[0]) == len(operands) else None


def outcome(node: Node, difference: int) -> Any:
    """What a comparison gives of numbers that differ by so much; None where that depends on more."""
    pairs = [(start + max(difference, 0), start - min(difference, 0)) for start in STARTS]
    left, right = (np.array(side, i.dtype.numpy) for side, i in zip(zip(*pairs, strict=True), node.inputs, strict=True))
    values = np.asarray(node.op.numpy(left, right, **node.attributes))
    return values[0] if (values == values[0]).all() else None
