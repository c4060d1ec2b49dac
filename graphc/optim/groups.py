"""Groups of parameters, which share hyperparameters: dictionaries whose rates live in cells.

Knows cells of rates and what a built step no longer takes.  Must not know rules, slots or gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from ..errors import GraphError
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor, state
from ..types import float64

NAMES = "param_names"  # of a group whose parameters came with their names
BOOKKEEPING = ("params", "initial_lr", "clip_grad_max_norm", "clip_grad_norm_type", NAMES)  # what any group may have


class ParamGroup(MutableMapping[str, Any]):
    """Parameters that share hyperparameters: a dictionary, as in PyTorch.

    ``group["lr"]`` is the number and may be written at any time: the rate lives in a cell that compiled steps read.
    ``group.lr`` is the symbol of that cell (0-d float64), for use in `Optimizer.update`; for a hyperparameter that is a
    constant of the step (``group.eps``) it is the number itself.  A scheduler that cycles the momentum turns that into
    a cell too (`make_adjustable`), so rules spell hyperparameters with a dot where they compute with them.
    """

    def __init__(self, params: list[Parameter], options: Mapping[str, Any], label: str) -> None:
        self._options: dict[str, Any] = {"params": params, **options}
        self._cells: dict[str, Parameter] = {}
        self._label = label
        self._built = False
        self.consulted = 0  # how often somebody asked for the number in a cell
        if "lr" in self._options:
            self.make_adjustable("lr")

    @property
    def params(self) -> list[Parameter]:
        return self._options["params"]

    def make_adjustable(self, key: str) -> Parameter:
        """Keeps a hyperparameter in a cell, so that writing it does not need a new step.

        Of a tuple (``betas``) the first number is kept so.
        """
        if key not in self._cells:
            if self._built:
                raise GraphError(f"'{key}' of {self._label} is a constant of a step that is already built; create the "
                                 f"scheduler before the step{at(user_origin())}")
            value = self._options[key]
            first = value[0] if isinstance(value, tuple) else value
            self._cells[key] = state(f"{self._label}.{key}", np.array(number_of(key, first)), float64)
        return self._cells[key]

    def freeze(self) -> None:
        """From now on the constants of this group are part of a built step."""
        self._built = True

    def declared(self) -> dict[str, Any]:
        """Hyperparameters as rules that compute see them: a cell instead of its number.  Schedules begin with `initial_lr`."""
        return {key: getattr(self, key) for key in self._options if key not in ("initial_lr", NAMES)}

    def cell(self, key: str) -> Parameter | None:
        """The cell of an adjustable hyperparameter, or None of a constant."""
        return self._cells.get(key)

    def __getitem__(self, key: str) -> Any:
        value = self._options[key]
        if key not in self._cells:
            return value
        self.consulted += 1
        number = float(self._cells[key].item())
        return (number, *value[1:]) if isinstance(value, tuple) else number

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._cells:
            old = self._options[key]
            if isinstance(old, tuple):
                if self._built and tuple(value[1:]) != old[1:]:
                    raise self._constant(key, value)
                self._options[key] = tuple(value)
                value = value[0]
            self._cells[key].assign(number_of(key, value))
        elif self._built and key not in BOOKKEEPING and key in self._options and self._options[key] != value:
            raise self._constant(key, value)
        else:
            self._options[key] = value
            if key == "lr":
                self.make_adjustable(key)

    def _constant(self, key: str, value: Any) -> GraphError:
        return GraphError(f"'{key}' of {self._label} is a constant ({self._options[key]!r}) of a step that is already "
                          f"built and cannot become {value!r}; set it before building the step{at(user_origin())}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._options:
            raise AttributeError(f"this parameter group has no '{name}'; it has {', '.join(self._options)}"
                                 if not name.startswith("_") else name)
        value = self._options[name]
        if name not in self._cells:
            return value
        cell = self._cells[name]
        return (cell, *value[1:]) if isinstance(value, tuple) else cell

    def __delitem__(self, key: str) -> None:
        raise GraphError(f"a parameter group keeps its '{key}'{at(user_origin())}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __repr__(self) -> str:
        shown = {k: self[k] for k in self if k not in ("params", NAMES)}
        return f"<group of {len(self.params)} parameters: {', '.join(f'{k}={v}' for k, v in shown.items())}>"


def number_of(key: str, value: Any) -> float:
    if isinstance(value, Tensor) or (not np.isscalar(value) and np.ndim(value)):
        raise GraphError(f"'{key}' must be a number, got {value!r}{at(user_origin())}")
    return float(value)


def without_names(group: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The group with its parameters in a list; names that came with them, as `named_parameters()` gives both, apart.

    Raises GraphError where only some have names.
    """
    params: list[Any] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    named = [isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in params]
    if not any(named):
        return {**group, "params": params}
    if not all(named):
        raise GraphError(f"{what}: either all parameters come with their names, as from named_parameters(), or none"
                         f"{at(user_origin())}")
    return {**group, "params": [p for _, p in params], NAMES: [name for name, _ in params]}
