"""Gradients in PyTorch's words: `graphc.autograd.grad`, and functions with one of their own, `graphc.autograd.Function`.

Knows how `forward(ctx, ...)` and `backward(ctx, ...)` become a `custom_vjp`, and what PyTorch's arguments mean.  Must not know
how anything is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import DTypeError, GraphError, ShapeError
from .ops.control import stop_gradient
from .ops.custom import custom_vjp
from .ops.sources import zeros
from .origins import at, user_origin
from .symbols import Tensor, TensorLike, as_tensor, constant


def grad(outputs: Tensor | Sequence[Tensor], inputs: Tensor | Sequence[Tensor],
         grad_outputs: TensorLike | Sequence[TensorLike | None] | None = None, retain_graph: bool | None = None,
         create_graph: bool = False, allow_unused: bool | None = None, is_grads_batched: bool = False,
         materialize_grads: bool = False) -> tuple[Any, ...]:
    """torch.autograd.grad: a tuple with the gradient of the sum of outputs, times `grad_outputs`, for each of the inputs.

    outputs            a floating tensor, or several
    inputs             a floating tensor, or several: any of the graph
    grad_outputs       a cotangent of its shape for each output; None for 1 of an output with one element
    create_graph       False: the gradients are constants for further gradients, as in PyTorch; True lets these pass
    retain_graph       without meaning: graphs stay
    allow_unused       None for an input that no output depends on, which is a GraphError otherwise
    materialize_grads  zeros for such an input

    `graphc.grad(loss, x)` is the same of a scalar, with gradients that can be differentiated.
    Raises ShapeError, DTypeError or GraphError for what has no gradient.
    """
    if is_grads_batched:
        raise GraphError(f"autograd.grad: no batches of cotangents; graphc.jacobian gives all derivatives{at(user_origin())}")
    outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    wrt = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for tensor in (*outs, *wrt):
        if not isinstance(tensor, Tensor) or not tensor.dtype.is_float:
            raise DTypeError(f"autograd.grad is of floating symbols, got {tensor!r}{at(user_origin())}")
    single = grad_outputs is None or isinstance(grad_outputs, Tensor) or hasattr(grad_outputs, "dtype")
    several: Any = grad_outputs
    given = [several] * (len(outs) if several is None else 1) if single else list(several)
    if len(given) != len(outs):
        raise GraphError(f"autograd.grad: {len(outs)} outputs and {len(given)} grad_outputs{at(user_origin())}")
    from .passes.autodiff import pulled  # it stands above

    unused = allow_unused or materialize_grads
    found = pulled(outs, wrt, [_seed(out, g) for out, g in zip(outs, given, strict=True)],
                   None if unused else "leave it out, or pass allow_unused=True to get None")
    filled = [zeros(x.shape, x.dtype) if g is None and materialize_grads else g for g, x in zip(found, wrt, strict=True)]
    return tuple(g if create_graph or g is None else stop_gradient(g) for g in filled)


def _seed(out: Tensor, given: TensorLike | None) -> Tensor:
    if given is None:
        if any(size != 1 for size in out.shape):
            raise ShapeError(f"autograd.grad: {out.type} is no scalar: give grad_outputs, or reduce it with .sum() or .mean()"
                             f"{at(user_origin())}")
        return constant(1.0, out.dtype).reshape(out.shape)
    seed = as_tensor(given, out)
    if seed.shape != out.shape:
        raise ShapeError(f"autograd.grad: an output is {out.type}, its cotangent {seed.type}{at(user_origin())}")
    return seed.astype(out.dtype)


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
