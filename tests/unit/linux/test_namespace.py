"""Namespaces of processes, and device nodes of the host."""

import os
import signal

import pytest

from g8node.linux import devices, namespace


def test_own_process_is_in_its_own_namespace() -> None:
    inner = namespace.inner_pids(os.getpid())
    assert inner[os.getpid()] > 0


def test_process_that_is_gone_has_no_namespace() -> None:
    assert namespace.inner_pids(1 << 22) == {}


def test_handler_of_a_signal_is_seen() -> None:
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert namespace.catches(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert not namespace.catches(os.getpid(), signal.SIGUSR1)
    assert not namespace.catches(1 << 22, signal.SIGUSR1)


def test_capabilities_are_a_mask_of_known_bits() -> None:
    assert 0 <= namespace.own_capabilities() < 1 << 48


def test_host_devices_leave_out_what_every_container_has() -> None:
    paths = [device.path for device in devices.host_devices()]
    assert paths == sorted(paths)
    assert not {"/dev/null", "/dev/tty", "/dev/ptmx"} & set(paths)
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in paths)


def test_device_that_goes_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "walk", lambda top: iter([(top, [], ["gone-just-now", "zero"])]))
    monkeypatch.setattr(devices, "_RUNTIMES_OWN", frozenset())
    assert [device.path for device in devices.host_devices()] == ["/dev/zero"]
