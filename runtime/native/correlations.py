"""Contractions whose operands both have neighbours along k, as the gradient of a convolution by its weights has.

Vectors run along k, an image's rows, and nothing is copied: each vector of A meets as many of B as there are taps, which
begin an element apart; where it is every second element of B that is met, two loads and a shuffle for each tap make one.
Sums stay in a tile's registers for a block of k; then their lanes are added.

Knows strides, registers and vectors.  Must not know what becomes of a finished tile.  Every sum is added up in an order that
sizes alone decide.
"""

from __future__ import annotations

import math

from graphc.runtime.native.axes import Axes, Contraction, merge, merge_all, offsets, split_evenly
from graphc.runtime.native.blocking import LARGE
from graphc.runtime.native.dots import summed
from graphc.runtime.native.emit import Carried, Function, Module
from graphc.runtime.native.finished import Finish, Tile
from graphc.runtime.native.microkernel import multiply_add, plus
from graphc.runtime.native.operands import FEW_WAYS, TABLE_LIMIT, ways
from graphc.runtime.native.sharing import quotient, spread
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import flat_offset
from graphc.runtime.native.values import SIZES, Value, i64, vector

from graphc.plan import align
from graphc.records import record

MOST_TAPS, LEAST_SUMS = 9, 8  # columns of a tile; sums that keep multiply-adds busy
WIDE = 128  # columns that are finished together, if there are so many
KEPT_SHARE = 4  # the part of the second-level cache that the sums of all tiles may take
NEAR = 2 / 3  # of the first-level cache: a block of k of a tile's rows and of what they meet
FAR_LOAD = 4  # times as long as a multiply-add on two units a vector from the second-level cache takes
LONG_ROW = 4  # vectors of a row of k whose code is written one after the other
PARAMETERS = (("a", "ptr"), ("b", "ptr"), ("a_table", "ptr"), ("b_table", "ptr"), ("count", "i64"), ("to", "ptr"),
              ("anew", "i1"))


@record(frozen=True, kw_only=True)
class Correlation:
    """How such a contraction is cut: lengths in elements, `outer` counts rows of k."""

    rows: int  # of a tile
    tall: int  # this many tiles have `rows` rows, the others one less; 0: all are equal
    row_tiles: int
    taps: int  # columns of a tile
    tap: int  # between them in B
    groups: int  # of so many columns
    groups_in_block: int
    blocks: int  # of groups
    together: int  # tiles that meet a block of k one after the other, while it is in the second-level cache
    portion: int  # units that whoever is free takes at a time, of the last ones of every share; 0: none
    run: int  # neighbours in k
    apart: int  # elements between them in B: 1 or 2
    outer: int
    outer_in_block: int
    a_row: int
    a_outer: Axes  # offsets of these are in a table
    b_outer: Axes
    a_many: Axes  # of these, which are outside of them, there are too many
    b_many: Axes
    b_groups: Axes
    far: bool  # not even one row of k of what a tile meets stays in a first-level cache, which has few ways
    sums: int  # room of a tile's sums, in whole vectors
    parts_bytes: int
    scratch_bytes: int

    def cost(self, c: Contraction, lanes: int) -> float:
        """Estimated cycles for one member of the batch."""
        m, n, vectors = math.prod(c.m), math.prod(c.n), math.ceil(self.run / lanes)
        sums = self.rows * self.taps
        shuffles = self.taps if self.apart > 1 else 0
        slower = max(1.1 + shuffles / sums, (self.rows + 2 * self.taps + shuffles) / sums, LEAST_SUMS / sums)
        if self.far:
            slower = max(slower, FAR_LOAD * (self.rows + self.apart * self.taps) / sums)
        many = math.prod(size for size, _ in self.a_many)
        return m * n * many * (self.outer * vectors / 2 * slower + 4 * math.ceil(self.outer / self.outer_in_block))


def correlation(c: Contraction, target: Target) -> Correlation | None:
    """How `c` is cut where vectors can run along k in both operands, and k are several axes; None where not."""
    itemsize = SIZES[c.dtype]
    lanes = target.lanes(itemsize)
    k, a_m, b_n = merge_all(c.k, c.a_k, c.b_k), merge(c.m, c.a_m), merge(c.n, c.b_n)
    if (not target.has_masks or target.registers < 32 or c.dtype not in ("float", "double") or len(k) < 2
            or k[-1][1] not in ((1, 1), (1, 2)) or len(a_m) != 1 or not b_n or 0 in (*c.batch, *c.m, *c.n, *c.k)):
        return None
    run, m, rest = k[-1][0], math.prod(c.m), k[:-1]
    many = []
    while len(rest) > 1 and math.prod(size for size, _ in rest) > TABLE_LIMIT:
        many.append(rest.pop(0))
    outer = math.prod(size for size, _ in rest)
    taps = next(t for t in range(min(MOST_TAPS, b_n[-1][0]), 0, -1) if b_n[-1][0] % t == 0)
    if 2 * run < lanes or outer > TABLE_LIMIT:
        return None
    row_tiles, rows, tall = split_evenly(m, (target.registers - 1) // (taps + 1))
    if rows * taps < LEAST_SUMS:
        return None
    size, step = b_n[-1]
    b_groups = (*b_n[:-1], (size // taps, step * taps)) if size > taps else b_n[:-1]
    groups = math.prod(c.n) // taps
    groups_in_block = math.ceil(groups / math.ceil(groups / max(1, WIDE // taps)))
    blocks = math.ceil(groups / groups_in_block)
    apart = k[-1][1][1]
    of_a_row = (rows * run + apart * run + (taps - 1) * min(step, run)) * itemsize
    passes = math.ceil(outer / max(1, int(NEAR * target.l1_bytes) // of_a_row))
    far = of_a_row > NEAR * target.l1_bytes and ways(target) <= FEW_WAYS
    large = math.prod((*c.batch, *c.m, *c.n, *c.k)) * itemsize >= LARGE * SIZES["float"]
    sums = math.ceil(rows * taps / lanes) * lanes
    parts = align(groups_in_block * sums * itemsize)
    together = row_tiles * blocks if row_tiles * blocks * parts <= target.l2_bytes // KEPT_SHARE else 1
    a_outer, b_outer = (tuple((count, steps[side]) for count, steps in rest) for side in (0, 1))
    a_many, b_many = (tuple((count, steps[side]) for count, steps in many) for side in (0, 1))
    return Correlation(rows=rows, tall=tall, row_tiles=row_tiles, taps=taps, tap=step, groups=groups,
                       groups_in_block=groups_in_block, blocks=blocks, together=together, portion=int(large), run=run,
                       apart=apart, outer=outer, outer_in_block=math.ceil(outer / passes), a_row=a_m[0][1], a_outer=a_outer,
                       b_outer=b_outer, a_many=a_many, b_many=b_many, b_groups=b_groups, far=far, sums=sums, parts_bytes=parts,
                       scratch_bytes=together * parts + align((rows * groups_in_block * taps + lanes) * itemsize))


def correlation_function(module: Module, target: Target, g: Correlation, dtype: str, rows: int) -> str:
    """The name of the function that adds the products of `count` rows of k to the sums of a tile; anew: to zero.

    The sum of row r and column j is at ``to[r * taps + j]``.
    """
    lanes = target.lanes(SIZES[dtype])
    name = ".".join(map(str, ("correlate", dtype, rows, g.taps, g.tap, g.run, g.apart, g.a_row, lanes))).replace("-", "n")
    if name in module.functions:
        return name
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    a, b, a_table, b_table, count, to, anew = f.parameters
    type_ = vector(lanes, dtype)

    def read(base: Value, offset: int, count: int) -> Value:
        """So many neighbours, at most a vector."""
        place = f.offset(base, i64(offset), dtype)
        return f.load(place, type_) if count >= lanes else f.masked_load(place, type_, f.lane_mask(i64(count), lanes))

    def step(line: Value, row: Value, at: Value, sums: list[Value], count: int = lanes) -> list[Value]:
        """The sums with the products of `count` neighbours, at most a vector."""
        above, beside = f.offset(line, at, dtype), f.offset(row, f.mul(at, i64(g.apart)), dtype)
        of_a = [read(above, r * g.a_row, count) for r in range(rows)]
        after = list(sums)
        found: dict[int, Value] = {}
        for j in range(g.taps):
            offset = j * g.tap
            if g.apart == 1:
                found[offset] = read(beside, offset, count)
            elif offset not in found:
                both = g.tap == 1 and j + 1 < g.taps  # the elements between are the next tap's
                length = 2 * count - (0 if both else 1)
                low = read(beside, offset, length)
                high = read(beside, offset + lanes, length - lanes) if length > lanes else low
                for odd in range(1 + both):
                    found[offset + odd] = f.shuffle(low, range(odd, 2 * lanes, 2), high)
            of_b = found[offset]
            for r in range(rows):
                after[r * g.taps + j] = multiply_add(f, target, of_a[r], of_b, after[r * g.taps + j])
        return after

    whole = g.run // lanes * lanes
    carried = Carried([Value("zeroinitializer", type_)] * (rows * g.taps))
    with f.loop(i64(0), count, 1, carried) as o:
        line, row = (f.offset(base, f.load(f.offset(table, o, "i64"), "i64"), dtype)
                     for base, table in ((a, a_table), (b, b_table)))
        sums = list(carried.values)
        if whole > LONG_ROW * lanes:
            along = Carried(sums)
            with f.loop(i64(0), i64(whole), lanes, along) as at:
                along.next = step(line, row, at, list(along.values))
            sums = list(along.results)
        else:
            for at_ in range(0, whole, lanes):
                sums = step(line, row, i64(at_), sums)
        if g.run > whole:
            sums = step(line, row, i64(whole), sums, g.run - whole)
        carried.next = sums
    for start in range(0, rows * g.taps, lanes):
        total = summed(f, list(carried.results[start : start + lanes]))
        place = f.offset(to, i64(start), dtype)
        before = f.select(anew, Value("zeroinitializer", type_), f.load(place, type_))
        f.store(plus(f, before, total), place)
    return name


def emit_correlation(f: Function, target: Target, c: Contraction, g: Correlation, a: Value, b: Value, scratch: Value,
                     thread: Value, threads: Value, finish: Finish) -> None:
    """All tiles: a unit is a tile of rows and a block of groups of columns.

    All units of a thread meet a block of k before any meets the next one: operands of many images come from afar.
    """
    dtype, lanes = c.dtype, target.lanes(SIZES[c.dtype])
    a_batch, b_batch = merge(c.batch, c.a_batch), merge(c.batch, c.b_batch)
    tables = [f.module.table(offsets(axes), "i64") for axes in (g.a_outer, g.b_outer)]
    heights = (g.rows, g.rows - 1) if g.tall else (g.rows,)
    names = [Value("@" + correlation_function(f.module, target, g, dtype, rows), "ptr") for rows in heights]
    finished = f.offset(scratch, i64(g.together * g.parts_bytes), "i8")
    width = g.groups_in_block * g.taps

    def at(pointer: Value, offset: Value) -> Value:
        return f.offset(pointer, offset, dtype)

    def place(unit: Value) -> tuple[Value, Value, Value, Value, Value, Value]:
        """(row tile, block, first row, rows, first group, groups) of a unit."""
        tile, block = quotient(f, unit, g.blocks)
        i0, rows = f.mul(tile, i64(g.rows)), i64(g.rows)
        if g.tall:
            i0 = f.add(f.mul(tile, i64(g.rows - 1)), f.minimum(tile, i64(g.tall)))
            rows = f.select(f.compare("icmp slt", tile, i64(g.tall)), rows, i64(g.rows - 1))
        start = f.mul(block, i64(g.groups_in_block))
        return tile, block, i0, rows, start, f.minimum(f.sub(i64(g.groups), start), i64(g.groups_in_block))

    def item(batch: Value, low: Value, high: Value) -> None:
        first, columns = at(a, flat_offset(f, batch, a_batch)), at(b, flat_offset(f, batch, b_batch))
        with f.loop(low, high, g.together) as from_unit:
            to_unit = f.minimum(high, f.add(from_unit, i64(g.together)))

            def parts(unit: Value) -> Value:
                return f.offset(scratch, f.mul(f.sub(unit, from_unit), i64(g.parts_bytes)), "i8")

            with f.loop(0, math.prod(size for size, _ in g.a_many)) as member, f.loop(0, g.outer, g.outer_in_block) as o:
                number = f.minimum(f.sub(i64(g.outer), o), i64(g.outer_in_block))
                of_a, of_b = (f.offset(table, o, "i64") for table in tables)
                anew = f.compare("icmp eq", f.add(member, o), i64(0))
                lines, beside = at(first, flat_offset(f, member, g.a_many)), at(columns, flat_offset(f, member, g.b_many))
                with f.loop(from_unit, to_unit) as unit:
                    _, _, i0, rows, start, count = place(unit)
                    function = f.select(f.compare("icmp eq", rows, i64(g.rows)), *names) if g.tall else names[0]
                    above = at(lines, f.mul(i0, i64(g.a_row)))
                    with f.loop(i64(0), count) as group:
                        there = at(beside, flat_offset(f, f.add(start, group), g.b_groups))
                        to = at(parts(unit), f.mul(group, i64(g.sums)))
                        f.do(f"call void {function.name}({', '.join(map(str, (above, there, of_a, of_b, number, to, anew)))})")
            with f.loop(from_unit, to_unit) as unit:
                tile, block, i0, rows, start, count = place(unit)
                gather_rows(f, g, dtype, lanes, parts(unit), finished, rows, count)
                finish(f, Tile(finished, width, rows, f.mul(count, i64(g.taps)), i0, f.mul(start, i64(g.taps)), batch, tile,
                               block, width))

    spread(f, math.prod(c.batch), g.row_tiles * g.blocks, thread, threads, item, g.portion, dealt=c.dealt)


def gather_rows(f: Function, g: Correlation, dtype: str, lanes: int, parts: Value, to: Value, rows: Value, count: Value
                ) -> None:
    """The sums of all groups as the rows of one tile."""
    type_, mask = vector(lanes, dtype), f.lane_mask(i64(g.taps), lanes) if g.taps < lanes else None
    with f.loop(i64(0), rows) as r, f.loop(i64(0), count) as group:
        source = f.offset(parts, f.add(f.mul(group, i64(g.sums)), f.mul(r, i64(g.taps))), dtype)
        target = f.offset(to, f.add(f.mul(r, i64(g.groups_in_block * g.taps)), f.mul(group, i64(g.taps))), dtype)
        if mask:
            f.masked_store(f.masked_load(source, type_, mask), target, mask)
        else:
            with f.loop(i64(0), i64(g.taps)) as j:
                f.store(f.load(f.offset(source, j, dtype), dtype), f.offset(target, j, dtype))
