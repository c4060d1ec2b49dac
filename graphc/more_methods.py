"""The rest of PyTorch's methods: what `Methods` has an operator for, and what says what a symbol is.

What concerns memory alone, as `contiguous()`, has the same value: the compiler decides what is stored.
Knows names and signatures.  Must not know what the functions do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Union

import numpy as np

from .errors import GraphError
from .origins import at, user_origin
from .types import DTypeLike, Shape, Size, bool_, count, int32

if TYPE_CHECKING:
    from .symbols import Tensor

Axis = Union[int, Sequence[int], None]
TensorLike = Union["Tensor", np.ndarray, float, int, bool, Sequence[Any]]

T = TypeVar("T")
FUNCTIONS: dict[str, Callable[..., Any]] = {}  # name -> public function, for the methods
REMEDIES = {  # what PyTorch's tensors have and a symbol has not
    "item": "a symbol has no value while the graph is built: return it from the program, or use .eval(...)",
    "tolist": "a symbol has no value while the graph is built: return it from the program, or use .eval(...)",
    "numpy": "a symbol has no value while the graph is built: return it from the program, or use .eval(...)",
    "data": "a symbol has no memory; what must not be differentiated is x.detach()",
    "grad": "gradients are symbols, too: graphc.grad(loss, x)",
    "requires_grad": "graphc.grad(loss, x) says what is differentiated",
    "half": "numbers are float32 or float64; matmul_precision='medium' multiplies in bfloat16",
    "bfloat16": "numbers are float32 or float64; matmul_precision='medium' multiplies in bfloat16",
    "cuda": "there is one device, the CPU",
    "values": "max and min have values and indices along one axis: x.max(dim=1).values",
    "indices": "max and min have values and indices along one axis: x.max(dim=1).indices; else x.argmax()",
    "equal": "whether all elements are equal is (x == y).all()",
}

IN_PLACE = frozenset((  # methods x.add_() and so on, which leave the shape as it is
    "abs", "acos", "add", "addcdiv", "addcmul", "asin", "atan", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor",
    "ceil", "clamp", "clamp_max", "clamp_min", "clip", "cos", "cosh", "cumprod", "cumsum", "div", "divide", "eq", "erf", "exp",
    "exp2", "expm1", "floor", "floor_divide", "fmod", "frac", "ge", "gt", "hypot", "index_add", "index_fill", "index_put",
    "le", "lerp", "log", "log10", "log1p", "log2", "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "lt",
    "masked_fill", "mul", "multiply", "nan_to_num", "ne", "neg", "negative", "pow", "reciprocal", "relu", "remainder", "round",
    "rsqrt", "scatter", "scatter_add", "sigmoid", "sign", "sin", "sinc", "sinh", "sqrt", "square", "sub", "subtract", "tan",
    "tanh", "tril", "triu", "true_divide", "trunc", "xlogy",
))

DEVICES = ("cuda", "mps", "xpu", "hip", "mtia", "meta", "ipu", "xla")  # of PyTorch's


def on_cpu(device: Any) -> bool:
    """Whether something names the CPU, or nothing does.

    Raises GraphError for another device.
    """
    name = "cpu" if device is None else str(device).split(":")[0]
    if name in DEVICES:
        raise GraphError(f"there is one device, the CPU, not {str(device)!r}: leave the device out, or say \"cpu\""
                         f"{at(user_origin())}")
    return name == "cpu"


def refuse_others(name: Any) -> None:
    """GraphError for a device that is not the CPU; None is the CPU."""
    if not on_cpu(name):
        raise GraphError(f"there is no device {name!r}: leave it out, or say \"cpu\"{at(user_origin())}")


class device(str):
    """The CPU: the only device."""

    def __new__(cls, name: Any = "cpu", index: int | None = None) -> device:
        refuse_others(name)
        return super().__new__(cls, "cpu")

    @property
    def type(self) -> str:
        return "cpu"


OneDevice = device  # a name that the property of symbols does not hide
CPU = device()


class MoreMethods:
    """Methods under PyTorch's names."""

    __slots__ = ()

    if TYPE_CHECKING:  # what every symbol has
        @property
        def shape(self) -> Shape: ...
        @property
        def dtype(self) -> Any: ...
        @property
        def memory(self) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        """What it has not, with what is there instead."""
        if name == "node":
            raise GraphError(f"this symbol {self.memory}\n  and is read here, where PyTorch would read what was written: take "
                             f"the view again, write to the whole symbol, or to x.clone(){at(user_origin())}")
        words = REMEDIES.get(name, "")
        stem = name.rstrip("_")
        if name == f"{stem}_" and name[0] != "_" and hasattr(type(self), stem):
            if stem in IN_PLACE:
                return partial(FUNCTIONS["overwritten_by"], self, stem)
            words = f"a symbol keeps its shape: x = x.{stem}(...)"
        raise AttributeError(f"a symbol has no '{name}'" + (f"; {words}" if words else "")
                             + ("" if name.startswith("_") else at(user_origin())))

    # -- what it is --------------------------------------------------------------------------------------------

    def dim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    ndimension = dim

    @property
    def device(self) -> OneDevice:
        """The CPU."""
        return CPU

    def numel(self) -> Size:
        """How many elements it has."""
        return count(self.shape)

    nelement = numel

    def is_floating_point(self) -> bool: return bool(self.dtype.is_float)
    def is_complex(self) -> bool: return False
    def element_size(self) -> int: return int(self.dtype.itemsize)
    def contiguous(self, *_: Any, **__: Any) -> Tensor: return FUNCTIONS["shared"](self)
    def clone(self, *_: Any, **__: Any) -> Tensor:
        """The same value; what overwrites one of the two leaves the other."""
        return FUNCTIONS["clone"](self)

    def cpu(self: T) -> T: return self
    def is_contiguous(self, *_: Any, **__: Any) -> bool: return True

    def fill_(self, value: TensorLike) -> Any:
        """From now on it is this value, which broadcasts, everywhere."""
        FUNCTIONS["setitem"](self, ..., value)
        return self

    def copy_(self, value: TensorLike) -> Any: return self.fill_(value)
    def zero_(self) -> Any: return self.fill_(0)
    def select(self, dim: int, index: int) -> Tensor: return FUNCTIONS["select"](self, dim, index)
    def index_put(self, indices: Sequence[Any], values: TensorLike, accumulate: bool = False) -> Tensor:
        """This tensor with values written at index arrays."""
        return FUNCTIONS["index_put"](self, indices, values, accumulate)

    def select_scatter(self, src: TensorLike, dim: int, index: int) -> Tensor:
        """This tensor with one entry of an axis replaced."""
        return FUNCTIONS["select_scatter"](self, src, dim, index)

    def slice_scatter(self, src: TensorLike, dim: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1
                      ) -> Tensor:
        """This tensor with a slice of an axis replaced."""
        return FUNCTIONS["slice_scatter"](self, src, dim, start, end, step)

    # -- as another type, and new tensors ------------------------------------------------------------------------

    def type_as(self, other: Tensor) -> Tensor: return FUNCTIONS["cast"](self, other.dtype)

    def to(self, *targets: Any, dtype: DTypeLike | None = None, device: Any = None, **_: Any) -> Tensor:
        """As another element type, or as that of another tensor; the device "cpu" is where it is anyway."""
        refuse_others(device)
        for target in targets:
            if hasattr(target, "dtype") and hasattr(target, "shape"):
                dtype = target.dtype
            elif not isinstance(target, bool) and not on_cpu(target):  # PyTorch has non_blocking and copy there
                dtype = target
        return FUNCTIONS["cast"](self, self.dtype if dtype is None else dtype)

    def new_empty(self, *size: Any, dtype: DTypeLike | None = None) -> Tensor:
        """Zeros, as nobody knows what else an empty tensor would hold."""
        return self.new_zeros(*size, dtype=dtype)

    def new_zeros(self, *size: Any, dtype: DTypeLike | None = None) -> Tensor:
        """Zeros of a shape, of the same type where no other is given."""
        return FUNCTIONS["zeros"](*size, dtype=self.dtype if dtype is None else dtype)

    def new_ones(self, *size: Any, dtype: DTypeLike | None = None) -> Tensor:
        """Ones of a shape, of the same type where no other is given."""
        return FUNCTIONS["ones"](*size, dtype=self.dtype if dtype is None else dtype)

    def new_full(self, size: Any, fill_value: Any, dtype: DTypeLike | None = None) -> Tensor:
        """One number in a shape, of the same type where no other is given."""
        return FUNCTIONS["full"](size, fill_value, dtype=self.dtype if dtype is None else dtype)

    def new_tensor(self, data: Any, dtype: DTypeLike | None = None) -> Tensor:
        """A constant, of the same type where no other is given."""
        return FUNCTIONS["cast"](np.asarray(data), self.dtype if dtype is None else dtype)

    # -- two tensors ---------------------------------------------------------------------------------------------

    def add(self, other: TensorLike, *, alpha: Any = 1) -> Tensor:
        """self + alpha * other."""
        return FUNCTIONS["add"](self, other, alpha=alpha)

    def sub(self, other: TensorLike, *, alpha: Any = 1) -> Tensor:
        """self - alpha * other."""
        return FUNCTIONS["sub"](self, other, alpha=alpha)

    subtract = sub

    def div(self, other: TensorLike, *, rounding_mode: str | None = None) -> Tensor:
        """self / other, rounded "floor", "trunc" or not at all."""
        return FUNCTIONS["div"](self, other, rounding_mode=rounding_mode)

    divide = div

    def true_divide(self, other: TensorLike) -> Tensor: return FUNCTIONS["div"](self, other)
    def mul(self, other: TensorLike) -> Tensor: return FUNCTIONS["mul"](self, other)
    def floor_divide(self, other: TensorLike) -> Tensor: return FUNCTIONS["floor_divide"](self, other)
    def remainder(self, other: TensorLike) -> Tensor: return FUNCTIONS["remainder"](self, other)
    def fmod(self, other: TensorLike) -> Tensor: return FUNCTIONS["fmod"](self, other)
    def maximum(self, other: TensorLike) -> Tensor: return FUNCTIONS["maximum"](self, other)
    def minimum(self, other: TensorLike) -> Tensor: return FUNCTIONS["minimum"](self, other)
    def atan2(self, other: TensorLike) -> Tensor: return FUNCTIONS["atan2"](self, other)
    def hypot(self, other: TensorLike) -> Tensor: return FUNCTIONS["hypot"](self, other)
    def logaddexp(self, other: TensorLike) -> Tensor: return FUNCTIONS["logaddexp"](self, other)
    def heaviside(self, values: TensorLike) -> Tensor: return FUNCTIONS["heaviside"](self, values)
    def xlogy(self, other: TensorLike) -> Tensor: return FUNCTIONS["xlogy"](self, other)
    def eq(self, other: TensorLike) -> Tensor: return FUNCTIONS["equal"](self, other)
    def ne(self, other: TensorLike) -> Tensor: return FUNCTIONS["not_equal"](self, other)
    def lt(self, other: TensorLike) -> Tensor: return FUNCTIONS["less"](self, other)
    def le(self, other: TensorLike) -> Tensor: return FUNCTIONS["less_equal"](self, other)
    def gt(self, other: TensorLike) -> Tensor: return FUNCTIONS["greater"](self, other)
    def ge(self, other: TensorLike) -> Tensor: return FUNCTIONS["greater_equal"](self, other)
    def logical_and(self, other: TensorLike) -> Tensor: return FUNCTIONS["logical_and"](self, other)
    def logical_or(self, other: TensorLike) -> Tensor: return FUNCTIONS["logical_or"](self, other)
    def logical_xor(self, other: TensorLike) -> Tensor: return FUNCTIONS["logical_xor"](self, other)
    def inner(self, other: TensorLike) -> Tensor: return FUNCTIONS["inner"](self, other)
    def vdot(self, other: TensorLike) -> Tensor: return FUNCTIONS["vdot"](self, other)
    def kron(self, other: TensorLike) -> Tensor: return FUNCTIONS["kron"](self, other)
    def dist(self, other: TensorLike, p: float = 2) -> Tensor: return FUNCTIONS["dist"](self, other, p)

    multiply, arctan2, not_equal, less, less_equal, greater, greater_equal = mul, atan2, ne, lt, le, gt, ge

    def cross(self, other: TensorLike, axis: int = -1, **kw: Any) -> Tensor: return FUNCTIONS["cross"](self, other, axis, **kw)

    def isclose(self, other: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
        """Whether |self - other| <= atol + rtol * |other|, element by element."""
        return FUNCTIONS["isclose"](self, other, rtol, atol, equal_nan)

    def allclose(self, other: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
        """Whether all elements are close: a symbol of one bool."""
        return FUNCTIONS["allclose"](self, other, rtol, atol, equal_nan)

    def where(self, condition: TensorLike, other: TensorLike) -> Tensor:
        """self where the condition holds, else other."""
        return FUNCTIONS["where"](condition, self, other)

    # -- element by element --------------------------------------------------------------------------------------

    def neg(self) -> Tensor: return FUNCTIONS["neg"](self)
    def absolute(self) -> Tensor: return FUNCTIONS["abs"](self)
    def positive(self: T) -> T: return self
    def logical_not(self) -> Tensor: return FUNCTIONS["logical_not"](self)
    def bitwise_and(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_and"](self, other)
    def bitwise_or(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_or"](self, other)
    def bitwise_xor(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_xor"](self, other)
    def bitwise_not(self) -> Tensor: return FUNCTIONS["bitwise_not"](self)
    def tan(self) -> Tensor: return FUNCTIONS["tan"](self)
    def asin(self) -> Tensor: return FUNCTIONS["asin"](self)
    def acos(self) -> Tensor: return FUNCTIONS["acos"](self)
    def atan(self) -> Tensor: return FUNCTIONS["atan"](self)
    def sinh(self) -> Tensor: return FUNCTIONS["sinh"](self)
    def cosh(self) -> Tensor: return FUNCTIONS["cosh"](self)
    def asinh(self) -> Tensor: return FUNCTIONS["asinh"](self)
    def acosh(self) -> Tensor: return FUNCTIONS["acosh"](self)
    def atanh(self) -> Tensor: return FUNCTIONS["atanh"](self)
    def exp2(self) -> Tensor: return FUNCTIONS["exp2"](self)
    def erfc(self) -> Tensor: return FUNCTIONS["erfc"](self)
    def sinc(self) -> Tensor: return FUNCTIONS["sinc"](self)
    def frac(self) -> Tensor: return FUNCTIONS["frac"](self)
    def deg2rad(self) -> Tensor: return FUNCTIONS["deg2rad"](self)
    def rad2deg(self) -> Tensor: return FUNCTIONS["rad2deg"](self)
    def isneginf(self) -> Tensor: return FUNCTIONS["isneginf"](self)
    def isposinf(self) -> Tensor: return FUNCTIONS["isposinf"](self)
    def logit(self, eps: float | None = None) -> Tensor: return FUNCTIONS["logit"](self, eps)

    negative, arcsin, arccos, arctan = neg, asin, acos, atan
    arcsinh, arccosh, arctanh = asinh, acosh, atanh

    # -- over axes -----------------------------------------------------------------------------------------------

    def amax(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Maximum over axes; ties share the gradient."""
        return FUNCTIONS["amax"](self, axis, keepdims, **kw)

    def amin(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Minimum over axes; ties share the gradient."""
        return FUNCTIONS["amin"](self, axis, keepdims, **kw)

    def aminmax(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Any:
        """(minimum, maximum) over axes."""
        return FUNCTIONS["aminmax"](self, axis, keepdims, **kw)

    def nansum(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Sum over axes of what is not NaN."""
        return FUNCTIONS["nansum"](self, axis, keepdims, **kw)

    def nanmean(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Mean over axes of what is not NaN."""
        return FUNCTIONS["nanmean"](self, axis, keepdims, **kw)

    def nanmedian(self, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Any:
        """The lower median of what is not NaN, or (values, indices) along an axis."""
        return FUNCTIONS["nanmedian"](self, axis, keepdims, **kw)

    def count_nonzero(self, dim: Axis = None) -> Tensor: return FUNCTIONS["count_nonzero"](self, dim)

    # -- other shapes and orders ---------------------------------------------------------------------------------

    def t(self) -> Tensor:
        """A matrix with its axes exchanged."""
        return FUNCTIONS["t"](self)

    def ravel(self) -> Tensor: return FUNCTIONS["ravel"](self)
    def reshape_as(self, other: Tensor) -> Tensor: return FUNCTIONS["view_as"](self, other)
    def broadcast_to(self, shape: Any) -> Tensor: return FUNCTIONS["broadcast_to"](self, shape)
    def unflatten(self, dim: int, sizes: Sequence[Any]) -> Tensor: return FUNCTIONS["unflatten"](self, dim, sizes)
    def fliplr(self) -> Tensor: return FUNCTIONS["fliplr"](self)
    def flipud(self) -> Tensor: return FUNCTIONS["flipud"](self)
    def msort(self) -> Tensor: return FUNCTIONS["msort"](self)
    def take(self, index: TensorLike, axis: int | None = None) -> Tensor: return FUNCTIONS["take"](self, index, axis)

    def rot90(self, k: int = 1, axes: Sequence[int] = (0, 1), **kw: Any) -> Tensor:
        """Turned by quarters in the plane of two axes."""
        return FUNCTIONS["rot90"](self, k, axes, **kw)

    def take_along_dim(self, index: TensorLike, axis: int | None = None, **kw: Any) -> Tensor:
        """Elements picked along an axis, by an index that broadcasts against the other axes."""
        return FUNCTIONS["take_along_dim"](self, index, axis, **kw)

    def tensor_split(self, parts: int | Sequence[int], axis: int = 0, **kw: Any) -> list[Tensor]:
        """In so many parts, or at these places."""
        return FUNCTIONS["tensor_split"](self, parts, axis, **kw)

    def diag_embed(self, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
        """Rows as diagonals of matrices."""
        return FUNCTIONS["diag_embed"](self, offset, dim1, dim2)

    def diagflat(self, offset: int = 0) -> Tensor: return FUNCTIONS["diagflat"](self, offset)
    def bincount(self, weights: TensorLike | None = None, minlength: int = 0) -> Tensor:
        """How often each number occurs."""
        return FUNCTIONS["bincount"](self, weights, minlength)

    def multinomial(self, num_samples: int, replacement: bool = False, *, seed: Any = None) -> Tensor:
        """Positions drawn with probabilities in proportion to rows of weights."""
        return FUNCTIONS["multinomial"](self, num_samples, replacement, seed=seed)

    def masked_select(self, *args: Any, **kw: Any) -> Tensor: return FUNCTIONS["masked_select"](self, *args, **kw)
    def nonzero(self, *args: Any, **kw: Any) -> Tensor: return FUNCTIONS["nonzero"](self, *args, **kw)
    def unique(self, *args: Any, **kw: Any) -> Tensor: return FUNCTIONS["unique"](self, *args, **kw)

    # -- products ------------------------------------------------------------------------------------------------

    def addcmul(self, tensor1: TensorLike, tensor2: TensorLike, *, value: Any = 1) -> Tensor:
        """self + value * a * b."""
        return FUNCTIONS["addcmul"](self, tensor1, tensor2, value=value)

    def addcdiv(self, tensor1: TensorLike, tensor2: TensorLike, *, value: Any = 1) -> Tensor:
        """self + value * a / b."""
        return FUNCTIONS["addcdiv"](self, tensor1, tensor2, value=value)

    def addmv(self, mat: TensorLike, vec: TensorLike, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        """beta * self + alpha * (a @ b) of a matrix and a vector."""
        return FUNCTIONS["addmv"](self, mat, vec, beta=beta, alpha=alpha)

    def addr(self, vec1: TensorLike, vec2: TensorLike, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        """beta * self + alpha * outer(a, b)."""
        return FUNCTIONS["addr"](self, vec1, vec2, beta=beta, alpha=alpha)

    def baddbmm(self, batch1: TensorLike, batch2: TensorLike, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        """beta * self + alpha * (a @ b) of batches of matrices."""
        return FUNCTIONS["baddbmm"](self, batch1, batch2, beta=beta, alpha=alpha)

    def addbmm(self, batch1: TensorLike, batch2: TensorLike, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        """beta * self + alpha * the sum over a batch of (a @ b)."""
        return FUNCTIONS["addbmm"](self, batch1, batch2, beta=beta, alpha=alpha)

    def cholesky_solve(self, factor: TensorLike, upper: bool = False) -> Tensor:
        """x with A x = self, of a Cholesky factor of A."""
        return FUNCTIONS["cholesky_solve"](self, factor, upper)

    def cholesky_inverse(self, upper: bool = False) -> Tensor: return FUNCTIONS["cholesky_inverse"](self, upper)

    # -- last, as annotations above mean Python's own -------------------------------------------------------------

    def bool(self) -> Tensor: return FUNCTIONS["cast"](self, bool_)
    def int(self) -> Tensor: return FUNCTIONS["cast"](self, int32)
