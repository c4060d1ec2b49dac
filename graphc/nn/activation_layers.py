"""Activation modules: the functional forms with their arguments kept as attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError
from ..ops.composites import softmax
from ..ops.overwriting import overwritten
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike
from . import activations as functions
from .module import Module
from .parameter import Parameter
from .randomness import RandomModule


class Activation(Module):
    """A module whose forward is one function of its input and of settings kept as attributes.

    With `inplace` the input, where it is a symbol that the program has computed, is the result when it is read again, as in
    PyTorch.  It says nothing about memory: what shares it is the compiler's choice.
    """

    function: Any = None
    settings: tuple[str, ...] = ()
    inplace = False

    def forward(self, input: TensorLike) -> Tensor:
        result = type(self).function(input, **{name: getattr(self, name) for name in self.settings})
        return overwritten(input, result, type(self).__name__) if self.inplace else result

    def extra_repr(self) -> str:
        shown = (*self.settings, "inplace") if self.inplace else self.settings
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)


class _Plain(Activation):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


class ReLU(_Plain):
    """max(x, 0)."""

    function = staticmethod(functions.relu)


class SquareReLU(_Plain):
    """max(x, 0) squared."""

    function = staticmethod(functions.square_relu)


class ReLU6(_Plain):
    """Limited to [0, 6]."""

    function = staticmethod(functions.relu6)


class Sigmoid(_Plain):
    """1 / (1 + exp(-x))."""

    function = staticmethod(functions.sigmoid)


class Tanh(_Plain):
    """Hyperbolic tangent."""

    function = staticmethod(functions.tanh)


class LogSigmoid(_Plain):
    """log(sigmoid(x))."""

    function = staticmethod(functions.logsigmoid)


class SELU(_Plain):
    """Self-normalising ELU."""

    function = staticmethod(functions.selu)


class SiLU(_Plain):
    """x * sigmoid(x)."""

    function = staticmethod(functions.silu)


class Mish(_Plain):
    """x * tanh(softplus(x))."""

    function = staticmethod(functions.mish)


class QuickGELU(_Plain):
    """x * sigmoid(1.702 x)."""

    function = staticmethod(functions.quick_gelu)


class Hardsigmoid(_Plain):
    """relu6(x + 3) / 6."""

    function = staticmethod(functions.hardsigmoid)


class Hardswish(_Plain):
    """x * relu6(x + 3) / 6."""

    function = staticmethod(functions.hardswish)


class Softsign(_Plain):
    """x / (1 + |x|)."""

    function = staticmethod(functions.softsign)


class Tanhshrink(_Plain):
    """x - tanh(x)."""

    function = staticmethod(functions.tanhshrink)


class LeakyReLU(Activation):
    """x where positive, else negative_slope * x."""

    function, settings = staticmethod(functions.leaky_relu), ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace


class ELU(Activation):
    """x where positive, else alpha * (exp(x) - 1)."""

    function, settings = staticmethod(functions.elu), ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha, self.inplace = alpha, inplace


class CELU(ELU):
    """x where positive, else alpha * (exp(x / alpha) - 1)."""

    function = staticmethod(functions.celu)


class GELU(Activation):
    """x * Phi(x), by erf ("none") or "tanh"."""

    function, settings = staticmethod(functions.gelu), ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate


class Hardtanh(Activation):
    """Limited to [min_val, max_val]."""

    function, settings = staticmethod(functions.hardtanh), ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if not min_val < max_val:
            raise ShapeError(f"Hardtanh needs min_val < max_val, got {min_val} and {max_val}{at(user_origin())}")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace


class Hardshrink(Activation):
    """0 within [-lambd, lambd], else x."""

    function, settings = staticmethod(functions.hardshrink), ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd


class Softshrink(Hardshrink):
    """0 within [-lambd, lambd], else x moved toward 0 by lambd."""

    function = staticmethod(functions.softshrink)


class Softplus(Activation):
    """log(1 + exp(beta * x)) / beta."""

    function, settings = staticmethod(functions.softplus), ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold


class Threshold(Activation):
    """x above the threshold, else a value."""

    function, settings = staticmethod(functions.threshold), ("threshold", "value")

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold, self.value, self.inplace = threshold, value, inplace


class GLU(Activation):
    """a * sigmoid(b), a and b the halves along an axis."""

    function, settings = staticmethod(functions.glu), ("dim",)

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim


class Softmax(Activation):
    """exp(x) / sum(exp(x)) along an axis."""

    function, settings = staticmethod(functions.softmax), ("dim",)

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim


class Softmin(Softmax):
    """softmax of -x."""

    function = staticmethod(functions.softmin)


class LogSoftmax(Softmax):
    """log of softmax."""

    function = staticmethod(functions.log_softmax)


class Softmax2d(Module):
    """softmax over the channels of [N, C, H, W] or [C, H, W]."""

    def forward(self, input: TensorLike) -> Tensor:
        x = as_tensor(input)
        if x.ndim not in (3, 4):
            raise ShapeError(f"Softmax2d takes 3 or 4 dimensions, got {x.type}{at(user_origin())}")
        return softmax(x, -3)


class PReLU(Module):
    """x where positive, else weight * x, with a learned slope, or one per channel."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(np.full(num_parameters, init), dtype=dtype)

    def forward(self, input: TensorLike) -> Tensor:
        return functions.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class RReLU(RandomModule):
    """Leaky ReLU with random slopes in training, their mean in evaluation."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def forward(self, input: TensorLike) -> Tensor:
        return functions.rrelu(input, self.lower, self.upper, self.training, self.inplace, key=self.key)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"
