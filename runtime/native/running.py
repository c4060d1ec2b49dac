"""Code of a step with its memory: what runs it, wherever the code comes from.

Knows the table that the code reads, the arena, and the pool.  Must not know plans, kernels or LLVM: of kept code nothing else
is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.cells import Cell

from . import memory, threads
from .calls import bind_call
from .image import Addresses
from .table import ARENA, COUNT, PRIVATE, PRIVATE_STRIDE, SHARED, Needs

PATIENCE = 80e3  # nanoseconds of work on one thread from which it is worth waiting until a sleeping worker is awake

_ALONE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


class Running:
    """A step's code, ready to run.

    code       has `run` and `alone`
    cells      those whose addresses the code wants, in the order of `needs`; constants likewise
    threads    at most this many; the code asks how many there are, and gives the same bits for any number
    """

    def __init__(self, code: Addresses, needs: Needs, cells: Sequence[Cell], constants: Sequence[np.ndarray],
                 threads_: int) -> None:
        self.code, self.needs, self.cells, self.constants, self.threads = code, needs, tuple(cells), tuple(constants), threads_
        self.address, self.alone = code.address("run"), code.address("alone")
        self.arena, self.private, self.shared = memory.allocate_together(needs.arena, needs.private * threads_, needs.shared)
        self.table = np.zeros(needs.words, np.int64)
        self.fill()
        self.table_address = memory.address_of(self.table)

    @property
    def scratch_bytes(self) -> int:
        """Packed operands and partial sums, shared by all threads and each thread's own."""
        return self.needs.shared + self.needs.private * self.threads

    def fill(self) -> None:
        """Writes the words that never change: arena, scratch, cells and constants."""
        table, needs = self.table, self.needs
        table[COUNT] = 1
        table[ARENA], table[SHARED], table[PRIVATE] = self.arena.address, self.shared.address, self.private.address
        table[PRIVATE_STRIDE] = needs.private
        for word, cell in zip(needs.cells, self.cells, strict=True):
            table[word] = memory.address_of(cell.array)
        for word, array in zip(needs.constants, self.constants, strict=True):
            table[word] = memory.address_of(array)

    def patient(self, count: int) -> bool:
        """Whether so many steps in one call wait for workers that sleep."""
        return count * self.needs.nanoseconds >= PATIENCE

    def _call(self, count: int) -> None:
        if self.threads == 1:
            _ALONE(self.alone)(self.table_address)
        else:
            threads.shared().run(self.address, self.table_address, self.threads, patient=self.patient(count))

    def run(self, inputs: Sequence[np.ndarray], count: int, advance: Sequence[bool]) -> list[np.ndarray]:
        table = self.table
        table[COUNT] = count
        for given, array, moves in zip(self.needs.inputs, inputs, advance, strict=True):
            table[given.word] = memory.address_of(array)
            table[given.word + 1] = given.bytes if moves else 0
        outputs = []
        for given in self.needs.outputs:
            array = np.empty((count, *given.shape), given.dtype)
            table[given.word] = memory.address_of(array) if array.size else 0
            table[given.word + 1] = given.bytes
            outputs.append(array)
        self._call(count)
        return outputs

    def bind(self, inputs: Sequence[np.ndarray]) -> tuple[Callable[[], int], list[np.ndarray]]:
        """A table of its own, so that bound and unbound calls do not disturb each other."""
        table = self.table.copy()
        table[COUNT] = 1
        outputs = [np.empty(given.shape, given.dtype) for given in self.needs.outputs]
        for given, array in zip((*self.needs.inputs, *self.needs.outputs), (*inputs, *outputs), strict=True):
            table[given.word] = memory.address_of(array)
            table[given.word + 1] = 0
        keep: tuple[Any, ...] = (self, table, list(inputs), outputs)
        address = memory.address_of(table)
        if self.threads == 1:
            return bind_call(self.alone, address, keep=keep), outputs
        return threads.shared().bind(self.address, address, self.threads, patient=self.patient(1), keep=keep), outputs
