"""The gate: the network face of the bus (async); design section 6.

A client sees a redis-server that knows few commands (access.py), and every registered command name as one
more: it runs as a job and answers at once. Nothing but the calls of access.RULES and checked RPUSHes reaches
the real redis. What clients send on their own at connect (CLIENT SETINFO and the like, COMMAND DOCS, QUIT) is
answered here.
"""

import asyncio
import ipaddress
import itertools
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from g8node import __version__, config
from g8node.errors import AlreadyExists, InvalidArgument, NodeError, PermissionDenied, Unavailable
from g8node.jobs.access import RULES, Rule, check, check_role, may_see
from g8node.jobs.audit import Audit
from g8node.jobs.bus import Bus
from g8node.jobs.direct import direct_command, direct_reply
from g8node.jobs.identity import Identities
from g8node.jobs.link import Link, ReplyError
from g8node.jobs.manager import Manager
from g8node.jobs.model import Caller, Command, decode_command
from g8node.jobs.outbox import QUEUE
from g8node.jobs.registry import Spec
from g8node.jobs.session import Session, Slot
from g8node.jobs.tls import Tls, certificate_caller
from g8node.jobs.waiters import Waiters
from g8node.runtime import blocking, logs
from g8node.wire.resp import NULL_ARRAY, OK, PONG, Error, Reply, Simple

log = logs.get("gate")

_PATIENCE_S: Final = 5.0
_BACKLOG: Final = 1024
_HANDSHAKE_S: Final = 10.0
_SHUTDOWN_S: Final = 5.0
_STRANGERS_LEAST: Final = 16

_QUICK: Final = {name.encode(): rule for name, rule in RULES.items() if not rule.blocking}

Answer = Callable[[Session, list[bytes]], Awaitable[Reply]]


class Gate:
    """`start` listens, `stop` ends it and hangs up on everybody. The lists it serves are the bus's."""

    def __init__(
        self,
        manager: Manager,
        bus: Bus,
        settings: config.Gate,
        *,
        folder: str = "",
        organizations: Sequence[str] = (),
    ) -> None:
        """`folder` is for the certificate of the own CA, `organizations` are the kernel command line's."""
        self._manager = manager
        self._bus = bus
        self._settings = settings
        self._link = Link(bus.socket)
        self._waiters = Waiters(self._link)
        self._identities = Identities(settings, list(organizations))
        self._tls = Tls(settings, folder)
        self._audit = Audit(manager)
        self._servers: list[asyncio.Server] = []
        self._sessions: set[Session] = set()
        self._strangers: OrderedDict[Session, None] = OrderedDict()  # not authenticated yet, oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)
        self._own: dict[str, Answer] = {
            "PING": self._ping,
            "ECHO": self._echo,
            "AUTH": self._auth,
            "HELLO": self._hello,
            "SELECT": self._select,
            "QUIT": self._quit,
            "CLIENT": self._client,
            "COMMAND": self._command,
            "RPUSH": self._rpush,
        }
        bus.outbox.on_pushed = self._waiters.wake
        manager.counters["gate"] = self.state

    # Life

    async def start(self) -> None:
        """Listen on `gate.listen`. With nothing to know clients by, only loopback is served.

        What is wrong with the settings is said in the log, and the gate stays closed: a node must boot.
        """
        if not self._settings.listen:
            return
        host, port = _parse_listen(self._settings.listen)
        fingerprint = ""
        try:
            await self._identities.load()
            if self._settings.tls:
                fingerprint = await blocking.run("auth", self._tls.open, host)
        except (InvalidArgument, OSError) as error:
            log.error(f"the gate stays closed: {error}", listen=self._settings.listen)
            return
        if not self._identities.are_needed and not _is_loopback(host):
            log.error(
                "the gate stays closed: no password, and it would be reachable from outside",
                listen=self._settings.listen,
                password_file=self._settings.password_file,
            )
            return
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if self._settings.tls:
            options = {
                "ssl": self._tls.context,
                "ssl_handshake_timeout": _HANDSHAKE_S,
                "ssl_shutdown_timeout": _SHUTDOWN_S,
            }
        self._servers.append(await loop.create_server(self._session, host, port, backlog=_BACKLOG, **options))
        log.info(
            "the gate is open",
            listen=self._settings.listen,
            password=self._identities.are_needed,
            tls=fingerprint or False,
        )

    @property
    def port(self) -> int:
        """The port it listens on (tests ask for 0); 0 when it is closed."""
        return int(self._servers[0].sockets[0].getsockname()[1]) if self._servers else 0

    async def stop(self) -> None:
        """No new clients, and the old ones are cut off. Their jobs go on."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for session in tuple(self._sessions):
            session.abort()
        await self._link.close()

    def state(self) -> dict[str, int]:
        return {"clients": len(self._sessions)}

    def _session(self) -> Session:
        """One for each connection, before its handshake."""
        self._tls.heed_clock(time.time())
        return Session(self._quick, self._again, self._handle, self._take, self._forget)

    def _has_room(self) -> bool:
        return len(self._sessions) < self._settings.max_clients

    def _take(self, session: Session) -> None:
        if not self._has_room():
            session.refuse("ERR max number of clients reached")
            return
        self._sessions.add(session)
        session.id = next(self._ids)
        if not self._identities.are_needed:
            session.admit(Caller("anonymous", "admin"))
        elif (
            caller := certificate_caller(session.certificate, self._settings.certificate_roles)
        ) is not None:
            self._audit.auth(session.address, caller, way="certificate")
            session.admit(caller)
        else:
            self._strangers[session] = None
            if len(self._strangers) > max(_STRANGERS_LEAST, self._settings.max_clients // 2):
                self._strangers.popitem(last=False)[0].abort()
        session.start()

    def _forget(self, session: Session) -> None:
        self._sessions.discard(session)
        self._strangers.pop(session, None)

    # One request

    async def _handle(self, session: Session, request: list[bytes]) -> Reply:
        word = request[0].decode("utf-8", "replace")
        name, args = word.upper(), request[1:]
        try:
            if session.caller is None and name not in ("AUTH", "HELLO", "QUIT"):
                return Error("NOAUTH Authentication required.")
            if (answer := self._own.get(name)) is not None:
                return await answer(session, args)
            if (rule := RULES.get(name)) is not None:
                return await self._redis(session, rule, args)
            if (spec := await self._manager.registry.wait_find(word)) is not None:
                return await self._direct(session, spec, args)
            raise PermissionDenied(f"{word[:80]!r} is no command of this node (core.help lists them)")
        except NodeError as error:
            if isinstance(error, PermissionDenied):
                self._audit.refused(session.address, session.caller, word, str(error))
            return _error(error)
        except ReplyError as error:
            return Error(str(error))

    def _quick(self, session: Session, request: list[bytes]) -> bool:
        """What one exchange with redis answers; everything else, refusals too, goes the long way."""
        rule = _QUICK.get(request[0].upper())
        if rule is None or session.caller is None:
            return False
        args = request[1:]
        try:
            check(rule, args, session.caller, self._bus.owner)
        except NodeError:
            return False
        if not self._link.is_open:
            return False
        question: tuple[str | bytes, ...] = (rule.name, *args)
        self._link.send_for(session.slot(question), question)
        return True

    def _again(self, slot: Slot) -> None:
        """Redis went away with the question."""
        task = asyncio.create_task(self._ask_again(slot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask_again(self, slot: Slot) -> None:
        try:
            slot.set_result(await self._link.call_patiently(*slot.question, limit_s=_PATIENCE_S))
        except NodeError as error:
            slot.set_result(_error(error))
        except ReplyError as error:
            slot.set_result(Error(str(error)))

    async def _direct(self, session: Session, spec: Spec, args: list[bytes]) -> Reply:
        caller = _caller(session)
        check_role(caller, spec.role, spec.name)
        command, as_text = direct_command(spec, args, caller)
        if command.id:
            await self._refuse_another_s(command.id, caller)
        return direct_reply(await self._bus.call(command), as_text=as_text)

    async def _redis(self, session: Session, rule: Rule, args: list[bytes]) -> Reply:
        keys = check(rule, args, _caller(session), self._bus.owner)
        if not rule.blocking:
            reply: Reply = await self._link.call_patiently(rule.name, *args, limit_s=_PATIENCE_S)
            return reply
        timeout_s = _timeout(args[-1])
        if rule.name == "BLPOP":
            found = await self._waiters.pop(keys, args[:-1], timeout_s)
            return NULL_ARRAY if found is None else found
        return await self._waiters.rotate(keys[0], args[0], timeout_s)

    async def _rpush(self, session: Session, args: list[bytes]) -> Reply:
        """Commands for the queue: each is decoded, authorised and stamped, all before any is pushed."""
        if len(args) < 2:
            raise InvalidArgument("wrong number of arguments for 'rpush' command")
        if args[0] != QUEUE.encode():
            raise PermissionDenied(
                f"no permission to push to key {args[0][:80].decode('utf-8', 'replace')!r}"
            )
        caller = _caller(session)
        commands = [await self._checked(entry, caller) for entry in args[1:]]
        stamped = []
        for command in commands:
            self._bus.claim(command.id, caller)
            stamped.append(msgspec.json.encode(msgspec.structs.replace(command, caller=caller)))
        length: int = await self._link.call_patiently("RPUSH", QUEUE, *stamped, limit_s=_PATIENCE_S)
        return length

    async def _checked(self, entry: bytes, caller: Caller) -> Command:
        command = decode_command(entry)
        if (spec := await self._manager.registry.wait_find(command.command)) is not None:
            check_role(caller, spec.role, spec.name)
        live = self._manager.find(command.id)
        if live is not None and live.internal:
            raise AlreadyExists(f"id {command.id!r} belongs to a job of the node")
        await self._refuse_another_s(command.id, caller)
        return command

    async def _refuse_another_s(self, id: str, caller: Caller) -> None:
        """With another's id one would get another's result; a flag that nobody knows of is another's."""
        if caller.role == "admin":
            return
        owner = self._bus.owner(id)
        if owner is None:
            flag = f"result:{id}:flag"
            if await self._link.call_patiently("EXISTS", flag, limit_s=_PATIENCE_S):
                raise AlreadyExists(f"job {id[:80]!r} exists")
        elif not may_see(caller, owner):
            raise AlreadyExists(f"job {id[:80]!r} exists")

    # What a connection asks of the gate itself

    async def _ping(self, session: Session, args: list[bytes]) -> Reply:
        return args[0] if args else PONG

    async def _echo(self, session: Session, args: list[bytes]) -> Reply:
        if len(args) != 1:
            raise InvalidArgument("wrong number of arguments for 'echo' command")
        return args[0]

    async def _select(self, session: Session, args: list[bytes]) -> Reply:
        if args != [b"0"]:
            raise PermissionDenied("only database 0 is there")
        return OK

    async def _quit(self, session: Session, args: list[bytes]) -> Reply:
        session.closing = True
        return OK

    async def _client(self, session: Session, args: list[bytes]) -> Reply:
        """What client libraries send at connect; nothing of it reaches redis."""
        word = args[0].upper() if args else b""
        if word == b"ID":
            return session.id
        if word == b"GETNAME":
            return session.name
        if word == b"SETNAME" and len(args) == 2:
            session.name = args[1]
            return OK
        if word == b"SETINFO" and len(args) == 3:
            return OK
        raise PermissionDenied("of CLIENT only ID, GETNAME, SETNAME and SETINFO are there")

    async def _command(self, session: Session, args: list[bytes]) -> Reply:
        if args[:1] and args[0].upper() == b"DOCS":
            return {}  # redis-cli asks for help texts
        raise PermissionDenied("of COMMAND only DOCS is there")

    async def _auth(self, session: Session, args: list[bytes]) -> Reply:
        if not 1 <= len(args) <= 2:
            raise InvalidArgument("invalid number of arguments")
        return await self._authenticate(session, args[-1])

    async def _hello(self, session: Session, args: list[bytes]) -> Reply:
        if args and args[0] not in (b"2", b"3"):
            return Error("NOPROTO unsupported protocol version")
        rest = args[1:]
        while rest:
            word = rest[0].upper()
            if word == b"AUTH" and len(rest) >= 3:
                refused = await self._authenticate(session, rest[2])
                if isinstance(refused, Error):
                    return refused
                rest = rest[3:]
            elif word == b"SETNAME" and len(rest) >= 2:
                session.name, rest = rest[1], rest[2:]
            else:
                raise InvalidArgument("syntax error in HELLO")
        if session.caller is None:
            return Error("NOAUTH HELLO must be called with the client already authenticated")
        if args:
            session.protocol = int(args[0])
        return {
            "server": "redis",
            "version": __version__,
            "proto": session.protocol,
            "id": session.id,
            "mode": "standalone",
            "role": "master",
            "modules": [],
        }

    async def _authenticate(self, session: Session, secret: bytes) -> Simple | Error:
        if not self._identities.are_needed:
            return OK
        verdict = await self._identities.check(session.address, secret)
        self._audit.auth(session.address, verdict.caller, way=verdict.way, reason=verdict.reason)
        if verdict.caller is not None:
            self._strangers.pop(session, None)
            session.admit(verdict.caller)
            return OK
        if verdict.is_over:
            session.closing = True
            return Error("ERR too many failed attempts, try again later")
        if verdict.way == "token":
            return Error(f"WRONGPASS {verdict.reason}")
        return Error("WRONGPASS invalid username-password pair or user is disabled.")


def _caller(session: Session) -> Caller:
    if session.caller is None:
        raise PermissionDenied("authentication required")
    return session.caller


def _error(error: NodeError) -> Error:
    if isinstance(error, PermissionDenied):
        return Error(f"NOPERM {error}")
    if isinstance(error, AlreadyExists):
        return Error(f"DUPLICATE {error}")
    if isinstance(error, Unavailable):
        return Error(f"UNAVAILABLE {error}")
    return Error(f"ERR {error.status} {error}")


def _timeout(word: bytes) -> float:
    try:
        timeout_s = float(word)
    except ValueError as error:
        raise InvalidArgument("timeout is not a float or out of range") from error
    if not 0 <= timeout_s < 1e9:
        raise InvalidArgument("timeout is negative or out of range")
    return timeout_s


def _parse_listen(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"gate.listen: expected host:port, got {listen!r}")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
