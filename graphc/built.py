"""A program's graph, as it was built or as it waits to be.

Knows what a program needs in order to run code that is kept on disk: inputs, cells and constants, without the nodes between
them.  Must not know how graphs are built, compiled or kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from .cells import Cell
from .errors import GraphError
from .garbage import kept_waiting
from .ir import Graph, Node
from .origins import at, user_origin


class Built:
    """A graph, and what can be asked of it; `updates` is their number."""

    def __init__(self, graph: Graph) -> None:
        self.inputs, self.output_names, self.updates = graph.inputs, graph.output_names, len(graph.updates)
        self._graph: Graph | None = graph
        for cell, _ in graph.updates:
            cell.becomes_updated()

    @property
    def graph(self) -> Graph:
        assert self._graph is not None
        return self._graph

    @property
    def open_sizes(self) -> list[str]:
        """The names of its inputs' open dimensions, sorted."""
        return Graph(self.inputs, ()).open_sizes

    @cached_property
    def digest(self) -> bytes:
        """What it says; Unspoken where that means nothing outside this process."""
        from .identity import digest_of  # loads with the first program that is kept

        return digest_of(self.graph)

    def cells(self) -> list[Cell]:
        """The cells that it reads or updates, in order of first appearance."""
        return self.graph.cells()

    def names(self) -> dict[Cell, str]:
        """A unique name for every cell, of nested graphs too."""
        from .text import cell_names

        return cell_names(self.graph)

    def constant(self, place: int) -> np.ndarray:
        """The value of the constant that is the node at this place."""
        value: np.ndarray = self.graph.nodes[place].attributes["value"]
        return value


class Waiting(Built):
    """A graph that is known by its digest, and is built when somebody looks.

    constants  of the user's own, by place
    build      makes it
    """

    def __init__(self, inputs: Sequence[Node], output_names: tuple[str, ...], updated: Sequence[Cell], digest: bytes,
                 cells: Sequence[Cell], constants: Mapping[int, np.ndarray], build: Callable[[], Graph]) -> None:
        self.inputs, self.output_names, self.updates, self.digest = tuple(inputs), output_names, len(updated), digest
        for cell in updated:
            cell.becomes_updated()
        self._cells, self._constants = list(cells), constants
        self._build: Callable[[], Graph] | None = build
        self._graph, self._lock = None, threading.RLock()

    @property
    def is_built(self) -> bool:
        return self._build is None

    @property
    def graph(self) -> Graph:
        with self._lock:
            if self._build is not None:
                with kept_waiting():
                    graph = self._build()
                    if Built(graph).digest != self.digest:
                        raise GraphError("the step is no longer what it was when it was made: something that its gradients or "
                                         f"updates are derived from has changed{at(user_origin())}")
                self._graph, self._build = graph, None
            return super().graph

    def cells(self) -> list[Cell]:
        return list(self._cells)

    def names(self) -> dict[Cell, str]:
        from .text import names_of

        return names_of(self._cells)

    def constant(self, place: int) -> np.ndarray:
        known = self._constants.get(place)
        return super().constant(place) if known is None else known
