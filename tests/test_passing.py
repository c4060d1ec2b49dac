"""What is written past the caches: only what no cache holds, and the same bits as any other way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from graphc.runtime.native import passing
from graphc.runtime.native.passing import FAR, LARGE, passed_on, written_past
from graphc.runtime.native.target import Target, host

import graphc
from graphc import Tensor, nn, optim
from graphc.nn import functional
from graphc.plan import Buffer, Form, Kernel, Plan, Role
from graphc.types import TensorType

ROWS, COLUMNS = 512, 272  # large enough for threads and for every loop structure
PASSES = host().vector_bytes >= passing.HALF_LINE and host().triple.startswith("x86_64")


PIECES = ("odd", "short rows")  # of lines are written


def new(name: str, value: Tensor) -> tuple[object, Tensor]:
    return graphc.state(name, np.zeros(value.shape), value.dtype), value


CASES: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
    "map": lambda a: [a * 2 + 1, a.exp(), a > 0],
    "odd": lambda a: [a[:, 1:] + a[:, :-1]],
    "transpose": lambda a: [a.T + 1],
    "rows": lambda a: [functional.softmax(a, -1), (a - a.mean(-1, keepdim=True)).tanh()],
    "few rows": lambda a: [functional.log_softmax(a.reshape(2, -1), -1)],
    "short rows": lambda a: [functional.softmax(a.reshape(-1, 4), -1)],
    "columns": lambda a: [a - a.mean(0, keepdim=True)],
    "contraction": lambda a: [a[:, :3] @ a[:3], a[:, 0:1] * a[1:2, :]],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_the_same_past_the_caches(case: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", "0")
    value = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
    found = []
    for threads, far in ((1, FAR), (1, 0), (2, 0), (3, 0)):
        monkeypatch.setattr(passing, "FAR", far)
        monkeypatch.setattr(passing, "LARGE", LARGE if far else 1)
        a = graphc.state("a", value, dtype)
        results = dict(new(f"r{i}", r) for i, r in enumerate(CASES[case](a)))
        step = graphc.function([], [], results, threads=threads)
        text = step.dump("llvm")
        assert ("call void @llvm.x86.sse.sfence()" in text) == (PASSES and not far)
        assert ("!nontemporal" in text) == (PASSES and not far and case not in PIECES)
        step()
        found.append([cell.numpy().copy() for cell in results])
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            assert one.tobytes() == expected.tobytes()


def megabytes(name: str, size: int, role: Role = Role.CELL) -> Buffer:
    return Buffer(name, TensorType(graphc.float32, (size << 18,)), role)


A, B, C = (megabytes(name, 10) for name in "abc")
SMALL, INPUT, OUTPUT = megabytes("small", 7), megabytes("input", 30, Role.INPUT), megabytes("output", 30, Role.OUTPUT)
T, U = (megabytes(name, 10, Role.TEMPORARY) for name in "tu")
Steps = Sequence[tuple[Sequence[Buffer], Sequence[Buffer]]]  # what each reads and writes


def plan_of(steps: Steps, offsets: dict[Buffer, int], form: Form) -> Plan:
    nothing = graphc.function([], []).graph
    kernels = tuple(Kernel(f"k{i}", form, nothing, tuple(r), tuple(w), (1,)) for i, (r, w) in enumerate(steps))
    return Plan(kernels, (), (), (), (), offsets=offsets)


@pytest.mark.parametrize("steps, apart, expected", [
    pytest.param([([INPUT], [A])], 0, {"k0 a"}, id="touched once a step, beside much else"),
    pytest.param([([B], [A])], 0, set(), id="beside little else"),
    pytest.param([([INPUT, A], [A])], 0, set(), id="in place"),
    pytest.param([([INPUT], [SMALL])], 0, set(), id="small"),
    pytest.param([([INPUT], [OUTPUT])], 0, set(), id="an array of the caller's, which may begin anywhere"),
    pytest.param([([INPUT], [B]), ([B], [A]), ([A], [C])], 0, {"k0 b", "k1 a", "k2 c"}, id="one after the other"),
    pytest.param([([INPUT], [T]), ([T], [A]), ([A], [U]), ([U], [B])], 0, {"k0 t", "k1 a", "k3 b"}, id="used again soon"),
    pytest.param([([INPUT], [T]), ([T], [A]), ([A], [U]), ([U], [B])], 10 << 20, {"k0 t", "k1 a", "k2 u", "k3 b"}, id="or not"),
    pytest.param([([B], [A]), ([A], [B])] * 9, 0, set(), id="the same memory over and over"),
])
def test_only_what_was_not_touched_for_long_is_written_past_the_caches(steps: Steps, apart: int, expected: set[str]) -> None:
    """apart: bytes between the places of the two temporaries."""
    plan = plan_of(steps, {T: 0, U: apart}, Form.MAP)
    found = written_past(plan)
    assert {f"{k.name} {k.writes[w].name}" for k, writes in found.items() for w in writes} == expected
    assert not written_past(plan_of(steps, {T: 0, U: apart}, Form.SCATTER))  # it reads again what it wrote


def small_step(threads: int) -> tuple[graphc.Program, nn.Module]:
    graphc.manual_seed(0)
    x, y = graphc.placeholder("x", (256, 8)), graphc.placeholder("y", (256, 2))
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    step = graphc.train_step(nn.functional.mse_loss(model(x), y), optim.Adam(model.parameters(), lr=1e-2), threads=threads)
    return step, model


def test_parameters_that_shared_runs_read_are_passed_on() -> None:
    """Not their slots, which nobody else reads, and none of less than some lines."""
    plan = small_step(2)[0].specialize().plan
    found = passed_on(plan)
    assert {plan.home(kernel.writes[w]).name for kernel, results in found.items() for w in results} == {"2.weight"}
    assert {kernel.form for kernel in found} == {Form.COLUMNS}


@pytest.mark.parametrize("clings", [False, True])
def test_what_is_passed_on_has_the_same_bits(clings: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is written past the caches where several threads may run the step, on processors that are like that."""
    monkeypatch.setenv("GRAPHC_CACHE", "0")
    monkeypatch.setattr(Target, "passes_on", property(lambda self: clings))
    rng, found = np.random.default_rng(0), []
    data = rng.standard_normal((256, 8)), rng.standard_normal((256, 2))
    for threads in (1, 2, 3):
        step, model = small_step(threads)
        assert ("!nontemporal" in step.dump("llvm")) == (PASSES and clings and threads > 1)
        losses = step.run(5, *data)
        found.append((losses.tobytes(), *(p.numpy().tobytes() for p in model.parameters())))
    assert found[0] == found[1] == found[2]
