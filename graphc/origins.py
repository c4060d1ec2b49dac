"""Where nodes come from: the user's line, the phase of a step, and the module that was called.

Knows frames of Python and which of them are graphc's own.  Must not know nodes.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import FrameType
from typing import NamedTuple

# as files are named and as they lie: an installation may consist of links
_HERE = {os.path.dirname(spelled(__file__)) for spelled in (os.path.abspath, os.path.realpath)}
_OWN = tuple(os.path.join(folder, "") for here in _HERE for folder in (
    here, *(os.path.join(os.path.dirname(here), name) for name in ("passes", "runtime"))))


class Origin(NamedTuple):
    """A line of the user's own code."""

    file: str
    line: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{self.file}:{self.line}" + (f"   {text}" if text else "")


_own_files: set[str] = set()  # files of code that are known to be graphc's
_caller: ContextVar[tuple[Origin | None] | None] = ContextVar("caller", default=None)  # found already


def is_own(function: Callable[..., object]) -> bool:
    """Whether a function is graphc's, and no code of the user's."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(_OWN)


@contextmanager
def from_one_line() -> Iterator[None]:
    """No code of the user's runs inside: the line that called is found once."""
    token = _caller.set((user_origin(),))
    try:
        yield
    finally:
        _caller.reset(token)


@contextmanager
def from_nobody() -> Iterator[None]:
    """What runs inside was not called by code of the user's, but by a command."""
    token = _caller.set((None,))
    try:
        yield
    finally:
        _caller.reset(token)


def user_origin() -> Origin | None:
    """The innermost frame outside graphc; None where there is none."""
    known = _caller.get()
    if known is not None:
        return known[0]
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file not in _own_files:
            if not (file.startswith(_OWN) or file == contextlib.__file__):
                return _origin(file, frame.f_lineno)
            _own_files.add(file)
        frame = frame.f_back
    return None


@lru_cache(maxsize=4096)
def _origin(file: str, line: int) -> Origin:
    return Origin(file, line)


def at(origin: Origin | None) -> str:
    """The line that an error message ends with."""
    return f"\n  at {origin}" if origin else ""


phase: ContextVar[str] = ContextVar("phase", default="forward")  # forward, gradient or update: for pictures only
scope: ContextVar[str] = ContextVar("scope", default="")  # path of the module being called
each_step: ContextVar[str] = ContextVar("each_step", default="")  # what is being written down now, for every step to do anew


@contextmanager
def building(variable: ContextVar[str], value: str) -> Iterator[None]:
    """Nodes made inside carry this phase or scope."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
