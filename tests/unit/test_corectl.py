"""corectl: its output, its words, how it ends."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node import corectl

TEXTS = st.text(max_size=20) | st.sampled_from(
    ["yes", "No", "12", "1e3", "a: b", "a #b", "- a", "", "~", "/x", "0x1"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_output_is_yaml_of_the_value(value: Any) -> None:
    assert msgspec.yaml.decode(corectl.yaml(value)) == value


def test_output_reads_well() -> None:
    value = {
        "os": {"hostname": "n1", "up": 3},
        "nics": [{"name": "eth0", "addrs": []}, {"name": "lo"}],
        "x": "",
    }
    assert corectl.yaml(value).splitlines() == [
        "os:",
        "  hostname: n1",
        "  up: 3",
        "nics:",
        "- name: eth0",
        "  addrs: []",
        "- name: lo",
        'x: ""',
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "COMMAND"),
        (["nonsense"], "invalid choice"),
        (["info", "weather"], "invalid choice"),
        (["info"], "what"),
        (["execute"], "expected a program"),
        (["stop"], "ID"),
        (["job", "kill"], "expected a job's id"),
        (["container", "inspect"], "expected a container's id"),
        (["statistics", "key", "tag"], "expected KEY=VALUE"),
        (["raw", "core.ping", "=x"], "expected KEY=VALUE"),
        (["--timeout", "soon", "ping"], "invalid int value"),
    ],
)
def test_wrong_use_is_100(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert corectl.main(["corectl", *words]) == corectl.WRONG_USE
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("corectl: ")
    assert text in err
    assert err.count("\n") == 1


def test_core0_that_is_not_there_is_111(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["ping"], ["reboot"], ["poweroff"]):
        assert corectl.main(["corectl", "-s", f"{tmp_path}/none", *words]) == corectl.SYSTEM_FAILED
        assert capsys.readouterr().err == f"corectl: {tmp_path}/none: No such file or directory\n"


def test_core0_that_refuses_before_it_has_read_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it does with one peer too many."""
    path, answer = str(tmp_path / "core.sock"), {"state": "ERROR", "code": 503, "level": 20, "data": '"full"'}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def refused() -> None:
            with listener.accept()[0] as peer:
                os.write(peer.fileno(), json.dumps(answer).encode())

        class Slow(socket.socket):
            def sendall(self, data: bytes) -> None:  # type: ignore[override]
                refused()
                super().sendall(data)

        class Unread(socket.socket):
            def shutdown(self, how: int) -> None:
                refused()

        for kind in (Slow, Unread):
            monkeypatch.setattr(corectl.socket, "socket", kind)
            assert corectl.main(["corectl", "-s", path, "ping"]) == 111
            monkeypatch.undo()
            assert "core.ping: full" in capsys.readouterr().err


def test_name_it_is_called_by_is_the_subcommand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(corectl, "value", lambda options, command, arguments: asked.append(command))
    assert corectl.main(["/sbin/reboot"]) == 0
    assert corectl.main(["poweroff"]) == 0
    assert asked == ["core.reboot", "core.poweroff"]


def test_only_the_standard_library_is_imported() -> None:
    script = (
        "import sys; import g8node.corectl; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'msgspec', 'uvloop', 'redis', 'structlog', 'asyncio', 'typer', 'rich', 'hiredis'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
