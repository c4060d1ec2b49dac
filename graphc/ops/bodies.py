"""Bodies: nodes over placeholders become closed nested graphs, and nested graphs nodes again.

Knows what a body computes itself and what it takes from outside.  Must not know scans, branches or gradients.

While a body is open, its inputs are placeholders, each an input of its own.  Closing replaces them by `formal` nodes, and what
the body reads from outside as well, all at once: bodies nest only closed, so one body's formal never meets another's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from ..ir import Graph, Node, make, rebuild
from ..op import REGISTRY, Kind
from ..types import TensorType
from ..walk import operands_first

INSIDE = 16  # constants of up to this many elements are part of a body


def formal(position: int, type_: TensorType) -> Node:
    """The nested graph's view of its n-th operand."""
    return make(REGISTRY["input"], (), {"name": f"a{position}", "type": type_, "symbol": "formal"})


def below(roots: Iterable[Node], leaves: Collection[Node] = ()) -> list[Node]:
    """The nodes that the roots depend on without going below the leaves; inputs before users, the leaves among them."""
    return operands_first(roots, lambda node: () if node in leaves else node.inputs)


def depending(order: Iterable[Node], on: Collection[Node], through: Callable[[Node], bool] = lambda node: True) -> set[Node]:
    """The nodes of a topological order that depend on some others (which count), through nodes for which that is said."""
    found = set(on)
    for node in order:
        if node not in found and through(node) and any(i in found for i in node.inputs):
            found.add(node)
    return found


def replaced(roots: Sequence[Node], known: Mapping[Node, Node]) -> list[Node]:
    """The roots with some nodes replaced, all at once; what is below those is left alone."""
    new = dict(known)
    for node in below(roots, known):
        if node not in new:
            new[node] = rebuild(node, tuple(new[i] for i in node.inputs))
    return [new[root] for root in roots]


def opened(graph: Graph, operands: Sequence[Node]) -> list[Node]:
    """A nested graph's outputs, computed from these operands."""
    return replaced(graph.outputs, dict(zip(graph.inputs, operands, strict=True)))


def close(own: Sequence[Node], roots: Sequence[Node], outside: Callable[[Node], bool]) -> tuple[Graph, list[Node]]:
    """The nested graph that computes the roots, and what it captures: operands that follow those for its own inputs.

    own      the placeholders that stand for the nested graph's first inputs
    outside  whether a node can be computed without the body.  Such a node is captured, unless it is a source that costs
             nothing (a small constant, a count) or a view, which is free where it is read
    """
    captured: dict[Node, None] = {}
    seen = set(own)
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op.kind is Kind.SOURCE:
            if not _free(node):
                captured[node] = None
        elif node.op.kind is not Kind.VIEW and outside(node.inputs[0] if node.op.kind is Kind.ITEM else node):
            captured[node] = None
        else:
            stack.extend(node.inputs)
    taken = sorted(captured, key=lambda n: n.number)
    formals = {node: formal(position, node.type) for position, node in enumerate((*own, *taken))}
    return Graph(tuple(formals.values()), tuple(replaced(roots, formals))), taken


def _free(source: Node) -> bool:
    value = source.attributes.get("value")
    if isinstance(value, np.ndarray):
        return value.size <= INSIDE
    return "cell" not in source.attributes and "symbol" not in source.attributes


def close_loop(own: Sequence[Node], roots: Sequence[Node]) -> tuple[Graph, list[Node]]:
    """Closes the body of a loop: what does not depend on its placeholders is computed once, outside."""
    inside = depending(below(roots, set(own)), set(own))
    return close(own, roots, lambda node: node not in inside)
