"""Which node a command talks to (blocking): options, then the environment, then the context, then `make up`.

The password comes from a file, never from an argument: arguments are readable by every user of a machine. A
context's password is for the context's node only.
"""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from g8node.errors import InvalidArgument
from g8tools.g8 import contexts

if TYPE_CHECKING:
    from g8tools.g8.client import Client

UP_RECORD: Final = Path("build/up.json")
_DEFAULT_PORT: Final = 6379
_PASSWORD_BYTES: Final = 64 << 10


class TlsOptions(NamedTuple):
    """Files as PEM. `insecure`: whoever answers is taken for the node, as the original's clients did."""

    on: bool = False
    cacert: str = ""
    certificate: str = ""
    key: str = ""
    insecure: bool = False


class Options(NamedTuple):
    """What the command line said; empty is: nothing."""

    node: str = ""
    context: str = ""
    password_file: str = ""
    timeout: float | None = None
    tls: TlsOptions = TlsOptions()


class Target(NamedTuple):
    """A node, and how to get in."""

    host: str
    port: int
    password: str = ""
    tls: TlsOptions = TlsOptions()

    def connect(self, timeout: float | None = None) -> "Client":
        """A client that has not connected yet."""
        from g8tools.g8.client import Client
        from g8tools.g8.tls import context

        tls = self.tls
        made = context(
            tls.on,
            cacert=tls.cacert or None,
            cert=tls.certificate or None,
            key=tls.key or None,
            verify=not tls.insecure,
        )
        return Client(
            self.host,
            self.port,
            self.password,
            ssl=made or False,
            timeout=timeout,
            testConnectionAttempts=0,
        )


class UpRecord(msgspec.Struct):
    gate_host: str
    gate_port: int
    password: str = ""


def tls_options() -> TlsOptions:
    """The environment's: G8_TLS=1 or =insecure, G8_CACERT, G8_CERT, G8_KEY."""
    word = os.environ.get("G8_TLS", "").lower()
    if word not in ("", "0", "1", "insecure"):
        raise InvalidArgument(f"G8_TLS={word[:40]}: expected 0, 1 or insecure")
    names = ("G8_CACERT", "G8_CERT", "G8_KEY")
    cacert, certificate, key = (os.environ.get(name, "") for name in names)
    on = word in ("1", "insecure") or (not word and bool(cacert or certificate))
    return TlsOptions(on, cacert, certificate, key, word == "insecure")


def find(options: Options = Options()) -> Target:  # noqa: B008 - immutable
    """The node to talk to. InvalidArgument when nothing names one."""
    if options.node and options.context:
        raise InvalidArgument("--node and --context: expected one of them")
    password_file = options.password_file or os.environ.get("G8_PASSWORD_FILE", "")
    target = _named(options)
    if password_file:
        target = target._replace(password=read_password(password_file))
    for tls in (options.tls, tls_options()):
        if any(tls):
            return target._replace(tls=tls)
    return target


def _named(options: Options) -> Target:
    """By the first of: the command line, the environment, the current context, what `make up` left."""
    if options.node or options.context:
        return _of(options.node, options.context)
    node, context = os.environ.get("G8_NODE", ""), os.environ.get("G8_CONTEXT", "")
    if node or context:
        return _of(node, context)
    known = contexts.load()
    if known.current:
        return _of("", known.current)
    record = _up_record()
    if record is None:
        raise InvalidArgument(
            "no node named", hint="--node HOST:PORT, G8_NODE, `g8 context add`, or `make up` here"
        )
    return Target(record.gate_host, record.gate_port, record.password)


def _of(node: str, context: str) -> Target:
    if node:
        return Target(*parse_address(node))
    found = contexts.load().get(context)
    password = read_password(found.password_file) if found.password_file else found.password
    tls = TlsOptions(
        found.tls or found.insecure or bool(found.cacert or found.cert),
        found.cacert,
        found.cert,
        found.key,
        found.insecure,
    )
    return Target(*parse_address(found.node), password, tls)


def read_password(path: str) -> str:
    """The first line of a file."""
    with open(path, encoding="utf-8") as file:
        lines = file.read(_PASSWORD_BYTES).splitlines()
    if not lines or not lines[0].strip():
        raise InvalidArgument(f"{path}: no password in it")
    return lines[0].strip()


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
    elif ":" in text and not _is_ipv6(text):
        raise InvalidArgument(f"{text}: expected HOST:PORT")
    number = int(port) if port.isdecimal() else -1 if port else default_port
    if not host or not lowest_port <= number < 65536:
        raise InvalidArgument(f"{text}: expected HOST:PORT")
    return host, number


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def _up_record() -> UpRecord | None:
    try:
        return msgspec.json.decode(UP_RECORD.read_bytes(), type=UpRecord)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{UP_RECORD}: {error}", hint="run `make up` again") from None
