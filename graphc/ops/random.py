"""Random numbers as pure functions of (position, key, site): equal bits in both backends, for any number of threads.

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2,
3", SC 2011).  The normal distribution is its inverse distribution function, by the rational approximations of Wichura,
"Algorithm AS 241" (Applied Statistics 37, 1988).  Every step is exactly rounded (no fused operations), so that two
independent implementations of the same instructions agree to the last bit: numpy's meaning runs the same scalar body
over arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count as counter
from typing import Any

import numpy as np

from .. import draws
from ..errors import DTypeError, GraphError
from ..ir import Node, rebuild, topological
from ..methods import public
from ..op import Kind, Op, Sample, define
from ..origins import at, each_step, user_origin
from ..symbols import Parameter, Tensor, TensorLike, apply, as_tensor, constant, state
from ..types import Dim, DType, DTypeLike, Shape, TensorType, as_dtype, as_shape, broadcast_shapes, float32, float64, int64
from . import elementwise as e
from .control import updating
from .reductions import floating
from .sources import iota, shape_and_dtype, size_of, zeros
from .views import expand_to

# -- the scalar builder over numpy arrays ----------------------------------------------------------------------------


class NumpyScalar:
    """The scalar builder whose values are arrays: each instruction is numpy's, rounded once."""

    def const(self, value: Any, like: np.ndarray) -> np.ndarray:
        return np.asarray(value).astype(like.dtype)

    def constant(self, value: Any, dtype: str, like: np.ndarray) -> np.ndarray:
        return np.asarray(value).astype(dtype)

    def cast(self, x: np.ndarray, dtype: str) -> np.ndarray:
        return x.astype(dtype)

    def select(self, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(condition, a, b)

    def shl(self, x: np.ndarray, amount: int) -> np.ndarray:
        return np.left_shift(x, x.dtype.type(amount))

    def shr(self, x: np.ndarray, amount: int) -> np.ndarray:
        """Logical: zeros come in from the left."""
        unsigned = x.astype(f"u{x.dtype.itemsize}")
        return np.right_shift(unsigned, unsigned.dtype.type(amount)).astype(x.dtype)

    def as_int(self, x: np.ndarray) -> np.ndarray:
        return x.view(f"i{x.dtype.itemsize}")

    def as_float(self, x: np.ndarray) -> np.ndarray:
        return x.view(f"f{x.dtype.itemsize}")

    def __getattr__(self, name: str) -> Callable[..., np.ndarray]:
        names = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "sqrt": np.sqrt,
                 "and_": np.bitwise_and, "or_": np.bitwise_or, "xor": np.bitwise_xor, "lt": np.less, "gt": np.greater,
                 "le": np.less_equal, "ge": np.greater_equal, "eq": np.equal, "neg": np.negative, "abs": np.abs}
        if name not in names:
            raise AttributeError(name)
        return names[name]


# -- bits ------------------------------------------------------------------------------------------------------------

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def threefry(s: Any, key: tuple[Any, Any], counter_: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two random 32-bit words (int32 values) for a key and a counter of two words each; 20 rounds."""
    x0, x1 = counter_
    words = (key[0], key[1], s.xor(s.xor(key[0], key[1]), s.const(PARITY, x0)))
    x0, x1 = s.add(x0, words[0]), s.add(x1, words[1])
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            x0 = s.add(x0, x1)
            x1 = s.xor(s.or_(s.shl(x1, rotation), s.shr(x1, 32 - rotation)), x0)
        x0 = s.add(x0, words[(block + 1) % 3])
        x1 = s.add(s.add(x1, words[(block + 2) % 3]), s.const(block + 1, x1))
    return x0, x1


def _signed(word: int) -> int:
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


def _bits(s: Any, position: Any, key: Any, site: int) -> tuple[Any, Any]:
    """Words for one element: its position is the counter, the state's key and the draw's site the key."""
    low, high = s.cast(position, "int32"), s.cast(s.shr(position, 32), "int32")
    key_low, key_high = s.cast(key, "int32"), s.cast(s.shr(key, 32), "int32")
    return threefry(s, (key_low, s.xor(key_high, s.const(_signed(site * 0x9E3779B9), key_high))), (low, high))


def _unit(s: Any, position: Any, key: Any, *, site: int, dtype: DType) -> Any:
    """Uniform in [0, 1): the upper 24 (float32) or 53 (float64) bits, exactly."""
    first, second = _bits(s, position, key, site)
    if dtype.itemsize == 4:
        number = s.cast(s.shr(first, 8), "float32")
        return s.mul(number, s.const(2.0 ** -24, number))
    high = s.shl(s.cast(s.shr(first, 5), "int64"), 26)
    number = s.cast(s.or_(high, s.cast(s.shr(second, 6), "int64")), "float64")
    return s.mul(number, s.const(2.0 ** -53, number))


# Coefficients of AS 241 (PPND16), numerator and denominator of each region, lowest power first.
CENTER = ((3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
           45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
          (1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077, 21213.794301586595867,
           39307.895800092710610, 28729.085735721942674, 5226.4952788528545610))
MIDDLE = ((1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
           1.27045825245236838258, 0.241780725177450611770, 0.0227238449892691845833, 7.74545014278341407640e-4),
          (1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550, 0.148103976427480074590,
           0.0151986665636164571966, 5.47593808499534494600e-4, 1.05075007164441684324e-9))
TAIL = ((6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580, 0.296560571828504891230,
         0.0265321895265761230930, 0.00124266094738807843860, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
        (1.0, 0.599832206555887937690, 0.136929880922735805310, 0.0148753612908506148525, 7.86869131145613259100e-4,
         1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15))
LN2 = 0.6931471805599453
ATANH = tuple(1.0 / (2 * k + 1) for k in range(11))  # atanh(z) / z in powers of z*z, for |z| < 0.172


def _horner(s: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    total = s.const(coefficients[-1], x)
    for c in reversed(coefficients[:-1]):
        total = s.add(s.mul(total, x), s.const(c, x))
    return total


def _ratio(s: Any, table: tuple[tuple[float, ...], tuple[float, ...]], x: Any) -> Any:
    return s.div(_horner(s, table[0], x), _horner(s, table[1], x))


def _exact_log(s: Any, x: Any) -> Any:
    """Natural logarithm of a positive, normal float64, from additions and multiplications rounded one by one."""
    bits = s.as_int(x)
    exponent = s.sub(s.and_(s.shr(bits, 52), s.const(2047, bits)), s.const(1023, bits))
    mantissa = s.as_float(s.or_(s.and_(bits, s.const((1 << 52) - 1, bits)), s.const(1023 << 52, bits)))
    large = s.gt(mantissa, s.const(1.4142135623730951, x))
    mantissa = s.select(large, s.mul(mantissa, s.const(0.5, x)), mantissa)
    exponent = s.select(large, s.add(exponent, s.const(1, bits)), exponent)
    z = s.div(s.sub(mantissa, s.const(1.0, x)), s.add(mantissa, s.const(1.0, x)))
    series = s.mul(s.mul(s.const(2.0, x), z), _horner(s, ATANH, s.mul(z, z)))
    return s.add(s.mul(s.cast(exponent, "float64"), s.const(LN2, x)), series)


def _normal(s: Any, position: Any, key: Any, *, site: int, dtype: DType) -> Any:
    """Standard normal: the inverse distribution function of a uniform number of 53 bits, never 0 or 1."""
    first, second = _bits(s, position, key, site)
    high = s.shl(s.cast(s.shr(first, 5), "int64"), 26)
    whole = s.cast(s.or_(high, s.cast(s.shr(second, 6), "int64")), "float64")
    p = s.mul(s.add(whole, s.const(0.5, whole)), s.const(2.0 ** -53, whole))
    q = s.sub(p, s.const(0.5, p))
    r = s.sub(s.const(0.180625, p), s.mul(q, q))
    center = s.mul(q, _ratio(s, CENTER, r))
    lower = s.lt(q, s.const(0.0, q))
    edge = s.select(lower, p, s.sub(s.const(1.0, p), p))
    root = s.sqrt(s.neg(_exact_log(s, s.select(s.gt(edge, s.const(0.0, p)), edge, s.const(2.0 ** -54, p)))))
    middle = _ratio(s, MIDDLE, s.sub(root, s.const(1.6, p)))
    tail = _ratio(s, TAIL, s.sub(root, s.const(5.0, p)))
    outer = s.select(s.le(root, s.const(5.0, p)), middle, tail)
    outer = s.select(lower, s.neg(outer), outer)
    result = s.select(s.le(s.abs(q), s.const(0.425, p)), center, outer)
    return s.cast(result, dtype.name)


def _random_type(position: TensorType, key: TensorType, *, site: int, dtype: DType) -> TensorType:
    if position.dtype != int64 or key.dtype != int64 or not dtype.is_float:
        raise DTypeError("position and key must be int64, and the result floating")
    return position.with_dtype(dtype)


def _over_arrays(body: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def evaluate(position: np.ndarray, key: np.ndarray, *, site: int, dtype: DType) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(body(NumpyScalar(), np.array(position), np.array(key), site=site, dtype=dtype))

    return evaluate


_SAMPLES = tuple(Sample((np.arange(9, dtype=np.int64).reshape(3, 3) * 0x1_0000_0001, np.full((3, 3), 77, np.int64)),
                        {"site": 5, "dtype": d}) for d in (float32, float64))
_uniform = define(Op("random_uniform", Kind.MAP, _random_type, _over_arrays(_unit), (None, None), _unit, smooth=False,
                     dtypes="", samples=_SAMPLES, doc="Uniform in [0, 1) from (position, key) and the draw's site."))
_normal_op = define(Op("random_normal", Kind.MAP, _random_type, _over_arrays(_normal), (None, None), _normal,
                       smooth=False, dtypes="", samples=_SAMPLES,
                       doc="Standard normal from (position, key) and the draw's site."))

# -- seeds -----------------------------------------------------------------------------------------------------------


class _Global:
    """The seed that manual_seed sets, and how many draws were made since."""

    seed = 0
    draws = counter()


@public
def manual_seed(seed: int) -> None:
    """Fixes initial values and random nodes that are made from here on."""
    draws.restart(int(seed))
    _Global.seed, _Global.draws = int(seed), counter()


def fresh_seed() -> int:
    """A seed for a random state, from the global generator."""
    return int(draws.generator().integers(0, 1 << 62))


def _key(seed: int | Tensor | None) -> Tensor:
    if seed is None:
        return constant(_Global.seed, "int64")
    if isinstance(seed, Tensor):
        if seed.dtype != int64 or seed.shape != ():
            raise GraphError(f"a seed is an integer or an int64 0-d state, got {seed.type}{at(user_origin())}")
        return seed
    return constant(int(seed), "int64")


def flat_position(shape: Shape) -> Tensor:
    """Each element's row-major position as int64; sizes may be open."""
    total = zeros(shape, int64)
    for axis, size in enumerate(shape):
        total = total * size_of(size, int64) + iota(shape, axis)
    return total


def _draw(record: Op, shape: Any, dtype: DTypeLike, seed: int | Tensor | None, of: Tensor | None = None) -> Tensor:
    """Numbers of a site of their own; of: what they are drawn for, or what is like them."""
    sizes = as_shape(shape)
    anew = seed is None and is_drawn_anew(sizes, of)
    own = state("key", np.int64(_Global.seed)) if anew else _key(seed)
    out = apply(record, flat_position(sizes), expand_to(own, sizes), site=next(_Global.draws), dtype=as_dtype(dtype))
    return updating(out, {own: own + 1}) if isinstance(own, Parameter) and anew else out


def is_drawn_anew(shape: Shape, of: Tensor | None) -> bool:
    """Whether numbers without a seed are drawn by each step, and not once.

    PyTorch draws where a line runs: in `forward`, or for a tensor that is there in a step only, that is in each step; else
    once.  A size that is open is known in a step only, too.
    """
    if each_step.get() or any(isinstance(size, Dim) for size in shape):
        return True
    return of is not None and any(n.op.is_given for n in topological([of.node]))


def per_step(node: Node, counters: Sequence[Node]) -> Node:
    """A draw inside loops: its key becomes a function of the loops' counters (0-d int64), outermost first."""
    position, key = map(Tensor, node.inputs)
    for depth, counter_ in enumerate(counters):
        word = (depth + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1  # splitmix64 of the depth: an odd stride of its own
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        word = (word ^ word >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        stride = (word ^ word >> 31) | 1
        stride -= (1 << 64) if stride >> 63 else 0
        key = key + expand_to((Tensor(counter_) + 1) * stride, key.shape)
    return rebuild(node, (position.node, key.node))


@public
def uniform(shape: Any, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = "float32",
            seed: int | Tensor | None = None) -> Tensor:
    """Uniform numbers in [low, high).

    seed   an integer, by which every step of a program sees the same numbers, or an int64 0-d state that something advances
           between steps; None for manual_seed's.  Each call is a draw of its own.  Without a seed each step draws anew what
           a module's `forward` draws, and what has open sizes or is drawn for a tensor that depends on inputs or parameters;
           everything else is drawn once, as PyTorch does where a line runs once.
    """
    return uniform_for(None, shape, low, high, dtype, seed)


def uniform_for(of: Tensor | None, shape: Any, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = "float32",
                seed: int | Tensor | None = None) -> Tensor:
    """The same, drawn for a tensor."""
    unit = _draw(_uniform, shape, dtype, seed, of)
    if (low, high) == (0.0, 1.0):
        return unit
    kind = unit.dtype.numpy.type
    below = float(np.nextafter(kind(high), kind(low)))  # the sum may round up to `high`, which is not included
    return e.minimum(unit * (high - low) + low, below) if high > low else unit * (high - low) + low


@public
def rand(*size: Any, dtype: DTypeLike = "float32") -> Tensor:
    """Uniform numbers in [0, 1).  size: a shape, or its sizes one by one."""
    shape, dtype = shape_and_dtype(size, dtype)
    return uniform(shape, dtype=dtype)


@public
def randn(*size: Any, dtype: DTypeLike = "float32") -> Tensor:
    """Normally distributed numbers of mean 0 and variance 1.  size: a shape, or its sizes one by one."""
    shape, dtype = shape_and_dtype(size, dtype)
    return normal(shape, dtype=dtype)


@public
def rand_like(x: TensorLike, dtype: DTypeLike | None = None) -> Tensor:
    """Uniform numbers in [0, 1), of the shape and type of x."""
    tensor = as_tensor(x)
    return uniform_for(tensor, tensor.shape, dtype=dtype or tensor.dtype)


@public
def randn_like(x: TensorLike, dtype: DTypeLike | None = None) -> Tensor:
    """Normally distributed numbers of mean 0 and variance 1, of the shape and type of x."""
    tensor = as_tensor(x)
    return _draw(_normal_op, tensor.shape, dtype or tensor.dtype, None, tensor)


@public
def normal(shape: Any = None, mean: TensorLike = 0.0, std: TensorLike = 1.0, dtype: DTypeLike = "float32",
           seed: int | Tensor | None = None) -> Tensor:
    """Normally distributed numbers; see `uniform` for the seed.

    PyTorch's order holds where it can be told apart: `normal(0.0, 1.0, (2, 3))`, `normal(means, stds)`.  Of a tensor of means
    or deviations the shape and the type are taken where no shape is given.
    """
    if shape is None:
        given = [t for t in (mean, std) if isinstance(t, (Tensor, np.ndarray))]
        if not given:
            raise GraphError(f"normal: a shape is missing: normal(mean, std, size=(2, 3)){at(user_origin())}")
        tensors = [as_tensor(t) for t in given]
        drawn = _draw(_normal_op, broadcast_shapes(*(t.shape for t in tensors)), floating(tensors[0]).dtype, seed, tensors[0])
        return drawn * std + mean
    unit = _draw(_normal_op, shape, dtype, seed)
    plain = isinstance(mean, (int, float)) and isinstance(std, (int, float)) and (mean, std) == (0.0, 1.0)
    return unit if plain else unit * std + mean


@public
def bernoulli(p: TensorLike, shape: Any = None, seed: int | Tensor | None = None) -> Tensor:
    """True with probability p, a number; or 1, of p's type, with those in a tensor whose shape is taken."""
    chance = as_tensor(p)
    drawn = _draw(_uniform, chance.shape if shape is None else shape, "float32", seed, chance) < e.cast(chance, "float32")
    return e.cast(drawn, chance.dtype) if isinstance(p, (Tensor, np.ndarray)) and chance.dtype.is_float else drawn


@public
def randint(low: Any = 0, high: Any = None, shape: Any = None, seed: int | Tensor | None = None) -> Tensor:
    """Integers in [low, high), as int64; `randint(high, shape)` begins at 0."""
    if shape is None:
        low, high, shape = 0, low, high
    elif high is None:
        low, high = 0, low
    if high <= low:
        raise GraphError(f"randint: high must be above low, got {low} and {high}{at(user_origin())}")
    return e.cast(e.floor(_draw(_uniform, shape, "float64", seed) * float(high - low)), int64) + low


__all__ = ["NumpyScalar", "bernoulli", "flat_position", "fresh_seed", "manual_seed", "normal",
           "per_step", "rand", "randint", "randn", "threefry", "uniform"]
