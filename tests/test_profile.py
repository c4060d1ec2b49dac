"""Timing kernels one by one: in place as in the step, on copies."""

from __future__ import annotations

import numpy as np
from graphc.runtime.native.profile import alone

import graphc
from graphc import nn, optim


def test_updates_are_timed_in_place_on_copies() -> None:
    module = nn.Linear(64, 48)
    x, y = graphc.placeholder("x", (32, 64)), graphc.placeholder("y", (32, 48))
    step = graphc.train_step(nn.MSELoss()(module(x), y), optim.Adam(module.parameters(), lr=0.1))
    feeds = [np.ones((32, 64), np.float32), np.zeros((32, 48), np.float32)]
    plan = step.specialize().plan
    updating = 0
    for kernel in plan.kernels:
        single, _ = alone(plan, kernel, feeds)
        (copy,) = single.kernels
        for new, old in zip(copy.writes, kernel.writes, strict=True):
            shared = [r for r, b in enumerate(kernel.reads) if plan.home(b) is plan.home(old)]
            assert [r for r, b in enumerate(copy.reads) if single.home(new) is b] == shared
            updating += bool(shared)
        cells = {b.cell for b in plan.cells}
        assert not any(b.cell in cells for b in single.cells)
    assert updating >= 6  # two parameters, each with two moments
    before = {name: np.array(value) for name, value in module.state_dict().items()}
    assert "whole step" in step.profile(*feeds, repeat=2)
    for name, value in module.state_dict().items():
        assert np.array_equal(before[name], value), name
