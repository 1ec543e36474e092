"""The kernel command line: words, quotes, repeats."""

import pytest

from g8node.wire import cmdline


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("quiet debug\n", [("quiet", ""), ("debug", "")]),
        ("a=1 a=2", [("a", "1"), ("a", "2")]),
        ('x="two words" y', [("x", "two words"), ("y", "")]),
        ("url=http://h/?a=b", [("url", "http://h/?a=b")]),
        ("a= =b", [("a", ""), ("", "b")]),
        ('broken="never closed', [("broken", "never"), ("closed", "")]),
    ],
)
def test_parse_words(text: str, pairs: list[tuple[str, str]]) -> None:
    assert cmdline.parse(text) == pairs


def test_last_value_wins_and_all_are_kept() -> None:
    pairs = cmdline.parse("o=1 o=2")
    assert cmdline.last(pairs) == {"o": "2"}
    assert cmdline.every(pairs, "o") == ["1", "2"]
