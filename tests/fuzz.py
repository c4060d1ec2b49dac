"""Random graphs: every kind of op, mixed shapes, gradients among them.

Run a longer campaign:  python -m tests.fuzz --count 2000 --seed 1
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np

import graphc
from graphc.ir import Graph
from graphc.symbols import Tensor

UNARY = ("tanh", "sigmoid", "exp", "square", "neg", "abs", "relu", "sin", "erf", "softplus")
BINARY = ("add", "sub", "mul", "maximum", "minimum")


class Fuzzer:
    """Grows one graph from a seed; values stay tame (everything large is squashed)."""

    def __init__(self, seed: int, unrolled: bool = False) -> None:
        """`unrolled` writes loops out step by step, and computes both sides of branches: the same values otherwise."""
        self.unrolled, self.depth = unrolled, 0
        self.random = np.random.default_rng(seed)
        self.inputs: list[Tensor] = []
        self.arrays: list[np.ndarray] = []
        self.pool: list[Tensor] = []
        self.parameters: list[graphc.Parameter] = []
        sizes = [int(s) for s in self.random.choice([1, 2, 3, 5, 8, 16, 17, 33], 4)]
        for k in range(int(self.random.integers(1, 4))):
            shape = tuple(int(s) for s in self.random.choice(sizes, int(self.random.integers(1, 4))))
            self.inputs.append(graphc.placeholder(f"x{k}", shape))
            self.arrays.append(self.random.uniform(-1, 1, shape).astype(np.float32))
        for k in range(2):
            shape = tuple(int(s) for s in self.random.choice(sizes, int(self.random.integers(1, 3))))
            self.parameters.append(graphc.parameter(f"w{k}", self.random.uniform(-1, 1, shape)))
        self.pool = [*self.inputs, *self.parameters]

    def pick(self) -> Tensor:
        recent = self.random.random() < 0.6
        return self.pool[-1 - int(self.random.integers(min(3, len(self.pool))))] if recent else \
            self.pool[int(self.random.integers(len(self.pool)))]

    def grow(self, steps: int) -> None:
        actions = (self.unary, self.unary, self.binary, self.binary, self.reduce, self.view, self.view, self.contract,
                   self.choose, self.normalise, self.gather, self.prefix, self.join, self.loop, self.branch, self.layer,
                   self.layer, self.masked)
        while steps:
            made = actions[int(self.random.integers(len(actions)))]()
            if made is not None and int(made.size) <= 20000 and made.ndim <= 4:
                self.pool.append(made if made.dtype.is_float else made.astype("float32"))
                steps -= 1

    def unary(self) -> Tensor:
        x = self.pick()
        name = str(self.random.choice(UNARY))
        return getattr(graphc, name)(x.tanh() if name in ("exp", "square") else x)

    def binary(self) -> Tensor | None:
        a, b = self.pick(), self.pick()
        if self.random.random() < 0.3:
            return getattr(graphc, str(self.random.choice(BINARY)))(a, float(np.round(self.random.uniform(-2, 2), 2)))
        try:
            graphc.types.broadcast_shapes(a.shape, b.shape)
        except graphc.ShapeError:
            return None
        made = getattr(graphc, str(self.random.choice(BINARY)))(a, b)
        return made.tanh() if self.random.random() < 0.3 else made

    def axis(self, x: Tensor) -> int:
        return int(self.random.integers(x.ndim))

    def reduce(self) -> Tensor | None:
        x = self.pick()
        if not x.ndim:
            return None
        name = str(self.random.choice(["sum", "mean", "max", "min", "argmax", "var"]))
        if name == "argmax":  # of distinct numbers only: rounding must not decide between equals
            x = self.inputs[int(self.random.integers(len(self.inputs)))]
        if name == "var":
            return x.var(self.axis(x), correction=0, keepdims=bool(self.random.integers(2)))
        axis = None if self.random.random() < 0.2 else self.axis(x)
        made = getattr(graphc, name)(x, axis, keepdims=bool(self.random.integers(2)))
        return made.tanh() if name == "sum" else made

    def view(self) -> Tensor | None:
        x = self.pick()
        if not x.ndim:
            return x.reshape(1)
        action = int(self.random.integers(6))
        if action == 0:
            return x.permute(*(int(a) for a in self.random.permutation(x.ndim)))
        if action == 1:
            return x.reshape(-1) if self.random.random() < 0.5 else x.unsqueeze(self.axis(x))
        if action == 2:
            axis = self.axis(x)
            n = int(x.shape[axis])
            low = int(self.random.integers(n))
            high = int(self.random.integers(low + 1, n + 1))
            return x[tuple(slice(low, high, int(self.random.integers(1, 3))) if a == axis else slice(None)
                           for a in range(x.ndim))]
        if action == 3:
            return graphc.pad(x, int(self.random.integers(1, 3)), constant_values=0.5)
        if action == 4:
            return graphc.flip(x, self.axis(x))
        axis = self.axis(x)
        size = int(self.random.integers(1, min(3, int(x.shape[axis])) + 1))
        return graphc.window(x, axis, size, int(self.random.integers(1, 3)))

    def contract(self) -> Tensor | None:
        a, b = self.pick(), self.pick()
        if not a.ndim or not b.ndim:
            return None
        if a.shape[-1] == b.shape[-1] and b.ndim == 2:
            b = b.T
        inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
        if a.shape[-1] != inner:
            return None
        try:
            graphc.types.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except graphc.ShapeError:
            return None
        return (a @ b).tanh()

    def layer(self) -> Tensor | None:
        """A contraction with what fusion puts before and behind it: a computed operand, folds along rows, columns or all."""
        if self.depth:
            return None  # written out, every step would have parameters of its own
        x = self.pick()
        if x.ndim < 2:
            return None
        inner, outer = int(x.shape[-1]), int(self.random.choice([1, 3, 8, 10, 17, 40, 70]))
        if int(x.size) // inner * outer > 20000:
            return None
        w = graphc.parameter(f"w{len(self.parameters)}", self.random.uniform(-1, 1, (inner, outer)))
        self.parameters.append(w)
        before = int(self.random.integers(3))
        x = x * 0.5 if before == 0 else graphc.where(x > 0.1, x, 0.0) if before == 1 else x
        z = (x @ w) * 0.3
        behind = int(self.random.integers(5))
        if behind == 0:
            return z.softmax(-1)
        if behind == 1:
            return z.tanh() - z.mean(-1, keepdims=True)
        if behind == 2:
            return (z * z).mean(tuple(range(z.ndim - 1))).tanh()
        if behind == 3:
            return z.tanh() * (z * z).mean().tanh()
        return graphc.relu(z)

    def masked(self) -> Tensor | None:
        """Rows that look at each other, as far as a mask with one or two diagonals lets them."""
        x = self.pick()
        if x.ndim < 2:
            return None
        x = graphc.concat([x] * -(-24 // int(x.shape[-2])), -2)
        rows = int(x.shape[-2])
        if int(x.size) // int(x.shape[-1]) * rows > 20000:
            return None
        i, j = np.indices((rows, rows))
        width = int(self.random.integers(1, rows + 1))
        mask = ((j <= i), (j <= i) & (i - j < width), (j >= i), (j <= i + width))[int(self.random.integers(4))]
        scores = x @ x.transpose(-1, -2) * 0.3
        if self.random.random() < 0.3:
            return (graphc.where(mask, scores, 0.0) @ x * 0.1).tanh()
        return (graphc.where(mask, scores, -np.inf).softmax(-1) @ x).tanh()

    def choose(self) -> Tensor:
        x = self.pick()
        return graphc.where(x > 0.1, x, x * 0.5)

    def normalise(self) -> Tensor | None:
        x = self.pick()
        return x.softmax(self.axis(x)) if x.ndim else None

    def gather(self) -> Tensor | None:
        x = self.pick()
        if not x.ndim:
            return None
        axis = self.axis(x)
        index = self.random.integers(0, int(x.shape[axis]), int(self.random.integers(1, 6)))
        return graphc.take(x, index, axis)

    def prefix(self) -> Tensor | None:
        x = self.pick()
        return graphc.cumsum(x, self.axis(x)).tanh() if x.ndim else None

    def join(self) -> Tensor | None:
        x = self.pick()
        return graphc.concat([x, x.tanh()], self.axis(x)) if x.ndim else None

    @contextmanager
    def inside(self, pool: Sequence[Tensor], seed: int) -> Iterator[None]:
        """What grows here is made of `pool` alone, and is the same whenever it grows."""
        held = self.random, self.pool
        self.random, self.pool, self.depth = np.random.default_rng(seed), list(pool), self.depth + 1
        try:
            yield
        finally:
            (self.random, self.pool), self.depth = held, self.depth - 1

    def loop(self) -> Tensor | None:
        """A few steps along the first axis of a tensor, with a carry and something that every step reads."""
        xs, init, shared, seed = self.pick(), self.pick(), self.pick(), int(self.random.integers(1 << 30))
        reverse, segments = bool(self.random.integers(2)), int(self.random.integers(4))
        last = self.random.random() < 0.5
        if not xs.ndim or int(xs.shape[0]) > 8 or self.depth > 1:
            return None

        def step(carry: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
            with self.inside([shared, entry, carry], seed):
                self.grow(3)
                made = self.pool[-1]
                fitting = [t for t in self.pool[3:] if t.shape == carry.shape]
            return ((fitting[-1] if fitting else made.mean()) + carry * 0.5).tanh(), made

        if not self.unrolled:
            carry, ys = graphc.scan(step, init, xs, reverse=reverse, segments=segments or None)
            return carry if last else ys
        carry, rows = init, []
        for t in reversed(range(int(xs.shape[0]))) if reverse else range(int(xs.shape[0])):
            carry, y = step(carry, xs[t])
            rows.append(y)
        return carry if last else graphc.stack(rows[::-1] if reverse else rows, 0)

    def branch(self) -> Tensor | None:
        """One of two small graphs, by the sign of a mean."""
        operands = [self.pick(), self.pick()]
        seeds = [int(s) for s in self.random.integers(1 << 30, size=2)]
        flag = (self.inputs[0] * (1 if self.random.integers(2) else -1)).mean() > 0.0
        if self.depth > 1:
            return None

        def side(seed: int) -> Tensor:
            with self.inside(operands, seed):
                self.grow(2)
                return operands[0] * 0.5 + self.pool[-1].mean()

        if self.unrolled:
            return graphc.where(flag, side(seeds[0]), side(seeds[1]))
        return graphc.cond(flag, lambda: side(seeds[0]), lambda: side(seeds[1]))

    def program(self, steps: int = 12) -> tuple[list[Tensor], list[Tensor], dict[graphc.Parameter, Tensor]]:
        """Inputs, outputs and updates: the last values, a loss, its gradients, and a momentum-like update."""
        self.grow(steps)
        loss = sum(((t * 0.1).tanh() ** 2).mean() for t in self.pool[-3:])
        gradients = graphc.grad(loss, [*self.inputs, *self.parameters], allow_unused=True)
        updates = {w: w * 0.99 - 0.1 * g for w, g in zip(self.parameters, gradients[len(self.inputs):], strict=True)}
        return self.inputs, [*self.pool[-3:], loss, *gradients[:len(self.inputs)]], updates


def chunked(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The graph with axes of equal size cut into two or three chunks, for every such size, as far as that can be."""
    from graphc.passes import batch_axis, chunk

    sizes = {int(s): count for node in graph.inputs for s in node.shape for count in (2, 3) if int(s) % count == 0}
    for size, count in sizes.items():
        for place in (0, -1):
            axes = {n: [k for k, s in enumerate(n.shape) if s == size] for n in graph.inputs}
            with mock.patch.multiple(batch_axis, NOTHING=0.0, SHARE_OUTSIDE=0.0):
                split = batch_axis.Split.of(graph, {n: found[place] for n, found in axes.items() if found}, count)
                wanted = chunk.wanted_outside(split)
            if wanted:
                with mock.patch.object(chunk, "SHARE_INSIDE", 0.0):
                    assert chunk.chunks_for(split, wanted, size)[0] >= 1, "whether it pays can be asked of any step"
                yield f"{count} chunks of {size}", chunk.build(split, wanted)


def check(seed: int, steps: int = 12) -> None:
    """One random graph: before and after each pass, with what may be its batch in chunks, as a plan on a poisoned arena, and
    as native code, for 1 and 2 threads."""
    from graphc.passes.pipeline import Pipeline
    from graphc.passes.split import split_long_sums
    from graphc.runtime.interpreter import evaluate_graph
    from graphc.runtime.native import teams
    from graphc.runtime.plan_interpreter import interpret_plan

    fuzzer = Fuzzer(seed)
    inputs, outputs, updates = fuzzer.program(steps)
    program = graphc.function(inputs, outputs, updates)
    start = {p.cell: p.numpy() for p in fuzzer.parameters}

    def values(graph: Graph) -> list[np.ndarray]:
        return evaluate_graph(graph, dict(zip(graph.inputs, fuzzer.arrays, strict=True)), start)

    wanted = values(program.graph)
    stages: list[str] = []
    plain = Fuzzer(seed, unrolled=True)
    same_inputs, same_outputs, same_updates = plain.program(steps)
    unrolled = graphc.function(same_inputs, same_outputs, same_updates, backend="numpy").graph

    def same(what: str, got: list[np.ndarray]) -> None:
        for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
            assert a.shape == b.shape, f"seed {seed}: {what} changes the shape of result {k}"
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=f"seed {seed}: {what}, result {k}")

    def look(stage: str, result: object) -> None:
        stages.append(stage)
        if isinstance(result, Graph):
            same(stage, values(result))

    same("writing loops out", evaluate_graph(unrolled, dict(zip(unrolled.inputs, fuzzer.arrays, strict=True))))
    pipeline = Pipeline(observe=look)
    graph = pipeline.concrete(pipeline.simplified(program.graph), {})
    for what, in_chunks in chunked(graph):
        same(what, values(in_chunks))
    plan = pipeline.plan(graph)
    cells = {cell: value.copy() for cell, value in start.items()}
    outputs_of_plan = interpret_plan(plan, fuzzer.arrays, {**{c: c.array.copy() for c in program.graph.cells()}, **cells})
    k = len(outputs)
    same("plan", [*outputs_of_plan, *wanted[k:]])
    tight = pipeline.fit(graph, 0)  # as little memory as can be reached: the same values from a smaller arena
    assert tight.plan.arena_bytes <= plan.arena_bytes
    for a, b in zip(values(tight.graph), values(split_long_sums(graph)), strict=True):
        assert a.tobytes() == b.tobytes(), f"seed {seed}: computing again gives other bits"
    cells = {cell: value.copy() for cell, value in start.items()}
    again = interpret_plan(tight.plan, fuzzer.arrays, {**{c: c.array.copy() for c in program.graph.cells()}, **cells})
    same("plan under a budget", [*again, *wanted[k:]])
    assert {"stabilize", "expand", "simplify", "specialize", "plan"} <= set(stages)
    bits: list[list[np.ndarray]] = []
    for threads in (1, 2):
        native = graphc.function(inputs, outputs, updates, threads=threads)
        with mock.patch.object(teams, "GAIN", math.inf):  # two threads even where one is faster
            got = [np.array(v) for v in native(*fuzzer.arrays)]
        new = [cell.array.copy() for cell, _ in native.graph.updates]
        for cell, value in start.items():
            cell.array[...] = value
        same(f"native on {threads} threads", [*got, *new])
        bits.append([*got, *new])
    for a, b in zip(*bits, strict=True):
        assert a.tobytes() == b.tobytes(), f"seed {seed}: other bits for 2 threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=16)
    arguments = parser.parse_args()
    failed = 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        try:
            check(seed, arguments.steps)
        except Exception as error:
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error).strip()[:300]}")
    print(f"{arguments.count} graphs, {failed} failed")


if __name__ == "__main__":
    main()
