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
from graphc.ops.control import updating
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
    def grad(loss: Tensor, wrt: Tensor) -> Tensor:
        return graphc.grad(loss, wrt)

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
    def grad(loss: Any, wrt: Any) -> Any:
        if not wrt.requires_grad:
            wrt.requires_grad_()
        return torch.autograd.grad(loss, wrt, create_graph=True)[0]

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


def descent(lib: Any, x: Any, w: Any, rate: Any) -> Any:
    """Gradient steps inside a loop: its gradient is a hypergradient."""
    def step(w: Any, row: Any) -> Any:
        loss = (((row @ w).tanh() - row) ** 2).sum()
        return w - rate.exp() * 0.1 * lib.grad(loss, w), loss
    return lib.scan(step, w, x)


def gradient_of_a_loop_in_a_loop(lib: Any, x: Any, w: Any) -> Any:
    def step(h: Any, row: Any) -> Any:
        inner = lib.scan(lambda k, r: ((k * r).sin(), k), h, x)[1]
        return h - lib.grad((inner * inner).sum(), h) * 0.01 + row @ w, inner.sum()
    return lib.scan(step, lib.zeros(B, D) + x[0], x)


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
         Case(counted_loop, ((B, D), W)), Case(descent, (X, W, ())), Case(gradient_of_a_loop_in_a_loop, ((3, B, D), W)),
         Case(simple_rnn, ((1, B, D), W, W, (D,))), Case(simple_rnn, ((2, B, D), W, W, (D,))),
         *(Case(simple_rnn, ((7, B, D), W, W, (D,)), {"segments": k, "reverse": r})
           for k, r in ((1, False), (2, True), (3, False))),
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


def test_the_case_that_no_loop_of_pytorch_covers_no_steps_at_all() -> None:
    x, h, w = (graphc.placeholder(n, s, "float64") for n, s in (("x", (0, B, D)), ("h", (B, D)), ("w", W)))
    last, ys = simple_rnn_from(h, x, w)
    roots = [last, ys, *graphc.grad((last * last).sum() + ys.sum(), [h, x, w])]
    start = np.random.default_rng(0).normal(size=(B, D))
    expected = [start, np.zeros((0, B, D)), 2 * start, np.zeros((0, B, D)), np.zeros(W)]
    for backend in ("numpy", "native"):
        found = graphc.function([x, h, w], roots, backend=backend)(np.zeros((0, B, D)), start, np.ones(W))
        for want, got in zip(expected, found, strict=True):
            np.testing.assert_array_equal(got, want)


def simple_rnn_from(h: Tensor, x: Tensor, w: Tensor) -> Any:
    def step(h: Tensor, row: Tensor) -> Any:
        h = (h @ w + row).tanh()
        return h, h * 2.0
    return graphc.scan(step, h, x)


# -- open lengths, dtypes, threads -----------------------------------------------------------------------------------


def rnn_gradients(dtype: str, length: Any = "time") -> tuple[list[Tensor], list[Tensor]]:
    x, h, w = (graphc.placeholder(n, s, dtype) for n, s in (("x", (length, "batch", 8)), ("h", ("batch", 8)), ("w", (8, 8))))
    last, ys = simple_rnn_from(h, x, w)
    return [x, h, w], [last, ys, *graphc.grad((last * last).sum() + (ys * ys).mean(), [x, h, w])]


def feeds(steps: int, batch: int, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(steps)
    return [(0.5 * rng.normal(size=s)).astype(dtype) for s in ((steps, batch, 8), (batch, 8), (8, 8))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_program_runs_loops_of_any_length(dtype: str) -> None:
    inputs, roots = rnn_gradients(dtype)
    native, numpy = graphc.function(inputs, roots), graphc.function(inputs, roots, backend="numpy")
    bound = 1e-5 if dtype == "float32" else 1e-12
    for steps, batch in ((1, 1), (2, 3), (5, 2), (17, 4)):
        arrays = feeds(steps, batch, dtype)
        for got, want in zip(native(*arrays), numpy(*arrays), strict=True):
            assert got.dtype == dtype and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=bound, atol=bound)
    plain = simple_rnn_numpy(*feeds(17, 4, dtype))
    np.testing.assert_allclose(native(*feeds(17, 4, dtype))[0], plain, rtol=bound, atol=bound)


def simple_rnn_numpy(x: np.ndarray, h: np.ndarray, w: np.ndarray) -> np.ndarray:
    for row in x:
        h = np.tanh(h @ w + row)
    return h


@pytest.mark.usefixtures("several_threads")
def test_threads_do_not_change_a_bit() -> None:
    inputs, roots = rnn_gradients("float32")
    arrays = feeds(9, 64, "float32")
    first, *others = ([a.tobytes() for a in graphc.function(inputs, roots, threads=n)(*arrays)] for n in (1, 2, 3))
    assert others == [first, first]


def test_a_length_may_be_open_without_sequences() -> None:
    x = graphc.placeholder("x", ("time",), "float64")
    (number,) = x.shape
    value, ys = graphc.scan(lambda v, _: (v * 1.5, v), graphc.constant(1.0, "float64"), length=number)
    last = graphc.fori_loop(0, number, lambda i, v: v + i, graphc.constant(0, "int64"))
    for backend in ("numpy", "native"):
        f = graphc.function([x], [value, ys, last, x.sum()], backend=backend)
        got = f(np.zeros(6))
        np.testing.assert_allclose(got[0], 1.5 ** 6)
        np.testing.assert_allclose(got[1], 1.5 ** np.arange(6))
        assert got[2] == 15


# -- segments --------------------------------------------------------------------------------------------------------


def segmented(segments: int | None) -> graphc.Program:
    x = graphc.placeholder("x", (256, 8, 16))
    w = graphc.parameter("w", np.random.default_rng(1).normal(size=(16, 16)) * 0.2)

    def step(h: Tensor, row: Tensor) -> Any:
        a = (h @ w + row).tanh()
        return a * (a @ w).sigmoid() + h * 0.5, None
    h, _ = graphc.scan(step, graphc.zeros((8, 16)), x, segments=segments)
    return graphc.function([x], [h, *graphc.grad((h * h).sum(), [x, w])])


def test_segments_take_less_memory_and_give_the_same_bits() -> None:
    whole, parts = segmented(None), segmented(16)
    x = np.random.default_rng(0).normal(size=(256, 8, 16)).astype("float32")
    (h, gx, gw), (h2, gx2, gw2) = whole(x), parts(x)
    assert h.tobytes() == h2.tobytes() and gx.tobytes() == gx2.tobytes()
    np.testing.assert_allclose(gw2, gw, rtol=1e-4, atol=1e-5)  # a sum of sums
    assert parts.specialize().memory_bytes < 0.6 * whole.specialize().memory_bytes


# -- what the passes make of it --------------------------------------------------------------------------------------


def loops_of(graph: Graph) -> list[Any]:
    return [n for n in graph.nodes if n.op.kind is Kind.LOOP]


def kinds_in(graph: Graph) -> list[Kind]:
    return [n.op.kind for n in graph.nodes]


def test_one_forward_loop_and_products_of_all_steps_outside() -> None:
    x = graphc.placeholder("x", ("time", B, D))
    w, u, b = (graphc.parameter(n, np.ones(s)) for n, s in (("w", W), ("u", W), ("b", (D,))))
    last, ys = simple_rnn(OursFloat, x, w, u, b)
    program = graphc.function([x], [ys, *graphc.grad((last * last).sum() + ys.sum(), [w, u, b, x])])
    forward, backward = loops_of(program.simplified)
    (body,), (back,) = forward.graphs, backward.graphs
    assert kinds_in(body).count(Kind.CONTRACT) == 1  # the carry's; the rows' product is taken before
    assert kinds_in(back).count(Kind.CONTRACT) == 1  # the carry's; weights' and rows' are taken behind
    assert Kind.REDUCE not in kinds_in(back)
    assert kinds_in(program.simplified).count(Kind.CONTRACT) == 4
    assert not forward.attributes["reverse"] and backward.attributes["reverse"]


class OursFloat(Ours):
    @staticmethod
    def zeros(*shape: Any) -> Tensor:
        return graphc.zeros(shape)


def test_what_nothing_reads_is_not_computed() -> None:
    x = graphc.placeholder("x", (T, B, D))
    w = graphc.parameter("w", np.ones(W))
    (a, _), (ys, _) = graphc.scan(lambda c, r: ((c[0] + r, (c[1] @ w).exp()), (c[0] * 2.0, (c[1] @ w).sum())),
                                  (graphc.zeros((B, D)), graphc.ones((B, D))), x)
    for outputs, results in ((a, 1), ([a, ys], 2)):
        program = graphc.function([x], outputs)
        (loop,) = loops_of(program.simplified)
        assert loop.attributes["carries"] == 1 and len(loop.types) == results
        assert Kind.CONTRACT not in kinds_in(loop.graphs[0]) and not program.simplified.cells()


def test_a_body_computes_what_changes_alone() -> None:
    x, w = graphc.placeholder("x", (T, B, D)), graphc.parameter("w", np.ones(W))
    h, _ = graphc.scan(lambda h, r: (h @ (w @ w).tanh() + r, None), graphc.zeros((B, D)), x)
    (loop,) = loops_of(graphc.function([x], h).graph)
    assert kinds_in(loop.graphs[0]).count(Kind.CONTRACT) == 1
    assert [i.op.kind for i in loop.inputs[2:]] == [Kind.MAP]  # tanh(w @ w), computed once


def test_equal_bodies_are_equal_nodes() -> None:
    x = graphc.placeholder("x", (T, B, D))

    def make() -> graphc.Tensor:
        return graphc.scan(lambda h, r: ((h * r).tanh(), h), graphc.zeros((B, D)), x)[1]

    assert make().node is make().node


def test_the_graph_does_not_grow_with_the_time_axis() -> None:
    def nodes(steps: int) -> int:
        graphc.manual_seed(0)
        layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        x = graphc.placeholder("x", (steps, 2, 3))
        step = graphc.train_step((layer(x)[0] ** 2).mean(), optim.SGD(layer.parameters(), lr=0.1))
        return len(step.simplified.nodes)
    assert nodes(4) == nodes(400)


def test_an_operand_with_thousands_of_readers() -> None:
    x, w = graphc.placeholder("x", (2,), "float64"), graphc.placeholder("w", (), "float64")

    def step(h: Tensor, row: Tensor) -> Any:
        for _ in range(1500):
            h = h + w * 1e-3
        return h * row, None
    h, _ = graphc.scan(step, graphc.ones((), "float64"), x)
    gradient = graphc.function([x, w], graphc.grad(h, w), backend="numpy")(np.array([2.0, 3.0]), np.array(1.0))
    np.testing.assert_allclose(gradient, 1.5 * 6 + 1.5 * 3)


# -- draws, states, branches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_every_step_draws_anew_and_the_gradient_sees_the_same_numbers(backend: str) -> None:
    drop = nn.Dropout(0.5)
    x = graphc.placeholder("x", (6, 200))
    outside = graphc.uniform((200,))

    def numbers() -> graphc.Tensor:
        return graphc.scan(lambda _, k: (None, graphc.normal(())), None, length=4)[1]

    _, (dropped, drawn, fixed, inner) = graphc.scan(
        lambda _, r: (None, (drop(r), graphc.uniform((3,)), outside + 0.0 * r, numbers())), None, x)
    f = graphc.function([x], [dropped, drawn, fixed, inner, graphc.grad(dropped.sum(), x)], backend=backend)
    ones = np.ones((6, 200), "float32")
    first, second = f(ones), f(ones)
    for kept, _, constant, normal, gradient in (first, second):
        assert len({row.tobytes() for row in kept}) == 6 and abs(kept.mean() - 1) < 0.15
        assert len({row.tobytes() for row in constant}) == 1
        assert np.unique(normal).size == 24
        assert gradient.tobytes() == kept.tobytes()  # of ones: the mask, scaled
    assert len({row.tobytes() for row in first[1]}) == 6
    assert first[0].tobytes() != second[0].tobytes()  # the layer's key moves once a step of the program
    assert first[1].tobytes() == second[1].tobytes()


def test_both_backends_draw_the_same_bits() -> None:
    graphc.manual_seed(3)
    x = graphc.placeholder("x", (5, 7))
    ys = graphc.scan(lambda c, r: (c + graphc.normal((7,)), c * graphc.uniform((7,)) + r), graphc.zeros((7,)), x)[1]
    a, b = (graphc.function([x], ys, backend=k)(np.zeros((5, 7))) for k in ("numpy", "native"))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_state_that_a_branch_updates() -> None:
    count, x = graphc.state("count", 0), graphc.placeholder("x", ())
    y = graphc.cond(x > 0, lambda: updating(x * 2.0, {count: count + 1}), lambda: x)
    for backend in ("numpy", "native"):
        count.assign(0)
        f = graphc.function([x], y, backend=backend)
        assert [float(f(v)) for v in (1.0, -1.0, 3.0)] == [2.0, -1.0, 6.0]
        assert count.item() == 2


def test_nothing_flows_through_the_branch_that_does_not_run() -> None:
    x = graphc.placeholder("x", (3,), "float64")
    y = graphc.cond(x.sum() > 0, lambda v: v.log(), lambda v: v * 3.0, x).sum()
    for backend in ("numpy", "native"):
        f = graphc.function([x], [y, graphc.grad(y, x)], backend=backend)
        value, gradient = f(np.array([-1.0, -2.0, 0.0]))
        assert value == -9.0 and (gradient == 3.0).all()
        value, gradient = f(np.array([1.0, 2.0, 4.0]))
        np.testing.assert_allclose(gradient, [1.0, 0.5, 0.25])


def test_a_python_bool_chooses_at_once() -> None:
    x = graphc.placeholder("x", ())
    assert graphc.cond(True, lambda v: v, lambda v: 1 / 0, x) is x


# -- errors ----------------------------------------------------------------------------------------------------------

Z, XS = graphc.zeros((3,)), graphc.placeholder("xs", (5, 3))
COUNTER = graphc.state("counter", 0)
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no pair": (lambda: graphc.scan(lambda c, x: c + x, Z, XS), graphc.GraphError, r"must return a pair .*one tensor f32\[3\]"),
    "three values": (lambda: graphc.scan(lambda c, x: (c, c, x), Z, XS), graphc.GraphError, "returned 3 values"),
    "shape": (lambda: graphc.scan(lambda c, x: (c[:2], None), Z, XS), graphc.ShapeError,
              r"carry starts as f32\[3\], a step makes it f32\[2\]"),
    "dtype": (lambda: graphc.scan(lambda c, x: ({"h": c["h"].astype("float64")}, None), {"h": Z}, XS), graphc.DTypeError,
              r"carry\['h'\] starts as f32\[3\], a step makes it f64\[3\]"),
    "structure": (lambda: graphc.scan(lambda c, x: ((c, c), None), Z, XS), graphc.GraphError, r"from \* to \(\*, \*\)"),
    "no length": (lambda: graphc.scan(lambda c, x: (c, None), Z), graphc.GraphError, "give xs or length"),
    "another length": (lambda: graphc.scan(lambda c, x: (c, None), Z, XS, length=4), graphc.ShapeError,
                       "length has 4 steps, xs is"),
    "lengths": (lambda: graphc.scan(lambda c, x: (c, None), Z, {"a": XS, "b": XS[1:]}), graphc.ShapeError,
                r"xs\['a'\] has 5 steps, xs\['b'\] is f32\[4,3\]"),
    "no axis": (lambda: graphc.scan(lambda c, x: (c, None), Z, graphc.constant(1.0)), graphc.ShapeError, "needs a first axis"),
    "negative": (lambda: graphc.scan(lambda c, x: (c, None), Z, length=-1), graphc.ShapeError, "negative"),
    "segments": (lambda: graphc.scan(lambda c, x: (c, None), Z, XS, segments=0), graphc.GraphError, "positive number"),
    "open segments": (lambda: graphc.scan(lambda c, x: (c, None), Z, graphc.placeholder("o", ("time", 3)), segments=2),
                      graphc.GraphError, "segments need a fixed number of steps, there are 'time'"),
    "update": (lambda: graphc.scan(lambda c, x: (updating(c, {COUNTER: x.sum().astype("int64")}), None), Z, XS),
               graphc.GraphError, "'counter' is updated inside the loop; carry its value"),
    "flag": (lambda: graphc.cond(Z.sum(), lambda: Z, lambda: Z), graphc.DTypeError, r"the flag is f32\[\]"),
    "flags": (lambda: graphc.cond(Z > 0, lambda: Z, lambda: Z), graphc.ShapeError, r"the flag is bool\[3\]"),
    "branch types": (lambda: graphc.cond(Z.sum() > 0, lambda: (Z, Z), lambda: (Z, Z.sum())), graphc.ShapeError,
                     r"result\[1\] is f32\[3\] in one branch, f32\[\] in the other"),
    "branches": (lambda: graphc.cond(Z.sum() > 0, lambda: Z, lambda: (Z, Z)), graphc.GraphError, r"one branch returns \*"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_is_wrong_and_where(name: str) -> None:
    build, kind, text = WRONG[name]
    with pytest.raises(kind, match=text) as caught:
        build()
    assert f"{__file__}:" in str(caught.value)


# -- looking at it ---------------------------------------------------------------------------------------------------


def training_step() -> tuple[graphc.Program, dict[str, Any]]:
    x = graphc.placeholder("x", ("time", B, D))
    w, b = graphc.parameter("w", np.ones(W)), graphc.parameter("b", np.ones(D))
    (h, _), ys = graphc.scan(lambda c, r: ((graphc.cond(r.sum() > 0, lambda a: (a @ w + r).tanh(), lambda a: a * b, c[0]),
                                            c[1] + 1), c[0]), (graphc.zeros((B, D)), 0), x)
    step = graphc.train_step((ys * ys).sum() + h.sum(), optim.SGD([w, b], lr=0.1))
    return step, {"x": x, "w": w, "b": b}


@pytest.mark.parametrize("stage", ["forward", "gradient", "update", "simplified"])
def test_text_of_loops_is_read_back(stage: str) -> None:
    step, names = training_step()
    from graphc.inspection import show_graph, stage_graph

    graph = stage_graph(step, stage)
    cells = {p.cell.name: p for p in (*step.parameters, *names.values()) if isinstance(p, graphc.Parameter)}
    bind = {**cells, **{c.name: c for c in graph.cells()}, "x": names["x"]}
    again = graphc.parse(format_graph(graph), bind)
    assert again.roots == graph.roots and again.updates == graph.updates
    assert '"graphs"' in show_graph(graph, "json")
    drawing = show_graph(graph, "dot")
    assert "every run of scan" in drawing and "then of cond" in drawing and "handed on 0" in drawing


def test_the_check_of_a_users_graph_goes_through_loops() -> None:
    from graphc.checking import check_gradients

    x, w = graphc.placeholder("x", (T, B, D)), graphc.parameter("w", np.random.default_rng(0).normal(size=W))
    loss = (simple_rnn_from(graphc.ones((B, D)), x, w)[1] ** 2).sum()
    rows, dtype = check_gradients(Graph((x.node,), (loss.node,)), loss.node, {})
    assert all(r.right and not r.zero for r in rows) and dtype is graphc.float64


def test_finite_differences() -> None:
    def f(x: Tensor, w: Tensor, s: Tensor) -> Any:
        def step(c: Any, r: Tensor) -> Any:
            h = graphc.cond((r * s).sum() > 0.3, lambda h: (h @ w + r).tanh(), lambda h: h * s + r, c)
            return h, graphc.scan(lambda k, e: ((k * e).sin(), k), h.sum(0), h)[0]
        return graphc.scan(step, graphc.ones((B, D), "float64"), x, reverse=True, segments=2)
    rng = np.random.default_rng(5)
    assert gradcheck(f, [rng.normal(size=s) for s in ((4, B, D), W, (D,))], order=2)


# -- whole trainings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "layers"), [("numpy", 1), ("native", 2)])
def test_fifty_steps_of_an_lstm_are_pytorchs(backend: str, layers: int) -> None:
    graphc.manual_seed(1)
    layer, head = nn.LSTM(3, 8, num_layers=layers, bidirectional=True, dtype="float64"), nn.Linear(16, 1, dtype="float64")
    theirs = torch.nn.LSTM(3, 8, num_layers=layers, bidirectional=True, dtype=torch.float64)
    their_head = torch.nn.Linear(16, 1, dtype=torch.float64)
    for module, other in ((layer, theirs), (head, their_head)):
        other.load_state_dict({k: torch.tensor(v) for k, v in module.state_dict().items()})
    x, y = graphc.placeholder("x", ("time", "batch", 3), "float64"), graphc.placeholder("y", ("batch", 1), "float64")
    loss = ((head(layer(x)[0][-1]) - y) ** 2).mean()
    step = graphc.train_step(loss, optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01), backend=backend)
    optimizer = torch.optim.Adam([*theirs.parameters(), *their_head.parameters()], lr=0.01)
    rng = np.random.default_rng(0)
    for k in range(50):
        data = rng.normal(size=(4 + k % 2, 5, 3))
        target = data.sum((0, 2))[:, None]
        optimizer.zero_grad()
        expected = ((their_head(theirs(torch.tensor(data))[0][-1]) - torch.tensor(target)) ** 2).mean()
        expected.backward()
        optimizer.step()
        np.testing.assert_allclose(step(x=data, y=target), expected.item(), rtol=1e-9)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(layer.state_dict()[name], value.numpy(), rtol=1e-7, atol=1e-9)
