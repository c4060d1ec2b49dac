"""Contractions as groups of strided axes, and how axes are merged.

Knows sizes and strides.  Must not know registers, caches, or how a contraction is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from graphc.records import record, replace

Axes = tuple[tuple[int, int], ...]  # (size, stride in elements), outermost first

LEAST_PIECE, LARGEST_STEP = 4, 4  # lines that are copied a vector at a time: so many, so few elements apart
EXCHANGED = {"m": "n", "n": "m", "k": "k"}
LEAST_RUN = 8  # neighbours in k that are worth transposing in registers


@record(frozen=True)
class Contraction:
    """``C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n]``: a group is several axes, outermost first.

    The first four fields are the axes' sizes; the others are strides in elements, one per axis of that group, of A, B
    and C: zero broadcasts, negative ones run backwards.  Strides of C serve only where the result is stored plainly.

    dealt: threads take whole members of the batch
    within: (x, y, offset): products beyond x <= y + offset may be left out, x and y being places on the last axis of m or n,
    or on k, which has one axis then
    """

    dtype: str
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    a_batch: tuple[int, ...]
    a_m: tuple[int, ...]
    a_k: tuple[int, ...]
    b_batch: tuple[int, ...]
    b_k: tuple[int, ...]
    b_n: tuple[int, ...]
    c_batch: tuple[int, ...]
    c_m: tuple[int, ...]
    c_n: tuple[int, ...]
    within: tuple[tuple[str, str, int], ...] = ()
    dealt: bool = False


def in_items(c: Contraction, side: str, place: int, items: int) -> Contraction:
    """The same contraction with an axis of m or n in parts, which become a further axis of the batch; they are dealt."""
    of_m = side == "m"
    unit = (c.m if of_m else c.n)[place] // items

    def shorter(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return (*sizes[:place], unit, *sizes[place + 1:])

    return replace(c, batch=(*c.batch, items), m=shorter(c.m) if of_m else c.m, n=c.n if of_m else shorter(c.n),
                   a_batch=(*c.a_batch, unit * c.a_m[place] if of_m else 0),
                   b_batch=(*c.b_batch, 0 if of_m else unit * c.b_n[place]),
                   c_batch=(*c.c_batch, unit * (c.c_m if of_m else c.c_n)[place]), dealt=True)


def swapped(c: Contraction) -> Contraction:
    """The same contraction with the roles of A and B, of m and n, exchanged."""
    return replace(c, m=c.n, n=c.m, a_batch=c.b_batch, a_m=c.b_n, a_k=c.b_k, b_batch=c.a_batch, b_k=c.a_k, b_n=c.a_m,
                   c_m=c.c_n, c_n=c.c_m,
                   within=tuple((EXCHANGED[x], EXCHANGED[y], offset) for x, y, offset in c.within))


def still(sizes: Sequence[int]) -> tuple[int, ...]:
    """Strides that stay at one element."""
    return (0,) * len(sizes)


def merge_all(sizes: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """(size, strides) of the fewest axes that enumerate the same offsets in the same order for every operand."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for size, steps in zip(sizes, zip(*strides, strict=True), strict=True):
        if size == 1:
            continue
        if merged and all(outer == step * size for outer, step in zip(merged[-1][1], steps, strict=True)):
            merged[-1] = (merged[-1][0] * size, steps)
        else:
            merged.append((size, steps))
    return merged


def merge(sizes: Sequence[int], strides: Sequence[int]) -> Axes:
    """(size, stride) of the fewest axes that enumerate the same offsets in the same order."""
    return tuple((size, steps[0]) for size, steps in merge_all(sizes, strides))


@lru_cache(maxsize=64)
def offsets(axes: Axes) -> tuple[int, ...]:
    """The offset of every flattened index over the axes."""
    result = [0]
    for size, stride in axes:
        result = [base + i * stride for base in result for i in range(size)]
    return tuple(result)


def run(axes: Axes) -> int:
    """How many successive k are neighbours, over and over, where they are several axes; 0 where too few to matter."""
    return axes[-1][0] if len(axes) > 1 and axes[-1][1] == 1 and axes[-1][0] >= LEAST_RUN else 0


def pieces_run(axes: Axes) -> int:
    """How many successive lines of an operand start a few elements apart, over and over: 0 where too few for a vector."""
    return axes[-1][0] if axes and 0 < axes[-1][1] <= LARGEST_STEP and axes[-1][0] >= LEAST_PIECE else 0


def adjacent(axes: Axes) -> bool:
    """Whether successive flattened indices are neighbours in memory."""
    return not axes or (len(axes) == 1 and axes[0][1] == 1)


def split_evenly(count: int, most: int) -> tuple[int, int, int]:
    """(parts, size, how many parts have that size where the others have one less; 0 when all are equal)."""
    parts = max(1, math.ceil(count / most))
    size = max(1, math.ceil(count / parts))
    return parts, size, (count - parts * (size - 1)) % parts
