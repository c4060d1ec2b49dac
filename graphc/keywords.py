"""PyTorch's names of arguments, where ours have others: `gather(x, dim=1, index=i)`, `full(size=..., fill_value=...)`.

One table, applied where a function becomes public and to the methods of symbols: a call that uses none of these words costs
nothing.  Knows signatures.  Must not know what the functions do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import FunctionType
from typing import Any, TypeVar, cast

from .errors import DTypeError, GraphError
from .more_methods import FUNCTIONS, refuse_others
from .origins import at, user_origin
from .types import as_dtype

F = TypeVar("F", bound=Callable[..., Any])

EVERYWHERE = {  # PyTorch's word -> what an argument is called here: the first of these that a function has
    "input": ("x", "a"), "other": ("b", "y"), "dim": ("axis",), "keepdim": ("keepdims",), "dims": ("axis", "axes", "repeats"),
    "size": ("shape",), "fill_value": ("value",), "end": ("stop",), "axis": ("dim",),
}
# The same for words that mean this in these functions only.
SOME: dict[str, dict[str, tuple[str, ...]]] = {
    "mm bmm": {"mat2": ("b",)}, "mv": {"vec": ("b",)}, "outer": {"vec2": ("b",)},
    "dot": {"tensor": ("b",)}, "cdist": {"x1": ("a",), "x2": ("b",)}, "lerp": {"input": ("start",)},
    "addmm": {"mat1": ("a",), "mat2": ("b",)}, "addmv": {"mat": ("a",), "vec": ("b",)},
    "addr": {"vec1": ("a",), "vec2": ("b",)},
    "baddbmm addbmm": {"batch1": ("a",), "batch2": ("b",)}, "addcmul addcdiv": {"tensor1": ("a",), "tensor2": ("b",)},
    "transpose swapaxes swapdims": {"dim0": ("a",), "dim1": ("b",), "axis0": ("a",), "axis1": ("b",)},
    "split": {"tensor": ("x",), "split_size": ("size",), "split_size_or_sections": ("size",)},
    "tensor_split": {"indices_or_sections": ("parts",), "indices": ("parts",), "sections": ("parts",)},
    "take_along_dim": {"indices": ("index",)}, "embedding": {"indices": ("index",)}, "roll": {"shifts": ("shift",)},
    "one_hot": {"tensor": ("index",)}, "bernoulli": {"input": ("p",)}, "isin": {"test_elements": ("test",)},
    "searchsorted": {"sorted_sequence": ("ordered",), "input": ("values",)},
    "cholesky_solve": {"B": ("b",), "L": ("factor",), "input2": ("factor",)}, "cholesky_inverse": {"L": ("factor",)},
    "tril_indices triu_indices": {"row": ("rows",), "col": ("columns",)}, "solve lstsq": {"A": ("a",), "B": ("b",)},
    "inv det slogdet qr cholesky matrix_power matrix_norm": {"A": ("x",)}, "expand": {"size": ("shape",)},
    "zeros ones empty rand randn": {"shape": ("size",)},
}
OWN = {name: words for names, words in SOME.items() for name in names.split()}
FACTORIES = {
    "arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "logspace", "new_empty", "new_full", "new_ones",
    "new_tensor", "new_zeros", "normal", "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm",
    "tril_indices", "triu_indices", "zeros", "zeros_like",
}
AS_IN_PYTORCH = {"normal": ("mean", "std", "shape")}  # another order, where `size` is said or a shape is not the first

VIEWS = (  # what shares memory with its first argument in PyTorch, and may be this itself
    "broadcast_to", "chunk", "diagonal", "expand", "expand_as", "flatten", "getitem", "mT", "moveaxis", "movedim", "narrow",
    "permute", "ravel", "reshape", "select", "split", "split_with_sizes", "squeeze", "stop_gradient", "swapaxes", "swapdims",
    "t", "tensor_split", "transpose", "unbind", "unflatten", "unsqueeze", "view_as",
)


def _in_type(function: Callable[..., Any], name: str, args: tuple[Any, ...], kw: dict[str, Any], dtype: Any) -> Any:
    """Of the input as another type, in which the result is, too."""
    if dtype is None:
        return function(*args, **kw)
    wanted, cast_to = as_dtype(dtype), FUNCTIONS["cast"]
    if not wanted.is_float and name not in ("sum", "nansum", "prod", "cumsum", "cumprod"):
        raise DTypeError(f"{name}: its dtype is float32 or float64, not {wanted.name}{at(user_origin())}")
    if args:
        args = (cast_to(args[0], wanted), *args[1:])
    elif "x" in kw:
        kw["x"] = cast_to(kw["x"], wanted)
    return cast_to(function(*args, **kw), wanted)


def _scaled(function: Callable[..., Any], name: str, args: tuple[Any, ...], kw: dict[str, Any], alpha: Any) -> Any:
    """Of alpha times the second operand."""
    a, other = args[0] if args else kw.pop("a"), args[1] if len(args) > 1 else kw.pop("b")
    plain = all(isinstance(v, (bool, int, float)) for v in (other, alpha))
    scaled = other if plain and alpha == 1 else other * alpha if plain else FUNCTIONS["mul"](other, alpha)
    return function(a, scaled, **kw)


def _rounded(function: Callable[..., Any], name: str, args: tuple[Any, ...], kw: dict[str, Any], mode: Any) -> Any:
    """The quotient, rounded "floor", "trunc" or not at all; integers stay integers where it is rounded."""
    if mode not in (None, "floor", "trunc"):
        raise ValueError(f"rounding_mode is None, 'floor' or 'trunc', not {mode!r}{at(user_origin())}")
    if mode == "floor":
        return FUNCTIONS["floor_divide"](*args, **kw)
    if mode is None:
        return function(*args, **kw)
    a, b = args[0] if args else kw["a"], args[1] if len(args) > 1 else kw["b"]
    quotient = FUNCTIONS["floor_divide"](a, b)
    if quotient.dtype.is_float:
        return FUNCTIONS["trunc"](function(a, b))
    exact = FUNCTIONS["mul"](quotient, b)
    return FUNCTIONS["where"]((exact != a) & (quotient < 0), quotient + 1, quotient)


ALSO: dict[str, tuple[str, Callable[..., Any]]] = {  # a word more than the function has itself, and what it changes
    **dict.fromkeys(("sum", "nansum", "prod", "cumsum", "cumprod", "mean", "nanmean", "softmax", "log_softmax", "softmin",
                     "norm"), ("dtype", _in_type)),
    "add": ("alpha", _scaled), "sub": ("alpha", _scaled), "subtract": ("alpha", _scaled),
    "div": ("rounding_mode", _rounded), "divide": ("rounding_mode", _rounded),
}


def accepting(function: F, name: str) -> F:
    """The function, which takes PyTorch's words also; a factory takes `device` and `requires_grad`."""
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):  # what is wrapped hides its arguments
        return function
    code = function.__code__
    positional = code.co_varnames[:code.co_argcount]
    own = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    rest = code.co_varnames[len(own)] if code.co_flags & CO_VARARGS else ""
    words = {rest: rest} if rest not in ("", "args") else {}  # `args` are somebody else's, with their own words
    for word, candidates in {**EVERYWHERE, **OWN.get(name, {})}.items():
        if code.co_flags & CO_VARKEYWORDS and word in ("dim", "dims", "keepdim"):
            continue  # the function reads them itself
        found = [c for c in candidates if c in own or c == rest]
        if word not in own and found:
            words[word] = found[0]
    known = frozenset(words)
    copies = "self" not in own and name not in VIEWS and name != "cast" and not name.startswith("atleast")
    also, changed = ALSO.get(name, ("", function)) if "self" not in own else ("", function)

    def translated(args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kw = {n: v for n, v in given.items() if n not in known}
        for word in known & given.keys():
            if words[word] in kw:
                raise GraphError(f"{name}: give {words[word]} or {word}, not both{at(user_origin())}")
            kw[words[word]] = given[word]
        if name in AS_IN_PYTORCH and args and (known & given.keys() or in_another_order(args)):
            order = [n for n in AS_IN_PYTORCH[name] if n not in kw]
            return (), kw | dict(zip(order, args, strict=False))
        if rest in kw:  # what one gives one by one has no keyword: the arguments before it go by place, too
            before = positional[len(args):]
            missing = [n for n in before if n not in kw]
            if missing or len(args) > len(positional):
                raise GraphError(f"{name}: " + (f"{missing[0]} is missing" if missing else f"give {rest} once")
                                 + at(user_origin()))
            args = (*args, *(kw.pop(n) for n in before), kw.pop(rest))
        return args, kw

    @wraps(function)
    def call(*args: Any, **kw: Any) -> Any:
        if (kw and not known.isdisjoint(kw)) or name in AS_IN_PYTORCH:
            args, kw = translated(args, kw)
        if also and also in kw:
            return changed(function, name, args, kw, kw.pop(also))
        result = function(*args, **kw)
        return FUNCTIONS["clone"](result) if copies and args and result is args[0] else result

    accepted = call if words or also else function
    return cast(F, on_the_cpu(accepted, trainable=True) if name in FACTORIES else accepted)


def in_another_order(args: tuple[Any, ...]) -> bool:
    """Whether a number or a tensor comes first where here a shape does: `normal(0.0, 1.0, (2, 3))`, `normal(mean, std)`."""
    return isinstance(args[0], float) or hasattr(args[0], "dtype") or (len(args) > 2 and isinstance(args[2], (tuple, list)))


def on_the_cpu(function: Callable[..., Any], trainable: bool = False) -> Callable[..., Any]:
    """The function, which takes a `device` also: the CPU or none, as there is no other.

    trainable   `requires_grad` also: True makes a parameter of what it gives
    Raises GraphError for another device.
    """
    @wraps(function)
    def call(*args: Any, **kw: Any) -> Any:
        if not kw:
            return function(*args)
        refuse_others(kw.pop("device", None))
        if not (trainable and kw.pop("requires_grad", False)):
            return function(*args, **kw)
        from .nn.parameter import Parameter  # it stands above, and few calls want one

        made = function(*args, **kw)
        return Parameter(made, dtype=made.dtype, name="tensor")

    return call


def taking_methods(*classes: type) -> None:
    """The methods of classes take PyTorch's words also."""
    for kind in classes:
        for name, method in list(vars(kind).items()):
            if name[0] != "_":
                accepted = accepting(method, name) if isinstance(method, FunctionType) else method
                if accepted is not method:
                    setattr(kind, name, accepted)


def layers_on_the_cpu(kinds: Iterable[Any]) -> None:
    """Constructors that have a `device` are given none: only its name is checked, in this one place."""
    for kind in kinds:
        begin = getattr(kind, "__init__", None) if isinstance(kind, type) else None
        if isinstance(begin, FunctionType):
            code, name = begin.__code__, begin.__name__
            if "device" in code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]:
                setattr(kind, name, on_the_cpu(begin))
