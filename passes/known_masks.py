"""Masks that are kept in buffers, as what they say: comparisons of places, which cost less than numbers that are read.

A mask is often one number beyond a diagonal and another one elsewhere, or a band.  Knows matrices, and how comparisons are
written.  Must not know what masks hide, or whether a buffer stays as it is: `graphc.assumed` sees to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.cells import Cell
from graphc.ir import Graph, Node, for_each_graph, rewrite
from graphc.ops.elementwise import where
from graphc.ops.sources import iota
from graphc.records import NamedTuple
from graphc.symbols import Tensor, constant
from graphc.types import int64

from .masks import beyond_diagonals_of
from .regions import Facts, is_worth_it, long_axes


class Band(NamedTuple):
    """A matrix that is one number beyond a diagonal, or beyond two.

    regions  what it is there
    between  the one number that it is elsewhere; None where that differs
    """

    regions: Facts
    between: Any


def band_of(shape: tuple[int, ...], array: np.ndarray) -> Band | None:
    """What there is to know of a matrix, whose other axes are of size 1; None where no region of it is worth anything."""
    rows, columns = long_axes(shape)
    regions = beyond_diagonals_of(shape, array)
    if not any(is_worth_it(shape[r.first], shape[r.second], r.offset) for r in regions):
        return None
    matrix = array.reshape(shape[rows], shape[columns])
    places = np.arange(shape[rows], dtype=np.int32)[:, None], np.arange(shape[columns], dtype=np.int32)
    rest = np.ones(matrix.shape, bool)
    for r in regions:
        rest &= places[r.first == columns] - places[r.second == columns] <= r.offset
    others = matrix[rest] if rest.any() else matrix[:1, 0]
    return Band(regions, others[0] if (others == others[0]).all() else None)


def written_out(graph: Graph, known: Mapping[Cell, Band]) -> Graph:
    """The graph, of any sizes, with comparisons in place of cells that are nothing else."""
    def run(inner: Graph) -> Graph:
        new = {n: comparisons(n, known[n.attributes["cell"]]) for n in inner.nodes
               if n.attributes.get("cell") in known and known[n.attributes["cell"]].between is not None}
        if not new:
            return inner
        result = rewrite(inner.roots, lambda node, inputs: None, new)
        return inner.with_roots([result[r] for r in inner.roots])

    return for_each_graph(graph, run)


def comparisons(node: Node, band: Band) -> Node:
    """A matrix that is nothing but a band, element by element from its place."""
    def number(value: Any) -> Tensor:
        return constant(np.asarray(value, node.dtype.numpy))

    shape = tuple(map(int, node.shape))
    value = number(band.between)
    for r, beyond in band.regions.items():
        if beyond != band.between:
            value = where(iota(shape, r.first, int64) - iota(shape, r.second, int64) > r.offset, number(beyond), value)
    return value.node


def facts_about(graph: Graph, known: Mapping[Cell, Band]) -> dict[Node, Facts]:
    """What is known of cells that are more than a band, as facts about a graph's nodes."""
    found: dict[Node, Facts] = {}
    for node in graph.nodes:
        band = known.get(node.attributes["cell"]) if "cell" in node.attributes else None
        if band is not None:
            found[node] = {r: v for r, v in band.regions.items()
                           if is_worth_it(node.shape[r.first], node.shape[r.second], r.offset)}
    return found
