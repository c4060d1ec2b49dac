"""Large values in blocks: the same numbers in much less memory, whatever the attention looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes import blockwise as blocks
from graphc.passes import pipeline
from graphc.passes.blockwise import blockwise, pieces_of
from graphc.passes.pipeline import Pipeline

import graphc
import graphc.nn.functional as F
from graphc import nn
from graphc.ir import Graph
from graphc.op import Kind
from graphc.program import Program
from graphc.symbols import Tensor

Made = tuple[list[Tensor], list[Tensor]]
IN_BLOCKS = "are computed in blocks and not kept"


def attention(batch: int = 2, heads: int = 4, length: int = 512, source: int | None = None, features: int = 32,
              dtype: str = "float32", shared: int = 1, **options: Any) -> Made:
    q = graphc.placeholder("q", (batch, heads, length, features), dtype)
    k, v = (graphc.placeholder(name, (batch, heads // shared, source or length, features), dtype) for name in "kv")
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=shared > 1, **options)
    return [q, k, v], [out, *graphc.grad((out ** 3).sum(), [q, k, v])]


def with_padding() -> Made:
    module = nn.MultiheadAttention(64, 8, batch_first=True)
    x, padding = graphc.placeholder("x", (2, 512, 64)), graphc.placeholder("padding", (2, 512), "bool")
    out, _ = module(x, x, x, key_padding_mask=padding, need_weights=False)
    return [x, padding], [out, *graphc.grad((out * out).sum(), [x, *module.parameters()])]


def by_hand() -> Made:
    """As it is written in one's first transformer: batches of matrices, a mask that is filled in."""
    x, w = graphc.placeholder("x", (1, 1024, 32)), graphc.placeholder("w", (32, 96))
    q, k, v = graphc.split(x @ w, 32, -1)
    scores = graphc.bmm(q, k.transpose(1, 2)) / 32 ** 0.5
    weights = F.softmax(scores.masked_fill(graphc.tril(graphc.ones((1024, 1024))) == 0, -np.inf), -1)
    out = graphc.bmm(weights, v)
    return [x, w], [out, *graphc.grad((out ** 2).sum(), [x, w])]


def with_a_bias_that_is_trained() -> Made:
    """Its gradient is a sum over batch and heads, so these are no blocks."""
    bias = graphc.placeholder("bias", (1024, 1024))
    q, k, v = (graphc.placeholder(name, (2, 4, 1024, 32)) for name in "qkv")
    out = ((q @ k.transpose(-1, -2)) * 0.1 + bias).softmax(-1) @ v
    return [q, k, v, bias], [out, *graphc.grad((out ** 2).sum(), [q, k, v, bias])]


def arrays_for(inputs: Sequence[Tensor]) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(i.shape).astype(i.node.dtype.numpy) if i.node.dtype.is_float else rng.random(i.shape) < 0.1
            for i in inputs]


def at_half(made: Made, share: float = 0.6, **options: Any) -> tuple[Program, Program]:
    """The program without a budget, and with one of about half of what that takes."""
    whole = graphc.function(*made, threads=2, **options)
    arena = whole.specialize().memory.arena
    return whole, graphc.function(*made, threads=2, memory_budget=int(share * arena), **options)


KINDS: dict[str, tuple[Callable[[], Made], str]] = {
    "causal": (lambda: attention(is_causal=True), "over 8"),
    "one batch": (lambda: attention(1, 8, is_causal=True), "over 8"),
    "few heads, in pieces": (lambda: attention(1, 2, 1024, is_causal=True), "over 1 in 4 pieces"),
    "one head, in pieces": (lambda: attention(1, 1, 1024, is_causal=True), "over 1 in 4 pieces"),
    "without a mask": (attention, "over 8"),
    "sizes without halves": (lambda: attention(3, 3, 331, 450), "over 9"),
    "in float64": (lambda: attention(dtype="float64", is_causal=True), "over 8"),
    "a mask of bools": (lambda: attention(attn_mask=np.tril(np.ones((512, 512), bool), -3)), "over 8"),
    "numbers added": (lambda: attention(attn_mask=np.random.default_rng(1).standard_normal((512, 512)).astype("f")), "over 8"),
    "dropout": (lambda: attention(is_causal=True, dropout_p=0.2), "over 8"),
    "shared keys": (lambda: attention(2, 8, shared=4, is_causal=True), "over 16"),
    "padding": (with_padding, "over 16"),
    "by hand": (by_hand, "in 4 pieces"),
    "numbers added and trained": (with_a_bias_that_is_trained, "over 1 in 8 pieces"),
}


TIGHTER = {"numbers added and trained": 0.4}  # of the memory: to half of it there is a cheaper way


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_in_half_of_the_memory(kind: str) -> None:
    """Random numbers are the same bits; so is everything for any number of threads."""
    make, words = KINDS[kind]
    made = make()
    share = TIGHTER.get(kind, 0.6)
    whole, small = at_half(made, share)
    report = small.report()
    assert IN_BLOCKS in report and words in report, report
    assert small.specialize().memory.arena <= share * whole.specialize().memory.arena
    arrays, state = arrays_for(made[0]), whole.state_dict()
    wanted = [np.array(x) for x in whole(*arrays)]
    unit = np.finfo(wanted[0].dtype).eps
    found = []
    for threads in (2, 3, 1):
        program = graphc.function(*made, threads=threads, memory_budget=small.memory_budget)
        program.load_state_dict(state)
        found.append([np.array(x) for x in program(*arrays)])
    for a, *others in zip(wanted, *found, strict=True):
        assert np.abs(a - others[0]).max() <= 16 * unit * np.abs(a).max()
        assert all(np.array_equal(others[0], other) for other in others)


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_values_and_gradients_are_those_of_pytorch(backend: str) -> None:
    inputs, outputs = attention(1, 8, 384, is_causal=True)
    _, program = at_half((inputs, outputs), backend=backend)
    assert IN_BLOCKS in program.report()
    arrays = arrays_for(inputs)
    tensors = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    out = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
    (out ** 3).sum().backward()
    for value, wanted in zip(program(*arrays), (out, *(t.grad for t in tensors)), strict=True):
        wanted = wanted.detach().numpy()
        assert np.abs(value - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_model_trains_the_same_way() -> None:
    def trained(budget: int | None) -> tuple[list[float], str]:
        graphc.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        x = graphc.placeholder("x", (2, 512, 32))
        step = graphc.train_step((layer(x) ** 2).mean(), graphc.optim.AdamW(layer.parameters(), lr=0.01), threads=2,
                                 memory_budget=budget)
        value = np.random.default_rng(0).standard_normal((2, 512, 32)).astype(np.float32)
        return [float(step(value)) for _ in range(4)], step.report()

    plain, report = trained(None)
    assert IN_BLOCKS not in report
    small, report = trained(6 << 20)
    assert IN_BLOCKS in report
    assert np.allclose(plain, small, rtol=2e-5), (plain, small)


def test_what_would_take_very_much_is_in_blocks_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = attention(is_causal=True)
    assert IN_BLOCKS not in graphc.function(*made).report()
    monkeypatch.setattr(pipeline, "LARGE", 1)
    monkeypatch.setattr(blocks, "HUGE", 8 << 20)
    assert IN_BLOCKS in graphc.function(*made).report()
    monkeypatch.setattr(blocks, "HUGE", (8 << 20) + 1)
    assert IN_BLOCKS not in graphc.function(*made).report()


@pytest.mark.parametrize(("batch", "length", "features", "blocks"), [
    (2, 1024, 16, True), (1, 1024, 16, False), (2, 512, 16, False), (2, 1024, 80, False)])
def test_and_so_is_what_takes_no_longer_for_it(batch: int, length: int, features: int, blocks: bool) -> None:
    """Enough heads for many threads, enough bytes, and short sums to compute again."""
    q = graphc.placeholder("q", (batch, 8, length, features))
    out = F.scaled_dot_product_attention(q, q * 2.0, q + 1.0, is_causal=True)
    assert (IN_BLOCKS in graphc.function([q], out).report()) is blocks


def concrete(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Graph:
    passes = Pipeline()
    graph = Graph(tuple(i.node for i in inputs), tuple(o.node for o in outputs))
    return passes.concrete(passes.simplified(graph), {})


def left_whole() -> dict[str, Made]:
    q, k, v = (graphc.placeholder(name, (8, 512, 32)) for name in "qkv")
    scores = q @ k.transpose(-1, -2)
    weights = scores.softmax(-1)
    short = [graphc.placeholder(name, (8, 100, 32)) for name in "qkv"]
    wide = [graphc.placeholder(name, (8, 512, 300)) for name in "qkv"]
    return {
        "weights that are asked for": ([q, k, v], [weights @ v, weights]),
        "no fold": ([q, k, v], [scores.tanh() @ v]),
        "sorted rows": ([q, k, v], [graphc.sort(scores, -1)[0].softmax(-1) @ v, weights @ v]),
        "short": (short, [F.scaled_dot_product_attention(*short)]),
        "long sums": (wide, [F.scaled_dot_product_attention(*wide)]),
    }


@pytest.mark.parametrize("name", left_whole())
def test_other_values_stay_whole(name: str) -> None:
    graph = concrete(*left_whole()[name])
    assert blockwise(graph, asked=True) == (graph, "")


def test_each_layer_is_two_loops_with_what_the_second_needs_of_the_first() -> None:
    q, k, v = (graphc.placeholder(name, (8, 512, 32)) for name in "qkv")
    h = q
    for _ in range(2):
        h = F.scaled_dot_product_attention(h, k, v)
    graph, words = blockwise(concrete([q, k, v], [h, *graphc.grad((h * h).sum(), [q, k, v])]), asked=True)
    assert words.endswith("4 loops over 8")
    loops = [n for n in graph.nodes if n.op.kind is Kind.LOOP]
    assert len(loops) == 4
    assert all(t.size <= 8 * 512 * 32 for n in graph.nodes for t in n.types), "nothing is as large as scores"
    forward = [[t.shape for t in n.types] for n in loops[:2]]
    assert sorted(forward[0]) == [(8, 1, 512, 1), (8, 1, 512, 1), (8, 1, 512, 32)], "a result, maxima and sums"


def test_the_number_of_pieces() -> None:
    assert [pieces_of(rows, size << 20, 4 << 20) for rows, size in
            ((1024, 4), (1024, 5), (2048, 16), (4096, 64), (331, 100), (300, 100), (999, 100))] == [1, 2, 4, 8, 1, 2, 3]

