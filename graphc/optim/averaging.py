"""Averages of weights that follow training.

Knows how a shadow of each parameter is updated with its new value.  Must not know how that value came about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import CheckpointError, GraphError
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor, state
from ..types import float64


class EMA:
    """Exponential moving average of weights: shadow' = decay * shadow + (1 - decay) * w', inside the compiled step.

    Give it beside the optimizer: ``train_step(loss, [optimizer, ema])``.

    model_or_params  a module, or parameters
    decay            share of the old average
    warmup           limits the decay to (1 + t) / (10 + t) at step t, so that early weights are forgotten soon
    """

    def __init__(self, model_or_params: Any, decay: float = 0.999, *, warmup: bool = False) -> None:
        source: Iterable[Any] = model_or_params.parameters() if hasattr(model_or_params, "parameters") \
            else model_or_params
        self.params: list[Parameter] = [p for p in source if p.requires_grad]
        if not self.params:
            raise GraphError(f"EMA got no parameters that are trained{at(user_origin())}")
        if not 0.0 <= decay <= 1.0:
            raise GraphError(f"EMA: decay must be between 0 and 1, got {decay!r}{at(user_origin())}")
        self.decay, self.warmup = decay, warmup
        self.counter = state("ema.step", np.array(0, dtype=np.int64))
        self.shadow: list[Parameter] = [state(f"{p.cell.name}.ema", p.numpy()) for p in self.params]

    def declared(self) -> dict[str, Any]:
        """All that the updates depend on."""
        return dict(vars(self))

    def updates(self, new_values: Mapping[Parameter, Tensor]) -> dict[Parameter, Tensor]:
        """New values of the shadows, given what the step makes of the parameters."""
        by_cell = {p.cell: value for p, value in new_values.items()}
        decay: Any = self.decay
        result = {self.counter: self.counter + 1}
        if self.warmup:
            t = self.counter.astype(float64) + 1.0
            ramp = (1.0 + t) / (10.0 + t)
            decay = ramp.clip(max=self.decay)
        for p, shadow in zip(self.params, self.shadow, strict=True):
            new = by_cell.get(p.cell, p)
            result[shadow] = (decay * shadow + (1.0 - decay) * new).astype(shadow.dtype)
        return result

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters hold their averages (to evaluate); afterwards what they held before."""
        kept = [p.numpy() for p in self.params]
        self.copy_to()
        try:
            yield
        finally:
            for p, value in zip(self.params, kept, strict=True):
                p.assign(value)

    def copy_to(self) -> None:
        """Gives the parameters their averages."""
        for p, shadow in zip(self.params, self.shadow, strict=True):
            p.assign(shadow.numpy())

    def state_dict(self) -> dict[str, Any]:
        """``{"step": n, "shadow": [arrays, in the order of the parameters]}``."""
        return {"step": int(self.counter.item()), "shadow": [s.numpy() for s in self.shadow]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave; CheckpointError where the shapes differ."""
        arrays = [np.asarray(a) for a in state_dict["shadow"]]
        if [a.shape for a in arrays] != [s.cell.shape for s in self.shadow]:
            raise CheckpointError("the averages in the state are of other shapes than these parameters")
        for shadow, array in zip(self.shadow, arrays, strict=True):
            shadow.assign(array)
        self.counter.assign(state_dict["step"])
