"""Padding with PyTorch's argument order: the last axis first, two amounts per axis."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import GraphError, ShapeError
from ..ops.overwriting import apart
from ..ops.shaping import pad_edges
from ..ops.views import pad_with
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from .module import Module

MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # PyTorch's names and numpy's


def pad(input: TensorLike, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Grows (or, negative, crops) axes: pad = (left, right, top, bottom, ...) from the last axis on."""
    x, amounts = as_tensor(input), [int(p) for p in pad]
    if len(amounts) % 2 or len(amounts) > 2 * x.ndim:
        raise ShapeError(f"pad takes two amounts per axis of {x.type}, got {amounts}{at(user_origin())}")
    if mode == "constant":
        low, high = [0] * x.ndim, [0] * x.ndim
        for k in range(len(amounts) // 2):
            low[x.ndim - 1 - k], high[x.ndim - 1 - k] = amounts[2 * k], amounts[2 * k + 1]
        return apart(pad_with(x, low, high, [0] * x.ndim, 0.0 if value is None else value), input)
    if mode not in MODES:
        raise GraphError(f"pad: mode is constant, {', '.join(MODES)}, got {mode!r}{at(user_origin())}")
    if value is not None and value != 0.0:
        raise GraphError(f"pad: mode {mode!r} takes no value{at(user_origin())}")
    if min(amounts, default=0) < 0:
        raise ShapeError(f"pad: mode {mode!r} cannot crop, got {amounts}{at(user_origin())}")
    for k in range(len(amounts) // 2):
        if amounts[2 * k] or amounts[2 * k + 1]:
            x = pad_edges(x, x.ndim - 1 - k, amounts[2 * k], amounts[2 * k + 1], MODES[mode])
    return apart(x, input)


class _Pad(Module):
    mode = "constant"
    spatial = 1

    def __init__(self, padding: int | Sequence[int], value: float = 0.0) -> None:
        super().__init__()
        amounts = (padding,) * (2 * self.spatial) if isinstance(padding, int) else tuple(padding)
        if len(amounts) != 2 * self.spatial:
            raise ShapeError(f"{type(self).__name__} takes one amount or {2 * self.spatial}, got {padding}"
                             f"{at(user_origin())}")
        self.padding, self.value = amounts, value

    def forward(self, input: TensorLike) -> Tensor:
        x = as_tensor(input)
        if x.ndim not in (self.spatial + 1, self.spatial + 2):
            raise ShapeError(f"{type(self).__name__} takes {self.spatial + 1} or {self.spatial + 2} dimensions, "
                             f"got {x.type}{at(user_origin())}")
        return pad(x, self.padding, self.mode, self.value if self.mode == "constant" else None)

    def extra_repr(self) -> str:
        return f"padding={self.padding}" + (f", value={self.value}" if self.value else "")


class ConstantPad1d(_Pad):
    """A constant around [N, C, L]."""

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding, value)


class ConstantPad2d(ConstantPad1d):
    """A constant around [N, C, H, W]: (left, right, top, bottom)."""

    spatial = 2


class ConstantPad3d(ConstantPad1d):
    """A constant around [N, C, D, H, W]."""

    spatial = 3


class _Unvalued(_Pad):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding)


class ZeroPad1d(_Unvalued):
    """Zeros around [N, C, L]."""


class ZeroPad2d(_Unvalued):
    """Zeros around [N, C, H, W]."""

    spatial = 2


class ZeroPad3d(_Unvalued):
    """Zeros around [N, C, D, H, W]."""

    spatial = 3


class ReflectionPad1d(_Unvalued):
    """Mirrored at the edges, the edge itself once."""

    mode = "reflect"


class ReflectionPad2d(ReflectionPad1d):
    """Mirrored at the edges, the edge itself once."""

    spatial = 2


class ReflectionPad3d(ReflectionPad1d):
    """Mirrored at the edges, the edge itself once."""

    spatial = 3


class ReplicationPad1d(_Unvalued):
    """The edge repeated."""

    mode = "replicate"


class ReplicationPad2d(ReplicationPad1d):
    """The edge repeated."""

    spatial = 2


class ReplicationPad3d(ReplicationPad1d):
    """The edge repeated."""

    spatial = 3


class CircularPad1d(_Unvalued):
    """What leaves at one end enters at the other."""

    mode = "circular"


class CircularPad2d(CircularPad1d):
    """What leaves at one end enters at the other."""

    spatial = 2


class CircularPad3d(CircularPad1d):
    """What leaves at one end enters at the other."""

    spatial = 3
