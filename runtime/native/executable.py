"""A compiled plan with its memory: the native backend's Executable.

Knows the table that compiled code reads, the arena, and the pool.  Must not know kernels or LLVM.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.ir import Graph
from graphc.plan import Plan, Role, repeated
from graphc.records import replace

from . import cache, jit, memory, threads
from .calls import bind_call
from .lower import ARENA, COUNT, PRIVATE, PRIVATE_STRIDE, SHARED, Layout, lower, lower_unrolled, remaining
from .meetings import step_is_serial
from .target import Target, host
from .texts import Texts

if TYPE_CHECKING:
    from graphc.runtime.trace import Trace

    from .recording import Recording

_ALONE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


def lowering(graph: Graph, unrolled: bool, marked: bool) -> Callable[..., tuple[Texts, Layout]]:
    """How a plan of this graph becomes text."""
    if unrolled:
        return partial(lower_unrolled, graph, marked=marked)
    return lambda plan, *rest: lower(repeated(plan), *rest, marked=marked)


def text_of(lowered: Callable[[], tuple[Texts, Layout]]) -> str:
    """All of a lowered plan as one module."""
    return lowered()[0].module.text()


class Native:
    """A plan as machine code.

    threads   at most this many; the code asks how many there are, and gives the same bits for any number
    marked    whether its code keeps a record of what threads do
    """

    marked = False

    def __init__(self, graph: Graph, plan: Plan, threads_: int, *, unrolled: bool = False,
                 target: Target | None = None, flush_denormals: bool = True) -> None:
        self.graph, self.plan, self.flush_denormals = graph, plan, flush_denormals
        self.target = target or host()
        if not flush_denormals:  # a matrix unit always does
            self.target = replace(self.target, matrix_unit=False)
        alone = unrolled or all(step_is_serial(s) for s in plan.steps)  # then waking workers would be for nothing
        self.threads, self.unrolled = 1 if alone else threads_, unrolled
        self.seconds: dict[str, float] = {}
        pool_is_ready = threads.prepare() if self.threads > 1 else None
        start = perf_counter()
        lowered = lowering(graph, unrolled, self.marked)
        # not of this object, which holds the code: what holds itself keeps its parameters until garbage is collected
        self._text = partial(text_of, partial(lowered, plan, self.target, flush_denormals))
        with jit.Build(target=self.target, name="step", cache=cache.default(),
                       threads=threads.available_parallelism()) as build:
            texts, self.layout = lowered(plan, self.target, flush_denormals, build.add)
            rest = remaining(texts)
            texts.module.functions.clear()  # they know the module, too: the texts would stay until garbage is collected
            del texts
            self.seconds["lower"] = perf_counter() - start
            start = perf_counter()
            self.code = build.finish(rest, exports=("run", "alone"), source=self._text)
        if pool_is_ready is not None:
            pool_is_ready()
        memory.give_back()
        self.seconds["llvm"] = perf_counter() - start
        self.address, self.alone = self.code.address("run"), self.code.address("alone")
        self.arena = memory.allocate(max(64, plan.arena_bytes))
        self.shared = memory.allocate(max(64, self.layout.shared_bytes))
        self.private = memory.allocate(max(64, self.layout.private_bytes * self.threads))
        self.table = np.zeros(self.layout.size, np.int64)
        self.keep: list[Any] = []
        self._fill(self.table, self.layout)
        self.table_address = memory.address_of(self.table)
        self._recording: Recording | None = None

    @property
    def text(self) -> str:
        """The LLVM text as one module, written anew for whoever wants to read it."""
        return self._text()

    @property
    def scratch_bytes(self) -> int:
        """Packed operands and partial sums, shared by all threads and each thread's own."""
        return self.layout.shared_bytes + self.layout.private_bytes * self.threads

    def _fill(self, table: np.ndarray, layout: Layout) -> None:
        """The words that never change: arena, scratch, cells and constants."""
        table[COUNT] = 1
        table[ARENA], table[SHARED], table[PRIVATE] = self.arena.address, self.shared.address, self.private.address
        table[PRIVATE_STRIDE] = layout.private_bytes
        for buffer, place in layout.words.items():
            if buffer.role is Role.CELL:
                assert buffer.cell is not None
                table[place] = memory.address_of(buffer.cell.array)
                self.keep.append(buffer.cell)
            elif buffer.role is Role.CONSTANT:
                array = np.ascontiguousarray(buffer.array)
                self.keep.append(array)
                table[place] = memory.address_of(array)

    def _call(self) -> None:
        if self.threads == 1:
            _ALONE(self.alone)(self.table_address)
        else:
            threads.shared().run(self.address, self.table_address, self.threads)

    def run(self, inputs: Sequence[np.ndarray], count: int, advance: Sequence[bool]) -> list[np.ndarray]:
        table, layout = self.table, self.layout
        table[COUNT] = count
        for buffer, array, moves in zip(self.plan.inputs, inputs, advance, strict=True):
            place = layout.words[buffer]
            table[place] = memory.address_of(array)
            table[place + 1] = buffer.bytes if moves else 0
        outputs = []
        for buffer in self.plan.outputs:
            array = np.empty((count, *buffer.type.shape), buffer.type.dtype.numpy)
            place = layout.words[buffer]
            table[place] = memory.address_of(array) if array.size else 0
            table[place + 1] = buffer.bytes
            outputs.append(array)
        self._call()
        return outputs

    def bind(self, inputs: Sequence[np.ndarray]) -> tuple[Callable[[], int], list[np.ndarray]]:
        """A table of its own, so that bound and unbound calls do not disturb each other."""
        table = self.table.copy()
        table[COUNT] = 1
        for buffer, array in zip(self.plan.inputs, inputs, strict=True):
            table[self.layout.words[buffer]] = memory.address_of(array)
            table[self.layout.words[buffer] + 1] = 0
        outputs = [np.empty(b.type.shape, b.type.dtype.numpy) for b in self.plan.outputs]
        for buffer, array in zip(self.plan.outputs, outputs, strict=True):
            table[self.layout.words[buffer]] = memory.address_of(array)
            table[self.layout.words[buffer] + 1] = 0
        keep = (self, table, list(inputs), outputs)
        address = memory.address_of(table)
        if self.threads == 1:
            return bind_call(self.alone, address, keep=keep), outputs
        return threads.shared().bind(self.address, address, self.threads, keep=keep), outputs

    def trace(self, inputs: Sequence[np.ndarray], repeat: int) -> Trace:
        """`repeat` steps that are watched: code that keeps a record of itself is compiled by the first call."""
        from .recording import Recording, trace

        if self._recording is None:
            self._recording = Recording(self)
        return trace(self, self._recording, inputs, repeat)
