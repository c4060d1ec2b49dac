"""The schedules, as in PyTorch and OneFlow: each one is a formula of the epoch.

Knows the formulas; how they run is in `schedule`, the cyclic ones are in `cycles`.  Must not know gradients or passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import GraphError
from ..origins import at, user_origin
from .cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from .optimizer import Optimizer
from .plateau import ReduceLROnPlateau
from .schedule import LRScheduler, Value, per_group

__all__ = ["ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CosineDecayLR",
           "CyclicLR", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR",
           "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "SequentialLR", "StepLR", "WarmupLR"]


class StepLR(LRScheduler):
    """base * gamma^floor(t / step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = int(step_size), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        return self.gamma ** m.floor(t / float(self.step_size))


class MultiStepLR(LRScheduler):
    """base * gamma^(milestones reached)."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1
                 ) -> None:
        self.milestones, self.gamma = sorted(int(s) for s in milestones), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        reached: Value = 0.0
        for milestone in self.milestones:
            reached = reached + m.where(t >= float(milestone), 1.0, 0.0)
        return self.gamma ** reached


class ExponentialLR(LRScheduler):
    """base * gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        return self.gamma ** t


class ConstantLR(LRScheduler):
    """base * factor until epoch total_iters, then base."""

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
                 ) -> None:
        self.constant, self.total_iters = float(factor), int(total_iters)
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        return m.where(t < float(self.total_iters), self.constant, 1.0)


class LinearLR(LRScheduler):
    """base times a factor that goes linearly from start_factor to end_factor in total_iters epochs."""

    def __init__(self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0,
                 total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise GraphError(f"LinearLR needs 0 < start_factor <= 1 and 0 <= end_factor <= 1{at(user_origin())}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, int(total_iters)
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        share = m.minimum(t, float(self.total_iters)) / float(self.total_iters)
        return self.start_factor + (self.end_factor - self.start_factor) * share


class PolynomialLR(LRScheduler):
    """base * (1 - min(t, total_iters) / total_iters)^power.

    OneFlow's takes the number of steps first and also has ``end_learning_rate`` (0.0001 there, 0 here): the rate that
    the polynomial ends at; ``cycle`` there stretches the interval each time its end is reached.
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1, *,
                 end_learning_rate: float = 0.0, cycle: bool = False) -> None:
        self.total_iters, self.power = int(total_iters), float(power)
        self.end_learning_rate, self.cycle = end_learning_rate, cycle
        super().__init__(optimizer, last_epoch)

    @property
    def multiplies(self) -> bool:
        return self.end_learning_rate == 0

    def factor(self, m: Any, t: Value, group: int) -> Value:
        total: Value = float(self.total_iters)
        if self.cycle:  # the interval is the least multiple of total_iters that holds t
            total = total * m.maximum(-m.floor(-(t / total)), 1.0)
        return (1.0 - m.minimum(t, total) / total) ** self.power

    def rate(self, m: Any, t: Value, base: Value, group: int) -> Value:
        end = self.end_learning_rate
        return end + (base - end) * self.factor(m, t, group)


class CosineAnnealingLR(LRScheduler):
    """eta_min + (base - eta_min) * (1 + cos(pi t / T_max)) / 2: down in T_max epochs, up in the next T_max."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    @property
    def multiplies(self) -> bool:
        return self.eta_min == 0

    def factor(self, m: Any, t: Value, group: int) -> Value:
        return (1.0 + m.cos(math.pi * t / float(self.T_max))) * 0.5

    def rate(self, m: Any, t: Value, base: Value, group: int) -> Value:
        return self.eta_min + (base - self.eta_min) * self.factor(m, t, group)


class CosineDecayLR(LRScheduler):
    """OneFlow's cosine decay: base * ((1 - alpha) * (1 + cos(pi min(t, decay_steps) / decay_steps)) / 2 + alpha)."""

    def __init__(self, optimizer: Optimizer, decay_steps: int, alpha: float = 0.0, last_epoch: int = -1) -> None:
        self.decay_steps, self.alpha = int(decay_steps), alpha
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        share = m.minimum(t, float(self.decay_steps)) / float(self.decay_steps)
        return (1.0 - self.alpha) * ((1.0 + m.cos(math.pi * share)) * 0.5) + self.alpha


class LambdaLR(LRScheduler):
    """base * lr_lambda(t), a Python function of the epoch (or one per group): it runs between calls."""

    closed_form = False

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambdas: list[Callable[[int], float]] = per_group(optimizer, lr_lambda, "lr_lambda")
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        return self.lr_lambdas[group](int(t))


class MultiplicativeLR(LRScheduler):
    """base * lr_lambda(1) * ... * lr_lambda(t), with a Python function of the epoch: it runs between calls."""

    closed_form = False

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambdas: list[Callable[[int], float]] = per_group(optimizer, lr_lambda, "lr_lambda")
        self._products: list[list[float]] = [[1.0] for _ in optimizer.param_groups]
        super().__init__(optimizer, last_epoch)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        products = self._products[group]
        while len(products) <= int(t):
            products.append(products[-1] * self.lr_lambdas[group](len(products)))
        return products[int(t)]


class SequentialLR(LRScheduler):
    """One schedule after the other: each starts at its milestone, at its own epoch 0."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int],
                 last_epoch: int = -1) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise GraphError(f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} milestones, got "
                             f"{len(milestones)}{at(user_origin())}")
        _of_one_optimizer(optimizer, schedulers)
        self.schedulers, self.milestones = list(schedulers), [int(s) for s in milestones]
        self.closed_form = all(s.closed_form for s in schedulers)
        super().__init__(optimizer, last_epoch)

    def values(self, m: Any, t: Value) -> list[dict[str, Value]]:
        current = self.schedulers[0].values(m, t)
        for scheduler, milestone in zip(self.schedulers[1:], self.milestones, strict=True):
            own = scheduler.values(m, m.maximum(t - float(milestone), 0.0))
            current = [{key: m.where(t >= float(milestone), new.get(key, old.get(key)), old.get(key, new.get(key)))
                        for key in {**old, **new}} for old, new in zip(current, own, strict=True)]
        return current


class ChainedScheduler(LRScheduler):
    """The product of schedules that each multiply the rate by a factor of the epoch.

    PyTorch chains recurrences, so a LambdaLR there discards what came before it in the chain; here it is a factor as
    the others are.  Raises GraphError for a schedule that is no factor (OneCycleLR, or a cosine with an eta_min).
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if not schedulers:
            raise GraphError(f"ChainedScheduler needs at least one scheduler{at(user_origin())}")
        optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        _of_one_optimizer(optimizer, schedulers)
        for scheduler in schedulers:
            if not scheduler.multiplies:
                raise GraphError(f"ChainedScheduler multiplies factors; {type(scheduler).__name__} is none"
                                 f"{at(user_origin())}")
        self.schedulers = list(schedulers)
        self.closed_form = all(s.closed_form for s in schedulers)
        super().__init__(optimizer)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        product: Value = 1.0
        for scheduler in self.schedulers:
            product = product * scheduler.factor(m, t, group)
        return product


class WarmupLR(LRScheduler):
    """OneFlow's warm-up of an optimizer's rate or of another schedule.

    For the first warmup_iters epochs the rate is base times warmup_factor ("constant"), or goes linearly from there to
    where the schedule goes on ("linear"); then the schedule takes over at epoch warmup_iters, or with
    `warmup_prefix` at its epoch 0.
    """

    def __init__(self, scheduler_or_optimizer: LRScheduler | Optimizer, warmup_factor: float = 1.0 / 3,
                 warmup_iters: int = 5, warmup_method: str = "linear", warmup_prefix: bool = False,
                 last_epoch: int = -1) -> None:
        if warmup_method not in ("linear", "constant"):
            raise GraphError(f"warmup_method is 'linear' or 'constant', got {warmup_method!r}{at(user_origin())}")
        inner: LRScheduler | None = None
        if isinstance(scheduler_or_optimizer, LRScheduler):
            inner, optimizer = scheduler_or_optimizer, scheduler_or_optimizer.optimizer
        else:
            optimizer = scheduler_or_optimizer
        if inner is None and warmup_iters <= 0:
            raise GraphError(f"WarmupLR of an optimizer needs warmup_iters > 0{at(user_origin())}")
        self.scheduler, self.warmup_factor, self.warmup_iters = inner, warmup_factor, int(warmup_iters)
        self.warmup_method, self.warmup_prefix = warmup_method, warmup_prefix
        self.closed_form = inner is None or inner.closed_form
        super().__init__(optimizer, last_epoch)

    def rate(self, m: Any, t: Value, base: Value, group: int) -> Value:
        after = self._after(m, m.maximum(t - float(self.warmup_iters), 0.0), base, group)
        if self.warmup_iters <= 0:
            return after
        low = base * self.warmup_factor
        if self.warmup_method == "linear":
            high = base if self.warmup_prefix else self._after(m, 0.0 * t, base, group)
            low = low + (high - low) * (t / float(self.warmup_iters))
        return m.where(t < float(self.warmup_iters), low, after)

    def _after(self, m: Any, since: Value, base: Value, group: int) -> Value:
        """The rate that many epochs after the warm-up."""
        if self.scheduler is None:
            return base
        return self.scheduler.rate(m, since if self.warmup_prefix else since + float(self.warmup_iters), base, group)


def _of_one_optimizer(optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
    for scheduler in schedulers:
        if scheduler.optimizer is not optimizer:
            raise GraphError(f"{type(scheduler).__name__} belongs to another optimizer{at(user_origin())}")
