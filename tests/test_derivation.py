"""Training steps that were derived before: found by what the user says, equal bit by bit, and never where anything differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphc.passes import autodiff
from graphc.runtime.native import cache

import graphc
from graphc import nn, optim
from graphc.built import Waiting
from graphc.declaration import Declaration
from graphc.identity import Unspoken, digest_of, is_own
from graphc.ir import Graph, make
from graphc.op import REGISTRY
from graphc.optim import lr_scheduler

from .test_optim import ALL

RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((6, 4)).astype("f"), RNG.standard_normal((6, 2)).astype("f")
W, B = RNG.standard_normal((4, 2)).astype("f"), RNG.standard_normal(2).astype("f")


def waits(program: Any) -> bool:
    return isinstance(program.built, Waiting) and not program.built.is_built


class Said:
    """A small step, and what of it may be said otherwise."""

    def __init__(self, *, name: str = "w", factor: float = 1.0, lr: float = 0.01, frozen: bool = False) -> None:
        self.x, self.y = graphc.placeholder("x", ("batch", 4)), graphc.placeholder("y", ("batch", 2))
        self.w, self.b = graphc.parameter(name, W), graphc.parameter("b", B)
        self.w.requires_grad = not frozen
        error = self.x @ self.w + self.b - self.y
        self.loss, self.lr = (error * error).mean() * factor, lr

    def adam(self, **settings: Any) -> optim.Optimizer:
        return optim.Adam([self.w, self.b], **{"lr": self.lr, **settings})

    def step(self, optimizers: Any = None, **settings: Any) -> Any:
        return graphc.train_step(self.loss, optimizers or self.adam(), threads=1, **settings)


def scheduled(said: Said, make: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    optimizer = said.adam()
    return said.step(optimizer, lr_scheduler=make(optimizer, *arguments), **settings)


def with_average(said: Said, **settings: Any) -> Any:
    return said.step([said.adam(), optim.EMA([said.w, said.b], **settings)])


DIFFERENT: dict[str, Callable[[], Any]] = {
    "as it is": lambda: Said().step(),
    "another loss": lambda: Said(factor=2.0).step(),
    "another optimizer": lambda: (s := Said()).step(optim.Adamax([s.w, s.b], lr=0.01)),
    "another order": lambda: (s := Said()).step(optim.Adam([s.b, s.w], lr=0.01)),
    "one parameter": lambda: (s := Said()).step(optim.Adam([s.w], lr=0.01)),
    "the other parameter": lambda: (s := Said()).step(optim.Adam([s.b], lr=0.01)),
    "one left alone": lambda: Said(frozen=True).step(),
    "two groups": lambda: (s := Said()).step(optim.Adam([{"params": [s.w]}, {"params": [s.b]}], lr=0.01)),
    "two optimizers": lambda: (s := Said()).step([optim.Adam([s.w]), optim.Adam([s.b])]),
    "other betas": lambda: (s := Said()).step(s.adam(betas=(0.8, 0.999))),
    "another eps": lambda: (s := Said()).step(s.adam(eps=1e-6)),
    "decay": lambda: (s := Said()).step(s.adam(weight_decay=0.1)),
    "another slot": lambda: (s := Said()).step(s.adam(amsgrad=True)),
    "upwards": lambda: (s := Said()).step(s.adam(maximize=True)),
    "a limited norm": lambda: Said().step(grad_clip_norm=1.0),
    "another limit": lambda: Said().step(grad_clip_norm=2.0),
    "limited values": lambda: Said().step(grad_clip_value=1.0),
    "a limit of the group's": lambda: (s := Said()).step(optim.Adam([{"params": [s.w, s.b], "clip_grad_max_norm": 1.0}])),
    "two calls": lambda: Said().step(accumulate=2),
    "three calls": lambda: Said().step(accumulate=3),
    "an output": lambda: (s := Said()).step(outputs=s.x @ s.w),
    "no loss": lambda: (s := Said()).step(returns=s.x @ s.w),
    "inputs in order": lambda: (s := Said()).step(inputs=[s.x, s.y]),
    "inputs in another order": lambda: (s := Said()).step(inputs=[s.y, s.x]),
    "an average": lambda: with_average(Said()),
    "another average": lambda: with_average(Said(), decay=0.9),
    "one that warms up": lambda: with_average(Said(), warmup=True),
    "a schedule": lambda: scheduled(Said(), lr_scheduler.StepLR, 2),
    "another period": lambda: scheduled(Said(), lr_scheduler.StepLR, 3),
    "another schedule": lambda: scheduled(Said(), lr_scheduler.ExponentialLR, 0.9),
    "a plateau": lambda: scheduled(Said(), lr_scheduler.ReduceLROnPlateau),
    "a plateau of two calls": lambda: scheduled(Said(), lr_scheduler.ReduceLROnPlateau, accumulate=2),
    "a schedule between calls of two": lambda: scheduled(Said(), lr_scheduler.LambdaLR, lambda t: 0.5 ** t, accumulate=2)}


def three_steps(program: Any) -> list[np.ndarray]:
    fed = {t.name: {"x": X, "y": Y}[t.name] for t in program.inputs}
    results = [program(**fed) for _ in range(3)]
    return [np.asarray(part) for r in results for part in (r if isinstance(r, tuple) else [r])]


def test_what_is_said_otherwise_is_derived_and_the_same_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one cache: each is derived once.  What waits runs as what was derived, bit for bit."""
    kept: dict[str, tuple[list[np.ndarray], dict[str, np.ndarray]]] = {}
    equal = {"a schedule between calls of two"}  # to "two calls": Python is not derived from
    for what, make_step in DIFFERENT.items():
        program = make_step()
        assert waits(program) == (what in equal), what
        kept[what] = three_steps(program), program.state_dict()

    def nobody(*_: Any) -> Any:
        raise AssertionError("nothing is to be derived")

    monkeypatch.setattr(autodiff, "_pull", nobody)
    for what, make_step in DIFFERENT.items():
        program = make_step()
        assert waits(program), what
        results, state = kept[what]
        for expected, value in zip(results, three_steps(program), strict=True):
            np.testing.assert_array_equal(value, expected, strict=True, err_msg=what)
        after = program.state_dict()
        assert list(after) == list(state), what
        for name, value in state.items():
            np.testing.assert_array_equal(after[name], value, strict=True, err_msg=f"{what}: {name}")
        assert waits(program)
        assert set(program._cache) and all(special.kept for special in program._cache.values()), what


@pytest.mark.parametrize(("kind", "settings"), ALL, ids=lambda v: v if isinstance(v, str) else "")
def test_every_optimizer_waits(kind: str, settings: dict[str, Any], folder: Path) -> None:
    """Slots begin equally, in one order, at another rate too; those that begin with the rate are derived with it."""
    def made(lr: float) -> tuple[Any, Any]:
        said = Said()
        optimizer = getattr(optim, kind)([said.w, said.b], **{**settings, **({"lr": lr} if "lr" in settings else {})})
        return said.step(optimizer), optimizer

    rate = settings.get("lr", 1.0)
    program, _ = made(rate)
    assert not waits(program)
    for lr in (rate, rate / 2):
        again, other = made(lr)
        assert waits(again) == (kind not in ("Rprop", "ASGD")), lr
        fresh, third = made(lr)
        assert digest_of(fresh.graph) == digest_of(again.graph)
        for expected, value in zip(three_steps(fresh), three_steps(again), strict=True):
            np.testing.assert_array_equal(value, expected)
        ours, theirs = other.state_dict(), third.state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        for k, entry in theirs["state"].items():
            assert list(ours["state"][k]) == list(entry)
            for name, value in entry.items():
                np.testing.assert_array_equal(ours["state"][k][name], value, err_msg=name)


def test_what_waits_is_what_would_have_been_derived(folder: Path) -> None:
    """Looked at, it is the graph that was built then: the same text, from the same lines of the user's."""
    programs = [Said().step(grad_clip_norm=1.0) for _ in range(2)]
    assert repr(programs[0]) == repr(programs[1])
    assert [waits(program) for program in programs] == [False, True]
    for stage in ("update", "simplified", "plan"):
        first, second = (program.dump(stage, sizes={"batch": 6}) for program in programs)
        assert first == second
    lines = [{origin for node in program.graph.nodes for origin in node.origins} for program in programs]
    assert lines[0] == lines[1] and len(lines[0]) > 3
    assert [p.name for p in programs[0].parameters] == [p.name for p in programs[1].parameters]


def test_names_and_values_say_nothing(folder: Path) -> None:
    assert [waits(make()) for make in (Said().step, Said(name="v").step, Said(lr=0.5).step)] == [False, True, True]
    said = Said()
    said.w.assign(W * 2)
    assert waits(said.step())


def test_errors_come_when_the_step_is_made(folder: Path) -> None:
    """Also where one that is right has been kept; with the line of the user's."""
    assert not waits(Said().step()) and waits(Said().step())
    said, apart = Said(), graphc.parameter("apart", W)
    wrong: list[tuple[str, Callable[[], Any]]] = [
        ("does not depend on 'apart'", lambda: said.step(optim.Adam([said.w, said.b, apart]))),
        ("needs a scalar loss", lambda: graphc.train_step(said.x @ said.w, said.adam())),
        ("must be positive", lambda: said.step(grad_clip_value=0.0)),
        ("limited to a positive number", lambda: said.step(grad_clip_norm=-1.0)),
        ("positive number of calls", lambda: said.step(accumulate=0)),
        ("not among the inputs", lambda: said.step(inputs=[said.x])),
        ("inputs must be placeholders", lambda: said.step(inputs=[said.x, said.y, 3])),
        ("two inputs are called", lambda: said.step(inputs=[said.x, said.y, graphc.placeholder("x", (3,))])),
        ("backend must be", lambda: said.step(backend="other"))]
    for _ in range(2):
        for message, make_step in wrong:
            with pytest.raises(graphc.GraphError, match=message) as caught:
                make_step()
            assert Path(__file__).name in str(caught.value), message


def test_the_users_own_code_is_run(folder: Path, own_op: Callable[..., Any]) -> None:
    """An optimizer, an op, a gradient: what they derive may differ each time."""
    class Own(optim.Adam):
        def update(self, w: Any, g: Any, group: Any) -> Any:
            calls.append(w)
            return super().update(w, g, group)

    calls: list[Any] = []
    twice = own_op("twice_for_test", lambda x: x * 2, lambda g, out, x: g * 2, lambda s, x: s.add(x, x), "")
    rule = graphc.custom_vjp(lambda x: x * 1)
    rule.defvjp(lambda x: (x * 1, ()), lambda residuals, g: (g * 2,))
    makers: list[Callable[[], Any]] = [
        lambda: (s := Said()).step(Own([s.w, s.b])),
        lambda: (s := Said()).step(outputs=twice(s.x)),
        lambda: graphc.train_step(rule((s := Said()).loss), s.adam(), threads=1)]
    for make_step in makers:
        assert not any(waits(make_step()) for _ in range(3))
    assert len(calls) == 6


def test_a_rule_of_graphcs_that_was_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [waits(Said().step()) for _ in range(2)] == [False, True]
    monkeypatch.setattr(optim.Adam, "update", lambda self, w, g, group: {w: w - g})
    program = Said().step()
    assert not waits(program) and len(program.graph.updates) == 3


def test_what_is_changed_afterwards_changes_nothing(folder: Path) -> None:
    """What is written between making a step and looking at it was not there when it was made."""
    def made() -> tuple[Any, Said, Any, Any]:
        said = Said()
        optimizer = optim.Adam([{"params": [said.w, said.b], "clip_grad_max_norm": 1.0}])
        average = optim.EMA([said.w, said.b])
        schedule = lr_scheduler.StepLR(optimizer, 2)
        return said.step([optimizer, average], lr_scheduler=schedule), said, average, schedule

    expected = digest_of(made()[0].graph)
    program, said, average, schedule = made()
    assert waits(program)
    group = schedule.optimizer.param_groups[0]
    group["clip_grad_max_norm"], group["lr"], average.decay, schedule.gamma = 5.0, 0.25, 0.1, 0.9
    said.w.requires_grad = False
    with pytest.raises(graphc.GraphError, match="constant"):
        group["eps"] = 1.0
    assert waits(program) and digest_of(program.graph) == expected


def test_a_state_that_was_loaded_before(folder: Path) -> None:
    """Slots take what was loaded when they begin; loaded ones do not become what others begin with."""
    source = Said()
    optimizer = source.adam()
    three_steps(source.step(optimizer))
    saved = optimizer.state_dict()
    for path in folder.iterdir():
        path.unlink()
    results = []
    for loaded in (True, True, False):
        said = Said()
        optimizer = said.adam()
        if loaded:
            optimizer.load_state_dict(saved)
        program = said.step(optimizer)
        assert waits(program) == bool(results)
        assert bool(optimizer.state_dict()["state"][0]["exp_avg"].any()) == loaded
        results.append(three_steps(program))
    assert results[0] == results[1] != results[2]
    wrong = {**saved, "state": {0: {"exp_avg": np.zeros(3)}}}
    said = Said()
    optimizer = said.adam()
    optimizer.load_state_dict(wrong)
    with pytest.raises(graphc.CheckpointError, match="exp_avg"):
        said.step(optimizer)


def test_programs_share_an_optimizer(folder: Path) -> None:
    """The second step of one optimizer finds its slots; both ways, the second process as the first."""
    results = []
    for turn in range(2):
        said = Said()
        optimizer = said.adam()
        programs = [said.step(optimizer), said.step(optimizer, outputs=said.x @ said.w)]
        assert [waits(program) for program in programs] == [turn > 0] * 2
        results.append([three_steps(program) for program in (*programs, programs[0])])
        assert optimizer.counter.item() == 9
    for one, other in zip(*results, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_static_graphs_states_of_layers_and_large_constants(folder: Path) -> None:
    """Statistics that layers update, twice in order of construction; an input that the gradient does not need."""
    class Step(nn.Graph):
        def __init__(self) -> None:
            super().__init__()
            graphc.manual_seed(0)
            self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.add_optimizer(optim.SGD([*self.first.parameters(), *self.norm.parameters()], lr=0.1, momentum=0.9))

        def build(self, x: Any, y: Any) -> Any:
            large = graphc.constant(np.sin(np.arange(400, dtype="f")).reshape(4, 100))
            loss = (self.norm(self.norm(self.first(x)) + 1) @ large).sin().mean() + 0 * y.sum()
            loss.backward()
            return {"loss": loss}

    steps = [Step(), Step()]
    results = [[step(X, Y)["loss"] for _ in range(3)] for step in steps]
    assert results[0] == results[1]
    assert [waits(step.program) for step in steps] == [False, True]
    names = [list(step.program.state_dict()) for step in steps]
    assert names[0] == names[1] and "running_mean" in " ".join(names[0])


def test_order_of_construction_is_said(folder: Path) -> None:
    """Two updates of one state compose in the order in which they were built, which the graph itself does not tell."""
    def made(swapped: bool) -> Any:
        x, w = graphc.placeholder("x", (3,)), graphc.parameter("w", np.ones(3, "f"))
        count = graphc.state("count", np.float32(1))

        def carry(factor: float) -> Any:
            updated = count * factor + factor
            return graphc.Tensor(make(REGISTRY["updating"], (x.node, updated.node), {"cells": (count.cell,)}))

        second = carry(3.0) if swapped else None
        first = carry(2.0)
        second = carry(3.0) if second is None else second
        program = graphc.train_step((first * second * w).sum(), optim.SGD([w]), threads=1)
        program(np.ones(3, "f"))
        return program, count.item()

    told = [made(swapped) for swapped in (False, True, False, True)]
    assert [waits(program) for program, _ in told] == [False, False, True, True]
    assert [value for _, value in told] == [15.0, 14.0, 15.0, 14.0]


def test_an_entry_that_is_wrong_is_told(folder: Path) -> None:
    """Of another graph than is derived: whoever looks hears of it.  One that makes no sense is as none."""
    Said().step()
    store = cache.default()
    assert store is not None
    steps = []
    for file in folder.iterdir():
        key = bytes.fromhex(file.stem)
        entry = store.lookup(key)
        if entry is not None and "slots" in entry.meta:
            steps.append((key, entry.meta))
    (key, meta), = steps
    assert json.dumps(meta)
    for change in ({"cells": [99]}, {"slots": [[0, [99], "exp_avg", 0.0, [2]]]}, {"inputs": ["x"]}, {"digest": "no"}):
        store.store(key, b"", {**meta, **change})
        assert not waits(Said().step())  # and is made anew
        assert waits(Said().step())
    store.store(key, b"", {**meta, "digest": "00" * 32})
    program = Said().step()
    assert waits(program)
    with pytest.raises(graphc.GraphError, match="no longer what it was"):
        program.dump("update")


@pytest.mark.parametrize("wanted", ["0", "objects"])
def test_nothing_waits_where_programs_are_not_kept(wanted: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", wanted)
    assert not any(waits(Said().step()) for _ in range(2))
    monkeypatch.setenv("GRAPHC_CACHE", "1")
    assert not any(waits(Said().step(backend="numpy")) for _ in range(2))


def test_all_ops_but_those_with_the_users_rules_may_wait() -> None:
    """Otherwise a layer would quietly be slower to start."""
    speaker = Declaration(Graph((), ()), None)
    refused = []
    for op in filter(is_own, REGISTRY.values()):
        try:
            speaker.check(op)
        except Unspoken:
            refused.append(op.name)
    assert refused == ["custom_vjp"]
