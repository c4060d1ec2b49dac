"""Contractions in pieces of bfloat16, on a matrix unit or by vectors; tiles that are finished while the next one is summed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from graphc.runtime.native import contract, matrix_blocking, matrix_unit
from graphc.runtime.native.axes import swapped
from graphc.runtime.native.codegen import assembly_for
from graphc.runtime.native.contract import Contraction, choose_road, emit_contraction, scratch_bytes
from graphc.runtime.native.emit import Module
from graphc.runtime.native.jit import compile_module
from graphc.runtime.native.target import PIECES, Target, describe, host, with_matrix_unit, with_pairs
from graphc.runtime.native.tile_stores import store_to, store_vector_to

import graphc
from graphc import nn, optim
from graphc.records import replace
from tests.matrix_registers import emulated
from tests.test_native_contract import (
    PARAMETERS,
    SIGNATURE,
    Case,
    Operand,
    check,
    convolution,
    convolutions,
    load_hooks,
    matmul,
    pixel_rows,
    random_matmuls,
    random_operands,
    reference,
    strided,
)

UNIT, WITHOUT = with_matrix_unit(host()), replace(host(), pieces=0)
# with vectors that multiply pairs, whether or not there is a matrix unit beside them
PLAIN = replace(WITHOUT, features=",".join(name for name in WITHOUT.features.split(",") if "amx" not in name))
HERE = {precision: with_matrix_unit(host(), precision) for precision in PIECES} if UNIT.pieces else {}
PAIRS = {"pairs": with_pairs(PLAIN)} if with_pairs(PLAIN).pieces else {}
# with a matrix unit whose registers are memory, where there is none; nothing to run where nothing multiplies bfloat16
EMULATED = {f"emulated {precision}": replace(PLAIN, features=f"{PLAIN.features},+amx-tile,+amx-bf16", pieces=pieces)
            for precision, pieces in PIECES.items()} if PAIRS and not HERE else {}
EVERY = {**HERE, **EMULATED, **PAIRS}
USED = [precision for precision in PIECES if precision in HERE or (precision == "medium" and PAIRS)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pieces are multiplied wherever they can be, however little that pays."""
    if EMULATED:
        monkeypatch.setattr(matrix_unit, "_call", emulated)

    def forget() -> None:
        matrix_blocking.matrix_blocking.cache_clear()
        choose_road.cache_clear()

    monkeypatch.setattr(contract, "matrix_cost", lambda *_: -1.0)
    monkeypatch.setattr(matrix_blocking, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(matrix_blocking, "LEAST_SIDE", 1)
    monkeypatch.setattr(matrix_blocking, "LEAST_DEPTH", 1)
    monkeypatch.setattr(contract, "LEAST_PAIRED", 0)
    monkeypatch.setattr(contract, "PAIRS_WORTH", 1e-9)
    forget()
    yield
    monkeypatch.undo()
    forget()


def run_by_vectors(cases: list[Case], target: Target, threads: tuple[int, ...] = (1, 2, 3), *, overlap: bool = True) -> int:
    """Stores every tile vector by vector, which overlaps with the next tile; returns how many cases did overlap."""
    module = Module()
    for number, case in enumerate(cases):
        f = module.function(f"case{number}", PARAMETERS, internal=False)
        a, b, c, scratch, thread, count = f.parameters
        emit_contraction(f, target, case.contraction, a, b, scratch=scratch, thread=thread, threads=count,
                         finish=store_to(c, case.contraction, target), vector=store_vector_to(c, case.contraction, target),
                         overlap=overlap, **load_hooks(case, a, b))
    code = compile_module(module.text(), target=target, name="cases")
    rng = np.random.default_rng(3)
    overlapped = 0
    for number, case in enumerate(cases):
        c = case.contraction
        run = SIGNATURE(code.address(f"case{number}"))
        a, b = random_operands(c, rng, case.misalign)
        x, y = (1 - v.view if hook else v.view for v, hook in zip((a, b), case.loads, strict=True))
        wanted, magnitude = reference(c, x, y, target.pieces), reference(c, np.abs(x), np.abs(y))
        size = scratch_bytes(c, target, load_a=case.loads[0], load_b=case.loads[1], overlap=overlap)
        scratch = np.full(size + 192, 0xA5, np.uint8)
        base = (scratch.ctypes.data + 63) // 64 * 64
        bits = None
        for several in threads:
            out = Operand(c.dtype, [(c.batch, c.c_batch), (c.m, c.c_m), (c.n, c.c_n)], None, case.misalign)
            for thread in range(several):
                run(a.pointer, b.pointer, out.pointer, base, thread, several)
            unit = 2.0**-23 if c.dtype == "float" else 2.0**-52
            assert np.all(np.abs(out.view - wanted) <= (math.prod(c.k) + 2) * unit * magnitude), (c, several)
            assert np.all(scratch[base - scratch.ctypes.data + size:] == 0xA5), f"scratch overrun: {c}"
            bits = out.view.tobytes() if bits is None else bits
            assert out.view.tobytes() == bits, f"{several} threads change the result: {c}"
            out.view[...] = 113
            assert np.all(out.memory == 113), f"wrote beside the result: {c}"
        road = choose_road(c, target, False, case.loads, False, overlap)
        overlapped += bool(road.blocking.overlap or road.blocking.pieces) and not road.dots
    return overlapped


def products() -> list[Case]:
    """Whole and ragged tiles, one and several blocks of k, of rows and of panels, all layouts."""
    sizes = ((64, 64, 64), (33, 47, 100), (12, 32, 40), (13, 33, 37), (100, 84, 700), (70, 1100, 90), (600, 40, 130))
    return [Case(matmul(m, n, k, a=a, b=b, batch=batch), misalign=misalign)
            for number, (m, n, k) in enumerate(sizes) for a, b in ((False, False), (True, number % 2 == 0))
            for batch, misalign in ((1 + number % 3, number % 2),)]


def computed() -> list[Case]:
    """Operands that are computed while they are packed, in both layouts."""
    return [Case(matmul(m, n, k, a=a, b=b), loads=loads)
            for m, n, k in ((40, 70, 50), (33, 100, 500)) for a, b in ((False, False), (True, True))
            for loads in ((True, False), (False, True), (True, True))]


@pytest.mark.parametrize("target", EVERY.values(), ids=EVERY)
@pytest.mark.usefixtures("always")
class TestMatrixUnit:
    def test_is_used(self, target: Target) -> None:
        assert all(choose_road(c.contraction, target, True, (False, False)).blocking.pieces for c in products())
        text = Module()
        f = text.function("f", PARAMETERS, internal=False)
        a, b, c, scratch, thread, threads = f.parameters
        emit_contraction(f, target, matmul(64, 64, 64), a, b, scratch=scratch, thread=thread, threads=threads, c_pointer=c)
        assert ("tdpbf16ps" if target.has_matrix_unit else "avx512bf16.dpbf16ps") in text.text()

    def test_products(self, target: Target) -> None:
        check([replace(case, way=way) for case in products() for way in ("plain", "finish", "twice")], target)
        assert run_by_vectors(products(), target) == len(products())

    def test_random_products(self, target: Target) -> None:
        check(random_matmuls(60, 17, ("float",)), target)

    def test_strides_and_windows(self, target: Target) -> None:
        windows = [pixel_rows("float", width, step, swap) for width, step, swap in ((7, 1, False), (16, 2, True))]
        cases = [Case(c, misalign=number % 2) for number, c in enumerate([*strided(), *convolutions(), *windows])]
        check([replace(case, way=way) for case in cases for way in ("plain", "twice")], target, (1, 3))

    def test_lines_along_k_that_begin_anywhere(self, target: Target) -> None:
        """Windows whose pixels are neighbours along k, and rows in groups; either operand, exchanged or not."""
        windows = [convolution("weight", *sizes) for sizes in ((3, 2, 17, 16, 3), (2, 3, 16, 32, 3), (1, 5, 40, 48, 2))]
        rows = [Contraction("float", (), (3, 15), (40,), (k,), (), (2000, 110), (1,), (), (40,), (1,), (), (600, 40), (1,))
                for k in (16, 75, 100)]
        cases = [*windows, *rows]
        check([Case(c, way, number % 2) for number, c in enumerate([*cases, *map(swapped, cases)])
               for way in ("plain", "twice")], target, (1, 3))

    def test_computed_operands(self, target: Target) -> None:
        check(computed(), target)
        assert run_by_vectors(computed(), target) == len(computed())

    @pytest.mark.parametrize("wild", [0, 20])
    def test_is_as_exact_as_it_says(self, target: Target, wild: int) -> None:
        """Errors against float64, relative to the sum of magnitudes: at most those of a float32 sum in order, and what the
        pieces of two numbers leave out of their product.
        """
        rng = np.random.default_rng(1)
        for k in (32, 256, 1000):
            a, b = (rng.standard_normal((96, k)) * np.exp2(rng.integers(-wild, wild + 1, (96, k))) for _ in range(2))
            a, b = a.astype(np.float32), np.ascontiguousarray(b.T.astype(np.float32))
            exact, magnitude = a.astype(float) @ b, np.abs(a).astype(float) @ np.abs(b)
            in_order = np.zeros((96, 96), np.float32)
            for i in range(k):
                in_order += a[:, i : i + 1] * b[i]
            ours, theirs = ((found - exact) / magnitude for found in (multiply(target, a, b), in_order))
            left_out = {1: 2.0**-7, 2: 2.0**-15, 3: 0}[target.pieces]
            assert np.sqrt((ours**2).mean()) <= np.sqrt((theirs**2).mean()) + left_out / 3, k
            assert np.abs(ours).max() <= 1.2 * np.abs(theirs).max() + left_out, k

    def test_what_is_not_finite(self, target: Target) -> None:
        """Infinities, NaN with any payload, numbers near the largest: as by multiply-adds, and nothing else is touched."""
        rng = np.random.default_rng(2)
        a, b = rng.standard_normal((70, 300)).astype(np.float32), rng.standard_normal((300, 90)).astype(np.float32)
        a[3, 5], a[40, 299], a[41, 0], b[7, 80] = np.inf, np.nan, 3.4e38, -np.inf
        b.view(np.uint32)[9, 11] = 0x7FFFFFFF  # a NaN whose rounding would overflow into zero
        a[69, 1], b[1, 3] = 3e35, 1e-35
        found = multiply(target, a, b)
        if target.pieces == 1:  # so large a number rounds to infinity
            a, b = (torch.from_numpy(x).bfloat16().float().numpy() for x in (a, b))
        wanted = multiply(WITHOUT, a, b)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-2 if target.pieces == 2 else 1e-4)

    def test_small_numbers(self, target: Target) -> None:
        """No operand loses more than its pieces leave out of it, or 2**-126."""
        rng = np.random.default_rng(4)
        a, b = np.eye(64, dtype=np.float32), np.exp2(rng.uniform(-125, -60, (64, 64))).astype(np.float32)
        kept = {1: 8, 2: 17, 3: 24}[target.pieces]
        assert np.all(np.abs(multiply(target, a, b) - b) <= np.maximum(2.0**-kept * b, 2.0**-126))


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GRAPHC_MATRIX_UNIT", "1")
    host.cache_clear()
    yield
    monkeypatch.undo()
    host.cache_clear()


@pytest.mark.parametrize("precision", USED)
@pytest.mark.usefixtures("asked_for")
def test_whole_steps(precision: str) -> None:
    """The same training with and without the unit; the same bits for 1, 2 and 3 threads; the report says where it works."""
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((256, 300)).astype(np.float32), rng.integers(0, 10, 256)
    losses, bits = [], set()
    for backend, threads in (("numpy", 1), ("native", 1), ("native", 2), ("native", 3)):
        graphc.manual_seed(0)
        model = nn.Sequential(nn.Linear(300, 512), nn.GELU(), nn.Linear(512, 512), nn.LayerNorm(512), nn.Linear(512, 10))
        images, labels = graphc.placeholder("x", ("batch", 300)), graphc.placeholder("y", ("batch",), "int64")
        loss = nn.CrossEntropyLoss()(model(images), labels)
        step = graphc.train_step(loss, optim.AdamW(model.parameters(), lr=1e-3), threads=threads, backend=backend,
                                 matmul_precision=precision)
        found = [float(step(x, y)) for _ in range(20)]
        losses.append(found)
        if backend == "native":
            assert ("on the matrix unit" if HERE else "in pairs of bfloat16") in step.report(batch=256)
            bits.add(b"".join(np.asarray(p.numpy()).tobytes() for p in model.parameters()))
    assert len(bits) == 1
    np.testing.assert_allclose(losses[1], losses[0], rtol={"highest": 2e-4, "high": 2e-4, "medium": 1e-2}[precision])
    assert losses[1][-1] < losses[1][0] / 2


def test_nobody_gets_it_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pieces only on a matrix unit for which somebody asks; one, as "medium" allows, on vectors as well."""
    most = PIECES if HERE else {"medium": 1} if PAIRS else {}
    for value, asked in (("", ("high", "medium")), ("0", ()), ("1", ("highest", "high", "medium"))):
        monkeypatch.setenv("GRAPHC_MATRIX_UNIT", value)
        assert {p: host.__wrapped__(p).pieces for p in PIECES} == {p: most.get(p, 0) * (p in asked) for p in PIECES}


def multiply(target: Target, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    c = matmul(*a.shape[:1], b.shape[1], a.shape[1])
    module = Module()
    f = module.function("f", PARAMETERS, internal=False)
    x, y, z, scratch, thread, threads = f.parameters
    emit_contraction(f, target, c, x, y, scratch=scratch, thread=thread, threads=threads, c_pointer=z)
    code = compile_module(module.text(), target=target, name="multiply")
    out = np.zeros((a.shape[0], b.shape[1]), np.float32)
    memory = np.zeros(scratch_bytes(c, target) + 64, np.uint8)
    SIGNATURE(code.address("f"))(a.ctypes.data, b.ctypes.data, out.ctypes.data, (memory.ctypes.data + 63) // 64 * 64, 0, 1)
    return out


@pytest.mark.skipif(not (WITHOUT.has_masks and WITHOUT.registers >= 32), reason="tiles overlap with 32 masked registers")
def test_tiles_overlap_with_multiply_adds() -> None:
    cases = [*products(), *[replace(c, contraction=replace(c.contraction, dtype="double")) for c in products()]]
    assert run_by_vectors(cases, WITHOUT) == len(cases)
    assert run_by_vectors(computed(), WITHOUT) > 0
    assert run_by_vectors(cases, WITHOUT, overlap=False) == 0


# as their processors say: with matrix registers, and with vectors that multiply pairs
SERVERS = {"sapphirerapids": "+amx-tile,+amx-bf16,+avx512bf16", "znver4": "+avx512bf16", "cooperlake": "+avx512bf16"}


@pytest.mark.parametrize("cpu", SERVERS)
def test_text_for_another_machine(cpu: str) -> None:
    """What multiplies bfloat16 can be generated for anywhere, and becomes its instructions; a tiny contraction is float32."""
    target = describe("x86_64-unknown-linux-gnu", cpu, f"+avx512f,+avx512vl,+avx512bw,+avx512dq,+fma,+avx2,{SERVERS[cpu]}")
    assert target.has_matrix_unit == (cpu == "sapphirerapids") == (target.pieces > 0) != target.has_pairs
    target = replace(target, pieces=1)
    texts = []
    for c in (matmul(512, 512, 512), matmul(12, 12, 12)):
        module = Module()
        f = module.function("f", PARAMETERS, internal=False)
        a, b, out, scratch, thread, threads = f.parameters
        emit_contraction(f, target, c, a, b, scratch=scratch, thread=thread, threads=threads, c_pointer=out)
        texts.append(assembly_for(module.text(), target))
    assert "vcvtne2ps2bf16" in texts[0] and "bf16" not in texts[1]
    assert ("vdpbf16ps" in texts[0]) == target.has_pairs
    assert ("tdpbf16ps" in texts[0] and "tilerelease" in texts[0]) == target.has_matrix_unit
    assert "vfmadd" in texts[1] and "tilerelease" not in texts[1]


@pytest.mark.parametrize("number", range(3))
def test_more_than_one_piece_takes_a_matrix_unit(number: int) -> None:
    precision = list(PIECES)[number]
    pairs = describe("x86_64-unknown-linux-gnu", "znver5", "+avx512f,+avx512vl,+avx512bw,+avx512dq,+fma,+avx2,+avx512bf16")
    assert with_pairs(pairs, precision).pieces == (precision == "medium") and not with_matrix_unit(pairs, precision).pieces
    unlike = [describe("x86_64-unknown-linux-gnu", *cpu) for cpu in (("haswell", "+avx2,+fma"), ("x86-64", ""))]
    assert not any(target.pieces or target.has_pairs or with_pairs(target, precision).pieces for target in unlike)
