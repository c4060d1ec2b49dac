"""Structures: how tensors are nested in what users give and get back.

Knows tuples, lists and dicts.  Must not know what their leaves are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Leaves = list[tuple[str, Any]]  # each with its path or name


class Structure:
    """How leaves are nested in tuples, lists and dicts: `kind` is a class, None of a leaf, NoneType of None itself."""

    __slots__ = ("keys", "kind", "parts")

    def __init__(self, kind: type | None = None, keys: tuple[Any, ...] = (), parts: tuple[Structure, ...] = ()) -> None:
        self.kind, self.keys, self.parts = kind, keys, parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and (self.kind, self.keys, self.parts) == (other.kind, other.keys, other.parts)

    def __hash__(self) -> int:
        return hash((self.kind, self.keys, self.parts))

    def build(self, leaves: Iterator[Any]) -> Any:
        """The structure with these leaves, in order."""
        kind = self.kind
        if kind is None:
            return next(leaves)
        if kind is type(None):
            return None
        values = [part.build(leaves) for part in self.parts]
        if kind is list:
            return values
        if kind is dict:
            return dict(zip(self.keys, values, strict=True))
        return tuple(values) if kind is tuple else kind(*values) if hasattr(kind, "_fields") else kind(values)

    def __str__(self) -> str:
        if self.kind is None:
            return "*"
        if self.kind is type(None):
            return "None"
        if self.kind is dict:
            return "{" + ", ".join(f"{k!r}: {p}" for k, p in zip(self.keys, self.parts, strict=True)) + "}"
        inner = ", ".join(map(str, self.parts))
        return f"[{inner}]" if self.kind is list else f"({inner}{',' if len(self.parts) == 1 else ''})"


def flatten(value: Any, path: str = "") -> tuple[Leaves, Structure]:
    """The leaves of a structure, each with its path, and the structure without them; dicts in the order of their keys."""
    if value is None:
        return [], Structure(type(None))
    if isinstance(value, dict):
        keys: tuple[Any, ...] = tuple(sorted(value, key=str))
        return _joined(dict, keys, [flatten(value[k], f"{path}[{k!r}]") for k in keys])
    if isinstance(value, (tuple, list)):
        return _joined(type(value), (), [flatten(v, f"{path}[{k}]") for k, v in enumerate(value)])
    return [(path, value)], Structure()


def flatten_outputs(value: Any, name: str = "out") -> tuple[Leaves, Structure]:
    """A program's outputs, each with its name (the key in a dict, else its position), and plain tuples, lists and dicts."""
    if isinstance(value, Mapping):
        return _joined(dict, tuple(value), [flatten_outputs(v, str(k)) for k, v in value.items()])
    if isinstance(value, (tuple, list)):
        kind = list if type(value) is list else tuple
        return _joined(kind, (), [flatten_outputs(v, f"{name}{k}") for k, v in enumerate(value)])
    return [(name, value)], Structure()


def _joined(kind: type, keys: tuple[Any, ...], parts: list[tuple[Leaves, Structure]]) -> tuple[Leaves, Structure]:
    return [leaf for leaves, _ in parts for leaf in leaves], Structure(kind, keys, tuple(s for _, s in parts))
