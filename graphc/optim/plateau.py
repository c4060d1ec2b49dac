"""ReduceLROnPlateau: the schedule that looks at a metric.

Knows when a metric stopped improving, in numbers and, for a compiled step, in symbols.  Must not know gradients or
passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import GraphError
from ..origins import at, building, phase, user_origin
from ..symbols import Parameter, Tensor, state
from ..types import float64
from .optimizer import Optimizer
from .schedule import NUMBERS, SYMBOLS, Value, per_group, wide


class ReduceLROnPlateau:
    """Multiplies the rate by `factor` where a metric has not improved for more than `patience` steps, as in PyTorch.

    mode            "min" or "max": whether the metric should fall or grow
    threshold       improvements smaller than that do not count; relative to the best by threshold_mode "rel",
                    absolute by "abs"
    cooldown        steps to wait after a reduction
    min_lr          the least rate, one or one per group
    eps             smaller changes of the rate are not made

    ``scheduler.step(metric)`` advances it in Python.  Handed to ``train_step`` it follows the loss inside the step.
    """

    closed_form = True

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
                 threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: Any = 0.0,
                 eps: float = 1e-8) -> None:
        if factor >= 1.0:
            raise GraphError(f"ReduceLROnPlateau: factor must be less than 1, got {factor}{at(user_origin())}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise GraphError("ReduceLROnPlateau: mode is 'min' or 'max', threshold_mode 'rel' or 'abs'"
                             f"{at(user_origin())}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.min_lrs = per_group(optimizer, min_lr, "min_lr")
        worst = math.inf if mode == "min" else -math.inf
        # best metric, bad steps in a row, steps of cool-down left, steps seen: float64, so that one formula serves
        self._cells = {name: state(f"reducelronplateau.{name}", np.array(value, dtype=np.float64)) for name, value in
                       (("best", worst), ("num_bad_epochs", 0.0), ("cooldown_counter", 0.0), ("last_epoch", 0.0))}

    def _next(self, m: Any, metric: Value, now: Mapping[str, Value], rates: list[Value]
              ) -> tuple[dict[str, Value], list[Value]]:
        """The counters and the rates after one more metric."""
        best = now["best"]
        margin = self.threshold if self.threshold_mode == "abs" else None
        if self.mode == "min":
            better = metric < (best - margin if margin is not None else best * (1.0 - self.threshold))
        else:
            better = metric > (best + margin if margin is not None else best * (1.0 + self.threshold))
        bad = m.where(better, 0.0, now["num_bad_epochs"] + 1.0)
        cooling = now["cooldown_counter"]
        bad = m.where(cooling > 0.0, 0.0, bad)
        cooling = m.maximum(cooling - 1.0, 0.0)
        reduce = bad > float(self.patience)
        reduced = []
        for rate, least in zip(rates, self.min_lrs, strict=True):
            lower = m.maximum(rate * self.factor, least)
            reduced.append(m.where(reduce, m.where(rate - lower > self.eps, lower, rate), rate))
        counters = {"best": m.where(better, metric, best), "num_bad_epochs": m.where(reduce, 0.0, bad),
                    "cooldown_counter": m.where(reduce, float(self.cooldown), cooling),
                    "last_epoch": now["last_epoch"] + 1.0}
        return counters, reduced

    def step(self, metrics: Any) -> None:
        """Takes the metric of one more epoch."""
        now = {name: float(cell.item()) for name, cell in self._cells.items()}
        groups = self.optimizer.param_groups
        counters, rates = self._next(NUMBERS, float(metrics), now, [g["lr"] for g in groups])
        for name, value in counters.items():
            self._cells[name].assign(value)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def updates(self, metric: Tensor) -> dict[Parameter, Tensor]:
        """What one step writes, as symbols, given the metric as one."""
        with building(phase, "update"):
            cells = [g.cell("lr") for g in self.optimizer.param_groups]
            rates = [c for c in cells if c is not None]
            counters, reduced = self._next(SYMBOLS, metric.reshape(()).astype(float64), self._cells, rates)
            return {**{self._cells[n]: wide(v) for n, v in counters.items()},
                    **{c: wide(v) for c, v in zip(rates, reduced, strict=True)}}

    def get_last_lr(self) -> list[float]:
        """The current rates, one per group."""
        return [float(g["lr"]) for g in self.optimizer.param_groups]

    @property
    def last_epoch(self) -> int:
        return int(self._cells["last_epoch"].item())

    @property
    def best(self) -> float:
        return float(self._cells["best"].item())

    @property
    def num_bad_epochs(self) -> int:
        return int(self._cells["num_bad_epochs"].item())

    def state_dict(self) -> dict[str, Any]:
        """The best metric and the counters."""
        return {name: float(cell.item()) for name, cell in self._cells.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        for name, cell in self._cells.items():
            cell.assign(float(state_dict[name]))
