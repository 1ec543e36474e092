"""Log records for subscribers, before redis: filter, backlog, bounds."""

import pytest

from g8node.errors import Exhausted, InvalidArgument
from g8node.jobs import loggers as module
from g8node.jobs.job import Job
from g8node.jobs.loggers import BACKLOG, MAX_SUBSCRIPTIONS, RING_BYTES, WAITING, Loggers, Subscription
from g8node.jobs.model import Flag, Level, Message, Record
from tests.support.redis import command


def record(level: int, text: str = "", flags: int = 0) -> Record:
    return Record(0, "1", Message(text, 1, level << 16 | flags))


def waiting(loggers: Loggers, key: str) -> list[Record]:
    return list(loggers._subscriptions[key].waiting)


@pytest.fixture
def loggers() -> Loggers:
    return Loggers("/nonexistent", size=50_000)


@pytest.fixture
def job(loggers: Loggers) -> Job:
    return Job(command("core.ping", "1"), loggers.record)


def test_subscription_takes_its_levels_and_the_end() -> None:
    subscription = Subscription("logger:x", frozenset({3}))
    for level, flags in ((1, 0), (3, 0), (2, Flag.ERROR), (20, Flag.SUCCESS), (11, Flag.STREAM)):
        subscription.offer(record(level, flags=int(flags)))
    assert [each.message.level for each in subscription.waiting] == [3, 2, 20]


def test_subscription_without_levels_takes_all(loggers: Loggers, job: Job) -> None:
    key = loggers.subscribe("x", [])
    for level in (1, 9, 10, 99):
        job.emit(level, "text")
    assert [each.message.level for each in waiting(loggers, key)] == [1, 9, 10, 99]


def test_backlog_is_the_last_thousand(loggers: Loggers, job: Job) -> None:
    for number in range(BACKLOG + 5):
        job.emit(3, str(number))
    texts = [each.message.message for each in waiting(loggers, loggers.subscribe("x", []))]
    assert (len(texts), texts[0], texts[-1]) == (BACKLOG, "5", str(BACKLOG + 4))


def test_backlog_is_bounded_by_bytes(loggers: Loggers, job: Job) -> None:
    text = "x" * (1 << 20)
    for _ in range(40):
        job.emit(3, text)
    assert loggers.state()["backlog"] <= RING_BYTES >> 20
    assert loggers._ring_size <= RING_BYTES


def test_overflow_drops_the_oldest_but_no_end(loggers: Loggers, job: Job) -> None:
    key = loggers.subscribe("x", [])
    job.end(Level.STDOUT, "", ok=True)
    for number in range(2 * WAITING):
        job.emit(3, str(number))
    job.end(Level.STDOUT, "", ok=True)
    kept = waiting(loggers, key)
    assert len(kept) <= WAITING
    assert sum(each.message.ended for each in kept) == 2
    assert kept[0].message.ended
    assert kept[-2].message.message == str(2 * WAITING - 1)
    assert loggers.state()["dropped"] == 2 * WAITING + 2 - len(kept)
    assert loggers._subscriptions[key].size == sum(map(module._cost, kept))


def test_overflow_of_ends_alone_is_bounded(loggers: Loggers, job: Job) -> None:
    key = loggers.subscribe("x", [99])
    for _ in range(2 * WAITING):
        job.end(Level.STDOUT, "", ok=True)
    assert len(waiting(loggers, key)) <= WAITING


def test_live_subscription_stays_as_it_is(loggers: Loggers) -> None:
    key = loggers.subscribe("x", [3])
    assert loggers.subscribe("x", [4]) == key
    assert loggers._subscriptions[key].levels == {3}


def test_nameless_subscription_gets_a_name(loggers: Loggers) -> None:
    keys = {loggers.subscribe("", []) for _ in range(3)}
    assert len(keys) == 3
    assert all(key.startswith("logger:") and len(key) == 43 for key in keys)


def test_subscriptions_are_bounded(loggers: Loggers) -> None:
    for number in range(MAX_SUBSCRIPTIONS):
        loggers.subscribe(str(number), [])
    with pytest.raises(Exhausted):
        loggers.subscribe("more", [])
    loggers.unsubscribe("logger:0")
    loggers.subscribe("more", [])


@pytest.mark.parametrize("queue", ["x" * 129, "a\nb", "\0"])
def test_bad_names_are_refused(loggers: Loggers, queue: str) -> None:
    with pytest.raises(InvalidArgument, match="queue"):
        loggers.subscribe(queue, [])


def test_unsubscribe_needs_a_key_and_forgives_unknown_ones(loggers: Loggers) -> None:
    loggers.unsubscribe("logger:never")
    with pytest.raises(InvalidArgument, match="queue is required"):
        loggers.unsubscribe("")
