"""A JSON object that is read while it is written, so that its pieces can be passed on early."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from agentlightning.gateway.jsontext import write_json

__all__ = ["GrowingObject"]

_MOST_DEPTH: Final = 100
"""Clients' parsers give up not far beyond."""
_ESCAPE_CHARS: Final = 12
"""Of the longest escape, a pair of surrogates."""

_part_of_text = re.compile(
    r'[^"\\\x00-\x1f]+|"|\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
).match
_token = re.compile(r'[ \t\n\r]+|[{}\[\]:,"]|[-+.\w]+(?=[^-+.\w])').match
_unended = re.compile(r"[-+.\w]+").fullmatch
_scalar = re.compile(
    r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
).fullmatch


class _Next(Enum):
    """What may come next, spaces left aside."""

    OBJECT = auto()
    FIRST_KEY = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    FIRST_VALUE = auto()
    MORE = auto()
    """A comma, or the end of the object or list."""
    NOTHING = auto()


_KEYS: Final = frozenset({_Next.KEY, _Next.FIRST_KEY})
_VALUES: Final = frozenset({_Next.VALUE, _Next.FIRST_VALUE})
_ENDS: Final = {"{": "}", "[": "]"}
_ALLOWED: Final = {
    '"': _KEYS | _VALUES,
    "{": _VALUES | {_Next.OBJECT},
    "[": _VALUES,
    "}": frozenset({_Next.FIRST_KEY, _Next.MORE}),
    "]": frozenset({_Next.FIRST_VALUE, _Next.MORE}),
    ",": frozenset({_Next.MORE}),
    ":": frozenset({_Next.COLON}),
}
"""Where a token may stand; numbers and words are values."""


class GrowingObject:
    r"""One JSON object, read piece by piece; serves one text.

    What it passes on is always the beginning of a JSON object, and what `end` returns completes it.

    Args:
        broken_name: Names the member that a text which turns out to be no object is kept in.

    Example:
        >>> text = GrowingObject("broken")
        >>> text.feed('{"a": 1')
        '{"a": '
        >>> text.feed(', "b": oops}')
        '1, "b": '
        >>> text.end()
        'null,"a":null,"b":null,"broken":"{\\"a\\": 1, \\"b\\": oops}"}'
    """

    def __init__(self, broken_name: str) -> None:
        self._broken_name = broken_name
        self._given: list[str] = []
        self._rest = ""
        """What is not understood yet."""
        self._next = _Next.OBJECT
        self._open: list[str] = []
        """Objects and lists that are not ended, by what ends them."""
        self._text: list[str] | None = None
        """The parts of the text that is being read."""
        self._is_key = False
        self._keys: list[str] = []
        """Of the object's own members, as they are written."""
        self._tail = ""
        """The object's last brace, and spaces after it: the object may be no object yet."""
        self._is_broken = False

    @property
    def is_whole(self) -> bool:
        """Return whether all that came is one object."""
        return self._next is _Next.NOTHING and not self._rest and not self._is_broken

    def feed(self, piece: str) -> str:
        """Take a piece and return what can be passed on: perhaps less, perhaps what was held."""
        self._given.append(piece)
        if self._is_broken:
            return ""
        self._rest += piece
        passed: list[str] = []
        while self._rest and not self._is_broken:
            token = self._take()
            if not token:
                break
            self._rest = self._rest[len(token) :]
            if self._next is _Next.NOTHING:
                self._tail += token
            else:
                passed.append(token)
        return "".join(passed)

    def end(self) -> str:
        """Return what is missing: the last brace, or what makes an object of a broken text.

        Of a broken text, members that were passed on become null (the last of two of one name
        counts), so that nobody acts on half of what was said, and the whole text is the last
        member. Nothing becomes nothing.
        """
        given = "".join(self._given)
        if self.is_whole or not given:
            return self._tail
        if self._next is _Next.NOTHING:
            self._next = _Next.MORE if self._keys else _Next.FIRST_KEY
        completed = self._complete()
        inner = "".join(reversed(self._open[1:]))
        has_room = not self._open[1:] and self._next in _KEYS
        begun = "{" if not self._open else "" if has_room and not completed else ","
        taken_back = "".join(f"{key}:null," for key in self._keys)
        kept = write_json({self._broken_name: given}).decode()[1:]
        return f"{completed}{inner}{begun}{taken_back}{kept}"

    def _complete(self) -> str:
        """Return what ends the innermost member or item that is begun."""
        ended = ""
        if self._text is not None:
            self._next = _Next.COLON if self._is_key else _Next.MORE
            ended = '"'
        if self._next is _Next.COLON:
            return ended + ":null"
        if self._next is _Next.VALUE:
            return "null"
        is_inner_key = self._next is _Next.KEY and len(self._open) > 1
        return '"":null' if is_inner_key else ended

    def _take(self) -> str:
        """Understand what comes next, and return it; nothing where more has to come first."""
        if self._text is not None:
            return self._take_text(self._text)
        match = _token(self._rest)
        if match is None:
            self._is_broken = _unended(self._rest) is None
            return ""
        token = match[0]
        if not token.isspace() and not self._accept(token):
            self._is_broken = True
            return ""
        return token

    def _take_text(self, text: list[str]) -> str:
        match = _part_of_text(self._rest)
        if match is None:
            is_begun = self._rest[0] == "\\" and len(self._rest) < _ESCAPE_CHARS
            self._is_broken = not is_begun
            return ""
        part = match[0]
        text.append(part)
        if part == '"':
            self._text = None
            self._next = _Next.COLON if self._is_key else _Next.MORE
            if self._is_key and len(self._open) == 1:
                self._keys.append("".join(text))
        return part

    def _accept(self, token: str) -> bool:
        """Go on behind a token, if it may stand here; return whether it may."""
        if self._next not in _ALLOWED.get(token, _VALUES):
            return False
        if token == '"':
            self._is_key = self._next in _KEYS
            self._text = ['"']
        elif token in _ENDS:
            if len(self._open) == _MOST_DEPTH:
                return False
            self._open.append(_ENDS[token])
            self._next = _Next.FIRST_KEY if token == "{" else _Next.FIRST_VALUE
        elif token in _ENDS.values():
            return self._end_container(token)
        elif token == ",":
            self._next = _Next.KEY if self._open[-1] == "}" else _Next.VALUE
        elif token == ":":
            self._next = _Next.VALUE
        elif _scalar(token) is None:
            return False
        else:
            self._next = _Next.MORE
        return True

    def _end_container(self, token: str) -> bool:
        if self._open[-1] != token:
            return False
        if len(self._open) == 1:
            # It stays open, since more may come that makes it no object.
            self._next = _Next.NOTHING
        else:
            self._open.pop()
            self._next = _Next.MORE
        return True
