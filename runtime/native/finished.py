"""Finished tiles of a contraction, and what is done with them, or instead of them where a mask hides them.

Knows places of tiles.  Must not know how sums come to be, or what a tile is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.runtime.native.axes import EXCHANGED
from graphc.runtime.native.emit import Function, Value
from graphc.runtime.native.needed import Diagonal

from graphc.records import NamedTuple


class Tile(NamedTuple):
    """A finished tile: `rows` by `columns` sums, row-major from `pointer` with `stride` elements between rows.

    Element (r, j) belongs to the flattened indices (i0 + r, j0 + j) of m and n and to the flattened `batch` index.
    Tiles that cover the same rows share `row_part`, those that cover the same columns `column_part`.
    """

    pointer: Value
    stride: int
    rows: Value
    columns: Value
    i0: Value
    j0: Value
    batch: Value
    row_part: Value
    column_part: Value
    width: int  # the most columns that any tile has

    def turned(self, pointer: Value, stride: int, width: int) -> Tile:
        """Its transpose, which lies somewhere else."""
        return Tile(pointer, stride, self.columns, self.rows, self.j0, self.i0, self.batch, self.column_part, self.row_part,
                    width)


Finish = Callable[[Function, Tile], None]
Prefetch = Callable[[Function, Tile], Sequence[tuple[Value, int]]]


class Hidden(NamedTuple):
    """Where a mask hides tiles: beyond one of these diagonals nothing is computed, but `fill` is called."""

    diagonals: tuple[Diagonal, ...]
    fill: Finish | None = None


def turned_hidden(hidden: Hidden) -> Hidden:
    """What is hidden where m and n exchange their roles."""
    diagonals = tuple((EXCHANGED[x], EXCHANGED[y], offset) for x, y, offset in hidden.diagonals)
    fill = hidden.fill
    if fill is None:
        return Hidden(diagonals)

    def turn(f: Function, tile: Tile) -> None:
        fill(f, tile.turned(tile.pointer, tile.stride, tile.width))

    return Hidden(diagonals, turn)
