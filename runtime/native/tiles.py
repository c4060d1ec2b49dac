"""Contractions by register tiles: blocks of k, packed panels, micro-kernels, one call of `finish` for each tile.

Knows how a `Blocking` becomes loops.  Must not know how the blocking was chosen or what a finished tile is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.runtime.native.blocking import Axes, Blocking, Contraction, pieces_run
from graphc.runtime.native.emit import SIZES, Function, Value, constant, i64
from graphc.runtime.native.microkernel import MicroKernel, TileShape, tile_function
from graphc.runtime.native.packing import list_pieces, pack_general, pack_lines, pack_pieces, pack_transposed
from graphc.runtime.native.target import Target


@dataclass(frozen=True)
class Tile:
    """A finished tile: `rows` by `columns` sums, row-major from `pointer` with `stride` elements between rows.

    Element (r, j) belongs to the flattened indices (i0 + r, j0 + j) of m and n and to the flattened `batch` index.
    Tiles that cover the same rows share `row_part`, those that cover the same columns `column_part`.
    """

    pointer: Value
    stride: int
    rows: Value
    columns: Value
    i0: Value
    j0: Value
    batch: Value
    row_part: Value
    column_part: Value
    width: int  # the most columns that any tile has


Finish = Callable[[Function, Tile], None]
Prefetch = Callable[[Function, Tile], Sequence[tuple[Value, int]]]


MOST_BALANCED = 16  # threads; with more of them every one keeps to its share

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


def adjacent(axes: Axes) -> bool:
    """Whether successive flattened indices are neighbours in memory."""
    return not axes or (len(axes) == 1 and axes[0][1] == 1)


def quotient(f: Function, a: Value, b: int) -> tuple[Value, Value]:
    """(a // b, a % b) of a non-negative i64."""
    if b == 1:
        return a, i64(0)
    if a.number is not None:
        return i64(a.number // b), i64(a.number % b)
    high = f.binary("udiv", a, i64(b))
    return high, f.sub(a, f.mul(high, i64(b)))


def maximum(f: Function, a: Value, b: Value) -> Value:
    return b if a.name == f.minimum(a, b).name else f.select(f.compare("icmp sgt", a, b), a, b)


def share(f: Function, work: int, thread: Value, threads: Value) -> tuple[Value, Value]:
    """The contiguous range of `work` items that belongs to this thread."""
    if threads.number == 1:
        return i64(0), i64(work)
    low = f.binary("udiv", f.mul(thread, i64(work)), threads)
    return low, f.binary("udiv", f.mul(f.add(thread, i64(1)), i64(work)), threads)


def spread(f: Function, batch: int, units: int, thread: Value, threads: Value,
           body: Callable[[Value, Value, Value], None]) -> None:
    """Give each thread its even share of batch * units; `body(item, low, high)` does a range of one item's units."""
    low, high = share(f, batch * units, thread, threads)
    within(f, batch, units, low, high, threads, body)


def within(f: Function, batch: int, units: int, low: Value, high: Value, threads: Value,
           body: Callable[[Value, Value, Value], None]) -> None:
    """`body(item, low, high)` for the parts of a range of batch * units that lie in one item each."""
    if batch == 1:
        body(i64(0), low, high)
        return
    first = quotient(f, low, units)[0]
    last = quotient(f, f.add(high, i64(units - 1)), units)[0]
    with f.loop(first, last) as item:
        if units == 1 or threads.number == 1:
            body(item, i64(0), i64(units))
        else:
            begin = f.mul(item, i64(units))
            body(item, maximum(f, f.sub(low, begin), i64(0)), f.minimum(f.sub(high, begin), i64(units)))


def spread_evenly(f: Function, batch: int, units: int, portion: int, thread: Value, threads: Value,
                  body: Callable[[Value, Value, Value], None]) -> None:
    """As `spread`, but only three quarters of a thread's share are its own: the rest is taken in portions by whoever is free.

    Cores are not equally fast where others use them too.  Tickets come from a counter that nobody resets: a run takes as
    many as there are portions, and one more for each thread, so that the remainder starts anew by itself.  There is a
    counter for each number of threads.
    """
    if not portion or threads.number == 1 or batch * units < 8 * portion:
        spread(f, batch, units, thread, threads, body)
        return
    total = batch * units
    counter = f.offset(f.module.counters(MOST_BALANCED), threads, "i64")
    balanced = f.binary("and", f.compare("icmp sgt", threads, i64(1)), f.compare("icmp slt", threads, i64(MOST_BALANCED)))
    own = f.binary("udiv", f.mul(f.binary("udiv", i64(total), threads), i64(3)), i64(4))
    most = f.binary("udiv", f.sub(f.add(i64(total), threads), i64(1)), threads)
    pieces = f.binary("udiv", f.add(f.sub(most, own), i64(portion - 1)), i64(portion))
    tickets = f.mul(pieces, threads)
    low, high = share(f, total, thread, threads)
    start, stop = low, f.select(balanced, f.add(low, own), high)
    header, done = f.label("portion"), f.label("balanced")
    before = f.current
    f.branch(header)
    f.block(header)
    first, last = Value(f.fresh(), "i64"), Value(f.fresh(), "i64")
    place = len(f.lines)
    f.lines.append("")
    within(f, batch, units, first, last, threads, body)
    after = f.label("next")
    f.branch_if(balanced, after, done)
    f.block(after)
    ticket = f.emit(f"atomicrmw add {counter}, i64 1 monotonic, align 8", "i64")
    ticket = f.binary("urem", ticket, f.add(tickets, threads))
    owner, piece = f.binary("urem", ticket, threads), f.binary("udiv", ticket, threads)
    low, high = share(f, total, owner, threads)
    begin = f.add(f.add(low, own), f.mul(piece, i64(portion)))
    end = f.minimum(f.add(begin, i64(portion)), high)
    latch = f.current
    f.lines[place] = (f"  {first.name} = phi i64 [ {start.name}, %{before} ], [ {begin.name}, %{latch} ]\n"
                      f"  {last.name} = phi i64 [ {stop.name}, %{before} ], [ {end.name}, %{latch} ]")
    f.branch_if(f.compare("icmp slt", ticket, tickets), header, done)
    f.block(done)


class TileLoops:
    """The loops of one contraction, outermost first."""

    def __init__(self, f: Function, target: Target, c: Contraction, blocking: Blocking, a: Value, b: Value,
                 scratch: Value, finish: Finish | None, c_pointer: Value | None, prefetch: Prefetch | None,
                 load_a: Load | None = None, load_b: Load | None = None) -> None:
        self.prefetch, self.load_a, self.load_b = prefetch, load_a, load_b
        self.f, self.target, self.c, self.blocking = f, target, c, blocking
        self.a, self.b, self.scratch, self.finish, self.c_pointer = a, b, scratch, finish, c_pointer
        self.a_table = f.module.table(blocking.a_table, "i64") if blocking.a_table else Value("null", "ptr")
        self.b_table = f.module.table(blocking.b_table, "i64") if blocking.b_table else Value("null", "ptr")

    def region(self, name: str) -> Value:
        return self.f.offset(self.scratch, i64(self.blocking.regions[name]), "i8")

    def at(self, pointer: Value, offset: Value) -> Value:
        return self.f.offset(pointer, offset, self.c.dtype)

    def emit(self, thread: Value, threads: Value) -> None:
        g = self.blocking
        if threads.number is None and g.batch == 1 and g.pack_a and g.pack_b and not g.portion and not g.gathers_rows:
            self.emit_range(i64(0), *self.grid(thread, threads))
        else:
            spread_evenly(self.f, g.batch, g.row_tiles if g.split_rows else g.panels, g.portion, thread, threads,
                          self.emit_item)

    def grid(self, thread: Value, threads: Value) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
        """The row tiles and the panels of a thread where both are shared out: a thread packs only what it multiplies.

        The side along which it is better to split gets more parts, unless it has not so many.
        """
        f, g = self.f, self.blocking
        long, short = (g.row_tiles, g.panels) if g.split_rows else (g.panels, g.row_tiles)
        parts = i64(1)
        for p in (2, 4, 8):
            if short < p:
                break
            divides = f.compare("icmp eq", f.binary("urem", threads, i64(p)), i64(0))
            fits = f.compare("icmp ule", i64(p * p), threads)
            few = f.compare("icmp ult", i64(long), f.binary("udiv", f.mul(threads, i64(2)), i64(p)))
            parts = f.select(f.binary("and", divides, f.binary("or", fits, few)), i64(p), parts)
        others = f.binary("udiv", threads, parts)
        along = share(f, long, f.binary("udiv", thread, parts), others)
        across = share(f, short, f.binary("urem", thread, parts), parts)
        return (along, across) if g.split_rows else (across, along)

    def emit_item(self, item: Value, low: Value, high: Value) -> None:
        """One member of the batch: the row tiles or the panels from low to high."""
        g = self.blocking
        rows = (low, high) if g.split_rows else (i64(0), i64(g.row_tiles))
        self.emit_range(item, rows, (i64(0), i64(g.panels)) if g.split_rows else (low, high))

    def emit_range(self, item: Value, rows: tuple[Value, Value], panels: tuple[Value, Value]) -> None:
        """Some row tiles and panels of a member of the batch."""
        f, g = self.f, self.blocking
        a, b = self.at(self.a, flat_offset(f, item, g.a_batch)), self.at(self.b, flat_offset(f, item, g.b_batch))
        out = self.at(self.c_pointer, flat_offset(f, item, g.c_batch)) if g.direct and self.c_pointer else None
        with f.loop(*rows, g.tiles_in_block) as row_block:
            row_stop = f.minimum(f.add(row_block, i64(g.tiles_in_block)), rows[1])
            with f.loop(*panels, g.panels_in_block) as panel_block:
                panel_stop = f.minimum(f.add(panel_block, i64(g.panels_in_block)), panels[1])
                with f.loop(0, g.k_blocks) as k_block:
                    self.emit_block(item, a, b, out, (row_block, row_stop), (panel_block, panel_stop), k_block)

    def emit_block(self, item: Value, a: Value, b: Value, out: Value | None, rows: tuple[Value, Value],
                   panels: tuple[Value, Value], k_block: Value) -> None:
        f, g = self.f, self.blocking
        a, a_table, b, b_table, k_first, count = self.k_extent(a, b, k_block)
        if g.pack_b:
            with f.loop(*panels) as panel:
                j0, columns = self.panel_extent(panel)
                self.pack_columns(item, b, b_table, j0, columns, k_first, count, self.packed_panel(panel, panels[0]))
        with f.loop(*rows) as row_tile:
            i0, height, a_rows = self.tile_extent(row_tile)
            a_here = self.at(a, a_rows)
            if g.pack_a:
                a_here = self.region("a")
                self.pack_rows(item, a, a_table, i0, height, k_first, count, a_here)
            with f.loop(*panels) as panel:
                j0, columns = self.panel_extent(panel)
                b_here = self.at(b, f.mul(j0, i64(1)))
                if g.pack_b:
                    b_here = self.packed_panel(panel, panels[0])
                self.emit_tile(item, row_tile, rows[0], panel, panels[0], i0, height, j0, columns, a_here, b_here, out,
                               k_block, count, a_table, b_table)
            if g.gathers_rows and self.finish:
                whole = Tile(self.region("rows"), g.padded_n, height, i64(g.n), i0, i64(0), item, row_tile, i64(0),
                             g.padded_n)
                self.finish_after(k_block, whole)

    def k_extent(self, a: Value, b: Value, k_block: Value) -> tuple[Value, Value, Value, Value, Value, Value]:
        """(A, its table, B, its table, flattened first k, count) of a block of k."""
        f, g = self.f, self.blocking
        outer, inner = quotient(f, k_block, g.k_inner_blocks)
        k0 = f.mul(inner, i64(g.k_in_block))
        count = f.minimum(f.sub(i64(g.k_inner), k0), i64(g.k_in_block))
        a = self.at(a, f.add(flat_offset(f, outer, g.a_k_outer), f.mul(k0, i64(g.a_k or 0))))
        b = self.at(b, f.add(flat_offset(f, outer, g.b_k_outer), f.mul(k0, i64(g.b_k or 0))))
        a_table = f.offset(self.a_table, k0, "i64") if g.a_k is None else self.a_table
        b_table = f.offset(self.b_table, k0, "i64") if g.b_k is None else self.b_table
        return a, a_table, b, b_table, f.add(f.mul(outer, i64(g.k_inner)), k0), count

    def packed_panel(self, panel: Value, first: Value) -> Value:
        """Where a panel is packed, in the block whose first panel is `first`."""
        f, g = self.f, self.blocking
        return self.at(self.region("b"), f.mul(f.sub(panel, first), i64(g.k_in_block * g.vectors * g.lanes)))

    def pack_columns(self, item: Value, b: Value, table: Value, j0: Value, columns: Value, k_first: Value, count: Value,
                     to: Value) -> None:
        """Pack a panel of a block of k, `b` being the first element of the block."""
        g = self.blocking
        if self.load_b:
            self.load_columns(self.load_b, item, j0, columns, k_first, count, to)
        else:
            self.pack(b, table, g.b_k, g.b_n, j0, columns, columns, g.n, to, columns, count, g.b_run)

    def pack_rows(self, item: Value, a: Value, table: Value, i0: Value, height: Value, k_first: Value, count: Value,
                  to: Value) -> None:
        """Pack the rows of a tile of a block of k, `a` being the first element of the block."""
        g, step = self.blocking, i64(self.blocking.a_line)
        if self.load_a:
            self.load_rows(self.load_a, item, i0, height, k_first, count, to)
        else:
            self.pack(a, table, g.a_k, g.a_m, i0, height, step, g.m, to, step, count, g.a_run)

    def tile_extent(self, row_tile: Value) -> tuple[Value, Value, Value]:
        """(first flattened row, rows, offset of the first row in A) of a row tile."""
        f, g = self.f, self.blocking
        segment, place = quotient(f, row_tile, g.segment_tiles)
        inside, height = self.even_split(place, g.height, g.tall)
        i0 = f.add(f.mul(segment, i64(g.segment)), inside)
        if g.pack_a:
            return i0, height, i64(0)
        return i0, height, f.add(flat_offset(f, segment, g.a_segments), f.mul(inside, i64(g.a_row)))

    def panel_extent(self, panel: Value) -> tuple[Value, Value]:
        """(first flattened column, columns padded to whole registers) of a panel."""
        f, g = self.f, self.blocking
        first, vectors = self.even_split(panel, g.vectors, g.wide)
        return f.mul(first, i64(g.lanes)), f.mul(vectors, i64(g.lanes))

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
            name = pack_transposed(f.module, dtype, g.lanes)
            with f.loop(i64(0), count, run) as k:
                line = self.at(source, f.load(f.offset(table, k, "i64"), "i64"))
                f.call(name, [self.at(to, f.mul(k, to_stride)), to_stride, line, offsets, width, padded, i64(run),
                              i64(1), table])
            return
        if k_stride == 1:
            name = pack_transposed(f.module, dtype, g.lanes)
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

    def emit_tile(self, item: Value, row_tile: Value, row_first: Value, panel: Value, panel_first: Value, i0: Value,
                  height: Value, j0: Value, columns: Value, a: Value, b: Value, out: Value | None, k_block: Value,
                  count: Value, a_table: Value, b_table: Value) -> None:
        f, g = self.f, self.blocking
        last = constant(True, "i1") if g.k_blocks == 1 else f.compare("icmp eq", k_block, i64(g.k_blocks - 1))
        accumulate = constant(False, "i1") if g.k_blocks == 1 else f.compare("icmp ne", k_block, i64(0))
        width = g.vectors * g.lanes
        if out is not None:
            segment, _ = quotient(f, row_tile, g.segment_tiles)
            inside = f.sub(i0, f.mul(segment, i64(g.segment)))
            line = f.add(flat_offset(f, segment, g.c_segments), f.mul(inside, i64(g.c_row)))
            start = result = self.at(out, f.add(line, j0))
            stride = result_stride = i64(g.c_row)
        else:
            stride = result_stride = i64(width)
            start = result = self.region("tile")
            if g.gathers_rows:
                start = result = self.at(self.region("rows"), j0)
                stride = result_stride = i64(g.padded_n)
            if g.k_blocks > 1:
                place = f.add(f.mul(f.sub(row_tile, row_first), i64(g.panels_in_block)), f.sub(panel, panel_first))
                start, stride = self.at(self.region("partial"), f.mul(place, i64(g.height * width))), i64(width)
                result = f.select(last, result, start)
                result_stride = f.select(last, result_stride, stride)
        valid = f.minimum(columns, f.sub(i64(g.n), j0)) if g.n % g.lanes else columns
        tile = Tile(result, width, height, valid, i0, j0, item, row_tile, panel, width)
        fetched: Sequence[tuple[Value, int]] = ()
        if g.streamed and out is not None:
            fetched = [(result, g.c_row * SIZES[self.c.dtype])]
        elif self.prefetch:
            fetched = self.prefetch(f, tile)
        streams: list[tuple[Value, Value | int]] = list(fetched)
        if out is None and g.k_blocks > 1:  # what the sums are added to; what comes after the last of them is its affair
            sums = (start, width * SIZES[self.c.dtype])
            streams = [sums, *((f.select(last, address, start), f.select(last, i64(stride_), i64(sums[1])))
                               for address, stride_ in fetched)]
        tail = f.sub(f.sub(i64(g.n), j0), f.sub(columns, i64(g.lanes)))
        arguments = [a, b, start, stride, result, result_stride, count, accumulate, tail, a_table, b_table,
                     self.stream_table(streams)]
        function = self.choose_function(height, columns, len(streams))
        f.do(f"call void {function}({', '.join(map(str, arguments))})")
        if out is None and self.finish and not g.gathers_rows:
            self.finish_after(k_block, tile)

    def finish_after(self, k_block: Value, tile: Tile) -> None:
        """The call of `finish` once the last block of k is summed."""
        f, g = self.f, self.blocking
        assert self.finish is not None
        if g.k_blocks == 1:
            self.finish(f, tile)
        else:
            with f.when(f.compare("icmp eq", k_block, i64(g.k_blocks - 1))):
                self.finish(f, tile)

    def stream_table(self, streams: Sequence[tuple[Value, Value | int]]) -> Value:
        """(address, bytes a row) of each stream, in memory."""
        f = self.f
        if not streams:
            return Value("null", "ptr")
        table = f.stack("i64", 2 * len(streams))
        for place, (address, stride) in enumerate(streams):
            f.store(address, f.offset(table, i64(2 * place), "i64"))
            f.store(i64(stride) if isinstance(stride, int) else stride, f.offset(table, i64(2 * place + 1), "i64"))
        return table

    def choose_function(self, height: Value, columns: Value, streams: int) -> str:
        """The micro-kernel of a tile this high and wide: a name, or a pointer chosen when the code runs."""
        f, g = self.f, self.blocking
        heights = [g.height, g.height - 1] if g.tall else [g.height]
        widths = [g.vectors, g.vectors - 1] if g.wide else [g.vectors]
        heights = [h for h in heights if height.number in (None, h)]
        widths = [w for w in widths if columns.number in (None, w * g.lanes)]
        chosen = []
        for h in heights:
            names = [Value("@" + self.kernel(h, w, streams), "ptr") for w in widths]
            chosen.append(names[0] if len(names) == 1
                          else f.select(f.compare("icmp eq", columns, i64(widths[0] * g.lanes)), names[0], names[1]))
        if len(chosen) == 1:
            return chosen[0].name
        return f.select(f.compare("icmp eq", height, i64(heights[0])), chosen[0], chosen[1]).name

    def kernel(self, height: int, vectors: int, streams: int) -> str:
        return tile_function(self.f.module, self.target, self.micro(height, vectors, streams))

    def micro(self, height: int, vectors: int, streams: int = 0) -> MicroKernel:
        g = self.blocking
        tile = TileShape(self.c.dtype, height, vectors, g.lanes)
        a_row, a_k = (1, g.a_line) if g.pack_a else (g.a_row, g.a_k)
        if self.load_a and g.a_k == 1:
            a_row, a_k = g.k_in_block, 1
        b_k = vectors * g.lanes if g.pack_b else g.b_k
        return MicroKernel(tile, a_row, a_k, b_k, g.masked, g.k_blocks > 1, g.streamed, streams)
