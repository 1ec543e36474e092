"""How programs are found and started."""

from pathlib import Path

import pytest

from g8node.linux.launch import find_program, launch_argv

PATH = "/nonexistent:/usr/bin:/bin"


def test_launch_resolves_a_name_in_the_path() -> None:
    assert launch_argv(["true", "x"], "/", PATH) == ["/usr/bin/true", "x"]


def test_launch_in_a_folder_goes_through_a_shell() -> None:
    argv = launch_argv(["true", "a b"], "/usr", PATH)
    assert argv[:2] == ["/bin/sh", "-c"]
    assert argv[3:] == ["/usr", "/usr/bin/true", "a b"]


def test_launch_of_a_script_goes_through_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env true\n")
    script.chmod(0o755)
    assert launch_argv([str(script)], "/", PATH)[0] == "/bin/sh"


def test_launch_relative_program_is_relative_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELF")
    (tmp_path / "program").chmod(0o755)
    assert find_program("./program", str(tmp_path), PATH) == f"{tmp_path}/./program"


def test_launch_what_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with pytest.raises(FileNotFoundError, match="executable file not found"):
        launch_argv(["no-such-program"], "/", PATH)
    with pytest.raises(PermissionError):
        launch_argv([str(tmp_path / "plain")], "/", PATH)
    with pytest.raises(PermissionError):
        launch_argv([str(tmp_path)], "/", PATH)
    with pytest.raises(FileNotFoundError):
        launch_argv(["true"], "/no/such/folder", PATH)
    with pytest.raises(NotADirectoryError):
        launch_argv(["true"], str(tmp_path / "plain"), PATH)
    with pytest.raises(FileNotFoundError):
        launch_argv([], "/", PATH)
