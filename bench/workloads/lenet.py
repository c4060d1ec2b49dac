"""LeNet-5's layers (LeCun et al. 1998) with ReLU and max pooling, on 28 x 28 images."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..workload import Optimizer, Shapes, Workload, classified, linear_shapes


def lenet(name: str, title: str, batch: int) -> Workload:
    shapes: Shapes = {"0.weight": (6, 1, 5, 5), "0.bias": (6,), "3.weight": (16, 6, 5, 5), "3.bias": (16,),
                      **linear_shapes("7", 400, 120), **linear_shapes("9", 120, 84), **linear_shapes("11", 84, 10)}

    def data(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return g.standard_normal((batch, 1, 28, 28)).astype(np.float32), g.integers(0, 10, batch)

    def model(lib: Any) -> Any:
        nn = lib.nn
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))

    def in_jax(p: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        import jax

        from .. import jax_layers as layer

        h = layer.max_pool(jax.nn.relu(layer.convolution(p, "0", x, padding=2)), 2)
        h = layer.max_pool(jax.nn.relu(layer.convolution(p, "3", h)), 2).reshape(batch, 400)
        h = jax.nn.relu(layer.linear(p, "9", jax.nn.relu(layer.linear(p, "7", h))))
        return layer.cross_entropy(layer.linear(p, "11", h), y), {}

    first = 2 * batch * 28 * 28 * 6 * 25
    rest = 2 * batch * (10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10)
    return Workload(name, title, shapes, data, model, classified, Optimizer("Adam", 1e-3), 2 * first + 3 * rest, jax=in_jax)


WORKLOADS = (lenet("lenet", "LeNet, 28x28, batch 64, Adam", 64),)
