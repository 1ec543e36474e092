"""Conditions of boot services (pure): which kernel parameters must be there; spec core0-protocol 1.5.

    expr := true | false | and(expr, …) | or(expr, …) | not(expr) | word

A word holds when the parameter is present, whatever its value. `not` holds only with exactly one argument
that does not hold.
"""

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final

from g8node.errors import InvalidArgument

LENGTH_MAX: Final = 4096
DEPTH_MAX: Final = 32

_TOKEN: Final = re.compile(r"\s*([\w-]+|[(),])")
_FUNCTIONS: Final[dict[str, Callable[[Sequence[bool]], bool]]] = {
    "and": all,
    "or": any,
    "not": lambda values: len(values) == 1 and not values[0],
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed expression; `function` is "" for a word."""

    word: str = ""
    function: str = ""
    arguments: "tuple[Condition, ...]" = ()

    def holds(self, present: Container[str]) -> bool:
        """Whether it is true, given the names of the parameters that are present."""
        if self.function:
            return _FUNCTIONS[self.function]([argument.holds(present) for argument in self.arguments])
        return self.word == "true" or (self.word != "false" and self.word in present)


def parse(text: str) -> Condition:
    """The expression in text; an empty one is true. InvalidArgument names the position of what is wrong."""
    if not text.strip():
        return Condition("true")
    if len(text) > LENGTH_MAX:
        raise InvalidArgument(f"condition: {len(text)} characters, expected at most {LENGTH_MAX}")
    parser = _Parser(text)
    condition = parser.expression(0)
    if parser.peek():
        raise parser.expected("the end")
    return condition


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """The next token, "" at the end."""
        return self._match()[0]

    def _match(self) -> tuple[str, int]:
        if match := _TOKEN.match(self._text, self._at):
            return match[1], match.end()
        rest = self._text[self._at :].lstrip()
        return rest[:1], len(self._text)

    def _next(self) -> str:
        token, self._at = self._match()
        return token

    def expected(self, what: str) -> InvalidArgument:
        rest = self._text[self._at :]
        position = self._at + len(rest) - len(rest.lstrip()) + 1
        found = repr(self.peek()) if self.peek() else "the end"
        return InvalidArgument(f"condition: expected {what} at character {position}, not {found}")

    def expression(self, depth: int) -> Condition:
        if depth > DEPTH_MAX:
            raise InvalidArgument(f"condition: nested deeper than {DEPTH_MAX}")
        if not re.fullmatch(r"[\w-]+", self.peek()):
            raise self.expected("a word")
        word = self._next()
        if self.peek() != "(":
            return Condition(word)
        if word not in _FUNCTIONS:
            raise InvalidArgument(f"condition: unknown function {word[:40]!r}", hint="expected and, or, not")
        self._next()
        return Condition(function=word, arguments=tuple(self._arguments(depth + 1)))

    def _arguments(self, depth: int) -> list[Condition]:
        """What stands between the parentheses, the closing one included."""
        arguments: list[Condition] = []
        if self.peek() == ")":
            self._next()
            return arguments
        while True:
            arguments.append(self.expression(depth))
            if self.peek() not in (",", ")"):
                raise self.expected("',' or ')'")
            if self._next() == ")":
                return arguments
