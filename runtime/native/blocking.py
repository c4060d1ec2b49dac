"""How a contraction is cut into tiles, panels and blocks: decisions only.

Each part of a `Blocking` is a record and one function that decides it, from rows and sums to the memory that all takes.
Knows sizes, strides, registers and caches.  Must not know LLVM or how the code is written.
"""

from __future__ import annotations

import math
from functools import lru_cache

from graphc.runtime.native.axes import Contraction, adjacent, run, split_evenly, still
from graphc.runtime.native.blocks import Blocking, Blocks, Depth, Sharing, Tiles
from graphc.runtime.native.microkernel import most_rows
from graphc.runtime.native.operands import (
    FAR_DEPTH,
    LINE,
    SCANT_ROWS,
    SHALLOW,
    SQUARE,
    WIDE,
    Extent,
    Rows,
    Sums,
    bytes_touched_of_a,
    columns_beside,
    crooked,
    crowds,
    depths,
    extent_of,
    lies_along,
    listed,
    most_in_set,
    packs_a,
    packs_b,
    passing_depth,
    rows_of,
    share_sets,
    spans_much,
    stacks,
    stays_the_same,
    stretch_of,
    sums_of,
    usual_depth,
    ways,
)
from graphc.runtime.native.packing import PIECE
from graphc.runtime.native.sharing import MOST_BALANCED
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_shapes import (
    LEAST_SUMS,
    LONG_PIECES,
    MANY_SUMS,
    far_result,
    split_low_rows,
    split_rows_of,
    vectors_beside,
    writes_in_order,
)
from graphc.runtime.native.values import SIZES

from graphc.plan import align
from graphc.records import replace

DEEP, DEEP_SHARE = 1024, 4  # k of the blocks of few columns; the part (one in so many) of the second-level cache they may take
ODD, ODD_ROWS = (3, 5), 64  # vectors of columns of which panels of two would leave one alone; rows for which that counts
OVERLAPPED_ROWS = 12  # of two vectors: the registers left serve the epilogue of the tile before
LEAST_OVERLAPPED, LEAST_STEP_K, STEP_K = 8, 3, 2  # rows; k beside which a row, a vector of the tile before is finished
LONG = 1 << 22  # products of a plain contraction whose code may take more time to compile: about 25 microseconds
LARGE = 1 << 24  # float32 products of a contraction that threads balance between them: about 100 microseconds
KEPT_SHARE = 0.5  # of the second-level cache: more of a packed operand would drive out what is used beside it
LEAST_UNITS, COLUMNS_A_THREAD = 8, 160  # units, rows or columns of each thread for which it pays to pack so much
PORTIONS = 64  # that row tiles are cut into
ROWS_OF_PART, MOST_PARTS = 256, 4  # rows for which a panel is packed again
FETCHED_BYTES, MOST_FETCHED = 96 << 10, 80  # rows of larger operands are fetched beside the tile before; lines beside a panel
AHEAD = 8 << 10  # bytes of a result, or more, that are fetched before they are written
STAYING_SHARE = 0.125  # of the third-level cache, which other cores use as well: rows that stay packed for many panels
FEW_TILES = 4  # row tiles for which a panel is packed just in time
PIECE_BYTES = 2  # of bfloat16


@lru_cache(maxsize=512)
def choose_blocking(c: Contraction, target: Target, plain: bool, loads: tuple[bool, bool] = (False, False),
                    whole_rows: bool = False, overlap: bool = False, paired: bool = False) -> Blocking:
    """The blocking of a contraction; `plain` asks for a result that the micro-kernel may write itself.

    loads: whether A, whether B is computed while it is packed.
    whole_rows: finished tiles must have all columns.
    overlap: a tile may be finished while the next one is summed, where registers and sizes allow.
    paired: both operands are packed as pairs of bfloat16.
    """
    if 0 in c.k:  # an empty sum: one product of zeros, both operands being one number
        c = replace(c, k=(), a_k=(), b_k=(), a_batch=still(c.batch), a_m=still(c.m), b_batch=still(c.batch),
                    b_n=still(c.n))
    itemsize = SIZES[c.dtype]
    packed = PIECE_BYTES if paired else itemsize  # bytes of an element where it is packed
    extent, sums = extent_of(c, target.lanes(itemsize)), sums_of(c)
    rows = rows_of(c, plain and (target.has_masks or not extent.ragged))
    overlap = overlap and not plain and not whole_rows
    thin = 0 if paired else passing_depth(extent, rows, sums, itemsize, target, loads, overlap)
    tiles = choose_tiles(extent, rows, sums, itemsize, target, loads, overlap, thin, packed)
    thin_blocks = max(1, round(sums.k_inner / thin)) if thin else 0
    crowded = share_sets(rows.c_row, itemsize) and tiles.height > ways(target)
    if thin_blocks > 1 and (crowded or rows.c_row * itemsize % LINE != 0):  # added to many times, in lines that threads share
        rows = replace(rows, direct=False)
    deep = 0 if thin else deepest(extent, sums, tiles, itemsize, target)
    depth = choose_depth(sums, math.prod(size for size, _ in sums.a_k_outer), thin_blocks, deep, packed,
                         target if tiles.pack_b else None)
    large_b = spans_much(extent, sums, itemsize, tiles.stretch) and not thin
    by_lines = not loads[1] and adjacent(extent.b_n)
    blocks = choose_blocks(extent, rows, tiles, depth, itemsize, packed, target, large_b, by_lines, whole_rows, thin)
    if thin == FAR_DEPTH and sums.b_k is not None:
        blocks = replace(blocks, ahead=math.ceil(depth.k_in_block / tiles.row_tiles))
    elif not thin and not loads[0]:
        blocks = replace(blocks, fetched=lines_fetched(extent, rows, sums, tiles, depth, blocks, itemsize, target))
    whole_lines = extent.lanes * math.ceil(tiles.height / extent.lanes)
    a_line = whole_lines if paired or tiles.height > extent.lanes else tiles.height
    pairs = SQUARE * math.ceil(depth.k_in_block / (2 * SQUARE)) if paired else 0
    steps = pairs or depth.k_in_block
    row_tile_bytes = align((steps * a_line + extent.lanes) * itemsize)
    panel_bytes = align((steps * tiles.vectors * extent.lanes + extent.lanes) * itemsize)
    sharing = Sharing()
    packs = tiles.pack_b if blocks.split_rows else tiles.pack_a
    kept = depth.k_blocks * (tiles.panels * panel_bytes if blocks.split_rows else tiles.row_tiles * row_tile_bytes)
    kept_share = kept / target.l2_bytes
    large = extent.batch * extent.m * extent.n * math.prod(c.k) * itemsize >= LARGE * SIZES["float"]
    side = int(blocks.split_rows)
    if packs and not loads[side] and stays_the_same(extent)[side] and kept_share <= KEPT_SHARE:
        sharing = Sharing(portion=int(large), keeps=True, most_threads=MOST_BALANCED)
    elif large:
        straight = len(extent.a_m) <= 1 and rows.a_row == 1 and not loads[0]
        if shares_by_block(extent, tiles, depth, kept_share, straight):
            blocks = replace(blocks, split_rows=True)
            sharing = Sharing(portion=max(1, tiles.row_tiles // PORTIONS), by_block=True,
                              most_threads=threads_that_pack(tiles.row_tiles, extent.m))
        elif extent.batch == 1 or not packs:
            sharing = choose_sharing(blocks.split_rows, packs, tiles.row_tiles, tiles.panels, extent.m, extent.n, kept_share,
                                     straight)
    blocks = keep_rows(rows, tiles, depth, blocks, sharing, row_tile_bytes, extent.lanes, target)
    parts = {**vars(extent), **vars(rows), **vars(sums), **vars(tiles), **vars(depth), **vars(blocks), **vars(sharing)}
    least = sums.k_inner - (depth.k_inner_blocks - 1) * depth.k_in_block  # k of the last block
    if paired:
        least = math.ceil(least / 2)
    made = Blocking(**parts, a_line=a_line, row_tile_bytes=row_tile_bytes, panel_bytes=panel_bytes, regions={},
                    gathers_rows=whole_rows and tiles.panels > 1, pieces=int(paired), pairs=pairs,
                    along=paired and goes_along(extent, sums, depth.a_run, loads[0], target),
                    overlap=min(STEP_K, (least - 1) // (tiles.height * tiles.vectors)) if tiles.overlapped else 0)
    return with_regions(made, regions_of(made, itemsize, loads[1]))


def goes_along(extent: Extent, sums: Sums, run: int, load: bool, target: Target) -> bool:
    """Whether rows of A are packed as pairs without being turned."""
    if load:
        return sums.a_k == 1
    return lies_along(sums.a_k, extent.a_m) or listed(sums.a_k, extent.a_m, run, load, target)


def choose_tiles(extent: Extent, rows: Rows, sums: Sums, itemsize: int, target: Target, loads: tuple[bool, bool],
                 overlap: bool, thin: int, packed: int) -> Tiles:
    """packed: bytes of an element where it is packed; fewer than it has elsewhere where all are packed as pairs."""
    lanes, segment = extent.lanes, rows.segment
    segments = extent.m // segment if segment else 0
    paired = packed < itemsize
    stretch = 0 if paired else stretch_of(extent, sums, target, loads[1], overlap)
    stacked = extent.b_n[-2][1] if stretch and stacks(extent, stretch) else 0
    stretches = extent.n // stretch if stretch and not stacked else 1
    pack_b = paired or (not thin and not stretch and packs_b(extent, rows, sums, itemsize, target, loads[1], overlap))
    total_vectors = extent.n // stretch if stacked else max(1, math.ceil((stretch or extent.n) / lanes))
    long = sums.k_inner > 2 * SHALLOW  # else it is the result that takes time: long pieces of its rows
    most_vectors = 2 if (pack_b and extent.m > 8 and long) or target.registers == 16 else 4
    if pack_b and segment >= ODD_ROWS and target.registers >= 32 and total_vectors in ODD and sums.a_k is not None:
        most_vectors = 3
    alone = total_vectors == 4 and rows.direct and 0 < extent.n % lanes <= lanes // 2  # in one panel: half a vector is narrow
    if pack_b and not (paired or overlap) and target.multiply_adds == 1 and (alone or crowds(rows, sums, itemsize)) and long:
        most_vectors = 4  # low tiles, whose rows a set holds: nothing is copied, and few sums keep a slower multiply-add busy
    large_b = not pack_b and spans_much(extent, sums, itemsize, stretch)
    few_rows = segment <= (2 * most_rows(target, 2) if large_b else SCANT_ROWS)
    if thin and segment > most_rows(target, 2):  # tall tiles read a block of B less often
        again = share_sets(sums.b_k or 0, itemsize)  # and what a set does not hold is read again
        most_vectors = 3 if again and segment <= 2 * most_rows(target, 3) else 2
    elif not pack_b and few_rows:  # few tiles read all of B: one or two if possible
        most_vectors = vectors_beside(segment, target, crooked(sums, itemsize), most_vectors)
    in_order = rows.direct and not (stretch or few_rows) and writes_in_order(extent, sums.k_inner, itemsize, target)
    if in_order:
        most_vectors = LONG_PIECES
    depth = usual_depth(sums, packed, target if pack_b else None)
    panels, vectors, wide = split_evenly(total_vectors, most_vectors)
    least = MANY_SUMS if rows.direct and extent.m * extent.n * sums.k_inner >= LONG else LEAST_SUMS
    segment_tiles, height, tall = (split_low_rows(segment, vectors, target) if in_order else
                                   split_rows_of(segment, vectors, depth * lanes * packed, target, least))
    unequal = tall or crooked(sums, itemsize)
    in_one_set = itemsize >= WIDE and sums.a_k == 1 and share_sets(rows.a_row, itemsize)  # tall tiles would be copied
    taller = unequal and not in_one_set and not pack_b and not few_rows
    if taller and vectors > 2 and panels > 2 and sums.k_inner > SHALLOW:
        panels, vectors, wide = split_evenly(total_vectors, 2)  # taller tiles read B less often
        segment_tiles, height, tall = split_rows_of(segment, vectors, depth * lanes * itemsize, target, MANY_SUMS)
    overlap = (overlap and target.has_masks and target.registers >= 32 and segments == 1 and extent.m >= LEAST_OVERLAPPED
               and extent.n >= 2 * lanes and itemsize >= 4 and None not in (sums.a_k, sums.b_k)
               and sums.k_inner * packed > LEAST_STEP_K * OVERLAPPED_ROWS * itemsize)
    if overlap:  # tiles of one size: the last ones begin earlier, and only finish what is theirs
        panels, vectors, wide = math.ceil(total_vectors / 2), 2, 0
        segment_tiles, height, _ = split_evenly(segment, OVERLAPPED_ROWS)
        tall = 0
    several = 1 if large_b and not thin else panels * stretches  # that share a packed tile
    pack_a = paired or packs_a(extent, rows, sums, itemsize, height, several, loads[0], target)
    if stays_the_same(extent)[0] and segments * segment_tiles < panels * stretches:  # packed once for all members of the batch
        touched = bytes_touched_of_a(extent, sums, itemsize)
        pack_a |= touched > target.l1_bytes // 2 and (sums.a_k is None or touched > 2 * extent.m * sums.k_inner * itemsize)
    if sums.a_k == 1 and share_sets(rows.a_row, itemsize) and height > most_in_set(target) and not (pack_a or overlap):
        segment_tiles, height, tall = split_evenly(segment, ways(target))  # rows would drive out each other
    masked = (stretch or extent.n) % lanes != 0 and target.has_masks and (rows.direct or not pack_b) and not overlap
    own = not (stretch or paired) and (panels == 1 or wide == panels - 1)  # the last panel has a micro-kernel of its own
    half = lanes // 2 if masked and own and target.multiply_adds == 1 and 0 < extent.n % lanes <= lanes // 2 else 0
    return Tiles(pack_a=pack_a, pack_b=pack_b,
                 segment_tiles=segment_tiles, row_tiles=segments * segment_tiles, height=height, tall=tall,
                 panels=panels * stretches, vectors=vectors, wide=wide, overlapped=overlap, stretch=stretch,
                 stretch_panels=panels if stretch else 0, stacked=stacked, masked=masked, narrow=half, in_order=in_order)


def deepest(extent: Extent, sums: Sums, t: Tiles, itemsize: int, target: Target) -> int:
    """The most k of a block of few columns, whose rows of A are read where they are: in long pieces.  0: as usual.

    The processor does not foresee short pieces of many rows, and each further block adds to the result once more.
    """
    if t.pack_a or t.overlapped or sums.a_k != 1 or sums.b_k is None or sums.a_k_outer:
        return 0
    return min(DEEP, target.l2_bytes // DEEP_SHARE // (t.panels * t.vectors * extent.lanes * itemsize))


def choose_depth(sums: Sums, k_outer: int, thin_blocks: int, deep: int, itemsize: int, packed_for: Target | None) -> Depth:
    if thin_blocks:
        blocks = thin_blocks
    elif deep > depths(itemsize, packed_for)[-1]:
        blocks = math.ceil(sums.k_inner / deep)
    else:
        _, most, limit = depths(itemsize, packed_for)
        blocks = 1 if sums.k_inner <= limit else math.ceil(sums.k_inner / most)
    size = math.ceil(sums.k_inner / blocks)
    a_run, b_run = run(sums.a_inner), run(sums.b_inner)
    whole_runs = math.lcm(a_run or 1, b_run or 1)
    squares = math.lcm(whole_runs, 2 * SQUARE)
    if itemsize == PIECE_BYTES and blocks > 1 and squares <= size:
        size = math.ceil(size / squares) * squares
    elif whole_runs <= size:
        size = math.ceil(size / whole_runs) * whole_runs
    else:
        a_run = b_run = 0
    blocks = max(1, math.ceil(sums.k_inner / max(1, size)))
    return Depth(k_in_block=size, k_inner_blocks=blocks, k_blocks=max(1, k_outer * blocks), a_run=a_run, b_run=b_run)


def evened(count: int, most: int) -> int:
    """How many of `count` items go into a block of at most `most`, where blocks are about equal."""
    return math.ceil(count / math.ceil(count / max(1, most)))


def choose_blocks(extent: Extent, rows: Rows, t: Tiles, depth: Depth, itemsize: int, packed: int, target: Target, large_b: bool,
                  by_lines: bool, whole_rows: bool, thin: int) -> Blocks:
    """large_b: whether a block of B that is read where it is does not stay in cache by itself; by_lines: B is packed so;
    thin: k of the blocks in which B just passes by; else 0.
    """
    width = t.vectors * extent.lanes
    panel_bytes = max(1, depth.k_in_block * width * packed)
    panels_in_block, tiles_in_block = t.panels, max(1, t.row_tiles)
    if t.pack_b:
        # few row tiles use a panel while it is in the first-level cache
        few_tiles = t.row_tiles <= FEW_TILES and not t.pack_a and not by_lines
        panels_in_block = 1 if few_tiles else evened(t.panels, target.l2_bytes // 2 // panel_bytes)
    elif thin:
        panels_in_block = evened(t.panels, columns_beside(extent, itemsize, target) // width)
    elif large_b:  # one panel stays in cache while every row tile uses it
        panels_in_block = 1
    if whole_rows:
        panels_in_block = t.panels
    if not rows.direct and depth.k_blocks > 1:  # the partial sums of a block stay in scratch
        tiles_in_block = max(1, min(tiles_in_block, 512 // t.height))
        if whole_rows:
            most = target.l2_bytes // 2 // (t.panels * t.height * width * itemsize)
            tiles_in_block = max(1, min(tiles_in_block, most))
        else:
            sums = tiles_in_block * t.height * width * itemsize
            share = target.l2_bytes * 3 // 5  # the packed block and its sums stay in the second-level cache together
            panels_in_block = max(1, min(panels_in_block, share // (sums + (panel_bytes if t.pack_b else 0))))
    streamed = panel_bytes * panels_in_block > target.l1_bytes
    if not t.pack_b:
        streamed = not t.stretch and depth.k_in_block > SHALLOW and (streamed or large_b or thin > 0)
    # panels are packed anew by every thread that shares rows; so are rows of A by those that share panels, in pieces of lines
    split_rows = whole_rows or t.row_tiles >= (4 * t.panels if t.pack_b and not t.overlapped else t.panels)
    whole_tiles = split_rows and panels_in_block == t.panels and t.row_tiles == t.segment_tiles
    follow = t.in_order and whole_tiles and rows.c_row == extent.n  # the result's lines follow each other as its tiles do
    return Blocks(tiles_in_block=tiles_in_block, panels_in_block=panels_in_block, streamed=streamed, split_rows=split_rows,
                  far_result=far_result(extent, depth.k_in_block, itemsize, target),
                  in_order_ahead=math.ceil(AHEAD / (t.height * extent.n * itemsize)) if follow else 0)


def lines_fetched(extent: Extent, rows: Rows, sums: Sums, t: Tiles, depth: Depth, blocks: Blocks, itemsize: int,
                  target: Target) -> int:
    """Lines of the next tile's rows that are fetched beside each panel; of each row, or each k where rows are neighbours."""
    if rows.gathered or rows.a_segments or extent.m * sums.k_inner * itemsize <= FETCHED_BYTES:
        return 0
    if blocks.panels_in_block == 1 and not t.pack_a:  # every panel reads A anew, only the first one from afar
        return 0
    panels = blocks.panels_in_block if blocks.split_rows else max(1, blocks.panels_in_block // 2)  # two threads share them
    if sums.a_k == 1:
        return min(math.ceil(depth.k_in_block * itemsize / LINE / panels), MOST_FETCHED // t.height)
    return min(math.ceil(depth.k_in_block / panels), MOST_FETCHED // 2) if rows.a_row == 1 else 0


def keep_rows(rows: Rows, t: Tiles, depth: Depth, blocks: Blocks, sharing: Sharing, row_tile_bytes: int, lanes: int,
              target: Target) -> Blocks:
    """The blocks where rows for three blocks of panels or more are packed just once, if the third-level cache takes them.

    From there they come while they are multiplied, which the cache keeps up with where multiply-adds are slower.
    """
    if target.multiply_adds > 1 or not (t.pack_a and t.pack_b) or sharing.keeps or t.panels <= 2 * blocks.panels_in_block:
        return blocks
    most = int(target.l3_bytes * STAYING_SHARE) // row_tile_bytes
    if sharing.by_block or not (rows.direct or depth.k_blocks == 1):
        kept = t.row_tiles if sharing.by_block else blocks.tiles_in_block * depth.k_blocks
        return replace(blocks, rows_stay=True) if kept <= most else blocks
    fewer = min(blocks.tiles_in_block, evened(t.row_tiles, most))
    again = fewer < t.row_tiles and fewer * t.height < blocks.panels_in_block * t.vectors * lanes  # B is packed more often
    return blocks if again else replace(blocks, rows_stay=True, by_depth=True, tiles_in_block=fewer)


def threads_that_pack(units: int, length: int) -> int:
    """The most threads that may each pack all that `units` units, of `length` rows or columns together, need."""
    return min(units // LEAST_UNITS, length // COLUMNS_A_THREAD)


def shares_by_block(extent: Extent, t: Tiles, depth: Depth, kept: float, straight: bool) -> bool:
    """Whether threads share out the row tiles of one block of panels after the other, each of them packing the block.

    For more than stays packed: a piece of the rest needs nothing packed again then but its own rows.  A weight's gradient
    is such.  kept: all that units need packed, in sizes of the second-level cache.
    """
    return (t.pack_a and t.pack_b and straight and kept > KEPT_SHARE and depth.k_blocks == 1 and extent.batch == 1
            and extent.n <= 2 * extent.m and threads_that_pack(t.row_tiles, extent.m) > 1)


def choose_sharing(split_rows: bool, packs: bool, row_tiles: int, panels: int, m: int, n: int, kept: float,
                   straight: bool) -> Sharing:
    """For one large contraction.

    packs: whether the side that all units need is packed.  kept: all of it, in sizes of the second-level cache.
    straight: whether rows of A are packed as they lie, which costs little.
    """
    if not packs:
        return Sharing(portion=1, most_threads=MOST_BALANCED)
    units, length = (row_tiles, m) if split_rows else (panels, n)
    most_threads = threads_that_pack(units, length)
    if most_threads < 2:
        return Sharing()
    if kept > KEPT_SHARE:
        return Sharing(most_threads=most_threads if straight and not split_rows else 1)
    if split_rows:
        return Sharing(portion=max(1, row_tiles // PORTIONS), keeps=True, most_threads=most_threads)
    parts = min(MOST_PARTS, max(1, min(m // ROWS_OF_PART, row_tiles)))
    return Sharing(portion=1, parts=parts, keeps=True, most_threads=most_threads)


def regions_of(g: Blocking, itemsize: int, load_b: bool) -> dict[str, int]:
    """Bytes of each part of a thread's memory."""
    width = g.vectors * g.lanes
    tile = g.height * width * itemsize
    rows_packed = g.row_tiles * g.k_blocks if g.keeps and not g.split_rows else 1
    if g.rows_stay:
        rows_packed = g.row_tiles if g.by_block else g.tiles_in_block * (1 if g.by_depth else g.k_blocks)
    panels_packed = g.panels * g.k_blocks if g.keeps and g.split_rows else g.panels_in_block
    return {
        "offsets": 8 * PIECE * (max(width, g.a_line) + 2 * g.lanes),
        "tile": 0 if g.direct else (2 if g.overlapped else 1) * tile,
        "rows": g.height * g.padded_n * itemsize if g.gathers_rows else 0,
        "a": rows_packed * g.row_tile_bytes if g.pack_a else 0,
        "loaded": g.k_in_block * width * itemsize if load_b and g.b_k == 1 else 0,
        "lines": (g.k_in_block * g.a_line + g.lanes) * itemsize if g.pairs else 0,  # before they are split
        "columns": (g.k_in_block * width + g.lanes) * itemsize if g.pairs else 0,
        "partial": g.tiles_in_block * g.panels_in_block * tile if g.k_blocks > 1 and not g.direct else 0,
        "b": panels_packed * g.panel_bytes if g.pack_b else 0,
    }


def with_regions(g: Blocking, sizes: dict[str, int]) -> Blocking:
    """The blocking with its memory laid out."""
    regions, total = {}, 0
    for name, size in sizes.items():
        regions[name] = total
        total += align(size)
    return replace(g, regions=regions, scratch_bytes=total)
