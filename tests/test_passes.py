"""Passes: every rule proved, filechecked transformations, fusion, schedules and memory; and plans that must be refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphc.passes.expand import expand_composites, specialize
from graphc.passes.loops import merge_scans
from graphc.passes.picks import pick_single_elements
from graphc.passes.pipeline import Pipeline, laid_out
from graphc.passes.recompute import fit
from graphc.passes.rules import SIMPLIFYING, STABILIZING, Rule, apply_rule
from graphc.passes.simplify import simplify, stabilize
from graphc.passes.split import split_long_sums
from graphc.passes.verify import InvalidPlan, verify_graph, verify_plan
from graphc.runtime.interpreter import evaluate
from graphc.runtime.plan_interpreter import interpret_loop, interpret_plan

import graphc
from graphc import nn
from graphc.ir import Graph
from graphc.plan import Form, Kernel, Plan, Role, repeated
from graphc.records import replace
from graphc.symbols import Tensor, placeholder
from graphc.text import format_graph, format_plan, parse

# -- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [*STABILIZING, *SIMPLIFYING], ids=lambda r: r.name)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_rule_holds_on_random_tensors(rule: Rule, dtype: str) -> None:
    if (dtype == "int64") != (rule.dtypes == "i"):
        dtype = "int64" if rule.dtypes == "i" else "float64"
    generator = np.random.default_rng(7)
    _, symbols = rule.pattern
    names = [s.attributes["name"] for s in symbols]
    shape = (4, 33)
    fresh, arrays = [], []
    for i, name in enumerate(names):
        own = "bool" if i in rule.masks else dtype
        fresh.append(placeholder(name, shape, own))
        values = generator.uniform(*rule.domain, shape)
        arrays.append(values > 0 if own == "bool" else values.astype(own))
    before = rule.before(*fresh).node
    after = rule.after(*fresh).node
    assert before.type == after.type
    feeds = {f.node: a for f, a in zip(fresh, arrays, strict=True)}
    a, b = evaluate([before, after], feeds)
    exact = dtype == "int64" or before.dtype.is_bool
    np.testing.assert_allclose(b, a, rtol=0 if exact else 2e-5 if dtype == "float32" else 1e-12,
                               atol=0 if exact else 1e-6 if dtype == "float32" else 1e-12)
    assert apply_rule(rule, before) is not None, "the rule does not match its own pattern on a larger shape"


def test_stabilising_rules_survive_extreme_values() -> None:
    x = placeholder("x", (4,))
    feeds = np.array([-200.0, -90.0, 90.0, 200.0], np.float32)
    for out in (graphc.log(graphc.sigmoid(x)), graphc.log(1 + graphc.exp(x)),
                graphc.log(x.reshape(2, 2).softmax(1)), graphc.log(graphc.exp(x.reshape(2, 2)).sum(1))):
        for backend in ("numpy", "native"):
            value = graphc.function([x], out, backend=backend)(feeds)
            assert np.isfinite(value).all()


def test_one_round_of_simplification_leaves_nothing_to_do() -> None:
    """Each node is left when nothing applies to it: a second round would make everything behind a change anew."""
    x, y = placeholder("x", ("batch", 16, 64)), placeholder("y", ("batch", 16, 64))
    block = graphc.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    step = graphc.train_step(graphc.nn.MSELoss()(block(x), y), graphc.optim.AdamW(block.parameters()))
    graph = expand_composites(step.graph)
    once = simplify(graph, rounds=1)
    assert once.roots != graph.roots and simplify(once, rounds=1).roots == once.roots


# -- filecheck -------------------------------------------------------------------------------------------------------

PASSES = {"stabilize": stabilize, "expand": expand_composites, "simplify": simplify, "split": split_long_sums,
          "halve": lambda g: fit(g, laid_out(g)[1].arena_bytes * 2 // 3, laid_out).graph,
          "loops": merge_scans, "picks": pick_single_elements, "all": lambda g: Pipeline().simplified(g),
          "fuse": lambda g: Pipeline().plan(g)}


def cases() -> list[tuple[str, str, str, list[str]]]:
    """(name, pass, graph text, expected lines) of every case in filecheck/*.gc."""
    found = []
    for file in sorted((Path(__file__).parent / "filecheck").glob("*.gc")):
        for block in file.read_text().split("// RUN: ")[1:]:
            head, _, rest = block.partition("\n")
            name = f"{file.stem}: {head.partition('//')[2].strip()}"
            text = "\n".join(line for line in rest.splitlines() if not line.startswith("//"))
            checks = [line[3:].strip() for line in rest.splitlines() if line.startswith("// CHECK")]
            found.append((name, head.split()[0], text, checks))
    return found


@pytest.mark.parametrize("case", cases(), ids=lambda c: c[0])
def test_filecheck(case: tuple[str, str, str, list[str]]) -> None:
    _, name, text, checks = case
    graph = parse(text)
    result = PASSES[name](graph)
    out = format_plan(result) if isinstance(result, Plan) else format_graph(result)
    place = 0
    assert checks
    for check in checks:
        kind, _, wanted = check.partition(":")
        pattern = re.sub(r"%\w+", r"%[\\w.]+", re.escape(wanted.strip()).replace(r"\.\.\.", ".*"))
        found = re.compile(pattern).search(out, place)
        if kind == "CHECK-NOT":
            assert found is None, f"{wanted.strip()!r} is still there in\n{out}"
        else:
            assert found is not None, f"{wanted.strip()!r} not found in\n{out[place:]}"
            place = found.end()


# -- fusion ----------------------------------------------------------------------------------------------------------


def test_a_gather_that_is_a_result_reads_its_data_from_memory() -> None:
    """What reads the gather and what the gather reads would be one pass, but for the gather between them."""
    x, y = placeholder("x", (3,)), placeholder("y", (3,))
    taken = graphc.take(x * y, np.array([2, 0, 1]), 0)
    program = graphc.function([x, y], [taken, (taken + y * 0.5).tanh()])
    a, b = np.float32([1, 2, 3]), np.float32([4, 5, 6])
    wanted = (a * b)[[2, 0, 1]]
    for value, expected in zip(program(a, b), (wanted, np.tanh(wanted + b * 0.5)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [12, 13])  # 13: the last row and column are in no window
def test_the_gradient_of_pooling_side_by_side_is_part_of_what_reads_it(size: int) -> None:
    x = placeholder("x", (2, 3, size, size))
    w = graphc.parameter("w", np.ones((3, 1, 1)))
    out = graphc.nn.functional.max_pool2d(graphc.nn.functional.relu(x * w), 2)
    step = graphc.train_step(out.sum(), graphc.optim.SGD([w], lr=0.1))
    kernels = step.specialize().plan.kernels
    read = [k for k in kernels if k.phase != "forward"]
    assert all(len(k.space) <= 4 for k in read), step.dump("plan")  # nothing over places inside windows
    text = format_graph(step.specialize().graph)
    assert "window" not in text and ("pad" in text) == (size % 2 == 1)


def test_overlapping_windows_are_put_together_where_they_are_read() -> None:
    """The gradient of a pooling with overlap is one kernel: the padded image is stored, and not all windows."""
    x, v = placeholder("x", (2, 3, 32, 32)), placeholder("v", (3 * 16 * 16, 4))
    loss = (graphc.nn.functional.max_pool2d(x, 3, 2, 1).reshape(2, -1) @ v).sum()
    both = graphc.function([x, v], [loss, (graphc.grad(loss, x) * 2.0).sum((0, 2, 3))])
    plan = both.specialize().plan
    assert max(prod(b.type.shape) for k in plan.kernels for b in k.writes) <= 2 * 3 * 34 * 34, both.dump("plan")


def training_step(optimizer: str = "adamw") -> graphc.Program:
    x, y = placeholder("x", ("batch", 24)), placeholder("y", ("batch", 8))
    w1, b1 = graphc.parameter("w1", np.ones((24, 40)) * 0.01), graphc.parameter("b1", np.zeros(40))
    w2 = graphc.parameter("w2", np.ones((40, 8)) * 0.02)
    loss = (((x @ w1 + b1).tanh() @ w2 - y) ** 2).mean()
    made = {"adamw": lambda p: graphc.optim.AdamW(p), "sgd": lambda p: graphc.optim.SGD(p, lr=0.1, momentum=0.9)}
    return graphc.train_step(loss, made[optimizer]([w1, b1, w2]))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_updates_fuse_into_weight_gradients(optimizer: str) -> None:
    plan = training_step(optimizer).specialize(batch=32).plan
    for name in ("w1", "w2"):
        kernel = next(k for k in plan.kernels if any(plan.home(b).name == name for b in k.writes))
        assert kernel.form is Form.CONTRACT, "the optimizer runs on the finished tile"
        assert all(plan.home(b).role is Role.CELL for b in kernel.writes), "the gradient never reaches memory"
    assert not plan.copies


def test_a_users_own_optimizer_fuses_as_well() -> None:
    class Momentum(graphc.optim.Optimizer):
        def __init__(self, params: list[graphc.Parameter], lr: float = 0.01, beta: float = 0.9) -> None:
            super().__init__(params, {"lr": lr, "beta": beta})

        def update(self, w: graphc.Parameter, g: Tensor, group: Any) -> dict[graphc.Parameter, Any]:
            m = self.slot(w, "m")
            new_m = group.beta * m + g
            return {w: w - group.lr * new_m, m: new_m}

    x = placeholder("x", (16, 24))
    w = graphc.parameter("w", np.ones((24, 40)))
    plan = graphc.train_step(((x @ w) ** 2).sum(), Momentum([w])).specialize().plan
    kernel = next(k for k in plan.kernels if any(plan.home(b).name == "w" for b in k.writes))
    assert kernel.form is Form.CONTRACT
    assert {plan.home(b).role for b in kernel.writes} == {Role.CELL}


def test_softmax_and_layer_norm_are_one_kernel() -> None:
    x = placeholder("x", (64, 100))
    normal = (x - x.mean(1, keepdims=True)) * (x.var(1, correction=0, keepdims=True) + 1e-5).rsqrt()
    for out in (x.softmax(1), x.log_softmax(1), normal):
        kernels = graphc.function([x], out).specialize().plan.kernels
        assert [k.form for k in kernels] == [Form.ROWS]


def test_an_output_gradient_keeps_its_memory() -> None:
    x = placeholder("x", (16, 24))
    w = graphc.parameter("w", np.ones((24, 40)))
    loss = ((x @ w) ** 2).sum()
    g = graphc.grad(loss, w)
    program = graphc.function([x], [loss, g], {w: w - 0.1 * g})
    assert "its result is an output" in program.report()


def kernel_of(program: graphc.Program, name: str, **sizes: int) -> Kernel:
    """The kernel that writes a cell."""
    plan = program.specialize(**sizes).plan
    return next(k for k in plan.kernels if any(plan.home(b).name == name for b in k.writes))


def test_a_bias_is_updated_behind_the_contraction_that_gives_its_gradient() -> None:
    program = training_step()
    kernel = kernel_of(program, "b1", batch=32)
    assert kernel.form is Form.CONTRACT and kernel.space == (32, 40) and kernel.axes == (0,)
    assert "sum over (0,) in its tiles" in program.report(batch=32)
    assert not any(k.form is Form.COLUMNS for k in program.specialize(batch=32).plan.kernels)


def test_the_loss_is_summed_behind_the_last_layer() -> None:
    plan = training_step("sgd").specialize(batch=32).plan
    kernel = next(k for k in plan.kernels if any(plan.home(b).role is Role.OUTPUT for b in k.writes))
    assert kernel.form is Form.CONTRACT and kernel.space == (32, 8)


@pytest.mark.parametrize("reason, build", [
    ("the tiles are folded row by row", lambda z: [z.softmax(1), z.sum(0)]),
    ("the tiles are folded down their columns", lambda z: [z.sum(0), z.max(1)]),
    ("its order is not that of the tiles", lambda z: [z.argmax()]),
    ("it folds neither rows nor columns of the tiles", lambda z: [z.reshape(32, 4, 24).sum(1)]),
    ("it reads them elsewhere than at their own place", lambda z: [z, graphc.flip(z, 0).sum(0)]),
])
def test_why_a_fold_stays_outside(reason: str, build: Callable[[Tensor], list[Tensor]]) -> None:
    x, w = placeholder("x", (32, 24)), graphc.parameter("w", np.ones((24, 96)))
    program = graphc.function([x], build(x @ w))
    assert reason in program.report()
    fed = np.random.default_rng(0).standard_normal((32, 24)).astype(np.float32)
    for one, other in zip(program(fed), graphc.function([x], build(x @ w), backend="numpy")(fed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("several_threads")
def test_a_bias_that_its_own_tiles_read_is_updated_in_place() -> None:
    """The tiles read the old bias, the new one is written when all of them are finished."""
    x, y = placeholder("x", (64, 24)), placeholder("y", (64, 40))
    for threads in (1, 2):
        w, b = graphc.parameter("w", np.ones((24, 40)) * 0.1), graphc.parameter("b", np.arange(40) * 0.1)
        loss = ((x @ w + b - y) ** 2).sum()
        program = graphc.train_step(loss, graphc.optim.SGD([w, b], lr=0.001), threads=threads)
        plan = program.specialize().plan
        kernel = next(k for k in plan.kernels if any(plan.home(b).name == "b" for b in k.writes))
        assert kernel.form is Form.CONTRACT and not plan.copies
        g = np.random.default_rng(0)
        xs, ys = g.standard_normal((64, 24)).astype(np.float32), g.standard_normal((64, 40)).astype(np.float32)
        old = b.numpy().astype(np.float64)
        d = xs.astype(np.float64) @ w.numpy().astype(np.float64) + old - ys
        np.testing.assert_allclose(program(xs, ys), (d * d).sum(), rtol=1e-5)
        np.testing.assert_allclose(b.numpy(), old - 0.001 * (2 * d).sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("several_threads")
def test_a_layers_gradient_takes_the_memory_of_the_slopes_that_its_tiles_read() -> None:
    """Though the bias is updated by sums over the same tiles (of a batch that has no two equal parts)."""
    x = placeholder("x", (63, 24))
    seen = []
    for backend, threads in (("native", 1), ("native", 2), ("numpy", 1)):
        g = np.random.default_rng(0)
        w, b, v = (graphc.parameter(name, g.standard_normal(shape) * 0.1) for name, shape in
                   (("w", (24, 40)), ("b", (40,)), ("v", (40, 24))))
        loss = ((graphc.nn.functional.gelu(x @ w + b) @ v - x) ** 2).sum()
        program = graphc.train_step(loss, graphc.optim.SGD([w, b, v], lr=0.001), threads=threads, backend=backend)
        plan = program.specialize().plan
        kernel = next(k for k in plan.kernels if any(plan.home(t).name == "b" for t in k.writes))
        assert kernel.form is Form.CONTRACT and kernel.writes[0].type.shape == (63, 40)
        assert plan.home(kernel.writes[0]) in map(plan.home, kernel.reads)
        program.run(3, g.standard_normal((63, 24)).astype(np.float32))
        seen.append([p.numpy() for p in (w, b, v)])
    for one, other, reference in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec, a, b", [
    ("ij,jk->ik", (16, 4096), (4096, 16)), ("i,i->", (70001,), (70001,)), ("ji,jk->ik", (8191, 5), (8191, 30)),
    ("bijc,bjkc->bik", (2, 3, 900, 7), (2, 900, 9, 7)),
])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_split_sums_give_the_same_bits_for_any_number_of_threads(spec: str, a: tuple, b: tuple, dtype: str) -> None:
    x, y = placeholder("x", a, dtype), placeholder("y", b, dtype)
    g = np.random.default_rng(1)
    fed = [g.standard_normal(s).astype(dtype) for s in (a, b)]
    found = []
    for threads in (1, 2, 3):
        program = graphc.function([x, y], graphc.einsum(spec, x, y), threads=threads)
        assert any(n.op.name == "sum" for k in program.specialize().plan.kernels for n in k.body.nodes)
        found.append(np.asarray(program(*fed)))
    wanted = np.einsum(spec, *(f.astype(np.float64) for f in fed))
    size = np.einsum(spec, *(np.abs(f.astype(np.float64)) for f in fed))
    assert np.all(np.abs(found[0] - wanted) <= 8 * np.finfo(dtype).eps * size)
    assert all(f.tobytes() == found[0].tobytes() for f in found)


# -- memory and order ------------------------------------------------------------------------------------------------


def pieces(program: graphc.Program, **sizes: int) -> tuple[Graph, Plan]:
    pipeline = Pipeline()
    graph = pipeline.concrete(program.simplified, sizes)
    return graph, pipeline.plan(graph)


def test_arena_is_close_to_its_lower_bound() -> None:
    _, plan = pieces(training_step(), batch=64)
    assert plan.live_bytes <= plan.arena_bytes <= 1.05 * plan.live_bytes


def test_verify_refuses_an_update_before_the_last_read() -> None:
    _, plan = pieces(training_step("sgd"), batch=8)
    verify_plan(plan)
    cells = {b for b in plan.cells if b.name == "w2"}
    writer = next(i for i, k in enumerate(plan.steps) if any(plan.home(b) in cells for b in k.writes))
    readers = [i for i, k in enumerate(plan.steps) if cells & set(k.reads) and i != writer]
    assert readers, "the gradient by the hidden layer reads the old weights"
    steps = list(plan.steps)
    steps.insert(min(readers), steps.pop(writer))
    with pytest.raises(InvalidPlan, match="never written or holds something else"):
        verify_plan(replace(plan, steps=tuple(steps)))


def test_verify_refuses_overlapping_temporaries() -> None:
    _, plan = pieces(training_step(), batch=8)
    with pytest.raises(InvalidPlan):
        verify_plan(replace(plan, offsets={b: 0 for b in plan.offsets}))


def test_poison_shows_what_verification_would_miss() -> None:
    """The same broken plan computes NaN on the poisoned arena."""
    graph, plan = pieces(training_step("sgd"), batch=8)
    feeds = [np.ones(i.shape, np.float32) for i in graph.inputs]
    cells = {b.cell: b.cell.array.copy() for b in plan.cells}
    assert np.isfinite(interpret_plan(plan, feeds, {c: a.copy() for c, a in cells.items()})[0])
    steps = list(plan.steps)
    broken = replace(plan, steps=(steps[1], steps[0], *steps[2:]))
    results = [interpret_plan(broken, feeds, moved := {c: a.copy() for c, a in cells.items()})[0], *moved.values()]
    assert any(np.isnan(r).any() for r in results if r.dtype.kind == "f")


def test_simultaneous_updates_read_old_values() -> None:
    for backend in ("native", "numpy"):
        a, b = graphc.parameter("a", [1.0, 2.0]), graphc.parameter("b", [3.0, 4.0])
        swap = graphc.function([], (a + 0.0).sum(), {a: b, b: a}, backend=backend)
        swap()
        assert a.numpy().tolist() == [3.0, 4.0] and b.numpy().tolist() == [1.0, 2.0]
        cross = graphc.function([], [a, b], {a: b * 2, b: a * 3}, backend=backend)
        old_a, old_b = cross()
        assert old_a.tolist() == [3.0, 4.0] and old_b.tolist() == [1.0, 2.0]
        assert a.numpy().tolist() == [2.0, 4.0] and b.numpy().tolist() == [9.0, 12.0]


def test_outputs_that_are_inputs_or_parameters_are_copies() -> None:
    x = placeholder("x", (3,))
    w = graphc.parameter("w", [1.0, 2.0, 3.0])
    program = graphc.function([x], [x, w, x, w * 2], {w: w + 1})
    fed = np.array([5, 6, 7], np.float32)
    first, second, third, _ = program(fed)
    first[0] = second[0] = 99
    assert fed.tolist() == [5, 6, 7] and third.tolist() == [5, 6, 7] and w.numpy().tolist() == [2, 3, 4]
    assert second.tolist() == [99, 2, 3]


def test_verify_graph_refuses_undeclared_inputs() -> None:
    x = placeholder("x", (3,))
    with pytest.raises(graphc.GraphError, match="'x' is read but not declared"):
        verify_graph(Graph((), ((x * 2).node,)))


def test_pipeline_lets_anyone_look_and_times_passes() -> None:
    seen = []
    pipeline = Pipeline(observe=lambda stage, result: seen.append(stage))
    program = training_step()
    pipeline.plan(pipeline.concrete(pipeline.simplified(program.graph), {"batch": 4}))
    assert seen == ["stabilize", "expand", "loops", "simplify", "specialize", "plan"]
    assert all(seconds > 0 for seconds in pipeline.seconds.values())


def test_specialize_fills_open_sizes() -> None:
    x = placeholder("x", ("n", 3))
    graph = Graph((x.node,), ((x.reshape(-1)[1:] * x.shape[0] if False else x.mean(0)).node,))
    concrete = specialize(graph, {"n": 5})
    assert all(not n.type.is_open for n in concrete.nodes)


def test_interning_merges_equal_expressions_only() -> None:
    x = placeholder("x", (3,))
    assert (x + 1.0).node is (x + 1.0).node
    assert (x + 0.0).node is not (x + -0.0).node
    assert (x * float("nan")).node is (x * float("nan")).node
    assert placeholder("x", (3,)).node is not x.node
    assert isinstance(x, Tensor)


def test_run_is_a_loop_over_the_plan() -> None:
    program = training_step("sgd")
    generator = np.random.default_rng(0)
    feeds = [generator.standard_normal((5, 8, 24)).astype(np.float32), np.ones((8, 8), np.float32)]
    special = program.specialize(batch=8)
    loop = repeated(special.plan)
    assert loop.count is None and len(loop.sliced) == 3
    cells = {b.cell: b.cell.array.copy() for b in special.plan.cells}
    (losses,) = interpret_loop(loop, 5, feeds, [True, False], cells)
    (native,) = special.executable.run(feeds, 5, [True, False])
    np.testing.assert_allclose(native, losses, rtol=1e-4)
    for cell, value in cells.items():
        np.testing.assert_allclose(cell.array, value, rtol=1e-4, atol=1e-6)


def test_two_updates_of_one_state_compose() -> None:
    for backend in ("native", "numpy"):
        x = placeholder("x", ())
        total = graphc.state("total", np.array(1.0, np.float32))
        first = graphc.updating(x, {total: total + 1.0})
        second = graphc.updating(first * 2.0, {total: total * 10.0})
        program = graphc.function([x], second, backend=backend)
        assert program(3.0) == 6.0
        assert total.numpy() == 20.0  # (1 + 1) * 10: the later update reads what the earlier one wrote


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_an_image_are_never_in_memory(stride: int) -> None:
    """Neither forward nor backward: the largest temporary is an image with its rim, not one with an axis per tap."""
    x = placeholder("x", (2, 4, 12, 12))
    first, second = (graphc.parameter(n, np.ones(s, np.float32)) for n, s in (("v", (6, 4, 3, 3)), ("w", (5, 6, 3, 3))))
    hidden = graphc.nn.functional.conv2d(x, first, padding=1).tanh()
    out = graphc.nn.functional.conv2d(hidden, second, padding=1, stride=stride)
    gradients = graphc.grad((out * out).sum(), [first, second])
    plan = graphc.function([x], gradients).specialize().plan
    largest = max(int(b.type.size) for k in plan.kernels for b in k.writes)
    assert largest <= 2 * 6 * 14 * 14


def test_slopes_of_gelu_are_one_tensor() -> None:
    """What the backward pass needs of the forward one is stored once, beside the result."""
    x, w = placeholder("x", (64, 32)), graphc.parameter("w", np.ones((32, 48), np.float32))
    v = graphc.parameter("v", np.ones((48, 16), np.float32))
    for kind in ("none", "tanh"):
        loss = ((graphc.gelu(x @ w, kind) @ v) ** 2).sum()
        plan = graphc.function([x], graphc.grad(loss, [w, v])).specialize().plan
        forward = [k for k in plan.kernels if k.form is Form.CONTRACT and any(b.type.shape == (64, 48) for b in k.writes)]
        assert [len(k.writes) for k in forward if len(k.writes) > 1] == [2]


def norm_with_gradients(shape: tuple[int, ...]) -> graphc.Program:
    x, slope = placeholder("x", shape), placeholder("slope", shape)
    layer = nn.LayerNorm(shape[-1])
    y = layer(x)
    return graphc.function([x, slope], [y, *graphc.grad((y * slope).sum(), [x, layer.weight, layer.bias])])


@pytest.mark.parametrize("shape", [(32, 64), (9, 11, 100), (8, 5, 6, 4096)])
def test_a_norm_and_all_its_gradients_are_one_pass(shape: tuple[int, ...]) -> None:
    plan = norm_with_gradients(shape).specialize().plan
    assert [k.form for k in plan.kernels] == [Form.ROWS] and not plan.arena_bytes


@pytest.mark.parametrize("shape", [(31, 64), (64, 31), (64, 4097)])
def test_few_rows_and_rows_that_are_short_or_long_are_summed_down_apart(shape: tuple[int, ...]) -> None:
    forms = [k.form for k in norm_with_gradients(shape).specialize().plan.kernels]
    assert forms[0] is Form.ROWS and set(forms[1:]) == {Form.COLUMNS}


@pytest.mark.usefixtures("several_threads")
def test_updates_behind_sums_down_the_columns_of_rows_are_kernels_of_their_own() -> None:
    """They write the scale that the rows read."""
    x, first = placeholder("x", (48, 40)), graphc.parameter("first", np.linspace(0.5, 1.5, 40))
    seen = []
    for backend, threads in (("native", 1), ("native", 2), ("native", 3), ("numpy", 1)):
        layer = nn.LayerNorm(40)
        first.assign(np.linspace(0.5, 1.5, 40))
        loss = (layer(x * first).tanh() ** 2).sum()
        program = graphc.train_step(loss, graphc.optim.Adam([first, *layer.parameters()], lr=0.01), threads=threads,
                                    backend=backend)
        plan = program.specialize().plan
        rows = next(k for k in plan.kernels if k.form is Form.ROWS and len(k.writes) >= 3)
        assert sum(w.type.shape == (40,) for w in rows.writes) == 3
        updates = [k for k in plan.kernels if any(plan.home(w).name == "weight" for w in k.writes)]
        assert [k.form for k in updates] == [Form.MAP]
        g = np.random.default_rng(0)
        program.run(3, g.standard_normal((48, 40)).astype(np.float32))
        seen.append([first.numpy(), *(p.numpy() for p in layer.parameters())])
    for one, two, three, reference in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
        np.testing.assert_allclose(one, reference, rtol=1e-4, atol=1e-5)
