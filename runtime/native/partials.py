"""Partial states of folds in scratch memory: whoever folds a part leaves its state, and the states are joined in order.

Knows how a level's states lie there.  Must not know how a space is cut into parts, or who folds which.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.index import Index, unravel
from graphc.ir import Node

from .emit import Carried, Function
from .folds import Folding, Reduction, numbers_bytes
from .loops import LINE, MODERATE, State, Work
from .recipes import Key
from .scopes import Scope
from .values import Value, constant, i64, vector


class Room:
    """Scratch memory that is given out array by array."""

    def __init__(self, f: Function, pointer: Value) -> None:
        self.f, self.pointer, self.used = f, pointer, 0

    def take(self, count: int) -> Value:
        """The address of an array of `count` numbers of any type."""
        start = self.f.offset(self.pointer, i64(self.used), "i8")
        self.used += numbers_bytes(count)
        return start

    def results(self, reductions: Sequence[Reduction], count: int) -> dict[Node, Value]:
        """An array of `count` results for each fold."""
        return {r.node: self.take(count) for r in reductions}


class Partials:
    """`count` states of one level of folds: an array for each component."""

    def __init__(self, w: Work, folding: Folding, room: Room, count: int) -> None:
        self.w, self.folding = w, folding
        self.pointers = [room.take(count) for _ in folding.types]

    def store(self, state: State, place: Value) -> None:
        """A state, or a vector of them side by side, in the lanes that exist."""
        for value, pointer in zip(state, self.pointers, strict=True):
            store_number(self.w, value, pointer, place)

    def load(self, place: Value) -> State:
        """What `store` put there: a vector where there are lanes."""
        return [load_number(self.w, t, pointer, place) for t, pointer in zip(self.folding.types, self.pointers, strict=True)]

    def joined(self, parts: int, stride: int, first: Value) -> dict[Node, Value]:
        """The folds' results from so many states, `stride` apart, in order; as many side by side as there are lanes."""
        f, e, folding = self.w.f, self.w.elements, self.folding
        carried = Carried(folding.initial(e.lanes if e.lane is not None else 0))
        with f.loop(0, parts, 1, carried) as part:
            read = self.load(f.add(f.mul(part, i64(stride)), first))
            carried.next = folding.combine(carried.values, read)
        return folding.results(carried.results)


def expect(w: Work, folding: Folding, place: Index, outputs: Sequence[tuple[int, Node]]) -> list[Key]:
    """The keys of outputs that read the folds' results at `place`."""
    e = w.elements
    e.steps.clear()
    for r in folding.reductions:
        e.folded[r.node] = place
    return [e.key(n, unravel(place, n.shape)) for _, n in outputs]


def store_joined(w: Work, partials: Partials, parts: int, count: int, outputs: Sequence[tuple[int, Node]]) -> None:
    """Joins so many partial states of each of `count` columns, in order, and stores what follows from them."""
    e = w.elements
    column = Index.variable("joined", count)
    with e.inside(Scope()):
        keys = expect(w, partials.folding, column, outputs)
        w.limit_lanes(count)
        e.hoist(keys)

        def body(state: State) -> State:
            e.scopes[-1].values.update(partials.joined(parts, count, e.first(column)))
            w.store_all(outputs, keys, column)
            return state

        each = count if w.kernel.dealt is None else count // w.kernel.dealt.items
        w.sweep(column, *w.share(count, LINE), MODERATE + 1, body, aligned=each % e.lanes == 0)


def store_number(w: Work, value: Value, pointer: Value, place: Value) -> None:
    """Stores a number, or a vector of them side by side, in the lanes that exist; bools are bytes."""
    f, mask = w.f, w.elements.mask
    if value.element == "i1":
        value = f.convert("zext", value, "i8")
    address = f.offset(pointer, place, value.element)
    if value.lanes and mask is not None:
        f.masked_store(value, address, mask)
    else:
        f.store(value, address)


def load_number(w: Work, type_: str, pointer: Value, place: Value) -> Value:
    """What `store_number` stored: a vector where there are lanes."""
    f, e = w.f, w.elements
    memory = "i8" if type_ == "i1" else type_
    address = f.offset(pointer, place, memory)
    wide = vector(e.lanes if e.lane is not None else 0, memory)
    value = f.masked_load(address, wide, e.mask) if e.lane is not None and e.mask is not None else f.load(address, wide)
    return f.compare("icmp ne", value, constant(0, value.type)) if type_ == "i1" else value
