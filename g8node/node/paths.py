"""Where the node keeps its files (pure): below `/` for PID 1, below `--root` for an agent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paths:
    """Everything below `run` is lost at reboot, everything below `cache` may be lost at any time."""

    root: str

    def _at(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"

    @property
    def run(self) -> str:
        return self._at("run")

    @property
    def redis(self) -> str:
        """Working folder of redis-server: its append-only file."""
        return self._at("run/redis")

    @property
    def redis_socket(self) -> str:
        """spec core0-protocol 1.7."""
        return self._at("run/redis.sock")

    @property
    def core_socket(self) -> str:
        """spec core0-protocol 2.8."""
        return self._at("run/core.sock")

    @property
    def gate(self) -> str:
        """The certificate of the gate's own CA."""
        return self._at("run/gate")

    @property
    def g8ufs(self) -> str:
        """The one FUSE mount (design 4.4)."""
        return self._at("run/g8ufs")

    @property
    def containers(self) -> str:
        """Bundles, uppers and roots of containers."""
        return self._at("run/containers")

    @property
    def crun(self) -> str:
        """State folder of the OCI runtime."""
        return self._at("run/crun")

    @property
    def dnsmasq(self) -> str:
        """Names, leases and pids of the servers of bridges."""
        return self._at("run/dnsmasq")

    @property
    def bridges(self) -> str:
        """What is remembered of bridges; see `node.bridgerecords`."""
        return self._at("run/bridges")

    @property
    def claim(self) -> str:
        """There while the node makes networks; see `node.claim`."""
        return self._at("run/networks.claim")

    @property
    def keeper(self) -> str:
        """Who keeps the mount namespace of an agent; see `linux.survivor`."""
        return self._at("run/mounts.keeper")

    @property
    def vdisks(self) -> str:
        """The vdisks, unless the settings name a folder."""
        return self._at("var/lib/g8node/vdisks")

    @property
    def volumes(self) -> str:
        """Volumes of containers, unless the settings name a folder; on the cache disk if there is one."""
        return self._at("var/lib/g8node/volumes")

    @property
    def nbd_socket(self) -> str:
        """Where the NBD server listens for this machine."""
        return self._at("run/nbd.sock")

    @property
    def cache(self) -> str:
        """Downloaded flists, EROFS images, chunks."""
        return self._at("var/cache/g8node")
