"""Packing: copying a block of an operand so that a micro-kernel reads it line by line.

Knows strides, vectors and in-register transposition.  Must not know contractions, blocking or threads.
A packed block has one line per k; a line holds the operand at `width` rows (of A) or columns (of B).
"""

from __future__ import annotations

from graphc.runtime.native.emit import SIZES, Carried, Function, Module, Value, i64, vector

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
    """``to[k, j] = source[j + offset(k)]`` for j < width, zero for width <= j < padded: lines are adjacent already."""
    name = f"pack.lines.{dtype}.{lanes}.{'t' if table else 'f'}"
    if name in module.functions:
        return name
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, to_stride, source, _offsets, width, padded, count, k_stride, k_table = f.parameters
    type_ = vector(lanes, dtype)
    whole = f.mul(f.binary("udiv", width, i64(lanes)), i64(lanes))
    mask = f.lane_mask(f.sub(width, whole), lanes)
    store_mask = f.lane_mask(f.sub(padded, whole), lanes)
    ragged = f.compare("icmp slt", whole, padded)
    with f.loop(i64(0), count) as k:
        line = f.offset(source, k_offset(f, k, k_stride, k_table, table), dtype)
        target = f.offset(to, f.mul(k, to_stride), dtype)
        with f.loop(i64(0), whole, lanes) as j:
            f.store(f.load(f.offset(line, j, dtype), type_), f.offset(target, j, dtype))
        with f.when(ragged):
            if masks:
                value = f.masked_load(f.offset(line, whole, dtype), type_, mask)
                f.masked_store(value, f.offset(target, whole, dtype), store_mask)
            else:
                with f.loop(whole, width) as j:
                    f.store(f.load(f.offset(line, j, dtype), dtype), f.offset(target, j, dtype))
                with f.loop(width, padded) as j:
                    f.store(Value("zeroinitializer", dtype), f.offset(target, j, dtype))
    return name


def transposed(f: Function, rows: list[Value]) -> list[Value]:
    """Transpose each square of `len(rows)` elements (a power of two) that starts at a multiple of that many lanes."""
    if len(rows) == 1:
        return rows
    half, lanes, type_ = len(rows) // 2, rows[0].lanes, rows[0].type
    # interleave row r with row r + half, one element at a time: a transposition is log2 such rounds
    for _ in range(half.bit_length()):
        after = []
        for r in range(half):
            x, y = rows[r], rows[r + half]
            for side in range(2):
                picks = [g + side * half + i // 2 + (lanes if i % 2 else 0)
                         for g in range(0, lanes, 2 * half) for i in range(2 * half)]
                mask = ", ".join(f"i32 {p}" for p in picks)
                after.append(f.emit(f"shufflevector {x}, {y}, <{lanes} x i32> <{mask}>", type_))
        rows = after
    return rows


def joined(f: Function, parts: list[Value]) -> Value:
    """The vectors one after the other in one wider vector."""
    while len(parts) > 1:
        pairs = []
        for x, y in zip(parts[::2], parts[1::2], strict=True):
            mask = ", ".join(f"i32 {i}" for i in range(2 * x.lanes))
            type_ = vector(2 * x.lanes, x.element)
            pairs.append(f.emit(f"shufflevector {x}, {y}, <{2 * x.lanes} x i32> <{mask}>", type_))
        parts = pairs
    return parts[0]


def pack_transposed(module: Module, dtype: str, lanes: int) -> str:
    """``to[k, j] = source[offsets[j] + k]`` for j < padded: successive k are adjacent in the source.

    `padded` counts whole registers, or is less than one: then each line is written `lanes` wide, the next line
    overwrites what is too much, and the block needs `lanes` elements of slack at its end.  There must be offsets for
    whole registers.

    Works on 16-byte pieces: a register is filled with the pieces of `lanes / group` sources, and squares of `group`
    elements are transposed inside it, which takes half the shuffles of transposing whole registers.
    """
    name = f"pack.transposed.{dtype}.{lanes}"
    if name in module.functions:
        return name
    rest = pack_general(module, dtype, False)
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, to_stride, source, offsets, width, padded, count, k_stride, k_table = f.parameters
    group = min(lanes, 16 // SIZES[dtype])
    whole = f.mul(f.binary("udiv", count, i64(group)), i64(group))
    with f.loop(i64(0), padded, lanes) as j:
        lines, place = [], f.offset(offsets, j, "i64")
        for r in range(lanes):
            lines.append(f.offset(source, f.load(f.offset(place, i64(r), "i64"), "i64"), dtype))
        carried = Carried([f.offset(to, j, dtype)])
        with f.loop(i64(0), whole, group, carried) as k:
            pieces = [f.load(f.offset(line, k, dtype), vector(group, dtype)) for line in lines]
            place = carried.values[0]
            for column in transposed(f, [joined(f, pieces[r::group]) for r in range(group)]):
                f.store(column, place)
                place = f.offset(place, to_stride, dtype)
            carried.next = [place]
    with f.when(f.compare("icmp slt", whole, count)):
        f.call(rest, [f.offset(to, f.mul(whole, to_stride), dtype), to_stride, f.offset(source, whole, dtype), offsets,
                      width, padded, f.sub(count, whole), k_stride, k_table])
    return name
