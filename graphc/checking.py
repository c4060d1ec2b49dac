"""The gradient check of a user's own graph: symbolic gradients against central finite differences.

Knows how to rebuild a graph in float64, draw feeds and compare slopes.  Must not know files, commands or any op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import GraphError
from .ir import Graph, Node, make, rewrite
from .op import REGISTRY, Kind
from .passes.autodiff import grad
from .passes.expand import expand_composites, specialize
from .records import record
from .runtime.interpreter import evaluate
from .symbols import Symbol, Tensor
from .text import cell_names
from .types import DType, TensorType, float32, float64

MOST_ELEMENTS = 16  # of each parameter that are perturbed one by one; one random direction covers all of them
SMALL = 3  # elements of an open dimension whose size is not given


@record(frozen=True)
class Row:
    """One parameter's result: how many slopes were compared, the largest error and where it was."""

    name: str
    type: TensorType
    slopes: int
    error: float  # |symbolic - numeric| / (absolute + relative * |numeric|): right where at most 1
    place: str
    symbolic: float
    numeric: float
    zero: bool  # the gradient is zero everywhere, which proves little

    @property
    def right(self) -> bool:
        return self.error <= 1.0


@record(frozen=True)
class Tolerance:
    """The step of the differences, and ``|symbolic - numeric| <= absolute + relative * |numeric|``."""

    eps: float
    absolute: float
    relative: float


DOUBLE = Tolerance(1e-6, 1e-6, 1e-4)
SINGLE = Tolerance(1e-2, 2e-2, 5e-2)  # where a graph cannot be rebuilt in float64: rounding is all but hidden


def check_gradients(graph: Graph, loss: Node, sizes: Mapping[str, int], seed: int = 0) -> tuple[list[Row], DType]:
    """Compares the gradient of a scalar floating node with finite differences, for every trainable parameter.

    graph   the node's graph; without trainable parameters its floating inputs are differentiated instead
    sizes   of open dimensions, SMALL where not given
    seed    of the feeds: standard normal, positive where the loss is not finite there; integers are 0 or 1
    Returns a row per parameter, and the dtype of the check: float64 wherever the graph can be rebuilt in it.
    """
    names = graph.open_sizes
    if unknown := sorted(set(sizes).difference(names)):
        raise GraphError(f"no open dimension is called {', '.join(unknown)}; there are: "
                         f"{', '.join(names) or 'none'}")
    fixed = specialize(Graph(graph.inputs, (loss,)), {n: sizes.get(n, SMALL) for n in names})
    if any(size != 1 for size in fixed.outputs[0].shape) or not loss.dtype.is_float:
        raise GraphError(f"check needs a scalar floating loss, got {loss.type}; name one, like loss = output.sum()")
    try:
        return _compare(Problem.of(fixed, True), DOUBLE, seed), float64
    except Unwidened:
        return _compare(Problem.of(fixed, False), SINGLE, seed), float32


class Unwidened(Exception):
    """The graph has an op that insists on float32."""


@record()
class Problem:
    """The loss on placeholders for inputs and cells, in float64 or as the user wrote it."""

    loss: Tensor
    targets: list[tuple[str, TensorType, Node]]  # name, the user's type, placeholder
    feeds: list[Node]
    cells: dict[Node, np.ndarray]

    @staticmethod
    def of(graph: Graph, wide: bool) -> Problem:
        names = cell_names(graph)
        leaves: dict[Node, Node] = {}
        for node in graph.nodes:
            if "symbol" in node.attributes:
                leaves[node] = _placeholder(node.attributes["name"], node.type, wide)
            elif "cell" in node.attributes:
                leaves[node] = _placeholder(names[node.attributes["cell"]], node.type, wide)
        try:
            new = rewrite(graph.nodes, lambda node, inputs: _rebuilt(node, inputs, wide), leaves)
        except GraphError as error:
            if not wide:
                raise
            raise Unwidened from error
        (root,) = graph.outputs
        cells = {leaves[n]: np.array(n.attributes["cell"].array, leaves[n].dtype.numpy) for n in leaves
                 if "cell" in n.attributes}
        chosen = [n for n in leaves if "cell" in n.attributes and n.attributes["cell"].trainable and n.dtype.is_float]
        chosen = chosen or [n for n in leaves if "symbol" in n.attributes and n.dtype.is_float]
        targets = [(leaves[n].attributes["name"], n.type, leaves[n]) for n in chosen]
        feeds = [leaves[n] for n in leaves if "symbol" in n.attributes]
        if not targets:
            raise GraphError("nothing to differentiate: the loss reads no trainable parameter and no floating input")
        return Problem(Tensor(new[root]), targets, feeds, cells)


def _placeholder(name: str, type_: TensorType, wide: bool) -> Node:
    return make(REGISTRY["input"], (), {"name": name, "type": _wide(type_) if wide else type_, "symbol": Symbol()})


def _wide(value: Any) -> Any:
    """An attribute with float64 for float32."""
    if value is float32 or value == float32:
        return float64
    if isinstance(value, TensorType):
        return TensorType(_wide(value.dtype), value.shape)
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return value.astype(np.float64)
    return tuple(_wide(v) for v in value) if isinstance(value, tuple) else value


def _rebuilt(node: Node, inputs: tuple[Node, ...], wide: bool) -> Node | None:
    if not wide:
        return None
    graphs = tuple(_wide_graph(g) for g in node.graphs)
    return make(node.op, inputs, {k: _wide(v) for k, v in node.attributes.items()}, graphs)


def _wide_graph(graph: Graph) -> Graph:
    """A nested graph in float64: it reads nothing but its own inputs."""
    leaves = {i: _placeholder(i.attributes["name"], i.type, True) for i in graph.inputs}
    new = rewrite(graph.nodes, lambda node, inputs: _rebuilt(node, inputs, True), leaves)
    return Graph(tuple(leaves[i] for i in graph.inputs), tuple(new[o] for o in graph.outputs), (), graph.output_names)


def draw(nodes: Sequence[Node], rng: np.random.Generator, positive: bool = False) -> dict[Node, np.ndarray]:
    """Random arrays for inputs of known sizes: normal (or from [0.5, 1.5]) floats, integers 0 and 1, bools."""
    feeds: dict[Node, np.ndarray] = {}
    for node in nodes:
        shape, dtype = tuple(int(s) for s in node.shape), node.dtype
        if dtype.is_float:
            drawn: Any = rng.uniform(0.5, 1.5, shape) if positive else rng.standard_normal(shape)
        else:
            drawn = rng.integers(0, 2, shape)
        feeds[node] = np.asarray(drawn).astype(dtype.numpy)
    return feeds


def _cuts(node: Node) -> bool:
    """Whether the node passes values on but no gradient, on purpose: smooth in its operands, yet without a rule."""
    return (node.op.kind is Kind.MAP and node.op.smooth and node.types[0].dtype.is_float and
            all(i.dtype.is_float for i in node.inputs) and not any(map(node.op.has_gradient, range(len(node.inputs)))))


def _compare(problem: Problem, tolerance: Tolerance, seed: int) -> list[Row]:
    targets = [node for _, _, node in problem.targets]
    gradients = grad(problem.loss, [Tensor(n) for n in targets], allow_unused=True)
    leaves = (*problem.feeds, *problem.cells)
    whole = expand_composites(Graph(leaves, (problem.loss.node, *(g.node for g in gradients))))
    moved = dict(zip(leaves, whole.inputs, strict=True))
    for positive in (False, True):
        values = draw(problem.feeds, np.random.default_rng(seed), positive) | problem.cells
        values = {moved[node]: array for node, array in values.items()}
        at_point, *symbolic = evaluate(whole.outputs, values)
        if np.isfinite(at_point).all():
            break
    else:
        raise GraphError(f"the loss is {float(at_point.reshape(-1)[0])} at random inputs, normal and positive ones alike: "
                         "nothing can be compared; check the parameters' values")
    held = [n for n in whole.nodes if _cuts(n)]  # finite differences must not see past a cut either
    values |= dict(zip(held, evaluate(held, values), strict=True))
    rng = np.random.default_rng(seed + 1)

    def slope(node: Node, direction: np.ndarray) -> float:
        kept, ends = values[node], []
        for sign in (1, -1):
            values[node] = (kept + sign * tolerance.eps * direction).astype(kept.dtype)
            ends.append(float(evaluate(whole.outputs[:1], values)[0].reshape(-1)[0]))
        values[node] = kept
        return (ends[0] - ends[1]) / (2 * tolerance.eps)

    rows = []
    for (name, type_, node), gradient in zip(problem.targets, symbolic, strict=True):
        leaf = moved[node]
        count = gradient.size
        chosen = range(count) if count <= MOST_ELEMENTS else sorted(rng.choice(count, MOST_ELEMENTS, replace=False))
        worst = Row(name, type_, len(chosen) + 1, 0.0, "", 0.0, 0.0, not gradient.any())
        for flat in (*chosen, None):
            if flat is None:
                direction = rng.standard_normal(gradient.shape)
                direction /= np.linalg.norm(direction) or 1.0
                place = "a random direction"
            else:
                direction = np.zeros(gradient.shape)
                direction.reshape(-1)[flat] = 1.0
                place = str([int(k) for k in np.unravel_index(int(flat), gradient.shape)])
            found, numeric = float((gradient * direction).sum()), slope(leaf, direction)
            error = abs(found - numeric) / (tolerance.absolute + tolerance.relative * abs(numeric))
            error = error if np.isfinite(error) else np.inf
            if error >= worst.error:
                worst = Row(name, type_, worst.slopes, error, place, found, numeric, worst.zero)
        rows.append(worst)
    return rows


def format_rows(rows: Sequence[Row], precision: DType) -> str:
    """The table that `graphc check` prints."""
    names = max(9, *(len(r.name) for r in rows))
    types = max(4, *(len(str(r.type)) for r in rows))
    lines = [f"{'parameter':{names}}  {'type':{types}}  slopes  {'error':>9}  verdict   ({precision.name}; right where "
             "error is at most 1)"]
    for row in rows:
        verdict = "WRONG" if not row.right else "zero everywhere: proves nothing" if row.zero else "right"
        lines.append(f"{row.name:{names}}  {row.type!s:{types}}  {row.slopes:6}  {row.error:9.2g}  {verdict}")
        if not row.right:
            lines.append(f"{'':{names}}  at {row.place}: the graph says {row.symbolic:.9g}, finite differences "
                         f"{row.numeric:.9g}")
    return "\n".join(lines) + "\n"


__all__ = ["Row", "check_gradients", "draw", "format_rows"]
