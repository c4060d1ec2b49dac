"""A program for fixed sizes: its plan, what runs it, and what that costs.

Knows plans and what backends offer.  Must not know how sizes were found, or how a program is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ir import Graph
from .plan import Buffer, Plan
from .runtime.program import Executable

if TYPE_CHECKING:
    from .passes.recompute import Recomputed


@dataclass(frozen=True)
class Memory:
    """Bytes that a program for fixed sizes needs.

    cells      parameters, slots and other states
    arena      temporaries of one step
    inputs     one set of arrays that are fed
    outputs    one set of arrays that are returned
    constants  large ones, that do not stand in the code
    scratch    packed operands and partial sums of the backend, for all threads
    """

    cells: int
    arena: int
    inputs: int
    outputs: int
    constants: int
    scratch: int

    @property
    def total(self) -> int:
        return self.cells + self.arena + self.inputs + self.outputs + self.constants + self.scratch


@dataclass(frozen=True)
class Specialized:
    """A program for fixed sizes of its open dimensions."""

    sizes: dict[str, int]
    graph: Graph
    plan: Plan
    executable: Executable
    seconds: dict[str, float]
    recomputed: Recomputed | None = None  # what was given to meet the memory budget
    batch: str = ""  # whether the batch runs in chunks, or why not

    @property
    def memory_bytes(self) -> int:
        """Bytes of temporaries: the arena of one step."""
        return self.plan.arena_bytes

    @property
    def memory(self) -> Memory:
        """Everything that a step needs, by what it is for."""
        plan = self.plan

        def bytes_of(buffers: Sequence[Buffer]) -> int:
            return sum(b.bytes for b in buffers)

        return Memory(bytes_of(plan.cells), plan.arena_bytes, bytes_of(plan.inputs), bytes_of(plan.outputs),
                      bytes_of(plan.constants), self.executable.scratch_bytes)

    @property
    def flops(self) -> int:
        """Operations of one step, multiply and add counted as two."""
        return self.plan.flops
