"""Which flists this node runs: all, or only those that an allowed key signed (async).

The signature of `<flist>` is `<flist>.sig` beside it (`flist/signature.py`). It is there before the flist is
looked into, and is compared with the image that was made of it: what is mounted is what was signed.
"""

from typing import Final

from g8node.config import Fuse
from g8node.errors import InvalidArgument, NotFound, PermissionDenied
from g8node.flist.image import ImageRef
from g8node.flist.merkle import MERKLE_KEY
from g8node.flist.signature import SIGNATURE_BYTES_MAX, SUFFIX, parse_public, verify
from g8node.g8ufs.downloads import Downloads, beside
from g8node.linux.guard import off_loop
from g8node.runtime import blocking, logs

log = logs.get("g8ufs.trust")

_HINT: Final = "sign it with `g8 flist sign`, or see require_signature in docs/flist.md"


class Trust:
    """The settings `require_signature` and `allowed_keys`. Without the first everything passes."""

    def __init__(self, config: Fuse, downloads: Downloads) -> None:
        self._required = config.require_signature
        self._downloads = downloads
        keys = set()
        for text in config.allowed_keys:
            try:
                keys.add(parse_public(text))
            except InvalidArgument as error:
                log.error("a key that may sign flists is ignored", error=str(error))
        self._keys = frozenset(keys)

    async def signature(self, flist: str) -> bytes | None:
        """What lies beside the flist; None when nobody asks. PermissionDenied: there is none."""
        if not self._required:
            return None
        try:
            path = await self._downloads.fetch(beside(flist, SUFFIX))
        except NotFound:
            raise PermissionDenied(
                f"flist {flist} is not signed, and this node requires signed flists", hint=_HINT
            ) from None
        return await blocking.run("disk", _read, path)

    def check(self, flist: str, signature: bytes | None, ref: ImageRef) -> None:
        """PermissionDenied unless this signature is an allowed key's, of this very flist."""
        if signature is None:
            return
        try:
            key = verify(signature, self._keys, ref.digest, ref.plan.info.get(MERKLE_KEY, ""))
        except PermissionDenied as error:
            raise PermissionDenied(f"flist {flist} is refused: {error.message}", hint=_HINT) from None
        log.info("signed flist", flist=flist, key=key)


@off_loop
def _read(path: str) -> bytes:
    with open(path, "rb") as source:
        return source.read(SIGNATURE_BYTES_MAX + 1)
