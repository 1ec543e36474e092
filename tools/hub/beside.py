"""What lies beside published flists (blocking): their signature and the profile of their start.

    DIR/beside/<repository>/<name>.flist/<digest of the flist>.<sig|profile>

Each says of which flist it is, so that a signature can be here before its flist, and what belongs to an older
flist is never served with a newer one. Names come validated (`names.py`). Must not run on the loop.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from typing import Final

from g8node.errors import InvalidArgument, NotFound, PermissionDenied
from g8node.flist import signature
from g8node.g8ufs.profile import PROFILE_BYTES_MAX, parse_profile
from g8tools.hub import names

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def _signed(data: bytes) -> str:
    try:
        return signature.read(data).digest
    except PermissionDenied as error:
        raise InvalidArgument(str(error)) from None


def _profiled(data: bytes) -> str:
    return parse_profile(data).digest


KINDS: Final[Mapping[str, Callable[[bytes], str]]] = {"sig": _signed, "profile": _profiled}
"""Suffix, and how the digest of the flist that it is of is found. InvalidArgument: the bytes are none."""
BYTES_MAX: Final = PROFILE_BYTES_MAX


def split(name: str) -> tuple[str, str]:
    """`x.flist.sig`: (`x.flist`, `sig`); (name, "") for any other name."""
    for kind in KINDS:
        if name.endswith(f"{names.SUFFIX}.{kind}"):
            return name.removesuffix(f".{kind}"), kind
    return name, ""


def digest_of(data: bytes, kind: str) -> str:
    """The flist that this is of. InvalidArgument: it is no such thing."""
    digest = KINDS[kind](data)
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument("the digest of its flist is not 64 hex digits")
    return digest


class Beside:
    """The folder of them. Safe to use from many threads."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(folder, "beside")
        os.makedirs(self._folder, exist_ok=True)

    def put(self, repository: str, name: str, kind: str, data: bytes, current: str) -> str:
        """Keep it, and drop what belongs to neither its flist nor the current one; its flist's digest."""
        digest = digest_of(data, kind)
        folder = self._of(repository, name)
        os.makedirs(folder, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=folder, prefix=".upload-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(partial, os.path.join(folder, f"{digest}.{kind}"))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
        self.keep(repository, name, (digest, current))
        return digest

    def get(self, repository: str, name: str, kind: str, digest: str) -> bytes:
        """Of the flist with this digest. NotFound."""
        try:
            with open(os.path.join(self._of(repository, name), f"{digest}.{kind}"), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise NotFound(f"no {kind} of flist {repository}/{name} here") from None

    def keep(self, repository: str, name: str, digests: Collection[str]) -> None:
        """Drop what belongs to other flists than these."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._of(repository, name)) as rows:
            for row in rows:
                if not row.name.startswith(".") and row.name.partition(".")[0] not in digests:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(row.path)

    def _of(self, repository: str, name: str) -> str:
        return os.path.join(self._folder, names.repository(repository), names.flist(name))
