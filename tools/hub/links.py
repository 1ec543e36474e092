"""Names that stand for others (blocking): links to flists, tags of flists, links to tags.

    DIR/links/<repository>/<name>.flist         text: <repository>/<name>.flist
    DIR/links/<repository>/<name>               text: <repository>/<tag>
    DIR/tags/<repository>/<tag>/<name>.flist    text: <repository>/<name>.flist

Each is a symbolic link, which appears whole; its text is read and checked as any name from outside, and
never followed by the kernel. What it names may be gone. Names come validated (`names.py`). Must not run on
the loop.
"""

import contextlib
import itertools
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from g8node.errors import InvalidArgument, NotFound
from g8tools.hub import names

_STEPS_MAX: Final = 8
"""Links to links are followed so far; longer ways are loops."""
_serial = itertools.count()


class Place(NamedTuple):
    """A repository, and a name or tag in it."""

    repository: str
    name: str

    def __str__(self) -> str:
        return f"{self.repository}/{self.name}"


class Link(NamedTuple):
    name: str
    target: Place
    made: float
    """Seconds since the epoch."""


class Links:
    """All of one Hub. Safe to use from many threads."""

    def __init__(self, folder: str) -> None:
        self._links = os.path.join(folder, "links")
        self._tags = os.path.join(folder, "tags")

    def link(self, place: Place, target: Place) -> None:
        """Make the name (an flist's, or else a tag's) stand for the target; an older link goes."""
        _write(os.path.join(self._links, *place), target)

    def target(self, place: Place) -> Place | None:
        """What a link stands for; None: it is none."""
        found = _read(os.path.join(self._links, *place), _kind(place.name))
        return found and found.target

    def resolve(self, place: Place) -> Place:
        """What it stands for in the end: itself when it is no link. NotFound: a loop."""
        for _ in range(_STEPS_MAX):
            target = self.target(place)
            if target is None:
                return place
            place = target
        raise NotFound(f"{place} is a link in a loop")

    def unlink(self, place: Place) -> bool:
        """False: there was none."""
        return _remove(os.path.join(self._links, *place))

    def links(self, repository: str) -> list[Link]:
        """To flists, sorted."""
        return _all(os.path.join(self._links, repository), names.flist)

    def tag_links(self, repository: str) -> list[Link]:
        """To tags, sorted."""
        return _all(os.path.join(self._links, repository), names.tag)

    def repositories(self) -> set[str]:
        """Those with links or tags."""
        return {name for top in (self._links, self._tags) for name in _names(top)}

    def tag(self, place: Place, name: str, target: Place) -> None:
        """Put an flist under a tag, by this name."""
        _write(os.path.join(self._tags, *place, name), target)

    def untag(self, place: Place, name: str) -> bool:
        """Take it out again; a tag without flists is gone. False: it was not there."""
        found = _remove(os.path.join(self._tags, *place, name))
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(self._tags, *place))
        return found

    def tags(self, repository: str) -> list[str]:
        """Sorted."""
        return _names(os.path.join(self._tags, repository))

    def tagged(self, place: Place) -> list[Link]:
        """The flists under a tag, or under what a link of this name stands for. NotFound."""
        place = self.resolve(place)
        found = _all(os.path.join(self._tags, *place), names.flist)
        if not found:
            raise NotFound(f"no tag {place} here")
        return found


def _kind(name: str) -> Callable[[str], str]:
    return names.flist if name.endswith(names.SUFFIX) else names.tag


def _names(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _all(folder: str, kind: Callable[[str], str]) -> list[Link]:
    """The links of one kind in a folder, by what their own names are."""
    is_flist = kind is names.flist
    found = (
        _read(os.path.join(folder, name), kind)
        for name in _names(folder)
        if name.endswith(names.SUFFIX) is is_flist
    )
    return [link for link in found if link]


def _read(path: str, kind: Callable[[str], str]) -> Link | None:
    """None: there is nothing, or nothing that we wrote."""
    with contextlib.suppress(OSError, InvalidArgument):
        repository, _, name = os.readlink(path).partition("/")
        target = Place(names.repository(repository), kind(name))
        return Link(os.path.basename(path), target, os.lstat(path).st_mtime)
    return None


def _write(path: str, target: Place) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    new = os.path.join(folder, f".{os.getpid()}-{next(_serial)}")
    os.symlink(str(target), new)
    os.replace(new, path)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
