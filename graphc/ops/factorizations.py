"""Factorisations of matrices, the last two axes: the ROUTINE ops LU and QR.

Knows blocked algorithms by rows, and gradients in terms of ops that have gradients: that of LU after de Hoog, Anderssen
and Lukas, "Differentiation of matrix functionals using triangular factorization" (2011), that of QR after Roberts and
Roberts, "QR and LQ decomposition matrix backpropagation algorithms" (2020).  Must not know how members of a batch are
shared out, or LLVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir import Node
from ..op import Kind, Op, Sample, define
from ..symbols import Tensor, apply
from ..types import Size, TensorType, int64
from . import elementwise as e
from .contractions import matmul
from .control import results_of
from .shaping import tril, triu
from .sources import iota
from .triangular import blocks, columns_of, members_of, square_type, swapped, triangular
from .views import expand_to, unsqueeze

PANEL = 8  # columns that LU eliminates before it updates the rest
PAIR = 2  # rows that this update takes together: their factors and the panel's row fill the registers


# -- LU --------------------------------------------------------------------------------------------------------------


def _lu_type(x: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    square_type(x)
    return x, TensorType(int64, x.shape[:-1]), x.with_shape(x.shape[:-2])


def _lu_numpy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = x.shape[-1]
    factors, order = np.array(x), np.broadcast_to(np.arange(n), x.shape[:-1]).copy()
    sign = np.ones(x.shape[:-2], x.dtype)
    for place in np.ndindex(x.shape[:-2]):
        lu, rows = factors[place], order[place]
        for k in range(n):
            best = k + int(np.argmax(np.abs(lu[k:, k])))
            if best != k:
                lu[[k, best]], rows[[k, best]] = lu[[best, k]], rows[[best, k]]
                sign[place] *= -1
            if lu[k, k] != 0:
                lu[k + 1:, k] /= lu[k, k]
            lu[k + 1:, k + 1:] -= np.outer(lu[k + 1:, k], lu[k, k + 1:])
    return factors, order, sign


def _lu_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType]) -> None:
    """Elimination with partial pivoting: a panel of columns at a time, whose product then updates what is right of it."""
    (x,), (lu, order, sign) = inputs, outputs
    n, dtype = columns_of(types[0]), types[0].dtype.name
    with r.loop(0, n) as i:
        order[i] = i
        source, target = x.row(i), lu.row(i)
        r.each(0, n, lambda j: target.__setitem__(j, source[j]))
    parity = r.variable(r.constant(1.0, dtype))

    columns = r.scratch(dtype, PANEL, n)  # the panel, column by column: vectors run down the rows

    def exchange(k: Any, pivot_row: Any, count: int) -> None:
        upper, lower = lu.row(k), lu.row(pivot_row)

        def swap(j: Any) -> None:
            p, q = upper[j], lower[j]
            upper[j], lower[j] = q, p

        r.each(0, n, swap)
        with r.loop(0, count) as t:
            p, q = columns[t, k], columns[t, pivot_row]
            columns[t, k], columns[t, pivot_row] = q, p
        p, q = order[k], order[pivot_row]
        order[k], order[pivot_row] = q, p
        parity.value = -parity.value

    def eliminate(c: Any, first: Any, count: int) -> None:
        """Column c of the panel, and its part in the columns after it."""
        k, column = first + c, columns.row(c)
        best = r.greatest(k, n, dtype, lambda i: r.abs(column[i]))
        pivot_row = r.variable(k)
        with r.loop_while(lambda: (pivot_row.value < n - 1) & (r.abs(column[pivot_row.value]) != best)):
            pivot_row.value = pivot_row.value + 1
        with r.when(pivot_row.value != k):
            exchange(k, pivot_row.value, count)
        pivot = column[k]
        scale = r.select(pivot != 0.0, 1.0 / pivot, 0.0 * pivot)
        r.each(k + 1, n, lambda i: column.__setitem__(i, column[i] * scale))
        with r.loop(c + 1, count) as t:
            other = columns.row(t)
            factor = -other[k]
            r.each(k + 1, n, lambda i: other.__setitem__(i, r.fma(column[i], factor, other[i])))

    def panel(first: Any, count: int) -> None:
        end = first + count

        def fetch(i: Any) -> None:
            for c in range(count):
                columns[c, i] = lu[i, first + c]

        def put_back(i: Any) -> None:
            for c in range(count):
                lu[i, first + c] = columns[c, i]

        r.each(first, n, fetch)
        with r.loop(0, count) as c:
            eliminate(c, first, count)
        r.each(first, n, put_back)
        rows = [lu.row(first + c) for c in range(count)]

        def solve(j: Any) -> None:
            known: list[Any] = []
            for c in range(count):
                value = rows[c][j]
                for t in range(c):
                    value = r.fma(-rows[c][first + t], known[t], value)
                known.append(value)
                rows[c][j] = value

        r.each(end, n, solve)

        def below(i: Any, together: int) -> None:
            targets = [lu.row(i + q) for q in range(together)]
            factors = [[-target[first + c] for c in range(count)] for target in targets]

            def update(j: Any) -> None:
                values = [target[j] for target in targets]
                for c in range(count):
                    known = rows[c][j]
                    values = [r.fma(factors[q][c], known, value) for q, value in enumerate(values)]
                for target, value in zip(targets, values, strict=True):
                    target[j] = value

            r.each(end, n, update)

        if count == PANEL:  # then the rows below are as even in number as n
            with r.loop(end, n - n % PAIR, PAIR) as i:
                below(i, PAIR)
            if n % PAIR:
                with r.when(end < n):
                    below(n - 1, 1)

    blocks(r, n, PANEL, panel)
    sign[()] = parity.value


def _lu_gradient(g: Sequence[Tensor | None], out: Node, x: Tensor) -> list[Tensor | None]:
    if g[0] is None:
        return [None]
    factors, order, _sign = results_of(out)
    n = x.shape[-1]
    lower = e.where(iota((n, n), 0) == iota((n, n), 1), 1.0, tril(factors, -1))
    upper = triu(factors)
    inner = tril(matmul(swapped(lower), tril(g[0], -1)), -1) + triu(matmul(triu(g[0]), swapped(upper)))
    half = triangular(factors, inner, upper=False, transposed=True, unit=True)
    return [unordered(swapped(triangular(factors, swapped(half), upper=True)), order)]


GENERAL = np.array([[[0.3, 1.0, 2.0], [4.0, -1.0, 0.5], [1.0, 0.2, -0.7]],
                     [[1.0, 2.0, 0.1], [0.4, 3.0, 1.0], [2.5, 0.3, 1.0]]])
lu_op: Op = define(Op(
    "lu", Kind.ROUTINE, _lu_type, _lu_numpy, _lu_gradient, routine=_lu_routine, core=2,
    operations=lambda x: members_of(x) * (2 * columns_of(x) ** 3 // 3 + 8 * columns_of(x) ** 2),
    samples=(Sample((GENERAL,)), Sample((GENERAL.astype(np.float32),))),
    doc="L (below the diagonal, its own being 1) and U of x with its rows in the second result's order, whose sign is "
        "the third: partial pivoting.  A singular x has a zero on U's diagonal."))


def _spread(order: Tensor, columns: Size) -> Tensor:
    return expand_to(unsqueeze(order, -1), (*order.shape, columns))


def ordered(b: Tensor, order: Tensor) -> Tensor:
    """The rows of b in the order."""
    return apply("gather", b, _spread(order, b.shape[-1]), axis=b.ndim - 2)


def unordered(b: Tensor, order: Tensor) -> Tensor:
    """The rows put back to where the order took them from."""
    return apply("scatter_add", _spread(order, b.shape[-1]), b, axis=b.ndim - 2, size=b.shape[-2])


# -- QR --------------------------------------------------------------------------------------------------------------


def _qr_type(x: TensorType) -> tuple[TensorType, TensorType]:
    if not x.dtype.is_float:
        raise DTypeError("floats are needed")
    if x.ndim < 2 or (isinstance(x.shape[-1], int) and isinstance(x.shape[-2], int) and x.shape[-2] < x.shape[-1]):
        raise ShapeError("matrices with at least as many rows as columns are needed")
    return x, x.with_shape((*x.shape[:-2], x.shape[-1], x.shape[-1]))


def _qr_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType]) -> None:
    """Householder's reflections, as LAPACK chooses them: forwards on x for R, then backwards on the identity for Q."""
    (x,), (q, upper) = inputs, outputs
    (m, n), dtype = (int(s) for s in types[0].shape[-2:]), types[0].dtype.name
    work, mirrors, scales = r.scratch(dtype, m, n), r.scratch(dtype, n, m), r.scratch(dtype, n)

    def reflect(target: Any, k: Any, low: Any) -> None:
        """target - scale * v (v' target) for the k-th reflection v, in the columns from `low` on."""
        mirror, scale = mirrors.row(k), scales[k]

        def columns(j: Any) -> None:
            along = r.variable(target[k, j] * mirror[k])
            with r.loop(k + 1, m) as i:
                along.value = r.fma(mirror[i], target[i, j], along.value)
            moved = along.value * -scale
            with r.loop(k, m) as i:
                target[i, j] = r.fma(mirror[i], moved, target[i, j])

        r.each(low, n, columns, vectors=4)

    with r.loop(0, m) as i:
        r.each(0, n, lambda j: work.__setitem__((i, j), x[i, j]))
        r.each(0, n, lambda j: q.__setitem__((i, j), r.select(j == i, r.constant(1.0, dtype), 0.0)))
    with r.loop(0, n) as k:
        mirror = mirrors.row(k)
        r.each(k, m, lambda i: mirror.__setitem__(i, work[i, k]))
        below = r.sum(k + 1, m, dtype, lambda i: mirror[i] * mirror[i])
        first = mirror[k]
        size = r.sqrt(r.fma(first, first, below))
        last = below == 0.0  # nothing to reflect
        turned = r.select(last, first, r.select(first > 0.0, -size, size))
        divisor = r.select(last, 1.0, first - turned)
        r.each(k + 1, m, lambda i: mirror.__setitem__(i, mirror[i] / divisor))
        mirror[k] = 1.0
        scales[k] = r.select(last, 0.0, (turned - first) / r.select(last, 1.0, turned))
        reflect(work, k, k + 1)
        work[k, k] = turned
    with r.loop(0, n) as k:
        r.each(0, k, lambda j: upper.__setitem__((k, j), 0.0))
        r.each(k, n, lambda j: upper.__setitem__((k, j), work[k, j]))
    with r.loop(0, n, reverse=True) as k:
        reflect(q, k, k)


def _qr_gradient(g: Sequence[Tensor | None], out: Node, x: Tensor) -> list[Tensor | None]:
    """Roberts and Roberts, "QR and LQ decomposition matrix backpropagation algorithms" (2020), for full column rank."""
    q, upper = results_of(out)
    of_q, of_upper = g
    inner: Tensor | None = None if of_upper is None else matmul(upper, swapped(of_upper))
    if of_q is not None:
        product = matmul(swapped(of_q), q)
        inner = -product if inner is None else inner - product
    if inner is None:
        return [None]
    moved = matmul(q, tril(inner) + swapped(tril(inner, -1)))
    moved = moved if of_q is None else moved + of_q
    return [swapped(triangular(upper, swapped(moved), upper=True))]


_TALL = np.array([[[0.3, 1.0], [4.0, -1.0], [1.0, 0.2]], [[-1.0, 2.0], [0.4, 3.0], [2.5, 0.3]]])
qr_op: Op = define(Op(
    "qr", Kind.ROUTINE, _qr_type, lambda x: tuple(np.linalg.qr(x)), _qr_gradient, routine=_qr_routine, core=2,
    operations=lambda x: int(x.size) * 4 * (columns_of(x) + 2),
    samples=(Sample((_TALL,)), Sample((_TALL[0].astype(np.float32),))),
    doc="Q with orthonormal columns and the upper R with Q R = x, for x with at least as many rows as columns."))
