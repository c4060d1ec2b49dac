"""Cells: memory that outlives a step, for parameters and states.

Knows arrays, how they lie in memory, and when their first value is written.  Must not know graphs, or what a value is for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .pages import LINE, mapped_apart, slab
from .types import DType, TensorType, as_dtype

MIDDLE, LARGE = 512 << 10, 4 << 20  # bytes from which memory comes in large pages: shared with others, and its own

_beginning = threading.Lock()


class Cell:
    """Memory that outlives a step: a parameter (trainable) or a state.  Its identity is the object, not the name.

    The array stays at one address for the cell's life, so that programs may bind to it.
    """

    __slots__ = ("__weakref__", "_array", "_begin", "name", "trainable", "type", "updated", "version")

    def __init__(self, name: str, array: np.ndarray, trainable: bool, dtype: DType | None = None) -> None:
        self.name, self.trainable = name, trainable
        self._begin: Callable[[np.ndarray], None] | None = None  # what is still to write the first value
        self._array = aligned_zeros(np.shape(array), array.dtype if dtype is None else dtype.numpy)
        if not is_one_zero(array):
            self._array[...] = array
        self.type = TensorType(as_dtype(self._array.dtype), self._array.shape)
        self.version = 0  # grows with every assignment from Python
        self.updated = False  # whether some program gives it new values

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        memo[id(self)] = new = Cell(self.name, self.array, self.trainable)
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return Cell, (self.name, self.array, self.trainable)

    @property
    def array(self) -> np.ndarray:
        """Its memory."""
        if self._begin is not None:
            with _beginning:
                if self._begin is not None:
                    self._begin(self._array)
                    self._begin = None
        return self._array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def size(self) -> int:
        return self._array.size

    @property
    def waits(self) -> bool:
        """Whether its first value is still to be written."""
        return self._begin is not None

    def begin(self, write: Callable[[np.ndarray], None]) -> None:
        """Gives it the value that `write` will write into the array, when somebody asks for the array."""
        self._change()
        self._begin = write

    def assign(self, value: np.ndarray) -> None:
        """Gives it a value of its shape; one that was still to be written never is."""
        self._change()
        self._array[...] = value
        self._begin = None

    def rewrite(self) -> np.ndarray:
        """Its memory, to be given another value there."""
        self._change()
        return self.array

    def restore(self, value: np.ndarray) -> None:
        """Gives it back a value that it had before a program may have updated it."""
        if self._array.flags.writeable:
            self.array[...] = value
        elif not np.array_equal(self._array, value, equal_nan=value.dtype.kind in "fc"):
            self.assign(value)

    def hold(self) -> None:
        """Nobody can write into its array from now on; whoever assigns to it can, and gives it another version."""
        self._array.flags.writeable = False

    def becomes_updated(self) -> None:
        """A program will give it new values, without a new version each time."""
        if not self.updated:
            self._change()
            self.updated = True

    def _change(self) -> None:
        self._array.flags.writeable = True
        self.version += 1

    def __repr__(self) -> str:
        return f"<{'parameter' if self.trainable else 'state'} {self.name}: {self.type}>"


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros from the start of a cache line on, large ones in large pages: no vector straddles two lines.

    Large ones are pages that nobody has written to, which the system clears when somebody does.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size >= LARGE:
        return np.ndarray(shape, dtype, mapped_apart(size).data)
    if size >= MIDDLE:
        return np.ndarray(shape, dtype, slab.take(size).data)
    room = np.zeros(size + LINE, np.uint8)
    return np.ndarray(shape, dtype, room.data, -room.ctypes.data % LINE)


def is_one_zero(array: np.ndarray) -> bool:
    """Whether all elements are the same zero in memory, as `np.broadcast_to` makes them."""
    return array.size > 0 and not any(array.strides) and not array[(0,) * array.ndim].tobytes().strip(b"\0")


@contextmanager
def kept(cells: Iterable[Cell]) -> Iterator[dict[Cell, np.ndarray]]:
    """The cells have their old values afterwards, however what is inside ends; it gets these values."""
    before = {cell: cell.array.copy() for cell in cells}
    try:
        yield before
    finally:
        for cell, value in before.items():
            cell.restore(value)
