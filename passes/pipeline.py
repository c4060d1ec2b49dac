"""The pipeline: which passes run, in which order, and why; each one verified, timed and open to a look.

Knows the order.  Must not know what the passes do inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

from graphc.ir import Graph
from graphc.plan import Plan

from .expand import expand_composites, specialize
from .fuse import fuse
from .memory import plan_memory
from .schedule import schedule
from .simplify import simplify, stabilize
from .split import split_long_sums
from .verify import verify_graph, verify_plan

Observer = Callable[[str, Graph | Plan], None]

GRAPH_PASSES: tuple[tuple[str, Callable[[Graph], Graph], str], ...] = (
    ("stabilize", stabilize, "first: log(softmax) must be seen before softmax is taken apart"),
    ("expand", expand_composites, "then only primitives are left, on which the rules are written"),
    ("simplify", simplify, "folding, rules and view algebra on the whole step, gradients and updates included"),
)


@dataclass
class Pipeline:
    """Runs the passes.  `observe(stage, result)` is called after each one; `seconds` collects their times."""

    observe: Observer | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def _done(self, stage: str, result: Graph | Plan, start: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start
        if self.observe is not None:
            self.observe(stage, result)

    def simplified(self, graph: Graph) -> Graph:
        """The graph after all passes that work on open sizes."""
        for stage, run, _ in GRAPH_PASSES:
            start = perf_counter()
            graph = run(graph)
            verify_graph(graph)
            self._done(stage, graph, start)
        return graph

    def concrete(self, graph: Graph, sizes: Mapping[str, int]) -> Graph:
        """A graph for given sizes: what only these allow to fold is folded; last, as simplify would undo it, sums are split."""
        start = perf_counter()
        graph = split_long_sums(simplify(expand_composites(specialize(graph, sizes))))
        verify_graph(graph)
        self._done("specialize", graph, start)
        return graph

    def plan(self, graph: Graph) -> Plan:
        """The Plan of a concrete graph: fuse, order, place."""
        start = perf_counter()
        fused = fuse(graph)
        self.seconds["fuse"] = self.seconds.get("fuse", 0.0) + perf_counter() - start
        start = perf_counter()
        plan = plan_memory(graph, fused, schedule(graph, fused))
        verify_plan(plan)
        self._done("plan", plan, start)
        return plan
