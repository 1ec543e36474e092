"""Jobs that are processes: codes, streams, signals, limits (spec core0-protocol 2.4 and 3.2)."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g8node.jobs.manager import Manager
from g8node.jobs.model import Flag, Level, Result
from g8node.jobs.runs import STREAM_CHUNKS
from g8node.runtime.stdio import CHUNK_BYTES, Process
from tests.support.redis import command, eventually, recorder, running_manager


async def bash(manager: Manager, script: str, id: str = "1", **fields: Any) -> Result:
    return await manager.submit(command("bash", id, {"script": script}, **fields)).result()


def pid_in(path: Path) -> int:
    return int(path.read_text()) if path.exists() and path.read_text().strip() else 0


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


async def test_process_cat_with_stdin_echoes_it_exactly() -> None:
    text = "line\n" * 200_000 + "é"
    async with running_manager() as manager:
        request = command(
            "core.system", arguments={"name": "sh", "args": ["-c", "cat | wc -c"], "stdin": text}
        )
        result = await manager.submit(request).result()
        assert result.stdout.strip() == str(len(text.encode()))
        result = await manager.submit(
            command("core.system", arguments={"name": "cat", "stdin": text[-50_000:]})
        ).result()
        assert (result.state, result.stdout, result.stderr) == ("SUCCESS", text[-50_000:], "")


async def test_process_large_stdin_and_output_do_not_wait_for_each_other() -> None:
    async with running_manager() as manager:
        request = command("core.system", arguments={"name": "cat", "stdin": "x" * (8 << 20)})
        result = await asyncio.wait_for(manager.submit(request).result(), 60)
        assert result.ok
        assert set(result.stdout) == {"x"}


async def test_process_exit_codes() -> None:
    async with running_manager() as manager:
        assert (await bash(manager, "exit 0")).code == 0
        failed = await bash(manager, "echo out; echo err >&2; exit 7")
        assert (failed.state, failed.code, failed.streams) == ("ERROR", 1007, ("out\n", "err\n"))
        killed = await bash(manager, "kill -9 $$")
        assert (killed.state, killed.code) == ("ERROR", 999)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"name": "no-such-program"}, 404),
        ({"name": "/no/such/program"}, 404),
        ({"name": "/etc/hostname"}, 0),
        ({"name": "true", "dir": "/no/such/dir"}, 404),
    ],
)
async def test_process_that_cannot_start_answers_plain_text(arguments: dict[str, Any], code: int) -> None:
    async with running_manager() as manager:
        result = await manager.submit(command("core.system", arguments=arguments)).result()
        assert (result.state, result.code, result.level) == ("ERROR", code, 0)
        assert result.data
        assert not result.data.startswith('"')


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "true", "args": ["a\0b"]}, "args"),
        ({"name": "true", "env": {"A=B": "c"}}, "env"),
    ],
)
async def test_process_of_malformed_arguments_is_400_as_json(arguments: dict[str, Any], field: str) -> None:
    async with running_manager() as manager:
        result = await manager.submit(command("core.system", arguments=arguments)).result()
        assert (result.state, result.code, result.level) == ("ERROR", 400, 20)
        assert field in json.loads(result.data)


async def test_process_gets_dir_and_environment(tmp_path: Path) -> None:
    async with running_manager() as manager:
        arguments = {
            "name": "sh",
            "args": ["-c", "pwd; echo $G8 $PATH"],
            "dir": str(tmp_path),
            "env": {"G8": "1"},
        }
        result = await manager.submit(command("core.system", arguments=arguments)).result()
        assert result.stdout == f"{tmp_path}\n1 {os.environ['PATH']}\n"


@pytest.fixture
def foreign_program() -> Iterator[Path]:
    """A program on another file system than the root."""
    path = Path("/dev/shm/g8-test-program")
    path.write_text("#!/bin/sh\necho ran $1 in $(pwd)\n")
    path.chmod(0o755)
    yield path
    path.unlink()


async def test_process_outside_the_root_file_system_is_started_by_a_shell(foreign_program: Path) -> None:
    """On Python 3.11.2 exec keeps the GIL: on a file system of our own that would hang for good."""
    async with running_manager() as manager:
        for arguments in (
            {"name": str(foreign_program), "args": ["a b"]},
            {"name": "./g8-test-program", "args": ["a b"], "dir": "/dev/shm"},
        ):
            result = await manager.submit(command("core.system", arguments=arguments)).result()
            assert result.stdout == f"ran a b in {arguments.get('dir', '/')}\n"


async def test_process_result_levels_become_data_and_critical() -> None:
    async with running_manager() as manager:
        result = await bash(manager, "echo '20::1'; echo '9::bad'; printf '21:::\\na: 1\\n:::\\n'; echo out")
        assert (result.data, result.level, result.critical) == ("\na: 1", 21, "bad\n")
        assert result.stdout == "out\n"


async def test_process_run_is_closed_by_exactly_one_empty_end_message() -> None:
    async with running_manager() as manager:
        await bash(manager, "echo a; exit 1")
        ends = [message for _, message in recorder(manager).messages if message.ended]
        assert [(end.message, end.level, end.meta & 6) for end in ends] == [("", Level.STDERR, Flag.ERROR)]


async def test_process_output_is_bounded_and_keeps_its_end() -> None:
    async with running_manager() as manager:
        result = await bash(manager, "head -c 12000000 /dev/zero | tr '\\0' x; echo END")
        assert 1 << 20 < len(result.stdout) <= STREAM_CHUNKS * CHUNK_BYTES + CHUNK_BYTES
        assert result.stdout.endswith("xEND\n")


async def test_process_many_small_writes_are_all_kept() -> None:
    async with running_manager() as manager:
        result = await bash(manager, "for n in $(seq 500); do echo $n; done")
        assert result.stdout.split() == [str(n + 1) for n in range(500)]


async def test_process_chatty_job_does_not_starve_the_loop() -> None:
    async with running_manager() as manager:
        chatty = manager.submit(command("bash", "chatty", {"script": "yes | head -c 200000000"}))
        await eventually(lambda: recorder(manager).messages)
        most = 0
        for _ in range(200):
            before = len(recorder(manager).messages)
            await asyncio.sleep(0)
            most = max(most, sum(len(each.message) for _, each in recorder(manager).messages[before:]))
        assert most <= 4 * CHUNK_BYTES
        chatty.kill(signal.SIGKILL)
        await chatty.result()


async def test_kill_hits_the_whole_process_group(tmp_path: Path) -> None:
    async with running_manager() as manager:
        pids = tmp_path / "pid"
        script = f"(trap '' TERM; sh -c 'echo $$ >{pids}; sleep 100' & wait) & wait"
        job = manager.submit(command("bash", "1", {"script": script}))
        await eventually(lambda: pid_in(pids))
        assert manager.kill("1")
        result = await asyncio.wait_for(job.result(), 60)
        assert (result.state, result.code) == ("ERROR", 999)
        assert manager.find("1") is None
        await eventually(lambda: is_gone(pid_in(pids)), "the grandchild dies")


async def test_kill_ends_a_job_whose_pipe_is_held_by_an_escaped_process(tmp_path: Path) -> None:
    async with running_manager() as manager:
        pids = tmp_path / "pid"
        job = manager.submit(
            command("bash", "1", {"script": f"setsid sh -c 'echo $$ >{pids}; sleep 100' & sleep 100"})
        )
        await eventually(lambda: pid_in(pids))
        manager.kill("1", signal.SIGTERM)
        await asyncio.wait_for(job.result(), 60)
        os.kill(pid_in(pids), signal.SIGKILL)


async def test_job_lives_while_a_background_process_holds_its_output(tmp_path: Path) -> None:
    async with running_manager() as manager:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        job = manager.submit(command("bash", "1", {"script": f"(cat {fifo}) & exit 0"}))
        await eventually(lambda: job.run is not None and is_gone(job.pid), "the shell is gone")
        assert job.phase == "running"
        fd = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)
        os.write(fd, b"late")
        os.close(fd)
        result = await job.result()
        assert (result.state, result.stdout) == ("SUCCESS", "late")


async def test_interrupted_job_is_an_error() -> None:
    async with running_manager() as manager:
        job = manager.submit(command("core.system", arguments={"name": "sleep", "args": ["100"]}))
        await eventually(lambda: job.pid)
        job.kill(signal.SIGINT)
        assert (await job.result()).state == "ERROR"


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_kill_of_a_process_that_is_being_started_is_not_lost(turns: int) -> None:
    """Nobody hears of its start before it is killed, however many processors there are."""
    async with running_manager() as manager:
        loop, reaper = asyncio.get_running_loop(), manager.node.reaper
        loop.remove_reader(reaper._spawner.fd)
        job = manager.submit(command("core.system", arguments={"name": "sleep", "args": ["100"]}))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert job.pid == 0
        assert manager.kill("1")
        loop.add_reader(reaper._spawner.fd, reaper._started)
        assert (await asyncio.wait_for(job.result(), 60)).code == 999


async def test_max_time_kills_the_group_and_the_state_is_timeout(tmp_path: Path) -> None:
    async with running_manager() as manager:
        pids = tmp_path / "pid"
        result = await bash(manager, f"echo before; sh -c 'echo $$ >{pids}; sleep 100'", max_time=5)
        assert (result.state, result.code, result.stdout) == ("TIMEOUT", 999, "before\n")
        assert 4900 <= result.time < 60_000
        await eventually(lambda: is_gone(pid_in(pids)))


async def test_recurring_process_runs_about_once_a_period_and_unschedule_ends_it(tmp_path: Path) -> None:
    async with running_manager() as manager:
        marks = tmp_path / "marks"
        began = time.monotonic()
        job = manager.submit(command("bash", "1", {"script": f"echo x >>{marks}"}, recurring_period=1))
        await eventually(lambda: marks.exists() and len(marks.read_text().split()) >= 3)
        assert 3 <= job.runs <= 2 + (time.monotonic() - began)
        job.unschedule()
        assert (await job.result()).state == "SUCCESS"


async def test_failing_process_with_max_restart_runs_exactly_that_often(tmp_path: Path) -> None:
    async with running_manager() as manager:
        marks = tmp_path / "marks"
        result = await bash(manager, f"echo x >>{marks}; exit 1", max_restart=2)
        assert (result.code, marks.read_text().split()) == (1001, ["x", "x"])


async def test_started_elsewhere_uses_the_given_descriptors_and_child() -> None:
    async with running_manager() as manager:
        reaper = manager.node.reaper

        async def start(stdin: int, stdout: int, stderr: int) -> Any:
            return await reaper.spawn(["/bin/cat"], stdin=stdin, stdout=stdout, stderr=stderr)

        job = manager.submit(
            command("x"), container=3, runner=lambda ctx: Process(["cat"], stdin=b"hi", start=start)
        )
        result = await job.result()
        assert (result.stdout, result.container) == ("hi", 3)


async def test_shutdown_ends_processes_with_term_then_kill(tmp_path: Path) -> None:
    async with running_manager() as manager:
        stubborn = manager.submit(
            command("bash", "1", {"script": "trap '' TERM; echo up; sleep 100; sleep 100"})
        )
        polite = manager.submit(
            command("core.system", "2", {"name": "sleep", "args": ["100"]}), protected=True
        )
        await eventually(lambda: "up\n" in recorder(manager).texts(1) and polite.pid)
        await manager.shutdown(keep=lambda job: False, grace_s=0.3)
        assert (stubborn.phase, polite.phase) == ("finished", "finished")


ORPHANS = """
    import asyncio, contextlib, os, sys, uvloop
    from g8node.runtime.process import Reaper
    from tests.support.redis import command, make_node, make_registry
    from g8node.jobs.manager import Manager

    SCRIPT = f"for n in $(seq 100); do (setsid sh -c 'read x <{sys.argv[1]}' >/dev/null 2>&1 &) ; done"

    def children():
        return open(f"/proc/self/task/{os.getpid()}/children").read().split()

    async def main():
        reaper = Reaper(orphans=True)
        reaper.install()
        manager = Manager(make_node(reaper), make_registry(), environ=os.environ)
        jobs = [manager.submit(command("bash", str(n), {"script": SCRIPT})) for n in range(5)]
        states = [(await job.result()).state for job in jobs]
        adopted = len(children())
        while children():  # each ends when it has heard that somebody wrote, or could have
            with contextlib.suppress(OSError):
                os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK))
            await asyncio.sleep(0.01)
        print(states.count("SUCCESS"), adopted > 0, children())

    uvloop.install()
    asyncio.run(main())
"""


def test_500_orphans_leave_no_zombie(tmp_path: Path) -> None:
    code, fifo = textwrap.dedent(ORPHANS), tmp_path / "fifo"
    os.mkfifo(fifo)
    done = subprocess.run(
        [sys.executable, "-c", code, str(fifo)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "5 True []", done.stderr
