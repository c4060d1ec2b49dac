"""What each step does anew and what is done once; numbers, types and sizes as PyTorch has them where people paste code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
import graphc.nn.functional as F
from graphc import nn, optim
from graphc.errors import DTypeError, GraphError

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def inputs() -> Any:
    return graphc.placeholder("x", (6, 4))


# -- random numbers ----------------------------------------------------------------------------------------------------


class Noise(nn.Module):
    """A variational autoencoder's middle, and a path that is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        std = (0.5 * self.spread(x)).exp()
        kept = graphc.rand(6, 1) < 0.5
        return self.mean(x) + graphc.randn_like(std) * std, kept, graphc.randint(0, 1000, (8,)), graphc.normal((5,))


def differ(values: Any) -> bool:
    return len({np.asarray(v).tobytes() for v in values}) == len(values)


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_forward_draws_anew_in_each_step(backend: str) -> None:
    graphc.manual_seed(0)
    model, x = Noise(), inputs()
    program = graphc.function([x], list(model(x)), backend=backend)
    for results in (list(zip(*(program(X) for _ in range(4)), strict=True)), program.run(4, X)):
        assert all(differ(values) for values in (results[0], results[2], results[3]))
        assert len({np.asarray(v).tobytes() for v in results[1]}) > 1


def test_a_seed_repeats_a_training() -> None:
    def losses() -> np.ndarray:
        graphc.manual_seed(3)
        model, x = Noise(), inputs()
        out = model(x)[0]
        return np.asarray(graphc.train_step((out ** 2).mean(), optim.SGD(model.parameters(), lr=0.0)).run(6, X))

    first = losses()
    assert differ(first)
    np.testing.assert_array_equal(first, losses())


LIKE: dict[str, Callable[[Any], Any]] = {
    "rand_like": graphc.rand_like, "randn_like": graphc.randn_like, "bernoulli": lambda x: graphc.bernoulli(graphc.sigmoid(x)),
    "multinomial": lambda x: graphc.multinomial(graphc.exp(x), 3), "method": lambda x: graphc.exp(x).multinomial(3),
    "with replacement": lambda x: graphc.multinomial(graphc.exp(x), 9, replacement=True)}


@pytest.mark.parametrize("name", LIKE)
def test_what_is_drawn_for_an_input_is_drawn_anew(name: str) -> None:
    x = inputs()
    program = graphc.function([x], LIKE[name](x))
    assert len({program(X).tobytes() for _ in range(5)}) > 2


def test_open_sizes_are_of_a_step() -> None:
    x = graphc.placeholder("x", ("batch", 4))
    program = graphc.function([x], graphc.randn(x.shape[0], 2))
    assert differ([program(X), program(X)]) and program(X[:3]).shape == (3, 2)


def test_what_is_drawn_outside_is_drawn_once() -> None:
    """As PyTorch does where a line runs once: fixed noise, features, values of parameters."""
    x = inputs()
    fixed, weights = graphc.randn(6, 4), graphc.parameter("w", np.ones(3, np.float32))
    program = graphc.function([x], [x + fixed, graphc.uniform((3,)), graphc.rand(3)])
    first, second = program(X), program(X)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first[0] - X, (X + fixed.eval()) - X)
    anew = graphc.function([], graphc.rand_like(weights))
    assert differ([anew(), anew()])  # a parameter is not known before
    assert differ([nn.Parameter(graphc.randn(4)).numpy(), nn.Parameter(graphc.randn(4)).numpy()])
    seeded = graphc.function([x], graphc.uniform(x.shape, seed=4))
    np.testing.assert_array_equal(seeded(X), seeded(X))


def test_loops_and_graphs_draw_anew() -> None:
    class Static(nn.Graph):
        def build(self, x: Any) -> Any:
            return x + graphc.rand(1, 4)

    class Steps(nn.Module):
        def forward(self, x: Any) -> Any:
            return graphc.scan(lambda c, r: (c, r + graphc.rand(4)), graphc.zeros((1,)), x)[1]

    static, x = Static(), inputs()
    assert differ([np.asarray(static(X)) for _ in range(3)])
    program = graphc.function([x], Steps()(x))
    first, second = program(X) - X, program(X) - X
    assert differ([*first, *second])


# -- values that are given once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda n: n.add_(1), lambda n: n.copy_(2.0), lambda n: n.mul_(0.5), lambda n: n.zero_(),
                                    lambda n: n.assign(np.ones(()))])
def test_forward_gives_no_value_that_would_be_given_once(change: Callable[[Any], Any]) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("number", np.zeros(()))

        def forward(self, x: Any) -> Any:
            change(self.number)
            return x

    model = Counting()
    with pytest.raises(GraphError, match=r"'number' would be given a value once.*graphc\.updating"):
        model(inputs())
    assert model.number.item() == 0


def normalizing(t: Any, layers: Any) -> Any:
    """Statistics kept by hand, as makemore has them, and codes that follow what they are given."""
    class Norm(layers.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("average", t.zeros(4))
            self.register_buffer("calls", t.zeros(()))
            self.gain = layers.Parameter(t.ones(4))

        def forward(self, x: Any) -> Any:
            if not self.training:
                return {"y": (x - self.average) * self.gain, "twice": self.average * 2}
            mean = x.mean(0)
            self.average = 0.9 * self.average + 0.1 * mean.detach()
            self.calls += 1
            return {"y": (x - mean) * self.gain, "twice": self.average * 2}

    class Model(layers.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = Norm(), layers.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            found = self.norm(x)
            return self.last(found["y"]), found["twice"]

    return Model()


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("times", [1, 2])
def test_what_forward_assigns_to_a_state_is_what_each_step_does(times: int, backend: str) -> None:
    theirs, ours = normalizing(torch, torch.nn), normalizing(graphc, nn)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x = graphc.placeholder("x", ("batch", 4))
    y, twice = [ours(x + k) for k in range(times)][-1]
    first = (ours(x)[0] * 0).sum() if times == 2 else 0  # a model that is called twice in a step changes twice
    step = graphc.train_step((y ** 2).mean() + first, optim.SGD(ours.parameters(), lr=0.1), outputs=twice, backend=backend)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for rows in (6, 5, 6):
        given = torch.tensor(X[:rows])
        expected, average = theirs(given + times - 1)
        if times == 2:
            theirs(given)
        loss = (expected ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = step(X[:rows])
        np.testing.assert_allclose(found[0], loss.detach(), rtol=1e-5)
        if times == 1:
            np.testing.assert_allclose(found[1], average, rtol=1e-5, atol=1e-6)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    theirs.eval()
    ours.eval()
    np.testing.assert_allclose(ours(X)[0], theirs(torch.tensor(X))[0].detach(), rtol=1e-4, atol=1e-5)


def test_a_call_on_arrays_advances_states_and_compiles_once() -> None:
    model = normalizing(graphc, nn)
    for k in range(4):
        model(X)
        assert model.norm.calls.item() == k + 1
    assert len(model._programs) == 1


def test_states_that_a_loop_does_not_carry_advance_once_a_step() -> None:
    """Whichever result of the loop is asked for."""
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", np.zeros(()))

        def forward(self, x: Any) -> Any:
            self.calls = self.calls + 1
            return x * self.calls

    model, x = Counting(), inputs()
    carry, ys = graphc.scan(lambda c, r: (c + r.sum(), model(r)), graphc.zeros(()), x)
    for k, asked in enumerate((ys, carry, [carry, ys])):
        found = graphc.function([x], asked)(X)
        np.testing.assert_allclose(found[1] if k == 2 else found, X.sum() if k == 1 else X * (k + 1), rtol=1e-5)
        assert model.calls.item() == k + 1


def test_what_no_result_carries_is_told() -> None:
    class Wrong(nn.Module):
        def __init__(self, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.shape = shape
            self.register_buffer("kept", np.zeros(shape))

        def forward(self, x: Any) -> Any:
            self.kept = x.sum(0)

    with pytest.raises(GraphError, match="'kept' a new value, and returns no symbol"):
        Wrong((4,))(inputs())
    with pytest.raises(graphc.errors.ShapeError, match=r"'kept' is f64\[3\], the value that forward assigns to it f32\[4\]"):
        Wrong((3,))(inputs())
    with pytest.raises(GraphError, match=r"in each step graphc\.updating\(result, \{self\.kept: new value\}\)"):
        Wrong((4,)).forward(inputs())


def test_symbols_of_known_values_are_given_as_values() -> None:
    """A spatial transformer's first bias, a target network, and weights that are set."""
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    one.bias.data.copy_(graphc.tensor([1.0, 0, 2]))
    one.weight.data = graphc.eye(3) * 0.5
    other.weight.data.copy_(0.25 * one.weight + 0.75 * graphc.ones(3, 3))
    np.testing.assert_allclose(other.weight.numpy(), np.full((3, 3), 0.75) + np.eye(3) * 0.125)
    np.testing.assert_array_equal(one.bias.numpy(), [1, 0, 2])
    one.bias.add_(one.bias * 2, alpha=0.5).mul_(graphc.full((3,), 3.0))
    np.testing.assert_array_equal(one.bias.numpy(), [6, 0, 12])
    with pytest.raises(DTypeError, match="is given numbers now"):
        one.bias.copy_(graphc.placeholder("b", (3,)))


def test_parameters_change_in_place_where_no_gradients_pass() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.numpy()
    with graphc.no_grad():
        for p in model.parameters():
            p *= 0.5
            p += 1
            p -= 3
            p /= 2
    np.testing.assert_allclose(model.weight.numpy(), (before * 0.5 - 2) / 2, rtol=1e-6)
    w = model.weight
    w *= 2  # a product, which changes nothing
    assert w is not model.weight and not isinstance(w, graphc.Parameter)


# -- as PyTorch has it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [
    "~t.tril(t.ones(3, 3, dtype=t.bool))", "~t.triu(t.ones(3, 4, dtype=t.bool), 1)", "t.diag(t.tensor([True, False, True]))",
    "t.diag(t.ones(3, 3, dtype=t.bool))", "t.diag_embed(t.tensor([[True, False]]))", "t.diagflat(t.tensor([True, True]))",
    "t.outer(t.tensor([True, False]), t.tensor([True, True]))", "t.outer(t.tensor([1, 2]), t.tensor([True, True]))",
    "~t.zeros(1, 3, dtype=t.bool).scatter(1, t.tensor([[1]]), True)",
    "t.zeros(2, 3, dtype=t.bool).scatter(1, t.tensor([[1], [2]]), t.tensor([[True], [True]]))",
    "t.ones(1, 3).masked_fill(~t.tril(t.ones(3, 3, dtype=t.bool)), 0.0)",
    "t.logical_and(t.tensor([2, 0]), t.tensor([1, 1]))", "t.logical_or(t.tensor([2, 0]), t.tensor([0, 0]))",
    "t.logical_xor(t.tensor([2, 0]), t.tensor([1, 1]))", "t.logical_not(t.tensor([1, 1, 0]))",
    "t.logical_not(t.tensor([0.5, 0.0]))", "t.logical_and(t.tensor([0.5, 0.0]), t.tensor([True, True]))",
    "t.tensor([6]) & t.tensor([3])", "~t.tensor([1, 0])", "t.tensor([6]) ^ 3", "t.bitwise_or(t.tensor([6]), t.tensor([1]))",
    "t.bitwise_not(t.tensor([6]))", "t.tensor([6]).bitwise_and(t.tensor([2]))", "t.arange(1, 4) ** 2.0", "t.arange(1, 4) ** 2",
    "t.arange(1, 4) ** -1.0", "-t.bernoulli(t.ones(3))", "t.bernoulli(t.ones(2)) + t.bernoulli(t.ones(2))"])
def test_types_and_values_are_pytorchs(said: str) -> None:
    expected, found = eval(said, {"t": torch}).numpy(), eval(said, {"t": graphc}).eval()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_masks_of_bools_are_masks() -> None:
    q = graphc.placeholder("q", (1, 5, 4))
    hidden = graphc.triu(graphc.ones(5, 5, dtype=graphc.bool), 1)
    value = np.random.default_rng(1).standard_normal((1, 5, 4)).astype(np.float32)
    found = graphc.function([q], F.scaled_dot_product_attention(q, q, q, attn_mask=~hidden))(value)
    t = torch.tensor(value)
    expected = torch.nn.functional.scaled_dot_product_attention(t, t, t, is_causal=True)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_an_angle_has_no_gradient_where_there_is_no_direction() -> None:
    y, x = graphc.placeholder("y", (3,)), graphc.placeholder("x", (3,))
    program = graphc.function([y, x], graphc.grad(graphc.atan2(y, x).sum(), [y, x]))
    values = np.array([0, 1, -2], np.float32), np.array([0, 0.5, 3], np.float32)
    leaves = [torch.tensor(v, requires_grad=True) for v in values]
    torch.atan2(*leaves).sum().backward()
    for found, leaf in zip(program(*values), leaves, strict=True):
        np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-6)


SIZES: dict[str, Callable[[Any], Any]] = {
    "sum / size": lambda x: x.sum() / x.shape[0], "size()": lambda x: x / x.size(0), "numel": lambda x: x.sum() / x.numel(),
    "size * mean": lambda x: x.shape[0] * x.mean(), "size - mean": lambda x: x.shape[0] - x.mean(),
    "1 / size": lambda x: x * (1 / x.shape[0]), "power": lambda x: x * x.shape[0] ** -0.5,
    "half": lambda x: x * (x.shape[0] * 0.5), "over 2": lambda x: x + x.shape[0] / 2, "more": lambda x: x + (x.shape[0] + 0.5),
    "less": lambda x: x + (0.5 - x.shape[0]), "sizes": lambda x: x * (x.shape[0] / (x.shape[0] + 1))}


@pytest.mark.parametrize("name", SIZES)
def test_open_sizes_are_numbers(name: str) -> None:
    x = graphc.placeholder("x", ("batch", 4))
    program = graphc.function([x], SIZES[name](x))
    for rows in (6, 3):
        np.testing.assert_allclose(program(X[:rows]), SIZES[name](torch.tensor(X[:rows])).numpy(), rtol=1e-5)


def test_open_sizes_of_integers() -> None:
    x = graphc.placeholder("x", ("batch", 4))
    size = x.shape[0]
    made = [graphc.arange(size) + size, graphc.full((2,), size), graphc.maximum(graphc.arange(3), size)]
    program = graphc.function([x], made)
    for found, expected in zip(program(X), (np.arange(6, 12), [6, 6], [6, 6, 6]), strict=True):
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)


def test_derivatives_along_one_tensor_need_no_list() -> None:
    v = graphc.placeholder("v", (2,))
    ones, value = graphc.ones(2), np.array([1, 2], np.float32)
    for bare, listed in ((graphc.vjp(v * v, v, ones), graphc.vjp(v * v, [v], ones)[0]),
                         (graphc.hvp((v ** 3).sum(), v, ones), graphc.hvp((v ** 3).sum(), [v], [ones])[0]),
                         (graphc.jvp(v * v, v, ones), graphc.jvp(v * v, [v], [ones]))):
        found, expected = graphc.function([v], [bare, listed])(value)
        assert expected.any()
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [3, "batch"])
@pytest.mark.parametrize("make", [lambda x: x / 255.0, lambda x: graphc.cat([x, graphc.relu(x)], 1)[:, :3], lambda x: x + x])
def test_a_convolution_of_single_pixels_computes_them_on_the_way(make: Callable[[Any], Any], batch: Any, threads: int
                                                                 ) -> None:
    """A forward pass alone: images stay apart in the result, and their pixels are computed while they are packed."""
    graphc.manual_seed(0)
    layer = nn.Conv2d(3, 8, 1)
    x = graphc.placeholder("x", (batch, 3, 8, 8))
    value = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    results = [graphc.function([x], layer(make(x)), backend=b, threads=threads)(value) for b in ("native", "numpy")]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-5)
    w = graphc.parameter("w", np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32))
    y = graphc.placeholder("y", (2, 4, 64))
    value = np.random.default_rng(2).standard_normal((2, 4, 64)).astype(np.float32)
    results = [graphc.function([y], w @ (y * 2), backend=b, threads=threads)(value) for b in ("native", "numpy")]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", [
    lambda x: graphc.cat([x, x], dims=1), lambda x: graphc.stack([x, x], axes=2), lambda x: graphc.diff(x, prepend=x),
    lambda x: x.flip(axes=0), lambda x: x.unsqueeze(axes=0), lambda x: x.squeeze(dims=0), lambda x: x.split(2, axes=1),
    lambda x: x.sum(dims=1), lambda x: graphc.roll(x, 1, axes=0), lambda x: x.repeat_interleave(2, axes=0)])
def test_arguments_that_nothing_knows_are_refused(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"axes|dims|prepend"):
        call(inputs())
