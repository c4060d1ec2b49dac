"""One element of every line: gathers that pick one, and scatters that place one, become element-wise where that is exact.

A class label picks one log-probability of its row, and its gradient is a row of zeros but for one place.  As loads and stores
at places that are data both need their rows in memory; element by element they stay with the loop over the row, so that
softmax, loss and gradient are one kernel.  Knows GATHER and SCATTER whose index has size 1 along its axis.  Must not know
losses.

- a scatter of one element per line is a choice at each place: is it the one?
- the sum over such a line is the element itself
- of a map of a line and of numbers that belong to the whole line (its maximum, its sum), an element is picked before the map
"""

from __future__ import annotations

import math

from graphc.ir import Graph, Node, inherit, make, make_like, transform
from graphc.op import Kind, Moves
from graphc.ops import elementwise as e
from graphc.ops.reductions import is_sum
from graphc.ops.sources import full, iota
from graphc.ops.views import expand_to, reshape
from graphc.symbols import Tensor
from graphc.types import int32

MAPS = 8  # maps that an element is picked in front of, at most
PLACES = 1 << 31  # of a line, from which 32 bits cannot count them


def pick_single_elements(graph: Graph) -> Graph:
    """The graph, of known sizes, with single elements of lines picked and placed element by element."""
    picks = picks_of(graph)
    if picks is None:
        return graph

    def rule(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        new = make_like(node, inputs) if inputs != node.inputs else node
        found = picks(node, new) or new
        return inherit(found, node) if found is not node else None

    return transform(graph, rule)


def picks_of(graph: Graph) -> Picks | None:
    """The picks for one walk over a graph; None where it has nothing to pick."""
    return Picks() if any(n.op.kind in (Kind.GATHER, Kind.SCATTER) for n in graph.nodes) else None


class Picks:
    """What becomes of each node in one walk, operands first: given the node, and what it is on its new inputs."""

    def __init__(self) -> None:
        self.scatters: dict[Node, Node] = {}  # those that are choices by now: a sum must see the scatter that it sums

    def __call__(self, node: Node, new: Node) -> Node | None:
        if new.op.kind is Kind.SCATTER and is_single(new):
            self.scatters[node] = new
            return placed(new)
        if node.inputs and node.inputs[0] in self.scatters and is_sum(node):
            return sum_of_placed(make_like(node, (self.scatters[node.inputs[0]],)))
        return picked(new)


def is_single(node: Node) -> bool:
    """Whether one element of each line along the axis is read or written, and lines have more than that."""
    if node.op.kind not in (Kind.GATHER, Kind.SCATTER):
        return False
    axis: int = node.attributes["axis"]
    line, single = (node, node.inputs[1]) if node.op.kind is Kind.SCATTER else (node.inputs[0], node)
    return bool(single.shape[axis] == 1 < line.shape[axis] < PLACES)


def within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


def placed(node: Node) -> Node:
    """A scatter of one element per line: that element where the place is its own, else 0."""
    index, updates = map(Tensor, node.inputs)
    axis, shape = node.attributes["axis"], node.shape
    size = shape[axis]
    place = e.where(within(index, size), e.cast(index, int32), -1)  # half the lanes of a comparison of 64 bits
    places = reshape(iota((size,), 0, int32), tuple(size if a == axis else 1 for a in range(len(shape))))
    here = e.equal(expand_to(places, shape), expand_to(place, shape))
    return e.where(here, expand_to(updates, shape), full(shape, 0, node.dtype)).node


def sum_of_placed(node: Node) -> Node | None:
    """The sum over lines of zeros and one element: that element."""
    scatter = node.inputs[0]
    axis = scatter.attributes["axis"]
    if node.attributes["axes"] != (axis,):
        return None
    index, updates = map(Tensor, scatter.inputs)
    kept = e.where(within(index, scatter.shape[axis]), updates, full(updates.shape, 0, node.dtype))
    return reshape(kept, node.shape).node


def picked(node: Node) -> Node | None:
    """A map's operands are picked, and then mapped, where one of them is a number of the whole line."""
    if node.op.kind is not Kind.GATHER or not is_single(node) or not node.dtype.is_float:
        return None
    data, index = node.inputs
    axis = node.attributes["axis"]
    if not (mixes(data, axis) or of_memory(data, axis)):
        return None
    found = Tensor(picked_from(data, node, {}))
    return e.where(within(Tensor(index), data.shape[axis]), found, full(node.shape, math.nan, node.dtype)).node


def picked_from(x: Node, pick: Node, made: dict[Node, Node]) -> Node:
    """What `pick` takes from its line, of `x`, which has such lines; made: what was found before."""
    known = made.get(x)
    if known is not None:
        return known
    axis = pick.attributes["axis"]
    if is_whole(x, axis):
        new = expand_to(Tensor(x.inputs[0]), pick.shape).node
    elif len(made) < MAPS and (mixes(x, axis) or of_memory(x, axis)):
        made[x] = x  # counts it
        new = make(x.op, [picked_from(i, pick, made) for i in x.inputs], x.attributes)
    else:
        new = make(pick.op, (x, pick.inputs[1]), pick.attributes)
    made[x] = new
    return new


def is_whole(node: Node, axis: int) -> bool:
    """Whether all elements of a line are one number, which is there before it is repeated."""
    if node.op.moves is not Moves.REPEATS:
        return False
    own = axis - (len(node.shape) - len(node.inputs[0].shape))
    return own < 0 or node.inputs[0].shape[own] == 1


def mixes(node: Node, axis: int, maps: int = MAPS) -> bool:
    """Whether the node is a map, at most so many deep, of a line's elements and a number of the whole line."""
    return maps > 0 and node.op.kind is Kind.MAP and any(
        (is_whole(i, axis) and i.inputs[0].type.size > 1) or mixes(i, axis, maps - 1) for i in dict.fromkeys(node.inputs))


def of_memory(node: Node, axis: int, maps: int = MAPS) -> bool:
    """Whether the node is a map, at most so many deep, of nothing but inputs, cells and repeated numbers."""
    return maps > 0 and node.op.kind is Kind.MAP and all(
        is_whole(i, axis) or i.op.is_given or of_memory(i, axis, maps - 1)
        for i in dict.fromkeys(node.inputs))
