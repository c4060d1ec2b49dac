"""README and examples run as they stand."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_has_blocks() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_readme_block_runs(index: int, tmp_path: Path) -> None:
    file = tmp_path / "block.py"
    file.write_text(BLOCKS[index])
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, cwd=ROOT,
                          env={**__import__("os").environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    if index == 0:
        losses = re.search(r"([\d.e+-]+) -> ([\d.e+-]+)", done.stdout)
        assert losses is not None
        first, last = map(float, losses.groups())
        assert last < first / 50


def test_tutorial_prints_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "backprop_and_optimizer.py"), run_name="__main__")
    out = capsys.readouterr().out
    parts = out.split("--- ")[1:]
    assert [p.splitlines()[0] for p in parts] == ["by_hand", "with_symbols", "with_modules", "with_static_graph"]
    for part in parts:
        losses = {int(s): float(v) for s, v in re.findall(r"(\d+)/500 loss:(\S+)", part)}
        assert sorted(losses) == list(range(50, 501, 50))
        assert losses[50] == pytest.approx(0.00345116, rel=1e-3)
        assert losses[100] == pytest.approx(1.96565e-06, rel=1e-3)
        assert losses[500] <= 2e-11


@pytest.mark.parametrize("stage", ["forward", "gradient", "update", "simplified", "plan", "llvm", "asm"])
def test_tutorial_dumps_at_every_stage(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    from graphc.cli import main

    assert main(["dump", str(ROOT / "examples" / "backprop_and_optimizer.py"), "--stage", stage]) == 0
    assert len(capsys.readouterr().out) > 200


def test_digits_reaches_97_percent() -> None:
    assert runpy.run_path(str(ROOT / "examples" / "digits.py"))["main"]() >= 0.97


def test_second_order_learns_the_sine() -> None:
    assert runpy.run_path(str(ROOT / "examples" / "second_order.py"))["main"]() < 5e-3


def test_lenet_reaches_98_percent_and_a_half() -> None:
    assert runpy.run_path(str(ROOT / "examples" / "lenet_digits.py"))["main"]() >= 0.985


def test_character_gpt_learns() -> None:
    first, last = runpy.run_path(str(ROOT / "examples" / "gpt_char.py"))["main"](120)
    assert first > 3.0 and last < 2.3


def test_variational_autoencoder_beats_the_mean_image(tmp_path: Path) -> None:
    first, last, held = runpy.run_path(str(ROOT / "examples" / "vae_digits.py"))["main"](30, str(tmp_path / "grid.png"))
    assert first > 30 and last < 25.5
    assert 24 < held < 25.8  # the mean of all images says 27.2; far below 24 the divergence would be missing
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_lstm_forecasts_better_than_the_naive_guess() -> None:
    reached, naive = runpy.run_path(str(ROOT / "examples" / "lstm_series.py"))["main"](10)
    assert 0.1 < reached < 0.45 * naive


@pytest.mark.parametrize("name", ["vae_digits", "lstm_series"])
def test_examples_with_options_explain_themselves(name: str, capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert "--epochs" in capsys.readouterr().out


def test_custom_optimizer_runs() -> None:
    runpy.run_path(str(ROOT / "examples" / "custom_optimizer.py"), run_name="__main__")
