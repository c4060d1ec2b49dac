"""Values as text and back: numbers, strings, tuples, sizes, types, arrays, cells and functions.

Knows how one value is spelled and read, exactly in both directions.  Must not know graphs or ops.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import weakref
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from .cells import Cell
from .errors import GraphError
from .ir import SMALL
from .tokens import DEPTH, Tokens
from .types import DTYPES, Dim, DType, Quotient, Size, TensorType

TERMS = 1024  # of a size: a longer polynomial is no size that anyone means
DIGITS = 19  # of an integer in a size
_SHORT = {d.short: d for d in DTYPES}
_BARE = re.compile(r"[\w.\-$]+")

# Large arrays and functions are compared by identity: what was written is found again for as long as it is alive.
_arrays: weakref.WeakValueDictionary[tuple[str, tuple[int, ...], str], np.ndarray] = weakref.WeakValueDictionary()
_functions: weakref.WeakValueDictionary[str, Callable[..., Any]] = weakref.WeakValueDictionary()

# -- writing ---------------------------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """A JSON string in ASCII."""
    return json.dumps(text)


def bare(name: str) -> str:
    """A name as it stands behind % or @: as it is where it can be, else between quotes."""
    return name if _BARE.fullmatch(name) else quote(name)


def format_value(value: Any, cell_name: Callable[[Cell], str] = lambda cell: cell.name) -> str:
    """A value as text; `Scanner.value` reads it back exactly.

    Raises GraphError for what has no text: attributes are numbers, strings, sizes, types, arrays, cells, functions and
    tuples of them.
    """
    if value is None or isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, float):
        return repr(value) if isfinite(value) else f"float({value})"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, tuple):
        inside = ", ".join(format_value(v, cell_name) for v in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, (DType, TensorType)):
        return f"<{value}>"
    if isinstance(value, Dim):
        return f"[{value}]"
    if isinstance(value, Quotient):
        return f"[{value.numerator} : {value.denominator}]"
    if isinstance(value, np.ndarray):
        return _format_array(value)
    if isinstance(value, Cell):
        return f"@{bare(cell_name(value))}"
    if callable(value):
        return f"&{bare(_function_name(value))}"
    raise GraphError(f"a value of type {type(value).__name__} has no text")


def _format_array(array: np.ndarray) -> str:
    short = next((d.short for d in DTYPES if d.numpy == array.dtype), None)
    type_ = f"{short or quote(array.dtype.str)}[{','.join(map(str, array.shape))}]"
    numbers = format_numbers(array) if array.size <= SMALL else None
    if numbers is not None:
        return f"array<{type_}>{numbers}"
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode()
    if array.size > SMALL:
        _arrays[array.dtype.str, array.shape, data] = array
    return f'bytes<{type_}>"{data}"'


def format_numbers(array: np.ndarray) -> str | None:
    """The elements in row-major order, each in the fewest digits; None where decimals would lose a bit (a NaN's)."""
    texts = []
    for element in array.reshape(-1):
        short = str(element.item())
        if array.dtype == np.float32 and np.float32(float(str(element))) == element:
            short = repr(float(str(element)))  # 0.1 rather than 0.10000000149011612
        texts.append(short if isfinite(element) else f"float({short})")
    text = f"({', '.join(texts)}{',' if len(texts) == 1 and array.ndim else ''})"
    again = Scanner(text).numbers(array.dtype, array.shape)
    return text if again is not None and again.tobytes() == array.tobytes() else None


def _function_name(function: Callable[..., Any]) -> str:
    own = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
    base = re.sub(r"[^\w.]", "", own).strip(".")
    name, number = base, 0
    while (known := _functions.get(name)) is not None and known is not function:
        number += 1
        name = f"{base}.{number}"
    try:
        _functions[name] = function
    except TypeError:
        raise GraphError(f"{base} has no text: it cannot be found again by name; wrap it in a function") from None
    return name


# -- reading ---------------------------------------------------------------------------------------------------------


class Scanner(Tokens):
    """Reads values: each of the kinds that `format_value` writes.

    cells      those that a text has declared, by name
    functions  those that a text may name
    """

    def __init__(self, text: str, functions: dict[str, Any] | None = None) -> None:
        self.cells: dict[str, Cell] = {}
        self.functions = functions or {}
        super().__init__(text)

    # -- values ------------------------------------------------------------------------------------------------

    def value(self) -> Any:
        """One value, as `format_value` writes it."""
        if self.kind == "string":
            return self.take("string", "a string")
        if self.kind == "number" or self.at("-") or self.at("float"):
            return self.number()
        if self.kind == "name":
            return self._reference()
        if self.accept("("):
            return self._tuple()
        if self.accept("["):
            return self._size_value()
        if self.accept("<"):
            found = self._type_or_dtype()
            self.expect(">")
            return found
        for word, constant in (("None", None), ("True", True), ("False", False)):
            if self.accept(word):
                return constant
        if self.at("array") or self.at("bytes"):
            return self._array()
        raise self.fail(f"expected a value, got {self.shown()}; values are numbers, \"strings\", None, True, False, [sizes], "
                        "<types>, array<...>(...), @cells and (tuples)")

    def number(self) -> int | float:
        """An integer or a float with its sign, or float(nan)."""
        start = self.start
        if self.accept("float"):
            self.expect("(")
            negative = self.accept("-")
            word = self.take("word", "nan or inf")
            if word not in ("nan", "inf"):
                raise self.fail(f"expected nan or inf, got '{word}'", start)
            self.expect(")")
            return -float(word) if negative else float(word)
        negative = self.accept("-")
        text = self.take("number", "a number")
        try:
            value = int(text) if text.isdigit() else float(text)
        except ValueError:
            raise self.fail(f"no number: {text[:40]}", start) from None
        return -value if negative else value

    def _reference(self) -> Any:
        sigil, name = self.token[0], self.value_text
        if sigil == "@" and name in self.cells:
            self.advance()
            return self.cells[name]
        found = self.functions.get(name, _functions.get(name)) if sigil == "&" else None
        if found is None:
            raise self.fail({"@": f"@{name} is not declared above; write: parameter @{name} : f32[2,3]",
                             "&": f"no function is known as &{name}; bind it: parse(text, {{{name!r}: function}})",
                             "%": f"%{name} is a node and no attribute"}[sigil])
        self.advance()
        return found

    def _tuple(self) -> tuple[Any, ...]:
        """The rest of a tuple, behind its opening parenthesis."""
        self.deeper()
        items = []
        while not self.accept(")"):
            items.append(self.value())
            if not self.accept(",") and not self.at(")"):
                raise self.fail(f"a tuple is not closed: expected ',' or ')', got {self.shown()}")
        self.depth -= 1
        return tuple(items)

    def _size_value(self) -> Any:
        """The rest of a size, behind its opening bracket; with a colon, a quotient that stands alone."""
        value: Any = self.size()
        if self.accept(":"):
            value = Quotient(value, self.size())
        self.expect("]")
        return value

    # -- sizes and types ---------------------------------------------------------------------------------------

    def size(self) -> Size:
        """A size: integers, names, + - * // and parentheses."""
        self.deeper()
        total = 0 - self._product() if self.accept("-") else self._product()
        while self.at("+") or self.at("-"):
            total = self._bounded(total + self._product() if self.advance() == "+" else total - self._product())
        self.depth -= 1
        return total

    def _product(self) -> Size:
        value = self._atom()
        while self.at("*") or self.at("//"):
            if self.advance() == "*":
                right = self._atom()
                if _length(value) * _length(right) > TERMS:
                    raise self.fail(f"no size: more than {TERMS} terms")
                value = self._bounded(value * right)
            else:
                right = self._atom()
                if right == 0:
                    raise self.fail("no size: a division by zero")
                value = value // right
        return value

    def _bounded(self, size: Size) -> Size:
        terms = size.terms if isinstance(size, Dim) else (((), size),)
        if len(terms) > TERMS or any(abs(f) >= 10 ** DIGITS or len(m) > DEPTH for m, f in terms):
            raise self.fail("no size: it is too large")
        return size

    def _atom(self) -> Size:
        if self.kind == "word":
            return Dim.named(self.advance())
        if self.kind == "number" and self.token.isdigit() and len(self.token) <= DIGITS:
            return int(self.advance())
        if self.accept("("):
            size = self.size()
            self.expect(")")
            return size
        raise self.fail(f"no size: {self.shown()}; a size is a number, a name, or + - * // of them")

    def _type_or_dtype(self) -> DType | TensorType:
        if self.kind != "word" or self.token not in _SHORT:
            raise self.fail(f"no tensor type: {self.shown()}; write one like f32[batch,2]; element types are "
                            f"{', '.join(_SHORT)}")
        dtype = _SHORT[self.advance()]
        return TensorType(dtype, self._shape()) if self.at("[") else dtype

    def _shape(self) -> tuple[Size, ...]:
        self.expect("[")
        sizes: list[Size] = []
        while not self.accept("]"):
            if sizes:
                self.expect(",")
            sizes.append(self.size())
            if isinstance(sizes[-1], int) and sizes[-1] < 0:
                raise self.fail(f"a size cannot be negative: {sizes[-1]}")
        return tuple(sizes)

    def type(self) -> TensorType:
        """A tensor type: ``f32[batch,2]``."""
        found = self._type_or_dtype()
        if isinstance(found, DType):
            raise self.fail(f"no tensor type: {found} needs a shape; a scalar is {found}[]")
        return found

    # -- arrays ------------------------------------------------------------------------------------------------

    def _array(self) -> np.ndarray:
        start, form = self.start, self.advance()
        self.expect("<")
        dtype = self._other_dtype() if self.kind == "string" else None
        type_ = self.type() if dtype is None else TensorType(DTYPES[0], self._shape())
        if type_.is_open:
            raise self.fail("an array needs known sizes", start)
        dtype, shape = dtype or type_.dtype.numpy, tuple(int(s) for s in type_.shape)
        self.expect(">")
        array = self.numbers(dtype, shape) if form == "array" else self._bytes(dtype, shape)
        if array is None:
            raise self.fail(f"these are not the elements of {dtype}[{','.join(map(str, shape))}]", start)
        return array

    def _other_dtype(self) -> np.dtype:
        """An element type of arrays that tensors do not have."""
        text = self.take("string", "an element type")
        if re.fullmatch(r"[<>|][biuf][1248]", text) is None or text in ("<f1", ">f1", "|f1"):
            raise self.fail(f"{text!r} is no element type of an array")
        return np.dtype(text)

    def numbers(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray | None:
        """Elements in row-major order in parentheses; None where they are not those of such an array."""
        self.expect("(")
        found = self._tuple()
        kinds = {"f": (float, int), "b": (bool,)}.get(dtype.kind, (int,))
        size = 1
        for s in shape:
            size *= s
        if len(found) != size or not all(isinstance(v, kinds) and isinstance(v, bool) == (dtype.kind == "b") for v in found):
            return None
        try:
            with np.errstate(over="ignore"):
                return np.array(found, dtype).reshape(shape)
        except (OverflowError, ValueError):
            return None

    def _bytes(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray | None:
        data = self.take("string", 'bytes in base64, like "AAAA"')
        known = _arrays.get((dtype.str, shape, data))
        if known is not None:
            return known
        try:
            raw = base64.b64decode(data, validate=True)
            return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape).astype(dtype)
        except (binascii.Error, ValueError):
            return None


def _length(size: Size) -> int:
    return len(size.terms) if isinstance(size, Dim) else 1


def parse_type(text: str) -> TensorType:
    """The tensor type ``f32[batch,2]``."""
    try:
        scanner = Scanner(text)
        found = scanner.type()
        scanner.end()
    except GraphError as error:
        reason = str(error).splitlines()[0].removeprefix("line 1: ").removeprefix("no tensor type: ").partition(";")[0]
        raise GraphError(f"no tensor type: {text!r}: {reason}; write one like f32[batch,2]") from None
    return found
