"""Powers and remainders on LLVM values: what needs more than one rounding's worth of bits on the way.

Knows double-double arithmetic and the special cases of IEEE 754.  Must not know graphs, ops, or how the functions are
called.  float32 is computed in double; float64 takes the logarithm as a sum of two doubles.
"""

from __future__ import annotations

from math import inf, nan

from graphc.runtime.native.emit import Carried
from graphc.runtime.native.math_arithmetic import Arithmetic
from graphc.runtime.native.math_exponential import (
    EXP_SHORT,
    FORMATS,
    LOG_SHORT,
    LOG_TAIL,
    TWO_THIRDS_HIGH,
    TWO_THIRDS_LOW,
    exp_limits,
    expm1_reduced,
    normalize,
    polynomial,
    reduce_exponent,
    scale_by_power,
    split_exponent,
    to_float,
)
from graphc.runtime.native.values import Value, i64

FAR_EXPONENT = 2.0**100  # as good as an infinite exponent, and its product with log(1) = 0 is no NaN


# -- float powers ----------------------------------------------------------------------------------------------


def two_part_log(s: Arithmetic, a: Value) -> tuple[Value, Value]:
    """log(a) of a positive double as high + low, good to 2**-65 of its size or so.

    With s = f / (2 + f): log(1 + f) = 2s + s**3 (2/3 + s**2 (2/5 + ...)), where all but the last bracket carry a low
    part (the scheme of fdlibm's e_pow.c, without its table).
    """
    form = FORMATS["double"]
    n, y = normalize(s, a)
    k, m = split_exponent(s, y)
    exponent = s.add(to_float(s, k), n)
    one, two, third = s.const(1.0, a), s.const(2.0, a), s.const(TWO_THIRDS_HIGH, a)
    f = s.sub(m, one)  # exact
    d = s.add(m, one)
    d_low = s.sub(m, s.sub(d, one))
    inverse = s.div(one, d)
    r = s.mul(f, inverse)
    minus_r = s.neg(r)
    r_low = s.mul(s.fma(minus_r, d_low, s.fma(minus_r, d, f)), inverse)
    z = s.mul(r, r)
    z_low = s.fma(s.add(r, r), r_low, s.fma(r, r, s.neg(z)))
    series = s.mul(z, polynomial(s, z, LOG_TAIL))
    c = s.add(third, series)
    c_low = s.add(s.add(s.sub(third, c), series), s.const(TWO_THIRDS_LOW, a))
    p = s.mul(z, c)
    p_low = s.fma(z, c_low, s.fma(z_low, c, s.fma(z, c, s.neg(p))))
    w = s.mul(r, p)
    w_low = s.fma(r, p_low, s.fma(r_low, p, s.fma(r, p, s.neg(w))))
    head = s.add(r, r)
    high = s.add(head, w)
    low = s.add(s.add(s.sub(head, high), w), s.fma(two, r_low, w_low))
    # The exponent's part is zero or the greater: what rounding the sum drops is exact.
    whole = s.mul(exponent, s.const(form.ln2_high, a))
    total = s.add(whole, high)
    low = s.add(s.add(s.sub(whole, total), high), s.fma(exponent, s.const(form.ln2_low, a), low))
    result = s.add(total, low)
    return result, s.add(s.sub(total, result), low)


def exp_of_sum(s: Arithmetic, high: Value, low: Value) -> Value:
    """exp(high + low) for |low| far below 1."""
    form = FORMATS["double"]
    t, r = reduce_exponent(s, high)
    p = s.add(expm1_reduced(s, s.add(r, low)), s.const(1.0, high))
    result = scale_by_power(s, p, t)
    # A high just below the limit with a positive low overflows into the bits of NaN.
    result = s.select(s.lt(result, s.const(inf, high)), result, s.const(inf, high))
    return exp_limits(s, high, result, form.exp_lowest, form.exp_highest)


def magnitude_double(s: Arithmetic, a: Value, b: Value) -> Value:
    """a**b for doubles a >= 0, |b| <= FAR_EXPONENT."""
    high, low = two_part_log(s, a)
    zero, infinity = s.const(0.0, a), s.const(inf, a)
    high = s.select(s.eq(a, infinity), infinity, s.select(s.eq(a, zero), s.const(-inf, a), high))
    product = s.mul(b, high)
    rest = s.fma(b, low, s.fma(b, high, s.neg(product)))
    tame = s.lt(s.abs(product), s.const(1000.0, a))  # elsewhere the rest may be NaN
    return exp_of_sum(s, product, s.select(tame, rest, zero))


def magnitude_float(s: Arithmetic, a: Value, b: Value) -> Value:
    """a**b for doubles a >= 0, |b| <= FAR_EXPONENT that floats hold, good to 2**-30."""
    zero, infinity = s.const(0.0, a), s.const(inf, a)
    k, m = split_exponent(s, a)
    f = s.sub(m, s.const(1.0, a))
    square = s.mul(f, f)
    tail = s.fma(s.const(-0.5, a), square, s.mul(s.mul(square, f), polynomial(s, f, LOG_SHORT)))
    logarithm = s.fma(to_float(s, k), s.const(0.6931471805599453, a), s.add(f, tail))
    logarithm = s.select(s.lt(a, infinity), logarithm, a)
    logarithm = s.select(s.eq(a, zero), s.const(-inf, a), logarithm)
    product = s.clamp_above(s.clamp_below(s.mul(b, logarithm), -200.0), 200.0)
    t, r = reduce_exponent(s, product)
    p = s.add(s.fma(s.mul(r, r), polynomial(s, r, EXP_SHORT), r), s.const(1.0, a))
    return s.select(s.is_nan(product), product, scale_by_power(s, p, t))


def float_power(s: Arithmetic, a: Value, b: Value) -> Value:
    """a**b with the special values of IEEE 754: a**0 and 1**b are 1, negative bases take whole exponents."""
    zero, one = s.const(0.0, a), s.const(1.0, a)
    size = s.abs(a)
    if a.element == "float":
        wide_b = s.clamp_above(s.clamp_below(s.cast(b, "float64"), -FAR_EXPONENT), FAR_EXPONENT)
        result = s.cast(magnitude_float(s, s.cast(size, "float64"), wide_b), "float32")
    else:
        result = magnitude_double(s, size, s.clamp_above(s.clamp_below(b, -FAR_EXPONENT), FAR_EXPONENT))
        result = s.select(s.is_nan(a), a, result)
    half = s.mul(b, s.const(0.5, b))
    whole = s.eq(s.trunc(b), b)
    odd = s.and_(whole, s.ne(s.trunc(half), half))
    result = s.copysign(result, s.select(odd, a, one))
    broken = s.and_(s.lt(a, zero), s.not_(s.or_(whole, s.eq(size, s.const(inf, a)))))
    result = s.select(broken, s.const(nan, a), result)
    return s.select(s.or_(s.eq(b, zero), s.eq(a, one)), one, result)


# -- integer powers --------------------------------------------------------------------------------------------


def greatest(s: Arithmetic, x: Value) -> Value:
    """The greatest lane of an integer vector (signed), as i64."""
    if x.lanes:
        name = f"llvm.vector.reduce.smax.v{x.lanes}{x.element}"
        s.function.module.declare(name, x.element, [x.type])
        x = s.function.call(name, [x], x.element)
    return s.cast(x, "int64")


def integer_power(s: Arithmetic, a: Value, b: Value) -> Value:
    """a**b by squaring, wrapping; 0 for negative exponents.  One round per bit of the greatest exponent."""
    zero, one = s.const(0, a), s.const(1, a)
    most = greatest(s, s.select(s.lt(b, zero), zero, b))
    unused = s.function.intrinsic("llvm.ctlz", [most], [Value("false", "i1")])
    state = Carried([one, a, b])
    with s.function.loop(0, s.sub(i64(64), unused), carried=state):
        result, power, rest = state.values
        taken = s.ne(s.and_(rest, one), zero)
        state.next = [s.select(taken, s.mul(result, power), result), s.mul(power, power), s.shr(rest, 1)]
    return s.select(s.lt(b, zero), zero, state.results[0])


# -- remainders ------------------------------------------------------------------------------------------------


def truncated_remainder(s: Arithmetic, a: Value, b: Value) -> Value:
    """C's fmod of doubles, exact for all arguments.

    Subtracting the rounded quotient times b is exact (the difference fits in 53 bits) and leaves the remainder, or it
    less b, when the quotient is below 2**53; a greater quotient loses at least 50 bits a round, but for two rounds
    against a multiple of b where the quotient itself could overflow.
    """
    d = s.abs(b)
    quotient = s.div(s.abs(a), d)
    bits = s.shr(s.as_int(quotient), 52)
    rounds = s.sub(bits, s.const(1023, bits))
    rounds = s.select(s.is_finite(quotient), rounds, s.const(0, bits))
    overflows = s.and_(s.eq(quotient, s.const(inf, a)), s.and_(s.is_finite(a), s.ne(b, s.const(0.0, b))))
    rounds = s.select(overflows, s.const(2100, bits), rounds)
    rounds = s.select(s.ge(rounds, s.const(1000, bits)), s.add(rounds, s.const(100, bits)), rounds)
    rounds = greatest(s, rounds)
    count = s.function.emit(f"sdiv i64 {rounds.name}, 50", "i64")
    state = Carried([s.abs(a)])
    # Far above b, a multiple of b with a power of two keeps the quotient finite.
    steps = (s.const(2.0**1000, a), s.const(2.0**100, a))
    with s.function.loop(0, s.add(count, i64(1)), carried=state):
        rest, divisor = state.values[0], d
        far = s.ge(s.abs(rest), s.mul(d, steps[0]))
        for step in steps:
            larger = s.mul(divisor, step)
            divisor = s.select(s.and_(s.ge(s.abs(rest), larger), far), larger, divisor)
        whole = s.trunc(s.div(rest, divisor))
        state.next = [s.fma(s.neg(whole), divisor, rest)]
    rest = state.results[0]
    rest = s.select(s.lt(rest, s.const(0.0, a)), s.add(rest, d), rest)
    rest = s.select(s.and_(s.eq(d, s.const(inf, a)), s.is_finite(a)), s.abs(a), rest)
    return s.copysign(rest, a)


def float_mod(s: Arithmetic, a: Value, b: Value) -> Value:
    """The remainder with the sign of b, as numpy.remainder; NaN where b is zero or a infinite."""
    rest = truncated_remainder(s, s.cast(a, "float64"), s.cast(b, "float64"))
    rest = s.cast(rest, s.dtype(a))
    zero = s.const(0.0, a)
    wrong = s.and_(s.ne(rest, zero), s.xor(s.lt(rest, zero), s.lt(b, zero)))
    rest = s.select(wrong, s.add(rest, b), rest)
    return s.select(s.eq(rest, zero), s.copysign(zero, b), rest)


def float_floordiv(s: Arithmetic, a: Value, b: Value) -> Value:
    """The quotient rounded down, as numpy.floor_divide."""
    zero, one = s.const(0.0, a), s.const(1.0, a)
    plain = s.div(a, b)
    rest = s.cast(truncated_remainder(s, s.cast(a, "float64"), s.cast(b, "float64")), s.dtype(a))
    quotient = s.div(s.sub(a, rest), b)  # whole up to its rounding: the nearest integer is meant
    below = s.and_(s.ne(rest, zero), s.xor(s.lt(rest, zero), s.lt(b, zero)))
    quotient = s.select(below, s.sub(quotient, one), quotient)
    whole = s.floor(quotient)
    whole = s.select(s.gt(s.sub(quotient, whole), s.const(0.5, a)), s.add(whole, one), whole)
    whole = s.select(s.eq(quotient, zero), s.copysign(zero, plain), whole)
    return s.select(s.eq(b, zero), plain, whole)
