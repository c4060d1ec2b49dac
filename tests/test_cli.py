"""The command line: every command, every format, and messages instead of tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.cli import main
from graphc.op import REGISTRY

MODEL = '''
import numpy as np
import graphc
from graphc import nn, optim

x = graphc.placeholder("x", ("batch", 3))
y = graphc.placeholder("y", ("batch",), "int64")
model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
loss = nn.CrossEntropyLoss()(model(x), y)
step = graphc.train_step(loss, optim.Adam(model.parameters()))
before = model[0].weight.numpy()
step(np.ones((4, 3)), np.zeros(4, int))
assert (model[0].weight.numpy() == before).all(), "trained while being looked at"

class Predict(nn.Graph):
    def build(self, x):
        return model(x)

predict = Predict()
from graphc.ops.elementwise import unary
broken = unary("broken_cube", lambda v: v * v * v, lambda g, out, v: g * 2.0 * v * v, lambda s, v: s.mul(v, s.mul(v, v)),
               "x cubed, with a wrong gradient.") if "broken_cube" not in graphc.op.REGISTRY else None
wrong = graphc.broken_cube(model(x)).sum()
number = 3

if __name__ == "__main__":
    raise SystemExit("must not run")
'''


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(("stage", "expected"), [
    ("forward", "log_softmax"), ("gradient", "gradient0"), ("update", "update @"), ("simplified", "contract"),
    ("plan", "arena"), ("llvm", "define i32 @run"), ("asm", "run:")])
def test_dump_at_every_stage(capsys: pytest.CaptureFixture[str], file: str, stage: str, expected: str) -> None:
    code, out, _ = run(capsys, "dump", f"{file}:step", "--stage", stage, "--size", "batch=4")
    assert code == 0 and expected in out


@pytest.mark.parametrize("format_", ["dot", "svg", "html", "json", "text"])
def test_dump_formats(capsys: pytest.CaptureFixture[str], file: str, format_: str, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "dump", f"{file}:step", "--stage", "update", "--format", format_)
    assert code == 0 and len(out) > 500
    if format_ == "json":
        assert json.loads(out)["updates"]
    target = tmp_path / f"out.{'txt' if format_ == 'text' else format_}"
    assert main(["dump", f"{file}:step", "--stage", "update", "-o", str(target)]) == 0
    assert target.stat().st_size > 500


def test_dump_png_to_a_file(file: str, tmp_path: Path) -> None:
    target = tmp_path / "step.png"
    assert main(["dump", f"{file}:loss", "--stage", "gradient", "-o", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_static_graph_needs_types(capsys: pytest.CaptureFixture[str], file: str) -> None:
    code, _, err = run(capsys, "dump", f"{file}:predict")
    assert code == 2 and "--input f32[4,2]" in err
    code, out, _ = run(capsys, "dump", f"{file}:predict", "--input", "f32[4,3]")
    assert code == 0 and "tanh" in out


def test_report_profile_and_info(capsys: pytest.CaptureFixture[str], file: str) -> None:
    code, out, _ = run(capsys, "report", f"{file}:step", "--size", "batch=64")
    assert code == 0 and "in place" in out and "kernels" in out
    code, out, _ = run(capsys, "profile", f"{file}:step", "--repeat", "2")
    assert code == 0 and "the whole step" in out
    code, out, _ = run(capsys, "info")
    assert code == 0 and "llvmlite" in out and "vectors" in out


def test_check_finds_right_and_wrong_gradients(capsys: pytest.CaptureFixture[str], file: str) -> None:
    code, out, _ = run(capsys, "check", f"{file}:loss")
    assert code == 0 and "wrong" not in out and "0.weight" in out
    code, out, _ = run(capsys, "check", f"{file}:step")
    assert code == 0
    code, out, _ = run(capsys, "check", f"{file}:wrong")
    REGISTRY.pop("broken_cube", None)
    assert code == 1 and "WRONG" in out


@pytest.mark.parametrize(("argv", "message"), [
    (["dump", "nowhere.py"], "there is no file nowhere.py"),
    (["dump", "{file}"], "has several graphs; name one"),
    (["dump", "{file}:nothing"], "has no 'nothing'; it has"),
    (["dump", "{file}:number"], "'number' is"),
    (["dump", "{file}:step", "--size", "batch"], "'batch' is no size; write one like batch=32"),
    (["dump", "{file}:step", "--stage", "plan", "--format", "svg"], "'plan' is text only"),
    (["dump", "{file}:step", "-o", "/nowhere/x.txt"], "there is no folder /nowhere"),
])
def test_messages(capsys: pytest.CaptureFixture[str], file: str, argv: list[str], message: str) -> None:
    code, _, err = run(capsys, *(a.replace("{file}", file) for a in argv))
    assert code == 2 and message in err and "Traceback" not in err


def test_files_that_fail(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\ny = 1 / 0\n")
    assert "broken.py:2: ZeroDivisionError" in run(capsys, "dump", str(broken))[2]
    broken.write_text("x = = 1\n")
    assert "broken.py:1: SyntaxError" in run(capsys, "dump", str(broken))[2]
    broken.write_text("x = 1\n")
    assert "has no Tensor, Program or nn.Graph at its top level" in run(capsys, "dump", str(broken))[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0 and "simplified" in out


def test_help_teaches_and_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "graphc", "--help"], capture_output=True, text=True,
                          cwd=Path(__file__).parent.parent)
    assert done.returncode == 0 and "against finite differences" in done.stdout and "examples" in done.stdout.lower()
