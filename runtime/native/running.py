"""Code of a step with its memory: what runs it, wherever the code comes from.

Knows the table that the code reads, the arena, and the pool.  Must not know plans, kernels or LLVM: of kept code nothing else
is loaded.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.cells import Cell

from . import memory, threads
from .calls import bind_call
from .choice import Choice
from .image import Addresses
from .table import ARENA, COUNT, PRIVATE, PRIVATE_STRIDE, SHARED, Given, Needs

KEPT_OUTPUTS = 1 << 16, 1 << 25  # bytes of an output that is written again where nobody has it any more: from, to
OWN_REFERENCES = 2  # to an array in a list, as `getrefcount` counts them, its own argument among them
PATIENCE = 80e3  # nanoseconds of work on one thread from which it is worth waiting until a sleeping worker is awake

TURN = 2e6  # nanoseconds of steps between which a run looks whether the other way is to be tried

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
        self.choice = Choice(needs.nanoseconds) if threads_ > 1 else None
        self.address, self.alone = code.address("run"), code.address("alone")
        self.arena, self.private, self.shared = memory.allocate_together(needs.arena, needs.private * threads_, needs.shared)
        self.table = np.zeros(needs.words, np.int64)
        self.fill()
        self.last: list[list[np.ndarray]] = [[] for _ in needs.outputs]  # outputs of the last two calls
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
        """So many steps, with what the table says."""
        if self.threads == 1:
            _ALONE(self.alone)(self.table_address)
        elif self.choice is None:
            threads.shared().run(self.address, self.table_address, self.threads, patient=self.patient(count))
        else:
            self._in_turns(self.choice, count)

    def _in_turns(self, choice: Choice, count: int) -> None:
        """The same, few enough steps at a time for a trial of the way that is not taken."""
        table, done = self.table, 0
        while done < count:
            turn = choice.trial if choice.trying else max(choice.trial, int(TURN / max(1, self.needs.nanoseconds)))
            table[COUNT] = turn = min(turn, count - done)
            threads.shared().run(self.address, self.table_address, self.threads, patient=self.patient(count), choice=choice,
                                 steps=turn)
            done += turn
            for given in (*self.needs.inputs, *self.needs.outputs) if done < count else ():
                table[given.word] += turn * table[given.word + 1]

    def run(self, inputs: Sequence[np.ndarray], count: int, advance: Sequence[bool]) -> list[np.ndarray]:
        table = self.table
        table[COUNT] = count
        for given, array, moves in zip(self.needs.inputs, inputs, advance, strict=True):
            table[given.word] = memory.address_of(array)
            table[given.word + 1] = given.bytes if moves else 0
        outputs = []
        for position, given in enumerate(self.needs.outputs):
            array = self.output(self.last[position], given) if count == 1 else np.empty((count, *given.shape), given.dtype)
            table[given.word] = memory.address_of(array) if array.size else 0
            table[given.word + 1] = given.bytes
            outputs.append(array)
        self._call(count)
        return outputs

    @staticmethod
    def output(last: list[np.ndarray], given: Given) -> np.ndarray:
        """Memory for an output of one step: that of one of the last two calls where nobody has it any more.

        The system clears memory before it gives it out, and allocators may give it back after every call: that takes as long as
        writing it.  Two are kept, as `y = program(x)` lets go of one result when it has the next.
        """
        least, most = KEPT_OUTPUTS
        for place in range(len(last)):
            if sys.getrefcount(last[place]) == OWN_REFERENCES:
                last.append(last.pop(place))
                return last[-1]
        array = np.empty((1, *given.shape), given.dtype)
        if least <= given.bytes <= most:
            last[:] = [*last[-1:], array]
        return array

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
        return threads.shared().bind(self.address, address, self.threads, patient=self.patient(1), choice=self.choice,
                                     keep=keep), outputs
