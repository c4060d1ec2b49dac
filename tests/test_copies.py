"""Copies of modules and optimizers, deep ones and pickled ones; parameters with their names."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn, optim

A = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
B = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
COPIES: dict[str, Callable[[Any], Any]] = {"deep": copy.deepcopy, "pickled": lambda value: pickle.loads(pickle.dumps(value))}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(3, 3), nn.Linear(3, 3)
        self.again.weight = self.first.weight
        self.norm, self.drop, self.last = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)
        self.loose = [nn.Parameter(np.ones(2)), self.last.bias]  # held in a list, too

    def forward(self, x: Any) -> Any:
        return self.last(self.drop(self.norm(self.again(self.first(x).relu())))) * self.loose[0]


def same(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], strict=True)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_begins_as_the_module_and_goes_its_own_way(copied: Callable[[Any], Any], used: bool) -> None:
    net = Net()
    if used:
        net(A)
        net.eval()
    twin = copied(net)
    same(net, twin)
    assert twin.again.weight is twin.first.weight is not net.first.weight and twin.loose[1] is twin.last.bias
    assert twin.training is net.training and twin.drop.key.item() == net.drop.key.item()
    assert type(twin.first.weight) is nn.Parameter and not twin.norm.running_mean.cell.trainable
    np.testing.assert_array_equal(net.eval()(A), twin.eval()(A))  # each model draws numbers of its own
    twin.first.weight.assign(np.zeros((3, 3)))
    assert np.abs(net.first.weight.numpy()).min() > 0 and not np.array_equal(net.eval()(A), twin.eval()(A))


@pytest.mark.parametrize("make", [
    lambda: nn.LSTM(3, 4, bidirectional=True), lambda: nn.TransformerEncoderLayer(4, 2), lambda: nn.MultiheadAttention(4, 2),
    lambda: nn.Transformer(4, 2, 1, 1, 8), lambda: nn.Embedding(3, 4), lambda: nn.Conv2d(1, 2, 3), lambda: nn.GRUCell(2, 3),
    lambda: nn.PReLU(), lambda: nn.Bilinear(2, 3, 4), lambda: nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(1, 2)}),
    lambda: nn.ParameterList([nn.Parameter(np.ones(2), requires_grad=False)]), lambda: nn.Linear(2, 3, dtype="float64")])
def test_layers_are_pickled_before_their_first_use(make: Callable[[], nn.Module]) -> None:
    graphc.manual_seed(3)
    wanted = make().state_dict()
    graphc.manual_seed(3)
    layer = make()
    twin = pickle.loads(pickle.dumps(layer))
    same(layer, twin)
    assert repr(twin) == repr(layer) and [p.requires_grad for p in twin.parameters()] == [
        p.requires_grad for p in layer.parameters()]
    for name, value in wanted.items():
        np.testing.assert_array_equal(value, twin.state_dict()[name])


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_training_goes_on_from_a_copy_of_model_and_optimizer(copied: Callable[[Any], Any]) -> None:
    x, y = graphc.placeholder("x", (5, 3)), graphc.placeholder("y", (5, 2))
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = optim.Adam(net.named_parameters(), lr=0.1)

    def step_of(model: nn.Module, rule: Any) -> Any:
        return graphc.train_step(nn.functional.mse_loss(model(x), y), rule)

    step = step_of(net, optimizer)
    for _ in range(3):
        step(x=A, y=B)
    twin, rule = copied((net, optimizer))
    assert rule.param_groups[0].params[0] is twin[0].weight
    other = step_of(twin, rule)
    for _ in range(3):
        step(x=A, y=B)
        other(x=A, y=B)
    same(net, twin)
    for ours, theirs in zip(optimizer.state_dict()["state"].values(), rule.state_dict()["state"].values(), strict=True):
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_single_parameters_and_symbols() -> None:
    for value in (nn.Parameter(np.arange(3.0)), graphc.state("count", 3), graphc.parameter("w", [1.0, 2.0])):
        for copied in COPIES.values():
            twin = copied(value)
            assert type(twin) is type(value) and twin.cell is not value.cell and twin.name == value.name
            assert twin.type == value.type and np.array_equal(twin.numpy(), value.numpy())
        assert copy.copy(value).cell is value.cell
    x = graphc.placeholder("x", (2,))
    assert copy.deepcopy(x + 1).node is copy.copy(x + 1).node is (x + 1).node
    with pytest.raises(graphc.GraphError, match="a symbol is a place in a graph, and is not pickled"):
        pickle.dumps(x)


# -- parameters with their names -----------------------------------------------------------------------------------------


def pair() -> tuple[Any, Any]:
    ours, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("given", [
    lambda m: m.named_parameters(), lambda m: list(m.named_parameters()),
    lambda m: [{"params": [("w", m.weight)], "lr": 0.5}, {"params": [("b", m.bias)]}]])
def test_an_optimizer_takes_parameters_with_names(given: Callable[[Any], Any]) -> None:
    ours, theirs = pair()
    mine, reference = optim.SGD(given(ours), lr=0.1), torch.optim.SGD(given(theirs), lr=0.1)
    assert [g["param_names"] for g in mine.param_groups] == [g["param_names"] for g in reference.param_groups]
    assert [g["param_names"] for g in mine.state_dict()["param_groups"]] == [
        g["param_names"] for g in reference.state_dict()["param_groups"]]
    x, y = graphc.placeholder("x", (5, 3)), graphc.placeholder("y", (5, 2))
    graphc.train_step(nn.functional.mse_loss(ours(x), y), mine)(x=A, y=B)
    torch.nn.functional.mse_loss(theirs(torch.tensor(A)), torch.tensor(B)).backward()
    reference.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_names_come_and_stay_with_a_loaded_state() -> None:
    ours, _ = pair()
    named, plain = optim.SGD(ours.named_parameters(), lr=0.1), optim.SGD(ours.parameters(), lr=0.2)
    named.load_state_dict(plain.state_dict())
    assert named.param_groups[0]["param_names"] == ["weight", "bias"] and named.param_groups[0]["lr"] == 0.2
    plain.load_state_dict(named.state_dict())
    assert plain.param_groups[0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize(("wrong", "words"), [
    (lambda m: optim.SGD([("w", m.weight), m.bias]), "either all parameters come with their names"),
    (lambda m: optim.SGD([m.weight, ("w", m.bias)]), "either all parameters come with their names"),
    (lambda m: optim.SGD([{"params": [("w", m.weight)]}, {"params": m.bias}]), "either all groups come with names"),
    (lambda m: optim.SGD([("w", m.weight), ("again", m.weight)]), "appears twice")])
def test_names_are_of_all_or_of_none(wrong: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        wrong(nn.Linear(3, 2))


def test_lbfgs_takes_names() -> None:
    layer = nn.Linear(3, 2)
    assert optim.LBFGS(layer.named_parameters()).params == list(layer.parameters())
