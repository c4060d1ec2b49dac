"""The native scalar builder."""
from .math_arithmetic import Arithmetic as NativeScalar
__all__ = ["NativeScalar"]
