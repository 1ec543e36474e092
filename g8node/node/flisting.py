"""Flists of what is in a running container (async); spec core0-resources 1.4, `corex.flist.create`.

The root is read from the node's side, in threads for paths that we serve ourselves, while nothing in the
container moves. What lies in its mounts is not in it. The packer is imported on first use.
"""

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from g8node.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from g8node.linux import rootpath
from g8node.linux.guard import off_loop
from g8node.node import owners
from g8node.node.atrest import at_rest, unless_it_ends
from g8node.node.container import Container
from g8node.runtime import blocking
from g8node.store.locate import PORTS
from g8node.store.stores import Stores
from g8node.store.url import parse_url
from g8node.wire.router import Range, Router, Rule, without_credentials

if TYPE_CHECKING:
    from g8node.node.containers import Containers

_UPLOAD: Final = "/api/flist/me/upload-flist"
_CONNECT_S: Final = 30.0
_SILENT_S: Final = 300.0
_ANSWER_BYTES: Final = 1 << 20
_EVERY: Final = Range(b"\x00", b"\xff")


@dataclass(frozen=True, slots=True)
class Wanted:
    """`source`, a folder, and `output`, a file that is made, are paths inside the container."""

    source: str
    output: str
    store: str
    hub: str = ""
    token: str = ""


def checked(source: str, output: str, storage: str, hub: str = "", token: str = "") -> Wanted:
    """`storage` is host:port of a 0-db or the URL of a store. InvalidArgument names the field."""
    store = storage if "://" in storage else f"zdb://{storage}"
    try:
        parse_url(store, ports=PORTS)
    except InvalidArgument as error:
        raise InvalidArgument(f"storage: {error.message}") from error
    parts = urlsplit(hub)
    if hub and not (parts.scheme in ("http", "https") and parts.netloc):
        raise InvalidArgument("hub: expected http://host/... or https://host/...")
    if bool(hub) != bool(token):
        missing, given = ("token", "hub") if hub else ("hub", "token")
        raise InvalidArgument(f"{missing}: expected one with a {given}")
    return Wanted(source, output, store, hub, token)


async def make(containers: "Containers", id: int, wanted: Wanted) -> str:
    """Pack, store, upload; the path of the flist on the node.

    NotFound, InvalidArgument, Unavailable: the store or the Hub; Conflict: the container ended.
    """
    packing: Any = await blocking.run("disk", importlib.import_module, "g8node.flist.pack")
    store = Stores().open(wanted.store, token=wanted.token)
    try:
        async with at_rest(containers, id) as container, owners.plain(container) as root:
            source, output = await blocking.run("path", _places, root, container.rootfs, wanted)
            options = packing.PackOptions(info=_info(container, wanted), router=_router(wanted), pool="path")
            await unless_it_ends(container, packing.pack(source, output, store, options))
            await blocking.run("path", os.chown, output, container.base, container.base)
            # Once it moves, the container may put anything in its place, links to files of the node too.
            data = await blocking.run("path", _content, output) if wanted.hub else b""
    finally:
        await store.close()
    if wanted.hub:
        await unless_it_ends(container, _upload(data, wanted))
    return output


@off_loop
def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@off_loop
def _places(shown: str, root: str, wanted: Wanted) -> tuple[str, str]:
    """The folder, of the root as it is `shown`, and the file as paths of the node.

    No link inside leads out of the root.
    """
    folder, name = os.path.split(wanted.output)
    try:
        source = _inside(shown, wanted.source, os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"src: no folder {wanted.source[:200]!r} in the container's root") from error
    try:
        return source, f"{_inside(root, folder, os.O_DIRECTORY)}/{name}"
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"flist: no folder {folder[:200]!r} in the container's root") from error


def _inside(root: str, path: str, flags: int) -> str:
    top = rootpath.open_root(root)
    try:
        fd = rootpath.open_in_root(top, path, os.O_PATH | flags)
    finally:
        os.close(top)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _info(container: Container, wanted: Wanted) -> dict[str, str]:
    """A whole root starts as the container did."""
    program = container.place.program
    if rootpath.normal(wanted.source):
        return {}
    info = {"workdir": program.cwd, "user": program.user}
    if program.argv:
        info["entrypoint"] = msgspec.json.encode(program.argv).decode()
    if program.env:
        info["environ"] = msgspec.json.encode(program.env).decode()
    return {key: value for key, value in info.items() if value}


def _router(wanted: Wanted) -> Router:
    """Who reads the flist finds the chunks where they were put."""
    return Router({"private": (Rule(_EVERY, without_credentials(wanted.store)),)}, ("private",))


async def _upload(data: bytes, wanted: Wanted) -> None:
    """To the repository of the token's user, under the name of the file."""
    http: Any = await blocking.run("disk", importlib.import_module, "aiohttp")
    timeout = http.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
    form = http.FormData()
    form.add_field("file", data, filename=os.path.basename(wanted.output))
    headers = {"Authorization": f"Bearer {wanted.token}"}
    try:
        async with (
            http.ClientSession(timeout=timeout, trust_env=False) as session,
            session.post(wanted.hub.rstrip("/") + _UPLOAD, data=form, headers=headers) as response,
        ):
            said = (await response.content.read(_ANSWER_BYTES)).decode(errors="replace")
            if response.status in (401, 403):
                raise PermissionDenied(f"token: the Hub refuses it: {said[:300]}")
            if response.status >= 300:
                raise Unavailable(f"hub: HTTP {response.status}: {said[:300]}")
    except (http.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"hub: {str(error) or type(error).__name__}") from error
