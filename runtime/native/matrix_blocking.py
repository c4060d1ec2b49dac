"""How a contraction is cut for a matrix unit, and whether that pays: decisions only.

Knows sizes, strides, caches and what a matrix unit takes.  Must not know LLVM or how the code is written.
"""

from __future__ import annotations

import math
from functools import lru_cache

from graphc.runtime.native.axes import Axes, Contraction, pieces_run
from graphc.runtime.native.blocking import KEPT_SHARE, LARGE, choose_blocking, choose_sharing, with_regions
from graphc.runtime.native.blocks import Blocking, Sharing
from graphc.runtime.native.operands import lies_across, lies_along, stays_the_same
from graphc.runtime.native.packing import PIECE
from graphc.runtime.native.pieces import DEPTH, LANES, PRODUCTS, REGISTER_BYTES, SIDE
from graphc.runtime.native.pieces import loads as loads_of
from graphc.runtime.native.sharing import MOST_BALANCED
from graphc.runtime.native.target import Target

from graphc.records import replace

LEAST_PRODUCTS, LEAST_SIDE, LEAST_DEPTH = 1 << 15, 8, 16  # of one member of the batch: less is not worth packing
BLOCK_K = {1: 1024, 2: 384, 3: 256}  # k of a packed block, by the number of pieces, where a sum is longer than half more
PANELS_SHARE = {1: 4, 2: 2, 3: 2}  # of the second-level cache, which packed panels take: rows of one piece come from there too
# In sizes of that cache: an operand that stays packed.  With few products for each element packing it again takes longer than
# reading it from further away.
KEPT = {1: 4.0, 2: KEPT_SHARE, 3: KEPT_SHARE}
PARTIAL_BYTES = 4 << 20  # of sums that wait for the next block of k: they come and go while others are multiplied
STEP, LOAD = SIDE, 8  # cycles of one multiplication of matrix registers, and of loading one
TILE_CYCLES, CALL_CYCLES = 250, 3000  # of a tile beside its multiplications, of a contraction beside its tiles
SPLIT_CYCLES = {1: 0.25, 2: 0.5, 3: 0.8}  # of an element, by the number of its pieces
TURN_CYCLES = 0.25  # of a piece of an element that is transposed
COPY_CYCLES, FAR_CYCLES = 0.3, 2.5  # of an element that is copied before that: lines, and single elements
WORTH = {1: 1.0, 2: 1.25, 3: 1.25}  # how many times as fast it must seem, by pieces: estimates err, and many lose much at once


def step_cycles(down: int, across: int, pieces: int) -> int:
    """Of one depth of k of a tile."""
    of_a, of_b = loads_of(pieces)
    return max(len(PRODUCTS[pieces]) * STEP * down * across, LOAD * (of_a * down + of_b * across))


def tile_sides(m: int, n: int, pieces: int) -> tuple[int, int]:
    """(registers down, registers across) of a tile."""
    def cycles(down: int, across: int) -> int:
        return -(-m // (SIDE * down)) * -(-n // (LANES * across)) * step_cycles(down, across, pieces)

    return min(((d, a) for d in (2, 1) for a in (2, 1)), key=lambda sides: (cycles(*sides), -sum(sides)))


def pack_cycles(k: int | None, axes: Axes, load: bool, pieces: int, along: bool) -> float:
    """Of an element.  along: whether registers have rows along k."""
    natural, turned = (lies_along, lies_across) if along else (lies_across, lies_along)
    if natural(k, axes) and not load:
        return SPLIT_CYCLES[pieces]
    if turned(k, axes) and not load:
        return SPLIT_CYCLES[pieces] + TURN_CYCLES * pieces
    turning = TURN_CYCLES * pieces if along else 0
    if pieces_run(axes) and not load:
        return SPLIT_CYCLES[pieces] * max(1, LANES / pieces_run(axes)) + turning
    return SPLIT_CYCLES[pieces] + (COPY_CYCLES if lies_across(k, axes) else FAR_CYCLES) + turning


@lru_cache(maxsize=512)
def matrix_blocking(c: Contraction, target: Target, loads: tuple[bool, bool], whole_rows: bool) -> Blocking | None:
    """The blocking for a matrix unit; None where there is none, or where it cannot pay."""
    base = choose_blocking(c, target, False, loads)
    m, n, k, pieces = base.m, base.n, math.prod(c.k), target.pieces
    if (not pieces or not target.has_matrix_unit or c.dtype != "float" or base.empty or 0 in c.k or min(m, n) < LEAST_SIDE
            or k < LEAST_DEPTH or m * n * k < LEAST_PRODUCTS):
        return None
    down, across = tile_sides(m, n, pieces)
    height, width = SIDE * down, LANES * across
    row_tiles, panels = -(-m // height), -(-n // width)
    runs = math.lcm(base.a_run or 1, base.b_run or 1)
    block_k = BLOCK_K[pieces]
    inner_blocks = 1 if base.k_inner <= block_k + block_k // 2 else math.ceil(base.k_inner / block_k)
    k_in_block = math.ceil(math.ceil(base.k_inner / inner_blocks) / runs) * runs
    inner_blocks = -(-base.k_inner // k_in_block)
    k_blocks = math.prod(s for s, _ in base.a_k_outer) * inner_blocks
    deep = -(-k_in_block // DEPTH)
    panel_bytes, row_tile_bytes = (deep * pieces * side * REGISTER_BYTES for side in (across, down))
    most_panels = panels if whole_rows else max(1, min(panels, target.l2_bytes // PANELS_SHARE[pieces] // panel_bytes))
    panels_in_block = -(-panels // -(-panels // most_panels))
    sums_bytes = height * width * 4
    tiles_in_block = row_tiles
    if k_blocks > 1:
        tiles_in_block = max(1, min(row_tiles, PARTIAL_BYTES // (panels_in_block * sums_bytes)))
    padded_k = deep * DEPTH
    gathers = whole_rows and panels > 1
    _, pack_rows, pack_columns = parts_of_cost(base, pieces, loads, m, n, k)
    large = base.batch * m * n * k >= LARGE
    most_kept, kept = KEPT[pieces] * target.l2_bytes, (k_blocks * row_tiles * row_tile_bytes, k_blocks * panels * panel_bytes)
    same = [every and not load for every, load in zip(stays_the_same(base), loads, strict=True)]
    keeps_rows = kept[0] <= most_kept and (same[0] or (base.batch == 1 and large))
    # each of two threads packs the whole operand along which the work is not split, and rows that are not kept for every block
    again = -(-panels // panels_in_block)
    by_rows = again * pack_rows + 2 * pack_columns
    by_panels = 2 * pack_rows * (1 / base.batch if keeps_rows else again) + pack_columns
    split_rows = whole_rows or panels == 1 or (row_tiles > 1 and by_rows < by_panels)
    sharing, side = Sharing(), int(split_rows)
    if same[side] and kept[side] <= most_kept:
        sharing = Sharing(portion=int(large), keeps=True, most_threads=MOST_BALANCED)
    elif base.batch == 1 and large:
        sharing = choose_sharing(split_rows, True, row_tiles, panels, m, n, KEPT_SHARE * kept[side] / most_kept, False)
    rows_packed = row_tiles * k_blocks if sharing.keeps and not split_rows else 1
    panels_packed = panels * k_blocks if sharing.keeps and split_rows else panels_in_block
    made = replace(
        base, segment=m, a_segments=(), c_segments=(), segment_tiles=row_tiles, row_tiles=row_tiles, height=height, tall=0,
        panels=panels, vectors=across, wide=0, masked=False, stretch=0, stretch_panels=0, stacked=0,
        k_in_block=k_in_block, k_inner_blocks=inner_blocks, k_blocks=k_blocks, pack_a=True, pack_b=True, streamed=False,
        fetched=0, rows_stay=False, by_depth=False,
        a_line=height, tiles_in_block=tiles_in_block, panels_in_block=panels_in_block, split_rows=split_rows,
        **vars(sharing), row_tile_bytes=row_tile_bytes, panel_bytes=panel_bytes, gathers_rows=gathers, overlapped=False,
        overlap=0, pieces=pieces)
    return with_regions(made, {
        "offsets": 8 * PIECE * (max(padded_k, height, width) + 2 * LANES),
        "tile": 2 * sums_bytes,
        "rows": height * panels * width * 4 if gathers else 0,
        "a": rows_packed * row_tile_bytes,
        "lines": (max(k_in_block * height, height * padded_k) + LANES) * 4,  # rows of A before they are transposed
        "columns": (k_in_block * width + LANES) * 4,  # columns of B before they are in pieces
        "loaded": k_in_block * width * 4 if loads[1] and base.b_k == 1 else 0,
        "partial": tiles_in_block * panels_in_block * sums_bytes if k_blocks > 1 else 0,
        "b": panels_packed * panel_bytes,
    })


def parts_of_cost(g: Blocking, pieces: int, loads: tuple[bool, bool], m: int, n: int, k: int) -> tuple[float, float, float]:
    """Cycles of one member of the batch: (multiplications, packing A once, packing B once)."""
    down, across = tile_sides(m, n, pieces)
    tiles = -(-m // (SIDE * down)) * -(-n // (LANES * across))
    step = step_cycles(down, across, pieces)
    rows = pack_cycles(g.a_k, g.a_m, loads[0], pieces, True)
    columns = pack_cycles(g.b_k, g.b_n, loads[1], pieces, False)
    return tiles * (-(-k // DEPTH) * step * 1.1), m * k * rows, n * k * columns


def matrix_cost(c: Contraction, g: Blocking, loads: tuple[bool, bool]) -> float:
    """Cycles for one member of the batch that vectors may take and still be preferred."""
    k = math.prod(c.k)
    multiply, rows, columns = parts_of_cost(g, g.pieces, loads, g.m, g.n, k)
    tiles = g.row_tiles * g.panels * (TILE_CYCLES + 100 * (g.k_blocks - 1))
    again_rows = 1 / g.batch if g.keeps and not g.split_rows else -(-g.panels // g.panels_in_block)
    again_columns = 1 / g.batch if g.keeps and g.split_rows else -(-g.row_tiles // g.tiles_in_block)
    return WORTH[g.pieces] * (multiply + tiles + rows * again_rows + columns * again_columns + CALL_CYCLES / g.batch)
