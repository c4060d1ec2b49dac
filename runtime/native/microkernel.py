"""Micro-kernels: one register tile of a contraction, summed over a block of k.

Knows registers, vectors and fused multiply-add.  Must not know axes, blocking, threads or what becomes of a tile.
A micro-kernel is an internal function shared by every contraction of a module whose tile and strides agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.runtime.native.bfloat16 import multiply_add_pairs
from graphc.runtime.native.emit import Carried, Function, Module
from graphc.runtime.native.target import Target
from graphc.runtime.native.values import SIZES, Value, i64, vector

from graphc.records import NamedTuple

SPACING, SHORT_SPACING = 4, 2  # rows of streams are prefetched every so many k: all at once would stall the loads


class TileShape(NamedTuple):
    """A register tile: `rows` by `vectors` registers of `lanes` elements."""

    dtype: str
    rows: int
    vectors: int
    lanes: int
    last: int = 0  # lanes of the last vector of a row, where it is half a register; else 0

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes

    def width(self, vector: int) -> int:
        """Lanes of a vector of a row."""
        return self.last if self.last and vector == self.vectors - 1 else self.lanes


class MicroKernel(NamedTuple):
    """What a micro-kernel's code depends on.  Strides are in elements; None stands for "read a table of offsets".

    The stride between rows of A has to be in the code: rows with an index for an address take more instructions, 8 % of a
    tile's time on a core that another one shares.
    """

    tile: TileShape
    a_row: int  # between rows of A
    a_k: int | None  # between successive k of A
    b_k: int | None  # between successive k of B, whose columns are adjacent
    masked: bool  # the last vector of a row may be partly outside of B and of the result
    accumulates: bool = False  # may be asked to add to earlier sums
    streamed: bool = False  # B comes from the second-level cache: prefetch its lines
    streams: bool = False  # there are arrays laid out like the tile that will be touched next: prefetch their rows
    spacing: int = SPACING  # k from row to row
    given: bool = False  # the function gets b_k when it runs: packed panels and a B that is read where it is share it
    b_apart: int = 0  # elements between the vectors of a row of B, each of which is masked then; 0: they are neighbours
    apart: int = 0  # and between those of the result
    past: bool = False  # vectors of the result are aligned, and whole ones are written past the caches
    paired: bool = False  # an element of A and of B is a pair of bfloat16, of two k

    @property
    def name(self) -> str:
        t = self.tile
        parts = [t.dtype, f"{t.rows}x{t.vectors}x{t.lanes}" + "h" * (t.last > 0), self.a_row, self.a_k,
                 "g" if self.given else self.b_k,
                 ("m" if self.masked else "f") + "a" * self.accumulates + "s" * self.streamed
                 + f"e{self.spacing}" * self.streams
                 + f"v{self.b_apart}.{self.apart}" * (self.b_apart > 0) + "p" * self.past + "w" * self.paired]
        return "tile." + ".".join(str(p).replace("-", "n").replace("None", "t") for p in parts)


PARAMETERS = (
    ("a", "ptr"), ("b", "ptr"), ("start", "ptr"), ("start_stride", "i64"), ("out", "ptr"), ("out_stride", "i64"),
    ("count", "i64"), ("accumulate", "i1"), ("tail", "i64"), ("a_table", "ptr"), ("b_table", "ptr"),
    ("streams", "ptr"), ("b_k", "i64"),
)

LINES_AHEAD, LINES_IN_USE = 8, 4  # the most k between the prefetch of a line of B and its use; lines of a set left for others
CACHE_LINE, PERIOD = 64, 4096  # bytes of a line, and between lines that may share a set of the first-level cache


def lines_ahead(target: Target) -> int:
    """k between the prefetch of a line of B and its use: fewer than a cache set has ways, for one set may hold them all."""
    return max(2, min(LINES_AHEAD, target.l1_bytes // PERIOD - LINES_IN_USE))


def multiply_add(function: Function, target: Target, a: Value, b: Value, c: Value) -> Value:
    """a * b + c, in one rounding where the target has the instruction; wraps for integers."""
    if a.element not in ("float", "double"):
        return function.add(function.binary("mul", a, b), c)
    if target.has_fma:
        return function.fma(a, b, c)
    return function.binary("fadd", function.binary("fmul", a, b), c)


def plus(function: Function, a: Value, b: Value) -> Value:
    return function.binary("fadd" if a.element in ("float", "double") else "add", a, b)


def most_rows(target: Target, vectors: int) -> int:
    """The most rows of this many vectors whose sums stay in registers, beside B vectors and one broadcast of A."""
    spare = 1 if target.has_fma else 2
    return max(1, min(16, (target.registers - vectors - spare) // vectors))


def tile_function(module: Module, target: Target, kernel: MicroKernel) -> str:
    """The name of the function that computes one tile; written into the module when it is not there yet.

    ``out[r, j] = (start[r, j] if accumulate) + sum over k < count of a[r, k] * b[k, j]``, for count >= 1.  `tail` is
    the number of valid columns of the last vector (any number >= lanes where all are).  Sums over k are sequential,
    from zero.
    """
    name = kernel.name
    if name in module.functions:
        return name
    tile = kernel.tile
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    a, b, start, start_stride, out, out_stride, count, accumulate, tail, a_table, b_table, streams, b_k = f.parameters
    mask = f.lane_mask(tail, tile.width(tile.vectors - 1)) if kernel.masked else None
    walk = Walk(f, target, kernel, a, b, a_table, b_table, count, mask, b_k if kernel.given else None)
    sums = sums_beside(walk, streams) if kernel.streams else walk.all()
    write_sums(f, kernel, sums, accumulate, start, start_stride, out, out_stride, mask)
    return name


class Walk:
    """The way along k: pointers that advance, and a count of k only where offsets come from a table."""

    def __init__(self, f: Function, target: Target, kernel: MicroKernel, a: Value, b: Value, a_table: Value, b_table: Value,
                 count: Value, mask: Value | None = None, b_k: Value | None = None, a_k: Value | None = None) -> None:
        self.f, self.target, self.kernel, self.mask = f, target, kernel, mask
        self.a, self.b, self.a_table, self.b_table, self.count = a, b, a_table, b_table, count
        along = kernel.b_k, kernel.a_k
        size = SIZES[kernel.tile.dtype]
        self.steps = [None if stride is None else f.mul(given or i64(stride), i64(size))  # bytes
                      for stride, given in zip(along, (b_k, a_k), strict=True)]
        # what tells the end: B's pointer, or A's; else the count
        self.guide = None if None in along else next((i for i, stride in enumerate(along) if stride), None)
        self.place = 2 if self.guide is None else self.guide  # where in a state it is
        self.end = self.after(self.first(), count)

    def first(self) -> list[Value]:
        counter = [i64(0)] if self.guide is None else []
        return [self.b, self.a, *counter, *no_sums(self.kernel.tile)]

    def sums(self, state: list[Value]) -> list[Value]:
        return state[2:] if self.guide is not None else state[3:]

    def step(self, state: list[Value]) -> list[Value]:
        """The state after one more k."""
        f = self.f
        k = i64(0) if self.guide is not None else state[2]
        tables = zip(state[:2], self.steps, (self.b, self.a), (self.b_table, self.a_table), strict=True)
        b, a = (now if step else f.offset(first, f.load(f.offset(table, k, "i64"), "i64"), self.kernel.tile.dtype)
                for now, step, first, table in tables)
        sums = self.products(a, b, self.sums(state))
        following = (f.offset(now, step, "i8") if step else now for now, step in zip((b, a), self.steps, strict=True))
        return [*following, *([f.add(k, i64(1))] if self.guide is None else []), *sums]

    def products(self, a: Value, b: Value, sums: Sequence[Value]) -> list[Value]:
        """The sums with the products of one k, whose first elements are at `a` and `b`."""
        f, kernel, tile, width = self.f, self.kernel, self.kernel.tile, self.kernel.tile.lanes
        columns = [read(f, f.offset(b, i64(v * (kernel.b_apart or width)), tile.dtype), vector(tile.width(v), tile.dtype),
                        self.mask if kernel.b_apart or v == tile.vectors - 1 else None) for v in range(tile.vectors)]
        step = self.steps[0]
        if kernel.streamed and step:  # a row that begins inside a line shares its first one with the panel before
            ahead = f.offset(b, f.mul(step, i64(lines_ahead(self.target))), "i8")
            for line in range(0, tile.columns * SIZES[tile.dtype], CACHE_LINE):
                f.prefetch(f.offset(ahead, i64(line + CACHE_LINE - 1), "i8"))
        result, in_memory = list(sums), rows_in_memory(self.target, tile)

        def add(r: int, vectors: Sequence[int]) -> None:
            one = f.load(f.offset(a, i64(r * kernel.a_row), tile.dtype), tile.dtype)
            ones = {w: f.broadcast(one, w) for w in dict.fromkeys(tile.width(v) for v in vectors)}
            for v in vectors:
                place = r * tile.vectors + v
                each = ones[tile.width(v)]
                result[place] = (multiply_add_pairs(f, columns[v], each, result[place]) if kernel.paired else
                                 multiply_add(f, self.target, each, columns[v], result[place]))

        for r in range(tile.rows):
            add(r, [0] if r in in_memory else range(tile.vectors))
        for v in range(1, tile.vectors) if in_memory else ():
            f.load_anew()
            for r in in_memory:
                add(r, [v])
        return result

    def after(self, state: list[Value], count: Value) -> Value:
        """What a state's guide is `count` k later."""
        if self.guide is None:
            return self.f.add(state[self.place], count)
        step = self.steps[self.guide]
        assert step is not None
        return self.f.offset(state[self.place], self.f.mul(count, step), "i8")

    def goes_on(self, state: list[Value], end: Value) -> Value:
        """Whether the state's guide is not yet at `end`."""
        return self.f.compare("icmp ne", state[self.place], end)

    def all(self) -> list[Value]:
        """The sums over every k."""
        sums = Carried(self.first())
        with self.f.repeat(sums):
            sums.next = self.step(sums.values)
            sums.again = self.goes_on(sums.next, self.end)
        return self.sums(sums.results)

    def all_beside(self, period: int, events: Value, state: Sequence[Value],
                   event: Callable[[Sequence[Value]], Sequence[Value]]) -> list[Value]:
        """The sums over every k; after the first k and at every `period`-th from there on also `event`, so many times.

        They must all be before the last k.  An event gets the state that the one before returned.

        It leaves the loop of the multiply-adds where that would end, and comes back: a loop around that loop would carry all
        sums, too, which is as much code as the multiply-adds are.
        """
        f, first = self.f, self.first()
        body, stopped, then, on, done = map(f.label, ("loop", "stop", "event", "on", "end"))
        before = f.current
        some = f.compare("icmp sgt", events, i64(0))
        initial = [f.select(some, self.after(first, i64(1)), self.end), events, *state, *first]
        f.branch(body)
        f.block(body)
        phis = [Value(f.fresh(), value.type) for value in initial]
        place = len(f.lines)
        f.lines.append("")  # the phis, written when the latch is known
        (stop, left), had, sums = phis[:2], phis[2:2 + len(state)], phis[2 + len(state):]
        now = self.step(sums)
        here = f.current
        f.branch_if(self.goes_on(now, stop), on, stopped)
        f.block(stopped)
        f.branch_if(self.goes_on(now, self.end), then, done)
        f.block(then)
        after, less = event(had), f.sub(left, i64(1))
        further = f.select(f.compare("icmp sgt", less, i64(0)), self.after(now, i64(period)), self.end)
        latch = f.current
        f.branch(on)
        f.block(on)
        following = [*f.either([further, less, *after], latch, [stop, left, *had], here), *now]
        f.branch(body)
        f.lines[place] = "\n".join(f"  {p.name} = phi {p.type} [ {v.name}, %{before} ], [ {n.name}, %{on} ]"
                                   for p, v, n in zip(phis, initial, following, strict=True))
        f.block(done)
        return self.sums(now)


def fetch_to_write(f: Function, row: Value, size: int, near: bool = True) -> None:
    """Fetch the lines of a piece of a row, to be written; else into the second-level cache, where it is not to be `near`.

    Each to its last byte: where a row begins inside a line, its first line was fetched for the piece before it, and it is
    the last one that would be waited for.
    """
    first = min(size, CACHE_LINE) - 1
    for end in range(first, size, CACHE_LINE):
        f.prefetch(f.offset(row, i64(end), "i8"), write=near, locality=3 if near else 2)


def sums_beside(walk: Walk, streams: Value) -> list[Value]:
    """All sums; at every few k a row of each stream is fetched.

    At `streams` are their number, which is not in the code so that more tiles share it, and of each an address, which moves on,
    and the bytes between rows.
    """
    f, tile = walk.f, walk.kernel.tile
    number, first = f.load(streams, "i64"), f.offset(streams, i64(1), "i64")

    def fetch(state: Sequence[Value]) -> Sequence[Value]:
        with f.loop(0, number) as stream:
            place = f.offset(first, f.mul(stream, i64(2)), "i64")
            line, stride = f.load(place, "ptr"), f.load(f.offset(place, i64(1), "i64"), "i64")
            fetch_to_write(f, line, tile.columns * SIZES[tile.dtype])
            f.store(f.offset(line, stride, "i8"), place)
        return state

    spacing = walk.kernel.spacing
    times = f.binary("udiv", f.add(walk.count, i64(spacing - 2)), i64(spacing))
    return walk.all_beside(spacing, f.minimum(times, i64(tile.rows)), [], fetch)


def rows_in_memory(target: Target, tile: TileShape) -> range:
    """Rows whose elements of A are operands in memory of every multiply-add, instead of a register.

    A register costs an instruction that a core can issue less often when another one shares it; an operand in memory
    costs a load for each multiply-add.  In half of the rows of two vectors both are below their limits.
    """
    if target.vector_bytes < 64 or tile.vectors != 2 or tile.dtype not in ("float", "double"):
        return range(0)
    return range(1, tile.rows, 2)


def no_sums(tile: TileShape) -> list[Value]:
    return [Value("zeroinitializer", vector(tile.width(v), tile.dtype)) for v in range(tile.vectors)] * tile.rows


def write_sums(f: Function, kernel: MicroKernel, sums: Sequence[Value], accumulate: Value, start: Value,
               start_stride: Value, out: Value, out_stride: Value, mask: Value | None = None) -> None:
    """Store the sums at `out`; where `accumulate` holds, added to those at `start`, else to what changes no number."""
    if not kernel.accumulates:
        write_tile(f, kernel.tile, sums, None, None, out, out_stride, mask, kernel.apart, kernel.past)
        return
    neutral = -0.0 if kernel.tile.dtype in ("float", "double") else 0  # -0.0 + 0.0 is 0.0, and -0.0 + -0.0 is -0.0
    row = f.module.table([neutral] * kernel.tile.columns, kernel.tile.dtype)
    write_tile(f, kernel.tile, sums, f.select(accumulate, start, row), f.select(accumulate, start_stride, i64(0)), out,
               out_stride, mask, kernel.apart)


def write_tile(f: Function, tile: TileShape, results: Sequence[Value], start: Value | None, start_stride: Value | None,
               out: Value, out_stride: Value, mask: Value | None, apart: int = 0, past: bool = False) -> None:
    """Store the sums at `out`, added to what is at `start` where that is given; apart: between vectors, all of them masked.

    past: whole vectors past the caches.
    """
    places = iter(results)
    for r in range(tile.rows):
        for v in range(tile.vectors):
            result, lane_mask = next(places), mask if apart or v == tile.vectors - 1 else None
            column = i64(v * (apart or tile.lanes))
            if start:
                old = f.offset(start, column, tile.dtype)
                result = plus(f, read(f, old, result.type, lane_mask), result)
            write(f, result, f.offset(out, column, tile.dtype), lane_mask, past)
        if r < tile.rows - 1:
            out = f.offset(out, out_stride, tile.dtype)
            start = f.offset(start, start_stride, tile.dtype) if start and start_stride else None


def read(f: Function, pointer: Value, type_: str, mask: Value | None) -> Value:
    return f.masked_load(pointer, type_, mask) if mask else f.load(pointer, type_)


def write(f: Function, value: Value, pointer: Value, mask: Value | None, past: bool = False) -> None:
    if mask:
        f.masked_store(value, pointer, mask)
    else:
        f.store(value, pointer, past=past)
