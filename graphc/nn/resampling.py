"""Resizing images: interpolation, and shuffling between channels and positions.

Interpolation along one axis is a contraction with a small matrix of weights (nearest neighbours by a whole factor are
views); axes are resized one after another, which is what bilinear, trilinear and bicubic mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops.indexing import take
from ..ops.overwriting import apart
from ..ops.shaping import repeat_interleave
from ..ops.views import permute, reshape
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from .module import Module
from .pooling import adaptive_average, along_axis

MODES = {"nearest": None, "nearest-exact": None, "linear": 3, "bilinear": 4, "trilinear": 5, "bicubic": 4, "area": None}
CUBIC = -0.75  # the free coefficient of cubic convolution (Keys 1981) that PyTorch uses


def _sources(size: int, number: int, scale: float, align_corners: bool) -> np.ndarray:
    """The position on the old axis of each element of the new one."""
    if align_corners:
        return np.arange(number) * ((size - 1) / (number - 1) if number > 1 else 0.0)
    return (np.arange(number) + 0.5) * scale - 0.5


def _linear_table(size: int, number: int, scale: float, align_corners: bool) -> np.ndarray:
    place = np.maximum(_sources(size, number, scale, align_corners), 0.0)
    low = np.minimum(np.floor(place).astype(int), size - 1)
    part = np.clip(place - low, 0.0, 1.0)
    table = np.zeros((number, size))
    rows = np.arange(number)
    np.add.at(table, (rows, low), 1.0 - part)
    np.add.at(table, (rows, np.minimum(low + 1, size - 1)), part)
    return table


def _cubic_table(size: int, number: int, scale: float, align_corners: bool) -> np.ndarray:
    place = _sources(size, number, scale, align_corners)
    low = np.floor(place).astype(int)
    part = place - low
    table = np.zeros((number, size))
    for offset in (-1, 0, 1, 2):
        d = np.abs(part - offset)
        near = ((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1
        far = ((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC
        np.add.at(table, (np.arange(number), np.clip(low + offset, 0, size - 1)), np.where(d <= 1, near, far))
    return table


def _nearest(x: Tensor, axis: int, size: int, number: int, scale: float, exact: bool) -> Tensor:
    if number % size == 0 and scale == size / number:
        return repeat_interleave(x, number // size, axis)
    place = (np.arange(number) + (0.5 if exact else 0.0)) * scale
    return take(x, np.minimum(np.floor(place).astype(np.int64), size - 1), axis)


def _new_sizes(x: Tensor, size: Any, scale_factor: Any) -> tuple[list[int], list[float | None]]:
    n = x.ndim - 2
    if (size is None) == (scale_factor is None):
        raise GraphError(f"interpolate needs size or scale_factor, and only one of them{at(user_origin())}")
    if not all(isinstance(s, int) for s in x.shape[2:]):
        raise ShapeError(f"interpolate needs fixed sizes of positions, got {x.type}{at(user_origin())}")
    given = size if size is not None else scale_factor
    values = list(given) if isinstance(given, (tuple, list)) else [given] * n
    if len(values) != n:
        raise ShapeError(f"interpolate: {n} values are needed for {x.type}, got {given!r}{at(user_origin())}")
    if size is not None:
        return [int(v) for v in values], [None] * n
    return [math.floor(int(s) * v) for s, v in zip(x.shape[2:], values, strict=True)], [float(v) for v in values]


def interpolate(input: TensorLike, size: int | Sequence[int] | None = None,
                scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
                align_corners: bool | None = None, recompute_scale_factor: bool | None = None) -> Tensor:
    """[N, C, positions...] resized to `size` or by `scale_factor`.

    mode           nearest, nearest-exact, linear (3 dimensions), bilinear, bicubic (4), trilinear (5), or area
    align_corners  whether corner elements keep their place exactly; not for nearest and area
    """
    x = as_tensor(input)
    if mode not in MODES or MODES[mode] not in (None, x.ndim):
        raise GraphError(f"interpolate: mode {mode!r} does not fit {x.type}; modes are {', '.join(MODES)}"
                         f"{at(user_origin())}")
    smooth = mode in ("linear", "bilinear", "trilinear", "bicubic")
    if align_corners is not None and not smooth:
        raise GraphError(f"interpolate: mode {mode!r} takes no align_corners{at(user_origin())}")
    sizes, factors = _new_sizes(x, size, scale_factor)
    if min(sizes) < 1:
        raise ShapeError(f"interpolate: {x.type} would become {sizes}{at(user_origin())}")
    if mode == "area":
        return adaptive_average(x.ndim - 2, x, tuple(sizes))
    for axis, (number, factor) in enumerate(zip(sizes, factors, strict=True), start=2):
        old = int(x.shape[axis])
        # PyTorch keeps the given factor for positions unless told to recompute it from the sizes
        scale = old / number if factor is None or recompute_scale_factor else 1.0 / factor
        if old == number and (scale == 1.0 or align_corners):
            continue
        if smooth:
            table = _cubic_table if mode == "bicubic" else _linear_table
            x = along_axis(x, table(old, number, scale, bool(align_corners)), axis)
        else:
            x = _nearest(x, axis, old, number, scale, mode == "nearest-exact")
    return apart(x, input)


def upsample(input: TensorLike, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
             align_corners: bool | None = None) -> Tensor:
    """Another name of interpolate."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def pixel_shuffle(input: TensorLike, upscale_factor: int) -> Tensor:
    """[..., C r^2, H, W] as [..., C, H r, W r] (Shi et al. 2016)."""
    x, r = as_tensor(input), upscale_factor
    if x.ndim < 3 or r < 1 or (isinstance(x.shape[-3], int) and x.shape[-3] % (r * r)):
        raise ShapeError(f"pixel_shuffle by {r} needs [..., C * {r * r}, H, W], got {x.type}{at(user_origin())}")
    *lead, channels, height, width = x.shape
    k = len(lead)
    split = reshape(x, (*lead, channels // (r * r), r, r, height, width))
    order = (*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return reshape(permute(split, order), (*lead, channels // (r * r), height * r, width * r))


def pixel_unshuffle(input: TensorLike, downscale_factor: int) -> Tensor:
    """[..., C, H r, W r] as [..., C r^2, H, W]: undoes pixel_shuffle."""
    x, r = as_tensor(input), downscale_factor
    if x.ndim < 3 or r < 1 or any(isinstance(s, int) and s % r for s in x.shape[-2:]):
        raise ShapeError(f"pixel_unshuffle by {r} needs [..., C, H * {r}, W * {r}], got {x.type}{at(user_origin())}")
    *lead, channels, height, width = x.shape
    k = len(lead)
    split = reshape(x, (*lead, channels, height // r, r, width // r, r))
    order = (*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return reshape(permute(split, order), (*lead, channels * r * r, height // r, width // r))


def channel_shuffle(input: TensorLike, groups: int) -> Tensor:
    """Channels (axis 1) of `groups` groups taken in turns (Zhang et al. 2018)."""
    x = as_tensor(input)
    if x.ndim < 2 or (isinstance(x.shape[1], int) and x.shape[1] % groups):
        raise ShapeError(f"channel_shuffle: channels of {x.type} do not divide into {groups} groups{at(user_origin())}")
    split = reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    return reshape(permute(split, (0, 2, 1, *range(3, split.ndim))), x.shape)


# -- modules ---------------------------------------------------------------------------------------------------------


class Upsample(Module):
    """[N, C, positions...] resized to a size or by a factor."""

    def __init__(self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: bool | None = None, recompute_scale_factor: bool | None = None) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, input: TensorLike) -> Tensor:
        return interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners,
                           self.recompute_scale_factor)

    def extra_repr(self) -> str:
        amount = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{amount}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Nearest neighbours."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Bilinear with aligned corners."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class PixelShuffle(Module):
    """[..., C r^2, H, W] as [..., C, H r, W r]."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: TensorLike) -> Tensor:
        return pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """[..., C, H r, W r] as [..., C r^2, H, W]."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: TensorLike) -> Tensor:
        return pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Channels of groups taken in turns."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: TensorLike) -> Tensor:
        return channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
