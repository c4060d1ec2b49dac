"""Graphs and plans as text and JSON; `parse` reads graphs back.

The text holds everything: ``parse(format_graph(g), bind)`` gives the very same nodes where inputs and parameters are bound by
name.  Knows names, scopes of names and layout.  Must not know any op.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .cells import Cell
from .ir import Graph, Node
from .literals import bare, format_numbers, format_value, parse_type, quote
from .op import Kind
from .parsing import parse
from .plan import Branch, Buffer, Kernel, Loop, Plan, Role

SHOWN = 16  # a parameter of up to this many elements is written with its value
READABLE = 120  # characters of an attribute in JSON; what is longer is cut

# -- names -----------------------------------------------------------------------------------------------------------


def unique(wanted: str, taken: Mapping[str, Any]) -> str:
    """The name itself, or numbered where it is taken."""
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}.{number}", number + 1
    return name


def _cells_in(value: Any) -> Iterator[Cell]:
    if isinstance(value, Cell):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _cells_in(part)


def _all_cells(graph: Graph) -> Iterator[Cell]:
    """Every cell that a graph or a graph inside it mentions."""
    for node in graph.nodes:
        for value in node.attributes.values():
            yield from _cells_in(value)
        for inner in node.graphs:
            yield from _all_cells(inner)
    for cell, _ in graph.updates:
        yield cell


def cell_names(*graphs: Graph) -> dict[Cell, str]:
    """A unique name for every cell: its own, numbered where several cells share it."""
    return names_of(list(dict.fromkeys(cell for graph in graphs for cell in (*graph.cells(), *_all_cells(graph)))))


def names_of(cells: Sequence[Cell]) -> dict[Cell, str]:
    """The same for these cells, in order."""
    own = [cell.name for cell in cells]
    taken: dict[str, Cell] = {cell.name: cell for cell in cells if own.count(cell.name) == 1}
    names = {}
    for cell in cells:
        names[cell] = cell.name if taken.get(cell.name) is cell else unique(cell.name, taken)
        taken[names[cell]] = cell
    return names


# -- graphs ----------------------------------------------------------------------------------------------------------


def _closed(graph: Graph) -> bool:
    """Whether all that a graph reads is its own, and equal wherever it stands."""
    return all(node in graph.inputs and isinstance(node.attributes["symbol"], str)
               for node in graph.nodes if "symbol" in node.attributes) and not graph.cells()


class _Writer:
    """Gives every node a name that is unique in the whole text, but for inputs of bodies; names of a body end with it."""

    def __init__(self, graph: Graph, comments: bool, whole: bool) -> None:
        self.cells = cell_names(graph)
        self.comments, self.whole = comments, whole
        self.declared: set[Cell] = set()
        self.names: dict[Node, str] = {}
        self.taken: dict[str, Node] = {}
        self.count = 0

    def name(self, node: Node, wanted: str | None = None) -> str:
        """A new name for the node, with its sigil."""
        if wanted is None:
            while str(self.count) in self.taken:
                self.count += 1
            wanted = str(self.count)
        name = unique(wanted, self.taken)
        self.taken[name] = node
        self.names[node] = f"%{bare(name)}"
        return self.names[node]

    def value(self, value: Any) -> str:
        return format_value(value, self.cells.__getitem__)

    def graph(self, graph: Graph, indent: str, head: str) -> Iterator[str]:
        outside, taken = dict(self.names), dict(self.taken)
        if _closed(graph) and indent:  # reads its own inputs alone: names from outside would mislead
            self.names = {}
            for node in graph.inputs:
                self.taken.pop(node.attributes["name"], None)
        signature = []
        for node in graph.inputs:
            fresh = "symbol" in node.attributes and node not in self.names
            signature.append(self.input(node) if fresh else "")
        body = [line for node in graph.nodes for line in self.node(node, indent + "  ")]
        shown = [text or self.names[node] for text, node in zip(signature, graph.inputs, strict=True)]
        yield f"{indent}{head}({', '.join(shown)}) {{"
        yield from body
        for position, node in enumerate(graph.outputs):
            label = graph.output_names[position] if position < len(graph.output_names) else ""
            yield f"{indent}  output {self.names[node]}" + (f" as {quote(label)}" if label else "")
        for cell, node in graph.updates:
            yield from self.declaration(cell, indent + "  ")
            yield f"{indent}  update @{bare(self.cells[cell])} = {self.names[node]}"
        yield f"{indent}}}"
        self.names = outside
        self.taken |= taken

    def input(self, node: Node) -> str:
        """``%x: f32[2]``; an input that is equal by name (a kernel's slot) says so."""
        own, symbol = node.attributes["name"], node.attributes["symbol"]
        name = self.name(node, own)
        text = f"{name}: {node.type}"
        if isinstance(symbol, str) and self.whole:
            text += f" as {quote(symbol)}" + (f" named {quote(own)}" if name != f"%{bare(own)}" else "")
        return text

    def cell(self, cell: Cell) -> str:
        """``parameter @w : f32[2]``, the first time with its value where that is small and not zero."""
        text = f"{'parameter' if cell.trainable else 'state'} @{bare(self.cells[cell])} : {cell.type}"
        if cell not in self.declared and cell.size <= SHOWN and cell.array.tobytes().strip(b"\0"):
            numbers = format_numbers(cell.array)
            text += f" = {numbers}" if numbers else ""
        self.declared.add(cell)
        return text

    def declaration(self, cell: Cell, indent: str) -> Iterator[str]:
        """A line of its own for a cell that is mentioned before anything reads it."""
        if cell not in self.declared:
            yield indent + self.cell(cell)

    def node(self, node: Node, indent: str) -> Iterator[str]:
        if node in self.names:
            return
        if node.op.kind is Kind.SOURCE and "cell" in node.attributes:
            cell = node.attributes["cell"]
            yield f"{indent}{self.name(node, self.cells[cell])} = {self.cell(cell)}"
            return
        if node.op.kind is Kind.SOURCE and "symbol" in node.attributes:
            name, _, rest = self.input(node).rpartition(f": {node.type}")
            yield f"{indent}{name} = input : {node.type}{rest}"
            return
        for cell in (c for v in node.attributes.values() for c in _cells_in(v)):
            yield from self.declaration(cell, indent)
        arguments = ", ".join(self.names[i] for i in node.inputs)
        attributes = ", ".join(f"{k}={self.value(v)}" for k, v in node.attributes.items())
        line = f"{indent}{self.name(node)} = {node.op.name}({arguments})" + (f" {{{attributes}}}" if attributes else "")
        bodies = [line for graph in node.graphs for line in self.graph(graph, indent + "  ", "body")]
        line += " : " + ", ".join(map(str, node.types)) + (" [" if bodies else "")
        yield line + (self.note(node) if self.comments else "")
        if bodies:
            yield from bodies
            yield f"{indent}]"

    def note(self, node: Node) -> str:
        place = f"{os.path.basename(node.origins[0].file)}:{node.origins[0].line}" if node.origins else ""
        text = " ".join(p for p in (node.scope, place) if p)
        return "  # " + " ".join(text.split()) if text else ""


def format_graph(graph: Graph, *, comments: bool = False) -> str:
    """The graph, one node a line; with `comments`, module and source line behind each."""
    return "\n".join(_Writer(graph, comments, True).graph(graph, "", "graph")) + "\n"


# -- plans -----------------------------------------------------------------------------------------------------------


def format_plan(plan: Plan, *, bodies: bool = True) -> str:
    """The plan: buffers with their places, then kernels in order with their bodies."""
    lines = [f"plan  arena {plan.arena_bytes} bytes, {len(plan.kernels)} kernels, {plan.flops} operations"]

    def place(buffer: Buffer, plan: Plan = plan) -> str:
        home = plan.home(buffer)
        own = f"%{buffer.name}" if home is buffer else f"%{buffer.name} in {home.name}"
        at = f" at {plan.offsets[home]}" if home.role is Role.TEMPORARY and home in plan.offsets else ""
        return f"{own}: {buffer.type}{at}"

    def steps(inner: Plan, indent: str) -> None:
        for step in inner.steps:
            if isinstance(step, Kernel):
                reads = ", ".join(f"%{b.name}" for b in step.reads)
                writes = ", ".join(place(b, inner) for b in step.writes)
                over = f" over {list(step.axes)}" if step.axes else ""
                lines.append(f"{indent}{step.name}: {step.form.value}{list(step.space)}{over} ({reads}) -> {writes}")
                lines.extend(f"{indent}    {note}" for note in step.notes)
                if bodies:
                    lines.extend(_Writer(step.body, False, False).graph(step.body, indent + "  ", "graph"))
            elif isinstance(step, Loop):
                how = ", backwards" if step.reverse else ", runs shared by threads" if step.parallel else ""
                writes = ", ".join(place(b, inner) for b in step.writes)
                lines.append(f"{indent}{step.name}: {step.count} runs{how} -> {writes}:")
                lines.extend(f"{indent}  %{inside.name} is an entry of %{whole.name}" for whole, inside in step.sliced)
                lines.extend(f"{indent}  %{inside.name} is %{whole.name}" for whole, inside in step.shared)
                lines.extend(f"{indent}  %{c.read.name} is %{c.start.name}, then the last run's %{c.write.name}"
                             for c in step.carried)
                steps(step.body, indent + "    ")
            elif isinstance(step, Branch):
                lines.append(f"{indent}{step.name}: if %{step.flag.name} -> {', '.join(place(b, inner) for b in step.writes)}:")
                for side, body in (("then", step.then), ("else", step.otherwise)):
                    lines.append(f"{indent}  {side} ({', '.join(f'%{b.name}' for b in step.operands)}):")
                    steps(body, indent + "    ")

    steps(plan, "")
    lines.extend(f"copy %{a.name} -> {place(b)}" for a, b in plan.copies)
    return "\n".join(lines) + "\n"


# -- JSON ------------------------------------------------------------------------------------------------------------


def format_json(graph: Graph) -> str:
    """Nodes, edges, types, attributes, phases, scopes and source lines, for other programs.

    Attributes are texts as in `format_graph`; large arrays are named by type alone.  Nested graphs stand in their node.
    """
    import json  # graphs as JSON are rare, and importing it is not free

    return json.dumps(_json(graph, cell_names(graph)), indent=1)


def _json(graph: Graph, cells: Mapping[Cell, str]) -> dict[str, Any]:
    number = {node: i for i, node in enumerate(graph.nodes)}

    def text(value: Any) -> str:
        if isinstance(value, Cell):
            return cells[value]
        if isinstance(value, np.ndarray) and value.size > SHOWN:
            return f"{value.dtype}{list(value.shape)}"
        whole = format_value(value, cells.__getitem__)
        return whole if len(whole) <= READABLE else whole[:READABLE - 3] + "..."

    nodes = []
    for node in graph.nodes:
        nodes.append({"id": number[node], "op": node.op.name, "kind": node.op.kind.value,
                      "attributes": {k: text(v) for k, v in node.attributes.items() if k != "symbol"},
                      "inputs": [number[i] for i in node.inputs], "types": [str(t) for t in node.types],
                      "phase": node.phase, "scope": node.scope, "origins": [f"{o.file}:{o.line}" for o in node.origins]})
        if node.graphs:
            nodes[-1]["graphs"] = [_json(inner, cells) for inner in node.graphs]
    names = [*graph.output_names, *[""] * len(graph.outputs)]
    return {"nodes": nodes,
            "edges": [{"from": number[i], "to": number[n], "position": k, "type": ", ".join(map(str, i.types))}
                      for n in graph.nodes for k, i in enumerate(n.inputs)],
            "inputs": [number[n] for n in graph.inputs],
            "outputs": [{"name": name, "node": number[n]} for n, name in zip(graph.outputs, names, strict=False)],
            "updates": [{"cell": cells[c], "node": number[n]} for c, n in graph.updates]}


__all__ = ["bare", "cell_names", "format_graph", "format_json", "format_plan", "format_value", "names_of", "parse",
           "parse_type", "unique"]
