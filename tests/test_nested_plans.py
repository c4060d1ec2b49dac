"""Loops and branches inside plans: interpreted graph, interpreted plan on a poisoned arena, and native code agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from graphc.runtime.plan_interpreter import interpret_plan

import graphc
from graphc.ir import Graph, make
from graphc.op import REGISTRY
from graphc.ops.control import results_of
from graphc.ops.loops import formal
from graphc.plan import Branch, Loop
from graphc.symbols import Tensor
from graphc.types import TensorType

pytestmark = pytest.mark.usefixtures("several_threads")

Body = Callable[..., tuple[list[Tensor], list[Tensor]]]


def scan(body: Body, init: Sequence[Tensor], xs: Sequence[Tensor], captured: Sequence[Tensor] = (), *, length: Any = None,
         reverse: bool = False) -> list[Tensor]:
    """(new carries, results of a run) = body(*carries, *entries, *captured), as a scan node's results."""
    count = int(xs[0].shape[0]) if length is None else length
    types = [*(t.type for t in init), *(TensorType(t.dtype, t.shape[1:]) for t in xs), *(t.type for t in captured)]
    inputs = [Tensor(formal(k, t)) for k, t in enumerate(types)]
    carries, results = body(*inputs)
    graph = Graph(tuple(i.node for i in inputs), tuple(t.node for t in (*carries, *results)))
    node = make(REGISTRY["scan"], [t.node for t in (*init, *xs, *captured)],
                {"carries": len(init), "sequences": len(xs), "length": count, "reverse": reverse}, (graph,))
    return results_of(node)


def cond(flag: Tensor, operands: Sequence[Tensor], then: Callable[..., list[Tensor]], otherwise: Callable[..., list[Tensor]]
         ) -> list[Tensor]:
    inputs = [Tensor(formal(k, t.type)) for k, t in enumerate(operands)]
    graphs = [Graph(tuple(i.node for i in inputs), tuple(t.node for t in side(*inputs))) for side in (then, otherwise)]
    return results_of(make(REGISTRY["cond"], [t.node for t in (flag, *operands)], {}, graphs))


def agree(outputs: list[Tensor], feeds: dict[Tensor, np.ndarray], tolerance: float = 2e-6) -> graphc.Program:
    """Every way to run the outputs gives the same; native code the same bits for any number of threads."""
    inputs = list(feeds)
    arrays = [np.asarray(a, t.dtype.numpy) for t, a in feeds.items()]
    expected = graphc.function(inputs, outputs, backend="numpy")(*arrays)
    program = graphc.function(inputs, outputs, threads=1)
    plan = program.specialize().plan
    found = program(*arrays)
    for want, got, planned in zip(expected, found, interpret_plan(plan, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(planned, want, rtol=tolerance, atol=tolerance)
    for threads in (2, 3):
        again = graphc.function(inputs, outputs, threads=threads)(*arrays)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found, again, strict=True)), threads
    return program


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("length", (0, 1, 2, 5))
@pytest.mark.parametrize("reverse", (False, True))
@pytest.mark.parametrize("wanted", ((0, 1, 2, 3), (0,), (2,), (3,), (1, 2)))
def test_carries_in_turn_and_in_stacks(length: int, reverse: bool, wanted: tuple[int, ...]) -> None:
    h, c = graphc.placeholder("h", (3, 4)), graphc.placeholder("c", (3, 4))
    x, w = graphc.placeholder("x", (length, 3, 2)), graphc.parameter("w", numbers(2, 4))

    def body(h: Tensor, c: Tensor, x: Tensor, w: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        new = graphc.tanh(h + x @ w)
        return [new, c * 0.5 + h], [new, new.sum() + c]

    results = scan(body, [h, c], [x], [w], length=length, reverse=reverse)
    agree([results[k] for k in wanted], {h: numbers(3, 4, seed=1), c: numbers(3, 4, seed=2), x: numbers(length, 3, 2, seed=3)})


def test_two_carries_change_places() -> None:
    a, b = graphc.placeholder("a", (5,)), graphc.placeholder("b", (5,))
    agree(scan(lambda a, b: ([b, a], [a - b]), [a, b], [], length=3), {a: numbers(5), b: numbers(5, seed=1)})


def test_a_carry_that_stays_and_one_operand_used_twice() -> None:
    a = graphc.placeholder("a", (5,))
    agree(scan(lambda a, b, c: ([a, b * c], []), [a, a], [], [a], length=4), {a: numbers(5)})


def test_results_of_a_loop_are_views_updates_and_outputs() -> None:
    w, x = graphc.parameter("w", numbers(4, 3)), graphc.placeholder("x", (6, 4))
    before = w.numpy().copy()
    final, _ = scan(lambda w, x: ([w - graphc.unsqueeze(x, 1) * 0.1 * w], [w.sum()]), [w], [x])
    step = graphc.function([x], final.transpose(0, 1), updates={w: final})
    rows = numbers(6, 4, seed=4)
    result = step(rows)
    for row in rows:
        before = before - row[:, None] * np.float32(0.1) * before
    np.testing.assert_allclose(w.numpy(), before, rtol=1e-6)
    np.testing.assert_allclose(result, before.T, rtol=1e-6)
    again = step.run(3, rows)
    assert again.shape == (3, 3, 4) and again[2].tobytes() == np.ascontiguousarray(w.numpy().T).tobytes()


def test_nested_loops_with_constants() -> None:
    x, w = graphc.placeholder("x", (3, 4, 8)), graphc.placeholder("w", (8, 8))
    table = graphc.constant(numbers(8, 8, seed=9))

    def inner(h: Tensor, row: Tensor, w: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        new = graphc.tanh(h @ w + row @ table)
        return [new], [new * 2]

    def outer(h: Tensor, rows: Tensor, w: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        last, all_ = scan(inner, [h], [rows], [w])
        return [last + 1], [all_.sum(), last]

    agree(scan(outer, [graphc.zeros((8,))], [x], [w]), {x: numbers(3, 4, 8), w: numbers(8, 8, seed=5)})


def test_runs_that_do_not_wait_are_shared_by_threads() -> None:
    x, w = graphc.placeholder("x", (7, 96, 64)), graphc.placeholder("w", (64, 80))

    def body(x: Tensor, w: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        h = graphc.tanh((x + 1.0) @ w)
        return [], [h.softmax(-1).sum(0), h.transpose(0, 1) @ x]

    program = agree(scan(body, [], [x], [w]), {x: numbers(7, 96, 64), w: numbers(64, 80, seed=1)}, 2e-5)
    (loop,) = program.specialize().plan.steps
    assert isinstance(loop, Loop) and loop.parallel and not loop.workspace


def test_a_loop_of_large_kernels_is_run_by_all_threads() -> None:
    h, w = graphc.placeholder("h", (160, 192)), graphc.placeholder("w", (192, 192))
    results = scan(lambda h, w: ([graphc.tanh(h @ w)], [h.sum(0), h.softmax(1)]), [h], [], [w], length=5)
    agree(results, {h: numbers(160, 192), w: numbers(192, 192, seed=1) / 10}, 2e-5)


@pytest.mark.parametrize("size", (3, 300))
@pytest.mark.parametrize("sign", (1.0, -1.0))
def test_one_side_of_a_branch_runs(size: int, sign: float) -> None:
    x, y = graphc.placeholder("x", (size, size)), graphc.placeholder("y", (size,))
    results = cond(x[0, 0] > 0, [x, y], lambda x, y: [x @ x, y], lambda x, y: [graphc.log(x), y + x.sum(0)])
    values = np.abs(numbers(size, size)) * sign
    program = agree(results, {x: values, y: numbers(size, seed=1)}, 1e-4)
    assert any(isinstance(s, Branch) for s in program.specialize().plan.steps)


def test_a_branch_in_a_loop_and_a_loop_in_a_branch() -> None:
    x, h = graphc.placeholder("x", (6, 4)), graphc.placeholder("h", (4,))

    def body(h: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        (new,) = cond(x.sum() > 0, [h, x], lambda h, x: [h + x],
                      lambda h, x: [scan(lambda h, x: ([h * x], []), [h], [], [x], length=2)[0]])
        return [new], [new]

    agree(scan(body, [h], [x]), {h: numbers(4), x: numbers(6, 4, seed=1)})


def test_dumps_of_nested_plans_at_every_stage() -> None:
    x, h = graphc.placeholder("x", ("time", 4)), graphc.placeholder("h", (4,))
    flag = graphc.placeholder("flag", (), "bool")
    (picked,) = cond(flag, [h], lambda h: [h * 2], lambda h: [h.cumsum(0)])
    program = graphc.function([x, h, flag], scan(lambda h, x: ([h * x], [h]), [picked], [x], length=x.shape[0]))
    for stage in ("forward", "simplified", "plan", "llvm", "asm"):
        assert program.dump(stage, sizes={"time": 9})
    text = program.dump("plan", sizes={"time": 9})
    assert "9 runs" in text and "if %flag" in text and "then the last run's" in text
    assert "whole step" in program.profile(np.ones((9, 4)), np.ones(4), True, repeat=2)
