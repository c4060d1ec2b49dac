"""What a training step is derived from, as one digest: steps of one digest have the same gradients and updates.

Knows how the graph of a loss and the objects beside it are spelled, optimizers among them: by their class, which must be
graphc's own, and by what they declare.  Must not know how anything is derived.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cells import Cell
from .hashes import digest
from .identity import PLAIN, Speaker, Unspoken, is_graphcs
from .ir import Graph
from .op import Op
from .symbols import Parameter

Declared = Any  # numbers, strings, cells, parameters; tuples, lists and dicts of them; objects that declare such


class Declaration(Speaker):
    """Spells a graph and what stands beside it; `cells` are numbered as they are named.

    Raises: Unspoken for what has no meaning outside this process, or is not graphc's own code.
    """

    def __init__(self, graph: Graph, beside: Declared) -> None:
        super().__init__({})
        self.cells: dict[Cell, int]
        self.graph(graph)
        carriers = [(node.number, place) for place, node in enumerate(graph.nodes) if "cells" in node.attributes]
        self.parts.append(f"carriers {[place for _, place in sorted(carriers)]}")  # which compose in order of construction
        self.parts.append(repr(self.declared(beside)))

    def digest(self) -> bytes:
        return digest("\n".join(self.parts).encode())

    def check(self, op: Op) -> None:
        super().check(op)
        rules = op.vjp if isinstance(op.vjp, (tuple, list)) else [op.vjp]
        if op.aside or not is_graphcs(op.infer, op.passes, op.expand, *rules):
            raise Unspoken(f"the gradient of {op.name} may be the user's own")

    def cell(self, cell: Cell) -> int:
        place = self.cells.get(cell)
        if place is None:
            place = self.cells[cell] = len(self.cells)
            self.parts.append(f"cell {place} {cell.type} {cell.trainable}")
        return place

    def declared(self, value: Declared) -> Any:
        if isinstance(value, (Cell, Parameter)):
            return "cell", self.cell(value.cell if isinstance(value, Parameter) else value)
        if isinstance(value, (tuple, list)):
            return [self.declared(v) for v in value]
        if isinstance(value, dict):
            return [(self.declared(k), self.declared(v)) for k, v in value.items()]
        if isinstance(value, np.generic):
            return value.dtype.str, self.value(value.item())
        if value is None or isinstance(value, PLAIN):
            return self.value(value)
        kind = type(value)
        if not hasattr(value, "declared") or not is_graphcs(kind):
            raise Unspoken(f"{kind.__qualname__} is defined outside graphc")
        return f"{kind.__module__}.{kind.__qualname__}", self.declared(value.declared())
