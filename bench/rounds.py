"""Contenders as processes, timed in turns.

Every round gives each contender one turn, so that what the machine does meanwhile meets all of them; ratios are taken within
a round.  Before a turn is timed, threads that the last contender left spinning get time to fall asleep, and some untimed
steps wake the contender's own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contenders import IN_COLUMNS
from .workload import Workload

ROOT = Path(__file__).resolve().parent.parent
TURN_SECONDS = 0.06  # of one contender in one round
MOST_STEPS = 50_000  # in one turn: a run keeps the loss of each
LEFT_OUT = {"highest": 0.0, "high": 2.0**-15, "medium": 2.0**-7}  # of a product of two numbers, by the precision
IDLE_SECONDS = 0.15  # OpenBLAS's and OpenMP's threads spin about so long


class Unequal(Exception):
    """Two contenders do not compute the same thing."""


@dataclass
class Contender:
    """One process and its measurements; where it could not start, `reason` says why."""

    peer: str
    mode: str
    process: subprocess.Popen[str] | None = None
    reason: str = ""
    missing: bool = False  # the library is not installed, or the workload is not written for it: no failure
    told: dict[str, Any] = field(default_factory=dict)  # losses, seconds of import and of the first step, version
    steps: int = 1  # in one turn
    seconds: list[float] = field(default_factory=list)
    memory: int = 0

    @property
    def name(self) -> str:
        return {"call": self.peer, "loop": f"{self.peer} loop", "compile": f"{self.peer}.compile",
                "autocast": f"{self.peer} autocast", "kept": f"{self.peer}, kept on disk"}[self.mode]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended while it was timed: exit status {self.process.wait()}")
        return dict(json.loads(answer))

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


@dataclass
class Result:
    """All that was measured on one workload; `peaks` holds the FMA peak of each round, in operations a second."""

    workload: Workload
    contenders: list[Contender]
    left_out: list[Contender]
    machine: dict[str, Any]
    peaks: list[float]

    def ours(self, mode: str) -> Contender | None:
        """graphc in the mode that is comparable: `run` with loops, one call a step with all others."""
        wanted = "loop" if mode == "loop" else "call"
        return next((c for c in self.contenders if c.peer == "graphc" and c.mode == wanted), None)

    def ratio(self, c: Contender) -> float:
        """How many times as long as graphc it takes: the median over rounds of the ratio within a round."""
        own = self.ours(c.mode)
        assert own is not None
        return statistics.median(a / b for a, b in zip(c.seconds, own.seconds, strict=True))

    def share(self, c: Contender) -> float:
        """Of the FMA peak measured in the same round."""
        return statistics.median(self.workload.flops / s / p for s, p in zip(c.seconds, self.peaks, strict=True))

    def best_peer(self, mode: str) -> Contender | None:
        peers = [c for c in self.contenders if c.peer != "graphc" and (c.mode == "loop") == (mode == "loop")]
        return min(peers, key=lambda c: c.median, default=None)


@contextmanager
def written(workload: Workload) -> Iterator[Callable[[str], Path]]:
    """The folder of what a library's contenders start from, in its layout.

    Drawn here and once: it would take 10 MB of a contender's memory, beside the numbers themselves.
    """
    with tempfile.TemporaryDirectory() as fresh:
        def folder(peer: str) -> Path:
            columns = peer in IN_COLUMNS
            place = Path(fresh) / ("columns" if columns else "rows")
            if not place.exists():
                workload.write(place, columns)
            return place

        yield folder


def start(python: str, peer: str, mode: str, workload: str, threads: int, values: Path | str = "", file: str = "",
          kept: str = "", precision: str = "highest") -> Contender:
    """A contender that is built and has done three steps, or the reason why there is none.

    values     the folder that has what it starts from
    kept       the folder of graphc's disk cache; it has none unless given
    precision  of contractions
    """
    c = Contender(peer, mode)
    with tempfile.TemporaryDirectory() as fresh, tempfile.TemporaryFile("w+") as errors:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
                       "OPENBLAS_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": fresh,
                       **({"GRAPHC_CACHE": "1", "GRAPHC_CACHE_DIR": kept} if kept else {"GRAPHC_CACHE": "0"})}
        if threads == 1:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        command = [python, "-m", "bench.worker", peer, mode, workload, str(threads), str(values), precision,
                   *([file] if file else [])]
        c.process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=errors, env=environment)
        assert c.process.stdout is not None
        answer = c.process.stdout.readline()
        if answer:
            c.told = json.loads(answer)
            return c
        c.process.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    c.process = None
    c.reason = lines[-1] if lines else "it ended without a word"
    c.missing = c.reason == f"ModuleNotFoundError: No module named '{peer}'"
    return c


def check_equal(workload: Workload, contenders: list[Contender], precision: str = "highest") -> None:
    """The first loss shows the forward pass, the next two gradients and the update.

    Raises Unequal where one differs from graphc's by more than the tolerance, or by more than a hundredth of what three
    steps changed; where contractions are less precise, by more than that leaves out of a product, or by more than a tenth.
    """
    left_out = LEFT_OUT[precision]
    tolerance, share, least = (left_out, 0.1, left_out / 4) if left_out else (workload.tolerance, 0.01, 1e-6)
    reference = contenders[0]
    losses = reference.told["losses"]
    moved = abs(losses[2] - losses[0])
    for c in contenders[1:]:
        for k, (a, b) in enumerate(zip(c.told["losses"], losses, strict=True)):
            if not abs(a - b) <= min(tolerance * abs(b), max(share * moved, least * abs(b))):
                raise Unequal(f"{workload.name}: {c.name} has loss {a} at step {k + 1}, {reference.name} {b}: "
                              "not the same mathematics")


def start_machine(threads: int) -> Contender:
    """The process that measures the machine: what it told at its start, and the FMA peak whenever it is asked."""
    machine = start(sys.executable, "machine", "call", "", threads)
    if machine.process is None:
        raise RuntimeError(f"the machine could not be measured: {machine.reason}")
    return machine


def compare(workload: Workload, wanted: list[tuple[str, str, str]], machine: Contender, threads: int, rounds: int, *,
            file: str = "", precision: str = "highest", say: Callable[[str], None] = lambda text: None) -> Result:
    """One workload on all wanted (python, peer, mode); the first is the reference.  Raises Unequal."""
    contenders: list[Contender] = []
    left_out: list[Contender] = []
    everything: list[Contender] = []
    try:
        with written(workload) as values:
            for python, peer, mode in wanted:
                if peer in ("numpy", "jax") and getattr(workload, peer) is None:
                    left_out.append(Contender(peer, mode, reason="not written for this workload", missing=True))
                    continue
                say(f"{workload.name}: building {peer} {mode}")
                c = start(python, peer, mode, workload.name, threads, values(peer), file, precision=precision)
                everything.append(c)
                (contenders if c.process is not None else left_out).append(c)
        if not contenders or contenders[0].peer != "graphc":
            raise RuntimeError(f"{workload.name}: graphc did not start: {left_out[0].reason}")
        check_equal(workload, contenders, precision)
        for c in contenders:  # how many steps fill a turn
            while True:
                seconds = c.ask(f"0 {c.steps}")["seconds"]
                if c.steps == MOST_STEPS or seconds * c.steps > TURN_SECONDS / 2:
                    break
                c.steps = min(MOST_STEPS, max(2 * c.steps, int(TURN_SECONDS / seconds)))
            c.steps = max(1, min(MOST_STEPS, int(TURN_SECONDS / seconds)))
        peaks = []
        for number in range(rounds):
            say(f"{workload.name}: round {number + 1} of {rounds}")
            peaks.append(float(machine.ask("")["fma"]))
            for k in range(len(contenders)):
                c = contenders[(k + number) % len(contenders)]
                if threads > 1:
                    time.sleep(IDLE_SECONDS)
                answer = c.ask(f"{-(-c.steps // 4)} {c.steps}")
                c.seconds.append(answer["seconds"])
                c.memory = answer["memory"]
        return Result(workload, contenders, left_out, machine.told, peaks)
    finally:
        for c in everything:
            c.close()


def begin(workload: Workload, wanted: list[tuple[str, str, str]], threads: int, rounds: int, *, file: str = "",
          say: Callable[[str], None] = lambda text: None) -> Result:
    """How long all wanted (python, peer, mode) take to build, compile and run their first step: in every round a new process.

    `seconds` of the contenders are these times, `memory` the most after three steps.  In the mode "kept" a process before the
    first round has left its code on the disk.  Raises Unequal.
    """
    contenders = [Contender(peer, mode) for _, peer, mode in wanted]
    with written(workload) as values, tempfile.TemporaryDirectory() as kept:
        for python, peer, mode in wanted:
            if mode == "kept":
                start(python, peer, mode, workload.name, threads, values(peer), file, kept).close()
        for number in range(rounds):
            say(f"{workload.name}: round {number + 1} of {rounds}")
            for k in range(len(wanted)):
                place = (k + number) % len(wanted)
                c = contenders[place]
                if c.reason:
                    continue
                if c.peer in ("numpy", "jax") and getattr(workload, c.peer) is None:
                    c.reason, c.missing = "not written for this workload", True
                    continue
                started = start(*wanted[place], workload.name, threads, values(c.peer), file, kept if c.mode == "kept" else "")
                started.close()
                c.told, c.reason, c.missing = started.told, started.reason, started.missing
                if not c.reason:
                    c.seconds.append(started.told["first"])
                    c.memory = max(c.memory, started.told["memory"])
    took_part = [c for c in contenders if not c.reason]
    if not took_part or took_part[0].peer != "graphc":
        raise RuntimeError(f"{workload.name}: graphc did not start: {contenders[0].reason}")
    check_equal(workload, took_part)
    return Result(workload, took_part, [c for c in contenders if c.reason], {}, [])
