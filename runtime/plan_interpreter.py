"""Runs a Plan with numpy on a real arena whose free bytes are poisoned: the proof that the memory plan is right.

Knows buffers, offsets and the interpreter.  Must not know fusion, LLVM or optimizers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.cells import Cell
from graphc.plan import Branch, Buffer, Kernel, Loop, Plan, Role, Step

from .interpreter import evaluate

POISON = 0xFF  # every float32 and float64 of these bytes is NaN


class Arena:
    """Memory for one run of a plan: arrays for every buffer, temporaries inside one block of bytes."""

    def __init__(self, plan: Plan, inputs: Sequence[np.ndarray], cells: dict[Cell, np.ndarray]) -> None:
        self.plan = plan
        self.bytes = np.full(max(1, plan.arena_bytes), POISON, np.uint8)
        self.outputs = {b: np.empty(b.type.shape, b.type.dtype.numpy) for b in plan.outputs}
        self.given: dict[Buffer, np.ndarray] = dict(zip(plan.inputs, inputs, strict=True))
        self.cells = cells

    def array(self, buffer: Buffer) -> np.ndarray:
        """The memory of a buffer, as an array of its type."""
        home = self.plan.home(buffer)
        if home.role is Role.TEMPORARY:
            start = self.plan.offsets[home]
            flat = self.bytes[start:start + buffer.bytes].view(buffer.type.dtype.numpy)
        elif home.cell is not None:
            flat = self.cells[home.cell].reshape(-1)
        elif home.array is not None:
            flat = home.array.reshape(-1)
        else:
            flat = (self.outputs if home in self.outputs else self.given)[home].reshape(-1)
        return flat.reshape(buffer.type.shape)


def run_kernel(kernel: Kernel, arena: Arena) -> None:
    """Evaluates the body on the kernel's buffers, then writes all results."""
    feeds = {node: arena.array(b).copy() for node, b in zip(kernel.body.inputs, kernel.reads, strict=True)}
    for buffer, value in zip(kernel.writes, evaluate(kernel.body.outputs, feeds), strict=True):
        arena.array(buffer)[...] = value


def run_loop(loop: Loop, arena: Arena) -> None:
    """Runs of the body, each on its own entries and on what the run before handed on."""
    count = loop.count or 0
    now = {c.read: arena.array(c.start).reshape(c.read.type.shape).copy() for c in loop.carried}
    shared = {inside: arena.array(outside).reshape(inside.type.shape) for outside, inside in loop.shared}
    whole = {inside: arena.array(outside).reshape(count, *inside.type.shape) for outside, inside in loop.sliced}
    for place in reversed(range(count)) if loop.reverse else range(count):
        given = {**now, **shared, **{inside: array[place] for inside, array in whole.items()}}
        results = dict(zip(loop.body.outputs, interpret_plan(loop.body, [given[b] for b in loop.body.inputs]), strict=True))
        now = {c.read: results[c.write] for c in loop.carried}
        for inside in results.keys() & whole.keys():
            whole[inside][place] = results[inside]
    for c in loop.carried:
        if c.last is not None:
            arena.array(c.last)[...] = now[c.read]


def run_branch(branch: Branch, arena: Arena) -> None:
    """The side that the flag names."""
    side = branch.then if arena.array(branch.flag) else branch.otherwise
    results = interpret_plan(side, [arena.array(b).reshape(i.type.shape).copy()
                                    for b, i in zip(branch.operands, side.inputs, strict=True)])
    for buffer, value in zip(branch.writes, results, strict=True):
        arena.array(buffer)[...] = value


def run_step(step: Step, arena: Arena) -> None:
    if isinstance(step, Kernel):
        run_kernel(step, arena)
    elif isinstance(step, Loop):
        run_loop(step, arena)
    else:
        run_branch(step, arena)


def interpret_loop(loop: Loop, count: int, inputs: Sequence[np.ndarray], advance: Sequence[bool],
                   cells: dict[Cell, np.ndarray] | None = None) -> list[np.ndarray]:
    """What `run(count)` gives: outputs of every run, stacked; where `advance` is true, run i reads entry i of an input."""
    runs = [interpret_plan(loop.body, [a[i] if moves else a for a, moves in zip(inputs, advance, strict=True)], cells)
            for i in range(count if loop.count is None else loop.count)]
    return [np.stack(parts) for parts in zip(*runs, strict=True)]


def interpret_plan(plan: Plan, inputs: Sequence[np.ndarray], cells: dict[Cell, np.ndarray] | None = None
                   ) -> list[np.ndarray]:
    """The outputs of a plan; cells (their own arrays unless given) are updated in place.

    After each step the bytes of temporaries that are not needed again are overwritten with NaN.
    """
    own = {b.cell: b.cell.array for b in plan.cells if b.cell is not None}
    arena = Arena(plan, inputs, {**own, **(cells or {})})
    last = {}
    for position, step in enumerate(plan.steps):
        for buffer in (*step.reads, *step.writes, *step.workspace):
            last[plan.home(buffer)] = position
    for source, _ in plan.copies:
        last[plan.home(source)] = len(plan.steps)
    for position, step in enumerate(plan.steps):
        run_step(step, arena)
        for home, final in last.items():
            if final == position and home.role is Role.TEMPORARY:
                start = plan.offsets[home]
                arena.bytes[start:start + home.bytes] = POISON
    for source, target in plan.copies:
        arena.array(target)[...] = arena.array(source).reshape(target.type.shape)
    return [arena.outputs[b] for b in plan.outputs]
