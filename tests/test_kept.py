"""Programs and code that are kept on disk: found by what the graph says, the same bits, and never where anything differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphc.passes.known_masks import Band
from graphc.passes.regions import Region
from graphc.runtime.native import cache, jit, kept, kept_programs, linking
from graphc.runtime.native.image import LOADS_HERE, Loaded, unpack
from graphc.runtime.native.running import Running
from graphc.runtime.native.target import host

import graphc
from graphc import nn, optim
from graphc.assumed import Assumed
from graphc.identity import Unspoken, digest_of

from .kept_models import MODELS, perceptron

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = "programs are kept, and objects linked, on x86-64 Linux"


def in_a_process(name: str, file: Path) -> tuple[list[np.ndarray], dict[str, Any]]:
    command = [sys.executable, "-m", "tests.kept_models", name, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    with np.load(file) as saved:
        return list(saved.values()), json.loads(done.stdout)


@pytest.mark.parametrize("name", MODELS)
def test_a_second_process_has_the_same_bits_without_compiling(name: str, folder: Path, tmp_path: Path) -> None:
    first, told = in_a_process(name, tmp_path / "first.npz")
    again, later = in_a_process(name, tmp_path / "again.npz")
    assert told["kept"] == 0 and "llvmlite" in told["loaded"]
    assert later["kept"] > 0 and later["loaded"] == [], "it needs neither LLVM nor passes"
    assert told["derived"] > 0 or name == "branches"
    assert later["derived"] == (told["derived"] if name == "own_gradient" else 0), "it needs no gradients"
    assert len(first) == len(again) > 1
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    assert "kept on disk by an earlier process" in later["report"]
    shown = [line for line in told["report"].splitlines() if "compiled in" not in line]
    assert [line for line in later["report"].splitlines() if "compiled" not in line] == shown


def prepared(program: Any, fed: dict[str, np.ndarray]) -> Any:
    return program.prepare([fed[t.name] for t in program.inputs])


def test_the_tutorial_runs_a_second_time_without_llvm(folder: Path) -> None:
    """Four programs in one process: what the passes of one leave behind does not hide the next one."""
    code = ("import runpy, sys; runpy.run_path('examples/backprop_and_optimizer.py', run_name='__main__'); "
            "print([m for m in ('llvmlite', 'graphc.passes.pipeline') if m in sys.modules])")
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
                           env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout.splitlines() for _ in range(2)]
    assert said[0][:-1] == said[1][:-1] and said[0][-1] != "[]" and said[1][-1] == "[]"


def seeded() -> tuple[Any, dict[str, np.ndarray]]:
    """Draws are counted in a process: the second dropout would not be the first."""
    graphc.manual_seed(0)
    return perceptron()


def test_a_kept_program_can_be_looked_at(folder: Path) -> None:
    (first, fed), (second, _) = seeded(), seeded()
    assert not prepared(first, fed).kept and prepared(second, fed).kept
    assert isinstance(second.specialize(batch=24).executable, Running)
    for stage in ("plan", "llvm", "asm"):
        assert second.dump(stage, sizes={"batch": 24}) == first.dump(stage, sizes={"batch": 24})
    one, other = first.specialize(batch=24), second.specialize(batch=24)
    assert (one.memory, one.flops, one.memory_bytes) == (other.memory, other.flops, other.memory_bytes)
    before = second.state_dict()
    assert len(second.timeline(**fed, repeat=2).events) and "contract" in second.profile(**fed, repeat=2)
    assert all(np.array_equal(before[name], value) for name, value in second.state_dict().items())


def test_bound_calls_and_other_sizes(folder: Path) -> None:
    (one, fed), (other, _) = seeded(), seeded()
    programs = [one, other]
    for program in programs:
        program.load_state_dict({name: np.full_like(value, 0.1) for name, value in programs[0].state_dict().items()})
        program.bound = program.bind(**fed)
    for rows in (24, 7, 24):
        few = {name: value[:rows] for name, value in fed.items()}
        results = [program(**few)[0] for program in programs] + [program.bound()[0].copy() for program in programs]
        assert results[0] == results[1] and results[2] == results[3]
    assert [len(program._cache) for program in programs] == [2, 2]
    assert all(special.kept for special in programs[1]._cache.values())


# -- what tells programs apart ---------------------------------------------------------------------------------------


def step(factor: float = 2.0, array: float = 1.0, size: int = 12, axis: int = 1, name: str = "w", trainable: int = 0) -> Any:
    x, w = graphc.placeholder("x", ("batch", size)), graphc.parameter(name, np.ones((size, 3), "f"))
    u = graphc.parameter("u", np.ones((size, 3), "f"))
    many = graphc.constant(np.full((3, 100), array, "f"))
    loss = (x @ (w + u) @ many * factor).sum(axis).mean()
    return graphc.train_step(loss, optim.SGD([(w, u)[trainable]], lr=0.5))


DIFFERENT: dict[str, Callable[[], Any]] = {
    "as it is": step, "another number": lambda: step(factor=3.0), "minus zero": lambda: step(factor=-0.0),
    "zero": lambda: step(factor=0.0), "an element of a large constant": lambda: step(array=2.0),
    "another size": lambda: step(size=13), "another axis": lambda: step(axis=0), "another cell": lambda: step(trainable=1)}


def test_what_differs_has_a_digest_of_its_own() -> None:
    digests = {what: digest_of(make().graph) for what, make in DIFFERENT.items()}
    assert len(set(digests.values())) == len(DIFFERENT)
    assert digest_of(step(name="another name").graph) == digests["as it is"], "names decide nothing"


def test_options_and_sizes_are_part_of_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = step().built
    options = [({"batch": 4}, 1, None, "highest"), ({"batch": 5}, 1, None, "highest"), ({"batch": 4}, 2, None, "highest"),
               ({"batch": 4}, 1, 0, "highest"), ({"batch": 4}, 1, None, "high"), ({"batch": 4}, 1, None, "medium")]
    keys = [kept_programs.key_of(built, *o, Assumed({})) for o in options]
    keys.append(kept_programs.key_of(built, *options[0], Assumed({built.cells()[0]: Band({Region(0, 1, 0): 0.0}, None)})))
    monkeypatch.setenv("GRAPHC_MATRIX_UNIT", "1")
    keys.append(kept_programs.key_of(built, *options[0], Assumed({})))
    monkeypatch.setattr(kept, "machine", lambda: b"another processor")
    keys.append(kept_programs.key_of(built, *options[0], Assumed({})))
    monkeypatch.setattr(cache, "compiler_digest", lambda: b"another version of the compiler")
    keys.append(kept_programs.key_of(built, *options[0], Assumed({})))
    assert None not in keys and len(set(keys)) == len(keys)


def test_numpys_numbers_are_numbers(folder: Path) -> None:
    assert [step().specialize(batch=size).kept > 0 for size in (3, np.int64(3))] == [False, True]


def test_what_is_not_graphcs_own_is_not_kept(folder: Path, own_op: Callable[..., Any]) -> None:
    half = own_op("half_for_test", lambda x: x * 0.5, lambda g, out, x: g * 0.5, lambda s, x: s.mul(x, s.const(0.5, x)), "")
    x = graphc.placeholder("x", (3,))
    program = graphc.function([x], half(x))
    with pytest.raises(Unspoken, match="half_for_test is defined outside"):
        digest_of(program.graph)
    for _ in range(2):
        assert not graphc.function([x], half(x)).specialize().kept
        np.testing.assert_array_equal(program(np.arange(3.0)), [0, 0.5, 1])


def test_nothing_is_kept_where_that_is_not_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in ("0", "objects"):
        monkeypatch.setenv("GRAPHC_CACHE", wanted)
        assert [step().specialize(batch=3).kept for _ in range(2)] == [0, 0]
    monkeypatch.setenv("GRAPHC_CACHE", "1")
    assert [step().specialize(batch=3).kept > 0 for _ in range(2)] == [False, True]
    monkeypatch.setattr(kept, "machine", lambda: None)  # a system that does not tell its processor
    assert not step().specialize(batch=3).kept


def test_entries_that_make_no_sense_are_not_run(folder: Path) -> None:
    program = step()
    value = program(np.ones((3, 12), "f"))
    key = kept_programs.key_of(program.built, {"batch": 3}, jit_threads(), None, "highest", Assumed({}))
    assert key is not None
    store = cache.default()
    assert store is not None
    entry = store.lookup(key)
    assert entry is not None
    broken = [{"needs": entry.meta["needs"][:3]}, {"cells": [99]}, {"bytes": "many"}, {"constants": [["<f4", [10**6]]]},
              {"threads": "two"}, {"image": {}}]
    broken += [{"image": {**entry.meta["image"], **change}} for change in (
        {"symbols": {}}, {"pointers": [[0, "no such function"]]}, {"pointers": [[10**9, 0]]}, {"size": -1}, {"size": 1})]
    for change in broken:
        assert store.store(key, entry.data, {**entry.meta, **change})
        assert kept_programs.load(key, program.built) is None
        again = step()
        assert again(np.ones((3, 12), "f")) == value and not again.specialize(batch=3).kept


def test_matrix_registers_are_asked_for_before_code_that_uses_them_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = step()(np.ones((3, 12), "f"))
    key = kept_programs.key_of(step().built, {"batch": 3}, jit_threads(), None, "highest", Assumed({}))
    store = cache.default()
    assert store is not None and key is not None
    entry = store.lookup(key)
    assert entry is not None and entry.meta["matrix_unit"] is False
    for given in (True, False):
        assert store.store(key, entry.data, {**entry.meta, "matrix_unit": True})
        monkeypatch.setattr(kept_programs, "permitted", lambda given=given: given)
        again = step()
        assert again(np.ones((3, 12), "f")) == value and (again.specialize(batch=3).kept > 0) == given


def test_the_users_constants_stay_off_the_disk(folder: Path) -> None:
    """They are those of the graph that is built; what passes compute of them is kept."""
    secret = np.arange(1000, dtype="f") + 0.125

    def make() -> Any:
        x, some = graphc.placeholder("x", (1000,)), graphc.constant(secret[:100] / 50)
        return graphc.function([x], {"a": x * graphc.constant(secret), "b": x * graphc.exp(some).sum()})

    first, second = make(), make()
    fed = np.ones(1000, "f")
    for name, value in first(fed).items():
        np.testing.assert_array_equal(second(fed)[name], value)
    assert second.specialize().kept
    assert not any(secret.tobytes() in file.read_bytes() for file in folder.iterdir())


def jit_threads() -> int:
    from graphc.runtime.native.threads import available_parallelism

    return available_parallelism()


linked = pytest.mark.skipif(not LOADS_HERE, reason=ELSEWHERE)

# -- linking ---------------------------------------------------------------------------------------------------------

TEXTS = ("""
@table = internal constant [4 x i32] [i32 3, i32 5, i32 7, i32 11]
@words = internal global [4 x i64] zeroinitializer
@place = internal global ptr @words
@shared = global i64 40
declare i64 @other(i64)
define i64 @top(i64 %k) {
  %p = getelementptr [4 x i32], ptr @table, i64 0, i64 %k
  %v = load i32, ptr %p
  %w = sext i32 %v to i64
  %q = load ptr, ptr @place
  %old = load i64, ptr %q
  %new = add i64 %old, %w
  store i64 %new, ptr %q
  %r = call i64 @other(i64 %new)
  ret i64 %r
}
""", """
@shared = external global i64
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define i64 @other(i64 %x) {
  %room = alloca [64 x i64]
  call void @llvm.memset.p0.i64(ptr %room, i8 0, i64 512, i1 false)
  %size = add i64 %x, 300
  %large = alloca i8, i64 %size
  call void @llvm.memset.p0.i64(ptr %large, i8 1, i64 %size, i1 false)
  %b = load i8, ptr %large
  %c = zext i8 %b to i64
  %s = load i64, ptr @shared
  %t = add i64 %s, %x
  %u = add i64 %t, %c
  store i64 %u, ptr @shared
  ret i64 %u
}
""")


def objects() -> list[bytes]:
    return jit.compile_objects([jit.Unit(text, 2) for text in TEXTS], target=host(), name="linked")[0]


@linked
def test_linked_code_does_what_the_texts_say() -> None:
    """Constants, data, zeros, a pointer to data, another object's function and variable, a function of the system's."""
    import ctypes

    image = linking.link(objects(), ["top"])
    assert image.code and image.data and any(isinstance(what, str) for _, what in image.pointers)
    content, meta = image.pack()
    for one in (image, unpack(content, json.loads(json.dumps(meta)))):
        loaded = Loaded(one)
        top = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(loaded.address("top"))
        words, shared = 0, 40
        for k in (0, 3, 1, 2):
            words += (3, 5, 7, 11)[k]
            shared += words + 1
            assert top(k) == shared


@linked
def test_what_the_linker_does_not_know_it_leaves() -> None:
    whole = objects()
    for damaged in ([b""], [b"\x7fELF"], [whole[0][:200]], [whole[0]], [whole[0], whole[0]]):
        with pytest.raises(linking.Unknown):
            linking.link(damaged, ["top"])
    with pytest.raises(linking.Unknown):
        linking.link(whole, ["no such function"])


@linked
def test_damaged_objects_never_crash_the_linker() -> None:
    whole, rng = objects(), np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole[0])
        for place in rng.integers(0, len(broken), 4):
            broken[place] = rng.integers(256)
        with suppress(linking.Unknown):
            linking.link([bytes(broken), whole[1]], ["top"])


def test_the_system_refuses_to_run_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Where memory may not become executable, LLVM's loader has its turn, and a kept program is compiled."""
    import mmap

    assert [step().specialize(batch=3).kept > 0 for _ in range(2)] == [False, True]

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("not allowed")

    monkeypatch.setattr(mmap, "mmap", refuse)
    program = step()
    assert not program.specialize(batch=3).kept and np.isfinite(program(np.ones((3, 12), "f")))


@linked
def test_all_that_is_compiled_is_an_image() -> None:
    model = nn.Sequential(nn.Linear(64, 300), nn.Tanh(), nn.Linear(300, 10))
    x = graphc.placeholder("x", (32, 64))
    program = graphc.train_step(model(x).sum(), optim.Adam(model.parameters()))
    assert program.specialize().compiled.executable.code.image is not None


def test_changed_sources_are_another_compiler(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same size, and with the same time: what they say counts, though it is read once only."""
    source = tmp_path / "source.py"
    source.write_text("a = 1\n")
    monkeypatch.setattr(cache, "compiler_files", lambda: [str(source)])

    def told() -> bytes:
        cache.compiler_digest.cache_clear()
        return cache.compiler_digest()

    try:
        first, again = told(), told()
        assert first == again
        status = source.stat()
        source.write_text("a = 2\n")
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert told() != first
        source.write_text("a = 1\n")
        assert told() == first
        monkeypatch.setattr(cache, "_content", lambda file: b"")
        assert told() == first
    finally:
        cache.compiler_digest.cache_clear()
