"""What is there on the node and inside containers (pure): info, job, process, core."""

from typing import Any

from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.manager import Manager

Rows = list[dict[str, Any]]


class Info(Manager[M]):
    """The machine."""

    @call
    def cpu(self) -> Flow[Rows]:
        """One entry for each logical processor."""
        return self._json("info.cpu")

    @call
    def nic(self) -> Flow[Rows]:
        """Network links with their addresses."""
        return self._json("info.nic")

    @call
    def mem(self) -> Flow[dict[str, Any]]:
        """Memory, in bytes."""
        return self._json("info.mem")

    @call
    def disk(self) -> Flow[Rows]:
        """Mounted file systems."""
        return self._json("info.disk")

    @call
    def os(self) -> Flow[dict[str, Any]]:
        """Host name, uptime, kernel."""
        return self._json("info.os")

    @call
    def port(self) -> Flow[Rows]:
        """Listening sockets."""
        return self._json("info.port")

    @call
    def version(self) -> Flow[dict[str, Any]]:
        """Branch and revision of core0."""
        return self._json("info.version")

    @call
    def dmi(self, *types: int | str) -> Flow[dict[str, Any]]:
        """What the firmware says of the machine: sections by number (0 to 42) or word (bios, memory, …)."""
        return self._json("info.dmi", types=list(types) or None)


class Job(Manager[M]):
    """Jobs of core0."""

    @call
    def list(self, id: str | None = None) -> Flow[Rows]:
        """The jobs that are not finished, or the one of that id. ResultError when it is not there."""
        return self._json("job.list", id=id)

    @call
    def kill(self, id: str, signal: int = 15) -> Flow[bool]:
        """Send a signal to a job's processes; False when there is no such job."""
        return self._json("job.kill", id=id, signal=signal)

    @call
    def killall(self) -> Flow[bool]:
        """SIGTERM to every job that is not protected."""
        return self._json("job.killall")

    @call
    def unschedule(self, id: str) -> Flow[bool]:
        """No further run of a recurring job; False when there is no such job."""
        return self._json("job.unschedule", id=id)


class Process(Manager[M]):
    """Processes of the operating system."""

    @call
    def list(self, id: int | None = None) -> Flow[Rows]:
        """All processes, or the one of that pid ([] when it is gone)."""
        return self._json("process.list", pid=id)

    @call
    def kill(self, pid: int, signal: int = 15) -> Flow[bool]:
        """Send a signal to a process. True; ResultError when it is not there."""
        return self._kill(pid, signal)

    def _kill(self, pid: int, signal: int) -> Flow[bool]:
        yield from self._done("process.kill", pid=pid, signal=signal)
        return True


class Core(Manager[M]):
    """core0 itself."""

    @call
    def state(self) -> Flow[dict[str, Any]]:
        """What core0 and its jobs use, and how its subsystems do."""
        return self._json("core.state")

    @call
    def help(self, command: str | None = None) -> Flow[Rows]:
        """The commands the node has, or one of them, with their arguments."""
        return self._json("core.help", command=command)

    @call
    def reboot(self) -> Flow[None]:
        """Stop everything and start the machine again."""
        return self._done("core.reboot")

    @call
    def poweroff(self) -> Flow[None]:
        """Stop everything and switch the machine off."""
        return self._done("core.poweroff")
