"""Speed of generated contractions beside numpy's BLAS and, when it can be imported, torch's.

    python bench/contract.py                              the standard sweep, one thread
    python bench/contract.py --threads 2 --shapes 512x512x512 32x64x64x32:NT
    python bench/contract.py --group thin --dtype double
    python bench/contract.py --quick --threads 2          a few of each kind, in float32 and float64

A shape is [batch x] m x n x k, then :TN and the like where A or B is stored transposed.  The competitors take turns in
each round, so the ratio is paired: the median over rounds of (their time / our time).  GF/s are of the best round.
A round repeats the product natively; numpy and torch are called from Python each time, as their users do.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GROUPS = {
    "square": [f"{s}x{s}x{s}" for s in (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)],
    "prime": ["17x19x23", "31x37x41", "61x67x71", "97x101x103", "127x131x137", "251x257x263", "509x521x523"],
    "transposed": [f"{s}x{s}x{s}:{f}" for s in (64, 256, 512) for f in ("NT", "TN", "TT")],
    "thin": ["1x1024x1024", "1x1024x1024:NT", "1024x1x1024", "1024x1x1024:TN", "64x1x64", "1x64x64", "2000x4x64",
             "2000x4x64:TN", "4x2000x64", "16x1024x1024", "17x1000x1000", "1000x17x1000", "1000x33x1000",
             "1000x40x1000:NT", "500x20x500", "2048x96x2048", "302x39x328:TN", "21x1004x67", "16x16x10000:TN", "512x512x1",
             "256x512x10:NT", "4x2x1"],
    "long": ["16x16x4096", "10x10x4096", "10x10x4096:TN", "32x32x8192", "64x64x4096:TN", "2x64x16384", "1x1x65536",
             "4x1x65536"],
    "outer": ["64x64x1", "256x256x1", "256x256x2", "1024x1024x1", "17x1000x1", "1000x17x3"],
    "layers": ["32x128x64", "32x10x128", "128x10x32:TN", "32x128x10:NT", "64x128x32:TN", "256x64x8", "256x64x64",
               "256x64x64:NT", "64x64x256:TN", "256x2048x1024", "1024x2048x256:TN", "256x1024x2048:NT"],
    "batched": ["32x64x64x32:NT", "32x64x32x64", "32x64x32x64:TN", "32x16x16x16", "100x5x7x3", "8x256x256x64:NT",
                "128x4x4x4", "32x8x8x8:NT", "1000x1x16x16", "1000x16x1x16", "100x17x13x11:TN"],
}
# One or two of each kind, both small and large: a minute on one thread, two on several.
QUICK = ["16x16x16", "64x64x64", "128x128x128:NT", "256x256x256", "512x512x512", "1024x1024x1024", "97x101x103",
         "127x131x137:TN", "1x1024x1024", "256x1x256", "17x1000x1000", "1000x17x1000", "1000x40x1000:NT", "16x16x4096",
         "1x1x65536", "256x256x1", "32x10x128", "64x128x32:TN", "256x64x64", "32x64x64x32:NT", "1000x1x16x16", "128x4x4x4"]
ROUND_SECONDS = 0.004  # of one competitor's turn


@dataclass(frozen=True)
class Shape:
    """C[batch, m, n] = A[batch, m, k] B[batch, k, n]; the flags say which operand is stored transposed."""

    text: str
    batch: int
    m: int
    n: int
    k: int
    a: bool
    b: bool

    @property
    def operations(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


def parse(text: str) -> Shape:
    sizes, _, flags = text.partition(":")
    numbers = [int(s) for s in sizes.split("x")]
    if len(numbers) == 3:
        numbers.insert(0, 1)
    batch, m, n, k = numbers
    return Shape(text, batch, m, n, k, flags[:1] == "T", flags[1:2] == "T")


def build(shape: Shape, dtype: str, threads: int, precision: str = "highest"
          ) -> tuple[Callable[[Any, int], None], dict[str, float], int]:
    """(run(pointers, repetitions), seconds of each phase of compilation, bytes of scratch for each thread)."""
    from graphc.runtime.native import jit, workers
    from graphc.runtime.native.contract import Contraction, emit_contraction, scratch_bytes
    from graphc.runtime.native.emit import Module, i64
    from graphc.runtime.native.passing import FAR, can_pass, emit_fence
    from graphc.runtime.native.target import host
    from graphc.runtime.native.threads import Pool

    batch, m, n, k = shape.batch, shape.m, shape.n, shape.k
    a_m, a_k = (1, m) if shape.a else (k, 1)
    b_k, b_n = (1, k) if shape.b else (n, 1)
    c = Contraction(dtype, (batch,), (m,), (n,), (k,), (m * k,), (a_m,), (a_k,), (k * n,), (b_k,), (b_n,),
                    (m * n,), (n,), (1,))
    target = host(precision)
    size = (scratch_bytes(c, target) + 4095) // 4096 * 4096
    start = time.perf_counter()
    module = Module()
    f = module.function("job", [("arguments", "ptr"), ("thread", "i64"), ("threads", "i64"), ("barrier", "ptr")],
                        returns="i32", internal=False)
    arguments, thread, count, barrier = f.parameters
    a, b, out, scratch = (f.load(f.offset(arguments, i64(i), "i64"), "ptr") for i in range(4))
    repetitions = f.load(f.offset(arguments, i64(4), "i64"), "i64")
    own = f.offset(scratch, f.mul(thread, i64(size)), "i8")
    meet = workers.emit_barrier(module, target)
    touched = batch * (m * k + k * n + m * n) * {"float": 4, "double": 8}[dtype]
    past = touched >= FAR and can_pass(target)
    with f.loop(i64(0), repetitions):
        emit_contraction(f, target, c, a, b, scratch=own, thread=thread if threads > 1 else i64(0),
                         threads=count if threads > 1 else i64(1), c_pointer=out, past=past)
        if past:
            emit_fence(f)
        if threads > 1:
            f.call(meet, [barrier, count])
    f.do("ret i32 0")
    f.finished = True
    text = module.text()
    emitted = time.perf_counter() - start
    code = jit.compile_module(text, target=target, name="contraction")
    address = code.address("job")
    single = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    pool = Pool(threads)

    def run(pointers: Any, repetitions: int, _keep: Any = code) -> None:
        pointers[4] = repetitions
        if threads > 1:
            pool.run(address, ctypes.addressof(pointers), threads)
        else:
            single(ctypes.addressof(pointers), 0, 1, None)

    return run, {"emit": emitted, **code.seconds}, size


def measure(shape: Shape, dtype: str, threads: int, rounds: int, precision: str) -> str:
    import numpy as np
    from graphc.runtime.native import memory

    kind = {"float": np.float32, "double": np.float64}[dtype]
    run, seconds, size = build(shape, dtype, threads, precision)
    batch, m, n, k = shape.batch, shape.m, shape.n, shape.k
    blocks = [memory.allocate(e * np.dtype(kind).itemsize) for e in (batch * m * k, batch * k * n, batch * m * n)]
    scratch = memory.allocate(size * threads)
    rng = np.random.default_rng(0)
    a = blocks[0].array((batch, k, m) if shape.a else (batch, m, k), kind)
    b = blocks[1].array((batch, n, k) if shape.b else (batch, k, n), kind)
    a[...], b[...] = rng.standard_normal(a.shape), rng.standard_normal(b.shape)
    a, b = (a.transpose(0, 2, 1) if shape.a else a), (b.transpose(0, 2, 1) if shape.b else b)
    out = blocks[2].array((batch, m, n), kind)
    theirs = np.zeros_like(out)
    if batch == 1:
        a, b, theirs = a[0], b[0], theirs[0]
    pointers = (ctypes.c_int64 * 5)(*[x.address for x in blocks], scratch.address, 1)

    def repeat(call: Callable[[], Any]) -> Callable[[int], None]:
        def loop(count: int) -> None:
            for _ in range(count):
                call()

        return loop

    competitors: dict[str, Callable[[int], None]] = {
        "own": lambda count: run(pointers, count),
        "numpy": repeat(lambda: np.matmul(a, b, out=theirs)),
    }
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        x, y, z = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(np.zeros_like(theirs))
        competitors["torch"] = repeat(lambda: torch.matmul(x, y, out=z))

    times: dict[str, list[float]] = {name: [] for name in competitors}
    counts = {}
    for name, call in competitors.items():
        counts[name] = 1
        for _ in range(3):  # the first calls start threads and touch memory
            start = time.perf_counter()
            call(counts[name])
            each = (time.perf_counter() - start) / counts[name]
            counts[name] = max(1, min(100_000, int(ROUND_SECONDS / max(1e-8, each))))
    for _ in range(rounds):
        for name, call in competitors.items():
            if threads > 1:
                time.sleep(0.15)  # another library's idle threads spin for a while
                call(max(1, counts[name] // 4))  # and our own have gone to sleep
            start = time.perf_counter()
            call(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name])
    if not np.allclose(out.reshape(theirs.shape), theirs, rtol=1e-3, atol=(2e-2 if precision == "medium" else 1e-3) * k**0.5):
        raise AssertionError(f"{shape.text}: results differ")
    cells = [f"{shape.text:20}", f"{min(times['own']) * 1e6:10.2f} us"]
    for name, values in times.items():
        best, middle = (shape.operations / t / 1e9 for t in (min(values), statistics.median(values)))
        cells.append(f"{name} {best:6.1f} ({middle:6.1f})")
    for name in list(competitors)[1:]:
        ratio = statistics.median(t / o for t, o in zip(times[name], times["own"], strict=True))
        cells.append(f"x{name} {ratio:5.2f}")
    cells.append(f"compile {sum(seconds.values()) * 1e3:4.0f} ms")
    return "  ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", help="for example 64x64x64 32x64x64x32:NT")
    parser.add_argument("--group", choices=GROUPS, action="append", help="one of the standard groups; repeatable")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--dtype", choices=["float", "double"], default="float")
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest",
                        help="of float32, as torch.set_float32_matmul_precision; numpy knows only the highest")
    parser.add_argument("--quick", action="store_true", help="a few shapes of each kind, both element types, 4 rounds")
    options = parser.parse_args()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before the libraries are loaded
    shapes = options.shapes or (QUICK if options.quick else [s for g in options.group or GROUPS for s in GROUPS[g]])
    print("GF/s best (median) of each; x: their time over ours, paired")
    for dtype in ("float", "double") if options.quick else (options.dtype,):
        if options.quick:
            print(dtype)
        for text in shapes:
            print(measure(parse(text), dtype, options.threads, 4 if options.quick else options.rounds,
                          options.precision), flush=True)


if __name__ == "__main__":
    main()
