"""Memory of results: written again only where nobody has them any more."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch

import graphc
from graphc.program import Program

SHAPE = (128, 300)


@pytest.fixture
def twice() -> Program:
    x = graphc.placeholder("x", SHAPE)
    return graphc.function([x], {"y": x * 2.0, "sum": x.sum()})


def given(number: float) -> np.ndarray:
    return np.full(SHAPE, number, np.float32)


def test_results_stay_what_they_are_as_long_as_somebody_has_them(twice: Program) -> None:
    held = [twice(given(k))["y"] for k in range(6)]
    rows = [twice(given(10 + k))["y"][3:5] for k in range(4)]
    turned = [twice(given(20 + k))["y"].T for k in range(4)]
    tensors = [torch.from_numpy(twice(given(30 + k))["y"]) for k in range(4)]
    views = [memoryview(twice(given(40 + k))["y"]) for k in range(4)]
    for start, values in ((0, held), (10, rows), (20, turned), (30, tensors), (40, views)):
        for k, value in enumerate(values):
            assert (np.asarray(value) == 2 * (start + k)).all()


def test_a_loop_needs_no_new_memory(twice: Program) -> None:
    twice(given(0))
    places = set()
    for k in range(20):
        y = twice(given(k))["y"]
        places.add(y.ctypes.data)
        assert (y == 2 * k).all()
    assert len(places) == 2
    del y
    assert twice(given(1))["y"].ctypes.data in places


def test_a_result_may_be_what_the_next_call_reads() -> None:
    x = graphc.placeholder("x", SHAPE)
    program = graphc.function([x], graphc.flip(x, 0) + 1.0)
    y = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    wanted = y.copy()
    for _ in range(7):
        y, wanted = program(y), wanted[::-1] + 1
        assert np.array_equal(y, wanted)


def test_many_threads_have_results_of_their_own(twice: Program) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            y = twice(given(number))["y"]
            if not (y == 2 * number).all():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_small_and_very_large_results_are_not_kept() -> None:
    for size in (1000, 10_000_000):
        x = graphc.placeholder("x", (size,))
        program = graphc.function([x], x + 1.0)
        y = program(np.zeros(size, np.float32))
        base = y if y.base is None else y.base
        program(np.zeros(size, np.float32))
        assert [r for r in gc.get_referrers(base) if isinstance(r, list)] == []
