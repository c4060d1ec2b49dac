"""Ops without inputs: placeholders, parameters, constants, counting.  Must not know what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import Node
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..symbols import Tensor, apply, as_tensor, constant
from ..types import DType, DTypeLike, Shape, Size, TensorType, as_dtype, as_shape, float32, int32, int64

FEW = 4096  # numbers that are looked at one by one

define(Op("input", Kind.SOURCE, lambda *, type, **_: type, doc="A placeholder: an array fed at each call."))
define(Op("parameter", Kind.SOURCE, lambda *, cell: cell.type, doc="The value of a cell before the step."))
define(Op("constant", Kind.SOURCE, lambda *, value: TensorType(as_dtype(value.dtype), value.shape),
          numpy=lambda *, value: value, doc="A fixed array."))


def _iota(*, shape: tuple[int, ...], axis: int, dtype: DType) -> np.ndarray:
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis], dtype=dtype.numpy).reshape(view), shape)


_counting = define(Op(
    "iota", Kind.SOURCE, lambda *, shape, axis, dtype: TensorType(dtype, shape), numpy=_iota,
    samples=(Sample((), {"shape": (3, 4), "axis": 1, "dtype": int64}),), doc="The position along one axis: 0, 1, 2, ..."))


@public
def iota(shape: Any, axis: int = 0, dtype: DTypeLike = "int64") -> Tensor:
    """A tensor whose elements are their own position along `axis`."""
    sizes = as_shape(shape)
    return apply("iota", shape=sizes, axis=axis % max(1, len(sizes)), dtype=as_dtype(dtype))


def as_int32(node: Node, limit: int) -> Node | None:
    """Fixed integers in 32 bits; None of what is not fixed, of open sizes, or where one is not below the limit."""
    if "value" in node.attributes:
        value = node.attributes["value"]
        fits = value.size and value.size <= FEW and int(value.min()) > -limit and int(value.max()) < limit
        return constant(value.astype(np.int32), int32).node if fits else None
    if node.op is not _counting or not all(isinstance(s, int) and s < limit for s in node.shape):
        return None
    return iota(node.shape, node.attributes["axis"], int32).node


@public
def arange(start: Any = 0, stop: Any = None, step: Any = 1, dtype: DTypeLike | None = None) -> Tensor:
    """Evenly spaced values in [start, stop).  The stop may be an open size where start is 0 and step 1."""
    if stop is None:
        start, stop = 0, start
    if not all(isinstance(v, (int, float, np.number)) for v in (start, stop, step)):
        return iota((stop - start,), 0, dtype or int64) + start
    floating = any(isinstance(v, (float, np.floating)) for v in (start, stop, step))
    return constant(np.arange(start, stop, step), dtype or (float32 if floating else int64))


@public
def linspace(start: float, stop: float, steps: int, dtype: DTypeLike = "float32") -> Tensor:
    """`steps` evenly spaced values from start to stop, both included."""
    return constant(np.linspace(start, stop, steps), dtype)


@public
def full(shape: Any, value: Any, dtype: DTypeLike | None = None) -> Tensor:
    """A tensor of one value; sizes may be open."""
    from .views import expand_to  # views build on sources

    scalar = constant(value, dtype) if not isinstance(value, Tensor) else value
    return expand_to(scalar, as_shape(shape))


def shape_and_dtype(size: Sequence[Any], dtype: DTypeLike) -> tuple[Shape, DTypeLike]:
    """What was said before keywords: a shape or its sizes one by one (as in PyTorch), and perhaps a dtype (as in numpy)."""
    if len(size) > 1 and isinstance(size[-1], (str, type, np.dtype, DType)):
        *size, dtype = size
    return as_shape(size[0] if len(size) == 1 else size), dtype


@public
def zeros(*size: Any, dtype: DTypeLike = "float32") -> Tensor:
    """All zeros.  size: a shape, or its sizes one by one."""
    shape, dtype = shape_and_dtype(size, dtype)
    return full(shape, 0, dtype)


@public
def ones(*size: Any, dtype: DTypeLike = "float32") -> Tensor:
    """All ones.  size: a shape, or its sizes one by one."""
    shape, dtype = shape_and_dtype(size, dtype)
    return full(shape, 1, dtype)


@public
def empty(*size: Any, dtype: DTypeLike = "float32") -> Tensor:
    """Zeros, as a constant must hold something.  size: a shape, or its sizes one by one."""
    return zeros(*size, dtype=dtype)


@public
def empty_like(x: Any, dtype: DTypeLike | None = None) -> Tensor:
    """Zeros of the shape and type of x."""
    return zeros_like(x, dtype)


@public
def zeros_like(x: Any, dtype: DTypeLike | None = None) -> Tensor:
    """Zeros of the shape and type of x."""
    tensor = as_tensor(x)
    return full(tensor.shape, 0, dtype or tensor.dtype)


@public
def ones_like(x: Any, dtype: DTypeLike | None = None) -> Tensor:
    """Ones of the shape and type of x."""
    tensor = as_tensor(x)
    return full(tensor.shape, 1, dtype or tensor.dtype)


@public
def full_like(x: Any, value: Any, dtype: DTypeLike | None = None) -> Tensor:
    """One value in the shape and type of x."""
    tensor = as_tensor(x)
    return full(tensor.shape, value, dtype or tensor.dtype)


@public
def eye(n: Size, m: Size | None = None, dtype: DTypeLike = "float32") -> Tensor:
    """Ones on the diagonal."""
    shape: Shape = (n, n if m is None else m)
    return (iota(shape, 0) == iota(shape, 1)).astype(dtype)


def size_of(size: Size, dtype: DTypeLike) -> Tensor:
    """A size as a 0-d tensor; an open one is filled in when the program is specialised."""
    if isinstance(size, int):
        return constant(size, dtype)
    return apply("size", size=size, dtype=as_dtype(dtype))


define(Op("size", Kind.SOURCE, lambda *, size, dtype: TensorType(dtype, ()),
          numpy=lambda *, size, dtype: np.array(size, dtype.numpy),
          samples=(Sample((), {"size": 3, "dtype": float32}),), doc="An open size as a number."))
