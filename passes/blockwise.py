"""Values that are far larger than what they come from and go into are computed block by block, and never kept whole.

The scores of an attention are such: products of short sums, [batch, heads, queries, keys], from which a softmax, a mask and
dropout make weights of the same size, and contractions something small again.  With long sequences they fill the memory.  Here
everything that happens to one head is one run of a loop, and some of its queries after the other, so that no more than a piece
of one head's scores is there for each thread.  A gradient gets a loop of its own, which computes them again from what they came
from and from the maxima and sums of rows, which the first loop has found (Rabe and Staats, "Self-attention does not need O(n^2)
memory", 2021; Dao et al., "FlashAttention", 2022).

    region      wide nodes that hang together: as large as the product that they began with
    statistics  small nodes between wide ones: folds of them, with the maps behind
    stages      what waits for something outside that waits for results of the region is computed a stage later

Knows kinds, sizes and contractions.  Must not know op names, softmax or attention.  How a stage is cut is `blocks`' matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from math import prod

from graphc.ir import Graph, Node, rebuild
from graphc.labels import labels_of
from graphc.op import Kind
from graphc.ops.contractions import split_spec
from graphc.records import record
from graphc.walk import operands_first

from .blocks import Blocks, Body, body_of, computed
from .parts import Axes
from .regions import axes_of, core, long_axes, moved, read_place

LEAST_BYTES = 1 << 20  # of a wide node: less is not worth a loop
LEAST_RATIO = 4  # how many times as large as each of its operands it is
LONGEST_SUM = 256  # of the product: longer ones cost too much to be computed again
LEAST_BLOCKS = 8  # that are worth a loop: threads share them
PIECE = 4 << 20  # bytes of a wide node of a block from which it is computed in pieces
MANY_BYTES, MANY_BLOCKS, MANY_TIMES = 32 << 20, 16, 16  # of a region that is in blocks without being asked for
HUGE = 1 << 30  # bytes of wide nodes, one of each region, from which all are
MOST_PIECES, LEAST_ROWS = 8, 128  # code grows with pieces, and short ones read much for little


@record(eq=False)
class Region:
    """Wide nodes that hang together.

    seed     the product that they begin with
    counts   sizes of the axes that blocks are cut along
    pieces   how many pieces a block is written out in, along one axis more
    wide     the wide nodes, and where they have these axes
    results  contractions that make something small of them
    """

    seed: Node
    counts: tuple[int, ...]
    pieces: int
    wide: dict[Node, tuple[int, ...]]
    results: set[Node]

    @property
    def bytes(self) -> int:
        """Of one wide node."""
        return int(self.seed.type.bytes)

    @property
    def pays(self) -> bool:
        """Whether blocks take next to no time: what computing again costs, caches give back."""
        return prod(self.counts) >= MANY_BLOCKS and self.bytes >= MANY_BYTES and \
            all(self.seed.type.size >= MANY_TIMES * i.type.size for i in self.seed.inputs)


def blockwise(graph: Graph, asked: bool = False, piece: int = PIECE) -> tuple[Graph, str]:
    """The graph with wide values in blocks, and words about it.

    asked   memory counts more than time; else only regions that gain much of it for next to no time, or all if they are huge
    piece   bytes of a wide node of a block from which it is computed in pieces
    """
    if not any(map(is_seed, graph.nodes)):
        return graph, ""
    fixed = fixed_nodes(graph)
    regions = list(regions_of(graph, fixed, piece))
    if not asked and sum(region.bytes for region in regions) < HUGE:
        regions = [region for region in regions if region.pays]
    made: dict[Node, tuple[Blocks, Body]] = {}
    found: Counter[tuple[int, int]] = Counter()
    for region in regions:
        stages = [(blocks, body) for blocks in stages_of(graph, region, fixed) if (body := body_of(blocks)) is not None]
        if {r for blocks, _ in stages for r in blocks.results} >= region.results:  # else some depend on each other
            made.update({result: (blocks, body) for blocks, body in stages for result in blocks.results})
            found[prod(region.counts), region.pieces] += len(stages)
    if not made:
        return graph, ""
    new: dict[Node, Node] = {}
    for node in operands_first((*graph.inputs, *graph.roots), lambda n: made[n][0].inputs if n in made else n.inputs):
        if node in made and node not in new:
            new.update(zip(made[node][0].results, computed(*made[node], new), strict=True))
        elif node not in new:
            new[node] = rebuild(node, tuple(new[i] for i in node.inputs))
    words = "values of more than a cache are computed in blocks and not kept: " + ", ".join(
        f"{many} loops over {blocks}" + (f" in {pieces} pieces each" if pieces > 1 else "")
        for (blocks, pieces), many in found.items())
    return graph.with_roots([new[r] for r in graph.roots], [new[i] for i in graph.inputs]), words


def fixed_nodes(graph: Graph) -> set[Node]:
    """What depends on nothing that is given."""
    fixed: set[Node] = set()
    for node in graph.nodes:
        if not node.op.is_given if node.op.kind is Kind.SOURCE else not node.graphs and fixed.issuperset(node.inputs):
            fixed.add(node)
    return fixed


# -- regions -----------------------------------------------------------------------------------------------------------


def is_seed(node: Node) -> bool:
    """Whether a node is a product of short sums that is far larger than its operands."""
    if node.op.kind is not Kind.CONTRACT or not node.dtype.is_float or node.type.bytes < LEAST_BYTES:
        return False
    labels = labels_of(node.attributes["spec"])
    a = node.inputs[1 if labels.turned else 0]
    sums = prod(int(a.shape[labels.left.index(x)]) for x in labels.k)
    return sums <= LONGEST_SUM and all(node.type.size > LEAST_RATIO * i.type.size for i in node.inputs)


def is_same(node: Node) -> bool:
    """Whether a node is its operand but for axes of size 1."""
    return core(node) is not node


def is_spread(node: Node) -> bool:
    """Whether a node is a view of something much smaller."""
    return node.op.kind is Kind.VIEW and node.type.size > LEAST_RATIO * node.inputs[0].type.size


def regions_of(graph: Graph, fixed: set[Node], piece: int) -> Iterator[Region]:
    """What hangs together of wide nodes, where all that reads them is wide, a fold or a contraction."""
    met: set[Node] = set()
    for seed in filter(is_seed, graph.nodes):
        if seed not in met:
            region = region_from(graph, seed, fixed, piece)
            if region is not None:
                met.update(region.wide)
                yield region


def region_from(graph: Graph, seed: Node, fixed: set[Node], piece: int) -> Region | None:
    """The region of a seed; None where something else than a wide node, a fold or a contraction reads it."""
    wide, results, folded = {seed}, set[Node](), set[int]()
    users, waiting = graph.users, [seed]
    while waiting:
        node = waiting.pop()
        mapped = node.op.kind is Kind.MAP or is_same(node)
        beside = [i for i in node.inputs if i not in fixed] if mapped else []
        if node in graph.roots or not all(i.op.kind is Kind.MAP or is_same(i) or is_seed(i) or is_spread(i) for i in beside):
            return None
        for user in users[node]:
            if user.op.kind is Kind.REDUCE:
                folded.update(same_axes([a for a in user.attributes["axes"] if node.shape[a] != 1], node, seed))
            elif user.op.kind is Kind.CONTRACT:
                results.add(user)
            elif user.op.kind is Kind.MAP or is_same(user):
                beside.append(user)
            else:
                return None
        waiting += [n for n in dict.fromkeys(beside) if n not in wide]
        wide.update(beside)
    labels = labels_of(seed.attributes["spec"])
    batch = [a for label in labels.batch if seed.shape[a := labels.out.index(label)] != 1 and a not in folded]
    counts = tuple(int(seed.shape[a]) for a in batch)
    free = [a for a in long_axes(seed.shape) if a not in batch and a not in folded]
    if not folded or not free:
        return None
    if prod(counts) < LEAST_BLOCKS:
        batch, counts = [], ()
    rows = max(free, key=lambda a: seed.shape[a])
    pieces = pieces_of(int(seed.shape[rows]), int(seed.type.bytes) // prod(counts), piece)
    if prod(counts) * pieces == 1:
        return None
    return Region(seed, counts, pieces, {n: same_axes((*batch, rows), seed, n) for n in wide}, results)


def same_axes(axes: Iterable[int], node: Node, other: Node) -> tuple[int, ...]:
    """Where another node has axes of a node, which it is but for axes of size 1."""
    before, after = long_axes(node.shape), long_axes(other.shape)
    return tuple(after[before.index(a)] for a in axes)


def pieces_of(rows: int, size: int, piece: int) -> int:
    """In how many pieces so many rows of so many bytes are computed."""
    fitting = [p for p in range(1, MOST_PIECES + 1) if rows % p == 0 and (p == 1 or rows // p >= LEAST_ROWS)]
    return next((p for p in fitting if size <= p * piece), fitting[-1])


# -- stages ------------------------------------------------------------------------------------------------------------


def stages_of(graph: Graph, region: Region, fixed: set[Node]) -> list[Blocks]:
    """What is computed by one loop each, the last one first."""
    levels, statistics = levels_of(graph, region)
    wanted: list[dict[Node, None]] = [{} for _ in range(max(levels[r] for r in region.results) + 1)] if region.results else []

    def is_inside(level: int, node: Node) -> bool:
        of_stage = levels[node] == level and (node in statistics or node in region.results)
        return of_stage or node in region.wide or node in fixed

    def read_inside(level: int, node: Node) -> tuple[Node, ...]:
        return node.inputs if is_inside(level, node) else ()

    for node in graph.nodes:
        outside = node in graph.roots or any(u not in region.wide and u not in statistics for u in graph.users[node])
        if node in region.results or (node in statistics and outside):
            wanted[levels[node]][node] = None
    stages = []
    for level in reversed(range(len(wanted))):
        walk = operands_first(wanted[level], partial(read_inside, level))
        inside, inputs = [n for n in walk if is_inside(level, n)], [n for n in walk if not is_inside(level, n)]
        for node in inputs:
            if node in statistics:  # an earlier stage has found it
                wanted[levels[node]][node] = None
        places = {n: places_in(region, n, [u for u in inside if n in u.inputs]) for n in inputs}
        stages.append(Blocks(region.counts, region.pieces, places, tuple(wanted[level])))
    return stages


def levels_of(graph: Graph, region: Region) -> tuple[dict[Node, int], set[Node]]:
    """The stage that each node waits for, -1 for none; and the small nodes that depend on wide ones of their own stage."""
    levels: dict[Node, int] = {}
    statistics: set[Node] = set()
    for node in graph.nodes:
        level = max((levels[i] + (i in region.results) for i in node.inputs), default=-1)
        levels[node] = level = max(level, 0) if node in region.wide else level
        small = node not in region.wide and node not in region.results
        if small and any(levels[i] == level and (i in region.wide or i in statistics) for i in node.inputs):
            statistics.add(node)
    return levels, statistics


def places_in(region: Region, node: Node, users: Iterable[Node]) -> Axes:
    """Which axes of a small node are those of blocks, as far as its users tell."""
    found: dict[int, int] = {}
    for user in users:
        if user.op.kind is Kind.CONTRACT:
            left, right, out = split_spec(user.attributes["spec"])
            pairs = list(zip((left, right), user.inputs, strict=True))
            wide, axes = next((own, region.wide[n]) for own, n in ((out, user), *pairs) if n in region.wide)
            for own, i in pairs:
                if i is node:
                    found.update({k: own.index(wide[a]) for k, a in enumerate(axes) if wide[a] in own})
        elif user.op.kind is Kind.VIEW and user in region.wide:
            own_axes = axes_of(user)
            moves = [moved(index, own_axes) for index in read_place(user)]
            found.update({k: moves.index((a, 0)) for k, a in enumerate(region.wide[user]) if (a, 0) in moves})
    return tuple(found.get(k) for k in range(len(region.counts) + 1))
