"""Arithmetic on LLVM values, scalar or vector: the part of the scalar builder that maps to instructions.

Knows how each operation is spelled for each LLVM type, and which spellings are free of traps and poison.  Must not know
graphs, ops, loops or polynomials.  Floating-point instructions carry no fast-math flags, and a multiply and an add are
contracted only where `fma` is called.

Where a processor has no fused multiply-add (x86-64 before x86-64-v3) LLVM calls the C library's for every number; where it
has no instruction that rounds to whole numbers, rounding is written out.
"""

from __future__ import annotations

from functools import lru_cache

from graphc.runtime.native import emit
from graphc.runtime.native.emit import Function
from graphc.runtime.native.values import Number, Value

DTYPES = {"float": "float32", "double": "float64", "i32": "int32", "i64": "int64", "i1": "bool"}
SCALARS = {name: scalar for scalar, name in DTYPES.items()}
INTEGER_OF = {"float": "i32", "double": "i64"}
FLOAT_OF = {"i32": "float", "i64": "double"}
BITS = {"i1": 1, "i32": 32, "i64": 64}


@lru_cache(maxsize=4096)
def splat_table(numbers: tuple[float, ...], type_: str) -> tuple[Value, ...]:
    """Coefficients as constants of the type: spelled once per table and type, not once per use."""
    return tuple(emit.constant(number, type_) for number in numbers)


@lru_cache(maxsize=256)
def numbers(values: tuple[float, ...]) -> str:
    """Different float32 constants in the lanes of a vector."""
    return "<" + ", ".join(f"float {emit.literal(value, 'float')}" for value in values) + ">"


def is_constant(x: Value) -> bool:
    return not x.name.startswith(("%", "@"))


class Arithmetic:
    """Writes arithmetic into `function`.  Every method works on scalars and on vectors of any lane count.

    Operands of one operation have one type, except where a docstring says otherwise; results have the type of the
    operands, comparisons that of a bool with as many lanes.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.widened: dict[str, Value] = {}  # 64-bit vectors that came from 32 bits, by name: see `_compare`

    # -- types and constants -----------------------------------------------------------------------------------

    def dtype(self, x: Value) -> str:
        """The name of the dtype: "float32", "float64", "int32", "int64" or "bool"."""
        return DTYPES[x.element]

    def is_float(self, x: Value) -> bool:
        return x.element in INTEGER_OF

    def const(self, value: Number, like: Value) -> Value:
        """The value in every lane of the type of `like`."""
        return emit.constant(value, like.type)

    def constant(self, value: Number, dtype: str, like: Value) -> Value:
        """The value as the named dtype, with the lane count of `like`."""
        return emit.constant(value, emit.vector(like.lanes, SCALARS[dtype]))

    def table(self, numbers: tuple[float, ...], like: Value) -> tuple[Value, ...]:
        """Each number in every lane of the type of `like`."""
        return splat_table(numbers, like.type)

    # -- arithmetic --------------------------------------------------------------------------------------------

    def _binary(self, float_opcode: str, int_opcode: str, bool_opcode: str, a: Value, b: Value) -> Value:
        scalar = a.element
        opcode = float_opcode if scalar in INTEGER_OF else bool_opcode if scalar == "i1" else int_opcode
        return self.function.emit(f"{opcode} {a.type} {a.name}, {b.name}", a.type)

    def add(self, a: Value, b: Value) -> Value:
        """The sum; integers wrap, bools are or-ed."""
        return self._binary("fadd", "add", "or", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        """The difference; integers wrap, bools are xor-ed."""
        return self._binary("fsub", "sub", "xor", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """The product; integers wrap, bools are and-ed."""
        return self._binary("fmul", "mul", "and", a, b)

    def div(self, a: Value, b: Value) -> Value:
        """The quotient of floats; of integers the float64 quotient, of bools too."""
        if not self.is_float(a):
            a, b = self.cast(a, "float64"), self.cast(b, "float64")
        return self.function.emit(f"fdiv {a.type} {a.name}, {b.name}", a.type)

    def _safe_divisor(self, a: Value, b: Value) -> Value:
        """The divisor, 1 where the instruction would trap (zero; the lowest integer by -1)."""
        lowest = self.const(-(1 << (BITS[a.element] - 1)), a)
        overflows = self.and_(self.eq(a, lowest), self.eq(b, self.const(-1, b)))
        return self.select(self.or_(self.eq(b, self.const(0, b)), overflows), self.const(1, b), b)

    def integer_floordiv(self, a: Value, b: Value) -> Value:
        """Quotient rounded down; 0 where b is 0, the wrapped quotient for the lowest integer by -1."""
        divisor, zero = self._safe_divisor(a, b), self.const(0, a)
        quotient = self.function.emit(f"sdiv {a.type} {a.name}, {divisor.name}", a.type)
        rest = self.sub(a, self.mul(quotient, divisor))
        down = self.and_(self.ne(rest, zero), self.lt(self.xor(rest, divisor), zero))
        result = self.select(down, self.sub(quotient, self.const(1, a)), quotient)
        return self.select(self.eq(b, zero), zero, result)

    def integer_mod(self, a: Value, b: Value) -> Value:
        """Remainder with the sign of b; 0 where b is 0."""
        divisor, zero = self._safe_divisor(a, b), self.const(0, a)
        rest = self.function.emit(f"srem {a.type} {a.name}, {divisor.name}", a.type)
        wrong = self.and_(self.ne(rest, zero), self.lt(self.xor(rest, divisor), zero))
        result = self.select(wrong, self.add(rest, divisor), rest)
        return self.select(self.eq(b, zero), zero, result)

    def neg(self, x: Value) -> Value:
        if self.is_float(x):
            return self.function.emit(f"fneg {x}", x.type)
        return self.sub(self.const(0, x), x)

    def abs(self, x: Value) -> Value:
        """Magnitude; of the lowest integer that integer."""
        if self.is_float(x):
            return self.function.intrinsic("llvm.fabs", [x])
        if x.element == "i1":
            return x
        return self.function.intrinsic("llvm.abs", [x], [Value("false", "i1")])

    def sign(self, x: Value) -> Value:
        """-1, 0 or 1; NaN of NaN."""
        if x.element == "i1":
            return x
        zero = self.const(0, x)
        below = self.select(self.lt(x, zero), self.const(-1, x), zero)
        result = self.select(self.gt(x, zero), self.const(1, x), below)
        return self.select(self.is_nan(x), x, result) if self.is_float(x) else result

    def sqrt(self, x: Value) -> Value:
        """Correctly rounded."""
        return self.function.intrinsic("llvm.sqrt", [x])

    def rsqrt(self, x: Value) -> Value:
        """1 / sqrt(x), both correctly rounded: 1.5 ulp."""
        return self.div(self.const(1.0, x), self.sqrt(x))

    def reciprocal(self, x: Value) -> Value:
        return self.div(self.const(1.0, x), x)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c with one rounding; of integers plain arithmetic."""
        return self.function.intrinsic("llvm.fma", [a, b, c]) if self.is_float(a) else self.add(self.mul(a, b), c)

    def _extreme(self, predicate: str, integer: str, boolean: str, a: Value, b: Value) -> Value:
        if a.element == "i1":
            return self.function.emit(f"{boolean} {a.type} {a.name}, {b.name}", a.type)
        if not self.is_float(a):
            return self.function.intrinsic(integer, [a, b])
        if is_constant(b):
            a, b = b, a  # a NaN test of a constant is folded away, and one instruction is left
        result = self.select(self.function.compare(predicate, a, b), a, b)
        if is_constant(a) and "0x7FF8" not in a.name:
            return result
        # a NaN of its own: with `a` here the two choices would be made one, of two comparisons and no maximum instruction
        return self.select(self.is_nan(a), self.const(float("nan"), a), result)

    def minimum(self, a: Value, b: Value) -> Value:
        """The lesser; NaN where either is NaN."""
        return self._extreme("fcmp olt", "llvm.smin", "and", a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """The greater; NaN where either is NaN."""
        return self._extreme("fcmp ogt", "llvm.smax", "or", a, b)

    def clamp_above(self, x: Value, limit: float) -> Value:
        """The lesser of x and a number; NaN stays NaN.  One instruction."""
        bound = self.const(limit, x)
        return self.select(self.function.compare("fcmp olt", bound, x), bound, x)

    def clamp_below(self, x: Value, limit: float) -> Value:
        """The greater of x and a number; NaN stays NaN.  One instruction."""
        bound = self.const(limit, x)
        return self.select(self.function.compare("fcmp ogt", bound, x), bound, x)

    def floor(self, x: Value) -> Value:
        return self._rounded("llvm.floor", x) if self._rounds(x) else self._beside(x, "fsub", "fcmp ogt")

    def ceil(self, x: Value) -> Value:
        return self._rounded("llvm.ceil", x) if self._rounds(x) else self._beside(x, "fadd", "fcmp olt")

    def trunc(self, x: Value) -> Value:
        """Rounded towards zero."""
        return self._rounded("llvm.trunc", x) if self._rounds(x) else self.copysign(self.floor(self.abs(x)), x)

    def round(self, x: Value) -> Value:
        """Rounded to the nearest integer, halves to the even one."""
        return self._rounded("llvm.roundeven", x) if self._rounds(x) else self._even(x)

    def _rounds(self, x: Value) -> bool:
        return self.function.module.rounds or not self.is_float(x)

    def _rounded(self, intrinsic: str, x: Value) -> Value:
        return self.function.intrinsic(intrinsic, [x]) if self.is_float(x) else x

    def _even(self, x: Value) -> Value:
        """`round` without an instruction for it: a sum with a number whose last place is one is rounded there."""
        whole = self.const(float(1 << (23 if x.element == "float" else 52)), x)  # from here on numbers are whole
        size = self.abs(x)
        return self.copysign(self.select(self.lt(size, whole), self.sub(self.add(size, whole), whole), size), x)

    def _beside(self, x: Value, step: str, beyond: str) -> Value:
        """The nearest integer, or the one beside it where that is on the wrong side of x."""
        near = self._even(x)
        other = self.function.binary(step, near, self.const(1.0, x))
        return self.copysign(self.select(self.function.compare(beyond, near, x), other, near), x)

    def copysign(self, magnitude: Value, sign: Value) -> Value:
        return self.function.intrinsic("llvm.copysign", [magnitude, sign])

    # -- classification and comparison -------------------------------------------------------------------------

    def _truth(self, value: bool, like: Value) -> Value:
        return self.constant(value, "bool", like)

    def is_nan(self, x: Value) -> Value:
        return self.function.compare("fcmp uno", x, x) if self.is_float(x) else self._truth(False, x)

    def is_inf(self, x: Value) -> Value:
        if not self.is_float(x):
            return self._truth(False, x)
        return self.function.compare("fcmp oeq", self.abs(x), self.const(float("inf"), x))

    def is_finite(self, x: Value) -> Value:
        if not self.is_float(x):
            return self._truth(True, x)
        return self.function.compare("fcmp olt", self.abs(x), self.const(float("inf"), x))

    def _compare(self, predicate: str, a: Value, b: Value) -> Value:
        if self.is_float(a):
            return self.function.compare(f"fcmp {'une' if predicate == 'ne' else 'o' + predicate}", a, b)
        sign = "" if predicate in ("eq", "ne") else "u" if a.element == "i1" else "s"  # i1 true is -1 when signed
        if self.widened:  # indices have 32 bits where they fit, and half as many registers
            x, y = self._narrow(a), self._narrow(b)
            if x is not None and y is not None:
                a, b = x, y
        return self.function.compare(f"icmp {sign}{predicate}", a, b)

    def _narrow(self, x: Value) -> Value | None:
        """The same numbers in a vector of 32-bit integers, where that is known without an instruction."""
        if x.name.startswith("splat (i64 "):
            number = int(x.name[len("splat (i64 "):-1])
            return emit.constant(number, emit.vector(x.lanes, "i32")) if -1 << 31 <= number < 1 << 31 else None
        return self.widened.get(x.name)

    def lt(self, a: Value, b: Value) -> Value:
        return self._compare("lt", a, b)

    def le(self, a: Value, b: Value) -> Value:
        return self._compare("le", a, b)

    def gt(self, a: Value, b: Value) -> Value:
        return self._compare("gt", a, b)

    def ge(self, a: Value, b: Value) -> Value:
        return self._compare("ge", a, b)

    def eq(self, a: Value, b: Value) -> Value:
        return self._compare("eq", a, b)

    def ne(self, a: Value, b: Value) -> Value:
        return self._compare("ne", a, b)

    # -- bits --------------------------------------------------------------------------------------------------

    def and_(self, a: Value, b: Value) -> Value:
        return self.function.emit(f"and {a.type} {a.name}, {b.name}", a.type)

    def or_(self, a: Value, b: Value) -> Value:
        return self.function.emit(f"or {a.type} {a.name}, {b.name}", a.type)

    def xor(self, a: Value, b: Value) -> Value:
        return self.function.emit(f"xor {a.type} {a.name}, {b.name}", a.type)

    def not_(self, x: Value) -> Value:
        """Logical of bools, bitwise of integers."""
        return self.xor(x, self._truth(True, x) if x.element == "i1" else self.const(-1, x))

    def _shift(self, opcode: str, a: Value, b: Value | int) -> Value:
        if isinstance(b, int):  # an amount the caller knows to be in range
            return self.function.emit(f"{opcode} {a.type} {a.name}, {self.const(b, a).name}", a.type)
        shifted = self.function.emit(f"{opcode} {a.type} {a.name}, {b.name}", a.type)
        inside = self.function.compare("icmp ult", b, self.const(BITS[a.element], b))
        return self.select(inside, shifted, self.const(0, a))

    def shl(self, a: Value, b: Value | int) -> Value:
        """a * 2**b, wrapped; 0 where b is negative or not below the width."""
        return self._shift("shl", a, b)

    def shr(self, a: Value, b: Value | int) -> Value:
        """Logical shift (zeros come in); 0 where b is negative or not below the width."""
        return self._shift("lshr", a, b)

    def arithmetic_shr(self, a: Value, amount: int) -> Value:
        """Shift that repeats the sign bit, by a constant amount below the width."""
        return self._shift("ashr", a, amount)

    def as_int(self, x: Value) -> Value:
        """The bits of a float as an integer of the same width."""
        type_ = emit.vector(x.lanes, INTEGER_OF[x.element])
        return self.function.emit(f"bitcast {x} to {type_}", type_)

    def as_float(self, x: Value) -> Value:
        """Inverse of `as_int`."""
        type_ = emit.vector(x.lanes, FLOAT_OF[x.element])
        return self.function.emit(f"bitcast {x} to {type_}", type_)

    # -- tables ------------------------------------------------------------------------------------------------

    def lookup(self, table: tuple[float, ...], place: Value) -> Value:
        """The float32 of 32 that the last five bits of an int32 pick, in each lane; only where `Module.lookups` holds."""
        f, lanes = self.function, place.lanes
        name, wide, index = "llvm.x86.avx512.vpermi2var.ps.512", "<16 x float>", "<16 x i32>"
        f.module.declare(name, wide, [wide, index, wide])
        low, high = (Value(numbers(table[start:start + 16]), wide) for start in (0, 16))
        return self._first_lanes(f.call(name, [low, self._in_register(place), high], wide), lanes)

    def scale(self, x: Value, n: Value) -> Value:
        """x * 2**n for an integer-valued float n, rounded once and infinite where it is too great; only where `Module.lookups`
        holds."""
        f, lanes = self.function, x.lanes
        count = 64 // (4 if x.element == "float" else 8)
        if lanes > count:
            low, high = (self.scale(*(f.shuffle(v, part) for v in (x, n))) for part in (range(count), range(count, lanes)))
            return f.shuffle(low, range(lanes), high)
        wide, mask = emit.vector(count, x.element), f"i{count}"
        name = f"llvm.x86.avx512.mask.scalef.p{'s' if x.element == 'float' else 'd'}.512"
        f.module.declare(name, wide, [wide, wide, wide, mask, "i32"])
        operands = [self._in_register(x), self._in_register(n), Value("zeroinitializer", wide), Value("-1", mask)]
        return self._first_lanes(f.call(name, [*operands, Value("4", "i32")], wide), lanes)  # 4: rounded as usual

    def _in_register(self, x: Value) -> Value:
        """A vector of 64 bytes that begins with the lanes of x."""
        f, count = self.function, 64 // (4 if x.element in ("float", "i32") else 8)
        wide = emit.vector(count, x.element)
        if not x.lanes:
            return f.emit(f"insertelement {wide} zeroinitializer, {x}, i64 0", wide)
        if x.lanes == count:
            return x
        picked = ", ".join(f"i32 {min(lane, x.lanes)}" for lane in range(count))
        return f.emit(f"shufflevector {x}, {x.type} zeroinitializer, <{count} x i32> <{picked}>", wide)

    def _first_lanes(self, x: Value, lanes: int) -> Value:
        """The first lanes of a vector, a scalar where `lanes` is 0."""
        if not lanes:
            return self.function.extract(x, 0)
        return x if lanes == x.lanes else self.function.shuffle(x, range(lanes))

    # -- choice and conversion ---------------------------------------------------------------------------------

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """a where the condition (bool) holds, else b."""
        return self.function.emit(f"select {condition}, {a}, {b}", a.type)

    def cast(self, x: Value, dtype: str) -> Value:
        """x as another dtype, as numpy does, but defined everywhere.

        Floats go to integers by truncation, saturating, with NaN giving 0; int64 to int32 wraps; to bool is ``x != 0``.
        """
        source, to = x.element, SCALARS[dtype]
        if source == to:
            return x
        if to == "i1":
            return self.ne(x, self.const(0, x))
        if source == "i1":
            return self.function.convert("uitofp" if to in INTEGER_OF else "zext", x, to)
        if source in INTEGER_OF:
            if to in INTEGER_OF:
                return self.function.convert("fpext" if source == "float" else "fptrunc", x, to)
            type_ = emit.vector(x.lanes, to)
            name = f"llvm.fptosi.sat.{emit.mangled(type_)}.{emit.mangled(x.type)}"
            self.function.module.declare(name, type_, [x.type])
            return self.function.call(name, [x], type_)
        if to in INTEGER_OF:
            return self.function.convert("sitofp", x, to)
        if source == "i64":
            return self.function.convert("trunc", x, to)
        wide = self.function.convert("sext", x, to)
        if x.lanes:
            self.widened[wide.name] = x
        return wide
