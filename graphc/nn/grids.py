"""Sampling images at places that a grid says: spatial transformers (Jaderberg et al., 2015).

Each place reads a few neighbours along each axis, with weights that are products over the axes.  Reading is a gather, so
gradients reach the image by a scatter and the grid through the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.contractions import matmul
from ..ops.indexing import gather
from ..ops.views import expand_to, permute, reshape
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor, constant
from ..types import Size, count, int64
from .resampling import CUBIC

PADDINGS = ("zeros", "border", "reflection")
Tap = tuple[Tensor, "Tensor | None"]  # the position on an axis as a whole number in a float, and its weight


def _limited(place: Tensor, size: int) -> Tensor:
    """Between the first element and the last; at the limits no gradient passes, as in PyTorch."""
    return e.where(place <= 0.0, 0.0, e.where(place >= size - 1.0, size - 1.0, place))


def _reflected(place: Tensor, size: int, align_corners: bool) -> Tensor:
    """Mirrored at the middle of the first and last element, or at their outer edges, as often as it takes."""
    low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
    if span == 0.0:
        return place * 0.0
    away = place - low
    away = e.where(away < 0.0, -away, away)
    times = e.floor(away / span)
    rest = away - times * span
    odd = times - 2.0 * e.floor(times / 2.0)
    return e.where(odd == 0.0, rest, span - rest) + low


def _padded(place: Tensor, size: int, padding: str, align_corners: bool) -> Tensor:
    if padding == "zeros":
        return place
    return _limited(_reflected(place, size, align_corners) if padding == "reflection" else place, size)


def _cubic_weights(part: Tensor) -> list[Tensor]:
    """Of the neighbours at -1, 0, 1, 2 (Keys 1981)."""
    def near(d: Tensor) -> Tensor:
        return ((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC

    return [far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part)]


def _taps(place: Tensor, size: int, mode: str, padding: str, align_corners: bool) -> list[Tap]:
    if mode == "bicubic":
        low = e.floor(place)
        return [(_padded(low + float(offset), size, padding, align_corners), weight)
                for offset, weight in zip((-1, 0, 1, 2), _cubic_weights(place - low), strict=True)]
    place = _padded(place, size, padding, align_corners)
    if mode == "nearest":
        return [(e.round_(place), None)]
    low = e.floor(place)
    return [(low, low + 1.0 - place), (low + 1.0, place - low)]


def grid_sample(input: TensorLike, grid: TensorLike, mode: str = "bilinear", padding_mode: str = "zeros",
                align_corners: bool | None = None) -> Tensor:
    """[N, C, positions...] read at the places of a grid [N, new positions..., 2 or 3]: torch's grid_sample.

    grid           (x, y) or (x, y, z) of each place, in the input's dtype; -1 and 1 are the borders of the image, x along its
                   last axis.  NaN in a grid has no meaning
    mode           bilinear (which of three dimensions is trilinear), nearest, or bicubic (two dimensions)
    padding_mode   what is read outside: zeros, the border, or the image mirrored (reflection)
    align_corners  whether -1 and 1 are the middle of the corner elements, or (False, None) their outer edges

    The result is [N, C, new positions...].  The image's sizes of positions must be known; the others may be open.
    Raises ShapeError, DTypeError or GraphError for what does not fit.
    """
    x, places = as_tensor(input), as_tensor(grid)
    n = x.ndim - 2
    if n not in (2, 3) or places.ndim != x.ndim or places.shape[-1] != n or places.shape[0] != x.shape[0]:
        raise ShapeError(f"grid_sample takes [N, C, H, W] and a grid [N, h, w, 2], or one dimension more of each, got {x.type} "
                         f"and {places.type}{at(user_origin())}")
    if not x.dtype.is_float or places.dtype != x.dtype:
        raise DTypeError(f"grid_sample: image and grid are of one floating dtype, got {x.type} and {places.type}"
                         f"{at(user_origin())}")
    if mode not in ("bilinear", "nearest", *(("bicubic",) if n == 2 else ())) or padding_mode not in PADDINGS:
        raise GraphError(f"grid_sample: mode is bilinear, nearest or (of two dimensions) bicubic, padding_mode one of "
                         f"{', '.join(PADDINGS)}; got {mode!r}, {padding_mode!r} of {x.type}{at(user_origin())}")
    sizes = [s for s in x.shape[2:] if isinstance(s, int)]
    if len(sizes) != n or 0 in sizes:
        raise ShapeError(f"grid_sample: the image's positions must be known and not none, got {x.type}{at(user_origin())}")
    wanted: tuple[Size, ...] = places.shape[1:-1]
    flat = reshape(places, (x.shape[0], 1, count(wanted), n))
    taps = []
    for axis, size in enumerate(sizes):
        said = flat[..., n - 1 - axis]
        place = (said + 1.0) * ((size - 1) / 2.0) if align_corners else ((said + 1.0) * float(size) - 1.0) / 2.0
        taps.append(_taps(place, size, mode, padding_mode, bool(align_corners)))
    image = reshape(x, (*x.shape[:2], count(sizes)))
    total, *others = (_read(image, sizes, chosen) for chosen in product(*taps))
    for part in others:
        total = total + part
    return reshape(total, (*x.shape[:2], *wanted))


def _read(image: Tensor, sizes: Sequence[int], chosen: Sequence[Tap]) -> Tensor:
    """The elements of [N, C, positions] at one neighbour of each place, weighted; 0 outside."""
    index: Any = 0
    inside: Any = None
    weight: Any = None
    for size, (place, own) in zip(sizes, chosen, strict=True):
        within = (place >= 0.0) & (place <= size - 1.0)
        inside = within if inside is None else inside & within
        index = index * size + e.cast(e.clip(place, 0.0, size - 1.0), int64)
        if own is not None:
            weight = own if weight is None else weight * own
    shape = (*image.shape[:2], index.shape[2])
    value = gather(image, 2, expand_to(index, shape))
    return e.where(expand_to(inside, shape), value if weight is None else value * weight, 0.0)


def affine_grid(theta: TensorLike, size: Sequence[Size], align_corners: bool | None = None) -> Tensor:
    """The grid [N, positions..., 2 or 3] of affine maps theta [N, 2, 3] or [N, 3, 4], for `grid_sample`: torch's affine_grid.

    size   of what is sampled: (N, C, H, W), or with one dimension more; positions must be known
    Raises ShapeError or DTypeError for what does not fit.
    """
    maps, sizes = as_tensor(theta), tuple(size)
    n = len(sizes) - 2
    known = [int(s) for s in sizes[2:] if isinstance(s, (int, np.integer))]
    if n not in (2, 3) or maps.shape[1:] != (n, n + 1) or maps.ndim != 3 or len(known) != n or maps.shape[0] != sizes[0]:
        raise ShapeError(f"affine_grid takes [N, 2, 3] and the size (N, C, H, W), or [N, 3, 4] and (N, C, D, H, W), got "
                         f"{maps.type} and {list(sizes)}{at(user_origin())}")
    if not maps.dtype.is_float:
        raise DTypeError(f"affine_grid needs floats, got {maps.type}{at(user_origin())}")
    lines = [np.linspace(-1.0, 1.0, s) * (1.0 if align_corners else (s - 1) / s) if s > 1 else np.zeros(s) for s in known]
    axes = np.meshgrid(*lines, indexing="ij")
    base = np.stack([*reversed(axes), np.ones(known)], -1).reshape(-1, n + 1)  # x, y, (z,) 1 of each place
    return reshape(matmul(constant(base, maps.dtype), permute(maps, (0, 2, 1))), (sizes[0], *known, n))
