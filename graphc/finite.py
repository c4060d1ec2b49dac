"""What is done where a step gives a NaN or an infinity under `check_numerics`.

Knows how to put cells back, and how to find what went wrong first by interpreting the step again.  Must not know how programs
run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .cells import Cell
from .errors import NumericsError
from .ir import Graph, Node
from .runtime.interpreter import compute


def check_finite(results: Iterable[np.ndarray], arrays: Sequence[np.ndarray], before: Mapping[Cell, np.ndarray],
                 graph: Callable[[], Graph]) -> None:
    """Raises NumericsError, with the cells as they were before the step, where one of its results is not finite.

    results  outputs and new values of cells
    before   values of all cells of the step
    graph    gives the step's graph, from which one sees what went wrong first
    """
    if all(np.isfinite(r).all() for r in results if r.dtype.kind == "f"):
        return
    for cell, value in before.items():
        cell.restore(value)
    raise NumericsError(first_bad(graph(), arrays, before))


def first_bad(graph: Graph, arrays: Sequence[np.ndarray], before: Mapping[Cell, np.ndarray]) -> str:
    """Says which input or op first gave a NaN or an infinity, by interpreting the step again."""
    values: dict[Node, Any] = dict(zip(graph.inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node not in values:
                values[node] = compute(node, [values[i] for i in node.inputs], before)
            value = values[node]
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all() \
                    and "value" not in node.attributes:
                place = np.argwhere(~np.isfinite(value))[0].tolist()
                what = value[tuple(place)]
                name = node.attributes.get("name") or getattr(node.attributes.get("cell"), "name", "")
                of = f"input '{name}'" if "symbol" in node.attributes else f"'{name}'" if name else node.op.name
                line = f"\n  at {node.origins[0]}" if node.origins else ""
                return (f"{what} in the result of {of} ({node.type}) at {place}; "
                        f"parameters are as they were before the step{line}")
    return "a result is not finite; parameters are as they were before the step"
