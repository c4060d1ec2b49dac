"""Methods of symbols, under PyTorch's names and with its values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc.methods import FUNCTIONS
from graphc.symbols import Tensor
from graphc.types import Dim

G = np.random.default_rng(0)
A, B, POSITIVE = (G.standard_normal((3, 3)), G.standard_normal((3, 3)), G.uniform(0.1, 0.9, (3, 3)))
BATCH, OTHER = G.standard_normal((2, 3, 3)), G.standard_normal((2, 3, 3))
V, W = G.standard_normal(3), G.standard_normal(3)
HOLES = np.where(G.random((3, 3)) < 0.3, np.nan, A)
WHOLE = np.array([[3, -4, 5], [0, 2, -7], [1, 1, 6]])
FACTOR = np.linalg.cholesky(A @ A.T + np.eye(3))


def two(name: str) -> Callable[[Any, Any], Any]:
    return lambda x, y: getattr(x, name)(y)


def one(name: str) -> Callable[[Any], Any]:
    return lambda x: getattr(x, name)()


CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    **{name: (two(name), (A, B)) for name in (
        "add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "floor_divide", "remainder",
        "fmod", "maximum", "minimum", "atan2", "arctan2", "hypot", "logaddexp", "heaviside", "eq", "ne", "lt", "le",
        "gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal", "inner", "kron", "dist")},
    **{name: (two(name), (A > 0, B > 0)) for name in ("logical_and", "logical_or", "logical_xor")},
    **{name: (one(name), (A,)) for name in (
        "neg", "negative", "absolute", "positive", "tan", "atan", "arctan", "sinh", "cosh", "asinh", "arcsinh",
        "exp2", "erfc", "sinc", "frac", "deg2rad", "rad2deg", "isneginf", "isposinf", "t", "ravel", "fliplr",
        "flipud", "msort", "diagflat", "diag_embed", "amax", "amin", "contiguous", "clone", "cpu", "count_nonzero",
        "bool", "int", "long", "float", "double")},
    **{name: (one(name), (POSITIVE,)) for name in ("asin", "acos", "atanh", "arcsin", "arccos", "arctanh", "logit")},
    **{name: (one(name), (1 + POSITIVE,)) for name in ("acosh", "arccosh")},
    **{name: (one(name), (HOLES,)) for name in ("nansum", "nanmean", "nanmedian")},
    "add of twice": (lambda x, y: x.add(y, alpha=2), (A, B)),
    "sub of half": (lambda x, y: x.sub(y, alpha=0.5), (A, B)),
    "div down": (lambda x, y: x.div(y, rounding_mode="floor"), (A, B)),
    "div towards zero": (lambda x, y: x.div(y, rounding_mode="trunc"), (A, B)),
    "xlogy": (two("xlogy"), (A, POSITIVE)),
    "cross": (lambda x, y: x.cross(y, dim=-1), (A, B)),
    "vdot": (two("vdot"), (V, W)),
    "isclose": (lambda x: x.isclose(x + 1e-7), (A,)),
    "where": (lambda x, y: x.where(y > 0, y), (A, B)),
    "logical_not": (one("logical_not"), (A > 0,)),
    "amax of an axis": (lambda x: x.amax(1, keepdim=True), (A,)),
    "aminmax": (lambda x: x.aminmax()[1], (A,)),
    "reshape_as": (lambda x, y: x.reshape_as(y), (A, A.reshape(9, 1))),
    "broadcast_to": (lambda x: x.broadcast_to((2, 3, 3)), (A,)),
    "unflatten": (lambda x: x.unflatten(1, (3, 1)), (A,)),
    "rot90": (lambda x: x.rot90(1, (0, 1)), (A,)),
    "take_along_dim": (lambda x, y: x.take_along_dim(y, 1), (A, np.array([[0, 2], [1, 1], [2, 0]]))),
    "tensor_split": (lambda x: x.tensor_split(2)[1], (A,)),
    "bincount": (lambda x: x.bincount(minlength=6), (np.array([1, 3, 3, 5]),)),
    "addcmul": (lambda x, y: x.addcmul(y, y, value=3), (A, B)),
    "addcdiv": (lambda x, y: x.addcdiv(y, y * 2, value=3), (A, B)),
    "addmv": (lambda x, y, z: x.addmv(y, z, alpha=2), (V, A, W)),
    "addr": (lambda x, y, z: x.addr(y, z, beta=3), (A, V, W)),
    "baddbmm": (lambda x, y: x.baddbmm(y, x), (BATCH, OTHER)),
    "addbmm": (lambda x, y, z: x.addbmm(y, z), (A, BATCH, OTHER)),
    "cholesky_solve": (lambda x, y: x.cholesky_solve(y), (A, FACTOR)),
    "cholesky_inverse": (one("cholesky_inverse"), (FACTOR,)),
    "type_as": (lambda x, y: x.type_as(y), (WHOLE, A)),
    "to a type": (lambda x: x.to(torch.int64 if isinstance(x, torch.Tensor) else graphc.int64), (A,)),
    "to the cpu": (lambda x: x.to("cpu"), (A,)),
    "to another's type": (lambda x, y: x.to(y), (WHOLE, A)),
    "new_zeros": (lambda x: x.new_zeros(2, 3) + x[:2], (A,)),
    "new_ones": (lambda x: x.new_ones((2, 3)) + x[:2], (A,)),
    "new_full": (lambda x: x.new_full((2, 3), 7.0) + x[:2], (A,)),
    "new_tensor": (lambda x: x.new_tensor([1.0, 2.0, 3.0]) + x, (A,)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_method_gives_what_pytorch_gives(name: str) -> None:
    method, arrays = CASES[name]
    symbols = [graphc.placeholder(f"x{k}", a.shape, a.dtype.name) for k, a in enumerate(arrays)]
    value = np.asarray(graphc.function(symbols, method(*symbols))(*arrays))
    wanted = method(*map(torch.from_numpy, arrays)).numpy()
    assert value.shape == wanted.shape and value.dtype == wanted.dtype
    np.testing.assert_allclose(value, wanted, rtol=1e-12, atol=1e-14)


FUNCTIONS_ALONE = {  # what PyTorch's method of that name says otherwise, or has deprecated
    "equal": "one bool of PyTorch, element by element here", "grad": "an attribute of PyTorch's", "lstsq": "deprecated there",
    "qr": "deprecated there", "solve": "deprecated there", "bernoulli": "its own probabilities, drawn with a seed",
}


def test_every_function_that_is_a_method_of_pytorch_is_one() -> None:
    there = {n for n, function in FUNCTIONS.items() if hasattr(torch.Tensor, n) and inspect.signature(function).parameters}
    missing = {n for n in there if not hasattr(Tensor, n)}
    assert missing == set(FUNCTIONS_ALONE)


def test_what_a_symbol_is() -> None:
    x = graphc.placeholder("x", (4, 5, 6))
    assert (x.dim(), x.ndimension(), x.numel(), x.nelement(), x.size) == (3, 3, 120, 120, 120)
    assert x.size() == (4, 5, 6) and x.size(1) == 5 and x.size(-1) == 6 and x.size(dim=0) == 4
    assert x.is_floating_point() and x.is_contiguous() and not x.is_complex() and x.element_size() == 4
    a, b, c = x.size()
    assert x.reshape(a, b * c).shape == (4, 30)
    with pytest.raises(graphc.ShapeError, match="size\\(3\\) of 3 dimensions"):
        x.size(3)


def test_sizes_that_are_open_can_be_asked_for_in_both_ways() -> None:
    x = graphc.placeholder("x", ("batch", 5))
    assert isinstance(x.size, Dim) and x.size == x.shape[0] * 5 and x.size() == x.shape and x.size(0) == x.shape[0]
    y = x.reshape(x.size).reshape(x.size(0), x.size(1))
    assert y.shape == x.shape
    assert graphc.function([x], y.sum(0))(np.ones((3, 5), np.float32)).tolist() == [3] * 5


def test_a_number_of_elements_is_a_size_like_another() -> None:
    x = graphc.placeholder("x", (4, 6))
    assert x.reshape(x.size) is not None and x.reshape(x.size).node is x.reshape(24).node
    assert graphc.zeros(x.size).node is graphc.zeros(24).node
    assert (x * x.size).node is (x * 24).node and graphc.arange(30)[:x.size].node is graphc.arange(30)[:24].node


@pytest.mark.parametrize(("name", "words"), [
    ("squeeze_", r"keeps its shape: x = x\.squeeze"), ("t_", r"x = x\.t\("), ("item", r"\.eval"), ("numpy", "return it from"),
    ("grad", r"graphc\.grad"), ("cuda", "one device"), ("equal", r"\(x == y\)\.all"), ("half", "matmul_precision"),
    ("nonsense", "a symbol has no 'nonsense'")])
def test_what_a_symbol_has_not_is_said_with_a_remedy(name: str, words: str) -> None:
    x = graphc.placeholder("x", (3,))
    with pytest.raises(AttributeError, match=words) as caught:
        getattr(x, name)
    assert "test_methods.py" in str(caught.value)
    assert not hasattr(x, name)


def test_attention_as_it_is_written_for_pytorch() -> None:
    """Karpathy's way of writing it: sizes, views, a mask in a buffer."""
    def attend(lib: Any, x: Any, mask: Any) -> Any:
        batch, length, width = x.size()
        q, k, v = x.split(width // 3, dim=2)
        heads = [t.view(batch, length, 2, t.size(-1) // 2).transpose(1, 2) for t in (q, k, v)]
        scores = (heads[0] @ heads[1].transpose(-2, -1)) * (1.0 / heads[1].size(-1) ** 0.5)
        scores = scores.masked_fill(mask[:, :, :length, :length] == 0, float("-inf"))
        mixed = lib.nn.functional.softmax(scores, dim=-1) @ heads[2]
        return mixed.transpose(1, 2).contiguous().view(batch, length, width // 3)

    x = graphc.placeholder("x", ("batch", 6, 24))
    mask = np.tril(np.ones((1, 1, 8, 8), np.float32))
    value = G.standard_normal((3, 6, 24)).astype(np.float32)
    found = graphc.function([x], attend(graphc, x, graphc.constant(mask)))(value)
    wanted = attend(torch, torch.from_numpy(value), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_functions_beside_them() -> None:
    x = graphc.placeholder("x", (3, 4))
    assert graphc.t(x).shape == (4, 3) and graphc.ravel(x).shape == (12,) and graphc.numel(x) == 12
    assert graphc.rand_like(x).type == x.type == graphc.randn_like(x).type
    assert graphc.negative(x).node is (-x).node and graphc.absolute(x).node is abs(x).node
    with pytest.raises(graphc.ShapeError, match="mT exchanges"):
        graphc.t(graphc.placeholder("y", (2, 3, 4)))
