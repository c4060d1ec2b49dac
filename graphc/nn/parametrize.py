"""Weights that are computed from other parameters in each call: weight normalisation and spectral normalisation.

A module keeps its class's name and its forward; under the weight's name one reads a symbol.  Knows modules and how a weight is
computed.  Must not know layers.
Sources: Salimans & Kingma 2016; Miyato et al. 2018.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from ..draws import generator
from ..errors import GraphError
from ..ops import elementwise as e
from ..ops.axes import normal_axis
from ..ops.contractions import matmul
from ..ops.control import Turn, stop_gradient
from ..ops.reductions import norm, sum_
from ..ops.views import permute, reshape
from ..origins import at, user_origin
from ..symbols import Tensor
from .containers import ModuleDict
from .module import Module
from .normalization import normalize
from .parameter import Parameter

M = TypeVar("M", bound=Module)


class Rule(ABC):
    """How one weight is computed, and where the parameters are that it is computed from."""

    def __init__(self, name: str, modern: bool) -> None:
        self.name, self.modern = name, modern

    def holder(self, module: Module) -> Module:
        """The module with the parameters: as in torch's `parametrizations`, or the module itself."""
        return module.parametrizations[self.name] if self.modern else module

    def parameter(self, module: Module, modern: str, plain: str) -> Any:
        return getattr(self.holder(module), modern if self.modern else f"{self.name}_{plain}")

    @abstractmethod
    def value(self, module: Module, moving: bool) -> Tensor:
        """The weight as a symbol; where `moving`, states that it depends on advance."""

    @abstractmethod
    def register(self, module: Module, weight: np.ndarray, kind: Any) -> None:
        """Parameters and states that give this weight."""

    def keep(self, module: Module, modern: str, plain: str, value: np.ndarray, kind: Any) -> None:
        self.holder(module).register_parameter(modern if self.modern else f"{self.name}_{plain}", Parameter(value, dtype=kind))


class WeightNorm(Rule):
    """weight = g * v / |v|, the norm taken over all axes but one (or over all)."""

    def __init__(self, name: str, modern: bool, dim: int | None) -> None:
        super().__init__(name, modern)
        self.dim = dim

    def _norm(self, v: Any) -> Tensor:
        if self.dim is None:
            return norm(v)
        kept = normal_axis(self.dim, v.ndim)
        return norm(v, 2, [a for a in range(v.ndim) if a != kept], True) if v.ndim > 1 else e.abs_(v)

    def value(self, module: Module, moving: bool) -> Tensor:
        v = self.parameter(module, "original1", "v")
        return v * (self.parameter(module, "original0", "g") / self._norm(v))

    def register(self, module: Module, weight: np.ndarray, kind: Any) -> None:
        self.keep(module, "original0", "g", self._norm(weight).eval(), kind)
        self.keep(module, "original1", "v", weight, kind)
        if self.modern:
            self.holder(module).add_module("0", Module())


class SpectralNorm(Rule):
    """weight / sigma, its greatest singular value as u^T W v says it, which power iterations of each step bring closer."""

    def __init__(self, name: str, modern: bool, dim: int, iterations: int, eps: float) -> None:
        super().__init__(name, modern)
        self.dim, self.iterations, self.eps = dim, iterations, eps

    def _matrix(self, weight: Any) -> Any:
        order = (self.dim, *(a for a in range(weight.ndim) if a != self.dim))
        return reshape(permute(weight, order), (weight.shape[self.dim], -1))

    def _vectors(self, module: Module) -> tuple[Any, Any]:
        holder: Any = getattr(self.holder(module), "0") if self.modern else module
        return (holder._u, holder._v) if self.modern else (getattr(holder, f"{self.name}_u"), getattr(holder, f"{self.name}_v"))

    def value(self, module: Module, moving: bool) -> Tensor:
        weight = self.parameter(module, "original", "orig")
        if weight.ndim == 1 and self.modern:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        kept_u, kept_v = self._vectors(module)
        if not moving:
            return weight / sum_(kept_u * matmul(matrix, kept_v))
        turn = Turn()
        u, v, fixed = turn.read(kept_u, kept_u.cell), turn.read(kept_v, kept_v.cell), stop_gradient(matrix)
        for _ in range(self.iterations):
            if self.modern:
                u = normalize(matmul(fixed, v), dim=0, eps=self.eps)
            v = normalize(matmul(permute(fixed, (1, 0)), u), dim=0, eps=self.eps)
            if not self.modern:
                u = normalize(matmul(fixed, v), dim=0, eps=self.eps)
        u, v = stop_gradient(u), stop_gradient(v)
        return turn.updating([weight / sum_(u * matmul(matrix, v))], [kept_u.cell, kept_v.cell], [u, v])[0]

    def _unit(self, vector: np.ndarray) -> np.ndarray:
        return vector / max(float(np.linalg.norm(vector)), self.eps)

    def register(self, module: Module, weight: np.ndarray, kind: Any) -> None:
        self.keep(module, "original", "orig", weight, kind)
        inner = Module()
        if self.modern:
            self.holder(module).add_module("0", inner)
        if weight.ndim == 1 and self.modern:
            return
        matrix = np.moveaxis(weight, self.dim, 0).reshape(weight.shape[self.dim], -1).astype(np.float64)
        u, v = (self._unit(generator().normal(size=n)) for n in matrix.shape)
        for _ in range(15 if self.modern else 0):
            u = self._unit(matrix @ v)
            v = self._unit(matrix.T @ u)
        for name, vector in (("u", u), ("v", v)):
            (inner if self.modern else module).register_buffer(f"_{name}" if self.modern else f"{self.name}_{name}",
                                                               vector.astype(weight.dtype))


# -- modules with such weights -------------------------------------------------------------------------------------------


class Parametrized(Module):
    """A module some of whose weights are computed; its class has the name of the one that it had."""

    _rules: dict[str, Rule]
    _computed: dict[str, Tensor]  # inside of forward

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_rules", ()):
            found = self.__dict__["_computed"].get(name)
            return self._rules[name].value(self, False) if found is None else found
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_rules", ()):
            raise GraphError(f"'{name}' of {type(self).__name__} is computed from {_sources(self, name)}: assign to these, or "
                             f"remove the parametrization first{at(user_origin())}")
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _begun, (type(self).__mro__[2],), self.__getstate__()


def _sources(module: Module, name: str) -> str:
    rule = module.__dict__["_rules"][name]
    holder = rule.holder(module)
    before = f"parametrizations.{name}." if rule.modern else ""
    return ", ".join(before + n for n in holder._parameters if rule.modern or n.startswith(f"{name}_"))


_kinds: dict[type, type] = {}


def _kind_of(base: type) -> type:
    if base not in _kinds:
        plain: Any = base

        @wraps(plain.forward)
        def forward(self: Any, *inputs: Any, **keywords: Any) -> Any:
            tables = self.__dict__
            tables["_computed"] = {name: rule.value(self, self.training) for name, rule in self._rules.items()}
            try:
                return plain.forward(self, *inputs, **keywords)
            finally:
                tables["_computed"] = {}

        _kinds[base] = type(base.__name__, (Parametrized, base), {"forward": forward, "__module__": base.__module__,
                                                                  "__doc__": base.__doc__})
    return _kinds[base]


def _begun(base: type) -> Any:
    kind: Any = _kind_of(base)
    return kind.__new__(kind)


def _register(module: M, rule: Rule) -> M:
    name = rule.name
    weight = module._parameters.get(name)
    if weight is None:
        said = "is computed already" if name in module.__dict__.get("_rules", ()) else "is no parameter"
        raise GraphError(f"'{name}' of {type(module).__name__} {said}{at(user_origin())}")
    value = weight.numpy()
    if not isinstance(module, Parametrized):
        module.__dict__.update(_rules={}, _computed={})
        object.__setattr__(module, "__class__", _kind_of(type(module)))
    delattr(module, name)
    if rule.modern:
        if "parametrizations" not in module._modules:
            module.add_module("parametrizations", ModuleDict())
        module.parametrizations[name] = Module()
    rule.register(module, value, weight.dtype)
    rules: Any = module.__dict__["_rules"]
    rules[name] = rule
    for p in rule.holder(module)._parameters.values():
        if p is not None and (rule.modern or p.cell.name.startswith(f"{name}_")):
            p.requires_grad = weight.requires_grad
    return module


def _remove(module: M, name: str, kinds: Sequence[type[Rule]], modern: bool) -> M:
    rule: Any = module.__dict__.get("_rules", {}).get(name)
    if rule is None or type(rule) not in kinds or rule.modern is not modern:
        raise GraphError(f"'{name}' of {type(module).__name__} is not computed so{at(user_origin())}")
    value = rule.value(module, False)
    array = value.eval()
    del module.__dict__["_rules"][name]
    if modern:
        del module.parametrizations[name]
        if not len(module.parametrizations):
            delattr(module, "parametrizations")
    else:
        for ending in ("g", "v", "orig", "u"):
            if any(f"{name}_{ending}" in table for table in (module._parameters, module._buffers)):
                delattr(module, f"{name}_{ending}")
    if not module.__dict__["_rules"]:
        object.__setattr__(module, "__class__", type(module).__mro__[2])
    module.register_parameter(name, Parameter(array, dtype=value.dtype))
    return module


def _spectral(module: M, name: str, n_power_iterations: int, eps: float, dim: int | None, modern: bool) -> M:
    if n_power_iterations < 1:
        raise GraphError(f"spectral_norm: n_power_iterations must be positive, got {n_power_iterations}{at(user_origin())}")
    weight = module._parameters.get(name)
    turned = any(kind.__name__.startswith("ConvTranspose") for kind in type(module).__mro__)
    axis = (1 if turned else 0) if dim is None else dim
    return _register(module, SpectralNorm(name, modern, normal_axis(axis, weight.ndim) if weight is not None else 0,
                                          int(n_power_iterations), float(eps)))


# -- PyTorch's names ---------------------------------------------------------------------------------------------------


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """weight = g * v / |v|: torch.nn.utils.weight_norm.  The module gets `<name>_g` and `<name>_v` in place of the weight.

    dim   the axis along which each entry has a norm of its own; None for one norm of all.  The module itself is returned
    """
    return _register(module, WeightNorm(name, False, None if dim == -1 else dim))


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """The weight is a parameter again, with the value that it has."""
    return _remove(module, name, [WeightNorm], False)


def spectral_norm(module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
                  ) -> M:
    """weight / sigma, its greatest singular value: torch.nn.utils.spectral_norm.

    The module gets the parameter `<name>_orig` and the states `<name>_u` and `<name>_v`.  In training each call takes
    `n_power_iterations` from where earlier calls, in this step or before, left them.  dim: the axis whose entries are rows;
    by default 0, and 1 of transposed convolutions.
    """
    return _spectral(module, name, n_power_iterations, eps, dim, False)


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """The weight is a parameter again, with the value that it has."""
    return _remove(module, name, [SpectralNorm], False)


class parametrizations:
    """PyTorch's newer names: `nn.utils.parametrizations.weight_norm(module)`, with parameters in `module.parametrizations`."""

    @staticmethod
    def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
        """As `nn.utils.weight_norm`, with `parametrizations.<name>.original0` (g) and `original1` (v)."""
        return _register(module, WeightNorm(name, True, None if dim == -1 else dim))

    @staticmethod
    def spectral_norm(module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
                      dim: int | None = None) -> M:
        """As `nn.utils.spectral_norm`, with `parametrizations.<name>.original`; u and v begin after 15 iterations.

        Each call iterates once more in training; reading the weight outside of one does not.
        """
        return _spectral(module, name, n_power_iterations, eps, dim, True)


class parametrize:
    """PyTorch's `nn.utils.parametrize`, of what `parametrizations` has."""

    @staticmethod
    def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
        """The weight is a parameter again, with the value that it has."""
        if not leave_parametrized:
            raise GraphError(f"remove_parametrizations leaves the weight as it is computed now; assign another value afterwards"
                             f"{at(user_origin())}")
        return _remove(module, tensor_name, [WeightNorm, SpectralNorm], True)

    @staticmethod
    def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
        """Whether a weight, or any, is computed."""
        rules = module.__dict__.get("_rules", {})
        return bool(rules) if tensor_name is None else tensor_name in rules
