"""An optimizer of one's own: ten lines of arithmetic on symbols, compiled and fused as the built-in ones are.

Fits a small network to a noisy curve with Nesterov momentum whose rate grows where steps keep their direction (and
shrinks where they do not), and compares it with Adam.  Run: python examples/custom_optimizer.py
"""

from __future__ import annotations

import numpy as np

import graphc
from graphc import optim


class Directional(optim.Optimizer):
    """Momentum with a gain per element: it grows while gradient and momentum agree in sign, and shrinks otherwise."""

    def __init__(self, params, lr=0.05, beta=0.9, growth=0.05, shrinkage=0.9):
        super().__init__(params, dict(lr=lr, beta=beta, growth=growth, shrinkage=shrinkage))

    def update(self, w, g, group):
        m, gain = self.slot(w, "momentum"), self.slot(w, "gain", init=1.0)
        new_gain = graphc.where(m * g > 0, gain + group.growth, gain * group.shrinkage)
        new_m = group.beta * m + g
        return {w: w - group.lr * new_gain * (g + group.beta * new_m), m: new_m, gain: new_gain}


def build(make_optimizer):
    """A network, its loss, and a training step with an optimizer made for its parameters."""
    rng = np.random.default_rng(0)
    x, y = graphc.placeholder("x", ("batch", 1)), graphc.placeholder("y", ("batch", 1))
    w1 = graphc.parameter("w1", rng.normal(size=(1, 32)))
    b1 = graphc.parameter("b1", rng.normal(size=32))
    w2 = graphc.parameter("w2", rng.normal(size=(32, 1)) * 0.2)
    prediction = graphc.tanh(x @ w1 + b1) @ w2
    loss = ((prediction - y) ** 2).mean()
    return graphc.train_step(loss, make_optimizer([w1, b1, w2]))


def main() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-2.0, 2.0, size=(256, 1)).astype(np.float32)
    y = (np.sin(3.0 * x) + 0.05 * rng.normal(size=x.shape)).astype(np.float32)
    optimizers = {"Directional": lambda p: Directional(p, lr=0.005), "Adam": lambda p: optim.Adam(p, lr=0.01)}
    for name, make_optimizer in optimizers.items():
        losses = build(make_optimizer).run(1000, x=x, y=y)
        print(f"{name:12} loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
