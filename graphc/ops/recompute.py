"""Computing again instead of keeping: `after`, which tells a second computation from the first, and `checkpoint`.

Knows which nodes lie between a result and what it is computed from, and how to copy them.  Must not know how the
compiler chooses what to compute again, or memory.

Equal nodes are one node, so "the same once more" needs something that differs: the copy reads its operands through
`after(x, w)`, which is x itself, but only once w has been computed.  That names the copy and its place in time at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError
from ..ir import Node, make, make_like, next_number, substitute
from ..methods import FUNCTIONS, public
from ..op import Kind, Op, Sample, define
from ..origins import at, user_origin
from ..symbols import Tensor, apply, as_tensor, placeholder
from ..types import TensorType
from ..walk import operands_first
from .control import results_of
from .overwriting import body

_after = define(Op("after", Kind.VIEW, lambda x, *awaited: x, lambda x, *awaited: np.asarray(x),
                   (lambda g, out, x, *awaited: g,), index=lambda indices, type: (indices, []), dtypes="fib",
                   samples=(Sample(((3, 4), np.array([1, 2])), {}),),
                   doc="The first input, read only when the others have been computed."))


def after(x: Tensor, awaited: Sequence[Tensor]) -> Tensor:
    """x itself, to be read only when the awaited tensors have been computed.  What is computed from it is a computation
    of its own, even where the same was computed from x before.  Costs nothing when it runs."""
    return apply(_after, x, *awaited)


def computed_again(roots: Sequence[Node], instead: Mapping[Node, Node]) -> list[Node]:
    """Copies of the roots in which some nodes are replaced by others; nothing above those is copied.

    What layers attached to the original (`updating`) belongs to the first computation alone.
    """
    new, before = dict(instead), next_number()
    for node in operands_first(roots, lambda n: () if n in instead else reversed(n.inputs)):
        if node in new:
            continue
        if "cells" in node.attributes:
            new[node] = new[node.inputs[0]]
            continue
        inputs = [new[i] for i in node.inputs]
        made = make_like(node, inputs) if inputs != list(node.inputs) else node
        if made.number > before:
            made.phase = "gradient"
        new[node] = made
    return [new[root] for root in roots]


# -- checkpoint ------------------------------------------------------------------------------------------------------


def first_types(*types: TensorType, count: int) -> Any:
    """The types of the results of a node whose first `count` inputs are its results."""
    return types[0] if count == 1 else types[:count]


def first_values(*arrays: Any, count: int) -> Any:
    """Their values."""
    return arrays[0] if count == 1 else arrays[:count]


def _gradient(given: Any, node: Any, *inputs: Tensor, count: int, graphs: Any = ()) -> list[Tensor | None]:
    """The cotangents of what the results are computed from, through a second computation that waits for the first's."""
    cotangents = list(given) if isinstance(given, list) else [given]
    outs, leaves = inputs[:count], inputs[count:]
    awaited = [c for c in cotangents if c is not None]
    second = computed_again([o.node for o in outs], {x.node: after(x, awaited).node for x in leaves})
    known = [(Tensor(s), c) for s, c in zip(second, cotangents, strict=True) if c is not None]
    wanted = [k for k, x in enumerate(leaves) if x.dtype.is_float]
    pulled = FUNCTIONS["vjp"]([s for s, _ in known], [after(leaves[k], awaited) for k in wanted], [c for _, c in known])
    found: list[Tensor | None] = [None] * len(inputs)
    for k, cotangent in zip(wanted, pulled, strict=True):
        found[count + k] = cotangent
    return found


_checkpoint = define(Op("checkpoint", Kind.COMPOSITE, first_types, first_values, _gradient,
                        expand=lambda *inputs, count: inputs[0] if count == 1 else list(inputs[:count]),
                        passes=lambda position, *, count: position >= count, dtypes="fib",
                        doc="The first `count` inputs; what lies between them and the other inputs, from which they are "
                            "computed, is computed again for the gradient instead of kept."))


@public
def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), whose intermediate values are computed again for the gradient instead of kept.

    function  takes and returns tensors, or lists, tuples and dicts of them; a module will do
    args      given to it as they are; what it reads besides (parameters, tensors from outside) is kept as well

    The meaning of torch.utils.checkpoint and jax.checkpoint: memory for time, the same values, gradients of any order.
    Random numbers inside are the same bits in the second computation, and states that layers inside update are updated
    once.  The second computation starts when the gradient arrives at the results.

    Raises GraphError where the function returns something that is no tensor.
    """
    given: list[Tensor] = []
    place = flatten((args, kwargs), given)
    formal = [placeholder(f"argument{k}", t.shape, t.dtype) for k, t in enumerate(given)]
    mark = next_number()
    own_args, own_kwargs = place(iter(formal))
    outs: list[Tensor] = []
    with body():
        rebuild = flatten(function(*own_args, **own_kwargs), outs, f"checkpoint: {name_of(function)} returns")
    leaves = _leaves([o.node for o in outs], mark)
    if not outs or not leaves:
        return rebuild(iter(outs))
    actual = {f.node: g.node for f, g in zip(formal, given, strict=True)}
    node = make(_checkpoint, substitute([*(o.node for o in outs), *leaves], actual), {"count": len(outs)})
    return rebuild(iter(results_of(node)))


def _leaves(roots: Sequence[Node], mark: int) -> list[Node]:
    """What a function that was traced since `mark` reads: its formal arguments, inputs and parameters, and whatever
    was there before."""
    leaves: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op.kind is Kind.SOURCE:
            if node.op.is_given:
                leaves[node] = None
        elif node.number < mark:
            leaves[node] = None
        else:
            stack.extend(reversed(node.inputs))
    return list(leaves)


# -- functions of symbols --------------------------------------------------------------------------------------------


def name_of(function: Any) -> str:
    """What a message calls a function."""
    return getattr(function, "__name__", None) or type(function).__name__


def flatten(value: Any, leaves: list[Tensor], strict: str = "") -> Callable[[Any], Any]:
    """Collects the tensors in nested lists, tuples and dicts; gives the function that puts others in their places.

    strict   where given, anything else is an error that begins with it; otherwise it stays where it is
    """
    if isinstance(value, Tensor):
        leaves.append(value)
        return next
    if isinstance(value, (list, tuple)):
        parts = [flatten(v, leaves, strict) for v in value]
        if hasattr(value, "_fields"):
            return lambda rest: type(value)(*(p(rest) for p in parts))
        return lambda rest: type(value)(p(rest) for p in parts)
    if isinstance(value, dict):
        named = {k: flatten(v, leaves, strict) for k, v in value.items()}
        return lambda rest: {k: p(rest) for k, p in named.items()}
    if strict:
        try:
            leaves.append(as_tensor(value))
        except (GraphError, TypeError, ValueError):
            raise GraphError(f"{strict} {value!r}, which is no tensor{at(user_origin())}") from None
        return next
    return lambda rest: value
