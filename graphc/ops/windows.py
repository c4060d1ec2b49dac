"""Windows that slide along an axis: a view that reads elements several times.

Knows how an element of a window maps to an element of its operand, and how windows are added up again.
Must not know buffers or loops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import ShapeError
from ..index import Guard
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import Size, TensorType
from .axes import normal_axis
from .shaping import stack
from .views import Indices, narrow, pad_with, permute, reshape, slice_, squeeze


def number_of_windows(full: Size, size: Size, step: int, dilation: int) -> Size:
    """Of `size` elements, `dilation` apart, every `step` of so many positions.  Raises ShapeError where not even one fits."""
    span = dilation * (size - 1) + 1
    if isinstance(full, int) and isinstance(span, int) and full < span:
        raise ShapeError(f"a window that spans {span} does not fit {full} positions")
    return (full - span) // step + 1


def _window_type(x: TensorType, *, axis: int, size: int, step: int, dilation: int) -> TensorType:
    return x.with_shape((*x.shape[:axis], number_of_windows(x.shape[axis], size, step, dilation), *x.shape[axis + 1:], size))


def _window_numpy(x: np.ndarray, *, axis: int, size: int, step: int, dilation: int) -> np.ndarray:
    every = sliding_window_view(x, dilation * (size - 1) + 1, axis)[..., ::dilation]
    return every[(slice(None),) * axis + (slice(None, None, step),)]


def _window_index(indices: Indices, type: TensorType, *, axis: int, size: int, step: int, dilation: int
                  ) -> tuple[Indices, Guard]:
    *outer, offset = indices
    return tuple(i * step + offset * dilation if a == axis else i for a, i in enumerate(outer)), []


def _unwindow(g: Tensor, out: Tensor, x: Tensor, *, axis: int, size: int, step: int, dilation: int) -> Tensor:
    """The sum over offsets of each offset's elements, spread back to where they came from."""
    total: Tensor | None = None
    full, kept = x.shape[axis], g.shape[axis]
    for offset in range(size):
        part = squeeze(narrow(g, -1, offset, 1), -1)
        low: list[Size] = [0] * x.ndim
        high: list[Size] = [0] * x.ndim
        interior = [0] * x.ndim
        low[axis], interior[axis] = offset * dilation, step - 1
        high[axis] = full - offset * dilation - ((kept - 1) * step + 1)
        part = pad_with(part, low, high, interior)
        total = part if total is None else total + part
    assert total is not None
    return total


_window = define(Op(
    "window", Kind.VIEW, _window_type, _window_numpy, (_unwindow,), index=_window_index,
    samples=(Sample(((7, 2),), {"axis": 0, "size": 3, "step": 2, "dilation": 1}),
             Sample(((2, 8),), {"axis": 1, "size": 2, "step": 1, "dilation": 3})),
    dtypes="fib", doc="Overlapping windows along one axis; the position inside a window becomes the last axis."))


@public
def window(x: TensorLike, axis: int, size: int, step: int = 1, dilation: int = 1) -> Tensor:
    """Windows of `size` elements, `dilation` apart, every `step` elements of an axis; a new last axis indexes them."""
    tensor = as_tensor(x)
    if min(size, step, dilation) < 1:
        raise ShapeError(f"window needs positive size, step and dilation, got {size}, {step}, {dilation}"
                         f"{at(user_origin())}")
    axis = normal_axis(axis, tensor.ndim)
    if step == size and dilation == 1 and isinstance(tensor.shape[axis], int) and tensor.shape[axis] >= size:
        return _side_by_side(tensor, axis, size)
    return apply(_window, tensor, axis=axis, size=size, step=step, dilation=dilation)


def _side_by_side(x: Tensor, axis: int, size: int) -> Tensor:
    """Windows that do not overlap: the axis in two, so that the gradient only puts elements back into their order."""
    number = x.shape[axis] // size
    apart = reshape(narrow(x, axis, 0, number * size), (*x.shape[:axis], number, size, *x.shape[axis + 1:]))
    return permute(apart, (*range(axis + 1), *range(axis + 2, apart.ndim), axis + 1))


def interleaved(phases: Sequence[Tensor], shape: tuple[Size, ...], steps: Sequence[int]) -> Tensor:
    """One tensor of this shape from those of its places in each stride of the last axes, row by row of the places."""
    lead = len(shape) - len(steps)
    for axis in range(len(shape) - 1, lead - 1, -1):
        step = steps[axis - lead]
        if step > 1:
            joined = [stack(phases[i : i + step], axis + 1) for i in range(0, len(phases), step)]
            phases = [reshape(j, (*j.shape[:axis], j.shape[axis] * step, *j.shape[axis + 2:])) for j in joined]
    return slice_(phases[0], (0,) * len(shape), (1,) * len(shape), shape)
