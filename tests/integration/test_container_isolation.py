"""What a container's processes see, may do and cannot reach."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, NodeError
from g8node.node import bundle
from tests.support.agent import Agent, in_agent, mounts_now

pytestmark = pytest.mark.root

DISKS = ("/dev/vda", "/dev/sda", "/dev/nvme0n1")
RESOLV_CONF = Path("/etc/resolv.conf").resolve().read_text()


def mask(names: frozenset[str]) -> int:
    return sum(1 << bit for bit, name in enumerate(bundle.CAPABILITIES) if name in names)


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@in_agent
async def test_capabilities_and_filter_are_the_defaults(agent: Agent) -> None:
    host, _ = agent.containers.opened()
    wanted = mask(bundle.capabilities(agent.spec(), host))
    assert wanted & mask(frozenset({"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"})) == 0
    for _ in range(2):  # the second has the filter that the first one compiled
        container, _ = await agent.start()
        for seen in (
            status((await agent.output(container, "cat", "/proc/1/status")).out),
            status((await agent.output(container, "cat", "/proc/self/status")).out),
        ):
            sets = {name: int(seen[f"Cap{name}"], 16) for name in ("Bnd", "Eff", "Prm", "Inh", "Amb")}
            assert sets == {"Bnd": wanted, "Eff": wanted, "Prm": wanted, "Inh": 0, "Amb": 0}
            assert (seen["Seccomp"], seen["NoNewPrivs"]) == ("2", "0")
        await agent.containers.terminate(container.id)


@in_agent
async def test_filter_refuses_what_it_should(agent: Agent) -> None:
    container, _ = await agent.start()
    for argv in (
        ["mount", "-t", "tmpfs", "x", "/tmp"],
        ["hostname", "other"],
        ["date", "-s", "@0"],
    ):
        ended = await agent.output(container, *argv)
        assert ended.err, argv
    assert (await agent.output(container, "hostname")).out == "corex\n"
    assert (await agent.output(container, "unshare", "-n", "true")).code != 0


@in_agent
async def test_masked_paths_are_empty_and_others_read_only(agent: Agent) -> None:
    container, _ = await agent.start()
    script = "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; cat /proc/keys | wc -c"
    assert (await agent.output(container, "sh", "-c", script)).out.split() == ["0", "0", "0"]
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/hostname", "/sys/kernel/uevent_helper"):
        ended = await agent.output(container, "sh", "-c", f"echo x >{path}")
        assert ended.code != 0, path


@in_agent
async def test_privileged_has_what_we_have(agent: Agent) -> None:
    host, _ = agent.containers.opened()
    container, _ = await agent.start(privileged=True)
    seen = status((await agent.output(container, "cat", "/proc/self/status")).out)
    assert int(seen["CapEff"], 16) == host.capabilities & mask(frozenset(bundle.CAPABILITIES))
    assert seen["Seccomp"] == "0"
    assert (await agent.output(container, "mount", "-t", "tmpfs", "x", "/tmp")).code == 0
    ended = await agent.output(
        container,
        "sh",
        "-c",
        "ls -l /dev/loop-control /dev/fuse; test -b /dev/vda -o -b /dev/sda -o -b /dev/nvme0n1",
    )
    assert ended.code == 0 or not any(map(os.path.exists, DISKS))


@in_agent
async def test_processes_have_no_descriptor_but_the_standard_three(agent: Agent) -> None:
    leaked = os.open("/", os.O_RDONLY)  # without CLOEXEC in the child it would show
    os.set_inheritable(leaked, True)
    container, _ = await agent.start()
    # The waiting init makes one more, of its own: a signalfd.
    async with asyncio.timeout(60):
        while "signalfd" not in (await agent.output(container, "readlink", "/proc/1/fd/3")).out:
            pass
    assert (await agent.output(container, "ls", "/proc/1/fd")).out.split() == ["0", "1", "2", "3"]
    # 3 is the folder that ls itself reads.
    assert (await agent.output(container, "ls", "/proc/self/fd")).out.split() == ["0", "1", "2", "3"]
    ended = await agent.run(["sh", "-c", "ls /proc/self/fd; ls -l /proc/1/cwd"])
    assert ended.out.split()[:4] == ["0", "1", "2", "3"]
    os.close(leaked)


@in_agent
async def test_own_network_has_only_loopback_and_it_is_up(agent: Agent) -> None:
    ended = await agent.run(["sh", "-c", "ls /sys/class/net; ip addr show lo; ping -c 1 127.0.0.1 >&2"])
    assert ended.out.split()[0] == "lo"
    assert "127.0.0.1/8" in ended.out
    assert ended.code == 0, ended
    assert len(ended.out.split("lo:")) == 2


@in_agent
async def test_host_network_shares_links_and_resolver(agent: Agent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"nc 127.0.0.1 {port} -e /bin/true && cat /etc/resolv.conf; echo x >>/etc/resolv.conf"
        ended = await agent.run(["sh", "-c", script], host_network=True)
    assert ended.out == RESOLV_CONF
    assert "Read-only" in ended.err


@in_agent
async def test_hostname_hosts_config_env_and_mounts(agent: Agent) -> None:
    folder = agent.tmp / "shared"
    folder.mkdir()
    (folder / "in").write_text("from host\n")
    flist = agent.tmp / "flist"
    (flist / "deep").mkdir(parents=True)
    (flist / "deep/file").write_text("of the flist\n")
    script = """
        hostname; cat /etc/hostname; grep web /etc/hosts | wc -l
        stat -c '%a %u' /opt/app/conf /opt/app; cat /opt/app/conf
        cat /mnt/in; echo back >/mnt/out; cat /mnt/sub/deep/file; echo new >/mnt/sub/deep/file
        cat /mnt/sub/deep/file; cat /single; echo $PATH $X"""
    ended = await agent.run(
        ["sh", "-ec", script],
        hostname="web",
        config={"/opt/app/conf": "secret\n", "../../outside": "x"},
        env={"X": "y"},
        # In this order the nested one comes first.
        mount={
            f"file://{flist}": "/mnt/sub",
            str(folder): "/mnt",
            str(folder / "in"): "/single",
        },
    )
    assert ended.out.splitlines() == [
        "web", "web", "1", "600 0", "700 0", "secret", "from host", "of the flist", "new", "from host",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin y",
    ], ended  # fmt: skip
    assert (folder / "out").read_text() == "back\n"
    assert (flist / "deep/file").read_text() == "of the flist\n"
    assert not (agent.tmp / "outside").exists()


@in_agent
async def test_what_a_container_writes_is_its_own(agent: Agent) -> None:
    first, _ = await agent.start()
    second, _ = await agent.start()
    assert (
        await agent.output(first, "sh", "-c", "echo x >/etc/os-release; rm /bin/ls; echo y >/new")
    ).code == 0
    assert (await agent.output(second, "cat", "/etc/os-release")).out == "ID=busybox\n"
    assert (await agent.output(second, "ls", "/new")).code != 0
    assert (agent.root / "etc/os-release").read_text() == "ID=busybox\n"


@in_agent
async def test_full_upper_fails_the_writer_and_no_exec(agent: Agent) -> None:
    # The tmpfs is filled with a hole-free file of its whole size; crun needs nothing from it.
    container, _ = await agent.start()
    size = os.statvfs(container.tree.data).f_blocks * 4096
    fd = os.open(f"{container.tree.data}/ballast", os.O_CREAT | os.O_WRONLY)
    left = os.statvfs(container.tree.data).f_bavail * 4096 - (1 << 20)
    os.posix_fallocate(fd, 0, left)
    os.close(fd)
    ended = await agent.output(container, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=4")
    assert ended.code != 0
    assert "No space" in ended.err
    assert size > 0
    assert (await agent.output(container, "echo", "still")).out == "still\n"


@in_agent
async def test_hostile_root_cannot_lead_files_outside(agent: Agent) -> None:
    outside = agent.tmp / "outside"
    outside.mkdir()
    victim = outside / "victim"
    etc = agent.root / "etc"

    def plant(name: str, target: str) -> None:
        (etc / name).unlink(missing_ok=True)
        (etc / name).symlink_to(target)

    for target in (
        str(victim),
        f"../../../../../../{victim}",
        "/proc/self/root/etc/passwd",
        "hosts",
        "/dev/null",
    ):
        for name in ("hosts", "hostname", "resolv.conf", "app.conf"):
            plant(name, target)
        ended = await agent.run(
            ["sh", "-c", "cat /etc/hostname /etc/app.conf; test -s /etc/resolv.conf"],
            host_network=True,
            config={"/etc/app.conf": "mine\n"},
        )
        assert ended.out == "corex\nmine\n", (target, ended)
        assert not victim.exists()
        assert os.listdir(outside) == []


@in_agent
async def test_hostile_folders_in_the_root_are_refused_or_kept_inside(agent: Agent) -> None:
    outside = agent.tmp / "outside"
    outside.mkdir()
    root = agent.root
    (root / "link").symlink_to(outside)  # dangling inside the root
    (root / "up").symlink_to("../../../../../../../..")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    for path in ("/link/x", "/loop/x", "/fifo/x", "/bin/busybox/x", "/etc"):
        with pytest.raises(InvalidArgument, match="config"):
            await agent.start("true", config={path: "x"})
    ended = await agent.run("cat /inside", config={"/up/inside": "kept\n"})
    assert ended.out == "kept\n"
    ended = await agent.run("cat /fifo", config={"/fifo": "now a file\n"})
    assert ended.out == "now a file\n"
    assert os.listdir(outside) == []
    assert not agent.mounts.attached


@in_agent
async def test_hostile_mount_targets_stay_inside(agent: Agent) -> None:
    source = agent.tmp / "source"
    source.mkdir()
    (source / "file").write_text("seen\n")
    outside = agent.tmp / "outside"
    outside.mkdir()
    (agent.root / "abs").symlink_to("/tmp")
    (agent.root / "up").symlink_to(f"../../../../../../..{outside}")
    before = mounts_now()
    ended = await agent.run("cat /tmp/file", mount={str(source): "/abs"})
    assert ended.out == "seen\n"
    with contextlib.suppress(NodeError):  # refusing is as good as staying inside
        await agent.run("true", mount={str(source): "/up"})
    assert os.listdir(outside) == []
    assert mounts_now() == before


@in_agent
async def test_etc_as_a_link_out_of_the_root_is_contained(agent: Agent) -> None:
    outside = agent.tmp / "outside"
    outside.mkdir()
    (agent.root / "etc").rename(agent.root / "real")
    (agent.root / "etc").symlink_to("/real")
    assert (await agent.run("cat /real/hostname", hostname="x1")).out == "x1\n"
    (agent.root / "etc").unlink()
    (agent.root / "etc").symlink_to(outside)
    with pytest.raises(InvalidArgument, match="root: cannot write etc/hostname"):
        await agent.start("true")
    assert os.listdir(outside) == []
