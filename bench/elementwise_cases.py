"""The kernels of `bench/elementwise.py`: each the same mathematics in graphc, PyTorch and, where short, numpy.

Knows formulas and shapes.  Must not know how they are timed.  A matrix has the rows that the size asks for; a case of other
rank sees the same memory in another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
MIDDLE = 16  # length of the middle axis, and rows are multiples of it
CHANNELS, TABLE, PARAMETERS = 32, 1000, 48
RATE, SMALL = 1e-4, 1e-8


@dataclass(frozen=True)
class Case:
    """One kernel in three libraries.

    operands  what it reads: "a" a matrix [rows, columns], "b:row" [columns], "y:label" class numbers [rows], "i:entry" numbers
              of table entries [rows], "t:table" [TABLE, columns], "w:parts" the matrix as PARAMETERS tensors of many sizes
    passes    matrices of that size that must be read or written
    graphc    given symbols by name, the new values of the cells named (an operand's name is overwritten in place, else made)
    torch     given tensors by name, a function that computes one round and returns the results in the same order
    numpy     likewise with arrays, or None
    """

    name: str
    passes: int
    operands: str
    columns: int
    graphc: Callable[[Any], dict[str, Any]]
    torch: Callable[[Any], Callable[[], Sequence[Any]]]
    numpy: Callable[[Any], Callable[[], Sequence[np.ndarray]]] | None = None

    def rows(self, size: int) -> int:
        """The rows that make `size` bytes of float32 in all passes, of which there are whole blocks of the middle axis."""
        rows = max(1, size // (4 * self.columns * self.passes))
        return rows if rows < MIDDLE else rows // MIDDLE * MIDDLE

    def arrays(self, rows: int) -> Arrays:
        g = np.random.default_rng(0)
        made: Arrays = {}
        for token in self.operands.split():
            name, _, kind = token.partition(":")
            if kind == "parts":
                weights = np.arange(1, PARAMETERS + 1)
                sizes = np.maximum(1, rows * self.columns * weights // weights.sum())
                made |= {f"{name}{i}": g.standard_normal(int(n)).astype(np.float32) for i, n in enumerate(sizes)}
                continue
            shape = {"row": (self.columns,), "table": (TABLE, self.columns)}.get(kind, (rows, self.columns))
            made[name] = (g.integers(0, self.columns if kind == "label" else TABLE, rows) if kind in ("label", "entry")
                          else g.standard_normal(shape).astype(np.float32))
        return {n: np.abs(a) if n[0] == "s" else a for n, a in made.items()}  # s: a mean of squares


CASES: dict[str, Case] = {}


def add(name: str, passes: int, operands: str, graphc: Any, torch: Any, numpy: Any = None, columns: int = 256) -> None:
    CASES[name] = Case(name, passes, operands, columns, graphc, torch, numpy)


def g() -> Any:
    import graphc

    return graphc


def t() -> Any:
    import torch

    return torch


def functional(lib: Any) -> Any:
    return lib.nn.functional


def with_gradient(forward: Callable[[Any, Any], Any], *of: str) -> tuple[Any, Any]:
    """(graphc, torch) of a function's value and the gradients of its sum times `g` for some operands; a scalar needs no g."""

    def in_graphc(v: Any) -> Any:
        out = forward(g(), v)
        total = (out * v["g"]).sum() if out.ndim else out
        return {"out": out, **{"d" + n: d for n, d in zip(of, g().grad(total, [v[n] for n in of]), strict=True)}}

    def in_torch(v: Any) -> Any:
        inputs = [v[n].requires_grad_() for n in of]

        def run() -> Any:
            out = forward(t(), v)
            return [out.detach(), *t().autograd.grad(out, inputs, v["g"] if out.ndim else None)]

        return run

    return in_graphc, in_torch


def simple(forward: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """(graphc, torch) of one value."""
    return lambda v: {"out": forward(g(), v)}, lambda v: lambda: [forward(t(), v)]


def written(name: str, *operands: str) -> tuple[Any, Any]:
    """(torch, numpy) of one function of both, whose result is written in place."""

    def in_torch(v: Any) -> Any:
        out = t().empty_like(v[operands[0]])
        return lambda: [getattr(t(), name)(*(v[o] for o in operands), out=out)]

    def in_numpy(v: Any) -> Any:
        out = np.empty_like(v[operands[0]])
        return lambda: [getattr(np, name)(*(v[o] for o in operands), out=out)]

    return in_torch, in_numpy


# -- element by element ----------------------------------------------------------------------------------------------

add("add", 3, "a b", lambda v: {"out": v["a"] + v["b"]}, *written("add", "a", "b"))
add("add_mul_chain", 4, "a b c", *simple(lambda lib, v: (v["a"] + v["b"]) * v["c"] - v["a"] * v["b"]))
add("several_outputs", 5, "a b", lambda v: {"p": v["a"] + v["b"], "q": v["a"] - v["b"], "r": v["a"] * v["b"]},
    lambda v: lambda: [v["a"] + v["b"], v["a"] - v["b"], v["a"] * v["b"]])
add("exp", 2, "a", lambda v: {"out": g().exp(v["a"])}, *written("exp", "a"))
add("tanh", 2, "a", lambda v: {"out": g().tanh(v["a"])}, *written("tanh", "a"))
add("sigmoid", 2, "a", lambda v: {"out": g().sigmoid(v["a"])}, lambda v: lambda: [t().sigmoid(v["a"])])


def _gelu_in_numpy(v: Arrays) -> Any:
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


add("gelu_tanh", 2, "a", lambda v: {"out": g().gelu(v["a"], "tanh")},
    lambda v: lambda: [functional(t()).gelu(v["a"], approximate="tanh")], _gelu_in_numpy)
add("gelu_erf", 2, "a", lambda v: {"out": g().gelu(v["a"])}, lambda v: lambda: [functional(t()).gelu(v["a"])])
add("bias_relu", 2, "a b:row", lambda v: {"out": g().relu(v["a"] + v["b"])}, lambda v: lambda: [(v["a"] + v["b"]).relu_()],
    lambda v: lambda: [np.maximum(v["a"] + v["b"], 0)])
add("dropout_mask", 3, "a r", lambda v: {"out": g().where(v["r"] > 0.2, v["a"] * 1.25, 0.0)},
    lambda v: lambda: [t().where(v["r"] > 0.2, v["a"] * 1.25, 0.0)])
add("transpose", 2, "a", lambda v: {"out": v["a"].T}, lambda v: lambda: [v["a"].T.contiguous()],
    lambda v: lambda: [np.ascontiguousarray(v["a"].T)])


def _adam(v: Any, names: Sequence[str]) -> Any:
    new = {}
    for w, d, m, s in zip(*([n for n in v if n[0] == k] for k in names), strict=True):
        new[m], new[s] = 0.9 * v[m] + 0.1 * v[d], 0.999 * v[s] + 0.001 * v[d] * v[d]
        new[w] = v[w] - RATE * new[m] / (new[s].sqrt() + SMALL)
    return new


def _adam_in_numpy(v: Arrays) -> Any:
    w, d, m, s = (v[n] for n in "wgms")

    def run() -> Any:
        np.multiply(m, np.float32(0.9), out=m)
        np.add(m, np.float32(0.1) * d, out=m)
        np.multiply(s, np.float32(0.999), out=s)
        np.add(s, np.float32(0.001) * d * d, out=s)
        np.subtract(w, np.float32(RATE) * m / (np.sqrt(s) + np.float32(SMALL)), out=w)
        return [m, s, w]

    return run


def _adam_in_torch(v: Any) -> Any:
    names = [[n for n in v if n[0] == k] for k in "wgms"]
    ws, ds, ms, ss = ([v[n] for n in group] for group in names)

    def run() -> Any:
        torch = t()
        torch._foreach_lerp_(ms, ds, 0.1)
        torch._foreach_mul_(ss, 0.999)
        torch._foreach_addcmul_(ss, ds, ds, 0.001)
        root = torch._foreach_sqrt(ss)
        torch._foreach_add_(root, SMALL)
        torch._foreach_addcdiv_(ws, ms, root, -RATE)
        return [x for group in zip(ms, ss, ws, strict=True) for x in group]

    return run


add("adam", 7, "w g m s", lambda v: _adam(v, "wgms"), _adam_in_torch, _adam_in_numpy)
add("adam_48_tensors", 7, "w:parts g:parts m:parts s:parts", lambda v: _adam(v, "wgms"), _adam_in_torch)

# -- folds -----------------------------------------------------------------------------------------------------------


def _reduced(method: str, axis: int | None, ending: Callable[[Any], Any] = lambda x: x) -> tuple[Any, Any, Any]:
    def of(v: Any) -> Any:
        a = v["a"]
        if axis == 2:  # the middle of three
            a = a.reshape(-1, min(MIDDLE, a.shape[0]), a.shape[1])
        return getattr(a, method)(*(() if axis is None else (axis % 2 if axis < 2 else 1,)))

    return lambda v: {"out": of(v)}, lambda v: lambda: [ending(of(v))], lambda v: lambda: [of(v)]


for _columns in (7, 97, 256, 1000, 1023, 50_000):
    add(f"sum_last_{_columns}", 1, "a", *_reduced("sum", 1), columns=_columns)
for _columns in (7, 97, 256, 1023):
    add(f"sum_first_{_columns}", 1, "a", *_reduced("sum", 0), columns=_columns)
for _columns in (7, 97, 256):
    add(f"sum_middle_{_columns}", 1, "a", *_reduced("sum", 2), columns=_columns)
add("sum_all", 1, "a", *_reduced("sum", None))
add("max_last", 1, "a", *_reduced("max", 1, lambda x: x.values))
add("max_first", 1, "a", *_reduced("max", 0, lambda x: x.values))
add("argmax_last", 1, "a", lambda v: {"out": v["a"].argmax(1)}, lambda v: lambda: [v["a"].argmax(1)],
    lambda v: lambda: [v["a"].argmax(1)])
add("mean_var", 1, "a", lambda v: {"mean": v["a"].mean(1), "var": v["a"].var(1)},
    lambda v: lambda: list(t().var_mean(v["a"], 1))[::-1], lambda v: lambda: [v["a"].mean(1), v["a"].var(1, ddof=1)])
for _columns in (7, 256, 1023):
    add(f"cumsum_last_{_columns}", 2, "a", *simple(lambda lib, v: v["a"].cumsum(1)), columns=_columns)
add("cumsum_first", 2, "a", *simple(lambda lib, v: v["a"].cumsum(0)), lambda v: lambda: [v["a"].cumsum(0)])

# -- rows ------------------------------------------------------------------------------------------------------------


def _softmax_in_numpy(v: Arrays) -> Any:
    a, out = v["a"], np.empty_like(v["a"])

    def run() -> Any:
        np.subtract(a, a.max(1, keepdims=True), out=out)
        np.exp(out, out=out)
        return [np.divide(out, out.sum(1, keepdims=True), out=out)]

    return run


def _layer_norm_in_numpy(v: Arrays) -> Any:
    a, d = v["a"], v["g"]

    def run() -> Any:
        out = a - a.mean(1, keepdims=True)
        scale = 1 / np.sqrt((out * out).mean(1, keepdims=True) + np.float32(1e-5))
        out *= scale
        return [out, scale * (d - d.mean(1, keepdims=True) - out * (d * out).mean(1, keepdims=True))]

    return run


def _cross_entropy_in_numpy(v: Arrays) -> Any:
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


def _image(a: Any, columns: int) -> Any:
    """A matrix as [images, channels, places]."""
    return a.reshape(-1, min(CHANNELS, a.shape[0]), columns)


for _columns in (10, 97, 256, 1000, 50_000):
    add(f"softmax_{_columns}", 2, "a", *simple(lambda lib, v: v["a"].softmax(-1)), _softmax_in_numpy, columns=_columns)
add("softmax_gradient", 4, "a g", *with_gradient(lambda lib, v: v["a"].softmax(-1), "a"))
add("log_softmax", 2, "a", *simple(lambda lib, v: v["a"].log_softmax(-1)))
for _columns in (10, 256, 1000, 50_000):
    add(f"cross_entropy_{_columns}", 2, "a y:label",
        *with_gradient(lambda lib, v: functional(lib).cross_entropy(v["a"], v["y"]), "a"), _cross_entropy_in_numpy,
        columns=_columns)
for _columns in (97, 256, 1023):
    add(f"layer_norm_{_columns}", 4, "a g",
        *with_gradient(lambda lib, v: functional(lib).layer_norm(v["a"], (v["a"].shape[1],)), "a"), _layer_norm_in_numpy,
        columns=_columns)
add("layer_norm_affine", 4, "a g b:row c:row",
    *with_gradient(lambda lib, v: functional(lib).layer_norm(v["a"], (256,), v["b"], v["c"]), "a", "b", "c"))
add("rms_norm", 4, "a g", *with_gradient(
    lambda lib, v: v["a"] * ((v["a"] * v["a"]).mean(-1, keepdim=True) + 1e-6) ** -0.5, "a"))
add("batch_norm", 4, "a g b:row c:row", *with_gradient(
    lambda lib, v: functional(lib).batch_norm(v["a"], None, None, v["b"], v["c"], training=True), "a", "b", "c"))
add("batch_norm_images", 4, "a g", *with_gradient(
    lambda lib, v: functional(lib).batch_norm(_image(v["a"], 256), None, None, training=True).reshape(v["g"].shape), "a"))
add("embedding", 2, "t:table i:entry", lambda v: {"out": functional(g()).embedding(v["i"], v["t"])},
    lambda v: lambda: [functional(t()).embedding(v["i"], v["t"])], lambda v: lambda: [v["t"][v["i"]]])
add("embedding_gradient", 1, "t:table i:entry g",
    lambda v: {"out": g().grad((functional(g()).embedding(v["i"], v["t"]) * v["g"]).sum(), v["t"])},
    lambda v: lambda: [t().zeros_like(v["t"]).index_add_(0, v["i"], v["g"])])
