"""Flists of every generation, mounted; and a node that requires signatures."""

import asyncio
import errno
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, PermissionDenied
from g8node.flist.container import Format, read_flist, write_flist
from g8node.flist.convert import convert
from g8node.flist.image import prepare
from g8node.flist.merkle import check, sealed
from g8node.flist.pack import PackOptions, pack
from g8node.flist.signature import load_key, new_key, public_hex, sign
from g8node.flist.tree import Flist, walk
from g8node.flist.tree import Node as Inode
from g8node.runtime import blocking
from g8node.store.local import LocalStore
from g8node.wire.codecs import encode, stored_as
from g8node.wire.flist import ABSENT_ID, Codec
from tests.support.chunks import digests
from tests.support.daemon import daemon
from tests.support.mounted import TREE_IN_SOAK, Node, in_child, open_mounts
from tests.support.rootfs import make_rootfs

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.usefixtures("view"), TREE_IN_SOAK]


async def tree_of(path: str) -> dict[str, str]:
    return await blocking.run("path", digests, path)


async def attached(node: Node, flist: Path, name: str) -> str:
    target = str(node.tmp / name)
    await node.mounts.attach(str(flist), target, storage=f"dir://{node.tmp}/chunks")
    return target


async def as_v1(node: Node, flist: Flist) -> Flist:
    """The flist with its chunks as 2017 kept them."""
    store = LocalStore(str(node.tmp / "chunks"))
    for path, inode in walk(flist.root):
        if not inode.is_file or not inode.size:
            continue
        data = await node.read(f"{node.tree}/{path.decode()}")
        made = [encode(Codec.V1, data[at : at + 524288]) for at in range(0, len(data), 524288)]
        await store.put_many({stored_as(Codec.V1, one.id): one.stored for one in made})
        blocks = inode.blocks
        blocks.ids, blocks.keys = b"".join(m.id for m in made), b"".join(m.key for m in made)
        blocks.codec = Codec.V1
    return Flist(flist.root, {})


@in_child(stalls=True)
async def test_every_format_shows_the_same_tree(node: Node) -> None:
    store = LocalStore(str(node.tmp / "chunks"))
    expected = await tree_of(str(node.tree))
    flist = await blocking.run("cpu", read_flist, node.flist)
    forms: list[Format] = ["v2", "v3", "g8"]
    for form in forms:
        out = node.tmp / f"{form}.flist"
        await convert(flist, str(out), form, source=store, target=store, lossy=True)
        assert await tree_of(await attached(node, out, form)) == expected
    out = node.tmp / "content.flist"
    await pack(str(node.tree), str(out), store, PackOptions(by_content=True))
    assert await tree_of(await attached(node, out, "content")) == expected
    old = await as_v1(node, await blocking.run("cpu", read_flist, node.flist))
    await blocking.run("cpu", write_flist, old, str(node.tmp / "v1.flist"))
    assert await tree_of(await attached(node, node.tmp / "v1.flist", "v1")) == expected


def lose_last_chunk(inode: Inode) -> None:
    blocks = inode.blocks
    blocks.ids = bytes(blocks.ids)[:-32] + ABSENT_ID
    blocks.keys = bytes(blocks.keys)[:-32] + ABSENT_ID


@in_child(stalls=True)
async def test_forgotten_chunk_is_an_error_and_no_zeros(node: Node) -> None:
    store = LocalStore(str(node.tmp / "chunks"))
    flist = await blocking.run("cpu", read_flist, node.flist)
    v2 = node.tmp / "v2.flist"
    await convert(flist, str(v2), "v2", source=store, target=store, lossy=True)
    old = await blocking.run("cpu", read_flist, str(v2))
    lose_last_chunk((old.root.children or {})[b"size524289"])
    await blocking.run("cpu", write_flist, old, str(v2), "v2")
    target = await attached(node, v2, "v2")
    name = f"{target}/size524289"
    assert len(await node.read(name, 0, 524288)) == 524288
    with pytest.raises(OSError) as caught:
        await node.read(name, 524288, 1)
    assert caught.value.errno == errno.EIO
    assert len(await node.read(f"{target}/size524288")) == 524288


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def read(path: Path) -> bytes:
    return path.read_bytes()


async def signing(node: Node, *keys: str) -> None:
    """Mounts that require signatures by these keys."""
    await node.mounts.close()
    node.mounts = open_mounts(node.tmp, require_signature=True, allowed_keys=keys)
    await node.mounts.start()


@in_child(stalls=True)
async def test_node_that_requires_signatures(node: Node) -> None:
    key = load_key(new_key())
    flist, signature = Path(node.flist), Path(node.flist + ".sig")
    await signing(node, "no key", public_hex(key))
    with pytest.raises(PermissionDenied, match="is not signed, and this node requires"):
        await node.attach("unsigned")
    ref = await blocking.run("cpu", prepare, node.flist, str(node.tmp / "other"))
    merkle = bytes.fromhex(ref.plan.info["merkle"])
    write(signature, sign(load_key(new_key()), bytes.fromhex(ref.digest), merkle))
    with pytest.raises(PermissionDenied, match="not among the allowed keys"):
        await node.attach("stranger")
    write(signature, sign(key, bytes.fromhex(ref.digest), merkle))
    assert await tree_of(await node.attach("signed")) == await tree_of(str(node.tree))
    write(flist, read(flist) + b"\0")
    with pytest.raises((PermissionDenied, InvalidArgument)):
        await node.attach("changed")


@in_child(stalls=True)
async def test_changed_metadata_is_found_at_mount(node: Node) -> None:
    flist = sealed(await blocking.run("cpu", read_flist, node.flist))
    (flist.root.children or {})[b"size4097"].mode |= 0o4000
    await blocking.run("cpu", write_flist, flist, node.flist)
    with pytest.raises(InvalidArgument, match="the flist was changed"):
        await node.attach()


def test_container_of_an_unsigned_flist_does_not_start(tmp_path: Path) -> None:
    key = load_key(new_key())
    flist = tmp_path / "x.flist"
    chunks = f"dir://{tmp_path}/chunks"

    async def packed() -> bytes:
        result = await pack(str(make_rootfs(tmp_path / "tree")), str(flist), LocalStore(chunks[6:]))
        root = check(await blocking.run("cpu", read_flist, str(flist)))
        return sign(key, bytes.fromhex(result.digest), root)

    signature = asyncio.run(packed())
    config = f'[g8ufs]\nrequire_signature = true\nallowed_keys = ["{public_hex(key)}"]\n'
    start = {"root": str(flist), "storage": chunks, "nics": [], "command": "echo hi"}
    with daemon(tmp_path / "agent", config) as node:
        refused = node.job("corex.create", start)
        assert (refused["state"], refused["code"]) == ("ERROR", 403)
        assert "is not signed, and this node requires signed flists" in refused["data"]
        Path(f"{flist}.sig").write_bytes(signature)
        assert node.job("corex.create", start)["state"] == "SUCCESS"
