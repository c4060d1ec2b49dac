"""Values as text and back: numbers, strings, tuples, sizes, types, arrays and references to cells and functions.

Knows how one attribute value is spelled and read, exactly in both directions.  Must not know graphs or ops.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import GraphError
from .ir import Cell
from .types import DTYPES, Dim, DType, Quotient, Shape, Size, TensorType

INLINE = 16  # arrays of up to this many elements are spelled in decimal
DEPTH = 64  # nesting of values and graphs
TERMS = 1024  # terms of a size: a longer polynomial is no size that anyone means
INPUT_NAME = re.compile(r"[^\W\d][\w.\-$]*|\d+")
_DTYPES = {d.short: d for d in DTYPES}
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "nan": float("nan"), "inf": float("inf")}
_RESERVED = {*_DTYPES, *_WORDS, "size", "quotient", "array", "graph"}

# Large constants are compared by identity: an array that was printed is found again by its bytes while it is alive.
_printed: weakref.WeakValueDictionary[tuple[str, tuple[int, ...], str], np.ndarray] = weakref.WeakValueDictionary()
_functions: weakref.WeakValueDictionary[str, Callable[..., Any]] = weakref.WeakValueDictionary()

# -- writing ---------------------------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """A JSON string; characters that cannot be encoded are escaped."""
    return json.dumps(text, ensure_ascii=any(0xD800 <= ord(c) <= 0xDFFF for c in text))


def write_name(name: str) -> str:
    """A name as it stands behind % or @: bare where it can be, else quoted."""
    return name if INPUT_NAME.fullmatch(name) else quote(name)


def write_size(size: Size) -> str:
    """A size as an expression: ``4``, ``2*batch+1``, ``(batch+1)//2``."""
    if not isinstance(size, Dim):
        return str(int(size))
    text = ""
    for monomial, factor in sorted(size.terms, key=lambda item: -len(item[0])):  # the number comes last
        atoms = [_write_atom(atom) for atom in monomial]
        if abs(factor) != 1 or not atoms:
            atoms.insert(0, str(abs(factor)))
        text += ("-" if factor < 0 else "+" if text else "") + "*".join(atoms)
    return text


def _write_atom(atom: str | Quotient) -> str:
    if isinstance(atom, str):
        return atom if atom.isidentifier() else quote(atom)
    return f"({_group(atom.numerator)}//{_group(atom.denominator)})"


def _group(size: Size) -> str:
    text = write_size(size)
    return text if re.fullmatch(r"\w+|\(.*\)", text) and text.count("(") < 2 else f"({text})"


def write_type(type_: TensorType) -> str:
    """A tensor type: ``f32[batch,2]``."""
    return f"{type_.dtype}[{','.join(map(write_size, type_.shape))}]"


def write_value(value: Any, cell_name: Callable[[Cell], str], limit: int | None = None) -> str:
    """An attribute's value.  Arrays of more than `limit` elements are abbreviated, which cannot be read back."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, tuple):
        inner = ", ".join(write_value(v, cell_name, limit) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, DType):
        return value.short
    if isinstance(value, TensorType):
        return write_type(value)
    if isinstance(value, Dim):
        bare = not _RESERVED & value.names() and all(n.isidentifier() for n in value.names())
        return write_size(value) if bare else f"size({write_size(value)})"
    if isinstance(value, Quotient):
        return f"quotient({write_size(value.numerator)}, {write_size(value.denominator)})"
    if isinstance(value, np.ndarray):
        return f"array({_write_array_type(value)}, {write_elements(value, limit)})"
    if isinstance(value, Cell):
        return f"@{write_name(cell_name(value))}"
    if callable(value):
        return f"&{write_name(function_name(value))}"
    raise GraphError(f"no text for a value of type {type(value).__name__}; attributes are numbers, strings, sizes, "
                     "types, arrays, cells, functions and tuples of them")


def function_name(function: Callable[..., Any]) -> str:
    """The name under which a function is printed; reading in the same process finds it again while it is alive."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", type(function).__name__)
    base = f"{module}.{name}".replace("<", "").replace(">", "").strip(".")
    name, number = base, 0
    while (known := _functions.get(name)) is not None and known is not function:
        number += 1
        name = f"{base}.{number}"
    try:
        _functions[name] = function
    except TypeError as error:
        raise GraphError(f"the function {base} cannot be printed by name ({error}); wrap it in a def") from None
    return name


def _write_array_type(array: np.ndarray) -> str:
    short = next((d.short for d in DTYPES if d.numpy == array.dtype), None)
    sizes = ",".join(map(str, array.shape))
    return f"{short or quote(array.dtype.str)}[{sizes}]"


def write_elements(array: np.ndarray, limit: int | None = None) -> str:
    """The elements: decimal where there are few, else their bytes in base64 (little-endian, row-major)."""
    if array.size <= INLINE:
        text = _write_nested(array)
        again = _decimal(_loads(text), array.dtype, array.shape)
        if again is not None and again.tobytes() == array.tobytes():
            return text
    elif limit is not None and array.size > limit:
        return "..."
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    text = base64.b64encode(little.tobytes()).decode()
    try:
        _printed[array.dtype.str, array.shape, text] = array
    except TypeError:
        pass  # a subclass that cannot be referenced weakly is read back as a new array
    return f'base64"{text}"'


def _write_nested(array: np.ndarray) -> str:
    if array.ndim:
        return "[" + ", ".join(_write_nested(part) for part in array) + "]"
    value = array.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if array.dtype == np.float32 and np.isfinite(value):
        short = repr(float(str(array[()])))
        return short if np.float32(float(short)) == array else repr(value)
    return repr(value)


def _loads(text: str) -> Any:
    scanner = Scanner(text)
    return scanner.nested()


def _decimal(values: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array that nested numbers spell, None where they do not fit type and shape."""
    try:
        with np.errstate(all="ignore"):
            array = np.array(values, dtype=object)
            if array.size == 0 and 0 in shape:
                return np.zeros(shape, dtype)
            wanted = {"f": (float, int), "i": (int,), "u": (int,), "b": (bool,)}[dtype.kind]
            fits = all(isinstance(v, wanted) and isinstance(v, bool) == (dtype.kind == "b") for v in array.flat)
            return array.astype(dtype) if fits and array.shape == shape else None
    except (ValueError, TypeError, OverflowError, KeyError):
        return None


# -- reading ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"""
    (?P<space>[ \t\r\n]+|\#[^\n]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)
  | (?P<name>[%@&](?:[^\W\d][\w.\-$]*|\d+|(?=")))
  | (?P<word>[^\W\d]\w*)
  | (?P<mark>//|\.\.\.|[()\[\]{},:=+\-*])
""", re.VERBOSE)


class Scanner:
    """Reads text token by token; every error is a GraphError with the line."""

    def __init__(self, text: str, source: str = "text") -> None:
        self.text, self.source, self.place, self.depth = text, source, 0, 0
        self.kind, self.token, self.start, self.value = "", "", 0, ""
        self.cells: dict[str, Cell] = {}
        self.functions: dict[str, Any] = {}
        self.advance()

    def fail(self, message: str, start: int | None = None) -> GraphError:
        """The error for the current token (or a place); to be raised."""
        at = self.start if start is None else start
        line = self.text.count("\n", 0, at) + 1
        first = self.text.rfind("\n", 0, at) + 1
        last = self.text.find("\n", at)
        shown = self.text[first:last if last >= 0 else len(self.text)].strip()
        return GraphError(f"{self.source}, line {line}: {message}\n    {shown[:160]}")

    def advance(self) -> str:
        """Moves on by one token and returns the one left behind."""
        behind = self.token
        while True:
            self.start = self.place
            if self.place == len(self.text):
                self.kind = self.token = self.value = ""
                return behind
            match = _TOKEN.match(self.text, self.place)
            if match is None:
                character = self.text[self.place]
                reason = "a string without its end" if character == '"' else f"unexpected character {character!r}"
                raise self.fail(f"{reason}; strings and names stand between double quotes on one line")
            self.place = match.end()
            if match.lastgroup != "space":
                break
        self.kind, self.token = str(match.lastgroup), match.group()
        self.value = self.token[1:] if self.kind == "name" else self.token
        if self.kind == "name" and not self.value:  # %"any name"
            match = _TOKEN.match(self.text, self.place)
            if match is None or match.lastgroup != "string":
                raise self.fail("a name is expected behind % or @, bare or between double quotes")
            self.place = match.end()
            self.token, self.value = self.token + match.group(), self._unquote(match.group())
        elif self.kind == "string":
            self.value = self._unquote(self.token)
        return behind

    def _unquote(self, text: str) -> str:
        try:
            return str(json.loads(text, strict=False))
        except ValueError as error:
            raise self.fail(f"a broken string: {error}") from None

    def at(self, token: str) -> bool:
        return self.kind in ("mark", "word") and self.token == token

    def accept(self, token: str) -> bool:
        """Moves over the token where it is next."""
        if self.at(token):
            self.advance()
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.fail(f"expected '{token}', got {self.described()}")

    def described(self) -> str:
        return f"'{self.token[:40]}'" if self.token else "the end of the text"

    def name(self, sigil: str, what: str) -> str:
        """The name behind % or @."""
        if self.kind != "name" or not self.token.startswith(sigil):
            raise self.fail(f"expected {what} ({sigil}name), got {self.described()}")
        value = self.value
        self.advance()
        return value

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEPTH:
            raise self.fail(f"more than {DEPTH} levels of nesting")

    # -- values ------------------------------------------------------------------------------------------------

    def attribute(self) -> Any:
        """One attribute value."""
        value = self._value()
        if isinstance(value, (int, Dim)) and not isinstance(value, bool) and (self.kind == "mark" and
                                                                              self.token in ("+", "-", "*", "//")):
            return self.size(value)
        return value

    def _value(self) -> Any:
        if self.kind == "string":
            value = self.value
            self.advance()
            return value
        if self.kind == "number" or self.at("-"):
            return self.number()
        if self.kind == "name":
            return self._reference()
        if self.at("("):
            return self._parenthesis()
        if self.kind == "word":
            return self._word()
        raise self.fail(f"expected a value, got {self.described()}; values are numbers, \"strings\", true, false, none, "
                        "sizes, types like f32[2], array(...), @cells and (tuples)")

    def number(self) -> Any:
        """An integer or a float, with its sign; nan and inf too."""
        negative = self.accept("-")
        start = self.start
        if self.kind == "word" and self.token in ("nan", "inf"):
            value: Any = _WORDS[self.advance()]
        elif self.kind == "word" and negative:
            return self._product(-1)  # the first term of a size
        elif self.kind == "number":
            text = self.advance()
            try:
                value = int(text) if text.isdigit() else float(text)
            except ValueError as error:
                raise self.fail(f"no number: {error}", start) from None
        else:
            raise self.fail(f"expected a number, got {self.described()}")
        return -value if negative else value

    def _reference(self) -> Any:
        start, sigil, name = self.start, self.token[0], self.value
        self.advance()
        if sigil == "@":
            if name not in self.cells:
                raise self.fail(f"@{name} is not declared; declare it before: parameter @{name} : f32[...]", start)
            return self.cells[name]
        if sigil == "&":
            found = self.functions.get(name, _functions.get(name))
            if found is None:
                raise self.fail(f"the function &{name} is not known here; bind it: "
                                f"parse(text, bind={{{name!r}: function}})", start)
            return found
        raise self.fail(f"%{name} is a value of the graph and no attribute", start)

    def _parenthesis(self) -> Any:
        """A tuple, or a size in parentheses: one-element tuples have a comma behind the element."""
        self.expect("(")
        self.deeper()
        values: list[Any] = []
        comma = True
        while not self.at(")"):
            if not comma:
                raise self.fail(f"expected ',' or ')', got {self.described()}")
            values.append(self.attribute())
            comma = self.accept(",")
        self.expect(")")
        self.depth -= 1
        if len(values) == 1 and not comma:
            if not _is_size(values[0]):
                raise self.fail("parentheses around one value: write (value,) for a tuple of one element")
            return values[0]
        return tuple(values)

    def _word(self) -> Any:
        word = self.token
        if word in _DTYPES:
            return self.type_or_dtype()
        if word in _WORDS:
            self.advance()
            return _WORDS[word]
        if word == "size" and self._before("("):
            self.advance()
            self.expect("(")
            value = self.size()
            self.expect(")")
            return value
        if word == "quotient" and self._before("("):
            self.advance()
            self.expect("(")
            numerator = self.size()
            self.expect(",")
            denominator = self.size()
            self.expect(")")
            return Quotient(numerator, denominator)
        if word == "array":
            self.advance()
            self.expect("(")
            dtype, shape = self._array_type()
            self.expect(",")
            value = self.elements(dtype, shape)
            self.expect(")")
            return value
        return self.size()

    def _before(self, mark: str) -> bool:
        return self.text.startswith(mark, self.place)

    # -- sizes and types ---------------------------------------------------------------------------------------

    def size(self, first: Size | None = None) -> Size:
        """A size expression with + - * //; `first` is a factor that was read already."""
        total = self._product(1, first) if first is not None or not self.accept("-") else self._product(-1)
        while self.kind == "mark" and self.token in ("+", "-"):
            sign = -1 if self.advance() == "-" else 1
            total = self._bounded(total + self._product(sign))
        return total

    def _product(self, sign: int, first: Size | None = None) -> Size:
        value = first if first is not None else self._atom()
        while self.kind == "mark" and self.token in ("*", "//"):
            start = self.start
            operator, right = self.advance(), self._atom()
            if operator == "*":
                if _length(value) * _length(right) > TERMS:
                    raise self.fail("a size with too many terms", start)
                value = self._bounded(value * right)
            else:
                if right == 0:
                    raise self.fail("a size divided by zero", start)
                value = value // right
        return value * sign if sign != 1 else value

    def _bounded(self, size: Size) -> Size:
        if _length(size) > TERMS or (isinstance(size, int) and abs(size) >= 1 << 63):
            raise self.fail("a size that is too large")
        return size

    def _atom(self) -> Size:
        if self.kind in ("word", "string") and self.value:
            value = Dim.named(self.value)
            self.advance()
            return value
        if self.kind == "number" and self.token.isdigit() and len(self.token) < 20:
            return self._bounded(int(self.advance()))
        if self.accept("("):
            self.deeper()
            size = self.size()
            self.expect(")")
            self.depth -= 1
            return size
        raise self.fail(f"expected a size, got {self.described()}; a size is a number, a name, or + - * // of them")

    def shape(self) -> Shape:
        """Sizes in brackets."""
        self.expect("[")
        sizes: list[Size] = []
        while not self.at("]"):
            if sizes:
                self.expect(",")
            start = self.start
            size = self.size()
            if isinstance(size, int) and size < 0:
                raise self.fail(f"a size cannot be negative, got {size}", start)
            sizes.append(size)
        self.expect("]")
        return tuple(sizes)

    def type_or_dtype(self) -> DType | TensorType:
        if self.kind != "word" or self.token not in _DTYPES:
            raise self.fail(f"expected a type like f32[2,3], got {self.described()}; element types are "
                            f"{', '.join(_DTYPES)}")
        dtype = _DTYPES[self.advance()]
        return TensorType(dtype, self.shape()) if self.at("[") else dtype

    def type(self) -> TensorType:
        """A tensor type; its shape may not be left out."""
        found = self.type_or_dtype()
        if isinstance(found, DType):
            raise self.fail(f"a type needs a shape: {found}[] is a scalar")
        return found

    # -- arrays ------------------------------------------------------------------------------------------------

    def _array_type(self) -> tuple[np.dtype, tuple[int, ...]]:
        if self.kind == "string":
            text = self.value
            self.advance()
            if not re.fullmatch(r"[<>|][biuf]\d{1,2}", text):
                raise self.fail(f"{text!r} is no element type of an array")
            try:
                return np.dtype(text), self.fixed(self.shape())
            except TypeError as error:
                raise self.fail(str(error)) from None
        type_ = self.type()
        return type_.dtype.numpy, self.fixed(type_.shape)

    def fixed(self, shape: Shape) -> tuple[int, ...]:
        """The shape of an array: no open sizes."""
        if any(isinstance(s, Dim) for s in shape):
            raise self.fail("an array has no open sizes; give numbers")
        return tuple(int(s) for s in shape)

    def elements(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """The elements of an array, in decimal or in base64."""
        start = self.start
        if self.accept("..."):
            raise self.fail("abbreviated elements cannot be read; print the graph with limit=None", start)
        if self.accept("base64"):
            if self.kind != "string":
                raise self.fail(f'expected base64"...", got {self.described()}')
            text = self.value
            known = _printed.get((dtype.str, shape, text))
            if known is None:
                known = self._decoded(text, dtype, shape)
            self.advance()
            return known
        array = _decimal(self.nested(), dtype, shape)
        if array is None:
            raise self.fail(f"the elements do not fit {dtype.name}[{','.join(map(str, shape))}]", start)
        return array

    def _decoded(self, text: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        try:
            data = base64.b64decode(text, validate=True)
            return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape).astype(dtype)
        except (binascii.Error, ValueError) as error:
            raise self.fail(f"the bytes are not those of {dtype.name}[{','.join(map(str, shape))}]: {error}") from None

    def nested(self) -> Any:
        """Numbers, true and false in nested brackets."""
        if not self.accept("["):
            if self.kind == "word" and self.token in ("true", "false"):
                return self.advance() == "true"
            return self.number()
        self.deeper()
        values = []
        while not self.at("]"):
            if values:
                self.expect(",")
            values.append(self.nested())
        self.expect("]")
        self.depth -= 1
        return values


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, Dim)) and not isinstance(value, bool)


def _length(size: Size) -> int:
    return len(size.terms) if isinstance(size, Dim) else 1
