"""CONTRACT: products summed over shared axes; matmul and einsum on top of it.

Knows how labels of axes meet, and that the gradient of a contraction is a contraction.  Must not know blocking or code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, apply, as_tensor
from ..types import DType, Size, TensorType, broadcast_shapes, format_shapes, int64, promote
from . import elementwise as e
from .axes import normal_axis
from .reductions import sum_
from .views import expand_to, permute, reshape, slice_, squeeze

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


# (x, y, offset): products with index[x] > index[y] + offset may be left out.  They are zeros, or add to what nobody reads.
Within = tuple[tuple[str, str, int], ...]


def split_spec(spec: str) -> tuple[str, str, str]:
    """The labels of the operands and of the result of ``"ij,jk->ik"``."""
    operands, out = spec.split("->")
    a, b = operands.split(",")
    return a, b, out


def _contract_type(a: TensorType, b: TensorType, *, spec: str, within: Within = ()) -> TensorType:
    left, right, out = split_spec(spec)
    sizes: dict[str, Size] = dict(zip(left, a.shape, strict=True))
    for label, size in zip(right, b.shape, strict=True):
        if sizes.setdefault(label, size) != size:
            raise ShapeError(f"inner sizes differ: {a} @ {b} ({sizes[label]} != {size})")
    if a.dtype != b.dtype:
        raise ShapeError(f"operands of one dtype are needed, got {a.dtype} and {b.dtype}")
    return TensorType(a.dtype, tuple(sizes[label] for label in out))


def _contract_numpy(a: np.ndarray, b: np.ndarray, *, spec: str, within: Within = ()) -> np.ndarray:
    # einsum's optimiser hands pairs to BLAS, which is the interpreter's speed
    return np.einsum(spec, a, b, optimize=True).astype(a.dtype, copy=False)


def _for_a(g: Tensor, out: Tensor, a: Tensor, b: Tensor, *, spec: str, within: Within = ()) -> Tensor:
    left, right, result = split_spec(spec)
    return contract(g, b, result, right, left)


def _for_b(g: Tensor, out: Tensor, a: Tensor, b: Tensor, *, spec: str, within: Within = ()) -> Tensor:
    left, right, result = split_spec(spec)
    return contract(g, a, result, left, right)


_contract = define(Op(
    "contract", Kind.CONTRACT, _contract_type, _contract_numpy, (_for_a, _for_b), dtypes="fi",
    samples=(Sample(((3, 4), (4, 5)), {"spec": "ij,jk->ik"}), Sample(((4, 3), (5, 4)), {"spec": "ji,kj->ik"}),
             Sample(((2, 3, 4), (2, 4, 5)), {"spec": "bij,bjk->bik"}), Sample(((3,), (4,)), {"spec": "i,j->ij"}),
             Sample(((2, 3, 4), (3, 5, 4)), {"spec": "bij,ikj->bk"})),
    doc="Sum over the labels that the result lacks of the product of two operands, as einsum spells it.  `within` names "
        "products that code may leave out."))


def contract(a: Tensor, b: Tensor, left: str, right: str, out: str) -> Tensor:
    """einsum of two operands with distinct labels; a label of only one operand that `out` lacks is summed first."""
    for_a = [i for i, label in enumerate(left) if label not in right and label not in out]
    if for_a:
        a, left = sum_(a, for_a), "".join(label for i, label in enumerate(left) if i not in for_a)
    for_b = [i for i, label in enumerate(right) if label not in left and label not in out]
    if for_b:
        b, right = sum_(b, for_b), "".join(label for i, label in enumerate(right) if i not in for_b)
    missing = [label for label in out if label not in left + right]
    if missing:
        raise GraphError(f"label {missing[0]!r} of the result is in no operand")
    names = dict(zip(dict.fromkeys(left + right), LETTERS, strict=False))  # equal contractions get equal labels
    renamed = ["".join(names[label] for label in labels) for labels in (left, right, out)]
    return apply(_contract, a, b, spec=f"{renamed[0]},{renamed[1]}->{renamed[2]}")


def _one_dtype(a: TensorLike, b: TensorLike) -> tuple[Tensor, Tensor]:
    x, y = as_tensor(a), as_tensor(b)
    dtype: DType = promote(x.dtype, y.dtype)
    if dtype.is_bool:
        dtype = int64
    return e.cast(x, dtype), e.cast(y, dtype)


@public
def matmul(a: TensorLike, b: TensorLike) -> Tensor:
    """Matrix product with numpy's rules: vectors are promoted, leading axes broadcast as a batch."""
    x, y = _one_dtype(a, b)
    if not x.ndim or not y.ndim:
        raise ShapeError(f"matmul: a 0-d operand: {x.type} @ {y.type}; use * to scale{at(user_origin())}")
    inner, other = x.shape[-1], y.shape[-2 if y.ndim > 1 else 0]
    if inner != other:
        raise ShapeError(f"matmul: inner sizes differ: {x.type} @ {y.type} ({inner} != {other}){at(user_origin())}")
    rows, columns = ("i" if x.ndim > 1 else ""), ("j" if y.ndim > 1 else "")
    batch_x, batch_y = x.shape[:-2], y.shape[:-2]
    try:
        batch = broadcast_shapes(batch_x, batch_y)
    except ShapeError:
        raise ShapeError(f"matmul: batch sizes do not broadcast: {x.type} @ {y.type} "
                         f"({format_shapes((batch_x, batch_y))}){at(user_origin())}") from None
    names = LETTERS[20:20 + len(batch)]
    x, left = _drop_stretched(x, batch_x, batch, names)
    y, right = _drop_stretched(y, batch_y, batch, names)
    out = "".join(n for n in names if n in left + right)
    result = contract(x, y, left + rows + "k", right + "k" + columns, out + rows + columns)
    return reshape(result, (*batch, *result.shape[len(out):]))


def _drop_stretched(x: Tensor, own: tuple[Size, ...], batch: tuple[Size, ...], names: str) -> tuple[Tensor, str]:
    """x without its batch axes of size 1 (which broadcast, so the contraction need not see them), and its labels."""
    extra = len(batch) - len(own)
    ones = [i for i, s in enumerate(own) if s == 1]
    kept = "".join(names[i + extra] for i in range(len(own)) if i not in ones)
    return (squeeze(x, ones) if ones else x), kept


@public
def dot(a: TensorLike, b: TensorLike) -> Tensor:
    """Inner product of two vectors, or matmul of matrices."""
    return matmul(a, b)


mm = bmm = matmul


@public
def outer(a: TensorLike, b: TensorLike) -> Tensor:
    """The products of all pairs of elements of two vectors."""
    if as_tensor(a).dtype.is_bool and as_tensor(b).dtype.is_bool:
        return reshape(as_tensor(a), (-1, 1)) & reshape(as_tensor(b), -1)
    x, y = _one_dtype(a, b)
    return contract(reshape(x, -1), reshape(y, -1), "i", "j", "ij")


@public
def tensordot(a: TensorLike, b: TensorLike, axes: Any = 2) -> Tensor:
    """Sum of products over given axes, as numpy.tensordot."""
    x, y = _one_dtype(a, b)
    if isinstance(axes, int):
        over_x, over_y = list(range(x.ndim - axes, x.ndim)), list(range(axes))
    else:
        over_x, over_y = ([v] if isinstance(v, int) else list(v) for v in axes)
    left = list(LETTERS[:x.ndim])
    right = list(LETTERS[x.ndim:x.ndim + y.ndim])
    for i, j in zip(over_x, over_y, strict=True):
        right[j] = left[i]
    shared = {left[i] for i in over_x}
    out = [label for label in left + right if label not in shared]
    return contract(x, y, "".join(left), "".join(right), "".join(out))


# -- einsum ----------------------------------------------------------------------------------------------------------


@public
def einsum(equation: str, *operands: TensorLike) -> Tensor:
    """Einstein summation, with repeated labels (diagonals) and ``...``; lowered to contractions, sums and views.

    Operands are contracted from left to right; one list of them is as good.
    """
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)) \
            and ("," in equation or any(isinstance(o, (Tensor, np.ndarray)) for o in operands[0])):
        operands = tuple(operands[0])
    tensors = [as_tensor(o) for o in operands]
    inputs, out = _parse_equation(equation, tensors)
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = promote(dtype, tensor.dtype)
    terms = [_diagonal(e.cast(t, dtype), labels) for t, labels in zip(tensors, inputs, strict=True)]
    sizes: dict[str, Size] = {}
    for tensor, labels in terms:
        for label, size in zip(labels, tensor.shape, strict=True):
            if sizes.get(label, 1) == 1:
                sizes[label] = size
            elif size not in (1, sizes[label]):
                raise ShapeError(f"einsum {equation!r}: label {label!r} has sizes {sizes[label]} and {size}"
                                 f"{at(user_origin())}")
    terms = [_stretch(t, labels, sizes) for t, labels in terms]
    result, labels = terms[0]
    for position, (tensor, other) in enumerate(terms[1:], start=1):
        later = "".join(labels_ for _, labels_ in terms[position + 1:]) + out
        kept = "".join(dict.fromkeys(label for label in labels + other if label in later))
        if position == len(terms) - 1:
            kept = out
        result, labels = contract(result, tensor, labels, other, kept), kept
    summed = [i for i, label in enumerate(labels) if label not in out]
    if summed:
        result, labels = sum_(result, summed), "".join(label for label in labels if label in out)
    return permute(result, tuple(labels.index(label) for label in out))


def _parse_equation(equation: str, tensors: Sequence[Tensor]) -> tuple[list[str], str]:
    """The labels of each operand and of the result, ellipses spelled out."""
    text = equation.replace(" ", "")
    left, arrow, out = text.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(tensors):
        raise GraphError(f"einsum {equation!r} names {len(inputs)} operands, {len(tensors)} were given"
                         f"{at(user_origin())}")
    free = [c for c in LETTERS if c not in text]
    widths = [t.ndim - len(labels.replace("...", "")) for labels, t in zip(inputs, tensors, strict=True)]
    width = max([0, *(w for w, labels in zip(widths, inputs, strict=True) if "..." in labels)])
    dots = "".join(free[:width])
    spelled = []
    for labels, own, tensor in zip(inputs, widths, tensors, strict=True):
        full = labels.replace("...", dots[width - own:] if own > 0 else "")
        if len(full) != tensor.ndim or not all(c in LETTERS for c in full):
            raise ShapeError(f"einsum {equation!r}: {labels!r} does not label {tensor.type}{at(user_origin())}")
        spelled.append(full)
    if not arrow:
        everything = "".join(spelled)
        once = sorted(c for c in set(everything) if everything.count(c) == 1 and c not in dots)
        return spelled, dots + "".join(once)
    out = out.replace("...", dots)
    if len(set(out)) != len(out) or any(c not in "".join(spelled) for c in out):
        raise GraphError(f"einsum {equation!r}: the result's labels must be distinct and come from operands"
                         f"{at(user_origin())}")
    return spelled, out


def _diagonal(x: Tensor, labels: str) -> tuple[Tensor, str]:
    """x with repeated labels taken on the diagonal."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            n = x.shape[i]
            if n != x.shape[j]:
                raise ShapeError(f"einsum: label {label!r} has sizes {n} and {x.shape[j]}{at(user_origin())}")
            order = (*(a for a in range(x.ndim) if a not in (i, j)), i, j)
            moved = permute(x, order)
            flat = reshape(moved, (*moved.shape[:-2], n * n))
            rank = flat.ndim
            x = slice_(flat, (0,) * rank, (*(1,) * (rank - 1), int(n) + 1), (*flat.shape[:-1], n))
            labels = "".join(labels[a] for a in order[:-1])
    return x, labels


def _stretch(x: Tensor, labels: str, sizes: dict[str, Size]) -> tuple[Tensor, str]:
    """Axes of size 1 whose label is larger elsewhere are repeated."""
    return expand_to(x, tuple(sizes[label] for label in labels)), labels


def matrix_diagonal(x: Tensor, offset: int = 0) -> Tensor:
    """A diagonal of the last two axes, as a last axis; `offset` places to the right of (negative: below) the main one."""
    n, m = (s.__index__() for s in x.shape[-2:])
    start = offset if offset >= 0 else -offset * m
    length = max(0, min(n, m - offset) if offset >= 0 else min(n + offset, m))
    flat = reshape(x, (*x.shape[:-2], n * m))
    rank = flat.ndim
    zeros_, ones_ = (0,) * (rank - 1), (1,) * (rank - 1)
    return slice_(flat, (*zeros_, start if length else 0), (*ones_, m + 1), (*flat.shape[:-1], length))


@public
def diagonal(x: TensorLike, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A diagonal of two axes, which become a last one: torch.diagonal (numpy.diagonal)."""
    tensor = as_tensor(x)
    if tensor.ndim < 2:
        raise ShapeError(f"diagonal: two axes are needed, got {tensor.type}{at(user_origin())}")
    i, j = normal_axis(dim1, tensor.ndim), normal_axis(dim2, tensor.ndim)
    if i == j:
        raise ShapeError(f"diagonal: two different axes are needed, got {dim1} and {dim2}{at(user_origin())}")
    return matrix_diagonal(permute(tensor, (*(a for a in range(tensor.ndim) if a not in (i, j)), i, j)), offset)


@public
def trace(x: TensorLike) -> Tensor:
    """The sum of the diagonal of a matrix."""
    tensor = as_tensor(x)
    if tensor.ndim < 2:
        raise ShapeError(f"trace: a matrix is needed, got {tensor.type}{at(user_origin())}")
    return sum_(matrix_diagonal(tensor), -1)


@public
def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """x @ weight.T + bias, with weight [out, in] as in PyTorch."""
    data, w = _one_dtype(x, weight)
    out = matmul(data, permute(w, (1, 0)) if w.ndim == 2 else w)
    return out if bias is None else out + bias
