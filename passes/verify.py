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
        if node.op.kind is Kind.SOURCE:
            if "symbol" in node.attributes and node not in declared:
                raise GraphError(f"input '{node.attributes['name']}' is read but not declared")
        elif node.graphs:
            for inner in node.graphs:
                if inner.cells():
                    raise GraphError(f"a graph inside {node.op.name} reads '{inner.cells()[0].name}', which is no operand")
                verify_graph(inner)
    for cell, value in graph.updates:
        if value.type != cell.type:
            raise GraphError(f"the update of '{cell.name}' is {value.type}, the cell holds {cell.type}")
    cells = [cell for cell, _ in graph.updates]
    if len(set(cells)) != len(cells):
        raise GraphError("a cell is updated twice")


def spans(plan: Plan, buffer: Buffer) -> tuple[object, int, int]:
    """(memory, first byte, last byte + 1) of a buffer."""
    home = plan.home(buffer)
    if home.role is Role.TEMPORARY:
        if home not in plan.offsets:
            raise InvalidPlan(f"{home} has no place in the arena")
        start = plan.offsets[home]
        return "arena", start, start + home.bytes
    return home.cell or home, 0, home.bytes


class Held:
    """Which buffer each stretch of memory holds while steps are replayed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stretches: dict[object, list[tuple[int, int, Buffer]]] = {}  # of each memory: start, end, the buffer that is there
        self.buffers: set[Buffer] = set()
        for buffer in (*plan.inputs, *plan.cells, *plan.constants):
            self.write(buffer)

    def write(self, buffer: Buffer) -> None:
        memory, start, end = spans(self.plan, buffer)
        kept = []
        for stretch in self.stretches.get(memory, ()):
            if stretch[1] <= start or end <= stretch[0]:
                kept.append(stretch)
            else:
                self.buffers.discard(stretch[2])
        self.stretches[memory] = [*kept, (start, end, buffer)]
        self.buffers.add(buffer)

    def check(self, buffer: Buffer, reader: str) -> None:
        if buffer.bytes and buffer not in self.buffers:
            raise InvalidPlan(f"{reader} reads {buffer}, but its memory was never written or holds something else by then")


def verify_plan(plan: Plan) -> None:
    """No step reads memory that another step overwrote in between, and nothing is read before it is written.

    Replays the steps with a record of which buffer each stretch of memory holds.
    """
    held = Held(plan)
    for step in plan.steps:
        for buffer in step.reads:
            held.check(buffer, step.name)
        touched = (*step.writes, *step.workspace)
        for w, buffer in enumerate(touched):
            check_overlap(plan, step, touched, w)
            held.write(buffer)
        for inner in bodies(step):
            verify_plan(inner)
    made_by_copy = {target for _, target in plan.copies}
    for source, _ in plan.copies:
        placed = source.role is not Role.TEMPORARY or source in plan.offsets or source in plan.aliases
        if placed and source not in made_by_copy:
            held.check(source, "copy")
    for _, target in plan.copies:
        held.write(target)
    elsewhere = {plan.home(buffer) for buffer in plan.aliases}
    for out in plan.outputs:
        if out not in elsewhere and out not in made_by_copy:
            raise InvalidPlan(f"{out} is never written")


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
