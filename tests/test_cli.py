"""The command line: every command, its errors with their remedies, and what must not happen while a file is read."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graphc.runtime.native.target import host, with_matrix_unit, with_pairs

import graphc
from graphc import timeline
from graphc.cli import EXAMPLES, FORMATS, LANES, SORTS, STAGES, main

REGRESSION = """
import numpy as np
import graphc as g

x = g.placeholder("x", ("batch", 2))
y = g.placeholder("y", ("batch", 1))
w = g.parameter("w", np.array([[0.5], [-0.3]]))
loss = ((x @ w - y) ** 2).sum()
step = g.function([x, y], loss, {w: w - 0.01 * g.grad(loss, w)}, name="step")
print("built")
for _ in range(3):
    step(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))
step.run(5, np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))
step.fit({"x": np.ones((4, 2), np.float32), "y": np.ones((4, 1), np.float32)}, batch_size=2, epochs=2)
if __name__ == "__main__":
    raise SystemExit("main must not run")
"""

STATIC = """
import graphc as g
from graphc import nn, optim

class Train(nn.Graph):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 1)
        self.add_optimizer(optim.SGD(self.model.parameters(), lr=0.1))

    def build(self, x, y):
        loss = ((self.model(x) - y) ** 2).mean()
        loss.backward()
        return loss

graph = Train()
"""

WRONG = """
import numpy as np
import graphc as g
from graphc.op import Kind, Op, define, REGISTRY, same_type
from graphc.symbols import apply

if "badly_doubled" not in REGISTRY:
    define(Op("badly_doubled", Kind.MAP, same_type, lambda x: x + x, (lambda g, out, x: g * 3.0,), lambda s, x: s.add(x, x)))
w = g.parameter("w", np.array([1.0, 2.0]))
loss = apply("badly_doubled", w).sum()
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a file into an empty folder, which becomes the current one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "model.py") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.fixture
def model(write) -> str:
    return write(REGRESSION)


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and captured.err.startswith(("graphc: ", "built\ngraphc: "))
    return captured.err


# -- dump ------------------------------------------------------------------------------------------------------------


def test_dump_of_a_tensor_is_read_back(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = succeed(capsys, "dump", f"{model}:loss")
    assert text.startswith("graph(%x: f32[batch,2]")  # what the file prints goes to standard error
    assert len(graphc.parse(text).nodes) == 7


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_a_program(model: str, capsys: pytest.CaptureFixture[str], stage: str) -> None:
    text = succeed(capsys, "dump", f"{model}:step", "--stage", stage, "--size", "batch=8")
    expected = {"plan": "kernel", "llvm": "define", "asm": ".text", "update": "update @w", "simplified": "update @w"}
    assert expected.get(stage, "contract") in text
    assert ("update" in text) == (stage in ("update", "simplified")) or stage in ("plan", "llvm", "asm")


@pytest.mark.parametrize("format", [f for f in FORMATS if f != "png"])
def test_every_format(model: str, capsys: pytest.CaptureFixture[str], format: str) -> None:
    text = succeed(capsys, "dump", f"{model}:loss", "--stage", "gradient", "--format", format)
    start = {"text": "graph(", "dot": "digraph", "svg": "<?xml", "html": "<!doctype html>", "json": "{"}[format]
    assert text.startswith(start) and text.endswith("\n")
    if format == "json":
        json.loads(text)


def test_format_from_the_suffix_and_png(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, start in {"a.svg": b"<?xml", "a.png": b"\x89PNG", "a.html": b"<!doctype", "a.gv": b"digraph",
                        "a.json": b"{", "a.txt": b"graph("}.items():
        assert succeed(capsys, "dump", f"{model}:loss", "-o", name) == ""
        assert Path(name).read_bytes().startswith(start)


def test_png_to_standard_output_is_bytes(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["dump", f"{model}:loss", "--format", "png"]) == 0
    assert stream.buffer.getvalue().startswith(b"\x89PNG")


def test_gradient_of_a_tensor_is_by_parameter(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'as "dw"' in succeed(capsys, "dump", f"{model}:loss", "--stage", "gradient")


def test_gradient_without_parameters_is_by_input(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write("import graphc as g\nx = g.placeholder('x', (3,))\ny = x.exp().sum()\n")
    assert 'as "dx"' in succeed(capsys, "dump", file, "--stage", "gradient")


# -- what a file is ---------------------------------------------------------------------------------------------------


def test_reading_a_file_does_not_train(model: str) -> None:
    from graphc.loading import load

    name, step = load(model)
    assert name == "step" and isinstance(step, graphc.Program)  # the only program; tensors stand back
    np.testing.assert_array_equal(step.parameters[0].numpy(), np.array([[0.5], [-0.3]], np.float32))
    arguments, folders = list(sys.argv), list(sys.path)
    load(f"{model}:loss")
    assert sys.argv == arguments and sys.path == folders
    feeds = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    assert step(*feeds) > 0 and (step.parameters[0].numpy() != [[0.5], [-0.3]]).any()  # and trains again afterwards


def test_files_import_their_neighbours(write, capsys: pytest.CaptureFixture[str]) -> None:
    write("import graphc as g\ndef norm(x):\n    return (x * x).sum()\n", "neighbour_of_model.py")
    file = write("import graphc as g\nfrom neighbour_of_model import norm\ny = norm(g.placeholder('x', (3,)))\n")
    assert "sum" in succeed(capsys, "dump", file)


def test_dotted_names(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write("import graphc as g\nclass Box: pass\nbox = Box()\nbox.y = g.placeholder('x', (3,)).exp()\n")
    assert "exp" in succeed(capsys, "dump", f"{file}:box.y")


def test_static_graph_that_was_never_called(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(STATIC)
    error = fail(capsys, "dump", f"{file}:graph")
    assert "never called" in error and "(x, y)" in error and "--input f32[4,2]" in error
    text = succeed(capsys, "dump", file, "--stage", "update", "--input", "f32[4,2]", "--input", "f32[4,1]")
    assert "update @model.weight" in text or "update @weight" in text
    assert "give --input 2 times, not 1" in fail(capsys, "dump", file, "--input", "f32[4,2]")
    assert "f32[batch,2]" in fail(capsys, "dump", file, "--input", "f32[4", "--input", "f32[4,1]")
    assert "give numbers" in fail(capsys, "dump", file, "--input", "f32[n,2]", "--input", "f32[n,1]")
    assert "is a class" in fail(capsys, "dump", f"{file}:Train")


def test_static_graph_that_was_called(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(STATIC + "import numpy as np\ngraph(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))\n")
    assert "contract" in succeed(capsys, "report", f"{file}:graph", "--size", "batch=64")


@pytest.mark.parametrize(("text", "target", "parts"), [
    ("", "nowhere.py:loss", ["no file nowhere.py", "like model.py:loss"]),
    ("", ".", ["is a folder"]),
    ("", "model.py", ["no Tensor, Program or nn.Graph", "loss = ..."]),
    ("", "model.py:loss", ["no 'loss'", "no graph at its top level"]),
    ("", "model.py:lo-ss", ["is no name"]),
    ("a = 1", "model.py:a", ["'a' is a int, not a Tensor"]),
    ("import graphc as g\nx = g.placeholder('x')\na = x + 1\nb = a * 2", "model.py",
     ["several graphs", "model.py:a", "model.py:b", "Tensor f32[]"]),
    ("import graphc as g\nx = g.placeholder('x')\na = x + 1", "model.py:c", ["no 'c'", "model.py:a"]),
    ("\n\n1 / 0", "model.py", ["model.py:3: ZeroDivisionError: division by zero", "at 1 / 0", "__main__"]),
    ("def broken(:", "model.py", ["model.py:1: SyntaxError"]),
    ("raise SystemExit(3)", "model.py", ["exit(3)", "__main__"]),
    ("import graphc as g\ng.placeholder('x', (2,)) @ g.placeholder('y', (3,))", "model.py",
     ["wrong graph", "f32[2]", "f32[3]", "model.py:2"]),
])
def test_files_that_cannot_be_used(write, capsys: pytest.CaptureFixture[str], text: str, target: str,
                                   parts: list[str]) -> None:
    write(text)
    error = fail(capsys, "dump", target)
    for part in parts:
        assert part in error


@pytest.mark.parametrize(("arguments", "parts"), [
    (["dump", "model.py:loss", "--stage", "update"], ["a Tensor, which updates nothing", "graphc.train_step(loss"]),
    (["dump", "model.py:step", "--stage", "plan", "--format", "svg"], ["'plan' is text only"]),
    (["dump", "model.py:step", "-o", "plan.xyz"], ["suffix .xyz", "--format"]),
    (["dump", "model.py:step", "-o", "missing/plan.txt"], ["no folder missing"]),
    (["dump", "model.py:step", "-o", "."], ["directory"]),
    (["dump", "model.py:step", "--size", "b=3"], ["no open dimension is called 'b'", "batch"]),
    (["dump", "model.py:step", "--size", "batch"], ["write one like batch=32"]),
    (["dump", "model.py:step", "--size", "batch=0"], ["write one like batch=32"]),
    (["dump", "model.py:step", "--stage", "late"], ["invalid choice", "simplified", "graphc dump --help"]),
    (["dump", "model.py:step", "--input", "f32[2]"], ["--input is for an nn.Graph"]),
    (["dump"], ["FILE[:NAME]", "--help"]),
    (["draw", "model.py"], ["invalid choice", "dump"]),
    (["profile", "model.py:step", "--repeat", "0"], ["no positive number"]),
    (["timeline", "model.py:step", "--repeat", "few"], ["no positive number"]),
    (["timeline", "model.py:step", "-o", "step.png"], ["ends in .json or .svg or .html", "step.png"]),
    (["timeline", "model.py:step", "-o", "missing/step.svg"], ["no folder missing"]),
    (["timeline", "model.py:step", "--sort", "name"], ["invalid choice", "time", "step"]),
    (["export", "model.py:step"], ["--size batch=32"]),
    (["export", "model.py:step", "--size", "batch=4", "-o", "missing/step"], ["no folder missing"]),
    (["export", "model.py:step,nothing", "--size", "batch=4"], ["has no 'nothing'", "step"]),
    (["export", "model.py:step", "--size", "batch=4", "--cpu", "z80"], ["no cpu 'z80'"]),
    (["timeline", "model.py:step", "--size", "b=3"], ["no open dimension is called 'b'", "batch"]),
    (["check", "model.py:step", "--size", "b=3"], ["no open dimension is called b"]),
])
def test_wrong_calls(model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]) -> None:
    error = fail(capsys, *arguments)
    for part in parts:
        assert part in error


# -- the other commands ------------------------------------------------------------------------------------------------


def test_report_and_profile(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "batch=8" in succeed(capsys, "report", model, "--size", "batch=8")
    assert "the whole step" in succeed(capsys, "profile", model, "--size", "batch=8", "--repeat", "2")
    assert "sum" in succeed(capsys, "report", f"{model}:loss")


def test_export(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = succeed(capsys, "export", f"{model}:step,loss", "--size", "batch=8", "--target", "aarch64-unknown-linux-gnu",
                   "-o", str(tmp_path / "net.o"))
    assert [line.split()[0] for line in text.splitlines()] == [str(tmp_path / "net.o"), str(tmp_path / "net.h")]
    header = (tmp_path / "net.h").read_text()
    assert all(f"void {name}(" in header for name in ("net_init", "net_step", "net_step_run", "net_loss"))
    (tmp_path / "writes.py").write_text(f"{REGRESSION}step.export({str(tmp_path / 'written')!r}, batch=2)\n")
    succeed(capsys, "report", f"{tmp_path / 'writes.py'}:step")  # a file that is only looked at writes nothing
    assert not list(tmp_path.glob("written*"))


def test_timeline(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = succeed(capsys, "timeline", model, "--size", "batch=8", "--repeat", "2", "-o", str(tmp_path / "step.json"))
    assert "step on native" in text and "computing" in text and "outside kernels" in text
    assert json.loads((tmp_path / "step.json").read_text())["traceEvents"]
    assert "us a step" in succeed(capsys, "timeline", f"{model}:loss", "--sort", "step", "-o", str(tmp_path / "loss.SVG"))
    assert "<svg" in (tmp_path / "loss.SVG").read_text()
    assert timeline.SORTS == SORTS and tuple(timeline.FORMATS) == LANES


def test_check_of_a_right_graph(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (f"{model}:loss", f"{model}:step"):
        text = succeed(capsys, "check", target, "--size", "batch=5", "--seed", "1")
        assert "float64" in text and "w " in text and "f32[2,1]" in text and text.rstrip().endswith("right")


def test_check_of_a_network(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write("""
import graphc as g
from graphc import nn
model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3))
x, y = g.placeholder("x", ("batch", 4)), g.placeholder("y", ("batch",), "int64")
loss = nn.functional.cross_entropy(model(x), y)
""")
    assert succeed(capsys, "check", f"{file}:loss").count("  right\n") == 6


def test_check_finds_a_wrong_rule(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(WRONG)
    try:
        assert main(["check", f"{file}:loss"]) == 1
    finally:
        from graphc.op import REGISTRY

        REGISTRY.pop("badly_doubled", None)
    captured = capsys.readouterr()
    assert "WRONG" in captured.out and "the graph says 3" in captured.out and "wrong gradient of w" in captured.err


def test_check_sees_cuts_positive_domains_and_inputs(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write("import graphc as g\nx = g.placeholder('x', ('n', 2))\ny = (x.log() * x.detach()).sum()\n")
    assert "x " in (text := succeed(capsys, "check", f"{file}:y")) and "right" in text
    file = write("import graphc as g\nx = g.placeholder('x', ('n', 2))\ny = (x.floor() * 0.0 + 1).sum()\n")
    assert "proves nothing" in succeed(capsys, "check", f"{file}:y")


def test_check_needs_a_scalar(write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write("import graphc as g\nx = g.placeholder('x', (3, 2))\ny = x * 2\nz = g.constant(1.0) + 1\n")
    assert "needs a scalar floating loss, got f32[3,2]" in fail(capsys, "check", f"{file}:y")
    assert "nothing to differentiate" in fail(capsys, "check", f"{file}:z")


def test_info(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "objects"))
    text = succeed(capsys, "info")
    for part in ("graphc ", "Python ", "numpy ", "target ", "vectors ", "threads ", "caches ", str(tmp_path / "objects")):
        assert part in text
    unit, pairs = with_matrix_unit(host()).pieces, with_pairs(host()).pieces
    said = ("on the matrix unit, for matmul_precision 'high', 'medium'" if unit else
            "in pairs, by vectors, for matmul_precision 'medium'" if pairs else "not multiplied")
    assert f"bfloat16     {said}" in text
    monkeypatch.setenv("GRAPHC_CACHE", "0")
    assert "off: GRAPHC_CACHE=0" in succeed(capsys, "info")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = succeed(capsys, "completion", shell)
    for part in ("dump", "profile", "timeline", "stage", "simplified", "png"):
        assert part in text
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=text, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(capsys: pytest.CaptureFixture[str]) -> None:
    text = succeed(capsys, "completion", "bash") + """
COMP_WORDS=(graphc dump model.py --stage si); COMP_CWORD=4; _graphc; echo "${COMPREPLY[@]}"
COMP_WORDS=(graphc pro); COMP_CWORD=1; _graphc; echo "${COMPREPLY[@]}"
COMP_WORDS=(graphc profile model.py --re); COMP_CWORD=3; _graphc; echo "${COMPREPLY[@]}"
COMP_WORDS=(graphc timeline model.py --sort s); COMP_CWORD=4; _graphc; echo "${COMPREPLY[@]}"
"""
    result = subprocess.run(["bash"], input=text, text=True, capture_output=True, check=True)
    assert result.stdout.split() == ["simplified", "profile", "--repeat", "step"]


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert "graphc check model.py:loss" in succeed(capsys, "--help")
    for command in (c for c in EXAMPLES if c):
        text = succeed(capsys, command, "--help")
        assert "example" in text and f"graphc {command}" in text
    assert succeed(capsys, "--version").startswith("graphc 0")
    assert main([]) == 2


# -- the process -------------------------------------------------------------------------------------------------------


def test_as_a_module_with_a_closed_pipe(model: str) -> None:
    root = str(Path(graphc.__file__).parent.parent)
    process = subprocess.Popen([sys.executable, "-m", "graphc", "dump", f"{model}:step", "--stage", "asm"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": root})
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 0
    assert errors.strip() in ("built", "")


def test_interrupt_and_no_terminal_picture(model: str, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(__import__("graphc.cli", fromlist=["cli"]).COMMANDS, "info", interrupted)
    assert "interrupted" in fail(capsys, "info", code=130)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "-o picture.png" in fail(capsys, "dump", f"{model}:loss", "--format", "png")
