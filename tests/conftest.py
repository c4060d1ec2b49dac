"""What all tests share."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Compiled code from tests stays out of the user's own cache.
os.environ.setdefault("GRAPHC_CACHE_DIR", tempfile.mkdtemp(prefix="graphc-tests-"))
# Programs are compiled here by the passes under test, some of which tests change; `test_kept.py` is about the others.
os.environ.setdefault("GRAPHC_CACHE", "objects")


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs take all the threads they may, also where a step is so short that one is faster."""
    monkeypatch.setattr("graphc.runtime.native.teams.GAIN", math.inf)


@pytest.fixture
def own_op() -> Iterator[Callable[..., Any]]:
    """`ops.elementwise.unary`, whose op goes away with the test: other tests go through all that are registered."""
    from graphc.op import REGISTRY
    from graphc.ops.elementwise import unary

    before = set(REGISTRY)
    yield unary
    for name in set(REGISTRY) - before:
        del REGISTRY[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, where programs are kept."""
    from graphc.runtime.native import kept

    if kept.machine() is None:
        pytest.skip("programs are kept on x86-64 Linux")
    monkeypatch.setenv("GRAPHC_CACHE", "1")
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
