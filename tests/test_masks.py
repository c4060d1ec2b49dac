"""What masks leave out of contractions: what is seen in graphs, values and gradients by PyTorch, and the kernels themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes import fuse as fusion
from graphc.passes.cost import beyond
from graphc.passes.masks import Fixed, Masks, Region, facts_of, masks_of, outcome
from graphc.runtime.native.contract import choose_road, scratch_bytes
from graphc.runtime.native.target import Target, host

import graphc
import graphc.nn.functional as F
from graphc import nn
from graphc.ir import Graph
from graphc.records import replace
from graphc.symbols import Tensor

from .test_native_contract import SIGNATURE, TARGETS, Case, Operand, compile_cases, matmul, random_operands, reference

B, H, D = 2, 3, 12


def graph_of(*outputs: Tensor) -> Graph:
    return Graph((), tuple(o.node for o in outputs))


def known(x: Tensor) -> dict[Region, Any]:
    return dict(facts_of(graph_of(x), {}, Fixed()).get(x.node, {}))


# -- what is seen ------------------------------------------------------------------------------------------------------


def test_a_causal_mask_is_seen_from_its_corner() -> None:
    x = graphc.placeholder("x", (40, 40))
    i, j = graphc.arange(40).reshape(40, 1), graphc.arange(40)
    for masked, region in ((graphc.where(j <= i, x, 0.0), Region(1, 0, 0)), (graphc.tril(x, -2), Region(1, 0, -2)),
                           (graphc.triu(x, 3), Region(0, 1, -3)), (graphc.tril(x).T, Region(0, 1, 0)),
                           (graphc.tril(x)[4:, 2:], Region(1, 0, 2))):
        assert known(masked) == {region: 0}, masked


def test_facts_follow_maps_and_stop_where_they_end() -> None:
    x, y = graphc.placeholder("x", (2, 30, 30)), graphc.placeholder("y", (2, 30, 30))
    hidden = graphc.where(np.tril(np.ones((30, 30), bool)), x, -np.inf)
    region = Region(2, 1, 0)
    cases = [(hidden, -np.inf), (hidden * 3.0 + y, -np.inf), (graphc.exp(hidden - y), 0.0), (graphc.exp(hidden) * y, 0.0),
             (graphc.exp(hidden) / y, 0.0), (graphc.sigmoid(hidden), 0.0), (graphc.where(hidden == -np.inf, 0.0, y), 0.0)]
    for value, number in cases:
        assert known(value) == {region: number}, value
    for value in (hidden.max(-1, True) + y, graphc.maximum(hidden, y), graphc.exp(hidden) + y, hidden.reshape(2, 900),
                  graphc.where(y > 0, hidden, 0.0), graphc.where(np.tril(np.ones((30, 30), bool)), x, -1e9) - y):
        assert not known(value), value


def test_what_a_map_gives_is_asked_with_numbers_of_all_magnitudes() -> None:
    x, y = graphc.placeholder("x", (3, 3)), graphc.placeholder("y", (3, 3))

    def of(symbol: Tensor, *known: Any) -> Any:
        return outcome(symbol.node, list(known))

    assert of(x * y, 0.0, None) == 0 == of(x / y, 0.0, None) and of(x + y, 1.0, 2.0) == 3
    assert of(x - y, -np.inf, None) == -np.inf
    assert of(x + y, -1e30, None) is None  # of most numbers it takes nothing away
    assert of(x * y, 2.0, None) is None and of(x + y, None, None) is None
    assert of(graphc.equal(x, y), 0.3, None) is None  # 0.3 itself is tried
    assert of(graphc.minimum(x, y), -1e30, None) is None and of(x / y, None, 0.0) is None
    assert of(x - y, np.inf, np.inf) is None  # NaN is no number
    assert of(graphc.reciprocal(x), 0.0) is None  # which zero it is, nobody knows


def test_two_masks_leave_out_what_either_hides() -> None:
    x = graphc.placeholder("x", (2, 300, 300))
    both = graphc.where(np.tril(np.ones((300, 300), bool), 9), graphc.tril(x, 2) + 1.0, -np.inf)
    weights = graphc.tril(graphc.exp(both), 4)
    program = graphc.function([x], [weights, weights.sum(-1)])
    value = np.random.default_rng(0).standard_normal((2, 300, 300)).astype(np.float32)
    wanted = np.tril(np.exp(np.tril(value, 2) + 1), 4)
    assert "its rows end where a mask hides the rest" in program.report()
    for got, expected in zip(program(value), (wanted, wanted.sum(-1)), strict=True):
        assert np.allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(5, 5), (7, 3), (3, 7)])
def test_elements_of_a_region_are_counted(sizes: tuple[int, int]) -> None:
    i, j = np.indices(sizes)
    for offset in range(-8, 9):
        assert beyond(*sizes, offset) == (i - j > offset).sum()


# -- attention: what is left out, values and gradients ---------------------------------------------------------------------


def triangle(length: int) -> np.ndarray:
    return np.tril(np.ones((length, length), bool))


def softmax_of(mask: Callable[[Any, Any, int], Any]) -> Callable[..., Any]:
    def attend(lib: Any, q: Any, k: Any, v: Any) -> Any:
        scores = mask(lib, q @ k.transpose(-1, -2) * 0.3, q.shape[-2])
        return (scores.softmax(-1) if lib is graphc else torch.softmax(scores, -1)) @ v

    return attend


def array(lib: Any, values: np.ndarray) -> Any:
    return values if lib is graphc else torch.from_numpy(np.asarray(values))


def functional(lib: Any) -> Any:
    return F if lib is graphc else torch.nn.functional


def additive(length: int) -> np.ndarray:
    return np.where(triangle(length), 0, -np.inf)


def window(length: int, width: int) -> np.ndarray:
    i, j = np.indices((length, length))
    return (j <= i) & (i - j < width)


KINDS: dict[str, tuple[int, Callable[..., Any]]] = {  # how many of the six contractions leave products out
    "is_causal": (6, lambda lib, q, k, v: functional(lib).scaled_dot_product_attention(q, k, v, is_causal=True)),
    "bools": (6, lambda lib, q, k, v: functional(lib).scaled_dot_product_attention(
        q, k, v, attn_mask=array(lib, triangle(q.shape[-2])))),
    "added": (6, softmax_of(lambda lib, s, n: s + array(lib, additive(n)))),
    "filled": (6, softmax_of(lambda lib, s, n: s.masked_fill(lib.tril(lib.ones((n, n))) == 0, -np.inf))),
    "filled with -1e9": (4, softmax_of(lambda lib, s, n: s.masked_fill(lib.tril(lib.ones((n, n))) == 0, -1e9))),
    "window": (6, softmax_of(lambda lib, s, n: lib.where(array(lib, window(n, 9)), s, -np.inf))),
    "to the future": (6, softmax_of(lambda lib, s, n: lib.where(array(lib, triangle(n).T.copy()), s, -np.inf))),
    "linear": (6, lambda lib, q, k, v: lib.tril(q @ k.transpose(-1, -2)) @ v),
    "none": (0, softmax_of(lambda lib, s, n: s)),
}


@pytest.mark.parametrize("length", [33, 64, 150, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_what_pytorch_says(kind: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients; the same bits for any number of threads, and what is computed without leaving anything out.

    Short rows are that bit for bit; of long ones the sums are in another order.
    """
    marked, attend = KINDS[kind]
    rng = np.random.default_rng(length)
    arrays = [rng.standard_normal((B, H, length, D)).astype(np.float32) for _ in range(4)]
    weights = arrays.pop()
    q, k, v = (graphc.placeholder(name, (B, H, length, D)) for name in "qkv")
    out = attend(graphc, q, k, v)
    results = [out, *graphc.grad((out * weights).sum(), [q, k, v])]
    program = graphc.function([q, k, v], results, threads=1)
    values = [np.array(x) for x in program(*arrays)]
    text = program.dump("plan")
    assert len(re.findall(r"within=\(", text)) == marked, text
    tensors = [torch.tensor(x.astype(np.float64), requires_grad=True) for x in arrays]
    expected = attend(torch, *tensors)
    (expected * torch.from_numpy(weights)).sum().backward()
    for value, wanted in zip(values, (expected, *(t.grad for t in tensors)), strict=True):
        wanted = wanted.detach().numpy()
        assert np.abs(value - wanted).max() <= 4e-6 * np.abs(wanted).max()
    for threads in (2, 3):
        for a, b in zip(values, graphc.function([q, k, v], results, threads=threads)(*arrays), strict=True):
            assert np.array_equal(a, b)
    monkeypatch.setattr(fusion, "masks_of", lambda graph, known: Masks({}, Fixed(), {}))
    whole = graphc.function([q, k, v], [results[0] + 0.0, *results[1:]], threads=1)
    assert "within=(" not in whole.dump("plan")
    for a, b in zip(values, whole(*arrays), strict=True):
        assert np.array_equal(a, b) if length < 128 else np.abs(a - b).max() <= 2e-6 * np.abs(b).max()


@pytest.mark.parametrize("depth", [33, 600])
def test_maps_behind_what_is_masked_are_finished(depth: int) -> None:
    """Tiles with much to do behind them are finished beside the next tile's sums, which a mask may leave too short for that."""
    a, b, y = (graphc.placeholder(name, shape) for name, shape in (("a", (2, 150, depth)), ("b", (2, 150, depth)),
                                                                  ("y", (2, 150, 150))))
    program = graphc.function([a, b, y], graphc.where(triangle(150), ((a @ b.transpose(-1, -2)) * 0.1).exp() * y, 0.0))
    rng = np.random.default_rng(depth)
    arrays = [rng.standard_normal(x.shape).astype(np.float32) for x in (a, b, y)]
    exact = np.exp(arrays[0].astype(np.float64) @ arrays[1].astype(np.float64).transpose(0, 2, 1) * 0.1) * arrays[2]
    assert np.allclose(program(*arrays), np.where(triangle(150), exact, 0), rtol=1e-4, atol=1e-4)


def test_what_a_mask_hides_does_not_spread() -> None:
    """NaN behind a position reaches no earlier one, as in an attention that is computed step by step."""
    length = 64
    q, k, v = (graphc.placeholder(name, (1, length, 16)) for name in "qkv")
    program = graphc.function([q, k, v], F.scaled_dot_product_attention(q, k, v, is_causal=True))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1, length, 16)).astype(np.float32) for _ in range(3)]
    arrays[2][:, 48:] = np.nan
    assert np.isfinite(program(*arrays)[:, :24]).all()


@pytest.mark.parametrize("length", [40, 64, 150, 600])
def test_a_row_that_sees_nothing_is_what_numpy_makes_of_it(length: int) -> None:
    """NaN, and no other row has anything of it."""
    q, k, v = (graphc.placeholder(name, (2, length, 8)) for name in "qkv")
    scores = graphc.where(np.tril(np.ones((length, length), bool), -2), q @ k.transpose(-1, -2), -np.inf)
    out = scores.softmax(-1) @ v
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((2, length, 8)).astype(np.float32) for _ in range(3)]
    native, plain = (graphc.function([q, k, v], out, backend=name)(*arrays) for name in ("native", "numpy"))
    assert np.isnan(native[:, :2]).all() and np.isnan(plain[:, :2]).all()
    assert np.allclose(native[:, 2:], plain[:, 2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "window", "future"])
def test_rows_end_where_a_mask_hides_the_rest(kind: str) -> None:
    """Long rows by themselves: computed up to the diagonal, and written to their ends."""
    length = 700
    i, j = np.indices((length, length))
    mask = {"causal": j <= i, "window": (j <= i + 3) & (i - j < 40), "future": j >= i - 5}[kind]
    x = graphc.placeholder("x", (2, length, length))
    hidden = graphc.where(mask, x, -np.inf)
    weights = hidden.softmax(-1)
    program = graphc.function([x], [weights, hidden.logsumexp(-1), graphc.where(mask, x, 0.0).sum(-1)])
    assert "its rows end where a mask hides the rest" in program.report()
    value = np.random.default_rng(6).standard_normal((2, length, length)).astype(np.float32)
    tensor = torch.from_numpy(np.where(mask, value, -np.inf))
    wanted = torch.softmax(tensor, -1), torch.logsumexp(tensor, -1), torch.from_numpy(np.where(mask, value, 0)).sum(-1)
    for got, expected in zip(program(value), wanted, strict=True):
        assert np.allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert (program(value)[0][:, ~mask] == 0).all()


@pytest.mark.parametrize("length", [40, 64, 150])
def test_heads_that_share_keys_are_rows_beside_each_other(length: int) -> None:
    """Rows of all heads are one group of the contraction, and each head begins at the diagonal anew."""
    q = graphc.placeholder("q", (2, 3, length, 8))
    k, v = (graphc.placeholder(name, (2, 1, length, 8)) for name in "kv")
    results = [F.scaled_dot_product_attention(q, k, v, is_causal=True)]
    results += graphc.grad((results[0] ** 2).sum(), [q, k, v])
    program = graphc.function([q, k, v], results, threads=1)
    found = re.findall(r'spec="(.*?)", within', program.dump("plan"))
    assert "abcd,aed->abce" in found and "abcd,ade->abce" in found, found
    rng = np.random.default_rng(length)
    arrays = [rng.standard_normal((2, h, length, 8)).astype(np.float32) for h in (3, 1, 1)]
    values = [np.array(x) for x in program(*arrays)]
    tensors = [torch.tensor(x.astype(np.float64), requires_grad=True) for x in arrays]
    wanted = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
    (wanted ** 2).sum().backward()
    for value, expected in zip(values, (wanted, *(t.grad for t in tensors)), strict=True):
        assert np.abs(value - expected.detach().numpy()).max() <= 4e-6 * np.abs(expected.detach().numpy()).max()
    for a, b in zip(values, graphc.function([q, k, v], results, threads=3)(*arrays), strict=True):
        assert np.array_equal(a, b)


def test_multi_head_attention_with_masks_and_padding() -> None:
    x = graphc.placeholder("x", (2, 70, 24))
    padding = graphc.placeholder("padding", (2, 70), "bool")
    module = nn.MultiheadAttention(24, 3, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(70)
    out, _ = module(x, x, x, key_padding_mask=padding, attn_mask=mask, need_weights=False)
    program = graphc.function([x, padding], [out, *graphc.grad((out * out).sum(), [x])])
    assert len(re.findall(r"within=\(", program.dump("plan"))) == 6
    other = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    other.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in module.state_dict().items()})
    rng = np.random.default_rng(2)
    value, hidden = rng.standard_normal((2, 70, 24)).astype(np.float32), rng.random((2, 70)) < 0.3
    hidden[:, 0] = False
    tensor = torch.tensor(value, requires_grad=True)
    wanted, _ = other(tensor, tensor, tensor, key_padding_mask=torch.from_numpy(hidden), attn_mask=torch.from_numpy(
        ~triangle(70)), need_weights=False)
    (wanted * wanted).sum().backward()
    for a, b in zip(program(value, hidden), (wanted.detach(), tensor.grad), strict=True):
        assert np.abs(a - b.numpy()).max() <= 4e-6 * np.abs(b.numpy()).max()


def test_masks_reach_into_loops() -> None:
    """The batch of a small model is cut into chunks, and all of them read one mask; so does a loop over steps."""
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    x = graphc.placeholder("x", ("batch", 48, 8))
    h = module(x)
    loss = (F.scaled_dot_product_attention(h, h, h, is_causal=True) ** 2).mean()
    step = graphc.train_step(loss, graphc.optim.SGD(module.parameters(), lr=0.1), threads=2)
    assert "chunks" in step.report(batch=64)
    assert len(re.findall(r"within=\(", step.dump("plan", sizes={"batch": 64}))) == 6
    z, y = graphc.placeholder("z", (48, 8)), graphc.placeholder("y", (5, 48, 8))
    visible = graphc.tril(graphc.ones((48, 48))) > 0
    last, _ = graphc.scan(lambda c, item: (graphc.where(visible, item @ c.T, 0.0) @ c * 0.02, None), z, y)
    program = graphc.function([z, y], last)
    assert len(re.findall(r"within=\(", program.dump("plan"))) == 2
    rng = np.random.default_rng(4)
    first, items = rng.standard_normal((48, 8)).astype(np.float32), rng.standard_normal((5, 48, 8)).astype(np.float32)
    wanted = first.astype(np.float64)
    for item in items.astype(np.float64):
        wanted = np.tril(item @ wanted.T) @ wanted * 0.02
    assert np.allclose(program(first, items), wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())


def test_scores_that_are_asked_for_are_whole() -> None:
    q, k = graphc.placeholder("q", (40, 8)), graphc.placeholder("k", (40, 8))
    scores = q @ k.T
    masked = graphc.tril(scores)
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((40, 8)).astype(np.float32) for _ in range(2)]
    program = graphc.function([q, k], [scores, masked])
    assert "within=(" not in program.dump("plan")
    assert np.allclose(program(*arrays)[0], arrays[0] @ arrays[1].T, atol=1e-5)
    assert "within=(" in graphc.function([q, k], masked).dump("plan")


def marked(x: Tensor) -> dict[Any, Any]:
    return dict(masks_of(graph_of(x), {}).within)


def test_small_savings_and_integers_are_left_alone() -> None:
    q, k = graphc.placeholder("q", (40, 8)), graphc.placeholder("k", (8, 40))
    assert not marked(graphc.tril(q @ k, 30))
    assert marked(graphc.tril(q @ k))
    whole = graphc.placeholder("i", (40, 8), "int64")
    assert not marked(graphc.tril(whole @ whole.T))


# -- kernels -----------------------------------------------------------------------------------------------------------------


def inside(sizes: dict[str, int], bound: tuple[str, str, int]) -> np.ndarray:
    """[x, y] bools: which products are needed."""
    x, y, offset = bound
    return np.arange(sizes[x])[:, None] <= np.arange(sizes[y])[None, :] + offset


def check_within(cases: list[Case], target: Target) -> None:
    engine = compile_cases(cases, target)
    rng = np.random.default_rng(5)
    for number, case in enumerate(cases):
        c = case.contraction
        run = SIGNATURE(engine.get_function_address(f"case{number}"))
        a, b = random_operands(c, rng, case.misalign)
        sizes, read = {"m": c.m[0], "n": c.n[0], "k": c.k[0]}, np.ones((c.m[0], c.n[0]), bool)
        for bound in c.within:
            needed = inside(sizes, bound)
            for view, axes in ((a.view, "mk"), (b.view, "kn")):
                if set(bound[:2]) == set(axes):
                    view[:, ~(needed if axes[0] == bound[0] else needed.T)] = 0
            if set(bound[:2]) == {"m", "n"}:
                read &= needed if bound[0] == "m" else needed.T
        wanted = reference(c, a.view, b.view, target.pieces)
        wide = np.abs(a.view.astype(np.float64)) @ np.abs(b.view.astype(np.float64))
        scratch = np.full(scratch_bytes(c, target) + 192, 0xA5, np.uint8)
        base = (scratch.ctypes.data + 63) // 64 * 64
        bits = None
        for threads in (1, 2, 3):
            out = Operand(c.dtype, [(c.batch, c.c_batch), (c.m, c.c_m), (c.n, c.c_n)], None, case.misalign)
            for thread in range(threads):
                run(a.pointer, b.pointer, out.pointer, base, thread, threads)
            unit = {"float": 2.0**-23, "double": 2.0**-52}[c.dtype]
            error = np.abs(out.view - wanted)
            assert np.all((error <= (c.k[0] + 2) * unit * wide)[:, read]), (c, threads)
            assert np.isfinite(out.view).all()  # what nobody reads may be multiplied by 0
            bits = out.view.tobytes() if bits is None else bits
            assert out.view.tobytes() == bits


BOUNDS = [("k", "m", 0), ("m", "k", 0), ("k", "n", 0), ("n", "k", 0), ("n", "m", 0), ("m", "n", 0)]


@pytest.mark.parametrize("name", TARGETS)
def test_kernels_leave_out_what_is_not_needed(name: str) -> None:
    target, cases = TARGETS[name], []
    for number, (m, n, k) in enumerate(((64, 64, 64), (33, 47, 95), (150, 32, 150), (32, 150, 150), (150, 150, 32),
                                        (100, 70, 700), (300, 16, 300), (17, 17, 17), (5, 90, 200))):
        for place, (x, y, offset) in enumerate(BOUNDS):
            shift = (0, 3, -2, 40)[(number + place) % 4]
            bounds = ((x, y, offset + shift),)
            if (number + place) % 3 == 0:
                bounds += ((y, x, 20),)
            c = matmul(m, n, k, batch=1 + number % 3, dtype=("float", "double")[place % 2], a=bool(place & 1),
                       b=bool(number & 1))
            cases.append(Case(replace(c, within=bounds), ("plain", "finish")[(number + place) % 2]))
    check_within(cases, target)


@pytest.mark.skipif(not host().has_pairs, reason="needs vectors that multiply pairs of bfloat16")
def test_kernels_of_pairs_leave_them_out_too() -> None:
    target = replace(host(), pieces=1)
    cases = [Case(replace(matmul(m, n, k, batch=2, a=a, b=b), within=((x, y, offset),)), way)
             for m, n, k in ((150, 130, 150), (300, 64, 300), (70, 300, 513)) for x, y, offset in BOUNDS
             for a, b, way in ((False, False, "plain"), (True, True, "finish"))]
    assert all(choose_road(c.contraction, target, c.way == "plain", (False, False)).blocking.pairs for c in cases)
    check_within(cases, target)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda b: f"{b[0]} up to {b[1]}")
@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_do_not_touch_what_is_far_from_the_diagonal(bound: tuple[str, str, int], transposed: bool) -> None:
    """NaN there is not met; of results that nobody reads there is one product."""
    c = replace(matmul(300, 300, 300, a=transposed, b=transposed), within=(bound,))
    engine = compile_cases([Case(c)], host())  # held: it has the code
    run = SIGNATURE(engine.get_function_address("case0"))
    rng = np.random.default_rng(1)
    a, b = random_operands(c, rng)
    out = Operand(c.dtype, [(c.batch, c.c_batch), (c.m, c.c_m), (c.n, c.c_n)], None, 0)
    x, y, _ = bound

    def places(axes: str) -> tuple[np.ndarray, np.ndarray]:
        """Where x > y, and where it is so by more than any tile has."""
        place = dict(zip(axes, np.indices((300, 300)), strict=True))
        return place[x] > place[y], place[x] - place[y] > 64

    for view, axes in ((a.view, "mk"), (b.view, "kn")):
        if {x, y} == set(axes):
            beyond_it, far = places(axes)
            view[:, beyond_it], view[:, far] = 0, np.nan
    scratch = np.zeros(scratch_bytes(c, host()) + 64, np.uint8)
    run(a.pointer, b.pointer, out.pointer, (scratch.ctypes.data + 63) // 64 * 64, 0, 1)
    if {x, y} == {"m", "n"}:
        _, far = places("mn")
        one = a.view[0, :, :1] * b.view[0, :1, :]
        assert np.array_equal(out.view[0][far], one[far])
    else:
        assert np.isfinite(out.view).all()
