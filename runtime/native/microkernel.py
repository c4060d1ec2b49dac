"""Micro-kernels: one register tile of a contraction, summed over a block of k.

Knows registers, vectors and fused multiply-add.  Must not know axes, blocking, threads or what becomes of a tile.
A micro-kernel is an internal function shared by every contraction of a module whose tile and strides agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.runtime.native.emit import SIZES, Function, Module, Value, i64, vector
from graphc.runtime.native.target import Target


@dataclass(frozen=True)
class TileShape:
    """A register tile: `rows` by `vectors` registers of `lanes` elements."""

    dtype: str
    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


@dataclass(frozen=True)
class MicroKernel:
    """What a micro-kernel's code depends on.  Strides are in elements; None stands for "read a table of offsets"."""

    tile: TileShape
    a_row: int  # between rows of A
    a_k: int | None  # between successive k of A
    b_k: int | None  # between successive k of B, whose columns are adjacent
    masked: bool  # the last vector of a row may be partly outside of B and of the result
    accumulates: bool = False  # may be asked to add to earlier sums
    streamed: bool = False  # B comes from the second-level cache: prefetch its lines
    streams: int = 0  # arrays laid out like the tile that will be touched next: prefetch their rows

    @property
    def name(self) -> str:
        t = self.tile
        parts = [t.dtype, f"{t.rows}x{t.vectors}x{t.lanes}", self.a_row, self.a_k, self.b_k,
                 ("m" if self.masked else "f") + "a" * self.accumulates + "s" * self.streamed + f"{self.streams}"]
        return "tile." + ".".join(str(p).replace("-", "n").replace("None", "t") for p in parts)


PARAMETERS = (
    ("a", "ptr"), ("b", "ptr"), ("start", "ptr"), ("start_stride", "i64"), ("out", "ptr"), ("out_stride", "i64"),
    ("count", "i64"), ("accumulate", "i1"), ("tail", "i64"), ("a_table", "ptr"), ("b_table", "ptr"),
    ("streams", "ptr"),
)

# k between the prefetch of a line of B and its use: fewer than a cache set has ways, for one set may hold them all
LINES_AHEAD = 8
SPACING = 4  # rows of the streams are prefetched every so many k: all at once would stall the loads
CACHE_LINE = 64


def has_fma(target: Target) -> bool:
    """Whether a fused multiply-add is an instruction; elsewhere LLVM would call a library function per lane."""
    return "+fma," in target.features + "," or target.triple.startswith(("aarch64", "arm64"))


def multiply_add(function: Function, target: Target, a: Value, b: Value, c: Value) -> Value:
    """a * b + c, in one rounding where the target has the instruction; wraps for integers."""
    if a.element not in ("float", "double"):
        return function.add(function.binary("mul", a, b), c)
    if has_fma(target):
        return function.fma(a, b, c)
    return function.binary("fadd", function.binary("fmul", a, b), c)


def plus(function: Function, a: Value, b: Value) -> Value:
    return function.binary("fadd" if a.element in ("float", "double") else "add", a, b)


def most_rows(target: Target, vectors: int) -> int:
    """The most rows of this many vectors whose sums stay in registers, beside B vectors and one broadcast of A."""
    spare = 1 if has_fma(target) else 2
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
    a, b, start, start_stride, out, out_stride, count, accumulate, tail, a_table, b_table, streams = f.parameters
    width, type_ = tile.lanes, vector(tile.lanes, tile.dtype)
    mask = f.lane_mask(tail, width) if kernel.masked else None
    zero = Value("zeroinitializer", type_)
    # tested at its end, and count >= 1: a loop tested at its top needs rotation, or copies of all its sums
    initial = [i64(0), *[zero] * (tile.rows * tile.vectors), a, b]
    loop, done = f.label("loop"), f.label("end")
    before = f.current
    f.branch(loop)
    f.block(loop)
    k, *sums, a_now, b_now = phis = [Value(f.fresh(), v.type) for v in initial]
    place = len(f.lines)
    f.lines.append("")
    if kernel.streams:
        prefetch_streams(f, kernel, k, streams)
    if kernel.a_k is None:
        a_now = f.offset(a, f.load(f.offset(a_table, k, "i64"), "i64"), tile.dtype)
    if kernel.b_k is None:
        b_now = f.offset(b, f.load(f.offset(b_table, k, "i64"), "i64"), tile.dtype)
    columns = [read(f, f.offset(b_now, i64(v * width), tile.dtype), type_, mask if v == tile.vectors - 1 else None)
               for v in range(tile.vectors)]
    if kernel.streamed:
        ahead = f.offset(b_now, i64(LINES_AHEAD * (kernel.b_k or 0)), tile.dtype)
        for line in range(0, tile.columns * SIZES[tile.dtype], CACHE_LINE):
            f.prefetch(f.offset(ahead, i64(line), "i8"))
    for r in range(tile.rows):
        one = f.broadcast(f.load(f.offset(a_now, i64(r * kernel.a_row), tile.dtype), tile.dtype), width)
        for v, column in enumerate(columns):
            sums[r * tile.vectors + v] = multiply_add(f, target, one, column, sums[r * tile.vectors + v])
    a_next = a_now if kernel.a_k is None else f.offset(a_now, i64(kernel.a_k), tile.dtype)
    b_next = b_now if kernel.b_k is None else f.offset(b_now, i64(kernel.b_k), tile.dtype)
    after = f.add(k, i64(1))
    latch = f.current
    f.lines[place] = "\n".join(f"  {phi.name} = phi {phi.type} [ {first.name}, %{before} ], [ {next_.name}, %{latch} ]"
                               for phi, first, next_ in zip(phis, initial, [after, *sums, a_next, b_next], strict=True))
    f.branch_if(f.compare("icmp slt", after, count), loop, done)
    f.block(done)
    if not kernel.accumulates:
        write_tile(f, tile, sums, None, None, out, out_stride, mask)
        return name
    add, plain, done = f.label("add"), f.label("plain"), f.label("done")
    f.branch_if(accumulate, add, plain)
    f.block(add)
    write_tile(f, tile, sums, start, start_stride, out, out_stride, mask)
    f.branch(done)
    f.block(plain)
    write_tile(f, tile, sums, None, None, out, out_stride, mask)
    f.branch(done)
    f.block(done)
    return name


def prefetch_streams(f: Function, kernel: MicroKernel, k: Value, streams: Value) -> None:
    """Prefetch row k / SPACING of each stream when k is a multiple of SPACING; `streams`: (address, bytes a row)."""
    tile = kernel.tile
    due = f.compare("icmp eq", f.binary("and", k, i64(SPACING - 1)), i64(0))
    inside = f.compare("icmp slt", k, i64(SPACING * tile.rows))
    with f.when(f.binary("and", due, inside)):
        row = f.binary("lshr", k, i64(SPACING.bit_length() - 1))
        for stream in range(kernel.streams):
            address = f.load(f.offset(streams, i64(2 * stream), "i64"), "ptr")
            stride = f.load(f.offset(streams, i64(2 * stream + 1), "i64"), "i64")
            line = f.offset(address, f.mul(row, stride), "i8")
            for start in range(0, tile.columns * SIZES[tile.dtype], CACHE_LINE):
                f.prefetch(f.offset(line, i64(start), "i8"), write=True)


def write_tile(f: Function, tile: TileShape, results: list[Value], start: Value | None, start_stride: Value | None,
               out: Value, out_stride: Value, mask: Value | None) -> None:
    """Store the sums at `out`, added to what is at `start` where that is given."""
    places = iter(results)
    for r in range(tile.rows):
        for v in range(tile.vectors):
            result, lane_mask = next(places), mask if v == tile.vectors - 1 else None
            if start:
                old = f.offset(start, i64(v * tile.lanes), tile.dtype)
                result = plus(f, read(f, old, result.type, lane_mask), result)
            write(f, result, f.offset(out, i64(v * tile.lanes), tile.dtype), lane_mask)
        if r < tile.rows - 1:
            out = f.offset(out, out_stride, tile.dtype)
            start = f.offset(start, start_stride, tile.dtype) if start and start_stride else None


def read(f: Function, pointer: Value, type_: str, mask: Value | None) -> Value:
    return f.masked_load(pointer, type_, mask) if mask else f.load(pointer, type_)


def write(f: Function, value: Value, pointer: Value, mask: Value | None) -> None:
    if mask:
        f.masked_store(value, pointer, mask)
    else:
        f.store(value, pointer)
