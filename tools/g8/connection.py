"""Which node a command talks to (blocking): options, then the environment, then `make up`'s record.

The password comes from a file, never from an argument: arguments are readable by every user of a machine.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from g8node.errors import InvalidArgument

UP_RECORD: Final = Path("build/up.json")
_DEFAULT_PORT: Final = 6379


class Target(NamedTuple):
    host: str
    port: int
    password: str


class TlsOptions(NamedTuple):
    """Files as PEM. `insecure`: whoever answers is taken for the node, as the original's clients did."""

    on: bool = False
    cacert: str = ""
    certificate: str = ""
    key: str = ""
    insecure: bool = False


_given: TlsOptions | None = None


def set_tls_options(options: TlsOptions) -> None:
    """What the command line said; it wins over the environment."""
    global _given
    _given = options if any(options) else None


def tls_options() -> TlsOptions:
    """The command line's, else G8_TLS=1 or =insecure, G8_CACERT, G8_CERT, G8_KEY."""
    if _given is not None:
        return _given
    word = os.environ.get("G8_TLS", "").lower()
    if word not in ("", "0", "1", "insecure"):
        raise InvalidArgument(f"G8_TLS={word[:40]}: expected 0, 1 or insecure")
    names = ("G8_CACERT", "G8_CERT", "G8_KEY")
    cacert, certificate, key = (os.environ.get(name, "") for name in names)
    on = word in ("1", "insecure") or (not word and bool(cacert or certificate))
    return TlsOptions(on, cacert, certificate, key, word == "insecure")


class UpRecord(msgspec.Struct):
    gate_host: str
    gate_port: int
    password: str = ""


def find(node: str | None, password_file: Path | None) -> Target:
    """The node to talk to. InvalidArgument when nothing names one."""
    node = node or os.environ.get("G8_NODE")
    if password_file is None and (named := os.environ.get("G8_PASSWORD_FILE")):
        password_file = Path(named)
    record = _up_record() if node is None else None
    password = password_file.read_text().strip() if password_file else (record.password if record else "")
    if node is not None:
        return Target(*parse_address(node), password)
    if record is None:
        raise InvalidArgument(
            "no node named", hint=f"--node HOST:PORT, or G8_NODE, or run `make up` for a {UP_RECORD}"
        )
    return Target(record.gate_host, record.gate_port, password)


def parse_address(text: str, default_port: int = _DEFAULT_PORT, lowest_port: int = 1) -> tuple[str, int]:
    """HOST, HOST:PORT or [IPV6]:PORT."""
    host, port = text, ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise InvalidArgument(f"{text}: expected [ADDRESS]:PORT")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "none"
    number = int(port) if port.isdecimal() else -1 if port else default_port
    if not host or not lowest_port <= number < 65536:
        raise InvalidArgument(f"{text}: expected HOST:PORT")
    return host, number


def _up_record() -> UpRecord | None:
    try:
        return msgspec.json.decode(UP_RECORD.read_bytes(), type=UpRecord)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{UP_RECORD}: {error}", hint="run `make up` again") from None
