"""Which values that wait for later use are kept, and which are computed again: a minimum cut.

Knows when a plan computes and reads each node; "early" is what runs until most bytes wait, whatever it means to the user.  Must
not know gradients, optimizers or op names, or how a second computation is written.

The bytes kept plus the operations spent, at a price in bytes per operation, are least, as in Jia et al., "Checkmate" (2020),
section 3, and in PyTorch's partitioner of joint graphs (He, 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import inf

from graphc.ir import Graph, Node
from graphc.op import Kind
from graphc.plan import Plan, Role

from .assign import FLUID, reads
from .cost import flops
from .fuse import Fused

FIXED = (Kind.LOOP, Kind.COND, Kind.ROUTINE, Kind.ITEM, Kind.COMPOSITE)  # never computed again


class History:
    """When each node of a graph is computed under a plan, and which values wait for later use.

    turn    the step after which most bytes wait; what runs until then is the early part, the rest the late part
    early   computed nodes of the early part, and the first step that computes each
    needed  early nodes that the late part reads, and the first step that does
    """

    def __init__(self, graph: Graph, fused: Fused, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.steps = plan.steps
        self.node_of = {buffer: node for node, buffer in fused.stored.items()}
        self.written = {self.node_of[b]: s for s, step in enumerate(self.steps)
                        for b in step.writes if b in self.node_of}
        self.position = {node: p for p, node in enumerate(graph.nodes)}
        self.inside = [self._inside([self.node_of[b] for b in step.writes if b in self.node_of], s)
                       for s, step in enumerate(self.steps)]
        self.turn = self._turn()
        self.early: dict[Node, int] = {}
        for step in range(self.turn + 1):
            for node in self.inside[step]:
                self.early.setdefault(node, step)
        self.needed: dict[Node, int] = {}
        for step in range(self.turn + 1, len(self.steps)):
            for node in self.inside[step]:
                if node not in self.early:
                    for operand in reads(node):
                        if operand in self.early:
                            self.needed.setdefault(operand, step)
        self.readers = {node: [u for u in users if node in reads(u)] for node, users in graph.users.items()}

    def _inside(self, outputs: Sequence[Node], step: int) -> list[Node]:
        """What a step computes: everything below its results down to memory that others wrote."""
        found: dict[Node, None] = {}
        stack = list(outputs)
        while stack:
            node = stack.pop()
            if node in found or node.op.kind is Kind.SOURCE or self.written.get(node, step) != step:
                continue
            found[node] = None
            stack.extend(reads(node))
        return sorted(found, key=self.position.__getitem__)

    def _turn(self) -> int:
        """The step after which the temporaries that wait for a later step take most bytes."""
        last = dict(self.written)
        for s, step in enumerate(self.steps):
            for buffer in step.reads:
                if buffer in self.node_of:
                    last[self.node_of[buffer]] = s
        change = [0] * (len(self.steps) + 1)
        for buffer, node in self.node_of.items():
            if node in self.written and self.plan.home(buffer).role is Role.TEMPORARY:
                change[self.written[node]] += buffer.bytes
                change[last[node]] -= buffer.bytes
        waiting, most, turn = 0, 0, 0
        for s, by in enumerate(change):
            waiting += by
            if waiting > most:
                most, turn = waiting, s
        return turn

    # -- segments ----------------------------------------------------------------------------------------------

    def borders(self, count: int) -> list[int]:
        """First steps of segments that need about equal bytes later on, moved to where few bytes cross."""
        starts = [0]
        if count == 1 or self.turn < 2:
            return starts
        weight = [0] * (self.turn + 1)
        for node in self.needed:
            if not _free(node):
                weight[self.early[node]] += int(node.type.bytes)
        crossing = self._crossing()
        total, sums, running = sum(weight), [], 0
        for w in weight:
            running += w
            sums.append(running)
        reach = total / count / 3
        for k in range(1, count):
            aim = total * k / count
            near = [s for s in range(starts[-1] + 1, self.turn + 1) if abs(sums[s - 1] - aim) <= reach]
            if near:
                starts.append(min(near, key=lambda s: (crossing[s], abs(sums[s - 1] - aim))))
        return starts

    def _crossing(self) -> list[int]:
        """For each early step the bytes that the early part hands over its start."""
        change = [0] * (self.turn + 2)
        for node, step in self.early.items():
            if node in self.written:
                last = max((self.early[u] for u in self.readers[node] if u in self.early), default=step)
                if last > step:
                    change[step + 1] += int(node.type.bytes)
                    change[last + 1] -= int(node.type.bytes)
        result, running = [], 0
        for by in change:
            running += by
            result.append(running)
        return result

    # -- the cut -----------------------------------------------------------------------------------------------

    def choose(self, borders: Sequence[int], price: float) -> frozenset[Node]:
        """The early nodes to compute again."""
        kept: set[Node] = set()
        again: set[Node] = set()
        for first, end in reversed(list(pairwise([*borders, self.turn + 1]))):
            segment = [n for n, step in self.early.items() if first <= step < end]
            wanted = [n for n in segment if n in self.needed]
            if len(borders) > 1 and end == self.turn + 1:
                kept.update(self._memory_of(wanted))
                continue
            keep, compute = minimum_cut(segment, wanted, kept, price)
            kept |= keep
            again |= compute
        return frozenset(again)

    def _memory_of(self, nodes: Iterable[Node]) -> Iterator[Node]:
        """The stored nodes that nodes are read from."""
        stack, seen = list(nodes), set()
        while stack:
            node = stack.pop()
            if node in seen or node not in self.early:
                continue
            seen.add(node)
            if node in self.written:
                yield node
            else:
                stack.extend(reads(node))

    def described(self, choice: frozenset[Node]) -> list[tuple[str, int]]:
        """The stored values among the chosen nodes."""
        found = [n for n in self.graph.nodes if n in choice and n in self.written]
        return [(f"{n.op.name} {n.type}", int(n.type.bytes)) for n in found]


def _free(node: Node) -> bool:
    return node.op.kind in FLUID


def minimum_cut(segment: Sequence[Node], wanted: Sequence[Node], kept: set[Node], price: float
                ) -> tuple[set[Node], set[Node]]:
    """(nodes to keep, nodes to compute again) such that the wanted ones can be had and the sum of costs is least.

    Each node is two vertices, "computed" and "had".  A cut between them keeps it, at its bytes; a cut before them
    computes it again, at its operations times the price, and then its operands must be had.  Operands from outside the
    segment can only be kept.
    """
    import networkx as nx

    network = nx.DiGraph()
    own = set(segment)
    nodes: dict[Node, None] = {}
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node in nodes or node.op.kind is Kind.SOURCE:
            continue
        nodes[node] = None
        if node in own:
            stack.extend(reads(node))
    source, sink = "source", "sink"
    for node in nodes:
        computed, had = (node, 0), (node, 1)
        if node in own and node.op.kind not in FIXED and len(node.types) == 1:
            network.add_edge(source, computed, capacity=price * flops(node) + (0 if _free(node) else 1))
            for operand in reads(node):
                if operand.op.kind is not Kind.SOURCE:
                    network.add_edge((operand, 1), computed)
        else:
            network.add_edge(source, computed)
        if node in kept:
            network.add_edge(computed, had, capacity=0)
        elif (_free(node) and node in own) or len(node.types) > 1:
            network.add_edge(computed, had)  # a view is no memory of its own
        else:
            network.add_edge(computed, had, capacity=float(node.type.bytes))
    for node in wanted:
        network.add_edge((node, 1), sink)
    if not wanted:
        return set(), set()
    value, (with_source, _) = nx.minimum_cut(network, source, sink)
    assert value < inf
    keep = {n for n in nodes if (n, 0) in with_source and (n, 1) not in with_source}
    return keep - kept, {n for n in nodes if (n, 0) not in with_source}
