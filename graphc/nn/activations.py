"""Activations: functions of one tensor.

With `inplace` the input, where it is a symbol that the program has computed, is overwritten as in PyTorch: read again, it is
the result.  Each is a composition of elementwise ops whose gradients are PyTorch's at kinks and finite at infinity; where a
branch that is not taken could overflow, its operand is replaced first, so that no NaN reaches a gradient.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops import composites
from ..ops import elementwise as e
from ..ops.axes import normal_axis
from ..ops.indexing import one_hot
from ..ops.overwriting import inplace as inplace_too
from ..ops.random import uniform
from ..ops.views import moveaxis, narrow, reshape
from ..origins import at, user_origin
from ..symbols import Parameter as Cellular
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike
from .randomness import advancing, fresh_key


@inplace_too
def relu(input: TensorLike, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return e.relu(input)


@inplace_too
def square_relu(input: TensorLike, inplace: bool = False) -> Tensor:
    """max(x, 0) squared."""
    return e.square(e.relu(input))


def sigmoid(input: TensorLike) -> Tensor:
    """1 / (1 + exp(-x))."""
    return e.sigmoid(input)


def tanh(input: TensorLike) -> Tensor:
    """Hyperbolic tangent."""
    return e.tanh(input)


def logsigmoid(input: TensorLike) -> Tensor:
    """log(sigmoid(x)), without overflow."""
    return composites.log_sigmoid(input)


@inplace_too
def leaky_relu(input: TensorLike, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope * x."""
    x = as_tensor(input)
    return e.where(x > 0, x, x * negative_slope)


def prelu(input: TensorLike, weight: TensorLike) -> Tensor:
    """x where positive, else weight * x; weight has one element, or one per channel (axis 1)."""
    x, w = as_tensor(input), as_tensor(weight)
    if w.size != 1:
        channels = x.shape[1] if x.ndim > 1 else x.shape[0] if x.ndim else 1
        if w.size != channels:
            raise ShapeError(f"prelu: {w.size} slopes for {channels} channels of {x.type}{at(user_origin())}")
        w = reshape(w, (channels, *(1,) * (x.ndim - 2))) if x.ndim > 1 else w
    else:
        w = reshape(w, ())
    return e.where(x > 0, x, w * x)


@inplace_too
def rrelu(input: TensorLike, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
          inplace: bool = False, *, key: Cellular | None = None) -> Tensor:
    """Leaky ReLU with a slope drawn anew per element from [lower, upper]; their mean in evaluation."""
    x = as_tensor(input)
    if not training:
        return leaky_relu(x, (lower + upper) / 2)
    own = fresh_key() if key is None else key
    return advancing(e.where(x > 0, x, x * uniform(x.shape, lower, upper, x.dtype, own)), own)


@inplace_too
def elu(input: TensorLike, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1)."""
    x = as_tensor(input)
    return e.where(x > 0, x, alpha * e.expm1(e.where(x > 0, 0.0, x)))


@inplace_too
def celu(input: TensorLike, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x / alpha) - 1)."""
    x = as_tensor(input)
    return e.where(x > 0, x, alpha * e.expm1(e.where(x > 0, 0.0, x) / alpha))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@inplace_too
def selu(input: TensorLike, inplace: bool = False) -> Tensor:
    """Self-normalising ELU (Klambauer et al. 2017)."""
    return SELU_SCALE * elu(input, SELU_ALPHA)


def gelu(input: TensorLike, approximate: str = "none") -> Tensor:
    """x * Phi(x) with the normal distribution function: by erf, or by tanh (Hendrycks & Gimpel 2016)."""
    if approximate not in ("none", "tanh"):
        raise GraphError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}{at(user_origin())}")
    return composites.gelu(input, approximate)


def quick_gelu(input: TensorLike) -> Tensor:
    """x * sigmoid(1.702 x)."""
    x = as_tensor(input)
    return x * e.sigmoid(1.702 * x)


@inplace_too
def silu(input: TensorLike, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    return composites.silu(input)


@inplace_too
def mish(input: TensorLike, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    x = as_tensor(input)
    return x * e.tanh(e.softplus(x))


@inplace_too
def hardtanh(input: TensorLike, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Limited to [min_val, max_val]; no gradient at the limits."""
    x = as_tensor(input)
    return e.where(x <= min_val, min_val, e.where(x >= max_val, max_val, x))


@inplace_too
def relu6(input: TensorLike, inplace: bool = False) -> Tensor:
    """Limited to [0, 6]."""
    return hardtanh(input, 0.0, 6.0)


@inplace_too
def hardsigmoid(input: TensorLike, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    return relu6(as_tensor(input) + 3.0) / 6.0


@inplace_too
def hardswish(input: TensorLike, inplace: bool = False) -> Tensor:
    """x * relu6(x + 3) / 6."""
    x = as_tensor(input)
    return e.where(x <= -3.0, 0.0, e.where(x >= 3.0, x, x * (x + 3.0) / 6.0))


def hardshrink(input: TensorLike, lambd: float = 0.5) -> Tensor:
    """0 within [-lambd, lambd], else x."""
    x = as_tensor(input)
    return e.where((x >= -lambd) & (x <= lambd), 0.0, x)


def softshrink(input: TensorLike, lambd: float = 0.5) -> Tensor:
    """0 within [-lambd, lambd], else x moved toward 0 by lambd."""
    x = as_tensor(input)
    return e.where(x > lambd, x - lambd, e.where(x < -lambd, x + lambd, x * 0.0))


def tanhshrink(input: TensorLike) -> Tensor:
    """x - tanh(x)."""
    x = as_tensor(input)
    return x - e.tanh(x)


def softplus(input: TensorLike, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x exceeds the threshold."""
    x = as_tensor(input)
    scaled = x * beta
    return e.where(scaled > threshold, x, e.softplus(scaled) / beta)


def softsign(input: TensorLike) -> Tensor:
    """x / (1 + |x|)."""
    x = as_tensor(input)
    return x / (1.0 + e.abs_(x))


@inplace_too
def threshold(input: TensorLike, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x above the threshold, else a value."""
    x = as_tensor(input)
    return e.where(x > threshold, x, value)


def glu(input: TensorLike, dim: int = -1) -> Tensor:
    """a * sigmoid(b), a and b the halves along an axis."""
    x = as_tensor(input)
    axis = normal_axis(dim, x.ndim)
    size = x.shape[axis]
    if isinstance(size, int) and size % 2:
        raise ShapeError(f"glu: axis {dim} of {x.type} has no halves: its size is odd{at(user_origin())}")
    half = size // 2
    return narrow(x, axis, 0, half) * e.sigmoid(narrow(x, axis, half, half))


def _default_axis(x: Tensor) -> int:
    return 0 if x.ndim in (0, 1, 3) else 1  # PyTorch's implicit axis, for unbatched images and batches of rows


def _converted(input: TensorLike, dtype: DTypeLike | None) -> Tensor:
    x = as_tensor(input)
    return x if dtype is None else x.astype(dtype)


def softmax(input: TensorLike, dim: int | None = None, *, dtype: DTypeLike | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis; the input is converted to `dtype` first where that is given."""
    x = _converted(input, dtype)
    return composites.softmax(x, _default_axis(x) if dim is None else dim)


def softmin(input: TensorLike, dim: int | None = None, *, dtype: DTypeLike | None = None) -> Tensor:
    """softmax of -x."""
    return softmax(-as_tensor(input), dim, dtype=dtype)


def log_softmax(input: TensorLike, dim: int | None = None, *, dtype: DTypeLike | None = None) -> Tensor:
    """log of softmax, without overflow; the input is converted to `dtype` first where that is given."""
    x = _converted(input, dtype)
    return composites.log_softmax(x, _default_axis(x) if dim is None else dim)


def gumbel_softmax(logits: TensorLike, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1, *,
                   key: Cellular | None = None) -> Tensor:
    """A differentiable sample of a categorical distribution (Jang et al. 2017); `hard` rounds it to one-hot forward.

    eps has no effect, here as in PyTorch, which keeps it for its place among the arguments.
    """
    x = as_tensor(logits)
    axis = normal_axis(dim, x.ndim)
    own = fresh_key() if key is None else key
    tiny = float(np.finfo(x.dtype.numpy).tiny)
    noise = -e.log(-e.log(e.clip(uniform(x.shape, 0.0, 1.0, x.dtype, own), min=tiny)))
    soft = advancing(composites.softmax((x + noise) / tau, axis), own)
    if not hard:
        return soft
    picked = moveaxis(one_hot(soft.argmax(axis), soft.shape[axis].__index__(), x.dtype), -1, axis)
    return picked - soft.detach() + soft


def _overwriting(function: Any) -> Any:
    def call(input: TensorLike, *args: Any, **kw: Any) -> Tensor:
        return function(input, *args, inplace=True, **kw)

    call.__name__ = call.__qualname__ = f"{function.__name__}_"
    call.__doc__ = f"{function.__name__} with inplace=True."
    own = signature(function)
    vars(call)["__signature__"] = own.replace(parameters=[p for n, p in own.parameters.items() if n != "inplace"])
    return call


relu_, leaky_relu_, elu_, celu_, selu_, threshold_, hardtanh_, rrelu_ = map(_overwriting, (
    relu, leaky_relu, elu, celu, selu, threshold, hardtanh, rrelu))
