"""Pooling: the maximum or mean of windows, and adaptive forms that choose their windows from the output size.

Where windows overlap, the gradient of a maximum goes to the first of equal elements, as in PyTorch; where they lie side by side
or have more than MOST_TAPS elements along an axis, equal ones share it evenly, as in graphc's `max` (PyTorch's amax).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.contractions import einsum
from ..ops.convolution import windows
from ..ops.overwriting import apart
from ..ops.pooling import Window, window_max, with_rim
from ..ops.reductions import argmax, max_, mean, sum_
from ..ops.shaping import concat
from ..ops.sources import iota
from ..ops.views import narrow, pad_with, reshape
from ..ops.windows import window
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor, constant
from .convolution import Sizes, batched, repeated

LETTERS = "nc" + "xyz"
MOST_TAPS = 16  # elements of a window that are compared one by one


def _geometry(n: int, name: str, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes = 1
              ) -> tuple[tuple[int, ...], ...]:
    kernel = repeated(kernel_size, n, f"{name}: kernel_size")
    steps = kernel if stride is None else repeated(stride, n, f"{name}: stride")
    amounts = repeated(padding, n, f"{name}: padding")
    if any(2 * p > k for p, k in zip(amounts, kernel, strict=True)):
        raise ShapeError(f"{name}: padding {amounts} must be at most half of kernel_size {kernel}{at(user_origin())}")
    return kernel, steps, amounts, repeated(dilation, n, f"{name}: dilation")


def _high(size: Any, kernel: int, step: int, amount: int, apart: int, ceil_mode: bool, name: str) -> int:
    """Padding after an axis: in ceil mode as much more as the last window needs, if it starts inside what there is."""
    if not ceil_mode:
        return amount
    if not isinstance(size, int):
        raise ShapeError(f"{name}: ceil_mode needs fixed sizes, got the open size '{size}'{at(user_origin())}")
    span = apart * (kernel - 1) + 1
    number = -(-(size + 2 * amount - span) // step) + 1
    if (number - 1) * step >= size + amount:
        number -= 1
    return (number - 1) * step + span - size - amount


def _highs(x: Tensor, kernel: Sequence[int], steps: Sequence[int], amounts: Sequence[int], apart: Sequence[int],
           ceil_mode: bool, name: str) -> list[int]:
    return [_high(size, k, s, p, d, ceil_mode, name)
            for size, k, s, p, d in zip(x.shape[2:], kernel, steps, amounts, apart, strict=True)]


def _max_pool(n: int, input: TensorLike, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes,
              ceil_mode: bool, return_indices: bool) -> Any:
    name = f"max_pool{n}d"
    x, single = batched(as_tensor(input), n, name)
    kernel, steps, amounts, apart = _geometry(n, name, kernel_size, stride, padding, dilation)
    highs = _highs(x, kernel, steps, amounts, apart, ceil_mode, name)
    along = [Window(*w) for w in zip(kernel, steps, apart, amounts, highs, strict=True)]
    out = _greatest(x, along)
    result = reshape(out, out.shape[1:]) if single else out
    if not return_indices:
        return result
    seen = windows(with_rim(x, along), kernel, steps, apart)
    offset = argmax(reshape(seen, (*out.shape, math.prod(kernel))), -1)  # within the window, row-major
    flat: Tensor | None = None
    for axis in range(n):
        within = e.remainder(e.floor_divide(offset, math.prod(kernel[axis + 1:])), kernel[axis])
        place = iota(out.shape, axis + 2) * steps[axis] + within * apart[axis] - amounts[axis]
        flat = place if flat is None else flat * x.shape[axis + 2].__index__() + place
    assert flat is not None
    return result, reshape(flat, result.shape)


def _greatest(x: Tensor, seen: Sequence[Window]) -> Tensor:
    """The maximum of windows over the last axes.

    Windows side by side are axes of their own.  Those that overlap are looked at axis by axis, which is less to compare and,
    row by row, the same first of equals.
    """
    if all(w.side_by_side for w in seen):
        apart = windows(with_rim(x, seen), *zip(*((w.size, w.step, w.apart) for w in seen), strict=True))
        return max_(apart, tuple(range(x.ndim, apart.ndim)))
    if all(w.size <= w.step for w in seen) and math.prod(w.size for w in seen) <= MOST_TAPS:
        return window_max(x, seen)
    for axis, w in zip(reversed(range(x.ndim)), reversed(seen), strict=False):
        if w == Window(1):
            continue
        along = [w, *[Window(1)] * (x.ndim - 1 - axis)]
        if w.size <= MOST_TAPS:
            x = window_max(x, along)
        else:
            x = max_(window(with_rim(x, along), axis, w.size, w.step, w.apart), -1)
    return x


def max_pool1d(input: TensorLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The maximum of windows of [N, C, L] or [C, L]."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(input: TensorLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The maximum of windows of [N, C, H, W] or [C, H, W]; with the flat positions where return_indices is set."""
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(input: TensorLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The maximum of windows of [N, C, D, H, W] or [C, D, H, W]."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _window_counts(size: Any, kernel: int, step: int, low: int, high: int, reach: int) -> np.ndarray:
    """For each window of one axis how many of its elements count: those from -reach up to size + reach."""
    starts = np.arange(0, size + low + high - kernel + 1, step) - low
    return np.minimum(starts + kernel, size + reach) - np.maximum(starts, -reach)


def _avg_pool(n: int, input: TensorLike, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, ceil_mode: bool,
              count_include_pad: bool, divisor_override: int | None) -> Tensor:
    name = f"avg_pool{n}d"
    x, single = batched(as_tensor(input), n, name)
    kernel, steps, amounts, apart = _geometry(n, name, kernel_size, stride, padding)
    highs = _highs(x, kernel, steps, amounts, apart, ceil_mode, name)
    grown = pad_with(x, (0, 0, *amounts), (0, 0, *highs), (0,) * x.ndim)
    total = sum_(windows(grown, kernel, steps, apart), tuple(range(n + 2, 2 * n + 2)))
    plain = not any(amounts) and not any(h > 0 for h in highs)
    if divisor_override is not None:
        if divisor_override == 0:
            raise GraphError(f"{name}: divisor_override must not be 0{at(user_origin())}")
        out = total / float(divisor_override)
    elif plain or (count_include_pad and not ceil_mode):
        out = total / float(math.prod(kernel))
    else:
        if not all(isinstance(s, int) for s in x.shape[2:]):
            raise ShapeError(f"{name}: padding that does not count needs fixed sizes, got {x.type}{at(user_origin())}")
        counts = np.ones(())
        for size, k, s, p, h in zip(x.shape[2:], kernel, steps, amounts, highs, strict=True):
            counts = np.multiply.outer(counts, _window_counts(size, k, s, p, h, p if count_include_pad else 0))
        out = total / constant(counts, x.dtype)
    return reshape(out, out.shape[1:]) if single else out


def avg_pool1d(input: TensorLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True) -> Tensor:
    """The mean of windows of [N, C, L] or [C, L]."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(input: TensorLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:
    """The mean of windows of [N, C, H, W] or [C, H, W]."""
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(input: TensorLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:
    """The mean of windows of [N, C, D, H, W] or [C, D, H, W]."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# -- adaptive --------------------------------------------------------------------------------------------------------

OutputSizes = Union[int, None, Sequence[int | None]]


def _adaptive_sizes(x: Tensor, output_size: OutputSizes, n: int, name: str) -> list[int | None]:
    """The new size of each axis that changes, None of others."""
    wanted = [output_size] * n if output_size is None or isinstance(output_size, int) else list(output_size)
    if len(wanted) != n:
        raise ShapeError(f"{name}: one output size or {n} are needed, got {output_size!r}{at(user_origin())}")
    sizes = [s if w is None else w for s, w in zip(x.shape[2:], wanted, strict=True)]
    if any(w not in (1, s) and not isinstance(s, int) for w, s in zip(sizes, x.shape[2:], strict=True)):
        raise ShapeError(f"{name}: an open size pools to 1 only, got {x.type} to {sizes}{at(user_origin())}")
    return [None if w == s else w for w, s in zip(wanted, x.shape[2:], strict=True)]


def _segments(size: int, number: int) -> list[tuple[int, int]]:
    """Start and end of the elements that each of `number` outputs covers."""
    return [(k * size // number, -(-(k + 1) * size // number)) for k in range(number)]


def _adaptive(n: int, input: TensorLike, output_size: OutputSizes, name: str, fold: Callable[..., Tensor],
              uneven: Callable[[Tensor, int, list[tuple[int, int]]], Tensor]) -> Tensor:
    """Each axis folded in segments: `uneven(x, axis, segments)` where these overlap or differ in length."""
    x, single = batched(as_tensor(input), n, name)
    for axis, wanted in enumerate(_adaptive_sizes(x, output_size, n, name), start=2):
        size = x.shape[axis]
        if wanted is None:
            continue
        if wanted == 1:
            x = fold(x, axis, True)
        elif isinstance(size, int) and size % wanted == 0:
            x = fold(reshape(x, (*x.shape[:axis], wanted, size // wanted, *x.shape[axis + 1:])), axis + 1)
        else:
            x = uneven(x, axis, _segments(int(size), wanted))
    return apart(reshape(x, x.shape[1:]) if single else x, input)


def adaptive_average(n: int, input: TensorLike, output_size: OutputSizes) -> Tensor:
    def uneven(x: Tensor, axis: int, segments: list[tuple[int, int]]) -> Tensor:
        table = np.zeros((len(segments), int(x.shape[axis])))  # a small matrix of weights says which elements count
        for k, (start, end) in enumerate(segments):
            table[k, start:end] = 1.0 / (end - start)
        return along_axis(x, table, axis)

    return _adaptive(n, input, output_size, f"adaptive_avg_pool{n}d", mean, uneven)


def along_axis(x: Tensor, table: np.ndarray, axis: int) -> Tensor:
    """One axis contracted with the columns of a matrix [new size, size]."""
    labels = LETTERS[:x.ndim]
    return einsum(f"{labels},o{labels[axis]}->{labels.replace(labels[axis], 'o')}", x, constant(table, x.dtype))


def _adaptive_max(n: int, input: TensorLike, output_size: OutputSizes, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{n}d"
    if return_indices:
        raise GraphError(f"{name}: positions of the maxima are not given; use max_pool{n}d{at(user_origin())}")

    def uneven(x: Tensor, axis: int, segments: list[tuple[int, int]]) -> Tensor:
        return concat([max_(narrow(x, axis, start, end - start), axis, True) for start, end in segments], axis)

    return _adaptive(n, input, output_size, name, max_, uneven)


def adaptive_avg_pool1d(input: TensorLike, output_size: OutputSizes) -> Tensor:
    """Means of as many nearly equal segments as wanted, of [N, C, L] or [C, L]."""
    return adaptive_average(1, input, output_size)


def adaptive_avg_pool2d(input: TensorLike, output_size: OutputSizes) -> Tensor:
    """Means of a grid of nearly equal cells, of [N, C, H, W] or [C, H, W]; None keeps an axis."""
    return adaptive_average(2, input, output_size)


def adaptive_avg_pool3d(input: TensorLike, output_size: OutputSizes) -> Tensor:
    """Means of a grid of nearly equal cells, of [N, C, D, H, W] or [C, D, H, W]."""
    return adaptive_average(3, input, output_size)


def adaptive_max_pool1d(input: TensorLike, output_size: OutputSizes, return_indices: bool = False) -> Any:
    """Maxima of as many nearly equal segments as wanted."""
    return _adaptive_max(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: TensorLike, output_size: OutputSizes, return_indices: bool = False) -> Any:
    """Maxima of a grid of nearly equal cells."""
    return _adaptive_max(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: TensorLike, output_size: OutputSizes, return_indices: bool = False) -> Any:
    """Maxima of a grid of nearly equal cells."""
    return _adaptive_max(3, input, output_size, return_indices)


def lp_pool1d(input: TensorLike, norm_type: float, kernel_size: int, stride: int | None = None,
              ceil_mode: bool = False) -> Tensor:
    """(sum of x^p over windows)^(1/p)."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input: TensorLike, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None,
              ceil_mode: bool = False) -> Tensor:
    """(sum of x^p over windows)^(1/p)."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def _lp_pool(n: int, input: TensorLike, p: float, kernel_size: Sizes, stride: Sizes | None, ceil_mode: bool) -> Tensor:
    powers = e.pow(as_tensor(input), p)
    average = _avg_pool(n, powers, kernel_size, stride, 0, ceil_mode, True, None)
    total = average * float(math.prod(repeated(kernel_size, n, "lp_pool: kernel_size")))
    empty = total == 0  # where the root's slope is infinite; a negative sum has no root and gives NaN
    return e.where(empty, 0.0, e.pow(e.where(empty, 1.0, total), 1.0 / p))
