"""The Graph: typed, immutable, interned nodes; outputs and updates.

Knows nodes, cells (named memory that outlives a step), where a node came from, and how to walk and rebuild graphs.
Must not know any op's name, gradients, loops or memory.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count as counter
from typing import Any

import numpy as np

from .cells import Cell
from .errors import GraphError
from .op import Kind, Op
from .origins import Origin, at, phase, scope, user_origin
from .records import record
from .types import Dim, DType, Quotient, TensorType

# -- attributes ------------------------------------------------------------------------------------------------------

SMALL = 64  # constants up to this many elements are compared by value, larger ones by identity


PLAIN = frozenset((str, DType, Dim, Quotient, TensorType, type(None)))  # equal where they say the same
NUMBERS = frozenset((int, bool))


def key_of(value: Any) -> Any:
    """A hashable stand-in that tells apart what Python's == confuses: 0.0 and -0.0, 1 and True, and joins NaNs."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is tuple:
        for part in value:
            if type(part) is not int and type(part) is not Dim:
                return tuple([key_of(v) for v in value])
        return value  # a shape or axes: the key of an int in any other tuple is a pair
    if kind in NUMBERS:
        return kind, value
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, np.ndarray):
        if value.size <= SMALL:
            return "array", value.dtype.str, value.shape, value.tobytes()
        return "array", id(value)
    return kind, id(value)  # cells, input symbols, callables: by identity; the node keeps them alive


def freeze(value: Any) -> Any:
    """Lists become tuples, numpy scalars Python's, arrays read-only."""
    kind = type(value)
    if kind in PLAIN or kind in NUMBERS:
        return value
    if kind is tuple:
        for part in value:
            if type(part) is not int and type(part) is not Dim:
                break
        else:
            return value
    if isinstance(value, (list, tuple)):
        return tuple([freeze(v) for v in value])
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int):
        return int(value)  # of a number that can do more
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    return value


# -- nodes -----------------------------------------------------------------------------------------------------------

_numbers = counter()
_table: dict[Any, weakref.ref[Node]] = {}  # entries of nodes that are gone stay until it is swept
_sweep_at = 1 << 13  # entries
_lock = threading.RLock()


class Node:
    """One operation: op, inputs, attributes, nested graphs, the types of its results, and all of its origins.

    Nodes are interned: equal nodes are one object, so common subexpressions never exist twice.
    """

    __slots__ = ("__weakref__", "attributes", "dtype", "graphs", "inputs", "key", "number", "op", "origins", "phase", "scope",
                 "settled", "shape", "type", "types")

    op: Op
    inputs: tuple[Node, ...]
    attributes: dict[str, Any]
    graphs: tuple[Graph, ...]
    types: tuple[TensorType, ...]
    type: TensorType  # of its only result, and that one's shape and dtype
    shape: tuple
    dtype: DType
    origins: tuple[Origin, ...]
    key: Any
    number: int  # in order of creation
    phase: str
    scope: str
    settled: bool  # a note of simplification: nothing applies to the node, which depends on itself alone

    def __getattr__(self, name: str) -> Any:
        """What a node with several results does not have."""
        if name in ("type", "shape", "dtype"):
            raise GraphError(f"{self.op.name} has {len(self.types)} results; pick one")
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<{self.op.name} #{self.number}: {', '.join(map(str, self.types))}>"


def make(op: Op, inputs: Sequence[Node] = (), attributes: Mapping[str, Any] | None = None,
         graphs: Sequence[Graph] = ()) -> Node:
    """The node of this op on these inputs, typed and interned.

    Raises ShapeError or DTypeError naming the op, the types and the user's line where the types do not fit.
    """
    frozen = {name: freeze(value) for name, value in sorted(attributes.items())} if attributes else {}
    key = (op.name, tuple(map(id, inputs)), tuple([(n, key_of(v)) for n, v in frozen.items()]) if frozen else (),
           tuple([graph.key for graph in graphs]) if graphs else ())
    origin = user_origin()
    node = _known(key, origin)
    if node is None:
        node = _new(op, inputs, frozen, graphs, key, (origin,) if origin else (), _infer(op, inputs, frozen, graphs, origin),
                    phase.get(), scope.get())
    return node


def make_like(old: Node, inputs: Sequence[Node], graphs: Sequence[Graph] | None = None) -> Node:
    """`make` with the op and attributes of a node, on other inputs; typed anew only where their types are others.

    Where it is new it comes from where the old one came from.
    """
    if graphs is None:
        graphs, graph_keys = old.graphs, old.key[3]
    else:
        graph_keys = tuple([graph.key for graph in graphs])
    key = (old.key[0], tuple(map(id, inputs)), old.key[2], graph_keys)
    found = _table.get(key)
    node = found() if found is not None else None
    if node is None:
        types = old.types
        if graphs is not old.graphs or not _same_types(inputs, old.inputs):
            types = _infer(old.op, inputs, old.attributes, graphs, old.origins[0] if old.origins else None)
        node = _new(old.op, inputs, old.attributes, graphs, key, old.origins, types, old.phase, old.scope)
    return node


def _same_types(some: Sequence[Node], others: Sequence[Node]) -> bool:
    return len(some) == len(others) and all([a.types is b.types or a.types == b.types
                                             for a, b in zip(some, others, strict=True)])


def _known(key: Any, origin: Origin | None) -> Node | None:
    """The node of this key; a key is right as long as its node lives, since a node holds all that its key names."""
    found = _table.get(key)
    node = found() if found is not None else None
    if node is not None and origin is not None and origin not in node.origins:
        with _lock:
            if len(node.origins) < 8:
                node.origins = (*node.origins, origin)
    return node


def _new(op: Op, inputs: Sequence[Node], attributes: dict[str, Any], graphs: Sequence[Graph], key: Any,
         origins: tuple[Origin, ...], types: tuple[TensorType, ...], phase: str, scope: str) -> Node:
    node = Node.__new__(Node)
    node.op, node.inputs, node.attributes, node.graphs = op, tuple(inputs), attributes, tuple(graphs)
    node.types, node.number, node.key, node.settled = types, next(_numbers), key, False
    if len(types) == 1:
        node.type = type_ = types[0]
        node.shape, node.dtype = type_.shape, type_.dtype
    node.origins, node.phase, node.scope = origins, phase, scope
    with _lock:
        found = _table.setdefault(key, reference := weakref.ref(node))
        if found is not reference:  # another thread was quicker, or the node of this key is gone
            other = found()
            if other is not None:
                return other
            _table[key] = reference
        if len(_table) > _sweep_at:
            _sweep()
    return node


def _sweep() -> None:
    """Forgets nodes that are gone; the next time when there are twice as many entries."""
    global _table, _sweep_at
    _table = {key: found for key, found in _table.items() if found() is not None}
    _sweep_at = max(1 << 13, 2 * len(_table))


def next_number() -> int:
    """A number that is higher than every node's so far and lower than that of every node to come."""
    return next(_numbers)


def _infer(op: Op, inputs: Sequence[Node], attributes: dict[str, Any], graphs: Sequence[Graph],
           origin: Origin | None) -> tuple[TensorType, ...]:
    try:
        extra = {"graphs": tuple(graphs)} if graphs else {}
        given = inputs[0].types if op.kind is Kind.ITEM else [i.type for i in inputs]
        types = op.infer(*given, **attributes, **extra)
    except GraphError as error:
        shown = ", ".join(str(t) for i in inputs for t in i.types)
        raise type(error)(f"{op.name}({shown}): {error}{at(origin)}") from None
    return types if isinstance(types, tuple) else (types,)


# -- graphs ----------------------------------------------------------------------------------------------------------


def topological(roots: Iterable[Node], known: Iterable[Node] = ()) -> list[Node]:
    """All nodes that the roots depend on, inputs before users; iterative, since graphs get deep.

    known   nodes that are left out, and with them what only they depend on
    """
    order: list[Node] = []
    done = set(known)
    for root in roots:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
            elif node.inputs and (pending := [i for i in node.inputs if i not in done]):
                stack += pending[::-1]
            else:
                done.add(node)
                order.append(stack.pop())
    return order


@record(frozen=True, eq=False)
class Graph:
    """Pure dataflow: what comes in, what goes out, which cells get new values.

    Updates are simultaneous: every right-hand side reads the old values.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    updates: tuple[tuple[Cell, Node], ...] = ()
    output_names: tuple[str, ...] = ()

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal for graphs of the same nodes; ids suffice, since the graph keeps its nodes and cells alive."""
        return (tuple(map(id, self.inputs)), tuple(map(id, self.outputs)),
                tuple((id(cell), id(value)) for cell, value in self.updates), self.output_names)

    @property
    def roots(self) -> tuple[Node, ...]:
        return self.outputs + tuple(value for _, value in self.updates)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node in topological order, the inputs among them even where unused."""
        return tuple(topological((*self.inputs, *self.roots)))

    @cached_property
    def users(self) -> dict[Node, list[Node]]:
        """For each node the nodes that read it, one entry per read."""
        result: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                result[source].append(node)
        return result

    @property
    def open_sizes(self) -> list[str]:
        """The names of its inputs' open dimensions, sorted."""
        return sorted(set().union(*(s.names() for n in self.inputs for s in n.shape if isinstance(s, Dim))))

    def cells(self) -> list[Cell]:
        """The cells that it reads or updates, in order of first appearance."""
        found = {n.attributes["cell"]: None for n in self.nodes if "cell" in n.attributes}
        found.update({cell: None for cell, _ in self.updates})
        return list(found)

    def with_roots(self, roots: Sequence[Node], inputs: Sequence[Node] | None = None) -> Graph:
        """The same graph with other outputs and update values, in the order of `roots`."""
        k = len(self.outputs)
        updates = tuple((cell, value) for (cell, _), value in zip(self.updates, roots[k:], strict=True))
        return Graph(self.inputs if inputs is None else tuple(inputs), tuple(roots[:k]), updates, self.output_names)


Rule = Callable[[Node, tuple[Node, ...]], Node | None]


def rebuild(node: Node, inputs: tuple[Node, ...], graphs: tuple[Graph, ...] | None = None) -> Node:
    """The node on other inputs; itself where nothing changed.  Phase, scope and origins stay."""
    if inputs == node.inputs and (graphs is None or graphs == node.graphs):
        return node
    new = make_like(node, inputs, graphs)
    inherit(new, node)
    return new


def inherit(new: Node, old: Node) -> Node:
    """`new` stands where `old` stood: it takes over origins, phase and scope."""
    if new is not old and new.number > old.number:  # a node that was there before keeps its own story
        if new.origins != old.origins:
            new.origins = tuple(dict.fromkeys((*old.origins, *new.origins)))[:8]
        new.phase, new.scope = old.phase, old.scope
    return new


def rewrite(roots: Sequence[Node], rule: Rule, known: Mapping[Node, Node] | None = None) -> dict[Node, Node]:
    """Rebuilds everything below the roots bottom-up and returns old node -> new node.

    `rule(node, new_inputs)` gives the replacement, or None to keep the node on its new inputs.
    """
    return _rewrite(topological(roots, known or ()), rule, known)


def _rewrite(order: Iterable[Node], rule: Rule, known: Mapping[Node, Node] | None = None) -> dict[Node, Node]:
    new: dict[Node, Node] = dict(known or {})
    for node in order:
        if node not in new:
            inputs = tuple([new[i] for i in node.inputs])
            replacement = rule(node, inputs)
            new[node] = rebuild(node, inputs) if replacement is None else replacement
    return new


def transform(graph: Graph, rule: Rule) -> Graph:
    """The graph with `rule` applied to every node; nested graphs stay as they are (see `for_each_graph`)."""
    new = _rewrite(graph.nodes, rule)
    roots, inputs = tuple([new[r] for r in graph.roots]), tuple([new[i] for i in graph.inputs])
    return graph if roots == graph.roots and inputs == graph.inputs else graph.with_roots(roots, inputs)


def for_each_graph(graph: Graph, run: Callable[[Graph], Graph]) -> Graph:
    """`run` applied to every graph nested in the graph, innermost first, then to the graph itself."""

    def rule(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        return rebuild(node, inputs, tuple(for_each_graph(g, run) for g in node.graphs)) if node.graphs else None

    return run(transform(graph, rule) if any(n.graphs for n in graph.nodes) else graph)


def substitute(roots: Sequence[Node], replacements: Mapping[Node, Node]) -> list[Node]:
    """The roots with some nodes replaced."""
    new = rewrite(roots, lambda node, inputs: None, replacements)
    return [new[r] for r in roots]
