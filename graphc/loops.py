"""Loops and branches as users write them: functions of symbols that are traced into nested graphs.

Knows structures of tensors, how a function becomes a body, and what draws and updates inside a body mean.  Must not know
gradients or how loops run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from .cells import Cell
from .errors import DTypeError, GraphError, ShapeError
from .ir import Node, make, rebuild
from .methods import public
from .op import REGISTRY
from .ops.bodies import below, close, close_loop, depending, replaced
from .ops.control import Carried, all_updating, readings, results_of
from .ops.loop_gradients import branches
from .ops.overwriting import body
from .ops.random import per_step
from .ops.shaping import concat
from .ops.sources import iota
from .ops.views import narrow, reshape
from .origins import at, user_origin
from .structures import Structure, flatten
from .symbols import Tensor, TensorLike, as_tensor, placeholder
from .types import Dim, Size, TensorType, as_size, bool_, int64


def _tensors(value: Any, name: str) -> tuple[list[str], list[Tensor], Structure]:
    leaves, structure = flatten(value, name)
    return [path for path, _ in leaves], [as_tensor(leaf) for _, leaf in leaves], structure


# -- what happens inside a body --------------------------------------------------------------------------------------

_steps: ContextVar[tuple[Node, ...]] = ContextVar("steps", default=())  # counters of the loops being traced, outermost first


@contextmanager
def _inside(*counters: Node) -> Iterator[None]:
    token = _steps.set((*_steps.get(), *counters))
    try:
        yield
    finally:
        _steps.reset(token)


def _traced(f: Callable[..., Any], *arguments: Any, counter: Tensor | None = None) -> Any:
    with _inside(*([counter.node] if counter is not None else [])), body():
        return f(*arguments)


def _drawn_per_step(roots: Sequence[Node], start: int, counters: Sequence[Node]) -> list[Node]:
    """The roots, with what the body draws made a function of the counters: every step has numbers of its own."""
    draws = [n for n in below(roots) if "site" in n.attributes and n.number > start]
    if not draws or not counters:
        return list(roots)
    return replaced(roots, {n: per_step(n, counters) for n in draws})


Updates = list[tuple[Node, Cell, Node]]  # carrier, cell, new value


def _updates(roots: Sequence[Node], start: int) -> tuple[list[Node], Updates]:
    """The roots without the updates that the body attached, and those."""
    nodes = below(roots)
    carriers = [n for n in nodes if "cells" in n.attributes and n.number > start]
    if not carriers:
        return list(roots), []
    moved = next((n for found in readings(nodes).values() for n in found if n.number > start), None)
    if moved is not None:
        raise GraphError(f"the state '{moved.attributes['of'].name}' moves in each call of a layer (spectral normalisation) "
                         f"that is in the body of a loop or branch: call it outside, or in evaluation mode{at(user_origin())}")
    new: dict[Node, Node] = {}
    for node in nodes:
        inputs = tuple(new[i] for i in node.inputs)
        new[node] = inputs[0] if node in carriers else rebuild(node, inputs)
    carried = Carried()
    updates = [(n, cell, new[value]) for n in carriers if not carried.again(n)
               for cell, value in zip(n.attributes["cells"], n.inputs[1:], strict=True)]
    return [new[root] for root in roots], updates


def _attached(results: list[Tensor], updates: Sequence[tuple[Cell, Node]]) -> list[Tensor]:
    """The results, which carry the updates."""
    return all_updating(results, [cell for cell, _ in updates], [Tensor(v) for _, v in updates]) if updates else results


# -- scan ------------------------------------------------------------------------------------------------------------


@public
def scan(f: Callable[[Any, Any], Any], init: Any, xs: Any = None, length: Size | str | None = None, reverse: bool = False,
         segments: int | None = None) -> tuple[Any, Any]:
    """Repeats ``carry, y = f(carry, x)`` and returns the last carry and the stacked ys, as `jax.lax.scan`.

    f         takes and returns a carry, a structure (tensors in tuples, lists and dicts, None) of unchanging types; x holds
              one entry of each tensor of xs, and y is any structure, or None.  It may read any other tensor and parameter
    init      the first carry
    xs        a structure of tensors that are entered along their first axis, or None
    length    how many steps; needed where xs has no tensor.  A size may be open (a string or a Dim)
    reverse   from the last entry to the first; ys keep the order of xs
    segments  cuts the loop into this many: a gradient then keeps the carries between segments and what one segment needs,
              and computes each segment twice.  Values are the same bit for bit; sums over steps (gradients of what
              all steps read) are added segment by segment

    `f` runs once, on placeholders.  What it computes without them is computed once, outside the loop.  What it draws
    (uniform, dropout...) is new in every step.  A state is updated in a loop by carrying it.

    Raises GraphError, ShapeError or DTypeError for a carry that changes its structure or type, entries of different
    lengths, a missing length, or an f that returns no pair.
    """
    carry_paths, carries, carry_shape = _tensors(init, "carry")
    paths, sequences, entry_shape = _tensors(xs, "xs")
    steps = _length(paths, sequences, length)
    counter = placeholder("step", (), int64)
    inside = [placeholder(p, t.shape, t.dtype) for p, t in zip(carry_paths, carries, strict=True)]
    entries = [placeholder(p, t.shape[1:], t.dtype) for p, t in zip(paths, sequences, strict=True)]
    result = _traced(f, carry_shape.build(iter(inside)), entry_shape.build(iter(entries)), counter=counter)
    new, ys, y_shape = _checked_result(result, inside, carry_paths, carry_shape)
    own = [*inside, *entries]
    roots = [t.node for t in (*new, *ys)]
    roots, updates = _updates(roots, counter.node.number)
    with _inside(counter.node):
        roots = _drawn_per_step(roots, counter.node.number, _steps.get())
    if counter.node in below(roots):
        own.append(counter)
        sequences = [*sequences, iota((steps,))]
    attached = _outer_updates(updates, [t.node for t in own])
    graph, captured = close_loop([t.node for t in own], roots)
    if not roots:
        return carry_shape.build(iter(())), y_shape.build(iter(()))
    loop = _Loop(graph, len(carries), steps, bool(reverse), [Tensor(n) for n in captured])
    results = loop.run(carries, sequences) if segments is None else loop.segmented(carries, sequences, segments)
    results = _attached(results, attached)
    return carry_shape.build(iter(results[:len(carries)])), y_shape.build(iter(results[len(carries):]))


def _length(paths: Sequence[str], sequences: Sequence[Tensor], length: Size | str | None) -> Size:
    try:
        found = None if length is None else as_size(length)
    except ShapeError as error:
        raise ShapeError(f"scan: length: {error}{at(user_origin())}") from None
    said = "length"
    for path, tensor in zip(paths, sequences, strict=True):
        if not tensor.ndim:
            raise ShapeError(f"scan: {path} is {tensor.type}; a sequence needs a first axis, which the steps walk along"
                             f"{at(user_origin())}")
        if found is None:
            found, said = tensor.shape[0], path
        elif tensor.shape[0] != found:
            raise ShapeError(f"scan: {said} has {found} steps, {path} is {tensor.type}{at(user_origin())}")
    if found is None:
        raise GraphError(f"scan: nothing says how many steps; give xs or length{at(user_origin())}")
    return found


def _checked_result(result: Any, inside: Sequence[Tensor], paths: Sequence[str], shape: Structure
                    ) -> tuple[list[Tensor], list[Tensor], Structure]:
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise GraphError(f"scan: the function must return a pair (carry, y), y may be None; it returned "
                         f"{_described(result)}{at(user_origin())}")
    leaves, new_shape = flatten(result[0])
    if new_shape != shape:
        raise GraphError(f"scan: the carry changes its structure from {shape} to {new_shape}{at(user_origin())}")
    new = [as_tensor(leaf, like) for (_, leaf), like in zip(leaves, inside, strict=True)]
    for path, before, after in zip(paths, inside, new, strict=True):
        if after.type != before.type:
            raise (DTypeError if after.shape == before.shape else ShapeError)(
                f"scan: {path} starts as {before.type}, a step makes it {after.type}; start with that type, or convert what "
                f"the step returns{at(user_origin())}")
    _, ys, y_shape = _tensors(result[1], "y")
    return new, ys, y_shape


def _described(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{len(value)} values"
    return f"one tensor {value.type}" if isinstance(value, Tensor) else type(value).__name__


def _outer_updates(updates: Updates, own: Sequence[Node]) -> list[tuple[Cell, Node]]:
    """Updates that are equal in all steps (a random key's) happen once; any other is refused."""
    found: list[tuple[Cell, Node]] = []
    for node, cell, value in updates:
        if depending(below([value]), set(own)) & {value}:
            place = f"\n  updated at {node.origins[0]}" if node.origins else ""
            raise GraphError(f"scan: the state '{cell.name}' is updated inside the loop; carry its value through the steps "
                             f"and update it with the last one{at(user_origin())}{place}")
        if (cell, value) not in found:
            found.append((cell, value))
    return found


class _Loop:
    """A closed body with what it captures; its operands before those are carries, then sequences."""

    def __init__(self, graph: Any, carries: int, length: Size, reverse: bool, captured: list[Tensor]) -> None:
        self.graph, self.carries, self.length, self.reverse, self.captured = graph, carries, length, reverse, captured

    def run(self, carries: Sequence[Tensor], sequences: Sequence[Tensor], length: Size | None = None) -> list[Tensor]:
        return self._node(self.graph, carries, sequences, self.captured, self.length if length is None else length)

    def _node(self, graph: Any, carries: Sequence[Tensor], sequences: Sequence[Tensor], captured: Sequence[Tensor],
              length: Size, **more: Any) -> list[Tensor]:
        attributes = {"carries": self.carries, "sequences": len(sequences), "length": length, "reverse": self.reverse, **more}
        return results_of(make(REGISTRY["scan"], [t.node for t in (*carries, *sequences, *captured)], attributes, (graph,)))

    def segmented(self, carries: Sequence[Tensor], sequences: Sequence[Tensor], segments: int) -> list[Tensor]:
        """A loop over segments of loops over steps, and a last loop over the steps that are left."""
        if isinstance(self.length, Dim):
            raise GraphError(f"scan: segments need a fixed number of steps, there are '{self.length}'{at(user_origin())}")
        if isinstance(segments, bool) or not isinstance(segments, (int, np.integer)) or segments < 1:
            raise GraphError(f"scan: segments is a positive number, got {segments!r}{at(user_origin())}")
        number = min(int(segments), max(int(self.length), 1))
        each = int(self.length) // number
        whole = number * each
        rest = int(self.length) - whole
        first = [reshape(narrow(s, 0, 0, whole), (number, each, *s.shape[1:])) for s in sequences]
        last = [narrow(s, 0, whole, rest) for s in sequences]
        inside = [placeholder("carry", t.shape, t.dtype) for t in carries]
        entries = [placeholder("segment", t.shape[1:], t.dtype) for t in first]
        results = self.run(inside, entries, each)
        graph, captured = close_loop([t.node for t in (*inside, *entries)], [t.node for t in results])
        outer = [Tensor(n) for n in captured]
        k, left = self.carries, list(carries)
        tail: list[Tensor] = []
        if rest and self.reverse:
            done = self.run(left, last, rest)
            left, tail = done[:k], done[k:]
        done = self._node(graph, left, first, outer, number, recompute=True)
        left, stacks = done[:k], [reshape(s, (whole, *s.shape[2:])) for s in done[k:]]
        if rest and not self.reverse:
            done = self.run(left, last, rest)
            left, tail = done[:k], done[k:]
        return [*left, *([concat([a, b]) for a, b in zip(stacks, tail, strict=True)] if rest else stacks)]


@public
def fori_loop(low: int, high: Size, f: Callable[[Tensor, Any], Any], init: Any) -> Any:
    """``for i in range(low, high): value = f(i, value)``; returns the last value, as `jax.lax.fori_loop`.

    low, high  integers; `high` may be an open size where low is 0
    f          takes an int64 0-d tensor and a structure of tensors, and returns that structure with unchanged types
    """
    start = as_size(low) if not isinstance(low, (int, np.integer)) else int(low)
    end = high if isinstance(high, (Dim, str)) else int(high)
    if isinstance(start, int) and isinstance(end, int):
        count: Size = max(end - start, 0)
    else:
        count = as_size(end) - start
    last, _ = scan(lambda value, i: (f(i, value), None), init, iota((count,)) + start if start else iota((count,)))
    return last


# -- cond ------------------------------------------------------------------------------------------------------------


@public
def cond(flag: TensorLike, then: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """``then(*operands)`` where the flag holds, else ``otherwise(*operands)``: only one of them runs, as `jax.lax.cond`.

    flag       a bool 0-d tensor; a Python bool chooses at once
    then       functions of the operands (structures of tensors) that return structures of equal types.  They may read any
    otherwise  other tensor and parameter too
    Gradients flow through the branch that runs alone.  A state that a branch updates keeps its value where the other runs.
    """
    if isinstance(flag, (bool, np.bool_)):
        return (then if flag else otherwise)(*operands)
    condition = as_tensor(flag)
    if condition.type != TensorType(bool_, ()):
        raise (ShapeError if condition.dtype.is_bool else DTypeError)(
            f"cond: the flag is {condition.type}; a branch needs bool[], as from a comparison of 0-d tensors or "
            f".any() and .all(){at(user_origin())}")
    start = placeholder("start", ()).node.number
    traced, shapes = [], []
    for branch in (then, otherwise):
        with body():
            paths, tensors, shape = _tensors(branch(*operands), "result")
        traced.append((paths, tensors))
        shapes.append(shape)
    if shapes[0] != shapes[1]:
        raise GraphError(f"cond: one branch returns {shapes[0]}, the other {shapes[1]}{at(user_origin())}")
    for path, a, b in zip(traced[0][0], traced[0][1], traced[1][1], strict=True):
        if a.type != b.type:
            raise (DTypeError if a.shape == b.shape else ShapeError)(
                f"cond: {path} is {a.type} in one branch, {b.type} in the other{at(user_origin())}")
    if not traced[0][1]:
        return shapes[0].build(iter(()))
    results, cells = [], dict[Cell, None]()
    for _, tensors in traced:
        roots, updates = _updates([t.node for t in tensors], start)
        results.append((roots, {cell: value for _, cell, value in updates}))
        cells.update(dict.fromkeys(results[-1][1]))
    every = [[*roots, *(new.get(c) or make(REGISTRY["parameter"], (), {"cell": c}) for c in cells)] for roots, new in results]
    counters = _steps.get()
    every = [_drawn_per_step(roots, start, counters) for roots in every]
    number = len(every[0])
    graph, captured = close([], [r for roots in every for r in roots], lambda node: node.number < start)
    made = branches(REGISTRY["cond"], condition.node, graph.inputs, captured, [graph.outputs[:number], graph.outputs[number:]])
    count = number - len(cells)
    made = _attached(made[:count], [(c, t.node) for c, t in zip(cells, made[count:], strict=True)])
    return shapes[0].build(iter(made))


__all__ = ["cond", "flatten", "fori_loop", "scan"]
