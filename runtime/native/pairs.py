"""Contractions of float32 on vectors that multiply pairs of bfloat16: register tiles, each lane of which is a pair.

Knows how packed pairs are laid out for micro-kernels, which walk along them as they do along float32 numbers.  Must not know
how a `Blocking` was chosen, or what a finished tile is used for.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Value, i64
from graphc.runtime.native.microkernel import MicroKernel
from graphc.runtime.native.overlap import OverlappedTiles
from graphc.runtime.native.pieces import SIDE, Layout
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

    def steps(self, count: Value) -> Value:
        return self.f.binary("lshr", self.f.add(count, i64(1)), i64(1))

    def micro(self, height: int, vectors: int, streams: int = 0) -> MicroKernel:
        g, kernel = self.blocking, super().micro(height, vectors, streams)
        a_row, a_k = (g.pairs, 1) if g.along else (1, g.a_line)
        return kernel._replace(a_row=a_row, a_k=a_k, paired=True)


class OverlappedPairs(PairedTiles, OverlappedTiles):
    """The same where one finished sum waits for the next tile."""
