"""Activations: functions of one tensor, and the modules that hold their settings.

Each is a composition of elementwise ops whose gradients are PyTorch's at kinks and finite at infinity; where a branch
that is not taken could overflow, its operand is replaced first, so that no NaN reaches a gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..ir import at, user_origin
from ..ops import composites
from ..ops import elementwise as e
from ..ops.indexing import one_hot
from ..ops.random import uniform
from ..ops.views import moveaxis, narrow, normal_axis, reshape
from ..tensor import Parameter as Cellular
from ..tensor import Tensor, TensorLike, as_tensor
from .module import Module
from .parameter import Parameter
from .randomness import RandomModule, advancing, fresh_key


def relu(input: TensorLike, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return e.relu(input)


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


def rrelu(input: TensorLike, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
          inplace: bool = False, *, key: Cellular | None = None) -> Tensor:
    """Leaky ReLU with a slope drawn anew per element from [lower, upper]; their mean in evaluation."""
    x = as_tensor(input)
    if not training:
        return leaky_relu(x, (lower + upper) / 2)
    own = fresh_key() if key is None else key
    return advancing(e.where(x > 0, x, x * uniform(x.shape, lower, upper, x.dtype, own)), own)


def elu(input: TensorLike, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1)."""
    x = as_tensor(input)
    return e.where(x > 0, x, alpha * e.expm1(e.where(x > 0, 0.0, x)))


def celu(input: TensorLike, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x / alpha) - 1)."""
    x = as_tensor(input)
    return e.where(x > 0, x, alpha * e.expm1(e.where(x > 0, 0.0, x) / alpha))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


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


def silu(input: TensorLike, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    return composites.silu(input)


def mish(input: TensorLike, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    x = as_tensor(input)
    return x * e.tanh(e.softplus(x))


def hardtanh(input: TensorLike, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Limited to [min_val, max_val]; no gradient at the limits."""
    x = as_tensor(input)
    return e.where(x <= min_val, min_val, e.where(x >= max_val, max_val, x))


def relu6(input: TensorLike, inplace: bool = False) -> Tensor:
    """Limited to [0, 6]."""
    return hardtanh(input, 0.0, 6.0)


def hardsigmoid(input: TensorLike, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    return relu6(as_tensor(input) + 3.0) / 6.0


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


def softmax(input: TensorLike, dim: int | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis."""
    x = as_tensor(input)
    return composites.softmax(x, _default_axis(x) if dim is None else dim)


def softmin(input: TensorLike, dim: int | None = None) -> Tensor:
    """softmax of -x."""
    return softmax(-as_tensor(input), dim)


def log_softmax(input: TensorLike, dim: int | None = None) -> Tensor:
    """log of softmax, without overflow."""
    x = as_tensor(input)
    return composites.log_softmax(x, _default_axis(x) if dim is None else dim)


def gumbel_softmax(logits: TensorLike, tau: float = 1.0, hard: bool = False, dim: int = -1, *,
                   key: Cellular | None = None) -> Tensor:
    """A differentiable sample of a categorical distribution (Jang et al. 2017); `hard` rounds it to one-hot forward."""
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


# -- modules ---------------------------------------------------------------------------------------------------------


class Activation(Module):
    """A module whose forward is one function of its input and of settings kept as attributes.

    `inplace` is accepted for PyTorch's sake and means nothing: the compiler decides what shares memory.
    """

    function: Any = None
    settings: tuple[str, ...] = ()

    def forward(self, input: TensorLike) -> Tensor:
        return type(self).function(input, **{name: getattr(self, name) for name in self.settings})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)


class _Plain(Activation):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()


class ReLU(_Plain):
    """max(x, 0)."""

    function = staticmethod(relu)


class SquareReLU(_Plain):
    """max(x, 0) squared."""

    function = staticmethod(square_relu)


class ReLU6(_Plain):
    """Limited to [0, 6]."""

    function = staticmethod(relu6)


class Sigmoid(_Plain):
    """1 / (1 + exp(-x))."""

    function = staticmethod(sigmoid)


class Tanh(_Plain):
    """Hyperbolic tangent."""

    function = staticmethod(tanh)


class LogSigmoid(_Plain):
    """log(sigmoid(x))."""

    function = staticmethod(logsigmoid)


class SELU(_Plain):
    """Self-normalising ELU."""

    function = staticmethod(selu)


class SiLU(_Plain):
    """x * sigmoid(x)."""

    function = staticmethod(silu)


class Mish(_Plain):
    """x * tanh(softplus(x))."""

    function = staticmethod(mish)


class QuickGELU(_Plain):
    """x * sigmoid(1.702 x)."""

    function = staticmethod(quick_gelu)


class Hardsigmoid(_Plain):
    """relu6(x + 3) / 6."""

    function = staticmethod(hardsigmoid)


class Hardswish(_Plain):
    """x * relu6(x + 3) / 6."""

    function = staticmethod(hardswish)


class Softsign(_Plain):
    """x / (1 + |x|)."""

    function = staticmethod(softsign)


class Tanhshrink(_Plain):
    """x - tanh(x)."""

    function = staticmethod(tanhshrink)


class LeakyReLU(Activation):
    """x where positive, else negative_slope * x."""

    function, settings = staticmethod(leaky_relu), ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope


class ELU(Activation):
    """x where positive, else alpha * (exp(x) - 1)."""

    function, settings = staticmethod(elu), ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha


class CELU(ELU):
    """x where positive, else alpha * (exp(x / alpha) - 1)."""

    function = staticmethod(celu)


class GELU(Activation):
    """x * Phi(x), by erf ("none") or "tanh"."""

    function, settings = staticmethod(gelu), ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate


class Hardtanh(Activation):
    """Limited to [min_val, max_val]."""

    function, settings = staticmethod(hardtanh), ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if not min_val < max_val:
            raise ShapeError(f"Hardtanh needs min_val < max_val, got {min_val} and {max_val}{at(user_origin())}")
        self.min_val, self.max_val = min_val, max_val


class Hardshrink(Activation):
    """0 within [-lambd, lambd], else x."""

    function, settings = staticmethod(hardshrink), ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd


class Softshrink(Hardshrink):
    """0 within [-lambd, lambd], else x moved toward 0 by lambd."""

    function = staticmethod(softshrink)


class Softplus(Activation):
    """log(1 + exp(beta * x)) / beta."""

    function, settings = staticmethod(softplus), ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold


class Threshold(Activation):
    """x above the threshold, else a value."""

    function, settings = staticmethod(threshold), ("threshold", "value")

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold, self.value = threshold, value


class GLU(Activation):
    """a * sigmoid(b), a and b the halves along an axis."""

    function, settings = staticmethod(glu), ("dim",)

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim


class Softmax(Activation):
    """exp(x) / sum(exp(x)) along an axis."""

    function, settings = staticmethod(softmax), ("dim",)

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim


class Softmin(Softmax):
    """softmax of -x."""

    function = staticmethod(softmin)


class LogSoftmax(Softmax):
    """log of softmax."""

    function = staticmethod(log_softmax)


class Softmax2d(Module):
    """softmax over the channels of [N, C, H, W] or [C, H, W]."""

    def forward(self, input: TensorLike) -> Tensor:
        x = as_tensor(input)
        if x.ndim not in (3, 4):
            raise ShapeError(f"Softmax2d takes 3 or 4 dimensions, got {x.type}{at(user_origin())}")
        return composites.softmax(x, -3)


class PReLU(Module):
    """x where positive, else weight * x, with a learned slope, or one per channel."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(np.full(num_parameters, init))

    def forward(self, input: TensorLike) -> Tensor:
        return prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class RReLU(RandomModule):
    """Leaky ReLU with random slopes in training, their mean in evaluation."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, input: TensorLike) -> Tensor:
        return rrelu(input, self.lower, self.upper, self.training, key=self.key)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"
