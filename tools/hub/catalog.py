"""What the Hub shows under which name (blocking): published flists, links to them, tags; and changes.

For readers a link is as good as what it stands for. A name is one of both: publishing over a link, and
linking over an flist, are refused. Names come validated (`names.py`). Must not run on the loop.
"""

from typing import BinaryIO

import msgspec

from g8node.errors import Conflict, NotFound
from g8tools.hub.beside import KINDS, Beside
from g8tools.hub.links import Link, Links, Place
from g8tools.hub.repository import Entry, Flists, Repository


class Listed(msgspec.Struct, frozen=True):
    """A line of a listing. `type` as the original has it; `entry` of a link is of what it stands for."""

    name: str
    type: str
    entry: Entry | None = None
    """None: a tag, or a link to what is gone."""
    target: str = ""
    linktime: float = 0.0


class Catalog:
    """Over the parts of one Hub. Safe to use from many threads."""

    def __init__(self, flists: Flists, links: Links, beside: Beside) -> None:
        self._flists = flists
        self._links = links
        self._beside = beside

    def open(self, repository: str, name: str) -> tuple[BinaryIO, Entry]:
        """See Flists.open; the entry has the name that was asked for."""
        file, entry = self._flists.open(*self._links.resolve(Place(repository, name)))
        return file, msgspec.structs.replace(entry, name=name)

    def get(self, repository: str, name: str) -> Entry:
        """NotFound."""
        file, entry = self.open(repository, name)
        file.close()
        return entry

    def one(self, repository: str, name: str) -> Listed:
        """A published flist or a link to one. NotFound."""
        target = self._links.target(Place(repository, name))
        entry = self.get(repository, name)
        return Listed(name, "symlink", entry, str(target)) if target else Listed(name, "regular", entry)

    def beside(self, repository: str, name: str, kind: str) -> bytes:
        """What lies beside it. NotFound."""
        repository, name = self._links.resolve(Place(repository, name))
        return self._beside.get(repository, name, kind, self._flists.get(repository, name).digest)

    def repositories(self) -> list[Repository]:
        """Those with something in it, sorted."""
        found = {one.name: one for one in self._flists.repositories()}
        for name in self._links.repositories():
            links = self._links.links(name)
            known = found.get(name, Repository(name, 0, 0.0))
            updated = max([known.updated, *(link.made for link in links)])
            found[name] = Repository(name, known.count + len(links), updated)
        return sorted(found.values(), key=lambda one: one.name)

    def names(self, repository: str) -> list[str]:
        """Names of flists and links, sorted."""
        return sorted(one.name for one in self.listed(repository) if one.entry)

    def listed(self, repository: str) -> list[Listed]:
        """Everything in a repository, sorted; tags and links to them last. NotFound: there is nothing."""
        try:
            found = [Listed(one.name, "regular", one) for one in self._flists.entries(repository)]
        except NotFound:
            found = []
        found += [self._linked(repository, link) for link in self._links.links(repository)]
        found.sort(key=lambda one: one.name)
        found += [Listed(tag, "tag") for tag in self._links.tags(repository)]
        for link in self._links.tag_links(repository):
            found.append(Listed(link.name, "taglink", None, str(link.target), link.made))
        if not found:
            raise NotFound(f"no repository {repository} here")
        return found

    def tagged(self, repository: str, tag: str) -> list[Listed]:
        """What a tag, or a link to one, holds. NotFound."""
        return [self._linked(repository, link) for link in self._links.tagged(Place(repository, tag))]

    def in_tag(self, repository: str, tag: str, name: str) -> Place:
        """The flist that a tag has by this name. NotFound."""
        for link in self._links.tagged(Place(repository, tag)):
            if link.name == name:
                return link.target
        raise NotFound(f"no flist {name} in tag {repository}/{tag}")

    def tag_target(self, repository: str, name: str) -> str:
        """The tag that a link stands for. NotFound."""
        target = self._links.target(Place(repository, name))
        if target is None:
            raise NotFound(f"no link {repository}/{name} to a tag here")
        return str(target)

    def _linked(self, repository: str, link: Link) -> Listed:
        try:
            entry = msgspec.structs.replace(self.get(*link.target), name=link.name)
        except NotFound:
            entry = None
        return Listed(link.name, "symlink", entry, str(link.target), link.made)

    def refuse_link(self, repository: str, name: str) -> None:
        """Conflict: the name is a link, over which nothing is published."""
        target = self._links.target(Place(repository, name))
        if target is not None:
            raise Conflict(f"{repository}/{name} is a link to {target}", hint="remove the link first")

    def promote(self, source: Place, target: Place) -> Entry:
        """Publish what is published under another name too, signature and profile included."""
        self.refuse_link(*target)
        source = self._links.resolve(source)
        self._carry_beside(source, target)
        entry = self._flists.copy(*source, *target)
        self._beside.keep(*target, (entry.digest,))
        return entry

    def _carry_beside(self, source: Place, target: Place) -> None:
        """Before the flist itself: there is no moment without a signature."""
        digest = self._flists.get(*source).digest
        try:
            current = self._flists.get(*target).digest
        except NotFound:
            current = digest
        for kind in KINDS:
            try:
                data = self._beside.get(*source, kind, digest)
            except NotFound:
                continue
            self._beside.put(*target, kind, data, current)

    def rename(self, old: Place, new: Place) -> None:
        """An flist or a link; an flist of the new name is replaced, a link is not. NotFound, Conflict."""
        target = self._links.target(old)
        if old == new:
            self.get(*old)
        elif target is not None:
            self.link(new, target)
            self._links.unlink(old)
        else:
            self.refuse_link(*new)
            self._carry_beside(old, new)
            entry = self._flists.rename(old.repository, old.name, new.name)
            self._beside.keep(*new, (entry.digest,))
            self._beside.keep(*old, ())

    def delete(self, place: Place) -> None:
        """An flist or a link; chunks stay. NotFound."""
        if not self._links.unlink(place):
            self._flists.delete(*place)
            self._beside.keep(*place, ())

    def link(self, place: Place, target: Place) -> None:
        """Make a name stand for an flist that is there. NotFound, Conflict: the name is an flist's."""
        self._flists.get(*self._links.resolve(target))
        try:
            self._flists.get(*place)
        except NotFound:
            pass
        else:
            raise Conflict(f"{place} is an flist", hint="remove or rename it first")
        self._without_loop(place, target)
        self._links.link(place, target)

    def tag(self, place: Place, name: str, target: Place) -> None:
        """Put an flist that is there under a tag. NotFound."""
        self._flists.get(*self._links.resolve(target))
        self._links.tag(place, name, target)

    def untag(self, place: Place, name: str) -> None:
        """NotFound."""
        if not self._links.untag(place, name):
            raise NotFound(f"no flist {name} in tag {place}")

    def link_tag(self, place: Place, target: Place) -> None:
        """Make a name stand for a tag that is there. NotFound, Conflict."""
        self._links.tagged(target)
        if place.name in self._links.tags(place.repository):
            raise Conflict(f"{place} is a tag", hint="empty it first")
        self._without_loop(place, target)
        self._links.link(place, target)

    def _without_loop(self, place: Place, target: Place) -> None:
        if self._links.resolve(target) == place or target == place:
            raise Conflict(f"{place} would be a link to itself")
