"""What a mask leaves out of a contraction: products that nobody needs are marked, so that code need not compute them.

Causal attention masks half of its scores.  A softmax makes zeros of them, so half of the products with the values are
zeros as well, and the gradients of masked scores are looked at by nobody: in each of the six contractions of attention and
its gradients about half of the work is for nothing.  The same holds for a window of neighbours, of which most is for nothing.

A region is one side of a diagonal of two axes.  A mask is a subgraph that depends on no input, so it is computed here, and
what it is beyond a diagonal is seen from its corners.  From there facts are followed through views and maps: a map is known
where it is the same number whatever its unknown operands are.  That is asked of the op itself, with numbers of all
magnitudes, so that no op is known by name here.

    operand is zero in a region          those products are left out
    result is looked at by nobody there  those sums are left out

Numbers are taken to be finite where they are unknown: 0 * x is 0.  So NaN and infinities stay out of results that a mask
keeps them from, which holds for an attention that is computed step by step, too.

Knows maps, views and contractions.  Must not know op names, softmax or attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from graphc.ir import Graph, Node
from graphc.labels import labels_of
from graphc.op import Kind
from graphc.ops.contractions import Within, split_spec
from graphc.plan import End
from graphc.records import record

from .diagonals import beyond_diagonals
from .regions import Facts, Region, axes_of, guarded, is_worth_it, long_axes, moved, read_place, through_view

LARGEST = 1 << 22  # elements of a mask that is looked at
LEAST_SIDE = 16  # of what is cut by a diagonal: about the rows that are computed at a time
UNKNOWN = 2  # operands of a map that may be unknown
NUMBERS = (0.0, 1.0, -1.0, 2.5, -0.3, 7.0, 1e-30, -1e30)  # what an unknown number may be, beside the largest ones


@record(frozen=True)
class Masks:
    """What is known about the nodes of a graph.

    within   what each contraction may leave out, as its attribute `within` says it
    ignored  where a node may be anything, NaN too
    """

    known: Mapping[Node, Facts]
    fixed: Fixed
    within: Mapping[Node, Within]
    ignored: Mapping[Node, frozenset[Region]] = MappingProxyType({})

    def facts(self, node: Node) -> Facts:
        return self.known.get(node) or self.fixed.facts(node)

    def inside(self, node: Node) -> dict[Node, Facts]:
        """The facts about inputs of graphs inside a node: about those that stand for an operand as it is."""
        first = node.attributes["carries"] + node.attributes["sequences"] if node.op.kind is Kind.LOOP else 0
        places = [(k, facts) for k, i in enumerate(node.inputs) if k >= first and (facts := self.facts(i))]
        before = 0 if node.op.kind is Kind.LOOP else 1  # which graph runs
        return {g.inputs[k - before]: facts for g in node.graphs for k, facts in places}

    def ends(self, axes: Sequence[int], folds: Sequence[Node], outputs: Sequence[tuple[int, Node]]) -> tuple[End, ...]:
        """Where the rows of a kernel end, one place on each side: its folds go along one axis, its (write, output) are as large
        as its space."""
        (axis,) = axes
        regions = [{r for r, value in self.facts(n.inputs[0]).items() if value == n.op.fold.neutral(n.inputs[0].dtype)}
                   for n in folds]
        regions += [set(self.facts(n)) for _, n in outputs]
        sides: dict[bool, Region] = {}
        for r in sorted(set.intersection(*regions), key=lambda r: r.offset, reverse=True):
            if axis in (r.first, r.second):
                sides[r.first == axis] = r  # the one that leaves out most
        return tuple(End(*r, tuple((write, float(self.facts(n)[r])) for write, n in outputs)) for r in sides.values())

    def hidden_tiles(self, contraction: Node, outputs: Sequence[Node]) -> tuple[End, ...]:
        """Where nothing of a contraction has to be computed: its outputs, as large as itself, are known or read by nobody."""
        out = split_spec(contraction.attributes["spec"])[2]
        pairs = {(out.index(x), out.index(y)) for x, y, _ in self.within.get(contraction, ()) if x in out and y in out}
        found = []
        for pair in sorted(pairs):
            offset, numbers = -contraction.shape[pair[1]], []
            for write, node in enumerate(outputs):
                known = {r.offset: value for r, value in self.facts(node).items() if r[:2] == pair}
                least = min((*known, *(r.offset for r in self.ignored.get(node, ()) if r[:2] == pair)), default=None)
                if least is None:
                    break
                offset = max(offset, least)
                if known:
                    numbers.append((write, float(known[min(known)])))
            else:
                found.append(End(*pair, offset, tuple(numbers)))
        return tuple(found)


def masks_of(graph: Graph, known: Mapping[Node, Facts]) -> Masks:
    """What masks make of a graph of known sizes; known: facts about its inputs."""
    fixed = Fixed()
    facts = facts_of(graph, known, fixed)
    if not facts:
        return Masks(facts, fixed, {})
    unread = unread_of(graph, facts)
    within = {n: found for n in graph.nodes if n.op.kind is Kind.CONTRACT and n.dtype.is_float
              and (found := needed(n, facts, unread.get(n, frozenset())))}
    ignored = unread_of(graph, {n: firm(n, regions, facts, fixed) for n, regions in facts.items()}) if within else {}
    return Masks(facts, fixed, within, ignored)


def needed(node: Node, facts: Mapping[Node, Facts], unread: Iterable[Region]) -> Within:
    """(x, y, offset) for pairs of labels of a contraction: products with index[x] > index[y] + offset are not needed."""
    labels = labels_of(node.attributes["spec"])
    a, b = node.inputs[::-1] if labels.turned else node.inputs
    zeros = [{r for r, value in facts.get(x, {}).items() if value == 0} for x in (a, b)]
    sizes = dict(zip(labels.left + labels.right, (*a.shape, *b.shape), strict=True))
    cut = {group[-1:] for group in (labels.m, labels.n)} | ({labels.k} if len(labels.k) == 1 else set())
    least: dict[tuple[str, str], int] = {}
    for own, regions in zip((labels.out, labels.left, labels.right), (unread, *zeros), strict=True):
        for region in regions:
            pair = own[region.first], own[region.second]
            if cut.issuperset(pair) and min(sizes[label] for label in pair) > LEAST_SIDE:
                least[pair] = min(region.offset, least.get(pair, region.offset))
    return tuple(sorted((*pair, offset) for pair, offset in least.items()
                        if is_worth_it(sizes[pair[0]], sizes[pair[1]], offset)))


# -- what elements are ---------------------------------------------------------------------------------------------------


def facts_of(graph: Graph, known: Mapping[Node, Facts], fixed: Fixed) -> dict[Node, Facts]:
    """What is known of regions of maps and views that depend on something from outside; the others become `fixed`."""
    found = dict(known)
    for node in graph.nodes:
        kind = node.op.kind
        if kind not in (Kind.MAP, Kind.VIEW):
            if kind is Kind.SOURCE and not node.op.is_given and node.type.size <= LARGEST:
                fixed.nodes.add(node)
        elif node.type.size <= LARGEST and fixed.nodes.issuperset(node.inputs):
            fixed.nodes.add(node)
        elif node.dtype.is_bool and len(node.shape) > 1 and (new := beyond_diagonals(node)):
            found[node] = new
        elif len(node.shape) > 1:
            facts = [found.get(i) or fixed.facts(i) for i in node.inputs]
            if any(facts) and (new := through_view(node, facts[0]) if kind is Kind.VIEW else of_map(node, facts, fixed)):
                found[node] = new
    return found


class Fixed:
    """The nodes that depend on nothing from outside, and are not too large to be computed here; what they are."""

    def __init__(self) -> None:
        self.nodes: set[Node] = set()
        self.arrays: dict[Node, np.ndarray] = {}
        self.known: dict[Node, Facts] = {}

    def array(self, node: Node) -> np.ndarray:
        if node not in self.arrays:
            operands = [self.array(i) for i in node.inputs]
            with np.errstate(all="ignore"):
                self.arrays[node] = np.asarray(node.op.numpy(*operands, **node.attributes))
        return self.arrays[node]

    def number(self, node: Node) -> Any:
        """The one number that a node is everywhere; None where it is not, or not fixed."""
        while node.op.kind is Kind.VIEW and node.type.size != 1 and not guarded(node):
            node = node.inputs[0]
        return self.array(node).reshape(())[()] if node.type.size == 1 and node in self.nodes else None

    def facts(self, node: Node) -> Facts:
        """What a fixed node is in some regions; nothing of any other."""
        if node not in self.nodes or len(node.shape) < 2:
            return {}
        if node not in self.known:
            if node.op.kind is Kind.VIEW:
                self.known[node] = through_view(node, self.facts(node.inputs[0]))
            elif node.dtype.is_integer or len(long_axes(node.shape)) != 2 or node.type.size == 0:
                self.known[node] = {}
            else:
                found = beyond_diagonals_of(node.shape, self.array(node))
                self.known[node] = {r: v for r, v in found.items()
                                    if is_worth_it(node.shape[r.first], node.shape[r.second], r.offset)}
        return self.known[node]


def beyond_diagonals_of(shape: Sequence[int], array: np.ndarray) -> Facts:
    """What a matrix is beyond diagonals near two of its corners; its other axes are of size 1."""
    axes = long_axes(shape)
    matrix = array.reshape([shape[a] for a in axes])
    found = {}
    for (first, second), seen in (((axes[1], axes[0]), matrix), ((axes[0], axes[1]), matrix.T)):
        corner = seen[0, -1]
        others = seen != corner
        rows = others.any(axis=1)
        last = seen.shape[1] - 1 - np.argmax(others[:, ::-1], axis=1) - np.arange(seen.shape[0])
        if corner == corner and rows.any():
            found[Region(first, second, int(last[rows].max()))] = corner
    return found


def of_map(node: Node, facts: list[Facts], fixed: Fixed) -> Facts:
    """Where a map is one number whatever its unknown operands are."""
    numbers = [fixed.number(i) for i in node.inputs]
    found = {}
    for region in dict.fromkeys(r for known in facts for r in known):
        value = outcome(node, [f.get(region) if n is None else n for n, f in zip(numbers, facts, strict=True)])
        if value is not None:
            found[region] = value
    return found


def firm(node: Node, regions: Facts, facts: Mapping[Node, Facts], fixed: Fixed) -> Facts:
    """Those of the facts about a map that hold for operands that are NaN, too."""
    if node.op.kind is not Kind.MAP:
        return {}
    found = {}
    for region, value in regions.items():
        known = [n if (n := fixed.number(i)) is not None else (facts.get(i) or fixed.facts(i)).get(region) for i in node.inputs]
        if all(v is not None or i.dtype.is_float for v, i in zip(known, node.inputs, strict=True)):
            operands = [np.array(np.nan if v is None else v, i.dtype.numpy) for v, i in zip(known, node.inputs, strict=True)]
            with np.errstate(all="ignore"):
                if np.asarray(node.op.numpy(*operands, **node.attributes)) == value:
                    found[region] = value
    return found


# -- what is looked at ---------------------------------------------------------------------------------------------------


def unread_of(graph: Graph, facts: Mapping[Node, Facts]) -> dict[Node, frozenset[Region]]:
    """Regions of nodes that nobody looks at: maps are known there without them, or nobody looks at what reads them."""
    roots, users = set(graph.roots), graph.users
    found: dict[Node, frozenset[Region]] = {}
    for node in reversed(graph.nodes):
        readers = users[node]
        if readers and node not in roots and node not in facts and all(u in facts or u in found for u in readers):
            regions = joint([unread_by(node, u, facts.get(u, {}), found.get(u, frozenset())) for u in readers])
            if regions:
                found[node] = regions
    return found


def unread_by(node: Node, user: Node, facts: Facts, unread: frozenset[Region]) -> Iterable[Region]:
    if user.op.kind is Kind.MAP:
        return {*facts, *unread}
    if user.op.kind is not Kind.VIEW or not unread or user.inputs[0] is not node:
        return ()
    axes = axes_of(user)
    back = {at[0]: (axis, at[1]) for axis, index in enumerate(read_place(user)) if (at := moved(index, axes)) is not None}
    return {Region(back[r.first][0], back[r.second][0], r.offset + back[r.first][1] - back[r.second][1])
            for r in unread if r.first in back and r.second in back}


def joint(regions: list[Iterable[Region]]) -> frozenset[Region]:
    """What lies in a region of each of these."""
    found = None
    for each in regions:
        own: dict[tuple[int, int], int] = {}
        for r in each:
            own[r[:2]] = min(r.offset, own.get(r[:2], r.offset))
        found = own if found is None else {pair: max(offset, own[pair]) for pair, offset in found.items() if pair in own}
    return frozenset(Region(*pair, offset) for pair, offset in (found or {}).items())


def outcome(node: Node, known: list[Any]) -> Any:
    """What a map gives whatever its unknown operands (None) are; None where that depends on them, or is no number."""
    unknown = known.count(None)
    if unknown > UNKNOWN or unknown == len(known):
        return None
    given = [v for v in known if v is not None]
    tried = [samples(i.dtype.numpy, given) if v is None else (0.0, -0.0) if v == 0 and i.dtype.is_float else (v,)
             for v, i in zip(known, node.inputs, strict=True)]  # 0 times a number is a zero of either sign
    count = prod(len(t) for t in tried)
    operands = [np.array(t, i.dtype.numpy) for t, i in zip(zip(*product(*tried), strict=True), node.inputs, strict=True)]
    with np.errstate(all="ignore"):
        values = np.asarray(node.op.numpy(*operands, **node.attributes))
    numbers = values[values == values]  # 0 / 0 is nothing that one reckons with
    return numbers[0] if 2 * len(numbers) > count and (numbers == numbers[0]).all() else None


def samples(dtype: np.dtype, known: list[Any]) -> list[Any]:
    """Numbers of all magnitudes, and those that the other operands are."""
    if dtype == np.bool_:
        return [False, True]
    if dtype.kind == "f":
        largest = np.finfo(dtype).max
        return [*NUMBERS, largest, -largest, *(v for v in known if np.isfinite(v))]
    return [0, 1, -1, 2, 7, -100, 1 << 30, *(int(v) for v in known if np.isfinite(v))]
