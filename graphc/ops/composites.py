"""COMPOSITE ops: one readable node with a stable gradient, which a pass takes apart into primitives.

Knows formulas that keep numbers in range.  Must not know how anything is computed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..methods import public
from ..op import Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import TensorType, float32
from . import elementwise as e
from .axes import normal_axes, normal_axis, synonym
from .control import stop_gradient
from .reductions import axis_and_keepdims, max_, mean, spread, sum_
from .views import reshape

ROWS = (Sample(((3, 4),), {"axis": 1}), Sample(((3, 4),), {"axis": 0}), Sample(((2, 3, 4),), {"axis": 1}))


def _shifted(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x minus its maximum over the axes (0 where that is infinite), and that maximum."""
    top = stop_gradient(max_(x, axes, True))
    safe = e.where(e.isfinite(top), top, 0.0)
    return x - safe, safe


def _float_input(x: TensorLike) -> Tensor:
    tensor = as_tensor(x)
    return tensor if tensor.dtype.is_float else e.cast(tensor, float32)


# -- softmax and friends ---------------------------------------------------------------------------------------------


def _softmax_numpy(x: np.ndarray, *, axis: int) -> np.ndarray:
    shifted = np.exp(x - x.max(axis, keepdims=True))
    return (shifted / shifted.sum(axis, keepdims=True)).astype(x.dtype)


def _softmax_expand(x: Tensor, *, axis: int) -> Tensor:
    exps = e.exp(x - stop_gradient(max_(x, axis, True)))
    return exps * e.reciprocal(sum_(exps, axis, True))  # the sum is at least 1: one division for all of them


def _log_softmax_numpy(x: np.ndarray, *, axis: int) -> np.ndarray:
    shifted = x - x.max(axis, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))).astype(x.dtype)


def _log_softmax_expand(x: Tensor, *, axis: int) -> Tensor:
    shifted = x - stop_gradient(max_(x, axis, True))
    return shifted - e.log(sum_(e.exp(shifted), axis, True))


_softmax = define(Op(
    "softmax", Kind.COMPOSITE, lambda x, *, axis: x, _softmax_numpy,
    (lambda g, out, x, *, axis: out * (g - sum_(g * out, axis, True)),), expand=_softmax_expand, samples=ROWS,
    doc="exp(x) / sum(exp(x)) along an axis."))
_log_softmax = define(Op(
    "log_softmax", Kind.COMPOSITE, lambda x, *, axis: x, _log_softmax_numpy,
    (lambda g, out, x, *, axis: g - apply(_softmax, x, axis=axis) * sum_(g, axis, True),), expand=_log_softmax_expand,
    samples=ROWS,
    doc="log(softmax(x)) along an axis, without underflow."))


def _logsumexp_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return x.with_shape(tuple(s for a, s in enumerate(x.shape) if a not in axes))


def _logsumexp_numpy(x: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
    return np.logaddexp.reduce(x, axis=axes) if len(axes) == 1 else _logsumexp_over(x, axes)


def _logsumexp_over(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    top = x.max(axes, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    return (np.log(np.exp(x - safe).sum(axes, keepdims=True)) + safe).squeeze(axes).astype(x.dtype)


def _logsumexp_expand(x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    shifted, top = _shifted(x, axes)
    kept = e.log(sum_(e.exp(shifted), axes, True)) + top
    return reshape(kept, tuple(s for a, s in enumerate(x.shape) if a not in axes))


def _logsumexp_gradient(g: Tensor, out: Tensor, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    """The weights exp(x - out); a row of -inf alone has no mass, and zero gradient."""
    level = spread(out, axes, x.shape)
    weight = e.where(level == -math.inf, 0.0, e.exp(x - level))
    return spread(g, axes, x.shape) * weight


_logsumexp = define(Op(
    "logsumexp", Kind.COMPOSITE, _logsumexp_type, _logsumexp_numpy, (_logsumexp_gradient,), expand=_logsumexp_expand,
    samples=(Sample(((3, 4),), {"axes": (1,)}), Sample(((2, 3, 4),), {"axes": (0, 2)})),
    doc="log(sum(exp(x))) over axes, without overflow."))


# -- normalisation ---------------------------------------------------------------------------------------------------


def _standardize_numpy(x: np.ndarray, *, axes: tuple[int, ...], eps: float) -> np.ndarray:
    shifted = x - x.mean(axes, keepdims=True)
    return (shifted / np.sqrt((shifted * shifted).mean(axes, keepdims=True) + eps)).astype(x.dtype)


def statistics(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean, mean, biased variance) over axes, which are kept with size 1; in two passes, so that nothing cancels."""
    center = mean(x, list(axes), True)
    shifted = x - center
    return shifted, center, mean(e.square(shifted), list(axes), True)


def _standardize_expand(x: Tensor, *, axes: tuple[int, ...], eps: float) -> Tensor:
    shifted, _, variance = statistics(x, axes)
    return shifted * e.rsqrt(variance + eps)


def _standardize_gradient(g: Tensor, out: Tensor, x: Tensor, *, axes: tuple[int, ...], eps: float) -> Tensor:
    """What the mean and the variance take back of g, both from one pass over g and the result."""
    scale = e.rsqrt(statistics(x, axes)[2] + eps)
    return scale * (g - mean(g, list(axes), True) - out * mean(g * out, list(axes), True))


_standardize = define(Op(
    "standardize", Kind.COMPOSITE, lambda x, *, axes, eps: x, _standardize_numpy, (_standardize_gradient,),
    expand=_standardize_expand,
    samples=(Sample(((3, 4),), {"axes": (1,), "eps": 1e-5}), Sample(((4, 2, 3),), {"axes": (0, 2), "eps": 1e-2})),
    doc="(x - mean) / sqrt(biased variance + eps) over axes: what layers of normalisation begin with."))


def standardize(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(biased variance + eps) over axes."""
    return apply(_standardize, x, axes=axes, eps=float(eps))


def _axis(axis: Any, kw: dict[str, Any], x: Tensor) -> int:
    axis = synonym(axis, kw, -1)
    if kw:
        raise TypeError(f"unexpected argument {next(iter(kw))!r}{at(user_origin())}")
    return normal_axis(axis, x.ndim)


@public
def softmax(x: TensorLike, axis: int = -1, **kw: Any) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis, without overflow."""
    tensor = _float_input(x)
    return apply(_softmax, tensor, axis=_axis(axis, kw, tensor)) if tensor.ndim else e.ones_like(tensor)


@public
def log_softmax(x: TensorLike, axis: int = -1, **kw: Any) -> Tensor:
    """log(softmax(x)) along an axis, without underflow."""
    tensor = _float_input(x)
    return apply(_log_softmax, tensor, axis=_axis(axis, kw, tensor)) if tensor.ndim else tensor - tensor


@public
def logsumexp(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """log(sum(exp(x))) over axes (all by default), without overflow."""
    tensor = _float_input(x)
    axis, keepdims = axis_and_keepdims(axis, keepdims, kw)
    axes = normal_axes(axis, tensor.ndim)
    if not axes:
        return tensor
    out = apply(_logsumexp, tensor, axes=axes)
    return reshape(out, tuple(1 if a in axes else s for a, s in enumerate(tensor.shape))) if keepdims else out


# -- smooth gates ----------------------------------------------------------------------------------------------------

SHAPE = (Sample(((3, 4),), {}),)
ROOT_2_OVER_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715  # Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016)


def _gelu_numpy(x: np.ndarray, *, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        return (0.5 * x * (1 + np.tanh(ROOT_2_OVER_PI * (x + CUBIC * x ** 3)))).astype(x.dtype)
    return (x * 0.5 * (1 + e._erf(x / math.sqrt(2)))).astype(x.dtype)


def _gelu_expand(x: Tensor, *, approximate: str) -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1.0 + e.tanh(x * (ROOT_2_OVER_PI + ROOT_2_OVER_PI * CUBIC * x * x)))
    return 0.5 * x * (1.0 + e.erf(x * math.sqrt(0.5)))


def _gelu_gradient(g: Tensor, out: Tensor, x: Tensor, *, approximate: str) -> Tensor:
    """g times the slope: the slope is one tensor that the forward pass can leave, where g * a + g * b needs a and b."""
    if approximate == "tanh":
        t = e.tanh(x * (ROOT_2_OVER_PI + ROOT_2_OVER_PI * CUBIC * x * x))
        inner = x * (0.5 * ROOT_2_OVER_PI + 1.5 * ROOT_2_OVER_PI * CUBIC * x * x)
        return g * (0.5 + 0.5 * t + (1.0 - t * t) * inner)
    density = e.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return g * (0.5 + 0.5 * e.erf(x * math.sqrt(0.5)) + x * density)


def _silu_gradient(g: Tensor, out: Tensor, x: Tensor) -> Tensor:
    s = e.sigmoid(x)
    return g * (s + x * s * (1.0 - s))


_gelu = define(Op("gelu", Kind.COMPOSITE, lambda x, *, approximate: x, _gelu_numpy, (_gelu_gradient,), expand=_gelu_expand,
                  samples=(Sample(((3, 4),), {"approximate": "none"}), Sample(((3, 4),), {"approximate": "tanh"})),
                  doc="x times the normal distribution function of x."))
_silu = define(Op("silu", Kind.COMPOSITE, lambda x: x, lambda x: (x * e._sigmoid(x)).astype(x.dtype), (_silu_gradient,),
                  expand=lambda x: x * e.sigmoid(x), samples=SHAPE, doc="x * sigmoid(x)."))
_log_sigmoid = define(Op("log_sigmoid", Kind.COMPOSITE, lambda x: x, lambda x: (-e._softplus(-x)).astype(x.dtype), (),
                         expand=lambda x: -e.softplus(-x), samples=SHAPE, doc="log(sigmoid(x)), without underflow."))


@public
def gelu(x: TensorLike, approximate: str = "none") -> Tensor:
    """x * Phi(x), Phi the normal distribution function; approximate="tanh" is the usual closed form."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}{at(user_origin())}")
    return apply(_gelu, _float_input(x), approximate=approximate)


@public
def silu(x: TensorLike) -> Tensor:
    """x * sigmoid(x)."""
    return apply(_silu, _float_input(x))


@public
def log_sigmoid(x: TensorLike) -> Tensor:
    """log(sigmoid(x)), without underflow."""
    return apply(_log_sigmoid, _float_input(x))
