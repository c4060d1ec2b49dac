"""Native kernels of every form against the interpreter, and bit for bit across numbers of threads."""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from graphc.runtime.interpreter import evaluate_graph
from graphc.runtime.native import kernels as native
from graphc.runtime.native import rows, short_rows
from graphc.runtime.native.emit import Module
from graphc.runtime.native.jit import compile_module
from graphc.runtime.native.memory import allocate
from graphc.runtime.native.target import Target, describe, host
from graphc.runtime.native.threads import emit_barrier
from graphc.runtime.native.values import i64
from graphc.runtime.native.workers import TICKETS

import graphc
from graphc import ops
from graphc.ir import Graph, Node, make
from graphc.methods import FUNCTIONS as g
from graphc.op import REGISTRY, Kind
from graphc.plan import Buffer, Form, Kernel, Role, slot
from graphc.records import replace
from graphc.symbols import Tensor
from graphc.types import TensorType, as_dtype

RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
BARRIER_BYTES = 4096
GUARD = 64  # bytes around every array that no kernel may change
SIZES = (1, 2, 3, 5, 7, 13, 16, 17, 31, 33, 64, 100, 1000)
RNG = np.random.default_rng(7)
assert ops.__all__  # importing them fills the registry


@pytest.fixture(autouse=True)
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test draws the same values, whichever tests ran before it."""
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(7))


def targets() -> dict[str, Target]:
    """The host, and on x86-64 a machine without masks that the host can act as."""
    found = {"host": host()}
    features = {name for name, there in llvm.get_host_cpu_features().items() if there}
    if host().triple.startswith("x86_64") and {"avx2", "fma"} <= features and host().has_masks:
        found["avx2"] = describe(host().triple, "haswell", "+avx2,+fma")
    return found


TARGETS = targets()


def inputs(*types: tuple[str, Sequence[int]]) -> list[Tensor]:
    """Symbols for a kernel's slots."""
    return [Tensor(slot(i, TensorType(as_dtype(d), tuple(s)))) for i, (d, s) in enumerate(types)]


def kernel(form: Form, slots: Sequence[Tensor], outputs: Sequence[Tensor], space: Sequence[Any],
           axes: tuple[int, ...] = (), in_place: frozenset[tuple[int, int]] = frozenset()) -> Kernel:
    nodes = [o.node for o in outputs]
    body = Graph(tuple(s.node for s in slots), tuple(nodes))
    reads = tuple(Buffer(f"r{i}", s.type, Role.INPUT) for i, s in enumerate(slots))
    writes = tuple(Buffer(f"w{i}", n.type, Role.OUTPUT) for i, n in enumerate(nodes))
    return Kernel("test", form, body, reads, writes, tuple(space), axes, in_place)


def values_for(node: Node, scale: float = 1.0) -> np.ndarray:
    kind = node.dtype.numpy
    if kind == np.bool_:
        return RNG.integers(0, 2, node.shape).astype(kind)
    if kind.kind == "i":
        return RNG.integers(-9, 10, node.shape).astype(kind)
    return (scale * RNG.standard_normal(node.shape)).astype(kind)


@dataclass
class Guarded:
    """An array with a border that must not change."""

    memory: np.ndarray
    view: np.ndarray

    @staticmethod
    def of(array: np.ndarray) -> Guarded:
        memory = np.full(array.nbytes + 2 * GUARD, 0xA5, np.uint8)
        inside = memory[GUARD:GUARD + array.nbytes]
        inside[:] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        return Guarded(memory, inside.view(array.dtype).reshape(array.shape))

    @property
    def address(self) -> int:
        return self.memory.ctypes.data + GUARD

    def intact(self) -> bool:
        return bool((self.memory[:GUARD] == 0xA5).all() and (self.memory[len(self.memory) - GUARD:] == 0xA5).all())


class Compiled:
    """A kernel as a callable on arrays."""

    def __init__(self, k: Kernel, target: Target) -> None:
        self.kernel = k
        module = Module()
        emit_barrier(module, target)
        function = native.emit_kernel(module, "kernel", k, target)
        run = module.function("run", [("table", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                              internal=False)
        table, thread, threads, barrier = run.parameters
        private_bytes, shared_bytes = native.scratch_sizes(k, target)
        count = len(k.reads) + len(k.writes)
        words = [run.load(run.offset(table, i64(i), "i64"), "ptr", align=8) for i in range(count + 2)]
        private = run.offset(words[count], run.mul(thread, i64(private_bytes + 64)), "i8")
        tickets = run.offset(barrier, i64(TICKETS), "i8")
        arguments = [*words[:count], private, words[count + 1], thread, threads, barrier, tickets]
        run.call(function.name, arguments[:len(function.parameters)])
        self.text = module.text()
        self.code = compile_module(self.text, target=target, name="kernel")
        self.run = RUN(self.code.address("run"))
        self.private_bytes, self.shared_bytes = private_bytes, shared_bytes

    def __call__(self, arrays: Sequence[np.ndarray], threads: int = 1, aliased: dict[int, int] | None = None
                 ) -> list[np.ndarray]:
        """The outputs; aliased: write -> read that share memory."""
        reads = [Guarded.of(a) for a in arrays]
        writes = []
        for i, buffer in enumerate(self.kernel.writes):
            if aliased and i in aliased:
                writes.append(reads[aliased[i]])
            else:
                writes.append(Guarded.of(np.full(buffer.type.shape, 99, buffer.type.dtype.numpy)))
        private = allocate((self.private_bytes + 64) * threads)
        shared = allocate(self.shared_bytes + 64)
        table = np.array([*(b.address for b in (*reads, *writes)), private.address, shared.address], np.int64)
        barrier = np.zeros(BARRIER_BYTES, np.uint8)
        barrier_address = (barrier.ctypes.data + 63) // 64 * 64
        workers = [threading.Thread(target=self.run, args=(table.ctypes.data, t, threads, barrier_address))
                   for t in range(1, threads)]
        for worker in workers:
            worker.start()
        self.run(table.ctypes.data, 0, threads, barrier_address)
        for worker in workers:
            worker.join()
        for i, memory in enumerate((*reads, *writes)):
            assert memory.intact(), f"something was written beside array {i}"
        return [w.view.copy() for w in writes]


def check(k: Kernel, arrays: Sequence[np.ndarray] | None = None, *, tolerance: float = 0.0, threads: Sequence[int] = (1,),
          target: str = "host", aliased: dict[int, int] | None = None) -> list[np.ndarray]:
    """Compares a kernel with the interpreter; `tolerance` in units of the dtype's epsilon, 0 asks for equal values."""
    given = list(arrays) if arrays is not None else [values_for(n) for n in k.body.inputs]
    expected = evaluate_graph(k.body, dict(zip(k.body.inputs, given, strict=True)))
    with pytest.MonkeyPatch.context() as patch:
        if len(threads) > 1:  # however small the kernel is
            patch.setattr(native, "SERIAL", 0)
            patch.setattr(native, "TURNS", 0)
        compiled = Compiled(k, TARGETS[target])
    first: list[np.ndarray] | None = None
    for count in threads:
        found = compiled(given, count, aliased)
        for one, other in zip(found, expected, strict=True):
            if one.dtype.kind == "f":
                epsilon = tolerance * float(np.finfo(one.dtype).eps)
                np.testing.assert_allclose(one, other, rtol=epsilon, atol=epsilon)
            else:
                np.testing.assert_array_equal(one, other)
        if first is None:
            first = found
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, found, strict=True)), f"{count} threads differ"
    assert first is not None
    return first


def many(function: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("target", list(TARGETS))(function)


# -- maps ------------------------------------------------------------------------------------------------------------


@many
@pytest.mark.parametrize("n", SIZES)
def test_flat_map(n: int, target: str) -> None:
    for dtype in ("float32", "float64", "int32", "int64"):
        x, y = inputs((dtype, (n,)), (dtype, (n,)))
        check(kernel(Form.MAP, [x, y], [x * y + x, x - y, x < y], (n,)), target=target)


@many
def test_broadcast_map(target: str) -> None:
    for m, n in ((1, 1), (3, 1), (1, 7), (5, 2), (5, 3), (7, 16), (6, 17), (33, 100), (200, 5)):
        x, b, c, s = inputs(("float32", (m, n)), ("float32", (n,)), ("float32", (m, 1)), ("float32", ()))
        check(kernel(Form.MAP, [x, b, c, s], [x + b, g["relu"](x * c) + s], (m, n)), target=target, threads=(1, 2, 3))


@many
def test_views_and_guards(target: str) -> None:
    for m, n in ((4, 6), (5, 17), (33, 40)):
        x, = inputs(("float32", (m, n)))
        flipped = g["flip"](x, (1,))
        moved = g["transpose"](x, 0, 1)
        padded = g["pad"](x, ((1, 2), (3, 1))) if "pad" in g else x
        check(kernel(Form.MAP, [x], [x + flipped, flipped * 2.0], (m, n)), target=target)
        check(kernel(Form.MAP, [x], [moved + 1.0], (n, m)), target=target)
        check(kernel(Form.MAP, [x], [x[1:-1, 1::2] * 3.0], x[1:-1, 1::2].shape), target=target)
        check(kernel(Form.MAP, [x], [padded + 1.0], padded.shape), target=target)
        window = g["window"](x, 1, 3, 2)
        check(kernel(Form.MAP, [x], [window * 2.0], window.shape), target=target)
        folded = g["reshape"](x, -1)
        check(kernel(Form.MAP, [x], [folded + 1.0, g["exp"](x)], (m, n)), target=target, tolerance=8)
        check(kernel(Form.MAP, [x], [g["iota"]((m, n), 1, "float32") * x], (m, n)), target=target)


@many
def test_transposing_maps(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tiles and what is left over on both sides, in any order of axes, with other operands and results beside."""
    for dtype, shape, axes in (("float32", (4, 5), (1, 0)), ("float32", (16, 16), (1, 0)), ("float32", (33, 70), (1, 0)),
                               ("float64", (40, 19), (1, 0)), ("int64", (17, 23), (1, 0)), ("bool", (20, 36), (1, 0)),
                               ("float32", (3, 20, 35), (0, 2, 1)), ("float32", (18, 3, 35), (2, 1, 0)),
                               ("float32", (17, 5, 2, 34), (3, 0, 2, 1)), ("float32", (300, 48), (1, 0)),
                               ("float32", (3, 100), (1, 0))):
        turned = tuple(shape[a] for a in axes)
        x, y = inputs((dtype, shape), ("float32", turned))
        moved = g["permute"](x, axes)
        outputs = [moved, g["cast"](moved, "float32") + g["exp"](y) * 0.5]
        check(kernel(Form.MAP, [x, y], outputs, turned), target=target, tolerance=8, threads=(1, 2, 3))
    monkeypatch.setitem(TARGETS, "small caches", replace(TARGETS[target], l2_bytes=1024))  # lines to be written are fetched
    x, = inputs(("float32", (70, 150)))
    check(kernel(Form.MAP, [x], [g["permute"](x, (1, 0)) * 2.0], (150, 70)), target="small caches", threads=(1, 2, 3))
    x, = inputs(("float32", (40, 40)))
    outputs = [x + g["permute"](x, (1, 0)), g["permute"](g["flip"](x, (0,)), (1, 0))]
    check(kernel(Form.MAP, [x], outputs, (40, 40)), target=target, threads=(1, 2, 3))


@many
def test_casts_and_bools(target: str) -> None:
    for n in (1, 9, 100):
        x, i, b = inputs(("float32", (n,)), ("int64", (n,)), ("bool", (n,)))
        check(kernel(Form.MAP, [x, i, b], [g["where"](b, x, -x), b & (x > 0), i * 2 + g["cast"](b, "int64"),
                                           g["cast"](x, "int32"), g["cast"](i, "float32")], (n,)), target=target)


@many
def test_map_in_place(target: str) -> None:
    x, y = inputs(("float32", (1000,)), ("float32", (1000,)))
    check(kernel(Form.MAP, [x, y], [x * 2.0 + y, x - y], (1000,), in_place=frozenset({(0, 0), (1, 1)})),
          target=target, aliased={0: 0, 1: 1})


IN_PLACE: tuple[tuple[Form, tuple[int, ...], tuple[int, ...], Callable[[Tensor], Tensor]], ...] = (
    (Form.MAP, (3000,), (), lambda x: x * 2.0 + 1.0),
    (Form.MAP, (90, 33), (), lambda x: x * 2.0 + g["expand"](x[:, 0:1] * 0.0, (90, 33))),
    (Form.ROWS, (90, 70), (1,), lambda x: x - g["expand"](g["sum"](x, 1, True), x.node.shape)),
    (Form.ROWS, (300, 10), (1,), lambda x: x - g["expand"](g["exp"](g["max"](x, 1, True)), x.node.shape)),  # blocks of rows
    (Form.ROWS, (2, 50000), (1,), lambda x: x - g["expand"](g["sum"](x, 1, True), x.node.shape)),  # chunks of rows
    (Form.COLUMNS, (40, 1300), (0,), lambda x: x - g["expand"](g["sum"](x, 0, True), x.node.shape)),
    (Form.COLUMNS, (3000, 20), (0,), lambda x: x - g["expand"](g["sum"](x, 0, True), x.node.shape)),  # chunks of columns
    (Form.PREFIX, (70, 40), (), lambda x: g["cumsum"](x, 1)),
    (Form.PREFIX, (20, 9, 70), (), lambda x: g["cumsum"](x, 1)),
)


@many
def test_nothing_is_done_twice(target: str) -> None:
    """What is updated in place, whoever takes which part of it."""
    for form, shape, axes, update in IN_PLACE:
        x, = inputs(("float32", shape))
        check(kernel(form, [x], [update(x)], shape, axes, frozenset({(0, 0)})), target=target, tolerance=4000,
              threads=(1, 2, 3), aliased={0: 0})


@many
def test_gather(target: str) -> None:
    x, index = inputs(("float32", (6, 20)), ("int64", (9,)))
    places = np.array([0, 5, 2, -1, 6, 3, 3, 1, 4])
    data = values_for(x.node)
    rows = g["take"](x, index, 0)
    check(kernel(Form.MAP, [x, index], [rows * 2.0], rows.shape), [data, places], target=target, threads=(1, 2))
    columns = g["take"](x, index, 1)
    check(kernel(Form.MAP, [x, index], [columns + 1.0], columns.shape), [data, places], target=target)
    one, label = inputs(("float32", (9, 20)), ("int64", (9, 1)))
    picked = g["take_along_axis"](one, label, 1)
    check(kernel(Form.MAP, [one, label], [-picked], picked.shape), [values_for(one.node), places.reshape(9, 1)],
          target=target)


# -- folds along rows ------------------------------------------------------------------------------------------------


def softmax(x: Tensor) -> Tensor:
    shifted = g["exp"](x - g["max"](x, -1, True))
    return shifted / g["sum"](shifted, -1, True)


@many
@pytest.mark.parametrize("n", SIZES)
def test_softmax_rows(n: int, target: str) -> None:
    for dtype, m in (("float32", 5), ("float64", 3), ("float32", 70)):
        x, = inputs((dtype, (m, n)))
        top = g["max"](x, -1, True)
        check(kernel(Form.ROWS, [x], [softmax(x), g["reshape"](top, (m,))], (m, n), (1,)), target=target, tolerance=16,
              threads=(1, 2, 3) if m == 70 else (1,))


@many
def test_layer_norm_rows(target: str) -> None:
    for m, n in ((4, 10), (3, 128), (300, 128), (2, 500)):
        x, scale, shift = inputs(("float32", (m, n)), ("float32", (n,)), ("float32", (n,)))
        mean = g["mean"](x, -1, True)
        variance = g["mean"](g["square"](x - mean), -1, True)
        out = (x - mean) * g["rsqrt"](variance + 1e-5) * scale + shift
        check(kernel(Form.ROWS, [x, scale, shift], [out, mean, variance], (m, n), (1,)), target=target, tolerance=64,
              threads=(1, 2))
    for dtype, m, n in (("float32", 700, 97), ("float32", 520, 128), ("float64", 1100, 63)):  # straight on
        x, y = inputs((dtype, (m, n)), (dtype, (m, n)))
        gradient = softmax(x) * (y - g["sum"](softmax(x) * y, -1, True))
        check(kernel(Form.ROWS, [x, y], [softmax(x), gradient, g["max"](y, 1)], (m, n), (1,)), target=target, tolerance=64,
              threads=(1, 2))


@many
def test_folds_of_all_kinds(target: str) -> None:
    for m, n in ((1, 1), (3, 2), (40, 3), (5, 33), (2, 1000)):
        x, b, i = inputs(("float32", (m, n)), ("bool", (m, n)), ("int64", (m, n)))
        outputs = [g["sum"](x, 1), g["min"](x, 1), g["argmax"](x, 1), g["argmin"](i, 1), g["any"](b, 1), g["all"](b, 1),
                   g["sum"](i, 1), g["prod"](x, 1)]
        check(kernel(Form.ROWS, [x, b, i], outputs, (m, n), (1,)), target=target, tolerance=1000)


@many
def test_full_reductions(target: str) -> None:
    for shape in ((1,), (7,), (1000,), (40, 1000), (7, 6001)):
        x, y = inputs(("float32", shape), ("float32", shape))
        axes = tuple(range(len(shape)))
        loss = g["mean"](g["square"](x - y))
        outputs = [loss, g["argmax"](x), g["max"](x) - g["min"](y)]
        check(kernel(Form.ROWS, [x, y], outputs, shape, axes), target=target, tolerance=200, threads=(1, 2, 3))
        total = g["sqrt"](g["sum"](g["square"](x)))
        check(kernel(Form.ROWS, [x, y], [x / total, total, y * 2.0], shape, axes), target=target, tolerance=200,
              threads=(1, 2, 3))


@many
def test_rows_over_several_axes(target: str) -> None:
    x, y = inputs(("float32", (3, 4, 5, 6)), ("float32", (6, 5)))
    turned = g["transpose"](y, 0, 1)
    total = g["sum"](x * turned, (1, 3))
    check(kernel(Form.ROWS, [x, y], [total, total * 2.0], (3, 4, 5, 6), (1, 3)), target=target, tolerance=64)
    high = g["max"](x, (2, 3))
    check(kernel(Form.ROWS, [x, y], [high, g["sum"](x * g["reshape"](high, (3, 4, 1, 1)), (2, 3))], (3, 4, 5, 6), (2, 3)),
          target=target, tolerance=64)


@many
def test_few_long_rows(target: str) -> None:
    x, = inputs(("float32", (3, 20000)))
    check(kernel(Form.ROWS, [x], [softmax(x), g["argmax"](x, -1)], (3, 20000), (1,)), target=target, tolerance=400,
          threads=(1, 2, 3))


@many
def test_rows_from_beyond_the_cache(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are fetched ahead, beyond the last row too, and no result changes."""
    monkeypatch.setitem(TARGETS, "small caches", replace(TARGETS[target], l2_bytes=1024))
    for dtype, m, n in (("float32", 300, 10), ("float32", 90, 97), ("float64", 40, 300), ("float32", 33, 1000)):
        x, y, s = inputs((dtype, (m, n)), (dtype, (m, n)), (dtype, (n,)))
        outputs = [softmax(x), softmax(x) * (y - g["sum"](softmax(x) * y, -1, True)) * s, g["max"](y, 1)]
        k = kernel(Form.ROWS, [x, y, s], outputs, (m, n), (1,))
        arrays = [values_for(v.node) for v in (x, y, s)]
        found = check(k, arrays, target="small caches", tolerance=64, threads=(1, 2))
        usual = check(k, arrays, target=target, tolerance=64)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found, usual, strict=True))
        assert n < 64 or "prefetch" in Compiled(k, TARGETS["small caches"]).text


@many
def test_long_rows_some_at_a_time(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in chunks, a few at a time, and whole ones too long for scratch: dear values wait where outputs will be."""
    monkeypatch.setattr(rows.Rows, "rows_in_cache", lambda self: 4)
    for dtype, m, n in (("float32", 9, 8500), ("float64", 5, 8193), ("float32", 34, 16500)):
        x, y = inputs((dtype, (m, n)), (dtype, (m, n)))
        outputs = [softmax(x) * y, g["exp"](y) - g["sum"](g["exp"](y), 1, True), g["max"](x, 1)]
        check(kernel(Form.ROWS, [x, y], outputs, (m, n), (1,)), target=target, tolerance=4000, threads=(1, 2, 3))
        check(kernel(Form.ROWS, [x], [softmax(x)], (m, n), (1,), frozenset({(0, 0)})), target=target, tolerance=400,
              threads=(1, 2, 3), aliased={0: 0})


@many
@pytest.mark.parametrize("n", [2, 5, 7, 10, 16, 17, 33, 64])
def test_short_rows_in_blocks(n: int, target: str) -> None:
    """Rows finished together, with dear numbers of whole rows, data for an index, and a last block cut off."""
    for dtype, m in (("float32", 16), ("float32", 61), ("float64", 130), ("float32", 259)):
        x, shift, label = inputs((dtype, (m, n)), (dtype, (m,)), ("int64", (m,)))
        top = g["max"](x, -1, True)
        shifted = x - top
        total = g["log"](g["sum"](g["exp"](shifted), -1, True)) + g["reshape"](shift, (m, 1))
        picked = g["take_along_axis"](x, g["reshape"](label, (m, 1)), 1)
        outputs = [shifted - total, g["exp"](shifted), g["reshape"](total - picked, (m,)), g["argmax"](x, 1), g["argmin"](x, 1),
                   g["any"](x > total, 1), g["all"](x <= top, 1), g["sum"](x, 1)]
        check(kernel(Form.ROWS, [x, shift, label], outputs, (m, n), (1,)),
              [values_for(x.node), values_for(shift.node), RNG.integers(0, n, m)], target=target, tolerance=64,
              threads=(1, 2, 3))
    x, = inputs(("float32", (70, n)))
    values = values_for(x.node)
    values[3, 0], values[5, n - 1], values[9, :], values[11, :] = np.nan, np.nan, -np.inf, 2.0
    outputs = [g["max"](x, 1), g["min"](x, 1), g["argmax"](x, 1), g["argmin"](x, 1)]
    check(kernel(Form.ROWS, [x], outputs, (70, n), (1,)), [values], target=target, threads=(1, 2))


@many
@pytest.mark.parametrize("m, n", [(33, 32), (70, 33), (64, 64), (257, 61), (100, 160), (40, 300), (35, 2000), (2100, 40)])
def test_sums_down_the_columns_of_rows(m: int, n: int, target: str) -> None:
    """What a norm's gradient takes of all rows: of rows in blocks, in registers and in loops, in groups that may be ragged."""
    for dtype in ("float32", "float64"):
        x, y = inputs((dtype, (m, n)), (dtype, (m, n)))
        mean = (g["sum"](x, 1) / float(n)).reshape((m, 1))
        centred = x - mean
        scale = (g["sum"](centred * centred, 1) / float(n)).reshape((m, 1)) + 1.0
        down = [g["sum"](y * (centred / scale), 0), g["sum"](y, 0), g["max"](x * y, 0)]
        check(kernel(Form.ROWS, [x, y], [centred / scale * y, *down], (m, n), (1,)), target=target, tolerance=256,
              threads=(1, 2, 3))
        x, y = inputs((dtype, (m // 7 + 1, 7, n)), (dtype, (m // 7 + 1, 7, n)))
        row = g["sum"](x * y, 2).reshape((m // 7 + 1, 7, 1))
        check(kernel(Form.ROWS, [x, y], [g["sum"](x, (0, 1)), row * x], x.shape, (2,)), target=target, tolerance=256,
              threads=(1, 2, 3))


@many
@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 10, 15, 16, 17, 24])
def test_short_rows_as_many_as_lanes(n: int, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows turned in registers, of any type and distance, with what is left over; a row's bits are those of a row by itself."""
    used = []
    monkeypatch.setattr(short_rows.ShortRows, "pays", property(lambda self: used.append(self) or bool(self.turned)))
    for dtype, m in (("float32", 256), ("float32", 263), ("float64", 131), ("int32", 280)):
        wide, row, column, label = inputs((dtype, (m, n + 3)), (dtype, (n,)), (dtype, (m,)), ("int64", (m,)))
        x = wide[:, 2:n + 2] * row - g["reshape"](column, (m, 1))
        arrays = [values_for(wide.node), values_for(row.node), values_for(column.node), RNG.integers(0, n, m)]
        outputs = [g["sum"](x, 1), g["max"](x, 1), g["argmin"](x, 1), x - g["max"](x, 1, True)]
        check(kernel(Form.ROWS, [wide, row, column, label], outputs, (m, n), (1,)), arrays, target=target, tolerance=64,
              threads=(1, 2, 3))
        if dtype.startswith("float"):
            picked = g["take_along_axis"](wide, g["reshape"](label, (m, 1)), 1)
            outputs = [softmax(x), g["reshape"](picked, (m,)), g["mean"](x, 1)]
            k = kernel(Form.ROWS, [wide, row, column, label], outputs, (m, n), (1,))
            found = check(k, arrays, target=target, tolerance=64, threads=(1, 2, 3))
            if 4 < n <= TARGETS[target].lanes(x.node.dtype.itemsize):
                monkeypatch.setattr(rows, "MOST_PLACES", 0)
                alone = check(k, arrays, target=target, tolerance=64)
                monkeypatch.setattr(rows, "MOST_PLACES", short_rows.MOST_PLACES)
                assert all(a.tobytes() == b.tobytes() for a, b in zip(found, alone, strict=True))
    assert bool(used) == TARGETS[target].has_masks
    x, = inputs(("float32", (300, n)))
    update = softmax(x) + x
    check(kernel(Form.ROWS, [x], [update], (300, n), (1,), frozenset({(0, 0)})), target=target, tolerance=64,
          threads=(1, 2, 3), aliased={0: 0})


@many
@pytest.mark.parametrize("n", (*SIZES, 97, 500, 1100))
def test_positions_of_extremes(n: int, target: str) -> None:
    """Ties, infinities and NaN: the first position, in vectors, tails and chunks."""
    for dtype, m in (("float32", 6), ("float64", 6), ("int64", 6), ("int32", 40)):
        x, = inputs((dtype, (m, n)))
        values = RNG.integers(-2, 3, (m, n)).astype(dtype)
        if dtype.startswith("float"):
            values[0, n // 2:], values[1], values[2, n // 3] = np.nan, -np.inf, np.inf
        for axis, form in ((1, Form.ROWS), (0, Form.COLUMNS)):
            check(kernel(form, [x], [g["argmax"](x, axis), g["argmin"](x, axis)], (m, n), (axis,)), [values], target=target,
                  threads=(1, 2, 3))
    x, = inputs(("float32", (2, 20000)))
    values = np.zeros((2, 20000), np.float32)
    values[0, 15000:] = 1.0
    check(kernel(Form.ROWS, [x], [g["argmax"](x, 1), g["argmin"](x, 1)], (2, 20000), (1,)), [values], target=target,
          threads=(1, 2, 3))


@many
def test_rows_where_the_index_is_data(target: str) -> None:
    x, label = inputs(("float32", (33, 10)), ("int64", (33,)))
    top = g["max"](x, -1, True)
    log_total = g["log"](g["sum"](g["exp"](x - top), -1, True)) + top
    picked = g["take_along_axis"](x, g["reshape"](label, (33, 1)), 1)
    check(kernel(Form.ROWS, [x, label], [log_total - picked, g["exp"](x - log_total)], (33, 10), (1,)),
          [values_for(x.node), RNG.integers(0, 10, 33)], target=target, tolerance=32)


# -- folds across rows -----------------------------------------------------------------------------------------------


@many
@pytest.mark.parametrize("n", (*SIZES, 97, 256, 290, 520))  # in one block of vectors, in two, in many
def test_column_sums(n: int, target: str) -> None:
    for dtype, m in (("float32", 1), ("float64", 6), ("float32", 37), ("float32", 600)):
        x, = inputs((dtype, (m, n)))
        total = g["sum"](x * 2.0, 0)
        check(kernel(Form.COLUMNS, [x], [total, total + 1.0, x * 2.0], (m, n), (0,)), target=target, tolerance=64 + m,
              threads=(1, 2))
        check(kernel(Form.COLUMNS, [x], [g["max"](x, 0), g["argmin"](x, 0)], (m, n), (0,)), target=target, threads=(1, 3))


@many
@pytest.mark.parametrize("n", [530, 1023, 1024, 2200])
@pytest.mark.parametrize("m", [15, 16, 21, 530])
def test_columns_of_long_rows(m: int, n: int, target: str) -> None:
    """Some rows at a time, with the states of all columns in memory: for one part, and for chunks of rows."""
    x, b = inputs(("float32", (m, n)), ("float32", (n,)))
    shifted = x + g["expand"](b, (m, n))
    outputs = [g["sum"](shifted, 0) * 2.0, g["max"](x, 0), shifted, g["any"](x > 2.5, 0)]
    check(kernel(Form.COLUMNS, [x, b], outputs, (m, n), (0,)), tolerance=2000, threads=(1, 2, 3), target=target)
    y, = inputs(("float64", (2, m, n)))
    check(kernel(Form.COLUMNS, [y], [g["sum"](y, 1)], (2, m, n), (1,)), tolerance=2000, threads=(1, 2, 3), target=target)


@many
def test_columns_with_levels(target: str) -> None:
    for m, n in ((5, 3), (64, 40), (6000, 10), (700, 64), (600, 130), (70, 300)):
        x, = inputs(("float32", (m, n)))
        mean = g["mean"](x, 0, True)
        centred = x - mean
        variance = g["mean"](g["square"](centred), 0, True)
        check(kernel(Form.COLUMNS, [x], [centred * g["rsqrt"](variance + 1e-5), mean, variance, g["argmax"](x, 0)],
                     (m, n), (0,)), target=target, tolerance=200, threads=(1, 2, 3))


@many
def test_columns_between_axes(target: str) -> None:
    x, s = inputs(("float32", (4, 9, 6, 5)), ("float32", (6,)))
    total = g["sum"](x * g["reshape"](s, (1, 1, 6, 1)), (0, 2))
    check(kernel(Form.COLUMNS, [x, s], [total, g["any"](x > 2.5, (0, 2))], (4, 9, 6, 5), (0, 2)), target=target,
          tolerance=64)


# -- contractions ----------------------------------------------------------------------------------------------------


@many
def test_contractions(target: str) -> None:
    for m, n, k in ((1, 1, 1), (5, 3, 7), (17, 33, 16), (64, 100, 31), (40, 1, 50), (1, 40, 50), (200, 130, 70)):
        x, w, b = inputs(("float32", (m, k)), ("float32", (k, n)), ("float32", (n,)))
        product = x @ w
        check(kernel(Form.CONTRACT, [x, w, b], [product], (m, n)), target=target, tolerance=200, threads=(1, 2))
        linear = product + b
        check(kernel(Form.CONTRACT, [x, w, b], [g["relu"](linear), linear > 0], (m, n)),
              [RNG.integers(-3, 4, s.shape).astype(np.float32) for s in (x, w, b)], target=target, tolerance=200,
              threads=(1, 2))


@many
def test_contractions_of_views(target: str) -> None:
    x, w, r = inputs(("float32", (6, 9, 4)), ("float32", (6, 4, 10)), ("float32", (6, 9, 10)))
    product = g["einsum"]("bij,bjk->bik", x, w)
    check(kernel(Form.CONTRACT, [x, w, r], [product * r, g["tanh"](product)], (6, 9, 10)), target=target, tolerance=100)
    turned = g["einsum"]("bij,bjk->kbi", x, w)
    check(kernel(Form.CONTRACT, [x, w], [turned + 1.0, turned], turned.shape), target=target, tolerance=100)
    old, dy, xs = inputs(("float32", (12, 7)), ("float32", (9, 7)), ("float32", (9, 12)))
    new = old - 0.1 * (g["transpose"](xs, 0, 1) @ dy)
    check(kernel(Form.CONTRACT, [old, dy, xs], [new], (12, 7), in_place=frozenset({(0, 0)})), target=target,
          tolerance=100, aliased={0: 0})


@many
def test_large_update_epilogue(target: str) -> None:
    m, n, k = 300, 400, 40
    old, dy, xs = inputs(("float32", (m, n)), ("float32", (k, n)), ("float32", (k, m)))
    gradient = g["transpose"](xs, 0, 1) @ dy
    check(kernel(Form.CONTRACT, [old, dy, xs], [old * 0.9 + gradient, g["square"](gradient)], (m, n)), target=target,
          tolerance=200, threads=(1, 2))


# -- prefix and scatter ----------------------------------------------------------------------------------------------


@many
def test_prefix(target: str) -> None:
    for shape, axis in (((9,), 0), ((5, 33), 1), ((40, 50), 0), ((3, 7, 18), 1), ((3000, 20), 1)):
        for name in ("cumsum", "cumprod", "logcumsumexp"):
            x, = inputs(("float64", shape))
            out = g[name](x, axis)
            check(kernel(Form.PREFIX, [x], [out, out * 2.0], shape, (axis,)), target=target, tolerance=1e4,
                  threads=(1, 2))
    kinds = itertools.cycle((dtype, name, reverse) for name in ("cumsum", "cumprod", "running_max")
                            for dtype in ("float32", "float64", "int64") for reverse in (False, True))
    for n in (*SIZES, 4099):  # along the last axis, both ways, of any length, rows and columns
        for _ in range(3):
            dtype, name, reverse = next(kinds)
            x, y = inputs((dtype, (5, n)), (dtype, (n, 5)))
            arrays = [(np.abs(values_for(s.node)) / n + (0 if dtype == "int64" else 1)).astype(dtype) for s in (x, y)]
            for operand in (x, g["transpose"](y, 0, 1)):
                out = make(REGISTRY[name], (operand.node,), {"axis": 1, "reverse": reverse})
                check(kernel(Form.PREFIX, [x, y], [Tensor(out)], (5, n), (1,)), arrays, target=target, tolerance=4 * n + 16,
                      threads=(1, 2, 3))
    for shape, axis in (((9, 130), 0), ((12, 300), 0), ((5, 20, 97), 1), ((17, 3, 140), 1)):  # vectors of lines side by side
        for name, reverse in (("cumsum", False), ("running_max", True)):
            for dtype in ("float32", "float64", "int32"):
                x, y = inputs((dtype, shape), (dtype, shape))
                total = Tensor(make(REGISTRY[name], ((x * y).node,), {"axis": axis, "reverse": reverse}))
                check(kernel(Form.PREFIX, [x, y], [total, total - y], shape, (axis,)), target=target, tolerance=300,
                      threads=(1, 2, 3))
    x, = inputs(("int64", (6, 20)))
    back = g["flip"](g["cumsum"](g["flip"](x, (1,)), 1), (1,))
    node = next(n for n in Graph((x.node,), (back.node,)).nodes if n.op.kind is Kind.PREFIX)
    reverse = Tensor(make(node.op, (x.node,), {**node.attributes, "reverse": True}))
    check(kernel(Form.PREFIX, [x], [reverse], (6, 20), (1,)), target=target)


def scatter_kernel(index_shape: Sequence[int], axis: int, size: int, dtype: str = "float32") -> Kernel:
    index, updates = inputs(("int64", index_shape), (dtype, index_shape))
    node = make(REGISTRY["scatter_add"], (index.node, updates.node), {"axis": axis, "size": size})
    return kernel(Form.SCATTER, [index, updates], [Tensor(node)], node.shape)


@many
def test_scatter(target: str) -> None:
    for shape, axis, size in (((7,), 0, 4), ((30, 17), 0, 5), ((4, 9), 1, 3), ((60, 40), 1, 6), ((2, 5, 6), 1, 3),
                              ((500, 64), 0, 20)):
        k = scatter_kernel(shape, axis, size)
        places = RNG.integers(-1, size + 1, shape)
        check(k, [places, values_for(k.body.inputs[1])], target=target, tolerance=50, threads=(1, 2))


@many
def test_scatter_of_rows(target: str) -> None:
    for count, width, size, dtype in ((50, 20, 8, "float64"), (300, 64, 1000, "float32"), (7, 17, 3, "float32"),
                                      (40, 3, 5, "float32"), (90, 1030, 2, "float64"), (200, 33, 64, "int64")):
        index, rows = inputs(("int64", (count,)), (dtype, (count, width)))
        spread = g["expand"](g["reshape"](index, (count, 1)), (count, width))
        node = make(REGISTRY["scatter_add"], (spread.node, rows.node), {"axis": 0, "size": size})
        check(kernel(Form.SCATTER, [index, rows], [Tensor(node)], (size, width)),
              [RNG.integers(-2, size + 2, count), values_for(rows.node)], target=target, tolerance=50, threads=(1, 2, 3))


# -- folds behind a contraction ---------------------------------------------------------------------------------------

ODD = ((5, 3, 7), (17, 33, 16), (64, 100, 31), (13, 64, 300), (200, 130, 70), (40, 257, 9), (300, 8, 3), (33, 2, 50))


@many
def test_column_folds_behind_a_contraction(target: str) -> None:
    """A bias gradient and its update; several folds; nothing but the fold."""
    for dtype, (m, n, k) in zip(("float32", "float64") * 4, ODD, strict=True):
        x, w, mask, old = inputs((dtype, (m, k)), (dtype, (k, n)), ("bool", (m, n)), (dtype, (n,)))
        dz = g["where"](mask, x @ w, 0.0)
        total = g["sum"](dz, 0)
        check(kernel(Form.CONTRACT, [x, w, mask, old], [dz, old - 0.1 * total, total], (m, n), (0,),
                     in_place=frozenset({(1, 3)})), target=target, tolerance=400, threads=(1, 2, 3))
        check(kernel(Form.CONTRACT, [x, w, mask, old], [g["max"](dz, 0), g["sum"](g["square"](dz), 0), g["argmin"](x @ w, 0)],
                     (m, n), (0,)), target=target, tolerance=4000, threads=(1, 2, 3))


@many
def test_results_take_the_memory_of_what_tiles_read_beside_folds(target: str) -> None:
    for dtype, (m, n, k) in zip(("float32", "float64") * 4, ODD, strict=True):
        x, w, slope = inputs((dtype, (m, k)), (dtype, (k, n)), (dtype, (m, n)))
        dz = (x @ w) * slope
        for folds, axes in (([g["sum"](dz, 0), g["argmax"](dz * slope, 0)], (0,)), ([g["sum"](dz), g["max"](slope)], ())):
            check(kernel(Form.CONTRACT, [x, w, slope], [dz, *folds], (m, n), axes, in_place=frozenset({(0, 2)})),
                  target=target, tolerance=4000, threads=(1, 2, 3), aliased={0: 2})


@many
def test_totals_behind_a_contraction(target: str) -> None:
    for m, n, k in (*ODD, (70, 1, 40), (1, 70, 40), (1, 1, 3000)):
        x, w, y = inputs(("float32", (m, k)), ("float32", (k, n)), ("float32", (m, n)))
        d = x @ w - y
        loss = g["mean"](g["square"](d))
        if m * n > 1:
            outputs = [d * 2.0, loss, g["max"](d)] + ([g["sum"](d, 0)] if n > 1 and m > 1 else [])
            check(kernel(Form.CONTRACT, [x, w, y], outputs, (m, n), (0,) if n > 1 and m > 1 else ()), target=target,
                  tolerance=4000, threads=(1, 2, 3))


@many
def test_row_folds_behind_a_contraction(target: str) -> None:
    """Softmax and layer norm of a product's rows, where a row is one tile and where it is several."""
    for dtype, (m, n, k) in zip(("float32", "float64") * 5, (*ODD[:-1], (64, 520, 20), (50, 64, 700), (40, 300, 600)),
                                strict=True):
        x, w, b = inputs((dtype, (m, k)), (dtype, (k, n)), (dtype, (n,)))
        z = x @ w * 0.1 + b
        mean = g["mean"](z, -1, True)
        variance = g["mean"](g["square"](z - mean), -1, True)
        check(kernel(Form.CONTRACT, [x, w, b], [softmax(z), (z - mean) * g["rsqrt"](variance + 1e-5), mean, g["argmax"](z, 1)],
                     (m, n), (1,)), target=target, tolerance=4000, threads=(1, 2, 3))


@many
def test_folds_behind_a_batched_contraction(target: str) -> None:
    x, w, r = inputs(("float32", (6, 19, 4)), ("float32", (6, 40, 4)), ("float32", (6, 19, 40)))
    scores = g["einsum"]("bij,bkj->bik", x, w)
    check(kernel(Form.CONTRACT, [x, w, r], [softmax(scores * 0.5 + r)], (6, 19, 40), (2,)), target=target, tolerance=400,
          threads=(1, 2, 3))
    check(kernel(Form.CONTRACT, [x, w, r], [g["sum"](scores * r, (0, 1)), scores, g["sum"](scores)], (6, 19, 40), (0, 1)),
          target=target, tolerance=4000, threads=(1, 2, 3))


@many
def test_operands_computed_while_they_are_packed(target: str) -> None:
    """Maps, masks, casts, broadcasts and views as operands: of A, of B and of both, with and without folds behind."""
    for dtype, (m, n, k) in zip(("float32", "float64") * 4, ODD, strict=True):
        x, w, keep, scale, labels = inputs((dtype, (m, k)), (dtype, (k, n)), ("bool", (m, k)), (dtype, (k,)),
                                           ("int64", (n, k)))
        a = g["where"](keep, (x - 0.5) * scale, 0.0)
        b = g["transpose"](g["cast"](labels, dtype), 0, 1)
        for outputs, axes in (([a @ w], ()), ([x @ b], ()), ([g["relu"](a @ b), g["sum"](a @ b, 0)], (0,)),
                              ([softmax(a @ w)], (1,)), ([g["transpose"](w, 0, 1) @ g["transpose"](a, 0, 1)], ())):
            space = (n, m) if outputs[0].shape == (n, m) and m != n else (m, n)
            check(kernel(Form.CONTRACT, [x, w, keep, scale, labels], outputs, space, axes), target=target, tolerance=8000,
                  threads=(1, 2, 3))


@many
def test_batched_operands_computed_while_they_are_packed(target: str) -> None:
    x, w, bias = inputs(("float32", (3, 2, 9, 17)), ("float32", (3, 2, 17, 40)), ("float32", (2, 1, 17)))
    turned = g["transpose"](g["square"](x) + bias, 2, 3)
    product = g["einsum"]("abkm,abkn->abmn", turned, w * 2.0)
    check(kernel(Form.CONTRACT, [x, w, bias], [product, product * 2.0], product.shape), target=target, tolerance=400,
          threads=(1, 2, 3))


@many
def test_folds_behind_a_contraction_in_other_types(target: str) -> None:
    """Integers summed as wider ones, float32 summed as float64, bools; and an operand that is computed in float64."""
    for m, n, k in ((40, 33, 20), (17, 64, 9), (50, 8, 70)):
        i, j, x, w = inputs(("int32", (m, k)), ("int32", (k, n)), ("float32", (m, k)), ("float32", (k, n)))
        product, z = i @ j, x @ w
        check(kernel(Form.CONTRACT, [i, j, x, w], [g["sum"](product, 0), g["max"](product, 0), product], (m, n), (0,)),
              target=target, threads=(1, 2, 3))
        check(kernel(Form.CONTRACT, [i, j, x, w], [g["sum"](product), g["any"](product > 5), product], (m, n)),
              target=target, threads=(1, 2, 3))
        wide = g["cast"](z, "float64")
        check(kernel(Form.CONTRACT, [i, j, x, w], [g["sum"](wide, 0), g["any"](z > 1.0, 0), z], (m, n), (0,)), target=target,
              tolerance=1e13, threads=(1, 2, 3))
        check(kernel(Form.CONTRACT, [i, j, x, w], [g["sum"](wide, 1), wide - g["max"](wide, 1, True)], (m, n), (1,)),
              target=target, tolerance=1e13, threads=(1, 2, 3))
        a = g["cast"](g["square"](g["cast"](x, "float64")), "float32")
        check(kernel(Form.CONTRACT, [i, j, x, w], [a @ w, g["sum"](a @ w, 0)], (m, n), (0,)), target=target, tolerance=4000,
              threads=(1, 2, 3))


@pytest.mark.parametrize(("width", "start", "neighbours"), [(32, 0, True), (16, 16, True), (24, 0, False), (32, 8, False)])
def test_lanes_between_two_multiples_of_a_divisor_are_loaded_at_once(width: int, start: int, neighbours: bool) -> None:
    """Heads side by side: column c is element c % width of head c // width, for a whole vector at once where widths allow."""
    heads, rows = 4, 6
    x = graphc.placeholder("x", (2, heads, rows, width))
    merged = x.transpose(1, 2).reshape(2 * rows, heads * width)
    kept = merged[:, start:start + 2 * width]
    program = graphc.function([x], [merged * 2, merged.sum(0), (merged * merged).sum(-1), kept.sum(0)], threads=1)
    values = RNG.standard_normal((2, heads, rows, width)).astype(np.float32)
    reference = values.swapaxes(1, 2).reshape(2 * rows, heads * width)
    results = program(values)
    for result, expected in zip(results, (reference * 2, reference.sum(0), (reference * reference).sum(-1),
                                          reference[:, start:start + 2 * width].sum(0)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    if host().has_masks and host().lanes(4) == 16:
        assert ("masked.gather" not in program.specialize().executable.text) == neighbours
