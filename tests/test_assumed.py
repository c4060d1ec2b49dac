"""Masks that are kept in buffers: they hide what a constant mask hides, until somebody gives them another value."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphc.runtime.native import cache, kept_programs

import graphc
import graphc.nn.functional as F
from graphc import exporting, nn
from graphc.assumed import LARGEST, Assumed, may_hide
from graphc.built import Waiting
from graphc.cells import Cell, kept

LONGEST, T = 48, 40
LOWER = np.tril(np.ones((LONGEST, LONGEST), np.float32))
WINDOW = LOWER - np.tril(LOWER, -6)
NONE = np.ones_like(LOWER)
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, T, 8)).astype(np.float32)


class Attention(nn.Module):
    """As minGPT has it."""

    def __init__(self, mask: np.ndarray = LOWER, shape: tuple[int, ...] = (1, 1, LONGEST, LONGEST)) -> None:
        super().__init__()
        graphc.manual_seed(0)
        self.attend, self.project = nn.Linear(8, 24), nn.Linear(8, 8)
        self.register_buffer("mask", mask.reshape(shape))

    def forward(self, x: Any, mask: Any = None) -> Any:
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, 2, 4).transpose(1, 2) for t in self.attend(x).split(width, dim=2))
        scores = (q @ k.transpose(-2, -1)) * 0.5
        scores = scores.masked_fill((self.mask if mask is None else mask)[..., :length, :length] == 0, float("-inf"))
        return self.project((F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(batch, length, width))


def program(model: nn.Module, batch: Any = 2, **settings: Any) -> graphc.Program:
    x = graphc.placeholder("x", (batch, T, 8))
    return graphc.function([x], model(x), **settings)


def expected(mask: np.ndarray) -> np.ndarray:
    """By a mask that is fed, of which nothing is known."""
    model = Attention()
    x, fed = graphc.placeholder("x", (2, T, 8)), graphc.placeholder("mask", LOWER.shape)
    return graphc.function([x, fed], model(x, fed))(X, mask)


def left_out(of: graphc.Program, **sizes: int) -> int:
    return len(re.findall(r"within=\(", of.dump("plan", sizes=sizes)))


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("mask", [LOWER, WINDOW, LOWER == 1], ids=["causal", "window", "bool"])
@pytest.mark.parametrize("shape", [(1, 1, LONGEST, LONGEST), (LONGEST, LONGEST)])
def test_a_buffer_hides_what_a_constant_would(mask: np.ndarray, shape: tuple[int, ...], backend: str) -> None:
    model = Attention(mask, shape)
    made = program(model, backend=backend)
    assert left_out(made) == 2
    close(made(X), expected(mask.astype(np.float32)))


def test_gradients_leave_it_out_too() -> None:
    model = Attention()
    x = graphc.placeholder("x", (2, T, 8))
    step = graphc.train_step((model(x) ** 2).mean(), graphc.optim.SGD(model.parameters(), lr=0.1))
    assert left_out(step) == 6
    assert step(X) > step.run(20, X)[-1]


def by_call(made: graphc.Program) -> Callable[[], Any]:
    return lambda: made(X)


def by_run(made: graphc.Program) -> Callable[[], Any]:
    return lambda: made.run(3, X)[-1]


def by_bound(made: graphc.Program) -> Callable[[], Any]:
    return made.bind(X)


@pytest.mark.parametrize("way", [by_call, by_run, by_bound])
@pytest.mark.parametrize("batch", [2, "batch"])
@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_another_value_is_used_at_once(way: Callable[..., Any], batch: Any, backend: str) -> None:
    model = Attention()
    made = program(model, batch, backend=backend)
    call = way(made)
    close(call(), expected(LOWER))
    for mask in (NONE, WINDOW, LOWER.T + LOWER[:, ::-1], LOWER):
        model.mask.copy_(mask.reshape(1, 1, LONGEST, LONGEST))
        close(call(), expected(mask))
    model.load_state_dict({**model.state_dict(), "mask": NONE.reshape(1, 1, LONGEST, LONGEST)})
    close(call(), expected(NONE))
    made.load_state_dict({name: value if "mask" not in name else WINDOW.reshape(value.shape)
                          for name, value in made.state_dict().items()})
    close(call(), expected(WINDOW))


def test_the_same_value_again_compiles_nothing_again() -> None:
    model = Attention()
    made = program(model)
    made(X)
    special = made.specialize()
    model.load_state_dict(model.state_dict())
    made(X)
    assert made.specialize() is special
    model.mask.copy_(NONE.reshape(1, 1, LONGEST, LONGEST))
    assert made.specialize() is not special and left_out(made) == 0


def test_a_buffer_that_is_relied_on_is_read_only_until_it_is_assigned_to() -> None:
    model = Attention()
    made = program(model)
    model.mask.cell.array[..., 0, 1] = 0  # nobody relies on it yet
    made(X)
    with pytest.raises(ValueError, match="read-only"):
        model.mask.cell.array[...] = 1
    nn.init.ones_(model.mask)
    model.mask.cell.array[..., 1] = 1
    close(made(X), expected(NONE))


def test_what_a_program_updates_is_not_relied_on() -> None:
    model = Attention()
    before = program(model)
    close(before(X), expected(LOWER))
    assert left_out(before) == 2
    turn = graphc.function([], model.mask.sum(), updates={model.mask: 1 - model.mask + np.eye(LONGEST, dtype=np.float32)})
    turn()  # now the upper triangle
    close(before(X), expected(LOWER.T))
    assert left_out(before) == 0 and left_out(program(model)) == 0
    turn()
    close(before(X), expected(LOWER))


def test_a_value_that_changes_inside_a_run_counts_from_then_on() -> None:
    class Hook:
        def step(self) -> None:
            model.mask.copy_(NONE.reshape(1, 1, LONGEST, LONGEST))

    model = Attention()
    made = program(model)
    made.after_call.append(Hook())
    first, *others = made.run(3, X)
    close(first, expected(LOWER))
    for other in others:
        close(other, expected(NONE))


def test_a_memory_budget_and_checks_of_numbers_rely_on_it_too() -> None:
    model = Attention()
    x = graphc.placeholder("x", (2, T, 8))
    optimizer = graphc.optim.SGD(model.parameters(), lr=0.1)
    whole = graphc.train_step((model(x) ** 2).mean(), optimizer)
    budget = graphc.train_step((model(x) ** 2).mean(), optimizer, memory_budget=whole.specialize().memory_bytes)
    assert left_out(budget) == 6
    close(program(model, check_numerics=True)(X), program(model)(X))


def test_numbers_that_are_added_hide_something_whatever_they_are_elsewhere() -> None:
    """As positions that are a bias: the buffer is read, but for what it hides."""
    bias = np.where(LOWER == 1, RANDOM.standard_normal(LOWER.shape).astype(np.float32), -np.inf)
    q = graphc.placeholder("q", (T, 4))
    kept_bias, fed = graphc.state("bias", bias), graphc.placeholder("fed", bias.shape)
    made, other = (graphc.function(inputs, F.softmax(q @ q.T + mask[:T, :T], dim=-1) @ q)
                   for inputs, mask in (([q], kept_bias), ([q, fed], fed)))
    value = X[0, :, :4]
    assert left_out(made) == 2 and made.specialize().assumed.masks[kept_bias.cell].between is None
    close(made(value), other(value, bias))


def bands() -> list[np.ndarray]:
    """Matrices of one number, or any, between two diagonals, and of others beyond them."""
    found: list[np.ndarray] = []
    random = np.random.default_rng(1)
    for rows, columns in ((20, 20), (17, 64), (64, 18), (33, 47)):
        places = np.arange(columns) - np.arange(rows)[:, None]
        for above, below in ((0, 60), (3, 3), (-4, 80), (columns - 6, 2), (5, -2), (columns, 8)):
            for numbers in ((1.0, 0.0, 0.0), (0.0, -np.inf, -np.inf), (np.nan, 1.0, 2.0), (0.5, 0.5, 3.0), (7.0, -0.0, np.inf)):
                between, beyond, other = numbers
                found.append(np.where(places > above, beyond, np.where(-places > below, other, between)).astype(np.float32))
            found += [found[-5] == 1, found[-5].astype(np.float64), random.standard_normal(places.shape) * (places <= above)]
    return found


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_what_a_buffer_is_said_to_be_is_what_it_is(backend: str) -> None:
    """Element by element, where it is read as a whole."""
    arrays = bands()
    cells = [graphc.state(f"b{k}", array) for k, array in enumerate(arrays)]
    made = graphc.function([], [graphc.where(c, c, c) if c.dtype.is_bool else c * 1 for c in cells], backend=backend)
    for found, array in zip(made(), arrays, strict=True):
        np.testing.assert_array_equal(found, array)
    known = made.specialize().assumed.masks
    assert sum(b.between is not None for b in known.values()) > len(arrays) / 2
    assert 0 < sum(b.between is None for b in known.values()) < len(known) < len(arrays)


def test_exported_code_relies_on_nothing() -> None:
    """Whoever runs it gives the state, buffers included."""
    made = program(Attention())
    made(X)
    planned = exporting._planned(made, {})
    assert left_out(made) == 2 and not any("within" in n.attributes for k in planned.plan.kernels for n in k.body.nodes)


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_kept_programs_are_those_of_the_same_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "default", lambda: cache.Cache(tmp_path))
    monkeypatch.setattr(cache, "wanted", lambda: "programs")
    if kept_programs.keeping() is None:
        made = program(Attention())
        assert made.specialize().kept == 0  # nothing is kept on this system
        return
    assert program(Attention()).specialize().kept == 0
    again = program(Attention())
    assert again.specialize().kept > 0
    close(again(X), expected(LOWER))
    for mask in (NONE, WINDOW):
        other = program(Attention(mask))
        assert other.specialize().kept == 0
        close(other(X), expected(mask))


def test_a_step_that_waits_knows_what_it_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "default", lambda: cache.Cache(tmp_path))
    monkeypatch.setattr(cache, "wanted", lambda: "programs")
    for _ in range(2):
        model = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
        x = graphc.placeholder("x", (4, 20))
        optimizer = graphc.optim.Adam(model.parameters())
        step = graphc.train_step((model(x) ** 2).mean(), optimizer)
        step(np.ones((4, 20), np.float32))
        updated = [cell for cell in step.built.cells() if cell.updated]
        assert len(updated) == len(step.graph.updates) == step.built.updates
    assert isinstance(step.built, Waiting) == (kept_programs.keeping() is not None)


# -- cells ---------------------------------------------------------------------------------------------------------------


def cell(array: np.ndarray, trainable: bool = False) -> Cell:
    return Cell("mask", array, trainable)


def test_what_may_hide_something() -> None:
    square = np.random.default_rng(0).standard_normal((40, 40))
    for array in (LOWER, LOWER.T, 1 - LOWER, WINDOW, LOWER == 0, np.where(LOWER == 1, 0, -np.inf), np.tril(square),
                  np.triu(square), LOWER[:20].reshape(1, 20, 48)):
        assert may_hide(cell(array)), array
    for array in (NONE, square, LOWER[:16], LOWER.astype(np.int64), np.stack([LOWER, LOWER]), LOWER.ravel(), np.eye(3),
                  np.zeros((0, 20)), np.full((20, 20), np.nan)):
        assert not may_hide(cell(array)), array
    assert not may_hide(cell(LOWER, trainable=True))
    assert not may_hide(cell(np.tril(np.ones((LARGEST // 1024 + 1, 1024), bool))))
    waits = cell(LOWER)
    waits.begin(lambda array: None)
    assert not may_hide(waits) and waits.waits


def test_what_is_known_holds_until_a_cell_changes() -> None:
    mask, other = cell(LOWER), cell(NONE)
    known = Assumed.of([other, mask])
    assert list(known.masks) == [mask] and known.holds() and not mask.array.flags.writeable and other.array.flags.writeable
    assert known.told([other, mask]) == "[(1, [((0, 1, -1), 1.0), ((1, 0, 0), 0.0)], 1.0)]" and known.told([other]) == "[]"
    other.assign(LOWER)
    assert known.holds()
    mask.becomes_updated()
    assert not known.holds() and mask.array.flags.writeable
    version = mask.version
    mask.becomes_updated()
    assert mask.version == version and not Assumed.of([mask]).masks


def test_values_that_are_kept_come_back() -> None:
    mask = cell(LOWER)
    Assumed.of([mask])
    with kept([mask]):
        version = mask.version
    assert mask.version == version  # nobody could change it
    with kept([mask]):
        mask.assign(WINDOW)
        known = Assumed.of([mask])
    np.testing.assert_array_equal(mask.array, LOWER)
    assert not known.holds()
    with kept([mask]):
        mask.assign(NONE)
    np.testing.assert_array_equal(mask.array, LOWER)
