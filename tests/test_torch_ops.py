"""Values and gradients of public functions against PyTorch, and indexing against numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc

from .torch_oracle import assert_agrees

rng = np.random.default_rng(2)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def positive(*shape: int) -> np.ndarray:
    return rng.uniform(0.2, 2.5, shape)


def unit(*shape: int) -> np.ndarray:
    return rng.uniform(-0.9, 0.9, shape)


def index(low: int, high: int, *shape: int) -> np.ndarray:
    return rng.integers(low, high, shape)


Row = tuple[str, Callable[..., Any], Callable[..., Any], list[np.ndarray]]
ROWS: list[Row] = []


def same(name: str, *inputs: np.ndarray, torch_name: str | None = None, label: str = "", **arguments: Any) -> None:
    """A function of the same name and arguments in both."""
    theirs = getattr(torch, torch_name or name)
    ROWS.append((f"{name}{label}", lambda *a: getattr(graphc, name)(*a, **arguments),
                 lambda *a: theirs(*a, **arguments), list(inputs)))


def row(name: str, ours: Callable[..., Any], theirs: Callable[..., Any], *inputs: np.ndarray) -> None:
    ROWS.append((name, ours, theirs, list(inputs)))


A, B, C = normal(3, 4), normal(4, 5), normal(2, 3, 4)
WITH_EDGES = np.array([[-np.inf, 1.0, 2.0], [-np.inf, -np.inf, 0.5], [3.0, 3.0, 3.0]])

# -- elementwise

for _name in ("sin", "cos", "tanh", "exp", "exp2", "expm1", "erf", "erfc", "sigmoid", "sinh", "cosh", "atan", "neg", "square",
              "floor", "ceil", "round", "trunc", "sign", "abs", "relu"):
    same(_name, normal(4, 5) * 2)
for _name in ("log", "log2", "sqrt", "rsqrt", "reciprocal", "log1p"):
    same(_name, positive(4, 5))
for _name in ("tan", "asin", "acos"):
    same(_name, unit(4, 5))
for _name in ("add", "sub", "mul", "maximum", "minimum"):
    same(_name, normal(4, 5), normal(5), label="_broadcast")
    same(_name, normal(3, 1), normal(1, 4), label="_outer")
same("div", normal(4, 5), positive(4, 1))
same("atan2", normal(4, 5), normal(4, 5))
same("pow", positive(4, 5), normal(5))
same("remainder", normal(4, 5) * 3, positive(4, 5))
same("floor_divide", normal(4, 5) * 3, positive(4, 5))
row("softplus", graphc.softplus, torch.nn.functional.softplus, normal(4, 5) * 3)
row("silu", graphc.silu, torch.nn.functional.silu, normal(4, 5) * 3)
row("log_sigmoid", graphc.log_sigmoid, torch.nn.functional.logsigmoid, normal(4, 5) * 3)
for _kind in ("none", "tanh"):
    row(f"gelu_{_kind}", lambda x, k=_kind: graphc.gelu(x, k),
        lambda x, k=_kind: torch.nn.functional.gelu(x, approximate=k), normal(4, 5) * 3)
for _power in (0, 1, 2, 3, 4, -1, -2, 0.5, -0.5, 2.7):
    row(f"pow_{_power}", lambda x, p=_power: x ** p, lambda x, p=_power: x ** p, positive(4, 5))
row("two_to_the_x", lambda x: 2.0 ** x, lambda x: 2.0 ** x, normal(4, 5))
for _low, _high in ((-0.5, 0.5), (None, 0.3), (-0.2, None), (0.4, -0.4)):
    row(f"clip_{_low}_{_high}", lambda x, a=_low, b=_high: graphc.clip(x, a, b),
        lambda x, a=_low, b=_high: torch.clamp(x, a, b), normal(4, 5))
same("clamp", normal(4, 5), np.full(5, -0.4), np.full(5, 0.6), label="_symbols")
row("clip_at_its_limits", lambda x: x.clip(-1.0, 1.0), lambda x: x.clip(-1.0, 1.0), np.array([-1.0, 1.0, 0.0, 2.0]))
row("maximum_ties", graphc.maximum, torch.maximum, np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
row("where", lambda x, y: graphc.where(x > 0, x * y, y), lambda x, y: torch.where(x > 0, x * y, y), normal(4, 5), normal(5))
row("masked_fill", lambda x: x.masked_fill(x > 0.3, -2.0), lambda x: x.masked_fill(x > 0.3, -2.0), normal(4, 5))
row("abs_at_zero", graphc.abs, torch.abs, np.array([0.0, -1.0]))
row("relu_at_zero", graphc.relu, torch.relu, np.array([0.0, -1.0, 2.0]))
row("scalars", lambda x: 3 - x / 2 + 2 / (x + 5) - (1 - x) * 0.25, lambda x: 3 - x / 2 + 2 / (x + 5) - (1 - x) * 0.25,
    unit(4, 5))

# -- reductions

for _axis in (None, 0, -1, (0, 2)):
    for _keep in (False, True):
        _label = f"_{_axis}_{_keep}"
        _torch_axis = (0, 1, 2) if _axis is None else _axis
        for _name in ("sum", "mean", "amax", "amin"):
            row(_name + _label, lambda x, n=_name, a=_axis, k=_keep: getattr(graphc, n)(x, a, k),
                lambda x, n=_name, a=_torch_axis, k=_keep: getattr(torch, n)(x, dim=a, keepdim=k), normal(2, 3, 4))
        row("logsumexp" + _label, lambda x, a=_axis, k=_keep: graphc.logsumexp(x, a, k),
            lambda x, a=_torch_axis, k=_keep: torch.logsumexp(x, a, k), normal(2, 3, 4) * 30)
        for _correction in (0, 1):
            for _name in ("var", "std"):
                row(f"{_name}{_label}_{_correction}",
                    lambda x, n=_name, a=_axis, k=_keep, c=_correction: getattr(x, n)(a, correction=c, keepdims=k),
                    lambda x, n=_name, a=_axis, k=_keep, c=_correction: getattr(x, n)(dim=a, correction=c, keepdim=k),
                    normal(2, 3, 4))
        for _p in (1, 2, 3, 0.5, math.inf, -math.inf, 0):
            row(f"norm_{_p}{_label}", lambda x, p=_p, a=_axis, k=_keep: graphc.norm(x, p, a, k),
                lambda x, p=_p, a=_torch_axis, k=_keep: torch.linalg.vector_norm(x, p, a, k), normal(2, 3, 4))
row("prod", lambda x: x.prod(), lambda x: x.prod(), normal(3, 4))
row("prod_axis", lambda x: x.prod(1), lambda x: x.prod(1), normal(3, 4))
row("prod_zeros", lambda x: x.prod(1), lambda x: x.prod(1), np.array([[1.0, 0, 3], [0, 0, 2], [1, 2, 3]]))
row("max_ties", lambda x: x.max(1), lambda x: x.amax(1), np.array([[1.0, 3, 3], [2, 2, 2]]))
row("std_of_equal", lambda x: x.std(1), lambda x: x.std(1), np.ones((2, 3)))
row("norm_of_zeros", lambda x: x.norm(2, 1), lambda x: x.norm(2, 1), np.array([[0.0, 0.0], [3.0, 4.0]]))
row("logsumexp_edges", lambda x: graphc.logsumexp(x, 1), lambda x: torch.logsumexp(x, 1), WITH_EDGES)
for _name in ("cumsum", "cumprod", "logcumsumexp"):
    for _axis in (0, 1, -1):
        row(f"{_name}_{_axis}", lambda x, n=_name, a=_axis: getattr(graphc, n)(x, a),
            lambda x, n=_name, a=_axis: getattr(torch, n)(x, a), normal(2, 3, 4))
row("cumprod_zeros", lambda x: x.cumprod(1), lambda x: x.cumprod(1), np.array([[1.0, 0, 3, 2], [0, 0, 2, 1]]))
row("logcumsumexp_edges", lambda x: graphc.logcumsumexp(x, 1), lambda x: torch.logcumsumexp(x, 1), WITH_EDGES[2:])
for _axis in (0, 1, -1):
    for _name in ("softmax", "log_softmax"):
        row(f"{_name}_{_axis}", lambda x, n=_name, a=_axis: getattr(graphc, n)(x, a),
            lambda x, n=_name, a=_axis: getattr(torch, n)(x, a), normal(2, 3, 4) * 40)
row("softmax_edges", lambda x: graphc.softmax(x, 1), lambda x: torch.softmax(x, 1), WITH_EDGES)

# -- gather and scatter

I1, I2 = index(0, 4, 3, 2), index(0, 3, 2, 4)
row("gather_1", lambda x: graphc.gather(x, 1, I1), lambda x: torch.gather(x, 1, torch.tensor(I1)), A)
row("gather_0", lambda x: graphc.gather(x, 0, I2), lambda x: torch.gather(x, 0, torch.tensor(I2)), A)
row("gather_narrow", lambda x: x.gather(1, I1[:2]), lambda x: x.gather(1, torch.tensor(I1[:2])), A)
row("take_along_axis", lambda x: graphc.take_along_axis(x, I1, 1),
    lambda x: torch.take_along_dim(x, torch.tensor(I1), 1), A)
row("index_select", lambda x: graphc.index_select(x, 1, [3, 0, 3]),
    lambda x: torch.index_select(x, 1, torch.tensor([3, 0, 3])), A)
row("take_flat", lambda x: graphc.take(x, [[0, 5], [11, 5]]), lambda x: torch.take(x, torch.tensor([[0, 5], [11, 5]])), A)
row("embedding", lambda w: graphc.embedding(w, [[0, 2], [1, 2]], 1),
    lambda w: torch.nn.functional.embedding(torch.tensor([[0, 2], [1, 2]]), w, 1), A)
row("scatter_add", lambda x, s: graphc.scatter_add(x, 1, I1, s), lambda x, s: x.scatter_add(1, torch.tensor(I1), s),
    A, normal(3, 2))
row("scatter_add_narrow", lambda x, s: graphc.scatter_add(x, 0, I2[:1, :3], s),
    lambda x, s: x.scatter_add(0, torch.tensor(I2[:1, :3]), s[:1, :3]), A, normal(2, 4))
DISTINCT = np.array([[3, 0], [1, 2], [0, 1]])
row("scatter", lambda x, s: graphc.scatter(x, 1, DISTINCT, s), lambda x, s: x.scatter(1, torch.tensor(DISTINCT), s),
    A, normal(3, 2))
row("scatter_number", lambda x: graphc.scatter(x, 1, DISTINCT, 2.5),
    lambda x: x.scatter(1, torch.tensor(DISTINCT), 2.5), A)
row("index_add", lambda x, s: graphc.index_add(x, 0, [2, 0, 2], s, 0.5),
    lambda x, s: x.index_add(0, torch.tensor([2, 0, 2]), s, alpha=0.5), A, normal(3, 4))

# -- shape

row("concat", lambda x, y: graphc.concat([x, y, x], -1), lambda x, y: torch.cat([x, y, x], -1), A, normal(3, 2))
row("stack", lambda x, y: graphc.stack([x, y], -1), lambda x, y: torch.stack([x, y], -1), A, normal(3, 4))
row("split", lambda x: graphc.split(x, 2, 1)[1] * 2, lambda x: torch.split(x, 2, 1)[1] * 2, normal(3, 5))
row("split_sizes", lambda x: graphc.split(x, [1, 3, 1], 1)[1], lambda x: torch.split(x, [1, 3, 1], 1)[1], normal(3, 5))
row("chunk", lambda x: graphc.chunk(x, 3, 1)[2], lambda x: torch.chunk(x, 3, 1)[2], normal(3, 7))
row("unbind", lambda x: graphc.unbind(x, 1)[2], lambda x: torch.unbind(x, 1)[2], C)
row("tile", lambda x: graphc.tile(x, (2, 1, 3)), lambda x: torch.tile(x, (2, 1, 3)), A)
row("repeat", lambda x: graphc.repeat(x, 2, 1, 3), lambda x: x.repeat(2, 1, 3), A)
row("repeat_interleave", lambda x: graphc.repeat_interleave(x, 3, 1), lambda x: x.repeat_interleave(3, 1), A)
row("repeat_interleave_flat", lambda x: graphc.repeat_interleave(x, 2), lambda x: x.repeat_interleave(2), A)
for _shift, _axes in ((1, 0), (-3, 1), (7, None), ((1, -1), (0, 1))):
    row(f"roll_{_shift}_{_axes}", lambda x, s=_shift, a=_axes: graphc.roll(x, s, a),
        lambda x, s=_shift, a=_axes: torch.roll(x, s, a), A)
for _k in (-2, -1, 0, 1, 3):
    row(f"tril_{_k}", lambda x, k=_k: x.tril(k), lambda x, k=_k: x.tril(k), C)
    row(f"triu_{_k}", lambda x, k=_k: x.triu(k), lambda x, k=_k: x.triu(k), C)
for _mode, _theirs in (("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")):
    row(f"pad_{_mode}", lambda x, m=_mode: graphc.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)), m),
        lambda x, m=_theirs: torch.nn.functional.pad(x, (3, 0, 1, 2), m), normal(2, 2, 4, 5))
row("pad_constant", lambda x: graphc.pad(x, ((1, 0), (2, 3)), constant_values=1.5),
    lambda x: torch.nn.functional.pad(x, (2, 3, 1, 0), value=1.5), A)
row("diag", graphc.diag, torch.diag, normal(4))
row("diag_of", graphc.diag, torch.diag, A)
row("diag_embed", graphc.diag_embed, torch.diag_embed, A)
row("trace", graphc.trace, torch.trace, normal(4, 4))
row("meshgrid", lambda x, y: graphc.meshgrid(x, y, indexing="xy")[0] * 2,
    lambda x, y: torch.meshgrid(x, y, indexing="xy")[0] * 2 + 0 * y.sum(), normal(3), normal(2))
row("transpose", lambda x: x.transpose(0, 2), lambda x: x.transpose(0, 2), C)
row("permute", lambda x: x.permute(2, 0, 1), lambda x: x.permute(2, 0, 1), C)
row("moveaxis", lambda x: graphc.moveaxis(x, 0, -1), lambda x: torch.moveaxis(x, 0, -1), C)
row("flip", lambda x: x.flip((0, 2)), lambda x: x.flip((0, 2)), C)
row("flatten", lambda x: x.flatten(1), lambda x: x.flatten(1), C)
row("unflatten", lambda x: graphc.unflatten(x, 2, (2, -1)), lambda x: x.unflatten(2, (2, -1)), C)
row("squeeze", lambda x: x[:, :1].squeeze(1), lambda x: x[:, :1].squeeze(1), C)
row("expand", lambda x: x.unsqueeze(1).expand(3, 5, -1), lambda x: x.unsqueeze(1).expand(3, 5, -1), A)
row("unfold", lambda x: graphc.window(x, 1, 3, 2), lambda x: x.unfold(1, 3, 2), normal(3, 8))
for _p in (1.0, 2.0, 3.0):
    row(f"cdist_{_p}", lambda x, y, p=_p: graphc.cdist(x, y, p), lambda x, y, p=_p: torch.cdist(x, y, p), A, normal(5, 4))

# -- contractions

for _left, _right in (((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 5)), ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)),
                      ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,))):
    row(f"matmul_{_left}_{_right}", lambda x, y: x @ y, torch.matmul, normal(*_left), normal(*_right))
for _equation, *_shapes in (("ij,jk->ik", (3, 4), (4, 5)), ("ij,jk", (3, 4), (4, 5)), ("ij->ji", (3, 4)), ("ij->", (3, 4)),
                            ("ij->j", (3, 4)), ("ii->i", (4, 4)), ("ii", (4, 4)), ("iji->j", (3, 2, 3)),
                            ("i,j->ij", (3,), (4,)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("i,i->", (4,), (4,)),
                            ("...ij,...jk->...ik", (2, 3, 4), (4, 5)), ("...i,i->...", (2, 3, 4), (4,)),
                            ("i...,i->...", (4, 2), (4,)), ("...ij->...ji", (2, 3, 4)), ("ij,ij->ij", (3, 4), (3, 4)),
                            ("ij,kj->ik", (3, 4), (5, 4)), ("bhid,bhjd->bhij", (2, 2, 3, 4), (2, 2, 5, 4)),
                            ("ij,jk,kl->il", (3, 4), (4, 5), (5, 2)), ("ij,j,i->", (3, 4), (4,), (3,)),
                            ("bij,kj->bk", (2, 3, 4), (5, 4)), ("ba", (3, 4)), ("ij,k->ik", (3, 4), (2,))):
    row(f"einsum_{_equation}", lambda *a, e=_equation: graphc.einsum(e, *a), lambda *a, e=_equation: torch.einsum(e, *a),
        *(normal(*s) for s in _shapes))
row("outer", graphc.outer, torch.outer, normal(3), normal(4))
row("tensordot", lambda x, y: graphc.tensordot(x, y, 2), lambda x, y: torch.tensordot(x, y, 2), C, normal(3, 4, 5))
row("tensordot_axes", lambda x, y: graphc.tensordot(x, y, ([-1, 0], [0, 2])),
    lambda x, y: torch.tensordot(x, y, ([-1, 0], [0, 2])), C, normal(4, 5, 2))
row("linear", graphc.linear, torch.nn.functional.linear, A, normal(5, 4), normal(5))
row("linear_vector", graphc.linear, torch.nn.functional.linear, A, normal(4))

STEPS = {"floor", "ceil", "round", "trunc", "sign", "floor_divide", "norm_0_"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ROWS, ids=[r[0] for r in ROWS])
def test_values_and_gradients_agree(case: Row, dtype: str) -> None:
    name, ours, theirs, arrays = case
    assert_agrees(ours, theirs, arrays, dtype, gradient=not name.startswith(tuple(STEPS)),
                  backend="native" if dtype == "float32" else "numpy")


# -- integers, bools and promotion -----------------------------------------------------------------------------------

DTYPES = ("bool", "int32", "int64", "float32", "float64")


PROMOTIONS = [(operator, left, right) for left in DTYPES for right in DTYPES
              for operator in ("add", "mul", "sub", "div", "maximum", "minimum", "eq", "lt", "floor_divide", "remainder")
              # PyTorch has no such functions of bools; here they count as integers
              if not (operator == "sub" and "bool" in (left, right))
              and not (operator in ("floor_divide", "remainder") and left == right == "bool")]


@pytest.mark.parametrize(("operator", "left", "right"), PROMOTIONS)
@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())])
def test_promotion_is_that_of_pytorch(operator: str, left: str, right: str, shapes: tuple) -> None:
    x, y = (torch.ones(s, dtype=getattr(torch, d)) for s, d in zip(shapes, (left, right), strict=True))
    a, b = (graphc.placeholder(n, s, d) for n, s, d in zip("ab", shapes, (left, right), strict=True))
    expected = getattr(torch, operator)(x, y)
    assert getattr(graphc, operator)(a, b).dtype.name == str(expected.dtype).removeprefix("torch.")


@pytest.mark.parametrize("value", [2, 2.5, True, np.float64(2.5), np.int64(2), np.float32(2.5)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_are_weak(dtype: str, value: Any) -> None:
    plain = value.item() if isinstance(value, np.generic) else value
    expected = str((torch.ones(2, dtype=getattr(torch, dtype)) + plain).dtype).removeprefix("torch.")
    x = graphc.placeholder("x", (2,), dtype)
    assert (x + value).dtype.name == expected
    assert (value + x).dtype.name == expected


INTEGERS: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    ("sum", lambda x: x.sum(1), lambda x: x.sum(1)), ("prod", lambda x: x.prod(), lambda x: x.prod()),
    ("mean", lambda x: x.float().mean(0), lambda x: x.float().mean(0)), ("max", lambda x: x.max(0), lambda x: x.amax(0)),
    ("argmax", lambda x: x.argmax(1), lambda x: x.argmax(1)), ("argmin", lambda x: x.argmin(), lambda x: x.argmin()),
    ("cumsum", lambda x: x.cumsum(1), lambda x: x.cumsum(1)), ("any", lambda x: x.any(1), lambda x: x.bool().any(1)),
    ("all", lambda x: x.all(), lambda x: x.bool().all()), ("div", lambda x: x / 3, lambda x: x / 3),
    ("floordiv", lambda x: x // 3, lambda x: x // 3), ("mod", lambda x: x % -3, lambda x: x % -3),
    ("square", lambda x: x ** 2, lambda x: x ** 2), ("neg", lambda x: -x, lambda x: -x),
    ("and", lambda x: x & 3, lambda x: x & 3), ("or", lambda x: x | 4, lambda x: x | 4),
    ("xor", lambda x: x ^ 5, lambda x: x ^ 5), ("not", lambda x: ~x, lambda x: ~x), ("floor", graphc.floor, torch.floor),
    ("clip", lambda x: x.clip(-1, 2), lambda x: x.clip(-1, 2)), ("clip_low", lambda x: x.clip(min=1), lambda x: x.clip(1)),
    ("relu", graphc.relu, torch.relu), ("where", lambda x: graphc.where(x > 0, x, 0), lambda x: torch.where(x > 0, x, 0)),
    ("sqrt_abs", lambda x: abs(x).sqrt(), lambda x: abs(x).sqrt()), ("matmul", lambda x: x @ x.T, lambda x: x @ x.T),
    ("count", graphc.count_nonzero, torch.count_nonzero), ("cat", lambda x: graphc.cat([x, x > 0]),
                                                           lambda x: torch.cat([x, x > 0]))]


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("case", INTEGERS, ids=[c[0] for c in INTEGERS])
def test_integers_agree(case: tuple, dtype: str) -> None:
    _, ours, theirs = case
    array = index(-4, 5, 3, 4).astype(dtype)
    x = graphc.placeholder("x", (3, 4), dtype)
    expected = theirs(torch.tensor(array)).numpy()
    got = graphc.function([x], ours(x), backend="numpy")(array)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_one_hot_agrees() -> None:
    i = index(0, 5, 2, 3)
    hot = graphc.one_hot(i, 5)
    assert hot.dtype == graphc.int64
    np.testing.assert_array_equal(hot.eval(), torch.nn.functional.one_hot(torch.tensor(i), 5).numpy())
    assert graphc.one_hot(i, 5, "float32").dtype == graphc.float32


def test_the_last_of_two_writes_stays() -> None:
    x = graphc.zeros((1, 4))
    out = graphc.scatter(x, 1, [[2, 0, 2, 2]], np.array([[1.0, 2.0, 3.0, 4.0]], np.float32))
    np.testing.assert_array_equal(out.eval(), [[2.0, 0.0, 4.0, 0.0]])


def test_the_variance_of_one_element_is_nan() -> None:
    assert math.isnan(graphc.constant([2.0]).var().eval())
    assert graphc.constant([2.0]).var(correction=0).eval() == 0


def test_argmax_takes_the_first_nan() -> None:
    values = np.array([1.0, np.nan, 5.0, np.nan])
    assert graphc.constant(values).argmax().eval() == torch.tensor(values).argmax().item() == 1


# -- brackets against numpy ------------------------------------------------------------------------------------------

DATA = normal(4, 5, 6)
IA, IB = np.array([3, 0, -1]), np.array([[1], [-2]])
INDICES: list[Any] = [
    0, -1, (1, 2), (1, -2, 3), ..., (..., 2), (1, ..., -1), None, (None, 1), (..., None), (slice(None), None, 2),
    slice(1, 3), slice(None, -1), slice(-3, None), slice(None, None, 2), slice(None, None, -1), slice(3, 0, -2),
    slice(-1, None, -3), slice(10, 20), slice(2, 2), slice(-100, 100), slice(0, 5, -1),
    (slice(1, None, 2), slice(None, None, -2)),
    (slice(None), 1, slice(2, 5)), (0, slice(None), slice(None, None, -1)), IA, [0, 2], (IA, 1), (slice(None), IA),
    (IA, slice(None), IA), (IA, IA), (IA, IB), (slice(None), IA, IB), (IA, slice(None), IB), (IB, None, IA), (0, IA),
    (0, slice(None), IA), (slice(None), 2, IA), (..., IA), (slice(1, 3), IA, slice(None, None, 2)), (IA, IA, IA), (None, IA, 1),
    (slice(None, None, -1), IA), IB, np.int64(2), (np.array(2), slice(None))]


@pytest.mark.parametrize("item", INDICES, ids=lambda i: str(i).replace("\n", ""))
def test_brackets_agree_with_numpy(item: Any) -> None:
    x = graphc.placeholder("x", DATA.shape, "float64")
    out, expected = x[item], DATA[item]
    assert out.shape == expected.shape
    np.testing.assert_array_equal(out.eval(x=DATA), expected)


@pytest.mark.parametrize("item", [i for i in INDICES if isinstance(i, np.ndarray) or (
    isinstance(i, tuple) and any(isinstance(p, np.ndarray) for p in i))], ids=lambda i: str(i).replace("\n", ""))
def test_symbols_in_brackets_agree_with_numpy(item: Any) -> None:
    feeds: dict[str, np.ndarray] = {"x": DATA}

    def symbol(part: Any) -> Any:
        if not isinstance(part, np.ndarray):
            return part
        feeds[f"i{len(feeds)}"] = part
        return graphc.placeholder(f"i{len(feeds) - 1}", part.shape, "int64")

    x = graphc.placeholder("x", DATA.shape, "float64")
    symbols = tuple(map(symbol, item)) if isinstance(item, tuple) else symbol(item)
    np.testing.assert_array_equal(x[symbols].eval(**feeds), DATA[item])


def test_open_sizes_in_brackets() -> None:
    x = graphc.placeholder("x", ("batch", 3), "float64")
    data = normal(5, 3)
    for item in (slice(1, None), slice(None, -1), -1, 0, slice(-2, None), slice(None, None, -1), slice(None, None, 2),
                 slice(1, -1), slice(None, None, -2), (slice(None, -1), 1), np.array([0, -1, 2])):
        np.testing.assert_array_equal(x[item].eval(x=data), data[item])
    with pytest.raises(graphc.GraphError, match="reaches 3"):
        x[:3]
    with pytest.raises(graphc.GraphError, match="open ends"):
        x[3::-1]


@pytest.mark.parametrize(("item", "message"), [
    (4, "index 4 is outside axis 0"), ((0, 0, 0, 0), "4 indices"), ((..., ...), "at most once"),
    (np.array([True, False, True, False]), "graphc.where"), (True, "graphc.where"), ([7], "index 7 is outside axis 0"),
    (slice(None, None, 0), "non-zero"), ([0.5], "integers"), ((slice(None), [-6]), "index -6 is outside axis 1")])
def test_wrong_brackets_say_why(item: Any, message: str) -> None:
    x = graphc.placeholder("x", DATA.shape, "float64")
    with pytest.raises(graphc.GraphError, match=message):
        x[item]


def test_an_index_outside_one_axis_reaches_no_other_row() -> None:
    x, i = graphc.placeholder("x", (2, 3), "float64"), graphc.placeholder("i", (2,), "int64")
    got = x[i, i + 1].eval(x=np.arange(6.0).reshape(2, 3), i=[0, 5])
    np.testing.assert_array_equal(got, [1.0, np.nan])
