"""Recurrent layers: simple (Elman), LSTM and GRU, and their single-step cells.

The time axis is a loop of the graph, so its size may be open; the products of the inputs with their weights are taken for
all steps at once, only the hidden state's are inside the loop.  Weights have PyTorch's names and gate order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..loops import scan
from ..ops import elementwise as e
from ..ops.contractions import linear
from ..ops.shaping import concat, split, stack
from ..ops.sources import zeros
from ..ops.views import reshape, squeeze, transpose, unsqueeze
from ..origins import at, user_origin
from ..symbols import Parameter as Cellular
from ..symbols import Tensor, TensorLike, as_tensor
from ..types import DTypeLike, Size
from . import init
from .dropout import dropout
from .linear import positive
from .module import Module
from .parameter import Parameter
from .randomness import fresh_key

Carried = tuple[Tensor, ...]  # the hidden state, and the LSTM's cell state


def _rnn_step(gates_x: Tensor, gates_h: Tensor, carried: Carried, nonlinearity: str) -> Carried:
    total = gates_x + gates_h
    return (e.tanh(total) if nonlinearity == "tanh" else e.relu(total),)


def _lstm_step(gates_x: Tensor, gates_h: Tensor, carried: Carried, nonlinearity: str) -> Carried:
    total = gates_x + gates_h
    i, f, g, o = split(total, [int(total.shape[-1]) // 4] * 4, -1)
    cell = e.sigmoid(f) * carried[1] + e.sigmoid(i) * e.tanh(g)
    return e.sigmoid(o) * e.tanh(cell), cell


def _gru_step(gates_x: Tensor, gates_h: Tensor, carried: Carried, nonlinearity: str) -> Carried:
    third = [int(gates_x.shape[-1]) // 3] * 3
    (xr, xz, xn), (hr, hz, hn) = split(gates_x, third, -1), split(gates_h, third, -1)
    update = e.sigmoid(xz + hz)
    new = e.tanh(xn + e.sigmoid(xr + hr) * hn)
    return ((1.0 - update) * new + update * carried[0],)


STEPS: dict[str, tuple[Any, int, int]] = {"RNN": (_rnn_step, 1, 1), "LSTM": (_lstm_step, 4, 2),
                                          "GRU": (_gru_step, 3, 1)}  # step, gates, carried tensors


class _Recurrent(Module):
    kind = "RNN"

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, bias: bool, batch_first: bool,
                 dropout: float, bidirectional: bool, proj_size: int, nonlinearity: str, dtype: DTypeLike | None
                 ) -> None:
        super().__init__()
        name = type(self).__name__
        positive(name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if not 0.0 <= dropout <= 1.0:
            raise GraphError(f"{name}: dropout must be between 0 and 1, got {dropout}{at(user_origin())}")
        if not 0 <= proj_size < hidden_size:
            raise ShapeError(f"{name}: proj_size must be below hidden_size {hidden_size}, got {proj_size}"
                             f"{at(user_origin())}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size, self.nonlinearity = bidirectional, proj_size, nonlinearity
        _, gates, _ = STEPS[self.kind]
        directions, width = 1 + bidirectional, proj_size or hidden_size
        bound = 1.0 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            for direction in range(directions):
                suffix = f"l{layer}" + ("_reverse" if direction else "")
                features = input_size if layer == 0 else width * directions
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates * hidden_size, features),
                                                      "weight_hh": (gates * hidden_size, width)}
                if bias:
                    shapes |= {"bias_ih": (gates * hidden_size,), "bias_hh": (gates * hidden_size,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for which, shape in shapes.items():
                    value = init.uniform_(Parameter(np.broadcast_to(0.0, shape), dtype=dtype), -bound, bound)
                    self.register_parameter(f"{which}_{suffix}", value)
        if dropout and num_layers > 1:
            self.register_buffer("key", fresh_key(), persistent=False)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
                    "proj_size": 0}
        parts += [f"{n}={getattr(self, n)}" for n, v in defaults.items() if getattr(self, n) != v]
        return ", ".join(parts)

    def _run(self, input: TensorLike, given: Carried | None) -> tuple[Tensor, Carried]:
        """The outputs of the last layer and the carried tensors of all layers, stacked; batch axis kept where given."""
        x = as_tensor(input)
        name = type(self).__name__
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ShapeError(f"{name} takes [time, batch, {self.input_size}] (batch first where so made) or "
                             f"[time, {self.input_size}], got {x.type}{at(user_origin())}")
        single = x.ndim == 2
        x = unsqueeze(x, 1) if single else transpose(x, 0, 1) if self.batch_first else x
        states = self._initial(x, given, single)
        finals: list[Carried] = []
        directions = 1 + self.bidirectional
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = dropout(x, self.dropout, key=self.key)
            parts = []
            for direction in range(directions):
                first = tuple(s[layer * directions + direction] for s in states)
                out, last = self._sweep(x, first, f"l{layer}" + ("_reverse" if direction else ""), bool(direction))
                parts.append(out)
                finals.append(last)
            x = parts[0] if directions == 1 else concat(parts, -1)
        carried = tuple(stack(list(c)) for c in zip(*finals, strict=True))
        if single:
            return squeeze(x, 1), tuple(squeeze(c, 1) for c in carried)
        return (transpose(x, 0, 1) if self.batch_first else x), carried

    def _initial(self, x: Tensor, given: Carried | None, single: bool) -> Carried:
        number, batch = self.num_layers * (1 + self.bidirectional), x.shape[1]
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[:STEPS[self.kind][2]]
        if given is None:
            return tuple(zeros((number, batch, w), x.dtype) for w in widths)
        states = tuple(unsqueeze(as_tensor(s), 1) if single else as_tensor(s) for s in given)
        for state, width in zip(states, widths, strict=True):
            if state.shape != (number, batch, width):
                raise ShapeError(f"{type(self).__name__}: an initial state must be [{number},{batch},{width}], got "
                                 f"{state.type}{at(user_origin())}")
        return states

    def _sweep(self, x: Tensor, carried: Carried, suffix: str, backward: bool) -> tuple[Tensor, Carried]:
        step = STEPS[self.kind][0]
        weights = {w: getattr(self, f"{w}_{suffix}", None) for w in
                   ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")}
        weight = weights["weight_hh"]
        assert weights["weight_ih"] is not None and weight is not None
        gates = linear(x, weights["weight_ih"], weights["bias_ih"])

        def advance(carried: Carried, gates_x: Tensor) -> tuple[Carried, Tensor]:
            gates_h = linear(carried[0], weight, weights["bias_hh"])
            new = step(gates_x, gates_h, carried, self.nonlinearity)
            if weights["weight_hr"] is not None:
                new = (linear(new[0], weights["weight_hr"]), *new[1:])
            return new, new[0]

        last, outputs = scan(advance, carried, gates, reverse=backward)
        return outputs, last


class RNN(_Recurrent):
    """h = tanh(x W_ih' + b_ih + h W_hh' + b_hh), or relu: (output, final h) of forward(input, h_0=None)."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
                 bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise GraphError(f"RNN: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}{at(user_origin())}")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
                         nonlinearity, dtype)

    def forward(self, input: TensorLike, hx: TensorLike | None = None) -> tuple[Tensor, Tensor]:
        out, (hidden,) = self._run(input, None if hx is None else (as_tensor(hx),))
        return out, hidden


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014): (output, final h) of forward(input, h_0=None)."""

    kind = "GRU"

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, "", dtype)

    def forward(self, input: TensorLike, hx: TensorLike | None = None) -> tuple[Tensor, Tensor]:
        out, (hidden,) = self._run(input, None if hx is None else (as_tensor(hx),))
        return out, hidden


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997): (output, (h, c)) of forward(input, (h_0, c_0)=None)."""

    kind = "LSTM"

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, "",
                         dtype)

    def forward(self, input: TensorLike, hx: tuple[TensorLike, TensorLike] | None = None
                ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, (hidden, cell) = self._run(input, None if hx is None else tuple(as_tensor(s) for s in hx))
        return out, (hidden, cell)


# -- cells -----------------------------------------------------------------------------------------------------------


class _Cell(Module):
    kind = "RNN"
    weight_ih: Cellular
    weight_hh: Cellular

    def __init__(self, input_size: int, hidden_size: int, bias: bool, nonlinearity: str, dtype: DTypeLike | None
                 ) -> None:
        super().__init__()
        positive(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.nonlinearity = input_size, hidden_size, nonlinearity
        rows, bound = STEPS[self.kind][1] * hidden_size, 1.0 / math.sqrt(hidden_size)
        for name, shape in (("weight_ih", (rows, input_size)), ("weight_hh", (rows, hidden_size)),
                            ("bias_ih", (rows,)), ("bias_hh", (rows,))):
            wanted = bias or name.startswith("weight")
            self.register_parameter(name, init.uniform_(Parameter(np.broadcast_to(0.0, shape), dtype=dtype), -bound, bound)
                                    if wanted else None)

    def _step(self, input: TensorLike, given: tuple[TensorLike, ...] | None) -> Carried:
        x = as_tensor(input)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(f"{type(self).__name__} takes [batch, {self.input_size}] or [{self.input_size}], "
                             f"got {x.type}{at(user_origin())}")
        single = x.ndim == 1
        batch: Size = 1 if single else x.shape[0]
        number = STEPS[self.kind][2]
        states = tuple(zeros((batch, self.hidden_size), x.dtype) for _ in range(number)) if given is None else tuple(
            reshape(s, (1, -1)) if single else as_tensor(s) for s in given)
        rows = reshape(x, (1, -1)) if single else x
        new = STEPS[self.kind][0](linear(rows, self.weight_ih, self.bias_ih),
                                  linear(states[0], self.weight_hh, self.bias_hh), states, self.nonlinearity)
        return tuple(squeeze(s, 0) for s in new) if single else new

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class RNNCell(_Cell):
    """One step of RNN: forward(input, h=None) gives the new h."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise GraphError(f"RNNCell: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}{at(user_origin())}")
        super().__init__(input_size, hidden_size, bias, nonlinearity, dtype)

    def forward(self, input: TensorLike, hx: TensorLike | None = None) -> Tensor:
        return self._step(input, None if hx is None else (hx,))[0]


class GRUCell(_Cell):
    """One step of GRU: forward(input, h=None) gives the new h."""

    kind = "GRU"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, "", dtype)

    def forward(self, input: TensorLike, hx: TensorLike | None = None) -> Tensor:
        return self._step(input, None if hx is None else (hx,))[0]


class LSTMCell(_Cell):
    """One step of LSTM: forward(input, (h, c)=None) gives the new (h, c)."""

    kind = "LSTM"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *,
                 dtype: DTypeLike | None = None, device: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, "", dtype)

    def forward(self, input: TensorLike, hx: tuple[TensorLike, TensorLike] | None = None) -> tuple[Tensor, Tensor]:
        hidden, cell = self._step(input, hx)
        return hidden, cell
