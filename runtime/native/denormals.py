"""Flushing denormal numbers to zero inside native functions, and giving the caller's mode back.

Knows the control registers of x86-64 (MXCSR) and AArch64 (FPCR).  Must not know what is computed.

The mode belongs to a thread: every thread sets it at entry and restores it at return.  LLVM does not order ordinary
arithmetic against these registers, so the computing belongs into a function of its own that is called in between and
marked ``noinline``, or between loads and stores that cannot move.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Function
from graphc.runtime.native.target import Target
from graphc.runtime.native.values import Value, constant

MXCSR_FLUSH = 0x8040  # bit 15 flush results to zero, bit 6 read denormals as zero (Intel SDM volume 1, 10.2.3)
FPCR_FLUSH = 1 << 24  # FZ: both, for float32 and float64 (Arm ARM, FPCR)


def architecture(target: Target) -> str:
    """``x86_64``, ``aarch64`` or the triple's own first part."""
    first = target.triple.split("-")[0]
    if first in ("x86_64", "amd64"):
        return "x86_64"
    return "aarch64" if first.startswith(("aarch64", "arm64")) else first


def set_denormal_mode(function: Function, target: Target) -> Value | None:
    """Flush denormals from here on; the mode that was, for `restore_denormal_mode`.  None where nothing is known."""
    module = function.module
    match architecture(target):
        case "x86_64":
            module.declare("llvm.x86.sse.stmxcsr", "void", ["ptr"])
            module.declare("llvm.x86.sse.ldmxcsr", "void", ["ptr"])
            saved, changed = function.stack("i32", 1, 4), function.stack("i32", 1, 4)
            function.call("llvm.x86.sse.stmxcsr", [saved])
            mode = function.binary("or", function.load(saved, "i32"), constant(MXCSR_FLUSH, "i32"))
            function.store(mode, changed)
            function.call("llvm.x86.sse.ldmxcsr", [changed])
            return saved
        case "aarch64":
            module.declare("llvm.aarch64.get.fpcr", "i64", [])
            module.declare("llvm.aarch64.set.fpcr", "void", ["i64"])
            saved = function.call("llvm.aarch64.get.fpcr", [], "i64")
            mode = function.binary("or", saved, constant(FPCR_FLUSH, "i64"))
            function.call("llvm.aarch64.set.fpcr", [mode])
            return saved
    return None


def restore_denormal_mode(function: Function, target: Target, saved: Value | None) -> None:
    """Give back the mode that `set_denormal_mode` returned."""
    if saved is None:
        return
    name = "llvm.x86.sse.ldmxcsr" if architecture(target) == "x86_64" else "llvm.aarch64.set.fpcr"
    function.call(name, [saved])
