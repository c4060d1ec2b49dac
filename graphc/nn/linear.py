"""Linear maps and the layers that only reshape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..methods import FUNCTIONS
from ..ops import contractions
from ..ops.axes import normal_axis
from ..ops.contractions import einsum
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike
from . import init
from .module import Module
from .parameter import Parameter


def positive(name: str, **sizes: int) -> None:
    """ShapeError where a layer's size is not a positive integer."""
    for argument, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ShapeError(f"{name}: {argument} must be a positive integer, got {size!r}{at(user_origin())}")


def linear(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """x @ weight.T + bias over the last axis; weight [out, in]."""
    return contractions.linear(input, weight, bias)


def bilinear(input1: TensorLike, input2: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """out_k = x1 @ weight_k @ x2 + bias_k over the last axes; weight [out, in1, in2]."""
    out = einsum("...i,oij,...j->...o", input1, weight, input2)
    return out if bias is None else out + bias


class Identity(Module):
    """Its input, whatever the arguments."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__()

    def forward(self, input: TensorLike) -> Tensor:
        return as_tensor(input)


class Linear(Module):
    """x @ weight.T + bias over the last axis: [..., in_features] -> [..., out_features].

    weight [out_features, in_features] and bias [out_features] start uniform within 1 / sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = int(in_features), int(out_features)
        self.weight = Parameter(np.broadcast_to(0.0, (out_features, in_features)), dtype=dtype)
        self.register_parameter("bias", Parameter(np.zeros(out_features), dtype=dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values anew."""
        init.default_(self.weight, self.bias)

    def forward(self, input: TensorLike) -> Tensor:
        x = as_tensor(input)
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ShapeError(f"Linear: the last axis must have {self.in_features} features, got {x.type}"
                             f"{at(user_origin())}")
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """x1 @ weight @ x2 + bias over the last axes; weight [out, in1, in2]."""

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        positive("Bilinear", in1_features=in1_features, in2_features=in2_features, out_features=out_features)
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        bound = 1 / math.sqrt(in1_features)
        self.weight = init.uniform_(Parameter(np.broadcast_to(0.0, (out_features, in1_features, in2_features)), dtype=dtype),
                                    -bound, bound)
        self.register_parameter("bias", init.uniform_(Parameter(np.zeros(out_features), dtype=dtype), -bound, bound)
                                if bias else None)

    def forward(self, input1: TensorLike, input2: TensorLike) -> Tensor:
        return bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
                f"out_features={self.out_features}, bias={self.bias is not None}")


class Flatten(Module):
    """Joins the axes from start_dim to end_dim; all but the first by default."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: TensorLike) -> Tensor:
        return FUNCTIONS["flatten"](input, self.start_dim, self.end_dim)  # a view, which is remembered

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits one axis into several sizes; one of them may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: TensorLike) -> Tensor:
        x = as_tensor(input)
        return FUNCTIONS["unflatten"](x, normal_axis(self.dim, x.ndim), self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
