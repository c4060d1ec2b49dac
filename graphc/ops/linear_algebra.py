"""Linear algebra on the last two axes: three ROUTINE ops (Cholesky, LU, triangular solve), and what they give.

Knows blocked algorithms by rows, and gradients in terms of ops that have gradients: those of Cholesky after Murray,
"Differentiation of the Cholesky decomposition" (2016, equation 9), of LU after de Hoog, Anderssen and Lukas,
"Differentiation of matrix functionals using triangular factorization" (2011), the others after Giles, "An extended
collection of matrix derivative results for forward and reverse mode algorithmic differentiation" (2008).  Must not know
how members of a batch are shared out, or LLVM.

A matrix without an answer (singular, not positive definite) cannot raise inside a static step: its whole result is NaN,
which `check_numerics=True` reports, while the other members of the batch are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..ir import Node, at, user_origin
from ..op import Kind, Op, Sample, define
from ..tensor import Tensor, TensorLike, apply, as_tensor, public
from ..types import Size, TensorType, broadcast_shapes, float32, int64, promote
from . import elementwise as e
from .contractions import matmul, matrix_diagonal
from .control import apply_all, results_of
from .reductions import any_, prod_, sum_
from .shaping import diag_embed, tril, triu
from .sources import eye, iota
from .views import expand_to, permute, squeeze, unsqueeze

ROWS = 4  # rows that are updated together, so that each vector read serves all of them
PANEL = 8  # columns that LU eliminates before it updates the rest


def _square(x: TensorType, **_: Any) -> TensorType:
    if not x.dtype.is_float:
        raise DTypeError("floats are needed")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError("a square matrix (or a batch of them) is needed")
    return x


def _n(x: TensorType) -> int:
    return int(x.shape[-1])


def _members(x: TensorType) -> int:
    return int(x.size) // max(1, _n(x) ** 2)


def _t(x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    return permute(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)) if x.ndim > 1 else x


def _halved(x: Tensor) -> Tensor:
    """The lower triangle with half of the diagonal."""
    n = x.shape[-1]
    row, column = iota((n, n), 0), iota((n, n), 1)
    return e.where(row > column, x, e.where(row == column, x * 0.5, 0.0))


def _blocks(r: Any, n: int, rows: int, block: Callable[[Any, int], None]) -> None:
    """block(i, count) for rows i .. i + count - 1, the last block shorter."""
    whole = n // rows * rows
    if whole:
        with r.loop(0, whole, rows) as i:
            block(i, rows)
    if n > whole:
        block(whole, n - whole)


def _each_matrix(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
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
    factor = _each_matrix(np.linalg.cholesky)((x + np.swapaxes(x, -1, -2)) * x.dtype.type(0.5))
    bad = ~np.isfinite(factor).all((-1, -2), keepdims=True)
    return np.where(bad, x.dtype.type(np.nan), np.swapaxes(factor, -1, -2))


def _cholesky_routine(r: Any, inputs: Sequence[Any], outputs: Sequence[Any], types: Sequence[TensorType]) -> None:
    """By blocks of rows of the upper factor: subtract what finished rows explain, factor the diagonal block, solve."""
    (x,), (u,) = inputs, outputs
    n, dtype = _n(types[0]), types[0].dtype.name
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

    _blocks(r, n, ROWS, block)
    with r.when(~good.value), r.loop(0, n) as i:
        row = u.row(i)
        r.each(0, n, lambda j: row.__setitem__(j, r.constant(float("nan"), dtype)))


def _cholesky_gradient(g: Tensor, out: Tensor, x: Tensor) -> Tensor:
    inner = _halved(matmul(out, _t(g)))
    half = _triangular(out, inner, upper=True)
    full = _triangular(out, _t(half), upper=True)
    return (full + _t(full)) * 0.5


_POSITIVE = np.array([[[4.0, 1.0, 0.5], [1.0, 3.0, -0.7], [0.5, -0.7, 2.0]],
                      [[2.0, -0.3, 0.0], [-0.3, 1.5, 0.4], [0.0, 0.4, 1.0]]])
_cholesky = define(Op(
    "cholesky", Kind.ROUTINE, _square, _cholesky_numpy, (_cholesky_gradient,), routine=_cholesky_routine, core=2,
    operations=lambda x: _members(x) * (_n(x) ** 3 // 3 + 8 * _n(x) ** 2),
    samples=(Sample((_POSITIVE,)), Sample((_POSITIVE[0].astype(np.float32),))),
    doc="The upper R with R'R = x; NaN where x is not positive definite.  Reads the symmetric part (x + x')/2."))


# -- triangular systems ----------------------------------------------------------------------------------------------


def _triangular_type(a: TensorType, b: TensorType, *, upper: bool, transposed: bool, unit: bool) -> TensorType:
    _square(a)
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
    n, m, dtype = _n(types[0]), int(types[1].shape[-1]), types[0].dtype.name
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

        _blocks(r, n, ROWS, block)

    r.each(0, m, columns, vectors=4)


def _triangular_gradient(g: Tensor, out: Tensor, a: Tensor, b: Tensor, *, upper: bool, transposed: bool, unit: bool
                         ) -> list[Tensor]:
    back = apply(_solve_triangular, a, g, upper=upper, transposed=not transposed, unit=unit)
    outer = -matmul(out, _t(back)) if transposed else -matmul(back, _t(out))
    inside = 1 if unit else 0
    return [triu(outer, inside) if upper else tril(outer, -inside), back]


_LOWER = np.array([[1.5, 0.3, -0.2], [0.4, -1.2, 0.6], [-0.7, 0.5, 2.0]])
_solve_triangular: Op = define(Op(
    "solve_triangular", Kind.ROUTINE, _triangular_type, _triangular_numpy, _triangular_gradient,
    routine=_triangular_routine, core=2,
    operations=lambda a, b, **_: int(b.size) * (_n(a) + 4),
    samples=tuple(Sample((_LOWER.astype(dtype), shape), {"upper": upper, "transposed": transposed, "unit": unit})
                  for upper, transposed, unit, dtype, shape in (
                      (False, False, False, np.float64, np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])),
                      (True, False, True, np.float64, np.array([[1.0], [0.5], [3.0]])),
                      (True, True, False, np.float64, np.array([[1.0], [0.5], [3.0]])),
                      (False, True, True, np.float64, np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])),
                      (False, False, False, np.float32, np.array([[1.0], [0.5], [3.0]], np.float32)))),
    doc="The X with op(A) X = B, A the upper or lower triangle of the first operand; unit: its diagonal is not read."))


def _triangular(a: Tensor, b: Tensor, *, upper: bool, transposed: bool = False, unit: bool = False) -> Tensor:
    """The op; a matrix that is a transposed view is read as it lies in memory."""
    if a.node.op.kind is Kind.VIEW and a.node is _t(Tensor(a.node.inputs[0])).node:
        a, upper, transposed = Tensor(a.node.inputs[0]), not upper, not transposed
    return apply(_solve_triangular, a, b, upper=upper, transposed=transposed, unit=unit)


# -- LU --------------------------------------------------------------------------------------------------------------


def _lu_type(x: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    _square(x)
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
    n, dtype = _n(types[0]), types[0].dtype.name
    with r.loop(0, n) as i:
        order[i] = i
        source, target = x.row(i), lu.row(i)
        r.each(0, n, lambda j: target.__setitem__(j, source[j]))
    parity = r.variable(r.constant(1.0, dtype))

    def eliminate(k: Any, end: Any) -> None:
        """Column k, and the columns up to `end`."""
        best, where_ = r.variable(r.abs(lu[k, k])), r.variable(k)
        with r.loop(k + 1, n) as i:
            size = r.abs(lu[i, k])
            better = size > best.value
            best.value = r.select(better, size, best.value)
            where_.value = r.select(better, i, where_.value)
        with r.when(where_.value != k):
            upper, lower = lu.row(k), lu.row(where_.value)

            def swap(j: Any) -> None:
                p, q = upper[j], lower[j]
                upper[j], lower[j] = q, p

            r.each(0, n, swap)
            first, second = order[k], order[where_.value]
            order[k], order[where_.value] = second, first
            parity.value = -parity.value
        pivot = lu[k, k]
        scale = r.select(pivot != 0.0, 1.0 / pivot, 0.0 * best.value)
        top = lu.row(k)
        with r.loop(k + 1, n) as i:
            row = lu.row(i)
            factor = row[k] * scale
            row[k] = factor
            r.each(k + 1, end, lambda j: row.__setitem__(j, r.fma(-factor, top[j], row[j])))

    def panel(first: Any, count: int) -> None:
        end = first + count
        with r.loop(first, end) as k:
            eliminate(k, end)
        rows = [lu.row(first + c) for c in range(count)]

        def rest(j: Any) -> None:
            known: list[Any] = []
            for c in range(count):
                value = rows[c][j]
                for t in range(c):
                    value = r.fma(-rows[c][first + t], known[t], value)
                known.append(value)
                rows[c][j] = value
            with r.loop(end, n) as i:
                row = lu.row(i)
                value = row[j]
                for c in range(count):
                    value = r.fma(-row[first + c], known[c], value)
                row[j] = value

        r.each(end, n, rest, vectors=2)

    _blocks(r, n, PANEL, panel)
    sign[()] = parity.value


def _lu_gradient(g: Sequence[Tensor | None], out: Node, x: Tensor, **_: Any) -> list[Tensor | None]:
    if g[0] is None:
        return [None]
    factors, order, _sign = results_of(out)
    n = x.shape[-1]
    lower = e.where(iota((n, n), 0) == iota((n, n), 1), 1.0, tril(factors, -1))
    upper = triu(factors)
    inner = tril(matmul(_t(lower), tril(g[0], -1)), -1) + triu(matmul(triu(g[0]), _t(upper)))
    half = _triangular(factors, inner, upper=False, transposed=True, unit=True)
    return [_unordered(_t(_triangular(factors, _t(half), upper=True)), order)]


_GENERAL = np.array([[[0.3, 1.0, 2.0], [4.0, -1.0, 0.5], [1.0, 0.2, -0.7]],
                     [[1.0, 2.0, 0.1], [0.4, 3.0, 1.0], [2.5, 0.3, 1.0]]])
_lu: Op = define(Op(
    "lu", Kind.ROUTINE, _lu_type, _lu_numpy, _lu_gradient, routine=_lu_routine, core=2,
    operations=lambda x: _members(x) * (2 * _n(x) ** 3 // 3 + 8 * _n(x) ** 2),
    samples=(Sample((_GENERAL,)), Sample((_GENERAL.astype(np.float32),))),
    doc="L (below the diagonal, its own being 1) and U of x with its rows in the second result's order, whose sign is "
        "the third: partial pivoting.  A singular x has a zero on U's diagonal."))


def _spread(order: Tensor, columns: Size) -> Tensor:
    return expand_to(unsqueeze(order, -1), (*order.shape, columns))


def _ordered(b: Tensor, order: Tensor) -> Tensor:
    """The rows of b in the order."""
    return apply("gather", b, _spread(order, b.shape[-1]), axis=b.ndim - 2)


def _unordered(b: Tensor, order: Tensor) -> Tensor:
    """The rows put back to where the order took them from."""
    return apply("scatter_add", _spread(order, b.shape[-1]), b, axis=b.ndim - 2, size=b.shape[-2])


# -- solve, inverse, determinant -------------------------------------------------------------------------------------


def _solve_type(a: TensorType, b: TensorType, *, transposed: bool) -> TensorType:
    return _triangular_type(a, b, upper=True, transposed=transposed, unit=False)


def _solve_numpy(a: np.ndarray, b: np.ndarray, *, transposed: bool) -> np.ndarray:
    m = np.swapaxes(a, -1, -2) if transposed else a
    out = np.empty_like(b)
    for place in np.ndindex(a.shape[:-2]):
        try:
            out[place] = np.linalg.solve(m[place], b[place])
        except np.linalg.LinAlgError:
            out[place] = np.nan
    return out


def _solve_expand(a: Tensor, b: Tensor, *, transposed: bool) -> Tensor:
    factors, order, _ = apply_all(_lu, a)
    if transposed:
        half = _triangular(factors, b, upper=True, transposed=True)
        found = _unordered(_triangular(factors, half, upper=False, transposed=True, unit=True), order)
    else:
        half = _triangular(factors, _ordered(b, order), upper=False, unit=True)
        found = _triangular(factors, half, upper=True)
    singular = any_(matrix_diagonal(factors) == 0.0, -1)
    return e.where(unsqueeze(unsqueeze(singular, -1), -1), float("nan"), found)


def _solve_gradient(g: Tensor, out: Tensor, a: Tensor, b: Tensor, *, transposed: bool) -> list[Tensor]:
    back = apply(_solve, a, g, transposed=not transposed)
    return [-matmul(out, _t(back)) if transposed else -matmul(back, _t(out)), back]


_solve: Op = define(Op(
    "solve", Kind.COMPOSITE, _solve_type, _solve_numpy, _solve_gradient, expand=_solve_expand,
    samples=(Sample((_GENERAL[0], np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])), {"transposed": False}),
             Sample((_GENERAL[1].astype(np.float32), np.array([[1.0], [0.5], [3.0]], np.float32)), {"transposed": True}),
             Sample((_GENERAL, np.array([[[1.0], [0.5], [3.0]]] * 2)), {"transposed": True})),
    doc="The X with a X = b (or a' X = b) by LU; NaN where a is singular."))


def _identity_like(a: Tensor) -> Tensor:
    return expand_to(eye(a.shape[-1], dtype=a.dtype), a.shape)


_inv: Op = define(Op(
    "inv", Kind.COMPOSITE, _square, _each_matrix(np.linalg.inv),
    (lambda g, out, a: -matmul(matmul(_t(out), g), _t(out)),),
    expand=lambda a: apply(_solve, a, _identity_like(a), transposed=False), samples=(Sample((_GENERAL,)),
                                                                                    Sample((_GENERAL.astype(np.float32),))),
    doc="The inverse matrix; NaN where there is none."))


def _scalar_type(a: TensorType) -> TensorType:
    return _square(a).with_shape(a.shape[:-2])


def _cofactors(a: Tensor) -> Tensor:
    """det(a) times the transposed inverse, which is finite where the inverse is not.

    A pivot of zero counts as one of rounding's size: it cancels but for errors of that size.
    """
    factors, order, sign = apply_all(_lu, a)
    pivots = matrix_diagonal(factors)
    tiny = float(np.finfo(a.dtype.numpy).eps)
    safe = e.where(pivots == 0.0, tiny, pivots)
    factors = factors + diag_embed(safe - pivots)
    half = _triangular(factors, _identity_like(a), upper=True, transposed=True)
    inverse = _unordered(_triangular(factors, half, upper=False, transposed=True, unit=True), order)
    scale = sign * prod_(safe, -1)
    return unsqueeze(unsqueeze(scale, -1), -1) * inverse


def _det_expand(a: Tensor) -> Tensor:
    factors, _, sign = apply_all(_lu, a)
    return sign * prod_(matrix_diagonal(factors), -1)


def _sign_expand(a: Tensor) -> Tensor:
    factors, _, sign = apply_all(_lu, a)
    return sign * prod_(e.sign(matrix_diagonal(factors)), -1)


def _logabsdet_expand(a: Tensor) -> Tensor:
    return sum_(e.log(e.abs_(matrix_diagonal(apply_all(_lu, a)[0]))), -1)


def _per_matrix(g: Tensor) -> Tensor:
    return unsqueeze(unsqueeze(g, -1), -1)


_MATRICES = (Sample((_GENERAL,)), Sample((_GENERAL[0].astype(np.float32),)))
_det = define(Op(
    "det", Kind.COMPOSITE, _scalar_type, lambda a: np.asarray(np.linalg.det(a), a.dtype),
    (lambda g, out, a: _per_matrix(g) * _cofactors(a),), expand=_det_expand, samples=_MATRICES, doc="The determinant."))
_det_sign = define(Op(
    "det_sign", Kind.COMPOSITE, _scalar_type, lambda a: np.asarray(np.linalg.slogdet(a)[0], a.dtype), (None,),
    expand=_sign_expand, samples=_MATRICES, smooth=False, doc="The sign of the determinant: -1, 0 or 1."))
_logabsdet = define(Op(
    "logabsdet", Kind.COMPOSITE, _scalar_type, lambda a: np.asarray(np.linalg.slogdet(a)[1], a.dtype),
    (lambda g, out, a: _per_matrix(g) * apply(_solve, a, _identity_like(a), transposed=True),),
    expand=_logabsdet_expand, samples=_MATRICES,
    doc="The logarithm of the determinant's magnitude; -inf of a singular matrix."))


# -- public functions ------------------------------------------------------------------------------------------------


def _floating(x: TensorLike, like: Tensor | None = None) -> Tensor:
    tensor = as_tensor(x, like)
    return tensor if tensor.dtype.is_float else e.cast(tensor, float32)


def _together(what: str, a: TensorLike, b: TensorLike) -> tuple[Tensor, Tensor]:
    """Two stacks of matrices of one dtype, their batches broadcast."""
    left, right = _floating(a), _floating(b)
    dtype = promote(left.dtype, right.dtype)
    if left.ndim < 2 or right.ndim < 2:
        raise ShapeError(f"{what}: matrices are needed, got {left.type} and {right.type}{at(user_origin())}")
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return (expand_to(e.cast(left, dtype), (*batch, *left.shape[-2:])),
            expand_to(e.cast(right, dtype), (*batch, *right.shape[-2:])))


@public
def cholesky(x: TensorLike, upper: bool = False) -> Tensor:
    """The triangular L with L L' = x (upper: R with R'R = x) of positive definite matrices: torch.linalg.cholesky.

    Only the symmetric part of x counts, and its gradient is symmetric.  NaN where x is not positive definite.
    """
    factor = apply(_cholesky, _floating(x))
    return factor if upper else _t(factor)


@public
def lu_factor(x: TensorLike) -> tuple[Tensor, Tensor]:
    """(LU, order) with x[order] = L U: L below the diagonal of LU, its own being ones, U on and above it.

    torch.linalg.lu_factor gives LAPACK's exchanges instead of the order of the rows.
    """
    factors, order, _ = apply_all(_lu, _floating(x))
    return factors, order


@public
def solve_triangular(a: TensorLike, b: TensorLike, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """The X with a X = b (left=False: X a = b), a [.., n, n] triangular: torch.linalg.solve_triangular.

    Only that triangle of a is read; unitriangular: its diagonal counts as ones.  Division by a zero gives inf or NaN.
    """
    matrix, right = _together("solve_triangular", a, b)
    if left:
        return _triangular(matrix, right, upper=upper, unit=unitriangular)
    return _t(_triangular(_t(matrix), _t(right), upper=not upper, unit=unitriangular))


@public
def solve(a: TensorLike, b: TensorLike, *, left: bool = True) -> Tensor:
    """The X with a X = b (left=False: X a = b) for square a: torch.linalg.solve.  NaN where a is singular.

    b is [.., n, columns], or [.., n] where it is 1-d or has one axis less than a and its leading sizes.
    """
    matrix, right = _floating(a), _floating(b)
    vector = right.ndim == 1 or (right.ndim == matrix.ndim - 1 and right.shape == matrix.shape[:-1])
    if vector and not left:
        raise ShapeError(f"solve: X a = b needs a matrix b, got {right.type}{at(user_origin())}")
    matrix, right = _together("solve", matrix, unsqueeze(right, -1) if vector else right)
    if not left:
        return _t(apply(_solve, matrix, _t(right), transposed=True))
    found = apply(_solve, matrix, right, transposed=False)
    return squeeze(found, -1) if vector else found


@public
def inv(x: TensorLike) -> Tensor:
    """The inverse of square matrices: torch.linalg.inv.  NaN where there is none."""
    return apply(_inv, _floating(x))


@public
def inverse(x: TensorLike) -> Tensor:
    """Another name of inv."""
    return inv(x)


@public
def det(x: TensorLike) -> Tensor:
    """The determinant of square matrices: torch.linalg.det."""
    return apply(_det, _floating(x))


@public
def slogdet(x: TensorLike) -> tuple[Tensor, Tensor]:
    """(sign, logarithm of the magnitude) of the determinant: torch.linalg.slogdet; (0, -inf) of a singular matrix."""
    matrix = _floating(x)
    return apply(_det_sign, matrix), apply(_logabsdet, matrix)


@public
def logdet(x: TensorLike) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, magnitude = slogdet(x)
    return e.where(sign < 0.0, float("nan"), magnitude)


@public
def matrix_power(x: TensorLike, n: int) -> Tensor:
    """The n-th power of square matrices by repeated squaring; of the inverse for a negative n."""
    base = _floating(x)
    _square(base.type)
    if not isinstance(n, int):
        raise GraphError(f"matrix_power: an int is needed, got {n!r}{at(user_origin())}")
    if n == 0:
        return _identity_like(base)
    base = inv(base) if n < 0 else base
    power, result = abs(n), None
    while power:
        if power & 1:
            result = base if result is None else matmul(result, base)
        power >>= 1
        base = matmul(base, base) if power else base
    assert result is not None
    return result


@public
def cholesky_solve(b: TensorLike, factor: TensorLike, upper: bool = False) -> Tensor:
    """The X with A X = b, from the Cholesky factor of A: torch.cholesky_solve."""
    triangle, right = _together("cholesky_solve", factor, b)
    first, second = (_t(triangle), triangle) if upper else (triangle, _t(triangle))
    return _triangular(second, _triangular(first, right, upper=False), upper=True)


@public
def cholesky_inverse(factor: TensorLike, upper: bool = False) -> Tensor:
    """The inverse of A from its Cholesky factor."""
    triangle = _floating(factor)
    return cholesky_solve(_identity_like(triangle), triangle, upper)
