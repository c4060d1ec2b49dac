"""Steps as C functions of their own: what a program for another program consists of.

``void NAME(ptr state, ptr scratch, inputs..., outputs...)`` is one step, ``void NAME_run(ptr state, ptr scratch, i64 steps,
(array, i64 stride)...)`` several, and ``void PREFIX_init(ptr state)`` gives the state its first values.  They run on the thread
that calls them.  All addresses are given or are places in what is given, all symbols but these are local, and nothing is
written elsewhere.

Knows where cells and temporaries lie in state and scratch.  Must not know headers, files, or how a plan was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from graphc.hashes import digest
from graphc.ir import Cell, Graph
from graphc.plan import ALIGNMENT, Buffer, Plan, Role, align
from graphc.records import NamedTuple

from .codegen import CompileError
from .denormals import restore_denormal_mode, set_denormal_mode
from .emit import Function, Module, Value, i64
from .kernels import NOBODY
from .lower import LANES_DIVIDED, LONG_STEP
from .meetings import plan_scratch
from .steps import Places, StepWriter, Team
from .target import Target
from .unroll import emit_unrolled_run

MARK = digest(b"graphc array")[:24]  # begins an array whose bytes are written into the finished object
MARK_BYTES = 32


class Entry(NamedTuple):
    """A function to be: its name, and the step that it does."""

    name: str
    graph: Graph
    plan: Plan
    unrolled: bool


class Standalone(NamedTuple):
    """LLVM text and the care its code is worth, the arrays that belong into the object, bytes of scratch memory."""

    text: str
    level: int
    arrays: tuple[bytes, ...]
    scratch_bytes: int


class Arrays:
    """Constant arrays of a module.  Its text says only how long they are: millions of numbers would take seconds to read.

    Each begins with a mark by which `filled` finds its place in the object; LLVM is told that something else may be there.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.found: dict[bytes, Value] = {}

    def address(self, data: bytes) -> Value:
        data += bytes(-len(data) % ALIGNMENT)
        if data not in self.found:
            name, rest = f"@array.{len(self.found)}", len(data) - MARK_BYTES
            mark = "".join(f"\\{byte:02X}" for byte in mark_of(len(self.found)))
            kind = f"{{ [{MARK_BYTES} x i8], [{rest} x i8] }}"
            value = f"{{ [{MARK_BYTES} x i8] c\"{mark}\", [{rest} x i8] zeroinitializer }}"
            self.module.globals[f"internal externally_initialized constant {kind} {value}, align {ALIGNMENT}"] = name
            self.found[data] = Value(name, "ptr")
        return self.found[data]


def mark_of(number: int) -> bytes:
    """What stands at the beginning of an array until its bytes do."""
    return MARK + number.to_bytes(MARK_BYTES - len(MARK), "little")


def filled(data: bytes, arrays: Sequence[bytes]) -> bytes:
    """The object file with its arrays' bytes."""
    result = bytearray(data)
    found: list[int] = []
    place = data.find(MARK)
    while place >= 0:
        number = int.from_bytes(data[place + len(MARK) : place + MARK_BYTES], "little")
        found.append(number)
        if number < len(arrays):
            result[place : place + len(arrays[number])] = arrays[number]
        place = data.find(MARK, place + MARK_BYTES)
    if sorted(found) != list(range(len(arrays))):
        raise CompileError("arrays are not where the object file should have them")
    return bytes(result)


def write_standalone(prefix: str, entries: Sequence[Entry], offsets: Mapping[Cell, int], state_bytes: int, target: Target,
                     flush_denormals: bool = True) -> Standalone:
    """All functions of an object file.

    offsets   where the state has each cell; ascending, each a multiple of ALIGNMENT
    """
    module = Module(lookups=target.has_lookups, rounds=target.has_rounding)
    arrays, functions = Arrays(module), dict[tuple, str]()
    scratch_bytes = 0
    for entry in entries:
        scratch_bytes = max(scratch_bytes, write_steps(module, entry, offsets, target, arrays, functions))
        write_public(module, entry, target, flush_denormals)
    write_init(module, prefix, offsets, state_bytes, arrays)
    text = module.text()
    level = 3 if any(e.unrolled for e in entries) or LANES_DIVIDED.search(text) else 2
    return Standalone(text, level, tuple(arrays.found), scratch_bytes)


def write_steps(module: Module, entry: Entry, offsets: Mapping[Cell, int], target: Target, arrays: Arrays,
                functions: dict[tuple, str]) -> int:
    """``void NAME.steps(ptr state, ptr scratch, i64 steps, (array, i64 stride in bytes)...)``; its bytes of scratch memory."""
    plan = entry.plan
    moving = (*plan.inputs, *plan.outputs)
    f = module.function(f"{entry.name}.steps", [("state", "ptr"), ("scratch", "ptr"), ("steps", "i64"), *pairs(len(moving))],
                        attributes="nounwind noinline")
    state, scratch, steps, *given = f.parameters
    places = dict(zip(moving, zip(given[::2], given[1::2], strict=True), strict=True))

    def outside(step: Value) -> Callable[[Buffer], Value]:
        def address(buffer: Buffer) -> Value:
            if buffer.role is Role.CELL:
                assert buffer.cell is not None
                return f.offset(state, i64(offsets[buffer.cell]), "i8")
            if buffer.role is Role.CONSTANT:
                return constant(buffer)
            array, stride = places[buffer]
            return f.offset(array, f.mul(step, stride), "i8")

        return address

    def constant(buffer: Buffer) -> Value:
        assert buffer.array is not None
        return arrays.address(buffer.array.tobytes())

    if entry.unrolled:
        by_node = dict(zip(entry.graph.inputs, plan.inputs, strict=True))
        emit_unrolled_run(f, entry.graph, steps, lambda node, step: outside(step)(by_node[node]),
                          lambda position, step: outside(step)(plan.outputs[position]),
                          lambda cell: f.offset(state, i64(offsets[cell]), "i8"))
        return 0
    private_bytes, shared_bytes = plan_scratch(plan, target)
    shared = f.offset(scratch, i64(align(plan.arena_bytes)), "i8")
    private = f.offset(shared, i64(shared_bytes), "i8")
    with f.loop(0, steps) as step:
        writer = StepWriter(module, f, target, constant, known=functions)
        writer.whole(plan, Places(f, plan, lambda: scratch, outside(step)), Team(i64(0), i64(1), NOBODY, private, shared))
    if f.characters >= LONG_STEP:
        f.care = 1
    return align(plan.arena_bytes) + shared_bytes + private_bytes


def pairs(count: int) -> list[tuple[str, str]]:
    """Parameters: arrays, each with its stride."""
    return [p for i in range(count) for p in ((f"array{i}", "ptr"), (f"stride{i}", "i64"))]


def write_public(module: Module, entry: Entry, target: Target, flush_denormals: bool) -> None:
    """The two functions that others call: one step, and several, for which strides count in elements."""
    moving = (*entry.plan.inputs, *entry.plan.outputs)

    def write(f: Function, steps: Value, arguments: Iterator[Value]) -> None:
        saved = set_denormal_mode(f, target) if flush_denormals else None
        f.call(f"{entry.name}.steps", [*f.parameters[:2], steps, *arguments])
        restore_denormal_mode(f, target, saved)

    memory = [("state", "ptr"), ("scratch", "ptr")]
    one = module.function(entry.name, [*memory, *pairs(len(moving))[::2]], internal=False)
    write(one, i64(1), (value for array in one.parameters[2:] for value in (array, i64(0))))
    several = module.function(f"{entry.name}_run", [*memory, ("steps", "i64"), *pairs(len(moving))], internal=False)
    _, _, steps, *given = several.parameters
    strides = [several.mul(stride, i64(b.type.dtype.itemsize)) for b, stride in zip(moving, given[1::2], strict=True)]
    write(several, steps, (value for pair in zip(given[::2], strides, strict=True) for value in pair))


def write_init(module: Module, prefix: str, offsets: Mapping[Cell, int], state_bytes: int, arrays: Arrays) -> None:
    """``void PREFIX_init(ptr state)``: zeros, and copies of arrays where values are not zero; the gaps are zeros, too."""
    f = module.function(f"{prefix}_init", [("state", "ptr")], internal=False)
    (state,) = f.parameters
    module.declare("llvm.memset.p0.i64", "void", ["ptr", "i8", "i64", "i1"])
    module.declare("llvm.memcpy.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1"])
    ends = [*offsets.values(), state_bytes][1:]
    zeros: list[tuple[int, int]] = [] if offsets else [(0, state_bytes)]
    for (cell, begin), end in zip(offsets.items(), ends, strict=True):
        data = cell.array.tobytes()
        if not np.frombuffer(data, np.uint8).any():
            if zeros and zeros[-1][1] == begin:
                begin, _ = zeros.pop()
            zeros.append((begin, end))
        else:
            to = f.offset(state, i64(begin), "i8")
            f.call("llvm.memcpy.p0.p0.i64", [to, arrays.address(data), i64(end - begin), Value("false", "i1")])
    for begin, end in zeros:
        to = f.offset(state, i64(begin), "i8")
        f.call("llvm.memset.p0.i64", [to, Value("0", "i8"), i64(end - begin), Value("false", "i1")])
