"""The cheapest call of a native function from Python.

Knows CPython's way to make a built-in function of an address.  Must not know what is called.

A call through ctypes costs 0.15 to 0.4 us, as much as a small training step.  CPython itself calls a C function of
two pointers in a tenth of that (20 ns, 55 with its lock released), so a bound call is such a built-in function: its C
function is generated here, and its `self` is a bytes object that holds what to call.  Other Pythons get the ctypes
call.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphc.runtime.native import kept
from graphc.runtime.native.once import once
from graphc.runtime.native.values import Value, i64

if TYPE_CHECKING:
    from .emit import Function
    from .image import Addresses
    from .jit import Code

METH_NOARGS = 4  # methodobject.h, part of the stable ABI
WORDS = struct.Struct("<6Q")  # function, argument, PyLong_FromLong, PyEval_SaveThread, PyEval_RestoreThread, spare
FUNCTION, ARGUMENT, MAKE_INT, SAVE, RESTORE = range(5)

_prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int),
                ("doc", ctypes.c_char_p))


class _Context(bytes):
    """The words of one bound call, and what has to stay alive with it."""

    keep: Any


def bind_call(address: int, argument: int, *, release_gil: bool = True, keep: Any = None) -> Callable[[], int]:
    """A function of no arguments that runs ``i32 f(ptr argument)`` at `address` and returns its result.

    release_gil: let other Python threads run meanwhile.  Without, a call is cheaper by some 35 ns, but everything
    else in the process stands still: for steps of a few microseconds at most.
    keep: an object that lives as long as the returned function: the code, the memory behind `argument`.
    """
    methods = _methods()
    if methods is None:
        function = _prototype(address)
        return functools.partial(_call, function, ctypes.c_void_p(argument), keep)
    python = ctypes.pythonapi
    addresses = [ctypes.cast(getattr(python, name), ctypes.c_void_p).value or 0
                 for name in ("PyLong_FromLong", "PyEval_SaveThread", "PyEval_RestoreThread")]
    context = _Context(WORDS.pack(address, argument, *addresses, 0))
    context.keep = keep
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
        ("PyCFunction_NewEx", python))
    bound: Callable[[], int] = make(ctypes.addressof(methods[1] if release_gil else methods[0]), context, None)
    return bound


def prepare() -> None:
    """Makes the code of bound calls, which the first one would make."""
    _methods()


def _call(function: Callable[[ctypes.c_void_p], int], argument: ctypes.c_void_p, _keep: Any) -> int:
    return function(argument)


@once
def _methods() -> tuple[_Method, _Method, Addresses] | None:
    """The two definitions, holding and releasing the interpreter's lock; they live for ever, as CPython demands."""
    if sys.implementation.name != "cpython":
        return None
    code = kept.code("calls", _compiled)
    holding, releasing = (_Method(b"run", code.address(name), METH_NOARGS, b"Run the bound native function.")
                          for name in ("call_holding", "call_releasing"))
    return holding, releasing, code


def _compiled() -> Code:
    from . import cache, jit
    from .emit import Module
    from .target import host

    module = Module()
    start = bytes.__basicsize__ - 1  # of a bytes object's contents: its basic size counts one terminating zero
    for name, release in (("call_holding", False), ("call_releasing", True)):
        function = module.function(name, [("self", "ptr"), ("unused", "ptr")], returns="ptr", internal=False)
        _write_call(function, function.offset(function.parameters[0], i64(start), "i8"), release)
    return jit.compile_module(module.text(), target=host(), name="calls", cache=cache.default())


def _write_call(function: Function, words: Value, release: bool) -> None:
    def word(index: int) -> Value:
        return function.load(function.offset(words, i64(index), "i64"), "ptr", align=8)

    if release:
        state = function.emit(f"call ptr {word(SAVE).name}()", "ptr")
    status = function.emit(f"call i32 {word(FUNCTION).name}({word(ARGUMENT)})", "i32")
    if release:
        function.do(f"call void {word(RESTORE).name}({state})")
    wide = function.convert("sext", status, "i64")  # a C long, of 4 or 8 bytes
    function.ret(function.emit(f"tail call ptr {word(MAKE_INT).name}({wide})", "ptr"))
