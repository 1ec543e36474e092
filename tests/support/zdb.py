"""A model of 0-db, written from g8ufs-hub.md section 2, because no package has the real one (async).

User-keyed mode; AUTH, SELECT with a namespace's password, SET (nil when the key has these bytes already),
GET, EXISTS, CHECK and LENGTH; every other command is an error, as is an empty argument.
"""

import asyncio
from typing import Self

from g8node.wire.resp import Error, Limits, Reply, RequestParser, encode

LIMITS = Limits(args=16, arg_bytes=32 << 20, total_bytes=64 << 20)


class ZdbModel:
    """`namespaces`: name → password ("" for none). Without `token` AUTH is an error."""

    def __init__(self, *, token: str = "", namespaces: dict[str, str] | None = None) -> None:
        self.token = token
        self.passwords = {"default": ""} | (namespaces or {})
        self.data: dict[str, dict[bytes, bytes]] = {name: {} for name in self.passwords}
        self.commands: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        parser = RequestParser(LIMITS)
        session = _Session(self)
        try:
            while data := await reader.read(1 << 20):
                parser.feed(data)
                while (request := parser.next()) is not None:
                    writer.write(encode(session.answer(request)))
                await writer.drain()
        except ConnectionError:
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class _Session:
    def __init__(self, model: ZdbModel) -> None:
        self._model = model
        self._namespace = "default"

    def answer(self, request: list[bytes]) -> Reply:
        name, *args = request
        command = name.decode().upper()
        self._model.commands.append(command)
        if not all(args):
            return Error("Invalid argument")
        if command == "AUTH":
            return (
                "OK" if self._model.token and [self._model.token.encode()] == args else Error("Access denied")
            )
        if command == "SELECT":
            return self._select(*args)
        return self._data(command, args)

    def _select(self, namespace: bytes, password: bytes = b"") -> Reply:
        expected = self._model.passwords.get(namespace.decode())
        if expected is None:
            return Error("Namespace not found")
        if expected.encode() != password:
            return Error("Access denied")
        self._namespace = namespace.decode()
        return "OK"

    def _data(self, command: str, args: list[bytes]) -> Reply:
        data = self._model.data[self._namespace]
        match command, args:
            case "SET", [key, value]:
                if data.get(key) == value:
                    return None
                data[key] = value
                return key
            case "GET", [key]:
                return data.get(key)
            case "EXISTS" | "CHECK", [key]:
                return int(key in data)
            case "LENGTH", [key]:
                return len(data[key]) if key in data else None
        return Error("Command not supported")
