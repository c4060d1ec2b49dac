"""Weight and spectral normalisation: values, gradients and what is carried on, over several steps beside PyTorch."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn, optim

rng = np.random.default_rng(0)
X = rng.standard_normal((5, 3))
IMAGES = rng.standard_normal((2, 2, 4, 4))

WAYS: dict[str, Callable[[Any, Any], Any]] = {  # library, layer -> the layer
    "weight": lambda m, layer: m.utils.weight_norm(layer),
    "weight, all": lambda m, layer: m.utils.weight_norm(layer, dim=None),
    "weight, columns": lambda m, layer: m.utils.weight_norm(layer, "weight", 1),
    "weight, newer": lambda m, layer: m.utils.parametrizations.weight_norm(layer),
    "weight, newer, all": lambda m, layer: m.utils.parametrizations.weight_norm(layer, dim=None),
    "spectral": lambda m, layer: m.utils.spectral_norm(layer),
    "spectral, thrice": lambda m, layer: m.utils.spectral_norm(layer, n_power_iterations=3, dim=1),
    "spectral, newer": lambda m, layer: m.utils.parametrizations.spectral_norm(layer),
    "spectral, newer, twice": lambda m, layer: m.utils.parametrizations.spectral_norm(layer, "weight", 2, 1e-10),
}
LAYERS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "linear": (lambda m: m.Linear(3, 4), X), "convolution": (lambda m: m.Conv2d(2, 3, 3), IMAGES),
    "transposed": (lambda m: m.ConvTranspose2d(2, 3, 2), IMAGES),
}
ONCE, TWICE, NESTED = (lambda model, x: model(x), lambda model, x: model(x) + model(x * 2).tanh(),
                       lambda model, x: model(x) * model(x))


def pair(way: str, layer: str = "linear") -> tuple[Any, Any, np.ndarray]:
    make, array = LAYERS[layer]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of names that are to go
        mine, other = WAYS[way](nn, make(nn).double()), WAYS[way](torch.nn, make(torch.nn).double())
    assert list(mine.state_dict()) == list(other.state_dict())
    assert [n for n, _ in mine.named_parameters()] == [n for n, _ in other.named_parameters()]
    mine.load_state_dict(other.state_dict())
    return mine, other, array


def same(mine: Any, other: Any) -> None:
    for name, value in other.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[name], value.numpy(), rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("calls", [ONCE, TWICE, NESTED], ids=["once", "twice", "twice the same"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", WAYS)
def test_a_training_goes_as_pytorchs(way: str, layer: str, calls: Callable[[Any, Any], Any]) -> None:
    mine, other, array = pair(way, layer)
    for backend in ("native", "numpy"):
        x = graphc.placeholder("x", ("B", *array.shape[1:]) if layer == "linear" else array.shape, "float64")
        out = calls(mine, x)
        step = graphc.train_step((out ** 2).mean(), optim.SGD(mine.parameters(), lr=0.01, momentum=0.9),
                                 outputs={"out": out, "slope": graphc.grad((out ** 2).mean(), x)}, backend=backend)
        rule = torch.optim.SGD(other.parameters(), lr=0.01, momentum=0.9)
        for k in range(3):
            given = torch.tensor(array + k, requires_grad=True)
            wanted = calls(other, given)
            rule.zero_grad()
            (wanted ** 2).mean().backward()
            got = step(array + k)[1]
            rule.step()
            np.testing.assert_allclose(got["out"], wanted.detach().numpy(), rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(got["slope"], given.grad.numpy(), rtol=1e-8, atol=1e-10)
            same(mine, other)
    mine.eval()
    other.eval()
    np.testing.assert_allclose(mine(array), other(torch.tensor(array)).detach().numpy(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(mine.weight.eval(), other.weight.detach().numpy(), rtol=1e-8, atol=1e-10)
    same(mine, other)


@pytest.mark.parametrize("way", WAYS)
def test_the_weight_is_what_it_was_and_its_value_stays_when_it_is_removed(way: str) -> None:
    layer = nn.Linear(3, 4).double()
    before = layer.weight.numpy()
    WAYS[way](nn, layer)
    assert isinstance(layer, nn.Linear) and repr(layer).startswith("Linear(in_features=3")
    if way.startswith("weight"):
        np.testing.assert_allclose(layer.weight.eval(), before, rtol=1e-12)
    wanted = layer.eval()(X)
    if "newer" in way:
        assert nn.utils.parametrize.is_parametrized(layer, "weight")
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    else:
        (nn.utils.remove_weight_norm if way.startswith("weight") else nn.utils.remove_spectral_norm)(layer)
    assert type(layer) is nn.Linear and sorted(layer.state_dict()) == ["bias", "weight"]
    np.testing.assert_allclose(layer(X), wanted, rtol=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deep", "pickled"])
@pytest.mark.parametrize("way", WAYS)
def test_copies(way: str, copied: Callable[[Any], Any]) -> None:
    model = nn.Sequential(pair(way)[0], nn.Tanh())
    twin = copied(model)
    assert type(twin[0]) is type(model[0])
    np.testing.assert_array_equal(twin(X), model(X))
    np.testing.assert_array_equal(twin.eval()(X), model.eval()(X))


def test_two_weights_of_one_layer() -> None:
    def wrapped(m: Any) -> Any:
        return m.utils.parametrizations.weight_norm(m.utils.parametrizations.spectral_norm(
            m.LSTM(3, 4), "weight_hh_l0"), "weight_ih_l0")

    mine, other = wrapped(nn).double(), wrapped(torch.nn).double()
    mine.load_state_dict(other.state_dict())
    mine.eval()
    other.eval()
    sequence = rng.standard_normal((6, 2, 3))
    np.testing.assert_allclose(mine(sequence)[0], other(torch.tensor(sequence))[0].detach().numpy(), rtol=1e-8, atol=1e-10)


def test_a_discriminator_sees_both_batches_in_one_step_and_within_one_model() -> None:
    class Both(nn.Module):
        def __init__(self, judge: Any) -> None:
            super().__init__()
            self.judge = judge

        def forward(self, x: Any) -> Any:
            return graphc.checkpoint(self.judge, x).mean() - self.judge(x * 3).mean()

    mine, other, _ = pair("spectral")
    x = graphc.placeholder("x", X.shape, "float64")
    loss = Both(mine)(x)
    got = graphc.train_step(loss, optim.SGD(mine.parameters(), lr=0.1))(X)
    wanted = other(torch.tensor(X)).mean() - other(torch.tensor(X) * 3).mean()
    rule = torch.optim.SGD(other.parameters(), lr=0.1)
    wanted.backward()
    rule.step()
    np.testing.assert_allclose(got, wanted.item(), rtol=1e-8)
    same(mine, other)


def test_a_loop_cannot_move_the_vectors_in_each_run() -> None:
    layer, x = nn.utils.spectral_norm(nn.Linear(3, 3)), graphc.placeholder("x", (5, 3))
    for inside in (lambda: graphc.scan(lambda c, row: (layer(c), row), x[0], x), lambda: graphc.cond(
            x.sum() > 0, lambda: layer(x), lambda: x)):
        layer.train()
        with pytest.raises(graphc.GraphError, match="'weight_u' moves in each call of a layer"):
            inside()
        layer.eval()
        inside()


@pytest.mark.parametrize(("wrong", "words"), [
    (lambda m: nn.utils.weight_norm(m, "weights"), "'weights' of Linear is no parameter"),
    (lambda m: nn.utils.spectral_norm(nn.utils.weight_norm(m)), "'weight' of Linear is computed already"),
    (lambda m: nn.utils.spectral_norm(m, n_power_iterations=0), "must be positive"),
    (lambda m: nn.utils.remove_weight_norm(nn.utils.spectral_norm(m)), "is not computed so"),
    (lambda m: setattr(nn.utils.weight_norm(m), "weight", nn.Parameter(np.zeros((4, 3)))), "computed from weight_g, weight_v")])
def test_what_cannot_be_is_told(wrong: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        wrong(nn.Linear(3, 4))
