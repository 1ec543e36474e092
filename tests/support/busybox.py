"""Containers of the busybox root on an agent in a network namespace: no Hub is reached from there."""

import asyncio
import json
from pathlib import Path
from typing import Any

from g8node.flist.pack import pack
from g8node.store.local import LocalStore
from tests.support.netns import Inside
from tests.support.rootfs import make_rootfs


def busybox_flist(folder: Path) -> dict[str, str]:
    """`root` and `storage` of corex.create."""
    chunks = f"{folder}/chunks"

    async def packed() -> None:
        await pack(str(make_rootfs(folder / "tree")), f"{folder}/x.flist", LocalStore(chunks))

    asyncio.run(packed())
    return {"root": f"{folder}/x.flist", "storage": f"dir://{chunks}"}


class Containers:
    """On one agent."""

    def __init__(self, node: Inside, flist: dict[str, str]) -> None:
        self.node = node
        self.flist = flist

    def create(self, *nics: dict[str, Any], **arguments: Any) -> int:
        id: int = self.node.direct("corex.create", **self.flist, nics=list(nics), **arguments)
        return id

    def refused(self, *nics: dict[str, Any], **arguments: Any) -> tuple[int, str]:
        return self.node.refused("corex.create", **self.flist, nics=list(nics), **arguments)

    def sh(self, id: int, script: str) -> str:
        done = self.node.run_in(id, script)
        assert done["state"] == "SUCCESS", done
        return str(done["streams"][0])

    def reaches(self, id: int, *hosts: str) -> None:
        """By ping, as soon as what was just made carries packets."""
        for host in hosts:
            self.sh(id, f"until ping -c 1 -W 2 {host}; do sleep 0.1; done")

    def fails(self, id: int, script: str) -> bool:
        return str(self.node.run_in(id, script)["state"]) == "ERROR"

    def arguments(self, id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.node.direct("corex.get", query=id)["container"]["arguments"]
        return found

    def links(self, id: int) -> dict[str, list[str]]:
        """Link -> its addresses that are not the kernel's own, as seen inside."""
        rows = json.loads(self.there(id, "ip", "-j", "address"))
        return {
            row["ifname"]: [
                f"{each['local']}/{each['prefixlen']}"
                for each in row["addr_info"]
                if each["scope"] == "global"
            ]
            for row in rows
        }

    def there(self, id: int, *argv: str) -> str:
        """Output of a program of the machine in the container's network namespace."""
        pid = self.node.direct("corex.get", query=id)["container"]["pid"]
        return self.node.there("nsenter", f"--net=/proc/{pid}/ns/net", *argv)

    def end(self, *ids: int) -> None:
        for id in ids:
            self.node.direct("corex.terminate", container=id)
