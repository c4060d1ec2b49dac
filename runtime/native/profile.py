"""Times each kernel of a plan by itself, on copies of the memory that it has in the step.

Knows how to compile one kernel alone.  Must not know how kernels are lowered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from graphc.ir import Graph
from graphc.plan import Buffer, Kernel, Plan, Role

from .executable import Native


def alone(kernel: Kernel) -> Plan:
    """A plan of this kernel only: everything it reads is an input, everything it writes an output."""
    reads = tuple(Buffer(f"i{k}", b.type, Role.INPUT, position=k) for k, b in enumerate(kernel.reads))
    writes = tuple(Buffer(f"o{k}", b.type, Role.OUTPUT, position=k) for k, b in enumerate(kernel.writes))
    single = replace(kernel, reads=reads, writes=writes)
    return Plan((single,), reads, writes, (), ())


def time_kernels(plan: Plan, inputs: Sequence[np.ndarray], repeat: int) -> list[tuple[Kernel, float]]:
    """(kernel, least seconds of `repeat` runs) on one thread, for every kernel; operands are inputs' and cells' values."""
    generator = np.random.default_rng(0)
    rows = []
    for kernel in plan.kernels:
        arrays = []
        for buffer in kernel.reads:
            home = plan.home(buffer)
            if home in plan.inputs:
                arrays.append(inputs[plan.inputs.index(home)])
            elif home.cell is not None:
                arrays.append(home.cell.array.copy())
            elif home.array is not None:
                arrays.append(np.ascontiguousarray(home.array))
            else:
                arrays.append(generator.uniform(0.1, 1.0, buffer.type.shape).astype(buffer.type.dtype.numpy))
        body = Graph((), ())
        native = Native(body, alone(kernel), 1)
        call, _ = native.bind(arrays)
        best = float("inf")
        for _ in range(max(repeat, 1)):
            start = perf_counter()
            call()
            best = min(best, perf_counter() - start)
        rows.append((kernel, best))
    return rows
