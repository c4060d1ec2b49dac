"""A contender's process: builds, reports its first losses and set-up times, then times rounds on request.

    python -m bench.worker PEER MODE WORKLOAD THREADS VALUES PRECISION [FILE]

VALUES is the folder that has what the contender starts from.  Lines on standard output are JSON.  Nothing but the standard
library may be imported before the peer's own import is timed.  PEER is a library, or `machine`, whose rounds measure the FMA
peak.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def peak_kilobytes() -> int:
    """The most memory this program has held; not what the process it was forked from held."""
    try:
        rows = Path("/proc/self/status").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def serve(peer: str, mode: str, name: str, threads: int, values: str, precision: str, file: str = "") -> None:
    if peer == "machine":
        return serve_machine(threads)
    start = time.perf_counter()
    library = __import__(peer)
    imported = time.perf_counter() - start
    from .contenders import build
    from .workloads import load

    workload = load(file)[name]
    builder = build(peer, workload, threads, mode, workload.read(Path(values)), precision)
    start = time.perf_counter()
    step = builder()
    losses = [step(1)]
    first = time.perf_counter() - start
    losses += [step(1), step(1)]
    say(losses=losses, first=first, imported=imported, version=library.__version__, memory=peak_kilobytes())
    for line in sys.stdin:
        warm, n = map(int, line.split())
        if warm:
            step(warm)
        start = time.perf_counter()
        step(n)
        say(seconds=(time.perf_counter() - start) / n, memory=peak_kilobytes())


def serve_machine(threads: int) -> None:
    from .machine import Machine, describe

    machine = Machine(threads)
    sizes = (24 << 10, 768 << 10, 24 << 20, 192 << 20)
    counts = sorted({1, threads})
    say(name=describe(), sizes=sizes, threads=counts, fma=[machine.fma_peak(t) for t in counts],
        triad=[[machine.triad(size, t) for size in sizes] for t in counts])
    for _ in sys.stdin:
        say(fma=machine.fma_peak())


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
