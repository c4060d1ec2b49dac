"""PREFIX ops: folds along one axis that give every partial result.

Knows each running fold and its gradient.  Must not know in which order or by how many threads partial results are joined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import GraphError
from ..methods import public
from ..op import Fold, Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import int64
from . import elementwise as e
from .axes import normal_axis, synonym
from .reductions import MAX, MIN, PROD, SUM, floating, sum_
from .sources import iota
from .views import expand_to, flip, moveaxis, reshape

SAMPLES = (Sample(((3, 4),), {"axis": 1, "reverse": False}), Sample(((3, 4),), {"axis": 0, "reverse": False}),
                  Sample(((5,),), {"axis": 0, "reverse": True}))


def _cumulative(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def evaluate(x: np.ndarray, *, axis: int, reverse: bool) -> np.ndarray:
        forward = np.flip(x, axis) if reverse else x
        result = function(forward, axis=axis)
        return (np.flip(result, axis) if reverse else result).astype(x.dtype)

    return evaluate


def _prefix(name: str, numpy: Callable[..., np.ndarray], vjp: Callable[..., Any], fold: Fold, doc: str,
            dtypes: str = "fi") -> Op:
    return define(Op(name, Kind.PREFIX, lambda x, *, axis, reverse: x, _cumulative(numpy), (vjp,), fold=fold,
                     samples=SAMPLES, dtypes=dtypes, doc=doc))


_cumsum: Op = _prefix("cumsum", lambda x, axis: np.cumsum(x, axis=axis, dtype=x.dtype),
                  lambda g, out, x, *, axis, reverse: apply(_cumsum, g, axis=axis, reverse=not reverse), SUM,
                  "Running sum along an axis.")


def _cumprod_gradient(g: Tensor, out: Tensor, x: Tensor, *, axis: int, reverse: bool) -> Tensor:
    """d out_j / d x_i = prod over k <= j, k != i, as an [n, n] table along the axis: exact where elements are zero."""
    ordered = flip(x, axis) if reverse else x
    cotangent = flip(g, axis) if reverse else g
    last = moveaxis(ordered, axis, -1)
    size = last.shape[-1]
    shape = (*last.shape, size)  # [..., i, k]: x_k with x_i replaced by 1
    same = iota((size, size), 0) == iota((size, size), 1)
    replaced = e.where(same, 1.0, expand_to(reshape(last, (*last.shape[:-1], 1, size)), shape))
    products = apply(_cumprod, replaced, axis=last.ndim, reverse=False)  # [..., i, j]
    reached = iota((size, size), 0) <= iota((size, size), 1)
    weight = expand_to(reshape(moveaxis(cotangent, axis, -1), (*last.shape[:-1], 1, size)), shape)
    total = moveaxis(sum_(e.where(reached, products * weight, 0.0), -1), -1, axis)
    return flip(total, axis) if reverse else total


_cumprod = _prefix("cumprod", lambda x, axis: np.cumprod(x, axis=axis, dtype=x.dtype), _cumprod_gradient, PROD,
                   "Running product along an axis.")


def _logaddexp(s: Any, p: tuple, q: tuple) -> tuple:
    high, low = s.maximum(p[0], q[0]), s.minimum(p[0], q[0])
    total = s.add(high, s.log1p(s.exp(s.sub(low, high))))
    return (s.select(s.is_inf(high), high, total),)  # -inf + -inf, and +inf, are what they are


def _logcumsumexp_gradient(g: Tensor, out: Tensor, x: Tensor, *, axis: int, reverse: bool) -> Tensor:
    """The sum over j >= i of g_j exp(x_i - out_j), as an [n, n] table along the axis: no exponent is above 0."""
    size = x.shape[axis]
    rows, columns = (moveaxis(t, axis, -1) for t in (x, out))
    shape = (*rows.shape, size)
    lead = rows.shape[:-1]
    row = expand_to(reshape(rows, (*lead, size, 1)), shape)
    column, weight = (expand_to(reshape(t, (*lead, 1, size)), shape) for t in (columns, moveaxis(g, axis, -1)))
    i, j = iota((size, size), 0), iota((size, size), 1)
    counted = (j <= i if reverse else i <= j) & (row > -math.inf)
    share = e.exp(e.where(counted, row - column, -math.inf))
    return moveaxis(sum_(weight * share, -1), -1, axis)


_logcumsumexp = _prefix(
    "logcumsumexp", lambda x, axis: np.logaddexp.accumulate(x, axis=axis),
    _logcumsumexp_gradient,
    Fold(lambda dtype: (-math.inf,), _logaddexp), "log of the running sum of exponentials.", "f")


def _running(name: str, numpy: np.ufunc, fold: Fold, doc: str) -> Op:
    return define(Op(name, Kind.PREFIX, lambda x, *, axis, reverse: x,
                     _cumulative(lambda x, axis: numpy.accumulate(x, axis=axis)), (None,), fold=fold,
                     samples=SAMPLES, dtypes="fi", smooth=False, doc=doc))


_running_max = _running("running_max", np.maximum, MAX, "Greatest element so far; cummax carries the gradient.")
_running_min = _running("running_min", np.minimum, MIN, "Least element so far; cummin carries the gradient.")


def running_extreme(x: Tensor, axis: int, least_: bool) -> Tensor:
    """The least or greatest element so far along an axis, without gradient."""
    return apply(_running_min if least_ else _running_max, x, axis=axis, reverse=False)


def _along(record: Op, x: Tensor, axis: Any, kw: dict[str, Any]) -> Tensor:
    axis = synonym(axis, kw)
    if kw:
        raise TypeError(f"unexpected argument {next(iter(kw))!r}{at(user_origin())}")
    if axis is None:
        if x.ndim > 1:
            raise GraphError(f"{record.name} of a tensor of {x.ndim} dimensions needs an axis{at(user_origin())}")
        axis = 0
    if x.dtype.is_bool or (x.dtype.is_integer and x.dtype != int64):
        x = e.cast(x, int64)
    return apply(record, x, axis=normal_axis(axis, x.ndim), reverse=False) if x.ndim else x


@public
def cumsum(x: TensorLike, axis: int | None = None, **kw: Any) -> Tensor:
    """Running sum along an axis."""
    return _along(_cumsum, as_tensor(x), axis, kw)


@public
def cumprod(x: TensorLike, axis: int | None = None, **kw: Any) -> Tensor:
    """Running product along an axis."""
    return _along(_cumprod, as_tensor(x), axis, kw)


@public
def logcumsumexp(x: TensorLike, axis: int | None = None, **kw: Any) -> Tensor:
    """log of the running sum of exponentials along an axis, without overflow."""
    return _along(_logcumsumexp, floating(x), axis, kw)
