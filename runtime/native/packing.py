"""Packing: copying a block of an operand so that a micro-kernel reads it line by line.

Knows strides, vectors and in-register transposition.  Must not know contractions, blocking or threads.
A packed block has one line per k; a line holds the operand at `width` rows (of A) or columns (of B).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.runtime.native.emit import Carried, Function, Module
from graphc.runtime.native.values import SIZES, Value, i64, vector

from graphc.pages import LINE

LINES_AHEAD = 2  # lines of panels that are fetched before they are copied
TURNED_BYTES = 16  # of a line of memory that are turned at once

PARAMETERS = (
    ("to", "ptr"), ("to_stride", "i64"), ("source", "ptr"), ("offsets", "ptr"), ("width", "i64"), ("padded", "i64"),
    ("count", "i64"), ("k_stride", "i64"), ("k_table", "ptr"),
)


def k_offset(f: Function, k: Value, k_stride: Value, k_table: Value, table: bool) -> Value:
    return f.load(f.offset(k_table, k, "i64"), "i64") if table else f.mul(k, k_stride)


def pack_general(module: Module, dtype: str, table: bool) -> str:
    """``to[k, j] = source[offsets[j] + offset(k)]`` for j < padded: any strides, one element at a time."""
    name = f"pack.any.{dtype}.{'t' if table else 'f'}"
    if name in module.functions:
        return name
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, to_stride, source, offsets, _width, padded, count, k_stride, k_table = f.parameters
    with f.loop(i64(0), padded) as j:
        line = f.offset(source, f.load(f.offset(offsets, j, "i64"), "i64"), dtype)
        column = f.offset(to, j, dtype)
        with f.loop(i64(0), count) as k:
            value = f.load(f.offset(line, k_offset(f, k, k_stride, k_table, table), dtype), dtype)
            f.store(value, f.offset(column, f.mul(k, to_stride), dtype))
    return name


def pack_lines(module: Module, dtype: str, lanes: int, table: bool, masks: bool) -> str:
    """``to[k, j] = source[j + offset(k)]`` for j < width, zero for width <= j < padded: lines are adjacent already.

    With masks each line is written in whole registers, the next line overwrites what is too much, and the block needs `lanes`
    elements of slack at its end: some processors take long for masked stores.
    """
    name = f"pack.lines.{dtype}.{lanes}.{'t' if table else 'f'}"
    if name in module.functions:
        return name
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, to_stride, source, _offsets, width, padded, count, k_stride, k_table = f.parameters
    type_ = vector(lanes, dtype)
    whole = f.mul(f.binary("udiv", width, i64(lanes)), i64(lanes))
    mask = f.lane_mask(f.sub(width, whole), lanes)
    ragged = f.compare("icmp slt", whole, padded)
    with f.loop(i64(0), count) as k:
        line = f.offset(source, k_offset(f, k, k_stride, k_table, table), dtype)
        target = f.offset(to, f.mul(k, to_stride), dtype)
        with f.loop(i64(0), whole, lanes) as j:
            f.store(f.load(f.offset(line, j, dtype), type_), f.offset(target, j, dtype))
        with f.when(ragged):
            if masks:
                value = f.masked_load(f.offset(line, whole, dtype), type_, mask)
                f.store(value, f.offset(target, whole, dtype))
            else:
                with f.loop(whole, width) as j:
                    f.store(f.load(f.offset(line, j, dtype), dtype), f.offset(target, j, dtype))
                with f.loop(width, padded) as j:
                    f.store(Value("zeroinitializer", dtype), f.offset(target, j, dtype))
    return name


def pack_panels(module: Module, dtype: str, lanes: int, vectors: int, table: bool) -> str:
    """``to[p, k, j] = source[p * width + j + offset(k)]`` for j < width = vectors * lanes: panels of neighbouring columns.

    Lines are read whole, in the order of memory, which memory far away is fastest at; they are too short for a processor to
    foresee the next ones, which are fetched.  `to_stride` is from panel to panel, and `padded` their number.
    """
    name = f"pack.panels.{dtype}.{lanes}.{vectors}.{'t' if table else 'f'}"
    if name in module.functions:
        return name
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, to_stride, source, _offsets, _width, panels, count, k_stride, k_table = f.parameters
    type_, further = vector(lanes, dtype), f.mul(k_stride, i64(LINES_AHEAD))
    with f.loop(i64(0), count) as k:
        line = f.offset(source, k_offset(f, k, k_stride, k_table, table), dtype)
        first = f.offset(to, f.mul(k, i64(vectors * lanes)), dtype)
        with f.loop(i64(0), panels) as panel:
            begin = f.offset(line, f.mul(panel, i64(vectors * lanes)), dtype)
            target = f.offset(first, f.mul(panel, to_stride), dtype)
            ahead = f.offset(begin, further, dtype)
            for v in range(vectors) if not table else ():
                f.prefetch(f.offset(ahead, i64((v + 1) * lanes - 1), dtype), locality=2)
            values = [f.load(f.offset(begin, i64(v * lanes), dtype), type_) for v in range(vectors)]
            for v, value in enumerate(values):
                f.store(value, f.offset(target, i64(v * lanes), dtype))
    return name


PIECE = 4  # words of a piece: where it goes, where it comes from, and two masks


def list_pieces(f: Function, table: Value, first: Value, width: Value, padded: Value, lanes: int, run: int,
                offset: Callable[[Value], Value], whole: bool = False) -> Value:
    """Writes the pieces of a line into `table` and returns their number.

    A line's `width` elements have the flattened indices from `first` on; within each `run` of them offsets grow by one
    step.  A piece lies in one run and is at most `lanes` long; the last one is filled with zeros up to `padded`.  Where they
    go to `whole` registers, a piece lies in one of these.
    """
    start = i64(0)
    header, body, done = f.label("pieces"), f.label("piece"), f.label("end")
    before = f.current
    f.branch(header)
    f.block(header)
    at, number = Value(f.fresh(), "i64"), Value(f.fresh(), "i64")
    place = len(f.lines)
    f.lines.append("")
    f.branch_if(f.compare("icmp slt", at, padded), body, done)
    f.block(body)
    index = f.add(first, at)
    inside = f.binary("urem", index, i64(run))
    valid = f.minimum(f.sub(i64(run), inside), f.sub(width, at))
    room = f.sub(i64(lanes), f.binary("urem", at, i64(lanes))) if whole else i64(lanes)
    valid = f.minimum(valid, room)
    beyond = f.compare("icmp sle", valid, i64(0))  # columns that exist only to fill a register
    load = f.select(beyond, i64(0), valid)
    store = f.select(beyond, f.minimum(f.sub(padded, at), room), valid)
    to = f.offset(table, f.mul(number, i64(PIECE)), "i64")
    source = f.select(beyond, i64(0), offset(index))
    for word, value in enumerate((at, source, low_bits(f, load), low_bits(f, store))):
        f.store(value, f.offset(to, i64(word), "i64"))
    after, count = f.add(at, store), f.add(number, i64(1))
    latch = f.current
    f.branch(header)
    f.lines[place] = (f"  {at.name} = phi i64 [ {start.name}, %{before} ], [ {after.name}, %{latch} ]\n"
                      f"  {number.name} = phi i64 [ 0, %{before} ], [ {count.name}, %{latch} ]")
    f.block(done)
    return number


def low_bits(f: Function, count: Value) -> Value:
    """A word whose `count` lowest bits are set, for at most 63."""
    return f.sub(f.binary("shl", i64(1), count), i64(1))


def spread_mask(f: Function, bits: Value, lanes: int) -> list[Value]:
    """Masks of the two vectors in which every second element is wanted, where the lowest of `bits` are set."""
    more = f.add(bits, i64(1))
    spread = f.sub(f.binary("lshr", f.mul(more, more), i64(1)), i64(1))  # of n bits: 2 n - 1
    spread = f.select(f.compare("icmp eq", bits, i64(0)), i64(0), spread)
    masks = []
    for half in (spread, f.binary("lshr", spread, i64(lanes))):
        narrow = f.emit(f"trunc {half} to i{lanes}", f"i{lanes}")
        masks.append(f.emit(f"bitcast {narrow} to <{lanes} x i1>", vector(lanes, "i1")))
    return masks


def pack_pieces(module: Module, dtype: str, lanes: int, step: int, table: bool) -> str:
    """``to[k, j] = source[offset(j) + offset(k)]`` by the pieces of `list_pieces`, elements of a piece `step` apart.

    `offsets` is the table of pieces and `width` their number.  Needs masked loads and stores.
    """
    name = f"pack.pieces.{dtype}.{lanes}.{step}.{'t' if table else 'f'}".replace("-", "n")
    if name in module.functions:
        return name
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, to_stride, source, pieces, number, _padded, count, k_stride, k_table = f.parameters
    with f.loop(i64(0), number) as p:
        at, line, read, mask = open_piece(f, f.offset(pieces, f.mul(p, i64(PIECE)), "i64"), source, dtype, lanes, step)
        target = f.offset(to, at, dtype)
        with f.loop(i64(0), count) as k:
            value = read(f.offset(line, k_offset(f, k, k_stride, k_table, table), dtype))
            f.masked_store(value, f.offset(target, f.mul(k, to_stride), dtype), mask)
    return name


def open_piece(f: Function, piece: Value, source: Value, dtype: str, lanes: int, step: int
               ) -> tuple[Value, Value, Callable[[Value], Value], Value]:
    """(where in its line a piece goes, its first line in `source`, a reader of the elements at such an address, which of them
    are written) of a piece of `list_pieces`.
    """
    type_, masks = vector(lanes, dtype), vector(lanes, "i1")

    def mask(word: int) -> Value:
        bits = f.load(f.offset(piece, i64(word), "i64"), f"i{lanes}", align=8)
        return f.emit(f"bitcast {bits} to {masks}", masks)

    load, store = mask(2), mask(3)
    halves = spread_mask(f, f.load(f.offset(piece, i64(2), "i64"), "i64"), lanes) if step == 2 else []
    steps = Value("<" + ", ".join(f"i64 {i * step}" for i in range(lanes)) + ">", vector(lanes, "i64"))

    def read(start: Value) -> Value:
        if step == 2:
            both = [f.masked_load(f.offset(start, i64(v * lanes), dtype), type_, m) for v, m in enumerate(halves)]
            return f.shuffle(both[0], range(0, 2 * lanes, 2), both[1])
        return f.masked_load(start, type_, load) if step == 1 else f.gather(start, steps, dtype, load)

    line = f.offset(source, f.load(f.offset(piece, i64(1), "i64"), "i64"), dtype)
    return f.load(piece, "i64"), line, read, store


def transposed(f: Function, rows: list[Value]) -> list[Value]:
    """Transpose each square of `len(rows)` elements (a power of two) that starts at a multiple of that many lanes."""
    if len(rows) == 1:
        return rows
    half, lanes = len(rows) // 2, rows[0].lanes
    # interleave row r with row r + half, one element at a time: a transposition is log2 such rounds
    for _ in range(half.bit_length()):
        after = []
        for r in range(half):
            x, y = rows[r], rows[r + half]
            for side in range(2):
                picks = [g + side * half + i // 2 + (lanes if i % 2 else 0)
                         for g in range(0, lanes, 2 * half) for i in range(2 * half)]
                after.append(f.shuffle(x, picks, y))
        rows = after
    return rows


def joined(f: Function, parts: list[Value]) -> Value:
    """The vectors one after the other in one wider vector."""
    while len(parts) > 1:
        parts = [f.shuffle(x, range(2 * x.lanes), y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def across_lines(f: Function, lines: Sequence[Value], place: Value, dtype: str) -> list[Value]:
    """Elements place, place + 1, ... of each line, `in_piece` of them: vectors across the lines, which fill registers.

    Works on 16-byte pieces: a register is filled with the pieces of a part of the lines, and squares are transposed inside it,
    which takes half the shuffles of transposing whole registers.
    """
    group = in_piece(dtype, len(lines))
    pieces = [f.load(f.offset(line, place, dtype), vector(group, dtype)) for line in lines]
    return transposed(f, [joined(f, pieces[r::group]) for r in range(group)])


def in_piece(dtype: str, lanes: int) -> int:
    """How many columns of so many lines are turned at once."""
    return min(lanes, TURNED_BYTES // SIZES[dtype])


def fetch_lines(f: Function, lines: Sequence[Value], k: Value, apart: Value, dtype: str) -> None:
    """Fetch the lines of memory that are `apart` elements behind these ones at k, once for each line.

    A processor does not foresee short pieces of many lines, and waits for as few of them at a time as it reads together.
    """
    each, group = LINE // SIZES[dtype], TURNED_BYTES // SIZES[dtype]
    with f.when(f.compare("icmp slt", f.binary("and", k, i64(each - 1)), i64(group))):
        place = f.add(k, apart)
        for line in lines:
            f.prefetch(f.offset(line, place, dtype), locality=2)


def pack_transposed(module: Module, dtype: str, lanes: int, together: int, far: bool = False) -> str:
    """``to[k, j] = source[offsets[j] + k]`` for j < padded: successive k are adjacent in the source.

    `padded` counts whole registers of `lanes`, or is less than one: then each line is written `lanes` wide, the next line
    overwrites what is too much, and the block needs `lanes` elements of slack at its end.  There must be offsets for
    whole registers.

    together: lines that are turned at once, a power of two; fewer than `lanes` only where `padded` counts whole registers.
    far: they come from beyond the caches.
    """
    far = far and together > 1
    name = f"pack.transposed.{dtype}.{lanes}" + f".{together}" * (together < lanes) + ".far" * far
    if name in module.functions:
        return name
    rest = pack_general(module, dtype, False)
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, to_stride, source, offsets, width, padded, count, k_stride, k_table = f.parameters
    group = in_piece(dtype, together)
    few = f.compare("icmp slt", count, i64(group))
    left = f.binary("urem", f.sub(count, i64(1)), i64(group))  # the second group begins where the others end with the last k
    steps = [f.add(left, i64(1)), i64(group)]
    apart = [f.mul(step, to_stride) for step in steps]
    whole = f.mul(f.binary("udiv", f.add(padded, i64(lanes - 1)), i64(lanes)), i64(lanes))
    with f.loop(i64(0), f.select(few, i64(0), whole), together) as j:
        place = f.offset(offsets, j, "i64")
        starts = [f.load(f.offset(place, i64(r), "i64"), "i64") for r in range(together)]
        lines = [f.offset(source, start, dtype) for start in starts]
        behind = f.mul(f.sub(starts[1], starts[0]), i64(lanes)) if far else i64(0)  # as if all were as far apart
        carried = Carried([i64(0), f.offset(to, j, dtype), steps[0], apart[0]])
        with f.repeat(carried):
            k, first, step, further = carried.values
            if far:
                fetch_lines(f, lines, k, behind, dtype)
            line = first
            for values in across_lines(f, lines, k, dtype):
                f.store(values, line)
                line = f.offset(line, to_stride, dtype)
            following = f.add(k, step)
            carried.next = [following, f.offset(first, further, dtype), steps[1], apart[1]]
            carried.again = f.compare("icmp slt", following, count)
    with f.when(few):
        f.call(rest, [to, to_stride, source, offsets, width, padded, count, k_stride, k_table])
    return name
