"""Kernels that are dealt to threads by units of hidden layers: every item is for itself, bits do not depend on threads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from graphc.passes import deal as passes_deal
from graphc.passes.deal import run_of
from graphc.runtime.interpreter import evaluate_graph
from graphc.runtime.native import teams
from graphc.runtime.native.choice import ALONE, TOGETHER, Choice
from graphc.runtime.native.epilogues import computed_operands, contraction_node
from graphc.runtime.native.meetings import EVERYBODY, touched, turns
from graphc.runtime.native.target import host

import graphc
from graphc import nn, optim
from graphc.index import Index, linear, unravel, variables_for
from graphc.plan import Buffer, Form, Kernel, Plan, Role
from graphc.records import replace
from graphc.types import TensorType, float64

Optimizer = Callable[..., optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=1e-3),
    "adamw": lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    "sgd": lambda p: optim.SGD(p, lr=0.05),
}
SHAPES = (  # sizes of layers, rows
    ((64, 128, 10), 32), ((100, 192, 3), 20), ((48, 256, 10), 16), ((65, 64, 7), 33), ((96, 128, 64, 4), 24), ((30, 512, 1), 9),
    ((70, 128, 128, 10), 16), ((64, 80, 10), 32), ((48, 96, 160, 96, 5), 20))


@pytest.fixture(autouse=True)
def deeper_ones_too(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Of deeper perceptrons, too little goes together for a gain: here a third is enough."""
    if "sizes" in request.fixturenames and len(request.getfixturevalue("sizes")) > 3:
        monkeypatch.setattr(passes_deal, "SHARE", 0.3)


def step_of(sizes: tuple[int, ...], rows: int, optimizer: str = "momentum", threads: int | None = 2, dtype: str = "float32",
            layer: Callable[[], nn.Module] = nn.ReLU, bias: bool = True) -> tuple[graphc.Program, nn.Module]:
    graphc.manual_seed(1)
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following, bias=bias, dtype=dtype), layer()]
    model = nn.Sequential(*layers[:-1])
    x, y = graphc.placeholder("x", (rows, sizes[0]), dtype), graphc.placeholder("y", (rows, sizes[-1]), dtype)
    loss = nn.MSELoss(reduction="sum")(model(x), y)
    return graphc.train_step(loss, OPTIMIZERS[optimizer](model.parameters()), threads=threads), model


def feeds(sizes: tuple[int, ...], rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, sizes[0])), rng.standard_normal((rows, sizes[-1]))


def dealt(plan: Plan) -> list[Kernel]:
    return [s for s in plan.steps if isinstance(s, Kernel) and s.dealt is not None]


@pytest.mark.parametrize("sizes, rows", SHAPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_item_needs_what_belongs_to_another(sizes: tuple[int, ...], rows: int, optimizer: str) -> None:
    """What a kernel reads of other items may be anything."""
    step, _ = step_of(sizes, rows, optimizer)
    kernels = dealt(step.specialize().plan)
    assert len(kernels) >= 3
    rng = np.random.default_rng(0)
    for kernel in kernels:
        deal = kernel.dealt
        assert deal is not None
        given = [rng.random(slot.shape).astype(slot.dtype.name) + 1 for slot in kernel.body.inputs]
        whole = evaluate_graph(kernel.body, dict(zip(kernel.body.inputs, given, strict=True)))
        for item in range(deal.items):
            own = []
            for array, run in zip(given, deal.reads, strict=True):
                flat = array.reshape(-1).copy()
                if run:
                    flat[np.arange(flat.size) // run % deal.items != item] = 7  # in place of a NaN, as some are bools
                own.append(flat.reshape(array.shape))
            found = evaluate_graph(kernel.body, dict(zip(kernel.body.inputs, own, strict=True)))
            for expected, result, run in zip(whole, found, deal.writes, strict=True):
                mine = np.arange(expected.size) // run % deal.items == item
                assert mine.sum() * deal.items == expected.size
                np.testing.assert_allclose(result.reshape(-1)[mine], expected.reshape(-1)[mine], rtol=1e-5)


@pytest.mark.parametrize("sizes, rows", SHAPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bits_do_not_depend_on_threads(sizes: tuple[int, ...], rows: int, optimizer: str) -> None:
    same_for_all_threads(sizes, rows, optimizer)


def same_for_all_threads(sizes: tuple[int, ...], rows: int, optimizer: str, bias: bool = True) -> None:
    def run(threads: int, way: int) -> tuple[bytes, ...]:
        step, model = step_of(sizes, rows, optimizer, threads, bias=bias)
        assert dealt(step.specialize().plan)
        executable = step.specialize().executable
        if executable.choice is not None:  # however long it takes
            executable.choice = Choice(1e5)
            executable.choice.words[:3] = way, 0, 1 << 60
        losses = step.run(7, *feeds(sizes, rows))
        return losses.tobytes(), *(p.numpy().tobytes() for p in model.parameters())

    expected = run(1, ALONE)
    assert all(run(threads, TOGETHER) == expected for threads in (2, 3, 4, 5))


@pytest.mark.parametrize("sizes, rows", (((40, 36, 3), 12), ((33, 60, 5), 32), ((48, 48, 2), 21), ((17, 72, 9, 4), 16)))
@pytest.mark.parametrize("items", (2, 3, 4))
def test_items_that_fill_no_vectors_keep_to_themselves(items: int, sizes: tuple[int, ...], rows: int,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes_deal, "ITEMS", ((items, 8),))
    monkeypatch.setattr(passes_deal, "LEAST", 1 << 10)
    monkeypatch.setattr(teams, "may_pay", lambda *_: True)
    same_for_all_threads(sizes, rows, "adam")


@pytest.mark.parametrize("layer", (nn.ReLU, nn.Tanh, nn.GELU))
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("sizes, rows", (*SHAPES[:4], ((70, 128, 128, 10), 16)))
def test_both_backends_agree(sizes: tuple[int, ...], rows: int, dtype: str, bias: bool, layer: Callable[[], nn.Module]) -> None:
    step, _ = step_of(sizes, rows, "momentum", 2, dtype, layer, bias)
    graph = step.specialize().graph
    assert dealt(step.specialize().plan)
    x, y = (array.astype(dtype) for array in feeds(sizes, rows))
    values = {node: {"x": x, "y": y}[node.attributes["name"]] for node in graph.inputs}
    values |= {node: node.attributes["cell"].array.copy() for node in graph.nodes if "cell" in node.attributes}
    expected = evaluate_graph(graph, values)
    loss = step(x, y)
    tolerance = 3e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(loss, expected[0], rtol=tolerance)
    for (cell, _), value in zip(graph.updates, expected[len(graph.outputs):], strict=True):
        np.testing.assert_allclose(cell.array, value, rtol=tolerance, atol=tolerance)


def test_threads_that_do_the_same_units_do_not_meet() -> None:
    step, _ = step_of((64, 128, 10), 32)
    order = turns(step.specialize().plan, host())
    shared = [turn for turn in order if turn.who == EVERYBODY]
    assert len(shared) == 5 and all(isinstance(t.step, Kernel) and t.step.dealt for t in shared)
    assert [t.meet for t in shared] == [False, False, True, False, False]  # only for the gradient by the results
    assert sum(t.meet for t in order) == 2


def test_a_weight_that_two_layers_share_units_of_belongs_to_its_own() -> None:
    """The gradient by the units of the layer before is a sum of what each item of its own units gives."""
    step, _ = step_of((64, 128, 128, 10), 32, "adam")
    plan = step.specialize().plan
    kernels = dealt(plan)
    assert len(kernels) == 8 and [k.space for k in kernels].count((4, 32, 128)) == 1
    weight = next(b for b in plan.cells if b.cell is not None and b.type.shape == (128, 128) and b.cell.trainable)
    runs = set()
    for kernel in kernels:
        assert kernel.dealt is not None
        for buffer, run in zip((*kernel.reads, *kernel.writes), (*kernel.dealt.reads, *kernel.dealt.writes), strict=True):
            if plan.home(buffer) is weight:
                runs.add(run)
    assert runs == {32 * 128}  # forward, backward and in the update: rows of its own
    assert [k for k in plan.steps if isinstance(k, Kernel) and k.left]


def test_other_pieces_of_the_same_memory_are_a_reason_to_meet() -> None:
    """What lay there before may have been stored item by item, or have had larger elements."""
    step, _ = step_of((64, 128, 10), 32)
    plan = step.specialize().plan
    kernel = next(k for k in dealt(plan) if k.dealt is not None and k.dealt.apart & set(range(len(k.reads), 99)))
    deal = kernel.dealt
    assert deal is not None
    write = min(deal.apart) - len(kernel.reads)
    side_by_side = replace(kernel, dealt=deal._replace(apart=frozenset()))
    doubles = Buffer("doubles", TensorType(float64, (16, 128)), Role.TEMPORARY)
    assert doubles.bytes == kernel.writes[write].bytes
    wide = replace(side_by_side, writes=(*kernel.writes[:write], doubles, *kernel.writes[write + 1:]))
    placed = replace(plan, offsets={**plan.offsets, doubles: plan.offsets[kernel.writes[write]]})
    one, other, third = (touched(placed, k)[1][write] for k in (kernel, side_by_side, wide))
    assert one.place == other.place == third.place
    assert one.meets(other) and other.meets(third) and not one.meets(one) and not other.meets(other)


def test_what_kernels_cut_in_other_places_is_not_kept_apart() -> None:
    step, _ = step_of((64, 128, 10), 32)
    plan = step.specialize().plan
    chosen = {}
    for kernel in dealt(plan):
        assert kernel.dealt is not None
        chosen[kernel] = next(o for o in passes_deal.options_of(plan, kernel) if o.deal[:2] == kernel.dealt[:2])
    apart = passes_deal.kept_apart(plan, chosen)
    assert len(apart) == 3  # the units, which of them are positive, and the gradient by them
    for home in apart:
        for kernel, option in chosen.items():
            if home in option.runs:
                copied = replace(plan, copies=((home, plan.cells[0]),))  # what it is copied to, others read
                assert home not in passes_deal.kept_apart(copied, chosen)
                other = option._replace(runs={**option.runs, home: option.runs[home] // 2})
                assert home not in passes_deal.kept_apart(plan, {**chosen, kernel: other})


def test_the_report_tells() -> None:
    step, _ = step_of((64, 128, 10), 32)
    assert "dealt to threads: 4 x 32 along axis 1" in step.report()


@pytest.mark.parametrize("sizes, rows", (((8, 16, 2), 16), ((1024, 1024, 1024), 128), ((64, 91, 10), 32),
                                         ((784, 512, 10), 128)))
def test_short_long_and_uneven_steps_are_not_dealt(sizes: tuple[int, ...], rows: int) -> None:
    step, _ = step_of(sizes, rows)
    assert not dealt(step.specialize().plan)


def test_operands_that_are_computed_while_they_are_packed_are_each_items_own() -> None:
    """Without a bias nothing else asks for the gradient by the first layer's units: its sums are added while it is packed."""
    step, _ = step_of((70, 128, 128, 10), 16, bias=False)
    computed = [k for k in dealt(step.specialize().plan) if any(computed_operands(contraction_node(k)))]
    assert [k.space for k in computed] == [(128, 70)]
    same_for_all_threads((70, 128, 128, 10), 16, "adam", bias=False)


def test_what_would_be_a_batch_of_its_own_is_not_dealt() -> None:
    x, w = graphc.placeholder("x", (32, 64)), graphc.parameter("w", np.ones((64, 64, 16)))
    plan = graphc.function([x], graphc.einsum("bi,ijk->jbk", x, w)).specialize().plan
    kernel = next(k for k in plan.steps if isinstance(k, Kernel) and k.space == (64, 32, 16))
    assert not list(passes_deal.options_of(plan, kernel))


def test_kernels_that_fold_rows_are_not_dealt() -> None:
    x, w = graphc.placeholder("x", (96, 64)), graphc.parameter("w", np.ones((64, 128)))
    plan = graphc.function([x], (x @ w).exp().sum(1)).specialize().plan
    kernel = next(k for k in plan.steps if isinstance(k, Kernel) and k.form is Form.CONTRACT)
    assert kernel.axes == (1,) and not list(passes_deal.options_of(plan, kernel))


def test_what_only_infers_is_not_dealt() -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    x = graphc.placeholder("x", (32, 64))
    assert not dealt(graphc.function([x], model(x)).specialize().plan)


@pytest.mark.parametrize("seed", range(40))
def test_runs_against_every_element(seed: int) -> None:
    """A run is right if and only if no element of the memory belongs to two items."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5, 3) * rng.choice([1, 2, 4], 3))
    axis = int(rng.integers(3))
    variables = variables_for(shape)
    if shape[axis] % 2 or not variables[axis].terms:
        return
    order = rng.permutation(3)
    place = linear([variables[a] for a in order], [shape[a] for a in order])
    if rng.random() < 0.5:
        place = linear(unravel(place, (2, place.range[1] // 2 + 1)), (2, place.range[1] // 2 + 1)) + int(rng.integers(2))
    if rng.random() < 0.3:
        place = place + Index.variable("sum", 2) * int(rng.integers(1, 4))
    variable = variables[axis].terms[0][0]
    run = run_of([place], variable, 2)
    names = sorted(place.variables() | {variable})
    items: dict[int, set[int]] = {}
    for values in np.ndindex(*(v.extent for v in names)):
        at = dict(zip(names, (Index((), int(v)) for v in values), strict=True))
        where, value = place.substitute(at).constant, values[names.index(variable)]
        items.setdefault(where, set()).add(value // (variable.extent // 2))
        if run:
            assert where // run % 2 == value // (variable.extent // 2)
    if run == 0 and all(len(i) == 1 for i in items.values()):
        assert place.factor(variable) in (None, 0) or place.constant or len(place.terms) > 1


def test_a_part_behind_others_has_the_runs_of_a_whole() -> None:
    """What is read of the second of several sums lies behind whole rows of all items."""
    row, unit = variables_for((3, 8))
    variable = unit.terms[0][0]
    place = linear((row, unit), (3, 8))
    assert run_of([place], variable, 2) == run_of([place + 24, place], variable, 2) == 4
    assert run_of([place + 4], variable, 2) == 0  # an item behind: others' elements


def test_sums_over_units_are_cut_only_where_they_can_be_dealt() -> None:
    step, _ = step_of((64, 128, 10), 32)
    plan = step.specialize().plan
    assert [k.space for k in dealt(plan)].count((4, 32, 10)) == 1
