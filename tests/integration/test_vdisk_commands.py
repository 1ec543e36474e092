"""vdisk.* of a real agent, and its NBD socket."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, daemon, refused
from tests.support.vdisks import Client, run

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


def test_vdisk_lives_from_create_to_delete(node: Daemon) -> None:
    made = node.direct("vdisk.create", id="ubuntu:latest", size=64 << 20, type="boot", storage="plain")
    assert (made["type"], made["size"], made["used"], made["counters"]) == ("boot", 64 << 20, 0, None)
    run("qemu-io", "-f", "raw", "-c", "write -P 3 1M 1M", "-c", "flush", made["uri"])
    assert node.direct("vdisk.info", id="ubuntu:latest")["used"] >= 1 << 20
    assert node.direct("vdisk.resize", id="ubuntu:latest", size=128 << 20)["size"] == 128 << 20
    copied = node.direct("vdisk.copy", id="ubuntu:latest", target="two")
    shown = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 3 1M 1M", copied["uri"]).stdout
    assert "failed" not in shown
    assert [row["id"] for row in node.direct("vdisk.list")] == ["two", "ubuntu:latest"]
    assert node.direct("vdisk.check", id="two") == []
    for vdisk in ("two", "ubuntu:latest"):
        node.direct("vdisk.delete", id=vdisk)
    assert node.direct("vdisk.list") == []


def test_vdisk_in_use_is_counted_and_kept(node: Daemon) -> None:
    node.direct("vdisk.create", id="used", size=1 << 20)
    client = Client(str(node.folder / "root/run/nbd.sock"), "used")
    client.write(0, bytes(4096))
    client.read(0, 512)
    found = node.direct("vdisk.info", id="used")
    assert found["connections"] == 1
    assert (found["counters"]["write_bytes"], found["counters"]["read_ops"]) == (4096, 1)
    assert refused(node, "vdisk.delete", id="used").startswith("409 ")
    assert refused(node, "vdisk.copy", id="used", target="other").startswith("409 ")
    assert node.direct("vdisk.limit", id="used", iops=1000)["limits"]["iops"] == 1000
    assert client.read(0, 512) == bytes(512)
    client.close()


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("vdisk.create", {"id": "odd", "size": 5000}, 400),
        ("vdisk.create", {"id": "odd", "size": 6000, "block_size": 1000}, 400),
        ("vdisk.create", {"id": "kept", "size": 1 << 20}, 409),
        ("vdisk.create", {"id": "odd", "size": 1 << 20, "template": "nosuch"}, 404),
        ("vdisk.create", {"id": "odd", "size": 1 << 20, "template": "odd"}, 400),
        ("vdisk.create", {"id": "odd", "size": 1 << 19, "storage": "plain", "template": "kept"}, 400),
        ("vdisk.create", {"id": "odd", "size": 1 << 20, "block_size": 512, "template": "kept"}, 400),
        ("vdisk.resize", {"id": "kept", "size": 512 << 10}, 409),
        ("vdisk.copy", {"id": "kept", "target": "kept"}, 409),
        ("vdisk.info", {"id": "nosuch"}, 404),
        ("vdisk.delete", {"id": "nosuch"}, 404),
        ("vdisk.check", {"id": "nosuch"}, 404),
    ],
)
def test_wrong_request_has_its_status(
    node: Daemon, name: str, arguments: dict[str, object], status: int
) -> None:
    if not any(row["id"] == "kept" for row in node.direct("vdisk.list")):
        node.direct("vdisk.create", id="kept", size=1 << 20)
    assert refused(node, name, **arguments).startswith(f"{status} ")


def test_clone_shows_its_template_and_gc_frees_what_nobody_has(node: Daemon) -> None:
    image = node.direct("vdisk.create", id="image", size=8 << 20, type="boot")
    assert (image["storage"], image["template"]) == ("dedup", "")
    assert refused(node, "vdisk.create", id="small", size=4 << 20, template="image").startswith("400 ")
    run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 2M", "-c", "write -P 8 4M 64k", image["uri"])
    clone = node.direct("vdisk.create", id="clone", size=16 << 20, template="image")
    assert (clone["storage"], clone["template"]) == ("dedup", "image")
    commands = (
        "read -P 7 1M 2M",
        "write -P 9 1M 4k",
        "discard 2M 64k",
        "read -P 0 2M 64k",
        "read -P 9 1M 4k",
    )
    words = [word for one in commands for word in ("-c", one)]
    shown = run("qemu-io", "-f", "raw", "-d", "unmap", *words, clone["uri"])
    assert "failed" not in shown.stdout
    shown = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 8 4M 64k", clone["uri"])
    assert "failed" not in shown.stdout
    extents = json.loads(run("nbdinfo", "--json", "--map", clone["uri"]).stdout)
    holes = [(one["offset"], one["length"]) for one in extents if one["description"] == "hole,zero"]
    assert (2 << 20, 64 << 10) in holes
    assert (1 << 20, 1 << 20) in [(one["offset"], one["length"]) for one in extents if one["type"] == 0]

    writer = run("qemu-io", "-f", "raw", "-c", "write 0 4k", image["uri"], check=False)
    assert writer.returncode != 0  # others show it
    assert refused(node, "vdisk.delete", id="image").startswith("409 ")
    assert node.direct("vdisk.check", id="clone") == []
    node.direct("vdisk.delete", id="clone")
    node.direct("vdisk.delete", id="image")
    (found,) = node.direct("vdisk.gc")
    assert found == {"block_size": 4096, "encrypted": False, "freed": 3 * 4096, "kept": 0, "problem": ""}


def test_plain_clone_shows_its_template_until_it_is_written_or_zeroed(node: Daemon) -> None:
    image = node.direct("vdisk.create", id="base", size=8 << 20)
    run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 2M", image["uri"])
    clone = node.direct("vdisk.create", id="over", size=16 << 20, template="base", storage="plain")
    assert (clone["storage"], clone["template"]) == ("plain", "base")
    commands = (
        *("read -P 7 1M 2M", "write -P 9 1030k 5k", "discard 2M 64k", "write -z 2500k 3k", "flush"),
        *("read -P 7 1M 6k", "read -P 9 1030k 5k", "read -P 7 1035k 10k", "read -P 0 2M 64k"),
        *("read -P 0 2500k 3k", "read -P 7 2503k 20k", "write -P 8 12M 4k"),
    )
    words = [word for one in commands for word in ("-c", one)]
    assert "failed" not in run("qemu-io", "-f", "raw", "-d", "unmap", *words, clone["uri"]).stdout
    extents = json.loads(run("nbdinfo", "--json", "--map", clone["uri"]).stdout)
    holes = [(one["offset"], one["length"]) for one in extents if one["description"] == "hole,zero"]
    assert (0, 1 << 20) in holes
    assert (2 << 20, 64 << 10) in holes
    assert refused(node, "vdisk.delete", id="base").startswith("409 ")
    assert node.direct("vdisk.check", id="over") == []
    copied = node.direct("vdisk.copy", id="over", target="flat")
    assert copied["template"] == ""
    for vdisk in ("over", "base"):
        node.direct("vdisk.delete", id=vdisk)
    words = ("-c", "read -P 7 2503k 20k", "-c", "read -P 0 2M 64k", "-c", "read -P 8 12M 4k")
    assert "failed" not in run("qemu-io", "-r", "-f", "raw", *words, copied["uri"]).stdout
    node.direct("vdisk.delete", id="flat")


def test_vdisks_are_there_after_a_restart(tmp_path: Path) -> None:
    with daemon(tmp_path) as node:
        made = node.direct("vdisk.create", id="vd", size=1 << 20)
        run("qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", made["uri"])
    with daemon(tmp_path) as node:
        assert [row["id"] for row in node.direct("vdisk.list")] == ["vd"]
        shown = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 9 0 64k", made["uri"]).stdout
        assert "failed" not in shown


def test_folder_that_cannot_be_used_is_told_and_the_node_lives(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with daemon(tmp_path, config=f'[vdisk]\nfolder = "{tmp_path}/file/x"\n') as node:
        assert refused(node, "vdisk.list").startswith("503 ")
        assert "problem" in node.direct("core.state")["vdisks"]


def test_key_is_what_a_command_prints(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    with daemon(tmp_path, config=f'[vdisk]\nkey_command = ["/bin/cat", "{tmp_path}/key"]\n') as node:
        made = node.direct("vdisk.create", id="vd", size=1 << 20, encrypted=True)
        shown = run("qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "read -P 9 0 64k", made["uri"])
        assert "failed" not in shown.stdout
    with daemon(tmp_path, config='[vdisk]\nkey_command = ["/bin/false"]\n') as node:
        assert "key_command ended with 1" in refused(node, "vdisk.list")
