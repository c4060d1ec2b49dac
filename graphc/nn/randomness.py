"""Random layers: where their random key lives and how it advances.

A layer that draws owns a key, an int64 state: the numbers of a step are a function of it, and each step leaves it one
higher.  A functional form that is given no key makes one, so that a compiled step draws anew each time it runs.
"""

from __future__ import annotations

from ..ops.control import updating
from ..ops.random import fresh_seed
from ..symbols import Parameter, Tensor, state
from .module import Module


def fresh_key(name: str = "key") -> Parameter:
    """A new random key, from the generator that `graphc.manual_seed` resets."""
    return state(name, fresh_seed(), "int64")


def advancing(out: Tensor, key: Parameter) -> Tensor:
    """`out`, carrying the key's step to the next value."""
    return updating(out, {key: key + 1})


class RandomModule(Module):
    """A module with a random key: the state `key`, which is left out of `state_dict` as PyTorch has no such entry.

    `Program.state_dict` does hold it, so that a resumed training draws what an uninterrupted one would have drawn.
    """

    key: Parameter

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("key", fresh_key(), persistent=False)
