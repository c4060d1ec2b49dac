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

from collections.abc import Sequence

from graphc.ir import Graph, Node, inherit, key_of, make, rebuild, rewrite
from graphc.op import Kind
from graphc.ops.bodies import below, close_loop, depending, opened
from graphc.ops.contractions import LETTERS, contract, split_spec
from graphc.ops.control import results_of
from graphc.ops.loop_gradients import branches
from graphc.ops.views import expand_to, reshape
from graphc.tensor import Tensor, placeholder

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
        graph = _with_results(graph, lambda node, inputs, wanted=wanted: (  # type: ignore[misc]
            _united(node, inputs, wanted[node]) if node in wanted else None))


def _united(node: Node, inputs: tuple[Node, ...], stacks: tuple[Node, ...]) -> Results:
    (body,) = node.graphs
    k = node.attributes["carries"]
    united = inherit(make(node.op, inputs, node.attributes, (Graph(body.inputs, (*body.outputs[:k], *stacks)),)), node)
    results = [t.node for t in results_of(united)]
    place = {output: results[k + position] for position, output in enumerate(stacks)}
    return [*results[:k], *(place[output] for output in body.outputs[k:])]


def _with_results(graph: Graph, replace: object) -> Graph:
    """The graph with nodes replaced by their results: `replace(node, inputs)` gives a node per result, or None."""
    results: dict[Node, Results | None] = {}

    def rule(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if node.op.kind is Kind.ITEM and (found := results.get(node.inputs[0])) is not None:
            return found[node.attributes["item"]]  # nothing reads an item that has no replacement
        if not node.graphs:
            return None
        results[node] = found = replace(node, inputs)  # type: ignore[operator]
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
    source = node.inputs[0] if node.op.name == "expand" else None
    return source is not None and (len(source.shape) < len(node.shape) or source.shape[0] == 1)


def _entry(node: Node) -> Node:
    """The entry that a sequence repeats."""
    source = Tensor(node.inputs[0])
    if source.ndim == len(node.shape):
        source = reshape(source, source.shape[1:])
    return expand_to(source, node.shape[1:]).node


def smaller_loop(node: Node, inputs: tuple[Node, ...], used: set[int]) -> Results | None:
    """A loop's results, made by a loop that does no more than they need; None where it is one already."""
    (body,) = node.graphs
    carries, sequences = node.attributes["carries"], node.attributes["sequences"]
    first = carries + sequences
    formals, length = body.inputs, node.attributes["length"]
    stacks = sorted(r for r in used if r >= carries)
    live = {r for r in used if r < carries}
    while True:
        order = below([body.outputs[r] for r in (*live, *stacks)])
        read = set(order)
        more = {i for i in range(carries) if formals[i] in read}
        if more <= live:
            break
        live |= more
    if not used:
        return [None] * len(node.types)
    varying = depending(order, formals[:first])
    carried = depending(order, formals[:carries])
    outputs = {body.outputs[r] for r in (*live, *stacks)}
    readers: dict[Node, int] = {}
    for n in order:
        for i in n.inputs:
            readers[i] = readers.get(i, 0) + 1
    early = {n for n in order if n in varying and n not in carried and _product(n, formals[carries:first], varying)}
    late = {n for r in stacks if (n := body.outputs[r]) in carried and n not in readers
            and not any(body.outputs[i] is n for i in live) and _product(n, varying, varying)}
    simple = [r for r in stacks if (n := body.outputs[r]) in formals[carries:first] or n in early or n not in varying]
    if (len(live) == carries and len(used) == len(node.types) and all(f in read for f in formals) and not early and not late
            and not simple and len(outputs) == len(live) + len(stacks)
            and not any(map(_repeated, inputs[carries:first]))):
        return None
    known = dict(zip(formals[first:], inputs[first:], strict=True))  # what every step reads: the operands themselves
    own: dict[Node, Node] = {}  # placeholder -> operand

    def enter(inside: Node, operand: Node) -> None:
        known[inside] = placeholder("x", inside.shape, inside.dtype).node
        own[known[inside]] = operand

    kept = sorted(live)
    for i in kept:
        enter(formals[i], inputs[i])
    entries: dict[Node, Node] = {}
    for f, operand in zip(formals[carries:first], inputs[carries:first], strict=True):
        entries[f] = operand
        if _repeated(operand):
            known[f] = _entry(operand)
        elif f in read:
            enter(f, operand)
    fixed = dict(zip(formals[first:], inputs[first:], strict=True))
    for n in below([body.outputs[r] for r in (*live, *stacks)]):
        if n in early:
            entries[n] = _product_of_stacks(n, entries, fixed)
            enter(n, entries[n])
    wanted: dict[Node, None] = {}
    for r in stacks:
        if r not in simple:
            n = body.outputs[r]
            wanted[next(i for i in n.inputs if i in varying) if n in late else n] = None
    roots = rewrite_open([*(body.outputs[i] for i in kept), *wanted], known)
    reached = set(below(roots, set(own)))
    places = [p for k, p in enumerate(own) if k < len(kept) or p in reached]
    graph, captured = close_loop(places, roots)
    attributes = {**node.attributes, "carries": len(kept), "sequences": len(places) - len(kept)}
    made = [t.node for t in results_of(inherit(make(node.op, [*(own[p] for p in places), *captured], attributes, (graph,)),
                                               node))] if roots else []
    results: Results = [None] * len(node.types)
    for i, result in zip(kept, made, strict=False):
        results[i] = result
    stacked = dict(zip(wanted, made[len(kept):], strict=True))
    for r in stacks:
        n = body.outputs[r]
        if n in entries:
            results[r] = entries[n]
        elif n not in varying:
            results[r] = expand_to(Tensor(rewrite_open([n], fixed)[0]), (length, *n.shape)).node
        elif n in late:
            results[r] = _product_of_stacks(n, stacked, fixed)
        else:
            results[r] = stacked[n]
    return results


def rewrite_open(roots: Sequence[Node], known: dict[Node, Node]) -> list[Node]:
    """The roots on other inputs, without going below what is known."""
    inside = tuple(known)
    return opened(Graph(inside, tuple(roots)), [known[i] for i in inside])


def _product(node: Node, entries: object, varying: set[Node]) -> bool:
    """Whether a node is a contraction of one of the entries with a value that is equal in all steps."""
    if node.op.kind is not Kind.CONTRACT:
        return False
    left, right, out = split_spec(node.attributes["spec"])
    if set(left + right) == set(out):
        return False  # an outer product: larger than what it is made of
    a, b = node.inputs
    return (a in entries and b not in varying) or (b in entries and a not in varying)  # type: ignore[operator]


def _product_of_stacks(node: Node, stacks: dict[Node, Node], fixed: dict[Node, Node]) -> Node:
    """That contraction for all steps at once; steps become its first axis."""
    left, right, out = split_spec(node.attributes["spec"])
    step = next(label for label in LETTERS if label not in left + right)
    a, b = node.inputs
    if a in stacks:
        whole, other = Tensor(stacks[a]), Tensor(rewrite_open([b], fixed)[0])
        return contract(whole, other, step + left, right, step + out).node
    whole, other = Tensor(stacks[b]), Tensor(rewrite_open([a], fixed)[0])
    return contract(other, whole, left, step + right, step + out).node
