"""Adam and its relatives: Adam, AdamW, Adamax, NAdam, RAdam, LAMB.

Knows each rule's formula.  Bias corrections are float64 scalars, shared by all parameters of a step: equal nodes are
one.  Must not know gradients, schedules or passes.
"""

from __future__ import annotations

from typing import Any

from ..errors import GraphError
from ..ops.elementwise import abs_, maximum, rsqrt, sqrt, where
from ..ops.reductions import norm
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor
from .groups import ParamGroup
from .optimizer import Optimizer, with_decay

Betas = tuple[float, float]


def checked_betas(betas: Any) -> Betas:
    """Two numbers in [0, 1)."""
    pair = tuple(betas)
    if len(pair) != 2 or not all(0.0 <= b < 1.0 for b in pair):
        raise GraphError(f"betas must be two numbers in [0, 1), got {betas!r}{at(user_origin())}")
    return pair


class _Moments(Optimizer):
    """What the family shares: running means of the gradient and of its square, and weight decay of either kind."""

    def decay(self, w: Parameter, g: Tensor, group: ParamGroup) -> tuple[Tensor, Tensor]:
        """(w, g) after weight decay: the decoupled kind shrinks w, the other one adds to g."""
        rate = group["weight_decay"]
        if rate == 0:
            return w, g
        if group.get("decoupled_weight_decay", False):
            return w * (1.0 - group.lr * rate), g
        return w, with_decay(w, g, rate)

    def moments(self, w: Parameter, g: Tensor, group: ParamGroup) -> tuple[Parameter, Tensor, Parameter, Tensor]:
        """The slots m, v and their new values: m, m', v, v'."""
        beta1, beta2 = group.betas
        m, v = self.slot(w, "exp_avg"), self.slot(w, "exp_avg_sq")
        return m, beta1 * m + (1.0 - beta1) * g, v, beta2 * v + (1.0 - beta2) * (g * g)

    def corrections(self, group: ParamGroup) -> tuple[Tensor, Tensor]:
        """1 - beta1^t and 1 - beta2^t."""
        beta1, beta2 = group.betas
        return 1.0 - beta1 ** self.step_number, 1.0 - beta2 ** self.step_number


class Adam(_Moments):
    """Adam (Kingma and Ba, arXiv:1412.6980), PyTorch's form: eps is added after the bias correction.

    m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g^2;
    w' = w - lr / (1 - beta1^t) * m' / (sqrt(v' / (1 - beta2^t)) + eps).

    amsgrad  divides by the greatest v so far (Reddi et al., 2018)
    OneFlow has `do_bias_correction` (true by default); it may be turned off here too.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, amsgrad: bool = False, *, do_bias_correction: bool = True,
                 maximize: bool = False, decoupled_weight_decay: bool = False) -> None:
        super().__init__(params, dict(lr=lr, betas=checked_betas(betas), eps=eps, weight_decay=weight_decay,
                                      amsgrad=amsgrad, do_bias_correction=do_bias_correction, maximize=maximize,
                                      decoupled_weight_decay=decoupled_weight_decay))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        start, g = self.decay(w, g, group)
        m, new_m, v, new_v = self.moments(w, g, group)
        result: dict[Parameter, Any] = {m: new_m, v: new_v}
        greatest = new_v
        if group["amsgrad"]:
            highest = self.slot(w, "max_exp_avg_sq")
            greatest = result[highest] = maximum(highest, new_v)
        rate, root = group.lr, sqrt(greatest)
        if group["do_bias_correction"]:
            first, second = self.corrections(group)
            rate, root = rate / first, root * rsqrt(second)  # a product per element, not a quotient
        return {w: start - rate * (new_m / (root + group.eps)), **result}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101): w is first scaled by 1 - lr * decay.

    The default decay of 0.01 is PyTorch's; OneFlow's is 0.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, amsgrad: bool = False, *, do_bias_correction: bool = True,
                 maximize: bool = False) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, do_bias_correction=do_bias_correction,
                         maximize=maximize, decoupled_weight_decay=True)


class Adamax(_Moments):
    """Adam with the infinity norm (arXiv:1412.6980, algorithm 2).

    u' = max(beta2 u, |g| + eps);  w' = w - lr / (1 - beta1^t) * m' / u'.
    """

    def __init__(self, params: Any, lr: float = 2e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, *, maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, betas=checked_betas(betas), eps=eps, weight_decay=weight_decay,
                                      maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        g = with_decay(w, g, group["weight_decay"])
        beta1, beta2 = group.betas
        m, u = self.slot(w, "exp_avg"), self.slot(w, "exp_inf")
        new_m = beta1 * m + (1.0 - beta1) * g
        new_u = maximum(beta2 * u, abs_(g) + group.eps)
        rate = group.lr / (1.0 - beta1 ** self.step_number)
        return {w: w - rate * (new_m / new_u), m: new_m, u: new_u}


class NAdam(_Moments):
    """Adam with Nesterov momentum (Dozat, 2016), with PyTorch's momentum schedule.

    mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2); the step mixes g and m' with weights from mu_t and mu_{t+1}.
    """

    def __init__(self, params: Any, lr: float = 2e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
                 maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, betas=checked_betas(betas), eps=eps, weight_decay=weight_decay,
                                      momentum_decay=momentum_decay, decoupled_weight_decay=decoupled_weight_decay,
                                      maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        start, g = self.decay(w, g, group)
        beta1, beta2 = group.betas
        t, decay = self.step_number, group.momentum_decay
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * decay))
        mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * decay))
        product = self.shared_slot(group, "mu_product", 1.0)
        new_product = product * mu
        m, new_m, v, new_v = self.moments(w, g, group)
        root = sqrt(new_v) * rsqrt(1.0 - beta2 ** t) + group.eps
        of_g = group.lr * (1.0 - mu) / (1.0 - new_product)
        of_m = group.lr * mu_next / (1.0 - new_product * mu_next)
        return {w: start - (of_g * g + of_m * new_m) / root, m: new_m, v: new_v, product: new_product}


class RAdam(_Moments):
    """Rectified Adam (Liu et al., arXiv:1908.03265): plain momentum until the variance estimate can be trusted.

    It can where rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t) > 5, with rho_inf = 2 / (1 - beta2) - 1.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, decoupled_weight_decay: bool = False, *, maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, betas=checked_betas(betas), eps=eps, weight_decay=weight_decay,
                                      decoupled_weight_decay=decoupled_weight_decay, maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        start, g = self.decay(w, g, group)
        m, new_m, v, new_v = self.moments(w, g, group)
        t, beta2 = self.step_number, group.betas[1]
        first, second = self.corrections(group)
        longest = 2.0 / (1.0 - beta2) - 1.0
        length = longest - 2.0 * t * beta2 ** t / second
        trusted = length > 5.0
        safe = maximum(length, 5.0)  # the root of the untaken branch stays real
        rectifier = sqrt((safe - 4.0) * (safe - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * safe))
        adaptive = (rectifier * sqrt(second)) / (sqrt(new_v) + group.eps)
        step = (group.lr / first) * new_m
        return {w: start - step * where(trusted, adaptive, 1.0), m: new_m, v: new_v}


class LAMB(_Moments):
    """Layer-wise adaptive moments (You et al., arXiv:1904.00962, algorithm 2), with OneFlow's arguments.

    u = m^ / (sqrt(v^) + eps) + weight_decay * w, where ^ is the bias correction;
    w' = w - lr * (|w| / |u|) * u, the ratio being 1 where a norm is zero.
    With ``adam_w_mode=False`` the decay is added to the gradient instead.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, adam_w_mode: bool = True, do_bias_correction: bool = True, *,
                 maximize: bool = False) -> None:
        super().__init__(params, dict(lr=lr, betas=checked_betas(betas), eps=eps, weight_decay=weight_decay,
                                      adam_w_mode=adam_w_mode, do_bias_correction=do_bias_correction,
                                      maximize=maximize))

    def update(self, w: Parameter, g: Tensor, group: ParamGroup) -> dict[Parameter, Any]:
        decay = group["weight_decay"]
        if not group["adam_w_mode"]:
            g, decay = with_decay(w, g, decay), 0.0
        m, new_m, v, new_v = self.moments(w, g, group)
        mean, root = new_m, sqrt(new_v)
        if group["do_bias_correction"]:
            first, second = self.corrections(group)
            mean, root = mean * (1.0 / first), root * rsqrt(second)
        direction = with_decay(w, mean / (root + group.eps), decay)
        w_norm, length = norm(w), norm(direction)
        ratio = where((w_norm > 0) & (length > 0), w_norm / length, 1.0)
        return {w: w - (group.lr * ratio) * direction, m: new_m, v: new_v}
