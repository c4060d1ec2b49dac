"""A transformer encoder (Vaswani et al. 2017, norm after each block) that classifies a sequence by its mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..workload import Optimizer, Shapes, Workload, classified, linear_shapes, norm_shapes


def encoder(name: str, title: str, layers: int, width: int, heads: int, wide: int, time: int, batch: int) -> Workload:
    shapes: Shapes = {}
    for k in range(layers):
        b = f"encoder.layers.{k}"
        shapes |= {f"{b}.self_attn.in_proj_weight": (3 * width, width), f"{b}.self_attn.in_proj_bias": (3 * width,),
                   **linear_shapes(f"{b}.self_attn.out_proj", width, width), **linear_shapes(f"{b}.linear1", width, wide),
                   **linear_shapes(f"{b}.linear2", wide, width), **norm_shapes(f"{b}.norm1", width),
                   **norm_shapes(f"{b}.norm2", width)}
    shapes |= linear_shapes("head", width, 10)

    def data(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return g.standard_normal((batch, time, width)).astype(np.float32), g.integers(0, 10, batch)

    def model(lib: Any) -> Any:
        nn = lib.nn

        class Classifier(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                layer = nn.TransformerEncoderLayer(width, heads, wide, dropout=0.0, batch_first=True)
                self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
                self.head = nn.Linear(width, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.encoder(x).mean(1))

        return Classifier()

    def in_jax(p: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        import jax
        import jax.numpy as jnp

        from .. import jax_layers as layer

        h = x
        for k in range(layers):
            b = f"encoder.layers.{k}"
            qkv = h @ p[f"{b}.self_attn.in_proj_weight"] + p[f"{b}.self_attn.in_proj_bias"]
            q, key, v = (part.reshape(batch, time, heads, width // heads) for part in jnp.split(qkv, 3, -1))
            mixed = layer.attention(q, key, v, False).reshape(batch, time, width)
            h = layer.layer_norm(p, f"{b}.norm1", h + layer.linear(p, f"{b}.self_attn.out_proj", mixed))
            inner = layer.linear(p, f"{b}.linear2", jax.nn.relu(layer.linear(p, f"{b}.linear1", h)))
            h = layer.layer_norm(p, f"{b}.norm2", h + inner)
        return layer.cross_entropy(layer.linear(p, "head", h.mean(1)), y), {}

    tokens = batch * time
    forward = tokens * layers * (8 * width * width + 4 * width * wide + 4 * time * width) + 2 * batch * width * 10
    return Workload(name, title, shapes, data, model, classified, Optimizer("Adam", 1e-3),
                    3 * forward - 6 * tokens * width * width, jax=in_jax)


WORKLOADS = (encoder("encoder", "Transformer encoder, 2 layers, d 128, T 64, batch 16, Adam", 2, 128, 4, 512, 64, 16),)
