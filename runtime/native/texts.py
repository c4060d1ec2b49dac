"""A module as several texts that are compiled by themselves and then linked, cut while the module is being written.

Knows functions, who calls whom, linkage, and what care functions are worth.  Must not know what the functions do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from graphc.runtime.native.emit import Function, Module

from graphc.records import NamedTuple

SYMBOL = re.compile(r"@([\w.]+)")
PRIVATE = re.compile("^(private unnamed_addr|internal) ")
FIRST_SHARE = 8  # of the characters of a text: so short is the first, and each is twice as long as the one before
ARRAY = re.compile(r"(constant|global) (\[[^]]*\]).*(, align \d+)")


class Text(NamedTuple):
    """Some functions of a module, to be compiled by themselves.

    quick  whether they may be compiled without any care: see `emit.Function`
    """

    text: str
    quick: bool = False


class Group:
    """Functions of a text to come, and what they say.  limit: about so many characters make a text."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.texts: dict[str, str] = {}

    def add(self, function: Function) -> None:
        self.texts[function.name] = text = function.text()
        self.size += len(text)


class Texts:
    """Cuts a module into texts of about so many characters, the first ones shorter, so that compiling begins soon.

    Functions are taken in the order in which they were begun, so where the cuts are depends on the module alone.  A
    function or array is defined in one text and declared in the others that name it; a function that is always inlined is
    part of each text that calls it.  Functions that are worth no care have texts of their own.

    last   functions that are written until the end: they are taken last
    """

    def __init__(self, module: Module, characters: int, last: Sequence[str] = ()) -> None:
        self.module, self.characters, self.last = module, characters, last
        self.groups = {False: Group(characters // FIRST_SHARE), True: Group(characters)}  # True: compiled without care
        self.taken: set[str] = set()
        self.cut = False
        self.placed: set[str] = set()  # arrays that a text defines

    def ready(self) -> Iterator[Text]:
        """The texts that have become complete: all functions but the last must be, as far as they are begun."""
        for name, function in self.module.functions.items():
            if name in self.taken or name in self.last or function.always_inlined:
                continue
            group = self.groups[not function.care]
            if group.texts and group.size + function.characters / 2 > group.limit:
                yield self._text(not function.care)
                group.limit = min(2 * group.limit, self.characters)
            group.add(function)
            self.taken.add(name)

    def rest(self) -> Iterator[Text]:
        """The texts that are left when the module is complete."""
        yield from self.ready()
        for name in self.last:
            function = self.module.functions.get(name)
            if function is not None and not function.always_inlined:
                self.groups[not function.care].add(function)
        left = [quick for quick, group in self.groups.items() if group.texts]
        if not self.cut and left == [False]:
            yield Text(self.module.text())
            return
        for quick in left:
            yield self._text(quick)

    def _text(self, quick: bool) -> Text:
        """The functions of a group, with all that they name; the group is empty afterwards."""
        group, self.cut = self.groups[quick], True
        module, texts, names = self.module, group.texts, list(group.texts)
        group.texts, group.size = {}, 0
        arrays = {name[1:]: text for text, name in module.globals.items()}
        parts: list[str] = []
        named: dict[str, None] = {}
        for name in names:  # grows
            found = SYMBOL.findall(texts[name])
            named.update(dict.fromkeys(found))
            for other in dict.fromkeys(found):
                if other in module.functions and module.functions[other].always_inlined and other not in texts:
                    names.append(other)
                    texts[other] = module.functions[other].text()
        for symbol in named:
            if symbol in module.functions:
                parts += [] if symbol in texts else [module.functions[symbol].declaration]
            elif symbol not in arrays:
                parts.append(module.declarations[symbol])
            elif symbol in self.placed:
                array = ARRAY.search(arrays[symbol])
                assert array is not None, arrays[symbol]
                kind, type_, alignment = array.groups()
                parts.append(f"@{symbol} = external {kind} {type_}{alignment}")
            else:
                self.placed.add(symbol)
                parts.append(f"@{symbol} = {PRIVATE.sub('', arrays[symbol], count=1)}")
        parts += [texts[n] if module.functions[n].always_inlined else texts[n].replace("define internal ", "define ", 1)
                  for n in names]
        return Text("\n".join(parts) + "\n", quick)
