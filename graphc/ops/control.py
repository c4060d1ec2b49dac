"""Ops that say something about the graph rather than compute: where gradients stop, which state a layer updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count as counter
from typing import Any

import numpy as np

from ..cells import Cell
from ..errors import GraphError, ShapeError
from ..ir import Node, make
from ..methods import public
from ..op import REGISTRY, Kind, Op, Sample, define, same_type
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor, TensorLike, apply, as_tensor, held
from ..types import TensorType


def _item_type(*types: TensorType, item: int) -> TensorType:
    if not 0 <= item < len(types):
        raise ShapeError(f"there is no result {item}")
    return types[item]


define(Op("item", Kind.ITEM, _item_type, dtypes="fib", doc="One result of a node that has several."))


def results_of(node: Node) -> list[Tensor]:
    """All results of a node, each as a tensor."""
    if len(node.types) == 1:
        return [held(node)]
    return [held(make(REGISTRY["item"], (node,), {"item": k})) for k in range(len(node.types))]


def apply_all(op: Op, *inputs: Tensor, **attributes: Any) -> list[Tensor]:
    """All results of an op on these tensors."""
    return results_of(make(op, [i.node for i in inputs], attributes))


_stop = define(Op("stop_gradient", Kind.MAP, same_type, lambda x: x, (None,), lambda s, x: x, dtypes="fib",
                  domain=((-2.0, 2.0),),
                  doc="x itself; no gradient flows through."))


@public
def stop_gradient(x: TensorLike) -> Tensor:
    """x itself; no gradient flows through (PyTorch's detach)."""
    return apply(_stop, as_tensor(x))


def _updating_type(out: TensorType, *new: TensorType, cells: tuple[Cell, ...], group: int = 0) -> TensorType:
    for cell, type_ in zip(cells, new, strict=True):
        if cell.type != type_:
            raise ShapeError(f"state '{cell.name}' is {cell.type}, its new value {type_}")
    return out


def _pass_on(g: Tensor, out: Tensor, first: Tensor, *new: Tensor, cells: tuple[Cell, ...], group: int = 0) -> list[Any]:
    return [g, *(None for _ in new)]


_updating = define(Op("updating", Kind.COMPOSITE, _updating_type, lambda out, *new, cells, group=0: np.asarray(out), _pass_on,
                      expand=lambda out, *new, cells, group=0: out,
                      passes=lambda position, *, cells, group=0: position == 0, dtypes="fib", serial=("group",),
                      samples=(Sample(((3, 4),), {"cells": ()}),),
                      doc="The first input, carrying new values of states that the program updates."))


@public
def updating(out: TensorLike, states: Mapping[Parameter, TensorLike]) -> Tensor:
    """`out` itself, carrying new values of states: a program that reaches it updates them after each step.

    Two updates of one state compose in order of construction: the later reads what the earlier wrote.
    """
    for target in states:
        if not isinstance(target, Parameter):
            raise GraphError(f"updating: {target!r} is no state{at(user_origin())}")
    new = [as_tensor(value, target) for target, value in states.items()]
    return apply(_updating, as_tensor(out), *new, cells=tuple(t.cell for t in states))


_groups = counter(1)


def all_updating(results: Sequence[Tensor], cells: Sequence[Cell], new: Sequence[Tensor]) -> list[Tensor]:
    """The results, each of which carries new values of states: whoever reaches one of them, or all, updates them once."""
    return Turn().updating(results, cells, new)


def updating_each_time(out: Tensor, states: Mapping[Parameter, TensorLike]) -> Tensor:
    """As `updating`, where the same expression written again is another update: a layer that is called twice on a symbol."""
    new = [as_tensor(value, target) for target, value in states.items()]
    return all_updating([out], [target.cell for target in states], new)[0]


define(Op("reading", Kind.COMPOSITE, lambda x, *, group, of=None: x, lambda x, *, group, of=None: np.asarray(x), (None,),
          expand=lambda x, *, group, of=None: x, smooth=False, dtypes="fib", serial=("group",),
          samples=(Sample(((3, 4),), {"group": 0}),),
          doc="A state as the updates before those of a group left it, where the program has any; no gradient."))


class Turn:
    """One call of a layer whose result depends on states that it moves: a later call in the same step reads them moved."""

    def __init__(self) -> None:
        self.group = next(_groups)

    def read(self, state: Tensor, cell: Cell) -> Tensor:
        """The state as earlier calls left it."""
        return apply("reading", state, group=self.group, of=cell)

    def updating(self, results: Sequence[Tensor], cells: Sequence[Cell], new: Sequence[Tensor]) -> list[Tensor]:
        """The results, each of which carries new values of states: whoever reaches one of them, or all, updates them once."""
        return [apply(_updating, r, *new, cells=tuple(cells), group=self.group) for r in results]


def readings(nodes: Iterable[Node]) -> dict[int, list[Node]]:
    """The nodes that read a state in its turn, by the group whose turn it is."""
    found: dict[int, list[Node]] = {}
    for node in nodes:
        if "of" in node.attributes and node.op is REGISTRY["reading"]:
            found.setdefault(node.attributes["group"], []).append(node)
    return found


class Carried:
    """Which updates were met already, of those that several results carry."""

    def __init__(self) -> None:
        self.met: set[int] = set()

    def again(self, carrier: Node) -> bool:
        """Whether another result has carried what this one carries."""
        group = carrier.attributes.get("group", 0)
        known = group in self.met
        self.met |= {group} if group else set()
        return known
