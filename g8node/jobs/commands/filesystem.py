"""filesystem.*: files and folders of the node (async); spec core0-protocol 4.3.

Who may change files here is the node's master, and who may read them sees its secrets: all but asking what is
there needs the role admin.
"""

import base64
import binascii
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.jobs.arguments import Name, Path
from g8node.jobs.registry import Context, command

BLOCK_CHARS_MAX: Final = 2 << 20

Mode = Annotated[int, Meta(ge=0, le=0o7777, description="permission bits, e.g. 493 for 0755")]
Handle = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"\A[0-9a-f-]+\Z",
        extra={"kind": "handle"},
        description="of filesystem.open",
    ),
]


class OpenArgs(Struct, frozen=True):
    file: Path
    mode: Annotated[
        Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+"], Meta(description="as Python's open()")
    ]
    perm: Annotated[int, Meta(ge=0, le=0o177777, description="of a new file; only 0777 counts")] = 0o644


@command("filesystem.open", base=True, role="admin")
async def open_(ctx: Context, args: OpenArgs) -> str:
    """Open a file or device; a handle, which closes itself after 5 minutes without a read or write."""
    return await ctx.node.files.open(args.file, args.mode, args.perm)


class HandleArgs(Struct, frozen=True):
    fd: Handle


@command("filesystem.read", base=True, role="admin")
async def read(ctx: Context, args: HandleArgs) -> str:
    """The next 512 KiB or less in base64, empty at the end of the file."""
    return base64.b64encode(await ctx.node.files.read(args.fd)).decode()


class WriteArgs(Struct, frozen=True):
    fd: Handle
    block: Annotated[
        str, Meta(max_length=BLOCK_CHARS_MAX, extra={"kind": "base64"}, description="newlines may be inside")
    ]


@command("filesystem.write", base=True, role="admin")
async def write(ctx: Context, args: WriteArgs) -> None:
    """Write a block of base64 at the handle's place."""
    try:
        data = base64.b64decode("".join(args.block.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"block: expected base64: {error}") from error
    await ctx.node.files.write(args.fd, data)


@command("filesystem.close", base=True, role="admin")
def close(ctx: Context, args: HandleArgs) -> None:
    """Close a handle; one that is not open is fine."""
    ctx.node.files.close(args.fd)


class PathArgs(Struct, frozen=True):
    path: Path


@command("filesystem.mkdir", base=True, role="admin")
async def mkdir(ctx: Context, args: PathArgs) -> None:
    """Make a folder and those above it, mode 0755; one that exists is fine."""
    await ctx.node.files.make_folders(args.path)


@command("filesystem.remove", base=True, role="admin")
async def remove(ctx: Context, args: PathArgs) -> None:
    """Remove a file or a whole folder; a path that does not exist is fine.

    What is mounted inside the folder stays, and is the error then (409).
    """
    await ctx.node.files.remove(args.path)


@command("filesystem.exists", base=True, role="operator")
async def exists(ctx: Context, args: PathArgs) -> bool:
    """Whether the path leads to something; links are followed."""
    return await ctx.node.files.exists(args.path)


@command("filesystem.list", base=True, role="operator")
async def list_(ctx: Context, args: PathArgs) -> list[dict[str, Any]]:
    """What is in a folder, by name: `{name, size, mode, is_dir}`; links are not followed."""
    return await ctx.node.files.list(args.path)


class MoveArgs(Struct, frozen=True):
    path: Path
    destination: Path


@command("filesystem.move", base=True, role="admin")
async def move(ctx: Context, args: MoveArgs) -> None:
    """Rename within one file system; a file at the destination is replaced."""
    await ctx.node.files.move(args.path, args.destination)


class ChmodArgs(Struct, frozen=True):
    path: Path
    mode: Mode
    recursive: bool = False


@command("filesystem.chmod", base=True, role="admin")
async def chmod(ctx: Context, args: ChmodArgs) -> None:
    """Set permission bits; recursive passes over what it cannot change and follows no links."""
    await ctx.node.files.change_mode(args.path, args.mode, recursive=args.recursive)


class ChownArgs(Struct, frozen=True):
    path: Path
    user: Name
    group: Name
    recursive: bool = False


@command("filesystem.chown", base=True, role="admin")
async def chown(ctx: Context, args: ChownArgs) -> None:
    """Set owner and group by name; recursive passes over what it cannot change and follows no links."""
    await ctx.node.files.change_owner(args.path, args.user, args.group, recursive=args.recursive)
