"""Ending a process that may have become another one."""

import subprocess

import pytest

from g8node.linux import pidfd


def test_process_is_killed_if_it_is_the_one_that_is_meant() -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        assert not pidfd.kill(process.pid, lambda: False, 60)
        assert process.poll() is None
        assert pidfd.kill(process.pid, lambda: True, 60)
        assert process.wait(60) == -9
        assert not pidfd.kill(process.pid, lambda: pytest.fail("it is gone"), 60)
