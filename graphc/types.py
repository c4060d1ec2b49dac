"""Element types, sizes and tensor types.

Knows dtypes, their promotion, and sizes that stay open until a program is specialised.  Must not know ops or graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from math import prod
from typing import Any, Union

import numpy as np

from .errors import DTypeError, GraphError, ShapeError
from .records import record


@record(frozen=True, eq=False)
class DType:
    """An element type: one object each.  `short` is its spelling in text (``f32``), `rank` its place in promotion."""

    name: str
    short: str
    itemsize: int
    rank: int

    def __reduce__(self) -> tuple:
        return as_dtype, (self.name,)  # a copy is the same object

    @cached_property
    def numpy(self) -> np.dtype:
        return np.dtype(self.name)

    @property
    def is_float(self) -> bool:
        return self.rank >= 3

    @property
    def is_integer(self) -> bool:
        return self.rank in (1, 2)

    @property
    def is_bool(self) -> bool:
        return self.rank == 0

    @property
    def width(self) -> int:
        """How many float32 lanes of a vector an element takes."""
        return max(1, self.itemsize // 4)

    def __str__(self) -> str:
        return self.short

    def __repr__(self) -> str:
        return f"graphc.{self.name}"


bool_ = DType("bool", "bool", 1, 0)
int32 = DType("int32", "i32", 4, 1)
int64 = DType("int64", "i64", 8, 2)
float32 = DType("float32", "f32", 4, 3)
float64 = DType("float64", "f64", 8, 4)
DTYPES = (bool_, int32, int64, float32, float64)
_BY_NAME = {d.name: d for d in DTYPES} | {d.short: d for d in DTYPES}
_KNOWN: dict[Any, DType] = {float: float32, int: int64, bool: bool_, **{d: d for d in DTYPES}, **_BY_NAME,
                            **{d.numpy: d for d in DTYPES}}  # numpy takes its time over a dtype's name

DTypeLike = Union[DType, str, type, np.dtype]


def as_dtype(like: DTypeLike) -> DType:
    """The DType named by a DType, a name (``"float32"``, ``"f32"``), a numpy dtype, or Python's float, int or bool.

    Python's ``float`` means float32, the default float type, as ``int`` means int64.
    """
    given: Any = like
    try:
        return _KNOWN[given]
    except (KeyError, TypeError):
        pass
    try:
        return _BY_NAME[np.dtype(given).name]
    except (TypeError, KeyError):
        known = ", ".join(d.name for d in DTYPES)
        raise DTypeError(f"unknown dtype {like!r}; graphc has {known}") from None


def promote(a: DType, b: DType) -> DType:
    """The common type of two tensors, by PyTorch's rules: integers and bools never widen a float."""
    return a if a.rank >= b.rank else b


def least(dtype: DType) -> float | int | bool:
    """The smallest value: the neutral element of a maximum."""
    return float("-inf") if dtype.is_float else False if dtype.is_bool else int(np.iinfo(dtype.numpy).min)


def greatest(dtype: DType) -> float | int | bool:
    """The largest value: the neutral element of a minimum."""
    return float("inf") if dtype.is_float else True if dtype.is_bool else int(np.iinfo(dtype.numpy).max)


# -- sizes -----------------------------------------------------------------------------------------------------------

Atom = Union[str, "Quotient"]
Monomial = tuple[Atom, ...]


class Dim:
    """A size that is not known until a program is specialised: a polynomial in named sizes and floor quotients.

    Made by ``Dim.named("batch")`` and arithmetic; equal when equal as polynomials.  ``int()`` of it raises.
    """

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = tuple(sorted(terms.items(), key=lambda item: (len(item[0]), str(item[0]))))
        self._hash = hash(self.terms)

    @staticmethod
    def named(name: str) -> Dim:
        return Dim({(name,): 1})

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __add__(self, other: Size) -> Size:
        total = dict(self.terms)
        for monomial, factor in _terms(other):
            total[monomial] = total.get(monomial, 0) + factor
        return _simplest(total)

    __radd__ = __add__

    def __mul__(self, other: Size) -> Size:
        if type(other) is int and other:
            return self._times(other)
        total: dict[Monomial, int] = {}
        for m1, f1 in self.terms:
            for m2, f2 in _terms(other):
                monomial = tuple(sorted(m1 + m2, key=str))
                total[monomial] = total.get(monomial, 0) + f1 * f2
        return _simplest(total)

    __rmul__ = __mul__

    def _times(self, factor: int) -> Dim:
        """Its product with a number other than zero, whose terms have the same order."""
        if factor == 1:
            return self
        new = Dim.__new__(Dim)
        new.terms = tuple([(monomial, f * factor) for monomial, f in self.terms])
        new._hash = hash(new.terms)
        return new

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + other * -1

    def __rsub__(self, other: Size) -> Size:
        return other + self * -1

    def __floordiv__(self, other: Size) -> Size:
        exact = _exact_quotient(self, other)
        return exact if exact is not None else Dim({(Quotient(self, other),): 1})

    def __rfloordiv__(self, other: int) -> Size:
        return Dim({(Quotient(other, self),): 1})

    def __int__(self) -> int:
        raise GraphError(f"the size '{self}' is open: it is known only when the program runs. "
                         "Use it in shapes (+ - * // work), or give the placeholder a fixed size")

    __index__ = __int__
    __float__ = __int__

    def __bool__(self) -> bool:
        return True  # an open size is never zero at build time; empty feeds are checked at the call

    def _ordered(self, other: object) -> bool:
        raise GraphError(f"the open size '{self}' cannot be compared with {other!r} while the graph is built")

    __lt__ = __le__ = __gt__ = __ge__ = _ordered

    def __str__(self) -> str:
        parts = []
        for monomial, factor in self.terms:
            name = "*".join(map(str, monomial))
            parts.append(str(factor) if not monomial else name if factor == 1 else f"{factor}*{name}")
        return "+".join(parts).replace("+-", "-")

    __repr__ = __str__

    def names(self) -> set[str]:
        """The named sizes it depends on."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                found |= {atom} if isinstance(atom, str) else atom.names()
        return found

    def substitute(self, sizes: Mapping[str, int]) -> Size:
        """The size with names replaced by numbers; names that are not in `sizes` stay open."""
        total: Size = 0
        for monomial, factor in self.terms:
            product: Size = factor
            for atom in monomial:
                value = sizes.get(atom, Dim.named(atom)) if isinstance(atom, str) else atom.substitute(sizes)
                product = product * value
            total = total + product
        return total


Size = Union[int, Dim]
Shape = tuple[Size, ...]


class Quotient:
    """``numerator // denominator`` where it does not divide exactly: an atom of a Dim.  Immutable."""

    __slots__ = ("denominator", "numerator")

    def __init__(self, numerator: Size, denominator: Size) -> None:
        self.numerator, self.denominator = numerator, denominator

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Quotient) and self.numerator == other.numerator
                and self.denominator == other.denominator)

    def __hash__(self) -> int:
        return hash((self.numerator, self.denominator))

    def names(self) -> set[str]:
        return set().union(*(d.names() for d in (self.numerator, self.denominator) if isinstance(d, Dim)))

    def substitute(self, sizes: Mapping[str, int]) -> Size:
        return substitute(self.numerator, sizes) // substitute(self.denominator, sizes)

    def __str__(self) -> str:
        return f"(({self.numerator})//({self.denominator}))"


def _terms(size: Size) -> Iterable[tuple[Monomial, int]]:
    return size.terms if isinstance(size, Dim) else (((), int(size)),)


def _simplest(terms: Mapping[Monomial, int]) -> Size:
    left = {monomial: factor for monomial, factor in terms.items() if factor}
    if not left:
        return 0
    if set(left) == {()}:
        return left[()]
    return Dim(left)


def _exact_quotient(numerator: Dim, denominator: Size) -> Size | None:
    """numerator / denominator where every term divides exactly by a single-term denominator, else None."""
    terms = tuple(_terms(denominator))
    if len(terms) != 1:
        return 1 if numerator == denominator else None
    (monomial, factor), = terms
    result: dict[Monomial, int] = {}
    for m, f in numerator.terms:
        rest = list(m)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if factor == 0 or f % factor:
            return None
        result[tuple(rest)] = f // factor
    return _simplest(result)


def substitute(size: Size, sizes: Mapping[str, int]) -> Size:
    return size.substitute(sizes) if isinstance(size, Dim) else size


def as_size(like: Size | str) -> Size:
    """An int, a Dim, or a string that names an open dimension."""
    if isinstance(like, str):
        if not like.isidentifier():
            raise ShapeError(f"an open dimension needs a name like 'batch', got {like!r}")
        return Dim.named(like)
    if isinstance(like, Dim):
        return like if type(like) is Dim else Dim(dict(like.terms))
    if isinstance(like, (bool, float)) or not hasattr(like, "__index__"):
        raise ShapeError(f"a size is an integer or the name of an open dimension, got {like!r}")
    size = int(like)
    if size < 0:
        raise ShapeError(f"a size cannot be negative, got {size}")
    return size


def as_shape(like: Iterable[Size | str] | Size | str) -> Shape:
    """A shape from sizes and names; a single size or name gives one dimension."""
    if isinstance(like, str) or not isinstance(like, Iterable):
        return (as_size(like),)
    return tuple(as_size(s) for s in like)


def count(shape: Iterable[Size]) -> Size:
    """The number of elements."""
    number, open_ = 1, list[Dim]()
    for size in shape:
        if isinstance(size, Dim):
            open_.append(size)
        else:
            number *= size
    return prod(open_, start=number) if open_ else number


def broadcast_shapes(*shapes: Shape) -> Shape:
    """numpy's broadcasting; an open size equals only itself and stretches a 1."""
    if shapes and all(shape is shapes[0] for shape in shapes):
        return shapes[0]
    rank = max((len(s) for s in shapes), default=0)
    result: list[Size] = [1] * rank
    for shape in shapes:
        for position, size in enumerate(shape, start=rank - len(shape)):
            if result[position] == 1:
                result[position] = size
            elif size not in (1, result[position]):
                raise ShapeError(f"shapes {format_shapes(shapes)} do not broadcast ({result[position]} != {size})")
    return tuple(result)


def format_shapes(shapes: Iterable[Shape]) -> str:
    return " and ".join("[" + ",".join(map(str, s)) + "]" for s in shapes)


class TensorType:
    """What a tensor is: element type and shape.  Immutable."""

    __slots__ = ("_size", "dtype", "shape")

    dtype: DType
    shape: Shape

    def __init__(self, dtype: DType, shape: Shape) -> None:
        self.dtype, self.shape = dtype, shape
        self._size: Size | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, TensorType) and self.dtype is other.dtype and self.shape == other.shape)

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape))

    def __repr__(self) -> str:
        return f"TensorType({self.dtype!r}, {self.shape})"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Size:
        """The number of elements."""
        if self._size is None:
            self._size = count(self.shape)
        return self._size

    @property
    def is_open(self) -> bool:
        return any(isinstance(s, Dim) for s in self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of a tensor of this type; its sizes must be known."""
        return int(self.size) * self.dtype.itemsize

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, shape)

    def substitute(self, sizes: Mapping[str, int]) -> TensorType:
        return TensorType(self.dtype, tuple(substitute(s, sizes) for s in self.shape)) if self.is_open else self

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@lru_cache(maxsize=256)
def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(range(len(shape))):
        strides[axis] = step
        step *= max(1, shape[axis])
    return tuple(strides)
