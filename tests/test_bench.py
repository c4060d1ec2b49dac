"""The benchmark's own truth: every workload is the same mathematics in all libraries, and it says so where it is not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from graphc.runtime.native.kept import machine
from torch.utils.flop_counter import FlopCounterMode

from bench import layers
from bench.__main__ import main
from bench.contenders import build
from bench.elementwise import merged, program_of
from bench.elementwise_cases import CASES
from bench.rounds import Contender, Unequal, check_equal
from bench.workload import Optimizer, Workload
from bench.workloads import load
from bench.workloads.encoder import encoder
from bench.workloads.gpt import gpt
from bench.workloads.lenet import lenet
from bench.workloads.lstm import lstm
from bench.workloads.mlp import mlp
from bench.workloads.resnet import resnet

ROOT = Path(__file__).resolve().parent.parent
ADAM = Optimizer("Adam", 1e-3)
TINY = (
    mlp("tutorial", "", (2, 1), 4, "", "sum", Optimizer("SGD", 0.01)),
    mlp("tanh", "", (3, 5, 2), 4, "Tanh", "mse", Optimizer("SGD", 0.01, momentum=0.9)),
    mlp("relu", "", (3, 6, 5, 4), 7, "ReLU", "cross_entropy", ADAM),
    mlp("gelu", "", (3, 5, 2), 4, "GELU", "mse", Optimizer("AdamW", 1e-3, weight_decay=0.01)),
    gpt("gpt", "", layers=1, width=8, heads=2, context=4, batch=2, vocabulary=5),
    lenet("lenet", "", batch=2),
    resnet("resnet", "", batch=2, size=8),
    lstm("lstm", "", time=3, batch=2, inputs=4, hidden=8),
    encoder("encoder", "", layers=1, width=8, heads=2, wide=16, time=4, batch=2),
)


@contextmanager
def less_precise_torch() -> Iterator[None]:
    """What a contender sets for its whole process is as before afterwards."""
    before = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def contenders(w: Workload, *peers: str, written: Callable[..., Workload] = lambda w, peer: w, precision: str = "highest"
               ) -> list[Contender]:
    """Three steps in this process for each peer."""
    made = []
    for name in peers:
        peer, _, mode = name.partition(" ")
        step = build(peer, written(w, peer), 1, mode or "call", precision=precision)()
        made.append(Contender(peer, mode or "call", told={"losses": [step(1) for _ in range(3)]}))
    return made


@pytest.mark.parametrize("w", TINY, ids=[w.name for w in TINY])
def test_libraries_agree(w: Workload) -> None:
    made = contenders(w, "graphc", "torch", *(["numpy"] if w.numpy is not None else []))
    check_equal(w, made)
    losses = made[0].told["losses"]
    assert losses[2] < losses[0]
    assert float(build("graphc", w, 1, "loop")()(3)) == losses[2]


@pytest.mark.parametrize("w", TINY[2:5], ids=[w.name for w in TINY[2:5]])
def test_libraries_agree_where_contractions_are_less_precise(w: Workload) -> None:
    with less_precise_torch():
        made = contenders(w, "graphc", "torch", "torch autocast", precision="medium")
    check_equal(w, made, "medium")
    assert made[2].name == "torch autocast" and made[2].told["losses"] != made[1].told["losses"]
    with pytest.raises(Unequal, match="torch autocast has loss"):
        check_equal(w, made)


def test_contenders_start_from_what_is_written_and_keep_no_second_copy(tmp_path: Path) -> None:
    w = TINY[4]
    for columns in (False, True):
        w.write(tmp_path / str(columns), columns)
        state, *data = w.read(tmp_path / str(columns))
        drawn, *others = w.values(columns)
        assert list(state) == list(drawn) == list(w.shapes)
        for one, other in zip((*state.values(), *data), (*drawn.values(), *others), strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)
    for peer in ("graphc", "torch"):
        values = w.read(tmp_path / "False")
        step = build(peer, w, 1, "call", values)()
        assert not values[0] and step(1) > 0


@pytest.mark.parametrize("change", [
    {"optimizer": Optimizer("Adam", 1.1e-3)},
    {"optimizer": Optimizer("SGD", 0.05)},
    {"loss": lambda lib, model, x, y: 1.001 * lib.nn.functional.cross_entropy(model(x), y)},
    {"loss": lambda lib, model, x, y: lib.nn.functional.cross_entropy(model(x), y, label_smoothing=0.01)},
], ids=["rate", "optimizer", "scale", "smoothing"])
def test_unequal_mathematics_is_refused(change: dict[str, object]) -> None:
    w = TINY[2]
    made = contenders(w, "graphc", "torch", written=lambda w, peer: dataclasses.replace(w, **change) if peer == "torch" else w)
    with pytest.raises(Unequal, match=r"relu: torch has loss .* at step [123], graphc .*: not the same mathematics"):
        check_equal(w, made)


def test_nan_is_not_equal_to_anything() -> None:
    made = [Contender(p, "call", told={"losses": [1.0, 0.5, last]}) for p, last in (("graphc", 0.4), ("torch", float("nan")))]
    with pytest.raises(Unequal, match="step 3"):
        check_equal(TINY[0], made)


@pytest.mark.parametrize("name", ["mlp64", "mlp784", "lenet", "resnet"])
def test_operations_are_what_torch_counts(name: str) -> None:
    w = load()[name]
    state, x, y = w.values()
    module = w.model(torch)
    module.load_state_dict({n: torch.from_numpy(v) for n, v in state.items()})
    with FlopCounterMode(display=False) as counter:
        w.loss(torch, module, torch.from_numpy(x), torch.from_numpy(y)).backward()
    assert counter.get_total_flops() == w.flops


FILE = """
from dataclasses import replace
from bench.workload import Optimizer
from bench.workloads.mlp import mlp

def loss(lib, model, x, y):
    return lib.nn.functional.mse_loss(model(x), y) * (2 if lib.__name__ == "torch" else 1)

fair = mlp("fair", "a fair one", (3, 4, 2), 4, "Tanh", "mse", Optimizer("SGD", 0.01))
WORKLOADS = [fair, replace(fair, name="alone", numpy=None), replace(fair, name="foul", loss=loss)]
"""


def test_one_command_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page, picture = tmp_path / "workloads.py", tmp_path / "page.md", tmp_path / "page.svg"
    file.write_text(FILE)
    assert main(["--file", str(file), "--only", "fair", "--against", "torch", "numpy", "--rounds", "1", "--threads", "1",
                 "--output", str(page), "--plot", str(picture)]) == 0
    said = capsys.readouterr()
    assert "a fair one" in said.out and "Left out" not in said.out and "fair: building torch call" in said.err
    text = page.read_text()
    for part in ("| graphc |", "| graphc loop |", "| numpy |", "| torch |", "FMA float32", "triad", "Versions: graphc",
                 "peak MB", "compile + first step s", "Best peer with one call a step"):
        assert part in text, part
    assert picture.read_text().startswith("<svg") and picture.read_text().count("<rect") == 1 + 2


def test_starts_are_measured_in_new_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = tmp_path / "workloads.py", tmp_path / "page.md"
    file.write_text(FILE)
    asked = ["--file", str(file), "--against", "torch", "--starts", "2", "--threads", "1", "--output", str(page)]
    assert main([*asked, "--only", "fair"]) == 0
    assert capsys.readouterr().out.strip() == page.read_text().strip()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines()[2:]]
    assert [row[:2] for row in rows] == [["a fair one", "graphc"], ["", "graphc, kept on disk"], ["", "torch"]]
    ratio, least, middle = (float(part.strip("()×")) for part in (rows[2][3], rows[2][2].split()[1], rows[2][2].split()[0]))
    assert 0 < ratio < 1000 and 0 < least <= middle and float(rows[0][4]) > 0 and float(rows[2][5].replace(",", "")) > 50
    compiled, kept = (float(row[5].replace(",", "")) for row in rows[:2])
    assert kept < compiled or machine() is None, "it loads no LLVM"
    assert main([*asked, "--only", "foul"]) == 2
    said = capsys.readouterr()
    assert "not the same mathematics" in said.err and "quicker" not in said.out


def test_one_command_refuses_unequal_mathematics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "workloads.py"
    file.write_text(FILE)
    assert main(["--file", str(file), "--only", "foul", "--against", "torch", "--rounds", "1"]) == 2
    said = capsys.readouterr()
    assert "not the same mathematics" in said.err and "µs" not in said.out


def test_missing_library_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interpreter without torch: named, and no failure; one that ends otherwise: a failure."""
    file, none, broken = tmp_path / "workloads.py", tmp_path / "none", tmp_path / "broken"
    file.write_text(FILE)
    none.write_text(f"#!{sys.executable}\nimport sys; sys.exit(\"ModuleNotFoundError: No module named 'torch'\")\n")
    broken.write_text(f"#!{sys.executable}\nimport sys; sys.exit('ImportError: libtorch.so is damaged')\n")
    for python, status in ((none, 0), (broken, 1)):
        python.chmod(0o755)
        assert main(["--file", str(file), "--only", "alone", "--against", "torch", "numpy", "--rounds", "1", "--threads", "1",
                     "--peers", str(python)]) == status
        said = capsys.readouterr()
        assert "Left out: torch (" in said.out and "Left out: numpy (not written for this workload)." in said.out
        assert "No peer took part." in said.out
        assert ("damaged" in said.err) == (status == 1)


def test_list_names_every_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(load())


@pytest.mark.parametrize("title", ["MaxPool2d(3, 2, 1)", "ConvTranspose2d(64, 32, 4", "LSTM(64, 128)", "AdaptiveMaxPool2d"])
def test_layers_give_what_pytorchs_give(title: str) -> None:
    layer, = (one for one in layers.LAYERS if one.title.startswith(title))
    for mine, other in zip(layers.graphc_step(layer, 2)(), layers.torch_step(layer, 2)(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-3, atol=2e-3 * np.abs(other).max())


def test_layers_are_measured(tmp_path: Path) -> None:
    command = [sys.executable, "bench/layers.py", "--only", "Linear(512", "CosineSimilarity", "--rounds", "1", "--threads", "1",
               "--output", str(tmp_path / "layers.md")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "layers.md").read_text().splitlines()
    assert len(rows) == 4 and all(row.count("|") == 5 for row in rows)
    wrong = subprocess.run([*command[:2], "--only", "Nothing"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "no layer's title contains Nothing" in wrong.stderr


def test_elementwise_kernels_agree_and_are_measured(tmp_path: Path) -> None:
    """The script compares results before it times; a tiny size of every case, as a user would run it."""
    table = tmp_path / "table.md"
    command = [sys.executable, "bench/elementwise.py", "--sizes", "12K", "--threads", "1", "--rounds", "1",
               "--output", str(table)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CASES)
    head, rule, *rows = table.read_text().splitlines()
    assert head.startswith("| case | threads |") and set(rule) == set("|-: ")
    assert [row.split()[1] for row in rows] == list(CASES)
    assert all(float(row.split("|")[8]) > 0 for row in rows), "a ratio to torch in every row"
    assert merged(table, "\n".join([head, rule, rows[3].replace("| 1 |", "| 2 |")])).splitlines() == [
        head, rule, *rows[:4], rows[3].replace("| 1 |", "| 2 |"), *rows[4:]]


# Passes over a matrix beyond those that any implementation needs, and why.
MORE = {"batch_norm": 4}  # mean, variance, sums of the gradient, and the result each need the last row before they go on


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if "table" not in c.operands and "parts" not in c.operands])
def test_kernels_read_and_write_each_matrix_once(name: str) -> None:
    c = CASES[name]
    rows = 64 if c.columns < 5000 else 16
    program, _ = program_of(c, c.arrays(rows))
    large = rows * c.columns
    buffers = [b for k in program.specialize().plan.kernels for b in (*k.reads, *k.writes)]
    assert sum(b.type.size == large for b in buffers) == c.passes + MORE.get(name, 0), program.dump("plan")
