"""Writes docs/coverage.md: every public name with its arguments, beside PyTorch's and OneFlow's.

    python docs/generate_coverage.py            writes the page
    python docs/generate_coverage.py --check    says what would change, with exit status 1 (a test does this)

Names and arguments are read from graphc and from the installed PyTorch; reasons and OneFlow's facts from coverage_facts.py.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import fnmatch
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from coverage_facts import ABSENT, NEVER, ONEFLOW_ARGUMENTS, ONEFLOW_NAMES, REASONS, SPELLINGS

import graphc
from graphc import nn, optim
from graphc.optim import lr_scheduler

PAGE = Path(__file__).resolve().parent / "coverage.md"
REQUIRED: Any = inspect.Parameter.empty
HIDDEN = {name for names in NEVER for name in names.split(", ")}
UNEXPLAINED = "(no reason given)"
INTERNAL = {"mark_backward", "evaluate", "getitem", "setitem", "overwritten_by", "shared"}  # what methods of symbols call
Arguments = dict[str, Any]


# -- arguments -------------------------------------------------------------------------------------------------------


def arguments(f: Callable[..., Any]) -> Arguments:
    """Names and defaults, `self` left out; ** is not an argument of its own."""
    parameters = inspect.signature(f).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}


def of_torch(name: str, f: Any) -> Arguments:
    """The same for PyTorch: recurrent layers from their base, built-in functions from the first line of their doc."""
    if inspect.isclass(f) and issubclass(f, torch.nn.RNNBase):
        found = arguments(torch.nn.RNNBase)
        del found["mode"]
        if f is torch.nn.RNN:
            found["nonlinearity"] = "tanh"
        return found if f is torch.nn.LSTM else {n: d for n, d in found.items() if n != "proj_size"}
    try:
        found = arguments(f)
    except ValueError:
        found = {"args": REQUIRED}
    if "args" not in found:
        return found
    documented = re.search(rf"^\s*(?:torch\.)?{name}\((.*?)\)\s*(?:->|\n|$)", f.__doc__ or "", re.MULTILINE | re.DOTALL)
    return parsed(documented[1]) if documented and not inspect.isclass(f) else {}


def parsed(text: str) -> Arguments:
    """Arguments from their text: "input, *, alpha=1" gives {input: required, alpha: 1}."""
    found: Arguments = {}
    for part in re.split(r",\s*(?![^(\[]*[)\]])", text.replace("\\", "")):
        name, _, default = part.partition("=")
        name = name.split(":")[0].strip().lstrip("*")
        if name.isidentifier():
            try:
                found[name] = ast.literal_eval(default.strip()) if default else REQUIRED
            except (ValueError, SyntaxError):
                found[name] = default.strip()
    return found


def shown(found: Arguments) -> str:
    def one(name: str, default: Any) -> str:
        if default is REQUIRED:
            return name
        return f"{name}={getattr(default, '__name__', None) or repr(default)}"

    return ", ".join(one(*item) for item in found.items())


def equal(a: Any, b: Any) -> bool:
    return a is b or a == b or getattr(b, "__name__", None) == a  # 'relu' and the function relu


def differences(name: str, own: Arguments, theirs: Arguments, explain: bool = True) -> list[str]:
    """What PyTorch's has and ours has not, the other way round, and defaults that differ.

    explain   names are PyTorch's own, and every difference has a reason; else only optional arguments are compared, as
              positional ones have names of their own
    """
    said = []
    spelled = {ours: real for real in theirs for ours in SPELLINGS.get(real, ()) if real not in own and ours in own}
    known = set(own) | set(spelled.values())

    def why(argument: str) -> str:
        return REASONS.get((name, argument)) or REASONS.get(argument) or UNEXPLAINED

    for argument in theirs:
        if argument not in known and argument not in HIDDEN | {"args", "dtype", "operands"} \
                and (explain or theirs[argument] is not REQUIRED):
            said.append(f"lacks `{argument}`" + (f": {why(argument)}" if explain else ""))
    if not explain:
        return said
    for argument, default in own.items():
        if argument in theirs:
            both = REQUIRED not in (default, theirs[argument])
            if both and not equal(default, theirs[argument]) and not (argument in ("modules", "values") and default == ()):
                said.append(f"`{argument}` is {theirs[argument]!r} there")
        elif argument not in spelled and argument not in HIDDEN | {"dtype", "arguments", "keywords", "modules"}:
            said.append(f"also `{argument}`: {why(argument)}")
    return said


def oneflow(name: str, own: Arguments) -> str:
    """Empty where nothing is known."""
    if name not in ONEFLOW_NAMES:
        return ""
    if name not in ONEFLOW_ARGUMENTS:
        return "there"
    theirs = parsed(ONEFLOW_ARGUMENTS[name])
    said = [f"lacks `{a}`" for a in theirs if a not in own]
    said += [f"also `{a}`" for a in own if a not in theirs and a not in ("dtype", "last_epoch")]
    said += [f"`{a}` is {theirs[a]!r} there" for a in own if a in theirs and REQUIRED not in (own[a], theirs[a])
             and own[a] != theirs[a]]
    return "; ".join(said) or "="


# -- the page --------------------------------------------------------------------------------------------------------


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def section(title: str, names: Iterable[str], own: Any, theirs: Any, prefix: str) -> list[str]:
    lines = [f"## {title}", "", "| name | PyTorch's | OneFlow's |", "|---|---|---|"]
    for name in names:
        found = arguments(getattr(own, name))
        other = getattr(theirs, name, None)
        if other is None:
            verdict = "not in PyTorch"
        else:
            verdict = "; ".join(differences(name, found, of_torch(name, other))) or "="
        lines.append(f"| `{prefix}{name}({cell(shown(found))})` | {cell(verdict)} | {cell(oneflow(name, found))} |")
    return [*lines, ""]


def ops(title: str, about: str, functions: dict[str, Any], theirs: Any) -> list[str]:
    """Functions, and which optional arguments PyTorch's of the same name take also."""
    lines = [f"## {title}", "", about, "", f"| name | `{theirs.__name__}.` |", "|---|---|"]
    for name, f in sorted(functions.items()):
        if name not in INTERNAL:
            other = getattr(theirs, name, None)
            found = arguments(f)
            verdict = "" if other is None else "; ".join(differences(name, found, of_torch(name, other), explain=False)) or "="
            lines.append(f"| `{name}({cell(shown(found))})` | {cell(verdict)} |")
    return [*lines, ""]


def absent() -> list[str]:
    """Public names of PyTorch's packages that graphc has not, with the reason."""
    public: dict[str, list[str]] = {
        "torch.nn": [n for n, v in vars(torch.nn).items() if inspect.isclass(v) and not hasattr(nn, n)],
        "torch.nn.functional": [n for n, v in vars(torch.nn.functional).items() if callable(v) and n[0].islower()
                                and not inspect.isclass(v) and not hasattr(nn.functional, n)
                                and not n.startswith(("has_torch", "handle_torch", "assert_int"))],
        "torch.optim": [n for n, v in vars(torch.optim).items() if inspect.isclass(v) and not hasattr(optim, n)],
        "torch.optim.lr_scheduler": [n for n, v in vars(torch.optim.lr_scheduler).items() if inspect.isclass(v)
                                     and issubclass(v, torch.optim.lr_scheduler.LRScheduler) and n[0] != "_"
                                     and not hasattr(lr_scheduler, n)],
        "torch.nn.init": [n for n in vars(torch.nn.init) if n.endswith("_") and n[0] != "_" and not hasattr(nn.init, n)],
    }
    lines = ["## What PyTorch has and graphc has not", "", "| package | name | why |", "|---|---|---|"]
    for package, names in public.items():
        reasons: dict[str, list[str]] = {}
        for name in sorted(names):
            why = next((r for patterns, r in ABSENT.items() if any(fnmatch.fnmatchcase(name, p)
                                                                   for p in patterns.split(", "))), UNEXPLAINED)
            reasons.setdefault(why, []).append(f"`{name}`")
        lines += [f"| `{package}` | {', '.join(found)} | {why} |" for why, found in reasons.items()]
    return [*lines, ""]


def page() -> str:
    losses = [n for n in nn.__all__ if n.endswith("Loss")]
    functional_losses = [n for n in nn.functional.__all__ if n.endswith("_loss") or n in (
        "cross_entropy", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits")]
    classes = [n for n in nn.__all__ if inspect.isclass(getattr(nn, n)) and n not in losses]
    activations = [n for n in classes if getattr(nn, n).__module__ == "graphc.nn.activation_layers"]
    layers = [n for n in classes if n not in activations]
    optimizers = [n for n in optim.__all__ if inspect.isclass(getattr(optim, n)) and n not in ("Optimizer", "ParamGroup")]
    schedules = [n for n in lr_scheduler.__all__ if inspect.isclass(getattr(lr_scheduler, n))]
    inits = [n for n in sorted(vars(nn.init)) if n.endswith("_") and n[0] != "_"]
    linear_algebra = {n: f for n, f in vars(graphc.linalg).items() if inspect.isfunction(f) and n[0] != "_"
                      and f in graphc.methods.FUNCTIONS.values()}
    rest = [n for n in nn.functional.__all__ if n not in functional_losses]
    lines = [
        "# Coverage: every name and its arguments, beside PyTorch's and OneFlow's", "",
        f"Generated by `python docs/generate_coverage.py` from graphc and PyTorch {torch.__version__.split('+')[0]}; a test "
        "keeps it up to date.", "",
        "`=` says: the same arguments with the same defaults. Else the cell says what graphc lacks, what it has also, and "
        "defaults that differ. OneFlow's column is what we know of its version 1.0, which is not installed here: the arguments "
        "of Adam, Adagrad, RMSprop, LAMB, SGD and CosineDecayLR were compared with its sources, the rest was written from "
        "memory. It leaves out `contiguous_params`, `fused`, `last_step` and `verbose`; \"there\" says that the name "
        "exists, an empty cell nothing.", "",
        "These arguments of PyTorch's are nowhere repeated:", "", "| arguments | why not |", "|---|---|",
        *(f"| {', '.join(f'`{n}`' for n in names.split(', '))} | {why} |" for names, why in NEVER.items()), "",
        "`dtype` of layers is keyword-only. Where PyTorch computes something else than OneFlow, PyTorch's mathematics are "
        "the default and the docstring says what OneFlow does.", "",
        *section("Losses", losses, nn, torch.nn, "nn."),
        *section("Losses as functions", functional_losses, nn.functional, torch.nn.functional, "nn.functional."),
        *section("Optimizers", [*optimizers, "LBFGS"], optim, torch.optim, "optim."),
        *section("Schedules of the learning rate", schedules, lr_scheduler, torch.optim.lr_scheduler, "lr_scheduler."),
        *section("Layers and containers", layers, nn, torch.nn, "nn."),
        *section("Activations", activations, nn, torch.nn, "nn."),
        *section("Initial values", inits, nn.init, torch.nn.init, "nn.init."),
        *section("Functions", rest, nn.functional, torch.nn.functional, "nn.functional."),
        *ops("Ops", "Every function of `graphc`. Positional arguments have names of their own; PyTorch's "
             "(`input`, `other`, `dim`, `dims`, `keepdim`, `size`, `fill_value` and others) are taken as well, by the table in "
             "`graphc/keywords.py`: only optional arguments are compared. `equal` compares element by element, as numpy's; "
             "PyTorch's one bool is `(a == b).all()`.", graphc.methods.FUNCTIONS, torch),
        *ops("Linear algebra", "`graphc.linalg`, likewise.", linear_algebra, torch.linalg),
        *absent(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is out of date")
    options = parser.parse_args()
    new = page()
    if not options.check:
        PAGE.write_text(new)
        return 0
    old = PAGE.read_text() if PAGE.exists() else ""
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "docs/coverage.md", "generated"))
    for line in new.splitlines():
        if UNEXPLAINED in line:
            print(f"docs/coverage_facts.py gives no reason: {line}")
    return int(old != new or UNEXPLAINED in new)


if __name__ == "__main__":
    raise SystemExit(main())
