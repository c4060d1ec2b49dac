"""Loss modules: the functional losses with their arguments kept as attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import GraphError
from ..origins import at, user_origin
from ..symbols import Parameter as Cellular
from ..symbols import Tensor, TensorLike, state
from . import losses_classification as classes
from . import losses_embedding as embeddings
from . import losses_pointwise as pointwise
from .module import Module
from .parameter import value_of


class _Loss(Module):
    """Keeps the settings that its function takes by keyword; class weights become states, as in PyTorch."""

    function: Any = None
    reductions: tuple[str, ...] = ("none", "mean", "sum")

    def __init__(self, reduction: str, **settings: Any) -> None:
        super().__init__()
        if reduction not in self.reductions:
            raise GraphError(f"{type(self).__name__}: reduction is one of {', '.join(self.reductions)}, "
                             f"got {reduction!r}{at(user_origin())}")
        self._settings = ("reduction", *settings)
        self.reduction = reduction
        for name, value in settings.items():
            if name in ("weight", "pos_weight"):
                self.register_buffer(name, None if value is None else _class_weights(name, value))
            else:
                setattr(self, name, value)

    def forward(self, *tensors: TensorLike) -> Tensor:
        return type(self).function(*tensors, **{name: getattr(self, name) for name in self._settings})

    def extra_repr(self) -> str:
        shown = ((name, getattr(self, name)) for name in self._settings)
        return ", ".join(f"{n}={v!r}" for n, v in shown if v is not None and not isinstance(v, Cellular))


def _class_weights(name: str, value: Any) -> Cellular:
    values = value_of(value)
    return state(name, values, "float64" if values.dtype == np.float64 and isinstance(value, np.ndarray) else "float32")


class _Simple(_Loss):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)


class MSELoss(_Simple):
    """(input - target)^2."""

    function = staticmethod(pointwise.mse_loss)


class L1Loss(_Simple):
    """|input - target|."""

    function = staticmethod(pointwise.l1_loss)


class SoftMarginLoss(_Simple):
    """log(1 + exp(-t x)) for targets 1 and -1."""

    function = staticmethod(pointwise.soft_margin_loss)


class MultiLabelMarginLoss(_Simple):
    """Margins between listed classes and all others."""

    function = staticmethod(classes.multilabel_margin_loss)


class SmoothL1Loss(_Loss):
    """Quadratic below beta, linear above."""

    function = staticmethod(pointwise.smooth_l1_loss)

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction, beta=beta)


class HuberLoss(_Loss):
    """Quadratic up to delta, linear above."""

    function = staticmethod(pointwise.huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction, delta=delta)


class BCELoss(_Loss):
    """Binary cross entropy of probabilities."""

    function = staticmethod(pointwise.binary_cross_entropy)

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction, weight=weight)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy of sigmoid(input), without overflow."""

    function = staticmethod(pointwise.binary_cross_entropy_with_logits)

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction, weight=weight, pos_weight=pos_weight)


class KLDivLoss(_Loss):
    """t (log t - input) of log-probabilities; the mean is over elements, "batchmean" over the first axis."""

    function = staticmethod(pointwise.kl_div)
    reductions = ("none", "mean", "sum", "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction, log_target=log_target)


class PoissonNLLLoss(_Loss):
    """Negative log-likelihood of counts."""

    function = staticmethod(pointwise.poisson_nll_loss)

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean") -> None:
        super().__init__(reduction, log_input=log_input, full=full, eps=eps)


class GaussianNLLLoss(_Loss):
    """Negative log-likelihood of normal distributions: forward(input, target, var)."""

    function = staticmethod(pointwise.gaussian_nll_loss)

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction, full=full, eps=eps)


class HingeEmbeddingLoss(_Loss):
    """x for target 1, max(0, margin - x) for target -1."""

    function = staticmethod(pointwise.hinge_embedding_loss)

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin)


class NLLLoss(_Loss):
    """-log-probability of the target class."""

    function = staticmethod(classes.nll_loss)

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction, weight=weight, ignore_index=ignore_index)


class CrossEntropyLoss(_Loss):
    """Negative log-likelihood of softmax(input), for class integers or probabilities."""

    function = staticmethod(classes.cross_entropy)

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
                 label_smoothing: float = 0.0) -> None:
        super().__init__(reduction, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)


class MultiMarginLoss(_Loss):
    """Margins between the target class and all others."""

    function = staticmethod(classes.multi_margin_loss)

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction, p=p, margin=margin, weight=weight)


class MultiLabelSoftMarginLoss(_Loss):
    """Binary cross entropy of each class, averaged over classes."""

    function = staticmethod(classes.multilabel_soft_margin_loss)

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction, weight=weight)


class MarginRankingLoss(_Loss):
    """max(0, -t (x1 - x2) + margin)."""

    function = staticmethod(embeddings.margin_ranking_loss)

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin)


class TripletMarginLoss(_Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with the p-norm."""

    function = staticmethod(embeddings.triplet_margin_loss)

    def __init__(self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False,
                 reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin, p=p, eps=eps, swap=swap)


class TripletMarginWithDistanceLoss(_Loss):
    """The triplet loss with a distance of one's own."""

    function = staticmethod(embeddings.triplet_margin_with_distance_loss)

    def __init__(self, *, distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0,
                 swap: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction, distance_function=distance_function, margin=margin, swap=swap)


class CosineEmbeddingLoss(_Loss):
    """1 - cos for target 1, max(0, cos - margin) for target -1."""

    function = staticmethod(embeddings.cosine_embedding_loss)

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin)


class CTCLoss(_Loss):
    """Connectionist temporal classification: forward(log_probs, targets, input_lengths, target_lengths)."""

    function = staticmethod(classes.ctc_loss)

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction, blank=blank, zero_infinity=zero_infinity)


class CombinedMarginLoss(Module):
    """Cosines with the label's one replaced by cos(m1 * angle + m2) - m3 (OneFlow's)."""

    def __init__(self, m1: float = 1.0, m2: float = 0.0, m3: float = 0.0) -> None:
        super().__init__()
        self.m1, self.m2, self.m3 = m1, m2, m3

    def forward(self, input: TensorLike, label: TensorLike) -> Tensor:
        return classes.combined_margin_loss(input, label, self.m1, self.m2, self.m3)

    def extra_repr(self) -> str:
        return f"m1={self.m1}, m2={self.m2}, m3={self.m3}"
