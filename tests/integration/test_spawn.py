"""posix_spawn by way of ctypes: descriptors, errors, and the interpreter that goes on meanwhile."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from g8node.linux.spawn import NULL, reap, spawn


def output(argv: Sequence[str], *, stdin: int = NULL, **options: Any) -> str:
    """What the program wrote to its standard output and error."""
    with tempfile.TemporaryFile() as file:
        pid = spawn(argv, options.pop("env", None), (stdin, file.fileno(), file.fileno()), **options)
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
        assert output(["/bin/cat"], stdin=file.fileno()) == "given"


def test_low_descriptors_may_be_exchanged() -> None:
    """In a process of its own, whose 1 and 2 are known."""
    script = """
        import os
        from g8node.linux.spawn import NULL, spawn
        os.waitpid(spawn(["/bin/sh", "-c", "echo out; echo err >&2"], None, (NULL, 2, 1)), 0)
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


@pytest.mark.parametrize(
    ("argv", "kind"),
    [(["/nonexistent"], FileNotFoundError), (["/etc/passwd"], PermissionError), (["/bin"], PermissionError)],
)
def test_program_that_cannot_be_executed_is_an_error_with_its_name(
    argv: list[str], kind: type[OSError]
) -> None:
    with pytest.raises(kind) as error:
        spawn(argv, None, (NULL, NULL, NULL))
    assert error.value.filename == argv[0]


def test_nul_in_an_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="null byte"):
        spawn(["/bin/echo", "a\0b"], None, (NULL, NULL, NULL))


def test_reap_tells_the_exit_code_or_the_signal() -> None:
    pid = spawn(["/bin/sh", "-c", "exit 7"], None, (NULL, NULL, NULL))
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert reap(pid) == (pid, 7)
    assert reap(pid) is None
    pid = spawn(["/bin/sleep", "60"], None, (NULL, NULL, NULL))
    assert reap(pid) is None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert reap(pid) == (pid, -9)


def test_interpreter_runs_while_an_exec_waits(tmp_path: Path) -> None:
    """A child that waits before its exec (here for a FIFO) holds up its spawn, and nobody else."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"""
        import os, threading
        from g8node.linux import spawn
        spawn.NULL_DEVICE = {os.fsencode(fifo)!r}
        pids = []
        null = (spawn.NULL, 1, 2)
        starter = threading.Thread(target=lambda: pids.append(spawn.spawn(["/bin/cat"], None, null)))
        starter.start()
        with open({str(fifo)!r}, "w") as file:
            file.write("went on")
        starter.join()
        os.waitpid(pids[0], 0)
    """
    argv = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "went on"
