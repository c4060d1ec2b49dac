"""A symbol's operators, as numpy has them, and its methods, as PyTorch has them: each is the public function of that name.

They are spelled out, for completion and type checkers.  Knows names and signatures.  Must not know what the functions do: they
live in `ops`, and are found in FUNCTIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .keywords import accepting, taking_methods
from .more_methods import FUNCTIONS, Axis, MoreMethods, TensorLike
from .types import DTypeLike, Size, float32, float64, int64

if TYPE_CHECKING:
    from .symbols import Tensor

__all__ = ["FUNCTIONS", "Axis", "Methods", "TensorLike", "public"]

F = TypeVar("F", bound=Callable[..., Any])


def public(function: F) -> F:
    """Registers a function that becomes `graphc.<name>` and may back a Tensor method."""
    name = function.__name__.rstrip("_")
    FUNCTIONS[name] = accepted = accepting(function, name)
    return accepted


class Methods(MoreMethods):
    """What can be done with a symbol."""

    __slots__ = ()

    # -- operators ---------------------------------------------------------------------------------------------

    def __add__(self, other: TensorLike) -> Tensor: return FUNCTIONS["add"](self, other)
    def __radd__(self, other: TensorLike) -> Tensor: return FUNCTIONS["add"](other, self)
    def __sub__(self, other: TensorLike) -> Tensor: return FUNCTIONS["sub"](self, other)
    def __rsub__(self, other: TensorLike) -> Tensor: return FUNCTIONS["sub"](other, self)
    def __mul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["mul"](self, other)
    def __rmul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["mul"](other, self)
    def __truediv__(self, other: TensorLike) -> Tensor: return FUNCTIONS["div"](self, other)
    def __rtruediv__(self, other: TensorLike) -> Tensor: return FUNCTIONS["div"](other, self)
    def __floordiv__(self, other: TensorLike) -> Tensor: return FUNCTIONS["floor_divide"](self, other)
    def __rfloordiv__(self, other: TensorLike) -> Tensor: return FUNCTIONS["floor_divide"](other, self)
    def __mod__(self, other: TensorLike) -> Tensor: return FUNCTIONS["remainder"](self, other)
    def __rmod__(self, other: TensorLike) -> Tensor: return FUNCTIONS["remainder"](other, self)
    def __pow__(self, other: TensorLike) -> Tensor: return FUNCTIONS["pow"](self, other)
    def __rpow__(self, other: TensorLike) -> Tensor: return FUNCTIONS["pow"](other, self)
    def __matmul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["matmul"](self, other)
    def __rmatmul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["matmul"](other, self)
    def __neg__(self) -> Tensor: return FUNCTIONS["neg"](self)
    def __abs__(self) -> Tensor: return FUNCTIONS["abs"](self)
    def __invert__(self) -> Tensor: return FUNCTIONS["bitwise_not"](self)
    def __and__(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_and"](self, other)
    def __rand__(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_and"](other, self)
    def __or__(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_or"](self, other)
    def __ror__(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_or"](other, self)
    def __xor__(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_xor"](self, other)
    def __rxor__(self, other: TensorLike) -> Tensor: return FUNCTIONS["bitwise_xor"](other, self)
    def __eq__(self, other: object) -> Any: return FUNCTIONS["equal"](self, other)  # a Tensor, where object says bool
    def __ne__(self, other: object) -> Any: return FUNCTIONS["not_equal"](self, other)
    def __lt__(self, other: TensorLike) -> Tensor: return FUNCTIONS["less"](self, other)
    def __le__(self, other: TensorLike) -> Tensor: return FUNCTIONS["less_equal"](self, other)
    def __gt__(self, other: TensorLike) -> Tensor: return FUNCTIONS["greater"](self, other)
    def __ge__(self, other: TensorLike) -> Tensor: return FUNCTIONS["greater_equal"](self, other)
    def __getitem__(self, index: Any) -> Tensor: return FUNCTIONS["getitem"](self, index)

    # -- methods -----------------------------------------------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Sum over axes (all by default); `dim` and `keepdim` are synonyms."""
        return FUNCTIONS["sum"](self, axis, keepdims, **kw)

    def mean(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Mean over axes."""
        return FUNCTIONS["mean"](self, axis, keepdims, **kw)

    def prod(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Product over axes."""
        return FUNCTIONS["prod"](self, axis, keepdims, **kw)

    def max(self, *args: Any, **kw: Any) -> Tensor:
        """`max(axis=None, keepdims=False)`: the maximum; along one axis also PyTorch's pair, see `graphc.max`."""
        return FUNCTIONS["max"](self, *args, **kw)

    def min(self, *args: Any, **kw: Any) -> Tensor:
        """`min(axis=None, keepdims=False)`: the minimum; along one axis also PyTorch's pair, see `graphc.max`."""
        return FUNCTIONS["min"](self, *args, **kw)

    def argmax(self, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """int64 position of the first maximum along an axis, or of the flattened tensor."""
        return FUNCTIONS["argmax"](self, axis, keepdims, **kw)

    def argmin(self, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """int64 position of the first minimum along an axis, or of the flattened tensor."""
        return FUNCTIONS["argmin"](self, axis, keepdims, **kw)

    def any(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Whether any element is true."""
        return FUNCTIONS["any"](self, axis, keepdims, **kw)

    def all(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """Whether all elements are true."""
        return FUNCTIONS["all"](self, axis, keepdims, **kw)

    def var(self, axis: Axis = None, correction: float = 1, keepdims: bool = False, **kw: Any) -> Tensor:
        """Variance, divided by n - correction (PyTorch's default of 1)."""
        return FUNCTIONS["var"](self, axis, correction, keepdims, **kw)

    def std(self, axis: Axis = None, correction: float = 1, keepdims: bool = False, **kw: Any) -> Tensor:
        """Standard deviation, divided by n - correction (PyTorch's default of 1)."""
        return FUNCTIONS["std"](self, axis, correction, keepdims, **kw)

    def logsumexp(self, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """log of the sum of exponentials, without overflow."""
        return FUNCTIONS["logsumexp"](self, axis, keepdims, **kw)

    def norm(self, p: float = 2, axis: Axis = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """p-norm over axes."""
        return FUNCTIONS["norm"](self, p, axis, keepdims, **kw)

    def cumsum(self, axis: int | None = None, **kw: Any) -> Tensor:
        """Running sum along an axis."""
        return FUNCTIONS["cumsum"](self, axis, **kw)

    def cumprod(self, axis: int | None = None, **kw: Any) -> Tensor:
        """Running product along an axis."""
        return FUNCTIONS["cumprod"](self, axis, **kw)

    def reshape(self, *shape: Any, **kw: Any) -> Tensor:
        """The same elements in row-major order under another shape; one size may be -1."""
        return FUNCTIONS["reshape"](self, *shape, **kw)

    view = reshape

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """Swaps two axes, as in PyTorch; see `permute` for a full order."""
        return FUNCTIONS["transpose"](self, dim0, dim1)

    def permute(self, *axes: Any, **kw: Any) -> Tensor:
        """The axes in a new order; takes all of them."""
        return FUNCTIONS["permute"](self, *axes, **kw)

    def expand(self, *shape: Any, **kw: Any) -> Tensor:
        """Stretches axes of size 1 (and new leading ones); -1 keeps a size."""
        return FUNCTIONS["expand"](self, *shape, **kw)

    def squeeze(self, axis: Axis = None, **kw: Any) -> Tensor:
        """Drops axes of size 1."""
        return FUNCTIONS["squeeze"](self, axis, **kw)

    def unsqueeze(self, axis: int | None = None, **kw: Any) -> Tensor:
        """Puts in an axis of size 1."""
        return FUNCTIONS["unsqueeze"](self, axis, **kw)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Joins the axes from start to end into one."""
        return FUNCTIONS["flatten"](self, start_dim, end_dim)

    def flip(self, *axis: Any, **kw: Any) -> Tensor:
        """Reverses the order along axes."""
        return FUNCTIONS["flip"](self, *axis, **kw)

    def gather(self, dim: int, index: TensorLike) -> Tensor:
        """Elements picked along one axis by an index of the same rank, as torch.gather."""
        return FUNCTIONS["gather"](self, dim, index)

    def astype(self, dtype: DTypeLike) -> Tensor:
        """The same values as another element type."""
        return FUNCTIONS["cast"](self, dtype)

    def float(self) -> Tensor: return FUNCTIONS["cast"](self, float32)
    def double(self) -> Tensor: return FUNCTIONS["cast"](self, float64)
    def long(self) -> Tensor: return FUNCTIONS["cast"](self, int64)

    def masked_fill(self, mask: TensorLike, value: TensorLike) -> Tensor:
        """`value` where the mask is true."""
        return FUNCTIONS["masked_fill"](self, mask, value)

    def clip(self, min: TensorLike | None = None, max: TensorLike | None = None) -> Tensor:
        """Limits values to [min, max]."""
        return FUNCTIONS["clip"](self, min, max)

    clamp = clip

    def softmax(self, axis: int = -1, dtype: DTypeLike | None = None, **kw: Any) -> Tensor:
        """exp(x) / sum(exp(x)) along an axis, without overflow."""
        return FUNCTIONS["softmax"](self, axis, dtype=dtype, **kw)

    def log_softmax(self, axis: int = -1, dtype: DTypeLike | None = None, **kw: Any) -> Tensor:
        """log of softmax along an axis."""
        return FUNCTIONS["log_softmax"](self, axis, dtype=dtype, **kw)

    def exp(self) -> Tensor: return FUNCTIONS["exp"](self)
    def expm1(self) -> Tensor: return FUNCTIONS["expm1"](self)
    def log(self) -> Tensor: return FUNCTIONS["log"](self)
    def log1p(self) -> Tensor: return FUNCTIONS["log1p"](self)
    def sqrt(self) -> Tensor: return FUNCTIONS["sqrt"](self)
    def rsqrt(self) -> Tensor: return FUNCTIONS["rsqrt"](self)
    def reciprocal(self) -> Tensor: return FUNCTIONS["reciprocal"](self)
    def square(self) -> Tensor: return FUNCTIONS["square"](self)
    def abs(self) -> Tensor: return FUNCTIONS["abs"](self)
    def sign(self) -> Tensor: return FUNCTIONS["sign"](self)
    def sin(self) -> Tensor: return FUNCTIONS["sin"](self)
    def cos(self) -> Tensor: return FUNCTIONS["cos"](self)
    def tanh(self) -> Tensor: return FUNCTIONS["tanh"](self)
    def sigmoid(self) -> Tensor: return FUNCTIONS["sigmoid"](self)
    def relu(self) -> Tensor: return FUNCTIONS["relu"](self)
    def erf(self) -> Tensor: return FUNCTIONS["erf"](self)
    def floor(self) -> Tensor: return FUNCTIONS["floor"](self)
    def ceil(self) -> Tensor: return FUNCTIONS["ceil"](self)
    def round(self) -> Tensor: return FUNCTIONS["round"](self)

    def pow(self, exponent: TensorLike) -> Tensor: return FUNCTIONS["pow"](self, exponent)
    def matmul(self, other: TensorLike) -> Tensor: return FUNCTIONS["matmul"](self, other)
    def tril(self, diagonal: int = 0) -> Tensor: return FUNCTIONS["tril"](self, diagonal)
    def triu(self, diagonal: int = 0) -> Tensor: return FUNCTIONS["triu"](self, diagonal)
    def detach(self) -> Tensor: return FUNCTIONS["stop_gradient"](self)

    # -- order, rows and columns, linear algebra ---------------------------------------------------------------

    def sort(self, axis: int = -1, descending: bool = False, stable: bool = True, **kw: Any) -> Any:
        """(values, indices) in order along an axis; stable, NaN greatest."""
        return FUNCTIONS["sort"](self, axis, descending, stable, **kw)

    def argsort(self, axis: int = -1, descending: bool = False, stable: bool = True, **kw: Any) -> Tensor:
        """The int64 positions that put an axis in order."""
        return FUNCTIONS["argsort"](self, axis, descending, stable, **kw)

    def topk(self, k: int, axis: int = -1, largest: bool = True, sorted: bool = True, **kw: Any) -> Any:
        """(values, indices) of the k greatest (or least) elements along an axis."""
        return FUNCTIONS["topk"](self, k, axis, largest, sorted, **kw)

    def kthvalue(self, k: int, axis: int = -1, keepdims: bool = False, **kw: Any) -> Any:
        """(value, index) of the k-th least element along an axis, counted from 1."""
        return FUNCTIONS["kthvalue"](self, k, axis, keepdims, **kw)

    def median(self, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Any:
        """The lower median of all elements, or (values, indices) along an axis."""
        return FUNCTIONS["median"](self, axis, keepdims, **kw)

    def mode(self, axis: int = -1, keepdims: bool = False, **kw: Any) -> Any:
        """(values, indices) of what occurs most often along an axis."""
        return FUNCTIONS["mode"](self, axis, keepdims, **kw)

    def quantile(self, q: TensorLike, axis: int | None = None, keepdims: bool = False, **kw: Any) -> Tensor:
        """The q-quantiles along an axis, or of all elements."""
        return FUNCTIONS["quantile"](self, q, axis, keepdims, **kw)

    def cummax(self, axis: int = -1, **kw: Any) -> Any: return FUNCTIONS["cummax"](self, axis, **kw)
    def cummin(self, axis: int = -1, **kw: Any) -> Any: return FUNCTIONS["cummin"](self, axis, **kw)

    def logcumsumexp(self, axis: int | None = None, **kw: Any) -> Tensor:
        """log of the running sum of exponentials along an axis."""
        return FUNCTIONS["logcumsumexp"](self, axis, **kw)

    def index_select(self, dim: int, index: TensorLike) -> Tensor: return FUNCTIONS["index_select"](self, dim, index)

    def scatter(self, dim: int, index: TensorLike, src: TensorLike) -> Tensor:
        """This tensor with src written at an index along an axis."""
        return FUNCTIONS["scatter"](self, dim, index, src)

    def scatter_add(self, dim: int, index: TensorLike, src: TensorLike) -> Tensor:
        """This tensor with src added at an index along an axis."""
        return FUNCTIONS["scatter_add"](self, dim, index, src)

    def index_add(self, dim: int, index: TensorLike, source: TensorLike, alpha: Any = 1) -> Tensor:
        """This tensor with source added at the entries of an axis that a 1-d index names."""
        return FUNCTIONS["index_add"](self, dim, index, source, alpha)

    def index_fill(self, dim: int, index: TensorLike, value: TensorLike) -> Tensor:
        """This tensor with a value at the entries of an axis that a 1-d index names."""
        return FUNCTIONS["index_fill"](self, dim, index, value)

    def narrow(self, dim: int, start: Size, length: Size) -> Tensor: return FUNCTIONS["narrow"](self, dim, start, length)
    def roll(self, shifts: Any, axis: Any = None, **kw: Any) -> Tensor: return FUNCTIONS["roll"](self, shifts, axis, **kw)
    def tile(self, *dims: Any, **kw: Any) -> Tensor:
        """Repeated so often along each axis."""
        return FUNCTIONS["tile"](self, *((dims[0] if len(dims) == 1 else dims,) if dims else ()), **kw)

    def repeat(self, *repeats: Any) -> Tensor: return FUNCTIONS["repeat"](self, *repeats)

    def repeat_interleave(self, repeats: int, axis: int | None = None, **kw: Any) -> Tensor:
        """Each entry of an axis several times in a row."""
        return FUNCTIONS["repeat_interleave"](self, repeats, axis, **kw)

    def split(self, size: Any, axis: int = 0, **kw: Any) -> list[Tensor]: return FUNCTIONS["split"](self, size, axis, **kw)
    def split_with_sizes(self, split_sizes: Sequence[Size], axis: int = 0, **kw: Any) -> list[Tensor]:
        """In parts of these sizes."""
        return FUNCTIONS["split_with_sizes"](self, split_sizes, axis, **kw)

    def chunk(self, chunks: int, axis: int = 0, **kw: Any) -> list[Tensor]: return FUNCTIONS["chunk"](self, chunks, axis, **kw)
    def unbind(self, axis: int = 0, **kw: Any) -> list[Tensor]: return FUNCTIONS["unbind"](self, axis, **kw)
    def swapaxes(self, axis0: int, axis1: int) -> Tensor: return FUNCTIONS["transpose"](self, axis0, axis1)
    def swapdims(self, dim0: int, dim1: int) -> Tensor: return FUNCTIONS["transpose"](self, dim0, dim1)
    def moveaxis(self, source: Any, destination: Any) -> Tensor: return FUNCTIONS["moveaxis"](self, source, destination)

    movedim = moveaxis

    def expand_as(self, other: Tensor) -> Tensor: return FUNCTIONS["expand_as"](self, other)
    def view_as(self, other: Tensor) -> Tensor: return FUNCTIONS["view_as"](self, other)
    def diff(self, n: int = 1, axis: int = -1, **kw: Any) -> Tensor: return FUNCTIONS["diff"](self, n, axis, **kw)

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
        """A diagonal of two axes, as a last axis."""
        return FUNCTIONS["diagonal"](self, offset, dim1, dim2)

    def diag(self, diagonal: int = 0) -> Tensor: return FUNCTIONS["diag"](self, diagonal)
    def trace(self) -> Tensor: return FUNCTIONS["trace"](self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return FUNCTIONS["mT"](self)

    def mm(self, mat2: TensorLike) -> Tensor: return FUNCTIONS["mm"](self, mat2)
    def bmm(self, mat2: TensorLike) -> Tensor: return FUNCTIONS["bmm"](self, mat2)
    def mv(self, vec: TensorLike) -> Tensor: return FUNCTIONS["mv"](self, vec)
    def dot(self, tensor: TensorLike) -> Tensor: return FUNCTIONS["dot"](self, tensor)
    def outer(self, vec2: TensorLike) -> Tensor: return FUNCTIONS["outer"](self, vec2)

    def addmm(self, mat1: TensorLike, mat2: TensorLike, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        """beta * self + alpha * (a @ b)."""
        return FUNCTIONS["addmm"](self, mat1, mat2, beta=beta, alpha=alpha)

    def cholesky(self, upper: bool = False) -> Tensor: return FUNCTIONS["cholesky"](self, upper)
    def inverse(self) -> Tensor: return FUNCTIONS["inv"](self)
    def det(self) -> Tensor: return FUNCTIONS["det"](self)
    def logdet(self) -> Tensor: return FUNCTIONS["logdet"](self)
    def slogdet(self) -> Any: return FUNCTIONS["slogdet"](self)
    def matrix_power(self, n: int) -> Tensor: return FUNCTIONS["matrix_power"](self, n)

    def lerp(self, end: TensorLike, weight: TensorLike) -> Tensor: return FUNCTIONS["lerp"](self, end, weight)
    def clamp_min(self, min: TensorLike) -> Tensor: return FUNCTIONS["clip"](self, min=min)
    def clamp_max(self, max: TensorLike) -> Tensor: return FUNCTIONS["clip"](self, max=max)
    def isnan(self) -> Tensor: return FUNCTIONS["isnan"](self)
    def isinf(self) -> Tensor: return FUNCTIONS["isinf"](self)
    def isfinite(self) -> Tensor: return FUNCTIONS["isfinite"](self)
    def log2(self) -> Tensor: return FUNCTIONS["log2"](self)
    def log10(self) -> Tensor: return FUNCTIONS["log10"](self)
    def trunc(self) -> Tensor: return FUNCTIONS["trunc"](self)

    def nan_to_num(self, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Tensor:
        """NaN and infinities replaced by numbers."""
        return FUNCTIONS["nan_to_num"](self, nan, posinf, neginf)

    def backward(self) -> None:
        """Inside `nn.Graph.build`: marks this scalar as the loss that the graph's optimizers minimise."""
        FUNCTIONS["mark_backward"](self)


taking_methods(MoreMethods, Methods)
