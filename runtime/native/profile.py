"""Times each kernel of a plan by itself, on copies of the memory that it has in the step.

Knows how to compile one kernel alone.  Must not know how kernels are lowered.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from graphc.ir import Cell, Graph
from graphc.plan import Buffer, Kernel, Plan, Role
from graphc.records import replace

from .executable import Native


def alone(plan: Plan, kernel: Kernel, inputs: Sequence[np.ndarray]) -> tuple[Plan, list[np.ndarray]]:
    """A plan of this kernel only, and its inputs: in place where the kernel is so in the step, on copies of the cells."""
    generator = np.random.default_rng(0)
    own: dict[Buffer, Buffer] = {}  # by the memory that a buffer shares in the step
    given: list[np.ndarray] = []
    written = {plan.home(b) for b in kernel.writes}
    for buffer in kernel.reads:
        home = plan.home(buffer)
        if home in own:
            continue
        if home in plan.inputs and home not in written:
            own[home] = Buffer(f"i{len(given)}", buffer.type, Role.INPUT, position=len(given))
            given.append(inputs[plan.inputs.index(home)])
            continue
        values = home.array if home.cell is None else home.cell.array
        if values is None:
            values = generator.uniform(0.1, 1.0, buffer.type.shape)
        cell = Cell(home.name, np.reshape(values, buffer.type.shape), False, buffer.type.dtype)
        own[home] = Buffer(home.name, buffer.type, Role.CELL, cell=cell)
    writes: list[Buffer] = []
    outputs: list[Buffer] = []
    aliases: dict[Buffer, Buffer] = {}
    for buffer in kernel.writes:
        shared = own.get(plan.home(buffer))
        if shared is None:
            writes.append(Buffer(f"o{len(outputs)}", buffer.type, Role.OUTPUT, position=len(outputs)))
            outputs.append(writes[-1])
        else:
            writes.append(Buffer(buffer.name, buffer.type, Role.TEMPORARY))
            aliases[writes[-1]] = shared
    single = replace(kernel, reads=tuple(own[plan.home(b)] for b in kernel.reads), writes=tuple(writes))
    buffers = {role: tuple(b for b in own.values() if b.role is role) for role in Role}
    return Plan((single,), buffers[Role.INPUT], tuple(outputs), buffers[Role.CELL], (), aliases=aliases), given


def time_kernels(plan: Plan, inputs: Sequence[np.ndarray], repeat: int) -> list[tuple[Kernel, float]]:
    """(kernel, least seconds of `repeat` runs) on one thread, for every kernel; operands are inputs' and cells' values."""
    rows = []
    for kernel in plan.kernels:
        single, given = alone(plan, kernel, inputs)
        call, _ = Native(Graph((), ()), single, 1).bind(given)
        best = float("inf")
        for _ in range(max(repeat, 1)):
            start = perf_counter()
            call()
            best = min(best, perf_counter() - start)
        rows.append((kernel, best))
    return rows
