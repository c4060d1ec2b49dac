"""Fusion: the only crossing from Graph to Plan.

Every computed node is put into a cluster, a set of nodes over one iteration space that becomes one kernel.  Knows kinds,
uses and types, and index maps to see whether two nodes meet element by element.  Must not know op names or addresses.

A node may join the cluster of one of its inputs if no other of its inputs depends on that cluster (else the cluster
graph would have a cycle).  What another cluster reads is stored, unless computing it again is cheaper.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from graphc.access import follow, strided
from graphc.index import Index, linear, unravel
from graphc.ir import Graph, Node, make
from graphc.op import Kind
from graphc.plan import Buffer, Form, Kernel, Role, Step, slot

from .clusters import FULL, KEPT, TOTAL, Cluster, packs_once, place_behind
from .cost import cost_per_element, flops
from .in_place import shared_places
from .nested import PlanOf, nested_step

EMBEDDED = 16  # constants up to this many elements are written into the code
RECOMPUTE = 4  # scalar operations that are cheaper than a trip through memory
LEAVES = 2  # large buffers that a recomputed expression may read
SMALL_PART = 16  # a buffer this many times smaller than the result (a scale, a row's statistics) stays in the cache
FLUID = (Kind.VIEW, Kind.GATHER, Kind.SOURCE)
BARRIERS = (Kind.ROUTINE, Kind.LOOP, Kind.COND)  # read whole operands from memory, and nothing joins them
# Which cluster a map joins first: what is left behind on its own is often cheap enough to compute again.
PREFERENCE = {form: place for place, form in enumerate((Form.CONTRACT, Form.ROWS, Form.COLUMNS, Form.MAP, Form.PREFIX,
                                                        Form.SCATTER, Form.ROUTINE))}


def reads(node: Node) -> tuple[Node, ...]:
    """The operands whose elements a node reads: a view's further ones are only waited for."""
    return node.inputs[:1] if node.op.kind is Kind.VIEW else node.inputs


def behind(node: Node) -> Node:
    """What a node stands for that differs from its operand only in when it may be read; other nodes stand for themselves."""
    while node.op.kind is Kind.VIEW and len(node.inputs) > 1:
        node = node.inputs[0]
    return node


@dataclass(frozen=True)
class Fused:
    """Steps in no particular order, and which buffer holds which node's value."""

    kernels: tuple[Step, ...]
    stored: dict[Node, Buffer]  # computed nodes; also leaves that are results, which get a copy
    leaves: dict[Node, Buffer]  # inputs, cells, large constants
    waits: dict[Buffer, tuple[Buffer, ...]] = field(default_factory=dict)  # written -> what must be written first

    def buffer(self, node: Node) -> Buffer:
        """Where a result is found."""
        return self.stored.get(node) or self.leaves[node]


class Fusion:
    """One run of the pass: assigns clusters, chooses what to store, and builds kernels."""

    def __init__(self, graph: Graph, plan_of: PlanOf) -> None:
        self.graph, self.plan_of = graph, plan_of
        self.clusters: list[Cluster] = []
        self.home: dict[Node, Cluster] = {}
        self.stored: dict[Node, Buffer] = {}
        self.leaves: dict[Node, Buffer] = {}
        self.recomputed: set[Node] = set()
        self._bases: dict[Node, tuple[Node, ...]] = {}
        self.awaiting = any(behind(n) is not n for n in graph.nodes)
        self.waits: dict[Node, tuple[Buffer, ...]] = {}

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
            known = tuple(dict.fromkeys(b for i in reads(node) for b in self.bases(i)))
            if not any(b in self.home for b in (node,)):
                self._bases[node] = known
        return known

    def dependencies(self, node: Node) -> list[Node]:
        return list(dict.fromkeys(b for i in reads(node) for b in self.bases(i) if not self.is_leaf(b)))

    def awaited(self, node: Node) -> list[Node]:
        """Computed nodes that must be there before the node's operands may be read through their views."""
        if not self.awaiting:
            return []
        found: dict[Node, None] = {}
        stack = [i for i in (node, *node.inputs) if i is node or i not in self.home]
        while stack:
            view = stack.pop()
            if view.op.kind in FLUID:
                if behind(view) is not view:
                    found.update((b, None) for w in view.inputs[1:] for b in self.bases(w) if not self.is_leaf(b))
                stack.extend(i for i in reads(view) if i not in self.home)
        return list(found)

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
            elif kind in BARRIERS:
                self.start(node, Form.ROUTINE, node.types[0].shape)
            elif kind is Kind.ITEM:
                self.add(self.home[node.inputs[0]], node, FULL)

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
            elif kind in BARRIERS:
                forced.update(i for i in map(behind, node.inputs)
                              if i.op.kind in FLUID and not self.is_leaf(i) and (
                                  not node.graphs or self.same_memory(i, forced) is None))
        return forced

    def same_memory(self, operand: Node, forced: Container[Node]) -> Node | None:
        """The node whose memory, read from first to last, is the operand: a reshape needs no memory of its own."""
        place = strided(operand, lambda n: n in forced)
        if place is None or place.offset or place.base.type.size != operand.type.size or place.strides != dense(operand):
            return None
        base = place.base
        return None if base.op.kind in FLUID and not self.is_leaf(base) and base not in forced else base

    def start(self, node: Node, form: Form, space: Sequence[Any], axes: tuple[int, ...] = ()) -> Cluster:
        cluster = Cluster(len(self.clusters), form, tuple(space), axes, anchor=node)
        self.clusters.append(cluster)
        self.add(cluster, node, KEPT if form in (Form.ROWS, Form.COLUMNS) else FULL)
        return cluster

    def add(self, cluster: Cluster, node: Node, level: str) -> None:
        self.home[node] = cluster
        self._bases.pop(node, None)
        cluster.members[node] = level
        before = cluster.ancestors
        for dependency in (*self.dependencies(node), *self.awaited(node)):
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
        if read.guard or (level != FULL and at != level):
            return False
        if level == FULL and at != FULL and not cluster.by_row:
            return False  # a column's sum is known only after the last row
        if read.base.op.kind is Kind.REDUCE and at == FULL:
            at = KEPT  # a reduction over axes of size 1
        return linear(read.indices, read.base.shape) == cluster.positions[at]

    def join(self, node: Node, dependencies: list[Node]) -> None:
        """A map joins the latest of its inputs' clusters that it may join, else it starts a cluster."""
        needed = [*dependencies, *self.awaited(node)]
        for cluster in sorted({self.home[d] for d in dependencies}, key=lambda c: (PREFERENCE[c.form], -c.number)):
            if cluster.form in (Form.PREFIX, Form.SCATTER, Form.ROUTINE):
                continue
            level = cluster.level_of(node)
            if level is not None and self.may_join(cluster, needed) and self.meets(cluster, node, level):
                self.add(cluster, node, level)
                return
        self.start(node, Form.MAP, node.shape)

    def join_reduction(self, node: Node) -> None:
        operand, axes = node.inputs[0], node.attributes["axes"]
        space = operand.shape
        last = max((a for a, size in enumerate(space) if size != 1), default=0)  # the axis that vectors run along
        form = Form.ROWS if last in axes or all(s == 1 for s in node.shape) else Form.COLUMNS
        dependencies = self.dependencies(node)
        needed = [*dependencies, *self.awaited(node)]
        for cluster in sorted({self.home[d] for d in dependencies}, key=lambda c: -c.number):
            if not self.may_join(cluster, needed):
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
            elif cluster.form is Form.CONTRACT and self.join_contraction(cluster, node):
                return
        sibling = self.sibling(form, tuple(space), axes, dependencies)
        if sibling is not None:
            self.add(sibling, node, KEPT)
        else:
            self.start(node, form, space, axes)

    def sibling(self, form: Form, space: tuple[int, ...], axes: tuple[int, ...], dependencies: list[Node]) -> Cluster | None:
        """Sums over the columns of what one kernel computes are one pass over it, as those of a norm's scale and shift."""
        sources = {self.home[d] for d in dependencies}
        for cluster in reversed(self.clusters):
            if (cluster.form is form is Form.COLUMNS and cluster.space == space and cluster.axes == axes
                    and cluster.anchor is not None and self.may_join(cluster, dependencies)
                    and cluster not in sources and sources & {self.home[d] for d in self.dependencies(cluster.anchor)}):
                return cluster
        return None

    def join_contraction(self, cluster: Cluster, node: Node) -> bool:
        """Folds the tiles of a contraction where they are; says why where that cannot be."""
        found = place_behind(cluster, node)
        if isinstance(found, str):
            cluster.notes.append(f"{node.op.name} over {node.attributes['axes']} not in its tiles: {found}")
            return False
        level, axes = found
        operand, old = node.inputs[0], cluster.axes
        cluster.axes = axes
        cluster.place()
        if not self.operand_meets(cluster, operand, unravel(cluster.positions[FULL], operand.shape), FULL):
            cluster.axes = old
            cluster.place()
            cluster.notes.append(f"{node.op.name} over {node.attributes['axes']} not in its tiles: "
                                 "it reads them elsewhere than at their own place")
            return False
        self.add(cluster, node, level)
        cluster.has_total |= level == TOTAL
        cluster.notes.append(f"{node.op.name} over {node.attributes['axes']} in its tiles")
        return True

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
            costs[node] = self.recompute_cost(node, costs)
            if node in needed or (node in read_elsewhere and costs[node] is None):
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
        return nested_step(f"{node.op.name}_{cluster.number}", node, operands, dict(sorted(results.items())), self.plan_of)

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
            else:
                new[node] = make(node.op, [new[i] for i in node.inputs], node.attributes, node.graphs)
        body = Graph(tuple(slot(i, b.type) for i, b in enumerate(read)), tuple(new[o] for o in outputs))
        phases = [m.phase for m, level in cluster.members.items() if level == FULL or cluster.form is not Form.CONTRACT]
        named = cluster.anchor or next(iter(cluster.members))
        kernel = Kernel(f"{named.op.name}_{cluster.number}", cluster.form, body, tuple(read),
                        tuple(self.stored[o] for o in outputs), cluster.space, cluster.axes,
                        frozenset(shared_places(cluster, body, [cluster.members[o] for o in outputs])),
                        sum(flops(n) for n in body.nodes),
                        "update" if "update" in phases else named.phase, named.scope, tuple(cluster.notes))
        return kernel

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
                stack.extend((i, False) for i in reversed(reads(node)))
        return order

    def run(self) -> Fused:
        self.assign()
        self.choose_stored()
        steps = [s for c in self.clusters if (s := self.step(c)) is not None]
        for node in self.graph.nodes:  # leaves that are results themselves, and inputs that nothing reads
            if self.is_leaf(node):
                self.leaf_buffer(node)
        waits = {self.stored[node]: awaited for node, awaited in self.waits.items() if awaited}
        return Fused(tuple(steps), self.stored, self.leaves, waits)


def dense(node: Node) -> tuple[int, ...]:
    """Row-major strides of a node's type; 0 for axes of size 1."""
    strides, step = [], 1
    for size in reversed(node.shape):
        strides.append(0 if size == 1 else step)
        step *= int(size)
    return tuple(reversed(strides))


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


def fuse(graph: Graph, plan_of: PlanOf) -> Fused:
    """The steps of a graph that is specialised: concrete sizes, no composites.

    plan_of   makes the plan of a graph inside the graph
    """
    return Fusion(graph, plan_of).run()
