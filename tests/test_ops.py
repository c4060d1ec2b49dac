"""Every op in the registry, on both backends and all its dtypes, against its own numpy meaning; and its gradients."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc.op import REGISTRY, Kind
from graphc.runtime.native import unroll
from graphc.testing import GradientError, gradcheck

from .registry import SOURCES, Case, all_cases, differentiable_cases

ULPS = {"expm1": 4, "tan": 4, "tanh": 5, "sigmoid": 5, "erf": 5, "erfc": 8, "power": 5, "softplus": 5, "sinh": 4,
        "cosh": 4, "logcumsumexp": 16, "cumsum": 16, "cumprod": 16, "sum": 16, "prod": 16, "contract": 32, "softmax": 24,
        "log_softmax": 24, "logsumexp": 24, "gelu": 32, "silu": 8, "log_sigmoid": 8, "scatter_add": 8, "remainder": 64,
        "asin": 4, "acos": 4, "atan": 4, "atan2": 4, "rsqrt": 3}

# Ops through which no gradient flows: steps, comparisons, logic, positions, bits.
WITHOUT_GRADIENT = {
    "input", "parameter", "constant", "iota", "size", "sign", "floor", "ceil", "round", "trunc", "floor_divide", "equal",
    "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_xor",
    "logical_not", "isnan", "isinf", "isfinite", "any", "all", "argmax", "argmin", "random_uniform", "random_normal",
    "stop_gradient"}


def reference(case: Case) -> np.ndarray:
    """The numpy meaning, in float64 where the case is float32, so that its own rounding does not count."""
    with np.errstate(all="ignore"):
        if case.dtype == "float32" and case.op.kind is Kind.MAP and not case.op.name.startswith("random"):
            wide = case.op.numpy(*(a.astype(np.float64) if a.dtype == np.float32 else a for a in case.arrays),
                                 **case.attributes)
            return np.asarray(wide)
        return np.asarray(case.op.numpy(*case.arrays, **case.attributes))


def assert_close(case: Case, got: np.ndarray, wanted: np.ndarray) -> None:
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, wanted)
        return
    assert (np.isnan(got) == np.isnan(wanted)).all()
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(got[~finite & ~np.isnan(wanted)], wanted[~finite & ~np.isnan(wanted)])
    scale = np.abs(wanted[finite]).astype(got.dtype)
    if case.op.kind is not Kind.MAP:
        scale = np.maximum(scale, got.dtype.type(0.1))  # sums cancel: bounded by the size of what is summed
    error = np.abs(got[finite].astype(np.float64) - wanted[finite]) / np.spacing(scale).astype(np.float64)
    assert error.max(initial=0) <= ULPS.get(case.op.name, 2.5), f"{error.max()} ulp"


@pytest.mark.parametrize("case", all_cases(), ids=str)
@pytest.mark.parametrize("lowering", ["numpy", "loops", "unrolled"])
def test_op(case: Case, lowering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unroll, "MOST_OPERATIONS", 10**9 if lowering == "unrolled" else -1)
    symbols = case.symbols()
    out = case.build(*symbols)
    wanted = reference(case)
    assert tuple(out.shape) == wanted.shape
    program = graphc.function(symbols, out, backend="numpy" if lowering == "numpy" else "native")
    got = program(*case.arrays)
    assert got.dtype == out.dtype.numpy
    if case.op.name.startswith("random"):
        np.testing.assert_array_equal(got, wanted)  # equal bits
    else:
        assert_close(case, got, wanted)


@pytest.mark.parametrize("case", differentiable_cases(), ids=str)
def test_gradient(case: Case) -> None:
    assert gradcheck(case.build, case.arrays, order=2)


def test_ops_without_gradient_are_known() -> None:
    checked = {c.op.name for c in differentiable_cases()}
    assert set(REGISTRY) - checked - {"updating", "cast"} == WITHOUT_GRADIENT - {"cast"}


def test_every_op_is_exercised_and_documented() -> None:
    assert {c.op.name for c in all_cases()} == set(REGISTRY) - SOURCES
    assert all(op.doc.endswith(".") or op.doc.endswith("...") for op in REGISTRY.values())


def test_gradcheck_refuses_to_check_nothing() -> None:
    with pytest.raises(GradientError, match="no influence"):
        gradcheck(lambda x, y: x * 2.0, [np.ones(3), np.ones(3)])
    with pytest.raises(graphc.GraphError, match="no floating input"):
        gradcheck(lambda x: x.astype("float64"), [np.arange(3)])


def test_gradcheck_finds_a_wrong_rule() -> None:
    def wrong(x: graphc.Tensor) -> graphc.Tensor:
        return x * graphc.stop_gradient(x)  # the true gradient is 2x, the symbolic one x

    with pytest.raises(GradientError, match=r"mul: gradient by input 0 is wrong at \[\d\]"):
        gradcheck(wrong, [np.array([1.0, 2.0, 3.0])])
