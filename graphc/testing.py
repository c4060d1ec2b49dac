"""Checks for users' own graphs: gradients against finite differences, one backend against the other.

Knows how to perturb inputs and compare arrays, and how an op's record says it wants to be exercised.
Must not know which ops exist.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .cells import kept
from .driver import Program
from .errors import GraphError
from .ir import Node, make, topological
from .op import Kind, Op, Sample
from .passes.autodiff import grad
from .records import record
from .runtime.interpreter import evaluate
from .symbols import Tensor, placeholder
from .types import DType, as_dtype, bool_, float32, float64, int32, int64

MOST_ELEMENTS = 256  # of a larger input, this many elements drawn at random are perturbed


class GradientError(GraphError, AssertionError):
    """A gradient that finite differences contradict, or a check that would prove nothing."""


class BackendError(GraphError, AssertionError):
    """Two backends that disagree."""


# -- gradients against finite differences ----------------------------------------------------------------------------


def gradcheck(fn: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
              order: int = 1, zero_gradient: bool = False, seed: int = 0) -> bool:
    """Compares symbolic gradients with central finite differences, in float64.

    fn             takes one symbol per input and returns a floating symbol (or several)
    inputs         an array or a list of arrays; floating ones become float64 and are differentiated, others are fed
    eps            the step of the differences
    atol, rtol     a gradient passes where ``|symbolic - numeric| <= atol + rtol * |numeric|``
    order          1, or 2 to check the gradient of the gradient too
    zero_gradient  says that a gradient that is zero everywhere is expected; otherwise it is an error, as it would prove
                   nothing

    The outputs are projected on random directions through ``y + sin(y) / 2``, whose derivative is never zero, so that
    errors cannot cancel and second derivatives of linear functions are seen.  Returns True; raises GradientError with
    the op, the input and the worst element.
    """
    arrays = [_as_double(a) for a in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    symbols = [placeholder(f"input{k}", a.shape, as_dtype(a.dtype)) for k, a in enumerate(arrays)]
    given = fn(*symbols)
    outputs = list(given) if isinstance(given, (list, tuple)) else [given]
    rng = np.random.default_rng(seed)
    loss = _projected(outputs, rng)
    targets = [k for k, a in enumerate(arrays) if a.dtype == np.float64]
    if not targets:
        raise GradientError("gradcheck: no floating input to differentiate")
    wrt = [symbols[k] for k in targets]
    gradients = grad(loss, wrt, allow_unused=zero_gradient)
    check = _Check([s.node for s in symbols], arrays, targets, eps, atol, rtol, rng)
    failure = check.compare(loss, gradients, zero_gradient)
    if failure is not None:
        raise GradientError(f"gradcheck of {_described(outputs, check, failure)}")
    if order >= 2:
        second = _projected(gradients, rng)
        failure = check.compare(second, grad(second, wrt, allow_unused=True), True)
        if failure is not None:
            raise GradientError(f"gradcheck of {_described(outputs, check, failure)} (second order)")
    return True


def _as_double(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _projected(outputs: Sequence[Tensor], rng: np.random.Generator) -> Tensor:
    total: Tensor | None = None
    for out in outputs:
        if out.dtype != float64:
            raise GradientError(f"gradcheck: the function gives {out.type}; finite differences need float64 throughout")
        direction = rng.uniform(0.5, 1.5, out.shape) * rng.choice([-1.0, 1.0], out.shape)
        part = ((out + out.sin() * 0.5) * np.asarray(direction)).sum()
        total = part if total is None else total + part
    if total is None:
        raise GradientError("gradcheck: the function gives nothing")
    return total


@record()
class _Failure:
    """The worst element: of which input, where, and both gradients there; or a reason of another kind."""

    input: int
    place: tuple[int, ...]
    symbolic: float
    numeric: float
    reason: str = ""


@record()
class _Check:
    nodes: list[Node]
    arrays: list[np.ndarray]
    targets: list[int]
    eps: float
    atol: float
    rtol: float
    rng: np.random.Generator

    def value(self, roots: Sequence[Tensor]) -> list[np.ndarray]:
        return evaluate([r.node for r in roots], dict(zip(self.nodes, self.arrays, strict=True)))

    def slope(self, loss: Tensor, array: np.ndarray, place: tuple[int, ...]) -> float:
        kept, values = array[place], []
        for step in (self.eps, -self.eps):
            array[place] = kept + step
            values.append(float(self.value([loss])[0]))
        array[place] = kept
        return (values[0] - values[1]) / (2 * self.eps)

    def compare(self, loss: Tensor, gradients: Sequence[Tensor], zero_gradient: bool) -> _Failure | None:
        worst: _Failure | None = None
        worst_excess = 1.0
        for k, symbolic in zip(self.targets, self.value(gradients), strict=True):
            array = self.arrays[k] = self.arrays[k].copy()
            places = list(np.ndindex(array.shape))
            if len(places) > MOST_ELEMENTS:
                places = [places[i] for i in self.rng.choice(len(places), MOST_ELEMENTS, replace=False)]
            for place in places:
                numeric, found = self.slope(loss, array, place), float(symbolic[place])
                excess = abs(found - numeric) / (self.atol + self.rtol * abs(numeric))
                if not np.isfinite(excess):
                    return _Failure(k, place, found, numeric)
                if excess > worst_excess:
                    worst, worst_excess = _Failure(k, place, found, numeric), excess
            if worst is None and places and not zero_gradient and not symbolic.any():
                return _Failure(k, (), 0.0, 0.0, "is zero everywhere, which proves nothing; move the inputs, or pass "
                                                 "zero_gradient=True where that is meant")
        return worst


def _described(outputs: Sequence[Tensor], check: _Check, failure: _Failure) -> str:
    culprit = _first_wrong(outputs, check)
    name = f"'{(culprit or outputs[0].node).op.name}'"
    if culprit is not None and culprit.origins:
        name += f" ({culprit.origins[0]})"
    if failure.reason:
        return f"{name}: the gradient of input {failure.input} {failure.reason}"
    return (f"{name}: input {failure.input}, element {list(failure.place)}: the graph says {failure.symbolic:.9g}, "
            f"finite differences {failure.numeric:.9g}")


def _first_wrong(outputs: Sequence[Tensor], check: _Check) -> Node | None:
    """The first node whose own rule disagrees with finite differences of that node alone.

    A rule that the user gave is no function of its node's operands alone: it is suspected where no other is wrong.
    """
    nodes = [n for n in topological([o.node for o in outputs]) if len(n.types) == 1]
    suspects = [n for n in topological([o.node for o in outputs]) if n.op.passes is not None]
    values = dict(zip(nodes, check.value([Tensor(n) for n in nodes]), strict=True))
    for node in nodes:
        if node in suspects or any(i not in values for i in node.inputs):
            continue
        floating = [k for k, i in enumerate(node.inputs) if i.types[0].dtype == float64 and
                    (node.op.has_gradient(k) or (node.op.kind is Kind.COMPOSITE and not node.op.vjp))]
        if not floating or len(node.types) > 1 or node.dtype != float64 or node.graphs or not node.op.smooth:
            continue
        symbols = [placeholder(f"input{k}", i.shape, i.dtype) for k, i in enumerate(node.inputs)]
        loss = _projected([Tensor(make(node.op, [s.node for s in symbols], node.attributes))], check.rng)
        alone = _Check([s.node for s in symbols], [np.array(values[i]) for i in node.inputs], floating, check.eps,
                       check.atol, check.rtol, check.rng)
        gradients = grad(loss, [symbols[k] for k in floating], allow_unused=True)
        if alone.compare(loss, gradients, True) is not None:
            return node
    return suspects[0] if suspects else None


# -- one backend against the other -----------------------------------------------------------------------------------

CLOSE = {float32: 2e-5, float64: 1e-11}  # relative to the largest element: sums are taken in different orders


def assert_backends_agree(program: Program, feeds: Mapping[str, Any] | None = None, *, rtol: float | None = None,
                          steps: int = 1) -> None:
    """Runs a program on both backends and compares what it returns and what it leaves in its cells.

    feeds   an array per input name
    rtol    largest difference, relative to an array's largest element; None for a bound by dtype.  Integers and bools
            must be equal.  Contractions are multiplied with matmul_precision="highest"
    steps   how many calls to make, one after another

    The cells have their old values afterwards.  Raises BackendError with the output and the worst element.
    """
    cells = program.graph.cells()
    results: dict[str, list[np.ndarray]] = {}
    for backend in ("numpy", "native"):
        with kept(cells):
            twin = Program(program.graph, program.structure, backend=backend, threads=program.threads,
                           matmul_precision="highest")
            for _ in range(steps):
                returned = twin(**(feeds or {}))
            results[backend] = [*_flat(returned), *(cell.array.copy() for cell in cells)]
    outputs = len(results["numpy"]) - len(cells)
    names = [f"output {k}" for k in range(outputs)] + [f"'{cell.name}' after the step" for cell in cells]
    for name, expected, got in zip(names, results["numpy"], results["native"], strict=True):
        _compare(name, expected, got, rtol)


def _flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in _flat(part)]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _flat(part)]
    return [np.array(value)]


def _compare(name: str, expected: np.ndarray, got: np.ndarray, rtol: float | None) -> None:
    if expected.shape != got.shape or expected.dtype != got.dtype:
        raise BackendError(f"{name}: numpy gives {expected.dtype}{list(expected.shape)}, "
                           f"native {got.dtype}{list(got.shape)}")
    equal = (expected == got) | ((expected != expected) & (got != got))
    if equal.all():
        return
    dtype = as_dtype(expected.dtype)
    with np.errstate(invalid="ignore"):
        difference = np.where(equal, 0.0, np.abs(expected.astype(np.float64) - got.astype(np.float64)))
    finite = np.abs(expected[np.isfinite(expected)])
    bound = (rtol if rtol is not None else CLOSE.get(dtype, 0.0)) * float(finite.max(initial=0.0))
    difference = np.where(np.isnan(difference), np.inf, difference)
    if difference.max() > bound:
        place = np.unravel_index(int(difference.argmax()), difference.shape)
        raise BackendError(f"{name}, element {[int(p) for p in place]}: numpy gives {expected[place]!r}, native "
                           f"{got[place]!r}; a difference of {bound:.3g} is allowed")


# -- how an op is exercised ------------------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[DType, ...]] = {"f": (float64, float32), "i": (int64, int32), "b": (bool_,)}


@record(frozen=True)
class Case:
    """Arrays and attributes on which an op can be computed."""

    op: Op
    arrays: tuple[np.ndarray, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        types = ",".join(f"{as_dtype(a.dtype)}[{'x'.join(map(str, a.shape))}]" for a in self.arrays)
        return f"{self.op.name}({types})"


def cases(op: Op, families: str | None = None, seed: int = 0) -> Iterator[Case]:
    """Ways to exercise an op, from its record: its samples, or for a MAP operands drawn from its domain.

    families   which dtypes: any of "f", "i", "b"; None for those that the op takes.  Operands given as arrays keep
               their dtype; an op whose operands are all given has one case per sample.
    """
    rng = np.random.default_rng(seed)
    arity = len(op.domain) or (0 if op.samples else _arity(op))
    samples = op.samples or (Sample(((3, 5),) * arity), Sample(((),) * arity))
    for sample in samples:
        shapes = [o for o in sample.operands if isinstance(o, tuple)]
        wanted = [d for f in (op.dtypes if families is None else families) for d in FAMILIES[f]] if shapes else [None]
        for dtype in wanted:
            arrays = []
            for k, operand in enumerate(sample.operands):
                interval = op.domain[k] if k < len(op.domain) else (-2.0, 2.0)
                arrays.append(draw(rng, operand, dtype, interval) if isinstance(operand, tuple) else np.array(operand))
            yield Case(op, tuple(arrays), dict(sample.attributes))


def _arity(op: Op) -> int:
    return len([p for p in inspect.signature(op.infer).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD])


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType | None, interval: tuple[float, float]
         ) -> np.ndarray:
    """Random elements of an open interval; integers from a few whole numbers of the same signs."""
    low, high = interval
    if dtype is None or dtype.is_float:
        return np.asarray(rng.uniform(low, high, shape)).astype((dtype or float64).numpy)
    if dtype.is_bool:
        return np.asarray(rng.integers(0, 2, shape)).astype(bool)
    least = -9 if low < 0 else 1
    return np.asarray(rng.integers(least, 10 if high > 0 else 0, shape)).astype(dtype.numpy)


__all__ = ["BackendError", "Case", "GradientError", "assert_backends_agree", "cases", "draw", "gradcheck"]
