"""Trigonometric functions and their inverses on LLVM values.

Knows polynomials and argument reduction by multiples of pi/2.  Must not know graphs, ops, or how the functions are
called.  Coefficients are minimax fits (Remez exchange, in 40 digits) with the largest relative error over the interval.
"""

from __future__ import annotations

from graphc.runtime.native.math_arithmetic import Arithmetic
from graphc.runtime.native.math_exponential import FORMATS, like_bits, polynomial
from graphc.runtime.native.values import Value

# pi/2 in three parts of 53 bits each, and 2/pi.
HALF_PI_PARTS = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
TWO_OVER_PI = 0.6366197723675814
# High and low part of pi/2 in each format.
HALF_PI = {"float": (1.5707963705062866, -4.3711390001862426e-08), "double": (1.5707963267948966, 6.123233995736766e-17)}

# (sin(r)/r - 1) / r**2 in z = r**2, |r| <= pi/4.  Error 2**-28.0 (degree 2), 2**-57.9 (degree 5).
SIN = {
    "float": (-0.16666655242443085, 0.008332191966474056, -0.00019518804037943482),
    "double": (-0.16666666666666632, 0.00833333333332249, -0.00019841269829856827, 2.755731370657152e-06,
               -2.5050760160825603e-08, 1.589690381605652e-10),
}
# (cos(r) - 1 + r**2/2) / r**4 in z = r**2, |r| <= pi/4.  Error 2**-33.1 (degree 2), 2**-63.7 (degree 5).
COS = {
    "float": (0.04166664555668831, -0.00138873013202101, 2.4430661142105237e-05),
    "double": (0.0416666666666666, -0.0013888888888874478, 2.4801587289675335e-05, -2.7557314402444134e-07,
               2.0875729503277916e-09, -1.1359946770455488e-11),
}
# (asin(x)/x - 1) / x**2 in z = x**2 <= 1/4.  Error 2**-27.6 (degree 4), 2**-59.6 (degree 12).
ASIN = {
    "float": (0.16666753590106964, 0.07495252043008804, 0.04547606408596039, 0.02415185049176216, 0.04221246764063835),
    "double": (0.16666666666666763, 0.07499999999970129, 0.044642857175253604, 0.030381942676992648,
               0.022372215853763578, 0.01735159649826582, 0.013981005909467145, 0.011397401249616575,
               0.010788689503583958, 0.0036746594842006013, 0.021784423870256205, -0.02110763927712265,
               0.03269631979887208),
}
# (atan(t)/t - 1) / t**2 in z = t**2, |t| <= tan(pi/8).  Error 2**-30.5 (degree 4), 2**-59.3 (degree 10).
ATAN = {
    "float": (-0.33333316445350647, 0.1999853253364563, -0.14244510233402252, 0.10600166022777557,
              -0.06092708930373192),
    "double": (-0.333333333333332, 0.1999999999995382, -0.14285714280220885, 0.11111110784695545, -0.09090897793375857,
               0.07692060844950356, -0.06663111107695238, 0.05847939590056855, -0.05039525452846659,
               0.03807000621735388, -0.017912984999189297),
}


# -- sin, cos, tan ---------------------------------------------------------------------------------------------


def reduce_quadrant(s: Arithmetic, x: Value) -> tuple[Value, Value, Value | None]:
    """``(q, r, tail)``: x is q pi/2 + r + tail with |r| <= pi/4; the low bits of the integer q are the quadrant.

    float32 is reduced in double and has no tail.  Up to |x| = 2**40 the stated bounds hold; up to 2**51 n is off by a
    growing fraction, so that r leaves its interval and the error grows to 3 ulp; beyond, r is only kept within
    the interval: sine and cosine are those of some angle, bounded and of squares that add up to 1.
    """
    wide = s.cast(x, "float64")
    magic = s.const(FORMATS["double"].magic, wide)
    t = s.fma(wide, s.const(TWO_OVER_PI, wide), magic)
    n = s.sub(t, magic)
    first, second, third = s.table(tuple(-part for part in HALF_PI_PARTS), wide)
    r = s.fma(n, first, wide)  # exact: a multiple of x's last place below 1
    if x.element == "float":
        r = s.clamp_above(s.clamp_below(s.cast(s.fma(n, second, r), "float32"), -1.0), 1.0)
        return s.cast(s.as_int(t), "int32"), r, None
    product = s.mul(n, second)
    error = s.fma(n, second, s.neg(product))
    total = s.add(r, product)
    part = s.sub(total, r)
    dropped = s.add(s.sub(r, s.sub(total, part)), s.sub(product, part))
    tail = s.add(dropped, s.fma(n, third, error))
    tail = s.select(s.lt(s.abs(total), s.const(1.0, x)), tail, s.const(0.0, x))
    return s.as_int(t), s.clamp_above(s.clamp_below(total, -1.0), 1.0), tail


def sin_reduced(s: Arithmetic, r: Value, z: Value, tail: Value | None) -> Value:
    """sin(r + tail) for |r| <= pi/4, z = r**2."""
    cube = s.mul(r, z)
    if tail is None:
        return s.fma(cube, polynomial(s, z, SIN[r.element]), r)
    correction = s.fma(s.mul(z, s.const(-0.5, r)), tail, tail)  # tail cos(r)
    return s.add(r, s.fma(cube, polynomial(s, z, SIN[r.element]), correction))


def cos_reduced(s: Arithmetic, r: Value, z: Value, tail: Value | None) -> Value:
    """cos(r + tail) for |r| <= pi/4, z = r**2."""
    one = s.const(1.0, r)
    head = s.fma(z, s.const(-0.5, r), one)
    dropped = s.fma(z, s.const(-0.5, r), s.sub(one, head))
    rest = s.fma(s.mul(z, z), polynomial(s, z, COS[r.element]), dropped)
    if tail is not None:
        rest = s.sub(rest, s.mul(r, tail))
    return s.add(head, rest)


def sin_or_cos(s: Arithmetic, x: Value, quarter_turns: int) -> Value:
    """sin(|x| + quarter_turns pi/2)."""
    q, r, tail = reduce_quadrant(s, s.abs(x))
    q = s.add(q, s.const(quarter_turns, q)) if quarter_turns else q
    z = s.mul(r, r)
    odd = s.ne(s.and_(q, s.const(1, q)), s.const(0, q))
    value = s.select(odd, cos_reduced(s, r, z, tail), sin_reduced(s, r, z, tail))
    bits = 8 * (4 if x.element == "float" else 8)
    sign = s.shl(s.shr(q, 1), bits - 1)
    return s.as_float(s.xor(s.as_int(value), sign))


def flip_sign(s: Arithmetic, x: Value, sign: Value) -> Value:
    """x, negated where `sign` is negative."""
    mask = like_bits(s, 1 << (31 if x.element == "float" else 63), x)
    return s.as_float(s.xor(s.as_int(x), s.and_(s.as_int(sign), mask)))


def sin(s: Arithmetic, x: Value) -> Value:
    return flip_sign(s, sin_or_cos(s, x, 0), x)  # through |x|, so that the sign of zero is kept


def cos(s: Arithmetic, x: Value) -> Value:
    return sin_or_cos(s, x, 1)


def tan(s: Arithmetic, x: Value) -> Value:
    q, r, tail = reduce_quadrant(s, s.abs(x))
    z = s.mul(r, r)
    sine, cosine = sin_reduced(s, r, z, tail), cos_reduced(s, r, z, tail)
    odd = s.ne(s.and_(q, s.const(1, q)), s.const(0, q))
    ratio = s.div(s.select(odd, cosine, sine), s.select(odd, sine, cosine))
    return flip_sign(s, s.select(odd, s.neg(ratio), ratio), x)


# -- inverses --------------------------------------------------------------------------------------------------


def asin_series(s: Arithmetic, x: Value, z: Value) -> Value:
    """asin(x) - x for z = x**2 <= 1/4."""
    return s.mul(s.mul(x, z), polynomial(s, z, ASIN[x.element]))


def asin_halves(s: Arithmetic, x: Value) -> tuple[Value, Value, Value]:
    """``(outer, y, rest)``: asin(y) = y + rest, with y = |x| within 1/2 and y = sqrt((1 - |x|) / 2) beyond (outer)."""
    a = s.abs(x)
    half = s.const(0.5, x)
    outer = s.gt(a, half)
    z = s.select(outer, s.fma(a, s.const(-0.5, x), half), s.mul(a, a))
    y = s.select(outer, s.sqrt(z), a)
    return outer, y, asin_series(s, y, z)


def asin(s: Arithmetic, x: Value) -> Value:
    outer, y, rest = asin_halves(s, x)
    high, low = s.table(HALF_PI[x.element], x)
    twice = s.add(y, y)
    far = s.sub(high, s.sub(s.fma(s.const(2.0, x), rest, twice), low))
    return s.copysign(s.select(outer, far, s.add(y, rest)), x)


def acos(s: Arithmetic, x: Value) -> Value:
    outer, y, rest = asin_halves(s, x)
    high, low = s.table(HALF_PI[x.element], x)
    negative = s.lt(x, s.const(0.0, x))
    angle = s.add(y, rest)
    double = s.add(angle, angle)
    two = s.const(2.0, x)
    far = s.select(negative, s.fma(two, high, s.fma(two, low, s.neg(double))), double)
    signed_y, signed_rest = s.copysign(y, x), s.copysign(rest, x)
    near = s.sub(high, s.sub(signed_y, s.sub(low, signed_rest)))
    return s.select(outer, far, near)


def atan_ratio(s: Arithmetic, n: Value, d: Value) -> Value:
    """atan(n / d) for n, d >= 0, not both zero and not both infinite; in [0, pi/2]."""
    high, low = HALF_PI[n.element]
    zero = s.const(0.0, n)
    swap = s.gt(n, d)
    small, large = s.select(swap, d, n), s.select(swap, n, d)
    # atan(t) = pi/4 + atan((t - 1) / (t + 1)) beyond tan(pi/8)
    shift = s.gt(small, s.mul(large, s.const(0.41421356237309503, n)))
    top = s.select(shift, s.sub(small, large), small)
    bottom = s.select(shift, s.add(small, large), large)
    t = s.div(top, bottom)
    z = s.mul(t, t)
    rest = s.mul(s.mul(t, z), polynomial(s, z, ATAN[n.element]))
    rest = s.add(rest, s.select(shift, s.const(low / 2, n), zero))
    base = s.select(shift, s.const(high / 2, n), zero)
    # The base is zero or the greater: what rounding base + t drops is exact.
    total = s.add(base, t)
    rest = s.add(s.add(s.sub(base, total), t), rest)
    plain = s.add(total, rest)
    swapped = s.sub(s.const(high, n), total)
    dropped = s.sub(s.sub(s.const(high, n), swapped), total)
    return s.select(swap, s.add(swapped, s.add(dropped, s.sub(s.const(low, n), rest))), plain)


def atan(s: Arithmetic, x: Value) -> Value:
    return s.copysign(atan_ratio(s, s.abs(x), s.const(1.0, x)), x)


def atan2(s: Arithmetic, y: Value, x: Value) -> Value:
    """The angle of the point (x, y), in (-pi, pi]; signed zeros and infinities as IEEE 754 has them."""
    infinity, zero, one = s.const(float("inf"), x), s.const(0.0, x), s.const(1.0, x)
    n, d = s.abs(y), s.abs(x)
    both = s.and_(s.eq(n, infinity), s.eq(d, infinity))
    n, d = s.select(both, one, n), s.select(both, one, d)
    d = s.select(s.and_(s.eq(n, zero), s.eq(d, zero)), one, d)
    # Numbers near overflow are halved twice: their sum must stay finite.
    huge = s.gt(s.maximum(n, d), s.const(FORMATS[x.element].smallest ** -1, x))
    n = s.select(huge, s.mul(n, s.const(0.25, x)), n)
    d = s.select(huge, s.mul(d, s.const(0.25, x)), d)
    angle = atan_ratio(s, n, d)
    high, low = HALF_PI[x.element]
    reflected = s.sub(s.const(2 * high, x), s.sub(angle, s.const(2 * low, x)))
    negative = s.lt(s.as_int(x), s.const(0, s.as_int(x)))
    return s.copysign(s.select(negative, reflected, angle), y)
