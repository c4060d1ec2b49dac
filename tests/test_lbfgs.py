"""L-BFGS against PyTorch's, iteration by iteration, and on functions whose minimum is known."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.update import training_step

import graphc
from graphc.lbfgs import LBFGS

SETTINGS: list[dict[str, Any]] = [
    dict(line_search_fn="strong_wolfe"), dict(line_search_fn="strong_wolfe", lr=0.3, max_iter=7, history_size=3),
    dict(line_search_fn="strong_wolfe", lr=5.0, max_iter=10), dict(lr=0.1), dict(lr=0.05, max_iter=6, history_size=2)]


class Rosenbrock:
    """sum 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2, the variables split over two parameters."""

    def __init__(self, scale: float = 100.0) -> None:
        start = np.array([-1.2, 1.0, -0.5, 0.8, 1.5])
        self.ours = [graphc.parameter("a", start[:2], "float64"), graphc.parameter("b", start[2:], "float64")]
        self.theirs = [torch.tensor(start[:2], requires_grad=True), torch.tensor(start[2:], requires_grad=True)]
        x = graphc.concat(self.ours)
        self.loss = (scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        self.scale = scale
        self.calls = 0

    def closure(self) -> torch.Tensor:
        self.calls += 1
        for p in self.theirs:
            p.grad = None
        x = torch.cat(self.theirs)
        loss = (self.scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        loss.backward()
        return loss


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_iterations_are_pytorchs(settings: dict[str, Any]) -> None:
    searching = "line_search_fn" in settings
    problem = Rosenbrock(100.0 if searching else 0.5)
    ours, theirs = LBFGS(problem.ours, **settings), torch.optim.LBFGS(problem.theirs, **settings)
    program = ours.compile(problem.loss, backend="numpy")
    for _ in range(3):
        expected = float(theirs.step(problem.closure).detach())
        assert ours.step(program) == pytest.approx(expected, rel=1e-6, abs=1e-12)
        assert ours.evaluations == problem.calls
        for mine, other in zip(problem.ours, problem.theirs, strict=True):
            np.testing.assert_allclose(mine.numpy(), other.detach().numpy(), rtol=1e-6)


def test_it_finds_the_minimum() -> None:
    problem = Rosenbrock()
    optimizer = LBFGS(problem.ours, line_search_fn="strong_wolfe", max_iter=200, tolerance_change=1e-15)
    optimizer.step(optimizer.compile(problem.loss, backend="numpy"))
    np.testing.assert_allclose(np.concatenate([p.numpy() for p in problem.ours]), 1.0, rtol=1e-6)


def test_feeds_and_float32() -> None:
    """Linear least squares, its solution by numpy."""
    rng = np.random.default_rng(0)
    data, wanted = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(30, 1)).astype(np.float32)
    x, y = graphc.placeholder("x", ("batch", 4)), graphc.placeholder("y", ("batch", 1))
    w = graphc.parameter("w", np.zeros((4, 1)))
    optimizer = LBFGS([w], line_search_fn="strong_wolfe")
    loss = ((x @ w - y) ** 2).mean()
    first = optimizer.minimize(loss, x=data, y=wanted)
    assert first == pytest.approx(float((wanted ** 2).mean()), rel=1e-5)
    np.testing.assert_allclose(w.numpy(), np.linalg.lstsq(data, wanted, rcond=None)[0], rtol=1e-3, atol=1e-5)


def test_a_saved_state_continues() -> None:
    whole, half = Rosenbrock(), Rosenbrock()
    first = LBFGS(whole.ours, line_search_fn="strong_wolfe", max_iter=5)
    second = LBFGS(half.ours, line_search_fn="strong_wolfe", max_iter=5)
    program, other = first.compile(whole.loss, backend="numpy"), second.compile(half.loss, backend="numpy")
    first.step(program)
    second.step(other)
    third = LBFGS(half.ours, line_search_fn="strong_wolfe", max_iter=5)
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    first.step(program)
    third.step(other)
    for a, b in zip(whole.ours, half.ours, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_errors() -> None:
    w = graphc.parameter("w", [1.0, 2.0])
    with pytest.raises(graphc.GraphError, match="no parameters"):
        LBFGS([])
    with pytest.raises(graphc.GraphError, match="line_search_fn"):
        LBFGS([w], line_search_fn="golden")
    with pytest.raises(graphc.GraphError, match=r"minimize\(loss"):
        training_step((w * w).sum(), LBFGS([w]))
    with pytest.raises(graphc.GraphError, match="2 gradients for 1"):
        LBFGS([w]).step(lambda: (1.0, [np.ones(2), np.ones(2)]))
    with pytest.raises(graphc.CheckpointError, match="2 elements"):
        LBFGS([w]).load_state_dict({**LBFGS([w]).state_dict(), "gradient": np.zeros(3)})
