"""Multilayer perceptrons: where call overhead, fused loops and plain matrix products decide."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .. import numpy_layers as plain
from ..workload import Arrays, Optimizer, Shapes, Workload


def mlp(name: str, title: str, sizes: tuple[int, ...], batch: int, activation: str, loss: str, optimizer: Optimizer
        ) -> Workload:
    """A perceptron; the tutorial's has neither bias nor activation.

    activation  ReLU, Tanh or GELU (by tanh)
    loss        sum (of squares), mse, cross_entropy
    """
    bias = len(sizes) > 2
    names = [str(2 * k) for k in range(len(sizes) - 1)]  # nn.Sequential counts the activations too
    pairs = list(pairwise(sizes))

    shapes: Shapes = {}
    for n, (inputs, outputs) in zip(names, pairs, strict=True):
        shapes |= {f"{n}.weight": (outputs, inputs)} | ({f"{n}.bias": (outputs,)} if bias else {})

    def data(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = g.standard_normal((batch, sizes[0])).astype(np.float32)
        return x, g.integers(0, sizes[-1], batch) if loss == "cross_entropy" else \
            g.standard_normal((batch, sizes[-1])).astype(np.float32)

    def model(lib: Any) -> Any:
        nn, layers = lib.nn, []
        for k, (inputs, outputs) in enumerate(pairs):
            layers.append(nn.Linear(inputs, outputs, bias=bias))
            if k < len(pairs) - 1:
                layers.append(nn.GELU(approximate="tanh") if activation == "GELU" else getattr(nn, activation)())
        return nn.Sequential(*layers)

    def loss_of(lib: Any, module: Any, x: Any, y: Any) -> Any:
        f = lib.nn.functional
        if loss == "cross_entropy":
            return f.cross_entropy(module(x), y)
        return f.mse_loss(module(x), y, reduction="sum" if loss == "sum" else "mean")

    def in_jax(p: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        import jax
        import jax.numpy as jnp

        from .. import jax_layers as layers

        act = {"Tanh": jnp.tanh, "ReLU": jax.nn.relu, "GELU": jax.nn.gelu, "": None}[activation]
        h = x
        for n in names:
            h = h @ p[f"{n}.weight"] + p[f"{n}.bias"] if bias else h @ p[f"{n}.weight"]
            h = h if n == names[-1] else act(h)
        if loss == "cross_entropy":
            return layers.cross_entropy(h, y), {}
        squares = (h - y) ** 2
        return (squares.sum() if loss == "sum" else squares.mean()), {}

    def in_numpy(p: Arrays, x: np.ndarray, y: np.ndarray) -> tuple[float, Arrays]:
        hidden, kept = [x], []
        for n in names:
            z = hidden[-1] @ p[f"{n}.weight"]
            if bias:
                z += p[f"{n}.bias"]
            kept.append(z)
            hidden.append(z if n == names[-1] else plain.FORWARD[activation](z))
        value, g = plain.LOSSES[loss](hidden[-1], y)
        gradients: Arrays = {}
        for k in range(len(names) - 1, -1, -1):
            gradients[f"{names[k]}.weight"] = hidden[k].T @ g
            if bias:
                gradients[f"{names[k]}.bias"] = g.sum(0)
            if k:
                g = plain.BACKWARD[activation](g @ p[f"{names[k]}.weight"].T, kept[k - 1], hidden[k])
        return value, gradients

    products = sum(a * b for a, b in pairs)
    return Workload(name, title, shapes, data, model, loss_of, optimizer, 2 * batch * (3 * products - sizes[0] * sizes[1]),
                    jax=in_jax, numpy=in_numpy)


WORKLOADS = (
    mlp("tutorial", "tutorial 2-1, batch 4, SGD", (2, 1), 4, "", "sum", Optimizer("SGD", 0.01)),
    mlp("mlp8", "MLP 8-64-64-2 tanh, batch 256, Adam", (8, 64, 64, 2), 256, "Tanh", "mse", Optimizer("Adam", 1e-3)),
    mlp("mlp64", "MLP 64-128-10 relu, batch 32, momentum", (64, 128, 10), 32, "ReLU", "cross_entropy",
        Optimizer("SGD", 0.01, momentum=0.9)),
    mlp("mlp784", "MLP 784-512-512-10 relu, batch 128, Adam", (784, 512, 512, 10), 128, "ReLU", "cross_entropy",
        Optimizer("Adam", 1e-3)),
    mlp("mlp1024", "MLP 1024-2048-2048-1024 gelu, batch 256, AdamW", (1024, 2048, 2048, 1024), 256, "GELU", "mse",
        Optimizer("AdamW", 1e-3, weight_decay=0.01)),
)
