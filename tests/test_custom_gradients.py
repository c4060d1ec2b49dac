"""Functions with a gradient rule of their own: `custom_vjp` and `autograd.Function`, against PyTorch's and differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import testing
from graphc.symbols import Tensor
from graphc.text import parse

G = np.random.default_rng(0)


def made(function: Callable[..., Any], forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    custom = graphc.custom_vjp(function)
    custom.defvjp(forward, backward)
    return custom


def log1pexp() -> Any:
    """The example of JAX's documentation: exp's overflow would make the derived gradient NaN."""
    return made(lambda x: graphc.log(1.0 + graphc.exp(x)), lambda x: (graphc.log(1.0 + graphc.exp(x)), x),
                lambda x, g: (g * (1.0 - 1.0 / (1.0 + graphc.exp(x))),))


def two_results() -> Any:
    return made(lambda x, y: ((x * y).sin(), x + y), lambda x, y: (((x * y).sin(), x + y), (x, y)),
                lambda kept, g: (g[0] * (kept[0] * kept[1]).cos() * kept[1] + g[1],
                                 g[0] * (kept[0] * kept[1]).cos() * kept[0] + g[1]))


def nested() -> Any:
    def function(pair: dict[str, Tensor], power: int) -> list[Tensor]:
        return [pair["a"] ** power * pair["b"]]

    def backward(kept: Any, g: list[Tensor]) -> tuple[Any, None]:
        pair, power = kept
        return {"a": g[0] * power * pair["a"] ** (power - 1) * pair["b"], "b": g[0] * pair["a"] ** power}, None

    custom = made(function, lambda pair, power: (function(pair, power), (pair, power)), backward)
    return lambda a, b: custom({"a": a, "b": b}, 3)[0]


@pytest.mark.parametrize(("build", "count"), [(log1pexp, 1), (two_results, 2), (nested, 2)])
def test_right_rules_pass_the_checker_to_second_order(build: Callable[[], Any], count: int) -> None:
    assert testing.gradcheck(build(), [G.uniform(0.5, 1.5, (2, 3)) for _ in range(count)], order=2)


def test_the_rule_is_used_and_not_what_would_be_derived() -> None:
    x = graphc.placeholder("x", ())
    stable, plain = log1pexp()(x), graphc.log(1.0 + graphc.exp(x))
    for backend in ("native", "numpy"):
        program = graphc.function([x], graphc.grad(stable, x), backend=backend)
        np.testing.assert_allclose([program(100.0), program(0.0)], [1.0, 0.5])
    assert np.isnan(graphc.grad(plain, x).eval(x=100.0))


class Clipped(graphc.autograd.Function):
    """The identity with a rule that is not its derivative, of two arguments, one of them no tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        assert ctx.needs_input_grad == (True, False)
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return g * graphc.clip(x, -ctx.limit, ctx.limit), None


class TorchClipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, limit: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * torch.clip(x, -ctx.limit, ctx.limit), None


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "in a checkpoint"])
def test_function_is_as_in_torch(backend: str, wrap: bool) -> None:
    values = G.standard_normal((3, 4))
    x = graphc.placeholder("x", (3, 4), "float64")

    def body(v: Any, function: Any) -> Any:
        return function.apply(v.sin(), 0.3) * v

    out = graphc.checkpoint(body, x, Clipped) if wrap else body(x, Clipped)
    first = graphc.grad((out * out).sum(), x)
    second = graphc.grad((first * first).sum(), x)
    found = graphc.function([x], [out, first, second], backend=backend)(values)
    t = torch.tensor(values, requires_grad=True)
    expected = body(t, TorchClipped)
    (t_first,) = torch.autograd.grad((expected * expected).sum(), t, create_graph=True)
    (t_second,) = torch.autograd.grad((t_first * t_first).sum(), t)
    for one, other in zip(found, (expected, t_first, t_second), strict=True):
        np.testing.assert_allclose(one, other.detach(), rtol=1e-10, atol=1e-12)


def test_jvp_transposes_the_rule() -> None:
    x = graphc.placeholder("x", (3,), "float64")
    at, direction = np.array([0.1, 0.7, -2.0]), np.array([1.0, -1.0, 0.5])
    tangent = graphc.jvp(log1pexp()(x), [x], [direction]).eval(x=at)
    np.testing.assert_allclose(tangent, direction / (1.0 + np.exp(-at)), rtol=1e-12)


def test_a_training_step_with_a_rule() -> None:
    """A straight-through estimator: rounding forward, the identity backward."""
    rounded = made(lambda v: graphc.round(v), lambda v: (graphc.round(v), None), lambda _, g: (g,))
    w = graphc.parameter("w", [0.3, 1.8])
    x = graphc.placeholder("x", (2,))
    step = graphc.train_step((rounded(w) * x).sum(), graphc.optim.SGD([w], lr=0.1))
    assert step([1.0, 2.0]) == 4.0
    np.testing.assert_allclose(w.numpy(), [0.2, 1.6], rtol=1e-6)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "too few": (lambda kept, g: (g,), graphc.GraphError, "tuple of 2 cotangents, one per argument"),
    "no tuple": (lambda kept, g: g, graphc.GraphError, "tuple of 2 cotangents.*got Tensor"),
    "shape": (lambda kept, g: (g.sum(), g), graphc.ShapeError, r"argument 0 is f32\[\], the argument f32\[3\]; sum it"),
    "dtype": (lambda kept, g: (g, g.astype("float64")), graphc.DTypeError, r"argument 1 is f64\[3\].*\.astype it"),
    "nonsense": (lambda kept, g: ("text", g), graphc.GraphError, "argument 0 is 'text', which is no tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_rules_that_do_not_fit_are_named_with_their_line(case: str) -> None:
    backward, error, message = WRONG[case]
    product = made(lambda a, b: a * b, lambda a, b: (a * b, None), backward)
    product.__name__ = "product"
    x = graphc.placeholder("x", (3,))
    with pytest.raises(error, match=message) as caught:
        graphc.grad(product(x, x).sum(), x)
    assert "custom_vjp 'product'" in str(caught.value) and "test_custom_gradients.py:" in str(caught.value)


def test_other_wrong_uses_are_errors_with_a_remedy() -> None:
    x, w = graphc.placeholder("x", (3,)), graphc.parameter("w", [1.0, 2.0, 3.0])
    with pytest.raises(graphc.GraphError, match=r"no rule was given; call .*defvjp"):
        graphc.custom_vjp(lambda v: v)(x)
    with pytest.raises(graphc.GraphError, match=r"reads the parameter 'w', which is not among its arguments"):
        made(lambda v: v * w, lambda v: (v * w, None), lambda _, g: (g,))(x)
    fixed = made(lambda v: v * graphc.stop_gradient(w), lambda v: (v * graphc.stop_gradient(w), None), lambda _, g: (g,))
    assert graphc.grad(fixed(x).sum(), x).eval().tolist() == [1, 1, 1]
    with pytest.raises(graphc.ShapeError, match=r"gives f32\[\], the function itself f32\[3\]"):
        graphc.grad(made(lambda v: v, lambda v: (v.sum(), None), lambda _, g: (g,))(x).sum(), x)
    with pytest.raises(graphc.GraphError, match=r"must give \(result, residuals\)"):
        graphc.grad(made(lambda v: v, lambda v: v, lambda _, g: (g,))(x).sum(), x)
    whole = made(lambda v, i: v * 2.0, lambda v, i: (v * 2.0, None), lambda _, g: (g * 2.0, g))
    with pytest.raises(graphc.DTypeError, match=r"argument 1 must be None: the argument is i64\[3\]"):
        graphc.grad(whole(x, graphc.arange(3)).sum(), x)
    with pytest.raises(graphc.GraphError, match="static backward"):
        graphc.grad(type("Half", (graphc.autograd.Function,), {"forward": staticmethod(lambda ctx, v: v)}).apply(x).sum(), x)


@pytest.mark.parametrize("build", [log1pexp, two_results])
def test_the_checker_finds_a_wrong_rule(build: Callable[[], Any]) -> None:
    right = build()
    forward, backward = right.rules()
    right.defvjp(forward, lambda kept, g: tuple(1.01 * c for c in backward(kept, g)))
    arrays = [G.uniform(0.5, 1.5, 3) for _ in range(2 if build is two_results else 1)]
    with pytest.raises(testing.GradientError, match="finite differences"):
        testing.gradcheck(right, arrays)


def test_graphs_with_rules_print_parse_and_draw() -> None:
    x = graphc.placeholder("x", (3,))
    first, second = two_results()(x, x * 2.0)
    program = graphc.function([x], [first, second, graphc.grad((first * second).sum(), x)])
    for stage in ("forward", "gradient", "simplified"):
        for form in ("text", "json", "dot", "html"):
            assert program.dump(stage, form)
    text = graphc.text.format_graph(program.graph)
    again = parse(text, {"x": x})
    assert again.roots == program.graph.roots and graphc.text.format_graph(again) == text
    assert "custom_vjp" not in program.dump("simplified")
