"""Products that sum over a hidden layer's units in one part for each item of units, so that these can be dealt, too.

A layer with few results reads all units of the one before.  Where threads have their own units (`deal`), each of them sums over
what it has computed, and hands on that sum alone.  How many parts there are depends on sizes alone, so neither do the bits
depend on threads.  Knows sizes and specs.  Must not know who takes which part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce
from math import prod
from operator import add

from graphc.access import strided
from graphc.ir import Graph, Node, inherit, transform
from graphc.labels import labels_of
from graphc.op import Kind
from graphc.symbols import Tensor

from .deal import items_of
from .split import in_parts

SMALLER = 2  # times as many numbers as results must be in what need not be exchanged then

Key = tuple[object, ...]


def key_of(contraction: Node) -> Key:
    """Contractions of one key do the same."""
    return contraction.attributes["spec"], tuple(i.type for i in contraction.inputs)


def cut_sums(graph: Graph, only: Collection[Key] | None = None) -> tuple[Graph, dict[Key, Key]]:
    """The graph with such products in parts; the keys of what was cut, and of what stands for it.

    only   keys of what may be cut
    """
    found: dict[Key, Key] = {}

    def rule(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if node.op.kind is not Kind.CONTRACT or (only is not None and key_of(node) not in only):
            return None
        parts = parts_of(node, inputs)
        if parts is None:
            return None
        found[key_of(node)] = key_of(parts.node)
        return inherit(reduce(add, (parts[item] for item in range(int(parts.shape[0])))).node, node)

    return transform(graph, rule), found


def saves(node: Node, inputs: Sequence[Node]) -> bool:
    """Whether to exchange parts of the results is less than what threads exchange otherwise.

    In a layer that is the units of the one before, if the weights are not much more: what a thread reads of those, another one
    updates.  In the gradient by these units it is the weights.
    """
    results = SMALLER * prod(map(int, node.shape))
    weights = [i for i in inputs if is_weight(i)]
    if len(weights) != 1:
        return False
    of_weight, of_units = (prod(map(int, i.shape)) for i in sorted(inputs, key=lambda i: i not in weights))
    if node.phase == "forward":
        return results <= min(of_weight, of_units) and of_weight <= SMALLER * of_units
    return results <= of_weight


def is_weight(operand: Node) -> bool:
    """Whether an operand is a view of a parameter."""
    read = strided(operand)
    return read is not None and "cell" in read.base.attributes


def parts_of(node: Node, inputs: tuple[Node, ...]) -> Tensor | None:
    """A product as the sums over each item of units, along a first axis; None where that gains nothing."""
    labels = labels_of(node.attributes["spec"])
    if node.phase not in ("forward", "gradient") or not node.dtype.is_float or node.attributes.get("within"):
        return None
    if len(labels.k) != 1 or labels.batch:
        return None
    a, b = (Tensor(i) for i in (inputs[::-1] if labels.turned else inputs))
    units = int(a.shape[labels.left.index(labels.k)])
    items = next(iter(items_of(units)), 1)
    if items == 1 or not saves(node, inputs):
        return None
    parts = in_parts(a, b, labels, labels.k, items)
    inherit(parts.node, node)
    return parts
