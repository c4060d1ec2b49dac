"""Second computations: the graph in which later readers of chosen values read them computed again.

Knows which values were chosen and when they are due.  Must not know why they were chosen.
"""

from __future__ import annotations

from graphc.ir import Graph, Node, make, rebuild
from graphc.op import REGISTRY, Kind
from graphc.origins import building, phase, scope

from .assign import reads
from .keeping import History


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
