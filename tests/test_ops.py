"""Every op of the registry: its type rule, its numpy meaning, its documentation, and both backends on its samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from graphc.runtime.interpreter import evaluate

import graphc
from graphc import testing
from graphc.ir import make
from graphc.methods import FUNCTIONS
from graphc.op import REGISTRY, Kind, Op, define, same_type
from graphc.ops.control import results_of
from graphc.symbols import Tensor
from graphc.types import TensorType, as_dtype

OPS = [op for op in REGISTRY.values() if op.name.isidentifier()]
SYMBOLS_ALONE = {"input", "parameter"}  # have no meaning but the value that is fed or held
NESTED = {"scan", "cond", "item"}  # hold graphs, or take what several results make: tested with programs
TRACED = {"checkpoint", "custom_vjp"}  # stand for functions of the user: tested with them
NOT_FROM_SAMPLES = {*SYMBOLS_ALONE, "constant", *NESTED, *TRACED}
BACKENDS = ("numpy", "native")

# Largest error in units in the last place, of either backend against numpy in float64 rounded once (in float64 itself:
# against numpy).  What is not listed must be exact, but for sums and products, whose order is free.
ULPS = {name: 4.0 for name in (
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh",
    "cosh", "tanh", "sigmoid", "softplus", "erf", "erfc", "power", "rsqrt", "reciprocal")}
SUMS = {"sum": 8, "prod": 8, "cumsum": 8, "cumprod": 8, "contract": 16, "logcumsumexp": 16, "softmax": 16,
        "standardize": 16, "log_softmax": 32, "logsumexp": 16, "gelu": 16, "silu": 8, "log_sigmoid": 8, "scatter_add": 4,
        "cholesky": 16, "solve_triangular": 16, "lu": 16, "qr": 16, "solve": 32, "inv": 32, "det": 16, "logabsdet": 16,
        "convolution": 16, "transposed_convolution": 16}


def all_cases() -> list[Any]:
    made = [c for op in OPS if op.name not in NOT_FROM_SAMPLES for c in testing.cases(op)]
    return [pytest.param(c, id=f"{c}-{k}") for k, c in enumerate(made)]


CASES = all_cases()


def build(case: testing.Case) -> tuple[list[Tensor], list[Tensor]]:
    """The operands, and the op's results."""
    symbols = [graphc.placeholder(f"x{k}", a.shape, a.dtype.name) for k, a in enumerate(case.arrays)]
    return symbols, list(results_of(make(case.op, [s.node for s in symbols], case.attributes)))


def meaning(case: testing.Case, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """What the op's numpy function gives, one array per result."""
    attributes = make(case.op, [graphc.placeholder("x", a.shape, a.dtype.name).node for a in arrays],
                      case.attributes).attributes
    with np.errstate(all="ignore"):
        given = case.op.numpy(*arrays, **attributes)
    return [np.asarray(v) for v in (given if isinstance(given, tuple) else (given,))]


@pytest.mark.parametrize("case", CASES)
def test_type_rule_agrees_with_numpy(case: testing.Case) -> None:
    _, outs = build(case)
    for out, value in zip(outs, meaning(case, case.arrays), strict=True):
        assert out.type == TensorType(as_dtype(value.dtype), value.shape)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_programs_compute_the_meaning(case: testing.Case, backend: str) -> None:
    symbols, outs = build(case)
    program = graphc.function(symbols, outs, backend=backend)
    assert program.backend == backend
    found = program(*case.arrays)
    right = evaluate([o.node for o in outs], dict(zip([s.node for s in symbols], case.arrays, strict=True)))
    for k, (got, expected) in enumerate(zip(found, right, strict=True)):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        bound = bound_of(case.op, got.dtype)
        if not bound:
            np.testing.assert_array_equal(got, expected)
            continue
        if got.dtype == np.float32:  # numpy's own float32 functions are a few ulps off: measure both against float64
            expected = meaning(case, tuple(a.astype(np.float64) if a.dtype == np.float32 else a for a in case.arrays))[k]
        error = np.abs(got.astype(np.float64) - expected) / np.spacing(np.abs(expected).astype(got.dtype))
        if case.op.name in SUMS:  # terms may cancel in a sum: measured against the largest result
            error *= np.spacing(np.abs(expected).astype(got.dtype)) / np.spacing(np.abs(expected).max().astype(got.dtype))
        assert error.max() <= bound


def bound_of(op: Op, dtype: np.dtype) -> float:
    return ULPS.get(op.name, SUMS.get(op.name, 0.0)) if dtype.kind == "f" else 0.0


def test_every_op_is_exercised() -> None:
    exercised = Counter(c.values[0].op.name for c in CASES)
    assert set(REGISTRY) - set(exercised) == NOT_FROM_SAMPLES
    for op in OPS:
        if op.name not in NOT_FROM_SAMPLES and op.kind is not Kind.SOURCE:
            dtypes = {a.dtype.name for c in CASES if c.values[0].op is op for a in c.values[0].arrays}
            wanted = {d.name for family in op.dtypes for d in testing.FAMILIES[family]}
            assert wanted <= dtypes, op.name


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_is_documented(op: Op) -> None:
    assert op.doc.endswith(".")
    assert op.has("numpy") or op.name in SYMBOLS_ALONE or op.kind is Kind.ITEM


def test_a_field_that_an_op_lacks_says_so() -> None:
    add = REGISTRY["add"]
    assert not add.has("index") and not add.has("fold")
    with pytest.raises(RuntimeError, match="'add' has no 'index'"):
        add.index((), None)
    with pytest.raises(RuntimeError, match="'add' has no 'fold'"):
        add.fold.identity(None)
    with pytest.raises(ValueError, match="of kind map needs the field 'scalar'"):
        define(Op("bodiless", Kind.MAP, same_type))
    assert "bodiless" not in REGISTRY


@pytest.mark.parametrize("op", [o for o in OPS if o.neutral is not None or o.linear], ids=lambda op: op.name)
def test_neutral_numbers_and_linear_inputs(op: Op) -> None:
    generator = np.random.default_rng(3)
    a, b = ([generator.standard_normal(5) for _ in range(op.arity or 0)] for _ in range(2))
    if op.neutral is not None:
        assert op.commutes
        np.testing.assert_array_equal(op.numpy(a[0], op.neutral), a[0])
        np.testing.assert_array_equal(op.numpy(op.neutral, a[0]), a[0])
    for together in op.linear:
        c = [b[k] if k in together else a[k] for k in range(len(a))]
        both = [3 * x + y if k in together else x for k, (x, y) in enumerate(zip(a, c, strict=True))]
        np.testing.assert_allclose(op.numpy(*both), 3 * op.numpy(*a) + op.numpy(*c), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_is_documented(name: str) -> None:
    assert (FUNCTIONS[name].__doc__ or "").strip()


def test_composites_expand_to_their_meaning() -> None:
    for param in CASES:
        case = param.values[0]
        if case.op.kind is not Kind.COMPOSITE:
            continue
        symbols, (out,) = build(case)
        expanded = case.op.expand(*symbols, **out.node.attributes)
        assert expanded.type == out.type, str(case)
        feeds = dict(zip([s.node for s in symbols], case.arrays, strict=True))
        got, expected = evaluate([expanded.node, out.node], feeds)
        tolerance = 2e-5 if got.dtype == np.float32 else 1e-13
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=str(case))


# -- values at the edges ---------------------------------------------------------------------------------------------

EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e30, -1e30, 88.0,
                  -88.0, 3.0, 0.3, 7.0])
EDGE_OPS = [op for op in OPS if op.kind is Kind.MAP and op.domain and "f" in op.dtypes and op.name != "random_uniform"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", EDGE_OPS, ids=lambda op: op.name)
def test_native_handles_special_values_as_numpy_does(op: Op, dtype: str) -> None:
    arity = len(op.domain)
    grids = np.meshgrid(*[EDGES if arity < 3 else EDGES[:12]] * arity)
    arrays = [g.ravel().astype(dtype) for g in grids]
    if op.name in ("sin", "cos", "tan"):
        arrays = [np.where(np.abs(a) > 1e6, 0.25, a).astype(dtype) for a in arrays]  # far beyond: see the ulp tests
    symbols = [graphc.placeholder(f"x{k}", a.shape, dtype) for k, a in enumerate(arrays)]
    out = Tensor(make(op, [s.node for s in symbols]))
    got = graphc.function(symbols, out)(*arrays)
    with np.errstate(all="ignore"):
        expected = np.asarray(op.numpy(*arrays))
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    tolerance = 0.0 if bound_of(op, got.dtype) == 0 else 2e-6 if dtype == "float32" else 1e-14
    tiny = np.finfo(dtype).tiny * 2  # denormal results are flushed
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tiny)


def test_signed_zeros_survive_joining_and_choosing() -> None:
    a, b = graphc.placeholder("a", (2,)), graphc.placeholder("b", (3,))
    for backend in BACKENDS:
        joined = graphc.function([a, b], graphc.concat([a, b]), backend=backend)([-0.0, np.nan], [-0.0, 1, 2])
        assert np.signbit(joined[[0, 2]]).all()
        assert np.isnan(joined[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_index_reads_nan_and_drops(backend: str) -> None:
    x, i = graphc.placeholder("x", (3,)), graphc.placeholder("i", (4,), "int64")
    read = graphc.function([x, i], graphc.gather(x, 0, i[:3]), backend=backend)([1.0, 2.0, 3.0], [2, 3, -1, 0])
    np.testing.assert_array_equal(read, np.array([3.0, np.nan, np.nan], np.float32))
    n = graphc.placeholder("n", (3,), "int64")
    read = graphc.function([n, i], graphc.gather(n, 0, i[:3]), backend=backend)([1, 2, 3], [2, 3, -1, 0])
    np.testing.assert_array_equal(read, [3, 0, 0])
    added = graphc.scatter_add(graphc.zeros(3), 0, i, graphc.ones(4))
    written = graphc.function([i], added, backend=backend)([2, 3, -1, 2])
    np.testing.assert_array_equal(written, [0.0, 0.0, 2.0])


# -- random numbers --------------------------------------------------------------------------------------------------


def _word(value: int) -> np.ndarray:
    return np.array(value, dtype=np.uint32).view(np.int32)


@pytest.mark.parametrize(("counter", "key", "expected"), [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0))])
def test_threefry_gives_the_published_vectors(counter: tuple, key: tuple, expected: tuple) -> None:
    from graphc.ops.random import NumpyScalar, threefry

    with np.errstate(over="ignore"):
        got = threefry(NumpyScalar(), tuple(map(_word, key)), tuple(map(_word, counter)))
    assert tuple(int(np.asarray(g).view(np.uint32)) for g in got) == expected


def test_both_backends_draw_equal_bits() -> None:
    graphc.manual_seed(3)
    draws = [graphc.uniform((1000,)), graphc.uniform((1000,), -3.0, 0.1), graphc.normal((1000,), 0.1, 0.7),
             graphc.uniform((7, 11), dtype="float64"), graphc.normal((20000,)),
             graphc.normal((5000,), dtype="float64"), graphc.randint(-3, 9, (50,)), graphc.bernoulli(0.3, (64,))]
    numpy, native = (graphc.function([], draws, backend=b)() for b in BACKENDS)
    for a, b in zip(numpy, native, strict=True):
        np.testing.assert_array_equal(a, b)


def test_draws_have_their_distributions() -> None:
    graphc.manual_seed(11)
    u, n = graphc.uniform((40000,), dtype="float64").eval(), graphc.normal((40000,), 1.0, 2.0, "float64").eval()
    k, b = graphc.randint(2, 6, (8000,)).eval(), graphc.bernoulli(0.25, (8000,)).eval()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.002
    assert abs(n.mean() - 1) < 0.05 and abs(n.std() - 2) < 0.03
    standard = (n - 1) / 2
    assert abs((standard ** 3).mean()) < 0.06 and abs((standard ** 4).mean() - 3) < 0.15
    assert set(np.unique(k)) == {2, 3, 4, 5} and abs(b.mean() - 0.25) < 0.02


def test_a_uniform_number_never_reaches_the_upper_limit() -> None:
    for low, high in ((100.0, 101.0), (-1.0, 0.0), (1e7, 1e7 + 1)):
        drawn = graphc.uniform((100000,), low, high).eval()
        assert drawn.min() >= low and drawn.max() < high


def test_each_draw_is_its_own_and_a_seed_repeats_it() -> None:
    def draw() -> list[np.ndarray]:
        graphc.manual_seed(5)
        return [graphc.uniform((8,)).eval(), graphc.uniform((8,)).eval(), graphc.uniform((8,), seed=9).eval()]

    first, again = draw(), draw()
    assert len({a.tobytes() for a in first}) == 3
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_as_seed_changes_the_draw() -> None:
    key = graphc.state("key", 7, "int64")
    step = graphc.function([], graphc.uniform((16,), seed=key), updates={key: key + 1})
    assert not np.array_equal(step(), step())
    assert int(key.item()) == 9


def test_normal_matches_the_inverse_distribution_function() -> None:
    from statistics import NormalDist

    from graphc.ops.random import NumpyScalar, _exact_log

    x = np.exp(np.linspace(-40, 3, 2001))
    np.testing.assert_allclose(_exact_log(NumpyScalar(), x), np.log(x), rtol=3e-15, atol=3e-16)
    graphc.manual_seed(1)
    sample = np.sort(graphc.normal((4096,), dtype="float64").eval())
    places = (np.arange(4096) + 0.5) / 4096
    expected = np.array([NormalDist().inv_cdf(p) for p in places])
    assert np.abs(sample - expected)[100:-100].max() < 0.1


# -- states that layers update ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_updates_ride_on_a_result_and_compose(backend: str) -> None:
    x = graphc.placeholder("x", (2,))
    mean, calls = graphc.state("mean", [0.0, 0.0]), graphc.state("calls", 0, "int64")
    first = graphc.updating(x * 2.0, {mean: mean * 0.5 + x, calls: calls + 1})
    second = graphc.updating(first + 1.0, {calls: calls + 10})
    program = graphc.function([x], (second, graphc.grad(second.sum(), x)), backend=backend)
    out, gradient = program([1.0, 2.0])
    np.testing.assert_array_equal(out, [3.0, 5.0])
    np.testing.assert_array_equal(gradient, [2.0, 2.0])
    assert calls.item() == 11
    program([1.0, 2.0])
    np.testing.assert_array_equal(mean.numpy(), [1.5, 3.0])
    assert calls.item() == 22


def test_only_states_of_the_right_type_are_updated() -> None:
    x = graphc.placeholder("x", (2,))
    with pytest.raises(graphc.GraphError, match="is no state"):
        graphc.updating(x, {x: x})
    with pytest.raises(graphc.ShapeError, match="'count' is f32"):
        graphc.updating(x, {graphc.state("count", 0.0): x})
