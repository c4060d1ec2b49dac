"""Replaces composites by what they stand for, and open sizes by numbers.

Knows the record's `expand` field and how sizes sit in attributes.  Must not know any op's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.ir import Graph, Node, inherit, make, rebuild, rewrite, transform
from graphc.op import Kind
from graphc.symbols import Tensor
from graphc.types import Dim, TensorType, substitute


class Expansion:
    """The rule that puts a composite's definition in its place; what that contains is expanded too.

    several  what composites with several results stand for
    """

    def __init__(self) -> None:
        self.several: dict[Node, list[Tensor]] = {}

    def __call__(self, node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if node.op.kind is Kind.ITEM and node.inputs[0] in self.several:
            body = self.several[node.inputs[0]][node.attributes["item"]].node
        elif node.op.kind is not Kind.COMPOSITE:
            return None
        elif len(node.types) > 1:
            self.several[node] = node.op.expand(*map(Tensor, inputs), **node.attributes)
            return None
        else:
            body = node.op.expand(*map(Tensor, inputs), **node.attributes).node
        new = rewrite([body], self, {i: i for i in inputs})[body]
        for made in (body, new):
            inherit(made, node)
        return new


def expand_composites(graph: Graph) -> Graph:
    """No COMPOSITE node is left."""
    return transform(graph, Expansion())


def sized(value: Any, sizes: Mapping[str, int]) -> Any:
    """An attribute with the named sizes filled in."""
    if isinstance(value, Dim):
        return substitute(value, sizes)
    if isinstance(value, tuple):
        return tuple(sized(v, sizes) for v in value)
    if isinstance(value, TensorType):
        return value.substitute(sizes)
    return value


def specialize(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph for given sizes of its open dimensions; every type is then concrete.

    Raises ShapeError, naming op and source line, where these sizes do not fit (a slice longer than its axis, say).
    """
    if not sizes:
        return graph
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        attributes = {name: sized(value, sizes) for name, value in node.attributes.items()} if node.attributes else {}
        graphs = tuple(specialize(g, sizes) for g in node.graphs) if node.graphs else ()
        inputs = tuple([new[i] for i in node.inputs])
        if attributes == node.attributes and graphs == node.graphs:
            new[node] = rebuild(node, inputs)
        else:
            new[node] = inherit(make(node.op, inputs, attributes, graphs), node)
    return graph.with_roots([new[r] for r in graph.roots], [new[i] for i in graph.inputs])
