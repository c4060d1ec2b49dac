"""nn.Module: registration, names, state_dict, modes, copies, calls on symbols and arrays; initial values; containers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import graphc
from graphc import draws, nn


class Net(nn.Module):
    """Two linear layers that share a third, a bare parameter and a state."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.again = self.first
        self.scale = nn.Parameter([1.0, 2.0])
        self.register_buffer("count", np.array(0))
        self.register_buffer("scratch", np.zeros(2), persistent=False)

    def forward(self, x: graphc.Tensor) -> graphc.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return (x * self.scale.sum()).tanh()


def test_parameters_are_found_by_attribute_under_dotted_names_once_each() -> None:
    net = Net()
    names = ["scale", "first.weight", "first.bias", "layers.0.weight", "layers.0.bias", "layers.1.weight",
             "layers.1.bias"]
    assert [n for n, _ in net.named_parameters()] == names
    assert [p.name for p in net.parameters()] == names
    assert [n for n, _ in net.named_buffers()] == ["count", "scratch"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "layers", "layers.0", "layers.1"]
    assert [n for n, _ in net.named_children()] == ["first", "layers"]
    assert len(list(net.modules())) == 5 and next(net.children()) is net.first
    assert net.get_submodule("layers.1") is net.layers[1]
    assert net.get_parameter("layers.1.bias") is net.layers[1].bias
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())


def test_a_parameter_holds_float32_unless_told_otherwise() -> None:
    assert nn.Parameter(np.ones(2)).dtype == graphc.float32
    assert nn.Parameter([1, 2], dtype="float64").dtype == graphc.float64
    frozen = nn.Parameter(3.0, requires_grad=False)
    assert not frozen.requires_grad and frozen.shape == () and isinstance(frozen, graphc.Parameter)
    with pytest.raises(graphc.DTypeError):
        nn.Parameter([1], dtype="int64")


def test_state_dict_has_pytorchs_names_and_copies_of_values() -> None:
    net = Net()
    state = net.state_dict()
    assert list(state) == ["scale", "count", "first.weight", "first.bias", "layers.0.weight", "layers.0.bias",
                           "layers.1.weight", "layers.1.bias", "again.weight", "again.bias"]
    state["scale"][:] = 9
    np.testing.assert_array_equal(net.scale.numpy(), [1, 2])
    state["count"] = np.array(5)
    other = Net()
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.scale.numpy(), [9, 9])
    assert other.count.item() == 5
    np.testing.assert_array_equal(other.layers[1].weight.numpy(), net.layers[1].weight.numpy())


def test_pytorchs_state_dict_loads_as_it_is_and_ours_into_pytorch() -> None:
    def build(lib: Any) -> Any:
        return lib.Sequential(lib.Conv2d(2, 3, 3), lib.BatchNorm2d(3), lib.ReLU(), lib.Dropout(0.5), lib.Flatten(),
                              lib.Linear(12, 4))

    mine, other = build(nn), build(torch.nn)
    mine.load_state_dict(other.state_dict())
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)
    mine.eval()
    other.eval()
    np.testing.assert_allclose(mine(x), other(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    fresh = build(nn)
    other.load_state_dict({k: torch.tensor(v) for k, v in fresh.state_dict().items()})
    np.testing.assert_array_equal(other[5].weight.detach().numpy(), fresh[5].weight.numpy())


def test_a_state_dict_that_does_not_fit_is_refused_whole() -> None:
    net = Net()
    state = net.state_dict()
    before = net.scale.numpy()
    with pytest.raises(graphc.CheckpointError, match=r"missing 'first\.bias'; unexpected 'extra'"):
        net.load_state_dict({**{k: v for k, v in state.items() if k != "first.bias"}, "extra": np.ones(1)})
    with pytest.raises(graphc.ShapeError, match=r"'first\.bias': expected \[4\], got \[5\]"):
        net.load_state_dict({**state, "scale": np.array([7.0, 7.0]), "first.bias": np.ones(5)})
    np.testing.assert_array_equal(net.scale.numpy(), before)
    met = net.load_state_dict({"scale": [4.0, 5.0], "extra": 1}, strict=False)
    assert met.unexpected_keys == ["extra"] and "first.weight" in met.missing_keys
    np.testing.assert_array_equal(net.scale.numpy(), [4, 5])
    with pytest.raises(graphc.CheckpointError):
        net.load_state_dict([1, 2])


def test_modes_apply_and_freezing() -> None:
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train().layers[0].training
    seen: list[nn.Module] = []
    net.apply(seen.append)
    assert seen[-1] is net and len(seen) == 5
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.zero_grad()


def test_conversion_makes_a_float64_model_and_keeps_sharing() -> None:
    net = Net().double()
    assert {p.dtype for p in net.parameters()} == {graphc.float64}
    assert net.again.weight is net.first.weight
    assert net.count.dtype == graphc.int64 and net.scratch.dtype == graphc.float64
    assert net.to("float32").scale.dtype == graphc.float32
    with pytest.raises(graphc.DTypeError):
        net.to("int64")


def test_deep_copies_have_cells_of_their_own() -> None:
    net = Net()
    twin = copy.deepcopy(net)
    assert type(twin) is Net and twin.again is twin.first and twin.first is not net.first
    twin.first.weight.assign(np.zeros((4, 3)))
    assert net.first.weight.numpy().any()
    assert not {p.cell for p in net.parameters()} & {p.cell for p in twin.parameters()}
    x = np.ones((2, 3), np.float32)
    assert not np.array_equal(net(x), twin(x))


def test_assignment_replaces_deletes_and_refuses() -> None:
    net = Net()
    net.first = nn.Linear(3, 4, bias=False)
    assert net.first.bias is None and "first.bias" not in net.state_dict()
    net.scale = None
    assert net.scale is None and "scale" not in dict(net.named_parameters())
    del net.layers
    with pytest.raises(AttributeError, match="layers"):
        _ = net.layers
    with pytest.raises(graphc.GraphError, match=r"\.assign"):
        net.first.weight = np.zeros((4, 3))
    with pytest.raises(graphc.GraphError, match=r"without '\.'"):
        net.register_parameter("a.b", nn.Parameter(1.0))
    with pytest.raises(graphc.GraphError, match="already has"):
        net.add_module("forward", nn.Identity())
    with pytest.raises(graphc.DTypeError):
        net.register_parameter("state", graphc.state("s", 1.0))

    class Careless(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(2, 2)

    with pytest.raises(graphc.GraphError, match=r"super\(\).__init__\(\)"):
        Careless()
    with pytest.raises(graphc.GraphError, match="forward"):
        nn.Module()(graphc.placeholder("x", (1,)))


def test_a_parameter_takes_the_value_of_a_symbol_that_needs_no_input() -> None:
    graphc.manual_seed(3)
    first, second = (nn.Parameter(graphc.randn(200, 3) * 0.1) for _ in range(2))
    assert first.shape == (200, 3) and 0.09 < first.numpy().std() < 0.11
    assert not np.array_equal(first.numpy(), second.numpy()), "every draw is one of its own"
    np.testing.assert_array_equal(nn.Parameter(first * 2).numpy(), first.numpy() * 2)
    np.testing.assert_array_equal(nn.Parameter(graphc.zeros(1, 1, 4)).numpy(), np.zeros((1, 1, 4)))
    with pytest.raises(graphc.DTypeError, match=r"has no value to copy: missing input: x: f32\[3\]"):
        nn.Parameter(graphc.placeholder("x", (3,)) * 2)


@pytest.mark.parametrize("make", (graphc.zeros, graphc.ones, graphc.rand, graphc.randn))
def test_sizes_are_a_shape_or_said_one_by_one(make: Callable[..., graphc.Tensor]) -> None:
    assert make(2, 3).shape == make((2, 3)).shape == (2, 3) and make(4).shape == (4,) and make(()).shape == ()
    assert make((2, 3), "float64").dtype == make(2, 3, dtype="float64").dtype == graphc.float64


def test_parameters_made_by_graphc_register_too() -> None:
    net = nn.Module()
    net.w = graphc.parameter("w", [1.0])
    net.s = graphc.state("s", [2.0])
    assert list(dict(net.named_parameters())) == ["w"] and list(dict(net.named_buffers())) == ["s"]
    twin = copy.deepcopy(net)
    assert twin.w.cell is not net.w.cell and twin.s.item() == 2.0


def test_repr_is_pytorchs() -> None:
    mine = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Flatten()))
    other = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten()))
    assert repr(mine) == repr(other)


# -- calls -----------------------------------------------------------------------------------------------------------


def test_nodes_carry_the_path_of_the_module_that_made_them() -> None:
    net = Net()
    out = net(graphc.placeholder("x", (2, 3)))
    from graphc.ir import topological

    scopes = {n.scope for n in topological([out.node])}
    assert {"first", "layers.0", "layers.1", ""} <= scopes
    assert net.layers[1].weight.name == "layers.1.weight"
    net.layers[1](graphc.placeholder("y", (2, 4)))
    assert net.layers[1].weight.name == "layers.1.weight"  # the outermost module's path stays


def test_two_layers_may_both_own_a_weight() -> None:
    first, second, x = nn.Linear(3, 3), nn.Linear(3, 3), graphc.placeholder("x", (2, 3))
    program = graphc.function([x], second(first(x)), backend="numpy")
    assert len(program.parameters) == 4


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_call_on_an_array_computes_with_the_current_weights(kind: type) -> None:
    net = Net()
    x: np.ndarray = np.random.default_rng(0).normal(size=(5, 3)).astype(kind)

    def expected() -> np.ndarray:
        h = x
        for layer in (net.first, *net.layers):
            h = h @ layer.weight.numpy().T + layer.bias.numpy()
        return np.tanh(h * net.scale.numpy().sum())

    value = net(x)
    assert isinstance(value, np.ndarray) and value.dtype == np.float32
    np.testing.assert_allclose(value, expected(), rtol=1e-4, atol=1e-5)
    net.first.bias.assign(np.ones(4))
    np.testing.assert_allclose(net(x), expected(), rtol=1e-4, atol=1e-5)
    assert net(x[:2]).shape == (2, 4)
    net.layers[0] = nn.Linear(4, 4)  # a program of the older model must not be used
    np.testing.assert_allclose(net(x), expected(), rtol=1e-4, atol=1e-5)


def test_a_call_on_an_array_follows_the_mode_and_advances_states() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    x = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    assert (net(x) != net(x)).any()
    assert net[0].num_batches_tracked.item() == 2
    net.eval()
    np.testing.assert_array_equal(net(x), net(x))
    assert net[0].num_batches_tracked.item() == 2


def test_results_of_any_structure_and_arguments_by_name() -> None:
    out, (h, c) = nn.LSTM(3, 4)(np.zeros((5, 2, 3), np.float32))
    assert out.shape == (5, 2, 4) and h.shape == c.shape == (1, 2, 4)

    class Pair(nn.Module):
        def forward(self, a: Any, b: Any = None, flag: bool = False) -> dict[str, Any]:
            return {"sum": a + b, "flag": flag, "parts": [a, b]}

    result = Pair()(np.ones(2), b=np.full(2, 2.0), flag=True)
    np.testing.assert_array_equal(result["sum"], 3.0)
    assert result["flag"] is True and len(result["parts"]) == 2
    np.testing.assert_array_equal(nn.MSELoss()(np.ones(3), np.zeros(3)), 1.0)


def test_symbols_and_arrays_mix() -> None:
    loss = nn.MSELoss()(graphc.placeholder("x", (3,)), np.zeros(3, np.float32))
    assert isinstance(loss, graphc.Tensor) and loss.shape == ()


def test_a_model_trains() -> None:
    graphc.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    x, y = graphc.placeholder("x", ("batch", 2)), graphc.placeholder("y", ("batch", 1))
    loss = nn.MSELoss()(model(x), y)
    weights = list(model.parameters())
    gradients = graphc.grad(loss, weights)
    step = graphc.function([x, y], loss, {w: w - 0.1 * g for w, g in zip(weights, gradients, strict=True)},
                           backend="numpy")
    data = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    target = data[:, :1] * data[:, 1:]
    losses = [float(step(data, target)) for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(((model(data) - target) ** 2).mean(), float(step(data, target)), rtol=1e-4)


# -- containers ------------------------------------------------------------------------------------------------------


def test_sequential_indexes_slices_and_grows() -> None:
    chain = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(chain) == 3 and chain[-1] is list(chain)[2] and chain[1] in chain
    assert isinstance(chain[1:], nn.Sequential) and list(chain[1:].state_dict()) == ["2.weight", "2.bias"]
    assert chain.append(nn.Tanh()) is chain and list(dict(chain.named_children())) == ["0", "1", "2", "3"]
    chain.insert(0, nn.Identity())
    assert isinstance(chain[1], nn.Linear) and len(chain) == 5
    del chain[0]
    assert isinstance(chain.pop(-1), nn.Tanh) and len(chain) == 3
    chain[1] = nn.Sigmoid()
    assert isinstance(chain[1], nn.Sigmoid)
    named = nn.Sequential({"encode": nn.Linear(2, 3), "act": nn.ReLU()})
    assert list(named.state_dict()) == ["encode.weight", "encode.bias"] and named.encode is named[0]
    with pytest.raises(IndexError):
        _ = chain[7]


def test_lists_and_dictionaries_of_modules_and_parameters() -> None:
    modules = nn.ModuleDict({"a": nn.Linear(1, 2)})
    modules["b"] = nn.ReLU()
    assert list(modules) == ["a", "b"] and "a" in modules and len(modules) == 2
    assert list(modules.state_dict()) == ["a.weight", "a.bias"]
    modules.update({"c": nn.Tanh()})
    assert isinstance(modules.pop("c"), nn.Tanh)
    listed = nn.ParameterList([np.ones(2), nn.Parameter(np.zeros(3))])
    listed.append([5.0])
    assert len(listed) == 3 and list(listed.state_dict()) == ["0", "1", "2"] and listed[-1].shape == (1,)
    mapped = nn.ParameterDict({"w": np.ones(2)})
    mapped["v"] = np.zeros(1)
    assert list(mapped.keys()) == ["w", "v"] and isinstance(mapped["v"], nn.Parameter)
    longer = nn.ModuleList([nn.ReLU()]).extend([nn.Tanh(), nn.Tanh()])
    assert len(longer) == 3 and isinstance(longer[:2], nn.ModuleList)


# -- initial values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arguments"), [
    ("Linear", (300, 200)), ("Conv2d", (30, 40, 3)), ("ConvTranspose1d", (40, 30, 5)), ("Embedding", (300, 50)),
    ("Bilinear", (30, 20, 40)), ("LSTM", (50, 60)), ("MultiheadAttention", (64, 4))])
def test_default_initial_values_have_pytorchs_distribution(name: str, arguments: tuple[int, ...]) -> None:
    mine, other = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    wanted = dict(other.named_parameters())
    for path, parameter in mine.named_parameters():
        value, reference = parameter.numpy(), wanted[path].detach().numpy()
        if value.size < 1000:
            assert np.abs(value).max() <= max(np.abs(reference).max() * 1.3, 1e-9), path
            continue
        np.testing.assert_allclose(value.std(), reference.std(), rtol=0.06, err_msg=path)
        if np.abs(reference).max() < 2:  # uniform: the bound shows
            np.testing.assert_allclose(np.abs(value).max(), np.abs(reference).max(), rtol=0.03, err_msg=path)


def test_a_seed_repeats_initial_values() -> None:
    graphc.manual_seed(1)
    first = nn.Linear(3, 4).weight.numpy()
    graphc.manual_seed(1)
    np.testing.assert_array_equal(nn.Linear(3, 4).weight.numpy(), first)


@pytest.mark.parametrize(("fill", "spread"), [
    (lambda p: nn.init.uniform_(p, -1, 3), 4 / math.sqrt(12)), (lambda p: nn.init.normal_(p, 1, 0.5), 0.5),
    (lambda p: nn.init.xavier_uniform_(p, 2.0), 2 * math.sqrt(2 / 500)),
    (lambda p: nn.init.xavier_normal_(p), math.sqrt(2 / 500)),
    (lambda p: nn.init.kaiming_uniform_(p, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / 200)),
    (lambda p: nn.init.kaiming_normal_(p, a=0.2), math.sqrt(2 / 1.04 / 300)),
    (lambda p: nn.init.trunc_normal_(p), 0.8796), (lambda p: nn.init.trunc_normal_(p, 0.0, 1.0, 3.0, 4.0), 0.2201),
    (lambda p: nn.init.orthogonal_(p), math.sqrt(1 / 300)), (lambda p: nn.init.sparse_(p, 0.75, 1.0), 0.5)])
def test_initialisers_spread_as_they_say(fill: Callable[[nn.Parameter], nn.Parameter], spread: float) -> None:
    weight = nn.Parameter(np.zeros((200, 300)))
    assert fill(weight) is weight
    np.testing.assert_allclose(weight.numpy().std(), spread, rtol=0.03)


def test_initialisers_fill_any_layout_with_the_same_numbers() -> None:
    filled = []
    for target in (np.empty((200, 300)), np.empty((300, 200)).T, np.empty((200, 600))[:, ::2]):
        graphc.manual_seed(4)
        filled.append(nn.init.uniform_(target))
    assert np.array_equal(filled[0], filled[1]) and np.array_equal(filled[0], filled[2])


def test_initialisers_of_structure() -> None:
    q = nn.init.orthogonal_(np.zeros((4, 6)), gain=2.0)
    np.testing.assert_allclose(q @ q.T, 4 * np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(nn.init.eye_(np.ones((2, 3))), np.eye(2, 3))
    np.testing.assert_array_equal(nn.init.constant_(np.ones(2), 3.0), 3.0)
    np.testing.assert_array_equal(nn.init.ones_(nn.init.zeros_(np.ones(2))), 1.0)
    for shape, groups in (((4, 2, 3), 1), ((4, 2, 3, 5), 2), ((3, 3, 2, 3, 3), 1)):
        np.testing.assert_array_equal(nn.init.dirac_(np.ones(shape), groups),
                                      torch.nn.init.dirac_(torch.ones(shape), groups).numpy())
    sparse = nn.init.sparse_(np.ones((10, 4)), 0.33)
    np.testing.assert_array_equal((sparse == 0).sum(0), 4)
    low = nn.init.trunc_normal_(np.ones(500), 0.0, 1.0, 3.0, 4.0)
    assert low.min() >= 3 and low.max() <= 4
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert nn.init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


@pytest.mark.parametrize("call", [
    lambda: nn.init.calculate_gain("sine"), lambda: nn.init.xavier_normal_(np.ones(3)),
    lambda: nn.init.eye_(np.ones(3)), lambda: nn.init.dirac_(np.ones((3, 3))), lambda: nn.init.sparse_(np.ones(3), 0.5),
    lambda: nn.init.kaiming_normal_(np.ones((3, 3)), mode="fan"), lambda: nn.init.orthogonal_(np.ones(3)),
    lambda: nn.init.trunc_normal_(np.ones(3), a=2.0, b=1.0), lambda: nn.init.zeros_([1.0])])
def test_wrong_initialisers_are_errors_that_graphc_raises(call: Callable[[], Any]) -> None:
    with pytest.raises(graphc.GraphError):
        call()


# -- nn.utils --------------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_as_symbols() -> None:
    gradients = [graphc.placeholder("a", (3,), "float64"), graphc.placeholder("b", (2, 2), "float64")]
    arrays = [np.array([3.0, 0.0, 4.0]), np.full((2, 2), 6.0)]
    for limit in (1.0, 100.0):
        clipped, norm = nn.utils.clip_grad_norm(gradients, limit)
        values = graphc.function(gradients, [*clipped, norm], backend="numpy")(*arrays)
        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        for tensor, array in zip(tensors, arrays, strict=True):
            tensor.grad = torch.tensor(array)
        wanted = torch.nn.utils.clip_grad_norm_(tensors, limit)
        np.testing.assert_allclose(values[2], wanted.item())
        for value, tensor in zip(values, tensors, strict=False):
            assert tensor.grad is not None
            np.testing.assert_allclose(value, tensor.grad.numpy())
    limited = graphc.function(gradients, nn.utils.clip_grad_value(gradients, 5.0), backend="numpy")(*arrays)
    assert limited[1].max() == 5.0


def test_parameters_as_one_vector_and_back() -> None:
    net = nn.Linear(2, 3)
    vector = graphc.function([], nn.utils.parameters_to_vector(net.parameters()), backend="numpy")()
    assert vector.shape == (9,)
    nn.utils.vector_to_parameters(np.arange(9), net.parameters())
    np.testing.assert_array_equal(net.bias.numpy(), [6, 7, 8])
    with pytest.raises(graphc.ShapeError):
        nn.utils.vector_to_parameters(np.arange(8), net.parameters())


@pytest.mark.parametrize("drawn_before", [False, True])
def test_initial_values_are_those_of_one_sequence_whoever_is_asked_first(drawn_before: bool) -> None:
    draws = np.random.default_rng(5)
    first = draws.normal(size=2) if drawn_before else np.zeros(0)
    wanted = [draw.astype(np.float32) for draw in (
        *(draws.uniform(-0.1, 0.1, shape) for shape in ((200, 100), (200,))), draws.normal(size=(300, 70)),
        *(draws.uniform(-(200 ** -0.5), 200 ** -0.5, shape) for shape in ((90, 200), (90,))))]
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (3, 0, 4, 1, 2), (2, 3), (4,), ()):
        graphc.manual_seed(5)
        if drawn_before:
            assert np.array_equal(nn.init.normal_(np.empty(2)), first)
        made = list(nn.Sequential(nn.Linear(100, 200), nn.Embedding(300, 70), nn.Linear(200, 90)).parameters())
        following = nn.init.normal_(nn.Parameter(np.zeros(3)))
        for k in order:
            assert np.allclose(made[k].numpy(), wanted[k], rtol=1e-6, atol=0) and made[k].cell.version > 0
        assert np.array_equal(nn.init.normal_(np.empty(4)), copy.deepcopy(draws).normal(size=7)[3:])
        assert np.array_equal(following.numpy(), copy.deepcopy(draws).normal(size=3).astype(np.float32))


def test_draws_that_nobody_asks_for_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "MOST_PUT_OFF", 5)
    graphc.manual_seed(5)
    made = [nn.init.normal_(nn.Parameter(np.zeros(3))) for _ in range(30)]
    length, place = 0, draws._place
    while place.draws is not None:
        length, place = length + 1, place.draws.before
    assert length <= 6
    wanted = np.random.default_rng(5).normal(size=90).reshape(30, 3).astype(np.float32)
    for k in (29, 0, 13, 14, 5, 6):
        assert np.array_equal(made[k].numpy(), wanted[k])


def test_initial_values_are_not_drawn_where_others_are_loaded() -> None:
    layer = nn.Linear(100, 200)
    layer.weight.cell.begin(lambda array: pytest.fail("drawn for nothing"))
    assert layer.weight.shape == (200, 100)
    layer.load_state_dict({"weight": np.ones((200, 100)), "bias": np.zeros(200)})
    assert np.array_equal(layer.weight.numpy(), np.ones((200, 100)))


def test_a_seed_is_not_negative() -> None:
    with pytest.raises(ValueError, match="not negative, got -1"):
        graphc.manual_seed(-1)
