"""What a graph says, as one digest: graphs of one digest compile to the same code, in whichever process.

Knows nodes, attributes, and which cells are the same.  Must not know names of cells, where nodes come from, or how a graph is
compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .cells import Cell
from .hashes import digest
from .ir import SMALL, Graph, Node
from .op import Kind, Op
from .types import Dim, DType, Quotient, TensorType

OWN = __name__.partition(".")[0] + "."  # modules whose code belongs to the compiler
PLAIN = (bool, int, float, str, DType, Dim, Quotient, TensorType)


class Unspoken(Exception):
    """The graph holds what has no meaning outside this process: a user's own op, or an object."""


def digest_of(graph: Graph) -> bytes:
    """32 bytes: of nodes in order of use, their attributes and types, and of what goes in and out.

    Raises: Unspoken where that is not all, as with an op that is defined outside graphc.
    """
    speaker = Speaker({cell: place for place, cell in enumerate(graph.cells())})
    speaker.graph(graph)
    return digest("\n".join(speaker.parts).encode())


class Speaker:
    """Spells graphs; `parts` is what was said.  Ops and types, of which there are few, are looked at once."""

    def __init__(self, cells: Mapping[Cell, int]) -> None:
        self.cells, self.parts = cells, list[str]()
        self.known: set[Op] = set()
        self.types: dict[int, str] = {}  # by identity: nodes hold them
        self.serial: dict[Any, int] = {}  # which number of its kind it is, in order of use

    def graph(self, graph: Graph) -> None:
        places = {node: place for place, node in enumerate(graph.nodes)}
        inputs = {node: place for place, node in enumerate(graph.inputs)}
        say = self.parts.append
        for node in graph.nodes:
            op = node.op
            if op not in self.known:
                self.check(op)
            attributes = self.attributes(node, inputs) if node.attributes else ""
            say(f"{op.name} {[places[i] for i in node.inputs]} {attributes} {[self.type(t) for t in node.types]}")
            for inner in node.graphs:
                say("graph")
                self.graph(inner)
        say(f"inputs {[places[node] for node in graph.inputs]} outputs {[places[node] for node in graph.outputs]} updates "
            f"{[(self.cell(cell), places[value]) for cell, value in graph.updates]}")

    def check(self, op: Op) -> None:
        if not is_own(op):
            raise Unspoken(f"the op {op.name} is defined outside graphc")
        self.known.add(op)

    def type(self, type_: TensorType) -> str:
        said = self.types.get(id(type_))
        if said is None:
            said = self.types[id(type_)] = str(type_)
        return said

    def attributes(self, node: Node, inputs: Mapping[Node, int]) -> list[tuple[str, Any]]:
        return [(name, inputs[node] if name == "symbol" and node in inputs else
                 self.serial.setdefault((name, value), len(self.serial)) if name in node.op.serial else self.value(value))
                for name, value in node.attributes.items() if name not in node.op.aside]

    def cell(self, cell: Cell) -> int:
        return self.cells[cell]

    def value(self, value: Any) -> Any:
        """Something whose spelling says it all."""
        if value is None or isinstance(value, PLAIN):
            return type(value).__name__, value.hex() if isinstance(value, float) else str(value)
        if isinstance(value, tuple):
            return tuple(map(self.value, value))
        if isinstance(value, Cell):
            return self.cell(value)
        if isinstance(value, np.ndarray):
            content = np.ascontiguousarray(value).tobytes()
            return value.dtype.str, value.shape, content if value.size <= SMALL else digest(content)
        raise Unspoken(f"an attribute is a {type(value).__name__}")


def is_own(op: Op) -> bool:
    """Whether all that decides the op's code is graphc's own."""
    match op.kind:
        case Kind.MAP:
            needed = [op.scalar]
        case Kind.REDUCE | Kind.PREFIX:
            needed = [op.fold.identity, op.fold.combine, op.fold.lift]
        case Kind.VIEW:
            needed = [op.index]
        case Kind.ROUTINE:
            needed = [op.routine]
        case Kind.COMPOSITE:
            needed = [op.expand]
        case _:
            needed = [op.infer]
    return is_graphcs(*needed)


def is_graphcs(*found: Any) -> bool:
    """Whether functions and classes are graphc's own; None stands for none."""
    return all(one is None or (getattr(one, "__module__", None) or "").startswith(OWN) for one in found)
