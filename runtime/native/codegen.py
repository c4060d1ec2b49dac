"""Object files and assembly from LLVM text: parse, verify, optimise, generate.

Knows llvmlite and what LLVM's passes are worth.  Must not know what is kept, linked or loaded: see `jit`.

A module may call nothing outside itself but the memory functions that LLVM may put in on its own.  An intrinsic can still
become a call of the C library where the processor has no such instruction; `object_files.external_symbols` tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from graphc.runtime.native.target import Target
from llvmlite.binding import ffi

from graphc.records import NamedTuple

SWITCHABLE = (22,)  # versions of LLVM whose command-line options may be set again and again

_lock = threading.Lock()
_idle: dict[tuple[Target, int, bool], list[Tools]] = {}  # tools that nobody works with now, by what they are for

EXPORTED = re.compile(r"^define (?!internal |private )[^@\n]*@([\w.]+)\(", re.M)  # the functions of a text that others may call
WANTED = re.compile(r"^declare [^@\n]*@(?!llvm\.)([\w.]+)\(", re.M)  # and those that it calls and has not


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


class Unit(NamedTuple):
    """LLVM text that is compiled by itself, and how much care its code is worth: see `_passes`."""

    text: str
    level: int = 2


class Part(NamedTuple):
    """What a text became: an object, what it exports and wants, how long it took.  `unit` where it came from the cache."""

    data: bytes
    exported: Sequence[str]
    wanted: Sequence[str]
    seconds: dict[str, float]
    unit: Unit | None = None


def compile_text(unit: Unit, target: Target, name: str) -> Part:
    """One text as an object file for this machine's loader.

    Between the long calls of LLVM there are few short ones: after each, a thread waits until it has Python's lock again.
    Raises: CompileError with LLVM's message for text that is not valid.
    """
    start = time.perf_counter()
    with (_tools(target, unit.level, True) as tools, llvm.create_context() as context,
          _parse(unit.text, tools, name, context) as module):
        parsed = time.perf_counter()
        tools.optimise(module)
        optimised = time.perf_counter()
        data = _emit(module, tools.machine, name)
    return Part(data, EXPORTED.findall(unit.text), WANTED.findall(unit.text),
                {"parse": parsed - start, "optimise": optimised - parsed, "codegen": time.perf_counter() - optimised})


def object_for(text: str, target: Target, *, level: int = 2, name: str = "module") -> bytes:
    """The module as an object file for a linker, of this machine or another."""
    initialize_all()
    with (without_strength_reduction(target), _tools(target, level, False) as tools, llvm.create_context() as context,
          _parse(text, tools, name, context) as module):
        tools.optimise(module)
        return _emit(module, tools.machine, name)


def optimised_text(text: str, target: Target, *, level: int = 2, name: str = "module") -> str:
    """The module after the passes, as LLVM text; for any target."""
    initialize_all()
    with (_tools(target, level, False) as tools, llvm.create_context() as context,
          _parse(text, tools, name, context) as module):
        tools.optimise(module)
        return str(module)


def assembly_for(text: str, target: Target, *, level: int = 2, name: str = "module") -> str:
    """The module's assembly text for any target, of this machine or another."""
    initialize_all()
    with (_tools(target, level, False) as tools, llvm.create_context() as context,
          _parse(text, tools, name, context) as module):
        tools.optimise(module)
        try:
            return tools.machine.emit_assembly(module)
        except RuntimeError as error:
            raise CompileError(f"{name}: code generation failed for {target.triple}: {error}") from error


class Tools:
    """What compiles texts for a target with a certain care; serves one thread at a time.

    machine   LLVM's description of the target
    head      lines that say so at the top of a text
    """

    def __init__(self, target: Target, level: int, load: bool) -> None:
        self.machine = _new_machine(target, level, load)
        self.head = f'target datalayout = "{self.machine.target_data}"\ntarget triple = "{self.machine.triple}"\n'
        self._passes, self._tuning = _passes(level), _tuning()

    def optimise(self, module: Any) -> None:
        """Run the passes on a module, in place.

        The builder is of this run: it keeps what llvmlite hangs into it for a run, by the address of what is gone afterwards.
        """
        builder = llvm.create_pass_builder(self.machine, self._tuning)
        _unlocked("LLVMPY_RunNewModulePassManager")(self._passes, module, builder)


@contextlib.contextmanager
def _tools(target: Target, level: int, load: bool) -> Iterator[Tools]:
    """Tools that nobody else works with meanwhile."""
    key = target, level, load
    with _lock:
        idle = _idle.get(key)
        tools = idle.pop() if idle else None
    if tools is None:
        tools = Tools(target, level, load)
    try:
        yield tools
    finally:
        with _lock:
            _idle.setdefault(key, []).append(tools)


def put_away() -> None:
    """Tools that nobody works with go, but for one set that compiles with the usual care: each is close to a megabyte."""
    with _lock:
        kept = [(key, tools[:1]) for key, tools in _idle.items() if key[1:] == (2, True) and tools][-1:]
        gone = [*_idle.values()]
        _idle.clear()
        _idle.update(kept)
    del gone


def _tuning() -> Any:
    tuning = llvm.create_pipeline_tuning_options(2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    tuning.loop_unrolling = tuning.loop_interleaving = False
    return tuning


def _passes(level: int) -> Any:
    """The passes that optimise a module.

    The text is vectorised, unrolled, in SSA form and with its loops tested at their ends when it comes, so the standard
    pipelines mostly look for what is not there: on a module of three matrix kernels they take 40 to 60 ms for the same
    machine code that the list below gives in 2, beside 25 for code generation.

    0: inline what must be.  1: and promote memory to registers, with a quick code generator.  2: and rotate the few loops that
    are not, with the usual code generator.  3: and combine instructions, which most kernels gain nothing from; long scalar
    code does, and divisions lane by lane.
    """
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
    return passes


def _new_machine(target: Target, level: int, load: bool) -> Any:
    initialize()
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
def without_strength_reduction(target: Target) -> Iterator[None]:
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


def _parse(text: str, tools: Tools, name: str, context: Any) -> Any:
    """The module that a text says, verified."""
    try:
        module = llvm.parse_assembly(tools.head + text, context)
    except RuntimeError as error:
        raise CompileError(f"{name}: the generated LLVM text does not parse: {error}") from error
    try:
        module.verify()
    except RuntimeError as error:
        module.close()
        raise CompileError(f"{name}: the generated LLVM module is not valid: {error}") from error
    return module
