"""Sums of a row's products that attention has made already: when they are shared, and that they are the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.pipeline import Pipeline
from graphc.passes.row_sums import share_row_sums
from graphc.runtime.interpreter import evaluate_graph

import graphc
import graphc.nn.functional as F
from graphc.ir import Graph
from graphc.ops.reductions import is_sum
from graphc.symbols import Tensor


def simplified(inputs: list[Tensor], outputs: list[Tensor]) -> Graph:
    pipeline = Pipeline()
    graph = Graph(tuple(i.node for i in inputs), tuple(o.node for o in outputs))
    return pipeline.concrete(pipeline.simplified(graph), {})


def summed(graph: Graph) -> list[int]:
    """How many numbers each sum adds up."""
    return [n.inputs[0].type.size // max(1, n.type.size) for n in graph.nodes if is_sum(n)]


B, H, T, S, D = 2, 3, 20, 24, 5


def attention(batch: int, heads: int, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    q = graphc.placeholder("q", (batch, heads, T, D))
    k, v = (graphc.placeholder(name, (batch, heads, S, D)) for name in "kv")
    out = F.scaled_dot_product_attention(q, k, v, **options)
    return [q, k, v], [out, *graphc.grad((out ** 3).sum(), [q, k, v])]


@pytest.mark.parametrize(("batch", "heads"), [(2, 3), (1, 3), (2, 1), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": np.tril(np.ones((T, S), bool))}], ids=str)
def test_the_gradient_of_attention_sums_no_row_of_weights(batch: int, heads: int, options: dict[str, Any]) -> None:
    graph = simplified(*attention(batch, heads, **options))
    assert sorted(summed(graph)) == [D, S], "of the softmax itself, and of the result with its gradient"


def test_dropout_is_a_factor_like_another() -> None:
    graph = simplified(*attention(B, H, dropout_p=0.25))
    assert S not in summed(graph)[1:] and sorted(summed(graph)) == [D, S]


def small(value: Callable[[Tensor, Tensor, Tensor], list[Tensor]]) -> tuple[Graph, Graph]:
    """A graph of x [B, T, D], y [B, S, D] and z [B, T, S], without and with shared sums."""
    x, y = graphc.placeholder("x", (B, T, D)), graphc.placeholder("y", (B, S, D))
    z = graphc.placeholder("z", (B, T, S))
    graph = Graph((x.node, y.node, z.node), tuple(t.node for t in value(x, y, z)))
    return graph, share_row_sums(graph)


def scores(x: Tensor, y: Tensor) -> Tensor:
    return graphc.einsum("btd,bsd->bts", x, y)


SHARED: dict[str, Callable[[Tensor, Tensor, Tensor], list[Tensor]]] = {
    "a product": lambda x, y, z: [z @ y, (scores(x, y) * z).sum(-1)],
    "the other way round": lambda x, y, z: [z @ y, (z * scores(x, y)).sum(-1)],
    "with the axis kept": lambda x, y, z: [z @ y, scores(x, y) - (z * scores(x, y)).sum(-1, True)],
    "a transposed result": lambda x, y, z: [graphc.einsum("bsd,bts->dbt", y, z), (z * scores(x, y)).sum(-1)],
    "of three factors": lambda x, y, z: [(z * z) @ y, (z * scores(x, y) * z).sum(-1)],
    "a choice": lambda x, y, z: [graphc.where(z > 0, z, 0.0) @ y, (graphc.where(z > 0, scores(x, y), 0.0) * z).sum(-1)],
    "the other choice": lambda x, y, z: [graphc.where(z > 0, 0.0, z) @ y, (graphc.where(z > 0, 0.0, scores(x, y)) * z).sum(-1)],
    "down the columns": lambda x, y, z: [graphc.einsum("bts,btd->bsd", z, x), (z * scores(x, y)).sum(1)],
}
ALONE: dict[str, Callable[[Tensor, Tensor, Tensor], list[Tensor]]] = {
    "no such contraction": lambda x, y, z: [(z * scores(x, y)).sum(-1)],
    "other weights": lambda x, y, z: [(z + 1.0) @ y, (z * scores(x, y)).sum(-1)],
    "once too often": lambda x, y, z: [(z * z) @ y, (z * scores(x, y)).sum(-1)],
    "the opposite choice": lambda x, y, z: [graphc.where(z > 0, 0.0, z) @ y,
                                       (graphc.where(z > 0, scores(x, y), 0.0) * z).sum(-1)],
    "another operand": lambda x, y, z: [z @ (y * 2.0), (z * scores(x, y)).sum(-1)],
    "another axis": lambda x, y, z: [z @ y, (z * scores(x, y)).sum(1)],
    "two axes": lambda x, y, z: [z @ y, (z * scores(x, y)).sum((1, 2))],
    "the batch": lambda x, y, z: [z @ y, (z * scores(x, y)).sum(0)],
    "summed over the batch": lambda x, y, z: [graphc.einsum("bts,bsd->td", z, y), (z * scores(x, y)).sum(-1)],
    "the maximum": lambda x, y, z: [z @ y, (z * scores(x, y)).max(-1)],
}


@pytest.mark.parametrize("name", SHARED)
def test_a_sum_that_a_contraction_gives_is_taken_from_there(name: str) -> None:
    before, after = small(SHARED[name])
    rng = np.random.default_rng(1)
    feeds = {i: rng.standard_normal(i.shape).astype(np.float32) for i in before.inputs}
    assert max(summed(before)) > D >= max(summed(after)), "the sum is over features now"
    for a, b in zip(evaluate_graph(before, feeds)[0], evaluate_graph(after, feeds)[0], strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= 4e-6 * np.abs(a).max()


@pytest.mark.parametrize("name", ALONE)
def test_other_sums_stay_what_they_are(name: str) -> None:
    before, after = small(ALONE[name])
    assert after is before or after.roots == before.roots


def test_the_gradient_is_that_of_pytorch() -> None:
    inputs, outputs = attention(B, H, attn_mask=np.tril(np.ones((T, S), bool), 2))
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(i.shape).astype(np.float32) for i in inputs]
    tensors = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    out = torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=torch.ones(T, S).tril(2) > 0)
    (out ** 3).sum().backward()
    for backend in ("native", "numpy"):
        for value, wanted in zip(graphc.function(inputs, outputs, backend=backend)(*arrays), (out, *(t.grad for t in tensors)),
                                 strict=True):
            wanted = wanted.detach().numpy()
            assert np.abs(value - wanted).max() <= 4e-6 * np.abs(wanted).max()
