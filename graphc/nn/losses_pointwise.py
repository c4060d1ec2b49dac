"""Losses that compare two tensors element by element.

Each is a stable composition; where PyTorch's gradient is finite at an edge, so is ours, which takes a `where` around
the operand as well as around the result.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.composites import log_sigmoid
from ..ops.control import stop_gradient
from ..ops.reductions import mean, sum_
from ..ops.sources import size_of
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import format_shapes


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The loss as it is ("none"), its mean or its sum."""
    if reduction not in ("none", "mean", "sum"):
        raise GraphError(f"reduction is 'none', 'mean' or 'sum', got {reduction!r}{at(user_origin())}")
    return loss if reduction == "none" else mean(loss) if reduction == "mean" else sum_(loss)


def pair(input: TensorLike, target: TensorLike, name: str) -> tuple[Tensor, Tensor]:
    """Input and target; shapes that differ are broadcast with a warning, since that is seldom meant."""
    x, t = as_tensor(input), as_tensor(target)
    if x.shape != t.shape:
        warnings.warn(f"{name}: shapes {format_shapes((x.shape, t.shape))} differ and are broadcast; "
                      f"this gives wrong results where it is not meant", UserWarning, stacklevel=4)
    return x, t


def same_shape(input: TensorLike, target: TensorLike, name: str) -> tuple[Tensor, Tensor]:
    """Input and target of one shape, or a ShapeError."""
    x, t = as_tensor(input), as_tensor(target)
    if x.shape != t.shape:
        raise ShapeError(f"{name}: input {x.type} and target {t.type} differ in shape{at(user_origin())}")
    return x, t


def mse_loss(input: TensorLike, target: TensorLike, reduction: str = "mean", *, weight: TensorLike | None = None
             ) -> Tensor:
    """(input - target)^2."""
    x, t = pair(input, target, "mse_loss")
    return _weighted(e.square(x - t), weight, reduction)


def l1_loss(input: TensorLike, target: TensorLike, reduction: str = "mean", *, weight: TensorLike | None = None
            ) -> Tensor:
    """|input - target|."""
    x, t = pair(input, target, "l1_loss")
    return _weighted(e.abs_(x - t), weight, reduction)


def _weighted(loss: Tensor, weight: TensorLike | None, reduction: str) -> Tensor:
    """Weights multiply; the mean divides by their sum."""
    if weight is None:
        return reduced(loss, reduction)
    scaled = loss * weight
    if reduction == "mean":
        return sum_(scaled) / sum_(e.common(weight, loss)[0])
    return reduced(scaled, reduction)


def smooth_l1_loss(input: TensorLike, target: TensorLike, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where d = |input - target| is below beta, else d - beta / 2."""
    if beta < 0:
        raise GraphError(f"smooth_l1_loss: beta must not be negative, got {beta}{at(user_origin())}")
    x, t = pair(input, target, "smooth_l1_loss")
    if beta == 0:
        return reduced(e.abs_(x - t), reduction)
    d = e.abs_(x - t)
    return reduced(e.where(d < beta, e.square(x - t) * (0.5 / beta), d - 0.5 * beta), reduction)


def huber_loss(input: TensorLike, target: TensorLike, reduction: str = "mean", delta: float = 1.0,
               weight: TensorLike | None = None) -> Tensor:
    """d^2 / 2 where d = |input - target| is at most delta, else delta * (d - delta / 2)."""
    if delta <= 0:
        raise GraphError(f"huber_loss: delta must be positive, got {delta}{at(user_origin())}")
    x, t = pair(input, target, "huber_loss")
    d = e.abs_(x - t)
    return _weighted(e.where(d <= delta, 0.5 * e.square(x - t), delta * (d - 0.5 * delta)), weight, reduction)


LOWEST_LOG = -100.0  # PyTorch's limit, which keeps the loss of a certain and wrong prediction finite
SMALLEST_VARIANCE = float(np.float32(1e-12))  # and the least p * (1 - p) by which its gradient divides


def binary_cross_entropy(input: TensorLike, target: TensorLike, weight: TensorLike | None = None,
                         reduction: str = "mean") -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) of probabilities; logarithms end at -100, gradients at PyTorch's limit too."""
    p, t = same_shape(input, target, "binary_cross_entropy")
    extreme = p * (1.0 - p) < SMALLEST_VARIANCE
    certain = e.where(extreme, stop_gradient(p), p)
    positive = e.clip(e.log(certain), min=LOWEST_LOG)
    negative = e.clip(e.log1p(-certain), min=LOWEST_LOG)
    loss = -(t * positive + (1.0 - t) * negative)
    # where p is (almost) 0 or 1 the slope is a constant: nothing in value, (p - t) / 1e-12 in the gradient
    slope = stop_gradient((p - t) / SMALLEST_VARIANCE)
    loss = loss + e.where(extreme, (p - stop_gradient(p)) * slope, 0.0)
    return reduced(loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(input: TensorLike, target: TensorLike, weight: TensorLike | None = None,
                                     reduction: str = "mean", pos_weight: TensorLike | None = None) -> Tensor:
    """Binary cross entropy of sigmoid(input), without overflow; pos_weight scales the positive part per class."""
    x, t = same_shape(input, target, "binary_cross_entropy_with_logits")
    if pos_weight is None:
        loss = (1.0 - t) * x - log_sigmoid(x)
    else:
        factor = (e.common(pos_weight, x)[0] - 1.0) * t + 1.0
        loss = (1.0 - t) * x + factor * e.softplus(-x)
    return reduced(loss if weight is None else loss * weight, reduction)


def _x_log_x(t: Tensor) -> Tensor:
    """t log t, 0 at 0, with no gradient there (NaN below, as the logarithm's)."""
    return e.where(t == 0, 0.0, t * e.log(e.where(t == 0, 1.0, t)))


def kl_div(input: TensorLike, target: TensorLike, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t (log t - input), the input being log-probabilities; "batchmean" divides the sum by the first axis' size."""
    x, t = pair(input, target, "kl_div")
    loss = e.exp(t) * (t - x) if log_target else _x_log_x(t) - t * x
    if reduction == "batchmean":
        return sum_(loss) / size_of(x.shape[0], x.dtype) if x.ndim else loss
    return reduced(loss, reduction)


def poisson_nll_loss(input: TensorLike, target: TensorLike, log_input: bool = True, full: bool = False,
                     eps: float = 1e-8, reduction: str = "mean") -> Tensor:
    """exp(x) - t x, or x - t log(x + eps) where the input is no logarithm; `full` adds Stirling's term for t > 1."""
    x, t = as_tensor(input), as_tensor(target)
    loss = e.exp(x) - t * x if log_input else x - t * e.log(x + eps)
    if full:
        large = t > 1
        safe = e.where(large, t, 1.0)
        loss = loss + e.where(large, safe * e.log(safe) - safe + 0.5 * e.log(2 * math.pi * safe), 0.0)
    return reduced(loss, reduction)


def gaussian_nll_loss(input: TensorLike, target: TensorLike, var: TensorLike, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Tensor:
    """(log var + (x - t)^2 / var) / 2; var is kept above eps without losing its gradient."""
    x, t = as_tensor(input), as_tensor(target)
    variance = as_tensor(var, x)
    if variance.shape not in (x.shape, x.shape[:-1], (*x.shape[:-1], 1), ()):
        raise ShapeError(f"gaussian_nll_loss: var {variance.type} does not fit input {x.type}{at(user_origin())}")
    if variance.ndim and variance.shape == x.shape[:-1] and variance.shape != x.shape:
        variance = variance.unsqueeze(-1)
    limited = e.where(variance < eps, variance - stop_gradient(variance) + eps, variance)
    loss = 0.5 * (e.log(limited) + e.square(x - t) / limited)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


def soft_margin_loss(input: TensorLike, target: TensorLike, reduction: str = "mean") -> Tensor:
    """log(1 + exp(-t x)) for targets 1 and -1."""
    x, t = as_tensor(input), as_tensor(target)
    return reduced(e.softplus(-t * x), reduction)


def hinge_embedding_loss(input: TensorLike, target: TensorLike, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1."""
    x, t = as_tensor(input), as_tensor(target)
    far = e.where(t != 1, e.clip(margin - x, min=0.0), 0.0)
    return reduced(far + e.where(t != -1, x, 0.0), reduction)
