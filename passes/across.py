"""Folds down columns move to where the rows are computed: a norm's scale and shift are summed up beside what it hands back.

Knows clusters and what their members read.  Must not know op names, or what is stored.

Such folds would read again what a kernel of rows reads, or what it computes, and would have written for them alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.op import Kind
from graphc.plan import Form

from .clusters import ACROSS, FULL, Cluster, sums_across

if TYPE_CHECKING:
    from .assign import Assignment


def fold_across(assigned: Assignment) -> None:
    """Every fold down columns that rows may do goes to them; what follows from it stays a cluster of its own."""
    for columns in [c for c in assigned.clusters if c.form is Form.COLUMNS]:
        for rows in assigned.by_count[columns.full_count]:
            if sums_across(rows, columns) and moves(assigned, rows, columns):
                break


def moves(assigned: Assignment, rows: Cluster, columns: Cluster) -> bool:
    """Moves the folds and what they read to the rows, if both read one thing there and nothing comes to depend on itself."""
    taken = {m: ACROSS if m.op.kind is Kind.REDUCE else FULL for m, level in columns.members.items()
             if level == FULL or m.op.kind is Kind.REDUCE}
    needed = [d for m in taken for d in (*assigned.dependencies(m), *assigned.awaited(m)) if d not in taken]
    meets = any(assigned.home[d] is rows for d in needed) or any(
        not assigned.aligned(m, rows.space).isdisjoint(assigned.aligned(n, rows.space)) for m in taken for n in rows.members)
    if not meets or rows.ancestors >> columns.number & 1 or not assigned.may_join(rows, needed):
        return False
    before, left = (dict(rows.members), dict(columns.members)), {m: FULL for m in columns.members if m not in taken}
    assigned.move(taken, rows)
    if not all(assigned.stays(rows, m, level) for m, level in taken.items()):
        assigned.move(taken, columns)
        rows.members, columns.members = before
        return False
    columns.space = tuple(size for a, size in enumerate(columns.space) if a not in columns.axes)
    columns.form, columns.axes, columns.anchor, columns.members = Form.MAP, (), None, left
    columns.place()
    for other in {assigned.home[d]: None for d in needed}:
        if other is not rows:
            rows.ancestors |= other.ancestors | 1 << other.number
    columns.ancestors |= rows.ancestors | 1 << rows.number
    for cluster in assigned.clusters:
        for changed in (rows, columns):
            if cluster.ancestors >> changed.number & 1:
                cluster.ancestors |= changed.ancestors
    return True
