"""Which nodes share a kernel: every computed node is put into a cluster.

Knows kinds, uses and types, and index maps to see whether two nodes meet element by element.  Must not know op names, or what
is stored.

A node may join the cluster of one of its inputs if no other of its inputs depends on that cluster (else the cluster
graph would have a cycle).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from math import prod
from typing import Any

from graphc.access import follow, smallest_cut, strided
from graphc.index import Index, linear, unravel, variables_for
from graphc.ir import Graph, Node
from graphc.op import Kind
from graphc.plan import Form
from graphc.types import strides_of

from .across import fold_across
from .clusters import ACROSS, FULL, KEPT, TOTAL, Cluster, place_behind

EMBEDDED = 16  # constants up to this many elements are written into the code
FLUID = (Kind.VIEW, Kind.GATHER, Kind.SOURCE)
LOOPS = (Form.MAP, Form.ROWS, Form.COLUMNS)
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


def is_given(node: Node) -> bool:
    """Inputs, cells and large constants: memory that exists before the step."""
    if node.op.kind is not Kind.SOURCE:
        return False
    if node.op.is_given:
        return True
    value = node.attributes.get("value")
    return value is not None and value.size > EMBEDDED


class Assignment:
    """Puts every computed node of a graph into a cluster, its `home`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.clusters: list[Cluster] = []
        self.home: dict[Node, Cluster] = {}
        self._bases: dict[Node, tuple[Node, ...]] = {}
        self._aligned: dict[Node, frozenset[Node]] = {}
        self.awaiting = any(behind(n) is not n for n in graph.nodes)
        self.given = frozenset(n for n in graph.nodes if is_given(n))
        self.by_count: dict[int, list[Cluster]] = {}  # clusters by the elements of their space: that number stays

    # -- what a node reads -------------------------------------------------------------------------------------

    def is_leaf(self, node: Node) -> bool:
        """Whether a node of the graph is memory that exists before the step."""
        return node in self.given

    def bases(self, node: Node) -> tuple[Node, ...]:
        """The computed nodes and leaves that one operand reads through views and gathers."""
        known = self._bases.get(node)
        if known is None:
            if node in self.home or (node.op.kind not in FLUID) or self.is_leaf(node):
                return (node,)  # not remembered: a view may become a member later
            known = tuple(dict.fromkeys(b for i in reads(node) for b in self.bases(i)))
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
        fold_across(self)

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
                        forced.add(smallest_cut(operand, forced, self.graph.users))
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
        self.by_count.setdefault(cluster.full_count, []).append(cluster)
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
        if cluster.ancestors != before and len(cluster.members) > 1:  # nobody depends on a new one
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
        if node.op.kind is Kind.GATHER:
            return self.gather_meets(cluster, node, indices, level)
        if node.op.kind is Kind.VIEW:  # what it reads: it may be a member itself
            place, guard = node.op.index(indices, node.inputs[0].type, **node.attributes)
            return (not (guard and self.touches(cluster, node.inputs[0]))
                    and self.operand_meets(cluster, node.inputs[0], place, level))
        return all(self.operand_meets(cluster, operand, indices, level) for operand in node.inputs)

    def touches(self, cluster: Cluster, operand: Node) -> bool:
        """Whether an operand reads anything that the cluster computes."""
        return any(self.home.get(b) is cluster for b in self.bases(operand))

    def gather_meets(self, cluster: Cluster, node: Node, indices: tuple[Index, ...], level: str) -> bool:
        """A gather reads its data from memory: another cluster's; only its index may be of this one."""
        return not self.touches(cluster, node.inputs[0]) and self.operand_meets(cluster, node.inputs[1], indices, level)

    def operand_meets(self, cluster: Cluster, operand: Node, indices: tuple[Index, ...], level: str) -> bool:
        if not self.touches(cluster, operand):
            return True
        read = follow(operand, indices, lambda n: n in self.home)
        if read.base.op.kind is Kind.GATHER and read.base not in self.home:
            return not read.guard and self.gather_meets(cluster, read.base, read.indices, level)
        if read.base not in cluster.members:  # a guarded view: what is under it is read elsewhere
            return False
        at = cluster.members[read.base]
        if read.guard or (at != level and (level != FULL or at == ACROSS)):
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
                if level == FULL:
                    self.unite(cluster, dependencies)
                return
        beside = self.beside(Form.MAP, tuple(node.shape), (), node, dependencies)
        if beside is not None:
            self.add(beside, node, FULL)
        else:
            self.start(node, Form.MAP, node.shape)

    def unite(self, cluster: Cluster, dependencies: list[Node]) -> None:
        """Takes in the maps, and the folds over the same axes, that a cluster reads at its own position: they are one pass."""
        if cluster.form not in LOOPS:
            return
        for other in {self.home[d]: None for d in dependencies}:
            alike = (other.form is cluster.form and other.space == cluster.space and other.axes == cluster.axes)
            if other is cluster or not (alike or (other.form is Form.MAP and other.full_count == cluster.full_count)):
                continue
            bit = 1 << other.number
            if any(cluster.ancestors >> c.number & 1 and c.ancestors & bit for c in self.clusters):
                continue  # what depends on it must run before the cluster
            own, taken = dict(cluster.members), dict(other.members)
            self.move(taken, cluster)
            if all(self.stays(cluster, m, level) for m, level in cluster.members.items()):
                cluster.ancestors = (cluster.ancestors | other.ancestors) & ~bit
                other.members = {}
                for c in self.clusters:
                    if c.ancestors & (bit | 1 << cluster.number):
                        c.ancestors |= cluster.ancestors | 1 << cluster.number
            else:
                self.move(taken, other)
                cluster.members = own

    def move(self, members: dict[Node, str], cluster: Cluster) -> None:
        for member in members:
            self.home[member] = cluster
        cluster.members = {**members, **cluster.members}

    def stays(self, cluster: Cluster, member: Node, level: str) -> bool:
        """Whether a member reads all members at its own position."""
        if member.op.kind is Kind.REDUCE:
            operand = member.inputs[0]
            return self.operand_meets(cluster, operand, unravel(cluster.positions[FULL], operand.shape), FULL)
        return self.meets(cluster, member, level)

    def beside(self, form: Form, space: tuple[int, ...], axes: tuple[int, ...], node: Node,
               dependencies: list[Node]) -> Cluster | None:
        """A cluster over the same space that reads something large where the node does, and waits for no less: one pass."""
        wanted = self.aligned(node, space)
        if not wanted:
            return None
        needed = 0
        for d in (*dependencies, *self.awaited(node)):
            needed |= 1 << self.home[d].number
        for cluster in reversed(self.by_count.get(prod(space), ())):
            if (cluster.form is form and cluster.space == space and cluster.axes == axes and cluster.members
                    and not needed & ~cluster.ancestors
                    and any(not wanted.isdisjoint(self.aligned(m, space)) for m in cluster.members)):
                return cluster
        return None

    def aligned(self, node: Node, space: tuple[int, ...]) -> frozenset[Node]:
        """Inputs, cells and other clusters' results of the space's size that a map or fold reads at its own position."""
        known = self._aligned.get(node)
        if known is None:
            indices, found = variables_for(space), set()
            folded = node.op.kind is Kind.REDUCE
            if node.op.kind in (Kind.MAP, Kind.REDUCE) and (node.inputs[0].shape if folded else node.shape) == space:
                for operand in node.inputs:
                    read = follow(operand, indices, lambda n: n in self.home)
                    if (read.base.type.size == prod(space) > 1 and not read.guard
                            and (read.base in self.home or self.is_leaf(read.base))
                            and linear(read.indices, read.base.shape) == linear(indices, space)):
                        found.add(read.base)
            known = self._aligned[node] = frozenset(found)
        return known

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
                self.unite(cluster, dependencies)
                return
            elif cluster.form is Form.CONTRACT and self.join_contraction(cluster, node):
                return
        sibling = (self.sibling(form, tuple(space), axes, dependencies)
                   or self.beside(form, tuple(space), axes, node, dependencies))
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


def dense(node: Node) -> tuple[int, ...]:
    """Row-major strides of a node's type; 0 for axes of size 1."""
    return tuple(0 if size == 1 else step for size, step in zip(node.shape, strides_of(node.shape), strict=True))
