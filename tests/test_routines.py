"""Row algorithms: the builder on its own, kernels against the interpreter and across threads, several results per node,
and what matrices without an answer give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.pipeline import Pipeline
from graphc.runtime.native.scopes import LoweringError
from graphc.runtime.plan_interpreter import interpret_plan

import graphc
from graphc import testing
from graphc.cli import main
from graphc.ir import Graph, make, topological
from graphc.op import REGISTRY, Kind, Op, define
from graphc.ops.control import results_of
from graphc.plan import Form
from graphc.symbols import Tensor, apply
from graphc.text import format_graph, format_plan, parse
from graphc.types import int64

from .test_native_kernels import check, inputs, kernel, many
from .torch_oracle import as_list

rng = np.random.default_rng(3)
NUMBERS = count()


def routine(name: str, operands: Sequence[Tensor], **attributes: Any) -> Any:
    """A kernel of one routine that writes all of its results."""
    outs = results_of(make(REGISTRY[name], [o.node for o in operands], attributes))
    return kernel(Form.ROUTINE, list(operands), outs, outs[0].shape)


def definite(n: int, *batch: int) -> np.ndarray:
    m = rng.normal(size=(*batch, n, n))
    return m @ np.swapaxes(m, -1, -2) + n * np.eye(n)


# -- kernels against the interpreter ---------------------------------------------------------------------------------


@many
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_sort(dtype: str, target: str) -> None:
    for shape in ((1,), (2,), (7,), (5, 16), (3, 33), (2, 3, 100), (0, 4), (3, 0)):
        for descending in (False, True):
            values = rng.integers(-5, 6, shape).astype(dtype)
            if dtype.startswith("float") and values.size > 2:
                values.reshape(-1)[::3] = np.nan
                values.reshape(-1)[1::4] = -0.0
            if 0 not in shape:
                check(routine("sort", inputs((dtype, shape)), descending=descending), [values], target=target,
                      threads=(1, 2, 3))


@many
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_topk(dtype: str, target: str) -> None:
    for shape, k in (((1,), 1), ((7,), 7), ((5, 33), 4), ((2, 3, 200), 1), ((2, 1000), 64)):
        for largest in (False, True):
            values = (rng.normal(size=shape) * 9).astype(dtype)
            if dtype.startswith("float") and values.size > 9:
                values.reshape(-1)[::50] = np.nan
                values.reshape(-1)[1::4] = 0.0
                values.reshape(-1)[2::8] = -0.0
            check(routine("topk", inputs((dtype, shape)), k=k, largest=largest), [values], target=target, threads=(1, 2, 3))
    for ordered in (np.arange(300), np.arange(300)[::-1]):  # the worst and the best case
        check(routine("topk", inputs((dtype, (300,))), k=5, largest=True), [ordered.astype(dtype)], target=target)


@many
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_searchsorted(dtype: str, target: str) -> None:
    for n, m in ((1, 1), (3, 5), (16, 17), (100, 33), (0, 4)):
        for right in (False, True):
            ordered = np.sort(rng.integers(-9, 10, (3, n)), -1).astype(dtype)
            k = routine("searchsorted", inputs((dtype, (3, n)), (dtype, (3, m))), right=right)
            check(k, [ordered, rng.integers(-10, 11, (3, m)).astype(dtype)], target=target, threads=(1, 2, 3))


@many
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cholesky(dtype: str, target: str) -> None:
    for n in (1, 2, 3, 4, 5, 8, 13, 16, 31, 66):
        check(routine("cholesky", inputs((dtype, (3, n, n)))), [definite(n, 3).astype(dtype)], target=target, tolerance=400,
              threads=(1, 2, 3))


@many
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lu(dtype: str, target: str) -> None:
    for n in (1, 2, 3, 7, 8, 9, 16, 31, 66):
        matrices = rng.normal(size=(3, n, n)).astype(dtype)
        check(routine("lu", inputs((dtype, (3, n, n)))), [matrices], target=target, tolerance=4000, threads=(1, 2, 3))


@many
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_qr(dtype: str, target: str) -> None:
    for m, n in ((1, 1), (2, 1), (3, 3), (9, 4), (33, 33), (70, 17)):
        matrices = rng.normal(size=(3, m, n)).astype(dtype)
        check(routine("qr", inputs((dtype, (3, m, n)))), [matrices], target=target, tolerance=1000, threads=(1, 2, 3))


@many
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_triangular_solve(upper: bool, transposed: bool, target: str) -> None:
    for dtype in ("float32", "float64"):
        for n, m in ((1, 1), (2, 3), (5, 1), (9, 17), (33, 40), (34, 1), (16, 130)):
            for unit in (False, True):
                k = routine("solve_triangular", inputs((dtype, (2, n, n)), (dtype, (2, n, m))), upper=upper,
                            transposed=transposed, unit=unit)
                a = rng.normal(size=(2, n, n)) / n + 2 * np.eye(n)
                check(k, [a.astype(dtype), rng.normal(size=(2, n, m)).astype(dtype)], target=target, tolerance=100,
                      threads=(1, 2, 3))


def test_a_batch_on_several_threads_gives_the_same_bits() -> None:
    x = graphc.placeholder("x", (40, 48, 48), "float64")
    values = rng.normal(size=(40, 48, 48))
    outs = [graphc.linalg.solve(x, x[:, :, :5]), graphc.linalg.cholesky(x @ x.mT + 48 * graphc.eye(48, dtype="float64")),
            *graphc.sort(x, 1), graphc.grad(graphc.linalg.slogdet(x)[1].sum(), x)]
    found = [graphc.function([x], outs, threads=t)(values) for t in (1, 2, 3)]
    for other in found[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found[0], other, strict=True))
    expected = torch.linalg.slogdet(torch.tensor(values)).logabsdet
    torch.testing.assert_close(torch.linalg.inv(torch.tensor(values)).mT, torch.tensor(found[0][-1]), rtol=1e-9, atol=1e-9)
    assert expected.shape == (40,)


# -- several results -------------------------------------------------------------------------------------------------


def fused_forms(*outs: Tensor) -> list[tuple[Form, int]]:
    """(form, number of results) of each kernel."""
    roots = tuple(o.node for o in outs)
    given = tuple(n for n in topological(roots) if "symbol" in n.attributes)
    pipeline = Pipeline()
    return [(k.form, len(k.writes)) for k in pipeline.plan(pipeline.concrete(Graph(given, roots), {})).kernels]


def test_a_routine_and_its_results_are_one_kernel() -> None:
    x = graphc.placeholder("x", (4, 9))
    values, places = graphc.sort(x)
    assert fused_forms(values, places) == [(Form.ROUTINE, 2)]
    assert fused_forms(places) == [(Form.ROUTINE, 1)]  # what nobody wants is not stored
    assert sorted(fused_forms(values * 2.0, places + 1), key=str)[-1] == (Form.ROUTINE, 2)
    assert fused_forms(graphc.det(graphc.placeholder("m", (5, 5))))[0] == (Form.ROUTINE, 2)  # factors and sign


def test_an_unwanted_result_is_not_stored_and_the_others_are_right() -> None:
    x = graphc.placeholder("x", (4, 9))
    values = rng.normal(size=(4, 9)).astype(np.float32)
    np.testing.assert_array_equal(graphc.function([x], graphc.argsort(x))(values), np.argsort(values, -1))
    m = graphc.placeholder("m", (6, 6), "float64")
    matrix = rng.normal(size=(6, 6))
    program = graphc.function([m], graphc.linalg.lu_factor(m)[1])
    np.testing.assert_array_equal(program(matrix), graphc.linalg.lu_factor(m)[1].eval(m=matrix))


def test_plans_with_several_results_interpret_on_poisoned_memory() -> None:
    x, m = graphc.placeholder("x", (4, 9), "float64"), graphc.placeholder("m", (3, 5, 5), "float64")
    values, places = graphc.sort(x, descending=True)
    gradient = graphc.grad((graphc.topk(x, 3)[0] ** 2).sum(), x)
    outs = [values * 2.0 + 1.0, places, gradient, graphc.linalg.inv(m).sum((1, 2))]
    graph = Graph((x.node, m.node), tuple(o.node for o in outs))
    pipeline = Pipeline()
    plan = pipeline.plan(pipeline.concrete(pipeline.simplified(graph), {}))
    data, matrices = rng.normal(size=(4, 9)), rng.normal(size=(3, 5, 5))
    order = np.argsort(-data, -1, kind="stable")
    kept = np.where(np.argsort(order, -1) < 3, 2 * data, 0.0)
    expected = [np.take_along_axis(data, order, -1) * 2 + 1, order, kept, np.linalg.inv(matrices).sum((1, 2))]
    for got, right in zip(interpret_plan(plan, [data, matrices]), expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-9)


def test_items_are_typed() -> None:
    x = graphc.placeholder("x", (4, 9))
    node = make(REGISTRY["sort"], (x.node,), {"descending": False})
    with pytest.raises(graphc.GraphError, match="no result 2"):
        make(REGISTRY["item"], (node,), {"item": 2})
    with pytest.raises(graphc.GraphError, match="has 2 results"):
        assert Tensor(node).shape


def test_text_keeps_programs_with_several_results() -> None:
    x, m = graphc.placeholder("x", (4, 9)), graphc.placeholder("m", (4, 4))
    outs = [*graphc.sort(x), graphc.grad(graphc.topk(x, 2)[0].sum(), x), *graphc.linalg.slogdet(m), graphc.cholesky(m)]
    graph = Graph((x.node, m.node), tuple(o.node for o in outs))
    for form in (graph, Pipeline().simplified(graph)):
        text = format_graph(form)
        again = parse(text, {"x": x, "m": m})
        assert again.roots == form.roots
    assert "item(" in text and ": f32[4,9], i64[4,9]" in text


DUMPED = """
import numpy as np
import graphc
w = graphc.parameter("w", np.eye(3) * 2 + 0.1)
values, places = graphc.sort(w)
loss = graphc.linalg.slogdet(w)[1] + values.sum() + graphc.linalg.cholesky(w @ w.T)[0, 0]
step = graphc.train_step(loss, graphc.optim.SGD([w], lr=0.01), outputs={"places": places})
"""


@pytest.mark.parametrize("stage", ["forward", "gradient", "update", "simplified", "plan", "llvm", "asm"])
def test_every_stage_can_be_dumped(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.py"
    file.write_text(DUMPED)
    assert main(["dump", f"{file}:step", "--stage", stage]) == 0
    text = capsys.readouterr().out
    assert "sort" in text if stage not in ("llvm", "asm") else "routine" in text
    for form in ("dot", "json", "html") if stage in ("forward", "simplified") else ():
        assert main(["dump", f"{file}:step", "--stage", stage, "--format", form]) == 0
        assert "sort" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["report", "profile", "check"])
def test_programs_are_looked_at(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.py"
    file.write_text(DUMPED)
    assert main([command, f"{file}:step"]) == 0
    assert capsys.readouterr().out


def test_a_step_trains_through_routines() -> None:
    """A Gaussian's covariance by its Cholesky factor: both backends, and many steps in one call."""
    data = rng.normal(size=(64, 3)) @ np.array([[1.0, 0.4, 0.0], [0.0, 0.8, -0.3], [0.0, 0.0, 0.5]])
    x = graphc.placeholder("x", (64, 3), "float64")
    losses = []
    for backend in ("numpy", "native"):
        root = graphc.parameter("root", np.eye(3), "float64")
        covariance = root @ root.T + 0.01 * graphc.eye(3, dtype="float64")
        factor = graphc.linalg.cholesky(covariance)
        white = graphc.linalg.solve_triangular(factor, x.T, upper=False)
        loss = (white * white).sum(0).mean() * 0.5 + factor.diagonal().log().sum()
        step = graphc.train_step(loss, graphc.optim.Adam([root], lr=0.05), backend=backend)
        losses.append(step.run(100, x=data))
        found = covariance.eval()
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    np.testing.assert_allclose(found, data.T @ data / 64, atol=0.05)


# -- gradients -------------------------------------------------------------------------------------------------------

SPREAD = rng.permutation(24).reshape(3, 8) * 0.3 - 3.0
GENERAL = rng.normal(size=(2, 3, 3)) + 3 * np.eye(3)
CHECKED: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
    "sort": (lambda x: graphc.sort(x, 0)[0], [SPREAD]),
    "topk": (lambda x: graphc.topk(x, 3)[0], [SPREAD]),
    "median": (lambda x: graphc.median(x, 1)[0], [SPREAD]),
    "quantile": (lambda x: graphc.quantile(x, [0.2, 0.7], 1), [SPREAD]),
    "cummax": (lambda x: graphc.cummax(x, 1)[0], [SPREAD]),
    "cholesky": (graphc.cholesky, [definite(3, 2)]),
    "cholesky_solve": (lambda b, x: graphc.cholesky_solve(b, graphc.cholesky(x)), [rng.normal(size=(3, 2)), definite(3)]),
    "solve": (graphc.solve, [GENERAL, rng.normal(size=(2, 3, 2))]),
    "solve_right": (lambda a, b: graphc.solve(a, b, left=False), [GENERAL, rng.normal(size=(2, 2, 3))]),
    "inv": (graphc.inv, [GENERAL]),
    "det": (graphc.det, [GENERAL]),
    "logdet": (graphc.logdet, [definite(3)]),
    "matrix_power": (lambda x: graphc.matrix_power(x, -2), [GENERAL]),
    "qr": (lambda x: graphc.linalg.qr(x), [GENERAL]),
    "lstsq": (lambda a, b: graphc.linalg.lstsq(a, b), [rng.normal(size=(5, 3)), rng.normal(size=(5, 2))]),
    "lu": (lambda x: graphc.linalg.lu_factor(x)[0], [GENERAL]),
}


@pytest.mark.parametrize("name", CHECKED)
def test_gradients_to_second_order(name: str) -> None:
    function, arrays = CHECKED[name]
    assert testing.gradcheck(function, arrays, order=2)


def test_third_order_of_a_determinant() -> None:
    x = graphc.placeholder("x", (3, 3), "float64")
    torch.manual_seed(0)
    value = torch.randn(3, 3, dtype=torch.float64)
    ours, reference = graphc.det(x), value.clone().requires_grad_()
    theirs = torch.linalg.det(reference)
    for k in range(3):
        ours = (graphc.grad(ours, x) * (x + float(k))).sum()
        theirs = (torch.autograd.grad(theirs, reference, create_graph=True)[0] * (reference + float(k))).sum()
    np.testing.assert_allclose(graphc.function([x], ours)(value.numpy()), theirs.item(), rtol=1e-9)


# -- matrices without an answer --------------------------------------------------------------------------------------

SINGULAR = np.array([[[1.0, 2.0], [2.0, 4.0]], [[2.0, 0.0], [0.0, 4.0]]])
INDEFINITE = np.array([[[1.0, 2.0], [2.0, 1.0]], [[4.0, 0.0], [0.0, 9.0]], [[0.0, 0.0], [0.0, 1.0]],
                       [[np.nan, 0.0], [0.0, 1.0]]])


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_no_answer_is_nan_and_spares_the_others(backend: str) -> None:
    x = graphc.placeholder("x", (2, 2, 2), "float64")
    program = graphc.function([x], [graphc.inv(x), graphc.det(x), *graphc.slogdet(x),
                                    graphc.solve(x, np.ones((2, 2, 1)))], backend=backend)
    inverse, determinant, sign, magnitude, solution = program(SINGULAR)
    assert np.isnan(inverse[0]).all() and np.isnan(solution[0]).all()
    np.testing.assert_array_equal(inverse[1], [[0.5, 0.0], [0.0, 0.25]])
    np.testing.assert_array_equal(determinant, [0.0, 8.0])
    np.testing.assert_array_equal(sign, [0.0, 1.0])
    assert magnitude[0] == -np.inf
    m = graphc.placeholder("m", (4, 2, 2), "float64")
    factor = graphc.function([m], graphc.cholesky(m), backend=backend)(INDEFINITE)
    assert np.isnan(factor[[0, 2, 3]]).all()
    np.testing.assert_array_equal(factor[1], [[2.0, 0.0], [0.0, 3.0]])


def test_check_numerics_names_the_routine() -> None:
    x = graphc.placeholder("x", (2, 2), "float64")
    program = graphc.function([x], graphc.cholesky(x), check_numerics=True)
    program(np.eye(2))
    with pytest.raises(graphc.NumericsError, match="cholesky"):
        program(-np.eye(2))


@pytest.mark.parametrize("singular", [[[1.0, 2.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_the_gradient_of_a_singular_determinant_is_its_cofactors(singular: list) -> None:
    x, ((a, b), (c, d)) = graphc.placeholder("x", (2, 2), "float64"), singular
    for backend in ("numpy", "native"):
        found = graphc.function([x], graphc.grad(graphc.det(x), x), backend=backend)(np.array(singular))
        np.testing.assert_allclose(found, [[d, -c], [-b, a]], atol=1e-12)


@pytest.mark.parametrize(("build", "message"), [
    (lambda x: graphc.cholesky(x[:2]), "square matrix"), (lambda x: graphc.inv(x[0]), "square matrix"),
    (lambda x: graphc.solve(x, x[:2, :2]), "leading axes"), (lambda x: graphc.topk(x, 9), "9 elements of axis 1"),
    (lambda x: graphc.kthvalue(x, 0), "counted from 1"), (lambda x: graphc.sort(x, 5), "axis 5"),
    (lambda x: graphc.unique(x), "depends on data"), (lambda x: graphc.nonzero(x), "depends on data"),
    (lambda x: graphc.masked_select(x, x > 0), "depends on data"), (lambda x: graphc.bincount(x), "minlength"),
    (lambda x: graphc.quantile(x, 0.5, interpolation="cubic"), "interpolation is one of"),
    (lambda x: graphc.linalg.matrix_norm(x, "nuc"), "'fro', 1, -1"), (lambda x: graphc.mm(x, x[0]), "2, 2 dimensions"),
    (lambda x: graphc.linalg.cross(x[:2], x[:2], 0), "three elements"),
    (lambda x: graphc.diagonal(x, 0, 1, 1), "different axes")])
def test_what_does_not_fit_is_said(build: Callable[..., Any], message: str) -> None:
    x = graphc.placeholder("x", (3, 3))
    with pytest.raises(graphc.GraphError, match=message) as caught:
        build(x)
    assert "test_routines.py" in str(caught.value)


def test_results_have_names() -> None:
    x = graphc.placeholder("x", (4, 3), "float64")
    value = rng.normal(size=(4, 3))
    fields = [x.sort().indices, x.topk(2, 0).values, x.median(1).values, graphc.linalg.qr(x).R,
              graphc.linalg.slogdet(x[:3]).logabsdet, graphc.linalg.lstsq(x, x[:, :1] * 2.0).residuals]
    found = graphc.function([x], fields)(value)
    np.testing.assert_array_equal(found[0], np.argsort(value, -1))
    np.testing.assert_allclose(found[-2], np.linalg.slogdet(value[:3]).logabsdet, rtol=1e-10)
    np.testing.assert_allclose(found[-1], [0.0], atol=1e-12)
    assert graphc.function([x], x.sort())(value)[1].dtype == np.int64  # several results are several outputs


def test_open_batches() -> None:
    x = graphc.placeholder("x", ("batch", 3, 3), "float64")
    program = graphc.function([x], [graphc.inv(x), graphc.sort(x, 1)[0], graphc.sort(x.reshape(-1, 9), 0)[1]])
    for batch in (1, 4, 7):
        values = rng.normal(size=(batch, 3, 3))
        inverse, ordered, places = program(values)
        np.testing.assert_allclose(inverse, np.linalg.inv(values), rtol=1e-9)
        np.testing.assert_array_equal(ordered, np.sort(values, 1))
        np.testing.assert_array_equal(places, np.argsort(values.reshape(-1, 9), 0, kind="stable"))


# -- the builder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def one_routine() -> Iterator[Callable[..., Op]]:
    """Registers ops for one test; names are new each time, as equal names on equal operands are one node."""
    names: list[str] = []

    def defined(function: Callable[..., None], infer: Callable[..., Any], meaning: Callable[..., Any], **fields: Any) -> Op:
        names.append(f"one_routine_{next(NUMBERS)}")
        return define(Op(names[-1], Kind.ROUTINE, infer, meaning, (None, None), routine=function,
                         operations=lambda *types, **_: 1, smooth=False, doc="For one test.", **fields))

    yield defined
    for name in names:
        del REGISTRY[name]


@many
def test_loops_conditions_and_variables(one_routine: Callable[..., Op], target: str) -> None:
    """Collatz steps of each element, and whether there were more than ten: while, when, bools, integer division."""
    def collatz(r: Any, operands: Sequence[Any], outs: Sequence[Any], types: Sequence[Any]) -> None:
        (x,), (steps, many_) = operands, outs
        with r.loop(0, x.shape[0], reverse=True) as i:
            value, number = r.variable(x[i]), r.variable(0)
            with r.loop_while(lambda: value.value > 1):
                odd = value.value % 2 == 1
                value.value = r.select(odd, 3 * value.value + 1, value.value // 2)
                number.value = number.value + 1
            many_[i] = False
            with r.when(number.value > 10):
                many_[i] = True
            steps[i] = number.value

    def meaning(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            value = x[place]
            while value > 1:
                value = 3 * value + 1 if value % 2 else value // 2
                counts[place] += 1
        return counts, counts > 10

    op = one_routine(collatz, lambda x: (x, x.with_dtype(graphc.bool_)), meaning)
    symbols = inputs(("int64", (3, 9)))
    outs = results_of(make(op, (symbols[0].node,)))
    check(kernel(Form.ROUTINE, symbols, outs, (3, 9)), [rng.integers(1, 50, (3, 9))], target=target, threads=(1, 2, 3))


@many
@pytest.mark.parametrize("n", [1, 2, 3, 8, 15, 64, 65, 200])
def test_sums_gathers_and_scratch(one_routine: Callable[..., Op], n: int, target: str) -> None:
    """Row by row: the sum of squares, the greatest, and the row backwards through scratch, at an index that is data."""
    def function(r: Any, operands: Sequence[Any], outs: Sequence[Any], types: Sequence[Any]) -> None:
        (x, order), (total, turned, best) = operands, outs
        kept = r.scratch("float32", n)
        r.each(0, n, lambda i: kept.__setitem__(n - 1 - i, x[i] * 2.0), vectors=3)
        r.each(0, n, lambda i: turned.__setitem__(i, kept[order[i]]))
        total[()] = r.sum(0, n, "float32", lambda i: x[i] * x[i])
        best[()] = r.greatest(0, n, "float32", lambda i: x[i])

    op = one_routine(function, lambda x, order: (x.with_shape(x.shape[:-1]), x, x.with_shape(x.shape[:-1])),
                     lambda x, order: (np.sum(x * x, -1, dtype=np.float32),
                                       np.take_along_axis(2 * x[..., ::-1], order, -1), x.max(-1)), core=0)
    symbols = inputs(("float32", (4, n)), ("int64", (4, n)))
    outs = results_of(make(op, [s.node for s in symbols]))
    check(kernel(Form.ROUTINE, symbols, outs, (4,)),
          [rng.normal(size=(4, n)).astype(np.float32), rng.integers(0, n, (4, n))], target=target, tolerance=40,
          threads=(1, 2, 3))


def test_faults_of_a_routine_are_refused(one_routine: Callable[..., Op]) -> None:
    def lane_condition(r: Any, operands: Sequence[Any], outs: Sequence[Any], types: Sequence[Any]) -> None:
        def body(i: Any) -> None:
            with r.when(operands[0][i] > 0.0):
                outs[0][i] = 1.0

        r.each(0, 8, body)

    def nested(r: Any, operands: Sequence[Any], outs: Sequence[Any], types: Sequence[Any]) -> None:
        r.each(0, 8, lambda i: r.each(0, 8, lambda j: outs[0].__setitem__(j, 1.0)))

    def wrong_type(r: Any, operands: Sequence[Any], outs: Sequence[Any], types: Sequence[Any]) -> None:
        outs[0][0] = r.constant(1, "int64")

    for function, message in ((lane_condition, "same for all lanes"), (nested, "inside `each`"), (wrong_type, "cannot hold")):
        op = one_routine(function, lambda x: x, lambda x: x)
        x, = inputs(("float32", (3, 8)))
        with pytest.raises(LoweringError, match=message):
            check(kernel(Form.ROUTINE, [x], [apply(op, x)], (3, 8)))


def test_a_routine_says_what_it_costs() -> None:
    with pytest.raises(ValueError, match="operations"):
        define(Op("no_cost", Kind.ROUTINE, lambda x: x, routine=lambda *_: None))
    assert "no_cost" not in REGISTRY
    x = graphc.placeholder("x", (2, 100, 100))
    plan = graphc.function([x], graphc.det(x)).specialize().plan
    assert plan.flops > 2 * 2 * 100 ** 3 // 3
    assert "routine" in format_plan(plan)
    assert graphc.argsort(x).dtype == int64


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)])
def test_empty_matrices(shape: tuple[int, ...], backend: str) -> None:
    x, zeros = graphc.placeholder("x", shape, "float64"), torch.zeros(shape, dtype=torch.float64)
    for name in ("det", "inv", "cholesky", "slogdet", "qr"):
        ours, theirs = as_list(getattr(graphc.linalg, name)(x)), as_list(getattr(torch.linalg, name)(zeros))
        for got, expected in zip(graphc.function([x], ours, backend=backend)(zeros.numpy()), theirs, strict=True):
            np.testing.assert_array_equal(got, expected.numpy())
    gradient = graphc.grad(graphc.det(x).sum(), x)
    assert graphc.function([x], gradient, backend=backend)(zeros.numpy()).shape == shape
    assert graphc.function([x], [x - x.sum(), *graphc.sort(x)], backend=backend)(zeros.numpy())[0].shape == shape


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_tensors_without_elements(shape: tuple[int, int]) -> None:
    x = graphc.placeholder("x", shape)
    outs = [x - x.sum(1, keepdims=True), x.sum(1), x.sum(0), x - x.sum(), x @ x.T, x.T @ x, x.cumsum(0), x.cumsum(1),
            graphc.concat([x, x], 0)]
    for some in (*([out] for out in outs), outs):
        numpy, native = (graphc.function([x], some, backend=b)(np.zeros(shape)) for b in ("numpy", "native"))
        for expected, got in zip(numpy, native, strict=True):
            np.testing.assert_array_equal(got, expected)
