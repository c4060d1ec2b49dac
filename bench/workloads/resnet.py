"""A small residual network (He et al. 2015): one basic block in each of the stages of 16, 32 and 64 channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..workload import Optimizer, Shapes, Workload, batch_norm_shapes, classified, linear_shapes

STAGES = ((16, 16, 1), (16, 32, 2), (32, 64, 2))  # channels in and out, stride


def resnet(name: str, title: str, batch: int, size: int) -> Workload:
    shapes: Shapes = {"conv.weight": (16, 3, 3, 3), **batch_norm_shapes("norm", 16)}
    for k, (inputs, outputs, stride) in enumerate(STAGES):
        s = f"stages.{k}"
        shapes |= {f"{s}.conv1.weight": (outputs, inputs, 3, 3), **batch_norm_shapes(f"{s}.norm1", outputs),
                   f"{s}.conv2.weight": (outputs, outputs, 3, 3), **batch_norm_shapes(f"{s}.norm2", outputs)}
        if stride > 1:
            shapes |= {f"{s}.short.0.weight": (outputs, inputs, 1, 1), **batch_norm_shapes(f"{s}.short.1", outputs)}
    shapes |= linear_shapes("head", 64, 10)

    def data(g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return g.standard_normal((batch, 3, size, size)).astype(np.float32), g.integers(0, 10, batch)

    def model(lib: Any) -> Any:
        nn = lib.nn
        f = nn.functional

        class Block(nn.Module):
            def __init__(self, inputs: int, outputs: int, stride: int) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
                self.norm1 = nn.BatchNorm2d(outputs)
                self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
                self.norm2 = nn.BatchNorm2d(outputs)
                self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) \
                    if stride > 1 else nn.Identity()

            def forward(self, x: Any) -> Any:
                h = f.relu(self.norm1(self.conv1(x)))
                return f.relu(self.norm2(self.conv2(h)) + self.short(x))

        class ResNet(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
                self.stages = nn.Sequential(*(Block(*stage) for stage in STAGES))
                self.head = nn.Linear(64, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.stages(f.relu(self.norm(self.conv(x)))).mean((2, 3)))

        return ResNet()

    def in_jax(p: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        import jax

        from .. import jax_layers as layer

        new: dict[str, Any] = {}
        relu, conv = jax.nn.relu, layer.convolution
        h = relu(layer.batch_norm(p, "norm", conv(p, "conv", x, 1, 1, False), new))
        for k, (_, _, stride) in enumerate(STAGES):
            s = f"stages.{k}"
            short = layer.batch_norm(p, f"{s}.short.1", conv(p, f"{s}.short.0", h, stride, 0, False), new) if stride > 1 else h
            h = relu(layer.batch_norm(p, f"{s}.norm1", conv(p, f"{s}.conv1", h, stride, 1, False), new))
            h = relu(layer.batch_norm(p, f"{s}.norm2", conv(p, f"{s}.conv2", h, 1, 1, False), new) + short)
        return layer.cross_entropy(layer.linear(p, "head", h.mean((2, 3))), y), new

    first, rest, side = 2 * batch * size * size * 16 * 27, 2 * batch * 640, size
    for inputs, outputs, stride in STAGES:
        side //= stride
        rest += 2 * batch * side * side * outputs * (9 * inputs + 9 * outputs + (inputs if stride > 1 else 0))
    return Workload(name, title, shapes, data, model, classified, Optimizer("SGD", 0.01, momentum=0.9), 2 * first + 3 * rest,
                    jax=in_jax)


WORKLOADS = (resnet("resnet", "ResNet, 3 stages 16/32/64, 32x32, batch 32, BatchNorm, momentum", 32, 32),)
