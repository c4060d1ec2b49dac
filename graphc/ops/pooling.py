"""The greatest element of windows and which it was, as two COMPOSITES: comparisons of the windows' taps, one after the other.

Knows how windows lie and how what their taps get is put together again.  Must not know layers or code.

A tap of all windows is a strided box of the operand with its rim, so every comparison is a map over the result.  The gradient
asks which tap was the greatest, not what it was: it goes to the first of equals, as in PyTorch, and the positions of each place
in the stride get theirs from neighbouring windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..op import Kind, Op, Sample, define
from ..symbols import Tensor, apply, constant
from ..types import TensorType, as_dtype, int32, least
from .elementwise import where
from .sources import zeros
from .views import pad_with, slice_
from .windows import interleaved, number_of_windows


class Window(NamedTuple):
    """The windows along an axis; as an attribute of a node a tuple of these numbers."""

    size: int  # elements
    step: int = 1  # from one window to the next
    apart: int = 1  # from one element to the next
    low: int = 0  # positions before the first one that belong to windows; negative: first ones that do not
    high: int = 0  # the same behind the last

    @property
    def side_by_side(self) -> bool:
        return self.size == self.step and self.apart == 1


Numbers = Iterable[tuple[int, ...]]  # the windows of the last axes


def _windows(numbers: Numbers) -> list[Window]:
    return [Window(*n) for n in numbers]


def _type(x: TensorType, *, windows: Numbers) -> TensorType:
    along = _windows(windows)
    lead = len(x.shape) - len(along)
    sizes = [number_of_windows(size + w.low + w.high, w.size, w.step, w.apart)
             for size, w in zip(x.shape[lead:], along, strict=True)]
    return x.with_shape((*x.shape[:lead], *sizes))


def _seen(x: np.ndarray, windows: list[Window]) -> np.ndarray:
    """[..., positions..., taps]"""
    lead = x.ndim - len(windows)
    within = (slice(max(0, -w.low), size - max(0, -w.high)) for size, w in zip(x.shape[lead:], windows, strict=True))
    x = x[(slice(None),) * lead + tuple(within)]
    rims = [(max(0, w.low), max(0, w.high)) for w in windows]
    x = np.pad(x, [(0, 0)] * lead + rims, constant_values=least(as_dtype(x.dtype)))
    seen = sliding_window_view(x, [w.apart * (w.size - 1) + 1 for w in windows], tuple(range(lead, x.ndim)))
    steps = [slice(None, None, w.step) for w in windows] + [slice(None, None, w.apart) for w in windows]
    seen = seen[(slice(None),) * lead + tuple(steps)]
    return seen.reshape(*seen.shape[:x.ndim], -1)


def _greatest_numpy(x: np.ndarray, *, windows: Numbers) -> np.ndarray:
    return np.max(_seen(x, _windows(windows)), -1)


def _which_numpy(x: np.ndarray, *, windows: Numbers) -> np.ndarray:
    seen = _seen(x, _windows(windows))
    unknown = seen != seen  # NaN is greater than all, the last of them than the others
    last = seen.shape[-1] - 1 - np.argmax(unknown[..., ::-1], -1)
    return np.where(unknown.any(-1), last, np.argmax(seen, -1)).astype(np.int32)


def with_rim(x: Tensor, windows: Sequence[Window]) -> Tensor:
    """What nothing is less than around the last axes."""
    lead = (0,) * (x.ndim - len(windows))
    return pad_with(x, (*lead, *(w.low for w in windows)), (*lead, *(w.high for w in windows)), (0,) * x.ndim, least(x.dtype))


def _compared(x: Tensor, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """The greatest of each window, and the number of its tap."""
    shape, windows = _type(x.type, windows=numbers).shape, _windows(numbers)
    lead = (0,) * (x.ndim - len(windows))
    around = with_rim(x, windows)
    greatest = which = None
    for number, place in enumerate(np.ndindex(*(w.size for w in windows))):
        starts = (*lead, *(tap * w.apart for tap, w in zip(place, windows, strict=True)))
        tap = slice_(around, starts, (*(1,) * len(lead), *(w.step for w in windows)), shape)
        if greatest is None or which is None:
            greatest, which = tap, zeros(shape, int32)
            continue
        better = tap > greatest
        if x.dtype.is_float:
            better = better | (tap != tap)
        greatest, which = where(better, tap, greatest), where(better, constant(np.int32(number)), which)
    assert greatest is not None and which is not None
    return greatest, which


def _gradient(g: Tensor, out: Tensor, x: Tensor, *, windows: Numbers) -> Tensor:
    which, along = apply(_which, x, windows=windows), _windows(windows)
    lead = (0,) * (x.ndim - len(along))
    number = [(full + w.step - 1) // w.step for full, w in zip(x.shape[len(lead):], along, strict=True)]
    taps = list(enumerate(np.ndindex(*(w.size for w in along))))
    phases = []
    for place in np.ndindex(*(w.step for w in along)):
        total = None
        for tap, at in taps:
            far = [t * w.apart - w.low - r for t, w, r in zip(at, along, place, strict=True)]
            if any(f % w.step for f, w in zip(far, along, strict=True)):
                continue
            before = [f // w.step for f, w in zip(far, along, strict=True)]
            after = [places - have - b for places, have, b in zip(number, g.shape[len(lead):], before, strict=True)]
            part = where(which == tap, g, constant(0, g.dtype))
            part = pad_with(part, (*lead, *before), (*lead, *after), (0,) * g.ndim)
            total = part if total is None else total + part
        phases.append(zeros((*x.shape[:len(lead)], *number), g.dtype) if total is None else total)
    return interleaved(phases, x.shape, [w.step for w in along])


_CASES = (((2, 3, 7, 6), [Window(3, 2), Window(2, 2)]), ((2, 9), [Window(3, 1, 2, 1, 1)]), ((3, 8), [Window(2, 3)]),
          ((3, 6, 7), [Window(3, 2, 1, 1, 1), Window(3, 2, 1, 1)]), ((2, 5, 5), [Window(3, 1, 1, 0, 1), Window(2, 1, 2)]),
          ((2, 6), [Window(2, 5, 1, -1, -2)]))
_SAMPLES = tuple(Sample((shape,), {"windows": tuple(map(tuple, windows))}) for shape, windows in _CASES)
_greatest = define(Op(
    "window_max", Kind.COMPOSITE, _type, _greatest_numpy, (_gradient,),
    expand=lambda x, *, windows: _compared(x, windows)[0], samples=_SAMPLES, dtypes="fi",
    doc="The greatest element of each window over the last axes; its gradient goes to the first of equals."))
_which = define(Op(
    "window_argmax", Kind.COMPOSITE, lambda x, *, windows: TensorType(int32, _type(x, windows=windows).shape), _which_numpy,
    (None,), expand=lambda x, *, windows: _compared(x, windows)[1], samples=_SAMPLES, dtypes="fi",
    doc="Which element of each window is its greatest, counted row by row: the first of equals, the last NaN."))


def window_max(x: Tensor, windows: Sequence[Window]) -> Tensor:
    """The greatest element of each window over the last axes; around them lies what is less than all."""
    return apply(_greatest, x, windows=tuple(map(tuple, windows)))
