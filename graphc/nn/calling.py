"""Calling a module on numpy arrays: trace it once per kind of call, compile, run.

Knows how to take arguments and results apart and what makes a compiled call stale.  Must not know layers or backends:
the compiler is the public function named "function".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeedError
from ..methods import FUNCTIONS
from ..origins import at, user_origin
from ..symbols import Tensor, placeholder
from ..types import DType, as_dtype

if TYPE_CHECKING:
    from .module import Module

KEPT = 16  # compiled calls a module remembers; the oldest goes first

# While a module is being traced: the path of every module below the outermost one, by id.
inside: ContextVar[dict[int, str] | None] = ContextVar("inside", default=None)


class Computed:
    """A compiled call: the program, and how its results are put together again."""

    def __init__(self, program: Callable[..., Any], assemble: Callable[[list[Any]], Any]) -> None:
        self.program, self.assemble = program, assemble


def leaves(value: Any) -> Iterator[Any]:
    """The values inside nested tuples, lists and dicts."""
    if isinstance(value, Mapping):
        for held in value.values():
            yield from leaves(held)
    elif isinstance(value, (tuple, list)):
        for held in value:
            yield from leaves(held)
    else:
        yield value


def holds_arrays(value: Any) -> bool:
    return any(isinstance(leaf, np.ndarray) for leaf in leaves(value))


def replace(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same nesting with `function` applied to every leaf."""
    if isinstance(value, Mapping):
        return {key: replace(held, function) for key, held in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replace(held, function) for held in value))
    if isinstance(value, (tuple, list)):
        return type(value)(replace(held, function) for held in value)
    return function(value)


def compute(module: Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The module's result on arrays, with the current weights.

    Sizes are fixed in the trace: a layer may need them, and programs are kept per size anyway.
    """
    arrays = [leaf for leaf in leaves((inputs, keywords)) if isinstance(leaf, np.ndarray)]
    settings = tuple(repr(leaf) for leaf in leaves((inputs, keywords)) if not isinstance(leaf, np.ndarray))
    call = (tuple((a.shape, a.dtype.str) for a in arrays), settings, len(inputs), tuple(keywords))
    held = module._programs.get((call, _condition(module)))
    if held is None:
        held = _compile(module, inputs, keywords)
        while len(module._programs) >= KEPT:
            module._programs.pop(next(iter(module._programs)))
        # forward itself may have set attributes: the condition is taken after it ran
        module._programs[call, _condition(module)] = held
    return held.assemble(list(held.program(*arrays)))


def _condition(module: Module) -> tuple[Any, ...]:
    """What a compiled call depends on besides its arguments: which modules there are, how often edited, their modes."""
    return tuple((id(m), m._edits, m.training) for m in module.modules())


def _compile(module: Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Computed:
    names = _argument_names(module, inputs, keywords)
    fed: list[Tensor] = []

    def stand_in(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        fed.append(placeholder(next(names), leaf.shape, _fed_dtype(module, leaf)))
        return fed[-1]

    symbolic_inputs, symbolic_keywords = replace(inputs, stand_in), replace(keywords, stand_in)
    result = module.trace(*symbolic_inputs, **symbolic_keywords)
    outputs = [leaf for leaf in leaves(result) if isinstance(leaf, Tensor)]
    if not outputs:
        raise FeedError(f"{type(module).__name__} returned no symbol on arrays{at(user_origin())}")
    program = FUNCTIONS["function"](fed, outputs)

    def assemble(values: list[Any]) -> Any:
        rest = iter(values)
        return replace(result, lambda leaf: next(rest) if isinstance(leaf, Tensor) else leaf)

    return Computed(program, assemble)


def _fed_dtype(module: Module, array: np.ndarray) -> DType:
    """Floats become the module's own kind of float, as feeds of a program do; integers stay integers."""
    if array.dtype.kind == "f":
        own = next((p.dtype for p in module.parameters() if p.dtype.is_float), None)
        return own or as_dtype("float64" if array.dtype == np.float64 else "float32")
    if array.dtype.kind in "iu":
        return as_dtype("int32" if array.dtype == np.int32 else "int64")
    return as_dtype(array.dtype)


def _argument_names(module: Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[str]:
    """A distinct name for every array, after forward's own arguments."""
    known = list(inspect.signature(module.forward).parameters)
    counts: dict[str, int] = {}
    pairs = [(known[i] if i < len(known) else f"input{i}", value) for i, value in enumerate(inputs)]
    for name, value in [*pairs, *keywords.items()]:
        for leaf in leaves(value):
            if isinstance(leaf, np.ndarray):
                counts[name] = counts.get(name, 0) + 1
                yield name if counts[name] == 1 else f"{name}_{counts[name]}"
