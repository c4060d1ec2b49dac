"""From ``FILE[:NAME]`` to something that can be looked at.

Knows how to run a user's file without training, and which of its objects are graphs.  Must not know commands, formats
or stages.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from .driver import Program, function, inputs_of, inspecting
from .errors import GraphError
from .op import Kind
from .static_graph import Graph as StaticGraph
from .symbols import Tensor
from .text import parse_type

Target = Tensor | Program | StaticGraph


def split(target: str) -> tuple[Path, str | None]:
    """FILE and NAME of ``FILE[:NAME]``; a colon inside an existing path (a drive letter) belongs to the path."""
    whole = Path(target)
    if whole.is_file():
        return whole, None
    file, colon, name = target.rpartition(":")
    if colon and Path(file).is_file():
        if not all(part.isidentifier() for part in name.split(".")):
            raise GraphError(f"{name!r} is no name; write FILE:NAME with a variable of that file, like {file}:loss")
        return Path(file), name
    shown = file if colon and file.endswith(".py") else target
    if Path(shown).is_dir():
        raise GraphError(f"{shown} is a folder; name a Python file in it")
    raise GraphError(f"there is no file {shown}; give the path of a Python file that builds a graph, like model.py:loss")


def load(target: str, types: Sequence[str] = ()) -> tuple[str, Tensor | Program]:
    """The object's name and the object: a Tensor, or a Program (that of an nn.Graph's latest or requested trace).

    types   one text like ``f32[4,2]`` per input of an nn.Graph's build, to trace it for these
    Raises GraphError with what is wrong and a remedy.
    """
    file, name = split(target)
    return next(iter(_load(file, [name], types).items()))


def load_several(target: str, types: Sequence[str] = ()) -> tuple[Path, dict[str, Tensor | Program]]:
    """FILE, and the objects of ``FILE:NAME,NAME`` by their names; FILE is run once, so that they share parameters."""
    first, *others = [target] if Path(target).is_file() else target.split(",")
    file, name = split(first)
    further = [split(f"{file}:{other}")[1] for other in others]
    return file, _load(file, [name, *further], types)


def _load(file: Path, names: Sequence[str | None], types: Sequence[str]) -> dict[str, Tensor | Program]:
    token = inspecting.set(True)
    try:
        module = run(file)
        result: dict[str, Tensor | Program] = {}
        for wanted in names:
            name = wanted or only(vars(module), file)
            found = lookup(module, name, file)
            if types and not isinstance(found, StaticGraph):
                raise GraphError(f"--input is for an nn.Graph; '{name}' is a {kind_of(found)} and knows its inputs")
            result[name] = traced(found, name, types) if isinstance(found, StaticGraph) else found
        return result
    finally:
        inspecting.reset(token)


def as_program(target: Tensor | Program, name: str) -> Program:
    """A Program that computes the tensor from the placeholders it depends on; a Program as it is."""
    if isinstance(target, Program):
        return target
    return function(inputs_of([target]), target, name=name)


# -- running the file ------------------------------------------------------------------------------------------------


def run(file: Path) -> ModuleType:
    """The file as a module.  What it prints goes to standard error, so that a dump on standard output stays clean."""
    path = file.resolve()
    specification = importlib.util.spec_from_file_location(f"_inspected_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise GraphError(f"{file} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # dataclasses and pickles look their module up
    try:
        with _as_script(path), redirect_stdout(sys.stderr):
            specification.loader.exec_module(module)
    except GraphError as error:
        raise GraphError(f"{file} builds a wrong graph: {error}") from None
    except SystemExit as error:
        raise GraphError(f"{file} calls exit({error.code if error.code is not None else ''}) while it is read; "
                         'put that below `if __name__ == "__main__":`') from None
    except SyntaxError as error:
        raise GraphError(f"{error.filename or file}:{error.lineno}: {type(error).__name__}: {error.msg}") from None
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
        place = f"{file}:{frames[-1].lineno}" if frames else str(file)
        line = f"\n  at {frames[-1].line}" if frames and frames[-1].line else ""
        raise GraphError(f"{place}: {type(error).__name__}: {error}{line}\n"
                         'The file must build its graph when it is imported; what trains belongs below '
                         '`if __name__ == "__main__":`') from None
    return module


@contextmanager
def _as_script(path: Path) -> Iterator[None]:
    """The import path and arguments that `python FILE` would give."""
    arguments, folders = sys.argv, list(sys.path)
    sys.argv = [str(path)]
    sys.path.insert(0, str(path.parent))
    try:
        yield
    finally:
        sys.argv = arguments
        sys.path[:] = folders


# -- choosing the object ---------------------------------------------------------------------------------------------


def kind_of(value: Any) -> str:
    """What a message calls it."""
    if isinstance(value, StaticGraph):
        return "nn.Graph"
    return "Program" if isinstance(value, Program) else "Tensor" if isinstance(value, Tensor) else type(value).__name__


def candidates(names: dict[str, Any]) -> dict[str, Target]:
    """Everything in the file that has a graph: Programs, nn.Graphs, and tensors that are computed."""
    found: dict[str, Target] = {}
    for name, value in names.items():
        computed = isinstance(value, Tensor) and value.node.op.kind is not Kind.SOURCE
        if not name.startswith("_") and (computed or isinstance(value, (Program, StaticGraph))):
            found[name] = value
    return found


def only(names: dict[str, Any], file: Path) -> str:
    """The name of the only candidate: the one Program or nn.Graph, or the one tensor where there is none of these."""
    found = candidates(names)
    whole = [n for n, v in found.items() if not isinstance(v, Tensor)]
    chosen = whole or list(found)
    if len(chosen) == 1:
        return chosen[0]
    if not found:
        raise GraphError(f"{file} has no Tensor, Program or nn.Graph at its top level; assign one to a variable there, "
                         "like loss = ... or step = graphc.train_step(loss, optimizer)")
    raise GraphError(f"{file} has several graphs; name one:\n{listing(found, file)}")


def listing(found: dict[str, Target], file: Path) -> str:
    width = max(len(n) for n in found)
    return "\n".join(f"  {file}:{name:{width}}  {kind_of(v)}" + (f" {v.type}" if isinstance(v, Tensor) else "")
                     for name, v in found.items())


def lookup(module: ModuleType, name: str, file: Path) -> Target:
    """The object behind a dotted name."""
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            found = candidates(vars(module))
            known = f"; it has\n{listing(found, file)}" if found else "; it has no graph at its top level"
            raise GraphError(f"{file} has no '{name}'{known}")
        value = getattr(value, part)
    if isinstance(value, (Tensor, Program, StaticGraph)):
        return value
    if isinstance(value, type) and issubclass(value, StaticGraph):
        raise GraphError(f"'{name}' is a class; make one at the top level of {file}, like graph = {name}(), and name that")
    raise GraphError(f"'{name}' is a {type(value).__name__}, not a Tensor, Program or nn.Graph; assign its result for "
                     "example input symbols to a variable and name that")


def traced(graph: StaticGraph, name: str, types: Sequence[str]) -> Program:
    """The Program of an nn.Graph: traced for these input types, else its latest."""
    if types:
        wanted = [parse_type(t) for t in types]
        for text, type_ in zip(types, wanted, strict=True):
            if type_.is_open:
                raise GraphError(f"--input {text}: give numbers for all sizes; the first axis stays open where it can")
        expected = graph._names(len(wanted))
        if len(expected) != len(wanted):
            raise GraphError(f"{type(graph).__name__}.build takes {', '.join(expected) or 'nothing'}: give --input "
                             f"{len(expected)} times, not {len(wanted)} times")
        return graph.trace([(t.dtype, tuple(int(s) for s in t.shape)) for t in wanted])
    try:
        return graph.program
    except GraphError:
        expected = graph._names(0)
        shown = " ".join("--input f32[4,2]" for _ in expected)
        raise GraphError(f"'{name}' is an nn.Graph that was never called; say what its inputs "
                         f"({', '.join(expected)}) are, like {shown}") from None
