"""Attention: softmax(q k' / sqrt(d)) v, alone and with the projections of several heads (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.composites import softmax
from ..ops.contractions import linear, matmul
from ..ops.reductions import mean
from ..ops.shaping import concat, repeat_interleave
from ..ops.sources import iota, zeros
from ..ops.views import broadcast_to, pad_with, permute, reshape, slice_, transpose, unsqueeze
from ..origins import at, user_origin
from ..symbols import Parameter as Cellular
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike
from . import init
from .dropout import dropout
from .linear import Linear, positive
from .parameter import Parameter
from .randomness import RandomModule


def _safe_softmax(scores: Tensor) -> Tensor:
    """softmax over the last axis; a row of minus infinity alone gives zeros, and no NaN in gradients."""
    masked = scores == -math.inf
    hidden = masked.all(-1, True)
    seen = e.where(masked, -math.inf, scores)  # what it is anyway: here it is seen that no gradient goes that way
    return e.where(masked, 0.0, softmax(e.where(hidden, 0.0, seen), -1))


def _as_bias(mask: TensorLike, like: Tensor, visible: bool) -> Tensor:
    """A mask to add to scores: bools say who is visible (or, where `visible` is False, hidden); numbers are added."""
    given = as_tensor(mask)
    if given.dtype.is_bool:
        return e.where(given, 0.0, -math.inf).astype(like.dtype) if visible else \
            e.where(given, -math.inf, 0.0).astype(like.dtype)
    if not given.dtype.is_float:
        raise DTypeError(f"attention: a mask is of bools, or of floats to add, got {given.type}{at(user_origin())}")
    return e.cast(given, like.dtype)


def causal(length: object, source: object) -> Tensor:
    """[length, source] bools: position i sees positions up to i."""
    shape = (length, source)
    return iota(shape, 1) <= iota(shape, 0)


def scaled_dot_product_attention(query: TensorLike, key: TensorLike, value: TensorLike,
                                 attn_mask: TensorLike | None = None, dropout_p: float = 0.0, is_causal: bool = False,
                                 scale: float | None = None, enable_gqa: bool = False) -> Tensor:
    """softmax(q k' * scale + mask) v for q [..., L, E], k [..., S, E], v [..., S, V]: [..., L, V].

    attn_mask   bools that say which keys are visible, or floats to add; broadcast to [..., L, S]
    dropout_p   drops attention weights with this probability, always (pass 0 in evaluation)
    is_causal   position i sees keys up to i; not together with attn_mask
    scale       1 / sqrt(E) where not given
    enable_gqa  fewer key and value heads than query heads (axis -3): each serves a group of them
    A query that sees no key gives zeros.
    """
    q, k, v = as_tensor(query), as_tensor(key), as_tensor(value)
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"attention takes q [..., L, E], k [..., S, E], v [..., S, V], got {q.type}, {k.type} and "
                         f"{v.type}{at(user_origin())}")
    if is_causal and attn_mask is not None:
        raise GraphError(f"attention: give attn_mask or is_causal, not both{at(user_origin())}")
    if enable_gqa:
        k, v = (repeat_interleave(t, int(q.shape[-3]) // int(t.shape[-3]), -3) for t in (k, v))
    factor = 1.0 / math.sqrt(int(q.shape[-1])) if scale is None else scale
    scores = matmul(q * factor, transpose(k, -1, -2))
    if is_causal:
        weights = softmax(e.where(causal(q.shape[-2], k.shape[-2]), scores, -math.inf), -1)
    elif attn_mask is not None:
        weights = _safe_softmax(scores + _as_bias(attn_mask, scores, True))
    else:
        weights = softmax(scores, -1)
    return matmul(dropout(weights, dropout_p) if dropout_p else weights, v)


class MultiheadAttention(RandomModule):
    """Attention of several heads with learned projections of query, key, value and result.

    forward(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, average_attn_weights=True,
    is_causal=False) gives (result, weights or None).  Axes are [length, batch, features], batch first where so made, or
    [length, features].  Masks are PyTorch's: True hides a key, floats are added.
    """

    in_proj_weight: Cellular | None

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
                 add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None,
                 batch_first: bool = False, *, dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        positive("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ShapeError(f"MultiheadAttention: embed_dim {embed_dim} does not divide into {num_heads} heads"
                             f"{at(user_origin())}")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.add_zero_attn = add_zero_attn
        joint = self.kdim == self.vdim == embed_dim

        def matrix(rows: int, columns: int) -> Parameter:
            return init.xavier_uniform_(Parameter(np.broadcast_to(0.0, (rows, columns)), dtype=dtype))

        self.register_parameter("in_proj_weight", matrix(3 * embed_dim, embed_dim) if joint else None)
        for name, columns in (("q", embed_dim), ("k", self.kdim), ("v", self.vdim)):
            self.register_parameter(f"{name}_proj_weight", None if joint else matrix(embed_dim, columns))
        self.register_parameter("in_proj_bias", Parameter(np.zeros(3 * embed_dim), dtype=dtype) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype)
        if bias:
            init.zeros_(self.out_proj.bias)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, init.xavier_normal_(Parameter(np.zeros((1, 1, embed_dim)), dtype=dtype))
                                    if add_bias_kv else None)

    def forward(self, query: TensorLike, key: TensorLike, value: TensorLike, key_padding_mask: TensorLike | None = None,
                need_weights: bool = True, attn_mask: TensorLike | None = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[Tensor, Tensor | None]:
        q, k, v = as_tensor(query), as_tensor(key), as_tensor(value)
        single = q.ndim == 2
        if q.ndim not in (2, 3) or q.ndim != k.ndim or q.ndim != v.ndim:
            raise ShapeError(f"MultiheadAttention takes three tensors of 2 or 3 dimensions, got {q.type}, {k.type} and "
                             f"{v.type}{at(user_origin())}")
        if is_causal and attn_mask is None:
            raise GraphError(f"MultiheadAttention: is_causal is a hint about attn_mask, which must be given"
                             f"{at(user_origin())}")
        if single:
            q, k, v = (unsqueeze(t, 0) for t in (q, k, v))
        elif not self.batch_first:
            q, k, v = (transpose(t, 0, 1) for t in (q, k, v))
        padding = None if key_padding_mask is None else as_tensor(key_padding_mask)
        if padding is not None and single and padding.ndim == 1:
            padding = unsqueeze(padding, 0)
        out, weights = self._attend(q, k, v, padding, attn_mask, need_weights)
        if weights is not None and average_attn_weights:
            weights = mean(weights, 1)
        if single:
            return reshape(out, out.shape[1:]), None if weights is None else reshape(weights, weights.shape[1:])
        return (out if self.batch_first else transpose(out, 0, 1)), weights

    def _projected(self, tensors: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        size = self.embed_dim
        if self.in_proj_weight is not None:
            matrices = [slice_(self.in_proj_weight, (i * size, 0), (1, 1), (size, size)) for i in range(3)]
        else:
            matrices = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None if self.in_proj_bias is None else slice_(self.in_proj_bias, (i * size,), (1,), (size,))
                  for i in range(3)]
        return [linear(t, w, b) for t, w, b in zip(tensors, matrices, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """[N, L, E] as [N, heads, L, E / heads]."""
        batch, length, size = x.shape
        return permute(reshape(x, (batch, length, self.num_heads, size // self.num_heads)), (0, 2, 1, 3))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, attn_mask: TensorLike | None,
                need_weights: bool) -> tuple[Tensor, Tensor | None]:
        q, k, v = self._projected((query, key, value))
        batch, length = q.shape[0], q.shape[1]
        extra = 0
        if self.bias_k is not None:
            k, v = (concat([t, broadcast_to(b, (batch, 1, self.embed_dim))], 1)
                    for t, b in ((k, self.bias_k), (v, self.bias_v)))
            extra += 1
        if self.add_zero_attn:
            k, v = (concat([t, zeros((batch, 1, self.embed_dim), t.dtype)], 1) for t in (k, v))
            extra += 1
        q, k, v = (self._heads(t) for t in (q, k, v))
        scores = matmul(q * (1.0 / math.sqrt(self.embed_dim // self.num_heads)), transpose(k, -1, -2))
        for mask in self._masks(scores, padding, attn_mask, extra):
            scores = scores + mask
        # weights asked for are PyTorch's plain softmax, NaN where all keys are hidden; its fast road gives zeros there
        masked = padding is not None or attn_mask is not None
        weights = softmax(scores, -1) if need_weights or not masked else _safe_softmax(scores)
        if self.training and self.dropout:
            weights = dropout(weights, self.dropout, key=self.key)
        mixed = reshape(permute(matmul(weights, v), (0, 2, 1, 3)), (batch, length, self.embed_dim))
        return self.out_proj(mixed), weights if need_weights else None

    def _masks(self, scores: Tensor, padding: Tensor | None, attn_mask: TensorLike | None, extra: int) -> list[Tensor]:
        batch, heads, length, source = scores.shape
        source = source - extra
        found = []
        if attn_mask is not None:
            mask = _as_bias(attn_mask, scores, False)
            if mask.shape == (batch * heads, length, source):
                mask = reshape(mask, (batch, heads, length, source))
            elif mask.shape != (length, source):
                raise ShapeError(f"MultiheadAttention: attn_mask must be [{length},{source}] or "
                                 f"[{batch * heads},{length},{source}], got {mask.type}{at(user_origin())}")
            found.append(mask)
        if padding is not None:
            if padding.shape != (batch, source):
                raise ShapeError(f"MultiheadAttention: key_padding_mask must be [{batch},{source}], got {padding.type}"
                                 f"{at(user_origin())}")
            found.append(reshape(_as_bias(padding, scores, False), (batch, 1, 1, source)))
        return [pad_with(m, (0,) * m.ndim, (*(0,) * (m.ndim - 1), extra), (0,) * m.ndim) for m in found]

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}, dropout={self.dropout}"


