"""All ops: importing this package fills the registry."""

from . import composites, contractions, control, elementwise, indexing, loops, random, reductions, shaping, sources, views

__all__ = ["composites", "contractions", "control", "elementwise", "indexing", "loops", "random", "reductions", "shaping",
           "sources", "views"]
