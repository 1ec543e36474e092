"""From an flist file to a mountable image: EROFS metadata and the chunk plan, cached by digest (blocking).

The kernel parses only what this module wrote from validated records, never an image that came with an flist.
Cache layout: `<cache_dir>/<hex BLAKE2b-256 of the flist file>/{meta.erofs,slots.bin}`, each directory made
under a temporary name and renamed into place; format of slots.bin in `plan.py`. Must not run on the loop.
"""

from dataclasses import dataclass

from g8node.errors import Unavailable
from g8node.flist.plan import ChunkRef, ImagePlan, Kind, Piece
from g8node.linux.guard import off_loop

__all__ = ["ChunkRef", "ImagePlan", "ImageRef", "Kind", "Piece", "prepare"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A prepared image. Its files stay in the cache directory until someone removes the digest's folder."""

    digest: str
    """Hex BLAKE2b-256 of the flist file."""
    directory: str
    plan: ImagePlan


@off_loop
def prepare(flist_path: str, cache_dir: str) -> ImageRef:
    """Unpack, validate and build unless the cache has it.

    InvalidArgument names what is wrong with the flist; OSError for the file system; a damaged cache entry is
    rebuilt. Two callers at once do the work twice and share one result.
    """
    raise Unavailable("the image builder is not there yet")
