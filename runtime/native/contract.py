"""Dense contractions: ``C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n]`` as blocked native loops.

Knows the roads a contraction can take (register tiles, dot products, either with A and B exchanged) and what each
costs.  Must not know graphs, op names or what a finished tile is used for: that is the caller's `Finish`.

Every thread runs the emitted code; no barrier is needed.  The order in which an element's products are summed is
decided when the code is written, never by the number of threads, so results are the same bits for any number.
"""

from __future__ import annotations

import math
from functools import lru_cache

from graphc.runtime.native.axes import Axes, Contraction, merge, pieces_run, swapped
from graphc.runtime.native.blocking import choose_blocking
from graphc.runtime.native.blocks import Blocking
from graphc.runtime.native.correlations import Correlation, correlation, emit_correlation
from graphc.runtime.native.dot_tiles import DotTiles, dot_columns_in_place, dot_tiles, dots_fit, emit_dot_tiles
from graphc.runtime.native.dots import DotTile, dot_function, dot_rows
from graphc.runtime.native.emit import SIZES, Function, Value, i64
from graphc.runtime.native.finished import Finish, Hidden, Prefetch, Tile, turned_hidden
from graphc.runtime.native.matrix_blocking import SPLIT_CYCLES, TURN_CYCLES, matrix_blocking, matrix_cost, pack_cycles
from graphc.runtime.native.operands import LINE, PIECE_COST, SHALLOW, UNFORESEEN, in_runs, listed
from graphc.runtime.native.overlap import FinishVector, loops_of
from graphc.runtime.native.pieces import DEPTH
from graphc.runtime.native.sharing import spread
from graphc.runtime.native.stencils import Stencil, emit_stencil, stencil
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import Load, flat_offset
from graphc.runtime.native.tile_stores import store_columns, store_to, store_vector_to, stores_columns, turns_by_vectors

from graphc.plan import align
from graphc.records import NamedTuple

__all__ = ["Contraction", "Finish", "FinishVector", "Hidden", "Load", "Prefetch", "Tile", "emit_contraction", "lanes_along_k",
           "scratch_bytes", "tile_parts"]

MISS = 12  # cycles for a line of an operand beyond the cache that no processor foresees
TURNED, TURNED_NEAR = 1.1, 1.05  # what exchanging the operands must gain; where it is stored and B is in the cache
LEAST_BESIDE = 10  # rows of windows that a vector from the second-level cache should be multiplied by
USUAL_RATE = 2  # vectors of multiply-adds that begin in a cycle
SPLITTING, PARTIAL = 250, 1.5  # cycles to begin to pack pairs of bfloat16; how many whole squares take as long as a partial one
LEAST_PAIRED = SHALLOW  # up to so many k it is the result that takes time
PAIRS_WORTH = 1.1  # how many times as fast pairs must seem
DOTS_WORTH = 1.1  # how many times as fast tiles of dot products must seem


class Road(NamedTuple):
    """How a contraction is computed, and the scratch memory that this takes."""

    turned: bool  # A and B, m and n exchange their roles
    dots: bool  # vectors run along k
    blocking: Blocking  # of the contraction after any exchange
    turned_offset: int  # where in scratch the transposed tile is
    turned_stride: int  # elements between its rows: the rows of a tile
    scratch_bytes: int
    correlation: Correlation | None = None  # vectors run along k, which are several axes
    stencil: Stencil | None = None  # a few taps meet neighbouring positions
    dot_tiles: DotTiles | None = None  # vectors run along k, and results are only stored


def pack_cost(axes: Axes, stride: int | None, run: int, lanes: int, masks: bool) -> float:
    """Cycles to pack one element of an operand."""
    if not axes or (len(axes) == 1 and axes[0][1] == 1):
        return 2 / lanes
    piece = pieces_run(axes) if masks else 0
    if piece:
        if axes[-1][1] != 1:
            return 0.8
        return (3 if piece % lanes == 0 else PIECE_COST) / min(piece, lanes)
    return 6 / lanes if stride == 1 or run else 1.3


def splitting(g: Blocking, k: int, loads: tuple[bool, bool], target: Target) -> float:
    """Cycles to pack both operands as pairs of bfloat16, for one member of the batch."""
    def of_element(axes: Axes, stride: int | None, run: int, load: bool, along: bool) -> float:
        if listed(stride, axes, run, load, target):
            return SPLIT_CYCLES[g.pieces] + (0 if along else TURN_CYCLES * g.pieces)
        if run and not load and not in_runs(axes, target):  # copied, and turned by that, before it is split
            return SPLIT_CYCLES[g.pieces] + pack_cost(axes, stride, run, g.lanes, target.has_masks)
        return pack_cycles(stride, axes, load, g.pieces, along)

    rows = of_element(g.a_m, g.a_k, g.a_run, loads[0], g.along)
    columns = of_element(g.b_n, g.b_k, g.b_run, loads[1], False)
    again_rows = 1 / g.batch if g.keeps and not g.split_rows else math.ceil(g.panels / g.panels_in_block)
    again_columns = 1 / g.batch if g.keeps and g.split_rows else math.ceil(g.row_tiles / g.tiles_in_block)
    whole, left = divmod(g.k_in_block, DEPTH)
    deep = (whole + PARTIAL * (left > 0)) * DEPTH * (k / g.k_in_block)  # squares are packed as a whole
    return deep * (g.m * rows * again_rows + g.n * columns * again_columns)


def cost(c: Contraction, g: Blocking, plain: bool, turned: bool, dots: bool, target: Target, overlap: bool,
         rate: int = USUAL_RATE, loads: tuple[bool, bool] = (False, False)) -> float:
    """Estimated cycles for one member of the batch; overlap: a turned tile is not finished while the next one is summed.

    rate: vectors of multiply-adds that begin in a cycle.  loads: whether A, whether B is computed, where they become pairs.
    """
    m, n, k, masks = g.m, g.n, math.prod(c.k), target.has_masks
    steps = math.ceil(g.k_in_block / 2) * g.k_blocks if g.pairs else k
    if dots:
        total = m * k * (n + 1) / (rate * g.lanes) + (2 if plain and in_one_piece(c) else 3) * m * n
        total += 0 if dot_columns_in_place(c) else 1.3 * n * k
    else:
        # what overlaps has whole vectors, and is worth more than half of one; beside no other vector broadcasts take the time
        narrow = 0.5 if g.narrow and n > g.lanes and not overlap else 0
        vectors = n // g.stretch * math.ceil(g.stretch / g.lanes) if g.stretch else math.ceil(n / g.lanes) - narrow
        sums = g.height * g.vectors
        slower = max(1, 8 / sums)
        if g.stretch:  # vectors that do not begin at lines are two loads
            slower = max(slower, (g.height + 2 * g.vectors) / sums)
        elif g.a_k is None and g.streamed and not g.pairs:
            slower = max(slower, LEAST_BESIDE / g.height)
        total = m * steps * vectors / rate * slower
        once = g.batch if g.batch > 1 and g.keeps else 1  # for all members of the batch
        if g.pairs:
            total += splitting(g, k, loads, target) + SPLITTING
        elif g.pack_b:
            total += n * k * pack_cost(g.b_n, g.b_k, g.b_run, g.lanes, masks) / (once if g.split_rows else 1)
        if g.pack_a and not g.pairs:  # where pairs are made of short pieces of lines they are waited for as well
            total += m * k * pack_cost(g.a_m, g.a_k, g.a_run, g.lanes, masks) / (1 if g.split_rows else once)
        elif g.a_row == 1 and m * k * SIZES[c.dtype] > target.l2_bytes // 2 and abs(g.a_k or 0) * SIZES[c.dtype] >= UNFORESEEN:
            total += m * k * SIZES[c.dtype] / LINE * MISS
    if plain and not g.direct:
        if not dots and stores_columns(c, g.lanes, target):
            total += turning(g)
        else:
            total += m * n * (2 / g.lanes if merge(c.n, c.c_n)[-1:] in ((), ((n, 1),)) else 1.5)
    if turned and not plain and min(m, n) > 1:
        in_registers = not (dots or overlap) and turns_by_vectors(g.lanes, target)
        total += min(1.5 * m * n, turning(g)) if in_registers else 1.5 * m * n
    return total


def turning(g: Blocking) -> float:
    """Cycles to turn all tiles in registers, square by square."""
    squares = g.row_tiles * math.ceil(g.height / g.lanes) * math.ceil(g.n / g.lanes)
    return squares * g.lanes * (g.lanes.bit_length() + 4)


def multiplies_pairs(c: Contraction, target: Target) -> bool:
    """Whether vectors may multiply pairs of bfloat16 instead of float32 numbers."""
    return target.pieces == 1 and target.has_pairs and c.dtype == "float" and math.prod(c.k) > LEAST_PAIRED


@lru_cache(maxsize=512)
def choose_road(c: Contraction, target: Target, plain: bool, loads: tuple[bool, bool], whole_rows: bool = False,
                overlap: bool = False) -> Road:
    """The cheapest road; `plain` says that the result is only stored, at the strides of `c`.

    whole_rows: every finished tile must have all columns of its rows.
    overlap: tiles may be finished while the next ones are summed.
    """
    def blocking_of(turned: bool, dots: bool, paired: bool) -> Blocking:
        return choose_blocking(swapped(c) if turned else c, target, plain, loads[::-1] if turned else loads,
                               whole_rows and not turned, overlap and not turned and not dots, paired)

    places = stencil(c, target) if not any(loads) and not whole_rows else None
    if places is not None:
        return Road(False, False, blocking_of(False, False, False), places.scratch_bytes, 1, places.scratch_bytes, None, places)
    choices, paired = [], []
    for turned in (False, True):
        d, computed = (swapped(c), loads[::-1]) if turned else (c, loads)
        g = blocking_of(turned, False, False)
        dots = not g.empty and 0 not in c.k and not any(loads) and dots_fit(d, target)
        if whole_rows and turned:  # the columns are rows by then: all of them in one tile
            dots = dots and g.m <= rows_of_dots(g, SIZES[c.dtype], target)
        if dots:
            choices.append((cost(d, g, plain, turned, True, target, overlap), turned, True))
        near = plain and g.n * g.k_inner * SIZES[c.dtype] <= target.l2_bytes
        more = 1 if not turned else TURNED_NEAR if near else TURNED
        if not (whole_rows and turned and g.row_tiles > 1):
            choices.append((cost(d, g, plain, turned, False, target, overlap) * more, turned, False))
        if multiplies_pairs(c, target):
            g = blocking_of(turned, False, True)
            if not (whole_rows and turned and g.row_tiles > 1):
                rate = target.multiply_adds
                paired.append((cost(d, g, plain, turned, False, target, overlap, rate, computed) * more, turned))
    matrix = matrix_blocking(c, target, loads, whole_rows)
    least, turned, dots = min(choices)
    along = correlation(c, target) if not any(loads) and not whole_rows else None
    by_rows = math.inf if along is None else along.cost(c, target.lanes(SIZES[c.dtype]))
    if matrix is not None and matrix_cost(c, matrix, loads) < min(least, by_rows):
        return Road(False, False, matrix, matrix.scratch_bytes, matrix.height, matrix.scratch_bytes)
    d, blocking = swapped(c) if turned else c, blocking_of(turned, dots, False)
    if paired:
        here = cost(d, blocking, plain, turned, dots, target, overlap, target.multiply_adds)
        cycles, exchanged = min(paired)
        if PAIRS_WORTH * cycles < min(here, by_rows * USUAL_RATE / target.multiply_adds):
            return tiled_road(c, blocking_of(exchanged, False, True), exchanged, plain)
    if along is not None and by_rows < least:
        g = choose_blocking(c, target, plain, loads)
        return Road(False, False, g, along.scratch_bytes, along.rows, along.scratch_bytes, along)
    along_k = [(tiles, t) for t in (False, True) if plain and not any(loads) and not blocking.empty
               and (tiles := dot_tiles(swapped(c) if t else c, target))]
    if along_k:
        best, exchanged = min(along_k, key=lambda one: one[0].cycles)
        if DOTS_WORTH * best.cycles < cost(d, blocking, plain, turned, dots, target, overlap, target.multiply_adds):
            return Road(exchanged, True, blocking, 0, 0, 0, dot_tiles=best)
    if not dots:
        return tiled_road(c, blocking, turned, plain)
    itemsize = SIZES[c.dtype]
    rows = rows_of_dots(blocking, itemsize, target)
    used = align(rows * blocking.n * itemsize)
    if not dot_columns_in_place(d):
        used += align(blocking.n * math.prod(d.k) * itemsize)
    return Road(turned, True, blocking, used, rows, used + (align(rows * blocking.n * itemsize) if turned and not plain else 0))


def tiled_road(c: Contraction, g: Blocking, turned: bool, plain: bool) -> Road:
    tile_bytes = align(g.height * g.vectors * g.lanes * SIZES[c.dtype])
    return Road(turned, False, g, g.scratch_bytes, g.height, g.scratch_bytes + (tile_bytes if turned and not plain else 0))


def scratch_bytes(c: Contraction, target: Target, *, plain: bool | None = None, load_a: bool = False, load_b: bool = False,
                  whole_rows: bool = False, overlap: bool = False) -> int:
    """Bytes of scratch memory that each thread needs.

    plain: whether the result is only stored; None: it serves either way.
    load_a, load_b: whether that operand is computed by a `Load`.  whole_rows, overlap: as for `emit_contraction`.
    """
    ways = (False,) if whole_rows or overlap else (False, True) if plain is None else (plain,)
    return max(choose_road(c, target, way, (load_a, load_b), whole_rows, overlap).scratch_bytes for way in ways)


def lanes_along_k(c: Contraction, target: Target, plain: bool, loads: tuple[bool, bool], whole_rows: bool,
                  overlap: bool) -> tuple[bool, bool]:
    """Whether the vectors that a `Load` is asked for run along k, for A and for B; else they run along m or n."""
    road = choose_road(c, target, plain, loads, whole_rows, overlap)
    found = road.blocking.a_k == 1, road.blocking.b_k == 1
    return found[::-1] if road.turned else found


def tile_parts(c: Contraction, target: Target, *, load_a: bool = False, load_b: bool = False,
               whole_rows: bool = False) -> tuple[int, int]:
    """(different `row_part`, different `column_part`) of the tiles that `finish` sees in one member of the batch."""
    road = choose_road(c, target, False, (load_a, load_b), whole_rows)
    if road.correlation is not None:
        return road.correlation.row_tiles, road.correlation.blocks
    if road.stencil:
        return 1, road.stencil.units
    g = road.blocking
    rows, columns = (-(-g.m // rows_of_dots(g, SIZES[c.dtype], target)), 1) if road.dots else (g.row_tiles, g.panels)
    if g.gathers_rows:
        columns = 1
    return (columns, rows) if road.turned else (rows, columns)


def emit_contraction(f: Function, target: Target, c: Contraction, a: Value, b: Value, *, scratch: Value,
                     thread: Value, threads: Value, finish: Finish | None = None,
                     c_pointer: Value | None = None, prefetch: Prefetch | None = None,
                     load_a: Load | None = None, load_b: Load | None = None, whole_rows: bool = False,
                     vector: FinishVector | None = None, overlap: bool = False, past: bool = False,
                     hidden: Hidden | None = None) -> int:
    """Write the contraction at the end of the current block; what care its loops are worth: see `emit.Function`.

    Each finished tile goes to `finish`, whose code is written once; without it the result is stored at `c_pointer`
    by the strides of `c`.  `scratch` is this thread's own memory, 64-byte aligned, `scratch_bytes(c, target)` long.

    `prefetch` names the large arrays that `finish` will touch: (address of the tile's first element, bytes between its
    rows) of each.  Their rows are fetched while the tile is summed.  It is asked before the sums exist.

    `load_a` and `load_b` compute an operand's elements while it is packed, several times if that is what blocking
    takes; the operand's pointer is not used then, and its strides only tell along which axis lanes run.

    `whole_rows` asks for tiles that have all columns of their rows, which takes a `finish`.

    `vector` does what `finish` does for one vector of a tile.  Where it is given, a matrix unit multiplies the next tile
    meanwhile; with `overlap` the multiply-adds of the next tile are woven in, where registers and sizes allow.

    `past` has sums that are short stored past the caches where they can be.  Then `c_pointer` is a multiple of 64, and the
    caller writes a fence behind the contraction: see `passing`.

    `hidden` tells which tiles need not be computed; whatever computes them all the same is right, too.

    Raises: ValueError where there is neither `finish` nor `c_pointer`.
    """
    road = choose_road(c, target, finish is None, (load_a is not None, load_b is not None), whole_rows, overlap)
    if road.blocking.empty:
        return 2
    if finish is None and c_pointer is None:
        raise ValueError("a contraction needs finish or c_pointer")
    to = c_pointer or Value("null", "ptr")  # with a finish nothing is stored
    if 0 in c.k:  # an empty sum: one product of zeros
        a = b = f.module.table([0], c.dtype)
        load_a = load_b = None
    if road.blocking.pieces and not road.blocking.pairs:
        if finish is None:
            finish, vector = store_to(to, c, target), store_vector_to(to, c, target)
        from graphc.runtime.native.matrix import MatrixTiles  # with the first contraction on a matrix unit

        MatrixTiles(f, target, c, road.blocking, a, b, scratch, finish, prefetch, load_a, load_b, vector).emit(thread, threads)
        return 2
    if road.correlation is not None:
        finish = finish or store_to(to, c, target)
        emit_correlation(f, target, c, road.correlation, a, b, scratch, thread, threads, finish)
        return 2
    if road.stencil:
        emit_stencil(f, target, c, road.stencil, a, b, scratch, thread, threads, finish, to)
        return 2
    if road.turned:
        c, a, b, prefetch = swapped(c), b, a, None
        load_a, load_b = load_b, load_a
        if finish is not None:
            finish = turned_back(finish, c.dtype, road, f.offset(scratch, i64(road.turned_offset), "i8"), target)
        hidden = hidden and turned_hidden(hidden)
    if road.dot_tiles is not None:
        emit_dot_tiles(f, target, c, road.dot_tiles, a, b, to, thread, threads)
        return 2
    if finish is None:
        if road.dots and in_one_piece(c):
            emit_dots(f, target, c, road.blocking, a, b, scratch, thread, threads, None, to)
            return 2
        if road.dots and road.blocking.n == 1:  # a column of results is stored as a row
            finish = turned_back(store_to(to, swapped(c), target), c.dtype, road, scratch, target)
        elif road.dots or not road.blocking.direct:
            finish = store_to(to, c, target)
    if road.dots and finish is not None:
        emit_dots(f, target, c, road.blocking, a, b, scratch, thread, threads, finish)
        return 2
    tiles, overlapped = loops_of(road.blocking)
    if road.blocking.overlap and vector and finish:
        overlapped(f, target, c, road.blocking, a, b, scratch, finish, prefetch, load_a, load_b, vector).emit(thread, threads)
    else:
        tiles(f, target, c, road.blocking, a, b, scratch, finish, c_pointer, prefetch, load_a, load_b,
              past, hidden).emit(thread, threads)
    return road.blocking.care


def turned_back(finish: Finish, dtype: str, road: Road, memory: Value, target: Target) -> Finish:
    """A finish that shows `finish` the transpose of its tile."""
    g = road.blocking

    def turn(f: Function, tile: Tile) -> None:
        stride = road.turned_stride
        if tile.stride == 1 or g.m == 1:  # one column or one row: the same memory
            finish(f, tile.turned(tile.pointer, 1, stride))
            return
        if turns_by_vectors(g.lanes, target) and tile.stride % g.lanes == 0:
            store_columns(f, tile, dtype, g.lanes, memory, i64(stride))
        else:
            with f.loop(i64(0), tile.rows) as row, f.loop(i64(0), tile.columns) as column:
                value = f.load(f.offset(tile.pointer, f.add(f.mul(row, i64(tile.stride)), column), dtype), dtype)
                f.store(value, f.offset(memory, f.add(f.mul(column, i64(stride)), row), dtype))
        finish(f, tile.turned(memory, stride, stride))

    return turn


def rows_of_dots(g: Blocking, itemsize: int, target: Target) -> int:
    """Rows of a tile of dot products."""
    return dot_rows(g.m, g.n, (g.a_m[0][1] if g.a_m else 0) * itemsize, target)


def in_one_piece(c: Contraction) -> bool:
    """Whether rows of the result with all their columns follow each other in memory."""
    return merge((*c.m, *c.n), (*c.c_m, *c.c_n)) in ((), ((math.prod(c.m) * math.prod(c.n), 1),))


def emit_dots(f: Function, target: Target, c: Contraction, g: Blocking, a: Value, b: Value, scratch: Value,
              thread: Value, threads: Value, finish: Finish | None, result: Value | None = None) -> None:
    """The loops of a contraction as dot products: tiles of rows, all the columns at once.

    Without a finish they are stored at `result`, where each member's results are in one piece.
    """
    k = math.prod(c.k)
    a_row = g.a_m[0][1] if g.a_m else 0
    rows = rows_of_dots(g, SIZES[c.dtype], target)
    in_place = dot_columns_in_place(c)
    b_column = (g.b_n[0][1] if g.b_n else 0) if in_place else k
    packed = f.offset(scratch, i64(align(rows * g.n * SIZES[c.dtype])), "i8")

    def item(batch: Value, low: Value, high: Value) -> None:
        first = f.offset(a, flat_offset(f, batch, g.a_batch), c.dtype)
        columns = f.offset(b, flat_offset(f, batch, g.b_batch), c.dtype)
        if not in_place:
            with f.loop(0, g.n) as j:
                source = f.offset(columns, flat_offset(f, j, g.b_n), c.dtype)
                to = f.offset(packed, f.mul(j, i64(k)), c.dtype)
                with f.loop(0, k) as place:
                    offset = flat_offset(f, place, merge(c.k, c.b_k))
                    f.store(f.load(f.offset(source, offset, c.dtype), c.dtype), f.offset(to, place, c.dtype))
            columns = packed
        name = dot_function(f, target, DotTile(c.dtype, rows, g.n, k, g.lanes, a_row, b_column))
        with f.loop(low, high) as tile:
            start = f.mul(tile, i64(rows))
            begin = start if g.m % rows == 0 else f.minimum(start, i64(g.m - rows))  # the last tile may overlap
            skipped = f.sub(start, begin)
            operands = f.offset(first, f.mul(begin, i64(a_row)), c.dtype), columns
            if finish is None:
                assert result is not None
                place = f.add(flat_offset(f, batch, g.c_batch), f.mul(begin, i64(g.n)))
                f.call(name, [*operands, f.offset(result, place, c.dtype)])
            else:
                f.call(name, [*operands, scratch])
                finish(f, Tile(f.offset(scratch, f.mul(skipped, i64(g.n)), c.dtype), g.n, f.sub(i64(rows), skipped),
                               i64(g.n), start, i64(0), batch, tile, i64(0), g.n))

    spread(f, g.batch, -(-g.m // rows), thread, threads, item, dealt=c.dealt)
