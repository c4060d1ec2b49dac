"""Pictures of graphs: DOT text, and SVG or PNG through networkx and pygraphviz.

Knows shapes, colours and labels.  Must not know passes or any op.

Colours tell forward, gradient and update apart (blue, orange, green of a palette that colour-blind readers can tell
apart); inputs are parallelograms, parameters cylinders, outputs have a double border; types stand on the edges; module scopes
are clusters.  Constants and their repetitions are written into the operation that reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import GraphError
from .ir import Cell, Graph, Node, topological
from .op import Kind
from .text import cell_names, format_value

PALETTE = {"forward": ("#D6E6F5", "#2B6CA3"), "gradient": ("#FBE3C8", "#B3630B"), "update": ("#D9EDD3", "#3B7D23")}
INK = "#1B1F24"
FONT = "Helvetica"


def phases(graph: Graph) -> dict[Node, str]:
    """For every node whether it is part of the forward computation, of a gradient, or of the update."""
    forward = set(topological(graph.outputs))
    return {n: "gradient" if n.phase == "gradient" else "forward" if n in forward else "update" for n in graph.nodes}


def _number(node: Node) -> str | None:
    """The text of a constant (or a repeated one) that is drawn inside its reader; None of anything else."""
    while node.op.kind is Kind.VIEW and "fill" not in node.attributes and node.inputs[0].type.size == 1:
        node = node.inputs[0]
    value = node.attributes.get("value") if node.op.kind is Kind.SOURCE else None
    if not isinstance(value, np.ndarray) or value.size != 1:
        return None
    number = value.reshape(-1)[0].item()
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def _shown(graph: Graph) -> list[Node]:
    """The nodes that are drawn: all but constants inside labels and what only they need."""
    kept: list[Node] = []
    stack, seen = [*graph.roots, *graph.inputs], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        kept.append(node)
        stack.extend(i for i in node.inputs if _number(i) is None)
    order = {n: k for k, n in enumerate(graph.nodes)}
    return sorted(kept, key=order.__getitem__)


def label(node: Node, names: dict[Cell, str]) -> str:
    """A node's text: its name, or its op with constants and short attributes."""
    if "cell" in node.attributes:
        return names[node.attributes["cell"]]
    if "symbol" in node.attributes:
        return node.attributes["name"]
    if (alone := _number(node)) is not None:
        return alone
    constants = [n for i in node.inputs if (n := _number(i)) is not None]
    lines = [node.op.name + (f"  {', '.join(constants)}" if constants else "")]
    shown = [f"{k}={_short(v)}" for k, v in node.attributes.items() if k not in ("cells", "symbol", "site")]
    if shown:
        lines.append(" ".join(shown))
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    text = format_value(value).replace('"', "")
    return text if len(text) <= 28 else text[:25] + "..."


def to_networkx(graph: Graph) -> Any:
    """A networkx.MultiDiGraph whose nodes and edges carry Graphviz attributes, and `scope` and `phase`."""
    import networkx

    drawn = networkx.MultiDiGraph(rankdir="TB", fontname=FONT, nodesep="0.25", ranksep="0.35", bgcolor="white")
    drawn.graph["node"] = {"fontname": FONT, "fontsize": "11", "fontcolor": INK, "margin": "0.10,0.05", "height": "0.3"}
    drawn.graph["edge"] = {"fontname": FONT, "fontsize": "9", "fontcolor": "#57606A", "color": "#6E7781", "arrowsize": "0.6"}
    names = cell_names(graph)
    part = phases(graph)
    numbers = {node: f"n{k}" for k, node in enumerate(graph.nodes)}
    shown = _shown(graph)
    for node in shown:
        fill, border = PALETTE[part[node]]
        style: dict[str, Any] = {"shape": "box", "style": "rounded,filled"}
        if "cell" in node.attributes:
            style = {"shape": "cylinder", "style": "filled"}
        elif "symbol" in node.attributes:
            style = {"shape": "parallelogram", "style": "filled"}
        if node in graph.outputs:
            style["peripheries"] = "2"
        drawn.add_node(numbers[node], label=label(node, names), fillcolor=fill, color=border, phase=part[node],
                       scope=node.scope, tooltip=_tooltip(node), **style)
    for node in shown:
        for operand in dict.fromkeys(node.inputs):  # x * x is one edge: two would carry one label twice
            if _number(operand) is None:
                drawn.add_edge(numbers[operand], numbers[node], label=f" {operand.types[0]} ")
    for cell, value in graph.updates:
        fill, border = PALETTE["update"]
        end = f"new_{names[cell]}".replace(".", "_")
        drawn.add_node(end, label=f"{names[cell]}'", shape="cylinder", style="filled,dashed", fillcolor=fill, color=border,
                       phase="update", scope="", tooltip=f"the new value of {names[cell]}")
        drawn.add_edge(numbers[value], end, label=f" {value.types[0]} ")
    return drawn


def _tooltip(node: Node) -> str:
    where = f"\n{node.origins[0]}" if node.origins else ""
    return f"{node.op.name}: {', '.join(map(str, node.types))}{where}"


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
                lines.append(f"{indent}  label={_quoted(full)}; style=\"rounded,dashed\"; color=\"#8C959F\"; "
                             f"fontcolor=\"#57606A\"; fontsize=10;")
                write(inner, full, indent + "  ")
                lines.append(f"{indent}}}")

    write(tree, "", "  ")
    lines += [f"  {_quoted(a)} -> {_quoted(b)} [{_attributes(d)}];" for a, b, d in drawn.edges(data=True)]
    lines.append(_legend({d["phase"] for _, d in drawn.nodes(data=True)}))
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(data: dict[str, Any]) -> str:
    return ", ".join(f"{k}={_quoted(v)}" for k, v in data.items())


def _legend(present: set[str]) -> str:
    """The meaning of the colours, as the picture's own caption."""
    cells = "".join(f'<TD BGCOLOR="{fill}">{phase}</TD>' for phase, (fill, _) in PALETTE.items() if phase in present)
    return f'  label=<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="6"><TR>{cells}</TR></TABLE>>; labelloc=b;'


def draw(graph: Graph, format: str = "svg") -> bytes:
    """The picture as SVG or PNG.  Needs the extra `viz`, whose wheel brings Graphviz along."""
    try:
        import pygraphviz
    except ImportError:
        raise GraphError('pictures need pygraphviz: pip install "graphc[viz]"; or dump with --format dot') from None
    if format not in ("svg", "png"):
        raise GraphError(f"pictures come as svg or png, not {format!r}")
    picture = pygraphviz.AGraph(string=dot(graph))
    picture.layout(prog="dot")
    return picture.draw(format=format)
