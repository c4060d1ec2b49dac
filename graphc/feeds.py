"""What a call receives: which array feeds which input, converted where that loses nothing, refused where it would.

Knows input types and open sizes.  Must not know how a program runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import FeedError
from .ir import Node
from .origins import at, user_origin
from .types import Dim, DType, substitute


def names_in_order(inputs: Sequence[Node]) -> list[str]:
    return [n.attributes["name"] for n in inputs]


def assign(inputs: Sequence[Node], positional: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """The fed value of each input; unknown, missing or doubly given ones are FeedErrors."""
    names = names_in_order(inputs)
    if len(positional) > len(names):
        raise FeedError(f"{len(positional)} arrays for {len(names)} inputs ({', '.join(names) or 'none'})"
                        f"{at(user_origin())}")
    values = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise FeedError(f"no input is called '{name}'; the inputs are: {', '.join(names) or 'none'}"
                            f"{at(user_origin())}")
        if name in values:
            raise FeedError(f"input '{name}' is given twice, by position and by name{at(user_origin())}")
        values[name] = value
    missing = [n for n in names if n not in values]
    if missing:
        wanted = ", ".join(f"{n}: {node.type}" for n, node in zip(names, inputs, strict=True) if n in missing)
        raise FeedError(f"missing input: {wanted}{at(user_origin())}")
    return [values[n] for n in names]


def convert(node: Node, value: Any, *, stacked: bool = False) -> np.ndarray:
    """The value as a C-contiguous array of the input's dtype.

    Lists are literals; float64 becomes float32, integers and bools become floats, int64 becomes int32 where every
    value fits.  Floats never become integers.
    """
    name, wanted = node.attributes["name"], node.type.dtype
    if isinstance(value, np.ndarray):
        array = value
    else:
        try:
            array = np.asarray(value)
        except Exception as error:
            raise FeedError(f"input '{name}': expected {node.type}, got {type(value).__name__}: "
                            f"{str(error).splitlines()[0]}{at(user_origin())}") from None
    if array.dtype != wanted.numpy:
        array = _converted(name, array, wanted, node)
    if array.ndim != node.type.ndim + stacked:
        raise FeedError(f"input '{name}': expected {node.type}, got shape {list(array.shape)} "
                        f"({array.ndim} dimensions, {node.type.ndim} expected){at(user_origin())}")
    if not array.flags.c_contiguous or not array.flags.aligned or not array.dtype.isnative:
        array = np.ascontiguousarray(array, dtype=wanted.numpy).reshape(array.shape)
    return array


def _converted(name: str, array: np.ndarray, wanted: DType, node: Node) -> np.ndarray:
    kind = array.dtype.kind
    allowed = {"f": kind in "fiub", "i": kind in "iub", "b": kind == "b"}[
        "f" if wanted.is_float else "i" if wanted.is_integer else "b"]
    if array.size == 0 and array.dtype == np.float64 and kind == "f":
        allowed = True  # an empty list carries no dtype
    if not allowed:
        remedy = ".astype('int64') if you mean to truncate" if kind == "f" and wanted.is_integer else \
            f"convert it to {wanted.name} first"
        raise FeedError(f"input '{name}': expected {node.type}, got {array.dtype}{list(array.shape)}; {remedy}"
                        f"{at(user_origin())}")
    if wanted.is_integer and array.size:
        limits = np.iinfo(wanted.numpy)
        low, high = array.min(), array.max()
        if low < limits.min or high > limits.max:
            raise FeedError(f"input '{name}': values from {low} to {high} do not fit {wanted.name}{at(user_origin())}")
    with np.errstate(over="ignore"):
        return array.astype(wanted.numpy)


def solve_sizes(inputs: Sequence[Node], arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """The open sizes that these arrays give; FeedError where shapes contradict the inputs or one another."""
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for node, array in zip(inputs, arrays, strict=True):
        name = node.attributes["name"]
        for axis, (wanted, got) in enumerate(zip(node.type.shape, array.shape, strict=True)):
            if not isinstance(wanted, Dim):
                if wanted != got:
                    raise FeedError(f"input '{name}': expected {node.type}, got shape {list(array.shape)} "
                                    f"(axis {axis}: {got}, expected {wanted}){at(user_origin())}")
            elif str(wanted).isidentifier():
                known = sizes.setdefault(str(wanted), got)
                if known != got:
                    raise FeedError(f"input '{name}': the open size '{wanted}' is {got} here but {known} in input "
                                    f"'{origin[str(wanted)]}'{at(user_origin())}")
                origin.setdefault(str(wanted), name)
                if got == 0:
                    raise FeedError(f"input '{name}': the open size '{wanted}' is 0: an empty batch has no loss and "
                                    f"no gradient; leave such calls out{at(user_origin())}")
    for node, array in zip(inputs, arrays, strict=True):
        for wanted, got in zip(node.type.shape, array.shape, strict=True):
            if isinstance(wanted, Dim) and substitute(wanted, sizes) != got:
                raise FeedError(f"input '{node.attributes['name']}': expected {node.type}, got shape "
                                f"{list(array.shape)} ({wanted} is {substitute(wanted, sizes)}, not {got})"
                                f"{at(user_origin())}")
    return sizes
