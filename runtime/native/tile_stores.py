"""Finished tiles as they are stored: at any strides, row by row, or turned where columns lie in the result as rows.

Knows tiles, strides and registers.  Must not know how sums come to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.runtime.native.axes import Contraction, adjacent, merge
from graphc.runtime.native.emit import SIZES, Function, Value, i64, vector
from graphc.runtime.native.finished import Finish, Tile
from graphc.runtime.native.overlap import FinishVector
from graphc.runtime.native.packing import across_lines, in_piece
from graphc.runtime.native.target import Target
from graphc.runtime.native.tile_operands import flat_offset

COLUMNS = (("source", "ptr"), ("apart", "i64"), ("rows", "i64"), ("columns", "i64"), ("to", "ptr"), ("stride", "i64"))


def turns_by_vectors(lanes: int, target: Target) -> bool:
    """Whether tiles are turned in registers: a column of a tile seldom fills a vector."""
    return target.has_masks and lanes > 1


def stores_columns(c: Contraction, lanes: int, target: Target) -> bool:
    """Whether a tile's columns lie in the result as rows, and are stored so."""
    return adjacent(merge(c.m, c.c_m)) and not adjacent(merge(c.n, c.c_n)) and turns_by_vectors(lanes, target)


def store_columns(f: Function, tile: Tile, dtype: str, lanes: int, to: Value, stride: Value) -> None:
    """Store each column of a tile as a row, `stride` elements apart: one function for all tiles of a type."""
    name = f"columns.{dtype}.{lanes}"
    if name not in f.module.functions:
        own = f.module.function(name, COLUMNS, attributes="noinline nounwind")
        source, apart, rows, columns, first, step = own.parameters

        def places(column: Value) -> list[Value]:
            others = [step] * (in_piece(dtype, lanes) - 1)
            return stepped(own, own.offset(first, own.mul(column, step), dtype), others, dtype)

        turn_squares(own, source, apart, rows, columns, dtype, lanes, places)
    f.call(name, [tile.pointer, i64(tile.stride), tile.rows, tile.columns, to, stride])


def stepped(f: Function, start: Value, steps: Sequence[Value], dtype: str) -> list[Value]:
    """Addresses one after the other, so many elements apart."""
    found = [start]
    for step in steps:
        found.append(f.offset(found[-1], step, dtype))
    return found


def turn_squares(f: Function, source: Value, stride: Value, row_count: Value, columns: Value, dtype: str, lanes: int,
                 places: Callable[[Value], list[Value]]) -> None:
    """Store each column of a tile as a row.

    places: where the rows of a column and of those after it begin, as many as `across_lines` turns at once.  Rows of the tile
    hold whole vectors; what is beyond its columns is read, and not stored.
    """
    none = Value("zeroinitializer", vector(lanes, "i1"))
    with f.loop(i64(0), row_count, lanes) as row:
        rows = f.sub(row_count, row)
        steps = [f.select(f.compare("icmp sgt", rows, i64(r)), stride, i64(0)) for r in range(1, lanes)]  # to no row beyond
        lines = stepped(f, f.offset(source, f.mul(row, stride), dtype), steps, dtype)
        there = f.lane_mask(rows, lanes)
        with f.loop(i64(0), columns, in_piece(dtype, lanes)) as first:
            left = f.sub(columns, first)
            for j, (values, place) in enumerate(zip(across_lines(f, lines, first, dtype), places(first), strict=True)):
                mask = f.select(f.compare("icmp sgt", left, i64(j)), there, none) if j else there
                f.masked_store(values, f.offset(place, row, dtype), mask)


def store_to(c_pointer: Value, c: Contraction, target: Target) -> Finish:
    """The finish that stores each tile at the strides of `c`, whatever they are."""
    m_axes, n_axes = merge(c.m, c.c_m), merge(c.n, c.c_n)
    batch_axes = merge(c.batch, c.c_batch)
    lanes = target.lanes(SIZES[c.dtype])
    by_columns = stores_columns(c, lanes, target)

    def store(f: Function, tile: Tile) -> None:
        base = f.offset(c_pointer, flat_offset(f, tile.batch, batch_axes), c.dtype)
        if by_columns and tile.stride % lanes == 0:
            base = f.offset(base, tile.i0, c.dtype)
            if len(n_axes) == 1:
                step = i64(n_axes[0][1])
                store_columns(f, tile, c.dtype, lanes, f.offset(base, f.mul(tile.j0, step), c.dtype), step)
            else:
                turn_squares(f, tile.pointer, i64(tile.stride), tile.rows, tile.columns, c.dtype, lanes, lambda column: [
                    f.offset(base, flat_offset(f, f.add(tile.j0, f.add(column, i64(j))), n_axes), c.dtype)
                    for j in range(in_piece(c.dtype, lanes))])
            return
        with f.loop(i64(0), tile.rows) as r:
            line = f.offset(base, flat_offset(f, f.add(tile.i0, r), m_axes), c.dtype)
            source = f.offset(tile.pointer, f.mul(r, i64(tile.stride)), c.dtype)
            start = i64(0)
            if len(n_axes) == 1 and n_axes[0][1] == 1:
                line = f.offset(line, tile.j0, c.dtype)
                type_ = f"<{lanes} x {c.dtype}>"
                start = f.mul(f.binary("udiv", tile.columns, i64(lanes)), i64(lanes))
                with f.loop(i64(0), start, lanes) as j:
                    f.store(f.load(f.offset(source, j, c.dtype), type_), f.offset(line, j, c.dtype))
                with f.loop(start, tile.columns) as j:
                    f.store(f.load(f.offset(source, j, c.dtype), c.dtype), f.offset(line, j, c.dtype))
            else:
                with f.loop(i64(0), tile.columns) as j:
                    value = f.load(f.offset(source, j, c.dtype), c.dtype)
                    f.store(value, f.offset(line, flat_offset(f, f.add(tile.j0, j), n_axes), c.dtype))

    return store


def store_vector_to(c_pointer: Value, c: Contraction, target: Target) -> FinishVector | None:
    """As `store_to`, a vector at a time; None where columns are not neighbours."""
    m_axes, n_axes, batch_axes = merge(c.m, c.c_m), merge(c.n, c.c_n), merge(c.batch, c.c_batch)
    if n_axes and not (len(n_axes) == 1 and n_axes[0][1] == 1):
        return None

    def store(f: Function, tile: Tile, row: Value, column: Value, mask: Value | None) -> None:
        source = f.offset(tile.pointer, f.add(f.mul(row, i64(tile.stride)), column), c.dtype)
        line = f.offset(c_pointer, flat_offset(f, tile.batch, batch_axes), c.dtype)
        line = f.offset(line, flat_offset(f, f.add(tile.i0, row), m_axes), c.dtype)
        place = f.offset(line, f.add(tile.j0, column), c.dtype)
        value = f.load(source, f"<{target.lanes(SIZES[c.dtype])} x {c.dtype}>")
        if mask is None:
            f.store(value, place)
        else:
            f.masked_store(value, place, mask)

    return store
