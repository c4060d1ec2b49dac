"""Which results of a kernel may take over the memory of an operand.

Knows a kernel's body, its levels and how views move elements.  Must not know addresses, or who else reads the operand:
that is for the schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.access import follow
from graphc.index import linear, variables_for
from graphc.ir import Graph, Node
from graphc.op import Kind
from graphc.plan import Form

from .clusters import FULL, KEPT, TOTAL, Cluster


def shared_places(cluster: Cluster, body: Graph, levels: Sequence[str]) -> Iterable[tuple[int, int]]:
    """Pairs (write, read) that may share memory: the read happens only at the write's own element, just before."""
    if cluster.form not in (Form.MAP, Form.CONTRACT, Form.ROWS, Form.COLUMNS):
        return
    full, kept = cluster.full_count, cluster.kept_count
    late = None
    if cluster.form is Form.CONTRACT and not cluster.by_row:
        late = after_folds(body, [o for o, level in zip(body.outputs, levels, strict=True) if level != FULL])
    for r, source in enumerate(body.inputs):
        size = int(source.type.size)
        if (not body.users[source] and source not in body.outputs) or all(o.type != source.type for o in body.outputs):
            continue
        everywhere = read_in_place(body, source, body.nodes)
        # a contraction writes what follows from sums over its rows when all tiles are finished
        at_end = everywhere or (late is not None and read_in_place(body, source, late))
        # folds over finished tiles take each element when it is computed, before its result is stored
        by_tile = everywhere or (late is not None and read_in_place(body, source, body.nodes, folds=True))
        for w, (out, level) in enumerate(zip(body.outputs, levels, strict=True)):
            if out.type != source.type:
                continue
            whole = level == FULL and size == full and (cluster.form is Form.MAP or (
                cluster.form is Form.CONTRACT and not cluster.by_row))
            if (by_tile and whole) or (at_end and ((level == KEPT and size == kept != full)
                                                      or (level == TOTAL and full > 1))):
                yield w, r


def after_folds(body: Graph, outputs: Sequence[Node]) -> list[Node]:
    """The nodes between the body's folds and these outputs, operands first."""
    found: set[Node] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node not in found and node.op.kind is not Kind.REDUCE:
            found.add(node)
            stack.extend(node.inputs)
    return [n for n in body.nodes if n in found]


def read_in_place(body: Graph, source: Node, nodes: Sequence[Node], folds: bool = False) -> bool:
    """Whether every one of these nodes that depends on the slot reads it at its own position only.

    What is computed again inside a kernel may be read through a view that moves elements: then it is not.

    folds   whether a fold may read it, too: it reads every element where that is computed
    """
    reached = {source}
    for node in nodes:
        if any(i in reached for i in node.inputs):
            kind = node.op.kind
            if kind is Kind.REDUCE and folds:
                continue
            reached.add(node)
            if kind is Kind.VIEW:
                variables = variables_for(node.shape)
                read = follow(node, variables, {node.inputs[0]}.__contains__)
                if read.guard or linear(read.indices, read.base.shape) != linear(variables, node.shape):
                    return False
            elif kind is not Kind.MAP:
                return False
    return True
