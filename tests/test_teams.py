"""How many threads a step gets: the estimate follows what a core does in a nanosecond, in float32 and float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from graphc.runtime.native import teams
from graphc.runtime.native.kernels import is_serial

import graphc
from graphc import nn, optim


def model(sizes: Sequence[int], dtype: str) -> nn.Module:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    made = nn.Sequential(*layers)
    return made.double() if dtype == "float64" else made


def program(sizes: Sequence[int], rows: int, dtype: str, train: bool, most: int = 2) -> graphc.Program:
    graphc.manual_seed(0)
    net = model(sizes, dtype)
    x, y = graphc.placeholder("x", (rows, sizes[0]), dtype), graphc.placeholder("y", (rows, sizes[-1]), dtype)
    if train:
        return graphc.train_step(nn.functional.mse_loss(net(x), y), optim.Adam(net.parameters()), threads=most)
    return graphc.function([x], net(x), threads=most)


SHARED = [((256, 256, 256, 10), 128, False), ((256, 256, 256, 10), 64, True), ((512, 512, 512), 32, False),
          ((784, 512, 512, 10), 8, False), ((1024, 1024), 2, True)]
SHORT = [((64, 64, 64), 32, True), ((64, 128, 10), 32, True), ((128, 128), 16, True)]  # where it depends on the moment
ALONE = [((64, 64, 64), 32, False), ((32, 32, 32), 64, True), ((8, 8), 4, True)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "rows", "train"), SHARED + SHORT)
def test_a_step_of_more_than_some_microseconds_may_be_shared(sizes: Sequence[int], rows: int, train: bool, dtype: str) -> None:
    assert program(sizes, rows, dtype, train).specialize().executable.threads == 2


@pytest.mark.parametrize(("sizes", "rows", "train"), ALONE)
def test_a_step_of_some_microseconds_is_not(sizes: Sequence[int], rows: int, train: bool) -> None:
    assert program(sizes, rows, "float32", train).specialize().executable.threads == 1


@pytest.mark.parametrize("rows", [32, 96])
def test_a_contraction_takes_twice_as_long_in_float64(rows: int) -> None:
    plans = [program((200, 200), rows, dtype, False).specialize().plan for dtype in ("float32", "float64")]
    single, double = (teams.estimate(plan, 2).alone for plan in plans)
    assert 1.8 < double / single < 2.2


@pytest.mark.parametrize("turned", [False, True])
def test_elements_that_move_cost_more_than_those_that_stay(turned: bool) -> None:
    """16,000 of them that lie apart are worth a second thread."""
    x = graphc.placeholder("x", (16, 16, 64))
    y = x.permute(2, 0, 1) if turned else x
    kernel, = graphc.function([x], y + 1.0).specialize().plan.kernels
    assert is_serial(kernel) != turned


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "rows"), [((130, 90, 70), 50), ((256, 256, 256, 10), 64)])
def test_the_number_of_threads_does_not_change_a_bit(sizes: Sequence[int], rows: int, dtype: str) -> None:
    """Kernels that threads share now and then are those that were one thread's at other sizes."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((rows, sizes[0])).astype(dtype), random.standard_normal((rows, sizes[-1])).astype(dtype)
    losses = [np.asarray(program(sizes, rows, dtype, True, most).run(4, x, y)) for most in (1, 2, 3)]
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[0], losses[2])
