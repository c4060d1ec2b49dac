"""Tables looked up by integers: embeddings, and bags of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..ops import elementwise as e
from ..ops import indexing
from ..ops.reductions import max_, sum_
from ..ops.sources import ones, zeros
from ..ops.views import unsqueeze
from ..origins import at, user_origin
from ..symbols import Parameter as Cellular
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike, int64
from . import init
from .linear import positive
from .module import Module
from .parameter import Parameter, value_of


def one_hot(tensor: TensorLike, num_classes: int = -1) -> Tensor:
    """int64 ones at the index along a new last axis; the number of classes must be given unless the index is a constant."""
    return indexing.one_hot(tensor, num_classes)


def _padding_row(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ShapeError(f"padding_idx {padding_idx} is outside the {rows} rows of the table{at(user_origin())}")
    return padding_idx % rows


def embedding(input: TensorLike, weight: TensorLike, padding_idx: int | None = None, *, scale_grad_by_freq: bool = False
              ) -> Tensor:
    """Rows of weight [rows, features] at an index of any shape; the row `padding_idx` gets no gradient.

    With `scale_grad_by_freq` the gradient of each row is divided by how often the index names it.  An index outside the
    table reads NaN: native code cannot raise in the middle of a step.
    """
    index, table = as_tensor(input), as_tensor(weight)
    if not index.dtype.is_integer:
        raise DTypeError(f"embedding: the index must be of integers, got {index.type}{at(user_origin())}")
    row = None if padding_idx is None else _padding_row(padding_idx, table.shape[0].__index__())
    rows = indexing.embedding(table, index, row)
    if not scale_grad_by_freq:
        return rows
    flat = index.reshape(-1)
    counts = indexing.scatter_add(zeros(table.shape[:1], rows.dtype), 0, flat, ones(flat.shape, rows.dtype))
    value = rows.detach()
    return value + (rows - value) / unsqueeze(indexing.embedding(counts, index), -1)  # plus zero, whose slope is the scale


class Embedding(Module):
    """A table of vectors [num_embeddings, embedding_dim], looked up by integers; starts N(0, 1), the padding row 0."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
                 scale_grad_by_freq: bool = False, dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        self.scale_grad_by_freq = scale_grad_by_freq
        positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = _padding_row(padding_idx, num_embeddings)
        self.weight = Parameter(np.broadcast_to(0.0, (num_embeddings, embedding_dim)), dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.cell.array[self.padding_idx] = 0

    @classmethod
    def from_pretrained(cls, embeddings: object, freeze: bool = True, padding_idx: int | None = None, *,
                        scale_grad_by_freq: bool = False) -> Embedding:
        """A table with given values; frozen ones are left alone by optimizers."""
        values = value_of(embeddings)
        if values.ndim != 2:
            raise ShapeError(f"from_pretrained needs a matrix, got shape {list(values.shape)}{at(user_origin())}")
        table = cls(values.shape[0], values.shape[1], padding_idx, scale_grad_by_freq=scale_grad_by_freq,
                    dtype="float64" if values.dtype == np.float64 else None)
        table.weight.assign(values)
        table.weight.requires_grad = not freeze
        return table

    def forward(self, input: TensorLike) -> Tensor:
        return embedding(input, self.weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


def embedding_bag(input: TensorLike, weight: TensorLike, mode: str = "mean", *,
                  per_sample_weights: TensorLike | None = None, padding_idx: int | None = None) -> Tensor:
    """The sum, mean or maximum of the rows that each bag input[b, :] names; entries equal to padding_idx do not count.

    An empty bag is zeros.  Bags are rows of one length; shorter ones are filled up with `padding_idx`.
    """
    index, table = as_tensor(input), as_tensor(weight)
    if mode not in ("sum", "mean", "max"):
        raise GraphError(f"embedding_bag: mode is 'sum', 'mean' or 'max', got {mode!r}{at(user_origin())}")
    if index.ndim != 2:
        raise ShapeError(f"embedding_bag: bags are the rows of a matrix, got {index.type}{at(user_origin())}")
    if per_sample_weights is not None and mode != "sum":
        raise GraphError(f"embedding_bag: per_sample_weights go with mode 'sum', not {mode!r}{at(user_origin())}")
    rows = embedding(index, table, padding_idx)
    if per_sample_weights is not None:
        rows = rows * unsqueeze(per_sample_weights, -1)
    if padding_idx is None:
        if mode == "max":
            return max_(rows, 1)
        return rows.mean(1) if mode == "mean" else sum_(rows, 1)
    counts = unsqueeze(index != _padding_row(padding_idx, table.shape[0].__index__()), -1)
    if mode == "max":
        top = max_(e.where(counts, rows, -np.inf), 1)
        return e.where(counts.any(1), top, 0.0)
    total = sum_(e.where(counts, rows, 0.0), 1)
    if mode == "sum":
        return total
    return total / e.maximum(sum_(e.cast(counts, int64), 1), 1).astype(total.dtype)


class EmbeddingBag(Module):
    """Sums, means or maxima of rows of a table, one per bag: [bags, length] integers -> [bags, embedding_dim]."""

    weight: Cellular

    def __init__(self, num_embeddings: int, embedding_dim: int, mode: str = "mean", padding_idx: int | None = None, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        positive("EmbeddingBag", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim, self.mode = num_embeddings, embedding_dim, mode
        self.padding_idx = _padding_row(padding_idx, num_embeddings)
        self.weight = init.normal_(Parameter(np.broadcast_to(0.0, (num_embeddings, embedding_dim)), dtype=dtype))
        if self.padding_idx is not None:
            self.weight.cell.array[self.padding_idx] = 0

    def forward(self, input: TensorLike, per_sample_weights: TensorLike | None = None) -> Tensor:
        return embedding_bag(input, self.weight, self.mode, per_sample_weights=per_sample_weights,
                             padding_idx=self.padding_idx)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}"
