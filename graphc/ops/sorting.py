"""Sorting and searching: two ROUTINE ops, and what is composed of them.

Knows PyTorch's order, in which NaN is the greatest and -0.0 equals 0.0; every sort is stable, so equal elements keep
their order.  Gradients flow through values by the positions that they came from.  Must not know how rows are shared
out, or LLVM.

What would have a size that depends on data (`unique`, `nonzero`) cannot be typed and is refused with a remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2
from typing import Any

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..ir import Node, at, user_origin
from ..op import Kind, Op, Sample, define
from ..tensor import Tensor, TensorLike, apply, as_tensor, constant, public
from ..types import TensorType, count, int64, promote
from . import elementwise as e
from .control import apply_all, results_of
from .indexing import gather, take
from .reductions import require_float, running_extreme, sum_
from .sources import full_like, iota, size_of
from .views import moveaxis, narrow, normal_axis, reshape, squeeze, synonym, unsqueeze

# -- sort ------------------------------------------------------------------------------------------------------------


def _sort_type(x: TensorType, *, descending: bool) -> tuple[TensorType, TensorType]:
    if not x.ndim:
        raise ShapeError("an axis to sort along is needed")
    return x, x.with_dtype(int64)


def _sort_numpy(x: np.ndarray, *, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    if descending:  # backwards twice: equal elements keep their order
        order = x.shape[-1] - 1 - np.flip(np.argsort(np.flip(x, -1), -1, kind="stable"), -1)
    else:
        order = np.argsort(x, -1, kind="stable")
    return np.take_along_axis(x, order, -1), order


def _sort_key(r: Any, x: Any, dtype: str, descending: bool) -> Any:
    """An integer of the element's size whose order is that of the elements."""
    if dtype == "bool":
        key = r.cast(x, "int32")
    elif dtype.startswith("int"):
        key = x
    else:
        highest = np.iinfo(dtype.replace("float", "int")).max
        bits = r.as_int(x)
        bits = r.select(bits == -highest - 1, 0, bits)  # -0.0 equals 0.0
        key = r.select(r.is_nan(x), highest, r.select(bits < 0, bits ^ highest, bits))  # IEEE 754: sign and magnitude
    return ~key if descending else key


def _sort_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType], *,
                  descending: bool) -> None:
    """Merge sort from runs of one element upwards: keys and positions move between two halves of scratch memory."""
    (x,), (values, places) = inputs, outputs
    dtype = types[0].dtype.name
    n = int(types[0].shape[-1])
    kind = "int32" if dtype == "bool" else dtype.replace("float", "int")
    keys, order = r.scratch(kind, 2, n + 1), r.scratch("int64", 2, n + 1)  # one more: a run's end is read, not used

    def fill(i: Any) -> None:
        keys[0, i] = _sort_key(r, x[i], dtype, descending)
        order[0, i] = i

    r.each(0, n, fill)
    width, half = r.variable(1), r.variable(0)
    with r.loop_while(lambda: width.value < n):
        source_keys, source_order = keys.row(half.value), order.row(half.value)
        half.value = 1 - half.value
        target_keys, target_order = keys.row(half.value), order.row(half.value)
        start = r.variable(0)
        with r.loop_while(lambda: start.value < n):
            middle = r.minimum(start.value + width.value, n)
            end = r.minimum(middle + width.value, n)
            left, right = r.variable(start.value), r.variable(middle)
            with r.loop(start.value, end) as k:
                i, j = left.value, right.value
                a, b = source_keys[i], source_keys[j]
                first = (i < middle) & ((j >= end) | (a <= b))
                target_keys[k] = r.select(first, a, b)
                target_order[k] = source_order[r.select(first, i, j)]
                taken = r.cast(first, "int64")
                left.value, right.value = i + taken, j + 1 - taken
            start.value = end
        width.value = width.value + width.value
    final = order.row(half.value)

    def store(i: Any) -> None:
        place = final[i]
        places[i] = place
        values[i] = x[place]

    r.each(0, n, store)


def _sort_gradient(g: Sequence[Tensor | None], out: Node, x: Tensor, *, descending: bool, **_: Any) -> list[Tensor | None]:
    if g[0] is None:
        return [None]
    return [apply("scatter_add", results_of(out)[1], g[0], axis=x.ndim - 1, size=x.shape[-1])]


def _sort_operations(x: TensorType, *, descending: bool) -> int:
    return int(x.size) * (6 + 12 * ceil(log2(max(2, int(x.shape[-1])))))


_sort: Op = define(Op(
    "sort", Kind.ROUTINE, _sort_type, _sort_numpy, _sort_gradient, routine=_sort_routine, operations=_sort_operations,
    samples=(Sample(((3, 7),), {"descending": False}), Sample(((2, 3, 5),), {"descending": True}),
             Sample(((1,),), {"descending": False})),
    dtypes="fib", doc="The last axis in order, and where each element was; stable, NaN greatest."))


def _along(x: TensorLike, axis: Any, kw: dict[str, Any]) -> tuple[Tensor, int]:
    tensor = as_tensor(x)
    axis = synonym(axis, kw, -1)
    if kw:
        raise TypeError(f"unexpected argument {next(iter(kw))!r}{at(user_origin())}")
    return tensor, normal_axis(axis, max(1, tensor.ndim))


@public
def sort(x: TensorLike, axis: int = -1, descending: bool = False, stable: bool = True, **kw: Any
         ) -> tuple[Tensor, Tensor]:
    """(values, indices) in order along an axis: torch.sort.  Always stable; NaN is the greatest."""
    tensor, place = _along(x, axis, kw)
    if not tensor.ndim:
        return tensor, full_like(tensor, 0, int64)
    values, places = apply_all(_sort, moveaxis(tensor, place, -1), descending=bool(descending))
    return moveaxis(values, -1, place), moveaxis(places, -1, place)


@public
def argsort(x: TensorLike, axis: int = -1, descending: bool = False, stable: bool = True, **kw: Any) -> Tensor:
    """The int64 positions that put an axis in order; stable, NaN is the greatest."""
    return sort(x, axis, descending, **kw)[1]


@public
def msort(x: TensorLike) -> Tensor:
    """The values in ascending order along the first axis."""
    return sort(x, 0)[0]


@public
def topk(x: TensorLike, k: int, axis: int = -1, largest: bool = True, sorted: bool = True, **kw: Any
         ) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k greatest (or least) elements along an axis, in order: torch.topk.

    Of equal elements the earlier ones are taken; PyTorch does not say which.
    """
    tensor, place = _along(x, axis, kw)
    values, places = sort(tensor, place, largest)
    if not tensor.ndim:
        return values, places
    size = tensor.shape[place]
    if k < 0 or (isinstance(size, int) and k > size):
        raise ShapeError(f"topk: {k} elements of axis {place} of {tensor.type}{at(user_origin())}")
    return narrow(values, place, 0, k), narrow(places, place, 0, k)


# -- order statistics ------------------------------------------------------------------------------------------------


def _kept(pair: tuple[Tensor, Tensor], place: int, keepdims: bool) -> tuple[Tensor, Tensor]:
    values, places = pair
    return (values, places) if keepdims else (squeeze(values, place), squeeze(places, place))


def _keep(keepdims: bool, kw: dict[str, Any]) -> bool:
    return bool(kw.pop("keepdim", keepdims))


@public
def kthvalue(x: TensorLike, k: int, axis: int = -1, keepdims: bool = False, **kw: Any) -> tuple[Tensor, Tensor]:
    """(value, index) of the k-th least element along an axis, counted from 1: torch.kthvalue."""
    keepdims = _keep(keepdims, kw)
    tensor, place = _along(x, axis, kw)
    if not tensor.ndim:
        return sort(tensor)
    size = tensor.shape[place]
    if k < 1 or (isinstance(size, int) and k > size):
        raise ShapeError(f"kthvalue: element {k} of axis {place} of {tensor.type}, counted from 1{at(user_origin())}")
    values, places = sort(tensor, place)
    return _kept((narrow(values, place, k - 1, 1), narrow(places, place, k - 1, 1)), place, keepdims)


def _middle(tensor: Tensor, place: int, ignore: bool, keepdims: bool) -> tuple[Tensor, Tensor]:
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
    tensor, place = _along(x, -1 if axis is None else axis, kw)
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
    tensor, place = _along(x, -1 if axis is None else axis, kw)
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


# -- searching -------------------------------------------------------------------------------------------------------


def _search_type(ordered: TensorType, values: TensorType, *, right: bool) -> TensorType:
    if ordered.dtype != values.dtype:
        raise DTypeError("the ordered sequence and the values must have one dtype")
    if not ordered.ndim or ordered.shape[:-1] != values.shape[:-1]:
        raise ShapeError("the ordered sequence and the values must agree on every axis but the last")
    return values.with_dtype(int64)


def _search_numpy(ordered: np.ndarray, values: np.ndarray, *, right: bool) -> np.ndarray:
    before, own = ordered[..., None, :], values[..., :, None]
    return (~(before > own if right else before >= own)).sum(-1, dtype=np.int64)


def _search_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType], *, right: bool
                    ) -> None:
    """Binary search with as many rounds for every value: the answer lies in [low, low + size]."""
    (ordered, values), (found,) = inputs, outputs
    n, m = int(types[0].shape[-1]), int(types[1].shape[-1])

    def search(i: Any) -> None:
        value = values[i]
        low = r.variable(0)
        size = n
        while size > 0:
            half = (size + 1) // 2
            probe = ordered[low.value + (half - 1)]
            passed = ~(probe > value if right else probe >= value)
            low.value = low.value + r.select(passed, half, r.constant(0, "int64"))
            size -= half
        found[i] = low.value

    r.each(0, m, search)


_search = define(Op(
    "searchsorted", Kind.ROUTINE, _search_type, _search_numpy, (None, None), routine=_search_routine,
    operations=lambda ordered, values, *, right: int(values.size) * 6 * (1 + ceil(log2(1 + int(ordered.shape[-1])))),
    samples=(Sample((np.array([[1.0, 2.0, 2.0, 5.0], [0.0, 0.0, 1.0, 9.0]]), np.array([[2.0, 0.5, 7.0], [0.0, 9.0, 10.0]])),
                    {"right": False}),
             Sample((np.array([1.0, 2.0, 2.0, 5.0], np.float32), np.array([2.0, 5.0, np.nan], np.float32)),
                    {"right": True}),
             Sample((np.array([1, 2, 2, 5]), np.array([2, 6, 0])), {"right": False}),
             Sample((np.array([1, 2, 5], np.int32), np.array([2, 6, 0], np.int32)), {"right": True})),
    smooth=False, dtypes="fi", doc="How many elements of an ascending last axis lie before each value."))


@public
def searchsorted(ordered: TensorLike, values: TensorLike, right: bool = False, *, side: str | None = None) -> Tensor:
    """int64 places at which values keep an ascending sequence in order: before equal ones, or after them (right).

    ordered   [.., n], ascending along the last axis; 1-d for values of any shape
    values    [.., m] with the same leading axes
    """
    if side is not None:
        right = side == "right"
    sequence, wanted = as_tensor(ordered), as_tensor(values, as_tensor(ordered))
    dtype = promote(sequence.dtype, wanted.dtype)
    sequence, wanted = e.cast(sequence, dtype), e.cast(wanted, dtype)
    shape = wanted.shape
    if sequence.ndim == 1:
        wanted = reshape(wanted, (count(shape),))
    return reshape(apply(_search, sequence, wanted, right=bool(right)), shape)


@public
def bucketize(x: TensorLike, boundaries: TensorLike, *, right: bool = False) -> Tensor:
    """int64 number of the bucket between 1-d boundaries in which each element lies: torch.bucketize."""
    return searchsorted(boundaries, x, right)


# -- running extremes ------------------------------------------------------------------------------------------------


def _running(x: TensorLike, axis: Any, least: bool, kw: dict[str, Any]) -> tuple[Tensor, Tensor]:
    tensor, place = _along(x, axis, kw)
    if not tensor.ndim:
        return tensor, full_like(tensor, 0, int64)
    best = running_extreme(tensor, place, least)
    newest = tensor == best
    if tensor.dtype.is_float:
        newest = newest | e.isnan(tensor)
    position = iota(tensor.shape, place)
    places = running_extreme(e.where(newest, position, 0), place, False)
    return gather(tensor, place, places), places


@public
def cummax(x: TensorLike, axis: int = -1, **kw: Any) -> tuple[Tensor, Tensor]:
    """(values, indices) of the greatest element so far along an axis, the latest of equal ones: torch.cummax."""
    return _running(x, axis, False, kw)


@public
def cummin(x: TensorLike, axis: int = -1, **kw: Any) -> tuple[Tensor, Tensor]:
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

