"""Pooling modules: the functional forms with their arguments kept as attributes."""

from __future__ import annotations

from typing import Any

from ..symbols import TensorLike
from . import pooling
from .convolution import Sizes
from .module import Module
from .pooling import OutputSizes


class _Pool(Module):
    """Keeps the keyword arguments of its function."""

    function: Any = None

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, input: TensorLike) -> Any:
        return type(self).function(input, **{name: getattr(self, name) for name in self._settings})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._settings)


class MaxPool1d(_Pool):
    """The maximum of windows of [N, C, L]."""

    function = staticmethod(pooling.max_pool1d)

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
                 return_indices: bool = False, ceil_mode: bool = False) -> None:
        super().__init__(kernel_size=kernel_size, stride=kernel_size if stride is None else stride, padding=padding,
                         dilation=dilation, return_indices=return_indices, ceil_mode=ceil_mode)


class MaxPool2d(MaxPool1d):
    """The maximum of windows of [N, C, H, W]."""

    function = staticmethod(pooling.max_pool2d)


class MaxPool3d(MaxPool1d):
    """The maximum of windows of [N, C, D, H, W]."""

    function = staticmethod(pooling.max_pool3d)


class AvgPool1d(_Pool):
    """The mean of windows of [N, C, L]."""

    function = staticmethod(pooling.avg_pool1d)

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
                 count_include_pad: bool = True) -> None:
        super().__init__(kernel_size=kernel_size, stride=kernel_size if stride is None else stride, padding=padding,
                         ceil_mode=ceil_mode, count_include_pad=count_include_pad)


class AvgPool2d(_Pool):
    """The mean of windows of [N, C, H, W]."""

    function = staticmethod(pooling.avg_pool2d)

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
                 count_include_pad: bool = True, divisor_override: int | None = None) -> None:
        super().__init__(kernel_size=kernel_size, stride=kernel_size if stride is None else stride, padding=padding,
                         ceil_mode=ceil_mode, count_include_pad=count_include_pad, divisor_override=divisor_override)


class AvgPool3d(AvgPool2d):
    """The mean of windows of [N, C, D, H, W]."""

    function = staticmethod(pooling.avg_pool3d)


class _AdaptiveAvg(_Pool):
    def __init__(self, output_size: OutputSizes) -> None:
        super().__init__(output_size=output_size)


class AdaptiveAvgPool1d(_AdaptiveAvg):
    """Means of nearly equal segments of [N, C, L]."""

    function = staticmethod(pooling.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvg):
    """Means of a grid of nearly equal cells of [N, C, H, W]."""

    function = staticmethod(pooling.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvg):
    """Means of a grid of nearly equal cells of [N, C, D, H, W]."""

    function = staticmethod(pooling.adaptive_avg_pool3d)


class _AdaptiveMax(_Pool):
    def __init__(self, output_size: OutputSizes, return_indices: bool = False) -> None:
        super().__init__(output_size=output_size, return_indices=return_indices)


class AdaptiveMaxPool1d(_AdaptiveMax):
    """Maxima of nearly equal segments of [N, C, L]."""

    function = staticmethod(pooling.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """Maxima of a grid of nearly equal cells of [N, C, H, W]."""

    function = staticmethod(pooling.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMax):
    """Maxima of a grid of nearly equal cells of [N, C, D, H, W]."""

    function = staticmethod(pooling.adaptive_max_pool3d)


class LPPool1d(_Pool):
    """(sum of x^p over windows)^(1/p) of [N, C, L]."""

    function = staticmethod(pooling.lp_pool1d)

    def __init__(self, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
                 ) -> None:
        super().__init__(norm_type=norm_type, kernel_size=kernel_size, stride=stride, ceil_mode=ceil_mode)


class LPPool2d(LPPool1d):
    """(sum of x^p over windows)^(1/p) of [N, C, H, W]."""

    function = staticmethod(pooling.lp_pool2d)
