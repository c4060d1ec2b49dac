"""An LSTM that classifies a sequence by its last hidden state."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..workload import Optimizer, Shapes, Workload, classified, linear_shapes


def lstm(name: str, title: str, time: int, batch: int, inputs: int, hidden: int) -> Workload:
    gates = 4 * hidden
    shapes: Shapes = {"lstm.weight_ih_l0": (gates, inputs), "lstm.weight_hh_l0": (gates, hidden),
                      "lstm.bias_ih_l0": (gates,), "lstm.bias_hh_l0": (gates,), **linear_shapes("head", hidden, 10)}

    def data(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return g.standard_normal((time, batch, inputs)).astype(np.float32), g.integers(0, 10, batch)

    def model(lib: Any) -> Any:
        nn = lib.nn

        class Classifier(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm, self.head = nn.LSTM(inputs, hidden), nn.Linear(hidden, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.lstm(x)[0][-1])

        return Classifier()

    def in_jax(p: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        import jax
        import jax.numpy as jnp

        from .. import jax_layers as layer

        def step(carried: Any, g: Any) -> Any:
            h, c = carried
            i, f, n, o = jnp.split(g + h @ p["lstm.weight_hh_l0"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(n)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((batch, hidden), x.dtype)
        steps = x @ p["lstm.weight_ih_l0"] + (p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"])
        (h, _), _ = jax.lax.scan(step, (zeros, zeros), steps)
        return layer.cross_entropy(layer.linear(p, "head", h), y), {}

    flops = 2 * batch * (time * gates * (3 * (inputs + hidden) - inputs) + 3 * hidden * 10)
    return Workload(name, title, shapes, data, model, classified, Optimizer("Adam", 1e-3), flops, jax=in_jax)


WORKLOADS = (
    lstm("lstm", "LSTM T 28, input 32, hidden 128, batch 32, Adam", 28, 32, 32, 128),
    lstm("lstm64", "LSTM T 64, input 32, hidden 128, batch 32, Adam", 64, 32, 32, 128),
)
