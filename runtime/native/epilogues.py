"""Contractions inside a kernel: from a CONTRACT node to groups of strided axes, and maps over each finished tile.

Knows how a spec's labels fall into batch, m, n and k, and how a tile's rows and columns become indices.  Must not know
how a contraction is blocked.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from graphc.access import Strided, strided
from graphc.garbage import remembered
from graphc.index import Index, linear, unravel
from graphc.ir import Node
from graphc.labels import labels_of
from graphc.op import Kind
from graphc.pages import LINE
from graphc.plan import Kernel
from graphc.records import replace

from .addresses import LLVM, Memory, memory_type, row_major
from .axes import in_items
from .contract import Contraction, Tile
from .emit import Function
from .loops import State, Work, bind, output_key, variable_of
from .recipes import Key
from .scopes import LoweringError, Scope
from .values import SIZES, Value, i64

LEAST_ROW = 48  # elements of a result's row for which its images are worth a contraction each
MOST_LOST, SCATTERED = 1.2, 4  # times as long as its elements its vectors are; cycles an element, where vectors end elsewhere
TWO_VECTORS = 20  # cost of a sweep's body that is written out for two vectors at most: few tiles are wider
ITEM = "*"  # what the labels of a batch call the items of an axis that is dealt
STREAM = 1 << 17  # bytes that an epilogue touches from which fetching ahead pays: other kernels fill the cache too


def contraction_node(kernel: Kernel) -> Node:
    nodes = [n for n in kernel.body.nodes if n.op.kind is Kind.CONTRACT]
    if len(nodes) != 1:
        raise LoweringError(f"{kernel!r}: one contraction is needed, there are {len(nodes)}")
    return nodes[0]


def operand_read(operand: Node) -> Strided:
    """How an operand lies in memory; one that maps compute while it is packed, as if its value lay there."""
    read = strided(operand)
    if read is None or read.base.op.kind not in (Kind.SOURCE, Kind.MAP):
        raise LoweringError(f"{operand!r} is no strided view of memory")
    return read


@remembered
def contraction_in(kernel: Kernel) -> tuple[Contraction, Strided, Strided, tuple[str, str, str]]:
    """The contraction of a kernel, its operands A and B, and the labels of batch, m and n: `ITEM` is one where it is dealt."""
    node = contraction_node(kernel)
    c, a, b, (batch, m, n) = contraction_of(node)
    if kernel.dealt is not None:
        label = labels_of(node.attributes["spec"]).out[kernel.dealt.axis]
        if label in batch:
            c = replace(c, dealt=True)
        else:
            side, own = ("m", m) if label in m else ("n", n)
            c, batch = in_items(c, side, own.index(label), kernel.dealt.items), batch + ITEM
        c = pieces_together(c, kernel, a, b)
    return c, a, b, (batch, m, n)


def into_axis(kernel: Kernel, places: dict[str, Index]) -> None:
    """The place on the axis that is dealt from those of the item and in it."""
    if kernel.dealt is not None and ITEM in places:
        label = labels_of(contraction_node(kernel).attributes["spec"]).out[kernel.dealt.axis]
        places[label] += places[ITEM] * (kernel.space[kernel.dealt.axis] // kernel.dealt.items)


def pieces_together(c: Contraction, kernel: Kernel, a: Strided, b: Strided) -> Contraction:
    """The strides of a contraction that is dealt, where items' elements lie together in an operand or in the result."""
    deal = kernel.dealt
    assert deal is not None
    for side, read in (("a", a), ("b", b)):
        place = kernel.body.inputs.index(read.base) if read.base in kernel.body.inputs else -1
        if place in deal.apart:
            fields = (f"{side}_batch", f"{side}_m" if side == "a" else f"{side}_n", f"{side}_k")
            c = restrided(c, fields, deal.reads[place], deal.items, int(read.base.type.size))
    if len(kernel.reads) in deal.apart:  # serves only where the one result is stored as it is
        c = restrided(c, ("c_batch", "c_m", "c_n"), deal.writes[0], deal.items, int(kernel.body.outputs[0].type.size))
    return c


def restrided(c: Contraction, fields: Sequence[str], run: int, items: int, size: int) -> Contraction:
    """Strides in memory where each of some items has its elements, which lie `run` by `run`, in one piece."""
    def of(stride: int) -> int:
        return stride if abs(stride) < run else size // items if stride == run else stride // items

    return replace(c, **{field: tuple(map(of, getattr(c, field))) for field in fields})


@remembered
def contraction_of(node: Node) -> tuple[Contraction, Strided, Strided, tuple[str, str, str]]:
    """The contraction, its operands A and B, and the labels of batch, m and n.

    The result's last label is the last of n, so that a row of a tile is adjacent in the result; operands change places
    where that asks for it.
    """
    labels = labels_of(node.attributes["spec"])
    left, right, batch, m, n, k = labels.left, labels.right, labels.batch, labels.m, labels.n, labels.k
    a, b = reversed(node.inputs) if labels.turned else node.inputs
    sizes = dict(zip(left + right, (*a.shape, *b.shape), strict=True))
    reads = operand_read(a), operand_read(b)
    of_a, of_b = dict(zip(left, reads[0].strides, strict=True)), dict(zip(right, reads[1].strides, strict=True))
    steps, step = {}, 1
    for label in reversed(labels.out):
        steps[label] = step
        step *= sizes[label]

    apart = apart_in_result(n, sizes, steps, prod(sizes[x] for x in m), prod(sizes[x] for x in k), node.dtype.itemsize)
    batch, n = batch + n[:apart], n[apart:]

    def group(labels: str, values: dict[str, int]) -> tuple[int, ...]:
        return tuple(values.get(label, 0) for label in labels)

    names = {label: name for name, group in (("m", m), ("n", n), ("k", k)) for label in group}
    contraction = Contraction(
        LLVM[node.dtype.name], group(batch, sizes), group(m, sizes), group(n, sizes), group(k, sizes),
        group(batch, of_a), group(m, of_a), group(k, of_a), group(batch, of_b), group(k, of_b), group(n, of_b),
        group(batch, steps), group(m, steps), group(n, steps),
        tuple((names[x], names[y], offset) for x, y, offset in node.attributes.get("within", ())))
    return contraction, *reads, (batch, m, n)


def computed_operands(node: Node) -> tuple[bool, bool]:
    """Whether A, whether B is computed while it is packed."""
    _, a, b, _ = contraction_of(node)
    return a.base.op.kind is Kind.MAP, b.base.op.kind is Kind.MAP


def apart_in_result(labels: str, sizes: dict[str, int], steps: dict[str, int], m: int, k: int, itemsize: int) -> int:
    """How many leading labels of n become a batch, so that a row of a tile is adjacent in the result.

    The images of a convolution are such: the channels lie between them and their pixels.  Images that are just longer than
    some lines stay together where sums are long: then their vectors are full, and what they end in does not count.  Where
    there is but one row, nothing is shared by images that stay together.
    """
    for place in range(len(labels) - 1, 0, -1):
        length = prod(sizes[x] for x in labels[place:])
        if steps[labels[place - 1]] != length:
            lanes = LINE // itemsize
            whole = -(-length // lanes) * lanes
            full = whole > MOST_LOST * length and k * (whole - length) > SCATTERED * lanes * length
            return place if m == 1 or (length >= LEAST_ROW and not full) else 0
    return 0


def base_pointer(w: Work, read: Strided, dtype: str) -> Value:
    """The address of an operand's first element."""
    memory = w.elements.memory.get(read.base)
    if memory is None:
        values = np.asarray(read.base.op.numpy(**read.base.attributes)).reshape(-1)
        pointer = w.f.module.table([v.item() for v in values] or [0], memory_type(read.base))
        memory = row_major(read.base, pointer)
    return w.f.offset(memory.pointer, i64(read.offset), dtype)


class Epilogue:
    """All outputs of a kernel over its whole space, computed from a finished tile of its contraction.

    operands    further nodes over that space that a tile is asked for: their elements are the last of `roots`
    """

    def __init__(self, w: Work, node: Node, c: Contraction, labels: tuple[str, str, str],
                 operands: Sequence[Node] = ()) -> None:
        self.w, self.node, self.c = w, node, c
        e = w.elements
        out = node.attributes["spec"].split("->")[1]
        self.item = Index.variable("item", prod(c.batch))
        self.row, self.column = Index.variable("row", prod(c.m)), Index.variable("column", prod(c.n))
        places: dict[str, Index] = {}
        for group, index, sizes in zip(labels, (self.item, self.row, self.column), (c.batch, c.m, c.n), strict=True):
            places.update(zip(group, unravel(index, sizes), strict=True))
        into_axis(w.kernel, places)
        self.indices = tuple(places[label] for label in out)
        self.position = linear(self.indices, node.shape)
        self.by_row = prod(c.n) == 1 and prod(c.m) > 1  # one column: vectors run down it
        lane = self.row if self.by_row else self.column
        e.memory[node] = Memory(Value("null", "ptr"), lambda indices: lane, int(node.type.size))  # set for each row
        self.lane = lane
        self.outputs = [(i, n) for i, n in enumerate(w.kernel.body.outputs) if n.type.size == node.type.size]
        self.roots = [output_key(e, n, self.indices, node.shape) for n in (*(n for _, n in self.outputs), *operands)]
        self._check()
        self.cost = w.body_cost(self.roots)
        e.hoist(self._without_sums())
        del e.memory[node]
        self.streams = self._streams()

    def _without_sums(self) -> list[Key]:
        """What the maps need and what does not depend on the contraction."""
        e = self.w.elements
        order = e.reachable(self.roots)
        late = {key for key in order if key[0] is self.node}
        for key in order:  # operands first
            if any(k in late for k in e.step(key).operands):
                late.add(key)
        return [key for key in order if key not in late]

    def _check(self) -> None:
        for key in self.w.elements.reachable(self.roots):
            if key[0] is self.node and linear(key[1], self.node.shape) != self.position:
                raise LoweringError(f"{self.w.kernel!r}: the contraction is read elsewhere than at its own position")

    def _streams(self) -> list[tuple[Value, Index]]:
        """The large arrays that the maps touch row by row beside the tile."""
        e = self.w.elements
        if self.by_row or self.column.number is not None:
            return []
        size = SIZES[self.c.dtype]
        found: dict[Value, Index] = {}
        for key in e.reachable(self.roots):
            if key[0] is self.node or key[0] not in e.memory:
                continue
            place = e.memory[key[0]].place(key[1])
            if place == self.position and SIZES[memory_type(key[0])] == size:
                found[e.memory[key[0]].pointer] = place
        in_place = {w for w, _ in self.w.kernel.in_place}  # what they overwrite is fetched already
        for write, n in self.outputs:
            if SIZES[memory_type(n)] == size and write not in in_place:
                place = self.w.place_of(write, n, self.position)
                if place != self.position:
                    return []
                found[self.w.writes[write]] = place
        total = len(found) * int(self.node.type.size) * size
        affine = self.row.number is not None or self.position.factor(variable_of(self.row))
        if total < STREAM or affine is None or self.position.factor(variable_of(self.column)) != 1:
            return []
        return list(found.items())[:4]

    def prefetch(self, f: Function, tile: Tile) -> list[tuple[Value, int]]:
        """(address, bytes between rows) of each stream at a tile."""
        e = self.w.elements
        step = 0
        if self.row.number is None:
            step = self.position.factor(variable_of(self.row)) or 0
        scope = Scope({**bind(self.item, tile.batch), **bind(self.row, tile.i0), **bind(self.column, tile.j0)})
        with e.inside(scope):
            offset = e.index(self.position)
        size = SIZES[self.c.dtype]
        return [(f.offset(pointer, offset, self.c.dtype), step * size) for pointer, _ in self.streams]

    def finish(self, f: Function, tile: Tile) -> None:
        w, e, node = self.w, self.w.elements, self.node
        lane = self.lane

        def body(state: State) -> State:
            w.store_all(self.outputs, self.roots, self.position)
            return state

        with e.inside(Scope(bind(self.item, tile.batch))):
            if self.by_row:
                start = f.sub(i64(0), f.mul(tile.i0, i64(tile.stride)))
                self.place_tile(f.offset(tile.pointer, start, self.c.dtype), lane * tile.stride)
                w.limit_lanes(prod(self.c.m))
                w.sweep(lane, tile.i0, f.add(tile.i0, tile.rows), max(self.cost, TWO_VECTORS), body)
                return
            w.limit_lanes(prod(self.c.n))
            with f.loop(i64(0), tile.rows) as r, e.inside(Scope(bind(self.row, f.add(tile.i0, r)))):
                start = f.sub(f.mul(r, i64(tile.stride)), tile.j0)
                self.place_tile(f.offset(tile.pointer, start, self.c.dtype), lane)
                e.hoist(self.roots)
                aligned = tile.columns.number is not None and tile.columns.number % e.lanes == 0
                w.sweep(lane, tile.j0, f.add(tile.j0, tile.columns), max(self.cost, TWO_VECTORS), body, aligned=aligned)
        del e.memory[node]

    def vector(self, f: Function, tile: Tile, row: Value, column: Value, mask: Value | None) -> None:
        """As `finish`, for the vector of a row that begins at a column of the tile."""
        w, e = self.w, self.w.elements
        lane = variable_of(self.lane)
        e.lanes = w.full_lanes
        with e.inside(Scope({**bind(self.item, tile.batch), **bind(self.row, f.add(tile.i0, row)),
                             lane: f.add(tile.j0, column)}, lane, mask)):
            start = f.sub(f.mul(row, i64(tile.stride)), tile.j0)
            self.place_tile(f.offset(tile.pointer, start, self.c.dtype), self.lane)
            w.store_all(self.outputs, self.roots, self.position)
        del e.memory[self.node]

    def fill(self, numbers: Sequence[tuple[int, float]], f: Function, tile: Tile) -> None:
        """What outputs are in a tile of which nothing is computed."""
        w, e, found = self.w, self.w.elements, dict(numbers)

        def body(state: State) -> State:
            for write, n in self.outputs:
                if write in found:
                    e.store(n, e.number(n, found[write]), w.writes[write], w.place_of(write, n, self.position))
            return state

        along, first, count = (self.row, tile.i0, tile.rows) if self.by_row else (self.column, tile.j0, tile.columns)
        aligned = count.number is not None and count.number % e.lanes == 0
        w.limit_lanes(prod(self.c.m if self.by_row else self.c.n))
        with e.inside(Scope(bind(self.item, tile.batch))), f.loop(i64(0), i64(1) if self.by_row else tile.rows) as r, \
                e.inside(Scope({} if self.by_row else bind(self.row, f.add(tile.i0, r)))):
            w.sweep(along, first, f.add(first, count), TWO_VECTORS, body, aligned=aligned)

    def complete(self) -> None:
        """Nothing is left after the last tile."""

    def place_tile(self, pointer: Value, place: Index) -> None:
        """From here on the contraction's elements are those of the tile."""
        e = self.w.elements
        for key in [k for k in e.steps if k[0] is self.node]:
            del e.steps[key]
        e.memory[self.node] = Memory(pointer, lambda indices: place, int(self.node.type.size))
