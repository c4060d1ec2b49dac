"""A part of a graph becomes a loop over blocks: cut along several axes at once, each run computes one place of them all.

Along one more axis a run is cut into pieces, one after the other, that are written out: what they are summed into stays in a
cache, and each has its own sizes and masks.  Knows how inputs are handed to runs and results put together.  That blocks are
independent is proved by `batch_axis`.  Must not know why something is cut, or threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from math import prod

import numpy as np

from graphc.ir import Graph, Node, inherit, make
from graphc.op import REGISTRY, Kind
from graphc.ops.bodies import close, replaced
from graphc.ops.control import results_of
from graphc.ops.reductions import is_sum
from graphc.ops.shaping import concat
from graphc.ops.views import narrow
from graphc.records import record
from graphc.symbols import Tensor, constant, placeholder

from .batch_axis import Split, compute_parts, order_of_parts
from .parts import Axes, counted, joined, sequence


@record(eq=False)
class Blocks:
    """Nodes that are computed block by block.

    counts    how many blocks there are along each axis that is cut
    pieces    how many pieces of each block are written out, along one axis more
    inputs    what they read from outside, and where it has these axes, that of the pieces last
    results   what others read of them
    """

    counts: tuple[int, ...]
    pieces: int
    inputs: Mapping[Node, Axes]
    results: tuple[Node, ...]


@record(eq=False)
class Body:
    """What one run computes.

    number   its number
    inputs   its parts of the inputs
    results  its parts of the results
    places   where each of the results has the axes that are cut
    """

    number: Node
    inputs: Mapping[Node, Node]
    results: tuple[Node, ...]
    places: tuple[Axes, ...]


def body_of(blocks: Blocks) -> Body | None:
    """What one run computes; None where blocks depend on each other."""
    number = placeholder("number", (), "int64")
    own = {i: placeholder("x", i.shape, i.dtype).node for i in blocks.inputs}
    results: tuple[Node, ...] = tuple(replaced(blocks.results, own))
    places: list[tuple[int, ...]] = []
    for k, count in enumerate(blocks.counts):
        axes = {own[i]: axis for i, at in blocks.inputs.items() if (axis := at[k]) is not None}
        split = Split.of(Graph(tuple(own.values()), results), axes, count)
        if any(split.along(r) is None for r in results):
            return None
        places.append(tuple(split.inside[r] for r in results))
        parts = {x: placeholder("x", split.part_type(x, axis).shape, x.dtype).node for x, axis in axes.items()}
        new = part_of(split, results, parts, (number // prod(blocks.counts[k + 1:])) % count)
        if new is None:
            return None
        own, results = {i: new.get(x, x) for i, x in own.items()}, tuple(new[r] for r in results)
    if blocks.pieces > 1:
        found = in_pieces(own, results, {own[i]: axis for i, at in blocks.inputs.items() if (axis := at[-1]) is not None},
                          blocks.pieces)
        if found is None:
            return None
        results = found
    return Body(number.node, own, results, tuple(zip(*places, strict=True)) if places else ((),) * len(results))


def part_of(split: Split, results: Sequence[Node], parts: Mapping[Node, Node], number: Tensor) -> dict[Node, Node] | None:
    """What a part computes for results, from its parts of the inputs; None where it would have to be given more."""
    new = dict(parts)
    for node in order_of_parts(split, results):
        if node not in new and split.parts[node].given:
            return None
        if not node.inputs and node not in new:
            new[node] = counted(split, node, number.node)
    compute_parts(split, results, new, {})
    return new


def in_pieces(inputs: Mapping[Node, Node], results: Sequence[Node], axes: Mapping[Node, int], pieces: int
              ) -> tuple[Node, ...] | None:
    """The results, put together from pieces along axes of inputs; None where pieces depend on each other."""
    split = Split.of(Graph(tuple(inputs.values()), tuple(results)), axes, pieces)
    if any(split.along(r) is None and not is_added(split, r) for r in results):
        return None
    found: list[dict[Node, Node]] = []
    for piece in range(pieces):
        parts = {}
        for x, axis in axes.items():
            size = int(x.shape[axis]) // pieces
            parts[x] = narrow(Tensor(x), axis, piece * size, size).node
        new = part_of(split, results, parts, constant(np.int64(piece)))
        if new is None:
            return None
        found.append(new)
    return tuple(together([Tensor(new[r]) for new in found], split.inside.get(r) if split.along(r) is not None else None)
                 for r in results)


def is_added(split: Split, node: Node) -> bool:
    return node in split.sums and (node.op.kind is Kind.CONTRACT or is_sum(node))


def together(parts: list[Tensor], axis: int | None) -> Node:
    """Parts one behind the other along an axis, or added up."""
    return (reduce(lambda a, b: a + b, parts) if axis is None else concat(parts, axis)).node


def computed(blocks: Blocks, body: Body, operands: Mapping[Node, Node]) -> list[Node]:
    """The results, computed by a loop, of a single run where nothing but pieces is cut; operands: what the inputs are."""
    total = prod(blocks.counts)
    cut = [i for i, places in blocks.inputs.items() if any(a is not None for a in places[:len(blocks.counts)])]
    whole = {body.inputs[i]: operands[i] for i in blocks.inputs if i not in cut}
    graph, captured = close([body.number, *(body.inputs[i] for i in cut)], body.results, lambda node: False)
    numbers = constant(np.arange(total, dtype=np.int64)).node
    sequences = [numbers, *(sequence(operands[i], blocks.inputs[i], blocks.counts) for i in cut)]
    attributes = {"carries": 0, "sequences": len(sequences), "length": total, "reverse": False}
    loop = make(REGISTRY["scan"], [*sequences, *(whole.get(c, c) for c in captured)], attributes, (graph,))
    return [inherit(joined(part, node, places, blocks.counts), node)
            for part, node, places in zip(results_of(loop), blocks.results, body.places, strict=True)]
