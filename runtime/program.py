"""What every backend offers: a specialised step that can be run.

Knows arrays in, arrays out.  Must not know which backend it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from graphc.ir import Graph

from .interpreter import evaluate_graph

if TYPE_CHECKING:
    from graphc.plan import Plan

    from .trace import Trace


class Runs(Protocol):
    """A step for fixed sizes that can be run.  Cells are updated in place."""

    threads: int  # that run it

    @property
    def scratch_bytes(self) -> int:
        """Memory of the backend's own, beside the plan's."""
        ...

    def run(self, inputs: Sequence[np.ndarray], count: int, advance: Sequence[bool]) -> list[np.ndarray]:
        """Runs `count` steps; each output comes stacked, one entry per step.

        inputs   C-contiguous arrays of the exact types; where `advance` is true the array has a leading axis of
                 `count` and step i reads entry i, else every step reads the same array
        """
        ...

    def bind(self, inputs: Sequence[np.ndarray]) -> tuple[Callable[[], int], list[np.ndarray]]:
        """A function that runs one step on these very arrays, and the arrays that receive its outputs."""
        ...


class Executable(Runs, Protocol):
    """A step for fixed sizes that was compiled here, and can be looked at."""

    plan: Plan

    def trace(self, inputs: Sequence[np.ndarray], repeat: int) -> Trace:
        """Runs `repeat` steps on these arrays, and says what each thread did when."""
        ...


class Interpreted:
    """The numpy backend: the graph, node by node."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan

    scratch_bytes = 0
    threads = 1

    def run(self, inputs: Sequence[np.ndarray], count: int, advance: Sequence[bool]) -> list[np.ndarray]:
        outputs = [np.empty((count, *o.shape), o.dtype.numpy) for o in self.graph.outputs]
        for step in range(count):
            now = [a[step] if moves else a for a, moves in zip(inputs, advance, strict=True)]
            for stack, value in zip(outputs, self.step(now), strict=True):
                stack[step] = value
        return outputs

    def step(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One step: all values from the old cells, then all cells at once."""
        values = evaluate_graph(self.graph, dict(zip(self.graph.inputs, inputs, strict=True)))
        k = len(self.graph.outputs)
        results = [np.array(v, copy=True) for v in values[:k]]
        new = [np.array(v, copy=True) for v in values[k:]]
        for (cell, _), value in zip(self.graph.updates, new, strict=True):
            cell.array[...] = value
        return results

    def bind(self, inputs: Sequence[np.ndarray]) -> tuple[Callable[[], int], list[np.ndarray]]:
        outputs = [np.empty(o.shape, o.dtype.numpy) for o in self.graph.outputs]

        def call() -> int:
            for target, value in zip(outputs, self.step(inputs), strict=True):
                target[...] = value
            return 0

        return call, outputs

    def trace(self, inputs: Sequence[np.ndarray], repeat: int) -> Trace:
        from .trace import trace_interpreted

        return trace_interpreted(self.graph, inputs, repeat, lambda: self.step(inputs))
