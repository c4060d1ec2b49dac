"""What a workload is: one record with the same mathematics for every library, and the values that all of them start from.

Knows shapes, seeds and optimizers' settings.  Must not import any of the libraries that are compared (numpy aside): a
record's fields are called in a process that has loaded one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
Values = tuple[Arrays, np.ndarray, np.ndarray]  # the state_dict, inputs, targets
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # the ends of names that no optimizer touches


@dataclass(frozen=True)
class Optimizer:
    """An optimizer by its name in `torch.optim` and `graphc.optim`, with the settings that both take."""

    name: str  # SGD, Adam, AdamW
    rate: float
    momentum: float = 0.0  # of SGD
    weight_decay: float = 0.0  # of AdamW

    @property
    def settings(self) -> dict[str, float]:
        extra = {"SGD": {"momentum": self.momentum}, "AdamW": {"weight_decay": self.weight_decay}}
        return {"lr": self.rate, **extra.get(self.name, {})}


@dataclass(frozen=True)
class Workload:
    """A model, its loss, its data and how it is trained.

    shapes    of every entry of the state_dict, in PyTorch's layout
    data      inputs and targets from a generator
    model     given a library with PyTorch's names (torch, graphc), the module
    loss      given the library, the module, inputs and targets, the scalar that is minimised
    flops     floating-point operations of the contractions of one step (a multiply-add is two): forward, gradients of the
              weights, and gradients of what lies below them where something needs those
    jax       given parameters and buffers (weights of linear layers as [in, out]), inputs and targets: the loss and new buffers
    numpy     given parameters likewise, inputs and targets: the loss and the gradients by name
    tables    names of two-dimensional weights that are looked up, not multiplied: they keep their layout
    tolerance of the losses' comparison, relative
    """

    name: str
    title: str
    shapes: Shapes
    data: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
    model: Callable[[Any], Any]
    loss: Callable[[Any, Any, Any, Any], Any]
    optimizer: Optimizer
    flops: int
    jax: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]] | None = None
    numpy: Callable[[Arrays, np.ndarray, np.ndarray], tuple[float, Arrays]] | None = None
    tables: tuple[str, ...] = ()
    tolerance: float = 1e-4
    about: str = ""

    def values(self, columns: bool = False) -> Values:
        """What every contender starts from, from one seed.

        columns: the weights of linear layers are [in, out] in memory, the layout numpy's and JAX's users choose.
        """
        generator = np.random.default_rng(0)
        state = {name: initial(name, shape, generator) for name, shape in self.shapes.items()}
        x, y = self.data(generator)
        if columns:
            state = {name: np.ascontiguousarray(value.T) if value.ndim == 2 and name not in self.tables else value
                     for name, value in state.items()}
        return state, x, y

    def write(self, folder: Path, columns: bool = False) -> None:
        """Keeps the values in a new folder."""
        state, x, y = self.values(columns)
        folder.mkdir()
        for name, value in {**{f"state.{n}": v for n, v in state.items()}, "x": x, "y": y}.items():
            np.save(folder / f"{name}.npy", value)

    def read(self, folder: Path) -> Values:
        """The values that `write` has kept there: in memory once, with nothing of what it takes to draw them."""
        def array(name: str) -> np.ndarray:
            loaded: np.ndarray = np.load(folder / f"{name}.npy")
            return loaded

        return {name: array(f"state.{name}") for name in self.shapes}, array("x"), array("y")


def initial(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Zeros for biases, ones for scales and variances, else normal with the variance that keeps activations' size."""
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last.startswith("bias") or last.endswith("bias") or last == "running_mean":
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return (generator.standard_normal(shape) / sqrt(prod(shape[1:]))).astype(np.float32)


def is_buffer(name: str) -> bool:
    return name.endswith(BUFFERS)


def linear_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm_shapes(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm_shapes(name: str, width: int) -> Shapes:
    return norm_shapes(name, width) | {f"{name}.running_mean": (width,), f"{name}.running_var": (width,),
                                       f"{name}.num_batches_tracked": ()}


def classified(lib: Any, model: Any, x: Any, y: Any) -> Any:
    """The loss of most workloads: mean cross-entropy of the module's outputs on class indices."""
    return lib.nn.functional.cross_entropy(model(x), y)
