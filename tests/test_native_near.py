"""Lanes that lie near each other are loaded as vectors and shuffled, and touch no more than what lies between them."""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest
from graphc.runtime.native import lower
from graphc.runtime.native.target import describe

import graphc
from graphc import plan
from graphc.ops.sources import iota
from graphc.ops.views import pad_with
from graphc.symbols import Tensor

WIDE = describe("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma")
RNG = np.random.default_rng(3)


def spread(x: Tensor, start: int, step: int) -> Tensor:
    """Every `step` columns one of x, with zeros between."""
    return pad_with(x, (0, start), (0, step - 1 - start), (0, step - 1))


def repeated(x: Tensor, times: int) -> Tensor:
    return x.unsqueeze(2).expand(*x.shape, times).reshape(x.shape[0], x.shape[1] * times)


def pooled(x: Tensor, size: int) -> Tensor:
    return graphc.nn.functional.max_pool2d(x.unsqueeze(0), size).squeeze(0)


VIEWS = {
    "every second": lambda x: x[:, 1::2] * 2,
    "every second, backwards": lambda x: x[:, 1::2].flip(1) * 2,
    "every fourth": lambda x: x[:, 3::4] * 2,
    "twice": lambda x: repeated(x, 2) * 2,
    "four times": lambda x: repeated(x, 4) * 2,
    "two images in one": lambda x: spread(x, 0, 2) + spread(x * x, 1, 2),
    "four images in one": lambda x: spread(x, 0, 4) - spread(x, 3, 4),
    "shifted": lambda x: pad_with(spread(x, 1, 2), (0, 3), (0, 13), (0, 0)) * 2,
    "the first of two rows": lambda x: pad_with(repeated(x, 2), (1, 0), (0, 0), (1, 0)) * 2,
    "sums": lambda x: (repeated(x, 2) * spread(x, 1, 2)).sum(1),
    "positions": lambda x: graphc.where(iota((x.shape[0], 2 * x.shape[1]), 1) % 2 < 1, repeated(x, 2), spread(x, 1, 2)),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_views_whose_lanes_are_near_each_other(name: str, dtype: str) -> None:
    for columns in (8, 16, 32, 48, 64, 30, 20, 7):
        x = graphc.placeholder("x", (6, columns), dtype)
        values = (10 * RNG.standard_normal((6, columns))).astype(dtype)
        results = [np.asarray(graphc.function([x], VIEWS[name](x), backend=backend, threads=threads)(values))
                   for backend, threads in (("numpy", 1), ("native", 1), ("native", 2), ("native", 3))]
        np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
        assert results[1].tobytes() == results[2].tobytes() == results[3].tobytes()


@pytest.mark.parametrize("name", [n for n in VIEWS if n not in ("every fourth", "every second, backwards")])
def test_no_lane_is_fetched_by_itself(name: str) -> None:
    x = graphc.placeholder("x", (6, 64))
    program = graphc.function([x], VIEWS[name](x), threads=1)
    text = lower.lower(plan.repeated(program.specialize().plan), WIDE)[0].module.text()
    assert "masked.gather" not in text
    assert name == "positions" or ("urem <" not in text and "udiv <" not in text)


@pytest.mark.skipif(os.name != "posix", reason="needs pages that may not be read")
@pytest.mark.parametrize("name", VIEWS)
def test_nothing_beside_an_operand_is_read(name: str) -> None:
    """Operands that end, or begin, where no page may be read: a load too many would end the process."""
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    room = np.frombuffer(memory, np.uint8)
    address = room.ctypes.data
    forbidden = [ctypes.c_void_p(address), ctypes.c_void_p(address + 2 * page)]
    for place in forbidden:
        assert protect(place, ctypes.c_size_t(page), 0) == 0
    try:
        for columns in (16, 31, 64):
            for at_end in (False, True):
                size = 4 * 6 * columns
                begin = 2 * page - size if at_end else page
                operand = room[begin : begin + size].view(np.float32).reshape(6, columns)
                operand[:] = RNG.standard_normal((6, columns))
                x = graphc.placeholder("x", (6, columns))
                found, expected = (graphc.function([x], VIEWS[name](x), backend=backend, threads=1)(operand)
                                   for backend in ("native", "numpy"))
                np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-6)
    finally:
        for place in forbidden:
            protect(place, ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE)


def test_pooling_of_wide_images() -> None:
    x = graphc.placeholder("x", (3, 12, 64))
    values = RNG.standard_normal((3, 12, 64)).astype(np.float32)
    loss = (pooled(x, 2) * 2.0).sum()
    found, expected = (graphc.function([x], graphc.grad(loss, x), backend=backend)(values) for backend in ("native", "numpy"))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
