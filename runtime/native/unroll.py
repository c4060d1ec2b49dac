"""A step so small that loops and memory cost more than its arithmetic: every element becomes one SSA value.

Knows how to run a Graph over numpy arrays whose elements are LLVM values: views are numpy's own, maps call the op's
scalar body, folds and contractions add up element by element.  Must not know plans, buffers' places, or op names.

Inside `run` the cells' elements are loop-carried registers: memory is read before the first step and written after the
last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from graphc.ir import Cell, Graph, Node
from graphc.op import Kind

from .emit import Carried, Function, Value, constant, i64
from .scalar import NativeScalar

LLVM = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64", "bool": "i1"}
MOST_OPERATIONS = 1200  # scalar instructions of one step
MOST_ELEMENTS = 256  # of one tensor

UNROLLED = (Kind.SOURCE, Kind.MAP, Kind.VIEW, Kind.REDUCE, Kind.CONTRACT, Kind.PREFIX)


def scalar_operations(graph: Graph, cost: Callable[[Node], int]) -> int | None:
    """Instructions of the unrolled step; None where a node cannot be unrolled or is too large."""
    total = 0
    for node in graph.nodes:
        if node.op.kind not in UNROLLED or len(node.types) != 1 or int(node.type.size) > MOST_ELEMENTS:
            return None
        total += cost(node)
        if total > MOST_OPERATIONS:
            return None
    return total


class Unroller:
    """Computes nodes as arrays of values at the end of the function's current block."""

    def __init__(self, f: Function) -> None:
        self.f, self.s = f, NativeScalar(f)
        self.known: dict[Any, Value] = {}

    def constants(self, array: Any, dtype: str) -> np.ndarray:
        """Numbers as constants; values that are there already stay."""
        source = np.asarray(array, dtype=object)
        flat = [v if isinstance(v, Value) else constant(v, LLVM[dtype]) for v in source.reshape(-1)]
        result = np.empty(len(flat), object)
        result[:] = flat
        return result.reshape(source.shape)

    def load(self, pointer: Value, shape: Sequence[int], dtype: str) -> np.ndarray:
        """The elements of a row-major buffer."""
        scalar = LLVM[dtype]
        values = []
        for i in range(prod(shape)):
            at = self.f.offset(pointer, i64(i), "i8" if scalar == "i1" else scalar)
            value = self.f.load(at, "i8" if scalar == "i1" else scalar)
            if scalar == "i1":
                value = self.f.compare("icmp ne", value, Value("0", "i8"))
            values.append(value)
        result = np.empty(len(values), object)
        result[:] = values
        return result.reshape(tuple(shape))

    def store(self, values: np.ndarray, pointer: Value) -> None:
        for i, value in enumerate(values.reshape(-1)):
            if value.type == "i1":
                value = self.f.convert("zext", value, "i8")
            self.f.store(value, self.f.offset(pointer, i64(i), value.type))

    def run(self, graph: Graph, feeds: dict[Node, np.ndarray]) -> list[np.ndarray]:
        """The roots' elements, for the elements of inputs and cells."""
        values = dict(feeds)
        for node in graph.nodes:
            if node not in values:
                result = self.compute(node, [values[i] for i in node.inputs])
                values[node] = self.constants(result, node.dtype.name).reshape(node.shape)
        return [values[r] for r in graph.roots]

    def compute(self, node: Node, arguments: list[np.ndarray]) -> Any:
        kind, op = node.op.kind, node.op
        if kind is Kind.MAP:
            return self.map(node, arguments)
        if kind is Kind.REDUCE:
            return self.reduce(node, arguments[0])
        if kind is Kind.CONTRACT:
            return self.contract(node, *arguments)
        if kind is Kind.PREFIX:
            return self.prefix(node, arguments[0])
        result = op.numpy(*arguments, **node.attributes)  # views and constants: numpy moves values
        return np.array(result, dtype=object) if kind is Kind.VIEW else np.asarray(result).tolist()

    def map(self, node: Node, arguments: list[np.ndarray]) -> np.ndarray:
        """The scalar body per element; equal operands (a repeated scalar) are computed once."""
        result = np.empty(int(node.type.size), object)
        attributes = tuple(node.attributes.items())
        for i, operands in enumerate(zip(*(a.reshape(-1) for a in arguments), strict=True)):
            key = (node.op.name, attributes, operands)
            value = self.known.get(key)
            if value is None:
                value = self.known[key] = node.op.scalar(self.s, *operands, **node.attributes)
            result[i] = value
        return result

    def tree(self, states: list[tuple], combine: Callable[..., tuple]) -> tuple:
        """Joins neighbours pairwise: the shortest chain of dependent instructions."""
        while len(states) > 1:
            states = [combine(self.s, *states[i:i + 2]) if i + 1 < len(states) else states[i]
                      for i in range(0, len(states), 2)]
        return states[0]

    def reduce(self, node: Node, x: np.ndarray) -> np.ndarray:
        fold, axes = node.op.fold, node.attributes["axes"]
        assert fold is not None
        dtype = node.inputs[0].dtype
        kept = [a for a in range(x.ndim) if a not in axes]
        lines = np.transpose(x, (*kept, *axes)).reshape(int(node.type.size), prod(x.shape[a] for a in axes))
        result = np.empty(len(lines), object)
        for i, line in enumerate(lines):
            states = [fold.lift(self.s, v, i64(k)) for k, v in enumerate(line)]
            if not states:
                names = fold.state_dtypes(dtype)
                states = [tuple(constant(v, LLVM[d]) for v, d in zip(fold.identity(dtype), names, strict=True))]
            result[i] = self.tree(states, fold.combine)[fold.result]
        return result

    def prefix(self, node: Node, x: np.ndarray) -> np.ndarray:
        fold, axis = node.op.fold, node.attributes["axis"]
        assert fold is not None
        moved = np.moveaxis(np.array(x, dtype=object), axis, -1).copy()
        if node.attributes["reverse"]:
            moved = moved[..., ::-1].copy()
        for line in moved.reshape(prod(moved.shape[:-1]), moved.shape[-1]):
            for k in range(1, len(line)):
                line[k] = fold.combine(self.s, (line[k - 1],), (line[k],))[0]
        if node.attributes["reverse"]:
            moved = moved[..., ::-1]
        return np.moveaxis(moved, -1, axis)

    def contract(self, node: Node, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Two chains of fused multiply-adds per element, joined at the end."""
        left, rest = node.attributes["spec"].split(",")
        right, out = rest.split("->")
        summed = [label for label in dict.fromkeys(left + right) if label not in out]
        sizes = dict(zip(left + right, (*a.shape, *b.shape), strict=True))
        order = out + "".join(summed)
        grid = [sizes[label] for label in order]
        lines = int(node.type.size), prod(sizes[label] for label in summed)
        x = self._spread(a, left, order, grid).reshape(lines)
        y = self._spread(b, right, order, grid).reshape(lines)
        result = np.empty(len(x), object)
        for i, (xs, ys) in enumerate(zip(x, y, strict=True)):
            chains: list[Value | None] = [None, None]
            for k, (p, q) in enumerate(zip(xs, ys, strict=True)):
                before = chains[k % 2]
                if before is None:
                    chains[k % 2] = self.s.mul(p, q)
                elif node.dtype.is_float:
                    chains[k % 2] = self.s.fma(p, q, before)
                else:
                    chains[k % 2] = self.s.add(self.s.mul(p, q), before)
            first, second = chains
            if first is None:
                result[i] = constant(0, LLVM[node.dtype.name])
            else:
                result[i] = first if second is None else self.s.add(first, second)
        return result

    def _spread(self, x: np.ndarray, labels: str, order: str, grid: list[int]) -> np.ndarray:
        """The operand over all labels, in the given order."""
        present = [label for label in order if label in labels]
        moved = np.transpose(x, [labels.index(label) for label in present])
        shape = [n if label in labels else 1 for label, n in zip(order, grid, strict=True)]
        return np.broadcast_to(moved.reshape(shape), grid)


def emit_unrolled_run(f: Function, graph: Graph, count: Value, inputs: Callable[[Node, Value], Value],
                      outputs: Callable[[int, Value], Value], cells: Callable[[Cell], Value]) -> None:
    """Writes ``for step in range(count)`` around the unrolled step.

    inputs, outputs and cells give addresses; those of inputs and outputs may move with the step.
    """
    sources = {n.attributes["cell"]: n for n in graph.nodes if n.op.is_given and "cell" in n.attributes}
    updated = [cell for cell, _ in graph.updates]
    loader = Unroller(f)
    held = {cell: loader.load(cells(cell), node.shape, node.dtype.name) for cell, node in sources.items()}
    moving = [cell for cell in updated if cell in held]
    carried = Carried([v for cell in moving for v in held[cell].reshape(-1)])
    written_only = [cell for cell in updated if cell not in held]
    with f.loop(i64(0), count, 1, carried) as step:
        unroller = Unroller(f)
        feeds = {}
        values = iter(carried.values)
        for cell in moving:
            flat = np.empty(held[cell].size, object)
            flat[:] = [next(values) for _ in range(held[cell].size)]
            held[cell] = flat.reshape(held[cell].shape)
        for cell, node in sources.items():
            feeds[node] = held[cell]
        for node in graph.inputs:
            feeds[node] = unroller.load(inputs(node, step), node.shape, node.dtype.name)
        roots = unroller.run(graph, feeds)
        k = len(graph.outputs)
        for position, values_ in enumerate(roots[:k]):
            unroller.store(values_, outputs(position, step))
        new = dict(zip(updated, roots[k:], strict=True))
        for cell in written_only:
            unroller.store(new[cell], cells(cell))
        carried.next = [v for cell in moving for v in new[cell].reshape(-1)]
    results = iter(carried.results)
    for cell in moving:
        flat = np.empty(held[cell].size, object)
        flat[:] = [next(results) for _ in range(held[cell].size)]
        loader.store(flat, cells(cell))
