"""Every op's gradient against finite differences, to second order; and the checker itself."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import testing
from graphc.ir import make
from graphc.op import REGISTRY, Kind, Op
from graphc.ops.control import results_of
from graphc.symbols import Tensor

# Ops through which no gradient flows, each for a reason.  An op that loses its gradient by mistake is not in here.
WITHOUT_GRADIENT = {
    "input", "parameter", "constant", "iota", "size",  # sources: nothing to flow into
    "sign", "floor", "ceil", "round", "trunc", "floor_divide",  # steps: zero wherever there is a derivative
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isnan", "isinf", "isfinite",  # bools
    "logical_and", "logical_or", "logical_xor", "logical_not", "any", "all", "argmax", "argmin",
    "window_argmax", "reading", "searchsorted", "running_max", "running_min", "det_sign",  # positions; cummax gathers; a sign
    "random_uniform", "random_normal",  # functions of integers
    "stop_gradient",  # on purpose
    "item",  # passes on what the node of several results takes
    "checkpoint", "custom_vjp",  # between the results and the operands of a traced function: tested with such
}
STEPS = {"sign", "floor", "ceil", "round", "trunc", "floor_divide"}


def passes(op: Op) -> bool:
    if op.kind is Kind.COMPOSITE and not op.vjp:
        return True
    if "count" in signature(op.infer).parameters:
        return False
    return callable(op.vjp) or any(rule is not None for rule in op.vjp)


DIFFERENTIABLE = [op for op in REGISTRY.values() if passes(op) and op.kind not in (Kind.LOOP, Kind.COND)]  # test_loops.py
CASES = [pytest.param(case, id=f"{case}-{k}") for op in DIFFERENTIABLE
         for k, case in enumerate(c for c in testing.cases(op, "f", seed=4)
                                  if c.arrays and any(a.dtype == np.float64 for a in c.arrays))
         if case.attributes.get("dtype") in (None, graphc.float64)]


def test_ops_without_gradient_are_known() -> None:
    assert {op.name for op in REGISTRY.values() if not passes(op)} == WITHOUT_GRADIENT
    assert {c.values[0].op.name for c in CASES} == {op.name for op in DIFFERENTIABLE}


@pytest.mark.parametrize("case", CASES)
def test_gradients_to_second_order(case: testing.Case) -> None:
    def apply(*symbols: Tensor) -> list[Tensor]:
        return [t for t in results_of(make(case.op, [s.node for s in symbols], case.attributes)) if t.dtype.is_float]

    chooses = case.op.name in ("maximum", "minimum", "clip") and case.arrays[0].ndim == 0  # one operand, not all
    assert testing.gradcheck(apply, list(case.arrays), order=2, zero_gradient=chooses)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_steps_pass_a_zero_gradient(name: str) -> None:
    x = graphc.placeholder("x", (3,), "float64")
    arguments = (x, x * 0 + 2.0) if name == "floor_divide" else (x,)
    gradient = graphc.grad((getattr(graphc, name)(*arguments) + x * x).sum(), x)
    np.testing.assert_allclose(gradient.eval(x=[0.3, 1.2, -2.7]), [0.6, 2.4, -5.4])


def test_cast_to_float32_and_back_passes_the_gradient() -> None:
    x = graphc.placeholder("x", (2,), "float64")
    gradient = graphc.grad((x.astype("float32") * 3.0).astype("float64").square().sum(), x)
    assert gradient.dtype == graphc.float64
    np.testing.assert_array_equal(gradient.eval(x=[1.0, 2.0]), [18.0, 36.0])


# -- compositions whose gradients have a trap ------------------------------------------------------------------------

rng = np.random.default_rng(8)
A, B, V = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=(6,))
WITH_ZEROS = np.array([[1.5, 0.0, -2.0], [0.0, 0.7, 0.0]])
COMPOSED: dict[str, tuple[Any, list[np.ndarray]]] = {
    "prod_with_zeros": (lambda x: x.prod(1), [WITH_ZEROS]),
    "cumprod_with_zeros": (lambda x: x.cumprod(1), [WITH_ZEROS]),
    "var": (lambda x: x.var(0), [A]),
    "std": (lambda x: x.std(1, correction=0), [A]),
    "norm": (lambda x: x.norm(), [A]),
    "norm3": (lambda x: x.norm(3, 0), [A]),
    "matmul": (graphc.matmul, [A, B]),
    "matmul_vector": (lambda x, y: x @ y, [A, B[:, 0]]),
    "einsum_diagonal": (lambda x: graphc.einsum("iji->j", x), [rng.normal(size=(3, 2, 3))]),
    "einsum_three": (lambda x, y, z: graphc.einsum("ij,jk,i->k", x, y, z), [A, B, A[:, 0]]),
    "broadcast": (lambda x, y: x * y + y, [A, A[0]]),
    "concat": (lambda x, y: graphc.concat([x, y, x], 1), [A, A[:, :2]]),
    "stack": (lambda x, y: graphc.stack([x, y], 1), [A, A + 1]),
    "roll": (lambda x: graphc.roll(x, (1, -1), (0, 1)), [A]),
    "pad_reflect": (lambda x: graphc.pad(x, ((1, 2), (3, 0)), "reflect"), [A]),
    "pad_edge": (lambda x: graphc.pad(x, 2, "edge"), [A]),
    "pad_wrap": (lambda x: graphc.pad(x, (1, 2), "wrap"), [A]),
    "repeat_interleave": (lambda x: graphc.repeat_interleave(x, 3, 1), [A]),
    "tile": (lambda x: graphc.tile(x, (2, 1, 3)), [A]),
    "tril": (lambda x: graphc.tril(x, 1), [A]),
    "diag": (graphc.diag, [V]),
    "take": (lambda x: graphc.take(x, np.array([[0, 2], [2, -1]]), 1), [A]),
    "getitem_advanced": (lambda x: x[[0, 2, 2], None, [1, 1, -1]], [A]),
    "getitem_backward": (lambda x: x[::-2, 1:], [A]),
    "embedding": (lambda w: graphc.embedding(w, np.array([0, 2, 2])), [A]),
    "scatter": (lambda x, s: graphc.scatter(x, 1, np.array([[0, 0], [3, 1], [2, 2]]), s), [A, A[:, :2] + 1]),
    "scatter_add": (lambda x, s: graphc.scatter_add(x, 0, np.array([[0, 0, 2, 1]]), s), [A, A[:1] + 1]),
    "index_add": (lambda x, s: graphc.index_add(x, 0, np.array([2, 2]), s, 0.5), [A, A[:2] + 1]),
    "gather": (lambda x: graphc.gather(x, 1, np.array([[0, 3, 3], [1, 1, 2]])), [A]),
    "cdist": (graphc.cdist, [A, A[:2] + 0.5]),
    "clip_low": (lambda x: graphc.clip(x, min=0.1), [A]),
    "clip_symbols": (lambda x, low, high: graphc.clip(x, low, high), [A, A[0] * 0 - 0.5, A[0] * 0 + 0.5]),
    "logcumsumexp_far": (lambda x: graphc.logcumsumexp(x, 0), [np.array([-800.0, -801.0, -799.5])]),
    "pow_symbols": (lambda x, y: x ** y, [np.abs(A) + 0.5, A]),
    "median_of_three": (lambda x: graphc.minimum(graphc.maximum(x[0], x[1]), x[2]), [A]),
    "second_derivative_inside": (lambda x: graphc.grad((x ** 4).sum(), x), [V]),
}


@pytest.mark.parametrize("name", sorted(COMPOSED))
def test_composed_gradients(name: str) -> None:
    function, inputs = COMPOSED[name]
    assert testing.gradcheck(function, inputs, order=2)


def test_the_padding_row_of_an_embedding_gets_no_gradient() -> None:
    w = graphc.placeholder("w", (3, 4), "float64")
    rows = graphc.embedding(w, np.array([0, 2, 2, 1]), padding_idx=-1)
    gradient = graphc.grad((rows * rows).sum(), w).eval(w=A)
    np.testing.assert_allclose(gradient, [2 * A[0], 2 * A[1], 0 * A[2]])
    np.testing.assert_array_equal(rows.eval(w=A), A[[0, 2, 2, 1]])


def test_third_order() -> None:
    x = graphc.placeholder("x", (), "float64")
    third = graphc.grad(graphc.grad(graphc.grad((x * x).sin(), x), x), x)
    t = 0.7
    np.testing.assert_allclose(third.eval(x=t), -12 * t * np.sin(t * t) - 8 * t ** 3 * np.cos(t * t), rtol=1e-12)


def test_products_with_jacobians_agree() -> None:
    x, v = graphc.placeholder("x", (4,), "float64"), rng.normal(size=4)
    out = graphc.softmax(x * x) * x.sum()
    feeds = {"x": rng.normal(size=4)}
    jacobian = graphc.jacobian(out, x).eval(**feeds)
    np.testing.assert_allclose(graphc.jvp(out, [x], [v]).eval(**feeds), jacobian @ v, rtol=1e-12)
    np.testing.assert_allclose(graphc.vjp(out, [x], v)[0].eval(**feeds), v @ jacobian, rtol=1e-12)
    loss = (out * out).sum()
    hessian = graphc.hessian(loss, x).eval(**feeds)
    np.testing.assert_allclose(graphc.hvp(loss, [x], [v])[0].eval(**feeds), hessian @ v, rtol=1e-10)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-10, atol=1e-12)


# -- the checker -----------------------------------------------------------------------------------------------------


def test_a_wrong_rule_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tanh = REGISTRY["tanh"]
    wrong = (lambda g, out, x: g * (1.0 - out),)
    monkeypatch.setitem(tanh.__dict__, "vjp", wrong)
    with pytest.raises(testing.GradientError, match=r"'tanh'.*input 0, element \[\d, \d\].*finite differences"):
        testing.gradcheck(lambda x: (x * 2.0).tanh() + x, [A])


def test_a_wrong_second_derivative_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = REGISTRY["square"].vjp
    assert rules is not None
    rule = rules[0]
    monkeypatch.setitem(REGISTRY["square"].__dict__, "vjp",
                        (lambda g, out, x: rule(g, out, graphc.stop_gradient(x)),))
    assert testing.gradcheck(lambda x: x ** 2, [A])
    with pytest.raises(testing.GradientError, match="second order"):
        testing.gradcheck(lambda x: x ** 2, [A], order=2)


def test_a_vacuous_check_is_an_error() -> None:
    with pytest.raises(graphc.GraphError, match="does not depend"):
        testing.gradcheck(lambda x: graphc.constant(np.ones(3)), [A])
    with pytest.raises(testing.GradientError, match="zero everywhere"):
        testing.gradcheck(lambda x: x.floor() + 0.0 * x, [A])
    assert testing.gradcheck(lambda x: x.floor() + 0.0 * x, [A], zero_gradient=True)


def test_a_step_taken_for_smooth_is_found() -> None:
    with pytest.raises(testing.GradientError, match="element"):
        testing.gradcheck(lambda x: graphc.stop_gradient(x) * 2.0 + x, [A])


def test_float32_inside_is_refused() -> None:
    with pytest.raises(testing.GradientError, match="float64 throughout"):
        testing.gradcheck(lambda x: x.astype("float32"), [A])


def test_backends_that_disagree_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    x = graphc.placeholder("x", (3,))
    w = graphc.parameter("w", [1.0, 2.0, 3.0])
    program = graphc.function([x], (x * w).exp().sum(), updates={w: w * x})
    testing.assert_backends_agree(program, {"x": [0.5, 1.0, -1.0]}, steps=3)
    np.testing.assert_array_equal(w.numpy(), [1.0, 2.0, 3.0])
    monkeypatch.setitem(REGISTRY["exp"].__dict__, "numpy", lambda v: np.exp(v) * np.float32(1.01))
    with pytest.raises(testing.BackendError, match="output 0"):
        testing.assert_backends_agree(program, {"x": [0.5, 1.0, -1.0]})
