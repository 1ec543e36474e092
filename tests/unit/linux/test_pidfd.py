"""Ending a process that may have become another one."""

import subprocess

import pytest

from g8node.linux import pidfd


def test_process_is_killed_if_it_is_the_one_that_is_meant() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        assert not pidfd.kill(process.pid, lambda: False, 30)
        assert process.poll() is None
        assert pidfd.kill(process.pid, lambda: True, 30)
        assert process.wait(30) == -9
        assert not pidfd.kill(process.pid, lambda: pytest.fail("it is gone"), 30)
