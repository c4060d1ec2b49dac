"""Native code from LLVM text: parse, verify, optimise, generate, load.

Knows llvmlite.  Must not know graphs, plans or what a function computes; text comes in, addresses go out.

Every module takes one road: it becomes the bytes of an object file, and these are loaded.  An object that comes from
the disk cache therefore behaves exactly as one that was just compiled.  A module may call nothing outside itself but
the memory functions that LLVM may put in on its own (`runtime_symbols`).  An intrinsic can still become a call of the
C library where the processor has no such instruction; `external_symbols` tells.

A large program comes as several texts (`Unit`), which several threads compile at once and the loader links.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import llvmlite.binding as llvm
from graphc.runtime.native import cache as disk
from graphc.runtime.native.parallel import Jobs
from graphc.runtime.native.target import Target
from llvmlite.binding import ffi

MEMORY_FUNCTIONS = ("memcpy", "memmove", "memset", "bzero", "__bzero", "__chkstk")
SWITCHABLE = (22,)  # versions of LLVM whose command-line options may be set again and again

_lock = threading.Lock()
_machines = threading.local()  # a target machine serves one thread at a time
_numbers = itertools.count(1)
_loader: Any = None  # the one LLJIT of this process, never disposed: objects point into it


class CompileError(RuntimeError):
    """LLVM refused what the code generator wrote: a fault of the compiler, never of the user's graph."""


@lru_cache(maxsize=1)
def initialize() -> None:
    """Register the host's code generator with LLVM."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@lru_cache(maxsize=1)
def initialize_all() -> None:
    """Register every code generator, for assembly of other machines."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@lru_cache(maxsize=1)
def runtime_symbols() -> dict[str, int]:
    """The addresses of what LLVM may call without being asked: block copies and fills, stack probes on Windows."""
    address = {"memset": ctypes.memset, "memmove": ctypes.memmove, "memcpy": ctypes.memmove}
    found = {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in address.items()}
    if sys.platform == "win32":
        libraries = ["ntdll"]
    else:
        libraries = [None]  # the C library of this process
    for library in libraries:
        with contextlib.suppress(OSError):
            handle = ctypes.CDLL(library)
            for name in MEMORY_FUNCTIONS:
                if name not in found and hasattr(handle, name):
                    found[name] = ctypes.cast(getattr(handle, name), ctypes.c_void_p).value or 0
    return found


@dataclass(frozen=True)
class Unit:
    """LLVM text that is compiled by itself, and how much care its code is worth: see `run_passes`."""

    text: str
    level: int = 2


class Code:
    """Loaded native code.  The addresses are valid as long as this object lives.

    objects   the object files that were linked
    symbols   the functions that have an address
    """

    def __init__(self, name: str, objects: Sequence[bytes], symbols: Sequence[str], target: Target, level: int,
                 source: Callable[[], str] | None, seconds: dict[str, float]) -> None:
        self.name, self.objects, self.symbols = name, tuple(objects), tuple(symbols)
        self.target, self.level, self.seconds = target, level, seconds
        self._source = source
        start = time.perf_counter()
        self._library = _link(name, self.objects, self.symbols)
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
        """The optimised LLVM text, made anew at each request: nobody pays for it who does not look."""
        return optimised_text(self._text(), self.target, level=self.level, name=self.name)

    def assembly(self) -> str:
        """The assembly text of this code."""
        return assembly_for(self._text(), self.target, level=self.level, name=self.name)

    @property
    def externals(self) -> tuple[str, ...]:
        """What the objects call outside themselves; see `external_symbols`."""
        found = [symbol_table(data) for data in self.objects]
        return tuple(sorted(set().union(*(missing for _, missing in found)) - set().union(*(own for own, _ in found))))

    def _text(self) -> str:
        if self._source is None:
            raise CompileError(f"{self.name}: loaded without its LLVM text")
        return self._source()


def compile_module(text: str, *, target: Target, level: int = 2, name: str, cache: disk.Cache | None = None) -> Code:
    """Compile and load one LLVM module.

    text: LLVM IR; the target's triple and data layout are put in.  level: see `run_passes`.  name: for messages.
    cache: where the object is looked for and kept; None compiles always.
    Raises: CompileError with LLVM's message for text that is not valid, or calls what is not there.
    """
    return compile_units((Unit(text, level),), target=target, name=name, cache=cache)


def compile_units(units: Sequence[Unit], *, target: Target, name: str, cache: disk.Cache | None = None,
                  exports: Sequence[str] | None = None, source: Callable[[], str] | None = None, threads: int = 1) -> Code:
    """Compile and load a program that comes as several texts, up to `threads` at once.

    exports, source: as `Build.finish`.
    Raises: CompileError as `compile_module`.
    """
    with Build(target=target, name=name, cache=cache, threads=threads) as build:
        return build.finish(units, exports=exports, source=source or (lambda: units[0].text))


@dataclass(frozen=True)
class Part:
    """What a text became: an object, what it exports and wants, how long it took.  `unit` where it came from the cache."""

    data: bytes
    exported: Sequence[str]
    wanted: Sequence[str]
    seconds: dict[str, float]
    unit: Unit | None = None


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
        self._level = 2

    def __enter__(self) -> Build:
        initialize()
        self._open.enter_context(_without_strength_reduction(self.target))
        self._open.enter_context(self._jobs)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, unit: Unit, *, begin: bool = True) -> None:
        """Compile a text as soon as a thread is free; `begin`: see `Jobs.add`."""
        self._level = max(self._level, unit.level)
        self._jobs.add(partial(self._part, unit), len(unit.text), begin=begin)

    def finish(self, units: Sequence[Unit] = (), *, exports: Sequence[str] | None = None,
               source: Callable[[], str] | None = None) -> Code:
        """The program of all texts, these the last, loaded.

        exports: the functions whose addresses are wanted; all that are not internal by default.  source: gives the whole
        as one text, for those who want to read it.
        Raises: CompileError with LLVM's message for text that is not valid, or calls what is not there.
        """
        parts = self.parts(units)
        seconds = total_seconds(parts)
        symbols = tuple(symbol for part in parts for symbol in part.exported) if exports is None else exports
        try:
            return Code(self.name, [p.data for p in parts], symbols, self.target, self._level, source, seconds)
        except CompileError:
            if not any(part.unit for part in parts):
                raise
        made = [part if part.unit is None else self._compiled(part.unit) for part in parts]  # what is kept does not load
        return Code(self.name, [p.data for p in made], symbols, self.target, self._level, source, total_seconds(made))

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
            return _compile(unit, self.target, self.name)
        entry = self.cache.lookup(unit_key(unit, self.target))
        if entry is not None:
            with contextlib.suppress(KeyError):
                return Part(entry.data, entry.meta["symbols"], entry.meta["wanted"], {}, unit)
        return self._compiled(unit)

    def _compiled(self, unit: Unit) -> Part:
        part = _compile(unit, self.target, self.name)
        if self.cache is not None:
            meta = {"name": self.name, "symbols": list(part.exported), "wanted": list(part.wanted)}
            self.cache.store(unit_key(unit, self.target), part.data, meta)
        return part


def unit_key(unit: Unit, target: Target) -> bytes:
    """The key of the disk cache under which a text's object is kept."""
    return disk.key("module", unit.text, target, unit.level)


def total_seconds(parts: Sequence[Part]) -> dict[str, float]:
    """Of each phase, of all texts that were compiled."""
    phases = dict.fromkeys(phase for part in parts for phase in part.seconds)
    return {phase: sum(part.seconds.get(phase, 0.0) for part in parts) for phase in phases}


def load_object(data: bytes, *, symbols: Sequence[str], target: Target, name: str, level: int = 2,
                source: Callable[[], str] | None = None) -> Code:
    """Load object bytes that `compile_object` made for this target; `source` gives the LLVM text if it is asked for."""
    return Code(name, (data,), symbols, target, level, source, {})


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


def _compile(unit: Unit, target: Target, name: str) -> Part:
    start = time.perf_counter()
    machine = _machine(target, unit.level, True)
    with llvm.create_context() as context, _parse(unit.text, machine, name, context) as module:
        exported, wanted = _symbols(module)
        parsed = time.perf_counter()
        run_passes(module, machine, unit.level)
        optimised = time.perf_counter()
        data = _emit(module, machine, name)
    return Part(data, exported, wanted, {"parse": parsed - start, "optimise": optimised - parsed,
                                         "codegen": time.perf_counter() - optimised})


def optimised_text(text: str, target: Target, *, level: int = 2, name: str = "module") -> str:
    """The module after the passes, as LLVM text; for any target."""
    initialize_all()
    machine = _machine(target, level, False)
    with llvm.create_context() as context, _parse(text, machine, name, context) as module:
        run_passes(module, machine, level)
        return str(module)


def assembly_for(text: str, target: Target, *, level: int = 2, name: str = "module") -> str:
    """The module's assembly text for any target, of this machine or another."""
    initialize_all()
    machine = _machine(target, level, False)
    with llvm.create_context() as context, _parse(text, machine, name, context) as module:
        run_passes(module, machine, level)
        try:
            return machine.emit_assembly(module)
        except RuntimeError as error:
            raise CompileError(f"{name}: code generation failed for {target.triple}: {error}") from error


def run_passes(module: Any, machine: Any, level: int) -> None:
    """Optimise in place.

    The text is vectorised, unrolled, in SSA form and with its loops tested at their ends when it comes, so the standard
    pipelines mostly look for what is not there: on a module of three matrix kernels they take 40 to 60 ms for the same
    machine code that the list below gives in 2, beside 25 for code generation.

    0: inline what must be.  1: and promote memory to registers, with a quick code generator.  2: and rotate the few loops that
    are not, with the usual code generator.  3: and combine instructions, which most kernels gain nothing from; long scalar
    code does, and divisions lane by lane.
    """
    tuning = llvm.create_pipeline_tuning_options(2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    tuning.loop_unrolling = tuning.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, tuning)
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    if level >= 1:
        passes.add_global_dead_code_eliminate_pass()  # what was inlined everywhere need not be optimised
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
    if level >= 2:
        passes.add_loop_rotate_pass()
    if level >= 3:
        passes.add_instruction_combine_pass()
    if level >= 1:
        passes.add_dead_code_elimination_pass()
    if level >= 3:
        passes.add_simplify_cfg_pass()
    _unlocked("LLVMPY_RunNewModulePassManager")(passes, module, builder)


def external_symbols(data: bytes) -> tuple[str, ...]:
    """The names that an object file leaves for others to define; empty for formats other than 64-bit ELF."""
    return tuple(sorted(symbol_table(data)[1]))


def symbol_table(data: bytes) -> tuple[set[str], set[str]]:
    """The names that an object file defines, and those that it wants; none for formats other than 64-bit ELF.

    Format: System V ABI, ELF-64 object file format, version 1.5: section headers, and symbols with section index 0.
    """
    defined: set[str] = set()
    wanted: set[str] = set()
    if data[:5] != b"\x7fELF\x02":
        return defined, wanted
    table, = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    for _, kind, _, _, offset, length, link, _, _, step in sections:
        if kind == 2:  # a symbol table; link is its table of names
            for place in range(offset + step, offset + length, step):
                start, _, _, section = struct.unpack_from("<IBBH", data, place)
                text = sections[link][4] + start
                (defined if section else wanted).add(data[text : data.index(b"\0", text)].decode())
    return defined, wanted


def _machine(target: Target, level: int, load: bool) -> Any:
    """The target machine of this thread."""
    made = _machines.__dict__.setdefault("made", {})
    machine = made.get((target, level, load))
    if machine is None:
        machine = made[target, level, load] = _new_machine(target, level, load)
    return machine


def _new_machine(target: Target, level: int, load: bool) -> Any:
    triple = target.triple
    abi = "lp64d" if triple.startswith("riscv64") and "+d" in target.features.split(",") else ""
    if load and sys.platform == "win32":
        triple += "-elf"  # the loader's best-tried format; Windows' calling convention stays
    try:
        return llvm.Target.from_triple(triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=min(max(level, 0), 2), reloc="pic", codemodel="small",
            jit=load, abiname=abi)
    except RuntimeError as error:
        raise CompileError(f"LLVM cannot generate code for '{target.triple}': {error}") from error


def _unlocked(name: str) -> Any:
    """A function of LLVM as llvmlite has it, without the lock that keeps all others of the process out meanwhile.

    LLVM asks for no lock where, as here, threads share no context, module or machine.
    """
    function = getattr(ffi.lib, name)
    return getattr(function, "_cfn", function)


_switched = 0  # compilations that run now with the switch off


@contextlib.contextmanager
def _without_strength_reduction(target: Target) -> Iterator[None]:
    """LLVM's loop strength reduction is off meanwhile, on x86-64, whose addresses have a scaled index.

    It looks for cheap sets of induction variables by trying combinations, which takes a third of the time of all code
    generation here, and steps are as fast without.  It can be switched for the whole process only: whoever else
    generates code at the same moment goes without it, too.
    """
    global _switched
    if not target.triple.startswith("x86_64") or llvm.llvm_version_info[0] not in SWITCHABLE:
        yield
        return
    with _lock:
        _switched += 1
        if _switched == 1:
            llvm.set_option("graphc", "-disable-lsr=true")
    try:
        yield
    finally:
        with _lock:
            _switched -= 1
            if not _switched:
                llvm.set_option("graphc", "-disable-lsr=false")


def _emit(module: Any, machine: Any, name: str) -> bytes:
    """The bytes of the object file."""
    with ffi.OutputString() as message:
        buffer = _unlocked("LLVMPY_TargetMachineEmitToMemory")(machine, module, 1, message)
        if not buffer:
            raise CompileError(f"{name}: code generation failed: {message}")
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _parse(text: str, machine: Any, name: str, context: Any) -> Any:
    try:
        module = llvm.parse_assembly(text, context)
    except RuntimeError as error:
        raise CompileError(f"{name}: the generated LLVM text does not parse: {error}") from error
    module.name = name
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    try:
        module.verify()
    except RuntimeError as error:
        module.close()
        raise CompileError(f"{name}: the generated LLVM module is not valid: {error}") from error
    return module


def _symbols(module: Any) -> tuple[list[str], list[str]]:
    """The names of the exported functions, and of those that the module calls and has not."""
    exported, wanted = [], []
    for function in module.functions:
        if function.is_declaration:
            if not function.name.startswith("llvm."):
                wanted.append(function.name)
        elif function.linkage == llvm.Linkage.external:
            exported.append(function.name)
    return exported, wanted


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
