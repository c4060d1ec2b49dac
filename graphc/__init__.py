"""graphc: a symbolic graph compiler with static execution.

Build a graph of symbols, derive gradients symbolically, and run whole training steps as one native function.
"""

from __future__ import annotations

from pathlib import Path as _Path
from typing import Any as _Any

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").exists() and (_root / "passes").is_dir() and str(_root) not in __path__:
    __path__.append(str(_root))  # a checkout: graphc.passes and graphc.runtime are the folders beside this one

from . import ops as _ops  # noqa: E402
from .driver import Program, function, train_step  # noqa: E402
from .errors import (  # noqa: E402
    CheckpointError,
    DTypeError,
    FeedError,
    GraphError,
    NumericsError,
    ShapeError,
)
from .passes.autodiff import grad, hessian, hvp, jacobian, jvp, vjp  # noqa: E402
from .tensor import FUNCTIONS as _FUNCTIONS  # noqa: E402
from .tensor import Parameter, Tensor, constant, parameter, placeholder, state  # noqa: E402
from .types import DType, Dim, bool_, float32, float64, int32, int64  # noqa: E402

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    """Every public function of `ops` is an attribute of graphc."""
    try:
        return _FUNCTIONS[name]
    except KeyError:
        raise AttributeError(f"module 'graphc' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS})
