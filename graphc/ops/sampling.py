"""Drawing positions with given probabilities.

Knows random numbers, order and search.  Must not know models.
"""

from __future__ import annotations

from ..errors import ShapeError
from ..methods import public
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike, Size, float32, float64
from . import elementwise as e
from .prefixes import cumsum
from .random import uniform, uniform_for
from .sorting import argsort, searchsorted, topk


@public
def multinomial(input: TensorLike, num_samples: int, replacement: bool = False, *, seed: int | Tensor | None = None) -> Tensor:
    """[..., num_samples] int64 positions in rows of weights, drawn with probabilities in proportion to these.

    input         [..., n] weights: not negative, and not all zero; they need not add up to 1
    replacement   whether a position may be drawn again.  Without, the i-th is drawn from what is left, as the largest of
                  log(weight) plus Gumbel noise are (Vieira, "Gumbel-max trick and weighted reservoir sampling", 2014)
    A row without a positive weight gives no position of its own.
    Raises ShapeError where more positions are to be drawn than there are.
    """
    weights = as_tensor(input)
    weights = weights if weights.dtype.is_float else e.cast(weights, float32)
    if weights.ndim == 0 or (not replacement and isinstance(weights.shape[-1], int) and num_samples > weights.shape[-1]):
        raise ShapeError(f"multinomial: {num_samples} different positions of {weights.type}{at(user_origin())}")
    if replacement:
        below = cumsum(weights, -1)
        chance = uniform_for(weights, (*weights.shape[:-1], num_samples), dtype=weights.dtype, seed=seed)
        return searchsorted(below, chance * below[..., -1:], right=True)
    noise = -e.log(-e.log(uniform_for(weights, weights.shape, dtype=weights.dtype, seed=seed)))
    return topk(e.log(weights) + noise, num_samples, -1)[1]


@public
def randperm(n: Size, dtype: DTypeLike = "int64", *, seed: int | Tensor | None = None) -> Tensor:
    """The numbers 0 .. n - 1 in an order drawn at random: that of n uniform numbers."""
    return e.cast(argsort(uniform((n,), dtype=float64, seed=seed)), dtype)
