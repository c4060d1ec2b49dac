"""What all tests share."""

from __future__ import annotations

import math
import os
import tempfile

import pytest

# Compiled code from tests stays out of the user's own cache.
os.environ.setdefault("GRAPHC_CACHE_DIR", tempfile.mkdtemp(prefix="graphc-tests-"))
# Programs are compiled here by the passes under test, some of which tests change; `test_kept.py` is about the others.
os.environ.setdefault("GRAPHC_CACHE", "objects")


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs take all the threads they may, also where a step is so short that one is faster."""
    monkeypatch.setattr("graphc.runtime.native.teams.GAIN", math.inf)
