"""nn.Module: parameters, states and submodules found by attribute, as in PyTorch.

Knows registration, naming, training mode, values in and out (`state_dict`), copying, and that a call on symbols builds
inside a scope while a call on arrays computes.  Must not know any layer, gradients, optimizers or backends.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import CheckpointError, DTypeError, GraphError, ShapeError
from ..more_methods import on_cpu, refuse_others
from ..ops.overwriting import lent
from ..origins import at, building, each_step, scope, user_origin
from ..symbols import Parameter as Cellular
from ..symbols import Tensor, state
from ..types import DTypeLike, as_dtype
from .assigned import carrying, give, giving, now
from .calling import Computed, compute, holds_arrays, inside, leaves
from .parameter import copy_of, value_of

M = TypeVar("M", bound="Module")


class LoadedKeys(NamedTuple):
    """What `load_state_dict(strict=False)` met besides the keys it loaded."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and models.

    Assigning a parameter, a state or a module to an attribute registers it.  A subclass calls ``super().__init__()``
    first and defines ``forward``.  Calling the module on symbols gives symbols; calling it on numpy arrays computes
    with the current weights and gives numpy arrays (in training mode its states advance, as they would in a step).
    """

    training: bool
    _parameters: dict[str, Cellular | None]
    _buffers: dict[str, Cellular | None]
    _modules: dict[str, Module | None]
    _transient: set[str]  # buffers that a state_dict leaves out
    _edits: int  # grows with every attribute change, so that cached programs of an older self are not used
    _programs: dict[Any, Computed]

    def __init__(self) -> None:
        fields = {"training": True, "_parameters": {}, "_buffers": {}, "_modules": {}, "_transient": set(), "_edits": 0,
                  "_programs": {}}
        self.__dict__.update(fields)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """What the module computes; every subclass defines it."""
        raise GraphError(f"{type(self).__name__} has no forward(); write one that returns symbols{at(user_origin())}")

    # -- attributes --------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        tables = self.__dict__
        if name == "training":
            tables[name] = bool(value)
            return
        if "_modules" not in tables:
            if isinstance(value, (Cellular, Module)):
                raise GraphError(f"{type(self).__name__}: call super().__init__() before assigning '{name}'"
                                 f"{at(user_origin())}")
            tables[name] = value
            return
        if name in tables["_buffers"] and give(tables["_buffers"][name], value):
            return
        tables["_edits"] += 1
        if isinstance(value, Cellular) and value.cell.trainable:
            self._forget(name)
            self.register_parameter(name, value)
        elif isinstance(value, Cellular):
            transient = name in self._transient
            self._forget(name)
            self.register_buffer(name, value, persistent=not transient)
        elif isinstance(value, Module):
            self._forget(name)
            self.add_module(name, value)
        elif name in self._parameters or name in self._buffers or name in self._modules:
            if value is not None:
                raise GraphError(f"'{name}' of {type(self).__name__} is registered: assign a parameter, a state, "
                                 f"a module or None, not {type(value).__name__}; to change a value now use .assign(value), "
                                 f"in each step graphc.updating(result, {{self.{name}: new value}}){at(user_origin())}")
            for table in (self._parameters, self._buffers, self._modules):
                if name in table:
                    table[name] = None
        else:
            tables[name] = value

    def __getattr__(self, name: str) -> Any:
        for table in ("_parameters", "_buffers", "_modules"):
            held = self.__dict__.get(table, {})
            if name in held:
                return now(held[name]) if table == "_buffers" else held[name]
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        if not self._forget(name):
            object.__delattr__(self, name)
        self.__dict__["_edits"] += 1

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def _forget(self, name: str) -> bool:
        self.__dict__.pop(name, None)
        self._transient.discard(name)
        return any([table.pop(name, self) is not self for table in (self._parameters, self._buffers, self._modules)])

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise GraphError(f"a registered name is a non-empty string without '.', got {name!r}{at(user_origin())}")
        if hasattr(self, name) and not any(name in t for t in (self._parameters, self._buffers, self._modules)):
            raise GraphError(f"{type(self).__name__} already has an attribute '{name}'{at(user_origin())}")

    def register_parameter(self, name: str, parameter: Cellular | None) -> None:
        """Registers a trainable parameter, or None for one that this configuration lacks."""
        self._check_name(name)
        if parameter is not None and not (isinstance(parameter, Cellular) and parameter.cell.trainable):
            raise DTypeError(f"'{name}' needs nn.Parameter or None, got {type(parameter).__name__}{at(user_origin())}")
        if parameter is not None and parameter.cell.name == "parameter":
            parameter.cell.name = name
        self._parameters[name] = parameter
        self.__dict__["_edits"] += 1

    def register_buffer(self, name: str, value: Any, persistent: bool = True) -> None:
        """Registers a state: a value that steps may update but gradients do not reach.

        value       a state, an array (its dtype is kept), or None
        persistent  False leaves it out of `state_dict`
        """
        self._check_name(name)
        if value is not None and not isinstance(value, Cellular):
            value = state(name, value_of(value))
        self._buffers[name] = value
        (self._transient.discard if persistent else self._transient.add)(name)
        self.__dict__["_edits"] += 1

    def add_module(self, name: str, module: Module | None) -> None:
        """Registers a submodule under a name."""
        self._check_name(name)
        if module is not None and not isinstance(module, Module):
            raise GraphError(f"'{name}' needs a module or None, got {type(module).__name__}{at(user_origin())}")
        self._modules[name] = module
        self.__dict__["_edits"] += 1

    register_module = add_module

    # -- walking -----------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Names and direct submodules, each module once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """Direct submodules."""
        return (module for _, module in self.named_children())

    def named_modules(self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
                      ) -> Iterator[tuple[str, Module]]:
        """This module under the path `prefix`, then all below it under dotted paths."""
        seen = set() if memo is None else memo
        if remove_duplicate and self in seen:
            return
        seen.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(seen, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named_cells(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool
                     ) -> Iterator[tuple[str, Cellular]]:
        owners = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        seen: set[int] = set()
        for path, owner in owners:
            for name, held in getattr(owner, table).items():
                if held is not None and not (remove_duplicate and id(held.cell) in seen):
                    seen.add(id(held.cell))
                    yield f"{path}.{name}" if path else name, held

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
                         ) -> Iterator[tuple[str, Cellular]]:
        """Dotted paths and trainable parameters, each parameter once."""
        return self._named_cells("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Cellular]:
        """All trainable parameters, each once: what an optimizer takes."""
        self._stamp()
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
                      ) -> Iterator[tuple[str, Cellular]]:
        """Dotted paths and states."""
        return self._named_cells("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Cellular]:
        """All states, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The submodule at a dotted path."""
        module: Module = self
        for part in target.split(".") if target else []:
            child = module._modules.get(part)
            if child is None:
                raise AttributeError(f"'{type(module).__name__}' has no submodule '{part}' (of '{target}')")
            module = child
        return module

    def get_parameter(self, target: str) -> Cellular:
        """The parameter at a dotted path."""
        path, _, name = target.rpartition(".")
        if (found := self.get_submodule(path)._parameters.get(name)) is None:
            raise AttributeError(f"'{type(self).__name__}' has no parameter '{target}'")
        return found

    def _stamp(self) -> None:
        """Gives cells the path from here as their name; the path from the outermost module, the longest, stays."""
        for table in ("_parameters", "_buffers"):
            for path, held in self._named_cells(table, "", True, True):
                if held.cell.name.count(".") <= path.count("."):
                    held.cell.name = path

    # -- modes and types ---------------------------------------------------------------------------------------

    def train(self: M, mode: bool = True) -> M:
        """Switches to training mode: dropout drops, batch normalisation uses and updates statistics."""
        if not isinstance(mode, bool):
            raise GraphError(f"train(mode) takes True or False, got {mode!r}{at(user_origin())}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """Switches to evaluation mode."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Freezes (False) or frees all parameters for optimizers."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: gradients are symbols, they do not accumulate in parameters.  Kept for PyTorch's sake."""

    def apply(self: M, function: Callable[[Module], Any]) -> M:
        """Calls `function` on every module below, then on this one."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def to(self: M, dtype: DTypeLike | None = None, *, device: Any = None, **_: Any) -> M:
        """Converts floating parameters and states to float32 or float64; the device "cpu" is where they are anyway.

        The cells are new ones: convert before making optimizers and programs.
        """
        refuse_others(device)
        if dtype is None or on_cpu(dtype):
            return self
        wanted = as_dtype(dtype)
        if not wanted.is_float:
            raise DTypeError(f"a module converts to a floating dtype, got {wanted.name}{at(user_origin())}")
        memo: dict[int, Any] = {}
        for module in self.modules():
            module.__dict__["_edits"] += 1
            for table in (module._parameters, module._buffers):
                for name, held in table.items():
                    if held is not None and held.dtype.is_float and held.dtype != wanted:
                        table[name] = copy_of(held, memo, wanted)
        return self

    astype = to

    def cpu(self: M) -> M:
        """Itself: there is one device."""
        return self

    def float(self: M) -> M:
        """Converts to float32."""
        return self.to("float32")

    def double(self: M) -> M:
        """Converts to float64."""
        return self.to("float64")

    # -- values in and out -------------------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Copies of all values under PyTorch's names: parameters, then persistent states, module by module."""
        return {prefix + path: held.numpy() for path, held in self._checkpointed()}

    def _checkpointed(self) -> Iterator[tuple[str, Cellular]]:
        for path, module in self.named_modules(remove_duplicate=False):
            dot = f"{path}." if path else ""
            for name, held in module._parameters.items():
                if held is not None:
                    yield dot + name, held
            for name, held in module._buffers.items():
                if held is not None and name not in module._transient:
                    yield dot + name, held

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadedKeys:
        """Copies values in by name; any mapping to arrays will do, tensors of other libraries among them.

        Raises CheckpointError for missing or unexpected keys (where strict) and ShapeError for shapes that differ.
        Nothing is changed where an error is raised.
        """
        if not isinstance(state_dict, Mapping):
            raise CheckpointError(f"load_state_dict takes a mapping of names to arrays, got "
                                  f"{type(state_dict).__name__}{at(user_origin())}")
        own = dict(self._checkpointed())
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
        if strict and (missing or unexpected):
            said = [f"{what} {', '.join(map(repr, keys))}" for what, keys in
                    (("missing", missing), ("unexpected", unexpected)) if keys]
            raise CheckpointError(f"state_dict does not fit {type(self).__name__}: {'; '.join(said)}"
                                  f"{at(user_origin())}")
        values = {key: value_of(state_dict[key]) for key in own if key in state_dict}
        wrong = [f"'{key}': expected {list(own[key].cell.shape)}, got {list(value.shape)}"
                 for key, value in values.items() if value.shape != own[key].cell.shape]
        if wrong:
            raise ShapeError(f"state_dict does not fit {type(self).__name__}: {'; '.join(wrong)}{at(user_origin())}")
        for key, value in values.items():
            own[key].assign(value)
        return LoadedKeys(missing, unexpected)

    def __getstate__(self) -> dict[str, Any]:  # of what is copied deeply or pickled
        return {**self.__dict__, "_programs": {}}

    def __copy__(self: M) -> M:
        new = type(self).__new__(type(self))
        tables = {k: copy.copy(v) if k in ("_parameters", "_buffers", "_modules", "_transient") else v
                  for k, v in self.__dict__.items()}
        new.__dict__.update(tables, _programs={})
        return new

    # -- calling -----------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """`forward` on symbols, inside this module's scope; on numpy arrays alone, the computed result."""
        paths = inside.get()
        if paths is not None:
            path = paths.get(id(self))
            if path is None:  # not below the outermost module: a helper that forward made or holds in a list
                return self.forward(*inputs, **keywords)
            with building(scope, path):
                return self.forward(*inputs, **keywords)
        if holds_arrays((inputs, keywords)) and not any(isinstance(v, Tensor) for v in leaves((inputs, keywords))):
            return compute(self, inputs, keywords)
        return self.trace(*inputs, **keywords)

    def trace(self, *inputs: Any, **keywords: Any) -> Any:
        """`forward` as the outermost module: names cells by their path from here, and scopes by module."""
        self._stamp()
        outer = scope.get()
        paths = {id(m): f"{outer}.{p}" if outer and p else p or outer for p, m in self.named_modules()}
        if not self._modules:
            paths[id(self)] = outer or type(self).__name__
        token = inside.set(paths)
        try:
            with building(scope, paths[id(self)]), building(each_step, "forward"), giving() as table:
                given = {name: lent(value) for name, value in keywords.items()}
                return carrying(self.forward(*map(lent, inputs), **given), table, (inputs, keywords))
        finally:
            inside.reset(token)

    # -- looks -------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What the printed form says in parentheses; subclasses override it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}({extra}", *lines]) + "\n)"
