"""A 64-128-10 perceptron on scikit-learn's handwritten digits, trained on mini-batches in native code.

Needs the extra:  pip install "graphc[examples]"
Run it:           python examples/digits.py
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import graphc
from graphc import nn, optim


def main() -> float:
    graphc.manual_seed(0)
    digits = load_digits()
    features = (digits.data / 16.0).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(features, digits.target, test_size=0.2, random_state=0,
                                                        stratify=digits.target)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    x = graphc.placeholder("x", ("batch", 64))
    y = graphc.placeholder("y", ("batch",), "int64")
    loss = nn.CrossEntropyLoss()(model(x), y)
    step = graphc.train_step(loss, optim.Adam(model.parameters(), lr=2e-3))

    start = time.perf_counter()
    history = step.fit({"x": x_train, "y": y_train}, batch_size=32, epochs=40, seed=1)
    seconds = time.perf_counter() - start

    predicted = model(x_test).argmax(axis=1)
    accuracy = float((predicted == y_test).mean())
    print(f"loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.4f} in {seconds:.2f} s, "
          f"held-out accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
