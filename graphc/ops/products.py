"""Products under the names that PyTorch gives them, norms of vectors and matrices: compositions of contractions and folds.

Must not know how anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import GraphError, ShapeError
from ..methods import public
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import broadcast_shapes
from . import elementwise as e
from .axes import normal_axis, synonym
from .contractions import contract, matmul
from .reductions import max_, min_, norm, sum_
from .shaping import concat
from .views import expand_to, narrow, reshape, squeeze, unsqueeze

# -- matrix products -------------------------------------------------------------------------------------------------


def _ranks(name: str, *pairs: tuple[TensorLike, int]) -> list[Tensor]:
    tensors = [as_tensor(x) for x, _ in pairs]
    for tensor, (_, rank) in zip(tensors, pairs, strict=True):
        if tensor.ndim != rank:
            wanted = ", ".join(str(r) for _, r in pairs)
            raise ShapeError(f"{name}: operands of {wanted} dimensions are needed, got "
                             f"{', '.join(str(t.type) for t in tensors)}{at(user_origin())}")
    return tensors


@public
def mm(a: TensorLike, b: TensorLike) -> Tensor:
    """The product of two matrices."""
    return matmul(*_ranks("mm", (a, 2), (b, 2)))


@public
def bmm(a: TensorLike, b: TensorLike) -> Tensor:
    """The products of two batches of matrices."""
    left, right = _ranks("bmm", (a, 3), (b, 3))
    if left.shape[0] != right.shape[0]:
        raise ShapeError(f"bmm: the batches differ: {left.type}, {right.type}{at(user_origin())}")
    return matmul(left, right)


@public
def mv(a: TensorLike, b: TensorLike) -> Tensor:
    """The product of a matrix and a vector."""
    return matmul(*_ranks("mv", (a, 2), (b, 1)))


def _plus(x: TensorLike, product: Tensor, beta: float, alpha: float) -> Tensor:
    scaled = product if alpha == 1 else product * alpha
    if beta == 0:  # x is not even looked at: its NaNs do not count
        return scaled
    given = as_tensor(x, product)
    return expand_to(given if beta == 1 else given * beta, product.shape) + scaled


@public
def addmm(x: TensorLike, a: TensorLike, b: TensorLike, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * (a @ b) of matrices."""
    return _plus(x, mm(a, b), beta, alpha)


@public
def addmv(x: TensorLike, a: TensorLike, b: TensorLike, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * (a @ b) of a matrix and a vector."""
    return _plus(x, mv(a, b), beta, alpha)


@public
def baddbmm(x: TensorLike, a: TensorLike, b: TensorLike, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * (a @ b) of batches of matrices."""
    return _plus(x, bmm(a, b), beta, alpha)


@public
def addbmm(x: TensorLike, a: TensorLike, b: TensorLike, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * the sum of the products of two batches of matrices."""
    return _plus(x, sum_(bmm(a, b), 0), beta, alpha)


@public
def addr(x: TensorLike, a: TensorLike, b: TensorLike, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * the outer product of two vectors."""
    left, right = _ranks("addr", (a, 1), (b, 1))
    return _plus(x, unsqueeze(left, 1) * unsqueeze(right, 0), beta, alpha)


@public
def multi_dot(tensors: Sequence[TensorLike]) -> Tensor:
    """The product of several matrices (the first and the last may be vectors), in the order that needs least work.

    The order is chosen by the table of Cormen et al., "Introduction to Algorithms", section 15.2; open sizes count as
    equal, and give the product from left to right.
    """
    parts = [as_tensor(t) for t in tensors]
    if len(parts) < 2:
        raise GraphError(f"multi_dot: at least two tensors are needed, got {len(parts)}{at(user_origin())}")
    first, last = parts[0].ndim == 1, parts[-1].ndim == 1
    parts[0] = unsqueeze(parts[0], 0) if first else parts[0]
    parts[-1] = unsqueeze(parts[-1], 1) if last else parts[-1]
    _ranks("multi_dot", *((p, 2) for p in parts))
    sizes = [p.shape[0] for p in parts] + [parts[-1].shape[1]]
    known = [int(s) if isinstance(s, int) else 1 for s in sizes]
    result = _chain(parts, known)
    result = squeeze(result, 0) if first else result
    return squeeze(result, -1) if last else result


def _chain(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    n = len(parts)
    cost = [[0] * n for _ in range(n)]
    cut = [[0] * n for _ in range(n)]
    for span in range(1, n):
        for i in range(n - span):
            j = i + span
            found = [(cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1], -k) for k in range(i, j)]
            cost[i][j], best = min(found)
            cut[i][j] = -best

    def product(i: int, j: int) -> Tensor:
        return parts[i] if i == j else matmul(product(i, cut[i][j]), product(cut[i][j] + 1, j))

    return product(0, n - 1)


# -- products of vectors ---------------------------------------------------------------------------------------------


@public
def inner(a: TensorLike, b: TensorLike) -> Tensor:
    """Sums of products over the last axes of both: torch.inner."""
    left, right = as_tensor(a), as_tensor(b)
    if not left.ndim or not right.ndim:
        return left * right
    if left.shape[-1] != right.shape[-1]:
        raise ShapeError(f"inner: the last axes differ: {left.type}, {right.type}{at(user_origin())}")
    labels = "abcdefghijklmnopqrstuvwxy"
    first, second = labels[:left.ndim - 1], labels[left.ndim - 1:left.ndim + right.ndim - 2]
    return contract(left, right, first + "z", second + "z", first + second)


@public
def vdot(a: TensorLike, b: TensorLike) -> Tensor:
    """The sum of products of two vectors."""
    return inner(*_ranks("vdot", (a, 1), (b, 1)))


@public
def vecdot(a: TensorLike, b: TensorLike, axis: int = -1, **kw: Any) -> Tensor:
    """Sums of products along an axis; the other axes broadcast: torch.linalg.vecdot."""
    return sum_(as_tensor(a) * b, synonym(axis, kw, -1))


@public
def kron(a: TensorLike, b: TensorLike) -> Tensor:
    """The Kronecker product: each element of a times all of b; the shorter shape gets leading ones."""
    left, right = as_tensor(a), as_tensor(b)
    rank = max(left.ndim, right.ndim)
    one, other = ((1,) * (rank - t.ndim) + t.shape for t in (left, right))
    spread = reshape(left, tuple(s for n in one for s in (n, 1)))
    repeated = reshape(right, tuple(s for n in other for s in (1, n)))
    return reshape(spread * repeated, tuple(n * m for n, m in zip(one, other, strict=True)))


@public
def cross(a: TensorLike, b: TensorLike, axis: int = -1, **kw: Any) -> Tensor:
    """The vector product along an axis of three elements: torch.linalg.cross."""
    x, y = as_tensor(a), as_tensor(b)
    axis = synonym(axis, kw, -1)
    shape = broadcast_shapes(x.shape, y.shape)
    place = normal_axis(axis, len(shape))
    if not shape or shape[place] != 3:
        raise ShapeError(f"cross: axis {axis} must have three elements, got {x.type} and {y.type}{at(user_origin())}")
    x, y = expand_to(x, shape), expand_to(y, shape)

    def part(t: Tensor, k: int) -> Tensor:
        return narrow(t, place, k % 3, 1)

    return concat([part(x, k + 1) * part(y, k + 2) - part(x, k + 2) * part(y, k + 1) for k in range(3)], place)


# -- norms -----------------------------------------------------------------------------------------------------------


@public
def vector_norm(x: TensorLike, ord: float = 2, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """(sum |x|^ord)^(1/ord) over axes, all by default: torch.linalg.vector_norm; ord may be 0, inf and -inf."""
    return norm(x, ord, axis, keepdims, **kw)


@public
def matrix_norm(x: TensorLike, ord: Any = "fro", axis: Any = (-2, -1), keepdims: bool = False, **kw: Any) -> Tensor:
    """A norm of the matrices in two axes: "fro", or the greatest (least) sum of magnitudes of a row (ord inf, -inf) or
    column (1, -1).  The norms of singular values (2, -2, "nuc") are not here.
    """
    axis = synonym(axis, kw, (-2, -1))
    keepdims = bool(synonym(keepdims, kw, False, "keepdims", "keepdim"))
    tensor = as_tensor(x)
    if len(axis) != 2:
        raise ShapeError(f"matrix_norm: two axes are needed, got {axis}{at(user_origin())}")
    rows, columns = (normal_axis(a, tensor.ndim) for a in axis)
    if ord == "fro":
        return norm(tensor, 2, (rows, columns), keepdims)
    if ord not in (1, -1, math.inf, -math.inf):
        raise GraphError(f"matrix_norm: ord is 'fro', 1, -1, inf or -inf, got {ord!r}{at(user_origin())}")
    summed, chosen = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = sum_(e.abs_(tensor), summed, True)
    result = max_(sums, chosen, True) if ord > 0 else min_(sums, chosen, True)
    return result if keepdims else squeeze(result, (rows, columns))
