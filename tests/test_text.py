"""Graphs survive the way through text; damaged text gives an error, never a crash."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc.ir import Graph
from graphc.text import format_graph, format_json, format_plan, format_value, parse

from .registry import Case, all_cases


def tutorial() -> tuple[graphc.Program, dict[str, graphc.Tensor]]:
    x, y = graphc.placeholder("x", ("batch", 2)), graphc.placeholder("y", ("batch", 1))
    w = graphc.parameter("w", [[2.0], [1.0]])
    loss = ((x @ w - y) ** 2).sum()
    step = graphc.function([x, y], {"loss": loss}, updates={w: w - 0.01 * graphc.grad(loss, w)})
    return step, {"x": x, "y": y, "w": w}


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_every_op_round_trips(case: Case) -> None:
    symbols = case.symbols()
    graph = Graph(tuple(s.node for s in symbols), (case.build(*symbols).node,))
    back = parse(format_graph(graph), {f"x{i}": s for i, s in enumerate(symbols)})
    assert back.outputs == graph.outputs


def test_tutorial_round_trips_to_the_same_nodes() -> None:
    step, names = tutorial()
    for comments in (False, True):
        back = parse(format_graph(step.graph, comments=comments), names)
        assert back.roots == step.graph.roots
        assert back.updates == step.graph.updates
        assert back.output_names == ("loss",)


def test_unbound_names_become_new_ones() -> None:
    step, _ = tutorial()
    text = format_graph(step.graph)
    back = parse(text)
    assert format_graph(back) == text
    assert back.roots != step.graph.roots


def test_parameters_of_one_name_stay_apart() -> None:
    a, b = graphc.parameter("weight", [1.0]), graphc.parameter("weight", [2.0])
    graph = Graph((), ((a * b).node,))
    text = format_graph(graph)
    assert "@weight :" in text and "@weight.1 :" in text
    assert parse(text, {"weight": a, "weight.1": b}).outputs == graph.outputs


@pytest.mark.parametrize("value", [
    0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-300, 0.1, 1, True, None, "a\"b\n", (), (1,), (1, (2.5, None)),
    np.arange(100, dtype=np.int64), np.array([[True, False]]), np.array(3.25), np.array([np.nan, -0.0], np.float32)])
def test_values_are_exact(value: object) -> None:
    from graphc.ir import key_of
    from graphc.literals import Scanner

    scanner = Scanner(format_value(value))
    back = scanner.value()
    scanner.end()
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype and back.tobytes() == value.tobytes() and back.shape == value.shape
    else:
        assert key_of(back) == key_of(value)


@pytest.mark.parametrize(("text", "reason"), [
    ("", "ends before"),
    ("graph(%x: f32[2]) {\n  %0 = sine(%x) : f32[2]\n  output %0\n}", "did you mean sin"),
    ("graph(%x: f32[2]) {\n  %0 = sin(%y) : f32[2]\n  output %0\n}", "line 2: %y is not defined"),
    ("graph(%x: f32[2]) {\n  %0 = sin(%x) : f32[3]\n  output %0\n}", r"line 2: sin gives f32\[2\]"),
    ("graph(%x: f32[2]) {\n  %0 = add(%x) : f32[2]\n  output %0\n}", "line 2"),
    ("graph(%x: f32[2]) {\n  %0 = sin(%x) : f32[2]\n", "ends before"),
    ("graph(%x: g32[2]) {\n}", "no tensor type"),
    ("graph(%x: f32[__import__('os')]) {\n}", "line 1"),
    ("graph() {\n}\nmore", "after the closing brace"),
])
def test_errors_name_line_and_reason(text: str, reason: str) -> None:
    with pytest.raises(graphc.GraphError, match=reason):
        parse(text)


def test_damaged_text_never_crashes() -> None:
    step, _ = tutorial()
    text = format_graph(step.graph)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        letters = list(text)
        for _ in range(generator.integers(1, 4)):
            place = int(generator.integers(len(letters)))
            action = generator.integers(3)
            if action == 0:
                letters[place] = chr(int(generator.integers(32, 127)))
            elif action == 1:
                del letters[place]
            else:
                letters.insert(place, chr(int(generator.integers(32, 127))))
        try:
            parse("".join(letters))
        except graphc.GraphError:
            refused += 1
    assert refused > 500


def test_plans_and_json_are_readable() -> None:
    step, _ = tutorial()
    plan = format_plan(step.specialize(batch=4).plan)
    assert "contract[4, 1]" in plan and "in w" in plan
    assert '"op": "contract"' in format_json(step.graph)


def test_exact_where_names_and_values_are_odd() -> None:
    x, twin = graphc.placeholder("my x", (100,)), graphc.placeholder("w", (100,))
    w, spaced = graphc.parameter("w", np.ones(100)), graphc.parameter("a - b", np.ones(100))
    payload = np.array([0x7FC00123], np.uint32).view(np.float32)
    out = x * np.arange(100, dtype=np.float32) + w * spaced + twin * graphc.constant(payload)
    graph = Graph((x.node, twin.node), (out.node,), (), ("sum  # of all",))
    back = parse(format_graph(graph, comments=True), {"my x": x, "%w": twin, "@w": w, "a - b": spaced})
    assert back.outputs == graph.outputs and back.output_names == graph.output_names


def test_unbound_parameters_keep_small_values() -> None:
    w = graphc.parameter("w", [0.1, float("nan"), -0.0])
    back = parse(format_graph(Graph((), ((w * 2).node,))))
    assert back.cells()[0].array.tobytes() == w.cell.array.tobytes()


def test_nested_graphs_and_several_results_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphc.ir import make
    from graphc.op import REGISTRY, Kind, Op

    loop = Op("demo_loop", Kind.LOOP, lambda *types, graphs, length: tuple(n.type for n in graphs[0].outputs))
    monkeypatch.setitem(REGISTRY, "demo_loop", loop)
    x, h, w = graphc.placeholder("x", (1,)), graphc.placeholder("h", (1,)), graphc.parameter("w", [1.0])
    outer = x * 3
    body = Graph((h.node,), ((h * outer * w).node, (h + 1).node))
    node = make(loop, (x.node, outer.node), {"length": 4}, (body,))
    graph = Graph((x.node,), (node, (outer + w).node, graphc.ones((1,)).node))
    text = format_graph(graph)
    assert parse(text, {"x": x, "h": h, "w": w}).outputs == graph.outputs
    assert format_graph(parse(text)) == text


def test_states_that_nothing_reads_and_slots() -> None:
    from graphc.plan import slot
    from graphc.types import TensorType, float32

    x, n = graphc.placeholder("x", ()), graphc.state("n", 0.0)
    graph = Graph((x.node,), (graphc.updating(x, {n: x * 2}).node,))
    assert parse(format_graph(graph), {"x": x, "n": n}).outputs == graph.outputs
    read = graphc.Tensor(slot(0, TensorType(float32, (4,))))
    body = Graph((read.node,), (graphc.exp(read).node,))
    assert parse(format_graph(body)).roots == body.roots


@pytest.mark.parametrize("size", ["(" * 5000, "*".join(f"(a{i}+b{i})" for i in range(24)), "9" * 5000, "a//0", "a**b"])
def test_hostile_sizes_are_refused_at_once(size: str) -> None:
    with pytest.raises(graphc.GraphError, match="line 1"):
        parse(f"graph(%x: f32[{size}]) {{\n}}")
