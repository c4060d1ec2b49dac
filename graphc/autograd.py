"""Functions with a gradient of their own in PyTorch's words: `graphc.autograd.Function`.

Knows how `forward(ctx, ...)` and `backward(ctx, ...)` become a `custom_vjp`.  Must not know differentiation.
"""

from __future__ import annotations

from typing import Any

from .errors import GraphError
from .ops.custom import custom_vjp
from .origins import at, user_origin
from .symbols import Tensor


class Context:
    """What `forward` leaves for `backward`: saved tensors, and any attributes.

    needs_input_grad   for each argument whether it is a floating tensor
    """

    needs_input_grad: tuple[bool, ...]

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(isinstance(a, Tensor) and a.dtype.is_float for a in args)
        self._saved: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for `backward`."""
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given."""
        return self._saved


class Function:
    """A differentiable function, as torch.autograd.Function: a subclass has static `forward` and `backward`.

    forward(ctx, *args)     gives a tensor or a tuple of them
    backward(ctx, *grads)   one cotangent per result; gives one per argument of `forward` (None where none flows)

    Call it as ``Square.apply(x)``.  Both are traced on symbols, `forward` once more when a gradient is taken.  What
    `graphc.custom_vjp` says about gradients of gradients and `jvp` holds here.
    """

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Any:
        raise GraphError(f"a Function needs a static forward(ctx, ...){at(user_origin())}")

    @staticmethod
    def backward(ctx: Context, *grads: Any) -> Any:
        raise GraphError(f"a Function needs a static backward(ctx, ...){at(user_origin())}")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The function of these arguments."""
        if "_custom" not in vars(cls):
            cls._custom = cls._as_custom_vjp()
        return cls._custom(*args)

    _custom: custom_vjp

    @classmethod
    def _as_custom_vjp(cls) -> custom_vjp:
        def function(*args: Any) -> Any:
            return cls.forward(Context(args), *args)

        def forward(*args: Any) -> tuple[Any, Context]:
            ctx = Context(args)
            return cls.forward(ctx, *args), ctx

        def backward(ctx: Context, cotangent: Any) -> Any:
            found = cls.backward(ctx, *(cotangent if isinstance(cotangent, (tuple, list)) else (cotangent,)))
            return tuple(found) if isinstance(found, (tuple, list)) else (found,)

        custom = custom_vjp(_named(function, cls.__name__, cls.forward))
        custom.defvjp(_named(forward, f"{cls.__name__}.forward", cls.forward),
                      _named(backward, f"{cls.__name__}.backward", cls.backward))
        return custom


def _named(function: Any, name: str, source: Any) -> Any:
    """The function under a name and with the source line that messages give."""
    function.__name__, function.__wrapped__ = name, source
    return function
