"""Checkpoints: dictionaries, lists, numbers and arrays in one file, of which nothing is ever executed.

A file is numpy's .npz: an array for each array, under the names of the dictionaries and the positions in the lists that it is
in, and one text, JSON, that says what is in what.  Knows Python's containers and arrays.  Must not know modules or programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import CheckpointError
from .origins import at, user_origin

STRUCTURE = "structure.json"  # what is in what; an entry of this name beside the arrays
PLAIN = (str, int, float, bool, type(None))


def save(values: Any, path: str | os.PathLike[str]) -> None:
    """Writes a state dictionary to a file, whatever its name ends with.

    values   what `state_dict()` gives, of modules, optimizers, schedules and programs, alone or in dictionaries, lists and
             tuples; with numbers, texts, True, False and None beside
    Written beside the file first, so that a file that is there is whole.  Raises CheckpointError for anything else.
    """
    arrays: dict[str, Any] = {}
    structure = json.dumps(described(values, "", arrays))
    arrays[STRUCTURE] = np.frombuffer(structure.encode(), np.uint8)
    path = os.fspath(path)
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(beside, "wb") as file:
            np.savez(file, **arrays)
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def described(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """A value as JSON says it; arrays are put under their names."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, (str, int)) for key in value):
            raise CheckpointError(f"save: keys of '{name or 'the dictionary'}' are names or integers{at(user_origin())}")
        return {"dict": [[key, described(inner, below(name, key), arrays)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        parts = [described(inner, below(name, position), arrays) for position, inner in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": parts}
    if isinstance(value, PLAIN):
        return {"value": value}
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype.hasobject:
        raise CheckpointError(f"save: '{name}' is {type(value).__name__}; a file takes arrays, numbers, texts, dictionaries "
                              f"and lists{at(user_origin())}")
    key = name if name and name not in arrays and name != STRUCTURE else f"{name}#{len(arrays)}"
    arrays[key] = array
    return {"array": key}


def below(name: str, key: str | int) -> str:
    return f"{name}/{key}" if name else str(key)


def load(path: str | os.PathLike[str], map_location: Any = None, weights_only: bool = True) -> Any:
    """What `save` wrote; of another file of arrays (.npz) a dictionary.  Nothing in a file is ever executed.

    Raises CheckpointError for anything else, and for a file that is not whole.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if other := [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]:
            raise ValueError(f"'{other[0]}' in it is no array")
        if STRUCTURE not in arrays:
            return arrays
        return restored(json.loads(arrays[STRUCTURE].tobytes().decode()), arrays)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(f"load: {os.fspath(path)!r} is no file that graphc.save has written ({error!r}); one of "
                              "PyTorch's is read with torch.load, and load_state_dict takes its tensors"
                              f"{at(user_origin())}") from None


def restored(structure: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value that JSON describes."""
    (kind, content), = structure.items()
    if kind == "dict":
        return {key: restored(inner, arrays) for key, inner in content}
    if kind in ("list", "tuple"):
        parts = [restored(inner, arrays) for inner in content]
        return parts if kind == "list" else tuple(parts)
    if kind == "array":
        return arrays[content]
    if kind == "value" and isinstance(content, PLAIN):
        return content
    raise ValueError(f"it has a {kind!r}")
