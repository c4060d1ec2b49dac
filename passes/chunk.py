"""Splits a step's batch into chunks that threads run from input to partial gradient without waiting for each other.

A small model gains nothing when each of its kernels is split among threads: activations cross cores and threads meet after
every kernel.  Here everything that works row by row of the batch (`batch_axis`) becomes the body of a `scan` without carries
over chunks of the batch; sums over the batch (weight gradients, losses) become partial sums, one per chunk, that are added up
after it, in order.  How many chunks there are depends on sizes alone, so results are the same bits for any number of threads.
Must not know threads, or which op is which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir import Graph, Node, building, make, phase, rewrite, topological
from graphc.op import REGISTRY, Kind
from graphc.ops.control import results_of
from graphc.ops.loops import formal
from graphc.ops.views import expand_to, moveaxis, reshape
from graphc.tensor import Tensor, constant
from graphc.types import TensorType, int64

from .batch_axis import Split, nanoseconds

EMBEDDED = 16  # constants up to this many elements stay inside the body
MOST_CHUNKS = 16
LEAST_WORK = 40e3  # nanoseconds of one chunk: less is not worth meeting twice
SHARE_OF_SUMS = 0.12  # of the work, that writing and adding up partial sums may take
SHARE_INSIDE = 0.7  # of the step's work, that must be done by chunks
SUMS = 1 << 20  # bytes of partial sums that stay in a cache
BYTES_PER_NS = 10.0


# -- building --------------------------------------------------------------------------------------------------------


@dataclass
class Body:
    """The graph of one chunk, its operands, and what it gives."""

    split: Split
    sequences: dict[Node, TensorType]
    captures: dict[Node, TensorType]
    new: dict[Node, Node]

    @staticmethod
    def of(split: Split, wanted: Sequence[Node]) -> tuple[Body, list[Node]]:
        """The body, and the wanted nodes inside it."""
        body = Body(split, {}, {}, {})
        order = [n for n in topological(wanted) if n in split.inside or n in split.sums]
        body.find_operands(order)
        operands = [*body.sequences.items(), *body.captures.items()]
        for position, (node, type_) in enumerate(operands):
            body.new[node] = formal(position + 1, type_)
        first = formal(0, TensorType(int64, ()))  # the number of the chunk
        for node in order:
            if node not in body.new:
                body.new[node] = body.build(node, first)
        return body, [body.new[w] for w in wanted]

    def find_operands(self, order: Sequence[Node]) -> None:
        for node in order:
            if node.op.kind is Kind.SOURCE:
                if "axis" not in node.attributes:
                    self.sequences[node] = self.split.twin[node].type
                continue
            for operand in node.inputs:
                if operand not in self.split.inside:
                    if "value" in operand.attributes and operand.attributes["value"].size <= EMBEDDED:
                        self.new[operand] = operand
                    else:
                        self.captures[operand] = operand.type

    def build(self, node: Node, chunk: Node) -> Node:
        other = self.split.twin[node]
        if node.op.kind is not Kind.SOURCE:
            return make(other.op, [self.new[i] for i in node.inputs], other.attributes, other.graphs)
        axis = other.attributes["axis"]  # counting
        if axis != self.split.inside[node]:
            return other
        start = (Tensor(chunk) * int(other.shape[axis])).astype(other.dtype)
        return (Tensor(other) + expand_to(start, other.shape)).node


def as_sequence(split: Split, node: Node) -> Node:
    """A batch with its chunks as a leading axis."""
    axis, shape = split.inside[node], split.twin[node].shape
    parts = reshape(Tensor(node), (*shape[:axis], split.count, *shape[axis:]))
    return moveaxis(parts, axis, 0).node


def build(split: Split, wanted: Sequence[Node]) -> Graph:
    """The step with the scan in it.  wanted: what the scan must give."""
    with building(phase, "forward"):
        body, outputs = Body.of(split, wanted)
        inputs = (formal(0, TensorType(int64, ())),
                  *(body.new[n] for n in (*body.sequences, *body.captures)))
        operands = [constant(np.arange(split.count, dtype=np.int64)).node,
                    *(as_sequence(split, n) for n in body.sequences), *body.captures]
        attributes = {"carries": 0, "sequences": 1 + len(body.sequences), "length": split.count, "reverse": False}
        scan = make(REGISTRY["scan"], operands, attributes, (Graph(inputs, tuple(outputs)),))
        known: dict[Node, Node] = {}
        for node, result in zip(wanted, results_of(scan), strict=True):
            known[node] = (combined(node, result) if node in split.sums else reshape(result, node.shape)).node
    new = rewrite(split.graph.roots, lambda node, inputs: None, known)
    return split.graph.with_roots([new[r] for r in split.graph.roots])


def wanted_outside(split: Split) -> list[Node] | None:
    """What the rest of the step reads of the chunks; None where a batch does not run along a first axis."""
    found: dict[Node, None] = {}
    for node in split.graph.nodes:
        if node not in split.inside and node not in split.sums:
            found.update({i: None for i in node.inputs if i in split.inside or i in split.sums})
    found.update({r: None for r in split.graph.roots if r in split.inside or r in split.sums})
    wanted = [n for n in found if n in split.sums or not split.cheap(n)]
    return None if any(split.inside.get(n, 0) != 0 for n in wanted) else wanted


def combined(node: Node, parts: Tensor) -> Tensor:
    """What chunks gave, one entry each, as the whole."""
    op = node.op if node.op.kind is Kind.REDUCE else REGISTRY["sum"]
    return Tensor(make(op, (parts.node,), {"axes": (0,)}))


# -- whether, and how many --------------------------------------------------------------------------------------------


def chunks_for(split: Split, wanted: Sequence[Node], batch: int) -> int:
    """How many chunks pay, 1 where none do."""
    inside = topological(wanted)
    work = sum(nanoseconds(n) for n in inside if n in split.inside or n in split.sums)
    sums = sum(int(n.type.bytes) for n in wanted if n in split.sums)
    if not split.sums or work < SHARE_INSIDE * split.work:
        return 1
    best, count = 1, 2
    while count <= MOST_CHUNKS and batch % count == 0 and work / count >= LEAST_WORK and count * sums <= SUMS \
            and count * sums / BYTES_PER_NS <= SHARE_OF_SUMS * work:
        best, count = count, 2 * count
    return best


def chunk(graph: Graph, batches: Mapping[str, int], for_sizes: Callable[[Mapping[str, int]], Graph]) -> Graph:
    """The step with its batch in chunks, or as it is where that does not pay.

    batches    open sizes that are the first axis of an input
    for_sizes  the step for other values of these sizes
    """
    parameters = sum(v.type.bytes for c, v in graph.updates if c.trainable)
    if not graph.updates or 2 * parameters > SUMS or sum(map(nanoseconds, graph.nodes)) < 2 * LEAST_WORK:
        return graph
    for name, batch in batches.items():
        count = 2
        for _ in range(2):
            if batch % count or batch < 2 * count:
                break
            split = Split.of(graph, for_sizes({name: batch // count}), count)
            wanted = wanted_outside(split) if split else None
            chosen = chunks_for(split, wanted, batch) if split and wanted else 1
            if chosen == count and split and wanted:
                return build(split, wanted)
            if chosen == 1:
                break
            count = chosen
    return graph
