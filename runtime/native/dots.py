"""Contractions with very few columns as dot products: vectors run along k, which is adjacent in A.

Knows vectors along k and how to sum them up.  Must not know tiles along n, packing of panels or what becomes of a
result.  Each sum has a fixed number of partial sums, one per lane, added in a fixed order at the end.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Carried, Function
from graphc.runtime.native.microkernel import multiply_add, plus
from graphc.runtime.native.operands import share_sets, ways
from graphc.runtime.native.target import Target
from graphc.runtime.native.values import Value, i64, vector

from graphc.records import record


@record(frozen=True)
class DotTile:
    """`rows` by `columns` dot products of length `count`, together whole registers of sums."""

    dtype: str
    rows: int
    columns: int
    count: int
    lanes: int
    a_row: int  # elements between rows of A
    b_column: int  # elements between columns of B
    out_row: int = 0  # between rows of the result and between its columns, of which one is 1; 0: all are in one piece
    out_column: int = 0

    @property
    def chains(self) -> int:
        """Partial sums of one result in each lane: a power of two, such that enough sums are on their way at a time."""
        sums = self.rows * self.columns
        return 8 if sums == 1 else 4 if sums <= 2 else 2 if sums <= 4 else 1


def dot_rows(m: int, n: int, stride: int, target: Target) -> int:
    """Rows of a tile: enough sums at a time to hide the latency of multiply-add, and no more rows than there are.

    stride: bytes between rows.  Where they share a set of the cache, a vector that lies in two lines would find the first
    one driven out by other rows.
    """
    rows = target.registers // 2 // n
    most = max(1, ways(target) * 2 // 3)
    if share_sets(stride, 1) and rows > most:
        rows = 1 << most.bit_length() - 1
    return max(1, min(m, rows))


def summed(f: Function, sums: list[Value]) -> Value:
    """One vector whose lane i is the sum of the lanes of ``sums[i]``; at most as many vectors as each has lanes."""
    lanes, type_ = sums[0].lanes, sums[0].type
    sums = sums + [Value("zeroinitializer", type_)] * (lanes - len(sums))
    segment = lanes
    while segment > 1:
        half, pairs = segment // 2, []
        for x, y in zip(sums[::2], sums[1::2], strict=True):
            starts = [s + (lanes if of_y else 0) for of_y in (0, 1) for s in range(0, lanes, segment)]
            first = [s + i for s in starts for i in range(half)]
            pairs.append(plus(f, f.shuffle(x, first, y), f.shuffle(x, [i + half for i in first], y)))
        sums, segment = pairs, half
    return sums[0]


def dot_function(f: Function, target: Target, tile: DotTile) -> str:
    """The name of the function (a, b, out) that writes ``out[r, j] = sum over k of a[r, k] * b[j, k]`` row-major."""
    parts = [tile.dtype, tile.rows, tile.columns, tile.count, tile.lanes, tile.a_row, tile.b_column,
             *([tile.out_row, tile.out_column] if tile.out_row else [])]
    name = "dots." + ".".join(str(p).replace("-", "n") for p in parts)
    if name in f.module.functions:
        return name
    g = f.module.function(name, [("a", "ptr"), ("b", "ptr"), ("out", "ptr")], attributes="noinline nounwind")
    a, b, out = g.parameters
    type_ = vector(tile.lanes, tile.dtype)
    places = [(r, j) for r in range(tile.rows) for j in range(tile.columns)]

    def step(k: Value, sums: list[Value], mask: Value | None) -> list[Value]:
        def read(base: Value, offset: int) -> Value:
            pointer = g.offset(g.offset(base, k, tile.dtype), i64(offset), tile.dtype)
            return g.masked_load(pointer, type_, mask) if mask else g.load(pointer, type_)

        columns = [read(b, j * tile.b_column) for j in range(tile.columns)]
        after = []
        for r in range(tile.rows):
            row = read(a, r * tile.a_row)
            after += [multiply_add(g, target, row, column, sums[r * tile.columns + j])
                      for j, column in enumerate(columns)]
        return after

    whole = tile.count // tile.lanes * tile.lanes
    rest = tile.count - whole
    sums = [Value("zeroinitializer", type_)] * len(places)
    chains = tile.chains  # few sums would wait for each other
    blocks = whole // (chains * tile.lanes) * chains * tile.lanes
    if chains > 1 and blocks:
        carried = Carried(sums * chains)
        with g.loop(0, blocks, chains * tile.lanes, carried) as k:
            after = [step(g.add(k, i64(c * tile.lanes)), carried.values[c * len(sums):(c + 1) * len(sums)], None)
                     for c in range(chains)]
            carried.next = [s for one in after for s in one]
        chained = [carried.results[c * len(sums):(c + 1) * len(sums)] for c in range(chains)]
        while len(chained) > 1:
            half = len(chained) // 2
            chained = [[plus(g, chained[2 * c][s], chained[2 * c + 1][s]) for s in range(len(places))] for c in range(half)]
        sums = chained[0]
    else:
        blocks = 0
    if blocks < whole:
        carried = Carried(sums)
        with g.loop(blocks, whole, tile.lanes, carried) as k:
            carried.next = step(k, carried.values, None)
        sums = carried.results
    if rest and target.has_masks:
        sums = step(i64(whole), sums, g.lane_mask(i64(rest), tile.lanes))
    if tile.out_row:
        store_lines(g, target, tile, sums, out)
        return name
    for start in range(0, len(sums), tile.lanes):
        group = sums[start : start + tile.lanes]
        total = summed(g, group)
        place = g.offset(out, i64(start), tile.dtype)
        if len(group) == tile.lanes:
            g.store(total, place)
        elif target.has_masks:
            g.masked_store(total, place, g.lane_mask(i64(len(group)), tile.lanes))
        else:
            for lane in range(len(group)):
                g.store(g.extract(total, lane), g.offset(place, i64(lane), tile.dtype))
    if rest and not target.has_masks:
        with g.loop(0, tile.rows) as r, g.loop(0, tile.columns) as j:
            row = g.offset(a, g.mul(r, i64(tile.a_row)), tile.dtype)
            column = g.offset(b, g.mul(j, i64(tile.b_column)), tile.dtype)
            place = g.offset(out, g.add(g.mul(r, i64(tile.columns)), j), tile.dtype)
            total_so_far = Carried([g.load(place, tile.dtype)])
            with g.loop(whole, tile.count, 1, total_so_far) as k:
                x = g.load(g.offset(row, k, tile.dtype), tile.dtype)
                y = g.load(g.offset(column, k, tile.dtype), tile.dtype)
                total_so_far.next = [multiply_add(g, target, x, y, total_so_far.values[0])]
            g.store(total_so_far.results[0], place)
    return name


def store_lines(f: Function, target: Target, tile: DotTile, sums: list[Value], out: Value) -> None:
    """Store each row of the results, or each column where these are neighbours in memory: masked, and at most a vector long."""
    turned = tile.out_column != 1
    count, length, step = tile.rows, tile.columns, tile.out_row
    if turned:
        count, length, step = tile.columns, tile.rows, tile.out_column
        sums = [sums[r * tile.columns + j] for j in range(tile.columns) for r in range(tile.rows)]
    each = max(1, tile.lanes // length)  # whole lines in a vector
    for first in range(0, count, each):
        lines = range(first, min(count, first + each))
        total = summed(f, sums[first * length : (lines[-1] + 1) * length])
        for line in lines:
            start = (line - first) * length
            value = f.shuffle(total, [(start + lane) % tile.lanes for lane in range(tile.lanes)], total) if start else total
            f.masked_store(value, f.offset(out, i64(line * step), tile.dtype), f.lane_mask(i64(length), tile.lanes))
