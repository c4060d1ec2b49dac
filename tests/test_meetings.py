"""Where threads meet: never less often than memory asks for, and not much more often."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from graphc.passes import chunk
from graphc.runtime.native import kernels, meetings
from graphc.runtime.native.meetings import EVERYBODY, LAST, Turn, function_key, turns
from graphc.runtime.native.sharing import SLOTS
from graphc.runtime.native.target import host

import graphc
from graphc import nn, optim
from graphc.plan import Buffer, Form, Kernel, Loop, Plan, Role, Step, bodies


def perceptron(threads: int = 2) -> graphc.Program:
    """A batch in chunks: partial sums, then updates of parameters of all sizes."""
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    x, y = graphc.placeholder("x", (256, 8)), graphc.placeholder("y", (256, 2))
    return graphc.train_step(nn.MSELoss()(model(x), y), optim.Adam(model.parameters(), lr=1e-3), threads=threads)


def clipped(threads: int = 2) -> graphc.Program:
    """Every update waits for the norm of all gradients."""
    model = nn.Sequential(nn.Linear(96, 200), nn.ReLU(), nn.LayerNorm(200), nn.Linear(200, 10))
    x, y = graphc.placeholder("x", (64, 96)), graphc.placeholder("y", (64,), "int64")
    loss = nn.CrossEntropyLoss()(model(x), y)
    return graphc.train_step(loss, optim.AdamW(model.parameters(), lr=1e-3), grad_clip_norm=1.0, threads=threads)


def recurrent(threads: int = 2) -> graphc.Program:
    """Loops whose runs wait for each other, of kernels for one thread and for all."""
    layer, head = nn.LSTM(24, 160), nn.Linear(160, 3)
    x, y = graphc.placeholder("x", (6, 64, 24)), graphc.placeholder("y", (64, 3))
    loss = nn.MSELoss()(head(layer(x)[0][-1]), y)
    return graphc.train_step(loss, optim.SGD([*layer.parameters(), *head.parameters()], lr=0.05, momentum=0.9), threads=threads)


def independent(threads: int = 2) -> graphc.Program:
    """Kernels that touch nothing in common, more than there are slots of counters, and calls of one function, in a loop too."""
    cells = [graphc.state(f"s{i}", np.ones((100 + i, 200))) for i in range(SLOTS + 3)]
    a, b, wide = (graphc.placeholder(name, (96, columns)) for name, columns in (("a", 96), ("b", 96), ("wide", 210)))
    carried, _ = graphc.scan(lambda c, _: ((c[0] @ b, c[1] * 0.5 + 0.1), c[1][0, 0]), (a, wide), length=3)
    results = [a @ b, b @ a, a @ wide, *carried]
    kept = {graphc.state(f"r{i}", np.zeros(r.shape, np.float32)): r for i, r in enumerate(results)}
    return graphc.function([a, b, wide], cells[0].sum(), {**{cell: cell * 0.9 for cell in cells}, **kept}, threads=threads)


PROGRAMS = (perceptron, clipped, recurrent, independent)


@pytest.fixture(params=["as it is", "small is large"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worth a second thread, and worth taking turns: as it is, or nearly everything, with many chunks."""
    if request.param == "small is large":
        monkeypatch.setattr(kernels, "SERIAL", 1 << 10)
        monkeypatch.setattr(meetings, "SERIAL", 1 << 10)
        monkeypatch.setattr(kernels, "TURNS", 1 << 10)
        monkeypatch.setattr(chunk, "number_of_chunks", lambda *_: 8)


def bytes_of(plan: Plan, buffer: Buffer) -> tuple[object, range]:
    home = plan.home(buffer)
    if home.role is not Role.TEMPORARY:
        return home, range(home.bytes)
    return None, range(plan.offsets[home], plan.offsets[home] + home.bytes)


def at_one_place(plan: Plan, some: tuple[Buffer, ...], others: tuple[Buffer, ...]) -> bool:
    pairs = ((bytes_of(plan, a), bytes_of(plan, b)) for a in some for b in others)
    return any(a is b and x.start < y.stop and y.start < x.stop for (a, x), (b, y) in pairs)


def counters(plan: Plan, step: Step, slot: int | None) -> set[object]:
    """By which counters threads take turns at a step: slots, and functions of contractions."""
    if meetings.step_is_serial(step):
        return set()
    if isinstance(step, Kernel) and step.form is Form.CONTRACT:
        return {function_key(plan, step)}
    if kernels.takes_turns(step) if isinstance(step, Kernel) else isinstance(step, Loop) and step.parallel:
        return set(range(SLOTS)) if slot is None else {slot}
    return {c for inner in bodies(step) for s in inner.steps for c in counters(inner, s, None)}


def missing_meetings(plan: Plan, order: list[Turn]) -> Iterator[tuple[Step, Step]]:
    """Pairs of steps of different threads that touch one place, one of them writing, with no meeting between; or that take
    turns by one counter.
    """
    for later, second in enumerate(order):
        for earlier in range(later):
            first = order[earlier]
            if first.who == second.who != EVERYBODY or any(turn.meet for turn in order[earlier + 1:later + 1]):
                continue
            a, b = first.step, second.step
            written = (*a.writes, *a.workspace), (*b.writes, *b.workspace)
            if at_one_place(plan, written[0], (*b.reads, *written[1])) or at_one_place(plan, a.reads, written[1]):
                yield a, b
            if counters(plan, a, first.slot) & counters(plan, b, second.slot):
                yield a, b


@pytest.mark.parametrize("make", PROGRAMS)
def test_threads_meet_wherever_one_writes_what_another_touches(make: Callable[..., graphc.Program], sizes: None) -> None:
    plans = list(make().specialize().plan.each_plan())
    found = [(plan, turns(plan, host())) for plan in plans]
    assert [turn.step for plan, order in found for turn in order] == [step for plan in plans for step in plan.steps]
    assert not [pair for plan, order in found for pair in missing_meetings(plan, order)]
    never = [(plan, [Turn(turn.step, turn.who, False) for turn in order]) for plan, order in found]
    assert [pair for plan, order in never for pair in missing_meetings(plan, order)], "nothing here asks for a meeting"


def test_a_step_in_chunks_meets_once_before_its_updates() -> None:
    """What the updates read of the step's number is there before; small updates are shared out as wholes."""
    plan = perceptron().specialize().plan
    order = turns(plan, host())
    assert sum(turn.meet for turn in order) == 1
    assert any(turn.who == LAST for turn in order)
    fetched = {b.name for turn in order for b in turn.shared}
    assert "2.weight" in fetched and "2.weight.exp_avg" not in fetched, "who updates a slot is the only one to read it"


@pytest.mark.parametrize("make", PROGRAMS)
def test_any_number_of_threads_gives_the_same_bits(make: Callable[..., graphc.Program], sizes: None) -> None:
    results = []
    for threads in (1, 2, 3):
        graphc.manual_seed(1)
        step = make(threads)
        rng = np.random.default_rng(0)
        feeds = [rng.integers(0, 3, i.shape) if i.dtype.name == "int64" else rng.standard_normal(i.shape).astype(np.float32)
                 for i in step.inputs]
        results.append([np.asarray(step.run(40, *feeds)), *(c.array.copy() for c in step.graph.cells())])
    for other in results[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results[0], other, strict=True))
    assert np.isfinite(results[0][0]).all() and results[0][0][-1] < results[0][0][0]
