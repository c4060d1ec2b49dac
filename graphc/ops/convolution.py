"""The convolution and the way back through it as two COMPOSITES, each of which is the other's gradient.

Knows how windows, padding and strides of a convolution and of its gradients relate.  Must not know layers or code.

A convolution is windows contracted with weights.  Left to the views alone, the way back would be a contraction with an axis per
tap, whose elements are added up where the windows overlap: as many values in memory as the image has, times the number of
taps.  It is convolutions again: one for each place that a position has in its stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import ShapeError
from ..op import Kind, Op, Sample, define
from ..symbols import Tensor, apply
from ..types import Size, TensorType
from .contractions import einsum
from .sources import zeros
from .views import flip, pad_with, reshape, slice_, transpose
from .windows import interleaved, number_of_windows, window

Pairs = tuple[tuple[Size, Size], ...]
POSITIONS, TAPS = "xyz", "ijk"
RIM = 1.25  # times as large as a gradient is one with zeros around it, at most, of which all phases see parts
MOST_PHASES = 16  # convolutions that one gradient is made of; for larger strides zeros are put between its elements


def windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """[N, C, positions...] as [N, C, windows..., taps...]."""
    for axis, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = window(x, axis, size, step, apart)
    return x


def padded(x: Tensor, padding: Pairs, between: Sequence[int] | None = None) -> Tensor:
    """Zeros before, after (negative: cropped) and between the positions."""
    return pad_with(x, (0, 0, *(a for a, _ in padding)), (0, 0, *(b for _, b in padding)),
                    (0, 0, *(between or (0,) * len(padding))))


def _type(x: TensorType, w: TensorType, *, padding: Pairs, stride: tuple[int, ...], dilation: tuple[int, ...],
          groups: int) -> TensorType:
    along = zip(x.shape[2:], w.shape[2:], padding, stride, dilation, strict=True)
    sizes = [number_of_windows(size + low + high, taps, step, apart) for size, taps, (low, high), step, apart in along]
    return x.with_shape((x.shape[0], w.shape[0], *sizes))


def _numpy(x: np.ndarray, w: np.ndarray, *, padding: Pairs, stride: tuple[int, ...], dilation: tuple[int, ...],
           groups: int) -> np.ndarray:
    n = len(stride)
    for axis, (low, high) in enumerate(padding, start=2):  # negative amounts crop
        x = np.take(x, range(max(0, -low), x.shape[axis] - max(0, -high)), axis)
    around: list[tuple[int, int]] = [(0, 0), (0, 0), *((max(0, int(a)), max(0, int(b))) for a, b in padding)]
    x = np.pad(x, around)
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True))
    seen = sliding_window_view(x, spans, tuple(range(2, n + 2)))
    every: tuple[Any, ...] = (..., *(slice(None, None, s) for s in (*stride, *dilation)))
    seen = seen[every]
    seen = seen.reshape(x.shape[0], groups, x.shape[1] // groups, *seen.shape[2:])
    weight = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    at, taps = POSITIONS[:n], TAPS[:n]
    out = np.einsum(f"ngc{at}{taps},goc{taps}->ngo{at}", seen, weight, optimize=True)
    return out.reshape(x.shape[0], w.shape[0], *out.shape[3:]).astype(x.dtype, copy=False)


def _in_groups(x: Tensor, axis: int, groups: int) -> Tensor:
    """An axis of channels as groups of channels."""
    return reshape(x, (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1:]))


def _expand(x: Tensor, w: Tensor, *, padding: Pairs, stride: tuple[int, ...], dilation: tuple[int, ...],
            groups: int) -> Tensor:
    n = len(stride)
    at, taps = POSITIONS[:n], TAPS[:n]
    seen = windows(padded(x, padding), [int(k) for k in w.shape[2:]], stride, dilation)
    if groups == 1:
        return einsum(f"nc{at}{taps},oc{taps}->no{at}", seen, w)
    out = einsum(f"ngc{at}{taps},goc{taps}->ngo{at}", _in_groups(seen, 1, groups), _in_groups(w, 0, groups))
    return reshape(out, (out.shape[0], out.shape[1] * out.shape[2], *out.shape[3:]))


def turned_weight(w: Tensor, groups: int) -> Tensor:
    """[outputs, inputs / groups, taps...] as the weight of the way back: [inputs, outputs / groups, taps reversed...]."""
    w = flip(w, tuple(range(2, w.ndim)))
    if groups == 1:
        return transpose(w, 0, 1)
    parts = transpose(_in_groups(w, 0, groups), 1, 2)
    return reshape(parts, (parts.shape[0] * parts.shape[1], *parts.shape[2:]))


def _way_back(g: Tensor, w: Tensor, *, sizes: tuple[Size, ...], padding: Pairs, stride: tuple[int, ...],
              dilation: tuple[int, ...], groups: int) -> Tensor:
    """Convolutions of the gradient with the reversed weights: one for each place that a position has in its stride."""
    kernel = [int(k) for k in w.shape[2:]]
    if all(k <= s and d == 1 for k, s, d in zip(kernel, stride, dilation, strict=True)):
        return _apart(g, sizes, w, padding, stride, groups)
    if prod(stride) > MOST_PHASES:
        spread = padded(g, ((0, 0),) * len(stride), [s - 1 for s in stride])
        return _whole(spread, sizes, turned_weight(w, groups), padding, dilation, groups)
    taps = [_taps(g, sizes, w, padding, stride, dilation, place) for place in np.ndindex(*stride)]
    around = _around(g, [t.amounts for t in taps if t is not None])
    g = padded(g, around)  # once for all phases
    phases = [_phase(g, sizes, w, around, t, groups, stride) for t in taps]
    return interleaved(phases, (*phases[0].shape[:2], *sizes), stride)


def _whole(g: Tensor, sizes: Sequence[Size], turned: Tensor, padding: Pairs, dilation: tuple[int, ...], groups: int) -> Tensor:
    """The way back through a convolution of stride 1; `g` may be shorter than its result, by a rest of the stride."""
    amounts = []
    for size, have, taps, (low, _), apart in zip(sizes, g.shape[2:], turned.shape[2:], padding, dilation, strict=True):
        reach = apart * (int(taps) - 1)  # size == have + before + after - reach
        amounts.append((reach - low, size - have + low))
    return convolve(g, turned, tuple(amounts), (1,) * len(dilation), dilation, groups)


def _apart(g: Tensor, sizes: Sequence[Size], w: Tensor, padding: Pairs, stride: tuple[int, ...], groups: int) -> Tensor:
    """Windows that do not overlap: every tap has positions of its own."""
    n = len(stride)
    at, taps = POSITIONS[:n], TAPS[:n]
    parts, weight = _in_groups(g, 1, groups), _in_groups(w, 0, groups)
    pairs = "".join(a + t for a, t in zip(at, taps, strict=True))
    each = einsum(f"ngo{at},goc{taps}->ngc{pairs}", parts, weight)
    gaps = [0, 0, 0, *(v for k, s in zip(w.shape[2:], stride, strict=True) for v in (0, s - int(k)))]
    each = pad_with(each, (0,) * each.ndim, gaps, (0,) * each.ndim)
    channels = each.shape[1] * each.shape[2]
    joined = reshape(each, (each.shape[0], channels, *(p * s for p, s in zip(g.shape[2:], stride, strict=True))))
    ends = tuple((-low, size + low - have) for size, have, (low, _) in zip(sizes, joined.shape[2:], padding, strict=True))
    return padded(joined, ends)


def _around(g: Tensor, asked: Sequence[Pairs]) -> Pairs:
    """The most zeros that are asked for around each axis; none where sizes are open, or where they are much of the whole.

    Parts of what has such a rim are not dense, which takes small images longer than rims of their own.
    """
    n = g.ndim - 2
    ends = [[amounts[axis][end] for amounts in asked] for axis in range(n) for end in (0, 1)]
    if not asked or not all(isinstance(size, int) for sizes in (g.shape[2:], *ends) for size in sizes):
        return ((0, 0),) * n
    most = [max(0, *map(int, sizes)) for sizes in ends]
    around = tuple(zip(most[::2], most[1::2], strict=True))
    whole = prod(int(size) + low + high for size, (low, high) in zip(g.shape[2:], around, strict=True))
    return around if whole <= RIM * prod(map(int, g.shape[2:])) else ((0, 0),) * n


class _Taps(NamedTuple):
    """The taps that meet the positions ``stride * q + place``, and what they ask for around a gradient."""

    starts: tuple[int, ...]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    amounts: Pairs
    apart: tuple[int, ...]  # elements of the gradient between their neighbours


def _taps(g: Tensor, sizes: Sequence[Size], w: Tensor, padding: Pairs, stride: tuple[int, ...], dilation: tuple[int, ...],
          place: tuple[int, ...]) -> _Taps | None:
    """None where no window reaches these positions."""
    found = []
    for size, have, taps, (low, _), s, d, r in zip(sizes, g.shape[2:], w.shape[2:], padding, stride, dilation, place,
                                                   strict=True):
        first = next((i for i in range(s) if (i * d - r - low) % s == 0), s)
        step = s // gcd(s, d)
        number = len(range(first, int(taps), step))
        if first == s or not number:
            return None
        shift, apart = (r + low - first * d) // s, d // gcd(s, d)
        before = apart * (number - 1) - shift
        after = (size + s - 1) // s - have - before + apart * (number - 1)
        found.append((first, step, number, (before, after), apart))
    return _Taps(*zip(*found, strict=True))


def _phase(g: Tensor, sizes: Sequence[Size], w: Tensor, around: Pairs, t: _Taps | None, groups: int, stride: tuple[int, ...]
           ) -> Tensor:
    """The gradient at the positions of some taps, over neighbouring elements of `g`, which has zeros around it already."""
    if t is None:
        places = ((n + s - 1) // s for n, s in zip(sizes, stride, strict=True))
        return zeros((g.shape[0], w.shape[1] * groups, *places), g.dtype)
    weight = slice_(w, (0, 0, *t.starts), (1, 1, *t.steps), (*w.shape[:2], *t.sizes))
    missing = [(low - a, high - b) for (low, high), (a, b) in zip(t.amounts, around, strict=True)]
    crops = [[-v if isinstance(v, int) and v < 0 else 0 for v in pair] for pair in missing]
    seen = (*g.shape[:2], *(n - low - high for n, (low, high) in zip(g.shape[2:], crops, strict=True)))
    g = slice_(g, (0, 0, *(low for low, _ in crops)), (1,) * g.ndim, seen)
    amounts = tuple((low + a, high + b) for (low, high), (a, b) in zip(missing, crops, strict=True))
    return convolve(g, turned_weight(weight, groups), amounts, (1,) * len(stride), t.apart, groups)


def _for_x(g: Tensor, out: Tensor, x: Tensor, w: Tensor, **attributes: Any) -> Tensor:
    return apply(_transposed, g, w, sizes=tuple(x.shape[2:]), **attributes)


def _for_w(g: Tensor, out: Tensor, x: Tensor, w: Tensor, *, padding: Pairs, stride: tuple[int, ...],
           dilation: tuple[int, ...], groups: int) -> Tensor:
    n = len(stride)
    at, taps = POSITIONS[:n], TAPS[:n]
    seen = windows(padded(x, padding), [int(k) for k in w.shape[2:]], stride, dilation)
    if groups == 1:
        return einsum(f"nc{at}{taps},no{at}->oc{taps}", seen, g)
    parts = einsum(f"ngc{at}{taps},ngo{at}->goc{taps}", _in_groups(seen, 1, groups), _in_groups(g, 1, groups))
    return reshape(parts, w.shape)


_CASES = (
    (((2, 3, 5, 6), (4, 3, 3, 2)), {"padding": ((1, 1), (0, 1)), "stride": (1, 1), "dilation": (1, 1), "groups": 1}),
    (((2, 2, 7, 6), (3, 2, 3, 3)), {"padding": ((1, 1), (1, 0)), "stride": (2, 2), "dilation": (1, 1), "groups": 1}),
    (((1, 4, 9), (6, 2, 3)), {"padding": ((2, 1),), "stride": (2,), "dilation": (2,), "groups": 2}),
    (((1, 4, 10), (2, 2, 3)), {"padding": ((1, 1),), "stride": (3,), "dilation": (2,), "groups": 2}),
    (((2, 2, 7, 7), (3, 2, 2, 3)), {"padding": ((0, 0), (1, 1)), "stride": (3, 3), "dilation": (1, 1), "groups": 1}),
    (((1, 2, 5, 30), (2, 2, 2, 5)), {"padding": ((-1, 0), (1, 1)), "stride": (1, 17), "dilation": (1, 2), "groups": 1}),
    (((1, 1, 7, 15), (2, 1, 3, 4)), {"padding": ((1, 1), (1, 2)), "stride": (1, 3), "dilation": (1, 1), "groups": 1}),
)


def _sample_of(shapes: Any, attributes: Any) -> Sample:
    """The way back through a convolution."""
    x, w = shapes
    kernel = zip(x[2:], w[2:], attributes["padding"], attributes["stride"], attributes["dilation"], strict=True)
    positions = tuple((size + low + high - d * (k - 1) - 1) // s + 1 for size, k, (low, high), s, d in kernel)
    return Sample(((x[0], w[0], *positions), w), {"sizes": x[2:], **attributes})


def _transposed_type(g: TensorType, w: TensorType, *, sizes: tuple[Size, ...], padding: Pairs, stride: tuple[int, ...],
                     dilation: tuple[int, ...], groups: int) -> TensorType:
    result = g.with_shape((g.shape[0], w.shape[1] * groups, *sizes))
    for size in sizes:
        if isinstance(size, int) and size < 1:
            raise ShapeError(f"nothing is left of {result}")
    seen = _type(result, w, padding=padding, stride=stride, dilation=dilation, groups=groups)
    for have, size in zip(g.shape[2:], seen.shape[2:], strict=True):
        if isinstance(have, int) and isinstance(size, int) and have != size:
            raise ShapeError(f"windows of {result} are {size} along an axis, not {have}")
    return result


def _transposed_numpy(g: np.ndarray, w: np.ndarray, *, sizes: tuple[int, ...], padding: Pairs, stride: tuple[int, ...],
                      dilation: tuple[int, ...], groups: int) -> np.ndarray:
    n = len(stride)
    at, taps = POSITIONS[:n], TAPS[:n]
    parts = g.reshape(g.shape[0], groups, g.shape[1] // groups, *g.shape[2:])
    weight = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    each = np.einsum(f"ngo{at},goc{taps}->{taps}ngc{at}", parts, weight, optimize=True)
    spans = [(have - 1) * s + d * (k - 1) + 1 for have, s, d, k in zip(g.shape[2:], stride, dilation, w.shape[2:], strict=True)]
    whole = np.zeros((g.shape[0], w.shape[1] * groups, *spans), g.dtype)
    for tap in np.ndindex(*w.shape[2:]):
        places: tuple[Any, ...] = (..., *(slice(t * d, t * d + (have - 1) * s + 1, s)
                                          for t, d, have, s in zip(tap, dilation, g.shape[2:], stride, strict=True)))
        whole[places] += each[tap].reshape(*whole.shape[:2], *g.shape[2:])
    for axis, (size, (low, _)) in enumerate(zip(sizes, padding, strict=True), start=2):
        ends = [(0, 0)] * whole.ndim
        ends[axis] = max(0, -int(low)), max(0, size + int(low) - whole.shape[axis])
        whole = np.pad(whole, ends).take(range(max(0, int(low)), max(0, int(low)) + size), axis)
    return whole


def _transposed_for_g(h: Tensor, out: Tensor, g: Tensor, w: Tensor, *, sizes: tuple[Size, ...], **attributes: Any) -> Tensor:
    return apply(_convolution, h, w, **attributes)


def _transposed_for_w(h: Tensor, out: Tensor, g: Tensor, w: Tensor, *, sizes: tuple[Size, ...], **attributes: Any) -> Tensor:
    return _for_w(g, out, h, w, **attributes)


_convolution = define(Op(
    "convolution", Kind.COMPOSITE, _type, _numpy, (_for_x, _for_w), expand=_expand,
    samples=tuple(Sample(shapes, attributes) for shapes, attributes in _CASES),
    doc="Cross-correlation of [N, C, positions...] with weights [O, C / groups, taps...], zeros around."))
_transposed = define(Op(
    "transposed_convolution", Kind.COMPOSITE, _transposed_type, _transposed_numpy, (_transposed_for_g, _transposed_for_w),
    expand=_way_back, samples=tuple(_sample_of(shapes, attributes) for shapes, attributes in _CASES),
    doc="What gave [N, O, positions...] through a convolution of an image of these sizes: its gradient."))


def convolve(x: Tensor, w: Tensor, padding: Pairs, stride: tuple[int, ...], dilation: tuple[int, ...],
             groups: int) -> Tensor:
    """x [N, C, positions...] with w [O, C / groups, taps...]; padding: (before, after) per axis, negative amounts crop."""
    return apply(_convolution, x, w, padding=tuple(padding), stride=tuple(stride), dilation=tuple(dilation), groups=groups)


def convolve_transposed(x: Tensor, w: Tensor, sizes: Sequence[Size], padding: Pairs, stride: tuple[int, ...],
                        dilation: tuple[int, ...], groups: int) -> Tensor:
    """x [N, O, positions...] with w [O, C / groups, taps...]: the way back through a convolution of images of these sizes.

    Shapes: [N, C, sizes...].  The other attributes are those of the convolution, which gives [N, O, positions...].
    """
    return apply(_transposed, x, w, sizes=tuple(sizes), padding=tuple(padding), stride=tuple(stride), dilation=tuple(dilation),
                 groups=groups)
