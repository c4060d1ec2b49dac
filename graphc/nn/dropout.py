"""Dropout: elements, channels or (alpha) activations set aside at random in training, nothing in evaluation."""

from __future__ import annotations

import math

from ..errors import GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.overwriting import inplace as inplace_too
from ..ops.random import bernoulli
from ..ops.sources import zeros_like
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor, TensorLike, as_tensor
from ..types import Shape
from .activations import SELU_ALPHA, SELU_SCALE
from .randomness import RandomModule, advancing, fresh_key


def _checked(p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise GraphError(f"dropout: the probability must be between 0 and 1, got {p}{at(user_origin())}")
    return float(p)


def _dropped(x: Tensor, p: float, mask_shape: Shape, key: Parameter | None) -> Tensor:
    if p == 0.0:
        return x
    if p == 1.0:
        return zeros_like(x)
    own = fresh_key() if key is None else key
    kept = bernoulli(1.0 - p, mask_shape, seed=own)
    return advancing(e.where(kept, x * (1.0 / (1.0 - p)), 0.0), own)


@inplace_too
def dropout(input: TensorLike, p: float = 0.5, training: bool = True, inplace: bool = False, *,
            key: Parameter | None = None) -> Tensor:
    """Zeros with probability p, the rest scaled by 1 / (1 - p); the input itself where not training.

    key   an int64 state to draw from, which each step advances; a new one is made where it is not given
    """
    x = as_tensor(input)
    return _dropped(x, _checked(p), x.shape, key) if training else x


def _channels(x: Tensor, spatial: int, name: str) -> Shape:
    """The mask's shape: one value per channel, of [N, C, ...] or unbatched [C, ...]."""
    if x.ndim not in (spatial + 1, spatial + 2):
        raise ShapeError(f"{name} takes {spatial + 1} or {spatial + 2} dimensions, got {x.type}{at(user_origin())}")
    return (*x.shape[:x.ndim - spatial], *(1,) * spatial)


@inplace_too
def dropout1d(input: TensorLike, p: float = 0.5, training: bool = True, inplace: bool = False, *,
              key: Parameter | None = None) -> Tensor:
    """Whole channels of [N, C, L] or [C, L] dropped."""
    x = as_tensor(input)
    return _dropped(x, _checked(p), _channels(x, 1, "dropout1d"), key) if training else x


@inplace_too
def dropout2d(input: TensorLike, p: float = 0.5, training: bool = True, inplace: bool = False, *,
              key: Parameter | None = None) -> Tensor:
    """Whole channels of [N, C, H, W] or [C, H, W] dropped."""
    x = as_tensor(input)
    return _dropped(x, _checked(p), _channels(x, 2, "dropout2d"), key) if training else x


@inplace_too
def dropout3d(input: TensorLike, p: float = 0.5, training: bool = True, inplace: bool = False, *,
              key: Parameter | None = None) -> Tensor:
    """Whole channels of [N, C, D, H, W] or [C, D, H, W] dropped."""
    x = as_tensor(input)
    return _dropped(x, _checked(p), _channels(x, 3, "dropout3d"), key) if training else x


def _alpha_dropped(x: Tensor, p: float, mask_shape: Shape, key: Parameter | None) -> Tensor:
    """Dropped elements take SELU's lower limit; an affine map then restores mean 0 and variance 1."""
    if p == 0.0:
        return x
    if p == 1.0:
        return zeros_like(x)
    own = fresh_key() if key is None else key
    low = -SELU_ALPHA * SELU_SCALE
    scale = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * low * low))
    kept = bernoulli(1.0 - p, mask_shape, seed=own)
    return advancing(e.where(kept, x, low) * scale - scale * low * p, own)


@inplace_too
def alpha_dropout(input: TensorLike, p: float = 0.5, training: bool = False, inplace: bool = False, *,
                  key: Parameter | None = None) -> Tensor:
    """Dropout for SELU networks, which keeps mean and variance (Klambauer et al. 2017)."""
    x = as_tensor(input)
    return _alpha_dropped(x, _checked(p), x.shape, key) if training else x


@inplace_too
def feature_alpha_dropout(input: TensorLike, p: float = 0.5, training: bool = False, inplace: bool = False, *,
                          key: Parameter | None = None) -> Tensor:
    """Alpha dropout of whole channels (axis 1)."""
    x = as_tensor(input)
    return _alpha_dropped(x, _checked(p), _channels(x, max(x.ndim - 2, 0), "feature_alpha_dropout"), key
                          ) if training else x


# -- modules ---------------------------------------------------------------------------------------------------------


class _Dropout(RandomModule):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p, self.inplace = _checked(p), inplace

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """Zeros with probability p in training, the rest scaled by 1 / (1 - p)."""

    def forward(self, input: TensorLike) -> Tensor:
        return dropout(input, self.p, self.training, self.inplace, key=self.key)


class Dropout1d(_Dropout):
    """Whole channels of [N, C, L] dropped."""

    def forward(self, input: TensorLike) -> Tensor:
        return dropout1d(input, self.p, self.training, self.inplace, key=self.key)


class Dropout2d(_Dropout):
    """Whole channels of [N, C, H, W] dropped."""

    def forward(self, input: TensorLike) -> Tensor:
        return dropout2d(input, self.p, self.training, self.inplace, key=self.key)


class Dropout3d(_Dropout):
    """Whole channels of [N, C, D, H, W] dropped."""

    def forward(self, input: TensorLike) -> Tensor:
        return dropout3d(input, self.p, self.training, self.inplace, key=self.key)


class AlphaDropout(_Dropout):
    """Dropout for SELU networks."""

    def forward(self, input: TensorLike) -> Tensor:
        return alpha_dropout(input, self.p, self.training, self.inplace, key=self.key)


class FeatureAlphaDropout(_Dropout):
    """Alpha dropout of whole channels."""

    def forward(self, input: TensorLike) -> Tensor:
        return feature_alpha_dropout(input, self.p, self.training, self.inplace, key=self.key)
