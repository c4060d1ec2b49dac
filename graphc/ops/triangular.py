"""Triangular matrices, the last two axes: the ROUTINE ops for Cholesky's factor and for triangular systems.

Knows blocked algorithms by rows, and gradients in terms of ops that have gradients: that of Cholesky after Murray,
"Differentiation of the Cholesky decomposition" (2016, equation 9).  Must not know how members of a batch are shared out,
or LLVM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from ..op import Kind, Op, Sample, define
from ..symbols import Tensor, apply
from ..types import TensorType
from . import elementwise as e
from .contractions import matmul
from .shaping import tril, triu
from .sources import iota
from .views import permute

ROWS = 4  # rows that are updated together, so that each vector read serves all of them


def square_type(x: TensorType, **_: Any) -> TensorType:
    """The type itself; an error where it is not of square matrices of floats."""
    if not x.dtype.is_float:
        raise DTypeError("floats are needed")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError("a square matrix (or a batch of them) is needed")
    return x


def columns_of(x: TensorType) -> int:
    """The size of the last axis, once it is known."""
    return int(x.shape[-1])


def members_of(x: TensorType) -> int:
    """How many square matrices there are."""
    return int(x.size) // max(1, columns_of(x) ** 2)


def swapped(x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    return permute(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)) if x.ndim > 1 else x


def _halved(x: Tensor) -> Tensor:
    """The lower triangle with half of the diagonal."""
    n = x.shape[-1]
    row, column = iota((n, n), 0), iota((n, n), 1)
    return e.where(row > column, x, e.where(row == column, x * 0.5, 0.0))


def blocks(r: Any, n: int, rows: int, block: Callable[[Any, int], None]) -> None:
    """block(i, count) for rows i .. i + count - 1, the last block shorter."""
    whole = n // rows * rows
    if whole:
        with r.loop(0, whole, rows) as i:
            block(i, rows)
    if n > whole:
        block(whole, n - whole)


def each_matrix(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """numpy's function for every member by itself, NaN where it finds no answer."""

    def evaluate(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        for place in np.ndindex(x.shape[:-2]):
            try:
                out[place] = function(x[place])
            except np.linalg.LinAlgError:
                out[place] = np.nan
        return out

    return evaluate


# -- Cholesky --------------------------------------------------------------------------------------------------------


def _cholesky_numpy(x: np.ndarray) -> np.ndarray:
    factor = each_matrix(np.linalg.cholesky)((x + np.swapaxes(x, -1, -2)) * x.dtype.type(0.5))
    bad = ~np.isfinite(factor).all((-1, -2), keepdims=True)
    return np.where(bad, x.dtype.type(np.nan), np.swapaxes(factor, -1, -2))


def _cholesky_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType]) -> None:
    """By blocks of rows of the upper factor: subtract what finished rows explain, factor the diagonal block, solve."""
    (x,), (u,) = inputs, outputs
    n, dtype = columns_of(types[0]), types[0].dtype.name
    good = r.variable(r.constant(True, "bool"))

    def block(i: Any, count: int) -> None:
        rows = [u.row(i + q) for q in range(count)]

        def update(j: Any) -> None:
            left = [r.variable((x[i + q, j] + x[j, i + q]) * 0.5) for q in range(count)]
            with r.loop(0, i) as k:
                finished = u.row(k)
                above = finished[j]
                for q in range(count):
                    left[q].value = r.fma(-finished[i + q], above, left[q].value)
            for q in range(count):
                rows[q][j] = left[q].value

        r.each(i, n, update, vectors=4)
        corner: dict[tuple[int, int], Any] = {}
        inverse = []
        for q in range(count):
            for t in range(q, count):
                value = rows[q][i + t]
                for p in range(q):
                    value = r.fma(-corner[p, q], corner[p, t], value)
                if t == q:
                    good.value = good.value & (value > 0.0) & r.is_finite(value)
                    corner[q, q] = r.sqrt(value)
                    inverse.append(1.0 / corner[q, q])
                else:
                    corner[q, t] = value * inverse[q]
                rows[q][i + t] = corner[q, t]

        def solve(j: Any) -> None:
            found: list[Any] = []
            for q in range(count):
                value = rows[q][j]
                for p in range(q):
                    value = r.fma(-corner[p, q], found[p], value)
                found.append(value * inverse[q])
                rows[q][j] = found[q]

        r.each(i + count, n, solve)
        for q in range(count):
            r.each(0, i + q, lambda j, row=rows[q]: row.__setitem__(j, 0.0))

    blocks(r, n, ROWS, block)
    with r.when(~good.value), r.loop(0, n) as i:
        row = u.row(i)
        r.each(0, n, lambda j: row.__setitem__(j, r.constant(float("nan"), dtype)))


def _cholesky_gradient(g: Tensor, out: Tensor, x: Tensor) -> Tensor:
    inner = _halved(matmul(out, swapped(g)))
    half = triangular(out, inner, upper=True)
    full = triangular(out, swapped(half), upper=True)
    return (full + swapped(full)) * 0.5


_POSITIVE = np.array([[[4.0, 1.0, 0.5], [1.0, 3.0, -0.7], [0.5, -0.7, 2.0]],
                      [[2.0, -0.3, 0.0], [-0.3, 1.5, 0.4], [0.0, 0.4, 1.0]]])
cholesky_op = define(Op(
    "cholesky", Kind.ROUTINE, square_type, _cholesky_numpy, (_cholesky_gradient,), routine=_cholesky_routine, core=2,
    operations=lambda x: members_of(x) * (columns_of(x) ** 3 // 3 + 8 * columns_of(x) ** 2),
    samples=(Sample((_POSITIVE,)), Sample((_POSITIVE[0].astype(np.float32),))),
    doc="The upper R with R'R = x; NaN where x is not positive definite.  Reads the symmetric part (x + x')/2."))


# -- triangular systems ----------------------------------------------------------------------------------------------


def triangular_type(a: TensorType, b: TensorType, *, upper: bool, transposed: bool, unit: bool) -> TensorType:
    square_type(a)
    if a.dtype != b.dtype:
        raise DTypeError("the matrix and the right-hand sides must have one dtype")
    if b.ndim != a.ndim or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError("the right-hand sides must be [.., n, columns] with the matrix's leading axes")
    return b


def _triangular_numpy(a: np.ndarray, b: np.ndarray, *, upper: bool, transposed: bool, unit: bool) -> np.ndarray:
    m = np.triu(a) if upper else np.tril(a)
    m = np.swapaxes(m, -1, -2) if transposed else m
    n = a.shape[-1]
    out = np.array(b)
    for i in reversed(range(n)) if upper != transposed else range(n):
        if not unit:
            out[..., i, :] = out[..., i, :] / m[..., i, i, None]
        rest = slice(0, i) if upper != transposed else slice(i + 1, n)
        out[..., rest, :] -= m[..., rest, i, None] * out[..., i, None, :]
    return out


def _triangular_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType], *, upper: bool,
                        transposed: bool, unit: bool) -> None:
    """Substitution: a block of rows of the answer at a time, all columns of a few vectors together."""
    (a, b), (out,) = inputs, outputs
    n, m, dtype = columns_of(types[0]), int(types[1].shape[-1]), types[0].dtype.name
    backwards = upper != transposed

    def row_of(p: Any) -> Any:
        """The row that is solved p-th."""
        return (n - 1) - p if backwards else p

    if m == 1:  # vectors run along the matrix' rows instead
        def value(i: Any) -> Any:
            return out[i, 0] if unit else out[i, 0] / a[i, i]

        if transposed:
            r.each(0, n, lambda i: out.__setitem__((i, 0), b[i, 0]))
        with r.loop(0, n, reverse=backwards) as i:
            low, high = (i + 1, n) if backwards != transposed else (0, i)
            if transposed:
                low, high = (0, i) if backwards else (i + 1, n)
                known = value(i)
                out[i, 0] = known
                r.each(low, high, lambda k: out.__setitem__((k, 0), r.fma(-a[i, k], known, out[k, 0])))
            else:
                out[i, 0] = b[i, 0] - r.sum(low, high, dtype, lambda k: a[i, k] * out[k, 0])
                out[i, 0] = value(i)
        return

    def columns(j: Any) -> None:
        def block(p: Any, count: int) -> None:
            rows = [row_of(p + q) for q in range(count)]
            left = [r.variable(b[rows[q], j]) for q in range(count)]
            with r.loop(0, p) as k:
                other = row_of(k)
                known = out[other, j]
                for q in range(count):
                    factor = a[other, rows[q]] if transposed else a[rows[q], other]
                    left[q].value = r.fma(-factor, known, left[q].value)
            found: list[Any] = []
            for q in range(count):
                value = left[q].value
                for t in range(q):
                    factor = a[rows[t], rows[q]] if transposed else a[rows[q], rows[t]]
                    value = r.fma(-factor, found[t], value)
                found.append(value if unit else value * (1.0 / a[rows[q], rows[q]]))
                out[rows[q], j] = found[q]

        blocks(r, n, ROWS, block)

    r.each(0, m, columns, vectors=4)


def _triangular_gradient(g: Tensor, out: Tensor, a: Tensor, b: Tensor, *, upper: bool, transposed: bool, unit: bool
                         ) -> list[Tensor]:
    back = apply(_solve_triangular, a, g, upper=upper, transposed=not transposed, unit=unit)
    outer = -matmul(out, swapped(back)) if transposed else -matmul(back, swapped(out))
    inside = 1 if unit else 0
    return [triu(outer, inside) if upper else tril(outer, -inside), back]


_LOWER = np.array([[1.5, 0.3, -0.2], [0.4, -1.2, 0.6], [-0.7, 0.5, 2.0]])
_solve_triangular: Op = define(Op(
    "solve_triangular", Kind.ROUTINE, triangular_type, _triangular_numpy, _triangular_gradient,
    routine=_triangular_routine, core=2,
    operations=lambda a, b, **_: int(b.size) * (columns_of(a) + 4),
    samples=tuple(Sample((_LOWER.astype(dtype), shape), {"upper": upper, "transposed": transposed, "unit": unit})
                  for upper, transposed, unit, dtype, shape in (
                      (False, False, False, np.float64, np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])),
                      (True, False, True, np.float64, np.array([[1.0], [0.5], [3.0]])),
                      (True, True, False, np.float64, np.array([[1.0], [0.5], [3.0]])),
                      (False, True, True, np.float64, np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])),
                      (False, False, False, np.float32, np.array([[1.0], [0.5], [3.0]], np.float32)))),
    doc="The X with op(A) X = B, A the upper or lower triangle of the first operand; unit: its diagonal is not read."))


def triangular(a: Tensor, b: Tensor, *, upper: bool, transposed: bool = False, unit: bool = False) -> Tensor:
    """The op; a matrix that is a transposed view is read as it lies in memory."""
    if a.node.op.kind is Kind.VIEW and a.node is swapped(Tensor(a.node.inputs[0])).node:
        a, upper, transposed = Tensor(a.node.inputs[0]), not upper, not transposed
    return apply(_solve_triangular, a, b, upper=upper, transposed=transposed, unit=unit)
