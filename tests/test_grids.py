"""Sampling by grids: values and gradients against PyTorch, at the borders and far outside of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn

from .torch_oracle import assert_agrees

F, T = nn.functional, torch.nn.functional
rng = np.random.default_rng(0)
IMAGE, GRID = rng.standard_normal((2, 3, 5, 7)), rng.uniform(-1.7, 1.7, (2, 4, 6, 2))
FAR = np.concatenate([GRID[:, :2] * 4, GRID[:, 2:] / 3], 1)
VOLUME, PLACES = rng.standard_normal((2, 2, 3, 4, 5)), rng.uniform(-1.6, 1.6, (2, 2, 3, 4, 3))


@pytest.mark.parametrize("align_corners", [False, True, None])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("grid", [GRID, FAR], ids=["near", "far"])
def test_images(grid: np.ndarray, mode: str, padding: str, align_corners: bool | None) -> None:
    for backend in ("native", "numpy"):
        assert_agrees(lambda x, g: F.grid_sample(x, g, mode, padding, align_corners),
                      lambda x, g: T.grid_sample(x, g, mode, padding, bool(align_corners)), [IMAGE, grid], "float64",
                      backend=backend)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_volumes(mode: str, padding: str, align_corners: bool) -> None:
    assert_agrees(lambda x, g: F.grid_sample(x, g, mode=mode, padding_mode=padding, align_corners=align_corners),
                  lambda x, g: T.grid_sample(x, g, mode=mode, padding_mode=padding, align_corners=align_corners),
                  [VOLUME, PLACES], "float64")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_single_precision_and_images_of_one_row(padding: str, align_corners: bool) -> None:
    for image in (IMAGE, IMAGE[:, :, :1], IMAGE[:, :, :, :1]):
        assert_agrees(lambda x, g: F.grid_sample(x, g, padding_mode=padding, align_corners=align_corners),
                      lambda x, g: T.grid_sample(x, g, padding_mode=padding, align_corners=align_corners), [image, GRID],
                      "float32", loose=3.0)


def test_what_is_outside_reads_nothing_of_infinities() -> None:
    image = np.full((1, 1, 2, 2), np.inf)
    grid = np.array([[[[-3.0, 0.0], [0.0, 9.0]]]])
    assert_agrees(F.grid_sample, lambda x, g: T.grid_sample(x, g, align_corners=False), [image, grid], "float64",
                  gradient=False)


@pytest.mark.parametrize("align_corners", [False, True, None])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 1, 3), (2, 3, 2, 4, 3)])
def test_affine_grids(size: tuple[int, ...], align_corners: bool | None) -> None:
    n = len(size) - 2
    told: AbstractContextManager[Any] = nullcontext()
    if align_corners and 1 in size[2:]:  # PyTorch places the one pixel elsewhere than its oldest versions did
        told = pytest.warns(UserWarning, match="unit-size grids")
    with told:
        assert_agrees(lambda t: F.affine_grid(t, size, align_corners),
                      lambda t: T.affine_grid(t, list(size), bool(align_corners)),
                      [rng.standard_normal((2, n, n + 1))], "float64")


def test_a_spatial_transformer_with_an_open_batch() -> None:
    theta, x = graphc.placeholder("theta", ("B", 2, 3)), graphc.placeholder("x", ("B", 3, 5, 7))
    out = F.grid_sample(x, F.affine_grid(theta, x.shape))
    maps = rng.standard_normal((2, 2, 3)).astype(np.float32) / 2
    image = IMAGE.astype(np.float32)
    got = graphc.function([theta, x], [out, graphc.grad((out ** 2).sum(), theta)])(maps, image)
    given = torch.tensor(maps, requires_grad=True)
    wanted = T.grid_sample(torch.tensor(image), T.affine_grid(given, list(image.shape), False), align_corners=False)
    (slope,) = torch.autograd.grad((wanted ** 2).sum(), given)
    np.testing.assert_allclose(got[0], wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], slope.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("wrong", "error", "words"), [
    (lambda x, g: F.grid_sample(x, g[:1]), graphc.ShapeError, r"takes \[N, C, H, W\] and a grid \[N, h, w, 2\]"),
    (lambda x, g: F.grid_sample(x, g.double()), graphc.DTypeError, "of one floating dtype"),
    (lambda x, g: F.grid_sample(x, g, "linear"), graphc.GraphError, "mode is bilinear, nearest or"),
    (lambda x, g: F.grid_sample(x, g, padding_mode="wrap"), graphc.GraphError, "zeros, border, reflection; got"),
    (lambda x, g: F.grid_sample(graphc.placeholder("o", (2, 3, "H", 7)), g), graphc.ShapeError, "positions must be known"),
    (lambda x, g: F.affine_grid(g, (2, 3, 5, 7)), graphc.ShapeError, r"affine_grid takes \[N, 2, 3\]")])
def test_what_does_not_fit_is_told(wrong: Callable[[Any, Any], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        wrong(graphc.placeholder("x", (2, 3, 5, 7)), graphc.placeholder("g", (2, 4, 6, 2)))
