"""Restart policy: delays, and a subsystem that fails comes back."""

import asyncio

from g8node.runtime.supervise import Backoff, Supervisor


def test_backoff_grows_to_its_ceiling() -> None:
    backoff, now, delays = Backoff(first_s=2, factor=1.5, ceiling_s=6), 0.0, []
    for _ in range(5):
        delays.append(backoff.next(now))
        now += delays[-1]
    assert delays == [2, 3, 4.5, 6, 6]


def test_backoff_falls_back_after_a_long_run() -> None:
    backoff = Backoff(first_s=2)
    assert [backoff.next(0), backoff.next(1), backoff.next(1 + 6.1)] == [2, 3, 2]


async def test_failed_subsystem_restarts_and_says_why() -> None:
    supervisor, runs, ended = Supervisor(), 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("first run")
        ended.set()

    supervisor.start("work", work, first_s=0.0)
    async with asyncio.timeout(60):
        await ended.wait()
    [status] = supervisor.status()
    assert (status.restarts, status.last_error) == (1, "ValueError: first run")
    await supervisor.close()


async def test_close_ends_a_subsystem_and_lets_it_clean_up() -> None:
    supervisor, started, cleaned = Supervisor(), asyncio.Event(), []

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    supervisor.start("work", work)
    await started.wait()
    await supervisor.close()
    assert cleaned == [True]
    assert not supervisor.status()[0].running


async def test_cancelling_a_subsystem_is_not_a_failure() -> None:
    supervisor = Supervisor()

    async def idle() -> None:
        await asyncio.Event().wait()

    supervisor.start("idle", idle)
    await asyncio.sleep(0)
    await supervisor.stop("idle")
    assert supervisor.status()[0].restarts == 0


async def test_stopping_an_unknown_subsystem_is_no_error() -> None:
    await Supervisor().stop("unknown")


async def test_stray_cancellation_and_exit_of_a_subsystem_are_failures_too() -> None:
    supervisor, runs, ended = Supervisor(), 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError
        if runs == 2:
            raise SystemExit(1)
        ended.set()
        await asyncio.Event().wait()

    supervisor.start("work", work, first_s=0.0)
    async with asyncio.timeout(60):
        await ended.wait()
    assert supervisor.status()[0].restarts == 2
    assert supervisor.status()[0].running
    await supervisor.close()


async def test_subsystem_in_the_pause_before_its_restart_does_not_run() -> None:
    supervisor, failed = Supervisor(), asyncio.Event()

    async def work() -> None:
        failed.set()
        raise ValueError("again")

    supervisor.start("work", work, first_s=60.0)
    await failed.wait()
    await asyncio.sleep(0)
    assert not supervisor.status()[0].running
    await supervisor.close()
