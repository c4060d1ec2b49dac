"""Elements in memory at symbolic places: addresses, loads and stores.

Knows where a node's elements lie, and what of a vector's lanes lies side by side, backwards, in strides, or anywhere; what
no lane asks for is never touched.  Must not know ops, or how an element that is not in memory comes to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from graphc.index import Index, linear
from graphc.ir import Node
from graphc.records import NamedTuple

from .indices import GuardKey, Indices
from .values import SIZES, Value, constant, numbers, vector

HALF_LINE = 32  # bytes, of which processors make lines that are written past the caches
LLVM = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64", "bool": "i1"}


class Memory(NamedTuple):
    """Where a node's elements lie: element `place(indices)` of an array of the node's dtype."""

    pointer: Value
    place: Callable[[tuple[Index, ...]], Index]
    size: int


def row_major(node: Node, pointer: Value) -> Memory:
    shape = node.shape
    return Memory(pointer, lambda indices: linear(indices, shape), int(node.type.size))


def apart(node: Node, pointer: Value, run: int, items: int) -> Memory:
    """Where items' elements lie together: see `plan.Deal`."""
    shape, size = node.shape, int(node.type.size)
    return Memory(pointer, lambda indices: place_apart(linear(indices, shape), run, items, size), size)


def place_apart(place: Index, run: int, items: int, size: int) -> Index:
    """Where the element at a row-major place is, if each of some items has its elements, `run` by `run`, in one piece."""
    return place // run % items * (size // items) + place // (run * items) * run + place % run


def memory_type(node: Node) -> str:
    """The LLVM type of an element in memory: bools are bytes."""
    return "i8" if node.dtype.is_bool else LLVM[node.dtype.name]


def mask_of(lanes: Sequence[bool]) -> Value:
    """A constant mask."""
    return numbers([int(lane) for lane in lanes], "i1")


class Addresses(Indices):
    """Emits loads and stores at the end of the function's current block.

    past   the names of addresses, multiples of 64, behind which results are written past the caches: see `passing`
    """

    past: frozenset[str] = frozenset()

    def address(self, node: Node, pointer: Value, place: Index) -> Value:
        """The address of an element at a scalar place, built up scope by scope so that outer parts are shared."""
        key = ("address", pointer.name, place)
        known = self.recall(key)
        if known is not None:
            return known
        scalar = memory_type(node)
        if not place.terms:
            if not place.constant:
                return pointer
            return self.remember(key, self.f.emit(f"getelementptr {scalar}, {pointer}, i64 {place.constant}", "ptr"))
        depths = [self.depth(t) for t, _ in place.terms]
        deepest = max(depths)
        inner = Index(tuple(t for t, d in zip(place.terms, depths, strict=True) if d == deepest), 0)
        outer = Index(tuple(t for t, d in zip(place.terms, depths, strict=True) if d != deepest), place.constant)
        base = self.address(node, pointer, outer)
        offset = self.first(inner)
        if offset.number == 0:
            return base
        return self.remember(key, self.f.emit(f"getelementptr {scalar}, {base}, {offset}", "ptr"))

    def lane_mask(self, guard: GuardKey) -> Value | None:
        """The lanes that exist and where the guard holds; None for all."""
        mask = self.mask
        if not guard:
            return mask
        condition = self.broadcast(self.holds(guard))
        if mask is None:
            return condition
        key = ("mask", guard)
        known = self.recall(key)
        if known is not None:
            return known
        return self.remember(key, self.f.emit(f"and {mask.type} {mask.name}, {condition.name}", mask.type))

    def load(self, node: Node, pointer: Value, place: Index, guard: GuardKey, size: int = 1) -> Value:
        """An element in memory; never touches what no lane asks for.  Lanes outside the guard are 0."""
        scalar = memory_type(node)
        if size == 0:
            return constant(0, LLVM[node.dtype.name])
        if not self.is_vector(place):
            value = self.f.load(self._safe_address(node, pointer, place, guard, size), scalar)
        else:
            value = self._load_vector(node, pointer, place, guard)
        if node.dtype.is_bool:
            return self.f.compare("icmp ne", value, constant(0, value.type))
        return value

    def _safe_address(self, node: Node, pointer: Value, place: Index, guard: GuardKey, size: int) -> Value:
        low, high = place.range
        if not guard or (low >= 0 and high < size):
            return self.address(node, pointer, place)
        offset = self.index(place)
        inside = self.f.compare("icmp ult", offset, Value(str(size), "i64"))
        return self.f.offset(pointer, self.f.select(inside, offset, Value("0", "i64")), memory_type(node))

    def _load_vector(self, node: Node, pointer: Value, place: Index, guard: GuardKey) -> Value:
        scalar = memory_type(node)
        type_ = vector(self.lanes, scalar)
        mask = self.lane_mask(guard)
        factor = self.slope(place)
        near = self.offsets(place) if factor not in (1, -1) else None
        if near is not None and max(near) - min(near) < 2 * self.lanes:
            return self._load_near(self.address(node, pointer, place), near, scalar, guard)
        if factor is None:
            return self.f.gather(pointer, self.index(place), scalar, mask)
        start = self.address(node, pointer, place)
        if factor == 1:
            return self.f.load(start, type_) if mask is None else self.f.masked_load(start, type_, mask)
        if factor == -1:
            start = self.f.emit(f"getelementptr {scalar}, {start}, i64 {1 - self.lanes}", "ptr")
            loaded = (self.f.load(start, type_) if mask is None
                      else self.f.masked_load(start, type_, self.reverse(mask)))
            return self.reverse(loaded)
        return self.f.gather(start, self._strides(factor), scalar, mask)

    def _load_near(self, start: Value, offsets: Sequence[int], scalar: str, guard: GuardKey) -> Value:
        """Lanes so far from the first one, at `start`, out of one vector or two that begin and end with some of them."""
        low, most = min(offsets), max(offsets) - min(offsets) + 1
        width = min(self.lanes, 1 << most.bit_length() - 1)
        parts = [0] if most == width else [0, most - width]
        wanted = [offset - low for offset in offsets]
        known, condition, rest = self._lanes_known(guard)
        mask = self.lane_mask(rest)
        type_, loaded = vector(width, scalar), []
        for part in parts:
            at = self.f.offset(start, Value(str(low + part), "i64"), scalar)
            lanes: list[list[int]] = [[] for _ in range(width)]  # that want each element
            for lane, place in enumerate(wanted):
                if known[lane] and 0 <= place - part < width:
                    lanes[place - part].append(lane)
            if mask is None and condition is None and (all(known) or all(lanes)):
                loaded.append(self.f.load(at, type_))
            else:
                loaded.append(self.f.masked_load(at, type_, self._asked(lanes, condition, mask)))
        order = [place if place < width else width + place - parts[1] for place in wanted]
        found = self.f.shuffle(loaded[0], order, loaded[-1])
        if not all(known):
            found = self.f.select(mask_of(known), found, constant(0, found.type))
        return self.f.select(mask, found, constant(0, found.type)) if mask and rest else found

    def _lanes_known(self, guard: GuardKey) -> tuple[list[bool], Value | None, GuardKey]:
        """A guard in three parts: lanes that the code knows, a condition (i1) that all share, what else must hold."""
        known, shared, rest = [True] * self.lanes, [], []
        for index, low, high in guard:
            values = self.values(index)
            if values is not None:
                known = [k and low <= v < high for k, v in zip(known, values, strict=True)]
            elif self.is_vector(index):
                rest.append((index, low, high))
            else:
                shared.append((index, low, high))
        return known, self.holds(tuple(shared)) if shared else None, tuple(rest)

    def _asked(self, lanes: Sequence[Sequence[int]], condition: Value | None, mask: Value | None) -> Value:
        """Which elements somebody wants, if the condition holds: each is wanted by some lanes, of those that the mask has."""
        total = mask_of([bool(own) for own in lanes])
        if mask is not None:
            nobody = constant(False, mask.type)
            turns = range(max(1, *map(len, lanes)))
            first, *others = (self.f.shuffle(mask, [own[turn] if turn < len(own) else mask.lanes for own in lanes], nobody)
                              for turn in turns)
            total = reduce(lambda a, b: self.f.binary("or", a, b), others, first)
        return total if condition is None else self.f.select(condition, total, constant(False, total.type))

    def reverse(self, value: Value) -> Value:
        return self.f.shuffle(value, range(self.lanes)[::-1])

    def _strides(self, factor: int) -> Value:
        scalar = "i32" if abs(factor) * self.lanes < 1 << 31 else "i64"
        return numbers([i * factor for i in range(self.lanes)], scalar)

    def passes(self, node: Node, pointer: Value, place: Index) -> bool:
        """Whether whole vectors are written past the caches: lines, or halves of them, in even scopes."""
        whole = self.lanes * SIZES[memory_type(node)] >= HALF_LINE
        return whole and pointer.name in self.past and self.even and self._starts_even(place)

    def number(self, node: Node, value: float) -> Value:
        """A number as it is stored for a node: in every lane, where there are lanes."""
        type_ = memory_type(node)
        return constant(value, vector(self.lanes, type_) if self.lane is not None else type_)

    def store(self, node: Node, value: Value, pointer: Value, place: Index) -> None:
        """Writes an element; with a lane variable the lanes that exist, side by side or scattered."""
        if value.element == "i1":
            value = self.f.convert("zext", value, "i8")
        if not self.is_vector(place):
            self.f.store(value, self.address(node, pointer, place))
            return
        value, mask = self.broadcast(value), self.mask
        factor = self.slope(place)
        if factor == 1:
            start = self.address(node, pointer, place)
            if mask is None:
                self.f.store(value, start, past=self.passes(node, pointer, place))
            else:
                self.f.masked_store(value, start, mask)
            return
        if factor == -1:
            start = self.address(node, pointer, place)
            start = self.f.emit(f"getelementptr {value.element}, {start}, i64 {1 - self.lanes}", "ptr")
            if mask is None:
                self.f.store(self.reverse(value), start)
            else:
                self.f.masked_store(self.reverse(value), start, self.reverse(mask))
            return
        if factor is None:
            self.f.scatter(value, pointer, self.index(place), mask)
        else:
            self.f.scatter(value, self.address(node, pointer, place), self._strides(factor), mask)
