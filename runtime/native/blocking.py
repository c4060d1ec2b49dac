"""How a contraction is cut into tiles, panels and blocks: decisions only.

Knows sizes, strides, registers and caches.  Must not know LLVM or how the code is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from graphc.runtime.native.microkernel import most_rows
from graphc.runtime.native.packing import PIECE
from graphc.runtime.native.sharing import MOST_BALANCED
from graphc.runtime.native.target import Target

ITEMSIZE = {"float": 4, "double": 8, "i32": 4, "i64": 8, "i16": 2, "i8": 1}
Axes = tuple[tuple[int, int], ...]  # (size, stride in elements), outermost first

DEPTH = 256  # k of a packed block: an A panel and a B panel of this depth share the first-level cache
DEPTH_MOST = 288  # where a sum is cut into equal blocks
DEPTH_LIMIT = 384  # up to here one block; a longer sum is cut into equal blocks
THIN_ROWS, THIN_DEPTH = 8, 16  # so few rows stream a large B once, in blocks of so many k
OVERLAPPED_ROWS = 12  # of two vectors: the registers left serve the epilogue of the tile before
LEAST_OVERLAPPED, LEAST_STEP_K, STEP_K = 8, 3, 4  # rows; k beside which one row of the tile before is finished
UNPACKED_BYTES = 256 << 10  # a block of an operand that spans no more than this is used where it is
LINE = 64  # bytes of a line of the cache
CROOKED_ROWS = 64  # so many use rows of B that do not begin at lines: copying them pays
LARGE = 1 << 24  # products of a contraction that threads balance between them: about 100 microseconds
KEPT_SHARE = 0.5  # of the second-level cache: more of a packed operand would drive out what is used beside it
LEAST_UNITS, COLUMNS_A_THREAD = 8, 160  # units, rows or columns of each thread for which it pays to pack so much
PORTIONS = 64  # that row tiles are cut into
ROWS_OF_PART, MOST_PARTS = 256, 4  # rows for which a panel is packed again
FEW_TILES = 4  # row tiles for which a panel is packed just in time
LEAST_SUMS = 12  # registers of sums in a tile that keep multiply-add busy
LEAST_PIECE, LARGEST_STEP = 4, 4  # lines that are copied a vector at a time: so many, so few elements apart
LEAST_RUN = 8  # neighbours in k that are worth transposing in registers
TABLE_LIMIT = 4096  # offsets in one table of k offsets


@dataclass(frozen=True)
class Contraction:
    """``C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n]``: a group is several axes, outermost first.

    The first four fields are the axes' sizes; the others are strides in elements, one per axis of that group, of A, B
    and C: zero broadcasts, negative ones run backwards.  Strides of C serve only where the result is stored plainly.
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


def swapped(c: Contraction) -> Contraction:
    """The same contraction with the roles of A and B, of m and n, exchanged."""
    return replace(c, m=c.n, n=c.m, a_batch=c.b_batch, a_m=c.b_n, a_k=c.b_k, b_batch=c.a_batch, b_k=c.a_k, b_n=c.a_m,
                   c_m=c.c_n, c_n=c.c_m)


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


@dataclass(frozen=True)
class Blocking:
    """Every decision about one contraction; lengths in elements unless said otherwise."""

    empty: bool
    direct: bool  # the micro-kernel writes the result itself
    batch: int
    m: int
    n: int
    lanes: int
    a_batch: Axes
    b_batch: Axes
    c_batch: Axes
    a_m: Axes
    b_n: Axes
    # rows: equal segments of m, within which offsets are multiples of one stride, each cut into even row tiles
    segment: int
    a_segments: Axes
    c_segments: Axes
    a_row: int
    c_row: int
    segment_tiles: int
    row_tiles: int
    height: int
    tall: int  # this many tiles of a segment have `height` rows, the others one less; 0: all are equal
    # columns: panels of whole registers
    panels: int
    vectors: int
    wide: int  # this many panels have `vectors` registers, the others one less; 0: all are equal
    masked: bool
    # sums: blocks of k; the outer axes select a block, the inner ones run inside it
    k_inner: int
    k_in_block: int
    k_inner_blocks: int
    k_blocks: int
    a_k: int | None
    b_k: int | None
    a_run: int  # where offsets come from a table: k in runs of so many neighbours, a block being whole runs; else 0
    b_run: int
    a_k_outer: Axes
    b_k_outer: Axes
    a_table: tuple[int, ...]
    b_table: tuple[int, ...]
    pack_a: bool
    pack_b: bool
    streamed: bool  # B panels do not stay in the first-level cache
    a_line: int
    tiles_in_block: int
    panels_in_block: int
    split_rows: bool
    # threads: each begins with most of its share of the units, the rest is taken by whoever is free
    portion: int  # units that are taken at a time; 0: fewer and fewer, since what they all need is packed each time
    parts: int  # in which the rows of a portion of panels are taken
    keeps: bool  # each thread packs for itself, once, what all units need: panels of B for row tiles, and the other way
    most_threads: int  # more of them share out everything beforehand, and so does one
    row_tile_bytes: int  # of a row tile and of a panel, packed, of one block of k
    panel_bytes: int
    regions: dict[str, int] = field(hash=False, compare=False)
    scratch_bytes: int = 0
    gathers_rows: bool = False  # the tiles of a row meet in scratch, and are finished together
    matrix: bool = False  # in the registers of a matrix unit
    overlap: int = 0  # k in which a row of the tile before is finished while this one is summed; 0: tiles finish themselves

    @property
    def units(self) -> int:
        """What threads share out: row tiles or panels."""
        return self.row_tiles if self.split_rows else self.panels

    @property
    def padded_n(self) -> int:
        """Columns rounded up to whole registers."""
        return -(-self.n // self.lanes) * self.lanes


def up(size: int) -> int:
    """Bytes rounded up to whole lines of the cache."""
    return -(-size // LINE) * LINE


def still(sizes: Sequence[int]) -> tuple[int, ...]:
    """Strides that stay at one element."""
    return (0,) * len(sizes)


def split_evenly(count: int, most: int) -> tuple[int, int, int]:
    """(parts, size, how many parts have that size where the others have one less; 0 when all are equal)."""
    parts = max(1, math.ceil(count / most))
    size = max(1, math.ceil(count / parts))
    return parts, size, (count - parts * (size - 1)) % parts


@dataclass(frozen=True)
class Sharing:
    """How threads balance the work of a contraction; fields as those of `Blocking`."""

    portion: int = 0
    parts: int = 1
    keeps: bool = False
    most_threads: int = 1


def choose_sharing(split_rows: bool, packs: bool, row_tiles: int, panels: int, m: int, n: int, kept: float,
                   straight: bool) -> Sharing:
    """For one large contraction.

    packs: whether the side that all units need is packed.  kept: all of it, in sizes of the second-level cache.
    straight: whether rows of A are packed as they lie, which costs little.
    """
    if not packs:
        return Sharing(1 if split_rows else 2, most_threads=MOST_BALANCED)
    units, length = (row_tiles, m) if split_rows else (panels, n)
    most_threads = min(units // LEAST_UNITS, length // COLUMNS_A_THREAD)
    if most_threads < 2:
        return Sharing()
    if kept > KEPT_SHARE:
        return Sharing(most_threads=most_threads if straight and not split_rows else 1)
    if split_rows:
        return Sharing(max(1, row_tiles // PORTIONS), 1, True, most_threads)
    return Sharing(1, min(MOST_PARTS, max(1, min(m // ROWS_OF_PART, row_tiles))), True, most_threads)


@lru_cache(maxsize=512)
def choose_blocking(c: Contraction, target: Target, plain: bool, loads: tuple[bool, bool] = (False, False),
                    whole_rows: bool = False, overlap: bool = False) -> Blocking:
    """The blocking of a contraction; `plain` asks for a result that the micro-kernel may write itself.

    loads: whether A, whether B is computed while it is packed.
    whole_rows: finished tiles must have all columns.
    overlap: a tile may be finished while the next one is summed, where registers and sizes allow.
    """
    if 0 in c.k:  # an empty sum: one product of zeros, both operands being one number
        c = replace(c, k=(), a_k=(), b_k=(), a_batch=still(c.batch), a_m=still(c.m), b_batch=still(c.batch),
                    b_n=still(c.n))
    itemsize = ITEMSIZE[c.dtype]
    lanes = target.lanes(itemsize)
    batch, m, n, k = (math.prod(group) for group in (c.batch, c.m, c.n, c.k))
    b_n = merge(c.n, c.b_n)
    c_n = merge(c.n, c.c_n)
    ragged = n % lanes != 0
    direct = plain and (not c_n or (len(c_n) == 1 and c_n[0][1] == 1)) and (target.has_masks or not ragged)

    # rows
    joint = merge_all(c.m, c.a_m, c.c_m if direct else c.a_m)
    segment, (a_row, c_row) = joint[-1] if joint else (1, (0, 0))
    aligned = len(joint) <= 1 or segment >= 8
    if not aligned and direct and len(merge(c.m, c.c_m)) <= 1:
        c_row = merge(c.m, c.c_m)[0][1]  # rows of A are gathered by packing, rows of C are regular
    elif not aligned:
        direct = False
    a_m = merge(c.m, c.a_m)
    if not aligned:
        segment = m
    outer = joint[:-1] if aligned else []
    a_segments = tuple((size, steps[0]) for size, steps in outer)
    c_segments = tuple((size, steps[1]) for size, steps in outer)
    segments = m // segment if segment else 0

    # sums
    inner_axes = merge_all(c.k, c.a_k, c.b_k)
    outer_axes: list[tuple[int, tuple[int, ...]]] = []
    while len(inner_axes) > 1 and math.prod(size for size, _ in inner_axes) > TABLE_LIMIT:
        outer_axes.append(inner_axes.pop(0))
    k_inner = math.prod(size for size, _ in inner_axes)
    a_inner = merge([s for s, _ in inner_axes], [t[0] for _, t in inner_axes])
    b_inner = merge([s for s, _ in inner_axes], [t[1] for _, t in inner_axes])
    a_k = None if len(a_inner) > 1 else a_inner[0][1] if a_inner else 0
    b_k = None if len(b_inner) > 1 else b_inner[0][1] if b_inner else 0
    k_outer = math.prod(size for size, _ in outer_axes)

    # whether to pack
    adjacent = n == 1 or (len(b_n) == 1 and b_n[0][1] == 1)
    depth = k_inner if k_inner <= DEPTH_LIMIT else DEPTH
    b_span = depth * max(n, abs(b_k or 0)) * itemsize  # bytes that a block of B spans where it is
    few_rows = m <= 2 * most_rows(target, 2)
    crooked = n > lanes and m >= CROOKED_ROWS and (b_k or 0) * itemsize % LINE != 0  # most vectors lie in two lines
    pack_b = (loads[1] or not adjacent or (ragged and not target.has_masks) or crooked
              or (b_span > UNPACKED_BYTES and not few_rows))
    total_vectors = max(1, math.ceil(n / lanes))
    most_vectors = 2 if pack_b and m > 8 else 4
    if target.registers == 16:
        most_vectors = 2
    if not pack_b and segment <= 4:
        most_vectors = max(most_vectors, min(8, (target.registers - 2) // (segment + 1)))
    panels, vectors, wide = split_evenly(total_vectors, most_vectors)
    segment_tiles, height, tall = split_evenly(segment, most_rows(target, vectors))
    overlap = (overlap and not plain and not whole_rows and target.has_masks and target.registers >= 32
               and segments == 1 and m >= LEAST_OVERLAPPED and n >= 2 * lanes and itemsize >= 4
               and None not in (a_k, b_k) and k_inner > LEAST_STEP_K * OVERLAPPED_ROWS)
    if overlap:  # tiles of one size: the last ones begin earlier, and only finish what is theirs
        panels, vectors, wide = math.ceil(total_vectors / 2), 2, 0
        segment_tiles, height, _ = split_evenly(segment, OVERLAPPED_ROWS)
        tall = 0
    elif tall and depth * vectors * lanes * itemsize <= target.l1_bytes // 2:
        # equal tiles need one micro-kernel instead of two: half the time to compile for 1 or 2 % of speed
        equal = [h for h in range(LEAST_SUMS // vectors, height) if h and segment % h == 0]
        if equal:
            height, tall = equal[-1], 0
            segment_tiles = segment // height
    if a_row == 1:  # a tile touches a line of memory for every k
        scattered = abs(a_k or 0) * itemsize >= 2048 and m * depth * itemsize > UNPACKED_BYTES // 2
    else:  # rows whose starts fall into one set of the cache, or too many memory pages
        scattered = height > 8 and m * k * itemsize > UNPACKED_BYTES
    pack_a = loads[0] or not aligned or (panels > 2 and scattered)
    row_tiles = segments * segment_tiles

    # blocks
    # few rows read a large B just once: by whole rows of B, in order
    thin = m <= THIN_ROWS and not pack_b and not pack_a and n * k_inner * itemsize > target.l2_bytes // 2
    if thin:
        k_inner_blocks = math.ceil(k_inner / THIN_DEPTH)
    else:
        k_inner_blocks = 1 if k_inner <= DEPTH_LIMIT else math.ceil(k_inner / DEPTH_MOST)
    k_in_block = math.ceil(k_inner / k_inner_blocks)
    a_run, b_run = run(a_inner), run(b_inner)
    whole_runs = math.lcm(a_run or 1, b_run or 1)
    if whole_runs <= k_in_block:
        k_in_block = math.ceil(k_in_block / whole_runs) * whole_runs
    else:
        a_run = b_run = 0
    k_inner_blocks = max(1, math.ceil(k_inner / max(1, k_in_block)))
    k_blocks = max(1, k_outer * k_inner_blocks)
    least = k_inner - (k_inner_blocks - 1) * k_in_block
    width = vectors * lanes
    panel_bytes = max(1, k_in_block * width * itemsize)
    panels_in_block = panels
    few_tiles = row_tiles <= FEW_TILES and not pack_a
    tiles_in_block = max(1, row_tiles)
    if pack_b:
        # few row tiles use a panel while it is in the first-level cache
        panels_in_block = 1 if few_tiles else max(1, min(panels, target.l2_bytes // 2 // panel_bytes))
    elif b_span > UNPACKED_BYTES and not thin:  # one panel stays in cache while every row tile uses it
        panels_in_block = 1
    if whole_rows:
        panels_in_block = panels
    if not direct and k_blocks > 1:  # the partial sums of a block stay in scratch
        tiles_in_block = max(1, min(tiles_in_block, 512 // height))
        if whole_rows:
            tiles_in_block = max(1, min(tiles_in_block, target.l2_bytes // 2 // (panels * height * width * itemsize)))
        else:
            sums = tiles_in_block * height * width * itemsize
            share = target.l2_bytes * 3 // 5  # the packed block and its sums stay in the second-level cache together
            panels_in_block = max(1, min(panels_in_block, share // (sums + (panel_bytes if pack_b else 0))))
    split_rows = whole_rows or (row_tiles >= panels if not pack_b else row_tiles >= 4 * panels)

    if pack_b:
        streamed = k_in_block * panels_in_block * width * itemsize > target.l1_bytes
    else:
        streamed = b_span > UNPACKED_BYTES and not thin
    a_line = height if height <= lanes else lanes * math.ceil(height / lanes)
    row_tile_bytes = up((k_in_block * a_line + lanes) * itemsize)
    panel_bytes = up((k_in_block * width + lanes) * itemsize)
    sharing = Sharing()
    if batch * m * n * k >= LARGE:
        packs = pack_b if split_rows else pack_a
        kept = k_blocks * (panels * panel_bytes if split_rows else row_tiles * row_tile_bytes)
        if batch == 1 or not packs:
            sharing = choose_sharing(split_rows, packs, row_tiles, panels, m, n, kept / target.l2_bytes,
                                     len(a_m) <= 1 and a_row == 1 and not loads[0])
    rows_packed = row_tiles * k_blocks if sharing.keeps and not split_rows else 1
    panels_packed = panels * k_blocks if sharing.keeps and split_rows else panels_in_block
    sizes = {
        "offsets": 8 * PIECE * (max(width, a_line) + 2 * lanes),
        "tile": 0 if direct else (2 if overlap else 1) * height * width * itemsize,
        "rows": height * math.ceil(n / lanes) * lanes * itemsize if whole_rows and panels > 1 else 0,
        "a": rows_packed * row_tile_bytes if pack_a else 0,
        "loaded": k_in_block * width * itemsize if loads[1] and b_k == 1 else 0,
        "partial": tiles_in_block * panels_in_block * height * width * itemsize if k_blocks > 1 and not direct else 0,
        "b": panels_packed * panel_bytes if pack_b else 0,
    }
    regions, total = {}, 0
    for name, size in sizes.items():
        regions[name] = total
        total += up(size)
    return Blocking(
        empty=0 in (batch, m, n), direct=direct, batch=batch, m=m, n=n, lanes=lanes,
        a_batch=merge(c.batch, c.a_batch), b_batch=merge(c.batch, c.b_batch), c_batch=merge(c.batch, c.c_batch),
        a_m=a_m, b_n=b_n, segment=segment, a_segments=a_segments, c_segments=c_segments, a_row=a_row, c_row=c_row,
        segment_tiles=segment_tiles, row_tiles=row_tiles, height=height, tall=tall,
        panels=panels, vectors=vectors, wide=wide,
        masked=ragged and target.has_masks and (direct or not pack_b) and not overlap,
        k_inner=k_inner, k_in_block=k_in_block, k_inner_blocks=k_inner_blocks, k_blocks=k_blocks, a_k=a_k, b_k=b_k,
        a_run=a_run, b_run=b_run,
        a_k_outer=tuple((s, t[0]) for s, t in outer_axes), b_k_outer=tuple((s, t[1]) for s, t in outer_axes),
        a_table=offsets(a_inner) if a_k is None else (), b_table=offsets(b_inner) if b_k is None else (),
        pack_a=pack_a, pack_b=pack_b, streamed=streamed,
        a_line=a_line, tiles_in_block=tiles_in_block, panels_in_block=panels_in_block,
        split_rows=split_rows, **vars(sharing), row_tile_bytes=row_tile_bytes, panel_bytes=panel_bytes,
        regions=regions, scratch_bytes=total,
        gathers_rows=whole_rows and panels > 1, overlap=min(STEP_K, (least - 1) // height) if overlap else 0)
