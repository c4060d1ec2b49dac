"""Convolutions as layers and functions; what one is, and its gradient, is an op's affair.

conv over [N, C, positions...] with weights [O, C / groups, taps...].  A transposed convolution is the way back through one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops.convolution import convolve, convolve_transposed
from ..ops.views import reshape
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike
from . import init
from .linear import positive
from .module import Module
from .padding import MODES, pad
from .parameter import Parameter

Sizes = Union[int, Sequence[int]]


def repeated(value: Sizes, number: int, what: str) -> tuple[int, ...]:
    """One integer for every spatial axis, from one for all or a sequence."""
    values = (value,) * number if isinstance(value, (int, np.integer)) else tuple(value)
    if len(values) != number or not all(isinstance(v, (int, np.integer)) for v in values):
        raise ShapeError(f"{what}: one integer or {number} are needed, got {value!r}{at(user_origin())}")
    return tuple(int(v) for v in values)


def batched(x: Tensor, spatial: int, name: str) -> tuple[Tensor, bool]:
    """[N, C, ...] from [N, C, ...] or unbatched [C, ...], and whether the batch axis was put in."""
    if x.ndim == spatial + 2:
        return x, False
    if x.ndim == spatial + 1:
        return reshape(x, (1, *x.shape)), True
    raise ShapeError(f"{name} takes {spatial + 1} or {spatial + 2} dimensions, got {x.type}{at(user_origin())}")


def _paddings(padding: Sizes | str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], name: str
              ) -> list[tuple[int, int]]:
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise GraphError(f"{name}: padding 'same' needs stride 1, got {tuple(stride)}{at(user_origin())}")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    if isinstance(padding, str):
        raise GraphError(f"{name}: padding is an amount, 'valid' or 'same', got {padding!r}{at(user_origin())}")
    return [(p, p) for p in repeated(padding, len(kernel), f"{name}: padding")]


def _with_bias(out: Tensor, bias: TensorLike | None, single: bool) -> Tensor:
    if bias is not None:
        b = as_tensor(bias)
        out = out + reshape(b, (b.shape[0], *(1,) * (out.ndim - 2)))
    return reshape(out, out.shape[1:]) if single else out


def _conv(n: int, input: TensorLike, weight: TensorLike, bias: TensorLike | None, stride: Sizes, padding: Sizes | str,
          dilation: Sizes, groups: int) -> Tensor:
    name = f"conv{n}d"
    x, single = batched(as_tensor(input), n, name)
    w = as_tensor(weight)
    if w.ndim != n + 2:
        raise ShapeError(f"{name}: the weight must be [out, in / groups, taps...], got {w.type}{at(user_origin())}")
    channels = w.shape[1] * groups
    if x.shape[1] != channels:
        raise ShapeError(f"{name}: {channels} input channels are needed (weight {w.type}, groups {groups}), got {x.type}"
                         f"{at(user_origin())}")
    kernel = [int(k) for k in w.shape[2:]]
    steps, apart = repeated(stride, n, f"{name}: stride"), repeated(dilation, n, f"{name}: dilation")
    amounts = _paddings(padding, kernel, steps, apart, name)
    return _with_bias(convolve(x, w, tuple(amounts), steps, apart, groups), bias, single)


def conv1d(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """Cross-correlation of [N, C, L] or [C, L] with weight [O, C / groups, K]."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """Cross-correlation of [N, C, H, W] or [C, H, W] with weight [O, C / groups, KH, KW]."""
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """Cross-correlation of [N, C, D, H, W] or [C, D, H, W] with weight [O, C / groups, KD, KH, KW]."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(n: int, input: TensorLike, weight: TensorLike, bias: TensorLike | None, stride: Sizes,
                    padding: Sizes, output_padding: Sizes, groups: int, dilation: Sizes) -> Tensor:
    name = f"conv_transpose{n}d"
    x, single = batched(as_tensor(input), n, name)
    w = as_tensor(weight)
    if w.ndim != n + 2 or x.shape[1] != w.shape[0]:
        raise ShapeError(f"{name}: the weight must be [in, out / groups, taps...], got {w.type} for {x.type}"
                         f"{at(user_origin())}")
    kernel = [int(k) for k in w.shape[2:]]
    steps, apart = repeated(stride, n, f"{name}: stride"), repeated(dilation, n, f"{name}: dilation")
    amounts = repeated(padding, n, f"{name}: padding")
    extra = repeated(output_padding, n, f"{name}: output_padding")
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, apart, strict=True)):
        raise ShapeError(f"{name}: output_padding {extra} must be below stride {steps} or dilation {apart}"
                         f"{at(user_origin())}")
    sizes = [(have - 1) * s + d * (k - 1) + 1 - 2 * p + e
             for have, s, d, k, p, e in zip(x.shape[2:], steps, apart, kernel, amounts, extra, strict=True)]
    around = tuple((p, p - e) for p, e in zip(amounts, extra, strict=True))  # of the convolution whose way back it is
    return _with_bias(convolve_transposed(x, w, sizes, around, steps, apart, groups), bias, single)


def conv_transpose1d(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1) -> Tensor:
    """The gradient of conv1d with respect to its input, as a layer; weight [C, O / groups, K]."""
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1) -> Tensor:
    """The gradient of conv2d with respect to its input, as a layer; weight [C, O / groups, KH, KW]."""
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1) -> Tensor:
    """The gradient of conv3d with respect to its input, as a layer; weight [C, O / groups, KD, KH, KW]."""
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


# -- modules ---------------------------------------------------------------------------------------------------------


class _Convolution(Module):
    spatial = 1
    transposed = False

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes, padding: Sizes | str,
                 dilation: Sizes, groups: int, bias: bool, padding_mode: str, dtype: DTypeLike | None) -> None:
        super().__init__()
        name = type(self).__name__
        positive(name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(f"{name}: {in_channels} and {out_channels} channels do not divide into {groups} groups"
                             f"{at(user_origin())}")
        if padding_mode not in ("zeros", *MODES):
            raise GraphError(f"{name}: padding_mode is zeros, {', '.join(MODES)}, got {padding_mode!r}"
                             f"{at(user_origin())}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = repeated(kernel_size, self.spatial, f"{name}: kernel_size")
        self.stride = repeated(stride, self.spatial, f"{name}: stride")
        self.dilation = repeated(dilation, self.spatial, f"{name}: dilation")
        self.padding = padding if isinstance(padding, str) else repeated(padding, self.spatial, f"{name}: padding")
        self.padding_mode = padding_mode
        channels = (in_channels, out_channels // groups) if self.transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(np.broadcast_to(0.0, (*channels, *self.kernel_size)), dtype=dtype)
        self.register_parameter("bias", Parameter(np.zeros(out_channels), dtype=dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values anew."""
        init.default_(self.weight, self.bias)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding not in ((0,) * self.spatial, "valid"):
            parts.append(f"padding={self.padding!r}")
        if self.dilation != (1,) * self.spatial:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)


class _Conv(_Convolution):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1,
                 padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1, bias: bool = True,
                 padding_mode: str = "zeros", *, dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         dtype)
        self._amounts = _paddings(self.padding, self.kernel_size, self.stride, self.dilation, type(self).__name__)

    def forward(self, input: TensorLike) -> Tensor:
        x: Any = as_tensor(input)
        amounts: Any = self.padding
        if self.padding_mode != "zeros":
            x = pad(x, [p for pair in reversed(self._amounts) for p in pair], self.padding_mode)
            amounts = 0
        return _conv(self.spatial, x, self.weight, self.bias, self.stride, amounts, self.dilation, self.groups)


class Conv1d(_Conv):
    """Cross-correlation of [N, C, L] or [C, L]; weight [out, in / groups, K]."""


class Conv2d(_Conv):
    """Cross-correlation of [N, C, H, W] or [C, H, W]; weight [out, in / groups, KH, KW]."""

    spatial = 2


class Conv3d(_Conv):
    """Cross-correlation of [N, C, D, H, W] or [C, D, H, W]; weight [out, in / groups, KD, KH, KW]."""

    spatial = 3


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes = 0,
                 output_padding: Sizes = 0, groups: int = 1, bias: bool = True, dilation: Sizes = 1,
                 padding_mode: str = "zeros", *, dtype: DTypeLike | None = None, device: Any = None) -> None:
        if padding_mode != "zeros":
            raise GraphError(f"{type(self).__name__}: padding_mode must be 'zeros', got {padding_mode!r}"
                             f"{at(user_origin())}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         dtype)
        self.output_padding = repeated(output_padding, self.spatial, f"{type(self).__name__}: output_padding")
        self._amounts = repeated(padding, self.spatial, f"{type(self).__name__}: padding")

    def forward(self, input: TensorLike, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size` picks one of the sizes that the stride makes possible."""
        x = as_tensor(input)
        extra = self.output_padding if output_size is None else self._extra(x, output_size)
        return _conv_transpose(self.spatial, x, self.weight, self.bias, self.stride, self._amounts, extra,
                               self.groups, self.dilation)

    def _extra(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        wanted = tuple(output_size)[-self.spatial:]
        least = [(int(n) - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in zip(
            x.shape[-self.spatial:], self.stride, self._amounts, self.dilation, self.kernel_size, strict=True)]
        extra = tuple(w - a for w, a in zip(wanted, least, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            raise ShapeError(f"{type(self).__name__}: output_size {wanted} is impossible; the least is {tuple(least)}"
                             f"{at(user_origin())}")
        return extra


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of [N, C, L] or [C, L]; weight [in, out / groups, K]."""


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of [N, C, H, W] or [C, H, W]; weight [in, out / groups, KH, KW]."""

    spatial = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of [N, C, D, H, W] or [C, D, H, W]; weight [in, out / groups, KD, KH, KW]."""

    spatial = 3
