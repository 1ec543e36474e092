"""kvm.* (pure): virtual machines, named by their uuid."""

from collections.abc import Mapping, Sequence
from typing import Any

from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.manager import Manager

Media = Mapping[str, Any]
Nic = Mapping[str, Any]


class Kvm(Manager[M]):
    """Virtual machines."""

    @call
    def create(
        self,
        name: str,
        media: Sequence[Media] | None = None,
        flist: str | None = None,
        cpu: int = 2,
        memory: int = 512,
        nics: Sequence[Nic] | None = None,
        port: Mapping[int | str, int] | None = None,
        mount: Sequence[Mapping[str, Any]] | None = None,
        tags: Sequence[str] | None = None,
        config: Mapping[str, str] | None = None,
        storage: str | None = None,
        cmdline: str | None = None,
        share_cache: bool = False,
        kvm: bool = False,
    ) -> Flow[str]:
        """Start a machine of media (`{url, type}`) or an flist; its uuid. `memory` is in MiB."""
        arguments = {
            "name": name,
            "media": media,
            "flist": flist,
            "cpu": cpu,
            "memory": memory,
            "nics": nics or [],
            "port": {str(source): target for source, target in port.items()} if port else None,
            "mount": mount,
            "config": config,
            "storage": storage,
            "cmdline": cmdline,
            "share_cache": share_cache,
            "kvm": kvm,
        }
        return self._client.run_json("kvm.create", arguments, tags=tags)

    @call
    def prepare_migration_target(
        self,
        uuid: str,
        nics: Sequence[Nic] | None = None,
        port: Mapping[int | str, int] | None = None,
        tags: Sequence[str] | None = None,
    ) -> Flow[None]:
        """Make the networks that a machine will need here."""
        arguments = {"uuid": uuid, "nics": nics or [], "port": port}
        return self._client.run_json("kvm.prepare_migration_target", arguments, tags=tags)

    @call
    def destroy(self, uuid: str) -> Flow[None]:
        """Stop at once."""
        return self._done("kvm.destroy", uuid=uuid)

    @call
    def shutdown(self, uuid: str) -> Flow[None]:
        """Ask the guest to shut down."""
        return self._done("kvm.shutdown", uuid=uuid)

    @call
    def reboot(self, uuid: str) -> Flow[None]:
        """Ask the guest to reboot."""
        return self._done("kvm.reboot", uuid=uuid)

    @call
    def reset(self, uuid: str) -> Flow[None]:
        """Reset at once."""
        return self._done("kvm.reset", uuid=uuid)

    @call
    def pause(self, uuid: str) -> Flow[None]:
        """Freeze it."""
        return self._done("kvm.pause", uuid=uuid)

    @call
    def resume(self, uuid: str) -> Flow[None]:
        """Let it run again."""
        return self._done("kvm.resume", uuid=uuid)

    @call
    def info(self, uuid: str) -> Flow[dict[str, Any]]:
        """Counters: Vcpu, Net, Block."""
        return self._json("kvm.info", uuid=uuid)

    @call
    def infops(self, uuid: str) -> Flow[dict[str, Any]]:
        """Statistics, as aggregator.query."""
        return self._json("kvm.infops", uuid=uuid)

    @call
    def attach_disk(self, uuid: str, media: Media) -> Flow[None]:
        """Attach a disk."""
        return self._done("kvm.attach_disk", uuid=uuid, media=media)

    @call
    def detach_disk(self, uuid: str, media: Media) -> Flow[None]:
        """Detach a disk, named by its url."""
        return self._done("kvm.detach_disk", uuid=uuid, media=media)

    @call
    def add_nic(self, uuid: str, type: str, id: str | None = None, hwaddr: str | None = None) -> Flow[None]:
        """Add a network link."""
        return self._done("kvm.add_nic", uuid=uuid, type=type, id=id, hwaddr=hwaddr)

    @call
    def remove_nic(
        self, uuid: str, type: str, id: str | None = None, hwaddr: str | None = None
    ) -> Flow[None]:
        """Remove a network link."""
        return self._done("kvm.remove_nic", uuid=uuid, type=type, id=id, hwaddr=hwaddr)

    @call
    def limit_disk_io(self, /, uuid: str, media: Media, **limits: int | bool | str) -> Flow[None]:
        """Limit a disk: `totaliopssec=100, totaliopssecset=True` and so on."""
        return self._done("kvm.limit_disk_io", uuid=uuid, media=media, **limits)

    @call
    def migrate(self, uuid: str, desturi: str) -> Flow[None]:
        """Move a running machine to another node."""
        return self._done("kvm.migrate", uuid=uuid, desturi=desturi)

    @call
    def list(self) -> Flow[list[dict[str, Any]]]:
        """All machines."""
        return self._json("kvm.list")

    @call
    def get(self, name: str | None = None, uuid: str | None = None) -> Flow[dict[str, Any]]:
        """One machine, by name or uuid."""
        return self._json("kvm.get", name=name, uuid=uuid)

    @call
    def add_portfoward(self, uuid: str, host_port: int | str, container_port: int) -> Flow[None]:
        """Forward a port of the node to a machine (spelled as in the original)."""
        return self._forward("kvm.portforward-add", uuid, host_port, container_port)

    @call
    def remove_portfoward(self, uuid: str, host_port: int | str, container_port: int) -> Flow[None]:
        """End a forward."""
        return self._forward("kvm.portforward-remove", uuid, host_port, container_port)

    def _forward(self, command: str, uuid: str, source: int | str, target: int) -> Flow[None]:
        return self._done(command, uuid=uuid, host_port=str(source), container_port=target)

    @call
    def create_image(self, file_name: str, format: str, size: str) -> Flow[None]:
        """Make a disk image on the node."""
        return self._done("kvm.create-image", file_name=file_name, format=format, size=size)

    @call
    def convert_image(self, input_file: str, output_file: str, output_format: str) -> Flow[None]:
        """Convert a disk image on the node."""
        return self._done(
            "kvm.convert-image", input_file=input_file, output_file=output_file, output_format=output_format
        )
