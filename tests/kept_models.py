"""Programs for `test_kept.py`, built alike in every process: python -m tests.kept_models NAME FILE [STEPS].

Writes losses, outputs and state of some steps to FILE, and prints what the process has loaded and where its code comes from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from graphc.passes import autodiff

import graphc
from graphc import nn, optim

Made = tuple[Any, dict[str, np.ndarray]]  # a program and what it is fed

RNG = np.random.default_rng(7)
X, Y = RNG.standard_normal((24, 12)).astype("f"), RNG.integers(0, 5, 24)


def perceptron(**options: Any) -> Made:
    """Dropout, a schedule, clipping, decoupled decay: much state."""
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Dropout(0.3), nn.Linear(40, 5))
    x, y = graphc.placeholder("x", ("batch", 12)), graphc.placeholder("y", ("batch",), "int64")
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optimizer, {"logits": model(x)}, lr_scheduler=schedule,
                             grad_clip_norm=1.0, **options), {"x": X, "y": Y}


def tutorial() -> Made:
    """So small that it is unrolled."""
    x, y = graphc.placeholder("x", ("batch", 2)), graphc.placeholder("y", ("batch", 1))
    w = graphc.parameter("w", [[2.0], [1.0]])
    return graphc.train_step(((x @ w - y) ** 2).sum(), optim.SGD([w], lr=0.01)), {"x": X[:4, :2], "y": X[:4, 2:3]}


def recurrent() -> Made:
    model, head = nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 5)
    x, y = graphc.placeholder("x", ("batch", 3, 12)), graphc.placeholder("y", ("batch",), "int64")
    loss = nn.CrossEntropyLoss()(head(model(x)[0][:, -1]), y)
    fed = {"x": RNG.standard_normal((8, 3, 12)).astype("f"), "y": Y[:8]}
    return graphc.train_step(loss, optim.Adam([*model.parameters(), *head.parameters()])), fed


def convolution() -> Made:
    """Statistics over the batch, in states that layers update; a large constant, and one that is computed from it."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5))
    x, y = graphc.placeholder("x", ("batch", 1, 8, 8)), graphc.placeholder("y", ("batch",), "int64")
    mask = graphc.constant(np.sin(np.arange(5 * 144, dtype="f")).reshape(5, 144))
    w = model[4].weight
    loss = nn.CrossEntropyLoss()(model(x), y) + 0.01 * (w * mask + w @ graphc.exp(mask).T @ mask).sum()
    fed = {"x": RNG.standard_normal((6, 1, 8, 8)).astype("f"), "y": Y[:6]}
    return graphc.train_step(loss, optim.SGD(model.parameters(), lr=0.05, momentum=0.9)), fed


def branches() -> Made:
    """A loop, a branch, integers and bools, several outputs, no parameters."""
    n, flag = graphc.placeholder("n", (6,), "int64"), graphc.placeholder("flag", (), "bool")
    last, every = graphc.scan(lambda c, v: (c + v, c * v), graphc.constant(0, "int64"), n)
    out = graphc.cond(flag, lambda a: a * 2, lambda a: a - 1, last)
    return graphc.function([n, flag], {"out": out, "every": every, "even": n % 2 == 0}), {
        "n": np.arange(6), "flag": np.array(True)}


@graphc.custom_vjp
def clipped(x: Any) -> Any:
    return x * 1


clipped.defvjp(lambda x: (x * 1, ()), lambda residuals, g: (graphc.clip(g, -0.1, 0.1),))


def own_gradient() -> Made:
    x, w = graphc.placeholder("x", (24, 12)), graphc.parameter("w", np.ones((12, 5), "f"))
    return graphc.train_step((clipped(x @ w) ** 2).mean(), optim.SGD([w], lr=0.1)), {"x": X}


def in_one_piece() -> Made:
    """On a matrix unit, where there is one: its registers have to be asked for by each process."""
    model = nn.Sequential(nn.Linear(200, 256), nn.ReLU(), nn.Linear(256, 5))
    x, y = graphc.placeholder("x", ("batch", 200)), graphc.placeholder("y", ("batch",), "int64")
    fed = {"x": RNG.standard_normal((128, 200)).astype("f"), "y": RNG.integers(0, 5, 128)}
    return graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.Adam(model.parameters()), matmul_precision="medium"), fed


MODELS: dict[str, Callable[[], Made]] = {m.__name__: m for m in
                                         (perceptron, tutorial, recurrent, convolution, branches, own_gradient, in_one_piece)}


def results(program: Any, fed: dict[str, np.ndarray], steps: int) -> list[np.ndarray]:
    """Of steps one by one, of a run, and the state behind them."""
    found: list[Any] = []
    for result in (*(program(**fed) for _ in range(steps)), program.run(steps, **fed)):
        values = [result]
        while values:
            value = values.pop()
            if isinstance(value, (dict, tuple)):
                values += value.values() if isinstance(value, dict) else value
            else:
                found.append(value)
    return [*map(np.asarray, found), *program.state_dict().values()]


def main(name: str, file: str, steps: int = 3) -> None:
    graphc.manual_seed(0)
    pulls: list[Any] = []
    pull = autodiff._pull

    def counted(*arguments: Any) -> Any:
        pulls.append(arguments)
        return pull(*arguments)

    autodiff._pull = counted
    program, fed = MODELS[name]()
    np.savez(file, *results(program, fed, steps))
    sizes = {"batch": len(fed["x"])} if "batch" in program.built.open_sizes else {}
    seconds, derived = program.specialize(**sizes).kept, len(pulls)
    loaded = [m for m in ("llvmlite", "graphc.passes.pipeline", "graphc.runtime.native.kernels") if m in sys.modules]
    print(json.dumps({"kept": seconds, "derived": derived, "loaded": loaded, "report": program.report(**sizes)}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
