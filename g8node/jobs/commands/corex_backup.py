"""corex.backup, corex.restore, corex.flist.create: containers kept elsewhere (async); core0-resources 1."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from g8node.jobs.access import check_role
from g8node.jobs.arguments import ContainerId, Text
from g8node.jobs.commands import corex
from g8node.jobs.model import LOCAL, Role
from g8node.jobs.registry import Context, command
from g8node.node import flisting
from g8node.node.restic import SCHEME, Repository, repository
from g8node.store.locate import is_remote


class BackupArgs(Struct, frozen=True):
    container: ContainerId
    url: Annotated[
        str,
        Meta(
            max_length=4096,
            extra={"kind": "repository"},
            description="/folder?password=word, or rest:, s3:, sftp: ... as restic has it",
        ),
    ]
    tags: Annotated[list[Text], Meta(description="of the snapshot, beside the container's own")] = []


@command("corex.backup")
async def backup(ctx: Context, args: BackupArgs) -> str:
    """Save a container's root in a restic repository that exists; the id of the snapshot.

    The container stands still meanwhile. A repository that is the node's own needs the role admin. A signal
    to the job ends it.
    """
    repo = _allowed(ctx, repository(args.url, field="url"))
    container = corex.live(ctx, args.container)
    corex.check_rights(ctx, container.spec)
    try:
        return await ctx.node.containers.backups.make(container.id, repo, args.tags, ctx.job.attach)
    finally:
        ctx.job.run = None


class RestoreArgs(Struct, frozen=True):
    url: Annotated[
        str,
        Meta(
            max_length=4096,
            extra={"kind": "snapshot"},
            description="/folder?password=word#snapshot, as in corex.backup",
        ),
    ]


@command("corex.restore")
async def restore(ctx: Context, args: RestoreArgs) -> int:
    """Make the container of a snapshot again, with the arguments it had and this command's tags; its id.

    `corex.create` with the root `restic:<url>` takes the files alone.
    """
    repo = _allowed(ctx, repository(args.url, field="url", snapshot=True))
    try:
        spec = await ctx.node.containers.backups.arguments(repo, ctx.job.attach)
    finally:
        ctx.job.run = None
    container, _ = await corex.created(ctx, msgspec.structs.replace(spec, root=f"{SCHEME}{args.url}"))
    return container.id


def _allowed(ctx: Context, repo: Repository) -> Repository:
    if repo.is_the_node_s:
        check_role(ctx.job.request.caller or LOCAL, Role.ADMIN, "url: a repository of the node")
    return repo


class FlistArgs(Struct, frozen=True):
    container: ContainerId
    flist: Annotated[
        str,
        Meta(
            max_length=4095,
            pattern=r"\A/[^\x00]*[^/\x00]\Z",
            extra={"kind": "file inside"},
            description="the file to make, in a folder that exists",
        ),
    ]
    src: Annotated[
        str,
        Meta(
            max_length=4095,
            pattern=r"\A/[^\x00]*\Z",
            extra={"kind": "folder to pack"},
            description="the folder to pack; /: all of the root",
        ),
    ]
    storage: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4096,
            pattern=r"\A[^\x00-\x20]+\Z",
            extra={"kind": "chunk store"},
            description="where the chunks go: host:port of a 0-db, or the URL of a store",
        ),
    ]
    hub: Annotated[
        str,
        Meta(max_length=4096, extra={"kind": "url or empty"}, description="a Hub that gets the flist too"),
    ] = ""
    token: Annotated[str, Meta(max_length=8192, extra={"kind": "hub token"}, description="for the Hub")] = ""


@command("corex.flist.create")
async def flist_create(ctx: Context, args: FlistArgs) -> str:
    """Make an flist of a folder of a container's root; its path on the node.

    The container stands still meanwhile. A store on the node's own disk needs the role admin. A signal to the
    job ends it.
    """
    wanted = flisting.checked(args.src, args.flist, args.storage, args.hub, args.token)
    if not is_remote(wanted.store):
        check_role(ctx.job.request.caller or LOCAL, Role.ADMIN, "storage: a store of the node")
    container = corex.live(ctx, args.container)
    corex.check_rights(ctx, container.spec)
    return await corex.stoppable(ctx, flisting.make(ctx.node.containers, container.id, wanted))
