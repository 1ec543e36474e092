"""Who may publish (pure): a file of lines `token[:user[:date]]`.

A token with a user publishes in the repository of that name, one without in any (`token::date`); from its
date on (`2027-01-31`, UTC) it is refused. Tokens are compared in constant time. No tokens: the Hub is
read-only.
"""

import hashlib
import hmac
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from g8node.errors import InvalidArgument, PermissionDenied

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}", re.ASCII)
_USER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Publisher:
    """The owner of a token. An empty user publishes anywhere."""

    user: str
    expires_s: float = math.inf
    """Seconds since the epoch, from when on the token is refused."""

    def authorise(self, repository: str) -> None:
        """PermissionDenied unless the publisher may write there."""
        if self.user not in ("", repository):
            raise PermissionDenied(f"the token of {self.user} does not publish in repository {repository}")


class Tokens:
    """The tokens of one Hub, kept as digests."""

    def __init__(self, publishers: dict[bytes, Publisher] | None = None) -> None:
        self._publishers = publishers or {}

    def __bool__(self) -> bool:
        return bool(self._publishers)

    @classmethod
    def parse(cls, text: str, file: str = "token file") -> "Tokens":
        """Lines `token[:user]`; empty lines and those beginning with # do not count. Never quotes a token."""
        publishers: dict[bytes, Publisher] = {}
        for number, line in enumerate(text.splitlines(), 1):
            token, *more = line.strip().split(":")
            if not token or token.startswith("#"):
                continue
            if not _TOKEN.fullmatch(token):
                raise InvalidArgument(
                    f"{file}:{number}: token: expected 16 to 256 of a-z A-Z 0-9 . _ ~ + / = -"
                )
            publishers[_digest(token)] = _publisher(more, f"{file}:{number}")
        if not publishers:
            raise InvalidArgument(f"{file}: no token in it", hint="leave the file out for a read-only Hub")
        return cls(publishers)

    def find(self, authorization: str) -> Publisher | None:
        """The publisher that an Authorization header names, or None."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        given = _digest(token.strip())
        found = None
        for digest, publisher in self._publishers.items():
            if hmac.compare_digest(digest, given):
                found = publisher
        return found


def _publisher(fields: Sequence[str], where: str) -> Publisher:
    """Of what stands behind a token: [user[, date]]."""
    if len(fields) > 2:
        raise InvalidArgument(f"{where}: expected token, user and date with colons between")
    user, date = (*fields, "", "")[:2]
    if fields and not _USER.fullmatch(user) and not (date and not user):
        raise InvalidArgument(f"{where}: user {user!r}: expected the name of a repository")
    if len(fields) < 2:
        return Publisher(user)
    try:
        return Publisher(user, datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise InvalidArgument(f"{where}: date {date!r}: expected YYYY-MM-DD") from None


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode("utf-8", "surrogateescape"), digest_size=32).digest()
