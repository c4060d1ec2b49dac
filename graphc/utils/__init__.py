"""Where programs for PyTorch look for `utils.checkpoint`."""

from __future__ import annotations

from . import checkpoint

__all__ = ["checkpoint"]
