"""Matrix registers in memory, for processors that convert to bfloat16 and have no such registers."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.runtime.native.emit import Carried, Function, Value, constant, i64, vector

ROWS, ROW = 16, 64  # of a register; bytes
REGISTERS = "internal global [8 x [1024 x i8]] zeroinitializer, align 64"
LINE = vector(16, "float")


def emulated(f: Function, name: str, arguments: Sequence[Value]) -> None:
    """In place of `matrix_unit._call`: a call of a function that does what the instruction does."""
    own = f"emulated.{name}"
    if own not in f.module.functions:
        parameters = [(f"a{number}", value.type) for number, value in enumerate(arguments)]
        g = f.module.function(own, parameters, attributes="noinline nounwind")
        INSTRUCTIONS[name](g, g.parameters)
    f.call(own, arguments)


def row(f: Function, number: Value, r: Value) -> Value:
    """Where a row of a register is."""
    base = Value(f.module.globals.setdefault(REGISTERS, "@registers"), "ptr")
    register = f.mul(f.convert("zext", number, "i64"), i64(ROWS * ROW))
    return f.offset(base, f.add(register, f.mul(r, i64(ROW))), "i8")


def nothing(f: Function, arguments: Sequence[Value]) -> None:
    """Registers need not be configured."""


def zero(f: Function, arguments: Sequence[Value]) -> None:
    with f.loop(0, ROWS) as r:
        f.store(Value("zeroinitializer", LINE), row(f, arguments[0], r))


def load(f: Function, arguments: Sequence[Value]) -> None:
    number, pointer, stride = arguments
    with f.loop(0, ROWS) as r:
        f.store(f.load(f.offset(pointer, f.mul(r, stride), "i8"), LINE), row(f, number, r))


def store(f: Function, arguments: Sequence[Value]) -> None:
    number, pointer, stride = arguments
    with f.loop(0, ROWS) as r:
        f.store(f.load(row(f, number, r), LINE), f.offset(pointer, f.mul(r, stride), "i8"))


def multiply_add(f: Function, arguments: Sequence[Value]) -> None:
    """Sums of both halves of pairs, each of its own, are added at the end, as TDPBF16PS does."""
    sums, a, b = arguments
    with f.loop(0, ROWS) as r:
        halves = Carried([Value("zeroinitializer", LINE)] * 2)
        with f.loop(0, ROWS, carried=halves) as k:
            one = f.broadcast(f.load(f.offset(row(f, a, r), k, "i32"), "i32"), 16)
            pairs = one, f.load(row(f, b, k), one.type)
            low, high = ([f.binary(opcode, x, constant(bits, x.type)) for x in pairs]
                         for opcode, bits in (("shl", 16), ("and", -1 << 16)))
            halves.next = [f.fma(*(f.emit(f"bitcast {x} to {LINE}", LINE) for x in half), before)
                           for half, before in zip((low, high), halves.values, strict=True)]
        total = f.binary("fadd", f.load(row(f, sums, r), LINE), f.binary("fadd", *halves.results))
        f.store(total, row(f, sums, r))


INSTRUCTIONS = {"ldtilecfg": nothing, "tilerelease": nothing, "tilezero": zero, "tileloadd64": load, "tilestored64": store,
                "tdpbf16ps": multiply_add}
