"""Fusion: the only crossing from Graph to Plan.

Every computed node is put into a cluster, a set of nodes over one iteration space that becomes one kernel.  Knows kinds,
uses and types, and index maps to see whether two nodes meet element by element.  Must not know op names or addresses.

A node may join the cluster of one of its inputs if no other of its inputs depends on that cluster (else the cluster
graph would have a cycle).  What another cluster reads is stored, unless computing it again is cheaper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from graphc.access import follow, strided
from graphc.index import Index, linear, unravel, variables_for
from graphc.ir import Graph, Node, make
from graphc.op import Kind
from graphc.plan import Buffer, Form, Kernel, Role, slot

from .cost import cost_per_element, flops

EMBEDDED = 16  # constants up to this many elements are written into the code
RECOMPUTE = 4  # scalar operations that are cheaper than a trip through memory
LEAVES = 2  # large buffers that a recomputed expression may read
SMALL_PART = 16  # a buffer this many times smaller than the result (a scale, a row's statistics) stays in the cache
FLUID = (Kind.VIEW, Kind.GATHER, Kind.SOURCE)
FULL, KEPT = "full", "kept"
# Which cluster a map joins first: what is left behind on its own is often cheap enough to compute again.
PREFERENCE = {form: place for place, form in enumerate((Form.CONTRACT, Form.ROWS, Form.COLUMNS, Form.MAP, Form.PREFIX,
                                                        Form.SCATTER, Form.ROUTINE))}


@dataclass(eq=False)
class Cluster:
    """Nodes that one kernel computes.  `position` orders clusters as the graph orders their first nodes."""

    number: int
    form: Form
    space: tuple[int, ...]
    axes: tuple[int, ...] = ()
    members: dict[Node, str] = field(default_factory=dict)  # node -> the level it lives on: full or kept
    ancestors: int = 0  # bit set of clusters that it depends on
    anchor: Node | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place()

    def place(self) -> None:
        """The symbolic positions of the full space and of the kept one."""
        self.variables = variables_for(self.space)
        kept = [a for a in range(len(self.space)) if a not in self.axes]
        self.full_count, self.kept_count = prod(self.space), prod(self.space[a] for a in kept)
        self.positions = {FULL: linear(self.variables, self.space),
                          KEPT: linear([self.variables[a] for a in kept], [self.space[a] for a in kept])}

    def level_of(self, node: Node) -> str | None:
        """Which of the cluster's spaces the node's elements fill, None where neither."""
        size = node.type.size
        if size == self.full_count:
            return FULL
        return KEPT if self.form in (Form.ROWS, Form.COLUMNS) and size == self.kept_count else None


@dataclass(frozen=True)
class Fused:
    """Kernels in no particular order, and which buffer holds which node's value."""

    kernels: tuple[Kernel, ...]
    stored: dict[Node, Buffer]  # computed nodes; also leaves that are results, which get a copy
    leaves: dict[Node, Buffer]  # inputs, cells, large constants

    def buffer(self, node: Node) -> Buffer:
        """Where a result is found."""
        return self.stored.get(node) or self.leaves[node]


class Fusion:
    """One run of the pass: assigns clusters, chooses what to store, and builds kernels."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.clusters: list[Cluster] = []
        self.home: dict[Node, Cluster] = {}
        self.stored: dict[Node, Buffer] = {}
        self.leaves: dict[Node, Buffer] = {}
        self.recomputed: set[Node] = set()
        self._bases: dict[Node, tuple[Node, ...]] = {}

    # -- what a node reads -------------------------------------------------------------------------------------

    def is_leaf(self, node: Node) -> bool:
        """Inputs, cells and large constants: memory that exists before the step."""
        if node.op.kind is not Kind.SOURCE:
            return False
        if node.op.numpy is None:
            return True
        value = node.attributes.get("value")
        return value is not None and value.size > EMBEDDED

    def bases(self, node: Node) -> tuple[Node, ...]:
        """The computed nodes and leaves that one operand reads through views and gathers."""
        known = self._bases.get(node)
        if known is None:
            if node in self.home or (node.op.kind not in FLUID) or self.is_leaf(node):
                return (node,)  # not remembered: a view may become a member later
            known = tuple(dict.fromkeys(b for i in node.inputs for b in self.bases(i)))
            if not any(b in self.home for b in (node,)):
                self._bases[node] = known
        return known

    def dependencies(self, node: Node) -> list[Node]:
        return list(dict.fromkeys(b for i in node.inputs for b in self.bases(i) if not self.is_leaf(b)))

    # -- clusters ----------------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Puts every computed node into a cluster, in topological order."""
        forced = self.forced_views()
        for node in self.graph.nodes:
            kind = node.op.kind
            if kind is Kind.MAP or node in forced:
                self.join(node, self.dependencies(node) if kind is not Kind.SOURCE else [])
            elif kind is Kind.REDUCE:
                self.join_reduction(node)
            elif kind is Kind.CONTRACT:
                self.start(node, Form.CONTRACT, node.shape)
            elif kind is Kind.PREFIX:
                self.start(node, Form.PREFIX, node.shape, (node.attributes["axis"],))
            elif kind is Kind.SCATTER:
                self.start(node, Form.SCATTER, node.shape)
            elif kind is Kind.ROUTINE:
                self.start(node, Form.ROUTINE, node.shape)

    def forced_views(self) -> set[Node]:
        """Fluid nodes that need memory of their own: results, and operands that strides cannot describe."""
        forced = {r for r in self.graph.roots if r.op.kind in FLUID}  # leaves too: a result is a copy
        for node in self.graph.nodes:
            kind = node.op.kind
            if kind is Kind.CONTRACT or kind is Kind.GATHER:
                operands = node.inputs if kind is Kind.CONTRACT else node.inputs[:1]
                for operand in operands:
                    place = strided(operand, lambda n: n in forced)
                    if operand.op.kind in FLUID and not self.is_leaf(operand) and (
                            place is None or (place.base.op.kind in FLUID and not self.is_leaf(place.base)
                                              and place.base not in forced)):
                        forced.add(smallest_cut(operand, forced))
            elif kind is Kind.ROUTINE:
                forced.update(i for i in node.inputs if i.op.kind in FLUID and not self.is_leaf(i))
        return forced

    def start(self, node: Node, form: Form, space: Sequence[int], axes: tuple[int, ...] = ()) -> Cluster:
        cluster = Cluster(len(self.clusters), form, tuple(space), axes, anchor=node)
        self.clusters.append(cluster)
        self.add(cluster, node, KEPT if form in (Form.ROWS, Form.COLUMNS) else FULL)
        return cluster

    def add(self, cluster: Cluster, node: Node, level: str) -> None:
        self.home[node] = cluster
        self._bases.pop(node, None)
        cluster.members[node] = level
        before = cluster.ancestors
        for dependency in self.dependencies(node):
            other = self.home[dependency]
            if other is not cluster:
                cluster.ancestors |= other.ancestors | 1 << other.number
        if cluster.ancestors != before:
            bit = 1 << cluster.number
            for other in self.clusters:
                if other.ancestors & bit:
                    other.ancestors |= cluster.ancestors

    def may_join(self, cluster: Cluster, dependencies: Iterable[Node]) -> bool:
        """No other cluster that the node reads may depend on this one."""
        bit = 1 << cluster.number
        return not any(self.home[d].ancestors & bit for d in dependencies if self.home[d] is not cluster)

    def meets(self, cluster: Cluster, node: Node, level: str) -> bool:
        """Whether the node reads the cluster's members exactly at its own position of the space."""
        indices = unravel(cluster.positions[level], node.shape)
        if node.op.kind in FLUID:
            return self.operand_meets(cluster, node, indices, level)
        return all(self.operand_meets(cluster, operand, indices, level) for operand in node.inputs)

    def operand_meets(self, cluster: Cluster, operand: Node, indices: tuple[Index, ...], level: str) -> bool:
        if not any(self.home.get(b) is cluster for b in self.bases(operand)):
            return True
        read = follow(operand, indices, lambda n: n in self.home)
        if read.base.op.kind is Kind.GATHER and read.base not in self.home:
            return (not any(self.home.get(b) is cluster for b in self.bases(read.base.inputs[0])) and not read.guard
                    and self.operand_meets(cluster, read.base.inputs[1], read.indices, level))
        if read.base not in cluster.members:  # a guarded view: what is under it is read elsewhere
            return False
        at = cluster.members[read.base]
        if read.guard or (level == KEPT and at == FULL):
            return False
        if cluster.form is Form.COLUMNS and level == FULL and at == KEPT:
            return False  # a column's sum is known only after the last row
        if read.base.op.kind is Kind.REDUCE and at == FULL:
            at = KEPT  # a reduction over axes of size 1
        return linear(read.indices, read.base.shape) == cluster.positions[at]

    def join(self, node: Node, dependencies: list[Node]) -> None:
        """A map joins the latest of its inputs' clusters that it may join, else it starts a cluster."""
        for cluster in sorted({self.home[d] for d in dependencies}, key=lambda c: (PREFERENCE[c.form], -c.number)):
            if cluster.form in (Form.PREFIX, Form.SCATTER, Form.ROUTINE):
                continue
            level = cluster.level_of(node)
            if level is not None and self.may_join(cluster, dependencies) and self.meets(cluster, node, level):
                self.add(cluster, node, level)
                return
        self.start(node, Form.MAP, node.shape)

    def join_reduction(self, node: Node) -> None:
        operand, axes = node.inputs[0], node.attributes["axes"]
        space = operand.shape
        last = max((a for a, size in enumerate(space) if size != 1), default=0)  # the axis that vectors run along
        form = Form.ROWS if last in axes or all(s == 1 for s in node.shape) else Form.COLUMNS
        dependencies = self.dependencies(node)
        for cluster in sorted({self.home[d] for d in dependencies}, key=lambda c: -c.number):
            if not self.may_join(cluster, dependencies):
                continue
            if cluster.form is Form.MAP and cluster.full_count == prod(space) and cluster.full_count > 1:
                old = cluster.form, cluster.space, cluster.axes
                cluster.form, cluster.space, cluster.axes = form, tuple(space), axes
                cluster.place()
                if self.operand_meets(cluster, operand, cluster.variables, FULL):
                    cluster.anchor = node
                    self.add(cluster, node, KEPT)
                    return
                cluster.form, cluster.space, cluster.axes = old
                cluster.place()
            elif (cluster.form in (Form.ROWS, Form.COLUMNS) and cluster.space == tuple(space) and cluster.axes == axes
                  and self.operand_meets(cluster, operand, cluster.variables, FULL)
                  and (cluster.form is Form.ROWS or not self.reads_reduction(cluster, operand))):
                self.add(cluster, node, KEPT)
                return
        self.start(node, form, space, axes)

    def reads_reduction(self, cluster: Cluster, operand: Node) -> bool:
        """Whether the operand depends on a reduction of the same cluster."""
        stack, seen = [operand], set()
        while stack:
            node = stack.pop()
            if node in seen or (node in self.home and self.home[node] is not cluster):
                continue
            seen.add(node)
            if node.op.kind is Kind.REDUCE:
                return True
            stack.extend(node.inputs)
        return False

    # -- what is stored ----------------------------------------------------------------------------------------

    def choose_stored(self) -> None:
        """Roots, operands of anchors, and whatever other clusters read and cannot cheaply compute again."""
        needed = set(self.graph.roots)
        read_elsewhere: set[Node] = set()
        for node in self.graph.nodes:
            own = self.home.get(node)
            if own is None:
                continue
            for operand in node.inputs:
                for base in self.bases(operand):
                    if not self.is_leaf(base) and self.home[base] is not own:
                        read_elsewhere.add(base)
            for operand in self.exact_operands(node):
                needed.update(b for b in self.bases(operand) if not self.is_leaf(b))
        for node in self.graph.nodes:
            if node.op.kind is Kind.GATHER:
                needed.update(b for b in self.bases(node.inputs[0]) if not self.is_leaf(b))
        costs: dict[Node, tuple[int, frozenset[Node]] | None] = {}
        for node in self.graph.nodes:
            if node not in self.home:
                continue
            costs[node] = self.recompute_cost(node, costs)
            if node in needed or (node in read_elsewhere and costs[node] is None):
                self.store(node)
                costs[node] = None
            elif node in read_elsewhere:
                self.recomputed.add(node)

    def exact_operands(self, node: Node) -> tuple[Node, ...]:
        """Operands that must lie in memory."""
        return node.inputs if node.op.kind in (Kind.CONTRACT, Kind.ROUTINE) else ()

    def recompute_cost(self, node: Node, costs: dict[Node, tuple[int, frozenset[Node]] | None]
                       ) -> tuple[int, frozenset[Node]] | None:
        """(operations, buffers read) to compute the node from memory, None where that is too dear or impossible."""
        if node.op.kind is not Kind.MAP and node.op.kind not in FLUID:
            return None
        total, leaves = cost_per_element(node), set()
        for operand in node.inputs:
            for base in self.bases(operand):
                if self.is_leaf(base) or base in self.stored:
                    leaves.add(base)
                    continue
                below = costs.get(base)
                if below is None:
                    return None
                total += below[0]
                leaves |= below[1]
        large = [b for b in leaves if int(b.type.size) * SMALL_PART > int(node.type.size)]
        return (total, frozenset(leaves)) if total <= RECOMPUTE and len(large) <= LEAVES else None

    def store(self, node: Node) -> None:
        self.stored[node] = Buffer(f"t{len(self.stored)}", node.type, Role.TEMPORARY)

    # -- kernels -----------------------------------------------------------------------------------------------

    def leaf_buffer(self, node: Node) -> Buffer:
        known = self.leaves.get(node)
        if known is None:
            if "cell" in node.attributes:
                cell = node.attributes["cell"]
                known = Buffer(cell.name, node.type, Role.CELL, cell=cell)
            elif node.op.numpy is None:
                known = Buffer(node.attributes["name"], node.type, Role.INPUT,
                               position=self.graph.inputs.index(node))
            else:
                known = Buffer(f"c{len(self.leaves)}", node.type, Role.CONSTANT, array=node.attributes["value"])
            self.leaves[node] = known
        return known

    def kernel(self, cluster: Cluster) -> Kernel | None:
        """The cluster's kernel: its body over slots, what it reads and writes."""
        outputs = [m for m in cluster.members if m in self.stored]
        if not outputs:
            return None
        reads: list[Buffer] = []
        new: dict[Node, Node] = {}
        for node in self.inside(cluster, outputs):
            if self.is_leaf(node) or (node in self.stored and self.home[node] is not cluster):
                buffer = self.leaf_buffer(node) if self.is_leaf(node) else self.stored[node]
                new[node] = slot(len(reads), node.type)
                reads.append(buffer)
            else:
                new[node] = make(node.op, [new[i] for i in node.inputs], node.attributes, node.graphs)
        body = Graph(tuple(slot(i, b.type) for i, b in enumerate(reads)), tuple(new[o] for o in outputs))
        phases = [m.phase for m in cluster.members]
        named = cluster.anchor or next(iter(cluster.members))
        kernel = Kernel(f"{named.op.name}_{cluster.number}", cluster.form, body, tuple(reads),
                        tuple(self.stored[o] for o in outputs), cluster.space, cluster.axes,
                        frozenset(self.shared_places(cluster, body, [cluster.members[o] for o in outputs])),
                        sum(flops(n) for n in body.nodes),
                        "update" if "update" in phases else named.phase, named.scope, tuple(cluster.notes))
        return kernel

    def inside(self, cluster: Cluster, outputs: Sequence[Node]) -> list[Node]:
        """Topological order of everything the kernel touches, cut at memory."""
        order: list[Node] = []
        seen: set[Node] = set()
        stack: list[tuple[Node, bool]] = [(o, False) for o in reversed(outputs)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            if not (self.is_leaf(node) or (node in self.stored and self.home[node] is not cluster)):
                stack.extend((i, False) for i in reversed(node.inputs))
        return order

    def shared_places(self, cluster: Cluster, body: Graph, levels: Sequence[str]) -> Iterable[tuple[int, int]]:
        """Pairs (write, read) that may share memory: the read happens only at the write's own element, just before."""
        if cluster.form not in (Form.MAP, Form.CONTRACT, Form.ROWS, Form.COLUMNS):
            return
        full, kept = cluster.full_count, cluster.kept_count
        for r, source in enumerate(body.inputs):
            size = int(source.type.size)
            if not body.users[source] and source not in body.outputs:
                continue
            if not read_in_place(body, source):
                continue
            for w, (out, level) in enumerate(zip(body.outputs, levels, strict=True)):
                if out.type != source.type:
                    continue
                whole = level == FULL and size == full and cluster.form in (Form.MAP, Form.CONTRACT)
                if whole or (level == KEPT and size == kept != full):
                    yield w, r

    def run(self) -> Fused:
        self.assign()
        self.choose_stored()
        kernels = [k for c in self.clusters if (k := self.kernel(c)) is not None]
        for node in self.graph.nodes:  # leaves that are results themselves, and inputs that nothing reads
            if self.is_leaf(node):
                self.leaf_buffer(node)
        return Fused(tuple(kernels), self.stored, self.leaves)


def smallest_cut(operand: Node, forced: set[Node]) -> Node:
    """The view to put into memory so that strides describe the operand: the smallest of the chain that will do.

    Windows of a padded image are as many elements as there are taps times larger than the padded image itself.
    """
    best = view = operand
    while view.op.kind is Kind.VIEW:
        if view.type.size < best.type.size and strided(operand, lambda n, at=view: n is at or n in forced) is not None:  # type: ignore[misc]
            best = view
        view = view.inputs[0]
    return best


def read_in_place(body: Graph, source: Node) -> bool:
    """Whether every result that depends on the slot reads it at the result's own position only.

    What is computed again inside a kernel may be read through a view that moves elements: then it is not.
    """
    reached = {source}
    for node in body.nodes:
        if any(i in reached for i in node.inputs):
            reached.add(node)
            kind = node.op.kind
            if kind is Kind.VIEW:
                variables = variables_for(node.shape)
                read = follow(node, variables, lambda n, under=node.inputs[0]: n is under)  # type: ignore[misc]
                if read.guard or linear(read.indices, read.base.shape) != linear(variables, node.shape):
                    return False
            elif kind is not Kind.MAP:
                return False
    return True


def fuse(graph: Graph) -> Fused:
    """The kernels of a graph that is specialised: concrete sizes, no composites."""
    return Fusion(graph).run()
