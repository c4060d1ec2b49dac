"""Contractions whose tiles are finished while the next tile is summed.

The optimizer's square roots and divisions keep the divider busy, and the multiply-adds of a contraction the rest of a
core; done one after the other, each waits for the other.  Here every few k of a tile's sums also finish one vector of the
tile before, which waits in scratch memory; the last tile finishes by itself.

Knows tiles and the order of their loops.  Must not know what finishing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from graphc.runtime.native.axes import Contraction
from graphc.runtime.native.blocks import Blocking
from graphc.runtime.native.emit import SIZES, Function, Value, constant, i64
from graphc.runtime.native.finished import Finish, Prefetch, Tile
from graphc.runtime.native.microkernel import Walk, fetch_to_write, write_sums
from graphc.runtime.native.operands import share_sets, ways
from graphc.runtime.native.outline import outlined
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import Load
from graphc.runtime.native.tiles import TileLoops

MANY = 1024  # tiles, of which it does not count how long the last one takes


class FinishVector(Protocol):
    """Finishes one vector of a row of a tile, from a column on; lanes beyond the mask are not there."""

    def __call__(self, f: Function, tile: Tile, row: Value, column: Value, mask: Value | None, /) -> None: ...


class Waiting:
    """The tile that is summed and not finished, in memory: no rows while there is none."""

    def __init__(self, f: Function, width: int) -> None:
        self.f, self.width = f, width
        self.fields = f.stack("i64", 7)
        self.put(Value("null", "ptr"), *[i64(0)] * 6)

    def put(self, pointer: Value, *numbers: Value) -> None:
        """numbers: rows, columns, i0, j0, batch, and where in scratch the next tile goes."""
        for place, value in enumerate((pointer, *numbers)):
            self.f.store(value, self.f.offset(self.fields, i64(place), "i64"))

    def tile(self) -> Tile:
        pointer = self.f.load(self.fields, "ptr")
        rows, columns, i0, j0, batch = (self.field(place) for place in range(1, 6))
        return Tile(pointer, self.width, rows, columns, i0, j0, batch, i64(0), i64(0), self.width)

    def free(self) -> Value:
        """Where in scratch the next tile goes."""
        return self.field(6)

    def field(self, place: int) -> Value:
        return self.f.load(self.f.offset(self.fields, i64(place), "i64"), "i64")

    def finish(self, f: Function, finish: Finish | None) -> None:
        """What nobody follows is finished by itself."""
        assert finish is not None
        tile = self.tile()
        with f.when(f.compare("icmp sgt", tile.rows, i64(0))):
            finish(f, tile)




def fetch_row(f: Function, streams: Sequence[tuple[Value, int]], row: Value, size: int) -> None:
    """Fetch `size` bytes of a row of each stream (address, bytes between rows), to be written."""
    for address, stride in streams:
        fetch_to_write(f, f.offset(address, f.mul(row, i64(stride)), "i8"), size)


class OverlappedTiles(TileLoops):
    """The loops of a contraction that keeps one finished sum waiting.

    All tiles have the same size.  The last row tile and the last panel begin early enough to have it; what belongs to
    their neighbours they sum, but do not finish.
    """

    def __init__(self, f: Function, target: Target, c: Contraction, blocking: Blocking, a: Value, b: Value,
                 scratch: Value, finish: Finish, prefetch: Prefetch | None, load_a: Load | None, load_b: Load | None,
                 vector: FinishVector) -> None:
        super().__init__(f, target, c, blocking, a, b, scratch, finish, None, prefetch, load_a, load_b)
        self.vector = vector

    def emit(self, thread: Value, threads: Value) -> None:
        f = self.f
        self.waiting = Waiting(f, self.blocking.vectors * self.blocking.lanes)
        super().emit(thread, threads)
        g = self.blocking
        many = g.batch * g.row_tiles * g.panels >= MANY
        with outlined(f, "finish", when=g.coarse, care=0 if many else 2):  # nobody follows
            tile = self.waiting.tile()
            with f.loop(i64(0), tile.rows) as row, f.loop(i64(0), tile.columns, self.blocking.lanes) as column:
                self.finish_vector(tile, row, column)

    def tile_extent(self, row_tile: Value) -> tuple[Value, Value, Value]:
        f, g = self.f, self.blocking
        i0 = f.minimum(f.mul(row_tile, i64(g.height)), i64(g.m - g.height))
        return i0, i64(g.height), i64(0) if g.pack_a else f.mul(i0, i64(g.a_row))

    def panel_extent(self, panel: Value) -> tuple[Value, Value]:
        f, g = self.f, self.blocking
        width = g.vectors * g.lanes
        return f.minimum(f.mul(panel, i64(width)), i64(g.n - width)), i64(width)

    def emit_tile(self, item: Value, row_tile: Value, row_first: Value, panel: Value, panel_first: Value, i0: Value,
                  height: Value, j0: Value, columns: Value, out: Value | None, k_block: Value, a: Value, b: Value,
                  count: Value, a_table: Value, b_table: Value) -> None:
        f, g = self.f, self.blocking
        width, itemsize = g.vectors * g.lanes, SIZES[self.c.dtype]
        size = g.height * width
        several = g.k_blocks > 1
        last = f.compare("icmp eq", k_block, i64(g.k_blocks - 1)) if several else constant(True, "i1")
        first_row, first_column = f.sub(f.mul(row_tile, i64(g.height)), i0), f.sub(f.mul(panel, i64(width)), j0)
        free = self.waiting.free()
        start = result = self.at(self.region("tile"), free)
        if several:
            place = f.add(f.mul(f.sub(row_tile, row_first), i64(g.panels_in_block)), f.sub(panel, panel_first))
            start = self.at(self.region("partial"), f.mul(place, i64(size)))
            result = f.select(last, result, start)
        streams: list[tuple[Value, int]] = [(start, width * itemsize)] if several else []
        if self.prefetch:
            own = Tile(result, width, height, columns, i0, j0, item, row_tile, panel, width)
            streams += self.prefetch(f, own)
        accumulate = f.compare("icmp ne", k_block, i64(0)) if several else last
        kernel = self.micro(g.height, g.vectors)
        strides = i64(kernel.a_k or 0), i64(kernel.b_k or 0)
        with outlined(f, "overlap", *strides, when=g.coarse) as (a_k, b_k):
            sums = self.sum_beside(streams, a, a_k, b, b_k, self.steps(count), a_table, b_table)
            write_sums(f, kernel, sums, accumulate, start, i64(width), result, i64(width))
        rows = f.sub(i64(g.height), first_row)
        self.waiting.put(self.at(result, f.add(f.mul(first_row, i64(width)), first_column)),
                         f.select(last, rows, i64(0)) if several else rows, f.sub(i64(width), first_column),
                         f.add(i0, first_row), f.add(j0, first_column), item, f.sub(i64(size), free))

    def sum_beside(self, streams: Sequence[tuple[Value, int]], a: Value, a_k: Value, b: Value, b_k: Value, count: Value,
                   a_table: Value, b_table: Value) -> list[Value]:
        """The sums of a tile; meanwhile the tile before is finished, and the rows of the streams are fetched.

        Where these share sets of the first-level cache, which would not keep them until they are needed, they are fetched into
        the second one, and from there a row ahead.
        """
        f, g = self.f, self.blocking
        before, itemsize = self.waiting.tile(), SIZES[self.c.dtype]
        walk = Walk(f, self.target, self.micro(g.height, g.vectors), a, b, a_table, b_table, count, b_k=b_k, a_k=a_k)
        vectors = f.binary("udiv", f.add(before.columns, i64(g.lanes - 1)), i64(g.lanes))
        crowded = g.height > ways(self.target) and any(share_sets(stride, 1) for _, stride in streams)
        nearer = self.prefetch(f, before) if crowded and self.prefetch else ()

        def event(state: Sequence[Value]) -> list[Value]:
            row, column = state
            for address, stride in nearer:
                line = f.offset(address, f.mul(f.add(row, i64(1)), i64(stride)), "i8")
                fetch_to_write(f, self.at(line, column), g.lanes * itemsize)
            for address, stride in streams:
                line = f.offset(address, f.mul(row, i64(stride)), "i8")
                fetch_to_write(f, self.at(line, column), g.lanes * itemsize, near=not crowded)
            self.finish_vector(before, row, column)
            following = f.add(column, i64(g.lanes))
            ends = f.compare("icmp sge", following, before.columns)
            return [f.select(ends, f.add(row, i64(1)), row), f.select(ends, i64(0), following)]

        return walk.all_beside(g.overlap, f.mul(before.rows, vectors), [i64(0), i64(0)], event)

    def finish_vector(self, tile: Tile, row: Value, column: Value) -> None:
        f, g = self.f, self.blocking
        mask = None
        if g.n % g.lanes:
            bits = f.sub(f.binary("shl", i64(1), tile.columns), i64(1))
            mask = f.bits_mask(f.binary("lshr", bits, column), g.lanes)
        self.vector(f, tile, row, column, mask)


def loops_of(g: Blocking) -> tuple[type[TileLoops], type[OverlappedTiles]]:
    """What writes the loops around tiles, and around tiles that are finished beside the next one's sums."""
    if not g.pairs:
        return TileLoops, OverlappedTiles
    from graphc.runtime.native.pairs import OverlappedPairs, PairedTiles  # with the first contraction that multiplies pairs

    return PairedTiles, OverlappedPairs
