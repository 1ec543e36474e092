"""Where the chunks of an flist are looked for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from g8node.errors import InvalidArgument, NotFound
from g8node.flist.image import ImageRef
from g8node.g8ufs.sources import shown, sources
from g8node.wire.router import Router, parse_router

HUB = "http://hub:1/demo/x.flist"


@dataclass
class Plan:
    """What `sources` reads of an image's plan."""

    info: dict[str, str] = field(default_factory=dict)
    router: Router | None = None
    chunk_count: int = 1


def ref(**plan: Any) -> ImageRef:
    return cast(ImageRef, type("Ref", (), {"plan": Plan(**plan)})())


async def asked(flist: str, storage: str = "", **plan: Any) -> str:
    return shown(await sources(flist, storage, ref(**plan)))


async def test_hub_of_the_flist_has_its_chunks() -> None:
    assert await asked(HUB) == "http://hub:1"


async def test_storage_that_was_given_is_all_that_is_asked() -> None:
    given = "00-7f=redis://:word@a dir:///b"
    assert await asked(HUB, given, info={"backend": "zdb://c"}) == "00:7f=redis://a dir:///b"


async def test_router_then_backend_then_hub() -> None:
    router = parse_router("{pools: {p: {'00:ff': 'zdb://a/n'}}, lookup: [p]}")
    got = await asked(HUB, router=router, info={"backend": "redis://b"})
    assert got == "00:ff=zdb://a/n redis://b http://hub:1"


async def test_original_backend_is_a_zdb() -> None:
    backend = '{"host": "h", "port": 9900, "namespace": "n s", "password": "p@"}'
    router = await sources("/local.flist", "", ref(info={"backend": backend}))
    assert router is not None
    assert router.pools["0.stores"][0].url == "zdb://:p%40@h:9900/n%20s"
    assert shown(router) == "zdb://h:9900/n%20s"


@pytest.mark.parametrize(
    "backend", ["{", "[]", '{"host": 1}', '{"host": "h", "port": null}', "dir:///etc", "ftp://x"]
)
async def test_backend_that_is_none_is_passed_over(backend: str) -> None:
    assert await asked(HUB, info={"backend": backend}) == "http://hub:1"


async def test_stranger_can_name_neither_our_files_nor_stores_to_write_to() -> None:
    pools = "p: {'00:ff': 'dir:///etc', '00:0f': 'redis://a'}, q: {'00:ff': 'redis://b'}"
    text = f"{{pools: {{{pools}}}, lookup: [p], cache: [q]}}"
    router = await sources(HUB, "", ref(router=parse_router(text)))
    assert router is not None
    assert shown(router) == "00:0f=redis://a http://hub:1"
    assert router.cache == ()


async def test_router_of_ours_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text("{pools: {p: {'00:ff': 'dir:///b'}}, lookup: [p], cache: [p]}")
    router = await sources(HUB, f"redis://a router://{path}", ref())
    assert shown(router) == "redis://a 00:ff=dir:///b"
    assert router is not None
    assert router.cache == ("1.p",)


async def test_router_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no such file"):
        await sources(HUB, f"router://{tmp_path}/none", ref())
    with pytest.raises(InvalidArgument, match="expected router:///path"):
        await sources(HUB, "router://relative", ref())
    (tmp_path / "large").write_text("x" * 70_000)
    with pytest.raises(InvalidArgument, match="larger than"):
        await sources(HUB, f"router://{tmp_path}/large", ref())


async def test_local_flist_without_a_store_is_refused_unless_it_needs_none() -> None:
    with pytest.raises(InvalidArgument, match="no chunk store is known"):
        await sources("/x.flist", "", ref())
    assert await sources("/x.flist", "", ref(chunk_count=0)) is None
