"""Index expressions: every simplification keeps the value; every view reads what numpy reads."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import testing
from graphc.access import follow, strided
from graphc.index import Divided, Index, Remainder, Term, Variable, linear, narrowed, unravel, variables_for
from graphc.ir import make
from graphc.op import REGISTRY, Kind
from graphc.symbols import Tensor

U, V, W = (Variable(name, extent) for name, extent in (("u", 4), ("v", 3), ("w", 5)))


def value(expression: Index, at: Mapping[Variable, int]) -> int:
    return expression.constant + sum(factor * value_of_term(term, at) for term, factor in expression.terms)


def value_of_term(term: Term, at: Mapping[Variable, int]) -> int:
    if isinstance(term, Variable):
        return at[term]
    inner = value(term.of, at)
    return inner // term.by if isinstance(term, Divided) else inner % term.by


def everywhere() -> list[dict[Variable, int]]:
    return [dict(zip((U, V, W), place, strict=True)) for place in product(range(4), range(3), range(5))]


def random_pair(rng: random.Random, depth: int) -> tuple[Index, Any]:
    """An expression as an Index and as a function of a place."""
    if depth == 0:
        if rng.random() < 0.25:
            number = rng.randint(-6, 6)
            return Index.of(number), lambda at: number
        variable = rng.choice((U, V, W))
        return Index.of(variable), lambda at: at[variable]
    a, f = random_pair(rng, depth - 1)
    number = rng.choice([2, 3, 4, 5, 6, 8, 12])
    kind = rng.choice("+-*/%")
    if kind in "+-":
        b, g = random_pair(rng, depth - 1)
        return (a + b, lambda at: f(at) + g(at)) if kind == "+" else (a - b, lambda at: f(at) - g(at))
    if kind == "*":
        factor = rng.choice([number, -number, 0, 1])
        return a * factor, lambda at: f(at) * factor
    return (a // number, lambda at: f(at) // number) if kind == "/" else (a % number, lambda at: f(at) % number)


@pytest.mark.parametrize("seed", range(12))
def test_expressions_keep_their_value_and_range(seed: int) -> None:
    rng = random.Random(seed)
    places = everywhere()
    for _ in range(40):
        expression, function = random_pair(rng, 4)
        low, high = expression.range
        for at in places:
            got = value(expression, at)
            assert got == function(at), str(expression)
            assert low <= got <= high
        assert expression.variables() <= {U, V, W}


@pytest.mark.parametrize("seed", range(4))
def test_substitution(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        expression, _ = random_pair(rng, 3)
        inner = Index.of(V) + 1  # in the range of U
        replaced = expression.substitute({U: inner})
        for at in everywhere():
            assert value(replaced, at) == value(expression, {**at, U: at[V] + 1})


@pytest.mark.parametrize("seed", range(6))
def test_where_conditions_hold_the_narrowed_index_is_the_same(seed: int) -> None:
    rng = random.Random(seed)
    held = 0
    for _ in range(60):
        expression, _ = random_pair(rng, 4)
        conditions = []
        for _ in range(rng.randint(1, 2)):
            term = rng.choice([Index.of(U), Index.of(W), (Index.of(U) * 5 + Index.of(W)) // 3, Index.of(W) % 2])
            low = rng.randint(-1, 3)
            conditions.append((term + rng.randint(-2, 2), low, low + rng.randint(1, 2)))
        simple = narrowed(expression, conditions)
        for at in everywhere():
            if all(low <= value(index, at) < high for index, low, high in conditions):
                held += 1
                assert value(simple, at) == value(expression, at), (str(expression), str(simple), conditions)
    assert held > 200


def test_what_a_condition_fixes_is_a_number() -> None:
    row, column = Index.variable("row", 96), Index.variable("column", 384)
    for part in range(3):  # the columns of three arrays side by side
        assert narrowed(column // 128 + row, [(column - 128 * part, 0, 128)]) == row + part
        assert narrowed(column % 128, [(column, 128 * part, 128 * part + 128)]) == column - 128 * part
    phase = row % 4
    assert narrowed((phase + row // 4 + 14) // 16, [(phase - 2, 0, 1)]) == (row // 4 + 16) // 16
    assert narrowed(row, [(column - 128, 0, 128)]) == row


def test_factors_of_variables() -> None:
    expression = Index.of(U) * 6 + Index.of(V) * -2 + 5
    assert (expression.factor(U), expression.factor(V), expression.factor(W)) == (6, -2, 0)
    assert (Index.of(U) // 3).factor(U) is None
    assert Index.variable("one", 1).number == 0
    assert (Index.of(U) - Index.of(U)).number == 0


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 1, 5), (7,), (2, 1, 2)])
def test_unravelling_undoes_ravelling_without_division(shape: tuple[int, ...]) -> None:
    indices = variables_for(shape)
    assert unravel(linear(indices, shape), shape) == indices


def test_divisions_cancel() -> None:
    i, j = Index.of(U), Index.of(V)
    assert (i * 3 + j) // 3 == i
    assert (i * 3 + j) % 3 == j
    assert ((i * 3 + j) // 2) * 2 + (i * 3 + j) % 2 == i * 3 + j
    assert i // 4 == Index.of(0) and i % 4 == i
    assert (i * 6 + 4) // 2 == i * 3 + 2
    assert (Index.of(W) // 2) // 2 == Index.of(Divided(Index.of(W), 4))
    assert (i * 4 + j * 2) % 4 == Index.of(Remainder(j * 2, 4))


def test_equal_expressions_are_equal_and_hash_alike() -> None:
    a, b = Index.of(U) * 2 + Index.of(V), Index.of(V) + Index.of(U) * 2
    assert a == b and hash(a) == hash(b)


# -- views -----------------------------------------------------------------------------------------------------------


def read(node: Any, data: np.ndarray) -> np.ndarray:
    """What the index maps say a chain of views holds."""
    variables = variables_for(node.shape)
    out = np.empty(node.shape, data.dtype)
    place = follow(node, variables)
    if place.base.op.kind is Kind.VIEW:  # the walk ended at padding
        data = read(place.base, data)
    for position in np.ndindex(node.shape):
        at = {v.terms[0][0]: p for v, p in zip(variables, position, strict=True) if v.terms}
        if all(low <= value(g, at) < high for g, low, high in place.guard):
            out[position] = data[tuple(value(i, at) for i in place.indices)]
        else:
            out[position] = place.fill
    return out


VIEWS = [c for op in REGISTRY.values() if op.kind is Kind.VIEW for c in testing.cases(op, "f")
         if c.arrays[0].dtype == np.float64]


@pytest.mark.parametrize("case", VIEWS, ids=str)
def test_index_maps_agree_with_numpy(case: testing.Case) -> None:
    x = graphc.placeholder("x", case.arrays[0].shape, "float64")
    node = make(case.op, [x.node], case.attributes)
    np.testing.assert_array_equal(read(node, case.arrays[0]), case.op.numpy(*case.arrays, **node.attributes))


def random_view(rng: random.Random, x: Tensor, padded: bool) -> Tensor:
    rank = x.ndim
    axis = rng.randrange(rank) if rank else 0
    kind = rng.choice(["permute", "flip", "slice", "reshape", "expand", "window"] + ["pad"] * padded)
    if rank == 0 or kind == "expand":
        return x.expand(2, *x.shape)
    size = int(x.shape[axis])
    if kind == "permute":
        return x.permute(*rng.sample(range(rank), rank))
    if kind == "flip":
        return x.flip(axis)
    if kind == "slice":
        start = rng.randrange(size)
        return x[(slice(None),) * axis + (slice(start, rng.randint(start + 1, size), rng.choice([1, 2])),)]
    if kind == "window" and size > 1 and x.size < 200:
        return graphc.window(x, axis, 2, rng.choice([1, 2]))
    if kind == "pad":
        return graphc.pad(x, [(rng.randint(0, 2), rng.randint(0, 1)) for _ in range(rank)], constant_values=7)
    total = int(x.size)
    divisor = rng.choice([d for d in range(1, total + 1) if total % d == 0])
    return x.reshape(divisor, -1)


@pytest.mark.parametrize("seed", range(60))
def test_chains_of_views_agree_with_numpy(seed: int) -> None:
    rng = random.Random(seed)
    data = np.arange(24.0).reshape(2, 3, 4)
    x = graphc.placeholder("x", data.shape, "float64")
    view = x
    for _ in range(rng.randint(1, 5)):
        if view.ndim < 6 and int(view.size) < 2000:
            view = random_view(rng, view, padded=False)
    if seed % 2 and view.ndim < 5 and int(view.size) < 500:
        view = graphc.pad(view, [(1, 2)] * view.ndim, constant_values=7)
    expected = view.eval(x=data)
    np.testing.assert_array_equal(read(view.node, data), expected)
    flat = strided(view.node)
    if flat is not None and view.node is not flat.base:
        shown = np.lib.stride_tricks.as_strided(data.ravel()[flat.offset:], expected.shape,
                                                [s * data.itemsize for s in flat.strides])
        np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("seed", range(24))
def test_chains_of_views_on_the_native_backend(seed: int) -> None:
    rng = random.Random(100 + seed)
    data = np.arange(24.0).reshape(2, 3, 4) + 1
    x = graphc.placeholder("x", data.shape, "float64")
    view = x
    for _ in range(rng.randint(2, 6)):
        if view.ndim < 6 and int(view.size) < 2000:
            view = random_view(rng, view, padded=True)
    outputs = [view, view * 2.0, view.sum(), graphc.grad((view * view).sum(), x)]
    got, expected = (graphc.function([x], outputs, backend=b)(data) for b in ("native", "numpy"))
    for mine, reference in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-12)
