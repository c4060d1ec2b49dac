"""Checks that a graph or a plan keeps its invariants; run after every pass.

Knows what must hold.  Must not know which pass ran.
"""

from __future__ import annotations

from graphc.errors import GraphError
from graphc.ir import Graph
from graphc.op import Kind
from graphc.plan import Buffer, Plan, Role, Step, bodies


class InvalidPlan(GraphError):
    """A plan in which some step would read memory that does not hold what it expects: a defect of a pass."""


def verify_graph(graph: Graph) -> None:
    """Every input node is declared, every update has its cell's type; nested graphs are closed and hold no cells."""
    declared = set(graph.inputs)
    for node in graph.nodes:
        if node.op.kind is Kind.SOURCE and "symbol" in node.attributes and node not in declared:
            raise GraphError(f"input '{node.attributes['name']}' is read but not declared")
    for cell, value in graph.updates:
        if value.type != cell.type:
            raise GraphError(f"the update of '{cell.name}' is {value.type}, the cell holds {cell.type}")
    cells = [cell for cell, _ in graph.updates]
    if len(set(cells)) != len(cells):
        raise GraphError("a cell is updated twice")
    for node in graph.nodes:
        for inner in node.graphs:
            if inner.cells():
                raise GraphError(f"a graph inside {node.op.name} reads '{inner.cells()[0].name}', which is no operand")
            verify_graph(inner)


def spans(plan: Plan, buffer: Buffer) -> tuple[object, int, int]:
    """(memory, first byte, last byte + 1) of a buffer."""
    home = plan.home(buffer)
    if home.role is Role.TEMPORARY:
        if home not in plan.offsets:
            raise InvalidPlan(f"{home} has no place in the arena")
        start = plan.offsets[home]
        return "arena", start, start + home.bytes
    return home.cell or home, 0, home.bytes


def verify_plan(plan: Plan) -> None:
    """No step reads memory that another step overwrote in between, and nothing is read before it is written.

    Replays the steps with a record of which buffer each stretch of memory holds.
    """
    holds: list[tuple[object, int, int, Buffer]] = []  # memory, start, end, the buffer whose value is there
    for buffer in (*plan.inputs, *plan.cells, *plan.constants):
        holds.append((*spans(plan, buffer), buffer))
    for step in plan.steps:
        for buffer in step.reads:
            check_holds(plan, holds, buffer, step.name)
        touched = (*step.writes, *step.workspace)
        for w, buffer in enumerate(touched):
            check_overlap(plan, step, touched, w)
            write(plan, holds, buffer)
        for inner in bodies(step):
            verify_plan(inner)
    old = {id(source): source for source, _ in plan.copies}
    for source in old.values():
        if source.role is not Role.TEMPORARY or source in plan.offsets or source in plan.aliases:
            made_by_copy = any(target is source for _, target in plan.copies)
            if not made_by_copy:
                check_holds(plan, holds, source, "copy")
    for _, target in plan.copies:
        write(plan, holds, target)
    for out in plan.outputs:
        aliased = any(plan.home(b) is out for b in plan.aliases)
        if not aliased and not any(target is out for _, target in plan.copies):
            raise InvalidPlan(f"{out} is never written")


def write(plan: Plan, holds: list[tuple[object, int, int, Buffer]], buffer: Buffer) -> None:
    memory, start, end = spans(plan, buffer)
    holds[:] = [h for h in holds if (h[0] is not memory and h[0] != memory) or h[2] <= start or end <= h[1]]
    holds.append((memory, start, end, buffer))


def check_holds(plan: Plan, holds: list[tuple[object, int, int, Buffer]], buffer: Buffer, reader: str) -> None:
    if buffer.bytes and not any(h[3] is buffer for h in holds):
        raise InvalidPlan(f"{reader} reads {buffer}, but its memory was never written or holds something else by then")


def check_overlap(plan: Plan, step: Step, touched: tuple[Buffer, ...], w: int) -> None:
    """What a step writes may share memory with what it reads only where it works in place."""
    memory, start, end = spans(plan, touched[w])
    for r, read in enumerate(step.reads):
        other, first, last = spans(plan, read)
        if (memory is other or memory == other) and first < end and start < last and (
                (w, r) not in step.in_place or first != start):
            raise InvalidPlan(f"{step.name} writes {touched[w]} over {read} while it still reads it")
    for v, written in enumerate(touched):
        other, first, last = spans(plan, written)
        if v != w and (memory is other or memory == other) and first < end and start < last:
            raise InvalidPlan(f"{step.name} writes {touched[w]} and {written} to one place")
