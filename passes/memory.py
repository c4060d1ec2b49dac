"""Places every temporary in one arena.

Knows sizes and the first and last step at which each buffer is used.  Must not know what kernels compute.

Buffers that are alive at the same time never overlap; a result may take over the memory of an operand that dies with
the same kernel where the kernel says it works in place.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir import Cell, Graph
from graphc.plan import Buffer, Plan, Role, Step, align

from .fuse import Fused
from .schedule import Schedule


@dataclass
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
    offsets, total = place(own)
    steps = len(schedule.kernels) + 1
    live = [0] * (steps + 1)
    for buffer, life in own.items():
        for step in range(life.first, life.last + 1):
            live[step] += align(buffer.bytes)
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


def place(lives: dict[Buffer, Life]) -> tuple[dict[Buffer, int], int]:
    """Offsets such that buffers alive together do not overlap: large ones first, each at the lowest place that fits.

    The order by size, then the tightest gap, is the greedy-by-size heuristic of Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference" (2020).
    """
    placed: list[tuple[int, int, Life]] = []
    offsets: dict[Buffer, int] = {}
    for buffer in sorted(lives, key=lambda b: (-b.bytes, lives[b].first)):
        life, size = lives[buffer], align(max(buffer.bytes, 1))
        best, gap, free = None, None, 0
        for start, end, _ in sorted((p for p in placed if p[2].first <= life.last and life.first <= p[2].last),
                                        key=lambda p: p[0]):
            if start - free >= size and (gap is None or start - free < gap):
                best, gap = free, start - free
            free = max(free, end)
        offset = free if best is None else best
        offsets[buffer] = offset
        placed.append((offset, offset + size, life))
    return offsets, max((end for _, end, _ in placed), default=0)
