"""The order of kernels that needs the least memory, of a few that are tried.

Knows which kernel must follow which, and sizes.  Must not know what kernels compute or where buffers lie.

Three orders are tried and the one with the smallest peak is taken, the first of equals: the graph's own; the graph's own,
but a kernel that frees memory goes first; and always the kernel that adds least.  The second keeps a gradient no longer
than until its update, and computes nothing again before it is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from typing import Any

from graphc.plan import Buffer, Step, align

Priority = Callable[[int, int], Any]  # (kernel, bytes that it adds) -> what the smallest of goes first


class Memory:
    """The bytes of temporaries alive while kernels run one after another.

    counted   temporaries that take memory of their own
    kept      those of them that are needed after the last kernel
    """

    def __init__(self, kernels: Sequence[Step], counted: Collection[Buffer], kept: Collection[Buffer] = ()) -> None:
        self.writes = [[b for b in dict.fromkeys(k.writes) if b in counted] for k in kernels]
        self.reads = [[b for b in dict.fromkeys(k.reads) if b in counted] for k in kernels]
        self.shared = [[(k.writes[w], k.reads[r]) for w, r in sorted(k.in_place) if k.writes[w] in counted]
                       for k in kernels]
        self.workspace = [sum(align(b.bytes) for b in k.workspace) for k in kernels]
        self.size = {b: align(b.bytes) for b in counted}
        self.waiting = dict.fromkeys(counted, 0)  # kernels still to read it
        for reads in self.reads:
            for buffer in reads:
                self.waiting[buffer] += 1
        for buffer in kept:
            if buffer in self.waiting:
                self.waiting[buffer] += 1
        self.live = self.peak = 0

    def added(self, i: int) -> int:
        """How many bytes more are alive after kernel i than before it."""
        return (sum(self.size[b] for b in self.writes[i] if self.waiting[b])
                - sum(self.size[b] for b in self.reads[i] if self.waiting[b] == 1))

    def run(self, i: int) -> None:
        """Takes kernel i as the next one."""
        during = self.live + self.workspace[i] + sum(self.size[b] for b in self.writes[i])
        taken: set[Buffer] = set()
        for new, old in self.shared[i]:  # works in place: the result lives where an operand lived
            if self.waiting.get(old) == 1 and old not in taken and new not in taken:
                during -= min(self.size[new], self.size[old])
                taken |= {new, old}
        self.peak = max(self.peak, during)
        self.live += self.added(i)
        for buffer in self.reads[i]:
            self.waiting[buffer] -= 1


def ordered(after: Sequence[Collection[int]], memory: Memory, priority: Priority, fixed: bool = False) -> list[int]:
    """A topological order in which, of the kernels that are ready, the one of smallest priority goes first.

    after   for each kernel those that must follow it
    fixed   priorities never change, so that they need not be asked for again
    """
    missing = [0] * len(after)
    for following in after:
        for i in following:
            missing[i] += 1
    ready = [(priority(i, 0), i) for i, n in enumerate(missing) if n == 0]
    heapq.heapify(ready)
    result = []
    while ready:
        if fixed:
            _, i = heapq.heappop(ready)
        else:
            place = min(range(len(ready)), key=lambda p: priority(ready[p][1], memory.added(ready[p][1])))
            _, i = ready.pop(place)
        result.append(i)
        memory.run(i)
        for j in after[i]:
            missing[j] -= 1
            if not missing[j]:
                if fixed:
                    heapq.heappush(ready, (priority(j, 0), j))
                else:
                    ready.append((0, j))
    assert len(result) == len(after), "kernels depend on each other in a circle"
    return result


def least_memory(kernels: Sequence[Step], after: Sequence[Collection[int]], counted: Collection[Buffer],
                 kept: Collection[Buffer] = ()) -> list[int]:
    """The best of the orders that the module docstring names."""
    best: list[int] = []
    least: int | None = None
    tried: tuple[tuple[Priority, bool], ...] = (
        (lambda i, added: i, True),
        (lambda i, added: (min(added, 0), i), False),
        (lambda i, added: (added, i), False))
    for priority, fixed in tried:
        memory = Memory(kernels, counted, kept)
        order = ordered(after, memory, priority, fixed)
        if least is None or memory.peak < least:
            best, least = order, memory.peak
    return best
