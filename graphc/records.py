"""Records and named tuples: classes that are little more than their fields.

What `dataclass` and `NamedTuple` of the standard library offer, as far as graphc uses them and in the same words.  Those write
and compile up to six functions for every class, a quarter of a millisecond and more for each in every process; here all classes
share a few.
Knows annotations (as strings) and defaults.  Must not know what any field means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


class _Field:
    """A field without a plain default."""

    __slots__ = ("compare", "default_factory")

    def __init__(self, default_factory: Callable[[], Any] | None, compare: bool) -> None:
        self.default_factory, self.compare = default_factory, compare


_NEEDED = _Field(None, True)


def field(*, default_factory: Callable[[], Any] | None = None, compare: bool = True) -> Any:
    """A field whose default is made anew for each object, or that does not count when objects are compared."""
    return _Field(default_factory, compare)


@dataclass_transform(field_specifiers=(field,))
def record(*, frozen: bool = False, eq: bool = True, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """Makes a class's annotations its fields, in order, after those of the records it inherits from.

    What the class defines itself stays: `__repr__`, say.  `__post_init__` is called when an object has its fields.

    frozen   fields are not assigned again
    eq       objects with equal fields are equal, and where they are frozen have a hash; else each is equal to itself alone
    kw_only  fields are given by name
    """

    def made(cls: type[T]) -> type[T]:
        fields: dict[str, Any] = {}
        for base in cls.__mro__[:0:-1]:
            fields.update(vars(base).get("_fields", {}))
        for name, kind in cls.__annotations__.items():
            if not kind.startswith("ClassVar"):
                fields[name] = vars(cls).get(name, _NEEDED)
                if isinstance(fields[name], _Field) and name in vars(cls):
                    delattr(cls, name)
        compared = attrgetter(*(n for n, default in fields.items() if not isinstance(default, _Field) or default.compare))
        initial = _by_name(cls, fields) if kw_only else _in_order(cls, fields)
        methods: dict[str, Any] = {"_fields": fields, "__init__": initial, "__repr__": _repr}
        if frozen:
            methods |= {"__setattr__": _refuse, "__delattr__": _refuse}
        if eq:
            methods |= {"__eq__": _equality(compared), "__hash__": _hash(compared) if frozen else None}
        for name, method in methods.items():
            if name not in vars(cls):
                setattr(cls, name, method)
        return cls

    return made


def replace(record: T, **changes: Any) -> T:
    """A record like this one but for these fields."""
    cls: Any = type(record)
    kept = {name: getattr(record, name) for name in cls._fields}
    kept.update(changes)
    if len(kept) > len(cls._fields) or hasattr(cls, "__post_init__") or isinstance(record, tuple):
        return cls(**kept)  # raises where there is no such field
    new = cls.__new__(cls)
    vars(new).update(kept)
    return new


if TYPE_CHECKING:
    from typing import NamedTuple
else:
    try:
        from _collections import _tuplegetter as entry  # the standard library's own, twice as fast
    except ImportError:

        def entry(place: int, _: str) -> property:
            return property(itemgetter(place))

    class _Named(type):
        """Makes the annotations of a class the names of its entries."""

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = {n: namespace.pop(n, _NEEDED) for n in namespace.get("__annotations__", ())}
            entries = {n: entry(place, "") for place, n in enumerate(fields)}
            return super().__new__(cls, name, bases, {**namespace, **entries, "__slots__": (), "_fields": fields})

    class NamedTuple(tuple, metaclass=_Named):
        """A tuple whose entries have names: the annotations of a class that is derived from this one.

        The standard library's makes objects faster where they come by the ten thousand, or with defaults.
        """

        def __new__(cls, *values: Any, **named: Any) -> NamedTuple:
            if named or len(values) != len(cls._fields):
                values = _arranged(cls.__name__, cls._fields, values, named)
            return tuple.__new__(cls, values)

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({_spelled(self)})"  # tuples are called by their names, records by their places

        def _replace(self, **changes: Any) -> NamedTuple:
            return replace(self, **changes)


def _in_order(cls: type, fields: Mapping[str, Any]) -> Callable[..., None]:
    names, put, finish = tuple(fields), object.__setattr__, getattr(cls, "__post_init__", None)

    def __init__(self: Any, *values: Any, **named: Any) -> None:
        if named or len(values) != len(names):
            values = _arranged(cls.__name__, fields, values, named)
        for name, value in zip(names, values, strict=True):
            put(self, name, value)
        if finish is not None:
            finish(self)

    return __init__


def _by_name(cls: type, fields: Mapping[str, Any]) -> Callable[..., None]:
    plain = {name: default for name, default in fields.items() if not isinstance(default, _Field)}

    def __init__(self: Any, **named: Any) -> None:
        held = vars(self)
        held.update(plain)
        held.update(named)
        if held.keys() != fields.keys():
            held.update(zip(fields, _arranged(cls.__name__, fields, (), named), strict=True))

    return __init__


def _arranged(of: str, fields: Mapping[str, Any], values: Sequence[Any], named: dict[str, Any]) -> tuple[Any, ...]:
    """A value for each field, in order."""
    result = list(values)
    for name, default in islice(fields.items(), len(values), None):
        if named and name in named:
            result.append(named.pop(name))
        elif type(default) is not _Field:
            result.append(default)
        elif default.default_factory is not None:
            result.append(default.default_factory())
        else:
            raise TypeError(f"{of}() needs '{name}'")
    if named or len(result) > len(fields):
        raise TypeError(f"{of}() takes {', '.join(fields)}, each once; "
                        f"got {len(values)} in order and {', '.join(named) or 'none'} besides")
    return tuple(result)


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({_spelled(self)})"


def _spelled(self: Any) -> str:
    return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)


def _refuse(self: Any, name: str, *value: Any) -> NoReturn:
    raise AttributeError(f"{type(self).__name__}.{name} stays as it was made")


def _equality(compared: Callable[[Any], Any]) -> Callable[[Any, object], bool]:
    def __eq__(self: Any, other: object) -> bool:
        return compared(self) == compared(other) if type(other) is type(self) else NotImplemented

    return __eq__


def _hash(compared: Callable[[Any], Any]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:
        return hash(compared(self))

    return __hash__
