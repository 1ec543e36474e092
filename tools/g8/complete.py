"""What the shell may offer (blocking): names that the node knows, asked for in a hurry and in silence.

Command names are kept for ten minutes in `~/.cache/g8`, so that a second <TAB> is quick.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from g8node.errors import NodeError
from g8tools.g8 import connection
from g8tools.g8 import contexts as known_contexts

if TYPE_CHECKING:
    from g8tools.g8.client import Client

_HURRY_S: Final = 2.0
_KEPT_S: Final = 600.0

Pair = tuple[str, str]


def _asked(ctx: Any, ask: "Callable[[Client], list[Pair]]") -> list[Pair]:
    """What the node that the words so far name answers; nothing when it does not."""
    given = getattr(ctx, "params", None) or {}
    options = connection.Options(
        given.get("g8_node") or "", given.get("g8_context") or "", given.get("g8_password_file") or ""
    )
    with (
        contextlib.suppress(NodeError, OSError, RuntimeError, ValueError, LookupError),
        connection.find(options).connect(_HURRY_S) as client,
    ):
        return ask(client)
    return []


def _starting(pairs: list[Pair], incomplete: str) -> list[Pair]:
    return [pair for pair in pairs if pair[0].startswith(incomplete)]


def contexts(incomplete: str) -> list[Pair]:
    """Names of contexts."""
    with contextlib.suppress(NodeError, OSError):
        known = known_contexts.load().contexts
        return _starting([(name, context.node) for name, context in sorted(known.items())], incomplete)
    return []


def commands(ctx: Any, incomplete: str) -> list[Pair]:
    """Names of the node's commands."""
    return _starting(_asked(ctx, _commands), incomplete)


def _commands(client: "Client") -> list[Pair]:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "g8"
    name = hashlib.blake2b(client.where.encode(), digest_size=8).hexdigest()
    kept = base / f"commands-{name}.json"
    with contextlib.suppress(OSError, msgspec.DecodeError):
        if time.time() - kept.stat().st_mtime < _KEPT_S:
            return msgspec.json.decode(kept.read_bytes(), type=list[Pair])
    pairs = [(row["command"], row["text"].partition("\n")[0]) for row in client.core.help()]
    with contextlib.suppress(OSError):
        base.mkdir(parents=True, exist_ok=True)
        part = base / f".{name}.{os.getpid()}"
        part.write_bytes(msgspec.json.encode(pairs))
        part.replace(kept)
    return pairs


def jobs(ctx: Any, incomplete: str) -> list[Pair]:
    """Ids of jobs."""

    def ask(client: "Client") -> list[Pair]:
        return [(row["cmd"]["id"], row["cmd"]["command"]) for row in client.job.list()]

    return _starting(_asked(ctx, ask), incomplete)


def containers(ctx: Any, incomplete: str) -> list[Pair]:
    """Ids and names of containers."""

    def ask(client: "Client") -> list[Pair]:
        pairs: list[Pair] = []
        for id, entry in client.container.list().items():
            arguments = entry["container"]["arguments"]
            name, root = str(arguments.get("name") or ""), str(arguments.get("root") or "")
            pairs += [(id, name or root), *([(name, root)] if name else [])]
        return pairs

    return _starting(_asked(ctx, ask), incomplete)


def volumes(ctx: Any, incomplete: str) -> list[Pair]:
    """Names of volumes."""
    return _starting(_asked(ctx, _volumes), incomplete)


def volumes_to_mount(ctx: Any, incomplete: str) -> list[Pair]:
    """As `--volume` wants them: up to the path inside."""
    return _starting([(f"{name}=", says) for name, says in _asked(ctx, _volumes)], incomplete)


def _volumes(client: "Client") -> list[Pair]:
    return [(row["name"], " ".join(map(str, row["containers"]))) for row in client.volume.list()]


def services(ctx: Any, incomplete: str) -> list[Pair]:
    """Ids of services."""

    def ask(client: "Client") -> list[Pair]:
        return [(row["id"], str(row.get("state") or "")) for row in client.service.list()]

    return _starting(_asked(ctx, ask), incomplete)
