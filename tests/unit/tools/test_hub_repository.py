"""The folder of published flists."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from g8node.errors import Conflict, NotFound
from g8tools.hub.repository import Flists, Staged


@pytest.fixture
def flists(tmp_path: Path) -> Iterator[Flists]:
    with closing(Flists(str(tmp_path))) as opened:
        yield opened


def staged(flists: Flists, data: bytes) -> Staged:
    upload = flists.stage()
    upload.write(data)
    upload.flush()
    return upload


def test_published_flist_is_found(flists: Flists) -> None:
    entry = flists.publish(staged(flists, b"one"), "demo", "a.flist")
    assert flists.get("demo", "a.flist") == entry
    assert flists.entries("demo") == [entry]
    assert [found.name for found in flists.repositories()] == ["demo"]
    assert entry.md5 == "f97c5d29941bfb1b2fdab0874906ab82"


def test_open_file_outlives_its_replacement(flists: Flists) -> None:
    flists.publish(staged(flists, b"one"), "demo", "a.flist")
    file, before = flists.open("demo", "a.flist")
    flists.publish(staged(flists, b"other"), "demo", "a.flist")
    with file:
        assert file.read() == b"one"
    assert flists.get("demo", "a.flist").digest != before.digest


def test_digests_are_found_again_after_a_restart(tmp_path: Path) -> None:
    first = Flists(str(tmp_path))
    entry = first.publish(staged(first, b"one"), "demo", "a.flist")
    first.close()
    with closing(Flists(str(tmp_path))) as second:
        assert second.get("demo", "a.flist") == entry


def test_second_hub_on_one_folder_is_refused(flists: Flists, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="another Hub"):
        Flists(str(tmp_path))


def test_leftovers_of_uploads_are_cleared_at_start(tmp_path: Path) -> None:
    first = Flists(str(tmp_path))
    staged(first, b"half")
    (tmp_path / "tmp/flist-x").mkdir()
    first.close()
    Flists(str(tmp_path)).close()
    assert not list((tmp_path / "tmp").iterdir())


def test_symbolic_links_are_not_followed(flists: Flists, tmp_path: Path) -> None:
    (tmp_path / "public/demo").mkdir()
    (tmp_path / "public/demo/a.flist").symlink_to("/etc/passwd")
    with pytest.raises(NotFound):
        flists.get("demo", "a.flist")
    assert flists.entries("demo") == []


def test_discarding_leaves_nothing(flists: Flists, tmp_path: Path) -> None:
    upload = staged(flists, b"x")
    upload.discard()
    upload.discard()
    assert not list((tmp_path / "tmp").iterdir())
