"""Whole training steps side by side: one process for each contender, timed in interleaved rounds, equal losses checked.

  python -m bench --list                            the workloads
  python -m bench --only gpt                        those whose name contains "gpt"
  python -m bench --only mlp --against torch        graphc and PyTorch alone
  python -m bench --peers PATH/TO/python            PyTorch and JAX from an environment of their own
  python -m bench --compile                         torch.compile of the whole step too (up to a minute for each workload)
  python -m bench --precision medium                contractions may round to bfloat16, in every library that can
  python -m bench --starts 7                        compiling and the first step alone, in 7 new processes of each
  python -m bench --output page.md --plot page.svg  everything measured as a page and a picture

All contenders start from the same weights and data; the losses of the first three steps must agree, else the run stops.
A "loop" is many steps in one call (step.run(n), jax.lax.fori_loop); all else is one call a step, from Python.  "Faster by" is
the median over rounds of the ratio within a round: on a machine that others use too, only that can be trusted.  A contender
that could not take part is named in the output, with the reason; the exit status is 1 where that is more than a library that
is not installed.  `bench/contract.py` measures contractions alone, `bench/elementwise.py` loops and reductions.
"""

from __future__ import annotations

import argparse
import compileall
import os
import sys
from pathlib import Path

from . import report
from .rounds import LEFT_OUT, ROOT, Result, Unequal, begin, compare, start_machine
from .workload import Workload
from .workloads import load

PEERS = ("numpy", "torch", "jax")


def compile_bytecode() -> None:
    """Compiles the modules of this checkout for Python as an installation does; else every process would begin with that."""
    for package in ("graphc", "passes", "runtime", "bench"):
        compileall.compile_dir(ROOT / package, quiet=2)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    parser.add_argument("--only", action="append", metavar="NAME", help="workloads whose name contains this; repeatable")
    parser.add_argument("--against", nargs="+", choices=PEERS, default=list(PEERS), help="which peers (all)")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON",
                        help="the interpreter that has torch and jax (this one)")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the whole step too")
    parser.add_argument("--precision", choices=tuple(LEFT_OUT), default="highest",
                        help="of contractions, in libraries that know such a setting; torch.autocast takes part with medium")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender (15)")
    parser.add_argument("--starts", type=int, default=0, metavar="N",
                        help="only compile and run the first step, N times, each time in a new process; graphc also with its "
                             "code kept on disk by another process")
    parser.add_argument("--threads", type=int, default=cores, help=f"of each contender (all cores: {cores})")
    parser.add_argument("--file", default="", help="a Python file with a list WORKLOADS instead of the standard ones")
    parser.add_argument("--output", metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--plot", metavar="FILE", help="write a picture (SVG)")
    o = parser.parse_args(argv)
    workloads = load(o.file)
    chosen = [w for name, w in workloads.items() if not o.only or any(part in name for part in o.only)]
    if not chosen:
        parser.error(f"no workload's name contains {' or '.join(o.only)}: there are {', '.join(workloads)}")
    if o.starts and o.precision != "highest":
        parser.error("--starts measures the highest precision")
    if o.rounds < 1 or o.threads < 1 or o.starts < 0:
        parser.error("--rounds, --threads and --starts must be positive")
    if o.list:
        for w in chosen:
            libraries = ["graphc", "torch", *(p for p in ("jax", "numpy") if getattr(w, p) is not None)]
            print(f"{w.name:10} {w.title:65} {w.flops / 1e6:10,.3f} MFLOP a step  {' '.join(libraries)}")
        return 0
    compile_bytecode()
    if "jax" in o.against and 1 < o.threads < cores:
        print(f"JAX cannot be held to {o.threads} threads; it uses {cores}", file=sys.stderr)

    wanted = [(sys.executable, "graphc", "call"), (sys.executable, "graphc", "loop"), (sys.executable, "numpy", "call"),
              (o.peers, "torch", "call"), (o.peers, "torch", "compile"), (o.peers, "torch", "autocast"),
              (o.peers, "jax", "call"), (o.peers, "jax", "loop")]
    asked = {"compile": o.compile, "autocast": o.precision == "medium"}
    wanted = [w for w in wanted if (w[1] == "graphc" or w[1] in o.against) and asked.get(w[2], True)]
    results: list[Result] = []
    if o.starts:
        first, *peers = (w for w in wanted if w[2] != "loop")
        return only_starts(chosen, [first, (sys.executable, "graphc", "kept"), *peers], o)
    machine = start_machine(o.threads)
    try:
        for workload in chosen:
            results.append(compare(workload, wanted, machine, o.threads, o.rounds, file=o.file, precision=o.precision,
                                   say=progress))
            progress("")
            print(report.table(results[-1]), flush=True)
    except Unequal as error:
        progress("")
        print(error, file=sys.stderr)
        return 2
    finally:
        machine.close()
    print(report.machine(results))
    print(report.summary(results))
    if o.output:
        Path(o.output).write_text(report.document(results, o.threads, o.precision))
    if o.plot:
        Path(o.plot).write_text(report.plot(results))
    return status(results)


def only_starts(chosen: list[Workload], wanted: list[tuple[str, str, str]], o: argparse.Namespace) -> int:
    """The table of compiling and first steps; the exit status."""
    try:
        results = [begin(w, wanted, o.threads, o.starts, file=o.file, say=progress) for w in chosen]
    except Unequal as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        progress("")
    page = report.starts(results)
    print(page)
    if o.output:
        Path(o.output).write_text(page)
    return status(results)


def status(results: list[Result]) -> int:
    """1 where a contender could not take part though its library is there; each is named."""
    failed = [f"{r.workload.name}: {c.name}: {c.reason}" for r in results for c in r.left_out if not c.missing]
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def progress(text: str) -> None:
    """One line on standard error, overwritten where that is a terminal; elsewhere rounds are told once."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text and (" round " not in text or " round 1 " in text):
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
