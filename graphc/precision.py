"""How precisely float32 numbers are multiplied in contractions.

Knows the names and what is set.  Must not know which machine can use it, or how.
"""

from __future__ import annotations

from .errors import GraphError
from .methods import public
from .origins import at, user_origin

PRECISIONS = ("highest", "high", "medium")

_chosen = PRECISIONS[0]


@public
def set_float32_matmul_precision(precision: str) -> None:
    """What `matmul_precision` is for programs built from now on that do not say it; as torch.set_float32_matmul_precision.

    "highest"  float32 numbers are multiplied as they are (24 bits)
    "high"     as sums of two bfloat16 numbers (16 bits), where the processor has a matrix unit, which is faster then
    "medium"   rounded to bfloat16 (8 bits), where the processor has such a unit, or vectors that multiply pairs of bfloat16

    Sums are float32 in any case, and so are results, parameters, slots and all that is no contraction (matmul, linear layers,
    convolutions, attention).  A processor with neither (Intel's AMX; AVX512-BF16, as AMD's Zen 4 has it) multiplies float32
    numbers as they are, and so does backend="numpy".

    Raises: GraphError for any other name.
    """
    global _chosen
    _chosen = checked(precision)


@public
def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` has set: "highest" before."""
    return _chosen


def checked(precision: str | None) -> str:
    """The precision that was given, or what is set where none was.  Raises GraphError for what is none."""
    if precision is None:
        return _chosen
    if precision not in PRECISIONS:
        raise GraphError(f"matmul_precision is one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}{at(user_origin())}")
    return precision
