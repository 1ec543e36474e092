"""Finished jobs are remembered for a while, and only so many."""

from g8node.jobs.known import Known
from g8node.jobs.model import LOCAL, Caller

MARK = b"0123456789abcdef"


def test_known_job_is_there_until_its_time_is_over() -> None:
    known = Known(10, 300)
    known.add("a", MARK, LOCAL, 1000.0)
    assert (known.owner("a", 1299.0), known.fingerprint("a", 1299.0)) == (LOCAL, MARK)
    assert known.owner("a", 1300.0) is None
    assert known.fingerprint("b", 1000.0) is None


def test_known_job_that_ran_again_counts_from_then() -> None:
    known = Known(10, 300)
    known.add("a", MARK, LOCAL, 0.0)
    known.add("a", MARK[::-1], LOCAL, 290.0)
    assert known.fingerprint("a", 500.0) == MARK[::-1]


def test_known_jobs_are_so_many_and_the_newest_half_stays() -> None:
    known = Known(100, 300)
    for number in range(1000):
        known.add(str(number), MARK, Caller(f"c{number % 3}", "reader"), 1.0)
    assert all(
        known.owner(str(number), 1.0) == Caller(f"c{number % 3}", "reader") for number in range(950, 1000)
    )
    assert sum(known.owner(str(number), 1.0) is not None for number in range(1000)) <= 100
