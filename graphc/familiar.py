"""Names that programs for PyTorch use and that mean little here, or something else: one device, values, checkpoints.

Knows symbols, parameters and files of arrays.  Must not know ops or programs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import CheckpointError, GraphError
from .nn.parameter import Parameter
from .origins import at, user_origin
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
        from functools import wraps

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


def on_cpu(name: Any) -> None:
    """Raises GraphError for any device but the CPU."""
    if name is not None and str(name).split(":")[0] != "cpu":
        raise GraphError(f"there is one device, the CPU, not {str(name)!r}{at(user_origin())}")


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


# -- checkpoints ---------------------------------------------------------------------------------------------------------


def save(values: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a state dictionary to a file of arrays (numpy's .npz, whatever the path ends with).

    values   {name: array or number}, such as `module.state_dict()` or `step.state_dict()`; dictionaries in it are joined to
             names with a slash
    Written beside the file first, so that a file that is there is whole.
    """
    arrays: dict[str, Any] = dict(_flat(values, ""))
    path = os.fspath(path)
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(beside, "wb") as file:
            np.savez(file, **arrays)
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, np.ndarray]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
            continue
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype.hasobject:
            raise CheckpointError(f"save: '{prefix}{name}' is no array of numbers but {type(value).__name__}"
                                  f"{at(user_origin())}")
        found.append((prefix + str(name), array))
    return found


def load(path: str | os.PathLike[str], map_location: Any = None, weights_only: bool = True) -> dict[str, np.ndarray]:
    """The arrays that `save` wrote, by name.  Nothing in a file is ever executed.

    Raises CheckpointError for anything but a whole file of arrays.
    """
    on_cpu(map_location)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if other := [name for name, value in found.items() if not isinstance(value, np.ndarray)]:
            raise ValueError(f"'{other[0]}' in it is no array")
        return found
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(f"load: {os.fspath(path)!r} is no file of arrays that graphc.save has written ({error}); one of "
                              f"PyTorch's is read with torch.load, and load_state_dict takes its tensors{at(user_origin())}"
                              ) from None


OWN = (tensor, from_numpy, is_tensor, set_grad_enabled, no_grad, enable_grad, is_grad_enabled, device, cuda, save, load)
FAMILIAR: dict[str, Any] = {"as_tensor": as_tensor, "inference_mode": inference_mode, **DTYPES, **{f.__name__: f for f in OWN}}
