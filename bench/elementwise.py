"""Elementwise kernels and folds from L1 to memory, beside numpy, torch and the triad measured in the same rounds.

    python bench/elementwise.py                                    all cases, one thread and all
    python bench/elementwise.py --cases softmax layer_norm --sizes 256K 64M --threads 2 --output table.md

A size is the bytes that a case must at least read and write, so that equal sizes meet equal caches.  A round repeats the case
natively; numpy and torch are called from Python each time, as their users do, with results written in place where they can.
Everybody's memory is brought to the caches by an untimed turn first.  GB/s counts those bytes only; "of triad" is the share of
what a = b + s c over as many bytes reaches in the same round.  Ratios are medians over rounds of (their time / our time).
Results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # run as a file: the folder above has bench and graphc
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.elementwise_cases import CASES, Case

ROUND_SECONDS = 0.004  # of one competitor's turn
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One line of the table: a case, its size and threads, and what was measured."""

    case: str
    threads: int
    size: int
    seconds: float
    share: float  # of the triad's rate
    ratios: dict[str, float]

    def cells(self) -> list[str]:
        return [self.case, str(self.threads), f"{self.size / 1024:,.0f}", f"{self.seconds * 1e6:,.2f}",
                f"{self.size / self.seconds / 1e9:.1f}", f"{self.share:.2f}",
                *(f"{self.ratios[n]:.2f}" if n in self.ratios else "-" for n in ("numpy", "torch"))]


HEADINGS = ("case", "threads", "KB", "us", "GB/s", "of triad", "numpy / graphc", "torch / graphc")


# -- measuring -------------------------------------------------------------------------------------------------------


def program_of(c: Case, arrays: Arrays, threads: int | None = None) -> tuple[Any, dict[str, Any]]:
    """(program, cell of each result): operands and results are states, so that nothing is converted or returned."""
    import graphc

    cells = {n: graphc.state(n, a, str(a.dtype)) for n, a in arrays.items()}
    new = c.graphc(cells)
    targets = {n: cells[n] if n in cells else graphc.state(n, np.zeros(t.shape), t.dtype) for n, t in new.items()}
    return graphc.function([], [], {targets[n]: t for n, t in new.items()}, threads=threads), targets


def build_graphc(c: Case, arrays: Arrays, threads: int) -> tuple[Callable[[int], None], Callable[[], list[np.ndarray]]]:
    """(run n times natively, results)."""
    program, targets = program_of(c, arrays, threads)
    return (lambda n: program.run(n)), (lambda: [cell.numpy() for cell in targets.values()])


def repeat(call: Callable[[], Any]) -> Callable[[int], None]:
    def loop(count: int) -> None:
        for _ in range(count):
            call()

    return loop


def competitors(c: Case, arrays: Arrays, threads: int, peers: Sequence[str]) -> dict[str, Callable[[int], None]]:
    """Everybody's loop, after one turn whose results agree.  Raises AssertionError where they do not."""
    run, results = build_graphc(c, arrays, threads)
    run(1)
    ours = results()
    loops: dict[str, Callable[[int], None]] = {"own": run}
    made: dict[str, Callable[[], Sequence[Any]]] = {}
    if c.numpy is not None and "numpy" in peers:
        made["numpy"] = c.numpy({n: a.copy() for n, a in arrays.items()})
    if "torch" in peers:
        try:
            import torch
        except ImportError:
            pass
        else:
            torch.set_num_threads(threads)
            made["torch"] = c.torch({n: torch.from_numpy(a.copy()) for n, a in arrays.items()})
    for name, call in made.items():
        for a, b in zip(ours, call(), strict=True):
            if not np.allclose(a, np.asarray(b), rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(a).max()))):
                raise AssertionError(f"{c.name}: {name} has other results")
        loops[name] = repeat(call)
    return loops


def measure(c: Case, size: int, threads: int, rounds: int, machine: Any, peers: Sequence[str] = ("numpy", "torch")) -> Row:
    """One line of the table.  Raises AssertionError where results differ."""
    rows = c.rows(size)
    loops = competitors(c, c.arrays(rows), threads, peers)
    times: dict[str, list[float]] = {n: [] for n in loops}
    counts, triads = {}, []
    for name, call in loops.items():
        call(1)
        start = time.perf_counter()
        call(3)
        counts[name] = max(1, min(20_000, int(ROUND_SECONDS * 3 / max(1e-8, time.perf_counter() - start))))
    moved = c.passes * rows * c.columns * 4
    for _ in range(rounds):
        triads.append(machine.triad(moved, threads, ROUND_SECONDS))
        for name, call in loops.items():
            if threads > 1:
                time.sleep(0.02)  # torch's idle threads spin for a while
            call(max(1, counts[name] // 4))  # our own have gone to sleep, and the caches hold somebody else's
            start = time.perf_counter()
            call(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name])
    own = times.pop("own")
    return Row(c.name, threads, moved, statistics.median(own),
               statistics.median(moved / t / peak for t, peak in zip(own, triads, strict=True)),
               {n: statistics.median(t / o for t, o in zip(theirs, own, strict=True)) for n, theirs in times.items()})


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [HEADINGS, ("---",) + ("---:",) * (len(HEADINGS) - 1), *(r.cells() for r in rows)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def bytes_of(text: str) -> int:
    """16K, 4M, or a plain number."""
    unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1].upper(), 1)
    return int(text[:-1] if unit > 1 else text) * unit


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--cases", nargs="*", default=list(CASES), metavar="CASE",
                        help="names, or how they begin: " + ", ".join(CASES))
    parser.add_argument("--sizes", nargs="*", type=bytes_of, default=[bytes_of(s) for s in ("24K", "512K", "8M", "128M")],
                        help="bytes moved, for example 24K 8M (24K 512K 8M 128M)")
    parser.add_argument("--threads", nargs="*", type=int, default=sorted({1, cores}), help=f"one after another (1 {cores})")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", nargs="*", default=["numpy", "torch"], choices=["numpy", "torch"])
    parser.add_argument("--output", type=Path, help="a file for the table in markdown; rows of other cases that it has stay")
    options = parser.parse_args(arguments)
    unknown = [n for n in options.cases if not any(name.startswith(n) for name in CASES)]
    if unknown:
        parser.error(f"no case begins with {', '.join(unknown)}; there are {', '.join(CASES)}")
    from bench.machine import Machine

    machine = Machine(max(options.threads))
    rows = []
    for name in (n for n in CASES if any(n.startswith(begin) for begin in options.cases)):
        for threads in options.threads:
            for size in options.sizes:
                rows.append(measure(CASES[name], size, threads, options.rounds, machine, options.peers))
                cells = [f"{c:>{w}}" for c, w in zip(rows[-1].cells()[1:], (1, 9, 12, 7, 6, 7, 7), strict=True)]
                print(f"{name:20}", *cells, flush=True)
                if options.output is not None:
                    options.output.write_text(merged(options.output, markdown(rows)))


def merged(path: Path, table: str) -> str:
    """The table with the rows of an earlier one that it does not have itself, in the order of the cases."""
    head, new = table.splitlines()[:2], table.splitlines()[2:]
    old = path.read_text().splitlines()[2:] if path.exists() else []

    def key(line: str) -> tuple[int, int, int]:
        case, threads, size = (cell.strip() for cell in line.split("|")[1:4])
        return (list(CASES).index(case) if case in CASES else len(CASES), int(threads), int(size.replace(",", "")))

    lines = {key(line): line for line in [*old, *new]}
    return "\n".join([*head, *(lines[k] for k in sorted(lines))]) + "\n"


if __name__ == "__main__":
    main()
