"""nn.Graph: OneFlow's static-graph class.  Its `build` is traced once into a Program; calls run that.

Knows how a trace is keyed and where `loss.backward()` belongs.  Must not know passes or backends.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from .driver import Program, function, train_step
from .errors import FeedError, GraphError
from .nn import Module
from .origins import at, building, each_step, user_origin
from .symbols import Tensor, placeholder
from .types import DType, as_dtype

_tracing: ContextVar[Graph | None] = ContextVar("tracing", default=None)
Key = tuple[Any, ...]


def mark_backward(loss: Tensor) -> None:
    """What `loss.backward()` does: inside build() it names the loss that the graph's optimizers minimise."""
    graph = _tracing.get()
    if graph is None:
        raise GraphError("backward() belongs into nn.Graph.build; elsewhere derive gradients with graphc.grad(loss, wrt), "
                         f"or a whole step with graphc.train_step(loss, optimizer){at(user_origin())}")
    if graph._loss is not None:
        raise GraphError(f"build() calls backward() twice; add the losses up first{at(user_origin())}")
    graph._loss = loss


class Graph:
    """A step written as a class: put modules and optimizers into __init__, the mathematics into build().

    Calls take numpy arrays and return numpy arrays, in the structure that build() returns.  It is traced at the first
    call, and again for new dtypes, for other sizes than the first axis, and when a module's training flag changed.
    Several optimizers may be added; each trains its own parameters on the one loss.
    """

    def __init__(self) -> None:
        self._optimizers: list[Any] = []
        self._schedulers: list[Any] = []
        self._options: dict[str, Any] = {}
        self._programs: dict[Key, Program] = {}
        self._loss: Tensor | None = None
        self._latest: Program | None = None

    def build(self, *inputs: Tensor) -> Any:
        """The mathematics: symbols in, symbols out.  With optimizers, `loss.backward()` names the loss."""
        raise GraphError(f"{type(self).__name__} has no build(){at(user_origin())}")

    def add_optimizer(self, optimizer: Any, *, lr_sch: Any = None) -> None:
        """Makes every call a training step of this optimizer; the scheduler advances once per step."""
        self._optimizers.append(optimizer)
        if lr_sch is not None:
            self._schedulers.append(lr_sch)
        self._programs.clear()

    def configure(self, **options: Any) -> None:
        """Options of the step: backend, threads, memory_budget, check_numerics, matmul_precision, grad_clip_norm,
        accumulate."""
        self._options.update(options)
        self._programs.clear()

    # -- tracing -----------------------------------------------------------------------------------------------

    def _names(self, count: int) -> list[str]:
        parameters = [p for p in inspect.signature(self.build).parameters.values()]
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            names += [f"input{i}" for i in range(len(names), count)]
        return names

    def _modules(self) -> list[Module]:
        return [m for value in vars(self).values() if isinstance(value, Module) for m in value.modules()]

    def _key(self, dtypes: Sequence[DType], shapes: Sequence[tuple[int, ...]]) -> Key:
        training = tuple(m.training for m in self._modules())
        return tuple(dtypes), tuple(s[1:] for s in shapes), tuple(len(s) for s in shapes), training

    def trace(self, types: Sequence[tuple[DType, tuple[int, ...]]]) -> Program:
        """The Program for inputs of these types; the first axis is open where all inputs share its size."""
        key = self._key([d for d, _ in types], [s for _, s in types])
        known = self._programs.get(key) or self._programs.get((*key, tuple(s for _, s in types)))
        if known is None:
            lengths = {s[0] for _, s in types if s}
            if len(lengths) == 1 and all(s for _, s in types):
                try:
                    known = self._trace(types, open_batch=True)
                except GraphError as error:
                    if "open" not in str(error):
                        raise
            if known is None:
                key = (*key, tuple(s for _, s in types))
                known = self._trace(types, open_batch=False)
            self._programs[key] = known
        self._latest = known
        return known

    def _trace(self, types: Sequence[tuple[DType, tuple[int, ...]]], open_batch: bool) -> Program:
        names = self._names(len(types))
        symbols = [placeholder(n, ("batch", *s[1:]) if open_batch else s, d)
                   for n, (d, s) in zip(names, types, strict=True)]
        token = _tracing.set(self)
        self._loss = None
        try:
            with building(each_step, "build"):
                outputs = self.build(*symbols)
        finally:
            _tracing.reset(token)
        loss, self._loss = self._loss, None
        name = type(self).__name__
        if not self._optimizers:
            return function(symbols, outputs, name=name, **self._options)
        if loss is None:
            raise GraphError(f"{name} has an optimizer, but build() never calls loss.backward(){at(user_origin())}")
        return train_step(loss, self._optimizers if len(self._optimizers) > 1 else self._optimizers[0],
                          returns=outputs, inputs=symbols, lr_scheduler=self._schedulers or None, name=name,
                          **self._options)

    def compile(self, *arrays: Any, **named: Any) -> Program:
        """Traces and compiles for these arrays without running."""
        values = self._arrays(arrays, named)
        program = self.trace([(as_dtype(a.dtype), a.shape) for a in values])
        program.prepare(values)
        return program

    def _arrays(self, positional: Sequence[Any], named: dict[str, Any]) -> list[np.ndarray]:
        names = self._names(len(positional))
        if named or len(positional) != len(names):
            unknown = [n for n in named if n not in names]
            missing = [n for n in names[len(positional):] if n not in named]
            if unknown or missing or len(positional) > len(names):
                raise FeedError(f"{type(self).__name__}.build takes {', '.join(names) or 'nothing'}; unknown: "
                                f"{', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}; "
                                f"{len(positional)} given by position{at(user_origin())}")
        values = [*positional, *(named[n] for n in names[len(positional):])]
        return [_array(n, v) for n, v in zip(names, values, strict=True)]

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        values = self._arrays(arrays, named)
        program = self.trace([(as_dtype(a.dtype), a.shape) for a in values])
        return program(*values)

    def run(self, count: int, *arrays: Any, **named: Any) -> Any:
        """`count` steps on the same arrays in one native call."""
        values = self._arrays(arrays, named)
        return self.trace([(as_dtype(a.dtype), a.shape) for a in values]).run(count, *values)

    @property
    def program(self) -> Program:
        """The Program of the latest trace; GraphError before the first."""
        if self._latest is None:
            raise GraphError(f"{type(self).__name__} was never called: call it, or use compile(arrays){at(user_origin())}")
        return self._latest

    def __repr__(self) -> str:
        return f"<nn.Graph {type(self).__name__}, {len(self._programs)} traces>"


def _array(name: str, value: Any) -> np.ndarray:
    """A call's array; float64 counts as float32 (the default float type), as everywhere at calls."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise FeedError(f"input '{name}': {error}{at(user_origin())}") from None
    if array.dtype.kind not in "fiub":
        raise FeedError(f"input '{name}': no numbers in {type(value).__name__}{at(user_origin())}")
    if array.dtype == np.float64:
        return array.astype(np.float32)
    return array.astype(as_dtype(array.dtype).numpy) if array.dtype.kind != "u" else array.astype(np.int64)


__all__ = ["Graph", "mark_backward"]
