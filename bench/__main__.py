"""Whole training steps side by side: one process per contender, timed in interleaved rounds, equal losses checked.

python -m bench                                   graphc, numpy and PyTorch eager
python -m bench --peers PATH/TO/python            PyTorch and JAX from an environment of their own
python -m bench --compile                         torch.compile of the whole step too (minutes of compiling)
python -m bench --output docs/benchmark.md --plot docs/benchmark.png
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Contender:
    """One process and its measurements."""

    name: str
    process: subprocess.Popen[str]
    loss: float = 0.0
    first: float = 0.0
    imported: float = 0.0
    seconds: list[float] = field(default_factory=list)
    memory: int = 0


def start(python: str, peer: str, mode: str, index: int, threads: int) -> Contender | None:
    """A contender that is built and warm, None where its library is missing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads),
                   "OPENBLAS_NUM_THREADS": str(threads), "GRAPHC_CACHE": "0"}
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    process = subprocess.Popen([python, "-m", "bench.workloads", peer, mode, str(index), str(threads)], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline().split()
    if not line:
        return None
    name = {"call": peer, "loop": f"{peer} loop", "compile": f"{peer}.compile"}[mode]
    return Contender(name, process, float(line[0]), float(line[1]), float(line[2]))


def round_of(contender: Contender, steps: int) -> None:
    assert contender.process.stdin is not None and contender.process.stdout is not None
    contender.process.stdin.write(f"{steps}\n")
    contender.process.stdin.flush()
    seconds, memory = contender.process.stdout.readline().split()
    contender.seconds.append(float(seconds))
    contender.memory = int(memory)


def compare(workload: Workload, index: int, arguments: argparse.Namespace) -> list[Contender]:
    """All contenders on one workload; raises where a loss differs."""
    peers = arguments.peers or sys.executable
    wanted = [(sys.executable, "graphc", "call"), (sys.executable, "graphc", "loop"), (sys.executable, "numpy", "call"),
              (peers, "torch", "call"), (peers, "jax", "call"), (peers, "jax", "loop")]
    if arguments.compile:
        wanted.append((peers, "torch", "compile"))
    contenders = [c for w in wanted if (c := start(*w, index, arguments.threads)) is not None]
    reference = contenders[0].loss
    for c in contenders:
        if abs(c.loss - reference) > 2e-3 * abs(reference):
            raise SystemExit(f"{workload.name}: {c.name} has loss {c.loss}, graphc {reference}: not the same mathematics")
    for _ in range(arguments.rounds):
        for c in contenders:
            slow = c.name in ("torch", "jax", "numpy", "torch.compile")
            round_of(c, max(2, workload.steps // (10 if slow and workload.steps > 1000 else 1)))
    for c in contenders:
        assert c.process.stdin is not None
        c.process.stdin.close()
        c.process.wait()
    return contenders


def table(workload: Workload, contenders: list[Contender]) -> str:
    ours = {c.name: c for c in contenders if c.name.startswith("graphc")}
    lines = [f"### {workload.name}", "",
             "| | µs per step, median (least) | graphc is faster by (paired median) | first step s | import s | peak MB |",
             "|---|---:|---:|---:|---:|---:|"]
    for c in contenders:
        own = ours["graphc loop" if c.name.endswith("loop") else "graphc"]
        ratio = statistics.median(a / b for a, b in zip(c.seconds, own.seconds, strict=True))
        shown = "" if c.name.startswith("graphc") else f"{ratio:.2f}×"
        lines.append(f"| {c.name} | {statistics.median(c.seconds) * 1e6:,.2f} ({min(c.seconds) * 1e6:,.2f}) | {shown} | "
                     f"{c.first:.2f} | {c.imported:.2f} | {c.memory / 1024:,.0f} |")
    return "\n".join(lines) + "\n"


def plot(results: list[tuple[Workload, list[Contender]]], path: str) -> None:
    """Bars: how many times faster graphc is than each contender in the same mode."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 1 + 1.1 * len(results)))
    y, ticks, names = 0.0, [], []
    for workload, contenders in reversed(results):
        ours = {c.name: c for c in contenders if c.name.startswith("graphc")}
        for c in contenders:
            if not c.name.startswith("graphc"):
                own = ours["graphc loop" if c.name.endswith("loop") else "graphc"]
                ratio = statistics.median(a / b for a, b in zip(c.seconds, own.seconds, strict=True))
                axes.barh(y, ratio, color="#2B6CA3")
                axes.text(ratio * 1.03, y, f"{c.name} {ratio:.1f}×", va="center", fontsize=8)
                y += 1
        ticks.append(y - 2.5)
        names.append(workload.name)
        y += 1
    axes.set_yticks(ticks, names, fontsize=8)
    axes.axvline(1, color="#57606A", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("graphc is faster by")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python interpreter that has torch and jax")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, action="append", help="the number of a workload")
    parser.add_argument("--output")
    parser.add_argument("--plot")
    arguments = parser.parse_args()
    results = []
    for index, workload in enumerate(WORKLOADS):
        if arguments.only and index not in arguments.only:
            continue
        contenders = compare(workload, index, arguments)
        results.append((workload, contenders))
        print(table(workload, contenders), flush=True)
    if arguments.output:
        Path(arguments.output).write_text("\n".join(table(*r) for r in results))
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
