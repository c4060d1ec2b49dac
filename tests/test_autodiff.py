"""grad, vjp, jvp, hvp, hessian and jacobian against PyTorch's, to the third order, on both backends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphc

G = np.random.default_rng(0)
A, X, V = G.standard_normal((4, 3)), G.standard_normal((5, 4)), G.standard_normal((4, 3))
CT = G.standard_normal((5, 3))


def ours(w: graphc.Tensor, x: graphc.Tensor) -> graphc.Tensor:
    return (x @ w).tanh() * graphc.exp(w.sum(0) * 0.1)


def theirs(w: torch.Tensor) -> torch.Tensor:
    return torch.tanh(torch.from_numpy(X) @ w) * torch.exp(w.sum(0) * 0.1)


def value(tensors: graphc.Tensor | list[graphc.Tensor], x: graphc.Tensor, backend: str) -> list[np.ndarray]:
    many = tensors if isinstance(tensors, list) else [tensors]
    return graphc.function([x], many, backend=backend)(X)


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_products_with_jacobians(backend: str) -> None:
    x = graphc.placeholder("x", (5, 4), "float64")
    w = graphc.parameter("w", A, "float64")
    out = ours(w, x)
    tw = torch.from_numpy(A)
    _, jvp = torch.func.jvp(theirs, (tw,), (torch.from_numpy(V),))
    np.testing.assert_allclose(value(graphc.jvp(out, [w], [V]), x, backend)[0], jvp, rtol=1e-10)
    (vjp,) = torch.func.vjp(theirs, tw)[1](torch.from_numpy(CT))
    np.testing.assert_allclose(value(graphc.vjp(out, [w], CT), x, backend)[0], vjp, rtol=1e-10)
    np.testing.assert_allclose(value(graphc.jacobian(out, w), x, backend)[0], torch.func.jacrev(theirs)(tw), rtol=1e-9,
                               atol=1e-14)


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_second_and_third_order(backend: str) -> None:
    x = graphc.placeholder("x", (5, 4), "float64")
    w = graphc.parameter("w", A, "float64")
    loss = (ours(w, x) ** 2).sum()
    tw = torch.from_numpy(A).requires_grad_()
    reference = (theirs(tw) ** 2).sum()
    (first,) = torch.autograd.grad(reference, tw, create_graph=True)
    (second,) = torch.autograd.grad((first * torch.from_numpy(V)).sum(), tw, create_graph=True)
    (third,) = torch.autograd.grad((second**2).sum(), tw)
    g = graphc.grad(loss, w)
    h = graphc.hvp(loss, [w], [V])[0]
    t = graphc.grad((h**2).sum(), w)
    for got, wanted in zip(value([g, h, t], x, backend), (first, second, third), strict=True):
        np.testing.assert_allclose(got, wanted.detach(), rtol=1e-9)
    hessian = torch.func.hessian(lambda v: (theirs(v) ** 2).sum())(torch.from_numpy(A))
    np.testing.assert_allclose(value(graphc.hessian(loss, w), x, backend)[0], hessian, rtol=1e-8, atol=1e-12)
    assert graphc.hessian(loss, w).shape == (4, 3, 4, 3)


def test_directions_must_fit() -> None:
    x = graphc.placeholder("x", (3,))
    with pytest.raises(graphc.ShapeError, match="a direction of"):
        graphc.jvp(x * 2, [x], [np.ones(4)])
    with pytest.raises(graphc.GraphError, match="1 tensors but 2 directions"):
        graphc.hvp((x**2).sum(), [x], [x, x])


def test_gradients_of_intermediate_symbols_and_shared_paths() -> None:
    x = graphc.placeholder("x", (3,))
    h = x * x
    out = (h * h + h).sum()
    by_h, by_x = graphc.function([x], graphc.grad(out, [h, x]))([1, 2, 3])
    assert by_h.tolist() == [3, 9, 19] and by_x.tolist() == [6, 36, 114]
