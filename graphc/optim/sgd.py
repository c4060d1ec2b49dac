"""Gradient descent and its relatives: SGD, ASGD, Rprop, LARS, Lion.

Knows each rule's formula.  Must not know gradients, schedules or passes.
"""

from __future__ import annotations

from typing import Any

from ..errors import GraphError
from ..ops.elementwise import clip, maximum, sign, where
from ..ops.reductions import norm
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor
from ..types import float64
from .groups import ParamGroup
from .optimizer import Optimizer, with_decay


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (PyTorch's form: the rate multiplies the whole buffer).

    b' = momentum * b + (1 - dampening) * g;  w' = w - lr * b', or with nesterov w - lr * (g + momentum * b').
    The first step has b' = g.  OneFlow's ``momentum`` and ``dampening`` mean the same.
    """

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
                 weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise GraphError(f"Nesterov momentum needs a momentum and no dampening{at(user_origin())}")
        super().__init__(params, dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
                                      nesterov=nesterov, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        g = with_decay(w, g, group["weight_decay"])
        if group["momentum"] == 0 and group.cell("momentum") is None:
            return {w: w - group.lr * g}
        buffer = self.slot(w, "momentum_buffer")
        dampening = group["dampening"]
        if dampening:
            share = 1.0 - dampening * (self.step_number > 1.0).astype(float64)
            new = group.momentum * buffer + share * g
        else:
            new = group.momentum * buffer + g  # the buffer starts at zero, so the first step needs no case
        direction = g + group.momentum * new if group["nesterov"] else new
        return {w: w - group.lr * direction, buffer: new}


class ASGD(Optimizer):
    """Averaged stochastic gradient descent (Polyak and Juditsky, 1992), with PyTorch's schedule.

    w' = w * (1 - lambd * eta) - eta * g;  eta' = lr / (1 + lambd * lr * t)^alpha;
    ax' = ax + mu * (w' - ax);  mu' = 1 / max(1, t - t0): the average ``ax`` begins after step t0.
    """

    def __init__(self, params: Any, lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
                 weight_decay: float = 0.0, *, maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay,
                                      maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        g = with_decay(w, g, group["weight_decay"])
        t = self.step_number
        eta_cell, mu = self.shared_slot(group, "eta", group["lr"]), self.shared_slot(group, "mu", 1.0)
        average = self.slot(w, "ax")
        eta = where(t == 1.0, group.lr, eta_cell)
        new_w = w * (1.0 - group.lambd * eta) - eta * g
        return {w: new_w, average: where(mu == 1.0, new_w, average + mu * (new_w - average)),
                eta_cell: group.lr / (1.0 + group.lambd * group.lr * t) ** group.alpha,
                mu: 1.0 / maximum(t - group.t0, 1.0)}


class Rprop(Optimizer):
    """Resilient propagation (Riedmiller and Braun, 1993): a step size per element, grown and shrunk by signs alone.

    etas        factors where the gradient's sign turned, and where it stayed
    step_sizes  the least and the greatest step size; all start at `lr`
    """

    def __init__(self, params: Any, lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
                 step_sizes: tuple[float, float] = (1e-6, 50.0), *, maximize: bool = False) -> None:
        if not 0 < etas[0] < 1 < etas[1]:
            raise GraphError(f"Rprop needs 0 < etas[0] < 1 < etas[1], got {etas}{at(user_origin())}")
        super().__init__(params, dict(lr=lr, etas=tuple(etas), step_sizes=tuple(step_sizes), maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        (shrink, grow), (least, greatest) = group.etas, group.step_sizes
        previous, size = self.slot(w, "prev"), self.slot(w, "step_size", group["lr"])
        agreement = g * previous
        turned, stayed = agreement < 0, agreement > 0
        new_size = clip(where(stayed, size * grow, where(turned, size * shrink, size)), least, greatest)
        kept = where(turned, 0.0, g)  # after a turn the element waits one step
        return {w: w - sign(kept) * new_size, previous: kept, size: new_size}


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg, arXiv:1708.03888, algorithm 1).

    The rate of each parameter is lr * lars_coefficient * |w| / (|g| + weight_decay * |w| + eps), or lr where a norm is
    zero; b' = momentum * b + rate * (g + weight_decay * w);  w' = w - b'.
    Names and defaults are those of OneFlow's LARS, whose first step leaves the weight decay out of the denominator.
    """

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0,
                 lars_coefficient: float = 1e-4, eps: float = 1e-9, *, maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay,
                                      lars_coefficient=lars_coefficient, eps=eps, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        w_norm, g_norm = norm(w), norm(g)
        decay = group["weight_decay"]
        ratio = group.lars_coefficient * w_norm / (g_norm + decay * w_norm + group.eps)
        rate = group.lr * where((w_norm > 0) & (g_norm > 0), ratio, 1.0)
        buffer = self.slot(w, "momentum_buffer")
        new = group.momentum * buffer + rate * with_decay(w, g, decay)
        return {w: w - new, buffer: new}


class Lion(Optimizer):
    """Evolved sign momentum (Chen et al., arXiv:2302.06675, algorithm 2).

    w' = w - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w);  m' = beta2 * m + (1 - beta2) * g.
    """

    def __init__(self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99),
                 weight_decay: float = 0.0, *, maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, betas=tuple(betas), weight_decay=weight_decay, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        beta1, beta2 = group.betas
        m = self.slot(w, "exp_avg")
        direction = sign(beta1 * m + (1.0 - beta1) * g)
        return {w: w - group.lr * with_decay(w, direction, group["weight_decay"]), m: beta2 * m + (1.0 - beta2) * g}
