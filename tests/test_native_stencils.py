"""Convolutions of single channels and their gradients, as contractions that read images where they are."""

from __future__ import annotations

import random

import numpy as np
import pytest
from graphc.runtime.native import epilogues
from graphc.runtime.native.contract import Contraction, choose_road
from graphc.runtime.native.stencils import MOST_SUMS
from graphc.runtime.native.target import Target, host

import graphc
from graphc import nn
from graphc.records import replace
from tests.test_native_contract import TARGETS, Case, check, targets


def forward(channels: int, rows: int, run: int, taps: tuple[int, int], step: int = 1, apart: int = 1, dtype: str = "float",
            batch: int = 2) -> Contraction:
    """Images [batch, channels, ...] with [channels, taps] weights that are read backwards, as the way back has them."""
    high, wide = (rows - 1) * step + (taps[0] - 1) * apart + 1, (run - 1) * step + (taps[1] - 1) * apart + 1
    return Contraction(dtype, (batch, channels), (), (rows, run), taps, (0, taps[0] * taps[1]), (), (-taps[1], -1),
                       (channels * high * wide, high * wide), (apart * wide, apart), (step * wide, step),
                       (channels * rows * run, rows * run), (), (run, 1))


def by_weights(channels: int, rows: int, run: int, taps: tuple[int, int], step: int = 1, apart: int = 1, dtype: str = "float",
               batch: int = 2) -> Contraction:
    high, wide = (rows - 1) * step + (taps[0] - 1) * apart + 1, (run - 1) * step + (taps[1] - 1) * apart + 1
    return Contraction(dtype, (channels,), (), taps, (batch, rows, run), (rows * run,), (), (channels * rows * run, run, 1),
                       (high * wide,), (channels * high * wide, step * wide, step), (apart * wide, apart),
                       (taps[0] * taps[1],), (), (taps[1], 1))


def various(count: int, seed: int) -> list[Case]:
    pick, found = random.Random(seed), []
    for _ in range(count):
        make = pick.choice((forward, by_weights))
        c = make(pick.randint(1, 4), pick.randint(1, 34), pick.choice((3, 4, 5, 7, 8, 9, 14, 15, 16, 17, 28, 31, 32, 33, 50)),
                 pick.choice(((3, 3), (3, 3), (1, 3), (3, 1), (2, 2), (5, 5), (7, 7), (2, 9))), pick.choice((1, 1, 2)),
                 pick.choice((1, 1, 2, 3)), pick.choice(("float", "double")), pick.randint(1, 3))
        found.append(Case(c, pick.choice(("plain", "finish", "twice")), pick.choice((0, 1, 3))))
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_single_channels(name: str) -> None:
    check(various(60 if name == "host" else 30, 3), TARGETS[name])


def far(target: Target) -> Target:
    """The same machine with caches so small that images are fetched, and results are finished in parts."""
    return replace(target, l1_bytes=8 << 10, l2_bytes=4 << 10)


@pytest.mark.parametrize("name", TARGETS)
def test_large_images(name: str) -> None:
    check(various(20, 4), far(TARGETS[name]))


def test_planes_of_several_axes() -> None:
    """Three-dimensional images, images with one channel for all, signals, and taps of more than one channel."""
    solid = Contraction("float", (2,), (), (4, 5, 9), (2, 3, 3), (0,), (), (9, 3, 1), (600,), (77, 11, 1), (77, 11, 1),
                        (180,), (), (45, 9, 1))
    solid_weights = Contraction("double", (), (), (2, 3, 3), (2, 4, 5, 9), (), (), (180, 45, 9, 1), (), (600, 77, 11, 1),
                                (77, 11, 1), (), (), (9, 3, 1))
    signal = Contraction("float", (3,), (), (100,), (5,), (5,), (), (1,), (104,), (1,), (1,), (100,), (), (1,))
    signal_weights = Contraction("float", (3,), (), (5,), (40, 100), (100,), (), (300, 1), (104,), (312, 1), (1,), (5,), (),
                              (1,))
    one_feature = Contraction("float", (2,), (), (6, 20), (3, 3, 3), (0,), (), (9, 3, 1), (528,), (176, 22, 1), (22, 1),
                              (120,), (), (20, 1))
    one_feature_weights = Contraction("float", (), (), (3, 3, 3), (2, 6, 20), (), (), (120, 20, 1), (), (528, 22, 1),
                                      (176, 22, 1), (), (), (9, 3, 1))
    apart = replace(forward(2, 6, 20, (3, 3)), c_batch=(720, 360), c_n=(60, 2))
    all_ = (solid, solid_weights, signal, signal_weights, one_feature, one_feature_weights, apart)
    target = host()
    if target.has_masks:
        for c in all_:
            assert choose_road(c, target, True, (False, False)).stencil is not None, c
        found = choose_road(one_feature_weights, target, True, (False, False)).stencil
        assert found is not None and (found.groups, len(found.taps)) == (3, 9)
    for name, machine in targets().items():
        check([Case(c, way) for c in all_ for way in ("plain", "twice")], machine)
        assert name in TARGETS


def test_what_is_no_stencil() -> None:
    """Products without windows, and taps whose sums are too many for registers."""
    target, loads = host(), (False, False)
    product = Contraction("float", (4,), (), (64,), (9,), (9,), (), (1,), (576,), (64,), (1,), (64,), (), (1,))
    assert choose_road(product, target, True, loads).stencil is None
    prime = by_weights(2, 9, 40, (1, MOST_SUMS + 4))
    assert choose_road(prime, target, True, loads).stencil is None
    check([Case(product), Case(prime)], target)


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("size", [(17, 33), (7, 7), (4, 64)])
def test_a_step_of_single_channels(stride: int, dilation: int, size: tuple[int, int]) -> None:
    """Bias and activation behind the convolution, an update behind the gradient; the same bits on any number of threads."""
    rng = np.random.default_rng(2)
    x0 = rng.standard_normal((5, 6, *size)).astype("float32")
    x = graphc.placeholder("x", x0.shape)
    found = []
    for options in ({"backend": "numpy"}, {"threads": 1}, {"threads": 2}, {"threads": 3}):
        first = nn.Conv2d(6, 6, 3, padding=dilation, groups=6)
        second = nn.Conv2d(6, 6, 3, stride=stride, dilation=dilation, padding=dilation, groups=6)
        model = nn.Sequential(first, nn.ReLU(), second, nn.Tanh())
        values = np.random.default_rng(1)
        model.load_state_dict({k: values.standard_normal(v.shape).astype("float32") for k, v in model.state_dict().items()})
        step = graphc.train_step(model(x).square().sum(), graphc.optim.SGD(model.parameters(), lr=1e-4), **options)
        losses = [float(step(x0)) for _ in range(2)]
        found.append((losses, {k: np.array(v) for k, v in model.state_dict().items()}))
    for losses, values in found[1:]:
        assert losses == found[1][0]
        assert np.allclose(losses, found[0][0], rtol=1e-5)
        for k, v in values.items():
            assert v.tobytes() == found[1][1][k].tobytes()
            assert np.allclose(v, found[0][1][k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_images_just_longer_than_lines(dtype: str) -> None:
    """Images of 7 x 7 are columns of one contraction where sums are long; what follows finds its image and pixel."""
    apart = epilogues.apart_in_result("ncd", {"n": 5, "c": 7, "d": 7}, {"n": 588, "c": 7, "d": 1}, 12, 288, 4)
    assert apart == 0
    assert epilogues.apart_in_result("ncd", {"n": 5, "c": 7, "d": 7}, {"n": 588, "c": 7, "d": 1}, 12, 27, 4) == 1  # short
    assert epilogues.apart_in_result("ncd", {"n": 5, "c": 8, "d": 8}, {"n": 768, "c": 8, "d": 1}, 12, 288, 4) == 1  # whole
    rng = np.random.default_rng(3)
    x0 = rng.standard_normal((5, 32, 7, 7)).astype(dtype)
    x = graphc.placeholder("x", x0.shape, dtype)
    found = []
    for options in ({"backend": "numpy"}, {"threads": 1}, {"threads": 2}, {"threads": 3}):
        model = nn.Sequential(nn.Conv2d(32, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 32, 1), nn.BatchNorm2d(32), nn.Tanh(),
                              nn.Conv2d(32, 5, 3, padding=1))
        values = np.random.default_rng(1)
        model.load_state_dict({k: (0.2 * values.standard_normal(v.shape)).astype(v.dtype) + (k.endswith("var"))
                               for k, v in model.state_dict().items()})
        model = model.to(dtype) if dtype == "float64" else model
        step = graphc.train_step((model(x) + x[:, :5]).square().mean(), graphc.optim.SGD(model.parameters(), lr=0.1), **options)
        losses = [float(step(x0)) for _ in range(2)]
        found.append((losses, {k: np.array(v) for k, v in model.state_dict().items()}))
    for losses, values in found[1:]:
        assert losses == found[1][0] and np.allclose(losses, found[0][0], rtol=1e-5)
        for k, v in values.items():
            assert v.tobytes() == found[1][1][k].tobytes() and np.allclose(v, found[0][1][k], rtol=1e-3, atol=1e-5)
