"""Text as tokens.

Knows numbers, words, strings, names with their sigils, and marks; an error begins with its line.  Must not know what any of
them means.
"""

from __future__ import annotations

import json
import re

from .errors import GraphError

DEPTH = 64  # levels of nesting in a text

_TOKEN = re.compile(r"""
    (?P<space>\s+|\#[^\n]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<name>[%@&](?:[\w.\-$]+|(?=")))
  | (?P<word>[^\W\d]\w*)
  | (?P<mark>//|[()\[\]{}<>,:=+\-*])
""", re.VERBOSE)


class Tokens:
    """Reads text token by token; every error is a GraphError that begins with the line.

    token   the current one, empty at the end of the text; `value` is its text without quotes and sigils
    """

    def __init__(self, text: str) -> None:
        self.text, self.place, self.start, self.depth = text, 0, 0, 0
        self.kind = self.token = self.value_text = ""
        self.advance()

    def fail(self, reason: str, start: int | None = None) -> GraphError:
        """The error at the current token, or at a place; to be raised."""
        at = self.start if start is None else start
        begin, end = self.text.rfind("\n", 0, at) + 1, self.text.find("\n", at)
        shown = self.text[begin:end if end >= 0 else None].strip()
        return GraphError(f"line {self.text.count(chr(10), 0, at) + 1}: {reason}" + (f"\n    {shown[:120]}" if shown else ""))

    def advance(self) -> str:
        """Moves on by one token and returns the one left behind."""
        behind = self.token
        while True:
            self.start = self.place
            match = _TOKEN.match(self.text, self.place)
            if match is None:
                if self.place < len(self.text):
                    letter = self.text[self.place]
                    raise self.fail("a string without its end" if letter == '"' else f"unexpected character {letter!r}")
                self.kind = self.token = self.value_text = ""
                return behind
            self.place = match.end()
            if match.lastgroup != "space":
                break
        self.kind, self.token = str(match.lastgroup), match.group()
        self.value_text = self.token[1:] if self.kind == "name" else self.token
        if self.kind == "name" and len(self.token) == 1:  # %"any name"
            match = _TOKEN.match(self.text, self.place)
            if match is None or match.lastgroup != "string":
                raise self.fail("a name without its end")
            self.place = match.end()
            self.value_text = self._unquoted(match.group())
        elif self.kind == "string":
            self.value_text = self._unquoted(self.token)
        return behind

    def _unquoted(self, text: str) -> str:
        try:
            return str(json.loads(text, strict=False))
        except ValueError:
            raise self.fail(f"no string: {text[:40]}") from None

    def shown(self) -> str:
        return repr(self.token[:40]) if self.token else "the end of the text"

    def at(self, token: str) -> bool:
        return self.token == token and self.kind in ("mark", "word")

    def accept(self, token: str) -> bool:
        """Moves over the token where it is next."""
        if self.at(token):
            self.advance()
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.fail(f"expected '{token}', got {self.shown()}")

    def take(self, kind: str, what: str, sigil: str = "") -> str:
        """The text of a token of this kind."""
        if self.kind != kind or not self.token.startswith(sigil):
            raise self.fail(f"expected {what}, got {self.shown()}")
        text = self.value_text
        self.advance()
        return text

    def end(self) -> None:
        if self.token:
            raise self.fail(f"unexpected {self.shown()}")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEPTH:
            raise self.fail(f"more than {DEPTH} levels of nesting")
