"""Steps of a program that keep a record of themselves, run and read.

Knows regions of memory, and which code runs in them.  Must not know where marks stand in the code: that is `marks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns

import numpy as np
from graphc.runtime.trace import RECORD, Trace, in_order

from graphc.errors import GraphError

from . import memory
from .clock import Calibration, counter_of, system_clock
from .executable import Native
from .marks import BEGIN, CLOCK, CURSOR, END, HEAD_BYTES, LIMIT, PART_BITS, RECORD_BYTES

FIRST_ROOM = 1 << 10  # records of each thread, before a step says how many it has
MOST_ROOM = 1 << 18  # 6 MiB of each thread and step
LINE = 64
WARM = 2  # steps before the first that counts, beside those that tell how much room is needed


class Recording(Native):
    """A step with marks.  It works in the memory of the ordinary one."""

    marked = True

    def __init__(self, plain: Native) -> None:
        super().__init__(plain.graph, plain.plan, plain.threads, unrolled=plain.unrolled, target=plain.target,
                         flush_denormals=plain.flush_denormals)
        self.choice = None  # a step that goes the other way leaves no record
        self.arena, self.shared, self.private = plain.arena, plain.shared, plain.private
        self.fill()
        self.counter = counter_of(self.target)
        self.make_room(FIRST_ROOM)

    def make_room(self, records: int) -> None:
        """Regions for so many records of each thread."""
        stride = -(-(HEAD_BYTES + records * RECORD_BYTES) // LINE) * LINE
        self.regions = memory.allocate(stride * self.threads, huge=False)
        self.words = self.regions.array((self.threads, stride // 8), np.int64)
        starts = self.regions.address + stride * np.arange(self.threads)
        self.words[:, LIMIT // 8] = starts + HEAD_BYTES + records * RECORD_BYTES
        self.words[:, CLOCK // 8:CLOCK // 8 + 2] = (0, 0) if self.counter is not None else system_clock()
        self.starts, self.room = starts, records
        self.table[self.layout.marks:] = self.regions.address, stride

    def forget(self) -> None:
        """Nobody took part in a step."""
        self.words[:, [BEGIN // 8, END // 8]] = 0
        self.words[:, CURSOR // 8] = self.starts + HEAD_BYTES

    def wanted(self) -> int:
        """Records of the thread that had most, whether or not there was room for them."""
        return int((self.words[:, CURSOR // 8] - self.starts - HEAD_BYTES).max()) // RECORD_BYTES

    def read(self) -> list[np.ndarray]:
        """Of each thread that took part in the step (begin, end), then its records, int64 [records + 1, 3]."""
        found = []
        for words, start in zip(self.words, self.starts, strict=True):
            begin, end = int(words[BEGIN // 8]), int(words[END // 8])
            if not end:
                break
            count = (int(words[CURSOR // 8]) - int(start) - HEAD_BYTES) // RECORD_BYTES
            head = np.array([[0, begin, end]])
            found.append(np.concatenate([head, words[HEAD_BYTES // 8:HEAD_BYTES // 8 + 3 * count].reshape(count, 3)]))
        return found

    def ready(self, inputs: Sequence[np.ndarray]) -> Callable[[], int]:
        """A function that runs one step, with room for all its records.

        Raises: GraphError where a step has more records than anybody could look at.
        """
        while True:
            call, _ = self.bind(inputs)
            self.forget()
            call()
            wanted = self.wanted()
            if wanted <= self.room:
                return call
            if wanted > MOST_ROOM:
                raise GraphError(f"timeline: a step runs kernels and waits {wanted:,} times on one thread, more than "
                                 f"{MOST_ROOM:,} cannot be kept; make its loops shorter to look at it")
            self.make_room(min(MOST_ROOM, wanted + wanted // 4))


def trace(plain: Native, recording: Recording, inputs: Sequence[np.ndarray], repeat: int) -> Trace:
    """Steps with marks and without, in turns."""
    ordinary, _ = plain.bind(inputs)
    recorded = recording.ready(inputs)
    for _ in range(WARM):
        ordinary()
        recorded()
    calibration = Calibration(recording.counter)
    steps, seconds = [], np.zeros(repeat)
    for step in range(repeat):
        begin = perf_counter_ns()
        ordinary()
        seconds[step] = (perf_counter_ns() - begin) / 1e3
        recording.forget()
        recorded()
        steps.append(recording.read())
    tick = calibration.microseconds()
    most = max(map(len, steps))
    whole = [threads for threads in steps if len(threads) == most]  # a pool that somebody else used gives fewer
    bounds = np.zeros((len(whole), most, 2))
    records = []
    for step, threads in enumerate(whole):
        first = min(int(t[0, 1]) for t in threads)
        times = [(t[:, 1:] - first) * tick for t in threads]
        bounds[step] = [t[0] for t in times]
        records.append(in_order(np.concatenate([spans(t[1:, 0], k, times[k][1:]) for k, t in enumerate(threads)])))
    return Trace(recording.layout.parts, tuple(records), bounds, seconds)


def spans(what: np.ndarray, thread: int, times: np.ndarray) -> np.ndarray:
    """Records of a thread, in microseconds."""
    found = np.zeros(len(what), RECORD)
    found["part"], found["run"], found["thread"] = what & ((1 << PART_BITS) - 1), what >> PART_BITS, thread
    found["start"], found["end"] = times.T
    return found
