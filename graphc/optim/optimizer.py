"""The base of all optimizers: parameters in groups, slots, and update rules that are arithmetic on symbols.

Knows which cells an optimizer owns (rates, the step counter, slots) and how they are saved.  Must not know gradients,
passes, or any particular rule: a rule is `Optimizer.update`, and a user's own is as good as a built-in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from ..cells import Cell
from ..errors import CheckpointError, DTypeError, GraphError, ShapeError
from ..origins import at, building, from_one_line, is_own, phase, user_origin
from ..records import NamedTuple
from ..symbols import Parameter, Tensor, state
from ..types import float64
from .groups import BOOKKEEPING, NAMES, ParamGroup, number_of, without_names


class Slot(NamedTuple):
    """How a slot began: that of a parameter, or of the group with a number; `first` is a number, or None of an array."""

    of: Parameter | int
    name: str
    first: Any
    shape: tuple[int, ...]


class Optimizer:
    """The base of all optimizers; a new one states its defaults and its `update`.

    params    parameters, or dictionaries ``{"params": [...], "lr": ...}`` whose other entries override `defaults`.  With
              their names, as ``model.named_parameters()`` gives them, groups and state dicts have ``param_names``, too
    defaults  hyperparameters and their values; ``lr`` becomes a cell, the others are constants of the step.
              With ``maximize`` among them, the rule sees the negated gradient where it is true.

    Any group may also have ``clip_grad_max_norm`` and ``clip_grad_norm_type`` (2): its gradients are scaled so that
    their joint norm is at most that.

    Example (gradient descent with momentum)::

        class Momentum(optim.Optimizer):
            def __init__(self, params, lr=0.01, beta=0.9):
                super().__init__(params, dict(lr=lr, beta=beta))

            def update(self, w, g, group):
                m = self.slot(w, "m")
                new_m = group.beta * m + g
                return {w: w - group.lr * new_m, m: new_m}

    Raises GraphError for an empty list, a parameter given twice, and hyperparameters that the optimizer does not have.
    """

    def __init__(self, params: Iterable[Parameter] | Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
        self.defaults = dict(defaults)
        self._name = type(self).__name__.lower()
        self.counter = state(f"{self._name}.step", np.array(0, dtype=np.int64))  # steps done so far
        self.param_groups: list[ParamGroup] = []
        self._slots: dict[tuple[Cell, str], Parameter] = {}
        self._shared: dict[tuple[int, str], Parameter] = {}
        self.slots_begun: list[Slot] = []  # those of both kinds, in order
        self._loaded: dict[tuple[Cell, str], Any] = {}  # of a state dict, for slots that do not exist yet
        if isinstance(params, (Tensor, Mapping)):
            raise GraphError(f"{type(self).__name__} takes a list of parameters or of groups, got {params!r}"
                             f"{at(user_origin())}")
        given: list[Any] = list(params)
        if not given:
            raise GraphError(f"{type(self).__name__} got an empty parameter list{at(user_origin())}")
        if not any(isinstance(p, Mapping) for p in given):
            given = [{"params": given}]
        for group in given:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Adds a group: ``{"params": [...], ...}``, other entries override the defaults."""
        what = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise GraphError(f"{what}: a group is a dictionary with 'params', got {group!r}{at(user_origin())}")
        if any(g._built for g in self.param_groups):
            raise GraphError(f"{what}: a step with this optimizer is already built; a new group needs a new optimizer"
                             f"{at(user_origin())}")
        unknown = [k for k in group if k not in self.defaults and k not in BOOKKEEPING]
        if unknown:
            raise GraphError(f"{what} has no hyperparameter '{unknown[0]}'; it has {', '.join(self.defaults)}"
                             f"{at(user_origin())}")
        group = without_names(group, what)
        params: list[Any] = group["params"]
        if any((NAMES in g) != (NAMES in group) for g in self.param_groups):
            raise GraphError(f"{what}: either all groups come with names of their parameters, or none{at(user_origin())}")
        seen = {p.cell for g in self.param_groups for p in g.params}
        for p in params:
            if not isinstance(p, Parameter) or not p.cell.trainable:
                raise GraphError(f"{what} optimizes parameters, got {p!r}; make one with graphc.parameter"
                                 f"{at(user_origin())}")
            if not p.dtype.is_float:
                raise DTypeError(f"{what} cannot change '{p.name}': {p.type} is not floating{at(user_origin())}")
            if p.cell in seen:
                raise GraphError(f"{what}: parameter '{p.name}' appears twice{at(user_origin())}")
            seen.add(p.cell)
        options = {**self.defaults, **{k: v for k, v in group.items() if k != "params"}}
        for key in ("lr", "weight_decay"):
            if key in options and not number_of(key, options[key]) >= 0:
                raise GraphError(f"{what}: {key} must not be negative, got {options[key]!r}{at(user_origin())}")
        number = len(self.param_groups)
        self.param_groups.append(ParamGroup(params, options, f"{self._name}{number or ''}"))

    # -- for the rule ------------------------------------------------------------------------------------------

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        """The rule: new values of one parameter and of its states, as symbols.

        w      the parameter; as a symbol it is the value before the step, as every state is
        g      the gradient, of w's shape and dtype
        group  hyperparameters: ``group.lr`` computes, ``group["lr"]`` is the number
        """
        raise GraphError(f"{type(self).__name__} has no update rule: define update(self, w, g, group)")

    @property
    def step_number(self) -> Tensor:
        """The number of the step being taken, 1, 2, 3, ...: a 0-d float64 symbol."""
        return self.counter.astype(float64) + 1.0

    def slot(self, w: Parameter, name: str, init: Any = 0.0, shape: Any = None) -> Parameter:
        """A state that belongs to one parameter, of its dtype and (unless `shape` is given) its shape.

        init  a number, or an array; only its value when the slot is first asked for counts
        """
        key = (w.cell, name)
        if key not in self._slots:
            shape = w.cell.shape if shape is None else tuple(shape)
            value = np.broadcast_to(np.asarray(init, dtype=w.cell.type.dtype.numpy), shape)
            self._slots[key] = state(f"{w.cell.name}.{name}", value)
            self.slots_begun.append(Slot(w, name, None if np.ndim(init) else float(init), tuple(shape)))
            if key in self._loaded:
                self._restore(self._slots[key], self._loaded.pop(key), name)
        return self._slots[key]

    def shared_slot(self, group: ParamGroup, name: str, init: float = 0.0) -> Parameter:
        """A 0-d float64 state that belongs to a group: a running product of rates, say."""
        index = next(i for i, g in enumerate(self.param_groups) if g is group)
        key = (index, name)
        if key not in self._shared:
            label = f"{self._name}{index or ''}.{name}"
            self._shared[key] = state(label, np.array(init, dtype=np.float64))
            self.slots_begun.append(Slot(index, name, float(init), ()))
            for w in group.params:
                if (w.cell, name) in self._loaded:
                    self._restore(self._shared[key], self._loaded.pop((w.cell, name)), name)
        return self._shared[key]

    def begin_slot(self, slot: Slot) -> Parameter:
        """The slot that began so, made now where there is none."""
        if isinstance(slot.of, int):
            return self.shared_slot(self.param_groups[slot.of], slot.name, slot.first)
        return self.slot(slot.of, slot.name, slot.first, slot.shape)

    # -- for the pass that builds a step -----------------------------------------------------------------------

    def updates(self, gradients: Mapping[Parameter, Tensor]) -> dict[Parameter, Tensor]:
        """New values of every parameter that has a gradient, of the slots, and of the step counter.

        Raises ShapeError, DTypeError or GraphError where a rule returns something that does not fit.
        """
        by_cell = {p.cell: g for p, g in gradients.items()}
        result: dict[Parameter, Tensor] = {}
        with building(phase, "update"), from_one_line() if is_own(type(self).update) else nullcontext():
            for group in self.param_groups:
                group.freeze()
                for w in group.params:
                    if w.cell not in by_cell:
                        continue
                    g = by_cell[w.cell]
                    if group.get("maximize", False):
                        g = -g
                    for target, value in self.update(w, g, group).items():
                        new = self._fitting(target, value)
                        if target in result and result[target].node is not new.node:
                            raise GraphError(f"{type(self).__name__}.update gives '{target.name}' two different values")
                        result[target] = new
            result[self.counter] = self.counter + 1
        return result

    def declared(self) -> dict[str, Any]:
        """All that the updates depend on: neither what cells hold nor what is still to be loaded into them."""
        return {name: value for name, value in vars(self).items() if name not in ("defaults", "slots_begun", "_loaded")}

    def _fitting(self, target: Any, value: Any) -> Tensor:
        """The new value as the target's dtype (a 0-d float64 rate widens a 0-d parameter); the shape must be right."""
        what = f"{type(self).__name__}.update"
        if not isinstance(target, Parameter) or not isinstance(value, Tensor):
            raise GraphError(f"{what} returns {{parameter or state: symbol}}, got {target!r}: {value!r}")
        if value.shape != target.shape:
            raise ShapeError(f"{what}: '{target.name}' is {target.type}, its new value {value.type}")
        if target.dtype.is_integer and not value.dtype.is_integer:
            raise DTypeError(f"{what}: '{target.name}' is {target.type}, its new value {value.type}")
        return value.astype(target.dtype)

    # -- as in PyTorch -----------------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: gradients are symbols of the compiled step, not memory that adds up between calls."""

    def step(self, closure: Any = None) -> None:
        """Always an error that names the remedy: the update is part of a compiled step."""
        raise GraphError(f"{type(self).__name__}.step(): the update is part of the compiled step; call "
                         f"graphc.train_step(loss, optimizer), or nn.Graph.add_optimizer(optimizer){at(user_origin())}")

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {index: {"step": n, slot: array}}, "param_groups": [...]}``, PyTorch's layout in numpy arrays."""
        states: dict[int, dict[str, Any]] = {}
        groups, index = [], 0
        done = int(self.counter.item())
        for number, group in enumerate(self.param_groups):
            for w in group.params:
                entry = {name: s.numpy() for (cell, name), s in self._slots.items() if cell is w.cell}
                entry |= {name: s.numpy() for (g, name), s in self._shared.items() if g == number}
                entry |= {name: np.array(v) for (cell, name), v in self._loaded.items() if cell is w.cell}
                if entry or done:
                    states[index] = {"step": done, **entry}
                index += 1
            first = index - len(group.params)
            groups.append({**{k: group[k] for k in group if k != "params"}, "params": list(range(first, index))})
        return {"state": states, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave, or PyTorch's state dict of the same optimizer with tensors as arrays.

        Raises CheckpointError where the groups or the shapes do not match; nothing is changed then.
        """
        try:
            states, groups = state_dict["state"], list(state_dict["param_groups"])
            sizes = [len(g["params"]) for g in groups]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"not the state of an optimizer: {error!r}") from None
        own = [len(g.params) for g in self.param_groups]
        if sizes != own:
            raise CheckpointError(f"the state has groups of {sizes} parameters, this {type(self).__name__} of {own}")
        cells = [p.cell for g in self.param_groups for p in g.params]
        order = [i for g in groups for i in g["params"]]
        values: dict[tuple[Cell, str], np.ndarray] = {}
        steps = []
        for cell, index in zip(cells, order, strict=True):
            entry = states.get(index, states.get(str(index), {}))
            if entry:
                steps.append(int(np.asarray(entry["step"])) if "step" in entry else 1)
            for name, value in entry.items():
                if name != "step" and value is not None:
                    values[cell, name] = np.asarray(value)
        for (cell, name), value in values.items():
            target = self._find(cell, name)
            if target is not None and target.cell.shape != value.shape:
                raise CheckpointError(f"'{name}' of '{cell.name}': the state has {list(value.shape)}, expected "
                                      f"{list(target.cell.shape)}")
        for group, given in zip(self.param_groups, groups, strict=True):
            for key, value in given.items():
                if key != "params" and key in (*group, *BOOKKEEPING):
                    group[key] = tuple(value) if isinstance(value, list) and key != NAMES else value
        self.counter.assign(max(steps, default=0))
        self._loaded = {}
        for (cell, name), value in values.items():
            target = self._find(cell, name)
            if target is None:
                self._loaded[cell, name] = value
            else:
                self._restore(target, value, name)

    def _find(self, cell: Cell, name: str) -> Parameter | None:
        if (cell, name) in self._slots:
            return self._slots[cell, name]
        number = next(i for i, g in enumerate(self.param_groups) if any(p.cell is cell for p in g.params))
        return self._shared.get((number, name))

    def _restore(self, target: Parameter, value: Any, name: str) -> None:
        array = np.asarray(value)
        if array.shape != target.cell.shape:
            raise CheckpointError(f"the loaded '{name}' is {list(array.shape)}, expected "
                                  f"{list(target.cell.shape)}")
        target.assign(array)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.param_groups}>"


def with_decay(w: Tensor, g: Tensor, weight_decay: Any) -> Tensor:
    """The gradient of loss + weight_decay / 2 * |w|^2; `g` itself where that is zero."""
    return g if _is_zero(weight_decay) else g + weight_decay * w


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0
