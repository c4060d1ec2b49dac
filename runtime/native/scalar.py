"""The native scalar builder: what an op's scalar body speaks to when machine code is generated.

Knows which function writes each operation.  Must not know graphs, ops or loops.
"""

from __future__ import annotations

from . import math_exponential as exponential
from . import math_special as special
from . import math_trigonometric as trigonometric
from .emit import Value
from .math_arithmetic import Arithmetic


class NativeScalar(Arithmetic):
    """Arithmetic and the elementary functions, each with the bound in `ULP_BOUNDS`."""

    def exp(self, x: Value) -> Value:
        return exponential.exp(self, x)

    def exp2(self, x: Value) -> Value:
        return exponential.exp2(self, x)

    def expm1(self, x: Value) -> Value:
        return exponential.expm1(self, x)

    def log(self, x: Value) -> Value:
        return exponential.log_natural(self, x)

    def log2(self, x: Value) -> Value:
        return exponential.log2(self, x)

    def log1p(self, x: Value) -> Value:
        return exponential.log1p(self, x)

    def sinh(self, x: Value) -> Value:
        return exponential.sinh(self, x)

    def cosh(self, x: Value) -> Value:
        return exponential.cosh(self, x)

    def tanh(self, x: Value) -> Value:
        return exponential.tanh(self, x)

    def sigmoid(self, x: Value) -> Value:
        return exponential.sigmoid(self, x)

    def softplus(self, x: Value) -> Value:
        return exponential.softplus(self, x)

    def sin(self, x: Value) -> Value:
        return trigonometric.sin(self, x)

    def cos(self, x: Value) -> Value:
        return trigonometric.cos(self, x)

    def tan(self, x: Value) -> Value:
        return trigonometric.tan(self, x)

    def asin(self, x: Value) -> Value:
        return trigonometric.asin(self, x)

    def acos(self, x: Value) -> Value:
        return trigonometric.acos(self, x)

    def atan(self, x: Value) -> Value:
        return trigonometric.atan(self, x)

    def atan2(self, y: Value, x: Value) -> Value:
        return trigonometric.atan2(self, y, x)

    def erf(self, x: Value) -> Value:
        return special.erf(self, x)

    def erfc(self, x: Value) -> Value:
        return special.erfc(self, x)

    def pow(self, a: Value, b: Value) -> Value:
        return special.power(self, a, b)

    def floordiv(self, a: Value, b: Value) -> Value:
        """The quotient rounded down, as numpy.floor_divide."""
        if not self.is_float(a):
            return self.integer_floordiv(a, b)
        quotient = self.div(self.sub(a, self.mod(a, b)), b)
        whole = self.floor(quotient)  # up to rounding the quotient is whole already: take the nearest
        nearest = self.select(self.gt(self.sub(quotient, whole), self.const(0.5, a)),
                              self.add(whole, self.const(1.0, a)), whole)
        return self.select(self.eq(b, self.const(0.0, b)), self.div(a, b), nearest)

    def mod(self, a: Value, b: Value) -> Value:
        """The remainder with the sign of b, as numpy.remainder."""
        if not self.is_float(a):
            return self.integer_mod(a, b)
        quotient = self.trunc(self.div(a, b))
        rest = self.fma(self.neg(quotient), b, a)  # exact while the quotient is; beyond 2**24 (2**53) only bounded
        zero, size = self.const(0.0, a), self.abs(b)
        rest = self.select(self.ge(self.abs(rest), size), self.sub(rest, self.copysign(size, rest)), rest)
        rest = self.select(self.and_(self.is_inf(b), self.is_finite(a)), a, rest)
        wrong = self.and_(self.ne(rest, zero), self.xor(self.lt(rest, zero), self.lt(b, zero)))
        rest = self.select(wrong, self.add(rest, b), rest)
        return self.select(self.eq(rest, zero), self.copysign(zero, b), rest)
