"""Contractions of float32 on a matrix unit, which multiplies bfloat16: operands are packed as sums of pieces.

Knows how a `Blocking` becomes loops around matrix registers.  Must not know how it was chosen, what the pieces are made
of, or what a finished tile is used for.

While a tile's products run in the matrix unit, the vector units finish the tile before, where the caller can finish
vector by vector.  A tile that is not finite is computed again from the operands by vector multiply-adds, since several
pieces cannot tell infinity from NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.runtime.native import matrix_unit as unit
from graphc.runtime.native.axes import Contraction
from graphc.runtime.native.blocks import Blocking
from graphc.runtime.native.emit import SIZES, Function, Value, constant, i64
from graphc.runtime.native.finished import Finish, Prefetch, Tile
from graphc.runtime.native.microkernel import MicroKernel, TileShape, tile_function
from graphc.runtime.native.overlap import FinishVector, Waiting, fetch_row
from graphc.runtime.native.pieces import (
    DEPTH,
    LANES,
    PRODUCTS,
    REGISTER_BYTES,
    SIDE,
    Layout,
    finite_function,
    registers_layout,
)
from graphc.runtime.native.split_operands import SplitOperands
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import Load, flat_offset
from graphc.runtime.native.tiles import TileLoops

EXACT_ROWS = 8  # rows of a vector tile that computes a part of a matrix tile again
NO_TABLE = Value("null", "ptr")


class MatrixTiles(SplitOperands, TileLoops):
    """The loops of one contraction; `vector`, where given, finishes a tile while the next one is multiplied."""

    def __init__(self, f: Function, target: Target, c: Contraction, blocking: Blocking, a: Value, b: Value,
                 scratch: Value, finish: Finish, prefetch: Prefetch | None, load_a: Load | None, load_b: Load | None,
                 vector: FinishVector | None) -> None:
        super().__init__(f, target, c, blocking, a, b, scratch, finish, None, prefetch, load_a, load_b)
        self.vector = vector
        self.down, self.across = blocking.height // SIDE, blocking.vectors
        self.groups = self.down
        self.width = blocking.vectors * LANES

    def emit(self, thread: Value, threads: Value) -> None:
        f = self.f
        unit.configure(f)
        if self.vector:
            self.waiting = Waiting(f, self.width)
        super().emit(thread, threads)
        unit.release(f)
        if self.vector:
            self.waiting.finish(f, self.finish)

    def tile_extent(self, row_tile: Value) -> tuple[Value, Value, Value]:
        f, g = self.f, self.blocking
        i0 = f.mul(row_tile, i64(g.height))
        return i0, f.minimum(i64(g.height), f.sub(i64(g.m), i0)) if g.m % g.height else i64(g.height), i64(0)

    def rows_along(self) -> bool:
        return True

    def rows_written(self, height: Value) -> Value:
        return i64(SIDE)

    def rows_layout(self) -> Layout:
        return registers_layout(self.blocking.pieces, self.down)

    def columns_layout(self, columns: Value) -> Layout:
        return registers_layout(self.blocking.pieces, self.across)

    # -- tiles -------------------------------------------------------------------------------------------------

    def emit_tile(self, item: Value, row_tile: Value, row_first: Value, panel: Value, panel_first: Value, i0: Value,
                  height: Value, j0: Value, columns: Value, out: Value | None, k_block: Value, a: Value, b: Value,
                  count: Value, a_table: Value, b_table: Value) -> None:
        f, g = self.f, self.blocking
        several, size = g.k_blocks > 1, g.height * self.width
        last = f.compare("icmp eq", k_block, i64(g.k_blocks - 1)) if several else constant(True, "i1")
        before: Tile | None = None
        free = i64(0)
        if self.vector:
            before, free = self.waiting.tile(), self.waiting.free()
        stride = g.panels * self.width if g.gathers_rows else self.width
        result = self.at(self.region("rows"), j0) if g.gathers_rows else self.at(self.region("tile"), free)
        start, to, to_stride = result, result, i64(stride)
        if several:
            place = f.add(f.mul(f.sub(row_tile, row_first), i64(g.panels_in_block)), f.sub(panel, panel_first))
            start = self.at(self.region("partial"), f.mul(place, i64(size)))
            to, to_stride = f.select(last, result, start), f.select(last, to_stride, i64(self.width))
        valid = f.minimum(columns, f.sub(i64(g.n), j0)) if g.n % self.width else i64(self.width)
        tile = Tile(result, stride, height, valid, i0, j0, item, row_tile, panel, self.width)
        streams = self.prefetch(f, tile) if self.prefetch and self.vector else ()
        self.multiply(a, b, count, start, k_block, before, streams)
        for r in range(self.down):
            for t in range(self.across):
                first = f.add(f.mul(to_stride, i64(r * SIDE)), i64(t * LANES))
                unit.store(f, r * self.across + t, self.at(to, first), f.mul(to_stride, i64(SIZES[self.c.dtype])))
        if several:
            with f.when(last):
                self.check(tile)
        else:
            self.check(tile)
        if self.vector:
            rows = f.select(last, height, i64(0)) if several else height
            self.waiting.put(result, rows, valid, i0, j0, item, f.sub(i64(size), free))
        elif not g.gathers_rows:
            self.finish_after(k_block, tile)

    def multiply(self, a: Value, b: Value, count: Value, start: Value, k_block: Value, before: Tile | None,
                 streams: Sequence[tuple[Value, int]]) -> None:
        """The sums of a block of k in the first registers; meanwhile the tile `before` is finished."""
        f, g = self.f, self.blocking
        sums = [(r, t) for r in range(self.down) for t in range(self.across)]
        zeros, more, ready = f.label("zeros"), f.label("more"), f.label("ready")
        if g.k_blocks > 1:
            f.branch_if(f.compare("icmp eq", k_block, i64(0)), zeros, more)
            f.block(more)
            for r, t in sums:
                unit.load(f, r * self.across + t, self.at(start, i64(r * SIDE * self.width + t * LANES)), i64(self.width * 4))
            f.branch(ready)
            f.block(zeros)
        for r, t in sums:
            unit.zero(f, r * self.across + t)
        if g.k_blocks > 1:
            f.branch(ready)
            f.block(ready)
        blocks = f.binary("udiv", f.add(count, i64(DEPTH - 1)), i64(DEPTH))
        least = g.k_inner - (g.k_inner_blocks - 1) * g.k_in_block
        rows_each = -(-g.height // -(-least // DEPTH))
        with f.loop(0, blocks) as q:
            if before and self.vector:
                self.finish_rows(before, f.mul(q, i64(rows_each)), rows_each, streams)
            self.step(self.panel(a, q, self.down), self.panel(b, q, self.across))

    def panel(self, packed: Value, q: Value, registers: int) -> Value:
        return self.f.offset(packed, self.f.mul(q, i64(self.blocking.pieces * registers * REGISTER_BYTES)), "i8")

    def finish_rows(self, tile: Tile, first: Value, count: int, streams: Sequence[tuple[Value, int]]) -> None:
        """Finish some rows of a tile; and fetch those of the streams, which belong to the next one."""
        f, g = self.f, self.blocking
        assert self.vector is not None
        whole = g.n % self.width == 0
        masks = [None if whole else f.lane_mask(f.sub(tile.columns, i64(t * LANES)), LANES) for t in range(self.across)]
        with f.loop(first, f.minimum(f.add(first, i64(count)), tile.rows)) as row:
            fetch_row(f, streams, row, self.width * SIZES[self.c.dtype])
            for t in range(self.across):
                self.vector(f, tile, row, i64(t * LANES), masks[t])

    def step(self, a: Value, b: Value) -> None:
        """All products of the pieces of one register's depth of k."""
        f, down, across = self.f, self.down, self.across
        first_a, first_b = down * across, down * across + down
        held: dict[str, int] = {}

        def fetch(side: str, pointer: Value, piece: int, registers: int, first: int) -> None:
            if held.get(side) != piece:
                held[side] = piece
                for t in range(registers):
                    unit.load(f, first + t, f.offset(pointer, i64((piece * registers + t) * REGISTER_BYTES), "i8"), i64(64))

        for of_a, of_b in PRODUCTS[self.blocking.pieces]:
            fetch("a", a, of_a, down, first_a)
            fetch("b", b, of_b, across, first_b)
            for r in range(down):
                for t in range(across):
                    unit.multiply_add(f, r * across + t, first_a + r, first_b + t)

    # -- what is not finite ------------------------------------------------------------------------------------

    def check(self, tile: Tile) -> None:
        """Where a sum is infinite or no number, or a piece could not hold an operand: the tile from its operands."""
        f, g = self.f, self.blocking
        if g.pieces == 1:  # which holds infinity and NaN
            return
        fine = f.emit(f"call i1 @{finite_function(f.module)}({tile.pointer}, {i64(tile.stride)}, {tile.rows}, "
                      f"{i64(self.across)})", "i1")
        with f.when(f.binary("xor", fine, constant(True, "i1"))), f.loop(0, g.k_blocks) as k_block:
            a = self.at(self.a, flat_offset(f, tile.batch, g.a_batch))
            b = self.at(self.b, flat_offset(f, tile.batch, g.b_batch))
            a, a_table, b, b_table, k_first, count = self.k_extent(a, b, k_block)
            rows, columns, stored = self.region("lines"), self.region("columns"), i64(self.width)
            TileLoops.pack_columns(self, tile.batch, b, b_table, tile.j0, stored, k_first, count, columns)
            TileLoops.pack_rows(self, tile.batch, a, a_table, tile.i0, tile.rows, k_first, count, rows)
            a_row, a_k = (g.k_in_block, 1) if self.load_a and g.a_k == 1 else (1, g.height)
            kernel = MicroKernel(TileShape(self.c.dtype, EXACT_ROWS, self.across, LANES), a_row, a_k, self.width, False, True)
            for r in range(0, g.height, EXACT_ROWS):
                part = self.at(tile.pointer, i64(r * tile.stride))
                f.call(tile_function(f.module, self.target, kernel),
                       [self.at(rows, i64(r * a_row)), columns, part, i64(tile.stride), part, i64(tile.stride), count,
                        f.compare("icmp ne", k_block, i64(0)), i64(LANES), NO_TABLE, NO_TABLE, NO_TABLE, i64(self.width)])
