"""Sorting, linear algebra and everyday functions against PyTorch: values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc

from .torch_oracle import assert_agrees

rng = np.random.default_rng(5)
F = torch.nn.functional


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def positive(*shape: int) -> np.ndarray:
    return rng.uniform(0.2, 2.5, shape)


def index(low: int, high: int, *shape: int) -> np.ndarray:
    return rng.integers(low, high, shape)


def square(n: int, *batch: int) -> np.ndarray:
    """Matrices far from singular."""
    return normal(*batch, n, n) + 2 * np.sqrt(n) * np.eye(n)


def definite(n: int, *batch: int) -> np.ndarray:
    m = normal(*batch, n, n)
    return m @ np.swapaxes(m, -1, -2) + n * np.eye(n)


ROWS: list[tuple[str, Callable[..., Any], Callable[..., Any], list[np.ndarray]]] = []


def row(name: str, ours: Callable[..., Any], theirs: Callable[..., Any], *inputs: np.ndarray) -> None:
    ROWS.append((name, ours, theirs, list(inputs)))


def both(name: str, function: Callable[..., Any], *inputs: np.ndarray) -> None:
    """One expression for either library: ``lambda m, x: m.roll(x, 1)``."""
    row(name, lambda *a: function(graphc, *a), lambda *a: function(torch, *a), *inputs)


A, C, V = normal(3, 4), normal(2, 3, 4), normal(7)
TIES = np.array([[1.0, 3.0, 3.0, -2.0, 1.0], [0.0, -0.0, 5.0, 5.0, 0.0]])
WITH_NAN = np.array([[1.0, np.nan, -3.0, np.nan, np.inf], [2.0, -np.inf, 2.0, 0.5, 1.0]])
INTEGERS = index(-4, 5, 3, 9)

# -- order

for _axis in (0, 1, -1):
    for _down in (False, True):
        both(f"sort_{_axis}_{_down}", lambda m, x, a=_axis, d=_down: m.sort(x, dim=a, descending=d), C)
        both(f"argsort_{_axis}_{_down}", lambda m, x, a=_axis, d=_down: m.argsort(x, dim=a, descending=d), C)
        both(f"topk_{_axis}_{_down}", lambda m, x, a=_axis, d=_down: m.topk(x, 2, dim=a, largest=d), C)
for _k in (1, 5, 20, 33):
    for _down in (False, True):
        both(f"topk_of_many_{_k}_{_down}", lambda m, x, k=_k, d=_down: m.topk(x, k, dim=1, largest=d), normal(3, 100, 2))
for _label, _array in (("ties", TIES), ("nan", WITH_NAN), ("integers", INTEGERS), ("int32", INTEGERS.astype(np.int32)),
                       ("bools", INTEGERS > 0)):
    for _down in (False, True):
        both(f"sort_{_label}_{_down}", lambda m, x, d=_down: m.sort(x, dim=-1, descending=d, stable=True), _array)
for _n in (1, 2, 31, 100):
    both(f"sort_size_{_n}", lambda m, x: m.sort(x, dim=1), normal(2, _n))
both("sort_method", lambda m, x: x.sort(dim=0)[0], A)
both("msort", lambda m, x: m.msort(x), A)
for _axis in (0, 1):
    for _keep in (False, True):
        both(f"kthvalue_{_axis}_{_keep}", lambda m, x, a=_axis, k=_keep: m.kthvalue(x, 2, a, k), A)
        both(f"median_{_axis}_{_keep}", lambda m, x, a=_axis, k=_keep: tuple(m.median(x, dim=a, keepdim=k)), normal(5, 4))
        for _q in (0.0, 0.3, 1.0):
            both(f"quantile_{_q}_{_axis}_{_keep}", lambda m, x, q=_q, a=_axis, k=_keep: m.quantile(x, q, dim=a, keepdim=k), A)
both("median", lambda m, x: m.median(x), V)
both("median_nan", lambda m, x: m.median(x, dim=1)[0], WITH_NAN)
both("median_integers", lambda m, x: m.median(x, dim=1)[0], INTEGERS)
both("nanmedian", lambda m, x: m.nanmedian(x, dim=1)[0], WITH_NAN)
both("quantile_nan", lambda m, x: m.quantile(x, 0.4, dim=1), WITH_NAN[:, :2])
both("quantile_all", lambda m, x: m.quantile(x, 0.77), C)
both("quantile_all_kept", lambda m, x: m.quantile(x, 0.77, keepdim=True), C)
row("quantile_several", lambda x: graphc.quantile(x, [0.1, 0.5, 0.9], axis=1),
    lambda x: torch.quantile(x, torch.tensor([0.1, 0.5, 0.9], dtype=x.dtype), dim=1), C)
for _how in ("lower", "higher", "midpoint", "nearest"):
    both(f"quantile_{_how}", lambda m, x, h=_how: m.quantile(x, 0.3, dim=1, interpolation=h), A)
for _side in (False, True):
    row(f"searchsorted_{_side}", lambda s, v, r=_side: graphc.searchsorted(s.sort()[0], v, right=r),
        lambda s, v, r=_side: torch.searchsorted(s.detach().sort()[0], v.detach(), right=r), normal(3, 6), normal(3, 5))
    row(f"bucketize_{_side}", lambda v, r=_side: graphc.bucketize(v, [-1.0, 0.0, 0.5, 0.5, 2.0], right=r),
        lambda v, r=_side: torch.bucketize(v, torch.tensor([-1.0, 0.0, 0.5, 0.5, 2.0], dtype=v.dtype), right=r),
        np.array([[0.5, 0.0, 3.0], [-7.0, 0.2, np.nan]]))
for _name in ("cummax", "cummin"):
    for _axis in (0, 1):
        both(f"{_name}_{_axis}", lambda m, x, n=_name, a=_axis: tuple(getattr(m, n)(x, dim=a)), C)
    both(f"{_name}_ties", lambda m, x, n=_name: tuple(getattr(m, n)(x, dim=1)), TIES)
    both(f"{_name}_nan", lambda m, x, n=_name: getattr(m, n)(x, dim=1)[1], WITH_NAN)

# -- linear algebra

for _n in (1, 4, 17):
    for _upper in (False, True):
        both(f"cholesky_{_n}_{_upper}", lambda m, x, u=_upper: m.linalg.cholesky(x, upper=u), definite(_n, 2))
        for _left in (False, True):
            for _unit in (False, True):
                for _columns in (1, 20) if _n == 17 else (3,):
                    _shape = (2, _n, _columns) if _left else (2, _columns, _n)
                    both(f"solve_triangular_{_n}_{_columns}_{_upper}_{_left}_{_unit}",
                         lambda m, a, b, u=_upper, s=_left, i=_unit: m.linalg.solve_triangular(
                             m.triu(a) if u else m.tril(a), b, upper=u, left=s, unitriangular=i),
                         square(_n, 2) / 3, normal(*_shape))
    for _name in ("det", "inv", "slogdet"):
        both(f"{_name}_{_n}", lambda m, x, n=_name: (tuple(r) if isinstance(r := getattr(m.linalg, n)(x), tuple) else r),
             square(_n, 2))
    both(f"solve_{_n}", lambda m, a, b: m.linalg.solve(a, b), square(_n, 2), normal(2, _n, 3))
    both(f"solve_pivots_{_n}", lambda m, a, b: m.linalg.solve(m.flip(a, (1,)), b), square(_n, 2), normal(2, _n, 3))
    both(f"solve_right_{_n}", lambda m, a, b: m.linalg.solve(a, b, left=False), square(_n, 2), normal(2, 3, _n))
both("solve_vector", lambda m, a, b: m.linalg.solve(a, b), square(4), normal(4))
both("solve_vectors", lambda m, a, b: m.linalg.solve(a, b), square(4, 3), normal(3, 4))
both("solve_broadcast", lambda m, a, b: m.linalg.solve(a, b), square(4), normal(3, 4, 2))
both("logdet", lambda m, x: m.logdet(x), definite(4, 2))
row("logdet_by_cholesky",
    lambda x: 2.0 * graphc.linalg.cholesky(x).diagonal(0, -2, -1).log().sum(-1), torch.logdet, definite(4, 2))
row("inverse_methods", lambda x: x.inverse() + x.det(), lambda x: x.inverse() + x.det(), square(4))
for _power in (-2, -1, 0, 1, 5):
    both(f"matrix_power_{_power}", lambda m, x, p=_power: m.linalg.matrix_power(x, p), square(3, 2) / 3)
for _upper in (False, True):
    both(f"cholesky_solve_{_upper}", lambda m, b, x, u=_upper: m.cholesky_solve(b, m.linalg.cholesky(x, upper=u), upper=u),
         normal(2, 4, 3), definite(4, 2))
    both(f"cholesky_inverse_{_upper}", lambda m, x, u=_upper: m.cholesky_inverse(m.linalg.cholesky(x, upper=u), upper=u),
         definite(4))
row("lu_factor", lambda x: graphc.linalg.lu_factor(x)[0], lambda x: torch.linalg.lu_factor(x)[0], square(9, 2))
for _m, _n in ((1, 1), (3, 3), (5, 2), (9, 9), (20, 17), (2, 5)):
    both(f"qr_{_m}_{_n}", lambda m, x: tuple(m.linalg.qr(x)), normal(2, _m, _n) + 2 * np.eye(_m, _n))
both("lstsq", lambda m, a, b: m.linalg.lstsq(a, b).solution, normal(2, 7, 3),
     normal(2, 7, 2))
for _ord in (None, "fro", 1, -1, math.inf, -math.inf):
    both(f"matrix_norm_{_ord}", lambda m, x, o=_ord: m.linalg.norm(x, o), A)
    if _ord is not None:
        for _keep in (False, True):
            both(f"matrix_norm_{_ord}_{_keep}", lambda m, x, o=_ord, k=_keep: m.linalg.matrix_norm(x, o, (0, -1), k), C)
for _p in (0, 0.5, 1, 2, 3, math.inf, -math.inf, -1):
    both(f"vector_norm_{_p}", lambda m, x, p=_p: m.linalg.vector_norm(x, p, 1), C)
    both(f"norm_{_p}", lambda m, x, p=_p: m.linalg.norm(x, p, dim=1, keepdim=True), C)
both("linalg_diagonal", lambda m, x: m.linalg.diagonal(x, offset=1), C)

# -- products

both("mm", lambda m, a, b: m.mm(a, b), A, normal(4, 2))
both("bmm", lambda m, a, b: m.bmm(a, b), C, normal(2, 4, 5))
both("mv", lambda m, a, b: m.mv(a, b), A, normal(4))
for _beta in (0, 1, 0.5):
    both(f"addmm_{_beta}", lambda m, x, a, b, k=_beta: m.addmm(x, a, b, beta=k, alpha=1.5), normal(2), A, normal(4, 2))
    both(f"addmv_{_beta}", lambda m, x, a, b, k=_beta: m.addmv(x, a, b, beta=k), normal(3), A, normal(4))
    both(f"baddbmm_{_beta}", lambda m, x, a, b, k=_beta: m.baddbmm(x, a, b, beta=k, alpha=2), normal(2, 3, 5), C,
         normal(2, 4, 5))
    both(f"addbmm_{_beta}", lambda m, x, a, b, k=_beta: m.addbmm(x, a, b, beta=k), normal(3, 5), C, normal(2, 4, 5))
    both(f"addr_{_beta}", lambda m, x, a, b, k=_beta: m.addr(x, a, b, beta=k), A, normal(3), normal(4))
both("multi_dot", lambda m, a, b, c, d: m.linalg.multi_dot([a, b, c, d]), normal(5), normal(5, 20), normal(20, 2), normal(2))
both("inner", lambda m, a, b: m.inner(a, b), C, normal(5, 4))
both("vdot", lambda m, a, b: m.vdot(a, b), V, normal(7))
both("vecdot", lambda m, a, b: m.linalg.vecdot(a, b), C, normal(3, 4))
both("kron", lambda m, a, b: m.kron(a, b), A, normal(2, 3))
both("kron_ranks", lambda m, a, b: m.kron(a, b), C, normal(2, 3))
both("cross", lambda m, a, b: m.linalg.cross(a, b, dim=1), C, normal(1, 3, 4))
both("dist", lambda m, a, b: m.dist(a, b, 3), A, normal(3, 4))

# -- single elements

both("logaddexp", lambda m, a, b: m.logaddexp(a, b), normal(4, 5) * 40, normal(5) * 40)
row("logaddexp_edges", graphc.logaddexp, torch.logaddexp, np.array([1.0, -1e30, 700.0]), np.array([1.0, 0.0, -700.0]))
for _name in ("asinh", "frac", "sinc", "deg2rad", "rad2deg"):
    both(_name, lambda m, x, n=_name: getattr(m, n)(x), normal(4, 5) * 3)
for _name in ("log10", "logit", "atanh"):
    both(_name, lambda m, x, n=_name: getattr(m, n)(x), rng.uniform(0.1, 0.9, (4, 5)))
both("asinh_far", lambda m, x: m.asinh(x), np.array([1e12, -1e12, 1e-6, 0.0]))
both("acosh", lambda m, x: m.acosh(x), np.array([1.5, 2.0, 1e12]))
both("logit_eps", lambda m, x: m.logit(x, 0.2), rng.uniform(0.3, 0.7, 5))
both("xlogy", lambda m, x, y: m.xlogy(x, y), np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.5, 3.0]))
both("hypot", lambda m, x, y: m.hypot(x, y), np.array([3.0, -1e25, 0.5]), np.array([4.0, 1e25, 0.0]))
both("fmod", lambda m, x: m.fmod(x, 1.5), normal(20) * 5)
both("fmod_integers", lambda m, x: m.fmod(x, 3), INTEGERS)
both("lerp", lambda m, a, b: m.lerp(a, b, 0.3), A, normal(3, 4))
both("lerp_symbol", lambda m, a, b, w: m.lerp(a, b, w), A, normal(3, 4), rng.uniform(size=(3, 4)))
both("addcmul", lambda m, x, a, b: m.addcmul(x, a, b, value=0.5), A, normal(3, 4), normal(4))
both("addcdiv", lambda m, x, a, b: m.addcdiv(x, a, b, value=0.5), A, normal(3, 4), positive(4))
both("clamp_min", lambda m, x: m.clamp_min(x, 0.1), A)
both("clamp_max", lambda m, x: x.clamp_max(0.1), A)
both("nan_to_num", lambda m, x: m.nan_to_num(x), np.array([1.0, np.nan, 3.0]))
both("nan_to_num_given", lambda m, x: m.nan_to_num(x, 1.5, 7.0, -8.0), np.array([np.inf, np.nan, -np.inf]))
both("heaviside", lambda m, x, y: m.heaviside(x.detach(), y.detach()), np.array([-1.0, 0.0, 2.0]), np.array([0.5, 0.5, 0.5]))
for _equal in (False, True):
    both(f"isclose_{_equal}", lambda m, x, y, e=_equal: m.isclose(x, y, equal_nan=e),
         np.array([1.0, 1.0, np.nan, np.inf, np.inf, 0.0]), np.array([1.000001, 1.1, np.nan, np.inf, 1.0, 1e-9]))
row("allclose", lambda x: graphc.allclose(x, x * (1 + 1e-6)), lambda x: torch.tensor(torch.allclose(x, x * (1 + 1e-6))), A)
both("isin", lambda m, x: m.isin(x, x[0, :3]), INTEGERS)
both("isposinf", lambda m, x: m.isposinf(x), WITH_NAN)
both("isneginf", lambda m, x: m.isneginf(x), WITH_NAN)

# -- folds

for _name in ("nansum", "nanmean"):
    both(_name, lambda m, x, n=_name: getattr(m, n)(x, dim=1), np.array([[1.0, np.nan, 2.0], [3.0, 4.0, 5.0]]))
for _name in ("var_mean", "std_mean"):
    both(_name, lambda m, x, n=_name: getattr(m, n)(x, dim=1, correction=0, keepdim=True), C)
both("aminmax", lambda m, x: tuple(m.aminmax(x, dim=1)), A)
both("softmin", lambda m, x: (graphc.softmin if m is graphc else F.softmin)(x, dim=1), A)
both("diff", lambda m, x: m.diff(x, n=2, dim=1), C)
both("diff_bools", lambda m, x: m.diff(x), INTEGERS > 0)
both("trapezoid", lambda m, y: m.trapezoid(y, dx=0.3, dim=1), C)
both("trapezoid_places", lambda m, y, x: m.trapezoid(y, x), C, normal(4))

# -- arranging

for _name in ("hstack", "vstack", "dstack", "column_stack"):
    both(_name, lambda m, x, y, n=_name: getattr(m, n)([x, y]), A, normal(3, 4))
    both(f"{_name}_vectors", lambda m, x, y, n=_name: getattr(m, n)([x, y]), V, normal(7))
both("block_diag", lambda m, x, y, z: m.block_diag(x, y, z), A, normal(2, 2), V)
both("broadcast_tensors", lambda m, x, y: tuple(m.broadcast_tensors(x, y)), A, normal(2, 1, 4))
for _parts in (3, [2, 5], [0, 4, 4, 9]):
    both(f"tensor_split_{_parts}", lambda m, x, p=_parts: tuple(m.tensor_split(x, p)), V)
both("fliplr", lambda m, x: m.fliplr(x), A)
both("flipud", lambda m, x: m.flipud(x), A)
for _k in (-1, 0, 1, 2, 3):
    both(f"rot90_{_k}", lambda m, x, k=_k: m.rot90(x, k, (0, 2)), C)
both("movedim", lambda m, x: m.movedim(x, (0, 2), (2, 1)), C)
both("swapdims", lambda m, x: m.swapdims(x, 0, -1), C)
both("mT", lambda m, x: x.mT, C)
both("roll_method", lambda m, x: x.roll(2, 1), A)
both("expand_as", lambda m, x, y: x.expand_as(y) * 2 + 0 * y, normal(4), A)
both("take_along_dim", lambda m, x, i: m.take_along_dim(x, i, dim=1), A, index(0, 4, 3, 2))
both("take_along_dim_flat", lambda m, x, i: m.take_along_dim(x, i), A, index(0, 12, 5))
row("index_fill", lambda x: x.index_fill(1, [0, 3], 2.0), lambda x: x.index_fill(1, torch.tensor([0, 3]), 2.0), A)
row("bincount", lambda x: graphc.bincount(x + 4, minlength=9), lambda x: torch.bincount(x + 4, minlength=9), INTEGERS[0])
for _offset in (-4, -2, 0, 1, 5):
    both(f"diagonal_{_offset}", lambda m, x, k=_offset: m.diagonal(x, k, 0, 2), normal(3, 2, 5))
    both(f"diag_embed_{_offset}", lambda m, x, k=_offset: m.diag_embed(x, k), A)
    both(f"diag_{_offset}", lambda m, x, k=_offset: m.diag(x, k), V)
    both(f"diag_of_{_offset}", lambda m, x, k=_offset: x.diag(k), normal(5, 6))
both("diagonal_default", lambda m, x: m.diagonal(x), C)
both("diag_embed_axes", lambda m, x: m.diag_embed(x, 1, 0, 2), A)
both("diagflat", lambda m, x: m.diagflat(x, -1), normal(2, 2))
for _name in ("tril_indices", "triu_indices"):
    both(_name, lambda m, x, n=_name: getattr(m, n)(3, 5, 1), A)
both("logspace", lambda m, x: m.logspace(-1, 2, 7, dtype=m.float32), A)

STEPS = ("isclose", "allclose")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ROWS, ids=[r[0] for r in ROWS])
def test_values_and_gradients_agree(case: tuple, dtype: str) -> None:
    name, ours, theirs, arrays = case
    assert_agrees(ours, theirs, arrays, dtype, gradient=not name.startswith(STEPS),
                  loose=10.0 if dtype == "float32" and ("17" in name or name.startswith("qr")) else 1.0)


def test_linear_algebra_names_are_pytorchs() -> None:
    for name in graphc.linalg.__all__:
        assert hasattr(torch.linalg, name), name
