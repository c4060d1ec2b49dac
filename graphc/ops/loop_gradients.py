"""Gradients of ops that hold graphs: a loop's gradient is a loop that runs the other way, a branch's gradient a branch.

Knows which values of the forward loop the backward one keeps, and which parts of a gradient need not be in a loop at all.
Must not know how a pull-back is found (it is handed in), or how loops run.

Backwards, a step reads values of the forward step.  Those that cost something (contractions, folds, exponentials...) and
what is handed from step to step are stacked by a second forward loop, which has the first one's operands and steps: a pass
makes the two one.  Cheap maps and views are computed again.

The cotangent of an operand that every step reads is a sum over steps.  Where its summands are contractions of values of the
step, the loop only stacks those values, and one contraction over steps and labels follows: a weight's gradient is one large
product instead of many small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

from ..ir import Graph, Node, make
from ..op import Kind, Op
from ..origins import building, phase, scope
from ..symbols import Tensor, placeholder
from ..types import Dim, Size, TensorType
from .bodies import below, close_loop, depending, formal, replaced
from .contractions import LETTERS, contract, split_spec
from .control import results_of
from .reductions import is_sum, sum_
from .sources import size_of, zeros
from .views import expand_to, moveaxis, permute, reshape

Pull = Callable[[Sequence[Node], Sequence[Tensor], Sequence[Node]], list["Tensor | None"]]
Outside = Callable[[], Tensor]  # a value outside the loop, once the loops are made

CHEAP = {"add", "sub", "mul", "neg", "abs", "minimum", "maximum", "lt", "le", "gt", "ge", "eq", "ne", "and_", "or_", "xor",
         "not_", "select", "const", "constant", "cast", "fma", "sign", "square"}  # cost less than reading a stored value
TYPICAL = 32  # an open size, where values are compared by size


class _Probe:
    """A scalar builder that notes whether every instruction is a cheap one."""

    def __init__(self) -> None:
        self.cheap = True

    def dtype(self, x: Any) -> str:
        return "float32"

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in CHEAP:
            self.cheap = False
        return lambda *_: None


_costs: dict[Op, bool] = {}


def costly(node: Node) -> bool:
    """Whether a value is kept rather than computed again."""
    if node.op.kind in (Kind.VIEW, Kind.SOURCE):
        return False
    if node.op.kind is not Kind.MAP:
        return True
    if node.op not in _costs:
        probe = _Probe()
        node.op.scalar(probe, *(None for _ in node.inputs), **node.attributes)
        _costs[node.op] = not probe.cheap
    return _costs[node.op]


def is_addition(node: Node) -> bool:
    """Whether a node adds two tensors."""
    return node.op.neutral == 0


def _bytes(nodes: Iterable[Node]) -> int:
    total = 0
    for node in nodes:
        type_ = node.type
        names = set().union(*(s.names() for s in type_.shape if isinstance(s, Dim)))
        total += type_.substitute(dict.fromkeys(names, TYPICAL)).bytes
    return total


def _floating(node: Node) -> bool:
    return any(t.dtype.is_float for t in node.types)


# -- loops -----------------------------------------------------------------------------------------------------------


def scan_gradients(given: Sequence[Tensor | None], node: Node, wanted: Sequence[int], pull: Pull
                   ) -> dict[int, Tensor | None]:
    """Cotangents of the wanted operands of a scan, from those of its results."""
    return _Backward(node, wanted).gradients(given, pull)


class _Backward:
    """The gradient of one scan, in terms of the nodes of its body; what is made outside waits in closures."""

    def __init__(self, node: Node, wanted: Sequence[int]) -> None:
        self.node, self.wanted = node, list(wanted)
        (self.body,) = node.graphs
        self.carries, self.sequences = node.attributes["carries"], node.attributes["sequences"]
        self.length: Size = node.attributes["length"]
        self.recompute = node.attributes.get("recompute", False)
        self.formals = self.body.inputs
        first = self.carries + self.sequences
        self.entries = dict(zip(self.formals[self.carries:first], node.inputs[self.carries:first], strict=True))
        self.fixed = dict(zip(self.formals[first:], node.inputs[first:], strict=True))
        self.kept: dict[Node, None] = {}  # values that the forward loop stacks
        self.emitted: dict[Node, None] = {}  # values that the backward loop stacks
        self.summed: dict[Node, Tensor] = {}  # values that it adds up, and where
        self.totals: dict[Node, Outside] = {}
        self.stacks: dict[Node, Tensor] = {}
        self.sums: dict[Node, Tensor] = {}

    # -- which carries have cotangents ---------------------------------------------------------------------------

    def moving(self, given: Sequence[Tensor | None]) -> tuple[list[int], list[int]]:
        """The carries through which cotangents flow to a wanted operand, and the stacks from which they come."""
        outputs, order = self.body.outputs, self.body.nodes
        floats = {i for i in range(self.carries) if self.formals[i].dtype.is_float}
        varies = floats & set(self.wanted)
        while True:
            reached = depending(order, {self.formals[i] for i in (*varies, *self.wanted)}, _floating)
            more = {i for i in floats if outputs[i] in reached}
            if more <= varies:
                break
            varies |= more
        stacks = [s for s in range(self.carries, len(outputs)) if given[s] is not None and outputs[s] in reached]
        flows = {i for i in floats if given[i] is not None}
        while True:
            sources = set(below([outputs[i] for i in (*flows, *stacks)]))
            more = {i for i in floats if self.formals[i] in sources}
            if more <= flows:
                break
            flows |= more
        return sorted(varies & flows), stacks

    # -- the rule ------------------------------------------------------------------------------------------------

    def gradients(self, given: Sequence[Tensor | None], pull: Pull) -> dict[int, Tensor | None]:
        active, stacks = self.moving(given)
        outputs = self.body.outputs
        seeds = [_like("g", outputs[i].type) for i in (*active, *stacks)]
        operands = [k for k in self.wanted if k >= self.carries]
        targets = [self.formals[k] for k in (*active, *operands)]
        found = pull([outputs[i] for i in (*active, *stacks)], seeds, targets)
        handed = [_or_zeros(f, self.formals[i].type) for f, i in zip(found, active, strict=False)]
        self.roots = below([f.node for f in found if f is not None] + [h.node for h in handed])
        self.backward = depending(self.roots, {s.node for s in seeds})
        self.varying = depending(self.roots, {*(s.node for s in seeds), *self.formals[:self.carries], *self.entries})
        results: dict[int, Outside] = {}
        for k, part in zip(operands, found[len(active):], strict=True):
            if part is not None:
                results[k] = self.stack(part.node) if k < self.carries + self.sequences else self.total(part.node)
        self.keep_what_is_read([h.node for h in handed])
        last = self.run(active, stacks, given, seeds, [h.node for h in handed])
        gradients: dict[int, Tensor | None] = {k: make_() for k, make_ in results.items()}
        gradients |= {k: last[active.index(k)] if k in active else None for k in self.wanted if k < self.carries}
        self.totals.clear()  # they know this object, and all of it would stay until garbage is collected
        return {k: gradients.get(k) for k in self.wanted}

    # -- what leaves the loop ------------------------------------------------------------------------------------

    def stack(self, node: Node) -> Outside:
        """The values of all steps, stacked."""
        if node not in self.varying:
            return lambda: self.outside(node).expand(self.length, *node.shape)
        if node not in self.entries and (batched := _BATCHED.get(node.op.name)) is not None:  # the smaller operand is stacked
            under = self.stack(node.inputs[0])
            return lambda: batched(under(), node)
        if node in self.backward or self.recompute:
            self.emitted[node] = None
        elif node not in self.entries:
            self.kept[node] = None
        return lambda: Tensor(self.entries[node]) if node in self.entries else self.stacks[node]

    def total(self, node: Node) -> Outside:
        """The sum over steps; linear operations are done once, behind it."""
        if node not in self.totals:
            self.totals[node] = cache(self.made_total(node))
        return self.totals[node]

    def made_total(self, node: Node) -> Outside:
        if self.recompute and node in self.varying:  # stacks are what this loop must not keep
            return self.accumulated(node)
        if node not in self.varying:
            return lambda: self.outside(node) * size_of(self.length, node.dtype)
        op, inputs = node.op, node.inputs
        if op.kind is Kind.CONTRACT:
            return self.contraction(node)
        if is_sum(node):
            entries, axes = self.stack(inputs[0]), (0, *(a + 1 for a in node.attributes["axes"]))
            return lambda: sum_(entries(), axes)
        if op.kind is Kind.SCATTER:
            return self.scattered(node)
        if op.kind is Kind.VIEW and not node.attributes.get("fill"):
            under = self.total(inputs[0])
            return lambda: Tensor(make(op, (under().node,), node.attributes))
        if is_addition(node):
            return self.sum_of(node)
        varying = {k for k, i in enumerate(inputs) if i in self.varying}
        together = next((s for s in op.linear if varying.issubset(s)), None)
        if together is not None:
            parts = [self.total(i) if k in together else partial(self.outside, i) for k, i in enumerate(inputs)]
            return lambda: Tensor(make(op, [part().node for part in parts], node.attributes))
        if node in self.emitted or node in self.entries:
            entries = self.stack(node)
            return lambda: sum_(entries(), 0)
        return self.accumulated(node)

    def sum_of(self, node: Node) -> Outside:
        """A chain of additions, which may be as long as an operand has readers."""
        summands: list[Node] = []
        while is_addition(node) and node in self.varying:
            node, last = node.inputs
            summands.append(last)
        parts = [self.total(n) for n in (node, *reversed(summands))]

        def added() -> Tensor:
            result = parts[0]()
            for part in parts[1:]:
                result = result + part()
            return result

        return added

    def accumulated(self, node: Node) -> Outside:
        if node not in self.summed:
            self.summed[node] = _like("sum", node.type)
        return lambda: self.sums[node]

    def contraction(self, node: Node) -> Outside:
        left, right, out = split_spec(node.attributes["spec"])
        a, b = node.inputs
        if a not in self.varying or b not in self.varying:
            first = self.total(a) if a in self.varying else lambda: self.outside(a)
            second = self.total(b) if b in self.varying else lambda: self.outside(b)
            return lambda: contract(first(), second(), left, right, out)
        step = next(label for label in LETTERS if label not in left + right)
        as_, bs = self.stack(a), self.stack(b)
        return lambda: contract(as_(), bs(), step + left, step + right, out)

    def scattered(self, node: Node) -> Outside:
        """What the steps add at places of one axis, added from one long list of places."""
        index, updates = node.inputs
        axis = node.attributes["axis"]
        if index not in self.varying:
            total = self.total(updates)
            return lambda: Tensor(make(node.op, (self.outside(index).node, total().node), node.attributes))
        indices, additions = self.stack(index), self.stack(updates)

        def listed(x: Tensor) -> Tensor:
            moved = moveaxis(x, 0, axis)
            return reshape(moved, (*moved.shape[:axis], moved.shape[axis] * moved.shape[axis + 1], *moved.shape[axis + 2:]))

        return lambda: Tensor(make(node.op, (listed(indices()).node, listed(additions()).node), node.attributes))

    def outside(self, node: Node) -> Tensor:
        """A value that is equal in all steps, from the operands themselves."""
        return Tensor(replaced([node], self.fixed)[0])

    # -- what the forward loop keeps -----------------------------------------------------------------------------

    def keep_what_is_read(self, handed: Sequence[Node]) -> None:
        """Chooses the forward values that the backward steps read from stacks."""
        made = [*handed, *self.emitted, *self.summed]
        read = {n for n in made if n not in self.backward}
        for node in below(made):
            if node in self.backward:
                read.update(i for i in node.inputs if i not in self.backward)
        for node in self.roots:
            if node in read and node in self.varying and node not in self.entries:
                needed = self.sources(node)
                fewer = self.recompute or _bytes(needed) <= _bytes([node])
                self.kept.update(dict.fromkeys(needed if fewer else [node]))

    def sources(self, node: Node) -> list[Node]:
        """The values that are not kept yet and that computing the node again takes."""
        found: dict[Node, None] = {}
        stack, seen = [node], {node}
        while stack:
            n = stack.pop()
            if n in self.kept or n in self.entries or n not in self.varying:
                continue
            if n in self.formals or (len(n.types) == 1 and costly(n) and not self.recompute):
                found[n] = None
                continue
            stack.extend(i for i in n.inputs if i not in seen)
            seen.update(n.inputs)
        return list(found)

    # -- the loops -----------------------------------------------------------------------------------------------

    def run(self, active: Sequence[int], stacks: Sequence[int], given: Sequence[Tensor | None], seeds: Sequence[Tensor],
            handed: Sequence[Node]) -> list[Tensor]:
        """Makes both loops; fills `stacks` and `sums`, and returns the cotangents of what the carries start as."""
        forward = self.forward()
        own: dict[Node, Node] = {}  # placeholder -> operand: carries, then sequences
        for seed, i in zip(seeds, active, strict=False):
            own[seed.node] = _or_zeros(given[i], self.formals[i].type).node
        for node, place in self.summed.items():
            own[place.node] = zeros(node.shape, node.dtype).node
        carries = len(own)
        for seed, s in zip(seeds[len(active):], stacks, strict=True):
            cotangent = given[s]
            assert cotangent is not None
            own[seed.node] = cotangent.node
        known: dict[Node, Node] = dict(self.fixed)
        for node, stack in (*self.entries.items(), *forward.items()):
            known[node] = _like("x", node.type).node
            own[known[node]] = stack
        open_ = replaced([*handed, *self.summed, *self.emitted], known)
        sums = [Tensor(n) + place for n, place in zip(open_[len(handed):carries], self.summed.values(), strict=True)]
        roots = [*open_[:carries - len(self.summed)], *(s.node for s in sums), *open_[carries:]]
        if not roots:
            return []
        read = set(below(roots, set(own)))
        places = [p for k, p in enumerate(own) if k < carries or p in read]
        graph, captured = close_loop(places, roots)
        loop = make(self.node.op, [*(own[p] for p in places), *captured],
                    {"carries": carries, "sequences": len(places) - carries, "length": self.length,
                     "reverse": not self.node.attributes["reverse"]}, (graph,))
        results = results_of(loop)
        self.sums = dict(zip(self.summed, results[len(handed):carries], strict=True))
        self.stacks |= dict(zip(self.emitted, results[carries:], strict=True))
        return results[:len(handed)]

    def forward(self) -> dict[Node, Node]:
        """The stacks of the values that are kept, made by a loop that is the first one otherwise."""
        if not self.kept:
            return {}
        with building(phase, self.node.phase), building(scope, self.node.scope):
            graph = Graph(self.formals, (*self.body.outputs, *self.kept))
            results = results_of(make(self.node.op, self.node.inputs, self.node.attributes, (graph,)))
        self.stacks = dict(zip(self.kept, results[len(self.body.outputs):], strict=True))
        return {node: stack.node for node, stack in self.stacks.items()}


def _expanded(stack: Tensor, node: Node) -> Tensor:
    ones = (1,) * (len(node.shape) + 1 - stack.ndim)
    return expand_to(reshape(stack, (stack.shape[0], *ones, *stack.shape[1:])), (stack.shape[0], *node.shape))


_BATCHED: dict[str, Callable[[Tensor, Node], Tensor]] = {  # views of a step's value, as views of all steps' values
    "expand": _expanded,
    "reshape": lambda stack, node: reshape(stack, (stack.shape[0], *node.shape)),
    "permute": lambda stack, node: permute(stack, (0, *(a + 1 for a in node.attributes["axes"]))),
}


def _like(name: str, type_: TensorType) -> Tensor:
    return placeholder(name, type_.shape, type_.dtype)


def _or_zeros(found: Tensor | None, type_: TensorType) -> Tensor:
    return zeros(type_.shape, type_.dtype) if found is None else found


# -- branches --------------------------------------------------------------------------------------------------------


def cond_gradients(given: Sequence[Tensor | None], node: Node, wanted: Sequence[int], pull: Pull
                   ) -> dict[int, Tensor | None]:
    """The gradient of a branch is the branch of the gradients: nothing flows through the one that was not taken."""
    kept = [r for r, g in enumerate(given) if g is not None]
    inputs = node.graphs[0].inputs
    seeds = [formal(len(inputs) + k, node.types[r]) for k, r in enumerate(kept)]
    symbols = [_like("g", s.type) for s in seeds]
    places = dict(zip((s.node for s in symbols), seeds, strict=True))
    pulled = [pull([branch.outputs[r] for r in kept], symbols, [branch.inputs[k - 1] for k in wanted])
              for branch in node.graphs]
    live = [k for k in range(len(wanted)) if any(found[k] is not None for found in pulled)]
    if not live:
        return dict.fromkeys(wanted)
    types = [inputs[wanted[k] - 1].type for k in live]
    roots = [replaced([_or_zeros(found[k], t).node for k, t in zip(live, types, strict=True)], places) for found in pulled]
    cotangents = [g.node for g in given if g is not None]
    results = branches(node.op, node.inputs[0], [*inputs, *seeds], [*node.inputs[1:], *cotangents], roots)
    gradients: dict[int, Tensor | None] = dict.fromkeys(wanted)
    return gradients | {wanted[k]: result for k, result in zip(live, results, strict=True)}


def branches(op: Op, flag: Node, formals: Sequence[Node], operands: Sequence[Node], roots: Sequence[Sequence[Node]]
             ) -> list[Tensor]:
    """A COND node of the two lists of roots over these formals, without the operands that neither reads."""
    read = set(below([root for branch in roots for root in branch], set(formals)))
    kept = [k for k, f in enumerate(formals) if f in read]
    new = [formal(position, formals[k].type) for position, k in enumerate(kept)]
    moved = {formals[k]: n for k, n in zip(kept, new, strict=True)}
    graphs = [Graph(tuple(new), tuple(replaced(branch, moved))) for branch in roots]
    return results_of(make(op, [flag, *(operands[k] for k in kept)], {}, graphs))


__all__ = ["branches", "cond_gradients", "costly", "scan_gradients"]
