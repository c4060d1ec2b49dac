"""Programs that are compiled as several texts by several threads: the same bits and objects, however they are cut."""

from __future__ import annotations

import ctypes
import sys
import threading
import time

import numpy as np
import pytest
from graphc.runtime.native import cache, codegen, jit, lower
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.executable import Native
from graphc.runtime.native.parallel import at_once
from graphc.runtime.native.target import describe, host
from graphc.runtime.native.texts import Text, Texts
from graphc.runtime.native.values import i64

import graphc
from graphc import nn, optim
from graphc.plan import repeated

CALL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def towers(count: int, quick: bool = False) -> Module:
    """``i64 top(i64 x)``: a chain of functions that share an array, a counter and a function that is always inlined.

    quick   `top` and every third function are worth no care
    """
    module = Module()
    twice = module.function("twice", [("x", "i64")], returns="i64", attributes="alwaysinline nounwind")
    twice.ret(twice.mul(twice.parameters[0], i64(2)))
    numbers, seen = module.table(range(10, 10 + count), "i64"), module.counters(1)
    for floor in range(count):
        f = module.function(f"floor.{floor}", [("x", "i64")], returns="i64", attributes="noinline nounwind",
                            care=0 if quick and floor % 3 == 1 else 2)
        x = f.parameters[0] if floor == 0 else f.call(f"floor.{floor - 1}", f.parameters, "i64")
        f.store(f.add(f.load(seen, "i64"), i64(1)), seen)
        f.ret(f.add(f.call("twice", [x], "i64"), f.load(f.offset(numbers, i64(floor), "i64"), "i64")))
    top = module.function("top", [("x", "i64")], returns="i64", internal=False, care=0 if quick else 2)
    below = top.call(f"floor.{count - 1}", top.parameters, "i64")
    top.ret(top.add(below, top.mul(top.load(seen, "i64"), i64(1000))))
    return module


def cut(module: Module, characters: int, last: tuple[str, ...] = ()) -> list[Text]:
    return list(Texts(module, characters, last).rest())


def units(texts: list[Text]) -> list[codegen.Unit]:
    return [codegen.Unit(text, 0 if quick else 2) for text, quick in texts]


def expected(count: int, x: int, calls: int) -> int:
    for floor in range(count):
        x = 2 * x + 10 + floor
    return x + 1000 * count * calls


@pytest.mark.parametrize("characters", [1, 300, 900, 10**6])
@pytest.mark.parametrize("quick", [False, True])
def test_texts_link_to_the_whole(characters, quick):
    texts = cut(towers(7, quick), characters, ("top",))
    assert len(texts) == 1 + quick if characters == 10**6 else len(texts) > 2
    assert {text.quick for text in texts} == {False, quick}
    for text, is_quick in texts:  # each has functions of one kind alone
        defined = [line for line in text.splitlines() if line.startswith("define") and "@twice" not in line]
        assert all(("optnone" in line) == is_quick for line in defined)
    code = jit.compile_units(units(texts), target=host(), name="towers", exports=("top",), threads=3)
    top = CALL(code.address("top"))
    assert [top(5), top(6)] == [expected(7, 5, 1), expected(7, 6, 2)]  # one counter and one array for all texts
    assert code.externals == ()
    assert cut(towers(7, quick), characters, ("top",)) == texts
    assert all(f"floor.{n}" in code.assembly() and f"@floor.{n}" in code.llvm for n in range(7))


def test_the_first_texts_are_short_so_that_compiling_begins_soon():
    lengths = [len(text) for text, _ in cut(towers(60), 3000)]
    assert lengths[0] <= lengths[1] < lengths[2] < lengths[3] and 3 * lengths[0] < lengths[3]


def test_objects_do_not_depend_on_threads():
    texts = [codegen.Unit(text, level) for text, _ in cut(towers(9), 300) for level in (0, 2)]
    alone, *more = (jit.compile_objects(texts, target=host(), name="towers", threads=n)[0] for n in (1, 2, 3))
    assert all(objects == alone for objects in more)


def test_tools_serve_one_text_at_a_time_and_few_are_left(monkeypatch):
    """Each set is close to a megabyte of LLVM's tables."""
    working, most, make = [], [], codegen.Tools.optimise

    def optimise(tools, module):
        assert tools not in working
        working.append(tools)
        most.append(len(working))
        time.sleep(0.02)
        make(tools, module)
        working.remove(tools)

    monkeypatch.setattr(codegen.Tools, "optimise", optimise)
    texts = cut(towers(7), 1)
    mixed = [codegen.Unit(t, level) for (t, _), level in zip(texts, (2, 0) * len(texts), strict=False)]
    jit.compile_units(mixed, target=host(), name="towers", exports=("top",), threads=3)
    assert max(most) > 1 and [key[1:] for key, tools in codegen._idle.items() for _ in tools] == [(2, True)]


def test_a_function_that_no_text_has_is_named():
    *first, last = (text for text, _ in cut(towers(5), 1))
    assert "@top" in last
    with pytest.raises(codegen.CompileError, match=r"outside the module: floor\.3"):
        jit.compile_units([codegen.Unit(t) for t in (*first[:3], *first[4:], last)], target=host(), name="towers", threads=2)
    assert not codegen._switched
    with pytest.raises(codegen.CompileError, match="does not parse"):
        jit.compile_units([codegen.Unit(first[0]), codegen.Unit("nonsense")], target=host(), name="towers", threads=2)
    assert not codegen._switched


def test_each_text_of_a_program_is_an_entry_of_the_cache(tmp_path):
    store = cache.Cache(tmp_path / "graphc")
    whole = units(cut(towers(6), 300))

    def compiled(parts):
        return jit.compile_units(parts, target=host(), name="towers", exports=("top",), cache=store)

    assert "codegen" in compiled(whole).seconds and store.entries()[0] == len(whole)
    again = compiled(whole)
    assert "codegen" not in again.seconds and CALL(again.address("top"))(5) == expected(6, 5, 1)
    assert "codegen" in compiled([*whole[:-1], codegen.Unit(whole[-1].text, 1)]).seconds  # how it is compiled counts, too
    assert store.entries()[0] == len(whole) + 1


def test_texts_are_compiled_while_others_are_written(tmp_path):
    """The same texts, whether they are taken as they become complete or at the end; a failure elsewhere ends the threads."""
    module, whole = Module(), towers(7, quick=True)
    taken: list[Text] = []
    texts = Texts(module, 300, ("top",))
    for name, function in whole.functions.items():
        module.functions[name], module.globals = function, whole.globals
        taken += texts.ready()
    assert len(taken) > 2 and taken + list(texts.rest()) == cut(whole, 300, ("top",))
    before, turns = threading.active_count(), sys.getswitchinterval()
    with pytest.raises(LookupError), jit.Build(target=host(), name="towers", threads=3) as build:
        build.add(codegen.Unit(taken[0].text))
        build.add(codegen.Unit(taken[1].text))
        assert threading.active_count() > before
        raise LookupError
    assert threading.active_count() == before and sys.getswitchinterval() == turns and not codegen._switched


@pytest.mark.parametrize(("unit", "long_step"), [(2000, 10**9), (2000, 0), (10**9, 0)])
def test_a_step_has_the_same_bits_however_it_is_cut(monkeypatch, unit, long_step):
    monkeypatch.setenv("GRAPHC_CACHE", "0")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((96, 80), np.float32), rng.integers(0, 7, 96)

    def losses() -> np.ndarray:
        graphc.manual_seed(0)
        inputs, labels = graphc.placeholder("x", (96, 80)), graphc.placeholder("y", (96,), "int64")
        model = nn.Sequential(nn.Linear(80, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 7))
        step = graphc.train_step(nn.CrossEntropyLoss()(model(inputs), labels), optim.Adam(model.parameters()))
        return step.run(5, x, y)

    monkeypatch.setattr(lower, "UNIT", 10**9)
    monkeypatch.setattr(lower, "LONG_STEP", 10**9)
    whole = losses()
    monkeypatch.setattr(lower, "UNIT", unit)
    monkeypatch.setattr(lower, "LONG_STEP", long_step)
    assert losses().tobytes() == whole.tobytes()


def test_work_of_llvm_does_not_grow_with_equal_layers():
    """What is optimised is the same for 4 and 48 layers; only the calls of kernels are more, and they are not optimised."""
    def characters(layers: int) -> tuple[int, int]:
        x, y = graphc.placeholder("x", (32, 64)), graphc.placeholder("y", (32, 64))
        model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(layers)))
        step = graphc.train_step(nn.MSELoss()(model(x), y), optim.Adam(model.parameters()))
        units = lower.remaining(lower.lower(repeated(step.specialize().plan), host())[0])
        return sum(len(u.text) for u in units if u.level), sum(len(u.text) for u in units if not u.level)

    (few, _), (many, calls) = characters(4), characters(48)
    assert many < 1.05 * few and calls > 0


def functions_of(loss: graphc.Tensor, model: nn.Module) -> dict[str, Function]:
    step = graphc.train_step(loss, optim.SGD(model.parameters(), lr=0.1))
    wide = describe("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma")
    return lower.lower(repeated(step.specialize().plan), wide)[0].module.functions


def test_places_that_take_divisions_do_not_make_long_code():
    """The gradient of joined queries, keys and values, which is summed down its columns: one vector of them at a time."""
    x = graphc.placeholder("x", (64, 8, 128))
    model = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0)
    lengths = {n: len(f.text().splitlines()) for n, f in functions_of(model(x).square().sum(), model).items()}
    columns = [length for name, length in lengths.items() if name.endswith("_columns")]
    assert columns and max(columns) < 400


def test_what_a_guard_fixes_is_not_computed_for_every_element():
    """Four images that are woven into one, every second row and column of each: the remainder says where it comes from."""
    x = graphc.placeholder("x", (8, 4, 16, 16))
    model = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1))
    functions = functions_of(model(x).square().sum(), model)
    divided = {name: sum("urem <" in line or "udiv <" in line for line in f.lines) for name, f in functions.items()}
    assert max(divided.values()) < 30, divided


def test_text_is_written_anew_for_who_reads_it():
    x = graphc.placeholder("x", (64, 64))
    executable = graphc.function([x], (x @ x).tanh()).specialize().executable
    assert isinstance(executable, Native)
    assert executable.text == executable.text and "define" in executable.text and "define" in executable.code.llvm


# -- threads ---------------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_jobs():
    seen = set()

    def job(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        seen.add(threading.get_ident())
        return i * i

    assert at_once([lambda i=i: job(i) for i in range(20)], 3) == [i * i for i in range(20)]
    assert 1 < len(seen) <= 3
    assert at_once([], 3) == [] and at_once([lambda: 1], 1) == [1]


def test_the_first_error_is_raised_when_all_threads_have_ended():
    def fail(message: str) -> None:
        raise ValueError(message)

    before = threading.active_count()
    with pytest.raises(ValueError, match=r"^0$"):
        at_once([lambda i=i: fail(str(i)) for i in range(6)], 1)
    with pytest.raises(ValueError):
        at_once([lambda i=i: fail(str(i)) for i in range(6)], 4)
    assert threading.active_count() == before
