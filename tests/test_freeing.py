"""Programs that nobody holds any more, and their parameters: freed at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn

Make = Callable[[str, int], tuple[nn.Module, Any]]


def perceptron(backend: str, threads: int) -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 8))
    x, y = graphc.placeholder("x", ("batch", 40)), graphc.placeholder("y", ("batch",), "int64")
    step = graphc.train_step(nn.functional.cross_entropy(model(x), y), graphc.optim.Adam(model.parameters()), backend=backend,
                             threads=threads)
    step(np.ones((64, 40), np.float32), np.zeros(64, np.int64))
    return model, step


def recurrent(backend: str, threads: int) -> tuple[nn.Module, Any]:
    model = nn.LSTM(8, 16, batch_first=True)
    x = graphc.placeholder("x", ("batch", 12, 8))
    optimizer = graphc.optim.AdamW(model.parameters())
    step = graphc.train_step((model(x)[0] ** 2).mean(), optimizer, backend=backend, threads=threads)
    step(np.ones((16, 12, 8), np.float32))
    return model, step


def scalar(backend: str, threads: int) -> tuple[nn.Module, Any]:
    model = nn.Linear(2, 1)
    x = graphc.placeholder("x", (4, 2))
    step = graphc.train_step(model(x).sum(), graphc.optim.SGD(model.parameters(), lr=0.1), backend=backend, threads=threads)
    values = np.ones((4, 2), np.float32)
    step(values)
    bound = step.bind(values)
    bound()
    step.run(3, values)
    assert step.report()
    return model, (step, bound)


@pytest.mark.parametrize("make", [perceptron, recurrent, scalar])
@pytest.mark.parametrize(("backend", "threads"), [("native", 1), ("native", 2), ("numpy", 1)])
def test_what_nobody_holds_is_freed_at_once(make: Make, backend: str, threads: int) -> None:
    """A trained model's memory does not wait for garbage to be collected, nor for memories of the compiler to be full."""
    gc.collect()
    gc.disable()
    try:
        model, step = make(backend, threads)
        held = [weakref.ref(p.cell) for p in model.parameters()]
        del model, step
        assert not any(cell() is not None for cell in held)
    finally:
        gc.enable()
