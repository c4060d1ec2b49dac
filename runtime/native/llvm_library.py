"""LLVM's library, opened beside what other threads do.

Knows where llvmlite has it, and how the system opens libraries.  Must not know what it is for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from importlib.util import find_spec

RTLD_NOW = 2


def open_library() -> None:
    """Opens the library where it is a file, without Python's lock.

    It has 180 MB, and opening it takes ten milliseconds.  llvmlite keeps all other threads from running Python meanwhile;
    if it is open already, only for a moment.  Whatever fails here, llvmlite will say.
    """
    with contextlib.suppress(Exception):
        from llvmlite.utils import get_library_name  # loads neither the library nor what calls it

        spec = find_spec("llvmlite")
        assert spec is not None and spec.origin is not None
        path = os.path.join(os.path.dirname(spec.origin), "binding", get_library_name())
        opens = ctypes.CDLL(None).dlopen  # functions that are called like this one give the lock away
        opens.argtypes, opens.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
        opens(os.fsencode(path), RTLD_NOW)
