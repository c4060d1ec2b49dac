"""Which products of a tile are needed, where a mask leaves some out: `Contraction.within`.

Knows the places of a tile and of a block of k.  Must not know masks, packing or micro-kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce

from graphc.runtime.native.axes import Contraction
from graphc.runtime.native.emit import Function, Value, i64
from graphc.runtime.native.sharing import maximum

Diagonal = tuple[str, str, int]  # (x, y, offset) of "m" and "n": beyond is where index[x] > index[y] + offset


def needed_k(f: Function, c: Contraction, i0: Value, height: Value, j0: Value, columns: Value, k_first: Value, count: Value,
             together: int) -> tuple[Value, Value]:
    """(first, count) of those of `count` k from `k_first` on that a tile needs: at least one, which a micro-kernel asks for.

    together: so many k are packed in an order of their own, and summed together

    A tile of which nothing is needed has the products of one k: numbers, which nobody reads.
    """
    spans = {"m": span(f, c.m, i0, height), "n": span(f, c.n, j0, columns)}
    starts, ends = ({name: both[side] for name, both in spans.items()} for side in (0, 1))
    low, high = i64(0), count
    for x, y, offset in c.within:  # of products with x <= y + offset
        if x == "k":
            high = f.minimum(high, f.sub(f.add(ends[y], i64(offset)), k_first))
        elif y == "k":
            low = maximum(f, low, f.sub(starts[x], f.add(k_first, i64(offset))))
        else:
            high = f.select(f.compare("icmp slt", starts[x], f.add(ends[y], i64(offset))), high, i64(1))
    high = maximum(f, high, i64(1))
    low = f.minimum(low, f.sub(high, i64(1)))
    if together > 1:
        low = f.sub(low, f.binary("urem", low, i64(together)))
        groups = f.binary("udiv", f.add(high, i64(together - 1)), i64(together))
        high = f.minimum(f.mul(groups, i64(together)), count)
    return low, f.sub(high, low)


def is_hidden(f: Function, c: Contraction, diagonals: Sequence[Diagonal], i0: Value, height: Value, j0: Value, columns: Value
              ) -> Value:
    """Whether (i1) all of a tile lies beyond one of these diagonals."""
    spans = {"m": span(f, c.m, i0, height), "n": span(f, c.n, j0, columns)}
    found = [f.compare("icmp sge", spans[x][0], f.add(spans[y][1], i64(offset))) for x, y, offset in diagonals]
    return reduce(partial(f.binary, "or"), found)


def span(f: Function, sizes: tuple[int, ...], first: Value, count: Value) -> tuple[Value, Value]:
    """(start, end) on the last of some axes of places from a flattened one on: all of it where they begin it anew."""
    end = f.add(first, count)
    if math.prod(sizes[:-1]) == 1:
        return first, end
    start = f.binary("urem", first, i64(sizes[-1]))
    end = f.add(start, count)
    anew = f.compare("icmp sgt", end, i64(sizes[-1]))
    return f.select(anew, i64(0), start), f.select(anew, i64(sizes[-1]), end)
