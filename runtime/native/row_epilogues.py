"""Folds behind a contraction over complete rows: softmax, layer norm or a row's sum, done by what any ROWS kernel does.

Knows tiles that have all columns of their rows.  Must not know op names, or how a contraction is blocked.
"""

from __future__ import annotations

from math import prod

from graphc.index import linear
from graphc.ir import Node
from graphc.records import replace

from .addresses import Memory
from .contract import Contraction, Tile
from .emit import Function
from .folds import passes_of
from .loops import Work
from .rows import Rows
from .scopes import LoweringError, Scope
from .values import Value, i64


class RowEpilogue:
    """Folds over complete rows of a contraction, with the maps before, between and after them."""

    streams: tuple = ()

    def __init__(self, w: Work, node: Node, c: Contraction, private: int) -> None:
        self.w, self.node, self.c = replace(w, private=w.f.offset(w.private, i64(private), "i8")), node, c
        e, space, axes = w.elements, w.kernel.space, w.kernel.axes
        self.place = lambda indices: linear([indices[a] for a in axes], [space[a] for a in axes])
        e.memory[node] = Memory(Value("null", "ptr"), self.place, int(node.type.size))  # set for each row
        self.rows = Rows(self.w, passes_of(w.kernel))
        position = self.rows.k * prod(c.n) + self.rows.place
        for roots in self.rows.roots:
            for key in e.reachable(roots):
                if key[0] is node and linear(key[1], node.shape) != position:
                    raise LoweringError(f"{w.kernel!r}: the contraction is read elsewhere than at its own position")

    def finish(self, f: Function, tile: Tile) -> None:
        e = self.w.elements
        first = f.add(f.mul(tile.batch, i64(prod(self.c.m))), tile.i0)
        with e.inside(Scope()):
            for roots in self.rows.roots:
                e.hoist(roots)
            with f.loop(i64(0), tile.rows) as r:
                line = f.offset(tile.pointer, f.mul(r, i64(tile.stride)), self.c.dtype)
                e.memory[self.node] = Memory(line, self.place, int(self.node.type.size))
                self.rows.emit_row(f.add(first, r))
        del e.memory[self.node]

    def complete(self) -> None:
        """Nothing is left after the last row."""
