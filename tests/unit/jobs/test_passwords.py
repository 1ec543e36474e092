"""The password file: roles, several passwords, what is refused."""

import pytest

from g8node.errors import InvalidArgument
from g8node.jobs.model import Caller
from g8node.jobs.passwords import find, parse


def test_password_alone_is_an_admin_s() -> None:
    assert [*parse(b"correct horse\n")] == [(b"correct horse", Caller("password", "admin"))]


def test_passwords_with_roles_are_callers_of_their_own() -> None:
    entries = parse(b"admin:a\noperator: b \r\n\nreader:c\nreader:d:e\nbare\n")
    assert [(entry.secret, entry.caller.name, entry.caller.role) for entry in entries] == [
        (b"a", "password", "admin"),
        (b"b", "password:operator", "operator"),
        (b"c", "password:reader", "reader"),
        (b"d:e", "password:reader:2", "reader"),
        (b"bare", "password:2", "admin"),
    ]


def test_password_with_another_word_before_a_colon_is_bare() -> None:
    assert find(parse(b"root:x"), b"root:x") == Caller("password", "admin")
    assert find(parse(b"root:x"), b"x") is None


@pytest.mark.parametrize("text", [b"", b"\n \n"])
def test_password_file_without_a_password_has_no_entries(text: bytes) -> None:
    assert parse(text) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [(b"good\nreader:\n", "line 2"), (b"admin: ", "line 1"), (b"x" * 20_000, "longer"), (b"x\n" * 65, "64")],
)
def test_password_file_that_is_wrong_is_refused_by_line(text: bytes, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        parse(text)


def test_password_is_found_only_whole() -> None:
    entries = parse(b"reader:abc\nadmin:abcd")
    assert find(entries, b"abcd") == Caller("password", "admin")
    for wrong in (b"", b"ab", b"abcde", b"reader:abc", b"ABC"):
        assert find(entries, wrong) is None
