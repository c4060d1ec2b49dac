"""`max` and `min` along an axis: values as an operand, PyTorch's pair by name, by unpacking and with `dim=`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn, optim

from .torch_oracle import assert_agrees

rng = np.random.default_rng(0)
X = rng.integers(-3, 3, (4, 5, 2)).astype(np.float64)  # with ties, whose gradient tells who was chosen
TWO = rng.standard_normal((2, 2))  # rows as many as a pair has
NAN = np.where(rng.uniform(size=(4, 6)) < 0.2, np.nan, rng.standard_normal((4, 6)))


def unpacked(pair: Any) -> tuple[Any, Any]:
    values, indices = pair
    return values, indices


PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "unpacked": lambda m, x: unpacked(x.max(1)), "unpacked by dim": lambda m, x: unpacked(m.max(x, dim=-1)),
    "unpacked and kept": lambda m, x: unpacked(x.min(1, True)), "unpacked by function": lambda m, x: unpacked(m.min(x, 0)),
    "named": lambda m, x: (x.max(1).values, x.max(1).indices), "named, least": lambda m, x: (x.min(0).values, x.min(0).indices),
    "in brackets": lambda m, x: (x.max(dim=1)[0], x.max(dim=1)[1]), "from the end": lambda m, x: m.min(x, dim=0)[-1],
    "kept": lambda m, x: m.max(x, -1, keepdim=True)[0], "kept positions": lambda m, x: x.min(1, keepdim=True)[1],
    "used": lambda m, x: x * x.max(dim=1, keepdim=True)[0] + x.max(1, keepdim=True).values.exp(),
    "pooled": lambda m, x: m.max(x, dim=0, keepdim=True)[0].reshape(-1) ** 2,
    "without gradients": lambda m, x: x * in_no_grad(m, lambda: x.max(1, keepdim=True)).values,
    "detached": lambda m, x: x * x.max(1, keepdim=True)[0].detach(),
}


def in_no_grad(lib: Any, made: Callable[[], Any]) -> Any:
    with lib.no_grad():
        return made()


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("array", [X, TWO, NAN], ids=["ties", "two rows", "NaN"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_pair_is_pytorchs(name: str, array: np.ndarray, backend: str) -> None:
    def of(lib: Any) -> Callable[[Any], Any]:
        return lambda x: PAIRS[name](lib, x)

    assert_agrees(of(graphc), of(torch), [array], "float64", backend=backend)


def test_of_a_vector_a_number_in_brackets_is_of_the_pair() -> None:
    assert_agrees(lambda x: (x.max(0)[0], x.max(0)[1], *x.min(0)), lambda x: (x.max(0)[0], x.max(0)[1], *x.min(0)),
                  [X[:, 0, 0]], "float64")


@pytest.mark.parametrize("by", [lambda x: x.max(1), lambda x: x.max(dim=1), lambda x: x.max(axis=1),
                                lambda x: graphc.max(x, 1)])
def test_as_an_operand_it_is_the_values(by: Callable[[Any], Any]) -> None:
    assert_agrees(lambda x: by(x) * 2 + 1, lambda x: x.amax(1) * 2 + 1, [X], "float64")
    assert_agrees(lambda x: (by(x)[:, None], by(x)[..., 0], by(x)[1:], by(x).sum(0)),
                  lambda x: (x.amax(1)[:, None], x.amax(1)[..., 0], x.amax(1)[1:], x.amax(1).sum(0)), [X], "float64")


def test_by_axis_it_is_numpys_alone() -> None:
    x = graphc.constant(TWO)
    first, second = x.max(axis=1)
    np.testing.assert_array_equal([first.eval(), second.eval(), x.min(axis=0, keepdims=True)[0, 1].eval()],
                                  [*TWO.max(1), TWO.min(0)[1]])
    np.testing.assert_array_equal(graphc.max(x, axis=1)[0].eval(), TWO.max(1)[0])
    np.testing.assert_array_equal(x.max(axis=1).indices.eval(), TWO.argmax(1))
    assert x.max().shape == x.max(axis=(0, 1)).shape == () and x.max([0, 1], True).shape == (1, 1)


@pytest.mark.parametrize(("wrong", "error", "words"), [
    (lambda x: x.max(1)[0], graphc.GraphError, r"\.values or \.indices, max\(dim=\.\.\.\)\[0\] or max\(axis=\.\.\.\)\[0\]"),
    (lambda x: graphc.min(x, 1, True)[-1], graphc.GraphError, "one of PyTorch's pair, or an element"),
    (lambda x: x.max(dim=1)[2], graphc.ShapeError, r"a pair, \(values, indices\); there is no \[2\]"),
    (lambda x: x.max(axis=1, dim=1), graphc.GraphError, "axis or dim, not both"),
    (lambda x: x.max(1, True, keepdim=True), graphc.GraphError, "keepdims or keepdim, not both"),
    (lambda x: x.max(1, along=2), TypeError, "unexpected argument 'along'"), (lambda x: x.max(5), graphc.ShapeError, "axis 5"),
    (lambda x: x.max(0, True, 1), TypeError, "an axis and keepdim"),
    (lambda x: x.max().values, AttributeError, r"x\.max\(dim=1\)\.values"),
    (lambda x: (x * 2).indices, AttributeError, r"x\.argmax\(\)")])
def test_what_could_mean_two_things_is_refused(wrong: Callable[[Any], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        wrong(graphc.placeholder("x", (3, 4)))


def test_both_extremes_by_name() -> None:
    def both(x: Any) -> Any:
        return x.aminmax(dim=1).min, x.aminmax(dim=1).max

    assert_agrees(both, both, [TWO], "float64")


def test_two_tensors() -> None:
    for lib in (graphc.max, graphc.min):
        x, y = graphc.constant(TWO), graphc.constant(-TWO)
        assert lib(x, other=y).node is lib(x, y).node
    assert graphc.max(graphc.constant(TWO), np.zeros((2, 2))).eval().min() >= 0


def test_an_open_batch_and_a_loop() -> None:
    x = graphc.placeholder("x", ("B", 3))
    _, predicted = x.max(1)
    assert len(list(x.max(1))) == len(x.max(1)) == 2
    best = graphc.scan(lambda carry, row: (carry + row.max(dim=0)[0], row.max(0).indices), graphc.constant(0.0), x)
    got = graphc.function([x], [predicted, best[0], best[1]])(TWO := rng.standard_normal((7, 3)).astype(np.float32))
    np.testing.assert_array_equal(got[0], TWO.argmax(1))
    np.testing.assert_array_equal(got[2], TWO.argmax(1))
    np.testing.assert_allclose(got[1], TWO.max(1).sum(), rtol=1e-6)


def test_accuracy_of_a_classifier_as_it_is_written() -> None:
    model = nn.Linear(4, 3)
    x, labels = graphc.placeholder("x", ("B", 4)), graphc.placeholder("labels", ("B",), "int64")
    logits = model(x)
    _, predicted = graphc.max(logits.detach(), 1)
    loss = nn.functional.cross_entropy(logits, labels)
    step = graphc.train_step(loss, optim.SGD(model.parameters(), lr=0.1),
                             outputs={"correct": (predicted == labels).sum()})
    a, b = rng.standard_normal((8, 4)).astype(np.float32), rng.integers(0, 3, 8)
    wanted = (model(a).argmax(1) == b).sum()
    assert step(x=a, labels=b)[1]["correct"] == wanted


MODES = rng.integers(0, 4, (5, 7, 3)).astype(np.float64)


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_modes(backend: str) -> None:
    def each(x: Any) -> Any:
        return (*x.mode(1), *x.mode(), x.mode(dim=0, keepdim=True).values, x.mode(0, True).indices, *x[0, 0, :1].mode(0))

    assert_agrees(each, each, [MODES], "float64", backend=backend)
    with pytest.raises(graphc.ShapeError, match="mode: no elements"):
        graphc.zeros(2, 0).mode(1)
