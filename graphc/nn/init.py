"""Initial values, as torch.nn.init: each function fills a parameter in place and returns it.

Draws come from the process-wide sequence of random numbers that `graphc.manual_seed` restarts.  Knows shapes and
distributions only.

Sources: Glorot & Bengio 2010 (xavier), He et al. 2015 (kaiming), Saxe et al. 2014 (orthogonal), Martens 2010 (sparse).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..draws import Draws, put_off, put_off_known
from ..draws import generator as initial_generator
from ..errors import GraphError, ShapeError
from ..origins import at, user_origin
from ..symbols import Parameter

if TYPE_CHECKING:
    from numpy.random import Generator

CHUNK = 1 << 14  # numbers drawn at a time
Draw = Callable[["Generator", int], np.ndarray]
Fillable = TypeVar("Fillable", bound=Parameter | np.ndarray)


def _shape(target: Parameter | np.ndarray) -> tuple[int, ...]:
    if isinstance(target, Parameter):
        return target.cell.shape
    if isinstance(target, np.ndarray):
        return target.shape
    raise GraphError(f"an initialiser fills a parameter, a state or a numpy array, got {type(target).__name__}"
                     f"{at(user_origin())}")


def _fill(target: Fillable, values: np.ndarray | float) -> Fillable:
    full = np.broadcast_to(np.asarray(values), _shape(target))
    if isinstance(target, np.ndarray):
        target[...] = full
    else:
        target.assign(full)
    return target


def _draw(target: Fillable, draw: Draw, later: Draws | None) -> Fillable:
    """Fills with draws: when somebody asks for a parameter's value, where they could be put off, else now.

    Some at a time: the numbers of one large draw, without a second array as large as the target.
    """
    if isinstance(target, Parameter) and later is not None:
        target.cell.begin(lambda array: later.make(lambda generator: _draw_into(array, draw, generator)))
        return target
    _draw_into(target.cell.rewrite() if isinstance(target, Parameter) else target, draw, initial_generator())
    return target


def _draw_into(array: np.ndarray, draw: Draw, generator: Generator) -> None:
    flat: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
    for start in range(0, array.size, CHUNK):
        flat[start:start + CHUNK] = draw(generator, min(CHUNK, array.size - start))


def uniform_(tensor: Fillable, a: float = 0.0, b: float = 1.0) -> Fillable:
    """Uniform in [a, b).  A parameter is filled when somebody asks for its value: not where others are loaded first."""
    size = math.prod(_shape(tensor))
    return _draw(tensor, lambda generator, count: generator.uniform(a, b, count),
                 put_off_known(size) if isinstance(tensor, Parameter) else None)


def normal_(tensor: Fillable, mean: float = 0.0, std: float = 1.0) -> Fillable:
    """Normal with this mean and standard deviation.  A parameter is filled when somebody asks, as by `uniform_`."""
    size = math.prod(_shape(tensor))

    def draw(generator: Generator, count: int) -> np.ndarray:
        return generator.normal(mean, std, count)

    def skip(generator: Generator) -> None:  # by drawing: how many numbers it takes depends on them
        for start in range(0, size, CHUNK):
            draw(generator, min(CHUNK, size - start))

    return _draw(tensor, draw, put_off(skip) if isinstance(tensor, Parameter) else None)


def trunc_normal_(tensor: Fillable, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Fillable:
    """Normal, restricted to [a, b] (absolute limits, not multiples of std)."""
    if not a < b or std <= 0:
        raise GraphError(f"trunc_normal_ needs a < b and std > 0, got a={a}, b={b}, std={std}{at(user_origin())}")
    from statistics import NormalDist  # slow to import, and rarely needed

    generator, normal = initial_generator(), NormalDist(mean, std)
    low, high = normal.cdf(a), normal.cdf(b)
    size = math.prod(_shape(tensor))
    if high - low < 0.05:  # far in a tail drawing again takes too long: invert the distribution function
        if high <= low:
            raise GraphError(f"trunc_normal_: [{a}, {b}] has no probability under mean={mean}, std={std}"
                             f"{at(user_origin())}")
        probabilities = np.clip(generator.uniform(low, high, size), 1e-300, 1 - 1e-16)
        values = np.array([normal.inv_cdf(p) for p in probabilities])
        return _fill(tensor, np.clip(values, a, b).reshape(_shape(tensor)))
    values = generator.normal(mean, std, size)
    outside = (values < a) | (values > b)
    while outside.any():
        values[outside] = generator.normal(mean, std, int(outside.sum()))
        outside = (values < a) | (values > b)
    return _fill(tensor, values.reshape(_shape(tensor)))


def constant_(tensor: Fillable, val: float) -> Fillable:
    """One value everywhere."""
    return _fill(tensor, val)


def ones_(tensor: Fillable) -> Fillable:
    """All ones."""
    return _fill(tensor, 1.0)


def zeros_(tensor: Fillable) -> Fillable:
    """All zeros."""
    return _fill(tensor, 0.0)


def eye_(tensor: Fillable) -> Fillable:
    """Ones on the diagonal of a matrix."""
    shape = _shape(tensor)
    if len(shape) != 2:
        raise ShapeError(f"eye_ fills a matrix, got shape {list(shape)}{at(user_origin())}")
    return _fill(tensor, np.eye(*shape))


def dirac_(tensor: Fillable, groups: int = 1) -> Fillable:
    """A convolution kernel [out, in, ...] that keeps its input: ones in the middle of matching channels."""
    shape = _shape(tensor)
    if len(shape) not in (3, 4, 5):
        raise ShapeError(f"dirac_ fills a kernel of 3, 4 or 5 dimensions, got shape {list(shape)}{at(user_origin())}")
    if shape[0] % groups:
        raise ShapeError(f"dirac_: {shape[0]} channels do not divide into {groups} groups{at(user_origin())}")
    values = np.zeros(shape)
    per_group = shape[0] // groups
    for group in range(groups):
        for channel in range(min(per_group, shape[1])):
            values[(group * per_group + channel, channel, *(s // 2 for s in shape[2:]))] = 1
    return _fill(tensor, values)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight [out, in, ...]: connections into and out of one unit."""
    if len(shape) < 2:
        raise ShapeError(f"fan_in and fan_out need at least 2 dimensions, got shape {list(shape)}{at(user_origin())}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a non-linearity's weights are scaled to keep the variance of activations."""
    gains: dict[str, Callable[[], float]] = {
        "tanh": lambda: 5 / 3, "relu": lambda: math.sqrt(2),
        "leaky_relu": lambda: math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2)), "selu": lambda: 3 / 4}
    gains |= {name: lambda: 1.0 for name in ("linear", "sigmoid", *(f"conv{n}d" for n in (1, 2, 3)),
                                             *(f"conv_transpose{n}d" for n in (1, 2, 3)))}
    if nonlinearity not in gains:
        raise GraphError(f"calculate_gain knows {', '.join(sorted(gains))}; got {nonlinearity!r}{at(user_origin())}")
    return gains[nonlinearity]()


def xavier_uniform_(tensor: Fillable, gain: float = 1.0) -> Fillable:
    """Uniform within gain * sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / sum(fans(_shape(tensor))))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Fillable, gain: float = 1.0) -> Fillable:
    """Normal with std gain * sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(_shape(tensor)))))


def _kaiming_std(tensor: Parameter | np.ndarray, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise GraphError(f"mode is 'fan_in' or 'fan_out', got {mode!r}{at(user_origin())}")
    fan = fans(_shape(tensor))[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def kaiming_uniform_(tensor: Fillable, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
                     ) -> Fillable:
    """Uniform within gain * sqrt(3 / fan); `a` is the negative slope of a leaky ReLU."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Fillable, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Fillable:
    """Normal with std gain / sqrt(fan)."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Fillable, gain: float = 1.0) -> Fillable:
    """A (semi-)orthogonal matrix times gain; further axes are joined with the second."""
    shape = _shape(tensor)
    if len(shape) < 2:
        raise ShapeError(f"orthogonal_ needs at least 2 dimensions, got shape {list(shape)}{at(user_origin())}")
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(initial_generator().normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform over orthogonal matrices
    return _fill(tensor, gain * (q.T if rows < columns else q).reshape(shape))


def sparse_(tensor: Fillable, sparsity: float, std: float = 0.01) -> Fillable:
    """Normal values of which a fraction `sparsity` of each column is zero."""
    shape = _shape(tensor)
    if len(shape) != 2:
        raise ShapeError(f"sparse_ fills a matrix, got shape {list(shape)}{at(user_origin())}")
    generator = initial_generator()
    values = generator.normal(0.0, std, shape)
    zeros = math.ceil(sparsity * shape[0])
    for column in range(shape[1]):
        values[generator.permutation(shape[0])[:zeros], column] = 0
    return _fill(tensor, values)


def default_(weight: Parameter, bias: Parameter | None) -> None:
    """PyTorch's default of linear and convolutional layers: both uniform within 1 / sqrt(fan_in)."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in = fans(_shape(weight))[0]
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
        uniform_(bias, -bound, bound)
