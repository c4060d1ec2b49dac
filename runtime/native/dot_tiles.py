"""Contractions of few columns, or rows, as tiles of dot products: nothing is copied where k is adjacent in both operands.

A register tile would copy one of them first, turned, which takes about as long as few rows multiply; and few columns fill no
vectors.  Here vectors run along k, several rows meet several columns, and the result is stored where it belongs.
Knows sizes, strides, where dot products suit, and what tiles of them take.  Must not know other ways to compute contractions.
"""

from __future__ import annotations

import math

from graphc.runtime.native.axes import Contraction, merge
from graphc.runtime.native.dots import DotTile, dot_function
from graphc.runtime.native.emit import SIZES, Function, Value, i64
from graphc.runtime.native.operands import LINE
from graphc.runtime.native.sharing import spread
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import flat_offset

from graphc.records import NamedTuple

DOT_COLUMNS = 8  # up to so many columns dot products pay
MOST_COLUMNS = 32  # of which each row meets all: more of them fill vectors of a register tile
BETWEEN = 12  # cycles from tile to tile
LEAST_SUMS = 4  # on their way at a time


def dots_fit(c: Contraction, target: Target) -> bool:
    """Whether vectors along k suit: few columns, k adjacent in A, rows of A evenly spaced."""
    a_k = merge(c.k, c.a_k)
    return (math.prod(c.n) <= min(DOT_COLUMNS, target.registers // 4) and len(a_k) == 1 and a_k[0][1] == 1
            and a_k[0][0] >= target.lanes(SIZES[c.dtype]) and len(merge(c.m, c.a_m)) <= 1 and math.prod(c.m) > 0)


def dot_columns_in_place(c: Contraction) -> bool:
    """Whether the columns of B can be read where they are: k adjacent, columns evenly spaced."""
    b_k = merge(c.k, c.b_k)
    return len(b_k) == 1 and b_k[0][1] == 1 and len(merge(c.n, c.b_n)) <= 1


class DotTiles(NamedTuple):
    """Tiles of `rows` by `columns` dot products."""

    rows: int
    columns: int
    cycles: float  # of one member of the batch, estimated

    def tile(self, c: Contraction, lanes: int) -> DotTile:
        (_, a_row), (_, b_column) = merge(c.m, c.a_m)[0], merge(c.n, c.b_n)[0]
        return DotTile(c.dtype, self.rows, self.columns, math.prod(c.k), lanes, a_row, b_column, *result_steps(c))


def result_steps(c: Contraction) -> tuple[int, int]:
    """Elements between rows and between columns of the result."""
    return merge(c.m, c.c_m)[0][1], merge(c.n, c.c_n)[0][1]


def dot_tiles(c: Contraction, target: Target) -> DotTiles | None:
    """The best tiles; None where they do not suit.

    One row meets one column in one multiply-add of vectors for two loads.  Tiles need fewer, but twice as many where lines do
    not begin with rows: what begins one vector of multiply-adds in a cycle keeps busy then, and what begins two does not.
    """
    m, n, k = math.prod(c.m), math.prod(c.n), math.prod(c.k)
    itemsize = SIZES[c.dtype]
    lanes = target.lanes(itemsize)
    suits = (target.multiply_adds == 1 and target.has_masks and c.dtype in ("float", "double") and 2 <= n <= MOST_COLUMNS
             and m >= 2 and k >= lanes and n * k * itemsize <= target.l2_bytes // 2)
    if not suits or any(len(merge(c.k, steps)) != 1 or merge(c.k, steps)[0][1] != 1 for steps in (c.a_k, c.b_k)):
        return None
    if any(len(merge(sizes, steps)) != 1 for sizes, steps in ((c.m, c.a_m), (c.m, c.c_m), (c.n, c.b_n), (c.n, c.c_n))):
        return None
    if 1 not in result_steps(c):
        return None
    apart = [merge(sizes, steps)[0][1] * itemsize for sizes, steps in ((c.m, c.a_m), (c.n, c.b_n))]
    each = 2 if any(step % LINE for step in apart) else 1  # lines of a load
    found = []
    for columns in range(2, min(n, 8) + 1):
        for rows in range(2, min(m, lanes, (target.registers - 2 - columns) // columns) + 1):
            sums = rows * columns
            if sums >= LEAST_SUMS:
                added = math.ceil(sums / lanes) * 2 * lanes + min(rows, columns)
                along = math.ceil(k / lanes) * max(sums, each * (rows + columns))
                found.append(DotTiles(rows, columns, math.ceil(m / rows) * math.ceil(n / columns) * (along + added + BETWEEN)))
    return min(found, key=lambda tiles: tiles.cycles, default=None)


def emit_dot_tiles(f: Function, target: Target, c: Contraction, tiles: DotTiles, a: Value, b: Value, to: Value, thread: Value,
                   threads: Value) -> None:
    """The loops; the last rows and the last columns begin early enough to fill a tile, which stores some results again."""
    m, n = math.prod(c.m), math.prod(c.n)
    one = tiles.tile(c, target.lanes(SIZES[c.dtype]))
    name = dot_function(f, target, one)

    def item(batch: Value, low: Value, high: Value) -> None:
        left, right, out = (f.offset(pointer, flat_offset(f, batch, merge(c.batch, steps)), c.dtype)
                            for pointer, steps in ((a, c.a_batch), (b, c.b_batch), (to, c.c_batch)))
        with f.loop(low, high) as row, f.loop(0, math.ceil(n / tiles.columns)) as column:
            i0 = f.minimum(f.mul(row, i64(tiles.rows)), i64(m - tiles.rows))
            j0 = f.minimum(f.mul(column, i64(tiles.columns)), i64(n - tiles.columns))
            place = f.add(f.mul(i0, i64(one.out_row)), f.mul(j0, i64(one.out_column)))
            f.call(name, [f.offset(left, f.mul(i0, i64(one.a_row)), c.dtype),
                          f.offset(right, f.mul(j0, i64(one.b_column)), c.dtype), f.offset(out, place, c.dtype)])

    spread(f, math.prod(c.batch), math.ceil(m / tiles.rows), thread, threads, item, dealt=c.dealt)
