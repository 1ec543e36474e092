"""The reaper with real children, in processes of their own so that pytest's children stay pytest's."""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, os, signal, sys, time, uvloop
from g8node.runtime import blocking
from g8node.runtime.process import Reaper

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()

async def until(condition, what):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)

async def main():
    reaper = Reaper(orphans=True)
    reaper.install()
"""


def in_child(body: str) -> str:
    """Run body as the async main of a fresh process; returns what it printed."""
    program = PRELUDE + textwrap.indent(textwrap.dedent(body), "    ") + "\nuvloop.run(main())\nos._exit(0)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_run_returns_code_and_output() -> None:
    out = in_child("""
        done = await reaper.run(["/bin/sh", "-c", "cat; echo err >&2; exit 3"], input=b"in")
        print(done.code, done.stdout, done.stderr, flush=True)
    """)
    assert out == "3 b'in' b'err\\n'\n"


def test_signalled_child_has_a_negative_code() -> None:
    out = in_child("""
        child = await reaper.spawn(["/bin/sleep", "60"])
        child.signal(signal.SIGTERM)
        print(await child.wait(), child.running, child.signal(signal.SIGTERM), flush=True)
    """)
    assert out == "-15 False False\n"


def test_five_hundred_orphans_leave_no_zombie() -> None:
    out = in_child("""
        script = "i=0; while [ $i -lt 50 ]; do (setsid /bin/true &) ; i=$((i+1)); done"
        await asyncio.gather(*[reaper.run(["/bin/sh", "-c", script]) for _ in range(10)])
        await until(lambda: not children(), "zombies")
        print("none left", flush=True)
    """)
    assert out == "none left\n"


def test_exits_of_many_short_children_are_never_lost() -> None:
    out = in_child("""
        codes = await asyncio.gather(*[
            reaper.run(["/bin/sh", "-c", f"exit {n % 7}"]) for n in range(300)
        ])
        assert [done.code for done in codes] == [n % 7 for n in range(300)]
        print("all", flush=True)
    """)
    assert out == "all\n"


def test_adopted_grandchild_is_followed() -> None:
    out = in_child("""
        with reaper.expecting():
            done = await reaper.run(["/bin/sh", "-c", "(sleep 0.05; exit 9) >/dev/null & echo $!"])
            child = reaper.adopt(int(done.stdout))
        print(await child.wait(), flush=True)
    """)
    assert out == "9\n"


def test_adopting_after_the_exit_still_gives_the_code() -> None:
    out = in_child("""
        with reaper.expecting():
            done = await reaper.run(["/bin/sh", "-c", "(exit 9) >/dev/null & echo $!"])
            await until(lambda: not children(), "the exit")
            child = reaper.adopt(int(done.stdout))
        print(await child.wait(), flush=True)
    """)
    assert out == "9\n"


def test_time_limit_kills_the_whole_group() -> None:
    out = in_child("""
        try:
            await reaper.run(["/bin/sh", "-c", "sleep 60 & sleep 60"], timeout_s=0.1)
        except Exception as error:
            print(type(error).__name__, flush=True)
        await until(lambda: not children(), "the group")
    """)
    assert out == "DeadlineExceeded\n"


@pytest.mark.parametrize("argv", [["/nonexistent/program"], ["/etc/passwd"]])
def test_spawn_failure_is_an_os_error(argv: list[str]) -> None:
    out = in_child(f"""
        try:
            await reaper.spawn({argv!r})
        except OSError as error:
            print(type(error).__name__, children(), flush=True)
    """)
    assert out in {"FileNotFoundError []\n", "PermissionError []\n"}


def test_relative_program_is_refused() -> None:
    out = in_child("""
        try:
            await reaper.spawn(["true"])
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    """)
    assert out == "InvalidArgument argv[0] must be an absolute path, not ['true']\n"


def test_cancelled_spawn_leaves_no_child() -> None:
    out = in_child("""
        for _ in range(20):
            task = asyncio.create_task(reaper.spawn(["/bin/sleep", "60"]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await until(lambda: not children() and not reaper._expecting, "the killed children")
        print("none", flush=True)
    """)
    assert out == "none\n"
