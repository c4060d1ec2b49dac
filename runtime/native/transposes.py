"""Maps that read along another axis than they write: square tiles, turned in registers.

A vector along the axis that is written would be gathered from as many lines of memory as it has lanes, and each line is
needed again only a whole row later.  Here a tile of lanes x lanes elements is loaded along the axis that is contiguous in
memory, turned by shuffles, and handed to the elements as what they would have gathered.  What no whole tile covers is gathered,
tile by tile.

Knows index maps and tiles.  Must not know op names, buffers or how threads are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from math import prod

from graphc.index import Index, linear, unravel, variables_for
from graphc.ir import Node
from graphc.records import NamedTuple

from .elements import Elements
from .emit import Function
from .loops import State, Work, bind, output_key
from .recipes import Action, Key
from .scopes import Scope
from .sharing import maximum, quotient
from .values import Value, i64

MOST_CODE = 600  # instructions of a tile
STRETCH = 64  # places along, after which the next strip of tiles is taken: what follows in memory is still there


class Turned(NamedTuple):
    """A map's space as rest x across x along: written in order of `along`, read by some in order of `across`."""

    rest: Index
    across: Index
    along: Index
    indices: tuple[Index, ...]


def turned(w: Work) -> Turned | None:
    """How the kernel's map transposes; None where it does not."""
    space = w.kernel.space
    axes = [a for a, size in enumerate(space) if size > 1]
    if len(axes) < 2:
        return None
    last = axes[-1]
    variables = variables_for(space, "t")
    roots = [output_key(w.elements, n, variables, space) for n in w.kernel.body.outputs]
    lane = next(iter(variables[last].variables()))
    found = None
    for key in w.elements.reachable(roots):
        step = w.elements.step(key)
        if step.action is not Action.LOAD or step.place.factor(lane) in (0, 1, None):
            continue
        for axis in axes[:-1]:
            if step.place.factor(next(iter(variables[axis].variables()))) == 1:
                found = axis
    w.elements.steps.clear()
    if found is None or space[found] < 4 or space[last] < 4:
        return None
    others = [a for a in range(len(space)) if a not in (found, last)]
    rest = Index.variable("rest", prod(space[a] for a in others))
    across, along = Index.variable("across", space[found]), Index.variable("along", space[last])
    indices: list[Index] = [Index((), 0)] * len(space)
    for axis, index in zip(others, unravel(rest, [space[a] for a in others]), strict=True):
        indices[axis] = index
    indices[found], indices[last] = across, along
    return Turned(rest, across, along, tuple(indices))


def emit_turned(w: Work, t: Turned) -> None:
    """All outputs, tile by tile."""
    Tiles(w, t).emit()


class Tiles:
    """Loops over tiles."""

    def __init__(self, w: Work, t: Turned) -> None:
        self.w, self.t = w, t
        space = w.kernel.space
        self.outputs = list(enumerate(w.kernel.body.outputs))
        self.roots = [output_key(w.elements, n, t.indices, space) for _, n in self.outputs]
        self.position = linear(t.indices, space)
        self.rest_count = t.rest.range[1] + 1
        self.across_count, self.along_count = t.across.range[1] + 1, t.along.range[1] + 1
        self.across, self.along = (next(iter(i.variables())) for i in (t.across, t.along))
        w.limit_lanes(min(self.across_count, self.along_count))
        lanes = w.elements.lanes
        self.loads = [k for k in w.elements.reachable(self.roots) if self.is_turned(w.elements, k)]
        code = lanes * (w.body_cost(self.roots) + (len(self.loads) + 1) * (lanes.bit_length() + 1))
        self.large = w.beyond_cache  # stores to many lines wait for each of them, where they come from afar
        self.whole = self.along_count // lanes * lanes if self.loads and code <= MOST_CODE else 0

    def is_turned(self, e: Elements, key: Key) -> bool:
        step = e.step(key)
        return (step.action is Action.LOAD and not step.guard and not step.node.dtype.is_bool
                and step.place.factor(self.across) == 1 and step.place.factor(self.along) not in (0, 1, None))

    def emit(self) -> None:
        w, f, e = self.w, self.w.f, self.w.elements
        lanes = e.lanes
        blocks, left = divmod(self.across_count, lanes)
        e.hoist(self.roots)
        for count, size, first in ((blocks, lanes, 0), (1 if left else 0, left, blocks * lanes)):
            if not count:
                continue
            stretches = -(-self.along_count // STRETCH)
            items = self.rest_count * stretches * count
            shared = nullcontext(w.share(items)) if first else w.ranges(items)
            with shared as bounds, f.loop(*bounds) as item:
                above, number = quotient(f, item, count)
                rest, stretch = quotient(f, above, stretches)
                start = f.add(f.mul(number, i64(lanes)), i64(first))
                low = f.mul(stretch, i64(STRETCH))
                with e.inside(Scope(bind(self.t.rest, rest))):
                    e.hoist(self.roots)
                    self.strip(start, size, low, f.minimum(f.add(low, i64(STRETCH)), i64(self.along_count)))

    def strip(self, start: Value, size: int, low: Value, high: Value) -> None:
        """Tiles side by side: `size` places across, low <= along < high."""
        w, f, e = self.w, self.w.f, self.w.elements
        lanes = e.lanes

        def gathered(state: State) -> State:
            with f.loop(start, f.add(start, i64(size))) as place, e.inside(Scope({self.across: place})):
                w.store_all(self.outputs, self.roots, self.position)
            return state

        if size < lanes or not self.whole:
            w.sweep(self.t.along, low, high, 1000, gathered)
            return
        end = f.minimum(high, i64(self.whole))
        with f.loop(low, end, lanes) as base:
            self.tile(start, base)
        if self.whole < self.along_count:
            begin = i64(self.whole) if low.number == 0 else maximum(f, low, i64(self.whole))
            w.sweep(self.t.along, begin, high, 1000, gathered)

    def tile(self, start: Value, base: Value) -> None:
        """lanes x lanes elements; the lines that the next tile will be written to are fetched meanwhile."""
        w, f, e = self.w, self.w.f, self.w.elements
        lanes = e.lanes
        if self.large:
            for write, node in self.outputs:
                for u in range(0 if self.passes(node, w.writes[write]) else lanes):
                    with e.inside(Scope({self.across: f.add(start, i64(u)), self.along: f.add(base, i64(lanes))})):
                        f.prefetch(e.address(node, w.writes[write], self.position), write=True)
        columns = {key: self.loaded(key, start, base) for key in self.loads}
        for u in range(lanes):
            scope = Scope({self.across: f.add(start, i64(u)), self.along: base}, self.along, even=True)
            scope.memo.update({key: values[u] for key, values in columns.items()})
            with e.inside(scope):
                w.store_all(self.outputs, self.roots, self.position)

    def passes(self, node: Node, pointer: Value) -> bool:
        """Whether tiles are written past the caches."""
        with self.w.elements.inside(Scope(lane=self.along, even=True)):
            return self.w.elements.passes(node, pointer, self.position)

    def loaded(self, key: Key, start: Value, base: Value) -> list[Value]:
        """The tile of a load, a vector along the written axis for each place across."""
        f, e = self.w.f, self.w.elements
        lanes = e.lanes
        rows: list[Value | None] = []
        for i in range(lanes):
            with e.inside(Scope({self.across: start, self.along: f.add(base, i64(i))}, self.across)):
                rows.append(e.emit([key])[0])
        return [v for v in turn(f, rows, range(lanes)) if v is not None]


def turn(f: Function, rows: Sequence[Value | None], wanted: Sequence[int]) -> list[Value | None]:
    """The columns of a square of vectors, those that are wanted; what a row that is None would give is anything."""
    lanes, found = len(rows), list(rows)
    needed = [set(wanted)]  # behind each stage, the last one first
    for distance in reversed(stages := halvings(lanes, ascending=None in found)):
        needed.append({i for j in needed[-1] for i in (j & ~distance, j | distance)})
    for distance, after in zip(stages, reversed(needed[:-1]), strict=True):
        upper = [j if not j & distance else lanes + j - distance for j in range(lanes)]
        lower = [j + distance if not j & distance else lanes + j for j in range(lanes)]
        for i in range(lanes):
            a, b = found[i], found[i | distance]
            if i & distance or a is None:
                continue
            if b is None:
                found[i | distance] = f.shuffle(a, [j if j < lanes else None for j in lower])
                continue
            found[i] = f.shuffle(a, upper, b) if i in after else None
            found[i | distance] = f.shuffle(a, lower, b) if i | distance in after else None
    return found


def halvings(lanes: int, *, ascending: bool) -> list[int]:
    """lanes / 2 ... 4, 2, 1; or the other way round, so that what is missing at the end stays missing for long."""
    distances = [1 << i for i in range(lanes.bit_length() - 1)]
    return distances if ascending else distances[::-1]
