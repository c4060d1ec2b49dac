"""Tensor: the symbol that users hold, and how Python values become one.

Knows nodes, cells and Python's numbers.  Must not know what any op computes, or which functions there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

import numpy as np

from .cells import Cell
from .counts import Count, OpenCount, count_of
from .errors import DTypeError, FeedError, GraphError, ShapeError
from .ir import Graph, Node, make
from .methods import FUNCTIONS, Methods, TensorLike
from .op import REGISTRY, Op
from .origins import at, each_step, user_origin
from .types import Dim, DType, DTypeLike, Shape, TensorType, as_dtype, as_shape, float32, int64

detaching: ContextVar[bool] = ContextVar("detaching", default=False)  # whether what is computed now stops gradients


def _no_value(tensor: Tensor, what: str) -> GraphError:
    return GraphError(f"{what} of a symbol: '{tensor.node.op.name}' {tensor.type} has no value while the graph is built. "
                      "Use graphc.where to choose, .eval(name=array) for a quick look, or "
                      f"graphc.function to compute{at(user_origin())}")


class Tensor(Methods):
    """A symbol: it stands for a typed node of a graph.  Equality is identity, `==` builds a comparison.

    Nodes are immutable; `x[0] = 1` makes x stand for another one from there on.
    """

    __slots__ = ("__weakref__", "memory", "node")
    __array_ufunc__ = None  # numpy arrays on the left hand the operation to us
    __array_priority__ = 1000

    node: Node

    def __init__(self, node: Any, *sizes: Any) -> None:
        self.node = node if isinstance(node, Node) and not sizes else of_data((node, *sizes), float32).node
        self.memory: Any = None  # what it shares with views of it, where there are any

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def type(self) -> TensorType:
        return self.node.type

    @property
    def shape(self) -> Shape:
        return self.node.shape

    @property
    def dtype(self) -> DType:
        return self.node.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Count | OpenCount:
        """How many elements it has, as numpy says it; called, as PyTorch does, its shape: `x.size()`, `x.size(-1)`."""
        return count_of(self.node.shape)

    @property
    def T(self) -> Tensor:
        """All axes reversed."""
        return FUNCTIONS["permute"](self, tuple(reversed(range(self.ndim))))

    @property
    def name(self) -> str | None:
        """The name of a placeholder or parameter, None of anything computed."""
        cell = self.node.attributes.get("cell")
        return cell.name if cell is not None else self.node.attributes.get("name")

    def __repr__(self) -> str:
        if isinstance(self.memory, str):  # why it has no node any more
            return f"<a symbol that {self.memory}>"
        name = f" '{self.name}'" if self.name else ""
        return f"<{self.node.op.name}{name}: {self.type}>"

    def __pos__(self) -> Tensor:
        return self

    def __len__(self) -> int:
        if not self.shape:
            raise GraphError("len() of a 0-d symbol")
        return self.shape[0].__index__()

    def __hash__(self) -> int:
        return id(self.node)

    def __bool__(self) -> bool:
        raise _no_value(self, "truth value")

    def __float__(self) -> float:
        raise _no_value(self, "float()")

    def __int__(self) -> int:
        raise _no_value(self, "int()")

    def __index__(self) -> int:
        raise _no_value(self, "index")

    def __iter__(self) -> Any:
        if not self.shape:
            raise GraphError("a 0-d symbol cannot be iterated")
        return (self[i] for i in range(self.shape[0].__index__()))

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise _no_value(self, "np.asarray()")

    def __setitem__(self, index: Any, value: Any) -> None:
        FUNCTIONS["setitem"](self, index, value)

    def __copy__(self) -> Tensor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return FUNCTIONS["clone"](self)

    def __reduce__(self) -> Any:
        raise GraphError(f"a symbol is a place in a graph, and is not pickled: save what it is computed from, or values of it "
                         f"({self!r}){at(user_origin())}")

    def eval(self, **feeds: Any) -> np.ndarray:
        """The value for these feeds, by name, computed by the interpreter: for a quick look."""
        return FUNCTIONS["evaluate"](self, feeds)


class Parameter(Tensor):
    """A symbol with a value of its own that programs may update: a trainable parameter, or a state.

    Several programs share one parameter; each sees the others' updates.
    """

    __slots__ = ("requires_grad",)

    def __init__(self, node: Node, requires_grad: bool = True) -> None:
        super().__init__(node)
        self.requires_grad = requires_grad

    @property
    def cell(self) -> Cell:
        return self.node.attributes["cell"]

    def __copy__(self) -> Parameter:
        return of_cell(type(self), self.cell, self.requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        memo[id(self)] = new = of_cell(type(self), deepcopy(self.cell, memo), self.requires_grad)
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return of_cell, (type(self), self.cell, self.requires_grad)

    def numpy(self) -> np.ndarray:
        """A copy of the current value."""
        return self.cell.array.copy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self.numpy()
        return value if dtype is None else value.astype(dtype)

    def assign(self, value: Any) -> None:
        """Replaces the value; the shape must be the same, the dtype is converted."""
        given = self._given(value)
        if given.shape != self.cell.shape:
            raise ShapeError(f"assign to '{self.cell.name}': expected shape {list(self.cell.shape)}, "
                             f"got {list(given.shape)}{at(user_origin())}")
        if self.cell.type.dtype.is_integer and given.dtype.kind == "f":
            raise DTypeError(f"assign to '{self.cell.name}': floats do not become {self.cell.type.dtype.name}; "
                             f"convert them yourself{at(user_origin())}")
        self.cell.assign(given)

    def _given(self, value: Any) -> np.ndarray:
        """Numbers that it is given, also by a symbol that needs no input; refused where a step was to be given them."""
        if each_step.get():
            raise GraphError(f"'{self.cell.name}' would be given a value once, while {each_step.get()} is written down, not in "
                             "each step; let a result carry it: y = graphc.updating(y, {state: new value})"
                             f"{at(user_origin())}")
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            try:
                return np.asarray(value.eval())
            except FeedError as error:
                raise DTypeError(f"'{self.cell.name}' is given numbers now, and {value!r} has none: {error}") from None
        return np.asarray(value)

    def item(self) -> Any:
        """The value of a parameter with one element, as a Python number."""
        return self.cell.array.item()

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Freezes (False) or frees it for optimizers."""
        self.requires_grad = requires_grad
        return self

    # -- values from Python, at once ---------------------------------------------------------------------------

    @property
    def data(self) -> Parameter:
        """Itself, for PyTorch's sake: `w.data.zero_()`; assigning gives it a value."""
        return self

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    def copy_(self, value: Any) -> Parameter:
        """Gives it a value, which broadcasts."""
        given = self._given(value)
        try:
            full = np.broadcast_to(given, self.cell.shape)
        except ValueError:
            raise ShapeError(f"'{self.cell.name}' is {list(self.cell.shape)}, to which {list(given.shape)} does not broadcast"
                             f"{at(user_origin())}") from None
        self.assign(full)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        """Writes into its value, at once."""
        new, given = self.numpy(), self._given(value)
        new[tuple([self._given(i) if isinstance(i, Tensor) else i for i in index]) if isinstance(index, tuple) else
            self._given(index) if isinstance(index, Tensor) else index] = given
        self.assign(new)

    @staticmethod
    def _at_once() -> bool:
        """Whether `w *= 2` changes w now: under no_grad, as in PyTorch; elsewhere it names a product."""
        return detaching.get() and not each_step.get()

    def fill_(self, value: Any) -> Parameter: return self.copy_(value)
    def zero_(self) -> Parameter: return self.copy_(0)
    def __iadd__(self, other: TensorLike) -> Tensor: return self.add_(other) if self._at_once() else self + other
    def __isub__(self, other: TensorLike) -> Tensor: return self.sub_(other) if self._at_once() else self - other
    def __imul__(self, other: TensorLike) -> Tensor: return self.mul_(other) if self._at_once() else self * other
    def __itruediv__(self, other: TensorLike) -> Tensor: return self.div_(other) if self._at_once() else self / other
    def add_(self, value: Any, *, alpha: Any = 1) -> Parameter: return self.copy_(self.cell.array + alpha * self._given(value))
    def sub_(self, value: Any, *, alpha: Any = 1) -> Parameter: return self.copy_(self.cell.array - alpha * self._given(value))
    def mul_(self, value: Any) -> Parameter: return self.copy_(self.cell.array * self._given(value))
    def div_(self, value: Any) -> Parameter: return self.copy_(self.cell.array / self._given(value))
    def clamp_(self, min: Any = None, max: Any = None) -> Parameter: return self.copy_(np.clip(self.cell.array, min, max))

    def __repr__(self) -> str:
        return f"<{'parameter' if self.cell.trainable else 'state'} '{self.cell.name}': {self.type}>"

    def __str__(self) -> str:
        return str(self.cell.array)


def of_cell(kind: type[Parameter], cell: Cell, requires_grad: bool) -> Parameter:
    """A parameter of this class with this cell: how a copy begins, and one that was pickled."""
    new = kind.__new__(kind)
    Parameter.__init__(new, make(REGISTRY["parameter"], (), {"cell": cell}), requires_grad)
    return new


# -- from Python values ----------------------------------------------------------------------------------------------


def constant(value: Any, dtype: DTypeLike | None = None) -> Tensor:
    """A constant from a number, a list or an array.  Python floats and lists of them are float32, ints int64."""
    if isinstance(value, Tensor):
        return value if dtype is None else FUNCTIONS["cast"](value, dtype)
    if isinstance(value, Dim):  # a size that is open is a number of each step
        return apply("size", size=value, dtype=as_dtype(dtype or int64))
    if dtype is not None:
        array = np.array(value, dtype=as_dtype(dtype).numpy)
    else:
        array = np.array(value)
        if array.dtype == np.float64 and not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32)
        if array.dtype.kind in "OUSVcmM":
            raise DTypeError(f"no constant can be made of {value!r}; give numbers{at(user_origin())}")
        array = array.astype(as_dtype(array.dtype).numpy)
    return Tensor(make(REGISTRY["constant"], (), {"value": array}))


def of_data(data: Sequence[Any], dtype: DTypeLike) -> Tensor:
    """What PyTorch makes of `Tensor([1, 2])`, a constant of one type, and of `Tensor(3, 4)`, here zeros of these sizes."""
    if all(isinstance(d, (int, np.integer)) for d in data):
        return FUNCTIONS["zeros"](tuple(data) or (0,), dtype=dtype)
    if len(data) != 1:
        raise GraphError(f"give one list or array, as to graphc.tensor{at(user_origin())}")
    return constant(data[0], dtype)


def as_tensor(value: TensorLike, like: Tensor | None = None) -> Tensor:
    """A Tensor; a Python or numpy scalar takes the dtype of `like` as far as that loses no kind (float into int)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Dim):
        return constant(value, like.dtype if like is not None and not like.dtype.is_bool else int64)
    if like is not None and (isinstance(value, (bool, int, float, np.generic))):
        dtype = like.dtype
        if isinstance(value, (float, np.floating)) and not dtype.is_float:
            dtype = float32
        elif isinstance(value, (int, np.integer)) and not isinstance(value, bool) and dtype.is_bool:
            dtype = int64
        return constant(value, dtype)
    return constant(value)


def number_of(size: Dim) -> Tensor:
    """An open size as a number of each step."""
    return apply("size", size=size, dtype=float32)


Dim.symbol = number_of


def apply(op: Op | str, *inputs: Tensor, graphs: Sequence[Graph] = (), **attributes: Any) -> Tensor:
    """The op on these tensors: types are checked here, with the user's line in the error."""
    record = REGISTRY[op] if isinstance(op, str) else op
    return held(make(record, tuple([i.node for i in inputs]), attributes, graphs))


def held(node: Node) -> Tensor:
    """The symbol of a computed node; where gradients are not to pass, of one that stops them."""
    if detaching.get() and len(node.types) == 1 and node.dtype.is_float:
        node = make(REGISTRY["stop_gradient"], (node,))
    return Tensor(node)


class Symbol:
    """The identity of one placeholder: two placeholders of one name are two inputs."""

    __slots__ = ("__weakref__",)


def placeholder(name: str, shape: Any = (), dtype: DTypeLike = "float32") -> Tensor:
    """An input that is fed at each call; a string in `shape` names an open dimension."""
    if not isinstance(name, str) or not name:
        raise GraphError(f"a placeholder needs a name, got {name!r}")
    type_ = TensorType(as_dtype(dtype), as_shape(shape))
    return Tensor(make(REGISTRY["input"], (), {"name": name, "type": type_, "symbol": Symbol()}))


def parameter(name: str, value: Any, dtype: DTypeLike | None = None, *, trainable: bool = True) -> Parameter:
    """A parameter that holds its value: float32 unless `dtype` says otherwise (a numpy float64 array is converted too)."""
    if not isinstance(name, str) or not name:
        raise GraphError(f"a parameter needs a name, got {name!r}")
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"parameter '{name}': no numbers in {value!r}{at(user_origin())}")
    cell = Cell(name, array, trainable, as_dtype(dtype or float32))
    return Parameter(make(REGISTRY["parameter"], (), {"cell": cell}), requires_grad=trainable)


def state(name: str, value: Any, dtype: DTypeLike | None = None) -> Parameter:
    """A non-trainable parameter: running statistics, counters, the random key.  Keeps numpy's dtype unless given."""
    array = np.asarray(value)
    if dtype is None and array.dtype == np.float64 and not isinstance(value, (np.ndarray, np.generic)):
        dtype = float32
    return parameter(name, array, dtype or as_dtype(array.dtype), trainable=False)
