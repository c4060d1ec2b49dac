"""Native code from LLVM text: kept, linked and loaded.

Knows the disk cache, the loader, and how a program comes in pieces.  Must not know graphs, plans or what a function
computes; text comes in, addresses go out.

Every module takes one road: it becomes the bytes of an object file, and these are loaded.  An object that comes from
the disk cache therefore behaves exactly as one that was just compiled.  A large program comes as several texts (`Unit`),
which several threads compile at once and the loader links.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import llvmlite.binding as llvm
from graphc.runtime.native import cache as disk
from graphc.runtime.native.codegen import (
    CompileError,
    Part,
    Unit,
    assembly_for,
    compile_text,
    initialize,
    optimised_text,
    put_away,
    without_strength_reduction,
)
from graphc.runtime.native.image import LOADS_HERE, Image, Loaded, LoadError, runtime_symbols
from graphc.runtime.native.linking import Unknown, link
from graphc.runtime.native.object_files import symbol_table
from graphc.runtime.native.parallel import Jobs
from graphc.runtime.native.target import Target

QUICKER = 4  # times as fast a text is compiled at level 0

_lock = threading.Lock()
_numbers = itertools.count(1)
_loader: Any = None  # the one LLJIT of this process, never disposed: objects point into it


class Code:
    """Loaded native code.  The addresses are valid as long as this object lives.

    objects   the object files that were linked
    image     all of them linked, as it can be kept; None where LLVM's loader does it
    symbols   the functions that have an address
    """

    def __init__(self, name: str, objects: Sequence[bytes], symbols: Sequence[str], target: Target,
                 source: Callable[[], Sequence[Unit]] | None, seconds: dict[str, float]) -> None:
        self.name, self.objects, self.symbols = name, tuple(objects), tuple(symbols)
        self.target, self.seconds = target, seconds
        self._source = source
        start = time.perf_counter()
        self.image = _image(self.objects, self.symbols)
        self._library = _load(name, self.image, self.objects, self.symbols)
        seconds["load"] = time.perf_counter() - start

    def address(self, symbol: str) -> int:
        """The entry address of an exported function.

        Raises: CompileError where the module has no such function.
        """
        if symbol not in self.symbols:
            raise CompileError(f"{self.name}: no function '{symbol}', only {', '.join(self.symbols) or 'none'}")
        return int(self._library[symbol])

    @property
    def llvm(self) -> str:
        """The optimised LLVM text, of each of its parts, made anew at each request: nobody pays for it who does not look."""
        return "\n".join(optimised_text(u.text, self.target, level=u.level, name=self.name) for u in self._units())

    def assembly(self) -> str:
        """The assembly text of this code, of each of its parts."""
        return "\n".join(assembly_for(u.text, self.target, level=u.level, name=self.name) for u in self._units())

    @property
    def externals(self) -> tuple[str, ...]:
        """What the objects call outside themselves; see `object_files.external_symbols`."""
        found = [symbol_table(data) for data in self.objects]
        return tuple(sorted(set().union(*(missing for _, missing in found)) - set().union(*(own for own, _ in found))))

    def _units(self) -> Sequence[Unit]:
        if self._source is None:
            raise CompileError(f"{self.name}: loaded without its LLVM text")
        return self._source()


def compile_module(text: str, *, target: Target, level: int = 2, name: str, cache: disk.Cache | None = None) -> Code:
    """Compile and load one LLVM module.

    text: LLVM IR; the target's triple and data layout are put in.  level: see `codegen.Unit`.  name: for messages.
    cache: where the object is looked for and kept; None compiles always.
    Raises: CompileError with LLVM's message for text that is not valid, or calls what is not there.
    """
    return compile_units((Unit(text, level),), target=target, name=name, cache=cache)


def compile_units(units: Sequence[Unit], *, target: Target, name: str, cache: disk.Cache | None = None,
                  exports: Sequence[str] | None = None, threads: int = 1) -> Code:
    """Compile and load a program that comes as several texts, up to `threads` at once.

    exports: as `Build.finish`.
    Raises: CompileError as `compile_module`.
    """
    with Build(target=target, name=name, cache=cache, threads=threads) as build:
        return build.finish(units, exports=exports, source=lambda: units)


class Build:
    """A program that is compiled while its texts are still being written.

        with Build(...) as build:
            build.add(unit)  ...
            code = build.finish(the_rest)

    cache: where objects are looked for and kept, each text's by itself; None compiles always.  threads: how many, the
    caller's among them, which works in `finish`.
    """

    def __init__(self, *, target: Target, name: str, cache: disk.Cache | None = None, threads: int = 1) -> None:
        self.target, self.name, self.cache = target, name, cache
        self._jobs = Jobs[Part](threads)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Build:
        initialize()
        self._open.enter_context(without_strength_reduction(self.target))
        self._open.enter_context(self._jobs)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        put_away()

    def add(self, unit: Unit, *, begin: bool = True) -> None:
        """Compile a text as soon as a thread is free; `begin`: see `Jobs.add`."""
        self._jobs.add(partial(self._part, unit), work(unit), begin=begin)

    def finish(self, units: Sequence[Unit] = (), *, exports: Sequence[str] | None = None,
               source: Callable[[], Sequence[Unit]] | None = None) -> Code:
        """The program of all texts, these the last, loaded.

        exports: the functions whose addresses are wanted; all that are not internal by default.  source: gives all texts
        again, for those who want to read what became of them.
        Raises: CompileError with LLVM's message for text that is not valid, or calls what is not there.
        """
        parts = self.parts(units)
        seconds = total_seconds(parts)
        symbols = tuple(symbol for part in parts for symbol in part.exported) if exports is None else exports
        try:
            return Code(self.name, [p.data for p in parts], symbols, self.target, source, seconds)
        except CompileError:
            if not any(part.unit for part in parts):
                raise
        made = [part if part.unit is None else self._compiled(part.unit) for part in parts]  # what is kept does not load
        return Code(self.name, [p.data for p in made], symbols, self.target, source, total_seconds(made))

    def parts(self, units: Sequence[Unit] = ()) -> list[Part]:
        """What all texts, these the last, became, in order; each function that one wants is there."""
        for unit in units:
            self.add(unit, begin=False)
        parts = self._jobs.results()
        missing = {n for p in parts for n in p.wanted} - {n for p in parts for n in p.exported} - set(runtime_symbols())
        if missing:
            raise CompileError(f"{self.name}: calls functions outside the module: {', '.join(sorted(missing))}")
        return parts

    def _part(self, unit: Unit) -> Part:
        """Of a text: from the cache where it is there."""
        if self.cache is None:
            return compile_text(unit, self.target, self.name)
        entry = self.cache.lookup(unit_key(unit, self.target))
        if entry is not None:
            with contextlib.suppress(KeyError):
                return Part(entry.data, entry.meta["symbols"], entry.meta["wanted"], {}, unit)
        return self._compiled(unit)

    def _compiled(self, unit: Unit) -> Part:
        part = compile_text(unit, self.target, self.name)
        if self.cache is not None:
            meta = {"name": self.name, "symbols": list(part.exported), "wanted": list(part.wanted)}
            self.cache.store(unit_key(unit, self.target), part.data, meta)
        return part


def work(unit: Unit) -> float:
    """What a text costs LLVM, beside others."""
    return len(unit.text) / (QUICKER if unit.level == 0 else 1)


def unit_key(unit: Unit, target: Target) -> bytes:
    """The key of the disk cache under which a text's object is kept."""
    return disk.key("module", unit.text, target, unit.level)


def total_seconds(parts: Sequence[Part]) -> dict[str, float]:
    """Of each phase, of all texts that were compiled."""
    phases = dict.fromkeys(phase for part in parts for phase in part.seconds)
    return {phase: sum(part.seconds.get(phase, 0.0) for part in parts) for phase in phases}


def load_object(data: bytes, *, symbols: Sequence[str], target: Target, name: str) -> Code:
    """Load object bytes that `compile_object` made for this target."""
    return Code(name, (data,), symbols, target, None, {})


def compile_object(text: str, *, target: Target, level: int = 2,
                   name: str) -> tuple[bytes, tuple[str, ...], dict[str, float]]:
    """(object bytes, exported functions, seconds of each phase) of one module, not loaded."""
    objects, symbols, seconds = compile_objects((Unit(text, level),), target=target, name=name)
    return objects[0], symbols, seconds


def compile_objects(units: Sequence[Unit], *, target: Target, name: str,
                    threads: int = 1) -> tuple[list[bytes], tuple[str, ...], dict[str, float]]:
    """(bytes of each object, exported functions of all, seconds of each phase of all together), not loaded."""
    with Build(target=target, name=name, threads=threads) as build:
        parts = build.parts(units)
    return [part.data for part in parts], tuple(symbol for p in parts for symbol in p.exported), total_seconds(parts)


def _image(objects: Sequence[bytes], symbols: Sequence[str]) -> Image | None:
    """The objects linked by our own linker; None where it does not know how."""
    if not LOADS_HERE:
        return None
    try:
        return link(objects, symbols)
    except Unknown:
        return None


def _load(name: str, image: Image | None, objects: Sequence[bytes], symbols: Sequence[str]) -> Any:
    """The functions' addresses by name; an object that keeps them valid."""
    if image is not None:
        with contextlib.suppress(LoadError):
            return Loaded(image)
    return _link(name, objects, symbols)


def _link(name: str, objects: Sequence[bytes], symbols: Sequence[str]) -> Any:
    global _loader
    initialize()
    with _lock:
        if _loader is None:
            _loader = llvm.create_lljit_compiler(None, use_jit_link=True, suppress_errors=True)
    builder = llvm.JITLibraryBuilder()
    for data in objects:
        builder.add_object_img(data)
    for symbol, address in runtime_symbols().items():
        builder.import_symbol(symbol, address)
    for symbol in symbols:
        builder.export_symbol(symbol)
    try:
        return builder.link(_loader, f"graphc.{next(_numbers)}")
    except RuntimeError as error:
        raise CompileError(f"{name}: the object does not load; an instruction may have become a call of a library "
                           f"function: {error}") from error
