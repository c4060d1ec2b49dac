"""Layers by themselves, forward and backward, beside eager PyTorch, each library in processes of its own.

    python bench/layers.py                                 all layers, three turns of either library
    python bench/layers.py --only Pool2d Conv --rounds 5 --threads 2 --output layers.md

A step gives a layer's result and the gradients of its sum times given numbers, by the operand and by all parameters.  Both
libraries start from the same numbers; the norms of what they give are compared.  Microseconds are medians over turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TURN_SECONDS = 0.2  # of one layer
MILLION, IMAGES, SMALL = (64, 128, 256), (16, 64, 32, 32), (8, 32, 32, 32)


@dataclass(frozen=True)
class Layer:
    """A layer by its name in `nn`, with what it is made of and the shape of its operand."""

    name: str
    arguments: tuple[Any, ...] = ()
    shape: tuple[int, ...] = MILLION
    settings: Mapping[str, Any] = field(default_factory=dict)
    call: Callable[[Any, Any], Any] = lambda layer, x: layer(x)

    @property
    def title(self) -> str:
        said = [*map(str, self.arguments), *(f"{k}={v}" for k, v in self.settings.items() if k != "batch_first")]
        return f"{self.name}({', '.join(said)}) of {'x'.join(map(str, self.shape))}"


def first(layer: Any, x: Any) -> Any:
    return layer(x)[0]


def attend(layer: Any, x: Any) -> Any:
    return layer(x, x, x, need_weights=False)[0]


def twice(layer: Any, x: Any) -> Any:
    return layer(x, x)


def beside(layer: Any, x: Any) -> Any:
    return layer(x, x * 0.5 + 0.1)


SEQUENCE, TOKENS = (32, 40, 64), (8, 64, 128)
BATCHED: dict[str, Any] = {"batch_first": True}
LAYERS = [
    Layer("Linear", (512, 512), (64, 512)), Layer("Linear", (300, 700), (128, 300), {"bias": False}),
    Layer("Conv1d", (64, 64, 9), (16, 64, 200), {"padding": 4}),
    Layer("Conv1d", (32, 32, 3), (16, 32, 400), {"padding": 8, "dilation": 8}),
    Layer("Conv2d", (32, 32, 3), SMALL, {"padding": 2, "dilation": 2}),
    Layer("Conv2d", (32, 64, 3), SMALL, {"padding": 1, "stride": 2}),
    Layer("Conv2d", (3, 64, 7), (4, 3, 96, 96), {"padding": 3, "stride": 2}),
    Layer("Conv2d", (64, 128, 1), (8, 64, 32, 32)), Layer("Conv2d", (64, 128, 1), (8, 64, 32, 32), {"stride": 2}),
    Layer("Conv2d", (64, 64, 3), (8, 64, 32, 32), {"padding": 1, "groups": 4}),
    *(Layer("Conv2d", (64, 64, k), (8, 64, 32, 32), {"padding": k // 2, "groups": 64}) for k in (3, 5, 7)),
    Layer("Conv2d", (64, 64, 3), (8, 64, 32, 32), {"padding": 1, "groups": 64, "stride": 2}),
    Layer("Conv3d", (8, 16, 3), (4, 8, 16, 16, 16), {"padding": 1}),
    Layer("Conv3d", (8, 16, 3), (4, 8, 16, 16, 16), {"padding": 1, "stride": 2}),
    Layer("ConvTranspose1d", (64, 32, 8), (8, 64, 100), {"stride": 4, "padding": 2}),
    Layer("ConvTranspose2d", (64, 32, 2), (8, 64, 16, 16), {"stride": 2}),
    Layer("ConvTranspose2d", (64, 32, 4), (8, 64, 16, 16), {"stride": 2, "padding": 1}),
    Layer("ConvTranspose2d", (32, 32, 3), SMALL, {"padding": 1}),
    Layer("MaxPool2d", (2,), IMAGES), Layer("MaxPool2d", (3, 2, 1), IMAGES), Layer("MaxPool2d", (3, 1, 1), (16, 32, 32, 32)),
    Layer("AvgPool2d", (2,), IMAGES), Layer("AvgPool2d", (3, 1, 1), (16, 32, 32, 32)),
    Layer("AdaptiveAvgPool2d", (7,), IMAGES), Layer("AdaptiveMaxPool2d", (5,), IMAGES),
    Layer("LPPool2d", (2, 2), (16, 32, 32, 32)),
    *(Layer("Upsample", (), SMALL, {"scale_factor": 2, "mode": mode}) for mode in ("nearest", "bilinear", "bicubic")),
    Layer("PixelShuffle", (2,), (8, 64, 32, 32)), Layer("ChannelShuffle", (4,), (16, 32, 32, 32)),
    Layer("Unfold", (3,), (8, 16, 32, 32), {"padding": 1}), Layer("Fold", ((32, 32), 3), (8, 144, 1024), {"padding": 1}),
    *(Layer(name, (2,), (16, 32, 32, 32)) for name in ("ReflectionPad2d", "ReplicationPad2d", "ZeroPad2d", "CircularPad2d")),
    Layer("BatchNorm2d", (64,), IMAGES), Layer("GroupNorm", (8, 64), IMAGES), Layer("InstanceNorm2d", (64,), IMAGES),
    Layer("LocalResponseNorm", (5,), IMAGES), Layer("LayerNorm", (256,)), Layer("RMSNorm", (256,)),
    Layer("Softmax", (-1,)), Layer("LogSoftmax", (1,)), Layer("Softmax2d", (), (16, 32, 32, 32)),
    *(Layer(name) for name in ("GELU", "Mish", "SiLU", "ELU", "CELU", "Softplus", "Hardswish", "PReLU", "GLU", "LogSigmoid")),
    *(Layer(name, (64, 128), SEQUENCE, BATCHED, first) for name in ("RNN", "GRU", "LSTM")),
    Layer("MultiheadAttention", (128, 4), TOKENS, BATCHED, attend),
    Layer("TransformerEncoderLayer", (128, 4, 256), TOKENS, {**BATCHED, "dropout": 0.0}),
    Layer("TransformerDecoderLayer", (128, 4, 256), TOKENS, {**BATCHED, "dropout": 0.0}, twice),
    Layer("CosineSimilarity", (), (512, 256), {}, beside), Layer("PairwiseDistance", (), (512, 256), {}, beside),
]


# -- one library's process -------------------------------------------------------------------------------------------


def numbers(layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parameters by name and the operand, from a seed that is the layer's."""
    draw = np.random.default_rng(zlib.crc32(layer.title.encode()))
    made = {name: (draw.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)
            for name, shape in sorted(shapes.items())}
    return made, draw.standard_normal(layer.shape).astype(np.float32)


def graphc_step(layer: Layer, threads: int) -> Callable[[], Sequence[np.ndarray]]:
    import graphc

    made = getattr(graphc.nn, layer.name)(*layer.arguments, **layer.settings)
    named = dict(made.named_parameters())
    values, operand = numbers(layer, {n: tuple(p.shape) for n, p in named.items()})
    made.load_state_dict(values, strict=False)
    x = graphc.placeholder("x", layer.shape)
    out = layer.call(made, x)
    weights = graphc.placeholder("weights", out.shape)
    gradients = graphc.grad((out * weights).sum(), [x, *named.values()])
    given = np.full(out.shape, 0.5, np.float32)
    return graphc.function([x, weights], [out, *gradients], threads=threads).bind(operand, given)


def torch_step(layer: Layer, threads: int) -> Callable[[], Sequence[np.ndarray]]:
    import torch

    torch.set_num_threads(threads)
    made = getattr(torch.nn, layer.name)(*layer.arguments, **layer.settings)
    named = dict(made.named_parameters())
    values, operand = numbers(layer, {n: tuple(p.shape) for n, p in named.items()})
    made.load_state_dict({n: torch.from_numpy(v) for n, v in values.items()}, strict=False)
    x = torch.from_numpy(operand).requires_grad_()
    given = torch.full_like(layer.call(made, x), 0.5)

    def step() -> Sequence[np.ndarray]:
        out = layer.call(made, x)
        gradients = torch.autograd.grad(out, [x, *named.values()], given)
        return [t.detach().numpy() for t in (out, *gradients)]

    return step


def work(library: str, chosen: Sequence[int], threads: int) -> None:
    """Prints a line of JSON for each layer: microseconds, and the norms of what a step gives."""
    build = {"graphc": graphc_step, "torch": torch_step}[library]
    for number in chosen:
        step = build(LAYERS[number], threads)
        norms = [float(np.sqrt(np.sum(np.square(v, dtype=np.float64)))) for v in step()]
        step()
        start = time.perf_counter()
        step()
        count = max(1, int(TURN_SECONDS / 5 / max(1e-7, time.perf_counter() - start)))
        turns = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(count):
                step()
            turns.append((time.perf_counter() - start) / count)
        print(json.dumps({"number": number, "microseconds": statistics.median(turns) * 1e6, "norms": norms}), flush=True)


# -- the table -------------------------------------------------------------------------------------------------------


def turn(library: str, python: str, chosen: Sequence[int], threads: int) -> dict[int, dict[str, Any]]:
    """What a new process measures.  Raises RuntimeError with its words where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [python, str(Path(__file__).resolve()), "--work", library, "--threads", str(threads), *map(str, chosen)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{library}: {done.stderr.strip()[-500:]}")
    return {row["number"]: row for row in map(json.loads, done.stdout.splitlines())}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="layers whose title contains one of these")
    parser.add_argument("--rounds", type=int, default=3, help="turns of either library, each in a new process (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of either library (all cores)")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="the interpreter that has torch (this one)")
    parser.add_argument("--output", metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--work", choices=("graphc", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("numbers", nargs="*", type=int, help=argparse.SUPPRESS)
    o = parser.parse_args(argv)
    if o.rounds < 1 or o.threads < 1:
        parser.error("--rounds and --threads must be positive")
    if o.work:
        work(o.work, o.numbers, o.threads)
        return 0
    chosen = [n for n, layer in enumerate(LAYERS) if not o.only or any(text in layer.title for text in o.only)]
    if not chosen:
        parser.error(f"no layer's title contains {' or '.join(o.only)}")
    found: dict[str, list[dict[int, dict[str, Any]]]] = {"graphc": [], "torch": []}
    for number in range(o.rounds):
        print(f"turn {number + 1} of {o.rounds}", file=sys.stderr, flush=True)
        for library, turns in found.items():
            turns.append(turn(library, o.peers if library == "torch" else sys.executable, chosen, o.threads))
    lines = ["| layer, forward and backward | graphc us | torch us | graphc is faster by |", "|---|---:|---:|---:|"]
    unequal = []
    for n in chosen:
        own, theirs = (statistics.median(t[n]["microseconds"] for t in found[library]) for library in ("graphc", "torch"))
        norms = [found[library][0][n]["norms"] for library in ("graphc", "torch")]
        if not np.allclose(*norms, rtol=2e-3, atol=1e-3):
            unequal.append(f"{LAYERS[n].title}: {norms[0]} and {norms[1]}")
        lines.append(f"| {LAYERS[n].title} | {own:,.1f} | {theirs:,.1f} | {theirs / own:.2f}× |")
    page = "\n".join(lines) + "\n"
    print(page)
    if o.output:
        Path(o.output).write_text(page)
    for line in unequal:
        print(f"other results: {line}", file=sys.stderr)
    return 1 if unequal else 0


if __name__ == "__main__":
    raise SystemExit(main())
