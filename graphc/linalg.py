"""graphc.linalg: linear algebra under PyTorch's names, all of them functions of `ops`.

Must not know how anything is computed.
"""

from __future__ import annotations

from typing import Any

from .ops.axes import synonym
from .ops.contractions import diagonal as _diagonal
from .ops.contractions import matmul
from .ops.linear_algebra import (
    cholesky,
    det,
    inv,
    lstsq,
    lu_factor,
    matrix_power,
    qr,
    slogdet,
    solve,
    solve_triangular,
)
from .ops.products import cross, matrix_norm, multi_dot, vecdot, vector_norm
from .symbols import Tensor, TensorLike, as_tensor

__all__ = ["cholesky", "cross", "det", "diagonal", "inv", "lstsq", "lu_factor", "matmul", "matrix_norm", "matrix_power",
           "multi_dot", "norm", "qr", "slogdet", "solve", "solve_triangular", "vecdot", "vector_norm"]


def norm(x: TensorLike, ord: Any = None, axis: Any = None, keepdims: bool = False, **kw: Any) -> Tensor:
    """torch.linalg.norm: without `ord` the 2-norm of all elements; else of vectors along one axis, of matrices in two.

    Without `axis`, `ord` is a vector norm of a 1-d tensor and a matrix norm of a 2-d one.
    """
    tensor = as_tensor(x)
    axis = synonym(axis, kw)
    keepdims = bool(synonym(keepdims, kw, False, "keepdims", "keepdim"))
    if ord is None:
        return vector_norm(tensor, 2, axis, keepdims)
    pair = axis if isinstance(axis, (tuple, list)) and len(axis) == 2 else None
    if axis is None and tensor.ndim == 2:
        pair = (-2, -1)
    if pair is not None or isinstance(ord, str):
        return matrix_norm(tensor, ord, pair or axis or (-2, -1), keepdims)
    return vector_norm(tensor, ord, axis, keepdims)


def diagonal(x: TensorLike, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """A diagonal of two axes, the last two unless said otherwise, as a last axis."""
    return _diagonal(x, offset, dim1, dim2)
