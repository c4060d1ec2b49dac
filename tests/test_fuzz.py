"""A sample of random graphs; `python -m tests.fuzz` runs a long campaign."""

from __future__ import annotations

import pytest

from .fuzz import check


@pytest.mark.parametrize("seed", range(60))
def test_random_graph(seed: int) -> None:
    check(seed)
