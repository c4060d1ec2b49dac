"""Linear algebra on the last two axes: composites of factorisations with gradients of their own, and public functions.

Knows gradients after Giles, "An extended collection of matrix derivative results for forward and reverse mode
algorithmic differentiation" (2008).  Must not know how a factor is computed.

A matrix without an answer (singular, not positive definite) cannot raise inside a static step: its whole result is NaN,
which `check_numerics=True` reports, while the other members of the batch are computed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import GraphError, ShapeError
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import TensorType, broadcast_shapes, float32, promote
from . import elementwise as e
from .contractions import matmul, matrix_diagonal
from .control import apply_all
from .factorizations import GENERAL, lu_op, ordered, qr_op, unordered
from .reductions import any_, prod_, sum_
from .shaping import concat, diag_embed
from .sources import eye
from .triangular import cholesky_op, each_matrix, square_type, swapped, triangular, triangular_type
from .views import expand_to, narrow, squeeze, unsqueeze

# -- solve, inverse, determinant -------------------------------------------------------------------------------------


def _solve_type(a: TensorType, b: TensorType, *, transposed: bool) -> TensorType:
    return triangular_type(a, b, upper=True, transposed=transposed, unit=False)


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
    factors, order, _ = apply_all(lu_op, a)
    if transposed:
        half = triangular(factors, b, upper=True, transposed=True)
        found = unordered(triangular(factors, half, upper=False, transposed=True, unit=True), order)
    else:
        half = triangular(factors, ordered(b, order), upper=False, unit=True)
        found = triangular(factors, half, upper=True)
    singular = any_(matrix_diagonal(factors) == 0.0, -1)
    return e.where(unsqueeze(unsqueeze(singular, -1), -1), float("nan"), found)


def _solve_gradient(g: Tensor, out: Tensor, a: Tensor, b: Tensor, *, transposed: bool) -> list[Tensor]:
    back = apply(_solve, a, g, transposed=not transposed)
    return [-matmul(out, swapped(back)) if transposed else -matmul(back, swapped(out)), back]


_solve: Op = define(Op(
    "solve", Kind.COMPOSITE, _solve_type, _solve_numpy, _solve_gradient, expand=_solve_expand,
    samples=(Sample((GENERAL[0], np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])), {"transposed": False}),
             Sample((GENERAL[1].astype(np.float32), np.array([[1.0], [0.5], [3.0]], np.float32)), {"transposed": True}),
             Sample((GENERAL, np.array([[[1.0], [0.5], [3.0]]] * 2)), {"transposed": True})),
    doc="The X with a X = b (or a' X = b) by LU; NaN where a is singular."))


def _identity_like(a: Tensor) -> Tensor:
    return expand_to(eye(a.shape[-1], dtype=a.dtype), a.shape)


_inv: Op = define(Op(
    "inv", Kind.COMPOSITE, square_type, each_matrix(np.linalg.inv),
    (lambda g, out, a: -matmul(matmul(swapped(out), g), swapped(out)),),
    expand=lambda a: apply(_solve, a, _identity_like(a), transposed=False), samples=(Sample((GENERAL,)),
                                                                                    Sample((GENERAL.astype(np.float32),))),
    doc="The inverse matrix; NaN where there is none."))


def _scalar_type(a: TensorType) -> TensorType:
    return square_type(a).with_shape(a.shape[:-2])


def _cofactors(a: Tensor) -> Tensor:
    """det(a) times the transposed inverse, which is finite where the inverse is not.

    A pivot of zero counts as one of rounding's size: it cancels but for errors of that size.
    """
    factors, order, sign = apply_all(lu_op, a)
    pivots = matrix_diagonal(factors)
    tiny = float(np.finfo(a.dtype.numpy).eps)
    safe = e.where(pivots == 0.0, tiny, pivots)
    factors = factors + diag_embed(safe - pivots)
    half = triangular(factors, _identity_like(a), upper=True, transposed=True)
    inverse = unordered(triangular(factors, half, upper=False, transposed=True, unit=True), order)
    scale = sign * prod_(safe, -1)
    return unsqueeze(unsqueeze(scale, -1), -1) * inverse


def _det_expand(a: Tensor) -> Tensor:
    factors, _, sign = apply_all(lu_op, a)
    return sign * prod_(matrix_diagonal(factors), -1)


def _sign_expand(a: Tensor) -> Tensor:
    factors, _, sign = apply_all(lu_op, a)
    return sign * prod_(e.sign(matrix_diagonal(factors)), -1)


def _logabsdet_expand(a: Tensor) -> Tensor:
    return sum_(e.log(e.abs_(matrix_diagonal(apply_all(lu_op, a)[0]))), -1)


def _per_matrix(g: Tensor) -> Tensor:
    return unsqueeze(unsqueeze(g, -1), -1)


_MATRICES = (Sample((GENERAL,)), Sample((GENERAL[0].astype(np.float32),)))
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


class SignAndLogarithm(NamedTuple):
    """The sign of a determinant, and the logarithm of its magnitude."""

    sign: Tensor
    logabsdet: Tensor


class QR(NamedTuple):
    """Orthonormal columns, and an upper triangle."""

    Q: Tensor
    R: Tensor


class LeastSquares(NamedTuple):
    """What makes a sum of squares least, and that sum."""

    solution: Tensor
    residuals: Tensor


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
    factor = apply(cholesky_op, _floating(x))
    return factor if upper else swapped(factor)


@public
def lu_factor(x: TensorLike) -> tuple[Tensor, Tensor]:
    """(LU, order) with x[order] = L U: L below the diagonal of LU, its own being ones, U on and above it.

    torch.linalg.lu_factor gives LAPACK's exchanges instead of the order of the rows.
    """
    factors, order, _ = apply_all(lu_op, _floating(x))
    return factors, order


@public
def qr(x: TensorLike, mode: str = "reduced") -> QR:
    """(Q, R) with Q R = x, Q's columns orthonormal and R upper triangular: torch.linalg.qr in its reduced form.

    The gradient needs full rank of the first min(m, n) columns.
    """
    if mode != "reduced":
        raise GraphError(f"qr: mode is 'reduced', got {mode!r}{at(user_origin())}")
    matrix = _floating(x)
    if matrix.ndim > 1 and isinstance(m := matrix.shape[-2], int) and isinstance(n := matrix.shape[-1], int) and m < n:
        q, left = apply_all(qr_op, narrow(matrix, -1, 0, m))
        return QR(q, concat([left, matmul(swapped(q), narrow(matrix, -1, m, n - m))], -1))
    return QR(*apply_all(qr_op, matrix))


@public
def lstsq(a: TensorLike, b: TensorLike) -> LeastSquares:
    """(solution, residuals): the X that makes the squares of a X - b least, by QR, and their sum for each column.

    torch.linalg.lstsq gives a rank and singular values too.

    a   [.., m, n] with m >= n, of full rank (a zero on R's diagonal gives inf or NaN)
    b   [.., m, columns]
    """
    matrix, right = _together("lstsq", a, b)
    if matrix.shape[-2] != right.shape[-2]:
        raise ShapeError(f"lstsq: {matrix.type} and {right.type} have different numbers of rows{at(user_origin())}")
    q, upper = apply_all(qr_op, matrix)
    found = triangular(upper, matmul(swapped(q), right), upper=True)
    return LeastSquares(found, sum_(e.square(matmul(matrix, found) - right), -2))


@public
def solve_triangular(a: TensorLike, b: TensorLike, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """The X with a X = b (left=False: X a = b), a [.., n, n] triangular: torch.linalg.solve_triangular.

    Only that triangle of a is read; unitriangular: its diagonal counts as ones.  Division by a zero gives inf or NaN.
    """
    matrix, right = _together("solve_triangular", a, b)
    if left:
        return triangular(matrix, right, upper=upper, unit=unitriangular)
    return swapped(triangular(swapped(matrix), swapped(right), upper=not upper, unit=unitriangular))


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
        return swapped(apply(_solve, matrix, swapped(right), transposed=True))
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
def slogdet(x: TensorLike) -> SignAndLogarithm:
    """(sign, logarithm of the magnitude) of the determinant: torch.linalg.slogdet; (0, -inf) of a singular matrix."""
    matrix = _floating(x)
    return SignAndLogarithm(apply(_det_sign, matrix), apply(_logabsdet, matrix))


@public
def logdet(x: TensorLike) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, magnitude = slogdet(x)
    return e.where(sign < 0.0, float("nan"), magnitude)


@public
def matrix_power(x: TensorLike, n: int) -> Tensor:
    """The n-th power of square matrices by repeated squaring; of the inverse for a negative n."""
    base = _floating(x)
    square_type(base.type)
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
    first, second = (swapped(triangle), triangle) if upper else (triangle, swapped(triangle))
    return triangular(second, triangular(first, right, upper=False), upper=True)


@public
def cholesky_inverse(factor: TensorLike, upper: bool = False) -> Tensor:
    """The inverse of A from its Cholesky factor."""
    triangle = _floating(factor)
    return cholesky_solve(_identity_like(triangle), triangle, upper)
