"""Tiles of dot products, where k is adjacent in both operands and few columns or rows fill no vectors."""

from __future__ import annotations

import pytest
from graphc.runtime.native.contract import Contraction, choose_road, scratch_bytes

from graphc.records import replace
from tests.test_contract_sets import small
from tests.test_native_contract import TARGETS, Case, check, matmul, two_a_cycle

# Products, and whether they are computed so where vectors have 64 bytes and one multiply-add begins in a cycle.
NEAR: list[tuple[Contraction, bool]] = [
    *[(matmul(m, n, k, b=True, dtype=dtype, batch=batch), True)
      for m, n, k, batch in ((10, 63, 419, 1), (12, 12, 1000, 1), (9, 40, 333, 1), (15, 15, 512, 1),
                             (2, 50, 400, 3), (5, 60, 777, 1))
      for dtype in ("float", "double")],
    (matmul(37, 11, 592, b=True, batch=2), True),
    (matmul(37, 11, 592, b=True, batch=2, dtype="double"), False),  # half a vector takes half the time
    (matmul(9, 40, 333, b=True, c=True), True),  # the result is turned
    (matmul(40, 9, 333, b=True, c=True, dtype="double"), True),
    (replace(matmul(12, 12, 300, b=True, batch=2), c_batch=(400,), c_m=(31,)), True),  # gaps between rows
    (replace(matmul(12, 12, 300, b=True), c_m=(31,), c_n=(2,)), False),  # and columns
    (matmul(12, 12, 300, b=True, dtype="i32"), False),
    (matmul(12, 40, 300), False),
    (matmul(12, 40, 300, a=True, b=True), False),
    (matmul(100, 90, 300, b=True), False),
    (matmul(12, 12, 5, b=True), False),
]


@pytest.mark.parametrize("name", TARGETS)
def test_tiles_of_dot_products(name: str) -> None:
    """Rows and columns that fill no tiles, k that fills no vectors; every result is stored where it belongs, and no other."""
    target, cases = small(TARGETS[name], 1024), []
    for c, near in NEAR:
        if target.vector_bytes == 64:
            road = choose_road(c, target, True, (False, False))
            assert (road.dot_tiles is not None) == near, c
            assert road.scratch_bytes <= scratch_bytes(c, target)
            assert choose_road(c, two_a_cycle(target), True, (False, False)).dot_tiles is None, c
            assert choose_road(c, target, False, (False, False)).dot_tiles is None, c  # somebody finishes tiles
            assert choose_road(c, target, True, (False, True)).dot_tiles is None, c
        cases += [Case(c, "plain", 1), Case(c, "plain"), Case(c, "twice")]
    check(cases, target)
