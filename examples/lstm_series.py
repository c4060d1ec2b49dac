"""An LSTM forecasts a noisy series: two waves of different length, one of them growing and fading, and noise.

The model sees 24 values and says the next.  Weights are kept from the epoch that does best on the validation stretch; the last
stretch is looked at once, at the end, and compared with the naive forecast, "as now".

Run it:  python examples/lstm_series.py
"""

import argparse
import time

import numpy as np

import graphc
from graphc import nn, optim

WINDOW, HIDDEN, NOISE = 24, 32, 0.1


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 1)

    def forward(self, windows: graphc.Tensor) -> graphc.Tensor:
        outputs, _ = self.lstm(windows)
        return self.head(outputs[:, -1])


def series(length: int = 2400) -> np.ndarray:
    """The waves and their noise."""
    time_ = np.arange(length)
    waves = np.sin(2 * np.pi * time_ / 17) + 0.6 * np.sin(2 * np.pi * time_ / 150) * np.sin(2 * np.pi * time_ / 7.3)
    return (waves + NOISE * np.random.default_rng(0).standard_normal(length)).astype(np.float32)


def windows_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All windows as [number, WINDOW, 1], and the value after each as [number, 1]."""
    view = np.lib.stride_tricks.sliding_window_view(values, WINDOW + 1)
    return np.ascontiguousarray(view[:, :-1, None]), np.ascontiguousarray(view[:, -1:])


def main(epochs: int = 30) -> tuple[float, float]:
    """Root mean squared error on the last stretch: of the LSTM, and of the naive forecast."""
    graphc.manual_seed(0)
    values = series()
    first, second = int(0.7 * len(values)), int(0.85 * len(values))
    (x_train, y_train), (x_valid, y_valid), (x_test, y_test) = map(windows_of, np.split(values, [first, second]))

    model = Forecaster()
    x, y = graphc.placeholder("x", ("batch", WINDOW, 1)), graphc.placeholder("y", ("batch", 1))
    forecast = model(x)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    step = graphc.train_step(nn.MSELoss()(forecast, y), optimizer, grad_clip_norm=1.0)
    predict = graphc.function([x], forecast)

    def error(inputs: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.sqrt(np.mean((predict(inputs) - wanted) ** 2)))

    best, kept = np.inf, model.state_dict()
    start = time.perf_counter()
    for epoch in range(epochs):
        history = step.fit({"x": x_train, "y": y_train}, batch_size=64, epochs=1, seed=epoch, drop_last=True)
        validation = error(x_valid, y_valid)
        if validation < best:
            best, kept = validation, model.state_dict()
        if (epoch + 1) % 5 == 0:
            print(f"epoch {epoch + 1:2}/{epochs}  training {np.sqrt(history['loss'][0]):.3f}  validation {validation:.3f}  "
                  f"{time.perf_counter() - start:.1f} s")
    model.load_state_dict(kept)
    reached, naive = error(x_test, y_test), float(np.sqrt(np.mean((x_test[:, -1] - y_test) ** 2)))
    print(f"held-out error {reached:.3f}; naive forecast {naive:.3f}, the noise alone {NOISE}")
    return reached, naive


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
