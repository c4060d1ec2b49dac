"""`utils.checkpoint` in PyTorch's words: memory for time, by `graphc.checkpoint`.

Knows PyTorch's arguments.  Must not know what is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from ..errors import GraphError
from ..ops import recompute
from ..origins import at, user_origin

IGNORED = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn", "early_stop")


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), whose intermediate values are computed again for the gradient: torch.utils.checkpoint.

    All is as in `graphc.checkpoint`: values and gradients are those of a plain call, random numbers are the same in the second
    computation, and states are updated once.  What PyTorch wants to know about how to do it (use_reentrant,
    preserve_rng_state, determinism_check, debug, context_fn, early_stop) is taken and has no meaning here.  A program that is
    given a `memory_budget` chooses by itself what to compute again, without any checkpoint.

    Raises GraphError where the function returns something that is no tensor.
    """
    return recompute.checkpoint(function, *args, **{k: v for k, v in kwargs.items() if k not in IGNORED})


def checkpoint_sequential(functions: Any, segments: int, input: Any, **kwargs: Any) -> Any:
    """The functions one after the other, in so many segments, each but the last a checkpoint.

    functions  a Sequential, or a list of functions or modules
    """
    steps: Sequence[Callable[[Any], Any]] = list(functions)
    if not 1 <= segments <= len(steps):
        raise GraphError(f"checkpoint_sequential: {segments} segments of {len(steps)} functions{at(user_origin())}")
    each, rest = len(steps) // segments, iter(steps)
    for _ in range(segments - 1):
        input = checkpoint(_chain(list(islice(rest, each))), input, **kwargs)
    return _chain(list(rest))(input)


def _chain(steps: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def run(value: Any) -> Any:
        for step in steps:
            value = step(value)
        return value

    return run
