"""The C header of exported programs: what somebody reads who calls them.

Knows C's names and types.  Must not know graphs, or how code is made.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from textwrap import wrap

from .records import NamedTuple
from .types import TensorType

TYPES = {"float32": "float", "float64": "double", "int32": "int32_t", "int64": "int64_t", "bool": "uint8_t"}
WORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int long register restrict
return short signed sizeof static struct switch typedef union unsigned void volatile while main
alignas alignof and and_eq asm bitand bitor bool catch char8_t char16_t char32_t class compl concept consteval constexpr
constinit const_cast co_await co_return co_yield decltype delete dynamic_cast explicit export false friend mutable namespace
new noexcept not not_eq nullptr operator or or_eq private protected public reinterpret_cast requires static_assert
static_cast template this thread_local throw true try typeid typename using virtual wchar_t xor xor_eq
"""
KEYWORDS = frozenset(WORDS.split())  # of C99 and C++20
WIDTH = 100


class Array(NamedTuple):
    """What a function reads or writes: its name in C, its type, the name that the program gives it."""

    name: str
    type: TensorType
    said: str

    @property
    def stride(self) -> str:
        return f"{self.name.rstrip('_')}_stride"

    @property
    def shape(self) -> str:
        return "".join(f"[{size}]" for size in self.type.shape) or "[1]"


class Function(NamedTuple):
    """A program in C.  updates: whether it changes the state."""

    name: str
    inputs: Sequence[Array]
    outputs: Sequence[Array]
    updates: bool


class Place(NamedTuple):
    """Where the state has a parameter or state: the end of its macro's name, its type, the name in `state_dict`, bytes."""

    name: str
    type: TensorType
    said: str
    offset: int


class Header(NamedTuple):
    """All that a header says.

    sizes      of open dimensions, as text
    machine    for what the object file is
    externals  what it takes from the C library
    """

    prefix: str
    functions: Sequence[Function]
    places: Sequence[Place]
    state_bytes: int
    scratch_bytes: int
    alignment: int
    sizes: str
    machine: str
    externals: Sequence[str]
    version: str


def identifier(text: str, taken: Container[str] = ()) -> str:
    """The text as a name in C and C++ that is not taken."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", text) or "_"
    if name[0].isdigit() or name in KEYWORDS:
        name = f"_{name}" if name[0].isdigit() else f"{name}_"
    number, result = 2, name
    while result in taken:
        number, result = number + 1, f"{name}_{number}"
    return result


def is_identifier(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*", text)) and text not in KEYWORDS


def comment(text: str) -> str:
    """What may stand in a comment."""
    return " ".join(text.replace("*/", "* /").replace("/*", "/ *").split())


def paragraph(text: str) -> list[str]:
    """Lines of a comment."""
    return [f" * {line}" for line in wrap(comment(text), WIDTH - 3)]


def header_text(h: Header) -> str:
    """The header file."""
    macro = h.prefix.upper()
    guard = f"{macro}_H"
    numbers = [(f"{macro}_STATE_BYTES", h.state_bytes, "parameters, optimizer state, counters"),
               (f"{macro}_SCRATCH_BYTES", h.scratch_bytes, "what any call here needs beside; its contents never matter"),
               (f"{macro}_ALIGNMENT", h.alignment, "of the addresses of both")]
    body = [*introduction(h), f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", "",
            *defines(numbers), "", "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
            "/* Gives the state its first values: those of the time of export. */", f"void {h.prefix}_init(void *state);", ""]
    for function in h.functions:
        body += [*declaration(function, one=True), "", *declaration(function, one=False), ""]
    body += ["#ifdef __cplusplus", "}", "#endif", ""]
    if h.places:
        example = h.places[0]
        body += ["/* Where the state has what, in bytes from its beginning:",
                 f" * ({TYPES[example.type.dtype.name]} *)((char *)state + {macro}_AT_{example.name}) points to it.", " */"]
        body += [*defines([(f"{macro}_AT_{p.name}", p.offset, described(p)) for p in h.places]), ""]
    return "\n".join([*body, f"#endif /* {guard} */", ""])


def introduction(h: Header) -> list[str]:
    """The comment at the top."""
    first = next((f for f in h.functions if f.updates), h.functions[0])
    given = ", ".join(["state", "scratch", *(a.name for a in (*first.inputs, *first.outputs))])
    wanted = f"takes {', '.join(h.externals)} from the C library" if h.externals else "needs no library"
    if any(name.startswith("fma") for name in h.externals):
        wanted += " (fma is in libm: -lm)"
    return [
        f"/* {h.prefix}: made by graphc {h.version}{f' for {comment(h.sizes)}' if h.sizes else ''}.", " *",
        *paragraph(f"Link {h.prefix}.o, which is code for {h.machine}. It {wanted}, allocates nothing, starts no threads "
                   "and has no variables of its own: all memory is yours."), " *",
        f" *     {h.prefix}_init(state);",
        *(f" *     {line}" for line in wrap(f"{first.name}({given});", WIDTH - 8, subsequent_indent="        ")), " *",
        *paragraph("The state's bytes are all that there is to save and restore. Calls may run at the same time where they "
                   "share neither state nor scratch. Arrays are row by row, as in C; those that a call writes must not "
                   "overlap others. Results are bit for bit those of graphc itself on a processor of this kind."), " *",
        *paragraph("The functions that end in _run do several steps in one call, bit for bit as one by one. Each array is "
                   "followed by its stride: by how many elements it moves from step to step; 0 where it is the same "
                   "array in every step."), " */"]


def defines(rows: Sequence[tuple[str, int, str]]) -> list[str]:
    """Numbers with comments, in columns."""
    left = max(len(name) for name, _, _ in rows)
    right = max(len(str(number)) for _, number, _ in rows)
    return [f"#define {name:{left}} {number:<{right}} /* {comment(said)} */" for name, number, said in rows]


def described(place: Place) -> str:
    shape = "".join(f"[{size}]" for size in place.type.shape)
    return f"{TYPES[place.type.dtype.name]}{f' {shape}' if shape else ''}: {place.said}"


def declaration(f: Function, one: bool) -> list[str]:
    """The prototype of one step, or of several, with what it does."""
    if one:
        gives = f"writes {', '.join(a.name for a in f.outputs)}" if f.outputs else ""
        does = "updates the state" if f.updates else "leaves the state as it is"
        head = [f"/* One step: {f'{gives} and {does}' if gives else does}. */"]
    else:
        head = ["/* The same, several times. */"]
    state = "void *state" if f.updates else "const void *state"
    open_ = f"void {f.name}{'' if one else '_run'}("
    lines = [f"{open_}{state}, void *scratch{'' if one else ', int64_t steps'}"]
    for array, written in (*((a, False) for a in f.inputs), *((a, True) for a in f.outputs)):
        text = f"{'' if written else 'const '}{TYPES[array.type.dtype.name]} *{array.name}"
        text += f" /* {array.shape} */" if one else f", int64_t {array.stride}"
        lines.append(" " * len(open_) + text)
    return [*head, *(f"{line}," for line in lines[:-1]), f"{lines[-1]});"]
