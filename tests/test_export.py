"""Exported programs: the same bits as here, on this machine and as far as can be told on others; headers; errors."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from graphc.runtime.native import object_files
from graphc.runtime.native.target import host

import graphc
from graphc import nn, optim
from graphc.cli import main
from graphc.program import Program

from . import emulator, exported
from .exported import Exported

F, GE = np.float32, graphc.GraphError
ROOT = Path(__file__).resolve().parent.parent
LINUX = "unknown-linux-gnu"
MEMORY = {"memcpy", "memmove", "memset"}
SMALL = ("mlp", "lstm", "convolution", "masked", "tutorial")
OTHERS = [(name, "generic") for name in SMALL]  # processors that this machine can act as
if host().triple.startswith("x86_64"):
    OTHERS = [*((name, "x86-64") for name in SMALL), ("mlp", "x86-64-v3"), ("convolution", "x86-64-v3")]
EMULATED = [*((name, f"aarch64-{LINUX}") for name in SMALL),
            *((name, "riscv64-unknown-elf") for name in ("mlp", "masked", "tutorial"))]


class Case(NamedTuple):
    """A step, what it is fed in each of some steps, and sizes.  Built anew for each backend."""

    build: Callable[..., Program]
    feeds: Callable[[int], list[np.ndarray]]
    sizes: dict[str, int]


def draw(*shapes: tuple[int, ...] | tuple[tuple[int, ...], int]) -> Callable[[int], list[np.ndarray]]:
    """Numbers of some shapes; of (shape, n) whole ones below n, and truth values where n is 0."""
    def feeds(steps: int) -> list[np.ndarray]:
        random = np.random.default_rng(3)
        found = []
        for shape in shapes:
            if len(shape) == 2 and isinstance(shape[0], tuple):
                whole = random.integers(0, shape[1] or 2, (steps, *shape[0]))
                found.append(whole if shape[1] else whole.astype(np.bool_))
            else:
                found.append(random.standard_normal((steps, *shape), F))
        return found

    return feeds


def mlp(**options: Any) -> Program:
    """Batch statistics, dropout, clipping, a schedule, weight decay, named outputs."""
    x, y = graphc.placeholder("x", ("batch", 24)), graphc.placeholder("y", ("batch",), "int64")
    model = nn.Sequential(nn.Linear(24, 33), nn.BatchNorm1d(33), nn.GELU(), nn.Dropout(0.3), nn.Linear(33, 5))
    scores = model(x)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    return graphc.train_step(nn.CrossEntropyLoss()(scores, y), optimizer, grad_clip_norm=0.5,
                             lr_scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, 9),
                             outputs={"accuracy": (scores.argmax(1) == y).astype("float64").mean(), "class": scores.argmax(1)},
                             **options)


def lstm(**options: Any) -> Program:
    x, y = graphc.placeholder("x", (7, "batch", 6)), graphc.placeholder("y", ("batch", 2))
    layer, head = nn.LSTM(6, 9), nn.Linear(9, 2)
    optimizer = optim.SGD([*layer.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    return graphc.train_step(nn.MSELoss()(head(layer(x)[0][-1]), y), optimizer, **options)


def convolution(**options: Any) -> Program:
    x, y = graphc.placeholder("x", ("batch", 1, 12, 12)), graphc.placeholder("y", ("batch",), "int64")
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.Flatten(),
                          nn.Linear(72, 10))
    return graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.Adam(model.parameters(), lr=1e-2), **options)


def tutorial(**options: Any) -> Program:
    """So small that it is unrolled."""
    x, y, w = graphc.placeholder("x", (4, 2)), graphc.placeholder("y", (4, 1)), graphc.parameter("w", [[2.0], [1.0]])
    return graphc.train_step(((x @ w - y) ** 2).sum(), optim.SGD([w], lr=0.01), **options)


def masked(**options: Any) -> Program:
    """Truth values and whole numbers in and out, an embedding, a sort, a branch, a constant; gradients of two calls as one."""
    words, keep = graphc.placeholder("words", ("n", 6), "int64"), graphc.placeholder("keep", ("n", 6), "bool")
    table, scale = nn.Embedding(50, 8), graphc.constant(np.linspace(-1, 1, 48, dtype=F).reshape(6, 8))
    seen = graphc.where(keep.unsqueeze(2).expand(words.shape[0], 6, 8), table(words) * scale, 0.0)
    pooled = graphc.cond(seen.mean() > 0, lambda v: v * 2.0, lambda v: v - 1.0, seen).sum(1)
    loss = (pooled.sort(1)[0][:, :4] ** 2).mean()
    return graphc.train_step(loss, optim.Adagrad(table.parameters(), lr=0.1), accumulate=2, **options,
                             outputs={"kept": keep.all(1), "count": keep.astype("int32").sum(1), "no /* comment */\n": pooled})


def wide(**options: Any) -> Program:
    """Large enough for chunks of the batch, packed panels and tiles that threads share out."""
    x, y = graphc.placeholder("x", ("batch", 300)), graphc.placeholder("y", ("batch", 8))
    model = nn.Sequential(nn.Linear(300, 260), nn.Tanh(), nn.Linear(260, 200), nn.LayerNorm(200), nn.Linear(200, 8))
    return graphc.train_step(((model(x) - y) ** 2).mean(), optim.Adam(model.parameters()), **options)


def folds(**options: Any) -> Program:
    """Sums down long columns and over everything, which are cut for several threads; float64."""
    x, values = graphc.placeholder("x", (6,), "float64"), np.random.default_rng(1).standard_normal((40000, 6))
    w = graphc.parameter("w", values, dtype="float64")
    y = graphc.tanh(x * w)
    return graphc.train_step((y * y).mean(), optim.SGD([w], lr=9.0), grad_clip_norm=0.1, **options,
                             outputs={"columns": y.sum(0), "largest": y.max(0), "all": y.exp().sum(), "best": y.argmax(0)})


CASES = {
    "mlp": Case(mlp, draw((16, 24), ((16,), 5)), {"batch": 16}),
    "lstm": Case(lstm, draw((7, 4, 6), (4, 2)), {"batch": 4}),
    "convolution": Case(convolution, draw((8, 1, 12, 12), ((8,), 10)), {"batch": 8}),
    "tutorial": Case(tutorial, draw((4, 2), (4, 1)), {}),
    "masked": Case(masked, draw(((5, 6), 60), ((5, 6), 0)), {"n": 5}),
    "folds": Case(folds, lambda steps: [np.random.default_rng(3).standard_normal((steps, 6))], {}),
    "wide": Case(wide, draw((150, 300), (150, 8)), {"batch": 150}),
}


def made(case: Case, **options: Any) -> Program:
    graphc.manual_seed(5)
    return case.build(**options)


def flat(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    return [a for o in outputs for a in flat(o)] if isinstance(outputs, tuple) else [np.asarray(outputs)]


def steps_of(program: Program, feeds: Sequence[np.ndarray], steps: int) -> list[np.ndarray]:
    """The outputs of graphc's own steps."""
    return [np.stack(o) for o in zip(*(flat(program(*(a[i] for a in feeds))) for i in range(steps)), strict=True)]


def described(program: Program, case: Case) -> list[tuple[tuple[int, ...], str]]:
    outputs = program.specialize(**case.sizes).graph.outputs
    return [(tuple(map(int, o.shape)), o.dtype.name) for o in outputs]


@pytest.mark.parametrize("name", CASES)
def test_trains_as_here(name: str, tmp_path: Path) -> None:
    case, steps = CASES[name], 4 if name in ("wide", "folds") else 20
    step = made(case)
    found = Exported(step.export(tmp_path / "step", **case.sizes))
    feeds = case.feeds(steps)
    results, state = found.train("step", feeds, described(step, case), steps // 2, steps - steps // 2, tmp_path)
    assert [r.tobytes() for r in results] == [w.tobytes() for w in steps_of(step, feeds, steps)]
    now = step.state_dict()
    assert {k: v.tobytes() for k, v in found.values(state, now).items()} == {k: v.tobytes() for k, v in now.items()}
    assert set(found.offsets) == set(now) and set(object_files.external_symbols(found.data)) <= MEMORY
    defined = object_files.symbol_table(found.data)[0]
    assert {"step", "step_init", "step_run"} <= defined


@pytest.mark.parametrize(("name", "cpu"), OTHERS)
def test_other_processors_agree_with_the_interpreter(name: str, cpu: str, tmp_path: Path) -> None:
    case, steps = CASES[name], 6
    found = Exported(made(case).export(tmp_path / "step", cpu=cpu, **case.sizes))
    feeds, reference = case.feeds(steps), made(case, backend="numpy")
    results, _ = found.train("step", feeds, described(reference, case), 3, 3, tmp_path)
    for got, want in zip(results, steps_of(reference, feeds, steps), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    assert set(object_files.external_symbols(found.data)) <= MEMORY | ({"fma", "fmaf"} if cpu == "x86-64" else set())


def test_programs_share_one_state(tmp_path: Path) -> None:
    """Without a C compiler, too: the object is loaded as it is.  A stride of 0 is the same array in every step."""
    case = CASES["mlp"]
    graphc.manual_seed(5)
    x, y = graphc.placeholder("x", ("batch", 24)), graphc.placeholder("y", ("batch",), "int64")
    model = nn.Sequential(nn.Linear(24, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 5))
    train = graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.Adam(model.parameters()))
    model.eval()
    predict = graphc.function([x], {"best": model(x).argmax(1), "scores": model(x)})
    found = Exported(graphc.export(tmp_path / "net.o", {"train": train, "predict": predict}, batch=16))
    X, Y = (a[0] for a in case.feeds(1))
    init, one, run, ask = exported.load(found.data, ("net_init", "net_train", "net_train_run", "net_predict"))
    size, scratch = found.number("STATE_BYTES"), exported.aligned(found.number("SCRATCH_BYTES"))
    states = [exported.aligned(size) for _ in range(2)]
    losses, best, scores = np.zeros(9, F), np.zeros(16, np.int64), np.zeros((16, 5), F)
    at = exported.address
    for state in states:
        exported.call(init, at(state))
    for step in range(3):  # the second state is another training's
        exported.call(one, at(states[0]), at(scratch), at(X), at(Y), at(losses[step:]))
        exported.call(one, at(states[1]), at(scratch), at(X), at(Y), at(losses[8:]))
    exported.call(run, at(states[0]), at(scratch), 4, at(X), 0, at(Y), 0, at(losses[3:]), 1)
    exported.call(ask, at(states[0]), at(scratch), at(X), at(best), at(scores))
    assert losses[:7].tobytes() == train.run(7, X, Y).tobytes()
    wanted = predict(X)
    assert best.tobytes() == wanted["best"].tobytes() and scores.tobytes() == wanted["scores"].tobytes()
    exported.call(run, at(states[1]), at(scratch), 4, at(X), 0, at(Y), 0, at(losses[8:]), 0)
    assert states[0].tobytes() == states[1].tobytes() and losses[8] == losses[6]
    for name, value in found.values(states[0].tobytes(), train.state_dict()).items():
        assert value.tobytes() == train.state_dict()[name].tobytes(), name


def test_object_holds_code_and_weights_only(tmp_path: Path) -> None:
    """Slots that begin with zeros are no part of it, and nothing is written to but state and scratch."""
    w = graphc.parameter("w", np.random.default_rng(0).standard_normal((500, 1000), F))
    x = graphc.placeholder("x", ("n", 500))
    step = graphc.train_step(((x @ w) ** 2).mean(), optim.Adam([w]))
    found = Exported(step.export(tmp_path / "step", n=4))
    assert 6_000_000 < found.number("STATE_BYTES") < 6_010_000 and 2_000_000 < len(found.data) < 2_050_000
    if found.data[:4] == b"\x7fELF":
        writable = {name: size for name, (flags, size) in exported.sections(found.data).items() if flags & 1 and size}
        assert not writable
    state = exported.aligned(found.number("STATE_BYTES"))
    state[:] = 0xFF
    exported.call(exported.load(found.data, ("step_init",))[0], exported.address(state))
    for name, value in found.values(state.tobytes(), step.state_dict()).items():
        assert value.tobytes() == step.state_dict()[name].tobytes(), name


BOTH = """#include "one.h"
#include "other.h"
#include "odd.h"
#include "one.h"

static unsigned char memory[ONE_STATE_BYTES + OTHER_STATE_BYTES + ONE_SCRATCH_BYTES + 64];

int main(void) {
    unsigned char *state = memory;
    float x[8], y[4], loss;
    for (int i = 0; i < 8; i++) x[i] = y[i / 2] = (float)i;
    while ((uintptr_t)state % ONE_ALIGNMENT) state++;
    one_init(state);
    other_init(state + ONE_STATE_BYTES);
    one(state, state + ONE_STATE_BYTES + OTHER_STATE_BYTES, x, y, &loss);
    return !(loss > 0.0f) || *(float *)(state + ONE_AT_W) == 2.0f;
}
"""


def test_headers_in_c_and_cpp(tmp_path: Path) -> None:
    """Two exports in one program, in both languages; names that are none in C; comments that would end too soon."""
    one, other = made(CASES["tutorial"]), made(CASES["masked"])
    paths = [*one.export(tmp_path / "one"), *other.export(tmp_path / "other", n=5)]
    a, b = graphc.placeholder("class", (2,)), graphc.placeholder("state", (2,))
    odd = graphc.function([a, b], {"double": a + b, "a.b": a - b, "a_b": a * b, "3d": a / b})
    paths += graphc.export(tmp_path / "odd", {"run1": odd})
    texts = {p.stem: p.read_text() for p in paths if p.suffix == ".h"}
    for name in ("class_", "state_2", "double_", "a_b", "a_b_2", "_3d"):
        assert re.search(rf"\*{name} /\*", texts["odd"]), name
    assert "const void *state" in texts["odd"] and "(void *state" in texts["one"] and texts["other"].count("*/ */") == 0
    assert all(len(line) <= 128 for text in texts.values() for line in text.splitlines())
    objects = [p for p in paths if p.suffix == ".o"]
    for compiler, name, std in ((exported.COMPILER, "main.c", "c99"), (exported.CPP, "main.cpp", "c++11")):
        if compiler:
            exported.compile_c(tmp_path / name, BOTH, *objects, std=std, compiler=compiler)
            subprocess.run([tmp_path / "main"], check=True)
    for path in objects:
        exported.load(path.read_bytes(), [f"{path.stem}_init"])


def test_documentation_and_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block, {})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["digits.h", "digits.o", "pi.h", "pi.o"]
    (shown,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    header = re.sub(" +", " ", (tmp_path / "digits.h").read_text())
    for part in re.split(r"\n\n|\.\.\.\n", re.sub(" +", " ", shown.strip())):
        assert re.sub(r"\d{4,}", "", part) in re.sub(r"\d{4,}", "", header), part
    folder = ROOT / "examples" / "export_c"
    assert main(["export", f"{folder / 'model.py'}:train,predict", "--size", "batch=32", "-o", "curve"]) == 0
    if exported.COMPILER is None:
        exported.load((tmp_path / "curve.o").read_bytes(), ("curve_init", "curve_train", "curve_predict_run"))
        return
    source = (folder / "main.c").read_text()
    exported.compile_c(tmp_path / "main.c", source, tmp_path / "curve.o", std="c99")
    said = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", said)]
    worst = re.search(r"predictions: (\S+);", said)
    assert len(losses) == 6 and losses[-1] < 2e-3 and worst is not None and float(worst[1]) < 0.1


FORMATS: dict[str, tuple[str, Callable[[bytes], bool]]] = {
    f"aarch64-{LINUX}": ("cortex-a72", lambda d: elf(d) == (183, 0)),
    f"riscv64-{LINUX}": ("", lambda d: elf(d) == (243, 5)),  # compressed instructions, and float64 in registers of calls
    "riscv64-unknown-elf": ("sifive-u74", lambda d: elf(d) == (243, 5)),
    f"x86_64-{LINUX}": ("x86-64-v2", lambda d: elf(d) == (62, 0)),
    "arm64-apple-macosx11.0": ("apple-m1", lambda d: d[:8] == struct.pack("<II", 0xFEEDFACF, 0x100000C)),
    "x86_64-apple-macosx11.0": ("", lambda d: d[:8] == struct.pack("<II", 0xFEEDFACF, 0x1000007)),
    "x86_64-pc-windows-msvc": ("", lambda d: d[:2] == b"\x64\x86"),
}


def elf(data: bytes) -> tuple[int, int]:
    """(machine, flags) of a 64-bit little-endian ELF object."""
    assert data[:6] == b"\x7fELF\2\1"
    return struct.unpack_from("<H", data, 18)[0], struct.unpack_from("<I", data, 48)[0]


@pytest.mark.parametrize("triple", FORMATS)
def test_objects_for_other_machines(triple: str, tmp_path: Path) -> None:
    cpu, right = FORMATS[triple]
    case = CASES["masked" if "-elf" in triple else "mlp"]
    found = Exported(made(case).export(tmp_path / "step", target=triple, cpu=cpu or None, **case.sizes))
    assert right(found.data) and f"code for {triple}" in found.text.replace("\n * ", " ")
    defined, wanted = object_files.symbol_table(found.data)
    assert {"step", "step_run", "step_init"} <= defined
    systems = {"_fltused"} if "windows" in triple else {"bzero", "__bzero"} if "apple" in triple else set()
    assert wanted <= MEMORY | systems | ({"fma", "fmaf"} if cpu == "x86-64-v2" else set())
    if wanted & MEMORY:
        assert ", ".join(sorted(wanted)) in found.text.replace("\n * ", " ")


@pytest.mark.parametrize(("name", "triple"), EMULATED)
def test_trains_on_other_machines(name: str, triple: str, tmp_path: Path) -> None:
    case, steps = CASES[name], 6
    found = Exported(made(case).export(tmp_path / "step", target=triple, **case.sizes))
    feeds, reference = case.feeds(steps), made(case, backend="numpy")
    results, _ = emulator.train(found, "step", feeds, described(reference, case), 3, 3)
    for got, want in zip(results, steps_of(reference, feeds, steps), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def refused(message: str, path: Path | str, programs: Any, error: type[Exception] = GE, **options: Any) -> None:
    with pytest.raises(error) as raised:
        graphc.export(path, programs, **options)
    assert re.search(message, str(raised.value)), raised.value


def test_errors(tmp_path: Path) -> None:
    step, path = made(CASES["mlp"]), tmp_path / "step"
    fixed = made(CASES["tutorial"])
    refused(r"open sizes are batch; missing: batch", path, step, graphc.FeedError)
    refused(r"unknown: bacth", path, step, graphc.FeedError, bacth=3)
    refused(r"batch=0 is no size", path, step, graphc.FeedError, batch=0)
    refused(r"batch=2.5 is no size", path, step, graphc.FeedError, batch=2.5)
    refused(r"no folder .*missing", tmp_path / "missing" / "step", step, batch=2)
    for name, fits in (("2nd step", "c_2nd_step"), ("class", "class_"), ("a-b", "a_b"), ("", "step")):
        refused(rf"names of C functions.*{fits}' would be", str(tmp_path) + f"/{name}" if name else ".", fixed)
    refused("no name of a C function; with the key 'a_b'", path, {"a b": fixed})
    refused("two C functions would be called 'step_init'", path, {"init": fixed})
    refused("two C functions would be called 'step_a_run'", path, {"a": fixed, "a_run": fixed})
    refused("no program", path, {})
    refused("backend='numpy'.*backend='native'", path, made(CASES["tutorial"], backend="numpy"))
    refused("check_numerics", path, made(CASES["tutorial"], check_numerics=True))
    refused("'loss' is a Tensor.*graphc.function", path, {"loss": fixed.inputs[0]})
    refused("not a Program.*graph.program", path, {"train": Static()})
    w = graphc.parameter("w", [1.0])
    optimizer = optim.SGD([w], lr=0.1)
    scheduled = graphc.train_step((w * w).sum(), optimizer,
                                  lr_scheduler=optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5 ** epoch))
    refused("schedule that is Python code", path, scheduled)
    refused("no code for the target 'nowhere'", path, fixed, target="nowhere")
    for triple in (f"armv7-{LINUX}", "wasm32-unknown-unknown", "nvptx64-nvidia-cuda"):
        refused(rf"no code for the target '{triple}': it can be made for x86_64, aarch64, riscv64", path, fixed, target=triple)
    for triple in (f"aarch64_be-{LINUX}", "x86_64-unknown-linux-gnux32"):
        refused("only for 64-bit little-endian machines", path, fixed, target=triple)
    refused("LLVM knows no cpu 'cortex-a7l'; did you mean .*cortex-a7", path, fixed, target="aarch64", cpu="cortex-a7l")
    refused(r"LLVM knows no feature '\+avx3'", path, fixed, target=f"x86_64-{LINUX}", features="+avx3")
    refused("write each with", path, fixed, target=f"x86_64-{LINUX}", features="avx2")
    refused("LLVM makes no code.*64-bit code", path, fixed, target=f"x86_64-{LINUX}", cpu="i386")
    refused("no float64 arithmetic", path, fixed, target="riscv64-unknown-elf", cpu="sifive-s51")
    refused("would call __u?(div|mul)di3.*more features", path, made(CASES["masked"]), target="riscv64-unknown-elf", n=5,
            features="-m,-zmmul")
    assert not list(tmp_path.iterdir())


class Static(nn.Graph):
    def build(self, x: graphc.Tensor) -> graphc.Tensor:
        return x * 2.0
