"""Medians, modes, quantiles and running extremes: compositions of sorting, folds and gathers, with PyTorch's treatment of NaN.

Gradients flow to the elements that were chosen.  Must not know how anything is sorted.

What would have a size that depends on data (`unique`, `nonzero`) cannot be typed and is refused with a remedy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..methods import public
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, constant
from ..types import int64
from . import elementwise as e
from .axes import synonym
from .indexing import gather, take
from .prefixes import running_extreme
from .reductions import argmax, require_float, sum_
from .sorting import Chosen, along, sort
from .sources import full_like, iota, size_of
from .views import moveaxis, narrow, reshape, squeeze, unsqueeze

# -- order statistics ------------------------------------------------------------------------------------------------


def _kept(pair: tuple[Tensor, Tensor], place: int, keepdims: bool) -> Chosen:
    values, places = pair
    return Chosen(values, places) if keepdims else Chosen(squeeze(values, place), squeeze(places, place))


def _keep(keepdims: bool, kw: dict[str, Any]) -> bool:
    return bool(kw.pop("keepdim", keepdims))


@public
def kthvalue(x: TensorLike, k: int, axis: int = -1, keepdims: bool = False, **kw: Any) -> Chosen:
    """(value, index) of the k-th least element along an axis, counted from 1: torch.kthvalue."""
    keepdims = _keep(keepdims, kw)
    tensor, place = along(x, axis, kw)
    if not tensor.ndim:
        return sort(tensor)
    size = tensor.shape[place]
    if k < 1 or (isinstance(size, int) and k > size):
        raise ShapeError(f"kthvalue: element {k} of axis {place} of {tensor.type}, counted from 1{at(user_origin())}")
    values, places = sort(tensor, place)
    return _kept((narrow(values, place, k - 1, 1), narrow(places, place, k - 1, 1)), place, keepdims)


def _middle(tensor: Tensor, place: int, ignore: bool, keepdims: bool) -> Chosen:
    size = tensor.shape[place]
    if isinstance(size, int) and size == 0:
        raise ShapeError(f"median: no elements along axis {place} of {tensor.type}{at(user_origin())}")
    values, places = sort(tensor, place)
    if not tensor.dtype.is_float:
        middle = (size - 1) // 2
        pair = narrow(values, place, middle, 1), narrow(places, place, middle, 1)
    else:
        numbers = sum_(e.cast(e.logical_not(e.isnan(values)), int64), place, True)  # where the first NaN stands
        middle_number = e.maximum((numbers - 1) // 2, 0)
        if not ignore:
            full = size_of(size, int64)
            middle_number = e.where(numbers < full, numbers, middle_number)
        pair = gather(values, place, middle_number), gather(places, place, middle_number)
    return _kept(pair, place, keepdims)


def _median(x: TensorLike, axis: Any, keepdims: bool, ignore: bool, kw: dict[str, Any]) -> Any:
    keepdims = _keep(keepdims, kw)
    axis = synonym(axis, kw)
    tensor, place = along(x, -1 if axis is None else axis, kw)
    if axis is None:
        return _middle(reshape(tensor, -1), 0, ignore, False)[0]
    return _middle(tensor, place, ignore, keepdims) if tensor.ndim else sort(tensor)


@public
def median(x: TensorLike, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Any:
    """The lower median of all elements, or (values, indices) along an axis; NaN where there is one: torch.median."""
    return _median(x, axis, keepdims, False, kw)


@public
def nanmedian(x: TensorLike, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Any:
    """The lower median of what is not NaN, of all elements, or (values, indices) along an axis."""
    return _median(x, axis, keepdims, True, kw)


@public
def mode(x: TensorLike, axis: int = -1, keepdims: bool = False, **kw: Any) -> Chosen:
    """(values, indices) of what occurs most often along an axis, the least of several, at its last place: torch.mode."""
    keepdims = _keep(keepdims, kw)
    tensor, place = along(x, axis, kw)
    if not tensor.ndim:
        return sort(tensor)
    values, places = (moveaxis(t, place, -1) for t in sort(tensor, place))
    size = values.shape[-1]
    if isinstance(size, int) and size == 0:
        raise ShapeError(f"mode: no elements along axis {place} of {tensor.type}{at(user_origin())}")
    position = iota(values.shape, values.ndim - 1)
    before = take(values, e.maximum(iota((size,), 0) - 1, 0), -1)
    begins = running_extreme(e.where(values != before, position, 0), values.ndim - 1, False)  # where each run of equals does
    end = argmax(position - begins, -1, True)  # of the first of the longest runs
    chosen = (moveaxis(gather(t, -1, end), -1, place) for t in (values, places))
    return _kept((next(chosen), next(chosen)), place, keepdims)


INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


@public
def quantile(x: TensorLike, q: TensorLike, axis: int | None = None, keepdims: bool = False, *,
             interpolation: str = "linear", **kw: Any) -> Tensor:
    """The q-quantiles (0 <= q <= 1) along an axis, or of all elements; NaN where there is one: torch.quantile.

    A 1-d q gives a result with a leading axis of q's size.
    """
    keepdims = _keep(keepdims, kw)
    axis = synonym(axis, kw)
    if interpolation not in INTERPOLATIONS:
        raise GraphError(f"quantile: interpolation is one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}"
                         f"{at(user_origin())}")
    tensor, place = along(x, -1 if axis is None else axis, kw)
    require_float(tensor, "quantile")
    rank = tensor.ndim
    if axis is None or not rank:
        tensor, place = reshape(tensor, -1), 0
    at_q = e.cast(q, tensor.dtype) if isinstance(q, Tensor) else constant(np.asarray(q), tensor.dtype)
    if at_q.ndim > 1:
        raise ShapeError(f"quantile: q is a number or 1-d, got {at_q.type}{at(user_origin())}")
    last = size_of(tensor.shape[place], tensor.dtype) - 1
    values = moveaxis(sort(tensor, place)[0], place, -1)
    rank_of = reshape(at_q, -1) * last
    if interpolation == "nearest":
        rank_of = e.round_(rank_of)
    elif interpolation == "lower":
        rank_of = e.floor(rank_of)
    elif interpolation == "higher":
        rank_of = e.ceil(rank_of)
    below = e.floor(rank_of)
    low = take(values, e.cast(below, int64), -1)
    high = take(values, e.cast(e.ceil(rank_of), int64), -1)
    part = full_like(rank_of, 0.5) if interpolation == "midpoint" else rank_of - below
    result = low + (high - low) * part if interpolation in ("linear", "midpoint") else low
    greatest = narrow(values, -1, values.shape[-1] - 1, 1)
    result = e.where(e.isnan(greatest), greatest, result)
    result = moveaxis(result, -1, 0)  # [q, the other axes]
    if keepdims:
        result = (unsqueeze(result, place + 1) if axis is not None and rank else
                  reshape(result, (result.shape[0], *(1,) * rank)))
    return squeeze(result, 0) if at_q.ndim == 0 else result


# -- running extremes ------------------------------------------------------------------------------------------------


def _running(x: TensorLike, axis: Any, least: bool, kw: dict[str, Any]) -> Chosen:
    tensor, place = along(x, axis, kw)
    if not tensor.ndim:
        return Chosen(tensor, full_like(tensor, 0, int64))
    best = running_extreme(tensor, place, least)
    newest = tensor == best
    if tensor.dtype.is_float:
        newest = newest | e.isnan(tensor)
    position = iota(tensor.shape, place)
    places = running_extreme(e.where(newest, position, 0), place, False)
    return Chosen(gather(tensor, place, places), places)


@public
def cummax(x: TensorLike, axis: int = -1, **kw: Any) -> Chosen:
    """(values, indices) of the greatest element so far along an axis, the latest of equal ones: torch.cummax."""
    return _running(x, axis, False, kw)


@public
def cummin(x: TensorLike, axis: int = -1, **kw: Any) -> Chosen:
    """(values, indices) of the least element so far along an axis, the latest of equal ones: torch.cummin."""
    return _running(x, axis, True, kw)


# -- what cannot be typed --------------------------------------------------------------------------------------------


def _unknown_size(name: str, remedy: str) -> GraphError:
    return GraphError(f"{name}: the size of its result depends on data, which a static graph cannot have; {remedy}"
                      f"{at(user_origin())}")


@public
def unique(x: TensorLike, *_: Any, **__: Any) -> Tensor:
    """Refused: the size of the result depends on data.  `sort` and a comparison of neighbours mark first occurrences."""
    raise _unknown_size("unique", "sort, and compare neighbours to mark the first of each run")


@public
def nonzero(x: TensorLike, *_: Any, **__: Any) -> Tensor:
    """Refused: the size of the result depends on data.  Use the mask itself with `where`, or `topk` of it."""
    raise _unknown_size("nonzero", "use graphc.where with the mask, or topk(mask, k) for at most k positions")


@public
def masked_select(x: TensorLike, *_: Any, **__: Any) -> Tensor:
    """Refused: the size of the result depends on data.  Use `where` to put a neutral value where the mask is false."""
    raise _unknown_size("masked_select", "use graphc.where to put a neutral value where the mask is false")

