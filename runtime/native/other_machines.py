"""Code for other processors than this one: what LLVM knows of them, and object files.

LLVM ends the process where a processor cannot do what is asked of it, and only prints that it does not know a name.  So it is
asked in a process of its own, which reads a request and answers.  Which vectors a processor has is told by the assembly of a
few additions.  Knows LLVM's names.  Must not know what the code does.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache

from graphc.runtime.native import codegen
from graphc.runtime.native.denormals import architecture
from graphc.runtime.native.target import CACHES, Target, describe, host

from graphc.errors import GraphError
from graphc.records import replace

# For these triples' first parts: the processor where none is named, features that belong to every one.
DEFAULTS = {"x86_64": ("x86-64-v3", ""), "aarch64": ("generic", ""), "riscv64": ("generic-rv64", "+m,+a,+f,+d,+c")}

# Per architecture: a feature, a function that needs it, and what its assembly has where it is there.
PROBES: dict[str, list[tuple[str, str, str]]] = {
    "x86_64": [
        ("sse4.1", "<4 x float> @{}(<4 x float> %a) {{ %r = call <4 x float> @llvm.floor.v4f32(<4 x float> %a) "
                   "ret <4 x float> %r }}", "roundps"),
        ("avx2", "<8 x i32> @{}(<8 x i32> %a) {{ %r = add <8 x i32> %a, %a ret <8 x i32> %r }}", "vpaddd.*ymm"),
        ("fma", "<4 x float> @{}(<4 x float> %a) {{ %r = call <4 x float> @llvm.fma.v4f32(<4 x float> %a, <4 x float> %a, "
                "<4 x float> %a) ret <4 x float> %r }}", "vfmadd"),
        ("avx512f", "<16 x float> @{}(<16 x float> %a) {{ %r = fadd <16 x float> %a, %a ret <16 x float> %r }}", "vaddps.*zmm"),
        ("avx512vl", "<8 x float> @{}(<8 x float> %a, <8 x float> %b) {{ %c = fcmp olt <8 x float> %a, %b "
                     "%r = select <8 x i1> %c, <8 x float> %a, <8 x float> zeroinitializer ret <8 x float> %r }}", "ymm.*{%k"),
        ("avx512bw", "<64 x i8> @{}(<64 x i8> %a) {{ %r = add <64 x i8> %a, %a ret <64 x i8> %r }}", "vpaddb.*zmm"),
        ("avx512dq", "<8 x i64> @{}(<8 x i64> %a) {{ %r = mul <8 x i64> %a, %a ret <8 x i64> %r }}", "vpmullq.*zmm")],
    "riscv64": [
        ("d", "double @{}(double %a) {{ %r = fadd double %a, %a ret double %r }}", r"fadd\.d"),
        ("v", "<4 x float> @{}(<4 x float> %a) {{ %r = fadd <4 x float> %a, %a ret <4 x float> %r }}", r"vfadd\.vv")],
}


def machine(triple: str | None, cpu: str | None, features: str) -> Target:
    """The Target that these names say: this machine where nothing is said, with its matrix unit left alone, for which a
    process must have asked its system.

    Raises: GraphError for what LLVM does not know, and for what is no 64-bit little-endian machine.
    """
    own = replace(host(), pieces=0)
    same = triple is None or triple == own.triple
    if same and cpu in (None, "native"):
        if not features:
            return own
        return replace(described(own.triple, own.cpu, f"{own.features},{features}"), l1_bytes=own.l1_bytes,
                       l2_bytes=own.l2_bytes, l3_bytes=own.l3_bytes)
    if cpu == "native":
        raise GraphError(f"cpu='native' is this machine, {own.triple}; name a processor of {triple}")
    triple = triple or own.triple
    first = architecture(Target(triple, "", "", 16, 16, False, *CACHES))
    if first not in DEFAULTS:
        raise GraphError(f"no code for the target '{triple}': it can be made for {', '.join(DEFAULTS)}, "
                         "as in aarch64-unknown-linux-gnu, x86_64-pc-windows-msvc or riscv64-unknown-elf")
    usual, always = DEFAULTS[first]
    if cpu is None or (cpu == "generic" and always):
        cpu, features = usual, ",".join(filter(None, (always, features)))
    return described(triple, cpu, features)


@lru_cache(maxsize=64)
def described(triple: str, cpu: str, features: str) -> Target:
    """The Target, with the features that LLVM says this processor has."""
    if any(not re.fullmatch(r"[+-][\w.\-]+", feature) for feature in features.split(",") if feature):
        raise GraphError(f"features={features!r}: write each with + or - before it, like '+avx2,-fma'")
    first = architecture(Target(triple, "", "", 16, 16, False, *CACHES))
    probes = PROBES.get(first, [])
    texts = [f"define {text.format(f'probe{number}')}" for number, (_, text, _) in enumerate(probes)]
    text = "\n".join([*texts, "define void @end() { ret void }", "declare <4 x float> @llvm.floor.v4f32(<4 x float>)",
                      "declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)"])
    answer = ask("probe", describe(triple, cpu, features, CACHES), text).decode()
    layout, _, assembly = answer.partition("\n")
    if not layout.startswith("e") or re.search(r"-p:(?!64)", layout):
        raise GraphError(f"no code for the target '{triple}': only for 64-bit little-endian machines")
    found = []
    for number, (feature, _, pattern) in enumerate(probes):
        body = re.search(rf"^_?probe{number}:(.*?)^_?(?:probe{number + 1}|end):", assembly, re.DOTALL | re.MULTILINE)
        if body and re.search(pattern, body[1]):
            found.append(f"+{feature}")
    if first == "riscv64" and "+d" not in found:
        raise GraphError(f"'{cpu}' has no float64 arithmetic{f' with {features}' if features else ''}: give features='+f,+d', "
                         "or another cpu")
    probed = {f"+{feature}" for feature, _, _ in probes}  # one that is given may be taken away by another
    given = [feature for feature in features.split(",") if feature and feature not in probed]
    return describe(triple, cpu, ",".join([*given, *found]), CACHES)


def object_file(text: str, level: int, target: Target) -> bytes:
    """The object file of LLVM text; of this machine's code without another process.

    Raises: GraphError where LLVM cannot.
    """
    if replace(target, pieces=0) == replace(host(), pieces=0):
        return codegen.object_for(text, target, level=level, name="export")
    return ask("object", target, text, level)


# -- asking ----------------------------------------------------------------------------------------------------------

START = """import sys, types
sys.path[:] = {path!r}
front = types.ModuleType("graphc")
front.__path__ = {folders!r}
sys.modules["graphc"] = front
from graphc.runtime.native.other_machines import answer
answer()
"""  # the whole of graphc need not be loaded


def ask(what: str, target: Target, text: str = "", level: int = 2) -> bytes:
    """The answer of a process of its own to one request: a key of ANSWERS.

    Raises: GraphError with what LLVM says where it does not know a name, or ends.
    """
    import graphc

    if not sys.executable:
        raise GraphError("code for other machines is made in a process of its own, and this Python does not know its path")
    request = json.dumps({"what": what, "target": vars(target), "text": text, "level": level})
    code = START.format(path=sys.path, folders=list(graphc.__path__))
    done = subprocess.run([sys.executable, "-c", code], input=request.encode(), capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    if unknown := re.search(r"'([^']*)' is not a recognized (processor|feature) for this target", said):
        name, kind = unknown.groups()
        raise GraphError(f"{target.triple}: LLVM knows no {'cpu' if kind == 'processor' else kind} '{name}'; "
                         + meant(name.lstrip("+-"), kind, target))
    if done.returncode:
        lines = [line for line in said.splitlines() if "error" in line.lower()] or said.splitlines()[-1:]
        reason = re.sub(r"^(LLVM ERROR|\S*Error): ", "", lines[0]) if lines else f"the compiler ended with {done.returncode}"
        raise GraphError(f"LLVM makes no code for {target.triple}, cpu={target.cpu!r}, features={target.features!r}: {reason}")
    return done.stdout


@lru_cache(maxsize=8)
def known_names(triple: str) -> dict[str, tuple[str, ...]]:
    """The processors and features of a triple that LLVM knows."""
    said = ask("names", describe(triple, "help", "", CACHES)).decode()
    cpus, _, features = said.partition("Available features")
    return {kind: tuple(dict.fromkeys(re.findall(r"^  (\S+) +- ", part, re.MULTILINE)))
            for kind, part in (("processor", cpus), ("feature", features))}


def meant(name: str, kind: str, target: Target) -> str:
    """What somebody may have meant."""
    names = known_names(target.triple)[kind]
    near = difflib.get_close_matches(name, names, 4, 0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"it knows {', '.join(names[:12])} and {max(0, len(names) - 12)} more"


def _probe(target: Target, text: str, level: int) -> bytes:
    codegen.initialize_all()
    layout = str(codegen.Tools(target, level, False).machine.target_data)
    return f"{layout}\n{codegen.assembly_for(text, target, level=level, name='probe')}".encode()


def _object(target: Target, text: str, level: int) -> bytes:
    return codegen.object_for(text, target, level=level, name="export")


def _names(target: Target, text: str, level: int) -> bytes:
    """LLVM prints them where it prints errors."""
    import os

    os.dup2(1, 2)
    codegen.initialize_all()
    codegen.Tools(target, level, False)
    return b""


ANSWERS: dict[str, Callable[[Target, str, int], bytes]] = {"probe": _probe, "object": _object, "names": _names}


def answer() -> None:
    """Reads a request, writes what it asks for; in a process of its own."""
    request = json.load(sys.stdin.buffer)
    try:
        result = ANSWERS[request["what"]](Target(**request["target"]), request["text"], request["level"])
    except codegen.CompileError as error:
        sys.exit(f"error: {error}")
    sys.stdout.buffer.write(result)
