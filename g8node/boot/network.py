"""Network bring-up (async): DHCP on every wired link, by one busybox udhcpc a link that stays to renew.

spec core0-protocol 1.6: links named by `noautonic=` on the kernel command line are left alone.
"""

from collections.abc import Collection, Sequence

from g8node.linux import links
from g8node.runtime import blocking, logs
from g8node.runtime.process import Reaper

log = logs.get("network")

_BUSYBOX = "/bin/busybox"
_SCRIPT = "/usr/share/udhcpc/default.script"


def udhcpc(link: str, hostname: str) -> list[str]:
    """The DHCP client of a link: in the foreground, first try at once, then ten tries a second apart."""
    return [
        _BUSYBOX, "udhcpc", "-f", "-i", link, "-t", "10", "-T", "1", "-A", "3",
        "-s", _SCRIPT, "-x", f"hostname:{hostname}",
    ]  # fmt: skip


async def dhcp_links(noautonic: Collection[str]) -> list[links.Link]:
    """The wired links that get DHCP."""
    found = await blocking.run("disk", links.wired)
    return [link for link in found if link.name not in noautonic]


async def bring_up(reaper: Reaper, found: Sequence[links.Link]) -> None:
    """Set loopback and the links up. A link that cannot be set up is logged and left alone."""
    for name in ("lo", *(link.name for link in found)):
        done = await reaper.run([_BUSYBOX, "ip", "link", "set", name, "up"])
        if done.code:
            log.warning("link stays down", link=name, reason=done.stderr.decode(errors="replace").strip())
