"""Lines of memory that rows fetch before they need them, where they come from beyond the cache.

The first pass over a row waits for memory, and those behind it do not: there memory would be idle, as no processor foresees the
next row while a long one is done several times, and a store to a line that is not there holds up all behind it.

Knows which rows of memory the elements of a row lie in.  Must not know op names, buffers or how threads are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphc.index import Index
from graphc.ir import Node

from .addresses import memory_type
from .loops import variable_of
from .recipes import Action
from .scopes import Scope
from .values import SIZES, Value, i64

if TYPE_CHECKING:
    from .rows import Rows

LINE_BYTES = 64
ROWS_AHEAD = 4  # of short rows, or of blocks of them
Line = tuple[Value, str, bool]  # where elements begin, their type in memory, whether they will be written


class LinesAhead:
    """What the rows of a kernel fetch; nothing where all that it touches fits the second-level cache."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.w = rows, rows.w
        several = rows.inner.number is None and rows.k.number is None
        self.large = several and self.w.beyond_cache

    def beside(self, p: int) -> list[Line]:
        """What pass p fetches place by place: in the second pass the next row, and the lines that the next pass writes."""
        count = len(self.rows.roots)
        if not self.large or count < 2 or self.rows.outer_count > 1:
            return []
        return [*(self.read(1) if p == 1 else ()), *(self.written(0, p + 1) if p + 1 < count else ())]

    def fetch(self, distance: int, count: int) -> None:
        """Fetches `count` elements of all that is read and written, from the row on that is so many behind the current one."""
        f = self.w.f
        if not self.large:
            return
        written = [line for p in range(len(self.rows.roots)) for line in self.written(distance, p)]
        for start, scalar, write in [*self.read(distance), *written]:
            for place in range(0, count, LINE_BYTES // SIZES[scalar]):
                f.prefetch(f.offset(start, i64(place), scalar), write=write)

    def read(self, distance: int) -> Sequence[Line]:
        """Where a row begins in all that is read."""
        e = self.w.elements
        row, place = variable_of(self.rows.k), variable_of(self.rows.inner)
        found: dict[tuple[str, Index], Line] = {}
        with e.inside(self.start(distance)):
            for key in e.reachable(k for roots in self.rows.roots for k in roots):
                step = e.step(key)
                if step.action is not Action.LOAD or step.guard or step.place.factor(place) != 1 or not step.place.factor(row):
                    continue
                assert step.base is not None
                pointer = e.memory[step.base].pointer
                found[pointer.name, step.place] = e.address(step.base, pointer, step.place), memory_type(step.base), False
        return list(found.values())

    def written(self, distance: int, p: int) -> Sequence[Line]:
        """Where a row begins in what pass p writes."""
        w, e, position = self.w, self.w.elements, self.rows.space.position
        with e.inside(self.start(distance)):
            return [(e.address(node, w.writes[write], position), memory_type(node), True)
                    for write, node in self.rows.passes.full[p] if not self.passes(node, w.writes[write])]

    def passes(self, node: Node, pointer: Value) -> bool:
        """Whether rows are written past the caches."""
        e = self.w.elements
        with e.inside(Scope(lane=variable_of(self.rows.inner), even=True)):
            return e.passes(node, pointer, self.rows.space.position)

    def start(self, distance: int) -> Scope:
        row = self.w.elements.bound(variable_of(self.rows.k))
        assert row is not None
        return Scope({variable_of(self.rows.k): self.w.f.add(row, i64(distance)), variable_of(self.rows.inner): i64(0)})
