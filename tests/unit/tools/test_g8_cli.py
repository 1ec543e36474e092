"""Words of the command line: arguments, exit codes, output."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from g8node.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NodeError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from g8tools.g8 import (
    cli,
    cli_container,
    cli_create,
    cli_jobs,
    cli_nics,
    connection,
    console,
    following,
    frame,
)
from g8tools.g8.connection import Options, Target
from g8tools.g8.results import ResultError, Return
from g8tools.hub.cli_common import read_token
from g8tools.hub.client import HubClient, split_url

TOP = Path(__file__).resolve().parent.parent.parent.parent


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x"), 100),
        (NotFound("x"), 100),
        (Conflict("x"), 100),
        (PermissionDenied("x"), 100),
        (ResultError("x", 1003), 100),
        (Unavailable("x"), 111),
        (DeadlineExceeded("x"), 111),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 111),
        (TimeoutError(), 111),
        (KeyError("x"), 101),
    ],
)
def test_exit_code_tells_whose_fault_it_is(error: Exception, code: int) -> None:
    assert console.exit_code(error) == code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NodeError("it\nbroke", hint="mend it"), "it broke (mend it)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "/x: No such file or directory"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("bad\nvalue"), "ValueError: bad value"),
    ],
)
def test_errors_are_one_line(error: Exception, text: str) -> None:
    assert console.describe(error) == text


def test_arguments_are_json_or_text() -> None:
    pairs = ["a=1", "b=true", 'c="x y"', "d=x y", "e=[1, 2]", "f=", 'g={"h": null}', "u=a=b"]
    assert frame.arguments_of(pairs) == {
        "a": 1, "b": True, "c": "x y", "d": "x y", "e": [1, 2], "f": "", "g": {"h": None}, "u": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["novalue", "=x", ""])
def test_argument_without_key_or_value_is_refused(pair: str) -> None:
    with pytest.raises(InvalidArgument, match="expected KEY=VALUE"):
        frame.arguments_of([pair])


@pytest.mark.parametrize(
    ("state", "code", "status"),
    [
        ("SUCCESS", 0, 0),
        ("ERROR", 1003, 3),
        ("ERROR", 1255, 255),
        ("ERROR", 999, 137),
        ("TIMEOUT", 999, 137),
        ("ERROR", 404, 127),
        ("ERROR", 500, 1),
    ],
)
def test_exit_status_is_the_remote_process_s(state: str, code: int, status: int) -> None:
    assert following.exit_status(Return({"id": "x", "state": state, "code": code})) == status


def test_result_says_why_a_job_failed() -> None:
    with pytest.raises(ResultError, match=r"^core\.ping: went wrong$") as caught:
        Return(
            {
                "id": "x",
                "command": "core.ping",
                "state": "ERROR",
                "code": 500,
                "level": 20,
                "data": '"went wrong"',
            }
        ).checked()
    assert caught.value.code == 500


def test_result_that_is_no_json_is_406() -> None:
    with pytest.raises(ResultError) as caught:
        Return({"id": "x", "state": "SUCCESS"}).json()
    assert caught.value.code == 406


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node", ("node", 6379)),
        ("node:7", ("node", 7)),
        ("[::1]:7", ("::1", 7)),
        ("[::1]", ("::1", 6379)),
        ("::1", ("::1", 6379)),
        ("fe80::1%eth0", ("fe80::1%eth0", 6379)),
    ],
)
def test_addresses_are_parsed(text: str, address: tuple[str, int]) -> None:
    assert connection.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", ":7", "node:x", "node:0", "node:65536", "node:", "[::1", "[::1]x", "a:-1", "a:1:x", "10.0.0.1:1:2"],
)
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected"):
        connection.parse_address(text)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("G8_NODE", raising=False)
    for name in ("G8_PASSWORD_FILE", "G8_CONTEXT", "G8_TLS", "G8_CACERT", "G8_CERT", "G8_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_node_is_found_in_order(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="no node named"):
        connection.find()
    (elsewhere / "build").mkdir()
    record = {"gate_host": "127.0.0.1", "gate_port": 7000, "password": "up", "pids": {}}
    (elsewhere / "build/up.json").write_text(json.dumps(record))
    assert connection.find() == Target("127.0.0.1", 7000, "up")
    (elsewhere / "secret").write_text("from file\n")
    monkeypatch.setenv("G8_NODE", "other:1")
    assert connection.find() == Target("other", 1, "")
    monkeypatch.setenv("G8_PASSWORD_FILE", "secret")
    assert connection.find() == Target("other", 1, "from file")
    assert connection.find(Options(node="third")) == Target("third", 6379, "from file")


def test_damaged_record_is_named(elsewhere: Path) -> None:
    (elsewhere / "build").mkdir()
    (elsewhere / "build/up.json").write_text('{"gate_host": 1}')
    with pytest.raises(InvalidArgument, match=r"build/up\.json: Expected `str`, got `int`"):
        connection.find()


def test_jobs_and_containers_are_tables() -> None:
    jobs = [{"cmd": {"id": "a", "command": "core.ping", "tags": ["x", "y"]}, "pid": 0}]
    assert cli_jobs.jobs_table(jobs).splitlines() == [
        "ID  COMMAND    PID  AGE  RSS  TAGS",
        "a   core.ping                 x,y",
    ]
    containers = {
        "10": {"container": {"arguments": {"name": "web", "root": "http://h/r/n.flist"}, "pid": 7}},
        "2": {"container": {"arguments": {"tags": ["t"]}}},
    }
    lines = cli_container.containers_table(containers).splitlines()
    assert [line.split() for line in lines[1:]] == [["2", "t"], ["10", "web", "7", "http://h/r/n.flist"]]


def test_token_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("# mine\n\nsecret-secret:alice\nother\n")
    assert read_token(file) == "secret-secret"
    assert read_token(None) == ""
    file.write_text("\n")
    with pytest.raises(InvalidArgument, match="no token in it"):
        read_token(file)


def test_flist_address_is_taken_apart() -> None:
    assert split_url("http://h:1/base/demo/a.flist") == ("http://h:1/base", "demo", "a.flist")


@pytest.mark.parametrize(
    "url", ["demo/a.flist", "ftp://h/demo/a.flist", "http://h/a.flist", "http:///demo/a.flist"]
)
def test_wrong_flist_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        split_url(url)


def test_wrong_hub_address_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="expected http"):
        HubClient("hub:5555")


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["ping", "extra"],
        ["hub", "push", "x"],
        ["run", "--node"],
        ["container", "create", "x", "y"],
    ],
)
def test_wrong_use_is_100(words: list[str], elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert elsewhere.is_dir()
    assert cli.main(words) == console.WRONG_USE
    assert capsys.readouterr().err


def test_missing_file_is_111(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flist", "ls", "/nonexistent.flist"]) == console.SYSTEM_FAILED
    assert capsys.readouterr().err == "g8: /nonexistent.flist: No such file or directory\n"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from g8tools.g8.cli import app; "
        "heavy = {'redis', 'aiohttp', 'litestar', 'uvicorn', 'rocksdict', 'cryptography', 'rich.progress'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == "[]\n"


def test_nics_are_one_word_each() -> None:
    assert cli_nics.parse_nic("default") == {"type": "default"}
    assert cli_nics.parse_nic("bridge:br0,dhcp,name=lan,monitor") == {
        "type": "bridge",
        "id": "br0",
        "name": "lan",
        "monitor": True,
        "config": {"dhcp": True},
    }
    static = cli_nics.parse_nic("bridge:br0,cidr=10.0.0.2/24,gateway=10.0.0.1,dns=10.0.0.1,dns=9.9.9.9")
    assert static["config"] == {"cidr": "10.0.0.2/24", "gateway": "10.0.0.1", "dns": ["10.0.0.1", "9.9.9.9"]}
    assert cli_nics.parse_nic("vlan:10,master=eth1,send_bits_s=8000") == {
        "type": "vlan",
        "id": "10",
        "master": "eth1",
        "rate": {"send_bits_s": 8000},
    }
    for wrong in ("default,speed=1", "default,send_bits_s=x", "default,cidr", "default,"):
        with pytest.raises(InvalidArgument, match="expected"):
            cli_nics.parse_nic(wrong)
    for ports in (["80"], ["80=x"]):
        with pytest.raises(InvalidArgument, match=r"KEY=VALUE|SOURCE=PORT"):
            cli_nics.ports_of(ports)


def test_nics_and_forwards_are_lines_of_inspect() -> None:
    arguments = {
        "nics": [{"type": "default", "state": "configured", "addresses": ["172.18.0.2/16"]}],
        "port": {"8080": 80},
    }
    assert cli_nics.links_of(arguments) == [
        ("nic 0 eth0", "default 172.18.0.2/16 configured"),
        ("port 8080", "80"),
    ]
    assert arguments == {}


class _Asked:
    """A node that notes what it is asked for."""

    def __init__(self) -> None:
        self.arguments: dict[str, object] = {}

    def patient(self, _: float) -> "_Asked":
        return self

    def sync(self, command: str, arguments: dict[str, object], *, tags: list[str] | None) -> Return:
        assert (command, tags) == ("corex.create", ["x"])
        self.arguments = arguments
        return Return({"state": "SUCCESS", "data": "7", "level": 20})

    def show(self, value: object, text: str = "") -> None:
        assert (value, text) == ({"id": 7}, "7")


def test_options_of_create_are_its_arguments() -> None:
    asked = _Asked()
    cli_create.create(
        asked,  # type: ignore[arg-type]
        "r",
        layer=["a"], tmpfs=["/tmp=2M"], size="1G", readonly=True, device=["/dev/x"], sysctl=["kernel.sem=1"],
        cgroup=["memory/box"], cpu=1.5, memory="512M", pids=9, user="web", workdir="/srv",
        volume=["db=/srv/db,size=64M", "www=/www,ro"], restart="on-failure:3", health="test -e /ok",
        health_interval=5, userns=True, tag=["x"],
    )  # fmt: skip
    assert asked.arguments == {
        "root": "r", "layers": ["a"], "tmpfs": {"/tmp": 2 << 20}, "size": 1 << 30, "readonly": True,
        "devices": ["/dev/x"], "sysctls": {"kernel.sem": "1"}, "cgroups": [["memory", "box"]],
        "limits": {"cpu": 1.5, "memory": 512 << 20, "pids": 9}, "user": "web", "workdir": "/srv",
        "userns": True,
        "volumes": {"/srv/db": {"name": "db", "size": 64 << 20}, "/www": {"name": "www", "readonly": True}},
        "restart": {"policy": "on-failure", "max_retries": 3},
        "health": {"command": "test -e /ok", "interval": 5},
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"restart": "often"},
        {"restart": "always:x"},
        {"cgroup": ["box"]},
        {"memory": "much"},
        {"tmpfs": ["/x"]},
        {"volume": ["db"]},
        {"volume": ["db=/x,size="]},
        {"volume": ["db=/x,rw"]},
        {"volume": ["db=/x", "other=/x"]},
        {"health_interval": 1},
    ],
)
def test_wrong_option_of_create_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=f"^--{next(iter(wrong)).replace('_', '-')}"):
        cli_create.create(_Asked(), "r", tag=["x"], **wrong)  # type: ignore[arg-type]


def test_password_of_a_repository_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("a b#&\n")
    url = cli_create.repository_url("/repo#abcd", tmp_path / "word")
    assert url == "/repo?password=a%20b%23%26#abcd"
    assert cli_create.repository_url("/repo?password=x", None) == "/repo?password=x"
