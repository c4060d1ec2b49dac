"""Gradients of gradients: a network learns the solution of u'' = -u, u(0) = 0, u'(0) = 1, which is sin(x).

The loss holds the second derivative of the network by its input, and training differentiates that once more by the
weights: three nested derivatives, one native step.

Run it:  python examples/second_order.py
"""

import numpy as np

import graphc
from graphc import nn, optim


def main() -> float:
    graphc.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    x = graphc.placeholder("x", ("points", 1))
    u = x + x**2 * model(x)  # u(0) = 0 and u'(0) = 1 hold whatever the network says
    du = graphc.grad(u.sum(), x)
    ddu = graphc.grad(du.sum(), x)
    loss = ((ddu + u) ** 2).mean()  # the residual of the differential equation
    step = graphc.train_step(loss, optim.Adam(model.parameters(), lr=3e-3))
    solution = graphc.function([x], u)

    points = np.linspace(0, np.pi, 64, dtype=np.float32).reshape(-1, 1)
    for _ in range(5):
        losses = step.run(1000, x=points)
        print(f"residual {losses[-1]:.2e}")
    error = float(np.abs(solution(x=points) - np.sin(points)).max())
    print(f"largest error against sin(x): {error:.1e}")
    return error


if __name__ == "__main__":
    main()
