"""Everyday functions that arrange tensors: stacking, turning, splitting, differences along an axis.

Knows numpy's and PyTorch's names.  Must not know how anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..methods import FUNCTIONS, public
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor, constant
from ..types import DTypeLike, Size, broadcast_shapes
from . import elementwise as e
from .axes import normal_axis, synonym
from .indexing import one_hot, take_along_axis
from .reductions import any_, sum_
from .shaping import atleast_1d, atleast_2d, concat, split
from .sources import zeros
from .views import expand_to, flatten, flip, moveaxis, narrow, pad_with, permute, reshape, transpose, unsqueeze

# -- joining ---------------------------------------------------------------------------------------------------------


@public
def hstack(tensors: Sequence[TensorLike]) -> Tensor:
    """The tensors side by side: along the second axis, or the only one."""
    parts = [atleast_1d(t) for t in tensors]
    return concat(parts, 0 if parts and parts[0].ndim == 1 else 1)


@public
def vstack(tensors: Sequence[TensorLike]) -> Tensor:
    """The tensors one above the other, vectors as rows."""
    return concat([atleast_2d(t) for t in tensors], 0)


@public
def dstack(tensors: Sequence[TensorLike]) -> Tensor:
    """The tensors along the third axis."""
    return concat([t if t.ndim > 2 else unsqueeze(t, -1) for t in map(atleast_2d, tensors)], 2)


@public
def column_stack(tensors: Sequence[TensorLike]) -> Tensor:
    """The tensors side by side, vectors as columns."""
    return concat([t if t.ndim > 1 else unsqueeze(t, 1) for t in map(atleast_1d, tensors)], 1)


@public
def block_diag(*tensors: TensorLike) -> Tensor:
    """The matrix with these matrices (or rows) on its diagonal."""
    parts = [atleast_2d(t) for t in tensors] or [zeros((1, 0))]
    width: Size = sum((p.shape[1] for p in parts), 0)
    before: Size = 0
    rows: list[Tensor] = []
    for part in parts:
        rows.append(pad_with(part, (0, before), (0, width - before - part.shape[1]), (0, 0)))
        before = before + part.shape[1]
    return concat(rows, 0)


@public
def broadcast_tensors(*tensors: TensorLike) -> list[Tensor]:
    """The tensors, all expanded to their common shape."""
    parts = [as_tensor(t) for t in tensors]
    shape = broadcast_shapes(*(p.shape for p in parts))
    return [expand_to(p, shape) for p in parts]


# -- splitting and turning -------------------------------------------------------------------------------------------


@public
def tensor_split(x: TensorLike, parts: int | Sequence[int], axis: int = 0, **kw: Any) -> list[Tensor]:
    """So many parts whose sizes differ by at most one, or parts that begin at the given places: torch.tensor_split."""
    tensor, axis = as_tensor(x), synonym(axis, kw, 0)
    size = tensor.shape[normal_axis(axis, tensor.ndim)].__index__()
    if isinstance(parts, int):
        if parts < 1:
            raise ShapeError(f"tensor_split: at least one part is needed, got {parts}{at(user_origin())}")
        return split(tensor, [size // parts + (k < size % parts) for k in range(parts)], axis)
    ends = [*(slice(p).indices(size)[1] for p in parts), size]
    return [narrow(tensor, axis, min(a, b), max(0, b - a)) for a, b in zip([0, *ends], ends, strict=False)]


@public
def fliplr(x: TensorLike) -> Tensor:
    """The second axis reversed."""
    return flip(x, 1)


@public
def flipud(x: TensorLike) -> Tensor:
    """The first axis reversed."""
    return flip(x, 0)


@public
def rot90(x: TensorLike, k: int = 1, axes: Sequence[int] = (0, 1), **kw: Any) -> Tensor:
    """Turned by 90 degrees k times, from the first of two axes towards the second."""
    tensor = as_tensor(x)
    first, second = (normal_axis(a, tensor.ndim) for a in synonym(axes, kw, (0, 1), "axes", "dims"))
    if k % 4 == 2:
        return flip(tensor, (first, second))
    turned = transpose(tensor, first, second) if k % 2 else tensor
    return flip(turned, first if k % 4 == 1 else second) if k % 2 else turned


@public
def expand_as(x: TensorLike, other: TensorLike) -> Tensor:
    """x stretched to the shape of another tensor."""
    return expand_to(as_tensor(x), as_tensor(other).shape)


@public
def view_as(x: TensorLike, other: TensorLike) -> Tensor:
    """x in the shape of another tensor."""
    return reshape(x, as_tensor(other).shape)


@public
def t(x: TensorLike) -> Tensor:
    """A matrix with its axes exchanged; vectors and numbers stay what they are."""
    tensor = as_tensor(x)
    if tensor.ndim > 2:
        raise ShapeError(f"t() is of matrices, got {tensor.type}; mT exchanges the last two axes{at(user_origin())}")
    return permute(tensor, tuple(reversed(range(tensor.ndim))))


@public
def ravel(x: TensorLike) -> Tensor:
    """All elements along one axis."""
    return flatten(as_tensor(x))


@public
def numel(x: TensorLike) -> Size:
    """How many elements a tensor has."""
    return as_tensor(x).numel()


@public
def mT(x: TensorLike) -> Tensor:
    """The last two axes exchanged."""
    tensor = as_tensor(x)
    return permute(tensor, (*range(tensor.ndim - 2), tensor.ndim - 1, tensor.ndim - 2))


# -- along an axis ---------------------------------------------------------------------------------------------------


@public
def diff(x: TensorLike, n: int = 1, axis: int = -1, **kw: Any) -> Tensor:
    """Differences of neighbours along an axis, n times over."""
    tensor, axis = as_tensor(x), synonym(axis, kw, -1)
    place = normal_axis(axis, tensor.ndim)
    for _ in range(n):
        size = tensor.shape[place]
        if isinstance(size, int) and size == 0:
            break
        later, earlier = narrow(tensor, place, 1, size - 1), narrow(tensor, place, 0, size - 1)
        tensor = later != earlier if tensor.dtype.is_bool else later - earlier
    return tensor


@public
def trapezoid(y: TensorLike, x: TensorLike | None = None, *, dx: float = 1.0, axis: int = -1, **kw: Any) -> Tensor:
    """The integral of y along an axis by the trapezoidal rule, at places x (of y's shape or 1-d) or dx apart."""
    axis = synonym(axis, kw, -1)
    values = as_tensor(y)
    values = moveaxis(values if values.dtype.is_float else e.cast(values, "float32"), axis, -1)
    n = values.shape[-1]
    total = narrow(values, -1, 1, n - 1) + narrow(values, -1, 0, n - 1)
    if x is None:
        return sum_(total, -1) * (0.5 * dx)
    places = as_tensor(x, values)
    return sum_(total * diff(places if places.ndim == 1 else moveaxis(places, axis, -1)), -1) * 0.5


@public
def take_along_dim(x: TensorLike, index: TensorLike, axis: int | None = None, **kw: Any) -> Tensor:
    """PyTorch's name of take_along_axis; without an axis the tensors are flattened."""
    axis = synonym(axis, kw)
    if axis is None:
        return take_along_axis(reshape(as_tensor(x), -1), reshape(as_tensor(index), -1), 0)
    return take_along_axis(x, index, axis)


@public
def index_fill(x: TensorLike, axis: int, index: TensorLike, value: TensorLike) -> Tensor:
    """x with `value` at the entries of one axis that a 1-d index names."""
    tensor = as_tensor(x)
    place = normal_axis(axis, tensor.ndim)
    named = any_(one_hot(index, tensor.shape[place].__index__(), "bool"), 0)
    return e.where(reshape(named, tuple(-1 if a == place else 1 for a in range(tensor.ndim))), value, tensor)


# -- constants -------------------------------------------------------------------------------------------------------


@public
def logspace(start: float, end: float, steps: int, base: float = 10.0, dtype: DTypeLike = "float32") -> Tensor:
    """`steps` powers of a base, their exponents evenly spaced from start to end."""
    return constant(np.power(base, np.linspace(start, end, steps)), dtype)


@public
def tril_indices(rows: int, columns: int, offset: int = 0) -> Tensor:
    """Rows and columns, int64 [2, count], of a lower triangle."""
    return constant(np.stack(np.tril_indices(rows, offset, columns)).astype(np.int64))


@public
def triu_indices(rows: int, columns: int, offset: int = 0) -> Tensor:
    """Rows and columns, int64 [2, count], of an upper triangle."""
    return constant(np.stack(np.triu_indices(rows, offset, columns)).astype(np.int64))


@public
def bincount(x: TensorLike, weights: TensorLike | None = None, minlength: int = 0) -> Tensor:
    """How often (or with what total weight) each of the numbers 0 .. minlength - 1 occurs in a 1-d tensor.

    The size cannot depend on data, so `minlength` is needed and numbers from it on are not counted.
    """
    if minlength < 1:
        raise GraphError("bincount: the size of its result would depend on data, which a static graph cannot have; give "
                         f"minlength, the size{at(user_origin())}")
    places = as_tensor(x)
    amounts = zeros(places.shape, "int64") + 1 if weights is None else as_tensor(weights)
    return FUNCTIONS["scatter_add"](zeros((minlength,), amounts.dtype), 0, places, amounts)
