"""Which nodes of a step work row by row of the batch, along which axis, and what a chunk of rows computes of each.

Which axis of which input is the batch is given, and may be a guess: everything else is proved.  A walk from the inputs finds,
by each node's kind, along which axis its result can be cut where its operands are cut; of a view, the index maps for a chunk
and for the whole must read the same places.  What does not depend on the batch, yet meets it element by element (counts,
constants, repeated rows), is cut backwards, on demand.  Knows kinds and index maps.  Must not know how many chunks pay,
threads, or which op is which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from graphc.ir import Graph, Node, inherit, make, topological
from graphc.op import Kind
from graphc.ops.contractions import split_spec
from graphc.ops.loops import formal
from graphc.records import NamedTuple, field, record
from graphc.types import TensorType
from graphc.walk import operands_first

from .batch_cost import nanoseconds
from .batch_views import cut_view

SHARE_OUTSIDE = 0.01  # of the step's work, that something may cost to be computed on the whole batch instead
NOTHING = 300.0  # nanoseconds that are always little enough for that
DEEPEST = 50  # nodes that are cut backwards, one because of the other: what lies behind is handed to the chunks

Axes = Sequence[int | None]  # for each operand, the axis along which it is cut; None where a chunk reads the whole


@record(frozen=True)
class Part:
    """What a chunk computes of a node.

    operands    what it reads: the node's own operands, and what else the body of a loop needs
    cut         for each operand, whether the chunk reads its own part of it
    attributes  the node's, with sizes for a chunk; graphs likewise
    given       it is not computed at all: each chunk is handed its part
    """

    operands: tuple[Node, ...] = ()
    cut: tuple[bool, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    graphs: tuple[Graph, ...] = ()
    given: bool = False

    def reads(self) -> list[Node]:
        """The operands of which it reads its own part."""
        return [i for i, cut in zip(self.operands, self.cut, strict=True) if cut]


GIVEN = Part(given=True)


class Rule(NamedTuple):
    """How a node can be cut: along which axis its result, where its operands are cut so; None: it is a fold over chunks."""

    axis: int | None
    operands: Axes
    attributes: Mapping[str, Any] | None = None  # with sizes for a chunk, where they differ


@record()
class Split:
    """What is known of a step's nodes when its batch is `count` chunks.

    free     nodes that depend on nothing of the batch
    inside   nodes of which a chunk computes its own part, with the axis that the batch runs along; some free ones among them,
             that can be read in both ways
    sums     nodes that are the sum (or another fold) over chunks of what each one computes
    results  loops that a chunk runs on its own part, with the axis that the batch runs along in each result
    bodies   what is known of these loops' bodies
    parts    what a chunk computes of the nodes inside and of the sums
    nested   these are the nodes of a loop's body
    lifted   of a body: sources that can be cut only outside
    """

    graph: Graph
    count: int
    free: set[Node] = field(default_factory=set)
    inside: dict[Node, int] = field(default_factory=dict)
    sums: set[Node] = field(default_factory=set)
    results: dict[Node, list[int]] = field(default_factory=dict)
    bodies: dict[Node, Split] = field(default_factory=dict)
    parts: dict[Node, Part] = field(default_factory=dict)
    nested: bool = False
    lifted: dict[Node, None] = field(default_factory=dict)
    demanded: int = 0  # how many nodes deep `demand` is just now

    @staticmethod
    def of(graph: Graph, batch: Mapping[Node, int], count: int) -> Split:
        """What chunks of a step can do.

        batch   inputs, with the axis that is the batch of each; its size is a multiple of `count`
        """
        split = Split(graph, count)
        for node, axis in batch.items():
            split.inside[node], split.parts[node] = axis, GIVEN
        for node in graph.nodes:
            split.classify(node)
        return split

    def along(self, node: Node) -> int | None:
        """The axis that the batch runs along in what depends on it."""
        return None if node in self.free else self.inside.get(node)

    def part_type(self, node: Node, axis: int | None) -> TensorType:
        """The type of a chunk of the node."""
        if axis is None:
            return node.type
        shape = node.shape
        return node.type.with_shape((*shape[:axis], int(shape[axis]) // self.count, *shape[axis + 1:]))

    def divides(self, node: Node, axis: int) -> bool:
        return len(node.types) == 1 and axis < node.type.ndim and node.shape[axis] > 0 and node.shape[axis] % self.count == 0

    # -- forwards: what depends on the batch -------------------------------------------------------------------

    def classify(self, node: Node) -> None:
        if node in self.inside:
            return
        if all(i in self.free for i in node.inputs):
            self.free.add(node)
            return
        if not all(i in self.free or i in self.inside for i in node.inputs):
            return  # after the loop
        if node.op.kind is Kind.LOOP:
            cut_loop(self, node)
            return
        if node.op.kind is Kind.ITEM:
            self.inside[node] = self.results[node.inputs[0]][node.attributes["item"]]
            self.parts[node] = Part(node.inputs, (True,), node.attributes)
            return
        along = [self.along(i) for i in node.inputs]
        rule = FORWARDS[node.op.kind](self, node, along) if node.op.kind in FORWARDS else None
        if rule is None or not self.cut_operands(node, along, rule.operands):
            return
        part = Part(node.inputs, tuple(a is not None for a in rule.operands), rule.attributes or node.attributes, node.graphs)
        if rule.axis is not None:
            self.inside[node], self.parts[node] = rule.axis, part
        elif self.cheap(node):
            self.free.add(node)
        else:
            self.sums.add(node)
            self.parts[node] = part

    def cut_operands(self, node: Node, along: Axes, wanted: Axes) -> bool:
        """Whether the operands can be cut as wanted; those that do not depend on the batch are, if need be."""
        return all(a == axis if a is not None else axis is None or self.demand(i, axis)
                   for i, a, axis in zip(node.inputs, along, wanted, strict=True))

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

    # -- backwards: what does not depend on the batch, but meets it ----------------------------------------------

    def demand(self, node: Node, axis: int) -> bool:
        """Cuts a free node along an axis; False where that cannot be."""
        if node in self.inside:
            return self.inside[node] == axis
        if node not in self.free or not self.divides(node, axis) or self.demanded == DEEPEST:
            return False
        self.demanded += 1
        self.parts[node] = self.backwards(node, axis)
        self.demanded -= 1
        self.inside[node] = axis
        return True

    def backwards(self, node: Node, axis: int) -> Part:
        """What a chunk computes of a free node that meets the batch along an axis.

        A body has nothing to give to its chunks but its inputs and what is lifted out.  Anything else that is given there is
        a supposition, by which the axes of the loop's carries are found.
        """
        kind = node.op.kind
        if kind is Kind.SOURCE:
            counted = node.attributes.get("axis")
            if counted is not None and not (self.nested and counted == axis):
                return Part(attributes={**node.attributes, "shape": self.part_type(node, axis).shape})
            if self.nested and "symbol" not in node.attributes:
                self.lifted[node] = None
            return GIVEN
        if kind is Kind.MAP:
            same = all(i.type.ndim == node.type.ndim and self.demand(i, axis) for i in node.inputs)
            return Part(node.inputs, (True,) * len(node.inputs), node.attributes) if same else GIVEN
        if kind is Kind.VIEW:
            source, *awaited = node.inputs
            for along in (None, *(a for a in range(source.type.ndim) if self.divides(source, a))):
                attributes = cut_view(self, node, along, axis)
                if attributes is not None and (along is None or self.demand(source, along)):
                    return Part(node.inputs, (along is not None, *(False for _ in awaited)), attributes)
        return GIVEN


# -- how each kind can be cut ------------------------------------------------------------------------------------------


def only(axes: Axes) -> int | None:
    """The one axis along which operands of one shape are cut."""
    found = {a for a in axes if a is not None}
    return found.pop() if len(found) == 1 else None


def _map(split: Split, node: Node, along: Axes) -> Rule | None:
    axis = only(along)
    same = axis is not None and all(i.type.ndim == node.type.ndim for i in node.inputs)
    return Rule(axis, [axis] * len(along)) if same else None


def _reduce(split: Split, node: Node, along: Axes) -> Rule | None:
    (axis,), axes, fold = along, node.attributes["axes"], node.op.fold
    assert axis is not None and fold is not None
    if axis not in axes:
        return Rule(axis - sum(a < axis for a in axes), along)
    simple = len(fold.state_dtypes(node.dtype)) == 1 and node.dtype == node.inputs[0].dtype
    return Rule(None, along) if simple else None


def _prefix(split: Split, node: Node, along: Axes) -> Rule | None:
    axis = only(along)
    return None if axis == node.attributes["axis"] else Rule(axis, [axis] * len(along))


def _contract(split: Split, node: Node, along: Axes) -> Rule | None:
    left, right, out = split_spec(node.attributes["spec"])
    labels = {of[a] for of, a in zip((left, right), along, strict=True) if a is not None}
    if len(labels) != 1 or node.attributes.get("within"):  # what is left out counts from the whole batch's first place
        return None
    label = labels.pop()
    return Rule(out.index(label) if label in out else None, [of.index(label) if label in of else None for of in (left, right)])


def _gather(split: Split, node: Node, along: Axes) -> Rule | None:
    axis, picked = only(along), node.attributes["axis"]
    if axis is None:
        return None
    if axis != picked:
        return Rule(axis, (axis, axis))
    return Rule(axis, (None, axis)) if along[0] is None else None


def _scatter(split: Split, node: Node, along: Axes) -> Rule | None:
    axis = only(along)
    return None if axis is None else Rule(None if axis == node.attributes["axis"] else axis, (axis, axis))


def _view(split: Split, node: Node, along: Axes) -> Rule | None:
    source = along[0]
    if source is None:
        return None
    size = node.inputs[0].shape[source]
    likely = sorted((a for a in range(node.type.ndim) if split.divides(node, a)),
                    key=lambda a: (node.shape[a] != size, a != source))
    for axis in likely:
        attributes = cut_view(split, node, source, axis)
        if attributes is not None:
            return Rule(axis, along, attributes)
    return None


FORWARDS: Mapping[Kind, Callable[[Split, Node, Axes], Rule | None]] = {
    Kind.MAP: _map, Kind.REDUCE: _reduce, Kind.PREFIX: _prefix, Kind.CONTRACT: _contract, Kind.GATHER: _gather,
    Kind.SCATTER: _scatter, Kind.VIEW: _view}


# -- loops -----------------------------------------------------------------------------------------------------------


def cut_loop(split: Split, node: Node) -> None:
    """A loop whose every step works row by row of the batch is run by a chunk on its own rows."""
    (body,) = node.graphs
    carries, sequences = node.attributes["carries"], node.attributes["sequences"]
    steps = [int(carries <= k < carries + sequences) for k in range(len(body.inputs))]
    places = {place: axis - step for place, operand, step in zip(body.inputs, node.inputs, steps, strict=True)
              if (axis := split.along(operand)) is not None}
    inner = cut_body(body, carries, places, split.count)
    if inner is None:
        return
    operands = (*node.inputs, *inner.lifted)
    split.free.update(inner.lifted)
    for operand, place, step in zip(operands, (*body.inputs, *inner.lifted), (*steps, *(0 for _ in inner.lifted)), strict=True):
        axis = inner.inside.get(place)
        if axis is not None and split.along(operand) is None and not split.demand(operand, axis + step):
            return
    small = small_body(inner)
    if small is None:
        return
    split.results[node] = [inner.inside[out] + (k >= carries) for k, out in enumerate(body.outputs)]
    split.inside[node], split.bodies[node] = split.results[node][0], inner
    cut = (*(place in inner.inside for place in body.inputs), *(True for _ in inner.lifted))
    split.parts[node] = Part(operands, cut, node.attributes, (small,))


def cut_body(body: Graph, carries: int, places: dict[Node, int], count: int) -> Split | None:
    """A loop's body where these of its inputs are cut, and whatever else then must be; None where steps mix rows."""
    while True:
        if any(axis < 0 for axis in places.values()):
            return None  # the steps walk along the batch
        inner = Split(body, count, nested=True, inside=dict(places), parts=dict.fromkeys(places, GIVEN))
        inner.free.update(place for place in body.inputs if place not in places)
        for n in body.nodes:
            if n not in body.inputs:
                inner.classify(n)
        for place, out in zip(body.inputs[:carries], body.outputs, strict=False):
            axis = inner.along(out)  # what a step hands on is cut as what it was handed, and the other way round
            if axis is not None:
                inner.demand(place, axis)
            elif place in inner.inside:
                inner.demand(out, inner.inside[place])
        if any(out not in inner.inside for out in body.outputs) or \
                any(inner.inside.get(place) != inner.inside[out]
                    for place, out in zip(body.inputs[:carries], body.outputs, strict=False)):
            return None
        found = {place: inner.inside[place] for place in body.inputs if place in inner.inside}
        if found == places:
            return inner
        places = found


def small_body(inner: Split) -> Graph | None:
    """The body for the rows of a chunk; None where it reads all rows of something that is cut, or a supposition is left."""
    body = inner.graph
    new = {place: formal(position, inner.part_type(place, inner.inside[place]))
           for position, place in enumerate((*body.inputs, *inner.lifted)) if place in inner.inside}
    inputs = [new.get(place, place) for place in (*body.inputs, *inner.lifted)]
    if any(inner.parts[n].given and n not in new for n in order_of_parts(inner, body.outputs)):
        return None
    compute_parts(inner, body.outputs, new, {})
    outputs = tuple(new[out] for out in body.outputs)
    whole = {place for place in body.inputs if place in inner.inside}
    return None if whole.intersection(topological(outputs)) else Graph(tuple(inputs), outputs)


def order_of_parts(split: Split, wanted: Sequence[Node]) -> list[Node]:
    """The nodes of which a chunk must compute its part (or is given it) for the wanted ones; operands before users."""
    return operands_first(wanted, lambda node: split.parts[node].reads())


def compute_parts(split: Split, wanted: Sequence[Node], new: dict[Node, Node], whole: Mapping[Node, Node]) -> None:
    """Adds to `new` what a chunk computes for the wanted nodes.

    new     parts that are there already: what a chunk is given
    whole   what stands for nodes that a chunk reads as a whole; others stand for themselves
    """
    for node in order_of_parts(split, wanted):
        if node not in new:
            part = split.parts[node]
            operands = [new[i] if cut else whole.get(i, i) for i, cut in zip(part.operands, part.cut, strict=True)]
            new[node] = inherit(make(node.op, operands, part.attributes, part.graphs), node)
