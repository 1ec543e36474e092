"""Programs in sealed memory."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from g8node.linux.sealed import Sealed


def said(program: Sealed) -> str:
    return subprocess.run(["name", "word"], executable=program.path, capture_output=True, text=True).stdout


def test_program_is_executed_from_memory_that_nobody_can_write_to(tmp_path: Path) -> None:
    original = tmp_path / "program"
    shutil.copy("/bin/echo", original)
    program = Sealed(str(original))
    assert program.path == str(original)
    program.load()
    assert program.path.startswith(f"/proc/{os.getpid()}/fd/")
    original.unlink()
    assert said(program) == "word\n"
    fd = int(program.path.rpartition("/")[2])
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 0xF  # exactly what crun looks for
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    program.close()
    assert program.path == str(original)


def test_changed_program_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    original, other = tmp_path / "program", tmp_path / "other"
    shutil.copy("/bin/echo", original)
    program = Sealed(str(original))
    program.load()
    path = program.path
    shutil.copy("/bin/pwd", other)
    os.rename(other, original)
    program.load()
    assert (program.path, said(program)) == (path, f"{Path.cwd()}\n")
    program.close()


def test_missing_program_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="program"):
        Sealed(str(tmp_path / "program")).load()
