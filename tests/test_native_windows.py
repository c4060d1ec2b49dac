"""Windows that overlap, folded and put together again: pooling of many sizes, strides and paddings, and its gradients."""

from __future__ import annotations

import random

import numpy as np
import pytest
from graphc.runtime.native.emit import Module
from graphc.runtime.native.indices import Indices
from graphc.runtime.native.scopes import Scope
from graphc.runtime.native.values import i64

import graphc
from graphc import nn
from graphc.index import Index, Variable
from graphc.ops.windows import window


def test_lanes_that_the_code_knows() -> None:
    """Where a vector begins at a number, so are quotients and remainders of its lanes, and guards are constants."""
    f = Module().function("f", [("n", "i64")])
    e = Indices(f, 4)
    x, y = Variable("x", 40), Variable("y", 9)
    place = Index.of(x)
    with e.inside(Scope({x: i64(8), y: i64(2)}, x)):
        assert e.values((place + 1) // 3 * 5 + 1) == (16, 16, 16, 21)
        assert e.values((place + 1) % 3 + Index.of(y)) == (2, 3, 4, 2)
        assert e.offsets((place - 9) // 2) == (0, 1, 1, 2)
        assert e.holds(((place * 2, 18, 22),)).name == "<i1 0, i1 1, i1 1, i1 0>"
    with e.inside(Scope({x: f.parameters[0]}, x, even=True)):
        assert e.values(place) is None and e.values(place % 2) == (0, 1, 0, 1)
        assert e.offsets((place + 1) // 2) == (0, 1, 1, 2)
        assert e.holds(((place * 2, 18, 22),)).name.startswith("%")


def pools(count: int, seed: int) -> list[tuple]:
    pick, found = random.Random(seed), []
    while len(found) < count:
        size, step, around = pick.choice((2, 3, 3, 3, 4, 5)), pick.choice((1, 2, 2, 3)), pick.randint(0, 1)
        high, wide = pick.randint(3, 20), pick.choice((4, 7, 8, 14, 15, 16, 17, 28, 31, 32, 33, 57, 70))
        if min(high, wide) + 2 * around >= size and around <= size // 2:
            found.append((pick.choice(("MaxPool2d", "AvgPool2d")), size, step, around, high, wide,
                          pick.choice(("float32", "float32", "float64"))))
    return found


@pytest.mark.parametrize("pool", pools(24, 6), ids=lambda pool: "-".join(map(str, pool)))
def test_pooling_and_its_gradient(pool: tuple) -> None:
    """Against the interpreter, with what surrounds it in a network; the same bits on any number of threads."""
    name, size, step, around, high, wide, dtype = pool
    rng = np.random.default_rng(4)
    x0 = np.round(rng.standard_normal((3, 2, high, wide)), 1).astype(dtype)  # with ties
    x, w = graphc.placeholder("x", x0.shape, dtype), graphc.placeholder("w", (3, 2, 1, 1), dtype)
    pooled = getattr(nn, name)(size, step, around)(nn.functional.relu(x * w))
    loss = (pooled * graphc.constant(np.arange(pooled.shape[-1]) * 0.1, dtype)).tanh().sum()
    outputs = [pooled, loss, graphc.grad(loss, x), graphc.grad(loss, w)]
    w0 = rng.standard_normal((3, 2, 1, 1)).astype(dtype)
    wanted = graphc.function([x, w], outputs, backend="numpy")(x0, w0)
    found = [graphc.function([x, w], outputs, threads=threads)(x0, w0) for threads in (1, 2, 3)]
    bound = 2e-5 if dtype == "float32" else 1e-12
    for values in found:
        for value, first, want in zip(values, found[0], wanted, strict=True):
            assert value.tobytes() == first.tobytes()
            assert np.allclose(value, want, rtol=bound, atol=bound * max(1, np.abs(want).max()))


@pytest.mark.parametrize("name", ["max", "min", "argmax", "prod", "mean"])
def test_folds_of_windows_of_signals(name: str) -> None:
    """Other folds than a pooling's, over windows that nothing surrounds; not-a-number is found."""
    x0 = np.random.default_rng(8).standard_normal((6, 45)).astype("float32")
    x0[2, 17] = np.nan
    x = graphc.placeholder("x", x0.shape)
    for size, step in ((3, 1), (3, 2), (5, 2)):
        seen = window(x, 1, size, step)
        y = getattr(seen, name)(-1)
        wanted = graphc.function([x], y, backend="numpy")(x0)
        for threads in (1, 2):
            assert np.allclose(graphc.function([x], y, threads=threads)(x0), wanted, rtol=1e-5, equal_nan=True)
