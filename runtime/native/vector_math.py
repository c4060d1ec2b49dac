"""The elementary functions of native code: their error bounds, and how a call of one is written.

Knows every function's body by name.  Must not know graphs, ops, or polynomials.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.runtime.native import math_exponential as exponential
from graphc.runtime.native import math_power as powers
from graphc.runtime.native import math_special as special
from graphc.runtime.native import math_trigonometric as trigonometric
from graphc.runtime.native.math_arithmetic import Arithmetic
from graphc.runtime.native.values import Value, mangled

# Greatest error in units in the last place, (float32, float64), over all arguments whose result is finite and not
# denormal; of sin, cos and tan for |x| <= 2**40 (see math_trigonometric.reduce_quadrant for what follows).
ULP_BOUNDS: dict[str, tuple[float, float]] = {
    "sqrt": (0.5, 0.5), "rsqrt": (1.5, 1.5), "reciprocal": (0.5, 0.5),
    "exp": (1.5, 1.5), "exp2": (1.5, 1.5), "expm1": (2.0, 2.5),
    "log": (1.0, 1.0), "log2": (1.0, 1.0), "log1p": (2.0, 1.5),
    "sin": (2.0, 1.0), "cos": (2.0, 1.0), "tan": (3.5, 2.5),
    "asin": (2.5, 2.5), "acos": (1.5, 1.5), "atan": (2.5, 2.0), "atan2": (2.5, 2.0),
    "sinh": (2.5, 3.0), "cosh": (2.0, 2.0), "tanh": (3.0, 3.0),
    "sigmoid": (2.5, 2.5), "softplus": (2.5, 2.5), "erf": (3.5, 2.0), "erfc": (4.0, 5.0), "pow": (1.0, 2.0),
}

# Each body, and whether it is a function of the module that is called, or else written at the place of use.  A call
# spills what lives in vector registers, which only a hundred instructions hide; copies of those cost compile time.
BODIES: dict[str, tuple[Callable[..., Value], bool]] = {
    "exp": (exponential.exp, False), "exp2": (exponential.exp2, False), "expm1": (exponential.expm1, False),
    "log": (exponential.log_natural, False), "log2": (exponential.log2, False), "log1p": (exponential.log1p, False),
    "sinh": (exponential.sinh, False), "cosh": (exponential.cosh, False), "tanh": (exponential.tanh, False),
    "sigmoid": (exponential.sigmoid, False), "softplus": (exponential.softplus, False),
    "sin": (trigonometric.sin, False), "cos": (trigonometric.cos, False), "tan": (trigonometric.tan, False),
    "asin": (trigonometric.asin, False), "acos": (trigonometric.acos, False), "atan": (trigonometric.atan, False),
    "atan2": (trigonometric.atan2, True),
    "erf": (special.erf, False), "erfc": (special.erfc, True),
    "float_power": (powers.float_power, True), "integer_power": (powers.integer_power, True),
    "float_mod": (powers.float_mod, True), "float_floordiv": (powers.float_floordiv, True),
}


def apply(s: Arithmetic, name: str, *arguments: Value) -> Value:
    """The named function of arguments of one type: its body here, or a call of the module's function."""
    body, outlined = BODIES[name]
    return call(s, name, body, arguments) if outlined else body(s, *arguments)


def call(s: Any, name: str, body: Callable[..., Value], arguments: tuple[Value, ...]) -> Value:
    """A call of an internal function, written at its first use in the module.

    What functions call that are worth no care is worth none, either.
    """
    module, type_, care = s.function.module, arguments[0].type, 2 if s.function.care else 0
    symbol = f"math.{name}.{mangled(type_)}" + ("" if care else ".rare")
    if symbol not in module.functions:
        parameters = [(f"a{i}", type_) for i in range(len(arguments))]
        function = module.function(symbol, parameters, returns=type_, attributes="nounwind willreturn memory(none)", care=care)
        function.ret(body(type(s)(function), *function.parameters))
    return s.function.call(symbol, list(arguments), type_)
