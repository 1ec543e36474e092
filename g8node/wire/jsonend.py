"""Where a JSON object ends in a stream of bytes (pure): each byte is looked at once.

Only brackets and strings are told apart; whether the object is valid JSON is for a decoder to say.
"""

import re

_NEXT = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


class ObjectEnd:
    """`feed` the bytes as they come."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._begun = False

    def feed(self, data: bytes) -> int | None:
        """How many of these bytes belong to the object, once it is complete; None before.

        ValueError when what begins is no object, or closes more than it opened.
        """
        at = 0
        if not self._begun:
            at = len(data) - len(data.lstrip(_SPACE))
            if at == len(data):
                return None
            if data[at : at + 1] != b"{":
                raise ValueError("expected a JSON object")
            self._begun = True
        while at < len(data):
            at = self._in(data, at) if self._in_string else self._out(data, at)
            if self._depth == 0:
                return at
        return None

    def _in(self, data: bytes, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        if (found := _IN_STRING.search(data, at)) is None:
            return len(data)
        if found[0] == b'"':
            self._in_string = False
        else:
            self._is_escaped = True
        return found.end()

    def _out(self, data: bytes, at: int) -> int:
        if (found := _NEXT.search(data, at)) is None:
            return len(data)
        mark = found[0]
        if mark == b'"':
            self._in_string = True
        else:
            self._depth += 1 if mark in b"{[" else -1
        return found.end()
