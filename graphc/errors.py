"""The errors that graphc raises.  Knows nothing but their names and what each is for."""

from __future__ import annotations


class GraphError(Exception):
    """A graph that cannot be built, and the base of every error that graphc raises on purpose."""


class ShapeError(GraphError):
    """Shapes that do not fit the operation."""


class DTypeError(GraphError):
    """Element types that do not fit the operation."""


class FeedError(GraphError):
    """A wrong array, or none, at a call: the message names the input, what was expected and what came."""


class NumericsError(GraphError):
    """A value that was forbidden: NaN or Inf under ``check_numerics``."""


class CheckpointError(GraphError):
    """A checkpoint that is corrupt, incomplete or of another model."""
