"""The operands of a tiled contraction: where rows and panels begin, and how they are copied or computed into scratch memory.

Knows extents, strides and the packing routines.  Must not know the order of tiles, threads, or what becomes of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.runtime.native.axes import Axes, Contraction, adjacent, pieces_run
from graphc.runtime.native.blocks import Blocking
from graphc.runtime.native.emit import SIZES, Function, Value, i64
from graphc.runtime.native.operands import LINE, share_sets, ways
from graphc.runtime.native.outline import outlined
from graphc.runtime.native.packing import list_pieces, pack_general, pack_lines, pack_panels, pack_pieces, pack_transposed
from graphc.runtime.native.sharing import maximum, quotient
from graphc.runtime.native.target import Target

FAR_SHARE = 8  # the part (one in so many) of the second-level cache beyond which lines that are turned are fetched
FETCHED_TOGETHER = 8  # lines that are fetched in one turn of a loop: the code of all of them would be long

# The elements of an operand that is computed: (function, flattened index in m or n, in k, in the batch, lanes).  Lanes
# run along k where the operand's k is one axis of stride 1, else along m or n; 0 lanes ask for one scalar.
Load = Callable[[Function, Value, Value, Value, int], Value]


def flat_offset(f: Function, index: Value, axes: Axes) -> Value:
    """The offset of a row-major flattened index over the axes."""
    total, rest = i64(0), index
    for place, (size, stride) in reversed(list(enumerate(axes))):
        coordinate = rest if place == 0 else f.binary("urem", rest, i64(size))
        total = f.add(total, f.mul(coordinate, i64(stride)))
        if place:
            rest = f.binary("udiv", rest, i64(size))
    return total


def lines_together(axes: Axes, lanes: int, itemsize: int, target: Target) -> int:
    """How many lines, which begin at the places of the axes, are turned at once: no more than a set of the cache holds."""
    crowded = bool(axes) and share_sets(axes[-1][1], itemsize)
    return min(lanes, 1 << (ways(target).bit_length() - 1)) if crowded else lanes


class PackedOperands:
    """A and B of one contraction, and the thread's memory into which their tiles and panels are packed."""

    def __init__(self, f: Function, target: Target, c: Contraction, blocking: Blocking, scratch: Value,
                 load_a: Load | None, load_b: Load | None) -> None:
        self.f, self.target, self.c, self.blocking, self.scratch = f, target, c, blocking, scratch
        self.load_a, self.load_b = load_a, load_b

    def region(self, name: str) -> Value:
        return self.f.offset(self.scratch, i64(self.blocking.regions[name]), "i8")

    def at(self, pointer: Value, offset: Value) -> Value:
        return self.f.offset(pointer, offset, self.c.dtype)

    def packed_rows(self, k_block: Value, row_tile: Value, first: Value) -> Value:
        """Where a row tile is packed, in the block whose first row tile is `first`."""
        f, g = self.f, self.blocking
        if g.rows_stay:
            place = row_tile if g.by_block else f.sub(row_tile, first)
            if not g.by_depth:
                place = f.add(f.mul(k_block, i64(g.tiles_in_block)), place)
        elif g.keeps and not g.split_rows:
            place = f.add(f.mul(k_block, i64(g.row_tiles)), row_tile)
        else:
            return self.region("a")
        return f.offset(self.region("a"), f.mul(place, i64(g.row_tile_bytes)), "i8")

    def packed_panel(self, k_block: Value, panel: Value, first: Value) -> Value:
        """Where a panel is packed, in the block whose first panel is `first`."""
        f, g = self.f, self.blocking
        place = f.sub(panel, first)
        if g.keeps and g.split_rows:
            place = f.add(f.mul(k_block, i64(g.panels)), panel)
        return f.offset(self.region("b"), f.mul(place, i64(g.panel_bytes)), "i8")

    def pack_whole_panels(self, b: Value, table: Value, k_block: Value, panels: tuple[Value, Value], count: Value
                          ) -> tuple[Value, Value] | None:
        """Pack the widest panels of a block of k line by line; the panels that are left, if any."""
        f, g = self.f, self.blocking
        width = g.vectors * g.lanes
        whole = min(g.wide or g.panels, g.n // width)
        if self.load_b or not adjacent(g.b_n) or whole < 2:
            return panels
        stop = panels[1] if whole == g.panels else f.minimum(panels[1], i64(whole))
        begin = f.minimum(panels[0], stop)
        name = pack_panels(f.module, self.c.dtype, g.lanes, g.vectors, g.b_k is None)
        to = self.packed_panel(k_block, begin, panels[0])
        f.call(name, [to, i64(g.panel_bytes // SIZES[self.c.dtype]), self.at(b, f.mul(begin, i64(width))), Value("null", "ptr"),
                      i64(0), f.sub(stop, begin), count, i64(g.b_k or 0), table])
        return None if whole == g.panels else (maximum(f, panels[0], stop), panels[1])

    def pack_columns(self, item: Value, b: Value, table: Value, j0: Value, columns: Value, k_first: Value, count: Value,
                     to: Value) -> None:
        """Pack a panel of a block of k, `b` being the first element of the block."""
        g = self.blocking
        with outlined(self.f, "pack", when=g.coarse and not (adjacent(g.b_n) and self.load_b is None)):
            if self.load_b:
                self.load_columns(self.load_b, item, j0, columns, k_first, count, to)
            else:
                self.pack(b, table, g.b_k, g.b_n, j0, columns, columns, g.n, to, columns, count, g.b_run)

    def pack_rows(self, item: Value, a: Value, table: Value, i0: Value, height: Value, k_first: Value, count: Value,
                  to: Value) -> None:
        """Pack the rows of a tile of a block of k, `a` being the first element of the block."""
        g, step = self.blocking, i64(self.blocking.a_line)
        with outlined(self.f, "pack", when=g.coarse and not (adjacent(g.a_m) and self.load_a is None)):
            if self.load_a:
                self.load_rows(self.load_a, item, i0, height, k_first, count, to)
            else:
                self.pack(a, table, g.a_k, g.a_m, i0, height, step, g.m, to, step, count, g.a_run)

    def fetch_rows(self, a: Value, i0: Value, height: Value, place: Value) -> None:
        """Fetch a part of the rows of the next tile beside the panel at `place` of the block.

        They are read, or packed, in short pieces of many rows, which no processor foresees: it would wait for memory, and
        longer for what another core has just written.
        """
        f, g = self.f, self.blocking
        first = f.mul(place, i64(g.fetched))
        following = f.add(i0, height)
        if g.a_k == 1:  # lines of memory of every row
            step = LINE // SIZES[self.c.dtype]
            rows, apart = g.height, g.a_row
            elements: Sequence[int] = range(0, g.fetched * step, step)
            start = self.at(a, f.add(f.mul(following, i64(g.a_row)), f.mul(first, i64(step))))
        else:
            rows, apart, elements = g.fetched, g.a_k or 0, (0, g.height - 1)
            start = self.at(a, f.add(f.mul(first, i64(apart)), f.mul(following, i64(g.a_row))))
        each = max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * len(elements) <= FETCHED_TOGETHER))
        with f.loop(0, rows, each) as row:
            line = self.at(start, f.mul(row, i64(apart)))
            for r in range(each):
                for element in elements:
                    f.prefetch(self.at(line, i64(r * apart + element)), locality=2)

    def fetch_ahead(self, b: Value, k_block: Value, place: Value, j0: Value) -> None:
        """Fetch a part of the next block of B beside the tile at `place` of its panel: some rows, as wide as the panel.

        `b` is the first element of this block.  Else the first row tile of each block would wait for memory.
        """
        f, g = self.f, self.blocking
        first = f.add(f.mul(place, i64(g.ahead)), i64(g.k_in_block))
        more = f.compare("icmp slt", k_block, i64(g.k_blocks - 1))
        line = self.at(b, f.add(j0, f.mul(first, i64(g.b_k or 0))))
        with f.when(more), f.loop(0, g.ahead) as k:
            start = self.at(line, f.mul(k, i64(g.b_k or 0)))
            for v in range(g.vectors):
                f.prefetch(self.at(start, i64((v + 1) * g.lanes - 1)), locality=2)

    def tile_extent(self, row_tile: Value) -> tuple[Value, Value, Value]:
        """(first flattened row, rows, offset of the first row in A) of a row tile."""
        f, g = self.f, self.blocking
        segment, place = quotient(f, row_tile, g.segment_tiles, g.row_tiles)
        inside, height = self.even_split(place, g.height, g.tall)
        i0 = f.add(f.mul(segment, i64(g.segment)), inside)
        if g.pack_a:
            return i0, height, i64(0)
        return i0, height, f.add(flat_offset(f, segment, g.a_segments), f.mul(inside, i64(g.a_row)))

    def panel_extent(self, panel: Value) -> tuple[Value, Value]:
        """(first flattened column, columns padded to whole registers) of a panel."""
        f, g = self.f, self.blocking
        stretch, place = quotient(f, panel, g.stretch_panels, g.panels) if g.stretch and not g.stacked else (i64(0), panel)
        first, vectors = self.even_split(place, g.vectors, g.wide)
        if g.stacked:
            return f.mul(first, i64(g.stretch)), f.mul(vectors, i64(g.lanes))
        return f.add(f.mul(stretch, i64(g.stretch)), f.mul(first, i64(g.lanes))), f.mul(vectors, i64(g.lanes))

    def columns_of(self, panel: Value, j0: Value, columns: Value) -> tuple[Value, Value]:
        """(columns, those of the last vector or more) of a panel that are there; `columns` fill its registers."""
        f, g = self.f, self.blocking
        if g.stacked:
            return f.mul(self.even_split(panel, g.vectors, g.wide)[1], i64(g.stretch)), i64(g.stretch)
        end = f.mul(f.add(quotient(f, panel, g.stretch_panels, g.panels)[0], i64(1)), i64(g.stretch)) if g.stretch else i64(g.n)
        left = f.sub(end, j0)
        valid = f.minimum(columns, left) if (g.stretch or g.n) % g.lanes else columns
        return valid, f.sub(left, f.sub(columns, i64(g.lanes)))

    def even_split(self, place: Value, size: int, larger: int) -> tuple[Value, Value]:
        """(start, size) of part `place` where the first `larger` parts have `size` items and the others one less."""
        f = self.f
        if not larger:
            return f.mul(place, i64(size)), i64(size)
        start = f.add(f.mul(place, i64(size - 1)), f.minimum(place, i64(larger)))
        if place.number is not None:
            return start, i64(size if place.number < larger else size - 1)
        return start, f.select(f.compare("icmp slt", place, i64(larger)), i64(size), i64(size - 1))

    def pack(self, source: Value, table: Value, k_stride: int | None, axes: Axes, first: Value, width: Value,
             padded: Value, limit: int, to: Value, to_stride: Value, count: Value, run: int = 0) -> None:
        """Copy `width` lines of an operand from flattened index `first` on, `count` deep."""
        f, g, dtype = self.f, self.blocking, self.c.dtype
        by_table = k_stride is None
        if adjacent(axes) and limit > 1:
            name = pack_lines(f.module, dtype, g.lanes, by_table, self.target.has_masks)
            valid = f.minimum(width, f.sub(i64(limit), first))
            f.call(name, [to, to_stride, self.at(source, first), Value("null", "ptr"), valid, padded, count,
                          i64(k_stride or 0), table])
            return
        offsets = self.region("offsets")
        along = pieces_run(axes) if self.target.has_masks else 0
        if along and (by_table or k_stride != 1 or along >= g.lanes):
            number = list_pieces(f, offsets, first, f.minimum(width, f.sub(i64(limit), first)), padded, g.lanes, along,
                                 lambda index: flat_offset(f, index, axes))
            name = pack_pieces(f.module, dtype, g.lanes, axes[-1][1], by_table)
            f.call(name, [to, to_stride, source, offsets, number, padded, count, i64(k_stride or 0), table])
            return
        with f.loop(i64(0), f.mul(f.binary("udiv", f.add(padded, i64(g.lanes - 1)), i64(g.lanes)), i64(g.lanes))) as j:
            index = f.minimum(f.add(first, f.minimum(j, f.sub(width, i64(1)))), i64(limit - 1))
            f.store(flat_offset(f, index, axes), f.offset(offsets, j, "i64"))
        if run:
            name = pack_transposed(f.module, dtype, g.lanes, g.lanes)
            with f.loop(i64(0), count, run) as k:
                line = self.at(source, f.load(f.offset(table, k, "i64"), "i64"))
                f.call(name, [self.at(to, f.mul(k, to_stride)), to_stride, line, offsets, width, padded, i64(run),
                              i64(1), table])
            return
        if k_stride == 1:
            far = limit * g.k_inner * SIZES[dtype] > self.target.l2_bytes // FAR_SHARE
            whole = to_stride.number is None or to_stride.number % g.lanes == 0  # else lines are written one after the other
            together = lines_together(axes, g.lanes, SIZES[dtype], self.target) if whole else g.lanes
            name = pack_transposed(f.module, dtype, g.lanes, together, far)
        else:
            name = pack_general(f.module, dtype, by_table)
        f.call(name, [to, to_stride, source, offsets, width, padded, count, i64(k_stride or 0), table])

    def load_rows(self, load: Load, item: Value, i0: Value, height: Value, k_first: Value, count: Value,
                  to: Value) -> None:
        """Compute rows of A: row by row where lanes run along k, which the micro-kernel reads as well; else packed."""
        f, g = self.f, self.blocking
        if g.a_k == 1:
            self.fill(lambda r, k, lanes: load(f, f.add(i0, r), f.add(k_first, k), item, lanes), height, count, to,
                      i64(g.k_in_block))
        else:
            self.fill(lambda k, r, lanes: load(f, f.add(i0, r), f.add(k_first, k), item, lanes), count, height, to,
                      i64(g.a_line), adjacent(g.a_m))

    def load_columns(self, load: Load, item: Value, j0: Value, columns: Value, k_first: Value, count: Value,
                     to: Value) -> None:
        """Compute and pack columns of B."""
        f, g = self.f, self.blocking
        valid = f.minimum(columns, f.sub(i64(g.n), j0)) if g.n % g.lanes else columns
        if g.b_k != 1:
            self.fill(lambda k, j, lanes: load(f, f.add(j0, j), f.add(k_first, k), item, lanes), count, valid, to,
                      columns, adjacent(g.b_n))
            return
        rows = self.region("loaded")
        self.fill(lambda j, k, lanes: load(f, f.add(j0, j), f.add(k_first, k), item, lanes), valid, count, rows,
                  i64(g.k_in_block))
        self.pack(rows, Value("null", "ptr"), 1, ((g.n, g.k_in_block),), i64(0), valid, columns, g.n, to, columns,
                  count)

    def fill(self, value: Callable[[Value, Value, int], Value], outer: Value, inner: Value, to: Value, stride: Value,
             vectors: bool = True) -> None:
        """``to[o, i] = value(o, i)``, whole vectors along i first, then what is left one by one."""
        f, lanes, dtype = self.f, self.blocking.lanes, self.c.dtype
        whole = f.mul(f.binary("udiv", inner, i64(lanes)), i64(lanes)) if vectors else i64(0)
        with f.loop(0, outer) as o:
            line = f.offset(to, f.mul(o, stride), dtype)
            for start, stop, count in ((i64(0), whole, lanes), (whole, inner, 0)):
                with f.loop(start, stop, count or 1) as i:
                    f.store(value(o, i, count), f.offset(line, i, dtype))
