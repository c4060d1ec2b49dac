"""Nodes that hold graphs become steps that hold plans.

Knows how a nested graph's inputs and outputs meet memory outside: which entries of which arrays, and what one run hands to
the next.  Must not know how the nested graph itself is planned, or ops' names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.ir import Graph, Node
from graphc.op import Kind
from graphc.plan import Branch, Buffer, Carry, Loop, Plan, Role
from graphc.types import TensorType, bool_

PlanOf = Callable[[Graph], Plan]
Results = Mapping[int, Buffer]  # memory for those results of the node that are wanted


def nested_step(name: str, node: Node, operands: Sequence[Buffer], results: Results, plan_of: PlanOf) -> Loop | Branch:
    """The step of a LOOP or COND node."""
    make_step = loop_step if node.op.kind is Kind.LOOP else branch_step
    return make_step(name, node, operands, results, plan_of)


def loop_step(name: str, node: Node, operands: Sequence[Buffer], results: Results, plan_of: PlanOf) -> Loop:
    """A loop whose runs write stacked results where they belong.

    A new carry that is stacked as well is handed on in the stack; other carries live in two places that runs read and
    write in turn, so that nothing is copied.
    """
    carries, sequences = node.attributes["carries"], node.attributes["sequences"]
    (graph,) = node.graphs
    stacks = [k for k in range(carries, len(graph.outputs)) if k in results]
    at_stack = {graph.outputs[k]: place for place, k in reversed(list(enumerate(stacks)))}
    turning = [k for k in range(carries) if graph.outputs[k] not in at_stack]
    body = plan_of(Graph(graph.inputs, tuple(graph.outputs[k] for k in (*stacks, *turning))))
    workspace: list[Buffer] = []

    def place_inside(what: str, type_: TensorType) -> Buffer:
        workspace.append(Buffer(f"{name}_{what}", type_, Role.TEMPORARY))
        return workspace[-1]

    carried = []
    for k in range(carries):
        type_, last = graph.outputs[k].type, results.get(k)
        if k in turning:
            write = body.outputs[len(stacks) + turning.index(k)]
            carried.append(Carry(operands[k], body.inputs[k], write, last or place_inside(f"carry{k}", type_),
                                 place_inside(f"turn{k}", type_)))
        else:
            write = body.outputs[at_stack[graph.outputs[k]]]
            carried.append(Carry(operands[k], body.inputs[k], write, last))
    entries = range(carries, carries + sequences)
    length = node.attributes["length"]
    if body.arena_bytes and (carried or length < 2):  # else runs have arenas of their own
        workspace.insert(0, arena(name, body.arena_bytes))
    return Loop(
        name, length, body,
        reads=tuple(dict.fromkeys(operands)), writes=tuple(results.values()),
        sliced=(*((operands[k], body.inputs[k]) for k in entries),
                *((results[k], body.outputs[place]) for place, k in enumerate(stacks))),
        shared=tuple((operands[k], body.inputs[k]) for k in range(carries + sequences, len(operands))),
        carried=tuple(carried), reverse=node.attributes["reverse"],
        workspace=tuple(workspace), phase=node.phase, scope=node.scope)


def branch_step(name: str, node: Node, operands: Sequence[Buffer], results: Results, plan_of: PlanOf) -> Branch:
    """Both sides write the same results; whichever runs has the arena for itself."""
    plans = [plan_of(Graph(g.inputs, tuple(g.outputs[k] for k in results))) for g in node.graphs]
    size = max(p.arena_bytes for p in plans)
    return Branch(name, operands[0], plans[0], plans[1], tuple(operands[1:]), tuple(results.values()),
                  (arena(name, size),) if size else (), phase=node.phase, scope=node.scope)


def arena(name: str, size: int) -> Buffer:
    return Buffer(f"{name}_arena", TensorType(bool_, (size,)), Role.TEMPORARY)
