"""The update of a training step: gradients, clipping, accumulation, optimizers, schedules and averages as symbols.

Knows how those compose into new values of cells.  Must not know any optimizer's or schedule's formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from graphc.errors import GraphError
from graphc.ops.elementwise import abs_, clip, maximum, minimum, power, sqrt, where
from graphc.ops.reductions import max_, sum_
from graphc.ops.sources import zeros_like
from graphc.optim import EMA, Optimizer
from graphc.optim.plateau import ReduceLROnPlateau
from graphc.optim.schedule import LRScheduler
from graphc.origins import at, building, phase, user_origin
from graphc.records import NamedTuple, record
from graphc.symbols import Parameter, Tensor, state
from graphc.types import float64

from .autodiff import check_loss, gradients_of

Gradients = dict[Parameter, Tensor]
UNTRAINED = "leave it out of the optimizer, or freeze it (its requires_grad = False)"


class BetweenCalls:
    """A schedule that is no formula: `step` it after each call of the program; a run of n steps is then n calls."""

    def __init__(self, scheduler: LRScheduler, waiting: Parameter | None) -> None:
        self.scheduler, self._waiting = scheduler, waiting

    def step(self) -> None:
        """Advances the schedule, unless the call only accumulated gradients."""
        if self._waiting is None or self._waiting.item() == 0:
            self.scheduler.step()


class Accumulation(NamedTuple):
    """What holds gradients from call to call: every `calls`-th applies their mean.

    waiting  how many calls' gradients are in the sums
    sums     of each parameter's gradients
    losses   the sum of the losses, where a schedule looks at their mean
    """

    calls: int
    waiting: Parameter
    sums: dict[Parameter, Parameter]
    losses: Parameter | None

    @property
    def full(self) -> Tensor:
        """Whether this call completes the sums."""
        return self.waiting == self.calls - 1


class Limit(NamedTuple):
    """The norm that a group's gradients together are limited to."""

    params: tuple[Parameter, ...]
    max_norm: float
    norm_type: float


@record(frozen=True, eq=False)
class TrainingStep:
    """All that the new values of a training step are derived from, checked, and as it was when the step was made.

    params         what is trained
    schedules      new values of rates and counters, as symbols
    between_calls  schedules that are no formula
    """

    loss: Tensor
    params: tuple[Parameter, ...]
    optimizers: tuple[Optimizer, ...]
    averages: tuple[EMA, ...]
    clip_norm: float | None
    clip_value: float | None
    limits: tuple[Limit, ...]
    accumulation: Accumulation | None
    schedules: dict[Parameter, Tensor]
    between_calls: tuple[BetweenCalls, ...]

    def derive(self) -> dict[Parameter, Tensor]:
        """New values of parameters, slots, counters, rates and averages.

        Raises GraphError for a parameter that the loss does not depend on, and what rules of gradients and updates raise.
        """
        gradients: Gradients = dict(zip(self.params, gradients_of(self.loss, self.params, UNTRAINED), strict=True))
        held = self.accumulation
        with building(phase, "update"):
            full, sums = None, dict[Parameter, Tensor]()
            if held is not None:
                full = held.full
                gradients, sums = _accumulated(held, full, gradients, self.loss)
            if self.clip_value is not None:
                gradients = clip_by_value(gradients, self.clip_value)
            if self.clip_norm is not None:
                gradients = clip_by_norm(gradients, self.clip_norm)
            for params, max_norm, norm_type in self.limits:
                gradients = gradients | clip_by_norm({p: gradients[p] for p in params}, max_norm, norm_type)
            updates: dict[Parameter, Tensor] = {}
            for optimizer in self.optimizers:
                updates |= optimizer.updates(gradients)
            for average in self.averages:
                updates |= average.updates(updates)
            updates |= self.schedules
            if full is not None:
                updates = {cell: where(full, new, cell) for cell, new in updates.items()} | sums
        return updates


def training_step(loss: Tensor, optimizers: Any, *, grad_clip_norm: float | None = None,
                  grad_clip_value: float | None = None, accumulate: int = 1, lr_scheduler: Any = None) -> TrainingStep:
    """A training step as the user says it.

    loss             a scalar to minimise; its value in the same step is the one before the update
    optimizers       one or several (no parameter in two); an `optim.EMA` may stand among them
    grad_clip_norm   scales all gradients together so that their norm is at most that
                     (times max_norm / (norm + 1e-6) where that is below 1, as torch.nn.utils.clip_grad_norm_)
    grad_clip_value  limits each element to [-value, value]; happens before the norm is taken
    accumulate       every k-th call applies the mean of k gradients; the other calls change nothing but the sums
    lr_scheduler     one or several; each advances once per applied update

    Clipping acts on the accumulated mean.  A parameter with ``requires_grad`` False is left alone.  Raises GraphError for
    settings that make no sense, ShapeError and DTypeError for a loss that is no floating scalar.
    """
    every, averages = _sorted_out(optimizers)
    schedulers = _checked_schedulers(lr_scheduler, every)
    if not isinstance(accumulate, (int, np.integer)) or accumulate < 1:
        raise GraphError(f"accumulate is a positive number of calls, got {accumulate!r}{at(user_origin())}")
    params = tuple(p for o in every for g in o.param_groups for p in g.params if p.requires_grad)
    if not params:
        raise GraphError(f"no parameter of the optimizer requires a gradient{at(user_origin())}")
    check_loss(loss, params)
    with building(phase, "update"):
        held = _accumulation(int(accumulate), params, schedulers) if accumulate > 1 else None
        schedules: dict[Parameter, Tensor] = {}
        between: list[BetweenCalls] = []
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                schedules |= scheduler.updates(loss if held is None else _sum_of_losses(held, loss) * (1.0 / held.calls))
            elif scheduler.closed_form:
                schedules |= scheduler.updates()
            else:
                between.append(BetweenCalls(scheduler, held and held.waiting))
    return TrainingStep(loss, params, tuple(every), tuple(map(copy, averages)), grad_clip_norm, grad_clip_value,
                        tuple(_limits(every)), held, schedules, tuple(between))


# -- arguments -------------------------------------------------------------------------------------------------------


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _sorted_out(given: Any) -> tuple[list[Optimizer], list[EMA]]:
    every = [o for o in _list(given) if isinstance(o, Optimizer)]
    averages = [o for o in _list(given) if isinstance(o, EMA)]
    other = [o for o in _list(given) if not isinstance(o, (Optimizer, EMA))]
    if other and hasattr(other[0], "minimize"):
        raise GraphError(f"{type(other[0]).__name__} evaluates the loss as often as its values ask for, so it is no "
                         f"single step: call its minimize(loss, ...){at(user_origin())}")
    if other or not every:
        raise GraphError(f"a training step needs an optimizer, got {(other or [given])[0]!r}{at(user_origin())}")
    owner: dict[Any, Optimizer] = {}
    for optimizer in every:
        for p in (p for g in optimizer.param_groups for p in g.params):
            if p.cell in owner:
                raise GraphError(f"parameter '{p.name}' is in two optimizers{at(user_origin())}")
            owner[p.cell] = optimizer
    return every, averages


def _checked_schedulers(given: Any, optimizers: Sequence[Optimizer]) -> list[Any]:
    schedulers = _list(given)
    taken: list[Optimizer] = []
    for scheduler in schedulers:
        if not isinstance(scheduler, (LRScheduler, ReduceLROnPlateau)):
            raise GraphError(f"lr_scheduler: {scheduler!r} is no scheduler{at(user_origin())}")
        if all(scheduler.optimizer is not o for o in optimizers):
            raise GraphError(f"{type(scheduler).__name__} schedules an optimizer that this step does not have"
                             f"{at(user_origin())}")
        if any(scheduler.optimizer is o for o in taken):
            raise GraphError(f"two schedulers set one optimizer's rate; combine them with ChainedScheduler or "
                             f"SequentialLR{at(user_origin())}")
        taken.append(scheduler.optimizer)
    return schedulers


# -- gradients -------------------------------------------------------------------------------------------------------


def _accumulation(calls: int, params: Sequence[Parameter], schedulers: Sequence[Any]) -> Accumulation:
    """The states of an accumulation, empty."""
    waiting = state("accumulate.calls", np.array(0, dtype=np.int64))
    sums = {p: state(f"{p.cell.name}.accumulated", np.broadcast_to(np.zeros((), p.cell.type.dtype.numpy), p.cell.shape))
            for p in params}
    looks = any(isinstance(s, ReduceLROnPlateau) for s in schedulers)
    return Accumulation(calls, waiting, sums, state("accumulate.loss", np.array(0.0, dtype=np.float64)) if looks else None)


def _sum_of_losses(held: Accumulation, loss: Tensor) -> Tensor:
    assert held.losses is not None
    return held.losses + loss.reshape(()).astype(float64)


def _accumulated(held: Accumulation, full: Tensor, gradients: Gradients, loss: Tensor
                 ) -> tuple[Gradients, dict[Parameter, Tensor]]:
    """Mean gradients over the calls, and what becomes of the sums."""
    means: Gradients = {}
    sums: dict[Parameter, Tensor] = {held.waiting: where(full, held.waiting * 0, held.waiting + 1)}
    for p, gradient in gradients.items():
        total = held.sums[p] + gradient
        means[p] = total * (1.0 / held.calls)
        sums[held.sums[p]] = where(full, zeros_like(total), total)
    if held.losses is not None:
        total = _sum_of_losses(held, loss)
        sums[held.losses] = where(full, zeros_like(total), total)
    return means, sums


def clip_by_value(gradients: Mapping[Parameter, Tensor], value: float) -> Gradients:
    """Each element limited to [-value, value]."""
    if not value > 0:
        raise GraphError(f"grad_clip_value must be positive, got {value!r}{at(user_origin())}")
    return {p: clip(g, -float(value), float(value)) for p, g in gradients.items()}


def clip_by_norm(gradients: Mapping[Parameter, Tensor], max_norm: float, norm_type: float = 2.0) -> Gradients:
    """All gradients times min(1, max_norm / (norm + 1e-6)), with the norm of them all together."""
    if not max_norm > 0:
        raise GraphError(f"a gradient norm is limited to a positive number, got {max_norm!r}{at(user_origin())}")
    coefficient = minimum(float(max_norm) / (global_norm(gradients.values(), norm_type) + 1e-6), 1.0)
    return {p: (g * coefficient).astype(g.dtype) for p, g in gradients.items()}


def global_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all elements of all tensors, a 0-d float64 symbol."""
    total: Tensor | None = None
    for tensor in tensors:
        if norm_type == math.inf:
            part = max_(abs_(tensor)).astype(float64)
            total = part if total is None else maximum(total, part)
        else:
            raised = tensor * tensor if norm_type == 2 else power(abs_(tensor), float(norm_type))
            part = sum_(raised).astype(float64)
            total = part if total is None else total + part
    if total is None:
        raise GraphError("the norm of no tensors")
    if norm_type == math.inf:
        return total
    return sqrt(total) if norm_type == 2 else power(total, 1.0 / norm_type)


def _limits(optimizers: Sequence[Optimizer]) -> Iterator[Limit]:
    """Of each group that has its own `clip_grad_max_norm`."""
    for group in (g for o in optimizers for g in o.param_groups):
        limit = group.get("clip_grad_max_norm")
        own = tuple(p for p in group.params if p.requires_grad)
        if limit is not None and own:
            yield Limit(own, float(limit), float(group.get("clip_grad_norm_type", 2.0)))
