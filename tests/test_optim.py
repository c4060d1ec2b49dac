"""Optimizers against PyTorch, or against an independent statement of the published formula; updates as a whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.update import training_step
from graphc.runtime.interpreter import evaluate_graph

import graphc
from graphc import optim
from graphc.ir import Graph

SHAPES = {"w1": (4, 5), "b1": (5,), "w2": (5, 2), "scale": ()}
STEPS = 60


@pytest.fixture(autouse=True)
def float64_scalars() -> Iterator[None]:
    """PyTorch keeps some per-step scalars in its default dtype; graphc keeps them in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def start(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Initial parameters, inputs and targets of a small network."""
    rng = np.random.default_rng(seed)
    values = {name: np.asarray(rng.normal(size=shape) * 0.7 + (name == "scale")) for name, shape in SHAPES.items()}
    return values, rng.normal(size=(8, 4)), rng.normal(size=(8, 2))


class Pair:
    """The same network in graphc and in PyTorch."""

    def __init__(self, dtype: str = "float64", only: tuple[str, ...] = tuple(SHAPES)) -> None:
        values, x, y = start()
        self.names = only
        self.ours = {n: graphc.parameter(n, v, dtype) for n, v in values.items()}
        kind = torch.float64 if dtype == "float64" else torch.float32
        self.theirs = {n: torch.tensor(v, dtype=kind, requires_grad=True) for n, v in values.items()}
        self.x, self.y = torch.tensor(x, dtype=kind), torch.tensor(y, dtype=kind)
        p = self.ours
        hidden = (graphc.constant(x.astype(dtype)) @ p["w1"] + p["b1"]).tanh()
        error = (hidden @ p["w2"]) * p["scale"] - graphc.constant(y.astype(dtype))
        self.loss = (error * error).mean()

    def params(self) -> list[Any]:
        return [self.ours[n] for n in self.names]

    def torch_params(self) -> list[torch.Tensor]:
        return [self.theirs[n] for n in self.names]

    def torch_loss(self, rows: slice = slice(None)) -> torch.Tensor:
        p = self.theirs
        hidden = torch.tanh(self.x[rows] @ p["w1"] + p["b1"])
        return (((hidden @ p["w2"]) * p["scale"] - self.y[rows]) ** 2).mean()

    def torch_step(self, optimizer: torch.optim.Optimizer) -> float:
        optimizer.zero_grad()
        loss = self.torch_loss()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def agree(self, rtol: float = 1e-10) -> None:
        for name in self.names:
            expected = self.theirs[name].detach().numpy()
            np.testing.assert_allclose(self.ours[name].numpy(), expected, rtol=rtol, atol=rtol, err_msg=name)


class Step:
    """One training step by the interpreter: call it to take it; gives the loss before the update."""

    def __init__(self, loss: graphc.Tensor, optimizers: Any, **options: Any) -> None:
        self.said = training_step(loss, optimizers, **options)
        self.updates = self.said.derive()
        updates = tuple((p.cell, value.node) for p, value in self.updates.items())
        self.graph = Graph((), (loss.node,), updates)

    def __call__(self, count: int = 1) -> float:
        value = np.array(0.0)
        for _ in range(count):
            value, *new = (np.array(v) for v in evaluate_graph(self.graph, {}))
            for (cell, _), array in zip(self.graph.updates, new, strict=True):
                cell.array[...] = array
            for hook in self.said.between_calls:
                hook.step()
        return float(value)


# -- against PyTorch -------------------------------------------------------------------------------------------------

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", dict(lr=0.1)), ("SGD", dict(lr=0.1, momentum=0.9)), ("SGD", dict(lr=0.1, weight_decay=0.05)),
    ("SGD", dict(lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.01)),
    ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True)), ("SGD", dict(lr=1e-3, momentum=0.5, maximize=True)),
    ("Adam", dict(lr=0.02)), ("Adam", dict(lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)),
    ("Adam", dict(lr=0.02, amsgrad=True)), ("Adam", dict(lr=0.002, maximize=True)),
    ("AdamW", dict(lr=0.02)), ("AdamW", dict(lr=0.02, weight_decay=0.3, amsgrad=True)),
    ("Adagrad", dict(lr=0.1)),
    ("Adagrad", dict(lr=0.1, lr_decay=0.05, weight_decay=0.02, initial_accumulator_value=0.3, eps=1e-3)),
    ("Adadelta", dict()), ("Adadelta", dict(lr=0.5, rho=0.8, eps=1e-4, weight_decay=0.05)),
    ("Adamax", dict(lr=0.02)), ("Adamax", dict(lr=0.02, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1)),
    ("NAdam", dict(lr=0.02)), ("NAdam", dict(lr=0.02, weight_decay=0.1, momentum_decay=0.01)),
    ("NAdam", dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True)),
    ("RAdam", dict(lr=0.02)), ("RAdam", dict(lr=0.02, weight_decay=0.1, betas=(0.8, 0.99))),
    ("RAdam", dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True)),
    ("RMSprop", dict(lr=0.01)), ("RMSprop", dict(lr=0.01, momentum=0.7, weight_decay=0.02)),
    ("RMSprop", dict(lr=0.01, centered=True, alpha=0.9, eps=1e-3)),
    ("RMSprop", dict(lr=0.005, centered=True, momentum=0.5)),
    ("Rprop", dict()), ("Rprop", dict(lr=0.02, etas=(0.4, 1.3), step_sizes=(1e-4, 0.2))),
    ("ASGD", dict(lr=0.1)), ("ASGD", dict(lr=0.1, lambd=0.01, alpha=0.5, t0=20, weight_decay=0.02)),
    ("Adafactor", dict()), ("Adafactor", dict(lr=0.02, beta2_decay=-0.6, eps=(1e-5, 1e-2), d=1.5, weight_decay=0.1)),
]


def _name(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=_name)
def test_trajectory_is_pytorchs(kind: str, settings: dict[str, Any]) -> None:
    pair = Pair()
    theirs = getattr(torch.optim, kind)(pair.torch_params(), **settings)
    step = Step(pair.loss, getattr(optim, kind)(pair.params(), **settings))
    for _ in range(STEPS):
        expected = pair.torch_step(theirs)
        assert step() == pytest.approx(expected, rel=1e-10)
    pair.agree()


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax",
                                  "Adafactor", "ASGD"])
def test_float32_stays_float32(kind: str) -> None:
    pair = Pair("float32")
    theirs = getattr(torch.optim, kind)(pair.torch_params(), lr=0.01)
    step = Step(pair.loss, getattr(optim, kind)(pair.params(), lr=0.01))
    for parameter, value in step.updates.items():
        assert value.dtype == parameter.dtype
    for _ in range(20):
        pair.torch_step(theirs)
        step()
    pair.agree(2e-4)


@pytest.mark.parametrize("settings", [
    dict(), dict(lr=0.02, nesterov=False, weight_decay=0.0),
    dict(lr=0.02, adjust_lr_fn="match_rms_adamw", momentum=0.8, ns_steps=3)], ids=_name)
def test_muon_is_pytorchs_without_bfloat16(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    pair = Pair(only=("w1", "w2"))
    theirs = torch.optim.Muon(pair.torch_params(), **settings)
    step = Step(pair.loss, optim.Muon(pair.params(), **settings))
    for _ in range(30):
        pair.torch_step(theirs)
        step()
    pair.agree(1e-9)


def test_muon_refuses_vectors() -> None:
    with pytest.raises(graphc.ShapeError, match="matrices; 'b1'"):
        optim.Muon(Pair().params())


# -- against the published formulae ----------------------------------------------------------------------------------

Arrays = dict[str, np.ndarray]


def reference(rule: Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray], steps: int) -> Arrays:
    """The network's parameters after steps of a rule (w, g, memory, t) -> w, with gradients by PyTorch."""
    pair = Pair()
    memory: dict[str, dict[str, Any]] = {n: {} for n in SHAPES}
    for t in range(1, steps + 1):
        grads = torch.autograd.grad(pair.torch_loss(), pair.torch_params())
        for name, g in zip(SHAPES, grads, strict=True):
            w = pair.theirs[name]
            with torch.no_grad():
                w.copy_(torch.tensor(rule(w.detach().numpy().copy(), g.numpy(), memory[name], t)))
    return {n: w.detach().numpy() for n, w in pair.theirs.items()}


def lamb(lr: float, b1: float, b2: float, eps: float, decay: float, corrected: bool = True) -> Callable[..., Any]:
    """arXiv:1904.00962, algorithm 2, with the identity for phi."""

    def rule(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
        m = memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g ** 2
        m_hat, v_hat = (m / (1 - b1 ** t), v / (1 - b2 ** t)) if corrected else (m, v)
        u = m_hat / (np.sqrt(v_hat) + eps) + decay * w
        return w - lr * np.linalg.norm(np.ravel(w)) / np.linalg.norm(np.ravel(u)) * u

    return rule


def lars(lr: float, momentum: float, decay: float, trust: float, eps: float) -> Callable[..., Any]:
    """arXiv:1708.03888, algorithm 1."""

    def rule(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
        w_norm, g_norm = np.linalg.norm(np.ravel(w)), np.linalg.norm(np.ravel(g))
        local = trust * w_norm / (g_norm + decay * w_norm + eps)
        memory["v"] = momentum * memory.get("v", 0.0) + lr * local * (g + decay * w)
        return w - memory["v"]

    return rule


def lion(lr: float, b1: float, b2: float, decay: float) -> Callable[..., Any]:
    """arXiv:2302.06675, algorithm 2."""

    def rule(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
        m = memory.get("m", np.zeros_like(g))
        memory["m"] = b2 * m + (1 - b2) * g
        return w - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * w)

    return rule


def ftrl(alpha: float, beta: float, l1: float, l2: float, first: float) -> Callable[..., Any]:
    """McMahan et al., KDD 2013, algorithm 1, coordinate by coordinate."""

    def rule(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
        n = memory.setdefault("n", np.full(g.size, first))
        z = memory.setdefault("z", np.zeros(g.size))
        flat, result = np.ravel(g), np.ravel(w).copy()
        for i in range(g.size):
            sigma = (np.sqrt(n[i] + flat[i] ** 2) - np.sqrt(n[i])) / alpha
            z[i] += flat[i] - sigma * result[i]
            n[i] += flat[i] ** 2
            inside = abs(z[i]) <= l1
            result[i] = 0.0 if inside else -(z[i] - np.sign(z[i]) * l1) / ((beta + np.sqrt(n[i])) / alpha + l2)
        return result.reshape(w.shape)

    return rule


PUBLISHED = [
    ("LAMB", dict(lr=0.01, weight_decay=0.1), lamb(0.01, 0.9, 0.999, 1e-8, 0.1)),
    ("LAMB", dict(lr=0.01, betas=(0.8, 0.9), do_bias_correction=False), lamb(0.01, 0.8, 0.9, 1e-8, 0.0, False)),
    ("LARS", dict(lr=2.0, weight_decay=0.01, lars_coefficient=0.01), lars(2.0, 0.9, 0.01, 0.01, 1e-9)),
    ("Lion", dict(lr=0.01, weight_decay=0.1), lion(0.01, 0.9, 0.99, 0.1)),
    ("Ftrl", dict(lr=0.1, lambda1=0.02, lambda2=0.1, beta=1.0), ftrl(0.1, 1.0, 0.02, 0.1, 0.1)),
    ("Ftrl", dict(lr=0.05, initial_accumulator_value=1.0), ftrl(0.05, 0.0, 0.0, 0.0, 1.0)),
]


@pytest.mark.parametrize(("kind", "settings", "rule"), PUBLISHED, ids=lambda v: "" if callable(v) else _name(v))
def test_trajectory_is_the_published_one(kind: str, settings: dict[str, Any], rule: Callable[..., Any]) -> None:
    pair = Pair()
    Step(pair.loss, getattr(optim, kind)(pair.params(), **settings))(50)
    for name, expected in reference(rule, 50).items():
        np.testing.assert_allclose(pair.ours[name].numpy(), expected, rtol=1e-9, atol=1e-11, err_msg=name)


def test_lamb_without_adam_w_mode_decays_the_gradient() -> None:
    plain, coupled = Pair(), Pair()
    penalty = sum(((p * p).sum() for p in plain.params()), start=graphc.constant(0.0, "float64")) * 0.05
    Step(plain.loss + penalty, optim.LAMB(plain.params(), lr=0.01))(20)
    Step(coupled.loss, optim.LAMB(coupled.params(), lr=0.01, weight_decay=0.1, adam_w_mode=False))(20)
    for a, b in zip(plain.params(), coupled.params(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9)


# -- groups, rates, a rule of one's own ------------------------------------------------------------------------------


def test_parameter_groups() -> None:
    pair = Pair()
    ours = optim.Adam([{"params": [pair.ours["w1"], pair.ours["b1"]]},
                       {"params": [pair.ours["w2"], pair.ours["scale"]], "lr": 0.05, "weight_decay": 0.1}], lr=0.01)
    theirs = torch.optim.Adam([{"params": [pair.theirs["w1"], pair.theirs["b1"]]},
                               {"params": [pair.theirs["w2"], pair.theirs["scale"]], "lr": 0.05, "weight_decay": 0.1}],
                              lr=0.01)
    step = Step(pair.loss, ours)
    for _ in range(20):
        pair.torch_step(theirs)
        step()
    pair.agree()


def test_the_rate_changes_without_a_new_step() -> None:
    pair = Pair()
    ours, theirs = optim.SGD(pair.params(), lr=0.1), torch.optim.SGD(pair.torch_params(), lr=0.1)
    step = Step(pair.loss, ours)
    for rate in (0.1, 0.03, 0.2):
        ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = rate
        assert ours.param_groups[0]["lr"] == rate
        for _ in range(5):
            pair.torch_step(theirs)
            step()
    pair.agree()


def test_constants_of_a_built_step_do_not_change_silently() -> None:
    pair = Pair()
    ours = optim.Adam(pair.params())
    ours.param_groups[0]["eps"] = 1e-3
    Step(pair.loss, ours)
    with pytest.raises(graphc.GraphError, match="'eps' of adam is a constant"):
        ours.param_groups[0]["eps"] = 1e-5
    with pytest.raises(graphc.GraphError, match="already built"):
        ours.add_param_group({"params": [graphc.parameter("late", [1.0])]})


class Momentum(optim.Optimizer):
    """A user's own rule."""

    def __init__(self, params: Any, lr: float = 0.01, beta: float = 0.9) -> None:
        super().__init__(params, dict(lr=lr, beta=beta))

    def update(self, w: graphc.Parameter, g: graphc.Tensor, group: optim.ParamGroup) -> dict[graphc.Parameter, Any]:
        m = self.slot(w, "m")
        new_m = group.beta * m + g
        return {w: w - group.lr * new_m, m: new_m}


def test_a_rule_of_ones_own() -> None:
    pair = Pair()
    theirs = torch.optim.SGD(pair.torch_params(), lr=0.02, momentum=0.9)
    step = Step(pair.loss, Momentum(pair.params(), lr=0.02))
    for _ in range(20):
        pair.torch_step(theirs)
        step()
    pair.agree()


def test_a_rule_that_returns_the_wrong_thing_is_told() -> None:
    class Wrong(optim.Optimizer):
        def update(self, w: Any, g: Any, group: Any) -> Any:
            return {w: (w - group.lr * g).sum()}

    w = graphc.parameter("w", [1.0, 2.0])
    with pytest.raises(graphc.ShapeError, match=r"'w' is f32\[2\], its new value f32\[\]"):
        Step((w * w).sum(), Wrong([w], dict(lr=0.1)))
    with pytest.raises(graphc.GraphError, match="define update"):
        Step((w * w).sum(), optim.Optimizer([w], dict(lr=0.1)))


@pytest.mark.parametrize(("make", "message"), [
    (lambda w: optim.SGD([]), "empty parameter list"),
    (lambda w: optim.SGD(w), "takes a list"),
    (lambda w: optim.SGD([w, w]), "appears twice"),
    (lambda w: optim.SGD([{"params": [w], "beta": 1}]), "no hyperparameter 'beta'"),
    (lambda w: optim.SGD([w * 2]), "optimizes parameters"),
    (lambda w: optim.SGD([graphc.state("s", [1.0])]), "optimizes parameters"),
    (lambda w: optim.SGD([w], lr=-1.0), "must not be negative"),
    (lambda w: optim.SGD([w], nesterov=True), "Nesterov"),
    (lambda w: optim.Adam([w], betas=(0.9, 1.0)), "betas"),
    (lambda w: optim.SGD([w]).step(), "part of the compiled step"),
    (lambda w: Step((w * w).sum(), []), "needs an optimizer"),
    (lambda w: Step((w * w).sum(), [optim.SGD([w]), optim.Adam([w])]), "'w' is in two optimizers"),
    (lambda w: Step((w * w).sum(), optim.SGD([w]), accumulate=0), "accumulate"),
    (lambda w: Step((w * w).sum(), optim.SGD([w]), grad_clip_norm=0.0), "limited to a positive"),
    (lambda w: Step((w * w).sum(), optim.SGD([w, graphc.parameter("lonely", [1.0])])),
     "does not depend on 'lonely'; leave it out of the optimizer, or freeze it"),
])
def test_errors_name_what_is_wrong(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(graphc.GraphError, match=message):
        make(graphc.parameter("w", [1.0, 2.0]))


def test_unknown_arguments_are_errors() -> None:
    with pytest.raises(TypeError, match="foreach"):
        optim.Adam([graphc.parameter("w", [1.0])], foreach=True)


def test_frozen_parameters_are_left_alone() -> None:
    pair = Pair()
    pair.ours["w1"].requires_grad = False
    before = pair.ours["w1"].numpy()
    step = Step(pair.loss, optim.Adam(pair.params()))
    assert "w1" not in {p.name for p in step.updates}
    step(3)
    np.testing.assert_array_equal(pair.ours["w1"].numpy(), before)


def test_scalars_are_shared_by_all_parameters() -> None:
    """Bias corrections are computed once per step, not once per parameter."""
    pair = Pair()
    step = Step(pair.loss, optim.Adam(pair.params()))
    powers = [n for n in step.graph.nodes if n.op.name == "power"]
    assert len(powers) == 2
    assert all(n.types[0].shape == () and n.types[0].dtype == graphc.float64 for n in powers)


# -- clipping, accumulation, averages --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.05, 100.0])
def test_norm_clipping(limit: float) -> None:
    pair = Pair()
    theirs = torch.optim.SGD(pair.torch_params(), lr=0.1)
    step = Step(pair.loss, optim.SGD(pair.params(), lr=0.1), grad_clip_norm=limit)
    for _ in range(10):
        theirs.zero_grad()
        pair.torch_loss().backward()
        torch.nn.utils.clip_grad_norm_(pair.torch_params(), limit)
        theirs.step()
        step()
    pair.agree()


def test_value_clipping() -> None:
    pair = Pair()
    theirs = torch.optim.SGD(pair.torch_params(), lr=0.1)
    step = Step(pair.loss, optim.SGD(pair.params(), lr=0.1), grad_clip_value=0.02)
    for _ in range(10):
        theirs.zero_grad()
        pair.torch_loss().backward()
        torch.nn.utils.clip_grad_value_(pair.torch_params(), 0.02)
        theirs.step()
        step()
    pair.agree()


@pytest.mark.parametrize("kind", [2.0, 1.0, float("inf")])
def test_clipping_of_one_group(kind: float) -> None:
    pair = Pair()
    ours = optim.SGD([{"params": [pair.ours["w1"], pair.ours["b1"]], "clip_grad_max_norm": 0.03,
                       "clip_grad_norm_type": kind}, {"params": [pair.ours["w2"], pair.ours["scale"]]}], lr=0.1)
    theirs = torch.optim.SGD(pair.torch_params(), lr=0.1)
    step = Step(pair.loss, ours)
    for _ in range(10):
        theirs.zero_grad()
        pair.torch_loss().backward()
        torch.nn.utils.clip_grad_norm_([pair.theirs["w1"], pair.theirs["b1"]], 0.03, norm_type=kind)
        theirs.step()
        step()
    pair.agree()


def accumulating(k: int, **options: Any) -> tuple[dict[str, graphc.Parameter], Callable[[int], None], Step]:
    """A step that accumulates over batches, and the function that chooses the batch (by assigning states)."""
    values, x, y = start()
    p = {n: graphc.parameter(n, v, "float64") for n, v in values.items()}
    batch_x, batch_y = graphc.state("x", x[:2]), graphc.state("y", y[:2])
    error = ((batch_x @ p["w1"] + p["b1"]).tanh() @ p["w2"]) * p["scale"] - batch_y
    step = Step((error * error).mean(), optim.Adam(list(p.values()), lr=0.05), accumulate=k, **options)

    def feed(i: int) -> None:
        batch_x.assign(x[2 * i:2 * i + 2])
        batch_y.assign(y[2 * i:2 * i + 2])

    return p, feed, step


def test_accumulation_applies_the_mean_every_kth_call() -> None:
    p, feed, step = accumulating(4, grad_clip_norm=0.2)
    pair = Pair()
    theirs = torch.optim.Adam(pair.torch_params(), lr=0.05)
    for _ in range(5):
        theirs.zero_grad()
        for i in range(4):
            held = {cell: cell.array.copy() for cell, _ in step.graph.updates
                    if not cell.name.startswith("accumulate") and not cell.name.endswith("accumulated")}
            (pair.torch_loss(slice(2 * i, 2 * i + 2)) / 4).backward()
            feed(i)
            step()
            for cell, before in held.items():
                if i < 3:
                    np.testing.assert_array_equal(cell.array, before, err_msg=f"{cell.name} changed while waiting")
        torch.nn.utils.clip_grad_norm_(pair.torch_params(), 0.2)
        theirs.step()
        for name, value in p.items():
            np.testing.assert_allclose(value.numpy(), pair.theirs[name].detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("warmup", [False, True])
def test_average_of_weights(warmup: bool) -> None:
    pair = Pair()
    optimizer, average = optim.SGD(pair.params(), lr=0.1), optim.EMA(pair.params(), decay=0.8, warmup=warmup)
    expected = [p.numpy() for p in pair.params()]
    step = Step(pair.loss, [optimizer, average])
    for t in range(1, 16):
        step()
        decay = min(0.8, (1 + t) / (10 + t)) if warmup else 0.8
        expected = [decay * e + (1 - decay) * p.numpy() for e, p in zip(expected, pair.params(), strict=True)]
    for shadow, value in zip(average.shadow, expected, strict=True):
        np.testing.assert_allclose(shadow.numpy(), value, rtol=1e-12)
    kept = pair.ours["w1"].numpy()
    with average.applied():
        np.testing.assert_array_equal(pair.ours["w1"].numpy(), average.shadow[0].numpy())
    np.testing.assert_array_equal(pair.ours["w1"].numpy(), kept)


# -- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "Adam", "NAdam", "ASGD", "Rprop", "Adafactor"])
@pytest.mark.parametrize("early", [True, False])
def test_a_saved_state_continues_bit_for_bit(kind: str, early: bool) -> None:
    """Whether it is loaded before or after the step is built."""
    settings = {"lr": 0.02, **({"momentum": 0.9} if kind == "SGD" else {})}
    whole, half, rest = Pair(), Pair(), Pair()
    Step(whole.loss, getattr(optim, kind)(whole.params(), **settings))(8)
    first = getattr(optim, kind)(half.params(), **settings)
    Step(half.loss, first)(4)
    saved = copy.deepcopy(first.state_dict())
    for name in SHAPES:
        rest.ours[name].assign(half.ours[name].numpy())
    second = getattr(optim, kind)(rest.params(), **settings)
    if early:
        second.load_state_dict(saved)
    step = Step(rest.loss, second)
    if not early:
        second.load_state_dict(saved)
    step(4)
    for name in SHAPES:
        np.testing.assert_array_equal(rest.ours[name].numpy(), whole.ours[name].numpy())


@pytest.mark.parametrize(("kind", "settings"), [
    ("SGD", dict(lr=0.05, momentum=0.9, dampening=0.2)), ("Adam", dict(lr=0.01, amsgrad=True)),
    ("NAdam", dict(lr=0.01)), ("RMSprop", dict(lr=0.01, momentum=0.5, centered=True)),
    ("Adadelta", dict()), ("Adafactor", dict())], ids=_name)
def test_pytorchs_state_loads(kind: str, settings: dict[str, Any]) -> None:
    pair = Pair()
    theirs = getattr(torch.optim, kind)(pair.torch_params(), **settings)
    for _ in range(7):
        pair.torch_step(theirs)
    ours = getattr(optim, kind)(pair.params(), **settings)
    ours.load_state_dict(theirs.state_dict())
    for name in SHAPES:
        pair.ours[name].assign(pair.theirs[name].detach().numpy())
    step = Step(pair.loss, ours)
    for _ in range(7):
        pair.torch_step(theirs)
        step()
    pair.agree()


def test_the_states_layout() -> None:
    pair = Pair()
    ours = optim.Adam(pair.params(), lr=0.3)
    assert ours.state_dict()["state"] == {}
    Step(pair.loss, ours)(2)
    saved = ours.state_dict()
    assert set(saved["state"]) == {0, 1, 2, 3}
    assert set(saved["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["state"][1]["step"] == 2
    assert saved["param_groups"][0]["params"] == [0, 1, 2, 3]
    assert saved["param_groups"][0]["lr"] == 0.3
    with pytest.raises(graphc.CheckpointError, match="groups of"):
        optim.Adam(pair.params()[:2]).load_state_dict(saved)
    saved["state"][0]["exp_avg"] = np.zeros(3)
    with pytest.raises(graphc.CheckpointError, match="'exp_avg' of 'w1'"):
        ours.load_state_dict(saved)


# -- compiled --------------------------------------------------------------------------------------------------------

ALL = [*SETTINGS, *((kind, settings) for kind, settings, _ in PUBLISHED)]


@pytest.mark.parametrize(("kind", "settings"), ALL, ids=_name)
def test_compiled_steps_agree_with_the_interpreter(kind: str, settings: dict[str, Any]) -> None:
    """Single calls, and several steps in one native call."""
    pairs = Pair(), Pair()
    programs = [graphc.train_step(pair.loss, getattr(optim, kind)(pair.params(), **settings), backend=backend)
                for pair, backend in zip(pairs, ("numpy", "native"), strict=True)]
    for program in programs:
        program()
        program.run(9)
    for a, b in zip(*(pair.params() for pair in pairs), strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_everything_at_once_runs_in_one_call(backend: str) -> None:
    """Schedule, momentum cycle, clipping, accumulation and an average: a run of n steps is n calls, bit for bit."""
    results = []
    for at_once in (True, False):
        pair = Pair()
        optimizer, average = optim.AdamW(pair.params(), lr=0.05), optim.EMA(pair.params(), 0.9)
        cycle = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
        program = graphc.train_step(pair.loss, [optimizer, average], lr_scheduler=cycle, grad_clip_norm=0.1,
                                    accumulate=2, backend=backend)
        losses = program.run(16) if at_once else np.array([program() for _ in range(16)])
        assert cycle.last_epoch == 8
        results.append([losses, *(p.numpy() for p in pair.params()), *(s.numpy() for s in average.shadow)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert results[0][0][-1] < results[0][0][0]


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_python_schedule_steps_between_calls(backend: str) -> None:
    pair = Pair()
    ours, theirs = optim.SGD(pair.params(), lr=0.2), torch.optim.SGD(pair.torch_params(), lr=0.2)
    mine = optim.lr_scheduler.LambdaLR(ours, lambda t: 1.0 / (1 + t))
    other = torch.optim.lr_scheduler.LambdaLR(theirs, lambda t: 1.0 / (1 + t))
    program = graphc.train_step(pair.loss, ours, lr_scheduler=mine, backend=backend)
    program()
    program.run(6)
    for _ in range(7):
        pair.torch_step(theirs)
        other.step()
    assert mine.last_epoch == 7
    pair.agree(1e-9)
