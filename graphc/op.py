"""What an op is: one record, one place.

Knows the fields that describe an op and the registry that holds them.  Must not know any op's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from functools import cached_property
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from .records import record
from .types import DType, TensorType


class Kind(Enum):
    """How an op computes; everything after the language switches on this, never on a name."""

    SOURCE = "source"  # no inputs
    MAP = "map"  # one scalar body per element; inputs and result have one shape
    REDUCE = "reduce"  # a fold over axes
    PREFIX = "prefix"  # the same fold, cumulative along one axis
    CONTRACT = "contract"  # products summed over shared axes
    VIEW = "view"  # an index map with a guard
    GATHER = "gather"  # reads at a data-dependent index along one axis
    SCATTER = "scatter"  # adds at a data-dependent index along one axis
    ROUTINE = "routine"  # a row algorithm; a fusion barrier
    LOOP = "loop"  # a nested graph, repeated
    COND = "cond"  # nested graphs, one of which runs
    ITEM = "item"  # one result of a node that has several
    COMPOSITE = "composite"  # expands to the above

    __hash__ = object.__hash__  # members are single objects; Enum's own is a function of Python


class Moves(Enum):
    """What a VIEW does with its operand's elements, as far as views are joined and moved."""

    NOTHING = "nothing"  # they stay in row-major order, under the attribute `shape`
    AXES = "axes"  # the axes are put in the order of the attribute `axes`
    REPEATS = "repeats"  # axes of size 1, and new leading ones, are repeated up to the attribute `shape`
    OTHERWISE = "otherwise"


class ScalarBuilder(Protocol):
    """What `Op.scalar` speaks to: the per-element instructions.  Values are opaque; every method returns one.

    The native backend hands in a builder that emits vector code, the cost model one that counts, and the unrolled
    lowering one that folds constants.
    """

    def const(self, value: float | int | bool, like: Any) -> Any: ...
    def constant(self, value: float | int | bool, dtype: str, like: Any) -> Any: ...
    def cast(self, x: Any, dtype: str) -> Any: ...
    def select(self, condition: Any, a: Any, b: Any) -> Any: ...
    def __getattr__(self, name: str) -> Callable[..., Any]: ...


class RoutineBuilder(Protocol):
    """What `Op.routine` speaks to: the loops and the memory of an algorithm on one member of a batch.

    ``routine(r, inputs, outputs, types, **attributes)`` is called once, and writes the algorithm down: `inputs` and
    `outputs` are arrays of the last `Op.core` axes (the leading axes are the batch, whose members are independent),
    `types` the operands' full types.  Sizes are ordinary ints; everything that is known only when the program runs is
    a *number*: opaque, with Python's operators ``+ - * / // %``, comparisons and ``& | ~``, mixing with Python's own
    numbers.  What else a ScalarBuilder offers is a method here: ``r.sqrt(x)``, ``r.select(condition, a, b)``.

    An array has ``a[i, j]``, ``a[i, j] = x`` and ``a.row(i)``, the array of the remaining axes; indices are ints or
    int64 numbers, and must be inside.

    loop        ``with r.loop(low, high) as i``: the body for each i in order; `step` apart, or backwards with `reverse`
    loop_while  ``with r.loop_while(condition)``: the body as long as ``condition()``, asked before each round, holds
    when        ``with r.when(condition)``: the body where the condition holds
    each        ``body(i)`` for each i, in any order and many at once: i stands for neighbouring positions, and what is
                read there is a vector of up to `vectors` registers.  The body may hold loops, but no condition on i
    sum         the sum of ``term(i)``, of a dtype, many at once, in an order that depends on the number of terms alone
    greatest    the greatest of ``term(i)``, NaN where there is one; the dtype's least of no terms
    variable    a number that changes: read and write its ``.value``.  It keeps the type of its first value; made inside
                `each`, it may differ from lane to lane
    scratch     an array of memory of this member's own, of undefined content
    constant    a number of a given dtype
    """

    def loop(self, low: Any, high: Any, step: int = 1, reverse: bool = False) -> AbstractContextManager[Any]: ...
    def loop_while(self, condition: Callable[[], Any]) -> AbstractContextManager[None]: ...
    def when(self, condition: Any) -> AbstractContextManager[None]: ...
    def each(self, low: Any, high: Any, body: Callable[[Any], None], vectors: int = 1) -> None: ...
    def sum(self, low: Any, high: Any, dtype: str, term: Callable[[Any], Any]) -> Any: ...
    def greatest(self, low: Any, high: Any, dtype: str, term: Callable[[Any], Any]) -> Any: ...
    def variable(self, value: Any) -> Any: ...
    def scratch(self, dtype: str, *shape: int) -> Any: ...
    def constant(self, value: float | int | bool, dtype: str) -> Any: ...
    def __getattr__(self, name: str) -> Callable[..., Any]: ...


class Fold(NamedTuple):
    """A reduction's body: an associative `combine` on a state of one or more scalars.

    `identity(dtype)` gives the state's neutral values, `lift(s, x, position)` an element's state (position is its
    int64 index along the reduced axes), `combine(s, p, q)` joins two states, p's elements before q's, and
    `result` picks the state's component that is the answer.  `append(s, p, q)` joins them where all positions of q are
    greater than those of p, which may be less work.
    """

    identity: Callable[[DType], tuple[float | int | bool, ...]]
    combine: Callable[[Any, tuple, tuple], tuple]
    lift: Callable[[Any, Any, Any], tuple] = lambda s, x, position: (x,)
    result: int = 0
    state_dtypes: Callable[[DType], tuple[str, ...]] = lambda dtype: (dtype.name,)
    append: Callable[[Any, tuple, tuple], tuple] | None = None

    def neutral(self, dtype: DType) -> float | int | bool | None:
        """The number that the fold takes no notice of; None where its state is more than a number."""
        state = self.identity(dtype)
        return state[0] if len(state) == 1 else None

    def joins_at_once(self, dtype: DType) -> bool:
        """Whether joining two states is one instruction, as adding them is; a maximum asks for NaN too."""
        return self.neutral(dtype) in (0, 1)


class Missing:
    """What stands in a field that an op does not have: calling it is a fault of graphc's own, and says where."""

    __slots__ = ("field", "op")

    def __init__(self, op: str, field: str) -> None:
        self.op, self.field = op, field

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"the op {self.op!r} has no {self.field!r}")


NONE = Missing("", "")
NO_FOLD = Fold(NONE, NONE)


class Sample(NamedTuple):
    """One way to exercise an op in the registry's tests: operand shapes (or arrays) and attributes."""

    operands: tuple[Any, ...]
    attributes: Mapping[str, Any] = MappingProxyType({})


@record(frozen=True, eq=False)
class Op:
    """Everything about one op.  A field that its kind does not need stays out, and raises when it is called all the same.

    infer       ``infer(*types, **attributes) -> TensorType`` (a tuple of them where there are several results);
                raises ShapeError or DTypeError with the bare reason, the caller adds op, types and source line
    numpy       its meaning: ``numpy(*arrays, **attributes) -> array``
    vjp         per input ``f(g, out, *inputs, **attributes) -> Tensor``; None where no gradient flows.
                Or one callable that returns a sequence, one entry per input.  With several results it is one callable,
                g a list with None for results without cotangent, and out the node itself.
                With nested graphs: ``f(g, node, wanted, pull)``, which gives {input: cotangent} for the wanted inputs;
                ``pull(outputs, cotangents, inputs)`` pulls back through nodes of a nested graph
    passes      where vjp is one callable: ``passes(position, **attributes)`` says whether a gradient flows to that
                input; to all of them unless given
    scalar      MAP: ``scalar(s, *values, **attributes)`` over a ScalarBuilder
    fold        REDUCE, PREFIX: the body
    index       VIEW: ``index(indices, input_type, **attributes) -> (indices, guard)``; maps an element of the
                result to an element of the first operand (others are only waited for).  guard is a list of (index, low,
                high) that must hold low <= index < high, else the element is the attribute ``fill``
    moves       VIEW: what it does with elements
    twice       VIEW: ``twice(x, first, then) -> Tensor``: this op with the attributes `first`, and again with those of
                `then`, as one view of x
    routine     ROUTINE: ``routine(r, inputs, outputs, types, **attributes)`` over a RoutineBuilder
    core        ROUTINE: how many last axes of the first result one run of the algorithm makes; the axes before them
                are the batch, with which every operand and every result begins
    operations  ROUTINE: ``operations(*types, **attributes) -> int``, about how many scalar operations it all takes
    expand      COMPOSITE: ``expand(*inputs, **attributes) -> Tensor``
    commutes    the two inputs may be exchanged
    neutral     MAP of two, whose order is free (up to rounding): the number that changes nothing
    linear      MAP: sets of inputs in which it is linear at once, the others held
    converts    MAP: the same numbers, as the attribute `dtype`
    aside       attributes that say nothing about the results, as a gradient's rule
    serial      attributes whose numbers say only which nodes belong together
    domain      MAP: per input the open interval in which tests draw values
    smooth      False where finite differences do not tell the gradient (steps, roundings)
    dtypes      element types that the op takes: any of "f" (floats), "i" (integers), "b" (bool)
    samples     how tests exercise an op that is not a MAP
    """

    name: str
    kind: Kind
    infer: Callable[..., Any]
    numpy: Callable[..., Any] = NONE
    vjp: Sequence[Callable[..., Any] | None] | Callable[..., Any] = ()
    scalar: Callable[..., Any] = NONE
    fold: Fold = NO_FOLD
    index: Callable[..., Any] = NONE
    moves: Moves = Moves.OTHERWISE
    twice: Callable[..., Any] = NONE
    routine: Callable[..., Any] = NONE
    core: int = 1
    operations: Callable[..., int] = NONE
    expand: Callable[..., Any] = NONE
    passes: Callable[..., bool] | None = None
    commutes: bool = False
    neutral: float | None = None
    linear: tuple[tuple[int, ...], ...] = ()
    converts: bool = False
    aside: tuple[str, ...] = ()
    serial: tuple[str, ...] = ()
    domain: tuple[tuple[float, float], ...] = ()
    smooth: bool = True
    dtypes: str = "f"
    samples: tuple[Sample, ...] = ()
    doc: str = ""

    def __post_init__(self) -> None:
        for name in ("numpy", "scalar", "index", "twice", "routine", "operations", "expand"):
            if getattr(self, name) is NONE:
                object.__setattr__(self, name, Missing(self.name, name))
        if self.fold is NO_FOLD:
            missing = Missing(self.name, "fold")
            object.__setattr__(self, "fold", Fold(missing, missing, missing, 0, missing))

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def has(self, name: str) -> bool:
        """Whether the record fills a field."""
        value = getattr(self, name)
        return not isinstance(value.combine if isinstance(value, Fold) else value, Missing)

    @cached_property
    def is_given(self) -> bool:
        """Whether its value comes from outside the graph: an input's, or a cell's."""
        return self.kind is Kind.SOURCE and not self.has("numpy")

    @cached_property
    def arity(self) -> int | None:
        """How many operands a MAP takes; None of other kinds, whose type rule takes what it needs."""
        if self.kind is not Kind.MAP:
            return None
        positional = [p for p in signature(self.scalar).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        return len(positional) - 1  # without the builder

    def has_gradient(self, position: int, attributes: Mapping[str, Any] | None = None) -> bool:
        """Whether a gradient rule exists for the input at this position of a node with these attributes."""
        if callable(self.vjp):
            return self.passes is None or attributes is None or self.passes(position, **attributes)
        return position < len(self.vjp) and self.vjp[position] is not None


REGISTRY: dict[str, Op] = {}
NEEDED = {Kind.MAP: ("scalar",), Kind.REDUCE: ("fold",), Kind.PREFIX: ("fold",), Kind.VIEW: ("index",),
          Kind.COMPOSITE: ("expand",), Kind.ROUTINE: ("routine", "operations")}


def define(op: Op) -> Op:
    """Registers an op; every part of graphc finds it by its record alone."""
    if op.name in REGISTRY:
        raise ValueError(f"op {op.name!r} is defined twice")
    for name in NEEDED.get(op.kind, ()):
        if not op.has(name):
            raise ValueError(f"op {op.name!r} of kind {op.kind.value} needs the field {name!r}")
    REGISTRY[op.name] = op
    return op


def same_type(*types: TensorType, **_: Any) -> TensorType:
    """The common type of all inputs, which is the result's type as well."""
    return types[0]
