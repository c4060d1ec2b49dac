"""The native scalar builder: what an op's scalar body speaks to when machine code is generated.

Knows the protocol: arithmetic is inherited, and each elementary function is named here with its domain and its values
at the edge.  Must not know graphs, ops, loops or polynomials; errors in ulps are `vector_math.ULP_BOUNDS`.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Value
from graphc.runtime.native.math_arithmetic import Arithmetic
from graphc.runtime.native.vector_math import apply


class NativeScalar(Arithmetic):
    """Arithmetic and the elementary functions, for float and double, scalar and vector; NaN gives NaN throughout."""

    # -- exponentials and logarithms ---------------------------------------------------------------------------

    def exp(self, x: Value) -> Value:
        """e**x; a denormal result is 0."""
        return apply(self, "exp", x)

    def exp2(self, x: Value) -> Value:
        """2**x, exact for integers; a denormal result is 0."""
        return apply(self, "exp2", x)

    def expm1(self, x: Value) -> Value:
        """exp(x) - 1, accurate near 0."""
        return apply(self, "expm1", x)

    def log(self, x: Value) -> Value:
        """Natural logarithm; -inf at zero, NaN below."""
        return apply(self, "log", x)

    def log2(self, x: Value) -> Value:
        """Logarithm to base 2, exact for powers of 2; -inf at zero, NaN below."""
        return apply(self, "log2", x)

    def log1p(self, x: Value) -> Value:
        """log(1 + x), accurate near 0; -inf at -1, NaN below."""
        return apply(self, "log1p", x)

    def pow(self, a: Value, b: Value) -> Value:
        """a**b: of floats with the special values of IEEE 754, of integers wrapping, 0 for negative exponents."""
        return apply(self, "float_power" if self.is_float(a) else "integer_power", a, b)

    # -- trigonometry ------------------------------------------------------------------------------------------

    def sin(self, x: Value) -> Value:
        """Sine of an angle in radians; NaN of infinity."""
        return apply(self, "sin", x)

    def cos(self, x: Value) -> Value:
        """Cosine of an angle in radians; NaN of infinity."""
        return apply(self, "cos", x)

    def tan(self, x: Value) -> Value:
        """Tangent of an angle in radians; NaN of infinity."""
        return apply(self, "tan", x)

    def asin(self, x: Value) -> Value:
        """Arc sine, in [-pi/2, pi/2]; NaN outside [-1, 1]."""
        return apply(self, "asin", x)

    def acos(self, x: Value) -> Value:
        """Arc cosine, in [0, pi]; NaN outside [-1, 1]."""
        return apply(self, "acos", x)

    def atan(self, x: Value) -> Value:
        """Arc tangent, in [-pi/2, pi/2]."""
        return apply(self, "atan", x)

    def atan2(self, y: Value, x: Value) -> Value:
        """Angle of the point (x, y), in [-pi, pi], with IEEE 754's signed zeros and infinities."""
        return apply(self, "atan2", y, x)

    # -- hyperbolic functions and activations ------------------------------------------------------------------

    def sinh(self, x: Value) -> Value:
        """Hyperbolic sine."""
        return apply(self, "sinh", x)

    def cosh(self, x: Value) -> Value:
        """Hyperbolic cosine."""
        return apply(self, "cosh", x)

    def tanh(self, x: Value) -> Value:
        """Hyperbolic tangent."""
        return apply(self, "tanh", x)

    def sigmoid(self, x: Value) -> Value:
        """1 / (1 + exp(-x)) without overflow; a denormal result may be 0."""
        return apply(self, "sigmoid", x)

    def softplus(self, x: Value) -> Value:
        """log(1 + exp(x)) without overflow; a denormal result is 0."""
        return apply(self, "softplus", x)

    def erf(self, x: Value) -> Value:
        """The error function."""
        return apply(self, "erf", x)

    def erfc(self, x: Value) -> Value:
        """1 - erf(x), accurate for large x; a denormal result is 0."""
        return apply(self, "erfc", x)

    # -- division with remainder -------------------------------------------------------------------------------

    def floordiv(self, a: Value, b: Value) -> Value:
        """The quotient rounded down, as numpy.floor_divide; an integer divided by 0 gives 0."""
        return apply(self, "float_floordiv", a, b) if self.is_float(a) else self.integer_floordiv(a, b)

    def mod(self, a: Value, b: Value) -> Value:
        """The remainder with the sign of b, as numpy.remainder and exact; an integer by 0 gives 0."""
        return apply(self, "float_mod", a, b) if self.is_float(a) else self.integer_mod(a, b)
