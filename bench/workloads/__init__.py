"""The workloads, in the order of the table.  A new one is a file here and a name in MODULES."""

from __future__ import annotations

import runpy
from importlib import import_module

from ..workload import Workload

MODULES = ("mlp", "gpt", "lenet", "resnet", "lstm", "encoder")


def load(file: str = "") -> dict[str, Workload]:
    """Workloads by name: these, or the list WORKLOADS of a Python file."""
    found: list[Workload] = []
    if file:
        found += runpy.run_path(file)["WORKLOADS"]
    else:
        for module in MODULES:
            found += import_module(f"{__name__}.{module}").WORKLOADS
    by_name = {w.name: w for w in found}
    if len(by_name) != len(found):
        raise ValueError(f"two workloads have one name: {[w.name for w in found]}")
    return by_name
