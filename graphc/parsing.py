"""Text to graphs: the inverse of `format_graph`.

Knows the grammar of statements and how names are bound to symbols.  Builds nodes and executes nothing.  Must not know any op.

    graph(%x: f32[batch,2]) {
      %w = parameter @w : f32[2,1] = (2.0, 1.0)
      %0 = contract(%x, %w) {spec="ab,bc->ac"} : f32[batch,1]   # a comment
      output %0 as "prediction"
      update @w = %w
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .cells import Cell
from .errors import GraphError
from .ir import Graph, Node, make
from .literals import Scanner
from .op import REGISTRY, Op
from .symbols import Symbol, Tensor
from .types import TensorType

LARGEST = 1 << 30  # bytes of a parameter that is not bound: a larger one is a damaged text


def parse(text: str, bind: Mapping[str, Any] | None = None) -> Graph:
    """The graph that `format_graph` wrote.

    bind   {name: placeholder, parameter or function}: nodes on bound names are the very same nodes again.  A name that a
           placeholder and a parameter share is told apart as "%name" and "@name".  Names that are not bound become new
           placeholders and new parameters, the latter with the values in the text, else zeros
    Raises GraphError with the line number.
    """
    if not isinstance(text, str):
        raise GraphError(f"parse takes text, got {type(text).__name__}")
    reader = _Reader(text, bind or {})
    try:
        if not reader.scan.token:
            raise reader.scan.fail("the text ends before its graph begins; write graph(%x: f32[2]) { ... }")
        graph = reader.graph("graph", {})
        if reader.scan.token:
            raise reader.scan.fail("text after the closing brace")
    except (RecursionError, MemoryError) as error:
        raise reader.scan.fail(f"too large to be read ({type(error).__name__})") from None
    return graph


class _Reader:
    def __init__(self, text: str, bind: Mapping[str, Any]) -> None:
        self.bind = dict(bind)
        self.scan = Scanner(text, {n.lstrip("&"): f for n, f in bind.items() if not isinstance(f, (Tensor, Node, Cell))})

    # -- graphs ------------------------------------------------------------------------------------------------

    def graph(self, word: str, outer: Mapping[str, Node]) -> Graph:
        """A graph with its braces; names of the graphs around it are known inside."""
        scan = self.scan
        scan.deeper()
        scan.expect(word)
        names, own = dict(outer), set()
        inputs: list[Node | tuple[str, int]] = []
        scan.expect("(")
        while not scan.accept(")"):
            if inputs:
                scan.expect(",")
            start, name = scan.start, scan.take("name", "an input like %x: f32[2]", "%")
            if not scan.accept(":"):
                inputs.append((name, start))  # a node of the body stands in for an input
                continue
            if name in own:
                raise scan.fail(f"the input %{name} is declared twice", start)
            own.add(name)
            names[name] = self.input(name, scan.type())
            inputs.append(names[name])
        scan.expect("{")
        outputs: list[Node] = []
        labels: list[str] = []
        updates: list[tuple[Cell, Node]] = []
        while not scan.accept("}"):
            if not scan.token:
                raise scan.fail("the text ends before its closing brace")
            if scan.accept("output"):
                outputs.append(self.node(names))
                labels.append(scan.take("string", "the output's label") if scan.accept("as") else "")
            elif scan.accept("update"):
                updates.append(self.update(names))
            elif scan.at("parameter") or scan.at("state"):
                self.cell()
            else:
                self.statement(names, own)
        scan.depth -= 1
        found = tuple(n if isinstance(n, Node) else self.named(names, *n) for n in inputs)
        return Graph(found, tuple(outputs), tuple(updates), tuple(labels) if any(labels) else ())

    def node(self, names: Mapping[str, Node]) -> Node:
        start = self.scan.start
        return self.named(names, self.scan.take("name", "a node like %0", "%"), start)

    def named(self, names: Mapping[str, Node], name: str, start: int) -> Node:
        if name not in names:
            raise self.scan.fail(f"%{name} is not defined above", start)
        return names[name]

    def update(self, names: Mapping[str, Node]) -> tuple[Cell, Node]:
        start, name = self.scan.start, self.scan.take("name", "a parameter or state like @w", "@")
        self.scan.expect("=")
        value = self.node(names)
        if name not in self.scan.cells:
            raise self.scan.fail(f"@{name} is not declared above; write: parameter @{name} : {value.types[0]}", start)
        cell = self.scan.cells[name]
        if cell.type != value.type:
            raise self.scan.fail(f"'@{name}' is {cell.type} above, its new value {value.type}", start)
        return cell, value

    # -- what comes from outside -------------------------------------------------------------------------------

    def bound(self, sigil: str, name: str) -> Any:
        """What the caller bound to the name; an object of the other sort under a bare name is not meant."""
        if sigil + name in self.bind:
            return self.bind[sigil + name]
        found = self.bind.get(name)
        node = found.node if isinstance(found, Tensor) else found
        if isinstance(node, (Node, Cell)) and (isinstance(node, Cell) or "cell" in node.attributes) != (sigil == "@"):
            twin = "a placeholder" if sigil == "%" else "a parameter"
            if f"{'@' if sigil == '%' else '%'}{name}" not in self.scan.text:
                raise self.scan.fail(f"'{name}' is {twin} in the text, but bound to {found!r}")
            return None
        return found

    def input(self, name: str, type_: TensorType) -> Node:
        start = self.scan.start
        symbol = own_name = None
        if self.scan.accept("as"):  # a slot: equal by name rather than by identity
            symbol = self.scan.take("string", "a symbol like \"slot\"")
            own_name = self.scan.take("string", "a name") if self.scan.accept("named") else name
        found = self.bound("%", name)
        if found is not None:
            node = found.node if isinstance(found, Tensor) else found
            if not isinstance(node, Node) or "symbol" not in node.attributes or node.type != type_:
                raise self.scan.fail(f"'{name}' is bound to {found!r}, the text has an input of {type_}", start)
            return node
        return make(REGISTRY["input"], (), {"name": own_name or name, "type": type_, "symbol": symbol or Symbol()})

    def cell(self) -> Node:
        """``parameter @name : type``, with its value where that is given; returns the node that reads it."""
        scan = self.scan
        trainable = scan.advance() == "parameter"
        start, name = scan.start, scan.take("name", "a name like @w", "@")
        scan.expect(":")
        type_ = scan.type()
        given = None
        if not type_.is_open and scan.accept("="):
            given = scan.numbers(type_.dtype.numpy, tuple(int(s) for s in type_.shape))
            if given is None:
                raise scan.fail(f"these are not the elements of {type_}", start)
        known = scan.cells.get(name)
        if known is None:
            known = scan.cells[name] = self._bound_cell(name, type_, start) or self._new_cell(name, type_, given, trainable,
                                                                                            start)
        elif known.type != type_:
            raise scan.fail(f"'@{name}' is {known.type} above, {type_} here", start)
        return make(REGISTRY["parameter"], (), {"cell": known})

    def _bound_cell(self, name: str, type_: TensorType, start: int) -> Cell | None:
        found = self.bound("@", name)
        if found is None:
            return None
        node = found.node if isinstance(found, Tensor) else found
        cell = node.attributes.get("cell") if isinstance(node, Node) else node
        if not isinstance(cell, Cell) or cell.type != type_:
            raise self.scan.fail(f"'{name}' is bound to {found!r}, the text has a parameter of {type_}", start)
        return cell

    def _new_cell(self, name: str, type_: TensorType, value: np.ndarray | None, trainable: bool, start: int) -> Cell:
        if type_.is_open:
            raise self.scan.fail(f"the parameter '{name}' needs known sizes", start)
        if type_.bytes > LARGEST:
            raise self.scan.fail(f"the parameter '{name}' is too large: {type_}; bind one", start)
        shape = tuple(int(s) for s in type_.shape)
        return Cell(name, np.zeros(shape, type_.dtype.numpy) if value is None else value, trainable)

    # -- nodes -------------------------------------------------------------------------------------------------

    def statement(self, names: dict[str, Node], own: set[str]) -> None:
        """``%name = op(%operands) {attributes} : types [bodies]``"""
        scan = self.scan
        start, name = scan.start, scan.take("name", "a statement: %name = ..., output, update or }", "%")
        if name in own:
            raise scan.fail(f"%{name} is defined twice", start)
        scan.expect("=")
        if scan.at("parameter") or scan.at("state"):
            names[name] = self.cell()
        elif scan.accept("input"):
            scan.expect(":")
            names[name] = self.input(name, scan.type())
        else:
            names[name] = self.operation(names)
        own.add(name)

    def operation(self, names: Mapping[str, Node]) -> Node:
        scan = self.scan
        start, word = scan.start, scan.take("word", "the name of an op")
        op = REGISTRY.get(word)
        if op is None:
            from difflib import get_close_matches

            close = get_close_matches(word, REGISTRY, 3)
            raise scan.fail(f"unknown op '{word}'" + (f"; did you mean {', '.join(close)}?" if close else ""), start)
        inputs: list[Node] = []
        scan.expect("(")
        while not scan.accept(")"):
            if inputs:
                scan.expect(",")
            inputs.append(self.node(names))
        attributes = self.attributes() if scan.accept("{") else {}
        types = None
        if scan.accept(":"):
            types = [scan.type()]
            while scan.accept(","):
                types.append(scan.type())
        graphs = []
        if scan.accept("["):
            while not scan.accept("]"):
                graphs.append(self.graph("body", names))
        node = self.made(op, inputs, attributes, graphs, start)
        if types is not None and list(node.types) != types:
            raise scan.fail(f"{op.name} gives {', '.join(map(str, node.types))}, the text says "
                            f"{', '.join(map(str, types))}", start)
        return node

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.scan.accept("}"):
            if found:
                self.scan.expect(",")
            start, name = self.scan.start, self.scan.take("word", "an attribute like axis=0")
            if name in found:
                raise self.scan.fail(f"the attribute '{name}' is given twice", start)
            self.scan.expect("=")
            found[name] = self.scan.value()
        return found

    def made(self, op: Op, inputs: list[Node], attributes: dict[str, Any], graphs: list[Graph], start: int) -> Node:
        if op.is_given:
            raise self.scan.fail(f"'{op.name}' is written as an input or a parameter", start)
        if op.arity is not None and op.arity != len(inputs):
            raise self.scan.fail(f"{op.name} takes {op.arity} operands, got {len(inputs)}", start)
        try:
            return make(op, inputs, attributes, graphs)
        except GraphError as error:
            raise self.scan.fail(str(error), start) from None
        except (RecursionError, MemoryError):
            raise
        except Exception as error:  # a type rule tripped over operands or attributes that no graph has
            raise self.scan.fail(f"{op.name} does not take these operands and attributes ({error})", start) from None
