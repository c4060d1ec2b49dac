"""Loops made one, smaller, and relieved of what need not be repeated.

Knows what a loop's operands and results mean.  Must not know where loops come from, how they are differentiated, or how they
run.

- A gradient has a forward loop of its own, which differs from the user's in what it stacks alone: the two become one.
- Results that nothing reads disappear, with the carries, operands and computations that only they need.
- A sequence that repeats one entry is read by every step instead.
- A product of a sequence's entries with what every step reads is taken for all steps at once, before the loop; a product
  that is only stacked, behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from graphc.ir import Graph, Node, inherit, key_of, make, rebuild, rewrite
from graphc.op import Kind, Moves
from graphc.ops.bodies import below, close_loop, depending, replaced
from graphc.ops.contractions import LETTERS, contract, split_spec
from graphc.ops.control import results_of
from graphc.ops.loop_gradients import branches
from graphc.ops.views import expand_to, reshape
from graphc.symbols import Tensor, placeholder

Results = list["Node | None"]


def merge_scans(graph: Graph) -> Graph:
    """The graph with its loops, and those inside them, merged and pruned."""
    if not any(node.graphs for node in graph.nodes):
        return graph
    graph = pruned(merged(graph))
    graph = nested(graph)
    return pruned(graph)


def nested(graph: Graph) -> Graph:
    """The pass itself inside bodies; after loops that are equal from outside were merged, as bodies change by it."""

    def rule(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        return rebuild(node, inputs, tuple(map(merge_scans, node.graphs))) if node.graphs else None

    new = rewrite(graph.nodes, rule)
    return graph.with_roots([new[r] for r in graph.roots], [new[i] for i in graph.inputs])


# -- loops that agree ------------------------------------------------------------------------------------------------


def merged(graph: Graph) -> Graph:
    """Loops that hand on the same values from the same operands are one, which stacks what any of them stacks."""
    while True:
        groups: dict[object, list[Node]] = {}
        for node in graph.nodes:
            if node.op.kind is Kind.LOOP:
                (body,) = node.graphs
                attributes = tuple((name, key_of(value)) for name, value in node.attributes.items())
                groups.setdefault((node.inputs, attributes, body.inputs, body.outputs[:node.attributes["carries"]]), []
                                  ).append(node)
        wanted: dict[Node, tuple[Node, ...]] = {}
        for group in groups.values():
            if len(group) > 1:
                outputs = [o for node in group for o in node.graphs[0].outputs[node.attributes["carries"]:]]
                stacks = tuple(dict.fromkeys(outputs))
                wanted |= {node: stacks for node in group}
        if not wanted:
            return graph
        graph = _with_results(graph, partial(_united, wanted))


def _united(wanted: Mapping[Node, tuple[Node, ...]], node: Node, inputs: tuple[Node, ...]) -> Results | None:
    if node not in wanted:
        return None
    (body,), stacks = node.graphs, wanted[node]
    k = node.attributes["carries"]
    united = inherit(make(node.op, inputs, node.attributes, (Graph(body.inputs, (*body.outputs[:k], *stacks)),)), node)
    results = [t.node for t in results_of(united)]
    place = {output: results[k + position] for position, output in enumerate(stacks)}
    return [*results[:k], *(place[output] for output in body.outputs[k:])]


def _with_results(graph: Graph, replace: Callable[[Node, tuple[Node, ...]], Results | None]) -> Graph:
    """The graph with nodes replaced by their results: `replace(node, inputs)` gives a node per result, or None."""
    results: dict[Node, Results | None] = {}

    def rule(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if node.op.kind is Kind.ITEM and (found := results.get(node.inputs[0])) is not None:
            return found[node.attributes["item"]]  # nothing reads an item that has no replacement
        if not node.graphs:
            return None
        results[node] = found = replace(node, inputs)
        if found is None:
            return None
        for result in found:
            if result is not None:
                inherit(result, node)
        return found[0] if len(node.types) == 1 else node  # of several, items take the results; nobody reads this

    new = rewrite(graph.nodes, rule)
    return graph.with_roots([new[r] for r in graph.roots], [new[i] for i in graph.inputs])


# -- what is not needed ----------------------------------------------------------------------------------------------


def pruned(graph: Graph) -> Graph:
    """Loops and branches without results that nothing reads, and loops without what need not be repeated."""
    used: dict[Node, set[int]] = {}
    for node in graph.nodes:
        for source in node.inputs:
            if source.graphs:
                used.setdefault(source, set()).add(node.attributes["item"] if node.op.kind is Kind.ITEM else 0)
    for root in graph.roots:
        if root.graphs:
            used.setdefault(root, set()).add(0)

    def replace(node: Node, inputs: tuple[Node, ...]) -> Results | None:
        if node.op.kind is Kind.LOOP:
            return smaller_loop(node, inputs, used.get(node, set()))
        return smaller_branch(node, inputs, used.get(node, set()))

    return _with_results(graph, replace)


def smaller_branch(node: Node, inputs: tuple[Node, ...], used: set[int]) -> Results | None:
    kept = sorted(used)
    read = set(below([o for branch in node.graphs for o in branch.outputs]))
    if len(kept) == len(node.types) and all(i in read for i in node.graphs[0].inputs):
        return None
    if not kept:
        return [None] * len(node.types)
    made = branches(node.op, inputs[0], node.graphs[0].inputs, inputs[1:],
                    [[branch.outputs[r] for r in kept] for branch in node.graphs])
    place = dict(zip(kept, made, strict=True))
    return [place[r].node if r in place else None for r in range(len(node.types))]


def _repeated(node: Node) -> bool:
    """Whether all entries of a sequence are equal by construction."""
    source = node.inputs[0] if node.op.moves is Moves.REPEATS else None
    return source is not None and (len(source.shape) < len(node.shape) or source.shape[0] == 1)


def _entry(node: Node) -> Node:
    """The entry that a sequence repeats."""
    source = Tensor(node.inputs[0])
    if source.ndim == len(node.shape):
        source = reshape(source, source.shape[1:])
    return expand_to(source, node.shape[1:]).node


def smaller_loop(node: Node, inputs: tuple[Node, ...], used: set[int]) -> Results | None:
    """A loop's results, made by a loop that does no more than they need; None where it is one already."""
    if not used:
        return [None] * len(node.types)
    needs = Needs(node, inputs, used)
    return None if needs.everything else needs.results()


class Needs:
    """What the results of a loop that are read need of its body, and what of that needs no loop."""

    def __init__(self, node: Node, inputs: tuple[Node, ...], used: set[int]) -> None:
        self.node, self.inputs = node, inputs
        (self.body,) = node.graphs
        self.carries = node.attributes["carries"]
        first = self.carries + node.attributes["sequences"]
        formals, outputs = self.body.inputs, self.body.outputs
        self.stacks = sorted(r for r in used if r >= self.carries)
        self.kept, self.order = self.live({r for r in used if r < self.carries})
        self.read = set(self.order)
        self.sequences = dict(zip(formals[self.carries:first], inputs[self.carries:first], strict=True))
        self.fixed = dict(zip(formals[first:], inputs[first:], strict=True))
        self.repeated = {f for f, operand in self.sequences.items() if _repeated(operand)}
        self.varying = depending(self.order, formals[:first])
        carried = depending(self.order, formals[:self.carries])
        entries = self.sequences.keys() - self.repeated
        self.early = [n for n in self.order if n not in carried and self.product(n, entries)]
        inside = {i for n in self.order for i in n.inputs} | {outputs[i] for i in self.kept}
        self.late = {n for r in self.stacks if (n := outputs[r]) in carried - inside and self.product(n, self.varying)}

    def live(self, kept: set[int]) -> tuple[list[int], list[Node]]:
        """The carries that are needed, those that others need among them, and what they and the stacks are made of."""
        outputs, formals = self.body.outputs, self.body.inputs
        while True:
            order = below([outputs[r] for r in (*sorted(kept), *self.stacks)])
            more = {i for i in range(self.carries) if formals[i] in set(order)}
            if more <= kept:
                return sorted(kept), order
            kept = kept | more

    def product(self, node: Node, entries: Collection[Node]) -> bool:
        """Whether a node is a contraction of one of the entries with a value that is equal in all steps.

        An outer product is none: it is larger than what it is made of, and costs no more in the loop.
        """
        if node.op.kind is not Kind.CONTRACT:
            return False
        left, right, out = split_spec(node.attributes["spec"])
        varying = [i for i in node.inputs if i in self.varying]
        return set(left + right) != set(out) and len(varying) == 1 and varying[0] in entries

    def made_outside(self, n: Node) -> bool:
        """Whether a stack is made without this loop."""
        return n in self.sequences or n in self.early or n not in self.varying

    @property
    def everything(self) -> bool:
        """Whether the loop does what is needed and nothing else."""
        stacked = [self.body.outputs[r] for r in self.stacks]
        return (len(self.kept) == self.carries and len(stacked) == len(self.body.outputs) - self.carries
                and self.read.issuperset(self.body.inputs) and not self.repeated and not self.early and not self.late
                and len(set(stacked)) == len(stacked) and not any(map(self.made_outside, stacked)))

    def results(self) -> Results:
        node, outputs = self.node, self.body.outputs
        entered: dict[Node, Node] = {self.body.inputs[i]: self.inputs[i] for i in self.kept}  # in the body -> operand
        known: dict[Node, Node] = dict(self.fixed)
        entries = dict(self.sequences)
        for n, operand in self.sequences.items():
            if n in self.repeated:
                known[n] = _entry(operand)
            else:
                entered[n] = operand
        for n in self.early:
            entered[n] = entries[n] = self.of_all_steps(n, entries)
        wanted: dict[Node, None] = {}
        for n in (outputs[r] for r in self.stacks):
            if not self.made_outside(n):
                wanted[next(i for i in n.inputs if i in self.varying) if n in self.late else n] = None
        own = {n: placeholder("x", n.shape, n.dtype).node for n in entered}
        roots = replaced([*(outputs[i] for i in self.kept), *wanted], known | own)
        made: list[Node] = []
        if roots:
            reached = set(below(roots, set(own.values())))
            kept = [n for k, n in enumerate(own) if k < len(self.kept) or own[n] in reached]
            graph, captured = close_loop([own[n] for n in kept], roots)
            attributes = {**node.attributes, "carries": len(self.kept), "sequences": len(kept) - len(self.kept)}
            loop = make(node.op, [*(entered[n] for n in kept), *captured], attributes, (graph,))
            made = [t.node for t in results_of(inherit(loop, node))]
        stacked = dict(zip(wanted, made[len(self.kept):], strict=True))
        results: Results = [None] * len(node.types)
        for i, result in zip(self.kept, made, strict=False):
            results[i] = result
        for r in self.stacks:
            n = outputs[r]
            if n not in self.varying:
                results[r] = expand_to(Tensor(replaced([n], self.fixed)[0]), (node.attributes["length"], *n.shape)).node
            else:
                results[r] = entries.get(n) or (self.of_all_steps(n, stacked) if n in self.late else stacked[n])
        return results

    def of_all_steps(self, node: Node, stacks: Mapping[Node, Node]) -> Node:
        """A contraction of an entry with a shared value, for all steps at once; steps become its first axis."""
        left, right, out = split_spec(node.attributes["spec"])
        step = next(label for label in LETTERS if label not in left + right)
        a, b = (Tensor(stacks[i] if i in self.varying else replaced([i], self.fixed)[0]) for i in node.inputs)
        if node.inputs[0] in self.varying:
            return contract(a, b, step + left, right, step + out).node
        return contract(a, b, left, step + right, step + out).node
