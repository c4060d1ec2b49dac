"""Parts of functions as functions of their own.

What is written inside `outlined` becomes a function.  All of a module that say the same about other addresses and other
sizes share it: the gradients of several weights, say, whose tiles are alike and whose rows are not.

Knows names, types and numbers in LLVM's text.  Must not know what the instructions are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from graphc.runtime.native.emit import Function
from graphc.runtime.native.values import Value, i64

SIZE = 64  # integers from here on are sizes, which are given; smaller ones belong to tiles and vectors
INSIDE = 1_000_000  # what is counted inside begins here, so that equal parts have equal names, and others are from outside

OUTSIDE = re.compile(r"%(?![a-z]+\.?1\d{6}\b|entry\b)[\w.]+")
NUMBER = re.compile(r"^(  %\S+ = (?:mul|add|sub|icmp \w+) i64 )(?:(\d+), (%\S+)|(%\S+), (\d+))$", re.MULTILINE)
TYPE = re.compile(r"<\d+ x \w+>|\b(?:ptr|float|double|i\d+)\b")


@contextmanager
def outlined(f: Function, name: str, *given: Value, when: bool = True, care: int = 2) -> Iterator[list[Value]]:
    """The body is written into a function of its own, which is called here; `name`: how its name begins.

    given: yielded as parameters, even where they are numbers.  when: else nothing happens, and `given` is yielded as it is.
    care: see `emit.Function`; only functions of equal care are shared.
    What the body computes must not be used behind it, but for what it stores.
    """
    if not when:
        yield list(given)
        return
    inside = [Value(f"%given{place}", value.type) for place, value in enumerate(given)]
    outside = f.lines, f.stack_lines, f.current, f.computed, f.count
    f.lines, f.stack_lines, f.current, f.computed, f.count = [], [], "entry", {}, INSIDE
    yield inside
    text = "\n".join([*f.stack_lines, *f.lines])
    f.lines, f.stack_lines, f.current, f.computed, f.count = outside
    text, arguments = with_parameters(text, dict(zip([p.name for p in inside], given, strict=True)))
    known, key = f.module.outlined, (text, care)
    if key not in known:
        known[key] = f"{name}.{len(known)}"
        parameters = [(f"p{place}", argument.type) for place, argument in enumerate(arguments)]
        own = f.module.function(known[key], parameters, attributes="noinline nounwind", care=care)
        own.lines.append(text)
    f.call(known[key], arguments)


def with_parameters(text: str, given: dict[str, Value]) -> tuple[str, list[Value]]:
    """A function's body whose addresses, values from outside and sizes are parameters p0, p1, ...; and what they are here."""
    arguments: list[Value] = []
    parameters: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        found = match.group()
        if found not in parameters:
            before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
            parameters[found] = f"%p{len(arguments)}"
            # the second operand has the type of the first
            arguments.append(given[found] if found in given else Value(found, TYPE.findall(before)[-1]))
        return parameters[found]

    def number(match: re.Match[str]) -> str:
        head, first, second, left, right = match.groups()
        size = int(first or right)
        if size < SIZE:
            return match.group()
        arguments.append(i64(size))
        given = f"%p{len(arguments) - 1}"
        return f"{head}{given}, {second}" if first else f"{head}{left}, {given}"

    return NUMBER.sub(number, OUTSIDE.sub(name, text)), arguments
