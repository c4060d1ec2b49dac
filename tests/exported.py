"""How the tests run exported programs: by the system's C compiler where there is one, else by LLVM's own loader."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
from graphc.runtime.native import codegen, jit

STRICT = ("-O1", "-Wall", "-Wextra", "-Werror", "-pedantic")
COMPILER, CPP = shutil.which("cc"), shutil.which("c++")
C = {"float32": "float", "float64": "double", "int32": "int32_t", "int64": "int64_t", "bool": "uint8_t"}
_loaders: list[object] = []  # never disposed: code points into them

MAIN = """#include <stdio.h>
#include "{prefix}.h"

static unsigned char memory[{macro}_STATE_BYTES + {macro}_SCRATCH_BYTES + 2 * {macro}_ALIGNMENT];
{arrays}

static void get(void *to, size_t size, FILE *file) {{
    if (fread(to, 1, size, file) != size) size = 0;
}}

static void put(const void *from, size_t size, FILE *file) {{
    fwrite(from, 1, size, file);
}}

int main(int argc, char **argv) {{
    unsigned char *state = memory, *scratch;
    FILE *in = fopen(argv[argc - 2], "rb"), *out = fopen(argv[argc - 1], "wb");
    if (in == NULL || out == NULL) return 1;
    while ((uintptr_t)state % {macro}_ALIGNMENT) state++;
    scratch = state + {macro}_STATE_BYTES;
{body}
    return fclose(in) || fclose(out);
}}
"""


class Exported:
    """An object file and its header.

    offsets   bytes from the state's beginning, by the name in `state_dict`
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.object, self.header = paths
        self.data, self.text = self.object.read_bytes(), self.header.read_text()
        self.prefix = self.object.stem
        self.offsets = {m[2]: int(m[1]) for m in re.finditer(r"_AT_\w+ +(\d+) +/\* [^:]*: (.*) \*/", self.text)}

    def number(self, name: str) -> int:
        found = re.search(rf"#define {self.prefix.upper()}_{name} +(\d+)", self.text)
        assert found is not None
        return int(found[1])

    def values(self, state: bytes, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The state's arrays."""
        return {name: np.frombuffer(state, a.dtype, a.size, self.offsets[name]).reshape(a.shape) for name, a in like.items()}

    def train(self, name: str, feeds: Sequence[np.ndarray], outputs: Sequence[tuple[tuple[int, ...], str]], one_by_one: int,
              together: int, folder: Path) -> tuple[list[np.ndarray], bytes]:
        """From the first values on: steps in calls of their own and then as many in one call, which read entry after entry
        of `feeds`; all outputs, and the state's bytes."""
        steps = one_by_one + together
        results = [np.zeros((steps, *shape), dtype) for shape, dtype in outputs]
        run = self._compiled if COMPILER else self._loaded
        return results, run(name, feeds, results, one_by_one, together, folder)

    def _compiled(self, name: str, feeds: Sequence[np.ndarray], results: list[np.ndarray], one_by_one: int, together: int,
                  folder: Path) -> bytes:
        arrays = [*((f"in{i}", a) for i, a in enumerate(feeds)), *((f"out{i}", a) for i, a in enumerate(results))]
        each = [f"{n} + {a[0].size} * i" for n, a in arrays]
        rest = [f"{n} + {a[0].size * one_by_one}, {a[0].size}" for n, a in arrays]
        body = [*(f"get({n}, sizeof {n}, in);" for n, _ in arrays[:len(feeds)]), f"{self.prefix}_init(state);",
                f"for (int i = 0; i < {one_by_one}; i++) {name}(state, scratch, {', '.join(each)});",
                f"{name}_run(state, scratch, {together}, {', '.join(rest)});",
                *(f"put({n}, sizeof {n}, out);" for n, _ in arrays[len(feeds):]),
                f"put(state, {self.prefix.upper()}_STATE_BYTES, out);"]
        source = MAIN.format(prefix=self.prefix, macro=self.prefix.upper(), body="\n".join(f"    {line}" for line in body),
                             arrays="\n".join(f"static {C[a.dtype.name]} {n}[{a.size}];" for n, a in arrays))
        (folder / "in").write_bytes(b"".join(a.tobytes() for a in feeds))
        compile_c(folder / "main.c", source, self.object, std="c99")
        subprocess.run([folder / "main", folder / "in", folder / "out"], check=True)
        data = (folder / "out").read_bytes()
        for array in results:
            array.reshape(-1)[:] = np.frombuffer(data, array.dtype, array.size)
            data = data[array.nbytes:]
        return data

    def _loaded(self, name: str, feeds: Sequence[np.ndarray], results: list[np.ndarray], one_by_one: int, together: int,
                folder: Path) -> bytes:
        functions = load(self.data, (f"{self.prefix}_init", name, f"{name}_run"))
        memory = aligned(self.number("STATE_BYTES") + self.number("SCRATCH_BYTES"))
        memory[:] = 0xFF
        state, scratch = address(memory), address(memory) + self.number("STATE_BYTES")
        call(functions[0], state)
        arrays = [*feeds, *results]
        for i in range(one_by_one):
            call(functions[1], state, scratch, *(address(a[i:]) for a in arrays))
        call(functions[2], state, scratch, together, *(v for a in arrays for v in (address(a[one_by_one:]), a[0].size)))
        return memory[:self.number("STATE_BYTES")].tobytes()


def compile_c(file: Path, source: str, *objects: Path, std: str, compiler: str | None = None) -> None:
    """A program beside its source."""
    file.write_text(source)
    command = [compiler or COMPILER or "cc", f"-std={std}", *STRICT, f"-I{objects[0].parent}", str(file), *map(str, objects)]
    done = subprocess.run([*command, "-lm", "-o", str(file.with_suffix(""))], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def load(data: bytes, names: Sequence[str]) -> list[int]:
    """Addresses of functions in an object file."""
    codegen.initialize()
    _loaders.append(llvm.create_lljit_compiler(None, use_jit_link=True, suppress_errors=True))
    builder = llvm.JITLibraryBuilder()
    builder.add_object_img(data)
    library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else ctypes.util.find_library("m"))
    symbols = {n: ctypes.cast(getattr(library, n), ctypes.c_void_p).value for n in ("fma", "fmaf")} | jit.runtime_symbols()
    for name, place in symbols.items():
        builder.import_symbol(name, place)
    for name in names:
        builder.export_symbol(name)
    linked = builder.link(_loaders[-1], "exported")
    _loaders.append(linked)
    return [int(linked[name]) for name in names]


def call(function: int, *arguments: int) -> None:
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(function)(*arguments)


def aligned(size: int) -> np.ndarray:
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start:start + size]


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def sections(data: bytes) -> dict[str, tuple[int, int]]:
    """(flags, bytes) of the sections of a 64-bit ELF file."""
    table, = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    start = rows[names][4]
    return {data[start + r[0]:data.index(b"\0", start + r[0])].decode(): (r[2], r[5]) for r in rows}
