"""Symbols that are overwritten, item by item, by methods and by `inplace=True`: afterwards one reads what PyTorch reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import nn

from .torch_oracle import assert_agrees

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((4, 5)), rng.standard_normal((4, 5))


def library(x: Any) -> Any:
    return graphc if isinstance(x, graphc.Tensor) else torch


def layers(x: Any) -> Any:
    return library(x).nn


def array(x: Any, values: Any) -> Any:
    return library(x).tensor(values)


def with_items(*writes: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Each written into a value that was computed; what it is afterwards, and what is computed from it."""
    def run(x: Any, y: Any) -> Any:
        h = x * 2
        for write in writes:
            write(h, y)
        return h, (h * y).sum(0)

    return run


def put(index: Any, value: Callable[[Any], Any] | float) -> Callable[[Any, Any], None]:
    def write(h: Any, y: Any) -> None:
        place = index(h) if callable(index) else index
        h[place] = value(y) if callable(value) else value

    return write


def add(index: Any) -> Callable[[Any, Any], None]:
    def write(h: Any, y: Any) -> None:
        h[index] += y[0, 0]

    return write


ITEMS: dict[str, Callable[[Any, Any], Any]] = {
    "a row": with_items(put(1, lambda y: y[0])), "from the end": with_items(put(-1, 3.5)),
    "a column": with_items(put((slice(None), 2), lambda y: y[:, 0])), "an element": with_items(put((1, 2), lambda y: y[0, 0])),
    "a part": with_items(put((slice(1, 3), slice(2, None)), lambda y: y[:2, :3])),
    "a part that broadcasts": with_items(put((slice(1, 3), slice(1, 4)), lambda y: y[0, :3])),
    "every second": with_items(put((slice(None), slice(None, None, 2)), lambda y: y[:, :3])),
    "steps with a rest": with_items(put((slice(0, 4, 3), slice(1, 5, 2)), lambda y: y[:2, :2])),
    "all": with_items(put(slice(None), lambda y: y * 3)), "all, a number": with_items(put(Ellipsis, 2)),
    "dots": with_items(put((Ellipsis, 0), 1.0)), "a new axis": with_items(put((None, 0), lambda y: y[:1])),
    "none": with_items(put(slice(3, 3), 1.0)), "axes of one in front": with_items(put(0, lambda y: y[:1])),
    "added to": with_items(add(1)), "added to a column": with_items(add((slice(None), 1))),
    "several": with_items(put(0, 1.0), put((slice(None), 0), lambda y: y[:, 1]), put((0, 0), 7.0), add(0)),
    "a mask": with_items(put(lambda h: h > 0.3, 0.0)), "a mask of rows": with_items(put(lambda h: h[:, 0] > 0, lambda y: y[0])),
    "a mask, one element": with_items(put(lambda h: h < 0, lambda y: y[0, :1])),
    "a mask of numbers": with_items(put(lambda h: array(h, [True, False, True, False]), -1.0)),
    "indices": with_items(put(lambda h: array(h, [2, 0]), lambda y: y[:2])), "a list": with_items(put([3, 1], lambda y: y[1])),
    "one index": with_items(put(lambda h: array(h, 2), lambda y: y[0])),
    "indices of columns": with_items(put(lambda h: (slice(None), array(h, [4, 1])), lambda y: y[:, :2])),
    "pairs": with_items(put(lambda h: (array(h, [0, 1, 3]), array(h, [4, 1, 2])), lambda y: y[0, :3])),
    "a number beside indices": with_items(put(lambda h: (1, array(h, [4, 0])), lambda y: y[0, :2])),
    "a table of indices": with_items(put(lambda h: array(h, [[0, 1], [3, 2]]), lambda y: y[0])),
    "negative indices": with_items(put(lambda h: array(h, [-1, -3]), lambda y: y[2:])),
    "computed indices": with_items(put(lambda h: h.argmax(0)[:1], lambda y: y[0])),
    "labels": with_items(put(lambda h: (library(h).arange(4), array(h, [1, 0, 4, 2])), 0.0)),
}


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("name", ITEMS)
def test_items(name: str, backend: str) -> None:
    assert_agrees(ITEMS[name], ITEMS[name], [X, Y], "float64", backend=backend)


REPLACED: dict[str, Callable[[Any, Any], Any]] = {
    "select": lambda x, y: (x.select(1, -2), library(x).select(x, dim=0, index=1)),
    "select_scatter": lambda x, y: (x.select_scatter(y[0], 0, 2), library(x).select_scatter(x, y[:, 1], dim=-1, index=0)),
    "slice_scatter": lambda x, y: (x.slice_scatter(y[:2], 0, 1, 3), library(x).slice_scatter(x, y[:, :3], dim=1, step=2)),
    "index_put": lambda x, y: (x.index_put((array(x, [0, 2]), array(x, [1, 4])), y[0, :2]),
                               library(x).index_put(x, [array(x, [3])], y[0])),
    "index_put_": lambda x, y: (h := x * 2, h.index_put_((array(x, [1]),), y[2]))[0] * h,
    "a view by select": lambda x, y: (x * 2).select(0, 1).relu_() + y[0],
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced(name: str) -> None:
    assert_agrees(REPLACED[name], REPLACED[name], [X, Y], "float64")


def test_values_take_the_type_and_zeros_are_filled() -> None:
    def each(x: Any, y: Any) -> Any:
        lib = library(x)
        out, count, flags = lib.zeros(3, 4), lib.zeros(3, dtype=lib.int64), lib.zeros(4, dtype=lib.bool)
        for k in range(3):
            out[k, k] = x[k, k]
            out[:, 3] = x[0, :3] * k
            count[k] = 2.7 * k
        flags[1:3] = True
        flags[lib.tensor([0])] = lib.tensor([True])
        return out, count, flags

    assert_agrees(each, each, [X, Y], "float64")


def test_the_last_of_equal_indices_stays_and_what_is_outside_is_dropped() -> None:
    x, i = graphc.placeholder("x", (4, 5), "float64"), graphc.placeholder("i", (3,), "int64")
    h = x + 0
    h[i] = graphc.tensor([[1.0], [2.0], [3.0]])
    got = graphc.function([x, i], h)(X, np.array([2, 2, 9]))
    np.testing.assert_array_equal(got, np.concatenate([X[:2], np.full((1, 5), 2.0), X[3:]]))


def test_backwards_as_in_numpy() -> None:
    x = graphc.placeholder("x", (4, 5), "float64")
    h, wanted = x * 1, X.copy()
    h[::-1, 4:0:-2] = x[:, :2] * 3
    wanted[::-1, 4:0:-2] = X[:, :2] * 3
    np.testing.assert_array_equal(graphc.function([x], h)(X), wanted)


def test_open_sizes() -> None:
    x = graphc.placeholder("x", ("B", 5), "float64")
    h = x * 1
    h[:, 1:3] = 0
    h[1:] += 1
    wanted = X * 1
    wanted[:, 1:3] = 0
    wanted[1:] += 1
    np.testing.assert_array_equal(graphc.function([x], h)(X), wanted)


# -- methods and inplace=True --------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda x, y: ((h := x * 2).add_(y).mul_(3).sub_(1, alpha=2).div_(y.exp()), h + h),
    "limits": lambda x, y: ((h := x * 2).clamp_(-0.5, 0.5), h * y), "abs": lambda x, y: [(h := x + y).abs_() * h],
    "masked": lambda x, y: [(h := x + y).masked_fill_(y > 0, 2.0) + h], "zeros": lambda x, y: [(h := x * 1).zero_() + h + y],
    "filled": lambda x, y: [(h := x * 1).fill_(2.0) * h * y], "copied": lambda x, y: ((h := x * 1).copy_(y[0]), h * x),
    "under another name": lambda x, y: under_another_name(x, y),
    "a copy stays": lambda x, y: (lambda h, g: (h.relu_(), g))(*(lambda h: (h, h.clone()))(x * y)),
}


def under_another_name(x: Any, y: Any) -> Any:
    h = x * y
    identity = h
    out = layers(x).ReLU(inplace=True)(h)
    return out * 2 + identity


MAKERS: dict[str, Callable[[Any], Any]] = {
    "ReLU": lambda m: m.ReLU(inplace=True), "ReLU6": lambda m: m.ReLU6(inplace=True), "ELU": lambda m: m.ELU(0.5, True),
    "LeakyReLU": lambda m: m.LeakyReLU(0.2, inplace=True), "SELU": lambda m: m.SELU(True), "CELU": lambda m: m.CELU(0.5, True),
    "SiLU": lambda m: m.SiLU(inplace=True), "Mish": lambda m: m.Mish(inplace=True),
    "RReLU": lambda m: m.RReLU(inplace=True).eval(), "Hardtanh": lambda m: m.Hardtanh(-0.5, 0.5, inplace=True),
    "Hardswish": lambda m: m.Hardswish(inplace=True), "Threshold": lambda m: m.Threshold(0.1, 2.0, True),
    "Dropout": lambda m: m.Dropout(0.5, inplace=True).eval(), "relu": lambda m: lambda h: m.functional.relu(h, inplace=True),
    "relu_": lambda m: m.functional.relu_, "leaky_relu_": lambda m: lambda h: m.functional.leaky_relu_(h, 0.3),
    "elu": lambda m: lambda h: m.functional.elu(h, 1.0, True),
    "threshold_": lambda m: lambda h: m.functional.threshold_(h, 0.1, 3.0), "hardtanh_": lambda m: m.functional.hardtanh_,
    "not in place": lambda m: m.ReLU(inplace=False),
    "a sequence": lambda m: m.Sequential(m.Dropout(0.5, True).eval(), m.ReLU(inplace=True)),
}


def placed(name: str) -> Callable[[Any, Any], Any]:
    def run(x: Any, y: Any) -> Any:
        h = x * 2
        return MAKERS[name](layers(x))(h) * y, h

    return run


PLACES = {name: placed(name) for name in MAKERS}


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("name", [*METHODS, *PLACES])
def test_what_is_read_afterwards(name: str, backend: str) -> None:
    of = (METHODS | PLACES)[name]
    assert_agrees(of, of, [X, Y], "float64", backend=backend)


def test_dropout_in_place_is_read_as_dropped() -> None:
    x = graphc.placeholder("x", (40, 5))
    h = x * 1
    out = nn.Dropout(0.5, inplace=True)(h)
    a, b = graphc.function([x], [out, h])(np.ones((40, 5), np.float32))
    np.testing.assert_array_equal(a, b)
    assert 0.0 in a and 2.0 in a


def test_a_residual_block_that_reads_what_it_overwrote() -> None:
    def block(m: Any) -> Any:
        class Block(m.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.norm, self.last = m.Linear(5, 5), m.BatchNorm1d(5), m.Linear(5, 5)
                self.act = m.ReLU(inplace=True)

            def forward(self, x: Any) -> Any:
                h = self.norm(self.first(x))
                shortcut = h
                out = self.last(self.act(h))
                out += shortcut
                return self.act(out)

        return Block()

    mine, other = block(nn).double(), block(torch.nn).double()
    mine.load_state_dict(other.state_dict())
    assert_agrees(mine, other, [X], "float64", loose=10)


def test_a_model_that_overwrites_its_input_reads_it_overwritten() -> None:
    def model(m: Any) -> Any:
        class Model(m.Module):
            def forward(self, x: Any, *, y: Any) -> Any:
                out = m.functional.relu(x, inplace=True) * 3 + x
                flat = y.view(-1)
                m.functional.leaky_relu_(flat, 0.1)
                return out.sum() * flat, x

        return Model()

    x, y = graphc.placeholder("x", X.shape, "float64"), graphc.placeholder("y", Y.shape, "float64")
    got = graphc.function([x, y], model(nn)(x, y=y))(X, Y)
    wanted = model(torch.nn)(torch.tensor(X), y=torch.tensor(Y))
    for mine, reference in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, reference.numpy(), rtol=1e-12)

    class Writes(nn.Module):
        def forward(self, x: Any) -> Any:
            x[0] = 1.0
            return x

    with pytest.raises(graphc.GraphError, match="an input or a parameter"):
        Writes()(x)


# -- memory that is shared -----------------------------------------------------------------------------------------------

APART: dict[str, Callable[[Any, Any], Any]] = {  # where PyTorch's numbers do not depend on who shares memory
    "halves": lambda x, y: (lambda h: (lambda a, b: (a.relu_() * b + b, b))(h[:, :2], h[:, 2:4]))(x * 2),
    "rows": lambda x, y: (lambda h: (lambda a, b: (a.add_(1) * b, b))(h[0], h[3]))(x * 2),
    "columns in turn": lambda x, y: (lambda h: (lambda a, b: (a.mul_(y[:, :3]), b * 2))(h[:, ::2], h[:, 1::2]))(x * 2),
    "a view of its own": lambda x, y: (x * 2).reshape(5, 4).relu_() * 2,
    "a view, and a view of it afterwards": lambda x, y: (lambda h: (h.relu_(), h.t() * 2, h[0]))(x * 2),
    "not a view": lambda x, y: (lambda h: (lambda g: (h.relu_(), g))(h.flip(0)))(x * 2),
    "picked": lambda x, y: (lambda h: (lambda g: (h.relu_(), g))(h[array(x, [0, 1])]))(x * 2),
    "padded by nothing": lambda x, y: copied(x, lambda h: layers(x).functional.pad(h, (0, 0))),
    "of one part": lambda x, y: copied(x, lambda h: library(x).cat([h])),
    "repeated once": lambda x, y: copied(x, lambda h: h.repeat(1, 1)),
    "rolled by nothing": lambda x, y: copied(x, lambda h: h.roll(0, 0)),
    "flipped along nothing": lambda x, y: copied(x, lambda h: h.flip(())),
    "resized to its size": lambda x, y: copied(x, lambda h: layers(x).functional.interpolate(h[None], size=5)),
    "a view of a copy": lambda x, y: (lambda h: (lambda g: (h.relu_(), g))(h.clone()[1]))(x * 2),
}


@pytest.mark.parametrize("parts", [
    lambda h: h.chunk(2, 1), lambda h: (h[:, :2000], h[:, 2000:]), lambda h: h.reshape(-1, 2, 2000).permute(1, 0, 2).unbind(0),
    lambda h: (h[:, ::2], h[:, 1::2]), lambda h: (h[:, 1000:][:, :1000], h[:, 1000:][:, 1000:2000]),
    lambda h: (h[:, 0::4].detach(), h[:, 2::4])])
def test_parts_of_large_or_open_symbols_are_side_by_side(parts: Callable[[Any], Any]) -> None:
    for batch in ("B", 1000):
        h = graphc.placeholder("x", (batch, 4000)) * 2
        a, b = parts(h)
        assert (a.relu_() * b).ndim == 2
        a, b = parts(graphc.placeholder("x", (batch, 4000)) * 2)
        assert (b.relu_() * a).ndim == 2 and "a symbol that shares memory" in repr(h)


@pytest.mark.parametrize("parts", [
    lambda h: (h[:, :2001], h[:, 2000:]), lambda h: (h[:, ::2], h[:, 2::4]), lambda h: (h[:, 1:][:, :5], h[:, 5:]),
    lambda h: (h.t()[:2], h[:-1]), lambda h: (h[1:], h[-1:])])
def test_parts_that_overlap_or_may_are_not(parts: Callable[[Any], Any]) -> None:
    for batch in ("B", 1000):
        a, b = parts(graphc.placeholder("x", (batch, 4000)) * 2)
        a.relu_()
        with pytest.raises(graphc.GraphError, match="shares memory"):
            b + 1


def copied(x: Any, made: Callable[[Any], Any]) -> Any:
    h = x * 2
    g = made(h)
    return h.relu_(), g


SAME: dict[str, Callable[[Any, Any], Any]] = {  # other names of one symbol, in PyTorch as well
    "of its type": lambda x, y: copied(x, lambda h: h.to(h.dtype)),
    "of its shape": lambda x, y: copied(x, lambda h: h.view(4, 5)),
    "in evaluation": lambda x, y: copied(x, lambda h: layers(x).functional.dropout(h, 0.5, False)),
    "unchanged": lambda x, y: copied(x, lambda h: layers(x).Identity()(h)),
}


@pytest.mark.parametrize("name", SAME)
def test_another_name_reads_what_was_written(name: str) -> None:
    assert_agrees(SAME[name], SAME[name], [X, Y], "float64")


@pytest.mark.parametrize("name", APART)
def test_what_shares_nothing_stays_as_it_is(name: str) -> None:
    assert_agrees(APART[name], APART[name], [X, Y], "float64")


SHARED: dict[str, Callable[[Any], Any]] = {  # PyTorch would read what was written
    "a view": lambda h: (h[0], h.relu_())[0], "the whole of a view": lambda h: (h[0].add_(1), h)[1],
    "chained brackets": lambda h: (h[0].__setitem__(1, 2.0), h)[1], "reshaped": lambda h: (h.view(-1), h.zero_())[0],
    "detached": lambda h: (h.detach(), h.abs_())[0], "transposed": lambda h: (h.T, h.__setitem__(0, 1.0))[0],
    "views that overlap": lambda h: (h[:2], h[1:].relu_())[0], "a view of a view": lambda h: (h.t()[0], h.relu_())[0],
    "a layer's view": lambda h: (nn.Flatten(0)(h), h.relu_())[0], "contiguous": lambda h: (h.contiguous(), h.relu_())[0],
    "contiguous, transposed": lambda h: (h.t().contiguous().relu_(), h)[1],
    "parts": lambda h: (h.split(2), h.relu_())[0][1], "by a layer": lambda h: (h[1:], nn.ReLU(inplace=True)(h))[0],
}


@pytest.mark.parametrize("name", SHARED)
def test_what_pytorch_would_have_changed_cannot_be_read(name: str) -> None:
    stale = SHARED[name](graphc.placeholder("x", (4, 5)) * 2)
    with pytest.raises(graphc.GraphError, match=r"shares memory with one that was overwritten by (.|\n)* is read here"):
        stale + 1


@pytest.mark.parametrize(("wrong", "error", "words"), [
    (lambda x: x.__setitem__(0, 1.0), graphc.GraphError, r"an input or a parameter.*: x = x\.clone\(\)"),
    (lambda x: x[0].__setitem__(0, 1.0), graphc.GraphError, "or a view of one"),
    (lambda x: x.add_(1), graphc.GraphError, "input"),
    (lambda x: nn.Parameter(np.ones(3)).exp_(), graphc.GraphError, "a parameter"),
    (lambda x: nn.Parameter(np.ones(3))[0].zero_(), graphc.GraphError, r"write to the parameter itself: w\[0\] = value"),
    (lambda x: x.index_put((graphc.tensor([0]),), 1.0, accumulate=True), graphc.GraphError, "index_add or graphc.scatter_add"),
    (lambda x: (x * 2).__setitem__((slice(None), 0), x[0]), graphc.ShapeError, r"is \[4\], to which f32\[5\] does not"),
    (lambda x: (x * 2).__setitem__(x > 0, x[0, :3]), graphc.ShapeError, r"how many elements a mask has is not known.*where"),
    (lambda x: (x * 2).__setitem__(x[:2] > 0, 1.0), graphc.ShapeError, "the sizes of x's first axes"),
    (lambda x: (x * 2).__setitem__((graphc.tensor([0]), slice(1, 3)), 1.0), graphc.GraphError, "only whole axes"),
    (lambda x: (x * 2).__setitem__(9, 1.0), graphc.ShapeError, "index 9 is outside"),
    (lambda x: x.argmax(1).add_(0.5), graphc.DTypeError, r"cannot hold f32\[4\]: x = x\.add"),
    (lambda x: (x * 2).add_(graphc.ones(3, 4, 5)), graphc.ShapeError, r"x\.add_\(\): f32\[4,5\] cannot become"),
    (lambda x: (x * 2).transpose_(0, 1), AttributeError, r"a symbol keeps its shape: x = x\.transpose")])
def test_what_is_not_overwritten(wrong: Callable[[Any], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        wrong(graphc.placeholder("x", (4, 5)))


def test_a_copy_of_an_input_is_overwritten_and_the_input_stays() -> None:
    x = graphc.placeholder("x", (4, 5), "float64")
    h = x.clone()
    h[0] = 0
    a, b = graphc.function([x], [x * 1, h])(X)
    np.testing.assert_array_equal(a, X)
    assert not b[0].any() and np.array_equal(b[1:], X[1:])
    out = nn.ReLU(inplace=True)(x)  # of an input inplace has no effect: it is fed
    np.testing.assert_array_equal(graphc.function([x], out)(X), np.maximum(X, 0))


# -- loops, branches, gradients that are off -----------------------------------------------------------------------------


def test_a_body_overwrites_what_is_its_own() -> None:
    x = graphc.placeholder("x", (4, 5), "float64")

    def step(carry: Any, row: Any) -> Any:
        h = carry + row
        h[0] = 0.0
        return h.relu_(), h * 2

    last, rows = graphc.scan(step, graphc.zeros(5, dtype="float64"), x)
    got = graphc.function([x], [last, rows, graphc.grad(rows.sum(), x)])(X)
    given = torch.tensor(X, requires_grad=True)
    carry, wanted = torch.zeros(5, dtype=torch.float64), []
    for row in given:
        carry = carry + row
        carry[0] = 0.0
        carry = carry.relu()
        wanted.append(carry * 2)
    (slope,) = torch.autograd.grad(torch.stack(wanted).sum(), given)
    for mine, reference in zip(got, [carry, torch.stack(wanted), slope], strict=True):
        np.testing.assert_allclose(mine, reference.detach().numpy(), rtol=1e-12, atol=1e-12)


def with_rule(f: Callable[[], Any]) -> Any:
    made = graphc.custom_vjp(lambda a: f() + a)
    made.defvjp(lambda a: (f() + a, None), lambda kept, g: (g,))
    return made


@pytest.mark.parametrize("inside", [
    lambda f, x: graphc.scan(lambda c, r: (c + f(), r), graphc.zeros(4, 5), x), lambda f, x: graphc.cond(x.sum() > 0, f, f),
    lambda f, x: graphc.checkpoint(lambda a: f() + a, x), lambda f, x: with_rule(f)(x)])
def test_a_body_does_not_overwrite_what_is_from_outside(inside: Callable[[Any, Any], Any]) -> None:
    x = graphc.placeholder("x", (4, 5))
    h = x * 3
    with pytest.raises(graphc.GraphError, match="from outside of the body"):
        inside(lambda: h.add_(1), x)
    before = h.node
    inside(lambda: nn.functional.relu(h, inplace=True), x)
    assert h.node is before


def test_without_gradients() -> None:
    x = graphc.placeholder("x", (4, 5))
    h = x * 2
    with graphc.no_grad():
        g = x * 3
        g[0] = 1.0
        g.relu_()
        with pytest.raises(graphc.GraphError, match="which no_grad would stop"):
            h[0] = 1.0
    assert graphc.autograd.grad((g * h).sum(), x)[0].shape == (4, 5)


def test_a_step_is_of_what_its_symbols_were() -> None:
    from graphc import optim

    w, x = graphc.parameter("w", np.ones(3)), graphc.placeholder("x", (3,))
    loss, h = (x * w).sum(), x * w * 2
    step = graphc.train_step(loss, optim.SGD([w], lr=0.5), outputs=h)
    h.zero_()
    loss.fill_(7.0)
    value, out = step(np.ones(3, np.float32))
    assert value == 3 and out.tolist() == [2, 2, 2] and w.numpy().tolist() == [0.5] * 3


def test_values_of_parameters_are_written_at_once() -> None:
    w = nn.Parameter(np.zeros((3, 4)))
    with graphc.no_grad():
        w[0] = 1.0
        w[:, 1] = np.arange(3)
        w[graphc.tensor([2]), 3] = graphc.tensor(5.0)
    w.data[1, 2] = 7.0
    np.testing.assert_array_equal(w.numpy(), [[1, 0, 1, 1], [0, 1, 7, 0], [0, 2, 0, 5]])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(np.zeros(3))

        def forward(self, x: Any) -> Any:
            self.w[0] = 1.0
            return x * self.w

    with pytest.raises(graphc.GraphError, match="once, while forward is written down, not in each step"):
        Net()(np.ones(3, np.float32))
