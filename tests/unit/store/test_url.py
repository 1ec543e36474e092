"""Addresses of chunk stores: parts, credentials, and messages that never contain them."""

import pytest

from g8node.errors import InvalidArgument
from g8node.store.cluster import slot_of
from g8node.store.locate import PORTS, open_store
from g8node.store.stores import Stores
from g8node.store.url import parse_url


def test_url_parts_are_decoded() -> None:
    url = parse_url("redis+tls://us%3Aer:p%40ss%2F@[::1]:7000,b/3?hash=a%20b&timeout=2", ports=PORTS)
    assert (url.scheme, url.tls, url.user, url.password) == ("redis", True, "us:er", "p@ss/")
    assert url.hosts == (("::1", 7000), ("b", 6379))
    assert url.path == "/3"
    assert dict(url.options) == {"hash": "a b", "timeout": "2"}
    assert url.name == "redis+tls://[::1]:7000,b/3"
    assert "p@ss" not in repr(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:secret@host:99999",
        "redis://u:secret@host/name",
        "redis://u:secret@a,b",
        "redis://u:sec/secret@host",
        "redis://u:secret@host?nothing=1",
        "redis://u:secret@host?timeout=secret2",
        "redis://u:secret@host?connections=0",
        "zdb://u:secret@host?hash=x",
        "redis+cluster://u:secret@",
        "ftp://u:secret@host",
        "redis://u:secret@[::1",
        "redis://u:sec?:secret@host",
        "redis://u:sec[:secret@host",
        "u:secret@host",
        "http+tls://u:secret@host",
    ],
)
def test_url_that_is_wrong_is_named_without_its_password(url: str) -> None:
    with pytest.raises(InvalidArgument, match="chunk store") as caught:
        open_store(url)
    assert ":secret" not in str(caught.value)
    assert "u:" not in str(caught.value)
    with pytest.raises(InvalidArgument) as caught:
        Stores().open(f"00-7f={url}")
    assert "secret" not in str(caught.value).removesuffix("secret2', expected seconds up to 3600")
    assert "u:" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"123456789", 0x31C3), (b"{user1000}.following", slot_of(b"user1000")), (b"foo{}{bar}", None)],
)
def test_slot_is_that_of_the_cluster_specification(key: bytes, slot: int | None) -> None:
    assert slot_of(key) == (slot if slot is not None else slot_of(b"foo{}{bar}"))


def test_slot_of_an_empty_tag_is_the_whole_keys() -> None:
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"foo{bar}{zap}") == slot_of(b"bar")
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")
