"""Models as they are written for PyTorch, given either library: the same trainings, state by state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc

X = np.random.default_rng(0).standard_normal((4, 3, 8, 8))
Y = np.array([0, 1, 2, 3])


def residual(L: Any) -> Any:
    """Activations in place, an identity that is added in place, a pool that is flattened."""
    nn = L.nn

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int = 1) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.relu, self.down = nn.ReLU(inplace=True), None
            if stride != 1 or i != o:
                self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x: Any) -> Any:
            identity = x
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            if self.down is not None:
                identity = self.down(x)
            out += identity
            return self.relu(out)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            self.blocks, self.pool = nn.Sequential(Block(8, 8), Block(8, 16, 2)), nn.AdaptiveAvgPool2d((1, 1))
            self.drop, self.last = nn.Dropout(0.0, inplace=True), nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            x = L.flatten(self.pool(self.blocks(self.stem(x))), 1)
            return self.last(self.drop(x))

    return Net()


def gated(L: Any) -> Any:
    """Reads what was overwritten, maxima as pairs, items written one by one, a spectral norm that is called twice."""
    nn = L.nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.conv, self.act = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(inplace=True)
            self.last = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))

        def forward(self, x: Any) -> Any:
            h = self.act(self.bn(x))
            y = self.act(self.conv(h) + h + x)
            means = y.mean(dim=(2, 3), dtype=L.float64)
            values, places = means.max(1)
            out = L.zeros(4, 4, dtype=L.float64)
            out[:, :3] = means
            out[:, 3] = values * L.add(L.max(x, dim=3)[0].sum((1, 2)), 1.0, alpha=0.5)
            out[places == 0] = 0.25
            return self.last(out) + self.last(L.div(out, 2.0, rounding_mode="floor"))

    return Net()


def dense(L: Any) -> Any:
    """Layers that all read one list of features, by activations in place; weights that are normalised."""
    nn = L.nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            normalised = nn.utils.parametrizations.weight_norm
            self.parts = nn.ModuleList([
                nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(inplace=True), normalised(nn.Conv2d(n, 2, 3, 1, 1)))
                for n in (3, 5, 7)])
            self.last = nn.Linear(9, 4)

        def forward(self, x: Any) -> Any:
            features = [x]
            for part in self.parts:
                features.append(part(L.cat(features, 1)))
            return self.last(L.cat(features, 1).mean((2, 3)))

    return Net()


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("make", [residual, gated, dense])
def test_the_training_is_pytorchs(make: Callable[[Any], Any], backend: str) -> None:
    torch.manual_seed(0)
    other, mine = make(torch).double(), make(graphc).double()
    mine.load_state_dict(other.state_dict())
    x, y = graphc.placeholder("x", X.shape, "float64"), graphc.placeholder("y", (4,), "int64")
    step = graphc.train_step(graphc.nn.functional.cross_entropy(mine(x), y), graphc.optim.SGD(
        mine.named_parameters(), lr=0.05, momentum=0.9), backend=backend)
    rule = torch.optim.SGD(other.named_parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        rule.zero_grad()
        loss = torch.nn.functional.cross_entropy(other(torch.tensor(X)), torch.tensor(Y))
        loss.backward()
        rule.step()
        np.testing.assert_allclose(step(X, Y), loss.item(), rtol=1e-9)
    for name, value in other.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[name], value.numpy(), rtol=1e-7, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(mine.eval()(X), other.eval()(torch.tensor(X)).detach().numpy(), rtol=1e-7, atol=1e-9)
