"""Axes as users give them: negative ones, several, under PyTorch's names.

Knows numbers and keywords.  Must not know tensors.
"""

from __future__ import annotations

from typing import Any

from ..errors import GraphError, ShapeError
from ..origins import at, user_origin


def normal_axis(axis: int, rank: int) -> int:
    """A non-negative axis; ShapeError where there is none."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise ShapeError(f"an axis is an integer, got {axis!r}{at(user_origin())}")
    if not -rank <= axis < max(rank, 1):
        raise ShapeError(f"axis {axis} does not exist in a tensor of {rank} dimensions{at(user_origin())}")
    return int(axis) % rank if rank else 0


def normal_axes(axis: Any, rank: int) -> tuple[int, ...]:
    """Sorted axes; all of them for None."""
    if axis is None:
        return tuple(range(rank))
    axes = (axis,) if not isinstance(axis, (tuple, list)) else axis
    result = tuple(sorted(normal_axis(a, rank) for a in axes)) if rank else ()
    if len(set(result)) != len(result):
        raise ShapeError(f"axes {list(axes)} name one axis twice{at(user_origin())}")
    return result


def synonym(axis: Any, keywords: dict[str, Any], default: Any = None, name: str = "axis", other: str = "dim") -> Any:
    """The value of `axis` or of its synonym `dim`; both given is an error, and so is any keyword that is no synonym."""
    if other in keywords:
        if axis != default:
            raise GraphError(f"give {name} or {other}, not both{at(user_origin())}")
        axis = keywords.pop(other)
    for unknown in keywords:
        if unknown != "keepdim":  # another call asks for that
            raise TypeError(f"unexpected argument {unknown!r}{at(user_origin())}")
    return axis


def axis_and_keepdims(axis: Any, keepdims: bool, keywords: dict[str, Any], default: Any = None) -> tuple[Any, bool]:
    """Resolves `dim` and `keepdim`; any other keyword is an error."""
    axis = synonym(axis, keywords, default)
    return axis, bool(synonym(keepdims, keywords, False, "keepdims", "keepdim"))
