"""Ways out of a container that others have found, tried on ours. None may lead out."""

import contextlib
import ctypes
import errno
import hashlib
import os
import platform
import subprocess
from pathlib import Path

import pytest

from g8node.errors import NodeError
from g8node.linux import mount
from g8node.node import bundle
from g8node.node.crun import CRUN
from g8node.runtime import blocking
from tests.support.agent import TOP, Agent, in_agent, mounts_now

pytestmark = pytest.mark.root

_KEYS = {"x86_64": (248, 250), "aarch64": (217, 219)}
"""Numbers of add_key and keyctl."""
_USER_KEYRING, _UNLINK = -4, 9
PROBE = TOP / "tests/support/escape_probe.c"


def built(folder: Path) -> None:
    """The probe, in the container's root."""
    argv = ["gcc", "-static", "-O1", "-w", "-o", str(folder / "bin/probe"), str(PROBE)]
    subprocess.run(argv, check=True, capture_output=True)


def plant(path: Path, target: str) -> None:
    """A link at `path`, instead of what is there."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(f"{path.name}.old"))
        else:
            path.unlink()
    path.symlink_to(target)


async def digest(path: str) -> str:
    def read() -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return await blocking.run("disk", read)


@in_agent
async def test_system_folders_as_links_lead_nowhere_outside(agent: Agent) -> None:
    outside = agent.tmp / "outside"
    outside.mkdir()
    before = mounts_now()
    for name in ("dev", "proc", "sys", "etc", "tmp"):
        for target in (
            str(outside),
            f"../../../../../../../..{outside}",
            "/",
            "/proc/self/root",
            "/dev/null",
        ):
            plant(agent.root / name, target)
            with contextlib.suppress(NodeError):  # refusing is as good as staying inside
                await agent.run("true", host_network=True, config={"/tmp/x": "x"}, tmpfs={"/tmp/y": 1 << 20})
            assert os.listdir(outside) == []
        (agent.root / name).unlink()
        old = agent.root / f"{name}.old"
        old.rename(agent.root / name) if old.exists() else (agent.root / name).mkdir()
    assert mounts_now() == before
    assert (await agent.run("echo fine")).out == "fine\n"


@in_agent
async def test_fifos_and_devices_where_files_are_expected_hold_nothing_up(agent: Agent) -> None:
    for name in ("hosts", "hostname", "resolv.conf", "passwd", "group", "mtab"):
        path = agent.root / "etc" / name
        for make in (os.mkfifo, lambda p: os.mknod(p, 0o020666, os.makedev(1, 1))):
            path.unlink(missing_ok=True)
            make(path)
            with contextlib.suppress(NodeError):
                ended = await agent.run("echo fine", host_network=True, user="0")
                assert ended.out == "fine\n", (name, ended)
        path.unlink(missing_ok=True)


@in_agent
async def test_mount_targets_that_are_links_or_fifos_stay_inside(agent: Agent) -> None:
    outside = agent.tmp / "outside"
    outside.mkdir()
    (agent.root / "abs").symlink_to(outside)
    (agent.root / "up").symlink_to(f"../../../../../..{outside}")
    (agent.root / "magic").symlink_to("/proc/self/root/tmp")
    os.mkfifo(agent.root / "fifo")
    before = mounts_now()
    for target in ("/abs/x", "/up/x", "/magic", "/fifo", "/abs/../../../../etc", "/up"):
        with contextlib.suppress(NodeError):
            await agent.run("true", tmpfs={target: 1 << 20})
        with contextlib.suppress(NodeError):
            await agent.run("true", mount={str(agent.tmp / "tree/tmp"): target})
        with contextlib.suppress(NodeError):
            await agent.run("true", devices=[f"/dev/full:/dev/{target.strip('/').replace('..', 'x')}"])
    assert os.listdir(outside) == []
    assert mounts_now() == before


@in_agent
async def test_runtime_s_own_file_is_not_overwritten(agent: Agent) -> None:
    """CVE-2019-5736: the program that is run is the runtime itself, and somebody writes to it."""
    before = await digest(CRUN)
    script = "#!/proc/self/exe\n"
    (agent.root / "bin/trap").write_text(script)
    (agent.root / "bin/trap").chmod(0o755)
    plant(agent.root / "bin/link", "/proc/self/exe")
    writer = "for i in $(seq 300); do for p in /proc/[0-9]*; do echo x >$p/exe; done; done 2>/dev/null"
    container, _ = await agent.start(["sh", "-c", f"{writer}; sleep 1000"])
    for program in ("/bin/trap", "/bin/link", "/proc/self/exe", "true") * 5:
        with contextlib.suppress(NodeError):
            await agent.output(container, program)
    with contextlib.suppress(NodeError):
        await agent.run(["/proc/self/exe"])
    assert await digest(CRUN) == before


@in_agent
async def test_no_descriptor_leads_to_the_host(agent: Agent) -> None:
    """CVE-2024-21626: the working folder is a descriptor that the runtime left open."""
    marker = "g8-outside"
    (agent.tmp / marker).touch()
    container, _ = await agent.start()
    look = [
        "sh",
        "-c",
        "pwd -P; ls -a . .. ../.. ../../../../../../../..; cat /proc/self/mountinfo | head -1",
    ]
    for number in range(32):
        for folder in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../.."):
            with contextlib.suppress(NodeError):
                ended = await agent.output(container, *look, cwd=folder)
                assert "boot" not in ended.out.split(), (folder, ended)
                assert marker not in ended.out
            if number < 12:
                with contextlib.suppress(NodeError):
                    ended = await agent.run(look, workdir=folder)
                    assert "boot" not in ended.out.split(), (folder, ended)
    plant(agent.root / "root", "/proc/self/fd/7")
    with contextlib.suppress(NodeError):
        assert marker not in (await agent.run(look, workdir="/root")).out


@in_agent
async def test_masked_paths_and_consoles_are_not_redirected(agent: Agent) -> None:
    """CVE-2025-31133, CVE-2025-52565: links in the image where the runtime has /dev/null or a console."""
    for target in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "../proc/kcore", "/etc/passwd"):
        for name in ("null", "console", "pts", "ptmx", "zero", "tty"):
            plant(agent.root / "dev" / name, target)
        container, _ = await agent.start()
        script = """
            test -c /dev/null && test ! -L /dev/null && echo null
            cat /proc/kcore | wc -c; cat /proc/keys | wc -c
            echo x >/proc/sysrq-trigger; echo x >/proc/sys/kernel/core_pattern; echo end"""
        ended = await agent.output(container, "sh", "-c", script)
        assert ended.out.split() == ["null", "0", "0", "end"], (target, ended)
        assert ended.err.count("can't create") == 2, ended
        child, fd = await agent.containers.execs.start_terminal(container.id, ["true"])
        assert await child.wait() == 0
        os.close(fd)
        assert (agent.root / "etc/passwd").read_text().startswith("root:x:0:0")
        await agent.containers.terminate(container.id)


@in_agent
async def test_mounts_do_not_travel(agent: Agent) -> None:
    shared, late = agent.tmp / "shared", agent.tmp / "shared/late"
    late.mkdir(parents=True)
    (late / "under").touch()
    container, _ = await agent.start(privileged=True, mount={str(shared): "/mnt"})
    before = mounts_now()
    ended = await agent.output(container, "sh", "-c", "mount -t tmpfs x /mnt/late && touch /mnt/late/inside")
    assert ended.code == 0
    assert mounts_now() == before
    assert os.listdir(late) == ["under"]
    other, _ = await agent.start(mount={str(shared): "/mnt"})
    await blocking.run("path", mount.mount, "tmpfs", str(late), "tmpfs", 0, "")
    try:
        assert (await agent.output(other, "ls", "/mnt/late")).out == "under\n"
    finally:
        await blocking.run("path", mount.unmount, str(late))


@in_agent
async def test_processes_of_the_host_are_neither_seen_nor_reached(agent: Agent) -> None:
    container, _ = await agent.start()
    pids = (await agent.output(container, "sh", "-c", "ls /proc | grep -E '^[0-9]+$'")).out.split()
    assert len(pids) <= 4
    assert (await agent.output(container, "kill", "-0", str(os.getpid()))).code != 0 or os.getpid() < 10
    assert (await agent.output(container, "ls", "/proc/1/root/boot")).code != 0


def _within(*codes: int) -> set[str]:
    return {str(code) for code in codes}


_NO_CALL = _within(errno.EPERM, errno.ENOSYS)
_NO_MOUNT = _within(errno.EPERM, errno.EACCES)
_NO_FILE = _within(errno.EROFS, errno.ENOENT, errno.EACCES, errno.EPERM)
REFUSALS = {
    **dict.fromkeys(("add_key", "request_key", "session_key", "user_key", "user_session_key"), _NO_CALL),
    **dict.fromkeys(("open_by_handle_at", "init_module", "kexec_load", "bpf", "perf_event_open"), _NO_CALL),
    **dict.fromkeys(("iopl", "setns"), _NO_CALL),
    "ptrace_stranger": _within(errno.ESRCH, errno.EPERM),
    "unshare_user": _within(0, errno.EPERM, errno.ENOSPC),  # as with Podman, one may be made
    "writable_again": _NO_MOUNT | _within(errno.ENOSPC),
    "remount": _NO_MOUNT,
    "chroot_out": _within(errno.EXDEV),
    **dict.fromkeys(("core_pattern", "modprobe", "uevent_helper", "sysrq", "mem", "kmsg"), _NO_FILE),
    **dict.fromkeys(("made_mem", "made_kmsg", "disk_8_0", "disk_252_0", "disk_7_0"), _within(errno.EPERM)),
}
"""Each try of the probe, and how it may end: another failure would not be the container's doing."""
_MALFORMED = _within(errno.EINVAL, errno.EFAULT, errno.E2BIG, errno.EBADF)


@in_agent
async def test_kernel_gives_nothing_away(agent: Agent) -> None:
    await blocking.run("disk", built, agent.root)
    name = f"g8-secret-{os.getpid()}"
    key = await blocking.run("disk", _add_key, name)
    assert key > 0
    try:
        tries = await _tries(agent, name)
        free = await _tries(agent, name, privileged=True)
    finally:
        await blocking.run("disk", _remove_key, key)
    assert tries.keys() == REFUSALS.keys()
    wrong = {what: code for what, code in tries.items() if code not in REFUSALS[what]}
    assert not wrong, wrong
    # The tries are real ones: they come through where nothing is in their way.
    assert (free["user_key"], free["open_by_handle_at"]) == ("0", "0"), free
    whole = free.keys() - {"setns", "remount", "writable_again"}  # nothing is left to win by these
    malformed = {what: free[what] for what in whole if free[what] in _MALFORMED}
    assert not malformed, malformed


async def _tries(agent: Agent, key: str, **fields: bool) -> dict[str, str]:
    ended = await agent.run(["/bin/probe", key, str(os.getpid())], **fields)
    assert ended.code == 0, ended
    return dict(line.split(": ") for line in ended.out.splitlines())


def _add_key(name: str) -> int:
    """A key in the keyring of our user, who is the container's root too."""
    add, data = _KEYS[platform.machine()][0], b"secret"
    number: int = ctypes.CDLL(None).syscall(add, b"user", name.encode(), data, len(data), _USER_KEYRING)
    return number


def _remove_key(key: int) -> None:
    ctypes.CDLL(None).syscall(_KEYS[platform.machine()][1], _UNLINK, key, _USER_KEYRING)


@in_agent
async def test_privileges_do_not_come_back(agent: Agent) -> None:
    """A setuid program of the image gives what the container's root has, and no more."""
    (agent.root / "bin/busybox").chmod(0o4755)
    ended = await agent.run(["sh", "-c", "grep CapEff /proc/self/status"], user="nobody")
    host, _ = agent.containers.opened()
    most = sum(
        1 << bit
        for bit, name in enumerate(bundle.CAPABILITIES)
        if name in bundle.capabilities(agent.spec(), host)
    )
    assert int(ended.out.split()[1], 16) & ~most == 0
