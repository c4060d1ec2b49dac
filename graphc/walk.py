"""One walk over what depends on what.  Must not know what is walked over."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def operands_first(roots: Iterable[T], operands: Callable[[T], Iterable[T]]) -> list[T]:
    """Everything that the roots need, each once, behind its operands; iterative, since graphs get deep."""
    order: list[T] = []
    seen: set[T] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack: list[tuple[T, Iterator[T]]] = [(root, iter(operands(root)))]
        while stack:
            item, rest = stack[-1]
            for operand in rest:
                if operand not in seen:
                    seen.add(operand)
                    stack.append((operand, iter(operands(operand))))
                    break
            else:
                order.append(item)
                stack.pop()
    return order
