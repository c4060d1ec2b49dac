"""How the labels of a contraction's spec fall into groups.

Knows the spec's text.  Must not know sizes, strides or code.
"""

from __future__ import annotations

from functools import lru_cache

from .records import NamedTuple


class Labels(NamedTuple):
    """The groups of ``A[batch, m, k], B[batch, k, n] -> out``; `turned` says that A is the spec's second operand.

    The result's last label is the last of n wherever one operand alone has it, so that a row of results is adjacent.
    """

    turned: bool
    left: str  # labels of A, of B and of the result, as they are stored
    right: str
    out: str
    batch: str
    m: str
    n: str
    k: str

    @property
    def in_order(self) -> bool:
        """Whether the result is stored as batch, then m, then n."""
        return self.out == self.batch + self.m + self.n


@lru_cache(maxsize=512)
def labels_of(spec: str) -> Labels:
    """The groups of a spec such as "ab,bc->ac"."""
    operands, out = spec.split("->")
    left, right = operands.split(",")
    turned = bool(out) and out[-1] in left and out[-1] not in right
    if turned:
        left, right = right, left
    return Labels(turned, left, right, out,
                  batch="".join(x for x in out if x in left and x in right),
                  m="".join(x for x in out if x in left and x not in right),
                  n="".join(x for x in out if x not in left),
                  k="".join(x for x in left if x not in out))
