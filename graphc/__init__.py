"""graphc: a symbolic graph compiler with static execution.

Build a graph of symbols, derive gradients symbolically, and run whole training steps as one native function.
"""

from __future__ import annotations

import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

_root = _os.path.dirname(_os.path.dirname(_os.path.realpath(__file__)))
if all(_os.path.exists(_os.path.join(_root, name)) for name in ("pyproject.toml", "passes")) and _root not in __path__:
    __path__.append(_root)  # a checkout: graphc.passes and graphc.runtime are the folders beside this one

from . import autograd, linalg, nn, ops, optim
from .driver import Program, function, train_step
from .errors import CheckpointError, DTypeError, FeedError, GraphError, NumericsError, ShapeError
from .lbfgs import LBFGS as _LBFGS
from .loops import cond, fori_loop, scan
from .methods import FUNCTIONS as _FUNCTIONS
from .passes.autodiff import grad, hessian, hvp, jacobian, jvp, vjp
from .precision import get_float32_matmul_precision, set_float32_matmul_precision
from .static_graph import Graph as _Graph
from .static_graph import mark_backward as _mark_backward
from .symbols import Parameter, Tensor, constant, parameter, placeholder, state
from .types import Dim, DType, bool_, float32, float64, int32, int64

if _TYPE_CHECKING:
    from .exporting import export
    from .text import parse

__version__ = "0.1.0"
__all__ = ["CheckpointError", "DType", "DTypeError", "Dim", "FeedError", "GraphError", "NumericsError", "Parameter",
           "Program", "ShapeError", "Tensor", "autograd", "bool_", "cond", "constant", "export", "float32", "float64",
           "fori_loop", "function", "get_float32_matmul_precision", "grad", "hessian", "hvp", "int32", "int64", "jacobian",
           "jvp", "linalg", "nn", "ops", "optim", "parameter", "parse", "placeholder", "scan", "set_float32_matmul_precision",
           "state", "train_step", "vjp"]
_FUNCTIONS["mark_backward"] = _mark_backward
vars(nn)["Graph"] = _Graph  # these two stand above the driver, which stands above the packages where users look for them
vars(optim)["LBFGS"] = _LBFGS


def __getattr__(name: str) -> _Any:
    """Every public function of `ops` is an attribute of graphc; `testing`, `utils`, `parse`, `export` load when asked for."""
    if name in ("testing", "utils"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    if name == "parse":
        from .text import parse

        return parse
    if name == "export":
        from .exporting import export

        return export
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    from .familiar import FAMILIAR

    try:
        return FAMILIAR[name]
    except KeyError:
        raise AttributeError(f"module 'graphc' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    from .familiar import FAMILIAR

    return sorted({*globals(), *_FUNCTIONS, *FAMILIAR, "export", "parse", "testing", "utils"})
