"""Patterns of what the packer leaves out, in the manner of .gitignore (pure).

One a line; `#` begins a comment, `!` takes a path in again, the last pattern that fits decides. A slash at
the end means directories only; one elsewhere binds the pattern to the root, without one it fits at any depth.
`*` and `?` do not cross slashes, `**` does. What lies in a directory that is left out is left out.
"""

import re
from collections.abc import Iterable
from typing import Final

from g8node.errors import InvalidArgument

_PATTERN_MAX: Final = 4096


class Ignore:
    """Compiled patterns."""

    def __init__(self, lines: Iterable[str | bytes]) -> None:
        """InvalidArgument names a pattern that makes no sense."""
        self._rules: list[tuple[re.Pattern[bytes], bool, bool]] = []
        for line in lines:
            raw = line.encode() if isinstance(line, str) else line
            rule = raw.strip(b"\r\n").rstrip(b" ")
            if rule and not rule.startswith(b"#"):
                self._rules.append(_compiled(rule))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def leaves_out(self, path: bytes, *, directory: bool) -> bool:
        """Whether this path, relative to the root, is left out; its parents are the caller's to ask for."""
        out = False
        for pattern, keep, only_directories in self._rules:
            if (directory or not only_directories) and pattern.fullmatch(path):
                out = not keep
        return out


def _compiled(rule: bytes) -> tuple[re.Pattern[bytes], bool, bool]:
    keep = rule.startswith(b"!")
    body = rule[1:] if keep else rule
    only_directories = body.endswith(b"/")
    body = body.rstrip(b"/")
    bound = b"/" in body
    body = body.lstrip(b"/")
    if not body or len(body) > _PATTERN_MAX:
        raise InvalidArgument(f"ignore pattern {rule[:80]!r} names nothing")
    text = b"" if bound else b"(?:.*/)?"
    return re.compile(text + b"".join(_pieces(body)), re.DOTALL), keep, only_directories


def _pieces(body: bytes) -> Iterable[bytes]:
    for piece in re.findall(rb"/\*\*/|\*\*/|/\*\*|\*\*|\*|\?|\[!?[^]/]+\]|\\.|.", body, re.DOTALL):
        if piece == b"/**/":
            yield b"/(?:.*/)?"
        elif piece == b"**/":
            yield b"(?:.*/)?"
        elif piece == b"/**":
            yield b"/.*"
        elif piece == b"**":
            yield b".*"
        elif piece == b"*":
            yield b"[^/]*"
        elif piece == b"?":
            yield b"[^/]"
        elif piece.startswith(b"[") and len(piece) > 1:
            yield b"[" + piece[1:-1].replace(b"!", b"^", 1).replace(b"\\", b"\\\\") + b"]"
        else:
            yield re.escape(piece[-1:])
