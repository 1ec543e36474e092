"""router.yaml and [xx-xx=]url: what the original's tests ask, and what strangers may try."""

import pytest

from g8node.errors import InvalidArgument
from g8node.wire import router
from g8node.wire.router import EVERY, Range, Router, Rule

SIMPLE = "pools:\n  hub:\n    00:ff: ardb://destination\n\nlookup:\n  - hub\n"
FULL = """
pools:
  hub: {00:ff: 'ardb://user:pw@remote:16379'}
  local:
    10:20: zdb://local:9900
    3: redis://other
lookup: [local, hub]
cache:
  - local
"""


@pytest.mark.parametrize(
    ("text", "id", "inside"),
    [
        ("1C", "1cabc0", True),
        ("1C", "00", False),
        ("1C", "", False),
        ("1", "10ff", True),
        ("1", "11", False),
        ("01:c1", "01", True),
        ("01:c1", "c1ff", True),
        ("01:c1", "c2", False),
        ("01:c1", "00", False),
        ("0100:c100", "c1", False),
    ],
)
def test_range_holds_ids(text: str, id: str, inside: bool) -> None:
    assert (bytes.fromhex(id) in router.parse_range(text)) is inside


@pytest.mark.parametrize("text", ["", "00:FFA", "zz", "c1:01", "1:2:3", " 00"])
def test_range_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="range"):
        router.parse_range(text)


def test_every_id_is_in_the_widest_range() -> None:
    assert b"\xff" * 16 in EVERY


def test_router_simple() -> None:
    got = router.parse_router(SIMPLE)
    assert got == Router({"hub": (Rule(Range(b"\0", b"\xff"), "ardb://destination"),)}, ("hub",))


def test_router_full_reads_ranges_as_text() -> None:
    got = router.parse_router(FULL.encode())
    assert (got.lookup, got.cache) == (("local", "hub"), ("local",))
    assert [str(rule.range) for rule in got.pools["local"]] == ["10:20", "30"]


def test_router_text_round_trip() -> None:
    got = router.parse_router(FULL)
    assert router.parse_router(router.format_router(got)) == got


def test_router_merged_renames_pools() -> None:
    got = router.merged([router.parse_router(SIMPLE), router.parse_router(FULL)])
    assert got.lookup == ("0.hub", "1.local", "1.hub")
    assert got.cache == ("1.local",)
    assert set(got.pools) == {"0.hub", "1.hub", "1.local"}


def test_stripped_router_has_no_credentials() -> None:
    text = router.format_router(router.stripped(router.parse_router(FULL)))
    assert "ardb://remote:16379" in text
    assert "pw" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pools"),
        ("[]", "pools"),
        ("pools: {}\nlookup: []", "lookup"),
        ("pools: {a: {00: 'zdb://x'}}\nlookup: [b]", "no pool 'b'"),
        ("pools: {a: {00: 'zdb://x'}}\nlookup: [a]\ncache: [c]", "no pool 'c'"),
        ("pools: {a: {'00:FFA': 'zdb://x'}}\nlookup: [a]", "differ in length"),
        ("pools: {a: {00: 'nothing'}}\nlookup: [a]", "no URL"),
        ("pools: {a: {00: [x]}}\nlookup: [a]", "range: url"),
        ("pools: {a: [x]}\nlookup: [a]", "mapping of ranges"),
        ("pools: &x {a: {00: 'zdb://x'}}\nlookup: [a]", "anchors"),
        ("pools: !!python/object:os.system {}\nlookup: [a]", "tags"),
        ("pools: {a: {b: {c: {d: {}}}}}\nlookup: [a]", "deeply"),
        ("pools: [", "router.yaml"),
        ("\0", "router.yaml"),
        ("x" * (65 << 10), "limit"),
        ("pools: {" + ",".join(f"p{n}: {{}}" for n in range(65)) + "}\nlookup: [p1]", "over 64"),
    ],
)
def test_router_refuses(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        router.parse_router(text)


def test_store_with_a_shard() -> None:
    rule = router.parse_store("00-7f=zdb://user@host:9900/ns")
    assert rule == Rule(Range(b"\x00", b"\x7f"), "zdb://user@host:9900/ns")
    assert router.format_store(rule) == "00-7f=zdb://user@host:9900/ns"


def test_store_without_a_shard() -> None:
    rule = router.parse_store("dir:///a=b")
    assert (rule.range, router.format_store(rule)) == (EVERY, "dir:///a=b")


@pytest.mark.parametrize("text", ["", "7f-00=zdb://h", "nothing", "00-7f=", "http://[", "zdb://h:99999999"])
def test_store_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument):
        router.parse_store(text)


def test_range_of_two_bytes_is_no_shard() -> None:
    with pytest.raises(InvalidArgument, match="first byte"):
        router.format_store(Rule(router.parse_range("0000:00ff"), "dir:///x"))


@pytest.mark.parametrize(
    ("url", "shown", "secret"),
    [
        ("zdb://user:pw@host:9900/ns", "zdb://host:9900/ns", True),
        ("s3://k:s@host/bucket?region=eu&token=x", "s3://host/bucket?region=eu", True),
        ("server://http://host?token=abc", "server://http://host", True),
        ("dir:///data", "dir:///data", False),
    ],
)
def test_credentials_are_taken_off(url: str, shown: str, secret: bool) -> None:
    assert router.has_credentials(url) is secret
    assert router.without_credentials(url) == shown


def test_of_stores_asks_one_pool() -> None:
    rule = router.parse_store("dir:///x")
    assert router.of_stores([rule]) == Router({"stores": (rule,)}, ("stores",))
