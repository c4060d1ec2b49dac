"""Loops and branches in the graph: values and gradients of two orders against loops of PyTorch, and what else they promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from graphc.runtime.interpreter import evaluate

import graphc
from graphc import Tensor, nn, optim
from graphc.ir import Graph
from graphc.loops import flatten
from graphc.op import Kind
from graphc.testing import gradcheck
from graphc.text import format_graph

# -- the same programs in both libraries -----------------------------------------------------------------------------


class Ours:
    scan, cond, fori_loop = staticmethod(graphc.scan), staticmethod(graphc.cond), staticmethod(graphc.fori_loop)
    where, sum, embedding = staticmethod(graphc.where), staticmethod(graphc.sum), staticmethod(nn.functional.embedding)

    @staticmethod
    def zeros(*shape: Any) -> Tensor:
        return graphc.zeros(shape, "float64")

    @staticmethod
    def integer(value: int) -> Tensor:
        return graphc.constant(value, "int64")


class Theirs:
    """PyTorch, with loops and branches of Python."""

    where, sum = torch.where, torch.sum

    @staticmethod
    def embedding(indices: Any, table: Any) -> Any:
        return table[indices]

    @staticmethod
    def zeros(*shape: int) -> Any:
        return torch.zeros(shape, dtype=torch.float64)

    @staticmethod
    def integer(value: int) -> Any:
        return torch.tensor(value)

    @staticmethod
    def scan(f: Any, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False, segments: Any = None) -> Any:
        leaves, shape = flatten(xs)
        steps = len(leaves[0][1]) if leaves else length
        carry, rows = init, []
        for t in reversed(range(steps)) if reverse else range(steps):
            carry, y = f(carry, shape.build(iter([leaf[t] for _, leaf in leaves])))
            rows.append(y)
        rows = rows[::-1] if reverse else rows
        structure = flatten(rows[0])[1]
        stacks = zip(*([leaf for _, leaf in flatten(row)[0]] for row in rows), strict=True)
        return carry, structure.build(iter([torch.stack(s) for s in stacks]))

    @staticmethod
    def cond(flag: Any, then: Any, otherwise: Any, *operands: Any) -> Any:
        return (then if flag else otherwise)(*operands)

    @staticmethod
    def fori_loop(low: int, high: int, f: Any, init: Any) -> Any:
        for i in range(low, high):
            init = f(i, init)
        return init


Program = Callable[..., Any]
T, B, D = 5, 3, 4


def running_sum(lib: Any, x: Any) -> Any:
    return lib.scan(lambda total, row: (total + row, total * row), lib.zeros(B, D), x)


def simple_rnn(lib: Any, x: Any, w: Any, u: Any, b: Any, reverse: bool = False, segments: int | None = None) -> Any:
    def step(h: Any, row: Any) -> Any:
        h = (row @ u + h @ w + b).tanh()
        return h, h
    return lib.scan(step, lib.zeros(B, D), x, reverse=reverse, segments=segments)


def lstm(lib: Any, x: Any, w: Any, b: Any, c: Any, segments: int | None = None) -> Any:
    def step(carry: Any, x: Any) -> Any:
        gates = carry["h"] @ w + b + x["in"]
        i, f, g, o = (gates[:, k * D:k * D + D] for k in range(4))
        new = f.sigmoid() * carry["c"] + i.sigmoid() * g.tanh()
        return {"h": o.sigmoid() * new.tanh(), "c": new}, {"h": carry["h"], "n": (new, None)}
    return lib.scan(step, {"h": lib.zeros(B, D), "c": c}, {"in": x}, segments=segments)


def counted(lib: Any, x: Any, w: Any) -> Any:
    """An integer carry, and a value that turns on it."""
    def step(carry: Any, row: Any) -> Any:
        n, h = carry
        h = lib.where(n % 2 == 0, h @ w + row, h * row)
        return (n + 1, h), h.sum(0)
    return lib.scan(step, (lib.integer(0), lib.zeros(B, D)), x)


def power(lib: Any, v: Any, w: Any) -> Any:
    return lib.scan(lambda v, _: ((w @ v).tanh(), (v * v).sum()), v, length=4)


def backwards_accumulated(lib: Any, x: Any, w: Any) -> Any:
    return lib.scan(lambda h, row: ((h @ w).sigmoid() + row, h), lib.zeros(B, D), x, reverse=True)


def nested(lib: Any, x: Any, w: Any, s: Any) -> Any:
    """A loop over rows inside a loop over time."""
    def outer(h: Any, rows: Any) -> Any:
        def inner(k: Any, row: Any) -> Any:
            k = (k @ w + row * s).tanh()
            return k, k * h
        last, stacked = lib.scan(inner, h, rows)
        return last + stacked.sum(0), stacked
    return lib.scan(outer, lib.zeros(D), x)


def branch_in_loop(lib: Any, x: Any, w: Any, b: Any) -> Any:
    def step(h: Any, row: Any) -> Any:
        h = lib.cond(row.sum() > 0, lambda h, r: (h @ w + r).tanh(), lambda h, r: h * r.exp() - b, h, row)
        return h, h * 2.0
    return lib.scan(step, lib.zeros(B, D), x)


def loop_in_branch(lib: Any, x: Any, w: Any, s: Any) -> Any:
    return lib.cond(s.sum() > 0, lambda x: lib.scan(lambda h, r: ((h @ w + r).tanh(), h), lib.zeros(B, D), x)[0],
                    lambda x: (x * s).sum(0), x)


def shift_register(lib: Any, x: Any) -> Any:
    return lib.scan(lambda c, row: ((c[1], c[2], c[0] * row), c[0] + c[1]), (x[0], x[1], x[0] * 2.0), x)


def mapped(lib: Any, x: Any, w: Any) -> Any:
    return lib.scan(lambda _, row: (None, ((row @ w).softmax(-1), row.exp().mean(0))), None, x)[1]


def scaled(lib: Any, x: Any, s: Any, k: Any) -> Any:
    """Operands whose gradients are sums of products: nothing to contract behind the loop."""
    return lib.scan(lambda h, row: (h * s + row - k * row, (h * k).sin()), lib.zeros(B, D), x)


def invariants(lib: Any, x: Any, w: Any, b: Any) -> Any:
    """What a step computes without its carry and row, and views of what it reads."""
    def step(h: Any, row: Any) -> Any:
        h = (h @ (w @ w).tanh().T + w[0] * b.sum() - row).tanh()
        return h, (w * 2.0).sum() + h.sum()
    return lib.scan(step, lib.zeros(B, D), x)


def looked_up(lib: Any, i: Any, table: Any) -> Any:
    return lib.scan(lambda h, i: ((h + lib.embedding(i, table)).tanh(), h), lib.zeros(B, D), i)


def unused(lib: Any, x: Any, w: Any) -> Any:
    """Carries and rows of which nothing is read."""
    (a, _), ys = lib.scan(lambda c, r: ((c[0] @ w + r, c[1] * 2.0), (c[0], c[1] @ w)), (x[0], x[1]), x)
    return a, ys[0]


def detached(lib: Any, x: Any, w: Any) -> Any:
    return lib.scan(lambda h, row: ((h.detach() @ w + row * h).tanh(), h.detach()), x[0], x)


def picked(lib: Any, x: Any, w: Any) -> Any:
    return lib.cond(x.sum() > 1e9, lambda a, b: (a @ b, a), lambda a, b: (a.tanh() @ b.T, a * a), x, w)


def counted_loop(lib: Any, x: Any, w: Any) -> Any:
    return lib.fori_loop(1, 4, lambda i, h: (h @ w).tanh() * i, x)


@dataclass(frozen=True)
class Case:
    program: Program
    shapes: tuple[Any, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.program.__name__, *(f"{k}{v}" for k, v in self.settings.items())])


W, X = (D, D), (T, B, D)
CASES = [Case(running_sum, (X,)), Case(simple_rnn, (X, W, W, (D,))), Case(simple_rnn, (X, W, W, (D,)), {"reverse": True}),
         Case(lstm, ((T, B, 4 * D), (D, 4 * D), (4 * D,), (B, D))), Case(counted, (X, W)), Case(power, ((D,), W)),
         Case(backwards_accumulated, (X, W)), Case(nested, ((2, 3, D), W, (D,))), Case(branch_in_loop, (X, W, (D,))),
         Case(loop_in_branch, (X, W, (D,))), Case(shift_register, (X,)), Case(mapped, (X, W)),
         Case(scaled, (X, (B, D), (B, D))), Case(invariants, (X, W, (3,))), Case(unused, (X, W)), Case(detached, (X, W)),
         Case(looked_up, (np.arange(T * B).reshape(T, B) % 3, (3, D))), Case(picked, (X, W)),
         Case(counted_loop, ((B, D), W)),
         Case(simple_rnn, ((1, B, D), W, W, (D,))), Case(simple_rnn, ((2, B, D), W, W, (D,))),
         *(Case(simple_rnn, ((7, B, D), W, W, (D,)), {"segments": k, "reverse": r}) for k, r in ((1, False), (2, True), (3, False))),
         Case(lstm, ((6, B, 4 * D), (D, 4 * D), (4 * D,), (B, D)), {"segments": 3})]


def arrays_of(case: Case) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [s if isinstance(s, np.ndarray) else rng.normal(size=s) * 0.7 for s in case.shapes]


def tensors_in(value: Any) -> list[Any]:
    return [leaf for _, leaf in flatten(value)[0]]


def weighted(results: Sequence[Any], number: Callable[[np.ndarray], Any]) -> Any:
    total: Any = 0.0
    for k, r in enumerate(results):
        weights = np.random.default_rng(k).normal(size=tuple(r.shape))
        total = total + (r * number(weights)).sum() + ((r * r) * number(weights * weights)).sum()
    return total


def oracle(case: Case, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Results, gradients, and gradients of the gradients' squares, by PyTorch."""
    inputs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    results = [torch.as_tensor(r) for r in tensors_in(case.program(Theirs, *inputs, **case.settings))]
    targets = [i for i in inputs if i.requires_grad]
    first = torch.autograd.grad(weighted([r for r in results if r.is_floating_point()], torch.tensor), targets,
                                create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), targets, materialize_grads=True)
    return [t.detach().numpy() for t in (*results, *first, *second)]


def symbols(case: Case, arrays: Sequence[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
    inputs = [graphc.placeholder(f"x{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
    results = tensors_in(case.program(Ours, *inputs, **case.settings))
    targets = [i for i in inputs if i.dtype.is_float]
    first = graphc.grad(weighted([r for r in results if r.dtype.is_float], graphc.constant), targets, allow_unused=True)
    total: Any = sum(((g * g).sum() for g in first), graphc.constant(0.0, "float64"))
    return inputs, [*results, *first, *graphc.grad(total, targets, allow_unused=True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_of_two_orders_are_pytorchs(case: Case) -> None:
    arrays = arrays_of(case)
    expected = oracle(case, arrays)
    inputs, roots = symbols(case, arrays)
    plain = evaluate([r.node for r in roots], dict(zip([i.node for i in inputs], arrays, strict=True)))
    interpreted = graphc.function(inputs, roots, backend="numpy")(*arrays)
    native = graphc.function(inputs, roots)(*arrays)
    for k, want in enumerate(expected):
        bound = {"rtol": 1e-10, "atol": 1e-11 * max(1.0, float(np.abs(want).max(initial=0.0)))}
        for name, found in (("the graph", plain), ("numpy", interpreted), ("native", native)):
            np.testing.assert_allclose(found[k], want, **bound, err_msg=f"result {k} of {name}")
