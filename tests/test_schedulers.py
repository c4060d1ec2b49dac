"""Schedules against PyTorch, or an independent statement of OneFlow's formula: stepped in Python, and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.update import training_step
from graphc.runtime.interpreter import evaluate, evaluate_graph

import graphc
from graphc import optim
from graphc.ir import Graph
from graphc.optim import lr_scheduler

EPOCHS = 60
RATES = (0.1, 0.02)  # of two groups


def ours(kind: str = "SGD", **settings: Any) -> optim.Optimizer:
    groups = [{"params": [graphc.parameter(f"w{k}", [1.0, 2.0], "float64")], "lr": rate}
              for k, rate in enumerate(RATES)]
    return getattr(optim, kind)(groups, **settings)


def theirs(kind: str = "SGD", **settings: Any) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(2, requires_grad=True)], "lr": rate} for rate in RATES]
    return getattr(torch.optim, kind)(groups, **settings)


Make = Callable[[Any, Any], Any]  # (module of schedulers, optimizer) -> scheduler
CLOSED: dict[str, Make] = {
    "StepLR": lambda m, o: m.StepLR(o, 7, gamma=0.5),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [3, 20, 20, 41], gamma=0.3),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.93),
    "ConstantLR": lambda m, o: m.ConstantLR(o, factor=0.25, total_iters=9),
    "LinearLR": lambda m, o: m.LinearLR(o, start_factor=0.2, end_factor=0.8, total_iters=13),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, total_iters=40, power=1.7),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 17, eta_min=1e-3),
    "CosineAnnealingLR to 0": lambda m, o: m.CosineAnnealingLR(o, 60),
    "WarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 11, eta_min=1e-3),
    "WarmRestarts doubling": lambda m, o: m.CosineAnnealingWarmRestarts(o, 4, T_mult=2),
    "WarmRestarts tripling": lambda m, o: m.CosineAnnealingWarmRestarts(o, 2, T_mult=3, eta_min=1e-4),
    "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, 0.3, step_size_up=7, step_size_down=4, cycle_momentum=False),
    "CyclicLR triangular2": lambda m, o: m.CyclicLR(o, [0.01, 0.02], [0.3, 0.4], step_size_up=6, mode="triangular2"),
    "CyclicLR exp_range": lambda m, o: m.CyclicLR(o, 0.01, 0.3, step_size_up=9, mode="exp_range", gamma=0.97),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.4, total_steps=EPOCHS + 1),
    "OneCycleLR linear": lambda m, o: m.OneCycleLR(o, [0.4, 0.2], epochs=10, steps_per_epoch=8,
                                                   anneal_strategy="linear"),
    "OneCycleLR three phases": lambda m, o: m.OneCycleLR(o, 0.4, total_steps=65, three_phase=True, pct_start=0.4),
    "SequentialLR": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.CosineAnnealingLR(o, 30), m.ExponentialLR(o, 0.9)], [5, 35]),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler(
        [m.ConstantLR(o, 0.1, total_iters=6), m.ExponentialLR(o, 0.95), m.StepLR(o, 20, 0.5)]),
}
IN_PYTHON: dict[str, Make] = {
    "LambdaLR": lambda m, o: m.LambdaLR(o, [lambda t: 1.0 / (1 + t), lambda t: 0.9 ** (t // 5)]),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda t: 0.98 if t % 3 else 0.9),
    "CyclicLR with a function": lambda m, o: m.CyclicLR(o, 0.01, 0.3, step_size_up=5, scale_fn=lambda c: 1 / c),
}


def trajectory(make: Make) -> tuple[list[list[float]], list[list[float]]]:
    """PyTorch's rates, and momenta, over all epochs."""
    optimizer = theirs(momentum=0.9)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates, momenta = [], []
    for _ in range(EPOCHS):
        rates.append([g["lr"] for g in optimizer.param_groups])
        momenta.append([g["momentum"] for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates, momenta


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*CLOSED, *IN_PYTHON])
def test_stepped_in_python(name: str) -> None:
    make = {**CLOSED, **IN_PYTHON}[name]
    rates, momenta = trajectory(make)
    optimizer = ours(momentum=0.9)
    scheduler = make(lr_scheduler, optimizer)
    assert scheduler.closed_form == (name in CLOSED)
    for epoch in range(EPOCHS):
        np.testing.assert_allclose(scheduler.get_last_lr(), rates[epoch], rtol=1e-10, atol=1e-15, err_msg=f"{epoch}")
        np.testing.assert_allclose([g["momentum"] for g in optimizer.param_groups], momenta[epoch], rtol=1e-12)
        scheduler.step()
    assert scheduler.last_epoch == EPOCHS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLOSED)
def test_as_a_symbol_of_the_step(name: str) -> None:
    rates, _ = trajectory(CLOSED[name])
    scheduler = CLOSED[name](lr_scheduler, ours(momentum=0.9))
    step = graphc.placeholder("step", (), "int64")
    symbols = [scheduler.symbol(step, group=k) for k in range(len(RATES))]
    assert all(s.dtype == graphc.float64 and s.shape == () for s in symbols)
    for epoch in range(EPOCHS):
        values = evaluate([s.node for s in symbols], {step.node: np.array(epoch)})
        np.testing.assert_allclose([float(v) for v in values], rates[epoch], rtol=1e-10, atol=1e-15)


class Run:
    """Training steps of two parameters by the interpreter, with a scheduler attached."""

    def __init__(self, optimizer: optim.Optimizer, scheduler: Any, accumulate: int = 1) -> None:
        self.params = [g.params[0] for g in optimizer.param_groups]
        loss = sum(((p * p).sum() for p in self.params), start=graphc.constant(0.0, "float64"))
        self.said = training_step(loss, optimizer, lr_scheduler=scheduler, accumulate=accumulate)
        self.graph = Graph((), (), tuple((p.cell, v.node) for p, v in self.said.derive().items()))

    def __call__(self) -> None:
        new = [np.array(v) for v in evaluate_graph(self.graph, {})]
        for (cell, _), array in zip(self.graph.updates, new, strict=True):
            cell.array[...] = array
        for hook in self.said.between_calls:
            hook.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*CLOSED, *IN_PYTHON])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_attached_to_a_step(name: str, kind: str) -> None:
    """Weights, rates and momenta of PyTorch, the schedule advancing inside the step (or between calls)."""
    make = {**CLOSED, **IN_PYTHON}[name]
    settings: dict[str, Any] = dict(momentum=0.9) if kind == "SGD" else {}
    optimizer, reference = ours(kind, **settings), theirs(kind, **settings)
    scheduler, other = make(lr_scheduler, optimizer), make(torch.optim.lr_scheduler, reference)
    run = Run(optimizer, scheduler)
    assert bool(run.said.between_calls) == (name in IN_PYTHON)
    weights = [g["params"][0] for g in reference.param_groups]
    for w in weights:
        w.data = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for epoch in range(30):
        np.testing.assert_allclose(scheduler.get_last_lr(), [g["lr"] for g in reference.param_groups], rtol=1e-10)
        run()
        reference.zero_grad()
        sum((w * w).sum() for w in weights).backward()
        reference.step()
        other.step()
        for mine, w in zip(run.params, weights, strict=True):
            np.testing.assert_allclose(mine.numpy(), w.detach().numpy(), rtol=1e-8, atol=1e-12, err_msg=f"{epoch}")
    assert scheduler.last_epoch == 30


def test_a_schedule_advances_once_per_applied_update() -> None:
    for name in ("ExponentialLR", "LambdaLR"):
        optimizer = ours()
        scheduler = {**CLOSED, **IN_PYTHON}[name](lr_scheduler, optimizer)
        run = Run(optimizer, scheduler, accumulate=3)
        epochs = []
        for _ in range(9):
            run()
            epochs.append(scheduler.last_epoch)
        assert epochs == [0, 0, 1, 1, 1, 2, 2, 2, 3]


# -- the schedule that looks at a metric -----------------------------------------------------------------------------

METRICS = [3.0, 2.0, 2.0, 1.999, 2.1, 2.0, 1.5, 1.6, 1.7, 1.8, 1.9, 1.9, 1.4999, 1.6, 1.6, 1.6, 1.6, 1.2, 1.0, 1.1] * 3
PLATEAUS: list[dict[str, Any]] = [
    dict(factor=0.5, patience=2), dict(mode="max", factor=0.5, patience=1, cooldown=2),
    dict(factor=0.3, patience=1, threshold=0.05, threshold_mode="abs", min_lr=[1e-3, 5e-3]),
    dict(mode="max", factor=0.7, patience=0, threshold=0.3, eps=1e-2)]


@pytest.mark.parametrize("settings", PLATEAUS)
def test_plateau_in_python(settings: dict[str, Any]) -> None:
    optimizer, reference = ours(), theirs()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(reference, **settings)
    for metric in METRICS:
        scheduler.step(metric)
        other.step(metric)
        np.testing.assert_allclose(scheduler.get_last_lr(), other.get_last_lr(), rtol=1e-12)
        assert (scheduler.best, scheduler.num_bad_epochs) == (other.best, other.num_bad_epochs)


@pytest.mark.parametrize("settings", PLATEAUS)
def test_plateau_in_the_step(settings: dict[str, Any]) -> None:
    """The metric is the loss, here a state that is assigned."""
    w, metric = graphc.parameter("w", [1.0], "float64"), graphc.state("metric", 0.0, "float64")
    u = graphc.parameter("u", [1.0], "float64")
    optimizer = optim.SGD([{"params": [w], "lr": RATES[0]}, {"params": [u], "lr": RATES[1]}])
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs(), **settings)
    said = training_step(metric + 0.0 * w.sum() + 0.0 * u.sum(), optimizer, lr_scheduler=scheduler)
    graph = Graph((), (), tuple((p.cell, v.node) for p, v in said.derive().items()))
    for value in METRICS:
        metric.assign(value)
        new = [np.array(v) for v in evaluate_graph(graph, {})]
        for (cell, _), array in zip(graph.updates, new, strict=True):
            cell.array[...] = array
        other.step(value)
        np.testing.assert_allclose(scheduler.get_last_lr(), other.get_last_lr(), rtol=1e-12)
    saved = scheduler.state_dict()
    fresh = lr_scheduler.ReduceLROnPlateau(ours(), **settings)
    fresh.load_state_dict(saved)
    assert fresh.best == scheduler.best
    assert fresh.last_epoch == len(METRICS)


# -- OneFlow's own ---------------------------------------------------------------------------------------------------


def rates_of(scheduler: Any, count: int) -> list[float]:
    result = []
    for _ in range(count):
        result.append(scheduler.get_last_lr()[0])
        scheduler.step()
    return result


def one(rate: float = 0.1) -> optim.SGD:
    return optim.SGD([graphc.parameter("w", [1.0])], lr=rate)


def test_cosine_decay() -> None:
    """lr * ((1 - alpha) * 0.5 * (1 + cos(pi * t / steps)) + alpha) until `steps`, as OneFlow's documentation has it."""
    expected = [0.1 * ((1 - 0.2) * 0.5 * (1 + math.cos(math.pi * min(t, 20) / 20)) + 0.2) for t in range(40)]
    np.testing.assert_allclose(rates_of(lr_scheduler.CosineDecayLR(one(), 20, alpha=0.2), 40), expected, rtol=1e-13)


def test_warm_up_of_a_rate() -> None:
    """The examples of OneFlow's documentation."""
    constant = lr_scheduler.WarmupLR(one(0.001), warmup_factor=0.5, warmup_iters=5, warmup_method="constant")
    np.testing.assert_allclose(rates_of(constant, 7), [0.0005] * 5 + [0.001] * 2, rtol=1e-13)
    linear = lr_scheduler.WarmupLR(one(0.001), warmup_factor=0.5, warmup_iters=5)
    np.testing.assert_allclose(rates_of(linear, 7), [0.0005, 0.0006, 0.0007, 0.0008, 0.0009, 0.001, 0.001], rtol=1e-13)


@pytest.mark.parametrize("prefix", [False, True])
def test_warm_up_of_a_schedule(prefix: bool) -> None:
    def cosine(t: int) -> float:
        return 0.1 * (0.9 * 0.5 * (1 + math.cos(math.pi * min(t, 20) / 20)) + 0.1)

    inner = lr_scheduler.CosineDecayLR(one(), 20, alpha=0.1)
    scheduler = lr_scheduler.WarmupLR(inner, warmup_factor=0.5, warmup_iters=4, warmup_prefix=prefix)
    top = 0.1 if prefix else cosine(4)
    expected = [0.05 + (top - 0.05) * t / 4 if t < 4 else cosine(t - 4 if prefix else t) for t in range(40)]
    step = graphc.placeholder("step", (), "int64")
    symbol = scheduler.symbol(step)
    for t, rate in enumerate(expected):
        (value,) = evaluate([symbol.node], {step.node: np.array(t)})
        assert float(value) == pytest.approx(rate, rel=1e-13)
    np.testing.assert_allclose(rates_of(scheduler, 40), expected, rtol=1e-13)


def test_polynomial_with_an_end_and_cycles() -> None:
    """(lr - end) * (1 - t / T)^p + end, as OneFlow's documentation has it; T is the least multiple of `steps` >= t."""
    expected = []
    for t in range(30):
        total = 10 * max(1, math.ceil(t / 10))
        expected.append((0.1 - 0.01) * (1 - t / total) ** 2 + 0.01)
    scheduler = lr_scheduler.PolynomialLR(one(), 10, power=2.0, end_learning_rate=0.01, cycle=True)
    np.testing.assert_allclose(rates_of(scheduler, 30), expected, rtol=1e-12)


def test_restarts_that_shrink_and_end() -> None:
    expected = [0.1 * 0.5 ** (t // 6) * 0.5 * (1 + math.cos(math.pi * (t % 6) / 6)) if t < 18 else 0.0
                for t in range(25)]
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(one(), 6, decay_rate=0.5, restart_limit=3)
    np.testing.assert_allclose(rates_of(scheduler, 25), expected, rtol=1e-12, atol=1e-17)


# -- states and errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["StepLR", "OneCycleLR", "SequentialLR", "MultiplicativeLR"])
def test_a_saved_schedule_continues(name: str) -> None:
    make = {**CLOSED, **IN_PYTHON}[name]
    whole = make(lr_scheduler, ours(momentum=0.9))
    expected = rates_of(whole, 20)
    optimizer = ours(momentum=0.9)
    half = make(lr_scheduler, optimizer)
    first = rates_of(half, 9)
    other = ours(momentum=0.9)
    rest = make(lr_scheduler, other)
    other.load_state_dict(optimizer.state_dict())
    rest.load_state_dict(half.state_dict())
    assert first + rates_of(rest, 11) == expected


def test_a_users_own_schedule_compiles() -> None:
    class InverseRoot(lr_scheduler.LRScheduler):
        def rate(self, m: Any, t: Any, base: Any, group: int) -> Any:
            return base / m.sqrt(t + 1.0)

    optimizer = ours()
    scheduler = InverseRoot(optimizer)
    run = Run(optimizer, scheduler)
    for t in range(5):
        np.testing.assert_allclose(scheduler.get_last_lr(), [r / math.sqrt(t + 1) for r in RATES], rtol=1e-14)
        run()


def other_optimizer_scheduler() -> Any:
    return lr_scheduler.StepLR(one(), 2)


@pytest.mark.parametrize(("make", "message"), [
    (lambda o: lr_scheduler.StepLR(3, 2), "schedules an optimizer"),
    (lambda o: lr_scheduler.OneCycleLR(optim.Adagrad(o.param_groups[0].params), 0.1, 10), "no momentum to cycle"),
    (lambda o: lr_scheduler.OneCycleLR(o, 0.1), "total_steps"),
    (lambda o: lr_scheduler.LambdaLR(o, lambda t: 1.0).symbol(graphc.constant(1)), "between calls"),
    (lambda o: lr_scheduler.LambdaLR(o, [lambda t: 1.0]), "1 values for 2 groups"),
    (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 2)], [3]), "0 milestones"),
    (lambda o: lr_scheduler.SequentialLR(o, [other_optimizer_scheduler()], []), "another optimizer"),
    (lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.CosineAnnealingLR(o, 5, eta_min=0.1)]), "multiplies"),
    (lambda o: lr_scheduler.StepLR(o, 2, last_epoch=4), "initial_lr"),
    (lambda o: Run(o, other_optimizer_scheduler()), "does not have"),
    (lambda o: Run(o, [lr_scheduler.StepLR(o, 2), lr_scheduler.StepLR(o, 3)]), "two schedulers"),
    (lambda o: Run(o, 0.1), "no scheduler"),
    (lambda o: (Run(o, None), lr_scheduler.CyclicLR(o, 0.1, 0.2)), "before the step"),
])
def test_errors(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(graphc.GraphError, match=message):
        make(ours())
