"""The interpreter: any Graph, computed node by node with numpy.  It defines what a graph means.

Knows `Op.numpy` and nothing else about ops.  Must not know plans' code, LLVM or optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.cells import Cell
from graphc.errors import GraphError
from graphc.ir import Graph, Node, topological
from graphc.op import Kind
from graphc.types import TensorType

Values = dict[Node, Any]


def evaluate(roots: Sequence[Node], feeds: Mapping[Node, np.ndarray], cells: Mapping[Cell, np.ndarray] | None = None
             ) -> list[np.ndarray]:
    """The values of the roots.

    feeds   arrays for the input nodes, of their exact type
    cells   values of parameters and states; a cell that is not named has its current value
    """
    values: Values = dict(feeds)
    with np.errstate(all="ignore"):
        for node in topological(roots):
            if node not in values:
                values[node] = compute(node, [values[i] for i in node.inputs], cells or {})
    return [values[root] for root in roots]


def compute(node: Node, arguments: Sequence[Any], cells: Mapping[Cell, np.ndarray]) -> Any:
    """The value of one node: an array, or a tuple of arrays where it has several results."""
    op = node.op
    if op.kind is Kind.ITEM:
        return arguments[0][node.attributes["item"]]
    if op.is_given and "cell" in node.attributes:
        cell = node.attributes["cell"]
        value = cells.get(cell)
        return cell.array if value is None else value
    if op.is_given:
        raise GraphError(f"no value for {op.name} '{node.attributes.get('name', '')}'")
    if node.graphs:
        result = op.numpy(*arguments, **node.attributes, graphs=node.graphs,
                          evaluate=lambda graph, arrays: evaluate_graph(graph, dict(zip(graph.inputs, arrays,
                                                                                       strict=True)), cells))
    else:
        result = op.numpy(*arguments, **node.attributes)
    if len(node.types) > 1:
        return tuple(checked(node, r, t) for r, t in zip(result, node.types, strict=True))
    return checked(node, result, node.types[0])


def checked(node: Node, result: Any, type_: TensorType) -> np.ndarray:
    """The result as an array; an op whose numpy meaning disagrees with its type rule is a defect worth stopping for."""
    array = np.asarray(result)
    if array.shape != type_.shape or array.dtype != type_.dtype.numpy:
        raise GraphError(f"{node.op.name}: numpy gives {array.dtype}{list(array.shape)}, the type rule says {type_}")
    return array


def evaluate_graph(graph: Graph, feeds: Mapping[Node, np.ndarray], cells: Mapping[Cell, np.ndarray] | None = None
                   ) -> list[np.ndarray]:
    """The values of all roots of a graph: outputs, then update values.  No cell changes."""
    return evaluate(graph.roots, feeds, cells)
