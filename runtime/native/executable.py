"""A plan that is compiled: the native backend's Executable.

Knows how a plan becomes code, and where it is read again.  Must not know how code is run, kernels or LLVM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from graphc.ir import Graph
from graphc.plan import Plan, repeated
from graphc.records import replace

from . import cache, jit, memory, threads
from .codegen import Unit
from .llvm_library import give_back_pages
from .lower import Give, lower, lower_unrolled, remaining
from .meetings import step_is_serial
from .parallel import beside
from .running import PATIENCE, Running
from .table import Layout, constants_of, needs_of
from .target import Target, host
from .texts import Texts

LARGE = 16 << 20  # bytes that a step needs, from which what LLVM has needed is given back first: as it is read again, 5 ms

if TYPE_CHECKING:
    from graphc.runtime.trace import Trace

    from .recording import Recording


def lowering(graph: Graph, unrolled: bool, marked: bool, several: bool) -> Callable[..., tuple[Texts, Layout]]:
    """How a plan of this graph becomes text; several: of a step that more than one thread may run."""
    if unrolled:
        return partial(lower_unrolled, graph, marked=marked)
    return lambda plan, *rest: lower(repeated(plan), *rest, marked=marked, several=several)


def text_of(lowered: Callable[[], tuple[Texts, Layout]]) -> str:
    """All of a lowered plan as one module."""
    return lowered()[0].module.text()


def units_of(lowered: Callable[[Give], tuple[Texts, Layout]]) -> list[Unit]:
    """The texts of a lowered plan, as they are compiled."""
    given: list[Unit] = []
    texts, _ = lowered(given.append)
    return given + remaining(texts)


class Native(Running):
    """A plan as machine code.

    threads      at most this many; the code asks how many there are, and gives the same bits for any number
    nanoseconds  about how long a step takes one of them alone; of a short one, the call does not wait for who sleeps
    marked       whether its code keeps a record of what threads do
    """

    marked = False
    code: jit.Code

    def __init__(self, graph: Graph, plan: Plan, threads_: int, *, unrolled: bool = False, nanoseconds: float = PATIENCE,
                 target: Target | None = None, flush_denormals: bool = True) -> None:
        self.graph, self.plan, self.flush_denormals = graph, plan, flush_denormals
        self.target = target or host()
        if not flush_denormals:  # what multiplies bfloat16 always does
            self.target = replace(self.target, pieces=0)
        alone = unrolled or all(step_is_serial(s) for s in plan.steps)  # then waking workers would be for nothing
        self.unrolled, team = unrolled, 1 if alone else threads_
        self.seconds: dict[str, float] = {}
        pool_is_ready = threads.prepare(team) if team > 1 else None
        start = perf_counter()
        lowered = lowering(graph, unrolled, self.marked, team > 1)
        # not of this object, which holds the code: what holds itself keeps its parameters until garbage is collected
        again = partial(lowered, plan, self.target, flush_denormals)
        self._text = partial(text_of, again)
        with jit.Build(target=self.target, name="step", cache=cache.default(),
                       threads=threads.available_parallelism()) as build:
            texts, self.layout = lowered(plan, self.target, flush_denormals, build.add)
            rest = remaining(texts)
            texts.module.functions.clear()  # they know the module, too: the texts would stay until garbage is collected
            del texts
            self.seconds["lower"] = perf_counter() - start
            start = perf_counter()
            code = build.finish(rest, exports=("run", "alone"), source=partial(units_of, again))
        if pool_is_ready is not None:
            pool_is_ready()
        memory.give_back()
        if sum(b.bytes for b in plan.cells) + plan.arena_bytes >= LARGE:
            beside(give_back_pages)
        self.seconds["llvm"] = perf_counter() - start
        constants = [np.ascontiguousarray(b.array) for b in constants_of(plan)]
        super().__init__(code, needs_of(plan, self.layout, nanoseconds), [b.cell for b in plan.cells if b.cell is not None],
                         constants, team)
        self._recording: Recording | None = None

    @property
    def text(self) -> str:
        """The LLVM text as one module, written anew for whoever wants to read it."""
        return self._text()

    def trace(self, inputs: Sequence[np.ndarray], repeat: int) -> Trace:
        """`repeat` steps that are watched: code that keeps a record of itself is compiled by the first call."""
        from .recording import Recording, trace

        if self._recording is None:
            self._recording = Recording(self)
        return trace(self, self._recording, inputs, repeat)
