"""Whether the calls of a step run on all its threads or on the caller alone: the clock decides while they run.

A step of some ten microseconds gains from a second core where that is near, and loses where the host has put it far away; a
long one loses where somebody else works on that core, too, as all wait for whoever does not run.  Both change within seconds.
The bits are the same either way, so the better way can be found out while the step does its work: most calls go the way that
has been better lately, and now and then a few go the other.

Knows the words in which it is kept how long either way took, and the code that reads and writes them.  Must not know threads,
or what a step is.

Words, i64 each, one record for all calls of a step.  Callers at the same time may overwrite each other's numbers, which can
make the next choice worse, but never a result.

    0 WAY       the better one so far: TOGETHER or ALONE
    1 LEFT      steps that the other way is still tried for; 0 while it is not
    2 PAUSE     steps the better way is taken until the other is tried again
    3 PATIENCE  the same, of ALONE: it doubles whenever going together was no gain, up to SELDOM, and
                is short again when threads have gone together for long
    4, 5 TICKS  that either way took for
    6, 7 STEPS  steps, since the last choice
    8 TRIAL     steps of a trial; where they are several, the first call is not counted, as it fetches what other cores' caches
                have
    9 OFTEN     at most so many steps are between trials while threads go together
    10 SELDOM   and while they do not
    11 AGREED   ticks of a step when the better way was chosen; 0 before
    12 STRIKES  calls in a row that took half as long again: after some, the other way is tried at once
"""

from __future__ import annotations

import numpy as np
from graphc.runtime.native import memory
from graphc.runtime.native.atomics import load, store
from graphc.runtime.native.emit import Function, Module
from graphc.runtime.native.values import Value, i64

WAY, LEFT, PAUSE, PATIENCE, TICKS, STEPS, TRIAL, OFTEN, SELDOM, AGREED, STRIKES, WORDS = 0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13
TOGETHER, ALONE = 0, 1

MOST_TRIED, TRIED = 8, 8e6  # a trial takes so many steps, or nanoseconds if that is less
BEGIN, LONG, BETWEEN = 8, 256, 4096  # trials that the steps before the first, for long, and at last between two would be
LONGEST = 1e9  # nanoseconds that a way is not tried for which has been no gain for long; LONG if that is more
STRUCK = 4  # strikes
MARGIN = 32  # the other way is taken where it takes a 32nd less


class Choice:
    """How long the steps of one program take either way, and which is better.

    nanoseconds  about how long a step takes the caller alone
    address      of the words, for native code
    trial        steps of a call by which the other way is tried
    """

    def __init__(self, nanoseconds: float) -> None:
        self.trial = trial = int(min(MOST_TRIED, max(1, TRIED // max(nanoseconds, 1))))
        seldom = int(min(2 * BETWEEN, max(LONG, LONGEST / max(nanoseconds, 1) / trial))) * trial
        self.words = np.zeros(WORDS, np.int64)
        self.words[PAUSE] = trial * BEGIN
        self.words[PATIENCE] = trial * BEGIN // 2
        self.words[TRIAL], self.words[OFTEN], self.words[SELDOM] = trial, trial * BETWEEN, seldom
        self.address = memory.address_of(self.words)

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
    other = f.sub(i64(1), way)  # TOGETHER is 0, ALONE is 1
    idle = f.compare("icmp eq", _load(f, choice, LEFT), i64(0))
    due = f.compare("icmp sge", _load(f, choice, STEPS, way), _load(f, choice, PAUSE))
    with f.when(f.binary("and", idle, due)):
        _store(f, choice, LEFT, _load(f, choice, TRIAL))
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
        trial = _load(f, choice, TRIAL)
        first = f.binary("and", f.compare("icmp eq", left, trial), f.compare("icmp slt", steps, trial))
        with f.when(f.compare("icmp eq", first, Value("false", "i1"))):
            _store(f, choice, TICKS, f.add(_load(f, choice, TICKS, way), ticks), way)
            _store(f, choice, STEPS, f.add(_load(f, choice, STEPS, way), steps), way)
        with f.when(trying):
            _store(f, choice, LEFT, f.sub(left, f.minimum(left, steps)))
            with f.when(f.compare("icmp sge", steps, left)):
                _decide(f, choice, best, way)
        with f.when(f.compare("icmp eq", left, i64(0))):
            _notice(f, choice, way, ticks, steps)


def _decide(f: Function, choice: Value, best: Value, other: Value) -> None:
    """At the end of a trial: which way is better, and how long it is taken until the next trial."""
    ticks, steps = _load(f, choice, TICKS, best), _load(f, choice, STEPS, best)
    trial, tried = _load(f, choice, TICKS, other), _load(f, choice, STEPS, other)
    better = f.compare("icmp slt", f.mul(f.mul(trial, steps), i64(MARGIN)), f.mul(f.mul(ticks, tried), i64(MARGIN - 1)))
    way = f.select(better, other, best)
    alone = f.compare("icmp eq", way, i64(ALONE))
    pause, patience, often = (_load(f, choice, word) for word in (PAUSE, PATIENCE, OFTEN))
    first = f.mul(_load(f, choice, TRIAL), i64(BEGIN))
    # what has just been chosen may be a mistake: a pause is short, and twice as long each time that the choice is the same
    longer = f.minimum(f.add(pause, pause), often)
    longer = f.select(f.compare("icmp slt", longer, first), first, longer)
    doubled = f.minimum(f.add(patience, patience), _load(f, choice, SELDOM))
    _store(f, choice, PAUSE, f.select(alone, doubled, f.select(better, first, longer)))
    long = f.mul(_load(f, choice, TRIAL), i64(LONG))
    lasts = f.binary("and", f.compare("icmp eq", best, i64(TOGETHER)), f.compare("icmp sge", pause, long))
    _store(f, choice, PATIENCE, f.select(alone, doubled, f.select(lasts, f.binary("sdiv", first, i64(2)), patience)))
    _store(f, choice, WAY, way)
    counted = f.select(better, tried, steps)
    counted = f.select(f.compare("icmp sgt", counted, i64(0)), counted, i64(1))
    _store(f, choice, AGREED, f.binary("sdiv", f.select(better, trial, ticks), counted))
    for word in (TICKS, STEPS):
        _store(f, choice, word, i64(0), way)


def _notice(f: Function, choice: Value, way: Value, ticks: Value, steps: Value) -> None:
    """Some steps in a row that take half as long again as was agreed are a reason to try the other way now.

    Of long steps, few would be seen until the next trial is due.
    """
    agreed = _load(f, choice, AGREED)
    slow = f.compare("icmp sgt", f.mul(ticks, i64(2)), f.mul(f.mul(agreed, steps), i64(3)))
    strikes = f.select(slow, f.add(_load(f, choice, STRIKES), i64(1)), i64(0))
    struck = f.binary("and", f.compare("icmp sge", strikes, i64(STRUCK)), f.compare("icmp sgt", agreed, i64(0)))
    _store(f, choice, STRIKES, f.select(struck, i64(0), strikes))
    with f.when(struck):
        _store(f, choice, PAUSE, i64(0))
        _store(f, choice, TICKS, ticks, way)  # what was quicker before does not count
        _store(f, choice, STEPS, steps, way)


def _load(f: Function, choice: Value, word: int, way: Value | None = None) -> Value:
    return load(f, *_place(f, choice, word, way), "i64", "monotonic")


def _store(f: Function, choice: Value, word: int, value: Value, way: Value | None = None) -> None:
    store(f, *_place(f, choice, word, way), value, "monotonic")


def _place(f: Function, choice: Value, word: int, way: Value | None) -> tuple[Value, int]:
    """A word, of a way where there is one for each."""
    return choice if way is None else f.offset(choice, way, "i64"), 8 * word
