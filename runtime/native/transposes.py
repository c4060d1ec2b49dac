"""Maps that read along another axis than they write: square tiles, turned in registers.

A vector along the axis that is written would be gathered from as many lines of memory as it has lanes, and each line is
needed again only a whole row later.  Here a tile of lanes x lanes elements is loaded along the axis that is contiguous in
memory, turned by shuffles, and handed to the elements as what they would have gathered.  What no whole tile covers is gathered,
tile by tile.

Knows index maps and tiles.  Must not know op names, buffers or how threads are made.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import prod
from typing import NamedTuple

from graphc.index import Index, linear, unravel, variables_for

from .elements import Elements
from .loops import LINE, State, Work, bind, output_key
from .recipes import Action, Key
from .scopes import Scope
from .sharing import maximum
from .values import Value, i64

MOST_CODE = 600  # instructions of a tile
FEW_TILES = 16  # rows of tiles that are too few to be shared among threads


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
            strips = self.rest_count * count
            few = strips < FEW_TILES
            low, high = w.share(self.along_count, LINE) if few else (i64(0), i64(self.along_count))
            shared = nullcontext((i64(0), i64(strips))) if few else nullcontext(w.share(strips)) if first else w.ranges(strips)
            with shared as bounds, f.loop(*bounds) as item:
                rest = f.binary("udiv", item, i64(count))
                start = f.add(f.mul(f.sub(item, f.mul(rest, i64(count))), i64(lanes)), i64(first))
                with e.inside(Scope(bind(self.t.rest, rest))):
                    e.hoist(self.roots)
                    self.strip(start, size, low, high)

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
        """lanes x lanes elements."""
        w, f, e = self.w, self.w.f, self.w.elements
        lanes = e.lanes
        columns = {key: self.loaded(key, start, base) for key in self.loads}
        for u in range(lanes):
            scope = Scope({self.across: f.add(start, i64(u)), self.along: base}, self.along)
            scope.memo.update({key: values[u] for key, values in columns.items()})
            with e.inside(scope):
                w.store_all(self.outputs, self.roots, self.position)

    def loaded(self, key: Key, start: Value, base: Value) -> list[Value]:
        """The tile of a load, a vector along the written axis for each place across."""
        f, e = self.w.f, self.w.elements
        lanes = e.lanes
        rows = []
        for i in range(lanes):
            with e.inside(Scope({self.across: start, self.along: f.add(base, i64(i))}, self.across)):
                rows.append(e.emit([key])[0])
        distance = lanes // 2
        while distance:
            for i in range(lanes):
                if i & distance:
                    continue
                a, b = rows[i], rows[i + distance]
                upper = [j if not j & distance else lanes + j - distance for j in range(lanes)]
                lower = [j + distance if not j & distance else lanes + j for j in range(lanes)]
                rows[i], rows[i + distance] = (self.w.f.shuffle(a, order, b) for order in (upper, lower))
            distance //= 2
        return rows
