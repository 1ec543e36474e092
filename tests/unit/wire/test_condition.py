"""The condition grammar of boot services: values, errors that name a position, and no crash on anything."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.wire import condition

PRESENT = {"development", "zerotier", "user-input", "a_1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("true", True),
        ("false", False),
        ("development", True),
        ("debug", False),
        ("not(debug)", True),
        ("not(development)", False),
        ("or(debug, support)", False),
        ("or(debug, zerotier)", True),
        ("and(development,zerotier)", True),
        ("and(development,debug)", False),
        (" and (true, or( not(user-input) , false ) )", False),
        (" and (true, or( not(user-output) , false ) )", True),
        ("not(debug, support)", False),
        ("not()", False),
        ("and()", True),
        ("or()", False),
        ("a_1", True),
        ("and", False),
        ("not(and(or(zerotier)))", False),
    ],
)
def test_condition_holds(text: str, expected: bool) -> None:
    assert condition.parse(text).holds(PRESENT) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("and(a", "expected ',' or '\\)' at character 6, not the end"),
        ("and(a,)", "expected a word at character 7, not '\\)'"),
        ("a b", "expected the end at character 3, not 'b'"),
        ("a)", "expected the end at character 2"),
        ("a & b", "expected the end at character 3, not '&'"),
        ("xor(a)", "unknown function 'xor'.*expected and, or, not"),
        ("true(a)", "unknown function 'true'"),
        (",", "expected a word at character 1"),
        ("not(" * 100 + ")" * 100, "nested deeper than"),
        ("a" * 5000, "5000 characters, expected at most 4096"),
    ],
)
def test_condition_that_does_not_parse_says_where(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        condition.parse(text)


@settings(max_examples=40, deadline=None)
@given(st.text() | st.text(alphabet="andortfl(), -x"))
def test_condition_parser_takes_or_refuses_any_text(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert condition.parse(text).holds(PRESENT) in (True, False)


def _expressions() -> st.SearchStrategy[tuple[str, bool]]:
    words = st.sampled_from([("true", True), ("false", False), ("zerotier", True), ("debug", False)])

    def calls(inner: st.SearchStrategy[tuple[str, bool]]) -> st.SearchStrategy[tuple[str, bool]]:
        return st.tuples(st.sampled_from(["and", "or", "not"]), st.lists(inner, max_size=3)).map(_call)

    return st.recursive(words, calls, max_leaves=8)


def _call(parts: tuple[str, list[tuple[str, bool]]]) -> tuple[str, bool]:
    name, arguments = parts
    values = [value for _, value in arguments]
    truth = {"and": all(values), "or": any(values), "not": values == [False]}[name]
    return f" {name} ( {' , '.join(text for text, _ in arguments)} ) ", truth


@settings(max_examples=40, deadline=None)
@given(_expressions())
def test_condition_means_what_it_says(expression: tuple[str, bool]) -> None:
    text, expected = expression
    assert condition.parse(text).holds(PRESENT) is expected
