"""Tiles that a mask hides: not computed, but what is read of them is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graphc.passes.diagonals import beyond_diagonals
from graphc.passes.masks import LARGEST, Fixed, masks_of
from graphc.passes.pipeline import Pipeline

import graphc
from graphc.ir import Graph, topological
from graphc.ops.sources import iota
from graphc.symbols import Tensor

MASKS = {
    "causal": lambda i, j: j <= i,
    "strict": lambda i, j: j < i - 2,
    "future": lambda i, j: j >= i - 5,
    "window": lambda i, j: (j <= i + 3) & (i - j < 40),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows", "columns", "depth"),
                         [(50, 50, 8), (100, 130, 33), (333, 200, 16), (700, 700, 600), (64, 640, 3)])
@pytest.mark.parametrize("kind", MASKS)
def test_what_is_hidden_is_what_it_would_be(kind: str, rows: int, columns: int, depth: int, dtype: str) -> None:
    """Zeros, and what else a map makes of a hidden place; the same bits for any number of threads."""
    mask = MASKS[kind](*np.indices((rows, columns)))
    a, b = graphc.placeholder("a", (2, rows, depth), dtype), graphc.placeholder("b", (2, columns, depth), dtype)
    y = graphc.placeholder("y", (2, rows, columns), dtype)
    product = a @ b.transpose(-1, -2)
    outputs = [graphc.where(mask, (product * 0.1).exp() * y, 0.0)], [graphc.where(mask, product + y, -np.inf)], \
        [graphc.where(mask, product, 7.0).transpose(-1, -2) * 2.0]
    rng = np.random.default_rng(rows)
    arrays = [rng.standard_normal(t.shape).astype(dtype) for t in (a, b, y)]
    exact = arrays[0].astype(np.float64) @ arrays[1].astype(np.float64).transpose(0, 2, 1)
    wanted = np.where(mask, np.exp(exact * 0.1) * arrays[2], 0), np.where(mask, exact + arrays[2], -np.inf), \
        np.where(mask, exact, 7).transpose(0, 2, 1) * 2
    for output, expected in zip(outputs, wanted, strict=True):
        program = graphc.function([a, b, y], output, threads=1)
        value = program(*arrays)[0]
        finite = np.isfinite(expected)
        assert np.array_equal(value[~finite], expected[~finite])
        unit = np.finfo(dtype).eps * (depth + 30)
        assert np.abs(value[finite] - expected[finite]).max() <= unit * max(1, np.abs(expected[finite]).max())
        for threads in (2, 3):
            assert np.array_equal(value, graphc.function([a, b, y], output, threads=threads)(*arrays)[0])


def test_the_report_says_so_and_maps_may_read_them() -> None:
    """Scores that are only read where they are seen, by a kernel of their own and by a fold."""
    rng = np.random.default_rng(0)
    q, k = (graphc.placeholder(name, (3, 700, 16)) for name in "qk")
    visible = np.tril(np.ones((700, 700), bool))
    scores = graphc.where(visible, q @ k.transpose(-1, -2), -np.inf)
    outputs = [scores.softmax(-1), graphc.where(visible, scores, 0.0).sum(-1)]
    program = graphc.function([q, k], outputs)
    assert "tiles that a mask hides are not computed" in program.report()
    arrays = [rng.standard_normal((3, 700, 16)).astype(np.float32) for _ in range(2)]
    for a, b in zip(program(*arrays), graphc.function([q, k], outputs, backend="numpy")(*arrays), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_node_may_be_anything_only_where_a_choice_takes_something_else() -> None:
    """0 * NaN is NaN: what is multiplied by zeros is computed or written."""
    q, k = (graphc.placeholder(name, (60, 8)) for name in "qk")
    visible = np.tril(np.ones((60, 60), bool))
    product = q @ k.T
    for read, free in ((graphc.where(visible, product, 0.0), True), (product * visible.astype(np.float32), False)):
        graph = Graph((q.node, k.node), (read.node,))
        pipeline = Pipeline()
        graph = pipeline.concrete(pipeline.simplified(graph), {})
        found = masks_of(graph, {})
        (contraction,) = found.within
        assert bool(found.ignored.get(contraction)) is free


FORMS = {
    "columns, rows": lambda s: (iota(s, 1), iota(s, 0)),
    "rows, columns": lambda s: (iota(s, 0), iota(s, 1)),
    "a difference": lambda s: (iota(s, 1) - iota(s, 0), graphc.constant(np.int64(3))),
    "with numbers": lambda s: (iota(s, 1) + 5, iota(s, 0) + 2),
    "spread": lambda s: (iota((s[1],), 0), iota((s[0], 1), 0) - 7),
    "turned round": lambda s: (-iota(s, 0), 7 - iota(s, 1)),
    "times one": lambda s: (iota(s, 1) * 1, 4 + iota(s, 0)),
}


@pytest.mark.parametrize("compare", ["__le__", "__lt__", "__ge__", "__gt__", "__eq__", "__ne__"])
@pytest.mark.parametrize("form", FORMS)
def test_large_masks_are_understood_without_their_elements(form: str, compare: str) -> None:
    left, right = FORMS[form]((40, 53))
    node = getattr(left, compare)(right).node
    fixed = Fixed()
    fixed.nodes.update(topological([node]))
    assert beyond_diagonals(node) == fixed.facts(node)
    assert bool(beyond_diagonals(node)) is True


@pytest.mark.parametrize("compared", [
    lambda s: (iota(s, 1) * 2, iota(s, 0)), lambda s: (iota(s, 1), iota(s, 1)), lambda s: (iota(s, 1) + iota(s, 0), iota(s, 0)),
    lambda s: (iota(s, 1) % 7, iota(s, 0)), lambda s: (graphc.placeholder("n", s, "int64"), iota(s, 0)),
    lambda s: (iota(s, 1), graphc.placeholder("n", (), "int64"))])
def test_what_is_no_diagonal_is_left_alone(compared: Callable[[tuple[int, int]], tuple[Tensor, Tensor]]) -> None:
    left, right = compared((40, 53))
    assert beyond_diagonals((left <= right).node) == {}


def test_a_mask_too_large_to_be_computed_hides_as_much() -> None:
    length = 2100
    assert length * length > LARGEST
    q, k, v = (graphc.placeholder(name, (1, length, 8)) for name in "qkv")
    out = graphc.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    program = graphc.function([q, k, v], out)
    assert program.report().count("50% of its products are left out") == 2
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((1, length, 8)).astype(np.float32) for _ in range(3)]
    rows = np.array([0, 5, 700, length - 1])
    value = program(*arrays)[0]
    q64, k64, v64 = (a[0].astype(np.float64) for a in arrays)
    for row in rows:
        weights = np.exp(q64[row] @ k64[:row + 1].T / np.sqrt(8))
        assert np.allclose(value[row], weights / weights.sum() @ v64[:row + 1], rtol=1e-4, atol=1e-6)
