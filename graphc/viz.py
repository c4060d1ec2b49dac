"""Pictures of graphs: DOT text, and SVG or PNG through networkx and pygraphviz.

Knows shapes, colours and labels.  Must not know passes or any op.

Colours tell forward, gradient and update apart (blue, orange, green of a palette that colour-blind readers can tell
apart); inputs are parallelograms, parameters cylinders, outputs have a double border; types stand on the edges; module scopes
are clusters.  Constants and their repetitions are written into the operation that reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from .cells import Cell
from .errors import GraphError
from .ir import Graph, Node, topological
from .op import Kind
from .text import cell_names, format_value
from .types import Dim, DType, TensorType

PALETTE = {"forward": ("#D6E6F5", "#2B6CA3"), "gradient": ("#FBE3C8", "#B3630B"), "update": ("#D9EDD3", "#3B7D23")}
INK = "#1B1F24"
FONT = "Helvetica"
CIRCLED = "①②③④⑤⑥⑦⑧⑨"  # positions of operands, where their order matters


def phases(graph: Graph) -> dict[Node, str]:
    """For every node whether it is part of the forward computation, of a gradient, or of the update."""
    derived = [n for n in graph.nodes if n.phase == "gradient"]
    forward = set(topological([*graph.outputs, *derived]))  # what gradients read was computed forward
    return {n: "gradient" if n.phase == "gradient" else "forward" if n in forward else "update" for n in graph.nodes}


def _spread(node: Node) -> Node:
    """What a repetition or reshaping of a single element shows: that element; any other node itself."""
    while node.op.kind is Kind.VIEW and "fill" not in node.attributes and node.inputs[0].types[0].size == 1:
        node = node.inputs[0]
    return node


def _number(node: Node) -> str | None:
    """The text of a constant (or a repeated one) that is written into its reader; None of anything else."""
    node = _spread(node)
    value = node.attributes.get("value") if node.op.kind is Kind.SOURCE else None
    if not isinstance(value, np.ndarray) or value.size != 1:
        return None
    number = value.reshape(-1)[0].item()
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def _sources(node: Node) -> list[tuple[int, Node]]:
    """Position and node of every operand that is drawn as an edge; repetitions of one element are passed over."""
    return [(k, _spread(operand)) for k, operand in enumerate(node.inputs) if _number(operand) is None]


def _shown(graph: Graph) -> list[Node]:
    """The nodes that are drawn: all but constants inside labels, repetitions, and what only they need."""
    values = [_spread(value) for _, value in graph.updates if _number(value) is None]
    stack, seen = [*graph.inputs, *graph.outputs, *values], set[Node]()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(operand for _, operand in _sources(node))
    return [n for n in graph.nodes if n in seen]


def label(node: Node, names: dict[Cell, str]) -> str:
    """A node's text: its name, or its op with constants in their places, and short attributes.

    ``sub(1, ·)`` is one minus the operand that the edge brings.
    """
    if "cell" in node.attributes:
        return names[node.attributes["cell"]]
    if "symbol" in node.attributes:
        return node.attributes["name"]
    if (alone := _number(node)) is not None:
        return alone
    if node.op.kind is Kind.ITEM:
        return _result(node.inputs[0], node.attributes["item"])
    if node.op.kind is Kind.LOOP:
        return f"{node.op.name}\n{node.attributes['length']} runs{', last entry first' if node.attributes['reverse'] else ''}"
    if node.graphs:
        return node.op.name
    numbers = [_number(operand) for operand in node.inputs]
    text = node.op.name
    if any(n is not None for n in numbers):
        text += f"({', '.join('·' if n is None else n for n in numbers)})"
    attributes = {k: v for k, v in node.attributes.items()
                  if k not in ("cells", "symbol", "site") and not _implied(v, node)}
    shown = [_short(v) if k in ("spec", "dtype") else f"{_singular(k, v)} {_short(v)}" for k, v in attributes.items()]
    return "\n".join([text, *([", ".join(shown)] if shown else [])])


def _singular(name: str, value: Any) -> str:
    return "axis" if name == "axes" and isinstance(value, tuple) and len(value) == 1 else name


def _implied(value: Any, node: Node) -> bool:
    """The result's own shape, which stands on the edges."""
    return len(node.types) == 1 and isinstance(value, tuple) and len(value) > 0 and value == node.type.shape


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple) and len(value) == 1:
        return _short(value[0])
    if isinstance(value, str):
        return value.replace("->", " → ")
    if isinstance(value, (DType, TensorType, Dim)):
        return str(value)
    try:
        text = format_value(value).replace('"', "")
    except GraphError:
        return type(value).__name__
    return text if len(text) <= 28 else text[:25] + "..."


def _places(graph: Graph, shown: list[Node]) -> dict[Node, str]:
    """The module scope in which each node is drawn: its own; of a parameter, that of its forward readers."""
    places = {node: node.scope for node in shown}
    readers: dict[Node, list[str]] = {}
    for node in shown:
        for _, operand in _sources(node):
            if node.phase == "forward":
                readers.setdefault(operand, []).append(node.scope)
    for node in shown:
        if "cell" in node.attributes and (scopes := readers.get(node)):
            common = scopes[0].split(".")
            for scope in scopes[1:]:
                parts = scope.split(".")
                same = [a == b for a, b in zip(common, parts, strict=False)]
                common = common[:same.index(False) if False in same else len(same)]
            places[node] = ".".join(common)
    return places


def _edge_label(position: int, reader: Node, type_: TensorType) -> str:
    """The type, numbered where the order of operands matters."""
    several = len(_sources(reader)) > 1 and not reader.op.commutes
    return f"  {CIRCLED[position] + ' ' if several and position < len(CIRCLED) else ''}{type_}  "


def to_networkx(graph: Graph) -> Any:
    """A networkx.MultiDiGraph whose nodes and edges carry Graphviz attributes.

    Every node has `phase` (forward, gradient, update) and `scope` (path of its module) besides.
    """
    import networkx

    drawn = networkx.MultiDiGraph(rankdir="TB", fontname=FONT, nodesep="0.3", ranksep="0.35", bgcolor="white",
                                  pad="0.15", mclimit="5")
    drawn.graph["node"] = {"fontname": FONT, "fontsize": "11", "fontcolor": INK, "margin": "0.10,0.05", "height": "0.3",
                           "width": "0.6"}
    drawn.graph["edge"] = {"fontname": FONT, "fontsize": "9", "fontcolor": "#57606A", "color": "#6E7781", "arrowsize": "0.6"}
    names = cell_names(graph)
    part = phases(graph)
    numbers = _draw_nodes(drawn, graph, names, part, "", "")
    for k, (cell, value) in enumerate(graph.updates):
        fill, border = PALETTE["update"]
        drawn.add_node(f"u{k}", label=f"{names[cell]}'", shape="cylinder", style="filled,dashed", fillcolor=fill,
                       color=border, phase="update", scope="", tooltip=f"{names[cell]}: {cell.type}\nits value after the step")
        if (number := _number(value)) is not None:
            drawn.nodes[f"u{k}"]["label"] += f" = {number}"
        else:
            drawn.add_edge(numbers[_spread(value)], f"u{k}", label=f"  {value.types[0]}  ", color=border, style="bold",
                           tooltip=f"updates {names[cell]}")
    return drawn


def _draw_nodes(drawn: Any, graph: Graph, names: dict[Cell, str], part: Mapping[Node, str], prefix: str, place: str
                ) -> dict[Node, str]:
    """Adds a graph's nodes and edges, in the cluster `place`, and returns their names in the drawing."""
    shown = _shown(graph)
    places = _places(graph, shown)
    numbers = {node: f"{prefix}n{k}" for k, node in enumerate(shown)}
    results: dict[Node, list[str]] = {}
    for node, name in zip(graph.outputs, graph.output_names or ("",) * len(graph.outputs), strict=False):
        results.setdefault(node, []).append(name)
    for node in shown:
        fill, border = PALETTE[part[node]]
        style: dict[str, Any] = {"shape": "box", "style": "rounded,filled"}
        if "cell" in node.attributes:
            style = {"shape": "cylinder", "style": "filled"}
        elif "symbol" in node.attributes:
            style = {"shape": "parallelogram", "style": "filled"}
        text = label(node, names)
        if node in results and not prefix:
            style["peripheries"] = "2"
            said = ", ".join(n for n in results[node] if n and n != "out")
            text += f"\n→ {said}" if said else ""
        drawn.add_node(numbers[node], label=text, fillcolor=fill, color=border, phase=part[node],
                       scope=".".join(p for p in (place, places[node]) if p), tooltip=_tooltip(node), **style)
    for node in shown:
        if node.graphs:
            _draw_bodies(drawn, node, names, part[node], numbers, drawn.nodes[numbers[node]]["scope"])
            continue
        for position, operand in _sources(node):
            type_ = operand.types[node.attributes["item"] if node.op.kind is Kind.ITEM else 0]
            drawn.add_edge(numbers[operand], numbers[node], label=_edge_label(position, node, type_), tooltip=str(type_))
    return numbers


def _draw_bodies(drawn: Any, node: Node, names: dict[Cell, str], phase: str, numbers: Mapping[Node, str], place: str) -> None:
    """The graphs inside a node, each a cluster: operands enter at its inputs, its outputs lead to the node."""
    branches = len(node.graphs) > 1
    number = numbers[node]
    operands = node.inputs
    if branches:
        operands = node.inputs[1:]
        if _number(node.inputs[0]) is None:
            drawn.add_edge(numbers[_spread(node.inputs[0])], number, label="  condition  ", tooltip="which branch runs")
    for k, graph in enumerate(node.graphs):
        what = ("then", "otherwise")[k] if branches else "every run"
        title = f"{what} of {node.op.name} {number}"
        part = {n: "gradient" if n.phase == "gradient" else phase for n in graph.nodes}
        inside = _draw_nodes(drawn, graph, names, part, f"{number}g{k}", ".".join(p for p in (place, title) if p))
        for position, (operand, formal) in enumerate(zip(operands, graph.inputs, strict=True)):
            text = "operand" if branches else _role(node, position)
            drawn.nodes[inside[formal]]["label"] = text
            if (constant := _number(operand)) is not None:
                drawn.nodes[inside[formal]]["label"] += f" = {constant}"
            else:
                drawn.add_edge(numbers[_spread(operand)], inside[formal], label=f"  {operand.types[0]}  ", style="dashed",
                               tooltip=str(operand.types[0]))
        for position, output in enumerate(graph.outputs):
            if _number(output) is None:
                drawn.add_edge(inside[_spread(output)], number, label=f"  {_result(node, position)}  ", style="dashed",
                               tooltip=str(output.types[0]))


def _result(node: Node, position: int) -> str:
    """What one of the results of a loop or branch is."""
    return f"handed on {position}" if position < node.attributes.get("carries", 0) else f"result {position}"


def _role(node: Node, position: int) -> str:
    """What a loop's operand is to each run."""
    carries, sequences = node.attributes["carries"], node.attributes["sequences"]
    if position < carries:
        return f"handed on {position}"
    return f"entry {position}" if position < carries + sequences else f"shared {position}"


def _tooltip(node: Node) -> str:
    """Everything about a node, for hovering: op, types, attributes, module and the user's lines."""
    lines = [f"{node.op.name}: {', '.join(map(str, node.types))}"]
    lines += [f"{k}: {_short(v)}" for k, v in node.attributes.items() if k not in ("cell", "cells", "symbol", "type", "site")]
    lines += [f"module: {node.scope}"] if node.scope else []
    lines += [f"at {origin}" for origin in node.origins[:3]]
    return "\n".join(lines)


def _quoted(text: Any) -> str:
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def dot(graph: Graph) -> str:
    """The graph in Graphviz' DOT language; scopes are nested clusters."""
    drawn = to_networkx(graph)
    lines = ["digraph graphc {"]
    lines += [f"  {k}={_quoted(v)};" for k, v in drawn.graph.items() if isinstance(v, str)]
    lines += [f"  {kind} [{_attributes(drawn.graph[kind])}];" for kind in ("node", "edge")]
    tree: dict[str, Any] = {}
    for name, data in drawn.nodes(data=True):
        place = tree
        for part in [p for p in data["scope"].split(".") if p]:
            place = place.setdefault(part, {})
        place.setdefault("", []).append((name, data))

    def write(place: dict[str, Any], path: str, indent: str) -> None:
        for name, data in place.get("", []):
            shown = {k: v for k, v in data.items() if k not in ("scope", "phase")}
            lines.append(f"{indent}{_quoted(name)} [{_attributes(shown)}];")
        for part, inner in place.items():
            if part:
                full = f"{path}.{part}" if path else part
                lines.append(f"{indent}subgraph {_quoted('cluster_' + full)} {{")
                lines.append(f"{indent}  label={_quoted(full)}; labeljust=l; labelloc=t; style=\"rounded,filled\"; "
                             "color=\"#C4CCD4\"; fillcolor=\"#8C959F14\"; fontcolor=\"#57606A\"; fontsize=10; margin=10;")
                write(inner, full, indent + "  ")
                lines.append(f"{indent}}}")

    write(tree, "", "  ")
    lines += [f"  {_quoted(a)} -> {_quoted(b)} [{_attributes(d)}];" for a, b, d in drawn.edges(data=True)]
    data = [d for _, d in drawn.nodes(data=True)]
    kinds = {d["shape"] for d in data} | {"double" for d in data if "peripheries" in d}
    lines.append(_legend({d["phase"] for d in data}, kinds | {"dashed" for d in data if "dashed" in d["style"]}))
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(data: dict[str, Any]) -> str:
    return ", ".join(f"{k}={_quoted(v)}" for k, v in data.items())


def _legend(present: set[str], kinds: set[str]) -> str:
    """What colours and shapes mean, as the picture's own caption; only what it has."""
    cells = "".join(f'<TD BGCOLOR="{fill}" COLOR="{border}" BORDER="1" STYLE="ROUNDED"> {phase} </TD>'
                    for phase, (fill, border) in PALETTE.items() if phase in present)
    words = {"parallelogram": "parallelogram: input", "cylinder": "cylinder: parameter or state",
             "dashed": "dashed: its value after the step", "double": "double border: output"}
    said = " · ".join(text for kind, text in words.items() if kind in kinds)
    top = f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="6" CELLPADDING="3"><TR>{cells}</TR></TABLE>' if cells else " "
    below = f'<TR><TD><FONT POINT-SIZE="9" COLOR="#57606A">{said}</FONT></TD></TR>' if said else ""
    return (f'  label=<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0"><TR><TD>{top}</TD></TR>{below}</TABLE>>; '
            f'labelloc=b; fontsize=11; fontcolor="{INK}";')


# In clusters Graphviz does not always keep a label clear of a node; each of these moves what stood in the way.
CHANGES = ("", "nodesep=0.5", "newrank=true", "nodesep=0.7; ranksep=0.6", "newrank=true; nodesep=0.7; ranksep=0.6")


def lay_out(graph: Graph) -> Any:
    """The pygraphviz.AGraph with positions, of the first change under which no label touches a node or another label."""
    try:
        import pygraphviz
    except ImportError:
        raise GraphError('pictures need pygraphviz: pip install "graphc[viz]"; or dump with --format dot') from None
    text, best = dot(graph), None
    for change in CHANGES:
        picture = pygraphviz.AGraph(string=text.replace("\n  node [", f"\n  {change};\n  node [", 1) if change else text)
        picture.layout(prog="dot")
        clashes = _clashes(json.loads(picture.draw(format="json")))
        if best is None or clashes < best[0]:
            best = clashes, picture
        if not clashes:
            break
    assert best is not None
    return best[1]


def _clashes(picture: Any) -> int:
    """How many boxes of nodes and edge labels overlap, in Graphviz' own JSON (points)."""
    boxes = []
    for node in picture.get("objects", ()):
        if "pos" in node:
            x, y = map(float, node["pos"].split(","))
            width, height = 36 * float(node["width"]), 36 * float(node["height"])
            boxes.append((x - width, x + width, y - height, y + height))
    for edge in picture.get("edges", ()):
        for text in edge.get("_ldraw_", ()):
            if text["op"] == "T":
                (x, y), half = text["pt"], text["width"] / 2
                boxes.append((x - half, x + half, y - 2, y + 8))
    boxes.sort()
    found = 0
    for k, (_, right, low, high) in enumerate(boxes):
        for other in boxes[k + 1:]:
            if other[0] >= right:
                break
            found += other[2] < high and low < other[3]
    return found


def draw(graph: Graph, format: str = "svg") -> bytes:
    """The picture as SVG or PNG.  Needs the extra `viz`, whose wheel brings Graphviz along."""
    if format not in ("svg", "png"):
        raise GraphError(f"pictures come as svg or png, not {format!r}")
    return lay_out(graph).draw(format=format)
