"""From any operands to operands of one type: casts and expands that become nodes of the graph.

Knows PyTorch's rule of promotion and the types that elementwise ops have then.  Must not know those ops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DTypeError
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..symbols import Tensor, TensorLike, apply, as_tensor, constant
from ..types import (
    DType,
    DTypeLike,
    TensorType,
    as_dtype,
    bool_,
    broadcast_shapes,
    float32,
    float64,
    int32,
    int64,
    promote,
)
from .views import expand_to


def _numpy_cast(x: np.ndarray, *, dtype: Any) -> np.ndarray:
    """Float to int truncates and saturates, NaN becomes 0, as the native code does; numpy leaves those undefined."""
    if x.dtype.kind == "f" and dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        with np.errstate(invalid="ignore"):
            clean = np.trunc(np.where(np.isnan(x), 0, x).astype(np.float64))
            inside = np.clip(clean, float(limits.min), float(limits.max))
            result = inside.astype(dtype.numpy)
        return np.where(clean >= float(limits.max), limits.max, np.where(clean <= float(limits.min), limits.min, result)
                        ).astype(dtype.numpy)
    with np.errstate(over="ignore"):
        return x.astype(dtype.numpy)


_cast = define(Op("cast", Kind.MAP, lambda x, *, dtype: x.with_dtype(dtype), _numpy_cast,
                  (lambda g, out, x, *, dtype: cast(g, x.dtype),),
                  lambda s, x, *, dtype: s.cast(x, dtype.name), converts=True, dtypes="fib",
                  samples=tuple(Sample(((3, 4),), {"dtype": d}) for d in (float64, float32, int64, int32, bool_)),
                  doc="The same values as another element type; floats truncate toward zero, saturating."))


@public
def cast(x: TensorLike, dtype: DTypeLike) -> Tensor:
    """The same values as another element type; floats truncate toward zero, saturating."""
    tensor, wanted = as_tensor(x), as_dtype(dtype)
    return tensor if tensor.dtype == wanted else apply(_cast, tensor, dtype=wanted)


def common(*operands: TensorLike, floating: bool = False, keep_bool: bool = True) -> list[Tensor]:
    """The operands as tensors of one dtype and one shape: casts and expands become nodes of the graph."""
    if len(operands) == 2:  # most often little needs to be done
        a, b = operands
        if isinstance(a, Tensor) and a.node.dtype.is_float:
            if isinstance(b, (int, float)):
                return [a, expand_to(constant(b, a.node.dtype), a.node.shape)]
            if isinstance(b, Tensor) and b.node.dtype is a.node.dtype:
                if not b.node.shape or b.node.shape == a.node.shape:
                    return [a, expand_to(b, a.node.shape)]
                if not a.node.shape:
                    return [expand_to(a, b.node.shape), b]
        elif isinstance(b, Tensor) and b.node.dtype.is_float and isinstance(a, (int, float)):
            return [expand_to(constant(a, b.node.dtype), b.node.shape), b]
    given = [as_tensor(o) for o in operands if isinstance(o, (Tensor, np.ndarray))]
    like = given[0] if given else None
    for other in given[1:]:
        like = other if like is None or other.dtype.rank > like.dtype.rank else like
    tensors = [as_tensor(o, like) for o in operands]
    dtype = _common_dtype(tensors)
    if floating and not dtype.is_float:
        dtype = float32
    if not keep_bool and dtype.is_bool:
        dtype = int64
    shape = broadcast_shapes(*(t.shape for t in tensors))
    return [expand_to(cast(t, dtype), shape) for t in tensors]


def _category(dtype: DType) -> int:
    return 2 if dtype.is_float else 1 if dtype.is_integer else 0


def _common_dtype(tensors: list[Tensor]) -> DType:
    """PyTorch's rule: a 0-d tensor widens dimensioned ones only where its category (bool, int, float) is higher."""
    dtype: DType | None = tensors[0].dtype if tensors else None
    if all(tensor.dtype is dtype for tensor in tensors):
        return tensors[0].dtype
    dtype = None
    for tensor in sorted(tensors, key=lambda t: t.ndim == 0):
        if dtype is None:
            dtype, from_dimensioned = tensor.dtype, tensor.ndim > 0
        elif tensor.ndim > 0 or not from_dimensioned or _category(tensor.dtype) > _category(dtype):
            dtype = promote(dtype, tensor.dtype)
    assert dtype is not None
    return dtype


def same_types(*types: TensorType, **_: Any) -> TensorType:
    first = types[0]
    if any(t is not first and t != first for t in types):
        raise DTypeError(f"operands of one type are needed, got {', '.join(map(str, types))}")
    return types[0]


def float_types(*types: TensorType, **_: Any) -> TensorType:
    if not types[0].dtype.is_float:
        raise DTypeError(f"floats are needed, got {types[0].dtype.name}")
    return same_types(*types)


def bool_types(*types: TensorType, **_: Any) -> TensorType:
    return same_types(*types).with_dtype(bool_)
