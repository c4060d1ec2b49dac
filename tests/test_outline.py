"""Parts of functions as functions of their own: shared by all that say the same, computing what they computed before."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from graphc.runtime.native import jit, lower
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.outline import SIZE, outlined
from graphc.runtime.native.target import describe, host
from graphc.runtime.native.values import Value, i64

import graphc
from graphc import nn, optim
from graphc.plan import repeated

WIDE = describe("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma",
                (48 << 10, 2 << 20, 32 << 20))  # caches decide how products are cut: the same on every machine
LONG = (("from", "ptr"), ("to", "ptr"), ("rows", "i64"))


def scaling(module: Module, name: str, size: int, *, apart: bool = True, given: bool = True) -> None:
    """``to[r * size + 1] = 2 * from[r * size] + r`` for r < rows, with a stay in the stack's memory."""
    f = module.function(name, LONG, internal=False)
    source, to, rows = f.parameters
    twice = f.add(i64(1), i64(1))
    with outlined(f, "row", *([i64(size)] if given else []), when=apart) as strides, f.loop(i64(0), rows) as row:
        place = f.mul(row, strides[0] if given else i64(size))
        cell = f.stack("i64", 1, 8)
        f.store(f.mul(f.load(f.offset(source, place, "i64"), "i64"), twice), cell)
        f.store(f.add(f.load(cell, "i64"), row), f.offset(f.offset(to, place, "i64"), i64(1), "i64"))


def check(code: jit.Code, name: str, size: int, rows: int = 5) -> None:
    a = np.arange(size * rows, dtype=np.int64) * 3
    out = np.zeros(size * rows + 1, np.int64)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(code.address(name))
    function(a.ctypes.data, out.ctypes.data, rows)
    wanted = np.zeros_like(out)
    wanted[1::size][:rows] = 2 * a[::size] + np.arange(rows)
    assert np.array_equal(out, wanted)


@pytest.mark.parametrize(("sizes", "given", "functions"), [
    ((SIZE, 300, 1000), False, 1),  # sizes are given
    ((2, 3, 200), False, 3),  # small numbers belong to the code
    ((2, 3, 200), True, 1),  # unless it is said that they are given
])
def test_what_says_the_same_is_one_function(sizes: tuple[int, ...], given: bool, functions: int) -> None:
    module = Module()
    for size in sizes:
        scaling(module, f"by.{size}", size, given=given)
    assert len(module.outlined) == functions == sum(name.startswith("row.") for name in module.functions)
    code = jit.compile_module(module.text(), target=host(), name="scaling")
    for size in sizes:
        check(code, f"by.{size}", size)


def test_nothing_happens_where_it_is_not_wanted() -> None:
    module = Module()
    scaling(module, "plain", 100, apart=False)
    assert not module.outlined and list(module.functions) == ["plain"]
    check(jit.compile_module(module.text(), target=host(), name="plain"), "plain", 100)


def test_what_comes_from_outside_has_its_type() -> None:
    """Operands whose type stands only before another one: the second of two, a chosen one, one of a vector."""
    module = Module()
    f = module.function("f", [("x", "double"), ("n", "i64"), ("to", "ptr")], internal=False)
    x, n, to = f.parameters
    small = f.compare("icmp slt", n, i64(3))
    half = f.binary("fmul", x, Value("0x3FE0000000000000", "double"))
    four = f.broadcast(x, 4)
    with outlined(f, "part"):
        chosen = f.select(small, half, x)
        total = f.binary("fadd", f.convert("sitofp", f.add(i64(1), n), "double"), half)
        f.store(f.binary("fadd", chosen, total), to)
        f.store(f.binary("fadd", f.broadcast(total, 4), four), f.offset(to, i64(1), "double"))
    own = module.functions["part.0"]
    assert sorted(p.type for p in own.parameters) == ["<4 x double>", "double", "double", "i1", "i64", "ptr"]
    code = jit.compile_module(module.text(), target=host(), name="typed")
    out = np.zeros(5)
    ctypes.CFUNCTYPE(None, ctypes.c_double, ctypes.c_int64, ctypes.c_void_p)(code.address("f"))(3.0, 2, out.ctypes.data)
    assert out.tolist() == [6.0, *[7.5] * 4]


# -- in steps --------------------------------------------------------------------------------------------------------


def functions_of(build: Callable[[], graphc.Program]) -> dict[str, Function]:
    return lower.lower(repeated(build().specialize().plan), WIDE)[0].module.functions


def perceptron(*sizes: int, batch: int = 128) -> Callable[[], graphc.Program]:
    def build() -> graphc.Program:
        x, y = graphc.placeholder("x", (batch, sizes[0])), graphc.placeholder("y", (batch, sizes[-1]))
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        model = nn.Sequential(*layers[:-1])
        return graphc.train_step(nn.MSELoss()(model(x), y), optim.AdamW(model.parameters()))
    return build


def test_gradients_of_weights_of_all_sizes_share_their_tile() -> None:
    functions = functions_of(perceptron(320, 256, 384, 512, 256))
    calls = [name for name, f in functions.items() if any("call void @overlap." in line for line in f.lines)]
    assert len(calls) == 4 and sum(name.startswith("overlap.") for name in functions) == 1


def test_drivers_of_coarse_tiles_are_worth_little_care_and_what_computes_is() -> None:
    functions = functions_of(perceptron(512, 512, 512))
    quick = {name for name, f in functions.items() if f.care < 2}
    assert len([name for name in quick if name.endswith("_contract")]) >= 4 and "run" in quick
    assert not any(functions[name].has_vectors for name in quick)
    rare = {name for name, f in functions.items() if f.care == 0}
    assert {"run", "k0_map", "math.float_power.f64.rare"} < rare  # the powers of betas, once a step
    assert "optnone" in functions["k0_map"].text()
    assert any(name.startswith("tile.") and f.care == 2 for name, f in functions.items())
    fine = functions_of(perceptron(24, 16, 8, batch=16))  # 20 microseconds: calls count
    assert all(f.care == 2 for f in fine.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(300, 260, 130), (272, 257, 140)])
def test_steps_with_shared_tiles_are_right(dtype: str, sizes: tuple[int, ...]) -> None:
    """Odd and even widths: tiles whose last columns or rows belong to a neighbour, masks, several blocks."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((150, sizes[0])).astype(dtype), rng.standard_normal((150, sizes[-1])).astype(dtype)
    found = []
    for backend, threads in (("numpy", 1), ("native", 1), ("native", 2), ("native", 3)):
        graphc.manual_seed(3)
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, dtype=dtype), nn.Tanh())]
        model = nn.Sequential(*layers)
        a, b = graphc.placeholder("x", x.shape, dtype), graphc.placeholder("y", y.shape, dtype)
        step = graphc.train_step(nn.MSELoss()(model(a), b), optim.Adam(model.parameters(), lr=1e-2, eps=1e-3),
                                 backend=backend, threads=threads)
        for _ in range(3):
            step(x, y)
        found.append([p.numpy() for p in model.parameters()])
    close = 1e-4 if dtype == "float32" else 1e-11
    for native in found[1:]:
        for expected, got, first in zip(found[0], native, found[1], strict=True):
            assert np.array_equal(got, first)
            assert np.allclose(got, expected, rtol=close, atol=close)
