"""The job manager with builtins: lifecycle, queues, restarts, limits."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from g8node.config import Config, Main
from g8node.errors import AlreadyExists, Conflict, Exhausted, InvalidArgument, NotFound
from g8node.jobs import manager as manager_module
from g8node.jobs.model import Flag, Level
from g8node.jobs.registry import Context, Registry
from g8node.runtime.supervise import Backoff
from tests.support.redis import DEADLINE_S, command, eventually, make_registry, recorder, running_manager

Body = Callable[[Context], Any]


@pytest.fixture(autouse=True)
def _short_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "RESTART_S", 0.001)


async def test_job_plain_builtin_is_finished_when_submit_returns() -> None:
    async with running_manager() as manager:
        job = manager.submit(command("core.ping"))
        assert job.phase == "finished"
        result = await job.result()
        assert (result.state, result.code, result.level) == ("SUCCESS", 0, 20)
        assert result.data == '"PONG Version: 1.2 @Revision: abc"'
        assert result.streams is UNSET
        assert not manager.jobs


async def test_job_builtin_has_one_end_message_its_result() -> None:
    async with running_manager() as manager:
        manager.submit(command("core.ping"))
        (_, message) = recorder(manager).messages[0]
        assert len(recorder(manager).messages) == 1
        assert message.meta == Level.RESULT_JSON << 16 | Flag.SUCCESS


async def test_job_unknown_command_has_its_own_state() -> None:
    async with running_manager() as manager:
        result = await manager.submit(command("no.such")).result()
        assert (result.state, result.data, result.level, result.code) == ("UNKNOWN_CMD", "", 0, 0)


async def _bug(ctx: Context) -> None:
    raise ZeroDivisionError("oops")


def _plain_bug(ctx: Context) -> None:
    raise ZeroDivisionError("oops")


def _no_json(ctx: Context) -> object:
    return object()


async def _stray_cancel(ctx: Context) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("body", [_bug, _plain_bug, _no_json, _stray_cancel])
async def test_job_bug_in_a_builtin_is_error_500_and_the_manager_lives(body: Body) -> None:
    async with running_manager() as manager:
        result = await manager.submit(command("x"), runner=body).result()
        assert (result.state, result.code, result.level) == ("ERROR", 500, 20)
        assert isinstance(msgspec.json.decode(result.data), str)
        assert (await manager.submit(command("core.ping")).result()).ok


async def test_job_error_of_the_vocabulary_is_a_json_string_with_its_code() -> None:
    def missing(ctx: Context) -> None:
        raise NotFound("no such thing")

    async with running_manager() as manager:
        result = await manager.submit(command("x"), runner=missing).result()
        assert (result.state, result.code, result.data) == ("ERROR", 404, '"no such thing"')


@pytest.mark.parametrize(
    ("arguments", "named"), [({}, "`script`"), ({"script": 1}, "$.script"), ({"script": None}, "`script`")]
)
async def test_job_wrong_arguments_are_400_with_the_field(arguments: dict[str, Any], named: str) -> None:
    async with running_manager() as manager:
        result = await manager.submit(command("bash", arguments=arguments)).result()
        assert (result.state, result.code) == ("ERROR", 400)
        assert named in result.data


async def test_job_is_listed_until_it_is_finished_and_its_id_is_taken() -> None:
    async with running_manager() as manager:
        go = asyncio.Event()

        async def wait(ctx: Context) -> None:
            await go.wait()

        job = manager.submit(command("x"), runner=wait)
        assert manager.find("1") is job
        with pytest.raises(AlreadyExists):
            manager.submit(command("core.ping"))
        go.set()
        assert (await job.result()).data == "null"
        assert manager.find("1") is None


async def test_job_failing_builtin_with_max_restart_runs_exactly_that_often() -> None:
    runs: list[int] = []

    def fail(ctx: Context) -> None:
        runs.append(ctx.job.runs)
        raise NotFound("x")

    async with running_manager() as manager:
        result = await manager.submit(command("x", max_restart=3), runner=fail).result()
        assert runs == [1, 2, 3]
        assert result.state == "ERROR"
        assert len(recorder(manager).results) == 1


async def test_job_success_ends_restarts() -> None:
    def second_time(ctx: Context) -> int:
        if ctx.job.runs < 2:
            raise NotFound("x")
        return ctx.job.runs

    async with running_manager() as manager:
        result = await manager.submit(command("x", max_restart=5), runner=second_time).result()
        assert (result.state, result.data) == ("SUCCESS", "2")


async def test_job_recurring_runs_until_unscheduled_and_ends_with_success() -> None:
    async with running_manager() as manager:
        job = manager.submit(command("x", recurring_period=1), runner=lambda ctx: ctx.job.runs)
        await eventually(lambda: job.phase == "waiting")
        assert manager.unschedule("1")
        assert (await job.result()).state == "SUCCESS"
        assert job.runs == 1
        assert not manager.unschedule("1")


async def test_job_signal_between_runs_is_refused_and_never_hits_the_next_run() -> None:
    async with running_manager() as manager:
        job = manager.submit(command("x", recurring_period=1), runner=lambda ctx: None)
        await eventually(lambda: job.phase == "waiting")
        with pytest.raises(Conflict, match="not running"):
            manager.kill("1")
        job.unschedule()
        await job.result()


async def test_job_protected_is_rerun_whatever_happens_until_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self, now: 0.0)
    async with running_manager() as manager:
        job = manager.submit(command("x"), runner=lambda ctx: None, protected=True)
        job.unschedule()
        await eventually(lambda: job.runs > 3)
        job.release()
        assert (await job.result()).ok


async def test_queue_runs_strictly_in_order_each_after_the_end_of_the_last() -> None:
    order: list[str] = []

    async def work(ctx: Context) -> None:
        order.append(f"+{ctx.job.id}")
        await asyncio.sleep(0)
        order.append(f"-{ctx.job.id}")
        if ctx.job.runs < 2:
            raise NotFound("again")

    async with running_manager() as manager:
        jobs = [manager.submit(command("x", str(n), queue="q", max_restart=2), runner=work) for n in range(3)]
        assert [job.phase for job in jobs[1:]] == ["queued", "queued"]
        with pytest.raises(Conflict):
            manager.kill("2")
        for job in jobs:
            await job.result()
        assert order == [f"{sign}{n}" for n in range(3) for _ in range(2) for sign in "+-"]


async def test_queue_of_many_plain_builtins_does_not_nest() -> None:
    async with running_manager() as manager:
        jobs = [manager.submit(command("core.ping", str(n), queue="q")) for n in range(3000)]
        assert (await jobs[-1].result()).ok
        assert [result.id for result in recorder(manager).results] == [job.id for job in jobs]


async def test_manager_limit_of_jobs_is_refusal_and_room_wakes() -> None:
    settings = Config(main=Main(max_jobs=1))
    go = asyncio.Event()

    async def wait(ctx: Context) -> None:
        await go.wait()

    async with running_manager(settings) as manager:
        job = manager.submit(command("x"), runner=wait)
        with pytest.raises(Exhausted):
            manager.submit(command("core.ping", "2"))
        waiting = asyncio.create_task(manager.wait_for_room())
        go.set()
        await job.result()
        await waiting
        assert (await manager.submit(command("core.ping", "2")).result()).ok


async def test_builtin_max_time_cancels_it_and_the_state_is_timeout() -> None:
    async def forever(ctx: Context) -> None:
        await asyncio.Event().wait()

    async with running_manager() as manager:
        # max_time is in whole seconds; a tenth of one is enough here.
        request = msgspec.structs.replace(command("x"), max_time=0.1)
        result = await manager.submit(request, runner=forever).result()
        assert (result.state, result.code) == ("TIMEOUT", 504)


async def test_critical_is_the_last_message_of_level_9() -> None:
    def speak(ctx: Context) -> None:
        for text in ("a", "b"):
            ctx.job.emit(Level.CRITICAL, text)

    async with running_manager() as manager:
        assert (await manager.submit(command("x"), runner=speak).result()).critical == "b"
        assert (await manager.submit(command("core.ping")).result()).critical is UNSET


async def test_subscribe_replays_the_backlog_and_forwards_to_the_end() -> None:
    go = asyncio.Event()

    async def speak(ctx: Context) -> int:
        for number in range(20):
            ctx.job.emit(Level.STDOUT, str(number))
        await go.wait()
        ctx.job.emit(Level.PUBLIC, "last")
        return 7

    async with running_manager() as manager:
        manager.submit(command("x"), runner=speak)
        await eventually(lambda: recorder(manager).messages)
        follower = manager.submit(command("core.subscribe", "2", {"id": "1"}))
        await eventually(lambda: follower.follows)
        go.set()
        result = await follower.result()
        assert (result.state, result.data) == ("SUCCESS", "7")
        heard = [message.message for id, message in recorder(manager).messages if id == "2"]
        assert heard == [*(str(number) for number in range(10, 20)), "last", "7"]


async def test_subscribe_ends_when_killed_or_with_the_backlog_and_its_target_goes_on() -> None:
    async def speak(ctx: Context) -> None:
        ctx.job.emit(Level.STDOUT, "said")
        await asyncio.Event().wait()

    async with running_manager() as manager:
        target = manager.submit(command("x"), runner=speak)
        await eventually(lambda: recorder(manager).messages)
        follower = manager.submit(command("core.subscribe", "2", {"id": "1"}))
        await eventually(lambda: follower.follows)
        manager.kill("2", 15)
        result = await follower.result()
        assert (result.state, result.code) == ("ERROR", 999)
        short = await manager.submit(command("core.subscribe", "3", {"id": "1", "follow": False})).result()
        assert short.state == "SUCCESS"
        heard = [message.message for id, message in recorder(manager).messages if id == "3"]
        assert heard == ["said", ""]
        assert target.phase == "running"
        assert not target.listeners


async def test_subscribe_to_nobody_or_to_a_follower_is_an_error() -> None:
    async with running_manager() as manager:
        nobody = await manager.submit(command("core.subscribe", "2", {"id": "9"})).result()
        assert (nobody.code, nobody.data) == (404, "\"job '9' does not exist\"")
        itself = await manager.submit(command("core.subscribe", "3", {"id": "3"})).result()
        assert itself.code == 409


@pytest.mark.parametrize("number", [-1, 65])
async def test_kill_checks_the_signal(number: int) -> None:
    async with running_manager() as manager:
        with pytest.raises(InvalidArgument, match="signal"):
            manager.kill("1", number)


async def test_close_ends_every_job_and_refuses_new_ones() -> None:
    async def forever(ctx: Context) -> None:
        await asyncio.Event().wait()

    async with running_manager() as manager:
        jobs = [manager.submit(command("x", str(n), queue="q"), runner=forever) for n in range(3)]
        await manager.close()
        assert {(await job.result()).state for job in jobs} == {"ERROR"}
        with pytest.raises(Exception, match="shutting down"):
            manager.submit(command("core.ping", "9"))


async def test_close_sends_the_end_message_of_a_run_that_it_cuts_off() -> None:
    async def forever(ctx: Context) -> None:
        await asyncio.Event().wait()

    async with running_manager() as manager:
        manager.submit(command("x", "a"), runner=forever)
        await asyncio.sleep(0)
        await manager.close()
        ends = [(id, message.meta) for id, message in recorder(manager).messages if message.ended]
        assert ends == [("a", 2 << 16 | 4)]


async def test_shutdown_begins_none_of_the_jobs_that_wait_in_a_queue() -> None:
    begun: list[str] = []

    async with running_manager() as manager:
        first = manager.submit(command("bash", "1", {"script": "exec sleep 60"}, queue="q"))
        later = [
            manager.submit(command("x", id, queue="q"), runner=lambda ctx: begun.append(ctx.job.id))
            for id in ("2", "3")
        ]
        await eventually(lambda: first.pid)
        await manager.shutdown(keep=lambda _: False, grace_s=DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            ends = [await job.result() for job in (first, *later)]
        assert [(end.state, end.code) for end in ends] == [("ERROR", 999)] * 3
        assert begun == []


async def test_duration_is_not_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set meanwhile, as at the boot of a machine without a battery."""
    real = time.time_ns
    async with running_manager() as manager:
        go = asyncio.Event()
        job = manager.submit(command("x", "a"), runner=lambda ctx: go.wait())
        monkeypatch.setattr(time, "time_ns", lambda: real() + 86_400_000_000_000)
        go.set()
        async with asyncio.timeout(DEADLINE_S):
            assert (await job.result()).time < 3_600_000


async def test_backlog_of_long_messages_is_bounded() -> None:
    async with running_manager() as manager:
        job = manager.submit(command("x", "a"), runner=lambda ctx: asyncio.Event().wait())
        for number in range(20):
            job.emit(1, str(number % 10) * (600 << 10))
        assert [message.message[0] for message in job.backlog] == ["9"]
        for _ in range(20):
            job.emit(1, "short")
        assert len(job.backlog) == 10


def test_base_commands_are_those_of_the_spec() -> None:
    registry: Registry = make_registry()
    host_only = {name for name in registry.names() if not registry.get(name).base}
    assert host_only == {"core.reboot", "core.poweroff"}


async def test_reboot_asks_main_and_says_so() -> None:
    async with running_manager() as manager:
        result = await manager.submit(command("core.reboot")).result()
        assert (result.state, result.stdout) == ("SUCCESS", "rebooting...")
        assert await manager.node.power.requested() == "reboot"
