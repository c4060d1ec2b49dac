"""Whether a short step runs on several threads or on the caller alone: what is chosen, by times that a test gives."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pytest
from graphc.runtime.native import choice, jit, running, threads
from graphc.runtime.native.choice import ALONE, TOGETHER, Choice
from graphc.runtime.native.emit import Module
from graphc.runtime.native.target import host

import graphc
from graphc import nn, optim

Way = Callable[[int], float]  # what a step takes, by its number

STEP = 16e3  # nanoseconds of a short step, and what that means
TRIAL, BEGIN, OFTEN, SELDOM = 8, 64, 1 << 15, 62_496


class Machine:
    """Runs steps that take what a test says."""

    def __init__(self) -> None:
        module = Module()
        for name in choice.emit_choice(module):
            module.functions[name]._head = module.functions[name]._head.replace("internal ", "")
        self.code = jit.compile_module(module.text(), target=host(), name="choice", cache=None)
        self.pick = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(self.code.address("pick"))
        self.took = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *3 * [ctypes.c_int64])(self.code.address("took"))

    def ways(self, known: Choice, times: tuple[Way, Way], steps: int = 1) -> Iterator[int]:
        """The ways that calls of so many steps go, one after the other."""
        for step in count(0, steps):
            way = self.pick(known.address)
            self.took(known.address, way, int(steps * times[way](step)), steps)
            yield way


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


def taken(machine: Machine, together: Way, alone: Way, calls: int, known: Choice | None = None, steps: int = 1) -> np.ndarray:
    ways = machine.ways(known or Choice(STEP), (together, alone), steps)
    return np.array([next(ways) for _ in range(calls)])


def steadily(ticks: float) -> Way:
    return lambda step: ticks


def test_the_first_steps_go_together(machine: Machine) -> None:
    assert np.array_equal(np.flatnonzero(taken(machine, steadily(10), steadily(10), BEGIN + TRIAL)), BEGIN + np.arange(TRIAL))


def test_where_it_is_a_gain_steps_go_together(machine: Machine) -> None:
    ways = taken(machine, steadily(60), steadily(100), 50_000)
    assert 0 < (ways == ALONE).mean() < 0.01
    assert ways[-OFTEN // 2] == TOGETHER


def test_where_it_is_a_loss_they_soon_go_alone_and_it_is_seldom_tried(machine: Machine) -> None:
    ways = taken(machine, steadily(200), steadily(100), 400_000)
    assert (ways[:BEGIN + TRIAL] == TOGETHER).sum() == BEGIN
    later = ways[BEGIN + TRIAL:]
    assert 0 < (later == TOGETHER).mean() < 0.001
    tried = np.flatnonzero(later == TOGETHER)[::TRIAL]
    assert np.array_equal(np.diff(tried)[:6] - TRIAL, BEGIN << np.arange(1, 7))
    assert np.diff(tried).max() == SELDOM + TRIAL


@pytest.mark.parametrize("steps", [1, 4, 2 * TRIAL])
def test_it_follows_what_changes(machine: Machine, steps: int) -> None:
    """Cores that are near, then far from each other, then near again."""
    bounds = 100_000, 300_000

    def together(step: int) -> float:
        return 200 if bounds[0] <= step < bounds[1] else 60

    ways = np.repeat(taken(machine, together, steadily(100), 500_000 // steps, steps=steps), steps)
    assert (ways[:bounds[0]] == TOGETHER).mean() > 0.98
    assert (ways[bounds[0] + 1_000:bounds[1]] == ALONE).mean() > 0.99
    assert (ways[bounds[1] + SELDOM + 2 * OFTEN:] == TOGETHER).mean() > 0.98


def test_a_core_that_somebody_else_has_for_a_while_counts(machine: Machine) -> None:
    """Most steps are quick then, but every now and then the caller waits for a worker that does not run."""
    ways = taken(machine, lambda step: 4000 if step % 200 == 199 else 60, steadily(70), 500_000)
    assert (ways == ALONE).mean() > 0.9


@pytest.mark.parametrize(("nanoseconds", "trial", "begin", "often", "seldom"), [
    (STEP, TRIAL, BEGIN, OFTEN, SELDOM), (1e5, 8, 64, 1 << 15, 10_000), (1e6, 8, 64, 1 << 15, 2048),
    (3e6, 2, 16, 1 << 13, 512),
    (2e7, 1, 8, 4096, 256), (1e10, 1, 8, 4096, 256), (0, 8, 64, 1 << 15, 1 << 16)])
def test_the_longer_a_step_the_fewer_are_tried(nanoseconds: float, trial: int, begin: int, often: int, seldom: int) -> None:
    words = Choice(nanoseconds).words
    assert words[[choice.TRIAL, choice.PAUSE, choice.OFTEN, choice.SELDOM]].tolist() == [trial, begin, often, seldom]


@pytest.mark.parametrize("nanoseconds", [STEP, 1e6, 2e7])
def test_steps_that_become_slow_are_a_reason_to_try_the_other_way_at_once(nanoseconds: float, machine: Machine) -> None:
    """Long ones, too, of which few run until the next trial is due; and once is enough."""
    known, change = Choice(nanoseconds), 1_000
    ways = taken(machine, lambda step: 50 if step < change else 150, steadily(100), change + 200, known)
    tried = np.flatnonzero(ways[change:] == ALONE)
    assert tried[0] <= choice.STRUCK and (ways[change + 50:] == ALONE).mean() > 0.9
    ways = taken(machine, lambda step: 50 if step < change else 90, steadily(100), 2 * change, Choice(nanoseconds))
    assert (ways[change:] == ALONE).mean() < 0.05


@pytest.mark.parametrize("nanoseconds", [1e6, 3e6, 2e7])
def test_trials_of_long_steps_cost_little(nanoseconds: float, machine: Machine) -> None:
    """A tenth of a per cent of a step that two threads do in half of the time; and one that they do not goes alone."""
    ways = taken(machine, steadily(50), steadily(100), 100_000, Choice(nanoseconds))
    assert 0 < (ways == ALONE).mean() < 0.001
    ways = taken(machine, steadily(180), steadily(100), 20_000, Choice(nanoseconds))
    assert 0.99 < (ways == ALONE).mean() < 0.999


def test_ways_as_good_as_each_other_do_not_take_turns(machine: Machine) -> None:
    random = np.random.default_rng(0)
    ways = taken(machine, lambda step: 100 + random.integers(4), lambda step: 100 + random.integers(4), 100_000)
    assert (ways == TOGETHER).mean() > 0.98


def test_the_first_call_of_a_trial_does_not_count(machine: Machine) -> None:
    """It fetches what the other core has written."""
    last = [TOGETHER]

    def step(way: int, first: float, others: float) -> float:
        changed, last[0] = way != last[0], way
        return first if changed else others

    ways = taken(machine, lambda k: step(TOGETHER, 100, 100), lambda k: step(ALONE, 500, 50), 5_000)
    assert (ways[BEGIN + TRIAL:] == ALONE).mean() > 0.9


def test_a_call_that_found_nobody_awake_tells_nothing(machine: Machine) -> None:
    known = Choice(STEP)
    for _ in range(10_000):
        assert machine.pick(known.address) == TOGETHER
        machine.took(known.address, ALONE, 1, 1)
    assert not known.words[choice.TICKS:choice.TRIAL].any() and not known.alone and not known.trying


def test_what_python_reads_is_what_native_code_does(machine: Machine) -> None:
    known = Choice(STEP)
    ways = machine.ways(known, (steadily(200), steadily(100)))
    for _ in range(20_000):
        expected = (ALONE if known.alone else TOGETHER) ^ known.trying
        assert next(ways) == expected


# -- steps ---------------------------------------------------------------------------------------------------------


def short_step(rows: int = 32, count: int | None = 2) -> graphc.Program:
    graphc.manual_seed(0)
    x, y = graphc.placeholder("x", (rows, 64)), graphc.placeholder("y", (rows, 10))
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    return graphc.train_step(nn.functional.mse_loss(model(x), y), optim.Adam(model.parameters()), threads=count)


def always(way: int) -> Choice:
    """No trial ever ends this."""
    made = Choice(STEP)
    made.words[choice.WAY], made.words[choice.PAUSE] = way, 1 << 60
    return made


DATA = np.random.default_rng(0).standard_normal((150, 32, 64)).astype(np.float32)
LABELS = np.random.default_rng(1).standard_normal((150, 32, 10)).astype(np.float32)


@pytest.mark.parametrize("way", [TOGETHER, ALONE, None])
def test_a_long_run_in_turns_is_the_same_steps(way: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On arrays of one entry a step, with results of one entry a step."""
    expected = short_step(count=1).specialize().executable.run([DATA, LABELS], len(DATA), [True, True])
    monkeypatch.setattr(running, "TURN", 1.0)
    step = short_step()
    executable = step.specialize().executable
    assert executable.choice is not None
    if way is not None:
        executable.choice = always(way)
    found = executable.run([DATA, LABELS], len(DATA), [True, True])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    again = executable.run([DATA[0], LABELS[0]], 1, [False, False])  # the table says what it did
    assert np.isfinite(again[0]).all()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool of two threads, on one core as well."""
    pool = threads.Pool(2, idle_seconds=0.05)
    monkeypatch.setattr(threads, "shared", lambda: pool)
    yield
    pool.close()


def test_a_step_that_is_quicker_alone_runs_alone(two: None) -> None:
    """Told that going together takes as long as it likes, which nothing on a quiet machine would show."""
    executable = short_step().specialize().executable
    executable.choice = always(ALONE)
    before = executable.choice.words.copy()
    executable.run([DATA[0], LABELS[0]], 40, [False, False])
    after = executable.choice.words
    assert after[choice.STEPS + ALONE] - before[choice.STEPS + ALONE] == 40 and after[choice.TICKS + ALONE] > 0
    assert after[choice.STEPS + TOGETHER] == 0


def test_bound_calls_and_runs_share_what_is_known(two: None) -> None:
    step = short_step()
    executable = step.specialize().executable
    executable.choice = always(TOGETHER)
    call = step.bind(DATA[0], LABELS[0])
    step.run(200, DATA[0], LABELS[0])
    for _ in range(300):  # most of them find the worker awake
        call()
    steps = executable.choice.words[choice.STEPS:]
    assert steps[TOGETHER] > 250 and steps[ALONE] == 0


def test_steps_of_one_thread_have_no_choice() -> None:
    assert short_step(count=1).specialize().executable.choice is None


def test_a_report_says_how_a_step_runs() -> None:
    step = short_step()
    executable = step.specialize().executable
    for way, lately in ((TOGETHER, "2"), (ALONE, "one")):
        executable.choice = always(way)
        assert f"on 2 threads or one, by the clock as it runs; lately on {lately}\n" in step.report()
    assert "  on one thread\n" in short_step(count=1).report()


def test_losses_are_the_same_bits_whichever_way_steps_go() -> None:
    alone, both = short_step(count=1), short_step()
    for k in range(3):
        np.testing.assert_array_equal(alone.run(300, DATA[k], LABELS[k]), both.run(300, DATA[k], LABELS[k]))
    for a, b in zip(alone.built.cells(), both.built.cells(), strict=True):
        np.testing.assert_array_equal(a.array, b.array)
