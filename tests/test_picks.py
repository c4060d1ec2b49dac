"""Single elements of lines, picked and placed: the same meaning, also for indices outside, and PyTorch's losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from graphc.passes.expand import expand_composites
from graphc.passes.picks import pick_single_elements
from graphc.runtime.interpreter import evaluate

import graphc
from graphc.ir import Graph
from graphc.op import Kind
from graphc.ops.indexing import gather, take_along_axis
from graphc.symbols import Tensor, placeholder

RNG = np.random.default_rng(3)
SHAPES = (((5, 7), 1), ((5, 7), 0), ((3, 4, 5), 1), ((9,), 0), ((2, 1, 3), 2))


def scores(x: Tensor, axis: int) -> Tensor:
    return x.log_softmax(axis)


PICKED: tuple[Callable[[Tensor, int], Tensor], ...] = (
    scores, lambda x, axis: graphc.exp(scores(x, axis)) * 3.0,
    lambda x, axis: graphc.where(x > 0, x, x - x.max(axis, keepdims=True)),
    lambda x, axis: x * 2.0 + 1.0, lambda x, axis: x * (x > x.mean(axis, keepdims=True)).astype(x.dtype))


@pytest.mark.parametrize("make", range(len(PICKED)))
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_picking_and_its_gradient_mean_the_same(shape: tuple[int, ...], axis: int, make: int) -> None:
    x = placeholder("x", shape, "float64")
    index = placeholder("i", tuple(1 if a == axis else s for a, s in enumerate(shape)), "int64")
    out = gather(PICKED[make](x, axis), axis, index)
    gradient = graphc.grad((graphc.where(out == out, out, 0.0) ** 2).sum(), x)
    graph = expand_composites(Graph((x.node, index.node), (out.node, gradient.node, gradient.sum(axis).node)))
    changed = pick_single_elements(graph)
    assert not any(n.op.kind is Kind.SCATTER for n in changed.nodes) or shape[axis] == 1
    values = RNG.standard_normal(shape)
    for places in (RNG.integers(0, shape[axis], index.shape), np.full(index.shape, shape[axis] - 1),
                   np.full(index.shape, -1), np.full(index.shape, (1 << 32) + 1), np.full(index.shape, shape[axis])):
        feeds = dict(zip(graph.inputs, (values, places.astype(np.int64)), strict=True))
        for a, b in zip(evaluate(list(changed.roots), feeds), evaluate(list(graph.roots), feeds), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize(("rows", "classes"), [(3, 2), (33, 10), (7, 97), (40, 64), (5, 1023), (2, 9000)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_is_pytorchs(rows: int, classes: int, dtype: str, backend: str) -> None:
    logits = (4 * RNG.standard_normal((rows, classes))).astype(dtype)
    labels = RNG.integers(0, classes, rows)
    labels[0] = -100  # ignored
    weight = RNG.uniform(0.5, 2.0, classes).astype(dtype)
    x, y = placeholder("x", logits.shape, dtype), placeholder("y", labels.shape, "int64")
    w = placeholder("w", weight.shape, dtype)
    theirs = torch.tensor(logits, requires_grad=True)
    tolerance = 1e-10 if dtype == "float64" else 2e-5
    for weighted in (False, True):
        for smoothing in (0.0, 0.1):
            loss = graphc.nn.functional.cross_entropy(x, y, w if weighted else None, label_smoothing=smoothing)
            feeds = {"x": logits, "y": labels, **({"w": weight} if weighted else {})}
            inputs = [x, y, *([w] if weighted else [])]
            found = graphc.function(inputs, [loss, graphc.grad(loss, x)], backend=backend)(**feeds)
            right = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels), torch.tensor(weight) if weighted else None,
                                                      label_smoothing=smoothing)
            gradient, = torch.autograd.grad(right, theirs)
            np.testing.assert_allclose(found[0], right.detach().numpy(), rtol=tolerance)
            np.testing.assert_allclose(found[1], gradient.numpy(), rtol=tolerance, atol=tolerance / rows)


def test_loss_and_gradient_have_the_same_bits_for_any_number_of_threads() -> None:
    found = []
    for threads in (1, 2, 3):
        generator = np.random.default_rng(1)
        x = graphc.state("x", generator.standard_normal((3001, 37)), "float32")
        y = graphc.constant(generator.integers(0, 37, 3001))
        loss = graphc.nn.functional.cross_entropy(x, y)
        step = graphc.function([], loss, updates={x: x - 100.0 * graphc.grad(loss, x)}, threads=threads)
        losses = step.run(3)
        found.append((losses.tobytes(), x.numpy().tobytes()))
    assert found[0] == found[1] == found[2]


def test_take_along_axis_with_one_index_wraps_as_numpy_does() -> None:
    x, i = placeholder("x", (4, 6)), placeholder("i", (4, 1), "int64")
    out = take_along_axis(x.softmax(1), i, 1)
    values, places = RNG.standard_normal((4, 6)).astype(np.float32), np.array([[0], [-1], [5], [-6]])
    probability = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    np.testing.assert_allclose(graphc.function([x, i], out)(x=values, i=places), np.take_along_axis(probability, places, 1),
                               rtol=1e-5)


@pytest.mark.parametrize("depth", [30, 400])
def test_long_chains_are_looked_at_a_few_maps_deep(depth: int) -> None:
    """An element of a chain of maps, each of which reads the one before twice: neither 2**depth steps nor as deep a stack."""
    x, index = placeholder("x", (4, 6), "float64"), placeholder("i", (4, 1), "int64")
    y = x
    for _ in range(depth):
        y = y * (y + 1.0) * 0.5
    program = graphc.function([x, index], gather(y, 1, index), backend="numpy")
    np.testing.assert_array_equal(program(np.ones((4, 6)), np.full((4, 1), 5)), np.ones((4, 1)))
