"""GATHER and SCATTER: reading and adding at positions that are data; indexing with brackets.

An index outside the axis reads NaN (0 for integers, False for bools), and what is scattered there is dropped: native
code cannot raise in the middle of a step, and neither can memory be harmed.  Brackets, `take` and `take_along_axis`
wrap negative indices as numpy does; the functions named as PyTorch's do not, as in PyTorch.  With brackets and those
two, an index that is known while the graph is built and lies outside is an error there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor, constant
from ..types import DTypeLike, Shape, Size, TensorType, broadcast_shapes, count, int64
from . import elementwise as e
from .axes import normal_axis
from .sources import iota, size_of
from .views import expand_to, reshape, slice_, unsqueeze


def _gather_type(data: TensorType, index: TensorType, *, axis: int) -> TensorType:
    if index.dtype != int64:
        raise DTypeError(f"the index must be int64, got {index.dtype.name}")
    if data.ndim != index.ndim or any(a != b for k, (a, b) in enumerate(zip(data.shape, index.shape, strict=True))
                                      if k != axis):
        raise ShapeError(f"data and index must agree on every axis but {axis}")
    return data.with_shape(index.shape)


def _missing(dtype: np.dtype) -> Any:
    return dtype.type(np.nan) if dtype.kind == "f" else dtype.type(0)


def _gather_numpy(data: np.ndarray, index: np.ndarray, *, axis: int) -> np.ndarray:
    size = data.shape[axis]
    inside = (index >= 0) & (index < size)
    if size == 0:
        return np.full(index.shape, _missing(data.dtype), data.dtype)
    return np.where(inside, np.take_along_axis(data, np.where(inside, index, 0), axis), _missing(data.dtype))


def _scatter_type(index: TensorType, updates: TensorType, *, axis: int, size: Size) -> TensorType:
    if index.dtype != int64:
        raise DTypeError(f"the index must be int64, got {index.dtype.name}")
    if index.shape != updates.shape:
        raise ShapeError("index and updates must have one shape")
    return updates.with_shape((*updates.shape[:axis], size, *updates.shape[axis + 1:]))


def _scatter_numpy(index: np.ndarray, updates: np.ndarray, *, axis: int, size: int) -> np.ndarray:
    shape = (*updates.shape[:axis], size + 1, *updates.shape[axis + 1:])
    out = np.zeros(shape, updates.dtype)
    places: list[Any] = list(np.indices(index.shape, sparse=True))
    places[axis] = np.where((index >= 0) & (index < size), index, size)  # the last place takes what is dropped
    np.add.at(out, tuple(places), updates)
    return out[(slice(None),) * axis + (slice(0, size),)]


_gather = define(Op(
    "gather", Kind.GATHER, _gather_type, _gather_numpy,
    (lambda g, out, data, index, *, axis: apply(_scatter_add, index, g, axis=axis, size=data.shape[axis]), None),
    samples=(Sample(((5, 3), np.array([[0, 2, 1], [4, 4, 0]])), {"axis": 0}),
             Sample(((2, 4), np.array([[3, 0], [1, 1]])), {"axis": 1})),
    dtypes="fib", doc="Elements picked along one axis; an index outside it reads NaN (integers 0)."))
_scatter_add: Op = define(Op(
    "scatter_add", Kind.SCATTER, _scatter_type, _scatter_numpy,
    (None, lambda g, out, index, updates, *, axis, size: apply(_gather_zero, g, index, axis=axis)),
    samples=(Sample((np.array([[0, 2, 1], [4, 2, 0]]), (2, 3)), {"axis": 0, "size": 5}),
             Sample((np.array([[3, 0], [1, 1]]), (2, 2)), {"axis": 1, "size": 4})),
    dtypes="fi", doc="Zeros to which values are added at given places of one axis; places outside it are dropped."))


def _gather_zero_numpy(data: np.ndarray, index: np.ndarray, *, axis: int) -> np.ndarray:
    inside = (index >= 0) & (index < data.shape[axis])
    return np.where(inside, _gather_numpy(data, index, axis=axis), data.dtype.type(0))


def _gather_zero_expand(data: Tensor, index: Tensor, *, axis: int) -> Tensor:
    inside = (index >= 0) & (index < size_of(data.shape[axis], int64))
    return e.where(inside, apply(_gather, data, index, axis=axis), 0)


_gather_zero: Op = define(Op(
    "gather_or_zero", Kind.COMPOSITE, _gather_type, _gather_zero_numpy,
    (lambda g, out, data, index, *, axis: apply(_scatter_add, index, g, axis=axis, size=data.shape[axis]), None),
    expand=_gather_zero_expand, samples=(Sample(((5, 3), np.array([[0, 2, 1], [4, 4, 0]])), {"axis": 0}),),
    doc="As gather, but an index outside the axis reads 0: the gradient of a scatter."))


def as_index(index: TensorLike) -> Tensor:
    tensor = as_tensor(np.asarray(index) if isinstance(index, (list, tuple)) else index)
    if not tensor.dtype.is_integer:
        remedy = "; use graphc.where to choose by a condition" if tensor.dtype.is_bool else ""
        raise DTypeError(f"an index must be of integers, got {tensor.type}{remedy}{at(user_origin())}")
    return e.cast(tensor, int64)


# -- PyTorch's and numpy's functions ---------------------------------------------------------------------------------


@public
def gather(x: TensorLike, axis: int, index: TensorLike) -> Tensor:
    """out[i][j] = x[index[i][j]][j] for axis 0, and so on: torch.gather; the index may be smaller on other axes."""
    data, places = as_tensor(x), as_index(index)
    if data.ndim != places.ndim:
        raise ShapeError(f"gather: data and index need one number of dimensions: {data.type}, {places.type}"
                         f"{at(user_origin())}")
    place = normal_axis(axis, data.ndim)
    sizes = tuple(data.shape[a] if a == place else s for a, s in enumerate(places.shape))
    if any(isinstance(s, int) and isinstance(d, int) and s > d for s, d in zip(sizes, data.shape, strict=True)):
        raise ShapeError(f"gather: the index is larger than the data: {data.type}, {places.type}{at(user_origin())}")
    return apply(_gather, slice_(data, (0,) * data.ndim, (1,) * data.ndim, sizes), places, axis=place)


@public
def take_along_axis(x: TensorLike, index: TensorLike, axis: int) -> Tensor:
    """numpy's name of gather; other axes of data and index broadcast."""
    data = as_tensor(x)
    place = normal_axis(axis, data.ndim)
    places = wrapped(as_index(index), data, place)
    rest = broadcast_shapes(*((*t.shape[:place], 1, *t.shape[place + 1:]) for t in (data, places)))

    def grown(t: Tensor) -> Tensor:
        return expand_to(t, tuple(t.shape[a] if a == place else s for a, s in enumerate(rest)))

    return apply(_gather, grown(data), grown(places), axis=place)


@public
def take(x: TensorLike, index: TensorLike, axis: int | None = None) -> Tensor:
    """Entries of one axis (of the flattened tensor for None) at an index of any shape, as numpy.take."""
    data = as_tensor(x)
    if axis is None:
        data, axis = reshape(data, -1), 0
    place = normal_axis(axis, data.ndim)
    return entries(data, wrapped(as_index(index), data, place), place)


def entries(data: Tensor, places: Tensor, place: int) -> Tensor:
    """Entries of one axis at an index of any shape, whose axes take that axis' place."""
    flat = reshape(places, (count(places.shape),))
    shape = (*data.shape[:place], flat.shape[0], *data.shape[place + 1:])
    spread = expand_to(reshape(flat, tuple(flat.shape[0] if a == place else 1 for a in range(data.ndim))), shape)
    picked = apply(_gather, data, spread, axis=place)
    return reshape(picked, (*data.shape[:place], *places.shape, *data.shape[place + 1:]))


@public
def index_select(x: TensorLike, axis: int, index: TensorLike) -> Tensor:
    """Entries of one axis at a 1-d index: torch.index_select."""
    data, places = as_tensor(x), as_index(index)
    if places.ndim > 1:
        raise ShapeError(f"index_select needs a 1-d index, got {places.type}{at(user_origin())}")
    return entries(data, reshape(places, -1), normal_axis(axis, data.ndim))


@public
def embedding(weight: TensorLike, index: TensorLike, padding_idx: int | None = None) -> Tensor:
    """Rows of `weight` [entries, features] at an index of any shape; the row `padding_idx` gets no gradient."""
    table = as_tensor(weight)
    if padding_idx is not None:
        from .control import stop_gradient

        entry = padding_idx % int(table.shape[0]) if isinstance(table.shape[0], int) else padding_idx
        row = iota((table.shape[0], 1), 0) == entry
        table = e.where(row, stop_gradient(table), table)
    return entries(table, as_index(index), 0)


def _like_data(x: TensorLike, index: TensorLike, src: TensorLike, axis: int) -> tuple[Tensor, Tensor, Tensor, int]:
    data, places = as_tensor(x), as_index(index)
    values = as_tensor(src, data)
    values = expand_to(values, places.shape) if values.ndim == 0 else values
    place = normal_axis(axis, data.ndim)
    values = slice_(values, (0,) * values.ndim, (1,) * values.ndim, places.shape)
    return data, places, e.cast(values, data.dtype), place


def _grown(scattered: Tensor, data: Tensor) -> Tensor:
    """The scattered tensor at the size of data: axes that the index did not cover are zero."""
    from .views import pad_with

    high = tuple(a - b for a, b in zip(data.shape, scattered.shape, strict=True))
    return pad_with(scattered, (0,) * data.ndim, high, (0,) * data.ndim)


@public
def scatter_add(x: TensorLike, axis: int, index: TensorLike, src: TensorLike) -> Tensor:
    """x with src added at index along an axis; duplicates add up: torch.scatter_add."""
    data, places, values, place = _like_data(x, index, src, axis)
    return data + _grown(apply(_scatter_add, places, values, axis=place, size=data.shape[place]), data)


@public
def scatter(x: TensorLike, axis: int, index: TensorLike, src: TensorLike) -> Tensor:
    """x with src written at index along an axis: torch.scatter; of duplicates the last one stays."""
    if as_tensor(x).dtype.is_bool:
        return e.cast(scatter(e.cast(x, int64), axis, index, e.cast(src, int64)), "bool")
    data, places, values, place = _like_data(x, index, src, axis)
    size = data.shape[place]
    n = places.shape[place]
    order = iota(places.shape, place) + 1  # which of several writes to one place comes last
    same = unsqueeze(places, place + 1) == unsqueeze(places, place)  # [.., i, j, ..]: writes i and j meet
    later = e.where(same, unsqueeze(order, place), 0)
    from .reductions import max_

    last = max_(later, place + 1) == order if not isinstance(n, int) or n > 1 else order == order
    kept = e.where(last, values, 0)
    hits = apply(_scatter_add, places, e.cast(last, int64), axis=place, size=size)
    written = apply(_scatter_add, places, kept, axis=place, size=size)
    return e.where(_grown(hits, data) > 0, _grown(written, data), data)


@public
def index_add(x: TensorLike, axis: int, index: TensorLike, source: TensorLike, alpha: float = 1) -> Tensor:
    """x with alpha * source added at the entries of one axis that a 1-d index names: torch.index_add."""
    data, places, values = as_tensor(x), as_index(index), as_tensor(source)
    place = normal_axis(axis, data.ndim)
    spread = expand_to(reshape(places, tuple(-1 if a == place else 1 for a in range(data.ndim))), values.shape)
    return data + apply(_scatter_add, spread, values * alpha if alpha != 1 else values, axis=place,
                        size=data.shape[place])


@public
def one_hot(index: TensorLike, num_classes: int = -1, dtype: DTypeLike = "int64") -> Tensor:
    """1 at each index along a new last axis of `num_classes`, 0 elsewhere (all 0 for an index outside).

    num_classes   may be left out, or -1, where the index is known while the graph is built: one more than the greatest
    """
    places = as_index(index)
    if isinstance(num_classes, (int, np.integer)) and num_classes < 1:
        known = places.node.attributes.get("value")
        if num_classes != -1 or known is None or not known.size:
            raise ShapeError(f"one_hot: how many classes there are cannot depend on data, as shapes are known beforehand: say "
                             f"num_classes=...; got {num_classes} and {places.type}{at(user_origin())}")
        num_classes = int(known.max()) + 1
    shape: Shape = (*places.shape, num_classes)
    return e.cast(expand_to(unsqueeze(places, -1), shape) == iota(shape, len(shape) - 1), dtype)


def wrapped(places: Tensor, x: Tensor, axis: int) -> Tensor:
    """The index with negative values counted from the end."""
    size, known = x.shape[axis], places.node.attributes.get("value")
    if known is not None and isinstance(size, int):
        outside = known[(known < -size) | (known >= size)]
        if outside.size:
            raise ShapeError(f"index {outside[0]} is outside axis {axis} of {x.type}{at(user_origin())}")
        return constant(np.where(known < 0, known + size, known))
    return e.where(places < 0, places + size_of(size, int64), places)
