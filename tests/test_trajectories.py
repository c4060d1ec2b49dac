"""Whole-step truth: 100 steps of an MLP against PyTorch, on both backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn, optim

SETTINGS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sgd": (lambda p: optim.SGD(p, lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
                 lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)),
    "adam": (lambda p: optim.Adam(p, lr=3e-3), lambda p: torch.optim.Adam(p, lr=3e-3)),
    "adamw": (lambda p: optim.AdamW(p, lr=3e-3, weight_decay=0.05),
              lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.05)),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("backend", "dtype", "bound"), [("native", "float64", 1e-9), ("numpy", "float64", 1e-9),
                                                         ("native", "float32", 2e-3)])
def test_mlp_follows_pytorch(name: str, backend: str, dtype: str, bound: float) -> None:
    ours, theirs = SETTINGS[name]
    generator = np.random.default_rng(0)
    data = generator.standard_normal((32, 20)).astype(dtype)
    labels = generator.integers(0, 7, 32)
    twin = torch.nn.Sequential(torch.nn.Linear(20, 33), torch.nn.Tanh(), torch.nn.Linear(33, 7)).to(getattr(torch, dtype))
    model = nn.Sequential(nn.Linear(20, 33, dtype=dtype), nn.Tanh(), nn.Linear(33, 7, dtype=dtype))
    model.load_state_dict({k: v.numpy() for k, v in twin.state_dict().items()})
    x = graphc.placeholder("x", ("batch", 20), dtype)
    y = graphc.placeholder("y", ("batch",), "int64")
    step = graphc.train_step(nn.CrossEntropyLoss()(model(x), y), ours(list(model.parameters())), backend=backend)
    losses = step.run(100, data, labels)

    optimizer, wanted = theirs(twin.parameters()), []
    for _ in range(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(data)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert losses[-1] < losses[0] / 1.5
    np.testing.assert_allclose(losses, wanted, rtol=bound)
    for key, value in twin.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[key], value.numpy(), rtol=bound * 10, atol=bound)
