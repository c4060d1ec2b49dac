"""How many elements a symbol has: a number, as numpy's `x.size`, that may be called, as PyTorch's `x.size()`.

Knows shapes.  Must not know symbols.
"""

from __future__ import annotations

from typing import Any, Union

from .errors import ShapeError
from .types import Dim, Shape, count


def of_shape(shape: Shape, dim: int | None) -> Any:
    """The shape, or its size along an axis."""
    if dim is None:
        return shape
    if not -len(shape) <= dim < len(shape):
        raise ShapeError(f"size({dim}) of {len(shape)} dimensions")
    return shape[dim]


class Count(int):
    """A number of elements."""

    shape: Shape

    def __call__(self, dim: int | None = None) -> Any:
        """The shape, or its size along an axis: as PyTorch's `x.size()`."""
        return of_shape(self.shape, dim)


class OpenCount(Dim):
    """A number of elements that is not known until a program is specialised."""

    __slots__ = ("shape",)

    shape: Shape

    def __call__(self, dim: int | None = None) -> Any:
        """The shape, or its size along an axis: as PyTorch's `x.size()`."""
        return of_shape(self.shape, dim)


def count_of(shape: Shape) -> Union[Count, OpenCount]:
    """How many elements something of this shape has."""
    number = count(shape)
    found = OpenCount(dict(number.terms)) if isinstance(number, Dim) else Count(number)
    found.shape = shape
    return found
