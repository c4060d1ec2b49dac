"""Ops that hold graphs: `scan` repeats one, `cond` runs one of two.

Knows how a nested graph's inputs and outputs meet the operands.  Must not know how symbols are traced into nested graphs,
or how loops run.

A nested graph is closed: it reads its own inputs and nothing else, so whatever it takes from outside is an operand.  Its
inputs are `formal` nodes, equal by position and type, so that equal bodies are equal graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..ir import Graph
from ..op import Kind, Op, define
from ..types import Size, TensorType, bool_
from .bodies import formal
from .loop_gradients import cond_gradients, scan_gradients

Evaluate = Callable[[Graph, Sequence[np.ndarray]], list[np.ndarray]]

# -- scan ------------------------------------------------------------------------------------------------------------


def _scan_type(*types: TensorType, carries: int, sequences: int, length: Size, reverse: bool, graphs: tuple[Graph, ...],
               recompute: bool = False) -> tuple[TensorType, ...]:
    (body,) = graphs
    if len(types) != len(body.inputs):
        raise ShapeError(f"the body takes {len(body.inputs)} operands, there are {len(types)}")
    for position, (given, inside) in enumerate(zip(types, body.inputs, strict=True)):
        wanted = inside.type
        if carries <= position < carries + sequences:
            wanted = TensorType(wanted.dtype, (length, *wanted.shape))
        if given != wanted:
            raise ShapeError(f"operand {position} is {given}, the body takes {wanted}")
    for position, out in enumerate(body.outputs[:carries]):
        if out.type != types[position]:
            raise ShapeError(f"carry {position} starts as {types[position]}, a step makes it {out.type}")
    return (*types[:carries], *(TensorType(o.dtype, (length, *o.shape)) for o in body.outputs[carries:]))


def _scan(*arrays: np.ndarray, carries: int, sequences: int, length: int, reverse: bool, graphs: tuple[Graph, ...],
          evaluate: Evaluate, recompute: bool = False) -> Any:
    (body,) = graphs
    carried, rest = list(arrays[:carries]), arrays[carries:]
    stacks = [np.empty((length, *o.shape), o.dtype.numpy) for o in body.outputs[carries:]]
    for step in reversed(range(length)) if reverse else range(length):
        results = evaluate(body, [*carried, *(s[step] for s in rest[:sequences]), *rest[sequences:]])
        carried = results[:carries]
        for stack, value in zip(stacks, results[carries:], strict=True):
            stack[step] = value
    results = [np.array(c) for c in carried] + stacks
    return tuple(results) if len(results) > 1 else results[0]


scan = define(Op(
    "scan", Kind.LOOP, _scan_type, _scan, scan_gradients, dtypes="fib",
    doc="`length` runs of a nested graph.  Operands: what is handed from run to run, sequences of which each run reads one "
        "entry, and what every run reads.  Results: what the last run handed on, and what the runs gave, stacked.  With "
        "`recompute`, the gradient keeps nothing but what is handed from run to run."))


# -- cond ------------------------------------------------------------------------------------------------------------


def _cond_type(flag: TensorType, *types: TensorType, graphs: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    then, otherwise = graphs
    if flag != TensorType(bool_, ()):
        raise ShapeError(f"the condition is {flag}, a branch needs bool[]")
    for branch in graphs:
        if tuple(i.type for i in branch.inputs) != types:
            raise ShapeError(f"a branch takes {', '.join(str(i.type) for i in branch.inputs)}, the operands are "
                             f"{', '.join(map(str, types))}")
    results = tuple(o.type for o in then.outputs)
    other = tuple(o.type for o in otherwise.outputs)
    if results != other:
        raise ShapeError(f"one branch gives {', '.join(map(str, results))}, the other {', '.join(map(str, other))}")
    return results


def _cond(flag: np.ndarray, *arrays: np.ndarray, graphs: tuple[Graph, ...], evaluate: Evaluate) -> Any:
    results = [np.array(r) for r in evaluate(graphs[0] if flag else graphs[1], arrays)]
    return tuple(results) if len(results) > 1 else results[0]


cond = define(Op(
    "cond", Kind.COND, _cond_type, _cond, cond_gradients, dtypes="fib",
    doc="The results of the first nested graph where the condition holds, else of the second.  Only one of them runs."))

__all__ = ["cond", "formal", "scan"]
