"""The name servers that udhcpc.script writes down, when two links have theirs at the same moment."""

import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root]

SCRIPT = Path(__file__).parent.parent.parent / "systemd-free-init/udhcpc.script"

# The other link comes while the first one's file is made, and is done before that is in its place.
CHMOD = """#!/bin/sh
if mkdir /run/between 2>/dev/null; then
    echo "nameserver 10.0.0.2" >/run/resolv/two.conf
    interface=two METRIC=1 /bin/sh "$SCRIPT" resolver
fi
exec /bin/chmod "$@"
"""
RUN = """
mount -t tmpfs none /run
mount -t tmpfs none /etc
mkdir /run/resolv
echo "nameserver 10.0.0.1" >/run/resolv/one.conf
interface=one METRIC=1 /bin/sh "$SCRIPT" resolver
test -d /run/between
cat /etc/resolv.conf
ls -A /etc
"""


def test_two_links_at_once_leave_no_name_server_out(tmp_path: Path) -> None:
    chmod = tmp_path / "chmod"
    chmod.write_text(CHMOD)
    chmod.chmod(0o755)
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-euc", RUN],
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin", "SCRIPT": str(SCRIPT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nameserver 10.0.0.1\nnameserver 10.0.0.2\nresolv.conf\n"
