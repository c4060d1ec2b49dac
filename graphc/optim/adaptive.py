"""Rules that scale by accumulated squares, or by the matrix: Adagrad, Adadelta, RMSprop, Adafactor, Ftrl, Muon.

Knows each rule's formula.  Must not know gradients, schedules or passes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops.contractions import matmul
from ..ops.elementwise import abs_, maximum, minimum, pow, rsqrt, sign, sqrt, where
from ..ops.reductions import mean, norm
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor
from .groups import ParamGroup
from .optimizer import Optimizer, with_decay


class Adagrad(Optimizer):
    """Adaptive subgradients (Duchi, Hazan and Singer, 2011), PyTorch's form.

    s' = s + g^2;  w' = w - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s') + eps).
    """

    def __init__(self, params: Any, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
                 initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, lr_decay=lr_decay, weight_decay=weight_decay,
                                      initial_accumulator_value=initial_accumulator_value, eps=eps, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        g = with_decay(w, g, group["weight_decay"])
        total = self.slot(w, "sum", group["initial_accumulator_value"])
        new = total + g * g
        rate = group.lr
        if group["lr_decay"]:
            rate = rate / (1.0 + (self.step_number - 1.0) * group.lr_decay)
        return {w: w - rate * (g / (sqrt(new) + group.eps)), total: new}


class Adadelta(Optimizer):
    """Adadelta (Zeiler, arXiv:1212.5701), scaled by a rate.

    s' = rho s + (1 - rho) g^2;  d = g * sqrt(a + eps) / sqrt(s' + eps);  a' = rho a + (1 - rho) d^2;  w' = w - lr d.
    """

    def __init__(self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, *,
                 maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        g = with_decay(w, g, group["weight_decay"])
        rho, eps = group.rho, group.eps
        square, moved = self.slot(w, "square_avg"), self.slot(w, "acc_delta")
        new_square = rho * square + (1.0 - rho) * (g * g)
        delta = sqrt(moved + eps) / sqrt(new_square + eps) * g
        return {w: w - group.lr * delta, square: new_square, moved: rho * moved + (1.0 - rho) * (delta * delta)}


class RMSprop(Optimizer):
    """Division by a running root mean square (Tieleman and Hinton, 2012), PyTorch's form.

    s' = alpha s + (1 - alpha) g^2;  w' = w - lr * g / (sqrt(s') + eps).

    centered  subtracts the square of the gradient's running mean from s'
    momentum  > 0 gathers the scaled gradients in a buffer first
    """

    def __init__(self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
                 momentum: float = 0.0, centered: bool = False, *, maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                                      centered=centered, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        g = with_decay(w, g, group["weight_decay"])
        alpha = group.alpha
        square = self.slot(w, "square_avg")
        new_square = alpha * square + (1.0 - alpha) * (g * g)
        result: dict[Parameter, Any] = {square: new_square}
        spread = new_square
        if group["centered"]:
            average = self.slot(w, "grad_avg")
            new_average = result[average] = alpha * average + (1.0 - alpha) * g
            spread = maximum(new_square - new_average * new_average, 0.0)  # rounding may take it below zero
        scaled = g / (sqrt(spread) + group.eps)
        if group["momentum"] == 0 and group.cell("momentum") is None:
            return {w: w - group.lr * scaled, **result}
        buffer = self.slot(w, "momentum_buffer")
        new = result[buffer] = group.momentum * buffer + scaled
        return {w: w - group.lr * new, **result}


class Adafactor(Optimizer):
    """Adam with a factored second moment and no first one (Shazeer and Stern, arXiv:1804.04235), PyTorch's form.

    A parameter of two or more dimensions keeps means over its last axis and over the one before it.

    beta2_decay  the running means keep 1 - t^beta2_decay
    eps          the least scale of the second moment (None: the dtype's epsilon), and of the parameter
    d            the greatest root mean square of a step before scaling
    """

    def __init__(self, params: Any, lr: float = 1e-2, beta2_decay: float = -0.8,
                 eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, *,
                 maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, beta2_decay=beta2_decay, eps=tuple(eps), d=d, weight_decay=weight_decay,
                                      maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        least, least_scale = group.eps
        least = float(np.finfo(w.dtype.numpy).eps) if least is None else least
        t = self.step_number
        new_share = t ** group.beta2_decay
        root_size = math.sqrt(w.cell.size)
        rate = minimum(group.lr, rsqrt(t)) * maximum(norm(w) / root_size, least_scale)
        start = w * (1.0 - group.lr * group.weight_decay) if group["weight_decay"] else w
        if w.ndim > 1:
            rows = self.slot(w, "row_var", shape=(*w.shape[:-1], 1))
            columns = self.slot(w, "col_var", shape=(*w.shape[:-2], 1, w.shape[-1]))
            new_rows = rows + new_share * (mean(g * g, -1, True) - rows)
            new_columns = columns + new_share * (mean(g * g, -2, True) - columns)
            estimate = (new_rows * new_columns) / maximum(mean(new_rows, -2, True), least)
            result: dict[Parameter, Any] = {rows: new_rows, columns: new_columns}
        else:
            variance = self.slot(w, "variance")
            estimate = variance + new_share * (g * g - variance)
            result = {variance: estimate}
        direction = rsqrt(maximum(estimate, least * least)) * g
        limit = maximum(norm(direction) / (root_size * group.d), 1.0)
        return {w: start - (rate / limit) * direction, **result}


class Ftrl(Optimizer):
    """Follow the regularised leader, per coordinate (McMahan et al., KDD 2013, algorithm 1): sparse weights.

    n' = n + g^2;  z' = z + g - (n'^p - n^p) / lr * w with p = -lr_power;
    w' = 0 where |z'| <= lambda1, else (sign(z') lambda1 - z') / ((beta + n'^p) / lr + lambda2).
    As in the algorithm the weights follow from z and n alone; an initial weight counts in z from the first step.
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0, lr_power: float = -0.5,
                 initial_accumulator_value: float = 0.1, lambda1: float = 0.0, lambda2: float = 0.0,
                 beta: float = 0.0, *, maximize: bool = False) -> None:
        if lr_power > 0 or initial_accumulator_value < 0 or min(lambda1, lambda2, beta) < 0:
            raise GraphError("Ftrl needs lr_power <= 0 and initial_accumulator_value, lambda1, lambda2, beta >= 0"
                             f"{at(user_origin())}")
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, lr_power=lr_power,
                                      initial_accumulator_value=initial_accumulator_value, lambda1=lambda1,
                                      lambda2=lambda2, beta=beta, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        g = with_decay(w, g, group["weight_decay"])
        power, lambda1 = -group.lr_power, group.lambda1
        n, z = self.slot(w, "accumulate", group["initial_accumulator_value"]), self.slot(w, "z")
        new_n = n + g * g
        root = pow(new_n, power)
        new_z = z + g - (root - pow(n, power)) / group.lr * w
        new_w = (sign(new_z) * lambda1 - new_z) / ((group.beta + root) / group.lr + group.lambda2)
        return {w: where(abs_(new_z) > lambda1, new_w, 0.0), n: new_n, z: new_z}


class Muon(Optimizer):
    """Momentum whose direction is made orthogonal by Newton-Schulz steps (Jordan et al., 2024), PyTorch's form.

    For matrices only (ShapeError otherwise); give the other parameters to AdamW.  PyTorch iterates in bfloat16, this
    in the parameter's own dtype.

    adjust_lr_fn  "original" scales the rate by sqrt(max(1, rows / columns)), "match_rms_adamw" by
                  0.2 * sqrt(max(rows, columns))
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95,
                 nesterov: bool = True, ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
                 eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None) -> None:
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise GraphError(f"adjust_lr_fn is 'original' or 'match_rms_adamw', got {adjust_lr_fn!r}"
                             f"{at(user_origin())}")
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov,
                                      ns_coefficients=tuple(ns_coefficients), eps=eps, ns_steps=ns_steps,
                                      adjust_lr_fn=adjust_lr_fn))
        for group in self.param_groups:
            for w in group.params:
                if w.ndim != 2:
                    raise ShapeError(f"Muon is for matrices; '{w.name}' is {w.type}{at(user_origin())}")

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        momentum = group.momentum
        buffer = self.slot(w, "momentum_buffer")
        new = momentum * buffer + (1.0 - momentum) * g
        direction = g + momentum * (new - g) if group["nesterov"] else new
        orthogonal = orthogonalize(direction, group.ns_coefficients, group.ns_steps, group.eps)
        rows, columns = (int(s) for s in w.cell.shape)
        if group["adjust_lr_fn"] == "match_rms_adamw":
            scale = 0.2 * math.sqrt(max(rows, columns))
        else:
            scale = math.sqrt(max(1.0, rows / columns))
        start = w * (1.0 - group.lr * group.weight_decay) if group["weight_decay"] else w
        return {w: start - (group.lr * scale) * orthogonal, buffer: new}


def orthogonalize(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """About U V' of the singular value decomposition U S V' of a matrix, by quintic Newton-Schulz steps.

    X' = a X + (b A + c A A) X with A = X X', from X scaled to norm 1; singular values end up near 1.
    """
    a, b, c = coefficients
    tall = int(x.shape[0]) > int(x.shape[1])
    y = x.T if tall else x
    y = y / maximum(norm(y), eps)
    for _ in range(steps):
        gram = matmul(y, y.T)
        y = a * y + matmul(b * gram + c * matmul(gram, gram), y)
    return y.T if tall else y
