"""Simplification: the rule table, constant folding, and views pushed to where they cost nothing.

Knows kinds and a few structural identities of views, folds and contractions.  Must not know how anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from math import prod

import numpy as np

from graphc.ir import SMALL, Graph, Node, inherit, make, make_like, rebuild, transform
from graphc.labels import labels_of
from graphc.op import REGISTRY, Kind, Moves, Op
from graphc.ops.contractions import contract
from graphc.ops.elementwise import cast
from graphc.ops.reductions import is_sum
from graphc.ops.views import expand_to, reshape
from graphc.symbols import Tensor, constant

from .cost import cost_per_element
from .narrow import narrow_comparison
from .rules import SIMPLIFYING, STABILIZING, Rule, apply_rule, by_op, splat

Change = Callable[[Node, Node], Node | None]

CHEAP = 4  # operations below a map that may be done once more where it is read
MOST_STEPS = 32  # of one node in one round: rules that undid each other would go on for ever


@lru_cache(maxsize=4)
def _table(stage: str) -> dict[Op, list[Rule]]:
    return by_op(STABILIZING if stage == "stabilize" else SIMPLIFYING)


def stabilize(graph: Graph) -> Graph:
    """Rewrites that keep numbers in range: log(sigmoid), log(1 + exp), log(sum(exp)), ..."""

    def rule(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        new = make_like(node, inputs)
        found = try_rules(new, "stabilize")
        return inherit(found or new, node)

    return transform(graph, rule)


def try_rules(node: Node, stage: str) -> Node | None:
    rules = _table(stage).get(node.op)
    if rules:
        ops = {i.op for i in node.inputs}
        filled: bool | None = None
        for rule in rules:
            if rule.asks.issubset(ops):
                if rule.asks_constant and not filled:
                    filled = any(splat(i) is not None for i in node.inputs) if filled is None else filled
                    if not filled:
                        continue
                found = apply_rule(rule, node)
                if found is not None:
                    return found
    return None


def simplify(graph: Graph, rounds: int = 4, change: Change | None = None) -> Graph:
    """Applies folding and rules until nothing changes, `rounds` times at most.

    A round goes through the graph once, operands first, and leaves a node only when nothing applies to what it has become:
    what a rule brings up is not left to the next round, which would make everything behind it anew.

    change   something else to do before the rules, in the first round: it is given a node and what that is on its new inputs
    """
    for _ in range(rounds):
        new = transform(graph, partial(simplify_node, turned=only_readers(graph, Kind.CONTRACT, (Moves.AXES,)),
                                       moved=only_readers(graph, Kind.MAP, (Moves.AXES, Moves.NOTHING)), change=change))
        if new.roots == graph.roots:
            return new
        graph, change = new, None
    return graph


def simplify_node(node: Node, inputs: tuple[Node, ...], turned: frozenset[Node] = frozenset(),
                  moved: frozenset[Node] = frozenset(), change: Change | None = None) -> Node | None:
    """What becomes of a node on simplified inputs.

    turned  nodes that read a contraction transposed compute it so
    moved   views that read a map in another order may become a map of views
    """
    if not inputs and node.op.kind is Kind.SOURCE:
        return fold_source(node)
    if node.settled and change is None and inputs == node.inputs and node not in turned and node not in moved:
        return node
    new = make_like(node, inputs) if inputs != node.inputs else node
    if change is not None:
        new = inherit(change(node, new) or new, node)
    if node in turned and new.inputs[0].op.kind is Kind.CONTRACT and new.op.moves is Moves.AXES:
        new = inherit(transposed(new), node)
    if node in moved:
        new = inherit(map_of_views(new) or new, node)
    new = settle(new)
    return inherit(new, node) if new is not node else None


def settle(node: Node, steps: int = MOST_STEPS) -> Node:
    """What a node becomes when nothing more applies to it, or to what rules put below it; after so many steps it stays."""
    while not node.settled and node.inputs and steps:
        below = tuple([i if i.settled or not i.inputs else settle(i, steps - 1) for i in node.inputs])
        new = rebuild(node, below)
        for attempt in ATTEMPTS.get(new.op.kind, OTHERS):
            found = attempt(new)
            if found is not None and found is not new:
                new = inherit(found, node)
                break
        else:
            new.settled = True
        node, steps = new, steps - 1
    return node


def simplify_by_rules(node: Node) -> Node | None:
    return try_rules(node, "simplify")


def _constant(value: np.ndarray) -> Node:
    return make(REGISTRY["constant"], (), {"value": np.array(value, order="C")})


def fold_source(node: Node) -> Node | None:
    """A size that is known by now becomes a constant."""
    if "size" in node.attributes and isinstance(node.attributes["size"], int):
        return _constant(node.op.numpy(**node.attributes))
    return None


def fold_constant(node: Node) -> Node | None:
    """A small node all of whose inputs are constants becomes one; filled tensors stay an expand of a scalar."""
    for i in node.inputs:
        if i.op.kind is not Kind.SOURCE and i.op.kind is not Kind.VIEW:
            return None
    if node.op.kind is Kind.MAP and node.shape and all(splat(i) is not None for i in node.inputs):
        scalars = [constant(splat(i), i.dtype).node for i in node.inputs]
        with np.errstate(all="ignore"):
            value = node.op.numpy(*(s.attributes["value"] for s in scalars), **node.attributes)
        return expand_to(Tensor(_constant(np.asarray(value, node.dtype.numpy))), node.shape).node
    if not all(i.op.kind is Kind.SOURCE and "value" in i.attributes for i in node.inputs):
        return None
    if node.type.is_open or prod(node.shape) > SMALL or (node.op.kind is Kind.VIEW and node.shape):
        return None
    with np.errstate(all="ignore"):
        value = node.op.numpy(*(i.attributes["value"] for i in node.inputs), **node.attributes)
    return _constant(np.asarray(value))


def simplify_view(node: Node) -> Node | None:
    """Joins views of one kind, drops those that change nothing."""
    source, moves = node.inputs[0], node.op.moves
    if moves in (Moves.NOTHING, Moves.REPEATS) and source.shape == node.shape:
        return source
    if node.op is source.op and node.op.has("twice"):
        return node.op.twice(Tensor(source.inputs[0]), source.attributes, node.attributes).node
    if source.op.moves is Moves.REPEATS:
        if moves is Moves.AXES and source.inputs[0].shape == ():
            return expand_to(Tensor(source.inputs[0]), node.shape).node
        if moves is Moves.NOTHING and source.inputs[0].type.size == 1:
            return expand_to(reshape(Tensor(source.inputs[0]), ()), node.shape).node
    if moves is Moves.REPEATS and source.shape and source.type.size == 1:
        return expand_to(reshape(Tensor(source), ()), node.shape).node
    return None


def sink_expands(node: Node) -> Node | None:
    """A map of tensors that repeat one smaller shape is computed once on that shape, then repeated."""
    if not node.inputs or not node.shape:
        return None
    small: tuple | None = None
    for i in node.inputs:
        if i.op.moves is Moves.REPEATS:
            shape = i.inputs[0].shape
            if small is None or (small == () and shape != ()):
                small = shape
            elif shape not in ((), small):
                return None
        else:
            return None
    assert small is not None
    if small == node.shape or prod(small, start=1) == prod(node.shape, start=1):
        return None
    narrow = [expand_to(Tensor(i.inputs[0]), small).node for i in node.inputs]
    return expand_to(Tensor(make(node.op, narrow, node.attributes)), node.shape).node


def simplify_cast(node: Node) -> Node | None:
    """A cast back from a wider type of the same category undoes itself."""
    if not (node.op.converts and node.inputs[0].op.converts):
        return None
    middle, start = node.inputs[0].dtype, node.inputs[0].inputs[0]
    if start.dtype.is_float == middle.is_float and middle.rank >= start.dtype.rank and not middle.is_bool:
        return cast(Tensor(start), node.dtype).node
    return None


def fold_chain(node: Node) -> Node | None:
    """(x * c) * d is x * (c*d), and likewise for sums: constants meet (up to rounding)."""
    if node.op.neutral is None or not node.dtype.is_float:
        return None
    for x, c in (node.inputs, node.inputs[::-1]):
        outer = splat(c)
        if outer is None or x.op is not node.op:
            continue
        for y, d in (x.inputs, x.inputs[::-1]):
            inner = splat(d)
            if inner is not None and np.isfinite(inner) and np.isfinite(outer):
                with np.errstate(all="ignore"):
                    both = node.op.numpy(inner, outer)
                if np.isfinite(node.dtype.numpy.type(both)) and (both != 0 or node.op.neutral == 0):  # 0 * x takes x away
                    return make(node.op, (y, expand_to(constant(both, node.dtype), node.shape).node))
    return None


def simplify_sum(node: Node) -> Node | None:
    """A sum of sums is one sum; a sum of equal values is a product."""
    if not is_sum(node):
        return None
    source, axes = node.inputs[0], node.attributes["axes"]
    if source.op is node.op:
        inner = source.attributes["axes"]
        left = [a for a in range(source.inputs[0].type.ndim) if a not in inner]
        both = tuple(sorted((*inner, *(left[a] for a in axes))))
        return make(node.op, source.inputs, {"axes": both})
    if source.op.moves is Moves.REPEATS and source.inputs[0].shape == () and not source.type.is_open:
        number = prod(source.shape[a] for a in axes)
        scalar = Tensor(source.inputs[0]) * constant(number, node.dtype)
        return expand_to(scalar, node.shape).node
    return None


def only_readers(graph: Graph, kind: Kind, moves: tuple[Moves, ...]) -> frozenset[Node]:
    """The views of these moves that are all that reads a node of the kind, or all that reads such a view."""
    found: set[Node] = set()
    roots = set(graph.roots)
    for node in graph.nodes:
        if node.op.moves in moves:
            source = node.inputs[0]
            if (source.op.kind is kind or source in found) and len(graph.users[source]) == 1 and source not in roots:
                found.add(node)
    return frozenset(found)


def transposed(node: Node) -> Node:
    """A contraction that is only read transposed is computed transposed: a weight's gradient meets its weight."""
    source = node.inputs[0]
    operands, out = source.attributes["spec"].split("->")
    left, right = operands.split(",")
    turned = "".join(out[a] for a in node.attributes["axes"])
    return contract(Tensor(source.inputs[0]), Tensor(source.inputs[1]), left, right, turned).node


def map_of_views(view: Node) -> Node | None:
    """A view of a map as a map of views, where that undoes a view of an operand: nothing is moved any more.

    Operands must be views, or cheap maps of such; one that has the place of what is computed elsewhere stays with that.
    """
    found = read_through(view.inputs[0], view, CHEAP) if view.inputs[0].op.kind is Kind.MAP else None
    return found[0] if found is not None and found[1] else None


def read_through(node: Node, view: Node, most: int) -> tuple[Node, bool] | None:
    """A node of at most so many operations read through a view, and whether that undoes a view; None where it does not pay."""
    if node.op.kind is Kind.MAP and most >= 0:
        below = [read_through(i, view, most - cost_per_element(i)) for i in node.inputs]
        parts = [part for part in below if part is not None]
        if not below or len(parts) < len(below):
            return None
        return make(node.op, [new for new, _ in parts], node.attributes), any(undone for _, undone in parts)
    if node.op.kind is not Kind.VIEW:
        return None
    new = rebuild(view, (node,))
    joined = simplify_view(new) or new
    undone, base = joined is node.inputs[0], node
    while base.op.moves in (Moves.AXES, Moves.NOTHING):
        base = base.inputs[0]
    return (joined, undone) if undone or base.op.kind in (Kind.VIEW, Kind.SOURCE) else None


def absorb_permutes(node: Node) -> Node | None:
    """A contraction of a permuted operand reads the operand itself, with its labels permuted."""
    left, rest = node.attributes["spec"].split(",")
    right, out = rest.split("->")
    operands, labels, changed = list(node.inputs), [left, right], False
    for k, operand in enumerate(operands):
        if operand.op.moves is Moves.AXES:
            axes = operand.attributes["axes"]
            order = {axis: labels[k][place] for place, axis in enumerate(axes)}
            labels[k] = "".join(order[a] for a in range(len(axes)))
            operands[k], changed = operand.inputs[0], True
    if not changed:
        return None
    return contract(Tensor(operands[0]), Tensor(operands[1]), labels[0], labels[1], out).node


def drop_ones(node: Node) -> Node | None:
    """A contraction without labels of size 1, but for those that are alone: the last label of a result says how that lies."""
    groups = labels_of(node.attributes["spec"])
    operands, out = node.attributes["spec"].split("->")
    sizes = {label: size for labels, i in zip(operands.split(","), node.inputs, strict=True)
             for label, size in zip(labels, i.shape, strict=True)}
    ones = {label for label in groups.batch if sizes[label] == 1}
    for group in (groups.m, groups.n, groups.k):
        found = {label for label in group if sizes[label] == 1}
        ones |= found if len(found) < len(group) else set()
    if not ones:
        return None
    kept = ["".join(label for label in labels if label not in ones) for labels in (*operands.split(","), out)]
    a, b = (reshape(Tensor(i), tuple(sizes[label] for label in labels)) for i, labels in zip(node.inputs, kept, strict=False))
    return reshape(contract(a, b, *kept), node.shape).node


# What may apply to a node of each kind, in this order.
OTHERS = (simplify_by_rules,)
ATTEMPTS = {
    Kind.MAP: (fold_constant, sink_expands, simplify_cast, narrow_comparison, fold_chain, simplify_by_rules),
    Kind.VIEW: (fold_constant, simplify_view, simplify_by_rules),
    Kind.REDUCE: (fold_constant, simplify_sum, simplify_by_rules),
    Kind.CONTRACT: (fold_constant, absorb_permutes, drop_ones, simplify_by_rules),
    Kind.GATHER: (fold_constant, simplify_by_rules),
}
