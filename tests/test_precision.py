"""How precisely contractions multiply: what may be said, where, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from graphc.runtime.native.target import PIECES, host, with_matrix_unit, with_pairs

import graphc
from graphc import nn, optim
from graphc.precision import PRECISIONS

# which precisions this machine has a use for
LESS = {p for p in PRECISIONS[1:] if with_matrix_unit(host(), p).pieces or with_pairs(host(), p).pieces}
RNG = np.random.default_rng(3)
X, W = (RNG.standard_normal((300, 300)).astype("f") for _ in range(2))
NEAREST = [torch.from_numpy(a).bfloat16().double().numpy() for a in (X, W)]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    graphc.set_float32_matmul_precision("highest")


def product(dtype: str = "float32", **options: Any) -> graphc.Program:
    x, w = graphc.placeholder("x", X.shape, dtype), graphc.placeholder("w", W.shape, dtype)
    return graphc.function([x, w], x @ w, **options)


def off(found: np.ndarray, a: np.ndarray = X, b: np.ndarray = W) -> float:
    """The largest difference to the product of these, relative to the largest sum of magnitudes."""
    return float(np.abs(found - a.astype(float) @ b).max() / (np.abs(a) @ np.abs(b)).max())


def test_every_precision_has_its_pieces() -> None:
    assert tuple(PIECES) == PRECISIONS


def test_numbers_are_as_precise_as_was_said() -> None:
    for precision, bound in (("highest", 3e-7), ("high", 3e-6), ("medium", 2e-3)):
        assert off(product(matmul_precision=precision)(X, W)) < bound
    found = product(matmul_precision="medium")(X, W)
    assert (off(found, *NEAREST) < 3e-7) == ("medium" in LESS), "products of the nearest bfloat16 numbers, added as float32"


@pytest.mark.parametrize("options", [{"backend": "numpy"}, {"dtype": "float64"}])
def test_what_always_is_precise(options: dict[str, str]) -> None:
    """The interpreter, and float64."""
    program = product(matmul_precision="medium", **options)
    dtype = options.get("dtype", "float32")
    assert off(program(X.astype(dtype), W.astype(dtype))) < 3e-7


def test_set_for_all_that_is_built_afterwards() -> None:
    assert graphc.get_float32_matmul_precision() == "highest"
    before = product()
    graphc.set_float32_matmul_precision("medium")
    assert graphc.get_float32_matmul_precision() == "medium"
    after, said = product(), product(matmul_precision="high")
    assert [p.matmul_precision for p in (before, after, said)] == ["highest", "medium", "high"]
    assert off(before(X, W)) < 3e-7
    np.testing.assert_array_equal(after(X, W), product(matmul_precision="medium")(X, W))


@pytest.mark.parametrize("wrong", ["bf16", "Medium", 16, ("high",)])
def test_other_words_are_errors_that_name_the_right_ones(wrong: Any) -> None:
    for attempt in (lambda: graphc.set_float32_matmul_precision(wrong), lambda: product(matmul_precision=wrong)):
        with pytest.raises(graphc.GraphError, match=r"one of 'highest', 'high', 'medium', got .*\n  at .*test_precision.py:"):
            attempt()
    assert graphc.get_float32_matmul_precision() == "highest"


def train(precision: str, steps: int = 30, **options: Any) -> list[float]:
    graphc.manual_seed(1)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((128, 200)).astype("f")
    targets = np.sin(inputs[:, :16]).astype("f")
    model = nn.Sequential(nn.Linear(200, 256), nn.Tanh(), nn.Linear(256, 16))
    x, y = graphc.placeholder("x", ("batch", 200)), graphc.placeholder("y", ("batch", 16))
    step = graphc.train_step(nn.MSELoss()(model(x), y), optim.AdamW(model.parameters(), lr=3e-3),
                             matmul_precision=precision, **options)
    return [float(loss) for loss in step.run(steps, inputs, targets)]


def test_training_goes_the_same_way() -> None:
    exact = train("highest")
    assert exact[-1] < exact[0] / 20
    for precision, bound in (("high", 1e-3), ("medium", 0.05)):
        losses = train(precision)
        np.testing.assert_allclose(losses, exact, rtol=bound)
        assert (losses != exact) == (precision in LESS)
        assert all(train(precision, threads=n) == losses for n in (1, 2, 3)), "the same bits for any number of threads"


def test_the_report_says_how_many_contractions_are_less_precise() -> None:
    inside = int("medium" in LESS)
    assert f"{inside} of 1 contractions are of medium precision" in product(matmul_precision="medium").report()
    assert "precision" not in product().report()
    assert "0 of 1 contractions" in product(dtype="float64", matmul_precision="high").report()


def test_medium_is_pytorchs() -> None:
    """Step by step as near to PyTorch with operands rounded to bfloat16 as sums in another order are.

    Where nothing multiplies bfloat16 contractions are float32, and so are PyTorch's here.
    """
    class Rounded(torch.autograd.Function):
        """A linear layer whose three products have rounded operands."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return nearest(x) @ nearest(w).T

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x, w = ctx.saved_tensors
            return nearest(g) @ nearest(w), nearest(g).T @ nearest(x)

    def nearest(t: torch.Tensor) -> torch.Tensor:
        return t.bfloat16().float() if "medium" in LESS else t

    rng = np.random.default_rng(2)
    inputs, targets = rng.standard_normal((256, 160)).astype("f"), rng.standard_normal((256, 96)).astype("f")
    weights = [rng.standard_normal(s).astype("f") / 12 for s in ((256, 160), (96, 256))]
    x, y = graphc.placeholder("x", inputs.shape), graphc.placeholder("y", targets.shape)
    a, b = (graphc.parameter(name, w) for name, w in zip("ab", weights, strict=True))
    loss = ((graphc.tanh(x @ a.T) @ b.T - y) ** 2).mean()
    step = graphc.train_step(loss, optim.SGD([a, b], lr=0.5), matmul_precision="medium")
    theirs = [torch.tensor(w, requires_grad=True) for w in weights]
    optimizer = torch.optim.SGD(theirs, lr=0.5)
    for _ in range(10):
        optimizer.zero_grad()
        hidden = torch.tanh(Rounded.apply(torch.from_numpy(inputs), theirs[0]))
        wanted = ((Rounded.apply(hidden, theirs[1]) - torch.from_numpy(targets)) ** 2).mean()
        wanted.backward()
        optimizer.step()
        np.testing.assert_allclose(float(step(inputs, targets)), wanted.item(), rtol=2e-5)
