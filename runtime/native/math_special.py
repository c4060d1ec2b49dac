"""Error functions and powers, written with the arithmetic and exponential builders.

Knows the polynomials and the double-double steps that keep their bounds.  Must not know graphs, ops or loops.
The coefficients were fitted at Chebyshev nodes in 60-digit arithmetic; each table states its interval and error.
"""

from __future__ import annotations

from math import inf, nan

from .emit import Value
from .math_arithmetic import Arithmetic
from .math_exponential import (
    FORMATS,
    LOG_TAIL,
    TWO_THIRDS_HIGH,
    TWO_THIRDS_LOW,
    exp,
    log_natural,
    normalize,
    polynomial,
    split_exponent,
    to_float,
)

# erf(x) / x in x**2, 0 <= x <= 1.  Error 2**-29.6 (degree 6), 2**-62.7 (degree 12).
ERF_ODD = {
    "float": (1.1283791658483509, -0.37612626666720334, 0.11283594715160218, -0.026854212010626412,
              0.005189087423433974, -0.000801686428716587, 7.875875062685488e-05),
    "double": (1.1283791670955126, -0.3761263890318375, 0.11283791670954879, -0.026866170645076792,
               0.0052239776248180145, -0.000854832698083379, 0.0001205533111164271, -1.4925595266831182e-05,
               1.6461000484121368e-06, -1.6350312701054695e-07, 1.4659775274047436e-08, -1.1372848856791674e-09,
               5.957176147748911e-11),
}
# log(erfc(x) exp(x**2) / t) in t - 0.375 with t = 2 / (2 + x), the substitution of Press et al., "Numerical Recipes",
# section 6.2.2; 0.9 <= x <= 11 (degree 9, error 2**-29.7) and 0.9 <= x <= 28 (degree 22, error 2**-61.2).
ERFC_TAIL = {
    "float": (-0.8363098051746477, 1.2819078337294034, 0.31033017087828474, -0.25885426632359915, -0.2895276148131061,
              0.1147504415762365, 0.30216528082836114, -0.09386527810092195, -0.31898942062801144, 0.21352744584980954),
    "double": (-0.8363098050019457, 1.2819077981914277, 0.3103301012608513, -0.2588456402148483, -0.2895319957422309,
               0.11417606762048939, 0.30317997005113706, -0.07967721635813085, -0.3579966988122585, 0.10472218195900707,
               0.44930019706387564, -0.2106183473831489, -0.5542848391055502, 0.4478483249916521, 0.5944438385117643,
               -0.8575881972896056, -0.39278438774156704, 1.3659840026842414, -0.2826312921409906, -1.6185963300402544,
               1.3299884857456286, 1.0721720387237434, -1.5723273723567752),
}


def erf_near(s: Arithmetic, x: Value) -> Value:
    """erf for |x| <= 1."""
    return s.mul(x, polynomial(s, s.mul(x, x), ERF_ODD[x.element]))


def erfc_far(s: Arithmetic, a: Value) -> Value:
    """erfc for a >= 0.9: t exp(P(t) - a**2), with a**2 in two parts so that its rounding does not grow."""
    two = s.const(2.0, a)
    t = s.div(two, s.add(a, two))
    tail = polynomial(s, s.sub(t, s.const(0.375, a)), ERFC_TAIL[a.element])
    square = s.mul(a, a)
    rest = s.fma(a, a, s.neg(square))
    return s.mul(s.mul(t, exp(s, s.sub(tail, rest))), exp(s, s.neg(square)))


def erf(s: Arithmetic, x: Value) -> Value:
    one = s.const(1.0, x)
    a = s.clamp_above(s.abs(x), 6.0)
    far = s.copysign(s.sub(one, erfc_far(s, s.maximum(a, s.const(0.9, x)))), x)
    result = s.select(s.lt(s.abs(x), s.const(0.9, x)), erf_near(s, x), far)
    return s.select(s.is_nan(x), x, result)


def erfc(s: Arithmetic, x: Value) -> Value:
    """1 - erf near 0, the tail elsewhere; float32 is computed in double, whose argument keeps the exponent's bits."""
    if x.element == "float":
        return s.cast(erfc(s, s.cast(x, "float64")), "float32")
    one, two = s.const(1.0, x), s.const(2.0, x)
    a = s.clamp_above(s.abs(x), 28.0)
    far = erfc_far(s, s.maximum(a, s.const(0.9, x)))
    far = s.select(s.lt(x, s.const(0.0, x)), s.sub(two, far), far)
    result = s.select(s.lt(s.abs(x), s.const(0.9, x)), s.sub(one, erf_near(s, x)), far)
    return s.select(s.is_nan(x), x, result)


# -- powers ----------------------------------------------------------------------------------------------------------


def log_extended(s: Arithmetic, x: Value) -> tuple[Value, Value]:
    """log(x) of a positive double as an unevaluated sum of two doubles, some 68 bits together."""
    form = FORMATS["double"]
    n, y = normalize(s, x)
    k, m = split_exponent(s, y)
    exponent = s.add(to_float(s, k), n)
    one, two = s.const(1.0, x), s.const(2.0, x)
    f = s.sub(m, one)  # exact
    d = s.add(f, two)
    d_low = s.add(s.sub(two, d), f)
    r = s.div(f, d)
    r_low = s.div(s.sub(s.fma(s.neg(r), d, f), s.mul(r, d_low)), d)
    z = s.mul(r, r)
    z_low = s.fma(s.mul(two, r), r_low, s.fma(r, r, s.neg(z)))
    cube = s.mul(r, z)
    cube_low = s.add(s.fma(r, z, s.neg(cube)), s.fma(r, z_low, s.mul(r_low, z)))
    q = s.mul(z, polynomial(s, z, LOG_TAIL))
    third = s.const(TWO_THIRDS_HIGH, x)
    c = s.add(third, q)
    c_low = s.add(s.add(s.sub(third, c), q), s.const(TWO_THIRDS_LOW, x))
    p = s.mul(cube, c)
    p_low = s.add(s.fma(cube, c, s.neg(p)), s.fma(cube, c_low, s.mul(cube_low, c)))
    start = s.mul(two, r)
    high = s.add(start, p)
    low = s.add(s.add(s.sub(start, high), p), s.fma(two, r_low, p_low))
    whole = s.mul(exponent, s.const(form.ln2_high, x))
    total = s.add(whole, high)
    shift = s.sub(total, whole)
    rounding = s.add(s.sub(whole, s.sub(total, shift)), s.sub(high, shift))
    return total, s.add(rounding, s.fma(exponent, s.const(form.ln2_low, x), low))


def power_of_positive(s: Arithmetic, a: Value, b: Value) -> Value:
    """a**b for positive finite a."""
    if a.element == "float":  # in double the plain formula keeps all of a float's bits
        wide = s.mul(s.cast(b, "float64"), log_natural(s, s.cast(a, "float64")))
        return s.cast(exp(s, wide), "float32")
    high, low = log_extended(s, a)
    product = s.mul(b, high)
    rest = s.fma(b, low, s.fma(b, high, s.neg(product)))
    power = exp(s, product)
    tame = s.lt(s.abs(product), s.const(745.0, a))
    return s.select(tame, s.fma(power, s.select(tame, rest, s.const(0.0, a)), power), power)


def float_power(s: Arithmetic, a: Value, b: Value) -> Value:
    """a**b with the special values of IEEE 754 (and numpy): x**0 and 1**x are 1, negative bases take whole powers."""
    zero, one = s.const(0.0, a), s.const(1.0, a)
    size = s.abs(a)
    inside = s.and_(s.gt(size, zero), s.lt(size, s.const(inf, a)))
    result = power_of_positive(s, s.select(inside, size, one), b)
    result = s.select(s.eq(size, one), one, result)
    up = s.gt(b, zero)
    result = s.select(s.eq(size, zero), s.select(up, zero, s.const(inf, a)), result)
    result = s.select(s.eq(size, s.const(inf, a)), s.select(up, s.const(inf, a), zero), result)
    half = s.mul(b, s.const(0.5, a))
    whole = s.eq(s.trunc(b), b)
    odd = s.and_(whole, s.ne(s.trunc(half), half))
    negative = s.or_(s.lt(a, zero), s.and_(s.eq(a, zero), s.lt(s.copysign(one, a), zero)))
    result = s.select(s.and_(negative, odd), s.neg(result), result)
    broken = s.and_(s.and_(s.lt(a, zero), s.not_(whole)), s.lt(size, s.const(inf, a)))
    result = s.select(broken, s.const(nan, a), result)
    result = s.select(s.or_(s.is_nan(a), s.is_nan(b)), s.const(nan, a), result)
    return s.select(s.or_(s.eq(b, zero), s.eq(a, one)), one, result)


def integer_power(s: Arithmetic, a: Value, b: Value) -> Value:
    """a**b by squaring, wrapping as numpy's; 0 for negative exponents."""
    zero, one = s.const(0, a), s.const(1, a)
    result, square, left = one, a, b
    for _ in range(31 if a.element == "i32" else 63):
        bit = s.ne(s.and_(left, one), zero)
        result = s.select(bit, s.mul(result, square), result)
        square, left = s.mul(square, square), s.shr(left, 1)
    return s.select(s.lt(b, zero), zero, result)


def power(s: Arithmetic, a: Value, b: Value) -> Value:
    return float_power(s, a, b) if s.is_float(a) else integer_power(s, a, b)
