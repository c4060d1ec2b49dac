"""Compiling, loading, caching and calling native code; aligned memory; denormals."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from graphc.runtime.native import cache, calls, codegen, jit, memory
from graphc.runtime.native.cache import Cache
from graphc.runtime.native.denormals import restore_denormal_mode, set_denormal_mode
from graphc.runtime.native.emit import Module
from graphc.runtime.native.target import describe, host
from graphc.runtime.native.values import constant, i64

POSIX = hasattr(os, "geteuid")
ROOT = Path(__file__).resolve().parent.parent
CALL = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


def counting_text(step: int) -> str:
    """``i32 count(ptr)``: adds `step` to the i32 there; returns what it was."""
    module = Module()
    f = module.function("count", [("place", "ptr")], returns="i32", internal=False)
    before = f.load(f.parameters[0], "i32")
    f.store(f.add(before, constant(step, "i32")), f.parameters[0])
    f.ret(before)
    return module.text()


def compile_counting(step: int = 1, **options) -> jit.Code:
    return jit.compile_module(counting_text(step), target=host(), name="counting", **options)


# -- compiling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", range(4))
def test_compiled_code_runs(level):
    code = compile_counting(3, level=level)
    cell = np.zeros(1, np.int32)
    function = CALL(code.address("count"))
    assert [function(cell.ctypes.data) for _ in range(3)] == [0, 3, 6]
    assert code.symbols == ("count",)
    assert set(code.seconds) == {"parse", "optimise", "codegen", "load"}
    assert "@count" in code.llvm and "count" in code.assembly()


def test_the_symbols_of_a_text_are_those_of_its_module():
    module = Module()
    module.declare("llvm.fma.f32", "float", ["float"] * 3)
    module.declare("other.one", "void", [])
    for name, internal in (("open.2x3", False), ("closed", True), ("last", False)):
        module.function(name, [("place", "ptr noalias")], internal=internal).do("call void @other.one()")
    part = codegen.compile_text(codegen.Unit(module.text()), host(), "symbols")
    with codegen.llvm.create_context() as context, codegen.llvm.parse_assembly(module.text(), context) as parsed:
        functions = [f for f in parsed.functions if not f.name.startswith("llvm.")]
        assert part.wanted == [f.name for f in functions if f.is_declaration] == ["other.one"]
        assert part.exported == [f.name for f in functions if not f.is_declaration
                                 and f.linkage == codegen.llvm.Linkage.external] == ["open.2x3", "last"]


def test_object_bytes_load_as_compiled_code_does():
    code = compile_counting(5)
    again = jit.load_object(code.objects[0], symbols=code.symbols, target=host(), name="again")
    cell = np.zeros(1, np.int32)
    CALL(again.address("count"))(cell.ctypes.data)
    assert cell[0] == 5
    with pytest.raises(codegen.CompileError, match="without its LLVM text"):
        again.assembly()


@pytest.mark.parametrize(("text", "message"), [
    ("define nonsense", "does not parse"),
    ("define i32 @f() {\n %a = add i32 %b, 1\n %b = add i32 1, 1\n ret i32 %a\n}", "does not dominate"),
    ("declare void @elsewhere()\ndefine void @f() {\n call void @elsewhere()\n ret void\n}", "outside.*elsewhere"),
])
def test_bad_text_is_a_clear_error(text, message):
    with pytest.raises(codegen.CompileError, match=message) as error:
        jit.compile_module(text, target=host(), name="the kernel")
    assert "the kernel" in str(error.value)


def test_damaged_object_is_an_error_not_a_crash():
    with pytest.raises(codegen.CompileError):
        jit.load_object(b"\x7fELF" + b"\0" * 200, symbols=["f"], target=host(), name="damaged")


def test_unknown_symbol_names_what_there_is():
    with pytest.raises(codegen.CompileError, match="only count"):
        compile_counting().address("other")


def test_block_fills_resolve_and_library_calls_are_seen():
    text = """declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define i32 @fill(ptr %p) {
  call void @llvm.memset.p0.i64(ptr %p, i8 7, i64 50000, i1 false)
  %q = getelementptr i8, ptr %p, i64 50000
  call void @llvm.memcpy.p0.p0.i64(ptr %q, ptr %p, i64 50000, i1 false)
  ret i32 0
}"""
    code = jit.compile_module(text, target=host(), name="fill")
    area = np.zeros(100_001, np.uint8)
    CALL(code.address("fill"))(area.ctypes.data)
    assert (area[:100_000] == 7).all() and area[-1] == 0
    if sys.platform == "linux":
        assert code.externals == ("memcpy", "memset")
        sine = "declare float @llvm.sin.f32(float)\ndefine float @f(float %x) {\n" \
               " %y = call float @llvm.sin.f32(float %x)\n ret float %y\n}"
        assert jit.compile_module(sine, target=host(), name="sine").externals == ("sinf",)
    assert compile_counting().externals == ()


def test_assembly_for_another_machine():
    arm = describe("aarch64-unknown-linux-gnu", "neoverse-n1", "+neon")
    assert "ldr\tw" in codegen.assembly_for(counting_text(1), arm)
    assert 'triple = "aarch64' in codegen.optimised_text(counting_text(1), arm)
    with pytest.raises(codegen.CompileError, match="nowhere"):
        codegen.assembly_for(counting_text(1), describe("nowhere-none", "", ""))


def test_two_threads_compile_at_once():
    results: dict[int, int] = {}

    def work(step: int) -> None:
        for _ in range(5):
            cell = np.zeros(1, np.int32)
            code = compile_counting(step)
            CALL(code.address("count"))(cell.ctypes.data)
            results[step] = int(cell[0])

    threads = [threading.Thread(target=work, args=(step,)) for step in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {1: 1, 2: 2, 3: 3, 4: 4}


# -- cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "graphc")


def entry_file(store: Cache, key: bytes) -> Path:
    return store.folder / (key.hex() + cache.SUFFIX)


KEY, OTHER = bytes(range(32)), bytes(32)


def test_cache_returns_what_was_stored(store):
    assert store.lookup(KEY) is None
    assert store.store(KEY, b"object", {"symbols": ["f"]})
    entry = store.lookup(KEY)
    assert entry is not None and entry.data == b"object" and entry.meta == {"symbols": ["f"]}
    assert store.lookup(OTHER) is None
    assert store.entries()[0] == 1
    if POSIX:
        assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(entry_file(store, KEY).stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1],
    lambda content: content[:20],
    lambda content: b"",
    lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    lambda content: content[:7] + bytes([content[7] + 1]) + content[8:],  # another version of the format
    lambda content: content + b"more",
])
def test_damaged_entry_is_ignored_and_removed(store, damage):
    store.store(KEY, b"object", {})
    file = entry_file(store, KEY)
    file.write_bytes(damage(file.read_bytes()))
    assert store.lookup(KEY) is None
    assert not file.exists()


def test_entry_under_another_key_is_ignored(store):
    store.store(KEY, b"object", {})
    entry_file(store, KEY).rename(entry_file(store, OTHER))
    assert store.lookup(OTHER) is None


@pytest.mark.skipif(not POSIX, reason="permission bits are POSIX")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_what_others_can_write_is_not_trusted(store, mode):
    store.store(KEY, b"object", {})
    store.folder.chmod(mode)
    assert store.lookup(KEY) is None
    assert not store.store(OTHER, b"object", {})
    store.folder.chmod(0o700)
    assert store.lookup(KEY) is not None
    entry_file(store, KEY).chmod(mode & 0o666)
    assert store.lookup(KEY) is None


@pytest.mark.skipif(not POSIX, reason="permission bits are POSIX")
def test_what_belongs_to_somebody_else_is_not_trusted(store, monkeypatch):
    store.store(KEY, b"object", {})
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert store.lookup(KEY) is None


@pytest.mark.skipif(not POSIX, reason="symbolic links need a right on Windows")
def test_symbolic_links_are_not_followed(store, tmp_path):
    store.store(KEY, b"object", {})
    real = entry_file(store, KEY)
    real.rename(tmp_path / "real")
    real.symlink_to(tmp_path / "real")
    assert store.lookup(KEY) is None
    (tmp_path / "linked").symlink_to(store.folder)
    assert not Cache(tmp_path / "linked").store(OTHER, b"object", {})


def test_cache_removes_the_longest_unused(tmp_path):
    store = Cache(tmp_path / "graphc", limit=10_000)
    keys = [bytes([i]) * 32 for i in range(8)]
    for age, key in enumerate(keys):
        assert store.store(key, bytes(2_000), {})
        if (file := entry_file(store, key)).exists():
            os.utime(file, (age, age))
        store.lookup(keys[0])  # stays in use
    count, size = store.entries()
    assert size <= 10_000 and 3 <= count <= 4
    assert store.lookup(keys[0]) is not None and store.lookup(keys[-1]) is not None
    assert store.lookup(keys[1]) is None
    assert not store.store(OTHER, bytes(20_000), {})


def test_trouble_with_files_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    store = Cache(tmp_path / "file" / "graphc")
    assert store.lookup(KEY) is None and not store.store(KEY, b"object", {}) and store.entries() == (0, 0)


def test_environment_chooses_the_folder_or_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "here"))
    assert cache.store(KEY, b"object") and (tmp_path / "here").is_dir()
    assert cache.lookup(KEY) is not None
    monkeypatch.setenv("GRAPHC_CACHE", "0")
    assert cache.lookup(KEY) is None and not cache.store(KEY, b"object")


def test_keys_tell_everything_apart():
    machine, other = host(), describe("aarch64-unknown-linux-gnu", "neoverse-n1", "")
    keys = [cache.key(*parts) for parts in (("module", "a", machine, 2), ("plan", "a", machine, 2),
            ("module", "b", machine, 2), ("module", "a", other, 2), ("module", "a", machine, 1))]
    assert len(set(keys)) == 5 and {len(key) for key in keys} == {32}
    assert keys[0] == cache.key("module", b"a", machine, 2)


def test_compiled_module_comes_from_the_cache(store):
    compile_counting(9, cache=store)
    code = compile_counting(9, cache=store)
    assert set(code.seconds) == {"load"}
    cell = np.zeros(1, np.int32)
    CALL(code.address("count"))(cell.ctypes.data)
    assert cell[0] == 9 and "@count" in code.llvm


def test_entry_that_does_not_load_is_compiled_anew(store):
    key = cache.key("module", counting_text(11), host(), 2)
    store.store(key, b"no object at all", {"symbols": ["count"]})
    assert "codegen" in compile_counting(11, cache=store).seconds
    store.store(key, b"no object at all", {})
    assert "codegen" in compile_counting(11, cache=store).seconds


def test_processes_share_the_cache(store):
    program = ("import sys; from pathlib import Path; from graphc.runtime.native import jit, cache, target\n"
               "code = jit.compile_module(sys.stdin.read(), target=target.host(), name='m',"
               " cache=cache.Cache(Path(sys.argv[1])))\nprint(sorted(code.seconds))")
    outputs = [subprocess.run([sys.executable, "-c", program, str(store.folder)], input=counting_text(21), cwd=ROOT,
                              capture_output=True, text=True, timeout=60, check=True).stdout for _ in range(2)]
    assert "codegen" in outputs[0] and "codegen" not in outputs[1]


# -- memory and calls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 512 << 10, (2 << 20) - 1, 2 << 20, 5_000_001])
def test_memory_is_aligned_zeroed_and_writable(size):
    block = memory.allocate(size)
    assert block.data.shape == (size,) and block.address % 64 == 0 and not block.data.any()
    assert block.address == block.data.__array_interface__["data"][0] or size == 0
    if size >= memory.HUGE_PAGE:
        assert block.address % memory.HUGE_PAGE == 0
    block.data[:] = 255
    data = block.data
    del block
    assert int(data.sum()) == 255 * size  # an array keeps its memory


def test_blocks_that_lie_together_share_large_pages_and_nothing_else():
    sizes = [900_001, 0, 1_600_000, 70]
    blocks = memory.allocate_together(*sizes)
    assert blocks[0].address % memory.HUGE_PAGE == 0 and all(block.address % 64 == 0 for block in blocks)
    for number, (block, size) in enumerate(zip(blocks, sizes, strict=True), 1):
        assert block.data.shape == (size,) and not block.data.any()
        block.data[:] = number
    assert [int(block.data.sum()) for block in blocks] == [size * number for number, size in enumerate(sizes, 1)]
    assert blocks[-1].address + 70 - blocks[0].address <= sum(sizes) + 4 * 64


def test_impossible_memory_is_a_memory_error():
    with pytest.raises(MemoryError):
        memory.allocate(1 << 60)


@pytest.mark.parametrize("make", [lambda a: a, lambda a: a[1:], lambda a: a[::2], lambda a: a[:, 3:], lambda a: a.T,
                                  lambda a: a[:0], lambda a: a[0, 0, ...]])
@pytest.mark.parametrize("writable", [True, False])
def test_address_of_any_array(make, writable):
    array = make(np.arange(60, dtype=np.float32).reshape(6, 10))
    array.flags.writeable = writable
    if array.size:
        assert memory.address_of(array) == array.__array_interface__["data"][0]
    else:
        assert isinstance(memory.address_of(array), int)


@pytest.mark.parametrize("release_gil", [True, False])
@pytest.mark.parametrize("builtin", [True, False])
def test_bound_call(release_gil, builtin, monkeypatch):
    if not builtin:
        monkeypatch.setattr(calls, "_methods", lambda: None)
    code, block = compile_counting(-2), memory.allocate(64)
    call = calls.bind_call(code.address("count"), block.address, release_gil=release_gil, keep=(code, block))
    cell = block.array((1,), np.int32)
    del code, block
    assert [call() for _ in range(4)] == [0, -2, -4, -6]
    assert cell[0] == -8


def test_denormals_are_flushed_and_the_callers_mode_restored():
    target, module = host(), Module()
    inner = module.function("inner", [("p", "ptr")], attributes="nounwind noinline")
    value = inner.load(inner.parameters[0], "float")
    half = inner.binary("fmul", value, constant(0.5, "float"))
    inner.store(half, inner.offset(inner.parameters[0], i64(1), "float"))
    for name, flush in (("flushing", True), ("keeping", False)):
        f = module.function(name, [("p", "ptr")], returns="i32", internal=False)
        saved = set_denormal_mode(f, target) if flush else None
        f.call("inner", f.parameters)
        restore_denormal_mode(f, target, saved)
        f.ret(constant(0, "i32"))
    code = jit.compile_module(module.text(), target=target, name="denormals")
    cells = np.array([np.finfo(np.float32).tiny, 0], np.float32)

    def run(name: str) -> float:
        CALL(code.address(name))(cells.ctypes.data)
        return float(cells[1])

    tiny = float(cells[0])
    assert run("keeping") == tiny / 2
    if target.triple.startswith(("x86_64", "aarch64", "arm64")):
        assert run("flushing") == 0.0
    assert run("keeping") == tiny / 2


@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", "aarch64-apple-macosx", "riscv64-unknown-linux-gnu"])
def test_denormal_mode_assembles_for_other_machines(triple):
    target, module = describe(triple, "", ""), Module()
    f = module.function("f", [], internal=False)
    restore_denormal_mode(f, target, set_denormal_mode(f, target))
    text = codegen.assembly_for(module.text(), target)
    assert ("ldmxcsr" in text, "FPCR" in text.upper()) == ("x86" in triple, "aarch64" in triple)
