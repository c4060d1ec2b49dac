"""Sorting and searching: three ROUTINE ops and their public functions.

Knows PyTorch's order, in which NaN is the greatest and -0.0 equals 0.0; every sort is stable, so equal elements keep
their order.  Gradients flow through values by the positions that they came from.  Must not know how rows are shared
out, or LLVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2
from typing import Any, NamedTuple

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir import Node
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import TensorType, count, int64, promote
from . import elementwise as e
from .axes import normal_axis, synonym
from .control import apply_all, results_of
from .sources import full_like
from .views import moveaxis, narrow, reshape


class Chosen(NamedTuple):
    """Elements, and the int64 positions that they had along the axis."""

    values: Tensor
    indices: Tensor


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


def _sort_gradient(g: Sequence[Tensor | None], out: Node, x: Tensor, *, descending: bool) -> list[Tensor | None]:
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


# -- the first few ---------------------------------------------------------------------------------------------------

FEW = 64  # of so many elements at most, from four times as many, one pass with a short list beats sorting
BLOCK = 64  # elements that are passed over together where none of them belongs in the list


def _topk_type(x: TensorType, *, k: int, largest: bool) -> tuple[TensorType, TensorType]:
    if not x.ndim or (isinstance(x.shape[-1], int) and k > x.shape[-1]):
        raise ShapeError(f"a last axis of at least {k} elements is needed")
    chosen = x.with_shape((*x.shape[:-1], k))
    return chosen, chosen.with_dtype(int64)


def _topk_numpy(x: np.ndarray, *, k: int, largest: bool) -> tuple[np.ndarray, np.ndarray]:
    values, places = _sort_numpy(x, descending=largest)
    return values[..., :k], places[..., :k]


def _topk_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType], *, k: int, largest: bool
                  ) -> None:
    """A list of the best so far, in order; blocks whose best does not beat the list's last are passed over."""
    (x,), (values, places) = inputs, outputs
    dtype = types[0].dtype.name
    kind = "int32" if dtype == "bool" else dtype.replace("float", "int")
    n = int(types[0].shape[-1])
    best, order = r.scratch(kind, k), r.scratch("int64", k)

    def key(i: Any) -> Any:
        return _sort_key(r, x[i], dtype, not largest)  # the greatest key comes first

    filled = r.variable(0)

    def insert(i: Any) -> None:
        new, at = key(i), r.variable(filled.value)
        with r.when(filled.value == k):
            at.value = at.value - 1  # the last one falls out
        with r.loop_while(lambda: (at.value > 0) & (best[r.maximum(at.value - 1, 0)] < new)):
            best[at.value], order[at.value] = best[at.value - 1], order[at.value - 1]
            at.value = at.value - 1
        best[at.value], order[at.value] = new, i
        filled.value = r.minimum(filled.value + 1, k)

    with r.loop(0, k) as i:
        insert(i)
    with r.loop(k, n, BLOCK) as first:
        end = r.minimum(first + BLOCK, n)
        with r.when(r.greatest(first, end, kind, key) > best[k - 1]), r.loop(first, end) as i, r.when(key(i) > best[k - 1]):
            insert(i)

    def store(i: Any) -> None:
        place = order[i]
        places[i] = place
        values[i] = x[place]

    r.each(0, k, store)


def _topk_gradient(g: Sequence[Tensor | None], out: Node, x: Tensor, *, k: int, largest: bool) -> list[Tensor | None]:
    if g[0] is None:
        return [None]
    return [apply("scatter_add", results_of(out)[1], g[0], axis=x.ndim - 1, size=x.shape[-1])]


_topk: Op = define(Op(
    "topk", Kind.ROUTINE, _topk_type, _topk_numpy, _topk_gradient, routine=_topk_routine,
    operations=lambda x, *, k, largest: 2 * int(x.size) + int(x.size) // max(1, int(x.shape[-1])) * k * 40,
    samples=(Sample(((3, 7),), {"k": 2, "largest": True}), Sample(((2, 3, 5),), {"k": 3, "largest": False})),
    dtypes="fib", doc="The k greatest (or least) elements of the last axis in order, and where each was; earlier ones first."))


def along(x: TensorLike, axis: Any, kw: dict[str, Any]) -> tuple[Tensor, int]:
    """The tensor and a non-negative axis, the last one by default."""
    tensor = as_tensor(x)
    axis = synonym(axis, kw, -1)
    if kw:
        raise TypeError(f"unexpected argument {next(iter(kw))!r}{at(user_origin())}")
    return tensor, normal_axis(axis, max(1, tensor.ndim))


@public
def sort(x: TensorLike, axis: int = -1, descending: bool = False, stable: bool = True, **kw: Any
         ) -> Chosen:
    """(values, indices) in order along an axis: torch.sort.  Always stable; NaN is the greatest."""
    tensor, place = along(x, axis, kw)
    if not tensor.ndim:
        return Chosen(tensor, full_like(tensor, 0, int64))
    values, places = apply_all(_sort, moveaxis(tensor, place, -1), descending=bool(descending))
    return Chosen(moveaxis(values, -1, place), moveaxis(places, -1, place))


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
         ) -> Chosen:
    """(values, indices) of the k greatest (or least) elements along an axis, in order: torch.topk.

    Of equal elements the earlier ones are taken; PyTorch does not say which.
    """
    tensor, place = along(x, axis, kw)
    if not tensor.ndim:
        return sort(tensor)
    size = tensor.shape[place]
    if k < 0 or (isinstance(size, int) and k > size):
        raise ShapeError(f"topk: {k} elements of axis {place} of {tensor.type}{at(user_origin())}")
    if 0 < k <= FEW and isinstance(size, int) and size >= 4 * k:
        values, places = apply_all(_topk, moveaxis(tensor, place, -1), k=int(k), largest=bool(largest))
        return Chosen(moveaxis(values, -1, place), moveaxis(places, -1, place))
    values, places = sort(tensor, place, largest)
    return Chosen(narrow(values, place, 0, k), narrow(places, place, 0, k))


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
