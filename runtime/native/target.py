"""The machine that code is generated for: vector width, registers, caches.

Knows what LLVM and the operating system tell about a processor.  Must not know what is generated for it.
"""

from __future__ import annotations

import os
from functools import lru_cache

from graphc.runtime.native.permission import permitted

from graphc.records import record, replace

CACHE_FOLDER = "/sys/devices/system/cpu/cpu0/cache"  # where Linux tells
PIECES = {"highest": 3, "high": 2, "medium": 1}  # that stand for a float32, by the precision of contractions


@record(frozen=True)
class Target:
    """Everything that generated code depends on; part of the key of the disk cache."""

    triple: str
    cpu: str
    features: str
    vector_bytes: int  # width of one vector register
    registers: int  # number of vector registers
    has_masks: bool  # masked loads and stores are single instructions
    l1_bytes: int
    l2_bytes: int  # per core
    l3_bytes: int
    pieces: int = 0  # bfloat16 numbers that stand for a float32 where a matrix unit multiplies them; 0: none does

    @property
    def has_lookups(self) -> bool:
        """Whether 16 float32 numbers are found in a table of 32 by one instruction."""
        return self.vector_bytes == 64 and self._has("avx512f")

    @property
    def has_fma(self) -> bool:
        """Whether a fused multiply-add is an instruction; elsewhere LLVM calls a library function per lane."""
        if self.triple.startswith(("x86_64", "amd64", "i686")):
            return self._has("fma")
        return self.triple.startswith(("aarch64", "arm64")) or self._has("d")

    @property
    def has_rounding(self) -> bool:
        """Whether floor, ceil, trunc and round are instructions, or a few of them; elsewhere LLVM calls library functions."""
        return not self.triple.startswith(("x86_64", "amd64", "i686")) or self.vector_bytes > 16 or self._has("sse4.1")

    def _has(self, feature: str) -> bool:
        return f"+{feature}," in self.features + ","

    def lanes(self, itemsize: int) -> int:
        """Elements of this many bytes in one vector register."""
        return max(1, self.vector_bytes // itemsize)


CACHES = 32 << 10, 512 << 10, 4 << 20  # L1 data, L2, L3: bytes that few current cores are below


def _told(folder: str, what: str) -> str:
    with open(os.path.join(CACHE_FOLDER, folder, what)) as file:
        return file.read().strip()


def cache_sizes() -> tuple[int, int, int]:
    """(L1 data, L2, L3) bytes of core 0 where the system tells (Linux), else CACHES."""
    sizes = dict(enumerate(CACHES, 1))
    try:
        for folder in (name for name in os.listdir(CACHE_FOLDER) if name.startswith("index")):
            kind, text, level = (_told(folder, what) for what in ("type", "size", "level"))
            if kind != "Instruction":
                unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1], 1)
                sizes[int(level)] = int(text.rstrip("KM")) * unit
    except (OSError, ValueError):
        pass  # not Linux, or a container that hides the tree: the defaults stand
    return sizes[1], sizes[2], sizes[3]


def describe(triple: str, cpu: str, features: str, caches: tuple[int, int, int] | None = None) -> Target:
    """The Target for a CPU given by LLVM's names, for example of another machine; caches: this machine's by default."""
    has = set(f[1:] for f in features.split(",") if f.startswith("+"))
    arch = triple.split("-")[0]
    if arch in ("x86_64", "amd64", "i686"):
        if {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= has:
            width, registers, masks = 64, 32, True
        elif {"avx2", "fma"} <= has:
            width, registers, masks = 32, 16, False
        else:
            width, registers, masks = 16, 16, False
    elif arch.startswith(("aarch64", "arm64")):
        width, registers, masks = 16, 32, False
    elif arch == "riscv64" and "d" in has:
        width, registers, masks = 16, 32 if "v" in has else 8, False  # without vectors four numbers are four registers
    else:
        width, registers, masks = 16, 16, False
    return Target(triple, cpu, features, width, registers, masks, *(caches or cache_sizes()),
                  pieces=PIECES["highest"] if masks and {"amx-tile", "amx-bf16", "avx512bf16"} <= has else 0)


@lru_cache(maxsize=len(PIECES))
def host(precision: str = "highest") -> Target:
    """The machine that runs this process, for contractions of float32 of this precision ("highest", "high" or "medium").

    With its matrix unit where the precision is lower, unless GRAPHC_MATRIX_UNIT is 0; for the highest only where that is 1:
    a core that is shared with other work slows a matrix unit to a third, and vectors to three quarters, so who has cores to
    himself says so.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    target = describe(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)
    said = os.environ.get("GRAPHC_MATRIX_UNIT")
    wanted = said == "1" if precision == "highest" else said != "0"
    return with_matrix_unit(target, precision) if wanted else replace(target, pieces=0)


def with_matrix_unit(target: Target, precision: str = "highest") -> Target:
    """The same machine with its matrix unit, if it has one that this process may use."""
    there = describe(target.triple, target.cpu, target.features).pieces > 0
    return replace(target, pieces=PIECES[precision] if there and permitted() else 0)
