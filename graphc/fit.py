"""Training over mini-batches of arrays.

Knows epochs, order and progress.  Must not know graphs: it calls a program.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import FeedError
from .feeds import assign, convert
from .origins import at, user_origin

if TYPE_CHECKING:
    from .program import Program


class Bar:
    """A progress bar on one line of a terminal."""

    def __init__(self, total: int, enabled: bool) -> None:
        self.total, self.enabled = total, enabled and sys.stderr.isatty()
        self.start = self.last = time.monotonic()

    def show(self, done: int, text: str) -> None:
        now = time.monotonic()
        if not self.enabled or (now - self.last < 0.1 and done < self.total):
            return
        self.last = now
        filled = int(24 * done / self.total)
        left = (now - self.start) * (self.total - done) / max(done, 1)
        sys.stderr.write(f"\r{'█' * filled}{'░' * (24 - filled)} {done}/{self.total} {text} {left:4.0f}s left ")
        sys.stderr.flush()

    def close(self) -> None:
        if self.enabled:
            sys.stderr.write("\n")


def fit(program: Program, data: Mapping[str, Any], *, batch_size: int, epochs: int, shuffle: bool, seed: int,
        progress: bool, drop_last: bool) -> dict[str, np.ndarray]:
    """See `Program.fit`."""
    inputs = program.built.inputs
    arrays = [convert(n, v) for n, v in zip(inputs, assign(inputs, (), data), strict=True)]
    rows = {len(a) for a in arrays if a.ndim}
    if len(rows) != 1 or any(not a.ndim for a in arrays):
        raise FeedError(f"fit: every input needs the same number of rows, got "
                        f"{ {n.attributes['name']: list(a.shape) for n, a in zip(inputs, arrays, strict=True)} }"
                        f"{at(user_origin())}")
    (count,) = rows
    if batch_size < 1 or epochs < 1 or count < 1:
        raise FeedError(f"fit: batch_size, epochs and the number of rows must be positive, got {batch_size}, {epochs}, "
                        f"{count}{at(user_origin())}")
    batch_size = min(batch_size, count)
    generator = np.random.default_rng(seed)
    whole, rest = divmod(count, batch_size)
    names = output_names(program)
    history: dict[str, list[float]] = {name: [] for name in names}
    bar = Bar(epochs * whole, progress)
    for epoch in range(epochs):
        order = generator.permutation(count) if shuffle else np.arange(count)
        sums = np.zeros(len(names))
        head = [np.ascontiguousarray(a[order[:whole * batch_size]]).reshape(whole, batch_size, *a.shape[1:])
                for a in arrays]

        def report(done: int, outputs: list[np.ndarray], epoch: int = epoch) -> None:
            bar.show(epoch * whole + done, f"epoch {epoch + 1}/{epochs} {names[0]} {float(outputs[0].mean()):.4g}")

        outputs = run_batches(program, head, whole, report)
        sums += [float(o.reshape(whole, -1).mean(axis=1).sum()) * batch_size for o in outputs[:len(names)]]
        seen = whole * batch_size
        if rest and not drop_last:
            tail = [np.ascontiguousarray(a[order[whole * batch_size:]])[None] for a in arrays]
            outputs = run_batches(program, tail, 1, None)
            sums += [float(o.mean()) * rest for o in outputs[:len(names)]]
            seen += rest
        for name, total in zip(names, sums, strict=True):
            history[name].append(total / seen)
    bar.close()
    return {name: np.array(values) for name, values in history.items()}


def run_batches(program: Program, stacked: list[np.ndarray], count: int, report: Any) -> list[np.ndarray]:
    """One native run over `count` batches, stacked along the first axis."""
    with program._lock:
        special = program._for([a[0] for a in stacked])
        return program._run_in_chunks(special, stacked, count, [True] * len(stacked), report)


def output_names(program: Program) -> list[str]:
    """"loss" for the first output, then the names of the others; only numbers can be averaged."""
    names = ["loss" if i == 0 else n for i, n in enumerate(program.built.output_names)]
    return list(dict.fromkeys(names)) or ["loss"]
