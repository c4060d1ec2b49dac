"""Places every temporary in one arena.

Knows sizes and the first and last step at which each buffer is used.  Must not know what kernels compute.

Buffers that are alive at the same time never overlap; a result may take over the memory of an operand that dies with
the same kernel where the kernel says it works in place.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from operator import itemgetter

from graphc.cells import Cell
from graphc.ir import Graph
from graphc.plan import Buffer, Plan, Role, Step, align
from graphc.records import record

from .fuse import Fused
from .schedule import Schedule


@record()
class Life:
    """Steps from the one that writes a buffer to the last one that reads it."""

    first: int
    last: int


def plan_memory(graph: Graph, fused: Fused, schedule: Schedule) -> Plan:
    """The finished Plan: steps, buffers and offsets."""
    aliases = dict(schedule.aliases)
    lives = lifetimes(schedule, aliases)
    reuse_operands(schedule.kernels, aliases, lives)
    own: dict[Buffer, Life] = {}
    for buffer, life in lives.items():
        home = root(aliases, buffer)
        if home.role is not Role.TEMPORARY:
            continue
        known = own.setdefault(home, Life(life.first, life.last))
        known.first, known.last = min(known.first, life.first), max(known.last, life.last)
    steps = len(schedule.kernels) + 1
    live = [0] * (steps + 1)
    for buffer, life in own.items():
        for step in range(life.first, life.last + 1):
            live[step] += align(max(buffer.bytes, 1))
    offsets, total = place(own, max(live, default=0))
    used = [*fused.leaves.values(), *(home for _, home in schedule.copies), *schedule.aliases.values()]
    cells: dict[Cell, Buffer] = {b.cell: b for b in used if b.cell is not None}
    return Plan(
        steps=schedule.kernels,
        inputs=tuple(fused.leaves[i] for i in graph.inputs),
        outputs=schedule.outputs,
        cells=tuple(cells[c] for c in graph.cells() if c in cells) if cells else (),
        constants=tuple(b for b in fused.leaves.values() if b.role is Role.CONSTANT),
        copies=schedule.copies, offsets=offsets, arena_bytes=total, live_bytes=max(live, default=0),
        aliases=aliases)


def root(aliases: dict[Buffer, Buffer], buffer: Buffer) -> Buffer:
    while buffer in aliases:
        buffer = aliases[buffer]
    return buffer


def lifetimes(schedule: Schedule, aliases: dict[Buffer, Buffer]) -> dict[Buffer, Life]:
    """For every temporary, in steps; copies happen after the last kernel."""
    lives: dict[Buffer, Life] = {}
    for step, kernel in enumerate(schedule.kernels):
        for buffer in (*kernel.writes, *kernel.workspace):
            lives[buffer] = Life(step, step)
        for buffer in kernel.reads:
            if buffer in lives:
                lives[buffer].last = step
    end = len(schedule.kernels)
    for source, target in schedule.copies:
        for buffer in (source, target):
            if buffer in lives:
                lives[buffer].last = end
            elif buffer.role is Role.TEMPORARY:
                lives[buffer] = Life(end, end)
    return lives


def reuse_operands(kernels: tuple[Step, ...], aliases: dict[Buffer, Buffer], lives: dict[Buffer, Life]) -> None:
    """Lets a result live where an operand that dies with the kernel lived."""
    for step, kernel in enumerate(kernels):
        taken: set[Buffer] = set()
        for w, r in sorted(kernel.in_place):
            new, old = kernel.writes[w], kernel.reads[r]
            if new in aliases or old not in lives or old in aliases or old in taken or lives[old].last != step:
                continue
            if any(root(aliases, other) is old and other is not old and lives[other].last >= step for other in aliases):
                continue
            aliases[new] = old
            taken.add(old)


Order = Callable[[Buffer], tuple[int, ...]]
CLOSE = 1.02  # a placement within this factor of the lower bound is good enough
ATTEMPTS, EFFORT = 200, 8_000  # placements tried at most, and buffers placed in all of them


def place(lives: dict[Buffer, Life], bound: int) -> tuple[dict[Buffer, int], int]:
    """Offsets such that buffers alive together do not overlap, and the bytes they take; `bound` is the least possible.

    Large ones first, each in the tightest gap, is the greedy-by-size heuristic of Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference" (2020).  Where that is above the bound, other orders are tried, and then small
    changes of the best one, drawn from a fixed seed.
    """
    def area(buffer: Buffer) -> int:
        return buffer.bytes * (lives[buffer].last - lives[buffer].first + 1)

    orders: tuple[Order, ...] = (lambda b: (-b.bytes, lives[b].first), lambda b: (-area(b), lives[b].first),
                                 lambda b: (lives[b].first, -b.bytes), lambda b: (-lives[b].last, -b.bytes))
    best: tuple[dict[Buffer, int], int] | None = None
    order: list[Buffer] = []
    for key in orders:
        tried = sorted(lives, key=key)
        found = place_in(tried, lives)
        if best is None or found[1] < best[1]:
            best, order = found, tried
        if best[1] <= CLOSE * bound:
            return best
    assert best is not None
    from random import Random  # slow to import, and most plans do not come here

    chance = Random(0)
    for _ in range(min(ATTEMPTS, EFFORT // len(order)) if best[1] > CLOSE * bound else 0):
        top = [b for b in order if best[0][b] + align(max(b.bytes, 1)) == best[1]]
        moved = chance.choice(top)
        tried = [b for b in order if b is not moved]
        tried.insert(chance.randrange(order.index(moved) + 1), moved)
        i, j = chance.randrange(len(tried)), chance.randrange(len(tried))
        tried[i], tried[j] = tried[j], tried[i]
        found = place_in(tried, lives)
        if found[1] <= best[1]:
            best, order = found, tried
        if best[1] <= CLOSE * bound:
            break
    return best


def place_in(order: Sequence[Buffer], lives: dict[Buffer, Life]) -> tuple[dict[Buffer, int], int]:
    """Places buffers in this order, each in the tightest gap that fits; and the bytes they take."""
    placed: list[tuple[int, int, Life]] = []  # by offset
    offsets: dict[Buffer, int] = {}
    for buffer in order:
        life, size = lives[buffer], align(max(buffer.bytes, 1))
        best, gap, free = None, None, 0
        for start, end, other in placed:
            if other.first > life.last or life.first > other.last:
                continue
            if start - free >= size and (gap is None or start - free < gap):
                best, gap = free, start - free
            free = max(free, end)
        offset = free if best is None else best
        offsets[buffer] = offset
        insort(placed, (offset, offset + size, life), key=itemgetter(0))
    return offsets, max((end for _, end, _ in placed), default=0)
