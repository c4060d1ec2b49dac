"""Functions whose gradient the user gives: `custom_vjp`, as in JAX.

Knows how a traced function's results, arguments and rule become one node.  Must not know differentiation beyond what a rule
is called with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import unwrap
from typing import Any

from ..errors import DTypeError, GraphError, ShapeError
from ..ir import Node, make
from ..methods import public
from ..op import Kind, Op, define
from ..origins import Origin, at, user_origin
from ..symbols import Tensor, as_tensor
from .control import results_of
from .overwriting import body
from .recompute import first_types, first_values, flatten, name_of
from .sources import zeros


def _gradient(given: Any, node: Any, *inputs: Tensor, count: int, rule: Any, graphs: Any = ()) -> list[Tensor | None]:
    cotangents = list(given) if isinstance(given, list) else [given]
    filled = [zeros(o.shape, o.dtype) if c is None else c for o, c in zip(inputs, cotangents, strict=False)]
    return [*(None for _ in range(count)), *rule(inputs[:count], inputs[count:], filled)]


_custom = define(Op("custom_vjp", Kind.COMPOSITE, lambda *types, count, rule: first_types(*types, count=count),
                    lambda *arrays, count, rule: first_values(*arrays, count=count), _gradient,
                    expand=lambda *inputs, count, rule: inputs[0] if count == 1 else list(inputs[:count]),
                    passes=lambda position, *, count, rule: position >= count, aside=("rule",), dtypes="fib",
                    doc="The first `count` inputs, computed from the others; gradients flow to the others by `rule`."))


def _defined(function: Callable[..., Any]) -> str:
    """Name and place of a function, for messages."""
    code = getattr(unwrap(function), "__code__", None)
    place = f" ({Origin(code.co_filename, code.co_firstlineno)})" if code is not None else ""
    return f"'{name_of(function)}'{place}"


class Rule:
    """How cotangents of results become cotangents of arguments, for one way of calling a function.

    place   gives the arguments back, with other tensors in their places
    """

    def __init__(self, owner: custom_vjp, place: Callable[[Iterator[Tensor]], Any]) -> None:
        self.owner, self.place, self.__name__ = owner, place, name_of(owner.function)

    def __call__(self, outs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor]
                 ) -> list[Tensor | None]:
        owner, arguments = self.owner, self.place(iter(leaves))
        forward, backward = owner.rules()
        with body():
            pair = forward(*arguments)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise GraphError(f"custom_vjp {owner}: {_defined(forward)} must give (result, residuals), got "
                             f"{pair!r}{at(user_origin())}")
        results: list[Tensor] = []
        rebuild = flatten(pair[0], results, f"custom_vjp {owner}: {_defined(forward)} gives")
        if [r.type for r in results] != [o.type for o in outs]:
            raise ShapeError(f"custom_vjp {owner}: {_defined(forward)} gives {_types(results)}, the function itself "
                             f"{_types(outs)}{at(user_origin())}")
        with body():
            found = backward(pair[1], rebuild(iter(cotangents)))
        what = f"custom_vjp {owner}: {_defined(backward)}"
        if not isinstance(found, (tuple, list)) or len(found) != len(arguments):
            got = f"{len(found)}" if isinstance(found, (tuple, list)) else f"{type(found).__name__}"
            raise GraphError(f"{what} must give a tuple of {len(arguments)} cotangents, one per argument (None where no "
                             f"gradient flows), got {got}{at(user_origin())}")
        result: list[Tensor | None] = []
        for position, (argument, cotangent) in enumerate(zip(arguments, found, strict=True)):
            _spread(argument, cotangent, result, f"{what}: the cotangent of argument {position}")
        return result


def _types(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(t.type) for t in tensors) or "nothing"


def _spread(argument: Any, cotangent: Any, result: list[Tensor | None], what: str) -> None:
    """Appends a cotangent for each tensor of an argument, checked against it."""
    if isinstance(argument, Tensor):
        result.append(_checked(argument, cotangent, what))
    elif isinstance(argument, (list, tuple, dict)):
        parts = list(argument.values()) if isinstance(argument, dict) else list(argument)
        given: list[Any] = [None] * len(parts)
        if cotangent is not None:
            if not isinstance(cotangent, type(argument)) or len(cotangent) != len(parts):
                raise GraphError(f"{what} must be a {type(argument).__name__} of {len(parts)}, like the argument, got "
                                 f"{cotangent!r}{at(user_origin())}")
            given = [cotangent[k] for k in argument] if isinstance(argument, dict) else list(cotangent)
        for part, one in zip(parts, given, strict=True):
            _spread(part, one, result, what)
    elif cotangent is not None:
        raise GraphError(f"{what} must be None: the argument {argument!r} is no tensor{at(user_origin())}")


def _checked(argument: Tensor, cotangent: Any, what: str) -> Tensor | None:
    if cotangent is None:
        return None
    try:
        tensor = as_tensor(cotangent, argument)
    except (GraphError, TypeError, ValueError):
        raise GraphError(f"{what} is {cotangent!r}, which is no tensor{at(user_origin())}") from None
    if not argument.dtype.is_float:
        raise DTypeError(f"{what} must be None: the argument is {argument.type}, not floating{at(user_origin())}")
    if tensor.shape != argument.shape:
        raise ShapeError(f"{what} is {tensor.type}, the argument {argument.type}; sum it over the axes that the function "
                         f"repeats, or reshape it{at(user_origin())}")
    if tensor.dtype != argument.dtype:
        raise DTypeError(f"{what} is {tensor.type}, the argument {argument.type}; .astype it{at(user_origin())}")
    return tensor


@public
class custom_vjp:
    """A function of tensors with a gradient rule of its own, as jax.custom_vjp; also a decorator.

    function(*args) gives a tensor, or tuples, lists and dicts of them.  ``f.defvjp(forward, backward)`` gives the rule:

    forward(*args) -> (result, residuals)   the same result, and whatever the rule needs again
    backward(residuals, cotangent) -> tuple with one cotangent per argument, in its shape and dtype; None where none flows

    Everything is traced on symbols.  Arguments that are no tensors are handed on as they are.  The gradient of a gradient
    differentiates `backward` and what `forward` computed.  `jvp` transposes the rule, so it holds where `backward` is
    linear in the cotangent, as a true gradient is (one that is not, clipping say, is taken at a cotangent of zero).

    Raises GraphError where the rule is missing when the function is called, where the function reads a parameter or an
    input that is no argument (no gradient could reach it), and where the rule's results do not fit.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__, self.__doc__ = name_of(function), getattr(function, "__doc__", None)
        self._rules: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self._plain: dict[int, Rule] = {}

    def __str__(self) -> str:
        return f"'{self.__name__}'"

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Gives the rule."""
        self._rules = forward, backward

    def rules(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if self._rules is None:
            raise GraphError(f"custom_vjp {self}: no rule was given; call {self.__name__}.defvjp(forward, backward) first"
                             f"{at(user_origin())}")
        return self._rules

    def __call__(self, *args: Any) -> Any:
        self.rules()
        leaves: list[Tensor] = []
        place = flatten(args, leaves)
        outs: list[Tensor] = []
        with body():
            given = self.function(*args)
        rebuild = flatten(given, outs, f"custom_vjp {self}: {_defined(self.function)} gives")
        if not outs or not leaves:
            return rebuild(iter(outs))
        self._refuse_others([o.node for o in outs], {x.node for x in leaves})
        plain = all(isinstance(a, Tensor) for a in args)
        rule = self._plain.setdefault(len(args), Rule(self, place)) if plain else Rule(self, place)
        node = make(_custom, [t.node for t in (*outs, *leaves)], {"count": len(outs), "rule": rule})
        return rebuild(iter(results_of(node)))

    def _refuse_others(self, outs: Sequence[Node], leaves: set[Node]) -> None:
        """An error where a gradient would be lost: a parameter or input that the function reads beside its arguments."""
        stack, seen = list(outs), set(leaves)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            cell = node.attributes.get("cell")
            floating = node.types[0].dtype.is_float
            if floating and ("symbol" in node.attributes or (cell is not None and cell.trainable)):
                kind, name = ("input", node.attributes["name"]) if cell is None else ("parameter", cell.name)
                raise GraphError(f"custom_vjp {self} reads the {kind} '{name}', which is not among its arguments: no gradient "
                                 f"would reach it; pass it, or wrap it in stop_gradient{at(user_origin())}")
            stack.extend(i for k, i in enumerate(node.inputs) if node.op.has_gradient(k, node.attributes)
                         or node.op.kind in (Kind.ITEM, Kind.COMPOSITE, Kind.LOOP, Kind.COND))

