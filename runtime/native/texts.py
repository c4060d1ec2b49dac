"""A module as several texts that are compiled by themselves and then linked, cut while the module is being written.

Knows functions, who calls whom, and linkage.  Must not know what the functions do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from graphc.runtime.native.emit import Module

SYMBOL = re.compile(r"@([\w.]+)")
PRIVATE = re.compile("^(private unnamed_addr|internal) ")
FIRST_SHARE = 8  # of the characters of a text: so short is the first, and each is twice as long as the one before
ARRAY = re.compile(r"(constant|global) (\[[^]]*\]).*(, align \d+)")


class Texts:
    """Cuts a module into texts of about so many characters, the first ones shorter, so that compiling begins soon.

    Functions are taken in the order in which they were begun, so where the cuts are depends on the module alone.  A
    function or array is defined in one text and declared in the others that name it; a function that is always inlined is
    part of each text that calls it.

    last   functions that are written until the end: they are taken last
    """

    def __init__(self, module: Module, characters: int, last: Sequence[str] = ()) -> None:
        self.module, self.characters, self.last = module, characters, last
        self.now = characters // FIRST_SHARE  # of the text to come
        self.taken: set[str] = set()
        self.group: dict[str, str] = {}  # functions of the text to come, and what they say
        self.size = 0
        self.cut = False
        self.placed: set[str] = set()  # arrays that a text defines

    def ready(self) -> Iterator[str]:
        """The texts that have become complete: all functions but the last must be, as far as they are begun."""
        for name, function in self.module.functions.items():
            if name in self.taken or name in self.last or function.always_inlined:
                continue
            yield from self._take(name)

    def rest(self, apart: bool = False) -> Iterator[str]:
        """The texts that are left when the module is complete; the last functions are one by themselves if `apart`."""
        yield from self.ready()
        if apart and self.group:
            yield self._unit()
        for name in self.last:
            function = self.module.functions.get(name)
            if function is not None and not function.always_inlined:
                self._add(name)
        yield self._unit() if self.cut else self.module.text()

    def _take(self, name: str) -> Iterator[str]:
        length = self.module.functions[name].characters
        if self.group and self.size + length / 2 > self.now:
            yield self._unit()
            self.now = min(2 * self.now, self.characters)
        self._add(name)

    def _add(self, name: str) -> None:
        self.group[name] = text = self.module.functions[name].text()
        self.size += len(text)
        self.taken.add(name)

    def _unit(self) -> str:
        """The functions taken since the last text, with all that they name."""
        module, texts, names = self.module, self.group, list(self.group)
        self.group, self.size, self.cut = {}, 0, True
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
        return "\n".join(parts) + "\n"
