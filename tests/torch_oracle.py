"""PyTorch as an oracle: values, dtypes, shapes and gradients of one function against another's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import graphc

LOOSE = {"float32": 3e-5, "float64": 1e-10}


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def assert_agrees(ours: Callable[..., Any], theirs: Callable[..., Any], arrays: Sequence[np.ndarray], dtype: str, *,
                  gradient: bool = True, backend: str = "native", loose: float = 1.0) -> None:
    """Values and (of floating results) gradients along one random direction; floating arrays become `dtype`.

    Either function may give several results.  loose: a factor on the bounds, for what is badly conditioned.
    """
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
    symbols = [graphc.placeholder(f"x{k}", a.shape, a.dtype.name) for k, a in enumerate(arrays)]
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    outs, expected = as_list(ours(*symbols)), as_list(theirs(*tensors))
    assert len(outs) == len(expected)
    for out, reference in zip(outs, expected, strict=True):
        assert out.shape == tuple(reference.shape)
        assert out.dtype.name == str(reference.dtype).removeprefix("torch.")
    moved = [k for k, a in enumerate(arrays) if a.dtype.kind == "f"]
    found: list[Any] = []
    wanted: list[np.ndarray] = []
    for out, reference in zip(outs, expected, strict=True):
        if not gradient or not out.dtype.is_float or not reference.requires_grad:
            continue
        projection = np.random.default_rng(1).normal(size=out.shape).astype(dtype)
        gradients = torch.autograd.grad(reference, [tensors[k] for k in moved], torch.tensor(projection),
                                        allow_unused=True, retain_graph=True)
        wanted += [np.zeros(arrays[k].shape, dtype) if g is None else g.numpy() for g, k in zip(gradients, moved, strict=True)]
        found += graphc.vjp(out, [symbols[k] for k in moved], projection)
    got = graphc.function(symbols, [*outs, *found], backend=backend)(*arrays)
    for mine, reference in zip(got, [*(e.detach().numpy() for e in expected), *wanted], strict=True):
        if reference.dtype.kind != "f":
            np.testing.assert_array_equal(mine, reference)
            continue
        scale = max(1.0, float(np.abs(reference[np.isfinite(reference)]).max(initial=0.0)))
        np.testing.assert_allclose(mine, reference, rtol=loose * LOOSE[dtype], atol=loose * LOOSE[dtype] * scale)


__all__ = ["LOOSE", "as_list", "assert_agrees"]
