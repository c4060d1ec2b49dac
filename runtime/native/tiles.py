"""Contractions by register tiles: blocks of k, packed panels, micro-kernels, one call of `finish` for each tile.

Knows how a `Blocking` becomes loops.  Must not know how the blocking was chosen or what a finished tile is used for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from graphc.runtime.native.axes import Contraction
from graphc.runtime.native.blocks import Blocking
from graphc.runtime.native.emit import SIZES, Function, Value, constant, i64
from graphc.runtime.native.finished import Finish, Hidden, Prefetch, Tile
from graphc.runtime.native.microkernel import SHORT_SPACING, SPACING, MicroKernel, TileShape, fetch_to_write, tile_function
from graphc.runtime.native.needed import is_hidden, needed_k
from graphc.runtime.native.outline import outlined
from graphc.runtime.native.pieces import DEPTH
from graphc.runtime.native.sharing import Rest, grid_parts, quotient, share, spread, take_turns, takes_turns
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import Load, PackedOperands, flat_offset

FETCHED = 256  # bytes of a result that are fetched in one turn of a loop


class TileLoops(PackedOperands):
    """The loops of one contraction, outermost first."""

    def __init__(self, f: Function, target: Target, c: Contraction, blocking: Blocking, a: Value, b: Value,
                 scratch: Value, finish: Finish | None, c_pointer: Value | None, prefetch: Prefetch | None,
                 load_a: Load | None = None, load_b: Load | None = None, past: bool = False,
                 hidden: Hidden | None = None) -> None:
        super().__init__(f, target, c, blocking, scratch, load_a, load_b)
        self.past = past and blocking.far_result and blocking.begins_even
        self.hidden = hidden
        self.a, self.b, self.finish, self.c_pointer, self.prefetch = a, b, finish, c_pointer, prefetch
        self.a_table = f.module.table(blocking.a_table, "i64") if blocking.a_table else Value("null", "ptr")
        self.b_table = f.module.table(blocking.b_table, "i64") if blocking.b_table else Value("null", "ptr")
        self.rows_packed: Value | None = None  # whether (i1) those of a block are that stay for all panels
        self.packed: Value | None = None  # whether (i1) what the thread keeps packed is packed already

    def emit(self, thread: Value, threads: Value) -> None:
        f, g = self.f, self.blocking
        packs = g.pack_b if g.split_rows else g.pack_a
        if threads.number == 1 and g.batch == 1:
            self.emit_alone()
        elif threads.number is None and g.by_block and g.most_threads > 1:
            self.emit_by_block(thread, threads)
        elif threads.number is None and g.batch == 1 and packs and g.most_threads > 1:
            self.emit_balanced(thread, threads)
        elif threads.number is None and g.batch == 1 and g.pack_a and g.pack_b and not g.gathers_rows:
            self.emit_range(i64(0), *self.grid(thread, threads))
        elif g.batch > 1 and g.keeps:
            self.emit_batch(thread, threads)
        else:
            spread(f, g.batch, g.units, thread, threads, self.emit_item, g.portion, self.c.dealt)

    def emit_alone(self) -> None:
        """All units, as one thread takes them where others might have come."""
        f, g = self.f, self.blocking
        rows, panels = (i64(0), i64(g.row_tiles)), (i64(0), i64(g.panels))
        if not g.by_block:
            self.packed = constant(False, "i1") if g.keeps else None
            self.emit_range(i64(0), rows, panels)
            return
        with f.loop(*panels, g.panels_in_block) as panel_block:
            block = panel_block, f.minimum(f.add(panel_block, i64(g.panels_in_block)), panels[1])
            self.rows_packed = self.has_rows(panel_block, panels[0])
            self.emit_block(i64(0), self.a, self.b, self.c_pointer if g.direct else None, rows, block, i64(0))

    def emit_balanced(self, thread: Value, threads: Value) -> None:
        """A thread begins with most of its share of the units; the rest is taken by whoever is free.

        What every unit needs each thread packs for itself: for what another core has packed it would wait longer.
        """
        f, g = self.f, self.blocking
        everything = i64(0), i64(g.panels if g.split_rows else g.row_tiles)
        turns = takes_turns(f, threads, g.most_threads)
        rest = Rest(f, g.units, threads, g.portion)
        low, high = share(f, g.units, thread, threads)
        high = f.select(turns, f.add(low, rest.own), high)
        across = (low, high) if g.split_rows else everything
        along = everything if g.split_rows else (low, high)
        if g.pack_a and g.pack_b and not g.gathers_rows:
            rows, panels = self.grid(thread, threads)
            across = (f.select(turns, across[0], rows[0]), f.select(turns, across[1], rows[1]))
            along = (f.select(turns, along[0], panels[0]), f.select(turns, along[1], panels[1]))

        def unit(ticket: Value) -> list[Value]:
            piece, part = quotient(f, ticket, g.parts)
            begin, end = rest.piece(piece)
            if g.split_rows:
                return [begin, end, *everything]
            first = f.mul(part, i64(g.row_tiles // g.parts))
            last = f.compare("icmp eq", part, i64(g.parts - 1))
            return [first, f.select(last, everything[1], f.add(first, i64(g.row_tiles // g.parts))), begin, end]

        def body(bounds: Sequence[Value], of_rest: Value) -> None:
            self.packed = of_rest if g.keeps else None
            self.emit_range(i64(0), (bounds[0], bounds[1]), (bounds[2], bounds[3]))

        take_turns(f, threads, turns, [*across, *along], f.mul(rest.pieces, i64(g.parts)), unit, body)

    def emit_by_block(self, thread: Value, threads: Value) -> None:
        """Each thread packs every block of panels for itself; the last row tiles of a block are taken by whoever is free."""
        f, g = self.f, self.blocking
        turns = takes_turns(f, threads, g.most_threads)
        rest = Rest(f, g.row_tiles, threads, g.portion)
        low, _ = share(f, g.row_tiles, thread, threads)
        rows, panels = self.grid(thread, threads)
        own = f.select(turns, low, rows[0]), f.select(turns, f.add(low, rest.own), rows[1])
        panels = f.select(turns, i64(0), panels[0]), f.select(turns, i64(g.panels), panels[1])
        rounds = -(-g.panels // g.panels_in_block)
        with f.loop(*panels, g.panels_in_block) as panel_block:
            block = panel_block, f.minimum(f.add(panel_block, i64(g.panels_in_block)), panels[1])

            def body(bounds: Sequence[Value], of_rest: Value) -> None:
                self.packed = of_rest
                self.rows_packed = self.has_rows(panel_block, panels[0])
                if self.rows_packed:  # its own are the same for all panels, those that it takes from others are not
                    own = f.binary("xor", of_rest, constant(True, "i1"))
                    self.rows_packed = f.binary("and", own, self.rows_packed)
                out = self.c_pointer if g.direct else None
                self.emit_block(i64(0), self.a, self.b, out, (bounds[0], bounds[1]), block, i64(0))

            this_round = f.binary("udiv", panel_block, i64(g.panels_in_block)) if rounds > 1 else None
            take_turns(f, threads, turns, own, rest.pieces, rest.piece, body, rounds, this_round)

    def grid(self, thread: Value, threads: Value) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
        """The row tiles and the panels of a thread where both are shared out: a thread packs only what it multiplies.

        The side along which it is better to split gets more parts, unless it has not so many.
        """
        f, g = self.f, self.blocking
        long, short = g.units, g.panels if g.split_rows else g.row_tiles
        parts = grid_parts(f, threads, long, short)
        others = f.binary("udiv", threads, parts)
        along = share(f, long, f.binary("udiv", thread, parts), others)
        across = share(f, short, f.binary("urem", thread, parts), parts)
        return (along, across) if g.split_rows else (across, along)

    def emit_batch(self, thread: Value, threads: Value) -> None:
        """All members of a batch, for which a thread packs but once what all of them need."""
        f, g = self.f, self.blocking
        packed = f.stack("i64", 1)
        f.store(i64(0), packed)

        def body(item: Value, low: Value, high: Value) -> None:
            before = f.load(packed, "i64")
            self.packed = f.compare("icmp ne", before, i64(0))
            self.emit_item(item, low, high)
            f.store(f.select(f.compare("icmp slt", low, high), i64(1), before), packed)

        spread(f, g.batch, g.units, thread, threads, body, g.portion, self.c.dealt)

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
        packed = self.packed
        with f.loop(*rows, g.tiles_in_block) as row_block:
            row_stop = f.minimum(f.add(row_block, i64(g.tiles_in_block)), rows[1])
            if g.by_depth:
                with f.loop(0, g.k_blocks) as k_block, f.loop(*panels, g.panels_in_block) as panel_block:
                    panel_stop = f.minimum(f.add(panel_block, i64(g.panels_in_block)), panels[1])
                    self.rows_packed = self.has_rows(panel_block, panels[0])
                    self.emit_block(item, a, b, out, (row_block, row_stop), (panel_block, panel_stop), k_block)
                return
            with f.loop(*panels, g.panels_in_block) as panel_block:
                panel_stop = f.minimum(f.add(panel_block, i64(g.panels_in_block)), panels[1])
                if packed is not None:
                    place, first = (row_block, rows[0]) if g.split_rows else (panel_block, panels[0])
                    self.packed = f.binary("or", packed, f.compare("icmp ne", place, first))
                self.rows_packed = self.has_rows(panel_block, panels[0])
                with f.loop(0, g.k_blocks) as k_block:
                    self.emit_block(item, a, b, out, (row_block, row_stop), (panel_block, panel_stop), k_block)

    def has_rows(self, panel_block: Value, first: Value) -> Value | None:
        """Whether (i1) a thread has packed its rows for the first of its blocks of panels; None: they do not stay."""
        return self.f.compare("icmp ne", panel_block, first) if self.blocking.rows_stay else None

    def emit_block(self, item: Value, a: Value, b: Value, out: Value | None, rows: tuple[Value, Value],
                   panels: tuple[Value, Value], k_block: Value) -> None:
        f, g = self.f, self.blocking
        a, a_table, b, b_table, k_first, count = self.k_extent(a, b, k_block)
        if g.pack_b:
            with self.unless(self.packed if g.split_rows else None):
                rest = self.pack_whole_panels(b, b_table, k_block, panels, count)
                if rest is not None:
                    with f.loop(*rest) as panel:
                        j0, columns = self.panel_extent(panel)
                        to = self.packed_panel(k_block, panel, panels[0])
                        self.pack_columns(item, b, b_table, j0, columns, k_first, count, to)
        with f.loop(*rows) as row_tile:
            i0, height, a_rows = self.tile_extent(row_tile)
            a_here = self.at(a, a_rows)
            if g.pack_a:
                a_here = self.packed_rows(k_block, row_tile, rows[0])
                with self.unless(self.rows_packed if g.rows_stay else None if g.split_rows else self.packed):
                    self.pack_rows(item, a, a_table, i0, height, k_first, count, a_here)
            with f.loop(*panels) as panel:
                if g.fetched:
                    with self.unless(self.rows_packed):
                        self.fetch_rows(a, i0, height, f.sub(panel, panels[0]))
                j0, columns = self.panel_extent(panel)
                if g.ahead:
                    self.fetch_ahead(b, k_block, f.sub(row_tile, rows[0]), j0)
                b_here = self.at(b, flat_offset(f, j0, g.b_n) if g.stretch else f.mul(j0, i64(1)))
                if g.pack_b:
                    b_here = self.packed_panel(k_block, panel, panels[0])
                hidden = self.emit_hidden(item, row_tile, panel, i0, height, j0, columns, k_block)
                with self.unless(hidden):
                    summed = a_here, b_here, count, a_table, b_table
                    if self.c.within and (g.pairs or not g.pieces):
                        summed = self.needed(i0, height, j0, columns, k_first, *summed)
                    self.emit_tile(item, row_tile, rows[0], panel, panels[0], i0, height, j0, columns, out, k_block, *summed)
            if g.gathers_rows and self.finish:
                whole = Tile(self.region("rows"), g.padded_n, height, i64(g.n), i0, i64(0), item, row_tile, i64(0),
                             g.padded_n)
                self.finish_after(k_block, whole)

    def emit_hidden(self, item: Value, row_tile: Value, panel: Value, i0: Value, height: Value, j0: Value, columns: Value,
                    k_block: Value) -> Value | None:
        """Whether (i1) a tile is hidden; then it is filled."""
        if self.hidden is None or self.blocking.gathers_rows:
            return None
        f, g, width = self.f, self.blocking, self.blocking.vectors * self.blocking.lanes
        hidden = is_hidden(f, self.c, self.hidden.diagonals, i0, height, j0, columns)
        if self.hidden.fill is not None:
            last = f.compare("icmp eq", k_block, i64(g.k_blocks - 1))
            valid, _ = self.columns_of(panel, j0, columns)
            with f.when(f.binary("and", hidden, last)), outlined(f, "fill", when=g.coarse):
                self.hidden.fill(f, Tile(Value("null", "ptr"), width, height, valid, i0, j0, item, row_tile, panel, width))
        return hidden

    def needed(self, i0: Value, height: Value, j0: Value, columns: Value, k_first: Value, a: Value, b: Value, count: Value,
               a_table: Value, b_table: Value) -> tuple[Value, Value, Value, Value, Value]:
        """A, B, count and tables of a tile, without those k of the block that a mask leaves out."""
        f, g = self.f, self.blocking
        first, count = needed_k(f, self.c, i0, height, j0, columns, k_first, count, DEPTH if g.pairs else 1)
        if g.pairs:
            first = f.binary("lshr", first, i64(1))
        kernel = self.micro(g.height, g.vectors)
        b_k = columns if g.pack_b else i64(g.b_k or 0)
        return (self.at(a, f.mul(first, i64(kernel.a_k or 0))), self.at(b, f.mul(first, b_k)), count,
                f.offset(a_table, first, "i64") if g.a_k is None else a_table,
                f.offset(b_table, first, "i64") if g.b_k is None else b_table)

    def k_extent(self, a: Value, b: Value, k_block: Value) -> tuple[Value, Value, Value, Value, Value, Value]:
        """(A, its table, B, its table, flattened first k, count) of a block of k."""
        f, g = self.f, self.blocking
        outer, inner = quotient(f, k_block, g.k_inner_blocks, g.k_blocks)
        k0 = f.mul(inner, i64(g.k_in_block))
        count = f.minimum(f.sub(i64(g.k_inner), k0), i64(g.k_in_block))
        a = self.at(a, f.add(flat_offset(f, outer, g.a_k_outer), f.mul(k0, i64(g.a_k or 0))))
        b = self.at(b, f.add(flat_offset(f, outer, g.b_k_outer), f.mul(k0, i64(g.b_k or 0))))
        a_table = f.offset(self.a_table, k0, "i64") if g.a_k is None else self.a_table
        b_table = f.offset(self.b_table, k0, "i64") if g.b_k is None else self.b_table
        return a, a_table, b, b_table, f.add(f.mul(outer, i64(g.k_inner)), k0), count

    @contextmanager
    def unless(self, condition: Value | None) -> Iterator[None]:
        """The body runs where the condition (i1) does not hold; always without one."""
        if condition is None:
            yield
            return
        with self.f.when(self.f.binary("xor", condition, constant(True, "i1"))):
            yield

    def emit_tile(self, item: Value, row_tile: Value, row_first: Value, panel: Value, panel_first: Value, i0: Value,
                  height: Value, j0: Value, columns: Value, out: Value | None, k_block: Value, a: Value, b: Value,
                  count: Value, a_table: Value, b_table: Value) -> None:
        f, g = self.f, self.blocking
        last = constant(True, "i1") if g.k_blocks == 1 else f.compare("icmp eq", k_block, i64(g.k_blocks - 1))
        accumulate = constant(False, "i1") if g.k_blocks == 1 else f.compare("icmp ne", k_block, i64(0))
        width = g.vectors * g.lanes
        if out is not None:
            segment, _ = quotient(f, row_tile, g.segment_tiles, g.row_tiles)
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
        valid, tail = self.columns_of(panel, j0, columns)
        tile = Tile(result, width, height, valid, i0, j0, item, row_tile, panel, width)
        fetched: Sequence[tuple[Value, int]] = ()
        if out is not None and g.in_order_ahead and not self.past:
            fetched = self.fetch_in_order(out, i0, height, j0, valid)
        elif out is not None and (g.streamed or g.far_result) and not self.past:
            fetched = [(result, g.c_row * SIZES[self.c.dtype])]
        elif self.prefetch:
            fetched = self.prefetch(f, tile)
        streams: list[tuple[Value, Value | int]] = list(fetched)
        if out is None and g.k_blocks > 1:  # what the sums are added to; what comes after the last of them is its affair
            sums = (start, width * SIZES[self.c.dtype])
            streams = [sums, *((f.select(last, address, start), f.select(last, i64(stride_), i64(sums[1])))
                               for address, stride_ in fetched)]
        arguments = [a, b, start, stride, result, result_stride, self.steps(count), accumulate, tail, a_table, b_table,
                     self.stream_table(streams), columns if g.pack_b else i64(g.b_k or 0)]
        function = self.choose_function(height, columns, bool(streams))
        f.do(f"call void {function}({', '.join(map(str, arguments))})")
        if out is None and self.finish and not g.gathers_rows:
            self.finish_after(k_block, tile)

    def fetch_in_order(self, out: Value, i0: Value, height: Value, j0: Value, columns: Value) -> Sequence[tuple[Value, int]]:
        """Fetch as many lines of the result, to be written, as a tile has: beside the tiles of a row, all of rows to come.

        Memory and what foresees its use want to be asked for one line after the other; tiles write pieces of several rows.
        What is returned is to be fetched beside the sums, which must be long enough.
        """
        f, g, itemsize = self.f, self.blocking, SIZES[self.c.dtype]
        row = f.add(i0, f.mul(height, i64(g.in_order_ahead)))
        begin = self.at(out, f.add(f.mul(row, i64(g.c_row)), f.mul(j0, height)))
        if g.k_in_block >= g.height * SHORT_SPACING:
            return [(begin, g.vectors * g.lanes * itemsize)]
        with f.loop(0, f.mul(f.mul(height, columns), i64(itemsize)), FETCHED) as place:
            fetch_to_write(f, f.offset(begin, place, "i8"), FETCHED)
        return []

    def finish_after(self, k_block: Value, tile: Tile) -> None:
        """The call of `finish` once the last block of k is summed."""
        f, g = self.f, self.blocking
        assert self.finish is not None
        last = nullcontext() if g.k_blocks == 1 else f.when(f.compare("icmp eq", k_block, i64(g.k_blocks - 1)))
        with last, outlined(f, "finish", when=g.coarse):
            self.finish(f, tile)

    def stream_table(self, streams: Sequence[tuple[Value, Value | int]]) -> Value:
        """The number of streams, and (address, bytes a row) of each, in memory: see `microkernel.sums_beside`."""
        f = self.f
        if not streams:
            return Value("null", "ptr")
        words = [i64(len(streams))]
        for address, stride in streams:
            words += [address, i64(stride) if isinstance(stride, int) else stride]
        table = f.stack("i64", len(words))
        for place, word in enumerate(words):
            f.store(word, f.offset(table, i64(place), "i64"))
        return table

    def choose_function(self, height: Value, columns: Value, streams: bool) -> str:
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

    def steps(self, count: Value) -> Value:
        """Of a micro-kernel that sums so many k."""
        return count

    def kernel(self, height: int, vectors: int, streams: bool) -> str:
        return tile_function(self.f.module, self.target, self.micro(height, vectors, streams))

    def micro(self, height: int, vectors: int, streams: bool = False) -> MicroKernel:
        g = self.blocking
        tile = TileShape(self.c.dtype, height, vectors, g.lanes, g.narrow if vectors == g.vectors - (g.wide > 0) else 0)
        a_row, a_k = (1, g.a_line) if g.pack_a else (g.a_row, g.a_k)
        if self.load_a and g.a_k == 1:
            a_row, a_k = g.k_in_block, 1
        b_k = vectors * g.lanes if g.pack_b else g.b_k
        return MicroKernel(tile, a_row, a_k, b_k, g.masked, g.k_blocks > 1, g.streamed, streams,
                           SHORT_SPACING if g.far_result else SPACING, g.streamed and bool(b_k), g.stacked,
                           g.stretch if g.stacked else 0, self.past)
