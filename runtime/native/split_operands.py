"""Operands of float32 contractions that are packed as bfloat16 pieces, in pairs of k.

Knows how lines that lie in memory in any way become squares of `pieces`.  Must not know what multiplies them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from graphc.runtime.native.axes import Axes
from graphc.runtime.native.emit import Value, i64
from graphc.runtime.native.operands import in_runs, lies_across, lies_along, listed
from graphc.runtime.native.packing import list_pieces
from graphc.runtime.native.pieces import (
    DEPTH,
    LANES,
    SIDE,
    Layout,
    half_of,
    split_function,
    split_runs_function,
    turn_function,
)
from graphc.runtime.native.sharing import quotient
from graphc.runtime.native.tile_operands import PackedOperands, flat_offset

# k, how many k are left, the group of lines: the last arguments of `split_function`
Part = Callable[[Value, Value, Value], list[Value]]


class SplitOperands(PackedOperands, ABC):
    """A and B of one contraction, in pieces.  Where squares go is up to whoever multiplies them."""

    groups = 1  # of LANES rows in a row tile

    @abstractmethod
    def rows_layout(self) -> Layout:
        """Where squares of A go."""

    @abstractmethod
    def columns_layout(self, columns: Value) -> Layout:
        """Where squares of a panel of B with so many columns go."""

    @abstractmethod
    def rows_along(self) -> bool:
        """Whether rows of A's squares are rows of A; else they are pairs of k, as rows of B's are."""

    @abstractmethod
    def rows_written(self, height: Value) -> Value:
        """How many rows a square of A has, where they are rows of A."""

    def pack_whole_panels(self, b: Value, table: Value, k_block: Value, panels: tuple[Value, Value], count: Value
                          ) -> tuple[Value, Value] | None:
        return panels

    def columns_there(self, j0: Value, columns: Value) -> Value:
        """How many of a panel's columns are there."""
        f, g = self.f, self.blocking
        return f.minimum(columns, f.sub(i64(g.n), j0)) if g.n % (g.vectors * LANES) else columns

    def pack_columns(self, item: Value, b: Value, table: Value, j0: Value, columns: Value, k_first: Value, count: Value,
                     to: Value) -> None:
        f, g, load = self.f, self.blocking, self.load_b
        layout, groups = self.columns_layout(columns), quotient(f, columns, LANES)[0]
        valid = self.columns_there(j0, columns)
        if lies_across(g.b_k, g.b_n) and not load:
            self.split_across(to, layout, groups, count, self.at(b, j0), i64(g.b_k or 0), valid, columns, turned=False)
        elif lies_along(g.b_k, g.b_n) and not load:
            stride = i64(g.b_n[0][1])
            source = self.at(b, f.mul(j0, stride))
            self.split_along(to, layout, groups, count, source, stride, valid, f.mul(columns, stride), i64(SIDE), turned=True)
        elif in_runs(g.b_n, self.target) and not load:
            self.split_runs(to, layout, groups, count, b, table, g.b_k, g.b_n, j0, columns, g.n)
        elif g.pairs and listed(g.b_k, g.b_n, g.b_run, load is not None, self.target):
            self.split_listed(to, layout, groups, count, b, table, g.b_k, g.b_n, j0, columns, g.n, i64(SIDE), turned=True)
        else:
            source = self.region("columns")
            super().pack_columns(item, b, table, j0, columns, k_first, count, source)
            self.split_across(to, layout, groups, count, source, columns, valid, i64(0), turned=False)

    def pack_rows(self, item: Value, a: Value, table: Value, i0: Value, height: Value, k_first: Value, count: Value,
                  to: Value) -> None:
        f, g, load, along = self.f, self.blocking, self.load_a, self.rows_along()
        layout, groups = self.rows_layout(), i64(self.groups)
        written = self.rows_written(height) if along else i64(SIDE)
        if lies_along(g.a_k, g.a_m) and not load:
            stride = i64(g.a_m[0][1] if g.a_m else 0)
            source = self.at(a, f.mul(i0, stride))
            self.split_along(to, layout, groups, count, source, stride, height, f.mul(i64(g.height), stride), written,
                             turned=not along)
        elif lies_across(g.a_k, g.a_m) and not load:
            self.split_across(to, layout, groups, count, self.at(a, i0), i64(g.a_k or 0), f.sub(i64(g.m), i0), i64(g.height),
                              turned=along)
        elif in_runs(g.a_m, self.target) and not load:
            self.split_runs(to, layout, groups, count, a, table, g.a_k, g.a_m, i0, height, g.m)
            if along:
                squares = f.mul(f.binary("udiv", f.add(count, i64(DEPTH - 1)), i64(DEPTH)), i64(g.pieces * self.groups))
                f.call(turn_function(f.module), [to, squares])
        elif g.pairs and listed(g.a_k, g.a_m, g.a_run, load is not None, self.target):
            self.split_listed(to, layout, groups, count, a, table, g.a_k, g.a_m, i0, height, g.m, written, turned=not along)
        else:
            source = self.region("lines")
            super().pack_rows(item, a, table, i0, height, k_first, count, source)
            if load and g.a_k == 1:
                self.split_along(to, layout, groups, count, source, i64(g.k_in_block), height, i64(0), written,
                                 turned=not along)
            else:
                lines = height if along else i64(g.a_line)  # nobody reads what is beyond
                self.split_across(to, layout, groups, count, source, i64(g.a_line), lines, i64(0), turned=along)

    def split_along(self, to: Value, layout: Layout, groups: Value, count: Value, source: Value, stride: Value, lines: Value,
                    ahead: Value, written: Value, *, turned: bool) -> None:
        """Write the pieces of a block of k, of `lines` lines along k."""
        f = self.f

        def part(k: Value, left: Value, t: Value) -> list[Value]:
            first = f.mul(t, i64(SIDE))
            rows, half = f.sub(lines, first), half_of(f, left)
            return [self.at(source, f.add(k, f.mul(first, stride))), stride, half, rows, rows, half, f.sub(left, half), ahead]

        self.split(to, layout, groups, count, written, part, turned)

    def split_listed(self, to: Value, layout: Layout, groups: Value, count: Value, source: Value, table: Value,
                     k_stride: int | None, axes: Axes, first: Value, width: Value, limit: int, written: Value, *, turned: bool
                     ) -> None:
        """The same of lines that begin anywhere, `width` of them from the flattened index `first` on."""
        f, lines = self.f, self.region("offsets")
        with f.loop(i64(0), f.mul(groups, i64(LANES))) as j:
            index = f.minimum(f.add(first, f.minimum(j, f.sub(width, i64(1)))), i64(limit - 1))
            f.store(flat_offset(f, index, axes), f.offset(lines, j, "i64"))

        def place(k: Value) -> Value:
            return k if k_stride == 1 else f.load(f.offset(table, f.minimum(k, f.sub(count, i64(1))), "i64"), "i64")

        def part(k: Value, left: Value, t: Value) -> list[Value]:
            half, low = half_of(f, left), place(k)
            pair = f.sub(place(f.add(k, half)), low)
            return [self.at(source, low), i64(0), pair, i64(SIDE), i64(SIDE), half, f.sub(left, half), i64(DEPTH),
                    f.offset(lines, f.mul(t, i64(LANES)), "i64")]

        self.split(to, layout, groups, count, written, part, turned, listed=True)

    def split_across(self, to: Value, layout: Layout, groups: Value, count: Value, source: Value, stride: Value, lines: Value,
                     ahead: Value, *, turned: bool) -> None:
        """The same of lines across k, of which `lines` elements are there."""
        self.split(to, layout, groups, count, i64(SIDE), self.across_k(source, stride, lines, ahead), turned)

    def across_k(self, source: Value, stride: Value, lines: Value, ahead: Value) -> Part:
        f = self.f

        def part(k: Value, left: Value, t: Value) -> list[Value]:
            first = f.mul(t, i64(LANES))
            lanes, half = f.sub(lines, first), half_of(f, left)
            return [self.at(source, f.add(f.mul(k, stride), first)), stride, f.mul(half, stride), half, f.sub(left, half),
                    lanes, lanes, ahead]

        return part

    def split_runs(self, to: Value, layout: Layout, groups: Value, count: Value, source: Value, table: Value,
                   k_stride: int | None, axes: Axes, first: Value, width: Value, limit: int) -> None:
        """The same of lines across k that lie in memory in runs, `width` of them from the flattened index `first` on."""
        f, g, runs = self.f, self.blocking, self.region("offsets")
        along, step = axes[-1]
        valid = f.minimum(width, f.sub(i64(limit), first))
        number = list_pieces(f, runs, first, valid, f.mul(groups, i64(LANES)), LANES, along,
                             lambda index: flat_offset(f, index, axes), whole=True)
        name = split_runs_function(f.module, g.pieces, step, k_stride is None)
        f.call(name, [to, *layout, source, runs, number, count, i64(k_stride or 0), table])

    def split(self, to: Value, layout: Layout, groups: Value, count: Value, height: Value, part: Part, turned: bool,
              listed: bool = False) -> None:
        f = self.f
        with f.loop(0, f.binary("udiv", f.add(count, i64(DEPTH - 1)), i64(DEPTH))) as q:
            k, place = f.mul(q, i64(DEPTH)), f.offset(to, f.mul(q, layout.deep), "i8")
            self.split_squares(place, layout, groups, k, f.sub(count, k), height, part, turned, listed)

    def split_squares(self, to: Value, layout: Layout, groups: Value, k: Value, left: Value, height: Value, part: Part,
                      turned: bool, listed: bool = False) -> None:
        """Squares of DEPTH k, or of the `left` ones, side by side."""
        f = self.f
        name = split_function(f.module, self.blocking.pieces, turned, listed)

        def square(t: Value) -> None:
            f.call(name, [f.offset(to, f.mul(t, layout.beside), "i8"), layout.apart, layout.piece, height, *part(k, left, t)])

        if groups.number is None:
            with f.loop(i64(0), groups) as t:
                square(t)
        else:
            for number in range(groups.number):
                square(i64(number))
