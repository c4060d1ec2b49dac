"""Names that programs for PyTorch use and that mean little here, or something else: one device, values, gradients off.

Knows symbols and parameters.  Must not know ops or programs.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np

from .more_methods import on_cpu
from .nn.parameter import Parameter
from .saving import load, save
from .symbols import Tensor, as_tensor, constant, detaching
from .types import DTypeLike, bool_, float32, float64, int32, int64

DTYPES = {"float": float32, "double": float64, "int": int32, "long": int64, "bool": bool_}  # PyTorch's short names


# -- values --------------------------------------------------------------------------------------------------------------


def tensor(data: Any, dtype: DTypeLike | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A constant from numbers, lists or arrays; with `requires_grad` a parameter, which programs may train.

    Python floats become float32, integers int64, as in PyTorch; arrays keep their type.
    """
    on_cpu(device)
    return Parameter(data, dtype=dtype, name="tensor") if requires_grad else constant(data, dtype)


def from_numpy(array: np.ndarray) -> Tensor:
    """A constant of an array's values as they are now."""
    return constant(np.asarray(array))


def is_tensor(value: Any) -> bool:
    """Whether a value is a symbol."""
    return isinstance(value, Tensor)


# -- what is not differentiated ------------------------------------------------------------------------------------------


class set_grad_enabled:
    """`with set_grad_enabled(False):` what is computed inside is a constant for every gradient, as if detached.

    Also a decorator.  In an inner block `True` lets gradients pass again.
    """

    def __init__(self, mode: bool) -> None:
        self.mode = bool(mode)
        self.tokens: list[Any] = []

    def __enter__(self) -> None:
        self.tokens.append(detaching.set(not self.mode))

    def __exit__(self, *_: Any) -> None:
        detaching.reset(self.tokens.pop())

    def __call__(self, function: Any) -> Any:
        @wraps(function)
        def inside(*args: Any, **kw: Any) -> Any:
            with set_grad_enabled(self.mode):
                return function(*args, **kw)

        return inside


class no_grad(set_grad_enabled):
    """`with no_grad():` what is computed inside is a constant for every gradient, as if detached.  Also a decorator."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """`with enable_grad():` gradients pass again inside of `no_grad`.  Also a decorator."""

    def __init__(self) -> None:
        super().__init__(True)


inference_mode = no_grad


def is_grad_enabled() -> bool:
    """Whether gradients pass through what is computed now."""
    return not detaching.get()


# -- the one device ------------------------------------------------------------------------------------------------------


class device(str):
    """The CPU: the only device."""

    def __new__(cls, name: Any = "cpu", index: int | None = None) -> device:
        on_cpu(name)
        return super().__new__(cls, "cpu")

    @property
    def type(self) -> str:
        return "cpu"


class cuda:
    """What asks for a GPU is told that there is none."""

    @staticmethod
    def is_available() -> bool:
        return False

    @staticmethod
    def device_count() -> int:
        return 0

    @staticmethod
    def manual_seed(seed: int) -> None:
        """Nothing to do: `graphc.manual_seed` sets the seed."""

    manual_seed_all = manual_seed


OWN = (tensor, from_numpy, is_tensor, set_grad_enabled, no_grad, enable_grad, is_grad_enabled, device, cuda, save, load)
FAMILIAR: dict[str, Any] = {"as_tensor": as_tensor, "inference_mode": inference_mode, **DTYPES, **{f.__name__: f for f in OWN}}
