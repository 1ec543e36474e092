"""An NBD server of its own process (async): vdisks of a folder, or of a configuration, until a signal."""

import asyncio
import resource
import signal
import ssl
from dataclasses import dataclass
from typing import Protocol

from g8node.nbd.export import Exports
from g8node.nbd.server import Server
from g8node.nbd.tls import context_of
from g8node.runtime import blocking, logs
from g8node.vdisk.cluster.events import Event, figures, line
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.remote import Remote
from g8node.vdisk.seal import read_master_key
from g8node.vdisk.vdisks import Vdisks

log = logs.get("vdisk")


@dataclass(frozen=True)
class Options:
    """What to serve and where. `tls`: certificate, key, CA of clients, pre-shared keys, each a file or "".

    `data` or `config` is empty.
    """

    data: str
    socket: str
    address: tuple[str, int] | None
    tls: tuple[str, str, str, str]
    tls_only: bool
    key_file: str = ""
    config: str = ""
    server: str = "default"
    patience_s: float = 8.0
    figures_s: float = 30.0


async def serve(options: Options) -> None:
    """Until SIGTERM or SIGINT; then everything is flushed, and a failure of that is raised."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a client each, and a file for each TiB
    context = await blocking.run("disk", context_of, *options.tls)
    if options.config:
        patience = Patience.of(options.patience_s)
        remote = Remote(options.config, options.server, tell=_print, patience=patience)
        loop.add_signal_handler(signal.SIGHUP, remote.source.reload)
        printing = asyncio.create_task(_print_figures(remote, options.figures_s))
        try:
            await _serve(options, context, remote, remote.vdisks, ended)
        finally:
            printing.cancel()
    else:
        key = await blocking.run("disk", read_master_key, options.key_file) if options.key_file else b""
        vdisks = Vdisks(options.data, key=key, makes_folder=False)
        await _serve(options, context, vdisks, vdisks, ended)


def _print(event: Event) -> None:
    """As the original's server did, for who reads its stdout."""
    print(line(event), flush=True)


async def _print_figures(remote: Remote, period_s: float) -> None:
    """Of every vdisk in use, zeros included."""
    before: dict[str, dict[str, int]] = {}
    while True:
        await asyncio.sleep(period_s)
        used = [row for row in remote.states() if row["counters"]]
        for row in used:
            text = figures(row["id"], row["tags"], before.get(row["id"], {}), row["counters"], period_s)
            print(text, end="", flush=True)
        before = {row["id"]: row["counters"] for row in used}


class _Owner(Protocol):
    """What has vdisks."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


async def _serve(
    options: Options, tls: ssl.SSLContext | None, owner: _Owner, exports: Exports, ended: asyncio.Event
) -> None:
    server = Server(exports, tls=tls, tls_only=options.tls_only)
    await owner.start()
    try:
        if options.socket:
            await server.listen_unix(options.socket)
            log.info(f"serving on {options.socket}")
        if options.address is not None:
            port = await server.listen_tcp(*options.address)
            log.info(f"serving on {options.address[0]}:{port}")
        await ended.wait()
    finally:
        await server.close()
        await owner.close()
        blocking.close()
