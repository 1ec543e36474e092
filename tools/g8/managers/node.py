"""What only the node itself has (pure): logs, settings, statistics, groups, services, downloads."""

from typing import Any, Final, Literal

from g8tools.g8.flow import Flow, M, Request, call, each
from g8tools.g8.managers.manager import Manager
from g8tools.g8.results import Record, decode_record

Numbers = list[int]

_SLICE_S: Final = 10.0


class Logger(Manager[M]):
    """core0's log, and subscriptions to what all jobs say."""

    @call
    def set_level(self, level: str) -> Flow[None]:
        """CRITICAL, ERROR, WARNING, NOTICE, INFO or DEBUG."""
        return self._done("logger.set_level", level=level)

    @call
    def reopen(self) -> Flow[None]:
        """Rotate core0's log."""
        return self._done("logger.reopen")

    @call
    def subscribe(self, queue: str | None = None, *levels: int) -> Flow[str]:
        """Feed a list with the records of all jobs (of these levels); its key. Read it with `records`."""
        return self._json("logger.subscribe", queue=queue, levels=list(levels) or None)

    @call
    def unsubscribe(self, queue: str) -> Flow[None]:
        """End a subscription, by its key."""
        return self._done("logger.unsubscribe", queue=queue)

    @each
    def records(self, queue: str, timeout: float | None = None) -> Flow[Record | None]:
        """The records of a subscription as they come; ends when none has come for `timeout` seconds."""
        return self._next(queue, timeout)

    def _next(self, queue: str, timeout: float | None) -> Flow[Record | None]:
        wait_s = _SLICE_S if timeout is None else max(timeout, 0.05)
        while True:
            got = yield Request(("BLPOP", queue, wait_s), wait_s)
            if got is not None:
                return decode_record(got[1])
            if timeout is not None:
                return None


class Config(Manager[M]):
    """The node's settings."""

    @call
    def get(self) -> Flow[dict[str, Any]]:
        """As the node read them."""
        return self._json("config.get")


class Aggregator(Manager[M]):
    """Statistics."""

    @call
    def query(self, /, key: str | None = None, **tags: str) -> Flow[dict[str, Any]]:
        """The series of that metric whose tags all match (`id` is a tag), by `<metric>[/<id>]`."""
        return self._json("aggregator.query", key=key, tags=tags or None)


class RTInfo(Manager[M]):
    """rtinfo clients."""

    @call
    def start(self, host: str = "localhost", port: int = 8999, disks: list[str] | None = None) -> Flow[None]:
        """Send the machine's state to an rtinfo server."""
        return self._done("rtinfo.start", host=host, port=port, disks=disks or [])

    @call
    def stop(self, host: str, port: int) -> Flow[None]:
        """End that."""
        return self._done("rtinfo.stop", host=host, port=port)

    @call
    def list(self) -> Flow[dict[str, Any]]:
        """What runs, by host:port."""
        return self._json("rtinfo.list")


Subsystem = Literal["memory", "cpuset"]


class CGroup(Manager[M]):
    """Groups with limits."""

    @call
    def list(self) -> Flow[dict[str, list[str]]]:
        """The groups of each subsystem."""
        return self._json("cgroup.list")

    @call
    def ensure(self, subsystem: Subsystem, name: str) -> Flow[None]:
        """Make a group unless it is there."""
        return self._done("cgroup.ensure", subsystem=subsystem, name=name)

    @call
    def remove(self, subsystem: Subsystem, name: str) -> Flow[None]:
        """Remove a group; its processes live on outside."""
        return self._done("cgroup.remove", subsystem=subsystem, name=name)

    @call
    def tasks(self, subsystem: Subsystem, name: str) -> Flow[Numbers]:
        """The processes of a group."""
        return self._json("cgroup.tasks", subsystem=subsystem, name=name)

    @call
    def task_add(self, subsystem: Subsystem, name: str, pid: int) -> Flow[None]:
        """Move a process into a group."""
        return self._done("cgroup.task-add", subsystem=subsystem, name=name, pid=pid)

    @call
    def task_remove(self, subsystem: Subsystem, name: str, pid: int) -> Flow[None]:
        """Move a process out of a group."""
        return self._done("cgroup.task-remove", subsystem=subsystem, name=name, pid=pid)

    @call
    def reset(self, subsystem: Subsystem, name: str) -> Flow[None]:
        """Take the limits of a group away."""
        return self._done("cgroup.reset", subsystem=subsystem, name=name)

    @call
    def memory(self, name: str, mem: int = 0, swap: int = 0) -> Flow[dict[str, int]]:
        """Limit memory and swap (bytes); what the limits are then. 0 leaves them."""
        return self._json("cgroup.memory.spec", name=name, mem=mem, swap=swap)

    @call
    def cpuset(self, name: str, cpus: str | None = None, mems: str | None = None) -> Flow[dict[str, str]]:
        """Set processors and memory nodes (`0-2,4`); what they are then. None leaves them."""
        return self._json("cgroup.cpuset.spec", name=name, cpus=cpus, mems=mems)


class Socat(Manager[M]):
    """Port forwards."""

    @call
    def list(self) -> Flow[list[str] | None]:
        """The rules."""
        return self._json("socat.list")

    @call
    def reserve(self, number: int = 1) -> Flow[Numbers]:
        """Free ports, kept for two minutes."""
        return self._json("socat.reserve", number=number)


class Web(Manager[M]):
    """Downloads by the node."""

    @call
    def download(self, url: str, destination: str) -> Flow[str]:
        """Fetch a URL into a file of the node; its path."""
        return self._json("web.download", url=url, destination=destination)


class Service(Manager[M]):
    """Services that the node starts at boot."""

    @call
    def list(self, id: str | None = None) -> Flow[list[dict[str, Any]]]:
        """All of them, or one, and how they do."""
        return self._json("service.list", id=id)

    @call
    def start(self, id: str) -> Flow[dict[str, Any]]:
        """Start one that is not running."""
        return self._json("service.start", id=id)

    @call
    def stop(self, id: str) -> Flow[dict[str, Any]]:
        """Stop one and keep it stopped."""
        return self._json("service.stop", id=id)

    @call
    def restart(self, id: str) -> Flow[dict[str, Any]]:
        """Stop and start one."""
        return self._json("service.restart", id=id)
