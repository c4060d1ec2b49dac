"""Decides which updates happen in place, and what must follow what; `order` picks the order.

Knows what each kernel reads, writes and may do in place.  Must not know what kernels compute.

A kernel that writes a cell in place must follow every kernel that reads the cell's old value.  Where that would be a
cycle (``w1' = f(w2), w2' = f(w1)``) the new value goes to a temporary and is copied after all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir import Graph
from graphc.plan import Buffer, Kernel, Role, Step
from graphc.records import NamedTuple

from .fuse import Fused
from .order import least_memory

SMALL = 64  # bytes: what such kernels write


class Schedule(NamedTuple):
    """Kernels in order; temporaries that live in other memory; copies after the last kernel."""

    kernels: tuple[Step, ...]
    outputs: tuple[Buffer, ...]
    aliases: dict[Buffer, Buffer]
    copies: tuple[tuple[Buffer, Buffer], ...]


class Dependencies:
    """Which kernel must come before which."""

    def __init__(self, kernels: Sequence[Step], waits: Mapping[Buffer, Sequence[Buffer]]) -> None:
        self.kernels = kernels
        self.writer = {b: i for i, k in enumerate(kernels) for b in k.writes}
        self.readers: dict[Buffer, list[int]] = {}
        self.after: list[set[int]] = [set() for _ in kernels]  # i -> those that must follow i
        for i, kernel in enumerate(kernels):
            for buffer in kernel.reads:
                self.readers.setdefault(buffer, []).append(i)
                if buffer in self.writer and self.writer[buffer] != i:
                    self.after[self.writer[buffer]].add(i)
        for written, awaited in waits.items():
            for buffer in awaited:  # a wish: where what is awaited needs the kernel itself, it runs first all the same
                if not self.reaches(self.writer[written], {self.writer[buffer]}):
                    self.after[self.writer[buffer]].add(self.writer[written])

    def reaches(self, start: int, goals: set[int]) -> bool:
        """Whether any goal must follow `start`."""
        stack, seen = [start], {start}
        while stack:
            for following in self.after[stack.pop()]:
                if following in goals:
                    return True
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        return False


def schedule(graph: Graph, fused: Fused) -> Schedule:
    """Orders the kernels of a fused graph and places its results.

    graph    the graph that was fused; its roots say which buffers are outputs and which are new values of cells
    """
    kernels = fused.kernels
    dependencies = Dependencies(kernels, fused.waits)
    cells = {b.cell: b for b in fused.leaves.values() if b.cell is not None}
    aliases: dict[Buffer, Buffer] = {}
    copies: list[tuple[Buffer, Buffer]] = []
    for cell, value in graph.updates:
        new, home = fused.buffer(value), cells.get(cell)
        if home is None:
            home = cells[cell] = Buffer(cell.name, cell.type, Role.CELL, cell=cell)
        if new is home:
            continue  # the update changes nothing
        if new.role is Role.TEMPORARY and new not in aliases and update_in_place(dependencies, new, home):
            aliases[new] = home
        else:
            copies.append((new, home))
    copies = break_swaps(copies)
    outputs = []
    for position, value in enumerate(graph.outputs):
        source = fused.buffer(value)
        out = Buffer(f"out{position}", value.type, Role.OUTPUT, position=position)
        outputs.append(out)
        if source.role is Role.TEMPORARY and source not in aliases:
            aliases[source] = out
        else:
            copies.insert(0, (source, out))  # outputs first: a cell's old value is read before its update is copied
    own = {b for k in kernels for b in k.writes if b not in aliases}
    order = least_memory(kernels, dependencies.after, own, [source for source, _ in copies])
    order = small_ones_first(order, kernels, dependencies.after)
    return Schedule(tuple(kernels[i] for i in order), tuple(outputs), aliases, tuple(copies))


def small_ones_first(order: Sequence[int], kernels: Sequence[Step], after: Sequence[set[int]]) -> list[int]:
    """The order, but with kernels of a few numbers that wait for nothing at the front: rates and other numbers of the step.

    There threads need not meet for them alone.
    """
    waiting = {j for following in after for j in following}
    first = []
    for i in order:
        kernel = kernels[i]
        if after[i] and i not in waiting and isinstance(kernel, Kernel) and sum(b.bytes for b in kernel.writes) <= SMALL:
            first.append(i)
    early = set(first)
    return [*first, *(i for i in order if i not in early)]


def update_in_place(dependencies: Dependencies, new: Buffer, home: Buffer) -> bool:
    """Makes the writer of `new` follow all readers of the old value; False where that is impossible."""
    writer = dependencies.writer[new]
    kernel = dependencies.kernels[writer]
    readers = {i for i in dependencies.readers.get(home, ()) if i != writer}
    if home in kernel.reads and (kernel.writes.index(new), kernel.reads.index(home)) not in kernel.in_place:
        return False
    if dependencies.reaches(writer, readers):
        return False
    for reader in readers:
        dependencies.after[reader].add(writer)
    return True


def break_swaps(copies: list[tuple[Buffer, Buffer]]) -> list[tuple[Buffer, Buffer]]:
    """Copies from cell to cell go through temporaries: every source is read before any cell changes."""
    targets = {home for _, home in copies}
    first: list[tuple[Buffer, Buffer]] = []
    second: list[tuple[Buffer, Buffer]] = []
    for new, home in copies:
        if new.role is Role.CELL and new in targets:
            kept = Buffer(f"old_{new.name}", new.type, Role.TEMPORARY)
            first.append((new, kept))
            new = kept
        second.append((new, home))
    return first + second


