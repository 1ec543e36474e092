"""An NBD server of its own process (async): the vdisks of one folder until a signal."""

import asyncio
import signal
import ssl
from dataclasses import dataclass

from g8node.nbd.server import Server
from g8node.nbd.tls import server_context
from g8node.runtime import blocking, logs
from g8node.vdisk.seal import read_master_key
from g8node.vdisk.vdisks import Vdisks

log = logs.get("vdisk")


@dataclass(frozen=True)
class Options:
    """What to serve and where. `tls`: certificate, key, CA of clients or ""."""

    data: str
    socket: str
    address: tuple[str, int] | None
    tls: tuple[str, str, str] | None
    tls_only: bool
    key_file: str = ""


async def serve(options: Options) -> None:
    """Until SIGTERM or SIGINT; then everything is flushed, and a failure of that is raised."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    context: ssl.SSLContext | None = None
    if options.tls is not None:
        context = await blocking.run("disk", server_context, *options.tls)
    key = await blocking.run("disk", read_master_key, options.key_file) if options.key_file else b""
    vdisks = Vdisks(options.data, key=key)
    server = Server(vdisks, tls=context, tls_only=options.tls_only)
    await vdisks.start()
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
        await vdisks.close()
        blocking.close()
