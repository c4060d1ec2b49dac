"""The pipeline: which passes run, in which order, and why; each one verified, timed and open to a look.

Knows the order.  Must not know what the passes do inside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from graphc.cells import Cell
from graphc.ir import Graph, Node, for_each_graph
from graphc.op import Kind
from graphc.origins import from_one_line
from graphc.plan import Kernel, Plan
from graphc.records import field, record
from graphc.types import Dim

from .chunk import chunk
from .deal import contraction, deal, is_short
from .expand import expand_composites, specialize
from .fuse import Fused, fuse
from .loops import merge_scans
from .masks import Facts
from .memory import plan_memory
from .picks import picks_of
from .row_sums import share_row_sums
from .schedule import schedule
from .simplify import simplify, stabilize
from .split import split_long_sums
from .unit_sums import Key, cut_sums, key_of
from .verify import verify_graph, verify_plan

if TYPE_CHECKING:
    from .known_masks import Band
    from .recompute import Fitted

PIECES_AT_ONCE = 4  # of a value that is computed in pieces, of which a memory budget is to hold as many
LARGE = 32 << 20  # bytes of a value that may be worth blocks without a memory budget
NOTHING: Mapping[Node, Facts] = {}
Observer = Callable[[str, Graph | Plan], None]


def everywhere(run: Callable[[Graph], Graph]) -> Callable[[Graph], Graph]:
    """The pass on every nested graph, innermost first, then on the graph itself."""
    return lambda graph: for_each_graph(graph, run)


GRAPH_PASSES: tuple[tuple[str, Callable[[Graph], Graph], str], ...] = (
    ("stabilize", everywhere(stabilize), "first: log(softmax) must be seen before softmax is taken apart"),
    ("expand", everywhere(expand_composites), "then only primitives are left, on which the rules are written"),
    ("loops", merge_scans, "before bodies are simplified, each in its own way: now loops that agree still have equal bodies"),
    ("simplify", everywhere(simplify), "folding, rules and view algebra on the whole step, gradients and updates included"),
)


@record()
class Pipeline:
    """Runs the passes.  `observe(stage, result)` is called after each one; `seconds` collects their times.

    cells   what is known of cells, which a plan relies on
    """

    observe: Observer | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    cells: Mapping[Cell, Band] = field(default_factory=dict)

    def _done(self, stage: str, result: Graph | Plan, start: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start
        if self.observe is not None:
            self.observe(stage, result)

    def _known(self, graph: Graph) -> Mapping[Node, Facts]:
        if not self.cells:
            return NOTHING
        from .known_masks import facts_about

        return facts_about(graph, self.cells)

    @from_one_line()
    def simplified(self, graph: Graph) -> Graph:
        """The graph after all passes that work on open sizes."""
        for stage, run, _ in GRAPH_PASSES:
            start = perf_counter()
            graph = run(graph)
            verify_graph(graph)
            self._done(stage, graph, start)
        return graph

    @from_one_line()
    def concrete(self, graph: Graph, sizes: Mapping[str, int]) -> Graph:
        """A graph for given sizes: what only these allow to fold is folded, single elements of lines are picked in place."""
        start = perf_counter()
        if self.cells:
            from .known_masks import written_out  # loads with the first program that keeps a mask in a buffer

            graph = written_out(graph, self.cells)
        graph = for_each_graph(specialize(graph, sizes), picked_and_simplified)
        verify_graph(graph)
        self._done("specialize", graph, start)
        return graph

    @from_one_line()
    def blockwise(self, graph: Graph, budget: int | None = None) -> tuple[Graph, str]:
        """The concrete graph with large values computed block by block, and words about it.

        budget   bytes for temporaries; without one only what gains memory for next to no time
        """
        if budget is None and all(n.type.bytes < LARGE for n in graph.nodes if n.op.kind is Kind.CONTRACT):
            return graph, ""
        from .blockwise import PIECE, blockwise  # loads with the first program that may have such values

        start = perf_counter()
        graph, words = blockwise(graph) if budget is None else blockwise(graph, True, min(PIECE, budget // PIECES_AT_ONCE))
        verify_graph(graph)
        self._done("blockwise", graph, start)
        return graph, words

    @from_one_line()
    def chunked(self, open_graph: Graph, graph: Graph) -> tuple[Graph, str]:
        """The concrete graph with its batch in chunks where that pays, and words about it."""
        start = perf_counter()
        names = dict.fromkeys(i.shape[0] for i in open_graph.inputs if i.shape and isinstance(i.shape[0], Dim))
        lengths = {n.attributes["length"] for n in open_graph.nodes if n.op.kind is Kind.LOOP}
        named = [{new: old.shape.index(name) for old, new in zip(open_graph.inputs, graph.inputs, strict=True)
                  if name in old.shape} for name in names if name not in lengths]
        graph, words = chunk(graph, named)
        verify_graph(graph)
        self._done("chunk", graph, start)
        return graph, words

    @from_one_line()
    def plan(self, graph: Graph) -> Plan:
        """The Plan of a concrete graph: fuse, order, place."""
        start = perf_counter()
        plan = self._dealt(graph)
        self._done("plan", plan, start)
        return plan

    def _dealt(self, graph: Graph) -> Plan:
        """The plan, with what threads may keep to themselves dealt out.

        Sums over units are cut for that; those which then cannot be dealt are left whole.
        """
        only: Collection[Key] | None = None
        if is_short(graph):
            for _ in range(2):
                cut, keys = cut_sums(graph, only)
                if not keys:
                    break
                plan = deal(nested_plan(cut, self._known(cut)))
                done = {key_of(contraction(k)) for k in plan.steps if isinstance(k, Kernel) and k.dealt is not None}
                only = [key for key, stands_for in keys.items() if stands_for in done]
                if len(only) == len(keys):
                    return plan
        plan = nested_plan(graph, self._known(graph))
        return deal(plan) if is_short(graph) else plan

    @from_one_line()
    def fit(self, graph: Graph, budget: int) -> Fitted:
        """A concrete graph that computes again what its Plan has no room for, and that Plan."""
        from .recompute import fit  # loads with the first program that has a budget

        start = perf_counter()
        fitted = fit(split_long_sums(graph), budget, lambda g: laid_out(g, self._known(g)))
        verify_graph(fitted.graph)
        self._done("fit", fitted.graph, start)
        self._done("plan", fitted.plan, perf_counter())
        return fitted


def picked_and_simplified(graph: Graph) -> Graph:
    """A graph of known sizes, simplified, with single elements of lines picked in place."""
    graph = expand_composites(graph)
    return share_row_sums(simplify(graph, change=picks_of(graph)))


def laid_out(graph: Graph, known: Mapping[Node, Facts] = NOTHING) -> tuple[Fused, Plan]:
    """Fuse, order, place; graphs inside the graph become plans inside the plan.  known: facts about its inputs."""
    fused = fuse(graph, nested_plan, known)
    plan = plan_memory(graph, fused, schedule(graph, fused))
    verify_plan(plan)
    return fused, plan


def nested_plan(graph: Graph, known: Mapping[Node, Facts] = NOTHING) -> Plan:
    """The plan of a graph."""
    return laid_out(split_long_sums(graph), known)[1]  # last of the graph's rewrites: simplify would undo it
