"""Element types, open sizes and shapes."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.types import (
    DTYPES,
    Dim,
    Quotient,
    Size,
    TensorType,
    as_dtype,
    as_shape,
    as_size,
    broadcast_shapes,
    count,
    float32,
    float64,
    greatest,
    int64,
    least,
    promote,
    strides_of,
    substitute,
)

N, M = Dim.named("n"), Dim.named("m")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_names_of_dtypes(dtype: graphc.DType) -> None:
    for name in (dtype, dtype.name, dtype.short, dtype.numpy, np.dtype(dtype.name).type):
        assert as_dtype(name) is dtype
    assert dtype.itemsize == np.dtype(dtype.name).itemsize
    assert [dtype.is_float, dtype.is_integer, dtype.is_bool].count(True) == 1
    assert least(dtype) <= 0 < greatest(dtype)
    assert np.array(greatest(dtype), dtype.numpy) == greatest(dtype)


def test_python_types_and_unknown_names() -> None:
    assert (as_dtype(float), as_dtype(int), as_dtype(bool)) == (float32, int64, graphc.bool_)
    for wrong in ("float16", "complex64", "nothing", np.uint8, object()):
        with pytest.raises(DTypeError, match="graphc has bool, int32"):
            as_dtype(wrong)


def test_promotion_is_a_total_order() -> None:
    for a, b in itertools.product(DTYPES, DTYPES):
        assert promote(a, b) is promote(b, a)
        assert promote(a, b) in (a, b)
    assert promote(int64, float32) is float32  # integers never widen a float


def random_size(rng: random.Random, depth: int) -> tuple[Size, str]:
    """A random expression as a size and as Python text."""
    if depth == 0:
        return rng.choice([(N, "n"), (M, "m"), (3, "3"), (2, "2")])
    (a, left), (b, right) = random_size(rng, depth - 1), random_size(rng, depth - 1)
    operator = rng.choice("+-*/")
    if operator == "/":
        by = rng.randint(1, 5)
        return a // by, f"(({left}) // {by})"
    return {"+": a + b, "-": a - b, "*": a * b}[operator], f"({left} {operator} {right})"


def test_arithmetic_of_open_sizes_is_that_of_integers() -> None:
    rng = random.Random(0)
    for _ in range(400):
        size, text = random_size(rng, 3)
        for _ in range(4):
            values = {"n": rng.randint(1, 40), "m": rng.randint(1, 40)}
            assert substitute(size, values) == eval(text, {}, values), text


def test_equal_polynomials_are_equal() -> None:
    assert (N + 1) * (N - 1) == N * N - 1
    assert hash((N + M) * 2) == hash(2 * M + 2 * N)
    assert N - N == 0 and isinstance(N - N, int)
    assert (2 * N * M) // N == 2 * M
    assert (4 * N + 6) // 2 == 2 * N + 3
    assert (N * M) // (N * M) == 1
    assert (N + 1) // (N + 1) == 1
    assert N != M and N != 3 and N + 0 == N and N * 1 == N and 1 - (1 - N) == N
    assert N // 1 == N and isinstance((N + 1) // 2, Dim) and 7 // N != N


def test_partial_substitution_keeps_the_rest_open() -> None:
    size = (N * M + 1) // 2
    assert isinstance(size, Dim)
    assert size.names() == {"n", "m"}
    assert substitute(size.substitute({"n": 3}), {"m": 5}) == 8
    assert size.substitute({"n": 3, "m": 5}) == 8
    assert Quotient(N, 2).substitute({"n": 7}) == 3


def test_an_open_size_is_no_number() -> None:
    for convert in (int, range, lambda d: [0][d], float):
        with pytest.raises(GraphError, match="open"):
            convert(N)
    for compare in (lambda: N < 3, lambda: N >= M, lambda: N < 3):
        with pytest.raises(GraphError, match="cannot be compared"):
            compare()
    assert bool(N)


def test_sizes_from_what_users_write() -> None:
    assert as_shape(("n", 3, np.int64(4), N)) == (N, 3, 4, N)
    assert as_shape(5) == (5,) and as_shape("n") == (N,) and as_shape([]) == () and as_shape(N) == (N,)
    for wrong in list[Any]((2.5, None, (2, 2.5))):
        with pytest.raises(ShapeError, match="a size is an integer or the name of an open dimension"):
            as_shape(wrong)
    for wrong in (-1, 2.0, True, "two words", None):
        with pytest.raises(ShapeError):
            as_size(wrong)


def test_broadcasting() -> None:
    rng = random.Random(1)
    for _ in range(200):
        shapes = [tuple(rng.choice([1, 1, 2, 3]) for _ in range(rng.randint(0, 3))) for _ in range(rng.randint(1, 3))]
        try:
            expected = np.broadcast_shapes(*shapes)
        except ValueError:
            with pytest.raises(ShapeError, match="do not broadcast"):
                broadcast_shapes(*shapes)
        else:
            assert broadcast_shapes(*shapes) == expected
    assert broadcast_shapes((N, 1), (3,), (1, 1)) == (N, 3)
    for wrong in (((N,), (3,)), ((N,), (M,)), ((N,), (N + 1,))):
        with pytest.raises(ShapeError):
            broadcast_shapes(*wrong)


def test_tensor_types() -> None:
    open_type = TensorType(float32, (N, 4))
    assert str(open_type) == "f32[n,4]" and open_type.is_open and open_type.size == 4 * N
    closed = open_type.substitute({"n": 3})
    assert closed == TensorType(float32, (3, 4)) and closed.bytes == 48 and not closed.is_open
    assert closed.with_dtype(float64).bytes == 96 and closed.with_shape((2,)).ndim == 1
    assert count(()) == 1 and strides_of((2, 3, 4)) == (12, 4, 1) and strides_of(()) == ()


# -- open sizes through programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_programs_of_open_sizes_run_for_every_size(backend: str) -> None:
    x = graphc.placeholder("x", ("batch", "time", 2), "float64")
    flat = x.reshape((-1, 2))
    outputs = {"mean": x.mean((0, 1)), "pairs": graphc.concat([flat[1:], flat[:-1]], 1), "std": x.std(0).sum(),
               "window": graphc.window(x, 1, 2).sum((0, 3)), "half": x[:, ::2] * 2.0,
               "twice": graphc.repeat_interleave(x, 2, 1)[:, :-1]}
    program = graphc.function([x], outputs, backend=backend)
    rng = np.random.default_rng(0)
    for batch, time in ((2, 3), (5, 4), (3, 2), (2, 3)):
        data = rng.normal(size=(batch, time, 2))
        rows = data.reshape(-1, 2)
        got = program(x=data)
        np.testing.assert_allclose(got["mean"], data.mean((0, 1)), rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(got["pairs"], np.concatenate([rows[1:], rows[:-1]], 1))
        np.testing.assert_allclose(got["std"], data.std(0, ddof=1).sum(), rtol=1e-12)
        np.testing.assert_allclose(got["window"], (data[:, 1:] + data[:, :-1]).sum(0), rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(got["half"], data[:, ::2] * 2)
        np.testing.assert_array_equal(got["twice"], data.repeat(2, 1)[:, :-1])


def test_sizes_that_do_not_fit_name_the_line() -> None:
    x = graphc.placeholder("x", ("batch",))
    program = graphc.function([x], x[3:].sum(), backend="numpy")
    with pytest.raises(GraphError, match=r"slice.*\n  at .*test_types.py"):
        program(x=[1.0, 2.0])
    with pytest.raises(ShapeError, match="do not broadcast"):
        x + graphc.placeholder("y", ("other",))


def test_gradients_of_open_sizes() -> None:
    x = graphc.placeholder("x", ("batch", 3), "float64")
    loss = (graphc.softmax(x, 0) * x[::-1]).mean() + graphc.logsumexp(x) + x.var()
    gradient = graphc.grad(loss, x)
    assert gradient.shape == x.shape
    data = np.random.default_rng(3).normal(size=(4, 3))
    step = np.zeros_like(data)
    step[2, 1] = 1e-6
    slope = (loss.eval(x=data + step) - loss.eval(x=data - step)) / 2e-6
    np.testing.assert_allclose(gradient.eval(x=data)[2, 1], slope, rtol=1e-6)
