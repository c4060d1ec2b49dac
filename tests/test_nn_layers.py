"""Layers and activations against PyTorch: values, gradients of inputs and weights, weights exchanged by state_dict."""

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

from .nn_oracle import Fixed, agree, arrays_of, compare, compare_modules, ours, randomize, run, theirs

X = (3, 4)
random = np.random.default_rng(11)

# -- activations -----------------------------------------------------------------------------------------------------

ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("ELU", {}), ("ELU", {"alpha": 0.5}), ("CELU", {"alpha": 0.7}), ("SELU", {}), ("GELU", {}),
    ("GELU", {"approximate": "tanh"}), ("ReLU", {}), ("ReLU6", {}), ("LeakyReLU", {"negative_slope": 0.2}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 0.7}), ("Hardsigmoid", {}), ("Hardswish", {}),
    ("Hardshrink", {"lambd": 0.3}), ("Softshrink", {"lambd": 0.3}), ("Tanhshrink", {}), ("Softplus", {}),
    ("Softplus", {"beta": 2.0, "threshold": 1.0}), ("Softsign", {}), ("SiLU", {}), ("Mish", {}), ("GLU", {"dim": 1}),
    ("LogSigmoid", {}), ("LogSoftmax", {"dim": 0}), ("Softmax", {"dim": 1}), ("Softmin", {"dim": 1}),
    ("Threshold", {"threshold": 0.1, "value": 20.0}), ("Sigmoid", {}), ("Tanh", {}),
]
EDGES = np.array([[-1e4, -100.0, -3.0, -1.0, -0.0, 0.0], [1e-30, 1.0, 3.0, 6.0, 100.0, 1e4]])
ROUNDED_BY_PYTORCH = {"CELU", "Hardsigmoid"}  # it keeps 1 / alpha and 1 / 6 in float32


@pytest.mark.parametrize(("dtype", "backend"), [("float64", "interpreter"), ("float32", "native")])
@pytest.mark.parametrize(("name", "settings"), ACTIVATIONS, ids=[f"{n}-{k}" for k, (n, _) in enumerate(ACTIVATIONS)])
def test_an_activation_is_pytorchs(name: str, settings: dict[str, Any], dtype: str, backend: str) -> None:
    mine, other = getattr(nn, name)(**settings), getattr(torch.nn, name)(**settings)
    bound = {"rtol": 1e-7, "atol": 1e-10} if name in ROUNDED_BY_PYTORCH and dtype == "float64" else None
    compare(mine, other, (5, 8), dtype=dtype, backend=backend, tolerance=bound)
    compare(lambda x: mine(3.0 * x), lambda x: other(3.0 * x), (5, 8), dtype=dtype, seed=3,
            backend=backend, tolerance=bound)
    if dtype == "float64":
        compare(mine, other, EDGES, tolerance=bound)  # kinks, and arguments at which a branch that is not taken overflows


def test_oneflows_activations() -> None:
    compare(nn.SquareReLU(), lambda x: torch.relu(x) ** 2, X)
    compare(nn.QuickGELU(), lambda x: x * torch.sigmoid(1.702 * x), X)


@pytest.mark.parametrize("slopes", [1, 4])
def test_prelu_learns_its_slopes(slopes: int) -> None:
    compare_modules(nn.PReLU(slopes), torch.nn.PReLU(slopes), (3, 4, 5))


def test_rrelu_draws_slopes_in_training_and_takes_their_mean_in_evaluation() -> None:
    layer, x = nn.RReLU(0.2, 0.4), graphc.placeholder("x", (200,))
    (drawn,) = run([x], [layer(x)], [-np.ones(200, np.float32)])
    assert 0.2 <= -drawn.max() < 0.25 and 0.35 < -drawn.min() <= 0.4
    compare(layer.eval(), torch.nn.RReLU(0.2, 0.4).eval(), X)


@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax"])
def test_softmax_converts_its_input_first(name: str) -> None:
    x = arrays_of((4, 50), dtype="float32")
    got, wanted = ours(lambda x: getattr(F, name)(40 * x, 1, dtype="float64"), x), \
        theirs(lambda x: getattr(oracle, name)(40 * x, 1, dtype=torch.float64), x)
    assert got[0][0].dtype == np.float64 and got[1][0].dtype == np.float32
    agree(got[0], wanted[0], {"rtol": 1e-10, "atol": 1e-12}, "value")
    agree(got[1], wanted[1], {"rtol": 2e-6, "atol": 2e-6}, "gradient")


def test_gumbel_softmax_gives_distributions_and_hard_ones_are_one_hot() -> None:
    x = graphc.placeholder("x", (50, 4), "float64")
    soft, hard = run([x], [F.gumbel_softmax(x, 0.7), F.gumbel_softmax(x, 0.7, hard=True)], arrays_of((50, 4)))
    np.testing.assert_allclose(soft.sum(1), 1.0)
    np.testing.assert_allclose(np.sort(hard, 1), np.tile([0.0, 0.0, 0.0, 1.0], (50, 1)), atol=1e-12)


# -- layers with weights ---------------------------------------------------------------------------------------------

INDICES = random.integers(0, 6, size=(3, 4))
# (name, positional arguments, keywords, operands)
LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[Any, ...]]] = [
    ("Linear", (4, 3), {}, ((5, 4),)), ("Linear", (4, 3), {"bias": False}, ((2, 5, 4),)), ("Linear", (4, 3), {}, ((4,),)),
    ("Bilinear", (4, 3, 2), {}, ((5, 4), (5, 3))), ("Bilinear", (4, 3, 2), {"bias": False}, ((2, 5, 4), (2, 5, 3))),
    ("Embedding", (6, 3), {}, (INDICES,)), ("Embedding", (6, 3), {"padding_idx": 2}, (INDICES,)),
    ("Embedding", (6, 3), {"padding_idx": -1}, (INDICES,)), ("Embedding", (6, 3), {"scale_grad_by_freq": True}, (INDICES,)),
    ("Embedding", (6, 3), {"scale_grad_by_freq": True, "padding_idx": 2}, (INDICES,)),
    ("EmbeddingBag", (6, 3), {"mode": "sum"}, (INDICES,)), ("EmbeddingBag", (6, 3), {"mode": "mean"}, (INDICES,)),
    ("EmbeddingBag", (6, 3), {"mode": "mean", "padding_idx": 2}, (INDICES,)),
    ("Flatten", (), {}, ((2, 3, 4),)), ("Flatten", (0, 1), {}, ((2, 3, 4),)), ("Unflatten", (1, (2, 2)), {}, ((3, 4),)),
    ("LayerNorm", (4,), {}, ((3, 4),)), ("LayerNorm", ([3, 4],), {"eps": 1e-3}, ((2, 3, 4),)),
    ("LayerNorm", (4,), {"bias": False}, ((2, 3, 4),)), ("LayerNorm", (4,), {"elementwise_affine": False}, ((3, 4),)),
    ("RMSNorm", (4,), {}, ((3, 4),)), ("RMSNorm", ([3, 4],), {"eps": 1e-3}, ((2, 3, 4),)),
    ("GroupNorm", (2, 6), {}, ((3, 6, 4),)), ("GroupNorm", (3, 6), {"affine": False}, ((2, 6),)),
    ("GroupNorm", (1, 4), {}, ((2, 4, 3, 3),)), ("GroupNorm", (2, 4), {"bias": False}, ((2, 4, 3, 3),)),
    ("InstanceNorm1d", (3,), {"affine": True}, ((2, 3, 5),)), ("InstanceNorm1d", (3,), {}, ((3, 5),)),
    ("InstanceNorm2d", (3,), {"affine": True}, ((2, 3, 4, 5),)), ("InstanceNorm3d", (2,), {}, ((2, 2, 3, 2, 2),)),
    ("LocalResponseNorm", (3,), {}, ((2, 5, 4),)), ("LocalResponseNorm", (2,), {"alpha": 0.1}, ((2, 5, 3, 3),)),
    ("BatchNorm2d", (3,), {"bias": False}, ((2, 3, 4, 4),)),
    ("InstanceNorm1d", (3,), {"affine": True, "bias": False}, ((2, 3, 4),)),
    ("BatchNorm1d", (4,), {}, ((5, 4),)), ("BatchNorm1d", (4,), {}, ((5, 4, 3),)),
    ("BatchNorm2d", (3,), {"affine": False}, ((2, 3, 4, 4),)), ("BatchNorm3d", (2,), {}, ((2, 2, 2, 3, 3),)),
    ("Conv1d", (3, 4, 3), {}, ((2, 3, 8),)), ("Conv1d", (4, 6, 3), {"groups": 2, "padding": 2}, ((2, 4, 8),)),
    ("Conv1d", (3, 4, 4), {"padding": "same", "dilation": 2}, ((2, 3, 9),)), ("Conv1d", (3, 4, 3), {}, ((3, 8),)),
    ("Conv1d", (2, 3, 3), {"padding": 2, "padding_mode": "reflect"}, ((2, 2, 6),)),
    ("Conv2d", (3, 4, 3), {}, ((2, 3, 6, 5),)), ("Conv2d", (3, 4, 1), {"stride": 2, "bias": False}, ((2, 3, 5, 5),)),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "groups": 2}, ((2, 4, 7, 6),)),
    ("Conv2d", (4, 4, 3), {"groups": 4, "padding": 1}, ((2, 4, 5, 5),)),
    ("Conv2d", (2, 3, 3), {"dilation": 2, "padding": 2, "stride": 2}, ((2, 2, 7, 7),)),
    ("Conv2d", (2, 3, 3), {"padding": "same"}, ((2, 2, 5, 4),)), ("Conv2d", (2, 3, 3), {"padding": "valid"}, ((2, 5, 4),)),
    ("Conv2d", (2, 3, 3), {"padding": (1, 2), "padding_mode": "circular"}, ((2, 2, 5, 4),)),
    ("Conv2d", (2, 3, 3), {"padding": "same", "padding_mode": "replicate"}, ((2, 2, 5, 4),)),
    ("Conv3d", (2, 3, 2), {}, ((2, 2, 4, 3, 3),)), ("Conv3d", (2, 4, 2), {"groups": 2, "stride": 2}, ((1, 2, 4, 4, 5),)),
    ("ConvTranspose1d", (3, 4, 3), {}, ((2, 3, 5),)),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2}, ((2, 4, 5),)),
    ("ConvTranspose2d", (3, 2, 3), {"stride": 2, "padding": 1, "output_padding": 1}, ((2, 3, 4, 3),)),
    ("ConvTranspose2d", (3, 2, (2, 3)), {"dilation": 2, "padding": (0, 3), "bias": False}, ((3, 4, 3),)),
    ("ConvTranspose2d", (2, 2, 1), {"padding": 1}, ((2, 2, 4, 4),)),
    ("ConvTranspose3d", (2, 2, 2), {"stride": 2}, ((1, 2, 2, 3, 2),)),
    ("MaxPool1d", (3,), {}, ((2, 3, 8),)), ("MaxPool1d", (2,), {"stride": 1, "dilation": 2, "padding": 1}, ((3, 8),)),
    ("MaxPool2d", (2,), {}, ((2, 3, 6, 5),)), ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, ((2, 3, 7, 6),)),
    ("MaxPool2d", (2,), {"stride": 2, "ceil_mode": True}, ((2, 3, 5, 5),)),
    ("MaxPool2d", (3,), {"stride": 2, "ceil_mode": True, "padding": 1}, ((2, 3, 6, 6),)),
    ("MaxPool2d", (2,), {"stride": 5, "ceil_mode": True}, ((2, 3, 5, 7),)),
    ("MaxPool2d", ((3, 2),), {"stride": (1, 2), "return_indices": True, "padding": (1, 0)}, ((2, 3, 5, 6),)),
    ("MaxPool3d", (2,), {}, ((2, 2, 4, 4, 5),)), ("MaxPool2d", ((2, 3),), {}, ((2, 3, 8, 9),)),
    ("MaxPool2d", ((3, 1),), {}, ((2, 3, 7, 4),)), ("Conv2d", (3, 4, 2), {"stride": 2}, ((2, 3, 6, 7),)),
    ("AvgPool1d", (3,), {"stride": 2, "padding": 1}, ((2, 3, 8),)), ("AvgPool2d", (2,), {}, ((2, 3, 6, 5),)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, ((2, 3, 7, 6),)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, ((2, 3, 6, 6),)),
    ("AvgPool2d", (2,), {"ceil_mode": True, "count_include_pad": False}, ((2, 3, 5, 5),)),
    ("AvgPool2d", (2,), {"divisor_override": 3}, ((3, 4, 4),)), ("AvgPool3d", (2,), {}, ((2, 2, 4, 4, 5),)),
    ("AdaptiveAvgPool1d", (3,), {}, ((2, 3, 8),)), ("AdaptiveAvgPool2d", ((None, 2),), {}, ((2, 3, 5, 6),)),
    ("AdaptiveAvgPool2d", (1,), {}, ((2, 3, 5, 6),)), ("AdaptiveAvgPool3d", ((2, 3, 1),), {}, ((2, 2, 4, 5, 3),)),
    ("AdaptiveMaxPool1d", (4,), {}, ((2, 3, 8),)), ("AdaptiveMaxPool2d", ((3, 1),), {}, ((2, 3, 5, 6),)),
    ("AdaptiveMaxPool3d", (2,), {}, ((2, 2, 4, 3, 5),)), ("LPPool1d", (4, 2), {}, ((2, 3, 8),)),
    ("LPPool2d", (2, 3), {"stride": 2}, ((2, 3, 7, 7),)),
    ("PixelShuffle", (2,), {}, ((2, 8, 3, 2),)), ("PixelUnshuffle", (2,), {}, ((2, 2, 4, 6),)),
    ("Unfold", ((2, 3),), {"padding": 1, "stride": (1, 2)}, ((2, 3, 4, 5),)),
    ("Unfold", (2,), {"dilation": 2}, ((3, 4, 5),)), ("Fold", ((4, 5), (2, 3)), {"stride": (2, 1)}, ((2, 12, 6),)),
    ("Fold", (4, 3), {"padding": 1, "dilation": 2, "stride": 1}, ((18, 4),)),
    ("ChannelShuffle", (2,), {}, ((2, 6, 3),)),
    ("Upsample", (), {"scale_factor": 2}, ((2, 3, 4, 3),)), ("Upsample", (), {"size": 7}, ((2, 3, 4),)),
    ("Upsample", (), {"scale_factor": 1.5}, ((2, 3, 4),)), ("Upsample", (), {"size": 3}, ((2, 3, 7),)),
    ("Upsample", (), {"scale_factor": 1.7, "mode": "linear"}, ((2, 3, 5),)),
    ("Upsample", (), {"scale_factor": 2, "mode": "bilinear"}, ((2, 3, 4, 3),)),
    ("Upsample", (), {"size": (5, 7), "mode": "bilinear", "align_corners": True}, ((2, 3, 4, 3),)),
    ("Upsample", (), {"size": (3, 2), "mode": "bilinear"}, ((2, 3, 5, 4),)),
    ("Upsample", (), {"scale_factor": 2, "mode": "bicubic"}, ((2, 3, 4, 5),)),
    ("Upsample", (), {"scale_factor": 2, "mode": "trilinear"}, ((1, 2, 3, 2, 2),)),
    ("UpsamplingBilinear2d", (), {"scale_factor": 2}, ((2, 3, 4, 3),)),
    ("UpsamplingNearest2d", (), {"size": (4, 6)}, ((2, 3, 4, 3),)),
    ("ConstantPad1d", ((1, 2), 0.5), {}, ((2, 3, 4),)), ("ConstantPad2d", ((1, -1, 2, 0), 3.0), {}, ((2, 3, 4, 5),)),
    ("ConstantPad3d", (1, 1.5), {}, ((2, 2, 2, 2, 2),)), ("ZeroPad2d", (2,), {}, ((2, 3, 4, 5),)),
    ("ReflectionPad1d", ((2, 1),), {}, ((2, 3, 4),)), ("ReflectionPad2d", ((1, 2, 0, 3),), {}, ((2, 3, 4, 5),)),
    ("ReplicationPad2d", (2,), {}, ((3, 4, 5),)), ("ReplicationPad3d", (1,), {}, ((1, 2, 2, 3, 2),)),
    ("CircularPad2d", ((1, 2, 2, 1),), {}, ((2, 3, 4, 5),)),
    ("CosineSimilarity", (), {}, (X, X)), ("CosineSimilarity", (), {"dim": 0}, (X, X)),
    ("PairwiseDistance", (), {}, (X, X)), ("PairwiseDistance", (1.0,), {"keepdim": True}, (X, X)),
    ("Softmax2d", (), {}, ((2, 3, 4, 5),)), ("Identity", (), {}, (X,)),
]


@pytest.mark.parametrize(("name", "arguments", "keywords", "operands"), LAYERS,
                         ids=[f"{layer[0]}-{k}" for k, layer in enumerate(LAYERS)])
def test_a_layer_is_pytorchs(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any],
                             operands: tuple[Any, ...]) -> None:
    mine = getattr(nn, name)(*arguments, **keywords)
    compare_modules(mine, getattr(torch.nn, name)(*arguments, **keywords), *operands)
    assert type(mine).__name__ in repr(mine)


COMPILED = [*LAYERS, ("LSTM", (3, 4), {}, ((5, 2, 3),)), ("GRU", (3, 4), {}, ((4, 2, 3),)),
            ("TransformerEncoderLayer", (6, 2, 8, 0.0), {}, ((3, 2, 6),))]


@pytest.mark.parametrize(("name", "arguments", "keywords", "operands"), COMPILED,
                         ids=[f"{layer[0]}-{k}" for k, layer in enumerate(COMPILED)])
def test_a_layer_in_a_native_program_in_float32(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any],
                                                operands: tuple[Any, ...]) -> None:
    compare_modules(getattr(nn, name)(*arguments, **keywords), getattr(torch.nn, name)(*arguments, **keywords),
                    *operands, dtype="float32", backend="native")


@pytest.mark.parametrize(("name", "arguments", "operand"), [
    ("Linear", (4, 3), (5, 4)), ("Conv2d", (3, 4, 3), (2, 3, 6, 5)), ("LayerNorm", (4,), (3, 4)),
    ("GroupNorm", (2, 4), (3, 4, 5)), ("GRU", (3, 4), (4, 2, 3)), ("AvgPool2d", (2,), (2, 3, 6, 6)),
    ("ConvTranspose2d", (2, 3, 3, 2), (2, 2, 4, 3))])
def test_a_layer_in_an_interpreted_program(name: str, arguments: tuple[Any, ...], operand: tuple[int, ...]) -> None:
    compare_modules(getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments), operand, backend="numpy")


def test_max_unlike_pytorchs_shares_the_gradient_of_a_tie() -> None:
    _, (gradient,) = ours(lambda x: F.max_pool1d(x, 2), [np.ones((1, 1, 2))])
    assert gradient[0, 0, 0] == gradient[0, 0, 1]


@pytest.mark.parametrize(("size", "step", "around", "apart"),
                         [(2, 1, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (2, 3, 1, 1), (3, 2, 1, 2)])
def test_where_windows_overlap_the_first_of_equals_gets_the_gradient(size: int, step: int, around: int, apart: int) -> None:
    x = np.random.default_rng(0).integers(0, 3, (2, 3, 9, 8)).astype(np.float64)  # many are equal
    for mine, other in zip(ours(lambda t: F.max_pool2d(t, size, step, around, apart), [x], backend="native"),
                           theirs(lambda t: torch.nn.functional.max_pool2d(t, size, step, around, apart), [x]), strict=True):
        np.testing.assert_allclose(mine[0], other[0], rtol=1e-12)


@pytest.mark.parametrize(("size", "step", "around"), [(2, 2, 1), (3, 2, 1), (2, 5, 0), ((3, 1), (2, 1), (1, 0))])
def test_integers_have_maxima_too(size: Any, step: Any, around: Any) -> None:
    x = np.random.default_rng(0).integers(-9, 0, (2, 3, 7, 5))
    t = graphc.placeholder("t", x.shape, "int64")
    found = graphc.function([t], F.max_pool2d(t, size, step, around, ceil_mode=True))(x)
    expected = torch.nn.functional.max_pool2d(torch.tensor(x, dtype=torch.float64), size, step, around, ceil_mode=True)
    np.testing.assert_array_equal(found, expected.numpy())


def test_nan_is_the_greatest_of_a_window() -> None:
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 1, 2] = np.nan
    (out,), _ = ours(lambda t: F.max_pool2d(t, 3, 1), [x], backend="native")
    expected = torch.nn.functional.max_pool2d(torch.tensor(x), 3, 1).numpy()
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))


def test_output_size_picks_a_size_of_a_transposed_convolution() -> None:
    mine, other = nn.ConvTranspose2d(2, 3, 3, stride=2), torch.nn.ConvTranspose2d(2, 3, 3, stride=2)
    compare_modules(mine, other, (1, 2, 4, 4), call=lambda m, xs: m(*xs, output_size=[10, 9]))
    with pytest.raises(graphc.ShapeError, match="impossible"):
        mine(graphc.placeholder("x", (1, 2, 4, 4), "float64"), output_size=[12, 9])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_unequal_length_by_a_padding_row(mode: str) -> None:
    compare_modules(nn.EmbeddingBag(6, 3, mode=mode, padding_idx=0),
                    torch.nn.EmbeddingBag(6, 3, mode=mode, padding_idx=0), np.array([[1, 0, 0], [0, 0, 0], [3, 3, 5]]))


# -- statistics that run along ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None, 0.7])
def test_running_statistics_after_steps_and_in_evaluation(momentum: float | None) -> None:
    mine, other = nn.BatchNorm1d(4, momentum=momentum), torch.nn.BatchNorm1d(4, momentum=momentum)
    mine.double()
    other.double()
    randomize(other, 3)
    mine.load_state_dict(other.state_dict())
    x = graphc.placeholder("x", ("batch", 4), "float64")
    step = graphc.function([x], mine(x), backend="numpy")
    for seed in range(3):
        (batch,) = arrays_of((5 + seed, 4), seed=seed)
        np.testing.assert_allclose(step(batch), other(torch.tensor(batch)).detach().numpy(), rtol=1e-10)
    state = mine.state_dict()
    assert list(state) == list(other.state_dict())
    for name, value in other.state_dict().items():
        np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-12, err_msg=name)
    mine.eval()
    other.eval()
    compare(mine, other, (5, 4))


def test_untracked_statistics_are_the_batchs_in_evaluation_too() -> None:
    mine = nn.BatchNorm2d(3, track_running_stats=False).double().eval()
    other = torch.nn.BatchNorm2d(3, track_running_stats=False).double().eval()
    assert list(mine.state_dict()) == list(other.state_dict())
    compare(mine, other, (2, 3, 4, 4))


def test_one_value_per_channel_has_no_variance() -> None:
    with pytest.raises(graphc.ShapeError, match="variance"):
        nn.BatchNorm1d(4)(graphc.placeholder("x", (1, 4)))


# -- recurrent -------------------------------------------------------------------------------------------------------

RECURRENT: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}), ("RNN", {"nonlinearity": "relu", "bias": False}), ("LSTM", {}), ("GRU", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}), ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("RNN", {"num_layers": 2}), ("LSTM", {"proj_size": 2, "num_layers": 2}), ("GRU", {"bias": False}),
]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("name", "settings"), RECURRENT, ids=[f"{n}-{k}" for k, (n, _) in enumerate(RECURRENT)])
def test_a_recurrent_layer_is_pytorchs(name: str, settings: dict[str, Any], batch_first: bool) -> None:
    made = {**settings, "batch_first": batch_first}
    compare_modules(getattr(nn, name)(3, 4, **made), getattr(torch.nn, name)(3, 4, **made), (4, 2, 3))


def test_initial_states_and_a_single_sequence() -> None:
    compare_modules(nn.GRU(3, 4, 2), torch.nn.GRU(3, 4, 2), (5, 2, 3), (2, 2, 4))
    compare_modules(nn.LSTM(3, 4), torch.nn.LSTM(3, 4), (5, 2, 3), (1, 2, 4), (1, 2, 4),
                    call=lambda m, xs: m(xs[0], (xs[1], xs[2])))
    compare_modules(nn.LSTM(3, 4), torch.nn.LSTM(3, 4), (5, 3))
    compare_modules(nn.RNN(3, 4), torch.nn.RNN(3, 4), (5, 3), (1, 4))


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_a_cell_is_pytorchs(name: str) -> None:
    compare_modules(getattr(nn, name)(3, 4), getattr(torch.nn, name)(3, 4), (2, 3))
    compare_modules(getattr(nn, name)(3, 4, bias=False), getattr(torch.nn, name)(3, 4, bias=False), (3,))
    if name == "LSTMCell":
        compare_modules(nn.LSTMCell(3, 4), torch.nn.LSTMCell(3, 4), (2, 3), (2, 4), (2, 4),
                        call=lambda m, xs: m(xs[0], (xs[1], xs[2])))


# -- attention -------------------------------------------------------------------------------------------------------

Q, K, V = (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2)
VISIBLE = random.normal(size=(4, 6)) > -0.3
VISIBLE[:, 0] = True


@pytest.mark.parametrize("settings", [
    {}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": VISIBLE}, {"attn_mask": random.normal(size=(2, 1, 4, 6))},
    {"attn_mask": np.zeros((4, 6), bool)}], ids=["plain", "scale", "causal", "bools", "floats", "nothing visible"])
def test_scaled_dot_product_attention_is_pytorchs(settings: dict[str, Any]) -> None:
    reference: dict[str, Any] = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in settings.items()}
    compare(partial(F.scaled_dot_product_attention, **settings), partial(oracle.scaled_dot_product_attention, **reference),
            Q, K, V)


def test_grouped_queries() -> None:
    compare(partial(F.scaled_dot_product_attention, enable_gqa=True),
            partial(oracle.scaled_dot_product_attention, enable_gqa=True), (2, 4, 3, 5), (2, 2, 6, 5), (2, 2, 6, 5))


HEADS: list[tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]] = [
    ({}, ((4, 2, 6), (5, 2, 6), (5, 2, 6)), {}),
    ({"batch_first": True, "bias": False}, ((2, 4, 6), (2, 5, 6), (2, 5, 6)), {"average_attn_weights": False}),
    ({"kdim": 3, "vdim": 4}, ((4, 2, 6), (5, 2, 3), (5, 2, 4)), {"need_weights": False}),
    ({"add_bias_kv": True, "add_zero_attn": True}, ((4, 2, 6), (5, 2, 6), (5, 2, 6)),
     {"attn_mask": random.normal(size=(4, 5)) > 0.8, "key_padding_mask": np.array([[False] * 4 + [True]] * 2)}),
    ({}, ((4, 6), (5, 6), (5, 6)), {"attn_mask": random.normal(size=(4, 5))}),
    ({}, ((4, 2, 6), (5, 2, 6), (5, 2, 6)), {"attn_mask": random.normal(size=(4, 4, 5))}),
]


@pytest.mark.parametrize(("settings", "operands", "call"), HEADS, ids=range(len(HEADS)))
def test_multihead_attention_is_pytorchs(settings: dict[str, Any], operands: tuple[Any, ...], call: dict[str, Any]
                                         ) -> None:
    other = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
    compare_modules(nn.MultiheadAttention(6, 2, **settings), torch.nn.MultiheadAttention(6, 2, **settings), *operands,
                    call=lambda m, xs: m(*xs, **(call if isinstance(m, nn.Module) else other)))


@pytest.mark.parametrize("settings", [{}, {"norm_first": True, "activation": "gelu", "batch_first": True},
                                      {"bias": False}])
def test_transformer_layers_are_pytorchs(settings: dict[str, Any]) -> None:
    made = {"d_model": 6, "nhead": 2, "dim_feedforward": 8, "dropout": 0.0, **settings}
    compare_modules(nn.TransformerEncoderLayer(**made), torch.nn.TransformerEncoderLayer(**made), (3, 2, 6))
    compare_modules(nn.TransformerDecoderLayer(**made), torch.nn.TransformerDecoderLayer(**made), (3, 2, 6), (3, 2, 6))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_whole_transformer_is_pytorchs() -> None:
    made: dict[str, Any] = {"d_model": 4, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 1,
                            "dim_feedforward": 5, "dropout": 0.0}
    mask = np.triu(np.full((3, 3), -np.inf), 1)
    compare_modules(nn.Transformer(**made), torch.nn.Transformer(**made), (4, 2, 4), (3, 2, 4),
                    call=lambda m, xs: m(*xs, tgt_mask=mask if isinstance(m, nn.Module) else torch.tensor(mask)),
                    tolerance={"rtol": 1e-9, "atol": 1e-11})
    (mine,) = run([], [nn.Transformer.generate_square_subsequent_mask(3)], [])
    np.testing.assert_array_equal(mine, mask)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_transformer_takes_stacks_of_the_users_own() -> None:
    def made(lib: Any) -> Any:
        layer = lib.TransformerEncoderLayer(4, 2, 5, dropout=0.0)
        return lib.Transformer(4, 2, num_decoder_layers=1, dim_feedforward=5, dropout=0.0,
                               custom_encoder=lib.TransformerEncoder(layer, 1))

    compare_modules(made(nn), made(torch.nn), (4, 2, 4), (3, 2, 4), tolerance={"rtol": 1e-9, "atol": 1e-11})


# -- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_scales_what_it_keeps_and_passes_the_same_gradient() -> None:
    layer = nn.Dropout(0.25)
    (value,), (gradient,) = ours(layer, [np.ones((100, 100))])
    assert set(np.unique(value)) == {0.0, 1 / 0.75}
    assert abs((value == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(gradient == 0, value == 0)


@pytest.mark.parametrize(("name", "shape"), [("Dropout1d", (20, 30, 4)), ("Dropout2d", (20, 30, 2, 3)),
                                             ("Dropout3d", (20, 30, 2, 2, 2)), ("Dropout2d", (600, 2, 3))])
def test_channel_dropout_drops_whole_channels(name: str, shape: tuple[int, ...]) -> None:
    (value,), _ = ours(getattr(nn, name)(0.5), [np.ones(shape)])
    spatial = tuple(range(len(shape) - int(name[-2]), len(shape)))
    np.testing.assert_array_equal(value.min(spatial), value.max(spatial))
    assert 0.4 < (value == 0).mean() < 0.6


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    (value,), _ = ours(nn.AlphaDropout(0.3), arrays_of((300, 300)))
    assert abs(value.mean()) < 0.02 and abs(value.std() - 1) < 0.02


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropping_nothing_and_everything(p: float) -> None:
    compare(nn.Dropout(p), torch.nn.Dropout(p), X)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_each_step_draws_anew_and_evaluation_is_the_identity(backend: str) -> None:
    layer, x = nn.Dropout(0.5), graphc.placeholder("x", (64,))
    ones = np.ones(64, np.float32)
    step = graphc.function([x], [layer(x), layer(x)], backend=backend)
    (first, second), (third, _) = step(ones), step(ones)
    assert (first != second).any() and (first != third).any()
    function_alone = graphc.function([x], F.dropout(x, 0.5), backend=backend)
    assert (function_alone(ones) != function_alone(ones)).any()
    layer.eval()
    assert layer(x) is not None and layer(x).node is x.node


def test_a_seed_repeats_the_draws() -> None:
    def draw() -> np.ndarray:
        graphc.manual_seed(3)
        (value,), _ = ours(nn.Dropout(0.5), [np.ones(100)])
        return value

    np.testing.assert_array_equal(draw(), draw())


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [
    lambda x: nn.Linear(5, 2)(x), lambda x: nn.Linear(0, 2), lambda x: nn.Conv2d(3, 4, 3)(x), lambda x: nn.Dropout(1.5),
    lambda x: nn.Conv2d(3, 4, 3, groups=2), lambda x: nn.Conv1d(3, 4, 3, padding="wide"),
    lambda x: nn.Conv1d(3, 4, 3, stride=2, padding="same"), lambda x: nn.LayerNorm(3)(x), lambda x: nn.GroupNorm(2, 3),
    lambda x: nn.Embedding(5, 2)(x), lambda x: nn.Embedding(5, 2, padding_idx=7), lambda x: nn.LSTM(3, 4)(x),
    lambda x: nn.MultiheadAttention(6, 4), lambda x: F.interpolate(x), lambda x: F.pad(x, (1,)),
    lambda x: nn.MaxPool2d(2)(x), lambda x: F.max_pool1d(x, 2, padding=2), lambda x: nn.RNN(3, 4, nonlinearity="sine"),
    lambda x: nn.TransformerEncoderLayer(4, 2, activation="step"), lambda x: F.gelu(x, "sinus"),
    lambda x: nn.ReflectionPad1d(9)(x), lambda x: nn.GLU(0)(x), lambda x: nn.ConvTranspose1d(3, 4, 3, padding_mode="reflect"),
])
def test_wrong_arguments_are_errors_that_graphc_raises(call: Callable[..., Any]) -> None:
    with pytest.raises(graphc.GraphError):
        call(graphc.placeholder("x", (3, 4)))


def test_values_of_a_fixed_operand_only() -> None:
    index = Fixed(np.array([[0, 2], [1, 1]]))
    got, _ = ours(lambda w: F.embedding(index.value, w), arrays_of((3, 4)))
    wanted, _ = theirs(lambda w: oracle.embedding(torch.tensor(index.value), w), arrays_of((3, 4)))
    agree(got, wanted, {"rtol": 0.0, "atol": 0.0}, "rows")
