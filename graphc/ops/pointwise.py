"""Everyday functions of single elements: compositions of the MAP ops.

Knows formulas that keep numbers in range and gradients finite.  Must not know how anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..methods import FUNCTIONS, public
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import bool_, float32
from . import elementwise as e
from .axes import axis_and_keepdims
from .reductions import all_, any_, mean, std, sum_, var
from .sources import zeros_like
from .views import reshape

# -- logarithms and angles -------------------------------------------------------------------------------------------


def _floating(x: TensorLike) -> Tensor:
    tensor = as_tensor(x)
    return tensor if tensor.dtype.is_float else e.cast(tensor, float32)


@public
def logaddexp(a: TensorLike, b: TensorLike) -> Tensor:
    """log(exp(a) + exp(b)), without overflow."""
    x, y = e.common(a, b, floating=True)
    equal = x == y  # both may be infinite
    distance = e.abs_(e.where(equal, 1.0, x - y))
    return e.where(equal, (x + y) * 0.5 + math.log(2.0), e.maximum(x, y) + e.softplus(-distance))


@public
def log10(x: TensorLike) -> Tensor:
    """Logarithm to base 10."""
    return e.log(_floating(x)) * (1.0 / math.log(10.0))


@public
def xlogy(x: TensorLike, y: TensorLike) -> Tensor:
    """x * log(y), 0 where x is 0 (unless y is NaN)."""
    a, b = e.common(x, y, floating=True)
    nothing = (a == 0.0) & ((b <= 0.0) | (b == math.inf))
    return e.where(nothing, 0.0, a * e.log(e.where(nothing, 1.0, b)))


@public
def logit(x: TensorLike, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), the inverse of sigmoid; eps limits x to [eps, 1 - eps]."""
    p = _floating(x)
    p = p if eps is None else e.clip(p, eps, 1.0 - eps)
    return e.log(p) - e.log1p(-p)


@public
def asinh(x: TensorLike) -> Tensor:
    """Inverse hyperbolic sine."""
    tensor = _floating(x)
    size = e.where(tensor < 0.0, -tensor, tensor)  # abs, but with a gradient at 0
    large = size > 1e8  # x * x would lose or overflow; there the root is x itself
    square = e.square(e.where(large, 1.0, tensor))
    near = e.log1p(e.where(large, 1.0, size) + square / (1.0 + e.sqrt(1.0 + square)))
    value = e.where(large, e.log(e.where(large, size, 1.0)) + math.log(2.0), near)
    return e.where(tensor < 0.0, -value, value)


@public
def acosh(x: TensorLike) -> Tensor:
    """Inverse hyperbolic cosine; NaN below 1."""
    tensor = _floating(x)
    large = tensor > 1e8
    above = e.where(large, 1.0, tensor) - 1.0
    return e.where(large, e.log(e.where(large, tensor, 1.0)) + math.log(2.0),
                   e.log1p(above + e.sqrt(above * (above + 2.0))))


@public
def atanh(x: TensorLike) -> Tensor:
    """Inverse hyperbolic tangent; infinite at -1 and 1, NaN beyond."""
    tensor = _floating(x)
    return 0.5 * (e.log1p(tensor) - e.log1p(-tensor))


@public
def hypot(a: TensorLike, b: TensorLike) -> Tensor:
    """sqrt(a*a + b*b), scaled by the larger so that it does not overflow; its gradient at the origin is 0."""
    x, y = e.common(a, b, floating=True)
    scale = FUNCTIONS["stop_gradient"](e.maximum(e.abs_(x), e.abs_(y)))
    plain = (scale == 0.0) | e.isinf(scale)
    safe = e.where(plain, 1.0, scale)
    total = e.square(x / safe) + e.square(y / safe)
    return e.where(plain, scale, safe * e.sqrt(e.where(plain, 1.0, total)))


@public
def deg2rad(x: TensorLike) -> Tensor:
    """Degrees as radians."""
    return _floating(x) * (math.pi / 180.0)


@public
def rad2deg(x: TensorLike) -> Tensor:
    """Radians as degrees."""
    return _floating(x) * (180.0 / math.pi)


@public
def sinc(x: TensorLike) -> Tensor:
    """sin(pi x) / (pi x), 1 at 0."""
    angle = _floating(x) * math.pi
    nothing = angle == 0.0
    safe = e.where(nothing, 1.0, angle)
    return e.where(nothing, 1.0 - e.square(angle) * (1.0 / 6.0), e.sin(safe) / safe)


# -- parts and limits ------------------------------------------------------------------------------------------------


@public
def frac(x: TensorLike) -> Tensor:
    """x without its whole part, with the sign of x."""
    tensor = _floating(x)
    return tensor - e.trunc(tensor)


@public
def fmod(a: TensorLike, b: TensorLike) -> Tensor:
    """The remainder of division with the sign of a: torch.fmod (numpy.fmod); `%` has the sign of b."""
    x, y = e.common(a, b)
    rest = FUNCTIONS["remainder"](x, y)
    return e.where((rest != 0) & ((rest < 0) != (x < 0)), rest - y, rest)


@public
def heaviside(x: TensorLike, values: TensorLike) -> Tensor:
    """0 below 0, 1 above, and `values` at 0."""
    a, b = e.common(x, values)
    return e.where(e.isnan(a) if a.dtype.is_float else zeros_like(a, bool_), a,
                   e.where(a == 0, b, e.cast(a > 0, b.dtype)))


@public
def clamp_min(x: TensorLike, min: TensorLike) -> Tensor:
    """No value below `min`."""
    return e.clip(x, min=min)


@public
def clamp_max(x: TensorLike, max: TensorLike) -> Tensor:
    """No value above `max`."""
    return e.clip(x, max=max)


@public
def nan_to_num(x: TensorLike, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """NaN and infinities replaced by numbers, by default 0 and the dtype's greatest and least."""
    tensor = as_tensor(x)
    if not tensor.dtype.is_float:
        return tensor
    limits = np.finfo(tensor.dtype.numpy)
    high = float(limits.max) if posinf is None else posinf
    low = float(limits.min) if neginf is None else neginf
    known = e.where(e.isnan(tensor), float(nan), tensor)
    return e.where(known == math.inf, high, e.where(known == -math.inf, low, known))


@public
def lerp(start: TensorLike, end: TensorLike, weight: TensorLike) -> Tensor:
    """start + weight * (end - start)."""
    a, b = e.common(start, end)
    return a + as_tensor(weight, a) * (b - a)


@public
def addcmul(x: TensorLike, a: TensorLike, b: TensorLike, *, value: float = 1) -> Tensor:
    """x + value * a * b."""
    return as_tensor(x) + value * (as_tensor(a) * b)


@public
def addcdiv(x: TensorLike, a: TensorLike, b: TensorLike, *, value: float = 1) -> Tensor:
    """x + value * a / b."""
    return as_tensor(x) + value * (as_tensor(a) / b)


# -- comparisons -----------------------------------------------------------------------------------------------------


@public
def isposinf(x: TensorLike) -> Tensor:
    """Whether x is plus infinity."""
    return _floating(x) == math.inf


@public
def isneginf(x: TensorLike) -> Tensor:
    """Whether x is minus infinity."""
    return _floating(x) == -math.inf


@public
def isclose(a: TensorLike, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Whether ``|a - b| <= atol + rtol * |b|``, element by element; equal infinities are close."""
    x, y = e.common(a, b)
    close = x == y
    if not x.dtype.is_float:
        return close | (e.abs_(x - y) <= atol + rtol * e.abs_(y)) if not x.dtype.is_bool else close
    close = close | (e.isfinite(x) & e.isfinite(y) & (e.abs_(x - y) <= atol + rtol * e.abs_(y)))
    return close | (e.isnan(x) & e.isnan(y)) if equal_nan else close


@public
def allclose(a: TensorLike, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Whether all elements are close, as a 0-d bool symbol; see isclose."""
    return all_(isclose(a, b, rtol, atol, equal_nan))


@public
def isin(elements: TensorLike, test: TensorLike) -> Tensor:
    """Whether each element is among those of a tensor; compares every pair."""
    given, among = as_tensor(elements), reshape(as_tensor(test), -1)
    return any_(reshape(given, (*given.shape, 1)) == among, -1)


# -- reductions that leave something out, or give two results --------------------------------------------------------


def _keywords(axis: Any, keepdims: bool, kw: dict[str, Any]) -> tuple[Any, bool]:
    return axis_and_keepdims(axis, keepdims, kw)


@public
def nansum(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """The sum over axes of what is not NaN."""
    axis, keepdims = _keywords(axis, keepdims, kw)
    tensor = as_tensor(x)
    return sum_(e.where(e.isnan(tensor), 0.0, tensor) if tensor.dtype.is_float else tensor, axis, keepdims)


@public
def nanmean(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """The mean over axes of what is not NaN."""
    axis, keepdims = _keywords(axis, keepdims, kw)
    tensor = _floating(x)
    number = sum_(e.cast(e.logical_not(e.isnan(tensor)), tensor.dtype), axis, keepdims)
    return nansum(tensor, axis, keepdims) / number


def _with_mean(spread: Callable[..., Tensor], name: str) -> None:
    def both(x: TensorLike, axis: Any = None, correction: float = 1, keepdims: bool = False, **kw: Any
             ) -> tuple[Tensor, Tensor]:
        unbiased = {"unbiased": kw.pop("unbiased")} if "unbiased" in kw else {}
        axis, keepdims = _keywords(axis, keepdims, kw)
        return spread(x, axis, correction, keepdims, **unbiased), mean(x, axis, keepdims)

    both.__name__ = both.__qualname__ = name
    both.__doc__ = f"({spread.__name__}, mean) over axes: torch.{name}."
    public(both)


_with_mean(var, "var_mean")
_with_mean(std, "std_mean")


class Extremes(NamedTuple):
    """The least element and the greatest."""

    min: Tensor
    max: Tensor


@public
def aminmax(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Extremes:
    """(min, max) over axes: the least element and the greatest."""
    axis, keepdims = _keywords(axis, keepdims, kw)
    return Extremes(FUNCTIONS["amin"](x, axis, keepdims), FUNCTIONS["amax"](x, axis, keepdims))


@public
def dist(a: TensorLike, b: TensorLike, p: float = 2) -> Tensor:
    """The p-norm of the difference."""
    return FUNCTIONS["norm"](as_tensor(a) - b, p)


@public
def softmin(x: TensorLike, axis: int = -1, **kw: Any) -> Tensor:
    """softmax of -x."""
    return FUNCTIONS["softmax"](-as_tensor(x), axis, **kw)


FUNCTIONS.update(arcsinh=asinh, arccosh=acosh, arctanh=atanh, arcsin=e.asin, arccos=e.acos, arctan=e.atan,
                 arctan2=e.atan2)
