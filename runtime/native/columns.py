"""Folds down columns: vectors run across results, the reduced axes are the loop.

Knows how columns are shared among threads and long ones cut.  Must not know op names, buffers or how threads are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod

from graphc.index import Index, Variable
from graphc.ir import Node
from graphc.plan import Form

from .elements import Elements
from .emit import Carried
from .folds import LARGE, Chunks, Folding, Passes, Space, column_chunks, numbers_bytes, passes_of
from .loops import MOST_CODE, MOST_VECTORS, OF_LOAD, State, Work, affine_in, bind
from .partials import Partials, Room, store_number
from .recipes import Action, Key
from .scopes import Scope
from .sharing import quotient
from .values import Value, i64

ROWS_OF_STRIPE = 8  # that are read side by side
STRIPE = 128  # vectors of columns of which some rows are read before the next rows: their states stay in the first-level cache
LEAST_STRIPES = 4  # for threads to share, where rows are not cut into chunks
OF_PLACE = 3  # instructions of a division by a constant, or of a mask
CHEAP_COLUMNS = 8  # operations per element up to which rows are unrolled
BLOCKS = ((CHEAP_COLUMNS, 4, 16), (3 * CHEAP_COLUMNS, 2, 8))  # operations: vectors of a block of long rows, and of short ones


def place_cost(e: Elements, roots: Sequence[Key]) -> int:
    """Instructions for the places that elements are read from, as far as they take divisions or comparisons."""
    steps = [e.step(key) for key in e.reachable(roots)]
    divided = sum(not isinstance(term, Variable) for s in steps for term, _ in s.place.terms)
    return OF_PLACE * (divided + sum(len(s.guard) for s in steps))


def emit_columns(w: Work) -> None:
    """Folds across rows."""
    passes = passes_of(w.kernel)
    if passes.kept_count == 0:
        return
    Columns(w, passes).emit()


class Columns:
    """Vectors along kept axes, the reduced axes as a loop inside; a block of columns at a time."""

    def __init__(self, w: Work, passes: Passes) -> None:
        self.w, self.passes = w, passes
        e = w.elements
        self.r = Index.variable("r", passes.reduced_count)
        sizes = [w.kernel.space[a] for a in passes.kept_axes]
        for depth in range(len(sizes), 0, -1):
            cut = len(sizes) - depth
            self.outer_count, self.inner_count = prod(sizes[:cut]), prod(sizes[cut:])
            self.outer = Index.variable("ko", self.outer_count)
            self.inner = Index.variable("ki", self.inner_count)
            self.k = self.outer * self.inner_count + self.inner
            self.space = Space(w, passes, self.k, self.r)
            e.steps.clear()
            self.space.declare()
            self.roots = [self.space.roots(p) for p in range(len(passes.reductions))]
            keys = [*(k for roots in self.roots for k in roots), *(self.space.kept_key(n) for _, n in passes.kept)]
            if affine_in(e, keys, self.inner):
                break
        w.limit_lanes(self.inner_count)
        self.cost = max((w.body_cost(roots) + place_cost(e, roots) + 2 for roots in self.roots), default=0)
        self.chunks = None if w.threads.serial else column_chunks(passes)
        lanes = e.lanes
        masks = w.target.has_masks
        self.vectors = vectors = -(-self.inner_count // lanes) if masks else self.inner_count // lanes
        components = max(len(self.folding(p).types) for p in range(len(self.roots)))
        most = self.block_vectors(vectors, w.target.registers // 2 // max(1, components))
        if masks:
            blocks = max(1, -(-vectors // most))
            self.width = max(1, -(-vectors // blocks))
        else:
            self.width = max((b for b in range(1, most + 1) if vectors % b == 0), default=1)
        self.rest = 0 if masks else self.inner_count - vectors * lanes  # columns that no vector covers
        self.straight = self.is_straight()
        if self.straight and vectors <= MOST_VECTORS:  # which lanes a guard holds for is known then
            self.width = max(1, vectors)
        self.stripe = 0 if self.straight else self.blocks_of_stripe(-(-vectors // self.width))

    def is_straight(self) -> bool:
        """Whether the few rows are written one after the other: windows, whose places are numbers then."""
        e, kernel = self.w.elements, self.w.kernel
        loads = sum(e.step(key).action is Action.LOAD for roots in self.roots for key in e.reachable(roots))
        code = self.passes.reduced_count * (self.cost * len(self.roots) + OF_LOAD * loads)
        return kernel.form is Form.ROWS and not self.chunks and code * min(MOST_VECTORS, self.vectors) <= MOST_CODE

    def block_vectors(self, vectors: int, states: int) -> int:
        """How many vectors of columns a block has at most, of which so many states stay in registers.

        Rows that are read from end to end are what a processor foresees; pieces of long rows are read fastest a few at a time.
        """
        few, many = next(((few, many) for limit, few, many in BLOCKS if self.cost <= limit), (1, 1))
        self.widest = widest = min(states, many)
        long = self.passes.kept_count * self.passes.reduced_count >= LARGE
        return max(few, widest) if long and vectors <= 2 * widest else few

    def blocks_of_stripe(self, blocks: int) -> int:
        """How many blocks of columns some rows are read for before the next rows; 0 where states need not wait in memory.

        Rows that are longer than a block are read in pieces, and the next piece of a row is in another page: neither the
        processor nor its table of pages foresees that.
        """
        short = blocks * self.width <= 2 * self.widest or self.passes.reduced_count < 2 * ROWS_OF_STRIPE
        if short or self.rest or len(self.roots) > 1 or self.cost > CHEAP_COLUMNS or not self.passes.reductions[0]:
            return 0
        shared = 1 if self.chunks is not None or self.w.threads.serial else LEAST_STRIPES
        return max(1, min(STRIPE // self.width, -(-blocks // shared)))

    def emit(self) -> None:
        e = self.w.elements
        for roots in self.roots:
            e.hoist(roots)
        if self.chunks is not None:
            self.emit_chunked(self.chunks)
            return
        if self.stripe:
            self.for_stripes(1, lambda part: (i64(0), i64(self.passes.reduced_count)), self.keep)
            return
        self.for_columns(1, self.emit_block)

    def for_columns(self, parts: int, block: Callable[[list[Scope], Value], None], width: int = 0) -> None:
        """Calls block(scopes, part) for this thread's blocks of columns, `parts` times each.

        width   vectors of a block, and always the same threads for the same columns; as many as a fold takes at once, and
                whoever is free, unless given
        """
        w, f, e = self.w, self.w.f, self.w.elements

        def ranges(items: int) -> AbstractContextManager[tuple[Value, Value]]:
            return nullcontext(w.share(items)) if width else w.ranges(items)

        if self.inner.number is not None:
            with ranges(self.outer_count * parts) as bounds, f.loop(*bounds) as item:
                outer, part = quotient(f, item, parts)
                with e.inside(Scope(bind(self.outer, outer))):
                    block([Scope()], part)
            return
        size = width or self.width
        blocks = -(-self.vectors // size)
        if blocks:
            with ranges(self.outer_count * blocks * parts) as bounds, f.loop(*bounds) as item:
                part, rest = quotient(f, item, self.outer_count * blocks)  # what is beside a block is still in a cache
                outer, number = quotient(f, rest, blocks)
                with e.inside(Scope(bind(self.outer, outer))):
                    block(self.scopes(number, size), part)
        if self.rest:
            with f.loop(*w.share(self.outer_count * self.rest * parts)) as item:
                rest, part = quotient(f, item, parts)
                outer, number = quotient(f, rest, self.rest)
                scope = Scope(bind(self.inner, f.add(number, i64(self.inner_count - self.rest))))
                with e.inside(Scope(bind(self.outer, outer))):
                    block([scope], part)

    def scopes(self, number: Value, size: int) -> list[Scope]:
        """Those of the vectors of a block of `size` vectors."""
        w, f, lanes = self.w, self.w.f, self.w.elements.lanes
        lane = next(iter(self.inner.variables()))
        low = f.mul(number, i64(size * lanes))
        exact = self.inner_count % (size * lanes) == 0 or self.rest
        scopes = []
        for u in range(size):
            base = f.add(low, i64(u * lanes))
            mask = None if exact else w.tail_mask(f.sub(i64(self.inner_count), base))
            scopes.append(Scope(bind(self.inner, base), lane, mask, even=True))
        return scopes

    def for_stripes(self, parts: int, rows: Callable[[Value], tuple[Value, Value]],
                    finish: Callable[[list[Scope], list[State], Value], None]) -> None:
        """As `for_columns` where rows are long: `rows(part)` of all blocks of a stripe, some of them at a time, then
        finish(scopes, states, part) for each block.
        """
        w, f, e = self.w, self.w.f, self.w.elements
        folding, lanes = self.folding(0), e.lanes
        blocks = -(-self.vectors // self.width)
        stripes = -(-blocks // self.stripe)
        columns = self.stripe * self.width * lanes
        waiting = Partials(w, folding, Room(f, f.stack("i8", len(folding.types) * numbers_bytes(columns))), columns)

        def get(scopes: list[Scope], first: Value) -> list[State]:
            """The states of a block, as they wait in memory."""
            found = []
            for u, scope in enumerate(scopes):
                with e.inside(scope):
                    found.append(waiting.load(f.add(first, i64(u * lanes))))
            return found

        def put(scopes: list[Scope], first: Value, states: list[State]) -> None:
            for u, (scope, state) in enumerate(zip(scopes, states, strict=True)):
                with e.inside(scope):
                    waiting.store(state, f.add(first, i64(u * lanes)))

        with w.ranges(self.outer_count * stripes * parts) as bounds, f.loop(*bounds) as item:
            part, rest = quotient(f, item, self.outer_count * stripes)
            outer, stripe = quotient(f, rest, stripes)
            begin = f.mul(stripe, i64(self.stripe))
            end = f.minimum(f.add(begin, i64(self.stripe)), i64(blocks))
            low, high = rows(part)

            def each(body: Callable[[list[Scope], Value], None]) -> None:
                """body(scopes, where the block's states are)"""
                with f.loop(begin, end) as number:
                    body(self.scopes(number, self.width), f.mul(f.sub(number, begin), i64(self.width * lanes)))

            def some(start: Value, stop: Value, step: int) -> None:
                with f.loop(start, stop, step) as row:
                    def body(scopes: list[Scope], first: Value) -> None:
                        found = get(scopes, first)
                        self.hoist(0, scopes)
                        for u in range(step):
                            for i in self.vectors_of(0, scopes, f.add(row, i64(u))):
                                found[i] = self.one(0, folding, found[i])
                        put(scopes, first, found)
                    each(body)

            with e.inside(Scope(bind(self.outer, outer))):
                each(lambda scopes, first: put(scopes, first, [folding.initial(lanes)] * len(scopes)))
                whole = f.binary("udiv", f.sub(high, low), i64(ROWS_OF_STRIPE))
                middle = f.add(low, f.mul(whole, i64(ROWS_OF_STRIPE)))
                some(low, middle, ROWS_OF_STRIPE)
                some(middle, high, 1)
                each(lambda scopes, first: finish(scopes, get(scopes, first), part))

    def emit_block(self, scopes: list[Scope], part: Value) -> None:
        """All levels of a block of columns."""
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            for scope, state in zip(scopes, self.fold(p, folding, scopes, i64(0), i64(self.passes.reduced_count)),
                                    strict=True):
                if level:
                    scope.values.update(folding.results(state))
        self.store_kept(scopes)

    def keep(self, scopes: list[Scope], states: list[State], _: Value) -> None:
        """What follows from the folds of some columns."""
        folding = self.folding(0)
        for scope, state in zip(scopes, states, strict=True):
            scope.values.update(folding.results(state))
        self.store_kept(scopes)

    def store_kept(self, scopes: list[Scope]) -> None:
        if self.passes.kept:
            for scope in scopes:
                with self.w.elements.inside(scope):
                    self.w.store_all(self.passes.kept, [self.space.kept_key(n) for _, n in self.passes.kept], self.k)

    def folding(self, p: int) -> Folding:
        level = self.passes.reductions[p]
        return Folding(self.w, level, self.roots[p][:len(level)], self.r)

    def fold(self, p: int, folding: Folding, scopes: list[Scope], low: Value, high: Value) -> list[State]:
        """One state per scope, over rows low to high; stores the outputs of pass p on the way."""
        f, e = self.w.f, self.w.elements
        self.hoist(p, scopes)
        lanes = e.lanes if scopes[0].lane is not None else 0
        if self.straight:
            states = [folding.initial(lanes) for _ in scopes]
            for row in range(self.passes.reduced_count):
                for i in self.vectors_of(p, scopes, i64(row)):
                    states[i] = self.one(p, folding, states[i])
            return states
        length = self.passes.reduced_count
        unroll = max(1, 4 // len(scopes)) if self.cost <= CHEAP_COLUMNS and length >= 16 else 1
        width = len(folding.initial(lanes))

        def rows(start: Value, stop: Value, step: int, states: list[State]) -> list[State]:
            """states: for each unrolled row one per scope."""
            carried = Carried([v for s in states for v in s])
            with f.loop(start, stop, step, carried) as index:
                new: State = []
                for u in range(step):
                    for i in self.vectors_of(p, scopes, f.add(index, i64(u))):
                        at = (u * len(scopes) + i) * width
                        new += self.one(p, folding, carried.values[at:at + width])
                carried.next = new
            flat = carried.results
            return [flat[i * width:(i + 1) * width] for i in range(len(flat) // width)] if width else states

        states = [folding.initial(lanes) for _ in range(unroll * len(scopes))]
        if unroll == 1:
            states = rows(low, high, 1, states)
        else:
            end = f.add(low, f.mul(f.binary("udiv", f.sub(high, low), i64(unroll)), i64(unroll)))
            states = rows(low, end, unroll, states)
            count = len(scopes)
            if not (low.number is not None and high.number is not None and (high.number - low.number) % unroll == 0):
                states[:count] = rows(end, high, 1, states[:count])
        return [folding.tree([states[u * len(scopes) + i] for u in range(unroll)]) if width else []
                for i in range(len(scopes))]

    def hoist(self, p: int, scopes: Sequence[Scope]) -> None:
        """What vectors of pass p need that does not depend on the row."""
        for scope in scopes:
            with self.w.elements.inside(scope):
                self.w.elements.hoist(self.roots[p])

    def vectors_of(self, p: int, scopes: Sequence[Scope], row: Value) -> Iterator[int]:
        """The number of each vector of a row, while its element's scope is open."""
        e = self.w.elements
        with e.inside(Scope(bind(self.r, row))):
            e.hoist(self.roots[p])
            for i, scope in enumerate(scopes):
                with e.inside(scope), e.inside(Scope()):
                    yield i

    def one(self, p: int, folding: Folding, state: State) -> State:
        """One row of one vector of columns."""
        w, e = self.w, self.w.elements
        e.emit(self.roots[p])
        new = folding.append(state, folding.lifted()) if folding.reductions else []
        w.store_all(self.passes.full[p], self.roots[p][len(folding.reductions):], self.space.position)
        return new

    # -- many rows, few columns --------------------------------------------------------------------------------

    def emit_chunked(self, chunks: Chunks) -> None:
        """Chunks of rows to all threads; partial results are joined column by column, in order."""
        w, f, e = self.w, self.w.f, self.w.elements
        kept, length = self.passes.kept_count, self.passes.reduced_count
        shared = Room(f, w.shared)
        for p, level in enumerate(self.passes.reductions):
            folding = self.folding(p)
            partials = Partials(w, folding, shared, kept * chunks.count)

            def rows(part: Value) -> tuple[Value, Value]:
                low = f.mul(part, i64(chunks.size))
                return low, f.minimum(f.add(low, i64(chunks.size)), i64(length))

            def put(scopes: list[Scope], states: list[State], part: Value, partials: Partials = partials) -> None:
                for scope, state in zip(scopes, states, strict=True):
                    if state:
                        with e.inside(scope):
                            partials.store(state, f.add(f.mul(part, i64(kept)), self.column()))

            def block(scopes: list[Scope], part: Value, p: int = p, folding: Folding = partials.folding) -> None:
                put(scopes, self.fold(p, folding, scopes, *rows(part)), part)

            if self.stripe:
                self.for_stripes(chunks.count, rows, put)
            else:
                self.for_columns(chunks.count, block)
            if not level:
                continue
            w.meet()
            results = shared.results(level, kept)

            def join(scopes: list[Scope], _: Value, partials: Partials = partials,
                     results: dict[Node, Value] = results) -> None:
                for scope in scopes:
                    with e.inside(scope):
                        column = self.column()
                        for node, value in partials.joined(chunks.count, kept, column).items():
                            store_number(w, value, results[node], column)

            self.for_columns(1, join, width=1)  # once per column: not worth the code of several vectors
            last = p == len(self.passes.reductions) - 1
            if not last or self.passes.kept:
                self.space.settle(results)
                self.roots = [self.space.roots(q) for q in range(len(self.passes.reductions))]
            if not last:
                w.meet()
        if self.passes.kept:
            def store(scopes: list[Scope], _: Value) -> None:
                for scope in scopes:
                    with e.inside(scope):
                        w.store_all(self.passes.kept, [self.space.kept_key(n) for _, n in self.passes.kept], self.k)

            self.for_columns(1, store, width=1)  # each thread's own columns: no barrier is needed

    def column(self) -> Value:
        """The kept position as a number: of the first lane where there are lanes."""
        return self.w.elements.first(self.k)
