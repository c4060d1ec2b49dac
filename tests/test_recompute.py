"""Computing again instead of keeping: `after`, `checkpoint`, and `memory_budget`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.keeping import minimum_cut
from graphc.passes.pipeline import Pipeline, laid_out
from graphc.passes.recompute import fit
from graphc.passes.simplify import simplify

import graphc
from graphc import nn, optim, testing
from graphc.ops.recompute import after
from graphc.symbols import Tensor
from graphc.text import format_graph, parse

G = np.random.default_rng(0)
ROWS = 63  # no two equal parts: a batch in chunks is added up in another order than one that is whole
W1, W2, X = (G.standard_normal(s) / 2 for s in ((6, 8), (8, 6), (5, 6)))


def block(x: Any, a: Any, b: Any) -> Any:
    return ((x @ a).tanh() @ b).sigmoid() * x


# -- checkpoint ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_checkpoint_gives_the_same_values_and_gradients(backend: str, dtype: str) -> None:
    x = graphc.placeholder("x", ("n", 6), dtype)
    a, b = graphc.parameter("a", W1, dtype), graphc.parameter("b", W2, dtype)

    def loss(wrap: Callable[..., Any]) -> Tensor:
        h = x
        for _ in range(3):
            h = wrap(block, h, a, b)
        return (h * h).sum()

    kept, again = loss(lambda f, *args: f(*args)), loss(graphc.checkpoint)
    given = X.astype(dtype)
    plain = graphc.function([x], [kept, *graphc.grad(kept, [x, a, b])], backend=backend)(given)
    found = graphc.function([x], [again, *graphc.grad(again, [x, a, b])], backend=backend)(given)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12 if dtype == "float64" else 1e-5)
    tx, ta, tb = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (X, W1, W2))
    h = tx
    for _ in range(3):
        h = torch.utils.checkpoint.checkpoint(block, h, ta, tb, use_reentrant=False)
    value = (h * h).sum()
    for one, other in zip([value, *torch.autograd.grad(value, [tx, ta, tb])], found, strict=True):
        np.testing.assert_allclose(other, one.detach(), rtol=1e-10 if dtype == "float64" else 2e-5, atol=1e-6)


def test_checkpoint_has_gradients_of_any_order_and_nests() -> None:
    def inner(x: Tensor) -> Tensor:
        return (x * x).sin() * x

    def outer(x: Tensor) -> Tensor:
        return graphc.checkpoint(inner, x.tanh()) + graphc.checkpoint(inner, x)

    assert testing.gradcheck(lambda x: graphc.checkpoint(outer, x), [G.standard_normal((2, 3))], order=2)


def test_jvp_goes_through_checkpoint() -> None:
    x = graphc.placeholder("x", (3,), "float64")
    tangent = graphc.jvp(graphc.checkpoint(lambda v: v.sin() * v, x), [x], [np.ones(3)])
    at = np.array([0.2, 0.5, 1.5])
    np.testing.assert_allclose(tangent.eval(x=at), np.sin(at) + at * np.cos(at), rtol=1e-12)


def test_checkpoint_takes_and_gives_what_functions_do() -> None:
    x = graphc.placeholder("x", (4,), "float64")
    index = graphc.placeholder("index", (4,), "int64")
    w = graphc.parameter("w", np.arange(1.0, 5.0), "float64")
    outside = (x * 3.0).exp()

    def function(pair: dict[str, Tensor], scale: float, *, power: int) -> tuple[Tensor, list[Tensor]]:
        moved = graphc.gather(pair["x"] * w, 0, pair["index"])
        return moved.tanh() * scale, [outside * w**power, moved + 1.0]

    def total(result: Any) -> Tensor:
        first, (second, third) = result
        return (first + second * third).sum()

    kept = total(function({"x": x, "index": index}, 2.0, power=2))
    again = total(graphc.checkpoint(function, {"x": x, "index": index}, 2.0, power=2))
    gradients = [*graphc.grad(kept, [x, w]), *graphc.grad(again, [x, w])]
    values = graphc.function([x, index], [kept, again, *gradients])(G.standard_normal(4), np.array([3, 1, 1, 0]))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
    np.testing.assert_allclose(values[2], values[4], rtol=1e-12)
    np.testing.assert_allclose(values[3], values[5], rtol=1e-12)
    with pytest.raises(graphc.GraphError, match="which is no tensor"):
        graphc.checkpoint(lambda v: (v, "text"), x)
    assert graphc.checkpoint(lambda: 2.0).eval() == 2.0


def test_a_function_traced_twice_is_one_graph() -> None:
    x = graphc.placeholder("x", (3,))
    first, second = (graphc.checkpoint(lambda v: v.tanh() * v, x) for _ in range(2))
    assert first.node is second.node


def test_a_gradient_by_what_a_checkpoint_hides_is_refused() -> None:
    x, hidden = graphc.placeholder("x", (3,)), []

    def leak(v: Tensor) -> Tensor:
        hidden.append(v.tanh())
        return hidden[0] * 2.0

    out = graphc.checkpoint(leak, x)
    inside = next(n for n in (out.node.inputs[0].inputs) if n.op.name == "tanh")
    with pytest.raises(graphc.GraphError, match="only through 'checkpoint'"):
        graphc.grad(out.sum(), Tensor(inside))


def stack(layers: int, every: int) -> graphc.Program:
    """A training step of equal layers, `every` of them in one checkpoint; 0 for none."""
    graphc.manual_seed(0)
    x, h = graphc.placeholder("x", (ROWS, 32)), None
    weights = [graphc.parameter(f"w{i}", np.random.default_rng(i).standard_normal((32, 32)) / 6) for i in range(layers)]

    def run(h: Tensor, *some: Tensor) -> Tensor:
        for w in some:
            h = (h @ w).tanh()
        return h

    h = x
    for start in range(0, layers, every or layers):
        some = weights[start:start + (every or layers)]
        h = graphc.checkpoint(run, h, *some) if every else run(h, *some)
    return graphc.train_step((h * h).mean(), optim.SGD(weights, lr=0.1))


def test_checkpoints_take_memory_down() -> None:
    kept, again = stack(24, 0).specialize(), stack(24, 5).specialize()
    assert again.memory_bytes < 0.5 * kept.memory_bytes
    assert kept.flops < again.flops < 1.4 * kept.flops
    assert "after" not in graphc.text.format_plan(again.plan)  # order alone: nothing runs for it
    forward = {k.body.roots for k in kept.plan.kernels if k.phase == "forward" and k.form.value == "contract"}
    second = [k for k in again.plan.kernels if k.phase == "gradient" and k.body.roots in forward]
    assert len(second) >= 16  # the second computations are the same code


def test_random_bits_are_the_same_again_and_states_advance_once() -> None:
    def step(wrap: Callable[..., Any]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        graphc.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Tanh())
        last = nn.Linear(16, 2)
        x = graphc.placeholder("x", (8, 6))
        loss = (last(wrap(model, x)) ** 2).mean()
        program = graphc.train_step(loss, optim.SGD([*model.parameters(), *last.parameters()], lr=0.1))
        values = G2.standard_normal((3, 8, 6)).astype(np.float32)
        return [program(v) for v in values], program.state_dict()

    G2 = np.random.default_rng(1)
    losses, state = step(lambda f, *args: f(*args))
    G2 = np.random.default_rng(1)
    again, second = step(graphc.checkpoint)
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    for name, value in state.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        if name.endswith("key"):
            assert second[name] == value


def test_after_survives_simplification_and_text() -> None:
    x, w = graphc.placeholder("x", (3,)), graphc.placeholder("w", (2,))
    first, awaited = x.exp(), w * 2.0
    second = after(x, [awaited]).exp()
    graph = graphc.function([x, w], [second, first, awaited]).graph
    assert "after(%x" in format_graph(simplify(graph))
    assert parse(format_graph(graph), {"x": x, "w": w}).roots == graph.roots
    _, plan = laid_out(simplify(graph))
    order = [plan.home(b).name for k in plan.kernels for b in k.writes]
    assert order.index("out2") < order.index("out0") and set(order) == {"out0", "out1", "out2"}
    assert plan.arena_bytes == 0


def test_graphs_with_checkpoints_can_be_looked_at() -> None:
    program = stack(2, 1)
    for stage in ("forward", "gradient", "update", "simplified"):
        text = program.dump(stage)
        assert parse(text, {"x": program.inputs[0], **{p.cell.name: p for p in program.parameters}})
        assert program.dump(stage, "html") and program.dump(stage, "dot") and program.dump(stage, "json")


# -- memory budget ---------------------------------------------------------------------------------------------------

Built = tuple[graphc.Program, dict[str, np.ndarray]]


def mlp(layers: int = 24, dropout: float = 0.0, **options: Any) -> Built:
    graphc.manual_seed(0)
    hidden = [m for _ in range(layers) for m in (nn.Linear(32, 32), nn.Tanh(), *([nn.Dropout(dropout)] if dropout else []))]
    model = nn.Sequential(*hidden, nn.Linear(32, 4))
    x, y = graphc.placeholder("x", (ROWS, 32)), graphc.placeholder("y", (ROWS, 4))
    step = graphc.train_step(((model(x) - y) ** 2).mean(), optim.Adam(model.parameters()), **options)
    return step, {"x": G.standard_normal((ROWS, 32)), "y": G.standard_normal((ROWS, 4))}


def convolutional(depth: int = 14, norm: bool = False, **options: Any) -> Built:
    graphc.manual_seed(0)
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Conv2d(4 if k else 1, 4, 3, padding=1), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU()]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 16, 10))
    x, y = graphc.placeholder("x", (8, 1, 8, 8)), graphc.placeholder("y", (8,), "int64")
    step = graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
                             **options)
    return step, {"x": G.standard_normal((8, 1, 8, 8)), "y": G.integers(0, 10, 8)}


@lru_cache
def example() -> ModuleType:
    path = Path(__file__).parent.parent / "examples" / "gpt_char.py"
    spec = importlib.util.spec_from_file_location("gpt_char", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gpt(**options: Any) -> Built:
    """The four-layer GPT of the examples."""
    graphc.manual_seed(0)
    made = example()
    model = made.GPT(27)
    x = graphc.placeholder("x", (made.BATCH, made.CONTEXT), "int64")
    y = graphc.placeholder("y", (made.BATCH, made.CONTEXT), "int64")
    loss = nn.functional.cross_entropy(model(x).reshape(-1, 27), y.reshape(-1))
    step = graphc.train_step(loss, optim.AdamW(model.parameters()), **options)
    return step, {n: G.integers(0, 27, (made.BATCH, made.CONTEXT)) for n in ("x", "y")}


@pytest.mark.parametrize("build", [mlp, convolutional, gpt], ids=lambda b: b.__name__)
def test_half_the_memory_for_less_than_two_fifths_more_operations(build: Callable[..., Built]) -> None:
    program, _ = build(backend="numpy")
    graph = Pipeline().concrete(program.simplified, {})
    whole = laid_out(graph)[1]
    fitted = fit(graph, whole.arena_bytes // 2, laid_out)
    assert fitted.plan.arena_bytes <= whole.arena_bytes // 2
    assert fitted.cost is not None and fitted.cost.values
    assert whole.flops <= fitted.plan.flops < 1.4 * whole.flops


def after_steps(program: graphc.Program, feeds: dict[str, np.ndarray]) -> tuple[list[float], dict[str, np.ndarray]]:
    losses = [float(program(**feeds)) for _ in range(3)]
    return losses, {**program.state_dict()}


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize(("build", "options"), [(mlp, {"layers": 10}), (mlp, {"layers": 8, "dropout": 0.3}),
                                                (convolutional, {"depth": 5, "norm": True})],
                         ids=["mlp", "dropout", "convolutional"])
def test_a_budget_changes_no_bit(build: Callable[..., Built], options: dict[str, Any], backend: str) -> None:
    whole, feeds = build(backend=backend, **options)
    budget = int(whole.specialize().memory_bytes * 0.7)
    tight, _ = build(backend=backend, memory_budget=budget, **options)
    special = tight.specialize()
    assert special.memory_bytes <= budget and special.recomputed is not None
    losses, state = after_steps(whole, feeds)
    again, second = after_steps(tight, feeds)
    assert losses == again
    for name, value in state.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


def test_a_budget_holds_for_any_number_of_threads() -> None:
    found = []
    for threads in (1, 2, 3):
        program, _ = mlp(8, memory_budget=70_000, threads=threads)
        found.append(after_steps(program, {"x": np.ones((ROWS, 32), np.float32), "y": np.ones((ROWS, 4), np.float32)}))
    for losses, state in found[1:]:
        assert losses == found[0][0]
        assert all((state[name] == value).all() for name, value in found[0][1].items())


def test_the_report_says_what_is_computed_again_and_what_it_costs() -> None:
    program, _ = mlp(8, memory_budget=70_000)
    report = program.report()
    assert "values are computed again instead of kept" in report and "operations more" in report
    assert f"tanh f32[{ROWS},32]" in report
    roomy, _ = mlp(8, memory_budget=10**9)
    assert roomy.specialize().recomputed is None and "computed again" not in roomy.report()


def test_a_budget_that_cannot_be_met_says_how_far_it_went() -> None:
    program, feeds = mlp(4, memory_budget=1000)
    with pytest.raises(graphc.GraphError, match=r"needs [\d,]+ bytes .* budget is 1,000, even when \d+ values are "
                                                r"computed again .*; use a smaller batch, or a budget of at least"):
        program(**feeds)
    for wrong in (-1, 0.5, "1 MB"):
        with pytest.raises(graphc.GraphError, match="memory_budget is a number of bytes"):
            mlp(1, memory_budget=wrong)


def test_a_minimum_cut_weighs_bytes_against_operations() -> None:
    x = graphc.placeholder("x", (100, 4))
    cheap = (x @ np.ones((4, 100), np.float32)).node
    graph = graphc.function([x], Tensor(cheap).exp()).graph
    segment = [n for n in graph.nodes if n.inputs]
    wanted = [segment[-1]]
    keep, again = minimum_cut(segment, wanted, set(), price=1.0)  # 12 operations an element cost more than its 4 bytes
    assert keep == set(wanted) and not again
    keep, again = minimum_cut(segment, wanted, set(), price=0.01)
    assert not keep and again == set(segment)
    keep, again = minimum_cut(segment, wanted, {cheap}, price=0.2)  # kept anyway: only exp is left to compute
    assert not keep and again == set(wanted)
