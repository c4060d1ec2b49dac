"""Fusion: the only crossing from Graph to Plan.

Clusters of nodes (`assign`) become kernels, loops and branches.  What another cluster reads is stored, unless computing it
again is cheaper.  Knows kinds, uses and types.  Must not know op names or addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from graphc.access import strided
from graphc.ir import Graph, Node, inherit, make, make_like
from graphc.op import Kind, Moves
from graphc.plan import Buffer, End, Form, Kernel, Plan, Role, Step, slot
from graphc.records import field, record
from graphc.walk import operands_first

from .assign import BARRIERS, FLUID, Assignment, behind, reads
from .clusters import FULL, SHORT_ROW, Cluster, packs_once
from .cost import cost_per_element, flops
from .in_place import shared_places
from .masks import Facts, masks_of
from .nested import nested_step

PlanOf = Callable[[Graph, Mapping[Node, Facts]], Plan]  # of a graph, and what is known of its inputs

RECOMPUTE = 4  # scalar operations that are cheaper than a trip through memory
ONCE, LEAVES_ONCE = 64, 4  # of what is read once: operations, which are written down anew for each part; buffers
LEAVES = 2  # large buffers that a recomputed expression may read
SMALL_PART = 16  # a buffer this many times smaller than the result (a scale, a row's statistics) stays in the cache


@record(frozen=True)
class Fused:
    """Steps in no particular order, and which buffer holds which node's value."""

    kernels: tuple[Step, ...]
    stored: dict[Node, Buffer]  # computed nodes; also leaves that are results, which get a copy
    leaves: dict[Node, Buffer]  # inputs, cells, large constants
    waits: dict[Buffer, tuple[Buffer, ...]] = field(default_factory=dict)  # written -> what must be written first

    def buffer(self, node: Node) -> Buffer:
        """Where a result is found."""
        return self.stored.get(node) or self.leaves[node]


class Fusion(Assignment):
    """One run of the pass: assigns clusters, chooses what to store, and builds steps."""

    def __init__(self, graph: Graph, plan_of: PlanOf, known: Mapping[Node, Facts]) -> None:
        super().__init__(graph)
        self.plan_of, self.masks = plan_of, masks_of(graph, known)
        self.stored: dict[Node, Buffer] = {}
        self.leaves: dict[Node, Buffer] = {}
        self.recomputed: set[Node] = set()
        self.waits: dict[Node, tuple[Buffer, ...]] = {}
        self.bodies: dict[tuple, tuple[Graph, frozenset[tuple[int, int]], int]] = {}  # bodies, what works in place, flops

    # -- what is stored ----------------------------------------------------------------------------------------

    def choose_stored(self) -> None:
        """Roots, operands of anchors, and whatever other clusters read and cannot cheaply compute again."""
        needed = set(self.graph.roots)
        read_elsewhere: set[Node] = set()
        for node in self.graph.nodes:
            own = self.home.get(node)
            if own is None:
                continue
            for operand in reads(node):
                for base in self.bases(operand):
                    if not self.is_leaf(base) and self.home[base] is not own:
                        read_elsewhere.add(base)
            for operand in self.exact_operands(node):
                if not self.may_pack(node, operand):
                    needed.update(b for b in self.bases(operand) if not self.is_leaf(b))
        for node in self.graph.nodes:
            if node.op.kind is Kind.GATHER:
                needed.update(b for b in self.bases(node.inputs[0]) if not self.is_leaf(b))
            elif behind(node) is not node:  # what is read later is kept until then
                needed.update(b for b in self.bases(node) if not self.is_leaf(b))
        costs: dict[Node, tuple[int, frozenset[Node]] | None] = {}
        for node in self.graph.nodes:
            if node not in self.home:
                continue
            cost = costs[node] = self.recompute_cost(node, costs)
            if node in needed or (node in read_elsewhere and not self.pays_again(node, cost)):
                self.store(node)
                costs[node] = None
            elif node in read_elsewhere:
                self.recomputed.add(node)
        for node in self.graph.nodes:
            for operand in node.inputs if node.op.kind is Kind.CONTRACT else ():
                packed = [b for b in self.bases(operand) if not self.is_leaf(b) and b not in self.stored]
                self.home[node].notes.extend(f"{b.op.name} is computed while it is packed" for b in packed)

    def exact_operands(self, node: Node) -> tuple[Node, ...]:
        """Operands that must lie in memory."""
        return node.inputs if node.op.kind is Kind.CONTRACT or node.op.kind in BARRIERS else ()

    def may_pack(self, contraction: Node, operand: Node) -> bool:
        """Whether packing may compute the operand: a map that nothing else would bring to memory for free."""
        if contraction.op.kind is not Kind.CONTRACT:
            return False
        read = strided(operand, lambda n: n in self.home)
        if read is None or read.base.op.kind is not Kind.MAP or self.home[read.base].form is not Form.MAP:
            return False
        return packs_once(contraction, operand is contraction.inputs[0])

    def is_read_once(self, node: Node) -> bool:
        """Whether one other kernel reads each element of a map at most once, in parts that it puts between each other.

        So the windows of a pooling are: computing them where they are read is no more work, and they are never stored.
        """
        if node.op.kind is not Kind.MAP:
            return False
        size, readers, views = 0, set(), [node]
        cut = padded = False
        for view in views:  # grows
            for user in self.graph.users[view]:
                if user.op.kind is not Kind.VIEW or user in self.home:
                    readers.add(self.home.get(user))
                elif user.op.moves is Moves.NOTHING or "fill" in user.attributes or "steps" in user.attributes:
                    views.append(user)
                    cut |= "steps" in user.attributes
                    padded |= "fill" in user.attributes
                    size += int(user.type.size) if view is node else 0
                else:
                    return False
        one = len(readers) == 1 and None not in readers and self.home[node] not in readers
        return one and cut and padded and size <= int(node.type.size)

    def pays_again(self, node: Node, cost: tuple[int, frozenset[Node]] | None) -> bool:
        """Whether computing a node where it is read, at this cost, is cheaper than a trip through memory."""
        if cost is None:
            return False
        operations, buffers = cost
        return (operations <= RECOMPUTE and self.large(node, buffers) <= LEAVES) or self.is_read_once(node)

    def large(self, node: Node, buffers: Iterable[Node]) -> int:
        """How many of the buffers are not small beside the node."""
        return sum(int(b.type.size) * SMALL_PART > int(node.type.size) for b in buffers)

    def recompute_cost(self, node: Node, costs: dict[Node, tuple[int, frozenset[Node]] | None]
                       ) -> tuple[int, frozenset[Node]] | None:
        """(operations, buffers read) to compute the node from memory, None where that is too dear or impossible."""
        if node.op.kind is not Kind.MAP and node.op.kind not in FLUID:
            return None
        total, leaves = cost_per_element(node), set()
        for operand in reads(node):
            for base in self.bases(operand):
                if self.is_leaf(base) or base in self.stored:
                    leaves.add(base)
                    continue
                below = costs.get(base)
                if below is None:
                    return None
                if int(base.type.size) * SMALL_PART > int(node.type.size):  # what a row or column shares costs next to nothing
                    total += below[0]
                leaves |= below[1]
        return (total, frozenset(leaves)) if total <= ONCE and self.large(node, leaves) <= LEAVES_ONCE else None

    def store(self, node: Node) -> None:
        self.stored[node] = Buffer(f"t{len(self.stored)}", node.type, Role.TEMPORARY)

    # -- kernels -----------------------------------------------------------------------------------------------

    def leaf_buffer(self, node: Node) -> Buffer:
        known = self.leaves.get(node)
        if known is None:
            if "cell" in node.attributes:
                cell = node.attributes["cell"]
                known = Buffer(cell.name, node.type, Role.CELL, cell=cell)
            elif node.op.is_given:
                known = Buffer(node.attributes["name"], node.type, Role.INPUT,
                               position=self.graph.inputs.index(node))
            else:
                known = Buffer(f"c{len(self.leaves)}", node.type, Role.CONSTANT, array=node.attributes["value"])
            self.leaves[node] = known
        return known

    def step(self, cluster: Cluster) -> Step | None:
        """What computes the cluster; None where nobody needs it."""
        outputs = [m for m in cluster.members if m in self.stored]
        if not outputs:
            return None
        node = cluster.anchor
        if node is None or not node.graphs:
            return self.kernel(cluster, outputs)
        results = {o.attributes["item"] if o.op.kind is Kind.ITEM else 0: self.stored[o] for o in outputs}
        self.waits[outputs[0]] = self.awaited_by(cluster, (node,))
        bases = [i if i in self.home else self.same_memory(i, self.home) or i for i in node.inputs]
        operands = [self.leaf_buffer(i) if self.is_leaf(i) else self.stored[i] for i in bases]
        known = self.masks.inside(node)
        return nested_step(f"{node.op.name}_{cluster.number}", node, operands, dict(sorted(results.items())),
                           lambda graph: self.plan_of(graph, known))

    def kernel(self, cluster: Cluster, outputs: list[Node]) -> Kernel:
        """The cluster's kernel: its body over slots, what it reads and writes."""
        read: list[Buffer] = []
        new: dict[Node, Node] = {}
        inside = self.inside(cluster, outputs)
        self.waits[outputs[0]] = self.awaited_by(cluster, inside)
        for node in inside:
            if self.is_leaf(node) or (node in self.stored and self.home[node] is not cluster):
                buffer = self.leaf_buffer(node) if self.is_leaf(node) else self.stored[node]
                new[node] = slot(len(read), node.type)
                read.append(buffer)
            elif behind(node) is not node:  # by the time the kernel runs it may be read
                new[node] = new[node.inputs[0]]
            elif node in self.masks.within:
                attributes = {**node.attributes, "within": self.masks.within[node]}
                new[node] = inherit(make(node.op, [new[i] for i in node.inputs], attributes), node)
            else:
                new[node] = make_like(node, [new[i] for i in node.inputs])
        body = Graph(tuple([slot(i, b.type) for i, b in enumerate(read)]), tuple([new[o] for o in outputs]))
        levels = tuple([cluster.members[o] for o in outputs])
        alike = (body.key, cluster.form, cluster.space, cluster.axes, levels)
        if alike not in self.bodies:  # equal layers have equal bodies, which are looked into once
            places = frozenset(shared_places(cluster, body, levels))
            self.bodies[alike] = body, places, sum(flops(n) for n in body.nodes)
        body, places, operations = self.bodies[alike]
        phases = [m.phase for m, level in cluster.members.items() if level == FULL or cluster.form is not Form.CONTRACT]
        named = cluster.anchor or next(iter(cluster.members))
        ends = self.ends(cluster, outputs)
        notes = [*cluster.notes, *(["its rows end where a mask hides the rest"] if ends and cluster.by_row else []),
                 *(["tiles that a mask hides are not computed"] if ends and not cluster.by_row else [])]
        notes += [f"{1 - flops(new[n]) / flops(n):.0%} of its products are left out: a mask hides them"
                  for n in inside if n in self.masks.within and n in cluster.members]
        kernel = Kernel(f"{named.op.name}_{cluster.number}", cluster.form, body, tuple(read),
                        tuple(self.stored[o] for o in outputs), cluster.space, cluster.axes, places, ends, operations,
                        "update" if "update" in phases else named.phase, named.scope, tuple(notes))
        return kernel

    def ends(self, cluster: Cluster, outputs: Sequence[Node]) -> tuple[End, ...]:
        """Where a mask ends the cluster's rows, if they are so long that they are computed one by one, or hides tiles."""
        folds = [n for n in cluster.members if n.op.kind is Kind.REDUCE]
        if cluster.form is Form.CONTRACT and cluster.anchor is not None and not folds and \
                all(o.shape == cluster.space and o.dtype.is_float for o in outputs):
            return self.masks.hidden_tiles(cluster.anchor, outputs)
        full = [(write, o) for write, o in enumerate(outputs) if cluster.members[o] == FULL]
        looked_at = [*(n.inputs[0] for n in folds), *(o for _, o in full)]
        if (not cluster.by_row or len(cluster.axes) != 1 or not folds or cluster.space[cluster.axes[0]] <= SHORT_ROW
                or any(n.attributes["axes"] != cluster.axes for n in folds)
                or any(n.shape != cluster.space or not n.dtype.is_float for n in looked_at)):
            return ()
        return self.masks.ends(cluster.axes, folds, full)

    def awaited_by(self, cluster: Cluster, inside: Sequence[Node]) -> tuple[Buffer, ...]:
        """A buffer of each step that must run first although nothing of it is read."""
        found: dict[Buffer, None] = {}
        stack, seen = [b for n in inside for b in self.awaited(n)], {cluster}
        while stack:
            other = self.home[stack.pop()]
            if other in seen:
                continue
            seen.add(other)
            kept = next((self.stored[m] for m in other.members if m in self.stored), None)
            if kept is not None:
                found[kept] = None
            else:  # it became part of its readers: wait for what it reads
                stack.extend(b for m in other.members for b in (*self.dependencies(m), *self.awaited(m)))
        return tuple(found)

    def inside(self, cluster: Cluster, outputs: Sequence[Node]) -> list[Node]:
        """Topological order of everything the kernel touches, cut at memory."""
        def operands(node: Node) -> Sequence[Node]:
            return () if self.is_leaf(node) or (node in self.stored and self.home[node] is not cluster) else reads(node)

        return operands_first(outputs, operands)

    def run(self) -> Fused:
        self.assign()
        self.choose_stored()
        steps = [s for c in self.clusters if (s := self.step(c)) is not None]
        for node in self.graph.nodes:  # leaves that are results themselves, and inputs that nothing reads
            if self.is_leaf(node):
                self.leaf_buffer(node)
        waits = {self.stored[node]: awaited for node, awaited in self.waits.items() if awaited}
        return Fused(tuple(steps), self.stored, self.leaves, waits)


def fuse(graph: Graph, plan_of: PlanOf, known: Mapping[Node, Facts]) -> Fused:
    """The steps of a graph that is specialised: concrete sizes, no composites.

    plan_of   makes the plan of a graph inside the graph, of whose inputs something is known
    known     what is known of regions of the graph's inputs: see `masks`
    """
    return Fusion(graph, plan_of, known).run()
