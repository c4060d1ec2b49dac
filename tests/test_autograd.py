"""`autograd.grad` and `utils.checkpoint` as programs for PyTorch call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn

from .torch_oracle import LOOSE

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))

CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {  # library, x, y -> what autograd gives
    "a scalar": lambda m, x, y: m.autograd.grad((x * y).exp().sum(), x),
    "several inputs": lambda m, x, y: m.autograd.grad(outputs=(x * y).sin().sum(), inputs=[x, y]),
    "a cotangent": lambda m, x, y: m.autograd.grad(x * y, (x,), grad_outputs=m.ones_like(x)),
    "several outputs": lambda m, x, y: m.autograd.grad([x * y, (x ** 2).sum()], [x, y], [y, None]),
    "an intermediate": lambda m, x, y: [m.autograd.grad((z := x * y).tanh().sum(), z)[0]],
    "of a gradient": lambda m, x, y: m.autograd.grad(
        (m.autograd.grad((x ** 3 * y).sum(), x, create_graph=True)[0] ** 2).sum(), [x, y]),
    "retained": lambda m, x, y: [m.autograd.grad((x * y).sum(), x, retain_graph=True)[0]],
    "a penalty that is a constant": lambda m, x, y: m.autograd.grad(
        (m.autograd.grad((x ** 3).sum(), x, retain_graph=True)[0] * x * y).sum(), [x, y]),
    "unused": lambda m, x, y: [m.autograd.grad(x.sum(), [x, y], allow_unused=True)[0]],
    "zeros": lambda m, x, y: m.autograd.grad(x.exp().sum(), [x, y], allow_unused=True, materialize_grads=True),
    "one element": lambda m, x, y: m.autograd.grad((x * y).sum().reshape(1, 1), x),
}


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_pytorchs(name: str, backend: str) -> None:
    x, y = graphc.placeholder("x", X.shape, "float64"), graphc.placeholder("y", Y.shape, "float64")
    found = CALLS[name](graphc, x, y)
    wanted = CALLS[name](torch, torch.tensor(X, requires_grad=True), torch.tensor(Y, requires_grad=True))
    assert isinstance(found, (tuple, list)) and len(found) == len(wanted)
    for value, reference in zip(graphc.function([x, y], list(found), backend=backend)(X, Y), wanted, strict=True):
        np.testing.assert_allclose(value, reference.detach().numpy(), rtol=LOOSE["float64"], atol=LOOSE["float64"])


def test_none_for_what_is_not_used() -> None:
    x, y = graphc.placeholder("x", (3,)), graphc.placeholder("y", (3,))
    assert graphc.autograd.grad(x.sum(), [y], allow_unused=True) == (None,)
    assert graphc.autograd.grad((x * y.detach()).sum(), y, allow_unused=True) == (None,)


@pytest.mark.parametrize(("wrong", "error", "words"), [
    (lambda x, y: graphc.autograd.grad(x.sum(), y), graphc.GraphError, "does not depend on .y.; leave it out, or pass"),
    (lambda x, y: graphc.autograd.grad(x * y, x), graphc.ShapeError, "is no scalar: give grad_outputs"),
    (lambda x, y: graphc.autograd.grad(x * y, x, x.sum()), graphc.ShapeError, "its cotangent f32"),
    (lambda x, y: graphc.autograd.grad([x, y], x, [x]), graphc.GraphError, "2 outputs and 1 grad_outputs"),
    (lambda x, y: graphc.autograd.grad(x.argmax(), x), graphc.DTypeError, "floating symbols"),
    (lambda x, y: graphc.autograd.grad(x.sum(), x, is_grads_batched=True), graphc.GraphError, "jacobian")])
def test_what_has_no_gradient_is_told(wrong: Callable[[Any, Any], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        wrong(graphc.placeholder("x", (3,)), graphc.placeholder("y", (3,)))


# -- checkpoints ---------------------------------------------------------------------------------------------------------


def layers(m: Any) -> Any:
    return m.Sequential(m.Linear(4, 8), m.Tanh(), m.BatchNorm1d(8), m.Linear(8, 4), m.Tanh(), m.Linear(4, 2))


WAYS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "checkpoint": lambda u, model, x, y: u.checkpoint(model, x, use_reentrant=False),
    "with keywords": lambda u, model, x, y: u.checkpoint(
        lambda a, *, b: model(a) * b.sum(), x, b=y, use_reentrant=False, preserve_rng_state=False, determinism_check="none"),
    "sequential": lambda u, model, x, y: u.checkpoint_sequential(model, 3, x, use_reentrant=False),
    "one segment": lambda u, model, x, y: u.checkpoint_sequential(list(model), 1, x, use_reentrant=False),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_checkpoint_gives_what_a_plain_call_gives(name: str) -> None:
    from torch.utils import checkpoint as theirs

    mine, other = layers(nn).double(), layers(torch.nn).double()
    mine.load_state_dict(other.state_dict())
    x, y = graphc.placeholder("x", X.shape, "float64"), graphc.placeholder("y", Y.shape, "float64")
    out = WAYS[name](graphc.utils.checkpoint, mine, x, y)
    wrt = [x, *mine.parameters()]
    got = graphc.function([x, y], [out, *graphc.grad((out ** 2).sum(), wrt)])(X, Y)
    given = torch.tensor(X, requires_grad=True)
    wanted = WAYS[name](theirs, other, given, torch.tensor(Y))
    gradients = torch.autograd.grad((wanted ** 2).sum(), [given, *other.parameters()])
    for value, reference in zip(got, [wanted, *gradients], strict=True):
        np.testing.assert_allclose(value, reference.detach().numpy(), rtol=1e-8, atol=1e-8)


def test_segments_are_as_many_as_functions_at_most() -> None:
    with pytest.raises(graphc.GraphError, match="4 segments of 2 functions"):
        graphc.utils.checkpoint.checkpoint_sequential([abs, abs], 4, graphc.placeholder("x", (3,)))
