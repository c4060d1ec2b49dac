"""How the tests exercise ops: operands for every op in the registry, from its record alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc
from graphc.op import REGISTRY, Kind, Op
from graphc.symbols import Tensor, apply, placeholder
from graphc.types import as_dtype

SOURCES = {"input", "parameter", "constant", "updating", "checkpoint"}  # made by users, or carrying cells: tested with programs
CHARACTERS = {"f": ("float32", "float64"), "i": ("int32", "int64"), "b": ("bool",)}


@dataclass(frozen=True)
class Case:
    """One way to run one op."""

    op: Op
    arrays: tuple[np.ndarray, ...]
    attributes: dict[str, Any]
    dtype: str

    def __str__(self) -> str:
        shapes = "x".join("_".join(map(str, a.shape)) or "0d" for a in self.arrays)
        return f"{self.op.name}-{self.dtype}-{shapes}"

    def symbols(self) -> list[Tensor]:
        return [placeholder(f"x{i}", a.shape, as_dtype(a.dtype)) for i, a in enumerate(self.arrays)]

    def build(self, *symbols: Tensor) -> Tensor:
        return apply(self.op, *symbols, **self.attributes)


def draw(generator: np.random.Generator, shape: tuple[int, ...], dtype: str, low: float, high: float) -> np.ndarray:
    """Values of a dtype inside an open interval, no two equal (so that maxima have no ties)."""
    if dtype == "bool":
        return generator.random(shape) > 0.5
    if dtype.startswith("int"):
        return generator.integers(int(np.floor(low)) - 2, int(np.ceil(high)) + 3, shape).astype(dtype)
    return generator.uniform(low, high, shape).astype(dtype)


def map_cases(op: Op, dtype: str, shape: tuple[int, ...]) -> Iterator[Case]:
    generator = np.random.default_rng(len(op.name))
    if op.name.startswith("random"):
        position = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        key = np.full(shape, 12345678901234, np.int64)
        for to in ("float32", "float64"):
            yield Case(op, (position, key), {"site": 3, "dtype": as_dtype(to)}, to)
        return
    arity = len(op.domain) or {"where": 3}.get(op.name, 1)
    domain = op.domain or ((-2.0, 2.0),) * arity
    arrays = [draw(generator, shape, dtype, *limits) for limits in domain]
    if op.name == "where":
        arrays[0] = generator.random(shape) > 0.5
    if op.name == "cast":
        for to in ("float32", "float64", "int32", "int64", "bool"):
            yield Case(op, tuple(arrays), {"dtype": as_dtype(to)}, f"{dtype}-{to}")
        return
    if op.name == "power" and dtype.startswith("int"):
        arrays[1] = np.abs(arrays[1])
    yield Case(op, tuple(arrays), {}, dtype)


def sample_cases(op: Op, dtype: str) -> Iterator[Case]:
    generator = np.random.default_rng(len(op.name) + 1)
    for sample in op.samples:
        arrays = tuple(np.asarray(o) if isinstance(o, np.ndarray) else draw(generator, o, dtype, -2.0, 2.0)
                       for o in sample.operands)
        yield Case(op, arrays, dict(sample.attributes), dtype)


def dtypes_of(op: Op) -> list[str]:
    if op.kind is Kind.SOURCE or op.name.startswith("random"):
        return ["float32"]
    return [d for c in op.dtypes for d in CHARACTERS[c]]


def all_cases(shape: tuple[int, ...] = (3, 5)) -> list[Case]:
    """Every op, every dtype that it takes, every sample."""
    found: list[Case] = []
    for op in REGISTRY.values():
        if op.name in SOURCES:
            continue
        for dtype in dtypes_of(op):
            found.extend(map_cases(op, dtype, shape) if op.kind is Kind.MAP else sample_cases(op, dtype))
    return found


def differentiable_cases() -> list[Case]:
    """The float64 cases of ops through which a gradient flows."""
    return [c for c in all_cases((2, 3)) if c.dtype == "float64" and c.op.smooth and c.op.kind is not Kind.SOURCE
            and (c.op.kind is Kind.COMPOSITE or any(c.op.has_gradient(i) for i in range(len(c.arrays))))]


assert graphc.__version__
