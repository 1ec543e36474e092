"""Containers (pure): `client.container`, and the client of what is inside one."""

import builtins
from collections.abc import Mapping, Sequence
from typing import Any, Final

from g8tools.g8.base import BaseClient, Deadline, JSONResponse, Response, command_of
from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.common import Info, Job, Process
from g8tools.g8.managers.filesystem import Filesystem
from g8tools.g8.managers.ip import Ip
from g8tools.g8.managers.manager import Manager
from g8tools.g8.results import Return

Nic = Mapping[str, Any]

DEFAULT_NICS: Final[tuple[Nic, ...]] = ({"type": "default"},)


class ContainerManager(Manager[M]):
    """Containers of a node; ids are numbers."""

    DefaultNetworking = DEFAULT_NICS

    @call
    def create(
        self,
        root_url: str,
        mount: Mapping[str, str] | None = None,
        host_network: bool = False,
        nics: Sequence[Nic] | None = DEFAULT_NICS,
        port: Mapping[int | str, int] | None = None,
        hostname: str | None = None,
        privileged: bool = False,
        storage: str | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        identity: str | None = None,
        env: Mapping[str, str] | None = None,
        cgroups: Sequence[Sequence[str]] | None = None,
        config: Mapping[str, str] | None = None,
        command: str | Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        limits: Mapping[str, Any] | None = None,
        readonly: bool | None = None,
        size: int | None = None,
        tmpfs: Mapping[str, int] | None = None,
        devices: Sequence[str] | None = None,
        sysctls: Mapping[str, str] | None = None,
        restart: Mapping[str, Any] | None = None,
        health: Mapping[str, Any] | None = None,
        volumes: Mapping[str, Mapping[str, Any]] | None = None,
        userns: bool | None = None,
    ) -> Flow[JSONResponse[M]]:
        """Start a container of an flist; `.get()` gives its id.

        `mount`: a folder of the node or an flist -> a path inside. `nics`: one `default` link unless given.
        `port`: source on the node -> port inside. `config`: files written before the start. `command`: what
        runs as process 1. From `layers` on: as corex.create has them.
        """
        arguments = {
            "root": root_url,
            "mount": mount,
            "host_network": host_network,
            # With the node's own network links are ignored: not to send the default is the same.
            "nics": [] if host_network and nics is DEFAULT_NICS else list(nics or ()),
            "port": {str(source): target for source, target in port.items()} if port else None,
            "hostname": hostname,
            "privileged": privileged,
            "storage": storage,
            "name": name,
            "identity": identity,
            "env": env,
            "cgroups": cgroups,
            "config": config,
            "command": command,
            "layers": layers,
            "workdir": workdir,
            "user": user,
            "limits": limits,
            "readonly": readonly,
            "size": size,
            "tmpfs": tmpfs,
            "devices": devices,
            "sysctls": sysctls,
            "restart": restart,
            "health": health,
            "volumes": volumes,
            "userns": userns,
        }
        return self._client.json_response("corex.create", arguments, tags=tags)

    @call
    def list(self) -> Flow[dict[str, Any]]:
        """Running containers by id (as text)."""
        return self._json("corex.list")

    @call
    def find(self, *tags: str) -> Flow[dict[str, Any]]:
        """The running containers that have all these tags."""
        return self._json("corex.find", tags=tags)

    @call
    def get(self, query: int | str) -> Flow[dict[str, Any] | None]:
        """The container of that id or name: `{id, container}`, or None."""
        return self._json("corex.get", query=query)

    @call
    def stats(self, container: int) -> Flow[dict[str, Any]]:
        """What a whole container uses: `{processes, cpu, memory, io, source}`."""
        return self._json("corex.stats", container=container)

    @call
    def logs(self, container: int, tail: int = 0) -> Flow[builtins.list[dict[str, Any]]]:
        """What its process 1 has said lately: `[{epoch, level, message}]`."""
        return self._json("corex.logs", container=container, tail=tail)

    @call
    def limits(self, container: int, limits: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        """Change what a running container may use; the limits it has then."""
        return self._json("corex.limits", container=container, limits=limits)

    @call
    def terminate(self, container: int | str, timeout: float | None = None) -> Flow[None]:
        """Stop a container and wait until it is gone."""
        return self._terminate(container, timeout)

    def _terminate(self, container: int | str, timeout: float | None) -> Flow[None]:
        arguments = {"container": int(container)}
        (yield from self._client.run("corex.terminate", arguments, timeout)).checked()

    @call
    def nic_add(self, container: int, nic: Nic) -> Flow[None]:
        """Add a network link to a running container."""
        return self._done("corex.nic-add", container=container, nic=nic)

    @call
    def nic_remove(self, container: int, index: int) -> Flow[None]:
        """Remove a link, by its place in the container's list."""
        return self._done("corex.nic-remove", container=container, index=index)

    @call
    def add_portforward(self, container: int, host_port: int | str, container_port: int) -> Flow[None]:
        """Forward a port of the node to a container."""
        return self._forward("corex.portforward-add", container, host_port, container_port)

    @call
    def remove_portforward(self, container: int, host_port: int | str, container_port: int) -> Flow[None]:
        """End a forward."""
        return self._forward("corex.portforward-remove", container, host_port, container_port)

    def _forward(self, command: str, container: int, source: int | str, target: int) -> Flow[None]:
        return self._done(command, container=container, host_port=str(source), container_port=target)

    @call
    def layer(self, container: int, flist: str) -> Flow[None]:
        """Lay one more flist over a container's root, instead of the one laid before."""
        return self._done("corex.flist-layer", container=container, flist=flist)

    @call
    def backup(self, container: int, url: str, tags: Sequence[str] | None = None) -> Flow[JSONResponse[M]]:
        """Back a container up into a restic repository; `.get()` gives the snapshot's id."""
        arguments = {"container": container, "url": url, "tags": tags}
        return self._client.json_response("corex.backup", arguments)

    @call
    def restore(self, url: str, tags: Sequence[str] | None = None) -> Flow[JSONResponse[M]]:
        """Make the container of a snapshot (`url#snapshot`) again; `.get()` gives its id."""
        return self._client.json_response("corex.restore", {"url": url}, tags=tags)

    def client(self, container: int | str) -> "ContainerClient[M]":
        """A client of what is inside."""
        return ContainerClient(self._client, int(container))


class ContainerZerotier(Manager[M]):
    """ZeroTier of one container; asked of the node."""

    def __init__(self, host: BaseClient[M], container: int) -> None:
        super().__init__(host)
        self._container = container

    @call
    def info(self) -> Flow[dict[str, Any]]:
        """Its daemon's state."""
        return self._json("corex.zerotier.info", container=self._container)

    @call
    def list(self) -> Flow[list[dict[str, Any]]]:
        """The networks it has joined."""
        return self._json("corex.zerotier.list", container=self._container)


class ContainerFlist(Manager[M]):
    """Flists made of what is inside one container; asked of the node."""

    def __init__(self, host: BaseClient[M], container: int) -> None:
        super().__init__(host)
        self._container = container

    @call
    def create(
        self, src: str, flist: str, storage: str, token: str | None = None, hub: str | None = None
    ) -> Flow[JSONResponse[M]]:
        """Pack the folder `src` into the archive `flist`; `.get()` gives its path on the node."""
        return self._client.json_response(
            "corex.flist.create",
            {
                "container": self._container,
                "src": src,
                "flist": flist,
                "storage": storage,
                "token": token,
                "hub": hub,
            },
        )


class ContainerClient(BaseClient[M]):
    """The calls of a node, inside one container. What is not there inside ends with UNKNOWN_CMD."""

    def __init__(self, host: BaseClient[M], container: int) -> None:
        self._host = host
        self.container = container
        self.timeout = host.timeout
        self.info: Info[M] = Info(self)
        self.job: Job[M] = Job(self)
        self.process: Process[M] = Process(self)
        self.filesystem: Filesystem[M] = Filesystem(self)
        self.ip: Ip[M] = Ip(self)
        self.zerotier: ContainerZerotier[M] = ContainerZerotier(host, container)
        self.flist: ContainerFlist[M] = ContainerFlist(host, container)

    def perform(self, flow: Flow[Any]) -> Any:
        return self._host.perform(flow)

    def repeat(self, make: Any) -> Any:
        return self._host.repeat(make)

    def hand_over(self, wire: dict[str, Any]) -> Flow[Response[M]]:
        arguments = {"container": self.container, "command": wire}
        id = yield from self._host.run_json("corex.dispatch", arguments, self.timeout)
        return Response(self._host, str(id))

    def run(
        self, command: str, arguments: Mapping[str, Any], timeout: float | None = None, **fields: Any
    ) -> Flow[Return]:
        deadline = Deadline(self.limit_s(timeout))
        response = yield from self.hand_over(command_of(command, arguments, **fields))
        return (yield from response.result(deadline))
