"""Brackets: what an index means, reading with one, and writing with one.

Knows slices, numbers, arrays and masks as indices.  Must not know what elements are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..methods import FUNCTIONS, public
from ..op import REGISTRY
from ..origins import at, user_origin
from ..records import NamedTuple
from ..symbols import Tensor, TensorLike, apply, as_tensor, constant
from ..types import Dim, Shape, Size, broadcast_shapes, count, int64
from . import elementwise as e
from .axes import normal_axis
from .indexing import as_index, entries, wrapped
from .overwriting import overwrite
from .reductions import any_
from .sources import iota, size_of, zeros
from .views import expand_to, flip, moveaxis, pad_with, reshape, slice_


def _bounds(item: slice, size: Size) -> tuple[Size, int, Size]:
    """(start, step, length) of a slice over an axis, for a positive or negative step."""
    step = 1 if item.step is None else item.step
    if not isinstance(step, (int, np.integer)) or step == 0:
        raise GraphError(f"a slice needs a non-zero integer step, got {item.step!r}{at(user_origin())}")
    step = int(step)
    if isinstance(size, int) and not any(isinstance(v, Dim) for v in (item.start, item.stop)):
        first, end, _ = slice(item.start, item.stop, step).indices(size)
        return first, step, len(range(first, end, step))

    def place(value: Any, default: Size) -> Size:
        if value is None:
            return default
        return size + int(value) if isinstance(value, (int, np.integer)) and value < 0 else value

    if step < 0:
        if item.start is None and item.stop is None:
            return size - 1, step, (size + (-step - 1)) // -step
        raise GraphError(f"a backward slice of the open size '{size}' needs open ends{at(user_origin())}")
    start, stop = place(item.start, 0), place(item.stop, size)
    if item.stop is not None and not isinstance(item.stop, Dim) and item.stop >= 0:
        raise GraphError(f"whether the open size '{size}' reaches {item.stop} is not known while the graph is built; "
                         f"count from the end, or give the axis a fixed size{at(user_origin())}")
    length = stop - start
    return start, step, length if step == 1 else (length + (step - 1)) // step


class Box(NamedTuple):
    """What an index means: a strided box with some axes reversed, as which shape it is seen, and arrays that pick in it."""

    starts: list[Size]
    steps: list[int]
    sizes: list[Size]
    flips: list[int]
    shape: tuple[Size, ...]
    arrays: list[tuple[int, Tensor]]  # (position in shape, index)
    items: list[Any]


@public
def getitem(x: Tensor, index: Any) -> Tensor:
    """numpy's indexing: integers, slices, None, Ellipsis, and integer arrays or symbols."""
    box = box_of(x, index)
    out = reshape(slice_(flip(x, box.flips) if box.flips else x, box.starts, box.steps, box.sizes), box.shape)
    return _advanced(out, box.arrays, box.items) if box.arrays else out


def box_of(x: Tensor, index: Any) -> Box:
    """What an index of x means."""
    items = list(index) if isinstance(index, tuple) else [index]
    if sum(1 for i in items if i is Ellipsis) > 1:
        raise GraphError(f"an index holds '...' at most once{at(user_origin())}")
    used = sum(1 for i in items if i is not None and i is not Ellipsis)
    if used > x.ndim:
        raise ShapeError(f"{used} indices for {x.type} of {x.ndim} dimensions{at(user_origin())}")
    fill = [slice(None)] * (x.ndim - used)
    if any(i is Ellipsis for i in items):
        place = next(k for k, i in enumerate(items) if i is Ellipsis)
        items[place:place + 1] = fill
    else:
        items += fill
    starts: list[Size] = []
    steps: list[int] = []
    sizes: list[Size] = []
    flips: list[int] = []
    shape: list[Size] = []
    arrays: list[tuple[int, Tensor]] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = x.shape[axis]
        if isinstance(item, (bool, np.bool_)):
            raise GraphError(f"indexing with a bool gives a size that depends on data; use graphc.where"
                             f"{at(user_origin())}")
        if isinstance(item, slice):
            start, step, length = _bounds(item, size)
            if step < 0:
                flips.append(axis)
                start, step = size - 1 - start, -step
            starts.append(start)
            steps.append(step)
            sizes.append(length)
            shape.append(length)
        elif isinstance(item, (int, np.integer, Dim)):
            where_ = item if isinstance(item, Dim) else int(item)
            if isinstance(where_, int) and isinstance(size, int) and not -size <= where_ < size:
                raise ShapeError(f"index {where_} is outside axis {axis} of {x.type}{at(user_origin())}")
            if isinstance(where_, int) and where_ < 0:
                where_ = size + where_
            starts.append(where_)
            steps.append(1)
            sizes.append(1)
        else:
            tensor = _bracket_index(item, x, axis)
            arrays.append((len(shape), tensor))
            starts.append(0)
            steps.append(1)
            sizes.append(size)
            shape.append(size)
        axis += 1
    return Box(starts, steps, sizes, flips, tuple(shape), arrays, items)


def _bracket_index(item: Any, x: Tensor, axis: int) -> Tensor:
    tensor = item if isinstance(item, Tensor) else constant(np.asarray(item))
    if tensor.dtype.is_bool:
        raise GraphError(f"indexing with a bool array gives a size that depends on data; use graphc.where to choose, "
                         f"or multiply by the mask{at(user_origin())}")
    return wrapped(as_index(tensor), x, axis)


def picked_axes(arrays: Sequence[tuple[int, Tensor]], items: Sequence[Any]) -> tuple[Shape, list[int], bool]:
    """The common shape of index arrays, their axes, and whether these are neighbours, whose place the new axes take."""
    kinds = [isinstance(i, (Tensor, np.ndarray, list, tuple, int, np.integer, Dim)) for i in items]
    first, last = kinds.index(True), len(kinds) - 1 - kinds[::-1].index(True)
    return broadcast_shapes(*(t.shape for _, t in arrays)), [a for a, _ in arrays], all(kinds[first:last + 1])


def flat_index(arrays: Sequence[tuple[int, Tensor]], sizes: Sequence[Size], shape: Shape) -> tuple[Tensor, Size]:
    """One index for axes of these sizes taken as one, and its size; -1 for what is outside of an axis."""
    flat: Tensor = zeros((), int64)
    total: Size = 1
    inside: Tensor | None = None
    for size, (_, places) in reversed(list(zip(sizes, arrays, strict=True))):
        flat = expand_to(places, shape) * size_of(total, int64) + flat
        total = total * size
        if len(arrays) > 1:  # an index outside its axis must not reach a neighbouring row
            one = (places >= 0) & (places < size_of(size, int64))
            inside = one if inside is None else inside & one
    return flat if inside is None else e.where(inside, flat, -1), total


def _advanced(x: Tensor, arrays: Sequence[tuple[int, Tensor]], items: Sequence[Any]) -> Tensor:
    """Index arrays broadcast together; their axes come first unless the indexed axes are neighbours, as in numpy."""
    shape, axes, together = picked_axes(arrays, items)
    for target, axis in enumerate(axes):
        x = moveaxis(x, axis, target)
    flat, total = flat_index(arrays, x.shape[:len(axes)], shape)
    rest = x.shape[len(axes):]
    picked = entries(reshape(x, (total, *rest)), flat, 0)
    if together:
        for _ in range(len(shape)):
            picked = moveaxis(picked, 0, axes[0] + len(shape) - 1)
    return picked


# -- writing -------------------------------------------------------------------------------------------------------------


def setitem(x: Tensor, index: Any, value: TensorLike) -> None:
    """x becomes x with a value, which broadcasts, written at an index: what brackets read, or a mask of x's first axes.

    As in PyTorch the value takes x's type, and a mask takes one that does not depend on how many elements it has.  Of equal
    entries in an index array the last one stays; what is outside is dropped.
    """
    overwrite(x, written(x, index, value), "x[...] = value")


def written(x: Tensor, index: Any, value: TensorLike) -> Tensor:
    """x with the value at the index."""
    new = as_tensor(value if isinstance(value, Tensor) else np.asarray(value) if isinstance(value, (list, tuple)) else value, x)
    new = e.cast(new, x.dtype)
    mask = index if isinstance(index, Tensor) else np.asarray(index) if isinstance(index, (list, np.ndarray)) else None
    if mask is not None and str(getattr(mask, "dtype", "")).removeprefix("graphc.") in ("bool", "bool_"):
        return _masked(x, mask if isinstance(mask, Tensor) else constant(mask), new)
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, (Tensor, np.ndarray, list)) for i in items):  # numbers beside arrays are arrays, as in numpy
        index = tuple([constant(np.asarray(i)) if isinstance(i, (int, np.integer)) and not isinstance(i, bool) else i
                       for i in items])
    box = box_of(x, index)
    return _scattered(x, box, new) if box.arrays else _boxed(x, box, new)


def _fitting(new: Tensor, shape: Shape, what: str) -> Tensor:
    """The value in a shape; further axes of size 1 in front are left out, as in PyTorch."""
    extra = max(new.ndim - len(shape), 0)
    try:
        if any(s != 1 for s in new.shape[:extra]):
            raise ShapeError("too many axes")
        return expand_to(reshape(new, new.shape[extra:]), shape)
    except ShapeError:
        raise ShapeError(f"x[...] = value: {what} is {list(shape)}, to which {new.type} does not broadcast{at(user_origin())}"
                         ) from None


def _masked(x: Tensor, mask: Tensor, new: Tensor) -> Tensor:
    if mask.shape != x.shape[:mask.ndim]:
        raise ShapeError(f"x[mask] = value: the mask is {mask.type}, x is {x.type}: it must have the sizes of x's first axes"
                         f"{at(user_origin())}")
    rest = x.shape[mask.ndim:]
    if any(s != 1 for s in new.shape[:max(new.ndim - len(rest), 0)]):
        raise ShapeError(f"x[mask] = value: how many elements a mask has is not known, so a value of {list(new.shape)} cannot "
                         f"be told apart: write graphc.where(mask, a value of x's shape, x){at(user_origin())}")
    return e.where(reshape(mask, (*mask.shape, *(1,) * len(rest))), _fitting(new, rest, "an element of the mask"), x)


def _boxed(x: Tensor, box: Box, new: Tensor) -> Tensor:
    """A choice between what is there and the value, moved to its place."""
    full = reshape(_fitting(new, box.shape, "what the index means"), tuple(box.sizes))
    if any(isinstance(n, int) and n == 0 for n in box.sizes):
        return x
    spans = [(n - 1) * step + 1 for n, step in zip(box.sizes, box.steps, strict=True)]
    high = [size - start - span for size, start, span in zip(x.shape, box.starts, spans, strict=True)]
    placed = pad_with(full, box.starts, high, [s - 1 for s in box.steps])  # of x with some axes reversed
    inside: Any = None
    for axis, (size, start, step, span) in enumerate(zip(x.shape, box.starts, box.steps, spans, strict=True)):
        if isinstance(start, int) and start == 0 and step == 1 and span == size:
            continue
        place = reshape(iota((size,), 0), tuple(size if a == axis else 1 for a in range(x.ndim))) - size_of(start, int64)
        here = (place >= 0) & (place < size_of(span, int64))
        here = here & (place % step == 0) if step > 1 else here
        inside = here if inside is None else inside & here
    if box.flips and inside is not None:
        inside = flip(expand_to(inside, x.shape), box.flips)
    placed = flip(placed, box.flips) if box.flips else placed
    return placed if inside is None else e.where(inside, placed, x)


def _scattered(x: Tensor, box: Box, new: Tensor) -> Tensor:
    """Rows of the indexed axes taken as one, replaced where the index says; of equal entries the last one stays."""
    if x.dtype.is_bool:
        return e.cast(_scattered(e.cast(x, int64), box, e.cast(new, int64)), x.dtype)
    if box.shape != x.shape or box.flips or any(s != 1 for s in box.steps):
        raise GraphError(f"x[...] = value: beside index arrays only whole axes can be written to: write to a part first, "
                         f"and put it back{at(user_origin())}")
    shape, axes, together = picked_axes(box.arrays, box.items)
    first = axes[0] if together else 0
    kept = [s for a, s in enumerate(x.shape) if a not in axes]
    values = _fitting(new, (*kept[:first], *shape, *kept[first:]), "what the index means")
    for k in range(len(shape)):
        values = moveaxis(values, first + k, k)
    moved = x
    for target, axis in enumerate(axes):
        moved = moveaxis(moved, axis, target)
    flat, total = flat_index(box.arrays, moved.shape[:len(axes)], shape)
    n, width = count(shape), count(kept)
    index, values, rows = reshape(flat, (n,)), reshape(values, (n, width)), reshape(moved, (total, width))
    again = (reshape(index, (n, 1)) == reshape(index, (1, n))) & (iota((n, n), 1) > iota((n, n), 0))
    last = e.logical_not(any_(again, 1))
    scatter = REGISTRY["scatter_add"]
    hits = apply(scatter, index, e.cast(last, int64), axis=0, size=total)
    sent = apply(scatter, expand_to(reshape(index, (n, 1)), (n, width)), e.where(reshape(last, (n, 1)), values, 0), axis=0,
                 size=total)
    result = reshape(e.where(reshape(hits, (total, 1)) > 0, sent, rows), moved.shape)
    for target, axis in reversed(list(enumerate(axes))):
        result = moveaxis(result, target, axis)
    return result


FUNCTIONS["setitem"] = setitem


def _along(axis: int, item: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * axis, item)


@public
def select(x: TensorLike, dim: int, index: int) -> Tensor:
    """One entry of an axis, which is left out: torch.select."""
    tensor = as_tensor(x)
    return getitem(tensor, _along(normal_axis(dim, tensor.ndim), index))


@public
def select_scatter(x: TensorLike, src: TensorLike, dim: int, index: int) -> Tensor:
    """x with one entry of an axis replaced: torch.select_scatter."""
    tensor = as_tensor(x)
    return written(tensor, _along(normal_axis(dim, tensor.ndim), index), src)


@public
def slice_scatter(x: TensorLike, src: TensorLike, dim: int = 0, start: Size | None = None, end: Size | None = None,
                  step: int = 1) -> Tensor:
    """x with a slice of an axis replaced: torch.slice_scatter."""
    tensor = as_tensor(x)
    return written(tensor, _along(normal_axis(dim, tensor.ndim), slice(start, end, step)), src)


@public
def index_put(x: TensorLike, indices: Sequence[Any], values: TensorLike, accumulate: bool = False) -> Tensor:
    """x with values written at index arrays, one for each of the first axes: torch.index_put, `x[indices] = values`.

    accumulate   not there: `scatter_add` and `index_add` add up
    """
    if accumulate:
        raise GraphError(f"index_put does not accumulate: use graphc.index_add or graphc.scatter_add{at(user_origin())}")
    return written(as_tensor(x), tuple(indices), values)
