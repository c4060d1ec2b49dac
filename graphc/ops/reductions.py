"""REDUCE ops: folds over axes, and what is composed of them.

Knows each fold's neutral element and how two partial results join.  Must not know in which order or by how many threads
they are joined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..ir import Node
from ..methods import FUNCTIONS, public
from ..op import Fold, Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import DType, Size, TensorType, bool_, count, float32, greatest, int64, least
from . import elementwise as e
from .axes import axis_and_keepdims, normal_axes
from .sources import size_of
from .views import expand_to, flip, pad_with, permute, reshape, slice_


def _drop(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    return x.with_shape(tuple(s for a, s in enumerate(x.shape) if a not in axes))


def _nonempty(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    if any(x.shape[a] == 0 for a in axes):
        raise ShapeError("no elements to choose from: the reduced axis has size 0")
    return _drop(x, axes)


def spread(g: Tensor, axes: tuple[int, ...], shape: tuple[Size, ...]) -> Tensor:
    """A reduced tensor, repeated over the axes that were reduced."""
    return expand_to(reshape(g, tuple(1 if a in axes else s for a, s in enumerate(shape))), shape)


def _fold(identity: Callable[[DType], Any], method: str) -> Fold:
    return Fold(lambda dtype: (identity(dtype),), lambda s, p, q: (getattr(s, method)(p[0], q[0]),))


SUM, PROD = _fold(lambda dtype: 0, "add"), _fold(lambda dtype: 1, "mul")
MAX, MIN = _fold(least, "maximum"), _fold(greatest, "minimum")
SAMPLES = (Sample(((3, 4),), {"axes": (1,)}), Sample(((3, 4),), {"axes": (0,)}), Sample(((2, 3, 4),), {"axes": (0, 2)}),
           Sample(((5,),), {"axes": (0,)}))


def _reduction(name: str, numpy: Callable[..., Any], vjp: Callable[..., Any] | None, fold: Fold, doc: str, *,
               infer: Callable[..., Any] | None = None, dtypes: str = "fi") -> Op:
    return define(Op(name, Kind.REDUCE, infer or (lambda x, *, axes: _drop(x, axes)),
                     lambda x, *, axes: numpy(x, axis=axes), (vjp,), fold=fold, samples=SAMPLES, dtypes=dtypes,
                     smooth=vjp is not None, doc=doc))


def _keep(result: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    return reshape(result, tuple(1 if a in axes else s for a, s in enumerate(x.shape))) if keepdims else result


def _ties(g: Tensor, out: Tensor, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    """The gradient of max and min is shared evenly among equal elements, as PyTorch's amax does."""
    chosen = (x == spread(out, axes, x.shape)).astype(x.dtype)
    return chosen * spread(g / sum_(chosen, axes), axes, x.shape)


def _others(g: Tensor, out: Tensor, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    """The product of all other elements, from products before and after: exact where elements are zero."""
    kept = [a for a in range(x.ndim) if a not in axes]
    flat = reshape(permute(x, (*kept, *axes)), (*(x.shape[a] for a in kept), count(x.shape[a] for a in axes)))
    before = exclusive_prod(flat)
    after = flip(exclusive_prod(flip(flat, -1)), -1)
    spread_out = reshape(before * after, (*(x.shape[a] for a in kept), *(x.shape[a] for a in axes)))
    order = (*kept, *axes)
    back = permute(spread_out, tuple(order.index(a) for a in range(x.ndim)))
    return spread(g, axes, x.shape) * back


def exclusive_prod(x: Tensor) -> Tensor:
    """The product of all elements before each one, along the last axis."""
    rank = x.ndim
    first = (0,) * (rank - 1)
    padded = pad_with(x, (*first, 1), (0,) * rank, (0,) * rank, 1)
    return FUNCTIONS["cumprod"](slice_(padded, (0,) * rank, (1,) * rank, x.shape), rank - 1)


_sum = _reduction("sum", lambda x, axis: np.sum(x, axis=axis, dtype=x.dtype),
                  lambda g, out, x, *, axes: spread(g, axes, x.shape), SUM, "Sum over axes.")
_prod = _reduction("prod", lambda x, axis: np.prod(x, axis=axis, dtype=x.dtype), _others, PROD, "Product over axes.")
_max = _reduction("max", np.max, _ties, MAX, "Greatest element over axes.", infer=lambda x, *, axes: _nonempty(x, axes))
_min = _reduction("min", np.min, _ties, MIN, "Least element over axes.", infer=lambda x, *, axes: _nonempty(x, axes))
_any = _reduction("any", np.any, None, _fold(lambda dtype: False, "or_"), "Whether any element is true.", dtypes="b")
_all = _reduction("all", np.all, None, _fold(lambda dtype: True, "and_"), "Whether all elements are true.", dtypes="b")


def is_sum(node: Node) -> bool:
    """Whether a node adds up over axes."""
    return node.op.fold is SUM and node.op.kind is Kind.REDUCE


def _argfold(better: str, worst: Callable[[DType], Any]) -> Fold:
    """State (value, position): the better value wins, the earlier position among equals; the first NaN beats all."""

    def combine(s: Any, p: tuple, q: tuple) -> tuple:
        take_q = getattr(s, better)(q[0], p[0])
        tie = s.and_(s.eq(q[0], p[0]), s.lt(q[1], p[1]))
        wins = s.or_(take_q, tie)
        p_nan, q_nan = s.ne(p[0], p[0]), s.ne(q[0], q[0])
        wins = s.select(p_nan, s.and_(q_nan, s.lt(q[1], p[1])), s.or_(wins, q_nan))
        return s.select(wins, q[0], p[0]), s.select(wins, q[1], p[1])

    def append(s: Any, p: tuple, q: tuple) -> tuple:
        not_worse = s.le if better == "gt" else s.ge
        wins = s.and_(s.not_(not_worse(q[0], p[0])), s.eq(p[0], p[0]))  # a NaN is never beaten, and beats what is not one
        return s.select(wins, q[0], p[0]), s.select(wins, q[1], p[1])

    # position 0 of nothing: it only wins where all elements are the worst there is, and then the first is the answer
    return Fold(lambda dtype: (worst(dtype), 0), combine,
                lambda s, x, position: (x, position), 1, lambda dtype: (dtype.name, "int64"), append)


def _arg_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(x: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
        kept = [a for a in range(x.ndim) if a not in axes]
        flat = np.transpose(x, (*kept, *axes)).reshape(*(x.shape[a] for a in kept), -1)
        return function(flat, axis=-1).astype(np.int64)

    return evaluate


_ARG: dict[str, Any] = {"infer": lambda x, *, axes: _nonempty(x, axes).with_dtype(int64), "dtypes": "fi",
                        "smooth": False, "samples": SAMPLES}
_argmax = define(Op("argmax", Kind.REDUCE, numpy=_arg_numpy(np.argmax), vjp=(None,), fold=_argfold("gt", least),
                    doc="Position of the first greatest element along the reduced axes, taken row-major.", **_ARG))
_argmin = define(Op("argmin", Kind.REDUCE, numpy=_arg_numpy(np.argmin), vjp=(None,), fold=_argfold("lt", greatest),
                    doc="Position of the first least element along the reduced axes, taken row-major.", **_ARG))


def _over(record: Op, x: Tensor, axis: Any, keepdims: bool, kw: dict[str, Any]) -> Tensor:
    axis, keepdims = axis_and_keepdims(axis, keepdims, kw)
    axes = normal_axes(axis, x.ndim)
    if not axes and x.ndim == 0:
        return _keep(reshape(apply(record, reshape(x, 1), axes=(0,)), ()), x, (), keepdims)
    return _keep(apply(record, x, axes=axes), x, axes, keepdims) if axes else x


def sum_(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Sum over axes (all by default); bools and int32 are summed as int64."""
    tensor = as_tensor(x)
    if not tensor.dtype.is_float:
        tensor = e.cast(tensor, int64)
    return _over(_sum, tensor, axis, keepdims, kw)


def prod_(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Product over axes."""
    tensor = as_tensor(x)
    if not tensor.dtype.is_float:
        tensor = e.cast(tensor, int64)
    return _over(_prod, tensor, axis, keepdims, kw)


def max_(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Greatest element over axes; NaN if there is one.  Ties share the gradient."""
    return _over(_max, as_tensor(x), axis, keepdims, kw)


def min_(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Least element over axes; NaN if there is one.  Ties share the gradient."""
    return _over(_min, as_tensor(x), axis, keepdims, kw)


def any_(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Whether any element is true (not zero)."""
    return _over(_any, e.cast(as_tensor(x), bool_), axis, keepdims, kw)


def all_(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Whether all elements are true (not zero)."""
    return _over(_all, e.cast(as_tensor(x), bool_), axis, keepdims, kw)


for _function in (sum_, prod_, any_, all_):
    _function.__name__ = _function.__qualname__ = _function.__name__.rstrip("_")
    public(_function)


@public
def amax(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Greatest element over axes, the values alone; ties share the gradient."""
    return max_(x, axis, keepdims, **kw)


@public
def amin(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Least element over axes, the values alone; ties share the gradient."""
    return min_(x, axis, keepdims, **kw)


def _position(record: Op, x: Tensor, axis: Any, keepdims: bool, kw: dict[str, Any]) -> Tensor:
    axis, keepdims = axis_and_keepdims(axis, keepdims, kw)
    if x.dtype.is_bool:
        x = e.cast(x, int64)
    axes = normal_axes(axis, x.ndim)
    if x.ndim == 0:
        return e.cast(x * 0, int64)
    if axis is not None and len(axes) != 1:
        raise ShapeError(f"one axis, or None for all, is needed; got {axis}{at(user_origin())}")
    return _keep(apply(record, x, axes=axes), x, axes, keepdims)


@public
def argmax(x: TensorLike, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """int64 position of the first greatest element along an axis, or of the flattened tensor."""
    return _position(_argmax, as_tensor(x), axis, keepdims, kw)


@public
def argmin(x: TensorLike, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """int64 position of the first least element along an axis, or of the flattened tensor."""
    return _position(_argmin, as_tensor(x), axis, keepdims, kw)


# -- composed --------------------------------------------------------------------------------------------------------


def floating(x: TensorLike) -> Tensor:
    tensor = as_tensor(x)
    return tensor if tensor.dtype.is_float else e.cast(tensor, float32)


@public
def mean(x: TensorLike, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """Arithmetic mean over axes; integers give float32."""
    axis, keepdims = axis_and_keepdims(axis, keepdims, kw)
    tensor = floating(x)
    number = count(tensor.shape[a] for a in normal_axes(axis, tensor.ndim))
    total = sum_(tensor, axis, keepdims)
    return total / (float(number) if isinstance(number, int) else size_of(number, tensor.dtype))


@public
def var(x: TensorLike, axis: Any = None, correction: float = 1, keepdims: bool = False, **kw: Any) -> Tensor:
    """Variance over axes, in two passes, divided by n - correction (PyTorch's default of 1)."""
    if isinstance(axis, bool):  # PyTorch's var(x, unbiased)
        axis, kw = None, {**kw, "unbiased": axis}
    if "unbiased" in kw:
        correction = 1 if kw.pop("unbiased") else 0
    axis, keepdims = axis_and_keepdims(axis, keepdims, kw)
    tensor = floating(x)
    number = count(tensor.shape[a] for a in normal_axes(axis, tensor.ndim))
    deviation = tensor - mean(tensor, axis, True)
    divisor = float(number - correction) if isinstance(number, int) else size_of(number, tensor.dtype) - correction
    total = sum_(e.square(deviation), axis, keepdims)
    if isinstance(divisor, float) and divisor <= 0:
        return total * math.nan if divisor == 0 else total / 0.0  # PyTorch: nan at zero degrees of freedom
    return total / divisor


@public
def std(x: TensorLike, axis: Any = None, correction: float = 1, keepdims: bool = False, **kw: Any) -> Tensor:
    """Standard deviation over axes, divided by n - correction (PyTorch's default of 1)."""
    return _root(var(x, axis, correction, keepdims, **kw), 2)


def _root(x: Tensor, p: float) -> Tensor:
    """x to the power 1/p, with gradient 0 at 0 (as PyTorch's std and norm), where it would be infinite."""
    nothing = x == 0
    safe = e.where(nothing, 1.0, x)
    return e.where(nothing, 0.0, e.sqrt(safe) if p == 2 else e.power(safe, 1.0 / p))


@public
def norm(x: TensorLike, p: float | str | None = 2, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """p-norm over axes: (sum |x|^p)^(1/p); p may be inf, -inf, 0 (number of non-zeros) or "fro", which is 2.

    The 2-norm's gradient at 0 is 0, as in PyTorch.
    """
    axis, keepdims = axis_and_keepdims(axis, keepdims, kw)
    tensor = floating(x)
    if p is None or isinstance(p, str):
        if p not in (None, "fro"):
            raise GraphError(f"norm: p is a number, inf, -inf or 'fro', got {p!r}{at(user_origin())}")
        p = 2
    if p == math.inf:
        return max_(e.abs_(tensor), axis, keepdims)
    if p == -math.inf:
        return min_(e.abs_(tensor), axis, keepdims)
    if p == 0:
        return sum_(e.cast(tensor != 0, tensor.dtype), axis, keepdims)
    if p == 1:
        return sum_(e.abs_(tensor), axis, keepdims)
    total = sum_(e.square(tensor) if p == 2 else e.power(e.abs_(tensor), p), axis, keepdims)
    return _root(total, p)


@public
def count_nonzero(x: TensorLike, axis: Any = None) -> Tensor:
    """How many elements are not zero, as int64."""
    return sum_(e.cast(e.cast(as_tensor(x), bool_), int64), axis)


def require_float(x: Tensor, what: str) -> Tensor:
    """x, or a DTypeError that says what needed a float."""
    if not x.dtype.is_float:
        raise DTypeError(f"{what} needs floats, got {x.type}{at(user_origin())}")
    return x
