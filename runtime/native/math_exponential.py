"""Exponentials and logarithms on LLVM values: exp, log, their relatives, and what is built from exp.

Knows polynomials, argument reduction and error terms.  Must not know graphs, ops, or how the functions are called.
Every function is straight-line code: special cases are selects.  Coefficients are minimax fits (Remez exchange, in 40
digits); the error given with each table is the largest relative one over the interval, after rounding the coefficients.
Denormal results of exp and its relatives may be zero; denormal arguments are exact unless the processor flushes them.
"""

from __future__ import annotations

from math import inf, log, nan

from graphc.runtime.native import math_tables as tables
from graphc.runtime.native.emit import Value
from graphc.runtime.native.math_arithmetic import Arithmetic

from graphc.records import NamedTuple


class Format(NamedTuple):
    """Constants of one floating-point format."""

    mantissa: int  # stored bits
    bias: int
    magic: float  # 1.5 * 2**mantissa: adding it rounds to an integer, and leaves that integer in the low bits
    smallest: float  # least normal number
    ln2_high: float  # few enough bits that its product with an exponent is exact
    ln2_low: float
    log2e_high: float
    log2e_low: float
    exp_lowest: float  # least argument whose exponential is normal
    exp_highest: float  # greatest argument whose exponential is finite
    exp_zero: float  # an argument whose exponential rounds to zero
    half_root: int  # bits of sqrt(1/2)


FORMATS = {
    "float": Format(23, 127, 1.5 * 2.0**23, 2.0**-126, 0.693145751953125, 1.4286068203094173e-06,
                    1.4426950216293335, 1.9259629911266175e-08, -87.33654, 88.72283, -104.0, 0x3F3504F3),
    "double": Format(52, 1023, 1.5 * 2.0**52, 2.0**-1022, 0.6931471806019545, -4.2009150726810846e-11,
                     1.4426950408889634, 2.0355273740931033e-17, -708.3964185322641, 709.782712893384, -746.0,
                     0x3FE6A09E667F3BCD),
}

# (exp(r) - 1 - r) / r**2 on |r| <= log(2)/2.  Error in expm1(r): 2**-25.8 (degree 4), 2**-54.7 (degree 9).
EXP = {
    "float": (0.4999999701976776, 0.1666654348373413, 0.04166720062494278, 0.008366513065993786, 0.001388253178447485),
    "double": (0.5000000000000006, 0.16666666666666588, 0.041666666666576826, 0.008333333333389486,
               0.0013888888931538178, 0.00019841269719120296, 2.4801505308605416e-05, 2.755740748310638e-06,
               2.7626023181552274e-07, 2.505377721504334e-08),
}
# The same for a float32 result computed in double.  Error 2**-32.0 (degree 5).
EXP_SHORT = (0.500000004413318, 0.16666666370587413, 0.04166636104620588, 0.008333389374048423, 0.001394061622456826,
             0.00019845853781420738)

# (log(1 + f) - f + f**2/2) / f**3 on sqrt(1/2) <= 1 + f <= sqrt(2).  Error in the logarithm 2**-27.2 (degree 7).
LOG_FLOAT = (0.3333333134651184, -0.2500081956386566, 0.20001226663589478, -0.1662335842847824, 0.14201760292053223,
             -0.13160169124603271, 0.12761569023132324, -0.07634535431861877)
# The same for a float32 result computed in double.  Error 2**-38.2 (degree 11).
LOG_SHORT = (0.3333333339916306, -0.25000001125431565, 0.1999998926280861, -0.16666532484577853, 0.14286179055832465,
             -0.12505712814103542, 0.11105471618283891, -0.09889393811623381, 0.09040201486299107,
             -0.09286905332512874, 0.09115720000017838, -0.04822638838771752)
# (log((1 + s) / (1 - s)) / s - 2) / s**2 in z = s**2, |s| <= (sqrt(2)-1) / (sqrt(2)+1).  Error 2**-59.5 (degree 6).
LOG_DOUBLE = (0.6666666666666734, 0.3999999999941666, 0.2857142874202259, 0.22222198605807908, 0.1818356280451084,
              0.15314086206829594, 0.1479561818382673)
# ((log((1 + s) / (1 - s)) / s - 2) / s**2 - 2/3) / s**2 in z = s**2.  Error in the logarithm 2**-71.7 (degree 7).
LOG_TAIL = (0.3999999999999998, 0.2857142857144384, 0.22222222217790405, 0.18181818843888686, 0.15384558436681836,
            0.13336264159779104, 0.11675787921666413, 0.11981691890595546)
TWO_THIRDS_HIGH, TWO_THIRDS_LOW = 0.6666666666666666, 3.700743415417188e-17


def polynomial(s: Arithmetic, x: Value, coefficients: tuple[float, ...]) -> Value:
    """Horner's rule: fewest instructions, and loops over vectors have enough independent work to hide its latency."""
    terms = s.table(coefficients, x)
    result = terms[-1]
    for term in reversed(terms[:-1]):
        result = s.fma(result, x, term)
    return result


# -- exponential -----------------------------------------------------------------------------------------------


def reduce_exponent(s: Arithmetic, x: Value, bias: int = 0) -> tuple[Value, Value]:
    """``(t, r)`` with ``x = n log(2) + r``, |r| <= log(2)/2, and ``n + bias`` in the low bits of the float t."""
    form = FORMATS[x.element]
    magic = s.const(form.magic + bias, x)
    t = s.fma(x, s.const(form.log2e_high, x), magic)
    n = s.sub(t, magic)
    r = s.fma(n, s.const(-form.ln2_high, x), x)
    return t, s.fma(n, s.const(-form.ln2_low, x), r)


def power_of_two(s: Arithmetic, t: Value) -> Value:
    """2**n as a float, from a t whose low bits hold n plus the format's bias; zero and infinity at the ends."""
    return s.as_float(s.shl(s.as_int(t), FORMATS[t.element].mantissa))


def scale_by_power(s: Arithmetic, p: Value, t: Value) -> Value:
    """p * 2**n where p and the product are normal and the low bits of t hold n."""
    shifted = s.shl(s.as_int(t), FORMATS[t.element].mantissa)
    return s.as_float(s.add(s.as_int(p), shifted))


def expm1_reduced(s: Arithmetic, r: Value) -> Value:
    """exp(r) - 1 on the reduced interval; keeps the relative accuracy of small r."""
    return s.fma(s.mul(r, r), polynomial(s, r, EXP[r.element]), r)


def exp_limits(s: Arithmetic, x: Value, result: Value, lowest: float, highest: float) -> Value:
    """The result within the limits, zero below, infinity above; NaN of NaN."""
    result = s.select(s.lt(x, s.const(lowest, x)), s.const(0.0, x), result)
    inside = s.le(x, s.const(highest, x))
    return s.select(inside, result, s.add(x, s.const(inf, x)))


def exp_core(s: Arithmetic, x: Value) -> Value:
    """exp where the result is normal; elsewhere meaningless."""
    t, r = reduce_exponent(s, x)
    return scale_by_power(s, s.add(expm1_reduced(s, r), s.const(1.0, x)), t)


def exp_scaled(s: Arithmetic, x: Value) -> Value:
    """exp where the processor scales by powers of two: 13 instructions instead of 20.  Denormal results are rounded twice."""
    form = FORMATS[x.element]
    return exp_within(s, s.clamp_below(s.clamp_above(x, form.exp_highest + 0.2), form.exp_zero))


def exp_within(s: Arithmetic, x: Value) -> Value:
    """exp of what lies between `exp_zero` and a little more than `exp_highest`."""
    form = FORMATS[x.element]
    magic = s.const(form.magic, x)
    n = s.sub(s.fma(x, s.const(form.log2e_high, x), magic), magic)
    r = s.fma(n, s.const(-form.ln2_low, x), s.fma(n, s.const(-form.ln2_high, x), x))
    return s.scale(polynomial(s, r, (1.0, 1.0, *EXP[x.element])), n)


def sigmoid_scaled(s: Arithmetic, x: Value) -> Value:
    """1 / (1 + exp(-x)), likewise."""
    form, one = FORMATS[x.element], s.const(1.0, x)
    y = s.clamp_above(s.clamp_below(x, -form.exp_highest - 0.2), -form.exp_zero)
    return s.div(one, s.add(exp_within(s, s.neg(y)), one))


def exp(s: Arithmetic, x: Value) -> Value:
    form = FORMATS[x.element]
    if s.function.module.lookups:
        return exp_scaled(s, x)
    return exp_limits(s, x, exp_core(s, x), form.exp_lowest, form.exp_highest)


def exp2(s: Arithmetic, x: Value) -> Value:
    form = FORMATS[x.element]
    magic = s.const(form.magic, x)
    t = s.add(x, magic)
    f = s.sub(x, s.sub(t, magic))
    p = expm1_reduced(s, s.mul(f, s.const(log(2), x)))
    result = scale_by_power(s, s.add(p, s.const(1.0, x)), t)
    highest = form.bias + 1 - 2.0 ** (form.bias.bit_length() - form.mantissa - 1)  # the last number below bias + 1
    return exp_limits(s, x, result, 1.0 - form.bias, highest)


def expm1(s: Arithmetic, x: Value) -> Value:
    form = FORMATS[x.element]
    y = s.clamp_below(s.clamp_above(x, form.exp_highest + 0.2), -1.5 * form.mantissa)
    t, r = reduce_exponent(s, y, form.bias - 1)
    half_power = power_of_two(s, t)  # half of 2**n, because 2**n itself overflows before the result does
    half = s.fma(expm1_reduced(s, r), half_power, s.sub(half_power, s.const(0.5, x)))
    tiny = s.lt(s.abs(x), s.const(2.0 ** (-form.mantissa - 2), x))
    return s.select(tiny, x, s.add(half, half))


def sinh(s: Arithmetic, x: Value) -> Value:
    quarter = quarter_expm1(s, s.abs(x))
    one = s.const(1.0, x)
    whole = s.fma(quarter, s.const(4.0, x), one)
    total = s.add(quarter, s.div(quarter, whole))  # half of (e + e / (e + 1)) / 2 with e = expm1(|x|)
    return s.copysign(s.add(total, total), x)


def cosh(s: Arithmetic, x: Value) -> Value:
    quarter = s.add(quarter_expm1(s, s.abs(x)), s.const(0.25, x))
    return s.fma(quarter, s.const(2.0, x), s.div(s.const(0.125, x), quarter))


def quarter_expm1(s: Arithmetic, a: Value) -> Value:
    """expm1(a) / 4 for a >= 0, infinite only where twice the result would be."""
    form = FORMATS[a.element]
    t, r = reduce_exponent(s, s.clamp_above(a, form.exp_highest + 1.0), form.bias - 2)
    power = power_of_two(s, t)
    return s.fma(expm1_reduced(s, r), power, s.sub(power, s.const(0.25, a)))


def tanh(s: Arithmetic, x: Value) -> Value:
    """-e / (2 + e) with e = expm1(-2 |x|): no cancellation anywhere, one division.  In pieces where that is faster."""
    if x.element == "float" and s.function.module.lookups:
        return tables.tanh(s, x)
    form = FORMATS[x.element]
    a = s.clamp_above(s.abs(x), 9.5 if x.element == "float" else 19.5)
    t, r = reduce_exponent(s, s.mul(a, s.const(-2.0, x)), form.bias)
    power = power_of_two(s, t)
    minus_e = s.sub(s.sub(s.const(1.0, x), power), s.mul(expm1_reduced(s, r), power))
    return s.copysign(s.div(minus_e, s.sub(s.const(2.0, x), minus_e)), x)


def sigmoid(s: Arithmetic, x: Value) -> Value:
    form = FORMATS[x.element]
    if s.function.module.lookups:
        return sigmoid_scaled(s, x)
    y = s.clamp_below(s.clamp_above(s.neg(x), form.exp_highest + 0.2), -1.5 * form.mantissa)
    t, r = reduce_exponent(s, y, form.bias)
    one = s.const(1.0, x)
    p = s.add(expm1_reduced(s, r), one)
    return s.div(one, s.fma(p, power_of_two(s, t), one))


def softplus(s: Arithmetic, x: Value) -> Value:
    """max(x, 0) + log1p(exp(-|x|))."""
    tail = log1p_core(s, exp(s, s.neg(s.abs(x))))
    return s.add(s.clamp_below(x, 0.0), tail)


# -- logarithm -------------------------------------------------------------------------------------------------


def split_exponent(s: Arithmetic, x: Value) -> tuple[Value, Value]:
    """``(k, m)`` with ``x = 2**k m`` and sqrt(1/2) <= m < sqrt(2), for normal positive x; k is an integer value."""
    form = FORMATS[x.element]
    offset = s.sub(s.as_int(x), like_bits(s, form.half_root, x))
    k = s.arithmetic_shr(offset, form.mantissa)
    fraction = s.and_(offset, like_bits(s, (1 << form.mantissa) - 1, x))
    return k, s.as_float(s.add(fraction, like_bits(s, form.half_root, x)))


def like_bits(s: Arithmetic, bits: int, x: Value) -> Value:
    """An integer constant of the width of the float x."""
    return s.constant(bits, "int32" if x.element == "float" else "int64", x)


def to_float(s: Arithmetic, k: Value) -> Value:
    return s.cast(k, "float32" if k.element == "i32" else "float64")


def normalize(s: Arithmetic, x: Value) -> tuple[Value, Value]:
    """``(n, y)``: a denormal x scaled up to a normal y with the exponent n to add; other x as they are."""
    form = FORMATS[x.element]
    small = s.lt(x, s.const(form.smallest, x))
    scaled = s.mul(x, s.const(2.0 ** (form.mantissa + 2), x))
    shift = s.const(-(form.mantissa + 2), x)
    return s.select(small, shift, s.const(0.0, x)), s.select(small, scaled, x)


def log_tail(s: Arithmetic, f: Value) -> Value:
    """log(1 + f) - f on the reduced interval."""
    if f.element == "float":
        square = s.mul(f, f)
        return s.fma(s.const(-0.5, f), square, s.mul(s.mul(square, f), polynomial(s, f, LOG_FLOAT)))
    ratio = s.div(f, s.add(f, s.const(2.0, f)))
    z = s.mul(ratio, ratio)
    half_square = s.mul(s.mul(f, f), s.const(0.5, f))
    series = s.mul(z, polynomial(s, z, LOG_DOUBLE))
    return s.sub(s.mul(ratio, s.add(half_square, series)), half_square)


def log_limits(s: Arithmetic, x: Value, result: Value) -> Value:
    """The logarithm's values outside the positive finite numbers."""
    result = s.select(s.lt(x, s.const(inf, x)), result, x)  # NaN and infinity are their own logarithms
    result = s.select(s.eq(x, s.const(0.0, x)), s.const(-inf, x), result)
    return s.select(s.lt(x, s.const(0.0, x)), s.const(nan, x), result)


def add_exponent(s: Arithmetic, k: Value, f: Value, tail: Value) -> Value:
    """k log(2) + f + tail, with one rounding of the size of the result."""
    form = FORMATS[f.element]
    low = s.add(f, s.fma(k, s.const(form.ln2_low, f), tail))
    return s.fma(k, s.const(form.ln2_high, f), low)


def log_natural(s: Arithmetic, x: Value) -> Value:
    n, y = normalize(s, x)
    k, m = split_exponent(s, y)
    f = s.sub(m, s.const(1.0, x))
    return log_limits(s, x, add_exponent(s, s.add(to_float(s, k), n), f, log_tail(s, f)))


def log2(s: Arithmetic, x: Value) -> Value:
    form = FORMATS[x.element]
    n, y = normalize(s, x)
    k, m = split_exponent(s, y)
    f = s.sub(m, s.const(1.0, x))
    tail = log_tail(s, f)
    high = s.add(f, tail)
    low = s.add(s.sub(f, high), tail)
    scale = s.const(form.log2e_high, x)
    small = s.fma(high, s.const(form.log2e_low, x), s.mul(low, scale))
    product = s.mul(high, scale)
    rest = s.add(s.fma(high, scale, s.neg(product)), small)
    exponent = s.add(to_float(s, k), n)
    total = s.add(exponent, product)  # the exponent is zero or the greater: what rounding drops is exact
    dropped = s.add(s.sub(exponent, total), product)
    return log_limits(s, x, s.add(total, s.add(dropped, rest)))


def log1p_core(s: Arithmetic, x: Value) -> Value:
    """log1p for finite x > -1: what rounding 1 + x drops goes into the reduced argument."""
    form = FORMATS[x.element]
    one = s.const(1.0, x)
    u = s.add(x, one)
    back = s.sub(u, one)
    dropped = s.add(s.sub(one, s.sub(u, back)), s.sub(x, back))
    k, m = split_exponent(s, u)
    # 2**-k, or for the greatest k its double: what was dropped does not count there.
    most = s.minimum(k, like_bits(s, form.bias - 1, x))
    inverse = s.as_float(s.shl(s.sub(like_bits(s, form.bias, x), most), form.mantissa))
    f = s.fma(dropped, inverse, s.sub(m, one))
    return add_exponent(s, to_float(s, k), f, log_tail(s, f))


def log1p(s: Arithmetic, x: Value) -> Value:
    form = FORMATS[x.element]
    result = log_limits(s, s.add(x, s.const(1.0, x)), log1p_core(s, x))
    return s.select(s.lt(s.abs(x), s.const(2.0 ** (-form.mantissa - 2), x)), x, result)
