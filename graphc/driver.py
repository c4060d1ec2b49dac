"""The driver: from symbols to a Program.

Knows how outputs, updates and what layers attach become one Graph.  Must not know how a Program runs, ops or code
generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .built import Built
from .cells import Cell
from .errors import GraphError
from .feeds import assign, convert, solve_sizes
from .garbage import kept_waiting
from .ir import Graph, Node, rewrite, substitute, topological
from .methods import FUNCTIONS, public
from .ops.control import Carried, readings
from .origins import at, user_origin
from .passes.update import training_step
from .program import Program, inspecting, sizes_for
from .runtime.interpreter import evaluate
from .structures import flatten_outputs
from .symbols import Parameter, Tensor, TensorLike, as_tensor


@public
@kept_waiting()
def function(inputs: Sequence[Tensor], outputs: Any, updates: Mapping[Parameter, TensorLike] | None = None, *,
             backend: str = "native", threads: int | None = None, memory_budget: int | None = None,
             check_numerics: bool = False, matmul_precision: str | None = None, name: str = "program") -> Program:
    """A Program that computes `outputs` from `inputs` and then gives the cells in `updates` their new values.

    inputs          placeholders, in the order of positional arguments
    outputs         a tensor, or lists and dicts of tensors; a call returns arrays in the same structure
    updates         {parameter or state: new value}; all right-hand sides read the old values
    backend         "native" (machine code) or "numpy" (the interpreter)
    threads         at most this many; None for all cores that this process may use
    memory_budget   bytes that temporaries may take: values are computed again instead of kept until they fit, at the same
                    results (`report()` says which and at what cost; only sums over a batch that ran in chunks and no longer
                    does, and of large values that are computed in blocks, are added up in another order); a GraphError where
                    nothing reaches it
    check_numerics  NaN or infinity in an output or a new value raises NumericsError and leaves the cells as they were
    matmul_precision  "highest", "high" or "medium": how float32 numbers may be multiplied in contractions; what
                    `set_float32_matmul_precision` has set where it is None
    """
    named, structure = flatten_outputs(outputs)
    leaves = [as_tensor(leaf) for _, leaf in named]
    graph = _graph(inputs, leaves, updates or {}, tuple(name for name, _ in named))
    return Program(graph, structure, backend=backend, threads=threads, memory_budget=memory_budget,
                   check_numerics=check_numerics, matmul_precision=matmul_precision, name=name)


def _graph(inputs: Sequence[Tensor], leaves: Sequence[Tensor], updates: Mapping[Parameter, TensorLike],
           names: tuple[str, ...]) -> Graph:
    """The graph of a program, checked."""
    _check_inputs(inputs)
    chosen: dict[Cell, Node] = {}
    for target, value in updates.items():
        if not isinstance(target, Parameter):
            raise GraphError(f"updates: {target!r} is no parameter or state{at(user_origin())}")
        new = as_tensor(value, target)
        if new.type != target.type:
            raise GraphError(f"updates: '{target.cell.name}' is {target.type}, its new value {new.type}; "
                             f"reshape or .astype it{at(user_origin())}")
        chosen[target.cell] = new.node
    graph = _collect([t.node for t in inputs], [t.node for t in leaves], chosen, names)
    missing = [n for n in graph.nodes if "symbol" in n.attributes and n not in graph.inputs]
    if missing:
        needed = ", ".join(f"'{n.attributes['name']}'" for n in missing)
        raise GraphError(f"the outputs depend on {needed}, which is not among the inputs{at(user_origin())}")
    return graph


def _collect(inputs: Sequence[Node], outputs: Sequence[Node], updates: dict[Cell, Node],
             names: tuple[str, ...] = ()) -> Graph:
    """The graph with every update that layers attached to what is reachable; in order of construction.

    Two updates of one state compose: the later one reads what the earlier one wrote, also in the values of the states
    that it updates along with it.
    """
    order = topological([*outputs, *updates.values()])
    carriers = [n for n in order if "cells" in n.attributes]
    read = readings(order) if carriers else {}
    instead: dict[Node, Node] = {}
    from_layers: dict[Cell, Node] = {}
    carried = Carried()
    for node in sorted((n for n in carriers if not carried.again(n)), key=lambda n: n.number):
        cells: tuple[Cell, ...] = node.attributes["cells"]
        values: Sequence[Node] = node.inputs[1:]
        for reading in read.get(node.attributes.get("group", 0), ()):
            instead[reading] = from_layers.get(reading.attributes["of"], reading.inputs[0])
        earlier = dict(instead)
        if node.attributes.get("group", 0) not in read and any(cell in from_layers for cell in cells):
            earlier |= {n: from_layers[cell] for n in topological(values)
                        if (cell := n.attributes.get("cell")) in from_layers and cell in cells}
        values = substitute(values, earlier) if earlier else values
        from_layers.update(zip(cells, values, strict=True))
    for cell, value in from_layers.items():
        if cell in updates:
            raise GraphError(f"'{cell.name}' is updated by a layer and by the program{at(user_origin())}")
        updates[cell] = value
    roots = [*outputs, *updates.values()]
    plain = _without_carriers(roots, instead) if carriers else roots
    k = len(outputs)
    return Graph(tuple(inputs), tuple(plain[:k]), tuple(zip(updates, plain[k:], strict=True)), names)


def _without_carriers(roots: Sequence[Node], instead: dict[Node, Node]) -> list[Node]:
    """The roots without what carries updates, and with what is read where a state was moved before."""
    for node, value in list(instead.items()):  # in order: a value may read what comes before it
        instead[node] = rewrite([value], _carried, instead)[value]
    new = rewrite(roots, _carried, instead)
    return [new[r] for r in roots]


def _as_it_is(value: Any) -> Any:
    """A symbol that nobody overwrites until the step is derived."""
    return FUNCTIONS["clone"](value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _carried(node: Node, inputs: Sequence[Node]) -> Node | None:
    return inputs[0] if "cells" in node.attributes else None


def _check_inputs(inputs: Sequence[Any]) -> None:
    names: set[str] = set()
    for tensor in inputs:
        if not isinstance(tensor, Tensor) or "symbol" not in tensor.node.attributes:
            raise GraphError(f"inputs must be placeholders, got {tensor!r}{at(user_origin())}")
        name = tensor.node.attributes["name"]
        if name in names:
            raise GraphError(f"two inputs are called '{name}'; names of one program's inputs must differ"
                             f"{at(user_origin())}")
        names.add(name)


def inputs_of(roots: Sequence[Tensor]) -> list[Tensor]:
    """The placeholders that the roots depend on, in order of creation."""
    found = [n for n in topological([r.node for r in roots]) if "symbol" in n.attributes]
    return [Tensor(n) for n in sorted(found, key=lambda n: n.number)]


@public
@kept_waiting()
def train_step(loss: Tensor, optimizer: Any, outputs: Any = None, *, lr_scheduler: Any = None,
               grad_clip_norm: float | None = None, grad_clip_value: float | None = None, accumulate: int = 1,
               returns: Any = None, inputs: Sequence[Tensor] | None = None, **options: Any) -> Program:
    """A Program that computes the loss and gives every parameter of the optimizer its new value, in one step.

    loss             scalar; the value returned is the one before the update
    optimizer        one, or a list of them
    outputs          more to return: a call then gives (loss, outputs)
    lr_scheduler     one or several; each advances once per optimizer step, inside the step where it is a formula
    grad_clip_norm   limits the norm of all gradients together, as torch.nn.utils.clip_grad_norm_
    grad_clip_value  limits each element of the gradients
    accumulate       every k-th call applies the mean of k gradients
    returns          what a call gives instead of the loss or (loss, outputs)
    inputs           placeholders in the order of positional arguments; all that are needed, in order of creation, by default
    options          those of `function`
    """
    loss = _as_it_is(loss)
    step = training_step(loss, optimizer, grad_clip_norm=grad_clip_norm, grad_clip_value=grad_clip_value,
                         accumulate=accumulate, lr_scheduler=lr_scheduler)
    if returns is None:
        returns = loss if outputs is None else (loss, outputs)
    named, structure = flatten_outputs(returns)
    names, leaves = tuple(name for name, _ in named), [_as_it_is(as_tensor(leaf)) for _, leaf in named]
    given = [] if inputs is None else list(inputs)
    _check_inputs(given)

    def derive() -> Graph:
        updates = step.derive()
        return _graph(inputs_of([*leaves, *updates.values()]) if inputs is None else given, leaves, updates, names)

    if options.get("backend", "native") == "native":
        from .derivation import derived

        roots = [loss, *leaves]
        needed = [*given, *inputs_of([*roots, *step.schedules.values()])]
        said = Graph(tuple(dict.fromkeys(t.node for t in needed)), tuple(t.node for t in roots),
                     tuple((target.cell, value.node) for target, value in step.schedules.items()), names)
        built = derived(step, said, None if inputs is None else len(given), derive)
    else:
        built = Built(derive())
    program = Program(built, structure, **options)
    program.after_call.extend(step.between_calls)
    return program


def evaluate_tensor(tensor: Tensor, feeds: Mapping[str, Any]) -> np.ndarray:
    """The value of a symbol for these feeds, by the interpreter."""
    inputs = [t.node for t in inputs_of([tensor])]
    arrays = [convert(n, v) for n, v in zip(inputs, assign(inputs, (), feeds), strict=True)]
    sizes = solve_sizes(inputs, arrays)
    from .passes.pipeline import Pipeline

    graph = Pipeline().concrete(_collect(inputs, [tensor.node], {}), sizes)
    (value,) = evaluate(graph.outputs, dict(zip(graph.inputs, arrays, strict=True)))
    return np.array(value)


FUNCTIONS["evaluate"] = evaluate_tensor

__all__ = ["Program", "function", "inputs_of", "inspecting", "sizes_for", "train_step"]
