"""Connections to a node's gate for asyncio; the rules are those of g8tools.g8.transport."""

import asyncio
import contextlib
from collections import deque
from typing import Any

import hiredis

from g8node.errors import NodeError
from g8tools.g8.flow import Request
from g8tools.g8.results import ResultError, Unreachable
from g8tools.g8.transport import (
    KEPT,
    READ_BYTES,
    Address,
    Closed,
    Words,
    entering,
    keep_alive,
    next_reply,
    packed,
    translated,
)


class _Stream:
    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._address = address
        self._parser = hiredis.Reader()
        self._reader = reader
        self.writer = writer

    @classmethod
    async def opened(cls, address: Address) -> "_Stream":
        async with asyncio.timeout(address.connect_s):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=address.tls, limit=READ_BYTES
            )
            stream = cls(address, reader, writer)
            try:
                keep_alive(writer.get_extra_info("socket"))
                for words in address.greeting():
                    await stream.exchange(words, address.connect_s)
            except BaseException:
                writer.close()
                raise
            return stream

    async def exchange(self, words: Words, limit_s: float) -> Any:
        async with asyncio.timeout(limit_s):
            self.writer.write(packed(words))
            await self.writer.drain()
            while (reply := next_reply(self._parser, self._address)) is False:
                data = await self._reader.read(READ_BYTES)
                if not data:
                    raise Closed
                self._parser.feed(data)
        return reply


class AsyncTransport:
    """For tasks of one event loop."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: deque[_Stream] = deque()
        self._is_closed = False

    async def execute(self, request: Request) -> Any:
        """As BlockingTransport. Safe to cancel: the connection is then given up."""
        if self._idle:
            with contextlib.suppress(Closed):
                return await self._exchange(self._idle.pop(), request)
        if self._is_closed:
            raise self.address.unreachable("the client is closed")
        with entering(self.address):
            fresh = await _Stream.opened(self.address)
        try:
            return await self._exchange(fresh, request)
        except Closed as error:
            raise self.address.unreachable("it closed the connection") from error

    async def _exchange(self, stream: _Stream, request: Request) -> Any:
        is_whole = False
        try:
            with translated(self.address):
                reply = await stream.exchange(request.words, request.block_s + self.address.grace_s)
            is_whole = True
        except (NodeError, ResultError) as error:
            is_whole = not isinstance(error, Unreachable)
            raise
        finally:
            if is_whole and not self._is_closed and len(self._idle) < KEPT:
                self._idle.append(stream)
            else:
                stream.writer.close()
        return reply

    async def close(self) -> None:
        self._is_closed = True
        while self._idle:
            writer = self._idle.pop().writer
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()
