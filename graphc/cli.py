"""The command line: dump, report, profile, timeline, check, export, info, completion.

Knows arguments, exit codes and where output goes.  Must not know passes or how anything is drawn.

Exit codes: 0 for success, 1 for a wrong gradient, 2 for a wrong call or a file without a usable graph, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .cli_texts import EXAMPLES, TARGET
from .errors import GraphError

if TYPE_CHECKING:
    from .driver import Program
    from .symbols import Tensor

STAGES = ("forward", "gradient", "update", "simplified", "plan", "llvm", "asm")
FORMATS = ("text", "dot", "svg", "png", "html", "json")
SUFFIXES = {".txt": "text", ".dot": "dot", ".gv": "dot", ".svg": "svg", ".png": "png", ".html": "html", ".htm": "html",
            ".json": "json"}
SORTS = ("time", "step")  # of a timeline's kernels
LANES = (".json", ".svg", ".html")  # suffixes of its files
WRONG, UNUSABLE, INTERRUPTED = 1, 2, 130

class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and a remedy."""

    def error(self, message: str) -> NoReturn:
        print(f"graphc: {message}\n  see: {self.prog} --help", file=sys.stderr)
        raise SystemExit(UNUSABLE)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    top = _Parser(prog="graphc", description="Looks at graphs and programs that a Python file builds with graphc.\n\n"
                  + TARGET, epilog=EXAMPLES[""], formatter_class=raw, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"graphc {version('graphc')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, summary: str, *, target: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary + (f".\n\n{TARGET}" if target else "."),
                                   epilog=EXAMPLES[name], formatter_class=raw, allow_abbrev=False)
        if target:
            made.add_argument("target", metavar="FILE[:NAME]", help="a Python file, and a Tensor, Program or nn.Graph in it")
            made.add_argument("--size", action="append", default=[], metavar="NAME=N", type=size,
                              help="the size of an open dimension; repeatable")
            made.add_argument("--input", action="append", default=[], metavar="TYPE",
                              help="type of an nn.Graph's input, like f32[4,2]; once per input, in order")
        return made

    dump = command("dump", "Shows a graph at a stage of compilation, as text or picture")
    dump.add_argument("--stage", choices=STAGES, metavar="STAGE",
                      help=f"{', '.join(STAGES)} (default: forward of a Tensor, else simplified)")
    dump.add_argument("--format", choices=FORMATS, metavar="FORMAT",
                      help=f"{', '.join(FORMATS)} (default: by the suffix of OUT, else text)")
    dump.add_argument("-o", "--output", metavar="OUT", type=Path, help="write here, not to standard output")
    command("report", "Shows what the compiler did with a program, kernel by kernel, and why")
    profile = command("profile", "Times every kernel of a program on random inputs")
    profile.add_argument("--repeat", type=positive, default=20, metavar="N", help="runs; the least counts (default: 20)")
    timeline = command("timeline", "Shows what each thread of a running step did when, and where it waited")
    timeline.add_argument("--repeat", type=positive, default=20, metavar="N",
                          help="steps that are watched; the faster half counts (default: 20)")
    timeline.add_argument("--sort", choices=SORTS, default="time", metavar="ORDER", help=f"{', '.join(SORTS)} (default: time)")
    timeline.add_argument("-o", "--output", metavar="OUT", type=Path,
                          help=f"write one step here, too: a file that ends in {' or '.join(LANES)}")
    check = command("check", "Compares the gradients of your own graph with finite differences")
    check.add_argument("--seed", type=int, default=0, metavar="N", help="of the random inputs (default: 0)")
    export = command("export", "Writes an object file and a C header, so that programs run and train without Python")
    export.add_argument("--target", dest="triple", metavar="TRIPLE",
                        help="the machine, like aarch64-unknown-linux-gnu (default: this one)")
    export.add_argument("--cpu", metavar="CPU", help="its processor, like cortex-a72 or x86-64-v3 (default: this machine's)")
    export.add_argument("--features", default="", metavar="LIST", help="what it has or has not beside, like +dotprod,-sve")
    export.add_argument("-o", "--output", metavar="PATH", type=Path,
                        help="write PATH.o and PATH.h; names in C begin with its last part (default: the name of FILE)")
    command("info", "Shows versions, this machine as the compiler sees it, and the cache", target=False)
    completion = command("completion", "Prints a script that lets the shell complete commands and options", target=False)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return top


def size(text: str) -> tuple[str, int]:
    """``batch=32``."""
    name, equals, number = text.partition("=")
    if not equals or not name.isidentifier() or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write one like batch=32")
    return name, int(number)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def version(package: str) -> str:
    """The installed version, of graphc itself also in a checkout."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        if package == "graphc":
            from . import __version__

            return __version__
        return "not installed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code and never raises."""
    try:
        options = parser().parse_args(arguments)
        if options.command is None:
            parser().print_help()
            return UNUSABLE
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse, after --help or an error that it has printed
        return int(stop.code or 0)
    except GraphError as error:
        print(f"graphc: {error}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:  # the reader, head for example, has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        return 0
    except OSError as error:
        print(f"graphc: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return UNUSABLE
    except MemoryError:
        print("graphc: not enough memory; give smaller sizes with --size", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("graphc: interrupted", file=sys.stderr)
        return INTERRUPTED


# -- commands --------------------------------------------------------------------------------------------------------


def _loaded(options: argparse.Namespace) -> tuple[str, Tensor | Program]:
    from .loading import load

    return load(options.target, options.input)


def _sizes(options: argparse.Namespace, program: Program) -> dict[str, int]:
    """The sizes given; an unknown name is an error, since a typing mistake would go unseen."""
    from .driver import sizes_for

    given, known = dict(options.size), sizes_for(program, {})
    if unknown := [n for n in given if n not in known]:
        raise GraphError(f"--size {unknown[0]}={given[unknown[0]]}: no open dimension is called '{unknown[0]}'; there "
                         f"{'is' if len(known) == 1 else 'are'}: {', '.join(known) or 'none'}")
    return given


def _check_folder(output: Path | None) -> None:
    """Before anything takes long."""
    if output is not None and not output.parent.is_dir():
        raise GraphError(f"there is no folder {output.parent}; make it first")


def dump(options: argparse.Namespace) -> int:
    output: Path | None = options.output
    format = options.format or (SUFFIXES.get(output.suffix.lower()) if output else "text")
    if format is None:
        if output is not None and output.suffix.lower() not in (".ll", ".s", ".asm", ""):
            raise GraphError(f"no format goes by the suffix {output.suffix}; say --format, one of {', '.join(FORMATS)}")
        format = "text"
    if format == "png" and output is None and sys.stdout.isatty():
        raise GraphError("a PNG is no text for a terminal; write it to a file: -o picture.png")
    _check_folder(output)
    name, target = _loaded(options)
    text = dumped(options, name, target, format)
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    if output is not None:
        output.write_bytes(data)
    elif isinstance(text, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0


def dumped(options: argparse.Namespace, name: str, target: Tensor | Program, format: str) -> Any:
    """The dump; of a tensor the stage `gradient` has its gradients with respect to all parameters below it."""
    from .driver import Program
    from .inspection import show_graph
    from .loading import as_program

    program = as_program(target, name)
    sizes = _sizes(options, program)
    if isinstance(target, Program):
        return program.dump(options.stage or "simplified", format, sizes)
    stage = options.stage or "forward"
    if stage == "gradient":
        return show_graph(with_gradients(target, program), format)
    if stage == "update":
        raise GraphError(f"'{name}' is a Tensor, which updates nothing; make a step of it, "
                         f"step = graphc.train_step({name}, optimizer), and name that")
    return program.dump(stage, format, sizes)


def with_gradients(loss: Tensor, program: Program) -> Any:
    """The tensor's graph with its gradients as further outputs, named after the parameters (or floating inputs)."""
    from .ir import Graph
    from .passes.autodiff import grad
    from .text import cell_names

    names = cell_names(program.graph)
    wrt: dict[str, Tensor] = {names[p.cell]: p for p in program.parameters if p.cell.trainable and p.dtype.is_float}
    wrt = wrt or {str(i.name): i for i in program.inputs if i.dtype.is_float}
    if not wrt:
        raise GraphError("nothing to differentiate: this tensor reads no trainable parameter and no floating input")
    gradients = grad(loss, list(wrt.values()), allow_unused=True)
    return Graph(program.graph.inputs, (*program.graph.outputs, *(g.node for g in gradients)), (),
                 (loss.name or "out", *(f"d{n}" for n in wrt)))


def report(options: argparse.Namespace) -> int:
    from .loading import as_program

    name, target = _loaded(options)
    program = as_program(target, name)
    print(program.report(**_sizes(options, program)), end="")
    return 0


def _drawn(options: argparse.Namespace) -> tuple[Program, list[np.ndarray]]:
    """A program, and random inputs of the sizes given."""
    from .checking import draw
    from .driver import sizes_for
    from .loading import as_program
    from .passes.expand import specialize

    name, target = _loaded(options)
    program = as_program(target, name)
    sizes = sizes_for(program, _sizes(options, program))
    inputs = specialize(program.graph, sizes).inputs
    feeds = draw(inputs, np.random.default_rng(0))
    return program, [feeds[i] for i in inputs]


def profile(options: argparse.Namespace) -> int:
    program, feeds = _drawn(options)
    print(program.profile(*feeds, repeat=options.repeat), end="")
    return 0


def timeline(options: argparse.Namespace) -> int:
    output: Path | None = options.output
    if output is not None and output.suffix.lower() not in LANES:
        raise GraphError(f"a timeline goes to a file that ends in {' or '.join(LANES)}, not to {output}")
    _check_folder(output)
    program, feeds = _drawn(options)
    found = program.timeline(*feeds, repeat=options.repeat)
    print(found.table(options.sort), end="")
    if output is not None:
        found.save(output)
    return 0


def check(options: argparse.Namespace) -> int:
    from .checking import check_gradients, format_rows
    from .loading import as_program

    name, target = _loaded(options)
    graph = as_program(target, name).graph
    scalars = [n for n in graph.outputs if n.dtype.is_float and all(s == 1 for s in n.shape)]
    loss = scalars[0] if scalars else graph.outputs[0] if graph.outputs else None
    if loss is None:
        raise GraphError(f"'{name}' has no output to check; name a scalar loss")
    rows, precision = check_gradients(graph, loss, dict(options.size), options.seed)
    sys.stdout.write(format_rows(rows, precision))
    wrong = [row.name for row in rows if not row.right]
    if wrong:
        print(f"graphc: wrong gradient of {', '.join(wrong)}; graphc.testing.gradcheck finds the op whose rule is wrong",
              file=sys.stderr)
    return WRONG if wrong else 0


def export(options: argparse.Namespace) -> int:
    from .c_header import identifier
    from .driver import sizes_for
    from .exporting import export
    from .loading import as_program, load_several
    from .origins import from_nobody

    file, found = load_several(options.target, options.input)
    programs: dict[str, Program] = {}
    for name, target in found.items():
        programs[identifier(name, programs)] = as_program(target, name)
    known = {size: None for program in programs.values() for size in sizes_for(program, {})}
    given = dict(options.size)
    if missing := [size for size in known if size not in given]:
        raise GraphError(f"say how large {missing[0]} is, like --size {missing[0]}=32: code for a device has fixed sizes")
    with from_nobody():
        written = export(options.output or Path(file.stem), programs, target=options.triple, cpu=options.cpu,
                         features=options.features, **given)
    for path in written:
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


def info(options: argparse.Namespace) -> int:
    import platform

    rows = [("graphc", version("graphc")), ("Python", f"{platform.python_version()} ({platform.platform()})")]
    rows += [(package, version(package)) for package in ("numpy", "llvmlite", "networkx", "pygraphviz")]
    if rows[3][1] != "not installed":
        from .runtime.native import cache, target, threads

        host = target.host()
        folder = Path(cache.default_folder())
        entries = [f for f in folder.glob("*.object")] if folder.is_dir() else []
        stored = sum(f.stat().st_size for f in entries) / 2**20
        state = f"{len(entries)} entries, {stored:.1f} MiB" if cache.default() else "off: GRAPHC_CACHE=0"
        rows += [("backend", "native"), ("target", f"{host.triple}, {host.cpu}"),
                 ("bfloat16", bfloat16([p for p in target.PIECES if target.host(p).pieces], host.has_matrix_unit)),
                 ("vectors", f"{host.vector_bytes * 8} bits, {host.registers} registers"),
                 ("threads", f"{threads.available_parallelism()} of {os.cpu_count()} cores"),
                 ("caches", f"L1 {host.l1_bytes >> 10} KiB, L2 {host.l2_bytes >> 10} KiB, L3 {host.l3_bytes >> 10} KiB"),
                 ("code cache", f"{folder} ({state})")]
    else:
        rows += [("backend", "numpy only; for machine code: pip install llvmlite")]
    print("\n".join(f"{name:12} {value}" for name, value in rows))
    return 0


def bfloat16(precisions: Sequence[str], matrix_unit: bool) -> str:
    """What multiplies it, and when."""
    if not precisions:
        return "not multiplied: there are no such instructions, or they are kept from this process"
    how = "on the matrix unit" if matrix_unit else "in pairs, by vectors"
    return f"{how}, for matmul_precision {', '.join(map(repr, precisions))}"


def completion(options: argparse.Namespace) -> int:
    from .completion import script

    sys.stdout.write(script(parser(), options.shell))
    return 0


COMMANDS = {"dump": dump, "report": report, "profile": profile, "timeline": timeline, "check": check, "export": export,
            "info": info, "completion": completion}
