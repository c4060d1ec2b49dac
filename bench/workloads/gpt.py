"""A character-level GPT: pre-norm causal attention, GELU by tanh, learned positions, AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..workload import Optimizer, Shapes, Workload, linear_shapes, norm_shapes


def gpt(name: str, title: str, layers: int, width: int, heads: int, context: int, batch: int, vocabulary: int) -> Workload:
    shapes: Shapes = {"token.weight": (vocabulary, width), "place.weight": (context, width)}
    for k in range(layers):
        b = f"blocks.{k}"
        shapes |= norm_shapes(f"{b}.norm1", width) | norm_shapes(f"{b}.norm2", width)
        shapes |= linear_shapes(f"{b}.qkv", width, 3 * width) | linear_shapes(f"{b}.out", width, width)
        shapes |= linear_shapes(f"{b}.mlp.0", width, 4 * width) | linear_shapes(f"{b}.mlp.2", 4 * width, width)
    shapes |= norm_shapes("norm", width) | linear_shapes("head", width, vocabulary)

    def data(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        text = g.integers(0, vocabulary, (batch, context + 1))
        return np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])

    def model(lib: Any) -> Any:
        nn = lib.nn

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
                self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
                self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

            def forward(self, x: Any) -> Any:
                q, k, v = (part.reshape(x.shape[0], context, heads, width // heads).transpose(1, 2)
                           for part in lib.split(self.qkv(self.norm1(x)), width, -1))
                mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + self.out(mixed.transpose(1, 2).reshape(x.shape[0], context, width))
                return x + self.mlp(self.norm2(x))

        class GPT(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
                self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
                self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

            def forward(self, index: Any) -> Any:
                return self.head(self.norm(self.blocks(self.token(index) + self.place.weight)))

        return GPT()

    def loss(lib: Any, module: Any, x: Any, y: Any) -> Any:
        return lib.nn.functional.cross_entropy(module(x).reshape(-1, vocabulary), y.reshape(-1))

    def in_jax(p: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        import jax
        import jax.numpy as jnp

        from .. import jax_layers as layer

        h = p["token.weight"][x] + p["place.weight"]
        for k in range(layers):
            b = f"blocks.{k}"
            parts = jnp.split(layer.linear(p, f"{b}.qkv", layer.layer_norm(p, f"{b}.norm1", h)), 3, -1)
            q, key, v = (part.reshape(x.shape[0], context, heads, width // heads) for part in parts)
            h = h + layer.linear(p, f"{b}.out", layer.attention(q, key, v, True).reshape(x.shape[0], context, width))
            wide = jax.nn.gelu(layer.linear(p, f"{b}.mlp.0", layer.layer_norm(p, f"{b}.norm2", h)))
            h = h + layer.linear(p, f"{b}.mlp.2", wide)
        return layer.cross_entropy(layer.linear(p, "head", layer.layer_norm(p, "norm", h)), y), {}

    forward = batch * context * (layers * (24 * width * width + 4 * context * width) + 2 * width * vocabulary)
    return Workload(name, title, shapes, data, model, loss, Optimizer("AdamW", 1e-3, weight_decay=0.01), 3 * forward,
                    jax=in_jax, tables=("token.weight", "place.weight"))


WORKLOADS = (
    gpt("gpt", "GPT 4 layers, d 128, 4 heads, T 64, batch 8, AdamW", 4, 128, 4, 64, 8, 65),
    gpt("gpt512", "GPT 2 layers, d 128, 4 heads, T 512, batch 2, AdamW", 2, 128, 4, 512, 2, 65),
    gpt("gpt2048", "GPT 2 layers, d 256, 8 heads, T 2048, batch 2, AdamW", 2, 256, 8, 2048, 2, 65),
)
