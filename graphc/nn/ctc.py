"""Connectionist temporal classification: the forward recursion over alignments, in log space.

The recursion is a loop of the graph over the time axis, whose size may be open.  Minus infinity is a number here: it marks
alignments that cannot
be, and must not give NaN in a gradient, so sums of exponentials are taken over operands that were made finite first.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import GraphError, ShapeError
from ..loops import scan
from ..ops import elementwise as e
from ..ops.composites import logsumexp
from ..ops.indexing import gather
from ..ops.shaping import stack
from ..ops.sources import iota
from ..ops.views import expand_to, pad_with, reshape, slice_, unsqueeze
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor, constant
from ..types import int64


def _numbers(value: TensorLike, what: str) -> np.ndarray:
    if isinstance(value, Tensor) and "value" in value.node.attributes:
        return value.node.attributes["value"]
    if isinstance(value, Tensor):
        raise GraphError(f"ctc_loss: targets one after another need {what} as numbers, not symbols{at(user_origin())}")
    return np.asarray(value)


def _rows(targets: Tensor, lengths: TensorLike, blank: int) -> Tensor:
    """Targets that stand one after another, as rows filled up with a class that does not count."""
    counts = [int(n) for n in np.atleast_1d(_numbers(lengths, "target_lengths"))]
    if targets.shape != (sum(counts),):
        raise ShapeError(f"ctc_loss: target lengths add up to {sum(counts)}, got {targets.type}{at(user_origin())}")
    longest, start, rows = max([1, *counts]), 0, []
    for n in counts:
        rows.append(pad_with(slice_(targets, (start,), (1,), (n,)), (0,), (longest - n,), (0,), blank))
        start += n
    return stack(rows, 0)


def _joined(parts: list[Tensor]) -> Tensor:
    """log of the sum of exponentials of tensors of one shape; no NaN where all are minus infinity."""
    return logsumexp(stack(parts, 0), 0)


def _moved(scores: Tensor, by: int) -> Tensor:
    """Scores of [N, L] moved right along the labels; minus infinity enters."""
    n, width = scores.shape
    grown = pad_with(scores, (0, by), (0, 0), (0, 0), -math.inf)
    return slice_(grown, (0, 0), (1, 1), (n, width))


def forward_log_likelihood(log_probs: TensorLike, targets: TensorLike, input_lengths: TensorLike,
                           target_lengths: TensorLike, blank: int, zero_infinity: bool) -> tuple[Tensor, Tensor]:
    """Per sequence the negative log-likelihood, and the target length: shapes [N], or 0-d for a single sequence."""
    lp, labels = as_tensor(log_probs), as_tensor(targets)
    single = lp.ndim == 2
    if single:
        lp, labels = unsqueeze(lp, 1), reshape(labels, (1, -1))
    if lp.ndim != 3:
        raise ShapeError(f"ctc_loss takes log-probabilities [T, N, C] or [T, C], got {lp.type}{at(user_origin())}")
    _, batch, classes = lp.shape
    if isinstance(classes, int) and not 0 <= blank < classes:
        raise GraphError(f"ctc_loss: blank {blank} is no class of {classes}{at(user_origin())}")
    if not labels.dtype.is_integer:
        raise ShapeError(f"ctc_loss: targets must be integers, got {labels.type}{at(user_origin())}")
    if labels.ndim == 1:
        labels = _rows(labels, target_lengths, blank)
    n_inputs = _lengths(input_lengths, batch, "input_lengths")
    n_targets = _lengths(target_lengths, batch, "target_lengths")
    if labels.shape[0] != batch:
        raise ShapeError(f"ctc_loss: {labels.shape[0]} targets for a batch of {batch}{at(user_origin())}")
    loss = _likelihood(lp, e.cast(labels, int64), n_inputs, n_targets, blank)
    if zero_infinity:
        loss = e.where(e.isinf(loss), 0.0, loss)
    return (reshape(loss, ()), reshape(n_targets, ())) if single else (loss, n_targets)


def _lengths(value: TensorLike, batch: object, what: str) -> Tensor:
    lengths = e.cast(reshape(constant(value) if not isinstance(value, Tensor) else value, -1), int64)
    if lengths.shape != (batch,):
        raise ShapeError(f"ctc_loss: {what} must be [{batch}], got {lengths.type}{at(user_origin())}")
    return lengths


def _likelihood(lp: Tensor, labels: Tensor, n_inputs: Tensor, n_targets: Tensor, blank: int) -> Tensor:
    """Alignments walk over the labels with blanks between: at step t one may stay, advance, or skip a blank between
    two different labels."""
    steps, batch, _ = lp.shape
    width = 2 * labels.shape[1] + 1
    # blank label blank label ... blank
    extended = pad_with(labels, (0, 1), (0, 1), (0, 1), blank)
    place = iota((batch, width), 1)
    two_back = slice_(pad_with(extended, (0, 2), (0, 0), (0, 0), blank), (0, 0), (1, 1), (batch, width))
    skips = (extended != blank) & (extended != two_back) & (place >= 2)
    emitted = gather(lp, 2, expand_to(extended, (steps, batch, width)))

    def advance(carry: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], None]:
        (scores, history), (now, t) = carry, x
        joined = _joined([scores, _moved(scores, 1), e.where(skips, _moved(scores, 2), -math.inf)])
        scores = joined + now
        running = expand_to(unsqueeze(n_inputs, 1), (batch, width)) > t
        return (scores, e.where(running, scores, history)), None

    # before the first step, at the first blank: from there a step reaches the first blank and the first label
    start = e.cast(e.where(place == 0, 0.0, -math.inf), lp.dtype)
    (_, history), _ = scan(advance, (start, start), (emitted, iota((steps,))))
    ends = e.where((place == unsqueeze(2 * n_targets, 1)) | (place == unsqueeze(2 * n_targets - 1, 1)), history,
                   -math.inf)
    return -logsumexp(ends, 1)
