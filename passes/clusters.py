"""Clusters: sets of nodes over one iteration space that fusion turns into kernels, and which folds a contraction takes in.

Knows forms, levels and positions.  Must not know op names, uses or memory.
"""

from __future__ import annotations

from math import prod

from graphc.index import Index, linear, variables_for
from graphc.ir import Node
from graphc.labels import labels_of
from graphc.op import Kind
from graphc.plan import Form
from graphc.records import field, record

from .cost import flops

# Levels: elements of the whole space, of its kept axes, one number for all of it (behind a contraction only), or folds over its
# kept axes (down the columns of what rows compute).
FULL, KEPT, TOTAL, ACROSS = "full", "kept", "total", "across"
LEAST_FOLDED = 8  # rows or columns of a contraction from which folding them in its tiles pays
LEAST_ROWS, SHARED_ROWS = 16, 128  # complete rows in a kernel for one thread, and where threads share the rows
SMALL = 1 << 21  # operations of a contraction that one thread does
PACKED_LINES, PACKED_OTHERS = 64, 1024  # lines of an operand worth computing in packing; of the other one, at most
PANEL_SHARE = 8  # times as many columns as rows from which threads share the columns
ROW_BYTES = 2048  # a row of a contraction that is kept together until it is finished
SHORT_ROW, HELD_BYTES = 64, 1 << 19  # elements of a row that is finished with others, behind the tiles; bytes of all of them
ACROSS_ROWS, ACROSS_COLUMNS = 32, (32, 4096)  # rows from which sums down their columns pay; columns, at least and at most
ACROSS_BYTES = 1 << 15  # of all such sums: every row adds to them


@record(eq=False)
class Cluster:
    """Nodes that one kernel computes.  `number` orders clusters as the graph orders their first nodes."""

    number: int
    form: Form
    space: tuple[int, ...]
    axes: tuple[int, ...] = ()
    members: dict[Node, str] = field(default_factory=dict)  # node -> the level it lives on
    ancestors: int = 0  # bit set of clusters that it depends on
    anchor: Node | None = None
    has_total: bool = False  # whether a member is one number for the whole space
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place()

    def place(self) -> None:
        """The symbolic positions of the full space and of the kept one."""
        self.variables = variables_for(self.space)
        kept = [a for a in range(len(self.space)) if a not in self.axes]
        self.full_count, self.kept_count = prod(self.space), prod(self.space[a] for a in kept)
        self.positions = {FULL: linear(self.variables, self.space),
                          KEPT: linear([self.variables[a] for a in kept], [self.space[a] for a in kept]),
                          TOTAL: Index((), 0),
                          ACROSS: linear([self.variables[a] for a in self.axes], [self.space[a] for a in self.axes])}

    def level_of(self, node: Node) -> str | None:
        """Which of the cluster's spaces the node's elements fill, None where neither."""
        size = node.type.size
        if size == self.full_count:
            return FULL
        if self.form is not Form.CONTRACT:
            return KEPT if self.form in (Form.ROWS, Form.COLUMNS) and size == self.kept_count else None
        if self.axes and size == self.kept_count:
            return KEPT
        return TOTAL if self.has_total and size == 1 else None

    @property
    def by_row(self) -> bool:
        """Whether a fold is known as soon as its row is, and may be read by maps over the space."""
        last = max((a for a, size in enumerate(self.space) if size != 1), default=0)
        return self.form is Form.ROWS or (self.form is Form.CONTRACT and last in self.axes)


def place_behind(cluster: Cluster, node: Node) -> tuple[str, tuple[int, ...]] | str:
    """(level, reduced axes of the space) of a fold in the tiles of a contraction, or why it cannot be there."""
    operand, axes, anchor = node.inputs[0], node.attributes["axes"], cluster.anchor
    assert anchor is not None
    if operand.type.size != cluster.full_count:
        return "it folds another space"
    labels = labels_of(anchor.attributes["spec"])
    reduced = [a for a in axes if operand.shape[a] != 1]
    kept = [a for a, size in enumerate(operand.shape) if a not in axes and size != 1]
    if not reduced:
        return "it folds nothing"
    if not kept:
        if cluster.by_row:
            return "the tiles are folded row by row"
        if len(node.op.fold.state_dtypes(operand.dtype)) > 1:
            return "its order is not that of the tiles"
        return TOTAL, cluster.axes
    if not labels.in_order:
        return "the result's axes are not those of its tiles in order"
    sizes = dict(zip(labels.out, anchor.shape, strict=True))
    columns = prod(sizes[x] for x in labels.n)
    rows = cluster.full_count // columns
    count = prod(operand.shape[a] for a in kept)
    outside = tuple(range(len(labels.out) - len(labels.n)))
    inside = tuple(range(len(labels.out) - len(labels.n), len(labels.out)))
    if max(kept) < min(reduced) and count == rows:
        if cluster.has_total or cluster.axes == outside:
            return "the tiles are folded down their columns"
        if columns < LEAST_FOLDED or columns * operand.dtype.itemsize > ROW_BYTES or rows < (
                LEAST_ROWS if flops(anchor) < SMALL else SHARED_ROWS):
            return "its rows are too short, too long or too few"
        held = cluster.full_count * operand.dtype.itemsize
        if columns <= SHORT_ROW and held <= HELD_BYTES and not node.op.fold.joins_at_once(operand.dtype):
            return "its rows are so short that several are finished together"
        return KEPT, inside
    if max(reduced) < min(kept) and count == columns:
        if cluster.by_row:
            return "the tiles are folded row by row"
        if prod(sizes[x] for x in labels.m) < LEAST_FOLDED:
            return "the tiles have too few rows"
        return KEPT, outside
    return "it folds neither rows nor columns of the tiles"


def sums_across(rows: Cluster, columns: Cluster) -> bool:
    """Whether the folds of one cluster go down the columns of another one's rows, and may be done where these are."""
    if rows.form is not Form.ROWS or columns.form is not Form.COLUMNS or rows.space != columns.space:
        return False
    folds = [n for n in columns.members if n.op.kind is Kind.REDUCE]
    least, most = ACROSS_COLUMNS
    held = [n for n, level in rows.members.items() if level == ACROSS]
    return (sorted((*rows.axes, *columns.axes)) == list(range(len(rows.space)))
            and rows.kept_count >= ACROSS_ROWS and least <= columns.kept_count <= most
            and columns.kept_count * sum(n.inputs[0].dtype.itemsize for n in (*held, *folds)) <= ACROSS_BYTES
            and all(n.inputs[0].shape == columns.space and n.attributes["axes"] == columns.axes
                    and len(n.op.fold.state_dtypes(n.inputs[0].dtype)) == 1 for n in folds))


def packs_once(contraction: Node, first: bool) -> bool:
    """Whether packing reads each element of an operand about once: the operand that threads share by its lines."""
    labels = labels_of(contraction.attributes["spec"])
    sizes = dict(zip(labels.out, contraction.shape, strict=True))
    m, n = prod(sizes[x] for x in labels.m), prod(sizes[x] for x in labels.n)
    of_rows = first != labels.turned
    lines, others = (m, n) if of_rows else (n, m)
    most = lines if of_rows else lines // PANEL_SHARE  # threads rarely share the panels of the other operand
    return lines >= PACKED_LINES and others <= min(most, PACKED_OTHERS)
