"""Names that programs for PyTorch use and that mean little here, or something else: one device, values, gradients off.

Knows symbols and parameters.  Must not know ops or programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from .errors import DTypeError
from .more_methods import device, refuse_others
from .nn.parameter import Parameter
from .origins import at, user_origin
from .saving import load, save
from .symbols import Tensor, constant, detaching, of_data
from .types import DTypeLike, as_dtype, bool_, float32, float64, int32, int64

DTYPES = {"float": float32, "double": float64, "int": int32, "long": int64, "bool": bool_}  # PyTorch's short names


# -- values --------------------------------------------------------------------------------------------------------------


def tensor(data: Any, dtype: DTypeLike | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A constant from numbers, lists or arrays; with `requires_grad` a parameter, which programs may train.

    Python floats become float32, integers int64, as in PyTorch; arrays keep their type.
    """
    refuse_others(device)
    return Parameter(data, dtype=dtype, name="tensor") if requires_grad else constant(data, dtype)


def as_tensor(data: Any, dtype: DTypeLike | None = None, device: Any = None) -> Tensor:
    """A symbol itself, of another type where one is given; anything else as a constant."""
    refuse_others(device)
    return constant(data, dtype)


def typed(name: str, dtype: DTypeLike) -> Callable[..., Tensor]:
    """PyTorch's old makers of tensors of one type: FloatTensor([1, 2])."""
    def of(*data: Any) -> Tensor:
        return of_data(data, dtype)

    of.__name__, of.__doc__ = name, f"A constant of {as_dtype(dtype).name}, or zeros of these sizes."
    return of


def from_numpy(array: np.ndarray) -> Tensor:
    """A constant of an array's values as they are now."""
    return constant(np.asarray(array))


def is_tensor(value: Any) -> bool:
    """Whether a value is a symbol."""
    return isinstance(value, Tensor)


# -- numbers -------------------------------------------------------------------------------------------------------------


class finfo:
    """What a floating type holds: min, max, eps, tiny (smallest_normal), resolution, bits."""

    def __init__(self, type: DTypeLike = float32) -> None:
        kind = as_dtype(type)
        if not kind.is_float:
            raise DTypeError(f"finfo is of float32 and float64, not {kind.name}; integers have iinfo{at(user_origin())}")
        found = np.finfo(kind.numpy)
        self.dtype, self.bits, self.resolution = kind.name, int(found.bits), 10.0 ** -int(found.precision)
        self.min, self.max, self.eps = float(found.min), float(found.max), float(found.eps)
        self.tiny = self.smallest_normal = float(found.tiny)

    def __repr__(self) -> str:
        return f"finfo({', '.join(f'{n}={v}' for n, v in vars(self).items())})"


class iinfo:
    """What an integer type holds: min, max, bits."""

    def __init__(self, type: DTypeLike) -> None:
        kind = as_dtype(type)
        if not kind.is_integer:
            raise DTypeError(f"iinfo is of int32 and int64, not {kind.name}{at(user_origin())}")
        found = np.iinfo(kind.numpy)
        self.dtype, self.bits, self.min, self.max = kind.name, int(found.bits), int(found.min), int(found.max)

    def __repr__(self) -> str:
        return f"iinfo({', '.join(f'{n}={v}' for n, v in vars(self).items())})"


NUMBERS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}


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


TYPED = {name: typed(name, dtype) for name, dtype in (
    ("FloatTensor", float32), ("DoubleTensor", float64), ("IntTensor", int32), ("LongTensor", int64), ("BoolTensor", bool_))}
OWN = (tensor, as_tensor, finfo, iinfo, from_numpy, is_tensor, set_grad_enabled, no_grad, enable_grad, is_grad_enabled, device,
       cuda, save, load)
FAMILIAR: dict[str, Any] = {"inference_mode": inference_mode, "Size": tuple, **NUMBERS, **TYPED, **DTYPES,
                            **{f.__name__: f for f in OWN}}
