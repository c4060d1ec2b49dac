"""The error functions on LLVM values.

Knows polynomials and how to keep the relative accuracy of a tail.  Must not know graphs, ops, or how the functions are
called.  Each table states its interval and its largest relative error there, after rounding the coefficients.
"""

from __future__ import annotations

from graphc.runtime.native import math_tables as tables
from graphc.runtime.native.math_arithmetic import Arithmetic
from graphc.runtime.native.math_exponential import exp, polynomial
from graphc.runtime.native.values import Value

# erf(x) / x - 1 in z = x**2, |x| <= 1.  Error in erf 2**-27.8 (degree 6), 2**-54.8 (degree 11); Remez exchange.
ERF_NEAR = {
    "float": (0.12837916612625122, -0.3761262595653534, 0.1128358542919159, -0.026853810995817184,
              0.005188327748328447, -0.0008010198944248259, 7.853888382669538e-05),
    "double": (0.12837916709551256, -0.3761263890318352, 0.11283791670944189, -0.026866170643112114,
               0.005223977606122985, -0.0008548325929496536, 0.00012055293581461363, -1.4924712375263338e-05,
               1.644713232648223e-06, -1.6206318590630116e-07, 1.3710997864652775e-08, -7.779495748243536e-10),
}
# erfc(x)**(-1/8) on 0.9 <= x <= 4.3, the form of Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.28;
# beyond, its eighth power only has to stay large.  Error in erf 2**-24.8 (degree 7, Remez exchange).
ERF_ROOT = (0.9980723857879639, 0.15176042914390564, 0.06415314972400665, 0.05784457549452782, -0.02294648438692093,
            0.013987344689667225, -0.0032378106843680143, 0.00047851851559244096)

# (1 + 2 x) exp(x**2) erfc(x) in q = (x - k) / (x + k), the form of Shepherd and Laframboise, "Chebyshev approximation
# of (1 + 2x) exp(x^2) erfc(x)", Mathematics of Computation 36 (1981); Remez exchange.
# k = 2, 0 <= x <= 10.1: error 2**-24.8 (degree 9).  k = 4, 0 <= x <= 27.3: error 2**-53.7 (degree 21).
ERFC_CENTRE = {"float": 2.0, "double": 4.0}
ERFC_LAST = {"float": 10.1, "double": 27.3}  # erfc underflows before
ERFC = {
    "float": (1.2769783735275269, -0.0927639827132225, -0.16603142023086548, 0.16405534744262695, -0.05420433357357979,
              -0.008059872314333916, 0.008631796576082706, 0.0013135670451447368, -0.0012300442904233932,
              -0.0004006538656540215),
    "double": (1.2329951186255526, -0.13962111684056322, 0.015379652102606715, 0.06809705425476748,
               -0.10103906603559025, 0.093732834996064, -0.06633036582769467, 0.0371675155681121,
               -0.01619773388400083, 0.005031969766435662, -0.000757774432891581, -0.00019925591243648017,
               0.00015062636546547267, -2.44005640113771e-05, -1.1234249139641041e-05, 5.709554226843085e-06,
               3.138160940971129e-07, -8.204358258469911e-07, 5.5122028203752873e-08, 1.016030708897406e-07,
               -7.980557886285356e-09, -8.367967917416778e-09),
}


def erfc_positive(s: Arithmetic, a: Value) -> Value:
    """erfc(a) for a >= 0: exp(-a**2) times a polynomial, with a**2 in two parts so that its rounding does not grow."""
    a = s.clamp_above(a, ERFC_LAST[a.element])
    centre, one = s.const(ERFC_CENTRE[a.element], a), s.const(1.0, a)
    q = s.div(s.sub(a, centre), s.add(a, centre))
    scaled = s.div(polynomial(s, q, ERFC[a.element]), s.fma(s.const(2.0, a), a, one))
    square = s.mul(a, a)
    dropped = s.fma(a, a, s.neg(square))
    result = s.mul(exp(s, s.neg(square)), scaled)
    return s.fma(s.neg(dropped), result, result)


def erf_near(s: Arithmetic, x: Value) -> Value:
    """erf for |x| <= 1."""
    return s.fma(x, polynomial(s, s.mul(x, x), ERF_NEAR[x.element]), x)


def erfc(s: Arithmetic, x: Value) -> Value:
    a = s.abs(x)
    tail = erfc_positive(s, a)
    far = s.select(s.lt(x, s.const(0.0, x)), s.sub(s.const(2.0, x), tail), tail)
    near = s.sub(s.const(1.0, x), erf_near(s, x))
    return s.select(s.lt(a, s.const(0.5, x)), near, far)


def erf(s: Arithmetic, x: Value) -> Value:
    if x.element == "float" and s.function.module.lookups:
        return tables.erf(s, x)
    a, one = s.abs(x), s.const(1.0, x)
    if x.element == "float":
        power = polynomial(s, a, ERF_ROOT)
        for _ in range(3):
            power = s.mul(power, power)
        tail = s.div(one, power)
    else:
        tail = erfc_positive(s, a)
    return s.select(s.lt(a, s.const(0.95, x)), erf_near(s, x), s.copysign(s.sub(one, tail), x))
