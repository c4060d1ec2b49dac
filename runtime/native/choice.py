"""Whether the calls of a short step run on all its threads or on the caller alone: the clock decides while they run.

A step of some ten microseconds gains from a second core where that is near and free, and loses where the host has put it far
away or somebody else works on it; both change within seconds.  The bits are the same either way, so the better way can be
found out while the step does its work: most calls go the way that has been better lately, and now and then a few go the other.

Knows the words in which it is kept how long either way took, and the code that reads and writes them.  Must not know threads,
or what a step is.

Words, i64 each, one record for all calls of a step.  Callers at the same time may overwrite each other's numbers, which can
make the next choice worse, but never a result.

    0 WAY       the better one so far: TOGETHER or ALONE
    1 LEFT      steps that the other way is still tried for; 0 while it is not
    2 PAUSE     steps the better way is taken until the other is tried again
    3 PATIENCE  the same, of ALONE: it doubles whenever going together was no gain
    4, 5 TICKS  that either way took for
    6, 7 STEPS  steps, since the last choice
"""

from __future__ import annotations

import numpy as np
from graphc.runtime.native.atomics import load, store
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.values import Value, i64

WAY, LEFT, PAUSE, PATIENCE, TICKS, STEPS, WORDS = 0, 1, 2, 3, 4, 6, 8
TOGETHER, ALONE = 0, 1

TRIAL = 8  # steps of a trial; the first call of one is not counted, as it fetches what other cores' caches have
BEGIN = 64  # steps before the first trial
OFTEN, SELDOM = 1024, 1 << 15  # steps between trials: while threads go together, and at most while they do not
MARGIN = 32  # the other way is taken where it takes a 32nd less


class Choice:
    """How long the steps of one program take either way, and which is better."""

    def __init__(self) -> None:
        self.words = np.zeros(WORDS, np.int64)
        self.words[PAUSE], self.words[PATIENCE] = BEGIN, OFTEN

    @property
    def address(self) -> int:
        """Of the words, for native code."""
        return int(self.words.ctypes.data)

    @property
    def trying(self) -> bool:
        """Whether the next call goes the way that is not known to be better."""
        return bool(self.words[LEFT] or self.words[STEPS + self.words[WAY]] >= self.words[PAUSE])

    @property
    def alone(self) -> bool:
        """Whether the caller alone has been quicker lately."""
        return int(self.words[WAY]) == ALONE


def emit_choice(module: Module) -> tuple[str, str]:
    """Puts both functions into the module; their names.

    ``i64 pick(ptr choice)``: the way that the next call goes.
    ``void took(ptr choice, i64 way, i64 ticks, i64 steps)``: a call went that way, and took so long for so many steps.
    """
    _emit_pick(module)
    _emit_took(module)
    return "pick", "took"


def _emit_pick(module: Module) -> None:
    f = module.function("pick", [("choice", "ptr")], returns="i64")
    choice, = f.parameters
    way = _load(f, choice, WAY)
    other = f.sub(i64(1), way)
    idle = f.compare("icmp eq", _load(f, choice, LEFT), i64(0))
    due = f.compare("icmp sge", _load(f, choice, STEPS, way), _load(f, choice, PAUSE))
    with f.when(f.binary("and", idle, due)):
        _store(f, choice, LEFT, i64(TRIAL))
        for word in (TICKS, STEPS):
            _store(f, choice, word, i64(0), other)
    f.ret(f.select(f.compare("icmp ne", _load(f, choice, LEFT), i64(0)), other, way))


def _emit_took(module: Module) -> None:
    f = module.function("took", [("choice", "ptr"), ("way", "i64"), ("ticks", "i64"), ("steps", "i64")])
    choice, way, ticks, steps = f.parameters
    left, best = _load(f, choice, LEFT), _load(f, choice, WAY)
    trying = f.compare("icmp ne", left, i64(0))
    # a call that was to go together and went alone, as a worker slept or another caller had them all, tells nothing
    expected = f.compare("icmp eq", way, f.select(trying, f.sub(i64(1), best), best))
    with f.when(expected):
        first = f.binary("and", f.compare("icmp eq", left, i64(TRIAL)), f.compare("icmp slt", steps, i64(TRIAL)))
        with f.when(f.compare("icmp eq", first, Value("false", "i1"))):
            _store(f, choice, TICKS, f.add(_load(f, choice, TICKS, way), ticks), way)
            _store(f, choice, STEPS, f.add(_load(f, choice, STEPS, way), steps), way)
        with f.when(trying):
            _store(f, choice, LEFT, f.sub(left, f.minimum(left, steps)))
            with f.when(f.compare("icmp sge", steps, left)):
                _decide(f, choice, best, way)


def _decide(f: Function, choice: Value, best: Value, other: Value) -> None:
    """At the end of a trial: which way is better, and how long it is taken until the next trial."""
    ticks, steps = _load(f, choice, TICKS, best), _load(f, choice, STEPS, best)
    trial, tried = _load(f, choice, TICKS, other), _load(f, choice, STEPS, other)
    better = f.compare("icmp slt", f.mul(f.mul(trial, steps), i64(MARGIN)), f.mul(f.mul(ticks, tried), i64(MARGIN - 1)))
    way = f.select(better, other, best)
    alone = f.compare("icmp eq", way, i64(ALONE))
    # going together lasts as soon as it has been better for a whole pause
    patience = _load(f, choice, PATIENCE)
    doubled = f.minimum(f.add(patience, patience), i64(SELDOM))
    stayed = f.compare("icmp eq", best, way)
    _store(f, choice, PATIENCE, f.select(alone, doubled, f.select(stayed, i64(OFTEN), patience)))
    _store(f, choice, PAUSE, f.select(alone, doubled, i64(OFTEN)))
    _store(f, choice, WAY, way)
    for word in (TICKS, STEPS):
        _store(f, choice, word, i64(0), way)


def _load(f: Function, choice: Value, word: int, way: Value | None = None) -> Value:
    return load(f, *_place(f, choice, word, way), "i64", "monotonic")


def _store(f: Function, choice: Value, word: int, value: Value, way: Value | None = None) -> None:
    store(f, *_place(f, choice, word, way), value, "monotonic")


def _place(f: Function, choice: Value, word: int, way: Value | None) -> tuple[Value, int]:
    """A word, of a way where there is one for each."""
    return choice if way is None else f.offset(choice, way, "i64"), 8 * word
