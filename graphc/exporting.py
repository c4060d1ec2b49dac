"""Programs as object files with a C header, for programs that are not in Python.

Knows what can be shipped, how names become C's, and where the state has each cell.  Must not know how code is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .c_header import Array, Function, Header, Place, header_text, identifier, is_identifier
from .cells import Cell
from .errors import FeedError, GraphError
from .garbage import kept_waiting
from .ir import Node
from .origins import at, user_origin
from .plan import ALIGNMENT, align
from .program import Program, inspecting
from .specialized import Planned, planned
from .text import cell_names

if TYPE_CHECKING:
    from os import PathLike

SUFFIXES = (".o", ".obj", ".h")  # that a path may have and does not need
ALLOWED = {"memcpy", "memmove", "memset", "fma", "fmaf",  # of C
           "bzero", "__bzero", "__chkstk", "_fltused"}  # of macOS, and of Windows' compilers
TAKEN = ("state", "scratch", "steps")


@kept_waiting()
def export(path: str | PathLike[str], programs: Program | Mapping[str, Program], *, target: str | None = None,
           cpu: str | None = None, features: str = "", **sizes: int) -> list[Path]:
    """Writes programs as an object file and a C header, so that they run, and train, without Python.

    ::

        graphc.export("build/digits", {"train": step, "predict": predict}, batch=32)     # build/digits.o, build/digits.h

    The object needs no library but a few memory functions of C.  Parameters and optimizer state, with the values that they
    have now, are one block of memory, which all the programs share; the header says how to call them.  A step gives the same
    bits as it does here, on processors of one kind.

    path      where to write, without a suffix; the last part begins all names in C
    programs  a Program, whose function is called as the path's last part, or several, each with the end of its name
    target    LLVM's triple, like "aarch64-unknown-linux-gnu" or "x86_64-pc-windows-msvc"; by default this machine's.
              x86-64, AArch64 and RISC-V with 64 bits
    cpu       LLVM's name of the processor, like "cortex-a72", "x86-64-v3" or "generic"; by default this machine's own, and
              for another target "x86-64-v3" (2013 and later), "generic", "generic-rv64" with m, a, f, d and c
    features  instructions that it has or has not beside, like "+dotprod,-sve"
    sizes     of all open dimensions

    Returns the paths that were written.
    Raises: GraphError for what cannot be exported, and for names that LLVM does not know; FeedError for sizes that are missing
    or wrong.
    """
    base = _checked_path(path)
    chosen = _checked_programs(base.name, programs)
    _check_sizes(chosen, sizes)
    object_file, header = written = [base.with_name(f"{base.name}{suffix}") for suffix in (".o", ".h")]
    if inspecting.get():
        return written
    from .runtime.native import other_machines, standalone  # loads LLVM

    machine = other_machines.machine(target, cpu, features)
    with ExitStack() as locked:
        for program in chosen.values():
            locked.enter_context(program._lock)
        plans = {name: _planned(program, sizes) for name, program in chosen.items()}
        names = cell_names(*(program.graph for program in chosen.values()))
        offsets, state_bytes = _offsets(names)
        entries = [standalone.Entry(name, p.graph, p.plan, p.tiny) for name, p in plans.items()]
        made = standalone.write_standalone(base.name, entries, offsets, state_bytes, machine)
    data = other_machines.object_file(made.text, made.level, machine)
    text = header_text(Header(
        prefix=base.name,
        functions=[_function(name, program, plans[name]) for name, program in chosen.items()],
        places=_places(names, offsets),
        state_bytes=state_bytes, scratch_bytes=max(ALIGNMENT, align(made.scratch_bytes)), alignment=ALIGNMENT,
        sizes=", ".join(f"{name} = {size}" for name, size in sizes.items()),
        machine=f"{machine.triple}, cpu {machine.cpu}" + (f", {features}" if features else ""),
        externals=_checked_externals(data, machine.triple), version=_version()))
    object_file.write_bytes(standalone.filled(data, made.arrays))
    header.write_text(text, encoding="utf-8")
    return written


def _version() -> str:
    from . import __version__

    return __version__


# -- what was asked for ----------------------------------------------------------------------------------------------


def _checked_path(path: str | PathLike[str]) -> Path:
    base = Path(path)
    if base.suffix.lower() in SUFFIXES:
        base = base.with_suffix("")
    if not is_identifier(base.name):
        fits = identifier(base.name or "step")
        fits = fits if is_identifier(fits) else f"c{fits}"
        raise GraphError(f"export: '{base.name}' begins the names of C functions and is no such name itself; "
                         f"'{base.parent / fits}' would be{at(user_origin())}")
    if not base.parent.is_dir():
        raise GraphError(f"export: there is no folder {base.parent}; make it first{at(user_origin())}")
    return base


def _checked_programs(prefix: str, programs: Any) -> dict[str, Program]:
    """The programs by their names in C."""
    named = programs if isinstance(programs, Mapping) else {"": programs}
    if not named:
        raise GraphError(f"export: no program{at(user_origin())}")
    chosen: dict[str, Program] = {}
    for key, program in named.items():
        what = f"'{key}'" if key else "the program"
        if key and not (isinstance(key, str) and is_identifier(f"{prefix}_{key}")):
            raise GraphError(f"export: '{prefix}_{key}' is no name of a C function; with the key '{identifier(str(key))}' it "
                             f"would be{at(user_origin())}")
        if not isinstance(program, Program):
            remedy = "; make one of it with graphc.function or graphc.train_step"
            if hasattr(program, "add_optimizer"):  # an nn.Graph
                remedy = " (give its program: graph.program, once it was called or compiled)"
            raise GraphError(f"export: {what} is a {type(program).__name__}, not a Program{remedy}{at(user_origin())}")
        if program.backend != "native":
            raise GraphError(f"export: {what} runs on backend='{program.backend}', which has no machine code; build it with "
                             f"backend='native', which needs llvmlite{at(user_origin())}")
        if program.check_numerics:
            raise GraphError(f"export: {what} has check_numerics=True, which Python does between steps; build it without"
                             f"{at(user_origin())}")
        if program.after_call:
            raise GraphError(f"export: {what} has a learning-rate schedule that is Python code between calls; only one that "
                             f"is a formula of the step's number can be part of the step{at(user_origin())}")
        chosen[f"{prefix}_{key}" if key else prefix] = program
    taken = [f"{prefix}_init", *chosen, *(f"{name}_run" for name in chosen)]
    if twice := [name for name in chosen if taken.count(name) > 1]:
        raise GraphError(f"export: two C functions would be called '{twice[0]}'; give another key{at(user_origin())}")
    return chosen


def _check_sizes(programs: Mapping[str, Program], sizes: Mapping[str, int]) -> None:
    known = list(dict.fromkeys(name for program in programs.values() for name in program.graph.open_sizes))
    wrong = [name for name in sizes if name not in known]
    missing = [name for name in known if name not in sizes]
    if wrong or missing:
        fits = f"; code for a device has fixed sizes, as in export(..., {', '.join(f'{n}=32' for n in known)})" if known else ""
        raise FeedError(f"export: the open sizes are {', '.join(known) or 'none'}; missing: {', '.join(missing) or 'none'}; "
                        f"unknown: {', '.join(wrong) or 'none'}{fits}{at(user_origin())}")
    for name, size in sizes.items():
        if isinstance(size, bool) or not hasattr(size, "__index__") or int(size) < 1:
            raise FeedError(f"export: {name}={size!r} is no size; give a positive number{at(user_origin())}")


def _planned(program: Program, sizes: Mapping[str, int]) -> Planned:
    own = {name: int(sizes[name]) for name in program.graph.open_sizes}
    return planned(program.name, program.simplified, own, backend=program.backend, memory_budget=program.memory_budget)


def _checked_externals(data: bytes, triple: str) -> tuple[str, ...]:
    from .runtime.native.object_files import external_symbols

    wanted = external_symbols(data)
    if other := [name for name in wanted if name not in ALLOWED]:
        raise GraphError(f"export: on {triple} the code would call {', '.join(other)}, which C programs need not have: the "
                         f"processor lacks an instruction; give another cpu or more features{at(user_origin())}")
    return wanted


# -- names and places ------------------------------------------------------------------------------------------------


def _offsets(names: Mapping[Cell, str]) -> tuple[dict[Cell, int], int]:
    """Where the state has each cell, and its bytes."""
    offsets: dict[Cell, int] = {}
    end = 0
    for cell in names:
        offsets[cell] = end
        end += align(max(1, cell.type.bytes))
    return offsets, max(ALIGNMENT, end)


def _places(names: Mapping[Cell, str], offsets: Mapping[Cell, int]) -> list[Place]:
    taken: set[str] = set()
    places = []
    for cell, name in names.items():
        end = identifier(f"at{name}", taken)[2:].upper()
        while end in taken:
            end = identifier(end, taken)
        taken.add(end)
        places.append(Place(end, cell.type, name, offsets[cell]))
    return places


def _function(name: str, program: Program, plan: Planned) -> Function:
    taken = set(TAKEN)

    def array(node: Node, said: str) -> Array:
        made = Array(identifier(said, taken), node.type, said)
        while made.stride in taken:
            made = Array(identifier(f"{made.name}x", taken), node.type, said)
        taken.update((made.name, made.stride))
        return made

    inputs = [array(new, node.attributes["name"]) for node, new in zip(program.graph.inputs, plan.graph.inputs, strict=True)]
    trains = any(cell.trainable for cell, _ in program.graph.updates)
    outputs = [array(node, "loss" if trains and place == 0 and said in ("out", "out0") else said)
               for place, (node, said) in enumerate(zip(plan.graph.outputs, program.graph.output_names, strict=True))]
    return Function(name, inputs, outputs, bool(program.graph.updates))
