"""Contractions of one row that meet a few places of an image, as convolutions of single channels and their gradients do.

Either the sum goes over a few taps, and results are as many as the image has positions
(``C[n] = sum over k of A[k] * B[k + n]``), or it goes over positions and there are a few results, one for each tap.  Vectors
run along the image's rows, and several rows are one piece of straight code: each vector of the image is read once for all rows
that meet it, nothing is copied, and sums stay in registers.

Knows strides, registers and vectors.  Must not know what becomes of results.  Every sum is added up in an order that sizes
alone decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from graphc.runtime.native.axes import Axes, Contraction, merge, merge_all, offsets, split_evenly
from graphc.runtime.native.blocking import LARGE
from graphc.runtime.native.dots import summed
from graphc.runtime.native.emit import Carried, Function, Module
from graphc.runtime.native.finished import Finish, Tile
from graphc.runtime.native.microkernel import multiply_add, plus
from graphc.runtime.native.operands import LINE
from graphc.runtime.native.sharing import quotient, spread
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import flat_offset
from graphc.runtime.native.tile_stores import store_to
from graphc.runtime.native.values import SIZES, Value, i64, vector

from graphc.plan import align
from graphc.records import record

MOST_TAPS = 64  # that a position meets
MOST_SUMS = 25  # taps whose sums stay in registers, beside some rows and a vector of the image
LEAST_SUMS = 4  # below, what is read takes the time
STRAIGHT = 72  # multiply-adds of vectors that are written one after the other, where that makes four rows or more
LEAST_RUN = 3  # positions that are neighbours
AHEAD = 2048  # bytes from what is read now to what is fetched, of images that the second-level cache does not hold
NEAR = 4  # the part of the first-level cache that results take before they are finished
IN_TURN = 1 << 11  # vectors that are added up one after the other in one lane
ALONG_N = (("a", "ptr"), ("b", "ptr"), ("to", "ptr"), ("tall", "i64"), ("low", "i64"))
ALONG_K = (("a", "ptr"), ("b", "ptr"), ("to", "ptr"), ("from", "i64"), ("till", "i64"))


@record(frozen=True, kw_only=True)
class Stencil:
    """How such a contraction is cut: lengths in elements."""

    along_n: bool  # whether there is a result for each position; else one for each tap
    lanes: int  # of a vector: no more than the neighbours need
    run: int  # positions that are neighbours
    step: int  # elements of the image between them: 1 or 2
    rows: int  # of such positions, in a plane
    row_step: int  # elements of the image between rows
    other_row: int  # of the other operand, where it has positions
    planes: int
    outer: Axes  # offsets of planes in the image, and in the other operand
    other_outer: Axes
    taps: tuple[int, ...]  # offsets in the image
    weights: tuple[int, ...]  # of what they are multiplied by, where results are positions
    groups: int  # of taps, where they have a result each: so many passes
    group_step: int
    high: int  # rows whose code is one piece
    blocks: int  # of rows in a plane
    tall: int  # so many have `high` rows, the others one less; 0: all are equal
    together: int  # blocks that are finished together; planes that are added up before they are added to the rest
    far: bool  # what is met is fetched before: it lies beyond the second-level cache
    portion: int  # units that whoever is free takes at a time, of the last ones of every share; 0: none
    scratch_bytes: int

    @property
    def units(self) -> int:
        """That one member of the batch is shared in."""
        return self.planes * self.parts if self.along_n else self.groups

    @property
    def parts(self) -> int:
        """In which a plane is finished."""
        return math.ceil(self.blocks / self.together)

    @property
    def width(self) -> int:
        """The most results of a unit."""
        return self.together * self.high * self.run if self.along_n else len(self.taps)


def stencil(c: Contraction, target: Target) -> Stencil | None:
    """How `c` is cut where it has one row, and its columns or its sum are a few places that meet neighbouring positions."""
    if math.prod(c.m) != 1 or c.dtype not in ("float", "double") or 0 in (*c.batch, *c.n, *c.k):
        return None
    along_n = math.prod(c.k) <= MOST_TAPS and math.prod(c.k) <= math.prod(c.n)
    places = merge_all(c.n, c.b_n, c.b_n) if along_n else merge_all(c.k, c.b_k, c.a_k)
    taps = merge(c.k, c.b_k) if along_n else merge(c.n, c.b_n)
    number = math.prod(size for size, _ in taps)
    if not places or places[-1][1][0] not in (1, 2) or number > MOST_TAPS or (number == 1 and not along_n):
        return None
    run, (step, beside) = places[-1]
    rows, (row_step, other_row) = places[-2] if len(places) > 1 else (1, (0, 0))
    itemsize, most = SIZES[c.dtype], target.lanes(SIZES[c.dtype])
    masked = target.has_masks and run < most
    lanes = min(most, 1 << (run - 1).bit_length() if masked else 1 << run.bit_length() - 1)
    meets = number == 1 or any(abs(by) < run * step or (row_step and by and by % row_step == 0) for _, by in taps)
    if run < LEAST_RUN or lanes < 2 or not meets or (not along_n and (beside != 1 or not target.has_masks)):
        return None
    found, groups, group_step = offsets(taps), 1, 0
    if not along_n and len(found) > MOST_SUMS:
        size, by = taps[0]
        each = len(found) // size
        part = next((p for p in range(size, 0, -1) if size % p == 0 and p * each <= MOST_SUMS), 0)
        if part * each < LEAST_SUMS:
            return None
        found, groups, group_step = found[:part * each], size // part, by * part
    blocks, high, tall = split_evenly(rows, max(4, STRAIGHT // len(found)))
    outer = places[:-2]
    planes = math.prod(size for size, _ in outer)
    if along_n:
        together = min(blocks, max(1, target.l1_bytes // NEAR // (high * run * itemsize)))
        scratch = align((together * high * run + most) * itemsize)
    else:
        together = min(planes, max(1, IN_TURN // (rows * math.ceil(run / lanes))))
        scratch = align((math.ceil(len(found) / lanes) * lanes + most) * itemsize)
    large = math.prod((*c.batch, *c.n, *c.k)) * itemsize >= LARGE * SIZES["float"]
    far = math.prod((*c.batch, planes, rows, run)) * step * itemsize > target.l2_bytes
    return Stencil(along_n=along_n, lanes=lanes, run=run, step=step, rows=rows, row_step=row_step, other_row=other_row,
                   planes=planes, outer=tuple((size, by[0]) for size, by in outer),
                   other_outer=tuple((size, by[1]) for size, by in outer), taps=found,
                   weights=offsets(merge(c.k, c.a_k)) if along_n else (), groups=groups, group_step=group_step, high=high,
                   blocks=blocks, tall=tall, together=together, far=far, portion=int(large), scratch_bytes=scratch)


class Image:
    """Vectors of an image at the offsets that some rows of positions meet, in the order in which they lie."""

    def __init__(self, f: Function, s: Stencil, dtype: str, rows: int) -> None:
        self.f, self.s, self.dtype = f, s, dtype
        self.type = vector(s.lanes, dtype)
        self.uses: dict[int, list[tuple[int, int]]] = {}  # (row, tap) that meet an offset
        for r in range(rows):
            for tap, offset in enumerate(s.taps):
                self.uses.setdefault(r * s.row_step + offset, []).append((r, tap))

    def load(self, base: Value, offset: int, count: int) -> Value:
        """So many neighbours, at most a vector."""
        f, place = self.f, self.f.offset(base, i64(offset), self.dtype)
        if count >= self.s.lanes:
            return f.load(place, self.type)
        return f.masked_load(place, self.type, f.lane_mask(i64(count), self.s.lanes))

    def vectors(self, base: Value, count: int, ahead: Sequence[Value]) -> Iterator[tuple[Value, list[tuple[int, int]]]]:
        """Each vector of `count` positions from `base` on, and who meets it; beside them the lines `ahead` are fetched."""
        f, lanes, odd = self.f, self.s.lanes, {}
        for number, offset in enumerate(sorted(self.uses)):
            if number < len(ahead):
                f.prefetch(ahead[number])
            if self.s.step == 1:
                yield self.load(base, offset, count), self.uses[offset]
                continue
            if offset not in odd:
                both = offset + 1 in self.uses
                length = 2 * count - (0 if both else 1)
                low = self.load(base, offset, min(length, lanes))
                begin = max(0, min(lanes, length - lanes)) if count == lanes else lanes  # no element beyond the last one
                high = self.load(base, offset + begin, length - begin) if length > lanes else low
                behind = lanes - begin  # elements of `high` that `low` has, too
                for place in range(1 + both):
                    lane = [i if i < lanes else i + behind for i in range(place, 2 * lanes, 2)]
                    odd[offset + place] = f.shuffle(low, [min(i, 2 * lanes - 1) for i in lane], high)
            yield odd[offset], self.uses[offset]


def lines_ahead(f: Function, s: Stencil, dtype: str, row: Value, row_step: int, rows: int, at: Value) -> list[Value]:
    """The part of the lines that so many rows take which is fetched beside the vectors at a place in them."""
    if not s.far:
        return []
    parts = math.ceil(s.run / s.lanes)
    number = math.ceil(rows * abs(row_step or s.run * s.step) * SIZES[dtype] / LINE / parts)
    start = f.offset(row, f.add(i64(AHEAD), f.mul(f.binary("udiv", at, i64(s.lanes)), i64(number * LINE))), "i8")
    return [f.offset(start, i64(line * LINE), "i8") for line in range(number)]


def stencil_function(module: Module, target: Target, s: Stencil, dtype: str) -> str:
    """The name of the function that computes the results of some blocks of rows, first those of `high` rows."""
    sizes = (s.lanes, s.run, s.step, s.row_step, s.high, int(s.tall > 0), int(s.far))
    name = ".".join(map(str, ("stencil", dtype, *sizes, *s.taps, "by", *s.weights))).replace("-", "n")
    if name in module.functions:
        return name
    f = module.function(name, ALONG_N, attributes="noinline nounwind")
    a, b, to, *counts = f.parameters
    factors = [f.broadcast(f.load(f.offset(a, i64(w), dtype), dtype), s.lanes) for w in s.weights]
    count, begin, half = min(s.run, s.lanes), i64(0), s.lanes // 2

    def block(rows: int, row: Value, at: Value, result: Value) -> None:
        line, ahead = f.offset(row, f.mul(at, i64(s.step)), dtype), lines_ahead(f, s, dtype, row, s.row_step, rows, at)
        image = Image(f, s, dtype, rows)
        left = [len(s.taps)] * rows
        sums: list[Value | None] = [None] * rows
        for value, uses in image.vectors(line, count, ahead):
            for r, tap in uses:
                before = sums[r]
                sums[r] = after = (f.binary("fmul", value, factors[tap]) if before is None
                                   else multiply_add(f, target, value, factors[tap], before))
                left[r] -= 1
                if not left[r]:
                    place = f.offset(result, i64(r * s.run), dtype)
                    if count == s.lanes:
                        f.store(after, place)
                        continue
                    for lane in (0, count - half):  # two halves that overlap: some processors take long for masked stores
                        f.store(f.shuffle(after, range(lane, lane + half)), f.offset(place, i64(lane), dtype))

    for rows, number in zip((s.high, s.high - 1) if s.tall else (s.high,), counts, strict=False):
        with f.loop(i64(0), number) as i, f.loop(0, math.ceil(s.run / s.lanes)) as v:
            at = f.minimum(f.mul(v, i64(s.lanes)), i64(max(0, s.run - s.lanes)))  # the last vector may overlap
            first = f.add(begin, f.mul(i, i64(rows)))
            row = f.offset(b, f.mul(first, i64(s.row_step)), dtype)
            block(rows, row, at, f.offset(to, f.add(f.mul(first, i64(s.run)), at), dtype))
        begin = f.add(begin, f.mul(number, i64(rows)))
    return name


def taps_function(module: Module, target: Target, s: Stencil, dtype: str) -> str:
    """The name of the function that adds what some planes give to the sums of all taps; the first of all planes, to zero."""
    axes = [v for axes in (s.outer, s.other_outer) for axis in axes for v in axis]
    sizes = (s.lanes, s.run, s.step, s.rows, s.row_step, s.other_row, s.high, int(s.far))
    name = ".".join(map(str, ("taps", dtype, *sizes, *s.taps, "in", *axes))).replace("-", "n")
    if name in module.functions:
        return name
    f = module.function(name, ALONG_K, attributes="noinline nounwind")
    a, b, to, start_plane, stop_plane = f.parameters
    type_, zero = vector(s.lanes, dtype), Value("zeroinitializer", vector(s.lanes, dtype))

    def block(rows: int, beside: Value, line: Value, at: Value, sums: Sequence[Value], count: int = s.lanes) -> list[Value]:
        image, after = Image(f, s, dtype, rows), list(sums)
        found: dict[int, Value] = {}
        ahead = [*lines_ahead(f, s, dtype, line, s.row_step, rows, at),
                 *lines_ahead(f, s, dtype, beside, s.other_row, rows, at)]
        beside, line = f.offset(beside, at, dtype), f.offset(line, f.mul(at, i64(s.step)), dtype)
        for value, uses in image.vectors(line, count, ahead):
            for r, tap in uses:
                if r not in found:
                    found[r] = image.load(beside, r * s.other_row, count)
                after[tap] = multiply_add(f, target, value, found[r], after[tap])
        return after

    def row(rows: int, first: Value, beside: Value, line: Value, sums: Sequence[Value]) -> list[Value]:
        """From end to end."""
        beside = f.offset(beside, f.mul(first, i64(s.other_row)), dtype)
        line = f.offset(line, f.mul(first, i64(s.row_step)), dtype)
        whole = s.run // s.lanes * s.lanes
        along = Carried(sums)
        after = list(sums)
        if whole:
            with f.loop(0, whole, s.lanes, along) as at:
                along.next = block(rows, beside, line, at, along.values)
            after = list(along.results)
        if s.run > whole:
            after = block(rows, beside, line, i64(whole), after, s.run - whole)
        return after

    carried = Carried([zero] * len(s.taps))
    with f.loop(start_plane, stop_plane, 1, carried) as plane:
        beside, line = (f.offset(base, flat_offset(f, plane, axes), dtype) for base, axes in ((a, s.other_outer), (b, s.outer)))
        sums, begin = list(carried.values), 0
        for rows, number in ((s.high, s.tall or s.blocks), (s.high - 1, s.blocks - (s.tall or s.blocks))):
            if number:
                down = Carried(sums)
                with f.loop(0, number, 1, down) as i:
                    down.next = row(rows, f.add(i64(begin), f.mul(i, i64(rows))), beside, line, down.values)
                sums, begin = list(down.results), begin + number * rows
        carried.next = sums
    anew = f.compare("icmp eq", start_plane, i64(0))
    for start in range(0, len(s.taps), s.lanes):
        total = summed(f, list(carried.results[start : start + s.lanes]))
        place = f.offset(to, i64(start), dtype)
        f.store(plus(f, f.select(anew, zero, f.load(place, type_)), total), place)
    return name


def emit_stencil(f: Function, target: Target, c: Contraction, s: Stencil, a: Value, b: Value, scratch: Value,
                 thread: Value, threads: Value, finish: Finish | None, to: Value) -> None:
    """All units, each finished on its own; without a finish they are stored from address `to` on."""
    direct = finish is None and s.along_n and merge(c.n, c.c_n) == ((math.prod(c.n), 1),)
    finish = None if direct else finish or store_to(to, c, target)
    a_batch, b_batch, c_batch = (merge(c.batch, steps) for steps in (c.a_batch, c.b_batch, c.c_batch))

    def at(pointer: Value, offset: Value) -> Value:
        return f.offset(pointer, offset, c.dtype)

    def positions(batch: Value, unit: Value) -> None:
        plane, part = quotient(f, unit, s.parts)
        block = f.mul(part, i64(s.together))
        number = f.minimum(f.sub(i64(s.blocks), block), i64(s.together))
        row, tall, low = f.mul(block, i64(s.high)), number, i64(0)
        if s.tall:
            before = f.minimum(block, i64(s.tall))  # blocks of all rows
            row = f.add(f.mul(block, i64(s.high - 1)), before)
            tall = f.sub(f.minimum(f.add(block, number), i64(s.tall)), before)
            low = f.sub(number, tall)
        columns = f.mul(f.add(f.mul(number, i64(s.high - (s.tall > 0))), tall if s.tall else i64(0)), i64(s.run))
        first = f.mul(f.add(f.mul(plane, i64(s.rows)), row), i64(s.run))
        line = f.add(f.add(flat_offset(f, batch, b_batch), flat_offset(f, plane, s.outer)), f.mul(row, i64(s.row_step)))
        weights = at(a, flat_offset(f, batch, a_batch))
        there = at(to, f.add(flat_offset(f, batch, c_batch), first)) if direct else scratch
        f.call(stencil_function(f.module, target, s, c.dtype), [weights, at(b, line), there, tall, low])
        if finish:
            finish(f, Tile(scratch, s.width, i64(1), columns, i64(0), first, batch, i64(0), unit, s.width))

    def taps(batch: Value, group: Value) -> None:
        first, line = at(a, flat_offset(f, batch, a_batch)), at(b, flat_offset(f, batch, b_batch))
        line = at(line, f.mul(group, i64(s.group_step)))
        with f.loop(0, s.planes, s.together) as plane:
            till = f.minimum(f.add(plane, i64(s.together)), i64(s.planes))
            f.call(taps_function(f.module, target, s, c.dtype), [first, line, scratch, plane, till])
        if finish:
            finish(f, Tile(scratch, s.width, i64(1), i64(s.width), i64(0), f.mul(group, i64(s.width)), batch, i64(0), group,
                           s.width))

    def item(batch: Value, low: Value, high: Value) -> None:
        with f.loop(low, high) as unit:
            (positions if s.along_n else taps)(batch, unit)

    spread(f, math.prod(c.batch), s.units, thread, threads, item, s.portion, dealt=c.dealt)
