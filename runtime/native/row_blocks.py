"""Blocks of rows: the folds of several rows are finished together, and numbers of whole rows are computed in vectors.

Summing up the lanes of one row is a chain of dependent shuffles, and a row's logarithm or reciprocal one long scalar
computation: where rows are short, they cost more than the row itself.  Here every row of a block leaves its lanes in scratch;
a transposing tree joins them for all rows at once, lane i of the result belonging to row i; numbers of whole rows are computed
from that in vectors, and the next level's rows read theirs back.  The lanes of a row are joined in the same pairs as
`loops.across_lanes` joins them, so a row's bits do not depend on its block.

Knows the scratch of a block.  Must not know op names, buffers or how threads are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.ir import Node
from graphc.plan import align

from .addresses import memory_type
from .folds import BLOCK_LANES, INVARIANTS, Folding, numbers_bytes
from .loops import State, Work
from .recipes import Action, Key
from .scopes import Scope
from .values import SIZES, Value, i64, vector

if TYPE_CHECKING:
    from .rows import Rows

SLOT = 8 * BLOCK_LANES  # bytes of one number for each row


class RowBlocks:
    """Rows, `size` at a time."""

    def __init__(self, rows: Rows, size: int) -> None:
        self.rows, self.size = rows, min(size, rows.w.elements.lanes)
        self.w: Work = rows.w
        self.variable = next(iter(rows.k.variables()))
        passes = rows.passes
        most = max(sum(len(r.types) for r in level) for level in passes.reductions)
        self.parts = self.w.private
        self.numbers = self.w.f.offset(self.w.private, i64(most * BLOCK_LANES * SLOT), "i8")
        self.slots: dict[Node | Key, int] = {}
        self.lines = self.w.f.offset(self.numbers, i64((len(passes.all) + INVARIANTS) * SLOT), "i8")
        self.line_bytes = numbers_bytes(passes.reduced_count)

    def emit(self, low: Value, high: Value) -> None:
        """Blocks low to high."""
        w, f, e = self.w, self.w.f, self.w.elements
        count = self.rows.passes.kept_count
        plan = self.rows.values_to_save()
        with f.loop(low, high) as number:
            base = f.mul(number, i64(self.size))
            end = f.minimum(f.add(base, i64(self.size)), i64(count))
            mask = None if count % self.size == 0 and self.size == e.lanes else w.tail_mask(f.sub(end, base))
            whole = Scope({self.variable: base}, self.variable, mask)  # lanes are rows: never around the loops over rows
            for p, level in enumerate(self.rows.passes.reductions):
                with e.inside(whole):
                    self.keep_invariants(p, base)
                folding = self.rows.folding(p)
                self.each_row(p, folding, base, end, plan)
                if level:
                    with e.inside(whole):
                        values = folding.results(self.joined(folding))
                    whole.values.update(values)
                    for node, value in values.items():
                        self.keep(node, value)
            with e.inside(whole):
                self.rows.store_kept()
        e.saved.clear()

    # -- numbers of whole rows -----------------------------------------------------------------------------------

    def slot(self, name: Node | Key) -> Value:
        """The address of the block's first number."""
        place = self.slots.setdefault(name, len(self.slots))
        return self.w.f.offset(self.numbers, i64(place * SLOT), "i8")

    def keep(self, node: Node, value: Value) -> None:
        if value.element == "i1":
            value = self.w.f.convert("zext", value, "i8")
        self.w.f.store(value, self.slot(node))

    def keep_invariants(self, p: int, base: Value) -> None:
        """What level p reads of whole rows, and would else compute row by row."""
        f, e = self.w.f, self.w.elements
        varying = self.rows.inner.variables() | self.rows.outer.variables()
        for key in self.invariants(p, varying)[:INVARIANTS - sum(not isinstance(n, Node) for n in self.slots)]:
            pointer = f.offset(self.slot(key), f.sub(i64(0), base), memory_type(key[0]))
            e.store(key[0], e.emit([key])[0], pointer, self.rows.k)
            e.saved[key] = (pointer, self.rows.k)

    def invariants(self, p: int, varying: set) -> list[Key]:
        """Elements that depend on the row alone, read by such as depend on the place in it."""
        e = self.w.elements
        found: dict[Key, None] = {}
        stack, seen = list(self.rows.roots[p]), set()
        while stack:
            key = stack.pop()
            if key in seen or key in e.saved:
                continue
            seen.add(key)
            step = e.step(key)
            if step.variables & varying or not step.variables:
                stack.extend(step.operands)
            elif step.action in (Action.SCALAR, Action.GUARDED, Action.GATHER) and self.variable in step.variables:
                found[key] = None
        return list(found)

    # -- rows ------------------------------------------------------------------------------------------------------

    def each_row(self, p: int, folding: Folding, base: Value, end: Value, plan: list[tuple[int, Key, int]]) -> None:
        w, f, e, rows = self.w, self.w.f, self.w.elements, self.rows
        lanes = e.lanes
        with f.loop(base, end) as row:
            number = f.sub(row, base)
            with e.inside(Scope({self.variable: row})) as scope:
                for r in rows.passes.all:
                    if r.node in self.slots:
                        scope.values[r.node] = self.number(r.node, number)
                for place, (first, key, _) in enumerate(plan):
                    if first < p:
                        e.saved[key] = (self.line(key, place, number), rows.place)
                saves = [(key, self.line(key, place, number), rows.place)
                         for place, (first, key, _) in enumerate(plan) if first == p]
                e.emit([k for k, (_, index) in e.saved.items() if index is rows.k])
                e.hoist(rows.roots[p])
                states = w.sweep(rows.inner, i64(0), i64(rows.inner_count), rows.costs[p], rows.body(p, folding, saves),
                                 folding.initial)
                if folding.reductions:
                    for place, value in enumerate(folding.tree(states)):
                        value = value if value.lanes else f.broadcast(value, lanes)
                        if value.element == "i1":
                            value = f.convert("zext", value, "i8")
                        f.store(value, f.offset(self.part(place), f.mul(number, i64(lanes)), value.element))

    def number(self, node: Node, row: Value) -> Value:
        f, type_ = self.w.f, memory_type(node)
        value = f.load(f.offset(self.slot(node), row, type_), type_)
        return f.compare("icmp ne", value, Value("0", "i8")) if node.dtype.is_bool else value

    def line(self, key: Key, place: int, row: Value) -> Value:
        """Scratch for one value of all elements of a row."""
        f = self.w.f
        size = align(SIZES[memory_type(key[0])] * self.rows.passes.reduced_count)
        start = f.offset(self.lines, i64(place * self.size * self.line_bytes), "i8")
        return f.offset(start, f.mul(row, i64(size)), "i8")

    # -- lanes of all rows -----------------------------------------------------------------------------------------

    def part(self, place: int) -> Value:
        return self.w.f.offset(self.parts, i64(place * BLOCK_LANES * SLOT), "i8")

    def joined(self, folding: Folding) -> State:
        """One state per row, side by side in lanes."""
        f = self.w.f
        lanes = self.w.elements.lanes
        types = [t for r in folding.reductions for t in r.types]
        states = []
        for row in range(self.size):
            state = []
            for place, type_ in enumerate(types):
                memory = "i8" if type_ == "i1" else type_
                value = f.load(f.offset(self.part(place), i64(row * lanes), memory), vector(lanes, memory))
                state.append(f.compare("icmp ne", value, Value("zeroinitializer", value.type)) if type_ == "i1" else value)
            states.append(state)
        group = lanes
        while group > 1:
            half = group // 2
            if len(states) > 1:
                states = [self.halves(folding, a, b, group, half) for a, b in zip(states[::2], states[1::2], strict=True)]
            else:
                states = [self.halves(folding, states[0], None, group, half)]
            group = half
        return [self.widened(v, lanes) for v in states[0]]

    def halves(self, folding: Folding, a: State, b: State | None, group: int, half: int) -> State:
        """The two halves of every group of lanes joined; those of `b` behind those of `a`."""
        f = self.w.f
        count = a[0].lanes
        starts = [s for own in ((0,) if b is None else (0, count)) for s in range(own, own + count, group)]
        sides = []
        for side in (0, half):
            order = [s + side + i for s in starts for i in range(half)]
            sides.append([f.shuffle(x, order, None if b is None else b[i]) for i, x in enumerate(a)])
        return folding.combine(*sides)

    def widened(self, value: Value, lanes: int) -> Value:
        """A vector of one number per row of the block, with lanes that nobody reads behind."""
        if value.lanes == lanes:
            return value
        return self.w.f.shuffle(value, [i if i < value.lanes else None for i in range(lanes)])
