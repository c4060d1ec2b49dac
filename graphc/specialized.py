"""A program for fixed sizes of its open dimensions: how it is compiled, and what it needs.

Knows the stages from a simplified graph to something that runs, and the backends.  Must not know calls, feeds, or what users
get back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import GraphError
from .ir import Graph
from .origins import at, user_origin
from .passes.cost import flops
from .plan import Buffer, Plan
from .records import NamedTuple, record
from .runtime.program import Executable, Interpreted

if TYPE_CHECKING:
    from .passes.recompute import Recomputed

LONG = 300  # nodes of a graph whose passes take as long as making the code of the pool of threads, or longer
LARGE = 1 << 17  # elements of parameters and states from which a step is work for several threads, however few its nodes


class Memory(NamedTuple):
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


@record(frozen=True)
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


@contextmanager
def getting_ready(graph: Graph, backend: str, threads: int | None) -> Iterator[None]:
    """What a long step will need, whatever its code is, is made meanwhile on another core."""
    if backend != "native" or threads == 1 or (len(graph.nodes) < LONG and sum(c.size for c in graph.cells()) < LARGE):
        yield
        return
    from .runtime.native.threads import available_parallelism, prepare

    ready = prepare() if available_parallelism() > 1 else None
    try:
        yield
    finally:
        if ready is not None:
            ready()


def specialize(name: str, simplified: Graph, sizes: Mapping[str, int], *, backend: str, threads: int | None,
               memory_budget: int | None) -> Specialized:
    """Compiles a simplified graph for these sizes.

    Raises GraphError where nothing meets the memory budget; `name` is what the message calls the program.
    """
    from .passes.pipeline import Pipeline  # passes load with the first program that is compiled

    pipeline = Pipeline()
    graph = pipeline.concrete(simplified, sizes)
    tiny, whole, batch = False, graph, ""
    if backend == "native":
        from .runtime.native.unroll import scalar_operations

        tiny = scalar_operations(graph, flops) is not None
        if not tiny:
            graph, batch = pipeline.chunked(simplified, graph)
    cost = None
    if memory_budget is None:
        plan = pipeline.plan(graph)
    else:
        fitted = pipeline.fit(graph, memory_budget)
        if fitted.plan.arena_bytes > memory_budget and whole is not graph:
            fitted = min(fitted, pipeline.fit(whole, memory_budget), key=lambda f: f.plan.arena_bytes)
        graph, plan, cost = fitted.graph, fitted.plan, fitted.cost
        if plan.arena_bytes > memory_budget:
            from .passes.recompute import refusal

            given = ", ".join(f"{k}={v}" for k, v in sizes.items()) or "these sizes"
            raise GraphError(f"{name} {refusal(given, memory_budget, fitted)}{at(user_origin())}")
    executable: Executable
    if backend == "native":
        from .runtime.native.executable import Native
        from .runtime.native.teams import pays
        from .runtime.native.threads import available_parallelism

        wanted = threads or available_parallelism()
        executable = Native(graph, plan, wanted if not tiny and pays(plan, wanted) else 1, unrolled=tiny)
        pipeline.seconds.update(executable.seconds)
    else:
        executable = Interpreted(graph, plan)
    return Specialized(dict(sizes), graph, plan, executable, pipeline.seconds, cost, batch)
