"""Programs that say arguments by PyTorch's names: the same text is evaluated with both, and gives the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn

G = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "x": G.standard_normal((3, 4)), "y": G.standard_normal((3, 4)), "w": G.standard_normal((4, 5)), "v": G.standard_normal(4),
    "u": G.standard_normal(3), "one": G.standard_normal((3, 1, 4)), "s": G.standard_normal((3, 3)),
    "a": G.standard_normal((2, 3, 4)), "b": G.standard_normal((2, 4, 5)), "c": G.standard_normal((2, 3, 5)),
    "m": G.integers(-9, 9, (3, 4)), "d": np.array([[2, -3, 4, -5]]),
    "i": G.integers(0, 3, (2, 4)), "k": np.array([2, 0]), "n": np.array([0, 2, 1, 1]), "add": G.standard_normal((2, 4)),
}

IN_TYPE = [
    "sum(x, dtype=L.float32)", "sum(n, 0, dtype=L.int32)", "sum(m, 1, True, dtype=L.float32)", "sum(x, 1, dtype=L.int64)",
    "prod(x, dim=1, dtype=L.float32)", "prod(m, dtype=L.float32)", "cumsum(m, 1, dtype=L.float32)",
    "cumsum(n, dim=0, dtype=L.int32)", "cumprod(x, 0, dtype=L.float32)", "mean(n, dtype=L.float32)",
    "mean(m, dim=1, keepdim=True, dtype=L.float32)", "nansum(x, 1, dtype=L.float32)", "nanmean(x, dtype=L.float32)",
    "softmax(x, 1, dtype=L.float32)", "softmax(n, dim=-1, dtype=L.float32)", "log_softmax(m, dim=0, dtype=L.float32)",
    "log_softmax(x, 1, dtype=L.float32)",
]
BOTH = [  # functions that are methods too: what comes before the first comma is the symbol
    "gather(x, dim=0, index=i)", "scatter(x, dim=0, index=i, src=add)", "scatter_add(x, dim=0, index=i, src=add)",
    "index_select(x, dim=0, index=k)", "index_add(x, dim=0, index=k, source=add)", "narrow(x, dim=1, start=1, length=2)",
    "index_fill(x, dim=0, index=k, value=7.0)",
    "roll(x, shifts=1, dims=1)", "roll(x, shifts=(1, 2), dims=(0, 1))", "permute(a, dims=(2, 0, 1))",
    "transpose(a, dim0=0, dim1=2)", "swapaxes(a, axis0=0, axis1=1)", "swapdims(a, dim0=0, dim1=1)",
    "split(x, [1, 3], dim=1)[1]", "tensor_split(x, 2, dim=1)[1]", "flip(x, dims=(0, 1))", "flip(x, (0, 1))", "flip(x, [1])",
    "take_along_dim(x, indices=i, dim=0)", "tile(x, dims=(2, 1))", "add(x, other=y)", "sub(x, other=y)", "mul(x, other=y)",
    "div(x, other=y)", "maximum(x, other=y)", "fmod(x, other=y)", "atan2(x, other=y)", "hypot(x, other=y)", "eq(x, other=y)",
    "lt(x, other=y)", "ge(x, other=y)", "pow(x, exponent=2)", "matmul(x, other=w)", "mm(x, mat2=w)", "bmm(a, mat2=b)",
    "mv(x, vec=v)", "dot(v, tensor=v)", "outer(u, vec2=v)", "kron(u, other=v)", "dist(x, other=y, p=2)",
    "addmm(u[:, None], mat1=x, mat2=w)", "baddbmm(c, batch1=a, batch2=b)", "addcmul(x, tensor1=y, tensor2=y, value=2)",
    "reshape(x, shape=(4, 3))", "reshape(x, shape=(2, -1))", "softmax(x, dim=0)", "log_softmax(x, dim=1)", "sum(x, dim=0)",
    "sum(x, dim=(0, 1), keepdim=True)", "mean(x, dim=1, keepdim=True)", "unsqueeze(x, dim=1)", "squeeze(one, dim=1)",
    "clamp(x, min=-0.5, max=0.5)", "chunk(x, chunks=2, dim=1)[0]", "repeat_interleave(x, repeats=2, dim=1)",
    "topk(x, k=2, dim=1)[0]", "sort(x, dim=0, descending=True)[1]", "argsort(x, dim=1)", "cumsum(x, dim=1)",
    "norm(x, p=1, dim=1)", "tril(x, diagonal=1)", "triu(x, diagonal=-1)", "count_nonzero(x, dim=1)", "var(x, dim=1)",
    "lerp(x, end=y, weight=0.3)", "flatten(a, start_dim=1)", "unflatten(x, dim=1, sizes=(2, 2))", "diagonal(x, offset=1)",
    "masked_fill(x, mask=y > 0, value=0.0)", "moveaxis(a, source=0, destination=1)", "broadcast_to(v, size=(3, 4))",
    "add(x, y, alpha=2)", "add(x, other=2, alpha=0.5)", "add(n, 3, alpha=2)",
    "sub(x, y, alpha=-1.5)", "subtract(x, 1, alpha=2)",
    "div(x, y, rounding_mode=None)", "div(x, y, rounding_mode='floor')", "div(x, y, rounding_mode='trunc')",
    "divide(x, 0.3, rounding_mode='trunc')", "div(m, d, rounding_mode='trunc')", "div(m, d, rounding_mode='floor')",
    "div(m, -2, rounding_mode='trunc')", "div(m, d)", "std(x, False)", "var(x, True)",
    "std(x, 1, False)", "var(x, 0, True, True)",
    "std(x, dim=1, correction=0, keepdim=True)", "var(a, dim=(0, 2), unbiased=False)", "std(x, unbiased=False)",
    "norm(x, 'fro')", "norm(a, p='fro', dim=(0, 2), keepdim=True)", "norm(x, 3, 1, True)", "norm(x, dtype=L.float64)",
    "clamp(x, min=y)", "clamp(x, max=y)", "clamp(x, min=y, max=y + 1)", "clip(x, y)", "argmax(x, dim=1, keepdim=True)",
    "argmin(x, 0, True)", "argmax(x, None)",
    "sum(x, dtype=None)", *(text.replace("float32", "float64") for text in IN_TYPE),
    "isclose(x, other=y)", "split_with_sizes(x, split_sizes=[1, 3], dim=1)[1]", "floor_divide(x, other=y)", "inner(x, other=y)",
]
ALONE = [
    "flip(input=x, dims=(0,))", "where(x > 0, input=x, other=y)", "where(condition=x > 0, input=x, other=y)",
    "tensordot(x, w, dims=1)", "tensordot(a, b, dims=([0, 2], [0, 1]))", "matmul(input=x, other=w)", "mm(input=x, mat2=w)",
    "bmm(input=a, mat2=b)", "add(input=x, other=y)", "exp(input=x)", "relu(input=x)", "softmax(input=x, dim=1)",
    "gather(input=x, dim=0, index=i)", "reshape(input=x, shape=(12,))", "permute(input=x, dims=(1, 0))",
    "transpose(input=x, dim0=0, dim1=1)", "sum(input=x, dim=0)", "split(x, split_size_or_sections=2, dim=1)[1]",
    "split(tensor=x, split_size_or_sections=[1, 3], dim=1)[0]", "cat(tensors=[x, y], dim=1)", "stack(tensors=(x, y), dim=1)",
    "full(size=(2, 3), fill_value=1.5)", "full((2,), fill_value=3)", "full_like(x, fill_value=2.0)",
    "full_like(input=x, fill_value=2.0)", "zeros(size=(2, 3))", "ones(size=(2,), dtype=L.int64)", "zeros_like(input=x)",
    "linspace(start=0, end=1, steps=5)", "arange(start=1, end=7, step=2)", "arange(end=4)", "arange(1, end=4)",
    "eye(3, device='cpu')", "einsum('ij,jk->ik', [x, w])", "einsum('ij->ji', [x])", "einsum('ij,jk->ik', (x, w))",
    "meshgrid([u, v], indexing='ij')[1]", "meshgrid(u, v, indexing='xy')[0]", "cdist(x1=x, x2=y)", "isin(n, test_elements=k)",
    "searchsorted(sorted_sequence=L.sort(v)[0], input=u)", "lerp(input=x, end=y, weight=0.5)", "broadcast_tensors(u, s)[0]",
    "x.softmax(-1, L.float64)", "x.log_softmax(0, L.float64)", "add(input=x, other=y, alpha=2)",
    "sum(input=m, dim=1, dtype=L.float32)", "div(input=m, other=d, rounding_mode='trunc')",
    "nn.functional.one_hot(L.tensor([0, 3, 1]))", "nn.functional.one_hot(L.tensor([[0, 2]]), -1)",
    "normal(0.0, 1.0, (2, 3)) * 0", "normal(0.0, y.exp()) * 0", "normal(x, y.exp()) * 0",
    "normal(x, 2.0) * 0", "normal(mean=x, std=y.exp()) * 0",
    "x.new_tensor([1, 2])", "x.type_as(y.float())", "m.new_full((2,), 3)", "m.new_ones(2, dtype=L.float32)",
    "nn.functional.one_hot(n, num_classes=4)", "nn.functional.softmax(input=x, dim=0)", "outer(input=u, vec2=v)",
    "zeros(2, 3, device='cpu')", "ones(2, device=L.device('cpu'))", "full((2,), 1.0, device=None)",
    "tensor([1.0], device='cpu')",
    "arange(3, device='cpu')", "linspace(0, 1, 3, device='cpu')", "zeros_like(x, device=x.device)",
    "as_tensor(2.5, device='cpu')",
    "ones_like(x, device='cpu', dtype=L.float32)", "full_like(x, 3, device='cpu')", "full((2,), L.pi)", "tensor([L.inf, L.e])",
    "FloatTensor([1, 2])", "LongTensor([[1, 2]])", "DoubleTensor([1.5])", "BoolTensor([True, False])", "IntTensor([3])",
    "Tensor([[1, 2], [3, 4]])", "zeros(L.Size([2, 3]))",
    "empty(2, 3).isnan().float() * 0", "empty_like(x).isnan().float() * 0", "norm(x, p=2, dim=0)",
    "tril(input=s, diagonal=0)", "tril_indices(row=3, col=2)", "one.squeeze(dim=1)", "x.flip(0, 1)",
    "flip(x, dims=[0]).flip(1)",
    "x.split(split_size=3, dim=1)[1]", "x.new_zeros(2, 3)", "x.new_ones((2,), device='cpu')", "x.new_zeros(size=(2,))",
    "x.new_full((2,), fill_value=3.0)", "x.new_full(size=(2,), fill_value=3.0)", "x.new_empty(2, 3).isnan().float() * 0",
    "x.to(device='cpu', dtype=L.float32)", "x.to(x.device)", "a.permute(dims=(2, 1, 0))", "a.expand(size=(2, 3, 4))",
    "x.sum(dim=-1, keepdim=True)", "x.where(condition=y > 0, other=y)", "x.view(size=(4, 3))",
]


def of(lib: Any, text: str, names: dict[str, Any]) -> Any:
    whole = text if text.split(".")[0] in names else f"L.{text}"
    return eval(whole, {"L": lib}, names)


def same(text: str, close: float = 1e-10) -> None:
    names = {name: graphc.placeholder(name, a.shape, a.dtype.name) for name, a in ARRAYS.items()}
    value = np.asarray(graphc.function(list(names.values()), of(graphc, text, names))(*ARRAYS.values()))
    wanted = of(torch, text, {n: torch.from_numpy(a.copy()) for n, a in ARRAYS.items()}).numpy()
    assert value.shape == wanted.shape and value.dtype == wanted.dtype
    np.testing.assert_allclose(value, wanted, rtol=close, atol=close / 100)


@pytest.mark.parametrize("text", [*BOTH, *ALONE])
def test_a_function_takes_pytorchs_words(text: str) -> None:
    same(text)


@pytest.mark.parametrize("text", IN_TYPE)
def test_the_input_is_converted_first(text: str) -> None:
    same(text, 3e-6)
    name, rest = text.split("(", 1)
    same(f"{rest[0]}.{name}({rest[3:]}", 3e-6)


@pytest.mark.parametrize("text", [t for t in BOTH if t[t.index("(") + 1:].split(",")[0].isidentifier()])
def test_a_method_takes_pytorchs_words(text: str) -> None:
    name, rest = text.split("(", 1)
    symbol, arguments = rest.split(", ", 1)
    same(f"{symbol}.{name}({arguments}")


@pytest.mark.parametrize("text", [
    "rand(size=(2, 3))", "rand(2, 3, device='cpu')", "randn(size=(2, 3), dtype=L.float64)", "normal(0.0, 1.0, size=(2, 3))",
    "normal(mean=0.0, std=2.0, size=(2, 3))", "randint(5, (2, 3))", "randint(1, 5, (2, 3))", "randint(high=5, size=(2, 3))",
    "randint(low=1, high=5, size=(2, 3), device='cpu')", "randint(5, size=(2,))", "randint(1, 5, size=(2,))", "randperm(5)",
    "rand_like(x)", "randn_like(input=x, device='cpu')", "empty(size=(2,), dtype=L.int64)", "empty_like(x, dtype=L.float32)",
    "FloatTensor(2, 3)", "Tensor(2, 3)", "FloatTensor()"])
def test_what_is_drawn_has_pytorchs_shape_and_type(text: str) -> None:
    value = of(graphc, text, {"x": graphc.constant(ARRAYS["x"])}).eval()
    wanted = of(torch, text, {"x": torch.from_numpy(ARRAYS["x"])}).numpy()
    assert value.shape == wanted.shape and value.dtype == wanted.dtype


def test_numbers_are_drawn_between_their_limits() -> None:
    assert sorted(graphc.randperm(50).eval()) == list(range(50))
    assert set(graphc.randint(3, (200,)).eval()) == {0, 1, 2}
    assert set(graphc.randint(low=2, high=4, size=(100,)).eval()) == {2, 3}
    assert abs(graphc.normal(mean=5.0, std=0.1, size=(100,)).eval().mean() - 5) < 0.1
    assert abs(graphc.normal(5.0, 0.1, size=(100,)).eval().mean() - 5) < 0.1
    assert abs(graphc.normal(5.0, 0.1, (100,)).eval().mean() - 5) < 0.1
    means = graphc.normal(graphc.tensor([-5.0, 5.0]), graphc.tensor([[0.1]] * 100)).eval()
    assert means.shape == (100, 2) and np.allclose(means.mean(0), [-5, 5], atol=0.1) and means.std(0).min() > 0.05


@pytest.mark.parametrize(("wrong", "error", "words"), [
    ("zeros(2, device='cuda')", graphc.GraphError, "one device, the CPU, not 'cuda': leave the device out"),
    ("rand(2, device='gpu')", graphc.GraphError, "no device 'gpu'"),
    ("tensor(1.0, device=0)", graphc.GraphError, "no device 0"),
    ("nn.Linear(2, 3, device='cuda:1')", graphc.GraphError, "not 'cuda:1'"),
    ("nn.Linear(2, 3).to(device='cuda')", graphc.GraphError, "not 'cuda'"), ("x.to(device='mps')", graphc.GraphError, "'mps'"),
    ("device('gpu')", graphc.GraphError, "no device 'gpu'"),
    ("gather(x, axis=0, dim=0, index=i)", graphc.GraphError, "gather: give axis or dim, not both"),
    ("reshape(x, 4, 3, shape=(4, 3))", graphc.GraphError, "give shape once"),
    ("reshape(shape=(4, 3))", graphc.GraphError, "reshape: x is missing"),
    ("sum(x, dtype='complex')", graphc.DTypeError, "unknown dtype"),
    ("mean(x, dtype=L.int64)", graphc.DTypeError, "mean: its dtype is float32 or float64"),
    ("div(x, y, rounding_mode='up')", ValueError, "None, 'floor' or 'trunc', not 'up'"),
    ("norm(x, 'nuc')", graphc.GraphError, "inf, -inf or 'fro', got 'nuc'"),
    ("normal()", graphc.GraphError, r"a shape is missing: normal\(mean, std, size"),
    ("nn.functional.one_hot(L.placeholder('labels', (3,), 'int64'))", graphc.ShapeError, "say num_classes="),
    ("one_hot(L.tensor([1]), 0)", graphc.ShapeError, "say num_classes="),
    ("x.type(L.float64)", graphc.GraphError, r"x\.astype\(dtype\) or x\.to\(dtype\)"),
    ("mul(x, y, alpha=2)", TypeError, "alpha"),
    ("gather(x, dimension=0, index=i)", TypeError, "dimension"),
    ("zeros(2, dtype=L.int64, requires_grad=True)", graphc.DTypeError, "float32 or float64"),
    ("Tensor([1], [2])", graphc.GraphError, r"graphc\.tensor"), ("finfo(L.int64)", graphc.DTypeError, "iinfo"),
    ("iinfo(L.float32)", graphc.DTypeError, "iinfo is of")])
def test_what_cannot_be_meant_is_refused(wrong: str, error: type[Exception], words: str) -> None:
    names = {name: graphc.constant(a) for name, a in ARRAYS.items()}
    with pytest.raises(error, match=words):
        of(graphc, wrong, names)


def test_layers_take_a_device() -> None:
    kinds: dict[str, Any] = {"device": "cpu", "dtype": graphc.float64}
    layers = [nn.Linear(2, 3, **kinds), nn.Conv2d(1, 2, 3, **kinds), nn.LSTM(2, 3, **kinds), nn.LayerNorm(3, **kinds),
              nn.BatchNorm1d(3, **kinds), nn.Embedding(4, 2, **kinds), nn.MultiheadAttention(4, 2, **kinds),
              nn.TransformerEncoderLayer(4, 2, **kinds), nn.GRUCell(2, 3, **kinds), nn.PReLU(**kinds)]
    assert {p.dtype for layer in layers for p in layer.parameters()} == {graphc.float64}
    assert nn.Linear(2, 3, device=graphc.device("cpu")).to(device="cpu", dtype=graphc.float64).weight.dtype == graphc.float64
    assert nn.Linear(2, 3, device=None).weight.device == graphc.device("cpu")


def test_factories_make_what_is_trained() -> None:
    w = graphc.zeros(2, 1, requires_grad=True)
    assert isinstance(w, nn.Parameter) and w.requires_grad
    assert not isinstance(graphc.zeros(2, requires_grad=False), nn.Parameter)
    assert graphc.randn(3, dtype=graphc.float64, requires_grad=True).dtype == graphc.float64
    x = graphc.placeholder("x", (4, 2))
    step = graphc.train_step(((x @ w - x.sum(dim=1, keepdim=True)) ** 2).sum(), graphc.optim.SGD([w], lr=0.05))
    step.run(300, G.standard_normal((4, 2)).astype(np.float32))
    np.testing.assert_allclose(w.numpy(), [[1], [1]], atol=1e-3)
    given = nn.Parameter(data=graphc.ones(2), requires_grad=False)
    assert given.numpy().tolist() == [1, 1] and not given.requires_grad


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_what_floating_types_hold(name: str) -> None:
    ours, theirs = graphc.finfo(getattr(graphc, name)), torch.finfo(getattr(torch, name))
    for what in ("min", "max", "eps", "tiny", "smallest_normal", "resolution", "bits", "dtype"):
        assert getattr(ours, what) == getattr(theirs, what)
    assert "eps=" in repr(ours)


def test_other_names() -> None:
    for name in ("int32", "int64"):
        ours, theirs = graphc.iinfo(getattr(graphc, name)), torch.iinfo(getattr(torch, name))
        assert (ours.min, ours.max, ours.bits, ours.dtype) == (theirs.min, theirs.max, theirs.bits, theirs.dtype)
    assert (graphc.pi, graphc.e, graphc.inf) == (torch.pi, torch.e, torch.inf) and np.isnan(graphc.nan)
    assert isinstance(graphc.zeros(2).shape, graphc.Size) and graphc.zeros(2).device.type == "cpu"
    assert {"empty", "randperm", "finfo", "Size", "pi", "FloatTensor"} <= set(dir(graphc))
