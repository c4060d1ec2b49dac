"""Rewrite rules as data: what is written on the left is computed as what stands on the right.

Each rule is two functions over symbols.  Patterns are built once, on symbols as small as they can be, and matched by op, so
one rule serves every shape, dtype and attribute; attributes that were met (an axis) are keywords of `after`.  A constant in a
pattern matches any tensor filled with that value.  The tests prove every rule on random tensors.  Rules hold up to rounding,
and up to the sign of zero where noted; NaN and infinity are respected.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np

from graphc.ir import Node
from graphc.op import Kind, Op
from graphc.ops import elementwise as e
from graphc.ops.composites import log_softmax, logsumexp, softmax
from graphc.ops.control import stop_gradient
from graphc.ops.reductions import sum_
from graphc.records import record
from graphc.symbols import Tensor, placeholder
from graphc.types import DType, bool_, float32, int64


@lru_cache(maxsize=64)
def symbol(position: int, dtype: DType, rank: int) -> Tensor:
    """What stands for an operand in patterns: in many of them, as it is what each of them binds anew."""
    return placeholder(f"operand{position}", (2,) * rank, dtype)


@record(frozen=True)
class Rule:
    """`before(*tensors)` is replaced by `after(*tensors)`.

    domain  values for which the tests prove it (positive numbers for logarithms, say)
    dtypes  "f" floats only, "i" integers only, "fi" both
    why     what is gained
    """

    name: str
    before: Callable[..., Tensor]
    after: Callable[..., Tensor]
    why: str
    domain: tuple[float, float] = (-3.0, 3.0)
    dtypes: str = "f"
    masks: tuple[int, ...] = ()  # positions of operands that are conditions
    rank: int = 0  # of the tensors that the pattern is made of

    @cached_property
    def pattern(self) -> tuple[Node, tuple[Node, ...]]:
        """The left-hand side on symbols of `rank` axes, and those symbols."""
        dtype = int64 if self.dtypes == "i" else float32
        symbols = [symbol(i, bool_ if i in self.masks else dtype, self.rank) for i in range(self.before.__code__.co_argcount)]
        return self.before(*symbols).node, tuple(s.node for s in symbols)

    @cached_property
    def asks(self) -> frozenset[Op]:
        """Ops that must be among those of a node's inputs: a quick way to say no."""
        return frozenset(i.op for i in self.pattern[0].inputs if i.op.kind is not Kind.SOURCE)

    @cached_property
    def asks_constant(self) -> bool:
        """Whether one of a node's inputs must be filled with one value."""
        return any("value" in i.attributes for i in self.pattern[0].inputs)


DERIVED = [  # by now gradients are derived
    Rule("stop_gradient", lambda x: stop_gradient(x), lambda x: x, "nothing to do"),
]

STABILIZING = [
    *DERIVED,
    Rule("log of softmax", lambda x: e.log(softmax(x)), lambda x, *, axis=-1: log_softmax(x, axis), "softmax underflows to 0",
         rank=2),
    Rule("log of sum of exp", lambda x: e.log(sum_(e.exp(x), 1)), lambda x, *, axes=1: logsumexp(x, axes), "exp overflows",
         rank=2),
    Rule("log of sigmoid", lambda x: e.log(e.sigmoid(x)), lambda x: -e.softplus(-x), "sigmoid underflows to 0"),
    Rule("log of 1 - sigmoid", lambda x: e.log(1.0 - e.sigmoid(x)), lambda x: -e.softplus(x), "1 - sigmoid cancels"),
    Rule("log of 1 + exp", lambda x: e.log(1.0 + e.exp(x)), lambda x: e.softplus(x), "exp overflows"),
    Rule("log1p of exp", lambda x: e.log1p(e.exp(x)), lambda x: e.softplus(x), "exp overflows"),
    Rule("log of exp", lambda x: e.log(e.exp(x)), lambda x: x, "exp overflows"),
    Rule("log of 1 + x", lambda x: e.log(1.0 + x), lambda x: e.log1p(x), "1 + x loses small x", (-0.9, 3.0)),
    Rule("exp - 1", lambda x: e.exp(x) - 1.0, lambda x: e.expm1(x), "the difference cancels near 0"),
    Rule("1 / (1 + exp(-x))", lambda x: 1.0 / (1.0 + e.exp(-x)), lambda x: e.sigmoid(x), "exp overflows"),
]

SIMPLIFYING = [
    *DERIVED,
    Rule("x + 0", lambda x: x + 0.0, lambda x: x, "nothing to do (-0.0 stays -0.0)"),
    Rule("x - 0", lambda x: x - 0.0, lambda x: x, "nothing to do"),
    Rule("0 - x", lambda x: 0.0 - x, lambda x: -x, "one operation (the sign of zero changes)"),
    Rule("x * 1", lambda x: x * 1.0, lambda x: x, "nothing to do"),
    Rule("x * -1", lambda x: x * -1.0, lambda x: -x, "a sign bit"),
    Rule("x / 1", lambda x: x / 1.0, lambda x: x, "nothing to do"),
    Rule("x + 0 (integers)", lambda x: x + 0, lambda x: x, "nothing to do", dtypes="i"),
    Rule("x * 1 (integers)", lambda x: x * 1, lambda x: x, "nothing to do", dtypes="i"),
    Rule("-(-x)", lambda x: e.neg(-x), lambda x: x, "nothing to do"),
    Rule("x + -y", lambda x, y: x + -y, lambda x, y: x - y, "one operation"),
    Rule("x - -y", lambda x, y: x - e.neg(y), lambda x, y: x + y, "one operation"),
    Rule("-x * y", lambda x, y: -x * y, lambda x, y: -(x * y), "signs meet and cancel"),
    Rule("-x / y", lambda x, y: -x / y, lambda x, y: -(x / y), "signs meet and cancel", (0.5, 3.0)),
    Rule("-(x - y)", lambda x, y: -(x - y), lambda x, y: y - x, "one operation (the sign of zero changes)"),
    Rule("1 / x", lambda x: 1.0 / x, lambda x: e.reciprocal(x), "one operand", (0.5, 3.0)),
    Rule("1 / sqrt(x)", lambda x: e.reciprocal(e.sqrt(x)), lambda x: e.rsqrt(x), "one operation", (0.1, 3.0)),
    Rule("x / sqrt(y)", lambda x, y: x * e.reciprocal(y), lambda x, y: x / y, "one operation", (0.5, 3.0)),
    Rule("exp(-x) under 1", lambda x: e.reciprocal(1.0 + e.exp(-x)), lambda x: e.sigmoid(x), "exp overflows"),
    Rule("abs of abs", lambda x: e.abs_(e.abs_(x)), lambda x: e.abs_(x), "nothing to do"),
    Rule("abs of square", lambda x: e.abs_(e.square(x)), lambda x: e.square(x), "nothing to do"),
    Rule("square of abs", lambda x: e.square(e.abs_(x)), lambda x: e.square(x), "nothing to do"),
    Rule("square of -x", lambda x: e.square(-x), lambda x: e.square(x), "nothing to do"),
    Rule("relu of relu", lambda x: e.relu(e.relu(x)), lambda x: e.relu(x), "nothing to do"),
    Rule("max(x, x)", lambda x: e.maximum(x, x), lambda x: x, "nothing to do"),
    Rule("min(x, x)", lambda x: e.minimum(x, x), lambda x: x, "nothing to do"),
    Rule("where(c, x, x)", lambda c, x: e.where(c, x, x), lambda c, x: x, "the choice changes nothing", masks=(0,)),
    Rule("where(not c, x, y)", lambda c, x, y: e.where(e.logical_not(c), x, y), lambda c, x, y: e.where(c, y, x),
         "one operation", masks=(0,)),
    Rule("where of where", lambda c, x, y, z: e.where(c, e.where(c, x, y), z), lambda c, x, y, z: e.where(c, x, z),
         "one choice", masks=(0,)),
    Rule("not not c", lambda c: e.logical_not(e.logical_not(c)), lambda c: c, "nothing to do", masks=(0,)),
    Rule("where(c, x, 0) * y", lambda c, x, y: e.where(c, x, 0.0) * e.where(c, y, 0.0),
         lambda c, x, y: e.where(c, x * y, 0.0), "one choice", masks=(0,)),
]


def splat(node: Node) -> float | int | bool | None:
    """The value that fills the whole tensor, looking through expands; None where there is not one."""
    while node.op.kind is Kind.VIEW and "fill" not in node.attributes:
        node = node.inputs[0]
    value = node.attributes.get("value") if node.op.kind is Kind.SOURCE else None
    if value is None or value.size == 0:
        return None
    first = value.flat[0]
    return first.item() if value.size == 1 or (value.size <= 4096 and bool(np.all(value == first))) else None


def match(pattern: Node, node: Node, bound: dict[Node, Node]) -> bool:
    """Whether `node` has the pattern's form; `bound` receives what each symbol, and each op with attributes, stands for."""
    if "symbol" in pattern.attributes:
        known = bound.setdefault(pattern, node)
        return known is node
    if pattern.op.kind is Kind.SOURCE:
        value = splat(node)
        wanted = pattern.attributes["value"].item()
        return value is not None and not isinstance(value, bool) and value == wanted
    if pattern.op is not node.op or len(pattern.inputs) != len(node.inputs):
        return False
    orders = [node.inputs]
    if pattern.op.commutes:
        orders.append(node.inputs[::-1])
    for order in orders:
        trial = dict(bound)
        if all(match(p, n, trial) for p, n in zip(pattern.inputs, order, strict=True)):
            if pattern.attributes:
                trial[pattern] = node
            bound.clear()
            bound.update(trial)
            return True
    return False


def apply_rule(rule: Rule, node: Node) -> Node | None:
    """The replacement of a node that a rule fits, else None."""
    pattern, symbols = rule.pattern
    if pattern.op is not node.op:
        return None
    dtype = node.inputs[-1].dtype if node.inputs else node.dtype
    if (rule.dtypes == "f" and not (dtype.is_float or dtype.is_bool)) or (rule.dtypes == "i" and not dtype.is_integer):
        return None
    bound: dict[Node, Node] = {}
    if not match(pattern, node, bound):
        return None
    met = {k: v for p, n in bound.items() if p not in symbols for k, v in n.attributes.items()}
    result = rule.after(*(Tensor(bound[s]) for s in symbols), **met).node
    return result if result.type == node.type else None


def by_op(rules: list[Rule]) -> dict[Op, list[Rule]]:
    """The rules by the op at the root of their pattern."""
    table: dict[Op, list[Rule]] = {}
    for rule in rules:
        table.setdefault(rule.pattern[0].op, []).append(rule)
    return table
