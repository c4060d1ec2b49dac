"""Windows as columns and back: unfold and fold, which are each other's transposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from ..errors import ShapeError
from ..ops.convolution import windows
from ..ops.views import pad_with, permute, reshape, slice_
from ..origins import at, user_origin
from ..symbols import Tensor, TensorLike, as_tensor
from .convolution import Sizes, batched, repeated
from .module import Module


def unfold(input: TensorLike, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> Tensor:
    """The windows of [N, C, H, W] or [C, H, W] as columns: [N, C * taps, number of windows]."""
    x, single = batched(as_tensor(input), 2, "unfold")
    kernel, amounts = repeated(kernel_size, 2, "unfold: kernel_size"), repeated(padding, 2, "unfold: padding")
    x = pad_with(x, (0, 0, *amounts), (0, 0, *amounts), (0,) * 4)
    seen = windows(x, kernel, repeated(stride, 2, "unfold: stride"), repeated(dilation, 2, "unfold: dilation"))
    batch, channels, rows, columns = seen.shape[:4]
    out = reshape(permute(seen, (0, 1, 4, 5, 2, 3)), (batch, channels * math.prod(kernel), rows * columns))
    return reshape(out, out.shape[1:]) if single else out


def fold(input: TensorLike, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0,
         stride: Sizes = 1) -> Tensor:
    """Columns [N, C * taps, windows] (or without N) added up where unfold took them from: [N, C, *output_size]."""
    x = as_tensor(input)
    single = x.ndim == 2
    if x.ndim not in (2, 3):
        raise ShapeError(f"fold takes 2 or 3 dimensions, got {x.type}{at(user_origin())}")
    x = reshape(x, (1, *x.shape)) if single else x
    size, kernel = repeated(output_size, 2, "fold: output_size"), repeated(kernel_size, 2, "fold: kernel_size")
    apart, steps = repeated(dilation, 2, "fold: dilation"), repeated(stride, 2, "fold: stride")
    amounts = repeated(padding, 2, "fold: padding")
    grown = [s + 2 * p for s, p in zip(size, amounts, strict=True)]
    counts = [(g - d * (k - 1) - 1) // s + 1 for g, d, k, s in zip(grown, apart, kernel, steps, strict=True)]
    taps = math.prod(kernel)
    if x.shape[2] != math.prod(counts) or (isinstance(x.shape[1], int) and x.shape[1] % taps):
        raise ShapeError(f"fold to {size} needs [N, C * {taps}, {math.prod(counts)}], got {x.type}{at(user_origin())}")
    batch, channels = x.shape[0], x.shape[1] // taps
    parts = reshape(x, (batch, channels, *kernel, *counts))
    total: Tensor | None = None
    for place in product(*(range(k) for k in kernel)):
        one = reshape(slice_(parts, (0, 0, *place, 0, 0), (1,) * 6, (batch, channels, 1, 1, *counts)),
                      (batch, channels, *counts))
        low = [d * i for d, i in zip(apart, place, strict=True)]
        high = [g - a - (n - 1) * s - 1 for g, a, n, s in zip(grown, low, counts, steps, strict=True)]
        one = pad_with(one, (0, 0, *(a - p for a, p in zip(low, amounts, strict=True))),
                       (0, 0, *(b - p for b, p in zip(high, amounts, strict=True))), (0, 0, *(s - 1 for s in steps)))
        total = one if total is None else total + one
    assert total is not None
    return reshape(total, total.shape[1:]) if single else total


class Unfold(Module):
    """The windows of an image as columns."""

    def __init__(self, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: TensorLike) -> Tensor:
        return unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
                f"stride={self.stride}")


class Fold(Module):
    """Columns added up where Unfold took them from."""

    def __init__(self, output_size: int | Sequence[int], kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0,
                 stride: Sizes = 1) -> None:
        super().__init__()
        self.output_size, self.kernel_size = output_size, kernel_size
        self.dilation, self.padding, self.stride = dilation, padding, stride

    def forward(self, input: TensorLike) -> Tensor:
        return fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
                f"padding={self.padding}, stride={self.stride}")
