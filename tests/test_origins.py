"""Where errors say that they come from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import graphc

SCRIPT = """import graphc
a, b = graphc.placeholder("a", (3, 4)), graphc.placeholder("b", (5, 6))
try:
    a @ b
except graphc.ShapeError as error:
    print(graphc.__file__, error, sep="\\n")
"""


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a right on Windows")
def test_the_users_line_is_found_where_an_installation_consists_of_links(tmp_path: Path) -> None:
    source = Path(graphc.__file__).resolve().parent
    folders = {source: tmp_path / "graphc"}
    for name in ("passes", "runtime"):  # beside the package in the sources, below it where it is installed
        folders[source.parent / name] = tmp_path / "graphc" / name
    for folder, to in folders.items():
        for file in folder.rglob("*.py"):
            link = to / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    script = tmp_path / "model.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    file, *message = done.stdout.splitlines()
    assert Path(file).parent == tmp_path / "graphc"
    assert f"{script}:4" in message[-1], message
