"""Transformer layers and stacks of them (Vaswani et al. 2017), with PyTorch's names and defaults."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from ..errors import GraphError
from ..ops import elementwise as e
from ..ops.random import fresh_seed
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike, Size
from . import init
from .activations import gelu, relu
from .attention import MultiheadAttention, causal
from .containers import ModuleList
from .dropout import Dropout
from .linear import Linear
from .module import Module
from .normalization import LayerNorm
from .randomness import RandomModule

Mask = TensorLike | None
ActivationLike = str | Callable[[Tensor], Tensor]


def _activation(given: ActivationLike) -> Callable[[Tensor], Tensor]:
    known: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu}
    if isinstance(given, str):
        if given not in known:
            raise GraphError(f"a transformer's activation is 'relu', 'gelu' or a function, got {given!r}"
                             f"{at(user_origin())}")
        return known[given]
    return given


def _independent(layer: Module) -> Module:
    """A copy with cells of its own, whose random layers draw numbers of their own."""
    new = copy.deepcopy(layer)
    for module in new.modules():
        if isinstance(module, RandomModule):
            module.key.assign(fresh_seed())
    return new


class _Layer(Module):
    def _feed_forward(self, d_model: int, dim_feedforward: int, dropout: float, activation: ActivationLike,
                      bias: bool, dtype: DTypeLike | None) -> None:
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.activation = activation if isinstance(activation, Module) else _activation(activation)

    def _forward_block(self, x: Tensor, last: Module) -> Tensor:
        return last(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward block, each with a residual and a layer norm (after it, or first)."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: ActivationLike = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
                 norm_first: bool = False, bias: bool = True, *, dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self._feed_forward(d_model, dim_feedforward, dropout, activation, bias, dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)

    def forward(self, src: TensorLike, src_mask: Mask = None, src_key_padding_mask: Mask = None,
                is_causal: bool = False) -> Tensor:
        x = as_tensor(src)

        def attended(y: Tensor) -> Tensor:
            out, _ = self.self_attn(y, y, y, src_key_padding_mask, False, src_mask)
            return self.dropout1(out)

        if self.norm_first:
            x = x + attended(self.norm1(x))
            return x + self._forward_block(self.norm2(x), self.dropout2)
        x = self.norm1(x + attended(x))
        return self.norm2(x + self._forward_block(x, self.dropout2))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, and a feed-forward block, with residuals and norms."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: ActivationLike = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
                 norm_first: bool = False, bias: bool = True, *, dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self._feed_forward(d_model, dim_feedforward, dropout, activation, bias, dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1, self.dropout2, self.dropout3 = Dropout(dropout), Dropout(dropout), Dropout(dropout)

    def forward(self, tgt: TensorLike, memory: TensorLike, tgt_mask: Mask = None, memory_mask: Mask = None,
                tgt_key_padding_mask: Mask = None, memory_key_padding_mask: Mask = None,
                tgt_is_causal: bool = False, memory_is_causal: bool = False) -> Tensor:
        x, m = as_tensor(tgt), as_tensor(memory)

        def attended(y: Tensor) -> Tensor:
            return self.dropout1(self.self_attn(y, y, y, tgt_key_padding_mask, False, tgt_mask)[0])

        def crossed(y: Tensor) -> Tensor:
            return self.dropout2(self.multihead_attn(y, m, m, memory_key_padding_mask, False, memory_mask)[0])

        if self.norm_first:
            x = x + attended(self.norm1(x))
            x = x + crossed(self.norm2(x))
            return x + self._forward_block(self.norm3(x), self.dropout3)
        x = self.norm1(x + attended(x))
        x = self.norm2(x + crossed(x))
        return self.norm3(x + self._forward_block(x, self.dropout3))


class TransformerEncoder(Module):
    """`num_layers` copies of a layer, one after another, and a final norm where given."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None,
                 enable_nested_tensor: bool = True, mask_check: bool = True) -> None:
        super().__init__()
        self.layers = ModuleList(_independent(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.add_module("norm", norm)

    def forward(self, src: TensorLike, mask: Mask = None, src_key_padding_mask: Mask = None, is_causal: bool = False
                ) -> Tensor:
        x: Any = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(Module):
    """`num_layers` copies of a decoder layer, one after another, and a final norm where given."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList(_independent(decoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.add_module("norm", norm)

    def forward(self, tgt: TensorLike, memory: TensorLike, tgt_mask: Mask = None, memory_mask: Mask = None,
                tgt_key_padding_mask: Mask = None, memory_key_padding_mask: Mask = None) -> Tensor:
        x: Any = tgt
        for layer in self.layers:
            x = layer(x, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """Encoder and decoder stacks, or the modules given for them: forward(src, tgt, masks...)."""

    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
                 dim_feedforward: int = 2048, dropout: float = 0.1, activation: ActivationLike = "relu",
                 custom_encoder: Module | None = None, custom_decoder: Module | None = None, layer_norm_eps: float = 1e-5,
                 batch_first: bool = False, norm_first: bool = False, bias: bool = True, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "dim_feedforward": dim_feedforward, "dropout": dropout, "activation": activation, "dtype": dtype,
            "layer_norm_eps": layer_norm_eps, "batch_first": batch_first, "norm_first": norm_first, "bias": bias}
        self.encoder = custom_encoder if custom_encoder is not None else TransformerEncoder(
            TransformerEncoderLayer(d_model, nhead, **settings), num_encoder_layers,
            LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
        self.decoder = custom_decoder if custom_decoder is not None else TransformerDecoder(
            TransformerDecoderLayer(d_model, nhead, **settings), num_decoder_layers,
            LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(self, src: TensorLike, tgt: TensorLike, src_mask: Mask = None, tgt_mask: Mask = None,
                memory_mask: Mask = None, src_key_padding_mask: Mask = None, tgt_key_padding_mask: Mask = None,
                memory_key_padding_mask: Mask = None) -> Tensor:
        memory = self.encoder(src, src_mask, src_key_padding_mask)
        return self.decoder(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)

    @staticmethod
    def generate_square_subsequent_mask(size: Size) -> Tensor:
        """[size, size] floats to add: 0 where position i may see j <= i, else minus infinity."""
        return e.where(causal(size, size), 0.0, -math.inf)
