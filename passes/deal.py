"""Deals the units of hidden layers out: contractions of a short step that work unit by unit are all shared alike.

Threads that share each contraction as suits it alone meet behind all of them, and fetch what another core has written.  But a
layer's units, the gradient by them, the gradient by their weights and its update need only what belongs to the same units,
beside small tensors that all units read.  If kernels are cut along that axis at the same places, a thread that does the same
units in each of them reads what it has written itself, and nobody has to be met in between.

Knows kernels, their bodies' index maps and sizes.  Must not know threads or code: whoever runs the plan may share otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import prod

from graphc.access import strided
from graphc.index import Index, Variable, linear, unravel, variables_for
from graphc.ir import Graph, Node
from graphc.labels import labels_of
from graphc.op import Kind
from graphc.ops.contractions import split_spec
from graphc.plan import Buffer, Deal, Form, Kernel, Plan, Role, Step
from graphc.records import NamedTuple, replace

from .cost import flops

LEAST = 1 << 19  # operations of a step: shorter ones are for one thread
MOST = 1 << 22  # of each item: in longer steps meeting costs little, unequal cores much, and more threads do more
ITEMS = (8, 64), (4, 32), (2, 32)  # of a kernel, where each has at least so many units
AS_IT_IS = 0, 0  # how memory is stored that is not kept apart
MANY = 48  # contractions: of sixteen layers
SHARE = 0.8  # of the step's operations that kernels which go together must do

Places = list[Index | None]  # that are touched for an element of a kernel's space; None: any place
At = tuple[Index, ...] | None  # indices of an element, for one of a kernel's space; None: any element


class Option(NamedTuple):
    """One way to deal a kernel.  runs: of each buffer's memory, as in `Deal`; written: the memory that it writes."""

    kernel: Kernel
    deal: Deal
    runs: Mapping[Buffer, int]
    written: frozenset[Buffer]

    def links(self, other: Option) -> int:
        """Bytes that threads keep where both kernels are dealt, less those that they exchange all the same."""
        total = 0
        for home in self.runs.keys() & other.runs.keys():
            if home in self.written or home in other.written:
                alike = self.runs[home] == other.runs[home] > 0 and self.deal.items == other.deal.items
                total += -home.bytes if not alike else 0 if self.in_pieces(home) and home.role is Role.CELL else home.bytes
        return total

    def in_pieces(self, home: Buffer) -> bool:
        """Whether items' elements lie between each other."""
        return 0 < self.runs[home] * self.deal.items < int(home.type.size)

    @property
    def costs(self) -> int:
        """About the same for cells that are written in pieces: a core that fetches ahead takes lines away from another."""
        return sum(home.bytes for home in self.written if home.role is Role.CELL and self.in_pieces(home)) // 2


def is_short(graph: Graph) -> bool:
    """Whether a graph is a training step in which it may count what threads exchange: one of some layers, not in chunks."""
    if not graph.updates or any(n.op.kind is Kind.LOOP for n in graph.nodes):
        return False
    contractions = sum(n.op.kind is Kind.CONTRACT for n in graph.nodes)
    return contractions <= MANY and LEAST <= sum(map(flops, graph.nodes)) <= MOST * ITEMS[0][0]


def deal(plan: Plan) -> Plan:
    """The plan with those kernels dealt that gain by it."""
    options = {k: list(options_of(plan, k)) for k in plan.steps if isinstance(k, Kernel) and k.form is Form.CONTRACT}
    chosen: dict[Kernel, Option] = {}
    while found := closest(options):
        chosen |= found
        options = {kernel: several for kernel, several in options.items() if kernel not in found}
    total = operations(plan.steps)
    if operations(chosen) <= SHARE * total or total > MOST * min(option.deal.items for option in chosen.values()):
        return plan
    apart = kept_apart(plan, chosen)
    written = {home for option in chosen.values() for home in option.written if home.role is Role.TEMPORARY}

    def shared(step: Step) -> Step:
        if not isinstance(step, Kernel):
            return step
        if step in chosen:
            return dealt(plan, chosen[step], apart)
        return replace(step, left=any(plan.home(b) in written for b in step.reads))

    return replace(plan, steps=tuple(map(shared, plan.steps)))


def closest(options: Mapping[Kernel, Sequence[Option]]) -> dict[Kernel, Option]:
    """The kernels that go together and do most; none where no two do."""
    seeds = [option for several in options.values() for option in several if not option.costs]
    sets = [found for seed in seeds if len(found := grown(seed, options)) > 1]
    return max(sets, key=operations, default={})


def operations(steps: Iterable[Step]) -> int:
    return sum(step.flops for step in steps)


def grown(seed: Option, options: Mapping[Kernel, Sequence[Option]]) -> dict[Kernel, Option]:
    """The kernels that go together with one that is dealt, the closest first."""
    chosen = {seed.kernel: seed}
    while True:
        others = [option for kernel, several in options.items() if kernel not in chosen for option in several]
        gains = [sum(other.links(option) for option in chosen.values()) - other.costs for other in others]
        most = max(gains, default=0)
        if most <= 0:
            return chosen
        closest = others[gains.index(most)]
        chosen[closest.kernel] = closest


def dealt(plan: Plan, option: Option, apart: Collection[Buffer]) -> Kernel:
    kernel, deal = option.kernel, option.deal
    places = frozenset(i for i, b in enumerate((*kernel.reads, *kernel.writes)) if plan.home(b) in apart)
    units = f"{deal.items} x {kernel.space[deal.axis] // deal.items} along axis {deal.axis}"
    return replace(kernel, dealt=deal._replace(apart=places), notes=(*kernel.notes, f"dealt to threads: {units}"))


def kept_apart(plan: Plan, chosen: Mapping[Kernel, Option]) -> set[Buffer]:
    """The temporaries that only kernels of the deal touch, each item the same elements, where these are several pieces."""
    found: dict[Buffer, set[tuple[int, int]]] = {}  # runs and items
    for step in plan.steps:
        option = chosen.get(step) if isinstance(step, Kernel) else None
        for home in dict.fromkeys(plan.home(b) for b in (*step.reads, *step.writes, *step.workspace)):
            apart = option is not None and option.in_pieces(home) and home.role is Role.TEMPORARY
            way = (option.runs[home], option.deal.items) if option is not None and apart else AS_IT_IS
            found.setdefault(home, set()).add(way)
    alike = {home for home, ways in found.items() if len(ways) == 1 and AS_IT_IS not in ways}
    return alike - {plan.home(source) for source, _ in plan.copies}


# -- how a kernel can be dealt -----------------------------------------------------------------------------------------


def contraction(kernel: Kernel) -> Node:
    """The contraction of a kernel."""
    return next(n for n in kernel.body.nodes if n.op.kind is Kind.CONTRACT)


def options_of(plan: Plan, kernel: Kernel) -> Iterator[Option]:
    """The ways to deal a kernel: along each axis of its space of which every item writes memory of its own."""
    node = contraction(kernel)
    labels = labels_of(node.attributes["spec"])
    if kernel.ends or node.attributes.get("within") or not all(map(in_memory, node.inputs)):
        return
    if len(labels.batch) > 1 or not labels.out.endswith(labels.n):
        return  # other parts of the space would be a batch, too
    variables = variables_for(kernel.space)
    reads, writes = places_in(kernel)
    for axis, size in enumerate(kernel.space):
        label = labels.out[axis]
        mixed = kernel.axes and label != labels.n[:1]  # of folds, only those down columns can be each item's own
        if size < 2 or mixed or label not in (labels.batch or labels.m + labels.n[:1]):
            continue
        variable = variables[axis].terms[0][0]
        assert isinstance(variable, Variable)
        for items in (size,) if label == labels.batch else items_of(size):
            of_reads, of_writes = (tuple(run_of(places, variable, items) for places in side) for side in (reads, writes))
            if all(of_writes):
                yield option_for(plan, kernel, Deal(axis, items, of_reads, of_writes))


def items_of(units: int) -> Iterator[int]:
    """Into how many items so many units may be dealt, most of them first."""
    return (items for items, least in ITEMS if units % items == 0 and units // items >= least)


def in_memory(operand: Node) -> bool:
    """Whether a contraction reads an operand, or what computes it while it is packed, at strides."""
    read = strided(operand)
    return read is not None and read.base.op.kind in (Kind.SOURCE, Kind.MAP)


def option_for(plan: Plan, kernel: Kernel, deal: Deal) -> Option:
    runs: dict[Buffer, int] = {}
    for buffer, run in zip((*kernel.writes, *kernel.reads), (*deal.writes, *deal.reads), strict=True):
        home = plan.home(buffer)
        runs[home] = run if runs.get(home, run) == run else 0
    return Option(kernel, deal, runs, frozenset(map(plan.home, kernel.writes)))


def run_of(places: Places, variable: Variable, items: int) -> int:
    """How many elements of some memory follow each other in an item of a variable's values; see `Deal`.

    places   all places that are touched for a value of the variable
    """
    runs = set()
    for place in places:
        step = 0 if place is None else place.factor(variable) or 0
        if place is None or step <= 0:
            return 0
        run = step * (variable.extent // items)
        low = high = place.constant % (run * items)
        for term, factor in place.terms:
            if term != variable and factor % (run * items):
                ends = [factor * end for end in term.range()]
                low, high = low + min(ends), high + max(ends)
        if low < 0 or high >= step:
            return 0
        runs.add(run)
    return runs.pop() if len(runs) == 1 else 0


def places_in(kernel: Kernel) -> tuple[list[Places], list[Places]]:
    """The places of each buffer that it reads, and of each one that it writes, for an element of its space."""
    variables = variables_for(kernel.space)
    kept = [axis for axis in range(len(kernel.space)) if axis not in kernel.axes]
    positions = {prod(kernel.space[axis] for axis in axes): linear([variables[axis] for axis in axes],
                                                                   [kernel.space[axis] for axis in axes])
                 for axes in (kept, range(len(kernel.space)))}
    reads: dict[Node, Places] = {slot: [] for slot in kernel.body.inputs}
    writes = [[positions.get(int(out.type.size))] for out in kernel.body.outputs]
    stack: list[tuple[Node, At]] = [(out, None if place is None else unravel(place, out.shape))
                                    for out, (place,) in zip(kernel.body.outputs, writes, strict=True)]
    seen = set(stack)
    while stack:
        node, at = stack.pop()
        if node in reads:
            reads[node].append(None if at is None else linear(at, node.shape))
        new = [operand for operand in operands_at(node, at) if operand not in seen]
        seen.update(new)
        stack += new
    return list(reads.values()), writes


def operands_at(node: Node, at: At) -> list[tuple[Node, At]]:
    """The operands of a node, and where they are read for an element of it."""
    anywhere: list[tuple[Node, At]] = [(operand, None) for operand in node.inputs]
    if at is None:
        return anywhere
    match node.op.kind:
        case Kind.MAP:
            return [(operand, at) for operand in node.inputs]
        case Kind.VIEW:
            place, guard = node.op.index(at, node.inputs[0].type, **node.attributes)
            return anywhere if guard else [(node.inputs[0], tuple(place))]
        case Kind.CONTRACT:
            left, right, out = split_spec(node.attributes["spec"])
            places = dict(zip(out, at, strict=True))
            for own, operand in zip((left, right), node.inputs, strict=True):
                places |= {x: Index.variable(f"sum {x}", size) for x, size in zip(own, operand.shape, strict=True)
                           if x not in places}
            return [(operand, tuple(places[x] for x in own)) for own, operand in zip((left, right), node.inputs, strict=True)]
        case Kind.REDUCE:
            (operand,), kept = node.inputs, iter(at)
            return [(operand, tuple(Index.variable(f"fold {axis}", size) if axis in node.attributes["axes"] else next(kept)
                                    for axis, size in enumerate(operand.shape)))]
    return anywhere
