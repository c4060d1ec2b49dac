"""Contractions that threads balance between them: real threads, small shapes, every road."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator

import numpy as np
import pytest
from graphc.runtime.native import blocking, contract, matrix_blocking, operands
from graphc.runtime.native.contract import Contraction, Finish, FinishVector, Tile, choose_road, emit_contraction, scratch_bytes
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.jit import compile_module
from graphc.runtime.native.target import Target, host, with_matrix_unit, with_pairs
from graphc.runtime.native.threads import Pool
from graphc.runtime.native.values import SIZES, Value, i64, vector

from graphc.records import replace
from tests.test_native_contract import Case, Operand, doubled, load_hooks, matmul, random_operands, reference, targets

THREADS = 3
CONTRACTIONS = [matmul(m, n, k, a=a, b=b, dtype=dtype)
                for number, (m, n, k) in enumerate([(200, 300, 300), (61, 530, 700), (1030, 70, 410), (97, 331, 288),
                                                    (530, 33, 900), (150, 1100, 33),
                                                    (610, 1000, 40), (530, 420, 420)])
                for a, b in ((False, True), (True, number % 2 == 0))
                for dtype in (("float", "double") if number < 3 else ("float",))]
CASES = [Case(c, way, number % 2, loads) for number, c in enumerate(CONTRACTIONS)
         for way, loads in (("plain", (False, False)), ("twice", (number % 3 == 0, number % 3 == 1)),
                            ("added", (False, False)))]


def added(c_pointer: Value, c: Contraction) -> Finish:
    """A finish that adds a tile to the result: what is done twice shows."""
    def finish(f: Function, tile: Tile) -> None:
        with f.loop(i64(0), tile.rows) as row, f.loop(i64(0), tile.columns) as column:
            source = f.offset(tile.pointer, f.add(f.mul(row, i64(tile.stride)), column), c.dtype)
            line = f.mul(f.add(tile.i0, row), i64(c.n[0]))
            place = f.offset(c_pointer, f.add(line, f.add(tile.j0, column)), c.dtype)
            f.store(f.binary("fadd", f.load(place, c.dtype), f.load(source, c.dtype)), place)

    return finish


def added_vector(c_pointer: Value, c: Contraction, target: Target) -> FinishVector:
    """The same for one vector of a tile."""
    lanes = target.lanes(SIZES[c.dtype])

    def finish(f: Function, tile: Tile, row: Value, column: Value, mask: Value | None) -> None:
        source = f.offset(tile.pointer, f.add(f.mul(row, i64(tile.stride)), column), c.dtype)
        line = f.mul(f.add(tile.i0, row), i64(c.n[0]))
        place = f.offset(c_pointer, f.add(line, f.add(tile.j0, column)), c.dtype)
        wide = vector(lanes, c.dtype)
        old = f.masked_load(place, wide, mask) if mask else f.load(place, wide)
        new = f.binary("fadd", old, f.load(source, wide))
        if mask:
            f.masked_store(new, place, mask)
        else:
            f.store(new, place)

    return finish


@pytest.fixture(autouse=True, params=[0.5, 0.0], ids=["kept", "packed again"])
def small_is_large(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads take from each other whatever they share at all; what they all need they keep, or do not."""
    def forget() -> None:
        for function in (blocking.choose_blocking, matrix_blocking.matrix_blocking, choose_road):
            function.cache_clear()

    monkeypatch.setattr(blocking, "LARGE", 1)
    monkeypatch.setattr(matrix_blocking, "LARGE", 1)
    monkeypatch.setattr(operands, "UNPACKED_BYTES", 1 << 10)
    monkeypatch.setattr(blocking, "KEPT_SHARE", request.param)
    monkeypatch.setattr(blocking, "LEAST_UNITS", 2)
    monkeypatch.setattr(blocking, "COLUMNS_A_THREAD", 16)
    monkeypatch.setattr(blocking, "ROWS_OF_PART", 40)
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    found = Pool(THREADS)
    yield found
    found.close()


def check_balanced(cases: list[Case], target: Target, pool: Pool, overlap: bool = False) -> int:
    """Each case on 1, 2 and 3 threads, several times in a row; how many keep what they pack."""
    module = Module()
    for number, case in enumerate(cases):
        c = case.contraction
        f = module.function(f"case{number}", [("arguments", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                            returns="i32", internal=False)
        arguments, thread, threads, _ = f.parameters
        a, b, out, scratch = (f.load(f.offset(arguments, i64(i), "i64"), "ptr") for i in range(4))
        finish = {"plain": None, "twice": doubled(out, c, target), "added": added(out, c)}[case.way]
        by_vector = added_vector(out, c, target) if overlap else None
        own = f.offset(scratch, f.mul(thread, i64(private_bytes(case, target, overlap))), "i8")
        emit_contraction(f, target, c, a, b, scratch=own, thread=thread, threads=threads, finish=finish, c_pointer=out,
                         vector=by_vector, overlap=overlap, **load_hooks(case, a, b))
        f.do("ret i32 0")
        f.finished = True
    code = compile_module(module.text(), target=target, name="balanced")
    rng, found = np.random.default_rng(7), 0
    for number, case in enumerate(cases):
        c = case.contraction
        a, b = random_operands(c, rng, case.misalign)
        x, y = (1 - v.view if hook else v.view for v, hook in zip((a, b), case.loads, strict=True))
        wanted, magnitude = reference(c, x, y, target.pieces), reference(c, np.abs(x), np.abs(y))
        if case.way == "twice":
            wanted, magnitude = 2 * wanted + 1, 2 * magnitude + 1
        bound = (math.prod(c.k) + 2) * (2.0**-23 if c.dtype == "float" else 2.0**-52) * magnitude
        scratch = np.full(THREADS * private_bytes(case, target, overlap) + 128, 0xA5, np.uint8)
        base = (scratch.ctypes.data + 63) // 64 * 64
        found += choose_road(c, target, case.way == "plain", case.loads, False, overlap).blocking.keeps
        bits = None
        for threads in (1, 2, 3, 3, 2):
            out = Operand(c.dtype, [(c.batch, c.c_batch), (c.m, c.c_m), (c.n, c.c_n)], None, case.misalign)
            out.view[...] = 0
            pointers = (ctypes.c_int64 * 4)(a.pointer, b.pointer, out.pointer, base)
            pool.run(code.address(f"case{number}"), ctypes.addressof(pointers), threads)
            assert np.all(np.abs(out.view - wanted) <= bound), (c, case.way, threads)
            bits = out.view.tobytes() if bits is None else bits
            assert out.view.tobytes() == bits, f"{threads} threads change the result: {c}"
            used = base - scratch.ctypes.data + THREADS * private_bytes(case, target, overlap)
            assert np.all(scratch[used:] == 0xA5), f"scratch overrun: {c}"
            out.view[...] = 113
            assert np.all(out.memory == 113), f"wrote beside the result: {c}"
    return found


def private_bytes(case: Case, target: Target, overlap: bool) -> int:
    return scratch_bytes(case.contraction, target, load_a=case.loads[0], load_b=case.loads[1], overlap=overlap)


@pytest.mark.parametrize("name", list(targets()))
def test_bits_do_not_depend_on_who_does_it(name: str, pool: Pool) -> None:
    """The bits that one thread makes, for both sides that can be shared out."""
    target = targets()[name]
    kept = check_balanced(CASES, target, pool)
    blockings = [choose_road(c.contraction, target, True, c.loads).blocking for c in CASES]
    if blocking.KEPT_SHARE:
        assert kept > len(CASES) // 3
        assert {g.split_rows for g in blockings if g.keeps} == {True, False}
        assert any(g.parts > 1 for g in blockings if g.keeps)
    else:
        assert not kept
        assert any(g.most_threads > 1 and g.pack_a and not g.portion for g in blockings)


def test_rows_of_one_block_after_the_other(pool: Pool) -> None:
    """Threads that are whole blocks ahead of others neither lose row tiles nor do them twice."""
    target = replace(host(), l2_bytes=1 << 15)
    blocking.KEPT_SHARE = 0.0
    cases = [Case(matmul(m, n, k, a=True, dtype=dtype), way, 0, (False, False))
             for m, n, k, dtype in ((520, 500, 70, "float"), (610, 333, 40, "float"), (420, 410, 33, "double"))
             for way in ("plain", "added")]
    for overlap in (False, True):
        chosen = [choose_road(c.contraction, target, c.way == "plain", c.loads, False, overlap).blocking for c in cases]
        assert all(g.by_block and g.panels > 2 * g.panels_in_block for g in chosen)
        for _ in range(3):
            check_balanced(cases, target, pool, overlap)


@pytest.mark.skipif(host().vector_bytes < 64, reason="rows stay packed with vectors of 64 bytes only")
def test_rows_that_stay_packed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread has packed for its own rows it does not look for in the rows that it takes from others."""
    target = replace(host(), cpu="znver4", l2_bytes=1 << 15, l3_bytes=4 << 20)
    blocking.KEPT_SHARE = 0.0
    cases = [Case(matmul(m, n, k, a=True, dtype=dtype), way, 0, (False, False))
             for m, n, k, dtype in ((520, 500, 70, "float"), (610, 333, 40, "float"), (420, 410, 33, "double"),
                                    (300, 700, 300, "float"), (150, 500, 400, "double"))
             for way in ("plain", "added")]
    monkeypatch.setattr(contract, "PAIRS_WORTH", 1e-9)
    for one, overlap in ((target, False), (target, True), (with_pairs(target), False), (with_pairs(target), True)):
        shown = [case for case in cases if case.way == "added" or not overlap]
        shown = [case for case in shown if case.contraction.dtype == "float" or not one.pieces]
        chosen = [choose_road(c.contraction, one, c.way == "plain", c.loads, False, overlap).blocking for c in shown]
        assert {(g.by_block, g.by_depth) for g in chosen if g.rows_stay} == {(True, False), (False, True)}
        for _ in range(3):
            check_balanced(shown, one, pool, overlap)


@pytest.mark.skipif(host().registers < 32, reason="tiles are finished beside others where registers are many")
def test_balanced_and_finished_beside_the_next_tile(pool: Pool) -> None:
    cases = [case for case in CASES if case.way == "added"]
    assert bool(check_balanced(cases, host(), pool, overlap=True)) == (blocking.KEPT_SHARE > 0)


IN_PIECES = [target for target in (with_matrix_unit(host()), with_pairs(host())) if target.pieces]


@pytest.mark.parametrize("target", IN_PIECES)
def test_balanced_in_pieces(target: Target, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "matrix_cost", lambda *_: -1.0)
    monkeypatch.setattr(contract, "PAIRS_WORTH", 1e-9)
    cases = [case for case in CASES if case.contraction.dtype == "float"]
    assert all(choose_road(c.contraction, target, True, c.loads).blocking.pieces for c in cases)
    for overlap in (False, True):
        again = [case for case in cases if case.way == "added"] if overlap else cases
        assert bool(check_balanced(again, target, pool, overlap)) == (blocking.KEPT_SHARE > 0)
