"""Who a client of the gate is (async): passwords and tokens from files, and the brake on guessing."""

import asyncio
import ipaddress
import time
from typing import NamedTuple

from g8node import config
from g8node.errors import InvalidArgument
from g8node.jobs import passwords, tokens
from g8node.jobs.access import Brake
from g8node.jobs.model import Caller
from g8node.runtime import blocking, logs

log = logs.get("gate")


class Verdict(NamedTuple):
    """What came of an AUTH. `is_over`: the client is to be hung up on."""

    caller: Caller | None
    way: str
    reason: str = ""
    is_over: bool = False


class Identities:
    """`load`, then `check` each secret that a client shows."""

    def __init__(self, settings: config.Gate, organizations: list[str]) -> None:
        self._settings = settings
        self._organizations = organizations
        self._passwords: list[passwords.Entry] = []
        self._tokens: tokens.Tokens | None = None
        self._brake = Brake()

    async def load(self) -> None:
        """Read the files. InvalidArgument or OSError when one is wrong: the gate then stays closed."""
        text = await blocking.run("disk", _read, self._settings.password_file)
        self._passwords = passwords.parse(text)
        self._tokens = await blocking.run("disk", tokens.load, self._settings.jwt, self._organizations)
        if self._organizations and self._tokens is None:
            wrong = "organization: members cannot be told without a key of their tokens (gate.jwt.keys)"
            if not self._passwords:
                raise InvalidArgument(wrong)
            log.error(wrong)

    @property
    def are_needed(self) -> bool:
        """Whether anybody has to say who he is."""
        with_certificates = self._settings.tls and bool(self._settings.tls_client_ca)
        return bool(self._passwords) or self._tokens is not None or with_certificates

    async def check(self, address: str, secret: bytes) -> Verdict:
        """Who that is. After some failures from an address its next attempts wait, or are refused."""
        is_token = self._tokens is not None and tokens.looks_like_token(secret)
        way = "token" if is_token else "password"
        key = network_of(address)
        delay_s = self._brake.delay(key, time.monotonic())
        if delay_s is None:
            return Verdict(None, way, "too many failed attempts", is_over=True)
        if delay_s:
            await asyncio.sleep(delay_s)
        caller, reason = passwords.find(self._passwords, secret), "wrong password"
        if caller is None and is_token:
            caller, reason = await self._check_token(secret)
        if caller is None:
            self._brake.failed(key, time.monotonic())
            return Verdict(None, way, reason)
        return Verdict(caller, way)

    async def _check_token(self, token: bytes) -> tuple[Caller | None, str]:
        assert self._tokens is not None  # looks_like_token is asked for when there are keys
        try:
            return await blocking.run("auth", self._tokens.caller, token, time.time()), ""
        except tokens.BadToken as error:
            return None, f"invalid jwt: {error}"


def network_of(address: str) -> str:
    """What one guesser can have: an IPv4 address, or a whole /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
    return str(parsed)


def _read(path: str) -> bytes:
    """Nothing when there is no such file; one byte more than allowed tells that it is too long."""
    try:
        with open(path, "rb") as file:
            return file.read(passwords.FILE_BYTES + 1)
    except FileNotFoundError:
        return b""
