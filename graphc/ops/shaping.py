"""Joining, splitting, padding and masking: compositions of views and choices.

Knows how parts are put in place and chosen between.  Must not know how anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..methods import FUNCTIONS, public
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DType, Shape, Size, promote
from . import elementwise as e
from .axes import normal_axis, synonym
from .sources import iota, size_of
from .views import expand_to, flip, narrow, pad_with, permute, reshape, squeeze, unsqueeze


def _one_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    dtype: DType = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = promote(dtype, tensor.dtype)
    return [e.cast(t, dtype) for t in tensors]


@public
def concat(tensors: Sequence[TensorLike], axis: int = 0, **kw: Any) -> Tensor:
    """The tensors one after another along an axis."""
    axis = synonym(axis, kw, 0)
    parts = _one_dtype([as_tensor(t) for t in tensors])
    if not parts:
        raise GraphError(f"concat needs at least one tensor{at(user_origin())}")
    place = normal_axis(axis, parts[0].ndim)
    for part in parts[1:]:
        if part.ndim != parts[0].ndim or any(a != b for k, (a, b) in enumerate(zip(part.shape, parts[0].shape,
                                                                                  strict=True)) if k != place):
            raise ShapeError(f"concat: {parts[0].type} and {part.type} differ on an axis other than {place}"
                             f"{at(user_origin())}")
    parts = [p for p in parts if p.shape[place] != 0] or parts[:1]
    if len(parts) == 1:
        return FUNCTIONS["clone"](parts[0])
    total: Size = sum((p.shape[place] for p in parts), 0)
    shape = tuple(total if a == place else s for a, s in enumerate(parts[0].shape))
    position = iota(shape, place)
    start: Size = 0
    out: Tensor | None = None
    for part in parts:
        low: list[Size] = [0] * len(shape)
        high: list[Size] = [0] * len(shape)
        low[place], high[place] = start, total - start - part.shape[place]
        placed = pad_with(part, low, high, [0] * len(shape))
        out = placed if out is None else e.where(position < size_of(start, "int64"), out, placed)
        start = start + part.shape[place]
    assert out is not None
    return out


cat = concatenate = concat
FUNCTIONS.update(cat=concat, concatenate=concat)


@public
def stack(tensors: Sequence[TensorLike], axis: int = 0, **kw: Any) -> Tensor:
    """The tensors along a new axis."""
    axis = synonym(axis, kw, 0)
    parts = [as_tensor(t) for t in tensors]
    if not parts:
        raise GraphError(f"stack needs at least one tensor{at(user_origin())}")
    return concat([unsqueeze(p, normal_axis(axis, p.ndim + 1)) for p in parts], normal_axis(axis, parts[0].ndim + 1))


@public
def split(x: TensorLike, size: int | Sequence[Size], axis: int = 0, **kw: Any) -> list[Tensor]:
    """Parts of `size` elements (the last may be smaller), or of the given sizes, along an axis: torch.split."""
    tensor, axis = as_tensor(x), synonym(axis, kw, 0)
    place = normal_axis(axis, tensor.ndim)
    full = tensor.shape[place]
    if isinstance(size, int):
        if not isinstance(full, int):
            raise GraphError(f"split of the open size '{full}': give the sizes of the parts{at(user_origin())}")
        if size < 1:
            raise ShapeError(f"split needs a positive size, got {size}{at(user_origin())}")
        sizes: list[Size] = [min(size, full - i) for i in range(0, full, size)] or [0]
    else:
        sizes = list(size)
        if sum(sizes, 0) != full:
            raise ShapeError(f"split: sizes {sizes} do not add up to {full}{at(user_origin())}")
    return [narrow(tensor, place, sum(sizes[:k], 0), length) for k, length in enumerate(sizes)]


@public
def split_with_sizes(x: TensorLike, split_sizes: Sequence[Size], axis: int = 0, **kw: Any) -> list[Tensor]:
    """Parts of the given sizes along an axis."""
    return split(x, split_sizes, axis, **kw)


@public
def chunk(x: TensorLike, chunks: int, axis: int = 0, **kw: Any) -> list[Tensor]:
    """At most `chunks` parts of equal size (the last may be smaller): torch.chunk."""
    tensor, axis = as_tensor(x), synonym(axis, kw, 0)
    full = tensor.shape[normal_axis(axis, tensor.ndim)]
    if not isinstance(full, int):
        each = full // chunks
        if each * chunks != full:
            raise GraphError(f"chunk: whether the open size '{full}' divides by {chunks} is not known while the graph "
                             f"is built{at(user_origin())}")
        return split(tensor, [each] * chunks, axis)
    return split(tensor, max(1, -(-full // chunks)), axis)


@public
def unbind(x: TensorLike, axis: int = 0, **kw: Any) -> list[Tensor]:
    """The entries of one axis, which disappears."""
    tensor, axis = as_tensor(x), synonym(axis, kw, 0)
    place = normal_axis(axis, tensor.ndim)
    return [squeeze(narrow(tensor, place, i, 1), place) for i in range(tensor.shape[place].__index__())]


@public
def tile(x: TensorLike, repeats: Any) -> Tensor:
    """x repeated along each axis, as numpy.tile."""
    tensor = as_tensor(x)
    times = [repeats] if isinstance(repeats, int) else list(repeats)
    rank = max(len(times), tensor.ndim)
    times = [1] * (rank - len(times)) + times
    shape: Shape = (1,) * (rank - tensor.ndim) + tensor.shape
    apart = reshape(tensor, tuple(s for n in shape for s in (1, n)))
    grown = expand_to(apart, tuple(s for n, t in zip(shape, times, strict=True) for s in (t, n)))
    return reshape(grown, tuple(n * t for n, t in zip(shape, times, strict=True)))


@public
def repeat(x: TensorLike, *repeats: Any) -> Tensor:
    """x repeated along each axis, as torch.Tensor.repeat."""
    return tile(x, repeats[0] if len(repeats) == 1 and isinstance(repeats[0], (tuple, list)) else repeats)


@public
def repeat_interleave(x: TensorLike, repeats: int, axis: int | None = None, **kw: Any) -> Tensor:
    """Each entry of an axis `repeats` times in a row."""
    tensor, axis = as_tensor(x), synonym(axis, kw)
    if axis is None:
        tensor, axis = reshape(tensor, -1), 0
    place = normal_axis(axis, tensor.ndim)
    shape = tensor.shape
    grown = expand_to(unsqueeze(tensor, place + 1), (*shape[:place + 1], repeats, *shape[place + 1:]))
    return reshape(grown, (*shape[:place], shape[place] * repeats, *shape[place + 1:]))


@public
def roll(x: TensorLike, shift: Any, axis: Any = None, **kw: Any) -> Tensor:
    """Elements moved along axes; what leaves at one end enters at the other."""
    tensor, axis = as_tensor(x), synonym(axis, kw, None, "axis", "dims" if "dims" in kw else "dim")
    if axis is None:
        return reshape(roll(reshape(tensor, -1), shift, 0), tensor.shape)
    pairs = [(shift, axis)] if isinstance(axis, int) else list(zip(shift, axis, strict=True))
    for amount, one in pairs:
        place = normal_axis(one, tensor.ndim)
        size = tensor.shape[place].__index__()
        turn = amount % size if size else 0
        if turn:
            tensor = concat([narrow(tensor, place, size - turn, turn), narrow(tensor, place, 0, size - turn)], place)
    return tensor


# -- padding ---------------------------------------------------------------------------------------------------------


def _widths(width: Any, rank: int) -> list[tuple[int, int]]:
    pairs = np.broadcast_to(np.asarray(width, dtype=np.int64), (rank, 2))
    return [(int(a), int(b)) for a, b in pairs]


def pad_edges(x: Tensor, axis: int, low: int, high: int, mode: str) -> Tensor:
    """One axis grown by what its own elements say: reflect (without the edge), edge (repeated) or wrap (around)."""
    size = x.shape[axis]
    limit = size - 1 if mode == "reflect" else size
    if isinstance(limit, int) and mode != "edge" and max(low, high) > limit:
        raise ShapeError(f"pad: {max(low, high)} elements by {mode} need an axis larger than {size}{at(user_origin())}")
    parts = [x]
    if low:
        part = {"reflect": lambda: flip(narrow(x, axis, 1, low), axis),
                "edge": lambda: expand_to(narrow(x, axis, 0, 1), _resized(x, axis, low)),
                "wrap": lambda: narrow(x, axis, size - low, low)}[mode]()
        parts.insert(0, part)
    if high:
        part = {"reflect": lambda: flip(narrow(x, axis, size - 1 - high, high), axis),
                "edge": lambda: expand_to(narrow(x, axis, size - 1, 1), _resized(x, axis, high)),
                "wrap": lambda: narrow(x, axis, 0, high)}[mode]()
        parts.append(part)
    return concat(parts, axis)


def _resized(x: Tensor, axis: int, size: Size) -> Shape:
    return tuple(size if a == axis else s for a, s in enumerate(x.shape))


@public
def pad(x: TensorLike, pad_width: Any, mode: str = "constant", constant_values: float = 0) -> Tensor:
    """numpy's pad: widths per axis as (before, after); modes constant, reflect, edge and wrap."""
    tensor = as_tensor(x)
    widths = _widths(pad_width, tensor.ndim)
    if mode == "constant":
        return pad_with(tensor, [a for a, _ in widths], [b for _, b in widths], [0] * tensor.ndim, constant_values)
    if mode not in ("reflect", "edge", "wrap"):
        raise GraphError(f"pad: mode is constant, reflect, edge or wrap, got {mode!r}{at(user_origin())}")
    for axis, (low, high) in enumerate(widths):
        tensor = pad_edges(tensor, axis, low, high, mode)
    return tensor


# -- triangles and diagonals -----------------------------------------------------------------------------------------


def _triangle(x: TensorLike, diagonal: int, lower: bool) -> Tensor:
    tensor = as_tensor(x)
    if tensor.ndim < 2:
        raise ShapeError(f"a triangle needs two dimensions, got {tensor.type}{at(user_origin())}")
    matrix = tensor.shape[-2:]
    distance = iota(matrix, 1) - iota(matrix, 0)
    kept = distance <= diagonal if lower else distance >= diagonal
    return e.where(kept, tensor, zero_of(tensor))


def zero_of(tensor: Tensor) -> int | bool:
    """A zero that leaves a tensor's type as it is: with 0, bools would become integers, of which ~ is something else."""
    return False if tensor.dtype.is_bool else 0


@public
def tril(x: TensorLike, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes; zeros above the given diagonal."""
    return _triangle(x, diagonal, True)


@public
def triu(x: TensorLike, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes; zeros below the given diagonal."""
    return _triangle(x, diagonal, False)


@public
def diag_embed(x: TensorLike, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices (in the axes dim1 and dim2) with the last axis of x on a diagonal, zeros elsewhere: torch.diag_embed."""
    tensor = as_tensor(x)
    i, j = normal_axis(dim1, tensor.ndim + 1), normal_axis(dim2, tensor.ndim + 1)
    if i == j:
        raise ShapeError(f"diag_embed: two different axes are needed, got {dim1} and {dim2}{at(user_origin())}")
    rank, moved = tensor.ndim, [0] * (tensor.ndim - 1)
    before, after = ([*moved, offset], [*moved, 0]) if offset >= 0 else ([*moved, 0], [*moved, -offset])
    placed = pad_with(tensor, before, after, [0] * rank)  # one entry per column
    n = placed.shape[-1]
    matrix = e.where(iota((n, n), 1) - iota((n, n), 0) == offset, unsqueeze(placed, -2), zero_of(tensor))
    if (i, j) == (rank - 1, rank):
        return matrix
    order = list(range(rank - 1))
    for place, source in sorted(((i, rank - 1), (j, rank))):
        order.insert(place, source)
    return permute(matrix, order)


@public
def diag(x: TensorLike, diagonal: int = 0) -> Tensor:
    """A diagonal of a matrix, or the matrix with a vector on that diagonal: torch.diag."""
    tensor = as_tensor(x)
    if tensor.ndim not in (1, 2):
        raise ShapeError(f"diag: a vector or a matrix is needed, got {tensor.type}{at(user_origin())}")
    return diag_embed(tensor, diagonal) if tensor.ndim == 1 else FUNCTIONS["diagonal"](tensor, diagonal)


@public
def diagflat(x: TensorLike, offset: int = 0) -> Tensor:
    """The matrix with the flattened x on a diagonal."""
    return diag_embed(reshape(as_tensor(x), -1), offset)


@public
def meshgrid(*tensors: TensorLike, indexing: str = "ij") -> list[Tensor]:
    """Each vector repeated over the grid that all of them span; a list of them is as good."""
    if indexing not in ("ij", "xy"):
        raise GraphError(f"meshgrid: indexing is 'ij' or 'xy', got {indexing!r}{at(user_origin())}")
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    vectors = [as_tensor(t) for t in tensors]
    shape = tuple(v.shape[0] for v in vectors)
    grids = [expand_to(reshape(v, tuple(-1 if a == k else 1 for a in range(len(vectors)))), shape)
             for k, v in enumerate(vectors)]
    if indexing == "xy" and len(vectors) > 1:
        order = (1, 0, *range(2, len(vectors)))
        grids = [permute(g, order) for g in grids]
    return grids


@public
def atleast_1d(x: TensorLike) -> Tensor:
    """x, with an axis of size 1 where it has none."""
    tensor = as_tensor(x)
    return tensor if tensor.ndim else reshape(tensor, 1)


@public
def atleast_2d(x: TensorLike) -> Tensor:
    """x, with leading axes of size 1 up to two dimensions."""
    tensor = as_tensor(x)
    return tensor if tensor.ndim > 1 else reshape(tensor, (1, *atleast_1d(tensor).shape))


@public
def cdist(a: TensorLike, b: TensorLike, p: float = 2.0) -> Tensor:
    """Distances between all rows of a [.., n, d] and of b [.., m, d]: shape [.., n, m]."""
    difference = unsqueeze(as_tensor(a), -2) - unsqueeze(as_tensor(b), -3)
    return FUNCTIONS["norm"](difference, p, -1)
