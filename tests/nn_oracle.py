"""PyTorch as the oracle for losses, activations and layers: values and gradients of the same call in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from graphc.runtime.interpreter import evaluate

import graphc

TOLERANCE = {"float64": {"rtol": 1e-10, "atol": 1e-12}, "float32": {"rtol": 2e-4, "atol": 2e-5}}
torch.set_num_threads(1)


@dataclass(frozen=True)
class Fixed:
    """An operand that is not differentiated: a target for which PyTorch has no gradient, or NaN."""

    value: np.ndarray


def arrays_of(*shapes: Any, seed: int = 0, dtype: str = "float64") -> list[np.ndarray]:
    """Normally distributed arrays of these shapes; an array is passed on, converted where it is floating."""
    random = np.random.default_rng(seed)
    given = [random.normal(size=s) if isinstance(s, tuple) else np.asarray(s) for s in shapes]
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in given]


def flat(value: Any) -> list[Any]:
    """The tensors inside nested tuples, in order; None left out."""
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in flat(part)]
    return [] if value is None else [value]


def run(inputs: Sequence[graphc.Tensor], roots: Sequence[graphc.Tensor], arrays: Sequence[np.ndarray],
        backend: str = "interpreter") -> list[np.ndarray]:
    """The values of the roots, by the interpreter on the graph as it is, or through a compiled program."""
    if backend == "interpreter":
        return evaluate([r.node for r in roots], dict(zip([i.node for i in inputs], arrays, strict=True)))
    return graphc.function(list(inputs), list(roots), backend=backend)(*arrays)


def projection(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 1000).normal(size=shape)


def ours(function: Callable[..., Any], arrays: Sequence[np.ndarray], parameters: Sequence[graphc.Parameter] = (),
         backend: str = "interpreter") -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Results, and gradients of a random projection of them, by graphc."""
    inputs = [graphc.placeholder(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    results = [r for r in flat(function(*inputs))]
    floating = [r for r in results if r.dtype.is_float]
    total = sum((r * projection(r.shape, k).astype(r.dtype.name)).sum() for k, r in enumerate(floating))
    targets = [x for x in inputs if x.dtype.is_float] + list(parameters)
    gradients = graphc.grad(total, targets, allow_unused=True)
    values = run(inputs, [*results, *gradients], arrays, backend)
    return list(values[:len(results)]), list(values[len(results):])


def theirs(function: Callable[..., Any], arrays: Sequence[np.ndarray], parameters: Sequence[torch.Tensor] = ()
           ) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same by PyTorch."""
    inputs = [torch.tensor(a) for a in arrays]
    for x in inputs:
        x.requires_grad_(x.is_floating_point())
    results = flat(function(*inputs))
    floating = [r for r in results if r.is_floating_point()]
    total = sum((r * torch.tensor(projection(tuple(r.shape), k)).to(r.dtype)).sum() for k, r in enumerate(floating))
    targets = [x for x in inputs if x.is_floating_point()] + list(parameters)
    gradients = torch.autograd.grad(total, targets, allow_unused=True)
    zeros = [torch.zeros_like(t) if g is None else g for t, g in zip(targets, gradients, strict=True)]
    return [r.detach().numpy() for r in results], [g.detach().numpy() for g in zeros]


def agree(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], tolerance: dict[str, float], what: str) -> None:
    assert len(got) == len(wanted), f"{what}: {len(got)} results, {len(wanted)} wanted"
    for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.shape == b.shape, f"{what} {k}: shape {a.shape}, wanted {b.shape}"
        np.testing.assert_allclose(a, b, tolerance["rtol"], tolerance["atol"], True, f"{what} {k}")


def compare(function: Callable[..., Any], reference: Callable[..., Any], *shapes: Any, dtype: str = "float64",
            seed: int = 0, backend: str = "interpreter", tolerance: dict[str, float] | None = None) -> None:
    """Values and input gradients of two functions agree on the same arrays; `Fixed` operands come last."""
    fixed = arrays_of(*(s.value for s in shapes if isinstance(s, Fixed)), dtype=dtype)
    arrays = arrays_of(*(s for s in shapes if not isinstance(s, Fixed)), seed=seed, dtype=dtype)
    bound = tolerance or TOLERANCE[dtype]
    got = ours(lambda *xs: function(*xs, *fixed), arrays, backend=backend)
    wanted = theirs(lambda *xs: reference(*xs, *map(torch.tensor, fixed)), arrays)
    agree(got[0], wanted[0], bound, "value")
    agree(got[1], wanted[1], bound, "gradient")


def compare_modules(module: graphc.nn.Module, reference: torch.nn.Module, *shapes: Any, dtype: str = "float64",
                    seed: int = 0, backend: str = "interpreter", tolerance: dict[str, float] | None = None,
                    call: Callable[[Any, Any], Any] = lambda m, xs: m(*xs)) -> None:
    """Values, input and weight gradients of two modules agree, the weights exchanged through state_dict."""
    module.to(dtype)
    reference.to(getattr(torch, dtype))
    randomize(reference, seed)
    module.load_state_dict(reference.state_dict())
    arrays = arrays_of(*shapes, seed=seed, dtype=dtype)
    bound = tolerance or TOLERANCE[dtype]
    names = dict(module.named_parameters())
    wanted_names = dict(reference.named_parameters())
    assert list(names) == list(wanted_names)
    got = ours(lambda *xs: call(module, xs), arrays, list(names.values()), backend)
    wanted = theirs(lambda *xs: call(reference, xs), arrays, list(wanted_names.values()))
    agree(got[0], wanted[0], bound, "value")
    agree(got[1], wanted[1], bound, "gradient")


def randomize(reference: torch.nn.Module, seed: int) -> None:
    """Parameters that start at 0 or 1 would hide mistakes: all get random values."""
    random = np.random.default_rng(seed + 7)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.tensor(random.normal(size=tuple(parameter.shape)) * 0.5))
