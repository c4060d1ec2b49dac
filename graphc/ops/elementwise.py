"""MAP ops: one scalar body per element.

Each op's record states its numpy meaning, its gradient and its scalar body on adjacent lines; operands are brought to one type
by `promotion`.  Must not know loops or memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DTypeError
from ..methods import FUNCTIONS, public
from ..op import Kind, Op, Sample, define, same_type
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import (
    TensorType,
    bool_,
    broadcast_shapes,
    float32,
    greatest,
    least,
)
from .promotion import bool_types, cast, common, float_types, same_types
from .sources import full_like, ones_like
from .views import expand_to

NONE = (None, None)
REAL = (-2.0, 2.0)
POSITIVE = (0.1, 3.0)


# -- records and their functions in one step ------------------------------------------------------------------------------


def unary(name: str, numpy: Callable[..., Any], vjp: Callable[..., Any] | None, scalar: Callable[..., Any], doc: str,
          *, domain: tuple[float, float] = REAL, smooth: bool = True, dtypes: str = "f",
          infer: Callable[..., Any] | None = None, **fields: Any) -> Callable[..., Tensor]:
    """Defines a unary MAP op and its public function, in one step; `fields` are more of its record."""
    floating = dtypes == "f"
    rounds = floating and not smooth and infer is None  # integers are round already
    record = define(Op(name, Kind.MAP, infer or (float_types if floating else same_type), numpy, (vjp,), scalar,
                       domain=(domain,), smooth=smooth, dtypes=dtypes, doc=doc, **fields))

    def function(x: TensorLike) -> Tensor:
        tensor = as_tensor(x)
        if floating and not tensor.dtype.is_float:
            if rounds:
                return tensor
            tensor = cast(tensor, float32)
        return apply(record, tensor)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return public(function)


def binary(name: str, numpy: Callable[..., Any], vjp: tuple[Callable[..., Any] | None, ...],
           scalar: Callable[..., Any], doc: str, *, commutes: bool = False, floating: bool = False,
           keep_bool: bool = False, infer: Callable[..., Any] | None = None, smooth: bool = True, dtypes: str = "fi",
           domain: tuple[tuple[float, float], ...] = (REAL, REAL), **fields: Any) -> Callable[..., Tensor]:
    """Defines a binary MAP op and its public function, with promotion and broadcasting; `fields` are more of its record."""
    record = define(Op(name, Kind.MAP, infer or (float_types if floating else same_types), numpy, vjp, scalar,
                       commutes=commutes, domain=domain, smooth=smooth, dtypes=dtypes, doc=doc, **fields))

    def function(a: TensorLike, b: TensorLike) -> Tensor:
        return apply(record, *common(a, b, floating=floating, keep_bool=keep_bool))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return public(function)


# -- choices -----------------------------------------------------------------------------------------------


def _where_type(c: TensorType, a: TensorType, b: TensorType) -> TensorType:
    if not c.dtype.is_bool:
        raise DTypeError(f"the condition must be bool, got {c.dtype.name}")
    return same_types(a, b)


_where = define(Op("where", Kind.MAP, _where_type, np.where,
                   (None, lambda g, out, c, a, b: where(c, g, 0.0), lambda g, out, c, a, b: where(c, 0.0, g)),
                   lambda s, c, a, b: s.select(c, a, b), dtypes="fib",
                   samples=(Sample((np.array([[True, False], [False, True], [True, True]]), (3, 2), (3, 2))),),
                   doc="a where the condition holds, else b."))


@public
def where(condition: TensorLike, a: TensorLike, b: TensorLike) -> Tensor:
    """a where the condition holds, else b; all three broadcast together."""
    test = as_tensor(condition)
    if not test.dtype.is_bool:
        test = not_equal(test, 0)
    x, y = common(a, b)
    shape = broadcast_shapes(test.shape, x.shape)
    return apply(_where, expand_to(test, shape), expand_to(x, shape), expand_to(y, shape))


@public
def masked_fill(x: TensorLike, mask: TensorLike, value: TensorLike) -> Tensor:
    """`value` where the mask is true, else x."""
    return where(mask, as_tensor(value, as_tensor(x)), x)


# -- arithmetic ------------------------------------------------------------------------------------------------------

add = binary("add", np.add, (lambda g, out, a, b: g, lambda g, out, a, b: g),
             lambda s, a, b: s.add(a, b), "a + b; of bools: either.", commutes=True, keep_bool=True, dtypes="fib",
             neutral=0, linear=((0, 1),))
sub = binary("sub", np.subtract, (lambda g, out, a, b: g, lambda g, out, a, b: -g),
             lambda s, a, b: s.sub(a, b), "a - b.", linear=((0, 1),))
mul = binary("mul", np.multiply, (lambda g, out, a, b: g * b, lambda g, out, a, b: g * a),
             lambda s, a, b: s.mul(a, b), "a * b; of bools: both.", commutes=True, keep_bool=True, dtypes="fib",
             neutral=1, linear=((0,), (1,)))
div = binary("div", np.divide, (lambda g, out, a, b: g / b, lambda g, out, a, b: -g * out / b),
             lambda s, a, b: s.div(a, b), "a / b; two integers give float32.", floating=True, dtypes="f",
             domain=(REAL, POSITIVE))


def _int_power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.power(a, b)
    return np.where(b >= 0, np.power(a, np.maximum(b, 0)), 0).astype(a.dtype)


_power = binary(
    "power", _int_power,
    (lambda g, out, a, b: g * where(b == 0, 0.0, b * power(a, b - 1.0)),
     lambda g, out, a, b: g * where((a == 0) & (b >= 0), 0.0, out * log(where(a > 0, a, 1.0)))),
    lambda s, a, b: s.pow(a, b), "a to the power b.", domain=(POSITIVE, REAL))
power: Callable[..., Tensor] = _power


def _floor_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.floor_divide(a, b)


def _remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.remainder(a, b)


floor_divide = binary("floor_divide", _floor_divide, NONE, lambda s, a, b: s.floordiv(a, b),
                      "Quotient rounded toward minus infinity; an integer divided by 0 gives 0.", smooth=False,
                      domain=(REAL, POSITIVE))
remainder = binary("remainder", _remainder,
                   (lambda g, out, a, b: g, lambda g, out, a, b: -g * floor(a / b)),
                   lambda s, a, b: s.mod(a, b), "a - b * floor(a / b): takes the sign of b.",
                   domain=((2.2, 2.9), (1.0, 1.05)))

maximum = binary("maximum", np.maximum,
                 (lambda g, out, a, b: g * _share(a, b), lambda g, out, a, b: g * _share(b, a)),
                 lambda s, a, b: s.maximum(a, b), "The greater of two; NaN if either is.", commutes=True,
                 keep_bool=True, dtypes="fib")
minimum = binary("minimum", np.minimum,
                 (lambda g, out, a, b: g * _share(b, a), lambda g, out, a, b: g * _share(a, b)),
                 lambda s, a, b: s.minimum(a, b), "The lesser of two; NaN if either is.", commutes=True,
                 keep_bool=True, dtypes="fib")


def _share(winner: Tensor, loser: Tensor) -> Tensor:
    """1 where the winner is greater, 1/2 where they are equal, as PyTorch splits a tie."""
    return where(winner > loser, 1.0, where(winner == loser, 0.5, 0.0)).astype(winner.dtype)


neg = unary("neg", np.negative, lambda g, out, x: -g, lambda s, x: s.neg(x), "-x.", dtypes="fi", linear=((0,),))
abs_ = unary("abs", np.abs, lambda g, out, x: g * sign(x), lambda s, x: s.abs(x), "Absolute value.", dtypes="fi",
             domain=POSITIVE)
sign: Callable[..., Tensor] = unary("sign", np.sign, None, lambda s, x: s.sign(x), "-1, 0 or 1.", smooth=False,
                                    dtypes="fi")
sqrt = unary("sqrt", np.sqrt, lambda g, out, x: g * 0.5 / out, lambda s, x: s.sqrt(x), "Square root.", domain=POSITIVE)
rsqrt = unary("rsqrt", lambda x: (1 / np.sqrt(x)).astype(x.dtype), lambda g, out, x: g * -0.5 * out / x,
              lambda s, x: s.rsqrt(x), "1 / sqrt(x).", domain=POSITIVE)
reciprocal = unary("reciprocal", lambda x: (1 / x).astype(x.dtype), lambda g, out, x: -g * out * out,
                   lambda s, x: s.reciprocal(x), "1 / x.", domain=POSITIVE)
square = unary("square", np.square, lambda g, out, x: g * 2.0 * x, lambda s, x: s.mul(x, x), "x * x.", dtypes="fi")

# -- exponentials and friends ----------------------------------------------------------------------------------------

exp = unary("exp", np.exp, lambda g, out, x: g * out, lambda s, x: s.exp(x), "e to the power x.")
exp2 = unary("exp2", np.exp2, lambda g, out, x: g * out * math.log(2), lambda s, x: s.exp2(x), "2 to the power x.")
expm1 = unary("expm1", np.expm1, lambda g, out, x: g * (out + 1.0), lambda s, x: s.expm1(x),
              "exp(x) - 1, exact near 0.")
log: Callable[..., Tensor] = unary("log", np.log, lambda g, out, x: g / x, lambda s, x: s.log(x),
                                   "Natural logarithm.", domain=POSITIVE)
log2 = unary("log2", np.log2, lambda g, out, x: g / (x * math.log(2)), lambda s, x: s.log2(x), "Logarithm to base 2.",
             domain=POSITIVE)
log1p = unary("log1p", np.log1p, lambda g, out, x: g / (1.0 + x), lambda s, x: s.log1p(x), "log(1 + x), exact near 0.",
              domain=(-0.8, 3.0))
sin = unary("sin", np.sin, lambda g, out, x: g * cos(x), lambda s, x: s.sin(x), "Sine.")
cos: Callable[..., Tensor] = unary("cos", np.cos, lambda g, out, x: -g * sin(x), lambda s, x: s.cos(x), "Cosine.")
tan = unary("tan", np.tan, lambda g, out, x: g * (1.0 + out * out), lambda s, x: s.tan(x), "Tangent.",
            domain=(-1.2, 1.2))
asin = unary("asin", np.arcsin, lambda g, out, x: g * rsqrt(1.0 - x * x), lambda s, x: s.asin(x), "Arc sine.",
             domain=(-0.9, 0.9))
acos = unary("acos", np.arccos, lambda g, out, x: -g * rsqrt(1.0 - x * x), lambda s, x: s.acos(x), "Arc cosine.",
             domain=(-0.9, 0.9))
atan = unary("atan", np.arctan, lambda g, out, x: g / (1.0 + x * x), lambda s, x: s.atan(x), "Arc tangent.")
atan2 = binary("atan2", np.arctan2, (lambda g, out, y, x: g * x * _over_square(x, y),
                                     lambda g, out, y, x: -g * y * _over_square(x, y)),
               lambda s, y, x: s.atan2(y, x), "Angle of the point (x, y).", floating=True, dtypes="f",
               domain=(POSITIVE, POSITIVE))
sinh = unary("sinh", np.sinh, lambda g, out, x: g * cosh(x), lambda s, x: s.sinh(x), "Hyperbolic sine.")
cosh: Callable[..., Tensor] = unary("cosh", np.cosh, lambda g, out, x: g * sinh(x), lambda s, x: s.cosh(x),
                                    "Hyperbolic cosine.")
tanh = unary("tanh", np.tanh, lambda g, out, x: g * (1.0 - out * out), lambda s, x: s.tanh(x), "Hyperbolic tangent.")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return (np.where(x >= 0, 1, e) / (1 + e)).astype(x.dtype)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)  # numpy has no erf


def _erfc(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erfc, otypes=[np.float64])(x).astype(x.dtype)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, x.dtype.type(0)).astype(x.dtype)


def _over_square(x: Tensor, y: Tensor) -> Tensor:
    """1 / (x**2 + y**2), 0 where both are 0: there an angle has no gradient."""
    square_ = x * x + y * y
    return where(square_ == 0, 0.0, 1.0 / where(square_ == 0, 1.0, square_))


sigmoid = unary("sigmoid", _sigmoid, lambda g, out, x: g * out * (1.0 - out), lambda s, x: s.sigmoid(x),
                "1 / (1 + exp(-x)), without overflow.")
softplus = unary("softplus", _softplus, lambda g, out, x: g * sigmoid(x), lambda s, x: s.softplus(x),
                 "log(1 + exp(x)), without overflow.")
erf = unary("erf", _erf, lambda g, out, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x), lambda s, x: s.erf(x),
            "The error function.")
erfc = unary("erfc", _erfc, lambda g, out, x: g * (-2 / math.sqrt(math.pi)) * exp(-x * x), lambda s, x: s.erfc(x),
             "1 - erf(x), exact for large x.")
relu = unary("relu", lambda x: np.maximum(x, x.dtype.type(0)), lambda g, out, x: where(x > 0, g, 0.0),
             lambda s, x: s.maximum(x, s.const(0, x)), "max(x, 0).", domain=(0.1, 2.0), dtypes="fi")

# -- rounding --------------------------------------------------------------------------------------------------------

floor: Callable[..., Tensor] = unary("floor", np.floor, None, lambda s, x: s.floor(x),
                                     "The greatest integer not above x.", smooth=False)
ceil = unary("ceil", np.ceil, None, lambda s, x: s.ceil(x), "The least integer not below x.", smooth=False)
round_ = unary("round", np.round, None, lambda s, x: s.round(x), "The nearest integer, halves to even.", smooth=False)
trunc = unary("trunc", np.trunc, None, lambda s, x: s.trunc(x), "Rounds toward zero.", smooth=False)

# -- comparisons and logic -------------------------------------------------------------------------------------------


def _comparison(name: str, numpy: Any, method: str, doc: str, commutes: bool = False) -> Callable[..., Tensor]:
    return binary(name, numpy, NONE, lambda s, a, b: getattr(s, method)(a, b), doc, commutes=commutes, infer=bool_types,
                  smooth=False, dtypes="fib", keep_bool=True)


equal = _comparison("equal", np.equal, "eq", "a == b.", commutes=True)
not_equal = _comparison("not_equal", np.not_equal, "ne", "a != b.", commutes=True)
less = _comparison("less", np.less, "lt", "a < b.")
less_equal = _comparison("less_equal", np.less_equal, "le", "a <= b.")
greater = _comparison("greater", np.greater, "gt", "a > b.")
greater_equal = _comparison("greater_equal", np.greater_equal, "ge", "a >= b.")


def _logical(*types: TensorType, **_: Any) -> TensorType:
    if any(t.dtype.is_float for t in types):
        raise DTypeError("logical operators take bool (or, bit by bit, integers); compare floats first")
    return same_types(*types)


def _bitwise(name: str, numpy: Any, method: str, doc: str) -> Callable[..., Tensor]:
    return binary(name, numpy, NONE, lambda s, a, b: getattr(s, method)(a, b), doc, commutes=True, infer=_logical,
                  smooth=False, dtypes="bi", keep_bool=True)


def _named(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    function.__name__ = function.__qualname__ = name
    return public(function)


bitwise_and = _named("bitwise_and", _bitwise("logical_and", np.bitwise_and, "and_", "Both true; bit by bit for integers."))
bitwise_or = _named("bitwise_or", _bitwise("logical_or", np.bitwise_or, "or_", "Either true; bit by bit for integers."))
bitwise_xor = _named("bitwise_xor", _bitwise("logical_xor", np.bitwise_xor, "xor",
                                             "One true but not both; bit by bit for integers."))
bitwise_not = _named("bitwise_not", unary("logical_not", np.invert, None, lambda s, x: s.not_(x),
                                          "Not; bit by bit for integers.", smooth=False, dtypes="bi", infer=_logical))


def truth(x: TensorLike) -> Tensor:
    """Bools as they are, numbers as whether they are not zero."""
    tensor = as_tensor(x)
    return tensor if tensor.dtype.is_bool else not_equal(tensor, 0)


@public
def logical_and(a: TensorLike, b: TensorLike) -> Tensor:
    """Both true, or not zero."""
    return bitwise_and(truth(a), truth(b))


@public
def logical_or(a: TensorLike, b: TensorLike) -> Tensor:
    """Either true, or not zero."""
    return bitwise_or(truth(a), truth(b))


@public
def logical_xor(a: TensorLike, b: TensorLike) -> Tensor:
    """One true, or not zero, but not both."""
    return bitwise_xor(truth(a), truth(b))


@public
def logical_not(x: TensorLike) -> Tensor:
    """Not true, or zero."""
    return bitwise_not(truth(x))


isnan = unary("isnan", np.isnan, None, lambda s, x: s.is_nan(x), "Whether x is NaN.", smooth=False,
              infer=lambda x: float_types(x).with_dtype(bool_))
isinf = unary("isinf", np.isinf, None, lambda s, x: s.is_inf(x), "Whether x is plus or minus infinity.", smooth=False,
              infer=lambda x: float_types(x).with_dtype(bool_))
isfinite = unary("isfinite", np.isfinite, None, lambda s, x: s.is_finite(x), "Whether x is neither infinite nor NaN.",
                 smooth=False, infer=lambda x: float_types(x).with_dtype(bool_))


# -- functions of the above ------------------------------------------------------------------------------------------


@public
def pow(x: TensorLike, exponent: TensorLike) -> Tensor:
    """x to the power of exponent.  Small constant exponents become products and roots."""
    if isinstance(exponent, (int, float, np.number)) and not isinstance(exponent, bool) and isinstance(x, Tensor):
        value = float(exponent)
        if x.dtype.is_integer and (value < 0 or not isinstance(exponent, (int, np.integer))):
            if isinstance(exponent, (int, np.integer)):
                raise DTypeError(f"an integer to the negative power {value:g} is no integer; "
                                 f"cast to float first{at(user_origin())}")
            x = cast(x, float32)
        short: dict[float, Callable[[], Tensor]] = {0.0: lambda: ones_like(x), 1.0: lambda: x, 2.0: lambda: square(x)}
        if x.dtype.is_float:
            short |= {3.0: lambda: square(x) * x, 4.0: lambda: square(square(x)), 0.5: lambda: sqrt(x),
                      -0.5: lambda: rsqrt(x), -1.0: lambda: reciprocal(x), -2.0: lambda: reciprocal(square(x))}
        if value in short:
            return short[value]()
    return power(x, exponent)


@public
def clip(x: TensorLike, min: TensorLike | None = None, max: TensorLike | None = None) -> Tensor:
    """Limits values to [min, max]; the gradient at a limit is whole, as in PyTorch."""
    if min is None and max is None:
        raise DTypeError(f"clip needs min, max or both{at(user_origin())}")
    operands = common(*(v for v in (x, min, max) if v is not None))
    tensor, limits = operands[0], operands[1:]
    low = limits[0] if min is not None else full_like(tensor, least(tensor.dtype))
    high = limits[-1] if max is not None else full_like(tensor, greatest(tensor.dtype))
    return apply(_clip, tensor, low, high)


def _clip_gradient(g: Tensor, out: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return where((x >= low) & (x <= high), g, 0.0)


_clip = define(Op(
    "clip", Kind.MAP, same_types, lambda x, low, high: np.minimum(np.maximum(x, low), high),
    (_clip_gradient,
     lambda g, out, x, low, high: where((x < low) & (low < high), g, 0.0),
     lambda g, out, x, low, high: where((x > high) | (low >= high), g, 0.0)),
    lambda s, x, low, high: s.minimum(s.maximum(x, low), high), domain=(REAL, (-0.9, -0.3), (0.3, 0.9)),
    dtypes="fi", doc="Limits values to [low, high]."))

multiply, subtract, divide, true_divide, negative, absolute = mul, sub, div, div, neg, abs_
FUNCTIONS.update({"multiply": mul, "subtract": sub, "divide": div, "true_divide": div, "negative": neg, "absolute": abs_,
                  "clamp": clip, "eq": equal, "ne": not_equal, "lt": less, "le": less_equal, "gt": greater,
                  "ge": greater_equal})
