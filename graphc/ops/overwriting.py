"""Symbols that are overwritten: `x[0] = 1` and `inplace=True` make a symbol another value from there on.

Nothing in a graph is ever changed: the Python object stands for a new node.  In PyTorch, what shares memory with it changes,
too.  Views of a symbol are remembered for that: once one is overwritten, those that overlap with it cannot be read any more,
so that nobody reads what PyTorch would have changed.  Knows which objects share memory in PyTorch.  Must not know what is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any
from weakref import ref

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..ir import Node, next_number
from ..keywords import VIEWS
from ..methods import FUNCTIONS, public
from ..op import Kind
from ..origins import at, user_origin
from ..symbols import Parameter, Tensor, TensorLike, as_tensor, detaching
from .elementwise import cast

LARGEST = 1 << 20  # elements of which it is computed whether two views overlap; of more they are taken to

_since: ContextVar[int] = ContextVar("since", default=0)  # nodes before this number are outside of the body being traced


@contextmanager
def body() -> Iterator[None]:
    """Inside, a body is traced that may run any number of times: what is from outside is not overwritten."""
    token = _since.set(next_number())
    try:
        yield
    finally:
        _since.reset(token)


def in_body() -> bool:
    """Whether the body of a loop, branch or checkpoint is being traced."""
    return _since.get() > 0


FREE, LENT, FIXED = range(3)


class Memory:
    """What a symbol and views of it share in PyTorch.

    fixed   whether it is an input or a parameter: FREE, FIXED, or LENT, an input that a module's forward was given, which
            `inplace=True` overwrites for what follows in that forward
    root    the node of the symbol that all are views of
    """

    __slots__ = ("fixed", "members", "root")

    def __init__(self, owner: Tensor, fixed: int) -> None:
        self.fixed, self.root = fixed, owner.node
        self.members = [ref(owner)]

    def living(self) -> list[Tensor]:
        return [m for r in self.members if (m := r()) is not None]

    def add(self, view: Tensor) -> None:
        if len(self.members) > 16:
            self.members = [r for r in self.members if r() is not None]
        self.members.append(ref(view))
        view.memory = self


def memory_of(x: Tensor) -> Memory:
    """The memory that a symbol would have; its own where nothing is known to share it."""
    if x.memory is None:
        x.memory = Memory(x, FIXED if isinstance(x, Parameter) or is_input(x.node) else FREE)
    return x.memory


def is_input(node: Node) -> bool:
    """Whether a program is given its value, also that of a parameter."""
    return node.op.kind is Kind.SOURCE and node.op.is_given


def lent(x: Any) -> Any:
    """An input as the forward of a module gets it: another symbol of the same node, of which the caller's is independent."""
    if not isinstance(x, Tensor) or isinstance(x, Parameter) or not is_input(x.node) or memory_of(x).fixed is not FIXED:
        return x
    new = Tensor(x.node)
    new.memory = Memory(new, LENT)
    return new


@public
def clone(x: TensorLike) -> Tensor:
    """The same value as a symbol of its own: what overwrites one of the two (`x[0] = 1`, `x.relu_()`) leaves the other."""
    new = Tensor(as_tensor(x).node)
    new.memory = Memory(new, FREE)
    return new


def shared(x: Tensor) -> Tensor:
    """The same value for PyTorch's `contiguous`, which may share memory with x or not: whoever writes to one reads no other."""
    if isinstance(x, Parameter):
        return x
    new = Tensor(x.node)
    memory_of(x).add(new)
    return new


def apart(result: Tensor, given: Any) -> Tensor:
    """The result of a function that is a copy in PyTorch: a symbol of its own even where there was nothing to compute."""
    return clone(result) if result is given else result


def _chain(node: Node, root: Node) -> list[Node] | None:
    """The views between a node and what it is a view of, outermost first; None if it is none."""
    found: list[Node] = []
    while node is not root:
        if (node.op.kind is not Kind.VIEW and node.op.name != "stop_gradient") or len(node.inputs) != 1:
            return None
        found.append(node)
        node = node.inputs[0]
    return found


def _places(node: Node, root: Node) -> np.ndarray | None:
    """Which elements of the root a view has, by number."""
    chain = _chain(node, root)
    if chain is None or root.type.is_open or int(root.type.size) > LARGEST:
        return None
    places = np.arange(int(root.type.size)).reshape(root.shape)
    for view in reversed(chain):
        places = places if view.op.kind is not Kind.VIEW else view.op.numpy(places, **view.attributes)
    return places


Span = tuple[int, int, int]  # the first place on an axis, the last, and the step between two


def _spans(views: list[Node]) -> dict[int, Span]:
    """What the slices that come first leave of each axis, where it is known."""
    found: dict[int, Span] = {}
    for view in views:
        if view.op.kind is not Kind.VIEW:
            continue
        if view.op.name != "slice":
            break
        said = [view.attributes[name] for name in ("starts", "steps", "sizes")]
        for axis, (start, step, size) in enumerate(zip(*said, strict=True)):
            first, _, stride = found.get(axis, (0, 0, 1))
            if all(isinstance(v, int) for v in (first, start, size)):
                found[axis] = first + start * stride, first + (start + (size - 1) * step) * stride, stride * step
            else:
                found[axis] = first, first - 1, 0  # unknown from here on
    return {axis: span for axis, span in found.items() if span[2]}


def _side_by_side(a: Node, b: Node, root: Node) -> bool:
    """Whether two views are slices that have nothing in common, of one view of the root, as parts of it are."""
    one, other = _chain(a, root), _chain(b, root)
    if one is None or other is None:
        return False
    one.reverse()
    other.reverse()
    shared = next((k for k, (p, q) in enumerate(zip(one, other, strict=False)) if p is not q), min(len(one), len(other)))
    mine, theirs = _spans(one[shared:]), _spans(other[shared:])
    return any(p[1] < q[0] or q[1] < p[0] or (p[2] == q[2] and (p[0] - q[0]) % p[2] != 0)
               for axis, p in mine.items() if (q := theirs.get(axis)) is not None)


def _overlap(a: Node, b: Node, root: Node) -> bool:
    if _side_by_side(a, b, root):
        return False
    one, other = _places(a, root), _places(b, root)
    return one is None or other is None or bool(np.isin(one, other).any())


def overwrite(x: Tensor, value: Tensor, what: str, must: bool = True) -> Tensor:
    """x itself, which is `value` from now on; x must be what a program computed, here and with gradients as they are.

    what   how a message names the writing
    must   False: the value itself where x is not overwritten, instead of an error
    Raises ShapeError for another shape, GraphError for an input, a parameter or a symbol from outside of a body.
    """
    if value.shape != x.shape:
        raise ShapeError(f"{what}: {x.type} cannot become {value.type}{at(user_origin())}")
    memory, node = memory_of(x), x.node
    kept = node.op.kind is Kind.SOURCE or node.op.name == "stop_gradient" or not node.dtype.is_float
    reason = ("an input or a parameter, or a view of one" if memory.fixed > (FREE if must else LENT) else
              "from outside of the body of this loop, branch or checkpoint" if node.number < _since.get() else
              "computed with gradients, which no_grad would stop" if detaching.get() and not kept else "")
    if reason and must:
        cell = memory.root.attributes.get("cell")
        remedy = "give it another name first: x = x.clone()" if cell is None else "write to the parameter itself: w[0] = value"
        raise GraphError(f"{what}: the symbol is {reason}, and is not overwritten; {remedy}{at(user_origin())}")
    if reason:
        return value
    for other in memory.living():
        if other is not x and _overlap(other.node, node, memory.root):
            other.memory = f"shares memory with one that was overwritten by {what}{at(user_origin())}"
            del other.node
    x.node = cast(value, node.dtype).node
    x.memory = Memory(x, FREE)
    return x


def overwritten(input: Any, result: Tensor, what: str) -> Tensor:
    """The result, which the input is from now on where it is a symbol that can be overwritten."""
    if result is input or not isinstance(input, Tensor):
        return result
    return overwrite(input, result, f"{what}(inplace=True)", must=False)


def overwritten_by(x: Tensor, name: str, *args: Any, **kw: Any) -> Tensor:
    """x, which from now on is what a method gives: `x.add_(1)`.

    Raises DTypeError where an integer would become a float, and what `overwrite` raises.
    """
    value = getattr(x, name)(*args, **kw)
    if value.dtype.is_float and not x.dtype.is_float:
        raise DTypeError(f"x.{name}_(): {x.type} cannot hold {value.type}: x = x.{name}(...){at(user_origin())}")
    return overwrite(x, value, f"x.{name}_()")


def inplace(function: Any) -> Any:
    """The function, which with `inplace` also overwrites its first argument, where that is a symbol of the program."""
    code = function.__code__
    place = code.co_varnames[:code.co_argcount].index("inplace") - 1

    @wraps(function)
    def call(input: Any, *args: Any, **kw: Any) -> Tensor:
        result = function(input, *args, **kw)
        said = kw["inplace"] if "inplace" in kw else len(args) > place and args[place]
        return overwritten(input, result, function.__name__) if said else result

    return call


def _viewing(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kw: Any) -> Any:
        result = function(*args, **kw)
        x = args[0] if args else next((kw[word] for word in ("input", "x", "tensor") if word in kw), None)
        if isinstance(x, Tensor):
            for view in result if isinstance(result, (tuple, list)) else (result,):
                if view is not x and isinstance(view, Tensor):
                    memory = memory_of(x)
                    if _chain(view.node, memory.root) is not None:
                        memory.add(view)
        return result

    return call


def remember_views() -> None:
    """From now on views that users make are remembered; called once, when all functions are there."""
    for name in VIEWS:
        FUNCTIONS[name] = _viewing(FUNCTIONS[name])
    FUNCTIONS.update(overwritten_by=overwritten_by, shared=shared)
