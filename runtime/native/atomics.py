"""Loads, stores and exchanges that threads see in one order, and waiting for them, as LLVM text.

Knows memory orders, and how a processor is told that a thread only waits.  Must not know what lies where, or who waits for
what.
"""

from __future__ import annotations

from graphc.runtime.native.denormals import architecture
from graphc.runtime.native.emit import Function
from graphc.runtime.native.target import Target
from graphc.runtime.native.values import Value, constant, i64


def _at(f: Function, base: Value, offset: int) -> Value:
    return f.offset(base, i64(offset), "i8")


def load(f: Function, base: Value, offset: int, type_: str, order: str = "") -> Value:
    place = _at(f, base, offset)
    align = 4 if type_ == "i32" else 8
    if not order:
        return f.load(place, type_, align=align)
    return f.emit(f"load atomic {type_}, {place} {order}, align {align}", type_)


def store(f: Function, base: Value, offset: int, value: Value, order: str = "") -> None:
    place = _at(f, base, offset)
    align = 4 if value.type == "i32" else 8
    f.do(f"store {'atomic ' if order else ''}{value}, {place}{' ' + order if order else ''}, align {align}")


def update(f: Function, operation: str, base: Value, offset: int, value: Value, order: str) -> Value:
    """An atomic read-modify-write; the value before it."""
    return f.emit(f"atomicrmw {operation} {_at(f, base, offset)}, {value} {order}", value.type)


def exchange(f: Function, base: Value, offset: int, before: int, after: int) -> Value:
    """Replace the i32 at base + offset by `after` if it is `before`, atomically; whether it was (i1)."""
    place = _at(f, base, offset)
    pair = f.emit(f"cmpxchg {place}, i32 {before}, i32 {after} seq_cst seq_cst", "{ i32, i1 }")
    return f.emit(f"extractvalue {pair.type} {pair.name}, 1", "i1")


def is_number(f: Function, value: Value, number: int) -> Value:
    return f.compare("icmp eq", value, constant(number, value.type))


def pause(f: Function, target: Target) -> None:
    """Tell the processor that this thread only waits."""
    match architecture(target):
        case "x86_64":
            f.module.declare("llvm.x86.sse2.pause", "void", [])
            f.call("llvm.x86.sse2.pause", [])
        case "aarch64":  # isb waits some 10 ns; the yield hint does nothing on most cores
            f.module.declare("llvm.aarch64.isb", "void", ["i32"])
            f.call("llvm.aarch64.isb", [constant(15, "i32")])


class Rounds:
    """A loop counter from zero; `advance` at the end of a round, then branch to `header` for the next."""

    def __init__(self, f: Function, latch: str) -> None:
        self.f, self.latch = f, latch
        before, self.header = f.current, f.label("round")
        f.branch(self.header)
        f.block(self.header)
        self.phi, self.value = Value(f.fresh(), "i64"), Value("", "i64")
        self.place = len(f.lines)
        self.start = before
        f.lines.append("")

    def advance(self) -> None:
        self.value = self.f.add(self.phi, i64(1))
        self.f.lines[self.place] = (f"  {self.phi.name} = phi i64 [ 0, %{self.start} ], "
                                    f"[ {self.value.name}, %{self.latch} ]")
