"""Hints of where a content may be found."""

import random
from pathlib import Path

import pytest

from g8node.linux.diskfile import KernelDisk, KernelFile
from g8node.vdisk.hints import Hints


@pytest.mark.parametrize("in_memory", [True, False])
def test_many_digests_are_found_as_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    dice = random.Random(7)
    digests = [dice.randbytes(32) for _ in range(2000)]
    hints = Hints(KernelDisk().open(f"{tmp_path}/hints", create=True))
    assert hints.find_many(digests[:3]) == {digest: [] for digest in digests[:3]}  # no page is there yet
    for first in range(0, len(digests), 50):  # a bucket has room for so many before it is split
        hints.add((digest, first + at) for at, digest in enumerate(digests[first : first + 50]))
    hints.add([(digests[0], 5000)])
    assert hints.buckets > 8
    if not in_memory:
        monkeypatch.setattr(KernelFile, "read_many_now", lambda _, reads: [False] * len(reads))
    asked = [*digests, *(dice.randbytes(32) for _ in range(10))]
    found = hints.find_many(asked)
    assert found == {digest: hints.find(digest) for digest in asked}
    assert found[digests[0]] == [5000, 0]
    assert found[digests[1999]] == [1999]
    assert found[asked[-1]] == []
    assert hints.find_many([]) == {}
    hints.close()
