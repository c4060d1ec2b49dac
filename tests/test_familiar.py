"""What programs for PyTorch say besides mathematics, run as it is written there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphc
import graphc.nn.functional as F
from graphc import nn, optim

G = np.random.default_rng(0)


def test_the_tutorial_as_it_is_written() -> None:
    """OneFlow's page: a module with a parameter of its own made from a tensor, MSELoss and SGD."""
    x = graphc.tensor([[1, 2], [2, 3], [4, 6], [3, 1]], dtype=graphc.float32)
    y = graphc.tensor([[8], [13], [26], [9]], dtype=graphc.float)

    class LinearModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(graphc.tensor([[2], [1]], dtype=graphc.float32))

        def forward(self, x: Any) -> Any:
            return graphc.matmul(x, self.w)

    model, loss = LinearModel().to(graphc.device("cpu")), nn.MSELoss(reduction="sum")
    step = graphc.train_step(loss(model(x), y), optim.SGD(model.parameters(), 0.01))
    for _ in range(500):
        step()
    assert np.allclose(model.w.numpy(), [[2], [3]], atol=1e-4)


def test_a_tensor_that_requires_a_gradient_is_trained() -> None:
    w = graphc.tensor([[2.0], [1.0]], requires_grad=True)
    x, y = graphc.placeholder("x", (4, 2)), graphc.placeholder("y", (4, 1))
    step = graphc.train_step(((x @ w - y) ** 2).sum(), optim.SGD([w], lr=0.01))
    points = np.array([[1, 2], [2, 3], [4, 6], [3, 1]], np.float32)
    step.run(500, points, points @ np.array([[2], [3]], np.float32))
    assert np.allclose(w.numpy(), [[2], [3]], atol=1e-4)


def test_values_and_types() -> None:
    assert graphc.tensor([1, 2]).dtype == graphc.int64 == graphc.long and graphc.tensor(1.5).dtype == graphc.float32
    assert graphc.tensor(np.zeros(2)).dtype == graphc.double and graphc.zeros(2, dtype=graphc.int).dtype == graphc.int32
    assert graphc.from_numpy(np.ones(3)).eval().tolist() == [1, 1, 1] and graphc.as_tensor([1.0]).shape == (1,)
    assert graphc.is_tensor(graphc.ones(2)) and not graphc.is_tensor(np.ones(2))
    assert {"tensor", "no_grad", "save", "device"} <= set(dir(graphc))


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "set_grad_enabled", "decorator"])
def test_what_is_computed_without_gradients_is_a_constant_for_them(how: str) -> None:
    def of(lib: Any, x: Any) -> Any:
        def target(x: Any) -> Any:
            return lib.softmax(x * x, -1).max() + lib.sort(x * 3.0, -1)[0].sum()

        if how == "decorator":
            fixed = lib.no_grad()(target)(x)
        else:
            with lib.set_grad_enabled(False) if how == "set_grad_enabled" else getattr(lib, how)():
                fixed = target(x)
                assert not lib.is_grad_enabled()
        assert lib.is_grad_enabled()
        return (x * fixed).sum()

    value = G.standard_normal(5)
    x = graphc.placeholder("x", (5,), "float64")
    out = of(graphc, x)
    found = graphc.function([x], [out, *graphc.grad(out, [x])])(value)
    if how == "inference_mode":  # PyTorch forbids what it made there in a gradient
        how = "no_grad"
    tensor = torch.tensor(value, requires_grad=True)
    wanted = of(torch, tensor)
    wanted.backward()
    np.testing.assert_allclose(found[0], wanted.item(), rtol=1e-12)
    np.testing.assert_allclose(found[1], tensor.grad.numpy(), rtol=1e-12)


def test_gradients_pass_again_where_they_are_enabled_inside() -> None:
    x = graphc.placeholder("x", (3,))
    with graphc.no_grad():
        with graphc.enable_grad():
            y = x * 2.0
        z = x * 3.0
    gradient, = graphc.grad((y + z).sum(), [x])
    assert graphc.function([x], gradient)(np.ones(3, np.float32)).tolist() == [2, 2, 2]


def test_logarithms_stay_stable_without_gradients() -> None:
    x = graphc.placeholder("x", (2,))
    with graphc.no_grad():
        out = graphc.log(graphc.softmax(x, -1))
    assert graphc.function([x], out)(np.array([0, -200], np.float32)).tolist() == [0, -200]


def test_values_of_parameters_from_python() -> None:
    w = nn.Linear(3, 2).weight
    w.data.fill_(2.0).mul_(3).add_(1, alpha=2).sub_(1.0).div_(7)
    assert (w.numpy() == 1).all()
    w.data = np.arange(6).reshape(2, 3)
    assert w.data.clamp_(1, 3).numpy().tolist() == [[1, 1, 2], [3, 3, 3]]
    assert not w.zero_().numpy().any()
    assert w.copy_([1, 2, 3]).numpy().tolist() == [[1, 2, 3]] * 2
    w.data.uniform_(-0.1, 0.1)
    assert 0 < np.abs(w.numpy()).max() <= 0.1
    with pytest.raises(graphc.ShapeError, match=r"\[5\] does not broadcast"):
        w.copy_(np.ones(5))
    w.data.normal_(5.0, 0.01)
    assert np.allclose(w.numpy(), 5, atol=0.1)
    nn.init.constant_(w.data, 3.0)
    assert (w.numpy() == 3).all() and not w.requires_grad_(False).requires_grad
    with pytest.raises(graphc.ShapeError):
        w.data = np.ones(3)


def test_there_is_one_device() -> None:
    device = graphc.device("cuda" if graphc.cuda.is_available() else "cpu")
    module = nn.Linear(2, 2)
    assert module.to(device) is module and module.cpu() is module and device.type == "cpu" == device
    assert graphc.tensor([1.0], device=device).to(device).shape == (1,) and graphc.cuda.device_count() == 0
    for wrong in (lambda: graphc.device("cuda:0"), lambda: graphc.tensor([1.0], device="mps")):
        with pytest.raises(graphc.GraphError, match="one device, the CPU"):
            wrong()
    for moved in (lambda: module.to("cuda:0"), lambda: graphc.ones(2).to("cuda"), lambda: graphc.tensor([1.0], device="xpu")):
        with pytest.raises(graphc.GraphError, match="one device, the CPU"):
            moved()
    with pytest.raises(graphc.DTypeError, match="unknown dtype 'gpu'"):
        module.to("gpu")


# -- checkpoints ---------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / "model.pt"
    graphc.save(module.state_dict(), path)
    graphc.save({**module.state_dict(), "step": 3, "more": {"rate": 0.1}}, path)
    found = graphc.load(path, map_location="cpu")
    assert found.pop("step") == 3 and found.pop("more") == {"rate": 0.1}
    other.load_state_dict(found)
    assert np.array_equal(other.weight.numpy(), module.weight.numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_checkpoint_as_pytorchs_tutorials_write_it(tmp_path: Path) -> None:
    """Model, optimizer, schedule and epoch in one file: training goes on where it was."""
    def make() -> tuple[Any, ...]:
        graphc.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        optimizer = optim.Adam(model.parameters(), lr=0.05, betas=(0.8, 0.99))
        scheduler = optim.lr_scheduler.StepLR(optimizer, 2)
        x, y = graphc.placeholder("x", (4, 2)), graphc.placeholder("y", (4, 1))
        return model, optimizer, scheduler, graphc.train_step(F.mse_loss(model(x), y), optimizer)

    points = G.standard_normal((4, 2)).astype(np.float32)
    data = points, points @ np.array([[2], [3]], np.float32)
    model, optimizer, scheduler, step = make()
    for _ in range(3):
        step(*data)
    graphc.save({"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                 "scheduler": scheduler.state_dict(), "note": None, "pair": (1, [2.5, "x"])}, tmp_path / "all.pt")
    wanted = [float(step(*data)) for _ in range(3)]
    found = graphc.load(tmp_path / "all.pt")
    assert (found["epoch"], found["note"], found["pair"]) == (3, None, (1, [2.5, "x"]))
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.99) and list(found["optimizer"]["state"]) == [0, 1, 2, 3]
    model, optimizer, scheduler, step = make()
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    scheduler.load_state_dict(found["scheduler"])
    assert [float(step(*data)) for _ in range(3)] == wanted


def test_a_file_of_arrays_alone_is_a_dictionary(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(2), **{"b.c": np.zeros(1)})
    assert {k: v.tolist() for k, v in graphc.load(tmp_path / "a.npz").items()} == {"w": [1, 1], "b.c": [0]}


@pytest.mark.parametrize("structure", [b"{}", b"nonsense", b'{"call": ["os.system"]}', b'{"array": "none"}', b'{"value": [1]}'])
def test_a_structure_that_nobody_wrote_is_refused(tmp_path: Path, structure: bytes) -> None:
    np.savez(tmp_path / "a.npz", **{"structure.json": np.frombuffer(structure, np.uint8)})
    with pytest.raises(graphc.CheckpointError, match="no file that"):
        graphc.load(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 torn"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(graphc.CheckpointError, match="is no file that"):
        graphc.load(path)
    with pytest.raises(FileNotFoundError):
        graphc.load(tmp_path / "none")


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2)}, path)
    with pytest.raises(graphc.CheckpointError, match="PyTorch's is read with"):
        graphc.load(path)
    np.savez(tmp_path / "object.npz", a=np.array([object()], object))
    with pytest.raises(graphc.CheckpointError):
        graphc.load(tmp_path / "object.npz")
    with pytest.raises(graphc.CheckpointError, match="'w' is object"):
        graphc.save({"w": object()}, path)


# -- models --------------------------------------------------------------------------------------------------------------


def test_mnist_as_in_pytorchs_examples() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, 1), nn.Conv2d(4, 8, 3, 1)
            self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
            self.fc1, self.fc2 = nn.Linear(1152, 16), nn.Linear(16, 10)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
            x = graphc.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
            return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)

    model = Net().to(graphc.device("cpu"))
    x, y = graphc.placeholder("x", ("n", 1, 28, 28)), graphc.placeholder("y", ("n",), "int64")
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    step = graphc.train_step(F.nll_loss(model(x), y), optimizer)
    images, labels = G.standard_normal((4, 1, 28, 28)).astype(np.float32), G.integers(0, 10, 4)
    losses = [float(step(images, labels)) for _ in range(12)]
    scheduler.step()
    assert min(losses[-4:]) < losses[0]
    model.eval()
    with graphc.no_grad():
        output = model(x)
        pred = output.argmax(dim=1, keepdim=True)
        correct = pred.eq(y.view_as(pred)).sum()
    assert 0 <= int(graphc.function([x, y], correct)(images, labels)) <= 4


def test_a_double_q_network_detaches_its_targets() -> None:
    q, target = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
    target.load_state_dict(q.state_dict())
    s, a, r, following = (graphc.placeholder("s", ("b", 4)), graphc.placeholder("a", ("b", 1), "int64"),
                          graphc.placeholder("r", ("b",)), graphc.placeholder("following", ("b", 4)))
    with graphc.no_grad():
        best = target(following).max(1)
    loss = nn.SmoothL1Loss()(q(s).gather(1, a), (best * 0.99 + r).unsqueeze(1))
    with pytest.raises(graphc.GraphError, match="only through 'stop_gradient'"):
        graphc.grad(loss, list(target.parameters()))
    step = graphc.train_step(loss, optim.AdamW(q.parameters(), lr=1e-2, amsgrad=True))
    arrays = [G.standard_normal((3, 4)).astype(np.float32), np.zeros((3, 1), np.int64), np.ones(3, np.float32),
              G.standard_normal((3, 4)).astype(np.float32)]
    losses = [float(step(s=arrays[0], a=arrays[1], r=arrays[2], following=arrays[3])) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_embeddings_of_words_with_values_drawn_in_place() -> None:
    class SkipGram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.v = nn.Embedding(50, 8), nn.Embedding(50, 8)
            self.u.weight.data.uniform_(-0.1, 0.1)

        def forward(self, u: Any, v: Any, negative: Any) -> Any:
            u, v, negative = self.u(u), self.v(v), self.v(negative)
            score = -F.logsigmoid(graphc.clamp(graphc.sum(graphc.mul(u, v), dim=1), max=10, min=-10))
            other = graphc.bmm(negative, u.unsqueeze(2)).squeeze()
            return graphc.mean(score - graphc.sum(F.logsigmoid(-graphc.clamp(other, max=10, min=-10)), dim=1))

    model = SkipGram()
    u, v, n = (graphc.placeholder(name, shape, "int64") for name, shape in (("u", (5,)), ("v", (5,)), ("n", (5, 3))))
    step = graphc.train_step(model(u, v, n), optim.Adam(model.parameters(), lr=0.05))
    words = [G.integers(0, 50, shape) for shape in ((5,), (5,), (5, 3))]
    losses = [float(step(*words)) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0] and losses[0] == pytest.approx(4 * math.log(2), abs=0.3)



# -- drawing positions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replacement", [False, True])
def test_positions_are_drawn_with_their_probabilities(replacement: bool) -> None:
    """The first one, in proportion to the weights; the second, without replacement, in proportion to what is left."""
    weights = np.array([0.0, 1.0, 2.0, 5.0], np.float32)
    drawn = graphc.multinomial(graphc.constant(np.broadcast_to(weights, (40000, 4)).copy()), 2, replacement, seed=3)
    value = np.asarray(graphc.function([], drawn)())
    assert value.shape == (40000, 2) and value.dtype == np.int64
    share = np.bincount(value[:, 0], minlength=4) / 40000
    assert np.abs(share - weights / 8).max() < 0.01
    if replacement:
        second = weights / 8
    else:
        assert (value[:, 0] != value[:, 1]).all()
        p = weights / 8
        second = np.array([sum(p[i] * p[j] / (1 - p[i]) for i in range(4) if i != j) for j in range(4)])
    assert np.abs(np.bincount(value[:, 1], minlength=4) / 40000 - second).max() < 0.01


def test_more_positions_than_there_are_need_replacement() -> None:
    with pytest.raises(graphc.ShapeError, match="multinomial: 5 different positions"):
        graphc.multinomial(graphc.ones(4), 5)
    assert graphc.multinomial(graphc.ones(4), 5, replacement=True).shape == (5,)


def test_two_tensors_have_a_maximum() -> None:
    x, y = graphc.placeholder("x", (3,)), graphc.placeholder("y", (3,))
    assert graphc.max(x, y).node is graphc.maximum(x, y).node and x.min(y).node is graphc.minimum(x, y).node


@pytest.mark.parametrize(("wrong", "words"), [
    (lambda m: nn.utils.clip_grad_norm_(m.parameters(), 1.0), r"train_step\(\.\.\., grad_clip_norm=1\.0\)"),
    (lambda m: nn.utils.clip_grad_value_(m.parameters(), 0.5), r"grad_clip_value=0\.5"),
    (lambda m: m(graphc.ones(1, 2)).sum().backward(), r"graphc\.train_step\(loss, optimizer\)"),
    (lambda m: optim.SGD(m.parameters(), 0.1).step(), "part of the compiled step")])
def test_a_loop_of_eager_steps_is_told_what_to_write(wrong: Any, words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        wrong(nn.Linear(2, 1))
