"""Names that cannot leave their folder."""

import pytest

from g8node.errors import InvalidArgument
from g8tools.hub import names

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "a\0b",
    "a\nb",
    "-x",
    ".hidden",
    "x" * 200,
    "Ä",
    "a b",
    "a\\b",
    "a%2fb",
]


@pytest.mark.parametrize("name", ["demo", "a.b-c_d", "0", "x" * 63])
def test_repository_names_are_taken(name: str) -> None:
    assert names.repository(name) == name


@pytest.mark.parametrize("name", [*HOSTILE, "api", "chunks", "me", "x.flist", "demo\n"])
def test_hostile_repository_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="repository "):
        names.repository(name)


@pytest.mark.parametrize("name", ["debian.flist", "a+b@1~2_c-d.flist"])
def test_flist_names_are_taken(name: str) -> None:
    assert names.flist(name) == name


@pytest.mark.parametrize(
    "name", [*HOSTILE, "x", ".flist", "x.flist.md5", "../x.flist", "a/b.flist", "x.flist\n"]
)
def test_hostile_flist_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="flist name "):
        names.flist(name)


def test_messages_quote_a_hostile_name_harmlessly() -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.flist("\x1b[31m\n" + "é" * 500)
    assert caught.value.message.isascii() is False or "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


def test_chunk_names_are_hex() -> None:
    assert names.chunk("0f" * 32) == b"\x0f" * 32


@pytest.mark.parametrize("name", ["", "0f", "0F" * 32, "zz" * 32, "0f" * 33, "../" * 21 + "a"])
def test_wrong_chunk_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="lower-case hex digits"):
        names.chunk(name)
