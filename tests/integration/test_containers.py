"""Containers over real crun, overlay and namespaces: life and death."""

import asyncio
import contextlib
import os
import signal

import pytest

from g8node.errors import Conflict, Exhausted, InvalidArgument, NotFound
from g8node.node.crun import Streams
from tests.support.agent import Agent, children, in_agent, until

pytestmark = pytest.mark.root


@in_agent
async def test_container_runs_command_and_leaves_nothing(agent: Agent) -> None:
    await agent.run("true")  # starts the thread pools
    before = agent.traces()
    ended = await agent.run("echo hi")
    assert (ended.code, ended.out) == (0, "hi\n")
    await agent.leaves(before)


@in_agent
async def test_container_exit_code_is_that_of_its_command(agent: Agent) -> None:
    assert (await agent.run(["sh", "-c", "exit 3"])).code == 3


@in_agent
async def test_container_without_command_waits_and_serves_execs(agent: Agent) -> None:
    container, running = await agent.start()
    assert (await agent.output(container, "cat", "/proc/1/comm")).out.strip() in ("init", "catatonit")
    assert (await agent.output(container, "sh", "-c", "echo out; echo err >&2; exit 7")).code == 7
    ended = await agent.output(container, "sh", "-c", "echo out; echo err >&2")
    assert (ended.code, ended.out, ended.err) == (0, "out\n", "err\n")
    assert (await agent.output(container, "cat", stdin=b"from us")).out == "from us"
    await agent.containers.terminate(container.id)
    assert not running.child.running


@in_agent
async def test_exec_has_environment_and_folder(agent: Agent) -> None:
    container, _ = await agent.start(env={"A": "1", "B": "2"})
    ended = await agent.output(
        container, "sh", "-c", "echo $A $B $HOME $PWD $G8NODE_CONTAINER_ID", env={"B": "3"}, cwd="/tmp"
    )
    assert ended.out == "1 3 / /tmp 1\n"


@in_agent
async def test_exec_of_missing_program_or_folder_is_not_found(agent: Agent) -> None:
    container, _ = await agent.start()
    for argv, cwd in ((["nope"], "/"), (["/bin/nope"], "/"), (["true"], "/nope")):
        with pytest.raises(NotFound, match="nope"):
            await agent.exec(container, *argv, cwd=cwd)
    with pytest.raises(InvalidArgument):
        await agent.exec(container, "/etc")
    with pytest.raises(NotFound, match="container 77"):
        await agent.containers.terminate(77)


@in_agent
async def test_exec_process_group_dies_as_one(agent: Agent) -> None:
    container, _ = await agent.start()
    job = await agent.exec(container, "sh", "-c", "sleep 1000 & echo started; sleep 1000")
    await until(lambda: "started" in job.output())
    assert job.child.signal(signal.SIGKILL)
    assert (await job.ended()).code == -signal.SIGKILL
    async with asyncio.timeout(60):  # the init collects who lost its parent
        while "sleep" in (await agent.output(container, "ps", "-o", "comm")).out:
            pass


@in_agent
async def test_terminate_asks_first_and_then_kills(agent: Agent) -> None:
    polite, polite_run = await agent.start(
        ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done"]
    )
    await until(lambda: "up" in polite_run.output())
    await agent.containers.terminate(polite.id)
    ended = await polite_run.ended()
    assert (ended.code, ended.out) == (5, "up\nbye\n")

    stubborn, run = await agent.start(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done"])
    job = await agent.exec(stubborn, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done")
    await until(lambda: "up" in run.output() and "up" in job.output())
    await agent.containers.terminate(stubborn.id, grace_s=0.1)
    assert (await run.ended()).code == -signal.SIGKILL
    assert (await job.ended()).code == -signal.SIGKILL
    await until(lambda: not children())


@in_agent
async def test_terminate_does_not_wait_for_who_cannot_hear(agent: Agent) -> None:
    container, run = await agent.start("sleep 1000")
    await asyncio.wait_for(agent.containers.terminate(container.id, grace_s=600), 60)
    assert (await run.ended()).code == -signal.SIGKILL


@in_agent
async def test_death_of_pid_1_takes_jobs_and_mounts_along(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    container, run = await agent.start()
    job = await agent.exec(container, "sleep", "1000")
    os.kill(run.child.pid, signal.SIGKILL)
    assert (await job.ended()).code == -signal.SIGKILL
    await container.gone.wait()
    await run.ended()
    await agent.leaves(before)
    with pytest.raises(NotFound):
        agent.containers.get(container.id)


@in_agent
async def test_program_that_is_not_there_fails_the_start_and_leaves_nothing(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    with pytest.raises(NotFound, match="/bin/nope"):
        await agent.start("/bin/nope")
    with pytest.raises(NotFound, match="does not exist"):
        await agent.start("true", root="/no/such/flist")
    with pytest.raises(InvalidArgument, match="mount: host path /no/such"):
        await agent.start("true", mount={"/no/such": "/mnt"})
    await agent.leaves(before)


@in_agent
async def test_fifty_creates_at_once_end_and_leave_nothing(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()

    async def one(number: int) -> str:
        return (await agent.run(["echo", str(number)])).out

    outputs = await asyncio.gather(*(one(number) for number in range(50)))
    assert outputs == [f"{number}\n" for number in range(50)]
    await agent.leaves(before | {"descriptors": before["descriptors"] + 2})


@in_agent
async def test_cancelled_create_leaves_nothing(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    for turns in range(0, 60, 3):
        task = asyncio.create_task(agent.start("sleep 1000"))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        try:
            container, running = await task
        except asyncio.CancelledError:
            continue
        await agent.containers.terminate(container.id, grace_s=0)
        await running.ended()
    await agent.leaves(before)


@in_agent
async def test_ids_count_up_and_the_limit_is_503(agent: Agent) -> None:
    agent.containers._max_count = 2
    first, _ = await agent.start()
    second, _ = await agent.start()
    assert (first.id, second.id) == (1, 2)
    with pytest.raises(Exhausted) as caught:
        await agent.start()
    assert caught.value.status == 503
    await agent.containers.terminate(1)
    third, _ = await agent.start()
    assert third.id == 3


@in_agent
async def test_cancelled_exec_leaves_no_process(agent: Agent) -> None:
    container, _ = await agent.start()
    for turns in range(0, 30, 2):
        task = asyncio.create_task(agent.exec(container, "sleep", "1000"))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await task).child.signal(signal.SIGKILL)
    # What was cancelled last may still be starting; the init and the container's own watcher stay.
    await until(lambda: len(agent.containers._tasks) == 1 and not container.execs)
    assert len(await agent.containers.processes(container)) == 1


@in_agent
async def test_exec_waits_for_a_starting_container(agent: Agent) -> None:
    container = await agent.containers.prepare(agent.spec())
    waiting = asyncio.create_task(agent.output(container, "echo", "late"))
    await asyncio.sleep(0)
    null = os.open("/dev/null", os.O_RDWR)
    await agent.containers.start(container, Streams(null, null, null))
    os.close(null)
    assert (await waiting).out == "late\n"
    await agent.containers.terminate(container.id)
    with pytest.raises((Conflict, NotFound)):
        await agent.exec(container, "true")


@in_agent
async def test_containers_of_an_earlier_run_are_removed(agent: Agent) -> None:
    before = agent.traces()
    container = await agent.containers.prepare(agent.spec())
    null = os.open("/dev/null", os.O_RDWR)
    # Started behind the owner's back: nobody watches it, as after the death of an agent.
    _, crun = agent.containers.opened()
    child = await crun.run(container.name, container.tree.top, Streams(null, null, null))
    os.close(null)
    agent.containers._live.clear()
    later = type(agent.containers)(
        agent.reaper, agent.mounts, folder=f"{agent.tmp}/run/containers", state=f"{agent.tmp}/run/crun"
    )
    await later.open()
    assert await child.wait() == -signal.SIGKILL
    assert agent.traces()["mounts"] == before["mounts"]
    assert not os.listdir(f"{agent.tmp}/run/containers")
