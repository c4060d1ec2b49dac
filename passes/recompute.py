"""Fits a step into a memory budget: values that wait long are computed again instead of kept, as few operations as possible.

Knows a graph and the plan that it would get.  Must not know gradients, optimizers or op names.

What to keep is a minimum cut (`keeping`).  A cut alone would compute a whole chain again at once, and need as much memory as
before; so the forward part is taken in segments, each computed again by itself when its first value is due and from values kept
at its start (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).  The last segment is due at once and kept.
Prices and segments are tightened until the plan that is really made meets the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from graphc.ir import Graph, Node
from graphc.plan import Plan
from graphc.records import record

from .fuse import Fused
from .keeping import History
from .second import Circular, Rewriting

PRICES = (1.0, 0.25, 0.06, 0.015, 0.004, 0.0)  # bytes worth one operation: from cheap maps alone to any contraction
SEGMENTS = (2, 3, 4, 6, 8, 11, 16, 24)
ROUNDS = 4  # a fitted graph may be fitted again: its memory waits elsewhere
LIGHT = 1.1  # times the operations: who gave no more has the most ways left, where fitting the best again does not suffice
LayOut = Callable[[Graph], tuple[Fused, Plan]]


@record(frozen=True)
class Recomputed:
    """What a budget cost.

    values  what is computed again: (how it reads, bytes that it took)
    """

    values: tuple[tuple[str, int], ...]
    operations: tuple[int, int]  # of a step, before and after
    arena: tuple[int, int]  # bytes of temporaries, before and after


@record(frozen=True)
class Fitted:
    """A graph, its plan, and what was given for it; `cost` is None where nothing had to be."""

    graph: Graph
    plan: Plan
    cost: Recomputed | None = None


def fit(graph: Graph, budget: int, lay_out: LayOut) -> Fitted:
    """The graph whose plan takes at most `budget` bytes of temporaries, with the fewest operations that were found.

    graph    concrete: sizes known, no composites
    lay_out  fuses, orders and places a graph
    Where nothing reaches the budget, the result is the one that comes closest.
    """
    fused, plan = lay_out(graph)
    best = Fitted(graph, plan)
    waiting, light = [(best, fused)], None
    for _ in range(ROUNDS):
        if best.plan.arena_bytes <= budget or not waiting:
            break
        base, fused = waiting.pop()
        found = None
        for fitted, how in _attempts(base, fused, lay_out):
            if fitted.plan.arena_bytes < best.plan.arena_bytes:
                best, found = fitted, (fitted, how)
            less = light is None or fitted.plan.arena_bytes < light[0].plan.arena_bytes
            if less and fitted.plan.flops <= LIGHT * plan.flops:
                light = fitted, how
            if best.plan.arena_bytes <= budget:
                break
        if light is not None and light is not found and base.cost is None:
            waiting.append(light)
        if found is not None:
            waiting.append(found)
    return best


def _attempts(base: Fitted, fused: Fused, lay_out: LayOut) -> Iterator[tuple[Fitted, Fused]]:
    """Graphs that compute more and more again."""
    plan, cost = base.plan, base.cost
    before = cost or Recomputed((), (plan.flops, plan.flops), (plan.arena_bytes, plan.arena_bytes))
    history = History(base.graph, fused, plan)
    seen: set[frozenset[Node]] = set()
    fruitless, least = 0, plan.arena_bytes
    for count in (1, *SEGMENTS):
        borders = history.borders(count)
        for price in PRICES[:4] if count == 1 else PRICES[-3::2]:  # a chain at once would need what it saves
            choice = history.choose(borders, price)
            if not choice or choice in seen:
                continue
            seen.add(choice)
            try:
                graph = Rewriting(history, choice).graph()
            except Circular:
                continue
            how, found = lay_out(graph)
            yield Fitted(graph, found, Recomputed(
                (*before.values, *history.described(choice)), (before.operations[0], found.flops),
                (before.arena[0], found.arena_bytes))), how
            fruitless, least = (0, found.arena_bytes) if found.arena_bytes < least else (fruitless + 1, least)
        if fruitless >= 4 and count > 2:
            return


def refusal(given: str, budget: int, fitted: Fitted) -> str:
    """What an error says where nothing meets the budget: the least that was reached, and what to do."""
    least, cost = fitted.plan.arena_bytes, fitted.cost
    tried = (f", even when {len(cost.values)} values are computed again ({cost.arena[0]:,} when none are)" if cost
             else "; nothing that could be computed again makes it less")
    return (f"needs {least:,} bytes of temporaries for {given}, the memory budget is {budget:,}{tried}; use a smaller batch, "
            f"or a budget of at least {least:,}")
