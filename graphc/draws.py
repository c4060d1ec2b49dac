"""The sequence of random numbers that initial values come from, and draws of it that are put off.

Knows numpy's generators.  Must not know what the numbers are for.

Loading numpy.random takes 10 MB and 10 ms: a program that loads a checkpoint into a new model draws nothing and never does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

MOST_PUT_OFF = 1 << 14  # draws in a row of which no result was asked for

_lock = threading.RLock()


class Place:
    """Where the sequence goes on.

    state   the state of numpy's generator there, or the seed that gives it; None where nobody has drawn so far
    draws   then: what comes before
    behind  how many draws were put off before it since a known state
    """

    __slots__ = ("behind", "draws", "state")

    def __init__(self, state: Any, draws: Draws | None = None) -> None:
        self.state, self.draws = state, draws
        self.behind: int = 0 if draws is None else draws.before.behind + 1

    def reached(self) -> dict[str, Any]:
        """The state here, for which all that was put off before is skipped."""
        skipped: list[Draws] = []
        place: Place = self
        while place.state is None:
            assert place.draws is not None
            skipped.append(place.draws)
            place = place.draws.before
        if not isinstance(place.state, dict):
            place.state = np.random.PCG64(place.state).state
        for draws in reversed(skipped):
            draws.make(draws.skip)
        assert isinstance(self.state, dict)
        return self.state


class Draws:
    """Draws that are put off: between two places, the second of which `skip` reaches without their results."""

    __slots__ = ("after", "before", "skip")

    def __init__(self, before: Place, skip: Callable[[Generator], object]) -> None:
        self.before, self.skip = before, skip
        self.after = Place(None, self)

    def make(self, draw: Callable[[Generator], object]) -> None:
        """Calls `draw` with a generator at their place, from which it takes just these numbers."""
        with _lock:
            generator = _at(self.before.reached())
            draw(generator)
            self.after.state, self.after.draws = generator.bit_generator.state, None


_place = Place(int.from_bytes(os.urandom(16), "little"))
_generator: Generator | None = None  # from its first use on the sequence goes on in it
_moved: Generator | None = None  # goes wherever it is needed


def restart(seed: int) -> None:
    """The sequence of this seed, from its start: that of `numpy.random.default_rng(seed)`."""
    global _place, _generator
    if seed < 0:
        raise ValueError(f"a seed is not negative, got {seed}")
    with _lock:
        _place, _generator = Place(seed), None


def generator() -> Generator:
    """numpy's generator at the place where the sequence goes on."""
    global _generator
    with _lock:
        if _generator is None:
            source: Any = np.random.PCG64(0)
            source.state = _place.reached()
            _generator = np.random.Generator(source)
        return _generator


def put_off(skip: Callable[[Generator], object]) -> Draws | None:
    """Draws for later, which take the numbers that `skip` takes; None where somebody has the generator: draw from it."""
    global _place
    with _lock:
        if _generator is not None:
            return None
        if _place.behind >= MOST_PUT_OFF:  # they would be kept for ever
            _place.reached()
            _place = Place(_place.state)
        draws = Draws(_place, skip)
        _place = draws.after
        return draws


def put_off_known(count: int) -> Draws | None:
    """The same for so many 64-bit numbers, which can be skipped without drawing them, also in the generator.

    None where it cannot skip.
    """
    def skip(generator: Generator) -> None:
        source: Any = generator.bit_generator
        source.advance(count)

    with _lock:
        if _generator is None:
            return put_off(skip)
        state: Any = _generator.bit_generator.state
        if state["bit_generator"] != "PCG64" or state["has_uint32"]:  # half of a number, which skipping would lose
            return None
        skip(_generator)
        return Draws(Place(state), skip)


def _at(state: dict[str, Any]) -> Generator:
    global _moved
    if _moved is None:
        _moved = np.random.Generator(np.random.PCG64(0))
    _moved.bit_generator.state = state
    return _moved
