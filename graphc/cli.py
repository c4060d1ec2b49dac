"""The command `graphc`: dump, report, profile, check, info.

Knows arguments and where output goes.  Must not know how a program is compiled.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import GraphError
from .inspection import FORMATS, STAGES, dump, report, show_graph
from .ir import Graph, topological
from .loading import as_program, load
from .tensor import Parameter, Tensor

EXAMPLES = """examples:
  graphc dump train.py                         the simplified graph of the only program in train.py, as text
  graphc dump train.py:step --stage plan --size batch=64
  graphc dump train.py:step --stage update -o step.svg
  graphc dump train.py:train --input f32[4,2] --input f32[4,1]     an nn.Graph that was never called
  graphc report train.py:step                  what was fused, and why something was not
  graphc profile train.py:step --size batch=64
  graphc check train.py:loss                   symbolic against numeric gradients
  graphc completion bash >> ~/.bashrc          tab completion

FILE is run without its `if __name__ == "__main__":` part; programs called at its top level compute nothing."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="graphc", description="Look at what graphc does to your model.", epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, target: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        if target:
            sub.add_argument("target", metavar="FILE[:NAME]", help="a Python file, and a Tensor, Program or nn.Graph in it")
            sub.add_argument("--size", action="append", default=[], metavar="NAME=N",
                             help="the size of an open dimension (repeat for several)")
            sub.add_argument("--input", action="append", default=[], metavar="TYPE",
                             help="the type of an input of an nn.Graph that was never called, e.g. f32[4,2] (repeat)")
        return sub

    show = command("dump", "show a graph or plan at any stage")
    show.add_argument("--stage", choices=STAGES, default="simplified", help="default: simplified")
    show.add_argument("--format", choices=FORMATS, help="default: from the name of OUT, else text")
    show.add_argument("-o", "--output", metavar="OUT", help="write to a file instead of standard output")
    command("report", "what was done, kernel by kernel, and why")
    timing = command("profile", "time per kernel, on random feeds")
    timing.add_argument("--repeat", type=int, default=20, metavar="N", help="runs per kernel; the least time counts")
    checking = command("check", "compare symbolic gradients with finite differences")
    checking.add_argument("--seed", type=int, default=0, help="of the random feeds")
    command("info", "versions, target, threads and cache", target=False)
    shell = command("completion", "print a completion script", target=False)
    shell.add_argument("shell", choices=("bash", "zsh", "fish"))
    return top


def sizes_of(pairs: Sequence[str]) -> dict[str, int]:
    """{"batch": 32} of ["batch=32"]."""
    sizes = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if not name.isidentifier() or not number.isdigit() or int(number) < 1:
            raise GraphError(f"--size takes NAME=N with a positive number, got '{pair}'")
        sizes[name] = int(number)
    return sizes


def run_dump(arguments: argparse.Namespace) -> None:
    name, found = load(arguments.target, arguments.input)
    format_ = arguments.format
    if format_ is None and arguments.output:
        suffix = Path(arguments.output).suffix[1:]
        format_ = suffix if suffix in FORMATS else "text"
    format_ = format_ or "text"
    if isinstance(found, Tensor) and arguments.stage in ("forward", "gradient"):
        out = show_graph(tensor_graph(name, found, arguments.stage), format_)
    else:
        out = dump(as_program(found, name), arguments.stage, format_, sizes_of(arguments.size))
    write(out, arguments.output)


def tensor_graph(name: str, tensor: Tensor, stage: str) -> Graph:
    """A symbol's forward graph, with its gradients by all parameters at the stage `gradient`."""
    from .passes.autodiff import grad

    inputs = tuple(n for n in topological([tensor.node]) if "symbol" in n.attributes)
    if stage == "forward":
        return Graph(inputs, (tensor.node,), (), (name,))
    parameters = parameters_of(tensor)
    gradients = grad(tensor, [p for p, _ in parameters])
    return Graph(inputs, (tensor.node, *(g.node for g in gradients)), (), (name, *(f"d_{n}" for _, n in parameters)))


def parameters_of(tensor: Tensor) -> list[tuple[Parameter, str]]:
    """The trainable parameters that a symbol depends on, and their names."""
    nodes = [n for n in topological([tensor.node]) if "cell" in n.attributes and n.attributes["cell"].trainable]
    return [(Parameter(n), n.attributes["cell"].name) for n in nodes if n.dtype.is_float]


def write(out: Any, path: str | None) -> None:
    """To a file, or to standard output; bytes as bytes."""
    if path:
        data = out if isinstance(out, bytes) else out.encode()
        try:
            Path(path).write_bytes(data)
        except OSError as error:
            raise GraphError(f"cannot write '{path}': {error.strerror}") from None
    elif isinstance(out, bytes):
        sys.stdout.buffer.write(out)
    else:
        sys.stdout.write(out if out.endswith("\n") else out + "\n")


def run_report(arguments: argparse.Namespace) -> None:
    name, found = load(arguments.target, arguments.input)
    write(report(as_program(found, name), sizes_of(arguments.size)), None)


def random_feeds(program: Any, sizes: dict[str, int], seed: int) -> list[np.ndarray]:
    """Arrays for a program's inputs: floats in [-1, 1), integers that are small enough to be indices."""
    generator = np.random.default_rng(seed)
    feeds = []
    for tensor in program.inputs:
        type_ = tensor.type.substitute(sizes)
        if type_.dtype.is_float:
            feeds.append(generator.uniform(-1, 1, type_.shape).astype(type_.dtype.numpy))
        else:
            feeds.append(generator.integers(0, 2, type_.shape).astype(type_.dtype.numpy))
    return feeds


def run_profile(arguments: argparse.Namespace) -> None:
    from .driver import sizes_for

    name, found = load(arguments.target, arguments.input)
    program = as_program(found, name)
    feeds = random_feeds(program, sizes_for(program, sizes_of(arguments.size)), 0)
    write(program.profile(*feeds, repeat=max(1, arguments.repeat)), None)


def run_check(arguments: argparse.Namespace) -> int:
    """Each trainable parameter's gradient of the first output against central differences in float64."""
    from .passes.autodiff import grad
    from .passes.expand import expand_composites, specialize
    from .runtime.interpreter import evaluate_graph

    name, found = load(arguments.target, arguments.input)
    tensor = found if isinstance(found, Tensor) else Tensor(found.graph.outputs[0])
    if any(s != 1 for s in tensor.shape):
        tensor = tensor.sum()
    program = as_program(tensor, name)
    parameters = parameters_of(tensor)
    if not parameters:
        raise GraphError(f"'{name}' depends on no trainable parameter: there is no gradient to check")
    names = {n for i in program.graph.inputs for s in i.shape if hasattr(s, "names") for n in s.names()}
    sizes = {n: 3 for n in names} | sizes_of(arguments.size)
    graph = specialize(program.graph, sizes)
    nodes = [p.node for p, _ in parameters]
    gradients = grad(Tensor(program.graph.outputs[0]), [p for p, _ in parameters])
    both = expand_composites(specialize(Graph(program.graph.inputs, (*program.graph.outputs, *(g.node for g in gradients))),
                                        sizes))
    only = expand_composites(graph)
    feeds = dict(zip(only.inputs, random_feeds(program, sizes, arguments.seed), strict=True))
    cells = {n.attributes["cell"]: n.attributes["cell"].array.copy() for n in nodes}
    symbolic = evaluate_graph(both, dict(zip(both.inputs, feeds.values(), strict=True)), cells)[1:]
    generator = np.random.default_rng(arguments.seed)
    worst = 0.0
    print(f"{'parameter':30} {'elements':>9} {'largest error':>14}")
    for (parameter, label), gradient in zip(parameters, symbolic, strict=True):
        wide = parameter.cell.array.dtype == np.float64
        step = 1e-6 if wide else 1e-2
        array = cells[parameter.cell]
        places = generator.permutation(array.size)[:24]
        error = 0.0
        for place in places:
            ends = []
            for sign in (1, -1):
                moved = array.copy()
                moved.reshape(-1)[place] += sign * step
                ends.append(float(evaluate_graph(only, feeds, {**cells, parameter.cell: moved})[0].reshape(())))
            numeric = (ends[0] - ends[1]) / (2 * step)
            scale = max(1.0, abs(numeric), float(np.abs(gradient).max(initial=0)))
            error = max(error, abs(float(gradient.reshape(-1)[place]) - numeric) / scale)
        limit = 1e-5 if wide else 2e-2
        worst = max(worst, error / limit)
        print(f"{label:30} {array.size:>9} {error:>14.2e}{'' if error <= limit else '  WRONG'}")
    print("gradients agree" if worst <= 1 else "gradients disagree: is an op's rule wrong, or the function not smooth here?")
    return 0 if worst <= 1 else 1


def run_info(_: argparse.Namespace) -> None:
    import platform
    from importlib.metadata import version

    from . import __version__

    rows = [("graphc", __version__), ("python", platform.python_version()), ("numpy", np.__version__)]
    try:
        from .runtime.native import cache, target, threads

        rows.append(("llvmlite", version("llvmlite")))
        host = target.host()
        rows += [("target", f"{host.triple}, {host.cpu}"),
                 ("vectors", f"{host.vector_bytes * 8} bit, {host.registers} registers"
                             + (", masks" if host.has_masks else "")),
                 ("caches", f"L1 {host.l1_bytes >> 10} KiB, L2 {host.l2_bytes >> 10} KiB, L3 {host.l3_bytes >> 10} KiB"),
                 ("threads", str(threads.available_parallelism()))]
        kept = cache.default()
        rows.append(("code cache", str(cache.default_folder()) if kept else "off (GRAPHC_CACHE=0)"))
    except ImportError as error:
        rows.append(("native", f"not available: {error}"))
    for name, value in rows:
        print(f"{name:12} {value}")


COMMANDS = ("dump", "report", "profile", "check", "info", "completion")


def completion(shell: str) -> str:
    """A script that completes commands, options, stages, formats and files."""
    words, stages, formats = " ".join(COMMANDS), " ".join(STAGES), " ".join(FORMATS)
    options = "--stage --format --size --input --output --help"
    if shell == "fish":
        return (f'complete -c graphc -n "__fish_use_subcommand" -f -a "{words}"\n'
                f'complete -c graphc -l stage -x -a "{stages}"\ncomplete -c graphc -l format -x -a "{formats}"\n'
                "complete -c graphc -l size -x\ncomplete -c graphc -l input -x\ncomplete -c graphc -s o -l output -r\n")
    body = f"""_graphc() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  case "$before" in
    graphc) COMPREPLY=($(compgen -W "{words}" -- "$word"));;
    --stage) COMPREPLY=($(compgen -W "{stages}" -- "$word"));;
    --format) COMPREPLY=($(compgen -W "{formats}" -- "$word"));;
    *) if [[ "$word" == -* ]]; then COMPREPLY=($(compgen -W "{options}" -- "$word"))
       else COMPREPLY=($(compgen -f -- "$word")); fi;;
  esac
}}
complete -o filenames -F _graphc graphc
"""
    return body if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{body}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when all is well, 1 when a check failed, 2 for wrong arguments or files."""
    arguments = parser().parse_args(argv)
    actions = {"dump": run_dump, "report": run_report, "profile": run_profile, "check": run_check, "info": run_info}
    try:
        if arguments.command == "completion":
            print(completion(arguments.shell), end="")
            return 0
        return actions[arguments.command](arguments) or 0
    except GraphError as error:
        print(f"graphc: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: nothing more to say
        return 0


__all__ = ["main"]
