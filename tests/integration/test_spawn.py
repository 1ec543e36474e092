"""The threads that start processes: descriptors, look-up, errors, and starts that wait."""

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from g8node.linux.spawn import NULL, SLOW, Spawner, packed_env, reap

NOTHING = (NULL, NULL, NULL)


def answer(spawner: Spawner) -> tuple[int, int, int]:
    """The next one."""
    assert select.select([spawner.fd], [], [], 60)[0], "no answer"
    (found,) = spawner.answers()
    return found


def spawn(argv: Sequence[str], stdio: tuple[int, int, int] = NOTHING, **options: Any) -> int:
    """The pid; OSError as the node gets it."""
    spawner = Spawner()
    env = packed_env(options.pop("env", dict(os.environ)))
    spawner.submit(7, argv, env, stdio, **options)
    token, pid, error = answer(spawner)
    assert token == 7
    if error:
        raise OSError(error, os.strerror(error), argv[0])
    return pid


def output(argv: Sequence[str], *, stdin: int = NULL, **options: Any) -> str:
    """What the program wrote to its standard output and error."""
    with tempfile.TemporaryFile() as file:
        pid = spawn(argv, (stdin, os.dup(file.fileno()), os.dup(file.fileno())), **options)
        os.waitpid(pid, 0)
        file.seek(0)
        return file.read().decode()


def test_child_has_its_descriptors_and_no_others() -> None:
    kept = os.memfd_create("kept", 0)
    leaked = os.memfd_create("leaked", 0)  # inheritable only by name, as a careless library would
    os.set_inheritable(leaked, True)
    passed = os.memfd_create("passed", os.MFD_CLOEXEC)
    try:
        assert output(["/bin/sh", "-c", "ls /proc/$$/fd; true"]).split() == ["0", "1", "2"]
        listed = output(["/bin/sh", "-c", f"readlink /proc/$$/fd/{passed}"], pass_fds=[passed])
        assert listed.startswith("/memfd:passed")
    finally:
        for fd in (kept, leaked, passed):
            os.close(fd)


def test_standard_input_is_null_or_what_was_given() -> None:
    assert output(["/bin/cat"]) == ""
    with tempfile.TemporaryFile() as file:
        file.write(b"given")
        file.flush()
        file.seek(0)
        assert output(["/bin/cat"], stdin=os.dup(file.fileno())) == "given"


def test_low_descriptors_may_be_exchanged() -> None:
    """In a process of its own, whose 1 and 2 are known."""
    script = """
        import os
        from tests.integration.test_spawn import NULL, spawn
        os.waitpid(spawn(["/bin/sh", "-c", "echo out; echo err >&2"], (NULL, 2, 1)), 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("err\n", "out\n")


def test_child_has_its_environment_session_and_directory() -> None:
    said = output(["/bin/sh", "-c", 'echo "$X $PWD $(ps -o sid= -p $$) $$"'], env={"X": "é", "PATH": "/bin"})
    x, folder, session, pid = said.split()
    assert (x, folder, session) == ("é", "/", pid)


def test_child_begins_with_default_signals() -> None:
    """Of the signals that programs know: the C library ignores two of its own."""
    said = output(["/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"])
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in said.splitlines()] == [0, 0]


def test_child_begins_with_default_signals_where_clone3_is_refused() -> None:
    """By a seccomp filter, as in some containers; with a handler of ours that must not stay."""
    script = """
        import ctypes, signal, struct
        from tests.integration import test_spawn
        signal.signal(signal.SIGUSR1, print)
        program = struct.pack("HBBI" * 4,
            0x20, 0, 0, 0,  # the number of the system call
            0x15, 0, 1, 435,  # clone3
            0x06, 0, 0, 0x50000 | 38,  # ENOSYS
            0x06, 0, 0, 0x7FFF0000)
        held = ctypes.create_string_buffer(program)
        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, ctypes.byref(ctypes.create_string_buffer(
            struct.pack("H6xP", 4, ctypes.addressof(held)))), 0, 0) == 0
        test_spawn.test_child_begins_with_default_signals()
        test_spawn.test_child_has_its_descriptors_and_no_others()
        try:
            test_spawn.spawn(["/nonexistent"])
        except FileNotFoundError:
            print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize(
    ("argv", "kind"),
    [(["/nonexistent"], FileNotFoundError), (["/etc/passwd"], PermissionError), (["/bin"], PermissionError)],
)
def test_program_that_cannot_be_executed_is_an_error_with_its_name(
    argv: list[str], kind: type[OSError]
) -> None:
    with pytest.raises(kind) as error:
        spawn(argv)
    assert error.value.filename == argv[0]


def test_program_and_its_name_may_differ() -> None:
    assert output(["name", "-c", "echo $0"], program="/bin/sh") == "name\n"
    with pytest.raises(FileNotFoundError):
        spawn(["/bin/sh"], program="/nonexistent")


def test_nul_in_an_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="null byte"):
        spawn(["/bin/echo", "a\0b"])


def test_reap_tells_the_exit_code_or_the_signal() -> None:
    pid = spawn(["/bin/sh", "-c", "exit 7"])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert reap(pid) == (pid, 7)
    assert reap(pid) is None
    pid = spawn(["/bin/sleep", "60"])
    assert reap(pid) is None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert reap(pid) == (pid, -9)


def test_end_of_a_child_makes_a_descriptor_readable() -> None:
    """In a process of its own, which has no other children."""
    script = """
        import os, select
        from g8node.linux.spawn import watch
        from tests.integration.test_spawn import NULL, spawn
        fd = watch(True)
        ours, theirs = os.pipe()
        pid = spawn(["/bin/cat"], (ours, NULL, NULL))
        assert not select.select([fd], [], [], 0)[0]
        os.close(theirs)
        assert select.select([fd], [], [], 60)[0]
        os.waitpid(pid, 0)
        assert os.eventfd_read(fd) == 1
        assert watch(False) == fd
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=True)


def test_name_is_looked_up_in_the_folders(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()  # no file: the next folder has it
    assert output(["sh", "-c", "echo found"], search=f"/nonexistent::{tmp_path}:/bin") == "found\n"
    assert output(["cat", "/dev/null"], search=f"{tmp_path}:bin") == ""


def test_look_up_says_what_it_must_not_start(tmp_path: Path) -> None:
    """A script: its interpreter may lie anywhere. /dev/shm: another file system."""
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "plain").write_text("")
    far = Path(tempfile.mkdtemp(dir="/dev/shm"))
    (far / "far").write_bytes(Path("/bin/true").read_bytes())
    (far / "far").chmod(0o755)
    try:
        for name, code in (("script", SLOW), ("far", SLOW), ("plain", errno.EACCES), ("none", errno.ENOENT)):
            with pytest.raises(OSError, match=name) as error:
                spawn([name], search=f"{tmp_path}:{far}")
            assert error.value.errno == code
    finally:
        shutil.rmtree(far)


def test_descriptors_are_closed_or_kept_after_a_failure() -> None:
    for keep in (False, True):
        read, write = os.pipe()
        with pytest.raises(FileNotFoundError):
            spawn(["/nonexistent"], (NULL, write, NULL), keep_on_failure=keep)
        if keep:
            os.close(write)
        assert os.read(read, 1) == b""
        os.close(read)


def test_answers_of_many_starts_all_come() -> None:
    spawner = Spawner()
    for token in range(200):
        spawner.submit(token, ["/bin/true"], b"", NOTHING)
    pids: dict[int, int] = {}
    while len(pids) < 200:
        assert select.select([spawner.fd], [], [], 60)[0]
        pids |= {token: pid for token, pid, _ in spawner.answers()}
    for pid in pids.values():
        assert os.waitpid(pid, 0)[1] == 0
    assert set(pids) == set(range(200))


@pytest.mark.root
def test_start_that_waits_holds_up_nobody(tmp_path: Path) -> None:
    """A child that waits before its exec, here for a FIFO over /dev/null, holds up one thread."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"""
        import ctypes, os
        from tests.integration.test_spawn import NULL, Spawner, answer, spawn
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
        assert libc.mount(None, b"/", None, 0x44000, None) == 0  # MS_PRIVATE | MS_REC
        assert libc.mount({os.fsencode(fifo)!r}, b"/dev/null", None, 0x1000, None) == 0  # MS_BIND
        spawner = Spawner()
        spawner.submit(1, ["/bin/cat"], b"", (NULL, os.dup(1), os.dup(2)))
        os.waitpid(spawn(["/bin/echo", "meanwhile"], (os.dup(0), os.dup(1), os.dup(2))), 0)
        assert not spawner.answers()
        with open({str(fifo)!r}, "w") as file:
            file.write("went on")
        os.waitpid(answer(spawner)[1], 0)
    """
    argv = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.PIPE
    )
    assert done.stdout == "meanwhile\nwent on"
