"""Losses of classes: cross entropy and margins over class scores.

Class axes are 1 in batches ([N, C, ...]) and 0 in a single sample ([C]).  Classes are read by gather; positions whose
target is `ignore_index` count for nothing.
"""

from __future__ import annotations

from ..errors import DTypeError, GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.composites import log_sigmoid, log_softmax
from ..ops.indexing import gather, one_hot, take
from ..ops.prefixes import cumprod
from ..ops.reductions import mean, sum_
from ..ops.sources import iota, size_of
from ..ops.views import reshape, squeeze, unsqueeze
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import int64
from .ctc import forward_log_likelihood
from .losses_pointwise import reduced


def _class_axis(x: Tensor) -> int:
    return 0 if x.ndim == 1 else 1


def _class_weights(weight: TensorLike | None, x: Tensor, name: str) -> Tensor | None:
    if weight is None:
        return None
    w = e.cast(as_tensor(weight), x.dtype)
    if w.shape != (x.shape[_class_axis(x)],):
        raise ShapeError(f"{name}: one weight per class is needed, got {w.type} for {x.type}{at(user_origin())}")
    return w


def _class_targets(x: Tensor, target: TensorLike, name: str) -> Tensor:
    t = as_tensor(target)
    axis = _class_axis(x)
    if not t.dtype.is_integer:
        raise DTypeError(f"{name}: class targets must be integers, got {t.type}{at(user_origin())}")
    if not x.ndim or t.shape != tuple(s for a, s in enumerate(x.shape) if a != axis):
        raise ShapeError(f"{name}: target {t.type} does not fit input {x.type}; it has the input's shape without the "
                         f"class axis {axis}{at(user_origin())}")
    return e.cast(t, int64)


def nll_loss(input: TensorLike, target: TensorLike, weight: TensorLike | None = None, ignore_index: int = -100,
             reduction: str = "mean") -> Tensor:
    """-log-probability of the target class: input [N, C, ...] or [C]; the mean divides by the weights' sum."""
    x = as_tensor(input)
    t = _class_targets(x, target, "nll_loss")
    loss, weights = _picked_loss(x, t, _class_weights(weight, x, "nll_loss"), ignore_index)
    if reduction == "mean":
        return sum_(loss) / sum_(weights)
    return reduced(loss, reduction)


def _picked_loss(log_probability: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
                 ) -> tuple[Tensor, Tensor]:
    """Per position the weighted negative log-probability of its class, and that weight; both 0 where ignored."""
    axis = _class_axis(log_probability)
    counted = target != ignore_index
    safe = e.where(counted, target, 0)
    picked = squeeze(gather(log_probability, axis, unsqueeze(safe, axis)), axis)
    weights = e.cast(counted, picked.dtype)
    if weight is not None:
        weights = weights * take(weight, safe)
    return e.where(counted, -picked * weights, 0.0), weights


def cross_entropy(input: TensorLike, target: TensorLike, weight: TensorLike | None = None, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of softmax(input) [N, C, ...] or [C], through log_softmax: no overflow.

    target           class integers (the input's shape without the class axis), or probabilities of the input's shape
                     A class outside the axis makes the loss NaN (`check_numerics=True` raises) and no gradient leaves its row
    weight           one per class; the mean of class targets divides by the sum of the targets' weights
    ignore_index     class targets of this value count for nothing
    label_smoothing  this share of each target is spread evenly over all classes
    """
    x, t = as_tensor(input), as_tensor(target)
    if not 0.0 <= label_smoothing <= 1.0:
        raise GraphError(f"label_smoothing must be between 0 and 1, got {label_smoothing}{at(user_origin())}")
    if not x.ndim:
        raise ShapeError(f"cross_entropy needs class scores, got {x.type}{at(user_origin())}")
    axis = _class_axis(x)
    w = _class_weights(weight, x, "cross_entropy")
    log_probability = log_softmax(x, axis)
    if t.dtype.is_float:
        return _soft_target_loss(log_probability, t, w, reduction, label_smoothing)
    t = _class_targets(x, t, "cross_entropy")
    loss, weights = _picked_loss(log_probability, t, w, ignore_index)
    if label_smoothing:
        spread = log_probability if w is None else log_probability * _along(w, axis, x.ndim)
        even = e.where(t != ignore_index, -sum_(spread, axis), 0.0) / _classes(x)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * even
    if reduction == "mean":
        return sum_(loss) / sum_(weights)
    return reduced(loss, reduction)


def _along(weight: Tensor, axis: int, rank: int) -> Tensor:
    return reshape(weight, tuple(weight.shape[0] if a == axis else 1 for a in range(rank)))


def _classes(x: Tensor) -> Tensor:
    return size_of(x.shape[_class_axis(x)], x.dtype)


def _soft_target_loss(log_probability: Tensor, target: Tensor, weight: Tensor | None, reduction: str,
                      label_smoothing: float) -> Tensor:
    if target.shape != log_probability.shape:
        raise ShapeError(f"cross_entropy: probabilities must have the input's shape, got {target.type} for "
                         f"{log_probability.type}{at(user_origin())}")
    axis = _class_axis(log_probability)
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + label_smoothing / _classes(log_probability)
    weighted = target if weight is None else target * _along(weight, axis, target.ndim)
    return reduced(-sum_(log_probability * weighted, axis), reduction)


def multi_margin_loss(input: TensorLike, target: TensorLike, p: int = 1, margin: float = 1.0,
                      weight: TensorLike | None = None, reduction: str = "mean") -> Tensor:
    """sum over other classes of max(0, margin - x_target + x_class)^p, divided by the number of classes."""
    if p not in (1, 2):
        raise GraphError(f"multi_margin_loss: p is 1 or 2, got {p}{at(user_origin())}")
    x = as_tensor(input)
    if x.ndim not in (1, 2):
        raise ShapeError(f"multi_margin_loss takes [N, C] or [C], got {x.type}{at(user_origin())}")
    t = _class_targets(x, target, "multi_margin_loss")
    axis = x.ndim - 1
    own = gather(x, axis, unsqueeze(t, axis))
    excess = e.clip(margin - own + x, min=0.0)
    terms = excess if p == 1 else e.square(excess)
    w = _class_weights(weight, x, "multi_margin_loss")
    if w is not None:
        terms = terms * unsqueeze(take(w, t), axis)
    others = iota(x.shape, axis) != unsqueeze(t, axis)
    return reduced(sum_(e.where(others, terms, 0.0), axis) / _classes(x), reduction)


def multilabel_margin_loss(input: TensorLike, target: TensorLike, reduction: str = "mean") -> Tensor:
    """sum over target classes y and other classes i of max(0, 1 - x_y + x_i), divided by the number of classes.

    target   [N, C] or [C] class integers; those from the first -1 on do not count
    """
    x, t = as_tensor(input), as_tensor(target)
    if x.ndim not in (1, 2) or t.shape != x.shape or not t.dtype.is_integer:
        raise ShapeError(f"multilabel_margin_loss takes [N, C] or [C] and integers of that shape, got {x.type} and "
                         f"{t.type}{at(user_origin())}")
    axis = x.ndim - 1
    listed = cumprod(e.cast(t >= 0, int64), axis) > 0
    safe = e.where(listed, e.cast(t, int64), 0)
    own = gather(x, axis, safe)
    classes = x.shape[axis]
    marks = one_hot(safe, classes.__index__(), "bool") & unsqueeze(listed, -1)
    labelled = marks.any(axis)  # [.., class]
    pairs = unsqueeze(listed, -1) & ~unsqueeze(labelled, -2)  # [.., listed target, class]
    excess = e.clip(1.0 - unsqueeze(own, -1) + unsqueeze(x, -2), min=0.0)
    loss = sum_(e.where(pairs, excess, 0.0), [axis, axis + 1]) / _classes(x)
    return reduced(loss, reduction)


def multilabel_soft_margin_loss(input: TensorLike, target: TensorLike, weight: TensorLike | None = None,
                                reduction: str = "mean") -> Tensor:
    """The mean over classes (the last axis) of -(t log sigmoid(x) + (1 - t) log sigmoid(-x)), weighted per class."""
    x, t = as_tensor(input), as_tensor(target)
    loss = -(t * log_sigmoid(x) + (1.0 - t) * log_sigmoid(-x))
    return reduced(mean(loss if weight is None else loss * weight, -1), reduction)


def combined_margin_loss(input: TensorLike, label: TensorLike, m1: float = 1.0, m2: float = 0.0, m3: float = 0.0
                         ) -> Tensor:
    """Cosines [N, C] with the label's one replaced by cos(m1 * angle + m2) - m3; scale them and take cross entropy.

    SphereFace (m1), ArcFace (m2) and CosFace (m3) in one form, as OneFlow's CombinedMarginLoss.
    """
    x = as_tensor(input)
    if x.ndim != 2:
        raise ShapeError(f"combined_margin_loss takes cosines [N, C], got {x.type}{at(user_origin())}")
    t = _class_targets(x, label, "combined_margin_loss")
    chosen = iota(x.shape, 1) == unsqueeze(t, 1)
    if m1 == 1.0 and m2 == 0.0:
        return e.where(chosen, x - m3, x)
    cosine = e.where(chosen, x, 0.0)  # elsewhere the arc cosine's infinite slope at 1 is of no concern
    return e.where(chosen, e.cos(e.acos(cosine) * m1 + m2) - m3, x)


def ctc_loss(log_probs: TensorLike, targets: TensorLike, input_lengths: TensorLike, target_lengths: TensorLike,
             blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> Tensor:
    """Connectionist temporal classification (Graves et al. 2006): -log of the probability of all alignments.

    log_probs       [T, N, C] (or [T, C]) log-probabilities
    targets         [N, S] integers, or all targets one after another (then target_lengths must be numbers, not symbols)
    input_lengths   [N] time steps that count;  target_lengths  [N] labels that count
    reduction       the mean divides each loss by its target length first
    zero_infinity   impossible alignments (longer target than input) give 0 instead of infinity
    """
    loss, lengths = forward_log_likelihood(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
    if reduction == "mean":
        return mean(loss / e.maximum(lengths, 1).astype(loss.dtype))
    return reduced(loss, reduction)
