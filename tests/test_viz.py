"""Pictures: valid DOT, told apart by colour and shape, nothing on top of anything else."""

from __future__ import annotations

import struct

import numpy as np
import pygraphviz
import pytest

import graphc
from graphc import nn, optim
from graphc.html import page
from graphc.ir import Graph
from graphc.viz import PALETTE, dot, draw, phases, to_networkx

from .test_text import tutorial


def mlp() -> graphc.Program:
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Sequential(nn.Linear(16, 8), nn.ReLU()), nn.Linear(8, 1))
    x, y = graphc.placeholder("x", ("batch", 2)), graphc.placeholder("y", ("batch", 1))
    return graphc.train_step(nn.MSELoss()(model(x), y), optim.AdamW(model.parameters()))


def boxes(graph: Graph) -> dict[str, tuple[float, float, float, float]]:
    picture = pygraphviz.AGraph(string=dot(graph))
    picture.layout(prog="dot")
    found = {}
    for node in picture.nodes():
        x, y = map(float, node.attr["pos"].split(","))
        w, h = float(node.attr["width"]) * 72, float(node.attr["height"]) * 72
        found[str(node)] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    for number, edge in enumerate(picture.edges()):
        data = pygraphviz.Edge(picture, *edge).attr
        if data["lp"]:
            x, y = map(float, data["lp"].split(","))
            w = len(data["label"].strip()) * 4.2
            found[f"label {number} {data['label']}"] = (x - w / 2, y - 4, x + w / 2, y + 4)
    return found


@pytest.mark.parametrize("make", [lambda: tutorial()[0], mlp])
def test_no_box_or_label_overlaps_another(make) -> None:  # type: ignore[no-untyped-def]
    found = list(boxes(make().graph).items())
    assert len(found) > 20
    for k, (name, a) in enumerate(found):
        for other, b in found[k + 1:]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{name} overlaps {other}"


def test_tutorial_fits_one_screen() -> None:
    data = draw(tutorial()[0].graph, "png")
    width, height = struct.unpack(">II", data[16:24])
    assert width <= 1400 and height <= 900


def test_colours_shapes_types_and_clusters() -> None:
    graph = mlp().graph
    drawn = to_networkx(graph)
    fills = {d["phase"]: d["fillcolor"] for _, d in drawn.nodes(data=True)}
    assert fills == {phase: fill for phase, (fill, _) in PALETTE.items()}
    shapes = {d["label"]: d["shape"] for _, d in drawn.nodes(data=True)}
    assert shapes["x"] == "parallelogram" and shapes["0.weight"] == "cylinder"
    assert all("f32[" in d["label"] or "i64[" in d["label"] or "f64[" in d["label"] or "bool[" in d["label"]
               for _, _, d in drawn.edges(data=True))
    text = dot(graph)
    assert 'subgraph "cluster_2.0"' in text and 'subgraph "cluster_MSELoss"' in text
    assert set(phases(graph).values()) == {"forward", "gradient", "update"}


def test_svg_and_page_are_whole() -> None:
    graph = tutorial()[0].graph
    assert b"</svg>" in draw(graph, "svg")
    html = page(graph)
    assert html.count("<svg") == 1 and "http://" not in html.replace("http://www.w3.org", "")
    with pytest.raises(graphc.GraphError, match="svg or png"):
        draw(graph, "gif")


def test_quotes_and_large_constants() -> None:
    x = graphc.placeholder('odd"name\\', (100,))
    graph = Graph((x.node,), ((x * np.arange(100.0)).node,))
    pygraphviz.AGraph(string=dot(graph))
