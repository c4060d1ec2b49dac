"""Element types, sizes and tensor types.

Knows dtypes, their promotion, and sizes (`sizes`).  Must not know ops or graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Union

import numpy as np

from .errors import DTypeError, GraphError
from .records import record
from .sizes import Dim, Quotient, Shape, Size, as_shape, as_size, broadcast_shapes, count, format_shapes, substitute

__all__ = ["DTYPES", "DType", "DTypeLike", "Dim", "Quotient", "Shape", "Size", "TensorType", "as_dtype", "as_shape", "as_size",
           "bool_", "broadcast_shapes", "count", "float32", "float64", "format_shapes", "greatest", "int32", "int64", "least",
           "promote", "strides_of", "substitute"]


@record(frozen=True, eq=False)
class DType:
    """An element type: one object each.  `short` is its spelling in text (``f32``), `rank` its place in promotion."""

    name: str
    short: str
    itemsize: int
    rank: int

    def __reduce__(self) -> tuple:
        return as_dtype, (self.name,)  # a copy is the same object

    @cached_property
    def numpy(self) -> np.dtype:
        return np.dtype(self.name)

    @property
    def is_float(self) -> bool:
        return self.rank >= 3

    @property
    def is_integer(self) -> bool:
        return self.rank in (1, 2)

    @property
    def is_bool(self) -> bool:
        return self.rank == 0

    @property
    def width(self) -> int:
        """How many float32 lanes of a vector an element takes."""
        return max(1, self.itemsize // 4)

    def __str__(self) -> str:
        return self.short

    def __repr__(self) -> str:
        return f"graphc.{self.name}"


bool_ = DType("bool", "bool", 1, 0)
int32 = DType("int32", "i32", 4, 1)
int64 = DType("int64", "i64", 8, 2)
float32 = DType("float32", "f32", 4, 3)
float64 = DType("float64", "f64", 8, 4)
DTYPES = (bool_, int32, int64, float32, float64)
_BY_NAME = {d.name: d for d in DTYPES} | {d.short: d for d in DTYPES}
_KNOWN: dict[Any, DType] = {float: float32, int: int64, bool: bool_, **{d: d for d in DTYPES}, **_BY_NAME,
                            **{d.numpy: d for d in DTYPES}}  # numpy takes its time over a dtype's name

DTypeLike = Union[DType, str, type, np.dtype]


def as_dtype(like: DTypeLike) -> DType:
    """The DType named by a DType, a name (``"float32"``, ``"f32"``), a numpy dtype, or Python's float, int or bool.

    Python's ``float`` means float32, the default float type, as ``int`` means int64.
    """
    given: Any = like
    try:
        return _KNOWN[given]
    except (KeyError, TypeError):
        pass
    try:
        return _BY_NAME[np.dtype(given).name]
    except (TypeError, KeyError):
        known = ", ".join(d.name for d in DTYPES)
        raise DTypeError(f"unknown dtype {like!r}; graphc has {known}") from None


def promote(a: DType, b: DType) -> DType:
    """The common type of two tensors, by PyTorch's rules: integers and bools never widen a float."""
    return a if a.rank >= b.rank else b


def least(dtype: DType) -> float | int | bool:
    """The smallest value: the neutral element of a maximum."""
    return float("-inf") if dtype.is_float else False if dtype.is_bool else int(np.iinfo(dtype.numpy).min)


def greatest(dtype: DType) -> float | int | bool:
    """The largest value: the neutral element of a minimum."""
    return float("inf") if dtype.is_float else True if dtype.is_bool else int(np.iinfo(dtype.numpy).max)


class TensorType:
    """What a tensor is: element type and shape.  Immutable."""

    __slots__ = ("_size", "dtype", "shape")

    dtype: DType
    shape: Shape

    def __init__(self, dtype: DType, shape: Shape) -> None:
        self.dtype, self.shape = dtype, shape
        self._size: Size | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, TensorType) and self.dtype is other.dtype and self.shape == other.shape)

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape))

    def __repr__(self) -> str:
        return f"TensorType({self.dtype!r}, {self.shape})"

    def __call__(self, *_: Any, **__: Any) -> Any:
        """GraphError: PyTorch's `x.type(dtype)` is another thing."""
        raise GraphError("x.type is what a symbol is, dtype and shape; as another type it is x.astype(dtype) or x.to(dtype)")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Size:
        """The number of elements."""
        if self._size is None:
            self._size = count(self.shape)
        return self._size

    @property
    def is_open(self) -> bool:
        return any(isinstance(s, Dim) for s in self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of a tensor of this type; its sizes must be known."""
        return int(self.size) * self.dtype.itemsize

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, shape)

    def substitute(self, sizes: Mapping[str, int]) -> TensorType:
        return TensorType(self.dtype, tuple(substitute(s, sizes) for s in self.shape)) if self.is_open else self

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@lru_cache(maxsize=256)
def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(range(len(shape))):
        strides[axis] = step
        step *= max(1, shape[axis])
    return tuple(strides)
