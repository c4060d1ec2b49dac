"""Where a mask ends rows: only what is needed of a row is computed, the rest of its results is written.

Knows the ends of a kernel's rows and the vectors of a row.  Must not know masks, op names or what is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.plan import End

from .loops import State
from .sharing import maximum
from .values import Value, i64

if TYPE_CHECKING:
    from .rows import Rows


class RowEnds:
    """The whole vectors of a row of which something is needed: one at least, so that a row without anything is what it is."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.w = rows, rows.w
        (self.axis,) = rows.passes.axes

    @staticmethod
    def of(rows: Rows) -> RowEnds | None:
        """None where rows have no ends, or more axes than one."""
        whole = rows.passes.summed or rows.inner.number is not None or len(rows.passes.axes) != 1
        return None if whole or not rows.w.kernel.ends else RowEnds(rows)

    def needed(self) -> tuple[Value, Value]:
        """(first, end) of the places of the row that the scope is at: multiples of a vector, but for the end of all rows."""
        f, e, count = self.w.f, self.w.elements, self.rows.inner_count
        low, high = i64(0), i64(count)
        for end in self.w.kernel.ends:
            other = end.second if end.first == self.axis else end.first
            place = e.index(self.rows.space.indices[other])
            if end.first == self.axis:
                high = f.minimum(high, f.add(place, i64(end.offset + 1)))
            else:
                low = maximum(f, low, f.sub(place, i64(end.offset)))
        last = i64((count - 1) // e.lanes * e.lanes)  # where the last vector begins
        low = self.rounded(f.minimum(low, last))
        high = self.rounded(f.add(maximum(f, high, f.add(low, i64(1))), i64(e.lanes - 1)))
        return low, f.minimum(high, i64(count))

    def rounded(self, place: Value) -> Value:
        """Down to a multiple of a vector; places are no less than 0."""
        return self.w.f.mul(self.w.f.binary("udiv", place, i64(self.w.elements.lanes)), i64(self.w.elements.lanes))

    def fill(self, low: Value, high: Value) -> None:
        """What results are beside the places that are computed."""
        w, e, rows = self.w, self.w.elements, self.rows
        full = [pair for level in rows.passes.full for pair in level]
        ends: dict[bool, End] = {end.first == self.axis: end for end in w.kernel.ends}
        for above, (begin, end) in {False: (i64(0), low), True: (high, i64(rows.inner_count))}.items():
            if above not in ends or not full:
                continue
            numbers = dict(ends[above].numbers)

            def one(state: State, numbers: dict[int, float] = numbers) -> State:
                for write, node in full:
                    e.store(node, e.number(node, numbers[write]), w.writes[write], rows.space.position)
                return state

            w.sweep(rows.inner, begin, end, 1, one, aligned=rows.inner_count % e.lanes == 0, even=True)
