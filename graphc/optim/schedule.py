"""The base of all learning rate schedules: one formula, read by Python as numbers and by the compiler as symbols.

Knows groups' cells and how a schedule advances.  Must not know any particular schedule, gradients or passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import CheckpointError, GraphError
from ..ops import elementwise as e
from ..origins import at, building, phase, user_origin
from ..symbols import Parameter, Tensor, as_tensor, constant, state
from ..types import float64
from .optimizer import Optimizer

Value = Any  # a float or a 0-d float64 symbol, whichever arithmetic the formula is given


class Numbers:
    """The arithmetic of formulas on Python numbers."""

    @staticmethod
    def where(condition: Value, a: Value, b: Value) -> Value:
        return a if condition else b

    cos, sqrt, log = staticmethod(math.cos), staticmethod(math.sqrt), staticmethod(math.log)
    floor = staticmethod(lambda x: float(math.floor(x)))
    minimum, maximum = staticmethod(min), staticmethod(max)


class Symbols:
    """The same arithmetic on 0-d float64 symbols."""

    @staticmethod
    def where(condition: Value, a: Value, b: Value) -> Value:
        if isinstance(condition, bool):
            return a if condition else b
        return e.where(condition, wide(a), wide(b))

    cos, sqrt, log, floor = staticmethod(e.cos), staticmethod(e.sqrt), staticmethod(e.log), staticmethod(e.floor)
    minimum = staticmethod(lambda a, b: e.minimum(wide(a), wide(b)))
    maximum = staticmethod(lambda a, b: e.maximum(wide(a), wide(b)))


NUMBERS, SYMBOLS = Numbers(), Symbols()


def wide(value: Value) -> Tensor:
    """A float64 symbol, of a number too."""
    return value.astype(float64) if isinstance(value, Tensor) else constant(float(value), float64)


class LRScheduler:
    """A schedule: what the rates of an optimizer's groups are after `last_epoch` steps of the schedule.

    The constructor sets the rates for epoch 0; `step` advances by one and writes the rates' cells, which compiled steps
    read.  Handed to ``train_step`` or ``nn.Graph.add_optimizer`` the schedule instead advances once per optimizer step:
    inside the compiled step where `closed_form` is true, between calls otherwise.  Use one road, not both.

    A new schedule states `rate`.  Where that is a formula in `m` (`Numbers` or `Symbols`) and the epoch `t`, it runs on
    both roads::

        class InverseRoot(optim.lr_scheduler.LRScheduler):
            def rate(self, m, t, base, group):
                return base / m.sqrt(t + 1.0)

    last_epoch  -1 starts; another number continues a schedule, from the ``initial_lr`` of the groups
    """

    closed_form = True

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise GraphError(f"{type(self).__name__} schedules an optimizer, got {optimizer!r}{at(user_origin())}")
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if "lr" not in group:
                raise GraphError(f"{type(self).__name__}: {type(optimizer).__name__} has no learning rate"
                                 f"{at(user_origin())}")
            if last_epoch != -1 and "initial_lr" not in group:
                raise GraphError(f"{type(self).__name__}: to continue at epoch {last_epoch}, group {number} needs its "
                                 f"'initial_lr'{at(user_origin())}")
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [float(g["initial_lr"]) for g in optimizer.param_groups]
        self.counter = state(f"{type(self).__name__.lower()}.epoch", np.array(last_epoch + 1, dtype=np.int64))
        self._write()

    # -- the formula -------------------------------------------------------------------------------------------

    def rate(self, m: Any, t: Value, base: Value, group: int) -> Value:
        """The learning rate of one group at epoch t (a float or a float64 symbol); `base` is its initial rate."""
        return base * self.factor(m, t, group)

    def factor(self, m: Any, t: Value, group: int) -> Value:
        """The rate at epoch t over the initial rate, for schedules that multiply."""
        raise GraphError(f"{type(self).__name__} does not multiply the rate by a factor of the epoch")

    @property
    def multiplies(self) -> bool:
        """Whether the schedule is a factor of the initial rate, so that it can be chained."""
        return type(self).factor is not LRScheduler.factor

    def values(self, m: Any, t: Value) -> list[dict[str, Value]]:
        """What the schedule sets, by group: ``lr``, and whatever else it cycles."""
        return [{"lr": self.rate(m, t, base, k)} for k, base in enumerate(self.base_lrs)]

    # -- in Python ---------------------------------------------------------------------------------------------

    @property
    def last_epoch(self) -> int:
        return int(self.counter.item())

    def step(self, epoch: int | None = None) -> None:
        """Advances by one epoch (or goes to `epoch`) and sets the rates."""
        self.counter.assign(self.last_epoch + 1 if epoch is None else int(epoch))
        self._write()

    def _write(self) -> None:
        for group, values in zip(self.optimizer.param_groups, self.values(NUMBERS, float(self.last_epoch)),
                                 strict=True):
            for key, value in values.items():
                cell = group.cell(key)
                assert cell is not None
                cell.assign(float(value))

    def get_last_lr(self) -> list[float]:
        """The current rates, one per group."""
        return [float(g["lr"]) for g in self.optimizer.param_groups]

    get_lr = get_last_lr

    # -- in the compiled step ----------------------------------------------------------------------------------

    def symbol(self, step: Any, group: int = 0) -> Tensor:
        """The learning rate of a group, 0-d float64, as a function of the epoch, an int64 symbol."""
        self._require_formula()
        return wide(self.values(SYMBOLS, as_tensor(step).astype(float64))[group]["lr"])

    def updates(self) -> dict[Parameter, Tensor]:
        """What one step of the schedule writes, as symbols: the next rates, and the counter."""
        self._require_formula()
        with building(phase, "update"):
            following = self.counter + 1
            result: dict[Parameter, Tensor] = {self.counter: following}
            for group, values in zip(self.optimizer.param_groups, self.values(SYMBOLS, following.astype(float64)),
                                     strict=True):
                for key, value in values.items():
                    cell = group.cell(key)
                    assert cell is not None
                    result[cell] = wide(value)
            return result

    def _require_formula(self) -> None:
        if not self.closed_form:
            raise GraphError(f"{type(self).__name__} is a Python function, not a formula of the step: it advances "
                             f"between calls{at(user_origin())}")

    # -- saving ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the schedule's numbers; functions are left out."""
        plain = {k: v for k, v in self.__dict__.items() if _is_plain(v)}
        return {**plain, "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave.  The rates themselves come with the optimizer's state.

        Raises CheckpointError where the state has no epoch.
        """
        if "last_epoch" not in state_dict:
            raise CheckpointError(f"not the state of a {type(self).__name__}: no 'last_epoch'")
        self.__dict__.update({k: v for k, v in state_dict.items() if k in self.__dict__ and _is_plain(v)})
        self.counter.assign(int(state_dict["last_epoch"]))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at epoch {self.last_epoch}: lr {self.get_last_lr()}>"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def per_group(optimizer: Optimizer, value: Any, name: str) -> list[Any]:
    """One value per group, from one for all or a list."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != len(optimizer.param_groups):
            raise GraphError(f"{name}: {len(value)} values for {len(optimizer.param_groups)} groups{at(user_origin())}")
        return list(value)
    return [value] * len(optimizer.param_groups)
