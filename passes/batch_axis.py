"""Which nodes of a step work row by row of the batch, and along which axis.

The same step specialised for a batch of one chunk, node by node beside the whole step, tells which axis of each node grows
with the batch; the kind's rule, for views the index map, proves that a chunk of the result needs that chunk of the operands
alone.  Knows kinds and index maps.  Must not know how many chunks pay, threads, or which op is which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from graphc.index import Index
from graphc.ir import Graph, Node, key_of, topological
from graphc.op import Kind
from graphc.ops.contractions import split_spec

from .cost import cost_per_element, flops

SHARE_OUTSIDE = 0.01  # of the step's work, that something may cost to be computed on the whole batch instead
NOTHING = 300.0  # nanoseconds that are always little enough for that
FLOPS_PER_NS, OPERATIONS_PER_NS = 100.0, 10.0


@dataclass
class Split:
    """What is known of a step's nodes when its batch is `count` chunks.

    twin     each node -> the same node of the step for one chunk
    free     nodes that depend on nothing of the batch
    inside   nodes that a chunk computes from its own part, with the axis that the batch runs along
    sums     nodes that are the sum (or another fold) over chunks of what each one computes
    results  loops that a chunk runs on its own part, with the axis that the batch runs along in each result
    nested   these are the nodes of a loop's body
    """

    graph: Graph
    count: int
    twin: dict[Node, Node]
    free: set[Node] = field(default_factory=set)
    inside: dict[Node, int] = field(default_factory=dict)
    sums: set[Node] = field(default_factory=set)
    results: dict[Node, list[int]] = field(default_factory=dict)
    nested: bool = False

    @staticmethod
    def of(graph: Graph, small: Graph, count: int) -> Split | None:
        """What chunks of a step can do; None where the step for one chunk differs in more than sizes.

        small   the same step for a batch of one chunk
        """
        twin = twins(graph, small)
        if twin is None:
            return None
        split = Split(graph, count, twin)
        for node in graph.nodes:
            split.classify(node)
        return split

    # -- where a node belongs ----------------------------------------------------------------------------------

    def axis_of(self, node: Node) -> int | None:
        """The axis that is `count` times as long as in a chunk; None where that is no single one."""
        other = self.twin[node]
        if len(node.types) != 1 or node.type.ndim != other.type.ndim or node.dtype != other.dtype:
            return None
        longer = [k for k, (a, b) in enumerate(zip(node.shape, other.shape, strict=True)) if a != b]
        return longer[0] if len(longer) == 1 and node.shape[longer[0]] == self.count * other.shape[longer[0]] else None

    def classify(self, node: Node) -> None:
        other = self.twin[node]
        if all(i in self.free for i in node.inputs) and node.types == other.types:
            self.free.add(node)
            return
        if not all(i in self.free or i in self.inside for i in node.inputs):
            return  # after the loop
        if node.op.kind is Kind.LOOP:
            axes = loop_axes(self, node, other)
            if axes is not None:
                self.results[node], self.inside[node] = axes, axes[0]
            return
        if node.op.kind is Kind.ITEM and node.inputs[0] in self.results:
            self.inside[node] = self.results[node.inputs[0]][node.attributes["item"]]
            return
        rule = RULES.get(node.op.kind)
        axis = self.axis_of(node)
        if rule is None:
            return
        if axis is not None and rule(self, node, other, axis):
            self.inside[node] = axis
        elif node.types == other.types and is_partial(self, node):
            (self.free if self.cheap(node) else self.sums).add(node)

    def cheap(self, node: Node) -> bool:
        """Whether it may as well be computed on the whole batch, so that chunks can read it: how many labels count, say."""
        if self.nested:
            return False
        cone = [n for n in topological([node]) if n not in self.free]
        if any(n.op.kind is Kind.CONTRACT for n in cone):
            return False
        return sum(map(nanoseconds, cone)) <= max(SHARE_OUTSIDE * self.work, NOTHING)

    @cached_property
    def work(self) -> float:
        """Nanoseconds of the whole step on one thread."""
        return sum(map(nanoseconds, self.graph.nodes))


def loop_axes(split: Split, node: Node, other: Node) -> list[int] | None:
    """The axis of each result along which the batch runs, where every step works row by row of it; else None."""
    (body,), (small,) = node.graphs, other.graphs
    twin = twins(body, small)
    assert twin is not None  # of twins are the bodies, too
    inner = Split(body, split.count, twin, nested=True)
    carries = node.attributes["carries"]
    for k, (place, operand) in enumerate(zip(body.inputs, node.inputs, strict=True)):
        axis = split.inside.get(operand)
        if axis is None:
            inner.free.add(place)
            continue
        inner.inside[place] = axis - (carries <= k < carries + node.attributes["sequences"])
        if inner.inside[place] < 0:
            return None  # the steps walk along the batch
    for n in body.nodes:
        if n not in body.inputs:
            inner.classify(n)
            if n.op.kind is Kind.SOURCE and n not in inner.free:
                return None  # counts rows of the batch
    axes = [inner.inside.get(n) for n in body.outputs]
    if any(a != inner.inside.get(place) for a, place in zip(axes[:carries], body.inputs, strict=False)):
        return None
    found = [a + (k >= carries) for k, a in enumerate(axes) if a is not None]
    return found if len(found) == len(axes) else None


def inputs_along(split: Split, node: Node, axis: int) -> bool:
    """Every operand is cut along the same axis as the result."""
    return all(split.inside.get(i) == axis for i in node.inputs)


def _map(split: Split, node: Node, other: Node, axis: int) -> bool:
    return inputs_along(split, node, axis)


def _source(split: Split, node: Node, other: Node, axis: int) -> bool:
    """Placeholders and constants are cut; counting along the batch starts later in each chunk."""
    return True


def _reduce(split: Split, node: Node, other: Node, axis: int) -> bool:
    source = split.inside.get(node.inputs[0])
    axes = node.attributes["axes"]
    return source is not None and source not in axes and source - sum(a < source for a in axes) == axis


def _prefix(split: Split, node: Node, other: Node, axis: int) -> bool:
    return inputs_along(split, node, axis) and node.attributes["axis"] != axis


def cut_labels(split: Split, node: Node) -> set[str]:
    """The labels along which a contraction's operands are cut."""
    left, right, _ = split_spec(node.attributes["spec"])
    return {of[split.inside[i]] for of, i in zip((left, right), node.inputs, strict=True) if i in split.inside}


def evenly_cut(split: Split, node: Node, label: str) -> bool:
    """Whether every operand that has the label is cut along it."""
    left, right, _ = split_spec(node.attributes["spec"])
    return all(label not in of or (i in split.inside and of[split.inside[i]] == label)
               for of, i in zip((left, right), node.inputs, strict=True))


def _contract(split: Split, node: Node, other: Node, axis: int) -> bool:
    cut, out = cut_labels(split, node), split_spec(node.attributes["spec"])[2]
    return cut == {out[axis]} and evenly_cut(split, node, out[axis])


def _gather(split: Split, node: Node, other: Node, axis: int) -> bool:
    data, index = node.inputs
    if split.inside.get(index) != axis:
        return False
    return data in split.free if node.attributes["axis"] == axis else split.inside.get(data) == axis


def _scatter(split: Split, node: Node, other: Node, axis: int) -> bool:
    return inputs_along(split, node, axis) and node.attributes["axis"] != axis


def _view(split: Split, node: Node, other: Node, axis: int) -> bool:
    """Whether a chunk of the result reads, at the same places, the same chunk of the operand."""
    (source,), (small,) = node.inputs, other.inputs
    rows = int(other.shape[axis])
    chunk = Index.variable("chunk", split.count)
    inner = [Index.variable(f"i{k}", int(s)) for k, s in enumerate(other.shape)]
    outer = [chunk * rows + i if k == axis else i for k, i in enumerate(inner)]
    place, guard = node.op.index(tuple(outer), source.type, **node.attributes)  # type: ignore[misc]
    small_place, small_guard = other.op.index(tuple(inner), small.type, **other.attributes)  # type: ignore[misc]
    if guard != small_guard or node.attributes.get("fill") != other.attributes.get("fill"):
        return False
    along = split.inside.get(source)
    shifted = [chunk * int(small.shape[k]) + i if k == along else i for k, i in enumerate(small_place)]
    return list(place) == shifted


RULES: Mapping[Kind, Callable[[Split, Node, Node, int], bool]] = {
    Kind.MAP: _map, Kind.SOURCE: _source, Kind.REDUCE: _reduce, Kind.PREFIX: _prefix, Kind.CONTRACT: _contract,
    Kind.GATHER: _gather, Kind.SCATTER: _scatter, Kind.VIEW: _view}


def is_partial(split: Split, node: Node) -> bool:
    """Whether the whole is the sum, or the same fold, over what chunks give."""
    kind = node.op.kind
    if kind is Kind.CONTRACT:
        cut, out = cut_labels(split, node), split_spec(node.attributes["spec"])[2]
        return len(cut) == 1 and evenly_cut(split, node, next(iter(cut))) and not cut & set(out)
    if kind is Kind.SCATTER:
        return inputs_along(split, node, node.attributes["axis"])
    if kind is Kind.REDUCE:
        fold = node.op.fold
        simple = fold is not None and len(fold.state_dtypes(node.dtype)) == 1 and node.dtype == node.inputs[0].dtype
        return simple and split.inside.get(node.inputs[0], -1) in node.attributes["axes"]
    return False


# -- the same step for one chunk -------------------------------------------------------------------------------------


def twins(graph: Graph, small: Graph) -> dict[Node, Node] | None:
    """Each node of a step beside the node of the same step for a smaller batch; None where the two differ in more."""
    twin: dict[Node, Node] = {}
    stack = list(zip((*graph.inputs, *graph.roots), (*small.inputs, *small.roots), strict=True))
    while stack:
        a, b = stack.pop()
        known = twin.get(a)
        if known is not None:
            if known is not b:
                return None
            continue
        if a.op is not b.op or len(a.inputs) != len(b.inputs) or not same_attributes(a, b) or not same_bodies(a, b):
            return None
        twin[a] = b
        stack.extend(zip(a.inputs, b.inputs, strict=True))
    return twin


def same_bodies(a: Node, b: Node) -> bool:
    """Whether what the nodes hold differs in sizes alone; branches are taken by the whole batch."""
    if not a.graphs:
        return True
    return a.op.kind is Kind.LOOP and twins(a.graphs[0], b.graphs[0]) is not None


def same_attributes(a: Node, b: Node) -> bool:
    """Sizes may differ: in views and sources; everything else is as it was."""
    if a.attributes.keys() != b.attributes.keys():
        return False
    if a.op.kind is Kind.VIEW or (a.op.kind is Kind.SOURCE and "cell" not in a.attributes):
        return True
    return all(key_of(v) == key_of(b.attributes[n]) for n, v in a.attributes.items())


# -- what it costs ----------------------------------------------------------------------------------------------------


def nanoseconds(node: Node) -> float:
    """About how long one thread takes."""
    if node.op.kind is Kind.CONTRACT:
        return flops(node) / FLOPS_PER_NS
    if node.op.kind in (Kind.VIEW, Kind.SOURCE, Kind.ITEM):
        return 0.0
    if node.op.kind is Kind.LOOP:
        return float(node.attributes["length"]) * sum(map(nanoseconds, node.graphs[0].nodes))
    return prod(map(int, (node.inputs or (node,))[0].types[0].shape)) * cost_per_element(node) / OPERATIONS_PER_NS
