"""A program for fixed sizes of its open dimensions: how it is compiled, and what it needs.

Knows the stages from a simplified graph to something that runs, and the backends.  Must not know calls, feeds, or what users
get back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from time import perf_counter
from typing import TYPE_CHECKING, cast

from .errors import GraphError
from .garbage import kept_waiting
from .ir import Graph
from .origins import at, user_origin
from .records import NamedTuple, record

if TYPE_CHECKING:
    from .assumed import Assumed
    from .built import Built
    from .cells import Cell
    from .passes.known_masks import Band
    from .passes.pipeline import Pipeline
    from .passes.recompute import Fitted, Recomputed
    from .plan import Buffer, Plan
    from .runtime.native.executable import Native
    from .runtime.program import Executable, Runs

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


class Options(NamedTuple):
    """How a program is compiled; see `function`."""

    backend: str
    threads: int | None
    memory_budget: int | None
    precision: str


class Planned(NamedTuple):
    """What is to run for fixed sizes, on whatever machine.

    tiny        whether the step is so small that native code has no kernels
    recomputed  what was given to meet the memory budget
    batch       whether the batch runs in chunks, or why not, and what is computed in blocks
    """

    graph: Graph
    plan: Plan
    tiny: bool
    seconds: dict[str, float]
    recomputed: Recomputed | None
    batch: str


class Compiled(NamedTuple):
    """What a program became for fixed sizes, and all that can be looked at."""

    planned: Planned
    executable: Executable


@record(frozen=True)
class Specialized:
    """A program for fixed sizes of its open dimensions.

    executable  runs it
    compiles    gives what it was compiled to; compiles it now where the code was kept on disk by another process
    assumed     what it relies on about cells
    kept        seconds in which the code came from the disk; 0 where it was compiled
    """

    sizes: dict[str, int]
    executable: Runs
    compiles: Callable[[], Compiled]
    assumed: Assumed
    kept: float = 0.0

    @cached_property
    def compiled(self) -> Compiled:
        return self.compiles()

    @property
    def planned(self) -> Planned:
        return self.compiled.planned

    @property
    def graph(self) -> Graph:
        return self.planned.graph

    @property
    def plan(self) -> Plan:
        return self.planned.plan

    @property
    def seconds(self) -> dict[str, float]:
        return self.planned.seconds

    @property
    def recomputed(self) -> Recomputed | None:
        return self.planned.recomputed

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
def getting_ready(graph: Graph, options: Options) -> Iterator[None]:
    """What a long step will need, whatever its code is, is made meanwhile on another core."""
    short = len(graph.nodes) < LONG and sum(c.size for c in graph.cells()) < LARGE
    if options.backend != "native" or options.threads == 1 or short:
        yield
        return
    from .runtime.native.threads import available_parallelism, prepare

    ready = prepare() if available_parallelism() > 1 else None
    try:
        yield
    finally:
        if ready is not None:
            ready()


def specialize(name: str, built: Built, simplified: Callable[[], Graph], sizes: Mapping[str, int],
               options: Options, assumed: Assumed) -> Specialized:
    """A program for these sizes: kept on disk by an earlier process, or compiled and then kept.

    built       the graph as the user built it, by which a kept program is found
    simplified  gives what is compiled
    assumed     about cells, as they are now
    Raises GraphError where nothing meets the memory budget; `name` is what the message calls the program.
    """
    key = None
    if options.backend == "native":
        from .runtime.native import kept_programs
        from .runtime.native.threads import available_parallelism

        start = perf_counter()
        key = kept_programs.key_of(built, sizes, options.threads or available_parallelism(), options.memory_budget,
                                   options.precision, assumed)
        running = kept_programs.load(key, built) if key is not None else None
        if running is not None:
            again = partial(compile_again, name, built, dict(sizes), options, assumed.masks)
            return Specialized(dict(sizes), running, again, assumed, perf_counter() - start)
    with getting_ready(built.graph, options):
        compiled = compile_for(name, simplified(), sizes, options, assumed.masks)
    if key is not None:
        kept_programs.store(key, built, cast("Native", compiled.executable))
    return Specialized(dict(sizes), compiled.executable, lambda: compiled, assumed)


@kept_waiting()
def compile_again(name: str, built: Built, sizes: Mapping[str, int], options: Options, cells: Mapping[Cell, Band]) -> Compiled:
    """What a program that was kept on disk is compiled to, for those who want to look at it."""
    from .passes.pipeline import Pipeline

    return compile_for(name, Pipeline().simplified(built.graph), sizes, options, cells)


def planned(name: str, simplified: Graph, sizes: Mapping[str, int], *, backend: str, memory_budget: int | None,
            cells: Mapping[Cell, Band] | None = None) -> Planned:
    """The plan of a simplified graph for these sizes; cells: what it relies on about cells.

    Raises as `specialize`.
    """
    from .passes.cost import flops
    from .passes.pipeline import Pipeline  # passes load with the first program that is compiled

    pipeline = Pipeline(cells=cells or {})
    graph = pipeline.concrete(simplified, sizes)
    tiny, cost = False, None
    whole, blocks = pipeline.blockwise(graph) if memory_budget is None else (graph, "")
    graph, batch = whole, ""
    if backend == "native":
        from .runtime.native.unroll import scalar_operations

        tiny = scalar_operations(graph, flops) is not None
        if not tiny:
            graph, batch = pipeline.chunked(simplified, graph)
    if memory_budget is None:
        plan = pipeline.plan(graph)
    else:
        fitted = pipeline.fit(graph, memory_budget)
        if fitted.cost is not None or fitted.plan.arena_bytes > memory_budget:
            fitted, blocks = other_ways(pipeline, fitted, graph, whole, memory_budget)
        graph, plan, cost = fitted.graph, fitted.plan, fitted.cost
        if plan.arena_bytes > memory_budget:
            from .passes.recompute import refusal

            given = ", ".join(f"{k}={v}" for k, v in sizes.items()) or "these sizes"
            raise GraphError(f"{name} {refusal(given, memory_budget, fitted)}{at(user_origin())}")
    return Planned(graph, plan, tiny, pipeline.seconds, cost, "; ".join(filter(None, (blocks, batch))))


def other_ways(pipeline: Pipeline, fitted: Fitted, graph: Graph, whole: Graph, budget: int) -> tuple[Fitted, str]:
    """Where a budget takes operations: the way of fewest of them, or that of least memory where none meets it.

    fitted  what was found with the batch in chunks, if it is; whole: the graph with the batch as a whole
    With words about large values that are computed in blocks.
    """
    ways = [(fitted, "")]
    if fitted.plan.arena_bytes > budget and whole is not graph:
        ways.append((pipeline.fit(whole, budget), ""))
    in_blocks, words = pipeline.blockwise(whole, budget)
    if words:
        ways.append((pipeline.fit(in_blocks, budget), words))
    return min(ways, key=lambda way: (max(budget, way[0].plan.arena_bytes), way[0].plan.flops))



def compile_for(name: str, simplified: Graph, sizes: Mapping[str, int], options: Options, cells: Mapping[Cell, Band]
                ) -> Compiled:
    """Compiles a simplified graph for these sizes; cells: what it relies on about cells.

    Raises as `specialize`.
    """
    made = planned(name, simplified, sizes, backend=options.backend, memory_budget=options.memory_budget, cells=cells)
    if options.backend == "native":
        from .runtime.native.executable import Native
        from .runtime.native.target import host
        from .runtime.native.teams import team_of
        from .runtime.native.threads import available_parallelism

        wanted = options.threads or available_parallelism()
        team, nanoseconds = team_of(made.plan, 1 if made.tiny else wanted)
        native = Native(made.graph, made.plan, team, unrolled=made.tiny, nanoseconds=nanoseconds,
                        target=host(options.precision))
        made.seconds.update(native.seconds)
        return Compiled(made, native)
    from .runtime.program import Interpreted

    return Compiled(made, Interpreted(made.graph, made.plan))
