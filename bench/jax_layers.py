"""The layers that workloads need, in JAX; weights of linear layers are [in, out], images [batch, channel, height, width].

Imported only in the process that times JAX.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def linear(p: Any, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def layer_norm(p: Any, name: str, x: Any, epsilon: float = 1e-5) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    scale = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    return centred * scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def cross_entropy(logits: Any, y: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()


def attention(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """Softmax attention of [batch, time, heads, width]."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal)


def convolution(p: Any, name: str, x: Any, stride: int = 1, padding: int = 0, bias: bool = True) -> Any:
    out = lax.conv_general_dilated(x, p[f"{name}.weight"], (stride, stride), [(padding, padding)] * 2,
                                   dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return out + p[f"{name}.bias"][:, None, None] if bias else out


def max_pool(x: Any, size: int) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, size, size), (1, 1, size, size), "VALID")


def batch_norm(p: Any, name: str, x: Any, buffers: dict[str, Any], momentum: float = 0.1, epsilon: float = 1e-5) -> Any:
    """By the statistics of the batch; the running ones are put into `buffers`, with the unbiased variance as in PyTorch."""
    count = x.size // x.shape[1]
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    for kind, value in (("mean", mean), ("var", var * (count / (count - 1)))):
        old = p[f"{name}.running_{kind}"]
        buffers[f"{name}.running_{kind}"] = (1 - momentum) * old + momentum * lax.stop_gradient(value)
    buffers[f"{name}.num_batches_tracked"] = p[f"{name}.num_batches_tracked"] + 1
    scale = p[f"{name}.weight"] * lax.rsqrt(var + epsilon)
    return (x - mean[:, None, None]) * scale[:, None, None] + p[f"{name}.bias"][:, None, None]


def update(kind: Any, p: Any, g: Any, m: Any, v: Any, t: Any) -> tuple[Any, Any, Any]:
    """SGD, momentum, Adam or AdamW: new parameters and slots."""
    each = jax.tree.map
    if kind.name == "SGD":
        m = each(lambda a, d: kind.momentum * a + d, m, g) if kind.momentum else g
        return each(lambda w, a: w - kind.rate * a, p, m), m, v
    m = each(lambda a, d: 0.9 * a + 0.1 * d, m, g)
    v = each(lambda a, d: 0.999 * a + 0.001 * d * d, v, g)
    c1, c2 = 1 - 0.9 ** t, 1 - 0.999 ** t
    decay = 1 - kind.rate * kind.weight_decay
    p = each(lambda w, a, b: w * decay - kind.rate / c1 * a / (jnp.sqrt(b) / jnp.sqrt(c2) + 1e-8), p, m, v)
    return p, m, v
