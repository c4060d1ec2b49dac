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
from graphc.symbols import Tensor


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


def step_of(model: Callable[[Tensor], Tensor], target: str, rows: int | str = "batch") -> graphc.Program:
    graphc.manual_seed(3)
    x = graphc.placeholder("x", (rows, 6))
    out = model(x)
    if target == "classes":
        y = graphc.placeholder("y", (rows,), "int64")
        loss = nn.functional.cross_entropy(out, y)
    else:
        y = graphc.placeholder("y", (rows, 3))
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


@pytest.mark.parametrize("rows, count", (("batch", 2), (12, 2), (12, 3)))
@pytest.mark.parametrize("target", ("classes", "numbers"))
@pytest.mark.parametrize("name", MODELS)
def test_a_step_in_chunks_computes_the_same(name: str, target: str, rows: int | str, count: int) -> None:
    program = step_of(MODELS[name], target, rows)
    whole = Pipeline().concrete(program.simplified, {"batch": 12} if rows == "batch" else {})
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


def is_cut(step: graphc.Program, **sizes: int) -> bool:
    return any(isinstance(s, Loop) and s.parallel for s in step.specialize(**sizes).plan.steps)


def small_perceptron(rows: int | str, *layers: nn.Module) -> graphc.Program:
    graphc.manual_seed(0)
    x, y = graphc.placeholder("x", (rows, 8)), graphc.placeholder("y", (rows,), "int64")
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), *layers, nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    return graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.Adam(model.parameters(), lr=1e-3))


def small_convnet(rows: int | str) -> graphc.Program:
    graphc.manual_seed(0)
    x, y = graphc.placeholder("x", (rows, 1, 12, 12)), graphc.placeholder("y", (rows,), "int64")
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
                          nn.Flatten(), nn.Linear(128, 10))
    return graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def small_recurrent(rows: int | str) -> graphc.Program:
    """As many steps as rows: which axis is the batch, only the proof tells."""
    graphc.manual_seed(0)
    x, y = graphc.placeholder("x", (32, rows, 8)), graphc.placeholder("y", (rows, 2))
    layer, head = nn.LSTM(8, 24), nn.Linear(24, 2)
    parameters = [*layer.parameters(), *head.parameters()]
    return graphc.train_step(nn.MSELoss()(head(layer(x)[0][-1]), y), optim.Adam(parameters, lr=1e-2))


def small_embedding(rows: int | str) -> graphc.Program:
    graphc.manual_seed(0)
    x, y = graphc.placeholder("x", (rows, 16), "int64"), graphc.placeholder("y", (rows,), "int64")
    table, model = nn.Embedding(20, 64), nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))
    parameters = [*table.parameters(), *model.parameters()]
    return graphc.train_step(nn.CrossEntropyLoss()(model(table(x)).mean(1), y), optim.AdamW(parameters))


def physics(rows: int | str) -> graphc.Program:
    """Derivatives by the input stand in the loss: what they begin with, ones times weights, depends on no input."""
    graphc.manual_seed(0)
    x, t = graphc.placeholder("x", (rows, 1)), graphc.placeholder("t", (rows, 1))
    model = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 1))
    u = model(graphc.cat([x, t], 1))
    by_x, by_t = graphc.grad(u.sum(), [x, t])
    residual = by_t + u * by_x - 0.01 * graphc.grad(by_x.sum(), x)
    return graphc.train_step((residual ** 2).mean(), optim.Adam(model.parameters(), lr=1e-3))


@pytest.mark.parametrize("rows, model", ((256, small_perceptron), (32, small_convnet), (32, small_recurrent),
                                         (64, small_embedding), (1000, physics)))
def test_sizes_may_be_numbers(rows: int, model: Callable[[int | str], graphc.Program]) -> None:
    named, fixed = model("batch"), model(rows)
    assert is_cut(fixed) and fixed.dump("plan") == named.dump("plan", sizes={"batch": rows})
    assert f"batch of {rows}" in fixed.report()


def test_a_graph_class_is_cut_where_its_inputs_have_different_first_axes() -> None:
    def run(threads: int) -> tuple[bytes, ...]:
        class Train(nn.Graph):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.head = nn.GRU(8, 24), nn.Linear(24, 2)
                self.add_optimizer(optim.Adam([*self.layer.parameters(), *self.head.parameters()], lr=1e-2))
                self.configure(threads=threads)

            def build(self, x: Tensor, y: Tensor) -> Tensor:
                loss = nn.MSELoss()(self.head(self.layer(x)[0][-1]), y)
                loss.backward()
                return loss

        graphc.manual_seed(0)
        graph, rng = Train(), np.random.default_rng(0)
        feeds = rng.standard_normal((16, 64, 8)), rng.standard_normal((64, 2))
        losses = graph.run(5, *feeds)
        assert is_cut(graph.program) and losses[-1] < losses[0]
        return losses.tobytes(), *(p.numpy().tobytes() for p in graph.program.parameters)

    assert run(1) == run(2) == run(3)


@pytest.mark.parametrize("model, rows, feeds", (
    (lambda rows: small_perceptron(rows, nn.Dropout(0.3)), 256, lambda rng: rng.standard_normal((256, 8))),
    (small_convnet, 32, lambda rng: rng.standard_normal((32, 1, 12, 12))),
    (physics, 1000, lambda rng: rng.standard_normal((1000, 1)))))
def test_numbers_as_sizes_compute_what_the_whole_batch_does(model: Callable[[int], graphc.Program], rows: int,
                                                            feeds: Callable[[np.random.Generator], np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    x, y = feeds(rng).astype(np.float32), rng.integers(0, 4, rows)
    step = model(rows)
    y = y if step.graph.inputs[-1].type.ndim == 1 else y.reshape(rows, 1).astype(np.float32)
    assert is_cut(step)
    whole = graphc.Program(step.graph, step.structure, backend="numpy")
    start = step.state_dict()
    losses = [step(x, y) for _ in range(3)]
    trained = step.state_dict()
    whole.load_state_dict(start)
    np.testing.assert_allclose(losses, [whole(x, y) for _ in range(3)], rtol=1e-5)
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(trained[name], value, rtol=2e-4, atol=2e-6)


def test_masks_are_the_same_bits_in_chunks() -> None:
    x = graphc.placeholder("x", (12, 6))
    w = graphc.parameter("w", np.ones(6))
    mask = nn.Dropout(0.4)(x * w)
    program = graphc.train_step(mask.sum(), optim.SGD([w], lr=1.0), outputs=mask)
    whole = Pipeline().concrete(program.simplified, {})
    split = Split.of(whole, dict.fromkeys(whole.inputs, 0), 3)
    feeds = {n: np.ones((12, 6), np.float32) for n in whole.inputs}
    expected, found = evaluate_graph(whole, feeds), evaluate_graph(build(split, wanted_outside(split)), feeds)
    assert expected[1].tobytes() == found[1].tobytes() and 0 < (found[1] == 0).sum() < 60


@pytest.mark.parametrize("layer, words", (
    (nn.BatchNorm1d(64), "of the work is row by row"), (None, "have no two equal parts"), ("large", "so many parameters"),
    ("short", "too short"), ("sums", "partial sums would cost more")))
def test_a_report_says_why_a_batch_stays_whole(layer: nn.Module | str | None, words: str) -> None:
    graphc.manual_seed(0)
    rows, width = {None: (257, 64), "large": (256, 640), "short": (8, 64), "sums": (32, 200)}.get(layer, (256, 64))
    x, y = graphc.placeholder("x", (rows, 8)), graphc.placeholder("y", (rows, 2))
    norm = layer if isinstance(layer, nn.Module) else nn.Identity()
    model = nn.Sequential(nn.Linear(8, width), norm, nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
    step = graphc.train_step(nn.MSELoss()(model(x), y), optim.SGD(model.parameters(), lr=1e-3))
    assert not is_cut(step)
    assert "the batch stays whole" in step.report() and words in step.report()


def means_of_pairs(h: Tensor) -> Tensor:
    pairs = h.reshape((128, 2, 64))
    return pairs.mean(1, keepdims=True).expand((128, 2, 64)).reshape((256, 64))


@pytest.mark.parametrize("mix, can_be_cut", (
    (means_of_pairs, True), (lambda h: h - h.mean(0), False), (lambda h: graphc.flip(h, 0), False),
    (lambda h: h.cumsum(0), False), (lambda h: h.T.reshape((256, 64)), False), (lambda h: (h @ h.T).softmax(-1) @ h, False),
    (lambda h: graphc.concat([h[1:], h[:1]], 0), False), (lambda h: h[graphc.iota((256,)) // 2], False)))
def test_what_mixes_rows_is_not_cut(mix: Callable[[Tensor], Tensor], can_be_cut: bool) -> None:
    graphc.manual_seed(0)
    x, y = graphc.placeholder("x", (256, 8)), graphc.placeholder("y", (256, 2))
    first, last = nn.Linear(8, 64), nn.Linear(64, 2)
    out = last(mix(first(x).tanh()))
    step = graphc.train_step(nn.MSELoss()(out, y), optim.SGD([*first.parameters(), *last.parameters()], lr=1.0))
    whole = Pipeline().concrete(step.simplified, {})
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(n.shape).astype(np.float32) for n in whole.inputs}
    expected = evaluate_graph(whole, feeds)
    for count, cut in ((2, can_be_cut), (256, False)):
        split = Split.of(whole, dict.fromkeys(whole.inputs, 0), count)
        assert all(n in split.parts for n in whole.nodes if n.op.kind is Kind.CONTRACT) == cut
        wanted = wanted_outside(split)
        for a, b in zip(expected, evaluate_graph(build(split, wanted) if wanted else whole, feeds), strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)


def test_few_rows_that_read_large_weights_make_few_chunks() -> None:
    def chunks(hidden: int) -> int:
        x, y = graphc.placeholder("x", (28, 32, 8)), graphc.placeholder("y", (32, 2))
        layer, head = nn.LSTM(8, hidden), nn.Linear(hidden, 2)
        parameters = [*layer.parameters(), *head.parameters()]
        step = graphc.train_step(nn.MSELoss()(head(layer(x)[0][-1]), y), optim.SGD(parameters, lr=0.1))
        graph, _ = Pipeline().chunked(step.simplified, Pipeline().concrete(step.simplified, {}))
        return max(n.attributes["length"] for n in graph.nodes if n.graphs and not n.attributes["carries"])

    assert 2 <= chunks(80) < chunks(24)


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


@pytest.mark.usefixtures("several_threads")
def test_long_chains_that_meet_the_batch_are_cut_a_few_nodes_deep() -> None:
    """600 maps of a parameter with a row for each row of the batch: cut as far as the stack allows, and the same values."""
    found = []
    for backend in ("native", "numpy"):
        x = graphc.placeholder("x", (256, 64))
        w, v = (graphc.parameter(name, np.full((rows, 64), 0.1, np.float32)) for name, rows in (("w", 256), ("v", 64)))
        y = w
        for _ in range(200):
            y = y * (1 - y) * 1.01
        loss = ((graphc.tanh(graphc.tanh(x @ v) @ v) + y) ** 2).mean()
        step = graphc.train_step(loss, optim.SGD([w, v], lr=0.1), threads=2, backend=backend)
        found.append((float(step(np.ones((256, 64), np.float32))), w.numpy(), v.numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
