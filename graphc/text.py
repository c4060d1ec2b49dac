"""Graphs and plans as text, and graphs back from text.

The text holds everything: ``parse(format_graph(g), bind)`` gives the very same nodes where inputs and parameters are bound by
name; unbound names become new placeholders and parameters.  Parsing builds nodes and executes nothing.  Must not know any op.
"""

from __future__ import annotations

import ast
import base64
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .errors import GraphError
from .ir import Cell, Graph, Node, make
from .op import REGISTRY, Kind
from .plan import Branch, Buffer, Kernel, Loop, Plan, Role
from .tensor import Parameter, Symbol, Tensor
from .types import Dim, DType, Quotient, Size, TensorType, as_dtype

INLINE = 64  # elements of an array that are printed as numbers; larger ones as bytes

# -- names -----------------------------------------------------------------------------------------------------------


def _unique(wanted: str, taken: dict[str, Any]) -> str:
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}.{number}", number + 1
    return name


def cell_names(graph: Graph) -> dict[Cell, str]:
    """A unique name for every cell: its own, numbered where several cells share it."""
    taken: dict[str, Cell] = {}
    for cell in graph.cells():
        taken[_unique(cell.name, taken)] = cell
    return {cell: name for name, cell in taken.items()}


# -- writing ---------------------------------------------------------------------------------------------------------


def format_value(value: Any) -> str:
    """An attribute's value; `_Reader.value` reads it back exactly."""
    if value is None or isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, float):
        return repr(value) if np.isfinite(value) else f"float({value})"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(format_value(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, (DType, TensorType)):
        return f"<{value}>"
    if isinstance(value, (Dim, Quotient)):
        return f"[{value}]"
    if isinstance(value, np.ndarray):
        return _format_array(value)
    raise GraphError(f"an attribute of type {type(value).__name__} has no text")


def _format_array(array: np.ndarray) -> str:
    type_ = TensorType(as_dtype(array.dtype), array.shape)
    if array.size > INLINE:
        return f"bytes<{type_}>{base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}"
    numbers = ", ".join(format_value(v.item()) for v in array.reshape(-1))
    return f"array<{type_}>({numbers})"


class _Writer:
    def __init__(self, graph: Graph, comments: bool) -> None:
        self.names: dict[Node, str] = {}
        self.cells = cell_names(graph)
        self.comments = comments
        self.count = 0

    def graph(self, graph: Graph, indent: str, head: str) -> Iterator[str]:
        taken: dict[str, Node] = {}
        for node in graph.inputs:
            name = _unique(_identifier(node.attributes["name"]), taken)
            taken[name] = node
            self.names[node] = f"%{name}"
        inputs = ", ".join(f"{self.names[n]}: {n.type}" for n in graph.inputs)
        yield f"{indent}{head}({inputs}) {{"
        for node in graph.nodes:
            if node not in graph.inputs:
                yield from self.node(node, indent + "  ")
        for position, node in enumerate(graph.outputs):
            label = graph.output_names[position] if graph.output_names else ""
            yield f"{indent}  output {self.names[node]}" + (f" as {json.dumps(label)}" if label else "")
        for cell, node in graph.updates:
            yield f"{indent}  update @{self.cells[cell]} = {self.names[node]}"
        yield f"{indent}}}"

    def node(self, node: Node, indent: str) -> Iterator[str]:
        if node in self.names:
            return
        if "cell" in node.attributes:
            name = self.cells[node.attributes["cell"]]
            self.names[node] = f"%{_identifier(name)}" if f"%{_identifier(name)}" not in self.names.values() else self.new()
            word = "parameter" if node.attributes["cell"].trainable else "state"
            yield f"{indent}{self.names[node]} = {word} @{name} : {node.type}"
            return
        self.names[node] = self.new()
        arguments = ", ".join(self.names[i] for i in node.inputs)
        shown = {k: v for k, v in node.attributes.items() if k not in ("symbol",)}
        if "cells" in shown:
            shown["cells"] = tuple(self.cells[c] for c in shown["cells"])
        attributes = " {" + ", ".join(f"{k}={format_value(v)}" for k, v in shown.items()) + "}" if shown else ""
        types = ", ".join(map(str, node.types))
        note = self.note(node) if self.comments else ""
        line = f"{indent}{self.names[node]} = {node.op.name}({arguments}){attributes} : {types}"
        if node.graphs:
            yield line + " ["
            for graph in node.graphs:
                yield from self.graph(graph, indent + "  ", "body")
            yield f"{indent}]"
        else:
            yield line + note

    def note(self, node: Node) -> str:
        parts = [p for p in (node.scope, node.origins[0].file.rsplit("/", 1)[-1] + f":{node.origins[0].line}"
                             if node.origins else "") if p]
        return "  # " + " ".join(parts) if parts else ""

    def new(self) -> str:
        self.count += 1
        return f"%{self.count - 1}"


def _identifier(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.]", "_", name)
    return clean if re.match(r"[A-Za-z_]", clean) else f"_{clean}"


def format_graph(graph: Graph, *, comments: bool = False) -> str:
    """The graph, one node a line; with `comments`, module and source line behind each."""
    return "\n".join(_Writer(graph, comments).graph(graph, "", "graph")) + "\n"


def format_plan(plan: Plan, *, bodies: bool = True) -> str:
    """The plan: buffers with their places, then kernels in order with their bodies."""
    lines = [f"plan  arena {plan.arena_bytes} bytes, {len(plan.kernels)} kernels, {plan.flops} operations"]

    def place(buffer: Buffer) -> str:
        home = plan.home(buffer)
        own = f"%{buffer.name}" if home is buffer else f"%{buffer.name} in {home.name}"
        at = f" at {plan.offsets[home]}" if home.role is Role.TEMPORARY and home in plan.offsets else ""
        return f"{own}: {buffer.type}{at}"

    def steps(inner: Plan, indent: str) -> None:
        for step in inner.steps:
            if isinstance(step, Kernel):
                reads = ", ".join(f"%{b.name}" for b in step.reads)
                writes = ", ".join(place(b) for b in step.writes)
                over = f" over {list(step.axes)}" if step.axes else ""
                lines.append(f"{indent}{step.name}: {step.form.value}{list(step.space)}{over} ({reads}) -> {writes}")
                lines.extend(f"{indent}    {note}" for note in step.notes)
                if bodies:
                    lines.extend(indent + "  " + line for line in format_graph(step.body).splitlines())
            elif isinstance(step, Loop):
                lines.append(f"{indent}loop {step.count} times:")
                steps(step.body, indent + "  ")
            elif isinstance(step, Branch):
                lines.append(f"{indent}if %{step.flag.name}:")
                steps(step.then, indent + "  ")
                lines.append(f"{indent}else:")
                steps(step.otherwise, indent + "  ")

    steps(plan, "")
    lines.extend(f"copy %{a.name} -> {place(b)}" for a, b in plan.copies)
    return "\n".join(lines) + "\n"


def format_json(graph: Graph) -> str:
    """Nodes, edges, types, attributes, phases, scopes and source lines, for other programs."""
    number = {node: i for i, node in enumerate(graph.nodes)}
    cells = cell_names(graph)
    nodes = []
    for node in graph.nodes:
        shown = {k: format_value(v) for k, v in node.attributes.items() if k not in ("symbol", "cell", "cells")}
        if "cell" in node.attributes:
            shown["cell"] = cells[node.attributes["cell"]]
        nodes.append({"id": number[node], "op": node.op.name, "kind": node.op.kind.value, "attributes": shown,
                      "inputs": [number[i] for i in node.inputs], "types": [str(t) for t in node.types],
                      "phase": node.phase, "scope": node.scope, "origins": [f"{o.file}:{o.line}" for o in node.origins]})
    return json.dumps({"nodes": nodes, "inputs": [number[n] for n in graph.inputs],
                       "outputs": [{"name": name, "node": number[n]} for n, name in
                                   zip(graph.outputs, graph.output_names or [""] * len(graph.outputs), strict=True)],
                       "updates": [{"cell": cells[c], "node": number[n]} for c, n in graph.updates]}, indent=1)


# -- reading ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"""\s*(?:
      (?P<array>(?:array|bytes)<[^>]*>)
    | (?P<type><[^>]*>)
    | (?P<dim>\[[^\]]*\])
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<special>float\((?:nan|inf|-inf)\))
    | (?P<number>-?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+))
    | (?P<word>[A-Za-z_][\w.]*)
    | (?P<name>[%@][\w.]+)
    | (?P<mark>[(){}=,:])
    )""", re.VERBOSE)
_SHORT = re.compile(r"^(f32|f64|i32|i64|bool)(?:\[(.*)\])?$")


def parse_size(text: str) -> Size:
    """A size expression: integers, names, + - * // and parentheses; read as a syntax tree, never evaluated."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise GraphError(f"no size: {text!r}") from None
    return _size_of(tree, text)


def _size_of(tree: ast.AST, text: str) -> Size:
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    if isinstance(tree, ast.Name):
        return Dim.named(tree.id)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return 0 - _size_of(tree.operand, text)
    if isinstance(tree, ast.BinOp):
        a, b = _size_of(tree.left, text), _size_of(tree.right, text)
        if isinstance(tree.op, ast.Add):
            return a + b
        if isinstance(tree.op, ast.Sub):
            return a - b
        if isinstance(tree.op, ast.Mult):
            return a * b
        if isinstance(tree.op, ast.FloorDiv) and b != 0:
            return a // b
    raise GraphError(f"no size: {text!r}")


def parse_type(text: str) -> TensorType:
    """``f32[batch,2]``."""
    found = _SHORT.match(text.strip())
    if found is None or found.group(2) is None:
        raise GraphError(f"no tensor type: {text!r}; write one like f32[batch,2]")
    inside = found.group(2).strip()
    sizes = tuple(parse_size(s) for s in inside.split(",")) if inside else ()
    if any(isinstance(s, int) and s < 0 for s in sizes):
        raise GraphError(f"a size cannot be negative: {text!r}")
    return TensorType(as_dtype(found.group(1)), sizes)


class _Reader:
    def __init__(self, text: str, bind: Mapping[str, Any]) -> None:
        self.lines = [line.split("  #")[0].rstrip() for line in text.splitlines()]
        self.at = 0
        self.bind = dict(bind)
        self.cells: dict[str, Node] = {}
        self.used: set[str] = set()

    def fail(self, reason: str) -> GraphError:
        return GraphError(f"line {self.at}: {reason}")

    def line(self) -> str:
        while self.at < len(self.lines) and not self.lines[self.at].strip():
            self.at += 1
        if self.at >= len(self.lines):
            raise GraphError("the text ends before its closing brace")
        self.at += 1
        return self.lines[self.at - 1].strip()

    # -- values ------------------------------------------------------------------------------------------------

    def value(self, text: str, place: int) -> tuple[Any, int]:
        token = _TOKEN.match(text, place)
        if token is None:
            raise self.fail(f"cannot read a value at {text[place:place + 30]!r}")
        kind, word, place = token.lastgroup, token.group(token.lastgroup or 0), token.end()
        if kind == "array":
            return self.array(text, word, place)
        if kind == "type":
            inside = word[1:-1]
            return (parse_type(inside) if "[" in inside else as_dtype(inside)), place
        if kind == "dim":
            return parse_size(word[1:-1]), place
        if kind == "string":
            try:
                return json.loads(word), place
            except ValueError:
                raise self.fail(f"no string: {word}") from None
        if kind == "special":
            return float(word[6:-1]), place
        if kind == "number":
            return (int(word) if re.fullmatch(r"-?\d+", word) else float(word)), place
        if kind == "word" and word in ("None", "True", "False"):
            return {"None": None, "True": True, "False": False}[word], place
        if kind == "mark" and word == "(":
            return self.items(text, place)
        raise self.fail(f"unexpected {word!r}")

    def items(self, text: str, place: int) -> tuple[tuple[Any, ...], int]:
        """The rest of a tuple, behind its opening parenthesis."""
        items: list[Any] = []
        while True:
            rest = re.compile(r"\s*\)").match(text, place)
            if rest:
                return tuple(items), rest.end()
            item, place = self.value(text, place)
            items.append(item)
            comma = re.compile(r"\s*,").match(text, place)
            if comma:
                place = comma.end()
            elif not re.compile(r"\s*\)").match(text, place):
                raise self.fail("a tuple is not closed")

    def array(self, text: str, word: str, place: int) -> tuple[np.ndarray, int]:
        type_ = parse_type(word[word.index("<") + 1:-1])
        if type_.is_open:
            raise self.fail("an array needs known sizes")
        if word.startswith("bytes"):
            found = re.compile(r"[A-Za-z0-9+/=]*").match(text, place)
            assert found is not None
            try:
                data = base64.b64decode(found.group(), validate=True)
                array = np.frombuffer(data, type_.dtype.numpy).reshape(type_.shape)  # type: ignore[arg-type]
            except ValueError:
                raise self.fail(f"the bytes are not those of {type_}") from None
            return array, found.end()
        opening = re.compile(r"\s*\(").match(text, place)
        if opening is None:
            raise self.fail("an array needs its numbers in parentheses")
        numbers, place = self.items(text, opening.end())
        if len(numbers) != type_.size or not all(isinstance(n, (bool, int, float)) for n in numbers):
            raise self.fail(f"{len(numbers)} numbers for {type_}")
        try:
            return np.array(numbers, type_.dtype.numpy).reshape(type_.shape), place  # type: ignore[arg-type]
        except (OverflowError, ValueError):
            raise self.fail(f"numbers that do not fit {type_}") from None

    def attributes(self, text: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        place = 0
        while text[place:].strip():
            name = re.compile(r"\s*([A-Za-z_]\w*)\s*=").match(text, place)
            if name is None:
                raise self.fail(f"cannot read attributes at {text[place:place + 30]!r}")
            found[name.group(1)], place = self.value(text, name.end())
            comma = re.compile(r"\s*,").match(text, place)
            place = comma.end() if comma else place
        return found

    # -- graphs ------------------------------------------------------------------------------------------------

    def graph(self, head: str, word: str) -> Graph:
        found = re.fullmatch(rf"{word}\s*\((.*)\)\s*\{{", head)
        if found is None:
            raise self.fail(f"expected '{word}(%name: type, ...) {{', got {head!r}")
        names: dict[str, Node] = {}
        inputs = []
        for part in _split(found.group(1)):
            given = re.fullmatch(r"%([\w.]+)\s*:\s*(.+)", part)
            if given is None:
                raise self.fail(f"cannot read the input {part!r}")
            node = self.input(given.group(1), parse_type(given.group(2)))
            names[given.group(1)] = node
            inputs.append(node)
        outputs: list[Node] = []
        labels: list[str] = []
        updates: list[tuple[Cell, Node]] = []
        while True:
            line = self.line()
            if line == "}":
                break
            if out := re.fullmatch(r"output %([\w.]+)(?: as (\".*\"))?", line):
                outputs.append(self.named(names, out.group(1)))
                labels.append(json.loads(out.group(2)) if out.group(2) else "")
            elif update := re.fullmatch(r"update @([\w.]+) = %([\w.]+)", line):
                value = self.named(names, update.group(2))
                cell = self.cell(update.group(1), value.type, True).attributes["cell"]
                updates.append((cell, value))
            else:
                self.statement(line, names)
        return Graph(tuple(inputs), tuple(outputs), tuple(updates), tuple(labels) if any(labels) else ())

    def named(self, names: dict[str, Node], name: str) -> Node:
        if name not in names:
            raise self.fail(f"%{name} is not defined above")
        return names[name]

    def input(self, name: str, type_: TensorType) -> Node:
        bound = self.bind.get(name)
        if bound is not None:
            node = bound.node if isinstance(bound, Tensor) else bound
            if not isinstance(node, Node) or node.type != type_:
                raise self.fail(f"'{name}' is bound to {bound!r}, the text has {type_}")
            return node
        return make(REGISTRY["input"], (), {"name": name, "type": type_, "symbol": Symbol()})

    def cell(self, name: str, type_: TensorType, trainable: bool) -> Node:
        known = self.cells.get(name)
        if known is None:
            bound = self.bind.get(name)
            if bound is not None:
                known = bound.node if isinstance(bound, Tensor) else bound
                if not isinstance(bound, Parameter) or known.type != type_:
                    raise self.fail(f"'{name}' is bound to {bound!r}, the text has a parameter of {type_}")
            else:
                if type_.is_open:
                    raise self.fail(f"the parameter '{name}' needs known sizes")
                if int(type_.size) > 1 << 28:
                    raise self.fail(f"the parameter '{name}' is too large: {type_}")
                value = np.zeros(type_.shape, type_.dtype.numpy)  # type: ignore[arg-type]
                known = make(REGISTRY["parameter"], (), {"cell": Cell(name, value, trainable)})
            self.cells[name] = known
        elif known.type != type_:
            raise self.fail(f"'@{name}' is {known.type} above, {type_} here")
        return known

    def statement(self, line: str, names: dict[str, Node]) -> None:
        found = re.match(r"%([\w.]+) = (?:(parameter|state) @([\w.]+) : (.+)|([A-Za-z_]\w*)\()", line)
        if found is None:
            raise self.fail(f"cannot read {line[:60]!r}")
        name = found.group(1)
        if name in names:
            raise self.fail(f"%{name} is defined twice")
        if found.group(2):
            names[name] = self.cell(found.group(3), parse_type(found.group(4)), found.group(2) == "parameter")
            return
        op = REGISTRY.get(found.group(5))
        if op is None:
            close = difflib.get_close_matches(found.group(5), REGISTRY, 3)
            raise self.fail(f"unknown op '{found.group(5)}'" + (f"; did you mean {', '.join(close)}?" if close else ""))
        end = line.index(")", found.end())
        inputs = []
        for part in _split(line[found.end():end]):
            if not part.startswith("%"):
                raise self.fail(f"an operand is a name like %0, got {part!r}")
            inputs.append(self.named(names, part[1:]))
        rest = line[end + 1:].strip()
        attributes: dict[str, Any] = {}
        if rest.startswith("{"):
            close_at = rest.rindex("}") if "}" in rest else -1
            if close_at < 0:
                raise self.fail("the attributes are not closed")
            attributes, rest = self.attributes(rest[1:close_at]), rest[close_at + 1:].strip()
        nested = rest.endswith("[") and not rest.endswith("[]")
        types = [parse_type(t) for t in _split(rest.removesuffix("[").strip().removeprefix(":").strip())]
        graphs = []
        if nested:
            while (head := self.line()) != "]":
                graphs.append(self.graph(head, "body"))
        if op.kind is Kind.SOURCE and op.numpy is None:
            raise self.fail(f"'{op.name}' is written as an input or a parameter")
        if op.arity is not None and op.arity != len(inputs):
            raise self.fail(f"{op.name} takes {op.arity} operands, got {len(inputs)}")
        if "cells" in attributes:
            cells = [self.cell(c, i.type, False) for c, i in zip(attributes["cells"], inputs[1:], strict=True)]
            attributes["cells"] = tuple(c.attributes["cell"] for c in cells)
        try:
            node = make(op, inputs, attributes, graphs)
        except GraphError as error:
            raise self.fail(str(error)) from None
        except Exception as error:  # a rule tripped over attributes of the wrong kind
            raise self.fail(f"{op.name} does not take these operands and attributes ({error})") from None
        if list(node.types) != types:
            raise self.fail(f"{op.name} gives {', '.join(map(str, node.types))}, the text says "
                            f"{', '.join(map(str, types))}")
        names[name] = node


def _split(text: str) -> list[str]:
    """Parts between commas that are not inside brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []


def parse(text: str, bind: Mapping[str, Any] | None = None) -> Graph:
    """The graph that `format_graph` wrote.

    bind   {name: placeholder or parameter}; names that are not bound become new ones (parameters of zeros)
    Raises GraphError with the line number.
    """
    if not isinstance(text, str):
        raise GraphError(f"parse takes text, got {type(text).__name__}")
    reader = _Reader(text, bind or {})
    try:
        graph = reader.graph(reader.line(), "graph")
    except (ValueError, KeyError, TypeError, RecursionError, IndexError, OverflowError) as error:
        raise reader.fail(f"cannot be read: {error}") from None
    while reader.at < len(reader.lines):
        if reader.lines[reader.at].strip():
            raise GraphError(f"line {reader.at + 1}: text after the closing brace")
        reader.at += 1
    return graph
