"""Pictures: what is drawn where, told apart how, and whether it can be read."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np
import pygraphviz
import pytest

import graphc
from graphc import nn, optim
from graphc.errors import GraphError
from graphc.html import page
from graphc.inspection import stage_graph
from graphc.ir import Graph
from graphc.viz import PALETTE, dot, draw, label, lay_out, phases, to_networkx


def tutorial() -> graphc.Program:
    """Linear regression as the tutorial writes it: loss, gradient, and a step against it."""
    x = graphc.placeholder("x", ("batch", 2))
    y = graphc.placeholder("y", ("batch", 1))
    w = graphc.parameter("w", np.array([[0.5], [-0.3]]))
    loss = ((x @ w - y) ** 2).sum()
    return graphc.function([x, y], {"loss": loss}, {w: w - 0.01 * graphc.grad(loss, w)})


def network() -> graphc.Program:
    model = nn.Sequential(nn.Linear(8, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3))
    x, y = graphc.placeholder("x", ("batch", 8)), graphc.placeholder("y", ("batch",), "int64")
    loss = nn.functional.cross_entropy(model(x), y)
    return graphc.train_step(loss, optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


@pytest.fixture(scope="module")
def step() -> Graph:
    return tutorial().graph


@pytest.fixture(scope="module")
def training() -> Graph:
    return network().graph


@pytest.fixture(params=["tutorial", "network", "network, simplified", "network, forward"])
def any_graph(request: pytest.FixtureRequest) -> Graph:
    if request.param == "tutorial":
        return tutorial().graph
    program = network()
    stage = {"network": "update", "network, simplified": "simplified", "network, forward": "forward"}[request.param]
    return stage_graph(program, stage)


def read(graph: Graph) -> Any:
    return pygraphviz.AGraph(string=dot(graph))


Box = tuple[float, float, float, float]


def node_boxes(picture: Any) -> dict[str, Box]:
    boxes = {}
    for node in picture.nodes():
        x, y = map(float, node.attr["pos"].split(","))
        width, height = 72 * float(node.attr["width"]), 72 * float(node.attr["height"])
        boxes[str(node)] = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return boxes


def text_boxes(picture: Any) -> list[Box]:
    """Where the labels of edges stand, with the widths that Graphviz measured."""
    boxes = []
    for edge in json.loads(picture.draw(format="json")).get("edges", ()):
        for text in edge.get("_ldraw_", ()):
            if text["op"] == "T":
                (x, y), half = text["pt"], text["width"] / 2
                boxes.append((x - half, y - 1, x + half, y + 7))
    return boxes


def overlapping(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.1."""
    channels = [int(colour[k:k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# -- layout ----------------------------------------------------------------------------------------------------------


def test_nodes_and_labels_do_not_overlap(any_graph: Graph) -> None:
    picture = lay_out(any_graph)
    boxes = [*node_boxes(picture).values(), *text_boxes(picture)]
    assert len(boxes) >= len(picture.nodes()) + len(picture.edges())
    clashes = [(box, other) for k, box in enumerate(boxes) for other in boxes[:k] if overlapping(box, other)]
    assert not clashes


def test_tutorial_fits_one_screen(step: Graph) -> None:
    png = draw(step, "png")
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[k:k + 4], "big") for k in (16, 20))
    assert 300 < width <= 1400 and 300 < height <= 900


def test_module_scopes_are_nested_clusters(training: Graph) -> None:
    picture = read(training)
    outer = picture.get_subgraph("cluster_1")
    inner = outer.get_subgraph("cluster_1.0")
    labels = {picture.get_node(n).attr["label"] for n in inner.nodes()}
    assert "1.0.weight" in labels and any(text.startswith("contract") for text in labels)
    assert {picture.get_node(n).attr["label"] for n in outer.nodes()} > labels
    assert not any("'" in text for text in labels)  # a new value is no part of the module
    assert {g.get_name() for g in picture.subgraphs()} == {"cluster_0", "cluster_1", "cluster_2"}


# -- what is drawn ---------------------------------------------------------------------------------------------------


def test_forward_gradient_and_update_have_their_colours(step: Graph) -> None:
    drawn = to_networkx(step)
    phase = {d["label"].split("\n")[0]: d["phase"] for _, d in drawn.nodes(data=True)}
    assert phase["x"] == phase["w"] == phase["square"] == "forward"
    assert phase["mul(1, 2)"] == "gradient" and phase["mul(0.01, ·)"] == phase["w'"] == "update"
    for _, data in drawn.nodes(data=True):
        assert (data["fillcolor"], data["color"]) == PALETTE[data["phase"]]
    assert set(phases(step).values()) == {"forward", "gradient", "update"}


@pytest.mark.parametrize("phase", PALETTE)
def test_text_is_readable_on_every_colour(phase: str) -> None:
    from graphc.viz import INK

    contrast = (luminance(PALETTE[phase][0]) + 0.05) / (luminance(INK) + 0.05)
    assert contrast > 7  # WCAG 2.1, level AAA


def test_shapes_types_and_update(step: Graph) -> None:
    drawn = to_networkx(step)
    named = {d["label"]: (n, d) for n, d in drawn.nodes(data=True)}
    assert named["x"][1]["shape"] == "parallelogram"
    assert named["w"][1]["shape"] == named["w'"][1]["shape"] == "cylinder"
    assert named["sum\naxes (0, 1)\n→ loss"][1]["peripheries"] == "2"
    ((source, _, edge),) = drawn.in_edges(named["w'"][0], data=True)
    assert drawn.nodes[source]["label"] == "sub" and edge["label"].strip() == "f32[2,1]" and edge["style"] == "bold"
    assert {e["label"].strip("①② ") for _, _, e in drawn.edges(data=True)} == {"f32[batch,2]", "f32[batch,1]", "f32[2,1]"}


def test_constants_and_their_repetitions_are_inside_labels() -> None:
    x, scale = graphc.placeholder("x", (4,)), graphc.parameter("scale", 2.0)
    drawn = to_networkx(graphc.function([x], (1.0 - x) * scale).graph)
    labels = sorted(d["label"].split("\n")[0] for _, d in drawn.nodes(data=True))
    assert labels == ["mul", "scale", "sub(1, ·)", "x"]  # neither constants nor expands of one element


def test_operands_are_numbered_where_order_matters() -> None:
    x, y = graphc.placeholder("x", (4,)), graphc.placeholder("y", (4,))
    edges = [e["label"].strip() for *_, e in to_networkx(graphc.function([x, y], x - y).graph).edges(data=True)]
    assert sorted(edges) == ["① f32[4]", "② f32[4]"]
    edges = [e["label"].strip() for *_, e in to_networkx(graphc.function([x, y], x + y).graph).edges(data=True)]
    assert edges == ["f32[4]", "f32[4]"]


def test_one_input_twice_is_two_edges() -> None:
    x = graphc.placeholder("x", (4,))
    drawn = to_networkx(graphc.function([x], graphc.maximum(x, x * x)).graph)
    assert drawn.number_of_edges() == 4


def test_constant_results_unused_inputs_and_constant_updates_are_drawn() -> None:
    x, n = graphc.placeholder("x", (3,)), graphc.state("n", 1.0)
    drawn = to_networkx(graphc.function([x], graphc.constant(2.5), {n: graphc.constant(0.0)}).graph)
    assert sorted(d["label"] for _, d in drawn.nodes(data=True)) == ["2.5", "n' = 0", "x"]
    assert pygraphviz.AGraph(string=dot(graphc.function([x], x).graph)).number_of_nodes() == 1


def test_names_that_dot_would_misread() -> None:
    x = graphc.placeholder('a "b" \\n <c> & {d|e}', (2,))
    picture = pygraphviz.AGraph(string=dot(graphc.function([x], x + 1).graph))
    svg = draw(graphc.function([x], x + 1).graph, "svg").decode()
    assert picture.number_of_nodes() == 2
    assert "a &quot;b&quot; \\n &lt;c&gt; &amp; {d|e}" in svg


def test_labels_are_of_the_graph_alone(step: Graph) -> None:
    contraction = next(n for n in step.nodes if n.op.name == "contract")
    assert label(contraction, {}) == "contract\nab,bc → ac"


# -- formats ---------------------------------------------------------------------------------------------------------


def test_page_is_self_contained(step: Graph) -> None:
    text = page(step)
    assert text.startswith("<!doctype html>") and text.count("<svg") == 1
    links = set(re.findall(r"https?://[^\"' ]*", text))
    assert links <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}  # names, nothing to load
    assert not re.search(r"<(link|img|iframe)|\bsrc=|@import|url\(", text)
    for part in ('id="search"', "wheel", "pointermove", "pointerover", ">forward<", ">gradient<", ">update<",
                 "contract: f32[batch,1]", "spec: ab,bc", "test_viz.py:"):
        assert part in text


def test_missing_pygraphviz_names_the_remedy(step: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(GraphError, match=r'pip install "graphc\[viz\]"'):
        draw(step, "svg")
    assert dot(step).startswith("digraph")


def test_unknown_picture_format(step: Graph) -> None:
    with pytest.raises(GraphError, match="svg or png"):
        draw(step, "gif")
