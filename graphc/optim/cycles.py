"""Schedules that go round: restarted cosines, triangles, one cycle; the last two also cycle the momentum.

Knows the formulas.  Must not know how a schedule runs, gradients or passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..errors import GraphError
from ..origins import at, user_origin
from .optimizer import Optimizer
from .schedule import LRScheduler, Value, per_group


class CosineAnnealingWarmRestarts(LRScheduler):
    """SGDR (Loshchilov and Hutter, arXiv:1608.03983): a cosine from base to eta_min, restarted.

    The first period is T_0 epochs, each next one T_mult times as long.
    From OneFlow: ``decay_rate`` (1) scales the top of each period, and after ``restart_limit`` periods (0: never) the
    rate stays at eta_min.
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1, *,
                 decay_rate: float = 1.0, restart_limit: int = 0) -> None:
        if T_0 <= 0 or T_mult < 1 or int(T_mult) != T_mult:
            raise GraphError(f"CosineAnnealingWarmRestarts needs T_0 > 0 and an integer T_mult >= 1{at(user_origin())}")
        self.T_0, self.T_mult, self.eta_min = T_0, int(T_mult), eta_min
        self.decay_rate, self.restart_limit = decay_rate, restart_limit
        super().__init__(optimizer, last_epoch)

    @property
    def multiplies(self) -> bool:
        return self.eta_min == 0

    def factor(self, m: Any, t: Value, group: int) -> Value:
        first, growth = float(self.T_0), float(self.T_mult)
        if self.T_mult == 1:
            period = m.floor(t / first)
            since, length = t - period * first, first
        else:  # the small number keeps a rounded logarithm from missing a restart
            period = m.floor(m.log(t * (growth - 1.0) / first + 1.0) / math.log(growth) + 1e-9)
            length = first * growth ** period
            since = t - first * (growth ** period - 1.0) / (growth - 1.0)
        wave = (1.0 + m.cos(math.pi * since / length)) * 0.5
        if self.decay_rate != 1.0:
            wave = self.decay_rate ** period * wave
        return m.where(period < float(self.restart_limit), wave, 0.0) if self.restart_limit else wave

    def rate(self, m: Any, t: Value, base: Value, group: int) -> Value:
        return self.eta_min + (base - self.eta_min) * self.factor(m, t, group)


class _MomentumCycle(LRScheduler):
    """What CyclicLR and OneCycleLR share: the hyperparameter that is called momentum, or is the first of betas."""

    momentum_key: str | None = None

    def cycle_momentum_of(self, optimizer: Optimizer, wanted: bool) -> None:
        """Turns the momentum of every group into a cell that the schedule writes."""
        if not wanted:
            return
        for key in ("momentum", "betas"):
            if all(key in g for g in optimizer.param_groups):
                self.momentum_key = key
                for group in optimizer.param_groups:
                    group.make_adjustable(key)
                return
        raise GraphError(f"{type(self).__name__}: {type(optimizer).__name__} has no momentum to cycle; pass "
                         f"cycle_momentum=False{at(user_origin())}")

    def momentum(self, m: Any, t: Value, group: int) -> Value:
        """The momentum of a group at epoch t."""
        raise GraphError(f"{type(self).__name__} does not cycle the momentum")

    def values(self, m: Any, t: Value) -> list[dict[str, Value]]:
        result = super().values(m, t)
        if self.momentum_key is not None:
            for k, values in enumerate(result):
                values[self.momentum_key] = self.momentum(m, t, k)
        return result


class CyclicLR(_MomentumCycle):
    """Cyclical rates (Smith, arXiv:1506.01186): triangles between base_lr and max_lr, as in PyTorch.

    step_size_up, step_size_down  epochs of the two sides
    mode      "triangular"; "triangular2" halves the height each cycle; "exp_range" scales it by gamma^t
    scale_fn  a Python function of the cycle or, by scale_mode "iterations", of the epoch, in place of `mode`;
              with it the schedule advances between calls
    cycle_momentum  moves the momentum against the rate, between max_momentum and base_momentum
    """

    def __init__(self, optimizer: Optimizer, base_lr: Any, max_lr: Any, step_size_up: int = 2000,
                 step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
                 scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle",
                 cycle_momentum: bool = True, base_momentum: Any = 0.8, max_momentum: Any = 0.9,
                 last_epoch: int = -1) -> None:
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise GraphError(f"CyclicLR: mode is 'triangular', 'triangular2' or 'exp_range', got {mode!r}"
                             f"{at(user_origin())}")
        self.max_lrs = per_group(optimizer, max_lr, "max_lr")
        up, down = float(step_size_up), float(step_size_up if step_size_down is None else step_size_down)
        self.total_size, self.step_ratio = up + down, up / (up + down)
        self.mode, self.gamma = mode, gamma
        self.scale_fn, self.scale_mode = scale_fn, scale_mode
        self.closed_form = scale_fn is None
        self.base_momentums = per_group(optimizer, base_momentum, "base_momentum")
        self.max_momentums = per_group(optimizer, max_momentum, "max_momentum")
        self.cycle_momentum_of(optimizer, cycle_momentum)
        if last_epoch == -1:
            for group, rate in zip(optimizer.param_groups, per_group(optimizer, base_lr, "base_lr"), strict=True):
                group["lr"] = group["initial_lr"] = rate
        super().__init__(optimizer, last_epoch)

    def _height(self, m: Any, t: Value) -> tuple[Value, Value]:
        """How far up the triangle, 0 to 1, and how tall it is."""
        cycle = m.floor(1.0 + t / self.total_size)
        x = 1.0 + t / self.total_size - cycle
        down = (x - 1.0) / (self.step_ratio - 1.0) if self.step_ratio != 1.0 else x
        height = m.where(x <= self.step_ratio, x / self.step_ratio, down)
        if self.scale_fn is not None:
            return height, self.scale_fn(cycle if self.scale_mode == "cycle" else t)
        if self.mode == "triangular":
            return height, 1.0
        return height, 0.5 ** (cycle - 1.0) if self.mode == "triangular2" else self.gamma ** t

    def rate(self, m: Any, t: Value, base: Value, group: int) -> Value:
        height, scale = self._height(m, t)
        return base + (self.max_lrs[group] - base) * height * scale

    def momentum(self, m: Any, t: Value, group: int) -> Value:
        height, scale = self._height(m, t)
        top = self.max_momentums[group]
        return top - (top - self.base_momentums[group]) * height * scale


class OneCycleLR(_MomentumCycle):
    """One cycle (Smith and Topin, arXiv:1708.07120), as in PyTorch: up to max_lr, then far down.

    From max_lr / div_factor up in pct_start of all steps, then down to that over final_div_factor; with `three_phase`
    first back to the start.  A step past the end is an error in Python; inside a compiled step the rate stays.
    """

    def __init__(self, optimizer: Optimizer, max_lr: Any, total_steps: int | None = None, epochs: int | None = None,
                 steps_per_epoch: int | None = None, pct_start: float = 0.3, anneal_strategy: str = "cos",
                 cycle_momentum: bool = True, base_momentum: Any = 0.85, max_momentum: Any = 0.95,
                 div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
                 last_epoch: int = -1) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise GraphError(f"OneCycleLR needs total_steps, or epochs and steps_per_epoch{at(user_origin())}")
            total_steps = epochs * steps_per_epoch
        if total_steps <= 0 or not 0 <= pct_start <= 1 or anneal_strategy not in ("cos", "linear"):
            raise GraphError("OneCycleLR needs total_steps > 0, 0 <= pct_start <= 1 and anneal_strategy 'cos' or "
                             f"'linear'{at(user_origin())}")
        self.total_steps, self.anneal_strategy = int(total_steps), anneal_strategy
        up, last = float(pct_start * total_steps) - 1.0, float(total_steps - 1)
        # the end of each phase and where it starts and ends: 0 the initial value, 1 the extreme, 2 the final value
        self.phases = [(up, 0, 1), (2.0 * pct_start * total_steps - 2.0, 1, 0), (last, 0, 2)] if three_phase else \
            [(up, 0, 1), (last, 1, 2)]
        tops = per_group(optimizer, max_lr, "max_lr")
        self.levels = [(top / div_factor, top, top / div_factor / final_div_factor) for top in tops]
        self.momentum_levels = [(high, low, high) for low, high in
                                zip(per_group(optimizer, base_momentum, "base_momentum"),
                                    per_group(optimizer, max_momentum, "max_momentum"), strict=True)]
        self.cycle_momentum_of(optimizer, cycle_momentum)
        if last_epoch == -1:
            for group, (start, _, _) in zip(optimizer.param_groups, self.levels, strict=True):
                group["lr"] = group["initial_lr"] = start
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: int | None = None) -> None:
        if (self.last_epoch + 1 if epoch is None else epoch) > self.total_steps:
            raise GraphError(f"OneCycleLR has {self.total_steps} steps, and they are done{at(user_origin())}")
        super().step(epoch)

    def _along(self, m: Any, t: Value, levels: tuple[float, float, float]) -> Value:
        result: Value = levels[2]
        starts = [0.0, *(end for end, _, _ in self.phases[:-1])]
        for (end, a, b), begin in reversed(list(zip(self.phases, starts, strict=True))):
            share = (t - begin) / (end - begin) if end != begin else 1.0 + 0.0 * t
            if self.anneal_strategy == "cos":
                value = levels[b] + (levels[a] - levels[b]) * 0.5 * (1.0 + m.cos(math.pi * share))
            else:
                value = levels[a] + (levels[b] - levels[a]) * share
            result = m.where(t <= end, value, result)
        return result

    def rate(self, m: Any, t: Value, base: Value, group: int) -> Value:
        return self._along(m, t, self.levels[group])

    def momentum(self, m: Any, t: Value, group: int) -> Value:
        return self._along(m, t, self.momentum_levels[group])
