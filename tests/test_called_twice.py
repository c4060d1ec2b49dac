"""Layers with running statistics that are called twice on one symbol: they move twice, as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn, optim
from graphc.declaration import Declaration
from graphc.ir import Graph

rng = np.random.default_rng(0)
X = rng.standard_normal((6, 4, 3))

TWICE: dict[str, Callable[[Any, Any], Any]] = {
    "the same symbol": lambda layer, x: layer(x) * 2 + layer(x),
    "other symbols": lambda layer, x: layer(x * 2) + layer(x),
    "one behind the other": lambda layer, x: layer(layer(x)),
    "in a loop of Python": lambda layer, x: sum((layer(x) * k for k in range(1, 4)), 0.0),
}


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("make", [
    lambda m: m.BatchNorm1d(4), lambda m: m.BatchNorm1d(4, momentum=None),
    lambda m: m.InstanceNorm1d(4, track_running_stats=True),
    lambda m: m.Sequential(m.BatchNorm1d(4, momentum=0.5), m.Tanh(), m.BatchNorm1d(4, affine=False))],
    ids=["batch", "average", "instance", "two"])
def test_statistics_move_as_often_as_the_layer_is_called(make: Callable[[Any], Any], name: str, backend: str) -> None:
    mine, other = make(nn).double(), make(torch.nn).double()
    x = graphc.placeholder("x", ("batch", 4, 3), "float64")
    out = TWICE[name](mine, x)
    step = graphc.function([x], [out, graphc.grad((out * out).sum(), x)], backend=backend)
    for seed in range(2):
        batch = torch.tensor(X + seed, requires_grad=True)
        wanted = TWICE[name](other, batch)
        (slope,) = torch.autograd.grad((wanted * wanted).sum(), batch)
        got = step(batch.detach().numpy())
        np.testing.assert_allclose(got[0], wanted.detach().numpy(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(got[1], slope.numpy(), rtol=1e-7, atol=1e-7)
        for key, value in other.state_dict().items():
            np.testing.assert_allclose(mine.state_dict()[key], value.numpy(), rtol=1e-10, err_msg=key)


def centered(lib: Any) -> Any:
    """A module whose result depends on a state that its forward assigns."""

    class Centered(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", lib.zeros(3))
            self.weight = lib.nn.Parameter(lib.ones(3) * 2)

        def forward(self, x: Any) -> Any:
            y = (x - self.mean) * self.weight
            self.mean = (0.5 * self.mean + 0.5 * x.mean(0)).detach()
            return y

    return Centered()


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("name", TWICE)
def test_a_second_call_reads_what_the_first_one_has_assigned(name: str, backend: str) -> None:
    mine, other = centered(graphc).double(), centered(torch).double()
    x = graphc.placeholder("x", (4, 3), "float64")
    before = mine.mean * 3  # read before any call
    step = graphc.train_step((TWICE[name](mine, x + before * 0.1) ** 2).mean(), optim.SGD(mine.parameters(), lr=0.01),
                             backend=backend)
    rule = torch.optim.SGD(other.parameters(), lr=0.01)
    for seed in range(3):
        batch = X[seed].astype(np.float64)
        loss = (TWICE[name](other, torch.tensor(batch) + other.mean * 3 * 0.1) ** 2).mean()
        rule.zero_grad()
        loss.backward()
        rule.step()
        np.testing.assert_allclose(step(batch), loss.item(), rtol=1e-10)
        for key, value in other.state_dict().items():
            np.testing.assert_allclose(mine.state_dict()[key], value.numpy(), rtol=1e-10, err_msg=key)


def test_in_evaluation_they_stay() -> None:
    layer = nn.BatchNorm1d(4).eval()
    x = graphc.placeholder("x", (6, 4, 3))
    assert layer(x).node is layer(x).node
    graphc.function([x], layer(x) + layer(x))(X)
    assert layer.num_batches_tracked.item() == 0


def test_by_function_too() -> None:
    mean, var = graphc.state("mean", np.zeros(4)), graphc.state("var", np.ones(4))
    running = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    x = graphc.placeholder("x", (6, 4, 3), "float64")

    def twice(f: Any, x: Any, mean: Any, var: Any) -> Any:
        return f(x, mean, var, training=True) + f(x, mean, var, training=True, momentum=0.3)

    twice(torch.nn.functional.batch_norm, torch.tensor(X), *running)
    graphc.function([x], twice(nn.functional.batch_norm, x, mean, var))(X)
    np.testing.assert_allclose([mean.numpy(), var.numpy()], np.array([r.numpy() for r in running]), rtol=1e-10)


def test_a_training_with_a_model_that_is_called_twice() -> None:
    mine, other = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.nn.Sequential(torch.nn.Linear(4, 4),
                                                                                        torch.nn.BatchNorm1d(4))
    mine.double()
    other.double()
    mine.load_state_dict(other.state_dict())
    x = graphc.placeholder("x", (6, 4), "float64")
    step = graphc.train_step((mine(x) ** 2).mean() + mine(x).abs().sum(), optim.SGD(mine.parameters(), lr=0.01))
    rule = torch.optim.SGD(other.parameters(), lr=0.01)
    for _ in range(3):
        step(X[:, :, 0])
        rule.zero_grad()
        batch = torch.tensor(X[:, :, 0])
        ((other(batch) ** 2).mean() + other(batch).abs().sum()).backward()
        rule.step()
    for key, value in other.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[key], value.numpy(), rtol=1e-9, atol=1e-12, err_msg=key)


def test_what_else_was_called_before_changes_no_digest() -> None:
    def digest() -> bytes:
        layer, x = nn.BatchNorm1d(4), graphc.placeholder("x", (6, 4))
        return Declaration(Graph((x.node,), ((layer(x) + layer(x)).node,)), ()).digest()

    first = digest()
    nn.BatchNorm1d(4)(graphc.placeholder("y", (6, 4)))
    assert digest() == first
