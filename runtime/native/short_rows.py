"""Rows shorter than a vector or two: as many of them at once as a vector has lanes.

A row that fills a part of a vector costs as much as one that fills it, and joining its lanes costs more than the row itself.
Here as many rows as there are lanes are loaded one by one, turned in registers so that lane i of every vector belongs to row i,
and all that is to be done with them is written straight on, place by place; results are turned back.  The places of a row
are joined in the same pairs as `loops.across_lanes` joins lanes.  What is left of the rows goes one by one.

Knows what of a body lies in rows.  Must not know op names, buffers or how threads are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.ir import Node

from .addresses import memory_type
from .folds import Folding
from .lines_ahead import ROWS_AHEAD
from .loops import State, scalar_cost, variable_of
from .recipes import Action, Key
from .scopes import Scope
from .transposes import turn
from .values import Value, i64, vector

if TYPE_CHECKING:
    from .rows import Rows

MOST_PLACES = 24  # of a row
MOST_CODE = 800  # operations that are written, place by place
LEAST_BLOCKS = 4  # of rows: in fewer of them the code is not worth its compile time


class ShortRows:
    """Blocks of as many rows as there are lanes."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.w = rows, rows.w
        self.row, self.place = variable_of(rows.k), variable_of(rows.inner)
        self.lanes, self.length = self.w.full_lanes, rows.inner_count
        self.blocks = rows.passes.kept_count // self.lanes
        e = self.w.elements
        self.turned: list[Key] = []
        self.cost = sum(2 * len(level) for level in rows.passes.reductions)
        for key in e.reachable(k for roots in rows.roots for k in roots):
            step = e.step(key)
            if self.place in step.variables and step.action is Action.SCALAR:
                self.cost += scalar_cost(key[0])
            if step.action is Action.LOAD and self.lies_in_rows(key):
                self.turned.append(key)

    def lies_in_rows(self, key: Key) -> bool:
        """Whether neighbours in a row are neighbours in memory, and those of a column are not."""
        step = self.w.elements.step(key)
        return (not step.guard and not step.node.dtype.is_bool and step.place.factor(self.place) == 1
                and step.place.factor(self.row) not in (0, 1, None))

    @property
    def pays(self) -> bool:
        full = [n for level in self.rows.passes.full for _, n in level]
        return (bool(self.turned) and not any(n.dtype.is_bool for n in full)
                and self.length * (self.cost + 4 * (len(self.turned) + len(full))) <= MOST_CODE)

    def emit(self) -> None:
        """The blocks, shared among threads, then the rows behind them, by one."""
        w, f, e = self.w, self.w.f, self.w.elements
        e.past = frozenset()  # pieces of lines
        for roots in self.rows.roots:
            e.hoist(roots)
        before, e.lanes = e.lanes, self.lanes
        with w.ranges(self.blocks) as bounds, f.loop(*bounds) as number, e.inside(Scope()):
            self.block(f.mul(number, i64(self.lanes)))
        e.lanes = before
        count = self.rows.passes.kept_count
        if self.blocks * self.lanes < count:
            with f.when(f.compare("icmp eq", w.threads.thread, i64(0))), f.loop(self.blocks * self.lanes, count) as row:
                self.rows.emit_row(row)

    def block(self, base: Value) -> None:
        w, e, passes = self.w, self.w.elements, self.rows.passes
        with e.inside(Scope({self.row: base})):
            self.rows.ahead.fetch(ROWS_AHEAD * self.lanes, self.length * self.lanes)
        loaded = {key: self.loaded(key, base) for key in self.turned}
        places = [Scope({self.place: i64(r)}) for r in range(self.length)]
        for r, scope in enumerate(places):
            scope.memo.update({key: values[r] for key, values in loaded.items()})
        whole = Scope({self.row: base}, self.row, even=True)
        with e.inside(whole):
            for p, level in enumerate(passes.reductions):
                folding = self.rows.folding(p)
                states: list[State] = []
                results: list[list[Value]] = []  # of each place, the outputs of this pass
                for scope in places:
                    with e.inside(scope):
                        e.emit(self.rows.roots[p])
                        if level:
                            states.append(folding.lifted())
                        results.append([e.broadcast(v) for v in e.emit(self.rows.roots[p][len(level):])])
                for i, (write, node) in enumerate(passes.full[p]):
                    self.store(node, [values[i] for values in results], w.writes[write], base)
                if level:
                    whole.values.update(folding.results(self.joined(folding, states)))
            self.rows.store_kept()

    def joined(self, folding: Folding, states: list[State]) -> State:
        """One state of all places: halves are joined until one is left."""
        half = 1 << (len(states) - 1).bit_length() >> 1
        while half:
            states = [folding.combine(state, states[i + half]) if i + half < len(states) else state
                      for i, state in enumerate(states[:half])]
            half //= 2
        return states[0]

    # -- memory ------------------------------------------------------------------------------------------------------

    def groups(self) -> list[tuple[int, int]]:
        """(first place, how many) of as many places as there are lanes."""
        return [(first, min(self.lanes, self.length - first)) for first in range(0, self.length, self.lanes)]

    def loaded(self, key: Key, base: Value) -> list[Value]:
        """A load's rows as vectors across them, one for each place."""
        f, e = self.w.f, self.w.elements
        step = e.step(key)
        stride = step.place.factor(self.row)
        assert step.base is not None and stride is not None
        scalar = memory_type(step.base)
        with e.inside(Scope({self.row: base, self.place: i64(0)})):
            start = e.address(step.base, e.memory[step.base].pointer, step.place)
        found: list[Value] = []
        for first, count in self.groups():
            rows: list[Value | None] = []
            for u in range(self.lanes):
                at, type_ = f.offset(start, i64(u * stride + first), scalar), vector(self.lanes, scalar)
                rows.append(f.load(at, type_) if count == self.lanes
                            else f.masked_load(at, type_, self.w.tail_mask(i64(count))))
            found += [v for v in turn(f, rows, range(count))[:count] if v is not None]
        return found

    def store(self, node: Node, values: list[Value], pointer: Value, base: Value) -> None:
        """Vectors across rows, one for each place, to where the rows lie."""
        f, e = self.w.f, self.w.elements
        position = self.rows.space.position
        stride = position.factor(self.row)
        assert stride is not None
        with e.inside(Scope({self.row: base, self.place: i64(0)})):
            start = e.address(node, pointer, position)
        for first, count in self.groups():
            columns: list[Value | None] = [*values[first:first + count], *[None] * (self.lanes - count)]
            for u, row in enumerate(turn(f, columns, range(self.lanes))):
                assert row is not None
                at = f.offset(start, i64(u * stride + first), memory_type(node))
                if count == self.lanes:
                    f.store(row, at)
                else:
                    f.masked_store(row, at, self.w.tail_mask(i64(count)))
