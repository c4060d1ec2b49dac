"""Records and named tuples against what the standard library makes of the same words."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from graphc import records


def classes(record: Any, field: Any) -> tuple[Any, ...]:
    @record(frozen=True)
    class Point:
        x: int
        y: int = 2
        kind: ClassVar[str] = "point"

        def __repr__(self) -> str:
            return "a point"

    @record()
    class Bag:
        name: str
        items: list[int] = field(default_factory=list)
        seen: int = 0

        def __post_init__(self) -> None:
            self.seen += 1

    @record(frozen=True, kw_only=True)
    class Base:
        left: int
        right: int = 5

    @record(frozen=True, kw_only=True)
    class Both(Base):
        far: float
        note: dict[str, int] = field(compare=False)

    @record(frozen=True, eq=False)
    class Alone:
        value: int

    return Point, Bag, Both, Alone


OURS, THEIRS = classes(records.record, records.field), classes(dataclasses.dataclass, dataclasses.field)
KINDS = list(zip(OURS, THEIRS, strict=True))
CALLS: list[tuple[int, tuple, dict[str, Any]]] = [
    (0, (1,), {}), (0, (1, 3), {}), (0, (1,), {"y": 4}), (0, (), {"y": 1, "x": 7}), (1, ("a",), {}), (1, ("a", [1]), {}),
    (1, ("a",), {"seen": 4}), (2, (), {"left": 1, "far": 0.5, "note": {}}),
    (2, (), {"left": 1, "right": 2, "far": 0.5, "note": {"a": 1}}), (3, (4,), {})]
WRONG: list[tuple[int, tuple, dict[str, Any]]] = [
    (0, (), {}), (0, (1, 2, 3), {}), (0, (1,), {"x": 2}), (0, (1,), {"z": 2}), (2, (1,), {"far": 0.5, "note": {}}),
    (2, (), {"left": 1}), (2, (), {"left": 1, "far": 0.5, "note": {}, "z": 3}), (1, (), {"items": []})]


@pytest.mark.parametrize("case", CALLS, ids=str)
def test_records_hold_print_and_compare_as_dataclasses_do(case: tuple[int, tuple, dict[str, Any]]) -> None:
    number, values, named = case
    ours, theirs = (kind(*values, **named) for kind in KINDS[number])
    assert vars(ours) == dataclasses.asdict(theirs) and repr(ours) == repr(theirs)
    again = tuple(kind(*values, **named) for kind in KINDS[number])
    assert (ours == again[0]) is (theirs == again[1]) and ours == ours and ours != 5
    assert vars(copy.copy(ours)) == vars(ours)
    if type(theirs).__hash__ is None:
        assert type(ours).__hash__ is None
    else:
        assert (hash(ours) == hash(again[0])) is (hash(theirs) == hash(again[1]))


def test_fields_that_do_not_compare_do_not_count() -> None:
    one, other = (OURS[2](left=1, far=0.5, note={"a": n}) for n in range(2))
    assert one == other and hash(one) == hash(other) and one != records.replace(one, far=1.0)


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_fields_are_type_errors(case: tuple[int, tuple, dict[str, Any]]) -> None:
    number, values, named = case
    for kind in KINDS[number]:
        with pytest.raises(TypeError):
            kind(*values, **named)


def test_defaults_are_made_anew_and_frozen_fields_stay() -> None:
    a, b = OURS[1]("a"), OURS[1]("b")
    a.items.append(1)
    a.name = "c"
    assert (a.name, a.items, b.items, b.seen) == ("c", [1], [], 1)
    for change in (lambda p: setattr(p, "x", 3), lambda p: delattr(p, "x")):
        with pytest.raises(AttributeError):
            change(OURS[0](1))


@pytest.mark.parametrize("replace", [records.replace, dataclasses.replace], ids=["ours", "theirs"])
def test_replace(replace: Callable[..., Any]) -> None:
    point, bag, both, _ = OURS if replace is records.replace else THEIRS
    assert replace(point(1), y=5) == point(1, 5)
    assert replace(bag("a", [1]), name="b").seen == 2  # it is made, and says so
    assert replace(both(left=1, far=2.0, note={}), right=7).right == 7
    for wrong in (lambda: replace(point(1), z=5), lambda: replace(both(left=1, far=2.0, note={}), z=5)):
        with pytest.raises(TypeError):
            wrong()


def tuple_class(name: str, base: Any) -> Any:
    class Made(base):
        """Has a line of its own."""

        a: int
        b: tuple[int, ...] = ()
        c: Any = None

        @property
        def length(self) -> int:
            return len(self.b)

    assert repr(Made(1)) == "Made(a=1, b=(), c=None)"  # without the function's name, as tuples have it
    Made.__name__ = Made.__qualname__ = name  # as it is found for pickling
    return Made


Ours, Theirs = tuple_class("Ours", records.NamedTuple), tuple_class("Theirs", typing.NamedTuple)


@pytest.mark.parametrize("values, named", [((1,), {}), ((1, (2, 3)), {}), ((1, (), 4), {}), ((), {"a": 1, "c": 2}),
                                           ((1,), {"c": 3})])
def test_named_tuples_are_those_of_the_standard_library(values: tuple, named: dict[str, Any]) -> None:
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)
    assert ours == theirs == tuple(ours) and hash(ours) == hash(theirs) and isinstance(ours, tuple)
    assert (ours.a, ours.b, ours.c, ours.length) == (theirs.a, theirs.b, theirs.c, theirs.length)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours._replace(b=(1,)) == theirs._replace(b=(1,)) and copy.deepcopy(ours) == pickle.loads(pickle.dumps(ours)) == ours
    assert not hasattr(ours, "__dict__")
    for kind in (Ours, Theirs):
        for wrong in (lambda k=kind: k(), lambda k=kind: k(1, 2, 3, 4), lambda k=kind: k(1, d=2), lambda k=kind: k(1, a=2)):
            with pytest.raises(TypeError):
                wrong()
