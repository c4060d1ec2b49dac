"""Distances, and losses on distances between embeddings."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.axes import normal_axis
from ..ops.reductions import norm, sum_
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from .losses_pointwise import reduced

COSINE_EPSILON = 1e-12  # added to squared lengths by PyTorch's cosine_embedding_loss


def pairwise_distance(x1: TensorLike, x2: TensorLike, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps over the last axis."""
    return norm(as_tensor(x1) - x2 + eps, p, -1, keepdim)


def cosine_similarity(x1: TensorLike, x2: TensorLike, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 over the product of their lengths (at least eps each) along an axis."""
    a, b = e.common(x1, x2, floating=True)
    axis = normal_axis(dim, a.ndim)
    lengths = [e.clip(norm(v, 2, axis, True), min=eps) for v in (a, b)]
    return sum_((a / lengths[0]) * (b / lengths[1]), axis)


def margin_ranking_loss(input1: TensorLike, input2: TensorLike, target: TensorLike, margin: float = 0.0,
                        reduction: str = "mean") -> Tensor:
    """max(0, -t (x1 - x2) + margin): for t = 1, x1 should be the greater."""
    a, b, t = as_tensor(input1), as_tensor(input2), as_tensor(target)
    if not a.ndim == b.ndim == t.ndim:
        raise ShapeError(f"margin_ranking_loss: {a.type}, {b.type} and {t.type} differ in dimensions{at(user_origin())}")
    return reduced(e.clip(-t * (a - b) + margin, min=0.0), reduction)


def triplet_margin_with_distance_loss(anchor: TensorLike, positive: TensorLike, negative: TensorLike, *,
                                      distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
                                      margin: float = 1.0, swap: bool = False, reduction: str = "mean") -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin); `swap` takes the nearer of d(a, n) and d(p, n)."""
    if margin <= 0:
        raise GraphError(f"triplet_margin_with_distance_loss: margin must be positive, got {margin}{at(user_origin())}")
    a, p, n = as_tensor(anchor), as_tensor(positive), as_tensor(negative)
    if not a.ndim == p.ndim == n.ndim:
        raise ShapeError(f"triplet loss: {a.type}, {p.type} and {n.type} differ in dimensions{at(user_origin())}")
    distance = distance_function or pairwise_distance
    near, far = distance(a, p), distance(a, n)
    if swap:
        far = e.minimum(far, distance(p, n))
    return reduced(e.clip(near - far + margin, min=0.0), reduction)


def triplet_margin_loss(anchor: TensorLike, positive: TensorLike, negative: TensorLike, margin: float = 1.0,
                        p: float = 2.0, eps: float = 1e-6, swap: bool = False, reduction: str = "mean") -> Tensor:
    """The triplet loss with the p-norm as distance (Balntas et al. 2016)."""
    return triplet_margin_with_distance_loss(anchor, positive, negative, margin=margin, swap=swap, reduction=reduction,
                                             distance_function=lambda a, b: pairwise_distance(a, b, p, eps))


def cosine_embedding_loss(input1: TensorLike, input2: TensorLike, target: TensorLike, margin: float = 0.0,
                          reduction: str = "mean") -> Tensor:
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1; inputs [N, D] or [D]."""
    a, b, t = as_tensor(input1), as_tensor(input2), as_tensor(target)
    if t.ndim not in (0, 1) or a.ndim != t.ndim + 1 or b.ndim != t.ndim + 1:
        raise ShapeError(f"cosine_embedding_loss takes inputs [N, D] and a target [N] (or [D] and a scalar), "
                         f"got {a.type}, {b.type} and {t.type}{at(user_origin())}")
    squares = [sum_(e.square(v), -1) + COSINE_EPSILON for v in (a, b)]
    cosine = sum_(a * b, -1) / e.sqrt(squares[0] * squares[1])
    loss = e.where(t == 1, 1.0 - cosine, 0.0) + e.where(t == -1, e.clip(cosine - margin, min=0.0), 0.0)
    return reduced(loss, reduction)
