"""How a contraction is cut for a matrix unit, and whether that pays: decisions only.

Knows sizes, strides, caches and what a matrix unit takes.  Must not know LLVM or how the code is written.
"""

from __future__ import annotations

import math
from functools import lru_cache

from graphc.runtime.native.axes import Axes, Contraction, pieces_run
from graphc.runtime.native.blocking import LARGE, choose_blocking, choose_sharing, with_regions
from graphc.runtime.native.blocks import Blocking, Sharing
from graphc.runtime.native.packing import PIECE
from graphc.runtime.native.pieces import DEPTH, LANES, PIECES, PRODUCTS, REGISTER_BYTES, SIDE
from graphc.runtime.native.target import Target

from graphc.records import replace

LEAST_PRODUCTS, LEAST_SIDE, LEAST_DEPTH = 1 << 15, 8, 16  # of one member of the batch: less is not worth packing
BLOCK_K = 256  # k of a packed block, where a sum is longer than
LONGEST_K = 384
PARTIAL_BYTES = 4 << 20  # of sums that wait for the next block of k: they come and go while others are multiplied
STEP = SIDE  # cycles of one multiplication of matrix registers
TILE_CYCLES, CALL_CYCLES = 250, 3000  # of a tile beside its multiplications, of a contraction beside its tiles
SPLIT_CYCLES, TURN_CYCLES, COPY_CYCLES = 0.8, 0.9, 0.3  # of an element: in pieces, transposed, copied before that
WORTH = 1.25  # how many times as fast it must seem: estimates err


def tile_sides(m: int, n: int, k: int) -> tuple[int, int]:
    """(registers down, registers across) of a tile."""
    def cycles(down: int, across: int) -> int:
        loads = 8 * (4 * down + 3 * across)
        return -(-m // (SIDE * down)) * -(-n // (LANES * across)) * max(len(PRODUCTS) * STEP * down * across, loads)

    return min(((d, a) for d in (2, 1) for a in (2, 1)), key=lambda sides: (cycles(*sides), -sum(sides)))


def rows_in_place(g: Blocking, load: bool) -> bool:
    """Whether k is adjacent in A, whose rows are evenly spaced."""
    return g.a_k == 1 and len(g.a_m) <= 1 and not load


def columns_in_place(g: Blocking, load: bool) -> bool:
    """Whether columns of B are adjacent, and its k evenly spaced."""
    return g.b_k is not None and (not g.b_n or (len(g.b_n) == 1 and g.b_n[0][1] == 1)) and not load


def rows_turn_at_once(g: Blocking, load: bool) -> bool:
    """Whether A can be transposed straight from memory: its rows are neighbours."""
    return g.a_k is not None and len(g.a_m) == 1 and g.a_m[0][1] == 1 and not load


def copy_cycles(axes: Axes, adjacent: bool) -> float:
    return COPY_CYCLES if adjacent or pieces_run(axes) >= LANES else 1.3


@lru_cache(maxsize=512)
def matrix_blocking(c: Contraction, target: Target, loads: tuple[bool, bool], whole_rows: bool) -> Blocking | None:
    """The blocking for a matrix unit; None where there is none, or where it cannot pay."""
    base = choose_blocking(c, target, False, loads)
    m, n, k = base.m, base.n, math.prod(c.k)
    if (not target.matrix_unit or c.dtype != "float" or base.empty or 0 in c.k or min(m, n) < LEAST_SIDE or k < LEAST_DEPTH
            or m * n * k < LEAST_PRODUCTS):
        return None
    down, across = tile_sides(m, n, k)
    height, width = SIDE * down, LANES * across
    row_tiles, panels = -(-m // height), -(-n // width)
    runs = math.lcm(base.a_run or 1, base.b_run or 1)
    inner_blocks = 1 if base.k_inner <= LONGEST_K else math.ceil(base.k_inner / BLOCK_K)
    k_in_block = math.ceil(math.ceil(base.k_inner / inner_blocks) / runs) * runs
    inner_blocks = -(-base.k_inner // k_in_block)
    k_blocks = math.prod(s for s, _ in base.a_k_outer) * inner_blocks
    deep = -(-k_in_block // DEPTH)
    panel_bytes, row_tile_bytes = deep * PIECES * across * REGISTER_BYTES, deep * PIECES * down * REGISTER_BYTES
    most_panels = panels if whole_rows else max(1, min(panels, target.l2_bytes // 2 // panel_bytes))
    panels_in_block = -(-panels // -(-panels // most_panels))
    sums_bytes = height * width * 4
    tiles_in_block = row_tiles
    if k_blocks > 1:
        tiles_in_block = max(1, min(row_tiles, PARTIAL_BYTES // (panels_in_block * sums_bytes)))
    padded_k = deep * DEPTH
    gathers = whole_rows and panels > 1
    _, pack_rows, pack_columns = parts_of_cost(base, loads, m, n, k)
    # every thread packs the whole operand along which the work is not split
    split_rows = whole_rows or (row_tiles > 1 and pack_columns < pack_rows) or panels == 1
    sharing = Sharing()
    if base.batch == 1 and m * n * k >= LARGE:
        kept = k_blocks * (panels * panel_bytes if split_rows else row_tiles * row_tile_bytes)
        sharing = choose_sharing(split_rows, True, row_tiles, panels, m, n, kept / target.l2_bytes, False)
    rows_packed = row_tiles * k_blocks if sharing.keeps and not split_rows else 1
    panels_packed = panels * k_blocks if sharing.keeps and split_rows else panels_in_block
    made = replace(
        base, segment=m, a_segments=(), c_segments=(), segment_tiles=row_tiles, row_tiles=row_tiles, height=height, tall=0,
        panels=panels, vectors=across, wide=0, masked=False, stretch=0, stretch_panels=0, stacked=0,
        k_in_block=k_in_block, k_inner_blocks=inner_blocks, k_blocks=k_blocks, pack_a=True, pack_b=True, streamed=False,
        fetched=0, a_line=height, tiles_in_block=tiles_in_block, panels_in_block=panels_in_block, split_rows=split_rows,
        **vars(sharing), row_tile_bytes=row_tile_bytes, panel_bytes=panel_bytes, gathers_rows=gathers, overlapped=False,
        overlap=0, matrix=True)
    return with_regions(made, {
        "offsets": 8 * PIECE * (max(padded_k, height, width) + 2 * LANES),
        "tile": 2 * sums_bytes,
        "rows": height * panels * width * 4 if gathers else 0,
        "a": rows_packed * row_tile_bytes,
        "lines": (max(k_in_block * height, height * padded_k) + LANES) * 4,  # rows of A before they are transposed
        "turned": (height * padded_k + LANES) * 4,
        "columns": (k_in_block * width + LANES) * 4,  # columns of B before they are in pieces
        "loaded": k_in_block * width * 4 if loads[1] and base.b_k == 1 else 0,
        "partial": tiles_in_block * panels_in_block * sums_bytes if k_blocks > 1 else 0,
        "b": panels_packed * panel_bytes,
    })


def parts_of_cost(g: Blocking, loads: tuple[bool, bool], m: int, n: int, k: int) -> tuple[float, float, float]:
    """Cycles of one member of the batch: (multiplications, packing A once, packing B once)."""
    down, across = tile_sides(m, n, k)
    tiles = -(-m // (SIDE * down)) * -(-n // (LANES * across))
    step = max(len(PRODUCTS) * STEP * down * across, 8 * (4 * down + 3 * across))
    rows = SPLIT_CYCLES
    if not rows_in_place(g, loads[0]):
        rows += TURN_CYCLES
        if not rows_turn_at_once(g, loads[0]):
            rows += copy_cycles(g.a_m, len(g.a_m) == 1 and g.a_m[0][1] == 1)
    columns = SPLIT_CYCLES
    if not columns_in_place(g, loads[1]):
        columns += TURN_CYCLES if g.b_k == 1 else copy_cycles(g.b_n, len(g.b_n) == 1 and g.b_n[0][1] == 1)
    return tiles * (-(-k // DEPTH) * step * 1.1), m * k * rows, n * k * columns


def matrix_cost(c: Contraction, g: Blocking, loads: tuple[bool, bool]) -> float:
    """Cycles for one member of the batch that vectors may take and still be preferred."""
    k = math.prod(c.k)
    multiply, rows, columns = parts_of_cost(g, loads, g.m, g.n, k)
    tiles = g.row_tiles * g.panels * (TILE_CYCLES + 100 * (g.k_blocks - 1))
    again_rows, again_columns = -(-g.panels // g.panels_in_block), -(-g.row_tiles // g.tiles_in_block)
    return WORTH * (multiply + tiles + rows * again_rows + columns * again_columns + CALL_CYCLES / g.batch)
