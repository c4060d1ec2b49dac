"""A clock that native code reads without leaving it: the processor's own counter, and how fast that counts.

Knows which counters are steady, that is count at one rate on all cores, also while a core sleeps or changes its speed.  Must
not know what is timed.

x86-64's time-stamp counter is, where the system itself uses it or could; 25 cycles to read.  AArch64 has CNTVCT_EL0 (1 GHz on
processors from Armv8.6 on; 24 MHz, 42 ns a tick, on Apple's), which systems let programs read; its cycle counter PMCCNTR_EL0
they do not.  So it is with RISC-V's `time` and `cycle`.  Elsewhere the system's monotonic clock is asked, at some 25 ns.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.runtime.native.denormals import architecture
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.once import once
from graphc.runtime.native.target import Target, host
from graphc.runtime.native.values import Value, constant

if TYPE_CHECKING:
    from .jit import Code

COUNTERS = {"x86_64": "llvm.readcyclecounter", "aarch64": "llvm.readcyclecounter", "riscv64": "llvm.readsteadycounter"}
AVAILABLE = "/sys/devices/system/clocksource/clocksource0/available_clocksource"

CALIBRATION_SECONDS = 0.02  # the rate is then right to some parts in 100,000
TRIES = 8  # readings of both clocks, of which the two that are nearest to each other count


def counter_of(target: Target) -> str | None:
    """The intrinsic that reads the steady counter of a processor; None where it has none, or this system does not trust it."""
    kind = architecture(target)
    if kind == "x86_64" and sys.platform == "linux":
        try:
            if "tsc" not in Path(AVAILABLE).read_text().split():
                return None
        except OSError:
            pass  # a container that hides the tree
    return COUNTERS.get(kind)


def system_clock() -> tuple[int, int]:
    """(address of ``i32 clock_gettime(i32 clock, ptr seconds_and_nanoseconds)``, its monotonic clock); (0, 0) on Windows,
    whose processors have counters."""
    if sys.platform == "win32":
        return 0, 0
    return ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0, time.CLOCK_MONOTONIC


def emit_read(f: Function, counter: str | None, words: Value) -> Value:
    """The time now (i64), in ticks.

    counter   from `counter_of`; else `words` are the two of `system_clock`, and two that it may write: ticks are nanoseconds
    """
    if counter is not None:
        f.module.declare(counter, "i64", [])
        return f.call(counter, [], "i64")

    def word(number: int) -> Value:
        return f.offset(words, constant(number, "i64"), "i64")

    function, clock = f.load(word(0), "ptr"), f.load(word(1), "i32", align=8)
    f.do(f"call i32 {function.name}({clock}, {word(2)})")
    return f.add(f.mul(f.load(word(2), "i64"), constant(10**9, "i64")), f.load(word(3), "i64"))


@once
def _code() -> Code:
    from . import cache, jit

    module = Module()
    f = module.function("read", [], returns="i64", internal=False)
    f.ret(emit_read(f, counter_of(host()), Value("null", "ptr")))
    return jit.compile_module(module.text(), target=host(), name="clock", cache=cache.default())


@once
def _read() -> Callable[[], int]:
    """This machine's counter, read from Python."""
    return ctypes.CFUNCTYPE(ctypes.c_int64)(_code().address("read"))


class Calibration:
    """How long a tick is: begun before what is timed, asked afterwards.

    counter   what native code reads: from `counter_of` for this machine
    """

    def __init__(self, counter: str | None) -> None:
        self.counter = counter
        self.begin = self._both()

    def _both(self) -> tuple[int, int]:
        """(nanoseconds of Python's clock, ticks) of one moment."""
        if self.counter is None:
            return 0, 0
        read, found = _read(), []
        for _ in range(TRIES):
            before = time.perf_counter_ns()
            ticks = read()
            after = time.perf_counter_ns()
            found.append((after - before, (before + after) // 2, ticks))
        return min(found)[1:]

    def microseconds(self) -> float:
        """Of a tick.  Waits where too little time has passed to tell."""
        if self.counter is None:
            return 1e-3
        passed = time.perf_counter_ns() - self.begin[0]
        time.sleep(max(0.0, CALIBRATION_SECONDS - passed * 1e-9))
        end = self._both()
        return (end[0] - self.begin[0]) * 1e-3 / max(1, end[1] - self.begin[1])
