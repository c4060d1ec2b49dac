"""Contractions of float32 on vectors that multiply pairs of bfloat16: register tiles, each lane of which is a pair.

Knows how packed pairs are laid out for micro-kernels, which walk along them as they do along float32 numbers.  Must not know
how a `Blocking` was chosen, or what a finished tile is used for.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Value, i64
from graphc.runtime.native.microkernel import MicroKernel
from graphc.runtime.native.operands import lies_across
from graphc.runtime.native.overlap import OverlappedTiles
from graphc.runtime.native.pieces import DEPTH, LANES, SIDE, Layout
from graphc.runtime.native.sharing import quotient
from graphc.runtime.native.split_operands import SplitOperands
from graphc.runtime.native.tiles import TileLoops

BYTES = 4  # of a pair


class PairedTiles(SplitOperands, TileLoops):
    """The loops of one contraction, where packed operands are pairs."""

    def rows_along(self) -> bool:
        return self.blocking.along

    def rows_written(self, height: Value) -> Value:
        return height

    def rows_layout(self) -> Layout:
        g = self.blocking
        if g.along:
            return Layout(deep=i64(SIDE * BYTES), beside=i64(0), apart=i64(g.pairs * BYTES), piece=i64(0))
        return self.columns_layout(i64(g.a_line))

    def columns_layout(self, columns: Value) -> Layout:
        apart = self.f.mul(columns, i64(BYTES))
        return Layout(deep=self.f.mul(i64(SIDE), apart), beside=i64(SIDE * BYTES), apart=apart, piece=i64(0))

    def pack_whole_panels(self, b: Value, table: Value, k_block: Value, panels: tuple[Value, Value], count: Value
                          ) -> tuple[Value, Value] | None:
        """Panels of lines across k side by side, DEPTH k of all of them at a time: in few pages, in the order of memory."""
        f, g = self.f, self.blocking
        if not lies_across(g.b_k, g.b_n) or self.load_b:
            return panels
        with f.loop(0, f.binary("udiv", f.add(count, i64(DEPTH - 1)), i64(DEPTH))) as q, f.loop(*panels) as panel:
            j0, columns = self.panel_extent(panel)
            k, valid = f.mul(q, i64(DEPTH)), self.columns_there(j0, columns)
            layout, groups = self.columns_layout(columns), quotient(f, columns, LANES)[0]
            to = f.offset(self.packed_panel(k_block, panel, panels[0]), f.mul(q, layout.deep), "i8")
            part = self.across_k(self.at(b, j0), i64(g.b_k or 0), valid, columns)
            self.split_squares(to, layout, groups, k, f.sub(count, k), i64(SIDE), part, turned=False)
        return None

    def steps(self, count: Value) -> Value:
        return self.f.binary("lshr", self.f.add(count, i64(1)), i64(1))

    def micro(self, height: int, vectors: int, streams: bool = False) -> MicroKernel:
        g, kernel = self.blocking, super().micro(height, vectors, streams)
        a_row, a_k = (g.pairs, 1) if g.along else (1, g.a_line)
        return kernel._replace(a_row=a_row, a_k=a_k, paired=True)


class OverlappedPairs(PairedTiles, OverlappedTiles):
    """The same where one finished sum waits for the next tile."""
