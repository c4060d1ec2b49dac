"""float32 numbers as sums of three bfloat16 pieces, laid out for a matrix unit.

A matrix unit multiplies bfloat16 numbers (8 bits of mantissa) exactly and adds their products in float32.  A float32 has
24 bits, so it is the sum of three bfloat16 numbers, and a product of two such sums is a sum of nine products.  The six
that are kept leave out less than 2**-26 of the product; a float32 multiplication rounds off up to 2**-25.

Splitting rounds to the nearest bfloat16: T. J. Dekker, "A floating-point technique for extending the available
precision", Numerische Mathematik 18 (1971), as Veltkamp's method; three-piece products: G. Henry, P. T. P. Tang and A.
Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019.

Numbers beyond 2**111 become NaN here, and so do infinities: whoever uses the sums looks for what is not finite.  Pieces
below 2**-126 become zero, as denormal numbers do inside a step.

Knows pieces and their layout.  Must not know contractions or blocking.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Carried, Function, Module
from graphc.runtime.native.values import Value, constant, i64, vector

PIECES = 3
# (piece of A, piece of B), small products first; neighbours share an operand, so that registers are loaded once
PRODUCTS = ((0, 2), (0, 1), (1, 1), (1, 0), (0, 0), (2, 0))
SPLITTER = 65537.0  # 2**16 + 1: what is left of 24 bits are 8
SIDE, LANES, DEPTH = 16, 16, 32  # rows of a matrix register; float32 lanes of a vector; k of a matrix register
REGISTER_BYTES = 1024  # 16 rows of 32 bfloat16, two for each lane: of k and of k + 16

PARAMETERS = (("to", "ptr"), ("piece_stride", "i64"), ("source", "ptr"), ("stride", "i64"), ("pair", "i64"),
              ("rows", "i64"), ("pair_rows", "i64"), ("lanes", "i64"), ("pair_lanes", "i64"), ("ahead", "i64"))


def split(f: Function, x: Value) -> list[Value]:
    """Three vectors that add up to x, whose elements bfloat16 holds."""
    pieces = []
    for _ in range(PIECES - 1):
        spread = f.binary("fmul", x, constant(SPLITTER, x.type))
        piece = f.binary("fsub", spread, f.binary("fsub", spread, x))
        pieces.append(piece)
        x = f.binary("fsub", x, piece)
    return [*pieces, x]


def paired(f: Function, low: Value, high: Value) -> Value:
    """The upper halves of both, side by side in each lane."""
    whole = vector(LANES, "i32")
    low, high = (f.emit(f"bitcast {v} to {whole}", whole) for v in (low, high))
    low = f.emit(f"lshr {low}, {constant(16, whole).name}", whole)
    high = f.emit(f"and {high}, {constant(-65536, whole).name}", whole)
    return f.emit(f"or {low}, {high.name}", whole)


def split_function(module: Module) -> str:
    """``piece p of (source[r, j], source[r, j + pair])`` to row r, lane j of a register at ``to + p * piece_stride``.

    r < 16 and j < 16; rows are `stride` elements apart.  Beyond `rows`, `lanes` (of the pair: `pair_rows`, `pair_lanes`)
    elements are zero and not read.  What lies `ahead` elements further is fetched for a later call.
    """
    name = "pieces.split"
    if name in module.functions:
        return name
    f = module.function(name, PARAMETERS, attributes="noinline nounwind")
    to, piece_stride, source, stride, pair, rows, pair_rows, lanes, pair_lanes, ahead = f.parameters
    type_ = vector(LANES, "float")
    least = f.minimum(f.minimum(rows, pair_rows), f.minimum(lanes, pair_lanes))
    partial, whole, done = f.label("partial"), f.label("whole"), f.label("end")
    f.branch_if(f.compare("icmp slt", least, i64(SIDE)), partial, whole)
    for masked, label in ((True, partial), (False, whole)):
        f.block(label)
        with f.loop(0, SIDE) as r:
            line = f.offset(source, f.mul(r, stride), "float")
            found = []
            for place, most_rows, most_lanes in ((line, rows, lanes), (f.offset(line, pair, "float"), pair_rows, pair_lanes)):
                f.prefetch(f.offset(place, ahead, "float"), locality=2)
                if masked:
                    there = f.select(f.compare("icmp slt", r, most_rows), most_lanes, i64(0))
                    found.append(f.masked_load(place, type_, f.lane_mask(there, LANES)))
                else:
                    found.append(f.load(place, type_))
            row = f.offset(to, f.mul(r, i64(64)), "i8")
            for low, high in zip(*(split(f, x) for x in found), strict=True):
                f.store(paired(f, low, high), row, align=64)
                row = f.offset(row, piece_stride, "i8")
        f.branch(done)
    f.block(done)
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
