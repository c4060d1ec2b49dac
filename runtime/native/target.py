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

SCARCE = {"znver4": 1}  # multiply-adds of vectors of 64 bytes that begin in a cycle
CLINGING = ("znver4",)  # whose stores wait long for lines that another core has read: 17 to 70 ns for each, beside other stores


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
    pieces: int = 0  # bfloat16 numbers that stand for a float32 in contractions; 0: float32 is multiplied as it is

    @property
    def has_lookups(self) -> bool:
        """Whether 16 float32 numbers are found in a table of 32 by one instruction."""
        return self.vector_bytes == 64 and self._has("avx512f")

    @property
    def has_matrix_unit(self) -> bool:
        """Whether matrix registers multiply bfloat16, if the system keeps them for a process."""
        return self.vector_bytes == 64 and all(map(self._has, ("amx-tile", "amx-bf16", "avx512bf16")))

    @property
    def has_pairs(self) -> bool:
        """Whether vectors multiply pairs of bfloat16 as fast as float32 numbers; beside a matrix unit they are not needed."""
        return self.vector_bytes == 64 and self._has("avx512bf16") and not self.has_matrix_unit

    @property
    def multiply_adds(self) -> int:
        """Vectors of multiply-adds that a core begins in a cycle, of float32 or of pairs: most processors begin two."""
        return SCARCE.get(self.cpu, 2) if self.vector_bytes == 64 else 2

    @property
    def passes_on(self) -> bool:
        """Whether small parameters that all threads read are written past the caches."""
        return self.cpu in CLINGING

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
    target = Target(triple, cpu, features, width, registers, masks, *(caches or cache_sizes()))
    return replace(target, pieces=PIECES["highest"] if target.has_matrix_unit else 0)


@lru_cache(maxsize=len(PIECES))
def host(precision: str = "highest") -> Target:
    """The machine that runs this process, for contractions of float32 of this precision ("highest", "high" or "medium").

    With what multiplies bfloat16 where the precision is lower, unless GRAPHC_MATRIX_UNIT is 0; for the highest, which a matrix
    unit can do as well, only where that is 1: a core that is shared with other work slows a matrix unit to a third, and vectors
    to three quarters, so who has cores to himself says so.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    target = replace(describe(llvm.get_process_triple(), llvm.get_host_cpu_name(), features), pieces=0)
    said = os.environ.get("GRAPHC_MATRIX_UNIT")
    wanted = said == "1" if precision == "highest" else said != "0"
    if not wanted:
        return target
    return with_matrix_unit(target, precision) if target.has_matrix_unit else with_pairs(target, precision)


def with_matrix_unit(target: Target, precision: str = "highest") -> Target:
    """The same machine with its matrix unit, if it has one that this process may use."""
    return replace(target, pieces=PIECES[precision] if target.has_matrix_unit and permitted() else 0)


def with_pairs(target: Target, precision: str = "medium") -> Target:
    """The same machine with vectors that multiply pairs of bfloat16, if it has them.

    They multiply one piece of each number twice as fast as float32; three products of two pieces would take longer than that.
    """
    return replace(target, pieces=1 if target.has_pairs and PIECES[precision] == 1 else 0)
