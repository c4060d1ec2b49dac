"""Contractions whose rows share sets of the cache, that are far away, whose results lie in one piece, and narrow vectors."""

from __future__ import annotations

import numpy as np
import pytest
from graphc.runtime.native.contract import Contraction, Tile, choose_road, emit_contraction, scratch_bytes, tile_parts
from graphc.runtime.native.emit import Function, Module, Value, i64
from graphc.runtime.native.jit import compile_module
from graphc.runtime.native.microkernel import lines_ahead
from graphc.runtime.native.target import Target, describe, host
from graphc.runtime.native.tile_stores import store_to, store_vector_to

from graphc.records import replace
from tests.test_native_contract import PARAMETERS, SIGNATURE, TARGETS, Case, check, matmul, two_a_cycle

WIDE = "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma"


def small(target: Target, l2: int, l3: int = 64 << 20) -> Target:
    """The same machine with eight lines in a set of its first-level cache, and one multiply-add a cycle."""
    cpu = "znver4" if target.vector_bytes == 64 else target.cpu
    return replace(target, cpu=cpu, l1_bytes=32 << 10, l2_bytes=l2 << 10, l3_bytes=l3)


# Products, the bytes of the second-level cache they are decided for, and what is decided where vectors have 64 bytes.
CROWDED: list[tuple[Contraction, int, dict[str, object]]] = [
    (matmul(16, 16, 1024), 1024, {"pack_a": False, "height": 8, "row_tiles": 2}),  # low tiles: one panel has no use for a copy
    (matmul(28, 30, 2048), 1024, {"pack_a": False, "height": 7, "vectors": 2}),
    (matmul(10, 20, 1024), 1024, {"pack_a": False, "height": 10}),  # two lines more than there are ways
    (matmul(14, 200, 1024), 1024, {"pack_a": True, "pack_b": False, "height": 14}),
    (matmul(14, 320, 512, dtype="double"), 1024, {"pack_a": True, "height": 14}),
    (matmul(14, 200, 1020), 1024, {"pack_a": False}),
    (matmul(24, 1024, 400), 512, {"pack_a": False, "pack_b": False, "direct": False}),  # rows of the result
    (matmul(24, 1000, 400), 512, {"direct": False}),  # they begin inside lines
    (matmul(24, 1008, 400), 512, {"direct": True}),
    (matmul(28, 1024, 1024), 512, {"pack_a": True, "pack_b": False, "direct": False, "ahead": 16}),
    (matmul(16, 1024, 400), 512, {"height": 8, "vectors": 3, "direct": True}),
    (matmul(1, 1024, 300), 512, {"pack_b": False, "height": 1, "k_in_block": 6, "streamed": False}),  # one row
    (matmul(1, 1000, 301), 512, {"pack_b": False, "height": 1, "k_in_block": 61}),
]


def check_decided(name: str, products: list[tuple[Contraction, int, dict[str, object]]], slower: bool = False) -> None:
    """What is decided for each, and what it computes.  slower: only for one multiply-add a cycle."""
    for l2 in sorted({bytes_ for _, bytes_, _ in products}):
        target, cases = small(TARGETS[name], l2), []
        for c, _, decided in (one for one in products if one[1] == l2):
            if target.vector_bytes == 64:
                blocking = vars(choose_road(c, target, True, (False, False)).blocking)
                assert {field: blocking[field] for field in decided} == decided, c
                assert not slower or choose_road(c, two_a_cycle(target), True, (False, False)).blocking.vectors == 2, c
            cases += [Case(c, "plain", 1), Case(c, "plain"), Case(c, "twice")]
        check(cases, target)


@pytest.mark.parametrize("name", TARGETS)
def test_rows_that_share_a_set(name: str) -> None:
    """Tiles have no more rows of one set than it has ways, or copy them; what is added to many times waits in scratch."""
    check_decided(name, CROWDED)


# Products by a packed B, the bytes of the second-level cache, and what is decided for one multiply-add a cycle.
LOW: list[tuple[Contraction, int, dict[str, object]]] = [
    (matmul(150, 300, 1024), 1024, {"pack_a": False, "height": 6, "vectors": 4}),
    (matmul(130, 528, 512, dtype="double"), 256, {"pack_a": False, "height": 6, "vectors": 4, "panels_in_block": 2}),
    (matmul(150, 1024, 300, b=True), 1024, {"pack_a": False, "height": 6, "vectors": 4}),  # rows of the result
    (matmul(140, 90, 1024, dtype="double", b=True, batch=2), 1024, {"pack_a": False, "height": 6}),
    (matmul(150, 300, 1020, b=True), 1024, {"height": 14, "vectors": 2}),
]


@pytest.mark.parametrize("name", TARGETS)
def test_low_tiles(name: str) -> None:
    """Rows of one set are read where they are by tiles of few rows, if few sums keep multiply-adds busy."""
    check_decided(name, LOW, slower=True)


# Products that pack rows of A which many blocks of panels read, whether results are only stored, and KiB of both caches.
STAYING: list[tuple[Contraction, bool, int, int, dict[str, object]]] = [
    (matmul(260, 300, 300, a=True), True, 64, 1024, {"rows_stay": True, "by_depth": True, "tiles_in_block": 7}),
    (matmul(260, 300, 300, a=True), True, 64, 4096, {"rows_stay": True, "by_depth": True, "tiles_in_block": 19}),
    (matmul(530, 400, 500, a=True), True, 64, 1024, {"by_depth": True, "tiles_in_block": 8, "k_blocks": 2}),
    (matmul(270, 300, 450, a=True, dtype="double", batch=2), True, 64, 1024, {"by_depth": True, "tiles_in_block": 4}),
    (matmul(270, 600, 450, a=True, dtype="double"), True, 512, 1024, {"rows_stay": False}),  # B would be packed more often
    (matmul(260, 400, 300, a=True), False, 64, 1024, {"rows_stay": True, "by_depth": True}),
    (matmul(280, 300, 400, a=True), False, 64, 1024, {"rows_stay": False, "k_blocks": 2}),  # too many for all blocks of k
    (matmul(280, 300, 400, a=True), False, 64, 4096, {"rows_stay": True, "by_depth": False, "k_blocks": 2}),
    (matmul(520, 500, 90, a=True), True, 64, 4096, {"rows_stay": True, "by_depth": False, "by_block": True}),
    (matmul(520, 500, 90, a=True), True, 64, 1024, {"rows_stay": False, "by_block": True}),
]


@pytest.mark.parametrize("name", TARGETS)
def test_rows_that_stay_packed(name: str) -> None:
    """What many panels read is packed once, if the third-level cache takes it."""
    for c, plain, l2, l3, decided in STAYING:
        target = small(TARGETS[name], l2, l3 << 10)
        if target.vector_bytes == 64:
            blocking = vars(choose_road(c, target, plain, (False, False)).blocking)
            assert {field: blocking[field] for field in decided} == decided, c
            assert not choose_road(c, two_a_cycle(target), plain, (False, False)).blocking.rows_stay, c
        check([Case(c, "plain", 1), Case(c)] if plain else [Case(c, "twice"), Case(c, "finish", loads=(True, False))], target)


# The same for a third-level cache of 2 MB, of which a quarter is near.
FAR: list[tuple[Contraction, dict[str, object]]] = [
    (matmul(1, 400, 480), {"height": 1, "k_in_block": 6}),
    (matmul(9, 400, 500), {"row_tiles": 1, "k_in_block": 32, "ahead": 32}),
    (matmul(9, 2000, 200), {"k_blocks": 1, "ahead": 0}),  # in one block
    (matmul(28, 2003, 400, dtype="double"), {"pack_b": False, "row_tiles": 2, "ahead": 17}),  # in parts
    (matmul(20, 1100, 500), {"pack_b": False, "row_tiles": 2, "ahead": 16, "panels_in_block": 18}),
    (matmul(9, 90, 700), {"k_in_block": 64, "ahead": 0}),  # near
]


@pytest.mark.parametrize("name", TARGETS)
def test_columns_far_away(name: str) -> None:
    """Even one tile of rows fetches the next block of a B that is far away; of its columns a part at a time."""
    target, cases = small(TARGETS[name], 256, 2 << 20), []
    for c, decided in FAR:
        if target.vector_bytes == 64:
            blocking = vars(choose_road(c, target, True, (False, False)).blocking)
            assert {field: blocking[field] for field in decided} == decided, c
        cases += [Case(c, "plain", 1), Case(c, "twice")]
    check(cases, target)


@pytest.mark.parametrize("name", TARGETS)
def test_dot_products_in_one_piece(name: str) -> None:
    """Results of dot products are written where they belong, if whole tiles follow each other there."""
    target = small(TARGETS[name], 1024)
    if target.vector_bytes == 64:
        roads = [choose_road(matmul(50, 1, k), target, True, (False, False)) for k in (1000, 1024)]
        assert all(road.dots for road in roads)
        assert [tile_parts(matmul(50, 1, k), target)[0] for k in (1000, 1024)] == [4, 13]  # 16 rows, and 4 of one set
    shapes = [(50, 1, 1024), (50, 4, 64), (51, 4, 70), (7, 3, 130), (1, 50, 1024), (3, 41, 200), (33, 5, 100), (1, 1, 3000)]
    cases = [Case(matmul(m, n, k, b=b, batch=batch, dtype=dtype), way, misalign)
             for m, n, k in shapes for dtype in ("float", "double") for b, batch in ((False, 1), (True, 3))
             for way, misalign in (("plain", 1), ("finish", 0))]
    cases += [Case(matmul(50, 4, 100, c=True)), Case(matmul(4, 50, 100, b=True, c=True))]  # columns far from each other
    cases.append(Case(replace(matmul(40, 4, 100, batch=2), c_batch=(200,), c_m=(5,))))  # gaps between rows
    check(cases, target)


# Products whose last vector is half a register where vectors have 64 bytes, and some where it is not.
NARROW = [(matmul(60, 17, 100), 8), (matmul(140, 20, 300), 8), (matmul(70, 33, 300), 8), (matmul(40, 38, 70, a=True), 8),
          (matmul(100, 72, 200), 8), (matmul(200, 8, 300), 8), (matmul(64, 10, 40, dtype="double"), 4),
          (matmul(30, 20, 1600, dtype="double", a=True), 4), (matmul(60, 20, 31, batch=3), 8),
          (matmul(50, 23, 60, dtype="i32"), 8), (matmul(150, 103, 40), 8), (matmul(60, 25, 100), 0), (matmul(60, 32, 100), 0),
          (matmul(60, 13, 100, dtype="double"), 0), (matmul(156, 50, 90), 8), (matmul(140, 26, 90, dtype="double"), 4),
          (matmul(156, 60, 90), 0)]


@pytest.mark.parametrize("name", TARGETS)
def test_narrow_vectors(name: str) -> None:
    """Half a vector where that takes half the time and is enough for the last columns."""
    for l2 in (64, 1024):
        target, cases = small(TARGETS[name], l2), []
        for c, lanes in NARROW:
            if target.vector_bytes == 64:
                assert choose_road(c, target, True, (False, False)).blocking.narrow == lanes, c
                assert choose_road(c, two_a_cycle(target), True, (False, False)).blocking.narrow == 0, c
            cases += [Case(c, "plain", 1), Case(c, "plain"), Case(c, "finish"), Case(c, "twice", 1)]
        check(cases, target)


def test_lines_ahead() -> None:
    """Lines of B are fetched fewer k ahead than a set has ways; how deep packed blocks are depends on multiply-adds."""
    triple = "x86_64-unknown-linux-gnu"
    intel = describe(triple, "sapphirerapids", WIDE, (48 << 10, 2 << 20, 100 << 20))
    zen = describe(triple, "znver4", WIDE, (32 << 10, 1 << 20, 32 << 20))
    assert [lines_ahead(t) for t in (intel, zen, replace(zen, l1_bytes=128 << 10))] == [8, 4, 8]
    assert [t.multiply_adds for t in (intel, zen, describe(triple, "znver4", "+avx2,+fma"))] == [2, 1, 2]
    large = matmul(600, 600, 600, dtype="double")
    deep = [choose_road(large, t, True, (False, False)).blocking for t in (intel, zen)]
    assert [g.k_in_block for g in deep] == [120, 200]
    assert all(g.pack_b for g in deep)


# Columns, or rows, that are turned while they are copied: some share a set, some are no whole register, some are far away.
TURNED = [matmul(m, n, k, dtype=dtype, b=True) for dtype in ("float", "double")
          for m, n, k in ((150, 70, 1024), (140, 64, 1030), (131, 33, 2048), (300, 40, 250))]


@pytest.mark.parametrize("l2", [128, 4096])
@pytest.mark.parametrize("name", TARGETS)
def test_lines_that_are_turned(name: str, l2: int) -> None:
    """Packing turns as many lines at once as a set holds, and fetches those that come next where they are far away."""
    target = small(TARGETS[name], l2)
    check([Case(c, way) for c in TURNED for way in ("plain", "twice")], target, (1, 2))
    text, c = Module(), TURNED[0]
    f = text.function("case", PARAMETERS, internal=False)
    left, right, out, scratch, thread, threads = f.parameters
    emit_contraction(f, target, c, left, right, scratch=scratch, thread=thread, threads=threads, c_pointer=out)
    turned = [function for function in text.functions if function.startswith("pack.transposed.float")]
    lanes, together = target.lanes(4), min(8, target.lanes(4))
    end = ".far" if l2 == 128 else ""
    assert f"pack.transposed.float.{lanes}" + f".{together}" * (together < lanes) + end in turned


@pytest.mark.skipif(not (host().has_masks and host().registers >= 32), reason="tiles overlap with 32 masked registers")
def test_updated_rows_that_share_a_set() -> None:
    """Rows that finishing will touch are fetched twice where they share sets; results are the same bits."""
    c, results = matmul(40, 1024, 150, a=True), []
    assert choose_road(c, small(host(), 1024), False, (False, False), False, True).blocking.height == 10
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((150, 40), (150, 1024)))
    for target in (small(host(), 1024), replace(small(host(), 1024), l1_bytes=64 << 10)):
        module = Module()
        f = module.function("case", PARAMETERS, internal=False)
        left, right, out, scratch, thread, threads = f.parameters

        def rows(f: Function, tile: Tile, out: Value = out) -> list[tuple[Value, int]]:
            return [(f.offset(out, f.add(f.mul(tile.i0, i64(1024)), tile.j0), "float"), 4096)]

        emit_contraction(f, target, c, left, right, scratch=scratch, thread=thread, threads=threads, prefetch=rows,
                         finish=store_to(out, c, target), vector=store_vector_to(out, c, target), overlap=True)
        text = module.text(target.triple)
        results.append((text.count("@llvm.prefetch"), np.full((40, 1024), np.nan, np.float32)))
        code = compile_module(text, target=target, name="case")
        memory = np.zeros(scratch_bytes(c, target, overlap=True) + 64, np.uint8)
        base = (memory.ctypes.data + 63) // 64 * 64
        for t in range(3):
            SIGNATURE(code.address("case"))(a.ctypes.data, b.ctypes.data, results[-1][1].ctypes.data, base, t, 3)
    assert results[0][0] == results[1][0] + 1
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][1], a.T @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TARGETS)
def test_images_whose_rows_share_a_set(name: str) -> None:
    """Panels of several images are copied where their rows, a power of two apart, would drive out each other."""
    target, cases = small(TARGETS[name], 1024), []
    for n, batch, packed in ((1024, 3, True), (1008, 3, False), (1024, 1, False)):
        c = replace(matmul(40, n, 20, batch=batch), a_batch=(0,))
        if target.vector_bytes == 64:
            assert choose_road(c, target, True, (False, False)).blocking.pack_b == packed
            assert not choose_road(c, replace(target, l1_bytes=48 << 10), True, (False, False)).blocking.pack_b
        cases += [Case(c), Case(c, "twice", 1)]
    check(cases, target)


def test_rows_too_long_for_correlations() -> None:
    """Gradients of 1 x 1 convolutions are tiles where a cache with few ways does not hold a row of each operand."""
    for k, along in ((300, True), (1024, False)):
        c = Contraction("float", (), (32,), (64,), (3, k), (), (k,), (32 * k, 1), (), (64 * k, 1), (k,), (), (64,), (1,))
        if host().vector_bytes == 64:
            assert (choose_road(c, small(host(), 1024), True, (False, False)).correlation is not None) == along
            assert choose_road(c, two_a_cycle(replace(host(), l1_bytes=48 << 10)), True, (False, False)).correlation is not None
        check([Case(c), Case(c, "twice")], small(host(), 1024), (1, 2))
