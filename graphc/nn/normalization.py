"""Normalisation: to mean 0 and variance 1 over the batch, the features, groups of channels or single channels.

Running statistics are states: a training step that normalises a batch carries their new values.
Sources: Ioffe & Szegedy 2015, Ba et al. 2016, Wu & He 2018, Ulyanov et al. 2016, Zhang & Sennrich 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.axes import normal_axis
from ..ops.composites import standardize, statistics
from ..ops.control import stop_gradient, updating_each_time
from ..ops.reductions import mean, norm, sum_
from ..ops.sources import size_of
from ..ops.views import pad_with, reshape
from ..ops.windows import window
from ..origins import at, user_origin
from ..symbols import Parameter as Cellular
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike, Size, as_dtype, count, float32
from .linear import positive
from .module import Module
from .parameter import Parameter


def _standardized(x: Tensor, axes: Sequence[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + eps) over axes, with the mean and the biased variance (axes kept, of size 1)."""
    _, center, variance = statistics(x, tuple(axes))
    return standardize(x, tuple(axes), eps), center, variance


def _per_channel(values: TensorLike, rank: int) -> Tensor:
    """One value per channel, shaped to broadcast over [N, C, ...]."""
    tensor = as_tensor(values)
    return reshape(tensor, (tensor.shape[0], *(1,) * (rank - 2)))


def _affine(x: Tensor, weight: TensorLike | None, bias: TensorLike | None) -> Tensor:
    if weight is not None:
        x = x * _per_channel(weight, x.ndim)
    return x if bias is None else x + _per_channel(bias, x.ndim)


def layer_norm(input: TensorLike, normalized_shape: Sequence[int], weight: TensorLike | None = None,
               bias: TensorLike | None = None, eps: float = 1e-5) -> Tensor:
    """Mean 0, variance 1 over the last axes, whose sizes are `normalized_shape`; then * weight + bias."""
    x, sizes = as_tensor(input), tuple(normalized_shape)
    if not sizes or x.shape[-len(sizes):] != sizes:
        raise ShapeError(f"layer_norm: the last axes must be {list(sizes)}, got {x.type}{at(user_origin())}")
    out, _, _ = _standardized(x, range(x.ndim - len(sizes), x.ndim), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def rms_norm(input: TensorLike, normalized_shape: Sequence[int], weight: TensorLike | None = None,
             eps: float | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axes; eps is the dtype's machine epsilon where not given."""
    x, sizes = as_tensor(input), tuple(normalized_shape)
    if not sizes or x.shape[-len(sizes):] != sizes:
        raise ShapeError(f"rms_norm: the last axes must be {list(sizes)}, got {x.type}{at(user_origin())}")
    small = float(np.finfo(x.dtype.numpy).eps) if eps is None else eps
    out = x * e.rsqrt(mean(e.square(x), list(range(x.ndim - len(sizes), x.ndim)), True) + small)
    return out if weight is None else out * weight


def group_norm(input: TensorLike, num_groups: int, weight: TensorLike | None = None, bias: TensorLike | None = None,
               eps: float = 1e-5) -> Tensor:
    """Mean 0, variance 1 over groups of channels of each sample of [N, C, ...]."""
    x = as_tensor(input)
    channels = x.shape[1] if x.ndim > 1 else 0
    if not isinstance(channels, int) or channels == 0 or channels % num_groups:
        raise ShapeError(f"group_norm: axis 1 of {x.type} does not divide into {num_groups} groups{at(user_origin())}")
    grouped = reshape(x, (x.shape[0], num_groups, channels // num_groups, *x.shape[2:]))
    out, _, _ = _standardized(grouped, range(2, grouped.ndim), eps)
    return _affine(reshape(out, x.shape), weight, bias)


def _new_statistics(running_mean: Cellular, running_var: Cellular, center: Tensor, variance: Tensor, number: Size,
                    momentum: float | Tensor) -> dict[Cellular, TensorLike]:
    """The running statistics moved toward the batch's by `momentum`; the variance of them is the unbiased one."""
    n = size_of(number, variance.dtype)
    unbiased = reshape(variance, running_var.shape) * (n / (n - 1.0))
    batch_mean = reshape(center, running_mean.shape)
    moved = ((running_mean, batch_mean), (running_var, unbiased))
    return {state: stop_gradient((1.0 - momentum) * state + momentum * e.cast(of_batch, state.dtype))
            for state, of_batch in moved}


def batch_norm(input: TensorLike, running_mean: TensorLike | None, running_var: TensorLike | None,
               weight: TensorLike | None = None, bias: TensorLike | None = None, training: bool = False,
               momentum: Any = 0.1, eps: float = 1e-5) -> Tensor:
    """Mean 0, variance 1 per channel (axis 1): of the batch in training, by the running statistics otherwise.

    In training, running statistics that are states move toward the batch's by `momentum`, after the step.
    """
    return _batch_norm(as_tensor(input), running_mean, running_var, weight, bias, training, momentum, eps, {})


def _batch_norm(x: Tensor, running_mean: TensorLike | None, running_var: TensorLike | None, weight: TensorLike | None,
                bias: TensorLike | None, training: bool, momentum: Any, eps: float, beside: dict[Cellular, TensorLike]
                ) -> Tensor:
    """The same, with states that get new values along with the statistics."""
    if x.ndim < 2:
        raise ShapeError(f"batch_norm needs [N, C, ...], got {x.type}{at(user_origin())}")
    if not training:
        if running_mean is None or running_var is None:
            raise GraphError(f"batch_norm needs running statistics where training is False{at(user_origin())}")
        center, scale = _per_channel(running_mean, x.ndim), e.rsqrt(as_tensor(running_var) + eps)
        return _affine((x - center) * _per_channel(scale, x.ndim), weight, bias)
    axes = [0, *range(2, x.ndim)]
    number = count(x.shape[a] for a in axes)
    if number == 1:
        raise ShapeError(f"batch_norm: one value per channel has no variance; training needs more, got {x.type}"
                         f"{at(user_origin())}")
    out, center, variance = _standardized(x, axes, eps)
    out = _affine(out, weight, bias)
    if isinstance(running_mean, Cellular) and isinstance(running_var, Cellular):
        new = _new_statistics(running_mean, running_var, center, variance, number, momentum)
        out = updating_each_time(out, {**new, **beside})
    return out


def instance_norm(input: TensorLike, running_mean: TensorLike | None = None, running_var: TensorLike | None = None,
                  weight: TensorLike | None = None, bias: TensorLike | None = None, use_input_stats: bool = True,
                  momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """Mean 0, variance 1 over the positions of each channel of each sample of [N, C, ...]."""
    x = as_tensor(input)
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.ndim < 3:
        raise ShapeError(f"instance_norm needs [N, C, ...], got {x.type}{at(user_origin())}")
    number = count(x.shape[2:])
    if number == 1:
        raise ShapeError(f"instance_norm: one position per channel has no variance, got {x.type}{at(user_origin())}")
    out, center, variance = _standardized(x, range(2, x.ndim), eps)
    out = _affine(out, weight, bias)
    if isinstance(running_mean, Cellular) and isinstance(running_var, Cellular):
        out = updating_each_time(out, _new_statistics(running_mean, running_var, mean(center, 0), mean(variance, 0), number,
                                                      momentum))
    return out


def normalize(input: TensorLike, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(norm, eps) along an axis."""
    x = as_tensor(input)
    return x / e.clip(norm(x, p, normal_axis(dim, x.ndim), True), min=eps)


def local_response_norm(input: TensorLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
                        ) -> Tensor:
    """x / (k + alpha * mean of squares over `size` neighbouring channels) ** beta (Krizhevsky et al. 2012)."""
    x = as_tensor(input)
    low, high = [0] * x.ndim, [0] * x.ndim
    low[1], high[1] = size // 2, (size - 1) // 2
    squares = sum_(window(pad_with(e.square(x), low, high, [0] * x.ndim), 1, size), -1) / float(size)
    return x / e.power(squares * alpha + k, beta)


# -- modules ---------------------------------------------------------------------------------------------------------


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(s) for s in shape)


class LayerNorm(Module):
    """Mean 0, variance 1 over the last axes; weight starts at 1, bias at 0."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, *, dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _sizes(normalized_shape), eps, elementwise_affine
        self.register_parameter("weight", Parameter(np.ones(self.normalized_shape), dtype=dtype)
                                if elementwise_affine else None)
        self.register_parameter("bias", Parameter(np.zeros(self.normalized_shape), dtype=dtype)
                                if elementwise_affine and bias else None)

    def forward(self, input: TensorLike) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) over the last axes, times a weight that starts at 1."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None,
                 elementwise_affine: bool = True, *, dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _sizes(normalized_shape), eps, elementwise_affine
        self.register_parameter("weight", Parameter(np.ones(self.normalized_shape), dtype=dtype)
                                if elementwise_affine else None)

    def forward(self, input: TensorLike) -> Tensor:
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Mean 0, variance 1 over groups of channels of each sample."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *,
                 dtype: DTypeLike | None = None, device: Any = None, bias: bool = True) -> None:
        super().__init__()
        positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ShapeError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups"
                             f"{at(user_origin())}")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.register_parameter("weight", Parameter(np.ones(num_channels), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(num_channels), dtype=dtype) if affine and bias else None)

    def forward(self, input: TensorLike) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class _Tracked(Module):
    """Per-channel weight and bias, and running statistics where they are tracked."""

    ranks: tuple[int, ...] = ()

    def __init__(self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool,
                 dtype: DTypeLike | None, bias: bool) -> None:
        super().__init__()
        positive(type(self).__name__, num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        kind = as_dtype(dtype or float32).numpy
        self.register_parameter("weight", Parameter(np.ones(num_features), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(num_features), dtype=dtype) if affine and bias else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", np.zeros(num_features, kind) if tracked else None)
        self.register_buffer("running_var", np.ones(num_features, kind) if tracked else None)
        self.register_buffer("num_batches_tracked", np.array(0, np.int64) if tracked else None)

    def _checked(self, input: TensorLike) -> Tensor:
        x = as_tensor(input)
        if x.ndim not in self.ranks:
            ranks = " or ".join(map(str, self.ranks))
            raise ShapeError(f"{type(self).__name__} takes {ranks} dimensions, got {x.type}{at(user_origin())}")
        return x

    def reset_running_stats(self) -> None:
        """Statistics as they were at first."""
        if self.running_mean is not None:
            self.running_mean.assign(np.zeros(self.num_features))
            self.running_var.assign(np.ones(self.num_features))
            self.num_batches_tracked.assign(0)

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}")


class _BatchNorm(_Tracked):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, *,
                 dtype: DTypeLike | None = None, device: Any = None, bias: bool = True) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, input: TensorLike) -> Tensor:
        x = self._checked(input)
        if x.shape[1] != self.num_features:
            raise ShapeError(f"{type(self).__name__}: axis 1 must have {self.num_features} channels, got {x.type}"
                             f"{at(user_origin())}")
        if not self.training or self.running_mean is None:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                              self.training or self.running_mean is None, 0.0, self.eps)
        counted = self.num_batches_tracked + 1
        # without a momentum the statistics are plain averages over all batches so far
        momentum = 1.0 / counted.astype(self.running_mean.dtype) if self.momentum is None else self.momentum
        return _batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps,
                           {self.num_batches_tracked: counted})


class BatchNorm1d(_BatchNorm):
    """Mean 0, variance 1 per channel of [N, C] or [N, C, L]."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Mean 0, variance 1 per channel of [N, C, H, W]."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Mean 0, variance 1 per channel of [N, C, D, H, W]."""

    ranks = (5,)


class _InstanceNorm(_Tracked):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
                 track_running_stats: bool = False, *,
                 dtype: DTypeLike | None = None, device: Any = None, bias: bool = True) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, input: TensorLike) -> Tensor:
        x = self._checked(input)
        single = x.ndim == min(self.ranks)
        batch = reshape(x, (1, *x.shape)) if single else x
        if self.affine and batch.shape[1] != self.num_features:
            raise ShapeError(f"{type(self).__name__}: {self.num_features} channels are needed, got {x.type}"
                             f"{at(user_origin())}")
        out = instance_norm(batch, self.running_mean, self.running_var, self.weight, self.bias,
                            self.training or not self.track_running_stats, self.momentum or 0.0, self.eps)
        return reshape(out, x.shape)


class InstanceNorm1d(_InstanceNorm):
    """Mean 0, variance 1 per channel and sample of [N, C, L] or [C, L]."""

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Mean 0, variance 1 per channel and sample of [N, C, H, W] or [C, H, W]."""

    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Mean 0, variance 1 per channel and sample of [N, C, D, H, W] or [C, D, H, W]."""

    ranks = (4, 5)


class LocalResponseNorm(Module):
    """x / (k + alpha * mean of squares over neighbouring channels) ** beta."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: TensorLike) -> Tensor:
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
