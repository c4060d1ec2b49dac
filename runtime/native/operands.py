"""The operands of a contraction: what they span, and whether they are copied before they are multiplied.

Decisions only: copying costs time and makes rows begin at lines, far from each other's sets of the cache.
Knows sizes, strides, lines and caches.  Must not know tiles, threads, LLVM or how the code is written.
"""

from __future__ import annotations

import math
from functools import lru_cache

from graphc.runtime.native.axes import Axes, Contraction, adjacent, merge, merge_all, offsets, pieces_run
from graphc.runtime.native.microkernel import PERIOD, most_rows
from graphc.runtime.native.target import Target

from graphc.records import record

DEPTH, DEPTH_MOST, DEPTH_LIMIT = 256, 288, 384  # k of a block: usually, where a sum is cut, and up to which it is one block
SQUARE = 16  # pairs of k, and lines, that are packed together where operands become bfloat16
NARROWEST = 2  # bytes of an element up to which blocks are twice as deep
WIDE = 8  # bytes of an element from which blocks are less deep, so that a tile of A stays in the first-level cache
WIDE_DEPTH, WIDE_MOST, WIDE_LIMIT = 192, 216, 224
WIDE_PACKED_DEPTH, WIDE_PACKED_MOST, WIDE_PACKED_LIMIT = 128, 136, 144  # where panels of B stream past it
SCANT_ROWS, THIN_ROWS = 4, 64  # rows that are less than few; so few read a B from beyond the second-level cache once
BEYOND, FAR = 0.5, 4.0  # second-level caches: few rows read so large a B once; it is far away
FAR_SHARE = 0.25  # of the third-level cache: a B of more is so far away that even one tile waits for it
THIN_DEPTH, FAR_DEPTH = 64, 32  # k of the blocks in which few rows read a large B, and where the next one is fetched beside
UNPACKED_BYTES = 256 << 10  # a block of an operand that spans no more than this is used where it is
LEAST_PASSING = 96  # k of each of a batch's products that is worth fetching in blocks
LINE = 64  # bytes of a line of the cache
MANY_ROWS = 128  # so many use B: copying it pays where its rows begin inside lines, or where columns of A are neighbours
SHALLOW = 8  # up to so many k it is the result that takes time: long pieces of its rows, and nothing is copied
REREAD_SHARE = 0.4  # of the second-level cache: so much of A is rather read anew for every panel of B than B copied
UNFORESEEN = 1024  # bytes between lines from which no processor foresees them
FEW_WAYS = 8  # of a first-level cache that does not keep what a processor fetches of many rows in one set
SPARE_WAYS = 2  # more lines of one set than it has ways cost little: the next level keeps up
NARROW = 0.15  # more time that tiles of one vector take, which load for each multiply-add
PIECE_COST = 6  # cycles to copy a vector of a row of an image, which seldom begins at a line
TABLE_LIMIT = 4096  # offsets in one table of k offsets


@record(frozen=True, kw_only=True, eq=False)
class Extent:
    """A contraction's sizes in elements, and its merged axes."""

    empty: bool
    batch: int
    m: int
    n: int
    lanes: int
    a_batch: Axes
    b_batch: Axes
    c_batch: Axes
    a_m: Axes
    b_n: Axes

    @property
    def padded_n(self) -> int:
        """Columns rounded up to whole registers."""
        return -(-self.n // self.lanes) * self.lanes

    @property
    def ragged(self) -> bool:
        return self.n % self.lanes != 0


@record(frozen=True, kw_only=True, eq=False)
class Rows:
    """Equal segments of m, within which offsets are multiples of one stride."""

    direct: bool  # the micro-kernel writes the result itself
    gathered: bool  # there are no such segments: rows of A are evenly spaced only when they are packed
    segment: int
    a_segments: Axes
    c_segments: Axes
    a_row: int
    c_row: int


@record(frozen=True, kw_only=True, eq=False)
class Sums:
    """k: the outer axes select a block, the inner ones run inside it."""

    k_inner: int
    a_inner: Axes
    b_inner: Axes
    a_k: int | None  # the stride of k, where it is one
    b_k: int | None
    a_k_outer: Axes
    b_k_outer: Axes
    a_table: tuple[int, ...]  # the offset of each k, where it is not
    b_table: tuple[int, ...]


@lru_cache(maxsize=512)
def extent_of(c: Contraction, lanes: int) -> Extent:
    batch, m, n = (math.prod(group) for group in (c.batch, c.m, c.n))
    return Extent(empty=0 in (batch, m, n), batch=batch, m=m, n=n, lanes=lanes, a_batch=merge(c.batch, c.a_batch),
                  b_batch=merge(c.batch, c.b_batch), c_batch=merge(c.batch, c.c_batch), a_m=merge(c.m, c.a_m),
                  b_n=merge(c.n, c.b_n))


def rows_of(c: Contraction, plain: bool) -> Rows:
    """plain: whether whole rows of tiles may be written to the result, where its columns are neighbours."""
    m, c_n, c_m = math.prod(c.m), merge(c.n, c.c_n), merge(c.m, c.c_m)
    direct = plain and (not c_n or (len(c_n) == 1 and c_n[0][1] == 1))
    joint = merge_all(c.m, c.a_m, c.c_m if direct else c.a_m)
    segment, (a_row, c_row) = joint[-1] if joint else (1, (0, 0))
    if len(joint) <= 1 or segment >= 8:
        return Rows(direct=direct, gathered=False, segment=segment, a_row=a_row, c_row=c_row,
                    a_segments=tuple((size, steps[0]) for size, steps in joint[:-1]),
                    c_segments=tuple((size, steps[1]) for size, steps in joint[:-1]))
    if direct and len(c_m) <= 1:
        c_row = c_m[0][1]  # rows of A are gathered by packing, rows of C are regular
    else:
        direct = False
    return Rows(direct=direct, gathered=True, segment=m, a_segments=(), c_segments=(), a_row=a_row, c_row=c_row)


@lru_cache(maxsize=512)
def sums_of(c: Contraction) -> Sums:
    inner = merge_all(c.k, c.a_k, c.b_k)
    outer: list[tuple[int, tuple[int, ...]]] = []
    while len(inner) > 1 and math.prod(size for size, _ in inner) > TABLE_LIMIT:
        outer.append(inner.pop(0))
    a, b = (merge([size for size, _ in inner], [steps[side] for _, steps in inner]) for side in (0, 1))
    a_k, b_k = (None if len(axes) > 1 else axes[0][1] if axes else 0 for axes in (a, b))
    return Sums(k_inner=math.prod(size for size, _ in inner), a_inner=a, b_inner=b, a_k=a_k, b_k=b_k,
                a_k_outer=tuple((size, steps[0]) for size, steps in outer),
                b_k_outer=tuple((size, steps[1]) for size, steps in outer),
                a_table=offsets(a) if a_k is None else (), b_table=offsets(b) if b_k is None else ())


def lies_along(k: int | None, axes: Axes) -> bool:
    """Whether an operand lies in memory as evenly spaced lines along k."""
    return k == 1 and len(axes) <= 1


def lies_across(k: int | None, axes: Axes) -> bool:
    """Whether it lies there as evenly spaced lines across k."""
    return k is not None and (not axes or (len(axes) == 1 and axes[0][1] == 1))


def in_runs(axes: Axes, target: Target) -> bool:
    """Whether lines lie there in runs, long enough to be read as vectors."""
    return target.has_masks and pieces_run(axes) > 0


def listed(k: int | None, axes: Axes, run: int, load: bool, target: Target) -> bool:
    """Whether lines lie there along k, beginning anywhere, in whole rows of squares; run: of how many k, where not of all."""
    if load or lies_across(k, axes) or lies_along(k, axes) or in_runs(axes, target):
        return False
    return k == 1 or (run > 0 and run % SQUARE == 0)


def depths(itemsize: int, packed_for: Target | None = None) -> tuple[int, int, int]:
    """(k that a block usually has, the most where a sum is cut into equal blocks, the most of a sum that is not cut).

    packed_for: the machine, where B is packed; else it is read where it is.
    """
    if itemsize <= NARROWEST:
        return 2 * DEPTH, 2 * DEPTH_MOST, 2 * DEPTH_LIMIT
    if itemsize < WIDE:
        return DEPTH, DEPTH_MOST, DEPTH_LIMIT
    if packed_for:
        longer = 2 // packed_for.multiply_adds  # the second-level cache keeps up with slower multiply-adds
        return longer * WIDE_PACKED_DEPTH, longer * WIDE_PACKED_MOST, longer * WIDE_PACKED_LIMIT
    return WIDE_DEPTH, WIDE_MOST, WIDE_LIMIT


def usual_depth(sums: Sums, itemsize: int, packed_for: Target | None = None) -> int:
    """About how many k a block has."""
    depth, _, limit = depths(itemsize, packed_for)
    return sums.k_inner if sums.k_inner <= limit else depth


def span_of_b(extent: Extent, sums: Sums, itemsize: int, stretch: int = 0) -> int:
    """Bytes that a block of B spans where it is; in stretches: all of it, since windows overlap."""
    if stretch:
        return (1 + sum((size - 1) * abs(step) for size, step in (*extent.b_n, *sums.b_inner))) * itemsize
    return usual_depth(sums, itemsize) * max(extent.n, abs(sums.b_k or 0)) * itemsize


def bytes_touched_of_a(extent: Extent, sums: Sums, itemsize: int) -> int:
    """Bytes of the lines that a block of A takes where it is."""
    span = 1 + sum((size - 1) * abs(step) for size, step in (*extent.a_m, *sums.a_inner))
    return min(span * itemsize, extent.m * sums.k_inner * LINE)


def stacks(extent: Extent, stretch: int) -> bool:
    """Whether each vector of a tile is one stretch, those of a tile being successive rows of one image."""
    return 2 * stretch > extent.lanes >= stretch and len(extent.b_n) == 2 and extent.b_n[0][0] > 1 and extent.b_n[0][1] > 0


def spans_much(extent: Extent, sums: Sums, itemsize: int, stretch: int = 0) -> bool:
    """Whether a block of B that is read where it is does not stay in cache by itself."""
    return span_of_b(extent, sums, itemsize, stretch) > UNPACKED_BYTES


def caches_of_b(extent: Extent, sums: Sums, itemsize: int, target: Target) -> float:
    """All of B, in second-level caches."""
    return extent.n * sums.k_inner * itemsize / target.l2_bytes


def columns_beside(extent: Extent, itemsize: int, target: Target) -> int:
    """The columns whose result stays in cache while their part of B passes by."""
    return target.l2_bytes // 4 // max(1, extent.m * itemsize)


def ways(target: Target) -> int:
    """Lines of one set of the first-level cache."""
    return max(1, target.l1_bytes // PERIOD)


def most_in_set(target: Target) -> int:
    """The most lines that share a set, each of which is used several times in turn, without being fetched anew each time."""
    return ways(target) + SPARE_WAYS


def stays_the_same(extent: Extent) -> tuple[bool, bool]:
    """Whether A, whether B is the same for all members of a batch, as the weights of a convolution are."""
    axes = extent.a_batch, extent.b_batch
    return extent.batch > 1 and not any(step for _, step in axes[0]), extent.batch > 1 and not any(step for _, step in axes[1])


def crooked(sums: Sums, itemsize: int) -> bool:
    """Whether rows of B do not begin at lines, so that most vectors lie in two."""
    return (sums.b_k or 0) * itemsize % LINE != 0


def passing_depth(extent: Extent, rows: Rows, sums: Sums, itemsize: int, target: Target, loads: tuple[bool, bool],
                  overlap: bool) -> int:
    """The k of a block where few rows read a large B just once, in long pieces of its rows, while their result stays in cache.

    Nothing is packed then: copying B would take about as long as multiplying it.  0: B does not pass by.
    """
    one_tile = most_rows(target, 2)
    one_block = depths(itemsize)[-1] if extent.m <= 2 * one_tile else depths(itemsize, target)[0]
    if sums.k_inner <= one_block and extent.n > columns_beside(extent, itemsize, target):
        return 0  # summed in one block, a part of the result need not stay
    if (overlap and extent.m > 2 * one_tile) or True in loads or rows.gathered or not adjacent(extent.b_n):
        return 0
    if extent.ragged and not target.has_masks:
        return 0
    different = sums.k_inner >= LEAST_PASSING and any(step for _, step in extent.b_batch)  # each member's B comes from afar
    caches = caches_of_b(extent, sums, itemsize, target) * (extent.batch if different else 1)
    near = caches <= 1
    most = THIN_ROWS if not near and (crooked(sums, itemsize) or itemsize >= WIDE) else MANY_ROWS
    if caches <= BEYOND or extent.m > most:
        return 0
    far = caches * target.l2_bytes > FAR_SHARE * target.l3_bytes
    if extent.m == 1 and ways(target) <= FEW_WAYS and (far or share_sets(sums.b_k or 0, itemsize)):
        return max(2, ways(target) - SPARE_WAYS)
    return FAR_DEPTH if not near and (far or extent.m > one_tile) else THIN_DEPTH


def stretch_of(extent: Extent, sums: Sums, target: Target, load: bool, overlap: bool) -> int:
    """The columns that are neighbours in B, over and over, where B is read where it is and panels end with them; else 0.

    The pixels of an image's row are such.  Their windows overlap, so that copying them writes each pixel many times; what a
    row's last vector lacks is multiplied in vain.  With many rows of A copying costs less.
    """
    if load or overlap or not target.has_masks or len(extent.b_n) < 2 or extent.b_n[-1][1] != 1 or sums.k_inner <= SHALLOW:
        return 0
    stretch, lanes = extent.b_n[-1][0], extent.lanes
    vain = math.ceil(stretch / lanes) - stretch / lanes + (NARROW if stretch <= lanes and not stacks(extent, stretch) else 0)
    return stretch if extent.m / 2 * vain < PIECE_COST * stretch / lanes else 0


def packs_b(extent: Extent, rows: Rows, sums: Sums, itemsize: int, target: Target, load: bool, overlap: bool) -> bool:
    """Whether panels of B that does not just pass by are packed, and not read where they are.

    overlap: finished tiles are large arrays' next rows, which must be walked along: no panel can wait for all rows of A.
    """
    if load or not adjacent(extent.b_n) or (extent.ragged and not target.has_masks):
        return True
    few = extent.m <= 2 * most_rows(target, 2)
    caches = caches_of_b(extent, sums, itemsize, target)
    many = extent.m >= MANY_ROWS or (caches > 1 and not few)
    if many and extent.n > extent.lanes and crooked(sums, itemsize) and sums.k_inner > SHALLOW:
        return True
    if crowds_sets(extent, sums, itemsize, target):
        return True
    if few or not spans_much(extent, sums, itemsize):
        return False
    if overlap or (many and rows.a_row == 1):  # a tile of A that is not packed takes lines of which it needs a part
        return True
    return extent.m * sums.k_inner * itemsize > REREAD_SHARE * target.l2_bytes or caches > FAR


def crowds_sets(extent: Extent, sums: Sums, itemsize: int, target: Target) -> bool:
    """Whether the rows of a panel of B drive out each other before the next tile of A meets them, and are far away by then.

    Those of images whose size is a power of two do, if there are several images.
    """
    again = extent.m > most_rows(target, 2) and sums.k_inner > most_in_set(target) and ways(target) <= FEW_WAYS
    several = extent.batch > 1 and any(step for _, step in extent.b_batch)
    far = several or (extent.m >= MANY_ROWS and spans_much(extent, sums, itemsize))
    return again and far and bool(sums.b_k) and share_sets(sums.b_k or 0, itemsize)


def share_sets(step: int, itemsize: int) -> bool:
    """Whether lines so many elements apart fall into one set of the first-level cache."""
    return step * itemsize % PERIOD == 0


def crowds(rows: Rows, sums: Sums, itemsize: int) -> bool:
    """Whether rows of A, or of the result, begin in one set of the first-level cache; A need not be packed but for that."""
    return sums.a_k == 1 and not rows.gathered and (
        share_sets(rows.a_row, itemsize) or (rows.direct and share_sets(rows.c_row, itemsize)))


def packs_a(extent: Extent, rows: Rows, sums: Sums, itemsize: int, height: int, panels: int, load: bool,
            target: Target) -> bool:
    """Whether rows of A are packed, tile by tile."""
    if load or rows.gathered:
        return True
    if rows.a_row == 1:  # a tile touches a line of memory for every k
        large = extent.m * usual_depth(sums, itemsize) * itemsize > UNPACKED_BYTES // 2
        scattered = large and abs(sums.a_k or 0) * itemsize >= UNFORESEEN * (1 if panels >= 8 else 2)
    else:  # rows whose starts fall into one set of the cache, or whose elements need a table
        k = sums.k_inner * math.prod(size for size, _ in sums.a_k_outer)
        awkward = sums.a_k is None or share_sets(rows.a_row, itemsize)
        scattered = awkward and height > 8 and (extent.m * k * itemsize > UNPACKED_BYTES or height > most_in_set(target))
    return panels > 2 and scattered
