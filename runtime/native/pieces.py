"""float32 numbers as sums of bfloat16 pieces, in pairs of k, laid out for a matrix unit or for vectors that multiply pairs.

A matrix unit multiplies bfloat16 numbers (8 bits of mantissa) exactly and adds their products in float32.  A float32 has
24 bits, so it is the sum of three bfloat16 numbers, and a product of two such sums is a sum of nine products.  The six
that are kept leave out less than 2**-26 of the product; a float32 multiplication rounds off up to 2**-25.  Two pieces leave
out up to 2**-17 of a number, and three of their products up to 2**-15; one piece leaves out up to 2**-8.

Each piece is what is nearest to the rest, which a processor with such a unit converts in one instruction: G. Henry, P. T. P.
Tang and A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019.

Infinities become NaN where there are several pieces, and so do numbers that round to them: whoever uses the sums looks for
what is not finite.  A single piece keeps them.  Pieces below 2**-126 become zero, as denormal numbers do inside a step.

Knows pieces and their layout.  Must not know contractions or blocking.
"""

from __future__ import annotations

from itertools import pairwise

from graphc.runtime.native.bfloat16 import to_bfloat16
from graphc.runtime.native.emit import Carried, Function, Module
from graphc.runtime.native.packing import PIECE, k_offset, open_piece, transposed
from graphc.runtime.native.values import Value, constant, i64, vector

from graphc.records import NamedTuple

ALL = 3  # pieces that hold every float32
# By number of pieces: (piece of A, piece of B); neighbours share an operand, so that registers are loaded once
PRODUCTS = {1: ((0, 0),), 2: ((0, 1), (0, 0), (1, 0)), 3: ((0, 2), (0, 1), (1, 1), (1, 0), (0, 0), (2, 0))}
SIDE, LANES, DEPTH = 16, 16, 32  # rows of a matrix register; float32 lanes of a vector; k of a matrix register
REGISTER_BYTES = 1024  # 16 rows of 32 bfloat16, two for each lane: of k and of k + 16, or half of those that are left

RUNS = (("to", "ptr"), ("deep", "i64"), ("beside", "i64"), ("apart", "i64"), ("piece", "i64"), ("source", "ptr"),
        ("runs", "ptr"), ("number", "i64"), ("count", "i64"), ("k_stride", "i64"), ("k_table", "ptr"))
PARAMETERS = (("to", "ptr"), ("apart", "i64"), ("piece", "i64"), ("height", "i64"), ("source", "ptr"), ("stride", "i64"),
              ("pair", "i64"), ("rows", "i64"), ("pair_rows", "i64"), ("lanes", "i64"), ("pair_lanes", "i64"), ("ahead", "i64"))
LIST = (("lines", "ptr"),)


class Layout(NamedTuple):
    """Where squares of 16 rows of 16 pairs go: bytes."""

    deep: Value  # from DEPTH k to the next
    beside: Value  # from LANES lines to the next
    apart: Value  # from row to row of a square
    piece: Value  # from a piece to the next one


def registers_layout(pieces: int, registers: int) -> Layout:
    """For a matrix unit, of which `registers` hold the lines: squares are whole."""
    piece = registers * REGISTER_BYTES
    return Layout(i64(pieces * piece), i64(REGISTER_BYTES), i64(REGISTER_BYTES // SIDE), i64(piece))


def half_of(f: Function, left: Value) -> Value:
    """How many pairs there are where so many k are left: their first halves are neighbours, and so are their second halves."""
    half = f.binary("lshr", f.add(left, i64(1)), i64(1))
    return f.minimum(half, i64(DEPTH // 2))


def loads(pieces: int) -> tuple[int, int]:
    """How often all products of so many pieces load a register of A, and one of B."""
    of_a, of_b = (1 + sum(x[side] != y[side] for x, y in pairwise(PRODUCTS[pieces])) for side in (0, 1))
    return of_a, of_b


def split(f: Function, low: Value, high: Value, pieces: int) -> list[Value]:
    """Vectors of pairs (piece of low[j], piece of high[j]), one for each piece."""
    found = []
    for number in range(pieces):
        halves = to_bfloat16(f, low, high)
        found.append(f.shuffle(halves, [j // 2 + LANES * (j % 2) for j in range(2 * LANES)]))
        if number < pieces - 1:
            low, high = (f.binary("fsub", x, back(f, halves, first)) for x, first in ((low, 0), (high, LANES)))
    return found


def back(f: Function, halves: Value, first: int) -> Value:
    """16 of 32 bfloat16 numbers as float32, which has the same exponent."""
    whole, numbers = vector(LANES, "i32"), vector(LANES, "float")
    wide = f.emit(f"zext {f.shuffle(halves, range(first, first + LANES))} to {whole}", whole)
    wide = f.binary("shl", wide, constant(16, whole))
    return f.emit(f"bitcast {wide} to {numbers}", numbers)


def split_function(module: Module, pieces: int, turned: bool, listed: bool) -> str:
    """``piece p of (source[r, j], source[r, j + pair])`` to row r, lane j of a square at ``to + p * piece``.

    turned: to row j, lane r
    listed: rows are not `stride` elements apart, but begin at those of a list, which is one more argument

    r < height <= 16, which it is where squares are turned, and j < 16; rows are `stride` elements apart, and in the square
    `apart` bytes.  Beyond `rows`, `lanes` (of the pair: `pair_rows`, `pair_lanes`) elements are zero and not read.  What lies
    `ahead` elements further is fetched for a later call.
    """
    name = f"pieces.split.{pieces}{'.turned' * turned}{'.listed' * listed}"
    if name in module.functions:
        return name
    f = module.function(name, (*PARAMETERS, *LIST[:listed]), attributes="noinline nounwind")
    to, apart, piece, height, source, stride, pair, rows, pair_rows, lanes, pair_lanes, ahead, *lists = f.parameters
    type_ = vector(LANES, "float")
    few_rows = f.compare("icmp slt", f.minimum(rows, pair_rows), height)
    few_lanes = f.compare("icmp slt", f.minimum(lanes, pair_lanes), i64(LANES))
    partial, whole, done = f.label("partial"), f.label("whole"), f.label("end")
    f.branch_if(f.binary("or", few_rows, few_lanes), partial, whole)
    for masked, label in ((True, partial), (False, whole)):
        f.block(label)
        with f.loop(0, height) as r:
            line = f.offset(source, f.load(f.offset(lists[0], r, "i64"), "i64") if lists else f.mul(r, stride), "float")
            found = []
            for place, most_rows, most_lanes in ((line, rows, lanes), (f.offset(line, pair, "float"), pair_rows, pair_lanes)):
                f.prefetch(f.offset(place, ahead, "float"), locality=2)
                if masked:
                    there = f.select(f.compare("icmp slt", r, most_rows), most_lanes, i64(0))
                    found.append(f.masked_load(place, type_, f.lane_mask(there, LANES)))
                else:
                    found.append(f.load(place, type_))
            row = f.offset(to, f.mul(r, apart), "i8")
            for pair_of in split(f, found[0], found[1], pieces):
                f.store(pair_of, row, align=64)
                row = f.offset(row, piece, "i8")
        f.branch(done)
    f.block(done)
    if turned:
        with f.loop(0, pieces) as p:
            turn(f, f.offset(to, f.mul(p, piece), "i8"), apart)
    return name


def turn(f: Function, square: Value, apart: Value) -> None:
    """Exchanges rows and lanes of a square in memory, whose rows are so many bytes apart."""
    places = [f.offset(square, f.mul(i64(r), apart), "i8") for r in range(SIDE)]
    rows = [f.load(place, vector(LANES, "i32")) for place in places]
    for row, place in zip(transposed(f, rows), places, strict=True):
        f.store(row, place, align=64)


def split_runs_function(module: Module, pieces: int, step: int, table: bool) -> str:
    """The same of lines across k that lie in memory in the pieces of `list_pieces`, all of a block of k.

    Lane j of square t has line 16 t + j.  Arguments are a Layout, and those of `pack_pieces`.
    """
    name = f"pieces.runs.{pieces}.{step}.{'t' if table else 'f'}"
    if name in module.functions:
        return name
    f = module.function(name, RUNS, attributes="noinline nounwind")
    to, deep, beside, apart, piece, source, runs, number, count, k_stride, k_table = f.parameters
    line_type = vector(LANES, "float")
    blocks, whole = (f.binary("udiv", n, i64(DEPTH)) for n in (f.add(count, i64(DEPTH - 1)), count))
    with f.loop(i64(0), number) as p:
        at, line, read, mask = open_piece(f, f.offset(runs, f.mul(p, i64(PIECE)), "i64"), source, "float", LANES, step)
        square = f.mul(f.binary("lshr", at, i64(4)), beside)
        lane = f.mul(f.binary("and", at, i64(LANES - 1)), i64(4))
        first = f.offset(to, f.add(square, lane), "i8")
        half = half_of(f, f.sub(count, f.mul(whole, i64(DEPTH))))  # of the last, partial block
        for low, high, partial in ((i64(0), whole, False), (whole, blocks, True)):
            with f.loop(low, high) as q, f.loop(0, SIDE) as r:
                found, start = [], f.mul(q, i64(DEPTH))
                for more, end in ((i64(0), f.add(start, half)), (half if partial else i64(SIDE), count)):
                    k = f.add(f.add(start, r), more)
                    there = f.minimum(k, f.sub(count, i64(1))) if partial else k
                    x = read(f.offset(line, k_offset(f, there, k_stride, k_table, table), "float"))
                    if partial:
                        x = f.select(f.compare("icmp slt", k, end), x, Value("zeroinitializer", line_type))
                    found.append(x)
                place = f.offset(f.offset(first, f.mul(q, deep), "i8"), f.mul(r, apart), "i8")
                for pair_of in split(f, found[0], found[1], pieces):
                    lanes = vector(LANES, "i32")
                    f.masked_store(f.emit(f"bitcast {pair_of} to {lanes}", lanes), place, mask)
                    place = f.offset(place, piece, "i8")
    return name


def turn_function(module: Module) -> str:
    """Exchanges rows and lanes of `number` squares one after the other."""
    name = "pieces.turn"
    if name not in module.functions:
        f = module.function(name, (("to", "ptr"), ("number", "i64")), attributes="noinline nounwind")
        to, number = f.parameters
        with f.loop(i64(0), number) as square:
            turn(f, f.offset(to, f.mul(square, i64(REGISTER_BYTES)), "i8"), i64(REGISTER_BYTES // SIDE))
    return name


def finite_function(module: Module) -> str:
    """Whether all of `rows` rows of 32 floats, `stride` elements apart, are finite."""
    name = "pieces.finite"
    if name in module.functions:
        return name
    f = module.function(name, (("sums", "ptr"), ("stride", "i64"), ("rows", "i64"), ("vectors", "i64")), returns="i1",
                        attributes="noinline nounwind")
    sums, stride, rows, vectors = f.parameters
    type_ = vector(LANES, "float")
    seen = Carried([Value("zeroinitializer", type_)])
    with f.loop(i64(0), rows, carried=seen) as r:
        line = f.offset(sums, f.mul(r, stride), "float")
        inner = Carried(seen.values)
        with f.loop(i64(0), vectors, carried=inner) as v:
            x = f.load(f.offset(line, f.mul(v, i64(LANES)), "float"), type_)
            nothing = f.binary("fmul", x, constant(0.0, type_))  # NaN where x is not finite
            inner.next = [f.binary("fadd", inner.values[0], nothing)]
        seen.next = inner.results
    strange = f.compare("fcmp uno", seen.results[0], seen.results[0])
    bits = f.emit(f"bitcast {strange} to i{LANES}", f"i{LANES}")
    f.ret(f.compare("icmp eq", bits, Value("0", bits.type)))
    return name
