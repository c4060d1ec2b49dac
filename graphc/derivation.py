"""Training steps that were derived before: a process that says the same again need not derive gradients and updates.

Knows what an entry of the disk cache says of a derived graph: its digest, which inputs and cells it has, and how slots begin.
Must not know how a step is derived, or how it is compiled.

Derivation depends on what the user says alone, and a digest of that is the entry's key.  So whatever it raises it would have
raised in the process that made the entry, which then would not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from .built import Built, Waiting
from .cells import Cell
from .declaration import Declaration
from .identity import Unspoken
from .ir import Graph
from .optim.optimizer import Slot
from .origins import from_one_line, is_own

if TYPE_CHECKING:
    from .passes.update import TrainingStep


def derived(step: TrainingStep, said: Graph, given: int | None, derive: Callable[[], Graph]) -> Built:
    """The graph of a training step; one that waits where this machine has kept what it is.

    said    the loss, the step's outputs and the schedules' new values; its inputs are all placeholders
    given   how many of them the user has said are the step's; None where all that are needed are
    derive  gives the graph
    """
    from .runtime.native import cache
    from .runtime.native.kept import DAMAGED, keeping

    found = keeping()
    declaration = None if found is None else declare(step, said, given)
    if found is None or declaration is None:
        return Built(derive())
    with from_one_line():
        context = copy_context()  # whenever it is derived, it comes from the line that has made the step

    def in_context() -> Graph:
        return context.copy().run(derive)

    cells, key = list(declaration.cells), cache.joint_key(b"training step", declaration.digest())
    entry = found[0].lookup(key)
    if entry is not None:
        with suppress(*DAMAGED):
            return waiting(entry.meta, step, said, cells, in_context)
    consulted, slots = numbers_read(step), [len(o.slots_begun) for o in step.optimizers]
    built = Built(in_context())
    if consulted == numbers_read(step):
        told = tell(built, step, said, cells, [o.slots_begun[n:] for o, n in zip(step.optimizers, slots, strict=True)])
        if told is not None:
            found[0].store(key, b"", told)
    return built


def declare(step: TrainingStep, said: Graph, given: int | None) -> Declaration | None:
    """What the step is derived from; None where that is not graphc's own code alone."""
    if not all(is_own(type(optimizer).update) for optimizer in step.optimizers):
        return None
    held = step.accumulation
    try:
        return Declaration(said, [given, step.params, step.optimizers, step.averages, step.clip_norm, step.clip_value,
                                  step.limits, None if held is None else [*held]])
    except Unspoken:
        return None


def numbers_read(step: TrainingStep) -> int:
    """How often rules have asked for a number that is a cell's: no derivation that does is like another one."""
    return sum(group.consulted for optimizer in step.optimizers for group in optimizer.param_groups)


def tell(built: Built, step: TrainingStep, said: Graph, known: Sequence[Cell], begun: Sequence[Sequence[Slot]]
         ) -> dict[str, Any] | None:
    """What there is to know of a derived graph, in numbers of what was said; None where something else is in it."""
    if any(slot.first is None for slots in begun for slot in slots):
        return None
    cells = {cell: place for place, cell in enumerate([*known, *slots_of(step, begun)])}
    inputs = {node: place for place, node in enumerate(said.inputs)}
    nodes = {node: place for place, node in enumerate(said.nodes)}
    slots = [(place, slot.of if isinstance(slot.of, int) else [cells[slot.of.cell]], slot.name, slot.first, slot.shape)
             for place, ones in enumerate(begun) for slot in ones]
    try:
        return {"digest": built.digest.hex(), "updated": [cells[cell] for cell, _ in built.graph.updates],
                "inputs": [inputs[node] for node in built.inputs], "cells": [cells[cell] for cell in built.names()],
                "slots": slots, "constants": [
                    (place, nodes[node]) for place, node in enumerate(built.graph.nodes)
                    if node in nodes and "value" in node.attributes and node.attributes["value"].size > 1]}
    except (KeyError, Unspoken):
        return None


def waiting(told: dict[str, Any], step: TrainingStep, said: Graph, known: Sequence[Cell], derive: Callable[[], Graph]
            ) -> Waiting:
    """The graph that an entry tells of; its slots begin, and hyperparameters are constants from now on."""
    params = {p.cell: p for o in step.optimizers for g in o.param_groups for p in g.params}
    begun: list[list[Slot]] = [[] for _ in step.optimizers]
    for place, of, name, first, shape in told["slots"]:
        begun[place].append(Slot(of if isinstance(of, int) else params[known[of[0]]], name, first, tuple(shape)))
    inputs = [said.inputs[place] for place in told["inputs"]]
    constants = {place: said.nodes[of].attributes["value"] for place, of in told["constants"]}
    digest, updated, places = bytes.fromhex(told["digest"]), list(map(int, told["updated"])), list(map(int, told["cells"]))
    if not all(0 <= place < len(known) + sum(map(len, begun)) for place in (*places, *updated)):
        raise LookupError(places)
    for group in (g for o in step.optimizers for g in o.param_groups):
        group.freeze()
    cells = [*known, *slots_of(step, begun)]
    return Waiting(inputs, said.output_names, [cells[place] for place in updated], digest, [cells[place] for place in places],
                   constants, derive)


def slots_of(step: TrainingStep, begun: Sequence[Sequence[Slot]]) -> Iterator[Cell]:
    for optimizer, slots in zip(step.optimizers, begun, strict=True):
        for slot in slots:
            yield optimizer.begin_slot(slot).cell
