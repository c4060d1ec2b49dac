"""All ops: importing this package fills the registry."""

from . import contractions, elementwise, reductions, sources, views

__all__ = ["contractions", "elementwise", "reductions", "sources", "views"]
