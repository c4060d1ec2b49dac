"""What a careful user of numpy writes by hand: activations, losses and optimizers, in place where that helps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .workload import Arrays, Optimizer

ROOT = np.float32(0.7978845608)  # sqrt(2 / pi)


def _gelu(z: np.ndarray) -> np.ndarray:
    return 0.5 * z * (1 + np.tanh(ROOT * (z + 0.044715 * z * z * z)))


def _gelu_backward(g: np.ndarray, z: np.ndarray, out: np.ndarray) -> np.ndarray:
    t = np.tanh(ROOT * (z + 0.044715 * z * z * z))
    return g * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * z * z))


FORWARD: dict[str, Callable[[np.ndarray], np.ndarray]] = {"Tanh": np.tanh, "ReLU": lambda z: np.maximum(z, 0), "GELU": _gelu}
BACKWARD: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "Tanh": lambda g, z, out: g * (1 - out * out), "ReLU": lambda g, z, out: g * (z > 0), "GELU": _gelu_backward}


def cross_entropy(out: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean cross-entropy on class indices, and its gradient."""
    rows = np.arange(len(y))
    shifted = out - out.max(1, keepdims=True)
    e = np.exp(shifted)
    s = e.sum(1, keepdims=True)
    loss = float((np.log(s[:, 0]) - shifted[rows, y]).mean())
    g = e / s
    g[rows, y] -= 1
    g /= len(y)
    return loss, g


def squares(out: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    d = out - y
    return float((d * d).sum()), 2 * d


def mean_squares(out: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    d = out - y
    return float((d * d).mean()), d * np.float32(2 / d.size)


LOSSES = {"cross_entropy": cross_entropy, "sum": squares, "mse": mean_squares}


def update(kind: Optimizer, p: Arrays, g: Arrays, m: Arrays, v: Arrays, count: int) -> None:
    """One step of SGD, momentum, Adam or AdamW on every array, in place."""
    c1, c2 = 1 - 0.9 ** count, 1 - 0.999 ** count
    for name, value in p.items():
        d = g[name]
        if kind.name == "SGD":
            if kind.momentum:
                m[name] *= np.float32(kind.momentum)
                m[name] += d
                d = m[name]
            value -= np.float32(kind.rate) * d
            continue
        if kind.weight_decay:
            value *= np.float32(1 - kind.rate * kind.weight_decay)
        m[name] *= 0.9
        m[name] += np.float32(0.1) * d
        v[name] *= 0.999
        v[name] += np.float32(0.001) * d * d
        value -= np.float32(kind.rate / c1) * m[name] / (np.sqrt(v[name]) / np.float32(np.sqrt(c2)) + np.float32(1e-8))
