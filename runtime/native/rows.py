"""Folds along rows: vectors run along the reduced axes, a row after the other; maps before, between and after the folds.

Knows what stays in registers or scratch between the levels of a row.  Must not know op names, buffers or how threads are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from graphc.index import Index
from graphc.ir import Node

from .across import Across
from .columns import Columns, emit_columns
from .emit import Carried
from .folds import (
    KEPT_VALUES,
    LARGE,
    SCRATCH_LIMIT,
    Chunks,
    Folding,
    Passes,
    Space,
    across_rows,
    block_rows,
    numbers_bytes,
    passes_of,
    row_chunks,
)
from .lines_ahead import ROWS_AHEAD, Line, LinesAhead
from .loops import CountingScalar, State, Work, affine_in, bind, is_straight, scalar_cost, variable_of
from .partials import Partials, Room, store_number
from .recipes import Action, Key
from .row_blocks import RowBlocks
from .row_ends import RowEnds
from .scopes import Scope
from .sharing import quotient
from .short_rows import LEAST_BLOCKS, MOST_PLACES, ShortRows
from .values import Value, i64

LEAST_WINDOWS = 4  # side by side
EXPENSIVE = 8  # operations that are worth a trip through row scratch
STRAIGHT = (4, 160)  # vectors of a row that stay in registers between levels, and their operations, at most
STRAIGHT_LARGE = (8, 400)  # likewise, where there is much to be done


class FunctionCounter(CountingScalar):
    SLOW = CountingScalar.SLOW | {"rsqrt"}


def is_function(node: Node) -> bool:
    """Whether a map takes a polynomial."""
    counter = FunctionCounter()
    node.op.scalar(counter, *[counter] * len(node.inputs), **node.attributes)
    return counter.total >= 16


def emit_rows(w: Work) -> None:
    """Folds along rows."""
    passes = passes_of(w.kernel)
    if passes.kept_count == 0:
        return
    if passes.summed:
        Rows(w, passes).emit()
        return
    windows = meets_windows(w, passes)
    rows = Rows(w, passes)
    if (short := rows.short()) is not None:
        short.emit()
    elif windows or across_rows(w.kernel, passes):
        emit_columns(w)
    else:
        rows.emit()


def meets_windows(w: Work, passes: Passes) -> bool:
    """Whether rows are windows that lie beside each other along the last kept axis, so that vectors run across them."""
    if not passes.kept_axes or passes.reduced_count > MOST_PLACES:
        return False
    columns, e = Columns(w, passes), w.elements
    roots = [k for roots in columns.roots for k in roots]
    if columns.inner.number is not None or columns.inner_count < LEAST_WINDOWS or columns.rest:
        return False
    lane, along = variable_of(columns.inner), [e.step(key) for key in e.reachable(roots)]
    factors = [s.place.factor(lane) for s in along if s.action is Action.LOAD]
    return bool(factors) and any(factors) and all(factor in (0, 1, 2) for factor in factors)


class Rows:
    """Vectors along the reduced axes."""

    def __init__(self, w: Work, passes: Passes) -> None:
        self.w, self.passes = w, passes
        self.k = Index.variable("k", passes.kept_count)
        sizes = [w.kernel.space[a] for a in passes.axes]
        for depth in range(len(sizes), 0, -1):
            self.outer_count, self.inner_count = prod(sizes[:len(sizes) - depth]), prod(sizes[len(sizes) - depth:])
            self.outer = Index.variable("ro", self.outer_count)
            self.inner = Index.variable("ri", self.inner_count)
            self.place = self.outer * self.inner_count + self.inner
            self.space = Space(w, passes, self.k, self.place)
            w.elements.steps.clear()
            self.space.declare()
            self.roots = [self.space.roots(p) for p in range(len(passes.reductions))]
            if all(affine_in(w.elements, roots, self.inner) for roots in self.roots):
                break
        w.limit_lanes(self.inner_count)
        self.costs = [w.body_cost(roots) + 2 * len(level) + 4 * len(down)
                      for roots, level, down in zip(self.roots, passes.reductions, passes.across, strict=True)]
        self.chunks = None if w.threads.serial else row_chunks(passes)
        if self.outer_count > 1:
            self.chunks = None
        self.across = Across(self) if passes.summed else None
        self.ends = RowEnds.of(self)

    @property
    def ahead(self) -> LinesAhead:
        """What is fetched before it is needed.  Not kept: it knows these rows."""
        return LinesAhead(self)

    def short(self) -> ShortRows | None:
        """How rows are done, as many at once as a vector has lanes; None where they are too long, too dear or too few."""
        w = self.w
        if (self.outer_count == 1 < self.inner_count <= MOST_PLACES and w.target.has_masks
                and self.passes.kept_count >= LEAST_BLOCKS * w.full_lanes):
            rows = ShortRows(self)
            return rows if rows.pays else None
        return None

    def emit(self) -> None:
        w, e = self.w, self.w.elements
        for roots in self.roots:
            e.hoist(roots)
        if self.chunks is not None:
            self.emit_chunked(self.chunks)
            return
        block = block_rows(w.kernel, self.passes)
        whole = w.target.has_masks or self.inner_count % e.lanes == 0
        few = self.inner_count <= STRAIGHT[0] * e.lanes or len(self.passes.reductions) == 1
        if self.ahead.large and self.inner_count >= 2 * e.lanes and self.is_straight() and not self.ends_matter():
            few = False  # rows in registers are fetched sooner
        if block > 1 and self.inner.number is None and self.outer_count == 1 and few and whole:
            blocks = RowBlocks(self, block)
            self.share_out(blocks.emit, blocks.size)
        else:
            self.share_out(self.each_row, 1)

    def share_out(self, emit: Callable[[Value, Value], None], size: int) -> None:
        """emit(low, high) for this thread's share of `size` rows each, and where columns are summed up group by group."""
        if self.across is not None:
            self.across.emit(emit, size)
            return
        with self.w.ranges(-(-self.passes.kept_count // size)) as bounds:
            emit(*bounds)

    def each_row(self, low: Value, high: Value) -> None:
        with self.w.f.loop(low, high) as row:
            self.emit_row(row)

    def ends_matter(self) -> bool:
        """Whether whole rows have numbers that are functions of others, or positions: in scalars, as long as a short row."""
        e = self.w.elements
        if any(r.positioned for r in self.passes.all):
            return True
        keys = [*(k for roots in self.roots for k in roots), *(self.space.kept_key(n) for _, n in self.passes.kept)]
        inside = self.inner.variables() | self.outer.variables()
        return any(is_function(key[0]) for key in e.reachable(keys)
                   if e.step(key).action is Action.SCALAR and not e.step(key).variables & inside)

    def is_straight(self) -> bool:
        """Whether a row is written straight on, without loops."""
        lanes = self.w.elements.lanes
        vectors = -(-self.inner_count // lanes)
        whole = self.w.target.has_masks or self.inner_count % lanes == 0
        most, code = STRAIGHT_LARGE if self.passes.kept_count * self.passes.reduced_count >= LARGE else STRAIGHT
        return (self.outer_count == 1 and vectors <= most and whole and sum(self.costs) * vectors <= code
                and self.passes.reduced_count > 0)

    def emit_row(self, row: Value) -> None:
        """One row: all its folds and outputs."""
        e = self.w.elements
        with e.inside(Scope(bind(self.k, row))):
            if self.is_straight():
                self.straight_row(-(-self.inner_count // e.lanes))
            else:
                self.looped_row()
            self.store_kept()

    def store_kept(self) -> None:
        w, kept = self.w, self.passes.kept
        if kept:
            w.store_all(kept, [self.space.kept_key(n) for _, n in kept], self.k)

    def folding(self, p: int) -> Folding:
        level = self.passes.reductions[p]
        return Folding(self.w, level, self.roots[p][:len(level)], self.place)

    def store_full(self, p: int) -> None:
        """What pass p leaves of an element, or of a vector of them."""
        level, full = self.passes.reductions[p], self.passes.full[p]
        self.w.store_all(full, self.roots[p][len(level):len(level) + len(full)], self.space.position)
        if self.across is not None:
            self.across.add(p)

    def straight_row(self, vectors: int) -> None:
        """A row that fits a few registers: no loop, and values stay from level to level."""
        w, e = self.w, self.w.elements
        lanes = e.lanes
        if len(self.roots) > 1:
            self.ahead.fetch(ROWS_AHEAD, self.inner_count)
        scopes = []
        for v in range(vectors):
            left = self.inner_count - v * lanes
            lane = None if self.inner.number is not None else next(iter(self.inner.variables()))
            mask = None if left >= lanes or lane is None else w.tail_mask(i64(left))
            scopes.append(Scope(bind(self.inner, i64(v * lanes)), lane, mask, even=True))
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            e.hoist(self.roots[p])
            states = []
            for scope in scopes:
                with e.inside(scope):
                    e.emit(self.roots[p])
                    if level:
                        lifted = folding.lifted()
                        states.append(w.merge(scope.mask, lifted, folding.initial(lanes)))
                    self.store_full(p)
            if level:
                e.scopes[-1].values.update(folding.results(folding.finish(states)))

    def looped_row(self) -> None:
        """One loop per level; expensive values that a later level needs again wait in row scratch or where outputs will be."""
        w, e = self.w, self.w.elements
        plan = [(first, key, self.scratch(offset), self.place) for first, key, offset in self.values_to_save()]
        plan = plan or self.values_in_outputs()
        low, high = (i64(0), i64(self.inner_count)) if self.ends is None else self.ends.needed()
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            e.hoist(self.roots[p])
            saves = [(key, pointer, place) for first, key, pointer, place in plan if first == p]
            body = self.body(p, folding, saves, self.ahead.beside(p))
            if self.outer_count == 1:
                states = w.sweep(self.inner, low, high, self.costs[p], body, folding.initial,
                                 aligned=self.inner_count % e.lanes == 0, even=True)
            else:
                states = self.outer_sweep(folding, p, body)
            for key, pointer, place in saves:
                e.saved[key] = (pointer, place)
            if level:
                e.scopes[-1].values.update(folding.results(folding.finish(states)))
        e.saved.clear()
        if self.ends is not None:
            self.ends.fill(low, high)

    def body(self, p: int, folding: Folding, saves: Sequence[tuple[Key, Value, Index]],
             ahead: Sequence[Line] = ()) -> Callable[[State], State]:
        """What pass p does with one vector of a row."""
        e = self.w.elements

        def one(state: State) -> State:
            for start, scalar, write in ahead:
                self.w.f.prefetch(self.w.f.offset(start, e.first(self.inner), scalar), write=write)
            e.emit(self.roots[p])
            new = folding.append(state, folding.lifted()) if folding.reductions else []
            for key, pointer, place in saves:
                e.store(key[0], e.emit([key])[0], pointer, place)
            self.store_full(p)
            return new

        return one

    def scratch(self, offset: int) -> Value:
        return self.w.f.offset(self.w.private, i64(offset), "i8")

    def outer_sweep(self, folding: Folding, p: int, body: Callable[[State], State]) -> list[State]:
        """The sweep inside a loop over the outer reduced axes: one state goes through all of it."""
        w, f, e = self.w, self.w.f, self.w.elements
        carried = Carried(folding.initial(0))
        with f.loop(0, self.outer_count, 1, carried) as line, e.inside(Scope(bind(self.outer, line))):
            e.hoist(self.roots[p])
            states = w.sweep(self.inner, i64(0), i64(self.inner_count), self.costs[p], body, folding.initial,
                             straight=is_straight(w, self.roots[p], self.inner_count))
            if folding.reductions:
                carried.next = folding.combine(carried.values, folding.finish(states))
        return [carried.results]

    def values_to_save(self) -> list[tuple[int, Key, int]]:
        """(pass that computes it, element, where in row scratch it is kept) of expensive values that a later pass reads."""
        row_bytes = numbers_bytes(self.passes.reduced_count)
        if KEPT_VALUES * row_bytes > 4 * SCRATCH_LIMIT:
            return []
        return [(first, key, i * row_bytes) for i, (first, key) in enumerate(self.values_needed_again()[:KEPT_VALUES])]

    def values_in_outputs(self) -> list[tuple[int, Key, Value, Index]]:
        """(pass that computes it, element, where it is kept) likewise, where the last pass will write an output of its type."""
        places = {w for w, _ in self.w.kernel.in_place}
        free = [(w, n) for w, n in self.passes.full[-1] if w not in places]
        result = []
        for first, key in self.values_needed_again():
            fitting = next(((w, n) for w, n in free if n.dtype == key[0].dtype and n.type.size == key[0].type.size), None)
            if fitting is not None:
                free.remove(fitting)
                result.append((first, key, self.w.writes[fitting[0]], self.space.position))
                self.w.elements.past -= {self.w.writes[fitting[0]].name}  # it is read again
        return result

    def values_needed_again(self) -> list[tuple[int, Key]]:
        """(pass that computes it, element) of expensive values that a later pass reads."""
        e = self.w.elements
        if len(self.roots) < 2:
            return []
        varying = self.outer.variables() | self.inner.variables()
        computed: dict[Key, int] = {}
        chosen: dict[Key, int] = {}
        for p, roots in enumerate(self.roots):
            stack, seen = list(roots), set()
            while stack:
                key = stack.pop()
                if key in seen:
                    continue
                seen.add(key)
                step = e.step(key)
                if (key in computed and step.action is Action.SCALAR and step.variables & varying
                        and self.cone_cost(key) >= EXPENSIVE):
                    chosen.setdefault(key, computed[key])
                    continue
                stack.extend(step.operands)
            for key in e.reachable(roots):
                computed.setdefault(key, p)
        return [(first, key) for key, first in chosen.items()]

    def cone_cost(self, key: Key) -> int:
        return sum(scalar_cost(k[0]) for k in self.w.elements.reachable([key]))

    # -- few long rows -----------------------------------------------------------------------------------------

    def emit_chunked(self, chunks: Chunks) -> None:
        """Chunks of rows to all threads, as many rows at a time as a cache keeps from one pass to the next; their partial
        results are joined by every thread for itself, in order."""
        w, f, e = self.w, self.w.f, self.w.elements
        rows = self.passes.kept_count
        shared, private = Room(f, w.shared), Room(f, w.private)
        plan, group = self.values_in_outputs(), self.rows_in_cache()
        with f.loop(0, rows, group) as first, e.inside(Scope()):
            end = f.minimum(f.add(first, i64(group)), i64(rows))
            for p, level in enumerate(self.passes.reductions):
                if not level and not self.passes.full[p]:
                    continue
                partials = Partials(w, self.folding(p), shared, rows * chunks.count)
                saves = [(key, pointer, place) for at, key, pointer, place in plan if at == p]
                self.swept_chunks(p, chunks, partials, saves, first, group)
                e.saved.update({key: (pointer, place) for key, pointer, place in saves})
                if not level:
                    continue
                w.meet()
                results = private.results(level, rows)
                with f.loop(first, end) as row:
                    start = f.mul(row, i64(chunks.count))
                    for node, value in partials.joined(chunks.count, 1, start).items():
                        store_number(w, value, results[node], row)
                self.space.settle(results)
                self.roots = [self.space.roots(q) for q in range(len(self.passes.reductions))]
            if group < rows and w.took_turns:
                w.meet()
        e.saved.clear()
        if self.passes.kept:
            with f.when(f.compare("icmp eq", w.threads.thread, i64(0))), f.loop(0, rows) as row, e.inside(
                    Scope(bind(self.k, row))):
                self.store_kept()

    def rows_in_cache(self) -> int:
        """How many rows fill half of the second-level cache with all that they read and write; all where they are read once."""
        rows, kernel = self.passes.kept_count, self.w.kernel
        if len(self.passes.reductions) < 2:
            return rows
        full = rows * self.passes.reduced_count
        each = sum(b.type.dtype.itemsize for b in (*kernel.reads, *kernel.writes) if int(b.type.size) == full)
        return max(1, min(rows, self.w.target.l2_bytes // 2 // max(1, each * self.passes.reduced_count)))

    def swept_chunks(self, p: int, chunks: Chunks, partials: Partials, saves: Sequence[tuple[Key, Value, Index]],
                     first: Value, group: int) -> None:
        """Pass p over the chunks of `group` rows, or as many as there are, beginning with the first one."""
        w, f, e, folding = self.w, self.w.f, self.w.elements, partials.folding
        rows, length = self.passes.kept_count, self.passes.reduced_count
        with w.ranges(group * chunks.count) as (low_item, high_item):
            if rows % group:
                high_item = f.minimum(high_item, f.mul(f.sub(i64(rows), first), i64(chunks.count)))
            with f.loop(low_item, high_item) as item:
                row, chunk = quotient(f, item, chunks.count)
                row = f.add(first, row)
                low = f.mul(chunk, i64(chunks.size))
                high = f.minimum(f.add(low, i64(chunks.size)), i64(length))
                with e.inside(Scope(bind(self.k, row))):
                    e.hoist(self.roots[p])
                    states = w.sweep(self.inner, low, high, self.costs[p], self.body(p, folding, saves), folding.initial,
                                     aligned=length % e.lanes == 0 and chunks.size % e.lanes == 0,
                                     even=chunks.size % e.lanes == 0)
                    if folding.reductions:
                        partials.store(folding.finish(states), f.add(f.mul(row, i64(chunks.count)), chunk))
