"""All ops: importing this package fills the registry."""

from . import composites, contractions, control, convolution, elementwise, indexing, random, reductions, shaping, sources, views

__all__ = ["composites", "contractions", "control", "convolution", "elementwise", "indexing", "random", "reductions",
           "shaping", "sources", "views"]
