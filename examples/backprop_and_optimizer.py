"""Linear regression Y = 2*X1 + 3*X2, trained four ways: the same mathematics from numpy by hand to a compiled graph.

Run it:  python examples/backprop_and_optimizer.py
"""

import numpy as np

import graphc
from graphc import nn, optim

X = np.array([[1, 2], [2, 3], [4, 6], [3, 1]], np.float32)
Y = np.array([[8], [13], [26], [9]], np.float32)
W0 = np.array([[2], [1]], np.float32)
STEPS, LR = 500, 0.01


def report(step: int, loss: float) -> None:
    if step % 50 == 0:
        print(f"{step}/{STEPS} loss:{loss}")


def by_hand() -> np.ndarray:
    """Forward, gradient and update in plain numpy."""
    w = W0.copy()
    for step in range(1, STEPS + 1):
        y_pred = X @ w
        loss = ((Y - y_pred) ** 2).sum()
        gradient = X.T @ (2 * (y_pred - Y))
        w -= np.float32(LR) * gradient
        report(step, loss)
    return w


# Placeholders, a gradient derived symbolically, and an update written by hand.  Built here, at the top level, the step can
# be looked at:  graphc dump examples/backprop_and_optimizer.py --stage update -o step.svg
x = graphc.placeholder("x", ("batch", 2))
y = graphc.placeholder("y", ("batch", 1))
w = graphc.parameter("w", W0)
loss = ((x @ w - y) ** 2).sum()
train_step = graphc.function([x, y], loss, updates={w: w - LR * graphc.grad(loss, w)})


def with_symbols() -> np.ndarray:
    """The step above, called from a loop as long as Python's."""
    w.assign(W0)
    for step in range(1, STEPS + 1):
        report(step, train_step(x=X, y=Y))
    return w.numpy()


class LinearRegression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(W0)

    def forward(self, x: graphc.Tensor) -> graphc.Tensor:
        return x @ self.w


def with_modules() -> np.ndarray:
    """nn.Module, nn.MSELoss and optim.SGD, compiled into one step by train_step."""
    model = LinearRegression()
    error = nn.MSELoss(reduction="sum")(model(x), y)
    step_function = graphc.train_step(error, optim.SGD(model.parameters(), lr=LR))
    losses = step_function.run(STEPS, x=X, y=Y)  # all steps in one native call
    for step in range(50, STEPS + 1, 50):
        report(step, losses[step - 1])
    return model.w.numpy()


def with_static_graph() -> np.ndarray:
    """nn.Graph: forward, backward and optimizer in build(), traced once."""
    model = LinearRegression()
    optimizer = optim.SGD(model.parameters(), lr=LR)

    class Train(nn.Graph):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = model, nn.MSELoss(reduction="sum")
            self.add_optimizer(optimizer)

        def build(self, x: graphc.Tensor, y: graphc.Tensor) -> graphc.Tensor:
            loss = self.loss(self.model(x), y)
            loss.backward()
            return loss

    train = Train()
    for step in range(1, STEPS + 1):
        report(step, train(X, Y))
    return model.w.numpy()


if __name__ == "__main__":
    for way in (by_hand, with_symbols, with_modules, with_static_graph):
        print(f"--- {way.__name__}")
        print(f"w:{way().tolist()}")
