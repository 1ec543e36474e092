"""The end of a JSON object in a stream."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.wire.jsonend import ObjectEnd

OBJECTS = [
    {},
    {"a": 1},
    {"a": {"b": [1, {"c": "}"}]}, "d": '"{'},
    {"a": "\\", "b": '\\"', "c": "]]]", "ä": "\u2028"},
]


@pytest.mark.parametrize("value", OBJECTS)
def test_end_does_not_depend_on_the_pieces(value: object) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    for before in (b"", b" \n\t"):
        stream = before + data + b"} trailing"
        for cut in range(len(stream)):
            end = ObjectEnd()
            found = end.feed(stream[:cut])
            length = found if found is not None else cut + (end.feed(stream[cut:]) or 0)
            assert stream[:length] == before + data


@pytest.mark.parametrize("data", [b"x", b"[]", b' "a"', b"}", b"1"])
def test_other_values_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected a JSON object"):
        ObjectEnd().feed(data)


TEXTS = st.text(max_size=20) | st.sampled_from(['"', "\\", "}{", '\\"', "]"])
VALUES = st.recursive(
    TEXTS | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4), st.binary(max_size=8), st.data())
def test_end_is_where_json_ends(value: dict[str, object], rest: bytes, data: st.DataObject) -> None:
    whole = json.dumps(value).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    end = ObjectEnd()
    assert end.feed(whole[:cut]) is None
    assert end.feed(whole[cut:] + rest) == len(whole) - cut


def test_incomplete_object_has_no_end() -> None:
    end = ObjectEnd()
    assert [end.feed(part) for part in (b"", b" ", b"{", b'"a', b"\\", b'"}', b'": 1')] == [None] * 7
    assert end.feed(b"}") == 1
