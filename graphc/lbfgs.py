"""L-BFGS: a driver in Python around a compiled function that gives the loss and its gradients.

Knows the limited-memory update and the line search (Nocedal and Wright, Numerical Optimization, 2nd ed., algorithms
3.5, 3.6 and 7.4), on flat float64 vectors.  Must not know how loss and gradients are computed: the number of
evaluations of a step depends on their values, so the step is no static graph as other optimizers' are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .driver import Program, function, inputs_of
from .errors import CheckpointError, GraphError
from .optim.groups import without_names
from .origins import at, user_origin
from .passes.autodiff import grad
from .symbols import Parameter, Tensor

Vector = np.ndarray
Closure = Callable[[], tuple[Any, Sequence[Any]]]

SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9  # c1 and c2 of the strong Wolfe conditions
LEAST_CURVATURE = 1e-10  # pairs with less are left out of the memory, so that the approximation stays positive


class Trial(NamedTuple):
    """A point of the line search: how far, the loss and gradient there, and the slope along the direction."""

    distance: float
    loss: float
    gradient: Vector
    slope: float


class LBFGS:
    """Minimises a loss by limited-memory BFGS, with PyTorch's arguments and stopping rules.

    ::

        optimizer = optim.LBFGS([w], line_search_fn="strong_wolfe")
        for _ in range(5):
            loss = optimizer.minimize(error, x=X, y=Y)       # up to max_iter iterations; the loss before them

    params            parameters; all that require a gradient are moved together
    lr                length of the first trial step; without a line search, of every step
    max_iter          iterations per call; max_eval evaluations (5/4 of max_iter)
    tolerance_grad    stops where no element of the gradient is greater
    tolerance_change  stops where loss or parameters change less
    history_size      pairs of steps and gradient changes that approximate the inverse Hessian
    line_search_fn    "strong_wolfe", or None for steps of fixed length
    """

    def __init__(self, params: Iterable[Parameter], lr: float = 1.0, max_iter: int = 20, max_eval: int | None = None,
                 tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
                 line_search_fn: str | None = None) -> None:
        self.params = [p for p in without_names({"params": params}, "LBFGS")["params"] if p.requires_grad]
        if not self.params:
            raise GraphError(f"LBFGS got no parameters that require a gradient{at(user_origin())}")
        if line_search_fn not in (None, "strong_wolfe"):
            raise GraphError(f"line_search_fn is 'strong_wolfe' or None, got {line_search_fn!r}{at(user_origin())}")
        if lr <= 0 or max_iter < 1 or history_size < 1:
            raise GraphError(f"LBFGS needs lr > 0, max_iter >= 1 and history_size >= 1{at(user_origin())}")
        self.param_groups: list[dict[str, Any]] = [dict(
            params=self.params, lr=lr, max_iter=max_iter, max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad, tolerance_change=tolerance_change, history_size=history_size,
            line_search_fn=line_search_fn)]
        self.iterations = 0  # over all calls
        self.evaluations = 0
        self._direction: Vector | None = None
        self._distance = 0.0
        self._gradient: Vector | None = None  # of the iteration before
        self._changes: list[tuple[Vector, Vector]] = []  # (step, change of the gradient), oldest first
        self._scale = 1.0  # of the initial inverse Hessian
        self._programs: dict[Tensor, Program] = {}

    # -- driving -----------------------------------------------------------------------------------------------

    def compile(self, loss: Tensor, **options: Any) -> Program:
        """The program that `minimize` runs: the loss and its gradients; `options` are those of `graphc.function`."""
        return function(inputs_of([loss]), (loss, grad(loss, self.params)), name="lbfgs", **options)

    def minimize(self, loss: Tensor, **feeds: Any) -> float:
        """Up to max_iter iterations on these arrays; the loss before the first.  Compiled at the first call."""
        program = self._programs.get(loss)
        if program is None:
            program = self._programs[loss] = self.compile(loss)
        return self.step(lambda: program(**feeds))

    def step(self, closure: Closure) -> float:
        """Up to max_iter iterations; `closure()` gives the loss and the gradients of the parameters, in their order.

        Returns the loss before the first.
        """
        group = self.param_groups[0]
        tolerance, limit = group["tolerance_change"], group["max_eval"]
        loss, gradient = self._evaluate(closure)
        first, done = loss, 1
        if np.abs(gradient).max(initial=0.0) <= group["tolerance_grad"]:
            return first
        for iteration in range(1, group["max_iter"] + 1):
            direction = self._next_direction(gradient)
            start_length = group["lr"] * (min(1.0, 1.0 / np.abs(gradient).sum()) if self.iterations == 0 else 1.0)
            self.iterations += 1
            self._direction, self._gradient, previous = direction, gradient, loss
            self._distance = start_length
            slope = float(gradient @ direction)
            if slope > -tolerance:
                break
            origin = self._position()
            if group["line_search_fn"] == "strong_wolfe":

                def evaluate(distance: float, origin: Vector = origin, direction: Vector = direction) -> Trial:
                    self._move(origin + distance * direction)
                    value, there = self._evaluate(closure)
                    return Trial(distance, value, there, float(there @ direction))

                found, used = strong_wolfe(evaluate, Trial(0.0, loss, gradient, slope), start_length,
                                           float(np.abs(direction).max()), tolerance, limit - done)
                done += used
                self._distance, loss, gradient = found.distance, found.loss, found.gradient
                self._move(origin + found.distance * direction)
            else:
                self._move(origin + start_length * direction)
                if iteration != group["max_iter"]:  # the last gradient would not be used by this call
                    loss, gradient = self._evaluate(closure)
                    done += 1
            if (done >= limit or np.abs(gradient).max() <= group["tolerance_grad"]
                    or np.abs(direction * self._distance).max() <= tolerance or abs(loss - previous) < tolerance):
                break
        return first

    def _evaluate(self, closure: Closure) -> tuple[float, Vector]:
        self.evaluations += 1
        loss, gradients = closure()
        if len(gradients) != len(self.params):
            raise GraphError(f"the closure gives {len(gradients)} gradients for {len(self.params)} parameters")
        flat = np.concatenate([np.asarray(g, dtype=np.float64).reshape(-1) for g in gradients])
        return float(np.asarray(loss).reshape(())), flat

    def _position(self) -> Vector:
        return np.concatenate([p.cell.array.reshape(-1).astype(np.float64) for p in self.params])

    def _move(self, position: Vector) -> None:
        start = 0
        for p in self.params:
            size = p.cell.size
            p.assign(position[start:start + size].reshape(p.cell.shape))
            start += size

    # -- the direction -----------------------------------------------------------------------------------------

    def _next_direction(self, gradient: Vector) -> Vector:
        """Minus the approximate inverse Hessian times the gradient, by the two-loop recursion (algorithm 7.4)."""
        if self._direction is None or self._gradient is None:
            return -gradient
        change, moved = gradient - self._gradient, self._direction * self._distance
        curvature = float(change @ moved)
        if curvature > LEAST_CURVATURE:
            self._changes = [*self._changes, (moved, change)][-self.param_groups[0]["history_size"]:]
            self._scale = curvature / float(change @ change)
        result = -gradient
        weights = []
        for s, y in reversed(self._changes):
            weight = float(s @ result) / float(s @ y)
            weights.append(weight)
            result = result - weight * y
        result = result * self._scale
        for (s, y), weight in zip(self._changes, reversed(weights), strict=True):
            result = result + (weight - float(y @ result) / float(s @ y)) * s
        return result

    # -- saving ------------------------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: gradients are results of the compiled function, not memory that adds up between calls."""

    def state_dict(self) -> dict[str, Any]:
        """Memory, counters and settings; arrays are copies."""
        settings = {k: v for k, v in self.param_groups[0].items() if k != "params"}
        return {"iterations": self.iterations, "evaluations": self.evaluations, "distance": self._distance,
                "scale": self._scale, "direction": None if self._direction is None else self._direction.copy(),
                "gradient": None if self._gradient is None else self._gradient.copy(),
                "changes": [(s.copy(), y.copy()) for s, y in self._changes],
                "param_groups": [{**settings, "params": list(range(len(self.params)))}]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave; CheckpointError where it is of other parameters."""
        size = sum(p.cell.size for p in self.params)
        pairs = state_dict["changes"]
        vectors = [state_dict["direction"], state_dict["gradient"], *(v for pair in pairs for v in pair)]
        if any(v is not None and np.shape(v) != (size,) for v in vectors):
            raise CheckpointError(f"the state is of other parameters: vectors of {size} elements are needed")
        self.iterations, self.evaluations = int(state_dict["iterations"]), int(state_dict["evaluations"])
        self._distance, self._scale = float(state_dict["distance"]), float(state_dict["scale"])
        self._direction, self._gradient = (None if v is None else np.array(v) for v in vectors[:2])
        self._changes = [(np.array(s), np.array(y)) for s, y in pairs]
        self.param_groups[0].update({k: v for k, v in state_dict["param_groups"][0].items() if k != "params"})


# -- the line search -------------------------------------------------------------------------------------------------


def strong_wolfe(evaluate: Callable[[float], Trial], start: Trial, distance: float, largest: float, tolerance: float,
                 limit: int) -> tuple[Trial, int]:
    """A point along the direction that meets the strong Wolfe conditions, and the number of evaluations.

    evaluate  the trial at a distance;  start  the trial at 0;  distance  the first to try
    largest   greatest element of the direction: a bracket that moves nothing by more than `tolerance` is final
    limit     trials after the first; where they run out the best point so far is the answer
    """

    def too_high(trial: Trial) -> bool:
        return trial.loss > start.loss + SUFFICIENT_DECREASE * trial.distance * start.slope

    def flat(trial: Trial) -> bool:
        return abs(trial.slope) <= -CURVATURE * start.slope

    before, trial, used = start, evaluate(distance), 0
    bracket = None
    while used < limit:
        if too_high(trial) or (used > 1 and trial.loss >= before.loss):
            bracket = before, trial
            break
        if flat(trial):
            return trial, used + 1
        if trial.slope >= 0:
            bracket = before, trial
            break
        further = minimum_of_cubic(before, trial, trial.distance + 0.01 * (trial.distance - before.distance),
                                   10.0 * trial.distance)
        before, trial = trial, evaluate(further)
        used += 1
    if bracket is None:
        bracket = start, trial
    low, high = bracket if bracket[0].loss <= bracket[1].loss else bracket[::-1]
    hesitated = False
    while used < limit and abs(high.distance - low.distance) * largest >= tolerance:
        near, far = sorted((low.distance, high.distance))
        guess = minimum_of_cubic(low, high, near, far)
        margin = 0.1 * (far - near)
        if min(far - guess, guess - near) < margin:  # close to an end: allowed once, then moved inside
            if hesitated or guess >= far or guess <= near:
                guess = far - margin if abs(guess - far) < abs(guess - near) else near + margin
                hesitated = False
            else:
                hesitated = True
        else:
            hesitated = False
        trial = evaluate(guess)
        used += 1
        if too_high(trial) or trial.loss >= low.loss:
            low, high = (low, trial) if low.loss <= trial.loss else (trial, low)
        else:
            if flat(trial):
                return trial, used + 1
            if trial.slope * (high.distance - low.distance) >= 0:
                high = low
            low = trial
    return low, used + 1


def minimum_of_cubic(a: Trial, b: Trial, least: float, greatest: float) -> float:
    """Where the cubic through both losses and slopes is least (equation 3.59), within bounds; else their middle."""
    left, right = (a, b) if a.distance <= b.distance else (b, a)
    width = right.distance - left.distance
    if width == 0:
        return (least + greatest) / 2
    bend = left.slope + right.slope - 3.0 * (left.loss - right.loss) / (left.distance - right.distance)
    square = bend * bend - left.slope * right.slope
    if not square >= 0:
        return (least + greatest) / 2
    root = math.sqrt(square)
    denominator = right.slope - left.slope + 2.0 * root
    if denominator == 0:
        return (least + greatest) / 2
    return min(max(right.distance - width * ((right.slope + root - bend) / denominator), least), greatest)
