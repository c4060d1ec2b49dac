"""Elementwise kernels and reductions from L1 to memory, beside numpy, torch and the triad measured in the same rounds.

    python bench/elementwise.py                                    all cases, one thread and all
    python bench/elementwise.py --cases softmax layer_norm --sizes 256K 64M --threads 2

A size is the bytes that a case must at least read and write, so that equal sizes meet equal caches; matrices have 256 columns.
A round repeats the case natively; numpy and torch are called from Python each time, as their users do, with results written
in place where they can.  GB/s counts those bytes only; "of triad" is the share of what a = b + s c over as many bytes reaches
in the same round.  Ratios are medians over rounds of (their time / our time).  Results are compared before anything is timed.
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

COLUMNS = 256
ROUND_SECONDS = 0.004  # of one competitor's turn
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One kernel in three libraries.

    arrays   its operands, from a generator and the number of rows; all are [rows, COLUMNS] unless noted
    passes   matrices of that size that must be read or written
    graphc   given symbols by name, the new values of the cells named (a name of `arrays` is overwritten, else made)
    numpy    given arrays by name, a function that computes one round and returns the results in the same order
    torch    likewise
    """

    name: str
    passes: int
    operands: Sequence[str]
    graphc: Callable[[Any], dict[str, Any]]
    numpy: Callable[[Arrays], Callable[[], Sequence[np.ndarray]]]
    torch: Callable[[Any], Callable[[], Sequence[Any]]]


CASES: dict[str, Case] = {}


def case(name: str, passes: int, operands: str) -> Callable[[Callable[[], tuple[Any, Any, Any]]], None]:
    def add(make: Callable[[], tuple[Any, Any, Any]]) -> None:
        CASES[name] = Case(name, passes, operands.split(), *make())

    return add


# -- elementwise -----------------------------------------------------------------------------------------------------


@case("add", 3, "a b")
def _add() -> Any:
    def in_numpy(v: Arrays) -> Any:
        out = np.empty_like(v["a"])
        return lambda: [np.add(v["a"], v["b"], out=out)]

    def in_torch(v: Any) -> Any:
        import torch

        out = torch.empty_like(v["a"])
        return lambda: [torch.add(v["a"], v["b"], out=out)]

    return lambda v: {"out": v["a"] + v["b"]}, in_numpy, in_torch


@case("tanh", 2, "a")
def _tanh() -> Any:
    import graphc

    def in_numpy(v: Arrays) -> Any:
        out = np.empty_like(v["a"])
        return lambda: [np.tanh(v["a"], out=out)]

    def in_torch(v: Any) -> Any:
        import torch

        out = torch.empty_like(v["a"])
        return lambda: [torch.tanh(v["a"], out=out)]

    return lambda v: {"out": graphc.tanh(v["a"])}, in_numpy, in_torch


@case("gelu", 2, "a")
def _gelu() -> Any:
    import graphc

    def in_numpy(v: Arrays) -> Any:
        a, out = v["a"], np.empty_like(v["a"])

        def run() -> Any:
            np.multiply(a, a, out=out)
            np.multiply(out, np.float32(0.044715), out=out)
            np.add(out, 1, out=out)
            np.multiply(out, a, out=out)
            np.multiply(out, np.float32(0.7978845608), out=out)
            np.tanh(out, out=out)
            np.add(out, 1, out=out)
            np.multiply(out, a, out=out)
            return [np.multiply(out, np.float32(0.5), out=out)]

        return run

    def in_torch(v: Any) -> Any:
        from torch.nn.functional import gelu

        return lambda: [gelu(v["a"], approximate="tanh")]

    return lambda v: {"out": graphc.gelu(v["a"], "tanh")}, in_numpy, in_torch


@case("adam", 7, "w g m s")
def _adam() -> Any:
    """The update of Adam with constants for its bias corrections: four arrays in, three out."""
    rate, small = 1e-4, 1e-8

    def in_graphc(v: Any) -> Any:
        m, s = 0.9 * v["m"] + 0.1 * v["g"], 0.999 * v["s"] + 0.001 * v["g"] * v["g"]
        return {"w": v["w"] - rate * m / (s.sqrt() + small), "m": m, "s": s}

    def in_numpy(v: Arrays) -> Any:
        w, g, m, s = (v[n] for n in "wgms")

        def run() -> Any:
            np.multiply(m, np.float32(0.9), out=m)
            np.add(m, np.float32(0.1) * g, out=m)
            np.multiply(s, np.float32(0.999), out=s)
            np.add(s, np.float32(0.001) * g * g, out=s)
            np.subtract(w, np.float32(rate) * m / (np.sqrt(s) + np.float32(small)), out=w)
            return [w, m, s]

        return run

    def in_torch(v: Any) -> Any:
        w, g, m, s = (v[n] for n in "wgms")

        def run() -> Any:
            m.lerp_(g, 0.1)
            s.mul_(0.999).addcmul_(g, g, value=0.001)
            w.addcdiv_(m, s.sqrt().add_(small), value=-rate)
            return [w, m, s]

        return run

    return in_graphc, in_numpy, in_torch


# -- reductions ------------------------------------------------------------------------------------------------------


def _sums(axis: int) -> Any:
    def in_torch(v: Any) -> Any:
        return lambda: [v["a"].sum(axis)]

    return lambda v: {"out": v["a"].sum(axis)}, lambda v: lambda: [v["a"].sum(axis)], in_torch


case("sum_rows", 1, "a")(lambda: _sums(1))
case("sum_columns", 1, "a")(lambda: _sums(0))


@case("softmax", 2, "a")
def _softmax() -> Any:
    def in_numpy(v: Arrays) -> Any:
        a, out = v["a"], np.empty_like(v["a"])

        def run() -> Any:
            np.subtract(a, a.max(1, keepdims=True), out=out)
            np.exp(out, out=out)
            return [np.divide(out, out.sum(1, keepdims=True), out=out)]

        return run

    return lambda v: {"out": v["a"].softmax(-1)}, in_numpy, lambda v: lambda: [v["a"].softmax(-1)]


@case("layer_norm", 4, "a g")
def _layer_norm() -> Any:
    """Forward and backward: the normalised rows, and the gradient of the input for a given gradient of the output."""
    import graphc

    def in_graphc(v: Any) -> Any:
        out = graphc.nn.functional.layer_norm(v["a"], (COLUMNS,))
        return {"out": out, "da": graphc.grad((out * v["g"]).sum(), v["a"])}

    def in_numpy(v: Arrays) -> Any:
        a, g = v["a"], v["g"]

        def run() -> Any:
            out = a - a.mean(1, keepdims=True)
            scale = 1 / np.sqrt((out * out).mean(1, keepdims=True) + np.float32(1e-5))
            out *= scale
            return [out, scale * (g - g.mean(1, keepdims=True) - out * (g * out).mean(1, keepdims=True))]

        return run

    def in_torch(v: Any) -> Any:
        import torch

        a, g = v["a"].requires_grad_(), v["g"]

        def run() -> Any:
            out = torch.nn.functional.layer_norm(a, (COLUMNS,))
            return [out.detach(), torch.autograd.grad(out, a, g)[0]]

        return run

    return in_graphc, in_numpy, in_torch


@case("cross_entropy", 2, "a y")
def _cross_entropy() -> Any:
    """Log-softmax cross-entropy on class indices: the mean loss and the gradient of the logits."""
    import graphc

    def in_graphc(v: Any) -> Any:
        loss = graphc.nn.functional.cross_entropy(v["a"], v["y"])
        return {"loss": loss, "da": graphc.grad(loss, v["a"])}

    def in_numpy(v: Arrays) -> Any:
        a, y, rows = v["a"], v["y"], np.arange(len(v["y"]))

        def run() -> Any:
            shifted = a - a.max(1, keepdims=True)
            e = np.exp(shifted)
            s = e.sum(1, keepdims=True)
            loss = (np.log(s[:, 0]) - shifted[rows, y]).mean()
            e /= s
            e[rows, y] -= 1
            e /= len(y)
            return [loss, e]

        return run

    def in_torch(v: Any) -> Any:
        import torch

        a, y = v["a"].requires_grad_(), v["y"]

        def run() -> Any:
            loss = torch.nn.functional.cross_entropy(a, y)
            return [loss.detach(), torch.autograd.grad(loss, a)[0]]

        return run

    return in_graphc, in_numpy, in_torch


# -- measuring -------------------------------------------------------------------------------------------------------


def operands(c: Case, rows: int) -> Arrays:
    g = np.random.default_rng(0)
    made: Arrays = {n: g.integers(0, COLUMNS, rows) if n == "y" else g.standard_normal((rows, COLUMNS)).astype(np.float32)
                    for n in c.operands}
    if "s" in made:
        made["s"] = np.abs(made["s"])  # a mean of squares
    return made


def build_graphc(c: Case, rows: int, threads: int) -> tuple[Callable[[int], None], Callable[[], list[np.ndarray]]]:
    """(run n times natively, results): operands and results are states, so that nothing is converted or returned."""
    import graphc

    cells = {n: graphc.state(n, a, "int64" if n == "y" else "float32") for n, a in operands(c, rows).items()}
    new = c.graphc(cells)
    targets = {n: cells[n] if n in cells else graphc.state(n, np.zeros(t.shape), t.dtype) for n, t in new.items()}
    program = graphc.function([], [], {targets[n]: t for n, t in new.items()}, threads=threads)
    return (lambda n: program.run(n)), (lambda: [targets[n].numpy() for n in new])


def repeat(call: Callable[[], Any]) -> Callable[[int], None]:
    def loop(count: int) -> None:
        for _ in range(count):
            call()

    return loop


def measure(c: Case, size: int, threads: int, rounds: int, machine: Any) -> str:
    """One line of the table.  Raises AssertionError where results differ."""
    rows = max(1, size // (4 * COLUMNS * c.passes))
    run, results = build_graphc(c, rows, threads)
    competitors: dict[str, Callable[[int], None]] = {"own": run}
    run(1)
    ours = results()
    made = {"numpy": c.numpy(operands(c, rows))}
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads)
        made["torch"] = c.torch({n: torch.from_numpy(a) for n, a in operands(c, rows).items()})
    for name, call in made.items():
        for a, b in zip(ours, call(), strict=True):
            if not np.allclose(a, np.asarray(b), rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(a).max()))):
                raise AssertionError(f"{c.name}: {name} has other results")
        competitors[name] = repeat(call)

    counts, times, triads = {}, {n: [] for n in competitors}, []
    for name, call in competitors.items():
        counts[name] = 1
        for _ in range(3):
            start = time.perf_counter()
            call(counts[name])
            each = (time.perf_counter() - start) / counts[name]
            counts[name] = max(1, min(20_000, int(ROUND_SECONDS / max(1e-8, each))))
    moved = c.passes * rows * COLUMNS * 4
    for _ in range(rounds):
        triads.append(machine.triad(moved, threads, ROUND_SECONDS))
        for name, call in competitors.items():
            if threads > 1:
                time.sleep(0.02)  # torch's idle threads spin for a while
                call(max(1, counts[name] // 4))  # and our own have gone to sleep
            start = time.perf_counter()
            call(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name])
    own = times["own"]
    share = statistics.median(moved / t / peak for t, peak in zip(own, triads, strict=True))
    middle = statistics.median(own)
    cells = [f"{c.name:14} {threads} thread{'s' * (threads > 1):1} {moved / 1024:10,.0f} KB {middle * 1e6:12,.2f} us",
             f"{moved / middle / 1e9:7.1f} GB/s", f"of triad {share:5.2f}"]
    for name in ("numpy", "torch"):
        if name in times:
            cells.append(f"x{name} {statistics.median(t / o for t, o in zip(times[name], own, strict=True)):6.2f}")
        else:
            cells.append(f"{name} left out: not installed")
    return "  ".join(cells)


def bytes_of(text: str) -> int:
    """16K, 4M, or a plain number."""
    unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1].upper(), 1)
    return int(text[:-1] if unit > 1 else text) * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--sizes", nargs="*", type=bytes_of, default=[bytes_of(s) for s in ("24K", "512K", "8M", "128M")],
                        help="bytes moved, for example 24K 8M (24K 512K 8M 128M)")
    parser.add_argument("--threads", nargs="*", type=int, default=sorted({1, cores}), help=f"one after another (1 {cores})")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    from bench.machine import Machine

    machine = Machine(max(options.threads))
    for threads in options.threads:
        for name in options.cases:
            for size in options.sizes:
                print(measure(CASES[name], size, threads, options.rounds, machine), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file: the folder above has bench and graphc
    main()
