"""The client of a node, whichever way it makes its calls (pure)."""

import copy
from collections.abc import Mapping
from typing import Any, Self

from g8tools.g8.base import QUEUE, BaseClient, Deadline, Response, command_of, encoded
from g8tools.g8.flow import Flow, M, Request, call
from g8tools.g8.managers.common import Core, Info, Job, Process
from g8tools.g8.managers.container import ContainerManager
from g8tools.g8.managers.filesystem import Filesystem
from g8tools.g8.managers.g8ufs import G8ufs
from g8tools.g8.managers.ip import Ip
from g8tools.g8.managers.kvm import Kvm
from g8tools.g8.managers.network import Bridge, Nft, ZeroTier
from g8tools.g8.managers.node import (
    Aggregator,
    CGroup,
    Config,
    Logger,
    RTInfo,
    Service,
    Socat,
    Web,
)
from g8tools.g8.managers.storage import Btrfs, Disk, Volume
from g8tools.g8.managers.zfs import ZFS
from g8tools.g8.results import Return


class HostClient(BaseClient[M]):
    """Commands of the node itself; each attribute has a family of them."""

    def __init__(self, timeout: float | None) -> None:
        if timeout is not None:
            self.timeout = timeout
        self.add_managers()

    def add_managers(self) -> None:
        """Make the attributes: they call through this client."""
        self.core: Core[M] = Core(self)
        self.info: Info[M] = Info(self)
        self.job: Job[M] = Job(self)
        self.process: Process[M] = Process(self)
        self.filesystem: Filesystem[M] = Filesystem(self)
        self.ip: Ip[M] = Ip(self)
        self.container: ContainerManager[M] = ContainerManager(self)
        self.bridge: Bridge[M] = Bridge(self)
        self.nft: Nft[M] = Nft(self)
        self.zerotier: ZeroTier[M] = ZeroTier(self)
        self.kvm: Kvm[M] = Kvm(self)
        self.disk: Disk[M] = Disk(self)
        self.btrfs: Btrfs[M] = Btrfs(self)
        self.volume: Volume[M] = Volume(self)
        self.logger: Logger[M] = Logger(self)
        self.config: Config[M] = Config(self)
        self.aggregator: Aggregator[M] = Aggregator(self)
        self.rtinfo: RTInfo[M] = RTInfo(self)
        self.cgroup: CGroup[M] = CGroup(self)
        self.zfs: ZFS[M] = ZFS(self)
        self.g8ufs: G8ufs[M] = G8ufs(self)
        self.socat: Socat[M] = Socat(self)
        self.web: Web[M] = Web(self)
        self.service: Service[M] = Service(self)

    def with_timeout(self, timeout: float) -> Self:
        """The same client, over the same connections, that waits so many seconds for results."""
        twin = copy.copy(self)
        twin.timeout = timeout
        twin.add_managers()
        return twin

    @call
    def direct(self, command: str, arguments: Mapping[str, Any], timeout: float | None = None) -> Flow[bytes]:
        """A command called by its name at the gate: its answer as it came, without a job id to keep."""
        return self._direct(command, encoded(dict(arguments)), self.limit_s(timeout))

    def _direct(self, command: str, arguments: bytes, limit_s: float) -> Flow[bytes]:
        answer: bytes = yield Request((command, arguments), limit_s)
        return answer

    def response_for(self, id: str) -> Response[M]:
        """Of a job that was handed over before."""
        return Response(self, id)

    def hand_over(self, wire: dict[str, Any]) -> Flow[Response[M]]:
        yield Request(("RPUSH", QUEUE, encoded(wire)))
        response = Response(self, wire["id"])
        yield from response.accepted(Deadline(self.timeout))
        return response

    def run(
        self, command: str, arguments: Mapping[str, Any], timeout: float | None = None, **fields: Any
    ) -> Flow[Return]:
        wire = command_of(command, arguments, **fields)
        deadline = Deadline(self.limit_s(timeout))
        yield Request(("RPUSH", QUEUE, encoded(wire)))
        return (yield from Response(self, wire["id"]).result(deadline, is_new=True))
