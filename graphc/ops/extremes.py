"""`max` and `min`: what is a tensor of values in numpy, and along an axis a pair of values and positions in PyTorch.

Knows which of the two a caller's words are.  Must not know how folds are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..methods import public
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor, detaching
from . import elementwise as e
from .control import stop_gradient
from .indexing import gather
from .reductions import argmax, argmin, max_, min_
from .views import squeeze

PYTORCH, EITHER, NUMPY = "dim", "position", "axis"  # how the axis was said, and so what a number in brackets picks


class Extreme(Tensor):
    """The greatest or least element along one axis: a tensor of values, and PyTorch's pair (values, indices).

    As an operand it is the values.  `.values`, `.indices` and ``values, indices = x.max(1)`` are PyTorch's.  In brackets a
    number picks what the words say: with `dim=` or `keepdim=` one of the pair, with `axis=` an element of the values.  Where
    the axis was only a position, `[0]` and `[1]` could be meant either way, and raise GraphError.

    Of equal elements the values as an operand share the gradient, as PyTorch's amax; to `.values` the first one alone
    passes it, as in PyTorch.
    """

    __slots__ = ("_indices", "_of", "_values")

    def __init__(self, values: Tensor, of: tuple[Any, ...]) -> None:
        super().__init__(values.node)
        self._of = of
        self._values: Tensor | None = None
        self._indices: Tensor | None = None

    @property
    def indices(self) -> Tensor:
        """int64 position of the first such element along the axis."""
        if self._indices is None:
            position, x, axis, keepdims, _ = self._of
            self._indices = position(x, axis, keepdims)
        return self._indices

    @property
    def values(self) -> Tensor:
        """The elements at `indices`."""
        if self._values is None:
            _, x, axis, keepdims, _ = self._of
            place = axis % x.ndim if x.ndim else 0
            if not x.ndim:
                self._values = x
            elif keepdims:
                self._values = gather(x, place, self.indices)
            else:
                self._values = squeeze(gather(x, place, self.indices[(slice(None),) * place + (None,)]), place)
        return self._values

    def __iter__(self) -> Iterator[Tensor]:
        return super().__iter__() if self._of[-1] == NUMPY else iter((self.values, self.indices))

    def __len__(self) -> int:
        return super().__len__() if self._of[-1] == NUMPY else 2

    def __getitem__(self, index: Any) -> Tensor:
        said = self._of[-1]
        if said == NUMPY or isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            return super().__getitem__(index)
        if said == EITHER and self.ndim:
            if -2 <= index < 2:
                raise GraphError(f"[{index}] of a maximum or minimum could be one of PyTorch's pair, or an element of the "
                                 f"values: say .values or .indices, max(dim=...)[{index}] or max(axis=...)[{index}]"
                                 f"{at(user_origin())}")
            return super().__getitem__(index)
        if not -2 <= index < 2:
            raise ShapeError(f"a maximum or minimum along `dim` is a pair, (values, indices); there is no [{index}]"
                             f"{at(user_origin())}")
        return (self.values, self.indices)[index]


def _extreme(name: str, fold: Callable[..., Tensor], each: Callable[..., Tensor], position: Callable[..., Tensor],
             x: Any, args: tuple[Any, ...], kw: dict[str, Any]) -> Tensor:
    words = ("axis", "dim", "keepdims", "keepdim", "other")
    unknown = next((k for k in kw if k not in words), None)
    if unknown is not None or len(args) > 2:
        said = f"unexpected argument {unknown!r}" if unknown else "an axis and keepdim are all it takes"
        raise TypeError(f"{name}: {said}{at(user_origin())}")
    axes = [*args[:1], *(kw[k] for k in ("axis", "dim", "other") if k in kw)]
    keeps = [*args[1:], *(kw[k] for k in ("keepdims", "keepdim") if k in kw)]
    if len(axes) > 1 or len(keeps) > 1:
        raise GraphError(f"{name}: give " + ("axis or dim" if len(axes) > 1 else "keepdims or keepdim") + ", not both"
                         f"{at(user_origin())}")
    axis, keepdims = axes[0] if axes else None, bool(keeps[0]) if keeps else False
    if "other" in kw or isinstance(axis, (Tensor, np.ndarray)):
        return each(x, axis)
    tensor = as_tensor(x)
    values = fold(tensor, axis, keepdims)
    if axis is None or isinstance(axis, (tuple, list)):
        return values
    said = PYTORCH if "dim" in kw or "keepdim" in kw else NUMPY if "axis" in kw or "keepdims" in kw else EITHER
    held = stop_gradient(tensor) if detaching.get() and tensor.dtype.is_float else tensor
    return Extreme(values, (position, held, axis, keepdims, said))


@public
def max(x: TensorLike, *args: Any, **kw: Any) -> Tensor:
    """`max(x, axis=None, keepdims=False)`: the greatest element over axes (all by default); NaN if there is one.

    Along one axis it is a tensor of the values that also has PyTorch's `.values` and `.indices`, and unpacks as that pair:
    ``_, predicted = logits.max(1)``.  ``max(x, dim=1)[1]`` is PyTorch's, ``max(x, axis=1)[1]`` numpy's, ``max(x, 1)[1]`` an
    error, as it could be either: see `Extreme`.  `dim` and `keepdim` are synonyms otherwise.
    Given two tensors, as PyTorch's `max(x, y)` or `max(x, other=y)`, the greater of each pair of elements.
    """
    return _extreme("max", max_, e.maximum, argmax, x, args, kw)


@public
def min(x: TensorLike, *args: Any, **kw: Any) -> Tensor:
    """`min(x, axis=None, keepdims=False)`: the least element over axes; NaN if there is one.  All as in `max`."""
    return _extreme("min", min_, e.minimum, argmin, x, args, kw)


for _function, _fold in ((max, max_), (min, min_)):
    vars(_function)["__signature__"] = signature(_fold)
