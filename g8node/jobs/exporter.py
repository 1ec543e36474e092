"""The node's metrics over HTTP for Prometheus, when `stats.listen` says where (async).

One page, GET /metrics, without authentication: it has numbers, names of disks and links, and what jobs have
emitted at level 10. Connections, their time and the size of a request are bounded; each gets one answer.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from g8node.errors import InvalidArgument
from g8node.jobs.manager import Manager
from g8node.jobs.statistics import Statistics
from g8node.node.stats import Stats
from g8node.runtime import blocking, logs
from g8node.wire import exposition
from g8node.wire.exposition import Sample

log = logs.get("stats")

MAX_CLIENTS: Final = 16
_HEAD_BYTES: Final = 8192
_LIMIT_S: Final = 10.0
_LINGER_S: Final = 1.0
"""How long a refused client may go on to speak: a close before that would take the answer from it."""


class Exporter:
    """`start` listens, `stop` ends it."""

    def __init__(self, manager: Manager, stats: Stats, statistics: Statistics, *, listen: str) -> None:
        self._manager = manager
        self._stats = stats
        self._statistics = statistics
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Nothing happens without an address. InvalidArgument, OSError."""
        if not self._listen:
            return
        host, colon, port = self._listen.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise InvalidArgument(f"stats.listen: expected host:port, got {self._listen!r}")
        self._server = await asyncio.start_server(
            self._serve, host.strip("[]") or None, int(port), limit=_HEAD_BYTES
        )
        log.info("metrics are served", listen=self._listen)

    @property
    def port(self) -> int:
        """The port it listens on; 0 when it does not."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(_LIMIT_S):
                if self._clients > MAX_CLIENTS:
                    _answer(writer, HTTPStatus.SERVICE_UNAVAILABLE)
                else:
                    await self._respond(await reader.readuntil(b"\r\n\r\n"), writer)
                await writer.drain()
            await _linger(reader, writer)
        except (asyncio.IncompleteReadError, OSError):  # it has gone, or was too slow (TimeoutError)
            pass
        except asyncio.LimitOverrunError:
            _answer(writer, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            await _linger(reader, writer)
        finally:
            self._clients -= 1
            writer.close()

    async def _respond(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            _answer(writer, HTTPStatus.BAD_REQUEST)
        elif words[0] not in (b"GET", b"HEAD"):
            _answer(writer, HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n")
        elif words[1].partition(b"?")[0] != b"/metrics":
            _answer(writer, HTTPStatus.NOT_FOUND)
        else:
            page = await blocking.run("cpu", exposition.render, list(self._samples()))
            _answer(
                writer,
                HTTPStatus.OK,
                page.encode(errors="replace"),
                kind=exposition.CONTENT_TYPE,
                empty=words[0] == b"HEAD",
            )

    # What is on the page

    def _samples(self) -> Iterator[Sample]:
        node = self._manager.node
        yield Sample("g8node_jobs", "gauge", len(self._manager.jobs), help="Jobs accepted and not finished.")
        for state, count in self._statistics.results.items():
            yield Sample(
                "g8node_jobs_finished", "counter", count, (("state", state),), help="Results by state."
            )
        yield Sample("g8node_loop_stalls", "gauge", len(node.watchdog.stalls), help="Stalls remembered.")
        for status in node.supervisor.status():
            name = (("name", status.name),)
            yield Sample("g8node_subsystem_up", "gauge", float(status.running), name)
            yield Sample("g8node_subsystem_restarts", "counter", status.restarts, name)
        yield from self._vdisks()
        for subsystem, counters in self._manager.counters.items():
            for key, value in counters().items():
                if (number := _number(value)) is not None:
                    yield Sample(f"g8node_{subsystem}_{key}", "gauge", number)
        for series in self._stats.aggregator.all():
            kind: exposition.Kind = "counter" if series.state.op == "D" else "gauge"
            yield Sample(f"g8_{series.key}", kind, series.state.last_value, series.tags)

    def _vdisks(self) -> Iterator[Sample]:
        node = self._manager.node
        if not node.is_complete or not hasattr(node, "blocks"):
            return
        for vdisk, counters in node.blocks.counters().items():
            for key, value in counters.items():
                yield Sample(f"g8node_vdisk_{key}", "counter", value, (("vdisk", vdisk),))
        remote = node.blocks.remote
        for row in remote.states() if remote is not None else ():
            for server in row["servers"]:
                labels = (("vdisk", row["id"]), ("server", server["server"]), ("type", server["type"]))
                yield Sample("g8node_vdisk_server_up", "gauge", float(not server["reason"]), labels)
                yield Sample("g8node_vdisk_server_in_step", "gauge", float(server["in_step"]), labels)
                yield Sample("g8node_vdisk_server_retries", "counter", server["retries"], labels)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the client, who has its answer, has hung up as well."""
    with contextlib.suppress(OSError):  # TimeoutError, too
        async with asyncio.timeout(_LINGER_S):
            writer.write_eof()
            while await reader.read(_HEAD_BYTES):
                pass


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _answer(
    writer: asyncio.StreamWriter,
    status: HTTPStatus,
    body: bytes = b"",
    *,
    kind: str = "text/plain",
    extra: str = "",
    empty: bool = False,
) -> None:
    body = body or f"{status.phrase}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        writer.write(head.encode() + (b"" if empty else body))
