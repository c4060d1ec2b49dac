"""Folds behind a contraction: what is summed over a finished tile while it is in the first-level cache.

Knows three kinds.  Folds over the *columns* of a row work on complete rows, as any ROWS kernel does.  Folds over the
*rows* (the gradient of a bias) and *totals* over everything (a loss) leave one partial state for each tile in shared
scratch; after a barrier these are joined tile by tile.  Must not know op names, or how a contraction is blocked.

The tiles are the same for any number of threads, and so is the order of every sum.
"""

from __future__ import annotations

from math import prod

from graphc.garbage import remembered
from graphc.index import Index
from graphc.ir import Node
from graphc.op import Kind
from graphc.plan import Kernel
from graphc.records import NamedTuple

from .contract import Contraction, Tile, tile_parts
from .emit import Carried, Function
from .epilogues import Epilogue, computed_operands, contraction_in, contraction_node
from .folds import Folding, Reduction, numbers_bytes, reduction_of, reduction_scratch
from .loops import MODERATE, State, Work, bind
from .partials import Partials, Room, expect, store_joined
from .scopes import Scope
from .target import Target
from .values import Value, i64

ABREAST = 4  # vectors of a tile whose states stay in registers together


class TileFolds(NamedTuple):
    """The folds of a CONTRACT kernel by kind; `by_row` says that they are all over complete rows."""

    by_row: bool
    columns: tuple[Reduction, ...]
    totals: tuple[Reduction, ...]

    def __bool__(self) -> bool:
        return self.by_row or bool(self.columns or self.totals)

    @property
    def all(self) -> tuple[Reduction, ...]:
        return (*self.columns, *self.totals)


@remembered
def tile_folds(kernel: Kernel) -> TileFolds:
    found = [n for n in kernel.body.nodes if n.op.kind is Kind.REDUCE]
    last = max((a for a, size in enumerate(kernel.space) if size != 1), default=0)
    if last in kernel.axes:
        return TileFolds(bool(found), (), ())
    totals = [n for n in found if int(n.type.size) == 1]
    return TileFolds(False, tuple(reduction_of(n) for n in found if n not in totals), tuple(map(reduction_of, totals)))


class Parts(NamedTuple):
    """How many partial states there are: of a column, and of a total."""

    rows: int  # in one member of the batch
    columns: int
    batch: int
    dealt: bool  # members of the batch have columns of their own

    @property
    def of_column(self) -> int:
        return self.rows if self.dealt else self.batch * self.rows

    @property
    def of_total(self) -> int:
        return self.batch * self.rows * self.columns


def parts_of(c: Contraction, target: Target, loads: tuple[bool, bool]) -> Parts:
    return Parts(*tile_parts(c, target, load_a=loads[0], load_b=loads[1]), prod(c.batch), c.dealt)


def columns_of(c: Contraction) -> int:
    """Columns of which each has folds of its own."""
    return prod(c.n) * (prod(c.batch) if c.dealt else 1)


def fold_scratch(kernel: Kernel, target: Target) -> tuple[int, int]:
    """(private, shared) bytes that the folds of a CONTRACT kernel need."""
    folds = tile_folds(kernel)
    if not folds:
        return 0, 0
    if folds.by_row:
        return reduction_scratch(kernel, target, serial=True)
    c = contraction_in(kernel)[0]
    parts = parts_of(c, target, computed_operands(contraction_node(kernel)))
    states = sum(len(r.types) for r in folds.columns)
    totals = sum(len(r.types) for r in folds.totals)
    return 0, states * numbers_bytes(parts.of_column * columns_of(c)) + totals * numbers_bytes(parts.of_total)


class FoldingEpilogue(Epilogue):
    """Maps over a finished tile, with folds down its columns and over all of it."""

    def __init__(self, w: Work, node: Node, c: Contraction, labels: tuple[str, str, str]) -> None:
        self.folds = tile_folds(w.kernel)
        super().__init__(w, node, c, labels, [r.node.inputs[0] for r in self.folds.all])
        keys = dict(zip(self.folds.all, self.roots[len(self.outputs):], strict=True))
        row_position = self.row if c.dealt else self.item * prod(c.m) + self.row
        self.columns = Folding(w, self.folds.columns, [keys[r] for r in self.folds.columns], row_position)
        self.totals = Folding(w, self.folds.totals, [keys[r] for r in self.folds.totals], self.position)
        self.parts = parts_of(c, w.target, computed_operands(node))
        room = Room(w.f, w.shared)
        self.column_parts = Partials(w, self.columns, room, self.parts.of_column * columns_of(c))
        self.total_parts = Partials(w, self.totals, room, self.parts.of_total)

    def finish(self, f: Function, tile: Tile) -> None:
        """Vectors of columns, one after the other, each down all rows of the tile."""
        w, e = self.w, self.w.elements
        with e.inside(Scope(bind(self.item, tile.batch))):
            part, self.tile_item = f.add(f.mul(tile.batch, i64(self.parts.rows)), tile.row_part), i64(0)
            if self.parts.dealt:
                part, self.tile_item = tile.row_part, tile.batch
            corner = f.add(f.mul(tile.i0, i64(tile.stride)), tile.j0)
            first = f.offset(tile.pointer, f.sub(i64(0), corner), self.c.dtype)
            self.place_tile(first, self.row * tile.stride + self.column)
            e.steps.clear()  # whatever reads the tile depends on the row now
            if self.by_row:
                w.limit_lanes(prod(self.c.m))
                states = w.sweep(self.row, tile.i0, f.add(tile.i0, tile.rows), max(self.cost, 20), self.one,
                                 self.totals.initial)
            else:
                w.limit_lanes(prod(self.c.n))
                aligned = tile.columns.number is not None and tile.columns.number % e.lanes == 0
                vectors = -(-min(tile.width, prod(self.c.n)) // e.lanes)
                if (w.target.has_masks or aligned) and vectors <= ABREAST:
                    states = self.across(f, tile, part, vectors)
                else:
                    states = w.sweep(self.column, tile.j0, f.add(tile.j0, tile.columns), max(self.cost, MODERATE + 1),
                                     lambda state: self.down(f, tile, part, state), self.totals.initial, aligned=aligned)
            if self.totals.reductions:
                place = f.add(f.mul(part, i64(self.parts.columns)), tile.column_part)
                self.total_parts.store(self.totals.finish(states), place)
        del e.memory[self.node]

    def across(self, f: Function, tile: Tile, part: Value, vectors: int) -> list[State]:
        """Row by row, the states of all columns of the tile in registers."""
        w, e = self.w, self.w.elements
        lane = next(iter(self.column.variables()), None)
        scopes = []
        for v in range(vectors):
            left = f.sub(tile.columns, i64(v * e.lanes))
            whole = lane is None or (left.number is not None and left.number >= e.lanes)
            mask = None if whole else w.tail_mask(left)
            scopes.append(Scope(bind(self.column, f.add(tile.j0, i64(v * e.lanes))), lane, mask))
        lanes = e.lanes if lane is not None else 0
        initial = [*self.columns.initial(lanes), *self.totals.initial(lanes)]
        cut, size = len(self.columns.initial(lanes)), len(initial)
        carried = Carried(initial * vectors)
        with f.loop(i64(0), tile.rows, 1, carried) as r, e.inside(Scope(bind(self.row, f.add(tile.i0, r)))):
            e.hoist(self.roots)
            new: State = []
            for v, scope in enumerate(scopes):
                old = carried.values[v * size:(v + 1) * size]
                with e.inside(Scope(scope.bindings, scope.lane, scope.mask)):
                    state = self.one(old)
                    new += [*state[:cut], *w.merge(scope.mask, state[cut:], old[cut:])]
            carried.next = new
        for v, scope in enumerate(scopes):
            with e.inside(scope):
                self.store_columns(carried.results[v * size:v * size + cut], part)
        return [carried.results[v * size + cut:(v + 1) * size] for v in range(vectors)]

    def down(self, f: Function, tile: Tile, part: Value, state: State) -> State:
        """One vector of columns, row by row: its own states go to scratch, those of the totals go on."""
        e = self.w.elements
        own = self.columns.initial(e.lanes if e.lane is not None else 0)
        e.hoist(self.roots)
        carried = Carried([*own, *state])
        with f.loop(i64(0), tile.rows, 1, carried) as r, e.inside(Scope(bind(self.row, f.add(tile.i0, r)))):
            carried.next = self.one(carried.values)
        done = carried.results if carried.values else []
        self.store_columns(done[:len(own)], part)
        return done[len(own):]

    def store_columns(self, state: State, part: Value) -> None:
        """The columns' own states over the rows of one tile."""
        if state:
            f, e = self.w.f, self.w.elements
            place = f.add(f.mul(part, i64(columns_of(self.c))), e.first(self.column))
            self.column_parts.store(state, f.add(place, f.mul(self.tile_item, i64(prod(self.c.n)))))

    def one(self, state: State) -> State:
        """One vector of elements."""
        w, e = self.w, self.w.elements
        e.emit(self.roots)
        cut = len(state) - len(self.totals.initial(0))
        new = [*self.columns.combine(state[:cut], self.columns.lifted()),
               *self.totals.combine(state[cut:], self.totals.lifted())]
        w.store_all(self.outputs, self.roots[:len(self.outputs)], self.position)
        return new

    # -- after the last tile -----------------------------------------------------------------------------------

    def complete(self) -> None:
        """Joins the partial states in the order of the tiles, and computes what follows from them."""
        w, f, e = self.w, self.w.f, self.w.elements
        w.meet()
        full = {i for i, _ in self.outputs}
        outputs = [(i, n) for i, n in enumerate(w.kernel.body.outputs) if i not in full]
        count = columns_of(self.c)
        if self.columns.reductions:
            store_joined(w, self.column_parts, self.parts.of_column, count, [
                (i, n) for i, n in outputs if int(n.type.size) == count])
        if self.totals.reductions:
            mine = [(i, n) for i, n in outputs if int(n.type.size) == 1]
            with f.when(f.compare("icmp eq", w.threads.thread, i64(0))), e.inside(Scope()):
                keys = expect(w, self.totals, Index((), 0), mine)
                e.scopes[-1].values.update(self.total_parts.joined(self.parts.of_total, 1, i64(0)))
                w.store_all(mine, keys, Index((), 0))
