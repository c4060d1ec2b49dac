"""Losses against PyTorch: every argument, values and gradients, edges where PyTorch stays finite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as oracle

import graphc
from graphc import nn
from graphc.nn import functional as F

from .nn_oracle import Fixed, arrays_of, compare, ours, theirs

random = np.random.default_rng(5)
LABELS = random.integers(0, 5, size=4)
IGNORED = np.array([1, -100, 3, 0])
LABELS_2D = random.integers(0, 5, size=(3, 2, 2))
LABELS_2D[0, 0, 0] = 1
SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
SIGN_MATRIX = np.where(random.normal(size=(4, 5)) > 0, 1.0, -1.0)
PROBABILITIES = random.uniform(0.05, 0.95, size=(4, 5))
DISTRIBUTION = PROBABILITIES / PROBABILITIES.sum(1, keepdims=True)
WITH_ZERO = np.where(DISTRIBUTION < 0.1, 0.0, DISTRIBUTION)
BITS = (random.normal(size=(4, 5)) > 0).astype(float)
COUNTS = random.poisson(3.0, size=(4, 5)).astype(float)
WEIGHT = np.array([0.5, 1.5, 1.0, 2.0, 0.25])
LISTED = np.array([[3, 0, -1, 1, 2], [2, -1, -1, -1, -1], [-1, 0, 1, 2, 3], [4, 3, 2, 1, 0]])
VARIANCE = random.uniform(0.2, 2.0, size=(4, 5))
X = (4, 5)

# (our name, PyTorch's name, keyword settings to try, operands)
TABLE: list[tuple[str, list[dict[str, Any]], tuple[Any, ...]]] = [
    ("mse_loss", [{}], (X, X)),
    ("l1_loss", [{}], (X, X)),
    ("smooth_l1_loss", [{}, {"beta": 0.3}, {"beta": 0.0}], (X, X)),
    ("huber_loss", [{}, {"delta": 0.4}], (X, X)),
    ("binary_cross_entropy", [{}, {"weight": WEIGHT}], (PROBABILITIES, BITS)),
    ("binary_cross_entropy_with_logits", [{}, {"weight": WEIGHT}, {"pos_weight": WEIGHT}], (X, PROBABILITIES)),
    ("kl_div", [{}, {"log_target": True}, {"reduction": "batchmean"}], (X, DISTRIBUTION)),
    ("kl_div", [{}], (X, Fixed(WITH_ZERO))),
    ("poisson_nll_loss", [{}, {"full": True}], (X, Fixed(COUNTS))),
    ("poisson_nll_loss", [{"log_input": False}, {"log_input": False, "full": True}], (PROBABILITIES, Fixed(COUNTS))),
    ("gaussian_nll_loss", [{}, {"full": True}, {"eps": 0.7}], (X, X, VARIANCE)),
    ("gaussian_nll_loss", [{}], (X, X, VARIANCE[:, :1])),
    ("gaussian_nll_loss", [{}], (X, X, VARIANCE[:, 0])),
    ("soft_margin_loss", [{}], (X, Fixed(SIGN_MATRIX))),
    ("hinge_embedding_loss", [{}, {"margin": 0.4}], (X, SIGN_MATRIX)),
    ("margin_ranking_loss", [{}, {"margin": 0.5}], ((4,), (4,), SIGNS)),
    ("triplet_margin_loss", [{}, {"p": 1.0}, {"p": 3.0}, {"margin": 0.3, "swap": True}], (X, X, X)),
    ("triplet_margin_with_distance_loss", [{}, {"swap": True, "margin": 2.0}], (X, X, X)),
    ("cosine_embedding_loss", [{}, {"margin": -0.5}], (X, X, SIGNS)),
    ("cosine_embedding_loss", [{}], ((5,), (5,), np.array(1.0))),
    ("nll_loss", [{}, {"weight": WEIGHT}], (X, LABELS)),
    ("nll_loss", [{}, {"weight": WEIGHT}], (X, IGNORED)),
    ("nll_loss", [{}, {"weight": WEIGHT, "ignore_index": 1}], ((3, 5, 2, 2), LABELS_2D)),
    ("nll_loss", [{}], ((5,), np.array(3))),
    ("cross_entropy", [{}, {"weight": WEIGHT}, {"label_smoothing": 0.2}, {"label_smoothing": 0.2, "weight": WEIGHT},
                       {"ignore_index": int(LABELS[0]), "label_smoothing": 0.1, "weight": WEIGHT}], (X, LABELS)),
    ("cross_entropy", [{}, {"label_smoothing": 0.1}], (X, IGNORED)),
    ("cross_entropy", [{}, {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.3}], ((3, 5, 2, 2), LABELS_2D)),
    ("cross_entropy", [{}, {"label_smoothing": 0.1}], ((5,), np.array(3))),
    ("cross_entropy", [{}, {"weight": WEIGHT}, {"label_smoothing": 0.2, "weight": WEIGHT}], (X, DISTRIBUTION)),
    ("cross_entropy", [{}, {"weight": WEIGHT}], ((2, 5, 3), (2, 5, 3))),
    ("cross_entropy", [{}], ((5,), DISTRIBUTION[0])),
    ("multi_margin_loss", [{}, {"p": 2, "margin": 0.5}, {"weight": WEIGHT}], (X, LABELS)),
    ("multi_margin_loss", [{}], ((5,), np.array(2))),
    ("multilabel_margin_loss", [{}], (X, LISTED)),
    ("multilabel_margin_loss", [{}], ((5,), LISTED[0])),
    ("multilabel_soft_margin_loss", [{}, {"weight": WEIGHT}], (X, BITS)),
]
REDUCTIONS = ("none", "mean", "sum")
CASES = [(name, settings, operands) for name, many, operands in TABLE for settings in many]


def with_tensors(settings: dict[str, Any], dtype: str) -> dict[str, Any]:
    return {k: torch.tensor(v.astype(dtype)) if isinstance(v, np.ndarray) else v for k, v in settings.items()}


def with_arrays(settings: dict[str, Any], dtype: str) -> dict[str, Any]:
    return {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in settings.items()}


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize(("dtype", "backend"), [("float64", "interpreter"), ("float32", "native")])
@pytest.mark.parametrize(("name", "settings", "operands"), CASES,
                         ids=[f"{n}-{k}" for k, (n, _, _) in enumerate(CASES)])
def test_a_loss_is_pytorchs(name: str, settings: dict[str, Any], operands: tuple[Any, ...], dtype: str,
                           backend: str) -> None:
    for reduction in [settings["reduction"]] if "reduction" in settings else REDUCTIONS:
        chosen = {**settings, "reduction": reduction}
        mine, other = getattr(F, name), getattr(oracle, name)
        compare(partial(mine, **with_arrays(chosen, dtype)), partial(other, **with_tensors(chosen, dtype)), *operands,
                dtype=dtype, backend=backend)


MODULES: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("MSELoss", {"reduction": "sum"}, (X, X)), ("L1Loss", {"reduction": "none"}, (X, X)),
    ("SmoothL1Loss", {"beta": 0.5}, (X, X)), ("HuberLoss", {"delta": 0.5}, (X, X)),
    ("BCELoss", {"weight": WEIGHT}, (PROBABILITIES, BITS)), ("BCEWithLogitsLoss", {"pos_weight": WEIGHT}, (X, BITS)),
    ("KLDivLoss", {"reduction": "batchmean"}, (X, DISTRIBUTION)), ("PoissonNLLLoss", {"full": True}, (X, Fixed(COUNTS))),
    ("GaussianNLLLoss", {"full": True}, (X, X, VARIANCE)), ("SoftMarginLoss", {}, (X, Fixed(SIGN_MATRIX))),
    ("HingeEmbeddingLoss", {"margin": 0.5}, (X, SIGN_MATRIX)), ("NLLLoss", {"weight": WEIGHT}, (X, LABELS)),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.1}, (X, LABELS)),
    ("MultiMarginLoss", {"p": 2, "weight": WEIGHT}, (X, LABELS)), ("MultiLabelMarginLoss", {}, (X, LISTED)),
    ("MultiLabelSoftMarginLoss", {"weight": WEIGHT}, (X, BITS)),
    ("MarginRankingLoss", {"margin": 0.2}, ((4,), (4,), SIGNS)),
    ("TripletMarginLoss", {"swap": True, "p": 1.5}, (X, X, X)),
    ("TripletMarginWithDistanceLoss", {"margin": 0.7}, (X, X, X)),
    ("CosineEmbeddingLoss", {"margin": 0.1}, (X, X, SIGNS)),
]


@pytest.mark.parametrize(("name", "settings", "operands"), MODULES, ids=[m[0] for m in MODULES])
def test_a_loss_module_is_pytorchs(name: str, settings: dict[str, Any], operands: tuple[Any, ...]) -> None:
    mine = getattr(nn, name)(**settings)
    other = getattr(torch.nn, name)(**with_tensors(settings, "float64"))
    mine.load_state_dict(other.state_dict())
    compare(mine, other, *operands)


def edge(name: str, x: list[float], target: Any, **settings: Any) -> None:
    mine, other, wanted = getattr(F, name), getattr(oracle, name), np.asarray(target)
    compare(lambda a: mine(a, wanted, **settings), lambda a: other(a, torch.tensor(wanted), **settings), np.array(x))


def test_certain_probabilities_give_pytorchs_finite_loss_and_gradient() -> None:
    edge("binary_cross_entropy", [0.0, 0.0, 1.0, 1.0, 1e-13, 1e-13], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0], reduction="none")


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_large_logits_do_not_overflow(target: float) -> None:
    edge("binary_cross_entropy_with_logits", [1000.0, -1000.0, 0.0, 88.0], [target] * 4, reduction="none")


def test_large_scores_do_not_overflow() -> None:
    scores = np.array([[1e4, -1e4, 0.0], [500.0, 500.0, -500.0]])
    labels = np.array([1, 0])
    compare(lambda a: F.cross_entropy(a, labels), lambda a: oracle.cross_entropy(a, torch.tensor(labels)),
            scores)


def test_a_masked_class_has_no_gradient_and_no_nan() -> None:
    scores = np.array([[0.5, -np.inf, 1.0], [2.0, -np.inf, 0.0]])
    labels = np.array([0, 2])
    compare(lambda a: F.cross_entropy(a, labels), lambda a: oracle.cross_entropy(a, torch.tensor(labels)),
            scores)


def test_all_targets_ignored_gives_nan_as_a_mean_and_zero_as_a_sum() -> None:
    labels = np.array([-100, -100])
    for reduction in ("mean", "sum"):
        mine, other = partial(F.cross_entropy, reduction=reduction), partial(oracle.cross_entropy, reduction=reduction)
        got, _ = ours(lambda a, f=mine: f(a, labels), arrays_of((2, 3)))
        wanted, _ = theirs(lambda a, f=other: f(a, torch.tensor(labels)), arrays_of((2, 3)))
        np.testing.assert_array_equal(got[0], wanted[0])


def test_equal_vectors_give_a_finite_triplet_gradient() -> None:
    x = np.ones((2, 3))
    compare(lambda a, p, n: F.triplet_margin_loss(a, p, n, eps=0.0),
            lambda a, p, n: oracle.triplet_margin_loss(a, p, n, eps=0.0), x, x, x + 0.1)


# -- connectionist temporal classification ---------------------------------------------------------------------------

STEPS, BATCH, CLASSES = 7, 3, 4
TARGETS = np.array([[1, 2, 2], [3, 1, 0], [1, 1, 1]])
INPUT_LENGTHS, TARGET_LENGTHS = np.array([7, 5, 6]), np.array([3, 2, 3])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("flat", [False, True])
def test_ctc_is_pytorchs(reduction: str, flat: bool) -> None:
    targets = np.concatenate([t[:n] for t, n in zip(TARGETS, TARGET_LENGTHS, strict=True)]) if flat else TARGETS

    def mine(x: graphc.Tensor) -> graphc.Tensor:
        return F.ctc_loss(F.log_softmax(x, 2), targets, INPUT_LENGTHS, TARGET_LENGTHS, reduction=reduction)

    def other(x: torch.Tensor) -> torch.Tensor:
        return oracle.ctc_loss(x.log_softmax(2), torch.tensor(targets), torch.tensor(INPUT_LENGTHS),
                                            torch.tensor(TARGET_LENGTHS), reduction=reduction)

    compare(mine, other, (STEPS, BATCH, CLASSES), tolerance={"rtol": 1e-9, "atol": 1e-11})
    if reduction == "mean":
        compare(mine, other, (STEPS, BATCH, CLASSES), dtype="float32", backend="native")


def test_ctc_of_one_sequence_with_another_blank() -> None:
    loss = nn.CTCLoss(blank=3, reduction="sum")
    target = np.array([0, 1])

    def other(x: torch.Tensor) -> torch.Tensor:
        return oracle.ctc_loss(x.log_softmax(1), torch.tensor(target), torch.tensor(5), torch.tensor(2),
                                            blank=3, reduction="sum")

    compare(lambda x: loss(F.log_softmax(x, 1), target, np.array(5), np.array(2)), other, (5, CLASSES),
            tolerance={"rtol": 1e-9, "atol": 1e-11})


def test_ctc_of_an_impossible_alignment() -> None:
    targets, short = np.array([[1, 1, 1]]), np.array([4])  # equal neighbours need blanks between: 5 steps at least

    def loss(zero_infinity: bool) -> Callable[..., Any]:
        return lambda x: F.ctc_loss(F.log_softmax(x, 2), targets, short, np.array([3]), reduction="sum",
                                    zero_infinity=zero_infinity)

    value, _ = ours(loss(False), arrays_of((4, 1, 4)))
    assert np.isposinf(value[0])
    value, gradient = ours(loss(True), arrays_of((4, 1, 4)))
    assert value[0] == 0
    np.testing.assert_array_equal(gradient[0], 0)


# -- OneFlow's own ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m1", "m2", "m3"), [(1.0, 0.0, 0.35), (1.0, 0.5, 0.0), (0.9, 0.4, 0.15)])
def test_combined_margin_moves_the_angle_of_the_label_alone(m1: float, m2: float, m3: float) -> None:
    cosines, labels = random.uniform(-0.95, 0.95, size=(4, 5)), LABELS

    def other(x: torch.Tensor) -> torch.Tensor:
        chosen = oracle.one_hot(torch.tensor(labels), 5).bool()
        return torch.where(chosen, torch.cos(m1 * torch.acos(x) + m2) - m3, x)

    compare(lambda x: nn.CombinedMarginLoss(m1, m2, m3)(x, labels), other, cosines)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [
    lambda x, t: F.cross_entropy(x, t.float()[:, :1]), lambda x, t: F.nll_loss(x, x),
    lambda x, t: nn.MSELoss("average"),
    lambda x, t: F.cross_entropy(x, t, label_smoothing=2.0), lambda x, t: F.cross_entropy(x, t, weight=np.ones(7)),
    lambda x, t: F.binary_cross_entropy(x, x[:, :1]), lambda x, t: F.huber_loss(x, x, delta=0.0),
    lambda x, t: F.multi_margin_loss(x, t, p=3), lambda x, t: F.smooth_l1_loss(x, x, beta=-1.0),
    lambda x, t: F.triplet_margin_loss(x, x, x, margin=0.0), lambda x, t: nn.CrossEntropyLoss()(x, x[:, :2]),
])
def test_wrong_arguments_are_errors_that_graphc_raises(call: Callable[..., Any]) -> None:
    x, t = graphc.placeholder("x", (4, 5)), graphc.placeholder("t", (4, 1), "int64")
    with pytest.raises(graphc.GraphError):
        call(x, t)


def test_shapes_that_broadcast_by_accident_warn() -> None:
    with pytest.warns(UserWarning, match="broadcast"):
        F.mse_loss(graphc.placeholder("x", (4, 1)), graphc.placeholder("t", (4,)))


@pytest.mark.parametrize("backend", ("numpy", "native"))
@pytest.mark.parametrize("reduction", ("mean", "sum"))
def test_classes_that_are_ignored_or_do_not_exist(reduction: str, backend: str) -> None:
    """Ignored everywhere: as PyTorch.  A class outside the axis: the loss is NaN, and no gradient leaves its row."""
    scores = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    x, t = graphc.placeholder("x", (4, 5)), graphc.placeholder("t", (4,), "int64")
    loss = F.cross_entropy(x, t, reduction=reduction)
    program = graphc.function([x, t], (loss, graphc.grad(loss, x)), backend=backend)
    value, gradient = program(scores, np.full(4, -100))
    theirs = torch.tensor(scores, requires_grad=True)
    error = torch.nn.functional.cross_entropy(theirs, torch.full((4,), -100), reduction=reduction)
    np.testing.assert_array_equal(value, error.detach().numpy())
    np.testing.assert_array_equal(gradient, torch.autograd.grad(error, theirs)[0].numpy())
    value, gradient = program(scores, np.array([1, 7, 2, -3]))
    assert np.isnan(value) and np.isfinite(gradient).all()
    assert not gradient[[1, 3]].any() and gradient[[0, 2]].all()


@pytest.mark.parametrize("margin", (-1.0, -0.25, 2.0))
def test_margins_of_any_sign_are_pytorchs(margin: float) -> None:
    generator = np.random.default_rng(1)
    a, b = generator.standard_normal((2, 6)).astype(np.float64)
    sign = np.where(generator.random(6) < 0.5, -1.0, 1.0)
    for name, arrays in (("margin_ranking_loss", (a, b, sign)), ("hinge_embedding_loss", (a, sign))):
        found = getattr(F, name)(*map(graphc.constant, arrays), margin=margin).eval()
        wanted = getattr(torch.nn.functional, name)(*map(torch.tensor, arrays), margin=margin)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-10)
