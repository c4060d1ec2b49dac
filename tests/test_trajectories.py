"""Whole-step truth: 100 steps of an MLP, on both backends, and 40 of a GPT against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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


def test_the_example_gpt_follows_pytorch() -> None:
    """The classes of examples/gpt_char.py, once with graphc's names and once with PyTorch's, from the same weights."""
    source = (Path(__file__).parent.parent / "examples" / "gpt_char.py").read_text()
    classes = source[source.index("LAYERS, WIDTH"):source.index("def main")]
    ours: dict[str, Any] = {"graphc": graphc, "nn": nn}
    theirs: dict[str, Any] = {"graphc": SimpleNamespace(Tensor=torch.Tensor, split=torch.split, arange=torch.arange),
                              "nn": torch.nn}
    exec(classes, ours)
    exec(classes, theirs)
    batch, context, characters = ours["BATCH"], ours["CONTEXT"], 40
    torch.manual_seed(0)
    twin = theirs["GPT"](characters)
    model = ours["GPT"](characters)
    model.load_state_dict({k: v.numpy() for k, v in twin.state_dict().items()})
    x, y = (graphc.placeholder(name, (batch, context), "int64") for name in "xy")
    loss = nn.functional.cross_entropy(model(x).reshape(batch * context, -1), y.reshape(-1))
    step = graphc.train_step(loss, optim.AdamW(model.parameters(), lr=1e-3), grad_clip_norm=1.0)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    generator = np.random.default_rng(0)
    pattern = generator.integers(0, characters, 500)  # a text to be learned by heart
    found, wanted = [], []
    for _ in range(40):
        begin = generator.integers(0, len(pattern) - context - 1, batch)
        windows = pattern[begin[:, None] + np.arange(context + 1)]
        found.append(float(step(windows[:, :-1], windows[:, 1:])))
        optimizer.zero_grad()
        logits = twin(torch.tensor(windows[:, :-1]))
        error = torch.nn.functional.cross_entropy(logits.reshape(batch * context, -1),
                                                  torch.tensor(windows[:, 1:]).reshape(-1))
        error.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        wanted.append(error.item())
    assert wanted[-1] < 0.85 * wanted[0]
    np.testing.assert_allclose(found, wanted, rtol=2e-3)
