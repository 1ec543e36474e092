"""The loop watchdog sees what asyncio's own warning does not."""

import subprocess
import sys
import tempfile

PROGRAM = """
import asyncio, os, time, uvloop
from g8node.runtime.watchdog import Watchdog

class Blocking(asyncio.Protocol):
    def data_received(self, data):
        time.sleep(0.5)

async def main():
    watchdog = Watchdog(interval_s=0.005, hang_s=0)
    watchdog.start()
    told = lambda: any("data_received" in stall.stack for stall in watchdog.stalls)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Blocking, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    end = time.monotonic() + 0.3
    async with asyncio.timeout(60):
        while {waiting}:
            {stimulus}
            await asyncio.sleep(0.01)
    watchdog.stop()
    for stall in watchdog.stalls:
        print(round(stall.duration_s, 2) >= 0.1, "data_received" in stall.stack, flush=True)

uvloop.run(main())
"""


def run(stimulus: str, waiting: str) -> str:
    program = PROGRAM.format(stimulus=stimulus, waiting=waiting)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_block_inside_data_received_is_caught_with_its_stack() -> None:
    assert "True True\n" in run("transport.write(b'x')", "not told()")


def test_idle_loop_is_no_stall() -> None:
    out = run("pass", "time.monotonic() < end")
    assert "True True" not in out


def test_frozen_loop_is_dumped_even_when_nothing_answers() -> None:
    program = """
import asyncio, os, time, uvloop
from g8node.runtime.watchdog import Watchdog
async def main():
    watchdog = Watchdog(interval_s=0.01, hang_s=0.2)
    watchdog.start()
    await asyncio.sleep(0.05)
    end = time.monotonic() + 60
    while b"in main" not in os.pread(2, 1 << 20, 0) and time.monotonic() < end:
        time.sleep(0.01)
    watchdog.stop()
uvloop.run(main())
"""
    with tempfile.TemporaryFile("w+") as said:
        subprocess.run([sys.executable, "-c", program], stderr=said, timeout=90, check=False)
        said.seek(0)
        text = said.read()
    assert "Timeout (0:00:00.2" in text
    assert "in main" in text


def test_hang_is_told_while_it_lasts_with_the_last_log_lines() -> None:
    program = """
import asyncio, time, uvloop
from g8node.runtime import logs
from g8node.runtime.watchdog import Watchdog

kept = []
logs.configure(keep=kept.append)
logs.get("part").info("the last thing that was fine")

async def main():
    watchdog = Watchdog(interval_s=0.01, hang_s=0.2)
    watchdog.start()
    await asyncio.sleep(0.05)
    end = time.monotonic() + 60
    while not any("the last log lines" in text for text in kept) and time.monotonic() < end:
        time.sleep(0.01)
    print("told while it hung:", [text.splitlines()[0] for text in kept])
    watchdog.stop()

uvloop.run(main())
print("the last thing that was fine" in kept[-1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the event loop hangs" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[1] == "True"
    assert "in main" in done.stderr
