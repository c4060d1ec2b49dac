"""LLVM IR as text: a small writer.

Knows LLVM's syntax: modules, functions, blocks, instructions.  Must not know graphs, ops, plans or numerics.  Text is written
directly because building and printing an object tree costs more than LLVM's own parser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .values import SIZES, Number, Value, constant, element, i64, lane_numbers, literal, mangled, vector

QUICK = "nounwind noinline optnone"  # attributes of functions for which LLVM leaves most of its passes out

new_tuple = tuple.__new__
# instructions whose results depend on nothing but their operands
COMPUTES = frozenset((
    "add", "sub", "mul", "udiv", "urem", "sdiv", "srem", "and", "or", "xor", "shl", "lshr", "ashr", "icmp", "fadd", "fsub",
    "fmul", "fdiv", "fneg", "fcmp", "select", "getelementptr", "insertelement", "extractelement", "shufflevector", "bitcast",
    "trunc", "zext", "sext", "fptrunc", "fpext", "sitofp", "fptosi"))


class Module:
    """A translation unit: functions, declarations, global constants.

    lookups   whether its processor finds 16 float32 numbers in a table of 32 by one instruction
    rounds    whether it has instructions that round to whole numbers
    """

    def __init__(self, *, lookups: bool = False, rounds: bool = True) -> None:
        self.lookups, self.rounds = lookups, rounds
        self.functions: dict[str, Function] = {}
        self.declarations: dict[str, str] = {}
        self.globals: dict[str, str] = {}
        self.outlined: dict[tuple[str, int], str] = {}  # what parts of functions say, what care they are worth, and their names

    def declare(self, name: str, returns: str, parameters: Sequence[str]) -> None:
        self.declarations.setdefault(name, f"declare {returns} @{name}({', '.join(parameters)})")

    def table(self, values: Sequence[Number], scalar: str) -> Value:
        """A pointer to a constant array; equal arrays are shared."""
        spelled = map(str, map(int, values)) if scalar == "i64" else (literal(v, scalar) for v in values)  # many are offsets
        body = f", {scalar} ".join(spelled)
        text = f"private unnamed_addr constant [{len(values)} x {scalar}] [{scalar} {body}], align 64"
        name = self.globals.setdefault(text, f"@table.{len(self.globals)}")
        return Value(name, "ptr")

    def counters(self, count: int) -> Value:
        """A pointer to `count` words that are zero when the code is loaded; every call gives other words."""
        name = f"@counters.{len(self.globals)}"
        self.globals[f"internal global [{count} x i64] zeroinitializer, align 64 ; {name[1:]}"] = name
        return Value(name, "ptr")

    def function(self, name: str, parameters: Sequence[tuple[str, str]], *, returns: str = "void",
                 internal: bool = True, attributes: str = "nounwind", care: int = 2) -> Function:
        """A new function; parameters are (name, type) where type may carry attributes: ``"ptr noalias"``; care: see there."""
        function = Function(self, name, parameters, returns, internal, attributes, care)
        self.functions[name] = function
        return function

    def text(self, triple: str = "", layout: str = "") -> str:
        parts = [f'target datalayout = "{layout}"'] if layout else []
        parts += [f'target triple = "{triple}"'] if triple else []
        parts += [f"{name} = {text}" for text, name in self.globals.items()]
        parts += [text for name, text in self.declarations.items() if name not in self.functions]
        parts += [function.text() for function in self.functions.values()]
        return "\n".join(parts) + "\n"


class Carried:
    """Loop-carried values: read them inside the loop, set `next` before it ends, use `results` after it."""

    def __init__(self, values: Sequence[Value]) -> None:
        self.values = list(values)  # the phis, inside the loop
        self.next = list(values)  # what the next iteration sees
        self.again: Value | None = None  # of `repeat`: whether there is a next iteration
        self.results: list[Value] = []  # after the loop


class Function:
    """Writes one function, instruction by instruction, at the end of the current block.

    care    how much of LLVM's time its code is worth.  2: all that pays.  1: few passes, for what mostly calls.  0: not even
            registers are allotted with care, for what takes no time worth mentioning
    """

    def __init__(self, module: Module, name: str, parameters: Sequence[tuple[str, str]], returns: str,
                 internal: bool, attributes: str, care: int) -> None:
        self.module, self.name, self.returns = module, name, returns
        self.parameters = [Value(f"%{n}", t[: t.index(">") + 1] if t.startswith("<") else t.split(" ")[0])
                           for n, t in parameters]
        self.attributes, self.care = attributes, care
        named = ", ".join(f"{t} %{n}" for n, t in parameters)
        self._head = f"define {'internal ' if internal else ''}{returns} @{name}({named})"
        self.declaration = f"declare {returns} @{name}({', '.join(t for _, t in parameters)}) {attributes}"
        self.lines: list[str] = ["entry:"]
        self.stack_lines: list[str] = []  # allocas belong to the entry block, wherever they are asked for
        self.current = "entry"
        self.computed: dict[str, Value] = {}  # the instructions of the current block that only compute
        self.count, self.finished = 0, False

    def text(self) -> str:
        head = f"{self._head} {self.attributes if self.care == 2 else QUICK} {{"
        end = [] if self.finished else ["  ret void"]
        return "\n".join([head, self.lines[0], *self.stack_lines, *self.lines[1:], *end, "}"])

    @property
    def always_inlined(self) -> bool:
        return "alwaysinline" in self.attributes

    @property
    def has_vectors(self) -> bool:
        return any(" x " in line for line in self.lines)

    @property
    def characters(self) -> int:
        """About how long the text is."""
        return sum(map(len, self.lines)) + len(self.lines)

    # -- instructions ------------------------------------------------------------------------------------------

    def fresh(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def emit(self, text: str, type_: str) -> Value:
        """One instruction with a result; the one before where the block has it already and it only computes."""
        value = self.computed.get(text)
        if value is None:
            self.count += 1
            name = f"%v{self.count}"
            self.lines.append(f"  {name} = {text}")
            value = new_tuple(Value, (name, type_))  # thousands of them: half the time of Value(...)
            if text.partition(" ")[0] in COMPUTES:
                self.computed[text] = value
        return value

    def do(self, text: str) -> None:
        """One instruction without a result."""
        self.lines.append("  " + text)

    def binary(self, opcode: str, a: Value, b: Value) -> Value:
        """``add``, ``fmul``, ``and`` ...; integer arithmetic with small constants is folded on the spot."""
        x, y = a.number, b.number
        if x is not None and y is not None and opcode in ("add", "sub", "mul"):
            return Value(str({"add": x + y, "sub": x - y, "mul": x * y}[opcode]), a.type)
        if (opcode in ("add", "sub") and y == 0) or (opcode in ("mul", "sdiv", "udiv") and y == 1):
            return a
        if (opcode == "add" and x == 0) or (opcode == "mul" and x == 1):
            return b
        if opcode == "mul" and (x == 0 or y == 0):
            return Value("0", a.type)
        if opcode in ("udiv", "urem") and y is not None and y > 0 and not y & (y - 1):
            opcode, number = ("lshr", y.bit_length() - 1) if opcode == "udiv" else ("and", y - 1)
            b = Value(str(number), b.type)
        return self.emit(f"{opcode} {a.type} {a.name}, {b.name}", a.type)

    def add(self, a: Value, b: Value) -> Value:
        return self.binary("add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.binary("sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.binary("mul", a, b)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        return self.intrinsic("llvm.fma", [a, b, c])

    def minimum(self, a: Value, b: Value) -> Value:
        """Signed integer minimum."""
        if a.number is not None and b.number is not None:
            return a if a.number <= b.number else b
        return self.select(self.compare("icmp slt", a, b), a, b)

    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """predicate with its opcode: ``"icmp slt"``, ``"fcmp olt"``."""
        return self.emit(f"{predicate} {a.type} {a.name}, {b.name}", vector(a.lanes, "i1"))

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.emit(f"select {condition}, {a}, {b}", a.type)

    def convert(self, opcode: str, a: Value, scalar: str) -> Value:
        """``fpext``, ``sitofp``, ``zext`` ... to the given scalar type, lane by lane."""
        to = vector(a.lanes, scalar)
        return self.emit(f"{opcode} {a} to {to}", to)

    def call(self, name: str, arguments: Sequence[Value], returns: str = "void") -> Value:
        text = f"call {returns} @{name}({', '.join(map(str, arguments))})"
        if returns != "void":
            return self.emit(text, returns)
        self.do(text)
        return Value("void", "void")

    def intrinsic(self, name: str, arguments: Sequence[Value], extra: Sequence[Value] = ()) -> Value:
        """An intrinsic overloaded on, and returning, the type of its first argument."""
        type_ = arguments[0].type
        full = f"{name}.{mangled(type_)}"
        everything = [*arguments, *extra]
        self.module.declare(full, type_, [v.type for v in everything])
        return self.call(full, everything, type_)

    def broadcast(self, scalar: Value, count: int) -> Value:
        """The scalar in every lane; the scalar itself where count is 0."""
        if not count:
            return scalar
        type_ = vector(count, scalar.type)
        if not scalar.name.startswith(("%", "@")):
            return Value(f"splat ({scalar})", type_)
        one = self.emit(f"insertelement {type_} poison, {scalar}, i64 0", type_)
        return self.emit(f"shufflevector {one}, {type_} poison, <{count} x i32> zeroinitializer", type_)

    def shuffle(self, a: Value, order: Sequence[int | None], b: Value | None = None) -> Value:
        """A vector whose lane i is lane order[i] of `a`, or of `b` behind it; anything where that is None."""
        type_ = vector(len(order), a.element)
        lanes = ", ".join("i32 poison" if o is None else f"i32 {o}" for o in order)
        return self.emit(f"shufflevector {a}, {a.type} {b.name if b else 'poison'}, <{len(order)} x i32> <{lanes}>", type_)

    def extract(self, value: Value, lane: int) -> Value:
        return self.emit(f"extractelement {value}, i64 {lane}", value.element)

    def insert(self, value: Value, scalar: Value, lane: int) -> Value:
        return self.emit(f"insertelement {value}, {scalar}, i64 {lane}", value.type)

    # -- memory ------------------------------------------------------------------------------------------------

    def offset(self, pointer: Value, index: Value, scalar: str) -> Value:
        """The address of element `index` (i64) of an array of `scalar`."""
        if index.number == 0:
            return pointer
        return self.emit(f"getelementptr inbounds {scalar}, {pointer}, {index}", "ptr")

    def load(self, pointer: Value, type_: str, *, align: int | None = None) -> Value:
        return self.emit(f"load {type_}, {pointer}, align {align or SIZES[element(type_)]}", type_)

    def store(self, value: Value, pointer: Value, *, align: int | None = None, past: bool = False) -> None:
        """past: past the caches, a vector that is aligned as a whole."""
        if past:
            self.do(f"store {value}, {pointer}, align {value.lanes * SIZES[value.element]}, !nontemporal !{{i32 1}}")
        else:
            self.do(f"store {value}, {pointer}, align {align or SIZES[value.element]}")

    def masked_load(self, pointer: Value, type_: str, mask: Value, other: Value | None = None) -> Value:
        """Lanes whose mask is false read nothing and yield `other` (zero by default)."""
        other = other or Value("zeroinitializer", type_)
        name = f"llvm.masked.load.{mangled(type_)}.p0"
        align = SIZES[element(type_)]
        self.module.declare(name, type_, ["ptr", "i32", mask.type, type_])
        return self.call(name, [pointer, Value(str(align), "i32"), mask, other], type_)

    def masked_store(self, value: Value, pointer: Value, mask: Value) -> None:
        name = f"llvm.masked.store.{mangled(value.type)}.p0"
        self.module.declare(name, "void", [value.type, "ptr", "i32", mask.type])
        self.call(name, [value, pointer, Value(str(SIZES[value.element]), "i32"), mask])

    def gather(self, pointer: Value, index: Value, scalar: str, mask: Value | None = None) -> Value:
        """Lane i reads element index[i] of an array of `scalar`; masked-off lanes yield zero and read nothing."""
        count = index.lanes
        type_, pointers = vector(count, scalar), vector(count, "ptr")
        addresses = self.emit(f"getelementptr inbounds {scalar}, {pointer}, {index}", pointers)
        mask = mask or constant(True, vector(count, "i1"))
        name = f"llvm.masked.gather.{mangled(type_)}.v{count}p0"
        self.module.declare(name, type_, [pointers, "i32", mask.type, type_])
        return self.call(name, [addresses, Value(str(SIZES[scalar]), "i32"), mask, Value("zeroinitializer", type_)],
                         type_)

    def scatter(self, value: Value, pointer: Value, index: Value, mask: Value | None = None) -> None:
        """Lane i of the value goes to element index[i]; masked-off lanes write nothing."""
        count = index.lanes
        pointers = vector(count, "ptr")
        addresses = self.emit(f"getelementptr inbounds {value.element}, {pointer}, {index}", pointers)
        mask = mask or constant(True, vector(count, "i1"))
        name = f"llvm.masked.scatter.{mangled(value.type)}.v{count}p0"
        self.module.declare(name, "void", [value.type, pointers, "i32", mask.type])
        self.call(name, [value, addresses, Value(str(SIZES[value.element]), "i32"), mask])

    def prefetch(self, pointer: Value, *, write: bool = False, locality: int = 3) -> None:
        self.module.declare("llvm.prefetch.p0", "void", ["ptr", "i32", "i32", "i32"])
        self.do(f"call void @llvm.prefetch.p0({pointer}, i32 {int(write)}, i32 {locality}, i32 1)")

    def load_anew(self) -> None:
        """No load after this is merged with an equal one before; no instruction."""
        self.do('fence syncscope("singlethread") seq_cst')

    def stack(self, scalar: str, count: int, align: int = 64) -> Value:
        """Memory for `count` scalars that lives until the function returns."""
        name = self.fresh()
        self.stack_lines.append(f"  {name} = alloca [{count} x {scalar}], align {align}")
        return Value(name, "ptr")

    def lane_mask(self, remaining: Value, count: int) -> Value:
        """Mask whose lane i is true where i < remaining (i64)."""
        return self.compare("icmp sgt", self.broadcast(remaining, count), lane_numbers(count))

    def bits_mask(self, bits: Value, count: int) -> Value:
        """Mask whose lane i is bit i of `bits`."""
        return self.emit(f"bitcast {self.convert('trunc', bits, f'i{count}')} to <{count} x i1>", vector(count, "i1"))

    # -- control -----------------------------------------------------------------------------------------------

    def label(self, name: str) -> str:
        self.count += 1
        return f"{name}.{self.count}"

    def block(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.current = label
        self.computed = {}

    def branch(self, label: str) -> None:
        self.do(f"br label %{label}")

    def branch_if(self, condition: Value, then: str, otherwise: str) -> None:
        self.do(f"br {condition}, label %{then}, label %{otherwise}")

    def either(self, values: Sequence[Value], before: str, others: Sequence[Value], latter: str) -> list[Value]:
        """At the top of a block: `values` where control came from block `before`, `others` where from block `latter`."""
        return [self.emit(f"phi {value.type} [ {value.name}, %{before} ], [ {other.name}, %{latter} ]", value.type)
                for value, other in zip(values, others, strict=True)]

    def ret(self, value: Value | None = None) -> None:
        self.do(f"ret {value}" if value else "ret void")
        self.finished = True

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """The body runs where the condition (i1) holds."""
        then, done = self.label("then"), self.label("done")
        self.branch_if(condition, then, done)
        self.block(then)
        yield
        self.branch(done)
        self.block(done)

    @contextmanager
    def repeat(self, carried: Carried) -> Iterator[None]:
        """The body runs at least once, and again as long as the condition `carried.again` (i1) holds at its end."""
        body, done = self.label("loop"), self.label("end")
        initial, before = list(carried.values), self.current
        self.branch(body)
        self.block(body)
        phis = [Value(self.fresh(), v.type) for v in initial]
        place = len(self.lines)
        self.lines.append("")  # the phis, written when the latch is known
        carried.values, carried.next = list(phis), list(phis)
        yield
        latch = self.current
        assert carried.again is not None
        self.branch_if(carried.again, body, done)
        self.lines[place] = "\n".join(f"  {p.name} = phi {p.type} [ {v.name}, %{before} ], [ {n.name}, %{latch} ]"
                                      for p, v, n in zip(phis, initial, carried.next, strict=True))
        self.block(done)
        carried.results = list(carried.next)

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: int = 1,
             carried: Carried | None = None) -> Iterator[Value]:
        """``for index in range(start, stop, step)``; yields the index (i64).

        It is tested before it begins, unless its constant bounds show that it does, and then at its end: tested at its top
        it would need rotation, or copies of all that it carries.  A loop whose bounds are constants and which runs once
        is not a loop: its body is written straight on.
        """
        first = start if isinstance(start, Value) else i64(start)
        last = stop if isinstance(stop, Value) else i64(stop)
        carried = carried if carried is not None else Carried([])
        if first.number is not None and last.number is not None and first.number < last.number <= first.number + step:
            yield first
            carried.results = list(carried.next)
            return
        body, done = self.label("loop"), self.label("end")
        initial, before = list(carried.values), self.current
        outside = before
        certain = first.number is not None and last.number is not None and first.number < last.number
        if not certain:
            before = self.label("enter")  # a place for what the loop does not change
            self.branch_if(self.compare("icmp slt", first, last), before, done)
            self.block(before)
        self.branch(body)
        self.block(body)
        index = Value(self.fresh(), "i64")
        phis = [Value(self.fresh(), v.type) for v in initial]
        place = len(self.lines)
        self.lines.append("")  # the phis, written when the latch is known
        carried.values, carried.next = list(phis), list(phis)
        yield index
        after = self.add(index, i64(step))
        latch = self.current
        self.branch_if(self.compare("icmp slt", after, last), body, done)
        rows = [f"  {index.name} = phi i64 [ {first.name}, %{before} ], [ {after.name}, %{latch} ]"]
        rows += [f"  {p.name} = phi {p.type} [ {v.name}, %{before} ], [ {n.name}, %{latch} ]"
                 for p, v, n in zip(phis, initial, carried.next, strict=True)]
        self.lines[place] = "\n".join(rows)
        self.block(done)
        carried.results = list(carried.next) if certain else [
            self.emit(f"phi {v.type} [ {v.name}, %{outside} ], [ {n.name}, %{latch} ]", v.type)
            for v, n in zip(initial, carried.next, strict=True)]
