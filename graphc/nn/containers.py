"""Modules that hold modules or parameters: in a chain, a list or a dictionary.

Knows only the order and the names of what it holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, Union, overload

from ..errors import GraphError
from ..origins import at, user_origin
from ..symbols import Parameter as Cellular
from .module import Module
from .parameter import Parameter

S = TypeVar("S", bound="_Listed")


def _position(index: int, length: int, what: str) -> int:
    place = index.__index__()
    if not -length <= place < length:
        raise IndexError(f"{what} of length {length} has no position {index}")
    return place % length


class _Listed(Module):
    """Modules under the names "0", "1", ..."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return (m for m in self._modules.values() if m is not None)

    def __contains__(self, module: object) -> bool:
        return any(m is module for m in self)

    def _renumbered(self, modules: Iterable[Module]) -> None:
        held = list(modules)
        self._modules.clear()
        self.__dict__["_edits"] += 1
        for i, module in enumerate(held):
            self.add_module(str(i), module)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self: S, index: slice) -> S: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(*self._of(dict(list(self._modules.items())[index])))
        return list(self)[_position(index, len(self), type(self).__name__)]

    def _of(self, modules: dict[str, Module | None]) -> tuple[Any, ...]:
        """Constructor arguments that give the same kind of container over these modules."""
        return (list(modules.values()),)

    def __setitem__(self, index: int, module: Module) -> None:
        name = list(self._modules)[_position(index, len(self), type(self).__name__)]
        self.add_module(name, module)

    def __delitem__(self, index: int | slice) -> None:
        held = list(self)
        del held[index]
        self._renumbered(held)

    def append(self: S, module: Module) -> S:
        """Adds a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def insert(self: S, index: int, module: Module) -> S:
        """Puts a module before a position."""
        held = list(self)
        held.insert(index, module)
        self._renumbered(held)
        return self

    def extend(self: S, modules: Iterable[Module]) -> S:
        """Adds modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def pop(self, index: int) -> Module:
        """Takes a module out."""
        module: Module = self[index]
        del self[index]
        return module


class Sequential(_Listed):
    """Modules applied one after another: ``Sequential(a, b, c)`` or ``Sequential({"name": module, ...})``."""

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(modules):
                self.add_module(str(i), module)

    def _of(self, modules: dict[str, Module | None]) -> tuple[Any, ...]:
        return (OrderedDict(modules),)

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


class ModuleList(_Listed):
    """A list of modules; it has no forward of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)


class ModuleDict(Module):
    """A dictionary of modules; it has no forward of its own."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self.update(modules)

    def __getitem__(self, name: str) -> Module:
        module = self._modules[name]
        assert module is not None
        return module

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> Iterable[str]:
        """The names, in order."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """The modules, in order."""
        return [m for m in self._modules.values() if m is not None]

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules, in order."""
        return [(n, m) for n, m in self._modules.items() if m is not None]

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds modules, replacing those of equal names."""
        for name, module in dict(modules).items():
            self.add_module(name, module)

    def pop(self, name: str) -> Module:
        """Takes a module out."""
        module = self[name]
        del self._modules[name]
        self.__dict__["_edits"] += 1
        return module

    def clear(self) -> None:
        """Takes all modules out."""
        self._modules.clear()
        self.__dict__["_edits"] += 1


ParameterLike = Union[Cellular, Any]


def _as_parameter(value: ParameterLike) -> Cellular:
    return value if isinstance(value, Cellular) else Parameter(value)


class ParameterList(Module):
    """A list of parameters under the names "0", "1", ...; arrays become parameters."""

    def __init__(self, values: Iterable[ParameterLike] = ()) -> None:
        super().__init__()
        self.extend(values)

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Cellular]:
        return (p for p in self._parameters.values() if p is not None)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return list(self)[_position(index, len(self), "ParameterList")]

    def __setitem__(self, index: int, value: ParameterLike) -> None:
        self.register_parameter(str(_position(index, len(self), "ParameterList")), _as_parameter(value))

    def append(self, value: ParameterLike) -> ParameterList:
        """Adds a parameter at the end."""
        self.register_parameter(str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[ParameterLike]) -> ParameterList:
        """Adds parameters at the end."""
        if isinstance(values, Cellular):
            raise GraphError(f"ParameterList takes a list of parameters, not one parameter{at(user_origin())}")
        for value in values:
            self.append(value)
        return self

    def __repr__(self) -> str:
        return _listing("ParameterList", self._parameters)


class ParameterDict(Module):
    """A dictionary of parameters; arrays become parameters."""

    def __init__(self, values: Mapping[str, ParameterLike] | Iterable[tuple[str, ParameterLike]] = ()) -> None:
        super().__init__()
        for name, value in dict(values).items():
            self[name] = value

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __getitem__(self, name: str) -> Cellular:
        parameter = self._parameters[name]
        assert parameter is not None
        return parameter

    def __setitem__(self, name: str, value: ParameterLike) -> None:
        self.register_parameter(name, _as_parameter(value))

    def __delitem__(self, name: str) -> None:
        del self._parameters[name]
        self.__dict__["_edits"] += 1

    def keys(self) -> Iterable[str]:
        """The names, in order."""
        return self._parameters.keys()

    def values(self) -> Iterable[Cellular]:
        """The parameters, in order."""
        return [p for p in self._parameters.values() if p is not None]

    def items(self) -> Iterable[tuple[str, Cellular]]:
        """Names and parameters, in order."""
        return [(n, p) for n, p in self._parameters.items() if p is not None]

    def __repr__(self) -> str:
        return _listing("ParameterDict", self._parameters)


def _listing(kind: str, parameters: Mapping[str, Cellular | None]) -> str:
    lines = [f"  ({name}): Parameter of {p.type}" for name, p in parameters.items() if p is not None]
    return "\n".join([f"{kind}(", *lines, ")"]) if lines else f"{kind}()"
