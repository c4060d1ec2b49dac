"""The same training steps for graphc, numpy, PyTorch and JAX.

Each builder returns (step, sync): `step(n)` runs n steps and gives the last loss.  Weights and data come from one seed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Step = Callable[[int], float]


@dataclass(frozen=True)
class Workload:
    """A multilayer perceptron and how it is trained."""

    name: str
    sizes: tuple[int, ...]
    batch: int
    activation: str  # none, tanh, relu, gelu
    loss: str  # sum (of squares), mse, cross_entropy
    optimizer: str  # sgd, momentum, adam, adamw
    rate: float
    steps: int  # of one timed round


WORKLOADS = (
    Workload("tutorial 2-1, batch 4, SGD", (2, 1), 4, "none", "sum", "sgd", 0.01, 2000),
    Workload("MLP 8-64-64-2 tanh, batch 256, Adam", (8, 64, 64, 2), 256, "tanh", "mse", "adam", 1e-3, 300),
    Workload("MLP 64-128-10 relu, batch 32, momentum", (64, 128, 10), 32, "relu", "cross_entropy", "momentum", 0.01, 500),
    Workload("MLP 784-512-512-10 relu, batch 128, Adam", (784, 512, 512, 10), 128, "relu", "cross_entropy", "adam", 1e-3, 40),
    Workload("MLP 1024-2048-2048-1024 gelu, batch 256, AdamW", (1024, 2048, 2048, 1024), 256, "gelu", "mse", "adamw", 1e-3, 4),
)


def data(w: Workload) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Weights (weight [in, out], bias, ...), inputs and targets."""
    g = np.random.default_rng(0)
    weights: list[np.ndarray] = []
    for a, b in zip(w.sizes, w.sizes[1:], strict=False):
        weights.append((g.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32))
        if w.name.split()[0] != "tutorial":
            weights.append(np.zeros(b, np.float32))
    x = g.standard_normal((w.batch, w.sizes[0])).astype(np.float32)
    y = g.integers(0, w.sizes[-1], w.batch) if w.loss == "cross_entropy" else \
        g.standard_normal((w.batch, w.sizes[-1])).astype(np.float32)
    return weights, x, y


def layers(weights: list[Any], w: Workload) -> list[tuple[Any, Any]]:
    if w.name.split()[0] == "tutorial":
        return [(weights[0], None)]
    return list(zip(weights[::2], weights[1::2], strict=True))


def build_graphc(w: Workload, threads: int, mode: str) -> Step:
    import graphc
    from graphc import nn, optim

    weights, x0, y0 = data(w)
    parameters = [graphc.parameter(f"p{i}", v) for i, v in enumerate(weights)]
    x = graphc.placeholder("x", ("batch", w.sizes[0]))
    y = graphc.placeholder("y", ("batch", *y0.shape[1:]), "int64" if y0.dtype.kind == "i" else "float32")
    h = x
    stack = layers(parameters, w)
    for k, (weight, bias) in enumerate(stack):
        h = h @ weight
        h = h if bias is None else h + bias
        if k < len(stack) - 1:
            h = {"tanh": graphc.tanh, "relu": graphc.relu, "gelu": lambda v: graphc.gelu(v, "tanh")}[w.activation](h)
    loss = nn.functional.cross_entropy(h, y) if w.loss == "cross_entropy" else \
        ((h - y) ** 2).sum() if w.loss == "sum" else ((h - y) ** 2).mean()
    made = {"sgd": lambda: optim.SGD(parameters, lr=w.rate), "momentum": lambda: optim.SGD(parameters, lr=w.rate, momentum=0.9),
            "adam": lambda: optim.Adam(parameters, lr=w.rate), "adamw": lambda: optim.AdamW(parameters, lr=w.rate)}
    step = graphc.train_step(loss, made[w.optimizer](), threads=threads)
    if mode == "loop":
        return lambda n: float(step.run(n, x0, y0)[-1])
    bound = step.bind(x0, y0)

    def run(n: int) -> float:
        for _ in range(n):
            out = bound()
        return float(out)

    return run


def build_numpy(w: Workload, threads: int, mode: str) -> Step:
    weights, x, y = data(w)
    m, v = [np.zeros_like(a) for a in weights], [np.zeros_like(a) for a in weights]
    count = [0]

    def one() -> float:
        hidden, raw = [x], []
        stack = layers(weights, w)
        for k, (weight, bias) in enumerate(stack):
            z = hidden[-1] @ weight
            if bias is not None:
                z += bias
            raw.append(z)
            last = k == len(stack) - 1
            hidden.append(z if last or w.activation == "none" else np.tanh(z) if w.activation == "tanh" else
                          np.maximum(z, 0) if w.activation == "relu" else
                          0.5 * z * (1 + np.tanh(0.7978845608 * (z + 0.044715 * z * z * z))))
        out = hidden[-1]
        if w.loss == "cross_entropy":
            shifted = out - out.max(1, keepdims=True)
            e = np.exp(shifted)
            s = e.sum(1, keepdims=True)
            loss = float((np.log(s[:, 0]) - shifted[np.arange(len(y)), y]).mean())
            g = e / s
            g[np.arange(len(y)), y] -= 1
            g /= len(y)
        else:
            d = out - y
            loss = float((d * d).sum() if w.loss == "sum" else (d * d).mean())
            g = 2 * d if w.loss == "sum" else d * np.float32(2 / d.size)
        gradients: list[np.ndarray] = []
        for k in range(len(stack) - 1, -1, -1):
            weight, bias = stack[k]
            gradients[:0] = [hidden[k].T @ g] + ([] if bias is None else [g.sum(0)])
            if k:
                g = g @ weight.T
                z = raw[k - 1]
                if w.activation == "tanh":
                    g *= 1 - hidden[k] ** 2
                elif w.activation == "relu":
                    g *= z > 0
                else:
                    t = np.tanh(0.7978845608 * (z + 0.044715 * z * z * z))
                    g *= 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * 0.7978845608 * (1 + 3 * 0.044715 * z * z)
        count[0] += 1
        c1, c2 = 1 - 0.9 ** count[0], 1 - 0.999 ** count[0]
        for p, gp, mp, vp in zip(weights, gradients, m, v, strict=True):
            if w.optimizer == "sgd":
                p -= np.float32(w.rate) * gp
            elif w.optimizer == "momentum":
                mp *= 0.9
                mp += gp
                p -= np.float32(w.rate) * mp
            else:
                if w.optimizer == "adamw":
                    p *= np.float32(1 - w.rate * 0.01)
                mp *= 0.9
                mp += np.float32(0.1) * gp
                vp *= 0.999
                vp += np.float32(0.001) * gp * gp
                p -= np.float32(w.rate / c1) * mp / (np.sqrt(vp) / np.float32(np.sqrt(c2)) + np.float32(1e-8))
        return loss

    def run(n: int) -> float:
        for _ in range(n):
            loss = one()
        return loss

    return run


def build_torch(w: Workload, threads: int, mode: str) -> Step:
    import torch

    torch.set_num_threads(threads)
    weights, x0, y0 = data(w)
    parameters = [torch.tensor(a, requires_grad=True) for a in weights]
    x, y = torch.tensor(x0), torch.tensor(y0)
    f = torch.nn.functional
    fused = {"fused": True} if w.optimizer in ("adam", "adamw") else {}
    made = {"sgd": lambda: torch.optim.SGD(parameters, lr=w.rate),
            "momentum": lambda: torch.optim.SGD(parameters, lr=w.rate, momentum=0.9),
            "adam": lambda: torch.optim.Adam(parameters, lr=w.rate, **fused),
            "adamw": lambda: torch.optim.AdamW(parameters, lr=w.rate, **fused)}
    optimizer = made[w.optimizer]()

    def forward() -> Any:
        h = x
        stack = layers(parameters, w)
        for k, (weight, bias) in enumerate(stack):
            h = h @ weight if bias is None else torch.addmm(bias, h, weight)
            if k < len(stack) - 1:
                h = {"tanh": torch.tanh, "relu": torch.relu, "gelu": lambda v: f.gelu(v, approximate="tanh")}[w.activation](h)
        return f.cross_entropy(h, y) if w.loss == "cross_entropy" else ((h - y) ** 2).sum() if w.loss == "sum" else \
            f.mse_loss(h, y)

    def one() -> Any:
        optimizer.zero_grad()
        loss = forward()
        loss.backward()
        optimizer.step()
        return loss

    step = torch.compile(one) if mode == "compile" else one

    def run(n: int) -> float:
        for _ in range(n):
            loss = step()
        return float(loss)

    return run


def build_jax(w: Workload, threads: int, mode: str) -> Step:
    import jax
    import jax.numpy as jnp

    weights, x0, y0 = data(w)
    x, y = jnp.asarray(x0), jnp.asarray(y0)

    def loss_of(parameters: list[Any]) -> Any:
        h = x
        stack = layers(parameters, w)
        for k, (weight, bias) in enumerate(stack):
            h = h @ weight if bias is None else h @ weight + bias
            if k < len(stack) - 1:
                h = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": jax.nn.gelu}[w.activation](h)
        if w.loss == "cross_entropy":
            return -jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], 1).mean()
        return ((h - y) ** 2).sum() if w.loss == "sum" else ((h - y) ** 2).mean()

    def step(state: Any) -> Any:
        parameters, m, v, t, _ = state
        loss, g = jax.value_and_grad(loss_of)(parameters)
        t = t + 1
        if w.optimizer == "sgd":
            return [p - w.rate * d for p, d in zip(parameters, g, strict=True)], m, v, t, loss
        if w.optimizer == "momentum":
            m = [0.9 * a + d for a, d in zip(m, g, strict=True)]
            return [p - w.rate * a for p, a in zip(parameters, m, strict=True)], m, v, t, loss
        m = [0.9 * a + 0.1 * d for a, d in zip(m, g, strict=True)]
        v = [0.999 * a + 0.001 * d * d for a, d in zip(v, g, strict=True)]
        c1, c2 = 1 - 0.9 ** t, 1 - 0.999 ** t
        decay = 1 - w.rate * 0.01 if w.optimizer == "adamw" else 1.0
        parameters = [p * decay - w.rate / c1 * a / (jnp.sqrt(b) / jnp.sqrt(c2) + 1e-8)
                      for p, a, b in zip(parameters, m, v, strict=True)]
        return parameters, m, v, t, loss

    state = [([jnp.asarray(a) for a in weights], [jnp.zeros_like(a) for a in weights],
              [jnp.zeros_like(a) for a in weights], jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))]
    if mode == "loop":
        many = jax.jit(lambda s, n: jax.lax.fori_loop(0, n, lambda _, t: step(t), s), donate_argnums=0)

        def run(n: int) -> float:
            state[0] = many(state[0], n)
            return float(state[0][4])

        return run
    one = jax.jit(step, donate_argnums=0)

    def call(n: int) -> float:
        for _ in range(n):
            state[0] = one(state[0])
        return float(state[0][4])

    return call


BUILDERS = {"graphc": build_graphc, "numpy": build_numpy, "torch": build_torch, "jax": build_jax}


def serve(peer: str, mode: str, index: int, threads: int) -> None:
    """A worker process: builds, reports the loss after three steps and the set-up time, then times rounds on request."""
    import resource
    import time

    w = WORKLOADS[index]
    start = time.perf_counter()
    if peer in ("torch", "jax", "graphc"):
        __import__(peer)
    imported = time.perf_counter() - start
    start = time.perf_counter()
    step = BUILDERS[peer](w, threads, mode)
    step(1)
    first = time.perf_counter() - start
    loss = step(2)
    print(f"{loss!r} {first} {imported}", flush=True)
    for line in sys.stdin:
        n = int(line)
        start = time.perf_counter()
        step(n)
        seconds = (time.perf_counter() - start) / n
        print(f"{seconds} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
