"""Packing in other ways, and conversions between all formats with their chunks."""

import hashlib
import io
import json
import os
import random
import tarfile
from pathlib import Path

import cramjam
import pytest

from g8node.errors import Conflict, FailedPrecondition, InvalidArgument
from g8node.flist.container import Format, read_flist
from g8node.flist.convert import convert
from g8node.flist.image import build
from g8node.flist.pack import PackOptions, pack
from g8node.flist.tree import Flist, walk
from g8node.flist.verify import verify
from g8node.runtime import blocking
from g8node.wire.flist import Codec
from g8node.wire.ignore import Ignore
from tests.support.trees import DictStore

CHUNK = 512 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files of whole seconds without anything that the original cannot hold."""
    top = tmp_path / "source"
    (top / "d").mkdir(parents=True)
    (top / "small").write_bytes(b"hello")
    (top / "empty").touch()
    (top / "d" / "big").write_bytes(random.Random(1).randbytes(CHUNK + 100) + bytes(CHUNK))
    with (top / "hole").open("wb") as hole:
        hole.truncate(CHUNK + 9)
    (top / "link").symlink_to("small")
    for path in [*top.rglob("*"), top]:
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return top


async def read(path: Path) -> Flist:
    return await blocking.run("cpu", read_flist, str(path))


async def packed(source: Path, out: Path, store: DictStore, **options: object) -> Flist:
    await pack(str(source), str(out), store, PackOptions(**options))  # type: ignore[arg-type]
    return await read(out)


async def contents(flist: Flist, store: DictStore) -> dict[bytes, bytes]:
    """Every file's bytes, fetched, decoded and put together by the plan of its image."""
    plan, _ = await blocking.run("cpu", build, flist)
    found = {}
    for path, node in walk(flist.root):
        if not node.is_file:
            continue
        parts = []
        ids = bytes(node.blocks.ids)
        refs = {plan.chunk(n).id: plan.chunk(n) for n in range(plan.chunk_count)}
        for at, size in enumerate(node.blocks.sizes):
            id = ids[32 * at : 32 * at + 32]
            ref = refs.get(id)  # type: ignore[call-overload]
            parts.append(ref.decode(store.chunks[ref.stored_as]) if ref else bytes(size))
        found[path] = b"".join(parts)
    return found


def sources(top: Path) -> dict[bytes, bytes]:
    return {
        os.fsencode(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize("forms", [("v2",), ("v3",), ("v2", "v3", "g8"), ("v3", "v2"), ("g8",)])
async def test_conversions_keep_every_byte(source: Path, tmp_path: Path, forms: tuple[Format, ...]) -> None:
    store = DictStore()
    flist = await packed(source, tmp_path / "x", store)
    for number, form in enumerate(forms):
        out = tmp_path / f"y{number}"
        await convert(flist, str(out), form, source=store, target=store, lossy=True)
        flist = await read(out)
        assert flist.version == form
        assert await contents(flist, store) == sources(source)
    plan, _ = await blocking.run("cpu", build, flist)
    assert (await verify(plan, store, content=True)).findings == []


async def test_v2_chunks_stand_in_our_container_as_they_are(source: Path, tmp_path: Path) -> None:
    store = DictStore()
    flist = await packed(source, tmp_path / "x", store)
    await convert(flist, str(tmp_path / "v2"), "v2", source=store, target=store, lossy=True)
    done = await convert(await read(tmp_path / "v2"), str(tmp_path / "g8"), "g8")
    got = await read(tmp_path / "g8")
    assert done.chunks == 0
    assert {node.blocks.codec for _, node in walk(got.root) if node.blocks.sizes} == {Codec.V2}
    assert await contents(got, store) == sources(source)


async def test_loss_is_refused_and_listed(source: Path, tmp_path: Path) -> None:
    os.utime(source / "small", ns=(1, 5 * 10**9 + 1))
    os.link(source / "small", source / "twin")
    (source / os.fsdecode(b"\xff")).touch()
    store = DictStore()
    flist = await packed(source, tmp_path / "x", store)
    with pytest.raises(FailedPrecondition, match=r"v3 cannot hold: .*hard links .*/twin") as caught:
        await convert(flist, str(tmp_path / "y"), "v3", source=store, target=store)
    assert "--lossy" in caught.value.hint
    assert not (tmp_path / "y").exists()
    done = await convert(flist, str(tmp_path / "y"), "v3", source=store, target=store, lossy=True)
    assert set(done.losses) >= {"hard links", "nanoseconds", "names that are not UTF-8"}


async def test_conversion_without_a_store_says_so(source: Path, tmp_path: Path) -> None:
    flist = await packed(source, tmp_path / "x", DictStore())
    with pytest.raises(InvalidArgument) as caught:
        await convert(flist, str(tmp_path / "y"), "v2", lossy=True)
    assert "--store" in caught.value.hint


async def test_lost_chunk_stops_a_conversion(source: Path, tmp_path: Path) -> None:
    store = DictStore()
    flist = await packed(source, tmp_path / "x", store)
    store.chunks.clear()
    with pytest.raises(Exception, match="chunk"):
        await convert(flist, str(tmp_path / "y"), "v2", source=store, target=store, lossy=True)
    assert not (tmp_path / "y").exists()


async def test_files_cut_by_content(source: Path, tmp_path: Path) -> None:
    store = DictStore()
    flist = await packed(source, tmp_path / "x", store, by_content=True)
    big = ((flist.root.children or {})[b"d"].children or {})[b"big"]
    assert (big.blocks.block_size, sum(big.blocks.sizes)) == (0, big.size)
    assert await contents(flist, store) == sources(source)
    await convert(flist, str(tmp_path / "y"), "v2", source=store, target=store, lossy=True)
    assert await contents(await read(tmp_path / "y"), store) == sources(source)


async def test_packing_twice_gives_one_file(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        await packed(source, tmp_path / name, DictStore())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", ["folder", "tar"])
async def test_ignored_paths_are_left_out(source: Path, tmp_path: Path, kind: str) -> None:
    path = source
    if kind == "tar":
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(source, ".")
    flist = await packed(path, tmp_path / "y", DictStore(), ignore=Ignore(["/d/", "*pty", "!link"]))
    assert sorted(flist.root.children or {}) == [b"hole", b"link", b"small"]


def blob(layout: Path, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def layer(*names: str, mode: str = "w:gz", **files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in [*((name, b"") for name in names), *files.items()]:
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Two layers, gzip and zstd: the second replaces, whites out, and empties a directory."""
    layout = tmp_path / "image"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    config = {"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "Env": ["A=b=c"], "WorkingDir": "/w"}
    layers = [
        layer(etc__a=b"1", etc__b=b"1", gone=b"1", d__x=b"1", d__y=b"1"),
        layer(".wh.gone", "d/.wh..wh..opq", mode="w", etc__b=b"2", d__z=b"2"),
    ]
    layers[1] = bytes(cramjam.zstd.compress(layers[1]))
    manifest = {
        "config": blob(layout, json.dumps({"config": config}).encode()),
        "layers": [blob(layout, data) for data in layers],
    }
    other = {"digest": f"sha256:{'0' * 64}", "platform": {"os": "plan9", "architecture": "mips"}}
    index = {"manifests": [other, blob(layout, json.dumps(manifest).encode())]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


async def test_oci_layout_is_packed(image: Path, tmp_path: Path) -> None:
    store = DictStore()
    flist = await packed(image, tmp_path / "x", store)
    assert await contents(flist, store) == {b"etc/a": b"1", b"etc/b": b"2", b"d/z": b"2"}
    info = dict(flist.info)
    del info["merkle"]
    assert {key: json.loads(value) if value[0] in "[{" else value for key, value in info.items()} == {
        "entrypoint": ["/bin/sh", "-c", "true"],
        "environ": {"A": "b=c"},
        "workdir": "/w",
    }


async def test_layer_replaces_a_folder_of_the_layers_below(image: Path, tmp_path: Path) -> None:
    """As `rm -r etc && ln -s d etc` of a build step leaves it; and a hard link as kaniko writes it."""
    upper = layer(d__w=b"3")
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as archive:
        for name, kind, target in (("etc", tarfile.SYMTYPE, "d"), ("hard", tarfile.LNKTYPE, "/d/z")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    add_layers(image, [out.getvalue(), upper])
    store = DictStore()
    flist = await packed(image, tmp_path / "x", store)
    assert await contents(flist, store) == {b"d/w": b"3", b"d/z": b"2", b"hard": b"2"}
    names = flist.root.children or {}
    assert (names[b"etc"].target, names[b"hard"]) == (b"d", (names[b"d"].children or {})[b"z"])


async def test_layer_that_replaces_its_own_folder_is_refused(image: Path, tmp_path: Path) -> None:
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.REGTYPE):
            member = tarfile.TarInfo("etc")
            member.type = kind
            archive.addfile(member)
    add_layers(image, [out.getvalue()])
    with pytest.raises(InvalidArgument, match="replaces a directory"):
        await packed(image, tmp_path / "x", DictStore())


def add_layers(layout: Path, layers: list[bytes]) -> None:
    """On top of those that the image has."""
    index = json.loads((layout / "index.json").read_text())
    known = layout / "blobs" / "sha256" / index["manifests"][1]["digest"].removeprefix("sha256:")
    manifest = json.loads(known.read_text())
    manifest["layers"] += [blob(layout, data) for data in layers]
    index["manifests"][1] = blob(layout, json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps(index))


async def test_layer_that_was_changed_is_refused(image: Path, tmp_path: Path) -> None:
    manifest = json.loads((image / "index.json").read_text())["manifests"][1]["digest"][7:]
    layers = json.loads((image / "blobs" / "sha256" / manifest).read_text())["layers"]
    (image / "blobs" / "sha256" / layers[1]["digest"][7:]).write_bytes(b"other")
    with pytest.raises(InvalidArgument, match="does not match its digest"):
        await packed(image, tmp_path / "x", DictStore())


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "no JSON object"),
        ("{}", "manifests: expected a list"),
        ('{"manifests": [{"digest": "md5:1"}]}', "sha256 digest"),
        ('{"manifests": [{"digest": "sha256:../../../../etc/passwd"}]}', "sha256 digest"),
        (f'{{"manifests": [{{"digest": "sha256:{"0" * 64}"}}]}}', "is not in the layout"),
    ],
)
async def test_layout_that_lies_is_refused(image: Path, tmp_path: Path, index: str, message: str) -> None:
    (image / "index.json").write_text(index)
    with pytest.raises(InvalidArgument, match=message):
        await packed(image, tmp_path / "x", DictStore())


async def test_file_that_shrinks_while_it_is_cut_is_a_conflict(source: Path, tmp_path: Path) -> None:
    from g8node.flist.source import How
    from g8node.flist.source_dir import DirectorySource

    opened = DirectorySource(str(source), How(by_content=True))
    (source / "d" / "big").write_bytes(b"short")
    with pytest.raises(Conflict, match="changed"):
        await blocking.run("disk", lambda: list(opened.parts()))
