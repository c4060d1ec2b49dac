"""What the machine can do at this moment: multiply-adds and memory traffic of small kernels written for nothing else.

Knows the native runtime's emitter.  Must not use the compiler's own loops: it is the yardstick they are held against.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

CHAINS = 16  # independent accumulators: latency times multiply-adds a cycle, and some
ONE = 0x3F800000  # the bits of 1.0, which keeps all values normal numbers


class Machine:
    """Kernels compiled once; `fma_peak` and `triad` measure with any number of threads up to the one given."""

    def __init__(self, threads: int) -> None:
        from graphc.runtime.native import jit
        from graphc.runtime.native.emit import Module
        from graphc.runtime.native.target import host
        from graphc.runtime.native.threads import Pool

        self.target = host()
        module = Module()
        _emit_fma(module, self.target.lanes(4))
        _emit_triad(module, self.target.lanes(4))
        self._code = jit.compile_module(module.text(), target=self.target, name="machine")
        self._pool = Pool(threads)
        self.threads = threads

    def _seconds(self, name: str, arguments: Any, threads: int) -> float:
        address = self._code.address(name)
        start = time.perf_counter()
        if threads == 1:
            _SINGLE(address)(ctypes.addressof(arguments), 0, 1, None)
        else:
            self._pool.run(address, ctypes.addressof(arguments), threads)
        return time.perf_counter() - start

    def fma_peak(self, threads: int | None = None, seconds: float = 0.005) -> float:
        """Floating-point operations in a second of float32 multiply-adds in registers; the best of five short runs."""
        threads = threads or self.threads
        count = 200_000
        arguments = (ctypes.c_int64 * 2)(count, ONE)
        each = self._seconds("fma", arguments, threads) / count
        arguments[0] = count = max(1000, int(seconds / 5 / each))
        best = min(self._seconds("fma", arguments, threads) for _ in range(5))
        return 2 * CHAINS * self.target.lanes(4) * count * threads / best

    def triad(self, size: int, threads: int | None = None, seconds: float = 0.02) -> float:
        """Bytes in a second of a = b + s c over three float32 arrays of `size` bytes together; the best of five runs.

        Counts what the program reads and writes: a line that is fetched only to be overwritten is not counted.
        """
        from graphc.runtime.native import memory

        threads = threads or self.threads
        lanes = self.target.lanes(4)
        unit = 4 * lanes * threads
        elements = max(unit, size // 12 // unit * unit)
        blocks = [memory.allocate(4 * elements) for _ in range(3)]
        for block in blocks:  # memory that was never written is one page of zeros for all addresses, in a cache
            block.data[:] = 0
        arguments = (ctypes.c_int64 * 5)(*(b.address for b in blocks), elements, 1)
        each = max(1e-9, min(self._seconds("triad", arguments, threads) for _ in range(3)))
        arguments[4] = max(1, int(seconds / 5 / each))
        arguments[4] = max(1, int(arguments[4] * seconds / 5 / self._seconds("triad", arguments, threads)))
        best = min(self._seconds("triad", arguments, threads) for _ in range(5))
        return 12 * elements * arguments[4] / best


_SINGLE: Callable[[int], Any] = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                                 ctypes.c_void_p)
_PARAMETERS = [("arguments", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")]


def _emit_fma(module: Any, lanes: int) -> None:
    """arguments: repetitions, the bits of a float.  x = x f + f, in CHAINS independent registers."""
    from graphc.runtime.native.emit import Carried
    from graphc.runtime.native.values import Value, constant, i64, vector

    f = module.function("fma", _PARAMETERS, returns="i32", internal=False)
    arguments = f.parameters[0]
    kind = vector(lanes, "float")
    repetitions = f.load(arguments, "i64")
    factor = f.broadcast(f.load(f.offset(arguments, i64(2), "float"), "float"), lanes)  # a constant would be taken apart
    carried = Carried([constant(float(k), kind) for k in range(CHAINS)])
    with f.loop(i64(0), repetitions, carried=carried):
        carried.next = [f.fma(x, factor, factor) for x in carried.values]
    total = carried.results[0]
    for x in carried.results[1:]:
        total = f.emit(f"fadd {total}, {x.name}", kind)
    f.do(f"store volatile {total}, {f.stack('float', lanes)}, align 64")
    f.ret(Value("0", "i32"))


def _emit_triad(module: Any, lanes: int) -> None:
    """arguments: a, b, c, elements (a multiple of lanes x threads), repetitions."""
    from graphc.runtime.native.values import Value, constant, i64, vector

    f = module.function("triad", _PARAMETERS, returns="i32", internal=False)
    arguments, thread, threads, _ = f.parameters
    kind = vector(lanes, "float")
    a, b, c = (f.load(f.offset(arguments, i64(k), "i64"), "ptr") for k in range(3))
    elements = f.load(f.offset(arguments, i64(3), "i64"), "i64")
    repetitions = f.load(f.offset(arguments, i64(4), "i64"), "i64")
    share = f.binary("udiv", elements, threads)
    first = f.mul(thread, share)
    last = f.add(first, share)
    with f.loop(i64(0), repetitions):
        with f.loop(first, last, lanes) as i:
            value = f.fma(f.load(f.offset(c, i, "float"), kind, align=64), constant(3.0, kind),
                          f.load(f.offset(b, i, "float"), kind, align=64))
            f.store(value, f.offset(a, i, "float"), align=64)
        f.do('call void asm sideeffect "", "~{memory}"()')  # every repetition writes
    f.ret(Value("0", "i32"))


def describe() -> str:
    """The processor's name, where the system tells it."""
    import platform
    from pathlib import Path

    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        return next(row.split(":", 1)[1].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
