"""What a backend measured of a step: who ran which part of it, from when to when.

Knows records of spans.  Must not know what reads them, or how the native backend takes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from graphc.ir import Graph, Node, topological

from .interpreter import Values, compute

if TYPE_CHECKING:
    from graphc.plan import Kernel

WAIT = "wait"  # part 0 of every trace: until the other threads are there
COPIES = "copies"  # what no kernel does: values that are moved to where they belong

# `run` is the number of a kernel's run within the step, counted through all loops around it; times in microseconds
RECORD = np.dtype([("part", np.int32), ("thread", np.int32), ("run", np.int64), ("start", np.float64), ("end", np.float64)])


class Trace(NamedTuple):
    """Steps of a program, span by span.

    parts    what may take time; number 0 is WAIT
    steps    of each step its spans (RECORD), by thread and then in time
    bounds   when each thread began and ended a step, float64 [steps, threads, 2]; the first to begin does so at 0
    plain    microseconds of steps that nobody watched, taken in turns with the others
    """

    parts: tuple[Kernel | Node | str, ...]
    steps: tuple[np.ndarray, ...]
    bounds: np.ndarray
    plain: np.ndarray


def in_order(records: np.ndarray) -> np.ndarray:
    """Spans by thread, and then by when they began; of two that began together the longer one first, as it holds the other."""
    return records[np.lexsort((-records["end"], records["start"], records["thread"]))]


def trace_interpreted(graph: Graph, inputs: Sequence[np.ndarray], repeat: int, plain: Callable[[], object]) -> Trace:
    """`repeat` steps of the interpreter, node by node, on the thread that calls.  Cells are updated in place.

    plain   runs a step that nobody watches, before each of those
    """
    order = [n for n in topological(graph.roots) if not n.op.is_given]
    steps, bounds, seconds = [], np.zeros((repeat, 1, 2)), np.zeros(repeat)
    clock = time.perf_counter_ns
    for step in range(repeat):
        before = clock()
        plain()
        begin = clock()
        seconds[step] = (begin - before) / 1e3
        marks: list[tuple[int, int]] = []
        values: Values = dict(zip(graph.inputs, inputs, strict=True))
        with np.errstate(all="ignore"):
            for node in topological(graph.roots):
                if node in values:
                    continue
                start = clock()
                values[node] = compute(node, [values[i] for i in node.inputs], {})
                if not node.op.is_given:
                    marks.append((start, clock()))
        start = clock()
        results = [np.array(values[n], copy=True) for n in graph.roots]
        for (cell, _), value in zip(graph.updates, results[len(graph.outputs):], strict=True):
            cell.array[...] = value
        marks.append((start, clock()))
        times = (np.array(marks) - begin) / 1e3
        bounds[step, 0, 1] = times[-1, 1]
        records = np.zeros(len(marks), RECORD)
        records["part"] = np.arange(1, len(marks) + 1)
        records["start"], records["end"] = times.T
        steps.append(records)
    return Trace((WAIT, *order, COPIES), tuple(steps), bounds, seconds)
