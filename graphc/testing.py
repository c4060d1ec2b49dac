"""Checks for users' own graphs: numeric gradients, and agreement of the two backends.

Knows finite differences and programs.  Must not know any op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .driver import Program
from .errors import GraphError
from .ir import Graph
from .passes.autodiff import grad
from .passes.expand import expand_composites
from .runtime.interpreter import evaluate_graph
from .tensor import Tensor, placeholder
from .types import as_dtype


class GradientError(GraphError, AssertionError):
    """A symbolic gradient that disagrees with finite differences."""


def _scalar(out: Tensor, seed: int) -> Tensor:
    """A random projection through a non-linear function: no symmetry of the output hides an error."""
    from .ops.elementwise import sin

    generator = np.random.default_rng(seed)
    weights = generator.uniform(0.5, 1.5, out.shape)
    shifts = generator.uniform(-0.3, 0.3, out.shape)
    return (sin(out * 0.7 + shifts) * weights).sum()


def gradcheck(fn: Callable[..., Tensor], inputs: Sequence[Any], *, eps: float = 1e-6, atol: float = 1e-5,
              rtol: float = 1e-3, order: int = 1) -> bool:
    """Compares symbolic gradients of `fn` with central differences, in float64.

    fn      takes one symbol per input and returns a symbol of any shape
    inputs  arrays; floating ones are checked (as float64), others are passed on
    order   2 checks the gradient's own gradient as well
    Returns True.  Raises GradientError with the op, the input and the worst element, also where a floating input has no
    influence at all: a check of nothing would pass for the wrong reason.
    """
    arrays = [np.array(a, dtype=np.float64) if np.asarray(a).dtype.kind == "f" else np.asarray(a) for a in inputs]
    symbols = [placeholder(f"x{i}", a.shape, as_dtype(a.dtype)) for i, a in enumerate(arrays)]
    out = fn(*symbols)
    if not isinstance(out, Tensor):
        raise GraphError(f"gradcheck: fn must return a symbol, got {type(out).__name__}")
    if not out.dtype.is_float:
        raise GraphError(f"gradcheck: the result of '{out.node.op.name}' is {out.type}, which has no gradient")
    checked = [i for i, a in enumerate(arrays) if a.dtype == np.float64]
    if not checked:
        raise GraphError("gradcheck: no floating input to differentiate by")
    value = _scalar(out, 0)
    _check(value, symbols, arrays, checked, out.node.op.name, eps, atol, rtol)
    if order >= 2:
        gradients = grad(value, [symbols[i] for i in checked], allow_unused=True)
        for k, gradient in enumerate(gradients):
            if _constant(gradient, [symbols[i] for i in checked]):
                continue
            _check(_scalar(gradient, k + 1), symbols, arrays, checked, f"gradient of {out.node.op.name}", eps, atol * 10,
                   rtol, vacuous_allowed=True)
    return True


def _constant(tensor: Tensor, wrt: Sequence[Tensor]) -> bool:
    from .ir import topological

    below = set(topological([tensor.node]))
    return not any(w.node in below for w in wrt)


def _check(value: Tensor, symbols: Sequence[Tensor], arrays: Sequence[np.ndarray], checked: Sequence[int], what: str,
           eps: float, atol: float, rtol: float, vacuous_allowed: bool = False) -> None:
    gradients = grad(value, [symbols[i] for i in checked], allow_unused=True)
    nodes = tuple(s.node for s in symbols)
    both = expand_composites(Graph(nodes, (value.node, *(g.node for g in gradients))))
    only = expand_composites(Graph(nodes, (value.node,)))

    def compute(graph: Graph, at: Sequence[np.ndarray]) -> list[np.ndarray]:
        return evaluate_graph(graph, dict(zip(nodes, at, strict=True)))

    symbolic = compute(both, arrays)[1:]
    moved_by_any = False
    for k, i in enumerate(checked):
        numeric = np.zeros_like(arrays[i])
        for place in np.ndindex(arrays[i].shape):
            ends = []
            for sign in (1, -1):
                trial = [a.copy() for a in arrays]
                trial[i][place] += sign * eps
                ends.append(float(compute(only, trial)[0]))
            numeric[place] = (ends[0] - ends[1]) / (2 * eps)
        error = np.abs(symbolic[k] - numeric)
        bad = ~(error <= atol + rtol * np.abs(numeric))
        if bad.any():
            place = np.unravel_index(np.nanargmax(np.where(np.isnan(error), np.inf, error)), error.shape)
            raise GradientError(f"{what}: gradient by input {i} is wrong at {[int(p) for p in place]}: symbolic "
                                f"{symbolic[k][place]:.9g}, numeric {numeric[place]:.9g}")
        influence = bool(np.abs(numeric).max(initial=0.0) > atol)
        moved_by_any |= influence
        if not influence and not vacuous_allowed and arrays[i].size:
            raise GradientError(f"{what}: input {i} has no influence on the result: there is nothing to check")


def assert_backends_agree(program: Program, feeds: Mapping[str, Any] | Sequence[Any], *, rtol: float = 1e-5,
                          atol: float = 1e-6, steps: int = 1) -> None:
    """Runs a program natively and on numpy from the same state and compares outputs and new states.

    The program's parameters are as before afterwards.  Raises AssertionError naming what differs.
    """
    cells = program.graph.cells()
    start = {c: c.array.copy() for c in cells}
    results = []
    for backend in ("native", "numpy"):
        twin = Program(program.graph, program.structure, backend=backend, threads=program.threads, name=program.name)
        positional = () if isinstance(feeds, Mapping) else tuple(feeds)
        named = dict(feeds) if isinstance(feeds, Mapping) else {}
        outputs: list[np.ndarray] = []
        try:
            for _ in range(steps):
                outputs = _flat(twin(*positional, **named))
            results.append([*outputs, *(c.array.copy() for c in cells)])
        finally:
            for cell, value in start.items():
                cell.array[...] = value
    names = [*(program.graph.output_names or ["output"] * len(program.graph.outputs)), *(c.name for c in cells)]
    for name, native, reference in zip(names, *results, strict=True):
        np.testing.assert_allclose(native, reference, rtol=rtol, atol=atol, equal_nan=True,
                                   err_msg=f"'{name}': native and numpy differ")


def _flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, Mapping):
        return [leaf for v in value.values() for leaf in _flat(v)]
    if isinstance(value, (list, tuple)):
        return [leaf for v in value for leaf in _flat(v)]
    return [np.asarray(value)]


__all__ = ["GradientError", "assert_backends_agree", "gradcheck"]
