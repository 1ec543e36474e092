"""`g8 vdisk` with the vdisks of a folder, and with those of a configuration."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from g8tools.g8 import cli, console
from tests.support.vdisks import Served, run

Main = Callable[..., tuple[int, str]]


def test_clones_of_a_template_and_a_collection(tmp_path: Path) -> None:
    server = Served(tmp_path)
    server.g8("create", "image", "16M", "--type", "boot")
    server.start()
    run("qemu-io", "-f", "raw", "-c", "write -P 5 0 4M", "-c", "write -P 6 8M 4k", server.uri("image"))
    server.stop()
    server.g8("create", "one", "16M", "--template", "image")
    refused = server.g8("delete", "image", check=False)
    assert (refused.returncode, "template of one" in refused.stderr) == (100, True)
    refused = server.g8("create", "two", "8M", "--template", "image", "--storage", "plain", check=False)
    assert (refused.returncode, "template" in refused.stderr) == (100, True)
    refused = server.g8("create", "two", "16M", "--storage", "odd", check=False)
    assert (refused.returncode, "storage" in refused.stderr) == (100, True)
    server.start()
    shown = run("qemu-io", "-f", "raw", "-c", "read -P 5 1M 2M", "-c", "write -z 8M 1M", server.uri("one"))
    assert "failed" not in shown.stdout
    server.kill()
    assert json.loads(server.g8("check", "one", "--json").stdout) == {"problems": []}
    server.g8("delete", "one")
    server.g8("delete", "image")
    (found,) = json.loads(server.g8("gc", "--json").stdout)
    assert found == {"block_size": 4096, "encrypted": False, "freed": 2 * 4096, "kept": 0, "problem": ""}
    assert server.g8("gc", "--bandwidth", "1G").stdout.count("\n") == 2


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """`g8 vdisk` in this process: its exit code and all that it said."""
    monkeypatch.delenv("G8_VDISKS", raising=False)

    def called(*words: str | Path) -> tuple[int, str]:
        code = cli.main(["vdisk", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return called


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("info", "vd"),
        ("resize", "vd", "2M"),
        ("delete", "vd"),
        ("copy", "vd", "other"),
        ("check", "vd"),
        ("gc",),
        ("serve", "--socket", "nosuch/socket"),
    ],
)
def test_folder_that_is_missing_is_told_and_not_made(
    main: Main, tmp_path: Path, words: tuple[str, ...]
) -> None:
    code, said = main(*words, "--data", tmp_path / "a" / "b")
    assert (code, "a/b: there is no such folder" in said) == (console.WRONG_USE, True), said
    assert list(tmp_path.iterdir()) == []


def test_folder_is_made_with_its_first_vdisk(main: Main, tmp_path: Path) -> None:
    assert main("create", "vd", "1M", "--data", tmp_path / "a" / "b")[0] == 0
    assert "vd" in main("list", "--data", tmp_path / "a" / "b")[1]


CONFIG = """
storageClusters: {c1: {servers: [{address: "127.0.0.1:1"}]}}
vdisks:
  vd: {type: boot, size: 3, blockSize: 8192, vdiskTemplateID: image, nbd: {storageClusterID: c1}}
  two: {type: db, size: 1, blockSize: 4096, nbd: {storageClusterID: c1}}
"""


def test_vdisks_of_a_configuration_are_shown(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the servers need be there, and a folder that the environment names is not asked."""
    config = tmp_path / "vdisks.yml"
    config.write_text(CONFIG)
    monkeypatch.setenv("G8_VDISKS", str(tmp_path / "nosuch"))
    code, said = main("list", "--config", config)
    shown = " ".join(said.split())
    assert (code, shown) == (0, "VDISK TYPE SIZE CLUSTER two db 1.0 GiB c1 vd boot 3.0 GiB c1")
    rows = json.loads(main("list", "--config", config, "--json")[1])
    assert [row["id"] for row in rows] == ["two", "vd"]
    found = json.loads(main("info", "vd", "--config", config, "--json")[1])
    assert found == rows[1]
    assert (found["size"], found["block_size"], found["storage"]) == (3 << 30, 8192, "dedup")
    assert (found["template"], found["cluster"]) == ("image", "c1")
    assert not {"used", "connections", "counters"} & found.keys()
    for words in (("info", "nosuch"), ("resize", "nosuch", "4G")):
        code, said = main(*words, "--config", config)
        assert (code, "'nosuch' is not in the configuration" in said) == (console.WRONG_USE, True), said


def test_what_a_configuration_does_not_allow_says_why(main: Main, tmp_path: Path) -> None:
    config = tmp_path / "vdisks.yml"
    config.write_text(CONFIG)
    for words, why in (
        (("check", "vd"), "check: expected a vdisk of a folder"),
        (("resize", "vd", "4G"), "change it in the file"),
        (("resize", "vd", "4097M"), "size: expected a multiple of 1 GiB"),
        (("resize", "vd", "2G"), "change it in the file"),
        (("list", "--data", str(tmp_path)), "expected --data or --config, not both"),
        (
            ("serve", "--socket", "nosuch/socket", "--data", str(tmp_path)),
            "expected --data or --config, not both",
        ),
    ):
        code, said = main(*words, "--config", str(config))
        assert (code, why in said) == (console.WRONG_USE, True), said
    assert config.read_text() == CONFIG
