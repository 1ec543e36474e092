"""Boot services: the sequencer over real processes, and the whole daemon with an include folder."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from g8node.boot import services
from g8node.boot.sequencer import Sequencer
from g8node.errors import Conflict, NotFound, Unavailable
from g8node.jobs.manager import Manager
from g8node.jobs.model import Command, Result
from tests.support.daemon import Daemon, daemon
from tests.support.redis import eventually, recorder, running_manager


@pytest.fixture(autouse=True)
def _short_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "DELAY_S", 0.1)


def entry(id: str, script: str, **keys: object) -> str:
    lines = [f"[startup.{id}]", "name = 'bash'", f"args.script = {json.dumps(script)}"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())])


async def _at_once() -> None: ...


@contextlib.asynccontextmanager
async def sequence(*entries: str) -> AsyncIterator[tuple[Sequencer, Manager]]:
    async with running_manager() as manager:
        plan = services.load([("s.toml", "\n".join(entries))], parameters={}, environ={})
        yield Sequencer(manager, plan, online=_at_once), manager


def states(sequencer: Sequencer) -> dict[str, str]:
    return {row.id: row.state for row in sequencer.rows()}


def reason(sequencer: Sequencer, id: str) -> str:
    return next(row.reason for row in sequencer.rows() if row.id == id)


def result(manager: Manager, id: str) -> Result:
    return next(each for each in recorder(manager).results if each.id == id)


async def test_service_that_stays_is_running_after_its_delay() -> None:
    async with sequence(entry("a", "sleep 60")) as (sequencer, manager):
        await sequencer.run()
        assert states(sequencer) == {"a": "running"}
        assert manager.find("a") is not None
        assert sequencer.state() == {"stage": "done", "ready": 1, "count": 1, "failed": {}}


async def test_negative_delay_waits_for_the_exit() -> None:
    once = entry("once", "sleep 0.3; echo made", running_delay=-1)
    after = entry("after", "sleep 60", after=["once"])
    async with sequence(once, after) as (sequencer, manager):
        await sequencer.run()
        assert states(sequencer) == {"once": "done", "after": "running"}
        job = manager.find("after")
        assert job is not None
        assert job.started_ms >= result(manager, "once").starttime + 300


async def test_match_makes_a_service_ready() -> None:
    chatty = entry("chatty", "sleep 0.2; echo now UP 1; sleep 60", running_match="^now UP [[:digit:]]")
    async with sequence(chatty) as (sequencer, _):
        began = time.monotonic()
        await sequencer.run()
        assert states(sequencer) == {"chatty": "running"}
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("before", ["loading", "x" * 5000])
async def test_match_is_looked_for_in_every_line(before: str) -> None:
    """Lines that a program writes at once are one message."""
    chatty = entry(
        "chatty", f"printf '{before}\\nnow UP 1\\n'; sleep 60", running_match="^now UP", deadline=60
    )
    async with sequence(chatty) as (sequencer, _):
        running = asyncio.create_task(sequencer.run())
        await eventually(lambda: states(sequencer)["chatty"] == "running", "the second line matches")
        await running


async def test_failed_service_says_why_and_skips_who_comes_after_only() -> None:
    bad = entry("bad", "echo no such disk >&2; exit 3", running_delay=-1)
    behind = entry("behind", "true", after=["bad"])
    other = entry("other", "true", running_delay=-1)
    async with sequence(bad, behind, other) as (sequencer, _):
        await sequencer.run()
        assert states(sequencer) == {"bad": "failed", "behind": "skipped", "other": "done"}
        assert reason(sequencer, "bad") == "exit code 3: no such disk"
        assert reason(sequencer, "behind") == "bad is failed"
        assert sequencer.state()["failed"] == {"bad": "exit code 3: no such disk"}


async def test_service_that_fails_at_the_moment_its_delay_is_over_has_failed() -> None:
    """Both timers are due when the loop, which stood still, goes on; that of the delay is first."""
    loop = asyncio.get_running_loop()
    job = SimpleNamespace(backlog=(), listeners=[], phase="running", pid=0, protected=False)

    def submit(command: Command, *, on_end: Callable[..., None], **_: object) -> Any:
        def fail() -> None:
            job.phase = "finished"
            on_end(job, Result(command.id, command.command, "ERROR", 1003))

        def stand_still() -> None:
            loop.call_later(services.DELAY_S, fail)
            time.sleep(3 * services.DELAY_S)

        loop.call_soon(stand_still)
        return job

    async with running_manager() as manager:
        text = entry("bad", "exit 3") + "\n" + entry("behind", "true", after=["bad"])
        plan = services.load([("s.toml", text)], parameters={}, environ={})
        sequencer = Sequencer(manager, plan, online=_at_once, submit=submit)
        async with asyncio.timeout(60):
            await sequencer.run()
    assert states(sequencer) == {"bad": "failed", "behind": "skipped"}
    assert reason(sequencer, "bad") == "exit code 3"


async def test_failure_of_an_earlier_slice_counts_as_satisfied() -> None:
    bad = entry("bad", "exit 1", after=["init"], running_delay=-1)
    async with sequence(bad, entry("late", "true", after=["bad", "net"], running_delay=-1)) as (sequencer, _):
        await sequencer.run()
        assert states(sequencer) == {"bad": "failed", "late": "done"}


async def test_dependency_that_never_gets_ready_does_not_block_the_rest() -> None:
    never = entry("never", "sleep 60", running_match="never printed", deadline=1)
    async with sequence(never, entry("behind", "true", after=["never"]), entry("other", "sleep 60")) as (
        sequencer,
        _,
    ):
        async with asyncio.timeout(60):
            await sequencer.run()
        assert states(sequencer) == {"never": "failed", "behind": "skipped", "other": "running"}
        assert reason(sequencer, "never") == "not ready within 1 s"


async def test_services_of_a_slice_run_at_once(tmp_path: Path) -> None:
    """Each ends when it has seen all eight: one that waited for another would see it never."""
    script = f"cd {tmp_path}; mkdir $$; until [ $(ls | wc -l) = 8 ]; do sleep 0.05; done"
    async with sequence(*(entry(f"s{n}", script, running_delay=-1) for n in range(8))) as (sequencer, _):
        async with asyncio.timeout(60):
            await sequencer.run()
        assert set(states(sequencer).values()) == {"done"}


async def test_false_condition_skips_a_service() -> None:
    async with sequence(entry("a", "true", condition="debug")) as (sequencer, manager):
        await sequencer.run()
        assert states(sequencer) == {"a": "skipped"}
        assert not recorder(manager).results


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("name = 'no.such'", "unknown command"),
        ("name = 'job.kill'", "code 400: arguments: Object missing required field `id`"),
        ("name = 'core.system'\nargs.name = '/no/such'", "code 404: /no/such: executable file not found"),
    ],
)
async def test_service_that_cannot_start_says_why(keys: str, expected: str) -> None:
    async with sequence(f"[startup.a]\nrunning_delay = -1\n{keys}") as (sequencer, _):
        await sequencer.run()
        assert states(sequencer) == {"a": "failed"}
        assert reason(sequencer, "a") == expected


async def test_builtin_is_a_service_too() -> None:
    async with sequence("[startup.a]\nname = 'core.ping'") as (sequencer, manager):
        await sequencer.run()
        assert states(sequencer) == {"a": "done"}
        assert result(manager, "a").data.startswith('"PONG')


async def test_max_restart_counts_before_a_service_failed(tmp_path: Path) -> None:
    script = f"echo x >>{tmp_path}/runs; test $(wc -l <{tmp_path}/runs) = 2"
    async with sequence(entry("a", script, running_delay=-1, max_restart=3)) as (sequencer, _):
        await sequencer.run()
        assert states(sequencer) == {"a": "done"}


async def test_protected_service_fails_its_dependants_and_comes_back(tmp_path: Path) -> None:
    script = f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 1; }}; sleep 60"
    keep = entry("keep", script, protected=True, running_match="never")
    async with sequence(keep, entry("behind", "true", after=["keep"])) as (sequencer, manager):
        await sequencer.run()
        assert states(sequencer) == {"keep": "failed", "behind": "skipped"}
        await eventually(lambda: states(sequencer)["keep"] == "running", "it runs again")
        [row] = [row for row in sequencer.rows() if row.id == "keep"]
        assert (row.restarts, row.reason) == (1, "exit code 1")
        assert not recorder(manager).results


async def test_protected_service_that_came_back_runs_whatever_the_clock_is_set_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 1; }}; sleep 60"
    async with sequence(entry("keep", script, protected=True, running_match="never")) as (sequencer, _):
        await sequencer.run()
        assert states(sequencer) == {"keep": "failed"}
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 86400)
        await eventually(lambda: states(sequencer)["keep"] == "running", "it runs again")


async def test_stop_start_and_restart() -> None:
    async with sequence(entry("a", "sleep 60", protected=True)) as (sequencer, manager):
        await sequencer.run()
        first = manager.find("a")
        with pytest.raises(Conflict, match="'a' is running"):
            await sequencer.start("a")
        assert (await sequencer.stop("a")).state == "stopped"
        assert manager.find("a") is None
        with pytest.raises(Conflict, match="does not run"):
            await sequencer.stop("a")
        assert (await sequencer.start("a")).state == "running"
        second = manager.find("a")
        assert (await sequencer.restart("a")).state == "running"
        assert first is not second is not manager.find("a")
        with pytest.raises(NotFound, match="'b' does not exist"):
            await sequencer.start("b")


async def test_start_of_a_failing_service_is_an_error_with_the_reason() -> None:
    async with sequence(entry("a", "echo broken; exit 1", condition="debug", running_delay=-1)) as (
        sequencer,
        _,
    ):
        await sequencer.run()
        with pytest.raises(Unavailable, match="exit code 1: broken"):
            await sequencer.start("a")


async def test_service_stopped_while_starting_does_not_hold_the_slice() -> None:
    slow = entry("slow", "sleep 60", running_match="never")
    async with sequence(slow, entry("behind", "true", after=["slow"])) as (sequencer, _):
        running = asyncio.create_task(sequencer.run())
        await eventually(lambda: states(sequencer)["slow"] == "starting")
        await sequencer.stop("slow")
        await running
        assert states(sequencer) == {"slow": "stopped", "behind": "skipped"}


async def test_cancelled_sequence_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    slow = entry("slow", f"until test -e {tmp_path}/go; do sleep 0.05; done", running_delay=-1)
    async with sequence(slow, entry("behind", "true", after=["slow"], running_delay=-1)) as (sequencer, _):
        running = asyncio.create_task(sequencer.run())
        await eventually(lambda: states(sequencer)["slow"] == "starting")
        running.cancel()
        await asyncio.wait([running])
        (tmp_path / "go").touch()
        await sequencer.run()
        assert states(sequencer)["behind"] == "done"


async def test_shutdown_of_the_jobs_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    async with sequence(entry("a", "sleep 60", protected=True)) as (sequencer, manager):
        await sequencer.run()
        await manager.shutdown(keep=lambda _: False, grace_s=5)
        assert states(sequencer) == {"a": "stopped"}
        assert "failed" not in capsys.readouterr().out.replace("failed=", "")


# The daemon

INCLUDE = """
[extension."greet.someone"]
binary = "/bin/sh"
args = ["-c", "cat; echo hello $1 $GREETING", "sh", "{who}"]
env.GREETING = "and welcome"

[extension."core.ping"]
binary = "/bin/false"

[startup.greeter]
name = "greet.someone"
args.who = "{USER_OF_TEST}"
running_delay = -1

[startup.keeper]
name = "bash"
args.script = "sleep 1000"
after = ["init"]
running_delay = 1
protected = true

[startup.broken]
name = "bash"
args.script = "echo the disk is gone >&2; exit 7"
running_delay = -1

[startup.lost]
name = "bash"
after = ["nowhere"]
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("node")
    include = folder / "include"
    include.mkdir()
    (include / "services.toml").write_text(INCLUDE)
    (include / "wrong.toml").write_text("[startup")
    (include / "readme.txt").write_text("[startup.no]\nname = 'x'")
    config = f'[main]\ninclude = ["{include}", "{folder}/none"]\n'
    with daemon(folder, config, env={"USER_OF_TEST": "operator"}) as running:
        deadline = time.monotonic() + 60
        while running.direct("core.state")["services"]["stage"] != "done":
            assert time.monotonic() < deadline, running.log()
            time.sleep(0.05)
        yield running
        assert "Traceback" not in running.log()


@pytest.mark.root
@pytest.mark.fuse
def test_node_lists_its_services(node: Daemon) -> None:
    rows = {row["id"]: (row["slice"], row["state"]) for row in node.direct("service.list")}
    assert rows == {
        "greeter": ("boot", "done"),
        "keeper": ("init", "running"),
        "broken": ("boot", "failed"),
        "lost": ("", "dropped"),
    }


@pytest.mark.root
@pytest.mark.fuse
def test_node_publishes_the_result_of_a_service(node: Daemon) -> None:
    assert node.result("greeter")["streams"][0] == "hello operator and welcome\n"
    assert node.result("broken")["code"] == 1007


@pytest.mark.root
@pytest.mark.fuse
def test_node_tells_failures_on_the_console_and_in_the_state(node: Daemon) -> None:
    assert node.direct("core.state")["services"]["failed"] == {
        "broken": "exit code 7: the disk is gone",
        "lost": "after: 'nowhere' is no service",
    }
    log = node.log()
    assert "service broken: failed" in log
    assert "exit code 7: the disk is gone" in log
    assert "services.toml: startup.lost: after: 'nowhere' is no service, dropped" in log
    assert "wrong.toml: " in log
    assert "none: No such file or directory" in log
    assert "extension.core.ping: a command of that name exists, dropped" in log
    assert "slice boot: 1 of 2 services ready" in log


@pytest.mark.root
@pytest.mark.fuse
def test_node_has_extensions_as_commands(node: Daemon) -> None:
    done = node.job("greet.someone", {"who": "$(id) {who}", "stdin": "in\n"})
    assert done["streams"][0] == "in\nhello $(id) {who} and welcome\n"
    with node.gate() as gate:
        assert "hello you and" in gate.execute_command("greet.someone", "--text", "who=you")
    assert [each["name"] for each in node.direct("core.help", command="greet.someone")[0]["arguments"]] == [
        "who",
        "stdin",
    ]


@pytest.mark.root
@pytest.mark.fuse
def test_node_restarts_and_stops_a_service(node: Daemon) -> None:
    before = node.direct("service.list", id="keeper")[0]["pid"]
    assert node.direct("service.restart", id="keeper")["state"] == "running"
    after = node.direct("service.list", id="keeper")[0]["pid"]
    assert after
    assert after != before
    assert node.direct("service.stop", id="keeper")["state"] == "stopped"
    with node.gate() as gate, pytest.raises(redis.ResponseError, match="409 service 'keeper' does not run"):
        gate.execute_command("service.stop", "id=keeper")
    assert node.direct("service.start", id="keeper")["state"] == "running"


@pytest.mark.root
@pytest.mark.fuse
def test_node_keeps_the_ids_of_its_services(node: Daemon) -> None:
    with pytest.raises(redis.ResponseError, match="belongs to a job of the node"):
        node.push("core.ping", id="keeper")
