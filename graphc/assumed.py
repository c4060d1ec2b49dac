"""What a program is compiled to rely on about buffers that nobody changes: which masks are kept in them.

Knows cells, their versions, and what passes say of matrices.  Must not know graphs, or what masks are good for.

A model that keeps its causal mask in a buffer means a constant, so its program leaves out what the mask hides, like that of a
model whose mask is an expression.  A buffer may be given another value all the same.  That gives it another version, which
every call compares; until then its array is read-only, so that nobody can write into it unseen.  What some program updates is
never relied on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .cells import Cell

if TYPE_CHECKING:
    from .passes.known_masks import Band

LEAST_SIDE = 16  # rows and columns of a mask that hides enough to matter
LARGEST = 1 << 22  # elements of one that is looked at


class Assumed:
    """What some cells are, and the versions of these cells that this was seen in."""

    def __init__(self, masks: Mapping[Cell, Band]) -> None:
        self.masks = masks
        self.versions = [(cell, cell.version) for cell in masks]

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> Assumed:
        """What there is to know of these cells now; they are read-only from now on, but for assignments."""
        found: dict[Cell, Band] = {}
        last: Cell | None = None  # every layer has a copy of the same mask
        for cell in cells:
            if may_hide(cell):
                from .passes.known_masks import band_of  # passes load with the first program that may have such a mask

                same = last is not None and last.type == cell.type and np.array_equal(last.array, cell.array)
                band = found[last] if same and last is not None else band_of(cell.shape, cell.array)
                if band is not None:
                    found[cell], last = band, cell
                    cell.hold()
        return cls(found)

    def holds(self) -> bool:
        """Whether nobody has assigned anything to one of the cells since."""
        return not self.versions or all(cell.version == version for cell, version in self.versions)  # mostly there are none

    def told(self, cells: Iterable[Cell]) -> str:
        """The same of cells in this order, in words that mean the same in every process."""
        return repr([(place, sorted((tuple(region), float(value)) for region, value in self.masks[cell].regions.items()),
                      None if (between := self.masks[cell].between) is None else float(between))
                     for place, cell in enumerate(cells) if cell in self.masks])


def may_hide(cell: Cell) -> bool:
    """Whether a cell may be a mask: a matrix that is neither trained nor updated, the same near a corner but not all over.

    Some elements are looked at, as there are many cells and this is asked before a program is found on disk.
    """
    if cell.trainable or cell.updated or cell.waits or cell.type.dtype.is_integer:
        return False
    sides = [size for size in cell.shape if size != 1]
    if len(sides) != 2 or min(sides) <= LEAST_SIDE or cell.size > LARGEST:
        return False
    matrix = cell.array.reshape(sides)
    for corner, beside, below, ends in ((matrix[0, -1], matrix[0, -2], matrix[1, -1], matrix[-1, 0]),
                                        (matrix[-1, 0], matrix[-2, 0], matrix[-1, 1], matrix[0, -1])):
        if corner == beside == below and not corner == ends == matrix[0, 0] == matrix[-1, -1]:
            return True
    return False
