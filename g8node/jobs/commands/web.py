"""web.*: files from elsewhere (async); spec core0-protocol 4.4."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from g8node.jobs.arguments import Path
from g8node.jobs.registry import Context, command
from g8node.node.download import download as fetch

SIZE_MAX: Final = 1 << 40


class DownloadArgs(Struct, frozen=True):
    url: Annotated[
        str,
        Meta(
            max_length=8192,
            pattern=r"\A[Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x20]+\Z",
            extra={"kind": "url"},
            description="http:// or https://",
        ),
    ]
    destination: Path
    max_bytes: Annotated[int, Meta(ge=0, le=SIZE_MAX, description="a larger file is refused")] = 4 << 30


@command("web.download", role="admin")
async def download(ctx: Context, args: DownloadArgs) -> str:
    """Fetch a file; it appears at the destination whole, mode 0660, or not at all."""
    async with ctx.node.files.downloads:
        await fetch(args.url, args.destination, args.max_bytes)
    return args.destination
