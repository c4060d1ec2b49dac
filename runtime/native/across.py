"""Folds down the columns of what a ROWS kernel computes: every row adds to its group's partial results.

Knows groups of rows and where their partial results lie.  Must not know how rows are done, op names or how threads are made.

The groups are the same for any number of threads, and their results are joined in order: so is every sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphc.index import Index

from .folds import Folding, row_group
from .loops import State
from .partials import Partials, Room, store_joined
from .scopes import Scope
from .values import Value, i64

if TYPE_CHECKING:
    from .rows import Rows


class Across:
    """The folds of all passes, and the partial results of the group whose rows are being done."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.w, self.passes = rows, rows.w, rows.passes
        self.size = row_group(self.passes)
        self.groups, self.columns = -(-self.passes.kept_count // self.size), self.passes.reduced_count
        room, self.start = Room(self.w.f, self.w.shared), i64(0)
        self.partials = []
        for p, level in enumerate(self.passes.across):
            folding = Folding(self.w, level, rows.roots[p][len(rows.roots[p]) - len(level):], rows.place)
            self.partials.append(Partials(self.w, folding, room, self.groups * self.columns))

    def emit(self, some: Callable[[Value, Value], None], size: int) -> None:
        """Groups of rows, shared among threads; then what they have left is joined.

        some(low, high)  does rows, or blocks of `size` rows
        """
        w, f = self.w, self.w.f
        most = i64(-(-self.passes.kept_count // size))
        with w.ranges(self.groups) as bounds, f.loop(*bounds) as group:
            self.start = f.mul(group, i64(self.columns))
            self.clear()
            low = f.mul(group, i64(self.size // size))
            some(low, f.minimum(f.add(low, i64(self.size // size)), most))
        if not w.threads.serial:
            w.meet()
        for partials in self.partials:
            store_joined(w, partials, self.groups, self.columns, [
                (k, n) for k, n in self.passes.summed if n in {r.node for r in partials.folding.reductions}])

    def clear(self) -> None:
        """The neutral state in every column of the group."""
        w, e = self.w, self.w.elements
        column = Index.variable("column", self.columns)

        def body(state: State) -> State:
            for partials in self.partials:
                neutral = partials.folding.initial(e.lanes if e.lane is not None else 0)
                partials.store(neutral, w.f.add(self.start, e.first(column)))
            return state

        with e.inside(Scope()):
            w.sweep(column, i64(0), i64(self.columns), 2, body)

    def add(self, p: int) -> None:
        """What pass p has of an element, or of a vector of them, is added to its column."""
        partials = self.partials[p]
        if partials.folding.reductions:
            place = self.w.f.add(self.start, self.w.elements.first(self.rows.place))
            partials.store(partials.folding.append(partials.load(place), partials.folding.lifted()), place)
