"""How many rows and vectors the tiles of a contraction have.

Knows registers, caches, and what keeps multiply-adds busy.  Must not know what is packed, or blocks.
"""

from __future__ import annotations

import math

from graphc.runtime.native.axes import split_evenly
from graphc.runtime.native.microkernel import most_rows
from graphc.runtime.native.operands import SCANT_ROWS, Extent
from graphc.runtime.native.target import Target

LOW_ROWS = 8  # of tiles that are equal, where they could have more: with much fewer B would be read too often
LEAST_SUMS, MANY_SUMS = 12, 20  # registers of sums in a tile that keep multiply-add busy, and other instructions few
SHORT = 32  # k up to which rows of the result are waited for, where they come from beyond the cache
SHORTEST, LONG_PIECES, FEW_SUMS = 16, 5, 8  # k up to which that takes all of the time; vectors of a row; sums that are enough
ROW_BYTES, LARGE_RESULT = 4 << 10, 8 << 20  # of a result of which few rows are written at a time; of one that is far away


def far_result(extent: Extent, k: int, itemsize: int, target: Target) -> bool:
    """Whether sums of so many k are so short that rows of the result are waited for."""
    return k <= SHORT and extent.batch * extent.m * extent.n * itemsize > target.l2_bytes // 4


def writes_in_order(extent: Extent, k: int, itemsize: int, target: Target) -> bool:
    """Whether such a result is written a few rows at a time: they are short, and each reads all of a B that stays near.

    Of what comes from a cache this costs up to a fifth; of what does not, other orders take up to three times as long.
    """
    large = k == 1 or extent.batch * extent.m * extent.n * itemsize >= LARGE_RESULT
    return (target.registers >= 32 and k <= SHORTEST and large and far_result(extent, k, itemsize, target)
            and extent.n * itemsize <= ROW_BYTES and extent.n * k * itemsize <= target.l1_bytes // 2)


def split_rows_of(segment: int, vectors: int, column: int, target: Target, least: int) -> tuple[int, int, int]:
    """(tiles, height, tall) of a segment, where a panel has `column` bytes for each of its vectors.

    Equal tiles of at least so many sums need one micro-kernel instead of two: half the time to compile for some percent
    of speed, unless a panel comes from the second-level cache.
    """
    tiles, height, tall = split_evenly(segment, most_rows(target, vectors))
    if tall and column * vectors < target.l1_bytes // 2:
        low = max(1, least // vectors, min(LOW_ROWS, 2 * height // 3))
        equal = [h for h in range(low, height) if segment % h == 0]
        if equal:
            return segment // equal[-1], equal[-1], 0
    return tiles, height, tall


def split_low_rows(segment: int, vectors: int, target: Target) -> tuple[int, int, int]:
    """The same where the result takes all of the time: as few rows as keep multiply-adds busy.

    Memory wants to be written one row after the other, in long pieces.
    """
    return split_evenly(segment, min(most_rows(target, vectors), max(2, math.ceil(FEW_SUMS / vectors))))


def vectors_beside(rows: int, target: Target, split: bool, usual: int) -> int:
    """The most vectors of the tiles of few rows; split: most vectors of B take two loads, so that more rows should use each."""
    if rows <= SCANT_ROWS:
        return max(usual, min(8, (target.registers - 2) // (rows + 1)))
    if target.registers == 16 or (split and rows > most_rows(target, 2)):  # more than two tiles in any case: long pieces of B
        return usual
    tiles = math.ceil(rows / most_rows(target, 3 if split else 2))
    return min(usual, (target.registers - 2) // (math.ceil(rows / tiles) + 1))
