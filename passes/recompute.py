"""Fits a step into a memory budget: values that wait long are computed again instead of kept, as few operations as possible.

Knows a graph and the plan that it would get.  Must not know gradients, optimizers or op names: "forward" is what runs until
most bytes wait, whatever it means.

What to keep is a minimum cut, as in Jia et al., "Checkmate" (2020), section 3, and in PyTorch's partitioner of joint graphs
(He, 2022): the bytes kept plus the operations spent, at a price in bytes per operation, are least.  A cut alone would
compute a whole chain again at once, and need as much memory as before; so the forward part is taken in segments, each
computed again by itself when its first value is due and from values kept at its start (Chen et al., "Training Deep Nets
with Sublinear Memory Cost", 2016).  The last segment is due at once and kept.  Prices and segments are tightened until the
plan that is really made meets the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from graphc.ir import Graph, Node, building, make, phase, rebuild, scope
from graphc.op import REGISTRY, Kind
from graphc.plan import Plan, Role

from .assign import FLUID, reads
from .cost import flops
from .fuse import Fused

PRICES = (1.0, 0.25, 0.06, 0.015, 0.004, 0.0)  # bytes worth one operation: from cheap maps alone to any contraction
SEGMENTS = (2, 3, 4, 6, 8, 11, 16, 24)
ROUNDS = 3  # a fitted graph may be fitted again: its memory waits elsewhere
FIXED = (Kind.LOOP, Kind.COND, Kind.ROUTINE, Kind.ITEM, Kind.COMPOSITE)  # never computed again
LayOut = Callable[[Graph], tuple[Fused, Plan]]


@dataclass(frozen=True)
class Recomputed:
    """What a budget cost.

    values  what is computed again: (how it reads, bytes that it took)
    """

    values: tuple[tuple[str, int], ...]
    operations: tuple[int, int]  # of a step, before and after
    arena: tuple[int, int]  # bytes of temporaries, before and after


@dataclass(frozen=True)
class Fitted:
    """A graph, its plan, and what was given for it; `cost` is None where nothing had to be."""

    graph: Graph
    plan: Plan
    cost: Recomputed | None = None


def fit(graph: Graph, budget: int, lay_out: LayOut) -> Fitted:
    """The graph whose plan takes at most `budget` bytes of temporaries, with the fewest operations that were found.

    graph    concrete: sizes known, no composites
    lay_out  fuses, orders and places a graph
    Where nothing reaches the budget, the result is the one that comes closest.
    """
    fused, plan = lay_out(graph)
    best, base = Fitted(graph, plan), None
    for _ in range(ROUNDS):
        if best.plan.arena_bytes <= budget or best is base:
            break
        base = best
        for fitted, how in _attempts(base, fused, lay_out):
            if fitted.plan.arena_bytes < best.plan.arena_bytes:
                best, fused = fitted, how
            if best.plan.arena_bytes <= budget:
                break
    return best


def _attempts(base: Fitted, fused: Fused, lay_out: LayOut) -> Iterator[tuple[Fitted, Fused]]:
    """Graphs that compute more and more again."""
    plan, cost = base.plan, base.cost
    before = cost or Recomputed((), (plan.flops, plan.flops), (plan.arena_bytes, plan.arena_bytes))
    history = History(base.graph, fused, plan)
    seen: set[frozenset[Node]] = set()
    fruitless, least = 0, plan.arena_bytes
    for count in (1, *SEGMENTS):
        borders = history.borders(count)
        for price in PRICES[:4] if count == 1 else PRICES[-3::2]:  # a chain at once would need what it saves
            choice = history.choose(borders, price)
            if not choice or choice in seen:
                continue
            seen.add(choice)
            try:
                graph = Rewriting(history, choice).graph()
            except Circular:
                continue
            how, found = lay_out(graph)
            yield Fitted(graph, found, Recomputed(
                (*before.values, *history.described(choice)), (before.operations[0], found.flops),
                (before.arena[0], found.arena_bytes))), how
            fruitless, least = (0, found.arena_bytes) if found.arena_bytes < least else (fruitless + 1, least)
        if fruitless >= 4 and count > 2:
            return


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


class Circular(Exception):
    """A choice that cannot be ordered: what a group waits for is computed from what nobody computes but it."""


class Rewriting:
    """The graph in which the late part reads second computations of the chosen nodes."""

    def __init__(self, history: History, chosen: frozenset[Node]) -> None:
        self.history = history
        self.order = [n for n in history.graph.nodes if n in chosen]
        self.group = self._groups()
        self.awaited = self._awaited()
        self.new: dict[Node, Node] = {}
        self.second: dict[Node, Node] = {}

    def _groups(self) -> dict[Node, Node]:
        """A representative of each set of chosen nodes that hang together: they are computed again at one time."""
        parent = {n: n for n in self.order}

        def find(node: Node) -> Node:
            while parent[node] is not node:
                parent[node] = node = parent[parent[node]]
            return node

        for node in self.order:
            for operand in reads(node):
                if operand in parent:
                    parent[find(operand)] = find(node)
        return {n: find(n) for n in self.order}

    def _awaited(self) -> dict[Node, Node]:
        """For each group a value after which its second computation may start: what its first reader waits for as well."""
        history, due = self.history, dict[Node, int]()
        for node, step in history.needed.items():
            if node in self.group:
                due[self.group[node]] = min(due.get(self.group[node], step), step)
        updates = {value for _, value in history.graph.updates}
        return {group: self._before(step, updates) for group, step in due.items()}

    def _before(self, step: int, updates: set[Node]) -> Node:
        history = self.history
        operands = [history.node_of[b] for b in history.steps[step].reads if b in history.node_of]
        others = [n for n in history.written if history.written[n] < step]
        for candidates in (operands, others):
            late = [n for n in candidates if n not in updates and n not in history.early]
            if late:
                return max(late, key=lambda n: (history.written[n], history.position[n]))
        return max((n for n in others if n not in updates), key=lambda n: (history.written[n], history.position[n]))

    def graph(self) -> Graph:
        graph = self.history.graph
        return graph.with_roots([self.image(r) for r in graph.roots])

    def image(self, root: Node) -> Node:
        """The node in the new graph.  Raises Circular where a second computation would wait for something behind it."""
        stack = [root]
        path: set[Node] = set()
        while stack:
            node = stack[-1]
            if node in self.new:
                stack.pop()
                continue
            if node in self.history.early or node.op.kind is Kind.SOURCE:
                self.new[node] = node
                stack.pop()
                continue
            first = [i for i in node.inputs if i not in self.new]
            first += [w for i in reads(node) if i in self.group and (w := self.awaited[self.group[i]]) not in self.new]
            if first:
                path.add(node)
                if any(i in path for i in first):
                    raise Circular
                stack.extend(first)
                continue
            path.discard(node)
            inputs = [self.again(i) if i in self.group else self.new[i] for i in reads(node)]
            inputs += [self.new[i] for i in node.inputs[len(inputs):]]
            self.new[node] = rebuild(node, tuple(inputs))
            stack.pop()
        return self.new[root]

    def again(self, node: Node) -> Node:
        """The second computation of a chosen node."""
        if node in self.second:
            return self.second[node]
        group = self.group[node]
        awaited = self.new[self.awaited[group]]
        for member in self.order:
            if self.group[member] is not group:
                continue
            inputs = []
            for operand in reads(member):
                if operand in self.second:
                    inputs.append(self.second[operand])
                elif operand.op.kind is Kind.SOURCE and not operand.op.is_given:
                    inputs.append(operand)
                else:
                    inputs.append(make(REGISTRY["after"], (operand, awaited)))
            inputs += member.inputs[len(inputs):]
            with building(phase, "gradient"), building(scope, member.scope):
                second = make(member.op, inputs, member.attributes, member.graphs)
            second.origins = member.origins
            self.second[member] = second
        return self.second[node]


def refusal(given: str, budget: int, fitted: Fitted) -> str:
    """What an error says where nothing meets the budget: the least that was reached, and what to do."""
    least, cost = fitted.plan.arena_bytes, fitted.cost
    tried = (f", even when {len(cost.values)} values are computed again ({cost.arena[0]:,} when none are)" if cost
             else "; nothing that could be computed again makes it less")
    return (f"needs {least:,} bytes of temporaries for {given}, the memory budget is {budget:,}{tried}; use a smaller batch, "
            f"or a budget of at least {least:,}")
