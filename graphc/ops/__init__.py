"""All ops: importing this package fills the registry."""

from . import (
    arranging,
    composites,
    contractions,
    control,
    elementwise,
    indexing,
    linear_algebra,
    loops,
    pointwise,
    products,
    random,
    reductions,
    shaping,
    sorting,
    sources,
    views,
)

__all__ = [
    "arranging",
    "composites",
    "contractions",
    "control",
    "elementwise",
    "indexing",
    "linear_algebra",
    "loops",
    "pointwise",
    "products",
    "random",
    "reductions",
    "shaping",
    "sorting",
    "sources",
    "views",
]
