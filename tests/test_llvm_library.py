"""LLVM's pages: which are given back to the system, that they come again, and that a large step begins without them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graphc.runtime.native.llvm_library import give_back_pages, library_path, unwritten, written_from

import graphc

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are given back where Linux says which are whose")


def of_library(what: str) -> dict[int, int]:
    """Bytes that the system says of each of the library's mappings, by its first address."""
    found: dict[int, int] = {}
    start = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-", line):
            start = int(line.split("-")[0], 16) if line.endswith(os.path.realpath(library_path())) else None
        elif start is not None and line.startswith(what + ":"):
            found[start] = int(line.split()[1]) << 10
    return found


def trained(size: int, rows: int = 16) -> np.ndarray:
    """The losses of some steps of a model that no other call compiles."""
    graphc.manual_seed(0)
    model = graphc.nn.Sequential(graphc.nn.Linear(size, 40), graphc.nn.Tanh(), graphc.nn.Linear(40, 1))
    x, y = graphc.placeholder("x", (rows, size)), graphc.placeholder("y", (rows, 1))
    step = graphc.train_step(graphc.nn.functional.mse_loss(model(x), y), graphc.optim.Adam(model.parameters()))
    data = np.random.default_rng(1).standard_normal((rows, size + 1)).astype(np.float32)
    return np.asarray(step.run(5, data[:, :size].copy(), data[:, size:].copy()))


@pytest.fixture(autouse=True)
def compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", "0")


def test_only_pages_that_nobody_has_written_to_are_given_back() -> None:
    trained(31)
    path = os.path.realpath(library_path())
    given = dict(unwritten(path, written_from(path)))
    assert sum(end - start for start, end in given.items()) > 0.5 * os.path.getsize(path)
    for what in ("Private_Dirty", "Anonymous"):
        written = of_library(what)
        assert set(given) < set(written)
        assert not any(written[start] for start in given)
        assert any(size for start, size in written.items() if start not in given)  # what the loader has written stays


def test_pages_are_given_back_and_come_again() -> None:
    before = trained(32)
    full = sum(of_library("Rss").values())
    give_back_pages()
    left = sum(of_library("Rss").values())
    assert left < 0.2 * full
    again = trained(33)  # compiled anew
    assert np.isfinite(again).all()
    assert sum(of_library("Rss").values()) > left
    np.testing.assert_array_equal(trained(32), before)


def test_another_file_has_no_pages_here(tmp_path: Path) -> None:
    other = tmp_path / "lib.so"
    other.write_bytes(Path(os.path.realpath(library_path())).read_bytes()[:4096])
    assert list(unwritten(str(other), written_from(str(other)))) == []


LARGE = """
import re, sys, time
import numpy as np
import graphc
model = graphc.nn.Linear({size}, {size})
x, y = graphc.placeholder("x", (8, {size})), graphc.placeholder("y", (8, {size}))
step = graphc.train_step(graphc.nn.functional.mse_loss(model(x), y), graphc.optim.Adam(model.parameters()))
bound = step.bind(np.ones((8, {size}), np.float32), np.ones((8, {size}), np.float32))
bound()

def resident():
    total, here = 0, False
    for line in open("/proc/self/smaps"):
        if re.match("[0-9a-f]+-", line):
            here = "libllvmlite" in line
        elif here and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total

end = time.monotonic() + {patience}
while resident() > 20 << 20 and time.monotonic() < end:
    time.sleep(0.01)
print(resident())
"""


@pytest.mark.parametrize(("size", "stays", "patience"), [(64, True, 0.2), (1536, False, 10)])
def test_a_large_step_begins_without_them(size: int, stays: bool, patience: float) -> None:
    environment = {**os.environ, "GRAPHC_CACHE": "0", "PYTHONPATH": str(ROOT)}
    code = LARGE.format(size=size, patience=patience)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment,
                         check=True).stdout
    assert (int(out) > 20 << 20) == stays
