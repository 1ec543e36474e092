"""The g8 tool against a whole agent: what it prints, as text and as JSON, and how it ends."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from g8tools.g8 import cli
from g8tools.g8.managers.common import Job
from tests.support.daemon import Daemon, daemon
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish
from tests.support.tool import be_patient

TOP = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.root, pytest.mark.fuse]

LIMIT_S = 60.0
ASK = [sys.executable, "-m", "g8tools.g8"]
# What runs in the background of a shell ignores Ctrl-C, and so would the tool.
INTERRUPTED = ["env", "--default-signal=INT", *ASK]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


G8 = Callable[..., Done]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def container(node: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    tree = busybox_tree(tmp_path_factory.mktemp("tree") / "root")
    with hub(tmp_path_factory.mktemp("hub")) as images:
        root = publish(images, tree, "busybox")
        arguments = {
            "root": root,
            "host_network": True,
            "name": "box",
            "command": "sh -c 'echo up; exec sleep 600'",
        }
        id = int(json.loads(node.job("corex.create", arguments, tags=["web"])["data"]))
        yield id
        node.direct("corex.terminate", container=id)


@pytest.fixture(scope="module")
def volume(node: Daemon) -> Iterator[None]:
    node.direct("volume.create", name="vault")
    yield
    node.direct("volume.remove", name="vault")


@pytest.fixture
def environment(node: Daemon, tmp_path: Path) -> dict[str, str]:
    return {
        "G8_NODE": f"127.0.0.1:{node.port}",
        "G8_PASSWORD_FILE": str(node.folder / "password"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@pytest.fixture
def g8(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> G8:
    """The tool, in this process."""
    for name in ("G8_CONTEXT", "G8_TLS", "G8_CACERT", "G8_CERT", "G8_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    be_patient(monkeypatch)

    def run(*words: str, code: int = 0) -> Done:
        capfd.readouterr()
        done = Done(cli.main(list(words)), *capfd.readouterr())
        assert done.code == code, done
        assert "Traceback" not in done.err
        if code and "--json" not in words and not done.out:
            assert done.err.count("\n") <= 1, done.err
        return done

    return run


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(node: Daemon, job: str) -> bool:
    return any(row["cmd"]["id"] == job and row["pid"] for row in node.direct("job.list"))


@pytest.mark.parametrize("part", ["", "cpu", "mem", "disk", "nic", "os", "port", "version"])
def test_info_is_a_table_or_json(g8: G8, part: str) -> None:
    words = ["info", part] if part else ["info"]
    assert g8(*words).out
    assert g8(*words, "--json").json


def test_ps_lists_processes_and_kill_ends_them(g8: G8, node: Daemon) -> None:
    job = node.push("core.system", {"name": "sleep", "args": ["602"]})
    until(lambda: "sleep 602" in g8("ps").out)
    (row,) = [row for row in g8("ps", "--json").json if row["cmdline"].endswith("sleep 602")]
    g8("kill", str(row["pid"]), "-s", "9")
    assert node.result(job)["code"] == 999


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143), ("kill -2 $$", 130)],
)
def test_run_leaves_with_the_exit_status_of_the_program(g8: G8, script: str, code: int) -> None:
    done = g8("run", "-s", f"echo out; echo err >&2; {script}", code=code)
    assert (done.out, done.err) == ("out\n", "err\n")
    done = g8("run", "--json", "-s", f"echo out; {script}", code=code)
    assert (done.json["exit"], done.json["streams"][0]) == (code, "out\n")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("run", ""), 1, "g8: core.system: arguments: Expected `str` of length >= 1 - at `$.name`\n"),
        (("run", "/no/such"), 127, "/no/such: executable file not found\n"),
    ],
)
def test_run_of_what_cannot_start_says_why(g8: G8, words: tuple[str, ...], code: int, why: str) -> None:
    assert g8(*words, code=code).err == why


def test_run_passes_what_it_is_told(g8: G8, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"from here\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    words = ["run", "-i", "--env", "A=b c", "--dir", str(tmp_path), "--", "sh", "-c", 'cat; echo "$A"; pwd']
    assert g8(*words).out == f"from here\nb c\n{tmp_path}\n"
    assert g8("run", "--env", "A", "true", code=100).err.startswith("g8: --env A: expected KEY=VALUE")


def test_job_that_was_left_is_shown_and_its_result_kept(g8: G8) -> None:
    id = g8("run", "--detach", "--tag", "mine", "--", "sh", "-c", "sleep 600").lines[0]
    assert g8("job", "list", "--tag", "mine").lines[1].split()[0] == id
    assert [row["cmd"]["id"] for row in g8("job", "list", "--tag", "mine", "--json").json] == [id]
    assert "running" in g8("job", "show", id).out
    assert "has not ended" in g8("job", "result", id, code=100).err
    g8("job", "kill", id, "-s", "9")
    until(lambda: cli.main(["job", "result", id, "--json"]) == 137)
    assert g8("job", "result", id, "--wait", "--json", code=137).json["state"] == "ERROR"
    assert "state    ERROR" in g8("job", "show", id).out.replace("state      ", "state    ")
    assert "no job" in g8("job", "kill", id, code=100).err
    assert "no job" in g8("job", "unschedule", id, code=100).err
    assert g8("job", "result", "never", "--json", code=100).json["error"]["code"] == 404
    assert "expected an id" in g8("job", "show", "", code=100).err


def test_recurring_job_is_unscheduled(g8: G8, node: Daemon) -> None:
    job = node.push("bash", {"script": "true"}, recurring_period=600)
    until(lambda: job in [row["cmd"]["id"] for row in node.direct("job.list")])
    g8("job", "unschedule", job)
    assert node.result(job)["state"] == "SUCCESS"


def test_logs_follow_a_job_to_its_end(g8: G8, node: Daemon, tmp_path: Path) -> None:
    script = f"echo one; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo two; exit 6"
    job = node.push("bash", {"script": script})
    until(lambda: runs(node, job))
    until(lambda: "one" in g8("logs", job).out)  # the backlog, and back at once
    threading.Timer(0.5, (tmp_path / "go").touch).start()
    assert g8("logs", "-f", job, code=6).out == "one\ntwo\n"
    assert g8("logs", job).out == "one\ntwo\n"  # it is over: from its result
    assert g8("job", "subscribe", job, code=6).out == "one\ntwo\n"
    ended = [json.loads(line) for line in g8("logs", "-f", job, "--json", code=6).lines]
    assert ended[-1]["end"]
    assert "not known" in g8("logs", "never", code=100).err


def test_logs_of_a_job_that_ends_before_they_begin(
    g8: G8, node: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there when it is looked for, and gone when the subscription arrives."""
    job = node.push("bash", {"script": "echo out; exit 6"})
    assert node.result(job)["code"] == 1006
    monkeypatch.setattr(Job, "list", lambda *_: [])
    assert g8("logs", "-f", job, code=6) == Done(6, "out\n", "")
    lines = [json.loads(line) for line in g8("logs", "-f", job, "--json", code=6).lines]
    assert [line["text"] for line in lines] == ["out\n", ""]


def test_logs_of_a_chatty_job_have_their_end(g8: G8, node: Daemon, tmp_path: Path) -> None:
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; seq 5000 | while read n; do echo $n; done"
    job = node.push("bash", {"script": script})
    until(lambda: runs(node, job))
    threading.Timer(0.5, (tmp_path / "go").touch).start()
    lines = [json.loads(line) for line in g8("logs", "-f", job, "--json").lines]
    assert lines[-1]["end"]
    assert "5000" in "".join(line["text"] for line in lines)


def test_logs_of_all_jobs_leave_nothing_behind(g8: G8, node: Daemon) -> None:
    node.job("bash", {"script": "echo 3::for the public"}, id="speaker")
    # It waits a second for the first of them.
    until(lambda: "speaker 3| for the public" in g8("logs").out)

    def speakers() -> list[str]:
        return [json.loads(line)["job"] for line in g8("logs", "--level", "3", "--json").lines]

    until(lambda: "speaker" in speakers())
    with node.raw() as raw:
        until(lambda: not raw.keys("logger:*"))
    assert node.direct("core.state")["loggers"]["subscriptions"] == 0


def test_ctrl_c_goes_to_the_program(node: Daemon, environment: dict[str, str]) -> None:
    argv = [*INTERRUPTED, "run", "--id", "asked", "-s"]
    script = 'trap "echo stopped; exit 9" INT; echo ready; while :; do sleep 0.1; done'
    env = {"PATH": "/usr/bin:/bin", **environment}
    process = subprocess.Popen(
        [*argv, script], cwd=TOP, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (9, "stopped\n", "")


def test_ctrl_c_ends_the_following_and_not_the_job(node: Daemon, environment: dict[str, str]) -> None:
    job = node.push("bash", {"script": "echo here; exec sleep 603"})
    argv = [*INTERRUPTED, "logs", "-f", job]
    env = {"PATH": "/usr/bin:/bin", **environment}
    process = subprocess.Popen(argv, cwd=TOP, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    process.stdout.close()
    until(lambda: "core.subscribe" not in [row["cmd"]["command"] for row in node.direct("job.list")])
    assert node.direct("job.kill", id=job, signal=9) is True


def test_files_are_looked_at_and_changed(g8: G8, tmp_path: Path) -> None:
    folder = f"{tmp_path}/one/two"
    g8("fs", "mkdir", folder)
    (tmp_path / "one/two/f").write_bytes(b"text\n")
    assert g8("fs", "cat", f"{folder}/f").out == "text\n"
    assert g8("fs", "cat", f"{folder}/f", "--json").json["text"] == "text\n"
    g8("fs", "chmod", "640", f"{folder}/f")
    g8("fs", "chown", "daemon:daemon", f"{folder}/f")
    assert "0640 -rw-r-----" in g8("fs", "stat", f"{folder}/f").out
    assert g8("fs", "stat", f"{folder}/f", "--json").json["size"] == 5
    g8("fs", "mv", f"{folder}/f", f"{folder}/g")
    assert g8("fs", "ls", f"{tmp_path}/one").out == "two/\n"
    assert g8("fs", "ls", "-l", folder).lines[1].split() == ["-rw-r-----", "5", "B", "g"]
    assert "is a folder" in g8("fs", "rm", folder, code=100).err
    g8("fs", "rm", f"{folder}/g")
    g8("fs", "rm", "-r", folder)
    for words in (["rm", folder], ["stat", folder], ["cat", folder], ["ls", folder]):
        assert folder in g8("fs", *words, code=100).err
    assert "octal" in g8("fs", "chmod", "9z", "/tmp", code=100).err
    assert "USER:GROUP" in g8("fs", "chown", "root", "/tmp", code=100).err


def test_cp_both_ways(g8: G8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = os.urandom((1 << 20) + 3)
    (tmp_path / "up").write_bytes(data)
    (tmp_path / "up").chmod(0o750)
    folder = tmp_path / "there"
    folder.mkdir()
    there = f":{folder}"
    done = g8("fs", "cp", "up", f"{there}/new")
    assert (folder / "new").read_bytes() == data
    assert (folder / "new").stat().st_mode & 0o777 == 0o750
    assert "up: 1048579 of 1048579 bytes" in done.err
    g8("fs", "cp", "up", there)  # into a folder
    assert (folder / "up").read_bytes() == data
    g8("fs", "cp", f"{there}/up", "down")
    assert (tmp_path / "down").read_bytes() == data
    assert g8("fs", "cp", f"{there}/up", ".", "--json").json == {"ok": True, "files": 1, "bytes": len(data)}
    for words in (
        ["up", "down"],
        [f":{there}", f":{tmp_path}"],
        ["up", ":"],
        [f":{there}", "x"],
        [".", f":{there}"],
    ):
        g8("fs", "cp", *words, code=100)
    g8("fs", "cp", "none", there, code=111)
    g8("fs", "cp", f"{there}/none", "x", code=100)
    assert not (tmp_path / "x").exists()


def test_cp_of_folders(g8: G8, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep/er").mkdir(parents=True)
    files = {"a": b"1", "deep/b": b"22", "deep/er/c": b""}
    for name, data in files.items():
        (source / name).write_bytes(data)
    g8("fs", "cp", "-r", str(source), f":{tmp_path}/up")
    g8("fs", "cp", "-r", f":{tmp_path}/up", f"{tmp_path}/down")
    for name, data in files.items():
        assert (tmp_path / "up" / name).read_bytes() == (tmp_path / "down" / name).read_bytes() == data


def test_cp_by_way_of_pipes(node: Daemon, environment: dict[str, str], tmp_path: Path) -> None:
    def cp(*words: str, stdin: bytes = b"") -> bytes:
        env = {"PATH": "/usr/bin:/bin", **environment}
        argv = [*ASK, "fs", "cp", *words]
        return subprocess.run(argv, cwd=TOP, env=env, input=stdin, stdout=subprocess.PIPE, check=True).stdout

    cp("-", f":{tmp_path}/f", stdin=b"\0\xff" * 300_000)
    assert cp(f":{tmp_path}/f", "-") == b"\0\xff" * 300_000


def test_containers(g8: G8, container: int) -> None:
    assert g8("container", "list").lines[1].split()[:2] == [str(container), "box"]
    assert list(g8("container", "list", "--tag", "web", "--json").json) == [str(container)]
    assert len(g8("container", "list", "--tag", "none").lines) == 1
    for name in (str(container), "box"):
        assert g8("container", "exec", name, "--", "cat", "/data/0").out.startswith("AAA")
        assert "arguments.name" in g8("container", "inspect", name).out
        until(lambda name=name: g8("container", "logs", name).out == "up\n")  # type: ignore[misc]
    assert g8("container", "inspect", "box", "--json").json["id"] == container
    assert g8("container", "exec", "box", "--", "sh", "-c", "exit 4", code=4).out == ""
    assert "no container 'other'" in g8("container", "exec", "other", "true", code=100).err
    assert "no container '65000'" in g8("container", "inspect", "65000", code=100).err
    assert g8("run", "--container", "box", "-s", "echo $((6 * 7))").out == "42\n"
    assert "sleep 600" in g8("ps", "--container", "box").out
    assert g8("raw", "core.ping", "--container", "box").out.startswith('"PONG')


def test_raw_and_commands(g8: G8, tmp_path: Path) -> None:
    assert g8("raw", "filesystem.exists", f"path={tmp_path}").json is True
    assert g8("raw", "bash", "script=echo hi").out == "hi\n"
    assert g8("raw", "bash", "script=echo hi", "--json").json["streams"] == ["hi\n", ""]
    assert g8("raw", "no.such", code=100).err == "g8: no.such: unknown command\n"
    assert g8("raw", "job.list", "id", code=100).err.startswith("g8: id: expected KEY=VALUE")
    assert "filesystem.open" in g8("commands").out
    assert "python" in g8("commands", "filesystem.open").out.lower()
    assert g8("state").out.startswith("memory")


def test_settings(g8: G8, tmp_path: Path) -> None:
    assert "main.max_jobs" in g8("config", "show").out
    assert "gate.listen" in g8("config", "defaults").out
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("[main]\nmax_jobs = 5\n")
    bad.write_text("[main]\nmax_jobs = 'many'\n\n[other]\nx = 1\n")
    assert "all of it" in g8("config", "check", str(good)).out
    done = g8("config", "check", str(bad), code=100)
    assert f"{bad}:2: main.max_jobs" in done.out
    assert f"{bad}:4: other: unknown key" in done.out
    assert len(g8("config", "check", str(bad), "--json", code=100).json["problems"]) == 2
    assert g8("config", "check", str(tmp_path / "none"), code=111).err.startswith(
        f"g8: {tmp_path}/none: No such"
    )
    bad.write_text("[main\n")
    g8("config", "check", str(bad), code=100)


def test_services_are_listed(g8: G8) -> None:
    assert g8("service", "list").lines == ["SERVICE  STATE  SLICE  REASON"]
    assert g8("service", "list", "--json").json == []
    assert "none" in g8("service", "start", "none", code=100).err


def test_contexts_name_nodes(g8: G8, node: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("G8_NODE")
    monkeypatch.delenv("G8_PASSWORD_FILE")
    assert "no node named" in g8("ping", code=100).err
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{node.password}\n"))
    g8("context", "add", "lab", f"127.0.0.1:{node.port}", "--password-stdin")
    kept = tmp_path / "config/g8/contexts.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert g8("ping").out.startswith("PONG")
    g8("context", "add", "dead", "127.0.0.1:1", "--password-file", str(node.folder / "password"), "--use")
    assert g8("ping", code=111).err.startswith("g8: node 127.0.0.1:1: ")
    assert g8("ping", "--context", "lab").out.startswith("PONG")
    assert g8("--context", "lab", "ping").out.startswith("PONG")
    monkeypatch.setenv("G8_CONTEXT", "lab")
    assert g8("ping").out.startswith("PONG")
    assert "expected one of them" in g8("ping", "--context", "lab", "--node", "x", code=100).err
    rows = g8("context", "list", "--json").json
    assert [(row["name"], row["current"]) for row in rows] == [("dead", True), ("lab", False)]
    assert node.password not in g8("context", "list").out
    g8("context", "use", "lab")
    g8("context", "remove", "dead")
    assert "no context 'dead'" in g8("context", "use", "dead", code=100).err
    kept.chmod(0o644)
    assert "others may read it" in g8("ping", code=100).err
    g8("context", "add", "a/b", "host", code=100)


def test_failures_are_json_when_asked(g8: G8, node: Daemon, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("no such password\n")
    refused = g8("ping", "--json", "--password-file", str(wrong), code=100)
    assert refused.json["error"]["code"] == 403
    assert not refused.err
    assert g8("ping", "--json", "--node", "127.0.0.1:1", code=111).json["error"]["exit"] == 111
    assert g8("job", "kill", "--json", code=100).json["error"]["message"].startswith("g8 job kill: Missing")
    late = g8("raw", "bash", "script=sleep 600", "--timeout", "3", "--json", code=111).json
    assert "no result in time" in late["error"]["message"]
    node.direct("job.killall")
    assert g8("flist", "info", f"{tmp_path}/none", "--json", code=111).json["error"]["code"] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("version",),
        ("config", "defaults"),
        ("config", "check", "/dev/null"),
        ("context", "add", "lab", "127.0.0.1:1"),
        ("context", "use", "lab"),
        ("context", "list"),
        ("context", "remove", "lab"),
        ("flist", "tree", "FLIST"),
        ("flist", "info", "FLIST"),
    ],
    ids=" ".join,
)
def test_json_may_be_asked_before_and_after_a_command(g8: G8, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    g8("flist", "pack", str(tmp_path / "tree"), f"{tmp_path}/x.flist", "--store", str(tmp_path / "chunks"))
    words = tuple(word.replace("FLIST", f"{tmp_path}/x.flist") for word in words)
    g8("context", "add", "lab", "127.0.0.1:1")
    before = g8("--json", *words).json
    g8("context", "add", "lab", "127.0.0.1:1")
    assert g8(*words, "--json").json == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("g8 raw info.c", "info.cpu"),
        ("g8 commands filesystem.mk", "filesystem.mkdir"),
        ("g8 fs mk", "mkdir"),
        ("g8 inf", "info"),
        ("g8 container inspect bo", "box"),
        ("g8 job kill core-", "core-"),
        ("g8 volume inspect va", "vault"),
        ("g8 container create x --volume va", "vault="),
    ],
)
@pytest.mark.usefixtures("container", "volume")
def test_shell_completes_words(environment: dict[str, str], line: str, expected: str) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        **environment,
        "_G8_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    # It asks the node in a hurry, which a busy machine has not.
    patient = "from g8tools.g8 import cli, complete; complete._HURRY_S = 60.0; cli.run()"
    argv = [sys.executable, "-c", patient]
    done = subprocess.run(
        argv, cwd=TOP, env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert any(word.startswith(expected) for word in done.stdout.split()), done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(g8: G8, shell: str) -> None:
    out = g8("completion", shell).out
    assert "_G8_COMPLETE" in out
    assert "g8" in out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)
