"""Programs: calls, runs, bound calls, fit; and every way to hold them wrong, with the message that is due."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.driver import inspecting
from graphc.testing import assert_backends_agree

X = np.array([[1, 2], [2, 3], [4, 6], [3, 1]], np.float32)
Y = np.array([[8], [13], [26], [9]], np.float32)
BACKENDS = ("native", "numpy")


def build(backend: str = "native", **options: Any) -> tuple[graphc.Program, graphc.Parameter]:
    x, y = graphc.placeholder("x", ("batch", 2)), graphc.placeholder("y", ("batch", 1))
    w = graphc.parameter("w", [[2.0], [1.0]])
    loss = ((x @ w - y) ** 2).sum()
    updates = {w: w - 0.01 * graphc.grad(loss, w)}
    return graphc.function([x, y], loss, updates, backend=backend, **options), w


# -- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_tutorial_reaches_the_reference(backend: str) -> None:
    step, w = build(backend)
    losses = step.run(500, x=X, y=Y)
    assert losses[49] == pytest.approx(0.00345116, rel=1e-3)
    assert losses[99] == pytest.approx(1.96565e-06, rel=1e-3)
    assert losses[-1] <= 2e-11
    np.testing.assert_allclose(w.numpy(), [[2], [3]], atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_equals_calls_bit_for_bit(backend: str) -> None:
    one, w1 = build(backend)
    many, w2 = build(backend)
    calls = np.array([one(x=X, y=Y) for _ in range(20)])
    assert calls.tobytes() == many.run(20, x=X, y=Y).tobytes()
    assert w1.numpy().tobytes() == w2.numpy().tobytes()


def test_bound_calls_read_what_the_arrays_hold_now() -> None:
    for backend in BACKENDS:
        step, w = build(backend)
        data = X.copy()
        bound = step.bind(x=data, y=Y)
        assert float(bound()) == 200.0
        data[...] = 0
        assert float(bound()) == float((Y**2).sum())
        assert w.numpy().shape == (2, 1)


def test_open_sizes_just_work() -> None:
    step, _ = build()
    for n in (1, 2, 3, 7, 64):
        assert np.isfinite(step(np.ones((n, 2)), np.ones((n, 1))))
    assert step.specialize(batch=3).flops > 0
    assert step.specialize(batch=3).memory_bytes >= 0


def test_structures_of_outputs() -> None:
    x = graphc.placeholder("x", (2,))
    program = graphc.function([x], {"a": x + 1, "b": [x * 2, (x.sum(), x)]})
    out = program(np.array([1, 2], np.float32))
    assert out["a"].tolist() == [2, 3] and out["b"][0].tolist() == [2, 4]
    assert float(out["b"][1][0]) == 3 and out["b"][1][1].tolist() == [1, 2]
    assert program.run(3, np.array([1, 2], np.float32))["a"].shape == (3, 2)


def test_programs_share_parameters() -> None:
    step, w = build()
    x = graphc.placeholder("x", ("n", 2))
    predict = graphc.function([x], x @ w)
    step.run(500, X, Y)
    np.testing.assert_allclose(predict(X), Y, atol=1e-4)
    w.assign([[0], [0]])
    assert predict(X).tolist() == [[0]] * 4


def test_no_inputs_and_scalars() -> None:
    counter = graphc.state("counter", np.array(0, np.int64))
    program = graphc.function([], counter * 2, {counter: counter + 1})
    assert [int(program()) for _ in range(3)] == [0, 2, 4]
    assert program.run(3).tolist() == [6, 8, 10]


def test_state_that_is_written_but_never_read() -> None:
    a, out = graphc.state("a", np.ones((8, 256))), graphc.state("out", np.zeros((8, 256)))
    program = graphc.function([], [], {out: a + a})
    program.run(2)
    assert (out.numpy() == 2).all()


@pytest.mark.usefixtures("several_threads")
def test_threads_give_equal_bits() -> None:
    generator = np.random.default_rng(0)
    data, target = generator.standard_normal((96, 70)), generator.standard_normal((96, 9))
    results = []
    for threads in (1, 2, 3):
        graphc.manual_seed(3)
        model = nn.Sequential(nn.Linear(70, 300), nn.GELU(), nn.LayerNorm(300), nn.Linear(300, 9))
        x, y = graphc.placeholder("x", ("b", 70)), graphc.placeholder("y", ("b", 9))
        step = graphc.train_step(nn.MSELoss()(model(x), y), optim.AdamW(model.parameters()), threads=threads)
        assert step.specialize(b=96).executable.threads == threads
        step.run(5, data, target)
        results.append(np.concatenate([p.numpy().ravel() for p in model.parameters()]).tobytes())
    assert results[0] == results[1] == results[2]


def test_two_python_threads_call_one_program() -> None:
    step, _ = build()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(200):
                assert np.isfinite(step(X, Y))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.parametrize("backend", BACKENDS)
def test_fit_visits_every_row_once(backend: str) -> None:
    x = graphc.placeholder("x", ("batch", 1))
    seen = graphc.state("seen", np.zeros(1, np.float32))
    step = graphc.function([x], x.mean(), {seen: seen + x.sum(0)}, backend=backend)
    rows = np.arange(10, dtype=np.float32).reshape(10, 1)
    history = step.fit({"x": rows}, batch_size=4, epochs=3, progress=True)
    assert seen.numpy()[0] == 3 * 45
    np.testing.assert_allclose(history["loss"], [4.5] * 3)


def test_state_dict_round_trip_resumes_bit_for_bit() -> None:
    def fresh() -> tuple[graphc.Program, graphc.Parameter]:
        graphc.manual_seed(1)
        x, y = graphc.placeholder("x", ("b", 2)), graphc.placeholder("y", ("b", 1))
        w = graphc.parameter("w", [[2.0], [1.0]])
        return graphc.train_step(((x @ w - y) ** 2).sum(), optim.Adam([w], lr=0.1)), w

    whole, w = fresh()
    whole.run(10, X, Y)
    saved = whole.state_dict()
    whole.run(10, X, Y)
    resumed, v = fresh()
    resumed.load_state_dict(saved)
    resumed.run(10, X, Y)
    assert v.numpy().tobytes() == w.numpy().tobytes()
    with pytest.raises(graphc.CheckpointError, match="missing: w"):
        resumed.load_state_dict({k: a for k, a in saved.items() if k != "w"})
    with pytest.raises(graphc.CheckpointError, match=r"'w': expected shape \[2, 1\], got \[3\]"):
        resumed.load_state_dict({**saved, "w": np.zeros(3)})


def test_backends_agree_on_a_training_step() -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 5))
    x, y = graphc.placeholder("x", ("b", 12)), graphc.placeholder("y", ("b",), "int64")
    step = graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.AdamW(model.parameters()))
    before = model.state_dict()
    generator = np.random.default_rng(0)
    feeds = {"x": generator.standard_normal((16, 12)), "y": generator.integers(0, 5, 16)}
    assert_backends_agree(step, feeds, steps=5)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_inspecting_runs_nothing() -> None:
    step, w = build()
    token = inspecting.set(True)
    try:
        assert step(X, Y) == 0 and step.run(3, X, Y).tolist() == [0, 0, 0]
    finally:
        inspecting.reset(token)
    assert w.numpy().tolist() == [[2], [1]]


def test_learning_rate_changes_without_recompiling() -> None:
    x, y = graphc.placeholder("x", ("b", 2)), graphc.placeholder("y", ("b", 1))
    w = graphc.parameter("w", [[2.0], [1.0]])
    optimizer = optim.SGD([w], lr=0.01)
    step = graphc.train_step(((x @ w - y) ** 2).sum(), optimizer)
    step(X, Y)
    special = step.specialize(b=4)
    moved = w.numpy()
    optimizer.param_groups[0]["lr"] = 0.0
    step(X, Y)
    assert w.numpy().tobytes() == moved.tobytes()
    assert step.specialize(b=4) is special


def test_accumulation_applies_the_mean_gradient() -> None:
    def trained(accumulate: int, batches: list[np.ndarray]) -> np.ndarray:
        x = graphc.placeholder("x", ("b", 2))
        w = graphc.parameter("w", [[2.0], [1.0]])
        step = graphc.train_step((x @ w).mean(), optim.SGD([w], lr=0.1), accumulate=accumulate)
        for batch in batches:
            step(batch)
        return w.numpy()

    np.testing.assert_allclose(trained(2, [X[:2], X[2:]]), trained(1, [X]), rtol=1e-6)


# -- held wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("feeds", "message"), [
    ({"x": X}, r"missing input: y: f32\[batch,1\]"),
    ({"x": X, "y": Y, "z": Y}, r"no input is called 'z'; the inputs are: x, y"),
    ({"x": X[:, :1], "y": Y}, r"input 'x': expected f32\[batch,2\], got shape \[4, 1\] \(axis 1: 1, expected 2\)"),
    ({"x": X[0], "y": Y}, r"input 'x': .*1 dimensions, 2 expected"),
    ({"x": X, "y": Y[:3]}, r"input 'y': the open size 'batch' is 3 here but 4 in input 'x'"),
    ({"x": X[:0], "y": Y[:0]}, "the open size 'batch' is 0: an empty batch"),
    ({"x": [["a", "b"]], "y": Y}, "input 'x': expected"),
    ({"x": [[1, 2], [3]], "y": Y}, "input 'x': expected"),
    ({"x": X.astype(complex), "y": Y}, "input 'x': expected f32"),
    ({"x": None, "y": Y}, "input 'x': expected"),
])
def test_wrong_feeds(feeds: dict[str, object], message: str) -> None:
    step, w = build()
    with pytest.raises(graphc.FeedError, match=message):
        step(**feeds)
    assert w.numpy().tolist() == [[2], [1]]


def test_feed_conversions_and_refusals() -> None:
    x = graphc.placeholder("x", (2,))
    i = graphc.placeholder("i", (2,), "int32")
    double, index = graphc.function([x], x * 2), graphc.function([i], i + 1)
    for given in ([1, 2], (1.0, 2.0), np.array([1, 2]), np.array([1.0, 2.0]),
                  np.array([1, 9, 2, 9], np.float32)[::2], np.array([1, 2], ">f4")):
        assert double(given).tolist() == [2, 4]
    assert index(np.array([1, 2], np.int64)).dtype == np.int32
    with pytest.raises(graphc.FeedError, match=r"input 'i': expected i32\[2\], got float64\[2\]; .astype"):
        index(np.array([1.5, 2.5]))
    with pytest.raises(graphc.FeedError, match="values from 1 to 4294967296 do not fit int32"):
        index(np.array([1, 2**32]))
    with pytest.raises(graphc.FeedError, match="given twice"):
        double([1, 2], x=[1, 2])
    with pytest.raises(graphc.FeedError, match="2 arrays for 1 inputs"):
        double([1, 2], [1, 2])
    with pytest.raises(graphc.FeedError, match="bind reads 'x' in place: it must be a C-contiguous array of float32"):
        double.bind([1, 2])
    with pytest.raises(graphc.FeedError, match="positive number of steps"):
        double.run(0, [1, 2])


def test_errors_name_op_types_and_the_users_line() -> None:
    a = graphc.placeholder("a", (64, 784))
    with pytest.raises(graphc.ShapeError) as caught:
        a @ graphc.parameter("w", np.zeros((785, 10)))
    message = str(caught.value)
    assert "matmul: inner sizes differ: f32[64,784] @ f32[785,10] (784 != 785)" in message
    assert "test_driver.py:" in message and 'a @ graphc.parameter("w"' in message
    with pytest.raises(graphc.ShapeError, match=r"shapes \[64,784\] and \[3\] do not broadcast"):
        a + graphc.parameter("b", np.zeros(3))
    with pytest.raises(graphc.DTypeError, match="compare floats first"):
        a & a


def test_symbols_have_no_values() -> None:
    x = graphc.placeholder("x", ())
    for use in (bool, float, int, np.asarray, lambda s: [1, 2][s]):
        with pytest.raises(graphc.GraphError, match="has no value while the graph is built"):
            use(x)
    assert (np.float64(2) * x).dtype == graphc.float32
    assert (np.ones(3) * x).shape == (3,)
    w = graphc.parameter("w", [1.0])
    assert str(w) == "[1.]" and np.asarray(w).tolist() == [1.0]
    n = graphc.placeholder("n", ("size",)).shape[0]
    with pytest.raises(graphc.GraphError, match="the size 'size' is open"):
        range(n)


def test_programs_that_cannot_be_built() -> None:
    x, y = graphc.placeholder("x", (2,)), graphc.placeholder("x", (2,))
    w = graphc.parameter("w", [1.0, 2.0])
    with pytest.raises(graphc.GraphError, match="two inputs are called 'x'"):
        graphc.function([x, y], x + y)
    with pytest.raises(graphc.GraphError, match="the outputs depend on 'x', which is not among the inputs"):
        graphc.function([], x + 1)
    with pytest.raises(graphc.GraphError, match="inputs must be placeholders"):
        graphc.function([w], w)
    with pytest.raises(graphc.GraphError, match=r"updates: 'w' is f32\[2\], its new value f32\[\]"):
        graphc.function([x], x, {w: x.sum()})
    with pytest.raises(graphc.GraphError, match="is no parameter or state"):
        graphc.function([x], x, {x: x})
    with pytest.raises(graphc.GraphError, match="backend must be"):
        graphc.function([x], x, backend="cuda")
    with pytest.raises(graphc.ShapeError, match=r"needs a scalar loss, got f32\[2\]"):
        graphc.grad(x * w, w)
    with pytest.raises(graphc.GraphError, match="the loss does not depend on 'unused'"):
        graphc.train_step((w * x).sum(), optim.SGD([w, graphc.parameter("unused", [1.0])], lr=0.1))
    with pytest.raises(graphc.GraphError, match="only through 'cast'"):
        graphc.grad(w.astype("int64").sum().astype("float32"), w)
    with pytest.raises(graphc.DTypeError, match="is not floating"):
        graphc.grad(w.sum(), graphc.placeholder("i", (2,), "int64"))
    with pytest.raises(graphc.GraphError, match=r"backward\(\) belongs into nn.Graph.build"):
        w.sum().backward()
    zeros = graphc.grad((w * x).sum(), [w, graphc.parameter("u", [1.0])], allow_unused=True)
    assert len(zeros) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_forbidden_nan_leaves_everything_as_it_was(backend: str) -> None:
    x = graphc.placeholder("x", (2,))
    w = graphc.parameter("w", [1.0, 2.0])
    loss = (w * x).log().sum()
    step = graphc.function([x], loss, {w: w - 0.1 * graphc.grad(loss, w)}, check_numerics=True, backend=backend)
    step([1, 2])
    kept = w.numpy()
    with pytest.raises(graphc.NumericsError, match=r"(?s)nan in the result of log .* at \[1\].*test_driver.py"):
        step([1, -2])
    with pytest.raises(graphc.NumericsError, match=r"inf in the result of input 'x'"):
        step([1, np.inf])
    assert w.numpy().tobytes() == kept.tobytes()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_long_run() -> None:
    step, w = build()
    step.run(1, X, Y)  # compiled before the clock starts
    over = threading.Event()

    def interrupt() -> None:
        """Again where it was lost: Python swallows what is raised inside a destructor."""
        while not over.wait(0.5 if time.monotonic() - start < 0.5 else 3):
            _thread.interrupt_main()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            step.run(10**10, X, Y)
        finally:
            over.set()
    assert time.monotonic() - start < 10
    np.testing.assert_allclose(w.numpy(), [[2], [3]], atol=1e-5)  # whole steps only


def test_memory_budget_refuses_what_needs_more() -> None:
    x = graphc.placeholder("x", ("batch", 64))
    w = graphc.parameter("w", np.ones((64, 64)))
    program = graphc.function([x], ((x @ w).tanh() @ w).sum(), memory_budget=100_000)
    program(np.ones((4, 64)))
    with pytest.raises(graphc.GraphError, match=r"bytes of temporaries for batch=4000, the memory budget is 100,000"):
        program(np.ones((4000, 64)))


def test_assigning_wrong_values() -> None:
    w = graphc.parameter("w", [1.0, 2.0])
    with pytest.raises(graphc.ShapeError, match=r"expected shape \[2\], got \[3\]"):
        w.assign([1, 2, 3])
    with pytest.raises(graphc.DTypeError, match="floats do not become int64"):
        graphc.state("n", np.array(1)).assign(1.5)


# -- nn.Graph --------------------------------------------------------------------------------------------------------


class Train(nn.Graph):
    def __init__(self, model: nn.Module, optimizer: optim.Optimizer) -> None:
        super().__init__()
        self.model, self.loss = model, nn.MSELoss(reduction="sum")
        self.add_optimizer(optimizer)

    def build(self, x: graphc.Tensor, y: graphc.Tensor) -> graphc.Tensor:
        loss = self.loss(self.model(x), y)
        loss.backward()
        return loss


def test_static_graph_class_trains() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.assign([[2.0, 1.0]])
    train = Train(model, optim.SGD(model.parameters(), lr=0.01))
    losses = [float(train(X, Y)) for _ in range(100)]
    assert losses[0] == 200 and losses[49] == pytest.approx(0.00345116, rel=1e-3)
    traced = train.program
    train(X[:2], y=Y[:2])
    assert train.program is traced  # another batch size needs no new trace
    model.eval()
    train(X, Y)
    assert train.program is not traced
    with pytest.raises(graphc.FeedError, match="build takes x, y"):
        train(X)


def test_static_graph_without_backward() -> None:
    model = nn.Linear(2, 1)

    class Forgetful(Train):
        def build(self, x: graphc.Tensor, y: graphc.Tensor) -> graphc.Tensor:
            return self.loss(self.model(x), y)

    with pytest.raises(graphc.GraphError, match=r"never calls loss.backward\(\)"):
        Forgetful(model, optim.SGD(model.parameters(), lr=0.1))(X, Y)

    class Predict(nn.Graph):
        def build(self, x: graphc.Tensor) -> graphc.Tensor:
            return model(x)

    predict = Predict()
    assert predict(X).shape == (4, 1)
    predict.compile(X[:3])
