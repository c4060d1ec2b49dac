"""Native contractions against numpy in float64: sizes, strides, windows, element types, threads and targets."""

from __future__ import annotations

import ctypes
import itertools
import math
import random
import re
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np
import pytest
import torch
from graphc.runtime.native import codegen, tile_shapes
from graphc.runtime.native.axes import swapped
from graphc.runtime.native.contract import (
    Contraction,
    Finish,
    Load,
    Prefetch,
    Tile,
    choose_road,
    emit_contraction,
    scratch_bytes,
)
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.target import Target, describe, host
from graphc.runtime.native.tile_stores import store_to
from graphc.runtime.native.values import Value, constant, i64

from graphc.records import record, replace

DTYPES = {"float": np.float32, "double": np.float64, "i32": np.int32, "i64": np.int64}
PARAMETERS = [("a", "ptr"), ("b", "ptr"), ("c", "ptr"), ("scratch", "ptr"), ("thread", "i64"), ("threads", "i64")]
SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 2)
MARGIN = 64  # elements around every operand


def machine_features() -> set[str]:
    return {name for name, there in llvm.get_host_cpu_features().items() if there}


def targets() -> dict[str, Target]:
    """The host, and on x86-64 the lesser machines that it can act as."""
    found = {"host": host()}
    if host().triple.startswith("x86_64"):
        found["sse"] = describe(host().triple, "x86-64", "")
        if {"avx2", "fma"} <= machine_features():
            found["avx2"] = describe(host().triple, "haswell", "+avx2,+fma")
    return found


TARGETS = targets()


def two_a_cycle(target: Target) -> Target:
    """The same machine with two multiply-adds in a cycle."""
    return replace(target, cpu="skylake-avx512") if target.vector_bytes == 64 else target


def matrix_strides(rows: int, columns: int, transposed: bool) -> tuple[int, int]:
    return (1, rows) if transposed else (columns, 1)


def matmul(m: int, n: int, k: int, *, batch: int = 1, dtype: str = "float", a: bool = False, b: bool = False,
           c: bool = False) -> Contraction:
    """A matrix product; each flag says that the operand is stored transposed."""
    (a_m, a_k), (b_k, b_n), (c_m, c_n) = matrix_strides(m, k, a), matrix_strides(k, n, b), matrix_strides(m, n, c)
    return Contraction(dtype, (batch,), (m,), (n,), (k,), (m * k,), (a_m,), (a_k,), (k * n,), (b_k,), (b_n,),
                       (m * n,), (c_m,), (c_n,))


def extent(groups: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[int, int]:
    """(lowest, highest) element offset that the axes reach."""
    pairs = [(size, stride) for sizes, strides in groups for size, stride in zip(sizes, strides, strict=True)]
    if any(size == 0 for size, _ in pairs):
        return 0, 0
    return (sum(min(0, (size - 1) * stride) for size, stride in pairs),
            sum(max(0, (size - 1) * stride) for size, stride in pairs))


class Operand:
    """Memory for one operand: `view` has the groups' axes, `pointer` the address of its element (0, 0, ...)."""

    def __init__(self, dtype: str, groups: list[tuple[tuple[int, ...], tuple[int, ...]]],
                 rng: np.random.Generator | None, misalign: int) -> None:
        low, high = extent(groups)
        kind = DTYPES[dtype]
        self.memory = np.full(high - low + 1 + 2 * MARGIN + misalign, 113, kind)
        if rng is not None:
            if dtype in ("float", "double"):
                self.memory[:] = rng.standard_normal(self.memory.size)
            else:
                self.memory[:] = rng.integers(-9, 10, self.memory.size)
        first = MARGIN + misalign - low
        sizes = [s for group, _ in groups for s in group]
        steps = [s * self.memory.itemsize for _, group in groups for s in group]
        if 0 in sizes:
            self.view = np.zeros(sizes, kind)
        else:
            self.view = np.lib.stride_tricks.as_strided(self.memory[first:], sizes, steps)
        self.pointer = self.memory.ctypes.data + first * self.memory.itemsize


def random_operands(c: Contraction, rng: np.random.Generator, misalign: int = 0) -> tuple[Operand, Operand]:
    """A and B of random numbers."""
    return (Operand(c.dtype, [(c.batch, c.a_batch), (c.m, c.a_m), (c.k, c.a_k)], rng, misalign),
            Operand(c.dtype, [(c.batch, c.b_batch), (c.k, c.b_k), (c.n, c.b_n)], rng, misalign))


@record()
class Case:
    """A contraction, and what to do with its tiles: "plain" direct store, "finish" store_to, "twice" 2 x + 1."""

    contraction: Contraction
    way: str = "plain"
    misalign: int = 0
    loads: tuple[bool, bool] = (False, False)  # whether A, B go through a load hook that reads 1 - x


def doubled(c_pointer: Value, c: Contraction, target: Target) -> Finish:
    """A finish that rewrites the tile before it stores it: 2 x + 1."""
    store = store_to(c_pointer, c, target)

    def finish(f: Function, tile: Tile) -> None:
        is_float = c.dtype in ("float", "double")
        with f.loop(i64(0), tile.rows) as row, f.loop(i64(0), tile.columns) as column:
            place = f.offset(tile.pointer, f.add(f.mul(row, i64(tile.stride)), column), c.dtype)
            value = f.load(place, c.dtype)
            twice = f.binary("fadd" if is_float else "add", value, value)
            f.store(f.binary("fadd" if is_float else "add", twice, constant(1, c.dtype)), place)
        store(f, tile)

    return finish


def complement(pointer: Value, dtype: str, batch: tuple, lines: tuple, k: tuple) -> Load:
    """A load hook: 1 - x of an operand in memory; each group is (sizes, strides)."""
    is_float = dtype in ("float", "double")

    def offset(f: Function, index: Value, group: tuple) -> Value:
        total = i64(0)
        for size, stride in reversed(list(zip(*group, strict=True))):
            total = f.add(total, f.mul(f.binary("urem", index, i64(size)), i64(stride)))
            index = f.binary("udiv", index, i64(size))
        return total

    def load(f: Function, line: Value, place: Value, item: Value, lanes: int) -> Value:
        total = f.add(f.add(offset(f, item, batch), offset(f, line, lines)), offset(f, place, k))
        value = f.load(f.offset(pointer, total, dtype), f"<{lanes} x {dtype}>" if lanes else dtype)
        return f.binary("fsub" if is_float else "sub", constant(1, value.type), value)

    return load


def compile_cases(cases: list[Case], target: Target,
                  prefetch: Callable[[Value, Contraction], Prefetch] | None = None) -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = Module()
    for number, case in enumerate(cases):
        f = module.function(f"case{number}", PARAMETERS, internal=False)
        a, b, c, scratch, thread, threads = f.parameters
        finish = {"plain": None, "finish": store_to(c, case.contraction, target),
                  "twice": doubled(c, case.contraction, target)}[case.way]
        emit_contraction(f, target, case.contraction, a, b, scratch=scratch, thread=thread, threads=threads,
                         finish=finish, c_pointer=c, prefetch=prefetch and prefetch(c, case.contraction),
                         **load_hooks(case, a, b))
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=1, jit=True)
    parsed = llvm.parse_assembly(module.text(target.triple, str(machine.target_data)))
    parsed.verify()
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


def load_hooks(case: Case, a: Value, b: Value) -> dict[str, Load]:
    c, hooks = case.contraction, {}
    if case.loads[0]:
        hooks["load_a"] = complement(a, c.dtype, (c.batch, c.a_batch), (c.m, c.a_m), (c.k, c.a_k))
    if case.loads[1]:
        hooks["load_b"] = complement(b, c.dtype, (c.batch, c.b_batch), (c.n, c.b_n), (c.k, c.b_k))
    return hooks


def reference(c: Contraction, a: np.ndarray, b: np.ndarray, pieces: int = 0) -> np.ndarray:
    """pieces: bfloat16 numbers that stand for a float32; with two of them the product of both rests is left out."""
    wide = np.float64 if c.dtype in ("float", "double") else np.int64
    batch, m, n, k = (math.prod(group) for group in (c.batch, c.m, c.n, c.k))
    a, b = a.astype(wide).reshape(batch, m, k), b.astype(wide).reshape(batch, k, n)
    if c.dtype == "float" and pieces in (1, 2):
        (a, a_rest), (b, b_rest) = rounded(a), rounded(b)
        product = a @ b if pieces == 1 else a @ b + a @ rounded(b_rest)[0] + rounded(a_rest)[0] @ b
    else:
        product = a @ b
    return product.reshape(*c.batch, *c.m, *c.n)


def rounded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest bfloat16 numbers, and what is left."""
    nearest = torch.from_numpy(x).float().bfloat16().double().numpy()
    return nearest, x - nearest


def check(cases: list[Case], target: Target, thread_counts: tuple[int, ...] = (1, 2, 3)) -> None:
    engine = compile_cases(cases, target)
    rng = np.random.default_rng(5)
    for number, case in enumerate(cases):
        c = case.contraction
        run = SIGNATURE(engine.get_function_address(f"case{number}"))
        a, b = random_operands(c, rng, case.misalign)
        x = 1 - a.view if case.loads[0] else a.view
        y = 1 - b.view if case.loads[1] else b.view
        exact = choose_road(c, target, True, case.loads).stencil is not None  # float32 numbers, whatever may be rounded
        wanted, magnitude = reference(c, x, y, 0 if exact else target.pieces), reference(c, np.abs(x), np.abs(y))
        if case.way == "twice":
            wanted, magnitude = 2 * wanted + 1, 2 * magnitude + 1
        size = scratch_bytes(c, target, load_a=case.loads[0], load_b=case.loads[1])
        scratch = np.full(size + 192, 0xA5, np.uint8)
        base = (scratch.ctypes.data + 63) // 64 * 64
        guard = base - scratch.ctypes.data + size
        bits = None
        for threads in thread_counts:
            out = Operand(c.dtype, [(c.batch, c.c_batch), (c.m, c.c_m), (c.n, c.c_n)], None, case.misalign)
            for thread in range(threads):
                run(a.pointer, b.pointer, out.pointer, base, thread, threads)
            k = math.prod(c.k)
            unit = {"float": 2.0**-23, "double": 2.0**-52}.get(c.dtype, 0)
            error = np.abs(out.view - wanted)
            assert np.all(error <= (k + 2) * unit * magnitude), (c, case.way, threads, error.max(initial=0))
            assert np.all(scratch[guard:] == 0xA5), f"scratch overrun: {c}"
            out.view[...] = 113
            assert np.all(out.memory == 113), f"wrote beside the result: {c}"
            for thread in range(threads):
                run(a.pointer, b.pointer, out.pointer, base, thread, threads)
            bits = out.view.tobytes() if bits is None else bits
            assert out.view.tobytes() == bits, f"{threads} threads change the result: {c}"


SIZES = (1, 2, 3, 5, 7, 13, 14, 15, 16, 17, 31, 32, 33, 64, 65, 127)


def random_matmuls(count: int, seed: int, dtypes: tuple[str, ...]) -> list[Case]:
    pick = random.Random(seed)
    cases = []
    for number in range(count):
        m, n, k = (pick.choice(SIZES) for _ in range(3))
        c = matmul(m, n, k, batch=pick.choice((1, 1, 2, 3)), dtype=dtypes[number % len(dtypes)],
                   a=pick.random() < 0.5, b=pick.random() < 0.5, c=pick.random() < 0.3)
        cases.append(Case(c, pick.choice(("plain", "plain", "finish", "twice")), pick.choice((0, 0, 1, 3))))
    return cases


@pytest.mark.parametrize("name", TARGETS)
def test_random_matrix_products(name: str) -> None:
    check(random_matmuls(90 if name == "host" else 45, 11, ("float", "float", "double", "i32", "i64")), TARGETS[name])


@pytest.mark.parametrize("size", [1, 2, 16, 17])
def test_every_transposition(size: int) -> None:
    flags = itertools.product((False, True), repeat=3)
    check([Case(matmul(size + 3, size, 19, a=a, b=b, c=c, batch=2), "plain") for a, b, c in flags], host())


@pytest.mark.parametrize("name", TARGETS)
def test_blocked_sums(name: str) -> None:
    """Sums over k longer than one block, with and without partial sums in scratch."""
    cases = [Case(matmul(m, n, k, a=a, b=b, dtype=dtype), way)
             for m, n, k in ((30, 150, 901), (261, 70, 515)) for way in ("plain", "twice")
             for a, b, dtype in ((False, False, "float"), (True, True, "double"))]
    check(cases, TARGETS[name], (1, 2))


def test_large_blocks() -> None:
    """More than one block of panels and of tiles."""
    check([Case(matmul(600, 1100, 420), "finish"), Case(matmul(90, 3100, 300, b=True), "plain")], host(), (1, 3))


def strided(dtype: str = "float") -> list[Contraction]:
    base = matmul(20, 37, 29, batch=2, dtype=dtype)
    heads = Contraction(dtype, (2, 3), (9,), (17,), (8,), (9 * 24, 8), (24,), (1,), (17 * 24, 8), (1,), (24,),
                        (3 * 9 * 17, 9 * 17), (17,), (1,))
    back = Contraction(dtype, (2, 3), (9,), (8,), (17,), (3 * 9 * 17, 9 * 17), (17,), (1,), (17 * 24, 8), (24,), (1,),
                       (9 * 24, 8), (24,), (1,))
    return [
        replace(base, a_batch=(0,)),  # one A for the whole batch
        replace(base, b_batch=(0,)),
        replace(base, a_m=(0,)),  # every row of A is the same
        replace(base, b_n=(0,)),
        replace(base, b_k=(0,), a_k=(0,)),
        replace(base, a_m=(-29,), a_k=(-1,)),  # backwards
        replace(base, b_k=(-37,), b_n=(-1,)),
        replace(base, c_m=(-37,)),
        replace(base, c_n=(-1,)),
        replace(base, a_k=(3,), a_m=(100,), a_batch=(5000,)),
        replace(base, b_n=(2,), b_k=(80,), b_batch=(3000,)),
        replace(base, c_n=(2,), c_m=(90,), c_batch=(2000,)),
        heads,
        back,
        # groups of several axes, some mergeable, none in the same order in all operands
        Contraction(dtype, (2, 2), (3, 1, 5), (4, 6), (7, 2, 3), (1000, 500), (21, 3, 100), (3, 1, 30),
                    (900, 300), (2, 1, 17), (31, 5), (360 * 2, 360), (24, 7, 72), (6, 1)),
        Contraction(dtype, (), (3, 5), (40,), (2, 3), (), (6, 18), (3, 1), (), (120, 40), (1,), (), (200, 40), (1,)),
        Contraction(dtype, (), (4, 12), (3, 16), (6,), (), (100, 6), (1,), (), (48,), (16, 1), (), (1000, 48), (16, 1)),
        Contraction(dtype, (), (12, 4), (16, 3), (6,), (), (6, 100), (1,), (), (48,), (1, 16), (), (48, 1000), (1, 16)),
    ]


def convolutions(dtype: str = "float") -> list[Contraction]:
    """Forward, gradient of the weight and gradient of the (unpadded, unit step) input of a convolution, NCHW."""
    batch, channels, height, width, features, size = 2, 3, 12, 11, 5, 3
    out_h, out_w = height - size + 1, width - size + 1
    image, plane = channels * height * width, height * width
    out_plane = out_h * out_w
    forward = Contraction(dtype, (), (batch, out_h, out_w), (features,), (channels, size, size),
                          (), (image, width, 1), (plane, width, 1), (), (9, 3, 1), (27,),
                          (), (features * out_plane, out_w, 1), (out_plane,))
    features_first = Contraction(dtype, (batch,), (features,), (out_h, out_w), (channels, size, size),
                                 (0,), (27,), (9, 3, 1), (image,), (plane, width, 1), (width, 1),
                                 (features * out_plane,), (out_plane,), (out_w, 1))
    weight = Contraction(dtype, (), (features,), (channels, size, size), (batch, out_h, out_w),
                         (), (out_plane,), (features * out_plane, out_w, 1), (), (image, width, 1), (plane, width, 1),
                         (), (27,), (9, 3, 1))
    strided_forward = Contraction(dtype, (), (batch, 5, 5), (features,), (channels, size, size),
                                  (), (image, 2 * width, 2), (plane, width, 1), (), (9, 3, 1), (27,),
                                  (), (features * 25, 5, 1), (25,))
    many = Contraction(dtype, (), (4, 40), (24,), (50, 40, 3), (), (9000, 3), (170, 4, 1), (), (2880, 72, 24), (1,),
                       (), (960, 24), (1,))
    return [forward, features_first, weight, strided_forward, many]


@pytest.mark.parametrize("way", ["plain", "twice"])
def test_strides_and_windows(way: str) -> None:
    cases = [Case(c, way, number % 2) for number, c in enumerate([*strided(), *convolutions()])]
    check(cases, host())


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "host"])
def test_strides_and_windows_on_lesser_machines(name: str) -> None:
    check([Case(c, "plain") for c in [*strided("double"), *convolutions()]], TARGETS[name], (1, 2))


def pixel_rows(dtype: str, width: int, step: int, swap: bool) -> Contraction:
    """Pixels of a convolution as columns (or rows): runs of `width` neighbours, `step` apart, in images with a rim."""
    height, channels, features, batch = 3, 4, 19, 2
    line, taps = step * width + 2, 3
    plane, image = (height + 2) * line, channels * (height + 2) * line
    c = Contraction(dtype, (), (features,), (batch, height, width), (channels, taps, taps),
                    (), (channels * 9,), (9, 3, 1), (), (plane, line, 1), (image, line, step),
                    (), (batch * height * width,), (height * width, width, 1))
    return swapped(c) if swap else c


@pytest.mark.parametrize("name", TARGETS)
def test_runs_of_pixels(name: str) -> None:
    """Operands packed a piece of a run at a time: pieces shorter and longer than a vector, steps up to four."""
    cases = [Case(pixel_rows(dtype, width, step, swap), way, width % 2)
             for width, step, dtype, way in ((3, 1, "float", "plain"), (5, 1, "float", "twice"), (7, 2, "double", "plain"),
                                             (16, 1, "float", "plain"), (17, 2, "float", "plain"), (37, 1, "double", "twice"),
                                             (40, 4, "float", "plain"), (33, 5, "float", "plain"), (9, 3, "i32", "plain"))
             for swap in (False, True)]
    check(cases, TARGETS[name])


def convolution(kind: str, batch: int, inputs: int, outputs: int, side: int, size: int, dtype: str = "float", step: int = 1
                ) -> Contraction:
    """A padded convolution to square images, NCHW: "forward", gradient of the "input" (of unit step) or of the "weight"."""
    line, area, taps = step * (side - 1) + size, side * side, size * size
    image = {"forward": inputs, "input": outputs, "weight": inputs}[kind] * line * line
    if kind == "weight":
        return Contraction(dtype, (), (outputs,), (inputs, size, size), (batch, side, side),
                           (), (area,), (outputs * area, side, 1), (), (image, step * line, step), (line * line, line, 1),
                           (), (inputs * taps,), (taps, size, 1))
    m, k = (outputs, inputs) if kind == "forward" else (inputs, outputs)
    a_m, a_k = (inputs * taps, taps)[:: 1 if kind == "forward" else -1]
    turn = 1 if kind == "forward" else -1
    return Contraction(dtype, (batch,), (m,), (side, side), (k, size, size), (0,), (a_m,), (a_k, turn * size, turn),
                       (image,), (line * line, line, 1), (step * line, step), (m * area,), (area,), (side, 1))


# (convolution, stretch of columns that is read where it is, whether what the batch shares is packed once, whether vectors run
# along k): where vectors have 64 bytes
CONVOLUTIONS: list[tuple[Contraction, int, bool, bool]] = [
    (convolution("forward", 3, 8, 8, 28, 7), 28, False, False),  # two vectors a row, the last one masked; two blocks of k
    (convolution("forward", 2, 3, 6, 33, 5), 33, False, False),
    (convolution("forward", 2, 4, 20, 16, 3, "double"), 16, False, False),
    (convolution("forward", 3, 5, 7, 70, 3), 70, False, False),  # panels of unequal widths in each row
    (convolution("forward", 2, 3, 17, 32, 3, "i32"), 32, False, False),
    (convolution("input", 5, 30, 24, 32, 3), 32, True, False),
    (convolution("input", 3, 64, 24, 14, 3), 14, True, False),  # a vector a row, two rows a tile
    (convolution("forward", 2, 5, 7, 13, 3, "double"), 13, False, False),
    (convolution("forward", 2, 50, 6, 11, 3), 11, False, False),  # an odd number of rows, two blocks of k
    (convolution("forward", 2, 64, 64, 14, 3), 0, True, False),  # with exchanged operands
    (convolution("weight", 3, 8, 8, 28, 7), 0, False, True),
    (convolution("weight", 2, 1, 6, 28, 5), 0, False, True),
    (convolution("weight", 2, 3, 16, 32, 3), 0, False, True),
    (convolution("weight", 3, 7, 13, 19, 3, "double"), 0, False, True),  # tiles of unequal heights, a masked end of each row
    (convolution("weight", 40, 4, 9, 21, 5), 0, False, True),  # several blocks of k
    (convolution("weight", 500, 1, 4, 9, 3), 0, False, True),  # more rows than a table of offsets has
    (convolution("weight", 3, 8, 8, 16, 3, step=2), 0, False, True),  # every second pixel, which two of three taps share
    (convolution("weight", 2, 3, 8, 29, 7, step=2), 0, False, True),  # masked ends of more and of less than a vector
    (convolution("weight", 2, 3, 9, 20, 5, step=2), 0, False, True),
    (convolution("weight", 2, 5, 12, 21, 4, "double", step=2), 0, False, True),
    (convolution("weight", 2, 3, 16, 90, 2, step=2), 0, False, True),  # long rows
    (convolution("forward", 2, 3, 16, 14, 3, step=2), 0, True, False),
]


@pytest.mark.parametrize("name", TARGETS)
def test_convolutions(name: str) -> None:
    """Images read where they are, weights packed once for a batch, and gradients whose vectors run along rows of images."""
    target = replace(TARGETS[name], l1_bytes=48 << 10, l2_bytes=2 << 20)
    if target.vector_bytes == 64:
        for c, stretch, kept, along in CONVOLUTIONS:
            road = choose_road(c, target, True, (False, False))
            found = road.blocking.stretch, road.blocking.keeps, road.correlation is not None
            assert found == (stretch, kept, along), c
    check([Case(c, way, misalign) for c, *_ in CONVOLUTIONS for way, misalign in (("plain", 1), ("twice", 0))], target)
    small, several = replace(target, l2_bytes=16 << 10), convolution("weight", 5, 12, 13, 24, 3)
    if target.vector_bytes == 64:  # so many tiles that some see all of k before the others begin
        along = choose_road(several, small, True, (False, False)).correlation
        assert along is not None and 1 == along.together < along.blocks * along.row_tiles
    check([Case(several, "plain")], small)


@pytest.mark.parametrize("name", TARGETS)
def test_computed_operands(name: str) -> None:
    """Operands that a hook computes while they are packed, in each layout and with sums in several blocks."""
    shapes = [(20, 50, 30), (33, 7, 40), (1, 40, 17), (30, 1, 21), (40, 120, 400), (5, 5, 0)]
    cases = [Case(matmul(m, n, k, a=a, b=b, batch=2), way, loads=loads)
             for m, n, k in shapes
             for a, b in ((False, False), (True, True), (False, True))
             for loads, way in (((True, False), "plain"), ((False, True), "twice"), ((True, True), "finish"))]
    cases += [Case(c, "plain", loads=loads) for c in convolutions() for loads in ((True, False), (False, True))]
    check(cases, TARGETS[name], (1, 2))


def test_rows_of_later_arrays_are_prefetched() -> None:
    """A prefetch hook changes no result, with one block of sums and with several."""
    def ahead(pointer: Value, c: Contraction) -> Prefetch:
        def rows(f: Function, tile: Tile) -> list[tuple[Value, int]]:
            first = f.add(f.mul(tile.i0, i64(c.c_m[0])), tile.j0)
            return [(f.offset(pointer, first, c.dtype), c.c_m[0] * 4)] * 3

        return rows

    cases = [Case(matmul(m, n, k, a=True), "twice") for m, n, k in ((40, 70, 90), (300, 290, 310), (70, 330, 600))]
    plain, fetching = (compile_cases(cases, host(), hook) for hook in (None, ahead))
    rng = np.random.default_rng(3)
    for number, case in enumerate(cases):
        c = case.contraction
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((c.k[0], c.m[0]), (c.k[0], c.n[0])))
        scratch = np.zeros(scratch_bytes(c, host()) + 64, np.uint8)
        base = (scratch.ctypes.data + 63) // 64 * 64
        results = []
        for engine in (plain, fetching):
            out = np.zeros((c.m[0], c.n[0]), np.float32)
            run = SIGNATURE(engine.get_function_address(f"case{number}"))
            run(a.ctypes.data, b.ctypes.data, out.ctypes.data, base, 0, 1)
            results.append(out)
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_allclose(results[0], 2 * (a.T @ b) + 1, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("triple, cpu, features, instruction", [
    ("aarch64-unknown-linux-gnu", "cortex-a72", "+neon", "fmla"),
    ("x86_64-unknown-linux-gnu", "haswell", "+avx2,+fma", "vfmadd"),
    ("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx512vl,+avx512bw,+avx512dq,+fma", "zmm"),
])
def test_assembly_for_other_machines(triple: str, cpu: str, features: str, instruction: str) -> None:
    """Micro-kernels compile to vector multiply-adds, keep their sums in registers and call no library."""
    target = describe(triple, cpu, features)
    module = Module()
    for number, c in enumerate((matmul(64, 64, 64), matmul(300, 290, 310, b=True), matmul(100, 1, 100))):
        f = module.function(f"case{number}", PARAMETERS, internal=False)
        a, b, out, scratch, thread, threads = f.parameters
        emit_contraction(f, target, c, a, b, scratch=scratch, thread=thread, threads=threads, c_pointer=out)
    text = codegen.assembly_for(module.text(), target)
    assert instruction in text
    assert "fmaf" not in text
    kernels = [part.split("Lfunc_end")[0] for part in text.split("\ntile.float")[1:]]
    assert kernels
    spill = re.compile(r"mov[ua]ps\s+%[xyz]mm\d+, -?\d*\(%rsp\)|st[pr]\s+q\d+,.*\[sp")
    assert not [line for kernel in kernels for line in kernel.splitlines() if spill.search(line)]


def test_neither_finish_nor_result() -> None:
    f = Module().function("case", PARAMETERS)
    a, b, _, scratch, thread, threads = f.parameters
    with pytest.raises(ValueError, match="c_pointer"):
        emit_contraction(f, host(), matmul(2, 2, 2), a, b, scratch=scratch, thread=thread, threads=threads)


def test_thin_products() -> None:
    """Vectors and narrow matrices in every layout."""
    shapes = [(1, 300, 200), (300, 1, 200), (1, 1, 777), (2, 3, 700), (500, 2, 9), (3, 500, 1), (64, 64, 1), (4, 2, 1),
              (257, 4, 130), (5, 129, 400), (1, 40, 3), (7, 1, 2), (1, 2, 1500), (900, 3, 64)]
    cases = [Case(matmul(m, n, k, a=a, b=b, batch=batch, dtype=dtype), way)
             for (m, n, k), (a, b, batch), (dtype, way) in zip(
                 shapes * 4, itertools.cycle(itertools.product((False, True), (False, True), (1, 2))),
                 itertools.cycle((("float", "plain"), ("float", "twice"), ("double", "plain"), ("i32", "plain"))),
                 strict=False)]
    check(cases, host())


# Operands that do not fit the caches, on a machine with small ones: (contraction, second-level cache in KiB, what is decided
# where vectors have 64 bytes).
BEYOND_CACHES: list[tuple[Contraction, int, dict[str, object]]] = [
    (matmul(7, 640, 300), 128, {"pack_b": False, "height": 7, "vectors": 3, "k_in_block": 60, "ahead": 0, "streamed": True}),
    (matmul(7, 333, 300), 128, {"pack_b": False, "height": 7, "vectors": 3, "k_in_block": 60, "ahead": 0}),  # thin blocks
    (matmul(24, 320, 300), 128, {"pack_b": False, "height": 12, "k_in_block": 34, "ahead": 17, "direct": True}),
    (matmul(11, 300, 300, dtype="double"), 256, {"pack_b": False, "height": 6, "vectors": 4, "k_in_block": 60, "ahead": 0}),
    (matmul(11, 300, 95, dtype="double"), 256, {"pack_b": False, "k_blocks": 1, "direct": True}),  # one block
    (matmul(60, 130, 777), 128, {"pack_b": False, "row_tiles": 5, "ahead": 7, "direct": False, "k_in_block": 33}),
    (matmul(28, 130, 777), 128, {"pack_b": False, "row_tiles": 2, "ahead": 17, "direct": False}),  # blocks fetched ahead
    (matmul(28, 130, 777, a=True, dtype="double"), 256, {"pack_b": False, "row_tiles": 2, "ahead": 17}),
    (matmul(24, 109, 700, dtype="double"), 512, {"pack_b": False, "row_tiles": 2, "ahead": 16}),  # rows begin inside lines
    (matmul(40, 109, 1300), 512, {"pack_b": False, "row_tiles": 3, "ahead": 11}),
    (matmul(70, 109, 1300), 512, {"pack_b": True}),
    (matmul(40, 109, 700), 512, {"pack_b": False, "k_in_block": 64, "ahead": 0, "streamed": True}),  # within the cache
    (matmul(22, 60, 100, batch=9), 128, {"pack_b": False, "k_in_block": 34, "ahead": 17}),  # of a batch, small but many
    (replace(matmul(22, 60, 100, batch=9), b_batch=(0,)), 128, {"k_in_block": 100, "ahead": 0}),
    (matmul(100, 80, 650), 128, {"pack_b": False, "row_tiles": 8, "ahead": 5, "direct": True}),
    (matmul(140, 80, 650, dtype="double"), 256, {"k_in_block": 163, "ahead": 0}),
    (matmul(50, 650, 300), 128, {"pack_b": False, "panels_in_block": 5, "row_tiles": 4, "k_in_block": 34}),  # in parts
    (matmul(9, 40, 1500), 128, {"pack_b": False, "row_tiles": 1, "ahead": 0}),
    (matmul(40, 320, 250), 128, {"pack_b": False, "panels_in_block": 1, "k_in_block": 250}),  # A anew for every panel
    (matmul(40, 320, 250, a=True), 1024, {"pack_b": False, "panels_in_block": 1}),
    (matmul(140, 320, 250, a=True), 128, {"pack_b": True}),
    (matmul(50, 200, 200), 2048, {"pack_b": False, "streamed": True, "panels_in_block": 7}),  # more than the first-level cache
    (matmul(50, 50, 150), 2048, {"pack_b": False, "streamed": False}),
    (matmul(140, 320, 260), 256, {"pack_b": True, "panels_in_block": 3}),  # panels line by line, also the narrower last one
    (matmul(150, 331, 300), 256, {"pack_b": True, "wide": 10, "masked": True}),
    (matmul(150, 331, 300, dtype="double"), 256, {"pack_b": True, "masked": True, "k_in_block": 100}),
    (matmul(300, 200, 1024), 256, {"pack_a": True, "fetched": 5}),  # the next rows are fetched before they are packed
    (matmul(300, 330, 600, a=True, dtype="double"), 256, {"pack_a": True, "fetched": 40}),
    (matmul(70, 20, 500), 256, {"k_in_block": 500, "pack_a": False}),  # few columns: rows of A are read in long pieces
    (matmul(140, 20, 1300, dtype="double"), 256, {"k_in_block": 325, "vectors": 3, "panels": 1}),
    (matmul(140, 200, 500, a=True), 256, {"k_in_block": 250}),
    (matmul(90, 39, 300, b=True, dtype="double"), 256, {"vectors": 3, "wide": 1, "panels": 2}),  # no panel of one vector
    (matmul(100, 96, 512, dtype="double"), 1024, {"vectors": 4, "pack_a": False}),  # rows of A in one set: low tiles
    (matmul(50, 130, 5), 256, {"pack_b": False, "vectors": 3, "far_result": False}),  # the result takes the time
    (matmul(200, 1900, 7, a=True), 256, {"pack_b": False, "vectors": 4, "far_result": True, "streamed": False}),
    (matmul(200, 330, 32), 256, {"far_result": True, "vectors": 2}),
    (matmul(200, 330, 15, b=True), 256, {"pack_b": True, "vectors": 4}),
    (matmul(150, 330, 12), 256, {"pack_b": True, "vectors": 4}),
    (matmul(200, 330, 33), 256, {"far_result": False}),
    (matmul(20, 60, 20, batch=40), 256, {"far_result": True}),  # all results of a batch together
]


@pytest.mark.parametrize("name", TARGETS)
def test_operands_beyond_the_caches(name: str) -> None:
    for l2, group in itertools.groupby(BEYOND_CACHES, lambda one: one[1]):
        target = replace(two_a_cycle(TARGETS[name]), l1_bytes=48 << 10, l2_bytes=l2 << 10)
        cases = []
        for c, _, decided in group:
            if target.vector_bytes == 64:
                blocking = vars(choose_road(c, target, True, (False, False)).blocking)
                assert {field: blocking[field] for field in decided} == decided, c
            cases += [Case(c, "plain", 1), Case(c, "twice")]
        check(cases, target)


# Large results of short sums: (contraction, what is decided where vectors have 64 bytes).
IN_ORDER: list[tuple[Contraction, dict[str, object]]] = [
    (matmul(301, 77, 3, batch=5), {"in_order_ahead": 14, "vectors": 5, "height": 2, "panels": 1}),  # long pieces of two rows
    (matmul(203, 130, 14, a=True, dtype="double", batch=3), {"in_order": True, "vectors": 5, "height": 2, "panels": 4}),
    (matmul(611, 40, 16, b=True), {"in_order": True, "vectors": 3, "height": 3, "panels": 1}),
    (matmul(1611, 16, 5, dtype="double"), {"in_order": True, "vectors": 2, "height": 4, "panels": 1}),
    (matmul(1001, 11, 7, a=True, b=True), {"in_order": True, "vectors": 1, "panels": 1}),
    (matmul(400, 100, 1), {"in_order": True}),
    (replace(matmul(90, 70, 4, batch=3), c_m=(99,), c_batch=(9000,)), {"in_order": True, "in_order_ahead": 0}),  # with gaps
    (matmul(300, 1100, 4), {"in_order": False}),  # rows are long by themselves
    (matmul(300, 330, 15), {"in_order": False}),  # B does not stay near
    (matmul(300, 330, 20), {"in_order": False}),  # sums take time, too
    (matmul(10, 20, 4), {"in_order": False}),
]


@pytest.mark.parametrize("name", TARGETS)
def test_large_results_of_short_sums(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_shapes, "LARGE_RESULT", 1 << 14)
    target = replace(two_a_cycle(TARGETS[name]), l1_bytes=32 << 10, l2_bytes=60 << 10)  # no other test decides for that
    for c, decided in IN_ORDER if target.vector_bytes == 64 else ():
        blocking = vars(choose_road(c, target, True, (False, False)).blocking)
        assert {field: blocking[field] for field in decided} == decided, c
    check([Case(c, way) for c, _ in IN_ORDER for way in ("plain", "twice")], target)


# Products that exchange their operands where vectors have 64 bytes: tiles are turned in registers, in squares that rows and
# columns of a tile fill and do not fill.
EXCHANGED = [matmul(302, 50, 328, a=True), matmul(48, 131, 200, b=True, batch=2), matmul(100, 39, 500, a=True, b=True),
             matmul(10, 200, 300, b=True), matmul(14, 100, 70, b=True, dtype="double"),
             matmul(20, 33, 200, b=True, dtype="double"), matmul(48, 200, 200, a=True, b=True, dtype="double"),
             matmul(32, 600, 200, b=True, dtype="i32")]


@pytest.mark.parametrize("name", TARGETS)
def test_exchanged_operands(name: str) -> None:
    target = two_a_cycle(TARGETS[name])
    if target.vector_bytes == 64:
        assert all(choose_road(c, target, True, (False, False)).turned for c in EXCHANGED)
        assert sum(choose_road(c, target, False, (False, False)).turned for c in EXCHANGED) >= 5
    check([Case(c, way, misalign) for c in EXCHANGED for way, misalign in (("plain", 1), ("finish", 0), ("twice", 3))], target)


def test_empty_axes() -> None:
    """k = 0 gives zeros; an empty result writes nothing."""
    empty = [matmul(5, 20, 0), matmul(0, 4, 3), matmul(4, 0, 3), matmul(2, 2, 2, batch=0), matmul(1, 30, 0),
             matmul(30, 1, 0), matmul(40, 40, 0, a=True, b=True), matmul(1, 1, 0)]
    check([Case(c, way) for c in empty for way in ("plain", "twice")], host())


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16, 20])
def test_portions_are_each_done_once(threads: int) -> None:
    """Threads that take work from each other: any number of runs, in any order, of any number of threads."""
    c = matmul(1501, 64, 200)
    assert choose_road(c, host(), True, (False, False)).blocking.portion
    engine = compile_cases([Case(c)], host())
    run, rng = SIGNATURE(engine.get_function_address("case0")), np.random.default_rng(2)
    a, b = (rng.integers(-3, 4, s).astype(np.float32) for s in ((1501, 200), (200, 64)))
    scratch = np.zeros((threads, scratch_bytes(c, host()) + 64), np.uint8)
    bases = [(row.ctypes.data + 63) // 64 * 64 for row in scratch]
    for _ in range(3):
        out = np.full((1501, 64), np.nan, np.float32)
        for thread in rng.permutation(threads).tolist():
            run(a.ctypes.data, b.ctypes.data, out.ctypes.data, bases[thread], thread, threads)
        np.testing.assert_array_equal(out, a @ b)
