"""One container, and what it needs of others (async parts in `containers`)."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from g8node.ids import ContainerId
from g8node.linux import userns
from g8node.node import rootfs
from g8node.node.bundle import Place
from g8node.node.policies import Health, Restart, Restarts
from g8node.node.specs import Spec
from g8node.node.stillness import Stillness
from g8node.runtime.process import Child

if TYPE_CHECKING:
    from g8node.node.inner import Inner
    from g8node.node.wires import Network


class Attached(Protocol):
    """What g8ufs tells of a mounted flist."""

    @property
    def info(self) -> dict[str, str]: ...


class Mounts(Protocol):
    """What g8ufs gives: flists as read-only mounts."""

    async def attach(self, flist: str, target: str, *, storage: str = "") -> "Attached":
        """Mount the flist on the empty folder `target`."""

    async def detach(self, target: str) -> None:
        """Undo `attach`."""


@dataclass(eq=False)
class Container:
    """One container; `child` is its PID 1 once it runs."""

    id: ContainerId
    spec: Spec
    tree: rootfs.Tree
    cgroup: str
    place: Place
    """What the runtime is told; complete when `prepare` is through."""
    child: Child | None = None
    pid: int = 0
    execs: set[Child] = field(default_factory=set)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    undo: AsyncExitStack = field(default_factory=AsyncExitStack)
    step: "asyncio.Task[Any] | None" = None
    inner: "asyncio.Task[Inner] | None" = None
    cleaning: bool = False
    layering: asyncio.Lock = field(default_factory=asyncio.Lock)
    stillness: Stillness = field(default_factory=Stillness)
    live: str = ""
    """Where the flist is that was put over the running container, and `live_flist` which one."""
    live_flist: str = ""
    swaps: int = 0
    journaling: asyncio.Lock = field(default_factory=asyncio.Lock)
    userspace: int = -1
    """A descriptor of its user namespace; -1: that of the node."""
    network: "Network | None" = None
    """Its own; None with that of the node, and where the node makes none."""
    startup: str = ""
    """Its services, as its root's own file has them."""
    turns: dict[str, asyncio.Lock] = field(default_factory=dict)
    """Of plugins whose calls come one after another, by domain."""
    restarts: Restarts = field(init=False)
    health: Health | None = field(init=False)
    sick: bool = False
    """It is ended because it is unhealthy."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """It is not started again."""

    def __post_init__(self) -> None:
        self.restarts = Restarts(self.spec.restart or Restart())
        self.health = Health() if self.spec.health is not None else None

    @property
    def base(self) -> int:
        """What its root is on the node: its ids are a range of 65536, those of two never the same."""
        return self.id * userns.COUNT if self.spec.userns else 0

    @property
    def may_restart(self) -> bool:
        health = self.spec.health
        return self.restarts.wanted.policy != "no" or (health is not None and health.restart)

    @property
    def resting(self) -> bool:
        """Between two runs; the next one is there as soon as it has a pid, and who asks for it waits."""
        return self.child is not None and not self.pid and not self.gone.is_set()

    @property
    def name(self) -> str:
        """Its name in the runtime's state folder."""
        return f"c{self.id}"

    @property
    def rootfs(self) -> str:
        return self.tree.layers[0].target
