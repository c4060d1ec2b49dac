"""Sums of a row's products that a contraction which is there already gives for less.

The gradient of a softmax needs, of each row of weights, the sum of w[k] g[k], where g[k] = x . y[k] is a contraction itself.
That is x . (sum of w[k] y[k]), and the sum in brackets is what attention has computed with these weights (Dao et al.,
"FlashAttention", 2022, appendix B.2).  So no pass over the large g is needed before the next step, which is element by element.

    sum_k w[q,k] (sum_e x[q,e] y[k,e])  =  sum_e x[q,e] (sum_k w[q,k] y[k,e])

Knows contractions and what a product is made of.  Must not know softmax or attention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from graphc.ir import Graph, Node, inherit, make_like, transform
from graphc.op import REGISTRY, Kind
from graphc.ops.contractions import split_spec
from graphc.ops.reductions import is_sum, sum_
from graphc.ops.views import permute, reshape
from graphc.symbols import Tensor

from .regions import core, long_axes
from .rules import splat

PRODUCT, CHOICE = REGISTRY["mul"], REGISTRY["where"]
Factor = Node | tuple[Node, bool]  # a tensor, or a condition and what it must be for the product not to be 0


def share_row_sums(graph: Graph) -> Graph:
    """The graph with sums of products taken from contractions that are there."""
    return transform(graph, RowSums()) if any(map(is_candidate, graph.nodes)) else graph


def is_candidate(node: Node) -> bool:
    return is_sum(node) and node.dtype.is_float and len(node.attributes["axes"]) == 1 and node.inputs[0].op.kind is Kind.MAP \
        and any(contractions_among(node.inputs[0]))


def factors(node: Node) -> Iterator[Factor]:
    """What a product consists of; where a choice makes zeros, its condition is a factor."""
    node = core(node)
    if node.op is PRODUCT:
        for i in node.inputs:
            yield from factors(i)
    elif node.op is CHOICE and 0 in (zeros := [splat(i) for i in node.inputs[1:]]):
        where = zeros.index(0)
        yield core(node.inputs[0]), where == 1
        yield from factors(node.inputs[2 - where])
    else:
        yield node


def contractions_among(product: Node) -> Iterator[Node]:
    """The contractions among a product's factors."""
    return (f for f in factors(product) if isinstance(f, Node) and f.op.kind is Kind.CONTRACT)


class RowSums:
    """The rule of one walk, which knows the contractions that it has met."""

    def __init__(self) -> None:
        self.by_operand: dict[Node, list[tuple[Node, Node]]] = {}  # of an operand: (the other operand, contraction)

    def __call__(self, node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if node.op.kind is Kind.CONTRACT:
            new = make_like(node, inputs)
            for own, other in zip(inputs, inputs[::-1], strict=True):
                self.by_operand.setdefault(own, []).append((other, new))
            return inherit(new, node)
        if not is_sum(node):
            return None
        new = make_like(node, inputs)
        found = self.shared(new) if is_candidate(new) else None
        return None if found is None else inherit(found, node)

    def shared(self, node: Node) -> Node | None:
        (product,), (axis,) = node.inputs, node.attributes["axes"]
        parts = Counter(factors(product))
        if axis not in (axes := long_axes(product.shape)):
            return None
        for large in contractions_among(product):
            if 1 in large.shape:
                continue
            weights = parts - Counter((large,))
            left, right, out = split_spec(large.attributes["spec"])
            for (x, x_labels), (y, y_labels) in (pairs := list(zip(large.inputs, (left, right), strict=True)), pairs[::-1]):
                label = out[axes.index(axis)]
                if label not in y_labels or label in x_labels:
                    continue
                for other, small in self.by_operand.get(y, ()):
                    if other.shape == large.shape and Counter(factors(other)) == weights:
                        labels = labels_in(small, other, out, y, y_labels)
                        if labels is not None and set(labels) == set(x_labels):
                            return reshape(row_sum(x, x_labels, small, labels, out.replace(label, "")), node.shape).node
        return None


def labels_in(small: Node, weights: Node, weights_labels: str, y: Node, y_labels: str) -> str | None:
    """The labels of weights . y's result in terms of those of its operands; None where it is another contraction of the two."""
    left, right, out = split_spec(small.attributes["spec"])
    own, other = (left, right) if small.inputs == (weights, y) else (right, left)
    if len(own) != len(weights_labels) or len(other) != len(y_labels):
        return None
    pairs = {*zip(own, weights_labels, strict=True), *zip(other, y_labels, strict=True)}
    named = dict(pairs)
    if len(named) != len(pairs) or len(set(named.values())) != len(pairs):
        return None
    return "".join(named[label] for label in out)


def row_sum(x: Node, x_labels: str, result: Node, labels: str, wanted: str) -> Tensor:
    """sum of x * result over the labels that are not wanted."""
    aligned = permute(Tensor(result), tuple(labels.index(label) for label in x_labels))
    over = [a for a, label in enumerate(x_labels) if label not in wanted]
    kept = "".join(label for label in x_labels if label in wanted)
    return permute(sum_(Tensor(x) * aligned, over), tuple(kept.index(label) for label in wanted))
