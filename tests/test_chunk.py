"""Steps whose batch is cut into chunks: the same mathematics, more parallel, the same bits for any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graphc.passes.batch_axis import Split
from graphc.passes.chunk import build, wanted_outside
from graphc.passes.pipeline import Pipeline
from graphc.runtime.interpreter import evaluate_graph

import graphc
from graphc import nn, optim
from graphc.ir import Graph
from graphc.op import Kind
from graphc.plan import Loop
from graphc.tensor import Tensor


def perceptron(x: Tensor) -> Tensor:
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 3))
    return model(x)


def dropout(x: Tensor) -> Tensor:
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.4), nn.ReLU(), nn.Linear(16, 3))(x)


def convolution(x: Tensor) -> Tensor:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    return model(x.reshape((x.shape[0], 1, 2, 3)))


def attention(x: Tensor) -> Tensor:
    sequence = x.reshape((x.shape[0], 3, 2)) @ graphc.parameter("into", np.linspace(-1, 1, 16).reshape(2, 8))
    return nn.Linear(8, 3)(nn.MultiheadAttention(8, 2, batch_first=True)(sequence, sequence, sequence)[0].mean(1))


def embedding(x: Tensor) -> Tensor:
    picked = nn.Embedding(5, 4)(graphc.argmax(x, 1) % 5)
    return nn.Linear(4, 3)(picked) + x.cumsum(1)[:, :3]


def running_mean(x: Tensor) -> Tensor:
    """Mean and variance over the batch stand between its rows: only what comes before is done in chunks."""
    return nn.Linear(8, 3)(nn.BatchNorm1d(8)(nn.Linear(6, 8)(x)))


def recurrent(x: Tensor) -> Tensor:
    """Loops over time inside each chunk; the batch is the second axis of what they walk along."""
    layer = nn.LSTM(2, 5, num_layers=2, bidirectional=True)
    return nn.Linear(10, 3)(layer(x.reshape((x.shape[0], 3, 2)).transpose(0, 1))[0][-1])


def noisy_loop(x: Tensor) -> Tensor:
    """Draws of all rows in every step, by their positions in the batch."""
    w = graphc.parameter("w", np.eye(6) * 0.5)
    h, _ = graphc.scan(lambda h, _: (((h + graphc.normal(x.shape)) @ w).tanh(), None), x, length=3)
    return h[:, :3]


def loop_between_rows(x: Tensor) -> Tensor:
    w = graphc.parameter("w", np.eye(6) * 0.5)
    h, _ = graphc.scan(lambda h, _: ((h @ w - h.mean(0)).tanh(), None), x, length=3)
    return h[:, :3]


def branch(x: Tensor) -> Tensor:
    w = graphc.parameter("w", np.eye(6) * 0.5)
    return graphc.cond(x.sum() > 0, lambda: x @ w, lambda: x - w.sum())[:, :3]


MODELS = {f.__name__: f for f in (perceptron, dropout, convolution, attention, embedding, running_mean, recurrent, noisy_loop)}


def step_of(model: Callable[[Tensor], Tensor], target: str) -> graphc.Program:
    graphc.manual_seed(3)
    x = graphc.placeholder("x", ("batch", 6))
    out = model(x)
    if target == "classes":
        y = graphc.placeholder("y", ("batch",), "int64")
        loss = nn.functional.cross_entropy(out, y)
    else:
        y = graphc.placeholder("y", ("batch", 3))
        loss = nn.MSELoss()(out, y)
    cells = [n.attributes["cell"] for n in graphc.ir.topological([loss.node]) if "cell" in n.attributes]
    parameters = [graphc.Parameter(graphc.ir.make(graphc.op.REGISTRY["parameter"], (), {"cell": c})) for c in cells
                  if c.trainable]
    return graphc.train_step(loss, optim.SGD(parameters, lr=1.0), outputs={"largest": out.max(), "out": out.exp()})


def feeds_for(graph: Graph, target: str, batch: int) -> dict[graphc.ir.Node, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, 6)).astype(np.float32)
    y = rng.integers(0, 3, batch) if target == "classes" else rng.standard_normal((batch, 3)).astype(np.float32)
    return {node: x if node.attributes["name"] == "x" else y for node in graph.inputs}


@pytest.mark.parametrize("count", (2, 3))
@pytest.mark.parametrize("target", ("classes", "numbers"))
@pytest.mark.parametrize("name", MODELS)
def test_a_step_in_chunks_computes_the_same(name: str, target: str, count: int) -> None:
    program = step_of(MODELS[name], target)
    whole = Pipeline().concrete(program.simplified, {"batch": 12})
    split = Split.of(whole, dict.fromkeys(whole.inputs, 0), count)
    wanted = wanted_outside(split)
    assert wanted
    graph = build(split, wanted)
    assert any(n.op.kind is Kind.LOOP for n in graph.nodes)
    contractions = [n for n in whole.nodes if n.op.kind is Kind.CONTRACT]
    chunked = [n for n in contractions if n in split.inside or n in split.sums]
    assert chunked == contractions if name != "running_mean" else 0 < len(chunked) < len(contractions)
    expected = evaluate_graph(whole, feeds_for(whole, target, 12))
    found = evaluate_graph(graph, feeds_for(graph, target, 12))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("model", (loop_between_rows, branch))
def test_loops_whose_steps_mix_rows_and_branches_stay_whole(model: Callable[[Tensor], Tensor]) -> None:
    program = step_of(model, "numbers")
    whole = Pipeline().concrete(program.simplified, {"batch": 12})
    split = Split.of(whole, dict.fromkeys(whole.inputs, 0), 2)
    assert not any(n.graphs for n in split.inside)


def test_threads_share_a_recurrent_step_by_rows() -> None:
    def run(threads: int) -> tuple[bytes, ...]:
        graphc.manual_seed(0)
        x, y = graphc.placeholder("x", (16, "batch", 8)), graphc.placeholder("y", ("batch", 2))
        layer, head = nn.LSTM(8, 24), nn.Linear(24, 2)
        parameters = [*layer.parameters(), *head.parameters()]
        step = graphc.train_step(nn.MSELoss()(head(layer(x)[0][-1]), y), optim.Adam(parameters, lr=1e-2), threads=threads)
        rng = np.random.default_rng(0)
        losses = step.run(5, rng.standard_normal((16, 32, 8)), rng.standard_normal((32, 2)))
        (outer,) = (s for s in step.specialize(batch=32).plan.steps if isinstance(s, Loop))
        assert outer.parallel and sum(isinstance(s, Loop) for s in outer.body.steps) == 2  # forward and backward, no waiting
        assert losses[-1] < losses[0]
        return losses.tobytes(), *(p.numpy().tobytes() for p in parameters)

    assert run(1) == run(2) == run(3)


@pytest.mark.parametrize("threads", (2, 3, 4))
def test_bits_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    def run(threads: int) -> tuple[bytes, ...]:
        graphc.manual_seed(0)
        x, y = graphc.placeholder("x", ("batch", 8)), graphc.placeholder("y", ("batch", 2))
        model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.2), nn.Linear(64, 2))
        step = graphc.train_step(nn.MSELoss()(model(x), y), optim.Adam(model.parameters(), lr=1e-3), threads=threads)
        rng = np.random.default_rng(0)
        losses = step.run(20, rng.standard_normal((256, 8)), rng.standard_normal((256, 2)))
        steps = step.specialize(batch=256).plan.steps
        assert any(isinstance(s, Loop) and s.parallel for s in steps), "a step like this is cut into chunks"
        assert losses[-1] < losses[0]
        return losses.tobytes(), *(p.numpy().tobytes() for p in model.parameters())

    assert run(threads) == run(1)


def test_a_large_model_keeps_its_fused_updates() -> None:
    x, y = graphc.placeholder("x", ("batch", 784)), graphc.placeholder("y", ("batch",), "int64")
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    step = graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.Adam(model.parameters()))
    assert not any(isinstance(s, Loop) for s in step.specialize(batch=128).plan.steps)


def test_a_batch_that_does_not_divide_stays_whole() -> None:
    x, y = graphc.placeholder("x", ("batch", 8)), graphc.placeholder("y", ("batch", 2))
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    step = graphc.train_step(nn.MSELoss()(model(x), y), optim.SGD(model.parameters(), lr=1e-3))
    assert not any(isinstance(s, Loop) for s in step.specialize(batch=257).plan.steps)
