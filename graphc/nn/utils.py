"""Helpers over parameters and gradients: `nn.utils`.

Gradients are symbols here, so clipping takes them and gives clipped ones; nothing is changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops import elementwise as e
from ..ops.reductions import norm
from ..ops.shaping import concat, stack
from ..ops.views import reshape
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor

if TYPE_CHECKING:
    from .parametrize import parametrizations as parametrizations
    from .parametrize import parametrize as parametrize
    from .parametrize import remove_spectral_norm as remove_spectral_norm
    from .parametrize import remove_weight_norm as remove_weight_norm
    from .parametrize import spectral_norm as spectral_norm
    from .parametrize import weight_norm as weight_norm


def total_norm(gradients: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all gradients taken as one vector."""
    each = [norm(g, norm_type) for g in gradients]
    if not each:
        raise GraphError(f"total_norm needs at least one gradient{at(user_origin())}")
    return norm(stack(each), norm_type)


def clip_grad_norm(gradients: Sequence[Tensor], max_norm: float, norm_type: float = 2.0) -> tuple[list[Tensor], Tensor]:
    """(gradients scaled so that their common norm is at most max_norm, the norm before), as PyTorch scales them."""
    whole = total_norm(gradients, norm_type)
    scale = e.clip(max_norm / (whole + 1e-6), max=1.0)
    return [g * scale.astype(g.dtype) for g in gradients], whole


def clip_grad_value(gradients: Sequence[Tensor], clip_value: float) -> list[Tensor]:
    """The gradients with every element limited to [-clip_value, clip_value]."""
    return [e.clip(g, -clip_value, clip_value) for g in gradients]


def clip_grad_norm_(parameters: Any, max_norm: float, *_: Any, **__: Any) -> NoReturn:
    """Raises GraphError: parameters hold no gradients here; a step clips them."""
    raise GraphError(f"parameters hold no gradients to clip: give the step the limit, train_step(..., grad_clip_norm="
                     f"{max_norm!r}), or clip symbols with nn.utils.clip_grad_norm{at(user_origin())}")


def clip_grad_value_(parameters: Any, clip_value: float, *_: Any, **__: Any) -> NoReturn:
    """Raises GraphError: parameters hold no gradients here; a step clips them."""
    raise GraphError(f"parameters hold no gradients to clip: give the step the limit, train_step(..., grad_clip_value="
                     f"{clip_value!r}), or clip symbols with nn.utils.clip_grad_value{at(user_origin())}")


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters as one flat symbol, in order."""
    return concat([reshape(p, -1) for p in parameters])


def vector_to_parameters(vector: np.ndarray, parameters: Iterable[Parameter]) -> None:
    """Assigns consecutive parts of a flat array to the parameters, in order."""
    given, held = np.asarray(vector), list(parameters)
    wanted = sum(math.prod(p.cell.shape) for p in held)
    if given.shape != (wanted,):
        raise ShapeError(f"vector_to_parameters: {wanted} elements are needed, got shape {list(given.shape)}"
                         f"{at(user_origin())}")
    start = 0
    for parameter in held:
        size = parameter.cell.size
        parameter.assign(given[start:start + size].reshape(parameter.cell.shape))
        start += size


PARAMETRIZE = ("parametrizations", "parametrize", "remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm")


def __getattr__(name: str) -> Any:
    """What few programs need loads when it is asked for."""
    if name in PARAMETRIZE:
        from . import parametrize

        return getattr(parametrize, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
