"""nn.Parameter: a trainable tensor that a module owns, and how parameters and states are copied.

Knows cells and their values.  Must not know modules, gradients or optimizers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import symbols
from ..errors import DTypeError, FeedError
from ..origins import at, user_origin
from ..symbols import Tensor
from ..types import DTypeLike, as_dtype, float32, float64


class Parameter(symbols.Parameter):
    """A trainable parameter made from a value: float32 unless `dtype` says otherwise.

    data           an array, a number or a (nested) list; a parameter's value is copied.  So is the value of a symbol that
                   depends on no placeholder, as `graphc.randn(3, 4) * 0.1`.  One zero that is broadcast to a shape costs
                   nothing: so begins what an initialiser fills
    requires_grad  False keeps it out of `Module.parameters()`' gradients: optimizers leave it alone
    dtype          float32 or float64
    name           what prints and graphs call it until a module gives it the path of the attribute
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, *, dtype: DTypeLike | None = None,
                 name: str = "parameter") -> None:
        wanted = as_dtype(dtype or float32)
        if wanted not in (float32, float64):
            raise DTypeError(f"a parameter is float32 or float64, got {wanted.name}{at(user_origin())}")
        held = symbols.parameter(name, value_of(data), wanted, trainable=True)
        super().__init__(held.node, requires_grad)

    def uniform_(self, a: float = 0.0, b: float = 1.0) -> Parameter:
        """Draws its value anew, uniformly from [a, b)."""
        from .init import uniform_

        return uniform_(self, a, b)

    def normal_(self, mean: float = 0.0, std: float = 1.0) -> Parameter:
        """Draws its value anew, normally distributed."""
        from .init import normal_

        return normal_(self, mean, std)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{self.cell.array!r}"


def value_of(value: Any) -> np.ndarray:
    """The numbers of an array, a list, a parameter, a symbol that needs no input, or a foreign tensor, as a numpy array.

    A tensor of another library that still tracks gradients is detached first: that is what its own message asks for.
    """
    if isinstance(value, symbols.Parameter):
        return value.numpy()
    if isinstance(value, Tensor):
        try:
            return value.eval()
        except FeedError as error:
            raise DTypeError(f"{value!r} has no value to copy: {error}") from None
    if hasattr(value, "detach"):
        value = value.detach()
        value = value.cpu() if hasattr(value, "cpu") else value
    return np.asarray(value)


def copy_of(parameter: symbols.Parameter, memo: dict[int, Any], dtype: DTypeLike) -> symbols.Parameter:
    """An independent parameter (or state) of the same name, value and kind, of a dtype; `memo` keeps shared ones shared."""
    if id(parameter) in memo:
        return memo[id(parameter)]
    cell = parameter.cell
    made = symbols.parameter(cell.name, cell.array, as_dtype(dtype), trainable=cell.trainable)
    memo[id(parameter)] = result = symbols.of_cell(type(parameter), made.cell, parameter.requires_grad)
    return result
