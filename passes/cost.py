"""What a node costs: scalar operations per element, and whether computing it again is cheaper than storing it.

Knows `Op.scalar` run against a builder that counts.  Must not know op names or machines.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from graphc.ir import Node
from graphc.op import Kind, Op
from graphc.types import count

WEIGHTS = {"div": 4, "sqrt": 4, "rsqrt": 6, "reciprocal": 4, "exp": 12, "exp2": 12, "expm1": 14, "log": 14, "log2": 14,
           "log1p": 16, "sin": 16, "cos": 16, "tan": 20, "asin": 20, "acos": 20, "atan": 16, "atan2": 24, "sinh": 16,
           "cosh": 16, "tanh": 16, "sigmoid": 14, "softplus": 24, "erf": 20, "erfc": 24, "pow": 40, "floordiv": 6,
           "mod": 6, "lgamma": 40, "digamma": 40}
FREE = {"const", "constant", "as_int", "as_float", "dtype"}


class CountingScalar:
    """A scalar builder whose values are nothing and whose instructions only add up."""

    def __init__(self) -> None:
        self.total = 0

    def dtype(self, x: Any) -> str:
        return "float32"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def instruction(*_: Any) -> None:
            if name not in FREE:
                self.total += WEIGHTS.get(name, 1)

        return instruction


@lru_cache(maxsize=2048)
def _scalar_cost(op: Op, arity: int, attributes: tuple[tuple[str, Any], ...]) -> int:
    counter = CountingScalar()
    op.scalar(counter, *([None] * arity), **dict(attributes))
    return counter.total


def cost_per_element(node: Node) -> int:
    """Scalar operations for one element of a MAP; 0 of a view or source, 1 of anything else."""
    if node.op.kind is Kind.MAP:
        return _scalar_cost(node.op, len(node.inputs), tuple(node.attributes.items()))
    return 0 if node.op.kind in (Kind.VIEW, Kind.SOURCE, Kind.ITEM) else 1


@lru_cache(maxsize=256)
def beyond(first: int, second: int, offset: int) -> int:
    """How many pairs of places on axes of these sizes have first - second > offset."""
    return sum(min(max(first - 1 - offset - place, 0), first) for place in range(second))


def flops(node: Node) -> int:
    """Floating-point operations of one node (a contraction's multiply and add count as two)."""
    if node.op.kind is Kind.CONTRACT:
        left, rest = node.attributes["spec"].split(",")
        right = rest.split("->")[0]
        sizes = dict(zip(left + right, (*node.inputs[0].shape, *node.inputs[1].shape), strict=True))
        hidden = sum(beyond(sizes[x], sizes[y], offset) / (sizes[x] * sizes[y])
                     for x, y, offset in node.attributes.get("within", ()))
        return int(2 * int(count(sizes.values())) * (1 - hidden))
    if node.op.kind is Kind.ROUTINE:
        return node.op.operations(*(i.type for i in node.inputs), **node.attributes)
    if node.op.kind in (Kind.REDUCE, Kind.PREFIX, Kind.SCATTER):
        return int(node.inputs[-1].type.size)
    if node.op.kind is Kind.MAP:
        return cost_per_element(node) * int(node.type.size)
    return 0
