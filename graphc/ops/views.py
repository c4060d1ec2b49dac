"""VIEW ops: index maps.  They move no data; whoever reads a view reads its operand at a mapped index.

Knows how each view maps an element of its result to an element of its operand, and which view undoes it.
Must not know buffers or loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..index import Guard, Index, linear, unravel
from ..methods import FUNCTIONS, public
from ..op import Kind, Moves, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import Dim, Shape, Size, TensorType, as_shape, as_size, count
from .axes import normal_axes, normal_axis, synonym

Indices = tuple[Index, ...]


# -- reshape ---------------------------------------------------------------------------------------------------------


def _reshape_type(x: TensorType, *, shape: Shape) -> TensorType:
    if x.size != count(shape):
        raise ShapeError(f"{x.size} elements do not fit shape [{','.join(map(str, shape))}]")
    return x.with_shape(shape)


_reshape = define(Op(
    "reshape", Kind.VIEW, _reshape_type, lambda x, *, shape: np.reshape(x, shape),
    (lambda g, out, x, *, shape: reshape(g, x.shape),),
    index=lambda indices, type, *, shape: (unravel(linear(indices, shape), type.shape), []),
    moves=Moves.NOTHING, twice=lambda x, first, then: reshape(x, then["shape"]),
    samples=(Sample(((2, 6),), {"shape": (3, 4)}), Sample(((2, 3, 1),), {"shape": (6,)})),
    dtypes="fib", doc="The same elements in row-major order under another shape."))


@public
def reshape(x: TensorLike, *shape: Any) -> Tensor:
    """The same elements in row-major order under another shape; one size may be -1."""
    tensor = as_tensor(x)
    wanted = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    holes = [i for i, s in enumerate(wanted) if isinstance(s, (int, np.integer)) and s == -1]
    if len(holes) > 1:
        raise ShapeError(f"reshape: only one size may be -1, got {wanted}{at(user_origin())}")
    if holes:
        others = count(as_size(s) for i, s in enumerate(wanted) if i != holes[0])
        total = tensor.size
        if others == 0 or (isinstance(total, int) and isinstance(others, int) and total % others):
            raise ShapeError(f"reshape({tensor.type}): cannot infer -1 in {wanted}: {total} elements, "
                             f"{others} in the other sizes{at(user_origin())}")
        wanted[holes[0]] = total // others
    sizes = as_shape(wanted)
    return tensor if sizes == tensor.shape else apply(_reshape, tensor, shape=sizes)


@public
def flatten(x: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Joins the axes from start to end into one."""
    tensor = as_tensor(x)
    if tensor.ndim == 0:
        return reshape(tensor, 1)
    first, last = normal_axis(start_dim, tensor.ndim), normal_axis(end_dim, tensor.ndim)
    shape = tensor.shape
    return reshape(tensor, (*shape[:first], count(shape[first:last + 1]), *shape[last + 1:]))


@public
def unflatten(x: TensorLike, dim: int, sizes: Sequence[Any]) -> Tensor:
    """Splits one axis into several."""
    tensor = as_tensor(x)
    axis = normal_axis(dim, tensor.ndim)
    parts = list(sizes)
    if -1 in parts:
        known = count(as_size(s) for s in parts if s != -1)
        parts[parts.index(-1)] = tensor.shape[axis] // known
    return reshape(tensor, (*tensor.shape[:axis], *parts, *tensor.shape[axis + 1:]))


@public
def squeeze(x: TensorLike, axis: Any = None, **kw: Any) -> Tensor:
    """Drops axes of size 1: all, or those given (one that is not of size 1 stays, as in PyTorch)."""
    tensor, axis = as_tensor(x), synonym(axis, kw)
    axes = normal_axes(axis, tensor.ndim)
    return reshape(tensor, tuple(s for a, s in enumerate(tensor.shape) if not (a in axes and s == 1)))


@public
def unsqueeze(x: TensorLike, axis: int | None = None, **kw: Any) -> Tensor:
    """Puts in an axis of size 1."""
    tensor, axis = as_tensor(x), synonym(axis, kw)
    if axis is None:
        raise GraphError(f"unsqueeze needs an axis{at(user_origin())}")
    place = normal_axis(axis, tensor.ndim + 1)
    return reshape(tensor, (*tensor.shape[:place], 1, *tensor.shape[place:]))


expand_dims = unsqueeze

# -- permute ---------------------------------------------------------------------------------------------------------


def _permute_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    if sorted(axes) != list(range(x.ndim)):
        raise ShapeError(f"axes {list(axes)} are no order of {x.ndim} dimensions")
    return x.with_shape(tuple(x.shape[a] for a in axes))


def _inverse(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


_permute = define(Op(
    "permute", Kind.VIEW, _permute_type, lambda x, *, axes: np.transpose(x, axes),
    (lambda g, out, x, *, axes: permute(g, _inverse(axes)),),
    index=lambda indices, type, *, axes: (tuple(indices[a] for a in _inverse(axes)), []),
    moves=Moves.AXES, twice=lambda x, first, then: permute(x, tuple(first["axes"][a] for a in then["axes"])),
    samples=(Sample(((2, 3),), {"axes": (1, 0)}), Sample(((2, 3, 4),), {"axes": (2, 0, 1)})),
    dtypes="fib", doc="The axes in another order."))


@public
def permute(x: TensorLike, *axes: Any) -> Tensor:
    """The axes in a new order; takes all of them."""
    tensor = as_tensor(x)
    order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    full = tuple(normal_axis(a, tensor.ndim) for a in order)
    return tensor if full == tuple(range(tensor.ndim)) else apply(_permute, tensor, axes=full)


@public
def transpose(x: TensorLike, a: int, b: int) -> Tensor:
    """Swaps two axes, as in PyTorch."""
    tensor = as_tensor(x)
    axes = list(range(tensor.ndim))
    i, j = normal_axis(a, tensor.ndim), normal_axis(b, tensor.ndim)
    axes[i], axes[j] = axes[j], axes[i]
    return permute(tensor, axes)


@public
def swapaxes(x: TensorLike, a: int, b: int) -> Tensor:
    """Swaps two axes: numpy's name of transpose."""
    return transpose(x, a, b)


@public
def moveaxis(x: TensorLike, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Moves axes to other places; the others keep their order."""
    tensor = as_tensor(x)
    sources = [normal_axis(a, tensor.ndim) for a in ((source,) if isinstance(source, int) else source)]
    places = [normal_axis(a, tensor.ndim) for a in ((destination,) if isinstance(destination, int) else destination)]
    if len(sources) != len(places) or len(set(sources)) != len(sources) or len(set(places)) != len(places):
        raise ShapeError(f"moveaxis: from {source} to {destination} does not say where each axis goes{at(user_origin())}")
    order = [a for a in range(tensor.ndim) if a not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return permute(tensor, order)


FUNCTIONS.update(swapdims=swapaxes, movedim=moveaxis)


# -- expand ----------------------------------------------------------------------------------------------------------


def _expand_type(x: TensorType, *, shape: Shape) -> TensorType:
    if len(shape) < x.ndim or any(a not in (1, b) for a, b in zip(reversed(x.shape), reversed(shape), strict=False)):
        raise ShapeError(f"does not expand to [{','.join(map(str, shape))}]")
    return x.with_shape(shape)


def _expand_index(indices: Indices, type: TensorType, *, shape: Shape) -> tuple[Indices, Guard]:
    kept = indices[len(shape) - type.ndim:]
    return tuple(Index((), 0) if size == 1 else i for i, size in zip(kept, type.shape, strict=True)), []


def _collapse(g: Tensor, out: Tensor, x: Tensor, *, shape: Shape) -> Tensor:
    from .reductions import sum_

    extra = len(shape) - x.ndim
    axes = [a for a, s in enumerate(shape) if a < extra or (x.shape[a - extra] == 1 and s != 1)]
    return reshape(sum_(g, axes), x.shape) if axes else g


_expand = define(Op("expand", Kind.VIEW, _expand_type, lambda x, *, shape: np.broadcast_to(x, shape), (_collapse,),
                    index=_expand_index, moves=Moves.REPEATS, twice=lambda x, first, then: expand_to(x, then["shape"]),
                    samples=(Sample(((3, 1),), {"shape": (3, 4)}), Sample(((2,),), {"shape": (3, 2)}),
                             Sample(((),), {"shape": (2, 2)})),
                    dtypes="fib", doc="Axes of size 1, and new leading ones, repeated."))


def expand_to(x: Tensor, shape: Shape) -> Tensor:
    """x broadcast to exactly this shape; x itself where nothing changes."""
    return x if x.shape == shape else apply(_expand, x, shape=shape)


@public
def expand(x: TensorLike, *shape: Any) -> Tensor:
    """Stretches axes of size 1 (and new leading ones); -1 keeps a size."""
    tensor = as_tensor(x)
    wanted = tuple(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    extra = len(wanted) - tensor.ndim
    sizes = as_shape(tensor.shape[i - extra] if isinstance(s, int) and s == -1 and i >= extra else s
                     for i, s in enumerate(wanted))
    return expand_to(tensor, sizes)


@public
def broadcast_to(x: TensorLike, shape: Any) -> Tensor:
    """x stretched to a shape, as numpy.broadcast_to."""
    return expand_to(as_tensor(x), as_shape(shape))


# -- slice, flip, pad ------------------------------------------------------------------------------------------------


def _slice_type(x: TensorType, *, starts: tuple, steps: tuple, sizes: Shape) -> TensorType:
    for axis, (start, step, size) in enumerate(zip(starts, steps, sizes, strict=True)):
        full = x.shape[axis]
        if isinstance(size, int) and size < 0:
            raise ShapeError(f"a slice of axis {axis} would have {size} elements")
        if all(isinstance(v, int) for v in (start, size, full)) and size and not (
                start >= 0 and start + (size - 1) * step < full):
            raise ShapeError(f"elements {start} to {start + (size - 1) * step} of axis {axis} do not exist")
    return x.with_shape(sizes)


def _slice_numpy(x: np.ndarray, *, starts: tuple, steps: tuple, sizes: tuple) -> np.ndarray:
    return x[tuple(slice(a, a + (n - 1) * s + 1 if n else a, s) for a, s, n in zip(starts, steps, sizes, strict=True))]


def _unslice(g: Tensor, out: Tensor, x: Tensor, *, starts: tuple, steps: tuple, sizes: Shape) -> Tensor:
    high = tuple(full - start - (0 if isinstance(n, int) and n == 0 else (n - 1) * step + 1)
                 for full, start, step, n in zip(x.shape, starts, steps, sizes, strict=True))
    return pad_with(g, starts, high, tuple(s - 1 for s in steps))


def _slice_twice(x: Tensor, first: Mapping[str, Any], then: Mapping[str, Any]) -> Tensor:
    starts = [s + t * p for s, t, p in zip(first["starts"], then["starts"], first["steps"], strict=True)]
    return slice_(x, starts, [p * q for p, q in zip(first["steps"], then["steps"], strict=True)], then["sizes"])


_slice = define(Op(
    "slice", Kind.VIEW, _slice_type, _slice_numpy, (_unslice,),
    index=lambda indices, type, *, starts, steps, sizes: (
        tuple(i * step + start for i, start, step in zip(indices, starts, steps, strict=True)), []),
    twice=_slice_twice,
    samples=(Sample(((5, 6),), {"starts": (1, 0), "steps": (1, 2), "sizes": (3, 3)}),),
    dtypes="fib", doc="Every step-th element from a start, along each axis; steps are positive."))


def slice_(x: Tensor, starts: Sequence[Size], steps: Sequence[int], sizes: Sequence[Size]) -> Tensor:
    """The strided box of x; x itself where it is all of it."""
    if tuple(sizes) == x.shape and all(isinstance(s, int) and s == 0 for s in starts) and all(s == 1 for s in steps):
        return x
    return apply(_slice, x, starts=tuple(starts), steps=tuple(steps), sizes=tuple(sizes))


@public
def narrow(x: TensorLike, axis: int, start: Size, length: Size) -> Tensor:
    """`length` elements of one axis from `start` on."""
    tensor = as_tensor(x)
    place = normal_axis(axis, tensor.ndim)
    starts: list[Size] = [0] * tensor.ndim
    sizes = list(tensor.shape)
    starts[place], sizes[place] = start, length
    return slice_(tensor, starts, [1] * tensor.ndim, sizes)


_flip: Op = define(Op(
    "flip", Kind.VIEW, lambda x, *, axes: x, lambda x, *, axes: np.flip(x, axes),
    (lambda g, out, x, *, axes: apply(_flip, g, axes=axes),),
    index=lambda indices, type, *, axes: (
        tuple((type.shape[a] - 1) - i if a in axes else i for a, i in enumerate(indices)), []),
    samples=(Sample(((3, 4),), {"axes": (0, 1)}),), dtypes="fib", doc="The order along some axes reversed."))


@public
def flip(x: TensorLike, *axis: Any, **kw: Any) -> Tensor:
    """Reverses the order along axes (all by default), given one by one or together."""
    tensor = as_tensor(x)
    given = synonym(axis[0] if len(axis) == 1 else axis or None, kw, None, "axis", "dims" if "dims" in kw else "dim")
    axes = normal_axes(given, tensor.ndim)
    return apply(_flip, tensor, axes=axes) if axes else tensor


def _pad_type(x: TensorType, *, low: Shape, high: Shape, interior: tuple[int, ...], fill: float) -> TensorType:
    shape = tuple(n + a + b + _gaps(n, k) for n, a, b, k in zip(x.shape, low, high, interior, strict=True))
    if any(isinstance(s, int) and s < 0 for s in shape):
        raise ShapeError(f"padding {low}, {high} leaves a negative size: {shape}")
    return x.with_shape(shape)


def _gaps(size: Size, interior: int) -> Size:
    if isinstance(size, int):
        return max(size - 1, 0) * interior
    return (size - 1) * interior if interior else 0


def _pad_numpy(x: np.ndarray, *, low: tuple, high: tuple, interior: tuple, fill: float) -> np.ndarray:
    spread = tuple(n + _gaps(n, k) for n, k in zip(x.shape, interior, strict=True))
    inside = np.full(spread, fill, x.dtype)
    inside[tuple(slice(None, None, k + 1) for k in interior)] = x
    out = np.full(tuple(n + a + b for n, a, b in zip(spread, low, high, strict=True)), fill, x.dtype)
    to = tuple(slice(max(a, 0), max(a, 0) + max(0, min(n, n + b) - max(-a, 0)))
               for n, a, b in zip(spread, low, high, strict=True))
    source = tuple(slice(max(-a, 0), max(max(-a, 0), min(n, n + b))) for n, a, b in zip(spread, low, high, strict=True))
    out[to] = inside[source]
    return out


def _pad_index(indices: Indices, type: TensorType, *, low: tuple, high: tuple, interior: tuple, fill: float
               ) -> tuple[Indices, Guard]:
    inner: list[Index] = []
    guard: list[tuple[Index, int, Any]] = []
    for i, size, a, k in zip(indices, type.shape, low, interior, strict=True):
        position = i - a
        if k:
            guard.append((position % (k + 1), 0, 1))
            position = position // (k + 1)
        guard.append((position, 0, size))
        inner.append(position)
    return tuple(inner), [(p, a, b) for p, a, b in guard if not (a <= p.range[0] and p.range[1] < b)]


def _unpad(g: Tensor, out: Tensor, x: Tensor, *, low: tuple, high: tuple, interior: tuple, fill: float) -> Tensor:
    outward = tuple(a if isinstance(a, Dim) else max(a, 0) for a in low)
    steps = tuple(k + 1 for k in interior)
    if all(isinstance(a, Dim) or a >= 0 for a in (*low, *high)):
        return slice_(g, outward, steps, x.shape)
    back_low, back_high = tuple(-a for a in low), tuple(-b for b in high)  # cropped elements get no gradient
    spread = pad_with(g, back_low, back_high, (0,) * x.ndim)
    return slice_(spread, (0,) * x.ndim, steps, x.shape)


_pad = define(Op(
    "pad", Kind.VIEW, _pad_type, _pad_numpy, (_unpad,), index=_pad_index,
    samples=(Sample(((2, 3),), {"low": (1, 0), "high": (0, 2), "interior": (0, 0), "fill": 0.0}),
             Sample(((3,),), {"low": (1,), "high": (1,), "interior": (2,), "fill": 1.5}),
             Sample(((5,),), {"low": (-1,), "high": (-2,), "interior": (0,), "fill": 0.0})),
    dtypes="fib", doc="A constant around (or, negative, cropped off) and between the elements."))


def pad_with(x: Tensor, low: Sequence[Size], high: Sequence[Size], interior: Sequence[int], fill: float = 0) -> Tensor:
    """x with `fill` before, after and between its elements; negative amounts crop."""
    amounts = (*low, *high, *interior)
    if all(isinstance(a, int) and a == 0 for a in amounts):
        return x
    value = float(fill) if x.dtype.is_float else bool(fill) if x.dtype.is_bool else int(fill)
    return apply(_pad, x, low=tuple(low), high=tuple(high), interior=tuple(interior), fill=value)
