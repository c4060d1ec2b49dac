"""Differentiation as a symbolic pass: gradients are graphs built of the same ops, so any order works.

Knows how cotangents flow from outputs to inputs through each op's `vjp` rule.  Must not know which ops exist,
optimizers, or how anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.ir import Node, make, substitute, topological
from graphc.methods import public
from graphc.op import REGISTRY, Kind
from graphc.ops.sources import zeros
from graphc.origins import at, building, phase, user_origin
from graphc.symbols import Tensor, TensorLike, as_tensor, constant, placeholder
from graphc.types import Size

Cotangents = dict[Node, list[Tensor | None]]


def grad(loss: Tensor, wrt: Tensor | Sequence[Tensor], *, allow_unused: bool = False) -> Any:
    """The gradient of a scalar with respect to tensors: a symbol of each one's shape; a list in gives a list out.

    loss          0-d (or one element), floating
    wrt           a tensor or a list of them; any tensor of the graph, not only parameters
    allow_unused  zeros for a tensor that the loss does not depend on; otherwise that is a GraphError with its name
    """
    single = isinstance(wrt, Tensor)
    targets = [wrt] if isinstance(wrt, Tensor) else list(wrt)
    gradients = gradients_of(loss, targets, None if allow_unused else "leave it out, or pass allow_unused=True to get zeros")
    return gradients[0] if single else gradients


def gradients_of(loss: Tensor, targets: Sequence[Tensor], remedy: str | None) -> list[Tensor]:
    """The gradient of a scalar with respect to each of the targets.

    remedy  what the error for one that the loss does not depend on recommends; None: its gradient is zeros
    """
    check_loss(loss, targets)
    with building(phase, "gradient"):
        seed = constant(1.0, loss.dtype)
        cotangent = seed if loss.ndim == 0 else seed.reshape(loss.shape)
        found, depends = _pull([loss.node], [cotangent], [t.node for t in targets])
        gradients = []
        for target, gradient in zip(targets, found, strict=True):
            if gradient is None:
                if remedy is not None and not depends[target.node]:
                    raise GraphError(_unused(loss, target, remedy))
                gradient = zeros(target.shape, target.dtype)
            gradients.append(gradient)
    return gradients


def check_loss(loss: Tensor, targets: Sequence[Tensor]) -> None:
    """Raises ShapeError, DTypeError or GraphError for what has no gradient by its type."""
    if not isinstance(loss, Tensor):
        raise GraphError(f"grad differentiates a symbol, got {type(loss).__name__}{at(user_origin())}")
    if any(size != 1 for size in loss.shape):
        raise ShapeError(f"grad needs a scalar loss, got {loss.type}; reduce it with .sum() or .mean(), "
                         f"or use graphc.vjp with a cotangent{at(user_origin())}")
    if not loss.dtype.is_float:
        raise DTypeError(f"grad needs a floating loss, got {loss.type}{at(user_origin())}")
    for target in targets:
        if not isinstance(target, Tensor):
            raise GraphError(f"grad with respect to {target!r}: not a symbol{at(user_origin())}")
        if not target.dtype.is_float:
            raise DTypeError(f"no gradient with respect to {_name(target)}: {target.type} is not floating"
                             f"{at(user_origin())}")


def _name(tensor: Tensor) -> str:
    return f"'{tensor.name}'" if tensor.name else f"the result of {tensor.node.op.name}"


def _unused(loss: Tensor, target: Tensor, remedy: str) -> str:
    """Says why there is no gradient: no path at all, or only through something without gradients."""
    order = topological([loss.node])
    reached = {target.node}
    blocked: list[Node] = []
    for node in order:
        if node not in reached and any(i in reached for i in node.inputs):
            if not any(i in reached and _passes(node, k) for k, i in enumerate(node.inputs)):
                blocked.append(node)
            reached.add(node)
    if loss.node in reached and blocked:
        first = blocked[0]
        where_ = f" ({first.origins[0]})" if first.origins else ""
        return (f"the loss depends on {_name(target)} only through '{first.op.name}'{where_}, which passes no gradient "
                f"({first.types[0]}); {remedy}{at(user_origin())}")
    return f"the loss does not depend on {_name(target)}; {remedy}{at(user_origin())}"


def _pull(roots: Sequence[Node], cotangents: Sequence[Tensor], targets: Sequence[Node]
          ) -> tuple[list[Tensor | None], dict[Node, bool]]:
    """Cotangents of the targets, and for each target whether a differentiable path leads to it at all."""
    order = topological(roots)
    reach = set(targets)  # nodes through which a gradient can flow to a target
    for node in order:
        if node not in reach and any(i in reach and _passes(node, k) for k, i in enumerate(node.inputs)):
            reach.add(node)
    held: Cotangents = {}
    for root, cotangent in zip(roots, cotangents, strict=True):
        _accumulate(held, root, 0, cotangent)
    stop = set(targets)
    for node in reversed(order):
        given = held.get(node)
        if given is None or node not in reach or not node.inputs:
            continue
        if node in stop and not any(i in reach for i in node.inputs):
            continue
        _apply_rule(node, given, reach, held)
    leading = _leading(roots, order)
    return ([held[t][0] if t in held else None for t in targets],
            {t: t in leading for t in targets})


def _passes(node: Node, position: int) -> bool:
    """Whether the op lets gradients through at all; a step function does (they are zero), an integer does not."""
    if node.op.kind is Kind.ITEM:
        return node.type.dtype.is_float
    if not any(t.dtype.is_float for t in node.types) or not node.inputs[position].types[0].dtype.is_float:
        return False
    op = node.op
    if op.kind in (Kind.COMPOSITE,) and not op.vjp:
        return True
    return op.has_gradient(position, node.attributes) or not op.smooth


def _leading(roots: Sequence[Node], order: Sequence[Node]) -> set[Node]:
    """The nodes from which a differentiable path leads to a root."""
    found = set(roots)
    for node in reversed(order):
        if node in found:
            found.update(i for k, i in enumerate(node.inputs) if i not in found and _passes(node, k))
    return found


def _accumulate(held: Cotangents, node: Node, item: int, cotangent: Tensor) -> None:
    slots = held.setdefault(node, [None] * len(node.types))
    before = slots[item]
    slots[item] = cotangent if before is None else before + cotangent


def _apply_rule(node: Node, given: list[Tensor | None], reach: set[Node], held: Cotangents) -> None:
    op, inputs = node.op, [Tensor(i) for i in node.inputs]
    if op.kind is Kind.ITEM:
        cotangent = given[0]
        if cotangent is not None:
            _accumulate(held, node.inputs[0], node.attributes["item"], cotangent)
        return
    wanted = [k for k, i in enumerate(node.inputs) if i in reach and _passes(node, k)]
    parts: dict[int, Tensor | None] = {}
    if node.graphs:  # the rule differentiates the nested graphs, by the pull-back that it is handed
        assert callable(op.vjp)
        parts = op.vjp(given, node, wanted, lambda *arguments: _pull(*arguments)[0])
    elif len(node.types) > 1:
        assert callable(op.vjp)
        result = op.vjp(given, node, *inputs, **node.attributes)
        parts = {k: result[k] for k in wanted}
    else:
        g, out = given[0], Tensor(node)
        if g is None:
            return
        if callable(op.vjp):
            result = op.vjp(g, out, *inputs, **node.attributes)
            parts = {k: result[k] for k in wanted}
        elif op.kind is Kind.COMPOSITE and not op.vjp:
            parts = _through_expansion(node, g, wanted)
        else:
            for k in wanted:
                rule = op.vjp[k] if k < len(op.vjp) else None
                parts[k] = rule(g, out, *inputs, **node.attributes) if rule else None
    for k, part in parts.items():
        if part is not None:
            if part.type != node.inputs[k].types[0]:
                raise GraphError(f"gradient rule of {op.name} gives {part.type} for an input of "
                                 f"{node.inputs[k].types[0]}")
            _accumulate(held, node.inputs[k], 0, part)


def _through_expansion(node: Node, g: Tensor, wanted: Sequence[int]) -> dict[int, Tensor | None]:
    """A composite without a rule of its own is differentiated through what it expands to."""
    fresh = [Tensor(make(REGISTRY["input"], (), {"name": f"x{k}", "type": i.type, "symbol": object()}))
             for k, i in enumerate(node.inputs)]
    body = node.op.expand(*fresh, **node.attributes)
    found, _ = _pull([body.node], [g], [f.node for f in fresh])
    back = {f.node: i for f, i in zip(fresh, node.inputs, strict=True)}
    present = [f.node for f in found if f is not None]
    replaced = iter(substitute(present, back))
    full = [None if f is None else Tensor(next(replaced)) for f in found]
    return {k: full[k] for k in wanted}


# -- products with Jacobians -----------------------------------------------------------------------------------------


def _matching(name: str, like: Sequence[Tensor], given: Any) -> list[Tensor]:
    given = [given] if isinstance(given, Tensor) else list(given)  # a bare one is one, not a list of its rows
    if len(like) != len(given):
        raise GraphError(f"{name}: {len(like)} tensors but {len(given)} directions{at(user_origin())}")
    result = [as_tensor(g, t) for g, t in zip(given, like, strict=True)]
    for tensor, direction in zip(like, result, strict=True):
        if tensor.shape != direction.shape:
            raise ShapeError(f"{name}: a direction of {direction.type} for {_name(tensor)} {tensor.type}"
                             f"{at(user_origin())}")
    return [r.astype(t.dtype) for r, t in zip(result, like, strict=True)]


def _or_zeros(found: Iterable[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [zeros(t.shape, t.dtype) if f is None else f for f, t in zip(found, like, strict=True)]


def vjp(out: Tensor | Sequence[Tensor], wrt: Tensor | Sequence[Tensor], cotangent: TensorLike | Sequence[TensorLike]) -> Any:
    """The cotangent (of out's shape) pulled back to each tensor of `wrt`: Jᵀ·cotangent.

    wrt: a tensor, for which there is one result, or a list, for which there is a list.  Several outs, with one cotangent
    each, give the sum of what each gives.
    """
    if isinstance(wrt, Tensor):
        return vjp(out, [wrt], cotangent)[0]
    outs = [out] if isinstance(out, Tensor) else list(out)
    seeds = _matching("vjp", outs, [cotangent] if isinstance(out, Tensor) else cotangent)
    with building(phase, "gradient"):
        found, _ = _pull([o.node for o in outs], seeds, [t.node for t in wrt])
        return _or_zeros(found, wrt)


def pulled(outs: Sequence[Tensor], wrt: Sequence[Tensor], seeds: Sequence[Tensor], remedy: str | None) -> list[Tensor | None]:
    """The sum of what each out's cotangent gives each tensor of `wrt`; None where no out depends on it.

    remedy  what the error for one of these recommends; None: there is no error
    """
    with building(phase, "gradient"):
        found, depends = _pull([o.node for o in outs], seeds, [t.node for t in wrt])
        for target in wrt:
            if remedy is not None and not depends[target.node]:
                raise GraphError(_unused(outs[0], target, remedy))
        return [zeros(t.shape, t.dtype) if f is None and depends[t.node] else f for f, t in zip(found, wrt, strict=True)]


def jvp(out: Tensor, wrt: Tensor | Sequence[Tensor], tangents: TensorLike | Sequence[TensorLike]) -> Tensor:
    """The tangent of out when each tensor of `wrt` moves along its tangent: J·tangent.  One tangent for one, or a list.

    The pull-back is linear in its cotangent; pulling it back once more gives the push-forward (the transpose of a
    transpose), so ops need no second set of rules.
    """
    if isinstance(wrt, Tensor):
        return jvp(out, [wrt], [tangents])
    directions = _matching("jvp", wrt, tangents)
    with building(phase, "gradient"):
        dummy = placeholder("cotangent", out.shape, out.dtype)
        found, _ = _pull([out.node], [dummy], [t.node for t in wrt])
        pairs = [(f, d) for f, d in zip(found, directions, strict=True) if f is not None]
        if not pairs:
            return zeros(out.shape, out.dtype)
        pushed, _ = _pull([f.node for f, _ in pairs], [d for _, d in pairs], [dummy.node])
        (tangent,) = _or_zeros(pushed, [out])
        return Tensor(substitute([tangent.node], {dummy.node: zeros(out.shape, out.dtype).node})[0])


def hvp(loss: Tensor, wrt: Tensor | Sequence[Tensor], directions: TensorLike | Sequence[TensorLike]) -> Any:
    """The Hessian of a scalar times a direction, one tensor per entry of `wrt`, without forming the Hessian.

    One tensor for one, a list for several.
    """
    if isinstance(wrt, Tensor):
        return hvp(loss, [wrt], [directions])[0]
    along = _matching("hvp", wrt, directions)
    gradients = grad(loss, list(wrt), allow_unused=True)
    with building(phase, "gradient"):
        found, _ = _pull([g.node for g in gradients], along, [t.node for t in wrt])
        return _or_zeros(found, wrt)


def _positions(shape: tuple[Size, ...]) -> list[tuple[int, ...]]:
    if not all(isinstance(s, int) for s in shape):
        raise ShapeError(f"a Jacobian needs known sizes, got [{', '.join(map(str, shape))}]{at(user_origin())}")
    return list(product(*(range(int(s)) for s in shape)))


def jacobian(out: Tensor, wrt: Tensor) -> Tensor:
    """All partial derivatives: shape out.shape + wrt.shape.  One pull-back per element of `out`."""
    stack: Callable[..., Tensor] = _function("stack")
    positions = _positions(out.shape)
    rows = [grad(out[position] if position else out, wrt, allow_unused=True) for position in positions]
    if not rows:
        return zeros((*out.shape, *wrt.shape), out.dtype)
    return stack(rows, 0).reshape((*out.shape, *wrt.shape))


def hessian(loss: Tensor, wrt: Tensor) -> Tensor:
    """Second derivatives of a scalar: shape wrt.shape + wrt.shape."""
    return jacobian(grad(loss, wrt), wrt)


def _function(name: str) -> Callable[..., Any]:
    from graphc.methods import FUNCTIONS

    return FUNCTIONS[name]


for _public in (grad, vjp, jvp, hvp, jacobian, hessian):
    public(_public)
