"""bfloat16 in vectors: conversion from float32, and sums of products of pairs, as LLVM intrinsics of x86.

Knows instructions.  Must not know what is multiplied.  Source: Intel 64 and IA-32 Architectures Software Developer's
Manual, volume 2: VCVTNE2PS2BF16, VDPBF16PS.
"""

from __future__ import annotations

from graphc.runtime.native.emit import Function, Value
from graphc.runtime.native.values import vector


def to_bfloat16(f: Function, low: Value, high: Value) -> Value:
    """32 bfloat16 numbers, as integers: the nearest to 16 float32, and to 16 more; denormal ones are zero."""
    name, numbers, bits = "llvm.x86.avx512bf16.cvtne2ps2bf16.512", vector(32, "bfloat"), vector(32, "i16")
    f.module.declare(name, numbers, [high.type, low.type])
    return f.emit(f"bitcast {f.call(name, [high, low], numbers)} to {bits}", bits)


def multiply_add_pairs(f: Function, a: Value, b: Value, sums: Value) -> Value:
    """``sums[j] + a[j, 0] * b[j, 0] + a[j, 1] * b[j, 1]`` in float32, where each of 16 float32 of a and b stands for a pair.

    A broadcast of an element in memory is an operand of the instruction only as `b`.
    """
    name, pairs = "llvm.x86.avx512bf16.dpbf16ps.512", vector(2 * sums.lanes, "bfloat")
    f.module.declare(name, sums.type, [sums.type, pairs, pairs])
    x, y = (f.emit(f"bitcast {v} to {pairs}", pairs) for v in (a, b))
    return f.call(name, [sums, x, y], sums.type)
